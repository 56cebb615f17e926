//! How a weight's numbers are stored in fewer bits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::{element_count, joined};
use crate::weight::Transform;

/// What a stored code stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// `scale * code`, the code being a signed integer: -127 to 127 with 8 bits, -8 to 7 with 4.
    Int {
        /// 8 or 4.
        bits: usize,
    },
    /// `table[code]`, the table having `2^bits` numbers.
    Palette {
        /// 8, 6, 4, 3 or 2.
        bits: usize,
    },
}

impl Code {
    /// Bits of a code.
    pub fn bits(self) -> usize {
        match self {
            Code::Int { bits } | Code::Palette { bits } => bits,
        }
    }

    /// Numbers that the codes of one block share: a scale, or a table.
    pub fn shared(self) -> usize {
        match self {
            Code::Int { .. } => 1,
            Code::Palette { bits } => 1 << bits,
        }
    }
}

/// How codes and scales are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Round to nearest; a palette is the best one of the weight's own numbers.
    #[default]
    Rtn,
    /// Activation-aware: what is least is the error weighted by the second moments of the input channels.
    Awq,
    /// GPTQ (Frantar et al. 2022): what is rounded wrong in a column is made up for in those behind it.
    Gptq,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 3] = [Method::Rtn, Method::Awq, Method::Gptq];

    /// `rtn`, `awq` or `gptq`.
    pub fn name(self) -> &'static str {
        match self {
            Method::Rtn => "rtn",
            Method::Awq => "awq",
            Method::Gptq => "gptq",
        }
    }
}

/// An encoding of a weight `[out, in, ..]`. Scales and tables are f16. Its text form is `int4 group 32 gptq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Encoding {
    /// What a code stands for.
    pub code: Code,
    /// Integers: inputs of an output channel that share a scale, all where there is none. Palettes: output channels that share a
    /// table, all where there is none.
    pub group: Option<usize>,
    /// How codes are chosen.
    pub method: Method,
}

impl Encoding {
    /// Integers with a scale an output channel, or one for each `group` of its inputs.
    pub fn int(bits: usize, group: Option<usize>) -> Self {
        Encoding { code: Code::Int { bits }, group, method: Method::Rtn }
    }

    /// A table of `2^bits` numbers for all, or one for each `group` of output channels.
    pub fn palette(bits: usize, group: Option<usize>) -> Self {
        Encoding { code: Code::Palette { bits }, group, method: Method::Rtn }
    }

    /// Into how many blocks each axis is cut; the numbers of a block share a scale or a table. `None` where it does not fit the shape.
    pub fn blocks(&self, shape: &[usize]) -> Option<Vec<usize>> {
        let known = match self.code {
            Code::Int { bits } => matches!(bits, 4 | 8),
            Code::Palette { bits } => matches!(bits, 2 | 3 | 4 | 6 | 8),
        };
        let fits = |size: usize, group: usize| group > 0 && size.is_multiple_of(group);
        let mut blocks = vec![1; shape.len()];
        match (self.code, self.group, shape) {
            (Code::Int { .. }, None, [out, _, ..]) => blocks[0] = *out,
            (Code::Int { .. }, Some(group), [out, inputs]) if fits(*inputs, group) => {
                blocks = vec![*out, inputs / group];
            }
            (Code::Palette { .. }, None, [_, _, ..]) => {}
            (Code::Palette { .. }, Some(group), [out, _, ..]) if fits(*out, group) => blocks[0] = out / group,
            _ => return None,
        }
        known.then_some(blocks)
    }

    /// Whether a range of an axis, encoded alone, has the codes that it has in the whole: it holds whole blocks, and no other number has
    /// a say in them.
    pub fn can_cut(&self, shape: &[usize], axis: usize, start: usize, size: usize) -> bool {
        let alone = match self.method {
            Method::Rtn => true,
            Method::Awq => axis == 0,
            Method::Gptq => false,
        };
        let Some(blocks) = self.blocks(shape).filter(|_| alone) else { return false };
        let block = shape[axis] / blocks[axis];
        blocks[axis] > 1 && start.is_multiple_of(block) && size.is_multiple_of(block)
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Code::Int { bits } => write!(f, "int{bits}")?,
            Code::Palette { bits } => write!(f, "palette{bits}")?,
        }
        if let Some(group) = self.group {
            write!(f, " group {group}")?;
        }
        if self.method == Method::Rtn { Ok(()) } else { write!(f, " {}", self.method.name()) }
    }
}

impl FromStr for Encoding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no encoding; write it as `int8`, `int4 group 32` or `palette4 gptq`");
        let mut words = text.split_whitespace();
        let word = words.next().ok_or_else(wrong)?;
        let number = |text: &str| text.parse().map_err(|_| wrong());
        let code = match (word.strip_prefix("int"), word.strip_prefix("palette")) {
            (Some(bits), _) => Code::Int { bits: number(bits)? },
            (_, Some(bits)) => Code::Palette { bits: number(bits)? },
            _ => return Err(wrong()),
        };
        let mut encoding = Encoding { code, group: None, method: Method::Rtn };
        while let Some(word) = words.next() {
            match Method::ALL.into_iter().find(|method| method.name() == word) {
                Some(method) => encoding.method = method,
                None if word == "group" => {
                    encoding.group = Some(number(words.next().ok_or_else(wrong)?)?);
                }
                None => return Err(wrong()),
            }
        }
        let sample = encoding.group.unwrap_or(1);
        encoding.blocks(&[sample, sample]).map(|_| encoding).ok_or_else(wrong)
    }
}

/// Which part of a low-rank decomposition of a weight: `W = left right + rest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Factor {
    /// `[out, rank]`, in f16.
    Left,
    /// `[rank, in]`, in f16.
    Right,
    /// `[out, in]`: the weight without the product of the other two.
    Rest,
}

impl Factor {
    /// All of them.
    pub const ALL: [Factor; 3] = [Factor::Left, Factor::Right, Factor::Rest];

    /// `left`, `right` or `rest`.
    pub fn name(self) -> &'static str {
        match self {
            Factor::Left => "left",
            Factor::Right => "right",
            Factor::Rest => "rest",
        }
    }
}

/// How the codes of a weight lie once all its transforms are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coded {
    /// What a code stands for.
    pub code: Code,
    /// The sizes of the codes: the weight's.
    pub shape: Vec<usize>,
    /// Into how many blocks each axis is cut. The numbers of a block share a scale, or a table of `2^bits` numbers; blocks are
    /// counted row-major, and a table's numbers lie behind each other.
    pub blocks: Vec<usize>,
}

impl Coded {
    /// Bytes of the codes, packed without gaps.
    pub fn code_bytes(&self) -> usize {
        element_count(&self.shape).saturating_mul(self.code.bits()).div_ceil(8)
    }

    /// Scales, or numbers of all tables.
    pub fn table_count(&self) -> usize {
        element_count(&self.blocks).saturating_mul(self.code.shared())
    }

    /// Bytes of codes, and of scales or tables in f16.
    pub fn bytes(&self) -> usize {
        self.code_bytes().saturating_add(2 * self.table_count())
    }

    /// Numbers of a block on each axis.
    pub fn block_sizes(&self) -> Vec<usize> {
        self.shape.iter().zip(&self.blocks).map(|(size, blocks)| size / blocks).collect()
    }

    /// What becomes of codes and blocks by a transform that moves or drops whole blocks or parts of a block; `None` by one that does not.
    pub fn after(&self, transform: &Transform) -> Option<Coded> {
        let shape = transform.apply(&self.shape)?;
        let blocks = match self.moved(transform)? {
            Some(of_blocks) => of_blocks.apply(&self.blocks)?,
            None => self.blocks.clone(),
        };
        Some(Coded { code: self.code, shape, blocks })
    }

    /// The transform that the blocks go through where the codes go through `transform`; the inner `None` where they stay as they are.
    pub fn moved(&self, transform: &Transform) -> Option<Option<Transform>> {
        let whole = |axis: usize| self.blocks.get(axis) == Some(&1);
        let sizes = self.block_sizes();
        let fits = |axis: usize, number: usize| number.is_multiple_of(sizes[axis]);
        Some(match transform {
            Transform::Take { axis, .. } | Transform::Part { axis, .. } if whole(*axis) => None,
            Transform::Take { axis, chunks, keep } => {
                let piece = self.shape.get(*axis)? / chunks;
                (fits(*axis, piece) && fits(*axis, *keep)).then_some(())?;
                Some(Transform::Take { axis: *axis, chunks: *chunks, keep: keep / sizes[*axis] })
            }
            Transform::Part { axis, start, size } => {
                (fits(*axis, *start) && fits(*axis, *size)).then_some(())?;
                Some(Transform::Part { axis: *axis, start: start / sizes[*axis], size: size / sizes[*axis] })
            }
            Transform::Transpose(perm) => Some(Transform::Transpose(perm.clone())),
            Transform::Reshape(to) => Some(Transform::Reshape(reshaped(&self.shape, &self.blocks, to)?)),
            Transform::Repeat(_)
            | Transform::Double(_)
            | Transform::LowRank { .. }
            | Transform::Encode(_)
            | Transform::Decode
            | Transform::Steps { .. } => return None,
        })
    }
}

/// The blocks of a tensor `from` that is reshaped to `to`: axes that are split or joined hold whole blocks, or lie in one.
fn reshaped(from: &[usize], blocks: &[usize], to: &[usize]) -> Option<Vec<usize>> {
    let mut result = vec![1; to.len()];
    for (old, new) in joined(from, to)? {
        let run = blocks[old.clone()].iter().product::<usize>();
        if run == 1 {
            continue;
        }
        // The blocks of these axes are runs of so many numbers, side by side.
        let size = from[old.clone()].iter().product::<usize>() / run;
        let outer = old.start..old.end - 1;
        let side_by_side = from[outer.clone()] == blocks[outer];
        let last = new.end - 1;
        (side_by_side && to[last].is_multiple_of(size)).then_some(())?;
        result[new.start..last].copy_from_slice(&to[new.start..last]);
        result[last] = to[last] / size;
    }
    Some(result)
}
