//! What the tests share: fixtures, golden tensors, measures of error.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use snapc_weights::Tensor;

/// A path under `fixtures/`.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(path).canonicalize().unwrap()
}

/// All tensors of a safetensors file, as f32 or i32.
pub fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    parsed
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let shape = view.shape().to_vec();
            let words = |size: usize| view.data().chunks_exact(size);
            let tensor = match view.dtype() {
                Dtype::F32 => {
                    Tensor::f32(shape, words(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
                }
                Dtype::I32 => {
                    Tensor::i32(shape, words(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect())
                }
                Dtype::I64 => Tensor::i32(
                    shape,
                    words(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as i32).collect(),
                ),
                other => panic!("{name} is {other:?}"),
            };
            (name, tensor)
        })
        .collect()
}

/// Entry `index` of a tensor's first axis, which stays with size 1.
pub fn entry(tensor: &Tensor, index: usize) -> Tensor {
    let mut shape = tensor.ty.shape.clone();
    let size: usize = shape[1..].iter().product();
    shape[0] = 1;
    match &tensor.data {
        snapc_weights::Data::F32(values) => Tensor::f32(shape, values[index * size..][..size].to_vec()),
        snapc_weights::Data::I32(values) => Tensor::i32(shape, values[index * size..][..size].to_vec()),
    }
}

/// `|found - expected| / |expected|` in the 2-norm; NaN anywhere is NaN, which fails every bound.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f64| x * x;
    let error: f64 = found.iter().zip(expected).map(|(f, e)| square(f64::from(*f) - f64::from(*e))).sum();
    let norm: f64 = expected.iter().map(|&e| square(f64::from(e))).sum();
    if norm == 0.0 { error.sqrt() } else { (error / norm).sqrt() }
}

/// The largest difference.
pub fn largest_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(f, e)| f64::from((f - e).abs())).fold(0.0, f64::max)
}

/// Fails unless within the relative error.
#[track_caller]
pub fn assert_close(what: &str, found: &Tensor, expected: &Tensor, bound: f64) {
    assert_eq!(found.ty.count(), expected.ty.count(), "{what}");
    let error = relative_error(found.values(), expected.values());
    assert!(error <= bound, "{what}: relative error {error:e}, bound {bound:e}");
}
