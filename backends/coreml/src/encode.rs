//! Encoded weights in Core ML's words: operations that are run as a package is loaded (coremltools,
//! `converters/mil/mil/ops/defs/iOS16/constexpr_ops.py` and `iOS18/compression.py`).

use snapc_ir::{Code, Coded, DType, Error, Result};

use crate::MinOs;
use crate::schema::DataType;

/// The operation that makes a weight's numbers of its codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `constexpr_affine_dequantize`: codes of 8 bits, a scale for each row of an axis.
    Affine {
        /// The axis.
        axis: usize,
    },
    /// `constexpr_lut_to_dense` of iOS 16: one table; its indices are bytes without gaps.
    Table,
    /// `constexpr_blockwise_shift_scale`, from iOS 18 on: a scale for each block.
    Scales,
    /// `constexpr_lut_to_dense` of iOS 18: a table for each block.
    Tables,
}

impl Form {
    /// Whether there are zero points, all zero: before iOS 18 they are no option.
    pub fn has_zeros(self) -> bool {
        matches!(self, Form::Affine { .. })
    }
}

/// The form of a weight that is stored as codes.
///
/// # Errors
/// If the operations of that system have none.
pub fn form(coded: &Coded, min_os: MinOs) -> Result<Form> {
    if min_os >= MinOs::Ios18 {
        return Ok(match coded.code {
            Code::Int { .. } => Form::Scales,
            Code::Palette { .. } => Form::Tables,
        });
    }
    let cut: Vec<usize> = (0..coded.shape.len()).filter(|&axis| coded.blocks[axis] > 1).collect();
    let refuse = |what: String| {
        Err(Error::limit(format!("{what}; Core ML has that from iOS 18 on"))
            .help("write it with --min-os iOS18, or --allow-decode to store its numbers as they are"))
    };
    match (coded.code, &cut[..]) {
        (Code::Int { bits: 8 }, []) => Ok(Form::Affine { axis: 0 }),
        (Code::Int { bits: 8 }, &[axis]) if coded.blocks[axis] == coded.shape[axis] => {
            Ok(Form::Affine { axis })
        }
        (Code::Int { bits: 8 }, _) => refuse("its codes share scales in blocks".to_string()),
        (Code::Int { bits }, _) => refuse(format!("its codes have {bits} bits")),
        (Code::Palette { bits: 3 }, _) => refuse("its palette has 3 bits".to_string()),
        (Code::Palette { .. }, []) => Ok(Form::Table),
        (Code::Palette { .. }, _) => refuse("groups of its channels have a palette each".to_string()),
    }
}

/// The element type of codes in a program, and its number in a weight file.
///
/// # Errors
/// If there is none of so many bits.
pub fn code_type(code: Code, form: Form) -> Result<(DataType, u32)> {
    Ok(match (code, form) {
        (_, Form::Table) | (Code::Palette { bits: 8 }, _) => (DataType::Uint8, 3),
        (Code::Int { bits: 8 }, _) => (DataType::Int8, 4),
        (Code::Int { bits: 4 }, _) => (DataType::Int4, 8),
        (Code::Palette { bits: 2 }, _) => (DataType::Uint2, 10),
        (Code::Palette { bits: 4 }, _) => (DataType::Uint4, 11),
        (Code::Palette { bits: 3 }, _) => (DataType::Uint3, 12),
        (Code::Palette { bits: 6 }, _) => (DataType::Uint6, 13),
        (Code::Int { bits } | Code::Palette { bits }, _) => {
            return Err(Error::bug(format!("codes of {bits} bits")));
        }
    })
}

/// The number in a weight file of the type of scales, tables and plain numbers.
///
/// # Errors
/// If no weight is of that type.
pub fn float_type(dtype: DType) -> Result<u32> {
    match dtype {
        DType::F16 => Ok(1),
        DType::F32 => Ok(2),
        DType::BF16 | DType::I32 => {
            Err(Error::bug(format!("a weight of type {dtype} reaches the weight file")))
        }
    }
}

/// The sizes of the scales, or of the tables, of codes in that form.
pub fn table_shape(coded: &Coded, form: Form) -> Vec<usize> {
    match form {
        Form::Affine { axis } => vec![coded.shape[axis]],
        Form::Table => vec![coded.code.shared()],
        Form::Scales => coded.blocks.clone(),
        // The last axis is for tables of vectors.
        Form::Tables => [&coded.blocks[..], &[coded.code.shared(), 1]].concat(),
    }
}
