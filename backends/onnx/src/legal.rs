//! What ONNX (opset 21) has, and this target's own rules. "ORT" is ONNX Runtime.

use snapc_backend::Native;
use snapc_backend::limits::{Limit, ONNX_MODEL, ONNX_NUMBERS, ONNX_WEIGHTS, Use, place, uses, values_past};
use snapc_ir::ops::{self, Cast, Embedding, GeluForm, GroupNorm, LayerNorm, Linear, Matmul, Op, RmsNorm};
use snapc_ir::{
    Builder, Context, DType, Error, Graph, Place, Replayed, Result, TensorType, ValueId, Weight,
    element_count, shape_text,
};

use crate::contract::Layout;
use crate::encode;
use crate::layout::{Placement, inline_bytes};

/// A protobuf message cannot be longer.
pub const LONGEST_MESSAGE: u64 = ONNX_MODEL.most;

/// The most numbers that a value may have.
pub const MOST_NUMBERS: usize = ONNX_NUMBERS.most as usize;

/// Whether opset 21 has this op, alone or as a few nodes that ORT fuses into one.
pub fn native(op: &Op, operands: &[&TensorType]) -> Native {
    let x = operands[0];
    match op {
        Op::Embedding(_)
        | Op::Split(_)
        | Op::Concat(_)
        | Op::Add(_)
        | Op::Sub(_)
        | Op::Mul(_)
        | Op::Softmax(_)
        | Op::ReduceMean(_)
        | Op::Tanh(_)
        | Op::Sigmoid(_)
        | Op::Relu(_)
        | Op::Sin(_)
        | Op::Cos(_)
        | Op::Transpose(_)
        | Op::Reshape(_)
        | Op::Slice(_)
        | Op::Cast(_) => Native::Yes,
        Op::Conv2d(conv) => {
            only(conv.layout == ops::Layout::Nchw, "Conv has channels before rows and columns")
        }
        Op::Matmul(matmul) => only(!matmul.transpose_b, "MatMul takes both operands as they are"),
        Op::Gelu(gelu) => only(gelu.form != GeluForm::Quick, "Gelu has only the forms with erf and tanh"),
        Op::RmsNorm(_) => {
            only(x.dtype == DType::F32 && operands.len() == 2, "ORT fuses it in f32, with a weight")
        }
        Op::FakeQuantize(_) => only(x.dtype == DType::F32, "ORT quantizes f32 alone"),
        Op::Rsqrt(_) => only(x.dtype == DType::F32, "Sqrt and Div would round f16 twice"),
        Op::LayerNorm(_) => only(operands.len() >= 2, "LayerNormalization needs a scale"),
        Op::GroupNorm(norm) => {
            only(x.shape[1] == norm.groups, "InstanceNormalization takes each channel on its own")
        }
        Op::UpsampleNearest(_) => only(x.dtype.is_float(), "Resize is for floating point"),
        Op::Linear(_) => only(x.rank() == 2, "Gemm takes a matrix"),
        Op::Silu(_) => no("ORT fuses Sigmoid and Mul"),
        Op::Attention(_) => no("opset 21 has no attention"),
        Op::Rotary(_) => no("opset 21 has no rotary embedding"),
        Op::TimestepEmbedding(_) | Op::SplitTokens(_) => no("opset 21 has no such op"),
        Op::SplitHeads(_) | Op::MergeHeads(_) => no("it is a Reshape"),
        Op::TokensFromMap(_) | Op::MapFromTokens(_) => no("it is a Transpose and a Reshape"),
    }
}

fn only(condition: bool, reason: &str) -> Native {
    if condition { Native::Yes } else { no(reason) }
}

fn no(reason: &str) -> Native {
    Native::No(reason.to_string())
}

/// This target's rewriting of a node; `None` where it has none, or nothing to change.
pub fn rule(b: &mut Builder, node: &Replayed) -> Result<Option<Vec<ValueId>>> {
    let operands = &node.operands;
    match node.op() {
        // Codes stand for numbers of the type that they are used in: ORT fuses no product with a Cast between.
        Op::Cast(op) if is_encoded(b, operands[0]) => {
            b.cast_weight(operands[0], op.dtype).map(|y| Some(vec![y]))
        }
        Op::Linear(Linear {}) => linear(b, operands),
        Op::Matmul(Matmul { transpose_b: true }) => swap_then_multiply(b, operands),
        Op::Embedding(Embedding {}) => look_up_then_cast(b, operands),
        Op::RmsNorm(norm) => rms_norm(b, norm, operands),
        Op::Rsqrt(_) | Op::FakeQuantize(_) => from_half(b, node.op(), operands),
        Op::LayerNorm(norm) => layer_norm(b, norm, operands),
        Op::GroupNorm(norm) => group_norm(b, norm, operands),
        _ => Ok(None),
    }
}

/// Whether the value is a weight that is stored as codes.
fn is_encoded(b: &Builder, value: ValueId) -> bool {
    b.as_weight(value).is_some_and(|weight| weight.coded().is_some())
}

type Rewritten = Result<Option<Vec<ValueId>>>;

/// `x W^T + bias` is a Gemm of all rows, with the weight as it is stored: ORT turns it as it packs it, and makes a Gemm of a MatMul and an
/// Add itself.
fn linear(b: &mut Builder, operands: &[ValueId]) -> Rewritten {
    let &[x, weight, ref bias @ ..] = operands else { return Ok(None) };
    if is_encoded(b, weight) {
        return linear_of_codes(b, operands);
    }
    let mut shape = b.ty(x).shape.clone();
    let Some(inputs) = shape.pop().filter(|_| shape.len() != 1) else { return Ok(None) };
    let rows = b.reshape(x, [element_count(&shape), inputs])?;
    let y = b.linear(rows, weight, bias.first().copied())?;
    shape.push(b.ty(y).last());
    Ok(Some(vec![b.reshape(y, shape)?]))
}

/// The same with a weight of codes, as MatMul and Add: ORT multiplies codes only where they are stored as `[in, out]`.
fn linear_of_codes(b: &mut Builder, operands: &[ValueId]) -> Rewritten {
    let weight = b.transpose(operands[1], &[1, 0])?;
    let (ty, out) = (b.ty(operands[0]).clone(), b.ty(weight).last());
    let x = if ty.rank() == 1 { b.reshape(operands[0], [1, ty.last()])? } else { operands[0] };
    let mut y = b.matmul(x, weight, false)?;
    if ty.rank() == 1 {
        y = b.reshape(y, [out])?;
    }
    if let Some(&bias) = operands.get(2) {
        let quantized = b.maker(operands[0]).is_some_and(|made| matches!(made.op, Op::FakeQuantize(_)));
        // ORT makes one node of a product and a list that is added, and multiplies numbers in it, not codes.
        let bias = if quantized && ty.rank() > 2 { b.reshape(bias, [1, out])? } else { bias };
        y = b.add(y, bias)?;
    }
    Ok(Some(vec![y]))
}

/// ORT fuses the Transpose into the product.
fn swap_then_multiply(b: &mut Builder, operands: &[ValueId]) -> Rewritten {
    let mut perm: Vec<usize> = (0..b.ty(operands[1]).rank()).collect();
    let rank = perm.len();
    perm.swap(rank - 2, rank - 1);
    let swapped = b.transpose(operands[1], &perm)?;
    Ok(Some(vec![b.matmul(operands[0], swapped, false)?]))
}

/// Rows are cast after they are chosen: ORT would cast the whole table as it loads, and keep it in f32.
fn look_up_then_cast(b: &mut Builder, operands: &[ValueId]) -> Rewritten {
    let dtype = b.ty(operands[1]).dtype;
    let Some(cast) = b.maker(operands[1]).filter(|made| matches!(made.op, Op::Cast(_))) else {
        return Ok(None);
    };
    let stored = cast.operands[0];
    if b.as_weight(stored).is_none() {
        return Ok(None);
    }
    let rows = b.one(Embedding {}, &[operands[0], stored])?;
    Ok(Some(vec![b.cast(rows, dtype)?]))
}

/// ORT's SimplifiedLayerNormalization wants f32 and a weight: a norm without one gets ones.
fn rms_norm(b: &mut Builder, norm: &RmsNorm, operands: &[ValueId]) -> Rewritten {
    let ty = b.ty(operands[0]).clone();
    if ty.dtype == DType::F32 {
        return match operands {
            [x] => {
                let ones = filled(b, "ones", 1.0, &ty, ty.last())?;
                Ok(Some(vec![b.one(norm.clone(), &[*x, ones])?]))
            }
            _ => Ok(None),
        };
    }
    in_f32(b, norm.clone().into(), operands)
}

/// What has no kernel for f16, or one that rounds twice.
fn from_half(b: &mut Builder, op: &Op, operands: &[ValueId]) -> Rewritten {
    if b.ty(operands[0]).dtype == DType::F32 { Ok(None) } else { in_f32(b, op.clone(), operands) }
}

/// The op on operands cast to f32, its result cast back. A weight stays stored as it is.
fn in_f32(b: &mut Builder, op: Op, operands: &[ValueId]) -> Rewritten {
    let back = b.ty(operands[0]).dtype;
    let cast = |&operand: &ValueId| b.one(Cast { dtype: DType::F32 }, &[operand]);
    let operands: Vec<ValueId> = operands.iter().map(cast).collect::<Result<_>>()?;
    let y = b.one(op, &operands)?;
    Ok(Some(vec![b.cast(y, back)?]))
}

fn layer_norm(b: &mut Builder, norm: &LayerNorm, operands: &[ValueId]) -> Rewritten {
    let [x] = operands else { return Ok(None) };
    let ty = b.ty(*x).clone();
    let ones = filled(b, "ones", 1.0, &ty, ty.last())?;
    Ok(Some(vec![b.one(norm.clone(), &[*x, ones])?]))
}

/// A group becomes one channel of a taller map, for InstanceNormalization; scale and shift follow. ORT runs opset 21's
/// GroupNormalization as its function body: twice as slow, and with the variance as `E[x^2] - E[x]^2`, which is lost
/// where the mean is large.
fn group_norm(b: &mut Builder, norm: &GroupNorm, operands: &[ValueId]) -> Rewritten {
    let ty = b.ty(operands[0]).clone();
    let (channels, groups) = (ty.shape[1], norm.groups);
    if channels == groups {
        return Ok(None);
    }
    let grouped = [ty.shape[0], groups, channels / groups * ty.shape[2], ty.shape[3]];
    let x = b.reshape(operands[0], grouped)?;
    let ones = filled(b, "ones", 1.0, &ty, groups)?;
    let zeros = filled(b, "zeros", 0.0, &ty, groups)?;
    let normed = b.one(norm.clone(), &[x, ones, zeros])?;
    let map = b.reshape(normed, ty.shape)?;
    let weight = b.reshape(operands[1], [channels, 1, 1])?;
    let bias = b.reshape(operands[2], [channels, 1, 1])?;
    let scaled = b.mul(map, weight)?;
    Ok(Some(vec![b.add(scaled, bias)?]))
}

/// A weight of `size` equal numbers of the type of `like`.
fn filled(b: &mut Builder, name: &str, value: f32, like: &TensorType, size: usize) -> Result<ValueId> {
    let weight = b.weight(Weight::inline(format!("{name}.{size}"), vec![value; size], vec![size]))?;
    b.cast_weight(weight, like.dtype)
}

/// The limits on values.
const ON_VALUES: [Limit; 1] = [ONNX_NUMBERS];

/// What in a graph passes a limit of the format.
pub fn check(graph: &Graph, layout: Layout) -> Vec<Error> {
    let mut passed = Vec::new();
    let name = |own| layout.by_own(graph.name(), own).map_or(own, |port| port.name);
    for port in graph.outputs() {
        if graph.inputs().iter().any(|input| name(&input.name) == name(&port.name)) {
            let what = format!("an input and an output are both named {}", name(&port.name));
            let help = "in ONNX each name stands for one value: rename one of them";
            passed.push(Error::limit(what).help(help));
        }
    }
    passed.extend(values_past(graph, &ON_VALUES));
    for value in graph.values() {
        passed.extend(check_type(&value.ty).map(|error| error.at(place(graph, value.def))));
    }
    for weight in graph.weights() {
        if let Some(coded) = weight.coded() {
            passed.extend(encode::form(&coded).at(|| Place::Tensor(weight.name.clone())).err());
        }
    }
    passed.extend(too_long(graph, inline_bytes(graph)));
    let data = || format!("the weight file of {}", graph.name());
    passed.extend(ONNX_WEIGHTS.passed(data, Placement::new(graph).bytes()));
    passed
}

/// How much of the limits a graph has.
pub fn measure(graph: &Graph) -> Vec<Use> {
    let mut all = uses(graph, &ON_VALUES);
    all.push(Use { limit: ONNX_MODEL, found: inline_bytes(graph) });
    all.push(Use { limit: ONNX_WEIGHTS, found: Placement::new(graph).bytes() });
    all
}

/// The error of a model file that no reader would take.
pub fn too_long(graph: &Graph, bytes: u64) -> Option<Error> {
    ONNX_MODEL.passed(|| format!("model.onnx of {}", graph.name()), bytes)
}

fn check_type(ty: &TensorType) -> Option<Error> {
    if ty.dtype == DType::BF16 {
        return Some(Error::bug("a value of type bf16"));
    }
    // A 0 in the shape of a Reshape would stand for "as before".
    let empty = || {
        Error::limit(format!("a value is empty: {}", shape_text(&ty.shape))).help("compile for a larger size")
    };
    ty.shape.contains(&0).then(empty)
}
