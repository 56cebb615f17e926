//! Some rows of a weight as a recipe of their own: what is read at once is bounded, whatever the weight's size.

use super::{Dim, Transform, Weight};
use crate::types::joined;

/// A range of one axis.
#[derive(Clone, Copy)]
struct Range {
    axis: usize,
    start: usize,
    size: usize,
}

impl Weight {
    /// The recipe of `size` rows of the first axis from `start` on. The choice is made at the source, so that no other row is read or
    /// changed; `None` where a transform mixes rows or parts what is encoded together.
    pub fn rows(&self, start: usize, size: usize) -> Option<Weight> {
        let whole = self.dims.first()?.total();
        (size > 0 && start.checked_add(size)? <= whole).then_some(())?;
        let mut shapes = vec![self.source.shape()];
        for change in &self.transforms {
            shapes.push(change.apply(shapes.last()?)?);
        }
        let mut range = Range { axis: 0, start, size };
        let mut transforms = Vec::new();
        for (change, shape) in self.transforms.iter().zip(&shapes).rev() {
            let (before, after) = through(change, shape, range)?;
            range = before;
            transforms.extend(after);
        }
        let Range { axis, start, size: kept } = range;
        transforms.push(Transform::Part { axis, start, size: kept });
        transforms.reverse();
        let mut rows = Weight { transforms, ..self.clone() };
        rows.dims[0] = Dim::fixed(size);
        (rows.computed_shape()? == rows.shape()).then_some(rows)
    }

    /// Cuts into recipes of whole rows, in order: of about `most` numbers each where rows can be told apart, in one piece where not.
    pub fn row_pieces(&self, most: usize) -> Vec<Weight> {
        let (whole, count) = (self.dims.first().map_or(1, Dim::total), self.ty().count());
        let rows = (most / (count / whole.max(1)).max(1)).max(1);
        // Rows that stay together are those of a head or of a group: so many, times a power of two.
        let sizes = (0..=12).map(|power| rows.next_multiple_of(1 << power)).filter(|size| *size < whole);
        let starts = |size: usize| (0..whole).step_by(size);
        let cut = |size: usize| {
            starts(size).map(|start| self.rows(start, size.min(whole - start))).collect::<Option<Vec<_>>>()
        };
        sizes.filter(|size| self.rows(0, *size).is_some()).find_map(cut).unwrap_or_else(|| vec![self.clone()])
    }
}

/// The range before a transform of which its result's range is made, and the transform that makes it.
fn through(change: &Transform, shape: &[usize], range: Range) -> Option<(Range, Option<Transform>)> {
    let Range { axis, start, size } = range;
    let same = |range| Some((range, Some(change.clone())));
    let gone = |start| Some((Range { start, ..range }, None));
    match change {
        Transform::Take { axis: cut, .. } | Transform::Part { axis: cut, .. } if *cut != axis => same(range),
        Transform::Take { chunks, keep, .. } => {
            let (chunk, first) = (start / keep, start % keep);
            (first + size <= *keep).then_some(())?;
            gone(chunk * (shape[axis] / chunks) + first)
        }
        Transform::Part { start: first, .. } => gone(first + start),
        Transform::Transpose(perm) => same(Range { axis: *perm.get(axis)?, ..range }),
        Transform::Reshape(to) => {
            let mut after = to.clone();
            after[axis] = size;
            Some((reshaped(shape, to, range)?, Some(Transform::Reshape(after))))
        }
        Transform::Repeat(_) if axis != 0 => same(range),
        Transform::Repeat(_) => {
            let (rows, first) = (shape[0], start % shape[0]);
            (first + size <= rows).then_some(())?;
            gone(first)
        }
        Transform::Double(_) | Transform::Decode => same(range),
        Transform::LowRank { .. } | Transform::Steps { .. } => None,
        Transform::Encode(encoding) => {
            encoding.can_cut(shape, axis, start, size).then_some(())?;
            same(range)
        }
    }
}

/// The range of `from` that is a range of `to`: of axes that are split or joined, only the outermost can be cut.
fn reshaped(from: &[usize], to: &[usize], range: Range) -> Option<Range> {
    let (old, new) = joined(from, to)?.into_iter().find(|(_, new)| new.contains(&range.axis))?;
    to[new.start..range.axis].iter().all(|&size| size == 1).then_some(())?;
    let axis = old.clone().find(|&axis| from[axis] > 1).unwrap_or(old.start);
    let inner: usize = to[range.axis + 1..new.end].iter().product();
    let of: usize = from[axis + 1..old.end].iter().product();
    let (start, size) = (range.start * inner, range.size * inner);
    let whole = start.is_multiple_of(of) && size.is_multiple_of(of);
    whole.then(|| Range { axis, start: start / of, size: size / of })
}
