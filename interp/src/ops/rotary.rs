use snapc_ir::ops::Rotary;
use snapc_ir::{Result, TensorType};
use snapc_weights::Tensor;

use super::{Execute, one};

impl Execute for Rotary {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let shape = &results[0].shape;
        let (tokens, heads, dim) = (shape[1], shape[2], shape[3]);
        let (half, quarter) = (dim / 2, dim / 4);
        let mut values = operands[0].values().to_vec();
        for (index, token) in values.chunks_exact_mut(heads * dim).enumerate() {
            let (row, col) = (index % tokens / self.grid.cols, index % tokens % self.grid.cols);
            for (axis, place) in [row, col].into_iter().enumerate() {
                let position = f64::from(self.grid.start) + f64::from(self.grid.stride) * place as f64;
                for pair in 0..quarter {
                    let angle = position * f64::from(self.theta).powf(-2.0 * pair as f64 / half as f64);
                    let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
                    for head in token.chunks_exact_mut(dim) {
                        let (first, second) = (axis * half + pair, axis * half + pair + quarter);
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
