use snapc_ir::Result;
use snapc_ir::ops::{
    Add, Cast, Cos, FakeQuantize, Gelu, GeluForm, Mul, Relu, Rsqrt, Sigmoid, Silu, Sin, Sub, Tanh,
};

use super::{Call, Execute};
use crate::kernels::broadcast::{Operand, broadcast};
use crate::kernels::{functions, map};
use crate::pool::Buffer;
use crate::value::Value;

macro_rules! unary {
    ($($op:ident $of:expr),* $(,)?) => { $(
        impl Execute for $op {
            fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
                let mut values = call.own(0);
                map(&mut values, $of);
                call.one(values)
            }
        }
    )* };
}
unary! {
    Rsqrt |x| 1.0 / x.sqrt(),
    Tanh functions::tanh,
    Sigmoid functions::sigmoid,
    Relu |x| x.max(0.0),
    Sin f32::sin,
    Cos f32::cos,
    Silu functions::silu,
}

impl Execute for Cast {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        if call.results[0].dtype.size() >= call.operands[0].ty.dtype.size() {
            return Ok(vec![Value {
                ty: call.results[0].clone(),
                numbers: call.operands[0].numbers.clone(),
            }]);
        }
        let values = call.own(0);
        call.one(values)
    }
}

impl Execute for FakeQuantize {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let mut values = call.own(0);
        map(&mut values, |x| self.of(x));
        call.one(values)
    }
}

impl Execute for Gelu {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let mut values = call.own(0);
        match self.form {
            GeluForm::Erf => map(&mut values, functions::gelu_erf),
            GeluForm::Tanh => map(&mut values, functions::gelu_tanh),
            GeluForm::Quick => map(&mut values, functions::gelu_quick),
        }
        call.one(values)
    }
}

macro_rules! binary {
    ($($op:ident $of:expr),* $(,)?) => { $(
        impl Execute for $op {
            fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
                let values = combined(call, $of);
                call.one(values)
            }
        }
    )* };
}
binary! {
    Add |a, b| a + b,
    Sub |a, b| a - b,
    Mul |a, b| a * b,
}

/// In the buffer of an operand that has the result's sizes and is not read again, where there is one.
fn combined(call: &mut Call, of: impl Fn(f32, f32) -> f32 + Sync) -> Buffer {
    let shape = call.results[0].shape.clone();
    let own = (0..2).find(|&operand| call.shape(operand) == shape && call.is_last(operand));
    let mut out = match own {
        Some(operand) => call.own(operand),
        None => call.fresh(),
    };
    let operands = [0, 1].map(|operand| Operand {
        values: (own != Some(operand)).then(|| call.values(operand)),
        shape: call.shape(operand),
    });
    broadcast(&mut out, &shape, operands, of);
    out
}
