//! The numeric half of quantization: functions over slices, which know no graph and read no file.

mod histogram;
mod kmeans;
mod pack;
mod scales;

pub use histogram::{Histogram, nearest, nearest_table};
pub use kmeans::{Clusters, kmeans};
pub use pack::{pack, pack_int4, unpack, unpack_int4};
pub use scales::{Levels, decode, plain_scale, scale_error, search_scale};

/// Stand-ins until the real ones are here.
pub fn gptq(_: &[f32], _: &[f32], _: usize, _: Levels) -> snapc_ir::Result<(Vec<i8>, Vec<half::f16>)> {
    Err(snapc_ir::Error::bug("gptq"))
}
#[allow(missing_docs)]
pub fn gptq_palette(_: &[f32], _: &[f32], _: &[half::f16]) -> snapc_ir::Result<Vec<u8>> {
    Err(snapc_ir::Error::bug("gptq"))
}
#[allow(missing_docs)]
pub fn low_rank(
    _: &[f32],
    _: [usize; 2],
    _: usize,
    _: Option<&[f32]>,
) -> snapc_ir::Result<(Vec<f32>, Vec<f32>)> {
    Err(snapc_ir::Error::bug("low_rank"))
}
