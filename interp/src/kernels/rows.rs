//! Norms and softmax of rows.

use super::functions::exp_down;

/// Partial sums that run beside each other.
const LANES: usize = 16;

/// The sum of `of` each number, in f64: the definition has no rounding of its own.
#[inline(always)]
fn sum(row: &[f32], of: impl Fn(f64) -> f64) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (pieces, rest) = row.as_chunks::<LANES>();
    for piece in pieces {
        sums.iter_mut().zip(piece).for_each(|(sum, &x)| *sum += of(f64::from(x)));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, &x)| *sum += of(f64::from(x)));
    // By halves: one behind the other, they take longer than the sums of a short row.
    let mut lanes = LANES;
    while lanes > 1 {
        lanes /= 2;
        (0..lanes).for_each(|lane| sums[lane] += sums[lane + lanes]);
    }
    sums[0]
}

/// Divides a row by the root of its mean square + eps, times a weight.
#[inline(always)]
pub fn rms_norm(row: &mut [f32], eps: f32, weight: Option<&[f32]>) {
    let mean = sum(row, |x| x * x) / row.len() as f64;
    let inverse = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
    match weight {
        Some(weight) => row.iter_mut().zip(weight).for_each(|(x, weight)| *x = *x * inverse * weight),
        None => row.iter_mut().for_each(|x| *x *= inverse),
    }
}

/// Takes off the mean and divides by the root of variance + eps.
#[inline(always)]
pub fn normalize(row: &mut [f32], eps: f32) {
    let centre = sum(row, |x| x) / row.len() as f64;
    let variance = sum(row, |x| (x - centre) * (x - centre)) / row.len() as f64;
    let inverse = 1.0 / (variance + f64::from(eps)).sqrt();
    row.iter_mut().for_each(|x| *x = ((f64::from(*x) - centre) * inverse) as f32);
}

/// The mean of a row.
#[inline(always)]
pub fn mean(row: &[f32]) -> f32 {
    (sum(row, |x| x) / row.len() as f64) as f32
}

/// Softmax of one row in place.
#[inline(always)]
pub fn softmax(row: &mut [f32]) {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (pieces, rest) = row.as_chunks::<LANES>();
    // A NaN shows in the sum, whether or not it is taken here.
    let larger = |most: &mut f32, x: f32| *most = if x > *most { x } else { *most };
    pieces.iter().for_each(|piece| largest.iter_mut().zip(piece).for_each(|(most, &x)| larger(most, x)));
    largest.iter_mut().zip(rest).for_each(|(most, &x)| larger(most, x));
    let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0f32; LANES];
    let (pieces, rest) = row.as_chunks_mut::<LANES>();
    let numerator = |(sum, x): (&mut f32, &mut f32)| {
        *x = exp_down(*x - largest);
        *sum += *x;
    };
    // Pieces of a known size become vectors; a chain with the rest does not.
    for piece in pieces {
        sums.iter_mut().zip(piece).for_each(numerator);
    }
    sums.iter_mut().zip(rest).for_each(numerator);
    let inverse = 1.0 / sums.iter().sum::<f32>();
    row.iter_mut().for_each(|x| *x *= inverse);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::vectorised;

    fn row(length: usize) -> Vec<f32> {
        (0..length).map(|at| ((at * 37 + 11) % 101) as f32 * 0.07 - 2.0).collect()
    }

    fn check(found: &[f32], expected: impl Iterator<Item = f64>) {
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6 * (1.0 + expected.abs()),
                "{found} {expected}"
            );
        }
    }

    #[test]
    fn as_the_plain_loops() {
        for length in [1, 2, 7, 16, 17, 100, 1024, 1029] {
            let x = row(length);
            let wide = || x.iter().map(|&x| f64::from(x));
            let count = length as f64;
            let mut found = x.clone();
            vectorised(|| rms_norm(&mut found, 1e-6, Some(&x)));
            let root = (wide().map(|x| x * x).sum::<f64>() / count + 1e-6f32 as f64).sqrt();
            check(&found, wide().map(|x| x / root * x));
            let mut found = x.clone();
            vectorised(|| normalize(&mut found, 1e-5));
            let centre = wide().sum::<f64>() / count;
            let root = (wide().map(|x| (x - centre).powi(2)).sum::<f64>() / count + 1e-5f32 as f64).sqrt();
            check(&found, wide().map(|x| (x - centre) / root));
            assert_eq!(mean(&x), centre as f32);
            let mut found = x.clone();
            vectorised(|| softmax(&mut found));
            let all: f64 = wide().map(f64::exp).sum();
            check(&found, wide().map(|x| x.exp() / all));
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let mut x = [1.0, f32::NAN, 2.0];
        softmax(&mut x);
        assert!(x.iter().all(|x| x.is_nan()));
    }
}
