use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use snapc_frontends::Part;
use snapc_ir::analysis::{Peak, peak};
use snapc_ir::pipeline::{Schedule, StepRule};
use snapc_ir::{Code, Error, Graph, Place, Port, Result, Weight};
use snapc_onnx::Layout;
use snapc_passes::NAMES;

use crate::files::FileEntry;
use crate::inputs::{InputEntry, LicenceEntry};
use crate::options::{Bake, Width};
use crate::quantization::Accuracy;
use crate::targets::Target;
use crate::verify::{Row, Thresholds};

/// The version of the form that is written and read.
pub const SCHEMA: u32 = 2;

/// How a seed becomes the noise that a picture starts from.
const SEED_RULE: &str = "the noise of seed S is torch.randn(latent shape, generator=torch.Generator(\"cpu\").manual_seed(S)) in float32; fresh noise of stochastic steps comes from the same generator, step by step";

/// `manifest.json` beside the artifacts: what they are, what they were made of and how they are used; `docs/manifest.md` has every field.
/// It holds no time and no path of the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form.
    pub schema: u32,
    /// The version of snapc that wrote it.
    pub snapc: String,
    /// The options that the artifacts depend on.
    pub options: OptionsEntry,
    /// The passes, in order.
    pub passes: Vec<String>,
    /// The parts.
    pub parts: Vec<PartEntry>,
    /// How a picture is sampled.
    pub schedule: ScheduleEntry,
    /// How a seed becomes noise.
    pub seed_rule: String,
    /// Files of the tokenizer, beside this one, and the texts' length.
    pub tokenizer: TokenizerEntry,
    /// The licence of the model, as its folder says it.
    pub licence: Option<LicenceEntry>,
    /// For each part whose weights were read the fingerprint of its checkpoint.
    pub checkpoints: BTreeMap<String, String>,
    /// The files that the compile read.
    pub inputs: Vec<InputEntry>,
    /// The files of this folder, but for this one and the statements about it.
    pub files: Vec<FileEntry>,
    /// What `verify --record` found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<VerifiedEntry>,
    /// What quantizing lost, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Accuracy>,
}

impl Manifest {
    /// Reads the manifest of a compiled folder.
    ///
    /// # Errors
    /// If it is missing or no manifest.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("manifest.json");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Error::io("read", &path, &error).help("name a folder that `snapc compile` wrote")
        })?;
        let wrong = |message: String| {
            Error::input(message)
                .at(Place::File(path.clone()))
                .help("was it written by another version? compile again")
        };
        let damaged = |error: serde_json::Error| wrong(format!("this is no manifest of snapc: {error}"));
        let Version { schema } = serde_json::from_str(&text).map_err(damaged)?;
        if schema != SCHEMA {
            return Err(wrong(format!("the manifest has the schema {schema}, expected {SCHEMA}")));
        }
        serde_json::from_str(&text).map_err(damaged)
    }

    /// A manifest of parts before anything is written: without digests, licence and inputs.
    pub fn planned(
        options: OptionsEntry,
        parts: Vec<PartEntry>,
        schedule: &Schedule,
        tokenizer: TokenizerEntry,
    ) -> Self {
        Manifest {
            schema: SCHEMA,
            snapc: env!("CARGO_PKG_VERSION").to_string(),
            options,
            passes: NAMES[1..].iter().map(ToString::to_string).collect(),
            parts,
            schedule: schedule.into(),
            seed_rule: SEED_RULE.to_string(),
            tokenizer,
            licence: None,
            checkpoints: BTreeMap::new(),
            inputs: Vec::new(),
            files: Vec::new(),
            verified: None,
            accuracy: None,
        }
    }

    /// Its text.
    ///
    /// # Errors
    /// None that a manifest can have.
    pub fn text(&self) -> Result<String> {
        let mut text = serde_json::to_string_pretty(self).map_err(Error::bug)?;
        text.push('\n');
        Ok(text)
    }

    /// What of the schedule is part of the graph.
    ///
    /// # Errors
    /// If this version bakes nothing of that name.
    pub fn bake(&self) -> Result<Bake> {
        self.options.bake.parse().map_err(|message: String| {
            Error::input(format!("{message} (manifest.json)")).help("was it written by another version?")
        })
    }

    /// The sizes of its pictures, in pixels: those that a run can choose from, or the only one.
    pub fn sizes(&self) -> Vec<[usize; 2]> {
        let mut sizes: Vec<[usize; 2]> = Vec::new();
        for size in self.parts.iter().filter_map(|entry| entry.size) {
            if !sizes.contains(&size) {
                sizes.push(size);
            }
        }
        if sizes.is_empty() { vec![self.options.size] } else { sizes }
    }

    /// The entry of a part for pictures of that size.
    pub fn part(&self, part: Part, size: [usize; 2]) -> Option<&PartEntry> {
        let fits = |entry: &&PartEntry| entry.part == part.name() && entry.size.is_none_or(|own| own == size);
        self.parts.iter().find(fits)
    }

    /// The network's name: that of its folder.
    pub fn label(&self) -> String {
        let width = || Width::Numbers(self.options.width).label();
        self.options.subnet.clone().unwrap_or_else(width)
    }

    /// The target that it was written for.
    ///
    /// # Errors
    /// If this version has no such target.
    pub fn target(&self) -> Result<Target> {
        self.options.target.parse().map_err(|message: String| {
            Error::input(format!("{message} (manifest.json)")).help("was it written by another version?")
        })
    }
}

/// What alone is read of a manifest whose form is not known yet.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

/// The options of a compile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptionsEntry {
    /// The target.
    pub target: String,
    /// The subnet's name, or none for a width.
    pub subnet: Option<String>,
    /// The width.
    pub width: usize,
    /// Rows and columns of the picture, in pixels; of the first one where parts have sizes of their own.
    pub size: [usize; 2],
    /// Rows and columns of the latent.
    pub latent_size: [usize; 2],
    /// The type computed in.
    pub precision: String,
    /// The oldest system, for Core ML.
    pub min_os: Option<String>,
    /// What the graphs are written for.
    pub device: String,
    /// What of the schedule is part of the graph.
    pub bake: String,
    /// The guidance that is part of the graph.
    pub guidance: Option<f32>,
    /// The layout, for ONNX.
    pub layout: Option<String>,
    /// What the latent is divided by before the VAE decoder takes it; none where the decoder does that itself.
    pub latent_divisor: Option<f64>,
    /// The parts that were asked for; empty means all.
    pub parts: Vec<String>,
    /// The number of steps that was asked for.
    pub steps: Option<usize>,
    /// Whether all parts and sizes went into one file.
    pub one_file: bool,
    /// When ranges were to be measured: `auto`, `on` or `off`.
    pub ranges: String,
    /// For each part the encoding that was asked for, as `recipe.toml` writes it: `int4 group 32 gptq`.
    pub quantize: BTreeMap<String, String>,
    /// The budget under which bits were given out.
    pub budget: Option<String>,
    /// Whether palettes that the target has not were stored as the numbers that they decode to.
    pub allow_decode: bool,
    /// When losses were to be measured: `auto`, `on` or `off`.
    pub accuracy: String,
    /// Whether a bill of materials and a statement of provenance were written.
    pub provenance: bool,
    /// The parts that are quantized, as `recipe.toml` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quantized: Vec<String>,
}

/// One part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartEntry {
    /// `text_encoder`, `transformer` or `vae_decoder`.
    pub part: String,
    /// The file or folder, beside the manifest.
    pub artifact: String,
    /// The signature to run, where the file is that of several parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Rows and columns of the picture that it is for, in pixels, where a folder has several sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<[usize; 2]>,
    /// Its inputs.
    pub inputs: Vec<PortEntry>,
    /// Its outputs.
    pub outputs: Vec<PortEntry>,
    /// Numbers that come from the checkpoint.
    pub parameters: u64,
    /// Bytes of the weights as written.
    pub weight_bytes: u64,
    /// Those bytes by how numbers are stored: `f16`, `f32`, `int4`, `palette6`, ..; scales and tables count with their codes.
    pub weight_types: BTreeMap<String, u64>,
    /// Ops of the graph that was written.
    pub ops: usize,
    /// The ops by kind.
    pub ops_by_kind: BTreeMap<String, usize>,
    /// The ops by the type of their (first) result.
    pub ops_by_type: BTreeMap<String, usize>,
    /// Floating-point operations of one run; a multiply-add is two.
    pub flops: u64,
    /// What a run is predicted to hold at once.
    pub memory: MemoryEntry,
    /// Whether values were scaled or kept in f32 by ranges that were measured.
    pub ranges_measured: bool,
}

/// The most that one run of a part holds: weights as they are stored, and the values that are alive at once in the order of the ops, each
/// in its own type. A runtime that decodes weights, or whose kernels need room of their own, takes more; one that computes in place, less.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEntry {
    /// Bytes of weights and values together.
    pub peak_bytes: u64,
    /// Bytes of the values at the peak.
    pub value_bytes: u64,
    /// The path of the op that runs then; empty for what stands between modules.
    pub at: String,
}

/// What `verify --record` found: all of it kept to the thresholds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifiedEntry {
    /// How many of the pipeline's prompts were drawn.
    pub prompts: usize,
    /// What was to be kept to.
    pub thresholds: Thresholds,
    /// The table.
    pub rows: Vec<Row>,
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortEntry {
    /// Its name.
    pub name: String,
    /// The type of its numbers.
    #[serde(rename = "type")]
    pub dtype: String,
    /// Its sizes.
    pub shape: Vec<usize>,
}

/// How a picture is sampled: timestep = 1000 sigma.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleEntry {
    /// The noise levels, one more than there are steps.
    pub sigmas: Vec<f32>,
    /// `euler` or `stochastic`.
    pub rule: String,
    /// Whether they are a step-distilled student's own, which excludes guidance.
    pub distilled: bool,
}

/// The tokenizer's files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizerEntry {
    /// The files, beside the manifest.
    pub files: Vec<String>,
    /// Tokens of a text, padded.
    pub tokens: usize,
}

impl ScheduleEntry {
    /// The schedule that it says.
    ///
    /// # Errors
    /// If it has no step or a rule that is not known.
    pub fn schedule(&self) -> Result<Schedule> {
        let rule = match self.rule.as_str() {
            "euler" => StepRule::Euler,
            "stochastic" => StepRule::Stochastic,
            other => return Err(Error::input(format!("`rule` is {other:?}, expected euler or stochastic"))),
        };
        if self.sigmas.len() < 2 {
            return Err(Error::input(format!(
                "there are {} sigmas, expected at least two",
                self.sigmas.len()
            )));
        }
        Ok(Schedule { sigmas: self.sigmas.clone(), rule, distilled: self.distilled })
    }
}

impl From<&Schedule> for ScheduleEntry {
    fn from(schedule: &Schedule) -> Self {
        let rule = match schedule.rule {
            StepRule::Euler => "euler",
            StepRule::Stochastic => "stochastic",
        };
        let Schedule { sigmas, distilled, .. } = schedule.clone();
        ScheduleEntry { sigmas, rule: rule.to_string(), distilled }
    }
}

impl PartEntry {
    /// What a graph's artifact is.
    pub fn new(graph: &Graph, artifact: String) -> Self {
        let mut weight_types = BTreeMap::new();
        for weight in graph.weights() {
            *weight_types.entry(stored_as(weight)).or_default() += weight.stored_bytes();
        }
        let mut ops_by_type = BTreeMap::new();
        for node in graph.nodes() {
            let dtype = node.results.first().map(|&id| graph.ty(id).dtype.to_string());
            *ops_by_type.entry(dtype.unwrap_or_default()).or_default() += 1;
        }
        let Peak { bytes: value_bytes, scope: at } = peak(graph);
        let peak_bytes = value_bytes.saturating_add(graph.weight_bytes());
        PartEntry {
            part: graph.name().to_string(),
            artifact,
            signature: None,
            size: None,
            inputs: ports(graph, graph.inputs()),
            outputs: ports(graph, graph.outputs()),
            parameters: graph.parameters(),
            weight_bytes: graph.weight_bytes(),
            weight_types,
            ops: graph.nodes().len(),
            ops_by_kind: ops_by_kind(graph),
            ops_by_type,
            flops: graph.flops(),
            memory: MemoryEntry { peak_bytes, value_bytes, at },
            ranges_measured: false,
        }
    }
}

/// How many ops a graph has of each kind.
pub fn ops_by_kind(graph: &Graph) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for node in graph.nodes() {
        *counts.entry(node.op.name().to_string()).or_default() += 1;
    }
    counts
}

/// How a weight's numbers are stored.
fn stored_as(weight: &Weight) -> String {
    match weight.coded().map(|coded| coded.code) {
        Some(Code::Int { bits }) => format!("int{bits}"),
        Some(Code::Palette { bits }) => format!("palette{bits}"),
        None => weight.dtype.to_string(),
    }
}

impl PartEntry {
    /// Gives the ports the names and types that they have in a layout's files.
    pub fn rename(&mut self, layout: Layout) {
        for port in self.inputs.iter_mut().chain(&mut self.outputs) {
            if let Some((name, dtype)) = layout.port(&self.part, &port.name) {
                port.name = name.to_string();
                if let Some(dtype) = dtype {
                    port.dtype = dtype.to_string();
                }
            }
        }
    }
}

/// A name, with a size where there are several: `transformer_512x768`.
pub fn sized(name: &str, size: Option<[usize; 2]>) -> String {
    size.map_or(name.to_string(), |[rows, cols]| format!("{name}_{rows}x{cols}"))
}

/// The names and types of some ports.
pub fn ports(graph: &Graph, ports: &[Port]) -> Vec<PortEntry> {
    let entry = |port: &Port| {
        let ty = graph.ty(port.value);
        PortEntry { name: port.name.clone(), dtype: ty.dtype.to_string(), shape: ty.shape.clone() }
    };
    ports.iter().map(entry).collect()
}
