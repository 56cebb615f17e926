use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, require, require_float, require_rank};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::types::TensorType;
use crate::weight::{Grid, Table, Weight};

/// Rotary position embedding on two axes: the first half of a head's numbers turns with the row, the second with the
/// column. In a half of size `a`, the pair `(i, i + a/2)` turns by `position * theta^(-2i / a)`.
/// Operand: `x [B, rows * cols, h, d]`. Result: as `x`. Computed in f32, then rounded to the type of `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotary {
    /// Base of the frequencies.
    pub theta: f32,
    /// Where the tokens stand, row-major.
    pub grid: Grid,
}

impl Rotary {
    /// The table's name: it says all that the numbers depend on.
    fn table_name(&self, kind: &str, head_dim: usize) -> String {
        let Grid { rows, cols, start, stride } = self.grid;
        format!("table.rotary_{kind}.{rows}x{cols}.{head_dim}.{start}.{stride}.{}", self.theta)
    }
}

impl OpDef for Rotary {
    const NAME: &'static str = "rotary";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let x = operands[0];
        require_float("x", x)?;
        require_rank("x", x, 4)?;
        let fits =
            x.shape[1] == self.grid.rows * self.grid.cols && x.last() > 0 && x.last().is_multiple_of(4);
        require(fits, || format!("{x} does not fit a {} x {} grid", self.grid.rows, self.grid.cols))?;
        Ok(vec![x.clone()])
    }

    /// `x * cos + swap(x) * sin`, `swap` exchanging the numbers of each pair; the sines carry the sign.
    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let x = operands[0];
        let ty = b.ty(x).clone();
        let (head_dim, quarter) = (ty.last(), ty.last() / 4);
        let (theta, grid) = (self.theta, self.grid);
        let mut tables = Vec::new();
        for (kind, table) in [
            ("cos", Table::RotaryCos { head_dim, theta, grid }),
            ("sin", Table::RotarySin { head_dim, theta, grid }),
        ] {
            let table = b.weight(Weight::table(self.table_name(kind, head_dim), table))?;
            tables.push(b.cast_weight(table, ty.dtype)?);
        }
        let mut quarters = Vec::new();
        for part in [1, 0, 3, 2] {
            quarters.push(b.slice(x, 3, part * quarter, quarter)?);
        }
        let swapped = b.concat(&quarters, 3)?;
        let straight = b.mul(x, tables[0])?;
        let crossed = b.mul(swapped, tables[1])?;
        Ok(Some(vec![b.add(straight, crossed)?]))
    }
}
