//! What Core ML has, and where it wants it said otherwise.

use half::f16;
use snapc_backend::Native;
use snapc_backend::limits::NEURAL_ENGINE_LENGTH;
use snapc_ir::ops::{Conv2d, Gelu, GeluForm, LayerNorm, Layout, Linear, Op, ReduceMean, RmsNorm};
use snapc_ir::{Builder, DType, Error, Graph, Node, Replayed, Result, TensorType, ValueId};

/// The most axes that x of MIL's `linear` may have.
const MOST_AXES_OF_LINEAR: usize = 3;

/// Whether MIL has the op; why not, as a sentence. `rule` has already seen to what depends on operands being constant.
pub fn native(op: &Op, operands: &[&TensorType]) -> Native {
    let no = |reason: &str| Native::No(reason.to_string());
    match op {
        Op::Linear(_) if operands.first().is_some_and(|x| x.rank() > MOST_AXES_OF_LINEAR) => {
            no("Core ML's linear takes at most 3 axes")
        }
        Op::Gelu(Gelu { form: GeluForm::Quick }) => {
            no("two products and a sigmoid say the same without gelu's third mode")
        }
        Op::Rsqrt(_) | Op::ReduceMean(_) if operands.first().is_some_and(|x| x.dtype == DType::F16) => {
            no("it is computed in f32: a sum may pass f16's range, and rsqrt's epsilon of 1e-12 is 0 in f16")
        }
        Op::RmsNorm(_) => no("Core ML has no root-mean-square norm"),
        Op::GroupNorm(_) => no("Core ML has no group norm"),
        Op::Attention(_) => {
            no("Core ML's fused attention has failed on devices, so it is written in its parts")
        }
        Op::Rotary(_) => no("Core ML has no rotary embedding"),
        Op::TimestepEmbedding(_) => no("Core ML has no timestep embedding"),
        Op::SplitHeads(_) | Op::MergeHeads(_) => no("it is a reshape"),
        Op::TokensFromMap(_) | Op::MapFromTokens(_) | Op::SplitTokens(_) => {
            no("it is a reshape and a transpose")
        }
        Op::Conv2d(op) if op.layout != Layout::Nchw => no("MIL's conv has channels before rows and columns"),
        Op::Linear(_)
        | Op::Conv2d(_)
        | Op::Embedding(_)
        | Op::LayerNorm(_)
        | Op::Silu(_)
        | Op::Gelu(_)
        | Op::Split(_)
        | Op::Concat(_)
        | Op::UpsampleNearest(_)
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
    }
}

/// What keeps a node off the Neural Engine; the GPU or the CPU runs it then.
pub fn left_out(graph: &Graph, node: &Node) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    if matches!(node.op, Op::Embedding(_)) {
        reasons.push("a gather runs on the CPU");
    }
    let of = |id: &ValueId| graph.ty(*id);
    if node.results.iter().map(of).any(|ty| ty.dtype == DType::F32) && !matches!(node.op, Op::Cast(_)) {
        reasons.push("the Neural Engine computes in f16 alone: f32 leaves it");
    }
    if node.results.iter().map(of).any(|ty| NEURAL_ENGINE_LENGTH.unit.of(ty) > NEURAL_ENGINE_LENGTH.most) {
        reasons.push("the Neural Engine takes no axis longer than 16384");
    }
    reasons
}

/// This target's own rewriting of a node; `None` where it can stay as it is.
///
/// # Errors
/// A convolution whose weight is computed.
pub fn rule(b: &mut Builder, node: &Replayed) -> Result<Option<Vec<ValueId>>> {
    match node.op() {
        Op::Linear(_) => linear(b, &node.operands),
        Op::Conv2d(op) if op.layout == Layout::Nchw => conv2d(b, op, &node.operands),
        Op::LayerNorm(op) => layer_norm(b, op, &node.operands),
        Op::RmsNorm(op) => rms_norm(b, op, &node.operands),
        Op::Rsqrt(_) => through_f32(b, &node.operands, Builder::rsqrt),
        Op::FakeQuantize(op) if !is_half(op.scale) => {
            through_f32(b, &node.operands, |b, x| b.one(op.clone(), &[x]))
        }
        Op::ReduceMean(ReduceMean { axis }) => through_f32(b, &node.operands, |b, x| b.reduce_mean(x, *axis)),
        Op::Concat(_) => Ok(alone(&node.operands)),
        Op::Split(op) if op.parts == 1 => Ok(alone(&node.operands)),
        Op::Slice(op) => {
            let x = node.operands[0];
            Ok((b.ty(x).shape == op.sizes).then(|| vec![x]))
        }
        // Codes stand for numbers of the type that they are used in.
        Op::Cast(op) if b.as_weight(node.operands[0]).is_some_and(|weight| weight.coded().is_some()) => {
            b.cast_weight(node.operands[0], op.dtype).map(|y| Some(vec![y]))
        }
        _ => Ok(None),
    }
}

/// MIL's concat and split are of more than one tensor; of one they do nothing.
fn alone(operands: &[ValueId]) -> Option<Vec<ValueId>> {
    (operands.len() == 1).then(|| operands.to_vec())
}

fn is_constant(b: &Builder, operand: Option<&ValueId>) -> bool {
    operand.is_none_or(|&id| b.as_weight(id).is_some())
}

/// MIL's linear takes at most three axes, and its weight and bias must be constant.
fn linear(b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
    let (x, weight, bias) = (operands[0], operands[1], operands.get(2).copied());
    if !is_constant(b, Some(&weight)) {
        return computed_linear(b, x, weight, bias).map(|y| Some(vec![y]));
    }
    if let Some(bias) = bias.filter(|bias| !is_constant(b, Some(bias))) {
        let y = b.linear(x, weight, None)?;
        return Ok(Some(vec![b.add(y, bias)?]));
    }
    let shape = b.ty(x).shape.clone();
    if shape.len() <= MOST_AXES_OF_LINEAR {
        return Ok(None);
    }
    let (inner, out) = (b.ty(weight).shape[1], b.ty(weight).shape[0]);
    let rows = b.reshape(x, [b.ty(x).count() / inner, inner])?;
    let y = b.one(Linear {}, &[&[rows], &operands[1..]].concat())?;
    let mut result = shape;
    result.pop();
    result.push(out);
    Ok(Some(vec![b.reshape(y, result)?]))
}

fn computed_linear(b: &mut Builder, x: ValueId, weight: ValueId, bias: Option<ValueId>) -> Result<ValueId> {
    let mut result = b.ty(x).shape.clone();
    let (inner, out) = (b.ty(weight).shape[1], b.ty(weight).shape[0]);
    result.pop();
    result.push(out);
    let rows = b.reshape(x, [b.ty(x).count() / inner, inner])?;
    let mut y = b.matmul(rows, weight, true)?;
    if let Some(bias) = bias {
        y = b.add(y, bias)?;
    }
    b.reshape(y, result)
}

fn conv2d(b: &mut Builder, op: &Conv2d, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
    if !is_constant(b, operands.get(1)) {
        return Err(Error::limit("a convolution's weight must be constant in Core ML")
            .help("no model that snapc imports computes a weight: please report this one"));
    }
    let Some(&bias) = operands.get(2).filter(|bias| !is_constant(b, Some(bias))) else { return Ok(None) };
    let y = b.one(op.clone(), &operands[..2])?;
    let channels = b.ty(bias).count();
    let bias = b.reshape(bias, [1, channels, 1, 1])?;
    Ok(Some(vec![b.add(y, bias)?]))
}

/// MIL's gamma and beta must be constant. Its epsilon has the type of x: in f16 it becomes the nearest f16 number, and
/// where that is 0 the norm is written in its parts, in f32.
fn layer_norm(b: &mut Builder, op: &LayerNorm, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
    let x = operands[0];
    let eps = match b.ty(x).dtype {
        DType::F16 => f16::from_f32(op.eps).to_f32(),
        _ => op.eps,
    };
    if eps == 0.0 && op.eps != 0.0 {
        return Op::from(op.clone()).expand(b, operands);
    }
    if operands[1..].iter().all(|operand| is_constant(b, Some(operand))) {
        let rounded = LayerNorm { eps };
        return if rounded == *op { Ok(None) } else { Ok(Some(vec![b.one(rounded, operands)?])) };
    }
    let mut y = b.one(LayerNorm { eps }, &[x])?;
    if let Some(&weight) = operands.get(1) {
        y = b.mul(y, weight)?;
    }
    if let Some(&bias) = operands.get(2) {
        y = b.add(y, bias)?;
    }
    Ok(Some(vec![y]))
}

/// In f16 a square passes the range from |x| = 256 on, and f32 leaves the Neural Engine. The numbers and their negatives together
/// have mean 0, and their variance is the mean of squares: MIL's own layer_norm of both, first half kept, is the norm.
fn rms_norm(b: &mut Builder, op: &RmsNorm, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
    let x = operands[0];
    let ty = b.ty(x).clone();
    let weight = operands.get(1).copied();
    if ty.dtype != DType::F16 || !is_constant(b, weight.as_ref()) {
        return Ok(None);
    }
    let negative = b.mul_scalar(x, -1.0)?;
    let both = b.concat(&[x, negative], ty.rank() - 1)?;
    let mut parameters = vec![both];
    if let Some(mut twice) = weight.and_then(|weight| b.as_weight(weight)).cloned() {
        twice.repeat(2)?;
        twice.name += ".twice";
        parameters.push(b.weight(twice)?);
    }
    let normed = b.one(LayerNorm { eps: op.eps }, &parameters)?;
    Ok(Some(vec![b.slice(normed, ty.rank() - 1, 0, ty.last())?]))
}

/// Whether f16 has the number, and all its bits: MIL's scales have the type of what they are of.
fn is_half(scale: f32) -> bool {
    let half = f16::from_f32(scale);
    half.is_normal() && half.to_f32() == scale
}

/// In f16, MIL's rsqrt has an epsilon of 0 and its mean may be summed in f16.
fn through_f32(
    b: &mut Builder,
    operands: &[ValueId],
    op: impl FnOnce(&mut Builder, ValueId) -> Result<ValueId>,
) -> Result<Option<Vec<ValueId>>> {
    if b.ty(operands[0]).dtype != DType::F16 {
        return Ok(None);
    }
    let x = b.cast(operands[0], DType::F32)?;
    let y = op(b, x)?;
    Ok(Some(vec![b.cast(y, DType::F16)?]))
}
