use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require, require_float, require_rank, require_type};
use crate::types::TensorType;

/// `y = x W^T + b`. Operands: `x [.., in]`, `weight [out, in]`, `bias [out]`. Result: `[.., out]`.
/// Products are summed in f32, then rounded to the type of `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {}

impl OpDef for Linear {
    const NAME: &'static str = "linear";
    const OPERANDS: &'static [&'static str] = &["x", "weight", "bias?"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let (x, weight) = (operands[0], operands[1]);
        require_float("x", x)?;
        require_rank("weight", weight, 2)?;
        require(x.rank() > 0 && x.last() == weight.shape[1] && x.dtype == weight.dtype, || {
            format!("weight is {weight}, expected {}[.., {}] for x {x}", x.dtype, x.last())
        })?;
        if let Some(bias) = operands.get(2) {
            require_type("bias", bias, &TensorType::new(x.dtype, [weight.shape[0]]))?;
        }
        let mut shape = x.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = weight.shape[0];
        }
        Ok(vec![x.with_shape(shape)])
    }

    fn flops(&self, operands: &[&TensorType], results: &[&TensorType]) -> u64 {
        2 * results[0].count() as u64 * operands[0].last() as u64
    }
}
