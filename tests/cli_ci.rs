//! `examples/github-actions.yml`: its commands, run as a runner's shell runs them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod command;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use snapc_tests::{files, fixture, runtimes};

use command::{snapc, succeed, workplace};

/// The one job of the workflow, as PyYAML reads it, which comes with coremltools.
fn job() -> Value {
    let script = "import json, sys, yaml\nprint(json.dumps(yaml.safe_load(open(sys.argv[1]))['jobs']))";
    let path = fixture("../examples/github-actions.yml");
    let output = Command::new(runtimes::python()).args(["-c", script]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let jobs: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(jobs.as_object().unwrap().len(), 1);
    jobs["compile"].clone()
}

/// Runs the steps that call snapc until one fails; their names, and how the last one ended.
fn run(root: &Path) -> (Vec<String>, Output) {
    let job = job();
    let folder = Path::new(env!("CARGO_BIN_EXE_snapc")).parent().unwrap();
    let path = std::env::join_paths(
        [folder.to_path_buf()].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let path = path.unwrap();
    let (mut names, mut last) = (Vec::new(), None);
    for step in job["steps"].as_array().unwrap() {
        let Some(script) = step["run"].as_str().filter(|script| script.contains("snapc ")) else { continue };
        // The shell of a `run:` on Linux.
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script]);
        for (name, value) in job["env"].as_object().unwrap() {
            command.env(name, value.as_str().unwrap());
        }
        let output = command.env("PATH", &path).current_dir(root).output().unwrap();
        names.push(step["name"].as_str().unwrap().to_string());
        let done = output.status.success();
        last = Some(output);
        if !done {
            break;
        }
    }
    (names, last.unwrap())
}

const COMPARE: &str = "Compare with what was approved";

#[test]
fn an_unapproved_change_fails() {
    let place = workplace();
    let root = place.path();
    let compile = ["compile", "model", "--subnet", "tiny", "--target", "all", "--provenance", "-o", "dist"];
    succeed(root, &compile);
    // Nothing is approved yet.
    let (names, output) = run(root);
    assert_eq!(names, ["Compile", "Verify", COMPARE]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));

    for (path, bytes) in files(&root.join("dist")) {
        if path.ends_with("manifest.json") {
            let path = root.join("approved").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
    let (names, output) = run(root);
    assert_eq!(names.last().unwrap(), COMPARE);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // A change that compiles and verifies.
    let config = root.join("model/scheduler/scheduler_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("0.75", "0.8")).unwrap();
    let (names, output) = run(root);
    assert_eq!(names.last().unwrap(), COMPARE);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches("\n  sigmas: ").count(), 3, "{said}");

    // A damaged model does not come so far.
    std::fs::write(&config, "{").unwrap();
    let (names, output) = run(root);
    assert_eq!((names.len(), output.status.code()), (1, Some(3)));
    assert_eq!(snapc(root, &["verify", "dist", "--pipeline", "model"]).status.code(), Some(3));
}
