//! Where each weight goes: small ones into the model file, the others into one file beside it, as external data
//! (onnx/onnx, `docs/ExternalData.md`). All offsets follow from the weights' types, so the model file can be written
//! before a number is read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use snapc_backend::{Hashed, Sink, Written};
use snapc_ir::{Coded, Context, DType, Error, Graph, Place, Result, Weight};
use snapc_weights::{Limits, Make, Store, Stored, in_order};

/// Weights of fewer bytes stand in the model file, where shape inference and graph optimizers see them.
const FEWEST_BYTES: u64 = 1024;

/// From this size on a tensor starts at a multiple of Windows' mapping granularity, below at one of a page.
const LARGE: u64 = 1 << 20;
const ALIGN_LARGE: u64 = 1 << 16;
const ALIGN_SMALL: u64 = 1 << 12;

/// A run of bytes of the data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where the first byte is.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
}

impl Run {
    fn range(self) -> Range<u64> {
        self.offset..self.offset + self.bytes
    }
}

/// The bytes of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The weight, by its place in the graph, whose recipe gives the numbers.
    weight: usize,
    /// Its numbers, or its codes.
    pub numbers: Run,
    /// The scales of its codes, in f16.
    pub scales: Option<Run>,
}

/// Where each weight of a graph lies.
pub struct Placement {
    blocks: Vec<Block>,
    /// For each weight its block; `None` where it stands in the model file.
    of_weight: Vec<Option<usize>>,
    bytes: u64,
}

impl Placement {
    /// Gives each weight its place, the large ones first: between small ones they would leave gaps. Weights that have the same bytes by their
    /// recipes share a block.
    pub fn new(graph: &Graph) -> Self {
        let weights = graph.weights();
        let mut placement = Placement { blocks: Vec::new(), of_weight: vec![None; weights.len()], bytes: 0 };
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        let (large, small): (Vec<usize>, Vec<usize>) = (0..weights.len())
            .filter(|&index| !is_inline(&weights[index]))
            .partition(|&index| stored_bytes(&weights[index]) >= LARGE);
        for index in large.into_iter().chain(small) {
            let weight = &weights[index];
            let block = *known.entry(weight.bytes_key()).or_insert_with(|| {
                let numbers = placement.run(stored_bytes(weight));
                let scales = weight.coded().map(|coded| placement.run(2 * coded.table_count() as u64));
                placement.blocks.push(Block { weight: index, numbers, scales });
                placement.blocks.len() - 1
            });
            placement.of_weight[index] = Some(block);
        }
        placement
    }

    fn run(&mut self, bytes: u64) -> Run {
        let alignment = if bytes >= LARGE { ALIGN_LARGE } else { ALIGN_SMALL };
        let offset = self.bytes.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        self.bytes = offset.saturating_add(bytes);
        Run { offset, bytes }
    }

    /// The block of a weight; `None` where it stands in the model file.
    pub fn block(&self, weight: usize) -> Option<Block> {
        let block = (*self.of_weight.get(weight)?)?;
        self.blocks.get(block).copied()
    }

    /// The length of the data file; 0 where there is none.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the data file of the graph's weights, one after the other, with zeros between. `progress` is told the bytes of weights
    /// since its last call.
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
        let weight = |number: usize| &weights[self.blocks[number].weight];
        let needs: Vec<u64> =
            (0..self.blocks.len()).map(|number| store.stored_needs(weight(number))).collect();
        let make: Make = &|number, scratch, sink| {
            let weight = weight(number);
            store.stored(weight, scratch, sink).at(|| Place::Tensor(weight.name.clone()))
        };
        in_order(limits, &needs, make, &mut |number, stored| {
            let block = &self.blocks[number];
            let mut put = |run: Run, bytes: &[u8]| {
                sink.begin(run.range())?;
                progress(bytes.len() as u64);
                sink.put(bytes)
            };
            match (stored, block.scales) {
                (Stored::Bytes(bytes), _) => put(block.numbers, bytes),
                (Stored::Tables(tables), Some(scales)) => {
                    put(scales, &tables.iter().flat_map(|scale| scale.to_le_bytes()).collect::<Vec<u8>>())
                }
                (Stored::Tables(_), None) | (Stored::Lengths(_), _) => {
                    Err(Error::bug("scales of plain numbers"))
                }
            }
        })?;
        sink.end()?;
        sink.finish()
    }
}

/// Bytes of a weight's numbers, or of its codes.
fn stored_bytes(weight: &Weight) -> u64 {
    weight.coded().as_ref().map_or_else(|| weight.ty().bytes(), Coded::code_bytes) as u64
}

/// Whether a weight stands in the model file. Codes and integers never do: an inline weight of a graph holds f32.
fn is_inline(weight: &Weight) -> bool {
    (weight.ty().bytes() as u64) < FEWEST_BYTES && weight.dtype != DType::I32 && weight.coded().is_none()
}

/// Bytes of all weights that stand in the model file.
pub fn inline_bytes(graph: &Graph) -> u64 {
    graph.weights().iter().filter(|weight| is_inline(weight)).map(|weight| weight.ty().bytes() as u64).sum()
}
