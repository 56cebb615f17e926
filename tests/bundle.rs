//! Bundles: what their generated sources say against the manifests, and what the Python one draws.
#![allow(clippy::unwrap_used, clippy::panic)]

mod syntax;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use snapc_driver::bundle::devices::{DeviceEntry, pick};
use snapc_driver::bundle::stores::{LIMITS, Sized, Sizes, Standing, check, verdicts};
use snapc_driver::bundle::text::{Language, fill};
use snapc_driver::bundle::tokenizer::Settings;
use snapc_driver::{
    Bake, BundleConfig, BundleManifest, BundleOptions, CompileOptions, Compiled, Delivery, GenerateOptions,
    Manifest, PartEntry, Platform, PortEntry, Precision, Ranges, Silent, Width, bundle, compile, generate,
};
use snapc_interp::TorchGenerator;
use snapc_ir::Class;
use snapc_tests::{copy_folder, files, fixture, psnr, runtimes, tensor_file, tensors};
use snapc_weights::Tensor;
use syntax::Source;
use tempfile::TempDir;

const SUBNETS: [&str; 3] = ["tiny", "small", "full"];

fn options(platform: Platform, pipeline: &Path, output: &Path) -> BundleOptions {
    let widths = SUBNETS.map(|name| Width::Subnet(name.to_string()));
    let target = platform.target();
    let compile =
        CompileOptions::new(pipeline.to_path_buf(), widths[0].clone(), target, output.to_path_buf());
    let compile = CompileOptions { widths: widths.to_vec(), precision: Precision::F32, ..compile };
    BundleOptions { platform, config: BundleConfig::default(), elastic: None, compile }
}

/// A bundle and the folder that it lies in.
fn bundled(options: &BundleOptions) -> (PathBuf, BundleManifest) {
    let done = bundle(options, &mut Silent).unwrap();
    (done.folder, done.bundle)
}

/// A pipeline whose sampling is stochastic and that guidance works on.
fn stochastic(folder: &Path) -> PathBuf {
    let pipeline = folder.join("pictures");
    copy_folder(&fixture("shapes"), &pipeline);
    let config = pipeline.join("scheduler/scheduler_config.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    (json["distilled_sigmas"], json["stochastic_sampling"]) = (Value::Null, true.into());
    std::fs::write(&config, json.to_string()).unwrap();
    pipeline
}

/// All Swift and Kotlin of a bundle.
fn sources(folder: &Path, bundle: &BundleManifest) -> Vec<(String, Source)> {
    let paths = bundle.sources.iter().map(|file| file.path.clone());
    paths
        .map(|path| {
            (path.clone(), Source::parse(&path, &std::fs::read_to_string(folder.join(&path)).unwrap()))
        })
        .collect()
}

fn manifest(folder: &Path, bundle: &BundleManifest, place: usize) -> Manifest {
    Manifest::read(&folder.join(&bundle.subnets[place].folder)).unwrap()
}

fn part<'a>(manifest: &'a Manifest, name: &str) -> &'a PartEntry {
    manifest.parts.iter().find(|part| part.part == name).unwrap()
}

/// A part as a source must say it.
fn said(entry: &PartEntry, folder: &str) -> Value {
    let dtype = |port: &PortEntry| match port.dtype.as_str() {
        "f32" => "float32",
        "i32" => "int32",
        other => panic!("{other}"),
    };
    let port = |port: &PortEntry| json!({"name": port.name, "type": dtype(port), "shape": port.shape});
    let inputs: Vec<Value> = entry.inputs.iter().map(port).collect();
    json!({"path": format!("{folder}/{}", entry.artifact), "inputs": inputs, "output": port(&entry.outputs[0])})
}

/// A part as a source says it, but for what only one of them has.
fn found(value: &Value) -> Value {
    let mut value = value.clone();
    let object = value.as_object_mut().unwrap();
    let own: Vec<Value> = ["digest", "signature"].into_iter().filter_map(|key| object.remove(key)).collect();
    assert_eq!(own.len(), 1);
    value
}

/// Every constant of the generated sources against the manifests, and every name that the code hands to a network.
fn sources_say_what_the_manifests_say(options: &BundleOptions) {
    let (folder, bundle) = bundled(options);
    let all = sources(&folder, &bundle);
    for (path, source) in &all {
        assert_eq!(source.faults(), Vec::<String>::new(), "{path}");
    }
    let named = |end: &str| &all.iter().find(|(path, _)| path.ends_with(end)).unwrap().1;
    let (constants, logic, ending) = match options.platform {
        Platform::Ios => (named("Configuration.swift"), named(&format!("{}.swift", bundle.name)), "swift"),
        _ => (named("Configuration.kt"), named(&format!("{}.kt", bundle.name)), "kt"),
    };
    let cases: Vec<(String, String)> =
        constants.cases().into_iter().filter(|(_, label)| SUBNETS.contains(&label.as_str())).collect();
    assert_eq!(
        cases,
        bundle.subnets.iter().map(|one| (one.name.clone(), one.name.clone())).collect::<Vec<_>>()
    );
    let constants = constants.constants();
    let get =
        |name: &str| constants.get(name).unwrap_or_else(|| panic!("{ending} has no {name}: {constants:?}"));
    let screaming = |name: &str, kotlin: &str| get(if ending == "kt" { kotlin } else { name }).clone();

    for (place, subnet) in bundle.subnets.iter().enumerate() {
        let manifest = manifest(&folder, &bundle, place);
        assert_eq!(found(get("textEncoder")), said(part(&manifest, "text_encoder"), "shared"));
        assert_eq!(found(get("vaeDecoder")), said(part(&manifest, "vae_decoder"), "shared"));
        let pair = &get("transformers")[place];
        assert_eq!(pair[0], subnet.name);
        let transformer = part(&manifest, "transformer");
        assert_eq!(found(&pair[1]), said(transformer, &format!("subnets/{}", subnet.name)));

        assert_eq!(*get("unrolled"), manifest.options.bake == "unrolled");
        assert_eq!(screaming("steps", "STEPS"), manifest.schedule.sigmas.len() - 1);
        assert_eq!(*get("stochastic"), manifest.schedule.rule == "stochastic");
        assert_eq!(*get("guided"), manifest.options.guidance.is_some());
        let count: usize = transformer.outputs[0].shape.iter().product();
        assert_eq!(screaming("latentCount", "LATENT_COUNT"), count);
        assert_eq!(screaming("height", "HEIGHT"), manifest.options.size[0]);
        assert_eq!(screaming("width", "WIDTH"), manifest.options.size[1]);
        assert_eq!(get("tokenizer")["tokens"], manifest.tokenizer.tokens);

        // `negative_` and a number behind `noise` are put together by the code.
        let strings = logic.strings();
        for entry in &manifest.parts {
            for input in &entry.inputs {
                let plain =
                    input.name.trim_start_matches("negative_").trim_end_matches(|c: char| c.is_ascii_digit());
                assert!(strings.iter().any(|text| text == plain), "{ending}: nothing gives {}", input.name);
            }
        }
    }
    let devices: Vec<Value> = bundle.devices.iter().map(|device| {
        json!({"name": device.name, "memory": device.reported(), "chips": device.chips, "subnet": device.subnet})
    }).collect();
    assert_eq!(*get("devices"), json!(devices));
    if options.platform == Platform::Android {
        let packs: Vec<Value> = bundle
            .subnets
            .iter()
            .map(|subnet| {
                let pack = subnet.pack.as_ref().unwrap();
                json!([subnet.name, [pack.name, pack.delivery == Delivery::InstallTime]])
            })
            .collect();
        assert_eq!(*get("packs"), json!(packs));
        let base = bundle.shared.pack.as_ref().unwrap();
        assert_eq!(*get("sharedPack"), json!([base.name, true]));
        assert!(
            folder
                .join(&base.name)
                .join("src/main/assets")
                .join(get("ASSETS").as_str().unwrap())
                .join("shared")
                .is_dir()
        );
        for pack in bundle.subnets.iter().filter_map(|subnet| subnet.pack.as_ref()) {
            let script = named(&format!("{}/build.gradle.kts", pack.name)).strings();
            assert!(
                script.contains(&pack.name) && script.contains(&pack.delivery.name().to_string()),
                "{script:?}"
            );
        }
    }
}

#[test]
fn swift_and_kotlin_say_what_the_manifests_say() {
    for platform in [Platform::Ios, Platform::Android] {
        let place = tempfile::tempdir().unwrap();
        let mut options = options(platform, &fixture("shapes"), &place.path().join("out"));
        options.config.device = toml::from_str::<BundleConfig>(
            "[[device]]\nname = \"a \\\"$big\\\" one\"\nmemory = \"8GB\"\nchips = [\"iPhone15,2\", \"SM8550\"]\nsubnet = \"full\"\n\
             [[device]]\nname = \"middle\"\nmemory = \"6GB\"\nsubnet = \"small\"\n[[device]]\nname = \"rest\"\nsubnet = \"tiny\"",
        ).unwrap().device;
        sources_say_what_the_manifests_say(&options);
    }
}

/// Guidance and fresh noise, a step at a time and all at once: other inputs, and names that the code puts together.
#[test]
fn swift_and_kotlin_of_a_guided_stochastic_pipeline() {
    let place = tempfile::tempdir().unwrap();
    let pipeline = stochastic(place.path());
    for (platform, bake) in [
        (Platform::Ios, Bake::Unrolled),
        (Platform::Android, Bake::Step),
        (Platform::Android, Bake::Unrolled),
    ] {
        let mut options = options(platform, &pipeline, &place.path().join(platform.name()));
        (options.compile.bake, options.compile.steps, options.compile.guidance) =
            (Some(bake), Some(3), Some(2.5));
        sources_say_what_the_manifests_say(&options);
    }
}

#[test]
fn a_damaged_source_is_seen() {
    let good = ["struct A { let b = [1, 2] }", "class A { val b = listOf(1, 2) }"];
    for (name, text) in ["a.swift", "a.kt"].into_iter().zip(good) {
        assert!(Source::parse(name, text).faults().is_empty());
        for damage in [text.replace('}', ""), text.replace("= ", "= ]"), text.replace("A {", "A {{ (")] {
            assert!(!Source::parse(name, &damage).faults().is_empty(), "{damage}");
        }
    }
}

#[test]
fn texts_are_literals_and_holes_are_filled() {
    let odd = "a\"b\\c$d\n\u{e9}\u{1f600}";
    assert_eq!(Language::Swift.text(odd), "\"a\\\"b\\\\c$d\\u{a}\\u{e9}\\u{1f600}\"");
    assert_eq!(Language::Kotlin.text(odd), "\"a\\\"b\\\\c\\$d\\u000a\\u00e9\\ud83d\\ude00\"");
    assert_eq!(fill("a __B__ __C_D__", &[("B", "1".into()), ("C_D", "2".into())]).unwrap(), "a 1 2");
    for (template, holes) in [("__A__ __B__", &[("A", String::new())][..]), ("a", &[("A", String::new())])] {
        assert_eq!(fill(template, holes).unwrap_err().class(), Class::Internal);
    }
}

/// Runs Python with the bundle's loader as a module.
fn python(bundle: &Path, script: &str) -> String {
    let mut command = Command::new(runtimes::python());
    let done = command
        .args(["-c", script])
        .env("PYTHONPATH", bundle)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{script}: {said}");
    String::from_utf8(done.stdout).unwrap()
}

fn desktop(config: &str) -> (TempDir, PathBuf, BundleManifest) {
    let place = tempfile::tempdir().unwrap();
    let mut options = options(Platform::Desktop, &fixture("shapes"), &place.path().join("out"));
    options.config = toml::from_str(config).unwrap();
    let (folder, bundle) = bundled(&options);
    (place, folder, bundle)
}

fn picture(path: &Path) -> Vec<f32> {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    bytes[..info.buffer_size()].iter().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect()
}

/// The picture of `snapc run`.
fn drawn(folder: &Path, pipeline: &Path, subnet: &str, more: impl FnOnce(&mut GenerateOptions)) -> Vec<f32> {
    let mut asked = GenerateOptions {
        pipeline: pipeline.to_path_buf(),
        prompt: "a red circle left of a blue square".to_string(),
        negative_prompt: None,
        width: Some(Width::Subnet(subnet.to_string())),
        steps: None,
        guidance: None,
        seed: 7,
        size: None,
        noise: None,
        output: folder.join("expected.png"),
        save_latents: None,
    };
    more(&mut asked);
    generate(&asked, &mut Silent).unwrap();
    picture(&asked.output)
}

/// Pictures of 256 levels: f32 in another order moves a number over the edge of one now and then.
const LEAST: f64 = 60.0;

#[test]
fn the_python_loader_draws_what_snapc_run_draws() {
    let (place, folder, _) = desktop("");
    let png = place.path().join("found.png");
    for subnet in ["tiny", "small"] {
        let mut command = Command::new(runtimes::python());
        command.arg(folder.join("generate.py")).args([
            "a red circle left of a blue square",
            "--seed",
            "7",
            "--subnet",
            subnet,
        ]);
        let done = command.arg("-o").arg(&png).env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let expected = drawn(place.path(), &fixture("shapes"), subnet, |_| ());
        let decibels = psnr(&picture(&png), &expected);
        assert!(decibels >= LEAST, "{subnet}: {decibels:.1} dB");
    }
    // Another folder of models, and this bundle's table of devices.
    let models = place.path().join("models");
    copy_folder(&folder.join("shared"), &models.join("shared"));
    copy_folder(&folder.join("subnets/small"), &models.join("subnets/small"));
    let script = format!(
        "from generate import Generator\nGenerator({models:?}, 'small').picture('a red circle left of a blue square', seed=7).save({png:?})"
    );
    python(&folder, &script);
    let expected = drawn(place.path(), &fixture("shapes"), "small", |_| ());
    assert!(psnr(&picture(&png), &expected) >= LEAST);
}

#[test]
fn the_python_loader_guides_and_draws_fresh_noise() {
    let place = tempfile::tempdir().unwrap();
    let pipeline = stochastic(place.path());
    for bake in [Bake::Step, Bake::Unrolled] {
        let mut options = options(Platform::Desktop, &pipeline, &place.path().join(bake.name()));
        options.compile.widths.truncate(1);
        (options.compile.bake, options.compile.steps, options.compile.guidance) =
            (Some(bake), Some(3), Some(2.5));
        let (folder, _) = bundled(&options);
        let png = place.path().join("found.png");
        let prompts = "'a red circle left of a blue square', 'two purple squares'";
        let steps = python(
            &folder,
            &format!(
                "from generate import Generator\ndone = []\n\
                 Generator(subnet='tiny').picture({prompts}, seed=7, progress=lambda *at: done.append(at)).save({png:?})\nprint(done[-1])"
            ),
        );
        assert_eq!(steps, "(3, 3)\n");
        let expected = drawn(place.path(), &pipeline, "tiny", |asked| {
            (asked.steps, asked.guidance) = (Some(3), Some(2.5));
            asked.negative_prompt = Some("two purple squares".to_string());
        });
        let decibels = psnr(&picture(&png), &expected);
        assert!(decibels >= LEAST, "{}: {decibels:.1} dB", bake.name());
    }
}

#[test]
fn the_python_loader_draws_pytorchs_noise_bit_for_bit() {
    let (place, folder, _) = desktop("subnets = []");
    let path = place.path().join("noise.safetensors");
    let (seeds, counts) = ([0u64, 7, 987_654_321, (9 << 32) | 7], [16usize, 17, 40, 1024, 4099]);
    let script = format!(
        "from generate import Noise\nfrom safetensors.numpy import save_file\nall = {{}}\n\
         for seed in {seeds:?}:\n    noise = Noise(seed)\n    for count in {counts:?}:\n        all[f'{{seed}}/{{count}}'] = noise.normals(count)\n\
         save_file(all, {path:?})"
    );
    python(&folder, &script);
    let found = tensors(&path);
    for seed in seeds {
        let mut generator = TorchGenerator::new(seed);
        for count in counts {
            let name = format!("{seed}/{count}");
            let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
            assert!(bits(found[&name].values()) == bits(&generator.randn(count)), "{name}");
        }
    }
}

/// A device is of the first class that it has the memory and the chip for; a system that keeps an eighth for itself counts.
#[test]
fn python_picks_as_the_table_says() {
    let table = "[[device]]\nname = \"chosen\"\nmemory = \"8GB\"\nchips = [\"A\", \"B\"]\nsubnet = \"full\"\n\
                 [[device]]\nname = \"middle\"\nmemory = \"6GB\"\nsubnet = \"small\"\n[[device]]\nname = \"rest\"\nsubnet = \"tiny\"";
    let (_place, folder, bundle) = desktop(table);
    let cases = [
        (8_000_000_000u64, "A", "full"),
        (7_000_000_000, "B", "full"),
        (6_999_999_999, "A", "small"),
        (16_000_000_000, "C", "small"),
        (5_250_000_000, "", "small"),
        (5_249_999_999, "A", "tiny"),
        (0, "", "tiny"),
    ];
    for (memory, chip, subnet) in cases {
        assert_eq!(pick(&bundle.devices, memory, chip).unwrap().subnet, subnet, "{memory} {chip}");
        let script = format!(
            "from generate import Generator\nprint(Generator(memory={memory}, chip='{chip}').subnet)"
        );
        assert_eq!(python(&folder, &script).trim(), subnet, "{memory} {chip}");
    }
    // And what nobody names is this machine's.
    let subnet = python(&folder, "from generate import Generator\nprint(Generator().subnet)");
    assert!(["small", "tiny"].contains(&subnet.trim()));
}

#[test]
fn without_a_table_memory_decides() {
    let place = tempfile::tempdir().unwrap();
    let mut options = options(Platform::Desktop, &fixture("shapes"), &place.path().join("out"));
    options.config.memory_share = Some(0.5);
    let (_, bundle) = bundled(&options);
    let names: Vec<&str> = bundle.devices.iter().map(|device| device.subnet.as_str()).collect();
    assert_eq!(names, ["full", "small", "tiny"]);
    assert_eq!(
        bundle.devices[2],
        DeviceEntry { name: "tiny".into(), memory: 0, chips: vec![], subnet: "tiny".into() }
    );
    for (device, subnet) in bundle.devices.iter().zip(bundle.subnets.iter().rev()).take(2) {
        // Twice the peak, in whole megabytes.
        assert_eq!(device.memory, (2 * subnet.peak_bytes).next_multiple_of(1_000_000));
    }
}

/// A decoder whose largest values are on one side of a power of two in pictures of one network and on the other in another's would be two.
#[test]
fn what_networks_share_is_measured_once() {
    let place = tempfile::tempdir().unwrap();
    let pipeline = place.path().join("loud");
    copy_folder(&fixture("shapes"), &pipeline);
    let mut options = options(Platform::Ios, &pipeline, &place.path().join("bundle"));
    options.compile.precision = Precision::F16;
    options.compile.ranges = Ranges::On;
    options.compile.widths.remove(1);
    let plain = CompileOptions { output: place.path().join("plain"), ..options.compile.clone() };
    let decoder = |compiled: &Compiled| files(&compiled.folder.join("VaeDecoder.mlpackage"));
    let largest = |of: &Compiled| {
        let ranges = of.ranges.iter().find(|ranges| ranges.part == "vae_decoder").unwrap();
        f64::from(ranges.nodes[0].largest)
    };
    let path = pipeline.join("vae/diffusion_pytorch_model.safetensors");
    let mut all = tensors(&path);
    let mut loud = compile(&plain, &mut Silent).unwrap();
    // Biases do not grow with what they are added to: a few times, until the place from which `precision` scales is between the two.
    for _ in 0..6 {
        if decoder(&loud[0]) != decoder(&loud[1]) {
            break;
        }
        let scale = 65504.0 / 8.0 / (largest(&loud[0]) * largest(&loud[1])).sqrt();
        for name in ["decoder.layers.0.weight", "decoder.layers.0.bias"] {
            let tensor = &all[name];
            let values = tensor.values().iter().map(|value| value * scale as f32).collect();
            all.insert(name.to_string(), Tensor::f32(tensor.ty.shape.clone(), values));
        }
        let tensors: Vec<(&str, &Tensor)> =
            all.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        tensor_file(&path, &tensors);
        loud = compile(&plain, &mut Silent).unwrap();
    }
    assert!(decoder(&loud[0]) != decoder(&loud[1]), "{} {}", largest(&loud[0]), largest(&loud[1]));
    let (folder, bundle) = bundled(&options);
    // It is the one of the widest network.
    assert!(files(&folder.join(&bundle.shared.folder).join("VaeDecoder.mlpackage")) == decoder(&loud[1]));
}

fn entry(name: &str, bytes: u64) -> Sized {
    Sized { name: name.to_string(), bytes }
}

/// Each limit of each store: what just fits, and one more.
#[test]
fn stores_take_what_they_say() {
    const GIGA: u64 = 1_000_000_000;
    use Delivery::{InstallTime, OnDemand};
    let packs = |packs: &[(u64, Delivery)]| Sizes {
        packs: packs
            .iter()
            .enumerate()
            .map(|(place, (bytes, delivery))| (entry(&format!("pack{place}"), *bytes), *delivery))
            .collect(),
        ..Sizes::default()
    };
    let file = |bytes| Sizes { files: vec![entry("a.tflite", bytes)], ..Sizes::default() };
    let base = |base| Sizes { base, ..Sizes::default() };
    let half = GIGA + GIGA / 2;
    let rows = [
        (Platform::Ios, packs(&[(4 * GIGA - 1, InstallTime)]), None),
        (Platform::Ios, packs(&[(3 * GIGA, InstallTime), (GIGA, InstallTime)]), Some("an app, uncompressed")),
        (Platform::Android, packs(&[(half, OnDemand)]), None),
        (Platform::Android, packs(&[(GIGA, OnDemand), (half + 1, InstallTime)]), Some("an asset pack")),
        (Platform::Android, packs(&[(GIGA, InstallTime); 4]), None),
        (
            Platform::Android,
            packs(&[(GIGA, InstallTime), (GIGA, InstallTime), (GIGA, InstallTime), (GIGA + 1, InstallTime)]),
            Some("install-time asset packs"),
        ),
        (
            Platform::Android,
            packs(&[(GIGA, InstallTime), (half, OnDemand), (half, OnDemand), (GIGA, OnDemand)]),
            None,
        ),
        (
            Platform::Android,
            packs(&[(half, OnDemand), (half, OnDemand), (GIGA + 1, OnDemand)]),
            Some("fast-follow asset packs"),
        ),
        (Platform::Android, packs(&[(1, OnDemand); 101]), Some("an app's asset packs")),
        (Platform::Android, file((1 << 31) - 1), None),
        (Platform::Android, file(1 << 31), Some("a file that Java maps")),
        (Platform::Android, base(200_000_000), None),
        (Platform::Android, base(200_000_001), Some("the base module")),
        (Platform::Desktop, packs(&[(100 * GIGA, InstallTime)]), None),
    ];
    for (platform, sizes, refused) in rows {
        let found = verdicts(platform, &sizes);
        match (check(&found), refused) {
            (Ok(_), None) => {}
            (Err(error), Some(holder)) => {
                assert_eq!(error.class(), Class::Limit);
                assert!(error.message().contains(holder) && error.help_text().is_some(), "{error}");
                assert!(
                    found.iter().any(|one| one.verdict == Standing::Refused && one.holder.contains(holder))
                );
            }
            (result, _) => panic!("{platform:?} {sizes:?}: {result:?}"),
        }
    }
    let soft = [
        (Platform::Ios, packs(&[(200_000_001, InstallTime)]), "mobile data"),
        (Platform::Ios, packs(&[(512_000_001, InstallTime)]), "before iOS 18"),
        (Platform::Android, packs(&[(200_000_001, OnDemand)]), "mobile data"),
    ];
    for (platform, sizes, word) in soft {
        let warnings = check(&verdicts(platform, &sizes)).unwrap();
        assert!(warnings.iter().any(|warning| warning.contains(word)), "{warnings:?}");
    }
    assert!(check(&verdicts(Platform::Android, &packs(&[(200_000_001, InstallTime)]))).unwrap().is_empty());
    assert!(LIMITS.iter().all(|limit| !limit.source.is_empty() && !limit.help.is_empty()));
}

/// The kinds of tokenizer.json that the sources have code for, and those that they have not.
#[test]
fn tokenizers_that_the_sources_have_not_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let tokenizer = place.path().join("tokenizer");
    copy_folder(&fixture("shapes/tokenizer"), &tokenizer);
    let original: Value =
        serde_json::from_slice(&std::fs::read(tokenizer.join("tokenizer.json")).unwrap()).unwrap();
    let read = |change: &dyn Fn(&mut Value)| {
        let mut json = original.clone();
        change(&mut json);
        std::fs::write(tokenizer.join("tokenizer.json"), json.to_string()).unwrap();
        Settings::read(place.path(), 16)
    };
    let settings = read(&|_| ()).unwrap();
    assert_eq!(
        (&settings.before, &settings.after, settings.padding, settings.unknown),
        (&vec![608], &vec![609], 609, Some(609))
    );
    assert_eq!(
        (settings.suffix.as_str(), settings.composes, settings.lowercases, settings.added.len()),
        ("</w>", true, true, 2)
    );
    let template = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|startoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|startoftext|>": {"id": "<|startoftext|>", "ids": [608], "tokens": ["<|startoftext|>"]},
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [609], "tokens": ["<|endoftext|>"]}}});
    assert_eq!(read(&|json| json["post_processor"] = template.clone()).unwrap(), settings);
    let plain = read(&|json| json["normalizer"] = json!({"type": "Lowercase"})).unwrap();
    assert!(!plain.composes && plain.lowercases);

    type Change<'a> = &'a dyn Fn(&mut Value);
    let refused: [(&str, Change); 9] = [
        ("WordLevel", &|json| {
            json["model"] =
                json!({"type": "WordLevel", "vocab": {"a": 0, "<|endoftext|>": 1}, "unk_token": "a"})
        }),
        ("`byte_fallback` true", &|json| json["model"]["byte_fallback"] = true.into()),
        ("`dropout` 0.5", &|json| json["model"]["dropout"] = json!(0.5)),
        ("NFKC", &|json| json["normalizer"] = json!({"type": "NFKC"})),
        ("Strip", &|json| {
            json["normalizer"]["normalizers"][0] =
                json!({"type": "Strip", "strip_left": true, "strip_right": true})
        }),
        ("Whitespace", &|json| json["pre_tokenizer"] = json!({"type": "Whitespace"})),
        ("Split", &|json| json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-z]+".into()),
        ("add_prefix_space\":true", &|json| {
            json["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true.into()
        }),
        ("added token", &|json| json["added_tokens"][0]["lstrip"] = true.into()),
    ];
    for (word, change) in refused {
        let error = read(change).unwrap_err();
        assert_eq!(error.class(), Class::Input, "{error}");
        assert!(
            error.message().contains(word) && error.to_string().contains("tokenizer.json"),
            "{word}: {error}"
        );
    }
}
