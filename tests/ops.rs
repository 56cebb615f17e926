//! Every op along five roads: interpreted, expanded to the ground, made legal, written and read back, and run by software that
//! is not ours. Plain loops in f64 say what is right.
#![allow(clippy::unwrap_used, clippy::panic, clippy::type_complexity)]

mod cases;

use std::collections::BTreeSet;

use cases::{Case, all};
use snapc_backend::{Backend, Part, legalize};
use snapc_driver::{MinOs, Target};
use snapc_interp::Interpreter;
use snapc_ir::ops::Op;
use snapc_ir::{Builder, Class, Graph, Stage, TensorType, rewrite};
use snapc_passes::{Pass, Precision, PrecisionPass};
use snapc_tests::{runtimes, tensor_file};
use snapc_weights::{Store, Tensor};

/// Relative error of f32 arithmetic on a few numbers.
const F32: f64 = 2e-6;
/// Of f16 arithmetic on a few numbers: half a unit in the last place is 2^-11, and some cases chain a dozen roundings.
const F16: f64 = 6e-3;

fn interpret(graph: &Graph, store: &Store, case: &Case) -> Vec<Tensor> {
    let inputs: Vec<(&str, &Tensor)> = case.inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    Interpreter::new(graph, store).run(&inputs).unwrap_or_else(|error| panic!("{}: {error}", case.name))
}

fn check(what: &str, case: &Case, found: &[Tensor], bound: f64) {
    assert_eq!(found.len(), case.expected.len(), "{what} {}", case.name);
    for (found, expected) in found.iter().zip(&case.expected) {
        let expected: Vec<f32> = expected.iter().map(|&value| value as f32).collect();
        let error = snapc_tests::relative_error(found.values(), &expected);
        assert!(error <= bound, "{what} {}: relative error {error:e}", case.name);
    }
}

/// Replaces every op that has an expansion, until none has.
fn expand(graph: &Graph) -> Graph {
    let stage = Stage::Legal("ground".to_string());
    let mut current = graph.clone();
    loop {
        let mut changed = false;
        current = rewrite(&current, stage.clone(), Ok, |b, node| {
            let expanded = node.op().expand(b, &node.operands)?;
            changed |= expanded.is_some();
            Ok(expanded)
        })
        .unwrap();
        if !changed {
            return current;
        }
    }
}

fn half(graph: &Graph) -> Graph {
    PrecisionPass { precision: Precision::F16, weights_only: false }.run(graph).unwrap()
}

#[test]
fn every_op_has_cases() {
    let covered: BTreeSet<&str> = all().iter().map(|case| case.op).collect();
    let known: BTreeSet<&str> = Op::NAMES.iter().copied().collect();
    assert_eq!(covered, known);
    for case in all() {
        assert!(case.graph.nodes().iter().any(|node| node.op.name() == case.op), "{}", case.name);
    }
}

#[test]
fn interpreted() {
    for case in all() {
        check("interpreted", &case, &interpret(&case.graph, &Store::empty(), &case), F32);
    }
}

#[test]
fn interpreted_in_f16() {
    for case in all() {
        check("in f16", &case, &interpret(&half(&case.graph), &Store::empty(), &case), F16);
    }
}

#[test]
fn expanded_to_the_ground() {
    for case in all() {
        let ground = expand(&case.graph);
        assert!(
            ground.values().iter().all(|value| value.ty.rank() <= 4),
            "{}: an expansion passes rank 4",
            case.name
        );
        check("expanded", &case, &interpret(&ground, &Store::empty(), &case), F32);
        check("expanded in f16", &case, &interpret(&expand(&half(&case.graph)), &Store::empty(), &case), F16);
    }
}

#[test]
fn legal_and_read_back() {
    for target in Target::ALL {
        for min_os in MinOs::ALL {
            let backend = target.backend(min_os);
            for case in all() {
                if case.op == "fake_quantize" && (target, min_os) == (Target::CoreMl, MinOs::Ios16) {
                    let refused = legalize(&case.graph, backend.as_ref()).unwrap_err();
                    assert!(refused.message().contains("from iOS 17 on"), "{refused}");
                    continue;
                }
                for (graph, bound) in [(case.graph.clone(), F32), (half(&case.graph), F16)] {
                    let legal = legalize(&graph, backend.as_ref())
                        .unwrap_or_else(|error| panic!("{}: {error}", case.name));
                    let here = interpret(&legal, &Store::empty(), &case);
                    check("legal", &case, &here, bound);
                    let folder = tempfile::tempdir().unwrap();
                    let path = folder.path().join(backend.artifact("case"));
                    write(backend.as_ref(), &legal, &path);
                    let (read, store) =
                        backend.read(&path).unwrap_or_else(|error| panic!("{}: {error}", case.name));
                    for (here, back) in here.iter().zip(interpret(&read, &store, &case)) {
                        snapc_tests::assert_close(&case.name, &back, here, 1e-6);
                    }
                }
            }
            if target != Target::CoreMl {
                break;
            }
        }
    }
}

fn write(backend: &dyn Backend, legal: &snapc_backend::LegalGraph, path: &std::path::Path) {
    let store = Store::empty();
    let part = Part::new(legal.clone(), &store, &[]);
    backend.write(part, path, &mut |_| {}).unwrap();
}

/// Each target's own software on each case, in f32 and in f16.
#[test]
fn run_by_other_software() {
    for target in Target::ALL {
        let backend = target.backend(MinOs::default());
        let folder = tempfile::tempdir().unwrap();
        let mut jobs = Vec::new();
        let mut expected = Vec::new();
        for case in all() {
            for (kind, graph) in [("f32", case.graph.clone()), ("f16", half(&case.graph))] {
                let legal = legalize(&graph, backend.as_ref()).unwrap();
                let own = folder.path().join(format!("{}.{kind}", case.name));
                std::fs::create_dir(&own).unwrap();
                let path = own.join(backend.artifact("case"));
                write(backend.as_ref(), &legal, &path);
                let inputs = own.join("inputs.safetensors");
                tensor_file(
                    &inputs,
                    &case.inputs.iter().map(|(name, tensor)| (*name, tensor)).collect::<Vec<_>>(),
                );
                jobs.push(runtimes::Job { artifact: path, inputs, outputs: own.join("outputs.safetensors") });
                expected.push(interpret(&legal, &Store::empty(), &case));
            }
        }
        for (found, (job, expected)) in
            runtimes::run(target, &jobs).into_iter().zip(jobs.iter().zip(expected))
        {
            let in_half = job.inputs.parent().unwrap().to_string_lossy().ends_with("f16");
            for (number, expected) in expected.iter().enumerate() {
                let name = job.inputs.display().to_string();
                let found =
                    found.get(&format!("out{number}")).unwrap_or_else(|| panic!("{name}: no out{number}"));
                assert_eq!(found.ty.shape, expected.ty.shape, "{name}");
                snapc_tests::assert_close(&name, found, expected, if in_half { F16 } else { F32 });
            }
        }
    }
}

/// What no target can take is refused before a byte is written, and the error names the node.
#[test]
fn refused_with_the_nodes_path() {
    for target in Target::ALL {
        let backend = target.backend(MinOs::default());
        let mut b = Builder::new("case", Stage::Subnet);
        let x = b.input("x", TensorType::new(snapc_ir::DType::F32, [2]));
        b.set_scope("down.0.some_place");
        let deep = b.reshape(x, [1, 1, 1, 1, 1, 2]).unwrap();
        let bent = b.sigmoid(deep).unwrap();
        let y = b.reshape(bent, [2]).unwrap();
        b.output("y", y);
        let graph = b.finish().unwrap();
        match legalize(&graph, backend.as_ref()) {
            Ok(_) => assert_ne!(target, Target::CoreMl, "Core ML ends at rank 5"),
            Err(error) => {
                assert_eq!(error.class(), Class::Limit);
                assert!(error.to_string().contains("down.0.some_place"), "{error}");
                assert!(error.help_text().is_some(), "{error}");
            }
        }
    }
}
