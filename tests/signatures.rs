//! All parts and sizes of the fixture in one TFLite file: what each signature computes, and what they share.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use snapc_driver::{CompileOptions, Part, Precision, Silent, Target, Width, compile, parse_size};
use snapc_frontends::Pipeline;
use snapc_interp::{Interpreter, TorchGenerator};
use snapc_ir::{DType, Graph, TensorType};
use snapc_passes::{Pass, Slice};
use snapc_tests::{assert_close, compile_options, files, fixture, runtimes, tensor_file};
use snapc_tflite::{ReadSignature, read_signatures};
use snapc_weights::{Store, Tensor};

const SIZES: [&str; 2] = ["64x64", "64x96"];

fn options(precision: Precision, sizes: &[&str], one_file: bool, output: &Path) -> CompileOptions {
    CompileOptions {
        widths: ["tiny", "small"].map(|name| Width::Subnet(name.to_string())).to_vec(),
        sizes: sizes.iter().map(|size| parse_size(size).unwrap()).collect(),
        one_file,
        ..compile_options(Target::TfLite, precision, output)
    }
}

/// Compiles; gives the folder of `small`.
fn compiled(precision: Precision, sizes: &[&str], one_file: bool, output: &Path) -> PathBuf {
    compile(&options(precision, sizes, one_file, output), &mut Silent).unwrap().remove(1).folder
}

fn manifest(folder: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join("manifest.json")).unwrap()).unwrap()
}

/// A part of `small`, as imported for that size, in f32.
fn imported(part: Part, size: [usize; 2]) -> (Graph, Store) {
    let pipeline = Pipeline::open(&fixture("shapes")).unwrap();
    let imported = pipeline.import(part, 1, pipeline.latent_size(Some(size)).unwrap()).unwrap();
    if part != Part::Transformer {
        return (imported.graph, imported.store);
    }
    let slice = Slice { from: pipeline.width(), to: pipeline.subnet("small").unwrap() };
    (slice.run(&imported.graph).unwrap(), imported.store)
}

/// Inputs such as a run has: noise, the first timestep, a text of which half is padding.
fn inputs(graph: &Graph) -> Vec<(String, Tensor)> {
    let mut generator = TorchGenerator::new(7);
    let mut input = |name: &str, TensorType { dtype, shape }: &TensorType| {
        let count: usize = shape.iter().product();
        match (name, dtype) {
            (_, DType::I32) => Tensor::i32(shape.clone(), (0..count as i32).collect()),
            ("timestep", _) => Tensor::f32(shape.clone(), vec![900.0]),
            ("text_mask", _) => {
                Tensor::f32(shape.clone(), (0..count).map(|at| f32::from(at < count / 2)).collect())
            }
            _ => Tensor::f32(shape.clone(), generator.randn(count)),
        }
    };
    graph.inputs().iter().map(|port| (port.name.clone(), input(&port.name, graph.ty(port.value)))).collect()
}

/// Each entry of a manifest: its signature, its part, and the size of the pictures that it is for.
fn entries(folder: &Path) -> Vec<(String, Part, [usize; 2])> {
    let manifest = manifest(folder);
    let size = |value: &Value| serde_json::from_value(value.clone()).ok();
    let whole: [usize; 2] = size(&manifest["options"]["size"]).unwrap();
    let entries = manifest["parts"].as_array().unwrap().iter().map(|entry| {
        let part = Part::ALL.into_iter().find(|part| part.name() == entry["part"]).unwrap();
        assert_eq!(entry["artifact"], "model.tflite");
        (entry["signature"].as_str().unwrap().to_string(), part, size(&entry["size"]).unwrap_or(whole))
    });
    entries.collect()
}

/// Every signature in LiteRT, and read back and interpreted, is the graph that was imported for its size.
#[test]
fn each_signature_computes_its_part() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    for (precision, bound) in [(Precision::F32, 1e-4), (Precision::F16, 1e-2)] {
        for (sizes, keys) in [
            (&SIZES[..0], &["text_encoder", "transformer", "vae_decoder"][..]),
            (&SIZES[1..], &["text_encoder", "transformer", "vae_decoder"]),
            (
                &SIZES,
                &[
                    "text_encoder",
                    "transformer_64x64",
                    "transformer_64x96",
                    "vae_decoder_64x64",
                    "vae_decoder_64x96",
                ],
            ),
        ] {
            let made = compiled(precision, sizes, true, &place("out"));
            let (mut jobs, mut expected) = (Vec::new(), Vec::new());
            let found = entries(&made);
            assert_eq!(found.iter().map(|entry| entry.0.as_str()).collect::<Vec<_>>(), keys);
            let read = read_signatures(&made.join("model.tflite")).unwrap();
            assert_eq!(read.iter().map(|read| read.key.as_str()).collect::<Vec<_>>(), keys);
            for ((key, part, size), read) in found.into_iter().zip(&read) {
                let (graph, store) = imported(part, size);
                let given = inputs(&graph);
                let given: Vec<(&str, &Tensor)> =
                    given.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
                let output = Interpreter::new(&graph, &store).run(&given).unwrap().remove(0);
                let back = Interpreter::new(&read.graph, &read.store).run(&given).unwrap().remove(0);
                assert_close(&format!("{key} read back"), &back, &output, bound);
                let job = runtimes::Job {
                    artifact: made.join("model.tflite"),
                    inputs: place(&format!("{key}.in")),
                    outputs: place(&format!("{key}.out")),
                };
                tensor_file(&job.inputs, &given);
                expected.push((graph.outputs()[0].name.clone(), output));
                jobs.push((job, key));
            }
            let outputs = runtimes::run_signatures(Target::TfLite, &jobs);
            for ((found, (name, output)), (_, key)) in outputs.into_iter().zip(&expected).zip(&jobs) {
                assert_close(&format!("{} {key}", precision.name()), &found[name], output, bound);
            }
        }
    }
}

/// Bytes behind the flatbuffer.
fn weight_bytes(path: &Path) -> u64 {
    let read = read_signatures(path).unwrap();
    let regions = read.iter().flat_map(|read| read.store.names().filter_map(|name| read.store.region(name)));
    std::fs::metadata(path).unwrap().len() - regions.map(|region| region.offset).min().unwrap()
}

/// A second size costs what depends on it: its graph, and the tables of its grids.
#[test]
fn weights_are_shared() {
    for precision in [Precision::F32, Precision::F16] {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let length = |path: &Path| std::fs::metadata(path).unwrap().len();
        let apart = |sizes: &[&str]| {
            let made = compiled(precision, sizes, false, &place("apart"));
            Part::ALL.map(|part| length(&made.join(format!("{}.tflite", part.name())))).iter().sum::<u64>()
        };
        let one = compiled(precision, &SIZES[..1], true, &place("one")).join("model.tflite");
        let two = compiled(precision, &SIZES, true, &place("two")).join("model.tflite");
        let (separate, other) = (apart(&SIZES[..1]), apart(&SIZES[1..]));
        assert!(length(&one) < separate, "{} of {separate}", length(&one));
        assert!(length(&two) < separate + other, "{} of {}", length(&two), separate + other);

        // Both graphs of the transformer have the same bytes of the checkpoint; what is left are tables.
        let read = read_signatures(&two).unwrap();
        let offset = |number: usize, name: &str| {
            let ReadSignature { store, .. } = &read[number];
            store.region(name).map(|region| region.offset)
        };
        let (graph, _) = imported(Part::Transformer, [64, 96]);
        let mut shared = 0;
        for weight in graph.weights() {
            if let Some(known) = offset(1, &weight.name) {
                assert_eq!(offset(2, &weight.name), Some(known), "{}", weight.name);
                shared += 1;
            }
        }
        let all = read[1].store.names().count();
        assert!(shared * 2 > all, "{shared} of {all}");
        let (first, both) = (weight_bytes(&one), weight_bytes(&two));
        assert!(first < both && both - first < first / 10, "{first} and {both}");
    }
}

#[test]
fn same_bytes_each_time() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let made = [0, 1].map(|number| {
        compiled(Precision::F16, &SIZES, true, folders[number].path());
        files(folders[number].path())
    });
    assert!(made[0].keys().filter(|path| path.ends_with("model.tflite")).count() == 2);
    assert!(made[0] == made[1]);
    // A size that is named again changes nothing.
    let again = tempfile::tempdir().unwrap();
    compiled(Precision::F16, &["64x64", "64x96", "64x64"], true, again.path());
    assert!(files(again.path()) == made[0]);
}

/// One part alone, in two sizes.
#[test]
fn parts_are_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(Precision::F16, &SIZES, true, folder.path());
    options.parts = vec![Part::VaeDecoder];
    let made = compile(&options, &mut Silent).unwrap().remove(0);
    let keys: Vec<String> = entries(&made.folder).into_iter().map(|entry| entry.0).collect();
    assert_eq!(keys, ["vae_decoder_64x64", "vae_decoder_64x96"]);
    assert_eq!(manifest(&made.folder)["parts"][1]["size"], json!([64, 96]));
    assert_eq!(made.manifest.sizes(), [[64, 64], [64, 96]]);
}

/// The script that checks the files finds what is damaged in them, of one signature or several.
#[test]
fn the_check_finds_damage() {
    let folder = tempfile::tempdir().unwrap();
    let alone = compiled(Precision::F16, &[], false, &folder.path().join("alone"));
    let together = compiled(Precision::F16, &[], true, &folder.path().join("together"));
    runtimes::self_test(Target::TfLite, &[alone.join("vae_decoder.tflite"), together.join("model.tflite")]);
}
