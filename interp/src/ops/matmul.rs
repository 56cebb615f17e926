use rayon::prelude::*;
use snapc_ir::ops::Matmul;
use snapc_ir::{Result, TensorType};

use super::{Call, Execute};
use crate::gemm::{Matrix, product};
use crate::value::Value;

impl Execute for Matmul {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let (a, b) = (&call.operands[0], &call.operands[1]);
        let (outer, inner) = call.results[0].shape.split_at(call.results[0].rank() - 2);
        let (rows, cols, depth) = (inner[0], inner[1], a.ty.last());
        let mut values = call.fresh();
        let batches = values.len() / (rows * cols).max(1);
        values.par_chunks_exact_mut((rows * cols).max(1)).enumerate().for_each(|(batch, out)| {
            let a = &a.values()[place(batch, outer, &a.ty) * rows * depth..];
            let b = &b.values()[place(batch, outer, &b.ty) * depth * cols..];
            let a = Matrix::new(a, rows, depth);
            let b =
                if self.transpose_b { Matrix::new(b, cols, depth).t() } else { Matrix::new(b, depth, cols) };
            product(out, cols, a, b, None, batches == 1);
        });
        call.one(values)
    }
}

/// Which of an operand's matrices the result's matrix number `batch` takes, the operand's outer axes being broadcast.
fn place(mut batch: usize, outer: &[usize], operand: &TensorType) -> usize {
    let own = &operand.shape[..operand.rank() - 2];
    let (mut place, mut step) = (0, 1);
    for (back, &size) in outer.iter().rev().enumerate() {
        let index = batch % size;
        batch /= size;
        if let Some(&own) = own.iter().rev().nth(back) {
            place += if own == 1 { 0 } else { index * step };
            step *= own;
        }
    }
    place
}
