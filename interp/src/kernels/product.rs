//! Products of matrices: a few rows times a panel of columns at a time, both laid out as they are read.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::tile::{self, Tile, VECTORS, WIDEST, multiply, store, zeros};
use super::{blocks, with_room};

/// Rows of a tile, on every CPU.
const ROWS: usize = tile::MIDDLE;

/// Rows that are laid out at once: with [`NUMBERS`], what stays in a cache of 512 KiB.
const NEAR: usize = 24 * ROWS;

/// Numbers of a panel that are added up before the next panel: they stay in the nearest cache.
const NUMBERS: usize = 1 << 13;

/// Multiplications that are worth a thread.
pub const FEW: usize = 1 << 20;

/// A row-major matrix inside a slice: `rows x cols`, rows `stride` apart, or its transpose.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// Its numbers, and those between its rows.
    pub values: &'a [f32],
    /// Rows in the slice.
    pub rows: usize,
    /// Numbers of a row.
    pub cols: usize,
    /// From one row to the next.
    pub stride: usize,
    /// Whether the transpose is meant.
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    /// A dense matrix.
    pub fn new(values: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::with_stride(values, rows, cols, cols)
    }

    /// A matrix whose rows are `stride` numbers apart.
    pub fn with_stride(values: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        Matrix { values, rows, cols, stride, transposed: false }
    }

    /// Its transpose.
    pub fn t(self) -> Self {
        Matrix { transposed: !self.transposed, ..self }
    }

    /// Some of its columns.
    pub fn columns(self, columns: Range<usize>) -> Self {
        let first = columns.start;
        if self.transposed {
            Matrix { values: &self.values[first * self.stride..], rows: columns.len(), ..self }
        } else {
            Matrix { values: &self.values[first..], cols: columns.len(), ..self }
        }
    }

    /// Rows and columns of what is meant.
    pub fn size(self) -> [usize; 2] {
        if self.transposed { [self.cols, self.rows] } else { [self.rows, self.cols] }
    }
}

/// `a b + bias`.
pub struct Product<'a> {
    /// `[rows, depth]`.
    pub a: Matrix<'a>,
    /// `b`, `[depth, columns]`, in panels.
    pub panels: &'a [f32],
    /// Columns of `b`.
    pub columns: usize,
    /// Added to each row.
    pub bias: Option<&'a [f32]>,
}

impl Product<'_> {
    /// Writes rows of `columns` numbers, `stride` apart, on all threads or on this one. Each number is added up in one order.
    pub fn run(&self, out: &mut [f32], stride: usize, threads: bool) {
        let [rows, depth] = self.a.size();
        if rows == 0 || self.columns == 0 {
            return;
        }
        let workers = if threads { rayon::current_num_threads() } else { 1 };
        let workers = workers.min(rows * self.columns * depth / FEW).max(1);
        // As many blocks for each.
        let pieces = rows.div_ceil(NEAR).next_multiple_of(workers);
        let block = rows.div_ceil(pieces).next_multiple_of(ROWS);
        let out = &mut out[..(rows - 1) * stride + self.columns];
        let parts = depth.div_ceil((NUMBERS / tile::columns()).max(1)).max(1);
        let part = depth.div_ceil(parts);
        let work = |number: usize, out: &mut [f32]| {
            let first = number * block;
            let rows = first..(first + block).min(rows);
            with_room(block * part, |near| {
                Arch::new().dispatch(Block { product: self, rows, part, near, out, stride });
            });
        };
        if workers == 1 {
            out.chunks_mut(block * stride).enumerate().for_each(|(number, out)| work(number, out));
        } else {
            blocks(out, block * stride, work);
        }
    }
}

/// Some rows of a product.
struct Block<'a> {
    product: &'a Product<'a>,
    rows: Range<usize>,
    /// Numbers of a sum that are added up at once.
    part: usize,
    /// Room for the rows, so far as they are added up at once.
    near: &'a mut [f32],
    out: &'a mut [f32],
    stride: usize,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Product { panels, columns, bias, .. } = *self.product;
        let depth = self.product.a.size()[1];
        let width = tile::width::<S>();
        let mut start = 0;
        loop {
            let end = (start + self.part).min(depth);
            let near = &mut self.near[..self.rows.len().next_multiple_of(ROWS) * (end - start)];
            lay_out(near, self.product.a, &self.rows, start..end);
            for first in (0..columns).step_by(width) {
                let count = width.min(columns - first);
                let panel = &panels[first * depth + start * width..first * depth + end * width];
                let bias = bias.map(|bias| &bias[first..first + count]);
                for row in (0..self.rows.len()).step_by(ROWS) {
                    let mut sums = zeros::<S, ROWS>(simd);
                    let rows = &near[row * (end - start)..(row + ROWS) * (end - start)];
                    multiply(simd, &mut sums, rows, panel);
                    let some = ROWS.min(self.rows.len() - row);
                    let lines = self.out[row * self.stride..].chunks_mut(self.stride).take(some);
                    for (line, sums) in lines.zip(&sums) {
                        put::<S>(simd, &mut line[first..first + count], sums, start == 0, bias);
                    }
                }
            }
            start = end;
            if start == depth {
                return;
            }
        }
    }
}

/// Adds sums of a row to what is there; to the bias, where they are the first.
#[inline(always)]
fn put<S: Simd>(simd: S, line: &mut [f32], sums: &[S::f32s; VECTORS], is_first: bool, bias: Option<&[f32]>) {
    let width = tile::width::<S>();
    if line.len() == width {
        let bias = bias.map(|bias| S::as_simd_f32s(bias).0);
        let (line, _) = S::as_mut_simd_f32s(line);
        for (at, (line, sum)) in line.iter_mut().zip(sums).enumerate() {
            *line = match (is_first, bias) {
                (true, None) => *sum,
                (true, Some(bias)) => simd.add_f32s(*sum, bias[at]),
                (false, _) => simd.add_f32s(*sum, *line),
            };
        }
        return;
    }
    let mut all = [0.0; WIDEST];
    store::<S, 1>(&Tile::<S, 1>::from([*sums]), &mut all[..width]);
    for (at, (line, sum)) in line.iter_mut().zip(all).enumerate() {
        *line = match (is_first, bias) {
            (true, None) => sum,
            (true, Some(bias)) => sum + bias[at],
            (false, _) => sum + *line,
        };
    }
}

/// Rows of `a`, so far as `depth` goes, as tiles read them: `[rows / ROWS, depth, ROWS]`, filled up with the last one.
#[inline(always)]
fn lay_out(near: &mut [f32], a: Matrix, rows: &Range<usize>, depth: Range<usize>) {
    for (number, to) in near.chunks_exact_mut((depth.len() * ROWS).max(1)).enumerate() {
        let all: [usize; ROWS] =
            std::array::from_fn(|row| (rows.start + number * ROWS + row).min(rows.end - 1));
        let places = to.as_chunks_mut::<ROWS>().0.iter_mut();
        if a.transposed {
            for (to, place) in places.zip(depth.clone()) {
                let line = &a.values[place * a.stride..];
                to.iter_mut().zip(all).for_each(|(to, row)| *to = line[row]);
            }
        } else {
            let lines = all.map(|row| &a.values[row * a.stride..][depth.clone()]);
            for (at, to) in places.enumerate() {
                to.iter_mut().zip(&lines).for_each(|(to, line)| *to = line[at]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::panels::{lay_out_matrix, size};

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 7919 + seed * 104_729) % 1009) as f32 * 0.002 - 1.0).collect()
    }

    fn product(out: &mut [f32], stride: usize, a: Matrix, b: Matrix, bias: Option<&[f32]>) {
        let [depth, columns] = b.size();
        let mut panels = vec![f32::NAN; size(columns, depth)];
        lay_out_matrix(&mut panels, b);
        Product { a, panels: &panels, columns, bias }.run(out, stride, true);
    }

    #[test]
    fn as_the_plain_loop() {
        for (rows, depth, cols, gap) in [
            (1, 1, 1, 0),
            (3, 0, 5, 1),
            (3, 7, 5, 2),
            (16, 128, 64, 0),
            (200, 700, 33, 5),
            (29, 1030, 100, 0),
        ] {
            let (a, b, bias) = (numbers(rows * depth, 1), numbers(cols * depth, 2), numbers(cols, 3));
            let turned: Vec<f32> = (0..a.len()).map(|at| a[at % rows * depth + at / rows]).collect();
            let expected = |at: usize, has_bias: bool| {
                let (row, col) = (at / (cols + gap), at % (cols + gap));
                let pairs = (0..depth)
                    .map(|k| f64::from(a[row * depth + k]) * f64::from(b[col.min(cols - 1) * depth + k]));
                let bias = if has_bias { f64::from(bias[col.min(cols - 1)]) } else { 0.0 };
                if col < cols { pairs.sum::<f64>() + bias } else { 0.0 }
            };
            let b = Matrix::new(&b, cols, depth).t();
            for a in [Matrix::new(&a, rows, depth), Matrix::new(&turned, depth, rows).t()] {
                for bias in [None, Some(&bias[..])] {
                    let mut out = vec![0.0; rows * (cols + gap)];
                    product(&mut out, cols + gap, a, b, bias);
                    for (at, found) in out.iter().enumerate() {
                        let expected = expected(at, bias.is_some());
                        assert!(
                            (f64::from(*found) - expected).abs() < 1e-6 * (depth as f64).max(10.0),
                            "{found} {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_same_bits_with_any_number_of_threads_and_rows() {
        let (rows, depth, columns) = (301, 1600, 150);
        let (a, b) = (numbers(rows * depth, 1), numbers(columns * depth, 2));
        let b = Matrix::new(&b, columns, depth).t();
        let with = |threads: usize| {
            let mut out = vec![0.0; rows * columns];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| product(&mut out, columns, Matrix::new(&a, rows, depth), b, None));
            out
        };
        let one = with(1);
        [2, 5].into_iter().for_each(|threads| assert_eq!(with(threads), one));
        // A row alone, as among others, and columns.
        for row in [0, 5, 299, 300] {
            let mut out = vec![0.0; columns];
            product(&mut out, columns, Matrix::new(&a[row * depth..], 1, depth), b, None);
            assert_eq!(out, one[row * columns..][..columns]);
            product(&mut out, columns, Matrix::new(&a[row * depth..], 1, depth), b.columns(70..150), None);
            assert_eq!(out[..80], one[row * columns + 70..][..80]);
        }
    }
}
