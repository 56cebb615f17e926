//! `Manifest.json` and the files that it lists (coremltools, `modelpackage/src/ModelPackage.cpp`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use snapc_ir::{Error, Place, Result};

use super::Reading;

/// Bounds before memory is asked for: both files are far smaller than this where snapc wrote them.
const LONGEST_MANIFEST: u64 = 1 << 20;
const LONGEST_MODEL: u64 = 1 << 28;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest {
    file_format_version: String,
    item_info_entries: BTreeMap<String, Item>,
    root_model_identifier: String,
}

/// All four are required, also the ones that nothing depends on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    path: String,
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "author")]
    _author: String,
    #[serde(rename = "description")]
    _description: String,
}

/// The files of a package, as its manifest lists them.
pub struct Package {
    folder: PathBuf,
    model: PathBuf,
    /// Files and folders of the manifest.
    items: Vec<PathBuf>,
}

impl Package {
    /// Reads the manifest; every item must exist, inside the package.
    ///
    /// # Errors
    /// If the manifest or an item is missing, or the manifest is not what ModelPackage defines.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("Manifest.json");
        let text = bounded(&path, LONGEST_MANIFEST)?;
        let fail = |reason: String| Error::input(reason).at(Place::File(path.clone()));
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| fail(format!("it is no package manifest: {error}")))?;
        if manifest.file_format_version != "1.0.0" {
            return Err(fail(format!("its format is {}, expected 1.0.0", manifest.file_format_version)));
        }
        let mut items = BTreeMap::new();
        for (identifier, item) in &manifest.item_info_entries {
            let inside = inside(&item.path).map_err(fail)?;
            let item = folder.join("Data").join(inside);
            check_contained(folder, &item).map_err(fail)?;
            items.insert(identifier.as_str(), item);
        }
        let root = manifest.root_model_identifier.as_str();
        let model =
            items.get(root).ok_or_else(|| fail(format!("it lists no item {root}, its root model")))?;
        if !model.is_file() {
            return Err(fail("its root model is no file".to_string()));
        }
        Ok(Package {
            folder: folder.to_path_buf(),
            model: model.clone(),
            items: items.into_values().collect(),
        })
    }

    /// The model file.
    pub fn model(&self) -> &Path {
        &self.model
    }

    /// The bytes of the model file.
    pub fn model_bytes(&self) -> Result<Vec<u8>> {
        bounded(&self.model, LONGEST_MODEL)
    }

    /// A file beside the model, which an item must be or hold.
    pub fn beside_model(&self, name: &str) -> Reading<PathBuf> {
        let path = self.model.parent().unwrap_or(&self.folder).join(inside(name)?);
        if !self.items.iter().any(|item| path.starts_with(item)) {
            return Err(format!("the manifest lists no {name}"));
        }
        check_contained(&self.folder, &path)?;
        Ok(path)
    }
}

/// A relative path that cannot leave the folder it is joined to.
fn inside(path: &str) -> Reading<&Path> {
    let plain = |component: Component| matches!(component, Component::Normal(_));
    if path.is_empty() || !Path::new(path).components().all(plain) {
        return Err(format!("`{path}` leads out of the package"));
    }
    Ok(Path::new(path))
}

/// A link could still lead out, so where the path ends up is asked.
fn check_contained(folder: &Path, path: &Path) -> Reading<()> {
    let real = |path: &Path| {
        fs::canonicalize(path).map_err(|error| format!("cannot find {}: {error}", path.display()))
    };
    if real(path)?.starts_with(real(folder)?) {
        Ok(())
    } else {
        Err(format!("{} leads out of the package", path.display()))
    }
}

fn bounded(path: &Path, longest: u64) -> Result<Vec<u8>> {
    let length = fs::metadata(path).map_err(|error| Error::io("read", path, &error))?.len();
    if length > longest {
        return Err(Error::input(format!("it has {length} bytes, more than the {longest} that snapc reads"))
            .at(Place::File(path.to_path_buf())));
    }
    fs::read(path).map_err(|error| Error::io("read", path, &error))
}
