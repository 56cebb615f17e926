//! Ways to lower attention, each where it is chosen: they compute what the op does, in every target; and what comes of the paper's
//! networks is counted.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use snapc_backend::{LegalGraph, legalize_explained};
use snapc_driver::{Bake, Device, Form, MinOs, Part, Precision, ShowOptions, Target, Width, show};
use snapc_frontends::Pipeline;
use snapc_interp::Interpreter;
use snapc_ir::ops::{Attention, Gelu, GeluForm, Op, Pattern};
use snapc_ir::text::parse;
use snapc_ir::{Builder, DType, Def, Graph, Stage, TensorType, TokenOrder, Weight};
use snapc_tests::{assert_close, fixture, no_numbers, runtimes, tensor_file};
use snapc_weights::{Store, Tensor};

/// Relative error of f32 arithmetic along two orders of summation.
const F32: f64 = 2e-6;

struct Case {
    name: &'static str,
    /// Queries and heads, keys and their heads, batch.
    sizes: [usize; 5],
    pattern: Pattern,
    masked: bool,
    /// For each device what is said of the way that is chosen.
    ways: [(Device, &'static str); 3],
}

fn cases() -> Vec<Case> {
    let order = TokenOrder::new(&[8, 2]).unwrap();
    let near = |grid, tile, radius, order| Pattern::Neighborhood { grid, tile, radius, order };
    let local = [(Device::Cpu, "tile by tile"), (Device::Gpu, "regions"), (Device::Npu, "regions")];
    let large =
        [(Device::Cpu, "by key-value head"), (Device::Gpu, "512 queries"), (Device::Npu, "512 queries")];
    let middle = [(Device::Cpu, "by key-value head"), (Device::Gpu, "few"), (Device::Npu, "few")];
    let row_major = TokenOrder::default();
    vec![
        Case {
            name: "in_tiles",
            sizes: [1024, 4, 1024, 2, 1],
            pattern: near([32, 32], 8, 1, order),
            masked: false,
            ways: local,
        },
        Case {
            name: "row_by_row",
            sizes: [960, 2, 960, 2, 2],
            pattern: near([24, 40], 8, 2, row_major),
            masked: false,
            ways: local,
        },
        Case {
            name: "large",
            sizes: [1536, 8, 1024, 4, 1],
            pattern: Pattern::Dense,
            masked: false,
            ways: large,
        },
        Case {
            name: "large_uneven_masked",
            sizes: [1100, 8, 1000, 2, 2],
            pattern: Pattern::Dense,
            masked: true,
            ways: large,
        },
        Case {
            name: "middle",
            sizes: [1024, 4, 1024, 2, 1],
            pattern: Pattern::Dense,
            masked: false,
            ways: middle,
        },
    ]
}

const DIM: usize = 8;

impl Case {
    fn graph(&self) -> Graph {
        let [queries, heads, keys, groups, batch] = self.sizes;
        let mut b = Builder::new("case", Stage::Subnet);
        let float = |shape: &[usize]| TensorType::new(DType::F32, shape);
        let mut operands = vec![
            b.input("q", float(&[batch, queries, heads, DIM])),
            b.input("k", float(&[batch, keys, groups, DIM])),
            b.input("v", float(&[batch, keys, groups, DIM])),
        ];
        if self.masked {
            operands.push(b.input("mask", float(&[batch, keys])));
        }
        b.set_scope("case");
        let y = b.one(Attention { pattern: self.pattern, scale: 0.3 }, &operands).unwrap();
        b.output("y", y);
        b.finish().unwrap()
    }

    fn inputs(&self) -> Vec<(&'static str, Tensor)> {
        let [queries, heads, keys, groups, batch] = self.sizes;
        let mut inputs = vec![
            ("q", numbers(1, &[batch, queries, heads, DIM])),
            ("k", numbers(2, &[batch, keys, groups, DIM])),
            ("v", numbers(3, &[batch, keys, groups, DIM])),
        ];
        if self.masked {
            let mask = numbers(4, &[batch, keys]);
            let bits = mask.values().iter().map(|&x| if x > -1.0 { 1.0 } else { 0.0 }).collect();
            inputs.push(("mask", Tensor::f32([batch, keys], bits)));
        }
        inputs
    }
}

fn numbers(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values = (0..shape.iter().product::<usize>()).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 * 4.0 - 2.0
    });
    Tensor::f32(shape.to_vec(), values.collect())
}

fn interpret(graph: &Graph, inputs: &[(&str, Tensor)]) -> Tensor {
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    Interpreter::new(graph, &Store::empty()).run(&inputs).unwrap().remove(0)
}

#[test]
fn every_way_computes_what_attention_does() {
    let folder = tempfile::tempdir().unwrap();
    for target in Target::ALL {
        let backend = target.backend(MinOs::default());
        let (mut jobs, mut expected) = (Vec::new(), Vec::new());
        for case in cases() {
            let (graph, inputs) = (case.graph(), case.inputs());
            let right = interpret(&graph, &inputs);
            for (device, words) in case.ways {
                let what = format!("{} {} {device}", case.name, target.name());
                let (legal, why) = legalize_explained(&graph, backend.as_ref(), device).unwrap();
                assert!(why.iter().any(|found| found.reason.contains(words)), "{what}: {why:?}");
                assert!(legal.values().iter().all(|value| value.ty.rank() <= 4), "{what}");
                assert_close(&what, &interpret(&legal, &inputs), &right, F32);
                let own = folder.path().join(what.replace(' ', "_"));
                std::fs::create_dir(&own).unwrap();
                let job = runtimes::Job {
                    artifact: own.join(backend.artifact("case")),
                    inputs: own.join("inputs.safetensors"),
                    outputs: own.join("outputs.safetensors"),
                };
                write(target, &legal, &job.artifact);
                let borrowed: Vec<(&str, &Tensor)> =
                    inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
                tensor_file(&job.inputs, &borrowed);
                let (read, _) = backend.read(&job.artifact).unwrap();
                assert_close(&what, &interpret(&read, &inputs), &right, F32);
                // coremltools evaluates op by op in Python: one way of each kind is enough.
                if target != Target::CoreMl || device == Device::Npu {
                    jobs.push(job);
                    expected.push((what, right.clone()));
                }
            }
        }
        for (found, (what, right)) in runtimes::run(target, &jobs).into_iter().zip(&expected) {
            assert_close(what, &found["y"], right, F32);
        }
    }
}

/// A hidden layer of more than 4 M numbers: on a CPU in parts of its hidden axis, elsewhere as it is.
#[test]
fn a_wide_feed_forward_in_parts() {
    let (tokens, width, hidden) = (1100, 6, 4000);
    let mut b = Builder::new("case", Stage::Subnet);
    let x = b.input("x", TensorType::new(DType::F32, [1, tokens, width]));
    let mut weight = |name: &str, seed, shape: &[usize]| {
        let values = numbers(seed, shape).values().to_vec();
        b.weight(Weight::inline(name, values, shape.to_vec())).unwrap()
    };
    let up = [weight("0.weight", 1, &[hidden, width]), weight("0.bias", 2, &[hidden])];
    let down = [weight("2.weight", 3, &[width, hidden]), weight("2.bias", 4, &[width])];
    b.set_scope("ffn");
    let y = b.linear(x, up[0], Some(up[1])).unwrap();
    let y = b.one(Gelu { form: GeluForm::Tanh }, &[y]).unwrap();
    let y = b.linear(y, down[0], Some(down[1])).unwrap();
    b.output("y", y);
    let graph = b.finish().unwrap();
    let inputs = [("x", numbers(5, &[1, tokens, width]))];
    let right = interpret(&graph, &inputs);
    let folder = tempfile::tempdir().unwrap();
    for target in Target::ALL {
        let backend = target.backend(MinOs::default());
        for device in Device::ALL {
            let (legal, why) = legalize_explained(&graph, backend.as_ref(), device).unwrap();
            let in_parts = why.iter().any(|found| found.reason.contains("in parts of its hidden axis"));
            assert_eq!(in_parts, device == Device::Cpu);
            let widest = legal.nodes().iter().map(|node| legal.ty(node.results[0]).count()).max().unwrap();
            assert_eq!(widest <= 1 << 22, in_parts);
            assert_close("legal", &interpret(&legal, &inputs), &right, F32);
            let own = folder.path().join(format!("{}_{device}", target.name()));
            std::fs::create_dir(&own).unwrap();
            let job = runtimes::Job {
                artifact: own.join(backend.artifact("case")),
                inputs: own.join("inputs.safetensors"),
                outputs: own.join("outputs.safetensors"),
            };
            write(target, &legal, &job.artifact);
            tensor_file(&job.inputs, &[("x", &inputs[0].1)]);
            assert_close(target.name(), &runtimes::run(target, &[job])[0]["y"], &right, F32);
        }
    }
}

fn write(target: Target, graph: &LegalGraph, path: &Path) {
    let store = Store::empty();
    let part = snapc_backend::Part::new(graph.clone(), &store, &[]);
    target.backend(MinOs::default()).write(part, path, &mut |_| {}).unwrap();
}

/// The paper's pipeline, its weights zeros that take no disk.
fn paper() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    snapc_tests::synthetic::paper(folder.path());
    folder
}

fn legal(pipeline: &Path, target: Target, device: Option<Device>, bake: Bake) -> Graph {
    let options = ShowOptions {
        pipeline: pipeline.to_path_buf(),
        part: Part::Transformer,
        width: Some(Width::Subnet("small".to_string())),
        after: "legalize".to_string(),
        target,
        bake: Some(bake),
        steps: None,
        guidance: None,
        precision: Precision::F16,
        device,
        min_os: MinOs::default(),
        size: None,
        quantize: None,
        form: Form::Sir,
    };
    parse(&show(&options).unwrap()).unwrap()
}

/// Nodes of a block, by its path.
fn ops_of(graph: &Graph, block: &str) -> usize {
    let inside = |scope: &str| scope == block || scope.starts_with(&format!("{block}."));
    graph.nodes().iter().filter(|node| inside(&node.scope)).count()
}

/// Ops per kind of block, for each target and device, of the paper's `small` at 64 x 64 tokens. The whole denoiser for a neural engine
/// has at most 4000.
#[test]
fn ops_of_the_paper_by_block() {
    let pipeline = paper();
    let mut table = String::from("target device bake: down.1 mid.1 up.1 all\n");
    for target in Target::ALL {
        for device in Device::ALL {
            for bake in [Bake::None, Bake::Step] {
                let graph = legal(pipeline.path(), target, Some(device), bake);
                assert!(graph.values().iter().all(|value| value.ty.rank() <= 4));
                let of = ["down.1", "mid.1", "up.1"].map(|block| ops_of(&graph, block));
                let all = graph.nodes().len();
                writeln!(
                    table,
                    "{} {device} {}: {} {} {} {all}",
                    target.name(),
                    bake.name(),
                    of[0],
                    of[1],
                    of[2]
                )
                .unwrap();
                if (target, device) == (Target::CoreMl, Device::Npu) {
                    assert!(all <= 4000, "{all} ops");
                }
            }
        }
    }
    insta::assert_snapshot!("ops_of_the_paper", table);
}

/// Of the 4096 x 4096 scores of a head ASSA computes at most 40 in 100, and no product of an attention has all of a layer's at once.
#[test]
fn scores_of_the_paper() {
    let pipeline = paper();
    let dense = |tokens: u64| 16 * tokens * tokens;
    for target in Target::ALL {
        for device in Device::ALL {
            let graph = legal(pipeline.path(), target, Some(device), Bake::None);
            for (layer, tokens, most) in [
                ("down.0.self_attn", 4096, 0.4),
                ("up.4.self_attn", 4096, 0.4),
                ("mid.3.self_attn", 1024, 1.0),
            ] {
                let of_softmax = |node: &&snapc_ir::Node| {
                    matches!(node.op, Op::Softmax(_)) && node.scope.starts_with(layer)
                };
                let scores: Vec<u64> = graph
                    .nodes()
                    .iter()
                    .filter(of_softmax)
                    .map(|node| graph.ty(node.results[0]).count() as u64)
                    .collect();
                let (all, largest) = (scores.iter().sum::<u64>(), scores.iter().max().copied().unwrap());
                let share = all as f64 / dense(tokens) as f64;
                assert!(share <= most, "{} {device} {layer}: {share}", target.name());
                // Both halves of ASSA, and the Middle stage, in pieces.
                assert!(largest * 2 <= all, "{} {device} {layer}: {largest} of {all}", target.name());
            }
        }
    }
}

/// No node has only constants to work on: what could be computed beforehand would be.
#[test]
fn nothing_constant_is_left_to_compute() {
    let pipeline = paper();
    for target in Target::ALL {
        for bake in [Bake::None, Bake::Step] {
            let graph = legal(pipeline.path(), target, None, bake);
            for node in graph.nodes().iter().filter(|node| !matches!(node.op, Op::Cast(_))) {
                let constant = node.operands.iter().all(|&x| graph.as_weight(x).is_some());
                assert!(!constant, "{} {}: {}", target.name(), node.scope, node.op.name());
            }
        }
    }
}

/// What ONNX Runtime makes of the patterns that are written for it, counted in the graph that it runs.
#[test]
fn onnx_runtime_fuses_what_is_written_for_it() {
    let pipeline = Pipeline::open(&fixture("shapes")).unwrap();
    let imported = pipeline.import(Part::Transformer, 1, [16, 16]).unwrap();
    let backend = Target::Onnx.backend(MinOs::default());
    let options = snapc_passes::Standard {
        widths: (128, 64),
        baking: None,
        precision: Precision::F32,
        weights_only: true,
        quantize: None,
    };
    let passes = snapc_passes::standard(&options, imported.graph.stage(), &no_numbers);
    let graph = snapc_passes::run(&imported.graph, &passes, None).unwrap();
    let (legal, _) = legalize_explained(&graph, backend.as_ref(), Device::Cpu).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("transformer");
    let part = snapc_backend::Part::new(legal.clone(), &imported.store, &[]);
    backend.write(part, &path, &mut |_| {}).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/onnx_check.py");
    let done = Command::new(runtimes::python()).arg(script).arg("--fused").arg(&path).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let line: Value = serde_json::from_slice(&done.stdout).unwrap();
    let fused: BTreeMap<String, u64> = serde_json::from_value(line["fused"].clone()).unwrap();
    let count = |name: &str| fused.get(name).copied().unwrap_or(0);
    let written = |is: fn(&Op) -> bool| legal.nodes().iter().filter(|node| is(&node.op)).count() as u64;
    assert_eq!(count("SimplifiedLayerNormalization"), written(|op| matches!(op, Op::RmsNorm(_))));
    assert_eq!(count("Gelu"), written(|op| matches!(op, Op::Gelu(_))));
    // Three sigmoids belong to a silu; the others are gates.
    assert_eq!(count("QuickGelu"), 3);
    // A product whose second operand is swapped for it alone takes it as it is.
    let swapped = |op: &Op| match op {
        Op::Transpose(op) => op.perm.ends_with(&[op.perm.len() - 1, op.perm.len() - 2]),
        _ => false,
    };
    let takes_swapped = legal.nodes().iter().filter(|node| matches!(node.op, Op::Matmul(_)));
    let takes_swapped = takes_swapped.filter(|node| match legal.value(node.operands[1]).def {
        Def::Result(id, _) => swapped(&legal.node(id).op),
        _ => false,
    });
    let expected = takes_swapped.count() as u64;
    // Its optimizer splits some moves of four axes and so finds a few more.
    assert!(expected > 0 && count("FusedMatMul") >= expected, "{expected}: {fused:?}");
    for left in ["Pow", "ReduceMean", "Sqrt", "Div"] {
        assert_eq!(count(left), 0, "{left}: {fused:?}");
    }
}
