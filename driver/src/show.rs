use std::path::PathBuf;

use snapc_backend::{Device, legalize_explained};
use snapc_coreml::MinOs;
use snapc_frontends::{Part, Pipeline};
use snapc_ir::{Error, Graph, Result, analysis::Flow, text};
use snapc_passes::{NAMES, Precision, Standard, run, standard};

use crate::options::Width;
use crate::targets::Target;

/// How a graph is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// The text form, which parses back.
    #[default]
    Sir,
    /// Graphviz's language.
    Dot,
}

/// What `print` is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShowOptions {
    /// The pipeline folder.
    pub pipeline: PathBuf,
    /// The part.
    pub part: Part,
    /// The network.
    pub width: Option<Width>,
    /// The point of the road: one of [`NAMES`].
    pub after: String,
    /// The target, for `legalize` and what it makes of a precision.
    pub target: Target,
    /// The type to compute in.
    pub precision: Precision,
    /// What the artifacts are written for; none means the target's own.
    pub device: Option<Device>,
    /// The oldest system for Core ML.
    pub min_os: MinOs,
    /// Rows and columns of the picture, in pixels.
    pub size: Option<[usize; 2]>,
    /// How it is shown.
    pub form: Form,
}

/// A part's graph after a pass, as text.
///
/// # Errors
/// A name that no pass has, or what the passes find.
pub fn show(options: &ShowOptions) -> Result<String> {
    if !NAMES.contains(&options.after.as_str()) {
        return Err(Error::usage(format!("there is no pass `{}`", options.after))
            .help(format!("the points of the road are {}", NAMES.join(", "))));
    }
    let pipeline = Pipeline::open(&options.pipeline)?;
    let latent = pipeline.latent_size(options.size)?;
    let graph = pipeline.import(options.part, 1, latent)?.graph;
    let graph = graph_after(options, &pipeline, graph)?;
    Ok(match options.form {
        Form::Sir => text::print(&graph),
        Form::Dot => Flow::new(&graph).dot(),
    })
}

fn graph_after(options: &ShowOptions, pipeline: &Pipeline, graph: Graph) -> Result<Graph> {
    if options.after == "import" {
        return Ok(graph);
    }
    let width = match &options.width {
        Some(width) => width.resolve(pipeline)?,
        None => {
            return Err(Error::usage("which subnet? no --subnet and no --width is given").help(format!(
                "the subnets are {}",
                pipeline.subnets().into_keys().collect::<Vec<_>>().join(", ")
            )));
        }
    };
    let standard_options = Standard {
        widths: (pipeline.width(), width),
        precision: options.precision,
        weights_only: options.target.weights_only(),
    };
    let last = Some(options.after.as_str()).filter(|&after| after != "legalize");
    let graph = run(&graph, &standard(&standard_options, graph.stage()), last)?;
    if last.is_some() {
        return Ok(graph);
    }
    let backend = options.target.backend(options.min_os);
    let device = options.device.unwrap_or(backend.default_device());
    Ok((*legalize_explained(&graph, backend.as_ref(), device)?.0).clone())
}
