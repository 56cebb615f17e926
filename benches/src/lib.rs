//! What benchmarks share: models to measure, and graphs to hold others against.

mod floor;
mod models;

pub use floor::floor;
pub use models::{Tenth, write};
