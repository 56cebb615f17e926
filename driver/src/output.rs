//! Output that appears whole or not at all.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use snapc_ir::{Error, Result};
use snapc_weights::{Data, Tensor};
use tempfile::TempDir;

/// A folder under construction beside the place where it will stand; dropped, it leaves nothing.
pub struct Staging {
    building: TempDir,
    place: PathBuf,
}

impl Staging {
    /// Begins a folder that will stand at `place`.
    ///
    /// # Errors
    /// If the folder above cannot be made or written, or something that snapc did not write stands there.
    pub fn begin(place: &Path) -> Result<Self> {
        let parent = place.parent().unwrap_or(Path::new("."));
        let cannot = |error: &std::io::Error| {
            Error::io("write to", parent, error).help("name another output folder with -o")
        };
        std::fs::create_dir_all(parent).map_err(|error| cannot(&error))?;
        refuse_strangers(place)?;
        let building =
            tempfile::Builder::new().prefix(".snapc-").tempdir_in(parent).map_err(|error| cannot(&error))?;
        Ok(Staging { building, place: place.to_path_buf() })
    }

    /// The folder to write into.
    pub fn path(&self) -> &Path {
        self.building.path()
    }

    /// Writes a file into it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path().join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| Error::io("make", folder, &error))?;
        }
        std::fs::write(&path, bytes).map_err(|error| Error::io("write", &path, &error))
    }

    /// Puts the folder in its place; what stood there goes only when the new one is whole.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn finish(self) -> Result<PathBuf> {
        let Staging { building, place } = self;
        let fail = |error: std::io::Error| Error::io("write", &place, &error);
        // A temporary folder is its owner's alone; an artifact has the rights of its parent.
        if let Some(rights) = place.parent().and_then(|parent| std::fs::metadata(parent).ok()) {
            std::fs::set_permissions(building.path(), rights.permissions()).map_err(fail)?;
        }
        let old =
            TempDir::with_prefix_in(".snapc-old-", place.parent().unwrap_or(Path::new("."))).map_err(fail)?;
        if place.exists() {
            std::fs::rename(&place, old.path().join("old")).map_err(fail)?;
        }
        let built = building.keep();
        if let Err(error) = std::fs::rename(&built, &place) {
            // Bring back what was there; the first error is the one to report.
            let _ = std::fs::rename(old.path().join("old"), &place);
            let _ = std::fs::remove_dir_all(&built);
            return Err(fail(error));
        }
        Ok(place)
    }
}

/// A folder is replaced whole, so it must be one that snapc wrote, or empty.
///
/// # Errors
/// If it is neither.
pub fn refuse_strangers(place: &Path) -> Result<()> {
    if !place.exists() || place.join("manifest.json").is_file() {
        return Ok(());
    }
    let empty = std::fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_none());
    if empty {
        return Ok(());
    }
    Err(Error::usage(format!("{} exists and has no manifest.json: snapc did not write it", place.display()))
        .help("remove it, or name another output folder with -o"))
}

/// Writes a file under a temporary name and renames it.
///
/// # Errors
/// If it cannot be written.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let fail = |error: &std::io::Error| Error::io("write", path, error);
    check_parent(path)?;
    let mut file = tempfile::Builder::new()
        .prefix(".snapc-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(parent(path))
        .map_err(|error| fail(&error))?;
    file.write_all(bytes).map_err(|error| fail(&error))?;
    file.persist(path).map_err(|error| fail(&error.error))?;
    Ok(())
}

/// Fails if a file has no folder to lie in: found before the work, not after it.
///
/// # Errors
/// Names the folder.
pub fn check_parent(path: &Path) -> Result<()> {
    let parent = parent(path);
    if parent.is_dir() {
        return Ok(());
    }
    Err(Error::input(format!("cannot write {}: there is no folder {}", path.display(), parent.display()))
        .help("make the folder first, or name another file"))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes f32 and i32 tensors as a safetensors file.
///
/// # Errors
/// If it cannot be written.
pub fn save_tensors(path: &Path, tensors: &[(&str, &Tensor)]) -> Result<()> {
    let encode = |tensor: &Tensor| match &tensor.data {
        Data::F32(values) => {
            (Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
        }
        Data::I32(values) => (Dtype::I32, values.iter().flat_map(|value| value.to_le_bytes()).collect()),
    };
    let encoded: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, *tensor, encode(tensor))).collect();
    let mut views = Vec::new();
    for (name, tensor, (dtype, bytes)) in &encoded {
        let view = TensorView::new(*dtype, tensor.ty.shape.clone(), bytes).map_err(Error::bug)?;
        views.push((*name, view));
    }
    write_file(path, &safetensors::serialize(views, None).map_err(Error::bug)?)
}
