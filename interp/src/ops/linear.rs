use snapc_ir::ops::Linear;
use snapc_ir::{Result, TensorType};
use snapc_weights::Tensor;

use super::{Execute, one};
use crate::gemm::{Matrix, product};

impl Execute for Linear {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let (x, weight) = (operands[0], operands[1]);
        let (out, inner) = (weight.ty.shape[0], weight.ty.shape[1]);
        let rows = x.ty.count() / inner;
        let mut values = vec![0.0; rows * out];
        let weight = Matrix::new(weight.values(), out, inner).t();
        product(&mut values, out, Matrix::new(x.values(), rows, inner), weight, 1.0, true);
        if let Some(bias) = operands.get(2) {
            for row in values.chunks_exact_mut(out) {
                row.iter_mut().zip(bias.values()).for_each(|(value, bias)| *value += bias);
            }
        }
        one(results[0], values)
    }
}
