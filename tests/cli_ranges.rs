//! Ranges as a user meets them: the option, the report, the warning.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use snapc_tests::{copy_folder, fixture};
use tempfile::TempDir;

/// A working folder with a copy of the fixture in `model`.
fn workplace() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&fixture("shapes"), &folder.path().join("model"));
    folder
}

fn snapc(folder: &Path, words: &[&str]) -> Output {
    let compile = ["compile", "model", "--subnet", "tiny", "-o", "out"];
    Command::new(env!("CARGO_BIN_EXE_snapc")).args(compile).args(words).current_dir(folder).output().unwrap()
}

#[track_caller]
fn json(folder: &Path, words: &[&str]) -> Value {
    let output = snapc(folder, &[&["--json"], words].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The text for a part: what was done because of ranges, and the largest values.
#[test]
fn what_is_explained() {
    let place = workplace();
    let output =
        snapc(place.path(), &["--target", "coreml", "--part", "text_encoder", "--bake", "step", "--explain"]);
    assert!(output.status.success());
    insta::assert_snapshot!("ranges_explained", String::from_utf8(output.stdout).unwrap());
}

/// All values are in the JSON, the largest first; of parts that compute in f32 there are none.
#[test]
fn what_json_has() {
    let place = workplace();
    let ranges = json(place.path(), &["--target", "coreml"])["outputs"][0]["ranges"].clone();
    for part in ["text_encoder", "transformer", "vae_decoder"] {
        let sizes: Vec<f64> =
            ranges[part].as_array().unwrap().iter().map(|node| node["largest"].as_f64().unwrap()).collect();
        assert!(sizes.len() > 30 && sizes.is_sorted_by(|a, b| a >= b) && sizes[0] > 1.0, "{part}: {sizes:?}");
        let share = ranges[part][0]["share"].as_f64().unwrap();
        assert!((share * 65504.0 / sizes[0] - 1.0).abs() < 1e-6, "{part}");
    }
    for words in [
        &["--target", "onnx"][..],
        &["--target", "coreml", "--precision", "f32"],
        &["--target", "coreml", "--ranges", "off"],
    ] {
        let found = json(place.path(), words);
        assert_eq!(found["outputs"][0]["ranges"], serde_json::json!({}), "{words:?}");
        assert_eq!(found["warnings"], serde_json::json!([]), "{words:?}");
    }
}

/// What takes too long, or cannot be drawn, is not measured unless asked for.
#[test]
fn what_is_not_measured() {
    let place = workplace();
    let large = json(place.path(), &["--target", "coreml", "--size", "1024x1024"]);
    assert_eq!(large["outputs"][0]["ranges"], serde_json::json!({}));
    insta::assert_snapshot!("warning_ranges_large", large["warnings"][0].as_str().unwrap());

    std::fs::write(place.path().join("model/verify_prompts.txt"), "\n").unwrap();
    let silent = json(place.path(), &["--target", "coreml"]);
    insta::assert_snapshot!("warning_ranges_no_prompts", silent["warnings"][0].as_str().unwrap());
    let refused = snapc(place.path(), &["--target", "coreml", "--ranges", "on"]);
    assert_eq!(refused.status.code(), Some(3));
    insta::assert_snapshot!("error_ranges_no_prompts", String::from_utf8(refused.stderr).unwrap());
    let refused = snapc(place.path(), &["--target", "coreml", "--ranges", "sometimes"]);
    assert_eq!(refused.status.code(), Some(2));
    insta::assert_snapshot!("error_ranges_word", String::from_utf8(refused.stderr).unwrap());
}
