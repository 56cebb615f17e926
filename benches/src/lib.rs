//! What benchmarks share: graphs to hold others against.

mod floor;

pub use floor::floor;
