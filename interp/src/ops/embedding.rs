use snapc_ir::ops::Embedding;
use snapc_ir::{Error, Result, TensorType};
use snapc_weights::Tensor;

use super::{Execute, one};

impl Execute for Embedding {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let (ids, table) = (operands[0].integers(), operands[1]);
        let (rows, width) = (table.ty.shape[0], table.ty.shape[1]);
        let mut values = Vec::with_capacity(results[0].count());
        for &id in ids {
            let row = usize::try_from(id).ok().filter(|&row| row < rows).ok_or_else(|| {
                Error::input(format!("the id {id} is outside the table of {rows} rows"))
                    .help("do the tokenizer and the text encoder belong to each other?")
            })?;
            values.extend_from_slice(&table.values()[row * width..][..width]);
        }
        one(results[0], values)
    }
}
