use super::{Attention, Band, Tiles, attend, bands};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::ops::Split;

/// A neighbourhood, exact at the borders without pad, gather or mask: the tiles fall into at most `(2 radius + 1)^2` regions whose
/// tiles all see neighbours at the same offsets. Each region is one batched product; the number of ops does not depend on the grid.
///
/// # Errors
/// If the operands do not fit.
pub fn regions(b: &mut Builder, op: &Attention, operands: &[ValueId]) -> Result<ValueId> {
    let tiles = Tiles::new(b, op, operands)?;
    let grouped = tiles.grouped;
    let (pairs, numbers) = (grouped.batch * grouped.groups, tiles.tokens * grouped.dim);
    // A tile's numbers are the last axis, so that joining on it puts the keys of its neighbours behind each other.
    let queries = tiles.tokens * grouped.repeat;
    let q = b.reshape(grouped.q, [pairs, tiles.rows, tiles.cols, queries * grouped.dim])?;
    // Keys and values move together.
    let kv = b.concat(&[grouped.k, grouped.v], 0)?;
    let kv = b.reshape(kv, [2 * pairs, tiles.rows, tiles.cols, numbers])?;
    let mut bands_of_rows = Vec::new();
    for row in bands(tiles.rows, tiles.radius) {
        let near_rows = shifted(b, kv, 1, row)?;
        let mut pieces = Vec::new();
        for col in bands(tiles.cols, tiles.radius) {
            let starts = [0, row.start, col.start, 0];
            let queries_of = b.slice_all(q, &starts, &[pairs, row.size, col.size, queries * grouped.dim])?;
            let count = pairs * row.size * col.size;
            let queries_of = b.reshape(queries_of, [count, queries, grouped.dim])?;
            let near = shifted(b, near_rows, 2, col)?;
            let seen = b.ty(near).count() / (2 * count) / grouped.dim;
            let near = b.reshape(near, [2 * count, seen, grouped.dim])?;
            let near = b.op(Split { axis: 0, parts: 2 }, &[near])?;
            let sums = attend(b, queries_of, near[0], near[1], &[])?;
            pieces.push(b.reshape(sums, [pairs, row.size, col.size, queries * grouped.dim])?);
        }
        bands_of_rows.push(b.concat(&pieces, 2)?);
    }
    let all = b.concat(&bands_of_rows, 1)?;
    tiles.heads(b, all)
}

/// For each tile of a band on an axis the tiles that it sees on that axis, joined on the last one.
fn shifted(b: &mut Builder, x: ValueId, axis: usize, band: Band) -> Result<ValueId> {
    let starts = band.start - band.before..=band.start + band.behind;
    let seen: Vec<ValueId> = starts.map(|start| b.slice(x, axis, start, band.size)).collect::<Result<_>>()?;
    b.concat(&seen, 3)
}
