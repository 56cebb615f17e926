//! What each op computes, in f32. A result of type f16 is rounded as it is made ([`Value::float`]).

use std::sync::Arc;

use snapc_ir::ops::{self, Op};
use snapc_ir::{Result, TensorType, for_each_op};

use crate::pool::{Buffer, Pool};
use crate::value::{Numbers, Value};

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

pub use embedding::outside;
pub use linear::{columns, is_few};

/// What an op is run with.
pub struct Call<'a> {
    /// The operands; one that is read for the last time is shared with nothing.
    pub operands: Vec<Value>,
    /// The types of the results.
    pub results: Vec<&'a TensorType>,
    /// Where buffers come from.
    pub pool: &'a Pool,
}

impl Call<'_> {
    /// The numbers of an operand.
    fn values(&self, operand: usize) -> &[f32] {
        self.operands[operand].values()
    }

    /// The sizes of an operand.
    fn shape(&self, operand: usize) -> &[usize] {
        &self.operands[operand].ty.shape
    }

    /// The numbers of an operand that may be missing.
    fn optional(&self, operand: usize) -> Option<&[f32]> {
        self.operands.get(operand).map(Value::values)
    }

    /// A buffer for the first result. Each of its numbers is to be written.
    fn fresh(&self) -> Buffer {
        self.pool.take(self.results[0].count())
    }

    /// Whether nothing else will read an operand.
    fn is_last(&self, operand: usize) -> bool {
        matches!(&self.operands[operand].numbers, Numbers::Float(values) if Arc::strong_count(values) == 1)
    }

    /// The numbers of an operand to be changed: its own buffer where nothing else will read it, else a copy.
    fn own(&mut self, operand: usize) -> Buffer {
        let Numbers::Float(values) = &mut self.operands[operand].numbers else { return Buffer::default() };
        match Arc::get_mut(values) {
            Some(values) => std::mem::take(values),
            None => self.pool.copy(values),
        }
    }

    /// The one result, from its numbers.
    fn one(&self, values: Buffer) -> Result<Vec<Value>> {
        Ok(vec![Value::float(self.results[0].clone(), values)])
    }
}

/// An op that the interpreter can run.
trait Execute {
    /// The results.
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>>;
}

macro_rules! dispatch {
    ($($op:ident),*) => {
        /// Runs one op.
        pub fn execute(op: &Op, call: &mut Call) -> Result<Vec<Value>> {
            match op { $(Op::$op(op) => Execute::execute(op as &ops::$op, call)),* }
        }
    };
}
for_each_op!(dispatch);
