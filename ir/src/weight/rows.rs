//! Some rows of a weight as a recipe of their own: what is read at once is bounded, whatever the weight's size.

use std::ops::Range;

use super::{Dim, Transform, Weight};
use crate::types::joined;

/// Numbers of a tensor: a range of each axis.
type Ranges = Vec<Range<usize>>;

impl Weight {
    /// The recipe of `size` rows of the first axis from `start` on. The choice is made at the source, by a range of each axis, so that no
    /// other number is read or changed; `None` where that is not possible: a transform mixes rows, or parts what is encoded together.
    pub fn rows(&self, start: usize, size: usize) -> Option<Weight> {
        let whole = self.dims.first()?.total();
        let end = start.checked_add(size).filter(|&end| size > 0 && end <= whole)?;
        (self.ty().count() > 0).then_some(())?;
        let changes = merged(&self.transforms);
        let mut shapes = vec![self.source.shape()];
        for change in &changes {
            shapes.push(change.apply(shapes.last()?)?);
        }
        let mut ranges: Ranges = shapes.last()?.iter().map(|&size| 0..size).collect();
        *ranges.first_mut()? = start..end;
        let mut transforms = Vec::new();
        for (change, shape) in changes.iter().zip(&shapes).rev() {
            let (before, after) = through(change, shape, ranges)?;
            ranges = before;
            transforms.extend(after);
        }
        for (axis, (range, &size)) in ranges.into_iter().zip(&shapes[0]).enumerate().rev() {
            if range != (0..size) {
                transforms.push(Transform::Part { axis, start: range.start, size: range.len() });
            }
        }
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

/// The transforms, of reshapes that follow each other only the last: what is a range of an axis there may be none of those between.
fn merged(transforms: &[Transform]) -> Vec<&Transform> {
    let reshapes = |at: usize| matches!(transforms.get(at), Some(Transform::Reshape(_)));
    let kept = (0..transforms.len()).filter(|&at| !(reshapes(at) && reshapes(at + 1)));
    kept.map(|at| &transforms[at]).collect()
}

/// The ranges before a transform of which its result's ranges are made, and the transform that makes them.
fn through(change: &Transform, shape: &[usize], mut ranges: Ranges) -> Option<(Ranges, Option<Transform>)> {
    match change {
        Transform::Take { axis, chunks, keep } if ranges[*axis] != (0..chunks * keep) => {
            let Range { start, end } = ranges[*axis];
            let (chunk, first) = (start / keep, start % keep);
            (end <= (chunk + 1) * keep).then_some(())?;
            let start = chunk * (shape[*axis] / chunks) + first;
            ranges[*axis] = start..start + ranges[*axis].len();
            return Some((ranges, None));
        }
        Transform::Part { axis, start, size } if ranges[*axis] != (0..*size) => {
            ranges[*axis] = start + ranges[*axis].start..start + ranges[*axis].end;
            return Some((ranges, None));
        }
        Transform::Repeat(times) if ranges[0] != (0..shape[0] * times) => {
            let (rows, Range { start, end }) = (shape[0], ranges[0].clone());
            (end <= (start / rows + 1) * rows).then_some(())?;
            ranges[0] = start % rows..start % rows + (end - start);
            return Some((ranges, None));
        }
        Transform::Take { axis, .. } | Transform::Part { axis, .. } => ranges[*axis] = 0..shape[*axis],
        Transform::Repeat(_) => ranges[0] = 0..shape[0],
        Transform::Transpose(perm) => {
            let mut before = ranges.clone();
            perm.iter().zip(ranges).for_each(|(&axis, range)| before[axis] = range);
            ranges = before;
        }
        Transform::Reshape(to) => {
            let after = Transform::Reshape(ranges.iter().map(Range::len).collect());
            return Some((reshaped(shape, to, &ranges)?, Some(after)));
        }
        Transform::Double(_) | Transform::Decode => {}
        Transform::LowRank { .. } | Transform::Steps { .. } => return None,
        Transform::Encode(encoding) => {
            let mut cut = (0..shape.len()).filter(|&axis| ranges[axis] != (0..shape[axis]));
            let first = cut.next();
            let alone = |axis: usize| encoding.can_cut(shape, axis, ranges[axis].start, ranges[axis].len());
            (cut.next().is_none() && first.is_none_or(alone)).then_some(())?;
        }
    }
    Some((ranges, Some(change.clone())))
}

/// The ranges of `from` that hold the same numbers as ranges of `to`.
fn reshaped(from: &[usize], to: &[usize], ranges: &[Range<usize>]) -> Option<Ranges> {
    let mut before: Ranges = from.iter().map(|&size| 0..size).collect();
    for (old, new) in joined(from, to)? {
        let (start, size) = run(&to[new.clone()], &ranges[new])?;
        for (range, of) in before[old.clone()].iter_mut().zip(ranges_of(&from[old], start, size)?) {
            *range = of;
        }
    }
    Some(before)
}

/// Where ranges of all axes lie behind each other: the first number and how many there are.
fn run(shape: &[usize], ranges: &[Range<usize>]) -> Option<(usize, usize)> {
    let (mut start, mut size, mut inner) = (0, 1, 1);
    for (&of, range) in shape.iter().zip(ranges).rev() {
        // What is inside must be whole where more than one of it is taken.
        (size == inner || range.len() == 1).then_some(())?;
        start += range.start * inner;
        size *= range.len();
        inner *= of;
    }
    Some((start, size))
}

/// The ranges of all axes that are that run of numbers.
fn ranges_of(shape: &[usize], mut start: usize, size: usize) -> Option<Ranges> {
    let mut ranges: Ranges = shape.iter().map(|&size| 0..size).collect();
    let mut inner: usize = shape.iter().product();
    for (range, &of) in ranges.iter_mut().zip(shape) {
        inner /= of;
        let first = start / inner;
        if start.is_multiple_of(inner) && size.is_multiple_of(inner) {
            *range = first..first + size / inner;
            return (range.end <= of).then_some(ranges);
        }
        *range = first..first + 1;
        start %= inner;
        (start + size <= inner).then_some(())?;
    }
    None
}
