use super::{Attention, Grouped, MASKED, Pattern};
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;
use crate::weight::{Table, Weight};

/// All queries and all keys at once: scores are `[B, g, N * u, M]`.
///
/// # Errors
/// If the operands do not fit.
pub fn whole(b: &mut Builder, op: &Attention, operands: &[ValueId]) -> Result<ValueId> {
    let grouped = Grouped::new(b, op, operands)?;
    let mut bias = Vec::new();
    if op.pattern == Pattern::Causal {
        let (queries, keys, repeat) = (grouped.queries, grouped.keys, grouped.repeat);
        let name = format!("table.causal_mask.{queries}.{keys}.{repeat}");
        let table = b.weight(Weight::table(name, Table::CausalMask { queries, keys, repeat }))?;
        let dtype = b.ty(grouped.q).dtype;
        bias.push(b.cast_weight(table, dtype)?);
    }
    bias.extend(mask_bias(b, operands)?);
    let rows = attend(b, grouped.q, grouped.k, grouped.v, &bias)?;
    grouped.heads(b, rows)
}

/// What a mask adds to the scores: `[B, 1, 1, M]`, 0 for a real key, [`MASKED`] else. `None` without a mask.
///
/// # Errors
/// If the mask does not fit.
pub fn mask_bias(b: &mut Builder, operands: &[ValueId]) -> Result<Option<ValueId>> {
    let Some(&mask) = operands.get(3) else { return Ok(None) };
    let shape = b.ty(mask).shape.clone();
    let row = b.reshape(mask, [shape[0], 1, 1, shape[1]])?;
    let shifted = b.add_scalar(row, -1.0)?;
    b.mul_scalar(shifted, -MASKED).map(Some)
}

/// `softmax(q k^T + bias) v` over the last two axes.
///
/// # Errors
/// If the operands do not fit.
pub fn attend(b: &mut Builder, q: ValueId, k: ValueId, v: ValueId, bias: &[ValueId]) -> Result<ValueId> {
    let mut scores = b.matmul(q, k, true)?;
    for &bias in bias {
        scores = b.add(scores, bias)?;
    }
    let weights = b.softmax(scores)?;
    b.matmul(weights, v, false)
}
