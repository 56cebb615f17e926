//! Calibration: the pipeline draws pictures of its own prompts, and the interpreter notes how large each value of a part becomes.

use serde::Serialize;
use snapc_backend::Explanation;
use snapc_frontends::{Imported, Part};
use snapc_interp::Interpreter;
use snapc_ir::{Def, Error, Graph, Node, Result};
use snapc_passes::ranges::{LARGEST, Measured, Note, Plan};
use snapc_passes::{Pass, PrecisionPass, run};
use snapc_weights::Store;

use crate::Report;
use crate::examples::{Example, borrowed, draw, prompts};
use crate::options::{Bake, CompileOptions, Ranges, Width};
use crate::parts::{Choice, Parts};

/// Prompts that ranges are measured over. Most of what differs between runs of a few-step model differs between its steps, and each
/// prompt has all of them.
const PROMPTS: usize = 4;

/// The most work that nobody asked for, in floating-point operations: some ten seconds on two cores.
const MOST_FLOPS: u64 = 200_000_000_000;

/// Bytes of weights that are kept from one prompt to the next; what is larger is read again, some rows at once.
const KEPT: u64 = 64 << 20;

/// Numbers of a weight that are looked at at once.
const PIECE: usize = 1 << 20;

/// How large one node's results became.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeRange {
    /// Its path in the checkpoint.
    pub path: String,
    /// Its op.
    pub op: &'static str,
    /// The largest |x|.
    pub largest: f32,
    /// That as a share of f16's largest number.
    pub share: f32,
}

/// How large the values of a part became, over all prompts and steps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartRanges {
    /// The part.
    pub part: String,
    /// Its nodes, those with the largest values first.
    pub nodes: Vec<NodeRange>,
}

/// What the parts of a pipeline are given in its own runs.
pub struct Calibration(Vec<(Part, Example)>);

impl Calibration {
    /// Draws the prompts, as the options want it; none where ranges are not to be measured. Where nobody asked for it, what keeps
    /// the pipeline from being drawn is a warning.
    ///
    /// # Errors
    /// What the pipeline finds.
    pub fn new(
        options: &CompileOptions,
        parts: &[Part],
        subject: (&Width, Bake, Option<f32>),
        report: &mut dyn Report,
    ) -> Result<(Option<Self>, Option<String>)> {
        if options.ranges == Ranges::Off {
            return Ok((None, None));
        }
        match Calibration::draw(options, parts, subject, report) {
            Err(error) if options.ranges == Ranges::Auto => {
                let warning = format!(
                    "{}: the ranges of values were not measured: {}. All values are taken to fit f16; --ranges on insists",
                    subject.0.label(),
                    error.message()
                );
                Ok((None, Some(warning)))
            }
            drawn => Ok((Some(drawn?), None)),
        }
    }

    fn draw(
        options: &CompileOptions,
        parts: &[Part],
        (width, bake, guidance): (&Width, Bake, Option<f32>),
        report: &mut dyn Report,
    ) -> Result<Self> {
        let size = options.sizes.first().copied();
        let choice = Choice { width: Some(width), size, steps: options.steps };
        let pipeline = Parts::from_pipeline(&options.pipeline, &choice)?;
        let prompts = prompts(&options.pipeline, PROMPTS)?;
        let flops = flops(&pipeline, parts, guidance) * prompts.len() as u64;
        if options.ranges == Ranges::Auto && flops > MOST_FLOPS {
            let (flops, most) = (flops as f64, MOST_FLOPS as f64);
            return Err(Error::usage(format!("that takes {flops:.1e} operations, auto at most {most:.0e}")));
        }
        report.begin("calibration", prompts.len() as u64);
        let mut examples = Vec::new();
        for (seed, prompt) in prompts.iter().enumerate() {
            if only_text(parts) {
                let ids = pipeline.ids(prompt)?;
                let example = Example { inputs: vec![("input_ids".to_string(), ids.clone())], output: ids };
                examples.push((Part::TextEncoder, example));
            } else {
                draw(&pipeline, prompt, guidance, seed as u64, bake, &mut examples)?;
            }
            report.advance(1);
        }
        Ok(Calibration(examples))
    }

    /// Runs a part's graph on what it is given, and notes how large each value becomes.
    fn measure(&self, graph: &Graph, store: &Store, report: &mut dyn Report) -> Result<Measured> {
        let mut measured = Measured::new(graph);
        let interpreter = match graph.weight_bytes() {
            ..=KEPT => Interpreter::new(graph, store),
            _ => Interpreter::frugal(graph, store),
        };
        let mine: Vec<&Example> = self
            .0
            .iter()
            .filter(|(part, _)| part.name() == graph.name())
            .map(|(_, example)| example)
            .collect();
        report.begin(&format!("ranges of {}", graph.name()), mine.len() as u64);
        for example in mine {
            let inputs = borrowed(&example.inputs);
            for (name, tensor) in &inputs {
                if let Some(port) = graph.inputs().iter().find(|port| port.name == *name) {
                    measured.add(port.value, tensor.ty.last(), tensor.values());
                }
            }
            interpreter.run_observed(&inputs, &mut |node, results| {
                for (&id, result) in node.results.iter().zip(results) {
                    measured.add(id, result.ty.last(), result.values());
                }
            })?;
            report.advance(1);
        }
        for (value, weight) in graph.values().iter().filter_map(|value| match value.def {
            Def::Weight(id) => Some((graph.weight_value(id), graph.weight(id))),
            _ => None,
        }) {
            let ty = weight.ty();
            let pieces = if ty.rank() < 2 { vec![weight.clone()] } else { weight.row_pieces(PIECE) };
            for piece in pieces {
                measured.add(value, ty.last(), store.read(&piece)?.values());
            }
        }
        Ok(measured)
    }
}

fn only_text(parts: &[Part]) -> bool {
    parts.iter().all(|&part| part == Part::TextEncoder)
}

/// What one prompt takes: it is drawn once, and each part runs once more to be measured.
fn flops(pipeline: &Parts, parts: &[Part], guidance: Option<f32>) -> u64 {
    let text = pipeline.text_encoder.graph.flops();
    if only_text(parts) {
        return text;
    }
    let texts = if guidance.is_some() { 2 } else { 1 };
    let runs = texts * (pipeline.schedule.sigmas.len() as u64 - 1);
    2 * (texts * text + runs * pipeline.transformer.graph.flops() + pipeline.vae_decoder.graph.flops())
}

/// A part behind its passes.
pub struct Precise {
    /// Its graph.
    pub graph: Graph,
    /// What was done because of ranges.
    pub notes: Vec<Explanation>,
    /// The ranges; none where they were not measured.
    pub ranges: Option<PartRanges>,
}

/// Runs the passes; with a calibration, `precision` is told the ranges of what those before it leave.
///
/// # Errors
/// What a pass or the interpreter finds.
pub fn precise(
    imported: &Imported,
    passes: &[Box<dyn Pass + '_>],
    precision: &PrecisionPass,
    calibration: Option<&Calibration>,
    report: &mut dyn Report,
) -> Result<Precise> {
    let place = passes.iter().position(|pass| pass.name() == precision.name());
    let (Some(calibration), Some(place)) = (calibration, place) else {
        let graph = run(&imported.graph, passes, None)?;
        return Ok(Precise { graph, notes: Vec::new(), ranges: None });
    };
    let before = run(&imported.graph, &passes[..place], None)?;
    let measured = calibration.measure(&before, &imported.store, report)?;
    let plan = Plan::new(&before, &measured);
    let graph = precision.run_measured(&before, &plan)?;
    let graph = run(&graph, &passes[place + 1..], None)?;
    let explain = |Note { op, reason, count, first }: &Note| Explanation {
        op,
        reason: reason.clone(),
        count: *count,
        first: path(&before, first),
    };
    let notes = plan.notes().iter().map(explain).collect();
    Ok(Precise { graph, notes, ranges: Some(part_ranges(&before, &measured)) })
}

/// A node's path in the checkpoint; the part's name for what stands between its modules.
fn path(graph: &Graph, scope: &str) -> String {
    if scope.is_empty() { graph.name() } else { scope }.to_string()
}

fn part_ranges(graph: &Graph, measured: &Measured) -> PartRanges {
    let float = |node: &&Node| node.results.iter().all(|&id| graph.ty(id).dtype.is_float());
    let of = |node: &Node| {
        let largest = node.results.iter().map(|&id| measured.of(id).largest).fold(0.0, f32::max);
        NodeRange { path: path(graph, &node.scope), op: node.op.name(), largest, share: largest / LARGEST }
    };
    let mut nodes: Vec<NodeRange> = graph.nodes().iter().filter(float).map(of).collect();
    nodes.sort_by(|a, b| b.largest.total_cmp(&a.largest));
    PartRanges { part: graph.name().to_string(), nodes }
}
