use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::types::TensorType;

/// Reads the last axis as heads. Operand: `x [.., h * head_dim]`. Result: `[.., h, head_dim]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitHeads {
    /// Numbers of a head.
    pub head_dim: usize,
}

impl OpDef for SplitHeads {
    const NAME: &'static str = "split_heads";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let x = operands[0];
        require(x.rank() > 0 && self.head_dim > 0 && x.last().is_multiple_of(self.head_dim), || {
            format!("{x} cannot be read as heads of {}", self.head_dim)
        })?;
        let mut shape = x.shape[..x.rank() - 1].to_vec();
        shape.extend([x.last() / self.head_dim, self.head_dim]);
        Ok(vec![x.with_shape(shape)])
    }

    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let x = b.ty(operands[0]);
        let mut shape = x.shape[..x.rank() - 1].to_vec();
        shape.extend([x.last() / self.head_dim, self.head_dim]);
        Ok(Some(vec![b.reshape(operands[0], shape)?]))
    }
}

/// The inverse of [`SplitHeads`]. Operand: `x [.., h, d]`. Result: `[.., h * d]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeHeads {}

impl MergeHeads {
    fn shape(x: &TensorType) -> Vec<usize> {
        let outer = x.rank() - 2;
        let mut shape = x.shape[..outer].to_vec();
        shape.push(x.shape[outer] * x.shape[outer + 1]);
        shape
    }
}

impl OpDef for MergeHeads {
    const NAME: &'static str = "merge_heads";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let x = operands[0];
        require(x.rank() >= 2, || format!("x is {x}, expected at least two axes"))?;
        Ok(vec![x.with_shape(Self::shape(x))])
    }

    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let shape = Self::shape(b.ty(operands[0]));
        Ok(Some(vec![b.reshape(operands[0], shape)?]))
    }
}
