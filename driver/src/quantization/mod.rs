//! What is quantized and how, and what was measured for it.

pub mod accuracy;
pub mod budget;
pub mod calibrate;
mod file;
mod pictures;
mod recipe;
mod report;
mod state;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use snapc_backend::Explanation;
use snapc_frontends::Part;
use snapc_ir::{Error, Graph, Result};
use snapc_passes::Quantize;
use snapc_passes::quantize::{Choice, Instead};
use snapc_weights::Store;

use crate::targets::Target;

pub use accuracy::{Accuracy, MaxLoss};
pub use budget::Budget;
pub use file::CalibrationFile;
pub use pictures::{Strip, encode, png};
pub use recipe::Recipe;
pub use report::html;

/// When something is done that takes a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// Where it takes some minutes at most.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl When {
    /// The word of the option.
    pub fn name(self) -> &'static str {
        match self {
            When::Auto => "auto",
            When::On => "on",
            When::Off => "off",
        }
    }
}

impl std::str::FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(When::Auto),
            "on" => Ok(When::On),
            "off" => Ok(When::Off),
            _ => Err(format!("`{text}` is none of auto, on, off")),
        }
    }
}

/// What `compile` is asked for of quantization.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantizeOptions {
    /// What each part's layers get; parts that are not named stay as they are.
    pub parts: BTreeMap<Part, Choice>,
    /// A recipe: what single tensors get.
    pub recipe: Option<PathBuf>,
    /// What `calibrate` measured, a file for each width.
    pub calibration: Vec<PathBuf>,
    /// Bits are given out under this budget, for the transformer.
    pub budget: Option<Budget>,
    /// Palettes are stored decoded where a target has none.
    pub allow_decode: bool,
    /// Whether the loss is measured.
    pub accuracy: When,
    /// Losses that fail the compile.
    pub max_loss: Vec<MaxLoss>,
}

impl QuantizeOptions {
    /// Whether anything is quantized.
    pub fn any(&self) -> bool {
        !self.parts.is_empty() || self.recipe.is_some() || self.budget.is_some()
    }

    /// Every choice that a part has.
    fn choices(quantize: &Quantize) -> impl Iterator<Item = &Choice> {
        quantize.default.iter().chain(quantize.tensors.values().flatten())
    }
}

/// What a job quantizes, each part its own, and the measurements that belong to its width.
#[derive(Clone, Debug, Default)]
pub struct Quantization {
    /// What is asked for, by part.
    pub parts: BTreeMap<Part, Quantize>,
    calibration: Option<Arc<CalibrationFile>>,
}

impl Quantization {
    /// What the options ask for, for one target and width.
    ///
    /// # Errors
    /// If a recipe or a calibration cannot be read, is of another checkpoint, or options contradict each other.
    pub fn new(options: &QuantizeOptions, target: Target, width: usize) -> Result<Self> {
        let recipe = options.recipe.as_deref().map(Recipe::read).transpose()?.unwrap_or_default();
        let mut parts: BTreeMap<Part, Quantize> = BTreeMap::new();
        for part in Part::ALL {
            let mut quantize = recipe.part(part).cloned().unwrap_or_default();
            quantize.default = options.parts.get(&part).copied().or(quantize.default);
            quantize.decode_palettes = options.allow_decode && !target.has_palettes();
            quantize.round_results = target.rounds_results();
            if quantize.default.is_some() || !quantize.tensors.is_empty() {
                parts.insert(part, quantize);
            }
        }
        let files: Vec<CalibrationFile> =
            options.calibration.iter().map(|path| CalibrationFile::open(path)).collect::<Result<_>>()?;
        let widths: Vec<String> = files.iter().map(|file| file.facts.width.to_string()).collect();
        let calibration = files.into_iter().find(|file| file.facts.width == width).map(Arc::new);
        let mut choices = parts.values().flat_map(QuantizeOptions::choices);
        let needs = choices
            .find(|choice| choice.activations || choice.encoding.method != Default::default())
            .copied();
        drop(choices);
        if calibration.is_none() && (needs.is_some() || !widths.is_empty()) {
            let error = match widths.is_empty() {
                true => {
                    let what = needs.map_or(String::new(), |choice| choice.to_string());
                    Error::usage(format!(
                        "{what} asks for what `snapc calibrate` measures, and no --calibration is named"
                    ))
                }
                false => {
                    Error::usage(format!("the calibration is of width {}, not {width}", widths.join(", ")))
                }
            };
            return Err(error.help(
                "run `snapc calibrate` with this pipeline and subnet, and name its file with --calibration",
            ));
        }
        for (part, quantize) in &mut parts {
            let rounds = QuantizeOptions::choices(quantize).any(|choice| choice.activations);
            if let Some(file) = calibration.as_ref().filter(|_| rounds) {
                quantize.largest = file.largest(part.name())?;
            }
        }
        Ok(Quantization { parts, calibration })
    }

    /// What a part quantizes.
    pub fn of(&self, part: &str) -> Option<&Quantize> {
        self.parts.iter().find(|(of, _)| of.name() == part).map(|(_, quantize)| quantize)
    }

    /// The store of a part with what was measured of it.
    ///
    /// # Errors
    /// If that was measured of another checkpoint.
    pub fn store_of(&self, part: &str, store: &Store) -> Result<Store> {
        let store = store.clone();
        let Some(file) = self.calibration.as_ref().filter(|file| file.facts.has(part)) else {
            return Ok(store);
        };
        file.check(part, &store)?;
        Ok(store.with_statistics(Arc::new(file.statistics(part))))
    }

    /// What a part's layers get otherwise than asked for, as `--explain` tells it.
    ///
    /// # Errors
    /// As [`Quantize::plan`].
    pub fn notes(&self, graph: &Graph) -> Result<Vec<Explanation>> {
        let Some(quantize) = self.of(graph.name()) else { return Ok(Vec::new()) };
        let mut notes: Vec<Explanation> = Vec::new();
        for Instead { tensor, reason } in quantize.plan(graph)?.1 {
            match notes.iter_mut().find(|note| note.reason == reason) {
                Some(note) => note.count += 1,
                None => notes.push(Explanation { op: "weight", reason, count: 1, first: tensor }),
            }
        }
        Ok(notes)
    }
}
