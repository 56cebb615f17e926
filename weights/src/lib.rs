//! Runs weight recipes: the only code that reads checkpoint bytes.
//!
//! A [`Store`] knows where each tensor of a part lies. [`Store::read`] runs a recipe into a [`Tensor`];
//! [`Store::stream`] runs it into bytes, block by block, so that no weight is ever held whole unless its layout
//! changes.

pub mod quantize;
mod read;
mod store;
mod table;
mod tensor;

pub use read::transpose;
pub use store::{Region, Store};
pub use tensor::{Data, Tensor};
