//! The numeric half of quantization: functions over slices, which know no graph and read no file.
//!
//! [`Histogram`] and [`kmeans`] make palettes, [`plain_scale`] and [`search_scale`] the scales of integer groups,
//! [`gptq_palette`] and [`gptq_integers`] codes that make good each other's errors, [`low_rank`] what
//! is left of them, and [`Packer`] the bytes of codes.

mod gptq;
mod histogram;
mod kmeans;
mod low_rank;
mod pack;
mod scales;

pub use gptq::{Feedback, Integers, gptq_integers, gptq_palette};
pub use histogram::{Histogram, nearest, nearest_table};
pub use kmeans::{Clusters, kmeans};
pub use low_rank::{LowRank, low_rank};
pub use pack::{Packer, pack, pack_int4, packed_len, unpack, unpack_int4};
pub(crate) use pack::{signed_nibbles, unpacked};
pub use scales::{Levels, decode, plain_scale, scale_error, search_scale};
