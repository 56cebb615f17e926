//! Where each weight goes: small ones into the model file, the others into one file beside it, as external data
//! (onnx/onnx, `docs/ExternalData.md`). All offsets follow from the weights' types, so the model file can be written
//! before a number is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use snapc_ir::{DType, Error, Graph, Place, Result, Weight};
use snapc_weights::Store;

/// Weights of fewer bytes stand in the model file, where shape inference and graph optimizers see them.
const FEWEST_BYTES: u64 = 1024;

/// From this size on a tensor starts at a multiple of Windows' mapping granularity, below at one of a page.
const LARGE: u64 = 1 << 20;
const ALIGN_LARGE: u64 = 1 << 16;
const ALIGN_SMALL: u64 = 1 << 12;

/// A run of bytes of the data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The weight, by its place in the graph, whose recipe gives the numbers.
    weight: usize,
    /// Where the first byte is.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
}

/// Where each weight of a graph lies.
pub struct Placement {
    blocks: Vec<Block>,
    /// For each weight its block; `None` where it stands in the model file.
    of_weight: Vec<Option<usize>>,
    bytes: u64,
}

impl Placement {
    /// Gives each weight its place. Weights that have the same bytes by their recipes share a block.
    pub fn new(graph: &Graph) -> Self {
        let mut placement = Placement { blocks: Vec::new(), of_weight: Vec::new(), bytes: 0 };
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        for (index, weight) in graph.weights().iter().enumerate() {
            if is_inline(weight) {
                placement.of_weight.push(None);
                continue;
            }
            let block = *known.entry(weight.bytes_key()).or_insert_with(|| {
                let bytes = weight.ty().bytes() as u64;
                let alignment = if bytes >= LARGE { ALIGN_LARGE } else { ALIGN_SMALL };
                let offset = placement.bytes.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
                placement.bytes = offset.saturating_add(bytes);
                placement.blocks.push(Block { weight: index, offset, bytes });
                placement.blocks.len() - 1
            });
            placement.of_weight.push(Some(block));
        }
        placement
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

    /// Writes the data file, one weight after the other, with zeros between. `progress` is told the bytes of weights
    /// since its last call.
    ///
    /// # Errors
    /// If a weight cannot be read or the file not be written.
    pub fn write(
        &self,
        graph: &Graph,
        store: &Store,
        path: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("write", path, &error);
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        let mut end = 0;
        for block in &self.blocks {
            let weight = &graph.weights()[block.weight];
            let gap = [0; ALIGN_LARGE as usize];
            file.write_all(&gap[..(block.offset - end) as usize]).map_err(failed)?;
            let mut written = 0;
            store.stream(weight, &mut |bytes| {
                written += bytes.len() as u64;
                progress(bytes.len() as u64);
                file.write_all(bytes).map_err(failed)
            })?;
            if written != block.bytes {
                return Err(Error::bug("a weight has another size than its type")
                    .at(Place::Tensor(weight.name.clone())));
            }
            end = block.offset + block.bytes;
        }
        file.flush().map_err(failed)
    }
}

/// Whether a weight stands in the model file. Integers never do: an inline weight of a graph holds f32.
fn is_inline(weight: &Weight) -> bool {
    (weight.ty().bytes() as u64) < FEWEST_BYTES && weight.dtype != DType::I32
}

/// Bytes of all weights that stand in the model file.
pub fn inline_bytes(graph: &Graph) -> u64 {
    graph.weights().iter().filter(|weight| is_inline(weight)).map(|weight| weight.ty().bytes() as u64).sum()
}
