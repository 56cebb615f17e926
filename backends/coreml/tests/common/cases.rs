//! One case for every op and for every rule of this target.

use snapc_ir::ops::{
    Attention, Conv2d, Embedding, Gelu, GeluForm, GroupNorm, LayerNorm, Layout, MapFromTokens, MergeHeads,
    Pattern, Relu, RmsNorm, Rotary, Silu, Split, SplitHeads, SplitTokens, TimestepEmbedding, TokensFromMap,
    UpsampleNearest,
};
use snapc_ir::{DType, Dim, Encoding, Grid, Result, TensorType, ValueId, Weight};

use super::{Case, Maker};

pub fn cases() -> Vec<Case> {
    let mut all: Vec<Case> = Vec::new();
    let mut case = |name, build| all.push(Case { name, build });
    case("linear", |m| linear(m, &[2, 3, 8], true));
    case("linear_without_bias", |m| linear(m, &[2, 3, 8], false));
    case("linear_of_one_axis", |m| linear(m, &[8], true));
    case("linear_of_two_axes", |m| linear(m, &[5, 8], true));
    case("linear_of_four_axes", |m| linear(m, &[2, 3, 2, 8], true));
    case("linear_computed", linear_computed);
    case("linear_and_gelu", linear_and_gelu);
    case("linear_of_a_recipe", linear_of_a_recipe);
    case("encoded_rows", |m| encoded_linear(m, Encoding::int(8, None)));
    case("encoded_palette", |m| encoded_linear(m, Encoding::palette(4, None)));
    case("encoded_map", encoded_map);
    case("conv2d", |m| conv2d(m, 3, 1, 1, 1, true));
    case("conv2d_strided", |m| conv2d(m, 2, 2, 0, 1, true));
    case("conv2d_grouped", |m| conv2d(m, 3, 1, 1, 2, false));
    case("conv2d_depthwise", |m| conv2d(m, 2, 2, 0, 4, false));
    case("conv2d_of_one", |m| conv2d(m, 1, 1, 0, 1, true));
    case("conv2d_computed_bias", conv2d_computed_bias);
    case("embedding", |m| embedding(m, &[2, 5]));
    case("embedding_of_one_axis", |m| embedding(m, &[3]));
    case("layer_norm", |m| layer_norm(m, 0, false));
    case("layer_norm_weight", |m| layer_norm(m, 1, false));
    case("layer_norm_weight_bias", |m| layer_norm(m, 2, false));
    case("layer_norm_computed", |m| layer_norm(m, 2, true));
    case("layer_norm_tiny_eps", |m| {
        let x = m.input(&[2, 3, 12])?;
        let y = m.b.one(LayerNorm { eps: 1e-12 }, &[x])?;
        m.output(y)
    });
    case("gelu_erf", |m| unary(m, |m, x| m.b.one(Gelu { form: GeluForm::Erf }, &[x])));
    case("gelu_tanh", |m| unary(m, |m, x| m.b.one(Gelu { form: GeluForm::Tanh }, &[x])));
    case("gelu_quick", |m| unary(m, |m, x| m.b.one(Gelu { form: GeluForm::Quick }, &[x])));
    case("silu", |m| unary(m, |m, x| m.b.one(Silu {}, &[x])));
    case("relu", |m| unary(m, |m, x| m.b.one(Relu {}, &[x])));
    case("tanh", |m| unary(m, |m, x| m.b.tanh(x)));
    case("sigmoid", |m| unary(m, |m, x| m.b.sigmoid(x)));
    case("sin", |m| unary(m, |m, x| m.b.sin(x)));
    case("cos", |m| unary(m, |m, x| m.b.cos(x)));
    case("softmax", |m| unary(m, |m, x| m.b.softmax(x)));
    case("rsqrt", |m| {
        unary(m, |m, x| {
            let square = m.b.mul(x, x)?;
            let shifted = m.b.add_scalar(square, 0.5)?;
            m.b.rsqrt(shifted)
        })
    });
    case("reduce_mean_last", |m| unary(m, |m, x| m.b.reduce_mean(x, 2)));
    case("reduce_mean_first", |m| unary(m, |m, x| m.b.reduce_mean(x, 0)));
    case("transpose", |m| unary(m, |m, x| m.b.transpose(x, &[2, 0, 1])));
    case("reshape", |m| unary(m, |m, x| m.b.reshape(x, [4, 1, 3, 6])));
    case("slice_middle", |m| unary(m, |m, x| m.b.slice(x, 1, 1, 1)));
    case("slice_start", |m| unary(m, |m, x| m.b.slice(x, 2, 0, 5)));
    case("slice_of_all", |m| {
        unary(m, |m, x| m.b.one(snapc_ir::ops::Slice { starts: vec![0; 3], sizes: vec![4, 3, 6] }, &[x]))
    });
    case("split", |m| split(m, 3));
    case("split_in_one", |m| split(m, 1));
    case("concat", concat);
    case("concat_of_one", |m| unary(m, |m, x| m.b.one(snapc_ir::ops::Concat { axis: 1 }, &[x])));
    case("upsample_nearest", |m| {
        let x = m.input(&[1, 2, 3, 4])?;
        let y = m.b.one(UpsampleNearest { factor: 2 }, &[x])?;
        m.output(y)
    });
    case("binary", binary);
    case("matmul", matmul);
    case("cast", |m| {
        unary(m, |m, x| {
            let half = m.b.one(snapc_ir::ops::Cast { dtype: DType::F16 }, &[x])?;
            let y = m.b.sin(half)?;
            m.b.cast(y, DType::F32)
        })
    });
    case("expanded_norms", expanded_norms);
    case("expanded_maps", expanded_maps);
    case("attention_dense", |m| attention(m, Pattern::Dense, false));
    case("attention_masked", |m| attention(m, Pattern::Dense, true));
    case("attention_causal", |m| attention(m, Pattern::Causal, false));
    case("attention_neighborhood", |m| {
        attention(
            m,
            Pattern::Neighborhood { grid: [4, 4], tile: 2, radius: 1, order: Default::default() },
            false,
        )
    });
    case("rotary", |m| {
        let x = m.input(&[1, 6, 2, 8])?;
        let grid = Grid { rows: 2, cols: 3, start: 0.0, stride: 1.0, order: Default::default() };
        let y = m.b.one(Rotary { theta: 100.0, grid, pairs: Default::default() }, &[x])?;
        m.output(y)
    });
    case("timestep", |m| {
        let timestep = m.b.input("timestep", TensorType::new(DType::F32, [2]));
        let y = m.b.one(TimestepEmbedding { dim: 24 }, &[timestep])?;
        m.output(y)
    });
    case("outputs", outputs);
    case("same_weight_twice", same_weight_twice);
    case("two_cuts_of_one_tensor", two_cuts_of_one_tensor);
    all
}

fn linear(m: &mut Maker, shape: &[usize], bias: bool) -> Result<()> {
    let x = m.input(shape)?;
    let weight = m.weight("linear.weight", &[4, 8])?;
    let bias = if bias { Some(m.weight("linear.bias", &[4])?) } else { None };
    let y = m.b.linear(x, weight, bias)?;
    m.output(y)
}

fn linear_computed(m: &mut Maker) -> Result<()> {
    let (x, weight, bias) = (m.input(&[2, 2, 8])?, m.input(&[4, 8])?, m.input(&[4])?);
    let all = m.b.linear(x, weight, Some(bias))?;
    m.output(all)?;
    let constant = m.weight("weight", &[4, 8])?;
    let with_bias = m.b.linear(x, constant, Some(bias))?;
    m.output(with_bias)
}

fn linear_and_gelu(m: &mut Maker) -> Result<()> {
    let x = m.input(&[1, 16])?;
    let (weight, bias) = (m.weight("ffn.0.weight", &[32, 16])?, m.weight("ffn.0.bias", &[32])?);
    let y = m.b.linear(x, weight, Some(bias))?;
    let y = m.b.one(Gelu { form: GeluForm::Tanh }, &[y])?;
    m.output(y)
}

/// A weight that is cut and turned on its way.
fn linear_of_a_recipe(m: &mut Maker) -> Result<()> {
    let x = m.input(&[3, 6])?;
    let mut weight = Weight::tensor("up.0.weight", DType::F32, vec![Dim::chunked(2, 4), Dim::fixed(6)]);
    weight.dtype = m.dtype;
    weight.take(0, 3)?;
    weight.transpose(&[1, 0])?;
    weight.transpose(&[1, 0])?;
    let weight = m.b.weight(weight)?;
    let y = m.b.linear(x, weight, None)?;
    m.output(y)
}

fn encoded_linear(m: &mut Maker, encoding: Encoding) -> Result<()> {
    let x = m.input(&[3, 6])?;
    let mut weight = Weight::tensor("fc.weight", DType::F32, vec![Dim::fixed(16), Dim::fixed(6)]);
    weight.dtype = m.dtype;
    weight.encode(encoding)?;
    let weight = m.b.weight(weight)?;
    let y = m.b.linear(x, weight, None)?;
    m.output(y)
}

fn encoded_map(m: &mut Maker) -> Result<()> {
    let x = m.input(&[1, 4, 5, 5])?;
    let mut weight = Weight::tensor("conv.weight", DType::F32, [6, 4, 3, 3].map(Dim::fixed).to_vec());
    weight.dtype = m.dtype;
    weight.encode(Encoding::palette(6, None))?;
    let weight = m.b.weight(weight)?;
    let y = m.b.one(Conv2d { stride: 1, padding: 1, layout: Layout::Nchw }, &[x, weight])?;
    m.output(y)
}

fn conv2d(
    m: &mut Maker,
    kernel: usize,
    stride: usize,
    padding: usize,
    groups: usize,
    bias: bool,
) -> Result<()> {
    let x = m.input(&[2, 4, 6, 8])?;
    let weight = m.weight("conv.weight", &[8, 4 / groups, kernel, kernel])?;
    let mut operands = vec![x, weight];
    if bias {
        operands.push(m.weight("conv.bias", &[8])?);
    }
    let y = m.b.one(Conv2d { stride, padding, layout: Layout::Nchw }, &operands)?;
    m.output(y)
}

fn conv2d_computed_bias(m: &mut Maker) -> Result<()> {
    let (x, bias) = (m.input(&[1, 4, 5, 5])?, m.input(&[3])?);
    let weight = m.weight("conv.weight", &[3, 4, 3, 3])?;
    let y = m.b.one(Conv2d { stride: 1, padding: 0, layout: Layout::Nchw }, &[x, weight, bias])?;
    m.output(y)
}

fn embedding(m: &mut Maker, shape: &[usize]) -> Result<()> {
    let ids = m.ids(shape);
    let table = m.weight("token_embedding.weight", &[7, 4])?;
    let y = m.b.one(Embedding {}, &[ids, table])?;
    m.output(y)
}

fn layer_norm(m: &mut Maker, weights: usize, computed: bool) -> Result<()> {
    let mut operands = vec![m.input(&[2, 3, 12])?];
    for name in &["norm.weight", "norm.bias"][..weights] {
        operands.push(if computed { m.input(&[12])? } else { m.weight(name, &[12])? });
    }
    let y = m.b.one(LayerNorm { eps: 1e-5 }, &operands)?;
    m.output(y)
}

fn unary(m: &mut Maker, of: fn(&mut Maker, ValueId) -> Result<ValueId>) -> Result<()> {
    let x = m.input(&[4, 3, 6])?;
    let y = of(m, x)?;
    m.output(y)
}

fn split(m: &mut Maker, parts: usize) -> Result<()> {
    let x = m.input(&[2, 6])?;
    for part in m.b.op(Split { axis: 1, parts }, &[x])? {
        m.output(part)?;
    }
    Ok(())
}

fn concat(m: &mut Maker) -> Result<()> {
    let (x, y) = (m.input(&[2, 3])?, m.input(&[2, 1])?);
    let weight = m.weight("few", &[2, 4])?;
    let all = m.b.concat(&[x, y, weight, x], 1)?;
    m.output(all)
}

fn binary(m: &mut Maker) -> Result<()> {
    let (x, y) = (m.input(&[2, 3, 4])?, m.input(&[3, 1])?);
    let table = m.weight("table", &[3, 4])?;
    let few = m.inline("few", &[1.0, -2.5, 0.125, 3.0], &[1, 4])?;
    let sum = m.b.add(x, y)?;
    let sum = m.b.add(table, sum)?;
    let product = m.b.mul(sum, few)?;
    let product = m.b.mul_scalar(product, 0.3)?;
    let shifted = m.b.add_scalar(product, -1.5)?;
    let difference = m.b.sub(shifted, x)?;
    m.output(difference)
}

fn matmul(m: &mut Maker) -> Result<()> {
    let (x, y, z) = (m.input(&[2, 1, 3, 4])?, m.input(&[5, 4, 6])?, m.input(&[5, 6, 4])?);
    let weight = m.weight("constant", &[4, 6])?;
    for product in [m.b.matmul(x, y, false)?, m.b.matmul(x, z, true)?, m.b.matmul(x, weight, false)?] {
        m.output(product)?;
    }
    Ok(())
}

fn expanded_norms(m: &mut Maker) -> Result<()> {
    let x = m.input(&[1, 8, 2, 3])?;
    let (weight, bias) = (m.weight("group.weight", &[8])?, m.weight("group.bias", &[8])?);
    let y = m.b.one(GroupNorm { groups: 4, eps: 1e-6 }, &[x, weight, bias])?;
    let tokens = m.b.one(TokensFromMap {}, &[y])?;
    let scale = m.weight("rms.weight", &[8])?;
    let y = m.b.one(RmsNorm { eps: 1e-6 }, &[tokens, scale])?;
    m.output(y)
}

fn expanded_maps(m: &mut Maker) -> Result<()> {
    let x = m.input(&[1, 6, 8])?;
    let y = m.b.one(SplitTokens { grid: [2, 3], factor: 2 }, &[x])?;
    let map = m.b.one(MapFromTokens { grid: [4, 6] }, &[y])?;
    m.output(map)?;
    let heads = m.b.one(SplitHeads { head_dim: 4 }, &[x])?;
    let scaled = m.b.mul_scalar(heads, 2.0)?;
    let merged = m.b.one(MergeHeads {}, &[scaled])?;
    m.output(merged)
}

fn attention(m: &mut Maker, pattern: Pattern, mask: bool) -> Result<()> {
    let mut operands = vec![m.input(&[1, 16, 4, 8])?, m.input(&[1, 16, 2, 8])?, m.input(&[1, 16, 2, 8])?];
    if mask {
        operands.push(m.input(&[1, 16])?);
    }
    let y = m.b.one(Attention { pattern, scale: 0.353 }, &operands)?;
    m.output(y)
}

/// Outputs that are an input, a weight, one value twice, and a value that goes on.
fn outputs(m: &mut Maker) -> Result<()> {
    let x = m.b.input("x", TensorType::new(DType::F32, [2, 6]));
    let ids = m.ids(&[2]);
    let weight = m.b.weight(Weight::tensor("constant", DType::F32, vec![Dim::fixed(12)]))?;
    let y = m.b.tanh(x)?;
    let z = m.b.sin(y)?;
    for value in [x, ids, weight, y, z, z] {
        m.output(value)?;
    }
    Ok(())
}

/// Two recipes with the same bytes.
fn same_weight_twice(m: &mut Maker) -> Result<()> {
    let x = m.input(&[3, 4])?;
    let weight = m.weight("weight", &[4, 4])?;
    let mut second = Weight::tensor("weight", DType::F32, vec![Dim::fixed(4), Dim::fixed(4)]);
    second.dtype = m.dtype;
    second.name = "second".to_string();
    second.reshape(vec![Dim::fixed(2), Dim::fixed(8)])?;
    second.reshape(vec![Dim::fixed(4), Dim::fixed(4)])?;
    let second = m.b.weight(second)?;
    let y = m.b.linear(x, weight, None)?;
    let y = m.b.linear(y, second, None)?;
    m.output(y)
}

/// Two recipes from one tensor with other bytes.
fn two_cuts_of_one_tensor(m: &mut Maker) -> Result<()> {
    let x = m.input(&[3, 4])?;
    let mut y = x;
    for (name, chunks, turned) in [("first", 1, false), ("chunked", 2, false), ("turned", 1, true)] {
        let mut weight =
            Weight::tensor("weight", DType::F32, vec![Dim::chunked(chunks, 8 / chunks), Dim::fixed(4)]);
        weight.dtype = m.dtype;
        weight.name = name.to_string();
        weight.take(0, 4 / chunks)?;
        if turned {
            weight.transpose(&[1, 0])?;
        }
        let weight = m.b.weight(weight)?;
        y = m.b.linear(y, weight, None)?;
    }
    m.output(y)
}
