use rayon::prelude::*;
use snapc_ir::ops::{Attention, MASKED, Pattern};
use snapc_ir::{Result, TensorType, TokenOrder};
use snapc_weights::Tensor;

use super::norms::softmax_row;
use super::{Execute, one};
use crate::gemm::{Matrix, product};

/// Query rows whose scores are held at once.
const ROWS: usize = 64;

impl Execute for Attention {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let mask = operands.get(3).map(|mask| mask.values());
        let values = match self.pattern {
            Pattern::Dense => dense(operands, mask, self.scale, false),
            Pattern::Causal => dense(operands, mask, self.scale, true),
            Pattern::Neighborhood { grid, tile, radius, order } => {
                neighborhood(operands, self.scale, &Tiling::new(grid, tile, radius, order))
            }
        };
        one(results[0], values)
    }
}

/// Keys and values `[M, g, d]` of one batch entry, and the sizes that go with them.
struct Keys<'a> {
    k: &'a [f32],
    v: &'a [f32],
    keys: usize,
    groups: usize,
    heads: usize,
    dim: usize,
    scale: f32,
}

impl Keys<'_> {
    /// Attention of some queries `[n, h, d]` to all keys; `bias(query, scores)` may change the logits of a query.
    fn attend(&self, q: &[f32], out: &mut [f32], scores: &mut Vec<f32>, bias: &dyn Fn(usize, &mut [f32])) {
        let (row, kv_row, dim) = (self.heads * self.dim, self.groups * self.dim, self.dim);
        let queries = q.len() / row;
        scores.resize(queries * self.keys, 0.0);
        for head in 0..self.heads {
            let group = head / (self.heads / self.groups);
            let q = Matrix::with_stride(&q[head * dim..], queries, dim, row);
            let k = Matrix::with_stride(&self.k[group * dim..], self.keys, dim, kv_row);
            let v = Matrix::with_stride(&self.v[group * dim..], self.keys, dim, kv_row);
            product(scores, self.keys, q, k.t(), self.scale, false);
            for (query, scores) in scores.chunks_exact_mut(self.keys).enumerate() {
                bias(query, scores);
                softmax_row(scores);
            }
            product(&mut out[head * dim..], row, Matrix::new(scores, queries, self.keys), v, 1.0, false);
        }
    }
}

fn dense(operands: &[&Tensor], mask: Option<&[f32]>, scale: f32, causal: bool) -> Vec<f32> {
    let (q, k, v) = (operands[0], operands[1], operands[2]);
    let [batch, queries, heads, dim] = [0, 1, 2, 3].map(|axis| q.ty.shape[axis]);
    let (keys, groups) = (k.ty.shape[1], k.ty.shape[2]);
    let (row, all_keys) = (heads * dim, keys * groups * dim);
    let mut values = vec![0.0; q.ty.count()];
    for entry in 0..batch {
        let (k, v) = (&k.values()[entry * all_keys..], &v.values()[entry * all_keys..]);
        let part = Keys { k, v, keys, groups, heads, dim, scale };
        let mask = mask.map(|mask| &mask[entry * keys..][..keys]);
        let q = &q.values()[entry * queries * row..][..queries * row];
        let out = &mut values[entry * queries * row..][..queries * row];
        out.par_chunks_mut(ROWS * row).zip(q.par_chunks(ROWS * row)).enumerate().for_each_init(
            Vec::new,
            |scores, (block, (out, q))| {
                part.attend(q, out, scores, &|query, scores| {
                    if let Some(mask) = mask {
                        scores
                            .iter_mut()
                            .zip(mask)
                            .for_each(|(score, mask)| *score += (mask - 1.0) * -MASKED);
                    }
                    if causal {
                        scores[block * ROWS + query + 1..].iter_mut().for_each(|score| *score += MASKED);
                    }
                });
            },
        );
    }
    values
}

struct Tiling {
    grid: [usize; 2],
    tile: usize,
    radius: usize,
    /// Of each place of the grid, row by row, its token.
    token_at: Vec<usize>,
}

impl Tiling {
    fn new(grid: [usize; 2], tile: usize, radius: usize, order: TokenOrder) -> Self {
        let mut token_at = vec![0; grid[0] * grid[1]];
        for (token, [row, col]) in order.places(grid).into_iter().enumerate() {
            token_at[row * grid[1] + col] = token;
        }
        Tiling { grid, tile, radius, token_at }
    }

    /// The tokens of the tiles of some tile rows and columns.
    fn tokens(&self, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>) -> Vec<usize> {
        let side = self.tile;
        let cols = cols.start * side..cols.end * side;
        (rows.start * side..rows.end * side)
            .flat_map(|row| cols.clone().map(move |col| (row, col)))
            .map(|(row, col)| self.token_at[row * self.grid[1] + col])
            .collect()
    }
}

fn neighborhood(operands: &[&Tensor], scale: f32, tiling: &Tiling) -> Vec<f32> {
    let (q, k, v) = (operands[0], operands[1], operands[2]);
    let [batch, tokens, heads, dim] = [0, 1, 2, 3].map(|axis| q.ty.shape[axis]);
    let groups = k.ty.shape[2];
    let (row, kv_row) = (heads * dim, groups * dim);
    let tiles = [tiling.grid[0] / tiling.tile, tiling.grid[1] / tiling.tile];
    let gather = |x: &Tensor, row: usize, entry: usize, places: &[usize]| -> Vec<f32> {
        places
            .iter()
            .flat_map(|place| &x.values()[(entry * tokens + place) * row..][..row])
            .copied()
            .collect()
    };
    let near =
        |tile: usize, tiles: usize| tile.saturating_sub(tiling.radius)..(tile + tiling.radius + 1).min(tiles);
    let all: Vec<(Vec<usize>, Vec<f32>)> = (0..batch * tiles[0] * tiles[1])
        .into_par_iter()
        .map(|index| {
            let (entry, place) = (index / (tiles[0] * tiles[1]), index % (tiles[0] * tiles[1]));
            let (down, right) = (place / tiles[1], place % tiles[1]);
            let own = tiling.tokens(down..down + 1, right..right + 1);
            let seen = tiling.tokens(near(down, tiles[0]), near(right, tiles[1]));
            let (k, v) = (gather(k, kv_row, entry, &seen), gather(v, kv_row, entry, &seen));
            let part = Keys { k: &k, v: &v, keys: seen.len(), groups, heads, dim, scale };
            let mut out = vec![0.0; own.len() * row];
            part.attend(&gather(q, row, entry, &own), &mut out, &mut Vec::new(), &|_, _| {});
            (own.iter().map(|token| entry * tokens + token).collect(), out)
        })
        .collect();
    let mut values = vec![0.0; q.ty.count()];
    for (places, numbers) in all {
        for (place, numbers) in places.into_iter().zip(numbers.chunks_exact(row)) {
            values[place * row..][..row].copy_from_slice(numbers);
        }
    }
    values
}
