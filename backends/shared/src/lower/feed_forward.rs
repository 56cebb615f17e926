use snapc_ir::ops::{Linear, Op};
use snapc_ir::{Builder, Node, Result, ValueId};

use super::Device;

/// Why a feed-forward is written in parts.
pub const FEED_FORWARD: &str =
    "a feed-forward in parts of its hidden axis: on a CPU its widest value is never there at once";

/// The most numbers of a hidden layer: 16 MB in f32.
const MOST_NUMBERS: usize = 1 << 22;

/// A linear behind an activation behind a linear, in parts of the hidden axis that are summed: nothing but the sums is moved, and
/// each number of a weight stands in one part. The paper's `small` at 64 x 64 tokens then needs 16 MB at once where the hidden layer has
/// 64, twice. `None` where the node is no such linear or the layer is small.
///
/// # Errors
/// If the operands do not fit.
pub fn feed_forward(b: &mut Builder, device: Device, operands: &[ValueId]) -> Result<Option<ValueId>> {
    let Some((first, activation)) = layers(b, operands) else { return Ok(None) };
    let hidden = b.ty(operands[0]).clone();
    let count = hidden.count().div_ceil(MOST_NUMBERS);
    if device != Device::Cpu || count == 1 || !hidden.last().is_multiple_of(count) {
        return Ok(None);
    }
    let size = hidden.last() / count;
    let whole = |id: ValueId, axis: usize| {
        b.as_weight(id).is_none_or(|weight| (0..count).all(|part| weight.can_part(axis, part * size, size)))
    };
    if !whole(first.operands[1], 0) || !whole(operands[1], 1) {
        return Ok(None);
    }
    let mut sum = None;
    for part in 0..count {
        let start = part * size;
        let weight = b.part_of_weight(first.operands[1], 0, start, size)?;
        let bias = match first.operands.get(2) {
            Some(&bias) => Some(b.part_of_weight(bias, 0, start, size)?),
            None => None,
        };
        let up = b.linear(first.operands[0], weight, bias)?;
        let bent = b.one(activation.op.clone(), &[up])?;
        let weight = b.part_of_weight(operands[1], 1, start, size)?;
        let bias = operands.get(2).copied().filter(|_| part == 0);
        let down = b.linear(bent, weight, bias)?;
        sum = Some(match sum {
            Some(sum) => b.add(sum, down)?,
            None => down,
        });
    }
    Ok(sum)
}

/// The linear and the activation that make the operand of another linear.
fn layers(b: &Builder, operands: &[ValueId]) -> Option<(Node, Node)> {
    let activation = b.maker(operands[0]).filter(|made| matches!(made.op, Op::Gelu(_) | Op::Silu(_)))?;
    let first = b.maker(activation.operands[0]).filter(|made| matches!(made.op, Op::Linear(Linear {})))?;
    Some((first.clone(), activation.clone()))
}
