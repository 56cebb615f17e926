//! The Core ML backend: a legal graph as an `.mlpackage` that holds an ML Program, and such a package read back.
//!
//! A package is a folder: `Manifest.json`, the model (a protobuf message: its description and a program in MIL, Apple's
//! model language) and the weight file (MILBlob storage). The writer states both by documented numbers in `schema.rs`
//! and `blob.rs`; the reader shares no code with it, so that a package read back proves that it says what was meant.

mod blob;
mod check;
mod emit;
mod encode;
mod legal;
mod names;
mod package;
mod program;
mod read;
mod schema;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use snapc_backend::limits::Use;
use snapc_backend::{Backend, Device, Native, Part, Written};
use snapc_ir::ops::Op;
use snapc_ir::{Builder, Error, Graph, Node, Replayed, Result, TensorType, ValueId};
use snapc_weights::Store;

/// The oldest system that a package runs on: it fixes the specification version and the set of ops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MinOs {
    /// iOS 16 and macOS 13: specification 7, opset CoreML6.
    Ios16,
    /// iOS 17 and macOS 14: specification 8, opset CoreML7.
    #[default]
    Ios17,
    /// iOS 18 and macOS 15: specification 9, opset CoreML8.
    Ios18,
}

impl MinOs {
    /// All of them, oldest first.
    pub const ALL: [MinOs; 3] = [MinOs::Ios16, MinOs::Ios17, MinOs::Ios18];

    /// The name that [`FromStr`] takes, `iOS17`.
    pub fn name(self) -> &'static str {
        match self {
            MinOs::Ios16 => "iOS16",
            MinOs::Ios17 => "iOS17",
            MinOs::Ios18 => "iOS18",
        }
    }

    fn specification(self) -> i32 {
        match self {
            MinOs::Ios16 => 7,
            MinOs::Ios17 => 8,
            MinOs::Ios18 => 9,
        }
    }

    fn opset(self) -> &'static str {
        match self {
            MinOs::Ios16 => "CoreML6",
            MinOs::Ios17 => "CoreML7",
            MinOs::Ios18 => "CoreML8",
        }
    }
}

impl fmt::Display for MinOs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MinOs {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        MinOs::ALL.into_iter().find(|min_os| min_os.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let names = MinOs::ALL.map(MinOs::name).join(", ");
            format!("`{text}` is no system that Core ML packages can be written for; they are {names}")
        })
    }
}

/// Writes and reads Core ML packages.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreMl {
    /// The oldest system that a package is to run on.
    pub min_os: MinOs,
}

impl Backend for CoreMl {
    fn name(&self) -> &'static str {
        "coreml"
    }

    fn default_device(&self) -> Device {
        Device::Npu
    }

    fn native(&self, op: &Op, operands: &[&TensorType]) -> Native {
        legal::native(op, operands)
    }

    fn rule(&self, builder: &mut Builder, node: &Replayed) -> Result<Option<Vec<ValueId>>> {
        legal::rule(builder, node)
    }

    fn left_out(&self, graph: &Graph, node: &Node) -> Vec<&'static str> {
        legal::left_out(graph, node)
    }

    fn check(&self, graph: &Graph, device: Device) -> Vec<Error> {
        check::check(graph, self.min_os, device)
    }

    fn uses(&self, graph: &Graph, device: Device) -> Vec<Use> {
        check::measure(graph, self.min_os, device)
    }

    /// `text_encoder` becomes `TextEncoder.mlpackage`.
    fn artifact(&self, part: &str) -> String {
        let words = part.split('_').map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map(|first| first.to_ascii_uppercase())
                .into_iter()
                .chain(letters)
                .collect::<String>()
        });
        format!("{}.mlpackage", words.collect::<String>())
    }

    fn write(&self, part: Part, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Vec<Written>> {
        Ok(vec![package::write(part, self.min_os, path, progress)?])
    }

    fn read(&self, path: &Path) -> Result<(Graph, Store)> {
        read::read(path)
    }
}
