//! Is it still the same model? What was written, read back and interpreted, against the pipeline in f32, on prompts that no calibration
//! has seen.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use snapc_frontends::Part;
use snapc_interp::Interpreter;
use snapc_ir::ops::Op;
use snapc_ir::{Class, Def, Error, Graph, Result, Source, Transform, ValueId};
use snapc_passes::quantize::{Choice as QuantizeChoice, layers};
use snapc_passes::{Pass, QuantizePass};
use snapc_weights::Tensor;

use super::Quantization;
use super::calibrate::prepared;
use super::pictures::Strip;
use crate::Report;
use crate::examples::{Example, borrowed, draw, prompts};
use crate::manifest::Manifest;
use crate::options::{Bake, Width};
use crate::parts::{Choice, Parts};

/// The most prompts that are drawn.
const PROMPTS: usize = 40;

/// The fewest prompts that are drawn where nobody insists; where they would take too long, none are.
const FEWEST: usize = 4;

/// The most work that nobody asked for, in floating-point operations.
const MOST_FLOPS: u64 = 2_000_000_000_000;

/// Rows of a layer's result that are compared.
const ROWS: usize = 64;

/// What is equal is told as this many dB: JSON has no infinity.
const EQUAL: f64 = 200.0;

/// A loss that fails a compile: `PSNR=30`, `COSINE=0.99` or `RELATIVE=0.1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxLoss {
    /// The mean PSNR of the pictures, in dB, at least.
    Psnr(f64),
    /// The cosine of each part's output at each step, at least.
    Cosine(f64),
    /// The relative error of each part's output at each step, at most.
    Relative(f64),
}

impl std::str::FromStr for MaxLoss {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("`{text}` is no loss; write PSNR=30, COSINE=0.99 or RELATIVE=0.1");
        let (name, number) = text.split_once('=').ok_or_else(wrong)?;
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        match name.trim().to_ascii_uppercase().as_str() {
            _ if !number.is_finite() => Err(wrong()),
            "PSNR" => Ok(MaxLoss::Psnr(number)),
            "COSINE" => Ok(MaxLoss::Cosine(number)),
            "RELATIVE" => Ok(MaxLoss::Relative(number)),
            _ => Err(wrong()),
        }
    }
}

/// How far a part is off at a step, over all prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLoss {
    /// The part.
    pub part: String,
    /// The step, from 1 on; none for parts that run once.
    pub step: Option<usize>,
    /// The least cosine of its output with that in f32.
    pub cosine: f64,
    /// The largest relative error (2-norm).
    pub relative: f64,
}

/// How far a picture is off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PictureLoss {
    /// Its prompt; its seed is its number in the list.
    pub prompt: String,
    /// Its PSNR, in dB.
    pub psnr: f64,
}

/// How far a layer's result is off, as one runs behind the other, on the first prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerLoss {
    /// The part.
    pub part: String,
    /// The tensor of its weight.
    pub tensor: String,
    /// How that is stored.
    pub encoding: String,
    /// Its bytes: codes, scales or tables, without the container.
    pub bytes: u64,
    /// The bits of one of its numbers.
    pub bits: f64,
    /// The relative error (2-norm) of its result at each step.
    pub relative: Vec<f64>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// The mean PSNR of the pictures, in dB.
    pub psnr: f64,
    /// Every prompt.
    pub pictures: Vec<PictureLoss>,
    /// Every part and step.
    pub steps: Vec<StepLoss>,
    /// Every layer whose weight is stored as codes; empty where only artifacts were at hand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerLoss>,
}

impl Accuracy {
    /// Bytes of all layers that are stored as codes.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }

    /// Bits of one of their numbers.
    pub fn bits(&self) -> f64 {
        let count: f64 = self.layers.iter().map(|layer| 8.0 * layer.bytes as f64 / layer.bits).sum();
        8.0 * self.bytes() as f64 / count
    }

    /// The prompt that lost most.
    pub fn worst_picture(&self) -> Option<&PictureLoss> {
        self.pictures.iter().min_by(|a, b| a.psnr.total_cmp(&b.psnr))
    }

    /// The layer that is most off, at its worst step.
    pub fn worst_layer(&self) -> Option<&LayerLoss> {
        self.layers.iter().max_by(|a, b| a.worst().total_cmp(&b.worst()))
    }

    /// Checks bounds.
    ///
    /// # Errors
    /// The first that is passed.
    pub fn check(&self, bounds: &[MaxLoss]) -> Result<()> {
        let failed = |message: String| {
            let worst = self.worst_layer().map(|layer| format!("; most off is the layer {}", layer.tensor));
            Err(Error::new(Class::Verification, message)
                .help(format!("give it more bits or another --method{}", worst.unwrap_or_default())))
        };
        let name = |loss: &StepLoss| match loss.step {
            Some(step) => format!("the {} at step {step}", loss.part),
            None => format!("the {}", loss.part),
        };
        for bound in bounds {
            match bound {
                MaxLoss::Psnr(least) if self.psnr < *least || self.psnr.is_nan() => {
                    return failed(format!(
                        "the pictures' PSNR is {:.2} dB, at least {least} is asked for",
                        self.psnr
                    ));
                }
                MaxLoss::Cosine(least) => {
                    if let Some(loss) =
                        self.steps.iter().find(|loss| loss.cosine < *least || loss.cosine.is_nan())
                    {
                        return failed(format!(
                            "{} has cosine {:.6}, at least {least} is asked for",
                            name(loss),
                            loss.cosine
                        ));
                    }
                }
                MaxLoss::Relative(most) => {
                    if let Some(loss) =
                        self.steps.iter().find(|loss| loss.relative > *most || loss.relative.is_nan())
                    {
                        return failed(format!(
                            "{} is {:.4} off, at most {most} is asked for",
                            name(loss),
                            loss.relative
                        ));
                    }
                }
                MaxLoss::Psnr(_) => {}
            }
        }
        Ok(())
    }
}

impl LayerLoss {
    /// At its worst step.
    pub fn worst(&self) -> f64 {
        self.relative.iter().copied().fold(0.0, f64::max)
    }
}

/// Cosine and relative error.
fn compare(found: &[f32], expected: &[f32]) -> (f64, f64) {
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        found.iter().zip(expected).map(|(f, e)| of(f64::from(*f), f64::from(*e))).sum()
    };
    let (ff, ee, fe) = (sum(&|f, _| f * f), sum(&|_, e| e * e), sum(&|f, e| f * e));
    let off = sum(&|f, e| (f - e) * (f - e));
    if off == 0.0 {
        return (1.0, 0.0);
    }
    (fe / (ff * ee).sqrt(), (off / ee).sqrt())
}

/// The PSNR of a picture in [-1, 1], in dB.
pub fn psnr(found: &Tensor, expected: &Tensor) -> f64 {
    let clamp = |value: &f32| f64::from(value.clamp(-1.0, 1.0));
    let pairs = found.values().iter().zip(expected.values());
    let square: f64 = pairs.map(|(f, e)| (clamp(f) - clamp(e)).powi(2)).sum();
    (10.0 * (4.0 * found.values().len() as f64 / square).log10()).min(EQUAL)
}

/// A compiled folder against its pipeline, on `most` prompts. The pictures come along, f32 and what was written.
///
/// # Errors
/// If the folder has not all parts, or what any part finds. `Ok(None)` where that takes too long and `insist` is not set.
pub fn measure(
    folder: &Path,
    pipeline: &Path,
    insist: bool,
    most: Option<usize>,
    report: &mut dyn Report,
) -> Result<Option<(Accuracy, Vec<Strip>)>> {
    let manifest = Manifest::read(folder)?;
    let Some(subject) = Subject::open(folder, pipeline, &manifest)? else { return Ok(None) };
    let all = prompts(pipeline, most.unwrap_or(PROMPTS))?;
    let each = subject.flops();
    let count = (MOST_FLOPS / each.max(1)).max(if insist { FEWEST as u64 } else { 0 }) as usize;
    let count = count.min(all.len());
    if count < FEWEST.min(all.len()) {
        return Ok(None);
    }
    report.begin("accuracy", count as u64);
    let (mut accuracy, mut strips) = (Accuracy::default(), Vec::new());
    for (seed, prompt) in all[..count].iter().enumerate() {
        let mut examples = Vec::new();
        let expected =
            draw(&subject.reference, prompt, subject.guidance, seed as u64, subject.bake, &mut examples)?;
        let found =
            draw(&subject.written, prompt, subject.guidance, seed as u64, subject.bake, &mut Vec::new())?;
        for part in Part::ALL {
            let network = subject.written.network(part);
            let runner = network.runner();
            let mine = examples.iter().filter(|(of, _)| *of == part);
            for (number, (_, example)) in mine.enumerate() {
                let output = runner.run(&borrowed(&example.inputs))?;
                let (cosine, relative) = compare(output.values(), example.output.values());
                let step = (part == Part::Transformer).then_some(number + 1);
                accuracy.add(part, step, cosine, relative);
            }
        }
        let psnr = psnr(&found.image, &expected.image);
        accuracy.pictures.push(PictureLoss { prompt: prompt.clone(), psnr });
        strips.push(Strip { prompt: prompt.clone(), psnr, expected: expected.image, found: found.image });
        report.advance(1);
    }
    accuracy.psnr = accuracy.pictures.iter().map(|picture| picture.psnr).sum::<f64>() / count as f64;
    Ok(Some((accuracy, strips)))
}

impl Accuracy {
    fn add(&mut self, part: Part, step: Option<usize>, cosine: f64, relative: f64) {
        let known = self.steps.iter_mut().find(|loss| loss.part == part.name() && loss.step == step);
        match known {
            Some(loss) => {
                // A NaN stays: `min` and `max` would lose it.
                loss.cosine = if cosine < loss.cosine || cosine.is_nan() { cosine } else { loss.cosine };
                loss.relative =
                    if relative > loss.relative || relative.is_nan() { relative } else { loss.relative };
            }
            None => self.steps.push(StepLoss { part: part.name().to_string(), step, cosine, relative }),
        }
    }
}

/// A folder and the pipeline that it was written from.
struct Subject {
    reference: Parts,
    written: Parts,
    bake: Bake,
    guidance: Option<f32>,
}

impl Subject {
    fn open(folder: &Path, pipeline: &Path, manifest: &Manifest) -> Result<Option<Self>> {
        let size = manifest.sizes()[0];
        if Part::ALL.into_iter().any(|part| manifest.part(part, size).is_none()) {
            return Ok(None);
        }
        let reference = Parts::reference(pipeline, manifest, size)?;
        let written = Parts::from_output(folder, manifest, size)?;
        let (bake, guidance) = (written.bake, written.guidance);
        Ok(Some(Subject { reference, written, bake, guidance }))
    }

    /// What one prompt takes: drawn twice, and each part once more.
    fn flops(&self) -> u64 {
        let Parts { text_encoder, transformer, vae_decoder, schedule, .. } = &self.reference;
        let texts = if self.guidance.is_some() { 2 } else { 1 };
        let runs = texts * (schedule.sigmas.len() as u64 - 1);
        3 * (texts * text_encoder.graph.flops()
            + runs * transformer.graph.flops()
            + vae_decoder.graph.flops())
    }
}

/// The losses of the layers of parts that are quantized, on the pipeline's first prompt.
///
/// # Errors
/// What the interpreter finds.
pub fn layer_losses(
    quantization: &Quantization,
    pipeline: &Path,
    width: &Width,
    size: Option<[usize; 2]>,
    steps: Option<usize>,
) -> Result<Vec<LayerLoss>> {
    let choice = Choice { width: Some(width), size, steps };
    let parts = Parts::from_pipeline(pipeline, &choice)?;
    let mut examples = Vec::new();
    draw(&parts, &prompts(pipeline, 1)?[0], None, 0, Bake::None, &mut examples)?;
    let mut losses = Vec::new();
    for part in Part::ALL {
        let Some(quantize) = quantization.of(part.name()) else { continue };
        let network = parts.network(part);
        let store = quantization.store_of(part.name(), &network.store)?;
        let plain = prepared(&network.graph, &store)?;
        let coded = QuantizePass { quantize: Some(quantize.clone()) }.run(&plain)?;
        let expected: BTreeMap<ValueId, String> =
            layers(&plain).into_iter().map(|layer| (layer.result, layer.tensor)).collect();
        let found = coded_layers(&coded);
        let [plain_runs, coded_runs] =
            [(&plain, &expected), (&coded, &found.results)].map(|(graph, results)| {
                let interpreter = Interpreter::new(graph, &store);
                let mine = examples.iter().filter(|(of, _)| *of == part);
                mine.map(|(_, example)| sampled(&interpreter, example, results)).collect::<Result<Vec<_>>>()
            });
        let (plain_runs, coded_runs) = (plain_runs?, coded_runs?);
        for (tensor, (encoding, bytes, count)) in &found.stored {
            let relative = plain_runs
                .iter()
                .zip(&coded_runs)
                .filter_map(|(plain, coded)| Some(compare(coded.get(tensor)?, plain.get(tensor)?).1));
            losses.push(LayerLoss {
                part: part.name().to_string(),
                tensor: tensor.clone(),
                encoding: encoding.clone(),
                bytes: *bytes,
                bits: 8.0 * *bytes as f64 / *count as f64,
                relative: relative.collect(),
            });
        }
    }
    Ok(losses)
}

struct CodedLayers {
    /// What each value is the result of.
    results: BTreeMap<ValueId, String>,
    /// For each tensor its encoding, bytes (with a product beside it) and numbers.
    stored: BTreeMap<String, (String, u64, usize)>,
}

fn coded_layers(graph: &Graph) -> CodedLayers {
    let mut found = CodedLayers { results: BTreeMap::new(), stored: BTreeMap::new() };
    for node in graph.nodes() {
        let weight = node.operands.get(1).and_then(|&id| graph.as_weight(id));
        let Some((weight, (encoding, stored))) = weight.and_then(|weight| Some((weight, weight.encoding()?)))
        else {
            continue;
        };
        let Source::Tensor { name, .. } = &weight.source else { continue };
        let result = node.results[0];
        let rank = weight.transforms.iter().find_map(|change| match change {
            Transform::LowRank { rank, .. } => Some(*rank),
            _ => None,
        });
        let added =
            graph.nodes().iter().find(|other| matches!(other.op, Op::Add(_)) && other.operands[0] == result);
        let result = rank.and(added).map_or(result, |added| added.results[0]);
        found.results.insert(result, name.clone());
        let (rows, cols) = (weight.shape()[0], weight.ty().count() / weight.shape()[0]);
        let beside = rank.map_or(0, |rank| 2 * (rank * (rows + cols)) as u64);
        let maker = match graph.value(node.operands[0]).def {
            Def::Result(maker, _) => Some(&graph.node(maker).op),
            Def::Input(_) | Def::Weight(_) => None,
        };
        let activations = matches!(maker, Some(Op::FakeQuantize(_)));
        let text = QuantizeChoice { encoding: *encoding, rank: rank.unwrap_or(0), activations }.to_string();
        // What is decoded is f16 in a file.
        let bytes = if stored { weight.stored_bytes() } else { 2 * (rows * cols) as u64 };
        found.stored.insert(name.clone(), (text, bytes + beside, rows * cols));
    }
    found
}

/// Some rows of the results of layers, by tensor.
fn sampled(
    interpreter: &Interpreter,
    example: &Example,
    results: &BTreeMap<ValueId, String>,
) -> Result<BTreeMap<String, Vec<f32>>> {
    let mut rows = BTreeMap::new();
    interpreter.run_observed(&borrowed(&example.inputs), &mut |node, tensors| {
        for (id, tensor) in node.results.iter().zip(tensors) {
            if let Some(name) = results.get(id) {
                let row = tensor.ty.last();
                let step = (tensor.values().len() / row / ROWS).max(1);
                let some = tensor.values().chunks(row).step_by(step).flatten();
                rows.insert(name.clone(), some.copied().collect());
            }
        }
    })?;
    Ok(rows)
}
