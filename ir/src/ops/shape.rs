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

/// Of each axis `sizes[axis]` numbers from `starts[axis]` on. Operand: `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Of each axis the first that stays.
    pub starts: Vec<usize>,
    /// Of each axis how many stay.
    pub sizes: Vec<usize>,
}

impl Slice {
    /// Cuts one axis of a shape and leaves the others whole.
    pub fn of_axis(shape: &[usize], axis: usize, start: usize, size: usize) -> Self {
        let (mut starts, mut sizes) = (vec![0; shape.len()], shape.to_vec());
        if axis < shape.len() {
            (starts[axis], sizes[axis]) = (start, size);
        }
        Slice { starts, sizes }
    }

    /// The axes that do not stay whole.
    pub fn cut(&self, shape: &[usize]) -> Vec<usize> {
        (0..shape.len()).filter(|&axis| (self.starts[axis], self.sizes[axis]) != (0, shape[axis])).collect()
    }
}

impl OpDef for Slice {
    const NAME: &'static str = "slice";
    const OPERANDS: &'static [&'static str] = &["x"];
    const HOLDS_SIZES: bool = true;

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let ty = operands[0];
        let rank = ty.rank();
        require(self.starts.len() == rank && self.sizes.len() == rank, || {
            format!(
                "{ty} has {rank} axes, {} starts and {} sizes are given",
                self.starts.len(),
                self.sizes.len()
            )
        })?;
        for (axis, (&start, &size)) in self.starts.iter().zip(&self.sizes).enumerate() {
            let fits = size > 0 && start.checked_add(size).is_some_and(|end| end <= ty.shape[axis]);
            require(fits, || format!("{ty} has no {size} numbers from {start} on axis {axis}"))?;
        }
        Ok(vec![ty.with_shape(self.sizes.clone())])
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
