//! A legal graph as a model: one function a native op that is more than a name.

use std::collections::BTreeMap;

use smallvec::smallvec;
use snapc_backend::Names;
use snapc_ir::ops::{Cast, Conv2d, GeluForm, Op, Slice, Split};
use snapc_ir::{Coded, Context, DType, Def, Error, Graph, Node, Place, Result, TensorType, ValueId, Weight};
use snapc_weights::Store;

use crate::blocks::{Blocks, Scales};
use crate::encode::{self, Form};
use crate::file::Signature;
use crate::maps::needs_pad;
use crate::pack::{Buffer, Field, Ints, Model, Operator, Options, Quantization, Subgraph, Tensor};
use crate::products::Products;
use crate::schema::{
    self, ABSENT, BUFFER_LOCATION, Builtin, MIN_RUNTIME, OUTSIDE_RUNTIME, padding, slot, tensor_type,
};

/// The model of a file. Reads the weights that stand in the flatbuffer, no others.
///
/// # Errors
/// If such a weight cannot be read.
pub fn model(signatures: &[Signature], facts: &[(String, String)], blocks: &Blocks) -> Result<Model> {
    let mut buffers = Buffers::new(blocks.all().len());
    let mut subgraphs = Vec::new();
    for (number, signature) in signatures.iter().enumerate() {
        let of_weight = |weight| blocks.of_weight(number, weight);
        subgraphs.push(subgraph(signature, &of_weight, &mut buffers)?);
        buffers.end_graph();
    }
    let description = format!("snapc {}", env!("CARGO_PKG_VERSION"));
    let mut model = Model { description, subgraphs, buffers: buffers.all, metadata: Vec::new() };
    metadata(&mut model, facts, !blocks.all().is_empty());
    Ok(model)
}

fn subgraph(
    signature: &Signature,
    block: &dyn Fn(usize) -> Option<usize>,
    buffers: &mut Buffers,
) -> Result<Subgraph> {
    let graph: &Graph = &signature.graph;
    let mut emitter = Emitter::new(&signature.key, graph, buffers)?;
    for (index, value) in graph.values().iter().enumerate() {
        if let Def::Weight(id) = value.def {
            let weight = graph.weight(id);
            let place = || Place::Tensor(weight.name.clone());
            let mut tensor = emitter.weight(weight, block(id.index()), signature.store).at(place)?;
            if weight.coded().is_some() {
                emitter.rounded.insert(graph.weight_value(id), tensor);
            }
            if let Some(coded) = weight.coded()
                && emitter.products.reads_numbers(index)
            {
                tensor = emitter.dequantized(weight, encode::form(&coded)?, tensor).at(place)?;
            }
            emitter.tensors[index] = Some(tensor);
        }
    }
    for (number, node) in graph.nodes().iter().enumerate() {
        emitter.node(number, node).at(|| Place::Node(node.scope.to_string()))?;
    }
    emitter.outputs()?;
    Ok(emitter.subgraph)
}

/// The buffers of a file: the one of all tensors that have no numbers of their own, the blocks in their order, then what stands in
/// the flatbuffer.
struct Buffers {
    all: Vec<Buffer>,
    /// What the graphs before this one have in the flatbuffer: this one shares it.
    earlier: BTreeMap<Vec<u8>, u32>,
    /// The first buffer of this graph.
    start: usize,
}

impl Buffers {
    fn new(blocks: usize) -> Self {
        let all: Vec<Buffer> = std::iter::once(Buffer::Empty).chain((0..blocks).map(Buffer::Block)).collect();
        Buffers { start: all.len(), all, earlier: BTreeMap::new() }
    }

    fn inline(&mut self, bytes: Vec<u8>) -> u32 {
        self.earlier.get(&bytes).copied().unwrap_or_else(|| push_inline(&mut self.all, bytes))
    }

    fn end_graph(&mut self) {
        for (number, buffer) in self.all.iter().enumerate().skip(self.start) {
            if let Buffer::Inline(bytes) = buffer {
                self.earlier.entry(bytes.clone()).or_insert(number as u32);
            }
        }
        self.start = self.all.len();
    }
}

fn push_inline(buffers: &mut Vec<Buffer>, bytes: Vec<u8>) -> u32 {
    buffers.push(Buffer::Inline(bytes));
    buffers.len() as u32 - 1
}

struct Emitter<'a> {
    graph: &'a Graph,
    buffers: &'a mut Buffers,
    products: Products,
    /// The tensor of each value that is made so far.
    tensors: Vec<Option<i32>>,
    /// The tensors of the codes of values that are rounded.
    rounded: BTreeMap<ValueId, i32>,
    names: Names,
    /// Tensors of the integers that are attributes in the IR and operands in TFLite, by sizes and values.
    constants: BTreeMap<(Vec<usize>, Vec<i32>), i32>,
    subgraph: Subgraph,
}

impl<'a> Emitter<'a> {
    fn new(key: &str, graph: &'a Graph, buffers: &'a mut Buffers) -> Result<Self> {
        // Lists that double as they grow would hold both; an eighth is room for constants and for what a node takes more than one of.
        let room = |count: usize| count + count / 8;
        let subgraph = Subgraph {
            key: key.to_string(),
            name: graph.name().to_string(),
            tensors: Vec::with_capacity(room(graph.values().len())),
            operators: Vec::with_capacity(room(graph.nodes().len())),
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        let mut emitter = Emitter {
            graph,
            buffers,
            products: Products::new(graph),
            tensors: vec![None; graph.values().len()],
            rounded: BTreeMap::new(),
            names: Names::default(),
            constants: BTreeMap::new(),
            subgraph,
        };
        for port in graph.inputs() {
            let tensor = emitter.tensor(&port.name, graph.ty(port.value), 0)?;
            emitter.tensors[port.value.index()] = Some(tensor);
            emitter.subgraph.inputs.push((port.name.clone(), tensor));
        }
        Ok(emitter)
    }

    /// Adds a tensor; gives its number.
    fn tensor(&mut self, name: &str, ty: &TensorType, buffer: u32) -> Result<i32> {
        let (kind, shape) = (tensor_type_of(ty.dtype)?, sizes(&ty.shape)?);
        let name = self.names.unique(name);
        self.subgraph.tensors.push(Tensor { name, kind, shape, buffer, quantization: None });
        size(self.subgraph.tensors.len() - 1)
    }

    /// Adds codes and what they stand for. The scales of blocks are the buffer behind that of the codes.
    fn codes(&mut self, weight: &Weight, coded: &Coded, buffer: u32) -> Result<i32> {
        let form = encode::form(coded)?;
        let (kind, quantization) = match form {
            Form::Channels { bits } => {
                let kind = if bits == 8 { tensor_type::INT8 } else { tensor_type::INT4 };
                (kind, Quantization::Channels(vec![1.0; coded.table_count()]))
            }
            Form::Blocks { size: block } => {
                let ty = TensorType::new(DType::F16, coded.blocks.clone());
                let scales = self.tensor(&format!("{}.scales", weight.name), &ty, buffer + 1)?;
                (tensor_type::INT4, Quantization::Blocks { scales, size: size(block)? })
            }
        };
        self.quantized(&weight.name, kind, &coded.shape, buffer, quantization)
    }

    /// Adds a tensor of codes.
    fn quantized(
        &mut self,
        name: &str,
        kind: i8,
        shape: &[usize],
        buffer: u32,
        quantization: Quantization,
    ) -> Result<i32> {
        let (name, shape) = (self.names.unique(name), sizes(shape)?);
        let quantization = Some(quantization);
        self.subgraph.tensors.push(Tensor { name, kind, shape, buffer, quantization });
        size(self.subgraph.tensors.len() - 1)
    }

    /// Adds the codes of a value, with one scale for all of it.
    fn activations(&mut self, node: &Node, scale: f32) -> Result<i32> {
        let shape = &self.graph.ty(node.results[0]).shape;
        let one = Quantization::Channels(vec![scale]);
        self.quantized(&Self::name(node, "codes"), tensor_type::INT8, shape, 0, one)
    }

    /// Adds what is added to products of codes. The lengths of steps in a block are known once that is written.
    fn steps(&mut self, weight: &Weight, block: Option<usize>, store: &Store) -> Result<i32> {
        let shape = weight.shape();
        let (buffer, lengths) = match block {
            Some(block) => (block as u32 + 1, vec![1.0; weight.ty().count()]),
            None => {
                let (steps, lengths) = store.steps(weight)?;
                let bytes = steps.iter().flat_map(|step| step.to_le_bytes()).collect();
                (self.buffers.inline(bytes), lengths)
            }
        };
        self.quantized(&weight.name, tensor_type::INT32, &shape, buffer, Quantization::Channels(lengths))
    }

    /// The numbers of codes, for an operator that takes none: XNNPACK unpacks them as it loads.
    fn dequantized(&mut self, weight: &Weight, form: Form, codes: i32) -> Result<i32> {
        let builtin = form.dequantize().ok_or_else(|| Error::bug("codes that nothing unpacks"))?;
        let tensor = self.tensor(&format!("{}/dequantize", weight.name), &weight.ty(), 0)?;
        let (inputs, outputs) = (smallvec![codes], smallvec![tensor]);
        self.subgraph.operators.push(Operator { builtin, inputs, outputs, options: Vec::new() });
        Ok(tensor)
    }

    fn weight(&mut self, weight: &Weight, block: Option<usize>, store: &Store) -> Result<i32> {
        if weight.stepped().is_some() {
            return self.steps(weight, block, store);
        }
        let buffer = match (block, weight.coded()) {
            (Some(block), Some(coded)) => return self.codes(weight, &coded, block as u32 + 1),
            (Some(block), None) => block as u32 + 1,
            (None, _) => {
                let mut raw = Vec::with_capacity(weight.ty().bytes());
                store.stream(weight, &mut |bytes| {
                    raw.extend_from_slice(bytes);
                    Ok(())
                })?;
                self.buffers.inline(raw)
            }
        };
        self.tensor(&weight.name, &weight.ty(), buffer)
    }

    /// A list of integers as an operand: `shape` are the sizes of the list itself.
    fn integers(&mut self, kind: &str, shape: &[usize], values: &[usize]) -> Result<i32> {
        let values: Vec<i32> = sizes(values)?;
        let key = (shape.to_vec(), values);
        if let Some(&tensor) = self.constants.get(&key) {
            return Ok(tensor);
        }
        let bytes = key.1.iter().flat_map(|value| value.to_le_bytes()).collect();
        let buffer = self.buffers.inline(bytes);
        let name = key.1.iter().fold(kind.to_string(), |name, value| format!("{name}.{value}"));
        let tensor = self.tensor(&name, &TensorType::new(DType::I32, shape), buffer)?;
        self.constants.insert(key, tensor);
        Ok(tensor)
    }

    fn vector(&mut self, kind: &str, values: &[usize]) -> Result<i32> {
        self.integers(kind, &[values.len()], values)
    }

    fn operand(&self, node: &Node, number: usize) -> Result<i32> {
        let value = node.operands.get(number).and_then(|id| self.tensors[id.index()]);
        value.ok_or_else(|| Error::bug("an operand is not made before its node"))
    }

    fn operands(&self, node: &Node) -> Result<Ints> {
        (0..node.operands.len()).map(|number| self.operand(node, number)).collect()
    }

    /// The name of what a node makes: its path carries the node's through the file, since operators have no names.
    fn name(node: &Node, what: &str) -> String {
        let separator = if node.scope.is_empty() { "" } else { "/" };
        format!("{}{separator}{what}", node.scope)
    }

    /// Adds the operator that makes the results of `node`.
    fn last(&mut self, node: &Node, builtin: &'static Builtin, inputs: Ints, options: Options) -> Result<()> {
        let mut outputs = Ints::new();
        for id in &node.results {
            let tensor = self.tensor(&Self::name(node, node.op.name()), self.graph.ty(*id), 0)?;
            self.tensors[id.index()] = Some(tensor);
            outputs.push(tensor);
        }
        self.subgraph.operators.push(Operator { builtin, inputs, outputs, options });
        Ok(())
    }

    fn node(&mut self, number: usize, node: &Node) -> Result<()> {
        if let Some(scale) = self.products.result(number) {
            return self.product(node, scale);
        }
        if let Op::FakeQuantize(op) = &node.op {
            return self.fake_quantize(node, op.scale);
        }
        let inputs = self.operands(node)?;
        if let Some(builtin) = same_operands(&node.op) {
            return self.last(node, builtin, inputs, Vec::new());
        }
        match &node.op {
            Op::Linear(_) => {
                let bias = inputs.get(2).copied().unwrap_or(ABSENT);
                let options = vec![(slot::fully_connected::KEEP_NUM_DIMS, Field::Bool(true))];
                let coded = self.graph.as_weight(node.operands[1]).and_then(Weight::coded);
                let form = coded.map(|coded| encode::form(&coded)).transpose()?;
                let builtin = match form {
                    Some(form) if !self.products.reads_numbers(node.operands[1].index()) => {
                        form.fully_connected()
                    }
                    _ => schema::FULLY_CONNECTED,
                };
                self.last(node, builtin, smallvec![inputs[0], inputs[1], bias], options)
            }
            Op::Matmul(op) => {
                let options = vec![(slot::batch_matmul::ADJ_Y, Field::Bool(op.transpose_b))];
                self.last(node, schema::BATCH_MATMUL, inputs, options)
            }
            Op::Conv2d(op) => self.convolution(node, op, inputs),
            Op::Gelu(op) => {
                let tanh = op.form == GeluForm::Tanh;
                let options = vec![(slot::gelu::APPROXIMATE, Field::Bool(tanh))];
                self.last(node, schema::GELU, inputs, options)
            }
            Op::Softmax(_) => {
                self.last(node, schema::SOFTMAX, inputs, vec![(slot::softmax::BETA, Field::Float(1.0))])
            }
            Op::Split(op) => self.split(node, op, inputs[0]),
            Op::Concat(op) => {
                let options = vec![(slot::concatenation::AXIS, Field::Int(size(op.axis)?))];
                self.last(node, schema::CONCATENATION, inputs, options)
            }
            Op::ReduceMean(op) => {
                let axes = self.vector("axes", &[op.axis])?;
                let options = vec![(slot::reducer::KEEP_DIMS, Field::Bool(true))];
                self.last(node, schema::MEAN, smallvec![inputs[0], axes], options)
            }
            Op::Transpose(op) => {
                let perm = self.vector("perm", &op.perm)?;
                self.last(node, schema::TRANSPOSE, smallvec![inputs[0], perm], Vec::new())
            }
            Op::Reshape(op) => {
                let (inputs, options) = self.reshape(inputs[0], &op.shape)?;
                self.last(node, schema::RESHAPE, inputs, options)
            }
            Op::Slice(op) => self.slice(node, op, inputs[0]),
            Op::Cast(op) => self.cast(node, op, inputs),
            other => Err(Error::bug(format!("{} is not legal in TFLite", other.name()))),
        }
    }

    /// A layer of codes: its result is one of codes too, which the node behind it makes numbers of.
    fn product(&mut self, node: &Node, scale: f32) -> Result<()> {
        let codes = self.rounded.get(&node.operands[0]).copied();
        let x = codes.ok_or_else(|| Error::bug("a product of codes without any"))?;
        let bias = if node.operands.len() > 2 { self.operand(node, 2)? } else { ABSENT };
        let weight = self.rounded.get(&node.operands[1]).copied();
        let weight = weight.ok_or_else(|| Error::bug("a product of codes with numbers"))?;
        let inputs = smallvec![x, weight, bias];
        let result = self.activations(node, scale)?;
        self.rounded.insert(node.results[0], result);
        let (builtin, options) = match &node.op {
            Op::Conv2d(op) => {
                let word = if op.padding > 0 { padding::SAME } else { padding::VALID };
                (schema::CONV_2D_INT8, convolution_options(op, word)?)
            }
            _ => (
                schema::FULLY_CONNECTED_INT8,
                vec![(slot::fully_connected::KEEP_NUM_DIMS, Field::Bool(true))],
            ),
        };
        self.subgraph.operators.push(Operator { builtin, inputs, outputs: smallvec![result], options });
        Ok(())
    }

    /// Codes, and numbers where something reads these. What a product gives are codes already.
    fn fake_quantize(&mut self, node: &Node, scale: f32) -> Result<()> {
        let made = self.rounded.get(&node.operands[0]).copied();
        let codes = match made.filter(|_| self.tensors[node.operands[0].index()].is_none()) {
            Some(codes) => codes,
            None => {
                let x = self.operand(node, 0)?;
                let codes = self.activations(node, scale)?;
                let (inputs, outputs) = (smallvec![x], smallvec![codes]);
                self.subgraph.operators.push(Operator {
                    builtin: schema::QUANTIZE,
                    inputs,
                    outputs,
                    options: Vec::new(),
                });
                codes
            }
        };
        self.rounded.insert(node.results[0], codes);
        if self.products.reads_numbers(node.results[0].index()) {
            self.last(node, schema::DEQUANTIZE_RESULT, smallvec![codes], Vec::new())?;
        }
        Ok(())
    }

    /// Padding is said by a word where TFLite's `SAME` is it, by an operator of its own else.
    fn convolution(&mut self, node: &Node, op: &Conv2d, mut inputs: Ints) -> Result<()> {
        let types = self.graph.operand_types(node);
        let (x, weight) = (types[0].clone(), types[1].clone());
        let grouped = op.groups(&x, &weight) != 1;
        let builtin = if grouped { schema::CONV_2D_GROUPED } else { schema::CONV_2D };
        let pad = needs_pad(op, &weight);
        let word = if op.padding > 0 && !pad { padding::SAME } else { padding::VALID };
        if pad {
            let (p, mut shape) = (op.padding, x.shape.clone());
            let sides = self.integers("sides", &[4, 2], &[0, 0, p, p, p, p, 0, 0])?;
            shape[1] += 2 * p;
            shape[2] += 2 * p;
            let padded = self.tensor(&Self::name(node, "pad"), &x.with_shape(shape), 0)?;
            let operands = smallvec![inputs[0], sides];
            let options = Vec::new();
            self.subgraph.operators.push(Operator {
                builtin: schema::PAD,
                inputs: operands,
                outputs: smallvec![padded],
                options,
            });
            inputs[0] = padded;
        }
        self.last(node, builtin, inputs, convolution_options(op, word)?)
    }

    fn split(&mut self, node: &Node, op: &Split, x: i32) -> Result<()> {
        let axis = self.integers("axis", &[], &[op.axis])?;
        let options = vec![(slot::split::NUM_SPLITS, Field::Int(size(op.parts)?))];
        self.last(node, schema::SPLIT, smallvec![axis, x], options)
    }

    /// The sizes stand in an operand and in the options: runtimes and converters read either.
    fn reshape(&mut self, x: i32, shape: &[usize]) -> Result<(Ints, Options)> {
        let options = vec![(slot::reshape::NEW_SHAPE, Field::Ints(sizes(shape)?))];
        Ok((smallvec![x, self.vector("shape", shape)?], options))
    }

    fn slice(&mut self, node: &Node, op: &Slice, x: i32) -> Result<()> {
        let inputs = smallvec![x, self.vector("begin", &op.starts)?, self.vector("size", &op.sizes)?];
        self.last(node, schema::SLICE, inputs, Vec::new())
    }

    /// A weight stored as f16 is dequantized: XNNPACK unpacks it as it loads. It takes no CAST.
    fn cast(&mut self, node: &Node, op: &Cast, inputs: Ints) -> Result<()> {
        let from = self.graph.ty(node.operands[0]).dtype;
        if self.graph.as_weight(node.operands[0]).is_some() && (from, op.dtype) == (DType::F16, DType::F32) {
            return self.last(node, schema::DEQUANTIZE, inputs, Vec::new());
        }
        let options = vec![
            (slot::cast::IN_DATA_TYPE, Field::Byte(tensor_type_of(from)?)),
            (slot::cast::OUT_DATA_TYPE, Field::Byte(tensor_type_of(op.dtype)?)),
        ];
        self.last(node, schema::CAST, inputs, options)
    }

    /// An output that is no result, or a second name of one, is copied: a tensor is one output.
    fn outputs(&mut self) -> Result<()> {
        let mut taken: Vec<ValueId> = Vec::new();
        for port in self.graph.outputs() {
            let made = self.tensors[port.value.index()];
            let mut tensor = made.ok_or_else(|| Error::bug("an output is not made"))?;
            let is_result = matches!(self.graph.value(port.value).def, Def::Result(..));
            if !is_result || taken.contains(&port.value) {
                let ty = self.graph.ty(port.value);
                let (inputs, options) = self.reshape(tensor, &ty.shape)?;
                tensor = self.tensor(&port.name, ty, 0)?;
                let outputs = smallvec![tensor];
                self.subgraph.operators.push(Operator { builtin: schema::RESHAPE, inputs, outputs, options });
            }
            taken.push(port.value);
            self.subgraph.outputs.push((port.name.clone(), tensor));
        }
        Ok(())
    }
}

fn convolution_options(op: &Conv2d, word: i8) -> Result<Options> {
    let stride = Field::Int(size(op.stride)?);
    Ok(vec![
        (slot::conv::PADDING, Field::Byte(word)),
        (slot::conv::STRIDE_W, stride.clone()),
        (slot::conv::STRIDE_H, stride),
    ])
}

/// Gives each tensor of codes the scales of its block.
pub fn set_scales(model: &mut Model, scales: &Scales) {
    let buffers = &model.buffers;
    for tensor in model.subgraphs.iter_mut().flat_map(|subgraph| &mut subgraph.tensors) {
        let (Some(Quantization::Channels(own)), Some(Buffer::Block(block))) =
            (&mut tensor.quantization, buffers.get(tensor.buffer as usize))
        else {
            continue;
        };
        if let Some(scales) = scales.get(block) {
            own.clone_from(scales);
        }
    }
}

fn metadata(model: &mut Model, facts: &[(String, String)], outside: bool) {
    let operators = model.subgraphs.iter().flat_map(|subgraph| &subgraph.operators);
    let versions = operators.map(|operator| operator.builtin.runtime);
    let [major, minor] = versions.chain(outside.then_some(OUTSIDE_RUNTIME)).max().unwrap_or_default();
    let mut runtime = format!("{major}.{minor}.0").into_bytes();
    runtime.resize(16, 0);
    let mut entries = vec![(MIN_RUNTIME.to_string(), runtime)];
    if outside {
        let (key, value) = BUFFER_LOCATION;
        entries.push((key.to_string(), value.as_bytes().to_vec()));
    }
    entries.extend(facts.iter().map(|(key, value)| (key.clone(), value.as_bytes().to_vec())));
    for (key, value) in entries {
        let buffer = push_inline(&mut model.buffers, value);
        model.metadata.push((key, buffer));
    }
}

/// The operator that has the operands of the op and no option that differs from its default.
fn same_operands(op: &Op) -> Option<&'static Builtin> {
    Some(match op {
        Op::Add(_) => schema::ADD,
        Op::Sub(_) => schema::SUB,
        Op::Mul(_) => schema::MUL,
        Op::Embedding(_) => schema::EMBEDDING_LOOKUP,
        Op::Rsqrt(_) => schema::RSQRT,
        Op::Tanh(_) => schema::TANH,
        Op::Sigmoid(_) => schema::LOGISTIC,
        Op::Relu(_) => schema::RELU,
        Op::Sin(_) => schema::SIN,
        Op::Cos(_) => schema::COS,
        _ => return None,
    })
}

fn tensor_type_of(dtype: DType) -> Result<i8> {
    match dtype {
        DType::F32 => Ok(tensor_type::FLOAT32),
        DType::F16 => Ok(tensor_type::FLOAT16),
        DType::I32 => Ok(tensor_type::INT32),
        DType::BF16 => Err(Error::bug("a value of type bf16")),
    }
}

fn size(value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| Error::limit(format!("{value} is too large a number")))
}

fn sizes<C: FromIterator<i32>>(values: &[usize]) -> Result<C> {
    values.iter().map(|&value| size(value)).collect()
}
