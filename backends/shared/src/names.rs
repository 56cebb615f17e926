//! Names of values and nodes: each kind unique in its graph.

use std::collections::BTreeMap;

/// The names that are taken.
#[derive(Default)]
pub struct Names {
    /// For each name how often it was asked for.
    taken: BTreeMap<String, usize>,
}

impl Names {
    /// Takes `text` itself, or, where that is taken, `text` with a number behind it.
    pub fn unique(&mut self, text: &str) -> String {
        let mut name = text.to_string();
        while self.taken.contains_key(&name) {
            let count = self.taken.entry(text.to_string()).or_default();
            *count += 1;
            name = format!("{text}_{count}");
        }
        self.taken.insert(name.clone(), 0);
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_once() {
        let mut names = Names::default();
        let given = ["a", "a", "a_1", "a", "b", "a_1"].map(|name| names.unique(name));
        assert_eq!(given, ["a", "a_1", "a_1_1", "a_2", "b", "a_1_2"]);
    }
}
