//! `snapc bundle --elastic` and `snapc assemble` as a user calls them: what a device downloads, and what comes of it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod command;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use snapc_tests::{files, runtimes};

use command::{snapc, succeed, workplace};

const SUBNETS: [&str; 3] = ["tiny", "small", "full"];

/// An elastic bundle and one of folders, with the same words.
fn bundles(root: &Path, platform: &str, more: &[&str]) -> [PathBuf; 2] {
    std::fs::write(root.join("snapc.toml"), "pipeline = \"model\"\n[bundle]\nname = \"Shapes\"\n").unwrap();
    let words = [&["bundle", "--platform", platform][..], more].concat();
    succeed(root, &[&words[..], &["-o", "whole"]].concat());
    succeed(root, &[&words[..], &["-o", "elastic", "--elastic", "--chunk-size", "400kB"]].concat());
    ["elastic", "whole"].map(|name| root.join(name))
}

fn read(bundle: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(bundle.join("bundle.json")).unwrap()).unwrap()
}

/// Where a bundle of folders has a network.
fn folder(bundle: &Path, subnet: &str) -> PathBuf {
    let found = read(bundle);
    let entry = found["subnets"].as_array().unwrap().iter().find(|entry| entry["name"] == subnet).unwrap();
    bundle.join(entry["folder"].as_str().unwrap())
}

/// Copies the chunks of a subnet, as a device downloads them.
fn download(from: &Path, to: &Path, subnet: &str) {
    std::fs::create_dir_all(to).unwrap();
    for path in files(from).keys().filter(|path| {
        let name = path.to_string_lossy();
        name == "elastic.index" || name.starts_with(&format!("{subnet}."))
    }) {
        std::fs::copy(from.join(path), to.join(path)).unwrap();
    }
}

#[test]
fn a_device_downloads_tiny_first_and_upgrades_by_the_difference() {
    for (platform, more) in [
        ("ios", &["--quantize", "int4", "--min-os", "iOS18", "--accuracy", "off"][..]),
        ("android", &[][..]),
        ("desktop", &[][..]),
    ] {
        let place = workplace();
        let root = place.path();
        let [elastic, whole] = bundles(root, platform, more);
        let found = read(&elastic)["elastic"].clone();
        let sum = |list: &Value, key: &str| {
            list.as_array().unwrap().iter().map(|one| one[key].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!(sum(&found["files"], "bytes"), found["bytes"].as_u64().unwrap());
        assert!(
            !elastic.join("subnets").exists()
                && !files(&elastic).keys().any(|path| path.to_string_lossy().contains("subnets/"))
        );

        let downloads = root.join("downloads");
        for (number, subnet) in SUBNETS.into_iter().enumerate() {
            download(&elastic.join("elastic"), &downloads, subnet);
            let output = format!("models/subnets/{subnet}");
            let mut words = vec!["assemble", "downloads", "--subnet", subnet, "-o", &output, "--json"];
            let installed;
            if number > 0 {
                let narrower = SUBNETS[number - 1];
                installed = format!("{narrower}=models/subnets/{narrower}");
                words.extend(["--installed", &installed]);
            }
            let said: Value = serde_json::from_str(&succeed(root, &words)).unwrap();
            assert_eq!(
                said["chunk_bytes"], found["subnets"][number]["download_bytes"],
                "{platform} {subnet}"
            );
            // What was downloaded is not needed any more.
            for path in files(&downloads).keys().filter(|path| path.to_string_lossy().starts_with(subnet)) {
                std::fs::remove_file(downloads.join(path)).unwrap();
            }
            assert!(files(&root.join(&output)) == files(&folder(&whole, subnet)), "{platform} {subnet}");
        }
        // A bundle with a store is one like others.
        let run = ["--subnet", "small", "--prompt", "a red circle", "--seed", "3", "-o"];
        succeed(root, &[&["run", "elastic"][..], &run, &["one.png"]].concat());
        succeed(root, &[&["run", "whole"][..], &run, &["other.png"]].concat());
        assert!(
            std::fs::read(root.join("one.png")).unwrap() == std::fs::read(root.join("other.png")).unwrap()
        );
        if platform == "desktop" {
            succeed(root, &["verify", "elastic", "--prompts", "1"]);
            draws(root, &elastic, &whole);
        }
        let chunk = elastic.join("elastic/small.000");
        let mut bytes = std::fs::read(&chunk).unwrap();
        bytes[0] ^= 1;
        std::fs::write(&chunk, bytes).unwrap();
        let output = snapc(root, &["verify", "elastic"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("altered: elastic/small.000"));
    }
}

/// The loader of an elastic bundle takes networks from where they were assembled, and the rest from the bundle.
fn draws(root: &Path, elastic: &Path, whole: &Path) {
    let draw = |bundle: &Path, more: &[&str]| {
        let mut command = Command::new(runtimes::python());
        command.arg(bundle.join("generate.py")).args(["a red circle", "--seed", "3", "--subnet", "small"]);
        command.args(more).args(["-o", "drawn.png"]).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(root);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::read(root.join("drawn.png")).unwrap()
    };
    assert!(draw(elastic, &["--models", "models"]) == draw(whole, &[]));
}

#[test]
fn elastic_bundles_repeat_and_say_what_is_stored_twice() {
    let (here, there) = (workplace(), workplace());
    let [one, _] = bundles(here.path(), "android", &[]);
    let [other, _] = bundles(there.path(), "android", &["--jobs", "1"]);
    assert!(files(&one) == files(&other));
    let words = [
        "bundle",
        "--platform",
        "desktop",
        "--quantize",
        "int8",
        "--accuracy",
        "off",
        "--elastic",
        "-o",
        "int8",
    ];
    let output = snapc(here.path(), &words);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("stored twice") && said.contains("int4 in blocks"),
        "{said}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("elastic store") && text.contains("to download"), "{text}");
}

#[test]
fn what_cannot_be_assembled_is_said() {
    let place = workplace();
    let root = place.path();
    bundles(root, "android", &[]);
    let rows: [(&[&str], i32, &[&str]); 6] = [
        (&["assemble", "elastic/elastic", "--subnet", "huge"], 2, &["huge", "tiny, small, full"]),
        (&["assemble", "elastic", "--subnet", "tiny"], 3, &["elastic.index"]),
        (&["assemble", "elastic/elastic", "--subnet", "small", "--installed", "tiny"], 2, &["NAME=DIR"]),
        (&["assemble", "elastic/elastic", "--subnet", "small", "--installed", "huge=x"], 2, &["huge"]),
        (
            &["assemble", "elastic/elastic", "--subnet", "small", "--installed", "tiny=nowhere"],
            3,
            &["nowhere"],
        ),
        (&["bundle", "--platform", "ios", "--elastic", "--chunk-size", "1"], 2, &["--chunk-size"]),
    ];
    for (words, code, said) in rows {
        let output = snapc(root, &[words, &["-o", "out"]].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        assert!(said.iter().all(|word| text.contains(word)), "{words:?}: {text}");
        assert!(!root.join("out").exists(), "{words:?}");
    }
}
