//! The networks of a bundle as an elastic store.

use std::path::PathBuf;

use snapc_ir::{Error, Result};

use super::entry::{ElasticEntry, SubnetEntry};
use super::layout::prefixed;
use crate::Report;
use crate::elastic::store;
use crate::output::Staging;

/// The store's folder in a bundle.
pub const FOLDER: &str = "elastic";

/// More of a narrower network than this is stored twice only where it is not a part of the wider one.
const TOO_MUCH: f64 = 0.05;

/// Puts the folders of networks, the narrowest first, into a store, and takes them away.
///
/// # Errors
/// As [`store`].
pub fn store_networks(
    staging: &Staging,
    subnets: &[SubnetEntry],
    chunk_bytes: u64,
    report: &mut dyn Report,
) -> Result<ElasticEntry> {
    let folders: Vec<PathBuf> = subnets.iter().map(|subnet| staging.path().join(&subnet.folder)).collect();
    let into = staging.path().join(FOLDER);
    std::fs::create_dir(&into).map_err(|error| Error::io("make", &into, &error))?;
    let elastic = store(&folders, &into, chunk_bytes, report)?;
    for (narrow, wide) in elastic.subnets.iter().zip(elastic.subnets.iter().skip(1)) {
        if wide.repeated_bytes as f64 > TOO_MUCH * narrow.folder_bytes as f64 {
            report.warn(&format!(
                "{} of the {} bytes of {} are stored twice: they are not what {} has there; take f16, or int4 in blocks, for elastic networks",
                wide.repeated_bytes, narrow.folder_bytes, narrow.name, wide.name
            ));
        }
    }
    for folder in folders {
        std::fs::remove_dir_all(&folder).map_err(|error| Error::io("remove", &folder, &error))?;
        // Folders that held nothing else go too.
        for above in folder.ancestors().skip(1).take_while(|above| *above != staging.path()) {
            if std::fs::remove_dir(above).is_err() {
                break;
            }
        }
    }
    Ok(ElasticEntry {
        folder: FOLDER.to_string(),
        bytes: elastic.bytes(),
        ratio: (elastic.ratio() * 1e4).round() / 1e4,
        files: prefixed(&elastic.files, FOLDER),
        subnets: elastic.subnets,
    })
}
