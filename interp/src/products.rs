use crate::gemm::{Matrix, product};

/// `x^T x` of a matrix `[rows, cols]`: `[cols, cols]`.
pub fn products(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut sums = vec![0.0; cols * cols];
    let matrix = Matrix::new(x, rows, cols);
    product(&mut sums, cols, matrix.t(), matrix, None, true);
    sums
}
