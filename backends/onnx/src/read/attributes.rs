//! The attributes of a node, each of the type that the operator's specification gives it.

use snapc_ir::{Error, Result};

use crate::schema::{AttributeProto, NodeProto, attribute_type};

/// A node's attributes, of which each must be asked for.
pub struct Attributes<'a> {
    node: &'a NodeProto,
    asked: Vec<&'static str>,
}

impl<'a> Attributes<'a> {
    /// The attributes of a node, none twice.
    ///
    /// # Errors
    /// If one is there twice.
    pub fn of(node: &'a NodeProto) -> Result<Self> {
        for (number, attribute) in node.attribute.iter().enumerate() {
            if node.attribute[..number].iter().any(|other| other.name == attribute.name) {
                return Err(Error::input(format!("the attribute {} is there twice", attribute.name)));
            }
        }
        Ok(Attributes { node, asked: Vec::new() })
    }

    fn find(&mut self, name: &'static str, kind: i32) -> Result<Option<&'a AttributeProto>> {
        self.asked.push(name);
        let Some(found) = self.node.attribute.iter().find(|attribute| attribute.name == name) else {
            return Ok(None);
        };
        // Only the field of its kind may be set.
        let set = [
            (attribute_type::FLOAT, found.f.is_some()),
            (attribute_type::INT, found.i.is_some()),
            (attribute_type::STRING, found.s.is_some()),
            (attribute_type::INTS, !found.ints.is_empty()),
        ];
        if found.kind != kind || set.iter().any(|&(of, set)| set && of != kind) {
            return Err(Error::input(format!("the attribute {name} is of another type")));
        }
        Ok(Some(found))
    }

    /// An integer; `default` where it is not given.
    pub fn int(&mut self, name: &'static str, default: i64) -> Result<i64> {
        Ok(self.find(name, attribute_type::INT)?.map_or(default, |found| found.i.unwrap_or_default()))
    }

    /// An integer that must be given.
    pub fn required_int(&mut self, name: &'static str) -> Result<i64> {
        let found = self.find(name, attribute_type::INT)?.ok_or_else(|| missing(name))?;
        Ok(found.i.unwrap_or_default())
    }

    /// A number; `default` where it is not given.
    pub fn float(&mut self, name: &'static str, default: f32) -> Result<f32> {
        Ok(self.find(name, attribute_type::FLOAT)?.map_or(default, |found| found.f.unwrap_or_default()))
    }

    /// A list of integers; `None` where it is not given.
    pub fn ints(&mut self, name: &'static str) -> Result<Option<&'a [i64]>> {
        Ok(self.find(name, attribute_type::INTS)?.map(|found| found.ints.as_slice()))
    }

    /// A word; `default` where it is not given.
    pub fn word(&mut self, name: &'static str, default: &'a str) -> Result<&'a str> {
        let Some(found) = self.find(name, attribute_type::STRING)? else { return Ok(default) };
        std::str::from_utf8(found.s.as_deref().unwrap_or_default())
            .map_err(|_| Error::input(format!("the attribute {name} is no text")))
    }

    /// An integer that must have one value: the default, or another.
    pub fn expect_int(&mut self, name: &'static str, default: i64, expected: i64) -> Result<()> {
        let found = self.int(name, default)?;
        if found == expected { Ok(()) } else { Err(other(name, &found, &expected)) }
    }

    /// A word that must have one value.
    pub fn expect_word(&mut self, name: &'static str, default: &'a str, expected: &str) -> Result<()> {
        let found = self.word(name, default)?;
        if found == expected { Ok(()) } else { Err(other(name, &found, &expected)) }
    }

    /// Refuses attributes that were not asked for.
    ///
    /// # Errors
    /// If there is one.
    pub fn end(self) -> Result<()> {
        match self.node.attribute.iter().find(|attribute| !self.asked.contains(&attribute.name.as_str())) {
            None => Ok(()),
            Some(left) => Err(Error::input(format!("snapc writes no attribute {}", left.name))),
        }
    }
}

fn missing(name: &str) -> Error {
    Error::input(format!("the attribute {name} is missing"))
}

fn other(name: &str, found: &dyn std::fmt::Display, expected: &dyn std::fmt::Display) -> Error {
    Error::input(format!("the attribute {name} is {found}, snapc writes {expected}"))
}
