use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require};
use crate::types::TensorType;

/// The shape that two shapes broadcast to by NumPy's rule; `None` if they do not.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or(1, |at| shape.get(at).copied().unwrap_or(1))
    };
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

macro_rules! binary {
    ($($op:ident $name:literal $doc:literal),*) => { $(
        #[doc = $doc]
        /// Operands: `a`, `b` of one type, broadcast by NumPy's rule. Computed in f32, then rounded to that type.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub struct $op {}

        impl OpDef for $op {
            const NAME: &'static str = $name;
            const OPERANDS: &'static [&'static str] = &["a", "b"];

            fn infer(&self, operands: &[&TensorType]) -> Inferred {
                let (a, b) = (operands[0], operands[1]);
                require(a.dtype == b.dtype && a.dtype.is_float(), || format!("a is {a} and b is {b}"))?;
                let shape = broadcast(&a.shape, &b.shape).ok_or_else(|| format!("{a} and {b} do not broadcast"))?;
                Ok(vec![a.with_shape(shape)])
            }
        }
    )* };
}
binary! {
    Add "add" "Sum.",
    Sub "sub" "Difference `a - b`.",
    Mul "mul" "Product, element by element."
}
