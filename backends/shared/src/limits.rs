//! What targets cannot take, each limit once and with its source. Backends check graphs against them, `plan` lists them.

use snapc_ir::{Def, Error, Graph, Place, TensorType, Value, shape_text};

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Axes of a value.
    Axes,
    /// The size of a value's longest axis.
    Length,
    /// Numbers of a value.
    Numbers,
    /// Bytes: of a value, or of a file.
    Bytes,
}

impl Unit {
    /// What a value has of it.
    pub fn of(self, ty: &TensorType) -> u64 {
        match self {
            Unit::Axes => ty.rank() as u64,
            Unit::Length => ty.shape.iter().copied().max().unwrap_or_default() as u64,
            Unit::Numbers => ty.count() as u64,
            Unit::Bytes => (ty.count() as u64).saturating_mul(ty.dtype.size() as u64),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Unit::Axes => "axes",
            Unit::Length => "numbers on one axis",
            Unit::Numbers => "numbers",
            Unit::Bytes => "bytes",
        }
    }
}

/// The most that a target takes of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The target.
    pub target: &'static str,
    /// What has the limit, with an article.
    pub holder: &'static str,
    /// What is counted.
    pub unit: Unit,
    /// The most of it.
    pub most: u64,
    /// Where that is said.
    pub source: &'static str,
    /// What to do.
    pub help: &'static str,
}

impl Limit {
    /// The error where `found` passes it; `subject` is what has so many.
    pub fn passed(&self, subject: impl FnOnce() -> String, found: u64) -> Option<Error> {
        let Limit { holder, unit, most, help, .. } = *self;
        let (subject, unit) = (found > most).then(|| (subject(), unit.word()))?;
        Some(Error::limit(format!("{subject} has {found} {unit}; {holder} has at most {most}")).help(help))
    }
}

/// A limit and the most of it that a graph has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The limit.
    pub limit: Limit,
    /// What the graph has.
    pub found: u64,
}

/// Every value that passes one of these limits on values, in the graph's order.
pub fn values_past(graph: &Graph, limits: &[Limit]) -> Vec<Error> {
    let past = |value: &Value| -> Vec<Error> {
        let subject = || shape_text(&value.ty.shape);
        let found = limits.iter().filter_map(|limit| limit.passed(subject, limit.unit.of(&value.ty)));
        found.map(|error| error.at(place(graph, value.def))).collect()
    };
    graph.values().iter().flat_map(past).collect()
}

/// The most that a graph's values have of each of these limits on values.
pub fn uses(graph: &Graph, limits: &[Limit]) -> Vec<Use> {
    let most = |limit: &Limit| graph.values().iter().map(|value| limit.unit.of(&value.ty)).max();
    limits.iter().map(|limit| Use { limit: *limit, found: most(limit).unwrap_or_default() }).collect()
}

/// Where a value is, as errors name it: an input or a weight by its name, a result by its node's path.
pub fn place(graph: &Graph, def: Def) -> Place {
    match def {
        Def::Input(number) => Place::Tensor(graph.inputs()[number].name.clone()),
        Def::Weight(id) => Place::Tensor(graph.weight(id).name.clone()),
        Def::Result(id, _) => Place::Node(graph.node(id).scope.to_string()),
    }
}

/// Axes of a value in Core ML.
pub const COREML_AXES: Limit = Limit {
    target: "coreml",
    holder: "a Core ML value",
    unit: Unit::Axes,
    most: 5,
    source: "coremltools, mil/program.py",
    help: "another target may take it: see the table of targets in the README",
};

/// An axis in Core ML.
pub const COREML_LENGTH: Limit = Limit {
    target: "coreml",
    holder: "a Core ML value",
    unit: Unit::Length,
    most: i32::MAX as u64,
    source: "coremltools, mlmodel/format/MIL.proto: shapes in a program are int32",
    help: "compile for another image size",
};

/// A value in Core ML's memory.
pub const COREML_VALUE: Limit = Limit {
    target: "coreml",
    holder: "a Core ML value",
    unit: Unit::Bytes,
    most: 1 << 32,
    source: "pytorch/pytorch issue 149325: MPSNDArray ends at 2^32 bytes",
    help: "compile for a smaller size",
};

/// An axis on the Neural Engine. A longer one is not refused: the GPU or the CPU runs what has it.
pub const NEURAL_ENGINE_LENGTH: Limit = Limit {
    target: "coreml",
    holder: "a value on the Neural Engine",
    unit: Unit::Length,
    most: 16384,
    source: "apple/coremltools issue 1003",
    help: "compile for a smaller size, or leave it to the GPU",
};

/// Core ML's weight file, for the Neural Engine.
pub const COREML_WEIGHTS: Limit = Limit {
    target: "coreml",
    holder: "a Core ML weight file for the Neural Engine",
    unit: Unit::Bytes,
    most: 1 << 31,
    source: "apple/coremltools issue 2593: the Neural Engine takes none longer",
    help: "write it in f16, quantize it, take a smaller subnet, or write it with --device gpu",
};

/// A value in ONNX, so that counting numbers and their bytes never overflows.
pub const ONNX_NUMBERS: Limit = Limit {
    target: "onnx",
    holder: "an ONNX value",
    unit: Unit::Numbers,
    most: 1 << 40,
    source: "snapc: past it products of sizes could overflow",
    help: "compile for a smaller size",
};

/// ONNX's model file.
pub const ONNX_MODEL: Limit = Limit {
    target: "onnx",
    holder: "a protobuf message",
    unit: Unit::Bytes,
    most: i32::MAX as u64,
    source: "protobuf.dev, Encoding: a message ends at 2 GiB",
    help: "the graph has too many nodes or small weights: compile a smaller one",
};

/// ONNX's weight file.
pub const ONNX_WEIGHTS: Limit = Limit {
    target: "onnx",
    holder: "an ONNX data file",
    unit: Unit::Bytes,
    most: i64::MAX as u64,
    source: "onnx/onnx, docs/ExternalData.md: offsets are int64",
    help: "quantize it, or take a smaller subnet",
};

/// Axes of a value in TFLite.
pub const TFLITE_AXES: Limit = Limit {
    target: "tflite",
    holder: "a TFLite value",
    unit: Unit::Axes,
    most: 4,
    source: "google-ai-edge/LiteRT: the GPU delegate's operators take four, XNNPACK's six",
    help: "no model that snapc imports has such a value: please report this one",
};

/// A value in TFLite.
pub const TFLITE_NUMBERS: Limit = Limit {
    target: "tflite",
    holder: "a TFLite value",
    unit: Unit::Numbers,
    most: i32::MAX as u64,
    source: "google-ai-edge/LiteRT: kernels count a value's numbers in 32 bits",
    help: "compile for a smaller size",
};

/// TFLite's flatbuffer; weights lie behind it.
pub const TFLITE_MODEL: Limit = Limit {
    target: "tflite",
    holder: "a flatbuffer",
    unit: Unit::Bytes,
    most: i32::MAX as u64,
    source: "google/flatbuffers: offsets are signed 32-bit integers",
    help: "the graph has too many nodes or small weights: compile a smaller one",
};

/// TFLite's weights behind the flatbuffer.
pub const TFLITE_WEIGHTS: Limit = Limit {
    target: "tflite",
    holder: "a TFLite file",
    unit: Unit::Bytes,
    most: i64::MAX as u64,
    source: "google-ai-edge/LiteRT, schema.fbs: offsets of buffers, read into 64 bits",
    help: "quantize it, or take a smaller subnet",
};
