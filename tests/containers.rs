//! Encoded weights along the roads of every target: legal, written and read back bit for bit, and run by software that is not
//! ours. What a format cannot hold is refused before a byte is written.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use snapc_backend::{Backend, LegalGraph, Part, legalize};
use snapc_driver::{Inspection, MinOs, Target};
use snapc_interp::Interpreter;
use snapc_ir::ops::{Add, Conv2d, FakeQuantize, Layout, Linear, Op};
use snapc_ir::{Builder, Class, Code, DType, Encoding, Graph, Result, Stage, TensorType, ValueId, Weight};
use snapc_passes::{Pass, Precision, PrecisionPass};
use snapc_tests::{numbers, runtimes, tensor_file};
use snapc_weights::{Store, Tensor};

/// Relative error of a runtime that decodes weights and computes in f32.
const F32: f64 = 1e-4;
/// Of one that rounds what a weight is multiplied with to 8 bits, row by row or block by block.
const DYNAMIC: f64 = 2e-2;
/// Of arithmetic in f16.
const F16: f64 = 6e-3;

struct Case {
    name: String,
    graph: Graph,
    x: Tensor,
    encoding: Encoding,
    conv: bool,
    inputs: usize,
    /// Whether activations are rounded.
    rounded: bool,
}

fn weight(name: &str, shape: &[usize], encoding: Encoding) -> Weight {
    let mut weight = Weight::inline(name, numbers(3, shape).values().to_vec(), shape.to_vec());
    weight.encode(encoding).unwrap();
    weight
}

fn bias(b: &mut Builder, size: usize) -> ValueId {
    b.weight(Weight::inline("bias", numbers(5, &[size]).values().to_vec(), vec![size])).unwrap()
}

type Build = fn(&mut Builder, ValueId, Weight) -> Result<ValueId>;

fn case(name: &str, encoding: Encoding, [x, w]: [&[usize]; 2], build: Build) -> Case {
    let mut b = Builder::new("case", Stage::Subnet);
    let input = b.input("x", TensorType::new(DType::F32, x));
    b.set_scope(format!("case.{name}"));
    let y = build(&mut b, input, weight("w", w, encoding)).unwrap();
    b.output("y", y);
    let graph = b.finish().unwrap();
    Case {
        name: format!("{name} {encoding}"),
        rounded: graph.nodes().iter().any(|node| matches!(node.op, Op::FakeQuantize(_))),
        graph,
        x: numbers(7, x),
        encoding,
        conv: w.len() == 4,
        inputs: w[1],
    }
}

fn linear(b: &mut Builder, x: ValueId, weight: Weight) -> Result<ValueId> {
    let weight = b.weight(weight)?;
    b.one(Linear {}, &[x, weight])
}

fn linear_with_bias(b: &mut Builder, x: ValueId, weight: Weight) -> Result<ValueId> {
    let bias = bias(b, weight.dims[0].total());
    let weight = b.weight(weight)?;
    b.one(Linear {}, &[x, weight, bias])
}

/// As a wide linear is lowered: the sum of linears over parts of the input axis, x being as wide as one part.
fn linear_in_parts(b: &mut Builder, x: ValueId, weight: Weight) -> Result<ValueId> {
    let size = weight.dims[1].total() / 2;
    let mut sums = Vec::new();
    for start in [0, size] {
        let mut part = weight.clone();
        part.part(1, start, size)?;
        part.name = format!("w.{start}");
        let part = b.weight(part)?;
        sums.push(b.one(Linear {}, &[x, part])?);
    }
    b.one(Add {}, &sums)
}

/// A part of the output axis.
fn linear_of_rows(b: &mut Builder, x: ValueId, mut weight: Weight) -> Result<ValueId> {
    weight.part(0, 4, weight.dims[0].total() - 4)?;
    linear(b, x, weight)
}

fn conv(b: &mut Builder, x: ValueId, weight: Weight) -> Result<ValueId> {
    let bias = bias(b, weight.dims[0].total());
    let padding = weight.dims[2].total() / 2;
    let weight = b.weight(weight)?;
    b.one(Conv2d { stride: 1, padding, layout: Layout::Nchw }, &[x, weight, bias])
}

fn patches(b: &mut Builder, x: ValueId, weight: Weight) -> Result<ValueId> {
    let weight = b.weight(weight)?;
    b.one(Conv2d { stride: 2, padding: 0, layout: Layout::Nchw }, &[x, weight])
}

/// The numbers of x are in [-2, 2).
const OF_INPUTS: FakeQuantize = FakeQuantize { scale: 2.0 / 128.0 };
/// In f16, but with so many bits that few halves of steps are numbers of f16.
const OF_RESULTS: FakeQuantize = FakeQuantize { scale: 1283.0 / 4096.0 };

fn rounded(b: &mut Builder, x: ValueId, weight: Weight) -> Result<ValueId> {
    let x = b.one(OF_INPUTS, &[x])?;
    let y = linear_with_bias(b, x, weight)?;
    b.one(OF_RESULTS, &[y])
}

/// Two layers that read one rounded value, which something else reads too; one of them has no bias.
fn rounded_once(b: &mut Builder, x: ValueId, weight: Weight) -> Result<ValueId> {
    let x = b.one(OF_INPUTS, &[x])?;
    let mut other = Weight { name: "other".to_string(), ..weight.clone() };
    other.double(-1)?;
    let first = linear_with_bias(b, x, weight)?;
    let second = linear(b, x, other)?;
    let [first, second] = [first, second].map(|y| b.one(OF_RESULTS, &[y]));
    let sum = b.add(first?, second?)?;
    let part = b.slice(x, 1, 0, b.ty(sum).last())?;
    b.add(sum, part)
}

fn rounded_conv(b: &mut Builder, x: ValueId, weight: Weight) -> Result<ValueId> {
    let x = b.one(OF_INPUTS, &[x])?;
    let y = conv(b, x, weight)?;
    b.one(OF_RESULTS, &[y])
}

fn rounded_patches(b: &mut Builder, x: ValueId, weight: Weight) -> Result<ValueId> {
    let x = b.one(OF_INPUTS, &[x])?;
    let y = patches(b, x, weight)?;
    b.one(OF_RESULTS, &[y])
}

fn cases() -> Vec<Case> {
    let palettes = || [8, 6, 4, 3, 2].map(|bits| Encoding::palette(bits, None)).into_iter();
    let grouped = || [8, 6, 4, 3, 2].map(|bits| Encoding::palette(bits, Some(4))).into_iter();
    let rows = || [Encoding::int(8, None), Encoding::int(4, None)].into_iter();
    let blocks = |sizes: &'static [usize]| sizes.iter().map(|&size| Encoding::int(4, Some(size)));
    let mut all = Vec::new();
    for encoding in rows().chain(blocks(&[32, 64])).chain(palettes()).chain(grouped()) {
        all.push(case("linear", encoding, [&[5, 64], &[12, 64]], linear_with_bias));
        all.push(case("rank_3", encoding, [&[2, 3, 64], &[12, 64]], linear));
        all.push(case("rows", encoding, [&[5, 64], &[12, 64]], linear_of_rows));
    }
    for encoding in rows().chain(blocks(&[32])).chain(palettes()) {
        all.push(case("parts", encoding, [&[3, 64], &[8, 128]], linear_in_parts));
        all.push(case("one_row", encoding, [&[3, 64], &[1, 64]], linear));
        all.push(case("large", encoding, [&[3, 256], &[40, 256]], linear_with_bias));
    }
    for encoding in blocks(&[1, 8, 128]) {
        all.push(case("other_blocks", encoding, [&[3, 256], &[6, 256]], linear));
    }
    for encoding in rows().chain(palettes()) {
        all.push(case("tiny", encoding, [&[1, 2], &[1, 2]], linear));
        all.push(case("odd", encoding, [&[3, 7], &[5, 7]], linear_with_bias));
    }
    for encoding in [Encoding::int(8, None)].into_iter().chain(palettes()).chain(grouped()) {
        all.push(case("conv", encoding, [&[1, 6, 5, 4], &[8, 6, 3, 3]], conv));
        all.push(case("pointwise", encoding, [&[2, 6, 3, 3], &[8, 6, 1, 1]], conv));
        all.push(case("patches", encoding, [&[1, 3, 6, 4], &[8, 3, 2, 2]], patches));
    }
    let int8 = Encoding::int(8, None);
    all.push(case("rounded", int8, [&[5, 64], &[12, 64]], rounded));
    all.push(case("rounded_rank_3", int8, [&[2, 3, 64], &[300, 64]], rounded));
    all.push(case("rounded_once", int8, [&[5, 64], &[12, 64]], rounded_once));
    all.push(case("rounded_conv", int8, [&[1, 6, 5, 4], &[8, 6, 3, 3]], rounded_conv));
    all.push(case("rounded_patches", int8, [&[1, 3, 6, 4], &[8, 3, 2, 2]], rounded_patches));
    all
}

/// Whether a target's format has words for the weight of a case, by the format's documents.
fn holds(target: Target, min_os: MinOs, case: &Case) -> bool {
    let Encoding { code, group, .. } = case.encoding;
    match (target, code) {
        (Target::Onnx, code) => matches!(code, Code::Int { .. }),
        (Target::TfLite, Code::Palette { .. }) => false,
        (Target::TfLite, Code::Int { bits: 8 }) => true,
        (Target::TfLite, Code::Int { .. }) => match group {
            Some(group) => group.is_multiple_of(32),
            None => case.inputs.is_multiple_of(2) && !case.conv,
        },
        (Target::CoreMl, _) if min_os == MinOs::Ios18 => true,
        (Target::CoreMl, _) if case.rounded => min_os >= MinOs::Ios17,
        (Target::CoreMl, Code::Int { bits }) => bits == 8,
        (Target::CoreMl, Code::Palette { bits }) => bits != 3 && group.is_none(),
    }
}

fn half(graph: &Graph) -> Graph {
    PrecisionPass { precision: Precision::F16, weights_only: false }.run(graph).unwrap()
}

fn interpret(graph: &Graph, store: &Store, case: &Case) -> Tensor {
    let found = Interpreter::new(graph, store).run(&[("x", &case.x)]);
    found.unwrap_or_else(|error| panic!("{}: {error}", case.name)).remove(0)
}

/// Writes a graph; the bytes of weights that were told of.
fn write(backend: &dyn Backend, legal: &LegalGraph, path: &Path) -> u64 {
    let mut told = 0;
    let store = Store::empty();
    let part = Part::new(legal.clone(), &store, &[]);
    backend.write(part, path, &mut |bytes| told += bytes).unwrap_or_else(|error| panic!("{error}"));
    told
}

/// The numbers of the weights that are codes, as bits. Names may have changed.
fn decoded(graph: &Graph, store: &Store, is_coded: &dyn Fn(&Weight) -> bool) -> BTreeSet<Vec<u32>> {
    let coded = graph.weights().iter().filter(|weight| is_coded(weight));
    coded
        .map(|weight| store.read(weight).unwrap().values().iter().map(|value| value.to_bits()).collect())
        .collect()
}

fn written_and_read_back(target: Target, versions: &[MinOs]) {
    for &min_os in versions {
        let backend = target.backend(min_os);
        for case in cases() {
            for graph in [case.graph.clone(), half(&case.graph)] {
                let what = format!("{} {min_os:?} {}", target.name(), case.name);
                let legal = match legalize(&graph, backend.as_ref()) {
                    Ok(legal) => legal,
                    Err(error) => {
                        assert!(!holds(target, min_os, &case), "{what}: {error}");
                        assert_eq!(error.class(), Class::Limit, "{what}: {error}");
                        let help = error.help_text().unwrap_or_else(|| panic!("{what}: no help"));
                        assert!(
                            help.contains("--allow-decode") || help.contains("--min-os"),
                            "{what}: {help}"
                        );
                        continue;
                    }
                };
                assert!(holds(target, min_os, &case), "{what} is not refused");
                assert!(legal.weights().iter().any(|weight| weight.coded().is_some()), "{what}");
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join(backend.artifact("case"));
                let told = write(backend.as_ref(), &legal, &path);
                // Core ML's few numbers in the model file are not told of.
                let few = |weight: &&Weight| target == Target::CoreMl && weight.coded().is_none();
                let untold: u64 = legal.weights().iter().filter(few).map(Weight::stored_bytes).sum();
                assert!(
                    (legal.weight_bytes() - untold..=legal.weight_bytes()).contains(&told),
                    "{what}: {told}"
                );
                let (read, store) = backend.read(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
                match snapc_driver::inspect(&path).unwrap() {
                    Inspection::Package { part, .. } => {
                        assert_eq!(part.bytes, legal.weight_bytes(), "{what}")
                    }
                    other => panic!("{what}: {other:?}"),
                }
                let here = decoded(&legal, &Store::empty(), &|weight| weight.coded().is_some());
                let is_coded = |weight: &Weight| match &weight.source {
                    snapc_ir::Source::Tensor { name, .. } => store
                        .region(name)
                        .unwrap()
                        .coding
                        .as_ref()
                        .is_some_and(|coding| coding.code.bits() <= 8),
                    _ => false,
                };
                assert_eq!(decoded(&read, &store, &is_coded), here, "{what}");
                let (here, back) =
                    (interpret(&legal, &Store::empty(), &case), interpret(&read, &store, &case));
                snapc_tests::assert_close(&what, &back, &here, 1e-6);
            }
        }
    }
}

#[test]
fn onnx_read_back() {
    written_and_read_back(Target::Onnx, &[MinOs::default()]);
}

#[test]
fn tflite_read_back() {
    written_and_read_back(Target::TfLite, &[MinOs::default()]);
}

#[test]
fn coreml_read_back() {
    written_and_read_back(Target::CoreMl, &MinOs::ALL);
}

fn run_by(target: Target, min_os: MinOs, exact: bool, bound: f64) {
    let backend = target.backend(min_os);
    let folder = tempfile::tempdir().unwrap();
    let (mut jobs, mut expected) = (Vec::new(), Vec::new());
    // What is rounded in the graph is rounded by no runtime.
    let bound_of = |case: &Case| if case.rounded { F32 } else { bound };
    for (number, case) in cases().iter().filter(|case| holds(target, min_os, case)).enumerate() {
        for (kind, graph) in [("f32", case.graph.clone()), ("f16", half(&case.graph))] {
            // Other runtimes leave out a cast to f16 and back, so that a number may go to another code. Only Core ML is given such values.
            if case.rounded && kind == "f16" && target != Target::CoreMl {
                continue;
            }
            let legal = legalize(&graph, backend.as_ref()).unwrap();
            let own = folder.path().join(format!("{number}.{kind}"));
            std::fs::create_dir(&own).unwrap();
            let path = own.join(backend.artifact("case"));
            write(backend.as_ref(), &legal, &path);
            let inputs = own.join("inputs.safetensors");
            tensor_file(&inputs, &[("x", &case.x)]);
            jobs.push(runtimes::Job { artifact: path, inputs, outputs: own.join("outputs.safetensors") });
            let (name, here) = (format!("{} {kind}", case.name), interpret(&legal, &Store::empty(), case));
            expected.push((name, bound_of(case), here));
        }
    }
    let found = if exact { runtimes::run_in_f32(target, &jobs) } else { runtimes::run(target, &jobs) };
    for (found, (name, bound, expected)) in found.iter().zip(&expected) {
        let bound = if name.ends_with("f16") { bound.max(F16) } else { *bound };
        snapc_tests::assert_close(name, &found["y"], expected, bound);
    }
}

/// ONNX Runtime fuses DequantizeLinear and MatMul; by default it then rounds x to 8 bits, if it is not told to compute in f32.
#[test]
fn run_by_onnx_runtime() {
    run_by(Target::Onnx, MinOs::default(), true, F32);
    run_by(Target::Onnx, MinOs::default(), false, DYNAMIC);
}

/// XNNPACK rounds the rows of x to 8 bits where a FULLY_CONNECTED has codes.
#[test]
fn run_by_litert() {
    run_by(Target::TfLite, MinOs::default(), false, DYNAMIC);
}

/// coremltools loads every package, and its own decompression gives the weights.
#[test]
fn evaluated_by_coremltools() {
    for min_os in [MinOs::Ios16, MinOs::Ios18] {
        run_by(Target::CoreMl, min_os, false, F32);
    }
}

/// One product and no more: neither a cast of scales nor a dequantized weight is left.
#[test]
fn onnx_runtime_fuses_codes() {
    let encodings = [Encoding::int(8, None), Encoding::int(4, None), Encoding::int(4, Some(32))];
    for encoding in encodings {
        let case = case("fused", encoding, [&[3, 64], &[32, 64]], linear);
        let backend = Target::Onnx.backend(MinOs::default());
        let weights_in_half =
            PrecisionPass { precision: Precision::F16, weights_only: true }.run(&case.graph).unwrap();
        for graph in [&case.graph, &weights_in_half] {
            let legal = legalize(graph, backend.as_ref()).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("case");
            write(backend.as_ref(), &legal, &path);
            let expected = BTreeMap::from([("MatMulNBits".to_string(), 1)]);
            assert_eq!(runtimes::fused(&path), expected, "{}", case.name);
        }
    }
}

/// Bytes a weight of a linear of 1024 x 1024, all of the artifact counted.
#[test]
fn bytes_a_weight() {
    let table = [
        (Encoding::int(8, None), 1.03),
        (Encoding::int(4, None), 0.53),
        (Encoding::int(4, Some(32)), 0.58),
        (Encoding::palette(8, None), 1.03),
        (Encoding::palette(6, None), 0.78),
        (Encoding::palette(4, None), 0.53),
        (Encoding::palette(3, None), 0.41),
        (Encoding::palette(2, None), 0.28),
    ];
    for (encoding, most) in table {
        let case = case("large", encoding, [&[1, 1024], &[1024, 1024]], linear);
        for (target, min_os) in [
            (Target::Onnx, MinOs::Ios18),
            (Target::TfLite, MinOs::Ios18),
            (Target::CoreMl, MinOs::Ios17),
            (Target::CoreMl, MinOs::Ios18),
        ] {
            if !holds(target, min_os, &case) {
                continue;
            }
            let backend = target.backend(min_os);
            // In f32 Core ML's scales are f32.
            let graph = if target == Target::CoreMl { half(&case.graph) } else { case.graph.clone() };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(backend.artifact("case"));
            write(backend.as_ref(), &legalize(&graph, backend.as_ref()).unwrap(), &path);
            let bytes: usize = match path.is_dir() {
                true => snapc_tests::files(&path).values().map(Vec::len).sum(),
                false => std::fs::read(&path).unwrap().len(),
            };
            let found = bytes as f64 / f64::from(1 << 20);
            println!("{} {min_os} {encoding}: {found:.4}", target.name());
            assert!(found <= most, "{} {min_os} {encoding}: {found}", target.name());
        }
    }
}

/// The scripts that check artifacts find what is wrong with encoded ones too.
#[test]
fn scripts_find_damage() {
    for (target, min_os) in [
        (Target::Onnx, MinOs::Ios18),
        (Target::TfLite, MinOs::Ios18),
        (Target::CoreMl, MinOs::Ios16),
        (Target::CoreMl, MinOs::Ios18),
    ] {
        let backend = target.backend(min_os);
        let folder = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (number, encoding) in
            [Encoding::int(8, None), Encoding::int(4, Some(32)), Encoding::palette(6, None)]
                .iter()
                .enumerate()
        {
            let case = case("linear", *encoding, [&[5, 64], &[12, 64]], linear_with_bias);
            if holds(target, min_os, &case) {
                let own = folder.path().join(number.to_string());
                std::fs::create_dir(&own).unwrap();
                let path = own.join(backend.artifact("case"));
                write(backend.as_ref(), &legalize(&case.graph, backend.as_ref()).unwrap(), &path);
                paths.push(path);
            }
        }
        runtimes::self_test(target, &paths);
    }
}
