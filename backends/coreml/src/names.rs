//! Identifiers of a MIL program: `[A-Za-z_][A-Za-z0-9_]*`, unique in a function, none of MIL's own words.

use std::collections::BTreeMap;

/// Words that MIL's text form uses (coremltools, `passes/defs/preprocess.py`).
const RESERVED: &[&str] = &[
    "any", "bf16", "bool", "dict", "false", "fp16", "fp32", "fp64", "func", "int16", "int32", "int64",
    "int8", "list", "program", "state", "string", "tensor", "true", "tuple", "uint16", "uint32", "uint64",
    "uint8",
];

/// Whether a name can stand in a program as it is.
pub fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !RESERVED.contains(&name)
}

/// The nearest identifier: other characters become `_`.
fn identifier(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if is_identifier(&plain) { plain } else { format!("v_{plain}") }
}

/// The names that are taken in a function.
#[derive(Default)]
pub struct Names {
    /// For each name how often it was asked for.
    taken: BTreeMap<String, usize>,
}

impl Names {
    /// Takes a name that must not change.
    pub fn reserve(&mut self, name: &str) {
        self.taken.insert(name.to_string(), 1);
    }

    /// Takes an identifier near `text`: that itself, or with a number behind it.
    pub fn unique(&mut self, text: &str) -> String {
        let base = identifier(text);
        let mut name = base.clone();
        loop {
            if !self.taken.contains_key(&name) {
                self.taken.insert(name.clone(), 1);
                return name;
            }
            let count = self.taken.entry(base.clone()).or_default();
            *count += 1;
            name = format!("{base}_{count}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_characters_and_reserved_words_are_replaced() {
        let mut names = Names::default();
        assert_eq!(names.unique("down.0.self_attn/q"), "down_0_self_attn_q");
        assert_eq!(names.unique("0.weight"), "v_0_weight");
        assert_eq!(names.unique("_x"), "v__x");
        assert_eq!(names.unique("tensor"), "v_tensor");
        assert_eq!(names.unique(""), "v_");
        assert_eq!(names.unique("größe"), "gr__e");
    }

    #[test]
    fn a_name_is_given_once() {
        let mut names = Names::default();
        names.reserve("latent");
        assert_eq!(names.unique("latent"), "latent_2");
        assert_eq!(names.unique("latent_3"), "latent_3");
        assert_eq!(names.unique("latent"), "latent_4");
        assert_eq!(names.unique("a.b"), "a_b");
        assert_eq!(names.unique("a_b"), "a_b_2");
    }
}
