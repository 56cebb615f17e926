//! Core ML's limits, checked before a byte is written.

use std::collections::BTreeSet;

use snapc_backend::Device;
use snapc_backend::limits::{
    COREML_AXES, COREML_LENGTH, COREML_VALUE, COREML_WEIGHTS, Limit, Use, place, uses, values_past,
};
use snapc_ir::ops::Op;
use snapc_ir::{Context, DType, Def, Error, Graph, Place, TensorType, shape_text};

use crate::MinOs;
use crate::blob::Layout;
use crate::encode;
use crate::names::is_identifier;

/// The limits on values.
const ON_VALUES: [Limit; 3] = [COREML_AXES, COREML_LENGTH, COREML_VALUE];

/// What passes a limit of names, types, sizes or the weight file, with what it is about.
pub fn check(graph: &Graph, min_os: MinOs, device: Device) -> Vec<Error> {
    let mut passed = check_ports(graph);
    for weight in graph.weights() {
        if let Some(coded) = weight.coded() {
            passed.extend(encode::form(&coded, min_os).at(|| Place::Tensor(weight.name.clone())).err());
        }
    }
    passed.extend(values_past(graph, &ON_VALUES));
    for value in graph.values() {
        let is_weight = matches!(value.def, Def::Weight(_));
        passed.extend(check_type(&value.ty, is_weight).map(|error| error.at(place(graph, value.def))));
    }
    let rounds = graph.nodes().iter().find(|node| matches!(node.op, Op::FakeQuantize(_)));
    if let Some(node) = rounds.filter(|_| min_os < MinOs::Ios17) {
        passed.push(
            Error::limit("its activations are rounded to 8 bits; Core ML has that from iOS 17 on")
                .at(Place::Node(node.scope.to_string()))
                .help("write it with --min-os iOS17, or --quantize int8 to round the weights alone"),
        );
    }
    match weight_file(graph, min_os) {
        Ok(_) if device != Device::Npu => {}
        Ok(bytes) => {
            passed.extend(COREML_WEIGHTS.passed(|| format!("the weight file of {}", graph.name()), bytes))
        }
        // A weight without a form is in the list.
        Err(error) => passed.extend(passed.is_empty().then_some(error)),
    }
    passed
}

/// How much of the limits a graph has.
pub fn measure(graph: &Graph, min_os: MinOs, device: Device) -> Vec<Use> {
    let mut all = uses(graph, &ON_VALUES);
    let file = weight_file(graph, min_os).ok().filter(|_| device == Device::Npu);
    all.extend(file.map(|found| Use { limit: COREML_WEIGHTS, found }));
    all
}

fn weight_file(graph: &Graph, min_os: MinOs) -> snapc_ir::Result<u64> {
    Layout::new(graph, min_os).map(|layout| layout.bytes())
}

/// Inputs and outputs keep their names, and a program has one name for one thing.
fn check_ports(graph: &Graph) -> Vec<Error> {
    let mut passed = Vec::new();
    let mut seen = BTreeSet::new();
    for port in graph.inputs().iter().chain(graph.outputs()) {
        if !is_identifier(&port.name) {
            passed.push(Error::limit(format!("`{}` cannot be the name of an input or output in Core ML", port.name))
                .help("rename it: a letter, then letters, digits and _; and no word of MIL such as `state` or `bool`"));
        }
        if !seen.insert(port.name.as_str()) {
            passed.push(
                Error::limit(format!("an input and an output are both named {}", port.name))
                    .help("rename one of them: Core ML has one name for one thing"),
            );
        }
    }
    passed
}

fn check_type(ty: &TensorType, is_weight: bool) -> Option<Error> {
    let refuse = |what: String, help: &str| Some(Error::limit(what).help(help));
    if ty.rank() == 0 && !is_weight {
        return refuse("Core ML has no inputs and results without axes".to_string(), "give it the shape [1]");
    }
    if ty.shape.contains(&0) {
        let shape = shape_text(&ty.shape);
        return refuse(format!("{shape} has an axis that is empty"), "compile for another image size");
    }
    if ty.dtype == DType::BF16 || (ty.dtype == DType::I32 && is_weight) {
        return refuse(
            format!("a weight of type {} cannot be written", ty.dtype),
            "weights are f32 or f16: see the table of targets in the README",
        );
    }
    None
}
