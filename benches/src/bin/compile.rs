//! `cargo run --release -p snapc-benches --bin compile`: what a compile of the paper's supernet costs against reading, hashing and copying
//! the same bytes. Prints the table of benches/README.md.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::json;
use snapc_benches::{pipeline, told};
use snapc_driver::{CompileOptions, Device, MinOs, Part, QuantizeChoice, Silent, Target, When, Width};
use snapc_ir::{Encoding, Error, Result};

/// Measures compiles against sha256sum and cp.
#[derive(Parser)]
struct Options {
    /// Where models are written
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
    /// Rounds; the least CPU time and the least time of the clock are taken, and the largest memory
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only compiles, in this process, one of the works by its number, and prints JSON
    #[arg(long)]
    only: Option<usize>,
}

/// One compile and its bars.
struct Work {
    subnet: &'static str,
    target: Target,
    encoding: Option<&'static str>,
    /// CPU time over that of sha256sum of the bytes written, or of the f16 bytes of the subnet, which are those read.
    hashes: f64,
    /// Time of the clock over that of cp of the bytes written.
    copies: Option<f64>,
}

fn works() -> Vec<Work> {
    let plain = |subnet, target| Work { subnet, target, encoding: None, hashes: 1.5, copies: Some(3.0) };
    let coded = |target, encoding, hashes| Work {
        subnet: "small",
        target,
        encoding: Some(encoding),
        hashes,
        copies: None,
    };
    let mut works: Vec<Work> = ["small", "full"]
        .into_iter()
        .flat_map(|subnet| Target::ALL.map(|target| plain(subnet, target)))
        .collect();
    for encoding in ["int8", "int4 group 32"] {
        works.extend(Target::ALL.map(|target| coded(target, encoding, 3.0)));
    }
    works.push(coded(Target::CoreMl, "palette4", 8.0));
    works
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    cpu: f64,
    wall: f64,
    peak_mb: f64,
    bytes: f64,
}

#[derive(Serialize, Deserialize)]
struct Only {
    peak_mb: f64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    told(match options.only {
        Some(number) => only(&options, number),
        None => compare(&options),
    })
}

fn output(options: &Options) -> PathBuf {
    options.folder.join("compiled")
}

fn only(options: &Options, number: usize) -> Result<String> {
    let works = works();
    let work = works.get(number).ok_or_else(|| Error::usage(format!("there is no work {number}")))?;
    let width = Width::Subnet(work.subnet.to_string());
    let mut compile =
        CompileOptions::new(pipeline("paper", &options.folder)?, width, work.target, output(options));
    compile.parts = vec![Part::Transformer];
    compile.min_os = MinOs::Ios18;
    // The Neural Engine takes no weight file of 3 GB.
    compile.device = (work.target == Target::CoreMl).then_some(Device::Gpu);
    if let Some(text) = work.encoding {
        let encoding: Encoding = text.parse().map_err(Error::usage)?;
        let choice = QuantizeChoice { encoding, rank: 0, activations: false };
        compile.quantization.parts.insert(Part::Transformer, choice);
        compile.quantization.accuracy = When::Off;
    }
    snapc_driver::compile(&compile, &mut Silent)?;
    Ok(json!(Only { peak_mb: snapc_benches::peak_mb() }).to_string())
}

fn compare(options: &Options) -> Result<String> {
    pipeline("paper", &options.folder)?;
    let this = std::env::current_exe().map_err(|error| Error::io("find", Path::new("compile"), &error))?;
    let mut text =
        "| | bytes written, MB | CPU s | of sha256sum | bar | s | of cp | bar | peak MB |\n".to_string();
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    let mut read = f64::NAN;
    for (number, work) in works().iter().enumerate() {
        let mut best = [Cost { cpu: f64::INFINITY, wall: f64::INFINITY, peak_mb: 0.0, bytes: 0.0 }; 3];
        for _ in 0..options.rounds {
            let folder = output(options);
            let _ = std::fs::remove_dir_all(&folder);
            let mut command = Command::new(&this);
            command.arg("--folder").arg(&options.folder).args(["--only", &number.to_string()]);
            let (mut ours, stdout) = timed(&mut command)?;
            let only: Only = serde_json::from_slice(&stdout).map_err(Error::bug)?;
            (ours.peak_mb, ours.bytes) = (only.peak_mb, bytes_of(&folder) as f64);
            let files = files_of(&folder);
            let (hash, _) = timed(Command::new("sha256sum").args(&files))?;
            let copy = options.folder.join("copy");
            let _ = std::fs::remove_dir_all(&copy);
            let (copied, _) = timed(Command::new("cp").arg("-r").args([&folder, &copy]))?;
            let _ = std::fs::remove_dir_all(&copy);
            for (best, cost) in best.iter_mut().zip([ours, hash, copied]) {
                best.cpu = best.cpu.min(cost.cpu);
                best.wall = best.wall.min(cost.wall);
                best.peak_mb = best.peak_mb.max(cost.peak_mb);
                best.bytes = best.bytes.max(cost.bytes);
            }
        }
        let [ours, hash, copy] = best;
        // What is read of `small` is what its f16 file holds.
        if work.encoding.is_none() && work.subnet == "small" {
            read = hash.cpu;
        }
        let hashed = if work.encoding.is_some() { read } else { hash.cpu };
        let copies = work.copies.map_or(String::new(), |bar| format!("{bar}"));
        text.push_str(&format!(
            "| {} {} {} | {:.0} | {:.2} | {:.2} | {} | {:.2} | {:.2} | {copies} | {:.0} |\n",
            work.target.name(),
            work.subnet,
            work.encoding.unwrap_or("f16"),
            ours.bytes / 1e6,
            ours.cpu,
            ours.cpu / hashed,
            work.hashes,
            ours.wall,
            ours.wall / copy.wall,
            ours.peak_mb,
        ));
    }
    let _ = std::fs::remove_dir_all(output(options));
    Ok(text)
}

/// Runs a program to its end: the CPU time that it took, of all its threads, and that of the clock.
fn timed(command: &mut Command) -> Result<(Cost, Vec<u8>)> {
    let (before, start) = (children()?, Instant::now());
    let done = command.output();
    let path = PathBuf::from(command.get_program());
    let done = done.map_err(|error| Error::io("start", &path, &error))?;
    let wall = start.elapsed().as_secs_f64();
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(Error::input(format!("{}: {said}", path.display())));
    }
    Ok((Cost { cpu: children()? - before, wall, peak_mb: 0.0, bytes: 0.0 }, done.stdout))
}

/// CPU seconds of all children that ended, in hundredths (proc(5), `cutime` and `cstime`).
fn children() -> Result<f64> {
    let path = Path::new("/proc/self/stat");
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?;
    // The name before may hold spaces.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let of = |field: usize| fields.get(field).and_then(|word| word.parse::<f64>().ok()).unwrap_or_default();
    Ok((of(13) + of(14)) / 100.0)
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(files_of(&path)) } else { files.push(path) }
    }
    files
}

fn bytes_of(folder: &Path) -> u64 {
    files_of(folder).iter().filter_map(|path| path.metadata().ok()).map(|data| data.len()).sum()
}
