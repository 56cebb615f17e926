//! Which weights lie behind the flatbuffer, and where: all offsets follow from the weights' types, so the flatbuffer can be
//! written before a number is read.

use std::collections::BTreeMap;
use std::io::Write;

use snapc_ir::{DType, Error, Graph, Place, Result, Weight};
use snapc_weights::Store;

use crate::schema::{ALIGNMENT, TAIL};

/// Weights of fewer bytes stand in the flatbuffer.
const FEWEST_BYTES: u64 = 1024;

/// A run of bytes behind the flatbuffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The weight, by its place in the graph, whose recipe gives the numbers.
    weight: usize,
    /// Where the first byte is, from the end of the flatbuffer on.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
}

/// All blocks of a graph, in the order of the file.
pub struct Blocks {
    blocks: Vec<Block>,
    /// For each weight its block; `None` where it stands in the flatbuffer.
    of_weight: Vec<Option<usize>>,
    bytes: u64,
}

impl Blocks {
    /// Gives each weight its place. Weights that have the same bytes by their recipes share a block.
    pub fn new(graph: &Graph) -> Self {
        let mut placed = Blocks { blocks: Vec::new(), of_weight: Vec::new(), bytes: 0 };
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        for (index, weight) in graph.weights().iter().enumerate() {
            if is_inline(weight) {
                placed.of_weight.push(None);
                continue;
            }
            let block = *known.entry(weight.bytes_key()).or_insert_with(|| {
                let bytes = weight.ty().bytes() as u64;
                let offset = placed.bytes.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX);
                placed.bytes = offset.saturating_add(bytes);
                placed.blocks.push(Block { weight: index, offset, bytes });
                placed.blocks.len() - 1
            });
            placed.of_weight.push(Some(block));
        }
        placed
    }

    /// The number of a weight's block; `None` where it stands in the flatbuffer.
    pub fn of_weight(&self, weight: usize) -> Option<usize> {
        self.of_weight.get(weight).copied().flatten()
    }

    /// All blocks.
    pub fn all(&self) -> &[Block] {
        &self.blocks
    }

    /// Bytes from the end of the flatbuffer to the end of the last block.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes one block after the other with zeros between, and zeros at the end. `progress` is told the bytes of weights
    /// since its last call.
    ///
    /// # Errors
    /// If a weight cannot be read, or what `failed` makes of a failed write.
    pub fn write(
        &self,
        graph: &Graph,
        store: &Store,
        file: &mut dyn Write,
        failed: &dyn Fn(std::io::Error) -> Error,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        const ZEROS: [u8; (ALIGNMENT + TAIL) as usize] = [0; (ALIGNMENT + TAIL) as usize];
        let mut end = 0;
        for block in &self.blocks {
            let weight = &graph.weights()[block.weight];
            file.write_all(&ZEROS[..(block.offset - end) as usize]).map_err(failed)?;
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
        file.write_all(&ZEROS[..TAIL as usize]).map_err(failed)
    }
}

/// Whether a weight stands in the flatbuffer. Integers never do: those in it are sizes, bounds and axes.
fn is_inline(weight: &Weight) -> bool {
    (weight.ty().bytes() as u64) < FEWEST_BYTES && weight.dtype != DType::I32
}

/// Bytes of all weights that stand in the flatbuffer.
pub fn inline_bytes(graph: &Graph) -> u64 {
    graph.weights().iter().filter(|weight| is_inline(weight)).map(|weight| weight.ty().bytes() as u64).sum()
}
