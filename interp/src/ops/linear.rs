use snapc_ir::Result;
use snapc_ir::ops::Linear;

use super::{Call, Execute};
use crate::gemm::{Matrix, dots, product};
use crate::kernels::add_row;
use crate::kernels::panels::Panels;
use crate::value::{LARGE, Numbers, Value};

/// Numbers of a weight that are decoded at once.
const TILE: usize = 1 << 20;

/// The most rows that are taken one by one: a timestep a prompt, two with guidance.
const FEW: usize = 2;

impl Execute for Linear {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let (out, inner) = (call.shape(1)[0], call.shape(1)[1]);
        let mut values = call.fresh();
        let weight = &call.operands[1];
        match &weight.numbers {
            Numbers::Panels(panels) => {
                panels.product(&mut values, call.values(0), call.optional(2));
                return call.one(values);
            }
            // The same sums, whether or not the weight is kept.
            Numbers::Float(weight) if weight.len() < LARGE && !is_few(values.len() / out.max(1)) => {
                Panels::new(weight, inner).product(&mut values, call.values(0), call.optional(2));
                return call.one(values);
            }
            Numbers::Float(weight) => columns(&mut values, out, call.values(0), weight, inner),
            _ => by_tiles(call, &mut values),
        }
        if let Some(bias) = call.optional(2) {
            add_row(&mut values, bias);
        }
        call.one(values)
    }
}

/// Whether so many rows are taken one by one, from a weight as it is.
pub fn is_few(rows: usize) -> bool {
    rows <= FEW
}

/// Some rows of the weight at a time, in four bytes a number.
fn by_tiles(call: &Call, values: &mut [f32]) {
    let (out, inner) = (call.shape(1)[0], call.shape(1)[1]);
    let rows = (TILE / inner).clamp(1, out);
    let mut tile = call.pool.take(rows * inner);
    for first in (0..out).step_by(rows) {
        let tile = &mut tile[..rows.min(out - first) * inner];
        call.operands[1].rows(first, tile);
        columns(&mut values[first..], out, call.values(0), tile, inner);
    }
    call.pool.give(tile);
}

/// Some columns of `x W^T`, each row of the result `stride` numbers behind the other: `weight` is the rows of `W` that make them.
pub fn columns(values: &mut [f32], stride: usize, x: &[f32], weight: &[f32], inner: usize) {
    let (rows, count) = (x.len() / inner, weight.len() / inner);
    if !is_few(rows) {
        let weight = Matrix::new(weight, count, inner).t();
        return product(values, stride, Matrix::new(x, rows, inner), weight, 1.0, true);
    }
    for (values, x) in values.chunks_mut(stride).zip(x.chunks_exact(inner)) {
        dots(&mut values[..count], x, weight, inner);
    }
}
