//! `snapc plan`: what it says is what a compile writes, it touches nothing, and it refuses what a compile refuses, in its words.
#![allow(clippy::unwrap_used, clippy::panic)]

mod command;

use std::path::Path;

use serde_json::Value;
use snapc_tests::{copy_folder, files, fixture, synthetic};

use command::{snapc, succeed, workplace};

fn json(folder: &Path, words: &[&str]) -> Value {
    serde_json::from_str(&succeed(folder, words)).unwrap()
}

/// A field of all parts of all folders.
fn parts<'a>(folders: &'a Value, of: impl Fn(&'a Value) -> &'a Value) -> Vec<&'a Value> {
    folders.as_array().unwrap().iter().flat_map(|one| of(one).as_array().unwrap()).collect()
}

#[test]
fn a_plan_is_what_a_compile_writes() {
    let place = workplace();
    let root = place.path();
    copy_folder(&fixture("shapes"), &root.join("plain"));
    let scheduler = root.join("plain/scheduler/scheduler_config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&scheduler).unwrap()).unwrap();
    config["distilled_sigmas"] = Value::Null;
    std::fs::write(&scheduler, config.to_string()).unwrap();
    let cases: [&[&str]; 8] = [
        &["model", "--target", "all"],
        &["model", "--target", "all", "--precision", "f32", "--size", "64x96"],
        &["model", "--target", "all", "--bake", "unrolled", "--device", "gpu"],
        &["plain", "--target", "all", "--steps", "12", "--guidance", "2", "--bake", "step"],
        &["plain", "--target", "onnx", "--layout", "optimum"],
        &["model", "--target", "coreml", "--min-os", "iOS18", "--quantize", "int4", "--part", "transformer"],
        &[
            "model",
            "--target",
            "onnx",
            "--quantize",
            "palette4",
            "--allow-decode",
            "--quantize",
            "text_encoder=int8",
        ],
        &[
            "model",
            "--target",
            "tflite",
            "--one-file",
            "--size",
            "64x64",
            "--size",
            "64x96",
            "--quantize",
            "int8",
        ],
    ];
    for case in cases {
        let rest = ["--subnet", "tiny", "--ranges", "off", "--accuracy", "off", "-o", "out", "--json"];
        let words = |command| [&[command][..], case, &rest].concat();
        let plan = json(root, &words("plan"));
        assert!(!root.join("out").exists(), "{case:?}: a plan wrote");
        let compiled = json(root, &words("compile"));
        let (plans, outputs) = (&plan["plans"], &compiled["outputs"]);
        let planned = parts(plans, |plan| &plan["parts"]);
        let written = parts(outputs, |output| &output["manifest"]["parts"]);
        assert_eq!(planned.len(), written.len());
        for (planned, written) in planned.iter().zip(written) {
            let mut entry = planned["entry"].clone();
            // A file of several parts is one artifact.
            entry["artifact"] = written["artifact"].clone();
            if let Some(signature) = written.get("signature") {
                assert_eq!(planned["name"], *signature);
                entry["signature"] = signature.clone();
            }
            assert_eq!(entry, *written, "{case:?}");
            assert!(planned["passed"].as_array().unwrap().is_empty());
        }
        for (plan, output) in plans.as_array().unwrap().iter().zip(outputs.as_array().unwrap()) {
            let mut options = output["manifest"]["options"].clone();
            // What was quantized is known when it was; what was asked for stands in both.
            options.as_object_mut().unwrap().remove("quantized");
            assert_eq!(plan["options"], options, "{case:?}");
            assert_eq!(plan["folder"], output["folder"]);
        }
        std::fs::remove_dir_all(root.join("out")).unwrap();
    }
}

#[test]
fn a_plan_as_text() {
    let place = workplace();
    let words = ["plan", "model", "--subnet", "tiny", "--target", "all"];
    insta::assert_snapshot!("plan", succeed(place.path(), &words));
    let budget =
        ["plan", "model", "-s", "tiny", "-t", "coreml", "--min-os", "iOS18", "--bits-per-weight", "4.5"];
    assert!(succeed(place.path(), &budget).contains("note: bits are not given out by plan"));
}

/// Every limit that is passed, and the first of them as the compile says it.
#[test]
fn a_plan_refuses_what_a_compile_refuses() {
    let place = workplace();
    let root = place.path();
    synthetic::paper(&root.join("paper"));
    let cases: [(&str, usize, &[&str]); 3] = [
        ("weight_file", 1, &["paper", "--subnet", "full", "--target", "coreml", "--precision", "f32"]),
        ("codes", 2, &["model", "--subnet", "tiny", "--target", "coreml", "--quantize", "int4"]),
        ("palettes", 2, &["model", "--subnet", "tiny", "--target", "onnx", "--quantize", "palette4"]),
    ];
    for (name, least, case) in cases {
        let words = |command| [&[command][..], case, &["--part", "transformer", "-o", "out"]].concat();
        let [plan, compile] = ["plan", "compile"].map(|command| snapc(root, &words(command)));
        let [said, refused] =
            [&plan, &compile].map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
        assert_eq!((plan.status.code(), compile.status.code()), (Some(4), Some(4)), "{said}{refused}");
        assert_eq!(said, refused);
        let text = String::from_utf8(plan.stdout).unwrap();
        let (first, help) = said.strip_prefix("error: ").unwrap().split_once('\n').unwrap();
        assert!(text.contains(first) && text.contains(help.trim()), "{text}");
        let found = snapc(root, &[&words("plan")[..], &["--json"]].concat());
        let json: Value = serde_json::from_slice(&found.stdout).unwrap();
        let passed = json["plans"][0]["parts"][0]["passed"].as_array().unwrap();
        assert!(passed.len() >= least, "{name}: {passed:?}");
        insta::assert_snapshot!(format!("error_limit_{name}"), said);
    }
    // Other faults are what they are to a compile.
    let faults: [(&[&str], i32); 3] = [
        (&["model", "--subnet", "huge", "--target", "coreml"], 2),
        (&["nowhere", "--subnet", "tiny", "--target", "coreml"], 3),
        (&["model", "--subnet", "tiny", "--target", "coreml", "--one-file"], 2),
    ];
    for (case, code) in faults {
        let [plan, compile] =
            ["plan", "compile"].map(|command| snapc(root, &[&[command][..], case, &["-o", "out"]].concat()));
        assert_eq!((plan.status.code(), &plan.stderr), (Some(code), &compile.stderr));
    }
    std::fs::create_dir_all(root.join("out/coreml/tiny")).unwrap();
    std::fs::write(root.join("out/coreml/tiny/precious.txt"), "mine").unwrap();
    let output = snapc(root, &["plan", "model", "--subnet", "tiny", "--target", "coreml", "-o", "out"]);
    assert_eq!(output.status.code(), Some(2), "a folder that is somebody's");
    assert_eq!(files(&root.join("out")).len(), 1);
}

/// At the paper's size a plan reads headers and thinks.
#[test]
fn a_plan_of_the_paper_reads_no_weights() {
    let place = tempfile::tempdir().unwrap();
    synthetic::paper(&place.path().join("paper"));
    let plan = json(place.path(), &["plan", "paper", "--subnet", "small", "--target", "all", "--json"]);
    let all = parts(&plan["plans"], |plan| &plan["parts"]);
    assert_eq!(all.len(), 9);
    for part in all {
        let memory = &part["entry"]["memory"];
        let of = |value: &Value| value.as_u64().unwrap();
        assert_eq!(
            of(&memory["peak_bytes"]),
            of(&memory["value_bytes"]) + of(&part["entry"]["weight_bytes"])
        );
        let types: u64 = part["entry"]["weight_types"].as_object().unwrap().values().map(of).sum();
        assert_eq!(types, of(&part["entry"]["weight_bytes"]));
        assert!(
            part["limits"].as_array().unwrap().iter().all(|limit| of(&limit["found"]) <= of(&limit["most"]))
        );
    }
}
