//! Each op: legal, written, read back, and the same as before.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{Case, case, cases, texts};
use snapc_backend::{Backend, LegalGraph, Part, legalize};
use snapc_ir::{Dim, Graph, Stage, Weight, map_weights, text};
use snapc_onnx::Onnx;

/// The graph with weights named by their number and without recipes.
fn normal(graph: &Graph) -> Graph {
    let mut number = 0;
    map_weights(graph, Stage::Legal("onnx".to_string()), |weight| {
        number += 1;
        let dims = weight.shape().into_iter().map(Dim::fixed).collect();
        let mut plain = Weight::tensor(&format!("w{number}"), weight.dtype, dims);
        plain.dtype = weight.dtype;
        Ok(plain)
    })
    .unwrap()
}

fn write(case: &Case, legal: &LegalGraph, folder: &Path) -> u64 {
    let facts = [("snapc.part".to_string(), case.name.clone())];
    let mut bytes = 0;
    let part = Part::new(legal.clone(), &case.store, &facts);
    Onnx::default()
        .write(part, folder, &mut |count| bytes += count)
        .unwrap_or_else(|error| panic!("{}: {error}", case.name));
    bytes
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn what_is_written_is_read_back() {
    for case in cases() {
        let legal =
            legalize(&case.graph, &Onnx::default()).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
        write(&case, &legal, &first);
        write(&case, &legal, &second);
        assert_eq!(files(&first), files(&second), "{}: two runs differ", case.name);

        let (read, store) =
            Onnx::default().read(&first).unwrap_or_else(|error| panic!("{}: {error}", case.name));
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
fn progress_is_told_all_bytes_that_are_written() {
    let (name, body) = texts().into_iter().find(|(name, _)| name == "large_f32").unwrap();
    let case = case(&name, &body);
    let legal = legalize(&case.graph, &Onnx::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(write(&case, &legal, &folder.path().join("part")), legal.weight_bytes());
}

#[test]
fn offsets_are_aligned_and_shared_bytes_are_written_once() {
    let case = case(
        "layout",
        r"
        input %x: f32[600, 600]
        weight @a: f32[600, 600] = tensor f32[600, 600] t
        weight @b: f32[600] = tensor f32[600]
        weight @c: f32[360000] = tensor f32[600, 600] t | reshape 360000
        weight @d: f32[600, 600] = tensor f32[600, 600] t | transpose 1 0
        %0 = add %x, @a : f32[600, 600]
        %1 = add %0, @b : f32[600, 600]
        %2 = add %1, @d : f32[600, 600]
        output y %2
        output same @c
    ",
    );
    let legal = legalize(&case.graph, &Onnx::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    write(&case, &legal, &folder.path().join("part"));
    let (_, store) = Onnx::default().read(&folder.path().join("part")).unwrap();
    let offset = |name| store.region(name).unwrap().offset;
    // a and c are the same bytes, d follows at 64 KiB, b, which is small, last and at a page.
    assert_eq!((offset("a"), offset("c"), offset("d")), (0, 0, 1_441_792));
    assert_eq!(offset("b"), 2_883_584);
    let length = std::fs::metadata(folder.path().join("part/model.onnx_data")).unwrap().len();
    assert_eq!(length, 2_883_584 + 2400);
}

#[test]
fn linears_take_weights_as_they_are_stored_and_codes_turned() {
    let shapes = |encoded: &str| -> Vec<Vec<usize>> {
        let body = format!(
            r"
            input %x: f32[2, 3, 64]
            weight @w: f32[32, 64] = tensor f32[32, 64] t{encoded}
            %y = linear %x, @w : f32[2, 3, 32]
            output y %y
            "
        );
        let legal = legalize(&case("linear", &body).graph, &Onnx::default()).unwrap();
        legal.weights().iter().map(snapc_ir::Weight::shape).collect()
    };
    assert_eq!(shapes(""), [[32, 64]]);
    assert_eq!(shapes(" | encode int8"), [[64, 32]]);
}

#[test]
fn a_linear_of_nothing_is_an_error() {
    let case = case(
        "nothing",
        r"
        input %x: f32[2, 3, 0]
        input %w: f32[5, 0]
        %y = linear %x, %w : f32[2, 3, 5]
        output y %y
    ",
    );
    assert!(legalize(&case.graph, &Onnx::default()).is_err());
}

#[test]
fn limits_name_their_place() {
    let same = case(
        "clash",
        r"
        input %x: f32[2]
        %y = relu %x : f32[2]
        output x %y
    ",
    );
    let error = legalize(&same.graph, &Onnx::default()).unwrap_err().to_string();
    assert!(error.contains("both named x"), "{error}");

    let empty = case(
        "empty",
        r"
        input %x: f32[2, 0]
        scope block.0
        %y = relu %x : f32[2, 0]
        output y %y
    ",
    );
    let error = legalize(&empty.graph, &Onnx::default()).unwrap_err().to_string();
    assert!(error.contains("empty") && error.contains("tensor x"), "{error}");
}
