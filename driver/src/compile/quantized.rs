//! What a compile does more where weights are quantized.

use std::collections::BTreeMap;

use snapc_backend::legalize_explained;
use snapc_frontends::{Part, Pipeline};
use snapc_ir::{Error, Graph, Result};
use snapc_passes::quantize::Layer;
use snapc_passes::{Pass, Precision, Quantize, run, standard};

use super::Job;
use crate::Report;
use crate::baking;
use crate::manifest::Manifest;
use crate::options::CompileOptions;
use crate::quantization::budget::{Sample, give_out};
use crate::quantization::{self, Accuracy, Budget, Quantization, Recipe, When, accuracy};

/// The place of the pass that encodes.
pub fn place(passes: &[Box<dyn Pass + '_>]) -> usize {
    passes.iter().position(|pass| pass.name() == "quantize").unwrap_or(passes.len())
}

/// Notes what each tensor of a part got.
///
/// # Errors
/// As [`Quantize::plan`].
pub fn note_recipe(recipe: &mut Recipe, quantization: &Quantization, graph: &Graph) -> Result<()> {
    let part = Part::ALL.into_iter().find(|part| part.name() == graph.name());
    let (Some(part), Some(quantize)) = (part, quantization.of(graph.name())) else { return Ok(()) };
    let (plan, _) = quantize.plan(graph)?;
    let layers = snapc_passes::quantize::layers(graph);
    let tensors = layers.iter().map(|layer| (layer.tensor.clone(), plan.get(&layer.weight).copied()));
    recipe.0.insert(part, Quantize { tensors: tensors.collect(), ..Quantize::default() });
    Ok(())
}

/// Where there is a budget, says what each layer of the transformer gets. Networks of one width get the same.
///
/// # Errors
/// If the budget cannot be met.
pub fn give_out_bits(
    jobs: &mut [Job],
    options: &CompileOptions,
    pipeline: &Pipeline,
    latent: [usize; 2],
    report: &mut dyn Report,
) -> Result<()> {
    let Some(budget) = options.quantization.budget else { return Ok(()) };
    let mut known: BTreeMap<usize, Quantize> = BTreeMap::new();
    for job in jobs {
        let width = job.passes.widths.1;
        let given = match known.get(&width) {
            Some(given) => given.clone(),
            None => given_to(job, budget, options, pipeline, latent, report)?,
        };
        let decode_palettes = options.quantization.allow_decode && !job.target.has_palettes();
        let asked = job.quantization.of(Part::Transformer.name()).cloned().unwrap_or_default();
        let tensors = given.tensors.clone();
        let own = Quantize { default: None, tensors, decode_palettes, ..asked };
        job.quantization.parts.insert(Part::Transformer, own);
        known.insert(width, given);
    }
    Ok(())
}

fn given_to(
    job: &Job,
    budget: Budget,
    options: &CompileOptions,
    pipeline: &Pipeline,
    latent: [usize; 2],
    report: &mut dyn Report,
) -> Result<Quantize> {
    let part = Part::Transformer;
    let imported = pipeline.import(part, 1, latent)?;
    let evaluate = |graph: &Graph, times: &[Vec<f32>]| baking::evaluate(&imported.store, graph, times);
    let passes = standard(&job.passes, imported.graph.stage(), &evaluate);
    let graph = run(&imported.graph, &passes, None)?;
    // Tables of positions come with lowering: what is counted is what is written.
    let (legal, _) = legalize_explained(&graph, job.backend.as_ref(), job.device)?;
    let each = if job.passes.precision == Precision::F32 { 4 } else { 2 };
    let fixed = |layers: &[Layer]| -> u64 {
        let free: u64 = layers.iter().map(|layer| layer.shape.iter().product::<usize>() as u64).sum();
        legal.weight_bytes().saturating_sub(each * free)
    };
    let asked = job.quantization.of(part.name()).cloned().unwrap_or_default();
    let sample = Sample {
        pipeline: &options.pipeline,
        width: &job.width,
        size: options.sizes.first().copied(),
        steps: options.steps,
    };
    let store = |store: &_| job.quantization.store_of(part.name(), store);
    Ok(give_out(budget, &asked, &sample, store, fixed, report)?.quantize)
}

/// Writes the recipe, measures what was lost, and writes that beside the artifacts.
///
/// # Errors
/// What the interpreter finds, or a loss past its bound.
pub fn account(
    job: &Job,
    options: &CompileOptions,
    manifest: &mut Manifest,
    report: &mut dyn Report,
) -> Result<Option<Accuracy>> {
    if job.recipe.0.is_empty() {
        return match options.quantization.max_loss.is_empty() {
            true => Ok(None),
            false => Err(Error::usage("--max-loss bounds what quantizing loses, and nothing is quantized")
                .help("add --quantize, or hold the output to a bound with `snapc verify`")),
        };
    }
    job.staging()?.write("recipe.toml", job.recipe.text().as_bytes())?;
    let asked = &options.quantization;
    let insist = asked.accuracy == When::On || !asked.max_loss.is_empty();
    if asked.accuracy == When::Off && !insist {
        return Ok(None);
    }
    let found = accuracy::measure(job.staging()?.path(), &options.pipeline, insist, None, report)?;
    let Some((mut accuracy, strips)) = found else {
        if insist {
            return Err(Error::usage("what quantizing loses is measured on whole pipelines")
                .help("leave --part out, or leave --accuracy and --max-loss out"));
        }
        report.warn(&format!(
            "{}: what quantizing loses was not measured: it takes too long, or parts are missing; --accuracy on insists",
            job.width.label()
        ));
        return Ok(None);
    };
    let size = options.sizes.first().copied();
    accuracy.layers =
        accuracy::layer_losses(&job.quantization, &options.pipeline, &job.width, size, options.steps)?;
    accuracy.check(&asked.max_loss)?;
    job.staging()?.write("strips.png", &quantization::png(&strips)?)?;
    job.staging()?.write("report.html", quantization::html(manifest, &accuracy, &strips)?.as_bytes())?;
    manifest.accuracy = Some(accuracy.clone());
    job.staging()?.write("manifest.json", manifest.text()?.as_bytes())?;
    Ok(Some(accuracy))
}
