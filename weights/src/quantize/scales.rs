//! Symmetric integers with an f16 scale for a group of numbers: `weight ~ scale * code`.

use half::f16;
use snapc_ir::{Error, Result};

/// Scales that a search tries.
const CANDIDATES: usize = 80;

/// The least and greatest of them, of the plain scale.
const RANGE: (f32, f32) = (0.4, 1.05);

/// Numbers that are summed side by side.
const LANES: usize = 8;

/// Adding and taking it away rounds a number of magnitude below 2^22 to an integer, ties to even.
const ROUND: f32 = 12_582_912.0;

/// A range of integer codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    min: i8,
    max: i8,
}

impl Levels {
    /// 8 bits: [-127, 127].
    pub const INT8: Levels = Levels { min: -127, max: 127 };

    /// 4 bits: [-8, 7].
    pub const INT4: Levels = Levels { min: -8, max: 7 };

    /// The least code.
    pub fn min(self) -> i8 {
        self.min
    }

    /// The greatest code.
    pub fn max(self) -> i8 {
        self.max
    }

    /// The code of a number: `weight / scale`, rounded half to even and clamped.
    #[inline(always)]
    pub fn code(self, scale: f16, weight: f32) -> i8 {
        self.rounded(scale.to_f32(), weight) as i8
    }

    /// The codes of numbers, as many as `codes` holds: [`Levels::code`] of each.
    pub fn codes(self, scale: f16, weights: &[f32], codes: &mut [i8]) {
        let scale = scale.to_f32();
        for (code, weight) in codes.iter_mut().zip(weights) {
            *code = self.rounded(scale, *weight) as i8;
        }
    }

    /// The code as f32. To clamp first gives the same integer: the bounds are integers.
    #[inline(always)]
    fn rounded(self, scale: f32, weight: f32) -> f32 {
        let ratio = (weight / scale).max(f32::from(self.min)).min(f32::from(self.max));
        (ratio + ROUND) - ROUND
    }
}

/// The number that a code stands for: `scale * code` in f32.
#[inline(always)]
pub fn decode(scale: f16, code: i8) -> f32 {
    scale.to_f32() * f32::from(code)
}

/// The scale that covers a group: the greater of `max / levels.max` and `min / levels.min`, rounded to the nearest f16,
/// or the next greater if a code would be clamped by more than its rounding. Finite, at least 2^-24; the smallest
/// normal f16 for a group of zeros; 65504 for a group that no f16 scale covers.
///
/// # Errors
/// If a number is not finite.
pub fn plain_scale(levels: Levels, weights: &[f32]) -> Result<f16> {
    let (mut min, mut max) = (0.0f32, 0.0f32);
    for weight in weights {
        if !weight.is_finite() {
            return Err(Error::input(format!("a weight is {weight}, which no code can stand for")));
        }
        (min, max) = (min.min(*weight), max.max(*weight));
    }
    if min == 0.0 && max == 0.0 {
        return Ok(f16::MIN_POSITIVE);
    }
    let scale = to_scale((max / f32::from(levels.max)).max(min / f32::from(levels.min)));
    let clamps = |scale: f16| {
        let scale = scale.to_f32();
        max / scale >= f32::from(levels.max) + 0.5 || min / scale <= f32::from(levels.min) - 0.5
    };
    Ok(if clamps(scale) && scale < f16::MAX { f16::from_bits(scale.to_bits() + 1) } else { scale })
}

/// The scale with the least `sum_j importance[j] * (weights[j] - scale * code_j)^2` of the plain scale, 80 from 0.4 to
/// 1.05 of it, and the least-squares scale for the best one's codes; of scales as good, the first. So it is never worse
/// than [`plain_scale`]. Without importances each is 1; they are the second moments of the input channels, say.
///
/// # Errors
/// If a number is not finite, or the importances are not as many, or one is negative or not finite.
pub fn search_scale(levels: Levels, weights: &[f32], importance: Option<&[f32]>) -> Result<f16> {
    let plain = plain_scale(levels, weights)?;
    if let Some(importance) = importance {
        if importance.len() != weights.len() {
            let (weights, importance) = (weights.len(), importance.len());
            return Err(Error::bug(format!("{importance} importances of {weights} weights")));
        }
        if let Some(wrong) = importance.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
            return Err(Error::input(format!("an importance is {wrong}, not a finite number of at least 0")));
        }
    }
    let error = |scale: f16| scale_error(levels, scale, weights, importance);
    let mut best = (plain, error(plain));
    let mut consider = |scale: f16| {
        let error = error(scale);
        if error < best.1 {
            best = (scale, error);
        }
        best.0
    };
    let step = (RANGE.1 - RANGE.0) / (CANDIDATES - 1) as f32;
    let (mut last, mut found) = (plain, plain);
    for index in 0..CANDIDATES {
        let scale = to_scale(plain.to_f32() * (RANGE.0 + step * index as f32));
        if scale != last && scale != plain {
            found = consider(scale);
        }
        last = scale;
    }
    Ok(least_squares(levels, found, weights, importance).map_or(found, consider))
}

/// `sum_j importance[j] * (weights[j] - scale * code_j)^2` in f64, in a fixed order.
pub fn scale_error(levels: Levels, scale: f16, weights: &[f32], importance: Option<&[f32]>) -> f64 {
    let scale = scale.to_f32();
    let square = |weight: f32, importance: f32| {
        // The product is exact in f32: 11 bits by 8.
        let error = f64::from(weight) - f64::from(scale * levels.rounded(scale, weight));
        f64::from(importance) * error * error
    };
    let mut sums = [0.0; LANES];
    let (chunks, rest) = weights.as_chunks::<LANES>();
    let mut tail = 0.0;
    match importance {
        None => {
            for chunk in chunks {
                for lane in 0..LANES {
                    sums[lane] += square(chunk[lane], 1.0);
                }
            }
            rest.iter().for_each(|weight| tail += square(*weight, 1.0));
        }
        Some(importance) => {
            let (of_chunks, of_rest) = importance.as_chunks::<LANES>();
            for (chunk, of_chunk) in chunks.iter().zip(of_chunks) {
                for lane in 0..LANES {
                    sums[lane] += square(chunk[lane], of_chunk[lane]);
                }
            }
            rest.iter().zip(of_rest).for_each(|(weight, of)| tail += square(*weight, *of));
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// The scale with the least error for the codes that `scale` gives: `sum h w q / sum h q^2`.
fn least_squares(levels: Levels, scale: f16, weights: &[f32], importance: Option<&[f32]>) -> Option<f16> {
    let scale = scale.to_f32();
    let (mut product, mut square) = (0.0, 0.0);
    for (index, weight) in weights.iter().enumerate() {
        let code = f64::from(levels.rounded(scale, *weight));
        let importance = importance.map_or(1.0, |importance| f64::from(importance[index]));
        product += importance * f64::from(*weight) * code;
        square += importance * code * code;
    }
    (square > 0.0 && product > 0.0).then(|| to_scale((product / square) as f32))
}

/// The nearest f16 that may be a scale: from 2^-24 to 65504.
fn to_scale(value: f32) -> f16 {
    let least = f16::from_bits(1);
    f16::from_f32(value.clamp(least.to_f32(), f16::MAX.to_f32()))
}
