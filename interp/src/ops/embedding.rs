use snapc_ir::ops::Embedding;
use snapc_ir::{Error, Result};

use super::{Call, Execute};
use crate::value::Value;

impl Execute for Embedding {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let (ids, table) = (call.operands[0].integers(), &call.operands[1]);
        let (rows, width) = (table.ty.shape[0], table.ty.shape[1]);
        let mut values = call.fresh();
        for (&id, values) in ids.iter().zip(values.chunks_exact_mut(width)) {
            let row = usize::try_from(id).ok().filter(|&row| row < rows).ok_or_else(|| outside(id, rows))?;
            table.rows(row, values);
        }
        call.one(values)
    }
}

/// What an id is told that has no row.
pub fn outside(id: i32, rows: usize) -> Error {
    Error::input(format!("the id {id} is outside the table of {rows} rows"))
        .help("do the tokenizer and the text encoder belong to each other?")
}
