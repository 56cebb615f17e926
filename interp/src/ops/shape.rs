use std::sync::Arc;

use rayon::prelude::*;
use snapc_ir::ops::{Concat, MergeHeads, Reshape, Slice, Split, SplitHeads, Transpose};
use snapc_ir::{Result, TensorType};

use super::{Call, Execute};
use crate::kernels::{BLOCK, row_blocks};
use crate::value::{Numbers, Value};
use snapc_weights::transpose;

macro_rules! renaming {
    ($($op:ident),*) => { $(
        impl Execute for $op {
            /// The same numbers under another type.
            fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
                Ok(vec![Value { ty: call.results[0].clone(), numbers: call.operands[0].numbers.clone() }])
            }
        }
    )* };
}
renaming!(Reshape, SplitHeads, MergeHeads);

impl Execute for Transpose {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let x = &call.operands[0];
        let numbers = match &x.numbers {
            Numbers::Int(values) => {
                let mut moved = vec![0; values.len()];
                transpose(&mut moved, values, &x.ty.shape, &self.perm);
                Numbers::Int(Arc::new(moved))
            }
            _ => {
                let mut moved = call.fresh();
                transpose(&mut moved, x.values(), &x.ty.shape, &self.perm);
                Numbers::Float(Arc::new(moved))
            }
        };
        Ok(vec![Value { ty: call.results[0].clone(), numbers }])
    }
}

/// The numbers of a box of `sizes` that begins at `starts`.
fn cut<T: Copy + Send + Sync>(
    to: &mut [T],
    values: &[T],
    shape: &[usize],
    starts: &[usize],
    sizes: &[usize],
) {
    // Axes that are whole at the end are one run with the one before them.
    let whole = (0..shape.len()).rev().take_while(|&axis| sizes[axis] == shape[axis]).count();
    let axis = (shape.len() - whole).saturating_sub(1);
    let inner: usize = shape.iter().skip(axis + 1).product();
    let run = sizes.get(axis).copied().unwrap_or(1) * inner;
    let fill = |number: usize, line: &mut [T]| {
        let (mut rest, mut start) = (number, starts.get(axis).copied().unwrap_or(0) * inner);
        let mut step = shape.get(axis).copied().unwrap_or(1) * inner;
        for outer in (0..axis).rev() {
            start += (starts[outer] + rest % sizes[outer]) * step;
            rest /= sizes[outer];
            step *= shape[outer];
        }
        line.copy_from_slice(&values[start..start + run]);
    };
    let run = run.max(1);
    if to.len() <= BLOCK {
        to.chunks_exact_mut(run).enumerate().for_each(|(number, line)| fill(number, line));
    } else {
        let least = (BLOCK / run).max(1);
        to.par_chunks_exact_mut(run)
            .enumerate()
            .with_min_len(least)
            .for_each(|(number, line)| fill(number, line));
    }
}

fn slice(call: &Call, starts: &[usize], ty: &TensorType) -> Value {
    let x = &call.operands[0];
    if ty.shape == x.ty.shape {
        return Value { ty: ty.clone(), numbers: x.numbers.clone() };
    }
    let numbers = match &x.numbers {
        Numbers::Int(values) => {
            let mut part = vec![0; ty.count()];
            cut(&mut part, values, &x.ty.shape, starts, &ty.shape);
            Numbers::Int(Arc::new(part))
        }
        _ => {
            let mut part = call.pool.take(ty.count());
            cut(&mut part, x.values(), &x.ty.shape, starts, &ty.shape);
            Numbers::Float(Arc::new(part))
        }
    };
    Value { ty: ty.clone(), numbers }
}

impl Execute for Slice {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        Ok(vec![slice(call, &self.starts, call.results[0])])
    }
}

impl Execute for Split {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let size = call.results[0].shape[self.axis];
        let part = |(number, ty): (usize, &&TensorType)| {
            let mut starts = vec![0; ty.rank()];
            starts[self.axis] = number * size;
            slice(call, &starts, ty)
        };
        Ok(call.results.iter().enumerate().map(part).collect())
    }
}

impl Execute for Concat {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let outer: usize = call.results[0].shape[..self.axis].iter().product();
        let length = call.results[0].count() / outer.max(1);
        if outer == 1 {
            // Whole operands behind each other.
            let mut values = call.fresh();
            let mut rest = &mut values[..];
            for operand in &call.operands {
                let (part, behind) = rest.split_at_mut(operand.ty.count());
                crate::kernels::copy(part, operand.values());
                rest = behind;
            }
            return call.one(values);
        }
        let mut values = call.fresh();
        row_blocks(&mut values, length, |first, block| {
            for (index, mut to) in block.chunks_exact_mut(length).enumerate() {
                for operand in &call.operands {
                    let size = operand.ty.count() / outer;
                    let (part, behind) = to.split_at_mut(size);
                    part.copy_from_slice(&operand.values()[(first + index) * size..][..size]);
                    to = behind;
                }
            }
        });
        call.one(values)
    }
}
