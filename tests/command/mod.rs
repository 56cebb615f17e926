//! Running the command as a user does.

use std::path::Path;
use std::process::{Command, Output};

use snapc_tests::{copy_folder, fixture};
use tempfile::TempDir;

/// A working folder with a copy of the fixture in `model`.
pub fn workplace() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&fixture("shapes"), &folder.path().join("model"));
    folder
}

pub fn snapc(folder: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_snapc")).args(words).current_dir(folder).output().unwrap()
}

#[track_caller]
pub fn succeed(folder: &Path, words: &[&str]) -> String {
    let output = snapc(folder, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
