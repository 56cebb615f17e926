use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require, require_type};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::types::{DType, TensorType};
use crate::weight::{Table, Weight};

/// diffusers' sinusoidal embedding, `[cos(t f) | sin(t f)]` with `f_i = 10000^(-2i / dim)`
/// (`flip_sin_to_cos=True, downscale_freq_shift=0`). Operand: `timestep f32[B]`. Result: `f32[B, 1, dim]`, the 1
/// standing for the tokens. Only in f32: angles reach 1000, where f16's step is 0.5.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimestepEmbedding {
    /// Length of the embedding; even.
    pub dim: usize,
}

impl OpDef for TimestepEmbedding {
    const NAME: &'static str = "timestep_embedding";
    const OPERANDS: &'static [&'static str] = &["timestep"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let batch = operands[0].shape.first().copied().unwrap_or(1);
        require_type("timestep", operands[0], &TensorType::new(DType::F32, [batch]))?;
        require(self.dim > 0 && self.dim.is_multiple_of(2), || {
            format!("dim is {}, expected even", self.dim)
        })?;
        Ok(vec![TensorType::new(DType::F32, [batch, 1, self.dim])])
    }

    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let batch = b.ty(operands[0]).shape[0];
        let table = Table::TimestepFrequencies { dim: self.dim };
        let frequencies =
            b.weight(Weight::table(format!("table.timestep_frequencies.{}", self.dim), table))?;
        let timestep = b.reshape(operands[0], [batch, 1, 1])?;
        let angles = b.mul(timestep, frequencies)?;
        let cos = b.cos(angles)?;
        let sin = b.sin(angles)?;
        Ok(Some(vec![b.concat(&[cos, sin], 2)?]))
    }
}
