//! The weight file, MILBlob storage version 2 (coremltools, `mlmodel/src/MILBlob/Blob/StorageFormat.hpp`): a header,
//! then for each blob a metadata record and its numbers, all little endian, each starting at a multiple of 64, with
//! zeros between.
//!
//! All offsets follow from the weights' types, so the model file can be written before a number is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use snapc_ir::{DType, Error, Graph, Place, Result};
use snapc_weights::Store;

/// Header, metadata records and numbers all start at a multiple of this; the first two are as long as this.
const ALIGNMENT: u64 = 64;
const VERSION: u32 = 2;
const SENTINEL: u32 = 0xDEAD_BEEF;

/// A constant of fewer numbers stands in the model file itself, as coremltools does it.
const FEWEST_NUMBERS: usize = 10;

/// Where each weight of a graph lies in the weight file.
pub struct Layout {
    blobs: Vec<Blob>,
    /// For each weight its blob; `None` where it stands in the model file.
    of_weight: Vec<Option<usize>>,
    bytes: u64,
}

struct Blob {
    /// The weight, by its place in the graph, whose recipe gives the numbers.
    weight: usize,
    metadata: u64,
    bytes: u64,
}

impl Layout {
    /// Gives each weight its place. Weights that have the same bytes by their recipes share a blob.
    pub fn new(graph: &Graph) -> Self {
        let mut layout = Layout { blobs: Vec::new(), of_weight: Vec::new(), bytes: ALIGNMENT };
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        for (index, weight) in graph.weights().iter().enumerate() {
            if weight.ty().count() < FEWEST_NUMBERS {
                layout.of_weight.push(None);
                continue;
            }
            let blob = *known.entry(weight.bytes_key()).or_insert_with(|| {
                let metadata = layout.bytes.next_multiple_of(ALIGNMENT);
                let bytes = weight.ty().bytes() as u64;
                layout.bytes = (metadata + ALIGNMENT).saturating_add(bytes);
                layout.blobs.push(Blob { weight: index, metadata, bytes });
                layout.blobs.len() - 1
            });
            layout.of_weight.push(Some(blob));
        }
        layout
    }

    /// The offset of a weight's metadata record, by which the model file names its blob.
    pub fn offset(&self, weight: usize) -> Option<u64> {
        let blob = (*self.of_weight.get(weight)?)?;
        self.blobs.get(blob).map(|blob| blob.metadata)
    }

    /// The length of the weight file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the weight file, one weight after the other, and gives a hash of its bytes. `progress` is told the bytes
    /// of weights since its last call.
    ///
    /// # Errors
    /// If a weight cannot be read or the file not be written.
    pub fn write(
        &self,
        graph: &Graph,
        store: &Store,
        path: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<[u8; 32]> {
        let mut sink = Sink::create(path)?;
        let count = u32::try_from(self.blobs.len())
            .map_err(|_| Error::limit("a weight file holds at most 2^32 - 1 weights"))?;
        sink.put(&count.to_le_bytes())?;
        sink.put(&VERSION.to_le_bytes())?;
        for blob in &self.blobs {
            let weight = &graph.weights()[blob.weight];
            sink.pad_to(blob.metadata)?;
            sink.put(&metadata(blob, weight.dtype)?)?;
            store.stream(weight, &mut |bytes| {
                progress(bytes.len() as u64);
                sink.put(bytes)
            })?;
            if sink.at != blob.metadata + ALIGNMENT + blob.bytes {
                return Err(Error::bug("a weight has another size than its type")
                    .at(Place::Tensor(weight.name.clone())));
            }
        }
        sink.pad_to(self.bytes)?;
        sink.finish()
    }
}

fn metadata(blob: &Blob, dtype: DType) -> Result<[u8; ALIGNMENT as usize]> {
    let code: u32 = match dtype {
        DType::F16 => 1,
        DType::F32 => 2,
        DType::BF16 | DType::I32 => {
            return Err(Error::bug(format!("a weight of type {dtype} reaches the weight file")));
        }
    };
    let mut record = [0; ALIGNMENT as usize];
    // The number of unused bits of the last byte, at 24, is 0 for whole bytes; the rest is reserved.
    record[0..4].copy_from_slice(&SENTINEL.to_le_bytes());
    record[4..8].copy_from_slice(&code.to_le_bytes());
    record[8..16].copy_from_slice(&blob.bytes.to_le_bytes());
    record[16..24].copy_from_slice(&(blob.metadata + ALIGNMENT).to_le_bytes());
    Ok(record)
}

/// The file being written, how far it is, and the hash of what is in it.
struct Sink {
    file: BufWriter<File>,
    path: PathBuf,
    at: u64,
    hash: Sha256,
}

impl Sink {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| Error::io("create", path, &error))?;
        Ok(Sink { file: BufWriter::new(file), path: path.to_path_buf(), at: 0, hash: Sha256::new() })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| Error::io("write", &self.path, &error))?;
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn pad_to(&mut self, offset: u64) -> Result<()> {
        let gap = offset.saturating_sub(self.at).min(ALIGNMENT);
        self.put(&[0; ALIGNMENT as usize][..gap as usize])
    }

    fn finish(mut self) -> Result<[u8; 32]> {
        self.file.flush().map_err(|error| Error::io("write", &self.path, &error))?;
        Ok(self.hash.finalize().into())
    }
}
