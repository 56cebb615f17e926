//! How each op is said in MIL: one function an op. The parameters are those of coremltools' op definitions
//! (`converters/mil/mil/ops/defs`).

use snapc_ir::ops::{
    Concat, Conv2d, Gelu, GeluForm, LayerNorm, Matmul, Op, ReduceMean, Slice, Split, UpsampleNearest,
};
use snapc_ir::{DType, Error, Node, Place, Result, ValueId};

use crate::MinOs;
use crate::program::Emitter;

/// Core ML adds an epsilon to what it takes the root of. This is its default, written out;
/// beside the 1e-6 that a norm adds itself it moves the result by 5e-7 of it at most.
const RSQRT_EPSILON: f32 = 1e-12;

/// Adds the operations of one node.
///
/// # Errors
/// If a size does not fit what Core ML has.
pub fn emit<'a>(e: &mut Emitter<'a>, node: &'a Node) -> Result<()> {
    match &node.op {
        Op::Linear(_) => linear(e, node),
        Op::Conv2d(op) => conv2d(e, node, op),
        Op::Embedding(_) => embedding(e, node),
        Op::LayerNorm(op) => layer_norm(e, node, op),
        Op::Gelu(Gelu { form: GeluForm::Erf }) => gelu(e, node, "EXACT"),
        Op::Gelu(Gelu { form: GeluForm::Tanh }) => gelu(e, node, "TANH_APPROXIMATION"),
        Op::Split(op) => split(e, node, op),
        Op::Concat(op) => concat(e, node, op),
        Op::UpsampleNearest(op) => upsample_nearest(e, node, op),
        Op::Add(_) => binary(e, node, "add"),
        Op::Sub(_) => binary(e, node, "sub"),
        Op::Mul(_) => binary(e, node, "mul"),
        Op::Matmul(op) => matmul(e, node, op),
        Op::Softmax(_) => softmax(e, node),
        Op::ReduceMean(op) => reduce_mean(e, node, op),
        Op::Rsqrt(_) => rsqrt(e, node),
        Op::Silu(_) => unary(e, node, "silu"),
        Op::Tanh(_) => unary(e, node, "tanh"),
        Op::Sigmoid(_) => unary(e, node, "sigmoid"),
        Op::Relu(_) => unary(e, node, "relu"),
        Op::Sin(_) => unary(e, node, "sin"),
        Op::Cos(_) => unary(e, node, "cos"),
        Op::Transpose(op) => transpose(e, node, &op.perm),
        Op::Reshape(op) => reshape(e, node, &op.shape),
        Op::Slice(op) => slice(e, node, op),
        Op::Cast(op) => cast(e, node, op.dtype),
        Op::FakeQuantize(op) => fake_quantize(e, node, op.scale),
        Op::Gelu(Gelu { form: GeluForm::Quick })
        | Op::RmsNorm(_)
        | Op::GroupNorm(_)
        | Op::Attention(_)
        | Op::Rotary(_)
        | Op::TimestepEmbedding(_)
        | Op::SplitHeads(_)
        | Op::MergeHeads(_)
        | Op::TokensFromMap(_)
        | Op::MapFromTokens(_)
        | Op::SplitTokens(_) => Err(Error::bug(format!("{} is not legal in Core ML", node.op.name()))
            .at(Place::Node(node.scope.to_string()))),
    }
}

/// The first operand's number of axes.
fn rank(e: &Emitter, node: &Node) -> usize {
    node.operands.first().map_or(0, |&x| e.graph.ty(x).rank())
}

fn unary<'a>(e: &mut Emitter<'a>, node: &'a Node, kind: &str) -> Result<()> {
    e.call(node, kind).operand("x", 0).finish()
}

fn binary<'a>(e: &mut Emitter<'a>, node: &'a Node, kind: &str) -> Result<()> {
    e.call(node, kind).operand("x", 0).operand("y", 1).finish()
}

fn linear<'a>(e: &mut Emitter<'a>, node: &'a Node) -> Result<()> {
    e.call(node, "linear").operand("x", 0).operand("weight", 1).operand("bias", 2).finish()
}

fn matmul<'a>(e: &mut Emitter<'a>, node: &'a Node, op: &Matmul) -> Result<()> {
    let mut call = e.call(node, "matmul");
    call.operand("x", 0).operand("y", 1);
    call.bool("transpose_x", false).bool("transpose_y", op.transpose_b).finish()
}

/// `pad` counts only where `pad_type` is `custom`.
fn conv2d<'a>(e: &mut Emitter<'a>, node: &'a Node, op: &Conv2d) -> Result<()> {
    let groups = match node.operands[..] {
        [x, weight, ..] => op.groups(e.graph.ty(x), e.graph.ty(weight)),
        _ => 1,
    };
    let mut call = e.call(node, "conv");
    call.operand("x", 0).operand("weight", 1).operand("bias", 2);
    call.ints("strides", &[op.stride; 2])?.ints("dilations", &[1; 2])?.int("groups", groups)?;
    call.text("pad_type", if op.padding == 0 { "valid" } else { "custom" });
    call.ints("pad", &[op.padding; 4])?.finish()
}

fn embedding<'a>(e: &mut Emitter<'a>, node: &'a Node) -> Result<()> {
    let min_os = e.min_os;
    let mut call = e.call(node, "gather");
    call.operand("indices", 0).operand("x", 1).int("axis", 0)?.int("batch_dims", 0)?;
    if min_os >= MinOs::Ios17 {
        call.bool("validate_indices", false);
    }
    call.finish()
}

/// The default axes are all, so they must be named. The epsilon has the type of x before iOS 17, and coremltools
/// writes it so after that too.
fn layer_norm<'a>(e: &mut Emitter<'a>, node: &'a Node, op: &LayerNorm) -> Result<()> {
    let dtype = result_type(e, node);
    let last = rank(e, node).saturating_sub(1);
    let mut call = e.call(node, "layer_norm");
    call.operand("x", 0).operand("gamma", 1).operand("beta", 2);
    call.ints("axes", &[last])?.float("epsilon", op.eps, dtype).finish()
}

fn result_type(e: &Emitter, node: &Node) -> DType {
    let of = |id: &ValueId| e.graph.ty(*id).dtype;
    node.results.first().map_or(DType::F32, of)
}

fn gelu<'a>(e: &mut Emitter<'a>, node: &'a Node, mode: &str) -> Result<()> {
    e.call(node, "gelu").operand("x", 0).text("mode", mode).finish()
}

fn softmax<'a>(e: &mut Emitter<'a>, node: &'a Node) -> Result<()> {
    let last = rank(e, node).saturating_sub(1);
    e.call(node, "softmax").operand("x", 0).int("axis", last)?.finish()
}

fn reduce_mean<'a>(e: &mut Emitter<'a>, node: &'a Node, op: &ReduceMean) -> Result<()> {
    e.call(node, "reduce_mean").operand("x", 0).ints("axes", &[op.axis])?.bool("keep_dims", true).finish()
}

fn rsqrt<'a>(e: &mut Emitter<'a>, node: &'a Node) -> Result<()> {
    let dtype = result_type(e, node);
    e.call(node, "rsqrt").operand("x", 0).float("epsilon", RSQRT_EPSILON, dtype).finish()
}

fn split<'a>(e: &mut Emitter<'a>, node: &'a Node, op: &Split) -> Result<()> {
    e.call(node, "split").operand("x", 0).int("num_splits", op.parts)?.int("axis", op.axis)?.finish()
}

fn concat<'a>(e: &mut Emitter<'a>, node: &'a Node, op: &Concat) -> Result<()> {
    e.call(node, "concat").operands("values").int("axis", op.axis)?.bool("interleave", false).finish()
}

fn upsample_nearest<'a>(e: &mut Emitter<'a>, node: &'a Node, op: &UpsampleNearest) -> Result<()> {
    let mut call = e.call(node, "upsample_nearest_neighbor");
    call.operand("x", 0).int("scale_factor_height", op.factor)?.int("scale_factor_width", op.factor)?.finish()
}

fn transpose<'a>(e: &mut Emitter<'a>, node: &'a Node, perm: &[usize]) -> Result<()> {
    e.call(node, "transpose").operand("x", 0).ints("perm", perm)?.finish()
}

/// Every size is written out: 0 and -1 mean something else in each opset.
fn reshape<'a>(e: &mut Emitter<'a>, node: &'a Node, shape: &[usize]) -> Result<()> {
    e.call(node, "reshape").operand("x", 0).ints("shape", shape)?.finish()
}

/// The masks say which axes are cut: they alone have none. `begin` and `end` of the others do not count.
fn slice<'a>(e: &mut Emitter<'a>, node: &'a Node, op: &Slice) -> Result<()> {
    let x = node.operands.first().map(|&x| e.graph.ty(x).shape.clone()).unwrap_or_default();
    let (begin, cut) = (&op.starts, op.cut(&x));
    let end: Vec<usize> = begin.iter().zip(&op.sizes).map(|(start, size)| start + size).collect();
    let whole: Vec<bool> = (0..x.len()).map(|axis| !cut.contains(&axis)).collect();
    let mut call = e.call(node, "slice_by_index");
    call.operand("x", 0).ints("begin", begin)?.ints("end", &end)?.ints("stride", &vec![1; x.len()])?;
    call.bools("begin_mask", &whole).bools("end_mask", &whole);
    call.bools("squeeze_mask", &vec![false; x.len()]).finish()
}

fn cast<'a>(e: &mut Emitter<'a>, node: &'a Node, dtype: DType) -> Result<()> {
    let name = match dtype {
        DType::F16 => "fp16",
        DType::F32 | DType::BF16 => "fp32",
        DType::I32 => "int32",
    };
    e.call(node, "cast").operand("x", 0).text("dtype", name).finish()
}

/// The scale is of the type of x. There is no zero point, as coremltools leaves out one of 0.
fn fake_quantize<'a>(e: &mut Emitter<'a>, node: &'a Node, scale: f32) -> Result<()> {
    let dtype = result_type(e, node);
    let mut call = e.inner(node, "quantize");
    call.operand("input", 0).float("scale", scale, dtype).text("output_dtype", "int8");
    let codes = call.codes();
    e.call(node, "dequantize").named("input", codes).float("scale", scale, dtype).finish()
}
