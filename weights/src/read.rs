use bytemuck::{Pod, cast_slice, cast_slice_mut};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use snapc_ir::{DType, Dim, Error, Place, Result, Source, Transform, Weight, element_count, shape_text};

use crate::store::{Region, Store};
use crate::table::table_values;
use crate::tensor::{Data, Tensor, round};

/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;

/// A block of stored numbers, in the type they are stored in.
enum Block<'a> {
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
                self.blocks(region, &selection, &mut |block| {
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
            Transform::Encode(encoding) => self.codes_of(&values, shape, encoding, weight)?.decode(),
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
        self.blocks(region, &selection, &mut |block| {
            if let Block::I32(block) = block {
                values.extend_from_slice(block);
            }
            Ok(())
        })?;
        Ok(Tensor::i32(weight.shape(), values))
    }

    /// Runs a recipe into little-endian bytes of the weight's type, in order, handed to `sink` block by block. A weight
    /// that is only cut and cast is never held whole.
    ///
    /// # Errors
    /// As [`Store::read`], what `sink` reports, or a number that the weight's type cannot hold.
    pub fn stream(&self, weight: &Weight, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (takes, rest) = split_takes(&weight.transforms);
        let in_order = rest.iter().all(|change| matches!(change, Transform::Reshape(_)));
        let mut writer = Writer { weight, sink, buffer: Vec::new(), halves: Vec::new() };
        if matches!(weight.source, Source::Tensor { .. }) && in_order {
            let (region, selection) = self.select(weight, takes)?;
            if region.coding.is_none() {
                return self.blocks(region, &selection, &mut |block| writer.write(&block));
            }
        }
        let tensor = self.read(weight)?;
        match &tensor.data {
            Data::F32(values) => {
                values.chunks(BLOCK / 4).try_for_each(|values| writer.write(&Block::F32(values)))
            }
            Data::I32(values) => {
                values.chunks(BLOCK / 4).try_for_each(|values| writer.write(&Block::I32(values)))
            }
        }
    }

    fn select(&self, weight: &Weight, takes: &[Transform]) -> Result<(&Region, Selection)> {
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

    fn blocks(
        &self,
        region: &Region,
        selection: &Selection,
        each: &mut dyn FnMut(Block) -> Result<()>,
    ) -> Result<()> {
        match region.dtype {
            DType::F32 => self.typed_blocks::<f32>(region, selection, &mut |block| each(Block::F32(block))),
            DType::F16 => self.typed_blocks::<f16>(region, selection, &mut |block| each(Block::F16(block))),
            DType::BF16 => {
                self.typed_blocks::<bf16>(region, selection, &mut |block| each(Block::BF16(block)))
            }
            DType::I32 => self.typed_blocks::<i32>(region, selection, &mut |block| each(Block::I32(block))),
        }
    }

    fn typed_blocks<T: Pod>(
        &self,
        region: &Region,
        selection: &Selection,
        each: &mut dyn FnMut(&[T]) -> Result<()>,
    ) -> Result<()> {
        let size = size_of::<T>();
        let Selection { row, rows, runs } = selection;
        let rows_at_once = (BLOCK / (row * size).max(1)).max(1);
        let whole = matches!(runs[..], [(0, length)] if length == *row);
        let mut stored = Vec::new();
        let mut kept: Vec<T> = Vec::new();
        for &(start, length) in rows {
            for first in (start..start + length).step_by(rows_at_once) {
                let count = rows_at_once.min(start + length - first);
                stored.resize(count * row, T::zeroed());
                self.read_at(region, (first * row * size) as u64, cast_slice_mut(&mut stored))?;
                if whole {
                    each(&stored)?;
                    continue;
                }
                kept.clear();
                for line in stored.chunks_exact(*row) {
                    runs.iter()
                        .for_each(|&(start, length)| kept.extend_from_slice(&line[start..start + length]));
                }
                each(&kept)?;
            }
        }
        Ok(())
    }
}

/// Which numbers of a stored tensor stay: ranges of its first axis, and within each of those rows, runs of numbers.
struct Selection {
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

    fn count(&self) -> usize {
        let of = |ranges: &[(usize, usize)]| ranges.iter().map(|range| range.1).sum::<usize>();
        of(&self.rows) * of(&self.runs)
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
fn split_takes(transforms: &[Transform]) -> (&[Transform], &[Transform]) {
    let chooses = |change: &&Transform| matches!(change, Transform::Take { .. } | Transform::Part { .. });
    let takes = transforms.iter().take_while(chooses);
    transforms.split_at(takes.count())
}

pub(crate) fn applied(change: &Transform, shape: &[usize], weight: &Weight) -> Result<Vec<usize>> {
    change
        .apply(shape)
        .ok_or_else(|| Error::bug("a recipe does not fit").at(Place::Tensor(weight.name.clone())))
}

/// What a transform that only moves, drops or repeats numbers makes of them.
pub(crate) fn moved<T: Copy>(values: Vec<T>, shape: &[usize], change: &Transform) -> Vec<T> {
    match change {
        Transform::Take { .. } | Transform::Part { .. } => {
            let Selection { row, rows, runs } = Selection::new(shape, std::slice::from_ref(change));
            let indices = rows.iter().flat_map(|&(start, length)| start..start + length);
            indices
                .flat_map(|index| {
                    runs.iter()
                        .flat_map(move |&(start, length)| index * row + start..index * row + start + length)
                })
                .map(|at| values[at])
                .collect()
        }
        Transform::Transpose(perm) => transpose(&values, shape, perm),
        Transform::Repeat(times) => values.repeat(*times),
        Transform::Reshape(_)
        | Transform::Double(_)
        | Transform::LowRank { .. }
        | Transform::Encode(_)
        | Transform::Decode
        | Transform::Steps { .. } => values,
    }
}

/// Numbers of a row-major tensor with its axes permuted: new axis `i` is the old axis `perm[i]`.
pub fn transpose<T: Copy>(values: &[T], shape: &[usize], perm: &[usize]) -> Vec<T> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    let sizes: Vec<usize> = perm.iter().map(|&axis| shape[axis]).collect();
    let steps: Vec<usize> = perm.iter().map(|&axis| strides[axis]).collect();
    let mut result = Vec::with_capacity(values.len());
    let (Some((&last, sizes)), Some((&step, steps))) = (sizes.split_last(), steps.split_last()) else {
        return values.to_vec();
    };
    let mut index = vec![0; sizes.len()];
    for _ in 0..element_count(sizes) {
        let start: usize = index.iter().zip(steps).map(|(index, step)| index * step).sum();
        result.extend((0..last).map(|number| values[start + number * step]));
        for axis in (0..sizes.len()).rev() {
            index[axis] += 1;
            if index[axis] < sizes[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    result
}

fn append(block: &Block, values: &mut Vec<f32>) {
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

/// Encodes blocks as bytes of the weight's type; its buffers are reused.
struct Writer<'a> {
    weight: &'a Weight,
    sink: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    buffer: Vec<f32>,
    halves: Vec<f16>,
}

impl Writer<'_> {
    fn write(&mut self, block: &Block) -> Result<()> {
        match (self.weight.dtype, block) {
            (DType::F32, Block::F32(block)) => return (self.sink)(cast_slice(block)),
            (DType::F16, Block::F16(block)) => return (self.sink)(cast_slice(block)),
            (DType::I32, Block::I32(block)) => return (self.sink)(cast_slice(block)),
            _ => {}
        }
        self.buffer.clear();
        append(block, &mut self.buffer);
        match self.weight.dtype {
            DType::F32 => (self.sink)(cast_slice(&self.buffer)),
            DType::F16 => {
                self.halves.resize(self.buffer.len(), f16::ZERO);
                self.halves.convert_from_f32_slice(&self.buffer);
                self.check_range()?;
                (self.sink)(cast_slice(&self.halves))
            }
            DType::BF16 | DType::I32 => {
                Err(Error::bug("floats asked for as integers").at(Place::Tensor(self.weight.name.clone())))
            }
        }
    }

    fn check_range(&self) -> Result<()> {
        let lost = |(half, value): (&f16, &f32)| half.is_infinite() && value.is_finite();
        match self.halves.iter().zip(&self.buffer).find(|pair| lost(*pair)) {
            None => Ok(()),
            Some((_, value)) => {
                Err(Error::limit(format!("the weight {value:e} does not fit f16, which ends at 65504"))
                    .at(Place::Tensor(self.weight.name.clone()))
                    .help("write this part with --precision f32"))
            }
        }
    }
}
