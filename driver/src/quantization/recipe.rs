use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;
use snapc_frontends::Part;
use snapc_ir::{Error, Place, Result};
use snapc_passes::Quantize;
use snapc_passes::quantize::Choice;

use crate::options::parse_part;

/// What tensors get, by part and by name: a TOML file that `compile` writes, that can be edited and given back.
///
/// ```toml
/// [transformer]
/// default = "int4 group 32"
///
/// [transformer.tensors]
/// "down.0.self_attn.q.weight" = "int8"
/// "mid.0.ffn.down.weight" = "f16"
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recipe(pub BTreeMap<Part, Quantize>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartText {
    default: Option<String>,
    #[serde(default)]
    tensors: BTreeMap<String, String>,
}

/// The word of a tensor that stays as it is.
const KEPT: &str = "f16";

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// If it is no recipe. Names of tensors are checked where the graph is known.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?;
        Recipe::parse(&text).map_err(|message| {
            Error::input(format!("this is no recipe: {message}")).at(Place::File(path.to_path_buf())).help(
                "a recipe has a table a part, with `default` and `tensors`; `compile --budget` writes one",
            )
        })
    }

    /// Reads a recipe's text.
    ///
    /// # Errors
    /// What breaks its form.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let parts: BTreeMap<String, PartText> =
            toml::from_str(text).map_err(|error| error.message().to_string())?;
        let choice = |text: &str| -> std::result::Result<Option<Choice>, String> {
            if text == KEPT { Ok(None) } else { text.parse().map(Some) }
        };
        let mut recipe = Recipe::default();
        for (name, PartText { default, tensors }) in parts {
            let default = default.as_deref().map(choice).transpose()?.flatten();
            let tensors = tensors.iter().map(|(name, text)| {
                choice(text).map(|choice| (name.clone(), choice)).map_err(|error| format!("{name}: {error}"))
            });
            let tensors = tensors.collect::<std::result::Result<_, _>>()?;
            recipe.0.insert(parse_part(&name)?, Quantize { default, tensors, ..Quantize::default() });
        }
        Ok(recipe)
    }

    /// What a part gets.
    pub fn part(&self, part: Part) -> Option<&Quantize> {
        self.0.get(&part)
    }

    /// Its text.
    pub fn text(&self) -> String {
        let word = |choice: &Option<Choice>| choice.map_or(KEPT.to_string(), |choice| choice.to_string());
        let mut text = String::new();
        for (part, Quantize { default, tensors, .. }) in &self.0 {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "[{}]\ndefault = \"{}\"\n", part.name(), word(default));
            if !tensors.is_empty() {
                let _ = writeln!(text, "[{}.tensors]", part.name());
            }
            for (name, choice) in tensors {
                let _ = writeln!(text, "\"{name}\" = \"{}\"", word(choice));
            }
        }
        text
    }
}
