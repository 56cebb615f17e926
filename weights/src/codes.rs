//! Weights that stay codes in memory, for whoever reads them more than once.

use half::slice::HalfFloatSliceExt;
use snapc_ir::{Code, Coded, DType, Error, Place, Result, Source, Weight, element_count};

use crate::encode::{decode_rows, unpacked};
use crate::store::{Coding, Region, Store};
use crate::tensor::round;

/// Packed codes, and what they stand for.
#[derive(Clone, Debug, PartialEq)]
pub struct Codes {
    coded: Coded,
    bytes: Vec<u8>,
    /// Scales, or tables, by block.
    tables: Vec<f32>,
    /// What a decoded number is rounded to.
    dtype: DType,
}

impl Codes {
    /// The bytes that they take, with their scales or tables.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + size_of_val(&self.tables[..])
    }

    /// Decodes whole rows of the last axis, as many as `values` has room for, from that one on: what [`Store::read`] gives of them.
    pub fn decode_rows(&self, first: usize, values: &mut [f32]) {
        let start = first * row_bits(&self.coded) / 8;
        let codes = unpacked(self.coded.code, &self.bytes[start..], values.len());
        decode_rows(&self.coded, &codes, &self.tables, first, values);
        round(self.dtype, values);
    }
}

/// Bits of a row of the last axis.
fn row_bits(coded: &Coded) -> usize {
    coded.shape.last().copied().unwrap_or(1) * coded.code.bits()
}

/// Whether each row begins with a byte.
fn has_whole_rows(coded: &Coded) -> bool {
    row_bits(coded).is_multiple_of(8) && element_count(&coded.shape) > 0
}

impl Store {
    /// The codes of a weight, to be decoded row by row; `None` of one that has none, whose rows end within a byte, or whose numbers are moved
    /// behind their codes.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn codes_of(&self, weight: &Weight) -> Result<Option<Codes>> {
        // Encoding may take long: not of what is not held.
        if let Some(coded) = weight.coded() {
            if !has_whole_rows(&coded) {
                return Ok(None);
            }
            let encoded = self.encode(weight)?;
            let (bytes, tables) = (encoded.packed()?, encoded.tables.to_f32_vec());
            return Ok(Some(Codes { coded: encoded.coded, bytes, tables, dtype: weight.dtype }));
        }
        let Source::Tensor { .. } = weight.source else { return Ok(None) };
        if !weight.transforms.is_empty() {
            return Ok(None);
        }
        let (region, _) = self.select(weight, &[])?;
        let Some(coding) = region.coding.as_ref().filter(|coding| coding.code != Code::Int { bits: 32 })
        else {
            return Ok(None);
        };
        let codes = self.region_codes(region, coding, weight.dtype)?;
        Ok(has_whole_rows(&codes.coded).then_some(codes))
    }

    /// The codes of a region, wherever its rows begin.
    pub(crate) fn region_codes(&self, region: &Region, coding: &Coding, dtype: DType) -> Result<Codes> {
        let coded = Coded { code: coding.code, shape: region.shape.clone(), blocks: coding.blocks.clone() };
        let fits = coded.blocks.len() == coded.shape.len()
            && coded.shape.iter().zip(&coded.blocks).all(|(size, &blocks)| blocks > 0 && size % blocks == 0)
            && coded.table_count() == coding.tables.len();
        if !fits {
            return Err(Error::input("its scales or tables do not fit its codes")
                .at(Place::Tensor(region.name.clone()))
                .at(Place::File(self.path(region).to_path_buf())));
        }
        let mut bytes = vec![0; region.bytes() as usize];
        self.read_at(region, 0, &mut bytes)?;
        Ok(Codes { coded, bytes, tables: coding.tables.clone(), dtype })
    }
}
