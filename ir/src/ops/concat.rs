use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require};
use crate::types::TensorType;

/// Tensors behind each other on one axis. Operands: one or more, equal but for that axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Concat {
    /// The axis.
    pub axis: usize,
}

impl OpDef for Concat {
    const NAME: &'static str = "concat";
    const OPERANDS: &'static [&'static str] = &["x*"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let mut result = operands[0].clone();
        require(self.axis < result.rank(), || format!("{result} has no axis {}", self.axis))?;
        for ty in &operands[1..] {
            let mut expected = result.clone();
            if ty.rank() == expected.rank() {
                expected.shape[self.axis] = ty.shape[self.axis];
            }
            require(**ty == expected, || format!("{ty} does not continue {result} on axis {}", self.axis))?;
            result.shape[self.axis] += ty.shape[self.axis];
        }
        Ok(vec![result])
    }
}
