//! Several graphs as signatures of one file: what they share, and what they do not.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{Case, case, cases, inputs};
use snapc_backend::{Backend, LegalGraph, Part, legalize};
use snapc_interp::Interpreter;
use snapc_ir::Class;
use snapc_tflite::{ModelFile, ReadSignature, Signature, TfLite, read_signature, read_signatures};
use snapc_weights::{Limits, Store, Tensor};

/// A layer over so many rows. The store of `before` has the same name for other numbers.
fn layer(name: &str, rows: usize, before: bool) -> Case {
    let first = if before { "weight @a: f32[7] = tensor f32[7]" } else { "" };
    let (x, y) = if before { ("%0", "%0 = add %x, @a : f32[ROWS, 7]") } else { ("%x", "") };
    let body = format!(
        r#"
        input %x: f32[ROWS, 7]
        {first}
        weight @w: f32[60, 7] = tensor f32[60, 7]
        weight @b: f32[60] = tensor f32[60]
        {y}
        %1 = linear {x}, @w, @b : f32[ROWS, 60]
        %2 = reshape %1 {{"shape":[60, ROWS]}} : f32[60, ROWS]
        output y %2
        "#
    );
    case(name, &body.replace("ROWS", &rows.to_string()))
}

fn legal(case: &Case) -> LegalGraph {
    legalize(&case.graph, &TfLite).unwrap()
}

fn signature<'a>(key: &str, graph: &LegalGraph, store: &'a Store) -> Signature<'a> {
    Signature { key: key.to_string(), graph: graph.clone(), store }
}

fn write(signatures: &[Signature], path: &Path) -> u64 {
    let facts = [("snapc.part".to_string(), "layers".to_string())];
    let file = ModelFile::new(signatures.to_vec(), &facts).unwrap();
    let (bytes, mut told) = (file.weight_bytes(), 0);
    file.write(path, Limits::default(), &mut |bytes| told += bytes).unwrap();
    assert_eq!(told, bytes);
    std::fs::metadata(path).unwrap().len()
}

fn computes_the_same(case: &Case, read: &ReadSignature) {
    let inputs = inputs(&case.graph);
    let named: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let expected = Interpreter::new(&case.graph, &case.store).run(&named).unwrap();
    let found = Interpreter::new(&read.graph, &read.store).run(&named).unwrap();
    assert_eq!(found, expected, "{}", read.key);
}

#[test]
fn signatures_share_weights_and_parts_do_not() {
    let (small, other) = (layer("layer", 3, false), layer("other", 3, true));
    let graphs = [legal(&small), legal(&layer("layer", 5, false)), legal(&other)];
    let signatures = [
        signature("layer_3x7", &graphs[0], &small.store),
        signature("layer_5x7", &graphs[1], &small.store),
        signature("other", &graphs[2], &other.store),
    ];
    let folder = tempfile::tempdir().unwrap();
    let [path, again] = ["file.tflite", "again.tflite"].map(|name| folder.path().join(name));
    write(&signatures, &path);
    write(&signatures, &again);
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());

    let read = read_signatures(&path).unwrap();
    let keys: Vec<&str> = read.iter().map(|read| read.key.as_str()).collect();
    assert_eq!(keys, ["layer_3x7", "layer_5x7", "other"]);
    let offsets: Vec<u64> = read.iter().map(|read| read.store.region("w").unwrap().offset).collect();
    assert_eq!(offsets[0], offsets[1]);
    // Both parts have a tensor `w`: of the same sizes, with other numbers.
    assert_eq!(offsets[2], offsets[0] + 60 * 7 * 4);
    for (case, read) in [&small, &layer("layer", 5, false), &other].into_iter().zip(&read) {
        computes_the_same(case, read);
        let (graph, _) = read_signature(&path, &read.key).unwrap();
        assert_eq!(graph, read.graph);
        assert_eq!(graph.name(), case.name);
    }
}

/// Every case in one file is read back as from a file of its own.
#[test]
fn all_cases_are_one_file() {
    let cases = cases();
    let graphs: Vec<LegalGraph> = cases.iter().map(legal).collect();
    let pairs = || cases.iter().zip(&graphs);
    let all: Vec<Signature> =
        pairs().map(|(case, graph)| signature(&case.name, graph, &case.store)).collect();
    let folder = tempfile::tempdir().unwrap();
    let [path, alone] = ["file.tflite", "alone.tflite"].map(|name| folder.path().join(name));
    let length = write(&all, &path);
    let mut sum = 0;
    let found = read_signatures(&path).unwrap();
    assert_eq!(found.len(), cases.len());
    for ((case, graph), found) in pairs().zip(found) {
        TfLite.write(Part::new(graph.clone(), &case.store, &[]), &alone, &mut |_| {}).unwrap();
        sum += std::fs::metadata(&alone).unwrap().len();
        let (expected, store) = TfLite.read(&alone).unwrap();
        assert_eq!(found.graph, expected, "{}", case.name);
        for weight in expected.weights() {
            let values = store.read(weight).unwrap();
            assert_eq!(found.store.read(weight).unwrap(), values, "{}: {}", case.name, weight.name);
        }
    }
    assert!(length < sum);
}

/// What a graph has in the flatbuffer is there once for all that follow.
#[test]
fn small_constants_are_shared_too() {
    let case = layer("layer", 3, true);
    let graph = legal(&case);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.tflite");
    let keys: Vec<String> = (0..9).map(|number| format!("layer_{number}")).collect();
    let all: Vec<Signature> = keys.iter().map(|key| signature(key, &graph, &case.store)).collect();
    let lengths: Vec<u64> = (1..=9).map(|count| write(&all[..count], &path)).collect();
    let weights = ModelFile::new(all[..1].to_vec(), &[]).unwrap().weight_bytes();
    assert_eq!(ModelFile::new(all, &[]).unwrap().weight_bytes(), weights);
    // One more costs tables and no numbers: 240 bytes of a bias and 28 of another weight, in less than what it takes.
    let each = (lengths[8] - lengths[0]) / 8;
    let bytes = std::fs::read(&path).unwrap();
    let bias = case.store.tensor("b").unwrap();
    let bias: Vec<u8> = bias.values().iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(bytes.windows(bias.len()).filter(|window| *window == bias).count(), 1);
    assert!(each < 1200, "{each} bytes each");
}

#[test]
fn a_part_alone_is_a_file_of_one_signature() {
    let case = layer("layer", 3, false);
    let graph = legal(&case);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.tflite");
    write(&[signature("layer", &graph, &case.store)], &path);
    computes_the_same(&case, &read_signatures(&path).unwrap()[0]);
    let said = |error: snapc_ir::Error| {
        assert_eq!(error.class(), Class::Input);
        error.to_string()
    };
    let error = said(TfLite.read(&path).unwrap_err());
    assert!(error.contains("the signatures are layer, expected serving_default alone"), "{error}");
    let error = said(read_signature(&path, "other").unwrap_err());
    assert!(error.contains("the signatures are layer, expected other among them"), "{error}");
    write(&[signature("serving_default", &graph, &case.store)], &path);
    TfLite.read(&path).unwrap();
    read_signature(&path, "serving_default").unwrap();
}

#[test]
fn keys_are_those_of_their_graphs_and_differ() {
    let case = layer("layer", 3, false);
    let graph = legal(&case);
    for keys in [["layer", "layer"], ["layer", "serving_default"], ["layer", "layers"], ["", "layer"]] {
        let signatures = keys.map(|key| signature(key, &graph, &case.store));
        let error = ModelFile::new(signatures.to_vec(), &[]).err().unwrap();
        assert_eq!(error.class(), Class::Internal, "{keys:?}");
    }
}

/// Each graph alone keeps to the limit; the file would not.
#[test]
fn limits_are_those_of_the_whole_file() {
    let scope = "s".repeat(1 << 20);
    let body = format!(
        r"
        input %x: f32[4]
        scope {scope}
        %0 = relu %x : f32[4]
        %1 = relu %0 : f32[4]
        output y %1
        "
    );
    let case = case("layer", &body);
    let graph = legal(&case);
    let keys: Vec<String> = (0..1000).map(|number| format!("layer_{number}")).collect();
    let all: Vec<Signature> = keys.iter().map(|key| signature(key, &graph, &case.store)).collect();
    assert!(ModelFile::new(all[..1].to_vec(), &[]).is_ok());
    let error = ModelFile::new(all, &[]).err().unwrap();
    assert_eq!(error.class(), Class::Limit);
    assert!(error.to_string().contains("a flatbuffer has at most 2147483647"), "{error}");
    assert!(error.help_text().unwrap().contains("fewer sizes or parts"), "{error}");
}
