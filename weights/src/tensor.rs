use half::f16;
use snapc_ir::{DType, TensorType};

/// The numbers of a [`Tensor`]. Floating-point numbers are held as f32, those of an f16 tensor being already rounded.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Numbers of an f32 or f16 tensor.
    F32(Vec<f32>),
    /// Numbers of an i32 tensor.
    I32(Vec<i32>),
}

/// Numbers and their type, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Element type and sizes.
    pub ty: TensorType,
    /// The numbers, row-major.
    pub data: Data,
}

impl Tensor {
    /// A floating-point tensor; the numbers of an f16 one are rounded here.
    pub fn float(ty: TensorType, mut values: Vec<f32>) -> Self {
        debug_assert_eq!(values.len(), ty.count());
        round(ty.dtype, &mut values);
        Tensor { ty, data: Data::F32(values) }
    }

    /// An f32 tensor.
    pub fn f32(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Self {
        Tensor::float(TensorType::new(DType::F32, shape), values)
    }

    /// An i32 tensor.
    pub fn i32(shape: impl Into<Vec<usize>>, values: Vec<i32>) -> Self {
        let ty = TensorType::new(DType::I32, shape);
        debug_assert_eq!(values.len(), ty.count());
        Tensor { ty, data: Data::I32(values) }
    }

    /// The numbers as f32; empty for an i32 tensor.
    pub fn values(&self) -> &[f32] {
        match &self.data {
            Data::F32(values) => values,
            Data::I32(_) => &[],
        }
    }

    /// The numbers as i32; empty for a floating-point tensor.
    pub fn integers(&self) -> &[i32] {
        match &self.data {
            Data::F32(_) => &[],
            Data::I32(values) => values,
        }
    }
}

/// Rounds numbers to what `dtype` can hold: nearest, ties to even.
pub(crate) fn round(dtype: DType, values: &mut [f32]) {
    if dtype == DType::F16 {
        values.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
    }
}
