use snapc_ir::Result;
use snapc_ir::ops::{GroupNorm, LayerNorm, ReduceMean, RmsNorm, Softmax};

use super::{Call, Execute};
use crate::kernels::{blocks, row_blocks, rows, vectorised};
use crate::value::Value;

/// Changes each row of the first operand.
fn by_row(call: &mut Call, of: impl Fn(&Call, &mut [f32]) + Sync) -> Result<Vec<Value>> {
    let length = call.results[0].last();
    let mut values = call.own(0);
    let shared: &Call = call;
    row_blocks(&mut values, length, |_, block| {
        vectorised(
            #[inline(always)]
            || {
                for row in block.chunks_exact_mut(length) {
                    of(shared, row);
                }
            },
        );
    });
    call.one(values)
}

impl Execute for RmsNorm {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        by_row(
            call,
            #[inline(always)]
            |call, row| rows::rms_norm(row, self.eps, call.optional(1)),
        )
    }
}

impl Execute for LayerNorm {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        by_row(
            call,
            #[inline(always)]
            |call, row| {
                rows::normalize(row, self.eps);
                if let Some(weight) = call.optional(1) {
                    row.iter_mut().zip(weight).for_each(|(x, weight)| *x *= weight);
                }
                if let Some(bias) = call.optional(2) {
                    row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
                }
            },
        )
    }
}

impl Execute for GroupNorm {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let shape = &call.results[0].shape;
        let (channels, places) = (shape[1], shape[2] * shape[3]);
        let size = channels / self.groups;
        let mut values = call.own(0);
        let (weight, bias) = (call.values(1), call.values(2));
        blocks(&mut values, size * places, |number, group| {
            vectorised(
                #[inline(always)]
                || {
                    rows::normalize(group, self.eps);
                    for (index, map) in group.chunks_exact_mut(places).enumerate() {
                        let channel = (number * size + index) % channels;
                        let (weight, bias) = (weight[channel], bias[channel]);
                        map.iter_mut().for_each(|x| *x = *x * weight + bias);
                    }
                },
            );
        });
        call.one(values)
    }
}

impl Execute for Softmax {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        by_row(
            call,
            #[inline(always)]
            |_, row| rows::softmax(row),
        )
    }
}

impl Execute for ReduceMean {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let size = call.shape(0)[self.axis];
        let inner: usize = call.shape(0)[self.axis + 1..].iter().product();
        let mut values = call.fresh();
        let x = call.values(0);
        if inner == 1 {
            row_blocks(&mut values, 1, |first, block| {
                vectorised(
                    #[inline(always)]
                    || {
                        let rows = x[first * size..].chunks_exact(size);
                        block.iter_mut().zip(rows).for_each(|(mean, row)| *mean = rows::mean(row));
                    },
                );
            });
            return call.one(values);
        }
        for (index, value) in values.iter_mut().enumerate() {
            let start = index / inner * inner * size + index % inner;
            let sum: f64 = (0..size).map(|i| f64::from(x[start + i * inner])).sum();
            *value = (sum / size as f64) as f32;
        }
        call.one(values)
    }
}
