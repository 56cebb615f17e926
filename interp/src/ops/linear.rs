use snapc_ir::Result;
use snapc_ir::ops::Linear;

use super::{Call, Execute};
use crate::gemm::{Matrix, dots, own, product};
use crate::kernels::product::Product;
use crate::value::{LARGE, Numbers, Value};

/// Numbers of a weight that are decoded at once.
const TILE: usize = 1 << 20;

/// The most rows that are taken one by one: a timestep a prompt, two with guidance.
const FEW: usize = 2;

impl Execute for Linear {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let (out, inner) = (call.shape(1)[0], call.shape(1)[1]);
        let mut values = call.fresh();
        let rows = values.len() / out.max(1);
        let (x, bias) = (call.values(0), call.optional(2));
        let a = Matrix::new(x, rows, inner);
        match &call.operands[1].numbers {
            Numbers::Panels(panels) => {
                let panels = panels.values();
                Product { a, panels, columns: out, bias }.run(&mut values, out, true);
            }
            // The same sums, whether or not the weight is kept.
            Numbers::Float(weight) if weight.len() < LARGE && !is_few(rows) => {
                own(&mut values, out, a, Matrix::new(weight, out, inner).t(), bias, true);
            }
            Numbers::Float(weight) => columns(&mut values, out, x, weight, inner, bias),
            _ => by_tiles(call, &mut values),
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
        let bias = call.optional(2).map(|bias| &bias[first..first + tile.len() / inner]);
        columns(&mut values[first..], out, call.values(0), tile, inner, bias);
    }
    call.pool.give(tile);
}

/// Some columns of `x W^T + bias`, each row of the result `stride` numbers behind the other: `weight` is the rows of `W` that make them.
pub fn columns(
    values: &mut [f32],
    stride: usize,
    x: &[f32],
    weight: &[f32],
    inner: usize,
    bias: Option<&[f32]>,
) {
    let (rows, count) = (x.len() / inner, weight.len() / inner);
    if !is_few(rows) {
        let weight = Matrix::new(weight, count, inner).t();
        return product(values, stride, Matrix::new(x, rows, inner), weight, bias, true);
    }
    for (values, x) in values.chunks_mut(stride).zip(x.chunks_exact(inner)) {
        dots(&mut values[..count], x, weight, inner);
        values.iter_mut().zip(bias.unwrap_or_default()).for_each(|(value, bias)| *value += bias);
    }
}
