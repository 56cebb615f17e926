//! Quantized compiles of the trained fixture: what is lost, what is measured for it, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use snapc_driver::{
    Budget, CalibrateOptions, CompileOptions, Compiled, MaxLoss, MinOs, MomentsKind, Part, Precision, Price,
    QuantizeChoice, QuantizeOptions, Ranges, Recipe, Silent, Target, VerifyOptions, When, Width, calibrate,
    compile, knapsack, measure_accuracy, merge, verify,
};
use snapc_frontends::Pipeline;
use snapc_ir::{Encoding, Error, Transform};
use snapc_passes::quantize::layers;
use snapc_passes::{Pass, Quantize, QuantizePass, Slice};
use snapc_tests::runtimes::python;
use snapc_tests::shapes::Detector;
use snapc_tests::{compile_options, copy_folder, fixture};

const SUBNETS: [&str; 3] = ["tiny", "small", "full"];

fn calibrate_options(subnet: &str, output: PathBuf) -> CalibrateOptions {
    let width = Width::Subnet(subnet.to_string());
    CalibrateOptions { moments: MomentsKind::Full, ..CalibrateOptions::new(fixture("shapes"), width, output) }
}

/// A calibration of each subnet, measured once.
fn calibrations() -> Vec<PathBuf> {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for subnet in SUBNETS {
            calibrate(&calibrate_options(subnet, folder.path().join(subnet)), &mut Silent).unwrap();
        }
        folder
    });
    SUBNETS.map(|subnet| folder.path().join(subnet)).to_vec()
}

fn choice(text: &str) -> QuantizeChoice {
    text.parse().unwrap()
}

/// Whether a choice asks for a calibration.
fn measured(text: &str) -> bool {
    ["gptq", "awq", "w8a8"].iter().any(|word| text.contains(word))
}

/// A compile of one subnet to ONNX in which the transformer's layers get `choice`.
fn options(subnet: &str, text: &str, output: &Path) -> CompileOptions {
    let quantization = QuantizeOptions {
        parts: BTreeMap::from([(Part::Transformer, choice(text))]),
        allow_decode: true,
        calibration: if measured(text) { calibrations() } else { Vec::new() },
        ..QuantizeOptions::default()
    };
    let widths = vec![Width::Subnet(subnet.to_string())];
    CompileOptions { widths, quantization, ..compile_options(Target::Onnx, Precision::F16, output) }
}

/// One of the widths; the calibration of the others is left out.
fn compiled(mut options: CompileOptions) -> Result<Compiled, Error> {
    let Width::Subnet(subnet) = &options.widths[0] else { panic!("a width") };
    options.quantization.calibration.retain(|path| path.ends_with(subnet));
    Ok(compile(&options, &mut Silent)?.remove(0))
}

fn psnr(subnet: &str, text: &str) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let accuracy = compiled(options(subnet, text, folder.path())).unwrap().accuracy.unwrap();
    assert_eq!(accuracy.pictures.len(), 40);
    assert!(accuracy.layers.len() > 60 && accuracy.worst_layer().is_some(), "every layer is told of");
    accuracy.psnr
}

#[test]
fn pictures_keep_to_their_bars() {
    for subnet in SUBNETS {
        for (text, bar) in [
            ("int8", 40.0),
            ("w8a8", 35.0),
            ("palette6", 32.0),
            ("int4 group 32 gptq", 25.0),
            ("palette4 gptq", 25.0),
        ] {
            let psnr = psnr(subnet, text);
            println!("{subnet} {text}: {psnr:.2} dB");
            assert!(psnr >= bar, "{subnet} {text}: {psnr:.2} dB, at least {bar} is asked for");
        }
    }
}

/// Each method gains over rounding to nearest.
#[test]
fn methods_pay() {
    let plain = psnr("small", "int4 group 32");
    for (text, gain) in
        [("int4 group 32 awq", 1.0), ("int4 group 32 rank 4", 1.0), ("int4 group 32 gptq", 4.0)]
    {
        let better = psnr("small", text);
        assert!(better >= plain + gain, "{text}: {better:.2} dB, round to nearest {plain:.2}");
    }
}

/// The share of prompts that are drawn right, by a detector: the four-bit student draws nearly as many as the f32 one.
#[test]
fn prompts_are_drawn_right() {
    let folder = tempfile::tempdir().unwrap();
    let done = compiled(options("full", "int4 group 32 gptq", folder.path())).unwrap();
    let (_, strips) =
        measure_accuracy(&done.folder, &fixture("shapes"), true, None, &mut Silent).unwrap().unwrap();
    let detector = Detector::default();
    let right = |of: &dyn Fn(&snapc_driver::Strip) -> bool| strips.iter().filter(|strip| of(strip)).count();
    let expected = right(&|strip| detector.is_right(&strip.prompt, &strip.expected));
    let found = right(&|strip| detector.is_right(&strip.prompt, &strip.found));
    println!("right of {}: {expected} in f32, {found} in 4 bits", strips.len());
    assert_eq!(expected, RIGHT_IN_F32);
    assert!(found + 4 >= expected, "{found} are right, in f32 {expected}");
}

/// As the fixture's own detector counts them.
const RIGHT_IN_F32: usize = 29;

/// A narrower subnet's codes are a part of the supernet's: cutting and encoding may change places.
#[test]
fn slices_and_bits_agree() {
    let pipeline = Pipeline::open(&fixture("shapes")).unwrap();
    let imported = pipeline.import(Part::Transformer, 1, [16, 16]).unwrap();
    let (width, small) = (pipeline.width(), pipeline.subnet("small").unwrap());
    let sliced = Slice { from: width, to: small }.run(&imported.graph).unwrap();
    let quantize = Quantize { default: Some(choice("int4 group 32")), ..Quantize::default() };
    let coded = QuantizePass { quantize: Some(quantize) }.run(&sliced).unwrap();
    let mut compared = 0;
    for weight in coded.weights().iter().filter(|weight| weight.coded().is_some()) {
        if weight.encoding().map(|(encoding, _)| *encoding) != Some(Encoding::int(4, Some(32))) {
            continue;
        }
        let mut whole = weight.clone();
        let encode = whole.transforms.pop().unwrap();
        assert!(matches!(encode, Transform::Encode(_)));
        whole.transforms.insert(0, encode);
        let (before, after) =
            (imported.store.encode(weight).unwrap(), imported.store.encode(&whole).unwrap());
        assert_eq!(before, after, "{}", weight.name);
        compared += 1;
    }
    assert!(compared > 60, "{compared} weights were compared");
}

/// First and last layers and the time path stay; convolutions of 4 bits become 8.
#[test]
fn what_stays_as_it_is() {
    let pipeline = Pipeline::open(&fixture("shapes")).unwrap();
    let imported = pipeline.import(Part::Transformer, 1, [16, 16]).unwrap();
    let graph = Slice { from: 2, to: 2 }.run(&imported.graph).unwrap();
    let all = layers(&graph);
    let outer: Vec<&str> =
        all.iter().filter(|layer| layer.outer).map(|layer| layer.tensor.as_str()).collect();
    assert_eq!(outer, ["text_proj.0.weight"], "the first and the last on the latent are too small");
    assert!(all.iter().all(|layer| !layer.tensor.starts_with("time_")), "the time path stays");
    let quantize = Quantize { default: Some(choice("int4 group 32")), ..Quantize::default() };
    let (plan, instead) = quantize.plan(&graph).unwrap();
    assert!(!plan.contains_key("text_proj.0.weight"));
    assert!(
        instead.iter().any(|one| one.tensor == "downsample.weight" && one.reason.contains("8 bits")),
        "{instead:?}"
    );
}

#[test]
fn shards_add_up_to_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let short = |output: &str, shard| CalibrateOptions {
        count: Some(5),
        moments: MomentsKind::Channels,
        shard,
        ..calibrate_options("tiny", path(output))
    };
    calibrate(&short("whole", None), &mut Silent).unwrap();
    for shard in 1..=3 {
        calibrate(&short(&format!("shard{shard}"), Some((shard, 3))), &mut Silent).unwrap();
    }
    let shards = [3, 1, 2].map(|shard| path(&format!("shard{shard}")));
    merge(&shards, &path("merged")).unwrap();
    let bytes = |name: &str| std::fs::read(path(name)).unwrap();
    assert!(bytes("merged") == bytes("whole"), "the merged file is another one");

    let missing = merge(&shards[..2], &path("two")).unwrap_err();
    assert!(missing.message().contains("of 3 shards these are missing: 2"), "{missing}");
    let twice = merge(&[shards[0].clone(), shards[0].clone()], &path("two")).unwrap_err();
    assert!(twice.message().contains("it is shard 3 again"), "{twice}");
    assert!(!path("two").exists());

    // A run that was stopped after its shard's first prompt goes on there.
    let first = CalibrateOptions { count: Some(5), ..short("again", Some((2, 3))) };
    calibrate(&first, &mut Silent).unwrap();
    std::fs::rename(path("again"), path("again.partial")).unwrap();
    let resumed = calibrate(&first, &mut Silent).unwrap();
    assert_eq!((resumed.prompts, resumed.resumed), (2, 2));
    assert!(bytes("again") == bytes("shard2") && !path("again.partial").exists());
}

#[test]
fn recipes_are_written_and_taken() {
    let folder = tempfile::tempdir().unwrap();
    let done = compiled(options("tiny", "int8", folder.path())).unwrap();
    let text = std::fs::read_to_string(done.folder.join("recipe.toml")).unwrap();
    let recipe = Recipe::parse(&text).unwrap();
    assert_eq!(recipe.text(), text);
    assert_eq!(recipe.0[&Part::Transformer].tensors["text_proj.0.weight"], None);

    let edited = folder.path().join("recipe.toml");
    std::fs::write(
        &edited,
        text.replace("\"text_proj.0.weight\" = \"f16\"", "\"text_proj.0.weight\" = \"int8\""),
    )
    .unwrap();
    let with = |recipe: &Path| {
        let mut options = options("tiny", "int8", &folder.path().join("again"));
        options.quantization.parts.clear();
        options.quantization.recipe = Some(recipe.to_path_buf());
        compiled(options)
    };
    let again = with(&edited).unwrap();
    let stored =
        again.accuracy.unwrap().layers.into_iter().find(|layer| layer.tensor == "text_proj.0.weight");
    assert_eq!(stored.map(|layer| layer.encoding).as_deref(), Some("int8"));

    std::fs::write(&edited, text.replace("text_proj.0.weight", "text_proj.9.weight")).unwrap();
    let unknown = with(&edited).unwrap_err();
    assert!(unknown.message().contains("the transformer has no tensor text_proj.9.weight"), "{unknown}");
    std::fs::write(&edited, "[transformer]\ndefault = \"int5\"\n").unwrap();
    assert!(with(&edited).unwrap_err().to_string().contains("`int5` is no encoding"));
}

#[test]
fn what_contradicts_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = |change: &dyn Fn(&mut CompileOptions)| {
        let mut options = options("tiny", "int4 group 32", folder.path());
        options.quantization.accuracy = When::Off;
        change(&mut options);
        let error = compile(&options, &mut Silent).unwrap_err();
        assert!(!folder.path().join("onnx/tiny").exists(), "{error}: something was written");
        error.to_string()
    };
    let gptq = |options: &mut CompileOptions| {
        options.quantization.parts.insert(Part::Transformer, choice("int4 group 32 gptq"));
    };
    assert!(error(&|options| gptq(options)).contains("no --calibration is named"));
    let rounded = |options: &mut CompileOptions| {
        options.quantization.parts.insert(Part::Transformer, choice("w8a8"));
    };
    let unmeasured = error(&|options| rounded(options));
    assert!(unmeasured.contains("w8a8 asks for what `snapc calibrate` measures"), "{unmeasured}");
    let oldest = error(&|options| {
        rounded(options);
        options.quantization.calibration = calibrations()[..1].to_vec();
        (options.targets, options.min_os, options.ranges) = (vec![Target::CoreMl], MinOs::Ios16, Ranges::Off);
        options.widths.truncate(1);
    });
    assert!(oldest.contains("Core ML has that from iOS 17 on"), "{oldest}");
    let given_out = error(&|options| {
        rounded(options);
        options.quantization.calibration = calibrations()[..1].to_vec();
        options.quantization.budget = Some(Budget::Bits(6.0));
    });
    assert!(given_out.contains("w8a8 has 8 for each"), "{given_out}");
    let other = error(&|options| {
        gptq(options);
        options.quantization.calibration = calibrations()[1..2].to_vec();
    });
    assert!(other.contains("the calibration is of width 64, not 32"), "{other}");
    let channels = folder.path().join("channels.calibration");
    let kind = CalibrateOptions {
        moments: MomentsKind::Channels,
        count: Some(1),
        ..calibrate_options("tiny", channels.clone())
    };
    calibrate(&kind, &mut Silent).unwrap();
    let kind = error(&|options| {
        gptq(options);
        options.quantization.calibration = vec![channels.clone()];
    });
    assert!(kind.contains("--moments full"), "{kind}");
    let palettes = error(&|options| {
        options.quantization.parts.insert(Part::Transformer, choice("palette4"));
        options.quantization.allow_decode = false;
    });
    assert!(palettes.contains("--allow-decode"), "{palettes}");
    let lost = error(&|options| options.quantization.max_loss = vec![MaxLoss::Psnr(60.0)]);
    assert!(lost.contains("at least 60 is asked for"), "{lost}");
    let least = error(&|options| options.quantization.budget = Some(Budget::Bytes(10_000)));
    assert!(least.contains("the least possible is"), "{least}");
}

/// Another checkpoint, and a weight that is no number.
#[test]
fn other_and_damaged_checkpoints_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = folder.path().join("shapes");
    copy_folder(&fixture("shapes"), &pipeline);
    let file = pipeline.join("transformer/diffusion_pytorch_model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let parsed: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = parsed["mid.0.ffn.0.weight"]["data_offsets"][0].as_u64().unwrap() as usize + 8 + header;
    let run = |text: &str| {
        let mut options = options("tiny", text, &folder.path().join("out"));
        options.pipeline = pipeline.clone();
        compiled(options).unwrap_err().to_string()
    };
    bytes[start..start + 2].copy_from_slice(&[0x12, 0x34]);
    std::fs::write(&file, &bytes).unwrap();
    let other = run("int4 group 32 gptq");
    assert!(other.contains("the calibration was measured with another transformer"), "{other}");
    bytes[start..start + 2].copy_from_slice(&[0x00, 0x7E]);
    std::fs::write(&file, &bytes).unwrap();
    let damaged = run("int8");
    assert!(damaged.contains("mid.0.ffn.0.weight") && damaged.contains("NaN"), "{damaged}");
}

/// No choice under the budget loses less: against all choices there are, on small lists.
#[test]
fn the_knapsack_is_exact() {
    let mut state = 1u64;
    let mut draw = |most: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % most
    };
    for _ in 0..300 {
        let lists: Vec<Vec<Price>> = (0..1 + draw(6))
            .map(|_| {
                (0..1 + draw(4)).map(|_| Price { bytes: 1 + draw(40), loss: draw(1000) as f64 }).collect()
            })
            .collect();
        let budget = draw(150);
        let mut best: Option<f64> = None;
        let mut digits = vec![0; lists.len()];
        'all: loop {
            let of = |take: &dyn Fn(&Price) -> f64| -> f64 {
                lists.iter().zip(&digits).map(|(list, &digit): (_, &usize)| take(&list[digit])).sum()
            };
            if of(&|one| one.bytes as f64) <= budget as f64 {
                let loss = of(&|one| one.loss);
                best = Some(best.map_or(loss, |best| best.min(loss)));
            }
            for (digit, list) in digits.iter_mut().zip(&lists) {
                *digit += 1;
                if *digit < list.len() {
                    continue 'all;
                }
                *digit = 0;
            }
            break;
        }
        let found = knapsack(&lists, budget);
        assert_eq!(found.is_some(), best.is_some());
        if let (Some((taken, granule)), Some(best)) = (found, best) {
            let sum = |of: &dyn Fn(&Price) -> f64| -> f64 {
                lists.iter().zip(&taken).map(|(list, &number)| of(&list[number])).sum()
            };
            assert_eq!(granule, 1);
            assert!(sum(&|one| one.bytes as f64) <= budget as f64);
            assert_eq!(sum(&|one| one.loss), best);
        }
    }
}

/// Bits that are given out by measured loss beat the same number of bytes given to all layers alike.
#[test]
fn mixed_bits_beat_uniform_ones() {
    let folder = tempfile::tempdir().unwrap();
    // Core ML stores palettes as palettes.
    let for_core_ml = |name: &str| CompileOptions {
        targets: vec![Target::CoreMl],
        min_os: MinOs::Ios18,
        ranges: Ranges::Off,
        ..options("tiny", "palette4 gptq", &folder.path().join(name))
    };
    let uniform = compiled(for_core_ml("uniform")).unwrap();
    let uniform = uniform.accuracy.unwrap();
    let (bytes, bits) = (uniform.bytes(), uniform.bits());
    assert!((4.0..4.4).contains(&bits), "{bits} bits");
    let mut options = for_core_ml("mixed");
    options.quantization.budget = Some(Budget::Bits(bits));
    let mixed = compiled(options).unwrap();
    let mixed = mixed.accuracy.unwrap();
    let taken = mixed.bytes();
    assert!(taken <= bytes, "{taken} bytes of {bytes}");
    let (found, plain) = (mixed.psnr, uniform.psnr);
    println!("{bits:.3} bits: uniform {plain:.2} dB, mixed {found:.2} dB");
    assert!(found > plain, "mixed {found:.2} dB, uniform {plain:.2}");
}

/// A budget counts all that is written of the transformer's weights.
#[test]
fn a_budget_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options("tiny", "int4 group 32", folder.path());
    options.quantization.accuracy = When::Off;
    options.quantization.budget = Some(Budget::Bytes(250_000));
    let done = compiled(options).unwrap();
    let transformer = done.manifest.parts.iter().find(|part| part.part == "transformer").unwrap();
    assert!((240_000..=250_000).contains(&transformer.weight_bytes), "{} bytes", transformer.weight_bytes);
}

/// Whole parts in their targets' own software: what they give is what the interpreter gives of what was read back, but for activations
/// that a runtime rounds to 8 bits.
#[test]
fn runtimes_give_what_the_interpreter_gives() {
    let folder = tempfile::tempdir().unwrap();
    let all = Target::ALL.to_vec();
    let core_ml = [Target::CoreMl];
    let mut cases: Vec<(&str, &str, &[Target])> = Vec::new();
    for subnet in SUBNETS {
        cases.extend([(subnet, "int8", &all[..]), (subnet, "int4 group 32", &all[..])]);
    }
    cases.extend([("tiny", "int4", &all[..]), ("tiny", "w8a8", &all[..])]);
    cases.extend(
        ["palette8", "palette6", "palette4", "palette3 group 8", "palette2"]
            .map(|text| ("tiny", text, &core_ml[..])),
    );
    let mut done = Vec::new();
    for (number, (subnet, text, targets)) in cases.into_iter().enumerate() {
        let place = folder.path().join(number.to_string());
        let mut options = options(subnet, text, &place);
        options.targets = targets.to_vec();
        options.quantization.calibration.retain(|path| path.ends_with(subnet));
        (options.min_os, options.ranges, options.parts) =
            (MinOs::Ios18, Ranges::Off, vec![Part::Transformer]);
        options.quantization.allow_decode = false;
        options.quantization.accuracy = When::Off;
        compile(&options, &mut Silent).unwrap();
        let options = VerifyOptions {
            dist: place,
            pipeline: fixture("shapes"),
            runtime: Some(python().to_path_buf()),
            prompts: 1,
            max_loss: Vec::new(),
            record: false,
        };
        done.extend(verify(&options, &mut Silent).unwrap());
    }
    // A runtime's rows and the interpreter's hold the same output against the pipeline: they may differ by the bound.
    assert_eq!(done.len(), 29);
    for found in done {
        let [interpreted, in_runtime] = &found.rows[..] else { panic!("{:?}", found.rows) };
        assert_ne!(interpreted.run_by, in_runtime.run_by);
        let apart = (interpreted.relative - in_runtime.relative).abs();
        assert!(apart <= 2e-2, "{}: {:?}", found.folder.display(), found.rows);
    }
}
