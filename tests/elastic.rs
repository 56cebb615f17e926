//! Elastic stores: what comes out of the chunks is what was compiled, bit for bit; a wider subnet costs what is new in it; what was altered is
//! found.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

use snapc_assemble::{INDEX, Index, Store, Weave};
use snapc_driver::{
    AssembleOptions, Assembled, CompileOptions, Elastic, Part, QuantizeChoice, Ranges, Silent, Target, When,
    Width, assemble, compile, elastic_store,
};
use snapc_ir::Class;
use snapc_tests::{files, fixture};

const SUBNETS: [&str; 3] = ["tiny", "small", "full"];

/// Compiles subnets of the fixture into a folder each.
fn compiled(pipeline: &Path, target: Target, encoding: Option<&str>, output: &Path) -> Vec<PathBuf> {
    let width = |name: &str| Width::Subnet(name.to_string());
    let mut options =
        CompileOptions::new(pipeline.to_path_buf(), width("tiny"), target, output.to_path_buf());
    options.widths = SUBNETS.map(width).to_vec();
    options.min_os = snapc_driver::MinOs::Ios18;
    options.ranges = Ranges::Off;
    if let Some(encoding) = encoding {
        let choice = QuantizeChoice { encoding: encoding.parse().unwrap(), rank: 0, activations: false };
        options.quantization.parts.insert(Part::Transformer, choice);
        options.quantization.accuracy = When::Off;
    }
    compile(&options, &mut Silent).unwrap().into_iter().map(|compiled| compiled.folder).collect()
}

fn stored(folders: &[PathBuf], place: &Path, chunk_bytes: u64) -> Elastic {
    std::fs::create_dir_all(place).unwrap();
    elastic_store(folders, place, chunk_bytes, &mut Silent).unwrap()
}

#[test]
fn each_format_comes_back_bit_for_bit() {
    for target in Target::ALL {
        for encoding in [None, Some("int4 group 32")] {
            let temp = tempfile::tempdir().unwrap();
            let folders = compiled(&fixture("shapes"), target, encoding, temp.path());
            let place = temp.path().join("store");
            let elastic = stored(&folders, &place, 100_000);
            let bytes: usize = files(&place).values().map(Vec::len).sum();
            assert_eq!(bytes as u64, elastic.bytes());
            for (name, folder) in SUBNETS.iter().zip(&folders) {
                let rebuilt = temp.path().join(format!("rebuilt-{name}"));
                Store::open(&place).unwrap().assemble(name, &rebuilt, &mut |_| {}).unwrap();
                assert!(files(&rebuilt) == files(folder), "{} {encoding:?} {name}", target.name());
            }
            // An upgrade takes the installed folder and the new chunks alone.
            let store = Store::open(&place).unwrap().installed("tiny", &folders[0]).unwrap();
            let needed: Vec<_> =
                store.needed("small").unwrap().into_iter().map(|chunk| chunk.name.clone()).collect();
            assert!(needed.len() > 1 && needed.iter().all(|name| name.starts_with("small.")), "{needed:?}");
            for chunk in files(&place).keys().filter(|name| name.to_str().unwrap().starts_with("tiny.")) {
                std::fs::remove_file(place.join(chunk)).unwrap();
            }
            let upgraded = temp.path().join("upgraded");
            let mut store = Store::open(&place).unwrap().installed("tiny", &folders[0]).unwrap();
            store.assemble("small", &upgraded, &mut |_| {}).unwrap();
            assert!(files(&upgraded) == files(&folders[1]), "{} {encoding:?}", target.name());
            assert_eq!(elastic.subnets.iter().map(|subnet| &subnet.name[..]).collect::<Vec<_>>(), SUBNETS);
        }
    }
}

#[test]
fn three_subnets_cost_what_the_widest_does() {
    let temp = tempfile::tempdir().unwrap();
    let mini = xtask::model::CONFIGS.into_iter().find(|config| config.name == "mini").unwrap();
    let pipeline = temp.path().join("mini");
    xtask::supernet(&mini, &fixture("shapes"), &pipeline, false).unwrap();
    for target in Target::ALL {
        for encoding in [None, Some("int4 group 32")] {
            let folders = compiled(&pipeline, target, encoding, &temp.path().join("compiled"));
            let place = temp.path().join("store");
            let elastic = stored(&folders, &place, u64::MAX);
            std::fs::remove_dir_all(&place).unwrap();
            println!("{} {encoding:?}: {:.4} {:?}", target.name(), elastic.ratio(), elastic.subnets);
            // What the schedule's steps compute is each width's own, and so is the layout of a key-value head alone.
            for (narrow, wide) in elastic.subnets.iter().zip(&elastic.subnets[1..]) {
                let repeated = wide.repeated_bytes as f64 / narrow.folder_bytes as f64;
                assert!(repeated < 0.02, "{} {encoding:?}: {wide:?}", target.name());
            }
            // Graphs do not shrink with the width: of the paper's size they are far less than here.
            assert!(elastic.ratio() < 1.08, "{} {encoding:?}: {:?}", target.name(), elastic.subnets);
        }
    }
    // Where a scale is that of a whole row, a narrower subnet's codes are others.
    let folders = compiled(&pipeline, Target::Onnx, Some("int8"), &temp.path().join("compiled"));
    let elastic = stored(&folders, &temp.path().join("store"), u64::MAX);
    // Most of the transformer, which is less than half of the folder.
    assert!(elastic.subnets[2].repeated_bytes * 4 > elastic.subnets[1].folder_bytes, "{elastic:?}");
}

/// A store of the fixture in one format, and the folders that it was made of.
fn small_store(temp: &Path) -> (PathBuf, Vec<PathBuf>) {
    let folders = compiled(&fixture("shapes"), Target::TfLite, None, temp);
    let place = temp.join("store");
    stored(&folders, &place, 500_000);
    (place, folders)
}

fn assembled(place: &Path, subnet: &str, output: PathBuf) -> snapc_ir::Result<Assembled> {
    let options =
        AssembleOptions { store: place.to_path_buf(), subnet: subnet.into(), installed: None, output };
    assemble(&options, &mut Silent)
}

#[test]
fn what_was_altered_is_named_and_nothing_is_written() {
    let temp = tempfile::tempdir().unwrap();
    let (place, folders) = small_store(temp.path());
    let output = temp.path().join("out");
    let fails = |subnet: &str, words: &[&str]| {
        let error = assembled(&place, subnet, output.clone()).unwrap_err();
        let text = format!("{error}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert!(!output.exists());
        // The small library function says it too, and leaves nothing.
        let made = temp.path().join("library");
        Store::open(&place).and_then(|mut store| store.assemble(subnet, &made, &mut |_| {})).unwrap_err();
        let left = std::fs::read_dir(temp.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_str().unwrap().contains("library")).collect();
        assert!(left.is_empty(), "{left:?}");
        error.class()
    };
    assert_eq!(fails("huge", &["huge", "tiny, small, full"]), Class::Usage);

    let chunk = place.join("small.000");
    let whole = std::fs::read(&chunk).unwrap();
    for at in [0, whole.len() / 2, whole.len() - 1] {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        std::fs::write(&chunk, &altered).unwrap();
        assert_eq!(fails("small", &["small.000", "altered"]), Class::Verification);
    }
    std::fs::write(&chunk, &whole[..whole.len() - 1]).unwrap();
    assert_eq!(fails("small", &["small.000", "--installed"]), Class::Input);
    std::fs::remove_file(&chunk).unwrap();
    assert_eq!(fails("small", &["small.000", "--installed"]), Class::Input);
    std::fs::write(&chunk, &whole).unwrap();

    // An installed folder that is not what was assembled.
    let weights = folders[0].join("transformer.tflite");
    let mut altered = std::fs::read(&weights).unwrap();
    let last = altered.len() - 100;
    altered[last] ^= 1;
    std::fs::write(&weights, altered).unwrap();
    let options = AssembleOptions {
        store: place.clone(),
        subnet: "small".into(),
        installed: Some(("tiny".into(), folders[0].clone())),
        output: output.clone(),
    };
    let error = assemble(&options, &mut Silent).unwrap_err();
    assert_eq!(error.class(), Class::Verification);
    assert!(error.to_string().contains("transformer.tflite came out"), "{error}");
    assert!(!output.exists());

    // What stands there and is not ours stays.
    std::fs::create_dir(&output).unwrap();
    std::fs::write(output.join("mine"), "").unwrap();
    assert_eq!(assembled(&place, "tiny", output.clone()).unwrap_err().class(), Class::Usage);
    assert!(output.join("mine").exists());

    let index = place.join(INDEX);
    let text = std::fs::read_to_string(&index).unwrap();
    std::fs::write(&index, &text[..text.len() / 2]).unwrap();
    let error = assembled(&place, "tiny", temp.path().join("other")).unwrap_err();
    assert!(error.to_string().contains("cut off") && error.class() == Class::Input, "{error}");
}

/// The index with another text, and the digest that this has.
fn signed(text: &str) -> String {
    let body = text.rsplit_once("sha256 ").unwrap().0;
    // The library signs what it prints; what it would not print is signed here.
    format!("{body}sha256 {}\n", sha256(body))
}

fn sha256(text: &str) -> String {
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), text.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    String::from_utf8(done.stdout).unwrap()[..64].to_string()
}

#[test]
fn an_index_that_does_not_add_up_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let (place, _) = small_store(temp.path());
    let text = std::fs::read_to_string(place.join(INDEX)).unwrap();
    assert_eq!(Index::parse(&text).unwrap().to_string(), text);
    assert_eq!(signed(&text), text);
    let weave = text.lines().find(|line| line.starts_with("weave") && line.contains('x')).unwrap();
    let file = text.lines().find(|line| line.ends_with(" transformer.tflite")).unwrap();
    let [_, bytes, sha, _] = file.split(' ').collect::<Vec<_>>()[..] else { panic!() };
    let words: Vec<&str> = weave.split(' ').collect();
    let with = |at: usize, word: &str| {
        let mut words = words.clone();
        words[at] = word;
        words.join(" ")
    };
    let cases = [
        ("snapc-elastic 1".to_string(), "snapc-elastic 2".to_string(), "first line"),
        (file.into(), file.replace("transformer", "../Transformer"), "leads out"),
        (file.into(), file.replace("transformer.tflite", "/etc/passwd"), "leads out"),
        (file.into(), file.replace("transformer", "a/../../b"), "leads out"),
        (file.into(), file.replace("transformer.tflite", "manifest.json"), "twice"),
        (file.into(), file.replace(sha, "zz"), "no SHA-256"),
        (file.into(), file.replace(bytes, "18446744073709551615"), "pieces have"),
        (file.into(), file.replace(bytes, "-1"), "no number"),
        ("subnet tiny\n".into(), "subnet ../tiny\n".into(), "no plain name"),
        ("subnet small\n".into(), "subnet tiny\n".into(), "twice"),
        ("subnet tiny\n".into(), String::new(), "before any subnet"),
        (" tiny.000".into(), " ../tiny.000".into(), "no plain name"),
        (weave.into(), with(1, "999"), "no narrower subnet has"),
        (weave.into(), with(2, "18446744073709551615"), "no narrower subnet has"),
        (weave.into(), with(3, "1"), "do not fit"),
        (weave.into(), with(4, "0"), "do not fit"),
        (weave.into(), with(4, "18446744073709551615"), "do not fit"),
        (weave.into(), with(5, "0x4"), "empty loop"),
        (weave.into(), with(5, "4x0"), "empty loop"),
        (weave.into(), with(5, "18446744073709551615x2"), "do not fit"),
        (weave.into(), with(5, "4"), "not COUNTxSTRIDE"),
        (weave.into(), format!("{weave}{}", " 1x999999999".repeat(20)), "do not fit"),
        (weave.into(), "weave 1 2".into(), "fewer than four"),
        (weave.into(), "knit 1 2".into(), "first word"),
        (weave.into(), "own 18446744073709551615".into(), "too large"),
        (weave.into(), "own".into(), "nothing behind"),
        (weave.into(), String::new(), "nothing behind"),
    ];
    for (from, to, words) in cases {
        let error = Index::parse(&signed(&text.replacen(&from, &to, 1))).unwrap_err();
        assert!(error.contains(words), "`{from}` as `{to}`: {error}");
    }
    let unsigned = text.replacen("own ", "own 1", 1);
    assert!(Index::parse(&unsigned).unwrap_err().contains("altered"));
    for length in 0..text.len().min(3000) {
        Index::parse(&text[..length]).unwrap_err();
    }
}

#[test]
fn a_weave_knows_where_each_byte_is_from() {
    type Loops = &'static [(u64, u64)];
    let cases: [(u64, u64, Loops); 6] = [
        (7, 4, &[]),
        (24, 4, &[(3, 8)]),
        (23, 4, &[(3, 8)]),
        (60, 3, &[(2, 30), (3, 7)]),
        (100, 2, &[(2, 40), (2, 15), (3, 4)]),
        (12, 4, &[(3, 4)]),
    ];
    for (bytes, run, loops) in cases {
        let weave = Weave { file: 0, offset: 0, bytes, run, loops: loops.to_vec() };
        let mut starts = vec![0];
        for (count, stride) in loops {
            starts =
                starts.iter().flat_map(|start| (0..*count).map(move |turn| start + turn * stride)).collect();
        }
        let is_narrower = |at: u64| starts.iter().any(|start| (*start..start + run).contains(&at));
        let mut before = 0;
        for at in 0..bytes {
            let (found, narrower, length) = weave.at(at);
            assert_eq!((found, narrower), (before, is_narrower(at)), "{weave:?} at {at}");
            assert!(length > 0 && at + length <= bytes, "{weave:?} at {at}: {length}");
            assert!((at..at + length).all(|at| is_narrower(at) == narrower), "{weave:?} at {at}");
            before += u64::from(narrower);
        }
        assert_eq!((weave.narrower(), weave.at(bytes).0), (before, before), "{weave:?}");
    }
}
