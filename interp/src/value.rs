use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use snapc_ir::{DType, TensorType};
use snapc_weights::{Codes, Data, Tensor};

use crate::kernels::panels::Panels;
use crate::kernels::{BLOCK, row_blocks};
use crate::pool::{Buffer, Pool};

/// Numbers that are worth holding in two bytes.
pub const LARGE: usize = 1 << 18;

/// Numbers of a value, shared by all that have the same ones.
#[derive(Clone, Debug)]
pub enum Numbers {
    /// Of an f32 or f16 value.
    Float(Arc<Buffer>),
    /// Of an i32 value.
    Int(Arc<Vec<i32>>),
    /// Of a large weight whose every number is one of f16.
    Half(Arc<Vec<f16>>),
    /// And of bf16.
    Brain(Arc<Vec<bf16>>),
    /// Of a large weight that is stored as codes.
    Coded(Arc<Codes>),
    /// Of a weight that only linears read.
    Panels(Arc<Panels>),
}

/// A value of a running graph.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its type.
    pub ty: TensorType,
    /// Its numbers, row-major.
    pub numbers: Numbers,
}

impl Value {
    /// A floating-point value; the numbers of an f16 one are rounded here.
    pub fn float(ty: TensorType, mut values: Buffer) -> Self {
        debug_assert_eq!(values.len(), ty.count());
        if ty.dtype == DType::F16 {
            values.par_chunks_mut(BLOCK).for_each(round);
        }
        Value { ty, numbers: Numbers::Float(Arc::new(values)) }
    }

    /// From a tensor.
    pub fn new(tensor: Tensor) -> Self {
        let numbers = match tensor.data {
            Data::F32(values) => Numbers::Float(Arc::new(values.into())),
            Data::I32(values) => Numbers::Int(Arc::new(values)),
        };
        Value { ty: tensor.ty, numbers }
    }

    /// From a tensor that stays its owner's.
    pub fn copied(tensor: &Tensor, pool: &Pool) -> Self {
        let numbers = match &tensor.data {
            Data::F32(values) => Numbers::Float(Arc::new(pool.copy(values))),
            Data::I32(values) => Numbers::Int(Arc::new(values.clone())),
        };
        Value { ty: tensor.ty.clone(), numbers }
    }

    /// A weight: a large one is held in two bytes a number where that loses none.
    pub fn weight(tensor: Tensor) -> Self {
        let numbers = match &tensor.data {
            Data::F32(values) if values.len() >= LARGE => narrow(values),
            _ => None,
        };
        match numbers {
            Some(numbers) => Value { ty: tensor.ty, numbers },
            None => Value::new(tensor),
        }
    }

    /// A weight of linears; a narrow one stays so.
    pub fn panels(self) -> Self {
        let numbers = match &self.numbers {
            Numbers::Float(values) => Numbers::Panels(Arc::new(Panels::new(values, self.ty.last()))),
            _ => self.numbers,
        };
        Value { ty: self.ty, numbers }
    }

    /// A weight that is held as its codes.
    pub fn coded(ty: TensorType, codes: Codes) -> Self {
        Value { ty, numbers: Numbers::Coded(Arc::new(codes)) }
    }

    /// As a tensor; copied where others share the numbers.
    pub fn into_tensor(self) -> Tensor {
        let data = match self.numbers {
            Numbers::Float(values) => {
                Data::F32(Arc::try_unwrap(values).map_or_else(|all| all.to_vec(), Vec::from))
            }
            Numbers::Int(values) => Data::I32(Arc::try_unwrap(values).unwrap_or_else(|all| all.to_vec())),
            narrow => {
                let mut values = vec![0.0; self.ty.count()];
                fill(&narrow, self.ty.last(), 0, &mut values);
                Data::F32(values)
            }
        };
        Tensor { ty: self.ty, data }
    }

    /// The numbers as f32; none of an integer or a narrow value.
    pub fn values(&self) -> &[f32] {
        match &self.numbers {
            Numbers::Float(values) => values,
            _ => &[],
        }
    }

    /// The numbers as i32; none of a floating-point value.
    pub fn integers(&self) -> &[i32] {
        match &self.numbers {
            Numbers::Int(values) => values,
            _ => &[],
        }
    }

    /// The same numbers in four bytes each.
    pub fn widened(self, pool: &Pool) -> Self {
        if let Numbers::Float(_) | Numbers::Int(_) = self.numbers {
            return self;
        }
        let mut values = pool.take(self.ty.count());
        self.rows(0, &mut values);
        Value { ty: self.ty, numbers: Numbers::Float(Arc::new(values)) }
    }

    /// Rows of the last axis, whatever they are held in, as many as `values` has room for, from that one on; on all threads.
    pub fn rows(&self, first: usize, values: &mut [f32]) {
        let length = self.ty.last();
        row_blocks(values, length, |row, block| fill(&self.numbers, length, first + row, block));
    }

    /// Gives its buffer back where nothing else has it.
    pub fn recycle(self, pool: &Pool) {
        if let Numbers::Float(values) = self.numbers
            && let Ok(values) = Arc::try_unwrap(values)
        {
            pool.give(values);
        }
    }
}

/// Rows of `length` numbers from that one on.
fn fill(numbers: &Numbers, length: usize, first: usize, values: &mut [f32]) {
    let range = first * length..first * length + values.len();
    match numbers {
        Numbers::Float(all) => values.copy_from_slice(&all[range]),
        Numbers::Half(all) => all[range].convert_to_f32_slice(values),
        Numbers::Brain(all) => all[range].convert_to_f32_slice(values),
        Numbers::Coded(codes) => codes.decode_rows(first, values),
        Numbers::Panels(panels) => panels.rows(first, values),
        Numbers::Int(_) => {}
    }
}

/// The numbers in two bytes each, where every one comes back.
fn narrow(values: &[f32]) -> Option<Numbers> {
    // A few tell most weights apart before any buffer is made.
    let some = || values.iter().step_by(values.len() / 64).chain(values.last());
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits();
    if some().all(|&value| same(f16::from_f32(value).to_f32(), value)) {
        let mut stored = vec![f16::ZERO; values.len()];
        let kept = stored.par_chunks_mut(BLOCK).zip(values.par_chunks(BLOCK)).all(|(stored, values)| {
            stored.convert_from_f32_slice(values);
            let mut back = vec![0.0; values.len()];
            stored.convert_to_f32_slice(&mut back);
            back.iter().zip(values).all(|(&back, &value)| same(back, value))
        });
        if kept {
            return Some(Numbers::Half(Arc::new(stored)));
        }
    }
    // A bf16 number is an f32 number that ends in 16 zeros.
    let whole = |value: &f32| value.to_bits() & 0xffff == 0;
    if !some().all(whole) || !values.par_chunks(BLOCK).all(|values| values.iter().all(whole)) {
        return None;
    }
    let stored = values.iter().map(|value| bf16::from_bits((value.to_bits() >> 16) as u16)).collect();
    Some(Numbers::Brain(Arc::new(stored)))
}

/// Rounds to f16: nearest, ties to even.
fn round(values: &mut [f32]) {
    let mut stored = [f16::ZERO; 512];
    for values in values.chunks_mut(stored.len()) {
        let stored = &mut stored[..values.len()];
        stored.convert_from_f32_slice(values);
        stored.convert_to_f32_slice(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(of: impl Fn(usize) -> f32) -> Value {
        Value::weight(Tensor::f32([LARGE + 7], (0..LARGE + 7).map(of).collect()))
    }

    #[test]
    fn narrow_weights_come_back() {
        let half = weight(|at| f16::from_f32(at as f32 * 0.37).to_f32());
        let brain = weight(|at| bf16::from_f32(at as f32 * 1e9).to_f32());
        let full = weight(|at| at as f32 * 0.37);
        assert!(matches!(half.numbers, Numbers::Half(_)));
        assert!(matches!(brain.numbers, Numbers::Brain(_)));
        assert!(matches!(full.numbers, Numbers::Float(_)));
        let pool = Pool::default();
        assert_eq!(half.widened(&pool).values()[3], f16::from_f32(3.0 * 0.37).to_f32());
        assert_eq!(brain.widened(&pool).values()[5], bf16::from_f32(5e9).to_f32());
    }

    #[test]
    fn rounds_as_half_does() {
        let values: Vec<f32> = (0..3000).map(|at| (at as f32 - 1500.0) * 0.123_456).collect();
        let ty = TensorType::new(DType::F16, [values.len()]);
        let rounded = Value::float(ty, values.clone().into());
        let expected: Vec<f32> = values.iter().map(|&value| f16::from_f32(value).to_f32()).collect();
        assert_eq!(rounded.values(), expected);
    }
}
