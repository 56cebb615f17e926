//! Matrix products in f32 over row-major slices.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::kernels::panels::{lay_out_matrix, size};
pub use crate::kernels::product::Matrix;
use crate::kernels::product::{FEW, Product};
use crate::kernels::tile::{self, TALL};
use crate::kernels::{add_row_at, blocks, vectorised, with_room};

/// Numbers of `b` that are laid out at once.
const TILE: usize = 1 << 20;

/// `out = a b + bias`, `out` having rows `stride` numbers apart, on all threads or on this one: no number depends on how many there are.
pub fn product(out: &mut [f32], stride: usize, a: Matrix, b: Matrix, bias: Option<&[f32]>, threads: bool) {
    if has_own() {
        return own(out, stride, a, b, bias, threads);
    }
    let (rows, columns) = (a.size()[0], b.size()[1]);
    if rows == 0 || columns == 0 {
        return;
    }
    by_faer(out, stride, a, b, threads);
    if let Some(bias) = bias {
        add_row_at(&mut out[..(rows - 1) * stride + columns], stride, bias);
    }
}

/// The same by [`Product`], some columns at a time.
pub fn own(out: &mut [f32], stride: usize, a: Matrix, b: Matrix, bias: Option<&[f32]>, threads: bool) {
    let [depth, columns] = b.size();
    let count = (TILE / depth.max(1)).max(1);
    for first in (0..columns).step_by(count) {
        let some = first..(first + count).min(columns);
        with_room(size(some.len(), depth), |panels| {
            lay_out_matrix(panels, b.columns(some.clone()));
            let bias = bias.map(|bias| &bias[some.clone()]);
            Product { a, panels, columns: some.len(), bias }.run(&mut out[first..], stride, threads);
        });
    }
}

/// Whether [`product`] is [`own`]. Where there are 32 registers `faer`'s was faster (AVX-512; on NEON neither was measured).
pub fn has_own() -> bool {
    tile::rows() != TALL
}

/// Rows that pieces are whole numbers of, and columns: what kernels take at once, of columns 96, 64 or 32.
const WHOLE: [usize; 2] = [16, 64];

/// From this depth on, pieces of the columns are better than of the rows, each of which packs all of `b` once more; and the fewest columns
/// of such a piece.
const DEEP: usize = 512;
const NARROW: usize = 128;

fn view(matrix: Matrix) -> MatRef<f32> {
    let Matrix { values, rows, cols, stride, transposed } = matrix;
    let end = rows.saturating_sub(1) * stride + cols;
    // faer 0.24's row-major views with a stride swap their strides; a column-major view of the transpose does not.
    let columns = MatRef::from_column_major_slice_with_stride(&values[..end], cols, rows, stride);
    if transposed { columns } else { columns.transpose() }
}

/// `out = a b`. Threads split rows and columns.
fn by_faer(out: &mut [f32], stride: usize, a: Matrix, b: Matrix, threads: bool) {
    let (a, b) = (view(a), view(b));
    let (rows, cols) = (a.nrows(), b.ncols());
    let end = (rows - 1) * stride + cols;
    let out =
        MatMut::from_column_major_slice_with_stride_mut(&mut out[..end], cols, rows, stride).transpose_mut();
    let workers = if threads { rayon::current_num_threads() } else { 1 };
    // More pieces than threads: one that is held up does not hold up all. Each piece of the columns reads all of `a`.
    let by_columns = a.ncols() >= DEEP && cols >= 2 * workers * NARROW;
    let pieces = match workers {
        1 => 1,
        _ if by_columns => 2 * workers,
        _ => 4 * workers,
    };
    pieces_of(out, a, b, pieces.min(rows * cols * a.ncols() / FEW), by_columns);
}

/// Partial sums of a dot product that run beside each other.
const LANES: usize = 16;

/// `out = a * b^T` of few rows: `a` is rows of `inner` numbers, `b` has one for each column of `out`. Each number is a dot product that is added
/// up in one order on every CPU, with no fused step: what depends on the time alone, which becomes part of artifacts, is made of these.
pub fn dots(out: &mut [f32], a: &[f32], b: &[f32], inner: usize) {
    /// Columns of a piece of work.
    const COLS: usize = 64;
    let cols = b.len() / inner.max(1);
    for (out, row) in out.chunks_exact_mut(cols.max(1)).zip(a.chunks_exact(inner.max(1))) {
        blocks(out, COLS, |number, block| {
            let rows = b[number * COLS * inner..].chunks_exact(inner);
            vectorised(
                #[inline(always)]
                || block.iter_mut().zip(rows).for_each(|(out, other)| *out = dot(row, other)),
            );
        });
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Halves the columns, or else the longer side. The kernels add up along the inner axis in one order, whatever the sizes of the others.
fn pieces_of(out: MatMut<f32>, a: MatRef<f32>, b: MatRef<f32>, pieces: usize, by_columns: bool) {
    if pieces <= 1 {
        return matmul(out, Accum::Replace, a, b, 1.0, Par::Seq);
    }
    let half = |size: usize, whole: usize| (size / 2).next_multiple_of(whole).min(size);
    let rest = pieces / 2;
    if out.nrows() >= out.ncols() && !by_columns {
        let at = half(out.nrows(), WHOLE[0]);
        let ((top, bottom), (above, below)) = (out.split_at_row_mut(at), a.split_at_row(at));
        rayon::join(
            || pieces_of(top, above, b, pieces - rest, by_columns),
            || pieces_of(bottom, below, b, rest, by_columns),
        );
    } else {
        let at = half(out.ncols(), WHOLE[1]);
        let ((left, right), (first, second)) = (out.split_at_col_mut(at), b.split_at_col(at));
        rayon::join(
            || pieces_of(left, a, first, pieces - rest, by_columns),
            || pieces_of(right, a, second, rest, by_columns),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 7919 + seed * 104_729) % 1009) as f32 * 0.002 - 1.0).collect()
    }

    #[test]
    fn as_the_plain_loop() {
        for (rows, depth, cols, gap) in
            [(1, 1, 1, 0), (3, 5, 7, 2), (130, 65, 97, 0), (200, 700, 33, 5), (1, 2048, 300, 0)]
        {
            let (a, b) = (numbers(rows * (depth + gap), 1), numbers(cols * (depth + gap), 2));
            let mut out = vec![0.0; rows * (cols + gap)];
            let [left, right] =
                [(&a, rows), (&b, cols)].map(|(x, n)| Matrix::with_stride(x, n, depth, depth + gap));
            product(&mut out, cols + gap, left, right.t(), None, true);
            for (at, found) in out.iter().enumerate() {
                let (row, col) = (at / (cols + gap), at % (cols + gap));
                let pairs = (0..depth).map(|k| {
                    f64::from(a[row * (depth + gap) + k])
                        * f64::from(b[col.min(cols - 1) * (depth + gap) + k])
                });
                let expected = if col < cols { pairs.sum::<f64>() } else { 0.0 };
                assert!(
                    (f64::from(*found) - expected).abs() < 1e-6 * (depth as f64).max(10.0),
                    "{found} {expected}"
                );
            }
        }
    }

    /// The order of the sums, in plain words, bit for bit.
    #[test]
    fn dots_are_added_up_in_one_order() {
        for (rows, depth, cols) in [(1, 1, 1), (2, 15, 3), (1, 16, 65), (2, 700, 129)] {
            let (a, b) = (numbers(rows * depth, 1), numbers(cols * depth, 2));
            let mut out = vec![0.0; rows * cols];
            dots(&mut out, &a, &b, depth);
            for (at, found) in out.iter().enumerate() {
                let (a, b) = (&a[at / cols * depth..][..depth], &b[at % cols * depth..][..depth]);
                let whole = depth / 16 * 16;
                let lane = |lane: usize| (lane..whole).step_by(16).fold(0.0f32, |sum, k| sum + a[k] * b[k]);
                let lanes = (0..16).map(lane).fold(0.0f32, |sum, x| sum + x);
                let rest = (whole..depth).fold(0.0f32, |sum, k| sum + a[k] * b[k]);
                assert_eq!(found.to_bits(), (lanes + rest).to_bits(), "{rows} {depth} {cols} {at}");
            }
        }
    }

    #[test]
    fn the_same_bits_with_any_number_of_threads() {
        for (rows, depth, cols) in [(300, 1030, 517), (1100, 520, 1024), (4, 3000, 700), (1025, 64, 96)] {
            let (a, b) = (numbers(rows * depth, 1), numbers(cols * depth, 2));
            let with = |threads: usize| {
                let mut out = vec![0.0; rows * cols];
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    product(
                        &mut out,
                        cols,
                        Matrix::new(&a, rows, depth),
                        Matrix::new(&b, cols, depth).t(),
                        None,
                        true,
                    );
                });
                out
            };
            let one = with(1);
            [2, 3, 7].into_iter().for_each(|threads| assert_eq!(with(threads), one));
        }
    }
}
