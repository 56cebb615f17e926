//! The words of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use snapc_driver::{
    Bake, Device, Layout, MaxLoss, MinOs, PASS_NAMES, Part, Platform, Precision, QuantizeChoice, Ranges,
    Target, parse_bytes, parse_part, parse_size,
};

use crate::assemble::AssembleArgs;
use crate::quantize::{CalibrateArgs, QuantizeArgs, parse_encoding};

/// Compiles few-step text-to-image diffusion transformers for phones, and runs them.
#[derive(Parser)]
#[command(name = "snapc", version, arg_required_else_help = true, after_help = EXAMPLES, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print one JSON object instead of text; errors too (on standard error)
    #[arg(long, global = true)]
    pub json: bool,
    /// Threads to work on; as many as processors where nothing is said. They change no byte of a result
    #[arg(long, global = true, value_name = "N")]
    pub jobs: Option<usize>,
}

const EXAMPLES: &str = "\
Examples:
  snapc plan fixtures/shapes --subnet small --target all
  snapc compile fixtures/shapes --subnet small --target coreml
  snapc bundle fixtures/shapes --platform ios
  snapc run fixtures/shapes --prompt \"a red circle left of a blue square\" --subnet small --seed 7 -o out.png
  snapc inspect fixtures/shapes

A snapc.toml in the working folder supplies what is left out: pipeline, subnets, targets, precision, min-os, bake, output, bundle.
Exit codes: 0 done, 1 verification failed, 2 usage, 3 input, 4 limit, 70 a bug in snapc.";

#[derive(Subcommand)]
#[allow(missing_docs)]
pub enum Command {
    Plan(PlanArgs),
    Compile(CompileArgs),
    Bundle(BundleArgs),
    Run(RunArgs),
    Calibrate(CalibrateArgs),
    Verify(VerifyArgs),
    Diff(DiffArgs),
    Assemble(AssembleArgs),
    Inspect(InspectArgs),
    Print(PrintArgs),
    Completions(CompletionsArgs),
}

/// Write the parts of a pipeline for a target
#[derive(Args)]
#[command(after_help = "\
Examples:
  snapc compile fixtures/shapes --subnet small --target coreml
  snapc compile --subnet tiny --subnet small --target all --precision f32 -o out
  snapc compile --width 96 --target coreml --part transformer --size 64x96
  snapc compile --subnet small --target tflite --bake unrolled
  snapc compile --subnet small --target tflite --one-file --size 64x64 --size 64x96
  snapc compile --subnet small --target onnx --quantize int4 --method awq --calibration small.calibration
  snapc compile --subnet small --target coreml --min-os iOS18 --quantize palette4 --bits-per-weight 4.2 --max-loss PSNR=25

Output: <output>/<target>/<subnet>/ with a package a part, tokenizer/ and manifest.json (docs/manifest.md); where weights are quantized also recipe.toml (what
each tensor got), report.html and strips.png (what was lost). A folder is replaced whole, and
only when all of it has been written; with --part it holds those parts alone.")]
pub struct CompileArgs {
    #[command(flatten)]
    pub words: CompileWords,
    /// Say of each part which ops the target has not (they are written in lower ones) or its delegates leave out,
    /// which values are scaled or kept in f32, and why
    #[arg(long)]
    pub explain: bool,
}

/// Say what `compile` would write, without reading a weight or writing a file
#[derive(Args)]
#[command(after_help = "\
Examples:
  snapc plan fixtures/shapes --subnet small --target all
  snapc plan --subnet tiny --target tflite --one-file --size 64x64 --size 64x96
  snapc plan --subnet small --target coreml --quantize int4 --min-os iOS18 --json

Of each part: parameters, bytes of the weights by how they are stored, ops, floating-point operations of a run, the most that a run
holds, how much of the target's limits that is, and which ops the target has not. Takes what compile takes. Where compile would refuse,
the plan is printed with every limit that is passed, and the exit code is 4.")]
#[allow(missing_docs)]
pub struct PlanArgs {
    #[command(flatten)]
    pub words: CompileWords,
}

/// Say what changed between two folders that `compile` wrote
#[derive(Args)]
#[command(after_help = "\
Examples:
  snapc diff dist/coreml/small other/coreml/small
  snapc diff dist/onnx/tiny dist/onnx/small --json

Compares what the manifests say: options, parts, ops, sizes, numbers of accuracy, digests of files and inputs. Whether the files are what
their manifest says is for `snapc verify`. Exit code 0 where nothing differs, 1 where something does.")]
#[allow(missing_docs)]
pub struct DiffArgs {
    /// The first folder
    pub a: PathBuf,
    /// The second folder
    pub b: PathBuf,
}

/// What is compiled, and how.
#[derive(Args)]
#[allow(missing_docs)]
pub struct CompileWords {
    /// The pipeline folder (with model_index.json)
    pub pipeline: Option<PathBuf>,
    #[command(flatten)]
    pub network: Networks,
    /// The target, once or more
    #[arg(long, short, value_name = "TARGET", help = format!("The target, once or more: {}, all", target_names()))]
    pub target: Vec<Targets>,
    /// Make only this part, once or more: text_encoder, transformer, vae_decoder
    #[arg(long, value_name = "PART", value_parser = parse_part)]
    pub part: Vec<Part>,
    /// The picture's height and width in pixels; with --one-file once or more [default: the pipeline's]
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    pub size: Vec<[usize; 2]>,
    /// Write all parts, in all sizes, as signatures of one file, which share weights; for tflite
    #[arg(long)]
    pub one_file: bool,
    /// The layout of ONNX folders: default, or optimum for Hugging Face optimum's pipelines
    #[arg(long, value_name = "LAYOUT", default_value = "default")]
    pub layout: Layout,
    #[command(flatten)]
    pub how: HowWords,
    /// The output folder [default: dist]
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Quantization")]
    pub quantization: QuantizeArgs,
}

/// Write what an app of a platform ships: networks with what they share stored once, and sources that load and run them
#[derive(Args)]
#[command(after_help = "\
Examples:
  snapc bundle fixtures/shapes --platform ios
  snapc bundle --platform android --subnet tiny --subnet small --quantize int8 -o app/models
  snapc bundle --platform desktop && python dist/bundle/desktop/generate.py \"a red circle\" --seed 7
  snapc bundle --platform ios --subnet tiny --subnet small --subnet full --elastic

iOS: a SwiftPM package; Android: asset packs for Google Play and Kotlin for LiteRT; desktop: ONNX folders and Python. The table [bundle] of
snapc.toml names the class, the classes of devices and their networks (docs/bundle.md). Steps are baked: `step` where --bake says nothing. Sizes are held against the stores' limits: past one
that a store refuses the exit code is 4 and nothing is written. `snapc verify` and `snapc inspect` take the folder.")]
#[allow(missing_docs)]
pub struct BundleArgs {
    /// The pipeline folder (with model_index.json)
    pub pipeline: Option<PathBuf>,
    #[arg(long, value_name = "PLATFORM", help = format!("What runs the bundle: {}", Platform::ALL.map(Platform::name).join(", ")))]
    pub platform: Platform,
    #[command(flatten)]
    pub network: Networks,
    /// The picture's height and width in pixels [default: the pipeline's]
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    pub size: Option<[usize; 2]>,
    /// Put the networks into an elastic store, from which a device assembles them: tiny first, then wider ones by what they add
    #[arg(long)]
    pub elastic: bool,
    /// The largest file of an elastic store
    #[arg(long, value_name = "SIZE", default_value = "256MB", value_parser = parse_bytes, requires = "elastic")]
    pub chunk_size: u64,
    #[command(flatten)]
    pub how: HowWords,
    /// The bundle's folder [default: dist/bundle/PLATFORM]
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Quantization")]
    pub quantization: QuantizeArgs,
}

/// How networks are compiled.
#[derive(Args)]
#[allow(missing_docs)]
pub struct HowWords {
    /// The type to compute in: f16 or f32 [default: f16]
    #[arg(long, value_name = "TYPE")]
    pub precision: Option<Precision>,
    /// The oldest system a Core ML package runs on: iOS16, iOS17 or iOS18 [default: iOS17]
    #[arg(long, value_name = "OS")]
    pub min_os: Option<MinOs>,
    /// What runs the artifacts: cpu, gpu or npu [default: npu for coreml, cpu for onnx and tflite]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Device>,
    #[command(flatten)]
    pub baking: BakeArgs,
    /// Measure how large values become over some prompts, and scale or keep in f32 what would pass f16 (coreml): auto (where that
    /// takes some ten seconds at most), on or off
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub ranges: Ranges,
    /// Write a bill of materials (sbom.cdx.json) and a statement of provenance (provenance.intoto.json), with a digest of every input,
    /// large ones too
    #[arg(long)]
    pub provenance: bool,
    /// The most memory to hold while weights are written, as 100MB; what is measured on the way (--ranges, --accuracy) comes on top
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub max_memory: Option<u64>,
}

fn target_names() -> String {
    Target::ALL.map(Target::name).join(", ")
}

/// A target, or all of them.
#[derive(Clone, Copy)]
pub enum Targets {
    /// One.
    One(Target),
    /// All.
    All,
}

impl Targets {
    /// The targets that the word stands for.
    pub fn list(self) -> Vec<Target> {
        match self {
            Targets::One(target) => vec![target],
            Targets::All => Target::ALL.to_vec(),
        }
    }
}

impl std::str::FromStr for Targets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" { Ok(Targets::All) } else { text.parse().map(Targets::One) }
    }
}

/// What of the schedule becomes part of the transformer.
#[derive(Args)]
#[allow(missing_docs)]
pub struct BakeArgs {
    /// What of the schedule becomes part of the transformer: step (one step an inference), unrolled (all of them) or none [default: step for a
    /// step-distilled pipeline, else none]
    #[arg(long, value_name = "WHAT")]
    pub bake: Option<Bake>,
    /// Steps [default: those of a distilled model, else 28]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// How strongly the prompt pulls, baked with the schedule; not for a distilled model [default: no guidance]
    #[arg(long, value_name = "G")]
    pub guidance: Option<f32>,
}

/// Which networks of the supernet.
#[derive(Args)]
#[allow(missing_docs)]
pub struct Networks {
    /// A subnet of the pipeline, by name; once or more
    #[arg(long, short, value_name = "NAME")]
    pub subnet: Vec<String>,
    /// Any width that whole heads divide, instead of a subnet
    #[arg(long, value_name = "N")]
    pub width: Vec<usize>,
}

/// Which one network of the supernet.
#[derive(Args)]
#[allow(missing_docs)]
pub struct Network {
    /// A subnet of the pipeline, by name
    #[arg(long, short, value_name = "NAME", conflicts_with = "width")]
    pub subnet: Option<String>,
    /// Any width that whole heads divide, instead of a subnet
    #[arg(long, value_name = "N")]
    pub width: Option<usize>,
}

/// Draw a picture with the reference interpreter
#[derive(Args)]
#[command(after_help = "\
Examples:
  snapc run fixtures/shapes --prompt \"a red circle left of a blue square\" --subnet small --seed 7 -o out.png
  snapc run dist/coreml/small --prompt \"two purple squares\" -o compiled.png
  snapc run dist/bundle/ios --prompt \"two purple squares\" --subnet tiny -o bundled.png
  snapc run --prompt \"two purple squares\" --subnet full --save-latents latents.safetensors -o out.png

A seed gives the noise of torch.randn on the CPU with that manual_seed, in float32.")]
#[allow(missing_docs)]
pub struct RunArgs {
    /// The pipeline folder (with model_index.json), or a folder that `compile` or `bundle` wrote
    pub pipeline: Option<PathBuf>,
    /// What the picture shows
    #[arg(long, short)]
    pub prompt: String,
    /// What it shall not show; needs --guidance
    #[arg(long, value_name = "PROMPT")]
    pub negative_prompt: Option<String>,
    #[command(flatten)]
    pub network: Network,
    /// Steps [default: those of a distilled model, else 28]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// How strongly the prompt pulls; above 1 each step runs twice [default: no guidance]
    #[arg(long, value_name = "G")]
    pub guidance: Option<f32>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// The picture's height and width in pixels, of a compiled folder one that it has [default: the pipeline's]
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    pub size: Option<[usize; 2]>,
    /// Take the noise from a file: `noise [1, C, H, W]`; for stochastic sampling also `fresh [steps, 1, C, H, W]`
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "seed")]
    pub noise: Option<PathBuf>,
    /// Also write `text`, `latent1` .. `latentN` and `image` (f32, the image not clamped)
    #[arg(long, value_name = "FILE.safetensors")]
    pub save_latents: Option<PathBuf>,
    /// The PNG file to write
    #[arg(long, short, value_name = "FILE.png", default_value = "out.png")]
    pub output: PathBuf,
}

/// Hold what `compile` wrote against the pipeline, by numbers
#[derive(Args)]
#[command(after_help = "\
Examples:
  snapc verify dist
  snapc verify dist/onnx/small --pipeline fixtures/shapes --runtime python3 --json

First every file is held against the digests of manifest.json: one that is altered, missing or not listed fails, by name.
Then each artifact is read back and interpreted on the same inputs as the pipeline in f32. Thresholds: f32 artifacts a relative error of
1e-4 a part and 60 dB for the picture, f16 ones 2e-2 and 40 dB; quantized ones what their compile measured, and little more. Past one of them the exit code is 1.
--runtime runs the artifacts in the target's own software too: onnxruntime and onnx for ONNX, ai-edge-litert for TFLite, coremltools
for Core ML (whose program is evaluated: Core ML itself runs on Apple's systems alone); each wants numpy and safetensors beside it.")]
#[allow(missing_docs)]
pub struct VerifyArgs {
    /// A folder that `compile` or `bundle` wrote, or one above several [default: the output folder]
    pub dist: Option<PathBuf>,
    /// The pipeline folder that it was written from
    #[arg(long, value_name = "PIPELINE")]
    pub pipeline: Option<PathBuf>,
    /// A Python that has the target's runtime installed
    #[arg(long, value_name = "PYTHON")]
    pub runtime: Option<PathBuf>,
    /// How many prompts of the pipeline's verify_prompts.txt
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub prompts: usize,
    /// Fail past this loss too: PSNR=30 (dB, the pictures' mean), COSINE=0.99 or RELATIVE=0.1 (each part and step)
    #[arg(long, value_name = "LOSS")]
    pub max_loss: Vec<MaxLoss>,
    /// Write the table of each folder that passes into its manifest.json
    #[arg(long)]
    pub record: bool,
}

/// Say what is in a pipeline folder, a safetensors file, a written package or a bundle
#[derive(Args)]
#[command(after_help = "\
Examples:
  snapc inspect fixtures/shapes
  snapc inspect dist/coreml/small/Transformer.mlpackage --json")]
#[allow(missing_docs)]
pub struct InspectArgs {
    /// The folder or file [default: the pipeline of snapc.toml]
    pub path: Option<PathBuf>,
}

/// Print the graph of a part after a pass
#[derive(Args)]
#[command(after_help = "\
Examples:
  snapc print fixtures/shapes --after import
  snapc print --after legalize --subnet tiny --part vae_decoder
  snapc print --after slice --subnet small --form dot | dot -Tsvg -o graph.svg")]
#[allow(missing_docs)]
pub struct PrintArgs {
    /// The pipeline folder (with model_index.json)
    pub pipeline: Option<PathBuf>,
    #[arg(long, value_name = "PASS", help = format!("The point of the road: {}", PASS_NAMES.join(", ")))]
    pub after: String,
    /// The part: text_encoder, transformer or vae_decoder
    #[arg(long, value_name = "PART", default_value = "transformer", value_parser = parse_part)]
    pub part: Part,
    #[command(flatten)]
    pub network: Network,
    #[command(flatten)]
    pub baking: BakeArgs,
    /// The target, for what lies behind slice
    #[arg(long, short, value_name = "TARGET", help = format!("The target, for what lies behind slice: {}", target_names()))]
    pub target: Option<Target>,
    /// The type to compute in: f16 or f32 [default: f16]
    #[arg(long, value_name = "TYPE")]
    pub precision: Option<Precision>,
    /// The oldest system a Core ML package runs on: iOS16, iOS17 or iOS18 [default: iOS17]
    #[arg(long, value_name = "OS")]
    pub min_os: Option<MinOs>,
    /// What runs the artifacts: cpu, gpu or npu [default: npu for coreml, cpu for onnx and tflite]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<Device>,
    /// The picture's height and width in pixels [default: the pipeline's]
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    pub size: Option<[usize; 2]>,
    /// The encoding of the part's layers
    #[arg(long, value_name = "ENCODING", value_parser = parse_encoding)]
    pub quantize: Option<QuantizeChoice>,
    /// The text form, or Graphviz's
    #[arg(long, value_enum, default_value_t = FormArg::Sir)]
    pub form: FormArg,
}

/// How a graph is shown.
#[derive(Clone, Copy, ValueEnum)]
#[allow(missing_docs)]
pub enum FormArg {
    Sir,
    Dot,
}

/// Print the completion script of a shell
#[derive(Args)]
#[command(
    after_help = "Example:\n  snapc completions bash > ~/.local/share/bash-completion/completions/snapc"
)]
#[allow(missing_docs)]
pub struct CompletionsArgs {
    /// bash, elvish, fish, powershell or zsh
    pub shell: clap_complete::Shell,
}
