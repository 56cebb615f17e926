//! The scripts of `examples/`, run as an app's developer runs them, on what a compile wrote.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use snapc_driver::{Bake, GenerateOptions, Precision, Silent, Target, Width, compile, generate};
use snapc_tests::{
    assert_close, compile_options, copy_folder, entry, fixture, psnr, runtimes, tensor_file, tensors,
};
use snapc_weights::Tensor;

const SUBNETS: [&str; 3] = ["tiny", "small", "full"];

/// Bounds of the picture, in dB, and of the last latent's relative error: f32 is PyTorch's arithmetic in another order; f16
/// rounds to 2^-11, on four steps, each of which may double what the one before left.
const KINDS: [(Precision, f64, f64); 2] = [(Precision::F32, 60.0, 1e-4), (Precision::F16, 40.0, 1e-2)];

fn script(target: Target) -> Option<PathBuf> {
    let name = match target.name() {
        "onnx" => "onnx_generate.py",
        "tflite" => "litert_generate.py",
        _ => return None,
    };
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name))
}

fn targets() -> Vec<(Target, PathBuf)> {
    Target::ALL.into_iter().filter_map(|target| Some((target, script(target)?))).collect()
}

fn compiled(target: Target, precision: Precision, output: &Path) {
    compile(&compile_options(target, precision, output), &mut Silent).unwrap();
}

fn run(script: &Path, dist: &Path, prompt: &str, more: &[&str]) -> String {
    let done = Command::new(runtimes::python())
        .arg(script)
        .arg(dist)
        .args(["--prompt", prompt])
        .args(more)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{} {}: {said}", script.display(), dist.display());
    said
}

/// The golden prompts and noise give the golden latents and pictures.
#[test]
fn pictures_are_the_golden_ones() {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let facts: Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("shapes/golden.json")).unwrap()).unwrap();
    for (target, script) in targets() {
        for (precision, least, bound) in KINDS {
            let folder = tempfile::tempdir().unwrap();
            compiled(target, precision, folder.path());
            for (number, prompt) in facts["prompts"].as_array().unwrap().iter().enumerate() {
                let noise = folder.path().join("noise.safetensors");
                tensor_file(&noise, &[("noise", &entry(&golden["noise"], number))]);
                for subnet in SUBNETS {
                    let what = format!("{} {} {subnet} {prompt}", target.name(), precision.name());
                    let (png, saved) = (folder.path().join("out.png"), folder.path().join("out.safetensors"));
                    let [noise, png_text, saved_text] =
                        [&noise, &png, &saved].map(|path| path.to_str().unwrap());
                    let more = ["--noise", noise, "-o", png_text, "--save", saved_text];
                    let dist = folder.path().join(target.name()).join(subnet);
                    run(&script, &dist, prompt.as_str().unwrap(), &more);

                    let found = tensors(&saved);
                    for step in 1..=4 {
                        let name = format!("latent{step}");
                        let expected = entry(&golden[&format!("{subnet}.{name}")], number);
                        assert_close(&format!("{what} {name}"), &found[&name], &expected, bound);
                    }
                    let expected = entry(&golden[&format!("{subnet}.image")], number);
                    let decibels = psnr(found["image"].values(), expected.values());
                    assert!(decibels >= least, "{what}: {decibels:.1} dB");
                    assert_eq!(pixels(&png), as_pixels(found["image"].values()), "{what}");
                }
            }
        }
    }
}

/// One step at a time or all at once: the same pictures.
#[test]
fn baked_schedules() {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let prompt = "a red circle left of a blue square";
    for (target, script) in targets() {
        for (bake, latents) in [(Bake::Step, &[1, 2, 3, 4][..]), (Bake::Unrolled, &[4])] {
            let folder = tempfile::tempdir().unwrap();
            let mut options = compile_options(target, Precision::F32, folder.path());
            options.bake = Some(bake);
            compile(&options, &mut Silent).unwrap();
            let [noise, png, saved] = ["noise", "png", "saved"].map(|name| folder.path().join(name));
            tensor_file(&noise, &[("noise", &entry(&golden["noise"], 0))]);
            let words = [&noise, &png, &saved].map(|path| path.to_str().unwrap());
            let dist = folder.path().join(target.name()).join("small");
            let png = format!("{}.png", words[1]);
            run(&script, &dist, prompt, &["--noise", words[0], "-o", &png, "--save", words[2]]);
            let found = tensors(&saved);
            assert_eq!(found.len(), latents.len() + 2);
            for step in latents {
                let name = format!("latent{step}");
                let expected = entry(&golden[&format!("small.{name}")], 0);
                assert_close(
                    &format!("{} {} {name}", target.name(), bake.name()),
                    &found[&name],
                    &expected,
                    1e-4,
                );
            }
        }
    }
}

/// Stochastic sampling and guidance, baked, against the pipeline as the interpreter runs it.
#[test]
fn baked_guidance_of_a_stochastic_schedule() {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let folder = tempfile::tempdir().unwrap();
    let [pipeline, noise, saved] = ["pipeline", "noise", "saved"].map(|name| folder.path().join(name));
    copy_folder(&fixture("shapes"), &pipeline);
    let config = pipeline.join("scheduler/scheduler_config.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    (json["distilled_sigmas"], json["stochastic_sampling"]) = (Value::Null, true.into());
    std::fs::write(&config, json.to_string()).unwrap();
    let start = entry(&golden["noise"], 0);
    // The last step's is never looked at.
    let fresh = [entry(&golden["noise"], 1).values(), &vec![9.0; start.ty.count()]].concat();
    let fresh = Tensor::f32([[2].as_slice(), &start.ty.shape].concat(), fresh);
    tensor_file(&noise, &[("noise", &start), ("fresh", &fresh)]);

    let (prompt, negative) = ("two purple squares", "a red circle");
    let asked = GenerateOptions {
        pipeline: pipeline.clone(),
        prompt: prompt.to_string(),
        negative_prompt: Some(negative.to_string()),
        width: Some(Width::Subnet("tiny".to_string())),
        steps: Some(2),
        guidance: Some(2.5),
        seed: 0,
        size: None,
        noise: Some(noise.clone()),
        output: folder.path().join("expected.png"),
        save_latents: Some(saved.clone()),
    };
    generate(&asked, &mut Silent).unwrap();
    let expected = tensors(&saved);
    for (target, script) in targets() {
        for bake in [Bake::Step, Bake::Unrolled] {
            let output = folder.path().join(bake.name());
            let mut options = compile_options(target, Precision::F32, &output);
            options.pipeline = pipeline.clone();
            options.widths = vec![Width::Subnet("tiny".to_string())];
            (options.bake, options.steps, options.guidance) = (Some(bake), Some(2), Some(2.5));
            compile(&options, &mut Silent).unwrap();
            let dist = output.join(target.name()).join("tiny");
            let png = folder.path().join("found.png");
            let words = [&noise, &png, &saved].map(|path| path.to_str().unwrap());
            let more =
                ["--negative-prompt", negative, "--noise", words[0], "-o", words[1], "--save", words[2]];
            run(&script, &dist, prompt, &more);
            for (name, found) in tensors(&saved) {
                assert_close(
                    &format!("{} {} {name}", target.name(), bake.name()),
                    &found,
                    &expected[&name],
                    1e-4,
                );
            }
        }
    }
}

/// A seed gives the same picture each time, another seed another one.
#[test]
fn a_seed_is_a_picture() {
    for (target, script) in targets() {
        let folder = tempfile::tempdir().unwrap();
        compiled(target, Precision::F32, folder.path());
        let dist = folder.path().join(target.name()).join("tiny");
        let mut pictures = ["7", "7", "8"].map(|seed| {
            let png = folder.path().join("seed.png");
            run(&script, &dist, "a red circle", &["--seed", seed, "-o", png.to_str().unwrap()]);
            pixels(&png)
        });
        let [first, second, third] = &mut pictures;
        assert!(first == second && first != third, "{}", target.name());
    }
}

/// Parts and sizes that are signatures of one file draw what files of their own draw.
#[test]
fn one_file_draws_in_each_size() {
    let script = script(Target::TfLite).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut options = compile_options(Target::TfLite, Precision::F32, folder.path());
    options.widths.truncate(1);
    let mut draw = |sizes: &[[usize; 2]], one_file: bool, more: &[&str]| {
        (options.sizes, options.one_file) = (sizes.to_vec(), one_file);
        let dist = compile(&options, &mut Silent).unwrap().remove(0).folder;
        let png = folder.path().join("out.png");
        run(&script, &dist, "a red circle", &[more, &["-o", png.to_str().unwrap()]].concat());
        pixels(&png)
    };
    let (small, wide) = ([64, 64], [64, 96]);
    let apart = [small, wide].map(|size| draw(&[size], false, &[]));
    assert_eq!((apart[0].0, apart[1].0), (64, 96));
    assert!(draw(&[small], true, &[]) == apart[0]);
    assert!(draw(&[small, wide], true, &["--size", "64x64"]) == apart[0]);
    assert!(draw(&[small, wide], true, &["--size", "64x96"]) == apart[1]);
    let dist = folder.path().join("tflite/tiny");
    let mut command = Command::new(runtimes::python());
    let done = command.arg(&script).arg(&dist).args(["--prompt", "a red circle"]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && said.contains("--size: 64x64, 64x96"), "{said}");
}

/// The size and the bytes of a PNG, RGB.
fn pixels(path: &Path) -> (u32, u32, Vec<u8>) {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    bytes.truncate(info.buffer_size());
    (info.width, info.height, bytes)
}

/// What a picture of 64 x 64 `[1, 3, 64, 64]` in [-1, 1] is in a PNG.
fn as_pixels(values: &[f32]) -> (u32, u32, Vec<u8>) {
    let plane = values.len() / 3;
    let byte = |value: f32| ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round_ties_even() as u8;
    let bytes = (0..plane).flat_map(|at| [0, 1, 2].map(|colour| byte(values[colour * plane + at])));
    (64, 64, bytes.collect())
}
