//! What stands beside the artifacts: tokenizer, manifest with all digests, and what else a target or an option asks for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use snapc_frontends::{Part, Pipeline, tokenizer};
use snapc_ir::pipeline::Schedule;
use snapc_ir::{Error, Result};
use snapc_onnx::Layout;

use super::{Compiled, Job, quantized};
use crate::Report;
use crate::companions;
use crate::files::{self, MANIFEST};
use crate::inputs::{Inputs, Stamps};
use crate::manifest::{Manifest, OptionsEntry, TokenizerEntry};
use crate::options::{CompileOptions, Width};
use crate::provenance::{self, SBOM};
use crate::targets::Target;

/// What all jobs of a compile have in common.
pub struct Common<'a> {
    /// What was asked for.
    pub options: &'a CompileOptions,
    /// The pipeline.
    pub pipeline: &'a Pipeline,
    /// Rows and columns of the latent.
    pub latent: [usize; 2],
    /// The noise levels.
    pub schedule: &'a Schedule,
    /// The parts.
    pub parts: &'a [Part],
    /// What the inputs were before they were read; a plan reads none.
    pub stamps: Option<Stamps>,
}

/// The manifest of a job before a file has a digest.
pub fn manifest(job: &Job, common: &Common) -> Manifest {
    let &Common { options, pipeline, latent, schedule, .. } = common;
    let quantize = &options.quantization;
    let entry = OptionsEntry {
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
        device: job.device.name().to_string(),
        bake: job.bake.name().to_string(),
        guidance: job.guidance(),
        layout: (job.target == Target::Onnx).then(|| job.layout.name().to_string()),
        latent_divisor: (job.layout == Layout::Optimum).then(|| pipeline.scaling_factor()),
        parts: options.parts.iter().map(|part| part.name().to_string()).collect(),
        steps: options.steps,
        one_file: options.one_file,
        ranges: options.ranges.name().to_string(),
        quantize: quantize
            .parts
            .iter()
            .map(|(part, choice)| (part.name().to_string(), choice.to_string()))
            .collect(),
        budget: quantize.budget.map(|budget| budget.to_string()),
        allow_decode: quantize.allow_decode,
        accuracy: quantize.accuracy.name().to_string(),
        provenance: options.provenance,
        quantized: job.recipe.0.keys().map(|part| part.name().to_string()).collect(),
    };
    let mut parts = job.parts.clone();
    for part in &mut parts {
        part.ranges_measured = job.ranges.iter().any(|of| of.part == part.part);
    }
    let tokens = TokenizerEntry { files: tokenizer_files(pipeline), tokens: pipeline.text_tokens() };
    Manifest::planned(entry, parts, schedule, tokens)
}

/// The names of the tokenizer's files in a compiled folder.
fn tokenizer_files(pipeline: &Pipeline) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    tokenizer::files(pipeline.folder()).iter().map(|path| format!("tokenizer/{}", name(path))).collect()
}

/// Writes all that stands beside a job's artifacts, and puts the folder in its place. `known` keeps the inputs from job to job.
///
/// # Errors
/// If a file cannot be read or written, or what was lost passes a bound.
pub fn finish(
    mut job: Job,
    common: &Common,
    known: &mut BTreeMap<bool, Inputs>,
    report: &mut dyn Report,
) -> Result<Compiled> {
    let &Common { options, pipeline, parts, .. } = common;
    let mut manifest = manifest(&job, common);
    for (path, name) in tokenizer::files(pipeline.folder()).iter().zip(&manifest.tokenizer.files) {
        let bytes = std::fs::read(path).map_err(|error| Error::io("read", path, &error))?;
        job.staging()?.write(name, &bytes)?;
    }
    job.staging()?.write(MANIFEST, manifest.text()?.as_bytes())?;
    companions::write(job.target, job.layout, pipeline, &manifest, job.staging()?.path())?;
    let accuracy = quantized::account(&job, options, &mut manifest, report)?;
    let drawn = job.calibration.is_some() || accuracy.is_some() || options.quantization.budget.is_some();
    let inputs = match known.get(&drawn) {
        Some(inputs) => inputs.clone(),
        None => Inputs::of(options, pipeline, parts, drawn)?,
    };
    known.insert(drawn, inputs.clone());
    common.stamps.iter().try_for_each(Stamps::check)?;
    let Inputs { files, checkpoints, licence } = inputs;
    (manifest.inputs, manifest.checkpoints, manifest.licence) = (files, checkpoints, licence);
    if options.provenance {
        job.staging()?.write(SBOM, provenance::sbom(&manifest).as_bytes())?;
    }
    manifest.files = files::list(job.staging()?.path(), &files::UNLISTED, &job.written)?;
    job.staging()?.write(MANIFEST, manifest.text()?.as_bytes())?;
    if options.provenance {
        provenance::write(job.staging()?.path(), &manifest)?;
    }
    let staging = job.staging.take().ok_or_else(|| Error::bug("a folder is put in its place twice"))?;
    Ok(Compiled {
        folder: staging.finish()?,
        manifest,
        explanations: job.explanations,
        ranges: job.ranges,
        accuracy,
    })
}
