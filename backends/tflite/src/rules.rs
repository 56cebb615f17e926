//! This target's own rewriting: what is said otherwise, or in several operators.

use snapc_ir::ops::{Cast, Concat, Conv2d, Embedding, Layout, Linear, Op};
use snapc_ir::{Builder, DType, Replayed, Result, ValueId, Weight};

use crate::encode::{self, Form};
use crate::legal::MOST_JOINED;
use crate::maps;

/// What a rule gives: the results, or nothing to change.
pub type Rewritten = Result<Option<Vec<ValueId>>>;

/// This target's rewriting of a node; `None` where it has none, or nothing to change.
pub fn rule(b: &mut Builder, node: &Replayed) -> Rewritten {
    let operands = &node.operands;
    if operands.iter().any(|&id| b.ty(id).dtype == DType::F16) && !matches!(node.op(), Op::Cast(_)) {
        return in_f32(b, node.op(), operands);
    }
    match node.op() {
        Op::Linear(Linear {}) => linear(b, operands),
        Op::Embedding(Embedding {}) => embedding(b, operands),
        Op::Concat(op) => concat(b, op, operands),
        Op::Slice(op) if b.ty(operands[0]).shape == op.sizes => Ok(Some(operands.clone())),
        Op::Cast(op) if b.ty(operands[0]).dtype == op.dtype => Ok(Some(operands.clone())),
        // Codes stand for numbers of the type that they are used in.
        Op::Cast(op) if is_encoded(b, operands[0]) => {
            b.cast_weight(operands[0], op.dtype).map(|y| Some(vec![y]))
        }
        Op::Conv2d(op) if op.layout == Layout::Nchw => maps::conv2d(b, op, operands),
        Op::Conv2d(op) => with_bias(b, op, operands),
        Op::GroupNorm(op) => maps::group_norm(b, op, operands),
        Op::UpsampleNearest(op) => maps::upsample(b, op.factor, operands[0]),
        Op::TokensFromMap(_) => maps::tokens_from_map(b, operands[0]),
        Op::MapFromTokens(op) => maps::map_from_tokens(b, op.grid, operands[0]),
        op => maps::after_elementwise(b, op, operands),
    }
}

/// Whether the value is a weight, or one that is stored in fewer bytes.
pub fn is_constant(b: &Builder, value: ValueId) -> bool {
    let stored = match b.maker(value) {
        Some(made) if matches!(made.op, Op::Cast(_)) => made.operands[0],
        _ => value,
    };
    b.as_weight(stored).is_some()
}

/// The scale that a value was rounded by.
fn rounded_by(b: &Builder, value: ValueId) -> Option<f32> {
    match &b.maker(value)?.op {
        Op::FakeQuantize(op) => Some(op.scale),
        _ => None,
    }
}

/// Whether the value is a weight that is stored as codes.
fn is_encoded(b: &Builder, value: ValueId) -> bool {
    b.as_weight(value).is_some_and(|weight| weight.coded().is_some())
}

/// The op on operands cast to f32, its results cast back, which is how ops in f16 are defined. Kernels for f16 are too new.
fn in_f32(b: &mut Builder, op: &Op, operands: &[ValueId]) -> Rewritten {
    let mut wide = Vec::with_capacity(operands.len());
    for &operand in operands {
        let half = b.ty(operand).dtype == DType::F16;
        wide.push(if half { b.one(Cast { dtype: DType::F32 }, &[operand])? } else { operand });
    }
    let results = b.op(op.clone(), &wide)?;
    results.into_iter().map(|y| b.cast(y, DType::F16)).collect::<Result<_>>().map(Some)
}

/// XNNPACK's fully connected layer has a constant weight, and x has an axis before the last.
fn linear(b: &mut Builder, operands: &[ValueId]) -> Rewritten {
    let (x, weight) = (operands[0], operands[1]);
    let ty = b.ty(x).clone();
    if ty.rank() == 1 {
        let row = b.reshape(x, [1, ty.last()])?;
        let y = b.linear(row, weight, operands.get(2).copied())?;
        let out = b.ty(y).last();
        return Ok(Some(vec![b.reshape(y, [out])?]));
    }
    if is_encoded(b, weight) {
        return codes_bias(b, &Linear {}.into(), operands);
    }
    if is_constant(b, weight) {
        return Ok(None);
    }
    let mut y = b.matmul(x, weight, true)?;
    if let Some(&bias) = operands.get(2) {
        y = b.add(y, bias)?;
    }
    Ok(Some(vec![y]))
}

/// The bias of a layer whose weight is stored as codes, as a kernel takes it.
fn codes_bias(b: &mut Builder, op: &Op, operands: &[ValueId]) -> Rewritten {
    match with_stored_bias(b, op, operands)? {
        Some(results) => Ok(Some(results)),
        None => with_steps(b, op, operands),
    }
}

/// Beside codes XNNPACK takes a bias in f32 alone: a dequantized one stops the delegate.
fn with_stored_bias(b: &mut Builder, op: &Op, operands: &[ValueId]) -> Rewritten {
    let &[x, weight, bias] = operands else { return Ok(None) };
    let Some(stored) =
        b.maker(bias).filter(|made| matches!(made.op, Op::Cast(_))).map(|made| made.operands[0])
    else {
        return Ok(None);
    };
    if b.as_weight(stored).is_none() {
        return Ok(None);
    }
    let bias = b.cast_weight(stored, DType::F32)?;
    Ok(Some(vec![b.one(op.clone(), &[x, weight, bias])?]))
}

fn embedding(b: &mut Builder, operands: &[ValueId]) -> Rewritten {
    let (ids, table) = (b.ty(operands[0]).clone(), operands[1]);
    if ids.rank() == 1 {
        return Ok(None);
    }
    let flat = b.reshape(operands[0], [ids.count()])?;
    let rows = b.one(Embedding {}, &[flat, table])?;
    let mut shape = ids.shape;
    shape.push(b.ty(rows).last());
    Ok(Some(vec![b.reshape(rows, shape)?]))
}

/// Many are joined by a tree.
fn concat(b: &mut Builder, op: &Concat, operands: &[ValueId]) -> Rewritten {
    if (2..=MOST_JOINED).contains(&operands.len()) {
        return Ok(None);
    }
    let mut parts = operands.to_vec();
    while parts.len() > 1 {
        let groups: Vec<Vec<ValueId>> = parts.chunks(MOST_JOINED).map(<[_]>::to_vec).collect();
        parts = groups.iter().map(|group| b.concat(group, op.axis)).collect::<Result<_>>()?;
    }
    Ok(Some(parts))
}

/// What is added to products of codes is an int32, in steps of both scales.
fn with_steps(b: &mut Builder, op: &Op, operands: &[ValueId]) -> Rewritten {
    let &[x, weight, bias] = operands else { return Ok(None) };
    let Some(scale) = rounded_by(b, x) else { return Ok(None) };
    let channels =
        |of: &&Weight| of.coded().is_some_and(|coded| encode::form(&coded) == Ok(Form::Channels { bits: 8 }));
    let of = b.as_weight(weight).filter(channels).cloned();
    let (Some(of), Some(mut steps)) = (of, b.as_weight(bias).cloned()) else { return Ok(None) };
    if steps.stepped().is_some() {
        return Ok(None);
    }
    steps.steps(&of, scale)?;
    steps.name += &format!(".steps.{scale}.{}", of.name);
    let bias = b.weight(steps)?;
    Ok(Some(vec![b.one(op.clone(), &[x, weight, bias])?]))
}

/// The kernels of a convolution want a bias.
fn with_bias(b: &mut Builder, op: &Conv2d, operands: &[ValueId]) -> Rewritten {
    let &[x, weight] = operands else {
        let weight = b.ty(operands[1]);
        let grouped = op.groups(b.ty(operands[0]), weight) != 1;
        if rounded_by(b, operands[0]).is_none() || grouped || maps::needs_pad(op, weight) {
            return Ok(None);
        }
        return codes_bias(b, &op.clone().into(), operands);
    };
    let out = b.ty(weight).shape[0];
    let zeros = b.weight(Weight::inline(format!("zeros.{out}"), vec![0.0; out], vec![out]))?;
    Ok(Some(vec![b.one(op.clone(), &[x, weight, zeros])?]))
}
