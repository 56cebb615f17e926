//! Software that is not ours: Python packages, pinned in `tests/python/requirements.txt`, in an environment of the tests' own under
//! `target/`. It is made by the first test that asks. A test never passes without it: it fails and says what is missing.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde::Serialize;
use serde_json::Value;
use snapc_driver::Target;
use snapc_weights::Tensor;

use crate::tensors;

/// One artifact to check, and to run on the inputs of a file.
#[derive(Serialize)]
pub struct Job {
    pub artifact: PathBuf,
    pub inputs: PathBuf,
    pub outputs: PathBuf,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command; fails with what it printed.
fn call(command: &mut Command, what: &str) -> String {
    let done =
        command.output().unwrap_or_else(|error| panic!("{what}: {command:?} cannot be started: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{what} failed ({}):\n{text}", done.status);
    text
}

/// The Python of the tests' environment, which has every package that the tests need.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let wanted = std::fs::read_to_string(root().join("python/requirements.txt")).unwrap();
        // A test binary lies in target/<profile>/deps/.
        let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_path_buf();
        let (folder, stamp) = (target.join("python"), target.join("python.txt"));
        // Test binaries may run side by side: one makes the environment, the others wait.
        let lock = File::create(target.join("python.lock")).unwrap();
        lock.lock().unwrap();
        if std::fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
            let _ = std::fs::remove_file(&stamp);
            let _ = std::fs::remove_dir_all(&folder);
            call(
                Command::new("python3").args(["-m", "venv"]).arg(&folder),
                "making the tests' Python environment",
            );
            call(
                Command::new(folder.join("bin/python"))
                    .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
                    .arg(root().join("python/requirements.txt")),
                "installing the runtimes that the tests need (tests/python/requirements.txt)",
            );
            std::fs::write(&stamp, &wanted).unwrap();
        }
        folder.join("bin/python")
    })
}

/// Checks and runs artifacts in their target's own software; the outputs of each by name.
pub fn run(target: Target, jobs: &[Job]) -> Vec<BTreeMap<String, Tensor>> {
    run_listed(target, &serde_json::to_value(jobs).unwrap());
    jobs.iter().map(|job| tensors(&job.outputs)).collect()
}

/// The same, where a runtime could round what weights are multiplied with: it is told not to.
pub fn run_in_f32(target: Target, jobs: &[Job]) -> Vec<BTreeMap<String, Tensor>> {
    let listed = jobs.iter().map(|job| {
        let mut value = serde_json::to_value(job).unwrap();
        value["f32"] = true.into();
        value
    });
    run_listed(target, &listed.collect());
    jobs.iter().map(|job| tensors(&job.outputs)).collect()
}

/// The same of files with several signatures, each job of one of them.
pub fn run_signatures(target: Target, jobs: &[(Job, String)]) -> Vec<BTreeMap<String, Tensor>> {
    let named = jobs.iter().map(|(job, signature)| {
        let mut value = serde_json::to_value(job).unwrap();
        value["signature"] = signature.as_str().into();
        value
    });
    run_listed(target, &named.collect());
    jobs.iter().map(|(job, _)| tensors(&job.outputs)).collect()
}

/// Checks that a target's script finds every damage of these files.
pub fn self_test(target: Target, files: &[PathBuf]) {
    let mut command = Command::new(python());
    call(command.arg(script(target)).arg("--self-test").args(files), target.name());
}

/// Checks that files are bills of materials of CycloneDX 1.6, by its schema.
pub fn check_sboms(files: &[PathBuf]) {
    call(Command::new(python()).arg(root().join("python/sbom_check.py")).args(files), "CycloneDX");
}

/// What ONNX Runtime makes of a folder: how many nodes of each kind.
pub fn fused(folder: &Path) -> BTreeMap<String, u64> {
    let line = call(
        Command::new(python()).arg(script(Target::Onnx)).arg("--fused").arg(folder),
        Target::Onnx.name(),
    );
    let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    serde_json::from_value(line["fused"].clone()).unwrap()
}

/// In how many pieces XNNPACK takes each file's graph (`partitions`), and what it leaves out (`left_out`).
pub fn partitions(files: &[PathBuf]) -> Vec<Value> {
    let mut command = Command::new(python());
    let text = call(command.arg(script(Target::TfLite)).arg("--partitions").args(files), "tflite");
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(lines.len(), files.len(), "{text}");
    lines
}

fn script(target: Target) -> PathBuf {
    let script = match target {
        Target::CoreMl => "python/coreml_check.py",
        Target::Onnx => "python/onnx_check.py",
        Target::TfLite => "python/tflite_check.py",
    };
    root().join(script)
}

fn run_listed(target: Target, jobs: &Value) {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("jobs.json");
    std::fs::write(&list, jobs.to_string()).unwrap();
    call(Command::new(python()).arg(script(target)).arg("--jobs").arg(&list), target.name());
}
