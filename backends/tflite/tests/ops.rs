//! Each op: legal, written, read back, and the same as before.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{Case, case, cases, inputs, texts};
use snapc_backend::{Backend, LegalGraph, Part, legalize};
use snapc_interp::Interpreter;
use snapc_ir::{Class, Dim, Graph, Stage, Weight, map_weights, text};
use snapc_tflite::TfLite;
use snapc_weights::Tensor;

/// The graph with weights named by their number and without recipes.
fn normal(graph: &Graph) -> Graph {
    let mut number = 0;
    map_weights(graph, Stage::Legal("tflite".to_string()), |weight| {
        number += 1;
        let dims = weight.shape().into_iter().map(Dim::fixed).collect();
        let mut plain = Weight::tensor(&format!("w{number}"), weight.dtype, dims);
        plain.dtype = weight.dtype;
        Ok(plain)
    })
    .unwrap()
}

fn legal(case: &Case) -> LegalGraph {
    legalize(&case.graph, &TfLite).unwrap_or_else(|error| panic!("{}: {error}", case.name))
}

fn write(case: &Case, legal: &LegalGraph, path: &Path) -> u64 {
    let facts = [("snapc.part".to_string(), case.name.clone())];
    let mut bytes = 0;
    let part = Part::new(legal.clone(), &case.store, &facts);
    TfLite
        .write(part, path, &mut |count| bytes += count)
        .unwrap_or_else(|error| panic!("{}: {error}", case.name));
    bytes
}

fn named(name: &str) -> Case {
    let (name, body) = texts().into_iter().find(|(other, _)| other == name).unwrap();
    case(&name, &body)
}

fn run(case: &Case, graph: &Graph) -> Vec<Tensor> {
    let inputs = inputs(&case.graph);
    let named: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    Interpreter::new(graph, &case.store).run(&named).unwrap_or_else(|error| panic!("{}: {error}", case.name))
}

#[test]
fn what_is_written_is_read_back() {
    for case in cases() {
        let legal = legal(&case);
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
        write(&case, &legal, &first);
        write(&case, &legal, &second);
        let bytes = std::fs::read(&first).unwrap();
        assert_eq!(bytes, std::fs::read(&second).unwrap(), "{}: two runs differ", case.name);

        let (read, store) = TfLite.read(&first).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let (read_text, legal_text) = (text::print(&normal(&read)), text::print(&normal(&legal)));
        assert_eq!(read_text, legal_text, "{}", case.name);
        assert_eq!(normal(&read), normal(&legal), "{}", case.name);
        for (read, written) in read.weights().iter().zip(legal.weights()) {
            let (found, expected) = (store.read(read).unwrap(), case.store.read(written).unwrap());
            assert_eq!(found, expected, "{}: {}", case.name, written.name);
        }
    }
}

#[test]
fn what_is_legal_computes_the_same() {
    for case in cases() {
        // In f16 an op and its parts are rounded at different places.
        let bound = if case.name.ends_with("f16") { 1e-2 } else { 1e-5 };
        let found = run(&case, &legal(&case));
        for (found, expected) in found.iter().zip(run(&case, &case.graph)) {
            assert_eq!(found.ty, expected.ty, "{}", case.name);
            assert_eq!(found.integers(), expected.integers(), "{}", case.name);
            for (found, expected) in found.values().iter().zip(expected.values()) {
                let difference = (found - expected).abs();
                assert!(difference <= bound * (1.0 + expected.abs()), "{}: {found}, {expected}", case.name);
            }
        }
    }
}

#[test]
fn maps_are_turned_where_they_begin_and_where_they_end() {
    let turns = |name: &str| {
        let legal = legal(&named(name));
        legal.nodes().iter().filter(|node| node.op.name() == "transpose").count()
    };
    assert_eq!(turns("chain_of_maps_f32"), 2);
    assert_eq!(turns("turn_that_stays_f32"), 2);
    assert_eq!(turns("group_norm_f32"), 2);
    assert_eq!(turns("tokens_f32"), 2);
}

#[test]
fn progress_is_told_all_bytes_that_are_written() {
    let case = named("large_f32");
    let (legal, folder) = (legal(&case), tempfile::tempdir().unwrap());
    assert_eq!(write(&case, &legal, &folder.path().join("part")), legal.weight_bytes());
}

#[test]
fn offsets_are_aligned_and_shared_bytes_are_written_once() {
    let case = case(
        "layout",
        r"
        input %x: f32[601, 601]
        weight @a: f32[601, 601] = tensor f32[601, 601] t
        weight @b: f32[601] = tensor f32[601]
        weight @c: f32[361201] = tensor f32[601, 601] t | reshape 361201
        weight @d: f32[601, 601] = tensor f32[601, 601] t | transpose 1 0
        %0 = add %x, @a : f32[601, 601]
        %1 = add %0, @b : f32[601, 601]
        %2 = add %1, @d : f32[601, 601]
        output y %2
        output same @c
    ",
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part");
    write(&case, &legal(&case), &path);
    let (_, store) = TfLite.read(&path).unwrap();
    let offset = |name| store.region(name).unwrap().offset;
    // a and c are the same bytes; the others follow at the next multiple of 16.
    assert_eq!(offset("a"), offset("c"));
    assert_eq!(offset("a") % 16, 0);
    assert_eq!(offset("b") - offset("a"), (601 * 601 * 4u64).next_multiple_of(16));
    assert_eq!(offset("d") - offset("b"), (601 * 4u64).next_multiple_of(16));
    let length = std::fs::metadata(&path).unwrap().len();
    assert_eq!(length - offset("d"), 601 * 601 * 4 + 16);
}

#[test]
fn limits_name_their_place_and_what_to_do() {
    let fails = |body: &str, words: [&str; 2]| {
        let error = legalize(&case("limit", body).graph, &TfLite).unwrap_err();
        assert_eq!(error.class(), Class::Limit);
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
        assert!(error.help_text().is_some(), "{error}");
    };
    fails(
        r"
        input %x: f32[2, 0]
        scope block.0
        %y = relu %x : f32[2, 0]
        output y %y
    ",
        ["empty", "tensor x"],
    );
    fails(
        r#"
        input %x: f32[4]
        scope block.0
        %0 = reshape %x {"shape":[1,1,1,2,2]} : f32[1, 1, 1, 2, 2]
        %1 = relu %0 : f32[1, 1, 1, 2, 2]
        %2 = reshape %1 {"shape":[4]} : f32[4]
        output y %2
    "#,
        ["5 axes; a TFLite value has at most 4", "at block.0"],
    );
    fails(
        r"
        input %x: f32[65536, 32768]
        %y = relu %x : f32[65536, 32768]
        output y %y
    ",
        ["at most 2147483647", "tensor x"],
    );
}
