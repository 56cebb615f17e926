use snapc_ir::ops::{Add, Cast, Cos, Gelu, GeluForm, Mul, Relu, Rsqrt, Sigmoid, Silu, Sin, Sub, Tanh};
use snapc_ir::{Result, TensorType};
use snapc_weights::Tensor;

use super::{Execute, one};

macro_rules! unary {
    ($($op:ident $of:expr),* $(,)?) => { $(
        impl Execute for $op {
            fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
                let of: fn(f32) -> f32 = $of;
                one(results[0], operands[0].values().iter().map(|&x| of(x)).collect())
            }
        }
    )* };
}
unary! {
    Rsqrt |x| 1.0 / x.sqrt(),
    Tanh f32::tanh,
    Sigmoid sigmoid,
    Relu |x| x.max(0.0),
    Sin f32::sin,
    Cos f32::cos,
    Silu |x| x * sigmoid(x),
    Cast |x| x,
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl Execute for Gelu {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let of: fn(f32) -> f32 = match self.form {
            GeluForm::Erf => |x| 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
            GeluForm::Tanh => |x| {
                let root = (2.0 / std::f32::consts::PI).sqrt();
                0.5 * x * (1.0 + (root * (x + 0.044_715 * x * x * x)).tanh())
            },
            GeluForm::Quick => |x| x * sigmoid(1.702 * x),
        };
        one(results[0], operands[0].values().iter().map(|&x| of(x)).collect())
    }
}

macro_rules! binary {
    ($($op:ident $of:expr),* $(,)?) => { $(
        impl Execute for $op {
            fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
                one(results[0], broadcast(operands, results[0], $of))
            }
        }
    )* };
}
binary! {
    Add |a, b| a + b,
    Sub |a, b| a - b,
    Mul |a, b| a * b,
}

/// Steps of an operand along the result's axes: 0 where it is repeated.
fn steps(shape: &[usize], result: &[usize]) -> Vec<usize> {
    let mut steps = vec![0; result.len()];
    let mut step = 1;
    for (axis, &size) in shape.iter().enumerate().rev() {
        if size != 1 {
            steps[axis + result.len() - shape.len()] = step;
        }
        step *= size;
    }
    steps
}

fn broadcast(operands: &[&Tensor], result: &TensorType, of: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let (a, b) = (operands[0].values(), operands[1].values());
    if operands[0].ty.shape == operands[1].ty.shape {
        return a.iter().zip(b).map(|(&a, &b)| of(a, b)).collect();
    }
    let (steps_a, steps_b) =
        (steps(&operands[0].ty.shape, &result.shape), steps(&operands[1].ty.shape, &result.shape));
    let Some((&last, outer)) = result.shape.split_last() else { return vec![of(a[0], b[0])] };
    let (step_a, step_b) = (steps_a[outer.len()], steps_b[outer.len()]);
    let mut values = Vec::with_capacity(result.count());
    let mut index = vec![0; outer.len()];
    for _ in 0..result.count() / last.max(1) {
        let at = |steps: &[usize]| index.iter().zip(steps).map(|(index, step)| index * step).sum::<usize>();
        let (start_a, start_b) = (at(&steps_a), at(&steps_b));
        values.extend((0..last).map(|i| of(a[start_a + i * step_a], b[start_b + i * step_b])));
        for axis in (0..outer.len()).rev() {
            index[axis] += 1;
            if index[axis] < outer[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    values
}
