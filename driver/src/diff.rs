//! What changed between two outputs, by their manifests.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use snapc_ir::{Error, Result};

use crate::manifest::Manifest;

/// What two compiled folders differ in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Differences {
    /// Each field that differs, in the manifest's order.
    pub changes: Vec<Change>,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The manifest's field that it is in: `options`, `parts`, `files`, ..
    pub section: String,
    /// Where in it: `transformer.ops_by_kind.matmul`.
    pub field: String,
    /// Its value in the first folder; none where it has none.
    pub a: Option<Value>,
    /// Its value in the second.
    pub b: Option<Value>,
}

/// The fields by which entries of a list are told apart, the first that an entry has.
const NAMES: [&[&str]; 5] =
    [&["signature"], &["path"], &["part", "tensor", "step", "run_by"], &["name"], &["prompt"]];

/// Compares the manifests of two compiled folders. Whether the files are what they say is for `verify`.
///
/// # Errors
/// If one of them is missing or no manifest.
pub fn diff(a: &Path, b: &Path) -> Result<Differences> {
    let read = |folder: &Path| -> Result<Value> {
        serde_json::to_value(Manifest::read(folder)?).map_err(Error::bug)
    };
    let (a, b) = (read(a)?, read(b)?);
    let mut changes = Vec::new();
    for section in keys(&a, &b) {
        let mut fields = Vec::new();
        let (old, new) = (a.get(&section), b.get(&section));
        compare("", old, new, &mut fields);
        changes.extend(fields.into_iter().map(|(field, a, b)| Change {
            section: section.clone(),
            field,
            a,
            b,
        }));
    }
    Ok(Differences { changes })
}

/// The keys of both, in the order of the first.
fn keys(a: &Value, b: &Value) -> Vec<String> {
    let of = |value: &Value| -> Vec<String> {
        value.as_object().into_iter().flat_map(|object| object.keys().cloned()).collect()
    };
    let mut all = of(a);
    all.extend(of(b).into_iter().filter(|key| a.get(key).is_none()));
    all
}

type Field = (String, Option<Value>, Option<Value>);

fn compare(field: &str, a: Option<&Value>, b: Option<&Value>, changes: &mut Vec<Field>) {
    if a == b {
        return;
    }
    let inner = |key: &str| if field.is_empty() { key.to_string() } else { format!("{field}.{key}") };
    match (a.and_then(named), b.and_then(named)) {
        (Some(old), Some(new)) => {
            let mut keys: Vec<&String> = old.iter().map(|(key, _)| key).collect();
            keys.extend(
                new.iter().map(|(key, _)| key).filter(|key| !old.iter().any(|(known, _)| known == *key)),
            );
            let of = |list: &[(String, Value)], key: &str| {
                list.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
            };
            for key in keys {
                compare(&inner(key), of(&old, key).as_ref(), of(&new, key).as_ref(), changes);
            }
        }
        _ => changes.push((field.to_string(), a.cloned(), b.cloned())),
    }
}

/// The entries of an object, or of a list whose entries have names, by name; none of what is compared whole.
fn named(value: &Value) -> Option<Vec<(String, Value)>> {
    match value {
        Value::Object(object) => {
            Some(object.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
        }
        Value::Array(list) => {
            let entries: Option<Vec<(String, Value)>> =
                list.iter().map(|entry| Some((name(entry)?, entry.clone()))).collect();
            // Of two entries with one name neither could be told from the other.
            let distinct = |entries: &Vec<(String, Value)>| {
                entries.iter().map(|(name, _)| name).collect::<std::collections::BTreeSet<_>>().len()
                    == entries.len()
            };
            entries.filter(distinct)
        }
        _ => None,
    }
}

fn name(entry: &Value) -> Option<String> {
    let object = entry.as_object()?;
    NAMES.iter().find_map(|fields| {
        let words: Vec<String> =
            fields.iter().filter_map(|field| object.get(*field).and_then(word)).collect();
        (object.contains_key(fields[0]) && !words.is_empty()).then(|| words.join(" "))
    })
}

fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

impl Differences {
    /// The changes by section, in the manifest's order.
    pub fn sections(&self) -> Vec<(&str, Vec<&Change>)> {
        let mut order: Vec<&str> = Vec::new();
        let mut all: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
        for change in &self.changes {
            let list = all.entry(&change.section).or_default();
            if list.is_empty() {
                order.push(&change.section);
            }
            list.push(change);
        }
        order.into_iter().map(|section| (section, all.remove(section).unwrap_or_default())).collect()
    }
}
