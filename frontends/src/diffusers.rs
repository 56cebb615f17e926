//! A pipeline folder as diffusers' `save_pretrained` writes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use snapc_ir::pipeline::Schedule;
use snapc_ir::{Class, Context, Error, Graph, Place, Result};
use snapc_weights::Store;

use crate::checkpoint::Checkpoint;
use crate::config::{fields, read_object, text};
use crate::scheduler::FlowMatchEuler;
use crate::text_encoder::clip;
use crate::tokenizer::Tokenizer;
use crate::transformer::snapgen;
use crate::vae::{kl, tiny};

/// One of the three networks of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Token ids to the text's hidden state.
    TextEncoder,
    /// The denoiser.
    Transformer,
    /// Latent to picture.
    VaeDecoder,
}

impl Part {
    /// All parts, in the order in which a prompt passes them.
    pub const ALL: [Part; 3] = [Part::TextEncoder, Part::Transformer, Part::VaeDecoder];

    /// `text_encoder`, `transformer` or `vae_decoder`: the name of the part's graph.
    pub fn name(self) -> &'static str {
        match self {
            Part::TextEncoder => "text_encoder",
            Part::Transformer => "transformer",
            Part::VaeDecoder => "vae_decoder",
        }
    }

    /// The part's folder and the name of its weights in it.
    pub fn files(self) -> (&'static str, &'static str) {
        match self {
            Part::TextEncoder => ("text_encoder", "model.safetensors"),
            Part::Transformer => ("transformer", "diffusion_pytorch_model.safetensors"),
            Part::VaeDecoder => ("vae", "diffusion_pytorch_model.safetensors"),
        }
    }
}

#[derive(Clone)]
enum Vae {
    Tiny(tiny::Config),
    Kl(kl::Config),
}

/// A part as it was imported.
pub struct Imported {
    /// Its graph: the transformer's a supernet.
    pub graph: Graph,
    /// Where its weights are.
    pub store: Store,
    /// The tensors of its checkpoint that no graph needs.
    pub ignored: Vec<String>,
}

/// A pipeline folder whose configs have been read.
pub struct Pipeline {
    folder: PathBuf,
    transformer: snapgen::Config,
    text_encoder: clip::Config,
    vae: Vae,
    scheduler: FlowMatchEuler,
}

impl Pipeline {
    /// Reads the configs of a folder.
    ///
    /// # Errors
    /// If a file is missing or damaged, a class is not known, or parts do not fit each other.
    pub fn open(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::input(format!("there is no folder {}", folder.display()))
                .help("name the folder of a pipeline, which has a model_index.json"));
        }
        let index_path = folder.join("model_index.json");
        let index = read_object(&index_path)?;
        check_class(&index, "_class_name", &["SnapGenPlusPlusPipeline"]).at(|| Place::File(index_path))?;
        let transformer = open_config(folder, "transformer", |object| {
            check_class(object, "_class_name", &["SnapGenPlusPlusTransformer2DModel"])?;
            let config: snapgen::Config = fields(object)?;
            config.check().map(|()| config)
        })?;
        let text_encoder = open_config(folder, "text_encoder", |object| {
            check_class(object, "architectures", &["CLIPTextModel"])?;
            let config: clip::Config = fields(object)?;
            config.check().map(|()| config)
        })?;
        let vae = open_config(folder, "vae", |object| {
            match check_class(object, "_class_name", &["AutoencoderTiny", "AutoencoderKL"])? {
                "AutoencoderTiny" => {
                    let config: tiny::Config = fields(object)?;
                    config.check().map(|()| Vae::Tiny(config))
                }
                _ => {
                    let config: kl::Config = fields(object)?;
                    config.check().map(|()| Vae::Kl(config))
                }
            }
        })?;
        let path = folder.join("scheduler/scheduler_config.json");
        let json = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, &error))?;
        let scheduler = FlowMatchEuler::from_json(&json).at(|| Place::File(path))?;
        let pipeline = Pipeline { folder: folder.to_path_buf(), transformer, text_encoder, vae, scheduler };
        pipeline.check_joints()?;
        Ok(pipeline)
    }

    /// What one part gives must be what the next takes.
    fn check_joints(&self) -> Result<()> {
        let channels = match &self.vae {
            Vae::Tiny(config) => (config.latent_channels, config.out_channels),
            Vae::Kl(config) => (config.latent_channels, config.out_channels),
        };
        let joints = [
            (
                "transformer",
                "`text_dim` of the transformer",
                self.transformer.text_dim,
                "`hidden_size` of the text encoder",
                self.text_encoder.hidden_size,
            ),
            (
                "transformer",
                "`in_channels` of the transformer",
                self.transformer.in_channels,
                "`latent_channels` of the VAE",
                channels.0,
            ),
            ("vae", "`out_channels` of the VAE", channels.1, "the colours of a picture", 3),
        ];
        for (part, left, found, right, expected) in joints {
            if found != expected {
                return Err(Error::input(format!("{left} is {found}, {right} is {expected}"))
                    .at(Place::File(self.folder.join(part).join("config.json")))
                    .help("do the folder's parts belong to one pipeline?"));
            }
        }
        Ok(())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The supernet's width.
    pub fn width(&self) -> usize {
        self.transformer.width
    }

    /// The widths by subnet name.
    pub fn subnets(&self) -> BTreeMap<String, usize> {
        self.transformer.subnets()
    }

    /// The width of a subnet.
    ///
    /// # Errors
    /// A name that the config does not have; the message lists those that it has.
    pub fn subnet(&self, name: &str) -> Result<usize> {
        let subnets = self.subnets();
        subnets.get(name).copied().ok_or_else(|| {
            let known: Vec<String> =
                subnets.iter().map(|(name, width)| format!("{name} ({width})")).collect();
            Error::usage(format!("there is no subnet `{name}`"))
                .at(Place::File(self.folder.join("transformer/config.json")))
                .help(format!("the subnets and their widths are: {}", known.join(", ")))
        })
    }

    /// Fails unless a network of that width can be cut from the supernet.
    ///
    /// # Errors
    /// If heads or groups of query heads do not divide it.
    pub fn check_width(&self, width: usize) -> Result<()> {
        self.transformer.check_width("the width", width)
    }

    /// Tokens of text that the transformer takes.
    pub fn text_tokens(&self) -> usize {
        self.transformer.max_text_tokens
    }

    /// Channels of the latent.
    pub fn latent_channels(&self) -> usize {
        self.transformer.in_channels
    }

    /// How many pixels a number of the latent covers on each axis.
    pub fn pixels_per_latent(&self) -> usize {
        match &self.vae {
            Vae::Tiny(config) => config.pixels_per_latent(),
            Vae::Kl(config) => config.pixels_per_latent(),
        }
    }

    /// The latent's rows and columns for a picture of that many pixel rows and columns, or the default ones.
    ///
    /// # Errors
    /// If the VAE or the transformer does not divide the picture's sides.
    pub fn latent_size(&self, pixels: Option<[usize; 2]>) -> Result<[usize; 2]> {
        let Some(pixels) = pixels else {
            let latent = self.transformer.latent_size();
            let place = Place::File(self.folder.join("transformer/config.json"));
            let grid = self.transformer.grid(latent);
            return grid.map(|_| latent).map_err(|error| error.as_class(Class::Input).at(place));
        };
        let factor = self.pixels_per_latent();
        let unit = factor * self.transformer.side_unit();
        let help = format!("take sides that are multiples of {unit}");
        if pixels.iter().any(|side| !side.is_multiple_of(factor)) {
            return Err(Error::usage(format!(
                "a picture of {} x {} pixels is no whole number of latents of {factor} pixels",
                pixels[0], pixels[1]
            ))
            .help(help));
        }
        let latent = pixels.map(|side| side / factor);
        match self.transformer.grid(latent) {
            Ok(_) => Ok(latent),
            Err(error) => Err(Error::usage(error.message()).help(help)),
        }
    }

    /// The noise levels of a run.
    ///
    /// # Errors
    /// If `steps` contradicts a distilled student's own, or the scheduler's fields contradict each other.
    pub fn schedule(&self, steps: Option<usize>, latent: [usize; 2]) -> Result<Schedule> {
        let path = self.folder.join("scheduler/scheduler_config.json");
        self.scheduler.schedule(steps, self.transformer.tokens(latent)).at(|| Place::File(path))
    }

    /// What a latent is divided by before it is decoded.
    pub fn scaling_factor(&self) -> f64 {
        match &self.vae {
            Vae::Tiny(config) => config.scaling_factor,
            Vae::Kl(config) => config.scaling_factor,
        }
    }

    /// A JSON file of the folder, by its path there.
    ///
    /// # Errors
    /// If it is missing, or no JSON object.
    pub fn json(&self, file: &str) -> Result<Map<String, Value>> {
        read_object(&self.folder.join(file))
    }

    /// Opens its tokenizer.
    ///
    /// # Errors
    /// As [`Tokenizer::open`]; and if it has an id that the text encoder has no embedding for.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::open(&self.folder, self.text_tokens())?;
        let (largest, known) = (tokenizer.largest_id(), self.text_encoder.vocab_size);
        if largest as usize >= known {
            return Err(Error::input(format!(
                "the tokenizer has the id {largest}, the text encoder {known} tokens"
            ))
            .at(Place::File(self.folder.join("tokenizer/tokenizer.json")))
            .help("do the folder's parts belong to one pipeline?"));
        }
        Ok(tokenizer)
    }

    /// Imports a part for a batch of `batch` and a latent of that size.
    ///
    /// # Errors
    /// If its weights are missing, damaged, or not what its config says.
    pub fn import(&self, part: Part, batch: usize, latent: [usize; 2]) -> Result<Imported> {
        self.import_with(part, &self.vae, batch, latent)
    }

    /// Imports a VAE decoder that takes a latent which is already divided by [`scaling_factor`](Self::scaling_factor).
    ///
    /// # Errors
    /// As [`import`](Self::import).
    pub fn import_unscaled_decoder(&self, batch: usize, latent: [usize; 2]) -> Result<Imported> {
        let mut vae = self.vae.clone();
        match &mut vae {
            Vae::Tiny(config) => config.scaling_factor = 1.0,
            Vae::Kl(config) => config.scaling_factor = 1.0,
        }
        self.import_with(Part::VaeDecoder, &vae, batch, latent)
    }

    fn import_with(&self, part: Part, vae: &Vae, batch: usize, latent: [usize; 2]) -> Result<Imported> {
        let (name, weights) = part.files();
        let folder = self.folder.join(name);
        let store = open_store(&folder, weights)?;
        let prefix = if part == Part::TextEncoder { clip::prefix(&store) } else { "" };
        let mut checkpoint = Checkpoint::new(&store, prefix);
        let graph = match (part, vae) {
            (Part::TextEncoder, _) => {
                clip::import(&self.text_encoder, &mut checkpoint, batch, self.text_tokens())
            }
            (Part::Transformer, _) => snapgen::import(&self.transformer, &mut checkpoint, batch, latent),
            (Part::VaeDecoder, Vae::Tiny(config)) => tiny::import(config, &mut checkpoint, batch, latent),
            (Part::VaeDecoder, Vae::Kl(config)) => kl::import(config, &mut checkpoint, batch, latent),
        };
        let graph = graph.at(|| Place::File(folder.join("config.json")))?;
        let ignored = checkpoint.finish(&format!("{name}/config.json"))?;
        Ok(Imported { graph, store, ignored })
    }
}

fn open_store(folder: &Path, weights: &str) -> Result<Store> {
    Store::open_checkpoint(folder, weights).map_err(|error| {
        let pickled = Path::new(weights).with_extension("bin");
        if folder.join(weights).exists() || !folder.join(&pickled).exists() {
            return error;
        }
        error.help(format!(
            "the folder has {}; save the pipeline again with save_pretrained(.., safe_serialization=True)",
            pickled.display()
        ))
    })
}

fn open_config<T>(
    folder: &Path,
    part: &str,
    read: impl FnOnce(&Map<String, Value>) -> Result<T>,
) -> Result<T> {
    let path = folder.join(part).join("config.json");
    let object = read_object(&path)?;
    // What a file says wrong is the file's fault, also where the same check serves the command line.
    read(&object).map_err(|error| error.as_class(Class::Input).at(Place::File(path)))
}

/// The class that a config names, in a field that holds it or a list of it, if snapc has a reader for it.
fn check_class<'a>(object: &'a Map<String, Value>, field: &str, known: &[&str]) -> Result<&'a str> {
    let named = match object.get(field) {
        Some(Value::Array(list)) => list.first().and_then(Value::as_str),
        _ => text(object, field),
    };
    let Some(name) = named else {
        return Err(
            Error::input(format!("`{field}` is missing")).help(format!("snapc reads {}", known.join(", ")))
        );
    };
    if known.contains(&name) {
        return Ok(name);
    }
    Err(Error::input(format!("`{field}` is {name}, which snapc does not read"))
        .help(format!("snapc reads {}", known.join(", "))))
}
