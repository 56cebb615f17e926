//! Baked schedules as a user asks for them: defaults, contradictions, and every command on what a compile wrote.
#![allow(clippy::unwrap_used, clippy::panic)]

mod command;

use std::path::Path;

use serde_json::Value;
use snapc_tests::{assert_close, copy_folder, entry, files, fixture, runtimes, tensor_file, tensors};
use tempfile::TempDir;

use command::{snapc, succeed};

/// A working folder with a copy of the fixture in `model`, and in `plain` one that is not distilled.
fn workplace() -> TempDir {
    let folder = command::workplace();
    copy_folder(&fixture("shapes"), &folder.path().join("plain"));
    schedule(folder.path(), "plain", "distilled_sigmas", Value::Null);
    folder
}

fn schedule(root: &Path, pipeline: &str, field: &str, value: Value) {
    let path = root.join(pipeline).join("scheduler/scheduler_config.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    json[field] = value;
    std::fs::write(&path, json.to_string()).unwrap();
}

#[track_caller]
fn refuse(folder: &Path, words: &[&str], code: i32) -> String {
    let output = snapc(folder, words);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
    assert!(output.stdout.is_empty() && text.starts_with("error: "), "{words:?}: {text}");
    let out = folder.join("out");
    assert!(words[0] != "compile" || !out.is_dir() || files(&out).is_empty(), "something was written");
    text
}

fn compile<'a>(pipeline: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    [&["compile", pipeline, "--subnet", "tiny", "-o", "out", "--json"], words].concat()
}

/// The manifest of the first folder that a compile writes.
fn manifest(folder: &Path, words: &[&str]) -> Value {
    let json: Value = serde_json::from_str(&succeed(folder, words)).unwrap();
    json["outputs"][0]["manifest"].clone()
}

fn ports(manifest: &Value, side: &str) -> Vec<String> {
    let parts = manifest["parts"].as_array().unwrap();
    let transformer = parts.iter().find(|part| part["part"] == "transformer").unwrap();
    let ports = transformer[side].as_array().unwrap().iter();
    ports
        .map(|port| format!("{} {} {}", port["name"].as_str().unwrap(), port["type"], port["shape"]))
        .collect()
}

#[test]
fn what_is_baked_when_nobody_says() {
    let place = workplace();
    let root = place.path();
    let bake = |words: &[&str]| manifest(root, words)["options"]["bake"].as_str().unwrap().to_string();
    assert_eq!(bake(&compile("model", &["-t", "coreml"])), "step");
    assert_eq!(bake(&compile("plain", &["-t", "coreml"])), "none");
    assert_eq!(bake(&compile("model", &["-t", "onnx", "--layout", "optimum"])), "none");
    std::fs::write(root.join("snapc.toml"), "bake = \"unrolled\"\n").unwrap();
    assert_eq!(bake(&compile("model", &["-t", "coreml"])), "unrolled");
    assert_eq!(bake(&compile("model", &["-t", "coreml", "--bake", "none"])), "none");
    std::fs::write(root.join("snapc.toml"), "bake = \"all\"\n").unwrap();
    std::fs::remove_dir_all(root.join("out")).unwrap();
    insta::assert_snapshot!(
        "error_bake_project",
        refuse(root, &["compile", "model", "-s", "tiny", "-t", "onnx"], 3)
    );
}

#[test]
fn inputs_and_outputs() {
    let place = workplace();
    let root = place.path();
    let mut text = String::new();
    let cases: [(&str, &[&str]); 5] = [
        ("model", &["--bake", "step"]),
        ("model", &["--bake", "unrolled"]),
        ("plain", &["--bake", "step", "--steps", "3", "--guidance", "2"]),
        ("stochastic", &["--bake", "step", "--guidance", "2"]),
        ("stochastic", &["--bake", "unrolled", "--steps", "3"]),
    ];
    copy_folder(&root.join("plain"), &root.join("stochastic"));
    schedule(root, "stochastic", "stochastic_sampling", true.into());
    for (pipeline, words) in cases {
        let all = compile(pipeline, &[&["-t", "coreml", "--part", "transformer"], words].concat());
        let manifest = manifest(root, &all);
        text += &format!(
            "{pipeline} {}: {} sigmas, guidance {}\n  in  {}\n  out {}\n",
            words.join(" "),
            manifest["schedule"]["sigmas"].as_array().unwrap().len(),
            manifest["options"]["guidance"],
            ports(&manifest, "inputs").join("\n      "),
            ports(&manifest, "outputs").join("\n      "),
        );
    }
    insta::assert_snapshot!("bake_ports", text);
}

/// Each contradiction, and the reason that is given.
#[test]
fn contradictions_are_refused() {
    let place = workplace();
    let root = place.path();
    let cases: [(&str, &str, &[&str]); 6] = [
        ("bake_guidance_of_distilled", "model", &["-t", "onnx", "--guidance", "3"]),
        ("bake_steps_of_distilled", "model", &["-t", "onnx", "--bake", "step", "--steps", "8"]),
        ("bake_none_with_guidance", "plain", &["-t", "onnx", "--guidance", "3", "--bake", "none"]),
        ("bake_guidance_no_number", "plain", &["-t", "onnx", "--guidance", "nan", "--bake", "step"]),
        ("bake_of_optimum", "model", &["-t", "onnx", "--layout", "optimum", "--bake", "step"]),
        ("bake_no_steps", "plain", &["-t", "onnx", "--bake", "step", "--steps", "0"]),
    ];
    for (name, pipeline, words) in cases {
        let all = [&["compile", pipeline, "--subnet", "tiny", "-o", "out"], words].concat();
        insta::assert_snapshot!(format!("error_{name}"), refuse(root, &all, 2));
    }
    schedule(root, "model", "_class_name", "DPMSolverMultistepScheduler".into());
    let words = ["compile", "model", "-s", "tiny", "-t", "onnx", "-o", "out", "--bake", "step"];
    insta::assert_snapshot!("error_bake_other_scheduler", refuse(root, &words, 3));
}

/// A compiled folder is run as it was baked.
#[test]
fn runs_of_baked_folders() {
    let place = workplace();
    let root = place.path();
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let (prompt, noise) = ("a red circle left of a blue square", entry(&golden["noise"], 0));
    tensor_file(&root.join("noise.safetensors"), &[("noise", &noise)]);
    let run = ["run", "out/onnx/tiny", "--prompt", prompt, "-o", "a.png"];
    let more = ["--noise", "noise.safetensors", "--save-latents", "l.safetensors"];
    for (bake, latents) in [("none", &[1, 2, 3, 4][..]), ("step", &[1, 2, 3, 4]), ("unrolled", &[4])] {
        succeed(root, &compile("model", &["-t", "onnx", "--precision", "f32", "--bake", bake]));
        succeed(root, &[&run[..], &more].concat());
        let saved = tensors(&root.join("l.safetensors"));
        assert_eq!(saved.len(), latents.len() + 2, "{bake}");
        for step in latents {
            let expected = entry(&golden[&format!("tiny.latent{step}")], 0);
            assert_close(bake, &saved[&format!("latent{step}")], &expected, 1e-4);
        }
    }
    let run = ["run", "out/onnx/tiny", "--prompt", prompt, "-o", "b.png"];
    insta::assert_snapshot!(
        "error_run_baked_guidance",
        refuse(root, &[&run[..], &["--guidance", "2"]].concat(), 2)
    );
    let negative = refuse(root, &[&run[..], &["--negative-prompt", "blue"]].concat(), 2);
    insta::assert_snapshot!("error_run_baked_negative", negative);
}

/// Seeds and negative prompts mean the same for a pipeline and for what was baked of it.
#[test]
fn stochastic_guidance_is_the_pipelines() {
    let place = workplace();
    let root = place.path();
    schedule(root, "plain", "stochastic_sampling", true.into());
    let saved = |words: &[&str]| {
        let run =
            ["--prompt", "two purple squares", "--negative-prompt", "blue", "--seed", "5", "-o", "a.png"];
        succeed(root, &[words, &run, &["--save-latents", "l.safetensors"]].concat());
        tensors(&root.join("l.safetensors"))
    };
    let expected = saved(&["run", "plain", "--subnet", "tiny", "--steps", "3", "--guidance", "2.5"]);
    for bake in ["step", "unrolled"] {
        let words =
            ["-t", "tflite", "--precision", "f32", "--bake", bake, "--steps", "3", "--guidance", "2.5"];
        succeed(root, &compile("plain", &words));
        let found = saved(&["run", "out/tflite/tiny"]);
        for (name, found) in found {
            assert_close(&format!("{bake} {name}"), &found, &expected[&name], 1e-4);
        }
    }
}

/// Verification compares what was baked with the pipeline and the sampler, also in the targets' own software.
#[test]
fn verify_knows_every_bake() {
    let place = workplace();
    let root = place.path();
    let python = runtimes::python().to_str().unwrap();
    schedule(root, "plain", "stochastic_sampling", true.into());
    let verify = |pipeline: &str| {
        let words =
            ["verify", "out", "--pipeline", pipeline, "--prompts", "1", "--runtime", python, "--json"];
        let json: Value = serde_json::from_str(&succeed(root, &words)).unwrap();
        let folders = json["folders"].as_array().unwrap().clone();
        assert_eq!(folders.len(), 3);
        for row in folders.iter().flat_map(|folder| folder["rows"].as_array().unwrap()) {
            println!("{row}");
            assert!(row["relative"].as_f64().unwrap() <= 1e-4, "{row}");
        }
    };
    succeed(root, &compile("model", &["-t", "all", "--precision", "f32", "--bake", "unrolled"]));
    verify("model");
    for bake in ["step", "unrolled"] {
        let words = ["-t", "all", "--precision", "f32", "--bake", bake, "--steps", "2", "--guidance", "3"];
        succeed(root, &compile("plain", &words));
        verify("plain");
    }
    // The artifact says itself what is in it.
    let model = std::fs::read(root.join("out/onnx/tiny/transformer/model.onnx")).unwrap();
    let text = String::from_utf8_lossy(&model);
    assert!(text.contains("snapc.bake") && text.contains("snapc.guidance"));
    // One that was written with other steps is another model.
    schedule(root, "plain", "shift", 3.into());
    refuse(root, &["verify", "out", "--pipeline", "plain"], 3);
}

#[test]
fn print_after_bake() {
    let place = workplace();
    let print = ["print", "model", "--subnet", "tiny", "--after", "bake"];
    let text = succeed(place.path(), &print);
    let graph = snapc_ir::text::parse(&text).unwrap();
    assert_eq!(snapc_ir::text::print(&graph), text);
    let inputs: Vec<&str> = graph.inputs().iter().map(|port| port.name.as_str()).collect();
    assert_eq!(inputs, ["latent", "step", "text", "text_mask"]);
    let text = succeed(place.path(), &[&print[..], &["--bake", "none"]].concat());
    assert_eq!(snapc_ir::text::parse(&text).unwrap().outputs()[0].name, "velocity");
    let part = ["--part", "vae_decoder"];
    let text = succeed(place.path(), &[&print[..], &part].concat());
    assert!(text.starts_with("graph vae_decoder subnet"));
}
