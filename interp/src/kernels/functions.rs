//! Functions of one number that compilers turn into vector code: no branch, no call.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E, PI};

/// Added and taken away again, it rounds to the nearest whole number.
const ROUND: f32 = 12_582_912.0;

/// `e^x` as `y 2^n` (Cephes' polynomial): `y`, and bits that end with those of `n`.
#[inline(always)]
fn powers(x: f32) -> (f32, u32) {
    let shifted = x.mul_add(LOG2_E, ROUND);
    let power = shifted - ROUND;
    // ln 2 in two pieces, the first of few bits.
    let r = power.mul_add(-0.693_359_4, x);
    let r = power.mul_add(2.121_944_4e-4, r);
    let y = 1.987_569_1e-4f32;
    let y = y.mul_add(r, 1.398_199_9e-3);
    let y = y.mul_add(r, 8.333_452e-3);
    let y = y.mul_add(r, 4.166_579_6e-2);
    let y = y.mul_add(r, 1.666_666_5e-1);
    let y = y.mul_add(r, 0.5);
    ((y * r).mul_add(r, r) + 1.0, shifted.to_bits())
}

/// `e^x`: within 2 units in the last place.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Past these it is 0 or infinite all the same; NaN stays.
    let x = if x < -105.0 { -105.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let (y, bits) = powers(x);
    // 2^n in two steps, so that the ends are reached without a detour.
    let whole = (bits as i32).wrapping_sub(ROUND.to_bits() as i32);
    let first = whole >> 1;
    let two = |power: i32| f32::from_bits((power.wrapping_add(127) << 23) as u32);
    y * two(first) * two(whole.wrapping_sub(first))
}

/// `e^x` of numbers that are not above 0, as a softmax has them: two thirds of the work. Below -87 it is 0: the share that a softmax makes
/// of some 1e-38 is subnormal, and some CPUs multiply those many times slower.
#[inline(always)]
pub fn exp_down(x: f32) -> f32 {
    let (y, bits) = powers(x);
    let y = y * f32::from_bits((bits << 23).wrapping_add(1f32.to_bits()));
    if x < -87.0 { 0.0 } else { y }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent (Cephes' polynomial near 0).
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let z = x * x;
    let y = -5.704_988_7e-3f32;
    let y = y.mul_add(z, 2.063_909e-2);
    let y = y.mul_add(z, -5.373_971_5e-2);
    let y = y.mul_add(z, 1.333_144_2e-1);
    let y = y.mul_add(z, -3.333_328e-1);
    let small = (y * z).mul_add(x, x);
    let size = x.abs();
    let large = 1.0 - 2.0 / (exp(2.0 * size) + 1.0);
    if size < 0.625 { small } else { large.copysign(x) }
}

/// The error function, within 5e-7: a quotient of polynomials up to 4, where it is 1 in f32.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let x = if x < -4.0 { -4.0 } else { x };
    let x = if x > 4.0 { 4.0 } else { x };
    let z = x * x;
    let above = -2.726_142_4e-10f32;
    let above = above.mul_add(z, 2.770_681_4e-8);
    let above = above.mul_add(z, -2.101_024e-6);
    let above = above.mul_add(z, -5.692_506_4e-5);
    let above = above.mul_add(z, -7.349_906_2e-4);
    let above = above.mul_add(z, -2.954_6e-3);
    let above = above.mul_add(z, -1.609_603_3e-2);
    let below = -1.456_607_2e-5f32;
    let below = below.mul_add(z, -2.133_740_6e-4);
    let below = below.mul_add(z, -1.682_827e-3);
    let below = below.mul_add(z, -7.373_329_2e-3);
    let below = below.mul_add(z, -1.426_473_9e-2);
    x * above / below
}

/// `x sigmoid(x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `x Phi(x)`, by erf.
#[inline(always)]
pub fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// `x Phi(x)`, by tanh: `0.5 (1 + tanh u)` is the sigmoid of `2 u`.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    let root = (2.0 / PI).sqrt();
    let u = root * (0.044_715 * x * x).mul_add(x, x);
    x / (1.0 + exp(-2.0 * u))
}

/// `x sigmoid(1.702 x)`.
#[inline(always)]
pub fn gelu_quick(x: f32) -> f32 {
    x / (1.0 + exp(-1.702 * x))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest error over numbers from -`end` to `end`, over `1 + |y|` of `relative` and else absolute.
    fn error(of: fn(f32) -> f32, plain: impl Fn(f64) -> f64, end: f32, relative: bool) -> f64 {
        let numbers = (0..200_001).map(|at| end * (at as f32 / 100_000.0 - 1.0));
        numbers
            .map(|x| {
                let y = plain(f64::from(x));
                (f64::from(of(x)) - y).abs() / if relative { y.abs() } else { 1.0 }
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn near_their_definitions() {
        assert!(error(exp, f64::exp, 87.0, true) < 2.5e-7);
        assert!(error(|x| exp_down(-x.abs()), |x| (-x.abs()).exp(), 87.0, true) < 2.5e-7);
        assert!(error(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 80.0, true) < 5e-7);
        assert!(error(tanh, f64::tanh, 12.0, true) < 3e-7);
        assert!(error(erf, libm::erf, 6.0, false) < 5e-7);
        assert!(error(gelu_erf, |x| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())), 1.5, false) < 5e-7);
        let root = (2.0 / std::f64::consts::PI).sqrt();
        let plain = |x: f64| 0.5 * x * (1.0 + (root * (x + 0.044_715 * x * x * x)).tanh());
        assert!(error(gelu_tanh, plain, 8.0, false) < 1e-6);
        assert!(error(gelu_quick, |x| x / (1.0 + (-1.702 * x).exp()), 8.0, false) < 1e-6);
        assert!(error(silu, |x| x / (1.0 + (-x).exp()), 8.0, false) < 1e-6);
    }

    #[test]
    fn the_ends() {
        for of in [exp, exp_down, sigmoid, tanh, erf, silu, gelu_erf, gelu_tanh, gelu_quick] {
            assert!(of(f32::NAN).is_nan());
        }
        assert_eq!([exp(f32::NEG_INFINITY), exp(-1e4), exp(0.0), exp(1e4)], [0.0, 0.0, 1.0, f32::INFINITY]);
        assert_eq!([exp_down(0.0), exp_down(-0.0)], [1.0, 1.0]);
        assert_eq!([-88.0, -1e30, f32::MIN, f32::NEG_INFINITY].map(exp_down), [0.0; 4]);
        assert_eq!([tanh(-50.0), tanh(50.0), tanh(0.0)], [-1.0, 1.0, 0.0]);
        assert_eq!([gelu_tanh(1e4), gelu_quick(1e4), silu(1e4)], [1e4; 3]);
        assert!([gelu_tanh(-1e4), gelu_quick(-1e4), silu(-1e4)].iter().all(|y| *y == 0.0));
    }
}
