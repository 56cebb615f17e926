use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require, require_float, require_rank, require_type};
use crate::types::TensorType;

/// A two-dimensional convolution over `x [B, C, H, W]` with `weight [out, C / groups, kh, kw]` and `bias [out]`.
/// Result: `[B, out, H', W']`, `H' = (H + 2 padding - kh) / stride + 1`. The number of groups follows from the operands.
/// Products are summed in f32, then rounded to the type of `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv2d {
    /// Steps between windows, on both axes.
    pub stride: usize,
    /// Zeros around the map, on all four sides.
    pub padding: usize,
}

impl Conv2d {
    /// The number of groups for these operands.
    pub fn groups(x: &TensorType, weight: &TensorType) -> usize {
        x.shape[1] / weight.shape[1]
    }
}

impl OpDef for Conv2d {
    const NAME: &'static str = "conv2d";
    const OPERANDS: &'static [&'static str] = &["x", "weight", "bias?"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let (x, weight) = (operands[0], operands[1]);
        require_float("x", x)?;
        require_rank("x", x, 4)?;
        require_rank("weight", weight, 4)?;
        let (channels, out, part) = (x.shape[1], weight.shape[0], weight.shape[1]);
        let fits = part > 0 && channels.is_multiple_of(part) && out.is_multiple_of(channels / part);
        require(fits && x.dtype == weight.dtype, || format!("weight {weight} does not fit x {x}"))?;
        if let Some(bias) = operands.get(2) {
            require_type("bias", bias, &TensorType::new(x.dtype, [out]))?;
        }
        let mut shape = vec![x.shape[0], out];
        for axis in [2, 3] {
            let (size, kernel) = (x.shape[axis] + 2 * self.padding, weight.shape[axis]);
            require(self.stride > 0 && kernel > 0 && size >= kernel, || {
                format!("weight {weight} with stride {} does not fit x {x}", self.stride)
            })?;
            shape.push((size - kernel) / self.stride + 1);
        }
        Ok(vec![x.with_shape(shape)])
    }

    fn flops(&self, operands: &[&TensorType], results: &[&TensorType]) -> u64 {
        2 * results[0].count() as u64 * operands[1].shape[1..].iter().product::<usize>() as u64
    }
}
