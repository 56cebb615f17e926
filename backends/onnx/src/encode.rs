//! Encoded weights in ONNX's words: `DequantizeLinear` over integers (`docs/Operators.md` of onnx/onnx, opset 21).

use snapc_ir::{Code, Coded, Error, Result};

use crate::schema::data_type;

/// How a weight's codes and scales become its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// The element type of the codes: int8 or int4.
    pub data_type: i32,
    /// The axis along which scales differ, or whose blocks have one each; none where there is one scale.
    pub axis: Option<usize>,
    /// Numbers of a block on that axis; none where each of its rows has a scale.
    pub block: Option<usize>,
    /// The sizes of the scales: none, those of one axis, or, where there are blocks, of all.
    pub scales: Vec<usize>,
}

/// The form of a weight that is stored as codes.
///
/// # Errors
/// If ONNX has none: a palette, or blocks on more than one axis.
pub fn form(coded: &Coded) -> Result<Form> {
    let data_type = match coded.code {
        Code::Int { bits: 8 } => data_type::INT8,
        Code::Int { bits: 4 } => data_type::INT4,
        Code::Int { bits } => return Err(Error::bug(format!("integers of {bits} bits"))),
        Code::Palette { bits } => {
            return Err(Error::limit(format!(
                "it is encoded as palette{bits}; ONNX has no look-up tables for weights"
            ))
            .help("use int4, or --allow-decode to store its numbers as they are"));
        }
    };
    let cut: Vec<usize> = (0..coded.shape.len()).filter(|&axis| coded.blocks[axis] > 1).collect();
    let blocked: Vec<usize> =
        (0..coded.shape.len()).filter(|&axis| coded.blocks[axis] != coded.shape[axis]).collect();
    let sizes = coded.block_sizes();
    let (axis, block, scales) = match (&cut[..], &blocked[..]) {
        ([], _) => (None, None, Vec::new()),
        (&[axis], _) if sizes[axis] == 1 => (Some(axis), None, vec![coded.shape[axis]]),
        (_, &[axis]) => (Some(axis), Some(sizes[axis]), coded.blocks.clone()),
        // Each number has a scale.
        (_, []) => (Some(0), Some(1), coded.blocks.clone()),
        _ => {
            return Err(Error::limit(format!(
                "its codes share scales in blocks of {sizes:?}; ONNX has blocks on one axis alone"
            ))
            .help("use int8 or int4 without blocks, or --allow-decode to store its numbers as they are"));
        }
    };
    Ok(Form { data_type, axis, block, scales })
}
