//! `cargo run --release -p snapc-benches --bin scaling`: how cost grows with work: a compile with its bytes, the interpreter with tokens and
//! with depth. Prints the tables of benches/README.md and draws benches/scaling.svg.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use snapc_benches::{pipeline, told};
use snapc_driver::{CompileOptions, Part, Silent, Target, Width};
use snapc_frontends::Pipeline;
use snapc_interp::Interpreter;
use snapc_ir::ops::{Attention, Pattern, SplitHeads};
use snapc_ir::{Builder, DType, Error, Graph, Result, Stage, TensorType, TokenOrder};
use snapc_passes::{Pass, Slice};
use snapc_weights::{Store, Tensor};

/// Measures how cost grows.
#[derive(Parser)]
struct Options {
    /// Where models are written
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
    /// The least time of so many runs is taken
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The plot
    #[arg(long, default_value = "benches/scaling.svg")]
    plot: PathBuf,
}

/// Sides of the token grid.
const SIDES: [usize; 4] = [16, 32, 64, 128];

/// One measured line.
struct Series {
    title: &'static str,
    unit: &'static str,
    /// Work and seconds.
    points: Vec<(f64, f64)>,
    /// Floating-point operations at each point, of which a compile has none.
    flops: Vec<f64>,
}

/// What a velocity, or a half of one, costs.
struct Cost {
    seconds: f64,
    flops: f64,
}

impl Series {
    /// Of networks, by their work.
    fn of(title: &'static str, unit: &'static str, costs: &[(usize, Cost)]) -> Self {
        let points = costs.iter().map(|(work, cost)| (*work as f64, cost.seconds)).collect();
        Series { title, unit, points, flops: costs.iter().map(|(_, cost)| cost.flops).collect() }
    }

    /// The exponents of its operations with the work, and of its seconds with the operations.
    fn of_operations(&self) -> Option<[f64; 2]> {
        let pairs = || self.points.iter().zip(&self.flops);
        let counted: Vec<_> = pairs().map(|(&(work, _), &flops)| (work, flops)).collect();
        let timed: Vec<_> = pairs().map(|(&(_, seconds), &flops)| (flops, seconds)).collect();
        (!self.flops.is_empty()).then(|| [exponent(&counted), exponent(&timed)])
    }
}

fn main() -> ExitCode {
    told(measure(&Options::parse()))
}

fn measure(options: &Options) -> Result<String> {
    let series = [
        compiles(options)?,
        tokens(options)?,
        halves(options, true)?,
        halves(options, false)?,
        depths(options)?,
    ];
    std::fs::write(&options.plot, plot(&series))
        .map_err(|error| Error::io("write", &options.plot, &error))?;
    let mut text =
        "| | work | seconds | exponent | of its operations | of time with them |\n| --- | --- | --- | --- | --- | --- |\n".to_string();
    for one in &series {
        let Series { title, unit, points, .. } = one;
        let [counted, timed] =
            one.of_operations().map_or_else(Default::default, |both| both.map(|one| format!("{one:.2}")));
        let list = |of: &dyn Fn(&(f64, f64)) -> String| points.iter().map(of).collect::<Vec<_>>().join(", ");
        text.push_str(&format!(
            "| {title} | {} {unit} | {} | {:.2} | {counted} | {timed} |\n",
            list(&|point| format!("{}", point.0)),
            list(&|point| format!("{:.3}", point.1)),
            exponent(points)
        ));
    }
    Ok(text)
}

/// The slope of the least-squares line through the logarithms.
fn exponent(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / logs.len() as f64;
    let (x, y) = (mean(&|log| log.0), mean(&|log| log.1));
    mean(&|log| (log.0 - x) * (log.1 - y)) / mean(&|log| (log.0 - x).powi(2))
}

/// The least time of some runs.
fn least(options: &Options, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..options.rounds {
        let start = Instant::now();
        run()?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
}

/// Networks of the paper's supernet to Core ML in f16, by their bytes.
fn compiles(options: &Options) -> Result<Series> {
    let folder = pipeline("paper", &options.folder)?;
    let output = options.folder.join("scaled");
    let mut points = Vec::new();
    for width in [256, 512, 768, 1024, 1536] {
        let words = CompileOptions {
            parts: vec![Part::Transformer],
            ..CompileOptions::new(folder.clone(), Width::Numbers(width), Target::CoreMl, output.clone())
        };
        let mut bytes = 0;
        let seconds = least(options, || {
            let done = snapc_driver::compile(&words, &mut Silent)?;
            bytes = done.iter().flat_map(|one| &one.manifest.parts).map(|part| part.weight_bytes).sum();
            Ok(())
        })?;
        points.push(((bytes as f64 / 1e6).round(), seconds));
    }
    let _ = std::fs::remove_dir_all(output);
    Ok(Series { title: "compile, Core ML f16", unit: "MB", points, flops: Vec::new() })
}

/// A velocity of `small`, as `snapc run` has it.
fn velocity(options: &Options, folder: &Path, side: usize) -> Result<Cost> {
    let pipeline = Pipeline::open(folder)?;
    let imported = pipeline.import(Part::Transformer, 1, [2 * side; 2])?;
    let slice = Slice { from: pipeline.width(), to: pipeline.subnet("small")? };
    let graph = slice.run(&imported.graph)?;
    interpreted(options, &graph, &imported.store)
}

fn interpreted(options: &Options, graph: &Graph, store: &Store) -> Result<Cost> {
    let numbers =
        |ty: &TensorType| Tensor::float(ty.clone(), snapc_interp::TorchGenerator::new(0).randn(ty.count()));
    let inputs: Vec<(&str, Tensor)> =
        graph.inputs().iter().map(|port| (port.name.as_str(), numbers(graph.ty(port.value)))).collect();
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let interpreter = Interpreter::new(graph, store);
    // The first run reads the weights.
    interpreter.run(&inputs)?;
    let seconds = least(options, || interpreter.run(&inputs).map(|_| ()))?;
    Ok(Cost { seconds, flops: graph.flops() as f64 })
}

fn tokens(options: &Options) -> Result<Series> {
    let folder = pipeline("tenth", &options.folder)?;
    let cost = |side: usize| Ok((side * side, velocity(options, &folder, side)?));
    let costs: Vec<_> = SIDES.into_iter().map(cost).collect::<Result<_>>()?;
    Ok(Series::of("velocity, 1 / 2 / 1 blocks", "tokens", &costs))
}

/// One half of ASSA alone, of 16 heads of 64 numbers: the neighbourhoods, or all tokens over a quarter as many keys.
fn halves(options: &Options, local: bool) -> Result<Series> {
    let mut costs = Vec::new();
    for side in SIDES {
        let count = side * side;
        let mut b = Builder::new("half", Stage::Subnet);
        let mut heads = |name: &str, tokens: usize| {
            let x = b.input(name, TensorType::new(DType::F32, [1, tokens, 1024]));
            b.one(SplitHeads { head_dim: 64 }, &[x])
        };
        let (queries, keys) = (heads("q", count)?, heads("k", if local { count } else { count / 4 })?);
        let near =
            Pattern::Neighborhood { grid: [side; 2], tile: 8, radius: 1, order: TokenOrder::default() };
        let pattern = if local { near } else { Pattern::Dense };
        let y = b.one(Attention { pattern, scale: 0.125 }, &[queries, keys, keys])?;
        b.output("y", y);
        costs.push((count, interpreted(options, &b.finish()?, &Store::empty())?));
    }
    let title = if local { "ASSA, the local half" } else { "ASSA, the global half" };
    Ok(Series::of(title, "tokens", &costs))
}

/// Velocities at 32 x 32 tokens, of 1 / 2 / 1 blocks and multiples of them; zeros weigh as much as numbers.
fn depths(options: &Options) -> Result<Series> {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/shapes");
    let mut costs = Vec::new();
    for times in [1, 2, 4, 8] {
        let blocks = [times, 2 * times, times];
        let folder = options.folder.join(format!("depth-{times}"));
        let config = xtask::model::CONFIGS.into_iter().find(|config| config.name == "tenth");
        let config = config.ok_or_else(|| Error::bug("there is no config `tenth`"))?;
        xtask::supernet(&config.with_blocks(blocks), &template, &folder, true)
            .map_err(|error| Error::io("make", &folder, &error))?;
        costs.push((blocks.iter().sum(), velocity(options, &folder, 32)?));
    }
    Ok(Series::of("velocity, 32 x 32 tokens", "blocks", &costs))
}

/// A panel for each line, both axes logarithmic, with a line of slope 1 through the first point.
fn plot(series: &[Series]) -> String {
    const PANEL: (f64, f64) = (300.0, 240.0);
    const INSIDE: (f64, f64, f64, f64) = (56.0, 34.0, 228.0, 160.0);
    let width = PANEL.0 * series.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        PANEL.1
    );
    for (number, Series { title, unit, points, .. }) in series.iter().enumerate() {
        let (left, top, wide, high) = INSIDE;
        let left = left + PANEL.0 * number as f64;
        let bounds = |of: &dyn Fn(&(f64, f64)) -> f64| {
            let all = points.iter().map(of);
            let (low, high) = all.fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
            (low.ln(), (high.ln() - low.ln()).max(1e-9))
        };
        let ((x0, xs), (y0, ys)) = (bounds(&|point| point.0), bounds(&|point| point.1));
        // Both axes have one scale where the cost is no steeper than the work.
        let span = ys.max(xs);
        let place =
            |x: f64, y: f64| (left + (x.ln() - x0) / xs * wide, top + high - (y.ln() - y0) / span * high);
        svg.push_str(&format!(
            "<text x=\"{}\" y=\"18\" font-size=\"12\" font-weight=\"bold\">{title}: exponent {:.2}</text>\n\
             <path d=\"M{left} {top}v{high}h{wide}\" fill=\"none\" stroke=\"#444\"/>\n",
            left - 40.0,
            exponent(points)
        ));
        let (first, last) = (points[0], points[points.len() - 1]);
        let linear = [first, (last.0, first.1 * last.0 / first.0)].map(|(x, y)| place(x, y));
        svg.push_str(&format!(
            "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" stroke=\"#bbb\" stroke-dasharray=\"4 3\"/>\n",
            linear[0].0, linear[0].1, linear[1].0, linear[1].1
        ));
        let path: Vec<String> =
            points.iter().map(|&(x, y)| place(x, y)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        svg.push_str(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#0a58ca\" stroke-width=\"2\"/>\n",
            path.join(" ")
        ));
        for &(work, seconds) in points {
            let (x, y) = place(work, seconds);
            let time =
                if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.1} s") };
            svg.push_str(&format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#0a58ca\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"end\" dx=\"-5\">{time}</text>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{work}</text>\n",
                y - 5.0,
                top + high + 15.0
            ));
        }
        svg.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{unit}</text>\n",
            left + wide / 2.0,
            top + high + 32.0
        ));
    }
    svg.push_str("</svg>\n");
    svg
}
