//! The part of the TFLite schema that snapc writes, by the numbers of `schema.fbs` (google-ai-edge/LiteRT,
//! `tflite/converter/schema/schema.fbs`, version 3d): fields of tables by their place, enums by their values, operators by code and
//! version.

/// What stands behind the root's offset.
pub const FILE_IDENTIFIER: &str = "TFL3";

/// `Model.version`.
pub const VERSION: u32 = 3;

/// The key of the signature of a file that has one, by TensorFlow's custom.
pub const SIGNATURE: &str = "serving_default";

/// An optional operand that is not given, in `Operator.inputs`.
pub const ABSENT: i32 = -1;

/// Bytes of the weights, and of constants in the flatbuffer, start at multiples of this.
pub const ALIGNMENT: u64 = 16;

/// Zeros behind the last weight: XNNPACK reads up to a vector too much.
pub const TAIL: u64 = 16;

/// The metadata entry with the oldest runtime that has all operators; a text in 16 bytes, filled up with zeros.
pub const MIN_RUNTIME: &str = "min_runtime_version";
/// The metadata entry that says that buffers lie behind the flatbuffer, and its value.
pub const BUFFER_LOCATION: (&str, &str) = ("buffer_location", "outside flatbuffers");

/// Numbers of the fields of each table, in the schema's order.
pub mod slot {
    /// `Model`.
    pub mod model {
        pub const VERSION: u16 = 0;
        pub const OPERATOR_CODES: u16 = 1;
        pub const SUBGRAPHS: u16 = 2;
        pub const DESCRIPTION: u16 = 3;
        pub const BUFFERS: u16 = 4;
        pub const METADATA: u16 = 6;
        pub const SIGNATURE_DEFS: u16 = 7;
    }
    /// `OperatorCode`.
    pub mod operator_code {
        pub const DEPRECATED_BUILTIN_CODE: u16 = 0;
        pub const VERSION: u16 = 2;
        pub const BUILTIN_CODE: u16 = 3;
    }
    /// `SubGraph`.
    pub mod subgraph {
        pub const TENSORS: u16 = 0;
        pub const INPUTS: u16 = 1;
        pub const OUTPUTS: u16 = 2;
        pub const OPERATORS: u16 = 3;
        pub const NAME: u16 = 4;
    }
    /// `Tensor`.
    pub mod tensor {
        pub const SHAPE: u16 = 0;
        pub const TYPE: u16 = 1;
        pub const BUFFER: u16 = 2;
        pub const NAME: u16 = 3;
        pub const QUANTIZATION: u16 = 4;
        pub const HAS_RANK: u16 = 8;
    }
    /// `QuantizationParameters`. `details` is a union: its type and its table.
    pub mod quantization {
        pub const SCALE: u16 = 2;
        pub const ZERO_POINT: u16 = 3;
        pub const DETAILS_TYPE: u16 = 4;
        pub const DETAILS: u16 = 5;
        pub const QUANTIZED_DIMENSION: u16 = 6;
    }
    /// `BlockwiseQuantization`.
    pub mod blockwise {
        pub const SCALES: u16 = 0;
        pub const ZERO_POINTS: u16 = 1;
        pub const BLOCK_SIZE: u16 = 2;
    }
    /// `Operator`. A union is two fields: its type and its table.
    pub mod operator {
        pub const OPCODE_INDEX: u16 = 0;
        pub const INPUTS: u16 = 1;
        pub const OUTPUTS: u16 = 2;
        pub const OPTIONS_TYPE: u16 = 3;
        pub const OPTIONS: u16 = 4;
    }
    /// `Buffer`.
    pub mod buffer {
        pub const DATA: u16 = 0;
        pub const OFFSET: u16 = 1;
        pub const SIZE: u16 = 2;
    }
    /// `Metadata`.
    pub mod metadata {
        pub const NAME: u16 = 0;
        pub const BUFFER: u16 = 1;
    }
    /// `SignatureDef`.
    pub mod signature {
        pub const INPUTS: u16 = 0;
        pub const OUTPUTS: u16 = 1;
        pub const KEY: u16 = 2;
        pub const SUBGRAPH: u16 = 4;
    }
    /// `TensorMap`.
    pub mod tensor_map {
        pub const NAME: u16 = 0;
        pub const TENSOR: u16 = 1;
    }
    /// `FullyConnectedOptions`.
    pub mod fully_connected {
        pub const KEEP_NUM_DIMS: u16 = 2;
    }
    /// `BatchMatMulOptions`.
    pub mod batch_matmul {
        pub const ADJ_Y: u16 = 1;
    }
    /// `Conv2DOptions`; padding and strides of `DepthwiseConv2DOptions` have the same numbers.
    pub mod conv {
        pub const PADDING: u16 = 0;
        pub const STRIDE_W: u16 = 1;
        pub const STRIDE_H: u16 = 2;
    }
    /// `ReshapeOptions`.
    pub mod reshape {
        pub const NEW_SHAPE: u16 = 0;
    }
    /// `ConcatenationOptions`.
    pub mod concatenation {
        pub const AXIS: u16 = 0;
    }
    /// `SplitOptions`.
    pub mod split {
        pub const NUM_SPLITS: u16 = 0;
    }
    /// `SoftmaxOptions`.
    pub mod softmax {
        pub const BETA: u16 = 0;
    }
    /// `GeluOptions`.
    pub mod gelu {
        pub const APPROXIMATE: u16 = 0;
    }
    /// `ReducerOptions`.
    pub mod reducer {
        pub const KEEP_DIMS: u16 = 0;
    }
    /// `CastOptions`.
    pub mod cast {
        pub const IN_DATA_TYPE: u16 = 0;
        pub const OUT_DATA_TYPE: u16 = 1;
    }
}

/// `TensorType`.
pub mod tensor_type {
    pub const FLOAT32: i8 = 0;
    pub const FLOAT16: i8 = 1;
    pub const INT32: i8 = 2;
    pub const INT8: i8 = 9;
    pub const INT4: i8 = 17;
}

/// The number of `BlockwiseQuantization` in the union `QuantizationDetails`.
pub const BLOCKWISE: u8 = 2;

/// `Padding`.
pub mod padding {
    pub const SAME: i8 = 0;
    pub const VALID: i8 = 1;
}

/// One version of a builtin operator.
#[derive(Debug, PartialEq, Eq)]
pub struct Builtin {
    /// Its name in `BuiltinOperator`.
    pub name: &'static str,
    /// Its number there.
    pub code: i32,
    /// Its version (`tools/versioning/op_version.cc`): the lowest that has what the writer uses.
    pub version: i32,
    /// The number of its options in the union `BuiltinOptions`; 0 where it has none.
    pub options: u8,
    /// The oldest runtime that has this version (`tools/versioning/runtime_version.cc`): 2.9 is `[2, 9]`.
    pub runtime: [u8; 2],
}

macro_rules! builtins {
    ($($id:ident = $name:literal $code:literal $version:literal $options:literal $runtime:expr;)*) => {
        $(#[doc = concat!("`", $name, "`, version ", $version, ".")]
        pub const $id: &Builtin =
            &Builtin { name: $name, code: $code, version: $version, options: $options, runtime: $runtime };)*

        /// All that snapc writes.
        pub const BUILTINS: &[&Builtin] = &[$($id),*];
    };
}
builtins! {
    ADD = "ADD" 0 1 11 [1, 5];
    CONCATENATION = "CONCATENATION" 2 1 10 [1, 5];
    CONV_2D = "CONV_2D" 3 1 1 [1, 5];
    CONV_2D_GROUPED = "CONV_2D" 3 6 1 [2, 9];
    CONV_2D_INT8 = "CONV_2D" 3 3 1 [1, 14];
    DEQUANTIZE_RESULT = "DEQUANTIZE" 6 2 38 [1, 14];
    DEQUANTIZE = "DEQUANTIZE" 6 3 38 [1, 15];
    DEQUANTIZE_INT8 = "DEQUANTIZE" 6 5 38 [2, 7];
    EMBEDDING_LOOKUP = "EMBEDDING_LOOKUP" 7 1 0 [1, 13];
    FULLY_CONNECTED = "FULLY_CONNECTED" 9 5 8 [2, 0];
    FULLY_CONNECTED_INT4 = "FULLY_CONNECTED" 9 10 8 [2, 11];
    FULLY_CONNECTED_INT8 = "FULLY_CONNECTED" 9 12 8 [2, 17];
    FULLY_CONNECTED_BLOCKS = "FULLY_CONNECTED" 9 13 8 [2, 18];
    LOGISTIC = "LOGISTIC" 14 1 0 [1, 14];
    MUL = "MUL" 18 1 21 [1, 5];
    RELU = "RELU" 19 1 0 [1, 5];
    RESHAPE = "RESHAPE" 22 1 17 [1, 5];
    SOFTMAX = "SOFTMAX" 25 1 9 [1, 5];
    TANH = "TANH" 28 1 0 [1, 14];
    PAD = "PAD" 34 1 22 [1, 5];
    TRANSPOSE = "TRANSPOSE" 39 1 26 [1, 6];
    MEAN = "MEAN" 40 1 27 [1, 6];
    SUB = "SUB" 41 1 28 [1, 6];
    SPLIT = "SPLIT" 49 1 35 [1, 5];
    CAST = "CAST" 53 5 37 [2, 12];
    SLICE = "SLICE" 65 1 48 [1, 14];
    SIN = "SIN" 66 1 0 [1, 9];
    RSQRT = "RSQRT" 76 1 0 [1, 10];
    COS = "COS" 108 1 84 [1, 14];
    QUANTIZE = "QUANTIZE" 114 1 89 [1, 14];
    BATCH_MATMUL = "BATCH_MATMUL" 126 1 101 [2, 3];
    GELU = "GELU" 150 1 116 [2, 9];
}

/// Buffers behind the flatbuffer: no runtime before 2.14 was tried with them.
pub const OUTSIDE_RUNTIME: [u8; 2] = [2, 14];
