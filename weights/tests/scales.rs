//! Integer codes and their f16 scales.

use half::f16;
use snapc_weights::quantize::{Levels, decode, plain_scale, scale_error, search_scale};

/// xorshift64*, from -1 to 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Heavier than normal, as weights are.
    fn weight(&mut self) -> f32 {
        let sum: f32 = (0..6).map(|_| self.next()).sum();
        sum * sum.abs().sqrt() * 0.01
    }
}

fn error(levels: Levels, scale: f16, weights: &[f32], importance: &[f32]) -> f64 {
    let square = |(weight, importance): (&f32, &f32)| {
        let decoded = decode(scale, levels.code(scale, *weight));
        f64::from(*importance) * (f64::from(*weight) - f64::from(decoded)).powi(2)
    };
    weights.iter().zip(importance).map(square).sum()
}

#[test]
fn codes_are_the_nearest_in_range_with_ties_to_even() {
    let scale = f16::from_f32(0.25);
    for (levels, min, max) in [(Levels::INT8, -127, 127), (Levels::INT4, -8, 7)] {
        for half in -600..600 {
            let ratio = half as f32 / 2.0;
            let expected = ratio.round_ties_even().clamp(min as f32, max as f32);
            let weight = ratio * 0.25;
            assert_eq!(f32::from(levels.code(scale, weight)), expected);
            let mut codes = [0];
            levels.codes(scale, &[weight], &mut codes);
            assert_eq!(f32::from(codes[0]), expected);
            assert_eq!(decode(scale, codes[0]), expected * 0.25);
        }
        assert_eq!(
            (levels.code(f16::from_bits(1), 65504.0), levels.code(f16::from_bits(1), -65504.0)),
            (max, min)
        );
    }
}

#[test]
fn a_plain_scale_covers_its_group() {
    let mut random = Random(1);
    // Down to where f16 scales are subnormal and their spacing coarse.
    for power in -26..16 {
        for levels in [Levels::INT8, Levels::INT4] {
            for _ in 0..20 {
                let weights: Vec<f32> = (0..32).map(|_| random.next() * 2f32.powi(power)).collect();
                let scale = plain_scale(levels, &weights).unwrap();
                assert!(scale > f16::ZERO && scale.is_finite());
                for weight in &weights {
                    let decoded = decode(scale, levels.code(scale, *weight));
                    // Half a step, and half an ulp of the ratio where that rounds to a tie.
                    let limit = scale.to_f32() * 0.5 * (1.0 + 256.0 * f32::EPSILON);
                    assert!((weight - decoded).abs() <= limit, "{weight} as {decoded} by {scale}");
                }
            }
        }
    }
}

#[test]
fn plain_scales_of_known_groups() {
    let half = f16::from_f32;
    assert_eq!(plain_scale(Levels::INT8, &[1.0, -2.54]).unwrap(), half(0.02));
    assert_eq!(plain_scale(Levels::INT4, &[0.7, -0.8]).unwrap(), half(0.1));
    assert_eq!(plain_scale(Levels::INT4, &[0.1, -0.8]).unwrap(), half(0.1));
    assert_eq!(plain_scale(Levels::INT4, &[0.7, -0.1]).unwrap(), half(0.1));
    assert_eq!(plain_scale(Levels::INT8, &[0.0, -0.0]).unwrap(), f16::MIN_POSITIVE);
    assert_eq!(plain_scale(Levels::INT8, &[]).unwrap(), f16::MIN_POSITIVE);
    assert_eq!(plain_scale(Levels::INT8, &[1e-30]).unwrap(), f16::from_bits(1));
    // 1.4 * 2^-24 is nearer to 2^-24, which would clamp a code of 178 to 127.
    assert_eq!(plain_scale(Levels::INT8, &[1.4 * 127.0 * 2f32.powi(-24)]).unwrap(), f16::from_bits(2));
    assert_eq!(plain_scale(Levels::INT4, &[-1e30]).unwrap(), f16::MAX);
    assert!(plain_scale(Levels::INT8, &[f32::NAN]).is_err());
    assert!(plain_scale(Levels::INT8, &[f32::INFINITY]).is_err());
}

#[test]
fn a_searched_scale_is_never_worse() {
    let mut random = Random(2);
    let (mut plain_sum, mut found_sum) = (0.0, 0.0);
    for count in (1..150).cycle().take(600) {
        let weights: Vec<f32> = (0..count).map(|_| random.weight()).collect();
        let importance: Vec<f32> = (0..count).map(|_| random.next().powi(4) * 30.0).collect();
        for levels in [Levels::INT8, Levels::INT4] {
            let plain = plain_scale(levels, &weights).unwrap();
            let found = search_scale(levels, &weights, Some(&importance)).unwrap();
            let (before, after) =
                (error(levels, plain, &weights, &importance), error(levels, found, &weights, &importance));
            // Both sum the same count terms in f64, in another order.
            let slack = count as f64 * f64::EPSILON * before;
            assert!(after <= before + slack, "{after:e} after {before:e}");
            assert!(
                (scale_error(levels, found, &weights, Some(&importance)) - after).abs()
                    <= slack + f64::MIN_POSITIVE
            );
            if levels == Levels::INT4 {
                (plain_sum, found_sum) = (plain_sum + before, found_sum + after);
            }
            let ones = vec![1.0; count];
            assert_eq!(
                search_scale(levels, &weights, None).unwrap(),
                search_scale(levels, &weights, Some(&ones)).unwrap()
            );
        }
    }
    assert!(found_sum < plain_sum, "{found_sum:e} of {plain_sum:e}");
}

#[test]
fn what_cannot_be_searched_is_an_error() {
    assert_eq!(search_scale(Levels::INT4, &[0.0; 8], None).unwrap(), f16::MIN_POSITIVE);
    assert!(search_scale(Levels::INT4, &[1.0], Some(&[])).is_err());
    assert!(search_scale(Levels::INT4, &[1.0], Some(&[-1.0])).is_err());
    assert!(search_scale(Levels::INT4, &[1.0], Some(&[f32::NAN])).is_err());
    assert!(search_scale(Levels::INT4, &[f32::NAN], None).is_err());
}
