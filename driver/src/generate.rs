use std::collections::BTreeMap;
use std::path::PathBuf;

use snapc_interp::TorchGenerator;
use snapc_ir::pipeline::Schedule;
use snapc_ir::{Error, Place, Result};
use snapc_weights::{Store, Tensor};

use crate::Report;
use crate::baking::check_guidance;
use crate::bundle::BundleManifest;
use crate::bundle::view::{assemble, is_bundle};
use crate::options::{Bake, Width};
use crate::output::{check_parent, save_tensors, write_file};
use crate::parts::{Choice, Drawn, Parts, Prompt};
use crate::quantization::encode;

/// What `run` is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// The pipeline folder, or a folder that `compile` or `bundle` wrote.
    pub pipeline: PathBuf,
    /// What the picture shows.
    pub prompt: String,
    /// What it shall not show; only with guidance.
    pub negative_prompt: Option<String>,
    /// The network; a compiled folder fixes it.
    pub width: Option<Width>,
    /// Steps; none means the pipeline's own number.
    pub steps: Option<usize>,
    /// How strongly the prompt pulls: `v = v_negative + guidance * (v - v_negative)`. None runs without.
    pub guidance: Option<f32>,
    /// Seed of the noise, as PyTorch's `manual_seed` on the CPU.
    pub seed: u64,
    /// Rows and columns of the picture, in pixels.
    pub size: Option<[usize; 2]>,
    /// A file with the tensor `noise [1, C, H, W]` and, for stochastic sampling, `fresh [steps, 1, C, H, W]`.
    pub noise: Option<PathBuf>,
    /// Where the PNG goes.
    pub output: PathBuf,
    /// Where the text, the latents and the image go, as f32 tensors.
    pub save_latents: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Rows and columns of the picture.
    pub size: [usize; 2],
    /// The width of the network.
    pub width: usize,
    /// The noise levels.
    pub schedule: Schedule,
    /// The end of the prompt that did not fit.
    pub cut: Option<String>,
}

/// Prompt to picture: tokenizer, text encoder, transformer along the schedule, VAE decoder, all interpreted.
///
/// # Errors
/// What any part finds; contradictions of options; a noise file with other tensors.
pub fn generate(options: &GenerateOptions, report: &mut dyn Report) -> Result<Generated> {
    if is_bundle(&options.pipeline) {
        let bundle = BundleManifest::read(&options.pipeline)?;
        let subnet = bundle.subnet(options.width.as_ref().map(Width::label).as_deref())?;
        let view = assemble(&options.pipeline, &bundle, subnet)?;
        let pipeline = view.path().to_path_buf();
        return generate(&GenerateOptions { pipeline, width: None, ..options.clone() }, report);
    }
    options.save_latents.iter().chain([&options.output]).try_for_each(|path| check_parent(path))?;
    let choice = Choice { width: options.width.as_ref(), size: options.size, steps: options.steps };
    let parts = Parts::open(&options.pipeline, &choice)?;
    let guidance = guidance(options, &parts)?;
    let mut noise = Noise::open(options, &parts.latent_shape, &parts.schedule)?;
    let negative = options.negative_prompt.as_deref().unwrap_or("");
    let prompt = Prompt { text: &options.prompt, guidance: guidance.map(|guidance| (guidance, negative)) };
    let steps = parts.schedule.sigmas.len() as u64 - 1;
    let runs = match parts.bake {
        Bake::None if guidance.is_some() => 2 * steps,
        Bake::None | Bake::Step => steps,
        Bake::Unrolled => 1,
    };
    report.begin("steps", runs);
    let start = noise.start();
    let Drawn { text, walked, image, cut, .. } =
        parts.draw(&prompt, start, &mut |step| noise.fresh(step), &mut |_| report.advance(1))?;
    if let Some(cut) = &cut {
        let tokens = parts.tokens;
        report
            .warn(&format!("the prompt is longer than {tokens} tokens; this end of it was cut off: {cut:?}"));
    }
    if let Some(value) = image.values().iter().find(|value| !value.is_finite()) {
        return Err(Error::input(format!("the picture has the value {value}")).help(
            "a weight or the noise is not finite, or f16 overflows: `--precision f32` tells them apart",
        ));
    }
    let (bytes, size) = picture(&image)?;
    write_file(&options.output, &bytes)?;
    if let Some(path) = &options.save_latents {
        // Steps that are one run leave the last latent alone.
        let before = steps as usize - walked.latents.len();
        let latents = walked.latents.iter().enumerate();
        let named = latents.map(|(number, latent)| (format!("latent{}", before + number + 1), latent));
        let mut tensors: BTreeMap<String, &Tensor> = named.collect();
        tensors.insert("text".to_string(), &text.hidden);
        tensors.insert("image".to_string(), &image);
        let tensors: Vec<(&str, &Tensor)> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), *tensor)).collect();
        save_tensors(path, &tensors)?;
    }
    let Parts { schedule, width, .. } = parts;
    Ok(Generated { size, width, schedule, cut })
}

/// The guidance that is asked for, or the one that a compiled folder has baked in.
fn guidance(options: &GenerateOptions, parts: &Parts) -> Result<Option<f32>> {
    let baked = parts.bake != Bake::None;
    if baked && options.guidance.is_some() {
        let has = parts.guidance.map_or("without guidance".to_string(), |own| format!("with guidance {own}"));
        return Err(Error::usage(format!(
            "the folder's transformer was compiled {has}: no run can change it"
        ))
        .help("leave --guidance out, or compile again, with --guidance or with --bake none"));
    }
    let guidance = if baked { parts.guidance } else { check_guidance(options.guidance, &parts.schedule)? };
    if options.negative_prompt.is_some() && guidance.is_none() {
        let help = match baked {
            true => {
                "leave --negative-prompt out, or compile a pipeline that is not distilled with --guidance"
            }
            false => "add --guidance with a number above 1, or leave --negative-prompt out",
        };
        return Err(Error::usage("a negative prompt has no effect without guidance").help(help));
    }
    Ok(guidance)
}

/// Where noise comes from: a file where one is named, else PyTorch's generator.
struct Noise {
    /// The tensors `noise` and, where the rule needs it, `fresh` of a file.
    given: Option<(Tensor, Option<Tensor>)>,
    generator: TorchGenerator,
    shape: Vec<usize>,
}

impl Noise {
    fn open(options: &GenerateOptions, shape: &[usize], schedule: &Schedule) -> Result<Self> {
        let shape = shape.to_vec();
        let Some(path) = &options.noise else {
            return Ok(Noise { given: None, generator: TorchGenerator::new(options.seed), shape });
        };
        let store = Store::open(std::slice::from_ref(path))?;
        let mut needed = vec![("noise", shape.clone())];
        if schedule.rule == snapc_ir::pipeline::StepRule::Stochastic {
            let steps = schedule.sigmas.len() - 1;
            needed.push(("fresh", std::iter::once(steps).chain(shape.iter().copied()).collect()));
        }
        for (name, expected) in &needed {
            let found = store.region(name).map(|region| region.shape.clone());
            if found.as_ref() != Some(expected) {
                let found = found.map_or("is missing".to_string(), |shape| format!("is {shape:?}"));
                return Err(Error::input(format!("the tensor `{name}` {found}, expected {expected:?}"))
                    .at(Place::File(path.clone()))
                    .help("a noise file has `noise [1, C, H, W]` and, for stochastic sampling, `fresh [steps, 1, C, H, W]`"));
            }
        }
        let fresh = if needed.len() > 1 { Some(store.tensor("fresh")?) } else { None };
        let given = Some((store.tensor("noise")?, fresh));
        Ok(Noise { given, generator: TorchGenerator::new(options.seed), shape })
    }

    fn start(&mut self) -> Tensor {
        match &self.given {
            Some((noise, _)) => noise.clone(),
            None => Tensor::f32(self.shape.clone(), self.generator.randn(self.shape.iter().product())),
        }
    }

    /// The generator goes on where it stopped; a file has an entry a step.
    fn fresh(&mut self, step: usize) -> Result<Tensor> {
        match &self.given {
            None => Ok(self.start()),
            Some((_, None)) => Err(Error::bug("fresh noise is asked for that the rule does not need")),
            Some((_, Some(all))) => {
                let count: usize = self.shape.iter().product();
                Ok(Tensor::f32(self.shape.clone(), all.values()[step * count..][..count].to_vec()))
            }
        }
    }
}

/// The PNG of `image [1, 3, H, W]`, and its rows and columns: clamped to [-1, 1], `(v + 1) * 127.5`, rounded as NumPy does.
///
/// # Errors
/// If it has another shape or cannot be encoded.
pub fn picture(image: &Tensor) -> Result<(Vec<u8>, [usize; 2])> {
    let [1, 3, rows, cols] = image.ty.shape[..] else {
        return Err(Error::input(format!("the decoder gives {}, expected f32[1, 3, H, W]", image.ty)));
    };
    let places = rows * cols;
    let byte = |value: f32| ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round_ties_even() as u8;
    let pixels: Vec<u8> = (0..places)
        .flat_map(|place| (0..3).map(move |colour| colour * places + place))
        .map(|index| byte(image.values()[index]))
        .collect();
    Ok((encode(&pixels, cols, rows)?, [rows, cols]))
}
