use snapc_ir::Result;
use snapc_ir::ops::Linear;

use super::{Call, Execute};
use crate::gemm::{Matrix, dots, product};
use crate::kernels::add_row;
use crate::value::Value;

/// The most rows that are taken one by one: a timestep a prompt, two with guidance.
const FEW: usize = 2;

impl Execute for Linear {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let (out, inner) = (call.shape(1)[0], call.shape(1)[1]);
        let mut values = call.fresh();
        columns(&mut values, out, call.values(0), call.values(1), inner);
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
