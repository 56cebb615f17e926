use snapc_ir::ops::TimestepEmbedding;
use snapc_ir::{Result, TensorType};
use snapc_weights::Tensor;

use super::{Execute, one};

impl Execute for TimestepEmbedding {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let half = self.dim / 2;
        let mut values = Vec::with_capacity(results[0].count());
        for &timestep in operands[0].values() {
            // The frequencies are rounded to f32, as diffusers has them; only then do the angles agree.
            let angle = |i: usize| timestep * 10000f64.powf(-2.0 * i as f64 / self.dim as f64) as f32;
            values.extend((0..half).map(|i| angle(i).cos()));
            values.extend((0..half).map(|i| angle(i).sin()));
        }
        one(results[0], values)
    }
}
