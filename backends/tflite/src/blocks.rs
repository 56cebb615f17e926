//! Which weights lie behind the flatbuffer, and where: all offsets follow from the weights' types, so the flatbuffer can be
//! written before a number is read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use snapc_backend::Sink;
use snapc_ir::{DType, Graph, Result, Source, Weight};
use snapc_weights::{Limits, Make, Store, Stored, in_order};

use crate::encode::{self, Form};
use crate::file::Signature;
use crate::schema::{ALIGNMENT, TAIL};

/// Weights of fewer bytes stand in the flatbuffer.
const FEWEST_BYTES: u64 = 1024;

/// A run of bytes behind the flatbuffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The signature, by its place in the file, whose store has the numbers.
    signature: usize,
    /// The weight, by its place in that signature's graph, whose recipe gives the numbers.
    weight: usize,
    /// Where the first byte is, from the end of the flatbuffer on.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
    what: What,
}

/// What of a weight a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Its numbers.
    Numbers,
    /// Its codes, whose so many scales stand in the flatbuffer.
    Codes(usize),
    /// Its codes, whose scales are the next block.
    CodesBeforeScales,
    /// Scales, in f16.
    Scales,
    /// Its steps, whose lengths stand in the flatbuffer.
    Steps,
}

impl Block {
    /// Bytes of the weight that go with this block: its scales' as they are counted, in f16, wherever they stand.
    fn told(&self) -> u64 {
        match self.what {
            What::Codes(scales) => self.bytes + 2 * scales as u64,
            What::Numbers | What::CodesBeforeScales | What::Scales | What::Steps => self.bytes,
        }
    }
}

/// The scales that stand in the flatbuffer, by block.
pub type Scales = BTreeMap<usize, Vec<f32>>;

/// All blocks of a file, in its order.
pub struct Blocks {
    blocks: Vec<Block>,
    /// For each weight of each signature its block; `None` where it stands in the flatbuffer.
    of_weight: Vec<Vec<Option<usize>>>,
    bytes: u64,
    inline_bytes: u64,
}

impl Blocks {
    /// Gives each weight its place. Weights that have the same bytes by their recipes share a block, those of several signatures too.
    pub fn new(signatures: &[Signature]) -> Self {
        let mut placed = Blocks { blocks: Vec::new(), of_weight: Vec::new(), bytes: 0, inline_bytes: 0 };
        let mut known: BTreeMap<(&Path, String), usize> = BTreeMap::new();
        let mut inline: BTreeSet<(&Path, String)> = BTreeSet::new();
        for (number, signature) in signatures.iter().enumerate() {
            let mut of_weight = Vec::new();
            let mut own_inline = BTreeSet::new();
            for (index, weight) in signature.graph.weights().iter().enumerate() {
                let key = (file_of(weight, signature.store), weight.bytes_key());
                let bytes = weight.ty().bytes() as u64;
                if is_inline(weight) {
                    // Shared with the signatures before, as the emitter does.
                    placed.inline_bytes += if inline.contains(&key) { 0 } else { bytes };
                    own_inline.insert(key);
                    of_weight.push(None);
                    continue;
                }
                let block = *known.entry(key).or_insert_with(|| placed.place(number, index, weight));
                of_weight.push(Some(block));
            }
            inline.append(&mut own_inline);
            placed.of_weight.push(of_weight);
        }
        placed
    }

    /// Adds the blocks of a weight; gives the number of the first.
    fn place(&mut self, signature: usize, index: usize, weight: &Weight) -> usize {
        let mut push = |bytes: usize, what: What| {
            let (offset, bytes) =
                (self.bytes.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX), bytes as u64);
            self.bytes = offset.saturating_add(bytes);
            self.blocks.push(Block { signature, weight: index, offset, bytes, what });
            self.blocks.len() - 1
        };
        let Some(coded) = weight.coded() else {
            let what = if weight.stepped().is_some() { What::Steps } else { What::Numbers };
            return push(weight.ty().bytes(), what);
        };
        match encode::form(&coded) {
            Ok(Form::Blocks { .. }) => {
                let codes = push(coded.code_bytes(), What::CodesBeforeScales);
                push(2 * coded.table_count(), What::Scales);
                codes
            }
            _ => push(coded.code_bytes(), What::Codes(coded.table_count())),
        }
    }

    /// The number of the block of a signature's weight; `None` where it stands in the flatbuffer.
    pub fn of_weight(&self, signature: usize, weight: usize) -> Option<usize> {
        self.of_weight.get(signature).and_then(|blocks| blocks.get(weight)).copied().flatten()
    }

    /// All blocks.
    pub fn all(&self) -> &[Block] {
        &self.blocks
    }

    /// Whether scales, which are known last, stand in the flatbuffer.
    pub fn has_inner_scales(&self) -> bool {
        self.blocks.iter().any(|block| matches!(block.what, What::Codes(_) | What::Steps))
    }

    /// Bytes of all weights that stand in the flatbuffer.
    pub fn inline_bytes(&self) -> u64 {
        self.inline_bytes
    }

    /// Bytes of all weights, shared ones once.
    pub fn weight_bytes(&self) -> u64 {
        self.inline_bytes + self.blocks.iter().map(Block::told).sum::<u64>()
    }

    /// Writes one block after the other, of the weights of each signature and their store, with zeros between, and zeros at the end; gives
    /// the scales that belong into the flatbuffer. `progress` is told the bytes of weights since its last call.
    ///
    /// # Errors
    /// If a weight cannot be read or the file not be written.
    pub fn write(
        &self,
        weights: &[(&[Weight], &Store)],
        limits: Limits,
        sink: &mut Sink,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Scales> {
        // Scales come with their codes.
        let read: Vec<usize> =
            (0..self.blocks.len()).filter(|&number| self.blocks[number].what != What::Scales).collect();
        let source = |number: usize| {
            let block = &self.blocks[number];
            let (weights, store) = weights[block.signature];
            (&weights[block.weight], store)
        };
        let need = |&number: &usize| {
            let (weight, store) = source(number);
            store.stored_needs(weight)
        };
        let needs: Vec<u64> = read.iter().map(need).collect();
        let make: Make = &|at, scratch, sink| {
            let (weight, store) = source(read[at]);
            store.stored(weight, scratch, sink)
        };
        let mut inner = Scales::new();
        // Offsets count from the end of the flatbuffer on.
        let start = sink.at();
        let mut put = |number: usize, bytes: &[u8]| {
            let Block { offset, bytes: length, .. } = self.blocks[number];
            sink.begin(start + offset..start + offset + length)?;
            sink.put(bytes)
        };
        in_order(limits, &needs, make, &mut |at, stored| {
            let number = read[at];
            match (stored, self.blocks[number].what) {
                (Stored::Bytes(bytes), _) => {
                    progress(bytes.len() as u64);
                    put(number, bytes)
                }
                (Stored::Tables(scales), What::CodesBeforeScales) => {
                    let bytes: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
                    progress(bytes.len() as u64);
                    put(number + 1, &bytes)
                }
                (Stored::Tables(scales), _) => {
                    progress(self.blocks[number].told() - self.blocks[number].bytes);
                    inner.insert(number, scales.iter().map(|scale| scale.to_f32()).collect());
                    Ok(())
                }
                (Stored::Lengths(lengths), _) => {
                    inner.insert(number, lengths);
                    Ok(())
                }
            }
        })?;
        sink.end()?;
        sink.put(&[0; TAIL as usize])?;
        Ok(inner)
    }
}

/// Whether a weight stands in the flatbuffer. Codes and integers never do: integers in it are sizes, bounds and axes.
fn is_inline(weight: &Weight) -> bool {
    (weight.ty().bytes() as u64) < FEWEST_BYTES && weight.dtype != DType::I32 && weight.coded().is_none()
}

/// The file of the tensor that a recipe starts from; an empty path where it starts from none. Each part has a checkpoint of its own,
/// in which names of tensors may be those of another part.
fn file_of<'a>(weight: &Weight, store: &'a Store) -> &'a Path {
    let region = match &weight.source {
        Source::Tensor { name, .. } => store.region(name),
        Source::Inline { .. } | Source::Table(_) => None,
    };
    region.map_or(Path::new(""), |region| store.path(region))
}

/// Bytes of all weights of a graph that stand in the flatbuffer.
pub fn inline_bytes(graph: &Graph) -> u64 {
    graph.weights().iter().filter(|weight| is_inline(weight)).map(|weight| weight.ty().bytes() as u64).sum()
}
