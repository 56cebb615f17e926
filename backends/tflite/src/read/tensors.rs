//! Tensors of a model: where their numbers are and whether that can be.

use half::f16;
use snapc_ir::{DType, Dim, Error, Result, TensorType, Weight, shape_text};
use snapc_weights::Region;

use super::encoded::Codes;
use super::flat::Table;
use super::require;
use crate::legal::MOST_NUMBERS;
use crate::schema::{slot, tensor_type};

/// The fields of `Tensor` that snapc writes.
pub const KNOWN: &[u16] = &[
    slot::tensor::SHAPE,
    slot::tensor::TYPE,
    slot::tensor::BUFFER,
    slot::tensor::NAME,
    slot::tensor::QUANTIZATION,
    slot::tensor::HAS_RANK,
];

/// Where the bytes of a buffer are.
pub enum Buffer<'a> {
    /// There are none.
    Empty,
    /// In the flatbuffer.
    Inline(&'a [u8]),
    /// Behind it.
    Outside {
        /// The first byte, from the start of the file on.
        offset: u64,
        /// How many there are.
        size: u64,
    },
}

impl<'a> Buffer<'a> {
    /// Reads a `Buffer`.
    pub fn read(table: &Table<'a>) -> Result<Self> {
        let (offset, size) = (table.u64(slot::buffer::OFFSET)?, table.u64(slot::buffer::SIZE)?);
        match (table.data(slot::buffer::DATA)?, offset, size) {
            (None, 0, 0) => Ok(Buffer::Empty),
            (Some(data), 0, 0) => Ok(Buffer::Inline(data)),
            // 1 stands for an offset that is not known yet.
            (None, 2.., 1..) => Ok(Buffer::Outside { offset, size }),
            _ => Err(Error::input(format!("a buffer has the offset {offset} and the size {size}"))),
        }
    }
}

/// A tensor.
pub struct Tensor<'a> {
    pub name: &'a str,
    /// Its numbers; those that codes stand for, where it has such.
    pub ty: TensorType,
    pub buffer: usize,
    /// What its codes stand for.
    pub codes: Option<Codes>,
    /// The scale of the codes that an operator makes.
    pub scale: Option<f32>,
}

/// What the numbers of a tensor are.
pub enum Constant {
    /// A list of integers: sizes, bounds or axes.
    Integers(Vec<i32>),
    /// A weight, and where its numbers are if not in the flatbuffer.
    Weight(Box<Weight>, Option<Region>),
}

impl<'a> Tensor<'a> {
    /// Reads a `Tensor`.
    pub fn read(table: &Table<'a>, buffers: &[Buffer]) -> Result<Self> {
        let name = table.text(slot::tensor::NAME)?;
        let kind = table.i8(slot::tensor::TYPE)?;
        let (dtype, bits) = match kind {
            tensor_type::FLOAT32 => (DType::F32, None),
            tensor_type::FLOAT16 => (DType::F16, None),
            // What is added to products of codes has scales, sizes and axes have none.
            tensor_type::INT32 if table.has(slot::tensor::QUANTIZATION)? => (DType::F32, Some(32)),
            tensor_type::INT32 => (DType::I32, None),
            tensor_type::INT8 => (DType::F32, Some(8)),
            tensor_type::INT4 => (DType::F32, Some(4)),
            other => return Err(Error::input(format!("{name} has numbers of type {other}"))),
        };
        require(table.bool(slot::tensor::HAS_RANK)?, || format!("{name} has no fixed number of axes"))?;
        let shape = sizes(&table.ints(slot::tensor::SHAPE, 8)?)?;
        let buffer = table.u32(slot::tensor::BUFFER)? as usize;
        let found = buffers.get(buffer).ok_or_else(|| Error::input(format!("{name} has no buffer")))?;
        let ty = TensorType::new(dtype, shape);
        // The sizes of a scalar are an empty list.
        let list = dtype == DType::I32 && matches!(found, Buffer::Inline(_));
        require(list || !ty.shape.contains(&0), || format!("{name} is empty"))?;
        require(ty.count() <= MOST_NUMBERS, || {
            format!("{name} is too large, with sizes {}", shape_text(&ty.shape))
        })?;
        let made = matches!(found, Buffer::Empty);
        let codes = match bits {
            Some(8) if made => None,
            Some(bits) => {
                let outside = matches!(found, Buffer::Outside { .. }) || bits == 32 && !made;
                require(outside && ty.rank() > 0, || {
                    format!("the codes of {name} are not behind the flatbuffer")
                })?;
                Some(Codes::read(table, name, bits, &ty.shape)?)
            }
            None => {
                require(!table.has(slot::tensor::QUANTIZATION)?, || {
                    format!("{name} has scales, but no codes")
                })?;
                None
            }
        };
        let scale = (made && bits == Some(8)).then(|| Codes::scale(table, name)).transpose()?;
        Ok(Tensor { name, ty, buffer, codes, scale })
    }

    /// The tensor's own numbers; `None` where an operator makes them.
    pub fn constant(&self, buffer: &Buffer) -> Result<Option<Constant>> {
        let bytes = match buffer {
            Buffer::Empty => return Ok(None),
            Buffer::Inline(data) => data.len() as u64,
            Buffer::Outside { size, .. } => *size,
        };
        let (name, ty) = (self.name, self.ty.clone());
        let coding = self.codes.as_ref().map(|codes| codes.coding(&ty.shape));
        let expected = Region { coding, ..Region::plain(name, 0, ty.dtype, ty.shape.clone()) };
        require(bytes == expected.bytes(), || {
            format!("{name} has {bytes} bytes, {ty} takes {}", expected.bytes())
        })?;
        Ok(Some(match buffer {
            Buffer::Outside { offset, .. } => {
                let dims = ty.shape.iter().copied().map(Dim::fixed).collect();
                let mut weight = Weight::tensor(name, ty.dtype, dims);
                weight.dtype = ty.dtype;
                let region = Region { offset: *offset, ..expected };
                Constant::Weight(Box::new(weight), Some(region))
            }
            Buffer::Inline(data) if ty.dtype == DType::I32 => {
                Constant::Integers(chunks(data).map(i32::from_le_bytes).collect())
            }
            Buffer::Inline(data) => {
                let values = match ty.dtype {
                    _ if self.codes.is_some() => {
                        let steps = chunks(data).map(i32::from_le_bytes);
                        let lengths = expected.coding.as_ref().map_or(&[][..], |coding| &coding.tables);
                        steps.zip(lengths).map(|(step, length)| step as f32 * length).collect()
                    }
                    DType::F16 => chunks(data).map(|bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
                    _ => chunks(data).map(f32::from_le_bytes).collect(),
                };
                let mut weight = Weight::inline(name, values, ty.shape);
                weight.dtype = ty.dtype;
                Constant::Weight(Box::new(weight), None)
            }
            Buffer::Empty => return Ok(None),
        }))
    }
}

fn chunks<const N: usize>(raw: &[u8]) -> impl Iterator<Item = [u8; N]> {
    raw.chunks_exact(N).filter_map(|bytes| bytes.try_into().ok())
}

/// A size, a bound or an axis.
pub fn size(value: i32) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::input(format!("{value} is no size")))
}

pub fn sizes(values: &[i32]) -> Result<Vec<usize>> {
    values.iter().map(|&value| size(value)).collect()
}
