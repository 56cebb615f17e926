use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require, require_rank};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::types::TensorType;

/// A map as tokens in row-major order. Operand: `x [B, C, H, W]`. Result: `[B, H * W, C]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokensFromMap {}

impl OpDef for TokensFromMap {
    const NAME: &'static str = "tokens_from_map";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let x = operands[0];
        require_rank("x", x, 4)?;
        Ok(vec![x.with_shape([x.shape[0], x.shape[2] * x.shape[3], x.shape[1]])])
    }

    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let shape = b.ty(operands[0]).shape.clone();
        let flat = b.reshape(operands[0], [shape[0], shape[1], shape[2] * shape[3]])?;
        Ok(Some(vec![b.transpose(flat, &[0, 2, 1])?]))
    }
}

/// The inverse of [`TokensFromMap`]. Operand: `x [B, H * W, C]`. Result: `[B, C, H, W]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapFromTokens {
    /// Rows and columns, `[H, W]`.
    pub grid: [usize; 2],
}

impl OpDef for MapFromTokens {
    const NAME: &'static str = "map_from_tokens";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let x = operands[0];
        check_tokens(x, self.grid)?;
        Ok(vec![x.with_shape([x.shape[0], x.shape[2], self.grid[0], self.grid[1]])])
    }

    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let shape = b.ty(operands[0]).shape.clone();
        let flat = b.transpose(operands[0], &[0, 2, 1])?;
        Ok(Some(vec![b.reshape(flat, [shape[0], shape[2], self.grid[0], self.grid[1]])?]))
    }
}

/// Each token becomes `factor x factor` tokens; its numbers are read as `[factor (row), factor (column), C]`.
/// Operand: `x [B, rows * cols, factor^2 * C]`. Result: `[B, rows * factor * cols * factor, C]`, row-major.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitTokens {
    /// Rows and columns before.
    pub grid: [usize; 2],
    /// How many rows and columns each token becomes.
    pub factor: usize,
}

impl OpDef for SplitTokens {
    const NAME: &'static str = "split_tokens";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let x = operands[0];
        check_tokens(x, self.grid)?;
        let pieces = self.factor * self.factor;
        require(pieces > 0 && x.last().is_multiple_of(pieces), || {
            format!("{x} cannot be split into {pieces}")
        })?;
        Ok(vec![x.with_shape([x.shape[0], x.shape[1] * pieces, x.last() / pieces])])
    }

    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let ty = b.ty(operands[0]).clone();
        let (batch, channels) = (ty.shape[0], ty.last() / self.factor / self.factor);
        let ([rows, cols], factor) = (self.grid, self.factor);
        let open = b.reshape(operands[0], [batch * rows, cols, factor, factor * channels])?;
        let swapped = b.transpose(open, &[0, 2, 1, 3])?;
        Ok(Some(vec![b.reshape(swapped, [batch, ty.shape[1] * factor * factor, channels])?]))
    }
}

fn check_tokens(x: &TensorType, grid: [usize; 2]) -> std::result::Result<(), String> {
    require_rank("x", x, 3)?;
    require(x.shape[1] == grid[0] * grid[1], || format!("{x} has not {} x {} tokens", grid[0], grid[1]))
}

/// Each number of a map `factor x factor` times. Operand: `x [B, C, H, W]`. Result: `[B, C, factor * H, factor * W]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpsampleNearest {
    /// How often, on both axes.
    pub factor: usize,
}

impl OpDef for UpsampleNearest {
    const NAME: &'static str = "upsample_nearest";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let x = operands[0];
        require_rank("x", x, 4)?;
        require(self.factor > 0, || "factor is 0".to_string())?;
        Ok(vec![x.with_shape([x.shape[0], x.shape[1], x.shape[2] * self.factor, x.shape[3] * self.factor])])
    }

    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let shape = b.ty(operands[0]).shape.clone();
        let (lines, cols) = (shape[0] * shape[1] * shape[2], shape[3]);
        let column = b.reshape(operands[0], [lines, cols, 1])?;
        let wide = b.concat(&vec![column; self.factor], 2)?;
        let line = b.reshape(wide, [lines, 1, cols * self.factor])?;
        let tall = b.concat(&vec![line; self.factor], 1)?;
        let sizes = [shape[0], shape[1], shape[2] * self.factor, cols * self.factor];
        Ok(Some(vec![b.reshape(tall, sizes)?]))
    }
}
