//! A bundle seen as the folders that were compiled: for `verify` and `run`, which know those.

use std::os::unix::fs::symlink;
use std::path::Path;

use snapc_ir::{Error, Result};
use tempfile::TempDir;

use crate::Silent;
use crate::elastic::write;

use super::entry::{BUNDLE, BundleManifest, SubnetEntry};

/// Whether `bundle` wrote a folder.
pub fn is_bundle(folder: &Path) -> bool {
    folder.join(BUNDLE).is_file()
}

/// A folder with links to what a network has and what it shares, as its compile wrote them. It goes when it is dropped.
///
/// # Errors
/// If a folder cannot be read or a link not be made.
pub fn assemble(root: &Path, bundle: &BundleManifest, subnet: &SubnetEntry) -> Result<TempDir> {
    let view =
        tempfile::tempdir().map_err(|error| Error::io("make", Path::new("a temporary folder"), &error))?;
    let link = |folder: &Path| -> Result<()> {
        let failed = |error: std::io::Error| Error::io("read", folder, &error);
        for entry in std::fs::read_dir(folder.canonicalize().map_err(failed)?).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let link = view.path().join(entry.file_name());
            symlink(entry.path(), &link).map_err(|error| Error::io("make", &link, &error))?;
        }
        Ok(())
    };
    match &bundle.elastic {
        None => link(&root.join(&subnet.folder))?,
        Some(elastic) => {
            write(&root.join(&elastic.folder), &subnet.name, None, view.path(), &mut Silent).map(|_| ())?
        }
    }
    link(&root.join(&bundle.shared.folder))?;
    Ok(view)
}
