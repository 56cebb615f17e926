//! The words of quantization.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use snapc_driver::{
    Budget, Encoding, MaxLoss, Method, MomentsKind, Part, QuantizeChoice, QuantizeOptions, When, parse_bytes,
    parse_part, parse_shard, parse_size,
};
use snapc_ir::{Error, Result};

use crate::args::Network;

/// Inputs that share a scale in `int4`, where nothing else is said.
const GROUP: usize = 32;

/// The words that `--quantize` takes.
const WORDS: &str = "int8, w8a8, int4, int4-channel, palette8, palette6, palette4, palette3, palette2, f16";

/// What weights are stored as.
#[derive(Args)]
#[allow(missing_docs)]
pub struct QuantizeArgs {
    /// Store weights as codes: int8 (a scale an output channel), w8a8 (int8, and what layers are given rounded to 8 bits too), int4 (a scale for each 32 inputs), int4-channel, palette8 / 6 / 4 / 3 / 2 (a
    /// look-up table; Core ML). For the transformer; PART=ENCODING for another part, once or more
    #[arg(long, value_name = "[PART=]ENCODING", value_parser = parse_quantize)]
    pub quantize: Vec<(Part, Word)>,
    /// int4: inputs that share a scale; palettes: output channels that share a table
    #[arg(long, value_name = "N")]
    pub group: Option<usize>,
    /// How codes are chosen: rtn (nearest), awq or gptq (by what `snapc calibrate` measured) [default: rtn]
    #[arg(long, value_name = "METHOD", value_parser = parse_method)]
    pub method: Option<Method>,
    /// Keep the best product of this rank beside the codes, in f16 (svd): a few bits more that low bits gain by
    #[arg(long, value_name = "R", default_value_t = 0, hide_default_value = true)]
    pub rank: usize,
    /// What `snapc calibrate` measured of this pipeline and subnet; once a subnet
    #[arg(long, value_name = "FILE")]
    pub calibration: Vec<PathBuf>,
    /// What single tensors get: a recipe.toml that an earlier compile wrote
    #[arg(long, value_name = "FILE.toml")]
    pub recipe: Option<PathBuf>,
    /// Give out bits by measured loss, so that the transformer's weights take no more than this, as 230MB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, conflicts_with = "bits_per_weight")]
    pub budget: Option<u64>,
    /// Give out bits by measured loss, so many a weight of the quantized layers in the mean, scales included
    #[arg(long, value_name = "BITS")]
    pub bits_per_weight: Option<f64>,
    /// Where a target has no look-up tables, store palettes as the numbers that they decode to
    #[arg(long)]
    pub allow_decode: bool,
    /// Measure what quantizing loses on the pipeline's verify_prompts.txt: auto (where that takes some ten seconds at most), on or off
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub accuracy: When,
    /// Fail, and write nothing, past this loss: PSNR=30 (dB, the pictures' mean), COSINE=0.99 or RELATIVE=0.1 (each part and step)
    #[arg(long, value_name = "LOSS")]
    pub max_loss: Vec<MaxLoss>,
}

/// What `--quantize` says, without group and method.
#[derive(Clone, Copy, PartialEq)]
pub enum Word {
    /// Stays as it is.
    Plain,
    /// An encoding, and whether activations are rounded.
    Coded(QuantizeChoice),
}

fn parse_quantize(text: &str) -> std::result::Result<(Part, Word), String> {
    let (part, word) = match text.split_once('=') {
        Some((part, word)) => (parse_part(part)?, word),
        None => (Part::Transformer, text),
    };
    let encoding = match word {
        "f16" => return Ok((part, Word::Plain)),
        "int4" => QuantizeChoice::of(Encoding::int(4, Some(GROUP))),
        "int4-channel" => QuantizeChoice::of(Encoding::int(4, None)),
        word if word.contains(' ') => return Err(unknown(word)),
        word => word.parse().map_err(|_| unknown(word))?,
    };
    Ok((part, Word::Coded(encoding)))
}

fn unknown(word: &str) -> String {
    format!("`{word}` is no encoding; the encodings are {WORDS}")
}

fn parse_method(text: &str) -> std::result::Result<Method, String> {
    Method::ALL
        .into_iter()
        .find(|method| method.name() == text)
        .ok_or_else(|| format!("`{text}` is no method; the methods are rtn, awq, gptq (and --rank for svd)"))
}

impl QuantizeArgs {
    /// What they ask for.
    ///
    /// # Errors
    /// Words that contradict each other.
    pub fn options(self) -> Result<QuantizeOptions> {
        let mut parts = BTreeMap::new();
        let lone = self.quantize.is_empty() && self.budget.is_none() && self.bits_per_weight.is_none();
        if lone && self.recipe.is_none() && (self.group.is_some() || self.method.is_some() || self.rank > 0) {
            return Err(Error::usage(
                "--group, --method and --rank say how weights are quantized, and none are",
            )
            .help("add --quantize, as in --quantize int4 --method gptq"));
        }
        for (part, word) in self.quantize {
            let Word::Coded(asked) = word else { continue };
            let choice = choice(asked, part, self.group, self.method, self.rank)?;
            if parts.insert(part, choice).is_some_and(|earlier| earlier != choice) {
                return Err(Error::usage(format!("two encodings are named for the {}", part.name()))
                    .help("the first --quantize without a part is the transformer's; write PART=ENCODING for others"));
            }
        }
        let budget = match (self.budget, self.bits_per_weight) {
            (Some(bytes), _) => Some(Budget::Bytes(bytes)),
            (None, Some(bits)) if bits > 0.0 && bits.is_finite() => Some(Budget::Bits(bits)),
            (None, Some(bits)) => {
                return Err(Error::usage(format!("{bits} bits a weight cannot be given out")));
            }
            (None, None) => None,
        };
        if budget.is_some() && !parts.contains_key(&Part::Transformer) {
            let asked = QuantizeChoice::of(Encoding::int(4, Some(GROUP)));
            parts.insert(
                Part::Transformer,
                choice(asked, Part::Transformer, self.group, self.method, self.rank)?,
            );
        }
        Ok(QuantizeOptions {
            parts,
            recipe: self.recipe,
            calibration: self.calibration,
            budget,
            allow_decode: self.allow_decode,
            accuracy: self.accuracy,
            max_loss: self.max_loss,
        })
    }
}

/// A choice with what other options say of it. Group, method and rank are the transformer's: other parts are small and lose more.
fn choice(
    mut asked: QuantizeChoice,
    part: Part,
    group: Option<usize>,
    method: Option<Method>,
    rank: usize,
) -> Result<QuantizeChoice> {
    if part != Part::Transformer {
        return Ok(asked);
    }
    let shares =
        asked.encoding.group.is_some() || matches!(asked.encoding.code, snapc_driver::Code::Palette { .. });
    match group {
        Some(0) => {
            return Err(Error::usage("a group of 0 shares nothing").help("32 is the usual one for int4"));
        }
        Some(group) if shares => asked.encoding.group = Some(group),
        Some(_) => {
            return Err(Error::usage(format!(
                "--group does not go with {asked}, which has a scale an output channel"
            ))
            .help("use --quantize int4, or a palette"));
        }
        None => {}
    }
    if asked.activations && rank > 0 {
        return Err(Error::usage(format!(
            "--rank does not go with {asked}: a product of codes has no other beside it"
        ))
        .help("use --quantize int8 or int4, or leave --rank out"));
    }
    asked.encoding.method = method.unwrap_or_default();
    Ok(QuantizeChoice { rank, ..asked })
}

/// Measure what layers are given, over prompts, for `compile --calibration`
#[derive(Args)]
#[command(after_help = "\
Examples:
  snapc calibrate fixtures/shapes --subnet small -o small.calibration
  snapc calibrate --subnet small --moments full --prompts prompts.txt -o small.calibration
  snapc calibrate --subnet small --shard 2/8 -o shard2.calibration
  snapc calibrate --merge shard*.calibration -o small.calibration

The prompts are those of --prompts, else of the pipeline's calibration_prompts.txt, else built-in ones. A run that was stopped goes on
from OUTPUT.partial. Shards can be drawn anywhere; merged, they are the file that one run writes, byte for byte.")]
#[allow(missing_docs)]
pub struct CalibrateArgs {
    /// The pipeline folder (with model_index.json)
    pub pipeline: Option<PathBuf>,
    #[command(flatten)]
    pub network: Network,
    /// Prompts, one a line
    #[arg(long, value_name = "FILE.txt")]
    pub prompts: Option<PathBuf>,
    /// Take the first N prompts only
    #[arg(long, value_name = "N")]
    pub count: Option<usize>,
    /// Second moments of each input channel (channels), or of each two (full), which gptq asks for
    #[arg(long, value_name = "KIND", default_value = "channels")]
    pub moments: MomentsKind,
    /// Draw one share of the prompts: I of N, from 1 on
    #[arg(long, value_name = "I/N", value_parser = parse_shard)]
    pub shard: Option<(usize, usize)>,
    /// Add up the files of all shards instead
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["shard", "prompts", "count", "pipeline", "subnet", "width"])]
    pub merge: Vec<PathBuf>,
    /// Steps [default: those of a distilled model, else 28]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// How strongly the prompt pulls, for a model that is not distilled [default: no guidance]
    #[arg(long, value_name = "G")]
    pub guidance: Option<f32>,
    /// The picture's height and width in pixels [default: the pipeline's]
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    pub size: Option<[usize; 2]>,
    /// The file to write
    #[arg(long, short, value_name = "FILE", default_value = "calibration.safetensors")]
    pub output: PathBuf,
}

/// What `print --quantize` takes: one encoding.
pub fn parse_encoding(text: &str) -> std::result::Result<QuantizeChoice, String> {
    match parse_quantize(text)?.1 {
        Word::Coded(choice) if choice.activations => {
            Err(format!("`{text}` asks for a calibration, which `compile` takes"))
        }
        Word::Coded(choice) => Ok(choice),
        Word::Plain => Err(unknown(text)),
    }
}
