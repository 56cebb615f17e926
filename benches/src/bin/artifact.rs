//! `cargo run --release -p snapc-benches --bin artifact`: what the artifacts of the one-tenth-depth `small` cost in ONNX Runtime and in
//! LiteRT, one thread, f32, against full attention and against the chain of its matrix products. Prints the table of
//! benches/README.md.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Parser;
use serde::Deserialize;
use snapc_benches::{Common, Tenth, floor, told, write};
use snapc_driver::Target;
use snapc_ir::ops::attention::whole;
use snapc_ir::ops::{Attention, Pattern};
use snapc_ir::{Builder, DType, Error, Graph, Result, Stage, TensorType, TokenOrder, ValueId};

/// Measures artifacts in the runtimes that users have.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    common: Common,
}

/// What one run of a model costs.
#[derive(Clone, Copy, Deserialize)]
struct Cost {
    /// CPU milliseconds of a run.
    ms: f64,
    /// Largest resident memory of the process after its first run, in MB.
    first_mb: f64,
    /// And after all.
    peak_mb: f64,
    /// What it had before the model was opened.
    before_mb: f64,
}

/// A model to measure.
struct Model {
    name: &'static str,
    graph: Graph,
}

fn main() -> ExitCode {
    told(measure(&Options::parse()))
}

fn measure(options: &Options) -> Result<String> {
    let Tenth { plain, velocity, store, .. } = Tenth::open(&options.common.folder)?;
    let models = [
        Model { name: "full attention", graph: core(true)? },
        Model { name: "ASSA", graph: core(false)? },
        Model { name: "floor", graph: floor(&plain)? },
        Model { name: "velocity", graph: velocity },
    ];
    let mut costs: BTreeMap<(&'static str, &'static str), Cost> = BTreeMap::new();
    for target in [Target::Onnx, Target::TfLite] {
        let mut written = Vec::new();
        for model in &models {
            let path =
                options.common.folder.join(format!("{}.{}", model.name.replace(' ', "_"), target.name()));
            write(&model.graph, target, &store, &path)?;
            written.push((model.name, path));
        }
        for _ in 0..options.common.rounds {
            for (name, path) in &written {
                let cost = run_model(options, target, path)?;
                let least = costs.entry((target.name(), name)).or_insert(cost);
                least.ms = least.ms.min(cost.ms);
            }
        }
    }
    Ok(table(&costs))
}

/// The attention of one Down layer: 64 x 64 tokens, 16 query heads of 64 numbers, 8 key-value heads. Full, at once, as a traced
/// export has it; or both halves of ASSA as snapc lowers them.
fn core(full: bool) -> Result<Graph> {
    let mut b = Builder::new("core", Stage::Subnet);
    let mut input =
        |name: &str, tokens, heads| b.input(name, TensorType::new(DType::F32, [1, tokens, heads, 64]));
    let [q, k, v] = [input("q", 4096, 16), input("k", 4096, 8), input("v", 4096, 8)];
    let dense = Attention { pattern: Pattern::Dense, scale: 0.125 };
    let y: ValueId = if full {
        whole(&mut b, &dense, &[q, k, v])?
    } else {
        let [small_k, small_v] = [input("small_k", 1024, 8), input("small_v", 1024, 8)];
        let order = TokenOrder::new(&[8, 2]).unwrap_or_default();
        let pattern = Pattern::Neighborhood { grid: [64, 64], tile: 8, radius: 1, order };
        let local = b.one(Attention { pattern, scale: 0.125 }, &[q, k, v])?;
        let global = b.one(dense, &[q, small_k, small_v])?;
        b.add(local, global)?
    };
    b.output("y", y);
    b.finish()
}

fn run_model(options: &Options, target: Target, path: &Path) -> Result<Cost> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/measure.py");
    let model = if target == Target::Onnx { path.join("model.onnx") } else { path.to_path_buf() };
    let mut command = Command::new(&options.common.python);
    let done = command.arg(script).arg(target.name()).arg(&model).output();
    let done = done.map_err(|error| {
        Error::io("start", &options.common.python, &error)
            .help("name a Python with --python; `cargo test -p snapc-tests` makes target/python")
    })?;
    serde_json::from_slice(&done.stdout)
        .map_err(|_| Error::input(format!("{}: {}", model.display(), String::from_utf8_lossy(&done.stderr))))
}

/// The costs of the models in one runtime, by the models' names.
struct InRuntime<'a> {
    costs: &'a BTreeMap<(&'static str, &'static str), Cost>,
    runtime: &'static str,
}

impl InRuntime<'_> {
    fn cost(&self, name: &'static str) -> Cost {
        let none = Cost { ms: f64::NAN, first_mb: f64::NAN, peak_mb: f64::NAN, before_mb: f64::NAN };
        self.costs.get(&(self.runtime, name)).copied().unwrap_or(none)
    }

    /// Time and memory of a model.
    fn line(&self, name: &'static str) -> String {
        let cost = self.cost(name);
        format!("{:.0}, {:.0} / {:.0}", cost.ms, cost.first_mb, cost.peak_mb)
    }

    fn times(&self, above: &'static str, below: &'static str) -> String {
        format!("{:.3}", self.cost(above).ms / self.cost(below).ms)
    }

    /// Memory beyond the empty process.
    fn memory(&self, above: &'static str, below: &'static str) -> String {
        let of = |name| self.cost(name).peak_mb - self.cost(name).before_mb;
        format!("{:.3}", of(above) / of(below))
    }
}

fn table(costs: &BTreeMap<(&'static str, &'static str), Cost>) -> String {
    let runtimes = ["onnx", "tflite"].map(|runtime| InRuntime { costs, runtime });
    let mut text = String::from("| | ONNX Runtime | LiteRT |\n| --- | --- | --- |\n");
    let mut row = |what: String, cells: [String; 2]| {
        text.push_str(&format!("| {what} | {} |\n", cells.join(" | ")));
    };
    for name in ["full attention", "ASSA", "floor", "velocity"] {
        let cells = runtimes.each_ref().map(|runtime| runtime.line(name));
        row(format!("{name}: CPU ms, peak MB after one run / three"), cells);
    }
    let cells = runtimes.each_ref().map(|runtime| runtime.times("full attention", "ASSA"));
    row("attention core, full / ours: time".to_string(), cells);
    let cells = runtimes.each_ref().map(|runtime| runtime.memory("ASSA", "full attention"));
    row("attention core, ours / full: memory over the empty process".to_string(), cells);
    let cells = runtimes.each_ref().map(|runtime| runtime.times("velocity", "floor"));
    row("velocity / floor: time".to_string(), cells);
    text
}
