//! Moves of axes.

use rayon::prelude::*;

/// Rows that are filled beside each other, and numbers of each that are, so that what is read stays in the nearest cache.
const TILE: [usize; 2] = [16, 64];

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

/// Numbers with their axes permuted: axis `i` of `out` is axis `perm[i]` of `values`.
pub fn transpose<T: Copy + Send + Sync>(out: &mut [T], values: &[T], shape: &[usize], perm: &[usize]) {
    let mut axes = axes(shape, perm);
    let Some((length, step)) = axes.pop() else { return out.copy_from_slice(values) };
    let rows = if step == 1 { (super::BLOCK / length).max(1) } else { TILE[0] };
    let fill = |number: usize, block: &mut [T]| {
        let starts: Vec<usize> =
            (0..block.len() / length).map(|row| start(&axes, number * rows + row)).collect();
        if step == 1 {
            for (line, start) in block.chunks_exact_mut(length).zip(starts) {
                line.copy_from_slice(&values[start..start + length]);
            }
            return;
        }
        for first in (0..length).step_by(TILE[1]) {
            let last = (first + TILE[1]).min(length);
            for (line, start) in block.chunks_exact_mut(length).zip(&starts) {
                for (to, place) in line[first..last].iter_mut().zip(first..) {
                    *to = values[start + place * step];
                }
            }
        }
    };
    if out.len() <= super::BLOCK {
        out.chunks_mut(rows * length).enumerate().for_each(|(number, block)| fill(number, block));
    } else {
        out.par_chunks_mut(rows * length).enumerate().for_each(|(number, block)| fill(number, block));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_plain_loop() {
        let cases: [(&[usize], &[usize]); 7] = [
            (&[5, 7], &[1, 0]),
            (&[2, 130, 70], &[0, 2, 1]),
            (&[2, 3, 4, 5], &[0, 2, 1, 3]),
            (&[2, 3, 4, 5], &[3, 1, 0, 2]),
            (&[2, 33, 4, 65], &[0, 1, 2, 3]),
            (&[1, 300, 80], &[2, 1, 0]),
            (&[], &[]),
        ];
        for (shape, perm) in cases {
            let values: Vec<u32> = (0..shape.iter().product::<usize>() as u32).collect();
            let mut found = vec![0; values.len()];
            transpose(&mut found, &values, shape, perm);
            assert_eq!(found, snapc_weights::transpose(&values, shape, perm));
        }
    }
}
