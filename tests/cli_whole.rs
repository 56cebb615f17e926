//! Output appears whole or not at all: when the process is killed, the disk is full, a permission is lost, or the input changes while it
//! is read.
#![allow(clippy::unwrap_used, clippy::panic)]

mod command;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use snapc_tests::files;

use command::{snapc, succeed, workplace};

const COMPILE: [&str; 8] = ["compile", "model", "-s", "tiny", "-t", "onnx", "-o", "out"];
const PLACE: &str = "out/onnx/tiny";

/// Another output in the same place.
fn other() -> Vec<&'static str> {
    [&COMPILE[..], &["--precision", "f32"]].concat()
}

/// What lies beside the output folder.
fn beside(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("out/onnx")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "tiny").collect()
}

/// The files of both outputs.
fn both(root: &Path) -> [BTreeMap<PathBuf, Vec<u8>>; 2] {
    succeed(root, &other());
    let new = files(&root.join(PLACE));
    succeed(root, &COMPILE);
    [files(&root.join(PLACE)), new]
}

#[test]
fn a_kill_leaves_the_old_output_or_the_new_one() {
    let place = workplace();
    let root = place.path();
    let [old, new] = both(root);
    let start = Instant::now();
    succeed(root, &other());
    let mut whole = start.elapsed();
    let (mut kills, mut left) = (0, 0);
    // Parts of 400 of a compile, denser at the end, where folders change places.
    for part in (0..16).map(|part| 25 * part).chain((0..24).map(|part| 320 + 4 * part)) {
        let point = whole * part / 400;
        succeed(root, &COMPILE);
        assert_eq!(beside(root), [""; 0], "a compile clears away what a killed one left");
        let mut child = Command::new(env!("CARGO_BIN_EXE_snapc"))
            .args(other())
            .current_dir(root)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(point);
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            // The first one ran beside other work: it takes less time than that.
            whole = whole.min(point);
        } else {
            kills += 1;
        }
        let found = files(&root.join(PLACE));
        assert!(found == old || found == new, "after {point:?} the folder is neither");
        left += beside(root).len();
    }
    assert!(kills >= 15, "{kills} compiles were killed");
    assert!(left > 0, "no kill came while a folder was under construction");
}

/// Two compiles at once do not clear away each other's folders; both end whole.
#[test]
fn what_is_in_use_is_left_alone() {
    let place = workplace();
    let root = place.path();
    let [old, new] = both(root);
    let spawn = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snapc"));
        command.args(words).current_dir(root).stdout(Stdio::null()).spawn().unwrap()
    };
    for _ in 0..4 {
        let mut all = [spawn(&COMPILE), spawn(&other()), spawn(&COMPILE)];
        assert!(all.iter_mut().all(|child| child.wait().unwrap().success()));
        let found = files(&root.join(PLACE));
        assert!(found == old || found == new);
        assert_eq!(beside(root), [""; 0]);
    }
}

/// Where two folders cannot change places at once, a kill may come between two renames.
#[test]
fn a_folder_that_was_moved_away_is_brought_back() {
    let place = workplace();
    let root = place.path();
    succeed(root, &COMPILE);
    let (folder, away) = (root.join(PLACE), root.join("out/onnx/.snapc-old-tiny"));
    let old = files(&folder);
    std::fs::rename(&folder, &away).unwrap();
    std::fs::write(root.join("model/vae/diffusion_pytorch_model.safetensors"), b"").unwrap();
    assert_eq!(snapc(root, &COMPILE).status.code(), Some(3));
    assert!(files(&folder) == old);
    assert_eq!(beside(root), [""; 0]);
}

/// Runs it under a shell's limit of the size of files; a limit is a disk that is full at some byte.
fn limited(root: &Path, before: &str, words: &[&str]) -> Output {
    let script = format!("{before}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_snapc")]).args(words);
    command.current_dir(root).output().unwrap()
}

fn error(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert_eq!(said.matches("error: ").count(), 1, "{said}");
    said
}

#[test]
fn a_full_disk_leaves_the_old_output() {
    let place = workplace();
    let root = place.path();
    succeed(root, &COMPILE);
    let old = files(&root.join(PLACE));
    for blocks in [0, 1, 16, 100, 400] {
        let said = error(&limited(root, &format!("trap '' XFSZ; ulimit -f {blocks}"), &other()));
        assert!(said.contains("cannot write") && said.contains(".snapc-building-"), "{said}");
        assert!(files(&root.join(PLACE)) == old);
        assert_eq!(beside(root), [""; 0]);
        // Without the trap the system kills it.
        let output = limited(root, &format!("ulimit -f {blocks}"), &other());
        assert_eq!(output.status.code(), None);
        assert!(files(&root.join(PLACE)) == old);
    }
    let fresh: Vec<&str> = COMPILE[..7].iter().copied().chain(["fresh"]).collect();
    error(&limited(root, "trap '' XFSZ; ulimit -f 16", &fresh));
    assert_eq!(files(&root.join("fresh")).len(), 0);
    succeed(root, &COMPILE);
    assert_eq!(beside(root), [""; 0]);

    let run = ["run", PLACE, "--prompt", "a", "-o", "/dev/full"];
    let said = error(&snapc(root, &run));
    assert!(said.contains("/dev/full"), "{said}");
    let run = ["run", PLACE, "--prompt", "a", "-o", "out.png"];
    std::fs::write(root.join("out.png"), b"old").unwrap();
    error(&limited(root, "trap '' XFSZ; ulimit -f 0", &run));
    assert_eq!(std::fs::read(root.join("out.png")).unwrap(), b"old");
}

/// Root may write anywhere: there, `/proc` is the folder in which nobody can make one.
#[test]
fn a_lost_permission_leaves_the_old_output() {
    let place = workplace();
    let root = place.path();
    succeed(root, &COMPILE);
    let old = files(&root.join(PLACE));
    let parent = root.join("out/onnx");
    let rights = |mode| std::fs::set_permissions(&parent, std::fs::Permissions::from_mode(mode)).unwrap();
    rights(0o555);
    if std::fs::write(parent.join("probe"), b"").is_ok() {
        std::fs::remove_file(parent.join("probe")).unwrap();
    } else {
        let said = error(&snapc(root, &other()));
        assert!(said.contains("cannot write to out/onnx"), "{said}");
    }
    rights(0o755);
    let words: Vec<&str> = COMPILE[..7].iter().copied().chain(["/proc/out"]).collect();
    let said = error(&snapc(root, &words));
    assert!(said.contains("/proc/out"), "{said}");
    assert!(files(&root.join(PLACE)) == old);
}

/// A checkpoint that becomes shorter, or other numbers of the same length, at many moments of a compile: it is seen and named, or all
/// had been read, or nothing yet.
#[test]
fn an_input_that_changes_while_it_is_read() {
    let place = workplace();
    let root = place.path();
    let [old, new] = both(root);
    let weights = root.join("model/vae/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let mut others = bytes.clone();
    let last = others.len() - 2;
    others[last] ^= 1;
    std::fs::write(&weights, &others).unwrap();
    let start = Instant::now();
    succeed(root, &other());
    let whole = start.elapsed();
    let altered = files(&root.join(PLACE));
    assert!(altered != new);
    std::fs::write(&weights, &bytes).unwrap();
    let shorter =
        |path: &Path| std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(5000).unwrap();
    let rewritten = |path: &Path| std::fs::write(path, &others).unwrap();
    let moved = |path: &Path| {
        std::fs::write(path.with_extension("new"), &others).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    };
    let changes: [&dyn Fn(&Path); 3] = [&shorter, &rewritten, &moved];
    for (number, change) in changes.iter().enumerate() {
        let mut seen = 0;
        for part in 0..20 {
            succeed(root, &COMPILE);
            let mut command = Command::new(env!("CARGO_BIN_EXE_snapc"));
            let child = command.args(other()).current_dir(root).stdout(Stdio::null()).stderr(Stdio::piped());
            let child = child.spawn().unwrap();
            std::thread::sleep(Duration::max(whole * part / 20, Duration::from_millis(1)));
            change(&weights);
            let output = child.wait_with_output().unwrap();
            std::fs::write(&weights, &bytes).unwrap();
            let found = files(&root.join(PLACE));
            if output.status.success() {
                assert!(found == new || found == altered, "change {number} at {part}");
                continue;
            }
            let said = error(&output);
            assert!(said.contains("vae/diffusion_pytorch_model.safetensors"), "{said}");
            assert!(found == old);
            seen += 1;
        }
        assert!(seen > 0, "no compile was disturbed by change {number}");
    }
}
