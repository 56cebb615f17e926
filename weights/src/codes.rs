//! Weights that stay codes in memory, for whoever reads them more than once.

use half::slice::HalfFloatSliceExt;
use snapc_ir::{Code, Coded, DType, Result, Source, Weight, element_count};

use crate::encode::{decode_rows, unpacked};
use crate::store::Store;
use crate::tensor::round;

/// Packed codes, and what they stand for. A row begins with a byte.
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
    fn row(&self) -> usize {
        self.coded.shape.last().copied().unwrap_or(1)
    }

    /// The bytes that they take, with their scales or tables.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + size_of_val(&self.tables[..])
    }

    /// Decodes whole rows of the last axis, as many as `values` has room for, from that one on: what [`Store::read`] gives of them.
    pub fn decode_rows(&self, first: usize, values: &mut [f32]) {
        let start = first * self.row() * self.coded.code.bits() / 8;
        let codes = unpacked(self.coded.code, &self.bytes[start..], values.len());
        decode_rows(&self.coded, &codes, &self.tables, first, values);
        round(self.dtype, values);
    }
}

impl Store {
    /// The codes of a weight, to be decoded row by row; `None` of one that has none, or whose numbers are moved behind their codes.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn codes_of(&self, weight: &Weight) -> Result<Option<Codes>> {
        let found = match &weight.source {
            _ if weight.coded().is_some() => {
                let encoded = self.encode(weight)?;
                Some((encoded.coded.clone(), encoded.packed()?, encoded.tables.to_f32_vec()))
            }
            Source::Tensor { .. } if weight.transforms.is_empty() => {
                let (region, _) = self.select(weight, &[])?;
                match region.coding.as_ref().filter(|coding| coding.code != Code::Int { bits: 32 }) {
                    Some(coding) => {
                        let (coded, bytes) = self.coded_bytes(region, coding)?;
                        Some((coded, bytes, coding.tables.clone()))
                    }
                    None => None,
                }
            }
            _ => None,
        };
        let Some((coded, bytes, tables)) = found else { return Ok(None) };
        let codes = Codes { coded, bytes, tables, dtype: weight.dtype };
        let is_whole = (codes.row() * codes.coded.code.bits()).is_multiple_of(8);
        Ok((is_whole && element_count(&codes.coded.shape) > 0).then_some(codes))
    }
}
