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
    let fail = |failure| told(failure, &options.store);
    let mut store = Store::open(&options.store).map_err(fail)?;
    if let Some((subnet, folder)) = &options.installed {
        store = store.installed(subnet, folder).map_err(fail)?;
    }
    let chunk_bytes = store.needed(&options.subnet).map_err(fail)?.iter().map(|chunk| chunk.bytes).sum();
    let subnet = store.index().subnets.iter().find(|subnet| subnet.name == options.subnet);
    let sizes: Vec<u64> = subnet.iter().flat_map(|subnet| &subnet.files).map(|file| file.bytes).collect();
    let (files, bytes) = (sizes.len(), sizes.iter().sum());
    let staging = Staging::begin(&options.output)?;
    report.begin(&format!("assembling {}", options.subnet), bytes);
    let done = store.write(&options.subnet, staging.path(), &mut |bytes| report.advance(bytes));
    if let Err(Failure::Altered { path, .. }) = &done {
        check_chunks(&store, options, path)?;
    }
    done.map_err(fail)?;
    Ok(Assembled { folder: staging.finish()?, files, bytes, chunk_bytes })
}

/// Names the chunk that a file came out wrong for; none of them is where the installed folder was altered.
fn check_chunks(store: &Store, options: &AssembleOptions, file: &str) -> Result<()> {
    for chunk in store.needed(&options.subnet).map_err(|failure| told(failure, &options.store))? {
        let path = options.store.join(&chunk.name);
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
