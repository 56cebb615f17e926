//! Where a bundle's models lie: what all networks share once, and a folder for each network.

use std::collections::BTreeSet;
use std::path::Path;

use snapc_frontends::Part;
use snapc_ir::{Error, Result};

use super::config::{Delivery, Names};
use super::entry::{PackEntry, SharedEntry, SubnetEntry};
use super::{Platform, size};
use crate::compile::Compiled;
use crate::files::{self, FileEntry};
use crate::manifest::Manifest;

/// Where things stand in a bundle.
pub struct Places<'a> {
    /// The platform.
    pub platform: Platform,
    /// What things are called.
    pub names: &'a Names,
    /// How asset packs come to a device, but the one with what is shared.
    pub delivery: Delivery,
    /// The network that comes with what is shared; none where no other has a pack either.
    pub first: Option<String>,
}

impl Places<'_> {
    /// The folder of the models that a network is looked for in; for Android, one in each asset pack.
    fn models(&self, pack: Option<&PackEntry>) -> String {
        match (self.platform, pack) {
            (Platform::Ios, _) => format!("Sources/{}/Models/", self.names.class),
            (Platform::Android, Some(pack)) => {
                format!("{}/src/main/assets/{}/", pack.name, self.names.assets)
            }
            (Platform::Android, None) | (Platform::Desktop, _) => String::new(),
        }
    }

    /// The asset pack of what is shared, or of a network.
    fn pack(&self, subnet: Option<&str>) -> Option<PackEntry> {
        let packed = self.platform == Platform::Android;
        packed.then(|| match subnet {
            Some(subnet) if self.first.as_ref().is_some_and(|first| subnet != first) => {
                PackEntry { name: self.names.pack(subnet), delivery: self.delivery }
            }
            _ => PackEntry { name: self.names.pack("base"), delivery: Delivery::InstallTime },
        })
    }
}

/// Moves what compiles wrote into a bundle's folder. `compiled` are folders of all parts, one a network, the smallest first; what they share has
/// to be the same bytes in each.
///
/// # Errors
/// If it is not, or a file cannot be moved.
pub fn lay_out(
    places: &Places,
    compiled: &[Compiled],
    into: &Path,
) -> Result<(SharedEntry, Vec<SubnetEntry>)> {
    let first = compiled.first().ok_or_else(|| Error::bug("a bundle without networks"))?;
    let pack = places.pack(None);
    let folder = format!("{}shared", places.models(pack.as_ref()));
    let shared = shared_files(&first.manifest);
    for other in &compiled[1..] {
        same(&first.manifest, &other.manifest)?;
    }
    for top in tops(&shared) {
        rename(&first.folder.join(top), &into.join(&folder).join(top))?;
    }
    let files = prefixed(&shared, &folder);
    let shared_entry = SharedEntry { folder, pack, bytes: size(&files), files };
    let mut subnets = Vec::new();
    for Compiled { folder: from, manifest, .. } in compiled {
        let name = manifest.label();
        let pack = places.pack(Some(&name));
        let folder = format!("{}subnets/{name}", places.models(pack.as_ref()));
        let own: Vec<FileEntry> =
            manifest.files.iter().filter(|file| !is_shared(manifest, &file.path)).cloned().collect();
        let mut names = tops(&own);
        names.extend(files::UNLISTED.into_iter().filter(|name| from.join(name).is_file()));
        for name in names {
            rename(&from.join(name), &into.join(&folder).join(name))?;
        }
        let files = files::list(&into.join(&folder), &[], &[])?;
        let files = prefixed(&files, &folder);
        subnets.push(SubnetEntry {
            name,
            width: manifest.options.width,
            pack,
            bytes: size(&files),
            peak_bytes: manifest.parts.iter().map(|part| part.memory.peak_bytes).max().unwrap_or_default(),
            files,
            folder,
        });
    }
    Ok((shared_entry, subnets))
}

/// Whether a file is the same for all networks: the other parts, the tokenizer, and what opens an ONNX folder as a pipeline.
fn is_shared(manifest: &Manifest, path: &str) -> bool {
    let top = top(path);
    let part = manifest.parts.iter().find(|part| part.artifact == top);
    part.map_or(["tokenizer", "scheduler", "model_index.json"].contains(&top), |part| {
        part.part != Part::Transformer.name()
    })
}

fn shared_files(manifest: &Manifest) -> Vec<FileEntry> {
    manifest.files.iter().filter(|file| is_shared(manifest, &file.path)).cloned().collect()
}

/// Fails unless two networks have the same shared files and take and give the same.
fn same(one: &Manifest, other: &Manifest) -> Result<()> {
    let (ours, theirs) = (shared_files(one), shared_files(other));
    let differ =
        ours.iter().find(|file| !theirs.contains(file)).or(theirs.iter().find(|file| !ours.contains(file)));
    if let Some(file) = differ {
        let names = format!("{} and {}", one.label(), other.label());
        let coded = |part: &String| part != Part::Transformer.name();
        let message = format!("{} is not the same for {names}", file.path);
        // A calibration is of one network: what it measures of a shared part is that network's.
        return Err(match one.options.quantized.iter().any(coded) {
            true => Error::usage(format!("{message}: it is quantized by what was measured of each"))
                .help("quantize the transformer alone, or the other parts by a method that measures nothing"),
            false => Error::bug(message),
        });
    }
    let ports = |manifest: &Manifest| -> Vec<_> {
        manifest
            .parts
            .iter()
            .map(|part| (part.part.clone(), part.inputs.clone(), part.outputs.clone()))
            .collect()
    };
    if ports(one) != ports(other) || one.schedule != other.schedule {
        return Err(Error::bug("networks of one bundle take or give different things"));
    }
    Ok(())
}

fn top(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

/// The files and folders that hold these files.
fn tops(files: &[FileEntry]) -> BTreeSet<&str> {
    files.iter().map(|file| top(&file.path)).collect()
}

/// Files of a folder as files of the bundle.
pub fn prefixed(files: &[FileEntry], folder: &str) -> Vec<FileEntry> {
    files.iter().map(|file| FileEntry { path: format!("{folder}/{}", file.path), ..file.clone() }).collect()
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(|error| Error::io("make", parent, &error))?;
    }
    std::fs::rename(from, to).map_err(|error| Error::io("move", from, &error))
}
