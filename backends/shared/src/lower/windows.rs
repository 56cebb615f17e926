use snapc_ir::ops::attention::{Tiles, attend};
use snapc_ir::ops::{Attention, Pattern};
use snapc_ir::{Builder, Result, TensorType, ValueId};

use super::{Device, Lowering, moved};

/// A neighbourhood tile by tile: each tile's queries with the keys that they see, and nothing padded or masked. On CPUs its scores
/// stay in a cache: 90 ms a layer in ONNX Runtime and 110 in LiteRT, against 148 and 173 for regions (64 x 64 tokens in tiles of 8,
/// width 1024, one thread).
pub struct Windows;

/// With more tiles the graph itself would become the work.
const MOST_TILES: usize = 1024;

/// With fewer scores a tile, calling an op costs more than what it computes.
const FEWEST_SCORES: usize = 4096;

impl Lowering for Windows {
    fn takes(&self, device: Device, op: &Attention, operands: &[&TensorType]) -> Option<String> {
        let Pattern::Neighborhood { grid, tile, order, .. } = op.pattern else { return None };
        let tiles = (grid[0] / tile) * (grid[1] / tile);
        let scores = op.scores(operands[0], operands[1]) as usize / tiles;
        (device == Device::Cpu && tiles <= MOST_TILES && scores >= FEWEST_SCORES).then(|| {
            format!("tile by tile, unrolled: on a CPU the scores of a tile stay in a cache{}", moved(order))
        })
    }

    fn lower(&self, b: &mut Builder, _: Device, op: &Attention, operands: &[ValueId]) -> Result<ValueId> {
        let tiles = Tiles::new(b, op, operands)?;
        let grouped = tiles.grouped;
        let (pairs, dim) = (grouped.batch * grouped.groups, grouped.dim);
        let queries = tiles.tokens * grouped.repeat;
        let q = b.reshape(grouped.q, [pairs, tiles.rows * tiles.cols * queries, dim])?;
        let [k, v] =
            [grouped.k, grouped.v].map(|x| b.reshape(x, [pairs, tiles.rows, tiles.cols, tiles.tokens * dim]));
        let (k, v) = (k?, v?);
        let near = |tile: usize, tiles_there: usize| {
            let start = tile.saturating_sub(tiles.radius);
            (start, (tile + tiles.radius + 1).min(tiles_there) - start)
        };
        let mut sums = Vec::new();
        for row in 0..tiles.rows {
            for col in 0..tiles.cols {
                let ((row_start, rows), (col_start, cols)) = (near(row, tiles.rows), near(col, tiles.cols));
                let mut seen = |x| -> Result<ValueId> {
                    let part = b.slice_all(
                        x,
                        &[0, row_start, col_start, 0],
                        &[pairs, rows, cols, tiles.tokens * dim],
                    )?;
                    b.reshape(part, [pairs, rows * cols * tiles.tokens, dim])
                };
                let (keys, values) = (seen(k)?, seen(v)?);
                let own = b.slice(q, 1, (row * tiles.cols + col) * queries, queries)?;
                sums.push(attend(b, own, keys, values, &[])?);
            }
        }
        let all = b.concat(&sums, 1)?;
        tiles.heads(b, all)
    }
}
