use std::path::PathBuf;
use std::str::FromStr;

use snapc_coreml::MinOs;
use snapc_frontends::{Part, Pipeline};
use snapc_ir::Result;
use snapc_onnx::Layout;
use snapc_passes::Precision;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bake {
    /// Nothing: the transformer gives the velocity, the app walks the schedule.
    #[default]
    None,
}

impl Bake {
    /// The word of the option.
    pub fn name(self) -> &'static str {
        match self {
            Bake::None => "none",
        }
    }
}

impl FromStr for Bake {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "none" => Ok(Bake::None),
            _ => Err(format!("`{text}` cannot be baked; the choice is none")),
        }
    }
}

/// What `compile` is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// What of the schedule becomes part of the graph.
    pub bake: Bake,
    /// The layout of ONNX folders.
    pub layout: Layout,
    /// The output folder: `<output>/<target>/<subnet>/`.
    pub output: PathBuf,
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
