//! Matrix products in f32 over row-major slices.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// A row-major matrix inside a slice: `rows x cols`, rows `stride` apart.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
    transposed: bool,
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

    fn view(self) -> MatRef<'a, f32> {
        let end = self.rows.saturating_sub(1) * self.stride + self.cols;
        // faer 0.24's row-major views with a stride swap their strides; a column-major view of the transpose does not.
        let columns = MatRef::from_column_major_slice_with_stride(
            &self.values[..end],
            self.cols,
            self.rows,
            self.stride,
        );
        if self.transposed { columns } else { columns.transpose() }
    }
}

/// Multiplications below which one thread is done before another has begun.
const FEW: usize = 1 << 20;

/// `out = alpha * a * b`, `out` having rows `stride` numbers apart. `threads`: whether to use all of them. They split rows and columns,
/// so that no number depends on how many there are.
pub fn product(out: &mut [f32], stride: usize, a: Matrix, b: Matrix, alpha: f32, threads: bool) {
    let (a, b) = (a.view(), b.view());
    let (rows, cols) = (a.nrows(), b.ncols());
    if rows == 0 || cols == 0 {
        return;
    }
    let end = (rows - 1) * stride + cols;
    let out =
        MatMut::from_column_major_slice_with_stride_mut(&mut out[..end], cols, rows, stride).transpose_mut();
    let par = if threads && rows * cols * a.ncols() > FEW { Par::rayon(0) } else { Par::Seq };
    matmul(out, Accum::Replace, a, b, alpha, par);
}
