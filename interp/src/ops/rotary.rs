use snapc_ir::ops::Rotary;
use snapc_ir::{Pairs, Result, TensorType};
use snapc_weights::Tensor;

use super::{Execute, one};

impl Execute for Rotary {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let shape = &results[0].shape;
        let (tokens, heads, dim) = (shape[1], shape[2], shape[3]);
        let positions = self.grid.positions();
        // Of each axis where its first numbers and its second ones begin, in quarters of a head.
        let quarters = match self.pairs {
            Pairs::ByAxis => [[0, 1], [2, 3]],
            Pairs::ByHalf => [[0, 2], [1, 3]],
        };
        let mut values = operands[0].values().to_vec();
        for (index, token) in values.chunks_exact_mut(heads * dim).enumerate() {
            for (axis, position) in positions[index % tokens].into_iter().enumerate() {
                for pair in 0..dim / 4 {
                    let angle = position * f64::from(self.theta).powf(-2.0 * pair as f64 / (dim / 2) as f64);
                    let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
                    let [first, second] = quarters[axis].map(|quarter| quarter * (dim / 4) + pair);
                    for head in token.chunks_exact_mut(dim) {
                        let (x, y) = (head[first], head[second]);
                        head[first] = x * cos - y * sin;
                        head[second] = y * cos + x * sin;
                    }
                }
            }
        }
        one(results[0], values)
    }
}
