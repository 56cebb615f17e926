//! Weights as recipes: where the numbers come from and what is done to them, never the numbers.

mod rows;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::encoding::{Coded, Encoding, Factor};
use crate::error::{Error, Place, Result};
use crate::order::TokenOrder;
use crate::types::{DType, TensorType, element_count, shape_text};

/// One axis of a weight. An *elastic* axis is a hidden axis of the supernet: a subnet keeps the first part of it, and
/// if it holds several chunks (`6x~128`), the first part of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dim {
    /// How many chunks lie behind each other on this axis; 1 if it is not elastic.
    pub chunks: usize,
    /// The size of one chunk.
    pub size: usize,
    /// Whether slicing cuts it.
    pub elastic: bool,
}

impl Dim {
    /// An axis that no subnet cuts.
    pub fn fixed(size: usize) -> Self {
        Dim { chunks: 1, size, elastic: false }
    }

    /// A hidden axis.
    pub fn elastic(size: usize) -> Self {
        Dim { chunks: 1, size, elastic: true }
    }

    /// A hidden axis that holds `chunks` pieces of `size`, each cut on its own.
    pub fn chunked(chunks: usize, size: usize) -> Self {
        Dim { chunks, size, elastic: true }
    }

    /// The size of the whole axis.
    pub fn total(&self) -> usize {
        self.chunks * self.size
    }

    /// How many numbers of a chunk the part `to / from` keeps.
    ///
    /// # Errors
    /// If that is not a whole number of at least one.
    pub fn part(&self, to: usize, from: usize) -> Result<usize> {
        let product = self.size * to;
        if from == 0 || !product.is_multiple_of(from) || product == 0 || to > from {
            return Err(Error::usage(format!("an axis of {} cannot be cut to {to}/{from} of it", self.size)));
        }
        Ok(product / from)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.elastic, self.chunks) {
            (false, _) => write!(f, "{}", self.total()),
            (true, 1) => write!(f, "~{}", self.size),
            (true, chunks) => write!(f, "{chunks}x~{}", self.size),
        }
    }
}

/// The positions of a token grid: row and column `i` stand at `start + stride * i`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// Rows of the grid.
    pub rows: usize,
    /// Columns of the grid.
    pub cols: usize,
    /// Where the first row and column stand.
    pub start: f32,
    /// The distance of two rows or columns.
    pub stride: f32,
    /// In which order the tokens lie.
    #[serde(default, skip_serializing_if = "TokenOrder::is_row_major")]
    pub order: TokenOrder,
}

impl Grid {
    /// The positions of each token, in order.
    pub fn positions(&self) -> Vec<[f64; 2]> {
        let at = |place: usize| f64::from(self.start) + f64::from(self.stride) * place as f64;
        self.order.places([self.rows, self.cols]).into_iter().map(|place| place.map(at)).collect()
    }
}

/// Where the numbers of a head's rotary pairs stand, a quarter of the head each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairs {
    /// Those that turn with the row (first ones, second ones), then those that turn with the column.
    #[default]
    ByAxis,
    /// All first ones (row, column), then all second ones: the halves of the head change places as they turn.
    ByHalf,
}

impl Pairs {
    /// Whether it is the default.
    pub fn is_by_axis(&self) -> bool {
        *self == Pairs::ByAxis
    }

    /// For a number of a head: its axis (0 the row, 1 the column), its pair's number, and whether it is the first of the pair.
    pub fn of(self, number: usize, head_dim: usize) -> (usize, usize, bool) {
        let quarter = (head_dim / 4).max(1);
        let (part, pair) = (number / quarter, number % quarter);
        match self {
            Pairs::ByAxis => (part / 2, pair, part.is_multiple_of(2)),
            Pairs::ByHalf => (part % 2, pair, part < 2),
        }
    }
}

/// Numbers that follow from a formula.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// `[rows * cols, 1, head_dim]`: cosines of the rotary angles (see the `rotary` op), each for both numbers of its pair.
    RotaryCos {
        /// Numbers of a head.
        head_dim: usize,
        /// Base of the frequencies.
        theta: f32,
        /// Where the tokens stand.
        grid: Grid,
        /// Where the numbers of a pair stand.
        #[serde(default, skip_serializing_if = "Pairs::is_by_axis")]
        pairs: Pairs,
    },
    /// As `RotaryCos`, sines; negative where the pair's first number takes the second one.
    RotarySin {
        /// Numbers of a head.
        head_dim: usize,
        /// Base of the frequencies.
        theta: f32,
        /// Where the tokens stand.
        grid: Grid,
        /// Where the numbers of a pair stand.
        #[serde(default, skip_serializing_if = "Pairs::is_by_axis")]
        pairs: Pairs,
    },
    /// `[queries * repeat, keys]`: 0 where the key is at or before the query, -1e4 behind it; each query `repeat` times.
    CausalMask {
        /// Queries.
        queries: usize,
        /// Keys.
        keys: usize,
        /// How often each query's row stands.
        repeat: usize,
    },
    /// `[chunks * size]`: 1 in the chunks whose bit of `ones` is set, 0 in the others.
    ChunkOnes {
        /// Chunks.
        chunks: usize,
        /// Numbers of a chunk.
        size: usize,
        /// The chunks of ones, the first as the lowest bit.
        ones: u32,
    },
    /// `[dim / 2]`: `10000^(-2i / dim)`, the frequencies of diffusers' sinusoidal timestep embedding.
    TimestepFrequencies {
        /// Length of the embedding.
        dim: usize,
    },
}

impl Table {
    /// The sizes of the table.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Table::RotaryCos { head_dim, grid, .. } | Table::RotarySin { head_dim, grid, .. } => {
                vec![grid.rows * grid.cols, 1, *head_dim]
            }
            Table::CausalMask { queries, keys, repeat } => vec![queries * repeat, *keys],
            Table::ChunkOnes { chunks, size, .. } => vec![chunks * size],
            Table::TimestepFrequencies { dim } => vec![dim / 2],
        }
    }
}

/// Where a weight's numbers come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A tensor of the part's checkpoint.
    Tensor {
        /// Its name there.
        name: String,
        /// The type it is stored in.
        dtype: DType,
        /// The shape it is stored in.
        shape: Vec<usize>,
    },
    /// A few numbers that belong to the graph.
    Inline {
        /// The numbers, row-major.
        values: Vec<f32>,
        /// Their shape.
        shape: Vec<usize>,
    },
    /// Numbers that follow from a formula.
    Table(Table),
}

impl Source {
    /// The shape before any transform.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Source::Tensor { shape, .. } | Source::Inline { shape, .. } => shape.clone(),
            Source::Table(table) => table.shape(),
        }
    }
}

/// One change of a weight on its way from the source. None but `LowRank`, `Encode` and `Steps` rounds a number.
#[derive(Clone, Debug, PartialEq)]
pub enum Transform {
    /// Keeps the first `keep` of each of the `chunks` equal pieces of an axis.
    Take {
        /// The axis.
        axis: usize,
        /// Equal pieces of it.
        chunks: usize,
        /// What stays of each piece.
        keep: usize,
    },
    /// Keeps `size` of an axis from `start` on.
    Part {
        /// The axis.
        axis: usize,
        /// The first that stays.
        start: usize,
        /// How many stay.
        size: usize,
    },
    /// New axis `i` is the old axis `perm[i]`.
    Transpose(Vec<usize>),
    /// Other sizes over the same numbers.
    Reshape(Vec<usize>),
    /// All of it so many times behind each other on the first axis.
    Repeat(usize),
    /// Every number times two to that power.
    Double(i32),
    /// One part of `W = left right + rest`, the product being the best one of that rank.
    LowRank {
        /// Columns of `left`, rows of `right`.
        rank: usize,
        /// Which part stays.
        factor: Factor,
    },
    /// Each number becomes what its code stands for. What comes behind it moves codes; the weight is stored as codes.
    Encode(Encoding),
    /// What was encoded is stored as plain numbers.
    Decode,
    /// To whole multiples of `scale` times the scale of the same row of `of`, whose codes have one a row: what an int32 holds that is
    /// added to products of such codes and of codes of that scale. The last transform of a recipe.
    Steps {
        /// The weight that is stored as codes.
        of: Box<Weight>,
        /// The scale of what it is multiplied with.
        scale: f32,
    },
}

impl Transform {
    /// The shape that `shape` becomes; `None` if the transform does not fit it.
    pub fn apply(&self, shape: &[usize]) -> Option<Vec<usize>> {
        match self {
            Transform::Take { axis, chunks, keep } => {
                let size = *shape.get(*axis)?;
                (*chunks > 0 && size.is_multiple_of(*chunks) && (1..=size / chunks).contains(keep)).then(
                    || {
                        let mut shape = shape.to_vec();
                        shape[*axis] = chunks * keep;
                        shape
                    },
                )
            }
            Transform::Part { axis, start, size } => {
                let end = start.checked_add(*size)?;
                let fits = *size > 0 && end <= *shape.get(*axis)?;
                fits.then(|| {
                    let mut shape = shape.to_vec();
                    shape[*axis] = *size;
                    shape
                })
            }
            Transform::Transpose(perm) => {
                let mut seen = perm.clone();
                seen.sort_unstable();
                (seen.len() == shape.len() && seen.iter().copied().eq(0..shape.len()))
                    .then(|| perm.iter().map(|&axis| shape[axis]).collect())
            }
            Transform::Reshape(sizes) => {
                (element_count(sizes) == element_count(shape)).then(|| sizes.clone())
            }
            Transform::Repeat(times) => {
                let mut shape = shape.to_vec();
                let first = shape.first_mut()?;
                *first = first.checked_mul(*times).filter(|&size| size > 0)?;
                Some(shape)
            }
            Transform::Double(power) => (power.unsigned_abs() <= 64).then(|| shape.to_vec()),
            Transform::LowRank { rank, factor } => {
                let [out, inputs] = *shape else { return None };
                (1..=out.min(inputs)).contains(rank).then(|| match factor {
                    Factor::Left => vec![out, *rank],
                    Factor::Right => vec![*rank, inputs],
                    Factor::Rest => vec![out, inputs],
                })
            }
            Transform::Encode(encoding) => encoding.blocks(shape).map(|_| shape.to_vec()),
            Transform::Decode => Some(shape.to_vec()),
            Transform::Steps { of, scale } => {
                let rows = of.coded().filter(|coded| coded.blocks.iter().skip(1).all(|&blocks| blocks == 1));
                let fits =
                    rows.is_some_and(|coded| coded.blocks[..1] == *shape && coded.shape[..1] == *shape);
                (fits && scale.is_normal() && *scale > 0.0).then(|| shape.to_vec())
            }
        }
    }
}

/// A weight of a graph: a recipe that a writer or the interpreter runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Its name, unique in the graph; the checkpoint's where it comes from there.
    pub name: String,
    /// Where the numbers come from.
    pub source: Source,
    /// What is done to them, in order.
    pub transforms: Vec<Transform>,
    /// The axes after all transforms.
    pub dims: Vec<Dim>,
    /// The type of the value that graphs see.
    pub dtype: DType,
}

impl Weight {
    /// A tensor of the checkpoint, taken whole; its value is f32.
    pub fn tensor(name: &str, dtype: DType, dims: Vec<Dim>) -> Self {
        let shape = dims.iter().map(Dim::total).collect();
        let source = Source::Tensor { name: name.to_string(), dtype, shape };
        Weight { name: name.to_string(), source, transforms: Vec::new(), dims, dtype: DType::F32 }
    }

    /// A computed table; its value is f32.
    pub fn table(name: impl Into<String>, table: Table) -> Self {
        let dims = table.shape().into_iter().map(Dim::fixed).collect();
        let source = Source::Table(table);
        Weight { name: name.into(), source, transforms: Vec::new(), dims, dtype: DType::F32 }
    }

    /// A few numbers; their value is f32.
    pub fn inline(name: impl Into<String>, values: Vec<f32>, shape: Vec<usize>) -> Self {
        let dims = shape.iter().copied().map(Dim::fixed).collect();
        let source = Source::Inline { values, shape };
        Weight { name: name.into(), source, transforms: Vec::new(), dims, dtype: DType::F32 }
    }

    /// The sizes after all transforms.
    pub fn shape(&self) -> Vec<usize> {
        self.dims.iter().map(Dim::total).collect()
    }

    /// The type of its value.
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.dtype, self.shape())
    }

    /// Numbers that come from a checkpoint, each counted once.
    pub fn parameters(&self) -> u64 {
        let repeats = self.transforms.iter().map(|change| match change {
            Transform::Repeat(times) => *times,
            _ => 1,
        });
        match self.source {
            Source::Tensor { .. } => (self.ty().count() / repeats.product::<usize>().max(1)) as u64,
            Source::Inline { .. } | Source::Table(_) => 0,
        }
    }

    /// Whether slicing would cut it.
    pub fn is_elastic(&self) -> bool {
        self.dims.iter().any(|dim| dim.elastic)
    }

    /// Cuts an elastic axis to the first `keep` of each chunk; what stays is not elastic any more.
    pub fn take(&mut self, axis: usize, keep: usize) -> Result<()> {
        let Dim { chunks, size, .. } = self.dims[axis];
        if keep != size {
            self.push(Transform::Take { axis, chunks, keep })?;
        }
        self.dims[axis] = Dim::fixed(chunks * keep);
        Ok(())
    }

    /// Keeps `size` of an axis from `start` on.
    pub fn part(&mut self, axis: usize, start: usize, size: usize) -> Result<()> {
        self.push(Transform::Part { axis, start, size })?;
        self.dims[axis] = Dim::fixed(size);
        Ok(())
    }

    /// Permutes the axes: new axis `i` is the old axis `perm[i]`.
    pub fn transpose(&mut self, perm: &[usize]) -> Result<()> {
        let dims = self.dims.clone();
        self.push(Transform::Transpose(perm.to_vec()))?;
        self.dims = perm.iter().map(|&axis| dims[axis]).collect();
        Ok(())
    }

    /// Gives the numbers other axes. The new axes say themselves whether they are elastic.
    pub fn reshape(&mut self, dims: Vec<Dim>) -> Result<()> {
        self.push(Transform::Reshape(dims.iter().map(Dim::total).collect()))?;
        self.dims = dims;
        Ok(())
    }

    /// Puts all of it so many times behind each other on the first axis.
    pub fn repeat(&mut self, times: usize) -> Result<()> {
        self.push(Transform::Repeat(times))?;
        if let Some(first) = self.dims.first_mut() {
            *first = Dim::fixed(first.total() * times);
        }
        Ok(())
    }

    /// Multiplies every number by two to that power; an encoded weight's before it is encoded.
    pub fn double(&mut self, power: i32) -> Result<()> {
        let encode = self.transforms.iter().position(|change| matches!(change, Transform::Encode(_)));
        let behind = encode.map_or(Vec::new(), |place| self.transforms.split_off(place));
        self.push(Transform::Double(power))?;
        self.transforms.extend(behind);
        Ok(())
    }

    /// Stores the numbers as codes.
    ///
    /// # Errors
    /// If the encoding does not fit the shape.
    pub fn encode(&mut self, encoding: Encoding) -> Result<()> {
        self.push(Transform::Encode(encoding))
    }

    /// Keeps one part of the best decomposition of that rank.
    ///
    /// # Errors
    /// If the weight is no matrix, or has not that rank.
    pub fn low_rank(&mut self, rank: usize, factor: Factor) -> Result<()> {
        self.push(Transform::LowRank { rank, factor })?;
        let shape = self.computed_shape().unwrap_or_default();
        self.dims = shape.into_iter().map(Dim::fixed).collect();
        Ok(())
    }

    /// Stores what was encoded as plain numbers.
    pub fn decode(&mut self) -> Result<()> {
        self.push(Transform::Decode)
    }

    /// Rounds to steps of `scale` times the scales of an encoded weight.
    ///
    /// # Errors
    /// If that weight's codes have not one scale for each of the numbers.
    pub fn steps(&mut self, of: &Weight, scale: f32) -> Result<()> {
        self.push(Transform::Steps { of: Box::new(of.clone()), scale })
    }

    /// The weight whose scales its steps go by, and what these are multiplied by; `None` where it has none.
    pub fn stepped(&self) -> Option<(&Weight, f32)> {
        match self.transforms.last() {
            Some(Transform::Steps { of, scale }) => Some((of, *scale)),
            _ => None,
        }
    }

    /// How its codes lie; `None` where it is stored as plain numbers, or where what is behind the encoding parts its blocks.
    pub fn coded(&self) -> Option<Coded> {
        let place = self.transforms.iter().position(|change| matches!(change, Transform::Encode(_)))?;
        let Transform::Encode(encoding) = &self.transforms[place] else { return None };
        let before = self.transforms[..place].iter();
        let shape = before.clone().try_fold(self.source.shape(), |shape, change| change.apply(&shape))?;
        let blocks = encoding.blocks(&shape)?;
        let coded = Coded { code: encoding.code, shape, blocks };
        self.transforms[place + 1..].iter().try_fold(coded, |coded, change| coded.after(change))
    }

    /// The encoding that its numbers went through, and whether they are stored as codes.
    pub fn encoding(&self) -> Option<(&Encoding, bool)> {
        let stored = !self.transforms.contains(&Transform::Decode);
        self.transforms.iter().find_map(|change| match change {
            Transform::Encode(encoding) => Some((encoding, stored)),
            _ => None,
        })
    }

    /// Bytes that it takes when stored: of its codes and tables, or of plain numbers of its type.
    pub fn stored_bytes(&self) -> u64 {
        self.coded().map_or_else(|| self.ty().bytes(), |coded| coded.bytes()) as u64
    }

    /// Whether a part of an axis can be taken: codes that share a scale or a table stay together.
    pub fn can_part(&self, axis: usize, start: usize, size: usize) -> bool {
        self.coded().is_none_or(|coded| coded.after(&Transform::Part { axis, start, size }).is_some())
    }

    fn push(&mut self, transform: Transform) -> Result<()> {
        if transform.apply(&self.shape()).is_none() {
            let shape = shape_text(&self.shape());
            return Err(Error::bug(format!("{transform:?} does not fit {shape}"))
                .at(Place::Tensor(self.name.clone())));
        }
        self.transforms.push(transform);
        Ok(())
    }

    /// What fixes the bytes that the recipe gives: two weights of one key may share them. A reshape at the end changes none.
    pub fn bytes_key(&self) -> String {
        let reshapes =
            self.transforms.iter().rev().take_while(|change| matches!(change, Transform::Reshape(_)));
        let kept = &self.transforms[..self.transforms.len() - reshapes.count()];
        format!("{} {:?} {kept:?}", self.dtype, self.source)
    }

    /// The shape that source and transforms give, or `None` where they do not fit each other.
    pub fn computed_shape(&self) -> Option<Vec<usize>> {
        self.transforms.iter().try_fold(self.source.shape(), |shape, transform| transform.apply(&shape))
    }
}
