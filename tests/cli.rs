//! The command as a user calls it: what it writes, what it says, and what it leaves behind when something is wrong.
#![allow(clippy::unwrap_used, clippy::panic, clippy::type_complexity)]

mod command;

use std::path::Path;

use snapc_tests::{assert_close, entry, files, fixture, tensor_file, tensors};
use snapc_weights::Tensor;

use command::{snapc, succeed, workplace};

/// Runs what must fail with that exit code and write nothing to `out`; gives what it said.
#[track_caller]
fn refuse(folder: &Path, words: &[&str], code: i32) -> String {
    let output = snapc(folder, words);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
    assert!(output.stdout.is_empty(), "{words:?}");
    assert!(text.starts_with("error: "), "{text}");
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".snapc")), "{left:?}");
    let out = folder.join("out");
    assert!(!out.is_dir() || files(&out).is_empty(), "something was written");
    text
}

const COMPILE: [&str; 8] = ["compile", "model", "--subnet", "small", "--target", "coreml", "-o", "out"];
const RUN: [&str; 6] = ["run", "model", "--prompt", "a red circle", "--subnet", "tiny"];

fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{}: {from}", path.display());
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn compile_writes_packages_and_a_manifest() {
    let place = workplace();
    let said = succeed(place.path(), &COMPILE);
    insta::assert_snapshot!("compile", said);
    let out = place.path().join("out/coreml/small");
    let written = files(&out);
    for part in ["TextEncoder", "Transformer", "VaeDecoder"] {
        for file in [
            "Manifest.json",
            "Data/com.apple.CoreML/model.mlmodel",
            "Data/com.apple.CoreML/weights/weight.bin",
        ] {
            assert!(written.contains_key(Path::new(&format!("{part}.mlpackage/{file}"))), "{part} {file}");
        }
    }
    assert!(written.contains_key(Path::new("tokenizer/tokenizer.json")));
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&written[Path::new("manifest.json")]).unwrap();
    // What is in the files is other tests' matter.
    for file in manifest["files"].as_array_mut().unwrap() {
        assert_eq!(file["bytes"], written[Path::new(file["path"].as_str().unwrap())].len());
        file["bytes"] = "..".into();
        file["sha256"] = "..".into();
    }
    insta::assert_snapshot!("manifest", format!("{manifest:#}"));
    // Again, from another folder's copy: the same bytes.
    let other = workplace();
    std::fs::rename(other.path().join("model"), other.path().join("elsewhere")).unwrap();
    succeed(other.path(), &["compile", "elsewhere", "--subnet", "small", "--target", "coreml", "-o", "out"]);
    assert!(written == files(&other.path().join("out/coreml/small")), "the bytes differ");
    // And over what is there.
    succeed(place.path(), &COMPILE);
    assert!(written == files(&out), "the bytes differ");
}

#[test]
fn compile_takes_parts_widths_sizes_and_precision() {
    let place = workplace();
    let words = [
        "compile",
        "model",
        "--width",
        "96",
        "--target",
        "coreml",
        "--part",
        "transformer",
        "--size",
        "64x96",
        "--precision",
        "f32",
        "--min-os",
        "iOS18",
        "--bake",
        "none",
        "--json",
    ];
    let json: serde_json::Value = serde_json::from_str(&succeed(place.path(), &words)).unwrap();
    let output = &json["outputs"][0];
    assert_eq!(output["folder"], "dist/coreml/width-96");
    let manifest = &output["manifest"];
    assert_eq!(manifest["options"]["size"], serde_json::json!([64, 96]));
    assert_eq!(manifest["options"]["min_os"], "iOS18");
    assert_eq!(manifest["parts"].as_array().unwrap().len(), 1);
    assert_eq!(manifest["parts"][0]["inputs"][0]["shape"], serde_json::json!([1, 4, 16, 24]));
    let inspected = succeed(place.path(), &["inspect", "dist/coreml/width-96/Transformer.mlpackage"]);
    insta::assert_snapshot!("inspect_package", inspected);
}

#[test]
fn a_project_file_supplies_what_is_left_out() {
    let place = workplace();
    let toml =
        "pipeline = \"model\"\nsubnets = [\"tiny\", \"small\"]\ntargets = [\"coreml\"]\noutput = \"made\"\n";
    std::fs::write(place.path().join("snapc.toml"), toml).unwrap();
    succeed(place.path(), &["compile"]);
    assert!(place.path().join("made/coreml/tiny/manifest.json").is_file());
    assert!(place.path().join("made/coreml/small/manifest.json").is_file());
    succeed(place.path(), &["compile", "--subnet", "full", "--target", "coreml", "-o", "other"]);
    assert!(place.path().join("other/coreml/full/manifest.json").is_file());
    std::fs::write(place.path().join("snapc.toml"), "pipelines = \"model\"\n").unwrap();
    insta::assert_snapshot!("error_project", refuse(place.path(), &["compile"], 3));
}

#[test]
fn run_meets_the_golden_latents() {
    let place = workplace();
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let prompts = ["a red circle left of a blue square", "a large green triangle on a black background"];
    for subnet in ["tiny", "small", "full"] {
        for (number, prompt) in prompts.into_iter().enumerate() {
            let noise = entry(&golden["noise"], number);
            tensor_file(&place.path().join("noise.safetensors"), &[("noise", &noise)]);
            let words = [
                "run",
                "model",
                "--prompt",
                prompt,
                "--subnet",
                subnet,
                "--noise",
                "noise.safetensors",
                "--save-latents",
                "latents.safetensors",
                "-o",
                "out.png",
            ];
            succeed(place.path(), &words);
            let saved = tensors(&place.path().join("latents.safetensors"));
            assert_eq!(
                saved.keys().collect::<Vec<_>>(),
                ["image", "latent1", "latent2", "latent3", "latent4", "text"]
            );
            assert_close("text", &saved["text"], &entry(&golden["text"], number), 1e-4);
            for name in ["latent1", "latent2", "latent3", "latent4", "image"] {
                assert_close(name, &saved[name], &entry(&golden[&format!("{subnet}.{name}")], number), 1e-4);
            }
            let (pixels, size) = png_pixels(&place.path().join("out.png"));
            assert_eq!(size, [64, 64]);
            let image = &saved["image"];
            for (index, byte) in pixels.iter().enumerate() {
                let value = image.values()[index % 3 * 64 * 64 + index / 3].clamp(-1.0, 1.0);
                assert!((f32::from(*byte) - (value + 1.0) * 127.5).abs() <= 0.5001, "pixel {index}");
            }
        }
    }
}

fn png_pixels(path: &Path) -> (Vec<u8>, [u32; 2]) {
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    (pixels, [info.width, info.height])
}

/// The latent that starts the run is PyTorch's noise of that seed.
#[test]
fn run_draws_the_noise_of_a_seed() {
    let place = workplace();
    let noise = tensors(&fixture("torch_randn.safetensors"));
    tensor_file(&place.path().join("noise.safetensors"), &[("noise", &noise["seed_42/1x4x16x16"])]);
    let saved = |words: &[&str]| {
        succeed(
            place.path(),
            &[&RUN[..], words, &["--save-latents", "latents.safetensors", "-o", "a.png"]].concat(),
        );
        tensors(&place.path().join("latents.safetensors"))
    };
    assert_eq!(saved(&["--seed", "42"]), saved(&["--noise", "noise.safetensors"]));
    assert_ne!(saved(&["--seed", "42"]), saved(&["--seed", "43"]));
}

/// Guidance, more steps and stochastic sampling on the fixture with its distilled sigmas taken away.
#[test]
fn run_takes_steps_guidance_and_stochastic_sampling() {
    let place = workplace();
    let config = place.path().join("model/scheduler/scheduler_config.json");
    let mut json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    json["distilled_sigmas"] = serde_json::Value::Null;
    std::fs::write(&config, json.to_string()).unwrap();
    let run = |words: &[&str]| {
        let all = [&RUN[..], &["--save-latents", "l.safetensors", "-o", "a.png", "--json"], words].concat();
        let json: serde_json::Value = serde_json::from_str(&succeed(place.path(), &all)).unwrap();
        (json, tensors(&place.path().join("l.safetensors")))
    };
    let (json, plain) = run(&["--steps", "3"]);
    assert_eq!(json["sigmas"].as_array().unwrap().len(), 4);
    let (_, guided) = run(&["--steps", "3", "--guidance", "2.5", "--negative-prompt", "blue"]);
    let (_, weak) = run(&["--steps", "3", "--guidance", "1"]);
    assert_eq!(plain, weak);
    assert_ne!(plain["latent1"], guided["latent1"]);

    json_set(&config, "stochastic_sampling", true.into());
    let noise = tensors(&fixture("torch_randn.safetensors"));
    let (first, second) = (&noise["seed_7/first_1x4x16x16"], &noise["seed_7/second_1x4x16x16"]);
    let (_, seeded) = run(&["--steps", "2", "--seed", "7"]);
    let fresh = Tensor::f32([2, 1, 4, 16, 16], [second.values(), second.values()].concat());
    tensor_file(&place.path().join("noise.safetensors"), &[("noise", first), ("fresh", &fresh)]);
    let (_, given) = run(&["--steps", "2", "--noise", "noise.safetensors"]);
    assert_eq!(seeded, given);
    tensor_file(&place.path().join("noise.safetensors"), &[("noise", first)]);
    let words = [&RUN[..], &["--steps", "2", "--noise", "noise.safetensors", "-o", "out.png"]].concat();
    insta::assert_snapshot!("error_fresh", refuse(place.path(), &words, 3));
}

fn json_set(path: &Path, field: &str, value: serde_json::Value) {
    let mut json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    json[field] = value;
    std::fs::write(path, json.to_string()).unwrap();
}

#[test]
fn run_cuts_a_long_prompt_with_a_warning() {
    let place = workplace();
    let prompt = "a red circle left of a blue square and a very large green triangle on a black background";
    let words = ["run", "model", "--prompt", prompt, "--subnet", "tiny", "-o", "a.png"];
    let output = snapc(place.path(), &words);
    assert!(output.status.success());
    insta::assert_snapshot!("warning_long_prompt", String::from_utf8(output.stderr).unwrap());
    let json: serde_json::Value =
        serde_json::from_str(&succeed(place.path(), &[&words[..], &["--json"]].concat())).unwrap();
    assert!(json["warnings"][0].as_str().unwrap().contains("cut off"));
}

#[test]
fn inspect_and_print() {
    let place = workplace();
    insta::assert_snapshot!("inspect_pipeline", succeed(place.path(), &["inspect", "model"]));
    let file = "model/text_encoder/model.safetensors";
    insta::assert_snapshot!("inspect_safetensors", succeed(place.path(), &["inspect", file]));
    for path in ["model", file] {
        let json: serde_json::Value =
            serde_json::from_str(&succeed(place.path(), &["inspect", path, "--json"])).unwrap();
        assert!(json["kind"].is_string());
    }
    let text = succeed(
        place.path(),
        &["print", "model", "--after", "legalize", "--subnet", "tiny", "--part", "vae"],
    );
    assert!(text.starts_with("graph vae_decoder legal coreml\n"));
    snapc_ir::text::parse(&text).unwrap();
    let dot = succeed(place.path(), &["print", "model", "--after", "import", "--form", "dot"]);
    assert!(dot.starts_with("digraph \"transformer\""));
    assert!(succeed(place.path(), &["completions", "bash"]).contains("snapc"));
    insta::assert_snapshot!("error_pass", refuse(place.path(), &["print", "model", "--after", "fold"], 2));
    insta::assert_snapshot!("error_inspect", refuse(place.path(), &["inspect", "nothing"], 3));
}

/// Each damage, the exit code, and what is said of it.
#[test]
fn damaged_inputs_are_named() {
    let cases: [(&str, i32, &dyn Fn(&Path)); 17] = [
        ("missing_file", 3, &|model| {
            std::fs::remove_file(model.join("vae/diffusion_pytorch_model.safetensors")).unwrap()
        }),
        ("missing_config", 3, &|model| std::fs::remove_file(model.join("transformer/config.json")).unwrap()),
        ("truncated", 3, &|model| {
            let path = model.join("transformer/diffusion_pytorch_model.safetensors");
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("truncated_header", 3, &|model| {
            let path = model.join("transformer/diffusion_pytorch_model.safetensors");
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..100]).unwrap();
        }),
        ("empty_file", 3, &|model| {
            std::fs::write(model.join("vae/diffusion_pytorch_model.safetensors"), b"").unwrap();
        }),
        ("lying_offsets", 3, &|model| {
            header(&model.join("text_encoder/model.safetensors"), &|text| text.replacen("[0,", "[8,", 1));
        }),
        ("wrong_shape", 3, &|model| {
            header(&model.join("transformer/diffusion_pytorch_model.safetensors"), &|text| {
                let (before, after) = text.split_once("\"down.0.self_attn.q.weight\"").unwrap();
                format!("{before}\"down.0.self_attn.q.weight\"{}", after.replacen("[128,128]", "[64,256]", 1))
            });
        }),
        ("missing_and_unexpected", 3, &|model| {
            header(&model.join("transformer/diffusion_pytorch_model.safetensors"), &|text| {
                text.replacen("up.1.mod_table", "up.7.mod_table", 1).replacen(
                    "mid.3.ffn.0.bias",
                    "mid.9.ffn.0.bias",
                    1,
                )
            });
        }),
        ("unknown_class", 3, &|model| {
            edit(&model.join("vae/config.json"), "AutoencoderTiny", "AutoencoderDC")
        }),
        ("unknown_pipeline", 3, &|model| {
            edit(&model.join("model_index.json"), "SnapGenPlusPlusPipeline", "FluxPipeline");
        }),
        ("unknown_field", 3, &|model| {
            edit(&model.join("transformer/config.json"), "assa_radius", "asa_radius")
        }),
        ("bad_grid", 3, &|model| {
            edit(&model.join("transformer/config.json"), "\"sample_size\": 16", "\"sample_size\": 18")
        }),
        ("bad_width", 3, &|model| {
            edit(&model.join("transformer/config.json"), "\"width\": 64", "\"width\": 60")
        }),
        ("parts_do_not_meet", 3, &|model| {
            edit(&model.join("transformer/config.json"), "\"text_dim\": 64", "\"text_dim\": 32")
        }),
        ("no_json", 3, &|model| std::fs::write(model.join("text_encoder/config.json"), "{").unwrap()),
        ("scheduler", 3, &|model| edit(&model.join("scheduler/scheduler_config.json"), "0.75", "1.75")),
        ("only_pickled", 3, &|model| {
            let path = model.join("vae/diffusion_pytorch_model.safetensors");
            std::fs::rename(&path, path.with_extension("bin")).unwrap();
        }),
    ];
    for (name, code, damage) in cases {
        let place = workplace();
        damage(&place.path().join("model"));
        insta::assert_snapshot!(format!("error_{name}"), refuse(place.path(), &COMPILE, code));
    }
}

/// Changes the JSON header of a safetensors file; its length must stay.
fn header(path: &Path, change: &dyn Fn(&str) -> String) {
    let bytes = std::fs::read(path).unwrap();
    let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&bytes[8..8 + size]).unwrap();
    let changed = change(text);
    assert_ne!(text, changed);
    let padding = " ".repeat(size.checked_sub(changed.len()).expect("a header that is no longer"));
    std::fs::write(path, [&bytes[..8], changed.as_bytes(), padding.as_bytes(), &bytes[8 + size..]].concat())
        .unwrap();
}

#[test]
fn wrong_words_are_named() {
    let place = workplace();
    let cases: [(&str, i32, &[&str]); 16] = [
        (
            "sizes_of_several_files",
            2,
            &[
                "compile", "model", "--subnet", "tiny", "--target", "tflite", "--size", "64x64", "--size",
                "64x96", "-o", "out",
            ],
        ),
        (
            "one_file_of_coreml",
            2,
            &["compile", "model", "--subnet", "tiny", "--target", "coreml", "--one-file", "-o", "out"],
        ),
        (
            "one_file_of_all",
            2,
            &["compile", "model", "--subnet", "tiny", "--target", "all", "--one-file", "-o", "out"],
        ),
        ("unknown_subnet", 2, &["compile", "model", "--subnet", "huge", "--target", "coreml", "-o", "out"]),
        ("indivisible_width", 2, &["compile", "model", "--width", "80", "--target", "coreml", "-o", "out"]),
        ("too_wide", 2, &["compile", "model", "--width", "256", "--target", "coreml", "-o", "out"]),
        (
            "size_of_vae",
            2,
            &["compile", "model", "--subnet", "tiny", "--target", "coreml", "-o", "out", "--size", "62x64"],
        ),
        (
            "size_of_tiles",
            2,
            &["compile", "model", "--subnet", "tiny", "--target", "coreml", "-o", "out", "--size", "64x72"],
        ),
        ("no_subnet", 2, &["compile", "model", "--target", "coreml", "-o", "out"]),
        ("no_pipeline", 2, &["compile", "--subnet", "tiny", "--target", "coreml", "-o", "out"]),
        ("no_folder", 3, &["compile", "other", "--subnet", "tiny", "--target", "coreml", "-o", "out"]),
        (
            "output_is_a_file",
            3,
            &["compile", "model", "--subnet", "tiny", "--target", "coreml", "-o", "model/model_index.json"],
        ),
        (
            "steps_of_distilled",
            2,
            &["run", "model", "--prompt", "a", "--subnet", "tiny", "--steps", "9", "-o", "out.png"],
        ),
        (
            "guidance_of_distilled",
            2,
            &["run", "model", "--prompt", "a", "--subnet", "tiny", "--guidance", "4", "-o", "out.png"],
        ),
        (
            "negative_prompt",
            2,
            &["run", "model", "--prompt", "a", "--subnet", "tiny", "--negative-prompt", "b", "-o", "out.png"],
        ),
        (
            "output_folder_missing",
            3,
            &["run", "model", "--prompt", "a", "--subnet", "tiny", "-o", "no/out.png"],
        ),
    ];
    for (name, code, words) in cases {
        insta::assert_snapshot!(format!("error_{name}"), refuse(place.path(), words, code));
    }
    std::fs::create_dir_all(place.path().join("out/coreml/small")).unwrap();
    std::fs::write(place.path().join("out/coreml/small/precious.txt"), "mine").unwrap();
    let output = snapc(place.path(), &COMPILE);
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!("error_strange_output", String::from_utf8(output.stderr).unwrap());
    assert_eq!(files(&place.path().join("out")).len(), 1);
    // Errors as JSON, too.
    let output =
        snapc(place.path(), &["compile", "model", "--subnet", "huge", "--target", "coreml", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(json["error"]["class"], "usage");
}

#[test]
fn verify_tells_the_same_model_from_another() {
    let place = workplace();
    let root = place.path();
    let compile = ["compile", "model", "--subnet", "tiny", "--target", "all", "-o", "out"];
    succeed(root, &[&compile[..], &["--precision", "f32"]].concat());
    let verify = ["verify", "out", "--pipeline", "model", "--prompts", "1"];
    let json: serde_json::Value =
        serde_json::from_str(&succeed(root, &[&verify[..], &["--json"]].concat())).unwrap();
    let folders = json["folders"].as_array().unwrap();
    assert_eq!(folders.len(), snapc_driver::Target::ALL.len());
    for folder in folders {
        assert_eq!(folder["passed"], true);
        let parts: Vec<&str> =
            folder["rows"].as_array().unwrap().iter().map(|row| row["part"].as_str().unwrap()).collect();
        assert_eq!(parts, ["text_encoder", "transformer", "vae_decoder", "picture"]);
    }
    succeed(root, &[&compile[..], &["--precision", "f16"]].concat());
    let table = succeed(root, &verify);
    assert_eq!(table.matches(" ok\n").count(), 4 * folders.len(), "{table}");

    // A weight that changed after it was written.
    let weights = root.join("out/coreml/tiny/Transformer.mlpackage/Data/com.apple.CoreML/weights/weight.bin");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2 / 64 * 64;
    for pair in bytes[middle + 128..middle + 4096].chunks_exact_mut(2) {
        pair.copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
    }
    std::fs::write(&weights, bytes).unwrap();
    let output = snapc(root, &["verify", "out/coreml/tiny", "--pipeline", "model", "--prompts", "1"]);
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("altered") && said.contains("weight.bin"), "{said}");

    let output = snapc(root, &["verify", "model", "--pipeline", "model"]);
    assert_eq!(output.status.code(), Some(3));
    insta::assert_snapshot!("error_verify_nothing", String::from_utf8(output.stderr).unwrap());
    let scheduler = root.join("model/scheduler/scheduler_config.json");
    edit(&scheduler, "0.75", "0.8");
    let words = ["verify", "out/onnx/tiny", "--pipeline", "model"];
    let output = snapc(root, &words);
    assert_eq!(output.status.code(), Some(3));
    insta::assert_snapshot!("error_verify_other_pipeline", String::from_utf8(output.stderr).unwrap());
    let missing = ["verify", "out/onnx/tiny", "--pipeline", "model", "--runtime", "no-such-python"];
    edit(&scheduler, "0.8", "0.75");
    let output = snapc(root, &missing);
    assert_eq!(output.status.code(), Some(3));
    insta::assert_snapshot!("error_verify_no_python", String::from_utf8(output.stderr).unwrap());
}

/// The artifacts in the targets' own software, by the command that a user has.
#[test]
fn verify_runs_the_runtimes() {
    let place = workplace();
    let root = place.path();
    succeed(root, &["compile", "model", "--subnet", "tiny", "--target", "all", "-o", "out"]);
    let python = snapc_tests::runtimes::python().to_str().unwrap();
    let words = ["verify", "out", "--pipeline", "model", "--prompts", "1", "--runtime", python, "--json"];
    let json: serde_json::Value = serde_json::from_str(&succeed(root, &words)).unwrap();
    for folder in json["folders"].as_array().unwrap() {
        let rows = folder["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 7, "{folder}");
        assert!(rows.iter().all(|row| row["passed"] == true), "{folder}");
    }
}

/// A compiled folder is run as it stands; what its manifest says is checked.
#[test]
fn run_takes_a_compiled_folder() {
    let place = workplace();
    let root = place.path();
    succeed(root, &["compile", "model", "--subnet", "tiny", "--target", "onnx", "-o", "made"]);
    let run = ["run", "made/onnx/tiny", "--prompt", "a red circle", "-o", "a.png", "--json"];
    let json: serde_json::Value = serde_json::from_str(&succeed(root, &run)).unwrap();
    assert_eq!(json["network_width"], 32);
    let manifest = root.join("made/onnx/tiny/manifest.json");
    let whole = std::fs::read_to_string(&manifest).unwrap();
    for (field, value) in [("sigmas", serde_json::json!([])), ("rule", "heun".into())] {
        let mut json: serde_json::Value = serde_json::from_str(&whole).unwrap();
        json["schedule"][field] = value;
        std::fs::write(&manifest, json.to_string()).unwrap();
        let said = refuse(root, &run[..6], 3);
        assert!(said.contains(field) && said.contains("manifest.json"), "{said}");
    }
}

/// Parts and sizes that are signatures of one file are run, verified and inspected one by one.
#[test]
fn one_file_has_parts_and_sizes() {
    let place = workplace();
    let root = place.path();
    let compile = ["compile", "model", "--subnet", "tiny", "--target", "tflite", "--precision", "f32"];
    let sizes = ["--size", "64x64", "--size", "64x96"];
    let words = [&compile[..], &sizes, &["--one-file", "-o", "one"]].concat();
    insta::assert_snapshot!("compile_one_file", succeed(root, &words));
    succeed(root, &[&compile[..], &sizes[2..], &["-o", "apart"]].concat());
    let written: Vec<_> = files(&root.join("one/tflite/tiny")).into_keys().collect();
    assert!(written.iter().filter(|path| path.extension().is_some_and(|end| end == "tflite")).count() == 1);
    insta::assert_snapshot!("inspect_file", succeed(root, &["inspect", "one/tflite/tiny/model.tflite"]));
    let json: serde_json::Value =
        serde_json::from_str(&succeed(root, &["inspect", "one/tflite/tiny/model.tflite", "--json"])).unwrap();
    assert_eq!(json["parts"][2]["signature"], "transformer_64x96");

    let run = |folder: &str, more: &[&str], to: &str| {
        let words = ["run", folder, "--prompt", "a red circle", "--save-latents", to];
        succeed(root, &[&words[..], more, &["-o", "a.png"]].concat());
        tensors(&root.join(to))
    };
    let wide = run("one/tflite/tiny", &["--size", "64x96"], "wide");
    assert_eq!(wide["latent4"].ty.shape, [1, 4, 16, 24]);
    assert_eq!(wide, run("apart/tflite/tiny", &[], "apart.latents"));
    let words = ["run", "one/tflite/tiny", "--prompt", "a", "-o", "out.png"];
    insta::assert_snapshot!("error_size_not_chosen", refuse(root, &words, 2));
    let other = [&words[..], &["--size", "96x96"]].concat();
    assert_eq!(refuse(root, &other, 2), refuse(root, &words, 2));

    let python = snapc_tests::runtimes::python().to_str().unwrap();
    let words = ["verify", "one", "--pipeline", "model", "--prompts", "1", "--runtime", python, "--json"];
    let json: serde_json::Value = serde_json::from_str(&succeed(root, &words)).unwrap();
    let rows = json["folders"][0]["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["passed"] == true), "{rows:?}");
    let named = |by: &str| -> Vec<&str> {
        rows.iter().filter(|row| row["run_by"] == by).map(|row| row["part"].as_str().unwrap()).collect()
    };
    let [small, wide] = ["64x64", "64x96"]
        .map(|size| ["transformer", "vae_decoder", "picture"].map(|part| format!("{part}_{size}")));
    let parts = [&["text_encoder".to_string()][..], &small, &wide].concat();
    assert_eq!(named("interpreted"), parts);
    assert_eq!(named("LiteRT"), [&parts[..3], &parts[4..6]].concat());

    // What the manifest says of signatures is checked.
    let manifest = root.join("one/tflite/tiny/manifest.json");
    edit(&manifest, "\"signature\": \"transformer_64x96\"", "\"signature\": \"transformer_96x96\"");
    let words = ["run", "one/tflite/tiny", "--prompt", "a", "-o", "out.png", "--size", "64x96"];
    let said = refuse(root, &words, 3);
    assert!(said.contains("expected transformer_96x96 among them"), "{said}");
}

/// One file has one schedule: a scheduler that shifts the sigmas by the size gives each size its own.
#[test]
fn one_file_has_one_schedule() {
    let place = workplace();
    let config = place.path().join("model/scheduler/scheduler_config.json");
    json_set(&config, "distilled_sigmas", serde_json::Value::Null);
    json_set(&config, "use_dynamic_shifting", true.into());
    let words = [
        "compile",
        "model",
        "--subnet",
        "tiny",
        "--target",
        "tflite",
        "--one-file",
        "--size",
        "64x64",
        "--size",
        "64x96",
        "-o",
        "out",
    ];
    insta::assert_snapshot!("error_sigmas_of_sizes", refuse(place.path(), &words, 2));
}
