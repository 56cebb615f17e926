//! A legal graph as a model: one function a native op that is more than a name.

use std::collections::BTreeMap;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, message};
use snapc_backend::{Names, Part};
use snapc_ir::ops::{Conv2d, GeluForm, Op, Slice};
use snapc_ir::{Context, DType, Def, Error, Graph, Node, Place, Port, Result, TensorType, ValueId, Weight};
use snapc_weights::Store;

use crate::contract::{Contract, Layout};
use crate::encode::{self, Form};
use crate::layout::{Block, Placement, Run};
use crate::schema::{
    AttributeProto, Dimension, EXTERNAL, GRAPH_NODE, GraphProto, MODEL_GRAPH, ModelProto, NodeProto,
    OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto,
    ValueInfoProto, attribute_type, data_type,
};
use crate::{DATA_FILE, IR_VERSION, LAYOUT_FACT, OPSET};

/// The bytes of a part's model file, in pieces that follow each other. Reads the weights that stand in it, no others. Nodes are encoded as
/// they are made: as messages those of a large model would take more room than all else that a compile holds.
///
/// # Errors
/// If such a weight cannot be read.
pub fn model(part: &Part, placement: &Placement, layout: Layout) -> Result<[Vec<u8>; 3]> {
    let mut facts: Vec<_> = part.facts.iter().map(|(key, value)| entry(key, value.clone())).collect();
    if layout != Layout::Default {
        facts.push(entry(LAYOUT_FACT, layout.name().to_string()));
    }
    let (nodes, rest) = graph(&part.graph, part.store, placement, layout)?;
    let before = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "snapc".to_string(),
        producer_version: env!("CARGO_PKG_VERSION").to_string(),
        ..ModelProto::default()
    };
    let behind = ModelProto {
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: OPSET }],
        metadata_props: facts,
        ..ModelProto::default()
    };
    let mut before = before.encode_to_vec();
    encode_key(MODEL_GRAPH, WireType::LengthDelimited, &mut before);
    encode_varint((nodes.len() + rest.encoded_len()) as u64, &mut before);
    Ok([before, nodes, [rest.encode_to_vec(), behind.encode_to_vec()].concat()])
}

/// The bytes of a graph's nodes, and all else of it.
fn graph(
    graph: &Graph,
    store: &Store,
    placement: &Placement,
    layout: Layout,
) -> Result<(Vec<u8>, GraphProto)> {
    let mut emitter = Emitter::new(graph, layout);
    for (index, value) in graph.values().iter().enumerate() {
        if let Def::Weight(id) = value.def {
            let weight = graph.weight(id);
            let name = emitter.weight(weight, placement.block(id.index()), store);
            emitter.names[index] = name.at(|| Place::Tensor(weight.name.clone()))?;
        }
    }
    emitter.narrow_inputs()?;
    for node in graph.nodes() {
        emitter.node(node).at(|| Place::Node(node.scope.to_string()))?;
    }
    emitter.outputs();
    let info = |port: &Port| value_info(graph.ty(port.value), &port.name, emitter.contract(port));
    let input = graph.inputs().iter().map(info).collect::<Result<_>>()?;
    let output = graph.outputs().iter().map(info).collect::<Result<_>>()?;
    emitter.close();
    let initializer = emitter.initializers;
    Ok((
        emitter.nodes,
        GraphProto { node: vec![], name: graph.name().to_string(), initializer, input, output },
    ))
}

struct Emitter<'a> {
    graph: &'a Graph,
    layout: Layout,
    /// The name of each value that is made so far.
    names: Vec<String>,
    /// For each result that is an output its name there; the first one, where it is several.
    ports: BTreeMap<ValueId, &'a str>,
    value_names: Names,
    node_names: Names,
    /// Names of the constants that are attributes in the IR and operands in ONNX, by type, sizes and bytes.
    constants: BTreeMap<(i32, Vec<i64>, Vec<u8>), String>,
    initializers: Vec<TensorProto>,
    /// The nodes, encoded, but for the last one.
    nodes: Vec<u8>,
    /// The last one, which may get attributes.
    open: NodeProto,
}

impl<'a> Emitter<'a> {
    fn new(graph: &'a Graph, layout: Layout) -> Self {
        let mut emitter = Emitter {
            graph,
            layout,
            names: vec![String::new(); graph.values().len()],
            ports: BTreeMap::new(),
            value_names: Names::default(),
            node_names: Names::default(),
            constants: BTreeMap::new(),
            initializers: Vec::new(),
            nodes: Vec::new(),
            open: NodeProto::default(),
        };
        // The names of inputs and outputs are part of the contract: all others give way to them.
        for port in graph.inputs() {
            emitter.names[port.value.index()] = emitter.value_names.unique(emitter.name(port));
        }
        for port in graph.outputs() {
            let name = emitter.name(port);
            emitter.value_names.unique(name);
            if matches!(graph.value(port.value).def, Def::Result(..)) {
                emitter.ports.entry(port.value).or_insert(name);
            }
        }
        emitter
    }

    fn contract(&self, port: &Port) -> Option<&'static Contract> {
        self.layout.by_own(self.graph.name(), &port.name)
    }

    /// The name of a port in the file.
    fn name(&self, port: &'a Port) -> &'a str {
        self.contract(port).map_or(&port.name, |contract| contract.name)
    }

    /// The IR has no int64: an input that is int64 in the file is cast to what the graph takes.
    fn narrow_inputs(&mut self) -> Result<()> {
        for port in self.graph.inputs() {
            let Some(to) = self.contract(port).and_then(|contract| contract.wide) else { continue };
            let dtype = self.graph.ty(port.value).dtype;
            if dtype != to {
                return Err(Error::bug(format!("{} is {dtype}, expected {to}", port.name)));
            }
            let to = i64::from(data_type_of(to)?);
            let name = self.node_names.unique(&format!("{}/Cast", port.name));
            let result = self.value_names.unique(&name);
            let wide = std::mem::replace(&mut self.names[port.value.index()], result.clone());
            self.push(name, "Cast", vec![wide], vec![result]).attribute.push(int("to", to));
        }
        Ok(())
    }

    fn weight(&mut self, weight: &Weight, block: Option<Block>, store: &Store) -> Result<String> {
        let (ty, data_type) = (weight.ty(), data_type_of(weight.dtype)?);
        if let (Some(coded), Some(Block { numbers, scales: Some(scales), .. })) = (weight.coded(), block) {
            return self.encoded(weight, &encode::form(&coded)?, numbers, scales);
        }
        if let Some(block) = block {
            return self.external(&weight.name, data_type, &ty.shape, block.numbers);
        }
        let mut raw = Vec::with_capacity(ty.bytes());
        store.stream(weight, &mut |bytes| {
            raw.extend_from_slice(bytes);
            Ok(())
        })?;
        let (name, dims) = (self.value_names.unique(&weight.name), sizes(&ty.shape)?);
        let tensor =
            TensorProto { dims, data_type, name: name.clone(), raw_data: Some(raw), ..Default::default() };
        self.initializers.push(tensor);
        Ok(name)
    }

    /// Adds numbers that lie in the data file.
    fn external(&mut self, name: &str, data_type: i32, shape: &[usize], run: Run) -> Result<String> {
        let name = self.value_names.unique(name);
        let external_data = vec![
            entry("location", DATA_FILE.to_string()),
            entry("offset", run.offset.to_string()),
            entry("length", run.bytes.to_string()),
        ];
        self.initializers.push(TensorProto {
            dims: sizes(shape)?,
            data_type,
            name: name.clone(),
            external_data,
            data_location: Some(EXTERNAL),
            ..TensorProto::default()
        });
        Ok(name)
    }

    /// The numbers that codes and scales stand for. Scales of f32 values are cast, which ORT does as it loads: it fuses
    /// DequantizeLinear and MatMul in f32 alone.
    fn encoded(&mut self, weight: &Weight, form: &Form, codes: Run, scales: Run) -> Result<String> {
        let codes = self.external(&weight.name, form.data_type, &weight.shape(), codes)?;
        let half = format!("{}.scales", weight.name);
        let mut scales = self.external(&half, data_type::FLOAT16, &form.scales, scales)?;
        if weight.dtype != DType::F16 {
            let name = self.node_names.unique(&format!("{half}/Cast"));
            let result = self.value_names.unique(&name);
            let to = int("to", i64::from(data_type_of(weight.dtype)?));
            self.push(name, "Cast", vec![scales], vec![result.clone()]).attribute.push(to);
            scales = result;
        }
        let name = self.node_names.unique(&format!("{}/DequantizeLinear", weight.name));
        let result = self.value_names.unique(&name);
        let axis = form.axis.map(|axis| int_of("axis", axis)).transpose()?;
        let block = form.block.map(|block| int_of("block_size", block)).transpose()?;
        let node = self.push(name, "DequantizeLinear", vec![codes, scales], vec![result.clone()]);
        node.attribute.extend(axis.into_iter().chain(block));
        Ok(result)
    }

    fn constant(&mut self, text: &str, data_type: i32, dims: Vec<i64>, raw: Vec<u8>) -> String {
        let key = (data_type, dims, raw);
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = self.value_names.unique(text);
        let (_, dims, raw) = key.clone();
        let tensor =
            TensorProto { dims, data_type, name: name.clone(), raw_data: Some(raw), ..Default::default() };
        self.initializers.push(tensor);
        self.constants.insert(key, name.clone());
        name
    }

    /// A list of integers as an operand.
    fn integers(&mut self, kind: &str, values: &[usize]) -> Result<String> {
        let values = sizes(values)?;
        let text = values.iter().fold(kind.to_string(), |text, value| format!("{text}.{value}"));
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok(self.constant(&text, data_type::INT64, vec![values.len() as i64], raw))
    }

    /// A scalar as an operand.
    fn number(&mut self, value: f32) -> String {
        self.constant(&format!("number.{value}"), data_type::FLOAT, vec![], value.to_le_bytes().to_vec())
    }

    fn operand(&self, node: &Node, number: usize) -> String {
        node.operands.get(number).map(|id| self.names[id.index()].clone()).unwrap_or_default()
    }

    fn operands(&self, node: &Node) -> Vec<String> {
        (0..node.operands.len()).map(|number| self.operand(node, number)).collect()
    }

    fn node_name(&mut self, node: &Node, kind: &str) -> String {
        let separator = if node.scope.is_empty() { "" } else { "/" };
        self.node_names.unique(&format!("{}{separator}{kind}", node.scope))
    }

    /// Encodes the node that is open: it has all its attributes.
    fn close(&mut self) {
        if !self.open.op_type.is_empty() {
            message::encode(GRAPH_NODE, &self.open, &mut self.nodes);
        }
    }

    fn push(&mut self, name: String, kind: &str, input: Vec<String>, output: Vec<String>) -> &mut NodeProto {
        self.close();
        self.open = NodeProto { name, op_type: kind.to_string(), input, output, ..NodeProto::default() };
        &mut self.open
    }

    /// Adds the node that makes the results of `node`.
    fn last(&mut self, node: &Node, kind: &str, input: Vec<String>) -> &mut NodeProto {
        let name = self.node_name(node, kind);
        let mut output = Vec::with_capacity(node.results.len());
        for (number, id) in node.results.iter().enumerate() {
            let result = match self.ports.get(id) {
                Some(port) => (*port).to_string(),
                None if node.results.len() == 1 => self.value_names.unique(&name),
                None => self.value_names.unique(&format!("{name}.{number}")),
            };
            self.names[id.index()].clone_from(&result);
            output.push(result);
        }
        self.push(name, kind, input, output)
    }

    /// Adds a node of a group of which only the last one's result is seen; gives its result.
    fn inner(&mut self, node: &Node, kind: &str, input: &[&str]) -> String {
        let name = self.node_name(node, kind);
        let result = self.value_names.unique(&name);
        let input = input.iter().map(|&name| name.to_string()).collect();
        self.push(name, kind, input, vec![result.clone()]);
        result
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        if let Some(kind) = same_everywhere(&node.op) {
            let operands = self.operands(node);
            self.last(node, kind, operands);
            return Ok(());
        }
        let operands = self.operands(node);
        match &node.op {
            Op::Conv2d(op) => return self.convolution(node, op),
            Op::Linear(_) => self.last(node, "Gemm", operands).attribute.push(int("transB", 1)),
            Op::Embedding(_) => {
                let input = vec![self.operand(node, 1), self.operand(node, 0)];
                self.last(node, "Gather", input).attribute.push(int("axis", 0));
            }
            Op::RmsNorm(op) => self.rms_norm(node, op.eps)?,
            Op::LayerNorm(op) => {
                let added = self.last(node, "LayerNormalization", operands);
                added.attribute.extend([int("axis", -1), float("epsilon", op.eps), int("stash_type", 1)]);
            }
            Op::GroupNorm(op) => {
                self.last(node, "InstanceNormalization", operands).attribute.push(float("epsilon", op.eps));
            }
            Op::Gelu(op) => {
                let form = if op.form == GeluForm::Tanh { "tanh" } else { "none" };
                self.last(node, "Gelu", operands).attribute.push(string("approximate", form));
            }
            Op::Softmax(_) => self.last(node, "Softmax", operands).attribute.push(int("axis", -1)),
            Op::Split(op) => {
                let attributes = [int_of("axis", op.axis)?, int_of("num_outputs", op.parts)?];
                self.last(node, "Split", operands).attribute.extend(attributes);
            }
            Op::Concat(op) => self.last(node, "Concat", operands).attribute.push(int_of("axis", op.axis)?),
            Op::Transpose(op) => {
                self.last(node, "Transpose", operands).attribute.push(ints("perm", sizes(&op.perm)?));
            }
            Op::Cast(op) => {
                let to = int("to", i64::from(data_type_of(op.dtype)?));
                self.last(node, "Cast", operands).attribute.push(to);
            }
            Op::ReduceMean(op) => {
                let input = vec![self.operand(node, 0), self.integers("axes", &[op.axis])?];
                self.last(node, "ReduceMean", input).attribute.push(int("keepdims", 1));
            }
            Op::Reshape(op) => {
                let input = vec![self.operand(node, 0), self.integers("shape", &op.shape)?];
                self.last(node, "Reshape", input);
            }
            Op::Slice(op) => self.slice(node, op)?,
            Op::Rsqrt(_) => {
                let root = self.inner(node, "Sqrt", &[&operands[0]]);
                let input = vec![self.number(1.0), root];
                self.last(node, "Div", input);
            }
            Op::UpsampleNearest(op) => self.upsample(node, op.factor)?,
            Op::FakeQuantize(op) => self.fake_quantize(node, op.scale),
            other => return Err(Error::bug(format!("{} is not legal in ONNX", other.name()))),
        }
        Ok(())
    }

    fn convolution(&mut self, node: &Node, op: &Conv2d) -> Result<()> {
        let types = self.graph.operand_types(node);
        let groups = op.groups(types[0], types[1]);
        let attributes = [
            int_of("group", groups)?,
            ints("kernel_shape", sizes(&types[1].shape[2..])?),
            ints("pads", sizes(&[op.padding; 4])?),
            ints("strides", sizes(&[op.stride; 2])?),
        ];
        let operands = self.operands(node);
        self.last(node, "Conv", operands).attribute.extend(attributes);
        Ok(())
    }

    /// ORT makes one node of exactly this: a power and not a product, a quotient and not a reciprocal, then a weight.
    fn rms_norm(&mut self, node: &Node, eps: f32) -> Result<()> {
        let (x, weight) = (self.operand(node, 0), self.operand(node, 1));
        let last = self.graph.ty(node.operands[0]).rank().saturating_sub(1);
        let (two, axes, eps) = (self.number(2.0), self.integers("axes", &[last])?, self.number(eps));
        let square = self.inner(node, "Pow", &[&x, &two]);
        let mean = self.inner(node, "ReduceMean", &[&square, &axes]);
        self.open.attribute.push(int("keepdims", 1));
        let shifted = self.inner(node, "Add", &[&mean, &eps]);
        let root = self.inner(node, "Sqrt", &[&shifted]);
        let normed = self.inner(node, "Div", &[&x, &root]);
        self.last(node, "Mul", vec![normed, weight]);
        Ok(())
    }

    /// Codes from 0 to 255 with 128 for 0: where several products read them, ORT multiplies unsigned ones alone as they are.
    fn fake_quantize(&mut self, node: &Node, scale: f32) {
        let scale = self.number(scale);
        let zero = self.constant("zero_point", data_type::UINT8, vec![], vec![128]);
        let codes = self.inner(node, "QuantizeLinear", &[&self.operand(node, 0), &scale, &zero]);
        self.last(node, "DequantizeLinear", vec![codes, scale, zero]);
    }

    fn slice(&mut self, node: &Node, op: &Slice) -> Result<()> {
        let axes = op.cut(&self.graph.ty(node.operands[0]).shape);
        let starts: Vec<usize> = axes.iter().map(|&axis| op.starts[axis]).collect();
        let ends: Vec<usize> = axes.iter().map(|&axis| op.starts[axis] + op.sizes[axis]).collect();
        let input = vec![
            self.operand(node, 0),
            self.integers("starts", &starts)?,
            self.integers("ends", &ends)?,
            self.integers("axes", &axes)?,
        ];
        self.last(node, "Slice", input);
        Ok(())
    }

    /// Number `i` of the result is number `floor(i / factor)` of `x`.
    fn upsample(&mut self, node: &Node, factor: usize) -> Result<()> {
        // Far inside what f32 holds exactly.
        if factor > 1 << 16 {
            return Err(Error::limit(format!("{factor} is too large a factor")));
        }
        let raw = [1.0, 1.0, factor as f32, factor as f32].into_iter().flat_map(f32::to_le_bytes).collect();
        let scales = self.constant(&format!("scales.{factor}"), data_type::FLOAT, vec![4], raw);
        let input = vec![self.operand(node, 0), String::new(), scales];
        self.last(node, "Resize", input).attribute.extend([
            string("coordinate_transformation_mode", "asymmetric"),
            string("mode", "nearest"),
            string("nearest_mode", "floor"),
        ]);
        Ok(())
    }

    /// An output that is no result, or a second name of one, is copied: a value has one name.
    fn outputs(&mut self) {
        for port in self.graph.outputs() {
            let output = self.name(port);
            if self.ports.get(&port.value) != Some(&output) {
                let name = self.node_names.unique("Identity");
                let source = self.names[port.value.index()].clone();
                self.push(name, "Identity", vec![source], vec![output.to_string()]);
            }
        }
    }
}

/// The name of an op that has the same operands in ONNX and no attributes.
fn same_everywhere(op: &Op) -> Option<&'static str> {
    Some(match op {
        Op::Add(_) => "Add",
        Op::Sub(_) => "Sub",
        Op::Mul(_) => "Mul",
        Op::Matmul(_) => "MatMul",
        Op::Tanh(_) => "Tanh",
        Op::Sigmoid(_) => "Sigmoid",
        Op::Relu(_) => "Relu",
        Op::Sin(_) => "Sin",
        Op::Cos(_) => "Cos",
        _ => return None,
    })
}

/// A port: of the name and the type that it has in the file.
fn value_info(ty: &TensorType, own: &str, contract: Option<&Contract>) -> Result<ValueInfoProto> {
    let (name, wide) = contract.map_or((own, None), |contract| (contract.name, contract.wide));
    let elem_type = if wide.is_some() { data_type::INT64 } else { data_type_of(ty.dtype)? };
    let dim = sizes(&ty.shape)?.into_iter().map(|size| Dimension { dim_value: Some(size) }).collect();
    let tensor = TensorTypeProto { elem_type, shape: Some(TensorShapeProto { dim }) };
    Ok(ValueInfoProto { name: name.to_string(), ty: Some(TypeProto { tensor_type: Some(tensor) }) })
}

fn data_type_of(dtype: DType) -> Result<i32> {
    match dtype {
        DType::F32 => Ok(data_type::FLOAT),
        DType::F16 => Ok(data_type::FLOAT16),
        DType::I32 => Ok(data_type::INT32),
        DType::BF16 => Err(Error::bug("a value of type bf16")),
    }
}

fn size(value: usize) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::limit(format!("{value} is too large a number")))
}

fn sizes(values: &[usize]) -> Result<Vec<i64>> {
    values.iter().map(|&value| size(value)).collect()
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto { key: key.to_string(), value }
}

fn attribute(name: &str, kind: i32) -> AttributeProto {
    AttributeProto { name: name.to_string(), kind, ..AttributeProto::default() }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, attribute_type::INT) }
}

fn int_of(name: &str, value: usize) -> Result<AttributeProto> {
    Ok(int(name, size(value)?))
}

fn ints(name: &str, values: Vec<i64>) -> AttributeProto {
    AttributeProto { ints: values, ..attribute(name, attribute_type::INTS) }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, attribute_type::FLOAT) }
}

fn string(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.as_bytes().to_vec()), ..attribute(name, attribute_type::STRING) }
}
