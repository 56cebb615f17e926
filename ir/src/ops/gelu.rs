use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require_float};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::types::TensorType;

/// Which of the functions called gelu.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeluForm {
    /// `x / 2 * (1 + erf(x / sqrt 2))`.
    Erf,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    Tanh,
    /// `x * sigmoid(1.702 x)`, CLIP's quick_gelu.
    Quick,
}

/// Gaussian error linear unit. Operand: `x`. Result: as `x`. Computed in f32, then rounded to the type of `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gelu {
    /// Which of the three.
    pub form: GeluForm,
}

impl OpDef for Gelu {
    const NAME: &'static str = "gelu";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        require_float("x", operands[0])?;
        Ok(vec![operands[0].clone()])
    }

    /// The form with erf is a primitive: every target has it, none has it faster in pieces.
    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let x = operands[0];
        match self.form {
            GeluForm::Erf => Ok(None),
            GeluForm::Quick => {
                let scaled = b.mul_scalar(x, 1.702)?;
                let gate = b.sigmoid(scaled)?;
                Ok(Some(vec![b.mul(x, gate)?]))
            }
            // x (1 + 0.044715 x^2) keeps the cube inside f16's range longer than x^3 would.
            GeluForm::Tanh => {
                let square = b.mul(x, x)?;
                let part = b.mul_scalar(square, 0.044_715)?;
                let factor = b.add_scalar(part, 1.0)?;
                let cubic = b.mul(x, factor)?;
                let angle = b.mul_scalar(cubic, (2.0 / std::f64::consts::PI).sqrt() as f32)?;
                let bent = b.tanh(angle)?;
                let raised = b.add_scalar(bent, 1.0)?;
                let half = b.mul_scalar(x, 0.5)?;
                Ok(Some(vec![b.mul(half, raised)?]))
            }
        }
    }
}
