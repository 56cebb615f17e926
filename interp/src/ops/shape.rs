use snapc_ir::ops::{Concat, MergeHeads, Reshape, Slice, Split, SplitHeads, Transpose};
use snapc_ir::{Result, TensorType};
use snapc_weights::{Data, Tensor, transpose};

use super::{Execute, one};

/// The same numbers under another type.
fn renamed(x: &Tensor, ty: &TensorType) -> Result<Vec<Tensor>> {
    Ok(vec![Tensor { ty: ty.clone(), data: x.data.clone() }])
}

macro_rules! renaming {
    ($($op:ident),*) => { $(
        impl Execute for $op {
            fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
                renamed(operands[0], results[0])
            }
        }
    )* };
}
renaming!(Reshape, SplitHeads, MergeHeads);

impl Execute for Transpose {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let shape = &operands[0].ty.shape;
        let data = match &operands[0].data {
            Data::F32(values) => Data::F32(transpose(values, shape, &self.perm)),
            Data::I32(values) => Data::I32(transpose(values, shape, &self.perm)),
        };
        Ok(vec![Tensor { ty: results[0].clone(), data }])
    }
}

/// `size` numbers of an axis from `start` on.
fn cut<T: Copy>(values: &[T], shape: &[usize], axis: usize, start: usize, size: usize) -> Vec<T> {
    let inner: usize = shape[axis + 1..].iter().product();
    values
        .chunks_exact(shape[axis] * inner)
        .flat_map(|block| &block[start * inner..(start + size) * inner])
        .copied()
        .collect()
}

fn slice(x: &Tensor, axis: usize, start: usize, ty: &TensorType) -> Tensor {
    let (shape, size) = (&x.ty.shape, ty.shape[axis]);
    let data = match &x.data {
        Data::F32(values) => Data::F32(cut(values, shape, axis, start, size)),
        Data::I32(values) => Data::I32(cut(values, shape, axis, start, size)),
    };
    Tensor { ty: ty.clone(), data }
}

impl Execute for Slice {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        // Axis by axis, the outermost first: what is dropped early is not copied again.
        let mut x = operands[0].clone();
        for axis in self.cut(&x.ty.shape.clone()) {
            let mut ty = x.ty.clone();
            ty.shape[axis] = self.sizes[axis];
            x = slice(&x, axis, self.starts[axis], &ty);
        }
        debug_assert_eq!(&x.ty, results[0]);
        Ok(vec![x])
    }
}

impl Execute for Split {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let size = results[0].shape[self.axis];
        let part = |(number, ty): (usize, &&TensorType)| slice(operands[0], self.axis, number * size, ty);
        Ok(results.iter().enumerate().map(part).collect())
    }
}

impl Execute for Concat {
    fn execute(&self, operands: &[&Tensor], results: &[&TensorType]) -> Result<Vec<Tensor>> {
        let outer: usize = results[0].shape[..self.axis].iter().product();
        let mut values = Vec::with_capacity(results[0].count());
        for index in 0..outer {
            for operand in operands {
                let length = operand.ty.count() / outer;
                values.extend_from_slice(&operand.values()[index * length..][..length]);
            }
        }
        one(results[0], values)
    }
}
