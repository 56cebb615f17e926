//! Pipelines whose activations pass f16's range: what is measured at compile time keeps the picture.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use snapc_backend::legalize;
use snapc_driver::{
    Bake, CompileOptions, Compiled, Explanation, GenerateOptions, MinOs, Part, Precision, Ranges, Silent,
    Target, Width, compile, generate,
};
use snapc_frontends::{Checkpoint, vae::kl};
use snapc_interp::Interpreter;
use snapc_ir::ops::Op;
use snapc_ir::{Builder, Class, DType, Def, Graph, Node, Result, Weight, rewrite};
use snapc_passes::PrecisionPass;
use snapc_passes::ranges::{Measured, Plan};
use snapc_tests::{
    compile_options, copy_folder, entry, fixture, psnr, relative_error, runtimes, tensor_file, tensors,
};
use snapc_weights::{Store, Tensor};

const PROMPT: &str = "a red circle left of a blue square";

/// A change of weights: the file of a part, the start of tensors' names, what they are multiplied by.
type Change<'a> = (&'static str, &'a str, f32);

const TRANSFORMER: &str = "transformer/diffusion_pytorch_model.safetensors";
const TEXT_ENCODER: &str = "text_encoder/model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

/// All that the last block adds to its stream, and the stream itself, times `factor`; the norms take it off again.
fn last_block(factor: f32) -> Vec<Change<'static>> {
    ["up.1.skip.", "up.1.self_attn.o.", "up.1.cross_attn.o.", "up.1.ffn.2."]
        .map(|name| (TRANSFORMER, name, factor))
        .to_vec()
}

/// Multiplies the tensors of a file whose names are wanted; all of it becomes f32.
fn scale(path: &Path, factor: f32, wanted: impl Fn(&str) -> bool) {
    let store = Store::open(&[path.to_path_buf()]).unwrap();
    let mut found = 0;
    let all: Vec<(String, Tensor)> = store
        .names()
        .map(|name| {
            let tensor = store.tensor(name).unwrap();
            let by = if wanted(name) { factor } else { 1.0 };
            found += usize::from(by != 1.0);
            let values = tensor.values().iter().map(|x| x * by).collect();
            (name.to_string(), Tensor::f32(tensor.ty.shape.clone(), values))
        })
        .collect();
    assert!(found > 0, "{}", path.display());
    let all: Vec<(&str, &Tensor)> = all.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    tensor_file(path, &all);
}

/// The fixture with changed weights.
fn changed(folder: &Path, changes: &[Change]) -> PathBuf {
    let pipeline = folder.join("model");
    copy_folder(&fixture("shapes"), &pipeline);
    for (file, start, factor) in changes {
        scale(&pipeline.join(file), *factor, |name| name.starts_with(start));
    }
    pipeline
}

/// The picture of the pipeline in f32, and the noise that it starts from.
fn expected(pipeline: &Path, folder: &Path) -> (Tensor, Tensor) {
    let noise = entry(&tensors(&fixture("shapes/golden.safetensors"))["noise"], 0);
    tensor_file(&folder.join("noise.safetensors"), &[("noise", &noise)]);
    let options = GenerateOptions {
        pipeline: pipeline.to_path_buf(),
        prompt: PROMPT.to_string(),
        negative_prompt: None,
        width: Some(Width::Subnet("small".to_string())),
        steps: None,
        guidance: None,
        seed: 0,
        size: None,
        noise: Some(folder.join("noise.safetensors")),
        output: folder.join("expected.png"),
        save_latents: Some(folder.join("expected.safetensors")),
    };
    generate(&options, &mut Silent).unwrap();
    (tensors(&folder.join("expected.safetensors"))["image"].clone(), noise)
}

/// Compiles in f16, all steps in one graph.
fn compiled(pipeline: &Path, target: Target, ranges: Ranges, output: &Path) -> Result<Compiled> {
    let options = CompileOptions {
        pipeline: pipeline.to_path_buf(),
        widths: vec![Width::Subnet("small".to_string())],
        bake: Some(Bake::Unrolled),
        ranges,
        ..compile_options(target, Precision::F16, &output.join(ranges.name()))
    };
    Ok(compile(&options, &mut Silent)?.remove(0))
}

fn artifact(compiled: &Compiled, target: Target, part: Part) -> PathBuf {
    compiled.folder.join(target.backend(MinOs::default()).artifact(part.name()))
}

/// Runs a part: its inputs by name, its one output.
type Run<'a> = &'a dyn Fn(Part, &[(&str, &Tensor)]) -> Tensor;

/// Prompt to picture.
fn draw(noise: &Tensor, run: Run) -> Tensor {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let (ids, mask) = (entry(&golden["ids"], 0), entry(&golden["text_mask"], 0));
    let text = run(Part::TextEncoder, &[("input_ids", &ids)]);
    let latent = run(Part::Transformer, &[("noise", noise), ("text", &text), ("text_mask", &mask)]);
    run(Part::VaeDecoder, &[("latent", &latent)])
}

/// The picture of Core ML packages, read back, changed by `device` and interpreted: each f16 value is rounded as it is made.
fn interpreted(compiled: &Compiled, noise: &Tensor, device: &dyn Fn(Graph) -> Graph) -> Tensor {
    draw(noise, &|part, inputs| {
        let backend = Target::CoreMl.backend(MinOs::default());
        let (graph, store) = backend.read(&artifact(compiled, Target::CoreMl, part)).unwrap();
        Interpreter::new(&device(graph), &store).run(inputs).unwrap().remove(0)
    })
}

/// The picture of a target's own software.
fn run_elsewhere(compiled: &Compiled, target: Target, noise: &Tensor, folder: &Path) -> Tensor {
    draw(noise, &|part, inputs| {
        let job = runtimes::Job {
            artifact: artifact(compiled, target, part),
            inputs: folder.join("in.safetensors"),
            outputs: folder.join("out.safetensors"),
        };
        tensor_file(&job.inputs, inputs);
        runtimes::run(target, &[job]).remove(0).into_values().next().unwrap()
    })
}

/// A device that has f16 alone: the sums of a layer norm are f16 too.
fn all_in_half(graph: Graph) -> Graph {
    let stage = graph.stage().clone();
    let half = |graph: &Graph| {
        rewrite(graph, stage.clone(), Ok, |b, node| {
            let Op::LayerNorm(op) = node.op() else { return Ok(None) };
            let x = node.operands[0];
            let ty = b.ty(x).clone();
            if ty.dtype != DType::F16 {
                return Ok(None);
            }
            let size = ty.last();
            let mut ones = Weight::inline(format!("ones.{size}"), vec![1.0; size], vec![size, 1]);
            ones.dtype = DType::F16;
            let ones = b.weight(ones)?;
            let mean = |b: &mut Builder, x| {
                let sum = b.matmul(x, ones, false)?;
                b.mul_scalar(sum, 1.0 / size as f32)
            };
            let middle = mean(b, x)?;
            let centred = b.sub(x, middle)?;
            let square = b.mul(centred, centred)?;
            let variance = mean(b, square)?;
            let shifted = b.add_scalar(variance, op.eps)?;
            let inverse = b.rsqrt(shifted)?;
            let mut y = b.mul(centred, inverse)?;
            if let Some(&weight) = node.operands.get(1) {
                y = b.mul(y, weight)?;
            }
            if let Some(&bias) = node.operands.get(2) {
                y = b.add(y, bias)?;
            }
            Ok(Some(vec![y]))
        })
    };
    half(&graph).unwrap()
}

fn as_it_is(graph: Graph) -> Graph {
    graph
}

/// What Core ML packages compiled with ranges off and with ranges measured draw, in dB; and what is said of the latter.
fn core_ml(
    changes: &[Change],
    device: &dyn Fn(Graph) -> Graph,
) -> ([f64; 2], Vec<(String, Vec<Explanation>)>) {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = changed(folder.path(), changes);
    let (image, noise) = expected(&pipeline, folder.path());
    let mut explanations = Vec::new();
    let found = [Ranges::Off, Ranges::Auto].map(|ranges| {
        let compiled = compiled(&pipeline, Target::CoreMl, ranges, folder.path()).unwrap();
        let found = psnr(interpreted(&compiled, &noise, device).values(), image.values());
        explanations = compiled.explanations;
        found
    });
    println!("{changes:?}: {:.1} dB, measured {:.1} dB", found[0], found[1]);
    (found, explanations)
}

/// The least PSNR of a picture in f16.
const LEAST: f64 = 40.0;

/// Without a change nothing is lost; and the sums of squares, which reach 2^15, fit a device that has f16 alone.
#[test]
fn the_fixture_as_it_is() {
    for device in [as_it_is, all_in_half] {
        let (found, _) = core_ml(&[], &device);
        assert!(found[1] >= LEAST && found[1] > found[0] - 3.0, "{found:?}");
    }
}

/// One layer's activations, 300 times as large. f16 itself would still hold them, their squares not: on a device that sums in f16
/// nothing is left of the picture unless ranges are measured.
#[test]
fn a_layer_of_300_times() {
    let ([_, measured], _) = core_ml(&last_block(300.0), &as_it_is);
    assert!(measured >= LEAST, "{measured:.1} dB");
    let ([off, measured], explanations) = core_ml(&last_block(300.0), &all_in_half);
    assert!(off.is_nan() || off < 20.0, "{off:.1} dB");
    assert!(measured >= LEAST, "{measured:.1} dB");
    let notes = |reason: &str| {
        let all = explanations.iter().flat_map(|(_, list)| list);
        all.filter(|why| why.reason.contains(reason)).count()
    };
    assert!(notes("of itself") > 3 && notes("computed in f32") == 0, "{explanations:#?}");
}

/// The same in each target's own software; for Core ML, whose program coremltools evaluates, also what is past f16's end, some of it in f32.
#[test]
fn in_every_targets_software() {
    let ffn = [(TRANSFORMER, "mid.1.ffn.0.", 3e4), (TRANSFORMER, "mid.1.ffn.2.weight", 1.0 / 3e4)];
    let past = [&last_block(3000.0)[..], &ffn].concat();
    for (changes, targets) in [(last_block(300.0), &Target::ALL[..]), (past, &[Target::CoreMl])] {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = changed(folder.path(), &changes);
        let (image, noise) = expected(&pipeline, folder.path());
        for &target in targets {
            let compiled = compiled(&pipeline, target, Ranges::Auto, folder.path()).unwrap();
            let drawn = run_elsewhere(&compiled, target, &noise, folder.path());
            let found = psnr(drawn.values(), image.values());
            println!("{}: {found:.1} dB", target.name());
            assert!(found >= LEAST, "{}: {found:.1} dB", target.name());
        }
    }
}

/// Where f16 itself ends: no picture without ranges, the right one with them. Every value stays f16 but what no power goes through.
#[test]
fn past_the_end_of_f16() {
    let text =
        ["embeddings.", "encoder.layers.0.self_attn.out_proj.", "encoder.layers.1.self_attn.out_proj."]
            .into_iter()
            .chain(["encoder.layers.0.mlp.fc2.", "encoder.layers.1.mlp.fc2."]);
    let names: Vec<String> = text.map(|name| format!("text_model.{name}")).collect();
    let text: Vec<Change> = names.iter().map(|name| (TEXT_ENCODER, name.as_str(), 3000.0)).collect();
    let ffn = [(TRANSFORMER, "mid.1.ffn.0.", 3e4), (TRANSFORMER, "mid.1.ffn.2.weight", 1.0 / 3e4)];
    let values = [(TRANSFORMER, "mid.1.self_attn.v.", 3e4), (TRANSFORMER, "mid.1.self_attn.o.", 1.0 / 3e4)];
    let cases: [(&[Change], Option<&str>); 4] =
        [(&last_block(3000.0), None), (&text, None), (&values, None), (&ffn, Some("gelu"))];
    for (changes, kept) in cases {
        let ([off, measured], explanations) = core_ml(changes, &as_it_is);
        assert!(off.is_nan() || off < 20.0, "{changes:?}: {off:.1} dB");
        assert!(measured >= LEAST, "{changes:?}: {measured:.1} dB");
        let in_f32: Vec<&str> = explanations
            .iter()
            .flat_map(|(_, list)| list)
            .filter(|why| why.reason.contains("computed in f32"))
            .map(|why| why.op)
            .collect();
        assert_eq!(in_f32, kept.into_iter().collect::<Vec<_>>(), "{changes:?}");
    }
}

/// A convolution whose weights f16 cannot hold: refused without ranges, scaled with them.
#[test]
fn weights_past_the_end_of_f16() {
    let folder = tempfile::tempdir().unwrap();
    let factor = 1e6;
    let changes =
        [(VAE, "decoder.layers.5.conv.0.", factor), (VAE, "decoder.layers.5.conv.2.weight", 1.0 / factor)];
    let pipeline = changed(folder.path(), &changes);
    let (image, noise) = expected(&pipeline, folder.path());
    let error = compiled(&pipeline, Target::CoreMl, Ranges::Off, folder.path()).unwrap_err();
    assert_eq!(error.class(), Class::Limit, "{error}");
    let compiled = compiled(&pipeline, Target::CoreMl, Ranges::Auto, folder.path()).unwrap();
    let found = psnr(interpreted(&compiled, &noise, &as_it_is).values(), image.values());
    println!("{found:.1} dB");
    assert!(found >= LEAST, "{found:.1} dB");
}

/// AutoencoderKL's group norms and attention: its stream 30000 times as large.
#[test]
fn a_kl_decoder() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("reference/autoencoder_kl/sd");
    copy_folder(&source, folder.path());
    let file = "diffusion_pytorch_model.safetensors";
    let ends =
        ["conv_in.weight", "conv_in.bias", "conv2.weight", "conv2.bias", "to_out.0.weight", "to_out.0.bias"];
    let ends = [&ends[..], &["conv_shortcut.bias", "upsamplers.0.conv.bias"]].concat();
    scale(&folder.path().join(file), 3e4, |name| {
        name.starts_with("decoder.") && ends.iter().any(|end| name.ends_with(end))
    });
    let config: kl::Config =
        serde_json::from_str(&std::fs::read_to_string(source.join("config.json")).unwrap()).unwrap();
    let store = Store::open_checkpoint(folder.path(), file).unwrap();
    let latent = tensors(&source.join("golden.safetensors"))["latent"].clone();
    let shape = &latent.ty.shape;
    let graph =
        kl::import(&config, &mut Checkpoint::new(&store, ""), shape[0], [shape[2], shape[3]]).unwrap();

    let mut measured = Measured::new(&graph);
    let inputs = [("latent", &latent)];
    let mut add = |node: &Node, results: &[Tensor]| {
        let pairs = node.results.iter().zip(results);
        pairs.for_each(|(&id, result)| measured.add(id, result.ty.last(), result.values()));
    };
    let expected = Interpreter::new(&graph, &store).run_observed(&inputs, &mut add).unwrap().remove(0);
    for weight in graph.values().iter().filter_map(|value| match value.def {
        Def::Weight(id) => Some(id),
        _ => None,
    }) {
        let numbers = store.read(graph.weight(weight)).unwrap();
        measured.add(graph.weight_value(weight), numbers.ty.last(), numbers.values());
    }
    let pass = PrecisionPass { precision: Precision::F16, weights_only: false };
    let [off, found] = [Plan::unmeasured(&graph), Plan::new(&graph, &measured)].map(|plan| {
        let half = pass.run_measured(&graph, &plan).unwrap();
        let legal = legalize(&half, Target::CoreMl.backend(MinOs::default()).as_ref()).unwrap();
        let image = Interpreter::new(&legal, &store).run(&inputs).unwrap().remove(0);
        relative_error(image.values(), expected.values())
    });
    println!("relative error {off:e}, measured {found:e}");
    assert!(off.is_nan() || off > 0.1, "{off:e}");
    assert!(found <= 1e-2, "{found:e}");
}
