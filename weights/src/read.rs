use bytemuck::{Pod, cast_slice, cast_slice_mut};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use snapc_ir::{DType, Dim, Error, Place, Result, Source, Transform, Weight, element_count, shape_text};

use crate::store::{Region, Store};
use crate::table::table_values;
use crate::tensor::{Data, Tensor, round};
use crate::transpose::transpose;

/// Bytes that are read at once.
pub(crate) const BLOCK: usize = 1 << 18;

/// A block of stored numbers, in the type they are stored in.
pub(crate) enum Block<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
    I32(&'a [i32]),
}

impl Store {
    /// Runs a recipe: the whole weight as numbers, an encoded one's as they are decoded.
    ///
    /// # Errors
    /// If the tensor is missing or other than the recipe says, its file cannot be read, or it cannot be encoded.
    pub fn read(&self, weight: &Weight) -> Result<Tensor> {
        if weight.dtype == DType::I32 {
            return self.read_integers(weight);
        }
        if weight.coded().is_some() {
            return Ok(Tensor::float(weight.ty(), self.encode(weight)?.decode()));
        }
        let (mut values, _) = self.run(weight, &weight.transforms)?;
        round(weight.dtype, &mut values);
        Ok(Tensor { ty: weight.ty(), data: Data::F32(values) })
    }

    /// The numbers of a weight behind some of its first transforms, and their shape.
    pub(crate) fn run(&self, weight: &Weight, transforms: &[Transform]) -> Result<(Vec<f32>, Vec<usize>)> {
        let encode = transforms.iter().rposition(|change| matches!(change, Transform::Encode(_)));
        if let Some((place, Transform::Encode(encoding))) = encode.map(|place| (place, &transforms[place])) {
            let encoded = self.codes(weight, place, encoding)?;
            let (mut values, mut shape) = (encoded.decode(), encoded.coded.shape);
            for change in &transforms[place + 1..] {
                (values, shape) = self.transform(values, &shape, change, weight)?;
            }
            return Ok((values, shape));
        }
        let (takes, rest) = split_takes(transforms);
        let mut shape = weight.source.shape();
        let plain = |region: &&Region| region.coding.is_none();
        let mut values = match &weight.source {
            Source::Tensor { name, .. } if self.region(name).as_ref().is_none_or(plain) => {
                let (region, selection) = self.select(weight, takes)?;
                if region.dtype == DType::I32 {
                    return Err(
                        Error::bug("a recipe changes integers").at(Place::Tensor(weight.name.clone()))
                    );
                }
                let mut values = Vec::with_capacity(selection.count());
                self.blocks(region, &selection, &mut Buffers::default(), &mut |block| {
                    append(&block, &mut values);
                    Ok(())
                })?;
                for take in takes {
                    shape = applied(take, &shape, weight)?;
                }
                values
            }
            source => {
                let mut values = match source {
                    Source::Inline { values, .. } => values.clone(),
                    Source::Table(table) => table_values(table),
                    Source::Tensor { .. } => self.decoded(self.select(weight, takes)?.0)?,
                };
                for take in takes {
                    (values, shape) = self.transform(values, &shape, take, weight)?;
                }
                values
            }
        };
        for change in rest {
            (values, shape) = self.transform(values, &shape, change, weight)?;
        }
        Ok((values, shape))
    }

    fn transform(
        &self,
        values: Vec<f32>,
        shape: &[usize],
        change: &Transform,
        weight: &Weight,
    ) -> Result<(Vec<f32>, Vec<usize>)> {
        let after = applied(change, shape, weight)?;
        let values = match change {
            Transform::Double(power) => {
                let factor = 2f32.powi(*power);
                values.into_iter().map(|value| value * factor).collect()
            }
            Transform::Encode(_) => return Err(Error::bug("codes are made of a recipe, not of numbers")),
            Transform::LowRank { rank, factor } => {
                self.factor_of(values, [shape[0], shape[1]], *rank, *factor, weight)?
            }
            Transform::Decode => values,
            Transform::Steps { of, scale } => {
                let (steps, scales) = self.steps_of(&values, of, *scale)?;
                steps.iter().zip(&scales).map(|(&step, scale)| step as f32 * scale).collect()
            }
            moving => moved(values, shape, moving),
        };
        Ok((values, after))
    }

    /// A stored tensor, whole, as it lies there: bf16 as f32.
    ///
    /// # Errors
    /// If there is none of that name, or its file cannot be read.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let region = self
            .region(name)
            .ok_or_else(|| Error::input("the tensor is missing").at(Place::Tensor(name.to_string())))?;
        let dims = region.shape.iter().copied().map(Dim::fixed).collect();
        let mut weight = Weight::tensor(name, region.dtype, dims);
        if region.dtype == DType::I32 {
            weight.dtype = DType::I32;
        }
        self.read(&weight)
    }

    fn read_integers(&self, weight: &Weight) -> Result<Tensor> {
        let (takes, rest) = split_takes(&weight.transforms);
        let (region, selection) = self.select(weight, takes)?;
        if region.dtype != DType::I32 || !rest.is_empty() {
            return Err(Error::bug("a recipe changes integers").at(Place::Tensor(weight.name.clone())));
        }
        let mut values = Vec::with_capacity(selection.count());
        self.blocks(region, &selection, &mut Buffers::default(), &mut |block| {
            if let Block::I32(block) = block {
                values.extend_from_slice(block);
            }
            Ok(())
        })?;
        Ok(Tensor::i32(weight.shape(), values))
    }

    pub(crate) fn select(&self, weight: &Weight, takes: &[Transform]) -> Result<(&Region, Selection)> {
        let Source::Tensor { name, dtype, shape } = &weight.source else {
            return Err(
                Error::bug("the weight is not in a checkpoint").at(Place::Tensor(weight.name.clone()))
            );
        };
        let region = self
            .region(name)
            .ok_or_else(|| Error::input("the tensor is missing").at(Place::Tensor(name.clone())))?;
        if region.dtype != *dtype || region.shape != *shape {
            let (found, expected) = (shape_text(&region.shape), shape_text(shape));
            return Err(Error::input(format!(
                "{name} is {}{found}, expected {dtype}{expected}",
                region.dtype
            ))
            .at(Place::File(self.path(region).to_path_buf())));
        }
        Ok((region, Selection::new(shape, takes)))
    }

    pub(crate) fn blocks(
        &self,
        region: &Region,
        selection: &Selection,
        buffers: &mut Buffers,
        each: &mut dyn FnMut(Block) -> Result<()>,
    ) -> Result<()> {
        match region.dtype {
            DType::F32 => self.typed_blocks(region, selection, buffers, &mut |block| each(Block::F32(block))),
            DType::F16 => self.typed_blocks(region, selection, buffers, &mut |block| each(Block::F16(block))),
            DType::BF16 => {
                self.typed_blocks(region, selection, buffers, &mut |block| each(Block::BF16(block)))
            }
            DType::I32 => self.typed_blocks(region, selection, buffers, &mut |block| each(Block::I32(block))),
        }
    }

    pub(crate) fn typed_blocks<T: Pod>(
        &self,
        region: &Region,
        selection: &Selection,
        buffers: &mut Buffers,
        each: &mut dyn FnMut(&[T]) -> Result<()>,
    ) -> Result<()> {
        for (first, rows) in selection.blocks(size_of::<T>()) {
            let kept = room(&mut buffers.kept, rows * selection.kept());
            self.rows(region, selection, first, &mut buffers.stored, kept)?;
            each(kept)?;
        }
        Ok(())
    }

    /// All numbers of a selection, one behind the other.
    pub(crate) fn selected<T: Pod>(
        &self,
        region: &Region,
        selection: &Selection,
        buffers: &mut Buffers,
        mut numbers: &mut [T],
    ) -> Result<()> {
        for (first, rows) in selection.blocks(size_of::<T>()) {
            let (kept, rest) = numbers.split_at_mut(rows * selection.kept());
            self.rows(region, selection, first, &mut buffers.stored, kept)?;
            numbers = rest;
        }
        Ok(())
    }

    /// What stays of as many rows as `kept` has room for, from that one on.
    fn rows<T: Pod>(
        &self,
        region: &Region,
        selection: &Selection,
        first: usize,
        stored: &mut Vec<u64>,
        kept: &mut [T],
    ) -> Result<()> {
        let Selection { row, runs, .. } = selection;
        let start = (first * row * size_of::<T>()) as u64;
        if matches!(runs[..], [(0, length)] if length == *row) {
            self.read_at(region, start, cast_slice_mut(kept))?;
            return self.check_finite(region, kept);
        }
        let kept_of_row = selection.kept();
        let stored = room::<T>(stored, kept.len() / kept_of_row * row);
        self.read_at(region, start, cast_slice_mut(stored))?;
        for (line, mut kept) in stored.chunks_exact(*row).zip(kept.chunks_exact_mut(kept_of_row)) {
            if kept_of_row == runs.len() {
                // Each run is one number.
                kept.iter_mut().zip(runs).for_each(|(to, run)| *to = line[run.0]);
                continue;
            }
            for &(start, length) in runs {
                let (to, rest) = kept.split_at_mut(length);
                to.copy_from_slice(&line[start..start + length]);
                kept = rest;
            }
        }
        self.check_finite(region, kept)
    }
}

impl Store {
    /// A number that is none makes every picture black: it is named here, not found there.
    fn check_finite<T: Pod>(&self, region: &Region, numbers: &[T]) -> Result<()> {
        let strange = match region.dtype {
            DType::F32 => strange_number(&Block::F32(cast_slice(numbers))),
            DType::F16 => strange_number(&Block::F16(cast_slice(numbers))),
            DType::BF16 => strange_number(&Block::BF16(cast_slice(numbers))),
            DType::I32 => None,
        };
        strange.map_or(Ok(()), |value| {
            Err(not_finite(value, &region.name).at(Place::File(self.path(region).to_path_buf())))
        })
    }
}

/// The first number of a block that is infinite or none.
pub(crate) fn strange_number(block: &Block) -> Option<f32> {
    match block {
        Block::F32(block) => first_not(block, |value| value.is_finite()),
        Block::F16(block) => first_not(block, |value| value.is_finite()).map(f16::to_f32),
        Block::BF16(block) => first_not(block, |value| value.is_finite()).map(bf16::to_f32),
        Block::I32(_) => None,
    }
}

/// The first number that something does not hold for. Some are looked at together, with no way out between them: that becomes vector code.
fn first_not<T: Copy>(numbers: &[T], holds: impl Fn(T) -> bool) -> Option<T> {
    let some =
        numbers.chunks(1 << 10).find(|some| !some.iter().fold(true, |all, &number| all & holds(number)));
    some?.iter().copied().find(|&number| !holds(number))
}

/// The error of such a number.
pub(crate) fn not_finite(value: f32, tensor: &str) -> Error {
    Error::input(format!("a weight is {value}, expected a number"))
        .at(Place::Tensor(tensor.to_string()))
        .help("the checkpoint is damaged or its training diverged")
}

/// What is read and what stays of it, one block after the other.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    stored: Vec<u64>,
    kept: Vec<u64>,
}

impl Buffers {
    /// With room for a block each.
    pub(crate) fn with_room() -> Self {
        let words = || Vec::with_capacity(BLOCK / size_of::<u64>());
        Buffers { stored: words(), kept: words() }
    }
}

/// Room for so many numbers.
pub(crate) fn room<T: Pod>(buffer: &mut Vec<u64>, count: usize) -> &mut [T] {
    let words = (count * size_of::<T>()).div_ceil(size_of::<u64>());
    if buffer.len() < words {
        buffer.resize(words, 0);
    }
    &mut cast_slice_mut(&mut buffer[..words])[..count]
}

/// Which numbers of a stored tensor stay: ranges of its first axis, and within each of those rows, runs of numbers.
pub(crate) struct Selection {
    /// Numbers of a stored row.
    row: usize,
    /// Start and length of ranges of rows.
    rows: Vec<(usize, usize)>,
    /// Start and length of runs within a row.
    runs: Vec<(usize, usize)>,
}

impl Selection {
    fn new(shape: &[usize], takes: &[Transform]) -> Self {
        let mut ranges: Vec<Vec<(usize, usize)>> = shape.iter().map(|&size| vec![(0, size)]).collect();
        for take in takes {
            match take {
                Transform::Take { axis, chunks, keep } => {
                    ranges[*axis] = cut(&ranges[*axis], *chunks, *keep);
                }
                Transform::Part { axis, start, size } => ranges[*axis] = part(&ranges[*axis], *start, *size),
                _ => {}
            }
        }
        let row = shape.iter().skip(1).product();
        let rows = ranges.first().cloned().unwrap_or_else(|| vec![(0, 1)]);
        let mut runs = vec![(0, 1)];
        let mut inner = 1;
        // From the innermost axis outwards: a whole axis widens the runs, a cut one repeats them.
        for (size, ranges) in shape.iter().zip(&ranges).skip(1).rev() {
            let full = runs == [(0, inner)];
            runs = ranges
                .iter()
                .flat_map(|&(start, length)| {
                    if full {
                        vec![(start * inner, length * inner)]
                    } else {
                        repeat(&runs, start, length, inner)
                    }
                })
                .collect();
            inner *= size;
        }
        Selection { row, rows, runs }
    }

    /// Numbers that stay of a row.
    fn kept(&self) -> usize {
        self.runs.iter().map(|run| run.1).sum()
    }

    /// First row and number of rows that are read at once, of numbers of that many bytes.
    fn blocks(&self, size: usize) -> impl Iterator<Item = (usize, usize)> {
        let rows = (BLOCK / (self.row * size).max(1)).max(1);
        let of_range = move |&(start, length): &(usize, usize)| {
            (start..start + length).step_by(rows).map(move |first| (first, rows.min(start + length - first)))
        };
        self.rows.iter().flat_map(of_range)
    }

    /// How many numbers stay.
    pub(crate) fn count(&self) -> usize {
        self.rows.iter().map(|range| range.1).sum::<usize>() * self.kept()
    }
}

fn repeat(runs: &[(usize, usize)], start: usize, length: usize, inner: usize) -> Vec<(usize, usize)> {
    (start..start + length)
        .flat_map(|index| runs.iter().map(move |&(first, count)| (index * inner + first, count)))
        .collect()
}

/// The first `keep` of each of `chunks` equal pieces of what `ranges` hold.
fn cut(ranges: &[(usize, usize)], chunks: usize, keep: usize) -> Vec<(usize, usize)> {
    let total: usize = ranges.iter().map(|range| range.1).sum();
    let piece = total / chunks;
    let mut kept: Vec<(usize, usize)> = Vec::new();
    let mut before = 0;
    for &(start, length) in ranges {
        for chunk in 0..chunks {
            let (from, to) = ((chunk * piece).max(before), (chunk * piece + keep).min(before + length));
            if from < to {
                kept.push((start + from - before, to - from));
            }
        }
        before += length;
    }
    kept
}

/// What `ranges` hold from number `start` on, `size` numbers of it.
fn part(ranges: &[(usize, usize)], start: usize, size: usize) -> Vec<(usize, usize)> {
    let mut kept = Vec::new();
    let mut before = 0;
    for &(first, length) in ranges {
        let (from, to) = (start.max(before), (start + size).min(before + length));
        if from < to {
            kept.push((first + from - before, to - from));
        }
        before += length;
    }
    kept
}

/// Takes and parts at the front of a recipe choose what is read; the rest moves numbers about.
pub(crate) fn split_takes(transforms: &[Transform]) -> (&[Transform], &[Transform]) {
    let chooses = |change: &&Transform| matches!(change, Transform::Take { .. } | Transform::Part { .. });
    let takes = transforms.iter().take_while(chooses);
    transforms.split_at(takes.count())
}

pub(crate) fn applied(change: &Transform, shape: &[usize], weight: &Weight) -> Result<Vec<usize>> {
    change
        .apply(shape)
        .ok_or_else(|| Error::bug("a recipe does not fit").at(Place::Tensor(weight.name.clone())))
}

/// Writes what a transform that moves, drops or repeats numbers of `shape` makes of them; others leave them as they are.
pub(crate) fn move_into<T: Pod + Send + Sync>(to: &mut [T], from: &[T], shape: &[usize], change: &Transform) {
    match change {
        Transform::Take { .. } | Transform::Part { .. } => {
            let Selection { row, rows, runs } = Selection::new(shape, std::slice::from_ref(change));
            let lines = rows.iter().flat_map(|&(start, length)| start..start + length);
            let kept =
                lines.flat_map(|line| runs.iter().map(move |&(start, length)| (line * row + start, length)));
            let mut rest = to;
            for (start, length) in kept {
                let (now, later) = rest.split_at_mut(length);
                now.copy_from_slice(&from[start..start + length]);
                rest = later;
            }
        }
        Transform::Transpose(perm) => transpose(to, from, shape, perm),
        Transform::Repeat(_) => {
            to.chunks_exact_mut(from.len().max(1)).for_each(|to| to.copy_from_slice(from));
        }
        Transform::Reshape(_)
        | Transform::Double(_)
        | Transform::LowRank { .. }
        | Transform::Encode(_)
        | Transform::Decode
        | Transform::Steps { .. } => to.copy_from_slice(from),
    }
}

/// As [`move_into`], of numbers that nothing else needs.
pub(crate) fn moved<T: Pod + Send + Sync>(values: Vec<T>, shape: &[usize], change: &Transform) -> Vec<T> {
    match (change, change.apply(shape)) {
        (
            Transform::Take { .. } | Transform::Part { .. } | Transform::Transpose(_) | Transform::Repeat(_),
            Some(after),
        ) => {
            let mut moved = vec![T::zeroed(); element_count(&after)];
            move_into(&mut moved, &values, shape, change);
            moved
        }
        _ => values,
    }
}

/// Adds a block's numbers as f32.
pub(crate) fn append(block: &Block, values: &mut Vec<f32>) {
    let start = values.len();
    match block {
        Block::F32(block) => values.extend_from_slice(block),
        Block::F16(block) => {
            values.resize(start + block.len(), 0.0);
            block.convert_to_f32_slice(&mut values[start..]);
        }
        Block::BF16(block) => {
            values.resize(start + block.len(), 0.0);
            block.convert_to_f32_slice(&mut values[start..]);
        }
        Block::I32(_) => {}
    }
}
