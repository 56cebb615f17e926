use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require};
use crate::types::{DType, TensorType, shape_text};
use crate::weight::Transform;

/// New axis `i` is the old axis `perm[i]`. Operand: `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transpose {
    /// The old axis of each new one.
    pub perm: Vec<usize>,
}

impl OpDef for Transpose {
    const NAME: &'static str = "transpose";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let x = operands[0];
        let shape = Transform::Transpose(self.perm.clone())
            .apply(&x.shape)
            .ok_or_else(|| format!("{:?} does not permute the axes of {x}", self.perm))?;
        Ok(vec![x.with_shape(shape)])
    }
}

/// Other sizes over the same numbers in the same order. Operand: `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reshape {
    /// The new sizes.
    pub shape: Vec<usize>,
}

impl OpDef for Reshape {
    const NAME: &'static str = "reshape";
    const OPERANDS: &'static [&'static str] = &["x"];
    const HOLDS_SIZES: bool = true;

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let x = operands[0];
        let result = x.with_shape(self.shape.clone());
        require(result.count() == x.count(), || format!("{x} cannot become {}", shape_text(&self.shape)))?;
        Ok(vec![result])
    }
}

/// `size` numbers of one axis from `start` on. Operand: `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The axis.
    pub axis: usize,
    /// The first that stays.
    pub start: usize,
    /// How many stay.
    pub size: usize,
}

impl OpDef for Slice {
    const NAME: &'static str = "slice";
    const OPERANDS: &'static [&'static str] = &["x"];
    const HOLDS_SIZES: bool = true;

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let mut ty = operands[0].clone();
        let fits = self.axis < ty.rank()
            && self.size > 0
            && self.start.checked_add(self.size).is_some_and(|end| end <= ty.shape[self.axis]);
        require(fits, || {
            format!("{ty} has no {} numbers from {} on axis {}", self.size, self.start, self.axis)
        })?;
        ty.shape[self.axis] = self.size;
        Ok(vec![ty])
    }
}

/// The same numbers in another floating-point type, rounded to nearest, ties to even. Operand: `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cast {
    /// The new type.
    pub dtype: DType,
}

impl OpDef for Cast {
    const NAME: &'static str = "cast";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let x = operands[0];
        let values = [DType::F32, DType::F16];
        require(values.contains(&x.dtype) && values.contains(&self.dtype), || {
            format!("{x} cannot be cast to {}", self.dtype)
        })?;
        Ok(vec![TensorType::new(self.dtype, x.shape.clone())])
    }
}
