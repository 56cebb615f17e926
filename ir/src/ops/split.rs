use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::types::TensorType;

/// Cuts an axis into equal parts. Operand: `x`. Results: the parts in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// The axis.
    pub axis: usize,
    /// How many parts.
    pub parts: usize,
}

impl OpDef for Split {
    const NAME: &'static str = "split";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let mut ty = operands[0].clone();
        let fits = self.axis < ty.rank() && self.parts > 0 && ty.shape[self.axis].is_multiple_of(self.parts);
        require(fits, || format!("axis {} of {ty} cannot be cut into {} parts", self.axis, self.parts))?;
        ty.shape[self.axis] /= self.parts;
        Ok(vec![ty; self.parts])
    }

    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let size = b.ty(operands[0]).shape[self.axis] / self.parts;
        let parts = (0..self.parts).map(|part| b.slice(operands[0], self.axis, part * size, size));
        Ok(Some(parts.collect::<Result<_>>()?))
    }
}
