//! Writes a part as ONNX: opset 21, IR version 10, ops of the standard domain alone, which ONNX Runtime takes from 1.20 on.
//!
//! A part is a folder: `model.onnx` holds the graph and small constants, `model.onnx_data` beside it all other weights
//! (`docs/ExternalData.md` of onnx/onnx). A node is named `SCOPE/OP`, `SCOPE` being its path in the checkpoint.

mod contract;
mod emit;
mod encode;
mod layout;
mod legal;
mod read;
mod schema;

use std::fs::File;
use std::io::Write;
use std::path::Path;

use snapc_backend::limits::Use;
use snapc_backend::{Backend, Device, Native, Part, Written};
use snapc_ir::ops::Op;
use snapc_ir::{Builder, Error, Graph, Node, Replayed, Result, TensorType, ValueId};
use snapc_weights::Store;

use crate::layout::Placement;

pub use crate::contract::Layout;

/// The version of the standard ops that every file names.
const OPSET: i64 = 21;
/// The version of the file format that goes with that opset.
const IR_VERSION: i64 = 10;
/// The file of the graph.
const MODEL_FILE: &str = "model.onnx";
/// The file of the weights, named as other exporters name it.
const DATA_FILE: &str = "model.onnx_data";
/// The fact of a model file that says whose names its ports have, where not ours.
const LAYOUT_FACT: &str = "snapc.layout";

/// The writer of ONNX folders.
#[derive(Clone, Copy, Debug, Default)]
pub struct Onnx {
    /// Whose names the ports have. A reader sees it in the file.
    pub layout: Layout,
}

impl Backend for Onnx {
    fn name(&self) -> &'static str {
        "onnx"
    }

    fn default_device(&self) -> Device {
        Device::Cpu
    }

    fn native(&self, op: &Op, operands: &[&TensorType]) -> Native {
        legal::native(op, operands)
    }

    fn rule(&self, builder: &mut Builder, node: &Replayed) -> Result<Option<Vec<ValueId>>> {
        legal::rule(builder, node)
    }

    fn left_out(&self, _graph: &Graph, node: &Node) -> Vec<&'static str> {
        match node.op {
            Op::Embedding(_) => vec!["ONNX Runtime's CoreML provider has no Gather: the CPU runs it there"],
            _ => Vec::new(),
        }
    }

    fn check(&self, graph: &Graph, _device: Device) -> Vec<Error> {
        legal::check(graph, self.layout)
    }

    fn uses(&self, graph: &Graph, _device: Device) -> Vec<Use> {
        legal::measure(graph)
    }

    fn artifact(&self, part: &str) -> String {
        part.to_string()
    }

    fn write(&self, part: Part, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Vec<Written>> {
        let placement = Placement::new(&part.graph);
        let model = emit::model(&part, &placement, self.layout)?;
        let length = model.iter().map(Vec::len).sum::<usize>() as u64;
        if let Some(error) = legal::too_long(&part.graph, length) {
            return Err(error);
        }
        std::fs::create_dir(path).map_err(|error| Error::io("create", path, &error))?;
        let file = path.join(MODEL_FILE);
        let written = File::create(&file)
            .and_then(|mut to| model.into_iter().try_for_each(|piece| to.write_all(&piece)));
        written.map_err(|error| Error::io("write", &file, &error))?;
        progress(layout::inline_bytes(&part.graph));
        if placement.bytes() == 0 {
            return Ok(Vec::new());
        }
        let Part { graph, store, limits, .. } = part;
        let weights = graph.into_weights();
        Ok(vec![placement.write(&weights, store, limits, &path.join(DATA_FILE), progress)?])
    }

    fn read(&self, path: &Path) -> Result<(Graph, Store)> {
        read::read(path)
    }
}
