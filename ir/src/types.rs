//! Element types and tensor types.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The type of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16: only as stored in a checkpoint, never the type of a value.
    BF16,
    /// 32-bit signed integer.
    I32,
}

impl DType {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        self != DType::I32
    }

    /// The name in the text form: `f32`, `f16`, `bf16`, `i32`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [DType::F32, DType::F16, DType::BF16, DType::I32]
            .into_iter()
            .find(|dtype| dtype.name() == text)
            .ok_or_else(|| format!("`{text}` is no element type; the types are f32, f16, bf16, i32"))
    }
}

/// A dense row-major tensor's element type and sizes. A scalar has no axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// The type of each number.
    pub dtype: DType,
    /// The size of each axis, outermost first.
    pub shape: Vec<usize>,
}

impl TensorType {
    /// A tensor type.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        TensorType { dtype, shape: shape.into() }
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        element_count(&self.shape)
    }

    /// The number of bytes when stored plainly.
    pub fn bytes(&self) -> usize {
        self.count().saturating_mul(self.dtype.size())
    }

    /// The size of the last axis; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The same type with other sizes.
    pub fn with_shape(&self, shape: impl Into<Vec<usize>>) -> Self {
        TensorType::new(self.dtype, shape)
    }
}

/// How many numbers a shape holds; the largest number there is where that does not fit.
pub fn element_count(shape: &[usize]) -> usize {
    shape.iter().fold(1, |count: usize, &size| count.saturating_mul(size))
}

/// Writes sizes as `[2, 16, 64]`.
pub fn shape_text(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, shape_text(&self.shape))
    }
}

/// The runs of axes that hold the same numbers before and after a reshape, outermost first; `None` where one shape has axes of 1 left that
/// belong to none of the other, or the shapes hold not as many numbers.
pub(crate) fn joined(from: &[usize], to: &[usize]) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    let mut runs = Vec::new();
    let (mut old, mut new) = (0, 0);
    while old < from.len() && new < to.len() {
        let (first_old, first_new) = (old, new);
        let (mut count_old, mut count_new) = (from[old], to[new]);
        while count_old != count_new {
            if count_old < count_new {
                old += 1;
                count_old *= from.get(old)?;
            } else {
                new += 1;
                count_new *= to.get(new)?;
            }
        }
        (old, new) = (old + 1, new + 1);
        runs.push((first_old..old, first_new..new));
    }
    let ones = |sizes: &[usize]| sizes.iter().all(|&size| size == 1);
    (ones(&from[old..]) && ones(&to[new..])).then_some(runs)
}
