use snapc_ir::Result;
use snapc_ir::ops::{Conv2d, Layout};

use super::{Call, Execute};
use crate::gemm::{Matrix, product};
use crate::kernels::conv::Conv;
use crate::kernels::{blocks, row_blocks};
use crate::pool::Buffer;
use crate::value::Value;
use snapc_weights::transpose;

/// Numbers of the columns that are held at once.
const COLUMNS: usize = 1 << 20;

impl Execute for Conv2d {
    /// Channels first; other layouts there and back.
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        if self.layout == Layout::Nchw {
            let shapes = [call.shape(0), call.shape(1), &call.results[0].shape].map(<[usize]>::to_vec);
            let values = channels_first(self, call, [call.values(0), call.values(1)], &shapes);
            return call.one(values);
        }
        let first = |shape: &[usize]| vec![shape[0], shape[3], shape[1], shape[2]];
        let moved = |operand: usize| {
            let mut out = call.pool.take(call.values(operand).len());
            transpose(&mut out, call.values(operand), call.shape(operand), &[0, 3, 1, 2]);
            out
        };
        let (x, weight) = (moved(0), moved(1));
        let shapes = [call.shape(0), call.shape(1), &call.results[0].shape].map(first);
        let y = channels_first(self, call, [&x, &weight], &shapes);
        let mut values = call.fresh();
        transpose(&mut values, &y, &shapes[2], &[0, 2, 3, 1]);
        [x, weight, y].into_iter().for_each(|buffer| call.pool.give(buffer));
        call.one(values)
    }
}

/// From `x` and `weight`; `shapes` are those of both and of the result.
fn channels_first(op: &Conv2d, call: &Call, operands: [&[f32]; 2], shapes: &[Vec<usize>; 3]) -> Buffer {
    let [x_shape, kernel, result] = shapes;
    let bias = call.optional(2);
    let mut values = call.fresh();
    if op.stride != 1 || kernel[1] != x_shape[1] {
        by_columns(op, call, operands, shapes, &mut values);
        if let Some(bias) = bias {
            row_blocks(&mut values, result[2] * result[3], |first, block| {
                for (number, map) in block.chunks_exact_mut(result[2] * result[3]).enumerate() {
                    let bias = bias[(first + number) % result[1]];
                    map.iter_mut().for_each(|value| *value += bias);
                }
            });
        }
        return values;
    }
    let conv = Conv {
        channels: x_shape[1],
        size: [x_shape[2], x_shape[3]],
        kernel: [kernel[2], kernel[3]],
        padding: op.padding,
        weight: operands[1],
        bias,
    };
    let mut pad = call.pool.take(conv.padded());
    let image = operands[0].len() / x_shape[0];
    let images = operands[0].chunks_exact(image);
    for (x, out) in images.zip(values.chunks_exact_mut(result[1] * result[2] * result[3])) {
        conv.run(out, x, &mut pad);
    }
    call.pool.give(pad);
    values
}

/// Windows as columns of a matrix, some at a time: one product a group.
fn by_columns(op: &Conv2d, call: &Call, operands: [&[f32]; 2], shapes: &[Vec<usize>; 3], values: &mut [f32]) {
    let [x_shape, kernel, result] = shapes;
    let [batch, out, rows, cols] = [0, 1, 2, 3].map(|axis| result[axis]);
    let [_, part, kernel_rows, kernel_cols] = [0, 1, 2, 3].map(|axis| kernel[axis]);
    let [channels, height, width] = [1, 2, 3].map(|axis| x_shape[axis]);
    let groups = channels / part;
    let (depth, places, part_out) = (part * kernel_rows * kernel_cols, rows * cols, out / groups);
    let size = (COLUMNS / depth).clamp(1, places);
    let mut columns = call.pool.take(depth * size);
    for (image, group) in (0..batch).flat_map(|image| (0..groups).map(move |group| (image, group))) {
        let maps = &operands[0][(image * channels + group * part) * height * width..];
        let weight = Matrix::new(&operands[1][group * part_out * depth..], part_out, depth);
        let result = &mut values[(image * out + group * part_out) * places..];
        for first in (0..places).step_by(size) {
            let count = size.min(places - first);
            blocks(&mut columns[..depth * count], count, |line, numbers| {
                let (channel, kernel) =
                    (line / (kernel_rows * kernel_cols), line % (kernel_rows * kernel_cols));
                let map = &maps[channel * height * width..][..height * width];
                let (down, right) = (kernel / kernel_cols, kernel % kernel_cols);
                let (mut row, mut col, mut rest) = (first / cols, first % cols, numbers);
                while !rest.is_empty() {
                    let line = rest.split_off_mut(..(cols - col).min(rest.len())).unwrap_or_default();
                    let from_row = (row * op.stride + down).wrapping_sub(op.padding);
                    let from = map.get(from_row.saturating_mul(width)..).unwrap_or_default();
                    let from = &from[..width.min(from.len())];
                    let places = (col * op.stride + right..).step_by(op.stride);
                    for (value, place) in line.iter_mut().zip(places) {
                        *value = from.get(place.wrapping_sub(op.padding)).copied().unwrap_or(0.0);
                    }
                    (row, col) = (row + 1, 0);
                }
            });
            let columns = Matrix::new(&columns[..depth * count], depth, count);
            product(&mut result[first..], places, weight, columns, None, true);
        }
    }
    call.pool.give(columns);
}
