use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use snapc_coreml::MinOs;
use snapc_frontends::{Part, Pipeline};
use snapc_ir::{Error, Graph, Result, Source, Weight, element_count};
use snapc_passes::{Pass, Slice};
use snapc_weights::{Region, Store};

use crate::bundle::BundleManifest;
use crate::bundle::view::is_bundle;
use crate::manifest::{PortEntry, ScheduleEntry, ops_by_kind, ports};
use crate::targets::Target;

/// What a path holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Inspection {
    /// A pipeline folder.
    Pipeline {
        /// Its subnets and their widths.
        subnets: BTreeMap<String, usize>,
        /// Rows and columns of its pictures, in pixels.
        size: [usize; 2],
        /// Tokens of a text.
        tokens: usize,
        /// The noise levels.
        schedule: ScheduleEntry,
        /// The parts; the transformer once a subnet.
        parts: Vec<PartSummary>,
        /// The tensors that no part reads, by name.
        ignored: Vec<String>,
    },
    /// A safetensors file.
    Safetensors {
        /// Its tensors, in the order of their names.
        tensors: Vec<TensorSummary>,
        /// Numbers in all tensors.
        parameters: u64,
        /// Bytes of all tensors.
        bytes: u64,
    },
    /// A written package.
    Package {
        /// The target whose format it has.
        target: String,
        /// The part in it.
        part: PartSummary,
    },
    /// A bundle.
    Bundle(Box<BundleManifest>),
    /// A written file of several parts, or sizes of them.
    File {
        /// The target whose format it has.
        target: String,
        /// What is in it, in its order.
        parts: Vec<PartSummary>,
    },
}

/// A graph in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartSummary {
    /// The part.
    pub part: String,
    /// The subnet, for a transformer of a pipeline.
    pub subnet: Option<String>,
    /// The signature, for a part of a file of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Numbers in the weights.
    pub parameters: u64,
    /// Bytes of the weights, as they are stored.
    pub bytes: u64,
    /// Ops.
    pub ops: usize,
    /// Floating-point operations of one run (for a transformer: one step).
    pub flops: u64,
    /// The inputs.
    pub inputs: Vec<PortEntry>,
    /// The outputs.
    pub outputs: Vec<PortEntry>,
    /// How many ops there are of each kind.
    pub op_counts: BTreeMap<String, usize>,
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorSummary {
    /// Its name.
    pub name: String,
    /// How its numbers are stored.
    #[serde(rename = "type")]
    pub dtype: String,
    /// Its sizes; empty where its type is none that a weight has.
    pub shape: Vec<usize>,
}

/// Says what is in a pipeline folder, a safetensors file or a written package.
///
/// # Errors
/// If it is none of them, or damaged.
pub fn inspect(path: &Path) -> Result<Inspection> {
    if is_bundle(path) {
        return Ok(Inspection::Bundle(Box::new(BundleManifest::read(path)?)));
    }
    if path.is_dir() && path.join("model_index.json").is_file() {
        return inspect_pipeline(path);
    }
    if path.is_file() && path.extension().is_some_and(|extension| extension == "safetensors") {
        return inspect_safetensors(path);
    }
    if let Some(target) = Target::of_artifact(path) {
        if target == Target::TfLite {
            return inspect_signatures(path);
        }
        let (graph, store) = target.backend(MinOs::default()).read(path)?;
        let part = packaged(&graph, &store);
        return Ok(Inspection::Package { target: target.name().to_string(), part });
    }
    let what = if path.exists() { "is nothing that snapc knows" } else { "does not exist" };
    Err(Error::input(format!("{} {what}", path.display()))
        .help("name a pipeline folder (with model_index.json), a .safetensors file or a written part (.mlpackage, a folder with model.onnx) or bundle"))
}

fn inspect_signatures(path: &Path) -> Result<Inspection> {
    let found = snapc_tflite::read_signatures(path)?;
    let target = Target::TfLite.name().to_string();
    if let [only] = &found[..]
        && only.key == snapc_tflite::ONLY_SIGNATURE
    {
        return Ok(Inspection::Package { target, part: packaged(&only.graph, &only.store) });
    }
    let parts = found
        .into_iter()
        .map(|read| PartSummary { signature: Some(read.key), ..packaged(&read.graph, &read.store) })
        .collect();
    Ok(Inspection::File { target, parts })
}

/// A part that was read back: its store knows which weights are codes.
fn packaged(graph: &Graph, store: &Store) -> PartSummary {
    let stored = |weight: &Weight| match &weight.source {
        Source::Tensor { name, .. } => store.region(name).map_or(0, Region::stored_bytes),
        _ => weight.stored_bytes(),
    };
    PartSummary { bytes: graph.weights().iter().map(stored).sum(), ..summary(graph, None) }
}

fn summary(graph: &Graph, subnet: Option<String>) -> PartSummary {
    let stored = |weight: &snapc_ir::Weight| match &weight.source {
        snapc_ir::Source::Tensor { dtype, .. } => (weight.ty().count() * dtype.size()) as u64,
        _ => weight.ty().bytes() as u64,
    };
    PartSummary {
        part: graph.name().to_string(),
        subnet,
        signature: None,
        parameters: graph.parameters(),
        bytes: graph.weights().iter().map(stored).sum(),
        ops: graph.nodes().len(),
        flops: graph.flops(),
        inputs: ports(graph, graph.inputs()),
        outputs: ports(graph, graph.outputs()),
        op_counts: ops_by_kind(graph),
    }
}

fn inspect_pipeline(path: &Path) -> Result<Inspection> {
    let pipeline = Pipeline::open(path)?;
    let latent = pipeline.latent_size(None)?;
    let schedule = pipeline.schedule(None, latent)?;
    let mut parts = Vec::new();
    let mut ignored = Vec::new();
    for part in Part::ALL {
        let imported = pipeline.import(part, 1, latent)?;
        ignored.extend(imported.ignored.iter().cloned());
        if part != Part::Transformer {
            parts.push(summary(&imported.graph, None));
            continue;
        }
        for (name, width) in pipeline.subnets() {
            let graph = Slice { from: pipeline.width(), to: width }.run(&imported.graph)?;
            parts.push(summary(&graph, Some(name)));
        }
    }
    Ok(Inspection::Pipeline {
        subnets: pipeline.subnets(),
        size: latent.map(|side| side * pipeline.pixels_per_latent()),
        tokens: pipeline.text_tokens(),
        schedule: (&schedule).into(),
        parts,
        ignored,
    })
}

fn inspect_safetensors(path: &Path) -> Result<Inspection> {
    let store = Store::open(&[path.to_path_buf()])?;
    let (mut parameters, mut bytes) = (0, 0);
    let tensors = store
        .names()
        .map(|name| match store.region(name) {
            Some(region) => {
                let count = element_count(&region.shape) as u64;
                parameters += count;
                bytes += count * region.dtype.size() as u64;
                TensorSummary {
                    name: name.to_string(),
                    dtype: region.dtype.to_string(),
                    shape: region.shape.clone(),
                }
            }
            None => TensorSummary {
                name: name.to_string(),
                dtype: store.foreign_type(name).unwrap_or_default().to_lowercase(),
                shape: Vec::new(),
            },
        })
        .collect();
    Ok(Inspection::Safetensors { tensors, parameters, bytes })
}
