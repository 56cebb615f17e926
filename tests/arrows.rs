//! A crate may name what its arrows reach; formatting is checked too, and what benches have measured.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// The direct arrows of ARCHITECTURE.md; a crate reaches what they reach.
const ARROWS: [(&str, &[&str]); 15] = [
    ("ir", &[]),
    ("weights", &["ir"]),
    ("frontends", &["weights"]),
    ("passes", &["ir"]),
    ("interp", &["weights"]),
    ("backends/shared", &["weights"]),
    ("backends/coreml", &["backends/shared"]),
    ("backends/onnx", &["backends/shared"]),
    ("backends/tflite", &["backends/shared"]),
    ("assemble", &[]),
    (
        "driver",
        &["assemble", "frontends", "interp", "passes", "backends/coreml", "backends/onnx", "backends/tflite"],
    ),
    ("cli", &["driver"]),
    ("tests", &["cli", "xtask"]),
    ("xtask", &[]),
    ("benches", &["driver", "xtask"]),
];

fn reach(from: &str, reached: &mut BTreeSet<String>) {
    let direct = ARROWS.iter().find(|(name, _)| *name == from).unwrap().1;
    for next in direct {
        if reached.insert(next.to_string()) {
            reach(next, reached);
        }
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn manifest(folder: &str) -> toml::Table {
    std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap().parse().unwrap()
}

#[test]
fn crates_name_only_what_their_arrows_reach() {
    let workspace = manifest("");
    let members: Vec<&str> = workspace["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member.as_str().unwrap())
        .collect();
    // The README's `cargo run` has to mean one binary.
    assert_eq!(workspace["workspace"]["default-members"].as_array().unwrap()[..], ["cli".into()]);
    let listed: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(members.iter().collect::<BTreeSet<_>>(), listed.iter().collect::<BTreeSet<_>>());
    let packages: BTreeMap<String, &str> = members
        .iter()
        .map(|folder| (manifest(folder)["package"]["name"].as_str().unwrap().to_string(), *folder))
        .collect();
    for folder in &members {
        let mut reached = BTreeSet::new();
        reach(folder, &mut reached);
        let manifest = manifest(folder);
        for dependency in
            manifest.get("dependencies").and_then(|table| table.as_table()).into_iter().flat_map(|t| t.keys())
        {
            if let Some(target) = packages.get(dependency) {
                assert!(reached.contains(*target), "{folder} names {dependency}: no arrow reaches it");
            }
        }
    }
}

#[test]
fn sources_are_formatted() {
    let done =
        Command::new(env!("CARGO")).args(["fmt", "--all", "--check"]).current_dir(root()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

/// Each bench has its results in `benches/README.md`, and what that shows is there.
#[test]
fn benches_have_their_results() {
    let folder = root().join("benches");
    let text = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let mut benches: Vec<String> = std::fs::read_dir(folder.join("src/bin"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string())
        .collect();
    benches.sort();
    let section = |name: &String| text.lines().any(|line| line.starts_with(&format!("## `{name}`")));
    let missing: Vec<_> = benches.iter().filter(|name| !section(name)).collect();
    assert!(!benches.is_empty() && missing.is_empty(), "no section for {missing:?}");
    let plots: Vec<&str> = text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(plots.contains(&"scaling.svg"), "{plots:?}");
    plots.iter().filter(|link| link.ends_with(".svg")).for_each(|plot| assert!(folder.join(plot).is_file()));
}
