//! The three networks of a run, ready to be interpreted: imported from a pipeline, or read back from what a compile wrote.

use std::path::Path;

use snapc_frontends::tokenizer::Tokenizer;
use snapc_frontends::{Part, Pipeline};
use snapc_interp::Interpreter;
use snapc_ir::pipeline::Schedule;
use snapc_ir::{Error, Graph, Place, Result};
use snapc_passes::{Pass, Slice};
use snapc_weights::{Store, Tensor};

use crate::manifest::Manifest;
use crate::options::{Bake, Width};
use crate::walk::{Step, Text, Walk, Walked, first};

/// One network.
pub struct Network {
    /// Its graph.
    pub graph: Graph,
    /// Where its weights are.
    pub store: Store,
    /// What its `latent` is divided by first, where its graph leaves that to the caller.
    pub latent_divisor: Option<f64>,
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
    /// What of the schedule is in the transformer.
    pub bake: Bake,
    /// The guidance that is in the transformer.
    pub guidance: Option<f32>,
    /// Ids to text.
    pub text_encoder: Network,
    /// Latent to velocity, to the next latent, or noise to the last latent.
    pub transformer: Network,
    /// Latent to image.
    pub vae_decoder: Network,
}

/// What a run may choose of a pipeline.
pub struct Choice<'a> {
    /// The network.
    pub width: Option<&'a Width>,
    /// Rows and columns of the picture, in pixels.
    pub size: Option<[usize; 2]>,
    /// Steps.
    pub steps: Option<usize>,
}

impl Parts {
    /// From a pipeline folder, or from a folder that `compile` wrote.
    ///
    /// # Errors
    /// If the folder is neither, is damaged, or a choice contradicts what it holds.
    pub fn open(folder: &Path, choice: &Choice) -> Result<Self> {
        if !is_compiled(folder) {
            return Parts::from_pipeline(folder, choice);
        }
        let manifest = Manifest::read(folder)?;
        let sizes = manifest.sizes();
        let one_size = sizes.len() == 1;
        if choice.width.is_some() || (choice.size.is_some() && one_size) || choice.steps.is_some() {
            return Err(Error::usage("a compiled folder fixes subnet, size and steps")
                .help("leave --subnet, --width, --size and --steps out, or run the pipeline folder"));
        }
        match choice.size.or(one_size.then_some(sizes[0])).filter(|size| sizes.contains(size)) {
            Some(size) => Parts::from_output(folder, &manifest, size),
            None => {
                let names: Vec<String> = sizes.iter().map(|[rows, cols]| format!("{rows}x{cols}")).collect();
                Err(Error::usage(format!("the folder has the sizes {}", names.join(", ")))
                    .help("choose one of them with --size"))
            }
        }
    }

    /// Imports all parts in f32.
    ///
    /// # Errors
    /// What the import finds.
    pub fn from_pipeline(folder: &Path, choice: &Choice) -> Result<Self> {
        let pipeline = Pipeline::open(folder)?;
        let latent = pipeline.latent_size(choice.size)?;
        let schedule = pipeline.schedule(choice.steps, latent)?;
        let width = choice.width.ok_or_else(|| {
            let known: Vec<String> = pipeline.subnets().into_keys().collect();
            Error::usage("which subnet? no --subnet and no --width is given")
                .help(format!("the subnets are {}; snapc.toml can name one", known.join(", ")))
        })?;
        let width = width.resolve(&pipeline)?;
        let import = |part| -> Result<Network> {
            let imported = pipeline.import(part, 1, latent)?;
            Ok(Network { graph: imported.graph, store: imported.store, latent_divisor: None })
        };
        let mut transformer = import(Part::Transformer)?;
        transformer.graph = Slice { from: pipeline.width(), to: width }.run(&transformer.graph)?;
        let tokens = pipeline.text_tokens();
        Ok(Parts {
            tokenizer: pipeline.tokenizer()?,
            tokens,
            schedule,
            width,
            latent_shape: vec![1, pipeline.latent_channels(), latent[0], latent[1]],
            bake: Bake::None,
            guidance: None,
            text_encoder: import(Part::TextEncoder)?,
            transformer,
            vae_decoder: import(Part::VaeDecoder)?,
        })
    }

    /// What the folder of a manifest was written from, in f32, for pictures of that size.
    ///
    /// # Errors
    /// What the import finds.
    pub fn reference(pipeline: &Path, manifest: &Manifest, size: [usize; 2]) -> Result<Self> {
        let width = match &manifest.options.subnet {
            Some(name) => Width::Subnet(name.clone()),
            None => Width::Numbers(manifest.options.width),
        };
        // A distilled student has its own number of steps.
        let steps = (!manifest.schedule.distilled).then(|| manifest.schedule.sigmas.len().saturating_sub(1));
        Parts::from_pipeline(pipeline, &Choice { width: Some(&width), size: Some(size), steps })
    }

    pub(crate) fn from_output(folder: &Path, manifest: &Manifest, size: [usize; 2]) -> Result<Self> {
        let read = |part: Part| {
            read_artifact(folder, manifest, part, size)?.ok_or_else(|| {
                Error::input(format!("the folder has no {}", part.name()))
                    .at(Place::File(folder.join("manifest.json")))
                    .help("compile without --part to have all three")
            })
        };
        let transformer = read(Part::Transformer)?;
        let bake = manifest.bake().map_err(|error| error.at(Place::File(folder.join("manifest.json"))))?;
        let name = if bake == Bake::Unrolled { "noise" } else { "latent" };
        let latent = transformer.graph.inputs().iter().find(|port| port.name == name);
        let latent_shape =
            latent.map(|port| transformer.graph.ty(port.value).shape.clone()).ok_or_else(|| {
                Error::input(format!("the transformer has no input `{name}`"))
                    .at(Place::File(folder.to_path_buf()))
            })?;
        let schedule = manifest
            .schedule
            .schedule()
            .map_err(|error| error.at(Place::File(folder.join("manifest.json"))))?;
        let text_encoder = read(Part::TextEncoder)?;
        let tokens = manifest.tokenizer.tokens;
        let takes = text_encoder.graph.inputs().first().map(|port| &text_encoder.graph.ty(port.value).shape);
        if takes.is_none_or(|shape| *shape != [1, tokens]) {
            return Err(Error::input(format!(
                "the text encoder does not take the {tokens} tokens of `tokenizer`"
            ))
            .at(Place::File(folder.join("manifest.json"))));
        }
        Ok(Parts {
            tokenizer: Tokenizer::open(folder, tokens)?,
            tokens,
            schedule,
            width: manifest.options.width,
            latent_shape,
            bake,
            guidance: manifest.options.guidance,
            text_encoder,
            transformer,
            vae_decoder: read(Part::VaeDecoder)?,
        })
    }

    /// The network of a part.
    pub fn network(&self, part: Part) -> &Network {
        match part {
            Part::TextEncoder => &self.text_encoder,
            Part::Transformer => &self.transformer,
            Part::VaeDecoder => &self.vae_decoder,
        }
    }

    /// Prompt to picture. `noise` is the latent at the first sigma, `fresh` gives what stochastic steps mix in; with guidance,
    /// `negative` is the other branch's prompt. `each` is told of each run of the transformer.
    ///
    /// # Errors
    /// What a part or the sampler finds.
    pub fn draw(
        &self,
        prompt: &Prompt,
        noise: Tensor,
        fresh: &mut dyn FnMut(usize) -> Result<Tensor>,
        each: &mut dyn FnMut(&Step),
    ) -> Result<Drawn> {
        let (text, cut) = self.encode(prompt.text)?;
        let negative = match prompt.guidance {
            Some((_, negative)) => Some(self.encode(negative)?.0),
            None => None,
        };
        let guidance = prompt.guidance.map(|(guidance, _)| guidance).zip(negative);
        let walked = self.walk(&text, &guidance).run(noise, fresh, each)?;
        let last = walked.latents.last().ok_or_else(|| Error::input("the schedule has no steps"))?;
        let image = self.vae_decoder.runner().run(&[("latent", last)])?;
        Ok(Drawn { text, guidance, walked, image, cut })
    }

    /// The walk of this transformer, or of another one whose texts are the same.
    pub fn walk<'a>(&'a self, text: &'a Text, guidance: &'a Option<(f32, Text)>) -> Walk<'a> {
        let guidance = guidance.as_ref().map(|(guidance, negative)| (*guidance, negative));
        Walk { transformer: &self.transformer, bake: self.bake, schedule: &self.schedule, text, guidance }
    }

    /// A prompt's ids.
    ///
    /// # Errors
    /// What the tokenizer finds.
    pub fn ids(&self, prompt: &str) -> Result<Tensor> {
        Ok(Tensor::i32([1, self.tokens], self.tokenizer.encode(prompt)?.ids))
    }

    fn encode(&self, prompt: &str) -> Result<(Text, Option<String>)> {
        let encoded = self.tokenizer.encode(prompt)?;
        let ids = Tensor::i32([1, self.tokens], encoded.ids);
        let hidden = self.text_encoder.runner().run(&[("input_ids", &ids)])?;
        Ok((Text { ids, hidden, mask: Tensor::f32([1, self.tokens], encoded.mask) }, encoded.cut))
    }
}

impl Network {
    /// Makes it ready for several runs: weights are read at the first one.
    pub fn runner(&self) -> Runner<'_> {
        Runner {
            interpreter: Interpreter::new(&self.graph, &self.store),
            latent_divisor: self.latent_divisor,
        }
    }
}

/// A network and the weights that its runs have read.
pub struct Runner<'a> {
    interpreter: Interpreter<'a>,
    latent_divisor: Option<f64>,
}

impl Runner<'_> {
    /// Runs it; its one output.
    ///
    /// # Errors
    /// What the interpreter finds.
    pub fn run(&self, inputs: &[(&str, &Tensor)]) -> Result<Tensor> {
        let Some(divisor) = self.latent_divisor else { return first(self.interpreter.run(inputs)?) };
        let divided: Vec<(&str, Tensor)> = inputs
            .iter()
            .map(|(name, tensor)| {
                let values = tensor.values().iter().map(|value| (f64::from(*value) / divisor) as f32);
                (*name, Tensor::float(tensor.ty.clone(), values.collect()))
            })
            .collect();
        let divided: Vec<(&str, &Tensor)> = divided.iter().map(|(name, tensor)| (*name, tensor)).collect();
        first(self.interpreter.run(&divided)?)
    }
}

/// What is to be drawn.
pub struct Prompt<'a> {
    /// What the picture shows.
    pub text: &'a str,
    /// The guidance and the negative prompt.
    pub guidance: Option<(f32, &'a str)>,
}

/// A picture and what it came from.
pub struct Drawn {
    /// The prompt.
    pub text: Text,
    /// The guidance and the negative prompt.
    pub guidance: Option<(f32, Text)>,
    /// Noise and latents.
    pub walked: Walked,
    /// `[1, 3, H, W]`, not clamped.
    pub image: Tensor,
    /// The end of the prompt that did not fit.
    pub cut: Option<String>,
}

/// Whether `compile` wrote a folder.
pub fn is_compiled(folder: &Path) -> bool {
    // The ONNX layout has a model_index.json too; a pipeline has no manifest.
    folder.join("manifest.json").is_file()
}

/// Reads one part of a compiled folder back, for pictures of that size; `None` where it has it not.
///
/// # Errors
/// If the artifact is damaged or lies elsewhere.
pub fn read_artifact(
    folder: &Path,
    manifest: &Manifest,
    part: Part,
    size: [usize; 2],
) -> Result<Option<Network>> {
    let Some(entry) = manifest.part(part, size) else { return Ok(None) };
    let path = folder.join("manifest.json");
    if Path::new(&entry.artifact).file_name() != Some(entry.artifact.as_ref()) {
        let message = format!("the artifact {:?} is no name in the folder", entry.artifact);
        return Err(Error::input(message).at(Place::File(path)));
    }
    let path = folder.join(&entry.artifact);
    let (graph, store) = manifest.target()?.read(&path, entry.signature.as_deref())?;
    let latent_divisor = manifest.options.latent_divisor.filter(|_| part == Part::VaeDecoder);
    Ok(Some(Network { graph, store, latent_divisor }))
}
