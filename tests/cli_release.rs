//! What a release needs of an output: a manifest whose every field is documented, digests that `verify` holds files against, a bill of
//! materials, a statement of provenance, and what changed since the last one.
#![allow(clippy::unwrap_used, clippy::panic)]

mod command;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use snapc_tests::{files, runtimes};

use command::{snapc, succeed, workplace};

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The digests of files by software that is not ours.
fn sha256(paths: &[PathBuf]) -> Vec<String> {
    let script = "import hashlib, sys\nfor path in sys.argv[1:]: print(hashlib.sha256(open(path, 'rb').read()).hexdigest())";
    let output = Command::new("python3").args(["-c", script]).args(paths).output().unwrap();
    let digests: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_string).collect();
    assert_eq!(digests.len(), paths.len());
    digests
}

const COMPILE: [&str; 6] = ["compile", "model", "--subnet", "tiny", "-o", "out"];

/// The keys that stand for themselves in a manifest: not those that name a part, a kind of op or a type.
fn keys(value: &Value, all: &mut BTreeSet<String>) {
    const BY_NAME: [&str; 5] = ["checkpoints", "quantize", "weight_types", "ops_by_kind", "ops_by_type"];
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                all.insert(key.clone());
                if !BY_NAME.contains(&key.as_str()) {
                    keys(value, all);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| keys(value, all)),
        _ => {}
    }
}

#[test]
fn every_field_of_a_manifest_is_documented() {
    let place = workplace();
    let root = place.path();
    std::fs::write(root.join("model/README.md"), "---\nlicense: apache-2.0\n---\n# Shapes\n").unwrap();
    let quantized = ["--target", "coreml", "--quantize", "int8", "--accuracy", "on"];
    succeed(root, &[&COMPILE[..], &quantized].concat());
    succeed(root, &["verify", "out", "--pipeline", "model", "--prompts", "1", "--record"]);
    let one_file = ["--target", "tflite", "--one-file", "--size", "64x64", "--size", "64x96"];
    succeed(root, &[&COMPILE[..], &one_file].concat());
    let mut found = BTreeSet::new();
    keys(&read(&root.join("out/coreml/tiny/manifest.json")), &mut found);
    keys(&read(&root.join("out/tflite/tiny/manifest.json")), &mut found);
    assert!(
        ["accuracy", "layers", "verified", "signature", "licence"].iter().all(|key| found.contains(*key))
    );
    let document = include_str!("../docs/manifest.md");
    let missing: Vec<&String> = found.iter().filter(|key| !document.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "docs/manifest.md does not tell of {missing:?}");
}

#[test]
fn verify_names_the_file_that_was_altered() {
    let place = workplace();
    let root = place.path();
    succeed(root, &[&COMPILE[..], &["--target", "all"]].concat());
    let verify = ["verify", "out", "--pipeline", "model", "--prompts", "1"];
    succeed(root, &verify);
    let listed =
        |target: &str| read(&root.join("out").join(target).join("tiny/manifest.json"))["files"].clone();
    for target in ["coreml", "onnx", "tflite"] {
        let folder = root.join("out").join(target).join("tiny");
        let on_disk = files(&folder);
        let listed = listed(target);
        let names: Vec<&str> =
            listed.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
        let expected =
            on_disk.keys().map(|path| path.to_str().unwrap()).filter(|path| *path != "manifest.json");
        assert_eq!(names.iter().collect::<BTreeSet<_>>(), expected.collect::<Vec<_>>().iter().collect());
        assert!(names.is_sorted());
        let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
        for (file, digest) in listed.as_array().unwrap().iter().zip(sha256(&paths)) {
            assert_eq!(file["sha256"], digest);
        }
    }
    // One bit of a weight, one file that is gone, one that is new: all of them are named, in all folders.
    let weights = root.join("out/coreml/tiny/Transformer.mlpackage/Data/com.apple.CoreML/weights/weight.bin");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    std::fs::remove_file(root.join("out/onnx/tiny/tokenizer/tokenizer.json")).unwrap();
    std::fs::write(root.join("out/tflite/tiny/notes.txt"), "later").unwrap();
    let output = snapc(root, &verify);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("3 files are not what manifest.json says"), "{said}");
    for line in [
        "coreml/tiny: altered: Transformer.mlpackage/Data/com.apple.CoreML/weights/weight.bin: SHA-256",
        "onnx/tiny: missing: tokenizer/tokenizer.json",
        "tflite/tiny: not listed: notes.txt",
    ] {
        assert!(said.contains(line), "{said}");
    }
    // Another version's manifest is told apart from damage.
    let manifest = root.join("out/tflite/tiny/manifest.json");
    let mut old = read(&manifest);
    old["schema"] = 1.into();
    std::fs::write(&manifest, old.to_string()).unwrap();
    let output = snapc(root, &["run", "out/tflite/tiny", "--prompt", "a", "-o", "a.png"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("schema 1, expected 2"));
}

#[test]
fn provenance_says_what_went_in_and_what_came_out() {
    let place = workplace();
    let root = place.path();
    std::fs::write(root.join("model/LICENSE"), "\n# Some Licence, version 3\nText.\n").unwrap();
    succeed(root, &[&COMPILE[..], &["--target", "all", "--provenance"]].concat());
    let folders = ["coreml", "onnx", "tflite"].map(|target| root.join("out").join(target).join("tiny"));
    let boms: Vec<PathBuf> = folders.iter().map(|folder| folder.join("sbom.cdx.json")).collect();
    runtimes::check_sboms(&boms);
    for folder in &folders {
        check_statement(folder, &root.join("model"));
        let bom = read(&folder.join("sbom.cdx.json"));
        let text = bom.to_string();
        let name = json!([{"license": {"name": "Some Licence, version 3"}}]);
        assert_eq!(bom["components"][0]["licenses"], name);
        assert!(!text.contains(root.to_str().unwrap()) && !text.contains("timestamp"));
    }
    let manifest = read(&folders[0].join("manifest.json"));
    assert_eq!(manifest["licence"], json!({"name": "Some Licence, version 3", "file": "LICENSE"}));
    // Core ML computes in f16: its ranges were measured, over the pipeline's prompts.
    let roles: BTreeSet<&str> =
        manifest["inputs"].as_array().unwrap().iter().map(|input| input["role"].as_str().unwrap()).collect();
    assert_eq!(roles, BTreeSet::from(["config", "licence", "prompts", "scheduler", "tokenizer", "weights"]));
    // A recorded table changes the manifest: the statement follows, and all still holds.
    let verify = ["verify", "out", "--pipeline", "model", "--prompts", "1", "--record"];
    succeed(root, &verify);
    let once = files(&root.join("out"));
    assert!(read(&folders[0].join("manifest.json"))["verified"]["rows"].as_array().unwrap().len() >= 4);
    folders.iter().for_each(|folder| check_statement(folder, &root.join("model")));
    succeed(root, &verify);
    assert!(once == files(&root.join("out")), "a table that is recorded again is another one");
}

/// A statement's subjects are the files of the folder, its dependencies those that were read.
fn check_statement(folder: &Path, pipeline: &Path) {
    let statement = read(&folder.join("provenance.intoto.json"));
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let digests = |list: &Value, under: &Path| -> BTreeSet<String> {
        let entries = list.as_array().unwrap();
        let names: Vec<String> =
            entries.iter().map(|entry| entry["name"].as_str().unwrap().to_string()).collect();
        let paths: Vec<PathBuf> = names.iter().map(|name| under.join(name)).collect();
        for ((entry, name), digest) in entries.iter().zip(&names).zip(sha256(&paths)) {
            assert_eq!(entry["digest"]["sha256"], digest, "{name}");
        }
        names.into_iter().collect()
    };
    let subjects = digests(&statement["subject"], folder);
    let own = ["provenance.intoto.json", "provenance.predicate.json"];
    let on_disk = files(folder).into_keys().map(|path| path.to_str().unwrap().to_string());
    assert_eq!(subjects, on_disk.filter(|path| !own.contains(&path.as_str())).collect());
    let predicate = &statement["predicate"];
    assert_eq!(*predicate, read(&folder.join("provenance.predicate.json")));
    let build = &predicate["buildDefinition"];
    assert!(digests(&build["resolvedDependencies"], pipeline).len() >= 10);
    let manifest = read(&folder.join("manifest.json"));
    assert_eq!(build["externalParameters"], manifest["options"]);
    assert!(build["buildType"].is_string() && predicate["runDetails"]["builder"]["id"].is_string());
    assert_eq!(predicate["runDetails"]["builder"]["version"]["snapc"], manifest["snapc"]);
}

#[test]
fn the_licence_is_the_one_that_is_found() {
    let place = workplace();
    let root = place.path();
    let licence = || {
        succeed(root, &[&COMPILE[..], &["--target", "onnx", "--part", "vae"]].concat());
        read(&root.join("out/onnx/tiny/manifest.json"))["licence"].clone()
    };
    assert_eq!(licence(), Value::Null);
    std::fs::write(root.join("model/COPYING"), "Terms\n").unwrap();
    assert_eq!(licence(), json!({"name": "Terms", "file": "COPYING"}));
    let mut index = read(&root.join("model/model_index.json"));
    index["license"] = "mit".into();
    std::fs::write(root.join("model/model_index.json"), index.to_string()).unwrap();
    assert_eq!(licence(), json!({"name": "mit", "file": "model_index.json"}));
    let card = "---\ntags:\n- x\nlicense: other\nlicense_name: \"snap-research\"\n---\nlicense: not this\n";
    std::fs::write(root.join("model/README.md"), card).unwrap();
    assert_eq!(licence(), json!({"name": "snap-research", "file": "README.md"}));
}

#[test]
fn diff_says_what_changed() {
    let place = workplace();
    let root = place.path();
    let compile = |words: &[&str], to: &str| {
        let all = [&["compile", "model", "--subnet", "tiny", "--target", "onnx", "-o", to], words].concat();
        succeed(root, &all);
    };
    compile(&[], "a");
    compile(&[], "same");
    compile(&["--quantize", "int8", "--accuracy", "on"], "b");
    compile(&["--size", "64x96", "--part", "vae"], "c");
    let folder = |name: &str| format!("{name}/onnx/tiny");
    let run = |a: &str, b: &str, code: i32| {
        let output = snapc(root, &["diff", &folder(a), &folder(b)]);
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run("a", "same", 0), "");
    let hidden = |text: String| -> String {
        // Digests and last digits change with the version; that they are told is enough here.
        let lines = text.lines().filter(|line| !line.contains("sha256") && !line.contains("psnr"));
        lines.collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!("diff_quantized", hidden(run("a", "b", 1)));
    insta::assert_snapshot!("diff_size", hidden(run("a", "c", 1)));
    let output = snapc(root, &["diff", &folder("a"), &folder("b"), "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let changes = found["changes"].as_array().unwrap();
    let of = |field: &str| changes.iter().find(|change| change["field"] == field).unwrap();
    assert_eq!(of("quantize.transformer")["b"], "int8");
    assert_eq!(of("quantize.transformer")["a"], Value::Null);
    assert!(of("transformer.weight_bytes")["a"].as_u64() > of("transformer.weight_bytes")["b"].as_u64());
    assert!(changes.iter().any(|change| change["field"] == "transformer/model.onnx_data.sha256"));
    let output = snapc(root, &["diff", &folder("a"), "model"]);
    assert_eq!(output.status.code(), Some(3));
}
