//! Moves of axes.

use rayon::prelude::*;

/// Rows that are filled beside each other, and numbers of each that are: what is read stays in the nearest cache, and of 2-byte
/// numbers a tile's row is a line of it.
const TILE: usize = 32;

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
    let rows = if step == 1 { (BLOCK / length).max(1) } else { TILE };
    let fill = |number: usize, block: &mut [T]| {
        let starts: Vec<usize> =
            (0..block.len() / length).map(|row| start(&axes, number * rows + row)).collect();
        if step == 1 {
            for (line, start) in block.chunks_exact_mut(length).zip(starts) {
                line.copy_from_slice(&values[start..start + length]);
            }
            return;
        }
        let beside = starts.len() == TILE && starts.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        for first in (0..length).step_by(TILE) {
            if beside && first + TILE <= length {
                turn(&mut block[first..], length, &values[starts[0] + first * step..], step);
                continue;
            }
            let last = (first + TILE).min(length);
            for (line, start) in block.chunks_exact_mut(length).zip(&starts) {
                for (to, place) in line[first..last].iter_mut().zip(first..) {
                    *to = values[start + place * step];
                }
            }
        }
    };
    if out.len() <= BLOCK {
        out.chunks_mut(rows * length).enumerate().for_each(|(number, block)| fill(number, block));
    } else {
        out.par_chunks_mut(rows * length).enumerate().for_each(|(number, block)| fill(number, block));
    }
}

/// Turns a tile: number `j` of row `i` of `from`, whose rows are `step` apart, is number `i` of row `j` of `to`, whose are `length` apart. By
/// way of arrays it is moved in vectors.
fn turn<T: Copy>(to: &mut [T], length: usize, from: &[T], step: usize) {
    let mut tile = [[from[0]; TILE]; TILE];
    let mut turned = tile;
    for (row, line) in tile.iter_mut().zip(from.chunks(step)) {
        row.copy_from_slice(&line[..TILE]);
    }
    for (i, row) in tile.iter().enumerate() {
        for (j, &number) in row.iter().enumerate() {
            turned[j][i] = number;
        }
    }
    for (row, line) in turned.iter().zip(to.chunks_mut(length)) {
        line[..TILE].copy_from_slice(row);
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
