//! Artifacts run in the targets' own software, through a Python that the user names.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use snapc_ir::{Error, Place, Result};
use snapc_weights::{Store, Tensor};

use crate::output::save_tensors;
use crate::targets::Target;

/// One run of an artifact.
pub struct Run<'a> {
    /// The artifact.
    pub artifact: &'a Path,
    /// Its signature, where it is a file of several parts.
    pub signature: Option<&'a str>,
    /// Its inputs, by name.
    pub inputs: Vec<(&'a str, &'a Tensor)>,
}

/// What runs a target's artifacts.
pub fn name(target: Target) -> &'static str {
    match target {
        // Core ML itself runs on Apple's systems alone.
        Target::CoreMl => "coremltools' program, evaluated",
        Target::Onnx => "ONNX Runtime",
        Target::TfLite => "LiteRT",
    }
}

/// The script that runs a target's artifacts: it takes a list of jobs, checks each artifact and writes its outputs.
fn script(target: Target) -> &'static str {
    match target {
        Target::CoreMl => include_str!("../../tests/python/coreml_check.py"),
        Target::Onnx => include_str!("../../tests/python/onnx_check.py"),
        Target::TfLite => include_str!("../../tests/python/tflite_check.py"),
    }
}

/// The first output of each run.
///
/// # Errors
/// If Python or a package is missing, or a runtime refuses an artifact: with what it said.
pub fn run(target: Target, python: &Path, runs: &[Run]) -> Result<Vec<Tensor>> {
    let folder = tempfile::tempdir().map_err(|error| Error::io("write to", std::env::temp_dir(), &error))?;
    let place = |name: String| folder.path().join(name);
    let mut jobs = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        let (inputs, outputs) = (place(format!("{number}.in")), place(format!("{number}.out")));
        save_tensors(&inputs, &run.inputs)?;
        let signature = run.signature;
        jobs.push(
            json!({"artifact": run.artifact, "signature": signature, "inputs": inputs, "outputs": outputs}),
        );
    }
    let (code, list) = (place("check.py".to_string()), place("jobs.json".to_string()));
    for (path, text) in [(&code, script(target).to_string()), (&list, json!(jobs).to_string())] {
        std::fs::write(path, text).map_err(|error| Error::io("write", path, &error))?;
    }
    let done = Command::new(python).arg(&code).arg("--jobs").arg(&list).output().map_err(|error| {
        Error::io("start", python, &error)
            .help("--runtime names a Python that has the target's runtime installed")
    })?;
    if !done.status.success() {
        let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).trim().to_string());
        let last: Vec<&str> = said.iter().flat_map(|text| text.lines()).rev().take(3).collect();
        return Err(Error::input(format!("{} did not run: {}", name(target), last.join(" | ")))
            .at(Place::File(python.to_path_buf()))
            .help("the README names the packages that each target's runtime needs"));
    }
    (0..runs.len()).map(|number| first_tensor(&place(format!("{number}.out")))).collect()
}

fn first_tensor(path: &Path) -> Result<Tensor> {
    let store = Store::open(&[path.to_path_buf()])?;
    let name = store.names().next().map(str::to_string);
    let name =
        name.ok_or_else(|| Error::input("a runtime gave no output").at(Place::File(path.to_path_buf())))?;
    store.tensor(&name)
}
