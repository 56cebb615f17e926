mod finish;
mod one_file;
mod plan;
mod quantized;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use snapc_backend::{Backend, Device, Explanation, LegalGraph, Legalized, Written, legalize_whole};
use snapc_frontends::{Imported, Part, Pipeline};
use snapc_ir::pipeline::Schedule;
use snapc_ir::{Context, Error, Graph, Place, Result};
use snapc_onnx::Layout;
use snapc_passes::{Evaluate, PrecisionPass, Standard, run, standard};
use snapc_weights::{Limits, Store};

use crate::Report;
use crate::baking;
use crate::inputs::Stamps;
use crate::manifest::{Manifest, PartEntry, ScheduleEntry};
use crate::options::{Bake, CompileOptions, Width};
use crate::output::Staging;
use crate::quantization::{Accuracy, Quantization, Recipe};
use crate::ranges::{Calibration, PartRanges, precise};
use crate::targets::Target;

pub use plan::{PartPlan, Passed, Plan, UseEntry, Why, plan};

use finish::{Common, finish};

/// One folder that a compile wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// Where it stands.
    pub folder: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
    /// For each part, which ops the target has not or its delegates leave out, and why.
    pub explanations: Vec<(String, Vec<Explanation>)>,
    /// What was measured of each part's values; empty where nothing was.
    pub ranges: Vec<PartRanges>,
    /// What quantizing lost, where it was measured.
    pub accuracy: Option<Accuracy>,
}

/// One target and one network of it, while its folder is made.
struct Job {
    target: Target,
    width: Width,
    passes: Standard,
    bake: Bake,
    /// The layout of its folder: only ONNX has more than one.
    layout: Layout,
    backend: Box<dyn Backend>,
    device: Device,
    /// Where its folder will stand.
    folder: PathBuf,
    /// The folder under construction; a plan has none.
    staging: Option<Staging>,
    /// Files of it that were hashed on the way.
    written: Vec<Written>,
    parts: Vec<PartEntry>,
    explanations: Vec<(String, Vec<Explanation>)>,
    calibration: Option<Rc<Calibration>>,
    /// The one for the parts that no width changes, where all networks have to share them.
    shared: Option<Rc<Calibration>>,
    /// Why there is no calibration. Told at the end: what stops the compile says it better.
    unmeasured: Option<String>,
    ranges: Vec<PartRanges>,
    quantization: Quantization,
    /// What each tensor got.
    recipe: Recipe,
}

/// Import, slice, bake, precision, legalize, write: each part is imported once, for all targets and networks. The folders appear when
/// all parts are written.
///
/// # Errors
/// What any of these finds; nothing is written then.
pub fn compile(options: &CompileOptions, report: &mut dyn Report) -> Result<Vec<Compiled>> {
    one_file::check(options)?;
    let pipeline = Pipeline::open(&options.pipeline)?;
    let stamps = Stamps::of(options, &pipeline, &parts(options));
    let latent = pipeline.latent_size(options.sizes.first().copied())?;
    let schedule = pipeline.schedule(options.steps, latent)?;
    // It is copied beside the artifacts: that it can be read is found before the work.
    if pipeline.folder().join("tokenizer").exists() {
        pipeline.tokenizer()?;
    }
    let mut jobs = jobs(options, &pipeline, &schedule)?;
    for job in &mut jobs {
        job.staging = Some(Staging::begin(&job.folder)?);
    }
    quantized::give_out_bits(&mut jobs, options, &pipeline, latent, report)?;
    let parts = parts(options);
    for job in jobs.iter_mut().filter(|job| job.precision().computes_half()) {
        let subject = (&job.width, job.bake, job.guidance());
        let (calibration, unmeasured) = Calibration::new(options, &parts, subject, report)?;
        (job.calibration, job.unmeasured) = (calibration.map(Rc::new), unmeasured);
    }
    if options.share {
        let first = jobs.iter().find_map(|job| job.calibration.clone());
        jobs.iter_mut().for_each(|job| job.shared = first.clone());
    }
    if options.one_file {
        one_file::write(&mut jobs, &parts, options, &pipeline, &schedule, report)?;
    }
    for &part in parts.iter().filter(|_| !options.one_file) {
        // The one part that a layout changes: optimum's pipelines divide the latent themselves.
        let (theirs, ours): (Vec<_>, Vec<_>) =
            jobs.iter_mut().partition(|job| part == Part::VaeDecoder && job.layout == Layout::Optimum);
        if !ours.is_empty() {
            let guided = ours.iter().any(|job| job.guidance().is_some());
            let imported = pipeline.import(part, batch(part, guided), latent)?;
            write_jobs(ours, options, &imported, &schedule, report)?;
        }
        if !theirs.is_empty() {
            write_jobs(theirs, options, &pipeline.import_unscaled_decoder(1, latent)?, &schedule, report)?;
        }
    }
    jobs.iter().filter_map(|job| job.unmeasured.as_ref()).for_each(|why| report.warn(why));
    let (pipeline, schedule, parts, stamps) = (&pipeline, &schedule, &parts[..], Some(stamps));
    let common = Common { options, pipeline, latent, schedule, parts, stamps };
    let mut inputs = BTreeMap::new();
    jobs.into_iter().map(|job| finish(job, &common, &mut inputs, report)).collect()
}

/// The parts that are asked for, in the order in which a prompt passes them.
fn parts(options: &CompileOptions) -> Vec<Part> {
    let wanted = |part: &Part| options.parts.is_empty() || options.parts.contains(part);
    Part::ALL.into_iter().filter(wanted).collect()
}

/// Guidance needs the velocity of two prompts: a batch.
fn batch(part: Part, guided: bool) -> usize {
    if guided && part == Part::Transformer { 2 } else { 1 }
}

impl Job {
    fn precision(&self) -> PrecisionPass {
        let Standard { precision, weights_only, .. } = self.passes;
        PrecisionPass { precision, weights_only }
    }

    fn staging(&self) -> Result<&Staging> {
        self.staging.as_ref().ok_or_else(|| Error::bug("a plan writes nothing"))
    }

    /// What a part's ranges are measured on.
    fn calibration_of(&self, part: &str) -> Option<&Calibration> {
        let own = self.calibration.as_ref();
        let shared = self.shared.as_ref().filter(|_| part != Part::Transformer.name());
        shared.or(own).map(Rc::as_ref)
    }

    fn guidance(&self) -> Option<f32> {
        self.passes.baking.as_ref().and_then(|baking| baking.guidance)
    }
}

fn jobs(options: &CompileOptions, pipeline: &Pipeline, schedule: &Schedule) -> Result<Vec<Job>> {
    let mut jobs: Vec<Job> = Vec::new();
    for &target in &options.targets {
        let layout = if target == Target::Onnx { options.layout } else { Layout::Default };
        let (bake, baking) = baking::resolve(options.bake, options.guidance, layout, schedule)?;
        for width in &options.widths {
            let to = width.resolve(pipeline)?;
            let folder = options.output.join(target.name()).join(width.label());
            let passes = Standard {
                widths: (pipeline.width(), to),
                baking: baking.clone(),
                precision: options.precision,
                weights_only: target.weights_only(),
                quantize: None,
            };
            if jobs.iter().any(|job| job.target == target && job.width == *width) {
                continue;
            }
            let backend = target.backend_in(layout, options.min_os);
            jobs.push(Job {
                target,
                width: width.clone(),
                passes,
                bake,
                layout,
                device: options.device.unwrap_or(backend.default_device()),
                backend,
                folder,
                staging: None,
                parts: Vec::new(),
                explanations: Vec::new(),
                calibration: None,
                shared: None,
                unmeasured: None,
                ranges: Vec::new(),
                quantization: Quantization::new(&options.quantization, target, to)?,
                recipe: Recipe::default(),
                written: Vec::new(),
            });
        }
    }
    if jobs.is_empty() {
        return Err(Error::usage("no target or no subnet is named")
            .help("write --target and --subnet, or `targets` and `subnets` in snapc.toml"));
    }
    Ok(jobs)
}

/// Makes one part legal for every job, then writes one artifact after the other, on all threads.
fn write_jobs(
    mut jobs: Vec<&mut Job>,
    options: &CompileOptions,
    imported: &Imported,
    schedule: &Schedule,
    report: &mut dyn Report,
) -> Result<()> {
    let mut legal = Vec::new();
    for job in jobs.iter_mut() {
        let graph = legal_for(job, imported.graph.name(), imported, report)?;
        let mut entry = PartEntry::new(&graph.0, job.backend.artifact(graph.0.name()));
        entry.rename(job.layout);
        job.parts.push(entry);
        legal.push(graph);
    }
    let limits = limits(options, &legal)?;
    report.begin(imported.graph.name(), legal.iter().map(|(graph, _)| graph.weight_bytes()).sum());
    for (job, legal) in jobs.iter_mut().zip(legal) {
        let written = write_part(job, legal, schedule, limits, report)?;
        job.written.extend(written);
    }
    Ok(())
}

/// A graph that can be written, and the store of its weights.
type Legal = (LegalGraph, Store);

/// What a job's passes and its target make of a part.
struct Road {
    /// The part behind the passes that leave numbers as they are.
    plain: Graph,
    store: Store,
    whole: Legalized,
    /// What is done otherwise than asked for, and why.
    notes: Vec<Explanation>,
    ranges: Option<PartRanges>,
}

/// The road of a part to one job's target, up to its end where limits are passed. `evaluate` is the interpreter.
fn road(job: &Job, imported: &Imported, evaluate: &Evaluate, report: &mut dyn Report) -> Result<Road> {
    let part = imported.graph.name();
    let options = Standard { quantize: job.quantization.of(part).cloned(), ..job.passes.clone() };
    let passes = standard(&options, imported.graph.stage(), evaluate);
    let (before, behind) = passes.split_at(quantized::place(&passes));
    let plain = Imported {
        graph: run(&imported.graph, before, None)?,
        store: job.quantization.store_of(part, &imported.store)?,
        ignored: Vec::new(),
    };
    let mut notes = job.quantization.notes(&plain.graph)?;
    let precise = precise(&plain, behind, &job.precision(), job.calibration_of(part), report)?;
    let whole = legalize_whole(&precise.graph, job.backend.as_ref(), job.device)?;
    notes.extend(precise.notes);
    notes.extend(whole.explanations.iter().cloned());
    Ok(Road { plain: plain.graph, store: plain.store, whole, notes, ranges: precise.ranges })
}

/// A part as one job's target takes it; `name` is what the artifact calls it.
fn legal_for(job: &mut Job, name: &str, imported: &Imported, report: &mut dyn Report) -> Result<Legal> {
    let evaluate = |graph: &Graph, times: &[Vec<f32>]| baking::evaluate(&imported.store, graph, times);
    let Road { plain, store, whole, notes, ranges } = road(job, imported, &evaluate, report)?;
    let (graph, _) = whole.checked()?;
    quantized::note_recipe(&mut job.recipe, &job.quantization, &plain)?;
    job.explanations.push((name.to_string(), notes));
    job.ranges.extend(ranges);
    Ok((graph, store))
}

/// What the process holds beside the weights that are being written: code, graphs, buffers of files.
const BESIDE: u64 = 40 << 20;

/// How much is read and encoded at once.
///
/// # Errors
/// If a weight takes more than it may.
fn limits(options: &CompileOptions, graphs: &[Legal]) -> Result<Limits> {
    let Some(memory) = options.max_memory else { return Ok(Limits::default()) };
    let all =
        graphs.iter().flat_map(|(graph, store)| graph.weights().iter().map(move |weight| (weight, store)));
    let needs = all.map(|(weight, store)| (store.stored_needs(weight), &weight.name));
    if let Some((need, name)) = needs.max().filter(|(need, _)| need + BESIDE > memory) {
        return Err(Error::limit(format!(
            "it takes {} MB to write, with {memory} bytes allowed",
            (need + BESIDE).div_ceil(1_000_000)
        ))
        .at(Place::Tensor(name.clone()))
        .help("allow more with --max-memory"));
    }
    Ok(Limits { memory: memory - BESIDE, ..Limits::default() })
}

fn write_part(
    job: &Job,
    (graph, store): Legal,
    schedule: &Schedule,
    limits: Limits,
    report: &mut dyn Report,
) -> Result<Vec<Written>> {
    let facts = facts(job, schedule, graph.name() == Part::Transformer.name());
    let path = job.staging()?.path().join(job.backend.artifact(graph.name()));
    let part = snapc_backend::Part { limits, ..snapc_backend::Part::new(graph, &store, &facts) };
    job.backend
        .write(part, &path, &mut |bytes| report.advance(bytes))
        .at(|| Place::Target(job.target.name().to_string()))
}

/// What an artifact says of itself; of its network only where it has the transformer, so that networks can share the other parts.
fn facts(job: &Job, schedule: &Schedule, transformer: bool) -> Vec<(String, String)> {
    let sigmas: Vec<String> = schedule.sigmas.iter().map(f32::to_string).collect();
    let mut facts = vec![
        ("version", env!("CARGO_PKG_VERSION").to_string()),
        ("precision", job.passes.precision.name().to_string()),
        ("sigmas", sigmas.join(" ")),
        ("rule", ScheduleEntry::from(schedule).rule),
        ("bake", job.bake.name().to_string()),
    ];
    facts.extend(job.guidance().map(|guidance| ("guidance", guidance.to_string())));
    if transformer {
        facts.extend([("subnet", job.width.label()), ("width", job.passes.widths.1.to_string())]);
    }
    facts.into_iter().map(|(key, value)| (format!("snapc.{key}"), value)).collect()
}
