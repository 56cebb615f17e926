//! The weight file's metadata (coremltools, `mlmodel/src/MILBlob/Blob/StorageFormat.hpp` and `StorageReader.cpp`):
//!
//! - header, 64 bytes: `u32` number of blobs, `u32` version 2, zeros;
//! - for each blob, at the next multiple of 64, a record of 64 bytes: `u32` 0xDEADBEEF, `u32` type, `u64` bytes, `u64`
//!   where its numbers start, `u64` unused bits of the last byte, zeros; its numbers follow at the next multiple of 64.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use snapc_ir::{DType, Error, Place, Result};

use super::Reading;

/// The numbers of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Their type.
    pub dtype: DType,
    /// Where they start.
    pub start: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The blobs of a weight file by the offset of their metadata.
pub struct Blobs {
    path: PathBuf,
    blobs: BTreeMap<u64, Blob>,
}

impl Blobs {
    /// Reads and checks all metadata; no numbers.
    ///
    /// # Errors
    /// If the file is missing, cut off, longer than its blobs, or a record breaks the format.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io("open", path, &error))?;
        let length = file.metadata().map_err(|error| Error::io("read", path, &error))?.len();
        let blobs =
            walk(&file, length).map_err(|reason| Error::input(reason).at(Place::File(path.to_path_buf())))?;
        Ok(Blobs { path: path.to_path_buf(), blobs })
    }

    /// The blob whose metadata is at `offset`.
    pub fn at(&self, offset: u64) -> Reading<Blob> {
        self.blobs.get(&offset).copied().ok_or_else(|| format!("the weight file has no metadata at {offset}"))
    }

    /// Checks that each blob is named by a constant: one that is not would ship for nothing.
    ///
    /// # Errors
    /// The first one that is not.
    pub fn check_used(&self, used: &BTreeSet<u64>) -> Result<()> {
        match self.blobs.keys().find(|offset| !used.contains(offset)) {
            None => Ok(()),
            Some(offset) => Err(Error::input(format!("no constant names the blob at {offset}"))
                .at(Place::File(self.path.clone()))),
        }
    }
}

fn walk(file: &File, length: u64) -> Reading<BTreeMap<u64, Blob>> {
    let header = record(file, 0)?;
    let (count, version) = (u32_at(&header, 0), u32_at(&header, 4));
    if version != 2 || header[8..].iter().any(|&byte| byte != 0) {
        return Err(format!("it is no MILBlob file of version 2: its version is {version}"));
    }
    let mut blobs = BTreeMap::new();
    let mut end = 64u64;
    for number in 0..count {
        let at = aligned(file, end, length)?;
        let blob =
            blob(&record(file, at)?, at).map_err(|reason| format!("blob {number} at {at} {reason}"))?;
        end =
            blob.start.checked_add(blob.bytes).filter(|&end| end <= length).ok_or_else(|| {
                format!("blob {number} at {at} ends behind the file, which has {length} bytes")
            })?;
        blobs.insert(at, blob);
    }
    if end != length {
        return Err(format!("its {count} blobs end at {end}, the file has {length} bytes"));
    }
    Ok(blobs)
}

fn blob(record: &[u8; 64], at: u64) -> Reading<Blob> {
    if u32_at(record, 0) != 0xDEAD_BEEF {
        return Err("has no metadata".to_string());
    }
    let dtype = match u32_at(record, 4) {
        1 => DType::F16,
        2 => DType::F32,
        code => return Err(format!("is of type {code}, expected 1 (f16) or 2 (f32)")),
    };
    let (bytes, start) = (u64_at(record, 8), u64_at(record, 16));
    if bytes == 0 || bytes % dtype.size() as u64 != 0 || start != at + 64 {
        return Err(format!("has {bytes} bytes from {start} on"));
    }
    if record[24..].iter().any(|&byte| byte != 0) {
        return Err("has padding bits or uses reserved bytes".to_string());
    }
    Ok(Blob { dtype, start, bytes })
}

/// The next multiple of 64; what lies between must be zeros.
fn aligned(file: &File, end: u64, length: u64) -> Reading<u64> {
    let at = end.next_multiple_of(64);
    if at + 64 > length {
        return Err(format!("a blob's metadata should be at {at}, the file has {length} bytes"));
    }
    let mut gap = [0; 64];
    let gap = &mut gap[..(at - end) as usize];
    file.read_exact_at(gap, end).map_err(|error| format!("it cannot be read at {end}: {error}"))?;
    if gap.iter().any(|&byte| byte != 0) {
        return Err(format!("the gap at {end} is not zero"));
    }
    Ok(at)
}

fn record(file: &File, at: u64) -> Reading<[u8; 64]> {
    let mut record = [0; 64];
    file.read_exact_at(&mut record, at).map_err(|error| format!("it cannot be read at {at}: {error}"))?;
    Ok(record)
}

fn u32_at(record: &[u8; 64], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&record[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn u64_at(record: &[u8; 64], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&record[at..at + 8]);
    u64::from_le_bytes(bytes)
}
