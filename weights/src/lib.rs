//! Runs weight recipes: the only code that reads checkpoint bytes.
//!
//! A [`Store`] knows where each tensor of a part lies. [`Store::read`] runs a recipe into a [`Tensor`];
//! [`Store::stream`] runs it into bytes, block by block, so that no weight is ever held whole unless its layout
//! changes. [`Store::encode`] runs that of a quantized one into codes, with the numerics of [`quantize`].

mod codes;
mod encode;
mod hash;
mod pipeline;
pub mod quantize;
mod read;
mod statistics;
mod store;
mod stream;
mod table;
mod tensor;
mod transpose;

pub use codes::Codes;
pub use encode::Encoded;
pub use hash::{Sha256, hexadecimal};
pub use pipeline::{Limits, Make, Take, in_order};
pub use statistics::{Moments, Statistics};
pub use store::{Coding, Region, Store};
pub use stream::{Scratch, Stored};
pub use tensor::{Data, Tensor};
pub use transpose::transpose;
