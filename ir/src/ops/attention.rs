use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require, require_float, require_rank, require_type};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::types::TensorType;
use crate::weight::{Table, Weight};

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// All of them.
    Dense,
    /// Those at or before its own place.
    Causal,
    /// Queries and keys lie on one grid, row-major, cut into tiles; a query sees the keys of the tiles at most `radius`
    /// tile rows and tile columns away that exist.
    Neighborhood {
        /// Rows and columns of the grid.
        grid: [usize; 2],
        /// Side of a tile.
        tile: usize,
        /// Neighbouring tiles on each side.
        radius: usize,
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
            Pattern::Neighborhood { grid, tile, radius } => {
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
            Pattern::Neighborhood { grid, tile, .. } => {
                let tokens = grid[0] * grid[1];
                require(operands.len() == 3, || "a neighborhood takes no mask".to_string())?;
                require(q.shape[1] == tokens && k.shape[1] == tokens, || {
                    format!("q {q} and k {k} do not lie on a {} x {} grid", grid[0], grid[1])
                })?;
                require(tile > 0 && grid[0].is_multiple_of(tile) && grid[1].is_multiple_of(tile), || {
                    format!("a {} x {} grid cannot be cut into tiles of {tile}", grid[0], grid[1])
                })?;
            }
        }
        Ok(vec![q.clone()])
    }

    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let q = b.mul_scalar(operands[0], self.scale)?;
        let (k, v) = (operands[1], operands[2]);
        let result = match self.pattern {
            Pattern::Dense => expand_dense(b, q, k, v, operands.get(3).copied(), false)?,
            Pattern::Causal => expand_dense(b, q, k, v, operands.get(3).copied(), true)?,
            Pattern::Neighborhood { grid, tile, radius } => expand_tiles(b, q, k, v, grid, tile, radius)?,
        };
        Ok(Some(vec![result]))
    }

    fn flops(&self, operands: &[&TensorType], _results: &[&TensorType]) -> u64 {
        4 * self.scores(operands[0], operands[1]) * operands[0].last() as u64
    }
}

/// The query heads of one key-value head become rows, so that keys are never copied: scores are `[B, g, N * u, M]`.
fn expand_dense(
    b: &mut Builder,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    mask: Option<ValueId>,
    causal: bool,
) -> Result<ValueId> {
    let (qt, kt) = (b.ty(q).clone(), b.ty(k).clone());
    let [batch, queries, heads, dim] = [0, 1, 2, 3].map(|axis| qt.shape[axis]);
    let (keys, groups) = (kt.shape[1], kt.shape[2]);
    let repeat = heads / groups;
    let q = b.reshape(q, [batch, queries, groups, repeat * dim])?;
    let q = b.transpose(q, &[0, 2, 1, 3])?;
    let q = b.reshape(q, [batch, groups, queries * repeat, dim])?;
    let k = b.transpose(k, &[0, 2, 1, 3])?;
    let v = b.transpose(v, &[0, 2, 1, 3])?;
    let mut scores = b.matmul(q, k, true)?;
    if causal {
        let table = Weight::table(
            format!("table.causal_mask.{queries}.{keys}.{repeat}"),
            Table::CausalMask { queries, keys, repeat },
        );
        let table = b.weight(table)?;
        let table = b.cast_weight(table, qt.dtype)?;
        scores = b.add(scores, table)?;
    }
    if let Some(mask) = mask {
        let row = b.reshape(mask, [batch, 1, 1, keys])?;
        let shifted = b.add_scalar(row, -1.0)?;
        let bias = b.mul_scalar(shifted, -MASKED)?;
        scores = b.add(scores, bias)?;
    }
    let weights = b.softmax(scores)?;
    let sums = b.matmul(weights, v, false)?;
    let sums = b.reshape(sums, [batch, groups, queries, repeat * dim])?;
    let sums = b.transpose(sums, &[0, 2, 1, 3])?;
    b.reshape(sums, [batch, queries, heads, dim])
}

/// A run of tile rows (or columns) that see equally many tiles before and behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Band {
    start: usize,
    size: usize,
    before: usize,
    behind: usize,
}

impl Band {
    /// Pairs of a tile of the band and a tile that it sees.
    fn pairs(&self) -> usize {
        self.size * (self.before + self.behind + 1)
    }
}

/// The bands of `tiles` tiles in order: at most `radius` single ones at each border and one between.
fn bands(tiles: usize, radius: usize) -> Vec<Band> {
    let mut bands: Vec<Band> = Vec::new();
    for tile in 0..tiles {
        let (before, behind) = (tile.min(radius), (tiles - 1 - tile).min(radius));
        match bands.last_mut() {
            Some(band) if (band.before, band.behind) == (before, behind) => band.size += 1,
            _ => bands.push(Band { start: tile, size: 1, before, behind }),
        }
    }
    bands
}

/// Exact at the borders without pad, gather or mask: the tiles fall into at most `(2 radius + 1)^2` regions whose
/// tiles all see neighbours at the same offsets. Each region is one batched product; the number of ops does not
/// depend on the grid.
fn expand_tiles(
    b: &mut Builder,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    grid: [usize; 2],
    tile: usize,
    radius: usize,
) -> Result<ValueId> {
    let (qt, kt) = (b.ty(q).clone(), b.ty(k).clone());
    let [batch, _, heads, dim] = [0, 1, 2, 3].map(|axis| qt.shape[axis]);
    let groups = kt.shape[2];
    let (rows, cols) = (grid[0] / tile, grid[1] / tile);
    let layout = Tiles { batch, rows, cols, tile, groups };
    let repeat = heads / groups;
    let q = layout.tiles_from_tokens(b, q, repeat * dim)?;
    let k = layout.tiles_from_tokens(b, k, dim)?;
    let v = layout.tiles_from_tokens(b, v, dim)?;
    let mut bands_of_rows = Vec::new();
    for row in bands(rows, radius) {
        let mut pieces = Vec::new();
        for col in bands(cols, radius) {
            let batch = batch * row.size * col.size;
            let queries = layout.region(b, q, (row.start, row.size), (col.start, col.size))?;
            let queries = b.reshape(queries, [batch, groups, tile * tile * repeat, dim])?;
            let keys = layout.neighbours(b, k, row, col, dim)?;
            let values = layout.neighbours(b, v, row, col, dim)?;
            let scores = b.matmul(queries, keys, true)?;
            let weights = b.softmax(scores)?;
            let sums = b.matmul(weights, values, false)?;
            let shape = [layout.batch, row.size, col.size, groups * tile * tile * repeat * dim];
            pieces.push(b.reshape(sums, shape)?);
        }
        bands_of_rows.push(b.concat(&pieces, 2)?);
    }
    let all = b.concat(&bands_of_rows, 1)?;
    let tokens = layout.tokens_from_tiles(b, all, repeat * dim)?;
    b.reshape(tokens, qt.shape)
}

/// A token grid cut into tiles, kept as `[batch, tile row, tile column, g * tile^2 * numbers]`, heads outermost in a tile.
struct Tiles {
    batch: usize,
    rows: usize,
    cols: usize,
    tile: usize,
    groups: usize,
}

impl Tiles {
    fn tiles_from_tokens(&self, b: &mut Builder, x: ValueId, numbers: usize) -> Result<ValueId> {
        let Tiles { batch, rows, cols, tile, groups } = *self;
        let x = b.reshape(x, [batch * rows, tile, cols, tile * groups * numbers])?;
        let x = b.transpose(x, &[0, 2, 1, 3])?;
        let x = b.reshape(x, [batch * rows * cols, tile * tile, groups, numbers])?;
        let x = b.transpose(x, &[0, 2, 1, 3])?;
        b.reshape(x, [batch, rows, cols, groups * tile * tile * numbers])
    }

    fn tokens_from_tiles(&self, b: &mut Builder, x: ValueId, numbers: usize) -> Result<ValueId> {
        let Tiles { batch, rows, cols, tile, groups } = *self;
        let x = b.reshape(x, [batch * rows * cols, groups, tile * tile, numbers])?;
        let x = b.transpose(x, &[0, 2, 1, 3])?;
        let x = b.reshape(x, [batch * rows, cols, tile, tile * groups * numbers])?;
        let x = b.transpose(x, &[0, 2, 1, 3])?;
        b.reshape(x, [batch, rows * tile * cols * tile, groups, numbers])
    }

    fn region(
        &self,
        b: &mut Builder,
        x: ValueId,
        rows: (usize, usize),
        cols: (usize, usize),
    ) -> Result<ValueId> {
        let x = b.slice(x, 1, rows.0, rows.1)?;
        b.slice(x, 2, cols.0, cols.1)
    }

    /// `[region's tiles, g, seen tiles * tile^2, numbers]`.
    fn neighbours(
        &self,
        b: &mut Builder,
        x: ValueId,
        row: Band,
        col: Band,
        numbers: usize,
    ) -> Result<ValueId> {
        let shape = [self.batch * row.size * col.size, self.groups, self.tile * self.tile, numbers];
        let mut seen = Vec::new();
        for first_row in row.start - row.before..=row.start + row.behind {
            for first_col in col.start - col.before..=col.start + col.behind {
                let tiles = self.region(b, x, (first_row, row.size), (first_col, col.size))?;
                seen.push(b.reshape(tiles, shape)?);
            }
        }
        b.concat(&seen, 2)
    }
}
