//! Low-rank approximations against the singular values of the whole matrix.

use faer::Mat;
use snapc_weights::quantize::{LowRank, low_rank};

/// xorshift64*, nearly normal: the sum of 12 uniform numbers.
fn noise(count: usize, mut state: u64) -> Vec<f32> {
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..count).map(|_| ((0..12).map(|_| next()).sum::<f64>() - 6.0) as f32).collect()
}

fn scaled(values: &[f32], cols: usize, importance: &[f32]) -> Mat<f64> {
    Mat::from_fn(values.len() / cols, cols, |row, col| {
        f64::from(values[row * cols + col]) * f64::from(importance[col])
    })
}

/// The squared norm that `found` leaves of a residual.
fn left(residual: &[f32], cols: usize, importance: &[f32], rank: usize, found: &LowRank) -> f64 {
    let a = Mat::from_fn(residual.len() / cols, rank, |row, col| f64::from(found.a[row * rank + col]));
    let b = Mat::from_fn(rank, cols, |row, col| {
        f64::from(found.b[row * cols + col]) * f64::from(importance[col])
    });
    (scaled(residual, cols, importance) - a * b).squared_norm_l2()
}

fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |greatest, value| value.abs().max(greatest))
}

/// The squares of the singular values, greatest first.
fn spectrum(residual: &[f32], cols: usize, importance: &[f32]) -> Vec<f64> {
    let values = scaled(residual, cols, importance).singular_values().expect("finite numbers");
    values.iter().map(|value| value * value).collect()
}

#[test]
fn small_matrices_leave_what_the_decomposition_leaves() {
    for (rows, cols) in [(1, 1), (5, 40), (40, 5), (60, 60), (300, 100)] {
        let residual = noise(rows * cols, 3);
        let importance: Vec<f32> = noise(cols, 4).iter().map(|value| value * value + 0.01).collect();
        let squares = spectrum(&residual, cols, &importance);
        for rank in [1, 3, 5, 40] {
            let found = low_rank(&residual, rows, cols, Some(&importance), rank).unwrap();
            assert_eq!((found.a.len(), found.b.len()), (rows * rank, rank * cols));
            let expected: f64 = squares.iter().skip(rank).sum();
            let after = left(&residual, cols, &importance, rank, &found);
            // The factors are f32: each product is off by 2^-23 of itself at most, in the worst case all one way.
            let slack = found.total * (rank as f64).sqrt() * f64::from(f32::EPSILON);
            assert!((after - expected).abs() <= slack, "{rows} x {cols}, {rank}: {after:e} for {expected:e}");
            assert!((found.total - found.captured - expected).abs() <= found.total * 1e-12);
            for index in 0..rank.min(rows).min(cols) {
                let a: Vec<f32> = found.a.iter().skip(index).step_by(rank).copied().collect();
                let (a, b) = (greatest(&a), greatest(&found.b[index * cols..(index + 1) * cols]));
                assert!((a - b).abs() <= a * 4.0 * f32::EPSILON, "{a} and {b}");
            }
        }
    }
}

/// `noise` plus, for `causes` > 0, as many directions of falling strength.
fn large(rows: usize, cols: usize, causes: usize, step: usize) -> Vec<f32> {
    let mut residual = noise(rows * cols, 5);
    let (from, to) = (noise(rows * causes, 6), noise(causes * cols, 7));
    for cause in 0..causes {
        let strength = 1.0 / (1 + cause) as f32;
        for (row, values) in residual.chunks_exact_mut(cols).enumerate() {
            let factor = strength * from[row * causes + cause];
            values.iter_mut().zip(&to[cause * cols..]).for_each(|(value, to)| *value += factor * to);
        }
    }
    // What rounding to multiples of `step` leaves of it.
    if step > 0 {
        residual.iter_mut().for_each(|value| *value -= (*value * step as f32).round() / step as f32);
    }
    residual
}

#[test]
fn large_matrices_capture_what_the_decomposition_captures() {
    for (rows, cols, causes, step) in
        [(400, 400, 0, 0), (320, 900, 20, 0), (900, 320, 20, 4), (480, 360, 3, 1)]
    {
        let residual = large(rows, cols, causes, step);
        for importance in [vec![1.0; cols], noise(cols, 8).iter().map(|value| value * value).collect()] {
            let squares = spectrum(&residual, cols, &importance);
            for rank in [1, 8, 24] {
                let found = low_rank(&residual, rows, cols, Some(&importance), rank).unwrap();
                let expected: f64 = squares.iter().take(rank).sum();
                let captured = found.total - left(&residual, cols, &importance, rank, &found);
                assert!(captured >= 0.99 * expected, "{rows} x {cols}, {rank}: {captured:e} of {expected:e}");
                assert!((captured - found.captured).abs() <= found.total * f64::from(f32::EPSILON));
            }
        }
    }
}

#[test]
fn a_matrix_of_low_rank_is_itself() {
    for (rows, cols) in [(30, 50), (400, 300)] {
        let (from, to) = (noise(rows * 2, 1), noise(2 * cols, 2));
        let value =
            |at: usize| from[at / cols * 2] * to[at % cols] + from[at / cols * 2 + 1] * to[cols + at % cols];
        let residual: Vec<f32> = (0..rows * cols).map(value).collect();
        let ones = vec![1.0; cols];
        for rank in [2, 6] {
            let found = low_rank(&residual, rows, cols, None, rank).unwrap();
            assert_eq!(found, low_rank(&residual, rows, cols, Some(&ones), rank).unwrap());
            let after = left(&residual, cols, &ones, rank, &found);
            // The residual and the factors were rounded to f32.
            assert!(
                after.sqrt() <= 4.0 * f64::from(f32::EPSILON) * found.total.sqrt(),
                "{after:e} of {:e}",
                found.total
            );
        }
    }
}

#[test]
fn zeros_are_zeros() {
    let found = low_rank(&[0.0; 12], 3, 4, None, 2).unwrap();
    assert_eq!(found, LowRank { a: vec![0.0; 6], b: vec![0.0; 8], total: 0.0, captured: 0.0 });
    // A column without importance has no say and is approximated all the same.
    let found = low_rank(&[1.0, 2.0, 3.0, 6.0], 2, 2, Some(&[1.0, 0.0]), 1).unwrap();
    for (row, expected) in [[1.0, 2.0], [3.0, 6.0]].iter().enumerate() {
        for (col, expected) in expected.iter().enumerate() {
            assert!((found.a[row] * found.b[col] - expected).abs() <= 4.0 * f32::EPSILON * expected);
        }
    }
    let found = low_rank(&[1.0, -2.0], 2, 1, None, 3).unwrap();
    assert_eq!((&found.a[1..3], &found.b[1..]), (&[0.0, 0.0][..], &[0.0, 0.0][..]));
    assert!(low_rank(&[], 0, 0, None, 2).unwrap().a.is_empty());
    assert!(low_rank(&[1.0], 1, 1, None, 0).unwrap().b.is_empty());
}

#[test]
fn what_has_no_approximation_is_an_error() {
    assert!(low_rank(&[1.0; 3], 2, 2, None, 1).is_err());
    assert!(low_rank(&[1.0; 4], 2, 2, Some(&[1.0]), 1).is_err());
    assert!(low_rank(&[1.0; 4], 2, 2, Some(&[1.0, -1.0]), 1).is_err());
    assert!(low_rank(&[f32::NAN; 4], 2, 2, None, 1).is_err());
}
