//! The numeric half of quantization: functions over slices, which know no graph and read no file.

mod histogram;
mod kmeans;

pub use histogram::{Histogram, nearest, nearest_table};
pub use kmeans::{Clusters, kmeans};
