use serde::{Deserialize, Serialize};

use super::binary::broadcast;
use super::{Inferred, OpDef, require};
use crate::types::TensorType;

/// Matrix product over the last two axes; the axes before them broadcast.
/// Operands: `a [.., m, k]`, `b [.., k, n]` or, transposed, `[.., n, k]`. Result: `[.., m, n]`.
/// Products are summed in f32, then rounded to the operands' type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matmul {
    /// `b`'s last two axes are swapped.
    pub transpose_b: bool,
}

impl OpDef for Matmul {
    const NAME: &'static str = "matmul";
    const OPERANDS: &'static [&'static str] = &["a", "b"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let (a, b) = (operands[0], operands[1]);
        let fail = || format!("{a} cannot be multiplied by {b}");
        require(a.dtype == b.dtype && a.dtype.is_float() && a.rank() >= 2 && b.rank() >= 2, fail)?;
        let (outer_a, inner_a) = a.shape.split_at(a.rank() - 2);
        let (outer_b, inner_b) = b.shape.split_at(b.rank() - 2);
        let (k, n) = if self.transpose_b { (inner_b[1], inner_b[0]) } else { (inner_b[0], inner_b[1]) };
        require(inner_a[1] == k, fail)?;
        let mut shape = broadcast(outer_a, outer_b).ok_or_else(fail)?;
        shape.extend([inner_a[0], n]);
        Ok(vec![a.with_shape(shape)])
    }

    fn flops(&self, operands: &[&TensorType], results: &[&TensorType]) -> u64 {
        2 * results[0].count() as u64 * operands[0].last() as u64
    }
}
