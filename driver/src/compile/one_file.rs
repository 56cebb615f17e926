//! All parts, and sizes of them, as signatures of one file. Of the targets, TFLite has such files.

use snapc_backend::LegalGraph;
use snapc_frontends::{Imported, Part, Pipeline};
use snapc_ir::pipeline::Schedule;
use snapc_ir::{Context, Error, Place, Result};
use snapc_tflite::{ModelFile, Signature};
use snapc_weights::Store;

use super::{Job, Legal, batch, facts, legal_for, limits};
use crate::Report;
use crate::manifest::{PartEntry, sized};
use crate::options::CompileOptions;
use crate::targets::Target;

/// The name of the file.
const FILE: &str = "model.tflite";

/// One part in one size.
pub struct One {
    /// Its signature.
    pub key: String,
    /// Its size in pixels, where there are several.
    pub size: Option<[usize; 2]>,
    /// The part.
    pub imported: Imported,
}

/// Checks that options for one file go together.
///
/// # Errors
/// Several sizes for several files, or one file for a target that has none.
pub fn check(options: &CompileOptions) -> Result<()> {
    if !options.one_file && options.sizes.len() > 1 {
        return Err(Error::usage("several sizes go into one file only").help(
            "add --one-file (with --target tflite), or compile one size after the other, each with its own -o",
        ));
    }
    match options.targets.iter().find(|&&target| options.one_file && target != Target::TfLite) {
        Some(target) => Err(Error::usage(format!("the target {} has a package a part", target.name()))
            .help("name --target tflite alone, or leave --one-file out")),
        None => Ok(()),
    }
}

/// Makes all parts legal in all sizes, for every job; checks every file against the limits; then writes them.
///
/// # Errors
/// What any of these finds, and sizes whose sigmas differ.
pub fn write(
    jobs: &mut [Job],
    parts: &[Part],
    options: &CompileOptions,
    pipeline: &Pipeline,
    schedule: &Schedule,
    report: &mut dyn Report,
) -> Result<()> {
    let guided = jobs.iter().any(|job| job.guidance().is_some());
    let all = import(parts, options, pipeline, schedule, guided)?;
    let mut graphs: Vec<Vec<Legal>> = Vec::new();
    for job in jobs.iter_mut() {
        let mut own = Vec::new();
        for One { key, size, imported } in &all {
            let graph = legal_for(job, key, imported, report)?;
            let mut entry = PartEntry::new(&graph.0, FILE.to_string());
            (entry.signature, entry.size) = (Some(key.clone()), *size);
            job.parts.push(entry);
            own.push(graph);
        }
        graphs.push(own);
    }
    let facts: Vec<_> = jobs.iter().map(|job| facts(job, schedule, true)).collect();
    let limits = graphs.iter().map(|own| limits(options, own)).collect::<Result<Vec<_>>>()?;
    let (graphs, stores): (Vec<Vec<LegalGraph>>, Vec<Vec<Store>>) =
        graphs.into_iter().map(|own| own.into_iter().unzip()).unzip();
    let signatures = graphs.into_iter().zip(&stores).map(|(own, stores)| signatures(&all, own, stores));
    let files: Vec<ModelFile> = signatures
        .zip(&facts)
        .map(|(signatures, facts)| ModelFile::new(signatures, facts))
        .collect::<Result<_>>()
        .at(target)?;
    report.begin(FILE, files.iter().map(ModelFile::weight_bytes).sum());
    for ((job, file), limits) in jobs.iter_mut().zip(files).zip(limits) {
        let path = job.staging()?.path().join(FILE);
        job.written.push(file.write(&path, limits, &mut |bytes| report.advance(bytes)).at(target)?);
    }
    Ok(())
}

fn target() -> Place {
    Place::Target(Target::TfLite.name().to_string())
}

fn signatures<'a>(all: &[One], graphs: Vec<LegalGraph>, stores: &'a [Store]) -> Vec<Signature<'a>> {
    let each = all.iter().zip(graphs).zip(stores);
    each.map(|((one, graph), store)| Signature { key: one.key.clone(), graph, store }).collect()
}

/// Each part once a size; the text encoder, which no size changes, once.
///
/// # Errors
/// What the import finds, and sizes whose sigmas differ.
pub fn import(
    parts: &[Part],
    options: &CompileOptions,
    pipeline: &Pipeline,
    schedule: &Schedule,
    guided: bool,
) -> Result<Vec<One>> {
    let sizes = sizes(options, pipeline, schedule)?;
    let several = sizes.len() > 1;
    let mut all = Vec::new();
    for &part in parts {
        let depends = part != Part::TextEncoder;
        for &latent in &sizes[..if depends { sizes.len() } else { 1 }] {
            let pixels = latent.map(|side| side * pipeline.pixels_per_latent());
            let size = (several && depends).then_some(pixels);
            let imported = pipeline.import(part, batch(part, guided), latent)?;
            all.push(One { key: sized(part.name(), size), size, imported });
        }
    }
    Ok(all)
}

/// The sizes of the latent, each once; at least one.
fn sizes(options: &CompileOptions, pipeline: &Pipeline, schedule: &Schedule) -> Result<Vec<[usize; 2]>> {
    if options.sizes.is_empty() {
        return Ok(vec![pipeline.latent_size(None)?]);
    }
    let mut sizes = Vec::new();
    for &pixels in &options.sizes {
        let latent = pipeline.latent_size(Some(pixels))?;
        // The manifest and the file's facts have one schedule.
        if pipeline.schedule(options.steps, latent)?.sigmas != schedule.sigmas {
            let [first, other] = [options.sizes[0], pixels].map(|[rows, cols]| format!("{rows}x{cols}"));
            return Err(Error::usage(format!("the sigmas of {other} are not those of {first}")).help(
                "the scheduler shifts them by the size: compile one size after the other, each with its own -o",
            ));
        }
        if !sizes.contains(&latent) {
            sizes.push(latent);
        }
    }
    Ok(sizes)
}
