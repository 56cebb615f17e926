//! Writes a part as TFLite (LiteRT): one file, builtin operators alone, one signature with the graph's names. Or several parts or
//! sizes as signatures of one file ([`ModelFile`]), a subgraph each, which share weights.
//!
//! The file is a flatbuffer with the graph and small constants, and behind it all other weights, which buffers name by offset and
//! size. So nothing but disk limits their size. A tensor that an operator makes is named `SCOPE/OP`, `SCOPE` being the node's path
//! in the checkpoint; the names of inputs and outputs are those of the signature.

mod blocks;
mod emit;
mod encode;
mod file;
mod legal;
mod maps;
mod pack;
mod products;
mod read;
mod rules;
mod schema;

use std::path::Path;

use snapc_backend::limits::Use;
use snapc_backend::{Backend, Device, Native, Part, Written};
use snapc_ir::ops::Op;
use snapc_ir::{Builder, Error, Graph, Node, Replayed, Result, TensorType, ValueId};
use snapc_weights::Store;

pub use crate::file::{ModelFile, Signature};
pub use crate::legal::check_file;
pub use crate::read::{ReadSignature, read_signature, read_signatures};
pub use crate::schema::SIGNATURE as ONLY_SIGNATURE;

/// The writer of `.tflite` files.
#[derive(Clone, Copy, Debug, Default)]
pub struct TfLite;

impl Backend for TfLite {
    fn name(&self) -> &'static str {
        "tflite"
    }

    fn default_device(&self) -> Device {
        Device::Cpu
    }

    fn native(&self, op: &Op, operands: &[&TensorType]) -> Native {
        legal::native(op, operands)
    }

    fn rule(&self, builder: &mut Builder, node: &Replayed) -> Result<Option<Vec<ValueId>>> {
        rules::rule(builder, node)
    }

    fn left_out(&self, _graph: &Graph, node: &Node) -> Vec<&'static str> {
        legal::left_out(&node.op)
    }

    fn check(&self, graph: &Graph, _device: Device) -> Vec<Error> {
        legal::check(graph)
    }

    fn uses(&self, graph: &Graph, _device: Device) -> Vec<Use> {
        legal::measure(graph)
    }

    fn artifact(&self, part: &str) -> String {
        format!("{part}.tflite")
    }

    fn write(&self, part: Part, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Vec<Written>> {
        let Part { graph, store, limits, facts } = part;
        let signatures = vec![Signature { key: schema::SIGNATURE.to_string(), graph, store }];
        Ok(vec![ModelFile::new(signatures, facts)?.write(path, limits, progress)?])
    }

    fn read(&self, path: &Path) -> Result<(Graph, Store)> {
        read::read_only(path)
    }
}
