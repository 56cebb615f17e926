//! What a compile may hold: the supernet of the paper's size under a hard limit of memory.
#![allow(clippy::unwrap_used, clippy::panic)]

mod command;

use std::path::Path;
use std::process::{Command, Output};

use command::{snapc, succeed, workplace};
use xtask::model::CONFIGS;
use xtask::supernet;

/// Runs the command with at most that many bytes of memory of its own; threads wait for no other core.
fn limited(folder: &Path, bytes: u64, words: &[&str]) -> Output {
    let script = format!("ulimit -d {} && exec \"$0\" \"$@\"", bytes / 1024);
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_snapc")]).args(words).args(["--jobs", "2"]);
    command.current_dir(folder).output().unwrap()
}

#[track_caller]
fn fits(folder: &Path, bytes: u64, words: &[&str]) {
    let output = limited(folder, bytes, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    // What it wrote is not needed, and is large.
    std::fs::remove_dir_all(folder.join("dist")).unwrap();
}

#[test]
fn the_papers_supernet_fits_150_mb() {
    const MOST: u64 = 150_000_000;
    let folder = tempfile::tempdir().unwrap();
    let paper = CONFIGS.into_iter().find(|config| config.name == "paper").unwrap();
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/shapes");
    supernet(&paper, &template, &folder.path().join("paper"), true).unwrap();
    let compile = |words: &str| {
        let all = format!("compile paper --part transformer {words}");
        fits(folder.path(), MOST, &all.split(' ').collect::<Vec<_>>());
    };
    compile("--subnet small --target coreml");
    compile("--subnet small --target tflite");
    // The wider one and the target that moves every weight: the most there is.
    compile("--subnet full --target onnx");
    compile("--subnet small --target onnx --quantize int8 --accuracy off");
    compile("--subnet small --target onnx --quantize int4 --accuracy off");
    compile("--subnet small --target coreml --min-os iOS18 --quantize palette4 --accuracy off");
    // A limit that it would pass stops it: the test can fail.
    let few = ["compile", "paper", "--part", "transformer", "--subnet", "full", "--target", "onnx"];
    assert!(!limited(folder.path(), 30_000_000, &few).status.success());
    assert!(!folder.path().join("dist/onnx/full").exists());
}

#[test]
fn max_memory_is_obeyed_or_refused() {
    let folder = workplace();
    let compile = |most: &'static str| {
        ["compile", "model", "--subnet", "small", "--target", "all", "--ranges", "off", "--max-memory", most]
    };
    fits(folder.path(), 70_000_000, &compile("60MB"));
    succeed(folder.path(), &compile("1GB"));
    std::fs::remove_dir_all(folder.path().join("dist")).unwrap();
    let output = snapc(folder.path(), &compile("44MB"));
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("tensor") && said.contains("--max-memory"), "{said}");
    assert!(!folder.path().join("dist").join("coreml").join("small").exists());
}
