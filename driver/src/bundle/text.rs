//! Sources from templates: holes like `__NAME__`, and literals of Swift and Kotlin.

use snapc_ir::{Error, Result};

/// A template with its holes filled.
///
/// # Errors
/// A bug: a hole that the template has not, or one that is left.
pub fn fill(template: &str, holes: &[(&str, String)]) -> Result<String> {
    let mut text = template.to_string();
    for (hole, value) in holes {
        let name = format!("__{hole}__");
        if !template.contains(&name) {
            return Err(Error::bug(format!("a template has no {name}")));
        }
        text = text.replace(&name, value);
    }
    match text.split("__").skip(1).step_by(2).find(|word| is_hole(word)) {
        Some(left) => Err(Error::bug(format!("nothing fills __{left}__"))),
        None => Ok(text),
    }
}

fn is_hole(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// A language of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Swift.
    Swift,
    /// Kotlin.
    Kotlin,
}

impl Language {
    /// A string.
    pub fn text(self, text: &str) -> String {
        let escaped = text.chars().map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            // A template of Kotlin's.
            '$' if self == Language::Kotlin => "\\$".to_string(),
            ' '..='~' => c.to_string(),
            _ if self == Language::Swift => format!("\\u{{{:x}}}", u32::from(c)),
            _ => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
        });
        format!("\"{}\"", escaped.collect::<String>())
    }

    /// A list.
    pub fn list(self, items: impl IntoIterator<Item = String>) -> String {
        let items = items.into_iter().collect::<Vec<_>>().join(", ");
        match self {
            Language::Swift => format!("[{items}]"),
            Language::Kotlin => format!("listOf({items})"),
        }
    }

    /// An argument with its label.
    pub fn argument(self, label: &str, value: &str) -> String {
        match self {
            Language::Swift => format!("{label}: {value}"),
            Language::Kotlin => format!("{label} = {value}"),
        }
    }
}
