//! The three networks of a run, ready to be interpreted: imported from a pipeline, or read back from what a compile wrote.

use std::path::Path;

use snapc_coreml::MinOs;
use snapc_frontends::tokenizer::Tokenizer;
use snapc_frontends::{Part, Pipeline};
use snapc_ir::pipeline::{Schedule, StepRule};
use snapc_ir::{Error, Graph, Place, Result};
use snapc_passes::{Pass, Slice};
use snapc_weights::Store;

use crate::generate::GenerateOptions;
use crate::manifest::Manifest;
use crate::targets::Target;

/// One network.
pub struct Network {
    /// Its graph.
    pub graph: Graph,
    /// Where its weights are.
    pub store: Store,
}

/// All that a run needs.
pub struct Parts {
    /// Prompts to ids.
    pub tokenizer: Tokenizer,
    /// Tokens of a text.
    pub tokens: usize,
    /// The noise levels.
    pub schedule: Schedule,
    /// Width of the transformer.
    pub width: usize,
    /// `[1, C, H, W]`.
    pub latent_shape: Vec<usize>,
    /// Ids to text.
    pub text_encoder: Network,
    /// Latent to velocity.
    pub transformer: Network,
    /// Latent to image.
    pub vae_decoder: Network,
}

impl Parts {
    /// From a pipeline folder, or from a folder that `compile` wrote.
    ///
    /// # Errors
    /// If the folder is neither, is damaged, or an option contradicts what it holds.
    pub fn open(options: &GenerateOptions) -> Result<Self> {
        let folder = &options.pipeline;
        let is_output = folder.join("manifest.json").is_file() && !folder.join("model_index.json").exists();
        if is_output { Parts::from_output(folder, options) } else { Parts::from_pipeline(folder, options) }
    }

    fn from_pipeline(folder: &Path, options: &GenerateOptions) -> Result<Self> {
        let pipeline = Pipeline::open(folder)?;
        let latent = pipeline.latent_size(options.size)?;
        let schedule = pipeline.schedule(options.steps, latent)?;
        let width = options.width.as_ref().ok_or_else(|| {
            let known: Vec<String> = pipeline.subnets().into_keys().collect();
            Error::usage("which subnet? no --subnet and no --width is given")
                .help(format!("the subnets are {}; snapc.toml can name one", known.join(", ")))
        })?;
        let width = width.resolve(&pipeline)?;
        let import = |part| -> Result<Network> {
            let imported = pipeline.import(part, 1, latent)?;
            Ok(Network { graph: imported.graph, store: imported.store })
        };
        let mut transformer = import(Part::Transformer)?;
        transformer.graph = Slice { from: pipeline.width(), to: width }.run(&transformer.graph)?;
        let tokens = pipeline.text_tokens();
        Ok(Parts {
            tokenizer: Tokenizer::open(folder, tokens)?,
            tokens,
            schedule,
            width,
            latent_shape: vec![1, pipeline.latent_channels(), latent[0], latent[1]],
            text_encoder: import(Part::TextEncoder)?,
            transformer,
            vae_decoder: import(Part::VaeDecoder)?,
        })
    }

    fn from_output(folder: &Path, options: &GenerateOptions) -> Result<Self> {
        let path = folder.join("manifest.json");
        let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, &error))?;
        let manifest: Manifest = serde_json::from_str(&text).map_err(|error| {
            Error::input(format!("this is no manifest of snapc: {error}")).at(Place::File(path.clone()))
        })?;
        if options.width.is_some() || options.size.is_some() || options.steps.is_some() {
            return Err(Error::usage("a compiled folder fixes subnet, size and steps")
                .help("leave --subnet, --width, --size and --steps out, or run the pipeline folder"));
        }
        let target: Target = manifest
            .options
            .target
            .parse()
            .map_err(|message: String| Error::input(message).at(Place::File(path.clone())))?;
        let read = |part: Part| -> Result<Network> {
            let entry = manifest.parts.iter().find(|entry| entry.part == part.name()).ok_or_else(|| {
                Error::input(format!("the folder has no {}", part.name()))
                    .at(Place::File(path.clone()))
                    .help("compile without --part to have all three")
            })?;
            if Path::new(&entry.artifact).file_name() != Some(entry.artifact.as_ref()) {
                return Err(Error::input(format!(
                    "the artifact {:?} is no name in the folder",
                    entry.artifact
                ))
                .at(Place::File(path.clone())));
            }
            let (graph, store) = target.backend(MinOs::default()).read(&folder.join(&entry.artifact))?;
            Ok(Network { graph, store })
        };
        let transformer = read(Part::Transformer)?;
        let latent = transformer.graph.inputs().iter().find(|port| port.name == "latent");
        let latent_shape =
            latent.map(|port| transformer.graph.ty(port.value).shape.clone()).ok_or_else(|| {
                Error::input("the transformer has no input `latent`").at(Place::File(folder.to_path_buf()))
            })?;
        let rule = match manifest.schedule.rule.as_str() {
            "stochastic" => StepRule::Stochastic,
            _ => StepRule::Euler,
        };
        let schedule = Schedule {
            sigmas: manifest.schedule.sigmas.clone(),
            rule,
            distilled: manifest.schedule.distilled,
        };
        let tokens = manifest.tokenizer.tokens;
        Ok(Parts {
            tokenizer: Tokenizer::open(folder, tokens)?,
            tokens,
            schedule,
            width: manifest.options.width,
            latent_shape,
            text_encoder: read(Part::TextEncoder)?,
            transformer,
            vae_decoder: read(Part::VaeDecoder)?,
        })
    }
}
