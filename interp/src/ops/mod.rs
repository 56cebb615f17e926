//! What each op computes, in f32. A result of type f16 is rounded as it is made ([`Tensor::float`]).

use snapc_ir::ops::{self, Op};
use snapc_ir::{Result, TensorType, for_each_op};
use snapc_weights::Tensor;

mod attention;
mod conv2d;
mod elementwise;
mod embedding;
mod linear;
mod maps;
mod matmul;
mod norms;
mod rotary;
mod shape;
mod timestep;

/// An op that the interpreter can run.
trait Execute {
    /// The results, of the given types.
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>>;
}

macro_rules! dispatch {
    ($($op:ident),*) => {
        /// Runs one op.
        pub fn execute(op: &Op, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
            match op { $(Op::$op(op) => Execute::execute(op as &ops::$op, operands, results)),* }
        }
    };
}
for_each_op!(dispatch);

/// The one result of an op, from its numbers.
fn one(ty: &TensorType, values: Vec<f32>) -> Result<Vec<Tensor>> {
    Ok(vec![Tensor::float(ty.clone(), values)])
}
