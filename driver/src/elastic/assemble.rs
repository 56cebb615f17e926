use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;
use snapc_assemble::{Error as Failure, Store};
use snapc_ir::{Class, Error, Place, Result};

use crate::Report;
use crate::files::digest;
use crate::output::Staging;

/// What to do where a file is missing or short.
const MISSING: &str =
    "are all chunks of this subnet and of narrower ones there and whole, or is one of them --installed?";

/// What `assemble` is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct AssembleOptions {
    /// The store.
    pub store: PathBuf,
    /// The subnet to make.
    pub subnet: String,
    /// A narrower subnet that stands somewhere already, and where.
    pub installed: Option<(String, PathBuf)>,
    /// Where its folder will stand.
    pub output: PathBuf,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Assembled {
    /// The folder.
    pub folder: PathBuf,
    /// Its files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The bytes of the chunks that were needed.
    pub chunk_bytes: u64,
}

/// Makes a subnet's folder from an elastic store, bit for bit as it was compiled.
///
/// # Errors
/// If the store is damaged or lacks a chunk, or what comes of it has another digest: nothing is written then.
pub fn assemble(options: &AssembleOptions, report: &mut dyn Report) -> Result<Assembled> {
    let staging = Staging::begin(&options.output)?;
    let installed = options.installed.as_ref().map(|(subnet, folder)| (subnet.as_str(), folder.as_path()));
    let done = write(&options.store, &options.subnet, installed, staging.path(), report)?;
    Ok(Assembled { folder: staging.finish()?, ..done })
}

/// As [`assemble`], into an empty folder that the caller removes where this fails.
///
/// # Errors
/// As there.
pub fn write(
    from: &Path,
    subnet: &str,
    installed: Option<(&str, &Path)>,
    folder: &Path,
    report: &mut dyn Report,
) -> Result<Assembled> {
    let fail = |failure| told(failure, from);
    let mut store = Store::open(from).map_err(fail)?;
    if let Some((narrower, folder)) = installed {
        store = store.installed(narrower, folder).map_err(fail)?;
    }
    let chunk_bytes = store.needed(subnet).map_err(fail)?.iter().map(|chunk| chunk.bytes).sum();
    let entry = store.index().subnets.iter().find(|known| known.name == subnet);
    let sizes: Vec<u64> = entry.iter().flat_map(|entry| &entry.files).map(|file| file.bytes).collect();
    let (files, bytes) = (sizes.len(), sizes.iter().sum());
    report.begin(&format!("assembling {subnet}"), bytes);
    let done = store.write(subnet, folder, &mut |bytes| report.advance(bytes));
    if let Err(Failure::Altered { path, .. }) = &done {
        check_chunks(&store, from, subnet, path)?;
    }
    done.map_err(fail)?;
    Ok(Assembled { folder: folder.to_path_buf(), files, bytes, chunk_bytes })
}

/// Names the chunk that a file came out wrong for; none of them is where the installed folder was altered.
fn check_chunks(store: &Store, from: &Path, subnet: &str, file: &str) -> Result<()> {
    for chunk in store.needed(subnet).map_err(|failure| told(failure, from))? {
        let path = from.join(&chunk.name);
        let found = digest(&path)?;
        if found != chunk.sha256 {
            let (new, old) = (&found[..12], &chunk.sha256[..12]);
            let what = format!("it was altered: SHA-256 {new}.., not {old}..; {file} comes out wrong");
            return Err(Error::new(Class::Verification, what)
                .at(Place::File(path))
                .help("copy or download this chunk again"));
        }
    }
    Ok(())
}

/// A failure in the words of snapc.
fn told(failure: Failure, store: &Path) -> Error {
    match failure {
        Failure::Io { path, error } => {
            let cannot = Error::io("use", &path, &error);
            match error.kind() {
                ErrorKind::NotFound | ErrorKind::UnexpectedEof => cannot.help(MISSING),
                _ => cannot,
            }
        }
        Failure::Damaged { path, what } => {
            Error::input(what).at(Place::File(path)).help("copy or download the index again")
        }
        failure @ Failure::Altered { .. } => Error::new(Class::Verification, failure.to_string())
            .at(Place::File(store.to_path_buf()))
            .help("copy or download what was altered again"),
        failure @ Failure::NoSubnet { .. } => {
            Error::usage(failure.to_string()).at(Place::File(store.to_path_buf()))
        }
        other => Error::bug(other),
    }
}
