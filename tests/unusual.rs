//! Unusual configs in every target's own software: what PyTorch, diffusers and transformers computed must come out.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use snapc_backend::{Part, legalize};
use snapc_driver::{MinOs, Precision, Target};
use snapc_frontends::{Checkpoint, text_encoder::clip, transformer::snapgen, vae::kl, vae::tiny};
use snapc_ir::Graph;
use snapc_passes::{Standard, run, standard};
use snapc_tests::{assert_close, fixture, no_numbers, runtimes, tensor_file, tensors};
use snapc_weights::{Store, Tensor};

/// A graph as its frontend made it, its weights, and one run of it.
struct Model {
    name: String,
    graph: Graph,
    folder: String,
    weights: &'static str,
    widths: (usize, usize),
    inputs: Vec<(String, Tensor)>,
    expected: Tensor,
}

type Golden = BTreeMap<String, Tensor>;

fn open<C: DeserializeOwned>(folder: &str, weights: &str) -> (C, Store, Golden) {
    let path = fixture(&format!("reference/{folder}"));
    let config = serde_json::from_str(&std::fs::read_to_string(path.join("config.json")).unwrap()).unwrap();
    (config, Store::open_checkpoint(&path, weights).unwrap(), tensors(&path.join("golden.safetensors")))
}

const DIFFUSERS: &str = "diffusion_pytorch_model.safetensors";

fn transformers() -> Vec<Model> {
    let folders = [
        "compress_3",
        "compress_4",
        "depthwise",
        "full_conv",
        "nonsquare",
        "patch_2",
        "q_per_kv_1",
        "q_per_kv_4",
        "radius_0",
        "radius_2",
        "sharded_bf16",
    ];
    let mut models = Vec::new();
    for name in folders {
        let folder = format!("snapgen/{name}");
        let (config, store, golden): (snapgen::Config, _, _) = open(&folder, DIFFUSERS);
        let shape = golden["latent"].ty.shape.clone();
        let graph =
            snapgen::import(&config, &mut Checkpoint::new(&store, ""), 1, [shape[2], shape[3]]).unwrap();
        for (subnet, width) in config.subnets() {
            let inputs = ["latent", "timestep", "text", "text_mask"]
                .map(|name| (name.to_string(), golden[name].clone()));
            models.push(Model {
                name: format!("{name}_{subnet}"),
                graph: graph.clone(),
                folder: folder.clone(),
                weights: DIFFUSERS,
                widths: (config.width, width),
                inputs: inputs.to_vec(),
                expected: golden[&format!("velocity.{subnet}")].clone(),
            });
        }
    }
    models
}

fn decoders() -> Vec<Model> {
    ["autoencoder_kl/sd", "autoencoder_kl/sd3", "autoencoder_kl/no_attention_bf16", "autoencoder_tiny"]
        .map(|folder| {
            let path = fixture(&format!("reference/{folder}"));
            let golden = tensors(&path.join("golden.safetensors"));
            let shape = golden["latent"].ty.shape.clone();
            let size = [shape[2], shape[3]];
            let graph = if folder == "autoencoder_tiny" {
                let (config, store, _): (tiny::Config, _, _) = open(folder, DIFFUSERS);
                tiny::import(&config, &mut Checkpoint::new(&store, ""), 1, size).unwrap()
            } else {
                let (config, store, _): (kl::Config, _, _) = open(folder, DIFFUSERS);
                kl::import(&config, &mut Checkpoint::new(&store, ""), 1, size).unwrap()
            };
            Model {
                name: folder.replace('/', "_"),
                graph,
                folder: folder.to_string(),
                weights: DIFFUSERS,
                widths: (1, 1),
                inputs: vec![("latent".to_string(), golden["latent"].clone())],
                expected: golden["image"].clone(),
            }
        })
        .into()
}

fn encoders() -> Vec<Model> {
    ["clip/quick_gelu", "clip/gelu"]
        .map(|folder| {
            let (config, store, golden): (clip::Config, _, _) = open(folder, "model.safetensors");
            let tokens = golden["input_ids"].ty.shape[1];
            let mut checkpoint = Checkpoint::new(&store, clip::prefix(&store));
            Model {
                name: folder.replace('/', "_"),
                graph: clip::import(&config, &mut checkpoint, 1, tokens).unwrap(),
                folder: folder.to_string(),
                weights: "model.safetensors",
                widths: (1, 1),
                inputs: vec![("input_ids".to_string(), golden["input_ids"].clone())],
                expected: golden["last_hidden_state"].clone(),
            }
        })
        .into()
}

/// Writes every model for a target and runs it in the target's own software.
fn check(target: Target, precision: Precision, bound: f64) {
    let models: Vec<Model> = [transformers(), decoders(), encoders()].into_iter().flatten().collect();
    let backend = target.backend(MinOs::default());
    let folder = tempfile::tempdir().unwrap();
    let mut jobs = Vec::new();
    for model in &models {
        let store =
            Store::open_checkpoint(&fixture(&format!("reference/{}", model.folder)), model.weights).unwrap();
        let options = Standard {
            widths: model.widths,
            baking: None,
            precision,
            weights_only: target.weights_only(),
            quantize: None,
        };
        let graph = run(&model.graph, &standard(&options, model.graph.stage(), &no_numbers), None).unwrap();
        let legal =
            legalize(&graph, backend.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", model.name));
        let own = folder.path().join(&model.name);
        std::fs::create_dir(&own).unwrap();
        let job = runtimes::Job {
            artifact: own.join(backend.artifact(legal.name())),
            inputs: own.join("inputs.safetensors"),
            outputs: own.join("outputs.safetensors"),
        };
        let part = Part::new(legal, &store, &[]);
        backend.write(part, &job.artifact, &mut |_| {}).unwrap();
        let inputs: Vec<(&str, &Tensor)> =
            model.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        tensor_file(&job.inputs, &inputs);
        jobs.push(job);
    }
    for (found, model) in runtimes::run(target, &jobs).into_iter().zip(&models) {
        let found = found.values().next().unwrap();
        assert_close(&format!("{} {}", target.name(), model.name), found, &model.expected, bound);
    }
}

#[test]
fn in_f32() {
    for target in Target::ALL {
        check(target, Precision::F32, 1e-4);
    }
}

/// Random weights of order one through a dozen roundings of 2^-11 each.
#[test]
fn in_f16() {
    for target in Target::ALL {
        check(target, Precision::F16, 2e-2);
    }
}
