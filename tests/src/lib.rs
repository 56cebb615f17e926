//! What the tests share: fixtures, golden tensors, measures of error.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use snapc_driver::{Bake, CompileOptions, Precision, Target, Width};
use snapc_ir::{Error, Graph};
use snapc_weights::{Data, Tensor};

pub mod fuzz;
pub mod runtimes;
pub mod shapes;
pub mod synthetic;

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
        Data::F32(values) => Tensor::f32(shape, values[index * size..][..size].to_vec()),
        Data::I32(values) => Tensor::i32(shape, values[index * size..][..size].to_vec()),
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

/// Writes f32 and i32 tensors as a safetensors file.
pub fn tensor_file(path: &Path, tensors: &[(&str, &Tensor)]) {
    let bytes: Vec<(Dtype, Vec<u8>)> = tensors
        .iter()
        .map(|(_, tensor)| match &tensor.data {
            Data::F32(values) => (Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Data::I32(values) => (Dtype::I32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, tensor), (dtype, bytes))| {
        (*name, TensorView::new(*dtype, tensor.ty.shape.clone(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A compile of the trained fixture for one target: all subnets and parts, without the schedule.
pub fn compile_options(target: Target, precision: Precision, output: &Path) -> CompileOptions {
    let widths = ["tiny", "small", "full"].map(|name| Width::Subnet(name.to_string()));
    CompileOptions {
        precision,
        bake: Some(Bake::None),
        widths: widths.to_vec(),
        ..CompileOptions::new(fixture("shapes"), widths[0].clone(), target, output.to_path_buf())
    }
}

/// Numbers in [-2, 2) that depend on the seed alone.
pub fn numbers(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let count: usize = shape.iter().product();
    let values = (0..count).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 * 4.0 - 2.0
    });
    Tensor::f32(shape.to_vec(), values.collect())
}

/// Copies a folder.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The interpreter for passes that ask nothing of it.
pub fn no_numbers(_: &Graph, _: &[Vec<f32>]) -> snapc_ir::Result<Vec<Vec<Vec<f32>>>> {
    Err(Error::bug("a pass asks for numbers that it was not meant to need"))
}

/// Every file under a folder with its bytes, in the order of their paths.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                all.insert(path.strip_prefix(folder).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

/// Peak signal-to-noise ratio of an image in [-1, 1] (clamped), in dB.
pub fn psnr(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square =
        |(f, e): (&f32, &f32)| (f64::from(f.clamp(-1.0, 1.0)) - f64::from(e.clamp(-1.0, 1.0))).powi(2);
    let mean = found.iter().zip(expected).map(square).sum::<f64>() / found.len() as f64;
    10.0 * (4.0 / mean).log10()
}
