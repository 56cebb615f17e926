//! Output that appears whole or not at all.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use snapc_ir::{Error, Result};
use snapc_weights::{Data, Tensor};
use tempfile::TempDir;

use crate::bundle::BUNDLE;
use crate::files::MANIFEST;

/// How names of what is under construction begin.
const BUILDING: &str = ".snapc-building-";

/// How the name of a folder begins that is moved away where two folders cannot change places at once.
const OLD: &str = ".snapc-old-";

/// A folder under construction beside the place where it will stand; dropped, it leaves nothing. It is locked while its process lives,
/// so that what a killed one leaves is told from what another one writes.
pub struct Staging {
    building: TempDir,
    /// Dropped, it lets go of the lock.
    _lock: File,
    place: PathBuf,
}

impl Staging {
    /// Begins a folder that will stand at `place`, and clears away what killed processes left beside it.
    ///
    /// # Errors
    /// If the folder above cannot be made or written, or something that snapc did not write stands there.
    pub fn begin(place: &Path) -> Result<Self> {
        let parent = parent(place);
        let cannot = |error: &std::io::Error| {
            Error::io("write to", parent, error).help("name another output folder with -o")
        };
        std::fs::create_dir_all(parent).map_err(|error| cannot(&error))?;
        restore(place);
        clear(parent);
        refuse_strangers(place)?;
        let name = || tempfile::Builder::new().prefix(BUILDING).tempdir_in(parent);
        let (building, lock) = locked(name, TempDir::path).map_err(|error| cannot(&error))?;
        Ok(Staging { building, _lock: lock, place: place.to_path_buf() })
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
        let Staging { building, _lock, place } = self;
        let fail = |error: std::io::Error| Error::io("write", &place, &error);
        // A temporary folder is its owner's alone; an artifact has the rights of its parent.
        let rights = std::fs::metadata(parent(&place)).map_err(fail)?.permissions();
        std::fs::set_permissions(building.path(), rights).map_err(fail)?;
        if !place.exists() {
            std::fs::rename(building.path(), &place).map_err(fail)?;
        } else if renameat_with(CWD, building.path(), CWD, &place, RenameFlags::EXCHANGE).is_err() {
            // Not every file system can do that; `restore` knows what a kill leaves here.
            let old = old(&place);
            std::fs::rename(&place, &old).map_err(fail)?;
            std::fs::rename(building.path(), &place).map_err(|error| {
                restore(&place);
                fail(error)
            })?;
            // It is the next run's to clear away otherwise.
            let _ = std::fs::remove_dir_all(old);
        }
        Ok(place)
    }
}

/// Where a folder goes while another one takes its place.
fn old(place: &Path) -> PathBuf {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    place.with_file_name(format!("{OLD}{name}"))
}

/// Brings back what a killed process had moved away, or removes it where the new folder stands. What cannot be done is left as it is:
/// it harms nothing.
fn restore(place: &Path) {
    let old = old(place);
    if old.exists() {
        let _ = if place.exists() { std::fs::remove_dir_all(old) } else { std::fs::rename(old, place) };
    }
}

/// Makes something under a new name and locks it. Another process may clear it away before it is locked: then once more.
fn locked<T>(
    make: impl Fn() -> std::io::Result<T>,
    path: impl Fn(&T) -> &Path,
) -> std::io::Result<(T, File)> {
    loop {
        let made = make()?;
        let lock = match File::open(path(&made)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        // Where nothing can be locked, nothing is cleared away.
        let _ = lock.lock();
        if path(&made).exists() {
            return Ok((made, lock));
        }
    }
}

/// Removes what is under construction in a folder by no process that lives.
fn clear(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(lock) =
            entry.file_name().to_str().filter(|name| name.starts_with(BUILDING)).and(File::open(&path).ok())
        else {
            continue;
        };
        if lock.try_lock().is_ok() {
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
}

/// A folder is replaced whole, so it must be one that snapc wrote, or empty.
///
/// # Errors
/// If it is neither.
pub fn refuse_strangers(place: &Path) -> Result<()> {
    if !place.exists() || [MANIFEST, BUNDLE].iter().any(|index| place.join(index).is_file()) {
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
    // A device, as /dev/full, is no file that another could take the place of.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return std::fs::write(path, bytes).map_err(|error| fail(&error));
    }
    clear(parent(path));
    let name = || {
        let rights = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        tempfile::Builder::new().prefix(BUILDING).permissions(rights).tempfile_in(parent(path))
    };
    let (mut file, _lock) = locked(name, |file| file.path()).map_err(|error| fail(&error))?;
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
