//! Swift and Kotlin as their tree-sitter grammars see them: faults, and the constants of a source as JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tree_sitter::{Language, Node, Parser, Tree};

/// A source and its tree.
pub struct Source {
    text: String,
    tree: Tree,
}

impl Source {
    /// Parses a text by the ending of its name.
    pub fn parse(name: &str, text: &str) -> Source {
        let language: Language = match name.rsplit_once('.').unwrap().1 {
            "swift" => tree_sitter_swift::LANGUAGE.into(),
            "kt" | "kts" => tree_sitter_kotlin_ng::LANGUAGE.into(),
            other => panic!("no grammar for .{other}"),
        };
        let mut parser = Parser::new();
        parser.set_language(&language).unwrap();
        Source { text: text.to_string(), tree: parser.parse(text, None).unwrap() }
    }

    /// What is no sentence of the language: line, column and what stands there.
    pub fn faults(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.each(self.tree.root_node(), &mut |node| {
            if node.is_error() || node.is_missing() {
                let place = node.start_position();
                found.push(format!("{}:{} {}", place.row + 1, place.column + 1, self.of(node)));
            }
        });
        found
    }

    /// The texts of all string literals.
    pub fn strings(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.each(self.tree.root_node(), &mut |node| {
            if STRINGS.contains(&node.kind()) {
                found.push(self.string(node));
            }
        });
        found
    }

    /// Every constant with a value that is written out, by name.
    pub fn constants(&self) -> BTreeMap<String, Value> {
        let mut found = BTreeMap::new();
        self.each(self.tree.root_node(), &mut |node| {
            let kind = node.kind();
            let named = children(node)
                .into_iter()
                .find(|child| ["pattern", "variable_declaration"].contains(&child.kind()));
            if let Some(named) = named.filter(|_| kind == "property_declaration") {
                let name = self.of(children(named)[0]).to_string();
                let value = children(node).pop().unwrap();
                found.insert(name, self.value(value));
            }
        });
        found
    }

    /// The cases of enumerations: name and raw value.
    pub fn cases(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        self.each(self.tree.root_node(), &mut |node| {
            if node.kind() == "enum_entry" {
                let mut strings = Vec::new();
                self.each(node, &mut |inner| {
                    if STRINGS.contains(&inner.kind()) {
                        strings.push(self.string(inner));
                    }
                });
                if let Some(raw) = strings.pop() {
                    let name = children(node).into_iter().find(|child| child.kind().ends_with("identifier"));
                    found.push((self.of(name.unwrap()).to_lowercase(), raw));
                }
            }
        });
        found
    }

    fn each<'a>(&'a self, node: Node<'a>, then: &mut dyn FnMut(Node<'a>)) {
        then(node);
        (0..node.child_count()).for_each(|place| self.each(node.child(place).unwrap(), then));
    }

    fn of(&self, node: Node) -> &str {
        node.utf8_text(self.text.as_bytes()).unwrap()
    }

    fn string(&self, node: Node) -> String {
        let text = self.of(node);
        text[1..text.len() - 1].replace("\\$", "$").replace("\\\"", "\"")
    }

    /// An expression: calls are objects by label, names their last word in lower case.
    fn value(&self, node: Node) -> Value {
        let inner = children(node);
        let values = || inner.iter().map(|child| self.value(*child)).collect::<Vec<_>>();
        match node.kind() {
            "integer_literal" | "number_literal" => {
                json!(self.of(node).trim_end_matches('L').replace('_', "").parse::<u64>().unwrap())
            }
            kind if STRINGS.contains(&kind) => json!(self.string(node)),
            "nil_literal" => Value::Null,
            "boolean_literal" => json!(self.of(node) == "true"),
            "array_literal" | "tuple_expression" => Value::Array(values()),
            "dictionary_literal" => values().chunks(2).map(|pair| json!(pair)).collect(),
            "infix_expression" => json!([self.value(inner[0]), self.value(inner[2])]),
            "value_argument" => self.value(*inner.last().unwrap()),
            "call_expression" => self.call(self.of(inner[0]), inner[1]),
            _ => match self.of(node).rsplit('.').next().unwrap() {
                "null" => Value::Null,
                word @ ("true" | "false") => json!(word == "true"),
                word => json!(word.to_lowercase()),
            },
        }
    }

    fn call(&self, name: &str, arguments: Node) -> Value {
        let arguments = match arguments.kind() {
            "call_suffix" => children(arguments)[0],
            _ => arguments,
        };
        let arguments = children(arguments);
        let mut object = Map::new();
        let mut list = Vec::new();
        for argument in arguments {
            let inner = children(argument);
            match inner.len() {
                1 => list.push(self.value(inner[0])),
                _ => {
                    object.insert(self.of(inner[0]).to_string(), self.value(inner[1]));
                }
            }
        }
        match name {
            "listOf" | "mapOf" | "Pair" | "AssetPack" => Value::Array(list),
            _ => Value::Object(object),
        }
    }
}

const STRINGS: [&str; 2] = ["line_string_literal", "string_literal"];

/// Children that are no punctuation and no comment.
fn children(node: Node) -> Vec<Node> {
    let all = (0..node.child_count()).map(|place| node.child(place).unwrap());
    all.filter(|child| child.is_named() && !child.kind().contains("comment")).collect()
}
