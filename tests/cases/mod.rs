//! The cases of every op: a small graph, its inputs, and what comes out by plain loops in f64.

use snapc_ir::{Builder, DType, Graph, Result, Stage, TensorType, ValueId, Weight};
pub use snapc_tests::numbers;
use snapc_weights::Tensor;

mod attention;
mod binary;
mod conv2d;
mod heads;
mod linear;
mod maps;
mod matmul;
mod norms;
mod reduce;
mod rotary;
mod shape;
mod timestep;
mod unary;

/// One graph with inputs and expected outputs.
pub struct Case {
    pub name: String,
    /// The op that the case is about, as the text form names it.
    pub op: &'static str,
    pub graph: Graph,
    pub inputs: Vec<(&'static str, Tensor)>,
    pub expected: Vec<Vec<f64>>,
}

impl Case {
    /// Inputs and weights by name; `build` gets them in that order, inputs first.
    pub fn new(
        name: &str,
        op: &'static str,
        inputs: Vec<(&'static str, Tensor)>,
        weights: Vec<(&'static str, Tensor)>,
        build: impl FnOnce(&mut Builder, &[ValueId]) -> Result<Vec<ValueId>>,
        expected: Vec<Vec<f64>>,
    ) -> Case {
        let mut b = Builder::new("case", Stage::Subnet);
        let mut values: Vec<ValueId> =
            inputs.iter().map(|(name, tensor)| b.input(*name, tensor.ty.clone())).collect();
        for (name, tensor) in &weights {
            let weight = Weight::inline(*name, tensor.values().to_vec(), tensor.ty.shape.clone());
            values.push(b.weight(weight).unwrap());
        }
        b.set_scope(format!("case.{name}"));
        let outputs = build(&mut b, &values).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (number, output) in outputs.into_iter().enumerate() {
            b.output(format!("out{number}"), output);
        }
        let graph = b.finish().unwrap_or_else(|error| panic!("{name}: {error}"));
        Case { name: name.to_string(), op, graph, inputs, expected }
    }
}

/// The numbers as f64.
pub fn f64s(tensor: &Tensor) -> Vec<f64> {
    tensor.values().iter().map(|&value| f64::from(value)).collect()
}

/// Indices of all places of a shape, in row-major order.
pub fn places(shape: &[usize]) -> Vec<Vec<usize>> {
    shape.iter().fold(vec![Vec::new()], |all, &size| {
        all.into_iter().flat_map(|place| (0..size).map(move |i| [place.clone(), vec![i]].concat())).collect()
    })
}

/// Where a place lies in a row-major list; axes of size 1 are broadcast.
pub fn at(shape: &[usize], place: &[usize]) -> usize {
    let place = &place[place.len() - shape.len()..];
    shape.iter().zip(place).fold(0, |at, (&size, &index)| at * size + if size == 1 { 0 } else { index })
}

/// A type with i32 numbers.
pub fn integers(shape: &[usize], values: Vec<i32>) -> Tensor {
    let tensor = Tensor::i32(shape.to_vec(), values);
    assert_eq!(tensor.ty, TensorType::new(DType::I32, shape));
    tensor
}

/// All cases of all ops.
pub fn all() -> Vec<Case> {
    [
        attention::cases(),
        binary::cases(),
        conv2d::cases(),
        heads::cases(),
        linear::cases(),
        maps::cases(),
        matmul::cases(),
        norms::cases(),
        reduce::cases(),
        rotary::cases(),
        shape::cases(),
        timestep::cases(),
        unary::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
