//! `cargo run --release -p snapc-benches --bin quantize`: what weights stored as codes cost in ONNX Runtime and in LiteRT against f32,
//! and how near the pictures of the trained fixture stay, against what others round to. Prints the tables of benches/README.md.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, ValueEnum};
use serde::Deserialize;
use snapc_benches::{Common, Tenth, pipeline, write};
use snapc_driver::{
    Accuracy, Bake, CalibrateOptions, CompileOptions, Compiled, MomentsKind, Part, Precision, QuantizeChoice,
    QuantizeOptions, Silent, Target, When, Width, calibrate, compile, measure_accuracy,
};
use snapc_ir::{Error, Graph, Result};

/// Measures weights stored as codes.
#[derive(Parser)]
struct Options {
    /// Print one table only
    #[arg(long)]
    only: Option<Table>,
    #[command(flatten)]
    common: Common,
    /// A Python that has coremltools, scikit-learn (1.5.1 at most), onnxruntime and safetensors
    #[arg(long, default_value = "target/peers/bin/python")]
    peers: PathBuf,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Table {
    /// Time in the runtimes, and bytes.
    Latency,
    /// Pictures, against what others round to.
    Accuracy,
    /// What methods gain on random weights.
    Methods,
}

/// How the transformer's weights are stored, for the times; the first is what others are held against.
const STORED: [(&str, Option<&str>); 4] =
    [("f32", None), ("int8", Some("int8")), ("w8a8", Some("w8a8")), ("int4 group 32", Some("int4 group 32"))];

/// Runtimes, with the accuracy level that ONNX Runtime is asked for.
const RUNTIMES: [(&str, Target, Option<&str>); 3] = [
    ("ONNX Runtime", Target::Onnx, None),
    ("ONNX Runtime, accuracy level 1", Target::Onnx, Some("1")),
    ("LiteRT", Target::TfLite, None),
];

/// What snapc stores the fixture's layers as, for the pictures.
const OURS: [&str; 9] = [
    "int8",
    "int4 group 32",
    "int4 group 32 awq",
    "int4 group 32 rank 4",
    "int4 group 32 gptq",
    "palette6",
    "palette6 gptq",
    "palette4",
    "palette4 gptq",
];

/// What the layers of the *mini* config are stored as, for what methods gain; what the first of each kind gives is what others are held
/// against.
const METHODS: [&[&str]; 3] = [
    &[
        "int4 group 32",
        "int4 group 32 awq",
        "int4 group 32 gptq",
        "int4 group 32 rank 8",
        "int4 group 32 gptq rank 8",
    ],
    &["palette4", "palette4 awq", "palette4 gptq"],
    &["int8", "int8 gptq", "w8a8"],
];

/// What others round the same tensors to: the word of peers.py, and the choice of ours that says which tensors and how many bits.
const PEERS: [(&str, &str); 9] = [
    ("coremltools-int8", "int8"),
    ("onnxruntime-int8", "int8"),
    ("onnxruntime-int8-channel", "int8"),
    ("coremltools-int4", "int4 group 32"),
    ("onnxruntime-int4", "int4 group 32"),
    ("onnxruntime-int4-asymmetric", "int4 group 32"),
    ("onnxruntime-int4-k_quant", "int4 group 32"),
    ("coremltools-palette", "palette6"),
    ("coremltools-palette", "palette4"),
];

/// The subnet whose weights are used whole: what others round is a tensor of the checkpoint.
const SUBNET: &str = "full";

fn main() -> ExitCode {
    let options = Options::parse();
    let asked = |table| options.only.is_none_or(|only| only == table);
    let latency = if asked(Table::Latency) { latency(&options) } else { Ok(()) };
    let done = latency
        .and_then(|()| if asked(Table::Methods) { methods(&options) } else { Ok(()) })
        .and_then(|()| if asked(Table::Accuracy) { accuracy(&options) } else { Ok(()) });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// CPU milliseconds of a run.
#[derive(Deserialize)]
struct Cost {
    ms: f64,
}

fn latency(options: &Options) -> Result<()> {
    let tenth = Tenth::open(&options.common.folder)?;
    let mut files: BTreeMap<(&str, &str), PathBuf> = BTreeMap::new();
    for (name, choice) in STORED {
        for target in [Target::Onnx, Target::TfLite] {
            let coded = choice.map(|text| tenth.coded(parsed(text)?, target)).transpose()?;
            let graph: &Graph = coded.as_ref().unwrap_or(&tenth.velocity);
            let path =
                options.common.folder.join(format!("velocity_{}.{}", name.replace(' ', "_"), target.name()));
            write(graph, target, &tenth.store, &path)?;
            files.insert((name, target.name()), path);
        }
    }
    let mut least: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for round in 1..=options.common.rounds {
        for (runtime, target, level) in RUNTIMES {
            for (name, _) in STORED {
                let Some(path) = files.get(&(name, target.name())) else { continue };
                let ms = run_model(options, target, path, level)?;
                eprintln!("round {round}: {runtime}, {name}: {ms:.0} ms");
                let known = least.entry((runtime, name)).or_insert(ms);
                *known = known.min(ms);
            }
        }
    }
    println!(
        "| | f32: CPU ms | int8 | int8 / f32 | w8a8 | w8a8 / f32 | int4 group 32 | int4 / f32 | bytes: int8 / f32 | int4 / f32 |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (runtime, target, _) in RUNTIMES {
        let ms = |number: usize| least.get(&(runtime, STORED[number].0)).copied().unwrap_or(f64::NAN);
        let bytes =
            STORED.map(|(name, _)| files.get(&(name, target.name())).map_or(0, |path| bytes_of(path)));
        let share = |number: usize| bytes[number] as f64 / bytes[0] as f64;
        let [plain, eight, both, four] = [0, 1, 2, 3].map(ms);
        println!(
            "| {runtime} | {plain:.0} | {eight:.0} | {:.3} | {both:.0} | {:.3} | {four:.0} | {:.3} | {:.3} | {:.3} |",
            eight / plain,
            both / plain,
            four / plain,
            share(1),
            share(3)
        );
    }
    Ok(())
}

fn parsed(text: &str) -> Result<QuantizeChoice> {
    text.parse().map_err(|error| Error::bug(format!("{text}: {error}")))
}

/// The bytes of a file, or of all in a folder.
fn bytes_of(path: &Path) -> u64 {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| bytes_of(&entry.path())).sum(),
        Err(_) => path.metadata().map_or(0, |facts| facts.len()),
    }
}

fn run_model(options: &Options, target: Target, path: &Path, level: Option<&str>) -> Result<f64> {
    let model = if target == Target::Onnx { path.join("model.onnx") } else { path.to_path_buf() };
    let mut command = script(&options.common.python, "measure.py");
    command.arg(target.name()).arg(&model).args(["3", "1"]).args(level);
    let cost: Cost = serde_json::from_str(&output(&mut command)?)
        .map_err(|error| Error::input(format!("{}: {error}", model.display())))?;
    Ok(cost.ms)
}

fn script(python: &Path, name: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(name));
    command
}

/// What a program prints.
fn output(command: &mut Command) -> Result<String> {
    let program = PathBuf::from(command.get_program());
    let done = command.output().map_err(|error| {
        Error::io("start", &program, &error).help("benches/README.md says how it is made")
    })?;
    if !done.status.success() {
        return Err(Error::input(format!(
            "{}: {}",
            program.display(),
            String::from_utf8_lossy(&done.stderr)
        )));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/shapes")
}

fn accuracy(options: &Options) -> Result<()> {
    let calibration = options.common.folder.join("full.calibration");
    let measured = CalibrateOptions {
        moments: MomentsKind::Full,
        ..CalibrateOptions::new(fixture(), Width::Subnet(SUBNET.to_string()), calibration.clone())
    };
    calibrate(&measured, &mut Silent)?;
    let mut stored: BTreeMap<&str, Vec<(String, String)>> = BTreeMap::new();
    println!("| | bits a weight | PSNR, dB: mean | least |\n| --- | --- | --- | --- |");
    for text in OURS {
        let quantization = QuantizeOptions {
            parts: BTreeMap::from([(Part::Transformer, parsed(text)?)]),
            accuracy: When::On,
            calibration: vec![calibration.clone()],
            ..QuantizeOptions::default()
        };
        // ONNX has no look-up tables.
        let target = if text.starts_with("palette") { Target::CoreMl } else { Target::Onnx };
        let done = compiled(fixture(), quantization, target, None, &options.common.folder.join("ours"))?;
        let found = done.accuracy.ok_or_else(|| Error::bug("no accuracy was measured"))?;
        let layers = found.layers.iter();
        stored.insert(text, layers.map(|one| (one.tensor.clone(), one.encoding.clone())).collect());
        line(&format!("snapc {text}"), found.bits(), &found);
    }
    let copy = options.common.folder.join("peer");
    copy_folder(&fixture(), &copy)?;
    for (word, ours) in PEERS {
        let tensors = stored.get(ours).ok_or_else(|| Error::bug(format!("{ours} was not measured")))?;
        let (bits, found) = peer(options, word, tensors, &copy)?;
        line(&format!("{word}, the tensors of {ours}"), bits, &found);
    }
    Ok(())
}

/// The error of the velocity of random weights, by method.
fn methods(options: &Options) -> Result<()> {
    const MINI: &str = "mini";
    /// Prompts and steps: random weights draw nothing that more of them would tell apart.
    const PROMPTS: [&str; 4] =
        ["a red circle", "two blue squares", "a green star above a cross", "a yellow triangle"];
    let (steps, count) = (Some(4), Some(8));
    let folder = pipeline(MINI, &options.common.folder)?;
    let list = folder.join("verify_prompts.txt");
    std::fs::write(&list, PROMPTS.join("\n")).map_err(|error| Error::io("write", &list, &error))?;
    let calibration = options.common.folder.join("mini.calibration");
    let measured = CalibrateOptions {
        moments: MomentsKind::Full,
        steps,
        count,
        ..CalibrateOptions::new(folder.clone(), Width::Subnet(SUBNET.to_string()), calibration.clone())
    };
    calibrate(&measured, &mut Silent)?;
    println!(
        "| | bits a weight | relative error of the velocity | of the first |\n| --- | --- | --- | --- |"
    );
    for kind in METHODS {
        let mut first = None;
        for text in kind {
            let quantization = QuantizeOptions {
                parts: BTreeMap::from([(Part::Transformer, parsed(text)?)]),
                accuracy: When::On,
                calibration: vec![calibration.clone()],
                ..QuantizeOptions::default()
            };
            let target = if text.starts_with("palette") { Target::CoreMl } else { Target::Onnx };
            let done = compiled(
                folder.clone(),
                quantization,
                target,
                steps,
                &options.common.folder.join("methods"),
            )?;
            let found = done.accuracy.ok_or_else(|| Error::bug("no accuracy was measured"))?;
            let steps = || found.steps.iter().filter(|loss| loss.step.is_some());
            let error = steps().map(|loss| loss.relative).sum::<f64>() / steps().count() as f64;
            let of = error / *first.get_or_insert(error);
            println!("| {text} | {:.2} | {error:.4} | {of:.2} |", found.bits());
        }
    }
    Ok(())
}

/// The pictures of a copy of the fixture whose tensors somebody else has rounded, against those of the fixture.
fn peer(options: &Options, word: &str, tensors: &[(String, String)], copy: &Path) -> Result<(f64, Accuracy)> {
    let list = options.common.folder.join("tensors.json");
    let text = serde_json::to_string(tensors).map_err(|error| Error::bug(error.to_string()))?;
    std::fs::write(&list, text).map_err(|error| Error::io("write", &list, &error))?;
    let weights = "transformer/diffusion_pytorch_model.safetensors";
    let mut command = script(&options.peers, "peers.py");
    command.arg(word).arg(&list).arg(fixture().join(weights)).arg(copy.join(weights));
    let printed = output(&mut command)?;
    let last = printed.lines().next_back().and_then(|line| line.parse().ok());
    let bits: f64 = last.ok_or_else(|| Error::input(format!("peers.py printed `{printed}`")))?;
    let done = compiled(
        copy.to_path_buf(),
        QuantizeOptions::default(),
        Target::Onnx,
        None,
        &options.common.folder.join("peers"),
    )?;
    let found = measure_accuracy(&done.folder, &fixture(), true, None, &mut Silent)?;
    found.map(|(accuracy, _)| (bits, accuracy)).ok_or_else(|| Error::bug("no accuracy was measured"))
}

/// A compile in f32, so that what is lost is lost by the codes.
fn compiled(
    pipeline: PathBuf,
    quantization: QuantizeOptions,
    target: Target,
    steps: Option<usize>,
    output: &Path,
) -> Result<Compiled> {
    let width = Width::Subnet(SUBNET.to_string());
    let options = CompileOptions {
        precision: Precision::F32,
        bake: Some(Bake::None),
        steps,
        quantization,
        ..CompileOptions::new(pipeline, width, target, output.to_path_buf())
    };
    compile(&options, &mut Silent)?.pop().ok_or_else(|| Error::bug("nothing was compiled"))
}

fn line(name: &str, bits: f64, accuracy: &Accuracy) {
    let least = accuracy.worst_picture().map_or(f64::NAN, |picture| picture.psnr);
    println!("| {name} | {bits:.2} | {:.2} | {least:.2} |", accuracy.psnr);
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let failed = |error: std::io::Error| Error::io("copy", from, &error);
    std::fs::create_dir_all(to).map_err(failed)?;
    for entry in std::fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target).map_err(failed)?;
        }
    }
    Ok(())
}
