//! Maps with channels last.
//!
//! TFLite convolves `[B, H, W, C]`. Each rule here turns a map so, works on it, and turns the result back; a turn back sinks below
//! the elementwise ops that follow, until it meets the turn of the next rule and both are gone. What is left is one turn where a
//! map of the model's own begins and one where it ends.

use snapc_ir::ops::{Cast, Conv2d, GroupNorm, Layout, Op};
use snapc_ir::{Builder, DType, Result, TensorType, ValueId};

use crate::rules::{Rewritten, is_constant};

const LAST_FROM_FIRST: [usize; 4] = [0, 2, 3, 1];
const FIRST_FROM_LAST: [usize; 4] = [0, 3, 1, 2];

/// What a turn to channels first was made of.
fn turned(b: &Builder, x: ValueId) -> Option<ValueId> {
    let made = b.maker(x)?;
    match &made.op {
        Op::Transpose(op) if op.perm == FIRST_FROM_LAST => Some(made.operands[0]),
        _ => None,
    }
}

/// The map with channels last.
fn channels_last(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    if let Some(source) = turned(b, x) {
        return Ok(source);
    }
    // A convolution is given codes: they are made of what is turned.
    match b.maker(x).map(|made| (made.op.clone(), made.operands[0])) {
        Some((op @ Op::FakeQuantize(_), source)) => {
            let source = channels_last(b, source)?;
            b.one(op, &[source])
        }
        _ => b.transpose(x, &LAST_FROM_FIRST),
    }
}

/// Whether a convolution with channels last is padded in a way that no word of CONV_2D says.
pub fn needs_pad(op: &Conv2d, weight: &TensorType) -> bool {
    op.padding > 0 && !(op.stride == 1 && weight.shape[1..3] == [2 * op.padding + 1; 2])
}

fn channels_first(b: &mut Builder, x: ValueId) -> Rewritten {
    Ok(Some(vec![b.transpose(x, &FIRST_FROM_LAST)?]))
}

/// A weight's recipe turns with the map: rows and columns come before the channels.
pub fn conv2d(b: &mut Builder, op: &Conv2d, operands: &[ValueId]) -> Rewritten {
    let x = channels_last(b, operands[0])?;
    let weight = b.transpose(operands[1], &LAST_FROM_FIRST)?;
    let conv = Conv2d { layout: Layout::Nhwc, ..op.clone() };
    let y = b.one(conv, &[&[x, weight], &operands[2..]].concat())?;
    channels_first(b, y)
}

/// Mean and variance over the places of a map and the channels of a group, one axis after the other.
pub fn group_norm(b: &mut Builder, norm: &GroupNorm, operands: &[ValueId]) -> Rewritten {
    let x = channels_last(b, operands[0])?;
    let ty = b.ty(x).clone();
    let [batch, rows, cols, channels] = [0, 1, 2, 3].map(|axis| ty.shape[axis]);
    let grouped = b.reshape(x, [batch, rows * cols, norm.groups, channels / norm.groups])?;
    let mean = mean_of_group(b, grouped)?;
    let centred = b.sub(grouped, mean)?;
    let square = b.mul(centred, centred)?;
    let variance = mean_of_group(b, square)?;
    let shifted = b.add_scalar(variance, norm.eps)?;
    let inverse = b.rsqrt(shifted)?;
    let normed = b.mul(centred, inverse)?;
    let map = b.reshape(normed, ty.shape)?;
    let scaled = b.mul(map, operands[1])?;
    let y = b.add(scaled, operands[2])?;
    channels_first(b, y)
}

fn mean_of_group(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    let of_place = b.reduce_mean(x, 3)?;
    b.reduce_mean(of_place, 1)
}

/// Each place joined with itself, then each line: joining is a copy, and XNNPACK has it.
pub fn upsample(b: &mut Builder, factor: usize, x: ValueId) -> Rewritten {
    let x = channels_last(b, x)?;
    let [batch, rows, cols, channels] = [0, 1, 2, 3].map(|axis| b.ty(x).shape[axis]);
    let place = b.reshape(x, [batch * rows * cols, 1, channels])?;
    let wide = b.concat(&vec![place; factor], 1)?;
    let line = b.reshape(wide, [batch * rows, 1, cols * factor * channels])?;
    let tall = b.concat(&vec![line; factor], 1)?;
    let y = b.reshape(tall, [batch, rows * factor, cols * factor, channels])?;
    channels_first(b, y)
}

/// Tokens are a map with channels last.
pub fn tokens_from_map(b: &mut Builder, x: ValueId) -> Rewritten {
    let x = channels_last(b, x)?;
    let [batch, rows, cols, channels] = [0, 1, 2, 3].map(|axis| b.ty(x).shape[axis]);
    Ok(Some(vec![b.reshape(x, [batch, rows * cols, channels])?]))
}

/// The inverse.
pub fn map_from_tokens(b: &mut Builder, grid: [usize; 2], x: ValueId) -> Rewritten {
    let (batch, channels) = (b.ty(x).shape[0], b.ty(x).last());
    let map = b.reshape(x, [batch, grid[0], grid[1], channels])?;
    channels_first(b, map)
}

/// Lets a turn to channels first sink below an elementwise op, if its operands all have one or can be turned at no cost.
/// Not below a cast to f16: turns are made in f32.
pub fn after_elementwise(b: &mut Builder, op: &Op, operands: &[ValueId]) -> Rewritten {
    let to_half = matches!(op, Op::Cast(Cast { dtype: DType::F16 }));
    let elementwise = op.is_elementwise() && !to_half;
    let any = operands.iter().any(|&x| turned(b, x).is_some());
    let free = |&x: &ValueId| turned(b, x).is_some() || b.ty(x).count() == 1 || is_constant(b, x);
    if !elementwise || !any || !operands.iter().all(free) {
        return Ok(None);
    }
    let operands: Vec<ValueId> = operands.iter().map(|&x| operand_last(b, x)).collect::<Result<_>>()?;
    let y = b.one(op.clone(), &operands)?;
    channels_first(b, y)
}

/// An operand that broadcasts to a map, for the map with channels last.
fn operand_last(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    if let Some(source) = turned(b, x) {
        return Ok(source);
    }
    let ty = b.ty(x).clone();
    if ty.count() == 1 {
        return Ok(x);
    }
    let mut shape = vec![1; 4 - ty.rank()];
    shape.extend(&ty.shape);
    let map = b.reshape(x, shape)?;
    b.transpose(map, &LAST_FROM_FIRST)
}
