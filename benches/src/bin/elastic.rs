//! `cargo run --release -p snapc-benches --bin elastic`: what an elastic store of the paper's three subnets costs beside the widest one alone,
//! and how long a subnet takes to be assembled. Prints the table of benches/README.md.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;
use snapc_assemble::Store;
use snapc_benches::{pipeline, told};
use snapc_driver::{CompileOptions, Device, MinOs, Part, QuantizeChoice, Silent, Target, When, Width};
use snapc_ir::{Encoding, Error, Result};

/// Measures elastic stores.
#[derive(Parser)]
struct Options {
    /// Where models are written
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
    /// The model: paper, tenth or mini
    #[arg(long, default_value = "paper")]
    config: String,
    /// Only this target
    #[arg(long)]
    target: Option<String>,
}

fn main() -> ExitCode {
    told(table(&Options::parse()))
}

fn table(options: &Options) -> Result<String> {
    let mut text =
        "| | tiny, MB | + small | + full | of full alone | store, s | assemble full, s | of cp |\n"
            .to_string();
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for target in Target::ALL
        .into_iter()
        .filter(|target| options.target.as_ref().is_none_or(|name| name == target.name()))
    {
        for encoding in [None, Some("int4 group 32")] {
            text.push_str(&row(options, target, encoding)?);
        }
    }
    Ok(text)
}

fn row(options: &Options, target: Target, encoding: Option<&str>) -> Result<String> {
    let compiled = options.folder.join("elastic-compiled");
    let folders = compile(options, target, encoding, &compiled)?;
    let place = options.folder.join("elastic");
    let rebuilt = options.folder.join("elastic-full");
    for folder in [&place, &rebuilt] {
        let _ = std::fs::remove_dir_all(folder);
    }
    std::fs::create_dir_all(&place).map_err(|error| Error::io("make", &place, &error))?;
    let started = Instant::now();
    let elastic = snapc_driver::elastic_store(&folders, &place, 256 << 20, &mut Silent)?;
    let stored = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let mut store = Store::open(&place).map_err(Error::bug)?;
    store.assemble("full", &rebuilt, &mut |_| {}).map_err(Error::bug)?;
    let assembled = started.elapsed().as_secs_f64();
    let copied = copy(&rebuilt)?;
    let mb: Vec<f64> = elastic.subnets.iter().map(|subnet| subnet.download_bytes as f64 / 1e6).collect();
    for folder in [&place, &rebuilt, &compiled] {
        let _ = std::fs::remove_dir_all(folder);
    }
    Ok(format!(
        "| {} {} | {:.0} | {:.0} | {:.0} | {:.4} | {stored:.1} | {assembled:.1} | {:.1} |\n",
        target.name(),
        encoding.map_or("f16".to_string(), |encoding| encoding.replace(" group 32", " in blocks of 32")),
        mb[0],
        mb[1],
        mb[2],
        elastic.ratio(),
        assembled / copied,
    ))
}

fn compile(options: &Options, target: Target, encoding: Option<&str>, output: &Path) -> Result<Vec<PathBuf>> {
    let _ = std::fs::remove_dir_all(output);
    let subnet = |name: &str| Width::Subnet(name.to_string());
    let from = pipeline(&options.config, &options.folder)?;
    let mut compile = CompileOptions::new(from, subnet("tiny"), target, output.to_path_buf());
    compile.widths.extend(["small", "full"].map(subnet));
    compile.parts = vec![Part::Transformer];
    compile.min_os = MinOs::Ios18;
    // The Neural Engine takes no weight file of 3 GB.
    compile.device = (target == Target::CoreMl).then_some(Device::Gpu);
    if let Some(text) = encoding {
        let encoding: Encoding = text.parse().map_err(Error::usage)?;
        let choice = QuantizeChoice { encoding, rank: 0, activations: false };
        compile.quantization.parts.insert(Part::Transformer, choice);
        compile.quantization.accuracy = When::Off;
    }
    Ok(snapc_driver::compile(&compile, &mut Silent)?.into_iter().map(|compiled| compiled.folder).collect())
}

/// The time of `cp` of a folder.
fn copy(folder: &Path) -> Result<f64> {
    let to = folder.with_extension("copy");
    let started = Instant::now();
    let done = Command::new("cp").arg("-r").args([folder, &to]).status();
    let time = started.elapsed().as_secs_f64();
    let _ = std::fs::remove_dir_all(&to);
    match done {
        Ok(status) if status.success() => Ok(time),
        _ => Err(Error::bug("cp failed")),
    }
}
