//! Damaged files: an error that says what is wrong, never a panic.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use common::{Case, case, cases, inputs, texts};
use snapc_backend::{Backend, LegalGraph, Part, legalize};
use snapc_tflite::{ModelFile, Signature, TfLite, read_signature, read_signatures};
use snapc_weights::Limits;

struct Written {
    _folder: tempfile::TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
}

fn written(case: &Case) -> Written {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part.tflite");
    let legal = legalize(&case.graph, &TfLite).unwrap();
    let facts =
        [("snapc.version".to_string(), "1".to_string()), ("snapc.width".to_string(), "64".to_string())];
    let part = Part::new(legal, &case.store, &facts);
    TfLite.write(part, &path, &mut |_| {}).unwrap();
    assert!(!inputs(&case.graph).is_empty());
    let bytes = std::fs::read(&path).unwrap();
    Written { _folder: folder, path, bytes }
}

/// Two graphs in one file, the first of them twice.
fn several() -> Written {
    let first = r"
        input %x: f32[2, 20]
        weight @w: f32[30, 20] = tensor f32[30, 20]
        weight @v: f32[20, 30] = tensor f32[20, 30]
        %0 = linear %x, @w : f32[2, 30]
        %1 = linear %0, @v : f32[2, 20]
        output y %1
    ";
    let second = r"
        input %x: f32[3, 9]
        %0 = softmax %x : f32[3, 9]
        output y %0
    ";
    let (first, second) = (case("layers", first), case("softmax", second));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part.tflite");
    let graphs = [&first, &second].map(|case| legalize(&case.graph, &TfLite).unwrap());
    let signature = |key: &str, graph: &LegalGraph, store| Signature {
        key: key.to_string(),
        graph: graph.clone(),
        store,
    };
    let signatures = vec![
        signature("layers_1", &graphs[0], &first.store),
        signature("layers_2", &graphs[0], &first.store),
        signature("softmax", &graphs[1], &second.store),
    ];
    let facts = [("snapc.version".to_string(), "1".to_string())];
    ModelFile::new(signatures, &facts).unwrap().write(&path, Limits::default(), &mut |_| {}).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    Written { _folder: folder, path, bytes }
}

fn named(name: &str) -> Written {
    let (_, body) = texts().into_iter().find(|(other, _)| other == name).unwrap();
    written(&case(name, &body))
}

fn read_error(path: &Path, bytes: &[u8]) -> String {
    std::fs::write(path, bytes).unwrap();
    match TfLite.read(path) {
        Ok(_) => "no error".to_string(),
        Err(error) => error.to_string(),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Where a table's list of fields has the entry of a field.
fn entry(bytes: &[u8], table: usize, slot: usize) -> usize {
    (table as i64 - i64::from(u32_at(bytes, table) as i32)) as usize + 4 + 2 * slot
}

/// A field, and where it holds a vector, the entry of that number.
type Step = (usize, Option<usize>);

/// Follows fields from the root on. Gives the last table, and where the last step ends in the file.
fn find(bytes: &[u8], path: &[Step]) -> (usize, usize) {
    let mut table = u32_at(bytes, 0);
    let mut at = 0;
    for (number, &(slot, index)) in path.iter().enumerate() {
        if number > 0 {
            table = at + u32_at(bytes, at);
        }
        let place = entry(bytes, table, slot);
        let place = u16::from_le_bytes(bytes[place..place + 2].try_into().unwrap());
        assert_ne!(place, 0, "field {slot} is not given");
        at = table + usize::from(place);
        if let Some(index) = index {
            at += u32_at(bytes, at) + 4 + 4 * index;
        }
    }
    (table, at)
}

// Fields of Model, and of the tables below it.
const CODE: Step = (1, Some(0));
const SUBGRAPH: Step = (2, Some(0));
const SIGNATURE: Step = (7, Some(0));
const fn tensor(index: usize) -> Step {
    (0, Some(index))
}
const fn operator(index: usize) -> Step {
    (3, Some(index))
}
const fn buffer(index: usize) -> Step {
    (4, Some(index))
}
const OPTIONS: Step = (4, None);
const QUANTIZATION: Step = (4, None);
const DETAILS: Step = (5, None);
const fn field(slot: usize) -> Step {
    (slot, None)
}

/// Case, where, the bytes that stand there then, words of the error.
type Fault = (&'static str, &'static [Step], &'static [u8], &'static str);

const FAULTS: &[Fault] = &[
    ("gelu_tanh_f32", &[field(0)], &[4], "the schema's version is 4, expected 3"),
    ("gelu_tanh_f32", &[CODE, field(3)], &[151], "no operator of code 151"),
    ("gelu_tanh_f32", &[CODE, field(2)], &[7], "GELU of version 7"),
    ("gelu_tanh_f32", &[CODE, field(0)], &[3], "the codes 3 and 150"),
    ("gelu_tanh_f32", &[SUBGRAPH, operator(0), field(0)], &[1], "no operator code 1"),
    ("gelu_tanh_f32", &[SUBGRAPH, operator(0), (1, Some(0))], &[9], "no tensor 9"),
    ("gelu_tanh_f32", &[SUBGRAPH, operator(0), (1, Some(0))], &[1], "is not made before"),
    ("gelu_tanh_f32", &[SUBGRAPH, operator(0), (2, Some(0))], &[0], "made twice"),
    ("gelu_tanh_f32", &[SUBGRAPH, operator(0), field(3)], &[3], "options of type 3"),
    ("gelu_tanh_f32", &[SUBGRAPH, operator(0), OPTIONS, field(0)], &[2], "GELU has 2 where 0 or 1 stands"),
    ("gelu_tanh_f32", &[SUBGRAPH, tensor(0), field(1)], &[3], "numbers of type 3"),
    ("gelu_tanh_f32", &[SUBGRAPH, tensor(0), field(1)], &[9], "x has codes, but no scales"),
    ("gelu_tanh_f32", &[SUBGRAPH, tensor(0), field(2)], &[200], "has no buffer"),
    ("gelu_tanh_f32", &[SUBGRAPH, tensor(0), field(2)], &[1], "x has numbers of its own"),
    ("gelu_tanh_f32", &[SUBGRAPH, tensor(0), field(8)], &[0], "no fixed number of axes"),
    ("gelu_tanh_f32", &[SUBGRAPH, tensor(1), (0, Some(0))], &[3], "declared as f32[3, 9]"),
    ("gelu_tanh_f32", &[SUBGRAPH, tensor(0), (0, Some(0))], &[0], "is empty"),
    ("gelu_tanh_f32", &[SUBGRAPH, tensor(0), (0, Some(0))], &[0, 0, 0, 0x70], "too large"),
    ("gelu_tanh_f32", &[SUBGRAPH, tensor(0), (0, Some(0))], &[0, 0, 0, 0x80], "is no size"),
    ("gelu_tanh_f32", &[SUBGRAPH, (1, Some(0))], &[1], "names other tensors"),
    ("gelu_tanh_f32", &[SIGNATURE, (0, Some(0)), field(1)], &[1], "names other tensors"),
    ("gelu_tanh_f32", &[SIGNATURE, field(4)], &[1], "the signature is serving_default"),
    ("gelu_tanh_f32", &[SIGNATURE, field(2)], &[0xff, 0xff, 0xff], "behind the flatbuffer"),
    ("gelu_tanh_f32", &[(6, Some(1)), field(1)], &[1], "nothing uses buffer 2"),
    ("gelu_tanh_f32", &[(6, Some(1)), field(1)], &[0], "does not stand in the flatbuffer"),
    ("linear_bias_f32", &[SUBGRAPH, operator(0), OPTIONS, field(2)], &[0], "drops axes"),
    ("linear_bias_f32", &[SUBGRAPH, operator(0), (1, Some(2))], &[0xff, 0xff, 0xff, 0xff], "nothing uses b"),
    ("softmax_f32", &[SUBGRAPH, operator(0), OPTIONS, field(0)], &[0, 0, 0, 0x40], "a beta of 2"),
    ("reshape_f32", &[SUBGRAPH, operator(0), OPTIONS, (0, Some(0))], &[3], "RESHAPE says [4, 6] and [3, 6]"),
    ("reduce_mean_f32", &[SUBGRAPH, operator(0), OPTIONS, field(0)], &[0], "MEAN drops its axis"),
    ("concat_f32", &[SUBGRAPH, operator(0), OPTIONS, field(0)], &[9], "no axis 9 of 2"),
    ("split_f32", &[SUBGRAPH, operator(0), OPTIONS, field(0)], &[2], "3 results, expected 2"),
    ("conv2d_pad_f32", &[SUBGRAPH, operator(2), OPTIONS, field(0)], &[5], "the padding 5"),
    ("conv2d_pad_f32", &[SUBGRAPH, operator(2), OPTIONS, field(0)], &[0], "the padding 0"),
    ("conv2d_pad_f32", &[SUBGRAPH, operator(2), OPTIONS, field(2)], &[3], "the strides 3 and 2"),
    ("conv2d_groups_f32", &[(1, Some(1)), field(2)], &[1], "of version 1, expected 6"),
    ("large_f32", &[buffer(2), field(1)], &[9], "starts at byte"),
    ("large_f32", &[buffer(2), field(1)], &[0, 0, 0, 0, 0, 0, 0, 0x7f], "nothing names the bytes"),
    ("large_f32", &[buffer(2), field(2)], &[4], "b has 3588 bytes, f32[900] takes 3600"),
    ("large_f32", &[buffer(1), field(2)], &[0xff, 0xff, 0xff], "share some of their bytes"),
    ("large_f32", &[buffer(1), field(2)], &[0, 0, 0], "a buffer has the offset"),
    ("large_f32", &[SUBGRAPH, tensor(1), (0, Some(0))], &[5], "w has 2160000 bytes"),
    ("encoded_rows", &[SUBGRAPH, tensor(1), field(1)], &[17], "w has 768 bytes"),
    ("encoded_rows", &[SUBGRAPH, tensor(1), field(1)], &[0], "w has scales, but no codes"),
    ("encoded_rows", &[SUBGRAPH, tensor(1), QUANTIZATION, field(6)], &[1], "scales along a later axis"),
    ("encoded_rows", &[SUBGRAPH, tensor(1), QUANTIZATION, (3, Some(0))], &[1], "w has a zero point"),
    (
        "encoded_rows",
        &[SUBGRAPH, tensor(1), QUANTIZATION, (2, Some(0))],
        &[0, 0, 0x80, 0x7f],
        "no finite number",
    ),
    ("encoded_rows", &[CODE, field(2)], &[10], "FULLY_CONNECTED is of version 10, expected 12"),
    ("encoded_rows", &[CODE, field(2)], &[11], "FULLY_CONNECTED of version 11"),
    ("encoded_blocks", &[SUBGRAPH, tensor(2), QUANTIZATION, field(4)], &[1], "details of type 1"),
    ("encoded_blocks", &[SUBGRAPH, tensor(2), QUANTIZATION, DETAILS, field(0)], &[9], "no tensor 9"),
    (
        "encoded_blocks",
        &[SUBGRAPH, tensor(2), QUANTIZATION, DETAILS, field(0)],
        &[0],
        "nothing uses w.scales",
    ),
    ("encoded_blocks", &[SUBGRAPH, tensor(2), QUANTIZATION, DETAILS, field(1)], &[0], "w has zero points"),
    (
        "encoded_blocks",
        &[SUBGRAPH, tensor(2), QUANTIZATION, DETAILS, field(2)],
        &[64],
        "are not the scales of w",
    ),
    ("encoded_blocks", &[SUBGRAPH, tensor(2), QUANTIZATION, DETAILS, field(2)], &[33], "blocks of 33"),
    ("encoded_map", &[(1, Some(0)), field(2)], &[3], "is not for these codes"),
];

#[test]
fn what_is_not_as_it_must_be_is_named() {
    for &(name, path, new, words) in FAULTS {
        let written = named(name);
        let (_, at) = find(&written.bytes, path);
        let mut bytes = written.bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        let error = read_error(&written.path, &bytes);
        assert!(error.contains(words), "{name}, {path:?}, {new:?}: {error}");
        assert!(error.contains("part.tflite"), "no file is named: {error}");
    }
}

const fn subgraph(index: usize) -> Step {
    (2, Some(index))
}
const fn signature(index: usize) -> Step {
    (7, Some(index))
}

/// Faults of a file with several signatures: where, the bytes that stand there then, words of the error.
const FAULTS_OF_SEVERAL: &[(&[Step], &[u8], &str)] = &[
    (&[signature(1), field(4)], &[0], "the signature is layers_2 of subgraph 0, which is layers of number 1"),
    (&[signature(2), field(4)], &[9], "of subgraph 9"),
    (&[signature(2), (0, Some(0)), field(1)], &[1], "names other tensors"),
    (&[subgraph(1), operator(0), (1, Some(0))], &[90], "no tensor 90"),
    (&[subgraph(1), operator(0), (1, Some(0))], &[90], "at signature layers_2"),
    (&[subgraph(2), operator(0), OPTIONS, field(0)], &[0, 0, 0, 0x40], "a beta of 2"),
    (&[subgraph(2), operator(0), OPTIONS, field(0)], &[0, 0, 0, 0x40], "at signature softmax"),
    (&[subgraph(2), operator(0), field(0)], &[9], "no operator code 9"),
    (&[subgraph(1), tensor(1), (0, Some(0))], &[5], "w has 2400 bytes"),
    (&[subgraph(1), tensor(1), field(2)], &[3], "w has 16 bytes"),
    (&[subgraph(2), tensor(0), field(8)], &[0], "no fixed number of axes"),
    (&[buffer(1), field(2)], &[0xff, 0xff, 0xff], "share some of their bytes"),
];

#[test]
fn each_signature_is_checked() {
    let written = several();
    let whole = read_error(&written.path, &written.bytes);
    assert!(whole.contains("the signatures are layers_1, layers_2, softmax, expected serving_default alone"));
    for &(path, new, words) in FAULTS_OF_SEVERAL {
        let (_, at) = find(&written.bytes, path);
        let mut bytes = written.bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        std::fs::write(&written.path, &bytes).unwrap();
        // Whichever of them is asked for.
        for key in ["layers_1", "layers_2", "softmax"] {
            let error = read_signature(&written.path, key).err().unwrap().to_string();
            assert!(error.contains(words) && error.contains("part.tflite"), "{path:?}, {new:?}: {error}");
        }
    }
    // The text of a key, and how many signatures there are.
    let texts: [(&[u8], &[u8], &str); 3] = [
        (b"layers_2\0", b"layers_1\0", "two signatures are layers_1"),
        (b"layers_2\0", b"leyers_2\0", "the signature is leyers_2"),
        (b"layers_2\0", b"layers42\0", "the signature is layers42"),
    ];
    for (old, new, words) in texts {
        let at = written.bytes.windows(old.len()).position(|window| window == old).unwrap();
        let mut bytes = written.bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        let error = read_error(&written.path, &bytes);
        assert!(error.contains(words), "{error}");
    }
    for (list, words) in [(2, "3 signatures and 2 subgraphs"), (7, "2 signatures and 3 subgraphs")] {
        let (_, first) = find(&written.bytes, &[(list, Some(0))]);
        let mut bytes = written.bytes.clone();
        bytes[first - 4] = 2;
        let error = read_error(&written.path, &bytes);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn several_signatures_cut_off_or_damaged_never_panic() {
    let written = several();
    let flatbuffer = written.bytes.len() - 2 * 2400 - 16;
    for length in (0..flatbuffer).filter(|length| length % 97 == 0) {
        std::fs::write(&written.path, &written.bytes[..length]).unwrap();
        assert!(read_signatures(&written.path).is_err(), "{length}");
    }
    let mut state = 3u64;
    for _ in 0..400 {
        let mut bytes = written.bytes.clone();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes[(state >> 33) as usize % flatbuffer] = [0, 0xff, 1][(state >> 20) as usize % 3];
        std::fs::write(&written.path, &bytes).unwrap();
        let _ = read_signatures(&written.path);
    }
}

#[test]
fn a_field_that_snapc_does_not_write_is_refused() {
    let written = named("gelu_tanh_f32");
    // `is_variable`, between fields that are written; it gets the place of another.
    let (table, _) = find(&written.bytes, &[SUBGRAPH, tensor(0), field(0)]);
    let at = entry(&written.bytes, table, 5);
    let mut bytes = written.bytes.clone();
    bytes[at] = 4;
    let error = read_error(&written.path, &bytes);
    assert!(error.contains("Tensor has field 5, which snapc does not write"), "{error}");
}

#[test]
fn another_kind_of_file_and_another_length_are_named() {
    let written = named("large_f32");
    let mut bytes = written.bytes.clone();
    bytes[4] = b'X';
    assert!(read_error(&written.path, &bytes).contains("no flatbuffer of kind TFL3"));
    assert!(read_error(&written.path, b"").contains("no flatbuffer of kind TFL3"));
    let mut bytes = written.bytes.clone();
    bytes.push(0);
    assert!(read_error(&written.path, &bytes).contains("zeros end at byte"));
    bytes.truncate(bytes.len() - 2);
    assert!(read_error(&written.path, &bytes).contains("zeros end at byte"));
    let small = named("gelu_tanh_f32");
    let error = read_error(&small.path, &small.bytes[..small.bytes.len() - 1]);
    assert!(error.contains("the flatbuffer ends at byte"), "{error}");
    std::fs::remove_file(&written.path).unwrap();
    let error = TfLite.read(&written.path).unwrap_err().to_string();
    assert!(error.contains("cannot open"), "{error}");
}

#[test]
fn cut_off_files_never_panic() {
    let written = named("stored_f16");
    for length in (0..written.bytes.len()).filter(|length| length % 7 == 0 || *length < 512) {
        assert_ne!(read_error(&written.path, &written.bytes[..length]), "no error", "{length}");
    }
}

#[test]
fn damaged_bytes_never_panic() {
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut tried, mut read) = (0, 0);
    for case in cases().iter().filter(|case| case.name.ends_with("f32") && case.name != "large_f32") {
        let written = written(case);
        for _ in 0..100 {
            let mut bytes = written.bytes.clone();
            for _ in 0..=random(2) {
                let at = random(bytes.len());
                bytes[at] = [random(256) as u8, 0, 0xff, bytes[at] ^ (1 << random(8))][random(4)];
            }
            tried += 1;
            read += usize::from(read_error(&written.path, &bytes) == "no error");
        }
    }
    // Names, weights and zeros between may be any: not all damage can be seen, but much is.
    assert!(read * 10 < tried * 7, "{read} of {tried} damaged files were read");
}
