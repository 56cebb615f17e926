//! The same input and options give the same bytes: at any number of threads, in any folder, in any language and time zone, and with
//! other functions of the system's mathematics.
#![allow(clippy::unwrap_used, clippy::panic)]

mod command;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use snapc_tests::{copy_folder, files, fixture};

use command::{snapc, succeed, workplace};

/// Surroundings of a compile.
struct Around<'a> {
    threads: &'a str,
    locale: &'a str,
    zone: &'a str,
    /// What glibc takes its functions to find on this CPU; other systems do not look at it.
    tunables: &'a str,
    home: &'a Path,
    /// The working folder.
    folder: &'a Path,
    pipeline: &'a str,
    output: &'a str,
}

fn compile(around: &Around, words: &[&str]) -> BTreeMap<PathBuf, Vec<u8>> {
    let output = Command::new(env!("CARGO_BIN_EXE_snapc"))
        .args(["compile", around.pipeline, "-o", around.output])
        .args(words)
        .env_clear()
        .env("RAYON_NUM_THREADS", around.threads)
        .env("LC_ALL", around.locale)
        .env("LANG", around.locale)
        .env("TZ", around.zone)
        .env("GLIBC_TUNABLES", around.tunables)
        .env("HOME", around.home)
        .current_dir(around.folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let output = around.folder.join(around.output);
    let written = files(&output);
    std::fs::remove_dir_all(output).unwrap();
    written
}

#[test]
fn the_same_bytes_everywhere() {
    let (here, there) = (workplace(), tempfile::tempdir().unwrap());
    let deep = there.path().join("some where/é");
    copy_folder(&fixture("shapes"), &deep.join("pipeline"));
    let first = here.path();
    let calibrate = |to: &str| {
        let words = ["calibrate", "model", "--subnet", "tiny", "--moments", "full", "--count", "2", "-o", to];
        succeed(first, &words);
    };
    calibrate("tiny.calibration");
    std::fs::copy(first.join("tiny.calibration"), deep.join("tiny.calibration")).unwrap();
    let one = Around {
        threads: "1",
        locale: "C",
        zone: "UTC",
        tunables: "",
        home: first,
        folder: first,
        pipeline: "model",
        output: "out",
    };
    let absolute = deep.join("pipeline");
    let other = Around {
        threads: "5",
        locale: "tr_TR.UTF-8",
        zone: "Pacific/Kiritimati",
        tunables: "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F",
        home: &deep,
        folder: &deep,
        pipeline: absolute.to_str().unwrap(),
        output: "made/here",
    };
    let gptq = ["--quantize", "int4", "--method", "gptq", "--rank", "2", "--calibration", "tiny.calibration"];
    let cases: [&[&str]; 5] = [
        &["--target", "all", "--provenance"],
        &["--target", "all", "--bake", "unrolled", "--precision", "f32"],
        &[&["--target", "all", "--min-os", "iOS18", "--provenance"][..], &gptq].concat(),
        &["--target", "coreml", "--quantize", "palette4"],
        &["--target", "tflite", "--one-file", "--size", "64x64", "--size", "64x96"],
    ];
    for case in cases {
        let words = [&["--subnet", "tiny"][..], case].concat();
        let (a, b) = (compile(&one, &words), compile(&other, &words));
        assert!(a.len() > 4, "{case:?}");
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{case:?}");
        let differ: Vec<_> =
            a.iter().filter(|(path, bytes)| b[*path] != **bytes).map(|(path, _)| path).collect();
        assert!(differ.is_empty(), "{case:?}: {differ:?}");
    }
}

/// What a target's folder holds does not depend on what else is compiled with it.
#[test]
fn the_same_bytes_alone_and_together() {
    let place = workplace();
    let root = place.path();
    succeed(root, &["compile", "model", "-s", "tiny", "-s", "small", "-t", "all", "-o", "all"]);
    for target in ["coreml", "onnx", "tflite"] {
        succeed(root, &["compile", "model", "-s", "small", "-t", target, "-o", "one"]);
        let [together, alone] = ["all", "one"].map(|out| files(&root.join(out).join(target).join("small")));
        assert!(together == alone, "{target}");
    }
    let output = snapc(root, &["diff", "all/onnx/small", "one/onnx/small", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{found}");
    assert_eq!(found["changes"], serde_json::json!([]));
}
