//! Weights as codes: the numbers that a recipe gives, the encoding that it names, and what moves codes behind that.

use bytemuck::{cast_slice, cast_slice_mut};
use half::f16;
use half::slice::HalfFloatSliceExt;
use snapc_ir::{
    Code, Coded, DType, Dim, Encoding, Error, Factor, Method, Place, Result, Source, Transform, Weight,
    element_count,
};

use crate::quantize::{self, Feedback, Histogram, Levels, LowRank};
use crate::read::moved;
use crate::statistics::Moments;
use crate::store::{Region, Store};

/// Numbers that are encoded at once.
pub(crate) const PIECE: usize = 1 << 20;

/// A weight as it is stored: codes, and what they stand for.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// How the codes lie.
    pub coded: Coded,
    /// The codes, row-major: signed numbers as two's complement, or indices into a table.
    pub codes: Vec<u8>,
    /// Scales, or the tables one behind the other, by block, row-major.
    pub tables: Vec<f16>,
}

impl Encoded {
    /// The numbers that the codes stand for: `scale * code` in f32, or a number of a table.
    pub fn decode(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.codes.len()];
        decode_rows(&self.coded, &self.codes, &self.tables.to_f32_vec(), 0, &mut values);
        values
    }

    /// The codes without gaps: two of 4 bits a byte, the low ones first, and so on ([`quantize::pack`]).
    ///
    /// # Errors
    /// If there is no such number of bits.
    pub fn packed(&self) -> Result<Vec<u8>> {
        packed(self.coded.code, &self.codes)
    }

    fn after(self, change: &Transform) -> Option<Self> {
        let coded = self.coded.after(change)?;
        let tables = match self.coded.moved(change)? {
            None => self.tables,
            // A table goes with its block: it is one more axis, whole.
            Some(of_blocks) => {
                let shared = self.coded.code.shared();
                let mut blocks = self.coded.blocks.clone();
                blocks.push(shared);
                let change = match of_blocks {
                    Transform::Transpose(mut perm) => {
                        perm.push(perm.len());
                        Transform::Transpose(perm)
                    }
                    change => change,
                };
                moved(self.tables, &blocks, &change)
            }
        };
        let codes = moved(self.codes, &self.coded.shape, change);
        Some(Encoded { coded, codes, tables })
    }
}

/// Codes without gaps.
pub(crate) fn packed(code: Code, codes: &[u8]) -> Result<Vec<u8>> {
    match code.bits() {
        8 => Ok(codes.to_vec()),
        4 => Ok(quantize::pack_int4(cast_slice(codes))),
        bits => quantize::pack(codes, bits),
    }
}

/// The codes that bytes hold: signed ones as two's complement, eight bits each.
pub(crate) fn unpacked(code: Code, bytes: &[u8], count: usize) -> Vec<u8> {
    match code {
        Code::Int { bits: 4 } => quantize::signed_nibbles(bytes).take(count).map(|code| code as u8).collect(),
        code => quantize::unpacked(bytes, code.bits() as u32, count),
    }
}

/// The numbers that the codes of some rows of the last axis stand for, from that row on.
pub(crate) fn decode_rows(coded: &Coded, codes: &[u8], tables: &[f32], first: usize, values: &mut [f32]) {
    let sizes = coded.block_sizes();
    let rank = coded.shape.len();
    let (last, last_size) = (coded.shape.last().copied().unwrap_or(1), sizes.last().copied().unwrap_or(1));
    let mut index = vec![0; rank.saturating_sub(1)];
    let mut rest = first;
    for axis in (0..index.len()).rev() {
        (index[axis], rest) = (rest % coded.shape[axis], rest / coded.shape[axis]);
    }
    for (row, values) in codes.chunks_exact(last).zip(values.chunks_exact_mut(last)) {
        let block = index
            .iter()
            .zip(&sizes)
            .zip(&coded.blocks)
            .fold(0, |block, ((at, size), blocks)| block * blocks + at / size)
            * (last / last_size);
        for (number, (part, values)) in row.chunks(last_size).zip(values.chunks_mut(last_size)).enumerate() {
            let pairs = values.iter_mut().zip(part);
            match coded.code {
                Code::Int { .. } => {
                    let scale = tables[block + number];
                    pairs.for_each(|(value, &code)| *value = scale * f32::from(code as i8));
                }
                Code::Palette { bits } => {
                    let table = &tables[(block + number) << bits..][..1 << bits];
                    pairs.for_each(|(value, &code)| *value = table[usize::from(code)]);
                }
            }
        }
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < coded.shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

/// One table for all numbers of a weight.
pub(crate) struct Palette {
    /// The numbers that codes stand for.
    pub(crate) table: Vec<f16>,
    /// The code of each number that f16 has, by its bits.
    nearest: Vec<u8>,
}

impl Palette {
    /// The codes of numbers.
    pub(crate) fn codes(&self, values: &[f32]) -> Vec<u8> {
        let mut halves = vec![f16::ZERO; values.len()];
        halves.convert_from_f32_slice(values);
        halves.iter().map(|half| self.nearest[usize::from(half.to_bits())]).collect()
    }

    /// What the codes of numbers stand for.
    pub(crate) fn round(&self, values: &[f32]) -> Vec<f32> {
        self.codes(values).iter().map(|&code| self.table[usize::from(code)].to_f32()).collect()
    }
}

/// The encoding of a weight whose numbers share one table, with its place in the recipe, and the bits of its codes.
fn one_table(weight: &Weight) -> Option<(usize, &Encoding, usize)> {
    weight.transforms.iter().enumerate().find_map(|(place, change)| match change {
        Transform::Encode(encoding) => match (encoding.code, encoding.group, encoding.method) {
            (Code::Palette { bits }, None, Method::Rtn | Method::Awq) => Some((place, encoding, bits)),
            _ => None,
        },
        _ => None,
    })
}

/// The recipe of the numbers that an encoded weight's codes are made of, in the order of the codes, where they share one table: which
/// code a number gets is then up to the table alone.
pub(crate) fn without_codes(weight: &Weight) -> Option<Weight> {
    one_table(weight)?;
    let coding = |change: &Transform| matches!(change, Transform::Encode(_) | Transform::Decode);
    let transforms = weight.transforms.iter().filter(|change| !coding(change)).cloned().collect();
    Some(Weight { transforms, ..weight.clone() })
}

impl Store {
    /// Runs the recipe of an encoded weight into codes.
    ///
    /// # Errors
    /// If it is not encoded, it cannot be read, a number of it is not finite, or its method asks for what was not measured.
    pub fn encode(&self, weight: &Weight) -> Result<Encoded> {
        let place = weight.transforms.iter().position(|change| matches!(change, Transform::Encode(_)));
        let Some((place, Transform::Encode(encoding))) =
            place.map(|place| (place, &weight.transforms[place]))
        else {
            return Err(Error::bug("the weight is not encoded").at(Place::Tensor(weight.name.clone())));
        };
        let encoded = self.codes(weight, place, encoding)?;
        weight.transforms[place + 1..]
            .iter()
            .try_fold(encoded, |encoded, change| encoded.after(change))
            .ok_or_else(|| {
                Error::bug("a recipe parts what is encoded").at(Place::Tensor(weight.name.clone()))
            })
    }

    /// Runs a recipe that ends in steps into these: how many of its own length each number is, and that length.
    ///
    /// # Errors
    /// If it has no steps, or it cannot be read.
    pub fn steps(&self, weight: &Weight) -> Result<(Vec<i32>, Vec<f32>)> {
        let Some((of, scale)) = weight.stepped() else {
            return Err(Error::bug("the weight has no steps").at(Place::Tensor(weight.name.clone())));
        };
        let (values, _) = self.run(weight, &weight.transforms[..weight.transforms.len() - 1])?;
        self.steps_of(&values, of, scale)
    }

    /// Sums of products with codes stay far below the bound; f32 reads the steps back as they are written.
    pub(crate) fn steps_of(&self, values: &[f32], of: &Weight, scale: f32) -> Result<(Vec<i32>, Vec<f32>)> {
        const MOST: f32 = (1 << 30) as f32;
        let scales: Vec<f32> = self.encode(of)?.tables.iter().map(|row| scale * row.to_f32()).collect();
        let step = |(value, scale): (&f32, &f32)| (value / scale).round_ties_even().clamp(-MOST, MOST) as i32;
        Ok((values.iter().zip(&scales).map(step).collect(), scales))
    }

    /// The codes that the encoding at `place` of a recipe gives, some rows after the others where they have codes of their own.
    pub(crate) fn codes(&self, weight: &Weight, place: usize, encoding: &Encoding) -> Result<Encoded> {
        let plain = upto(weight, place)?;
        let shape = plain.shape();
        let blocks = encoding.blocks(&shape).ok_or_else(|| {
            Error::bug(format!("{encoding} does not fit {shape:?}")).at(Place::Tensor(weight.name.clone()))
        })?;
        let coded = Coded { code: encoding.code, shape, blocks };
        if let Some((palette, plain)) = self.palette(weight)? {
            let mut codes = Vec::with_capacity(plain.ty().count());
            // What comes behind the encoding moves codes: here they are as they are made.
            for piece in upto(weight, place)?.row_pieces(PIECE) {
                codes.extend(palette.codes(&self.run(&piece, &piece.transforms)?.0));
            }
            return Ok(Encoded { coded, codes, tables: palette.table });
        }
        let moments = self.moments_for(weight, encoding, &coded.shape)?;
        let (mut codes, mut tables) = (Vec::with_capacity(plain.ty().count()), Vec::new());
        for piece in upto(weight, place + 1)?.row_pieces(PIECE) {
            let (values, shape) = self.run(&piece, &piece.transforms[..piece.transforms.len() - 1])?;
            check_finite(&values, codes.len(), weight)?;
            let row = element_count(&shape[1..]);
            let (of_piece, its_tables) = match encoding.code {
                Code::Int { bits } => {
                    let levels = if bits == 4 { Levels::INT4 } else { Levels::INT8 };
                    let group = encoding.group.unwrap_or(row);
                    integers(&values, row, group, levels, encoding.method, moments.as_ref())
                }
                Code::Palette { bits } => {
                    let rows = encoding.group.unwrap_or(shape[0]);
                    palettes(&values, row, rows, bits, encoding.method, moments.as_ref())
                }
            }
            .map_err(|error| error.at(tensor(weight)))?;
            codes.extend(of_piece);
            tables.extend(its_tables);
        }
        Ok(Encoded { coded, codes, tables })
    }

    /// The table that all numbers of an encoded weight share, and the recipe of these in the order of its codes; `None` where they share
    /// none. They are counted here, piece by piece, and are to be read again.
    pub(crate) fn palette(&self, weight: &Weight) -> Result<Option<(Palette, Weight)>> {
        let (Some((place, encoding, bits)), Some(numbers)) = (one_table(weight), without_codes(weight))
        else {
            return Ok(None);
        };
        let plain = upto(weight, place)?;
        let moments = self.moments_for(weight, encoding, &plain.shape())?;
        let importance = moments.as_ref().map(importance);
        let (mut histogram, mut before, mut halves) = (Histogram::new(), 0, Vec::new());
        for piece in plain.row_pieces(PIECE) {
            let (values, _) = self.run(&piece, &piece.transforms)?;
            check_finite(&values, before, &plain)?;
            count(&mut histogram, &values, importance.as_deref(), before, &mut halves)?;
            before += values.len();
        }
        let table = table(&histogram, bits).map_err(|error| error.at(tensor(&plain)))?;
        let nearest = quantize::nearest_table(&table)?;
        Ok(Some((Palette { table, nearest }, numbers)))
    }

    fn moments_for(&self, weight: &Weight, encoding: &Encoding, shape: &[usize]) -> Result<Option<Moments>> {
        match encoding.method {
            Method::Rtn => Ok(None),
            Method::Awq | Method::Gptq => self.moments(weight, shape).map(Some),
        }
    }

    /// Second moments of what a matrix is multiplied with.
    fn moments(&self, weight: &Weight, shape: &[usize]) -> Result<Moments> {
        let name = source_name(weight);
        let statistics = self.statistics().ok_or_else(|| {
            Error::usage("its encoding asks for what `snapc calibrate` measures")
                .at(Place::Tensor(name.to_string()))
                .help("name the file with --calibration, or leave out --method")
        })?;
        statistics.moments(name, element_count(&shape[1..]))
    }

    /// One part of the best decomposition of that rank: both factors are f16. Where moments are measured, what is least is the
    /// error of the product with such inputs.
    pub(crate) fn factor_of(
        &self,
        values: Vec<f32>,
        [rows, cols]: [usize; 2],
        rank: usize,
        factor: Factor,
        weight: &Weight,
    ) -> Result<Vec<f32>> {
        let importance = match self.statistics() {
            Some(_) => {
                let channels = self.moments(weight, &[rows, cols])?.channels();
                Some(channels.into_iter().map(f32::sqrt).collect::<Vec<f32>>())
            }
            None => None,
        };
        let LowRank { a: left, b: right, .. } =
            quantize::low_rank(&values, rows, cols, importance.as_deref(), rank)
                .map_err(|error| error.at(tensor(weight)))?;
        let half = |values: Vec<f32>| -> Vec<f32> {
            values.into_iter().map(|value| f16::from_f32(value).to_f32()).collect()
        };
        let (left, right) = (half(left), half(right));
        Ok(match factor {
            Factor::Left => left,
            Factor::Right => right,
            Factor::Rest => {
                let mut rest = values;
                for (row, left) in rest.chunks_exact_mut(cols).zip(left.chunks_exact(rank)) {
                    for (left, right) in left.iter().zip(right.chunks_exact(cols)) {
                        row.iter_mut().zip(right).for_each(|(value, right)| *value -= left * right);
                    }
                }
                rest
            }
        })
    }

    /// The numbers of a region that holds codes.
    pub(crate) fn decoded(&self, region: &Region) -> Result<Vec<f32>> {
        let Some(coding) = &region.coding else { return Err(Error::bug("a region without codes")) };
        if coding.code == (Code::Int { bits: 32 }) {
            let mut bytes = vec![0; region.bytes() as usize];
            self.read_at(region, 0, &mut bytes)?;
            let steps = bytes.chunks_exact(4).filter_map(|step| step.try_into().ok()).map(i32::from_le_bytes);
            return Ok(steps.zip(&coding.tables).map(|(step, length)| step as f32 * length).collect());
        }
        let codes = self.region_codes(region, coding, DType::F32)?;
        let mut values = vec![0.0; element_count(&region.shape)];
        codes.decode_rows(0, &mut values);
        Ok(values)
    }
}

fn tensor(weight: &Weight) -> Place {
    Place::Tensor(source_name(weight).to_string())
}

fn source_name(weight: &Weight) -> &str {
    match &weight.source {
        Source::Tensor { name, .. } => name,
        Source::Inline { .. } | Source::Table(_) => &weight.name,
    }
}

type Codes = Result<(Vec<u8>, Vec<f16>)>;

/// Integers whose scale is shared by `group` numbers of a row.
fn integers(
    values: &[f32],
    row: usize,
    group: usize,
    levels: Levels,
    method: Method,
    moments: Option<&Moments>,
) -> Codes {
    if let (Method::Gptq, Some(moments)) = (method, moments) {
        let integers = quantize::gptq_integers(values, &feedback(moments)?, levels, group)?;
        return Ok((cast_slice(&integers.codes).to_vec(), integers.scales));
    }
    let channels = moments.map(Moments::channels);
    let mut codes = vec![0u8; values.len()];
    let mut scales = Vec::with_capacity(values.len() / group);
    for (number, (values, codes)) in values.chunks(group).zip(codes.chunks_mut(group)).enumerate() {
        let scale = match &channels {
            Some(channels) => {
                let start = number * group % row;
                quantize::search_scale(levels, values, Some(&channels[start..start + group]))?
            }
            None => quantize::plain_scale(levels, values)?,
        };
        levels.codes(scale, values, cast_slice_mut(codes));
        scales.push(scale);
    }
    Ok((codes, scales))
}

/// Indices into tables, one for each `rows` rows.
fn palettes(
    values: &[f32],
    row: usize,
    rows: usize,
    bits: usize,
    method: Method,
    moments: Option<&Moments>,
) -> Codes {
    let (mut histogram, mut halves) = (Histogram::new(), Vec::new());
    let importance = moments.map(importance);
    let (mut codes, mut tables) = (Vec::with_capacity(values.len()), Vec::new());
    for part in values.chunks(row * rows) {
        histogram.clear();
        count(&mut histogram, part, importance.as_deref(), 0, &mut halves)?;
        let table = table(&histogram, bits)?;
        match (method, moments) {
            (Method::Gptq, Some(moments)) => {
                let count = table.len();
                codes.extend(quantize::gptq_palette(part, &feedback(moments)?, &table, count, rows)?);
            }
            _ => {
                let nearest = quantize::nearest_table(&table)?;
                codes.extend(halves.iter().map(|half| nearest[usize::from(half.to_bits())]));
            }
        }
        tables.extend(table);
    }
    Ok((codes, tables))
}

/// Counts numbers of a matrix from its number `first` on; `halves` are then those numbers as f16.
fn count(
    histogram: &mut Histogram,
    values: &[f32],
    importance: Option<&[f32]>,
    first: usize,
    halves: &mut Vec<f16>,
) -> Result<()> {
    halves.resize(values.len(), f16::ZERO);
    halves.convert_from_f32_slice(values);
    match importance {
        Some(importance) => histogram.add_weighted(halves, importance, first),
        None => {
            histogram.add(halves);
            Ok(())
        }
    }
}

/// The best table of `2^bits` numbers.
fn table(histogram: &Histogram, bits: usize) -> Result<Vec<f16>> {
    let (numbers, weights) = histogram.distinct()?;
    let clusters = quantize::kmeans(&numbers, &weights, 1 << bits)?;
    Ok(clusters.centroids.iter().map(|&number| f16::from_f32(number)).collect())
}

/// What a number of each channel counts. One that is always 0 counts a little: a table of nothing would be none.
fn importance(moments: &Moments) -> Vec<f32> {
    let channels = moments.channels();
    let least = channels.iter().copied().fold(0.0, f32::max) * 1e-6 + f32::MIN_POSITIVE;
    channels.into_iter().map(|moment| moment.max(least)).collect()
}

/// The weight behind some of its first transforms.
fn upto(weight: &Weight, end: usize) -> Result<Weight> {
    let mut upto = Weight { transforms: weight.transforms[..end].to_vec(), ..weight.clone() };
    let shape = upto.computed_shape();
    let shape = shape.ok_or_else(|| Error::bug("a recipe does not fit").at(tensor(weight)))?;
    upto.dims = shape.into_iter().map(Dim::fixed).collect();
    Ok(upto)
}

fn check_finite(values: &[f32], first: usize, weight: &Weight) -> Result<()> {
    let Some(place) = values.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    let message = format!("number {} is {}, which no code can stand for", first + place, values[place]);
    Err(Error::input(message).at(tensor(weight)).help("the checkpoint is damaged or its training diverged"))
}

fn feedback(moments: &Moments) -> Result<Feedback> {
    match moments {
        Moments::Full(products) => Feedback::new(products, products.len().isqrt()),
        Moments::Channels(_) => Err(Error::input("gptq asks for the moments of each two channels")
            .help("calibrate with --moments full, or use --method awq")),
    }
}
