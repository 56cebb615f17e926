use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require, require_float};
use crate::types::TensorType;

/// What 8-bit integers with one scale hold of `x`: `clamp(round(x / scale), -128, 127) * scale`, element by element; halves are rounded
/// to the even integer. Operand: `x`. Result: as `x`. Computed in f32, then rounded to the type of `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FakeQuantize {
    /// The distance of two numbers that stay: a normal number above 0.
    pub scale: f32,
}

impl FakeQuantize {
    /// The largest code.
    pub const LARGEST: f32 = 127.0;
    /// The smallest code.
    pub const SMALLEST: f32 = -128.0;

    /// What becomes of one number.
    pub fn of(&self, x: f32) -> f32 {
        (x / self.scale).round_ties_even().clamp(Self::SMALLEST, Self::LARGEST) * self.scale
    }
}

impl OpDef for FakeQuantize {
    const NAME: &'static str = "fake_quantize";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        require_float("x", operands[0])?;
        let scale = self.scale;
        require(scale.is_normal() && scale > 0.0, || {
            format!("the scale is {scale}, expected a normal number above 0")
        })?;
        Ok(vec![operands[0].clone()])
    }
}
