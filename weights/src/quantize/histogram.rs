//! The distinct numbers of f16 tensors with their weights, and the way back from a palette to codes.

use half::f16;
use snapc_ir::{Error, Result};

/// How many numbers 16 bits can hold.
const PATTERNS: usize = 1 << 16;

/// The sign bit of an f16.
const SIGN: u16 = 0x8000;

/// The bits of f16's infinity: from there on, without the sign, no pattern is a finite number.
const INFINITY: u16 = 0x7c00;

/// How often, or with what importance, each f16 number occurs. One buffer of 65,536 sums, to be used again and again.
#[derive(Clone, Debug)]
pub struct Histogram {
    sums: Vec<f64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty one.
    pub fn new() -> Self {
        Histogram { sums: vec![0.0; PATTERNS] }
    }

    /// Forgets all numbers.
    pub fn clear(&mut self) {
        self.sums.fill(0.0);
    }

    /// Counts numbers, each with weight 1. Exact up to 2^53 of them.
    pub fn add(&mut self, values: &[f16]) {
        for value in values {
            self.sums[usize::from(value.to_bits())] += 1.0;
        }
    }

    /// Counts numbers of a row-major matrix, those of column `j` with weight `importance[j]`. `first` is the index in
    /// the matrix of `values[0]`, so a matrix can be given piece by piece.
    ///
    /// # Errors
    /// If an importance is negative or not finite, or there is none while there are values.
    pub fn add_weighted(&mut self, values: &[f16], importance: &[f32], first: usize) -> Result<()> {
        if let Some(wrong) = importance.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
            return Err(Error::input(format!("an importance is {wrong}, not a finite number of at least 0")));
        }
        if values.is_empty() {
            return Ok(());
        }
        if importance.is_empty() {
            return Err(Error::bug("a histogram of a matrix without columns"));
        }
        let (start, mut rest) = (first % importance.len(), values);
        let mut columns = &importance[start..];
        while !rest.is_empty() {
            let (row, after) = rest.split_at(columns.len().min(rest.len()));
            for (value, weight) in row.iter().zip(columns) {
                self.sums[usize::from(value.to_bits())] += f64::from(*weight);
            }
            (rest, columns) = (after, importance);
        }
        Ok(())
    }

    /// The numbers of positive weight, ascending, and their weights: what [`kmeans`](super::kmeans) takes. -0 and 0 are
    /// one number.
    ///
    /// # Errors
    /// If a NaN or an infinity was added.
    pub fn distinct(&self) -> Result<(Vec<f32>, Vec<f64>)> {
        let (mut values, mut weights) = (Vec::new(), Vec::new());
        for bits in ascending() {
            let weight = self.sums[usize::from(bits)];
            let value = f16::from_bits(bits).to_f32();
            if weight <= 0.0 {
                continue;
            }
            if values.last() == Some(&value) {
                if let Some(last) = weights.last_mut() {
                    *last += weight;
                }
            } else {
                // -0 is kept as 0, so that a palette never holds it.
                values.push(value + 0.0);
                weights.push(weight);
            }
        }
        if let Some(bits) =
            (0..=u16::MAX).find(|bits| bits & !SIGN >= INFINITY && self.sums[usize::from(*bits)] > 0.0)
        {
            return Err(Error::input(format!(
                "a weight is {}, which no code can stand for",
                f16::from_bits(bits)
            )));
        }
        Ok((values, weights))
    }
}

/// The bits of every finite f16, from the least number to the greatest; -0 before 0.
fn ascending() -> impl Iterator<Item = u16> {
    (SIGN..SIGN + INFINITY).rev().chain(0..INFINITY)
}

/// For each f16 bit pattern the index of the nearest entry of the ascending `lut`; of two as near, the lower index.
/// An infinity has the index of the entry on its side, a NaN 0. The distances are exact.
///
/// # Errors
/// If `lut` is empty, longer than 256, not ascending or not finite.
pub fn nearest_table(lut: &[f16]) -> Result<Vec<u8>> {
    check_lut(lut)?;
    let mut table = vec![0; PATTERNS];
    let mut index = 0;
    for bits in ascending() {
        let value = f16::from_bits(bits).to_f64();
        while let Some(better) = step(lut, index, value) {
            index = better;
        }
        table[usize::from(bits)] = index as u8;
    }
    let infinity = usize::from(INFINITY);
    table[infinity] = table[infinity - 1];
    Ok(table)
}

/// The index of the entry of the ascending `lut` that is nearest to `value`; of two as near, the lower index. 0 for an
/// empty one.
pub fn nearest(lut: &[f16], value: f32) -> usize {
    let value = f64::from(value);
    let above = lut.partition_point(|entry| entry.to_f64() < value);
    let Some(low) = above.checked_sub(1) else { return 0 };
    // The first of the entries that equal the one below.
    let low = lut[..low].partition_point(|entry| entry < &lut[low]);
    step(lut, low, value).unwrap_or(low)
}

/// The next greater entry of `lut` after `index` if it is nearer to `value`. Sums of two f16 are exact in f64.
fn step(lut: &[f16], index: usize, value: f64) -> Option<usize> {
    let low = lut[index];
    let ahead = lut[index..].iter().position(|entry| *entry > low)?;
    let middle = low.to_f64() + lut[index + ahead].to_f64();
    (2.0 * value > middle).then_some(index + ahead)
}

pub(super) fn check_lut(lut: &[f16]) -> Result<()> {
    let ascending = lut.windows(2).all(|pair| pair[0] <= pair[1]);
    if lut.is_empty() || lut.len() > 256 || !ascending || lut.iter().any(|entry| !entry.is_finite()) {
        return Err(Error::bug(format!(
            "{} entries are no ascending palette of 1 to 256 numbers",
            lut.len()
        )));
    }
    Ok(())
}
