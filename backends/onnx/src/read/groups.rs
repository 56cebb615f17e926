//! Ops of the IR that are several nodes in ONNX, next to each other, of which only the last one's result is used.

use snapc_ir::Result;
use snapc_ir::ops::{FakeQuantize, RmsNorm, Rsqrt};

use super::attributes::Attributes;
use super::nodes::{Reader, require};
use crate::schema::NodeProto;

/// The first nodes of `following`, which must be of these kinds, take that many operands, and feed each other alone.
fn group<'a, const N: usize>(
    reader: &Reader,
    following: &'a [NodeProto],
    kinds: [(&str, usize); N],
) -> Result<&'a [NodeProto; N]> {
    let names: Vec<&str> = kinds.iter().map(|(kind, _)| *kind).collect();
    let message = || format!("{} is not the start of {}", names[0], names.join(", "));
    let found = following.first_chunk::<N>().filter(|nodes| {
        nodes.iter().zip(kinds).all(|(node, (kind, operands))| {
            node.op_type == kind && node.domain.is_empty() && node.input.len() == operands
        }) && nodes[..N - 1]
            .iter()
            .all(|node| matches!(&node.output[..], [only] if reader.is_used_once(only)))
    });
    require(found.is_some(), &message())?;
    found.ok_or_else(|| snapc_ir::Error::input(message()))
}

/// `x / sqrt(mean(x^2) + eps) * weight`.
pub fn rms_norm<'a>(reader: &mut Reader<'a>, following: &'a [NodeProto]) -> Result<usize> {
    let kinds = [("Pow", 2), ("ReduceMean", 2), ("Add", 2), ("Sqrt", 1), ("Div", 2), ("Mul", 2)];
    let nodes @ [power, mean, shifted, root, quotient, product] = group(reader, following, kinds)?;
    let chain = [
        (&mean.input[0], power),
        (&shifted.input[0], mean),
        (&root.input[0], shifted),
        (&quotient.input[1], root),
        (&product.input[0], quotient),
    ];
    let linked = chain.iter().all(|(input, maker)| *input == &maker.output[0]);
    require(
        linked && quotient.input[0] == power.input[0],
        "the nodes of an RMS norm are not linked as such",
    )?;
    require(reader.number(&power.input[1])? == 2.0, "the power is not 2")?;
    let x = reader.value(&power.input[0])?;
    let last = reader.builder.ty(x).rank();
    for node in nodes {
        let mut attributes = Attributes::of(node)?;
        if node.op_type == "ReduceMean" {
            let axis = reader.mean_axis(node, &mut attributes, last)?;
            require(axis + 1 == last, "the mean is not over the last axis")?;
        }
        attributes.end()?;
    }
    let norm = RmsNorm { eps: reader.number(&shifted.input[1])? };
    let weight = reader.value(&product.input[1])?;
    require(reader.builder.ty(x).dtype == snapc_ir::DType::F32, "an RMS norm is not in f32")?;
    reader.add(product, norm, &[x, weight])?;
    Ok(nodes.len())
}

/// `1 / sqrt(x)`.
pub fn rsqrt<'a>(reader: &mut Reader<'a>, following: &'a [NodeProto]) -> Result<usize> {
    let nodes @ [root, quotient] = group(reader, following, [("Sqrt", 1), ("Div", 2)])?;
    require(quotient.input[1] == root.output[0], "Div does not divide by the root")?;
    require(reader.number(&quotient.input[0])? == 1.0, "Div does not divide 1")?;
    for node in nodes {
        Attributes::of(node)?.end()?;
    }
    let x = reader.value(&root.input[0])?;
    reader.add(quotient, Rsqrt {}, &[x])?;
    Ok(nodes.len())
}

/// `(clamp(round(x / scale) + 128, 0, 255) - 128) * scale`.
pub fn fake_quantize<'a>(reader: &mut Reader<'a>, following: &'a [NodeProto]) -> Result<usize> {
    let kinds = [("QuantizeLinear", 3), ("DequantizeLinear", 3)];
    let nodes @ [quantized, back] = group(reader, following, kinds)?;
    let linked = back.input[0] == quantized.output[0] && back.input[1..] == quantized.input[1..];
    require(linked, "a value is dequantized by another scale than it was quantized by")?;
    require(reader.is_zero_point(&back.input[2]), "its zero point is not 128 of uint8")?;
    for node in nodes {
        Attributes::of(node)?.end()?;
    }
    let (x, scale) = (reader.value(&quantized.input[0])?, reader.number(&quantized.input[1])?);
    reader.add(back, FakeQuantize { scale }, &[x])?;
    Ok(nodes.len())
}
