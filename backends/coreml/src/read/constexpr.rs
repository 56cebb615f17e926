//! Operations that make a weight of codes as a package is loaded (coremltools, `converters/mil/mil/ops/defs/iOS16/constexpr_ops.py`
//! and `iOS18/compression.py`): before iOS 18 their parameters are attributes, from then on literals bound to inputs.

use std::collections::BTreeMap;
use std::ops::Range;

use coreml_proto::proto::mil_spec::argument::binding;
use coreml_proto::proto::mil_spec::{DataType, Operation, Value};
use snapc_ir::{Code, DType, TensorType};
use snapc_weights::{Coding, Region};

use super::Reading;
use super::blobs::{Blob, Blobs, Element};
use super::constants::{Constant, blob_of, element_type, raw_bytes, shaped};

/// Specification version 9 is iOS 18.
const WITH_LITERALS: i32 = 9;

/// Scales or tables, and the bytes that they lie in.
type Tables = (Vec<f32>, Range<u64>);

/// What such an operation makes.
pub struct Encoded {
    /// Where the codes are, and what they stand for; its type and sizes are the weight's.
    pub region: Region,
    /// The metadata offsets that it names.
    pub blobs_used: Vec<u64>,
}

/// Reads an operation; `None` where it is another one.
pub fn read(operation: &Operation, specification: i32, blobs: &Blobs) -> Reading<Option<Encoded>> {
    if !operation.r#type.starts_with("constexpr_") {
        return Ok(None);
    }
    let mut parameters = Parameters { values: BTreeMap::new(), blobs, used: Vec::new() };
    if specification >= WITH_LITERALS {
        if operation.attributes.keys().ne(["name"]) {
            return Err("it has attributes".to_string());
        }
        for (name, argument) in &operation.inputs {
            let [binding] = &argument.arguments[..] else {
                return Err(format!("its {name} is not one value"));
            };
            let Some(binding::Binding::Value(value)) = &binding.binding else {
                return Err(format!("its {name} is no literal"));
            };
            parameters.values.insert(name, value);
        }
    } else {
        if !operation.inputs.is_empty() {
            return Err("it has inputs".to_string());
        }
        let others = operation.attributes.iter().filter(|(name, _)| *name != "name");
        parameters.values.extend(others.map(|(name, value)| (name.as_str(), value)));
    }
    let region = match (operation.r#type.as_str(), specification >= WITH_LITERALS) {
        ("constexpr_affine_dequantize", false) => parameters.affine()?,
        ("constexpr_lut_to_dense", false) => parameters.table()?,
        ("constexpr_blockwise_shift_scale", true) => parameters.scales()?,
        ("constexpr_lut_to_dense", true) => parameters.tables()?,
        _ => return Err("snapc does not write it for this specification version".to_string()),
    };
    match parameters.values.keys().next() {
        Some(name) => Err(format!("it has a parameter {name}")),
        None => Ok(Some(Encoded { region, blobs_used: parameters.used })),
    }
}

/// The parameters that are not read yet.
struct Parameters<'a> {
    values: BTreeMap<&'a str, &'a Value>,
    blobs: &'a Blobs,
    used: Vec<u64>,
}

impl<'a> Parameters<'a> {
    fn take(&mut self, name: &str) -> Reading<&'a Value> {
        self.values.remove(name).ok_or_else(|| format!("it has no {name}"))
    }

    /// A value that lies in the weight file: its type, its sizes and its blob, which has as many numbers.
    fn stored(&mut self, name: &str) -> Reading<(DataType, Vec<usize>, Blob)> {
        let value = self.take(name)?;
        let (data_type, shape) = shaped(value.r#type.as_ref(), MOST_AXES)?;
        let offset = blob_of(value)?;
        let blob = self.blobs.at(offset)?;
        let count = shape.iter().product::<usize>() as u64;
        if blob.element != element(data_type)? || blob.count() != count {
            return Err(format!(
                "the blob of its {name} has {} numbers of {:?}, its type {count} of {}",
                blob.count(),
                blob.element,
                data_type.as_str_name()
            ));
        }
        self.used.push(offset);
        Ok((data_type, shape, blob))
    }

    /// Scales or tables: finite numbers of the type of the result.
    fn floats(&mut self, name: &str) -> Reading<(DType, Vec<usize>, Tables)> {
        let (data_type, shape, blob) = self.stored(name)?;
        let dtype = element_type(data_type).ok().filter(|dtype| dtype.is_float());
        let dtype = dtype.ok_or_else(|| format!("its {name} is of {}", data_type.as_str_name()))?;
        let numbers = self.blobs.floats(&blob)?;
        if numbers.iter().any(|number| !number.is_finite()) {
            return Err(format!("its {name} has a number that is not finite"));
        }
        Ok((dtype, shape, (numbers, blob.start..blob.start + blob.bytes)))
    }

    /// `scale * (data - zero_point)`, along one axis.
    fn affine(&mut self) -> Reading<Region> {
        let (_, shape, blob) = self.stored("quantized_data")?;
        let bits = blob.element.signed_bits().filter(|&bits| bits == 8).ok_or("its data is no int8")?;
        let (dtype, sizes, tables) = self.floats("scale")?;
        let (_, zeros, zero_points) = self.stored("zero_point")?;
        if zero_points.element != blob.element || zeros != sizes || !self.blobs.is_zero(&zero_points)? {
            return Err("its zero points are not one zero a scale".to_string());
        }
        let axis = self.take("axis")?;
        let axis = Constant::read(axis, self.blobs)?;
        let (&[axis], []) = (axis.ints()?, &axis.shape[..]) else {
            return Err("its axis is no integer".to_string());
        };
        let axis = usize::try_from(axis).ok().filter(|&axis| axis < shape.len());
        let axis = axis.ok_or("there is no such axis")?;
        if sizes != [shape[axis]] {
            return Err(format!("it has scales of sizes {sizes:?} for an axis of {}", shape[axis]));
        }
        let mut blocks = vec![1; shape.len()];
        blocks[axis] = shape[axis];
        Ok(region(&blob, dtype, shape, coding(Code::Int { bits }, blocks, tables)))
    }

    /// `lut[index]`, the indices being packed into bytes.
    fn table(&mut self) -> Reading<Region> {
        let (_, packed, blob) = self.stored("indices")?;
        let (dtype, sizes, tables) = self.floats("lut")?;
        let (&[bytes], &[entries]) = (&packed[..], &sizes[..]) else {
            return Err("its indices or its table are no lists".to_string());
        };
        let bits = [2, 4, 6, 8].into_iter().find(|bits| entries == 1 << bits);
        let bits = bits.ok_or_else(|| format!("its table has {entries} numbers"))?;
        let value = self.take("shape")?;
        let (data_type, axes) = shaped(value.r#type.as_ref(), MOST_AXES)?;
        let (sizes, rest) = raw_bytes(value)?.as_chunks::<4>();
        let shape: Vec<usize> = sizes.iter().map(|size| u32::from_le_bytes(*size) as usize).collect();
        if data_type != DataType::Uint32 || axes != [shape.len()] || !rest.is_empty() {
            return Err("its shape is no list of uint32".to_string());
        }
        let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        let count = count.filter(|&count| count > 0 && count <= usize::MAX / 8);
        let count = count.ok_or("its shape is empty or too large")?;
        if (count * bits).div_ceil(8) != bytes || blob.element != (Element::Unsigned { bits: 8 }) {
            return Err(format!("{bytes} bytes are not {count} indices of {bits} bits"));
        }
        let blocks = vec![1; shape.len()];
        Ok(region(&blob, dtype, shape, coding(Code::Palette { bits }, blocks, tables)))
    }

    /// `scale * data`, by blocks.
    fn scales(&mut self) -> Reading<Region> {
        let (_, shape, blob) = self.stored("data")?;
        let bits = blob.element.signed_bits().ok_or("its data are no signed integers")?;
        let (dtype, blocks, tables) = self.floats("scale")?;
        check_blocks(&shape, &blocks)?;
        Ok(region(&blob, dtype, shape, coding(Code::Int { bits }, blocks, tables)))
    }

    /// `lut[block, index]`.
    fn tables(&mut self) -> Reading<Region> {
        let (_, shape, blob) = self.stored("indices")?;
        let Element::Unsigned { bits } = blob.element else {
            return Err("its indices are no unsigned integers".to_string());
        };
        let (dtype, sizes, tables) = self.floats("lut")?;
        let Some((blocks, &[entries, 1])) = sizes.split_last_chunk::<2>() else {
            return Err(format!("its tables have the sizes {sizes:?}"));
        };
        if entries != 1 << bits {
            return Err(format!("its tables have {entries} numbers for {bits} bits"));
        }
        check_blocks(&shape, blocks)?;
        Ok(region(&blob, dtype, shape, coding(Code::Palette { bits }, blocks.to_vec(), tables)))
    }
}

/// A convolution's tables have two axes more than its weight.
const MOST_AXES: usize = 7;

fn region(blob: &Blob, dtype: DType, shape: Vec<usize>, coding: Coding) -> Region {
    Region { coding: Some(coding), ..Region::plain("", blob.start, dtype, shape) }
}

fn coding(code: Code, blocks: Vec<usize>, (tables, at): Tables) -> Coding {
    Coding { code, blocks, tables, tables_at: Some(at) }
}

fn check_blocks(shape: &[usize], blocks: &[usize]) -> Reading<()> {
    let fits = shape.len() == blocks.len()
        && shape.iter().zip(blocks).all(|(size, &blocks)| blocks > 0 && size.is_multiple_of(blocks));
    if fits { Ok(()) } else { Err(format!("blocks {blocks:?} do not divide the sizes {shape:?}")) }
}

fn element(data_type: DataType) -> Reading<Element> {
    Ok(match data_type {
        DataType::Float16 => Element::Float(DType::F16),
        DataType::Float32 => Element::Float(DType::F32),
        DataType::Int8 => Element::Signed { bits: 8 },
        DataType::Int4 => Element::Signed { bits: 4 },
        DataType::Uint8 => Element::Unsigned { bits: 8 },
        DataType::Uint6 => Element::Unsigned { bits: 6 },
        DataType::Uint4 => Element::Unsigned { bits: 4 },
        DataType::Uint3 => Element::Unsigned { bits: 3 },
        DataType::Uint2 => Element::Unsigned { bits: 2 },
        other => return Err(format!("snapc writes no blobs of {}", other.as_str_name())),
    })
}

impl Encoded {
    /// The type of the weight.
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.region.dtype, self.region.shape.clone())
    }
}
