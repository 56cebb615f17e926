use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require, require_float};
use crate::types::TensorType;

/// `exp(x) / sum(exp(x))` over the last axis, computed in f32 after taking off the largest, then rounded to the type of `x`.
/// Operand: `x [.., C]`. Result: as `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Softmax {}

impl OpDef for Softmax {
    const NAME: &'static str = "softmax";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        require_float("x", operands[0])?;
        require(operands[0].rank() > 0, || "x is a scalar".to_string())?;
        Ok(vec![operands[0].clone()])
    }
}

/// The mean over one axis, which stays with size 1. Summed in f32, then rounded to the type of `x`.
/// Operand: `x`. Result: as `x`, that axis being 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReduceMean {
    /// The axis.
    pub axis: usize,
}

impl OpDef for ReduceMean {
    const NAME: &'static str = "reduce_mean";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let mut ty = operands[0].clone();
        require_float("x", &ty)?;
        require(self.axis < ty.rank(), || format!("{ty} has no axis {}", self.axis))?;
        ty.shape[self.axis] = 1;
        Ok(vec![ty])
    }
}
