//! Moves of axes.

use rayon::prelude::*;

/// Rows that are filled beside each other: as many numbers behind each other are read at once, and more rows would be more lines of the
/// nearest cache than it holds where they are a power of two apart.
const ROWS: usize = 8;

/// Numbers that one thread moves at once.
const BLOCK: usize = 1 << 14;

/// Axes of the result, outermost first: sizes, and steps in the source. Axes that stay behind each other are one.
fn axes(shape: &[usize], perm: &[usize]) -> Vec<(usize, usize)> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    let mut axes: Vec<(usize, usize)> = Vec::new();
    for &axis in perm.iter().filter(|&&axis| shape[axis] != 1) {
        let (size, step) = (shape[axis], strides[axis]);
        match axes.last_mut() {
            Some(outer) if outer.1 == size * step => *outer = (outer.0 * size, step),
            _ => axes.push((size, step)),
        }
    }
    axes
}

/// Numbers of a row-major tensor of that shape with its axes permuted, on all threads: axis `i` of `out` is axis `perm[i]` of `values`.
pub fn transpose<T: Copy + Send + Sync>(out: &mut [T], values: &[T], shape: &[usize], perm: &[usize]) {
    let mut axes = axes(shape, perm);
    let Some((length, step)) = axes.pop() else { return out.copy_from_slice(values) };
    let rows = if step == 1 { (BLOCK / length).max(1) } else { ROWS };
    let fill = |number: usize, block: &mut [T]| {
        let starts: Vec<usize> =
            (0..block.len() / length).map(|row| start(&axes, number * rows + row)).collect();
        if step != 1 && starts.len() == ROWS && starts.windows(2).all(|pair| pair[0] + 1 == pair[1]) {
            return turn(block, length, &values[starts[0]..], step);
        }
        for (line, start) in block.chunks_exact_mut(length).zip(starts) {
            match step {
                1 => line.copy_from_slice(&values[start..start + length]),
                _ => line.iter_mut().zip(values[start..].iter().step_by(step)).for_each(|(to, x)| *to = *x),
            }
        }
    };
    if out.len() <= BLOCK {
        out.chunks_mut(rows * length).enumerate().for_each(|(number, block)| fill(number, block));
    } else {
        out.par_chunks_mut(rows * length).enumerate().for_each(|(number, block)| fill(number, block));
    }
}

/// Number `i` of row `j` of `to`, whose rows are `length` long, is number `j` of row `i` of `from`, whose rows are `step` apart.
fn turn<T: Copy>(to: &mut [T], length: usize, from: &[T], step: usize) {
    let mut rows = to.chunks_exact_mut(length);
    let mut rows: [&mut [T]; ROWS] = std::array::from_fn(|_| rows.next().unwrap_or_default());
    for (at, numbers) in from.chunks(step).take(length).enumerate() {
        for (row, number) in rows.iter_mut().zip(&numbers[..ROWS]) {
            row[at] = *number;
        }
    }
}

/// Where a row of the result begins in the source.
fn start(outer: &[(usize, usize)], mut row: usize) -> usize {
    let mut start = 0;
    for (size, step) in outer.iter().rev() {
        start += row % size * step;
        row /= size;
    }
    start
}
