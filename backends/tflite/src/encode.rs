//! Encoded weights in TFLite's words: tensors of integers with `QuantizationParameters` (google-ai-edge/LiteRT,
//! `tflite/converter/schema/schema.fbs`), which FULLY_CONNECTED takes as they are and DEQUANTIZE unpacks for others.

use snapc_ir::{Code, Coded, Context, DType, Def, Error, Graph, Place, Result, Value, Weight};

use crate::products::Products;
use crate::schema::{
    Builtin, DEQUANTIZE_INT8, FULLY_CONNECTED_BLOCKS, FULLY_CONNECTED_INT4, FULLY_CONNECTED_INT8,
};

/// Blocks of inputs are multiples of this: XNNPACK takes no others.
const SMALLEST_BLOCK: usize = 32;

/// How a weight's scales are said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A scale an output channel, axis 0, in the tensor's own description: f32.
    Channels {
        /// 8 or 4.
        bits: usize,
    },
    /// A scale for so many inputs of an output channel, in a tensor of f16; the codes have 4 bits.
    Blocks {
        /// How many inputs.
        size: usize,
    },
}

impl Form {
    /// The version of FULLY_CONNECTED that takes it.
    pub fn fully_connected(self) -> &'static Builtin {
        match self {
            Form::Channels { bits: 8 } => FULLY_CONNECTED_INT8,
            Form::Channels { .. } => FULLY_CONNECTED_INT4,
            Form::Blocks { .. } => FULLY_CONNECTED_BLOCKS,
        }
    }

    /// The version of DEQUANTIZE that takes it; none where XNNPACK leaves that out.
    pub fn dequantize(self) -> Option<&'static Builtin> {
        (self == Form::Channels { bits: 8 }).then_some(DEQUANTIZE_INT8)
    }
}

/// The form of a weight that is stored as codes.
///
/// # Errors
/// If TFLite, or XNNPACK, has none.
pub fn form(coded: &Coded) -> Result<Form> {
    let bits = match coded.code {
        Code::Int { bits } => bits,
        Code::Palette { bits } => {
            return Err(Error::limit(format!(
                "it is encoded as palette{bits}; TFLite has no look-up tables for weights"
            ))
            .help("use int8 or int4, or --allow-decode to store its numbers as they are"));
        }
    };
    let channels =
        coded.shape.first() == coded.blocks.first() && coded.blocks[1..].iter().all(|&blocks| blocks == 1);
    let inputs = coded.shape.last().copied().unwrap_or_default();
    if channels {
        if bits == 4 && !inputs.is_multiple_of(2) {
            return Err(Error::limit(format!("a row of {inputs} codes of 4 bits ends within a byte"))
                .help("use int8 for it, or --allow-decode to store its numbers as they are"));
        }
        return Ok(Form::Channels { bits });
    }
    let sizes = coded.block_sizes();
    match (bits, &sizes[..]) {
        (4, &[1, size]) if size.is_multiple_of(SMALLEST_BLOCK) => Ok(Form::Blocks { size }),
        _ => Err(Error::limit(format!("its int{bits} codes share scales in blocks of {sizes:?}"))
            .help("use int8, or int4 in groups of 32 or a multiple, or --allow-decode to store its numbers as they are")),
    }
}

/// Every weight that is stored as codes and has no form, or no reader that takes it.
pub fn check(graph: &Graph) -> Vec<Error> {
    let products = Products::new(graph);
    let coded = graph.values().iter().enumerate().filter_map(|(value, Value { def, .. })| match *def {
        Def::Weight(weight) => {
            let weight = graph.weight(weight);
            weight.coded().map(|coded| (value, weight, coded))
        }
        _ => None,
    });
    let passed = |(value, weight, coded): (usize, &Weight, Coded)| {
        let reads_numbers = products.reads_numbers(value);
        check_weight(weight, &coded, reads_numbers).at(|| Place::Tensor(weight.name.clone())).err()
    };
    products.check(graph).err().into_iter().chain(coded.filter_map(passed)).collect()
}

fn check_weight(weight: &Weight, coded: &Coded, reads_numbers: bool) -> Result<()> {
    let form = form(coded)?;
    if weight.dtype != DType::F32 {
        return Err(Error::bug(format!("codes of {} numbers", weight.dtype)));
    }
    if form.dequantize().is_none() && reads_numbers {
        return Err(Error::limit("codes of 4 bits are for FULLY_CONNECTED alone".to_string())
            .help("use int8 for it, or --allow-decode to store its numbers as they are"));
    }
    Ok(())
}
