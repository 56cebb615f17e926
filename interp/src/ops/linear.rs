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
        let rows = call.values(0).len() / inner;
        let mut values = call.fresh();
        if rows <= FEW {
            dots(&mut values, call.values(0), call.values(1), inner);
        } else {
            let weight = Matrix::new(call.values(1), out, inner).t();
            product(&mut values, out, Matrix::new(call.values(0), rows, inner), weight, 1.0, true);
        }
        if let Some(bias) = call.optional(2) {
            add_row(&mut values, bias);
        }
        call.one(values)
    }
}
