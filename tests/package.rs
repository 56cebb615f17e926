//! Whole packages: every part and subnet of the fixture, written, read back, and run by software that is not ours.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use snapc_backend::{LegalGraph, legalize};
use snapc_driver::{CompileOptions, MinOs, Part, Precision, Ranges, Silent, Target, Width, compile};
use snapc_frontends::Pipeline;
use snapc_interp::{Interpreter, Sampling, sample};
use snapc_passes::{Standard, run, standard};
use snapc_tests::{
    assert_close, compile_options, entry, files, fixture, no_numbers, psnr, relative_error, runtimes,
    tensor_file, tensors,
};
use snapc_weights::{Store, Tensor};

const SUBNETS: [&str; 3] = ["tiny", "small", "full"];
const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::F16];

fn options(target: Target, precision: Precision, min_os: MinOs, output: &Path) -> CompileOptions {
    CompileOptions { min_os, ..compile_options(target, precision, output) }
}

fn artifact(output: &Path, target: Target, subnet: &str, part: Part) -> PathBuf {
    let name = target.backend(MinOs::default()).artifact(part.name());
    output.join(target.name()).join(subnet).join(name)
}

/// The legal graph of a part and where its weights are, as a compile has them.
fn legal(
    target: Target,
    precision: Precision,
    min_os: MinOs,
    subnet: &str,
    part: Part,
) -> (LegalGraph, Store) {
    let pipeline = Pipeline::open(&fixture("shapes")).unwrap();
    let imported = pipeline.import(part, 1, [16, 16]).unwrap();
    let widths = (pipeline.width(), pipeline.subnet(subnet).unwrap());
    let passes = standard(
        &Standard { widths, baking: None, precision, weights_only: target.weights_only(), quantize: None },
        imported.graph.stage(),
        &no_numbers,
    );
    let graph = run(&imported.graph, &passes, None).unwrap();
    (legalize(&graph, target.backend(min_os).as_ref()).unwrap(), imported.store)
}

/// The inputs of a part at the first step of the first golden prompt, and what comes out.
fn golden_case(
    golden: &BTreeMap<String, Tensor>,
    subnet: &str,
    part: Part,
) -> (Vec<(&'static str, Tensor)>, &'static str, Tensor) {
    let get = |name: &str| entry(&golden[name], 0);
    match part {
        Part::TextEncoder => (vec![("input_ids", get("ids"))], "text", get("text")),
        Part::Transformer => {
            let inputs = vec![
                ("latent", get("noise")),
                ("timestep", Tensor::f32([1], vec![1000.0])),
                ("text", get("text")),
                ("text_mask", get("text_mask")),
            ];
            (inputs, "velocity", get(&format!("{subnet}.velocity0")))
        }
        Part::VaeDecoder => {
            (vec![("latent", get(&format!("{subnet}.latent4")))], "image", get(&format!("{subnet}.image")))
        }
    }
}

fn borrowed<'a>(inputs: &'a [(&'static str, Tensor)]) -> Vec<(&'static str, &'a Tensor)> {
    inputs.iter().map(|(name, tensor)| (*name, tensor)).collect()
}

/// A package read back computes what the legal graph computes; f32 meets the golden tensors; f16's rounding is there and small.
#[test]
fn read_back() {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    for target in Target::ALL {
        for precision in PRECISIONS {
            let folder = tempfile::tempdir().unwrap();
            let mut options = options(target, precision, MinOs::default(), folder.path());
            // What `legal` makes knows no ranges.
            options.ranges = Ranges::Off;
            compile(&options, &mut Silent).unwrap();
            for subnet in SUBNETS {
                for part in Part::ALL {
                    let what = format!("{} {} {subnet} {}", target.name(), precision.name(), part.name());
                    let (inputs, output, expected) = golden_case(&golden, subnet, part);
                    let (legal, store) = legal(target, precision, MinOs::default(), subnet, part);
                    let before = Interpreter::new(&legal, &store).run(&borrowed(&inputs)).unwrap().remove(0);
                    let backend = target.backend(MinOs::default());
                    let (read, weights) =
                        backend.read(&artifact(folder.path(), target, subnet, part)).unwrap();
                    assert_eq!(read.outputs()[0].name, output);
                    let after = Interpreter::new(&read, &weights).run(&borrowed(&inputs)).unwrap().remove(0);
                    assert_close(&what, &after, &before, 1e-6);
                    let error = relative_error(after.values(), expected.values());
                    // The fixture's transformer is stored in f16: f16 weights under f32 arithmetic lose nothing there.
                    let lossless = target.weights_only() && part == Part::Transformer;
                    match precision {
                        Precision::F16 if lossless => assert!(error <= 1e-4, "{what}: {error:e}"),
                        Precision::F32 => assert!(error <= 1e-4, "{what}: {error:e}"),
                        Precision::F16 => assert!((1e-5..=1e-2).contains(&error), "{what}: {error:e}"),
                    }
                }
            }
        }
    }
}

/// The packages read back draw the picture: four steps and the decoder, all in f16.
#[test]
fn pictures_in_f16() {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let pipeline = Pipeline::open(&fixture("shapes")).unwrap();
    let schedule = pipeline.schedule(None, [16, 16]).unwrap();
    for target in Target::ALL {
        let folder = tempfile::tempdir().unwrap();
        compile(&options(target, Precision::F16, MinOs::default(), folder.path()), &mut Silent).unwrap();
        let backend = target.backend(MinOs::default());
        for subnet in SUBNETS {
            let read = |part| backend.read(&artifact(folder.path(), target, subnet, part)).unwrap();
            let (text_encoder, transformer, decoder) =
                (read(Part::TextEncoder), read(Part::Transformer), read(Part::VaeDecoder));
            let ids = entry(&golden["ids"], 0);
            let text = Interpreter::new(&text_encoder.0, &text_encoder.1)
                .run(&[("input_ids", &ids)])
                .unwrap()
                .remove(0);
            let mask = entry(&golden["text_mask"], 0);
            let interpreter = Interpreter::new(&transformer.0, &transformer.1);
            let sampling = Sampling { schedule: &schedule, noise: entry(&golden["noise"], 0) };
            let latents = sample(
                sampling,
                &mut |latent, timestep, _| {
                    let timestep = Tensor::f32([1], vec![timestep]);
                    let inputs =
                        [("latent", latent), ("timestep", &timestep), ("text", &text), ("text_mask", &mask)];
                    Ok(interpreter.run(&inputs)?.remove(0))
                },
                &mut |_| panic!("Euler's rule draws no noise"),
            )
            .unwrap();
            let image =
                Interpreter::new(&decoder.0, &decoder.1).run(&[("latent", &latents[3])]).unwrap().remove(0);
            let found = psnr(image.values(), entry(&golden[&format!("{subnet}.image")], 0).values());
            assert!(found >= 40.0, "{} {subnet}: {found:.1} dB", target.name());
        }
    }
}

/// Each target's own software loads every package and computes the same.
#[test]
fn run_by_other_software() {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    for target in Target::ALL {
        let folder = tempfile::tempdir().unwrap();
        let mut jobs = Vec::new();
        let mut bounds = Vec::new();
        for (precision, bound) in [(Precision::F32, 1e-4), (Precision::F16, 1e-2)] {
            let output = folder.path().join(precision.name());
            compile(&options(target, precision, MinOs::default(), &output), &mut Silent).unwrap();
            for subnet in SUBNETS {
                for part in Part::ALL {
                    let (inputs, name, expected) = golden_case(&golden, subnet, part);
                    let stem = format!("{}_{subnet}_{}", precision.name(), part.name());
                    let job = runtimes::Job {
                        artifact: artifact(&output, target, subnet, part),
                        inputs: folder.path().join(format!("{stem}.in")),
                        outputs: folder.path().join(format!("{stem}.out")),
                    };
                    tensor_file(&job.inputs, &borrowed(&inputs));
                    jobs.push(job);
                    bounds.push((name, expected, bound));
                }
            }
        }
        for (found, (name, expected, bound)) in runtimes::run(target, &jobs).into_iter().zip(bounds) {
            assert_close(name, &found[name], &expected, bound);
        }
    }
}

/// The other systems: each opset is loaded by coremltools, and the same picture comes out.
#[test]
fn every_system_of_core_ml() {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let folder = tempfile::tempdir().unwrap();
    let mut jobs = Vec::new();
    for min_os in [MinOs::Ios16, MinOs::Ios18] {
        let output = folder.path().join(min_os.name());
        let mut options = options(Target::CoreMl, Precision::F16, min_os, &output);
        options.widths = vec![Width::Subnet("tiny".to_string())];
        compile(&options, &mut Silent).unwrap();
        for part in Part::ALL {
            let stem = format!("{}_{}", min_os.name(), part.name());
            let job = runtimes::Job {
                artifact: artifact(&output, Target::CoreMl, "tiny", part),
                inputs: folder.path().join(format!("{stem}.in")),
                outputs: folder.path().join(format!("{stem}.out")),
            };
            tensor_file(&job.inputs, &borrowed(&golden_case(&golden, "tiny", part).0));
            jobs.push(job);
        }
    }
    let parts = Part::ALL.into_iter().cycle();
    for (found, part) in runtimes::run(Target::CoreMl, &jobs).into_iter().zip(parts) {
        let (_, name, expected) = golden_case(&golden, "tiny", part);
        assert_close(name, &found[name], &expected, 1e-2);
    }
}

#[test]
fn same_bytes_each_time() {
    for target in Target::ALL {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for folder in &folders {
            compile(&options(target, Precision::F16, MinOs::default(), folder.path()), &mut Silent).unwrap();
        }
        let [a, b] = folders.map(|folder| files(folder.path()));
        assert!(a.len() > 9 && a == b, "{}", target.name());
    }
}
