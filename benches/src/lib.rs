//! What benchmarks share: models to measure, and graphs to hold others against.

mod floor;
mod models;

use std::path::PathBuf;
use std::process::ExitCode;

use snapc_ir::Result;

pub use floor::floor;
pub use models::{Tenth, pipeline, write};

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

/// The largest resident memory of this process, in MB; 0 where the system does not say.
pub fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or_default() / 1024.0
}

/// Prints what was measured, or why it was not.
pub fn told(measured: Result<String>) -> ExitCode {
    match measured {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
