use snapc_ir::ops::{Add, Mul, Op, Sub};

use super::{Case, at, f64s, numbers, places};

pub fn cases() -> Vec<Case> {
    let ops: [(&'static str, Op, fn(f64, f64) -> f64); 3] = [
        ("add", Add {}.into(), |a, b| a + b),
        ("sub", Sub {}.into(), |a, b| a - b),
        ("mul", Mul {}.into(), |a, b| a * b),
    ];
    let shapes: [(&[usize], &[usize], &[usize]); 5] = [
        (&[2, 3, 4], &[2, 3, 4], &[2, 3, 4]),
        (&[2, 3, 4], &[1, 3, 1], &[2, 3, 4]),
        (&[3, 4], &[2, 1, 4], &[2, 3, 4]),
        (&[2, 3], &[], &[2, 3]),
        (&[4], &[2, 2, 1, 4], &[2, 2, 1, 4]),
    ];
    let mut cases = Vec::new();
    for (name, op, of) in ops {
        for (number, (a_shape, b_shape, result)) in shapes.iter().enumerate() {
            let (a, b) = (numbers(4, a_shape), numbers(5, b_shape));
            let (x, y) = (f64s(&a), f64s(&b));
            let expected =
                places(result).iter().map(|place| of(x[at(a_shape, place)], y[at(b_shape, place)])).collect();
            let op = op.clone();
            // A scalar is a weight: no target takes rank 0 as an input.
            let (inputs, weights) = if b_shape.is_empty() {
                (vec![("a", a)], vec![("b", b)])
            } else {
                (vec![("a", a), ("b", b)], vec![])
            };
            let build = |b: &mut snapc_ir::Builder, values: &[snapc_ir::ValueId]| b.op(op, values);
            cases.push(Case::new(&format!("{name}_{number}"), name, inputs, weights, build, vec![expected]));
        }
    }
    cases
}
