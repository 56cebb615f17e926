use std::path::Path;

use serde::{Deserialize, Serialize};
use snapc_frontends::Part;
use snapc_ir::pipeline::{Schedule, StepRule};
use snapc_ir::{Error, Graph, Place, Port, Result};
use snapc_onnx::Layout;

use crate::options::Bake;
use crate::quantization::Accuracy;
use crate::targets::Target;

/// `manifest.json` beside the artifacts: what they are and how they are used. It holds no time and no path of the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form.
    pub schema: u32,
    /// The version of snapc that wrote it.
    pub snapc: String,
    /// The options that the artifacts depend on.
    pub options: OptionsEntry,
    /// The parts.
    pub parts: Vec<PartEntry>,
    /// How a picture is sampled.
    pub schedule: ScheduleEntry,
    /// Files of the tokenizer, beside this one, and the texts' length.
    pub tokenizer: TokenizerEntry,
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
        serde_json::from_str(&text).map_err(|error| {
            Error::input(format!("this is no manifest of snapc: {error}"))
                .at(Place::File(path))
                .help("was it written by another version? compile again")
        })
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
    /// Ops of the graph that was written.
    pub ops: usize,
    /// Floating-point operations of one run; a multiply-add is two.
    pub flops: u64,
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
        PartEntry {
            part: graph.name().to_string(),
            artifact,
            signature: None,
            size: None,
            inputs: ports(graph, graph.inputs()),
            outputs: ports(graph, graph.outputs()),
            parameters: graph.parameters(),
            weight_bytes: graph.weight_bytes(),
            ops: graph.nodes().len(),
            flops: graph.flops(),
        }
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
