use snapc_ir::ops::{Cos, FakeQuantize, Gelu, GeluForm, Op, Relu, Rsqrt, Sigmoid, Silu, Sin, Tanh};
use snapc_weights::Tensor;

use super::{Case, f64s, numbers};

/// `2 / sqrt(pi)` times the integral of `exp(-t^2)` from 0 to x, by its series.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..80 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// A scale that f16 has, and no power of two: `787 / 2^16`.
const STEP: f32 = 787.0 / 65536.0;

/// Numbers well inside steps, halves of steps (even and odd ones), and what is past the last codes. f16 has all of them.
fn to_be_rounded() -> Vec<f32> {
    let halves = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 127.5, -128.5].map(|steps: f32| steps * STEP);
    let past = [3.0, 127.0, -128.0, 129.0, -131.0].map(|steps: f32| steps * STEP);
    let ends = [0.0, 60000.0, -60000.0];
    let inside = (0..14).map(|index| (index as f32 * 9.0 - 60.0 + 0.25) * STEP);
    let all = halves.into_iter().chain(past).chain(ends).chain(inside);
    all.map(|value| half::f16::from_f32(value).to_f32()).collect()
}

pub fn cases() -> Vec<Case> {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let table: [(&'static str, &'static str, Op, Box<dyn Fn(f64) -> f64>); 11] = [
        ("rsqrt", "rsqrt", Rsqrt {}.into(), Box::new(|x| 1.0 / x.sqrt())),
        ("tanh", "tanh", Tanh {}.into(), Box::new(f64::tanh)),
        ("sigmoid", "sigmoid", Sigmoid {}.into(), Box::new(sigmoid)),
        ("relu", "relu", Relu {}.into(), Box::new(|x| x.max(0.0))),
        ("sin", "sin", Sin {}.into(), Box::new(f64::sin)),
        ("cos", "cos", Cos {}.into(), Box::new(f64::cos)),
        ("silu", "silu", Silu {}.into(), Box::new(move |x| x * sigmoid(x))),
        (
            "gelu_erf",
            "gelu",
            Gelu { form: GeluForm::Erf }.into(),
            Box::new(|x| x / 2.0 * (1.0 + erf(x / 2f64.sqrt()))),
        ),
        (
            "gelu_tanh",
            "gelu",
            Gelu { form: GeluForm::Tanh }.into(),
            Box::new(|x| {
                x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }),
        ),
        (
            "gelu_quick",
            "gelu",
            Gelu { form: GeluForm::Quick }.into(),
            Box::new(move |x| x * sigmoid(1.702 * x)),
        ),
        (
            "fake_quantize",
            "fake_quantize",
            FakeQuantize { scale: STEP }.into(),
            Box::new(|x| (x / f64::from(STEP)).round_ties_even().clamp(-128.0, 127.0) * f64::from(STEP)),
        ),
    ];
    table
        .into_iter()
        .map(|(name, op_name, op, of)| {
            let mut x = numbers(31, &[2, 3, 5]);
            if name == "rsqrt" {
                x = Tensor::f32(x.ty.shape.clone(), x.values().iter().map(|x| x.abs() + 0.01).collect());
            }
            if name == "fake_quantize" {
                x = Tensor::f32(vec![2, 3, 5], to_be_rounded());
            }
            let expected = f64s(&x).into_iter().map(of).collect();
            Case::new(name, op_name, vec![("x", x)], vec![], |b, v| b.op(op, v), vec![expected])
        })
        .collect()
}
