use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require_float};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::types::TensorType;

macro_rules! unary {
    ($($op:ident $name:literal $doc:literal),* $(,)?) => { $(
        #[doc = $doc]
        /// Operand: `x`. Result: as `x`. Computed in f32, then rounded to the type of `x`.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub struct $op {}

        impl OpDef for $op {
            const NAME: &'static str = $name;
            const OPERANDS: &'static [&'static str] = &["x"];

            fn infer(&self, operands: &[&TensorType]) -> Inferred {
                require_float("x", operands[0])?;
                Ok(vec![operands[0].clone()])
            }
        }
    )* };
}
unary! {
    Rsqrt "rsqrt" "`1 / sqrt(x)`, element by element.",
    Tanh "tanh" "Hyperbolic tangent, element by element.",
    Sigmoid "sigmoid" "`1 / (1 + exp(-x))`, element by element.",
    Relu "relu" "`max(x, 0)`, element by element.",
    Sin "sin" "Sine of an angle in radians, element by element.",
    Cos "cos" "Cosine of an angle in radians, element by element.",
}

/// `x * sigmoid(x)`, element by element.
/// Operand: `x`. Result: as `x`. Computed in f32, then rounded to the type of `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Silu {}

impl OpDef for Silu {
    const NAME: &'static str = "silu";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        require_float("x", operands[0])?;
        Ok(vec![operands[0].clone()])
    }

    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let gate = b.sigmoid(operands[0])?;
        Ok(Some(vec![b.mul(operands[0], gate)?]))
    }
}
