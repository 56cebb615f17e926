//! Digests of files: of what a compile read, and of what it wrote. What a folder holds against what its manifest says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use snapc_backend::Written;
use snapc_ir::{Class, Error, Result};
use snapc_weights::{Sha256, hexadecimal};

use crate::manifest::Manifest;

/// The manifest: it holds the digests of the files beside it, so it has none of its own there.
pub const MANIFEST: &str = "manifest.json";

/// The statement about a folder, which holds the manifest's digest, so the manifest cannot hold its.
pub const PROVENANCE: &str = "provenance.intoto.json";

/// What of the statement is a predicate alone.
pub const PREDICATE: &str = "provenance.predicate.json";

/// Files that no manifest lists.
pub const UNLISTED: [&str; 3] = [MANIFEST, PROVENANCE, PREDICATE];

/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;

/// A file of a compiled folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path in the folder, with `/` between names.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
}

/// The SHA-256 of a file's bytes, hexadecimal.
///
/// # Errors
/// If it cannot be read.
pub fn digest(path: &Path) -> Result<String> {
    let failed = |error: std::io::Error| Error::io("read", path, &error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut block) = (Sha256::default(), vec![0; BLOCK]);
    loop {
        match file.read(&mut block).map_err(failed)? {
            0 => return Ok(hexadecimal(&hash.finish())),
            count => hash.update(&block[..count]),
        }
    }
}

/// The SHA-256 of bytes, hexadecimal.
pub fn digest_of(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::of(bytes))
}

/// The digests of files, in their order, on all threads.
///
/// # Errors
/// As [`digest`].
pub fn digests(paths: &[PathBuf]) -> Result<Vec<String>> {
    in_order(paths.par_iter().map(|path| digest(path)).collect())
}

/// The first error of the list, whichever was found first.
fn in_order<T>(all: Vec<Result<T>>) -> Result<Vec<T>> {
    all.into_iter().collect()
}

/// What a folder holds, but for some files, in the order of their paths. Those that were hashed as they were written are not read again.
///
/// # Errors
/// If a folder or a file cannot be read.
pub fn list(folder: &Path, but: &[&str], written: &[Written]) -> Result<Vec<FileEntry>> {
    let entry = |name: String| {
        let path = folder.join(&name);
        let bytes = length(&path)?;
        let known = written.iter().find(|file| file.path == path && file.bytes == bytes);
        let sha256 = match known.and_then(|file| file.sha256) {
            Some(hash) => hexadecimal(&hash),
            None => digest(&path)?,
        };
        Ok(FileEntry { path: name, bytes, sha256 })
    };
    let names: Vec<String> =
        names(folder)?.into_iter().filter(|name| !but.contains(&name.as_str())).collect();
    in_order(names.into_par_iter().map(entry).collect())
}

/// A file's length.
///
/// # Errors
/// If there is none.
pub fn length(path: &Path) -> Result<u64> {
    std::fs::metadata(path).map(|data| data.len()).map_err(|error| Error::io("read", path, &error))
}

/// The paths of all files under a folder, with `/` between names.
fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let mut open = vec![String::new()];
    while let Some(prefix) = open.pop() {
        let path = folder.join(&prefix);
        let failed = |error: std::io::Error| Error::io("read", &path, &error);
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                open.push(format!("{name}/"));
            } else {
                all.insert(name);
            }
        }
    }
    Ok(all)
}

/// A folder, and what it has to hold.
pub struct Listed {
    /// The folder.
    pub folder: PathBuf,
    /// The file that says so.
    pub index: &'static str,
    /// The files.
    pub files: Vec<FileEntry>,
}

impl Listed {
    /// What a folder's manifest lists.
    ///
    /// # Errors
    /// If it has none.
    pub fn compiled(folder: &Path) -> Result<Self> {
        let files = Manifest::read(folder)?.files;
        Ok(Listed { folder: folder.to_path_buf(), index: MANIFEST, files })
    }
}

/// How a folder differs from what is listed, a line each: altered, missing and unlisted files.
///
/// # Errors
/// If a file cannot be read.
pub fn differences(listed: &Listed) -> Result<Vec<String>> {
    let Listed { folder, index, files } = listed;
    let but = if *index == MANIFEST { UNLISTED.to_vec() } else { vec![*index] };
    let found: BTreeMap<String, FileEntry> =
        list(folder, &but, &[])?.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
    let mut lines = Vec::new();
    let mut listed = BTreeSet::new();
    for entry in files {
        listed.insert(&entry.path);
        match found.get(&entry.path) {
            None => lines.push(format!("missing: {}", entry.path)),
            Some(file) if file.bytes != entry.bytes => {
                lines.push(format!("altered: {}: {} bytes, not {}", entry.path, file.bytes, entry.bytes));
            }
            Some(file) if file.sha256 != entry.sha256 => {
                let [new, old] =
                    [&file.sha256, &entry.sha256].map(|digest| digest.get(..12).unwrap_or(digest));
                lines.push(format!("altered: {}: SHA-256 {new}.., not {old}..", entry.path));
            }
            Some(_) => {}
        }
    }
    lines
        .extend(found.keys().filter(|path| !listed.contains(path)).map(|path| format!("not listed: {path}")));
    Ok(lines)
}

/// Fails unless folders hold what is listed.
///
/// # Errors
/// Every file that differs, of all folders.
pub fn check(folders: &[Listed]) -> Result<()> {
    let (mut lines, mut indexes) = (Vec::new(), BTreeSet::new());
    for listed in folders {
        let found = differences(listed)?;
        if !found.is_empty() {
            indexes.insert(listed.index);
        }
        lines.extend(found.into_iter().map(|line| format!("\n  {}: {line}", listed.folder.display())));
    }
    let index = indexes.into_iter().collect::<Vec<_>>().join(" or ");
    let what = match lines.len() {
        0 => return Ok(()),
        1 => format!("a file is not what {index} says"),
        count => format!("{count} files are not what {index} says"),
    };
    Err(Error::new(Class::Verification, what + &lines.concat())
        .help("copy the folder again, or compile it again; what is not listed does not belong there"))
}
