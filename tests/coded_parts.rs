//! Parts whose layers are stored as codes, behind the passes, in every target: what is written is what the interpreter computes, and what
//! the targets' own software computes. `w8a8` first of all, whose activations are rounded too.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use snapc_backend::{LegalGraph, Part as Written, legalize};
use snapc_driver::{
    CalibrateOptions, CalibrationFile, MinOs, Part, Precision, Silent, Target, Width, calibrate,
};
use snapc_frontends::Pipeline;
use snapc_interp::Interpreter;
use snapc_ir::ops::{FakeQuantize, Op};
use snapc_ir::{Def, Graph, Node, Source, Weight};
use snapc_passes::{Quantize, Standard, run, standard};
use snapc_tests::{entry, fixture, no_numbers, relative_error, runtimes, tensor_file, tensors};
use snapc_weights::{Data, Store, Tensor};

const SUBNETS: [&str; 3] = ["tiny", "small", "full"];

/// Between a runtime and the interpreter: a sum that another order of additions puts on the other side of a half goes to the next code,
/// which all layers behind it see.
const RUNTIME: f64 = 2e-2;

/// A calibration of a subnet, measured once.
fn calibration(subnet: &str) -> CalibrationFile {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        for subnet in SUBNETS {
            let width = Width::Subnet(subnet.to_string());
            let options = CalibrateOptions {
                count: Some(8),
                ..CalibrateOptions::new(fixture("shapes"), width, folder.path().join(subnet))
            };
            calibrate(&options, &mut Silent).unwrap();
        }
        folder
    });
    CalibrationFile::open(&folder.path().join(subnet)).unwrap()
}

fn quantize(part: Part, subnet: &str, target: Target, choice: &str) -> Quantize {
    let largest = || calibration(subnet).largest(part.name()).unwrap();
    Quantize {
        default: Some(choice.parse().unwrap()),
        decode_palettes: !target.has_palettes(),
        largest: if choice == "w8a8" { largest() } else { BTreeMap::new() },
        round_results: target.rounds_results(),
        ..Quantize::default()
    }
}

/// A part behind the passes, and the store of its weights.
fn prepared(part: Part, subnet: &str, target: Target, choice: &str) -> (Graph, Store) {
    let pipeline = Pipeline::open(&fixture("shapes")).unwrap();
    let imported = pipeline.import(part, 1, [16, 16]).unwrap();
    let options = Standard {
        widths: (pipeline.width(), pipeline.subnet(subnet).unwrap()),
        baking: None,
        precision: Precision::F16,
        weights_only: target.weights_only(),
        quantize: Some(quantize(part, subnet, target, choice)),
    };
    let passes = standard(&options, imported.graph.stage(), &no_numbers);
    (run(&imported.graph, &passes, None).unwrap(), imported.store)
}

type Inputs = Vec<(&'static str, Tensor)>;

/// What a part is given in two pictures, the transformer at the first and the third of four steps.
fn examples(part: Part, subnet: &str) -> Vec<Inputs> {
    let golden = tensors(&fixture("shapes/golden.safetensors"));
    let sigmas = golden["sigmas"].values();
    let mut all = Vec::new();
    for prompt in 0..2 {
        let one = |name: &str| entry(&golden[name], prompt);
        match part {
            Part::TextEncoder => all.push(vec![("input_ids", one("ids"))]),
            Part::VaeDecoder => all.push(vec![("latent", one(&format!("{subnet}.latent4")))]),
            Part::Transformer => {
                for (latent, sigma) in
                    [("noise".to_string(), sigmas[0]), (format!("{subnet}.latent2"), sigmas[2])]
                {
                    let timestep = Tensor::f32(vec![1], vec![1000.0 * sigma]);
                    let (text, mask) = (one("text"), one("text_mask"));
                    let latent = one(&latent);
                    all.push(vec![
                        ("latent", latent),
                        ("timestep", timestep),
                        ("text", text),
                        ("text_mask", mask),
                    ]);
                }
            }
        }
    }
    all
}

struct Done {
    what: String,
    target: Target,
    legal: LegalGraph,
    path: PathBuf,
    examples: Vec<Inputs>,
    expected: Vec<Tensor>,
}

fn interpret(graph: &Graph, store: &Store, inputs: &[(&str, Tensor)]) -> Tensor {
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    Interpreter::new(graph, store).run(&inputs).unwrap().remove(0)
}

/// The inputs with other last bits.
fn nudged(inputs: &Inputs) -> Inputs {
    let other = |tensor: &Tensor| match &tensor.data {
        Data::F32(values) => {
            let values = values.iter().map(|value| f32::from_bits(value.to_bits() ^ 1)).collect();
            Tensor::f32(tensor.ty.shape.clone(), values)
        }
        Data::I32(_) => tensor.clone(),
    };
    inputs.iter().map(|(name, tensor)| (*name, other(tensor))).collect()
}

/// The relative error of all outputs together.
fn error(found: &[Tensor], expected: &[Tensor]) -> f64 {
    let all =
        |tensors: &[Tensor]| -> Vec<f32> { tensors.iter().flat_map(|one| one.values().to_vec()).collect() };
    relative_error(&all(found), &all(expected))
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.values().iter().map(|value| value.to_bits()).collect()
}

/// The numbers of all weights whose codes or steps are stored, as bits, in order of these.
fn rounded(graph: &Graph, store: &Store, is: impl Fn(&Weight) -> bool) -> Vec<Vec<u32>> {
    let mut all: Vec<Vec<u32>> = graph
        .weights()
        .iter()
        .filter(|weight| is(weight))
        .map(|weight| bits(&store.read(weight).unwrap()))
        .collect();
    all.sort();
    all.dedup();
    all
}

/// Written, read back and compared bit for bit.
fn written(part: Part, subnet: &str, target: Target, folder: &std::path::Path) -> Done {
    let what = format!("{} {} {subnet}", target.name(), part.name());
    let (graph, store) = prepared(part, subnet, target, "w8a8");
    let backend = target.backend(MinOs::default());
    let legal = legalize(&graph, backend.as_ref()).unwrap();
    let own = folder.join(what.replace(' ', "."));
    std::fs::create_dir(&own).unwrap();
    let path = own.join(backend.artifact(part.name()));
    backend.write(Written::new(legal.clone(), &store, &[]), &path, &mut |_| {}).unwrap();
    let (read, read_store) = backend.read(&path).unwrap();

    let here = rounded(&legal, &store, |weight| weight.coded().is_some() || weight.stepped().is_some());
    let back = rounded(&read, &read_store, |_| true);
    assert!(here.len() > 5 && here.iter().all(|numbers| back.contains(numbers)), "{what}: other weights");
    let examples = examples(part, subnet);
    let of = |graph: &Graph, store: &Store| -> Vec<Tensor> {
        examples.iter().map(|inputs| interpret(graph, store, inputs)).collect()
    };
    let (expected, back) = (of(&legal, &store), of(&read, &read_store));
    let same = expected.iter().zip(&back).all(|(here, back)| bits(here) == bits(back));
    assert!(same, "{what}: another output");
    let nudged: Vec<Tensor> =
        examples.iter().map(|inputs| interpret(&legal, &store, &nudged(inputs))).collect();
    println!("{what}: a last bit of the inputs changes {:.2e}", error(&nudged, &expected));
    Done { what, target, legal, path, examples, expected }
}

fn of_target(target: Target, folder: &std::path::Path) -> Vec<Done> {
    let mut cases: Vec<(Part, &str)> = SUBNETS.map(|subnet| (Part::Transformer, subnet)).to_vec();
    cases.extend([(Part::TextEncoder, "tiny"), (Part::VaeDecoder, "tiny")]);
    cases.into_iter().map(|(part, subnet)| written(part, subnet, target, folder)).collect()
}

/// Every target, subnet and part in its runtime.
#[test]
fn runtimes_compute_what_the_interpreter_does() {
    for target in Target::ALL {
        let folder = tempfile::tempdir().unwrap();
        let done = of_target(target, folder.path());
        let mut jobs = Vec::new();
        for one in &done {
            let own = one.path.parent().unwrap();
            for (number, inputs) in one.examples.iter().enumerate() {
                let file = own.join(format!("inputs{number}"));
                tensor_file(&file, &inputs.iter().map(|(name, tensor)| (*name, tensor)).collect::<Vec<_>>());
                let outputs = own.join(format!("outputs{number}"));
                jobs.push(runtimes::Job { artifact: one.path.clone(), inputs: file, outputs });
            }
        }
        let mut all = runtimes::run(target, &jobs).into_iter();
        for one in &done {
            let name = &one.legal.outputs()[0].name;
            let found: Vec<Tensor> =
                one.expected.iter().map(|_| all.next().unwrap().remove(name).unwrap()).collect();
            let error = error(&found, &one.expected);
            println!("{}: {error:.2e}", one.what);
            assert!(error <= RUNTIME, "{}: relative error {error:e}", one.what);
        }
        if target == Target::TfLite {
            one_piece(&done);
        }
        if target == Target::Onnx {
            integer_products(&done);
        }
    }
}

fn is_rounded(graph: &Graph, node: &Node) -> bool {
    let is = |value| match graph.value(value).def {
        Def::Result(maker, _) => matches!(graph.node(maker).op, Op::FakeQuantize(_)),
        _ => false,
    };
    node.operands.first().is_some_and(|&x| is(x))
}

/// XNNPACK takes a transformer of int8 products in one piece, and leaves nothing out.
fn one_piece(done: &[Done]) {
    let files: Vec<PathBuf> = done.iter().map(|one| one.path.clone()).collect();
    for (found, one) in runtimes::partitions(&files).iter().zip(done) {
        println!("{}: {found}", one.what);
        assert_eq!(one.target, Target::TfLite);
        assert_eq!(found["partitions"], 1, "{}: {found}", one.what);
        let left_out = found["left_out"].as_object().unwrap();
        // Rows of the table of tokens are looked up first.
        let text = one.what.contains("text_encoder");
        assert!(
            left_out.is_empty() || text && left_out.contains_key("EMBEDDING_LOOKUP"),
            "{}: {found}",
            one.what
        );
    }
}

/// ONNX Runtime multiplies the codes of every linear as integers: no product of dequantized ones is left.
fn integer_products(done: &[Done]) {
    for one in done.iter().filter(|one| !one.what.contains("vae")) {
        let products = |node: &&Node| matches!(node.op, Op::Matmul(_)) && is_rounded(&one.legal, node);
        let expected = one.legal.nodes().iter().filter(products).count() as u64;
        let fused = runtimes::fused(&one.path);
        println!("{}: {fused:?}", one.what);
        assert!(expected > 5);
        assert_eq!(fused.get("MatMulIntegerToFloat"), Some(&expected), "{}: {fused:?}", one.what);
    }
}

/// Layers that read one value have one rounding of it, and one scale.
#[test]
fn what_is_read_thrice_is_rounded_once() {
    for target in [Target::Onnx, Target::TfLite] {
        let (graph, _) = prepared(Part::Transformer, "small", target, "w8a8");
        let weight = |end: &str| {
            let node = graph.nodes().iter().find(|node| {
                let weight = node.operands.get(1).and_then(|&id| graph.as_weight(id));
                let is = |name: &str| name == format!("down.0.self_attn.{end}.weight");
                weight.is_some_and(|weight| matches!(&weight.source, Source::Tensor { name, .. } if is(name)))
            });
            node.unwrap().operands[0]
        };
        assert!(weight("q") == weight("k") && weight("k") == weight("v"));
        let scales: Vec<f32> = graph
            .nodes()
            .iter()
            .filter_map(|node| match node.op {
                Op::FakeQuantize(FakeQuantize { scale }) => Some(scale),
                _ => None,
            })
            .collect();
        let layers = graph.weights().iter().filter(|weight| weight.coded().is_some()).count();
        let most = if target.rounds_results() { 2 * layers } else { layers };
        assert!(scales.len() > layers / 2 && scales.len() < most, "{} of {layers}", scales.len());
        assert!(scales.iter().all(|scale| half::f16::from_f32(*scale).to_f32() == *scale), "{scales:?}");
    }
}

/// What `tests/quantize.rs` runs of `tiny` alone, on the other subnets: one evaluation each. Palettes that a target has not are decoded;
/// one of them shows it.
#[test]
fn every_subnet_runs_with_every_encoding() {
    for target in Target::ALL {
        let folder = tempfile::tempdir().unwrap();
        let backend = target.backend(MinOs::Ios18);
        let only = ["palette8", "palette6", "palette3 group 8", "palette2"];
        let choices =
            ["int4", "palette4"].into_iter().chain(only.into_iter().filter(|_| target.has_palettes()));
        let cases: Vec<(&str, &str)> =
            choices.flat_map(|choice| [("small", choice), ("full", choice)]).collect();
        let (mut jobs, mut expected) = (Vec::new(), Vec::new());
        for (number, (subnet, choice)) in cases.iter().enumerate() {
            let (graph, store) = prepared(Part::Transformer, subnet, target, choice);
            let legal = legalize(&graph, backend.as_ref()).unwrap();
            let own = folder.path().join(number.to_string());
            std::fs::create_dir(&own).unwrap();
            let path = own.join(backend.artifact("transformer"));
            backend.write(Written::new(legal.clone(), &store, &[]), &path, &mut |_| {}).unwrap();
            let (read, store) = backend.read(&path).unwrap();
            let inputs = examples(Part::Transformer, subnet).remove(0);
            expected.push(interpret(&read, &store, &inputs));
            let file = own.join("inputs");
            tensor_file(&file, &inputs.iter().map(|(name, tensor)| (*name, tensor)).collect::<Vec<_>>());
            jobs.push(runtimes::Job { artifact: path, inputs: file, outputs: own.join("outputs") });
        }
        for ((found, expected), case) in runtimes::run(target, &jobs).iter().zip(&expected).zip(&cases) {
            let error = relative_error(found["velocity"].values(), expected.values());
            println!("{} {case:?}: {error:.2e}", target.name());
            assert!(error <= RUNTIME, "{} {case:?}: relative error {error:e}", target.name());
        }
    }
}
