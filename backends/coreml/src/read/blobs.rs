//! The weight file's metadata (coremltools, `mlmodel/src/MILBlob/Blob/StorageFormat.hpp` and `StorageReader.cpp`):
//!
//! - header, 64 bytes: `u32` number of blobs, `u32` version 2, zeros;
//! - for each blob, at the next multiple of 64, a record of 64 bytes: `u32` 0xDEADBEEF, `u32` type, `u64` bytes, `u64`
//!   where its numbers start, `u64` unused bits of the last byte, zeros; its numbers follow at the next multiple of 64.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::f16;
use snapc_ir::{DType, Error, Place, Result};

use super::Reading;

/// What the numbers of a blob are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// f16 or f32.
    Float(DType),
    /// Two's complement of so many bits.
    Signed {
        /// 4 or 8.
        bits: usize,
    },
    /// So many bits, the first number in the lowest ones.
    Unsigned {
        /// 2, 3, 4, 6 or 8.
        bits: usize,
    },
}

impl Element {
    fn of_code(code: u32) -> Option<Self> {
        Some(match code {
            1 => Element::Float(DType::F16),
            2 => Element::Float(DType::F32),
            3 => Element::Unsigned { bits: 8 },
            4 => Element::Signed { bits: 8 },
            8 => Element::Signed { bits: 4 },
            10 => Element::Unsigned { bits: 2 },
            11 => Element::Unsigned { bits: 4 },
            12 => Element::Unsigned { bits: 3 },
            13 => Element::Unsigned { bits: 6 },
            _ => return None,
        })
    }

    fn bits(self) -> usize {
        match self {
            Element::Float(dtype) => 8 * dtype.size(),
            Element::Signed { bits } | Element::Unsigned { bits } => bits,
        }
    }

    /// The bits of signed integers; `None` where they are others.
    pub fn signed_bits(self) -> Option<usize> {
        match self {
            Element::Signed { bits } => Some(bits),
            Element::Float(_) | Element::Unsigned { .. } => None,
        }
    }
}

/// The numbers of one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Their type.
    pub element: Element,
    /// Where they start.
    pub start: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bits of the last byte that hold none.
    padding: u64,
}

impl Blob {
    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        (self.bytes * 8 - self.padding) / self.element.bits() as u64
    }
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

    /// The numbers of a blob of floating point.
    pub fn floats(&self, blob: &Blob) -> Reading<Vec<f32>> {
        let bytes = self.numbers(blob)?;
        match blob.element {
            Element::Float(DType::F16) => {
                Ok(bytes.as_chunks::<2>().0.iter().map(|half| f16::from_le_bytes(*half).to_f32()).collect())
            }
            Element::Float(_) => {
                Ok(bytes.as_chunks::<4>().0.iter().map(|number| f32::from_le_bytes(*number)).collect())
            }
            Element::Signed { .. } | Element::Unsigned { .. } => Err("its numbers are integers".to_string()),
        }
    }

    /// Whether all bytes of a blob are zero.
    pub fn is_zero(&self, blob: &Blob) -> Reading<bool> {
        Ok(self.numbers(blob)?.iter().all(|&byte| byte == 0))
    }

    fn numbers(&self, blob: &Blob) -> Reading<Vec<u8>> {
        let failed = |error: std::io::Error| format!("the weight file cannot be read: {error}");
        let mut bytes = vec![0; blob.bytes as usize];
        File::open(&self.path).and_then(|file| file.read_exact_at(&mut bytes, blob.start)).map_err(failed)?;
        Ok(bytes)
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
    let code = u32_at(record, 4);
    let element = Element::of_code(code)
        .ok_or_else(|| format!("is of type {code}, expected 1 (f16), 2 (f32) or one of codes"))?;
    let (bytes, start, padding) = (u64_at(record, 8), u64_at(record, 16), u64_at(record, 24));
    if padding > 0 && (padding >= 8 || element.bits() >= 8) {
        return Err(format!("has {padding} padding bits"));
    }
    let bits = u128::from(bytes) * 8;
    if bytes == 0 || (bits - u128::from(padding)) % element.bits() as u128 != 0 || start != at + 64 {
        return Err(format!("has {bytes} bytes from {start} on"));
    }
    if record[32..].iter().any(|&byte| byte != 0) {
        return Err("uses reserved bytes".to_string());
    }
    Ok(Blob { element, start, bytes, padding })
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
