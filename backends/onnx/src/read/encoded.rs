//! `DequantizeLinear` of stored codes: `scale * code`, with a scale for all, for each row of an axis, or for each block on an axis
//! (`docs/Operators.md` of onnx/onnx, opset 21).

use std::path::Path;

use snapc_ir::ops::Op;
use snapc_ir::{Context, DType, Error, Place, Result, Source, TensorType};
use snapc_weights::{Region, Store};

use super::attributes::Attributes;
use super::nodes::{Reader, axis, require, size};
use super::tensors::stored;
use crate::schema::NodeProto;

/// A weight that is stored as codes.
pub struct Encoded {
    /// Its name, which is that of the codes.
    codes: String,
    /// The tensor of its scales.
    scales: String,
    /// The type of its numbers.
    dtype: DType,
    /// Into how many blocks each axis is cut.
    blocks: Vec<usize>,
}

/// Reads a `DequantizeLinear` as the weight that it makes.
///
/// # Errors
/// If codes and scales do not fit each other, or are not constants that nothing else reads.
pub fn dequantize<'a>(reader: &mut Reader<'a>, node: &'a NodeProto) -> Result<()> {
    let ([codes, scales], [result]) = (&node.input[..], &node.output[..]) else {
        return Err(Error::input("DequantizeLinear takes codes and scales, and gives one value"));
    };
    let shape = reader.codes(codes)?.to_vec();
    require(reader.is_used_once(codes) && reader.is_used_once(scales), "codes or scales have a second use")?;
    let value = reader.value(scales)?;
    let ty = reader.builder.ty(value).clone();
    let kept = match reader.builder.maker(value) {
        Some(made) if matches!(made.op, Op::Cast(_)) => made.operands[0],
        _ => value,
    };
    let half = reader.builder.as_weight(kept).filter(|weight| weight.dtype == DType::F16);
    let Some(Source::Tensor { name, .. }) = half.map(|weight| &weight.source) else {
        return Err(Error::input("the scales are not f16 numbers beside the model"));
    };
    let scales = name.clone();
    let mut attributes = Attributes::of(node)?;
    let (along, block) = (attributes.int("axis", 1)?, attributes.int("block_size", 0)?);
    attributes.end()?;
    let blocks = blocks(&shape, &ty.shape, along, size(block)?)?;
    let weight = stored(codes, &TensorType::new(ty.dtype, shape));
    let made = reader.builder.weight(weight)?;
    reader.define(result, made)?;
    reader.encoded.push(Encoded { codes: codes.clone(), scales, dtype: ty.dtype, blocks });
    Ok(())
}

fn blocks(shape: &[usize], scales: &[usize], along: i64, block: usize) -> Result<Vec<usize>> {
    let mut blocks = vec![1; shape.len()];
    match (scales, block) {
        ([], 0) => {}
        (&[count], 0) => {
            let axis = axis(along, shape.len())?;
            require(count == shape[axis], "there is not one scale a row")?;
            blocks[axis] = count;
        }
        (_, 1..) => {
            let axis = axis(along, shape.len())?;
            blocks = shape.to_vec();
            require(shape[axis].is_multiple_of(block), "blocks do not divide their axis")?;
            blocks[axis] = shape[axis] / block;
            require(scales == blocks, "there is not one scale a block")?;
        }
        _ => return Err(Error::input("there are scales on several axes, but no blocks")),
    }
    Ok(blocks)
}

/// The regions, those of codes with their scales.
///
/// # Errors
/// If scales cannot be read, are no numbers, or codes have none.
pub fn with_scales(path: &Path, regions: Vec<Region>, encoded: &[Encoded]) -> Result<Vec<Region>> {
    let plain = regions.iter().filter(|region| region.coding.is_none()).cloned().collect();
    let store = Store::from_regions(path, plain)?;
    let of_region = |mut region: Region| -> Result<Region> {
        let Some(coding) = &mut region.coding else { return Ok(region) };
        let found = encoded.iter().find(|encoded| encoded.codes == region.name);
        let found = found.ok_or_else(|| Error::input(format!("{} has no scales", region.name)))?;
        let scales = store.tensor(&found.scales)?;
        let finite = scales.values().iter().all(|scale| scale.is_finite());
        require(finite, "a scale is no finite number").at(|| Place::Tensor(found.scales.clone()))?;
        coding.blocks.clone_from(&found.blocks);
        coding.tables = scales.values().to_vec();
        coding.tables_at = store.region(&found.scales).map(Region::range);
        region.dtype = found.dtype;
        Ok(region)
    };
    regions.into_iter().map(of_region).collect()
}
