//! The JSON files that let other software open a compiled folder as a pipeline of diffusers.

use std::path::Path;

use serde_json::{Map, Value, json};
use snapc_frontends::{Part, Pipeline};
use snapc_ir::{Error, Place, Result};
use snapc_onnx::Layout;

use crate::manifest::Manifest;
use crate::targets::Target;

type Object = Map<String, Value>;

const INDEX: &str = "model_index.json";
const SCHEDULER: &str = "scheduler/scheduler_config.json";

/// Writes what a target's folder has beside its artifacts. Core ML and TFLite have nothing.
///
/// # Errors
/// If a file of the pipeline cannot be read or one of these not be written; if the pipeline is none that the layout can say.
pub fn write(
    target: Target,
    layout: Layout,
    pipeline: &Pipeline,
    manifest: &Manifest,
    folder: &Path,
) -> Result<()> {
    let files = files(target, layout, pipeline, manifest)?;
    files.iter().try_for_each(|(name, object)| write_json(&folder.join(name), object))
}

/// What a target's folder has beside its artifacts, by name.
///
/// # Errors
/// If a file of the pipeline cannot be read; if the pipeline is none that the layout can say.
pub fn files(
    target: Target,
    layout: Layout,
    pipeline: &Pipeline,
    manifest: &Manifest,
) -> Result<Vec<(String, Object)>> {
    if target != Target::Onnx {
        return Ok(Vec::new());
    }
    let parts: Vec<Part> = Part::ALL
        .into_iter()
        .filter(|part| manifest.parts.iter().any(|entry| entry.part == part.name()))
        .collect();
    let mut files = vec![(INDEX.to_string(), index(layout, pipeline, &parts)?)];
    match layout {
        Layout::Default => files.push((SCHEDULER.to_string(), pipeline.json(SCHEDULER)?)),
        Layout::Optimum => {
            files.push((SCHEDULER.to_string(), plain_scheduler(pipeline, manifest)?));
            for part in parts {
                let config = optimum_config(part, pipeline, manifest)?;
                files.push((format!("{}/config.json", part.name()), config));
            }
        }
    }
    Ok(files)
}

fn write_json(path: &Path, object: &Object) -> Result<()> {
    let mut object = object.clone();
    // Where the checkpoint once lay is nobody's business.
    object.retain(|key, _| key != "_name_or_path");
    let mut text = serde_json::to_string_pretty(&object).map_err(Error::bug)?;
    text.push('\n');
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| Error::io("make", parent, &error))?;
    }
    std::fs::write(path, text).map_err(|error| Error::io("write", path, &error))
}

/// The pipeline's index, with the classes of the libraries that load ONNX instead of those that load checkpoints.
fn index(layout: Layout, pipeline: &Pipeline, parts: &[Part]) -> Result<Object> {
    let source = pipeline.json(INDEX)?;
    let mut index = Object::new();
    let class = match layout {
        Layout::Default => source.get("_class_name").cloned().unwrap_or_default(),
        // The one pipeline of optimum's whose transformer has our inputs: text, its mask, 1000 sigma in, velocity out.
        Layout::Optimum => json!("SanaPipeline"),
    };
    index.insert("_class_name".to_string(), class);
    for key in ["_diffusers_version", "scheduler", "tokenizer"] {
        if let Some(value) = source.get(key) {
            index.insert(key.to_string(), value.clone());
        }
    }
    for part in parts {
        index.insert(part.name().to_string(), json!(["diffusers", "OnnxRuntimeModel"]));
    }
    Ok(index)
}

/// The scheduler for a caller who gives a distilled student's noise levels as `sigmas`: diffusers would shift them again.
fn plain_scheduler(pipeline: &Pipeline, manifest: &Manifest) -> Result<Object> {
    let mut config = pipeline.json(SCHEDULER)?;
    if !manifest.schedule.distilled {
        return Ok(config);
    }
    let plain = [
        ("shift", json!(1.0)),
        ("use_dynamic_shifting", json!(false)),
        ("shift_terminal", Value::Null),
        ("use_karras_sigmas", json!(false)),
        ("use_exponential_sigmas", json!(false)),
        ("use_beta_sigmas", json!(false)),
    ];
    for (field, value) in plain {
        config.insert(field.to_string(), value);
    }
    Ok(config)
}

/// The fields of a part's config that optimum's pipeline reads.
fn optimum_config(part: Part, pipeline: &Pipeline, manifest: &Manifest) -> Result<Object> {
    let config = match part {
        Part::TextEncoder => return pipeline.json("text_encoder/config.json"),
        Part::Transformer => transformer_config(pipeline, manifest)?,
        Part::VaeDecoder => decoder_config(pipeline)?,
    };
    match config {
        Value::Object(object) => Ok(object),
        _ => Err(Error::bug("a config is no object")),
    }
}

fn transformer_config(pipeline: &Pipeline, manifest: &Manifest) -> Result<Value> {
    let source = pipeline.json("transformer/config.json")?;
    let channels = pipeline.latent_channels();
    let out_channels = source.get("out_channels").and_then(Value::as_u64).unwrap_or(channels as u64);
    // The pipeline takes half of such an output for a variance.
    if out_channels / 2 == channels as u64 {
        return Err(refuse(
            pipeline,
            "transformer/config.json",
            &format!("`out_channels` is {out_channels}"),
        ));
    }
    Ok(json!({
        "_class_name": "SanaTransformer2DModel",
        "in_channels": channels,
        "out_channels": out_channels,
        "patch_size": source.get("patch_size"),
        // Sana's is one number, which only names a table of sizes that snapc's pictures do not use.
        "sample_size": manifest.options.latent_size.iter().max(),
        "timestep_scale": 1.0,
    }))
}

fn decoder_config(pipeline: &Pipeline) -> Result<Value> {
    let factor = pipeline.pixels_per_latent();
    // The pipeline sees how much a decoder enlarges by how long this list is, and by nothing else.
    if !factor.is_power_of_two() {
        return Err(refuse(pipeline, "vae/config.json", &format!("the decoder enlarges {factor} times")));
    }
    let stages = factor.trailing_zeros() as usize + 1;
    Ok(json!({
        "_class_name": "AutoencoderDC",
        "encoder_block_out_channels": vec![pipeline.latent_channels(); stages],
        "latent_channels": pipeline.latent_channels(),
        "scaling_factor": pipeline.scaling_factor(),
    }))
}

fn refuse(pipeline: &Pipeline, file: &str, what: &str) -> Error {
    Error::limit(format!("{what}, which optimum's pipelines cannot take"))
        .at(Place::File(pipeline.folder().join(file)))
        .help("compile with --layout default")
}
