//! Damaged folders: an error that says what is wrong, never a panic.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use common::{Case, case, cases, texts};
use snapc_backend::{Backend, Part, legalize};
use snapc_onnx::Onnx;

struct Written {
    _folder: tempfile::TempDir,
    path: PathBuf,
    model: Vec<u8>,
}

fn written(case: &Case) -> Written {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("part");
    let legal = legalize(&case.graph, &Onnx::default()).unwrap();
    let facts = [("config".to_string(), "{}".to_string())];
    let part = Part::new(legal, &case.store, &facts);
    Onnx::default().write(part, &path, &mut |_| {}).unwrap();
    let model = std::fs::read(path.join("model.onnx")).unwrap();
    Written { _folder: folder, path, model }
}

fn named(name: &str) -> Written {
    let (_, body) = texts().into_iter().find(|(other, _)| other == name).unwrap();
    written(&case(name, &body))
}

fn read_error(path: &Path, model: &[u8]) -> String {
    std::fs::write(path.join("model.onnx"), model).unwrap();
    match Onnx::default().read(path) {
        Ok(_) => "no error".to_string(),
        Err(error) => error.to_string(),
    }
}

/// The model with the first `from` made `to`, of the same length.
fn patched(model: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = model.windows(from.len()).position(|bytes| bytes == from);
    let at = at.unwrap_or_else(|| panic!("{} is not in the model", from.escape_ascii()));
    let mut model = model.to_vec();
    model[at..at + to.len()].copy_from_slice(to);
    model
}

/// Case, bytes, what becomes of them, words of the error.
type Fault = (&'static str, &'static [u8], &'static [u8], &'static str);

#[test]
fn what_is_not_as_it_must_be_is_named() {
    let faults: &[Fault] = &[
        ("gelu_tanh_f32", b"\x08\x0a", b"\x08\x0b", "the IR version is 11, expected 10"),
        ("gelu_tanh_f32", b"\x0a\x00\x10\x15", b"\x0a\x00\x10\x16", "does not import opset 21 alone"),
        ("gelu_tanh_f32", b"\x22\x04Gelu", b"\x22\x04Gelo", "snapc writes no Gelo"),
        ("gelu_tanh_f32", b"tanh", b"tanx", "no Gelu with approximate=tanx"),
        ("gelu_tanh_f32", b"approximate", b"approximata", "snapc writes no attribute approximata"),
        // 3 is a string.
        ("gelu_tanh_f32", b"\xa0\x01\x03", b"\xa0\x01\x02", "of another type"),
        ("gelu_tanh_f32", b"\x0a\x01x", b"\x0a\x01y", "y is not made before"),
        ("binary_f32", b"\x12\x01d", b"\x12\x01a", "a is made twice"),
        ("gelu_tanh_f32", b"\x12\x01y", b"\x12\x01z", "y is not made before"),
        ("upsample_nearest_f32", b"asymmetric", b"asymmetriq", "is asymmetriq, snapc writes asymmetric"),
        ("upsample_nearest_f32", b"\x40\x40", b"\x20\x40", "Resize has"),
        ("rms_norm_weight_f32", b"\x22\x03Pow", b"\x22\x03Sin", "2 operands given"),
        ("rms_norm_weight_f32", b"\x22\x04Sqrt", b"\x22\x04Tanh", "Pow is not the start of"),
        ("rms_norm_weight_f32", b"\x00\x00\x00\x40", b"\x00\x00\x40\x40", "the power is not 2"),
        ("unary_f32", b"\x22\x03Div", b"\x22\x03Sub", "Sqrt is not the start of"),
        ("reduce_mean_f32", b"keepdims", b"keepdimz", "no attribute keepdimz"),
        ("reduce_mean_f32", b"keepdims\x18\x01", b"keepdims\x18\x00", "keepdims is 0"),
        (
            "softmax_f32",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            "not over the last axis",
        ),
        ("linear_bias_f32", b"transB\x18\x01", b"transB\x18\x00", "transB is 0"),
        ("concat_f32", b"axis\x18\x01", b"axis\x18\x09", "no axis 9 of 2"),
        ("split_f32", b"num_outputs\x18\x03", b"num_outputs\x18\x02", "3 results, expected 2"),
        ("conv2d_f32", b"group\x18\x01", b"group\x18\x02", "group, weight and channels"),
        ("conv2d_f32", b"kernel_shape\x40\x03", b"kernel_shape\x40\x02", "kernel_shape"),
        ("large_f32", b"model.onnx_data", b"../el.onnx_data", "no plain file name"),
        ("large_f32", b"model.onnx_data", b"model.onnx_dat2", "expected model.onnx_data"),
        ("large_f32", b"\x0a\x06offset", b"\x0a\x06offsex", "does not say location, offset and length"),
        ("large_f32", b"\x12\x072162688", b"\x12\x079999999", "behind the end of the file"),
        ("large_f32", b"\x12\x072162688", b"\x12\x071162688", "share some of their bytes"),
        ("large_f32", b"\x12\x072160000", b"\x12\x072160004", "takes 2160000"),
        ("large_f32", b"\x12\x072160000", b"\x12\x07-160000", "is no number"),
        ("encoded_rows", b"axis\x18\x01", b"axis\x18\x00", "not one scale a row"),
        ("encoded_rows", b"axis\x18\x01", b"axis\x18\x05", "no axis 5 of 2"),
        ("encoded_rows", b"\x10\x03B\x09w.axes.10", b"\x10\x16B\x09w.axes.10", "int4[64, 12] takes 384"),
        ("encoded_rows", b"\x10\x03B\x09w.axes.10", b"\x10\x02B\x09w.axes.10", "element type 2"),
        ("encoded_rows", b"\x10\x0aB\x10w.axes.10.scales", b"\x10\x01B\x10w.axes.10.scales", "takes 48"),
        ("encoded_rows", b"\x0a\x09w.axes.10\x0a", b"\x0a\x09x.axes.10\x0a", "nothing uses it"),
        (
            "encoded_rows",
            b"\x22\x10DequantizeLinear",
            b"\x22\x10DequantizeLinexr",
            "snapc writes no DequantizeLinexr",
        ),
        ("encoded_blocks", b"block_size\x18\x20", b"block_size\x18\x40", "not one scale a block"),
        ("encoded_blocks", b"block_size\x18\x20", b"block_size\x18\x21", "do not divide"),
        ("encoded_blocks", b"block_size\x18\x20", b"block_size\x18\x00", "but no blocks"),
        ("encoded_blocks", b"block_size", b"block_sixe", "attribute block_sixe"),
    ];
    for (name, from, to, words) in faults {
        let written = named(name);
        let error = read_error(&written.path, &patched(&written.model, from, to));
        assert!(error.contains(words), "{name}, {}: {error}", to.escape_ascii());
        assert!(error.contains("in "), "no file is named: {error}");
    }
}

#[test]
fn a_data_file_that_is_not_there_or_not_whole_is_named() {
    let written = named("large_f32");
    let data = written.path.join("model.onnx_data");
    let bytes = std::fs::read(&data).unwrap();
    let error = || Onnx::default().read(&written.path).unwrap_err().to_string();

    std::fs::write(&data, &bytes[..bytes.len() - 1]).unwrap();
    assert!(error().contains("behind the end of the file"), "{}", error());
    std::fs::remove_file(&data).unwrap();
    assert!(error().contains("cannot open"), "{}", error());
    let elsewhere = written.path.join("elsewhere");
    std::fs::write(&elsewhere, &bytes).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &data).unwrap();
    assert!(error().contains("no regular file"), "{}", error());
    std::fs::remove_file(written.path.join("model.onnx")).unwrap();
    assert!(error().contains("cannot open"), "{}", error());
}

#[test]
fn a_scale_that_is_no_number_is_named() {
    let written = named("encoded_rows");
    let data = written.path.join("model.onnx_data");
    let mut bytes = std::fs::read(&data).unwrap();
    // The codes of w take the first page, its scales start the second.
    bytes[4096..4098].copy_from_slice(&[0x00, 0x7c]);
    std::fs::write(&data, bytes).unwrap();
    let error = Onnx::default().read(&written.path).unwrap_err().to_string();
    assert!(error.contains("expected a number") && error.contains("w.axes.10.scales"), "{error}");
}

#[test]
fn a_field_that_snapc_does_not_write_is_refused() {
    let written = named("gelu_tanh_f32");
    let mut model = written.model.clone();
    // `functions` (field 25), empty.
    model.extend([0xca, 0x01, 0x00]);
    let error = read_error(&written.path, &model);
    assert!(error.contains("fields that snapc does not write"), "{error}");
    assert!(read_error(&written.path, b"").contains("IR version"), "an empty file");
}

#[test]
fn cut_off_files_never_panic() {
    let written = named("stored_f16");
    for length in 0..written.model.len() {
        read_error(&written.path, &written.model[..length]);
    }
}

#[test]
fn damaged_bytes_never_panic() {
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut read = 0;
    for case in cases().iter().filter(|case| case.name.ends_with("f32") || case.name.starts_with("encoded")) {
        let written = written(case);
        for _ in 0..60 {
            let mut model = written.model.clone();
            for _ in 0..=random(2) {
                let at = random(model.len());
                model[at] = [random(256) as u8, 0, 0xff, model[at] ^ (1 << random(8))][random(4)];
            }
            read += usize::from(read_error(&written.path, &model) == "no error");
        }
    }
    // Names and numbers may be any: not all damage can be seen, but most is.
    assert!(read < 1400, "{read} of 2940 damaged files were read");
}

#[test]
fn a_huge_size_is_refused_before_memory_is_asked_for() {
    // 2^40, of which 2^41 is made.
    let body = r"
        input %x: f32[1099511627776]
        %y = relu %x : f32[1099511627776]
        output y %y
    ";
    let written = written(&case("huge", body));
    assert_eq!(read_error(&written.path, &written.model), "no error");
    let model = patched(&written.model, b"\x80\x80\x80\x80\x80\x20", b"\x80\x80\x80\x80\x80\x40");
    let error = read_error(&written.path, &model);
    assert!(error.contains("too large"), "{error}");
}
