use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require, require_float, require_rank, require_type};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::types::TensorType;

/// The order of the axes of a convolution's operands and result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Maps `[B, C, H, W]`, weights `[out, C / groups, kh, kw]`.
    #[default]
    Nchw,
    /// Maps `[B, H, W, C]`, weights `[out, kh, kw, C / groups]`; only in graphs of targets that convolve so.
    Nhwc,
}

impl Layout {
    /// The axis of the channels, in maps and in weights.
    fn channels(self) -> usize {
        match self {
            Layout::Nchw => 1,
            Layout::Nhwc => 3,
        }
    }

    /// The axes of rows and columns.
    fn rows_and_columns(self) -> [usize; 2] {
        match self {
            Layout::Nchw => [2, 3],
            Layout::Nhwc => [1, 2],
        }
    }

    fn is_nchw(&self) -> bool {
        *self == Layout::Nchw
    }
}

/// A two-dimensional convolution over `x [B, C, H, W]` with `weight [out, C / groups, kh, kw]` and `bias [out]`.
/// Result: `[B, out, H', W']`, `H' = (H + 2 padding - kh) / stride + 1`. The number of groups follows from the operands.
/// Products are summed in f32, then rounded to the type of `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv2d {
    /// Steps between windows, on both axes.
    pub stride: usize,
    /// Zeros around the map, on all four sides.
    pub padding: usize,
    /// The order of the axes.
    #[serde(default, skip_serializing_if = "Layout::is_nchw")]
    pub layout: Layout,
}

impl Conv2d {
    /// The number of groups for these operands.
    pub fn groups(&self, x: &TensorType, weight: &TensorType) -> usize {
        let channels = self.layout.channels();
        x.shape[channels] / weight.shape[channels]
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
        let axis = self.layout.channels();
        let (channels, out, part) = (x.shape[axis], weight.shape[0], weight.shape[axis]);
        let fits = part > 0 && channels.is_multiple_of(part) && out.is_multiple_of(channels / part);
        require(fits && x.dtype == weight.dtype, || format!("weight {weight} does not fit x {x}"))?;
        if let Some(bias) = operands.get(2) {
            require_type("bias", bias, &TensorType::new(x.dtype, [out]))?;
        }
        let mut shape = x.shape.clone();
        shape[axis] = out;
        for axis in self.layout.rows_and_columns() {
            let (size, kernel) = (x.shape[axis] + 2 * self.padding, weight.shape[axis]);
            require(self.stride > 0 && kernel > 0 && size >= kernel, || {
                format!("weight {weight} with stride {} does not fit x {x}", self.stride)
            })?;
            shape[axis] = (size - kernel) / self.stride + 1;
        }
        Ok(vec![x.with_shape(shape)])
    }

    /// [`Layout::Nchw`] is the primitive.
    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        if self.layout == Layout::Nchw {
            return Ok(None);
        }
        let x = b.transpose(operands[0], &[0, 3, 1, 2])?;
        let weight = b.transpose(operands[1], &[0, 3, 1, 2])?;
        let conv = Conv2d { layout: Layout::Nchw, ..self.clone() };
        let y = b.one(conv, &[&[x, weight], &operands[2..]].concat())?;
        Ok(Some(vec![b.transpose(y, &[0, 2, 3, 1])?]))
    }

    fn flops(&self, operands: &[&TensorType], results: &[&TensorType]) -> u64 {
        2 * results[0].count() as u64 * operands[1].shape[1..].iter().product::<usize>() as u64
    }
}
