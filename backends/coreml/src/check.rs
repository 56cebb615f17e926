//! Core ML's limits, checked before a byte is written.

use std::collections::BTreeSet;

use snapc_ir::ops::Op;
use snapc_ir::{Context, DType, Def, Error, Graph, Place, Result, TensorType, Value, shape_text};

use crate::MinOs;
use crate::blob::Layout;
use crate::encode;
use crate::legal::MOST_AXES;
use crate::names::is_identifier;

/// The longest weight file that the Neural Engine takes (apple/coremltools issue 2593).
const MOST_WEIGHT_BYTES: u64 = 1 << 31;

/// Checks names, axes and the size of the weight file.
///
/// # Errors
/// The first limit that is passed, with what it is about.
pub fn check(graph: &Graph, min_os: MinOs) -> Result<()> {
    check_ports(graph)?;
    for weight in graph.weights() {
        if let Some(coded) = weight.coded() {
            encode::form(&coded, min_os).at(|| Place::Tensor(weight.name.clone()))?;
        }
    }
    for value in graph.values() {
        check_value(graph, value)?;
    }
    let rounds = graph.nodes().iter().find(|node| matches!(node.op, Op::FakeQuantize(_)));
    if let Some(node) = rounds.filter(|_| min_os < MinOs::Ios17) {
        return Err(Error::limit("its activations are rounded to 8 bits; Core ML has that from iOS 17 on")
            .at(Place::Node(node.scope.clone()))
            .help("write it with --min-os iOS17, or --quantize int8 to round the weights alone"));
    }
    let bytes = Layout::new(graph, min_os)?.bytes();
    if bytes > MOST_WEIGHT_BYTES {
        return Err(Error::limit(format!(
            "the weights of {} take {bytes} bytes, a Core ML weight file at most {MOST_WEIGHT_BYTES}",
            graph.name()
        ))
        .help("write it in f16, quantize it, or take a smaller subnet"));
    }
    Ok(())
}

/// Inputs and outputs keep their names, and a program has one name for one thing.
fn check_ports(graph: &Graph) -> Result<()> {
    let mut seen = BTreeSet::new();
    for port in graph.inputs().iter().chain(graph.outputs()) {
        if !is_identifier(&port.name) {
            return Err(Error::limit(format!("`{}` cannot be the name of an input or output in Core ML", port.name))
                .help("rename it: a letter, then letters, digits and _; and no word of MIL such as `state` or `bool`"));
        }
        if !seen.insert(port.name.as_str()) {
            return Err(Error::limit(format!("an input and an output are both named {}", port.name))
                .help("rename one of them: Core ML has one name for one thing"));
        }
    }
    Ok(())
}

fn check_value(graph: &Graph, value: &Value) -> Result<()> {
    let place = |error: Error| match value.def {
        Def::Input(number) => error.at(Place::Tensor(graph.inputs()[number].name.clone())),
        Def::Weight(id) => error.at(Place::Tensor(graph.weight(id).name.clone())),
        Def::Result(id, _) => error.at(Place::Node(graph.node(id).scope.clone())),
    };
    let is_weight = matches!(value.def, Def::Weight(_));
    check_type(&value.ty, is_weight).map_err(place)
}

fn check_type(ty: &TensorType, is_weight: bool) -> Result<()> {
    let refuse = |what: String, help: &str| Err(Error::limit(what).help(help));
    let shape = shape_text(&ty.shape);
    if ty.rank() > MOST_AXES {
        return refuse(
            format!("{shape} has {} axes, Core ML takes at most {MOST_AXES}", ty.rank()),
            "another target may take it: see the table of targets in the README",
        );
    }
    if ty.rank() == 0 && !is_weight {
        return refuse("Core ML has no inputs and results without axes".to_string(), "give it the shape [1]");
    }
    if ty.shape.iter().any(|&size| size == 0 || i32::try_from(size).is_err()) {
        return refuse(
            format!("{shape} has an axis that is empty or past 2147483647"),
            "compile for another image size",
        );
    }
    if ty.dtype == DType::BF16 || (ty.dtype == DType::I32 && is_weight) {
        return refuse(
            format!("a weight of type {} cannot be written", ty.dtype),
            "weights are f32 or f16: see the table of targets in the README",
        );
    }
    Ok(())
}
