use snapc_ir::ops::{GroupNorm, LayerNorm, ReduceMean, RmsNorm, Softmax};
use snapc_ir::{Result, TensorType};
use snapc_weights::Tensor;

use super::{Execute, one};

/// Sums of a row in f64: the definition has no rounding of its own.
fn mean(row: &[f32], of: impl Fn(f64) -> f64) -> f64 {
    row.iter().map(|&x| of(f64::from(x))).sum::<f64>() / row.len() as f64
}

/// Takes off the mean and divides by the root of variance + eps.
fn normalize(row: &mut [f32], eps: f32) {
    let centre = mean(row, |x| x);
    let variance = mean(row, |x| (x - centre) * (x - centre));
    let inverse = 1.0 / (variance + f64::from(eps)).sqrt();
    row.iter_mut().for_each(|x| *x = ((f64::from(*x) - centre) * inverse) as f32);
}

impl Execute for RmsNorm {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let mut values = operands[0].values().to_vec();
        for row in values.chunks_exact_mut(results[0].last()) {
            let inverse = (1.0 / (mean(row, |x| x * x) + f64::from(self.eps)).sqrt()) as f32;
            row.iter_mut().for_each(|x| *x *= inverse);
            if let Some(weight) = operands.get(1) {
                row.iter_mut().zip(weight.values()).for_each(|(x, weight)| *x *= weight);
            }
        }
        one(results[0], values)
    }
}

impl Execute for LayerNorm {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let mut values = operands[0].values().to_vec();
        for row in values.chunks_exact_mut(results[0].last()) {
            normalize(row, self.eps);
            if let Some(weight) = operands.get(1) {
                row.iter_mut().zip(weight.values()).for_each(|(x, weight)| *x *= weight);
            }
            if let Some(bias) = operands.get(2) {
                row.iter_mut().zip(bias.values()).for_each(|(x, bias)| *x += bias);
            }
        }
        one(results[0], values)
    }
}

impl Execute for GroupNorm {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let shape = &results[0].shape;
        let (channels, places) = (shape[1], shape[2] * shape[3]);
        let mut values = operands[0].values().to_vec();
        for group in values.chunks_exact_mut(channels / self.groups * places) {
            normalize(group, self.eps);
        }
        for (index, map) in values.chunks_exact_mut(places).enumerate() {
            let (weight, bias) =
                (operands[1].values()[index % channels], operands[2].values()[index % channels]);
            map.iter_mut().for_each(|x| *x = *x * weight + bias);
        }
        one(results[0], values)
    }
}

/// Softmax of one row in place.
pub fn softmax_row(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = (*x - largest).exp();
        sum += *x;
    }
    row.iter_mut().for_each(|x| *x /= sum);
}

impl Execute for Softmax {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let mut values = operands[0].values().to_vec();
        values.chunks_exact_mut(results[0].last()).for_each(softmax_row);
        one(results[0], values)
    }
}

impl Execute for ReduceMean {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let x = operands[0];
        let size = x.ty.shape[self.axis];
        let inner: usize = x.ty.shape[self.axis + 1..].iter().product();
        let values = (0..results[0].count())
            .map(|index| {
                let start = index / inner * inner * size + index % inner;
                let sum: f64 = (0..size).map(|i| f64::from(x.values()[start + i * inner])).sum();
                (sum / size as f64) as f32
            })
            .collect();
        one(results[0], values)
    }
}
