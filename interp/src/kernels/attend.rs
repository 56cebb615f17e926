//! Attention without a matrix of scores. Keys and values are packed once; then each block of queries, as columns, goes through the keys
//! that it sees: scores of as many queries as fill a tile, softmax down the columns, and their sums of values.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use snapc_ir::ops::MASKED;

use super::functions::exp_down;
use super::tile::{self, LOW, TALL, VECTORS, WIDEST, is_tall, multiply, store, zeros};
use super::{blocks, row_blocks, with_room};
use crate::pool::{Buffer, Pool};

/// Sizes of an attention: `q [batch, queries, heads, dim]`, `k` and `v [batch, keys, groups, dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Batch entries.
    pub batch: usize,
    /// Queries of an entry.
    pub queries: usize,
    /// Keys of an entry.
    pub keys: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub groups: usize,
    /// Numbers of a head.
    pub dim: usize,
}

/// What is attended to what.
pub struct Attend<'a> {
    /// The sizes.
    pub sizes: Sizes,
    /// Multiplies the products of queries and keys.
    pub scale: f32,
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// 1 for a real key, `[batch, keys]`.
    pub mask: Option<&'a [f32]>,
    /// Whether a query sees no key behind its own place.
    pub causal: bool,
    /// Keys that lie behind each other and are seen together or not at all: a tile, or all.
    pub tile: usize,
    /// Queries of a block; the tiles that a block sees are the same for all its queries.
    pub block: usize,
    /// The token at each place, tile by tile; none where tokens lie so.
    pub order: Option<&'a [usize]>,
}

/// Keys and values as the products read them. A tile is filled up to whole panels.
struct Packed {
    /// `[batch, groups, places / rows, dim, rows]`, rows being those of a tile of products.
    k: Buffer,
    /// `[batch, groups, dim / rows, places, rows]`.
    v: Buffer,
    /// Places of a tile.
    stride: usize,
    /// Places of all tiles.
    places: usize,
    /// Panels of a head's numbers.
    panels: usize,
}

impl Attend<'_> {
    fn token(&self, place: usize) -> usize {
        self.order.map_or(place, |order| order[place])
    }

    fn pack(&self, pool: &Pool) -> Packed {
        let Sizes { batch, keys, groups, dim, .. } = self.sizes;
        let rows = tile::rows();
        let stride = self.tile.next_multiple_of(rows);
        let (places, panels) = (keys / self.tile * stride, dim.div_ceil(rows));
        let row = groups * dim;
        // The key of a place, as where its token's numbers begin; none where a tile is filled up.
        let start = |pair: usize, place: usize| {
            let within = place % stride;
            let token = (within < self.tile).then(|| self.token(place / stride * self.tile + within));
            token.map(|token| (pair / groups * keys + token) * row + pair % groups * dim)
        };
        let mut k = pool.take(batch * groups * places * dim);
        row_blocks(&mut k, dim * rows, |first, block| {
            for (panel, numbers) in block.chunks_exact_mut(dim * rows).enumerate() {
                let (pair, panel) = ((first + panel) / (places / rows), (first + panel) % (places / rows));
                for lane in 0..rows {
                    let numbers = numbers.chunks_exact_mut(rows);
                    match start(pair, panel * rows + lane) {
                        Some(start) => {
                            numbers.zip(&self.k[start..start + dim]).for_each(|(to, x)| to[lane] = *x);
                        }
                        None => numbers.for_each(|to| to[lane] = 0.0),
                    }
                }
            }
        });
        let mut v = pool.take(batch * groups * panels * rows * places);
        row_blocks(&mut v, places * rows, |first, block| {
            for (panel, numbers) in block.chunks_exact_mut(places * rows).enumerate() {
                let (pair, panel) = ((first + panel) / panels, (first + panel) % panels);
                let size = rows.min(dim - panel * rows);
                for (place, to) in numbers.chunks_exact_mut(rows).enumerate() {
                    let size = if let Some(start) = start(pair, place) {
                        to[..size].copy_from_slice(&self.v[start + panel * rows..][..size]);
                        size
                    } else {
                        0
                    };
                    to[size..].fill(0.0);
                }
            }
        });
        Packed { k, v, stride, places, panels }
    }

    /// Writes `[batch, queries, heads, dim]`, queries as `order` lays them. `seen(block)` gives the tiles that a block sees.
    pub fn run(&self, out: &mut [f32], pool: &Pool, seen: &(dyn Fn(usize) -> Vec<Range<usize>> + Sync)) {
        let Sizes { batch, queries, heads, dim, .. } = self.sizes;
        if out.is_empty() {
            return;
        }
        let packed = self.pack(pool);
        let row = heads * dim;
        for (entry, out) in out.chunks_exact_mut(out.len() / batch).enumerate() {
            debug_assert_eq!(out.len(), queries * row);
            blocks(out, self.block * row, |number, out| {
                let tiles = seen(number);
                let first = number * self.block;
                let places = tiles.iter().map(|tiles| tiles.len() * packed.stride).sum::<usize>();
                with_room((dim + places) * tile::columns(), |room| {
                    let (packed, tiles) = (&packed, &tiles[..]);
                    Arch::new().dispatch(Block { all: self, packed, entry, first, tiles, room, out });
                });
            });
        }
        [packed.k, packed.v].into_iter().for_each(|buffer| pool.give(buffer));
    }
}

/// A query of a head.
#[derive(Clone, Copy, Default)]
struct Column {
    /// The place of its token.
    place: usize,
    /// Where its numbers begin in all queries.
    query: usize,
    /// Where its result begins in the block's.
    out: usize,
}

/// A block of queries.
struct Block<'a> {
    all: &'a Attend<'a>,
    packed: &'a Packed,
    entry: usize,
    /// The place of its first query.
    first: usize,
    tiles: &'a [Range<usize>],
    /// Room for queries and scores.
    room: &'a mut [f32],
    out: &'a mut [f32],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if is_tall::<S>() {
            self.columns::<S, TALL>(simd);
        } else {
            self.columns::<S, LOW>(simd);
        }
    }
}

impl Block<'_> {
    #[inline(always)]
    fn columns<S: Simd, const R: usize>(mut self, simd: S) {
        let Sizes { heads, groups, dim, .. } = self.all.sizes;
        let width = tile::width::<S>();
        let rows = self.out.len() / (heads * dim) * (heads / groups);
        let (q, scores) = std::mem::take(&mut self.room).split_at_mut(dim * width);
        let mut columns = [Column::default(); WIDEST];
        for group in 0..groups {
            for start in (0..rows).step_by(width) {
                let columns = &mut columns[..width.min(rows - start)];
                self.find(columns, group, start);
                self.pack_queries(q, width, columns);
                self.score::<S, R>(simd, q, scores, group);
                self.change(scores, width, columns);
                let shares = softmax_columns(simd, scores);
                self.sum_values::<S, R>(simd, scores, group, columns, &shares);
            }
        }
    }

    /// The columns from row `start` of a group on. Rows are the heads of a group at one token, then those at the next.
    #[inline(always)]
    fn find(&self, columns: &mut [Column], group: usize, start: usize) {
        let Sizes { queries, heads, groups, dim, .. } = self.all.sizes;
        let repeat = heads / groups;
        let (mut token, mut head) = (start / repeat, start % repeat);
        for column in columns {
            let place = self.first + token;
            let head_of = |token: usize| (token * heads + group * repeat + head) * dim;
            *column = Column {
                place,
                query: head_of(self.entry * queries + self.all.token(place)),
                out: head_of(token),
            };
            head += 1;
            if head == repeat {
                (token, head) = (token + 1, 0);
            }
        }
    }

    #[inline(always)]
    fn pack_queries(&self, q: &mut [f32], width: usize, columns: &[Column]) {
        let Attend { q: queries, scale, sizes, .. } = self.all;
        for (lane, column) in columns.iter().enumerate() {
            let query = &queries[column.query..][..sizes.dim];
            q.chunks_exact_mut(width).zip(query).for_each(|(to, x)| to[lane] = x * scale);
        }
        for to in q.chunks_exact_mut(width) {
            to[columns.len()..].fill(0.0);
        }
    }

    /// Scores `[places, width]`.
    #[inline(always)]
    fn score<S: Simd, const R: usize>(&self, simd: S, q: &[f32], scores: &mut [f32], group: usize) {
        let Sizes { groups, dim, .. } = self.all.sizes;
        let Packed { k, stride, places, .. } = self.packed;
        let k = &k[(self.entry * groups + group) * places * dim..][..places * dim];
        let mut rest = scores.chunks_exact_mut(R * tile::width::<S>());
        for tiles in self.tiles {
            let k = &k[tiles.start * stride * dim..tiles.end * stride * dim];
            for (k, scores) in k.chunks_exact(dim * R).zip(&mut rest) {
                let mut tile = zeros::<S, R>(simd);
                multiply(simd, &mut tile, k, q);
                store::<S, R>(&tile, scores);
            }
        }
    }

    /// What is no key gets no weight; masks.
    #[inline(always)]
    fn change(&self, scores: &mut [f32], width: usize, columns: &[Column]) {
        let Attend { sizes, mask, causal, tile, .. } = self.all;
        let stride = self.packed.stride;
        if *tile < stride {
            for tile_scores in scores.chunks_exact_mut(stride * width) {
                tile_scores[tile * width..].fill(f32::NEG_INFINITY);
            }
        }
        // Only where all keys are one tile.
        if let Some(mask) = mask {
            let mask = &mask[self.entry * sizes.keys..][..sizes.keys];
            for (scores, mask) in scores.chunks_exact_mut(width).zip(mask) {
                let bias = (mask - 1.0) * -MASKED;
                scores.iter_mut().for_each(|score| *score += bias);
            }
        }
        if *causal {
            for (lane, column) in columns.iter().enumerate() {
                let behind = scores[..sizes.keys * width].chunks_exact_mut(width).skip(column.place + 1);
                behind.for_each(|scores| scores[lane] += MASKED);
            }
        }
    }

    #[inline(always)]
    fn sum_values<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        scores: &[f32],
        group: usize,
        columns: &[Column],
        shares: &[f32; WIDEST],
    ) {
        let Sizes { groups, dim, .. } = self.all.sizes;
        let Packed { v, stride, places, panels, .. } = self.packed;
        let width = tile::width::<S>();
        let v = &v[(self.entry * groups + group) * panels * places * R..];
        for panel in 0..*panels {
            let v = &v[panel * places * R..][..places * R];
            let mut tile = zeros::<S, R>(simd);
            let mut rest = scores;
            for tiles in self.tiles {
                let (now, later) = rest.split_at(tiles.len() * stride * width);
                multiply(simd, &mut tile, &v[tiles.start * stride * R..tiles.end * stride * R], now);
                rest = later;
            }
            let mut sums = [0.0; TALL * WIDEST];
            store::<S, R>(&tile, &mut sums[..R * width]);
            let size = R.min(dim - panel * R);
            for (lane, column) in columns.iter().enumerate() {
                let numbers: [f32; R] = std::array::from_fn(|row| sums[row * width + lane] * shares[lane]);
                let out = &mut self.out[column.out + panel * R..][..size];
                match out.first_chunk_mut::<R>() {
                    Some(out) => *out = numbers,
                    None => out.copy_from_slice(&numbers[..size]),
                }
            }
        }
    }
}

/// The numerators of a softmax down each column, and 1 over their sums.
#[inline(always)]
fn softmax_columns<S: Simd>(simd: S, scores: &mut [f32]) -> [f32; WIDEST] {
    let mut largest = [simd.splat_f32s(f32::NEG_INFINITY); VECTORS];
    for row in S::as_simd_f32s(scores).0.as_chunks::<VECTORS>().0 {
        largest.iter_mut().zip(row).for_each(|(most, x)| *most = simd.max_f32s(*x, *most));
    }
    let width = tile::width::<S>();
    let (mut most, mut sums) = ([0.0; WIDEST], [0.0; WIDEST]);
    store::<S, 1>(&[largest], &mut most[..width]);
    for row in scores.chunks_exact_mut(width) {
        for ((x, most), sum) in row.iter_mut().zip(&most[..width]).zip(&mut sums[..width]) {
            *x = exp_down(*x - most);
            *sum += *x;
        }
    }
    sums.map(f32::recip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 7919 + seed * 104_729) % 1009) as f32 * 0.004 - 2.0).collect()
    }

    /// The plain loops, in f64. `sees(query, key)` are tokens.
    fn plain(all: &Attend, sees: &dyn Fn(usize, usize) -> bool) -> Vec<f64> {
        let Sizes { batch, queries, keys, heads, groups, dim } = all.sizes;
        let mut out = Vec::new();
        for (entry, query, head) in
            (0..batch).flat_map(|b| (0..queries).flat_map(move |n| (0..heads).map(move |h| (b, n, h))))
        {
            let group = head / (heads / groups);
            let key = |key: usize| ((entry * keys + key) * groups + group) * dim;
            let q = &all.q[((entry * queries + query) * heads + head) * dim..][..dim];
            let score = |place: usize| -> f64 {
                let products = q.iter().zip(&all.k[key(place)..]).map(|(q, k)| f64::from(*q) * f64::from(*k));
                let mask =
                    all.mask.map_or(0.0, |mask| f64::from((mask[entry * keys + place] - 1.0) * -MASKED));
                products.sum::<f64>() * f64::from(all.scale) + mask
            };
            let seen: Vec<usize> = (0..keys).filter(|&key| sees(query, key)).collect();
            let scores: Vec<f64> = seen.iter().map(|&key| score(key)).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for number in 0..dim {
                let values = seen.iter().map(|&place| f64::from(all.v[key(place) + number]));
                out.push(values.zip(&weights).map(|(v, weight)| v * weight).sum::<f64>() / sum);
            }
        }
        out
    }

    fn check(found: &[f32], expected: &[f64]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn dense_as_the_plain_loops() {
        for (queries, keys, heads, groups, dim) in
            [(1, 1, 1, 1, 1), (5, 13, 4, 2, 7), (70, 33, 3, 3, 16), (129, 200, 6, 2, 64)]
        {
            for (masked, causal) in [(false, false), (true, false), (false, true)] {
                let keys = if causal { queries } else { keys };
                let sizes = Sizes { batch: 2, queries, keys, heads, groups, dim };
                let [q, k, v] = [(queries * heads, 1), (keys * groups, 2), (keys * groups, 3)]
                    .map(|(rows, seed)| numbers(2 * rows * dim, seed));
                let mask: Vec<f32> = (0..2 * keys).map(|at| f32::from(u8::from(at % 3 != 1))).collect();
                let mask = masked.then_some(&mask[..]);
                let (q, k, v) = (&q[..], &k[..], &v[..]);
                let all =
                    Attend { sizes, scale: 0.05, q, k, v, mask, causal, tile: keys, block: 64, order: None };
                let mut out = vec![0.0; q.len()];
                all.run(&mut out, &Pool::default(), &|_| std::iter::once(0..1).collect());
                check(&out, &plain(&all, &|query, key| !causal || key <= query));
            }
        }
    }

    #[test]
    fn tiles_as_the_plain_loops() {
        for (tile, tiles) in [(1, 5), (4, 3), (9, 4), (16, 6)] {
            let keys = tile * tiles;
            let sizes = Sizes { batch: 1, queries: keys, keys, heads: 4, groups: 2, dim: 8 };
            let [q, k, v] = [(4, 1), (2, 2), (2, 3)].map(|(rows, seed)| numbers(keys * rows * 8, seed));
            // Tokens lie backwards.
            let order: Vec<usize> = (0..keys).rev().collect();
            let (q, k, v, order) = (&q[..], &k[..], &v[..], Some(&order[..]));
            let all =
                Attend { sizes, scale: 0.3, q, k, v, mask: None, causal: false, tile, block: tile, order };
            let mut out = vec![0.0; q.len()];
            let near = |tile: usize| tile.saturating_sub(1)..(tile + 2).min(tiles);
            all.run(&mut out, &Pool::default(), &|tile| vec![near(tile)]);
            let of = |token: usize| (keys - 1 - token) / tile;
            let expected = plain(&all, &|query, key| near(of(query)).contains(&of(key)));
            let backwards: Vec<f64> = expected.rchunks_exact(4 * 8).flatten().copied().collect();
            check(&out, &backwards);
        }
    }
}
