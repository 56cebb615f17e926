//! Tensors of codes: what `QuantizationParameters` says that they stand for (google-ai-edge/LiteRT,
//! `tflite/converter/schema/schema.fbs`): `scale * code`, zero points being zero.

use std::path::Path;

use snapc_ir::{Code, Context, Error, Place, Result};
use snapc_weights::{Coding, Region, Store};

use super::flat::Table;
use super::require;
use crate::schema::{ABSENT, BLOCKWISE, slot};

/// The fields of `QuantizationParameters` that snapc writes.
const KNOWN: &[u16] = &[
    slot::quantization::SCALE,
    slot::quantization::ZERO_POINT,
    slot::quantization::DETAILS_TYPE,
    slot::quantization::DETAILS,
    slot::quantization::QUANTIZED_DIMENSION,
];
const BLOCK_KNOWN: &[u16] =
    &[slot::blockwise::SCALES, slot::blockwise::ZERO_POINTS, slot::blockwise::BLOCK_SIZE];

/// What the codes of a tensor stand for.
pub struct Codes {
    /// Bits of a code.
    pub bits: usize,
    scales: Scales,
}

enum Scales {
    /// One for each row of the first axis.
    Rows(Vec<f32>),
    /// Those of a tensor, each for so many numbers of a row.
    Blocks { tensor: usize, size: usize },
}

/// Codes whose scales lie in the file.
pub struct Blockwise {
    /// The tensor of the codes.
    pub codes: String,
    /// Where the scales are.
    pub scales: Region,
}

impl Codes {
    /// Reads what the codes of a tensor of these sizes stand for.
    ///
    /// # Errors
    /// If scales, zero points and sizes do not fit each other.
    pub fn read(tensor: &Table, name: &str, bits: usize, shape: &[usize]) -> Result<Self> {
        use slot::quantization::{DETAILS, DETAILS_TYPE, QUANTIZED_DIMENSION, SCALE, ZERO_POINT};
        let table = tensor.table(slot::tensor::QUANTIZATION, "QuantizationParameters", KNOWN)?;
        let table = table.ok_or_else(|| Error::input(format!("{name} has codes, but no scales")))?;
        require(table.i32(QUANTIZED_DIMENSION)? == 0, || format!("{name} has scales along a later axis"))?;
        let rows = shape.first().copied().unwrap_or_default();
        let (scales, zeros) = (table.floats(SCALE, rows)?, table.longs(ZERO_POINT, rows)?);
        let details = table.table(DETAILS, "BlockwiseQuantization", BLOCK_KNOWN)?;
        let scales = match (table.u8(DETAILS_TYPE)?, details) {
            (0, None) => {
                require(bits != 32 || shape.len() == 1, || {
                    format!("{name} has steps on {} axes", shape.len())
                })?;
                require(scales.len() == rows && zeros.len() == rows, || {
                    format!(
                        "{name} has {} scales and {} zero points over {rows} rows",
                        scales.len(),
                        zeros.len()
                    )
                })?;
                require(zeros.iter().all(|&zero| zero == 0), || format!("{name} has a zero point"))?;
                check_scales(name, &scales)?;
                Scales::Rows(scales)
            }
            (BLOCKWISE, Some(details)) => {
                require(scales.is_empty() && zeros.is_empty(), || format!("{name} has scales of two kinds"))?;
                let zero = details.i32(slot::blockwise::ZERO_POINTS)?;
                require(zero == ABSENT, || format!("{name} has zero points"))?;
                let number = |slot| Ok(usize::try_from(details.i32(slot)?).unwrap_or(usize::MAX));
                let (tensor, size) = (number(slot::blockwise::SCALES)?, number(slot::blockwise::BLOCK_SIZE)?);
                let fits = matches!(shape, &[_, inputs] if size > 0 && inputs.is_multiple_of(size));
                require(bits == 4 && fits, || format!("{name} cannot have blocks of {size}"))?;
                Scales::Blocks { tensor, size }
            }
            (kind, _) => return Err(Error::input(format!("{name} has details of type {kind}"))),
        };
        Ok(Codes { bits, scales })
    }

    /// Reads the one scale of a tensor that operators make.
    ///
    /// # Errors
    /// If it has more, or a zero point.
    pub fn scale(tensor: &Table, name: &str) -> Result<f32> {
        use slot::quantization::{QUANTIZED_DIMENSION, SCALE, ZERO_POINT};
        let known = &[SCALE, ZERO_POINT, QUANTIZED_DIMENSION];
        let table = tensor.table(slot::tensor::QUANTIZATION, "QuantizationParameters", known)?;
        let table = table.ok_or_else(|| Error::input(format!("{name} has codes, but no scales")))?;
        require(table.i32(QUANTIZED_DIMENSION)? == 0, || format!("{name} has scales along a later axis"))?;
        match (&table.floats(SCALE, 1)?[..], &table.longs(ZERO_POINT, 1)?[..]) {
            (&[scale], &[0]) => Ok(scale),
            (scales, zeros) => {
                Err(Error::input(format!("{name} has the scales {scales:?} and zero points {zeros:?}")))
            }
        }
    }

    /// The tensor of the scales, where they are one.
    pub fn scales(&self) -> Option<usize> {
        match self.scales {
            Scales::Rows(_) => None,
            Scales::Blocks { tensor, .. } => Some(tensor),
        }
    }

    /// The version of FULLY_CONNECTED whose kernel takes them.
    pub fn version(&self) -> i32 {
        match (&self.scales, self.bits) {
            (Scales::Blocks { .. }, _) => 13,
            (Scales::Rows(_), 8) => 12,
            (Scales::Rows(_), _) => 10,
        }
    }

    /// What the codes of a tensor of these sizes stand for; scales of blocks are read later.
    pub fn coding(&self, shape: &[usize]) -> Coding {
        let mut blocks = vec![1; shape.len()];
        blocks[0] = shape[0];
        let tables = match &self.scales {
            Scales::Rows(scales) => scales.clone(),
            Scales::Blocks { size, .. } => {
                blocks[1] = shape[1] / size;
                Vec::new()
            }
        };
        Coding { code: Code::Int { bits: self.bits }, blocks, tables, tables_at: None }
    }
}

/// The regions, those of codes with scales in the file having them.
///
/// # Errors
/// If scales cannot be read, or are no numbers.
pub fn with_scales(path: &Path, mut regions: Vec<Region>, blockwise: &[Blockwise]) -> Result<Vec<Region>> {
    let store = Store::from_regions(path, blockwise.iter().map(|of| of.scales.clone()).collect())?;
    for Blockwise { codes, scales } in blockwise {
        let values = store.tensor(&scales.name)?;
        check_scales(&scales.name, values.values()).at(|| Place::File(path.to_path_buf()))?;
        for coding in regions.iter_mut().filter(|region| region.name == *codes) {
            if let Some(coding) = &mut coding.coding {
                coding.tables = values.values().to_vec();
                coding.tables_at = Some(scales.range());
            }
        }
    }
    Ok(regions)
}

fn check_scales(name: &str, scales: &[f32]) -> Result<()> {
    let finite = scales.iter().all(|scale| scale.is_finite());
    require(finite, || format!("a scale of {name} is no finite number"))
}
