use std::path::PathBuf;
use std::str::FromStr;

use snapc_backend::Device;
use snapc_coreml::MinOs;
use snapc_frontends::{Part, Pipeline};
use snapc_ir::Result;
use snapc_onnx::Layout;
use snapc_passes::Precision;

use crate::quantization::QuantizeOptions;
use crate::targets::Target;

/// Which network of the supernet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Width {
    /// A subnet of the config, by name.
    Subnet(String),
    /// Any width that heads divide.
    Numbers(usize),
}

impl Width {
    /// The width in numbers.
    ///
    /// # Errors
    /// If there is no such subnet or heads do not divide the width.
    pub fn resolve(&self, pipeline: &Pipeline) -> Result<usize> {
        match self {
            Width::Subnet(name) => pipeline.subnet(name),
            Width::Numbers(width) => pipeline.check_width(*width).map(|()| *width),
        }
    }

    /// The name of its output folder.
    pub fn label(&self) -> String {
        match self {
            Width::Subnet(name) => name.clone(),
            Width::Numbers(width) => format!("width-{width}"),
        }
    }
}

/// What of the schedule becomes part of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bake {
    /// Nothing: the transformer gives the velocity, the app walks the schedule.
    None,
    /// One step: the transformer takes a latent and the number of the step, and gives the next latent.
    Step,
    /// All steps: the transformer takes noise and gives the last latent.
    Unrolled,
}

impl Bake {
    /// All of them.
    pub const ALL: [Bake; 3] = [Bake::None, Bake::Step, Bake::Unrolled];

    /// The word of the option.
    pub fn name(self) -> &'static str {
        match self {
            Bake::None => "none",
            Bake::Step => "step",
            Bake::Unrolled => "unrolled",
        }
    }
}

impl FromStr for Bake {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let names = || Bake::ALL.map(Bake::name).join(", ");
        Bake::ALL
            .into_iter()
            .find(|bake| bake.name() == text)
            .ok_or_else(|| format!("`{text}` cannot be baked; the choices are {}", names()))
    }
}

/// Whether the ranges of a part's values are measured where it computes in f16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ranges {
    /// Where that takes some ten seconds at most.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: all values are taken to fit f16.
    Off,
}

impl Ranges {
    /// All of them.
    pub const ALL: [Ranges; 3] = [Ranges::Auto, Ranges::On, Ranges::Off];

    /// The word of the option.
    pub fn name(self) -> &'static str {
        match self {
            Ranges::Auto => "auto",
            Ranges::On => "on",
            Ranges::Off => "off",
        }
    }
}

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Ranges::ALL
            .into_iter()
            .find(|ranges| ranges.name() == text)
            .ok_or_else(|| format!("`{text}` is no way to measure ranges; the ways are auto, on, off"))
    }
}

/// What `compile` is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct CompileOptions {
    /// The pipeline folder.
    pub pipeline: PathBuf,
    /// The networks, each in its own folder.
    pub widths: Vec<Width>,
    /// The targets.
    pub targets: Vec<Target>,
    /// The parts; empty means all.
    pub parts: Vec<Part>,
    /// Rows and columns of the picture, in pixels; empty means the pipeline's own. More than one only with `one_file`.
    pub sizes: Vec<[usize; 2]>,
    /// All parts and sizes in one file, for TFLite.
    pub one_file: bool,
    /// The type to compute in.
    pub precision: Precision,
    /// The oldest system for Core ML.
    pub min_os: MinOs,
    /// What the artifacts are written for; none means each target's own.
    pub device: Option<Device>,
    /// What of the schedule becomes part of the graph; none means one step for a distilled student, else nothing.
    pub bake: Option<Bake>,
    /// Steps; none means the pipeline's own number.
    pub steps: Option<usize>,
    /// How strongly the prompt pulls, baked into the graph.
    pub guidance: Option<f32>,
    /// Whether the ranges of values are measured.
    pub ranges: Ranges,
    /// What is quantized, and how.
    pub quantization: QuantizeOptions,
    /// The layout of ONNX folders.
    pub layout: Layout,
    /// Bytes that the process may hold while it writes weights; none means that a few weights at once may be as large as they are.
    pub max_memory: Option<u64>,
    /// Whether every input has its digest in the manifest, and a bill of materials and a statement of provenance are written.
    pub provenance: bool,
    /// Whether what no width changes has to be the same bytes for all networks of a target: it is measured on one network's pictures.
    pub share: bool,
    /// The output folder: `<output>/<target>/<subnet>/`.
    pub output: PathBuf,
}

impl CompileOptions {
    /// All parts of one network for one target, everything else as the command has it where nothing is said.
    pub fn new(pipeline: PathBuf, width: Width, target: Target, output: PathBuf) -> Self {
        CompileOptions {
            pipeline,
            widths: vec![width],
            targets: vec![target],
            parts: Vec::new(),
            sizes: Vec::new(),
            one_file: false,
            precision: Precision::default(),
            min_os: MinOs::default(),
            device: None,
            bake: None,
            steps: None,
            guidance: None,
            ranges: Ranges::default(),
            quantization: QuantizeOptions::default(),
            layout: Layout::default(),
            max_memory: None,
            provenance: false,
            share: false,
            output,
        }
    }
}

/// Reads `HxW`, in pixels.
///
/// # Errors
/// A text of another form.
pub fn parse_size(text: &str) -> std::result::Result<[usize; 2], String> {
    let sides = text.split_once(['x', 'X']).and_then(|(height, width)| {
        let side = |text: &str| text.trim().parse::<usize>().ok().filter(|&side| (1..=65536).contains(&side));
        Some([side(height)?, side(width)?])
    });
    sides.ok_or_else(|| format!("`{text}` is no size; write height x width in pixels, as 1024x768"))
}

/// Reads a part's name.
///
/// # Errors
/// A name that no part has.
pub fn parse_part(text: &str) -> std::result::Result<Part, String> {
    let names = || Part::ALL.map(Part::name).join(", ");
    Part::ALL
        .into_iter()
        .find(|part| part.name() == text || (text == "vae" && *part == Part::VaeDecoder))
        .ok_or_else(|| format!("`{text}` is no part; the parts are {}", names()))
}
