use snapc_ir::ops::{Conv2d, Layout};
use snapc_ir::{Result, TensorType};
use snapc_weights::{Tensor, transpose};

use super::{Execute, one};
use crate::gemm::{Matrix, product};

impl Execute for Conv2d {
    /// Channels first; other layouts there and back.
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        if self.layout == Layout::Nchw {
            return channels_first(self, operands, results);
        }
        let (x, weight) = (permuted(operands[0], &[0, 3, 1, 2]), permuted(operands[1], &[0, 3, 1, 2]));
        let mut first = vec![&x, &weight];
        first.extend(&operands[2..]);
        let [batch, rows, cols, out] = [0, 1, 2, 3].map(|axis| results[0].shape[axis]);
        let ty = results[0].with_shape([batch, out, rows, cols]);
        let y = channels_first(self, &first, &[&ty])?;
        Ok(y.iter().map(|y| permuted(y, &[0, 2, 3, 1])).collect())
    }
}

fn permuted(x: &Tensor, perm: &[usize]) -> Tensor {
    let shape: Vec<usize> = perm.iter().map(|&axis| x.ty.shape[axis]).collect();
    Tensor::float(x.ty.with_shape(shape), transpose(x.values(), &x.ty.shape, perm))
}

/// Windows as columns of a matrix, one product a group.
fn channels_first(conv: &Conv2d, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
    let (x, weight) = (operands[0], operands[1]);
    let [batch, out, rows, cols] = [0, 1, 2, 3].map(|axis| results[0].shape[axis]);
    let [_, part, kernel_rows, kernel_cols] = [0, 1, 2, 3].map(|axis| weight.ty.shape[axis]);
    let (channels, height, width) = (x.ty.shape[1], x.ty.shape[2], x.ty.shape[3]);
    let groups = x.ty.shape[1] / weight.ty.shape[1];
    let (depth, places, part_out) = (part * kernel_rows * kernel_cols, rows * cols, out / groups);
    let mut values = vec![0.0; results[0].count()];
    let mut columns = vec![0.0; depth * places];
    for image in 0..batch {
        for group in 0..groups {
            for channel in 0..part {
                let map = &x.values()[(image * channels + group * part + channel) * height * width..];
                for kernel in 0..kernel_rows * kernel_cols {
                    let line =
                        &mut columns[(channel * kernel_rows * kernel_cols + kernel) * places..][..places];
                    let (down, right) = (kernel / kernel_cols, kernel % kernel_cols);
                    for (place, value) in line.iter_mut().enumerate() {
                        let row = (place / cols * conv.stride + down).wrapping_sub(conv.padding);
                        let col = (place % cols * conv.stride + right).wrapping_sub(conv.padding);
                        *value = if row < height && col < width { map[row * width + col] } else { 0.0 };
                    }
                }
            }
            let weight = Matrix::new(&weight.values()[group * part_out * depth..], part_out, depth);
            let result = &mut values[(image * out + group * part_out) * places..];
            product(result, places, weight, Matrix::new(&columns, depth, places), 1.0, true);
        }
    }
    if let Some(bias) = operands.get(2) {
        for (index, map) in values.chunks_exact_mut(places).enumerate() {
            let bias = bias.values()[index % out];
            map.iter_mut().for_each(|value| *value += bias);
        }
    }
    one(results[0], values)
}
