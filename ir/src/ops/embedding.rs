use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require, require_rank};
use crate::types::{DType, TensorType};

/// Rows of a table by number. Operands: `ids i32[..]`, `table [rows, C]`. Result: `[.., C]`.
/// An id outside the table is an error when it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embedding {}

impl OpDef for Embedding {
    const NAME: &'static str = "embedding";
    const OPERANDS: &'static [&'static str] = &["ids", "table"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        require(operands[0].dtype == DType::I32, || format!("ids is {}, expected i32", operands[0]))?;
        require_rank("table", operands[1], 2)?;
        let mut shape = operands[0].shape.clone();
        shape.push(operands[1].shape[1]);
        Ok(vec![operands[1].with_shape(shape)])
    }
}
