//! What a compile may hold: the supernet of the paper's size under a hard limit of memory.
#![allow(clippy::unwrap_used, clippy::panic)]

mod command;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use command::{snapc, succeed, workplace};
use xtask::model::CONFIGS;
use xtask::supernet;

/// The paper's supernet, of zeros that take no disk.
fn supernet_in(folder: &Path) {
    let paper = CONFIGS.into_iter().find(|config| config.name == "paper").unwrap();
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/shapes");
    supernet(&paper, &template, &folder.join("paper"), true).unwrap();
}

/// Runs the command with at most that many bytes of memory of its own; threads wait for no other core.
fn limited(folder: &Path, bytes: u64, words: &[&str]) -> Output {
    let script = format!("ulimit -d {} && exec \"$0\" \"$@\"", bytes / 1024);
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_snapc")]).args(words).args(["--jobs", "2"]);
    // A backtrace takes memory too: Rust's library waits for its own lock for ever where there is none.
    command.env("RUST_BACKTRACE", "0").current_dir(folder).output().unwrap()
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
    supernet_in(folder.path());
    let compile = |words: &str| {
        let all = format!("compile paper --part transformer {words}");
        fits(folder.path(), MOST, &all.split(' ').collect::<Vec<_>>());
    };
    compile("--subnet small --target coreml");
    compile("--subnet small --target tflite");
    compile("--subnet full --target onnx");
    // The wider one and the target whose readers and graph take the most there is.
    compile("--subnet full --target coreml --device gpu");
    compile("--subnet small --target onnx --quantize int8 --accuracy off");
    compile("--subnet small --target onnx --quantize int4 --accuracy off");
    compile("--subnet small --target coreml --min-os iOS18 --quantize palette4 --accuracy off");
    // A limit that it would pass stops it: the test can fail.
    let few = ["compile", "paper", "--part", "transformer", "--subnet", "full", "--target", "onnx"];
    assert!(!limited(folder.path(), 30_000_000, &few).status.success());
    assert!(!folder.path().join("dist/onnx/full").exists());
}

/// The most resident memory of a command, in kB (proc(5), `VmHWM`): it only grows, so looking now and then misses nothing but what is new at
/// the very end, where the files are hashed in small blocks.
fn peak(folder: &Path, words: &str) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snapc"));
    command.current_dir(folder).args(words.split(' ')).args(["--jobs", "2"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default();
        most = most.max(now);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{words}");
            std::fs::remove_dir_all(folder.join("dist")).unwrap();
            return most;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Four times the weights, 1.4 times the nodes: what is held is what is being written, or the graph before that.
#[test]
fn memory_does_not_grow_with_the_model() {
    let folder = tempfile::tempdir().unwrap();
    supernet_in(folder.path());
    for target in ["onnx", "tflite", "coreml --device gpu"] {
        let of = |subnet: &str| {
            let words = format!("compile paper --part transformer --subnet {subnet} --target {target}");
            peak(folder.path(), &words)
        };
        let (small, full) = (of("small"), of("full"));
        println!("{target}: {small} kB for small, {full} kB for full");
        assert!(small > 10_000 && full < 100_000, "{target}: {small} kB and {full} kB");
        assert!(10 * full <= 11 * small, "{target}: {full} kB for full, {small} kB for small");
    }
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
