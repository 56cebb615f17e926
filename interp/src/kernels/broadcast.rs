//! Sums and products of two operands, one of which may be repeated along some axes.

use super::{BLOCK, blocks, vectorised};

/// Where an operand of a row comes from.
#[derive(Clone, Copy)]
enum Side<'a> {
    /// The result's own buffer.
    Own,
    /// A row.
    Row(&'a [f32]),
    /// One number.
    Number(f32),
}

/// An operand: its numbers, none where they lie in the result's buffer, and its sizes.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// The numbers.
    pub values: Option<&'a [f32]>,
    /// The sizes.
    pub shape: &'a [usize],
}

/// An axis of the result: its size, and the steps of both operands along it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Axis {
    size: usize,
    steps: [usize; 2],
}

/// Steps of an operand along the result's axes: 0 where it is repeated.
fn steps(shape: &[usize], result: &[usize]) -> Vec<usize> {
    let mut steps = vec![0; result.len()];
    let mut step = 1;
    for (axis, &size) in shape.iter().enumerate().rev() {
        if size != 1 {
            steps[axis + result.len() - shape.len()] = step;
        }
        step *= size;
    }
    steps
}

/// The axes, those that both operands walk through without a jump being one.
fn axes(a: &[usize], b: &[usize], result: &[usize]) -> Vec<Axis> {
    let (a, b) = (steps(a, result), steps(b, result));
    let mut axes: Vec<Axis> = Vec::new();
    for (at, &size) in result.iter().enumerate().filter(|(_, size)| **size != 1) {
        let axis = Axis { size, steps: [a[at], b[at]] };
        match axes.last_mut() {
            Some(outer) if (0..2).all(|side| outer.steps[side] == axis.steps[side] * size) => {
                *outer = Axis { size: outer.size * size, steps: axis.steps };
            }
            _ => axes.push(axis),
        }
    }
    axes
}

/// `out = of(a, b)`, both repeated where their sizes are 1.
pub fn broadcast(
    out: &mut [f32],
    shape: &[usize],
    operands: [Operand; 2],
    of: impl Fn(f32, f32) -> f32 + Sync,
) {
    let mut axes = axes(operands[0].shape, operands[1].shape, shape);
    let inner = axes.pop().unwrap_or(Axis { size: 1, steps: [0, 0] });
    // A long row is cut, so that threads share it.
    let piece = inner.size.min(BLOCK);
    if inner.size > piece && inner.size.is_multiple_of(piece) {
        axes.push(Axis { size: inner.size / piece, steps: inner.steps.map(|step| step * piece) });
    } else if inner.size > piece {
        return row_by_row(out, inner.size, 1, &axes, inner, operands, &of);
    }
    row_by_row(out, piece, (BLOCK / piece).max(1), &axes, inner, operands, &of);
}

fn row_by_row(
    out: &mut [f32],
    length: usize,
    rows: usize,
    outer: &[Axis],
    inner: Axis,
    operands: [Operand; 2],
    of: &(impl Fn(f32, f32) -> f32 + Sync),
) {
    blocks(out, rows * length, |number, block| {
        vectorised(
            #[inline(always)]
            || {
                for (row, line) in block.chunks_exact_mut(length).enumerate() {
                    let (mut rest, mut starts) = (number * rows + row, [0, 0]);
                    for axis in outer.iter().rev() {
                        let index = rest % axis.size;
                        rest /= axis.size;
                        starts[0] += index * axis.steps[0];
                        starts[1] += index * axis.steps[1];
                    }
                    let side = |side: usize| match (operands[side].values, inner.steps[side]) {
                        (None, _) => Side::Own,
                        (Some(values), 0) => Side::Number(values[starts[side]]),
                        (Some(values), _) => Side::Row(&values[starts[side]..][..length]),
                    };
                    line_of(line, side(0), side(1), of);
                }
            },
        );
    });
}

#[inline(always)]
fn line_of(out: &mut [f32], a: Side, b: Side, of: &impl Fn(f32, f32) -> f32) {
    match (a, b) {
        (Side::Own, Side::Own) => out.iter_mut().for_each(|x| *x = of(*x, *x)),
        (Side::Own, Side::Row(b)) => out.iter_mut().zip(b).for_each(|(x, &b)| *x = of(*x, b)),
        (Side::Own, Side::Number(b)) => out.iter_mut().for_each(|x| *x = of(*x, b)),
        (Side::Row(a), Side::Own) => out.iter_mut().zip(a).for_each(|(x, &a)| *x = of(a, *x)),
        (Side::Number(a), Side::Own) => out.iter_mut().for_each(|x| *x = of(a, *x)),
        (Side::Row(a), Side::Row(b)) => {
            out.iter_mut().zip(a.iter().zip(b)).for_each(|(x, (&a, &b))| *x = of(a, b));
        }
        (Side::Row(a), Side::Number(b)) => out.iter_mut().zip(a).for_each(|(x, &a)| *x = of(a, b)),
        (Side::Number(a), Side::Row(b)) => out.iter_mut().zip(b).for_each(|(x, &b)| *x = of(a, b)),
        (Side::Number(a), Side::Number(b)) => out.fill(of(a, b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_plain_loop() {
        let cases: [(&[usize], &[usize], &[usize]); 9] = [
            (&[3, 5, 7], &[3, 5, 7], &[3, 5, 7]),
            (&[3, 5, 7], &[7], &[3, 5, 7]),
            (&[3, 5, 7], &[3, 5, 1], &[3, 5, 7]),
            (&[3, 1, 7], &[3, 5, 7], &[3, 5, 7]),
            (&[3, 5, 7], &[], &[3, 5, 7]),
            (&[1, 5, 1], &[3, 1, 7], &[3, 5, 7]),
            (&[2, 3, 4, 9], &[3, 1, 9], &[2, 3, 4, 9]),
            (&[2, 32768], &[1], &[2, 32768]),
            (&[2, 40_001], &[40_001], &[2, 40_001]),
        ];
        for (a_shape, b_shape, shape) in cases {
            let numbers = |shape: &[usize], seed: usize| -> Vec<f32> {
                (0..shape.iter().product()).map(|at: usize| ((at * 31 + seed) % 97) as f32).collect()
            };
            let (a, b) = (numbers(a_shape, 3), numbers(b_shape, 8));
            let (steps_a, steps_b) = (steps(a_shape, shape), steps(b_shape, shape));
            let expected: Vec<f32> = (0..shape.iter().product())
                .map(|mut at: usize| {
                    let (mut place_a, mut place_b) = (0, 0);
                    for axis in (0..shape.len()).rev() {
                        place_a += at % shape[axis] * steps_a[axis];
                        place_b += at % shape[axis] * steps_b[axis];
                        at /= shape[axis];
                    }
                    a[place_a] - b[place_b]
                })
                .collect();
            let left = Operand { values: Some(&a), shape: a_shape };
            let right = Operand { values: Some(&b), shape: b_shape };
            let mut out = vec![0.0; expected.len()];
            broadcast(&mut out, shape, [left, right], |a, b| a - b);
            assert_eq!(out, expected);
            if a_shape == shape {
                let mut out = a.clone();
                broadcast(&mut out, shape, [Operand { values: None, ..left }, right], |a, b| a - b);
                assert_eq!(out, expected);
            }
            if b_shape == shape {
                let mut out = b.clone();
                broadcast(&mut out, shape, [left, Operand { values: None, ..right }], |a, b| a - b);
                assert_eq!(out, expected);
            }
        }
    }
}
