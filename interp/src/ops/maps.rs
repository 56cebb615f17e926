use snapc_ir::ops::{MapFromTokens, SplitTokens, TokensFromMap, UpsampleNearest};
use snapc_ir::{Result, TensorType};
use snapc_weights::{Tensor, transpose};

use super::{Execute, one};

impl Execute for TokensFromMap {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let shape = &results[0].shape;
        one(results[0], transpose(operands[0].values(), &[shape[0], shape[2], shape[1]], &[0, 2, 1]))
    }
}

impl Execute for MapFromTokens {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        one(results[0], transpose(operands[0].values(), &operands[0].ty.shape, &[0, 2, 1]))
    }
}

impl Execute for SplitTokens {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let channels = results[0].last();
        let shape = [operands[0].ty.shape[0], self.grid[0], self.grid[1], self.factor, self.factor, channels];
        one(results[0], transpose(operands[0].values(), &shape, &[0, 1, 3, 2, 4, 5]))
    }
}

impl Execute for UpsampleNearest {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let width = operands[0].ty.shape[3];
        let mut values = Vec::with_capacity(results[0].count());
        for line in operands[0].values().chunks_exact(width) {
            for _ in 0..self.factor {
                values.extend(line.iter().flat_map(|&x| std::iter::repeat_n(x, self.factor)));
            }
        }
        one(results[0], values)
    }
}
