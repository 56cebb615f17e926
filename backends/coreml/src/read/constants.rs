//! Types and constants of a program (`MIL.proto`: `ValueType`, `Value`).

use coreml_proto::proto::mil_spec::tensor_value::Value as TensorContent;
use coreml_proto::proto::mil_spec::value::Value as Content;
use coreml_proto::proto::mil_spec::value::immediate_value::Value as ImmediateContent;
use coreml_proto::proto::mil_spec::{DataType, Value, ValueType, dimension, value_type};
use half::f16;
use snapc_ir::{DType, TensorType};

use super::Reading;
use super::blobs::{Blobs, Element};

/// The weight file as a program names it.
const WEIGHT_FILE: &str = "@model_path/weights/weight.bin";

/// The most axes that Core ML has.
pub const MOST_AXES: usize = 5;

/// The most numbers that a tensor may have here: a bound before sizes are multiplied.
const MOST_NUMBERS: usize = 1 << 40;

/// The numbers of a constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// f32, or f16 widened.
    Floats(Vec<f32>),
    Ints(Vec<i32>),
    Bools(Vec<bool>),
    Text(String),
    /// In the weight file: the metadata's offset and where the numbers start.
    Blob {
        metadata: u64,
        start: u64,
    },
}

/// A constant of a program.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    pub data_type: DataType,
    pub shape: Vec<usize>,
    pub numbers: Numbers,
}

impl Constant {
    /// Reads a value and checks it against its type.
    pub fn read(value: &Value, blobs: &Blobs) -> Reading<Self> {
        if !value.doc_string.is_empty() {
            return Err("it has a docString".to_string());
        }
        let (data_type, shape) = shaped(value.r#type.as_ref(), MOST_AXES)?;
        let count: usize = shape.iter().product();
        let numbers = match &value.value {
            Some(Content::ImmediateValue(immediate)) => match &immediate.value {
                Some(ImmediateContent::Tensor(tensor)) => {
                    let content = tensor.value.as_ref().ok_or("it has no numbers")?;
                    immediate_numbers(data_type, count, content)?
                }
                _ => return Err("it is no tensor".to_string()),
            },
            Some(Content::BlobFileValue(_)) => in_file(data_type, count, blob_of(value)?, blobs)?,
            None => return Err("it has no value".to_string()),
        };
        Ok(Constant { data_type, shape, numbers })
    }
}

impl Constant {
    /// Its integers.
    pub fn ints(&self) -> Reading<&[i32]> {
        match &self.numbers {
            Numbers::Ints(values) => Ok(values),
            _ => Err("it is no list of integers".to_string()),
        }
    }
}

/// The metadata offset of a value that lies in the weight file.
pub fn blob_of(value: &Value) -> Reading<u64> {
    if !value.doc_string.is_empty() {
        return Err("it has a docString".to_string());
    }
    match &value.value {
        Some(Content::BlobFileValue(file)) if file.file_name == WEIGHT_FILE => Ok(file.offset),
        Some(Content::BlobFileValue(file)) => {
            Err(format!("it lies in `{}`, expected {WEIGHT_FILE}", file.file_name))
        }
        _ => Err("it does not lie in the weight file".to_string()),
    }
}

/// The bytes of a value whose type stands as such in the program.
pub fn raw_bytes(value: &Value) -> Reading<&[u8]> {
    let Some(Content::ImmediateValue(immediate)) = &value.value else {
        return Err("it does not stand in the program".to_string());
    };
    match &immediate.value {
        Some(ImmediateContent::Tensor(tensor)) => match &tensor.value {
            Some(TensorContent::Bytes(bytes)) if value.doc_string.is_empty() => Ok(&bytes.values),
            _ => Err("its numbers are not given as bytes".to_string()),
        },
        _ => Err("it is no tensor".to_string()),
    }
}

fn in_file(data_type: DataType, count: usize, metadata: u64, blobs: &Blobs) -> Reading<Numbers> {
    let blob = blobs.at(metadata)?;
    let dtype = element_type(data_type)?;
    let bytes = (count as u64).saturating_mul(dtype.size() as u64);
    if blob.element != Element::Float(dtype) || blob.bytes != bytes {
        return Err(format!(
            "its blob has {} bytes of {:?}, its type {bytes} of {dtype}",
            blob.bytes, blob.element
        ));
    }
    Ok(Numbers::Blob { metadata, start: blob.start })
}

/// Each type has its own field of the message; f16 goes as raw little-endian bytes.
fn immediate_numbers(data_type: DataType, count: usize, content: &TensorContent) -> Reading<Numbers> {
    let (length, numbers) = match (data_type, content) {
        (DataType::Float32, TensorContent::Floats(floats)) => {
            (floats.values.len(), Numbers::Floats(floats.values.clone()))
        }
        (DataType::Float16, TensorContent::Bytes(bytes)) => {
            let (halves, rest) = bytes.values.as_chunks::<2>();
            if !rest.is_empty() {
                return Err("it has half a number".to_string());
            }
            let widened = halves.iter().map(|half| f16::from_le_bytes(*half).to_f32()).collect();
            (halves.len(), Numbers::Floats(widened))
        }
        (DataType::Int32, TensorContent::Ints(ints)) => {
            (ints.values.len(), Numbers::Ints(ints.values.clone()))
        }
        (DataType::Bool, TensorContent::Bools(bools)) => {
            (bools.values.len(), Numbers::Bools(bools.values.clone()))
        }
        (DataType::String, TensorContent::Strings(strings)) => match &strings.values[..] {
            [only] => (1, Numbers::Text(only.clone())),
            _ => return Err("it is a list of texts".to_string()),
        },
        _ => return Err(format!("a {} stands in the field of another type", data_type.as_str_name())),
    };
    if length != count {
        return Err(format!("it has {length} numbers, its type {count}"));
    }
    Ok(numbers)
}

/// The element type and the sizes of a tensor type of at most so many axes; no size is 0 and their product is bounded.
pub fn shaped(ty: Option<&ValueType>, most_axes: usize) -> Reading<(DataType, Vec<usize>)> {
    let Some(value_type::Type::TensorType(tensor)) = ty.and_then(|ty| ty.r#type.as_ref()) else {
        return Err("it is no tensor".to_string());
    };
    let data_type = DataType::try_from(tensor.data_type)
        .map_err(|_| format!("there is no element type {}", tensor.data_type))?;
    let shape: Vec<usize> = tensor
        .dimensions
        .iter()
        .map(|dimension| match &dimension.dimension {
            Some(dimension::Dimension::Constant(constant)) => i32::try_from(constant.size)
                .ok()
                .and_then(|size| usize::try_from(size).ok())
                .filter(|&size| size > 0),
            _ => None,
        })
        .collect::<Option<_>>()
        .ok_or("a size is unknown, 0 or too large")?;
    if shape.len() > most_axes {
        return Err(format!("it has {} axes, more than {most_axes}", shape.len()));
    }
    if tensor.rank != shape.len() as i64 || !tensor.attributes.is_empty() {
        return Err(format!("its rank is {}, it has {} sizes", tensor.rank, shape.len()));
    }
    shape
        .iter()
        .try_fold(1usize, |count, &size| count.checked_mul(size).filter(|&count| count <= MOST_NUMBERS))
        .ok_or("it has too many numbers")?;
    Ok((data_type, shape))
}

/// The type of a value that a graph can have.
pub fn tensor_type(ty: Option<&ValueType>) -> Reading<TensorType> {
    let (data_type, shape) = shaped(ty, MOST_AXES)?;
    Ok(TensorType::new(element_type(data_type)?, shape))
}

/// The element type that a graph's values can have.
pub fn element_type(data_type: DataType) -> Reading<DType> {
    match data_type {
        DataType::Float32 => Ok(DType::F32),
        DataType::Float16 => Ok(DType::F16),
        DataType::Int32 => Ok(DType::I32),
        other => Err(format!("snapc writes no tensors of {}", other.as_str_name())),
    }
}
