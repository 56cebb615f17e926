//! The weight file, MILBlob storage version 2 (coremltools, `mlmodel/src/MILBlob/Blob/StorageFormat.hpp`): a header,
//! then for each blob a metadata record and its numbers, all little endian, each starting at a multiple of 64, with
//! zeros between.
//!
//! All offsets follow from the weights' types, so the model file can be written before a number is read.

use std::collections::BTreeMap;
use std::path::Path;

use half::f16;
use snapc_backend::{Hashed, Sink, Written};
use snapc_ir::{Coded, DType, Error, Graph, Result, Weight};
use snapc_weights::{Limits, Make, Store, Stored, in_order};

use crate::MinOs;
use crate::encode::{self, Form};

/// Header, metadata records and numbers all start at a multiple of this; the first two are as long as this.
const ALIGNMENT: u64 = 64;
const VERSION: u32 = 2;
const SENTINEL: u32 = 0xDEAD_BEEF;
/// The number of the element type int8.
const INT8: u32 = 4;

/// A constant of fewer numbers stands in the model file itself, as coremltools does it.
const FEWEST_NUMBERS: usize = 10;

/// Where each weight of a graph lies in the weight file.
pub struct Layout {
    blobs: Vec<Blob>,
    /// For each weight its place; `None` where it stands in the model file.
    of_weight: Vec<Option<Place>>,
    bytes: u64,
}

/// The metadata records of a weight's blobs, by which the model file names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Of its numbers.
    Numbers(u64),
    /// Of its codes, their scales or tables, and, where the form has them, their zero points.
    Codes { codes: u64, tables: u64, zeros: Option<u64> },
}

struct Blob {
    what: What,
    /// The number of the element type.
    code: u32,
    metadata: u64,
    bytes: u64,
    /// Unused bits of the last byte.
    padding: u64,
}

/// What a blob holds; weights are named by their place in the graph, whose recipe gives the numbers.
#[derive(Clone, Copy)]
enum What {
    /// The numbers of a weight.
    Numbers(usize),
    /// The codes of a weight; its scales or tables are the next blob.
    Codes(usize),
    /// Scales or tables of the codes before.
    Tables,
    /// Zero points, one byte each.
    Zeros,
}

impl Layout {
    /// Gives each weight its place. Weights that have the same bytes by their recipes share a blob.
    ///
    /// # Errors
    /// If a weight's codes have no form.
    pub fn new(graph: &Graph, min_os: MinOs) -> Result<Self> {
        let mut layout = Layout { blobs: Vec::new(), of_weight: Vec::new(), bytes: ALIGNMENT };
        let mut known: BTreeMap<String, Place> = BTreeMap::new();
        let mut zeros: BTreeMap<usize, u64> = BTreeMap::new();
        for (index, weight) in graph.weights().iter().enumerate() {
            let coded = weight.coded();
            if weight.ty().count() < FEWEST_NUMBERS && coded.is_none() {
                layout.of_weight.push(None);
                continue;
            }
            let key = weight.bytes_key();
            let place = match (known.get(&key), coded) {
                (Some(place), _) => *place,
                (None, Some(coded)) => layout.codes(index, weight.dtype, &coded, min_os, &mut zeros)?,
                (None, None) => {
                    let bytes = weight.ty().bytes() as u64;
                    // What cannot be written is refused elsewhere, by its name.
                    let code = encode::float_type(weight.dtype).unwrap_or_default();
                    Place::Numbers(layout.push(What::Numbers(index), code, bytes, 0))
                }
            };
            known.insert(key, place);
            layout.of_weight.push(Some(place));
        }
        Ok(layout)
    }

    fn codes(
        &mut self,
        index: usize,
        dtype: DType,
        coded: &Coded,
        min_os: MinOs,
        zeros: &mut BTreeMap<usize, u64>,
    ) -> Result<Place> {
        let form = encode::form(coded, min_os)?;
        let (_, code) = encode::code_type(coded.code, form)?;
        let bytes = coded.code_bytes() as u64;
        // Bytes that are packed before they are stored have no bits that the file knows of.
        let bits = coded.shape.iter().product::<usize>() as u64 * coded.code.bits() as u64;
        let padding = if form == Form::Table { 0 } else { 8 * bytes - bits };
        let codes = self.push(What::Codes(index), code, bytes, padding);
        let count = coded.table_count();
        let tables = (count * dtype.size()) as u64;
        let tables = self.push(What::Tables, encode::float_type(dtype)?, tables, 0);
        let zeros = form
            .has_zeros()
            .then(|| *zeros.entry(count).or_insert_with(|| self.push(What::Zeros, INT8, count as u64, 0)));
        Ok(Place::Codes { codes, tables, zeros })
    }

    /// Adds a blob; where its metadata is.
    fn push(&mut self, what: What, code: u32, bytes: u64, padding: u64) -> u64 {
        let metadata = self.bytes.next_multiple_of(ALIGNMENT);
        self.bytes = (metadata + ALIGNMENT).saturating_add(bytes);
        self.blobs.push(Blob { what, code, metadata, bytes, padding });
        metadata
    }

    /// Where a weight lies; `None` where it stands in the model file.
    pub fn place(&self, weight: usize) -> Option<Place> {
        *self.of_weight.get(weight)?
    }

    /// The length of the weight file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the weight file, one weight after the other. `progress` is told the bytes
    /// of weights since its last call.
    ///
    /// # Errors
    /// If a weight cannot be read or the file not be written.
    pub fn write(
        &self,
        weights: &[Weight],
        store: &Store,
        limits: Limits,
        path: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Written> {
        let mut sink = Sink::create(path, Hashed::within(limits))?;
        let count = u32::try_from(self.blobs.len())
            .map_err(|_| Error::limit("a weight file holds at most 2^32 - 1 weights"))?;
        sink.put(&count.to_le_bytes())?;
        sink.put(&VERSION.to_le_bytes())?;
        let read: Vec<(usize, &Weight)> = (0..)
            .zip(&self.blobs)
            .filter_map(|(number, blob)| match blob.what {
                What::Numbers(weight) | What::Codes(weight) => Some((number, &weights[weight])),
                What::Tables | What::Zeros => None,
            })
            .collect();
        let needs: Vec<u64> = read.iter().map(|(_, weight)| store.stored_needs(weight)).collect();
        let mut next = 0;
        let make: Make = &|number, scratch, sink| store.stored(read[number].1, scratch, sink);
        in_order(limits, &needs, make, &mut |number, stored| {
            let (blob, weight) = read[number];
            match stored {
                Stored::Bytes(bytes) => {
                    self.begin(&mut sink, &mut next, blob)?;
                    progress(bytes.len() as u64);
                    sink.put(bytes)
                }
                Stored::Tables(tables) => {
                    self.begin(&mut sink, &mut next, blob + 1)?;
                    // Told as they are counted, in f16, also where they are f32.
                    progress(2 * tables.len() as u64);
                    sink.put(&table_bytes(&tables, weight.dtype))
                }
                Stored::Lengths(_) => Err(Error::bug("a weight in steps reaches the weight file")),
            }
        })?;
        self.begin(&mut sink, &mut next, self.blobs.len())?;
        sink.pad_to(self.bytes)?;
        sink.finish()
    }

    /// Ends all blobs before that one, begins it, and writes those between, which are zeros.
    fn begin(&self, sink: &mut Sink, next: &mut usize, blob: usize) -> Result<()> {
        while *next <= blob {
            if let Some(before) = next.checked_sub(1).map(|before| &self.blobs[before]) {
                let end = before.metadata + ALIGNMENT + before.bytes;
                if matches!(before.what, What::Zeros) {
                    sink.pad_to(end)?;
                }
                if sink.at() != end {
                    let message = format!("the blob at {} has another size than its type", before.metadata);
                    return Err(Error::bug(message));
                }
            }
            if let Some(blob) = self.blobs.get(*next) {
                sink.pad_to(blob.metadata)?;
                sink.put(&metadata(blob))?;
            }
            *next += 1;
        }
        Ok(())
    }
}

fn table_bytes(tables: &[f16], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F16 => tables.iter().flat_map(|number| number.to_le_bytes()).collect(),
        _ => tables.iter().flat_map(|number| number.to_f32().to_le_bytes()).collect(),
    }
}

fn metadata(blob: &Blob) -> [u8; ALIGNMENT as usize] {
    let mut record = [0; ALIGNMENT as usize];
    record[0..4].copy_from_slice(&SENTINEL.to_le_bytes());
    record[4..8].copy_from_slice(&blob.code.to_le_bytes());
    record[8..16].copy_from_slice(&blob.bytes.to_le_bytes());
    record[16..24].copy_from_slice(&(blob.metadata + ALIGNMENT).to_le_bytes());
    // 0 for whole bytes; the rest of the record is reserved.
    record[24..32].copy_from_slice(&blob.padding.to_le_bytes());
    record
}
