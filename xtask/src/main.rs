//! `cargo run -p xtask -- supernet --config paper -o target/paper`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::model::{CONFIGS, Config};
use xtask::supernet;

/// Makes what tests and benchmarks need and no repository holds.
#[derive(Parser)]
struct Tasks {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write a pipeline folder with random weights
    #[command(
        after_help = "Example:\n  cargo run --release -p xtask -- supernet --config paper -o target/paper"
    )]
    Supernet {
        /// Its size: paper (1.58 B), tenth (the same with a tenth of the blocks) or mini
        #[arg(long, value_parser = config)]
        config: Config,
        /// Weights that are zeros and take no disk
        #[arg(long)]
        sparse: bool,
        /// The folder
        #[arg(long, short, value_name = "DIR")]
        output: PathBuf,
    },
}

fn config(name: &str) -> Result<Config, String> {
    let names: Vec<&str> = CONFIGS.iter().map(|config| config.name).collect();
    CONFIGS
        .into_iter()
        .find(|config| config.name == name)
        .ok_or_else(|| format!("there is no such config; they are {}", names.join(", ")))
}

fn main() -> ExitCode {
    let Task::Supernet { config, sparse, output } = Tasks::parse().task;
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/shapes");
    match supernet(&config, &template, &output, sparse) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}: {error}", output.display());
            ExitCode::FAILURE
        }
    }
}
