use std::ops::Range;

use snapc_ir::ops::{Attention, Pattern};
use snapc_ir::{Result, TokenOrder};

use super::{Call, Execute};
use crate::kernels::attend::{Attend, Sizes};
use crate::kernels::row_blocks;
use crate::pool::Buffer;
use crate::value::Value;

/// Queries of a block where every query sees every key.
const BLOCK: usize = 64;

impl Execute for Attention {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let values = match self.pattern {
            Pattern::Dense => dense(call, self.scale, false),
            Pattern::Causal => dense(call, self.scale, true),
            Pattern::Neighborhood { grid, tile, radius, order } => {
                neighborhood(call, self.scale, &Tiling::new(grid, tile, radius, order))
            }
        };
        call.one(values)
    }
}

fn sizes(call: &Call) -> Sizes {
    let [batch, queries, heads, dim] = [0, 1, 2, 3].map(|axis| call.shape(0)[axis]);
    let [keys, groups] = [1, 2].map(|axis| call.shape(1)[axis]);
    Sizes { batch, queries, keys, heads, groups, dim }
}

fn dense(call: &Call, scale: f32, causal: bool) -> Buffer {
    let sizes = sizes(call);
    let mut values = call.fresh();
    let (q, k, v, mask) = (call.values(0), call.values(1), call.values(2), call.optional(3));
    let attend = Attend { sizes, scale, q, k, v, mask, causal, tile: sizes.keys, block: BLOCK, order: None };
    attend.run(&mut values, call.pool, &|_| std::iter::once(0..1).collect());
    values
}

/// The tiles of a grid.
struct Tiling {
    /// Rows and columns of tiles.
    tiles: [usize; 2],
    /// Tokens of a tile.
    tokens: usize,
    radius: usize,
    /// The token at each place, tile by tile; none where tokens lie so.
    order: Option<Vec<usize>>,
}

impl Tiling {
    fn new(grid: [usize; 2], tile: usize, radius: usize, order: TokenOrder) -> Self {
        let tiles = [grid[0] / tile, grid[1] / tile];
        let order = (order.sides().first() != Some(&tile)).then(|| {
            let mut token_at = vec![0; grid[0] * grid[1]];
            for (token, [row, col]) in order.places(grid).into_iter().enumerate() {
                let within = row % tile * tile + col % tile;
                token_at[(row / tile * tiles[1] + col / tile) * tile * tile + within] = token;
            }
            token_at
        });
        Tiling { tiles, tokens: tile * tile, radius, order }
    }

    /// The tiles that a tile sees: of each row of tiles those behind each other.
    fn seen(&self, tile: usize) -> Vec<Range<usize>> {
        let [rows, cols] = self.tiles;
        let near =
            |at: usize, tiles: usize| at.saturating_sub(self.radius)..(at + self.radius + 1).min(tiles);
        let across = near(tile % cols, cols);
        near(tile / cols, rows).map(|row| row * cols + across.start..row * cols + across.end).collect()
    }
}

fn neighborhood(call: &Call, scale: f32, tiling: &Tiling) -> Buffer {
    let sizes = sizes(call);
    let mut values = call.fresh();
    let (q, k, v) = (call.values(0), call.values(1), call.values(2));
    let (tile, order) = (tiling.tokens, tiling.order.as_deref());
    let attend = Attend { sizes, scale, q, k, v, mask: None, causal: false, tile, block: tile, order };
    attend.run(&mut values, call.pool, &|tile| tiling.seen(tile));
    let Some(order) = order else { return values };
    // Back from tiles: each token reads its place.
    let mut place_of = vec![0; order.len()];
    order.iter().enumerate().for_each(|(place, &token)| place_of[token] = place);
    let (tokens, row) = (order.len(), sizes.heads * sizes.dim);
    let mut moved = call.fresh();
    row_blocks(&mut moved, row, |first, block| {
        for (token, to) in block.chunks_exact_mut(row).enumerate() {
            let token = first + token;
            let place = token / tokens * tokens + place_of[token % tokens];
            to.copy_from_slice(&values[place * row..][..row]);
        }
    });
    call.pool.give(values);
    moved
}
