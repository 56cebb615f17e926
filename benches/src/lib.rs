//! What benchmarks share: models to measure, and graphs to hold others against.

mod floor;
mod models;

use std::path::PathBuf;

pub use floor::floor;
pub use models::{Tenth, made, write};

/// What every benchmark can be told.
#[derive(clap::Args)]
pub struct Common {
    /// A Python that has onnxruntime and ai-edge-litert: the tests make one
    #[arg(long, default_value = "target/python/bin/python")]
    pub python: PathBuf,
    /// Rounds; the least of all is taken
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Where models are written
    #[arg(long, default_value = "target/bench")]
    pub folder: PathBuf,
}
