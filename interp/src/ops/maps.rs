use snapc_ir::Result;
use snapc_ir::ops::{MapFromTokens, SplitTokens, TokensFromMap, UpsampleNearest};

use super::{Call, Execute};
use crate::kernels::row_blocks;
use crate::value::Value;
use snapc_weights::transpose;

/// The operand seen as `shape`, its axes permuted.
fn moved(call: &Call, shape: &[usize], perm: &[usize]) -> Result<Vec<Value>> {
    let mut values = call.fresh();
    transpose(&mut values, call.values(0), shape, perm);
    call.one(values)
}

impl Execute for TokensFromMap {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let [batch, tokens, channels] = [0, 1, 2].map(|axis| call.results[0].shape[axis]);
        moved(call, &[batch, channels, tokens], &[0, 2, 1])
    }
}

impl Execute for MapFromTokens {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        moved(call, call.shape(0), &[0, 2, 1])
    }
}

impl Execute for SplitTokens {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let channels = call.results[0].last();
        let shape = [call.shape(0)[0], self.grid[0], self.grid[1], self.factor, self.factor, channels];
        moved(call, &shape, &[0, 1, 3, 2, 4, 5])
    }
}

impl Execute for UpsampleNearest {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let (width, factor) = (call.shape(0)[3], self.factor);
        let mut values = call.fresh();
        let x = call.values(0);
        row_blocks(&mut values, width * factor * factor, |first, block| {
            for (line, to) in block.chunks_exact_mut(width * factor * factor).enumerate() {
                let (once, rest) = to.split_at_mut(width * factor);
                let from = &x[(first + line) * width..][..width];
                once.chunks_exact_mut(factor).zip(from).for_each(|(to, x)| to.fill(*x));
                rest.chunks_exact_mut(width * factor).for_each(|to| to.copy_from_slice(once));
            }
        });
        call.one(values)
    }
}
