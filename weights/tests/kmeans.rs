//! Exact clustering against a dynamic program that tries every interval, and the histogram and codes around it.

use half::f16;
use snapc_weights::quantize::{Histogram, kmeans, nearest, nearest_table};

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Nearly normal: the sum of 12 uniform numbers.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// The least cost for each number of clusters up to `k`, by trying every interval for the last cluster. An interval's
/// cost is updated point by point (West 1979): all terms are positive, so
/// nothing cancels.
fn brute_force(values: &[f32], weights: &[f64], k: usize) -> Vec<f64> {
    let n = values.len();
    let mut costs = vec![0.0; n * (n + 1)];
    for begin in 0..n {
        let (mut total, mut mean, mut error) = (0.0, 0.0, 0.0);
        for end in begin..n {
            let before: f64 = total;
            total += weights[end];
            let distance = f64::from(values[end]) - f64::from(values[begin]) - mean;
            mean += distance * weights[end] / total;
            error += weights[end] * distance * distance * (before / total);
            costs[begin * (n + 1) + end + 1] = error;
        }
    }
    let mut best = vec![f64::INFINITY; n + 1];
    best[0] = 0.0;
    let mut least = Vec::new();
    for _ in 0..k {
        let mut next = vec![f64::INFINITY; n + 1];
        next[0] = 0.0;
        for end in 1..=n {
            for begin in 0..end {
                next[end] = next[end].min(best[begin] + costs[begin * (n + 1) + end]);
            }
        }
        best = next;
        least.push(best[n]);
    }
    least
}

fn sorted(mut values: Vec<f32>) -> Vec<f32> {
    values.sort_by(f32::total_cmp);
    values.dedup();
    values
}

/// Kinds of numbers that are hard in different ways: ties on a lattice, f16 numbers (dense near 0),
/// outliers, subnormals, a far offset.
fn sample(random: &mut Random, kind: usize, n: usize) -> Vec<f32> {
    let values = (0..n).map(|_| match kind {
        0 => random.unit() as f32,
        1 => random.below(2 * n) as f32,
        2 => f16::from_f64(random.normal()).to_f32(),
        3 => (random.normal() * if random.below(8) == 0 { 100.0 } else { 1.0 }) as f32,
        4 => f16::from_bits(random.below(500) as u16).to_f32(),
        _ => 1000.0 + random.unit() as f32,
    });
    sorted(values.collect())
}

#[test]
fn costs_are_those_of_every_interval_tried() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for case in 0..900 {
        let n = 1 + random.below(60);
        let values = sample(&mut random, case % 6, n);
        let weights: Vec<f64> = values
            .iter()
            .map(|_| match case / 6 % 3 {
                0 => 1.0,
                1 => 1.0 + random.below(1000) as f64,
                _ => random.unit().powi(4) + 1e-9,
            })
            .collect();
        let k = 1 + random.below(16);
        let found = kmeans(&values, &weights, k).unwrap();
        let expected = brute_force(&values, &weights, k)[k - 1];
        assert_eq!(found.centroids.len(), k);
        assert!(found.centroids.is_sorted());
        // Both sum the same intervals in f64; other intervals cost the same or are not optimal.
        assert!(
            (found.cost - expected).abs() <= 1e-9 * expected,
            "case {case}: {n} numbers, {k} clusters: {:e} for {expected:e}",
            found.cost
        );
    }
}

#[test]
fn costs_of_many_clusters_are_those_of_every_interval_tried() {
    let mut random = Random(5);
    for kind in 0..6 {
        let values = sample(&mut random, kind, 700);
        let weights: Vec<f64> = values.iter().map(|_| 1.0 + random.below(20) as f64).collect();
        for (index, expected) in brute_force(&values, &weights, 256).iter().enumerate().step_by(5) {
            let found = kmeans(&values, &weights, index + 1).unwrap().cost;
            assert!(
                (found - expected).abs() <= 1e-9 * expected,
                "{kind}, {}: {found:e} for {expected:e}",
                index + 1
            );
        }
    }
}

#[test]
fn each_centroid_is_the_mean_of_what_is_nearest_to_it() {
    let mut random = Random(7);
    let values = sample(&mut random, 2, 20_000);
    let weights: Vec<f64> = values.iter().map(|_| 1.0 + random.below(50) as f64).collect();
    for k in [2, 4, 16, 64, 256] {
        let found = kmeans(&values, &weights, k).unwrap();
        assert!(found.centroids.windows(2).all(|pair| pair[0] < pair[1]), "{k}");
        let mut sums = vec![(0.0, 0.0); k];
        let mut cost = 0.0;
        for (value, weight) in values.iter().zip(&weights) {
            let distance = |index: usize| (f64::from(*value) - f64::from(found.centroids[index])).abs();
            let index = (0..k).min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap();
            sums[index].0 += weight;
            sums[index].1 += weight * f64::from(*value);
            cost += weight * distance(index).powi(2);
        }
        for (centroid, (weight, sum)) in found.centroids.iter().zip(sums) {
            // The centroid is the mean, rounded to f32 once.
            let mean: f64 = sum / weight;
            assert!(
                (f64::from(*centroid) - mean).abs() <= f64::from(f32::EPSILON) * mean.abs() + 1e-12,
                "{k}"
            );
        }
        // Rounding a mean by e adds weight * e^2, and e <= 2^-24 * |mean|.
        let total: f64 = weights.iter().sum();
        assert!(
            cost >= found.cost * (1.0 - 1e-9) && cost <= found.cost * (1.0 + 1e-9) + total * 1e-13,
            "{k}"
        );
    }
}

#[test]
fn few_numbers_are_their_own_centroids() {
    assert_eq!(kmeans(&[0.5], &[3.0], 4).unwrap().centroids, [0.5; 4]);
    let found = kmeans(&[-1.0, 0.0, 2.0], &[1.0, 5.0, 1e-300], 4).unwrap();
    assert_eq!((found.centroids, found.cost), (vec![-1.0, 0.0, 2.0, 2.0], 0.0));
    assert_eq!(kmeans(&[-1.0, 0.0, 2.0], &[1.0, 0.0, 1.0], 2).unwrap().centroids, [-1.0, 2.0]);
    assert_eq!(kmeans(&[-1.0, 0.0, 4.0], &[0.0; 3], 1).unwrap().centroids, [1.0]);
}

#[test]
fn what_cannot_be_clustered_is_an_error() {
    assert!(kmeans(&[], &[], 4).is_err());
    assert!(kmeans(&[1.0], &[1.0], 0).is_err());
    assert!(kmeans(&[1.0, 2.0], &[1.0], 1).is_err());
    assert!(kmeans(&[2.0, 1.0], &[1.0, 1.0], 1).is_err());
    assert!(kmeans(&[1.0, f32::NAN], &[1.0, 1.0], 1).is_err());
    assert!(kmeans(&[1.0, 2.0], &[1.0, -1.0], 1).is_err());
    assert!(kmeans(&[1.0, 2.0], &[1.0, f64::INFINITY], 1).is_err());
}

#[test]
fn a_histogram_counts_numbers_by_column() {
    let halves = |values: &[f32]| values.iter().map(|value| f16::from_f32(*value)).collect::<Vec<_>>();
    let mut histogram = Histogram::new();
    let tiny = f16::from_bits(1).to_f32();
    histogram.add(&halves(&[-0.0, 0.0, 1.5, -2.0, 1.5, tiny, -tiny]));
    let (values, weights) = histogram.distinct().unwrap();
    assert_eq!(values, [-2.0, -tiny, 0.0, tiny, 1.5]);
    assert!(values.iter().all(|value| *value != 0.0 || value.is_sign_positive()));
    assert_eq!(weights, [1.0, 1.0, 2.0, 1.0, 2.0]);

    let matrix = halves(&[1.0, 2.0, 3.0, 1.0, 1.0, 3.0, -0.0, 0.0, 2.0]);
    let importance = [1.0, 10.0, 0.0];
    let mut whole = Histogram::new();
    whole.add_weighted(&matrix, &importance, 0).unwrap();
    assert_eq!(whole.distinct().unwrap(), (vec![0.0, 1.0, 2.0], vec![11.0, 12.0, 10.0]));
    for cut in 0..=matrix.len() {
        histogram.clear();
        histogram.add_weighted(&matrix[..cut], &importance, 0).unwrap();
        histogram.add_weighted(&matrix[cut..], &importance, cut).unwrap();
        assert_eq!(histogram.distinct().unwrap(), whole.distinct().unwrap());
    }
    assert!(histogram.add_weighted(&matrix, &[-1.0], 0).is_err());
    assert!(histogram.add_weighted(&matrix, &[], 0).is_err());
    histogram.add(&[f16::INFINITY]);
    assert!(histogram.distinct().is_err());
}

#[test]
fn codes_are_of_the_nearest_entry() {
    let mut random = Random(3);
    for case in 0..40 {
        let mut lut: Vec<f16> = (0..1 + random.below(if case % 2 == 0 { 16 } else { 256 }))
            .map(|_| match case % 3 {
                0 => f16::from_f64(random.normal()),
                1 => f16::from_f32(random.below(5) as f32 - 2.0),
                _ => f16::from_bits((random.below(2) << 15 | random.below(0x7c00)) as u16),
            })
            .collect();
        lut.sort_by(|a, b| a.to_f32().total_cmp(&b.to_f32()));
        let table = nearest_table(&lut).unwrap();
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            if !value.is_finite() {
                continue;
            }
            let distance = |entry: &f16| (entry.to_f64() - value.to_f64()).abs();
            let least = lut.iter().map(distance).fold(f64::INFINITY, f64::min);
            let expected = lut.iter().position(|entry| distance(entry) == least).unwrap();
            assert_eq!(usize::from(table[usize::from(bits)]), expected, "{value} in {lut:?}");
            assert_eq!(nearest(&lut, value.to_f32()), expected, "{value} in {lut:?}");
        }
        let of = |value: f16| usize::from(table[usize::from(value.to_bits())]);
        assert_eq!((of(f16::NEG_INFINITY), of(f16::INFINITY)), (of(f16::MIN), of(f16::MAX)));
    }
    assert!(nearest_table(&[]).is_err());
    assert!(nearest_table(&[f16::ONE, f16::ZERO]).is_err());
    assert!(nearest_table(&[f16::NAN]).is_err());
}
