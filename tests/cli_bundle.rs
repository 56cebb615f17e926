//! `snapc bundle` as a user calls it: what stands where, that it repeats, what `verify` and `inspect` say of it, and what is refused.
#![allow(clippy::unwrap_used, clippy::panic)]

mod command;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use snapc_tests::{copy_folder, files};

use command::{snapc, succeed, workplace};

const PLATFORMS: [&str; 3] = ["ios", "android", "desktop"];

/// All networks, as the table says them.
const TOML: &str = "pipeline = \"model\"\n[bundle]\nname = \"Shapes\"\n";

fn bundle(root: &Path, platform: &str, more: &[&str]) -> String {
    succeed(root, &[&["bundle", "--platform", platform][..], more].concat())
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The paths under a folder, with what changes with every weight left out.
fn tree(written: &BTreeMap<PathBuf, Vec<u8>>) -> String {
    written.keys().map(|path| format!("{}\n", path.display())).collect()
}

/// Every file that a bundle lists, with its digest.
fn listed(bundle: &Value) -> BTreeMap<String, (u64, String)> {
    let subnets = bundle["subnets"].as_array().unwrap().iter().map(|subnet| &subnet["files"]);
    let lists = subnets.chain([&bundle["shared"]["files"], &bundle["sources"]]);
    let entries = lists.flat_map(|list| list.as_array().unwrap());
    entries
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap().to_string();
            (text("path"), (entry["bytes"].as_u64().unwrap(), text("sha256")))
        })
        .collect()
}

#[test]
fn bundles_repeat_and_hold_what_they_list() {
    let (here, there) = (workplace(), tempfile::tempdir().unwrap());
    let root = here.path();
    let deep = there.path().join("some where/é");
    copy_folder(&root.join("model"), &deep.join("model"));
    for folder in [root, &deep] {
        std::fs::write(folder.join("snapc.toml"), TOML).unwrap();
    }
    for platform in PLATFORMS {
        let said = bundle(root, platform, &[]);
        insta::assert_snapshot!(format!("bundle_{platform}"), said);
        let folder = root.join("dist/bundle").join(platform);
        let written = files(&folder);
        insta::assert_snapshot!(format!("bundle_tree_{platform}"), tree(&written));
        // What networks share lies in one place.
        let places: BTreeSet<String> = written
            .keys()
            .filter(|path| path.to_string_lossy().to_lowercase().replace('_', "").contains("textencoder"))
            .map(|path| path.to_string_lossy().split("shared/").next().unwrap().to_string())
            .collect();
        assert_eq!(places.len(), 1, "{places:?}");

        let found = read(&folder.join("bundle.json"));
        let listed = listed(&found);
        let paths: BTreeSet<String> = written.keys().map(|path| path.display().to_string()).collect();
        let expected: BTreeSet<String> = listed.keys().cloned().chain(["bundle.json".to_string()]).collect();
        assert_eq!(paths, expected);
        for (path, (bytes, _)) in &listed {
            assert_eq!(*bytes, written[Path::new(path)].len() as u64, "{path}");
        }
        // Another folder, other threads: the same bytes. And over what is there.
        bundle(&deep, platform, &["--jobs", "1"]);
        assert!(written == files(&deep.join("dist/bundle").join(platform)), "{platform}: the bytes differ");
        bundle(root, platform, &[]);
        assert!(written == files(&folder), "{platform}: the bytes differ");
    }
    let left: Vec<_> = files(&root.join("dist"))
        .into_keys()
        .filter(|path| path.to_string_lossy().contains(".snapc"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn verify_and_inspect_take_bundles() {
    let place = workplace();
    let root = place.path();
    std::fs::write(root.join("snapc.toml"), TOML).unwrap();
    for platform in PLATFORMS {
        bundle(root, platform, &["--subnet", "tiny", "--subnet", "small"]);
        let folder = format!("dist/bundle/{platform}");
        let said = succeed(root, &["verify", &folder, "--prompts", "1", "--json"]);
        let found: Value = serde_json::from_str(&said).unwrap();
        let folders = found["folders"].as_array().unwrap();
        assert_eq!(folders.len(), 2);
        for (verified, subnet) in folders.iter().zip(["tiny", "small"]) {
            assert!(
                verified["folder"].as_str().unwrap().ends_with(&format!("subnets/{subnet}")),
                "{verified}"
            );
            assert_eq!(verified["rows"].as_array().unwrap().len(), 4);
        }
        assert!(succeed(root, &["inspect", &folder]).contains(platform));
        let inspected: Value = serde_json::from_str(&succeed(root, &["inspect", &folder, "--json"])).unwrap();
        assert_eq!((&inspected["kind"], &inspected["name"]), (&"bundle".into(), &"Shapes".into()));

        let run = ["run", &folder, "--prompt", "a red circle", "--seed", "3"];
        succeed(root, &[&run[..], &["--subnet", "small", "-o", "bundled.png"]].concat());
        let target = match platform {
            "ios" => "coreml",
            "android" => "tflite",
            _ => "onnx",
        };
        succeed(root, &["compile", "--subnet", "small", "--target", target]);
        let alone = format!("dist/{target}/small");
        succeed(root, &["run", &alone, "--prompt", "a red circle", "--seed", "3", "-o", "alone.png"]);
        let [one, other] = ["bundled.png", "alone.png"].map(|name| std::fs::read(root.join(name)).unwrap());
        assert!(one == other, "{platform}: the pictures differ");
        std::fs::remove_dir_all(root.join("dist").join(target)).unwrap();
        refuse(root, &run, 2, &["which subnet?", "tiny, small"]);
        refuse(root, &[&run[..], &["--subnet", "full"]].concat(), 2, &["no subnet \"full\""]);

        let bundle = root.join(&folder);
        let path = listed(&read(&bundle.join("bundle.json")))
            .into_keys()
            .find(|path| path.contains("ransformer"))
            .unwrap();
        let original = std::fs::read(bundle.join(&path)).unwrap();
        let mut damaged = original.clone();
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(bundle.join(&path), damaged).unwrap();
        refuse(root, &["verify", &folder], 1, &[&format!("altered: {path}"), "bundle.json"]);
        std::fs::write(bundle.join(&path), original).unwrap();
        std::fs::write(bundle.join("more.txt"), "").unwrap();
        refuse(root, &["verify", &folder], 1, &["not listed: more.txt"]);
        std::fs::remove_file(bundle.join("more.txt")).unwrap();
        refuse(root, &["verify", &folder, "--record"], 2, &["nothing is recorded"]);
    }
    // All of them at once, as they lie.
    let found: Value = serde_json::from_str(&succeed(root, &["verify", "--prompts", "1", "--json"])).unwrap();
    assert_eq!(found["folders"].as_array().unwrap().len(), 6);
}

/// Runs what must fail with that exit code, saying these words, and leave nothing.
#[track_caller]
fn refuse(folder: &Path, words: &[&str], code: i32, said: &[&str]) {
    let output = snapc(folder, words);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
    for word in said {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    assert!(!folder.join("out").exists(), "{words:?}");
}

#[test]
fn what_cannot_be_bundled_is_said() {
    let place = workplace();
    let root = place.path();
    let device = |rows: &str| format!("{TOML}subnets = [\"tiny\", \"small\"]\n{rows}");
    let full = "[[bundle.device]]\nname = \"a\"\nmemory = \"6GB\"\nsubnet = \"full\"\n";
    let small = "[[bundle.device]]\nname = \"b\"\nmemory = \"6GB\"\nsubnet = \"small\"\n";
    let rest = "[[bundle.device]]\nname = \"c\"\nsubnet = \"tiny\"\n";
    let rows: [(String, &[&str], i32, &[&str]); 15] = [
        (format!("{TOML}nam = 1"), &[], 3, &["nam", "snapc.toml"]),
        (
            device("[[bundle.device]]\nname = \"a\"\nram = \"6GB\"\nsubnet = \"tiny\""),
            &[],
            3,
            &["ram", "snapc.toml"],
        ),
        (
            device("[[bundle.device]]\nname = \"a\"\nmemory = \"six\"\nsubnet = \"tiny\""),
            &[],
            3,
            &["six", "snapc.toml"],
        ),
        (device(&format!("{full}{rest}")), &[], 3, &["no subnet \"full\"", "tiny, small", "snapc.toml"]),
        (device(small), &[], 3, &["does not take every device", "snapc.toml"]),
        (device(&format!("{rest}{small}{rest}")), &[], 3, &["never looked at", "snapc.toml"]),
        (TOML.replace("Shapes", "shapes"), &[], 3, &["cannot be called", "snapc.toml"]),
        (TOML.replace("Shapes", "Tokenizer"), &[], 3, &["cannot be called", "Tokenizer"]),
        (format!("{TOML}package = \"com.Example\""), &[], 3, &["no Kotlin package"]),
        (format!("{TOML}memory-share = 1.5"), &[], 3, &["memory-share"]),
        (format!("{TOML}delivery = \"soon\""), &[], 3, &["soon", "on-demand"]),
        (TOML.to_string(), &["--subnet", "huge"], 2, &["huge"]),
        (TOML.to_string(), &["--bake", "none"], 2, &["`none` bakes none"]),
        (TOML.to_string(), &["--bake", "half"], 2, &["half"]),
        (TOML.to_string(), &["--size", "60x64"], 2, &["15 x 16"]),
    ];
    for (toml, more, code, said) in rows {
        std::fs::write(root.join("snapc.toml"), &toml).unwrap();
        for platform in ["ios", "android"] {
            refuse(root, &[&["bundle", "--platform", platform, "-o", "out"][..], more].concat(), code, said);
        }
    }
    std::fs::write(root.join("snapc.toml"), TOML).unwrap();
    refuse(root, &["bundle", "--platform", "windows", "-o", "out"], 2, &["ios, android, desktop"]);
    // A folder of somebody else is left alone.
    std::fs::create_dir(root.join("theirs")).unwrap();
    std::fs::write(root.join("theirs/a.txt"), "a").unwrap();
    refuse(root, &["bundle", "--platform", "ios", "-o", "theirs"], 2, &["snapc did not write it"]);
    assert_eq!(std::fs::read(root.join("theirs/a.txt")).unwrap(), b"a");
    // A tokenizer that Swift and Kotlin have not; Python takes it.
    let path = root.join("model/tokenizer/tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"NFC\"", "\"NFKC\"", 1)).unwrap();
    for platform in ["ios", "android"] {
        refuse(
            root,
            &["bundle", "--platform", platform, "-o", "out"],
            3,
            &["NFKC", "tokenizer.json", "--platform desktop"],
        );
    }
    bundle(root, "desktop", &["--subnet", "tiny"]);
}

/// What the table of `snapc.toml` says, and that the command line goes before it.
#[test]
fn the_table_says_names_networks_and_packs() {
    let place = workplace();
    let root = place.path();
    let toml = "pipeline = \"model\"\nsubnets = [\"full\"]\noutput = \"made\"\n[bundle]\nname = \"Pictures\"\npackage = \"com.example.pictures\"\n\
                subnets = [\"small\", \"tiny\"]\ndelivery = \"fast-follow\"\n[[bundle.device]]\nname = \"phone\"\nmemory = \"6GB\"\nchips = [\"SM8550\"]\nsubnet = \"small\"\n\
                [[bundle.device]]\nname = \"rest\"\nsubnet = \"tiny\"\n";
    std::fs::write(root.join("snapc.toml"), toml).unwrap();
    let said: Value = serde_json::from_str(&bundle(root, "android", &["--json"])).unwrap();
    assert_eq!(said["folder"], "made/bundle/android");
    let found = &said["bundle"];
    assert_eq!(*found, read(&root.join("made/bundle/android/bundle.json")));
    let of = |key: &str| {
        found["subnets"].as_array().unwrap().iter().map(|one| one[key].clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("name"), ["tiny", "small"]);
    assert_eq!(of("pack")[1], serde_json::json!({"name": "pictures_small", "delivery": "fast-follow"}));
    assert_eq!(found["devices"][0]["chips"], serde_json::json!(["SM8550"]));
    assert_eq!(found["devices"][0]["memory"], 6_000_000_000u64);
    assert!(found["stores"].as_array().unwrap().iter().all(|one| one["verdict"] == "kept"));
    let written = files(&root.join("made/bundle/android"));
    assert!(written.contains_key(Path::new("kotlin/com/example/pictures/Pictures.kt")));
    // Of widths and of named networks, only what is asked for; the table of devices must fit.
    refuse(
        root,
        &["bundle", "--platform", "ios", "--subnet", "tiny", "-o", "out"],
        3,
        &["no subnet \"small\""],
    );
    std::fs::write(root.join("snapc.toml"), "pipeline = \"model\"\n").unwrap();
    bundle(
        root,
        "ios",
        &["--width", "96", "--subnet", "tiny", "--min-os", "iOS18", "--bake", "unrolled", "-o", "out"],
    );
    let found = read(&root.join("out/bundle.json"));
    assert_eq!(found["name"], "Model");
    assert_eq!(found["subnets"][1]["name"], "width-96");
    let package = std::fs::read_to_string(root.join("out/Package.swift")).unwrap();
    assert!(package.contains(".iOS(\"18.0\")"), "{package}");
}

/// Quantized networks share what is not.
#[test]
fn networks_are_quantized_apart_from_what_they_share() {
    let place = workplace();
    let root = place.path();
    let words = [
        "bundle",
        "model",
        "--platform",
        "android",
        "-s",
        "tiny",
        "-s",
        "small",
        "--quantize",
        "int8",
        "-o",
        "out",
    ];
    succeed(root, &words);
    let found = read(&root.join("out/bundle.json"));
    let listed = listed(&found);
    let recipes = listed.keys().filter(|path| path.ends_with("recipe.toml")).count();
    assert_eq!(recipes, 2, "{:?}", listed.keys());
    succeed(root, &["verify", "out", "--pipeline", "model", "--prompts", "1"]);
}

fn keys(value: &Value, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            all.insert(key.clone());
            keys(value, all);
        }),
        Value::Array(list) => list.iter().for_each(|value| keys(value, all)),
        _ => {}
    }
}

#[test]
fn every_field_of_a_bundle_is_documented() {
    let place = workplace();
    let root = place.path();
    std::fs::write(root.join("snapc.toml"), TOML).unwrap();
    bundle(root, "android", &[]);
    let mut found = BTreeSet::new();
    keys(&read(&root.join("dist/bundle/android/bundle.json")), &mut found);
    assert!(["pack", "stores", "devices", "peak_bytes"].iter().all(|key| found.contains(*key)));
    let document = include_str!("../docs/bundle.md");
    let missing: Vec<&String> = found.iter().filter(|key| !document.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "docs/bundle.md does not tell of {missing:?}");
}
