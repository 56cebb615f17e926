use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require, require_float, require_rank, require_type};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::types::{DType, TensorType};

/// Root-mean-square norm: `y = x / sqrt(mean(x^2) + eps) * weight`, the mean over the last axis.
/// Operands: `x [.., C]`, `weight [C]`. Result: as `x`. Computed in f32, then rounded to the type of `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsNorm {
    /// Added to the mean of squares.
    pub eps: f32,
}

impl OpDef for RmsNorm {
    const NAME: &'static str = "rms_norm";
    const OPERANDS: &'static [&'static str] = &["x", "weight?"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        infer_last_axis(operands)
    }

    /// f16 goes through f32: a square passes f16's range from |x| = 256 on.
    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let dtype = b.ty(operands[0]).dtype;
        let x = b.cast(operands[0], DType::F32)?;
        let last = b.ty(x).rank() - 1;
        let square = b.mul(x, x)?;
        let mean = b.reduce_mean(square, last)?;
        let shifted = b.add_scalar(mean, self.eps)?;
        let inverse = b.rsqrt(shifted)?;
        let scaled = b.mul(x, inverse)?;
        let y = b.cast(scaled, dtype)?;
        Ok(Some(vec![match operands.get(1) {
            Some(&weight) => b.mul(y, weight)?,
            None => y,
        }]))
    }
}

/// Layer norm: `y = (x - mean) / sqrt(variance + eps) * weight + bias`, over the last axis.
/// Operands: `x [.., C]`, `weight [C]`, `bias [C]`. Result: as `x`. Computed in f32, then rounded to the type of `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
}

impl OpDef for LayerNorm {
    const NAME: &'static str = "layer_norm";
    const OPERANDS: &'static [&'static str] = &["x", "weight?", "bias?"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        infer_last_axis(operands)
    }

    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let dtype = b.ty(operands[0]).dtype;
        let x = b.cast(operands[0], DType::F32)?;
        let y = normalize_last(b, x, self.eps)?;
        let mut y = b.cast(y, dtype)?;
        if let Some(&weight) = operands.get(1) {
            y = b.mul(y, weight)?;
        }
        if let Some(&bias) = operands.get(2) {
            y = b.add(y, bias)?;
        }
        Ok(Some(vec![y]))
    }
}

/// Group norm over a map: mean and variance of each of `groups` groups of channels.
/// Operands: `x [B, C, H, W]`, `weight [C]`, `bias [C]`. Result: as `x`. Computed in f32, then rounded to the type of `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupNorm {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl OpDef for GroupNorm {
    const NAME: &'static str = "group_norm";
    const OPERANDS: &'static [&'static str] = &["x", "weight", "bias"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let x = operands[0];
        require_float("x", x)?;
        require_rank("x", x, 4)?;
        require(self.groups > 0 && x.shape[1].is_multiple_of(self.groups), || {
            format!("{} channels cannot be cut into {} groups", x.shape[1], self.groups)
        })?;
        for (name, ty) in [("weight", operands[1]), ("bias", operands[2])] {
            require_type(name, ty, &x.with_shape([x.shape[1]]))?;
        }
        Ok(vec![x.clone()])
    }

    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let ty = b.ty(operands[0]).clone();
        let channels = ty.shape[1];
        let x = b.cast(operands[0], DType::F32)?;
        let grouped = b.reshape(x, [ty.shape[0], self.groups, ty.count() / ty.shape[0] / self.groups])?;
        let normed = normalize_last(b, grouped, self.eps)?;
        let map = b.reshape(normed, ty.shape.clone())?;
        let map = b.cast(map, ty.dtype)?;
        let weight = b.reshape(operands[1], [1, channels, 1, 1])?;
        let bias = b.reshape(operands[2], [1, channels, 1, 1])?;
        let scaled = b.mul(map, weight)?;
        Ok(Some(vec![b.add(scaled, bias)?]))
    }
}

fn normalize_last(b: &mut Builder, x: ValueId, eps: f32) -> Result<ValueId> {
    let last = b.ty(x).rank() - 1;
    let mean = b.reduce_mean(x, last)?;
    let centred = b.sub(x, mean)?;
    let square = b.mul(centred, centred)?;
    let variance = b.reduce_mean(square, last)?;
    let shifted = b.add_scalar(variance, eps)?;
    let inverse = b.rsqrt(shifted)?;
    b.mul(centred, inverse)
}

fn infer_last_axis(operands: &[&TensorType]) -> Inferred {
    let x = operands[0];
    require_float("x", x)?;
    require(x.rank() > 0, || format!("x is {x}, expected at least one axis"))?;
    for (name, ty) in ["weight", "bias"].iter().zip(&operands[1..]) {
        require_type(name, ty, &x.with_shape([x.last()]))?;
    }
    Ok(vec![x.clone()])
}
