//! `cargo run --release -p snapc-benches --bin interp`: what the interpreter costs against ONNX Runtime on our own artifact: a velocity
//! of the one-tenth-depth `small` on one thread and on all, its memory, and the fixture's whole pipeline. Prints the table of
//! benches/README.md.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::json;
use snapc_backend::legalize;
use snapc_benches::{Common, Tenth, peak_mb, told, write};
use snapc_driver::{
    Bake, Choice, CompileOptions, GenerateOptions, MinOs, Parts, Precision, Ranges, Silent, Target, Width,
};
use snapc_frontends::tokenizer::Tokenizer;
use snapc_frontends::{Part, Pipeline};
use snapc_interp::{Interpreter, Sampling, sample};
use snapc_ir::{Error, Graph, Result};
use snapc_weights::{Store, Tensor};

const PROMPT: &str = "a red circle";

/// Measures the interpreter against ONNX Runtime.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    common: Common,
    /// Only measures one thing in this process, with the threads of RAYON_NUM_THREADS, and prints JSON
    #[arg(long)]
    only: Option<What>,
    /// Prints where the time goes, by kind of op
    #[arg(long)]
    by_op: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum What {
    /// The graph behind the standard passes
    Velocity,
    /// The graph as `snapc run` has it
    Plain,
    /// What `snapc verify` reads back: the graph in ONNX's ops
    Legal,
    /// The fixture's pipeline, prompt to picture
    Pipeline,
}

/// What one run costs.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Cost {
    /// CPU milliseconds.
    #[serde(default)]
    ms: f64,
    /// Milliseconds of the clock.
    wall_ms: f64,
    /// Largest resident memory after the first run, in MB.
    first_mb: f64,
    /// And after all.
    peak_mb: f64,
    /// Milliseconds until models are open, where `wall_ms` leaves them out.
    #[serde(default)]
    open_ms: f64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    told(match options.only {
        Some(what) => only(&options, what),
        None => compare(&options),
    })
}

fn only(options: &Options, what: What) -> Result<String> {
    let (mut walls, mut peaks, mut whole_ms) = (Vec::new(), Vec::new(), f64::INFINITY);
    let mut by_op: BTreeMap<String, Duration> = BTreeMap::new();
    let mut measure = |run: Runs| -> Result<()> {
        for _ in 0..3 {
            let start = Instant::now();
            run()?;
            walls.push(start.elapsed().as_secs_f64() * 1000.0);
            peaks.push(peak_mb());
        }
        Ok(())
    };
    if what == What::Pipeline {
        let options = generate_options(&options.common.folder);
        run_fixture(&options, &mut measure)?;
        for _ in 0..3 {
            let start = Instant::now();
            snapc_driver::generate(&options, &mut Silent)?;
            whole_ms = whole_ms.min(start.elapsed().as_secs_f64() * 1000.0);
        }
    } else {
        let Tenth { plain, velocity, store, .. } = Tenth::open(&options.common.folder)?;
        let graph = match what {
            What::Plain => plain,
            What::Legal => {
                Graph::clone(&*legalize(&velocity, Target::Onnx.backend(MinOs::default()).as_ref())?)
            }
            _ => velocity,
        };
        run_graph(&graph, &store, options.by_op.then_some(&mut by_op), &mut measure)?;
    }
    let wall_ms = walls.iter().copied().fold(f64::INFINITY, f64::min);
    let open_ms = if whole_ms.is_finite() { whole_ms - wall_ms } else { 0.0 };
    let last = peaks.last().copied().unwrap_or_default();
    let mut times: Vec<_> = by_op.into_iter().collect();
    times.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    times.iter().for_each(|(op, time)| eprintln!("{op:60} {:9.2} ms", time.as_secs_f64() * 1000.0));
    let cost = Cost { ms: wall_ms, wall_ms, first_mb: peaks[0], peak_mb: last, open_ms };
    Ok(json!(cost).to_string())
}

/// What is run several times.
type Runs<'r> = &'r mut dyn FnMut() -> Result<()>;

fn run_graph(
    graph: &Graph,
    store: &Store,
    by_op: Option<&mut BTreeMap<String, Duration>>,
    measure: &mut dyn FnMut(Runs) -> Result<()>,
) -> Result<()> {
    let inputs: Vec<(&str, Tensor)> =
        graph.inputs().iter().map(|port| (port.name.as_str(), numbers(graph, port))).collect();
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let interpreter = Interpreter::new(graph, store);
    if let Some(by_op) = by_op {
        interpreter.run(&inputs)?;
        let mut last = Instant::now();
        let mut note = |node: &snapc_ir::Node, results: &[Tensor]| {
            let shapes: Vec<_> = graph.operand_types(node).iter().map(|ty| ty.to_string()).collect();
            let shapes =
                if node.op.is_elementwise() || shapes.len() > 3 { &shapes[..1] } else { &shapes[..] };
            let result = results.first().map(|result| result.ty.to_string()).unwrap_or_default();
            let key = format!("{} {} -> {result}", node.op.name(), shapes.join(" "));
            *by_op.entry(key).or_default() += last.elapsed();
            last = Instant::now();
        };
        // On a thread of the pool, as a run that shows nothing.
        rayon::scope(|_| interpreter.run_observed(&inputs, &mut note))?;
        return measure(&mut || Ok(()));
    }
    measure(&mut || interpreter.run(&inputs).map(|_| ()))?;
    let [planned, least] = interpreter.planned().map(|numbers| numbers as f64 * 4e-6);
    eprintln!("values: {planned:.1} MB planned, {least:.1} MB at most at once");
    Ok(())
}

/// Numbers of the size that noise has.
fn numbers(graph: &Graph, port: &snapc_ir::Port) -> Tensor {
    let ty = graph.ty(port.value).clone();
    let count = ty.count();
    match port.name.as_str() {
        "timestep" => Tensor::float(ty, vec![500.0; count]),
        "text_mask" => Tensor::float(ty, (0..count).map(|at| f32::from(u8::from(at < 20))).collect()),
        _ => Tensor::float(ty, snapc_interp::TorchGenerator::new(0).randn(count)),
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/shapes")
}

fn generate_options(folder: &Path) -> GenerateOptions {
    GenerateOptions {
        pipeline: fixture(),
        prompt: PROMPT.to_string(),
        negative_prompt: None,
        width: Some(Width::Subnet("full".to_string())),
        steps: Some(4),
        guidance: None,
        seed: 0,
        size: None,
        noise: None,
        output: folder.join("picture.png"),
        save_latents: None,
    }
}

/// Draws pictures one after the other with the fixture's networks open, as ONNX Runtime's sessions are: prompt to PNG.
fn run_fixture(options: &GenerateOptions, measure: &mut dyn FnMut(Runs) -> Result<()>) -> Result<()> {
    let choice = Choice { width: options.width.as_ref(), size: options.size, steps: options.steps };
    let parts = Parts::open(&options.pipeline, &choice)?;
    let [text_encoder, transformer, vae_decoder] = Part::ALL.map(|part| parts.network(part).runner());
    let shape = &parts.latent_shape;
    let drawn = snapc_interp::TorchGenerator::new(options.seed).randn(shape.iter().product());
    let noise = Tensor::f32(shape.clone(), drawn);
    measure(&mut || {
        let encoded = parts.tokenizer.encode(&options.prompt)?;
        let tokens = [1, encoded.ids.len()];
        let (ids, mask) = (Tensor::i32(tokens, encoded.ids), Tensor::f32(tokens, encoded.mask));
        let text = text_encoder.run(&[("input_ids", &ids)])?;
        let mut velocity = |latent: &Tensor, timestep: f32, _: usize| {
            let timestep = Tensor::f32([1], vec![timestep]);
            transformer.run(&[
                ("latent", latent),
                ("timestep", &timestep),
                ("text", &text),
                ("text_mask", &mask),
            ])
        };
        let walk = Sampling { schedule: &parts.schedule, noise: noise.clone() };
        let latents = sample(walk, &mut velocity, &mut |_| Ok(noise.clone()))?;
        let last = latents.last().unwrap_or(&noise);
        let (bytes, _) = snapc_driver::picture(&vae_decoder.run(&[("latent", last)])?)?;
        std::fs::write(&options.output, bytes).map_err(|error| Error::io("write", &options.output, &error))
    })
}

/// Everything measured, in rounds; the least time of each.
fn compare(options: &Options) -> Result<String> {
    let artifact = options.common.folder.join("velocity.onnx");
    let Tenth { velocity, store, .. } = Tenth::open(&options.common.folder)?;
    write(&velocity, Target::Onnx, &store, &artifact)?;
    let compiled = compile_fixture(&options.common.folder)?;
    let job = options.common.folder.join("job.json");
    std::fs::write(&job, pipeline_job()?).map_err(|error| Error::io("write", &job, &error))?;
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut costs: BTreeMap<(Run, usize), Cost> = BTreeMap::new();
    for _ in 0..options.common.rounds {
        for threads in [1, all] {
            let count = threads.to_string();
            let model = artifact.join("model.onnx");
            let paths = ["onnx".as_ref(), model.as_os_str(), "3".as_ref(), count.as_ref()];
            let theirs = python(options, "measure.py", &paths)?;
            keep(&mut costs, (Run::Onnx, threads), theirs);
            let paths = [compiled.as_os_str(), job.as_os_str(), "3".as_ref(), count.as_ref()];
            keep(&mut costs, (Run::OnnxPipeline, threads), python(options, "pipeline.py", &paths)?);
            for what in [What::Velocity, What::Plain, What::Legal, What::Pipeline] {
                keep(&mut costs, (Run::Ours(what), threads), ours(options, what, threads)?);
            }
        }
    }
    Ok(table(&costs, all))
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Run {
    Onnx,
    OnnxPipeline,
    Ours(What),
}

/// The least of the times, and the memory of the first.
fn keep(costs: &mut BTreeMap<(Run, usize), Cost>, key: (Run, usize), cost: Cost) {
    let kept = costs.entry(key).or_insert(cost);
    kept.wall_ms = kept.wall_ms.min(cost.wall_ms);
    kept.open_ms = kept.open_ms.min(cost.open_ms);
}

fn ours(options: &Options, what: What, threads: usize) -> Result<Cost> {
    let this = std::env::current_exe().map_err(|error| Error::io("find", Path::new("interp"), &error))?;
    let value = what.to_possible_value();
    let mut command = Command::new(&this);
    command
        .arg("--folder")
        .arg(&options.common.folder)
        .arg("--only")
        .args(value.iter().map(|value| value.get_name()));
    run(command.env("RAYON_NUM_THREADS", threads.to_string()), &this)
}

fn python(options: &Options, script: &str, words: &[&std::ffi::OsStr]) -> Result<Cost> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(script);
    run(Command::new(&options.common.python).arg(script).args(words), &options.common.python)
}

fn run(command: &mut Command, path: &Path) -> Result<Cost> {
    let done = command.output().map_err(|error| {
        Error::io("start", path, &error)
            .help("name a Python with --python; `cargo test -p snapc-tests` makes target/python")
    })?;
    serde_json::from_slice(&done.stdout)
        .map_err(|_| Error::input(format!("{}: {}", path.display(), String::from_utf8_lossy(&done.stderr))))
}

/// The fixture's three artifacts for ONNX Runtime.
fn compile_fixture(folder: &Path) -> Result<PathBuf> {
    let full = Width::Subnet("full".to_string());
    let options = CompileOptions {
        precision: Precision::F32,
        bake: Some(Bake::None),
        steps: Some(4),
        ranges: Ranges::Off,
        ..CompileOptions::new(fixture(), full, Target::Onnx, folder.join("fixture"))
    };
    let compiled = snapc_driver::compile(&options, &mut Silent)?;
    compiled.into_iter().next().map(|one| one.folder).ok_or_else(|| Error::bug("nothing was compiled"))
}

/// What pipeline.py draws: the same prompt, from the same noise.
fn pipeline_job() -> Result<String> {
    let pipeline = Pipeline::open(&fixture())?;
    let latent = pipeline.latent_size(None)?;
    let schedule = pipeline.schedule(Some(4), latent)?;
    let encoded = Tokenizer::open(&fixture(), pipeline.text_tokens())?.encode(PROMPT)?;
    let shape = [1, pipeline.latent_channels(), latent[0], latent[1]];
    let noise = snapc_interp::TorchGenerator::new(0).randn(shape.iter().product());
    let job = json!({
        "ids": encoded.ids, "mask": encoded.mask, "noise": noise, "shape": shape, "sigmas": schedule.sigmas
    });
    Ok(job.to_string())
}

fn table(costs: &BTreeMap<(Run, usize), Cost>, all: usize) -> String {
    let none =
        Cost { ms: f64::NAN, wall_ms: f64::NAN, first_mb: f64::NAN, peak_mb: f64::NAN, open_ms: f64::NAN };
    let of = |run, threads| costs.get(&(run, threads)).copied().unwrap_or(none);
    let mut text = format!(
        "| | ONNX Runtime: ms, peak MB after one run / three | interpreter: the same | ratio of time | of memory after one run / three |\n{}",
        "| --- | --- | --- | --- | --- |\n"
    );
    let rows = [
        ("velocity, standard passes", Run::Onnx, What::Velocity),
        ("velocity, as `snapc run` has it", Run::Onnx, What::Plain),
        ("velocity, legal graph for ONNX", Run::Onnx, What::Legal),
        ("the fixture, prompt to picture, models open", Run::OnnxPipeline, What::Pipeline),
    ];
    for (name, theirs, what) in rows {
        for threads in [1, all] {
            let (theirs, ours) = (of(theirs, threads), of(Run::Ours(what), threads));
            let cell =
                |cost: Cost| format!("{:.0}, {:.0} / {:.0}", cost.wall_ms, cost.first_mb, cost.peak_mb);
            text.push_str(&format!(
                "| {name}, {threads} thread{} | {} | {} | {:.2} | {:.2} / {:.2} |\n",
                if threads == 1 { "" } else { "s" },
                cell(theirs),
                cell(ours),
                ours.wall_ms / theirs.wall_ms,
                ours.first_mb / theirs.first_mb,
                ours.peak_mb / theirs.peak_mb,
            ));
        }
    }
    let opened = |run| format!("{:.0}", of(run, 1).open_ms + of(run, 1).wall_ms);
    text.push_str(&format!(
        "\nThe fixture from its files, models opened and one picture, 1 thread: {} ms in ONNX Runtime, {} ms interpreted.",
        opened(Run::OnnxPipeline),
        opened(Run::Ours(What::Pipeline))
    ));
    text
}
