//! Pipelines whose activations pass f16's range: what is measured at compile time keeps the picture.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use snapc_driver::{
    Bake, CompileOptions, Compiled, GenerateOptions, Layout, MinOs, Part, Precision, Ranges, Silent, Target,
    Width, compile, generate,
};
use snapc_interp::Interpreter;
use snapc_ir::ops::Op;
use snapc_ir::{DType, Graph, Weight, rewrite};
use snapc_tests::{copy_folder, entry, fixture, psnr, runtimes, tensor_file, tensors};
use snapc_weights::{Store, Tensor};

const PROMPT: &str = "a red circle left of a blue square";

/// A change of weights: the file of a part, the start of tensors' names, what they are multiplied by.
type Change = (&'static str, &'static str, f32);

const TRANSFORMER: &str = "transformer/diffusion_pytorch_model.safetensors";
const TEXT_ENCODER: &str = "text_encoder/model.safetensors";
const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

/// All that the last block adds to its stream, and the stream itself, times `factor`; the norms take it off again.
fn last_block(factor: f32) -> Vec<Change> {
    ["up.1.skip.", "up.1.self_attn.o.", "up.1.cross_attn.o.", "up.1.ffn.2."]
        .map(|name| (TRANSFORMER, name, factor))
        .to_vec()
}

/// The fixture with changed weights, in f32.
fn changed(folder: &Path, changes: &[Change]) -> PathBuf {
    let pipeline = folder.join("model");
    copy_folder(&fixture("shapes"), &pipeline);
    for file in [TRANSFORMER, TEXT_ENCODER, VAE] {
        let mine: Vec<&Change> = changes.iter().filter(|(of, ..)| *of == file).collect();
        if mine.is_empty() {
            continue;
        }
        let path = pipeline.join(file);
        let store = Store::open(std::slice::from_ref(&path)).unwrap();
        let mut all: BTreeMap<String, Tensor> =
            store.names().map(|name| (name.to_string(), store.tensor(name).unwrap())).collect();
        for (_, start, factor) in mine {
            let found: Vec<_> = all.iter_mut().filter(|(name, _)| name.starts_with(start)).collect();
            assert!(!found.is_empty(), "{start}");
            for (_, tensor) in found {
                *tensor = Tensor::f32(
                    tensor.ty.shape.clone(),
                    tensor.values().iter().map(|x| x * factor).collect(),
                );
            }
        }
        let all: Vec<(&str, Tensor)> = all
            .iter()
            .filter(|(_, tensor)| tensor.ty.dtype.is_float())
            .map(|(name, tensor)| {
                (name.as_str(), Tensor::f32(tensor.ty.shape.clone(), tensor.values().to_vec()))
            })
            .collect();
        let all: Vec<(&str, &Tensor)> = all.iter().map(|(name, tensor)| (*name, tensor)).collect();
        tensor_file(&path, &all);
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
fn compiled(pipeline: &Path, target: Target, ranges: Ranges, output: &Path) -> Compiled {
    let options = CompileOptions {
        pipeline: pipeline.to_path_buf(),
        widths: vec![Width::Subnet("small".to_string())],
        targets: vec![target],
        parts: Vec::new(),
        sizes: Vec::new(),
        one_file: false,
        precision: Precision::F16,
        min_os: MinOs::default(),
        device: None,
        bake: Some(Bake::Unrolled),
        steps: None,
        guidance: None,
        ranges,
        layout: Layout::Default,
        output: output.join(ranges.name()),
    };
    compile(&options, &mut Silent).unwrap().remove(0)
}

fn artifact(compiled: &Compiled, target: Target, part: Part) -> PathBuf {
    compiled.folder.join(target.backend(MinOs::default()).artifact(part.name()))
}

/// Prompt to picture; `run` runs a part.
fn draw(noise: &Tensor, run: &mut dyn FnMut(Part, &[(&str, &Tensor)]) -> Tensor) -> Tensor {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let (ids, mask) = (entry(&golden["ids"], 0), entry(&golden["text_mask"], 0));
    let text = run(Part::TextEncoder, &[("input_ids", &ids)]);
    let latent = run(Part::Transformer, &[("noise", noise), ("text", &text), ("text_mask", &mask)]);
    run(Part::VaeDecoder, &[("latent", &latent)])
}

/// The picture of Core ML packages, read back, changed by `device` and interpreted: each f16 value is rounded as it is made.
fn interpreted(compiled: &Compiled, noise: &Tensor, device: &dyn Fn(Graph) -> Graph) -> Tensor {
    draw(noise, &mut |part, inputs| {
        let backend = Target::CoreMl.backend(MinOs::default());
        let (graph, store) = backend.read(&artifact(compiled, Target::CoreMl, part)).unwrap();
        Interpreter::new(&device(graph), &store).run(inputs).unwrap().remove(0)
    })
}

/// The picture of a target's own software.
fn run_elsewhere(compiled: &Compiled, target: Target, noise: &Tensor, folder: &Path) -> Tensor {
    draw(noise, &mut |part, inputs| {
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
            let mut mean = |b: &mut snapc_ir::Builder, x| {
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

/// Core ML with ranges off and measured, in dB.
fn core_ml(changes: &[Change], device: &dyn Fn(Graph) -> Graph) -> ([f64; 2], Compiled) {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = changed(folder.path(), changes);
    let (image, noise) = expected(&pipeline, folder.path());
    let mut last = None;
    let found = [Ranges::Off, Ranges::Auto].map(|ranges| {
        let compiled = compiled(&pipeline, Target::CoreMl, ranges, folder.path());
        let found = psnr(interpreted(&compiled, &noise, device).values(), image.values());
        last = Some(compiled);
        found
    });
    println!("{changes:?}: {found:?}");
    (found, last.unwrap())
}

#[test]
fn probe() {
    core_ml(&[], &as_it_is);
    core_ml(&[], &all_in_half);
    core_ml(&last_block(300.0), &as_it_is);
    core_ml(&last_block(300.0), &all_in_half);
    let (_, c) = core_ml(&last_block(3000.0), &as_it_is);
    println!("{:#?}", c.explanations.iter().map(|(p, e)| (p, &e[..e.len().min(9)])).collect::<Vec<_>>());
    core_ml(&last_block(3000.0), &all_in_half);
    for f in [300.0, 30000.0] {
        let (_, c) = core_ml(
            &[(TRANSFORMER, "mid.1.ffn.0.", f), (TRANSFORMER, "mid.1.ffn.2.weight", 1.0 / f)],
            &as_it_is,
        );
        println!("{:#?}", c.explanations.iter().map(|(p, e)| (p, &e[..e.len().min(9)])).collect::<Vec<_>>());
        let (_, c) = core_ml(
            &[(TRANSFORMER, "mid.1.self_attn.v.", f), (TRANSFORMER, "mid.1.self_attn.o.", 1.0 / f)],
            &as_it_is,
        );
        println!("{:#?}", c.explanations.iter().map(|(p, e)| (p, &e[..e.len().min(9)])).collect::<Vec<_>>());
        let (_, c) = core_ml(
            &[(VAE, "decoder.layers.5.conv.0.", f), (VAE, "decoder.layers.5.conv.2.weight", 1.0 / f)],
            &as_it_is,
        );
        println!("{:#?}", c.explanations.iter().map(|(p, e)| (p, &e[..e.len().min(9)])).collect::<Vec<_>>());
    }
}
