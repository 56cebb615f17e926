//! A model as a flatbuffer.
//!
//! The tables are written with the `flatbuffers` crate's builder and our own numbers of fields. The builder writes from the end
//! of the file to its front: what a table points at comes first.

use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, TableFinishedWIPOffset, VOffsetT, Vector, WIPOffset};
use smallvec::SmallVec;
use snapc_backend::limits::TFLITE_MODEL;

use crate::blocks::Blocks;
use crate::schema::{ABSENT, ALIGNMENT, BLOCKWISE, Builtin, FILE_IDENTIFIER, VERSION, slot};

/// Sizes, or the tensors of an operator: so few, in most, that they need no memory of their own.
pub type Ints = SmallVec<[i32; 4]>;

/// A field of an operator's options.
#[derive(Clone, Debug)]
pub enum Field {
    Bool(bool),
    Byte(i8),
    Int(i32),
    Float(f32),
    Ints(Vec<i32>),
}

/// `Tensor`.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub kind: i8,
    pub shape: Ints,
    /// Its buffer; 0 is the one without data, for what operators make.
    pub buffer: u32,
    /// What its numbers stand for, where they are codes.
    pub quantization: Option<Quantization>,
}

/// `QuantizationParameters`.
#[derive(Clone, Debug)]
pub enum Quantization {
    /// A scale for each row of the first axis, or one for all. Those of a block of codes are known once that is written.
    Channels(Vec<f32>),
    /// Scales that are a tensor, each for so many numbers of a row.
    Blocks {
        /// The tensor.
        scales: i32,
        /// How many numbers.
        size: i32,
    },
}

/// `Operator`.
#[derive(Clone, Debug)]
pub struct Operator {
    pub builtin: &'static Builtin,
    pub inputs: Ints,
    pub outputs: Ints,
    pub options: Options,
}

/// Where the bytes of a buffer are.
#[derive(Clone, Debug)]
pub enum Buffer {
    /// Nowhere: an operator makes them.
    Empty,
    /// In the flatbuffer.
    Inline(Vec<u8>),
    /// Behind it.
    Block(usize),
}

/// A graph, and the signature that runs it.
#[derive(Clone, Debug)]
pub struct Subgraph {
    /// The signature's key.
    pub key: String,
    pub name: String,
    pub tensors: Vec<Tensor>,
    pub operators: Vec<Operator>,
    /// The names of the signature, each with its tensor.
    pub inputs: Vec<(String, i32)>,
    pub outputs: Vec<(String, i32)>,
}

/// A model of one graph or more over one list of buffers.
#[derive(Clone, Debug)]
pub struct Model {
    pub description: String,
    pub subgraphs: Vec<Subgraph>,
    pub buffers: Vec<Buffer>,
    /// Key and buffer.
    pub metadata: Vec<(String, u32)>,
}

/// A finished flatbuffer.
pub struct Packed(FlatBufferBuilder<'static>);

impl Packed {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.finished_data()
    }
}

/// The flatbuffer, whose length is a multiple of [`ALIGNMENT`]: the blocks follow it at once. Offsets count from the start of the
/// file, so it is made twice: its length does not depend on them.
pub fn pack(model: &Model, blocks: &Blocks) -> Packed {
    let trial = Packer::pack(model, blocks, 0, 0, room(model)).bytes().len();
    // All within is aligned to 8 bytes at most, so a gap of 8 shifts what stands before it and nothing else.
    let length = trial.next_multiple_of(ALIGNMENT as usize);
    Packer::pack(model, blocks, length - trial, length as u64, length)
}

/// Bytes that a flatbuffer takes at most, about: a builder that has no room doubles what it has, and holds both meanwhile.
fn room(model: &Model) -> usize {
    // A table with its offsets, and what it points at with its length.
    const TABLE: usize = 96;
    let tensor = |tensor: &Tensor| {
        let scales = match &tensor.quantization {
            Some(Quantization::Channels(scales)) => TABLE + 12 * scales.len(),
            Some(Quantization::Blocks { .. }) => TABLE,
            None => 0,
        };
        TABLE + tensor.name.len() + 4 * tensor.shape.len() + scales
    };
    let field = |(_, value): &(u16, Field)| match value {
        Field::Ints(values) => 16 + 4 * values.len(),
        _ => 8,
    };
    let operator = |operator: &Operator| {
        let operands = operator.inputs.len() + operator.outputs.len();
        TABLE + 4 * operands + operator.options.iter().map(field).sum::<usize>()
    };
    let graph = |graph: &Subgraph| {
        let tensors: usize = graph.tensors.iter().map(tensor).sum();
        let operators: usize = graph.operators.iter().map(operator).sum();
        tensors + operators + TABLE * (graph.inputs.len() + graph.outputs.len())
    };
    let buffer = |buffer: &Buffer| match buffer {
        Buffer::Inline(bytes) => TABLE + bytes.len(),
        Buffer::Empty | Buffer::Block(_) => TABLE,
    };
    let buffers: usize = model.buffers.iter().map(buffer).sum();
    model.subgraphs.iter().map(graph).sum::<usize>() + buffers + TABLE * (16 + model.metadata.len())
}

type Table = WIPOffset<TableFinishedWIPOffset>;
type Tables = WIPOffset<Vector<'static, ForwardsUOffset<TableFinishedWIPOffset>>>;

/// Fields of an operator's options, each with its number.
pub type Options = Vec<(u16, Field)>;

struct Packer {
    builder: FlatBufferBuilder<'static>,
}

impl Packer {
    fn pack(model: &Model, blocks: &Blocks, gap: usize, length: u64, room: usize) -> Packed {
        let mut packer = Packer { builder: FlatBufferBuilder::with_capacity(room) };
        // The tables' offsets are aligned to this, and with them the whole.
        packer.builder.push(0u64);
        let inline: Vec<Option<_>> = model.buffers.iter().map(|buffer| packer.data(buffer)).collect();
        packer.zeros(gap);
        let buffers: Vec<Table> = model
            .buffers
            .iter()
            .zip(inline)
            .map(|(buffer, inline)| packer.buffer(buffer, inline, blocks, length))
            .collect();
        let buffers = packer.builder.create_vector(&buffers);
        let root = packer.model(model, buffers);
        packer.builder.finish(root, Some(FILE_IDENTIFIER));
        Packed(packer.builder)
    }

    fn zeros(&mut self, count: usize) {
        for _ in 0..count {
            self.builder.push(0u8);
        }
    }

    /// The numbers of a constant: their first byte lies at a multiple of [`ALIGNMENT`] from the end.
    fn data(&mut self, buffer: &Buffer) -> Option<WIPOffset<Vector<'static, u8>>> {
        let Buffer::Inline(bytes) = buffer else { return None };
        let used = self.builder.unfinished_data().len() + bytes.len();
        self.zeros(used.next_multiple_of(ALIGNMENT as usize) - used);
        Some(self.builder.create_vector(bytes))
    }

    fn buffer(
        &mut self,
        buffer: &Buffer,
        inline: Option<WIPOffset<Vector<'static, u8>>>,
        blocks: &Blocks,
        length: u64,
    ) -> Table {
        let start = self.builder.start_table();
        if let Some(data) = inline {
            self.builder.push_slot_always(field(slot::buffer::DATA), data);
        }
        if let Some(block) = self.block(buffer, blocks) {
            self.builder.push_slot_always(field(slot::buffer::OFFSET), length + block.offset);
            self.builder.push_slot_always(field(slot::buffer::SIZE), block.bytes);
        }
        self.builder.end_table(start)
    }

    fn block<'a>(&self, buffer: &Buffer, blocks: &'a Blocks) -> Option<&'a crate::blocks::Block> {
        match buffer {
            Buffer::Block(number) => blocks.all().get(*number),
            Buffer::Empty | Buffer::Inline(_) => None,
        }
    }

    fn model(&mut self, model: &Model, buffers: Tables) -> Table {
        let mut codes: Vec<&Builtin> = Vec::new();
        for operator in model.subgraphs.iter().flat_map(|subgraph| &subgraph.operators) {
            if !codes.contains(&operator.builtin) {
                codes.push(operator.builtin);
            }
        }
        let operator_codes: Vec<Table> = codes.iter().map(|code| self.operator_code(code)).collect();
        let operator_codes = self.builder.create_vector(&operator_codes);
        let subgraphs: Vec<Table> =
            model.subgraphs.iter().map(|subgraph| self.subgraph(subgraph, &codes)).collect();
        let subgraphs = self.builder.create_vector(&subgraphs);
        let signatures: Vec<Table> = (0u32..)
            .zip(&model.subgraphs)
            .map(|(number, subgraph)| self.signature(number, subgraph))
            .collect();
        let signatures = self.builder.create_vector(&signatures);
        let metadata: Vec<Table> =
            model.metadata.iter().map(|(name, buffer)| self.metadata(name, *buffer)).collect();
        let metadata = self.builder.create_vector(&metadata);
        let description = self.builder.create_string(&model.description);
        let start = self.builder.start_table();
        self.builder.push_slot_always(field(slot::model::SIGNATURE_DEFS), signatures);
        self.builder.push_slot_always(field(slot::model::METADATA), metadata);
        self.builder.push_slot_always(field(slot::model::BUFFERS), buffers);
        self.builder.push_slot_always(field(slot::model::DESCRIPTION), description);
        self.builder.push_slot_always(field(slot::model::SUBGRAPHS), subgraphs);
        self.builder.push_slot_always(field(slot::model::OPERATOR_CODES), operator_codes);
        self.builder.push_slot_always(field(slot::model::VERSION), VERSION);
        self.builder.end_table(start)
    }

    /// Runtimes from before the code was 32 bits wide read the narrow field.
    fn operator_code(&mut self, builtin: &Builtin) -> Table {
        let narrow = i8::try_from(builtin.code).unwrap_or(i8::MAX);
        let start = self.builder.start_table();
        self.builder.push_slot_always(field(slot::operator_code::BUILTIN_CODE), builtin.code);
        self.builder.push_slot_always(field(slot::operator_code::VERSION), builtin.version);
        self.builder.push_slot_always(field(slot::operator_code::DEPRECATED_BUILTIN_CODE), narrow);
        self.builder.end_table(start)
    }

    fn subgraph(&mut self, subgraph: &Subgraph, codes: &[&Builtin]) -> Table {
        let tensors: Vec<Table> = subgraph.tensors.iter().map(|tensor| self.tensor(tensor)).collect();
        let tensors = self.builder.create_vector(&tensors);
        let operators: Vec<Table> =
            subgraph.operators.iter().map(|operator| self.operator(operator, codes)).collect();
        let operators = self.builder.create_vector(&operators);
        let numbers = |ports: &[(String, i32)]| ports.iter().map(|port| port.1).collect::<Vec<i32>>();
        let inputs = self.builder.create_vector(&numbers(&subgraph.inputs));
        let outputs = self.builder.create_vector(&numbers(&subgraph.outputs));
        let name = self.builder.create_string(&subgraph.name);
        let start = self.builder.start_table();
        self.builder.push_slot_always(field(slot::subgraph::NAME), name);
        self.builder.push_slot_always(field(slot::subgraph::OPERATORS), operators);
        self.builder.push_slot_always(field(slot::subgraph::OUTPUTS), outputs);
        self.builder.push_slot_always(field(slot::subgraph::INPUTS), inputs);
        self.builder.push_slot_always(field(slot::subgraph::TENSORS), tensors);
        self.builder.end_table(start)
    }

    fn tensor(&mut self, tensor: &Tensor) -> Table {
        let shape = self.builder.create_vector(&tensor.shape);
        let name = self.builder.create_string(&tensor.name);
        let quantization = tensor.quantization.as_ref().map(|quantization| self.quantization(quantization));
        let start = self.builder.start_table();
        if let Some(quantization) = quantization {
            self.builder.push_slot_always(field(slot::tensor::QUANTIZATION), quantization);
        }
        self.builder.push_slot_always(field(slot::tensor::NAME), name);
        self.builder.push_slot_always(field(slot::tensor::BUFFER), tensor.buffer);
        self.builder.push_slot_always(field(slot::tensor::SHAPE), shape);
        self.builder.push_slot_always(field(slot::tensor::HAS_RANK), true);
        self.builder.push_slot_always(field(slot::tensor::TYPE), tensor.kind);
        self.builder.end_table(start)
    }

    /// Zero points stand there although they are zero: kernels want as many as there are scales.
    fn quantization(&mut self, quantization: &Quantization) -> Table {
        match quantization {
            Quantization::Channels(scales) => {
                let zeros = self.builder.create_vector(&vec![0i64; scales.len()]);
                let scales = self.builder.create_vector(scales);
                let start = self.builder.start_table();
                self.builder.push_slot_always(field(slot::quantization::ZERO_POINT), zeros);
                self.builder.push_slot_always(field(slot::quantization::SCALE), scales);
                self.builder.push_slot_always(field(slot::quantization::QUANTIZED_DIMENSION), 0i32);
                self.builder.end_table(start)
            }
            Quantization::Blocks { scales, size } => {
                let start = self.builder.start_table();
                self.builder.push_slot_always(field(slot::blockwise::SCALES), *scales);
                self.builder.push_slot_always(field(slot::blockwise::ZERO_POINTS), ABSENT);
                self.builder.push_slot_always(field(slot::blockwise::BLOCK_SIZE), *size);
                let details = self.builder.end_table(start);
                let start = self.builder.start_table();
                self.builder.push_slot_always(field(slot::quantization::DETAILS), details);
                self.builder.push_slot_always(field(slot::quantization::QUANTIZED_DIMENSION), 0i32);
                self.builder.push_slot_always(field(slot::quantization::DETAILS_TYPE), BLOCKWISE);
                self.builder.end_table(start)
            }
        }
    }

    fn operator(&mut self, operator: &Operator, codes: &[&Builtin]) -> Table {
        let inputs = self.builder.create_vector(&operator.inputs);
        let outputs = self.builder.create_vector(&operator.outputs);
        let options = (operator.builtin.options != 0).then(|| self.options(&operator.options));
        let code = codes.iter().position(|code| *code == operator.builtin).unwrap_or_default();
        let start = self.builder.start_table();
        if let Some(options) = options {
            self.builder.push_slot_always(field(slot::operator::OPTIONS), options);
        }
        self.builder.push_slot_always(field(slot::operator::OUTPUTS), outputs);
        self.builder.push_slot_always(field(slot::operator::INPUTS), inputs);
        self.builder.push_slot_always(field(slot::operator::OPCODE_INDEX), code as u32);
        if options.is_some() {
            self.builder.push_slot_always(field(slot::operator::OPTIONS_TYPE), operator.builtin.options);
        }
        self.builder.end_table(start)
    }

    fn options(&mut self, options: &[(u16, Field)]) -> Table {
        let lists: Vec<Option<_>> = options
            .iter()
            .map(|(_, value)| match value {
                Field::Ints(values) => Some(self.builder.create_vector(values)),
                _ => None,
            })
            .collect();
        let start = self.builder.start_table();
        for ((number, value), list) in options.iter().zip(lists) {
            let number = field(*number);
            match (value, list) {
                (Field::Bool(value), _) => self.builder.push_slot_always(number, *value),
                (Field::Byte(value), _) => self.builder.push_slot_always(number, *value),
                (Field::Int(value), _) => self.builder.push_slot_always(number, *value),
                (Field::Float(value), _) => self.builder.push_slot_always(number, *value),
                (Field::Ints(_), Some(list)) => self.builder.push_slot_always(number, list),
                (Field::Ints(_), None) => {}
            }
        }
        self.builder.end_table(start)
    }

    fn signature(&mut self, number: u32, subgraph: &Subgraph) -> Table {
        let inputs: Vec<Table> = subgraph.inputs.iter().map(|port| self.tensor_map(port)).collect();
        let inputs = self.builder.create_vector(&inputs);
        let outputs: Vec<Table> = subgraph.outputs.iter().map(|port| self.tensor_map(port)).collect();
        let outputs = self.builder.create_vector(&outputs);
        let key = self.builder.create_string(&subgraph.key);
        let start = self.builder.start_table();
        self.builder.push_slot_always(field(slot::signature::SUBGRAPH), number);
        self.builder.push_slot_always(field(slot::signature::KEY), key);
        self.builder.push_slot_always(field(slot::signature::OUTPUTS), outputs);
        self.builder.push_slot_always(field(slot::signature::INPUTS), inputs);
        self.builder.end_table(start)
    }

    fn tensor_map(&mut self, (name, tensor): &(String, i32)) -> Table {
        let name = self.builder.create_string(name);
        let start = self.builder.start_table();
        self.builder.push_slot_always(field(slot::tensor_map::TENSOR), *tensor as u32);
        self.builder.push_slot_always(field(slot::tensor_map::NAME), name);
        self.builder.end_table(start)
    }

    fn metadata(&mut self, name: &str, buffer: u32) -> Table {
        let name = self.builder.create_string(name);
        let start = self.builder.start_table();
        self.builder.push_slot_always(field(slot::metadata::BUFFER), buffer);
        self.builder.push_slot_always(field(slot::metadata::NAME), name);
        self.builder.end_table(start)
    }
}

/// Where a table's list of fields has the one of that number: behind two lengths, two bytes each.
fn field(number: u16) -> VOffsetT {
    4 + 2 * number
}

/// The longest flatbuffer: offsets within it are signed.
pub const LONGEST: u64 = TFLITE_MODEL.most;
