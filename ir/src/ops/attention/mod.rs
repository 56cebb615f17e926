//! Attention, and the pieces that ways to lower it are made of.

use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require, require_float, require_rank, require_type};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::order::TokenOrder;
use crate::types::TensorType;

mod dense;
mod grouped;
mod regions;
mod tiles;

pub use dense::{attend, mask_bias, whole};
pub use grouped::Grouped;
pub use regions::regions;
pub use tiles::{Band, Tiles, bands};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// All of them.
    Dense,
    /// Those at or before its own place.
    Causal,
    /// Queries and keys lie on one grid, cut into tiles; a query sees the keys of the tiles at most `radius` tile rows and tile
    /// columns away that exist.
    Neighborhood {
        /// Rows and columns of the grid.
        grid: [usize; 2],
        /// Side of a tile.
        tile: usize,
        /// Neighbouring tiles on each side.
        radius: usize,
        /// In which order the tokens lie: row-major, or tile by tile.
        #[serde(default, skip_serializing_if = "TokenOrder::is_row_major")]
        order: TokenOrder,
    },
}

/// Scaled dot-product attention with grouped queries: query head `j` uses key-value head `j / (h / g)`.
/// Operands: `q [B, N, h, d]`, `k [B, M, g, d]`, `v [B, M, g, d]`, `mask [B, M]` (1 = a real key; 0 adds -1e4 to its logits).
/// Result: `[B, N, h, d]`. Computed in f32, then rounded to the type of `q`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Which keys a query sees.
    pub pattern: Pattern,
    /// Multiplies the products of queries and keys.
    pub scale: f32,
}

/// What an exact 0 after exp takes: no overflow in f16, unlike an infinity or -3.4e38.
pub const MASKED: f32 = -1e4;

impl Attention {
    /// Pairs of a query and a key that are multiplied, over all heads and the batch.
    pub fn scores(&self, q: &TensorType, k: &TensorType) -> u64 {
        let pairs = match self.pattern {
            Pattern::Dense | Pattern::Causal => q.shape[1] * k.shape[1],
            Pattern::Neighborhood { grid, tile, radius, .. } => {
                let seen = |tiles: usize| -> usize { bands(tiles, radius).iter().map(Band::pairs).sum() };
                seen(grid[0] / tile) * seen(grid[1] / tile) * tile.pow(4)
            }
        };
        (pairs * q.shape[0] * q.shape[2]) as u64
    }
}

impl OpDef for Attention {
    const NAME: &'static str = "attention";
    const OPERANDS: &'static [&'static str] = &["q", "k", "v", "mask?"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let (q, k, v) = (operands[0], operands[1], operands[2]);
        require_float("q", q)?;
        require_rank("q", q, 4)?;
        require_rank("k", k, 4)?;
        require_type("v", v, k)?;
        let (heads, groups) = (q.shape[2], k.shape[2]);
        let fits = q.dtype == k.dtype && q.shape[0] == k.shape[0] && q.last() == k.last();
        require(fits && groups > 0 && heads.is_multiple_of(groups), || format!("k is {k}, q is {q}"))?;
        if let Some(mask) = operands.get(3) {
            require_type("mask", mask, &q.with_shape([q.shape[0], k.shape[1]]))?;
        }
        match self.pattern {
            Pattern::Dense => {}
            Pattern::Causal => {
                require(q.shape[1] == k.shape[1], || format!("causal, but k is {k} and q is {q}"))?
            }
            Pattern::Neighborhood { grid, tile, order, .. } => {
                let tokens = grid[0] * grid[1];
                require(operands.len() == 3, || "a neighborhood takes no mask".to_string())?;
                require(q.shape[1] == tokens && k.shape[1] == tokens, || {
                    format!("q {q} and k {k} do not lie on a {} x {} grid", grid[0], grid[1])
                })?;
                require(tile > 0 && grid[0].is_multiple_of(tile) && grid[1].is_multiple_of(tile), || {
                    format!("a {} x {} grid cannot be cut into tiles of {tile}", grid[0], grid[1])
                })?;
                let outermost = order.sides().first().copied();
                require(outermost.is_none_or(|side| side == tile) && order.fits(grid), || {
                    format!("tokens lie in squares of {:?}, expected tiles of {tile}", order.sides())
                })?;
            }
        }
        Ok(vec![q.clone()])
    }

    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let result = match self.pattern {
            Pattern::Dense | Pattern::Causal => whole(b, self, operands)?,
            Pattern::Neighborhood { .. } => regions(b, self, operands)?,
        };
        Ok(Some(vec![result]))
    }

    fn flops(&self, operands: &[&TensorType], _results: &[&TensorType]) -> u64 {
        4 * self.scores(operands[0], operands[1]) * operands[0].last() as u64
    }
}
