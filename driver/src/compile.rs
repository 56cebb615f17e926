use std::path::PathBuf;

use std::sync::Mutex;

use snapc_backend::{Backend, Explanation, legalize_explained};
use snapc_frontends::{Imported, Part, Pipeline, tokenizer};
use snapc_ir::pipeline::Schedule;
use snapc_ir::{Context, Error, Place, Result};
use snapc_passes::{Standard, run, standard};

use crate::Report;
use crate::manifest::{Manifest, OptionsEntry, PartEntry, ScheduleEntry, TokenizerEntry};
use crate::options::{CompileOptions, Width};
use crate::output::Staging;
use crate::targets::Target;

/// One folder that a compile wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// Where it stands.
    pub folder: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
    /// For each part, which ops the target has not, and why.
    pub explanations: Vec<(String, Vec<Explanation>)>,
}

/// One target and one network of it, while its folder is made.
struct Job {
    target: Target,
    width: Width,
    passes: Standard,
    backend: Box<dyn Backend>,
    staging: Staging,
    parts: Vec<PartEntry>,
    explanations: Vec<(String, Vec<Explanation>)>,
}

/// Import, slice, precision, legalize, write: each part is imported once, for all targets and networks. The folders appear when
/// all parts are written.
///
/// # Errors
/// What any of these finds; nothing is written then.
pub fn compile(options: &CompileOptions, report: &mut dyn Report) -> Result<Vec<Compiled>> {
    let pipeline = Pipeline::open(&options.pipeline)?;
    let latent = pipeline.latent_size(options.size)?;
    let schedule = pipeline.schedule(None, latent)?;
    let mut jobs = jobs(options, &pipeline)?;
    let parts = if options.parts.is_empty() { Part::ALL.to_vec() } else { options.parts.clone() };
    for part in Part::ALL.into_iter().filter(|part| parts.contains(part)) {
        let imported = pipeline.import(part, 1, latent)?;
        write_jobs(&mut jobs, &imported, &schedule, report)?;
    }
    jobs.into_iter().map(|job| finish(job, options, &pipeline, latent, &schedule)).collect()
}

fn jobs(options: &CompileOptions, pipeline: &Pipeline) -> Result<Vec<Job>> {
    let mut jobs: Vec<Job> = Vec::new();
    for &target in &options.targets {
        for width in &options.widths {
            let to = width.resolve(pipeline)?;
            let folder = options.output.join(target.name()).join(width.label());
            let passes = Standard {
                widths: (pipeline.width(), to),
                precision: options.precision,
                weights_only: target.weights_only(),
            };
            if jobs.iter().any(|job| job.target == target && job.width == *width) {
                continue;
            }
            jobs.push(Job {
                target,
                width: width.clone(),
                passes,
                backend: target.backend(options.min_os),
                staging: Staging::begin(&folder)?,
                parts: Vec::new(),
                explanations: Vec::new(),
            });
        }
    }
    if jobs.is_empty() {
        return Err(Error::usage("no target or no subnet is named")
            .help("write --target and --subnet, or `targets` and `subnets` in snapc.toml"));
    }
    Ok(jobs)
}

/// Writes one part for every job, as many at once as there are processors: a writer holds little more than one block of a weight.
fn write_jobs(
    jobs: &mut [Job],
    imported: &Imported,
    schedule: &Schedule,
    report: &mut dyn Report,
) -> Result<()> {
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    report.begin(imported.graph.name(), jobs.len() as u64);
    let report = Mutex::new(report);
    for group in jobs.chunks_mut(at_once) {
        std::thread::scope(|scope| {
            let threads: Vec<_> = group
                .iter_mut()
                .map(|job| {
                    scope.spawn(|| {
                        write_part(job, imported, schedule)?;
                        // A report that panicked in another thread is that thread's to tell.
                        if let Ok(mut report) = report.lock() {
                            report.advance(1);
                        }
                        Ok(())
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => Err(Error::bug("a writer stopped")),
            })
        })?;
    }
    Ok(())
}

fn write_part(job: &mut Job, imported: &Imported, schedule: &Schedule) -> Result<()> {
    let backend = job.backend.as_ref();
    let graph = &imported.graph;
    let graph = run(graph, &standard(&job.passes, graph.stage()), None)?;
    let (legal, explanations) = legalize_explained(&graph, backend)?;
    let facts = facts(job, schedule);
    let part = snapc_backend::Part { graph: &legal, store: &imported.store, facts: &facts };
    let artifact = backend.artifact(legal.name());
    backend
        .write(&part, &job.staging.path().join(&artifact), &mut |_| {})
        .at(|| Place::Target(job.target.name().to_string()))?;
    job.explanations.push((legal.name().to_string(), explanations));
    job.parts.push(PartEntry::new(&legal, artifact));
    Ok(())
}

/// What an artifact says of itself.
fn facts(job: &Job, schedule: &Schedule) -> Vec<(String, String)> {
    let sigmas: Vec<String> = schedule.sigmas.iter().map(f32::to_string).collect();
    let facts = [
        ("version", env!("CARGO_PKG_VERSION").to_string()),
        ("subnet", job.width.label()),
        ("width", job.passes.widths.1.to_string()),
        ("precision", job.passes.precision.name().to_string()),
        ("sigmas", sigmas.join(" ")),
        ("rule", ScheduleEntry::from(schedule).rule),
    ];
    facts.into_iter().map(|(key, value)| (format!("snapc.{key}"), value)).collect()
}

fn finish(
    job: Job,
    options: &CompileOptions,
    pipeline: &Pipeline,
    latent: [usize; 2],
    schedule: &Schedule,
) -> Result<Compiled> {
    let mut files = Vec::new();
    for path in tokenizer::files(pipeline.folder()) {
        let bytes = std::fs::read(&path).map_err(|error| Error::io("read", &path, &error))?;
        let name = format!("tokenizer/{}", path.file_name().unwrap_or_default().to_string_lossy());
        job.staging.write(&name, &bytes)?;
        files.push(name);
    }
    let manifest = Manifest {
        schema: 1,
        snapc: env!("CARGO_PKG_VERSION").to_string(),
        options: OptionsEntry {
            target: job.target.name().to_string(),
            subnet: match &job.width {
                Width::Subnet(name) => Some(name.clone()),
                Width::Numbers(_) => None,
            },
            width: job.passes.widths.1,
            size: latent.map(|side| side * pipeline.pixels_per_latent()),
            latent_size: latent,
            precision: options.precision.name().to_string(),
            min_os: (job.target == Target::CoreMl).then(|| options.min_os.name().to_string()),
            bake: options.bake.name().to_string(),
        },
        parts: job.parts,
        schedule: schedule.into(),
        tokenizer: TokenizerEntry { files, tokens: pipeline.text_tokens() },
    };
    let mut text = serde_json::to_string_pretty(&manifest).map_err(Error::bug)?;
    text.push('\n');
    job.staging.write("manifest.json", text.as_bytes())?;
    Ok(Compiled { folder: job.staging.finish()?, manifest, explanations: job.explanations })
}
