//! Baked schedules: the latents of the golden run, of stochastic sampling and of guidance, from what a compile wrote for every target, in
//! the targets' own software. Core ML runs on Apple's systems alone: its packages are read back and interpreted.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use snapc_driver::{Bake, CompileOptions, Manifest, MinOs, Part, Precision, Silent, Target, Width, compile};
use snapc_frontends::Pipeline;
use snapc_interp::{Interpreter, Sampling, sample};
use snapc_ir::Source;
use snapc_ir::pipeline::Schedule;
use snapc_passes::{Pass, Slice};
use snapc_tests::{
    compile_options, copy_folder, entry, fixture, psnr, relative_error, runtimes, synthetic, tensor_file,
    tensors,
};
use snapc_weights::Tensor;
use tempfile::TempDir;

const SUBNETS: [&str; 3] = ["tiny", "small", "full"];
const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::F16];
const BAKED: [Bake; 2] = [Bake::Step, Bake::Unrolled];

/// The bound of every latent in f32, and of every picture in f16, in dB.
const BOUND: f64 = 1e-4;
const LEAST: f64 = 40.0;

/// What a run is made from.
struct Setup {
    pipeline: PathBuf,
    steps: Option<usize>,
    guidance: Option<f32>,
    noise: Tensor,
    /// What is mixed in after each step but the last; nothing under Euler's rule.
    fresh: Vec<Tensor>,
    /// The inputs that are neither latent nor noise.
    texts: Vec<(String, Tensor)>,
    /// For each subnet the latents.
    expected: BTreeMap<String, Vec<Tensor>>,
}

/// One transformer that was written, and how it went.
struct Case {
    name: String,
    subnet: String,
    precision: Precision,
    bake: Bake,
    artifact: PathBuf,
    decoder: PathBuf,
    latents: Vec<Tensor>,
}

/// An artifact and its inputs.
type Run = (PathBuf, Vec<(String, Tensor)>);

fn options(setup: &Setup, subnets: &[&str], output: &Path) -> CompileOptions {
    CompileOptions {
        pipeline: setup.pipeline.clone(),
        widths: subnets.iter().map(|name| Width::Subnet(name.to_string())).collect(),
        targets: Vec::new(),
        parts: vec![Part::Transformer, Part::VaeDecoder],
        bake: None,
        steps: setup.steps,
        guidance: setup.guidance,
        ..compile_options(Target::Onnx, Precision::F32, output)
    }
}

fn borrowed(inputs: &[(String, Tensor)]) -> Vec<(&str, &Tensor)> {
    inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
}

/// The first output of each run, in the target's own software where this machine has it.
fn outputs(target: Target, runs: &[Run]) -> Vec<Tensor> {
    if target == Target::CoreMl {
        let run = |(artifact, inputs): &Run| {
            let (graph, store) = target.backend(MinOs::default()).read(artifact).unwrap();
            Interpreter::new(&graph, &store).run(&borrowed(inputs)).unwrap().remove(0)
        };
        return runs.iter().map(run).collect();
    }
    let folder = tempfile::tempdir().unwrap();
    let job = |(number, (artifact, inputs)): (usize, &Run)| {
        let file = |end: &str| folder.path().join(format!("{number}.{end}"));
        tensor_file(&file("in"), &borrowed(inputs));
        runtimes::Job { artifact: artifact.clone(), inputs: file("in"), outputs: file("out") }
    };
    let jobs: Vec<runtimes::Job> = runs.iter().enumerate().map(job).collect();
    runtimes::run(target, &jobs).into_iter().map(|found| found.into_values().next().unwrap()).collect()
}

/// Compiles for a target, both precisions, baked both ways.
fn compiled(setup: &Setup, target: Target, subnets: &[&str], output: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    for precision in PRECISIONS {
        for bake in BAKED {
            let output = output.join(format!("{}_{}", precision.name(), bake.name()));
            let mut options = options(setup, subnets, &output);
            (options.targets, options.precision, options.bake) = (vec![target], precision, Some(bake));
            compile(&options, &mut Silent).unwrap();
            for subnet in subnets {
                let artifact = |part: Part| {
                    let name = target.backend(MinOs::default()).artifact(part.name());
                    output.join(target.name()).join(subnet).join(name)
                };
                cases.push(Case {
                    name: format!("{} {} {subnet} {}", target.name(), precision.name(), bake.name()),
                    subnet: subnet.to_string(),
                    precision,
                    bake,
                    artifact: artifact(Part::Transformer),
                    decoder: artifact(Part::VaeDecoder),
                    latents: Vec::new(),
                });
            }
        }
    }
    cases
}

/// The inputs of a transformer's next run; none where it is done.
fn next_inputs(setup: &Setup, case: &Case, steps: usize) -> Option<Vec<(String, Tensor)>> {
    let step = case.latents.len();
    let named = |name: &str, tensor: &Tensor| (name.to_string(), tensor.clone());
    let mut inputs = setup.texts.clone();
    match case.bake {
        Bake::Step if step < steps => {
            inputs.push(named("latent", case.latents.last().unwrap_or(&setup.noise)));
            inputs.push(named("step", &Tensor::i32([1], vec![step as i32])));
            if !setup.fresh.is_empty() {
                let zeros = Tensor::float(setup.noise.ty.clone(), vec![0.0; setup.noise.ty.count()]);
                inputs.push(named("noise", setup.fresh.get(step).unwrap_or(&zeros)));
            }
        }
        Bake::Unrolled if step == 0 => {
            inputs.push(named("noise", &setup.noise));
            let fresh = setup.fresh.iter().enumerate();
            inputs.extend(fresh.map(|(step, fresh)| named(&format!("noise{}", step + 1), fresh)));
        }
        _ => return None,
    }
    Some(inputs)
}

/// Runs every baked transformer of a target along its schedule, each step on what the one before gave, and decodes the last latent.
fn check(setup: &Setup, target: Target, subnets: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut cases = compiled(setup, target, subnets, folder.path());
    let steps = setup.expected.values().next().unwrap().len();
    for _ in 0..steps {
        let inputs: Vec<Option<_>> = cases.iter().map(|case| next_inputs(setup, case, steps)).collect();
        let (mut asked, mut runs) = (Vec::new(), Vec::new());
        for (case, inputs) in cases.iter_mut().zip(inputs) {
            if let Some(inputs) = inputs {
                runs.push((case.artifact.clone(), inputs));
                asked.push(case);
            }
        }
        for (case, latent) in asked.into_iter().zip(outputs(target, &runs)) {
            case.latents.push(latent);
        }
    }
    let decoded: Vec<Run> = cases
        .iter()
        .map(|case| {
            (case.decoder.clone(), vec![("latent".to_string(), case.latents.last().unwrap().clone())])
        })
        .collect();
    for (case, image) in cases.iter().zip(outputs(target, &decoded)) {
        let expected = &setup.expected[&case.subnet];
        let found = case.latents.iter().rev().zip(expected.iter().rev());
        let errors: Vec<f64> =
            found.map(|(found, expected)| relative_error(found.values(), expected.values())).collect();
        let worst = errors.iter().copied().fold(0.0, f64::max);
        let image = psnr(image.values(), decode(&setup.pipeline, expected.last().unwrap()).values());
        println!(
            "{}: relative error {worst:.2e} in {} latents, picture {image:.1} dB",
            case.name,
            errors.len()
        );
        assert_eq!(errors.len(), if case.bake == Bake::Step { steps } else { 1 });
        assert!(errors.iter().all(|error| error.is_finite()), "{}: {errors:?}", case.name);
        assert!(case.precision == Precision::F16 || worst <= BOUND, "{}: {errors:?}", case.name);
        assert!(image >= LEAST, "{}: {image:.1} dB", case.name);
    }
}

/// The picture of a latent, in f32 by the interpreter.
fn decode(pipeline: &Path, latent: &Tensor) -> Tensor {
    let decoder = Pipeline::open(pipeline).unwrap().import(Part::VaeDecoder, 1, [16, 16]).unwrap();
    Interpreter::new(&decoder.graph, &decoder.store).run(&[("latent", latent)]).unwrap().remove(0)
}

fn texts(golden: &BTreeMap<String, Tensor>, prefix: &str, number: usize) -> Vec<(String, Tensor)> {
    ["text", "text_mask"].map(|name| (format!("{prefix}{name}"), entry(&golden[name], number))).to_vec()
}

/// The four latents of the golden run, which PyTorch computed.
#[test]
fn golden_latents() {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    for target in Target::ALL {
        for number in 0..2 {
            let expected = |subnet: &str| {
                (1..=4).map(|step| entry(&golden[&format!("{subnet}.latent{step}")], number)).collect()
            };
            // The second prompt on the smallest network alone: what differs is the prompt.
            let subnets = if number == 0 { &SUBNETS[..] } else { &SUBNETS[..1] };
            let setup = Setup {
                pipeline: fixture("shapes"),
                steps: None,
                guidance: None,
                noise: entry(&golden["noise"], number),
                fresh: Vec::new(),
                texts: texts(&golden, "", number),
                expected: subnets.iter().map(|name| (name.to_string(), expected(name))).collect(),
            };
            check(&setup, target, subnets);
        }
    }
}

/// A copy of the fixture with another scheduler.
fn rescheduled(changes: &[(&str, Value)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&fixture("shapes"), folder.path());
    let path = folder.path().join("scheduler/scheduler_config.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    changes.iter().for_each(|(field, value)| json[*field] = value.clone());
    std::fs::write(&path, json.to_string()).unwrap();
    folder
}

/// What the graph without a schedule gives, walked by the sampler.
fn walked(setup: &Setup, subnet: &str) -> Vec<Tensor> {
    let pipeline = Pipeline::open(&setup.pipeline).unwrap();
    let schedule: Schedule = pipeline.schedule(setup.steps, [16, 16]).unwrap();
    let imported = pipeline.import(Part::Transformer, 1, [16, 16]).unwrap();
    let slice = Slice { from: pipeline.width(), to: pipeline.subnet(subnet).unwrap() };
    let graph = slice.run(&imported.graph).unwrap();
    let interpreter = Interpreter::new(&graph, &imported.store);
    let text = |name: &str| setup.texts.iter().find(|(own, _)| own == name).unwrap().1.clone();
    let velocity = |latent: &Tensor, timestep: f32, prefix: &str| {
        let inputs = [
            ("latent", latent),
            ("timestep", &Tensor::f32([1], vec![timestep])),
            ("text", &text(&format!("{prefix}text"))),
            ("text_mask", &text(&format!("{prefix}text_mask"))),
        ];
        Ok(interpreter.run(&inputs)?.remove(0))
    };
    let mut guided = |latent: &Tensor, timestep: f32, _: usize| {
        let positive = velocity(latent, timestep, "")?;
        let Some(guidance) = setup.guidance else { return Ok(positive) };
        let negative = velocity(latent, timestep, "negative_")?;
        let pairs = negative.values().iter().zip(positive.values());
        Ok(Tensor::float(positive.ty.clone(), pairs.map(|(n, p)| n + guidance * (p - n)).collect()))
    };
    let sampling = Sampling { schedule: &schedule, noise: setup.noise.clone() };
    sample(sampling, &mut guided, &mut |step| Ok(setup.fresh[step].clone())).unwrap()
}

/// Different noise for each step: that of the fixture, turned.
fn fresh(noise: &Tensor, count: usize) -> Vec<Tensor> {
    let turned = |by: usize| {
        let mut values = noise.values().to_vec();
        values.rotate_left(37 * by + 11);
        Tensor::float(noise.ty.clone(), values)
    };
    (0..count).map(turned).collect()
}

#[test]
fn stochastic_sampling() {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let folder = rescheduled(&[("stochastic_sampling", true.into())]);
    let noise = entry(&golden["noise"], 0);
    let mut setup = Setup {
        pipeline: folder.path().to_path_buf(),
        steps: None,
        guidance: None,
        fresh: fresh(&noise, 3),
        noise,
        texts: texts(&golden, "", 0),
        expected: BTreeMap::new(),
    };
    setup.expected.insert("tiny".to_string(), walked(&setup, "tiny"));
    for target in Target::ALL {
        check(&setup, target, &SUBNETS[..1]);
    }
}

#[test]
fn guidance_in_eight_steps() {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let folder = rescheduled(&[("distilled_sigmas", Value::Null)]);
    let mut setup = Setup {
        pipeline: folder.path().to_path_buf(),
        steps: Some(8),
        guidance: Some(2.5),
        noise: entry(&golden["noise"], 0),
        fresh: Vec::new(),
        texts: [texts(&golden, "", 0), texts(&golden, "negative_", 1)].concat(),
        expected: BTreeMap::new(),
    };
    setup.expected.insert("tiny".to_string(), walked(&setup, "tiny"));
    for target in Target::ALL {
        check(&setup, target, &SUBNETS[..1]);
    }
}

/// Both at once; the interpreter alone runs it.
#[test]
fn stochastic_guidance() {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let folder = rescheduled(&[("distilled_sigmas", Value::Null), ("stochastic_sampling", true.into())]);
    let noise = entry(&golden["noise"], 1);
    let mut setup = Setup {
        pipeline: folder.path().to_path_buf(),
        steps: Some(3),
        guidance: Some(4.0),
        fresh: fresh(&noise, 2),
        noise,
        texts: [texts(&golden, "", 1), texts(&golden, "negative_", 0)].concat(),
        expected: BTreeMap::new(),
    };
    setup.expected.insert("tiny".to_string(), walked(&setup, "tiny"));
    check(&setup, Target::CoreMl, &SUBNETS[..1]);
}

/// What a baked transformer reads of its checkpoint, by the names there.
fn tensors_read(setup: &Setup, subnet: &str, bake: Bake) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(setup, &[subnet], folder.path());
    (options.targets, options.bake) = (vec![Target::CoreMl], Some(bake));
    options.parts = vec![Part::Transformer];
    compile(&options, &mut Silent).unwrap();
    let artifact = folder.path().join("coreml").join(subnet).join("Transformer.mlpackage");
    let (graph, _) = Target::CoreMl.backend(MinOs::default()).read(&artifact).unwrap();
    let from_file = |weight: &&snapc_ir::Weight| matches!(weight.source, Source::Tensor { .. });
    graph.weights().iter().filter(from_file).map(|weight| weight.name.clone()).collect()
}

fn plain(pipeline: PathBuf) -> Setup {
    Setup {
        pipeline,
        steps: None,
        guidance: None,
        noise: Tensor::f32([1], vec![0.0]),
        fresh: Vec::new(),
        texts: Vec::new(),
        expected: BTreeMap::new(),
    }
}

/// No artifact of a baked schedule has the weights of the time path.
#[test]
fn the_time_path_is_gone() {
    let setup = plain(fixture("shapes"));
    let of_time = |bake| {
        let names = tensors_read(&setup, "small", bake);
        assert!(names.len() > 100, "{names:?}");
        names.iter().filter(|name| name.starts_with("time")).count()
    };
    assert!(of_time(Bake::None) >= 3);
    assert_eq!(BAKED.map(of_time), [0, 0]);
}

/// In f16 the weights of a baked step have 2 bytes a parameter that it keeps and 1 % more, for tables and constants. The graph is the mini
/// config's of width 512: of the fixture's own networks most are so small that what is no parameter passes 1 %.
#[test]
fn bytes_of_a_baked_step() {
    let pipeline = tempfile::tempdir().unwrap();
    synthetic::mini(pipeline.path());
    let setup = plain(pipeline.path().to_path_buf());
    for target in Target::ALL {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(&setup, &["full"], folder.path());
        (options.targets, options.precision, options.bake) = (vec![target], Precision::F16, Some(Bake::Step));
        options.parts = vec![Part::Transformer];
        let written = compile(&options, &mut Silent).unwrap().remove(0);
        let Manifest { parts, .. } = written.manifest;
        let (bytes, parameters) = (parts[0].weight_bytes as f64, parts[0].parameters as f64);
        println!("{}: {bytes} bytes, {parameters} parameters: {:.4}", target.name(), bytes / parameters);
        assert!(bytes <= 2.0 * parameters * 1.01, "{}: {}", target.name(), bytes / parameters);
    }
}

/// XNNPACK takes a baked transformer in one piece; what stands before it looks up tables.
#[test]
fn one_piece_to_xnnpack() {
    let setup = plain(fixture("shapes"));
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for precision in PRECISIONS {
        for bake in Bake::ALL {
            let output = folder.path().join(format!("{}_{}", precision.name(), bake.name()));
            let mut options = options(&setup, &["full"], &output);
            (options.targets, options.precision, options.bake) =
                (vec![Target::TfLite], precision, Some(bake));
            options.parts = vec![Part::Transformer];
            compile(&options, &mut Silent).unwrap();
            files.push((bake, output.join("tflite/full/transformer.tflite")));
        }
    }
    let paths: Vec<PathBuf> = files.iter().map(|(_, file)| file.clone()).collect();
    let lines = runtimes::partitions(&paths);
    for (line, (bake, file)) in lines.iter().zip(&files) {
        assert_eq!(line["partitions"], 1, "{}: {line}", file.display());
        let left_out: Vec<&str> = line["left_out"].as_object().unwrap().keys().map(String::as_str).collect();
        // In f16 the table is widened before it is looked up in.
        let expected: &[&str] = match bake {
            Bake::Step => &["DEQUANTIZE", "EMBEDDING_LOOKUP"],
            _ => &[],
        };
        assert!(left_out.iter().all(|op| expected.contains(op)), "{}: {left_out:?}", file.display());
    }
}

/// Weights that all steps read are stored once, and where they are widened, that is once too.
#[test]
fn unrolled_weights_are_stored_once() {
    let setup = plain(fixture("shapes"));
    let mut bytes = BTreeMap::new();
    for bake in Bake::ALL {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(&setup, &["small"], folder.path());
        (options.targets, options.bake) = (Target::ALL.to_vec(), Some(bake));
        options.precision = Precision::F16;
        options.parts = vec![Part::Transformer];
        for written in compile(&options, &mut Silent).unwrap() {
            let Manifest { parts, options, .. } = written.manifest;
            let artifact = written.folder.join(&parts[0].artifact);
            let target: Target = options.target.parse().unwrap();
            let (graph, _) = target.backend(MinOs::default()).read(&artifact).unwrap();
            let casts = graph.nodes().iter().filter(|node| node.op.name() == "cast");
            let mut cast: Vec<_> =
                casts.map(|node| node.operands[0]).filter(|&id| graph.as_weight(id).is_some()).collect();
            let count = cast.len();
            cast.sort_unstable();
            cast.dedup();
            assert_eq!(cast.len(), count, "{} {}", options.target, bake.name());
            bytes.insert((options.target, bake.name()), parts[0].parameters);
        }
    }
    for target in Target::ALL {
        let of = |bake: Bake| bytes[&(target.name().to_string(), bake.name())];
        assert_eq!(of(Bake::Unrolled), of(Bake::Step), "{}", target.name());
        assert!(of(Bake::Step) < of(Bake::None), "{}", target.name());
    }
}
