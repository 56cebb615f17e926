//! Constants of a model: where their numbers are and whether that can be.

use std::path::{Component, Path};

use half::f16;
use snapc_ir::{Code, DType, Dim, Error, Result, TensorType, Weight, shape_text};
use snapc_weights::{Coding, Region};

use crate::legal::MOST_NUMBERS;
use crate::schema::{EXTERNAL, StringStringEntryProto, TensorProto, data_type};

/// What an initializer is.
pub enum Constant {
    /// A list of integers: sizes, bounds or axes.
    Integers(Vec<i64>),
    /// A weight, and where its numbers are if not in the model file.
    Weight(Box<Weight>, Option<External>),
    /// Codes, for a DequantizeLinear.
    Codes(External),
    /// The code of 0 in the middle of those of uint8.
    ZeroPoint,
}

/// A region of a file beside the model.
pub struct External {
    /// The file's name.
    pub location: String,
    /// The region.
    pub region: Region,
}

/// Reads an initializer.
///
/// # Errors
/// If its type, its sizes and its bytes do not fit each other, or its numbers lie elsewhere than beside the model.
pub fn constant(tensor: &TensorProto) -> Result<Constant> {
    match (tensor.data_location.unwrap_or_default(), &tensor.raw_data) {
        (0, Some(raw)) if tensor.external_data.is_empty() => inline(tensor, raw),
        (EXTERNAL, None) => external(tensor),
        _ => Err(Error::input("its numbers are neither in the model nor in a file beside it, or in both")),
    }
}

fn inline(tensor: &TensorProto, raw: &[u8]) -> Result<Constant> {
    if tensor.data_type == data_type::INT64 {
        if tensor.dims != [(raw.len() / 8) as i64] {
            return Err(Error::input(format!(
                "sizes {:?} over {} bytes of integers",
                tensor.dims,
                raw.len()
            )));
        }
        return Ok(Constant::Integers(chunks(raw).map(i64::from_le_bytes).collect()));
    }
    if tensor.data_type == data_type::UINT8 && tensor.dims.is_empty() && raw == [128] {
        return Ok(Constant::ZeroPoint);
    }
    let ty = tensor_type(tensor.data_type, &tensor.dims)?;
    if raw.len() != ty.bytes() {
        return Err(Error::input(format!("it has {} bytes, {ty} takes {}", raw.len(), ty.bytes())));
    }
    let values = match ty.dtype {
        DType::F32 => chunks(raw).map(f32::from_le_bytes).collect(),
        DType::F16 => chunks(raw).map(|bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        other => return Err(Error::input(format!("numbers of type {other} stand in the model file"))),
    };
    let mut weight = Weight::inline(&tensor.name, values, ty.shape);
    weight.dtype = ty.dtype;
    Ok(Constant::Weight(Box::new(weight), None))
}

fn chunks<const N: usize>(raw: &[u8]) -> impl Iterator<Item = [u8; N]> {
    raw.chunks_exact(N).filter_map(|bytes| bytes.try_into().ok())
}

fn external(tensor: &TensorProto) -> Result<Constant> {
    let bits = match tensor.data_type {
        data_type::INT8 => Some(8),
        data_type::INT4 => Some(4),
        _ => None,
    };
    // What codes become, their scales say: until then it is f32.
    let ty = match bits {
        Some(_) => sized(DType::F32, &tensor.dims)?,
        None => tensor_type(tensor.data_type, &tensor.dims)?,
    };
    let coding = bits.map(|bits| {
        let (blocks, tables) = (Vec::new(), Vec::new());
        Coding { code: Code::Int { bits }, blocks, tables, tables_at: None }
    });
    let [location, offset, length] = ["location", "offset", "length"].map(|key| {
        let mut found = tensor.external_data.iter().filter(|entry| entry.key == key);
        found.next().filter(|_| found.next().is_none())
    });
    let (Some(location), Some(offset), Some(length), 3) =
        (location, offset, length, tensor.external_data.len())
    else {
        return Err(Error::input("its external data does not say location, offset and length, each once"));
    };
    let (offset, length) = (number(offset)?, number(length)?);
    let region = Region { coding, ..Region::plain(&tensor.name, offset, ty.dtype, ty.shape.clone()) };
    if length != region.bytes() {
        let what = bits.map_or(ty.to_string(), |bits| format!("int{bits}{}", shape_text(&ty.shape)));
        return Err(Error::input(format!("it has {length} bytes, {what} takes {}", region.bytes())));
    }
    // No file but one beside the model: a path could lead anywhere.
    let mut parts = Path::new(&location.value).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == location.value.as_str());
    if !plain || location.value.contains(['/', '\\', '\0']) {
        return Err(Error::input(format!("its location `{}` is no plain file name", location.value)));
    }
    let external = External { location: location.value.clone(), region };
    if bits.is_some() {
        return Ok(Constant::Codes(external));
    }
    Ok(Constant::Weight(Box::new(stored(&tensor.name, &ty)), Some(external)))
}

/// A weight that is read as it is stored.
pub fn stored(name: &str, ty: &TensorType) -> Weight {
    let dims = ty.shape.iter().copied().map(Dim::fixed).collect();
    Weight { dtype: ty.dtype, ..Weight::tensor(name, ty.dtype, dims) }
}

fn number(entry: &StringStringEntryProto) -> Result<u64> {
    let digits = !entry.value.is_empty() && entry.value.bytes().all(|byte| byte.is_ascii_digit());
    let value = entry.value.parse().ok().filter(|_| digits);
    value.ok_or_else(|| Error::input(format!("its {} `{}` is no number", entry.key, entry.value)))
}

/// Two tensors may share all their bytes, but not some.
pub fn check_overlaps(tensors: &[External]) -> Result<()> {
    let range = |tensor: &External| {
        let region = &tensor.region;
        (region.offset, region.offset.saturating_add(region.bytes()))
    };
    let mut sorted: Vec<_> = tensors.iter().map(|tensor| (range(tensor), &tensor.region.name)).collect();
    sorted.sort();
    for pair in sorted.windows(2) {
        let [((start, end), name), ((next, next_end), other)] = pair else { continue };
        if next < end && (start, end) != (next, next_end) {
            return Err(Error::input(format!("{name} and {other} share some of their bytes")));
        }
    }
    Ok(())
}

/// The type of a value.
pub fn tensor_type(data_type: i32, sizes: &[i64]) -> Result<TensorType> {
    let dtype = match data_type {
        data_type::FLOAT => DType::F32,
        data_type::FLOAT16 => DType::F16,
        data_type::INT32 => DType::I32,
        other => return Err(Error::input(format!("snapc writes no values of ONNX's element type {other}"))),
    };
    sized(dtype, sizes)
}

/// The type of numbers and of sizes that are at least 1 and not so large that counting overflows.
pub fn sized(dtype: DType, sizes: &[i64]) -> Result<TensorType> {
    let shape: Option<Vec<usize>> =
        sizes.iter().map(|&size| usize::try_from(size).ok().filter(|&size| size > 0)).collect();
    let shape = shape.ok_or_else(|| Error::input(format!("the sizes {sizes:?} are not all positive")))?;
    let ty = TensorType::new(dtype, shape);
    check_count(&ty)?;
    Ok(ty)
}

/// Refuses a type that no later step could count with.
pub fn check_count(ty: &TensorType) -> Result<()> {
    if ty.count() > MOST_NUMBERS {
        return Err(Error::input(format!("a value of sizes {} is too large", shape_text(&ty.shape))));
    }
    Ok(())
}
