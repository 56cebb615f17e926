//! The interpreter against tensors that other software computed.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use snapc_frontends::tokenizer::Tokenizer;
use snapc_frontends::{Checkpoint, Part, Pipeline, text_encoder, transformer, vae};
use snapc_interp::{Interpreter, Sampling, sample};
use snapc_ir::Graph;
use snapc_passes::{Pass, Slice};
use snapc_tests::{assert_close, entry, fixture, largest_error, tensors};
use snapc_weights::{Store, Tensor};

/// The bound of every golden tensor.
const BOUND: f64 = 1e-4;

fn timestep(sigma: f32) -> Tensor {
    Tensor::f32([1], vec![1000.0 * sigma])
}

#[test]
fn shapes_text() {
    let pipeline = Pipeline::open(&fixture("shapes")).unwrap();
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let part = pipeline.import(Part::TextEncoder, 1, [16, 16]).unwrap();
    let interpreter = Interpreter::new(&part.graph, &part.store);
    for prompt in 0..2 {
        let text = interpreter.run(&[("input_ids", &entry(&golden["ids"], prompt))]).unwrap();
        assert_close("text", &text[0], &entry(&golden["text"], prompt), BOUND);
    }
}

#[test]
fn shapes_every_subnet() {
    let pipeline = Pipeline::open(&fixture("shapes")).unwrap();
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let latent_size = pipeline.latent_size(None).unwrap();
    let schedule = pipeline.schedule(None, latent_size).unwrap();
    assert_eq!(schedule.sigmas, golden["sigmas"].values());
    let transformer = pipeline.import(Part::Transformer, 1, latent_size).unwrap();
    let decoder = pipeline.import(Part::VaeDecoder, 1, latent_size).unwrap();
    assert!(decoder.ignored.iter().all(|name| name.starts_with("encoder.")) && !decoder.ignored.is_empty());
    for (name, width) in pipeline.subnets() {
        let graph = Slice { from: pipeline.width(), to: width }.run(&transformer.graph).unwrap();
        let interpreter = Interpreter::new(&graph, &transformer.store);
        for prompt in 0..2 {
            let (text, mask) = (entry(&golden["text"], prompt), entry(&golden["text_mask"], prompt));
            let noise = entry(&golden["noise"], prompt);
            let mut inner = BTreeMap::new();
            let velocity = |latent: &Tensor, time: f32, inner: &mut BTreeMap<String, Tensor>| {
                let inputs = [
                    ("latent", latent),
                    ("timestep", &timestep(time / 1000.0)),
                    ("text", &text),
                    ("text_mask", &mask),
                ];
                let mut results = interpreter.run_observed(&inputs, &mut |node, results| {
                    inner.insert(node.scope.to_string(), results[0].clone());
                });
                Ok(results.as_mut().map_err(|error| error.clone())?.remove(0))
            };
            let first = velocity(&noise, 1000.0, &mut inner).unwrap();
            let expect = |what: &str| entry(&golden[&format!("{name}.{what}")], prompt);
            assert_close("velocity0", &first, &expect("velocity0"), BOUND);
            // The last node of a scope makes its result; a gate's sigmoid is not the last of its scope.
            for what in ["down.0", "mid.0", "up.0", "down.0.self_attn.global", "down.0.self_attn.local"] {
                assert_close(&format!("{name}.{what}"), &inner[what], &expect(what), BOUND);
            }
            let sampling = Sampling { schedule: &schedule, noise };
            let latents = sample(
                sampling,
                &mut |latent, time, _| velocity(latent, time, &mut BTreeMap::new()),
                &mut |_| panic!("the rule is Euler's"),
            )
            .unwrap();
            for (step, latent) in latents.iter().enumerate() {
                let what = format!("latent{}", step + 1);
                assert_close(&format!("{name}.{what}"), latent, &expect(&what), BOUND);
            }
            let image =
                Interpreter::new(&decoder.graph, &decoder.store).run(&[("latent", &latents[3])]).unwrap();
            assert_close("image", &image[0], &expect("image"), BOUND);
            let error = largest_error(image[0].values(), expect("image").values());
            assert!(error <= 2e-3, "{name}.image: largest error {error}");
        }
    }
}

#[test]
fn shapes_gate() {
    let pipeline = Pipeline::open(&fixture("shapes")).unwrap();
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let transformer = pipeline.import(Part::Transformer, 1, [16, 16]).unwrap();
    for (name, width) in pipeline.subnets() {
        let graph = Slice { from: pipeline.width(), to: width }.run(&transformer.graph).unwrap();
        for prompt in 0..2 {
            let mut found = None;
            let inputs = [
                ("latent", &entry(&golden["noise"], prompt)),
                ("timestep", &timestep(1.0)),
                ("text", &entry(&golden["text"], prompt)),
                ("text_mask", &entry(&golden["text_mask"], prompt)),
            ];
            Interpreter::new(&graph, &transformer.store)
                .run_observed(&inputs, &mut |node, results| {
                    if *node.scope == *"down.0.self_attn.gate" && node.op.name() == "sigmoid" {
                        found = Some(results[0].clone());
                    }
                })
                .unwrap();
            let expected = entry(&golden[&format!("{name}.down.0.self_attn.gate")], prompt);
            assert_close("gate", &found.unwrap(), &expected, BOUND);
        }
    }
}

/// Reads a config and its weights from a reference folder.
fn reference<C: serde::de::DeserializeOwned>(
    folder: &str,
    weights: &str,
) -> (C, Store, BTreeMap<String, Tensor>) {
    let folder = fixture(&format!("reference/{folder}"));
    let config = serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let store = Store::open_checkpoint(&folder, weights).unwrap();
    (config, store, tensors(&folder.join("golden.safetensors")))
}

fn run_one(graph: &Graph, store: &Store, inputs: &[(&str, &Tensor)]) -> Tensor {
    Interpreter::new(graph, store).run(inputs).unwrap().remove(0)
}

#[test]
fn unusual_transformers() {
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
    for folder in folders {
        let (config, store, golden) = reference::<transformer::snapgen::Config>(
            &format!("snapgen/{folder}"),
            "diffusion_pytorch_model.safetensors",
        );
        config.check().unwrap();
        let shape = golden["latent"].ty.shape.clone();
        let mut checkpoint = Checkpoint::new(&store, "");
        let graph = transformer::snapgen::import(&config, &mut checkpoint, 1, [shape[2], shape[3]]).unwrap();
        assert!(checkpoint.finish("config.json").unwrap().is_empty());
        for (name, width) in config.subnets() {
            let graph = Slice { from: config.width, to: width }.run(&graph).unwrap();
            let inputs = ["latent", "timestep", "text", "text_mask"].map(|name| (name, &golden[name]));
            let found = run_one(&graph, &store, &inputs);
            assert_close(&format!("{folder} {name}"), &found, &golden[&format!("velocity.{name}")], 1e-5);
        }
    }
}

#[test]
fn kl_decoders() {
    for folder in ["sd", "sd3", "no_attention_bf16"] {
        let (config, store, golden) = reference::<vae::kl::Config>(
            &format!("autoencoder_kl/{folder}"),
            "diffusion_pytorch_model.safetensors",
        );
        config.check().unwrap();
        let shape = golden["latent"].ty.shape.clone();
        let mut checkpoint = Checkpoint::new(&store, "");
        let graph = vae::kl::import(&config, &mut checkpoint, 1, [shape[2], shape[3]]).unwrap();
        checkpoint.finish("config.json").unwrap();
        let found = run_one(&graph, &store, &[("latent", &golden["latent"])]);
        assert_eq!(found.ty.shape, golden["image"].ty.shape);
        assert_close(folder, &found, &golden["image"], 1e-5);
    }
}

#[test]
fn tiny_decoder() {
    let (config, store, golden) =
        reference::<vae::tiny::Config>("autoencoder_tiny", "diffusion_pytorch_model.safetensors");
    config.check().unwrap();
    let shape = golden["latent"].ty.shape.clone();
    let mut checkpoint = Checkpoint::new(&store, "");
    let graph = vae::tiny::import(&config, &mut checkpoint, 1, [shape[2], shape[3]]).unwrap();
    checkpoint.finish("config.json").unwrap();
    let found = run_one(&graph, &store, &[("latent", &golden["latent"])]);
    assert_eq!(found.ty.shape, golden["image"].ty.shape);
    assert_close("tiny", &found, &golden["image"], 1e-5);
}

#[test]
fn clip_encoders() {
    for folder in ["quick_gelu", "gelu"] {
        let (config, store, golden) =
            reference::<text_encoder::clip::Config>(&format!("clip/{folder}"), "model.safetensors");
        config.check().unwrap();
        let mut checkpoint = Checkpoint::new(&store, text_encoder::clip::prefix(&store));
        let tokens = golden["input_ids"].ty.shape[1];
        let graph = text_encoder::clip::import(&config, &mut checkpoint, 1, tokens).unwrap();
        checkpoint.finish("config.json").unwrap();
        let found = run_one(&graph, &store, &[("input_ids", &golden["input_ids"])]);
        assert_close(folder, &found, &golden["last_hidden_state"], 1e-5);
    }
}

#[test]
fn scheduler_steps() {
    use snapc_ir::pipeline::{Schedule, StepRule};
    let golden = tensors(&fixture("reference/scheduler_steps.safetensors"));
    for (name, rule) in [("euler", StepRule::Euler), ("stochastic", StepRule::Stochastic)] {
        let get = |what: &str| golden[&format!("{name}.{what}")].clone();
        let schedule = Schedule { sigmas: get("sigmas").values().to_vec(), rule, distilled: false };
        let latents = sample(
            Sampling { schedule: &schedule, noise: get("sample") },
            &mut |_, _, step| Ok(get(&format!("output.{step}"))),
            &mut |step| Ok(get(&format!("noise.{step}"))),
        )
        .unwrap();
        assert_eq!(latents.len(), schedule.sigmas.len() - 1);
        for (step, latent) in latents.iter().enumerate() {
            assert_close(&format!("{name} step {step}"), latent, &get(&format!("result.{step}")), 1e-6);
        }
    }
}

#[test]
fn tokenizer_ids() {
    let text = std::fs::read_to_string(fixture("reference/tokenizer_ids.json")).unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let tokenizer = Tokenizer::open(&fixture("shapes"), 16).unwrap();
    assert!(rows.len() >= 10);
    for row in rows {
        let prompt = row["prompt"].as_str().unwrap();
        let list = |field: &str| -> Vec<i64> {
            row[field].as_array().unwrap().iter().map(|number| number.as_i64().unwrap()).collect()
        };
        let encoded = tokenizer.encode(prompt).unwrap();
        assert_eq!(encoded.ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>(), list("ids"), "{prompt}");
        let mask: Vec<i64> = encoded.mask.iter().map(|&bit| bit as i64).collect();
        assert_eq!(mask, list("attention_mask"), "{prompt}");
    }
}
