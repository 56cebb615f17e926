use serde::{Deserialize, Serialize};

use super::{Inferred, OpDef, Split, require, require_float, require_rank};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::types::TensorType;
use crate::weight::{Grid, Pairs, Table, Weight};

/// Rotary position embedding on two axes: the first half of a head's numbers turns with the row, the second with the
/// column. In a half of size `a`, the pair `(i, i + a/2)` turns by `position * theta^(-2i / a)`.
/// Where the numbers of a pair stand in a head is `pairs`. Operand: `x [B, rows * cols, h, d]`. Result: as `x`. Computed in f32, then rounded to the type of `x`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rotary {
    /// Base of the frequencies.
    pub theta: f32,
    /// Where the tokens stand, in order.
    pub grid: Grid,
    /// Where the numbers of a pair stand.
    #[serde(default, skip_serializing_if = "Pairs::is_by_axis")]
    pub pairs: Pairs,
}

impl Rotary {
    /// The table's name: it says all that the numbers depend on.
    fn table_name(&self, kind: &str, head_dim: usize) -> String {
        let Grid { rows, cols, start, stride, order } = self.grid;
        let order: String = order.sides().iter().map(|side| format!(".in{side}")).collect();
        let pairs = if self.pairs.is_by_axis() { "" } else { ".by_half" };
        format!("table.rotary_{kind}.{rows}x{cols}.{head_dim}.{start}.{stride}.{}{order}{pairs}", self.theta)
    }
}

impl OpDef for Rotary {
    const NAME: &'static str = "rotary";
    const OPERANDS: &'static [&'static str] = &["x"];

    fn infer(&self, operands: &[&TensorType]) -> Inferred {
        let x = operands[0];
        require_float("x", x)?;
        require_rank("x", x, 4)?;
        let fits = x.shape[1] == self.grid.rows * self.grid.cols
            && x.last() > 0
            && x.last().is_multiple_of(4)
            && self.grid.order.fits([self.grid.rows, self.grid.cols]);
        require(fits, || format!("{x} does not fit a {} x {} grid", self.grid.rows, self.grid.cols))?;
        Ok(vec![x.clone()])
    }

    /// `x * cos + swap(x) * sin`, `swap` exchanging the numbers of each pair; the sines carry the sign.
    fn expand(&self, b: &mut Builder, operands: &[ValueId]) -> Result<Option<Vec<ValueId>>> {
        let x = operands[0];
        let ty = b.ty(x).clone();
        let head_dim = ty.last();
        let (theta, grid, pairs) = (self.theta, self.grid, self.pairs);
        let mut tables = Vec::new();
        for (kind, table) in [
            ("cos", Table::RotaryCos { head_dim, theta, grid, pairs }),
            ("sin", Table::RotarySin { head_dim, theta, grid, pairs }),
        ] {
            let table = b.weight(Weight::table(self.table_name(kind, head_dim), table))?;
            tables.push(b.cast_weight(table, ty.dtype)?);
        }
        let order: &[usize] = match pairs {
            Pairs::ByAxis => &[1, 0, 3, 2],
            Pairs::ByHalf => &[1, 0],
        };
        let parts = b.op(Split { axis: 3, parts: order.len() }, &[x])?;
        let parts: Vec<ValueId> = order.iter().map(|&part| parts[part]).collect();
        let swapped = b.concat(&parts, 3)?;
        let straight = b.mul(x, tables[0])?;
        let crossed = b.mul(swapped, tables[1])?;
        Ok(Some(vec![b.add(straight, crossed)?]))
    }
}
