//! Weights as the bytes that a file holds, handed on block by block.

use std::path::Path;

use bytemuck::{Pod, cast_slice};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use snapc_ir::{DType, Error, Method, Place, Result, Source, Transform, Weight, element_count};

use crate::encode::{PIECE, packed, without_codes};
use crate::read::{
    BLOCK, Block, Buffers, append, applied, move_into, not_finite, room, split_takes, strange_number,
};
use crate::store::Store;
use crate::tensor::{Data, round};

/// Numbers that are moved at once where their rows lie behind each other.
const MOVED: usize = 1 << 18;

/// And where they do not, as in a weight whose rows and columns change places: it is read as often as it has this many.
const TURNED: usize = 4 << 20;

/// Codes that are made at once.
const CODES: usize = 1 << 20;

/// Bytes that are held beside what is moved or encoded: blocks that are read, and blocks that wait.
const BESIDE: usize = 8 * BLOCK;

/// A part of what a file holds of a weight.
pub enum Stored<'a> {
    /// Bytes of its numbers or of its packed codes, those of all calls one behind the other.
    Bytes(&'a [u8]),
    /// The scales or tables of its codes, all of them; they come last.
    Tables(Vec<f16>),
    /// The lengths of its steps, all of them; they come last.
    Lengths(Vec<f32>),
}

/// Buffers that weights are moved in, one weight after the other.
#[derive(Debug, Default)]
pub struct Scratch {
    moving: Moving,
    floats: Vec<f32>,
    halves: Vec<f16>,
}

/// Those for numbers in the type that they are stored in.
#[derive(Debug, Default)]
struct Moving {
    buffers: Buffers,
    numbers: Vec<u64>,
    moved: Vec<u64>,
}

impl Scratch {
    /// Buffers with room for weights that need that many bytes at most, by [`Store::stored_needs`].
    pub(crate) fn with_room(need: u64) -> Self {
        let words = |bytes: usize| Vec::with_capacity(bytes.div_ceil(size_of::<u64>()));
        let moved = ((need as usize).saturating_sub(BESIDE) / 2).min(4 * TURNED);
        let moving = Moving { buffers: Buffers::with_room(), numbers: words(moved), moved: words(moved) };
        Scratch { moving, ..Scratch::default() }
    }
}

impl Store {
    /// Runs a recipe into what a file holds of it: little-endian numbers of its type, or packed codes and then their tables. What is
    /// held at once does not depend on its size, unless rows cannot be told apart or its method needs all of it.
    ///
    /// # Errors
    /// As [`Store::read`], what `sink` reports, or a number that the weight's type cannot hold.
    pub fn stored(
        &self,
        weight: &Weight,
        scratch: &mut Scratch,
        sink: &mut dyn FnMut(Stored) -> Result<()>,
    ) -> Result<()> {
        if weight.stepped().is_some() {
            let (steps, lengths) = self.steps(weight)?;
            let bytes: Vec<u8> = steps.iter().flat_map(|step| step.to_le_bytes()).collect();
            sink(Stored::Bytes(&bytes))?;
            return sink(Stored::Lengths(lengths));
        }
        let Some(coded) = weight.coded() else {
            return self.plain(weight, scratch, &mut |bytes| sink(Stored::Bytes(bytes)));
        };
        // The codes of a piece end with a byte.
        let packs = |piece: &Weight| (piece.ty().count() * coded.code.bits()).is_multiple_of(8);
        let cut = |weight: &Weight| {
            let pieces = weight.row_pieces(CODES);
            if pieces.iter().all(packs) { pieces } else { vec![weight.clone()] }
        };
        if let Some((palette, numbers)) = self.palette(weight)? {
            for piece in cut(&numbers) {
                let (values, _) = self.run(&piece, &piece.transforms)?;
                sink(Stored::Bytes(&packed(coded.code, &palette.codes(&values))?))?;
            }
            return sink(Stored::Tables(palette.table));
        }
        let pieces = cut(weight);
        let mut tables = Vec::with_capacity(coded.table_count());
        for piece in &pieces {
            let encoded = self.encode(piece)?;
            sink(Stored::Bytes(&encoded.packed()?))?;
            tables.extend(encoded.tables);
        }
        sink(Stored::Tables(tables))
    }

    /// What is more than moved: the numbers that codes stand for piece by piece, others whole.
    fn computed(&self, weight: &Weight, writer: &mut Writer) -> Result<()> {
        if let Some((palette, numbers)) = self.palette(weight)? {
            return numbers.row_pieces(CODES).iter().try_for_each(|piece| {
                let mut values = palette.round(&self.run(piece, &piece.transforms)?.0);
                round(weight.dtype, &mut values);
                values.chunks(BLOCK / 4).try_for_each(|values| writer.write(&Block::F32(values)))
            });
        }
        let pieces =
            if weight.encoding().is_some() { weight.row_pieces(CODES) } else { vec![weight.clone()] };
        pieces.iter().try_for_each(|piece| match &self.read(piece)?.data {
            Data::F32(values) => {
                values.chunks(BLOCK / 4).try_for_each(|values| writer.write(&Block::F32(values)))
            }
            Data::I32(values) => {
                values.chunks(BLOCK / 4).try_for_each(|values| writer.write(&Block::I32(values)))
            }
        })
    }

    /// Bytes that [`Store::stored`] holds at most, about.
    pub fn stored_needs(&self, weight: &Weight) -> u64 {
        let numbers = |weight: &Weight| element_count(&weight.source.shape()).max(weight.ty().count());
        let largest = |pieces: Vec<Weight>| pieces.iter().map(|piece| piece.ty().count()).max().unwrap_or(0);
        let pieces = |weight: &Weight| match without_codes(weight) {
            Some(numbers) => largest(numbers.row_pieces(CODES)),
            None => largest(weight.row_pieces(CODES)),
        };
        let bytes = match (weight.encoding(), self.moves(weight)) {
            // Each is f32, once more as it is moved, and a code or once more as it is decoded.
            (Some((encoding, true)), _) if encoding.method != Method::Gptq => 8 * PIECE + 3 * pieces(weight),
            (Some((encoding, false)), _) if encoding.method != Method::Gptq => 8 * PIECE + 8 * pieces(weight),
            // The products of each two inputs, and what is made of them, in f64.
            (Some((encoding, _)), _) => {
                let inputs = element_count(&weight.source.shape()[1..]);
                let products = if encoding.method == Method::Gptq { 24 * inputs * inputs } else { 0 };
                12 * numbers(weight) + products
            }
            (None, None) => 8 * numbers(weight),
            (None, Some(_)) if in_order(weight) => 0,
            (None, Some(_)) => 2 * largest(moved_pieces(weight)) * stored_size(weight),
        };
        (bytes + BESIDE) as u64
    }

    /// Runs a recipe into little-endian bytes of the weight's type, in order, handed to `sink` block by block.
    ///
    /// # Errors
    /// As [`Store::stored`].
    pub fn stream(&self, weight: &Weight, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.plain(weight, &mut Scratch::default(), sink)
    }

    fn plain(
        &self,
        weight: &Weight,
        scratch: &mut Scratch,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let Scratch { moving, floats, halves } = scratch;
        let file = match &weight.source {
            Source::Tensor { name, .. } => self.region(name).map(|region| self.path(region)),
            _ => None,
        };
        let mut writer = Writer { weight, sink, power: 0, computed: true, file, floats, halves };
        let Some(power) = self.moves(weight) else { return self.computed(weight, &mut writer) };
        (writer.power, writer.computed) = (power, false);
        let (takes, _) = split_takes(&weight.transforms);
        let (region, selection) = self.select(weight, takes)?;
        if in_order(weight) {
            return self.blocks(region, &selection, &mut moving.buffers, &mut |block| writer.write(&block));
        }
        for piece in moved_pieces(weight) {
            match region.dtype {
                DType::F32 => {
                    self.moved::<f32>(&piece, moving, &mut |block| writer.write(&Block::F32(block)))?
                }
                DType::F16 => {
                    self.moved::<f16>(&piece, moving, &mut |block| writer.write(&Block::F16(block)))?
                }
                DType::BF16 => {
                    self.moved::<bf16>(&piece, moving, &mut |block| writer.write(&Block::BF16(block)))?
                }
                DType::I32 => {
                    self.moved::<i32>(&piece, moving, &mut |block| writer.write(&Block::I32(block)))?
                }
            }
        }
        Ok(())
    }

    /// The power of two that a recipe multiplies stored numbers with, where it otherwise only moves them.
    fn moves(&self, weight: &Weight) -> Option<i32> {
        let Source::Tensor { name, .. } = &weight.source else { return None };
        self.region(name).is_none_or(|region| region.coding.is_none()).then_some(())?;
        let mut power = 0;
        for change in &weight.transforms {
            match change {
                Transform::Double(more) => power += more,
                Transform::Take { .. }
                | Transform::Part { .. }
                | Transform::Transpose(_)
                | Transform::Reshape(_)
                | Transform::Repeat(_) => {}
                _ => return None,
            }
        }
        // As one factor it is exact, and so is each of its steps.
        ((-126..=127).contains(&power) && (power == 0 || weight.dtype != DType::I32)).then_some(power)
    }

    /// What a recipe that only moves numbers gives, in the type they are stored in.
    fn moved<T: Pod + Send + Sync>(
        &self,
        weight: &Weight,
        Moving { buffers, numbers: room_for, moved: other }: &mut Moving,
        each: &mut dyn FnMut(&[T]) -> Result<()>,
    ) -> Result<()> {
        let (takes, rest) = split_takes(&weight.transforms);
        let (region, selection) = self.select(weight, takes)?;
        self.selected(region, &selection, buffers, room::<T>(room_for, selection.count()))?;
        let shape = weight.source.shape();
        let mut shape = takes.iter().try_fold(shape, |shape, take| applied(take, &shape, weight))?;
        for change in rest {
            let after = applied(change, &shape, weight)?;
            if !matches!(change, Transform::Reshape(_) | Transform::Double(_)) {
                let numbers = room::<T>(room_for, element_count(&shape));
                move_into(room(other, element_count(&after)), numbers, &shape, change);
                std::mem::swap(room_for, other);
            }
            shape = after;
        }
        let numbers: &[T] = room(room_for, element_count(&shape));
        numbers.chunks(BLOCK / size_of::<T>()).try_for_each(each)
    }
}

/// Whether the numbers that stay are stored in the order that they come in.
fn in_order(weight: &Weight) -> bool {
    let (_, rest) = split_takes(&weight.transforms);
    rest.iter().all(|change| matches!(change, Transform::Reshape(_) | Transform::Double(_)))
}

/// The pieces that a weight is moved in.
fn moved_pieces(weight: &Weight) -> Vec<Weight> {
    let pieces = weight.row_pieces(MOVED);
    if pieces.iter().map(read).sum::<usize>() > read(weight) { weight.row_pieces(TURNED) } else { pieces }
}

/// Numbers that are read of a weight's source: rows of that as they are stored, whatever stays of each.
fn read(weight: &Weight) -> usize {
    let whole = weight.source.shape();
    let (takes, _) = split_takes(&weight.transforms);
    let taken = takes.iter().try_fold(whole.clone(), |shape, take| take.apply(&shape));
    taken.and_then(|taken| Some(taken.first()? * element_count(&whole[1..]))).unwrap_or(1)
}

/// Bytes of a stored number.
fn stored_size(weight: &Weight) -> usize {
    match weight.source {
        Source::Tensor { dtype, .. } => dtype.size(),
        Source::Inline { .. } | Source::Table(_) => size_of::<f32>(),
    }
}

/// Encodes blocks as bytes of the weight's type; its buffers are reused.
struct Writer<'a> {
    weight: &'a Weight,
    sink: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    /// Every number times two to that power.
    power: i32,
    /// Whether the numbers are others than those that were read, which are checked there.
    computed: bool,
    /// Where they come from.
    file: Option<&'a Path>,
    floats: &'a mut Vec<f32>,
    halves: &'a mut Vec<f16>,
}

impl Writer<'_> {
    fn write(&mut self, block: &Block) -> Result<()> {
        if self.computed {
            self.check_finite(block)?;
        }
        match (self.weight.dtype, block) {
            (DType::F32, Block::F32(block)) if self.power == 0 => return (self.sink)(cast_slice(block)),
            (DType::F16, Block::F16(block)) if self.power == 0 => return (self.sink)(cast_slice(block)),
            (DType::I32, Block::I32(block)) => return (self.sink)(cast_slice(block)),
            _ => {}
        }
        self.floats.clear();
        append(block, self.floats);
        if self.power != 0 {
            let factor = 2f32.powi(self.power);
            self.floats.iter_mut().for_each(|value| *value *= factor);
        }
        match self.weight.dtype {
            DType::F32 => (self.sink)(cast_slice(self.floats)),
            DType::F16 => {
                self.halves.resize(self.floats.len(), f16::ZERO);
                self.halves.convert_from_f32_slice(self.floats);
                self.check_range()?;
                (self.sink)(cast_slice(self.halves))
            }
            DType::BF16 | DType::I32 => {
                Err(Error::bug("floats asked for as integers").at(Place::Tensor(self.weight.name.clone())))
            }
        }
    }

    /// What a recipe computes may pass what a number can be.
    fn check_finite(&self, block: &Block) -> Result<()> {
        strange_number(block).map_or(Ok(()), |value| Err(not_finite(value, &self.weight.name)))
    }

    fn check_range(&self) -> Result<()> {
        let lost = |(half, value): (&f16, &f32)| half.is_infinite() && value.is_finite();
        let Some((_, value)) = self.halves.iter().zip(self.floats.iter()).find(|pair| lost(*pair)) else {
            return Ok(());
        };
        let error = Error::limit(format!("the weight {value:e} does not fit f16, which ends at 65504"))
            .at(Place::Tensor(self.weight.name.clone()))
            .help("write this part with --precision f32");
        Err(self.file.iter().fold(error, |error, file| error.at(Place::File(file.to_path_buf()))))
    }
}
