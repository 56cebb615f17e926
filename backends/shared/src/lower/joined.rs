use snapc_ir::ops::{Concat, Op};
use snapc_ir::{Builder, Result, ValueId};

use super::Device;

/// Why a linear of joined values is written as a sum.
pub const JOINED: &str =
    "a linear of joined values is a sum of linears: on a CPU nothing is copied to join them";

/// A linear behind a join of its last axis, as the sum of a linear for each of the joined. `None` where the node is no such linear.
///
/// # Errors
/// If the operands do not fit.
pub fn joined(b: &mut Builder, device: Device, operands: &[ValueId]) -> Result<Option<ValueId>> {
    let last = b.ty(operands[0]).rank() - 1;
    let Some(join) = b.maker(operands[0]).filter(|made| made.op == Op::from(Concat { axis: last })) else {
        return Ok(None);
    };
    let parts = join.operands.clone();
    if device != Device::Cpu {
        return Ok(None);
    }
    let mut starts = parts.iter().scan(0, |start, &part| {
        let (first, size) = (*start, b.ty(part).last());
        *start += size;
        Some((first, size))
    });
    let weight = b.as_weight(operands[1]);
    if weight.is_some_and(|weight| !starts.all(|(start, size)| weight.can_part(1, start, size))) {
        return Ok(None);
    }
    let (mut sum, mut start) = (None, 0);
    for (number, &part) in parts.iter().enumerate() {
        let size = b.ty(part).last();
        let weight = b.part_of_weight(operands[1], 1, start, size)?;
        let bias = operands.get(2).copied().filter(|_| number == 0);
        let y = b.linear(part, weight, bias)?;
        sum = Some(match sum {
            Some(sum) => b.add(sum, y)?,
            None => y,
        });
        start += size;
    }
    Ok(sum)
}
