//! What TFLite has: builtin operators that its CPU delegate XNNPACK takes, so that a part is one piece to it.

use snapc_backend::Native;
use snapc_backend::limits::{
    Limit, TFLITE_AXES, TFLITE_MODEL, TFLITE_NUMBERS, TFLITE_WEIGHTS, Use, place, uses, values_past,
};
use snapc_ir::ops::{GeluForm, Layout, Op};
use snapc_ir::{DType, Error, Graph, TensorType, shape_text};

use crate::blocks::inline_bytes;
use crate::encode;

/// XNNPACK leaves out a concatenation of more.
pub const MOST_JOINED: usize = 5;

/// XNNPACK leaves out a split into more.
const MOST_PARTS: usize = 4;

/// The most numbers that a value may have.
pub const MOST_NUMBERS: usize = TFLITE_NUMBERS.most as usize;

/// Whether there is an operator for this op.
pub fn native(op: &Op, operands: &[&TensorType]) -> Native {
    if operands.iter().any(|ty| ty.dtype == DType::F16) && !matches!(op, Op::Cast(_)) {
        return no("values in f16 need a runtime of version 2.23");
    }
    match op {
        Op::Linear(_)
        | Op::Add(_)
        | Op::Sub(_)
        | Op::Mul(_)
        | Op::Matmul(_)
        | Op::Softmax(_)
        | Op::ReduceMean(_)
        | Op::Rsqrt(_)
        | Op::Tanh(_)
        | Op::Sigmoid(_)
        | Op::Relu(_)
        | Op::Sin(_)
        | Op::Cos(_)
        | Op::Transpose(_)
        | Op::Reshape(_)
        | Op::Slice(_)
        | Op::Cast(_)
        | Op::FakeQuantize(_) => Native::Yes,
        Op::Conv2d(conv) => {
            only(conv.layout == Layout::Nhwc && operands.len() == 3, "CONV_2D has channels last, and a bias")
        }
        Op::Embedding(_) => only(operands[0].rank() == 1, "EMBEDDING_LOOKUP takes ids on one axis"),
        Op::Concat(_) => only(operands.len() <= MOST_JOINED, "XNNPACK joins at most five"),
        Op::Split(split) => only((2..=MOST_PARTS).contains(&split.parts), "XNNPACK splits into 2 to 4"),
        Op::Gelu(gelu) => only(gelu.form != GeluForm::Quick, "GELU has only the forms with erf and tanh"),
        Op::RmsNorm(_) | Op::LayerNorm(_) | Op::GroupNorm(_) => no("there is no builtin norm"),
        Op::Attention(_) => no("there is no builtin attention"),
        Op::Rotary(_) | Op::TimestepEmbedding(_) => no("there is no builtin embedding of positions"),
        Op::Silu(_) => no("it is LOGISTIC and MUL"),
        Op::SplitHeads(_) | Op::MergeHeads(_) => no("it is RESHAPE"),
        Op::TokensFromMap(_) | Op::MapFromTokens(_) | Op::SplitTokens(_) => no("it is RESHAPE and TRANSPOSE"),
        Op::UpsampleNearest(_) => no("XNNPACK leaves out RESIZE_NEAREST_NEIGHBOR"),
    }
}

/// What a delegate leaves to the builtin kernels, and why.
pub fn left_out(op: &Op) -> Vec<&'static str> {
    match op {
        Op::Embedding(_) => {
            vec!["XNNPACK has no EMBEDDING_LOOKUP: a builtin kernel runs it, before the delegate's part"]
        }
        _ => Vec::new(),
    }
}

fn only(condition: bool, reason: &str) -> Native {
    if condition { Native::Yes } else { no(reason) }
}

fn no(reason: &str) -> Native {
    Native::No(reason.to_string())
}

/// The limits on values.
const ON_VALUES: [Limit; 2] = [TFLITE_AXES, TFLITE_NUMBERS];

/// What in a graph passes a limit of the format and its kernels.
pub fn check(graph: &Graph) -> Vec<Error> {
    let mut passed = values_past(graph, &ON_VALUES);
    for value in graph.values() {
        passed.extend(check_type(&value.ty).map(|error| error.at(place(graph, value.def))));
    }
    passed.extend(encode::check(graph));
    passed.extend(check_file(&[graph]));
    passed
}

/// How much of the limits a graph alone in its file has.
pub fn measure(graph: &Graph) -> Vec<Use> {
    let mut all = uses(graph, &ON_VALUES);
    all.push(Use { limit: TFLITE_MODEL, found: longest_flatbuffer(graph) });
    all.push(Use { limit: TFLITE_WEIGHTS, found: graph.weight_bytes() });
    all
}

/// What graphs in one file take past the limits of the format.
pub fn check_file(graphs: &[&Graph]) -> Vec<Error> {
    let sum =
        |of: &dyn Fn(&Graph) -> u64| graphs.iter().fold(0u64, |sum, graph| sum.saturating_add(of(graph)));
    let weights = || "the file of all weights".to_string();
    let mut passed: Vec<Error> =
        TFLITE_WEIGHTS.passed(weights, sum(&Graph::weight_bytes)).into_iter().collect();
    let help = "compile fewer sizes or parts into one file, or without --one-file";
    let (subject, limit) = match graphs {
        [_] => ("the graph alone", TFLITE_MODEL),
        _ => ("the graphs alone", Limit { help, ..TFLITE_MODEL }),
    };
    passed.extend(limit.passed(|| format!("{subject}, without large weights,"), sum(&longest_flatbuffer)));
    passed
}

/// More bytes than the flatbuffer of the graph will have.
fn longest_flatbuffer(graph: &Graph) -> u64 {
    /// A tensor's or an operator's tables with all that a name does not lengthen, and the constants of an operator.
    const EACH: u64 = 512;
    let names = graph.weights().iter().map(|weight| weight.name.len() as u64).sum::<u64>();
    let nodes = graph.nodes().iter().map(|node| {
        let values = (node.results.len() + node.operands.len()) as u64;
        2 * EACH + values * (EACH + node.scope.len() as u64)
    });
    let ports = (graph.inputs().len() + graph.outputs().len()) as u64;
    // A scale is 4 bytes there, its zero point 8.
    let scales = graph.weights().iter().map(|weight| match (weight.coded(), weight.stepped()) {
        (Some(coded), _) => 12 * coded.shape[0] as u64,
        (None, Some(_)) => 12 * weight.ty().count() as u64,
        (None, None) => 0,
    });
    inline_bytes(graph)
        + scales.sum::<u64>()
        + names
        + (2 * graph.weights().len() as u64 + ports) * EACH
        + nodes.sum::<u64>()
}

fn check_type(ty: &TensorType) -> Option<Error> {
    if ty.dtype == DType::BF16 {
        return Some(Error::bug("a value of type bf16"));
    }
    let empty = || {
        Error::limit(format!("a value is empty: {}", shape_text(&ty.shape))).help("compile for a larger size")
    };
    ty.shape.contains(&0).then(empty)
}
