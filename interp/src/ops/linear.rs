use snapc_ir::Result;
use snapc_ir::ops::Linear;

use super::{Call, Execute};
use crate::gemm::{Matrix, dots, product};
use crate::kernels::add_row;
use crate::value::{Numbers, Value};

/// Numbers of a weight that are decoded at once.
const TILE: usize = 1 << 20;

/// The most rows that are taken one by one: a timestep a prompt, two with guidance.
const FEW: usize = 2;

impl Execute for Linear {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let (out, inner) = (call.shape(1)[0], call.shape(1)[1]);
        let mut values = call.fresh();
        let weight = &call.operands[1];
        if let Numbers::Float(weight) = &weight.numbers {
            columns(&mut values, out, call.values(0), weight, inner);
        } else {
            // Some rows at a time in four bytes a number.
            let rows = (TILE / inner).clamp(1, out);
            let mut tile = call.pool.take(rows * inner);
            for first in (0..out).step_by(rows) {
                let tile = &mut tile[..rows.min(out - first) * inner];
                weight.rows(first, tile);
                columns(&mut values[first..], out, call.values(0), tile, inner);
            }
            call.pool.give(tile);
        }
        if let Some(bias) = call.optional(2) {
            add_row(&mut values, bias);
        }
        call.one(values)
    }
}

/// Some columns of `x W^T`, each row of the result `stride` numbers behind the other: `weight` is the rows of `W` that make them.
pub fn columns(values: &mut [f32], stride: usize, x: &[f32], weight: &[f32], inner: usize) {
    let (rows, count) = (x.len() / inner, weight.len() / inner);
    if rows > FEW {
        let weight = Matrix::new(weight, count, inner).t();
        return product(values, stride, Matrix::new(x, rows, inner), weight, 1.0, true);
    }
    for (values, x) in values.chunks_mut(stride).zip(x.chunks_exact(inner)) {
        dots(&mut values[..count], x, weight, inner);
    }
}
