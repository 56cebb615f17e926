//! Placeholder.
mod error;
pub mod pipeline;
pub use error::{Class, Context, Error, Place, Result};
