//! A graph as a MIL program: names, constants and types. How each op is said is in `emit.rs`.

use std::collections::BTreeMap;

use half::f16;
use snapc_ir::{Coded, DType, Def, Error, Graph, Node, Place, Result, TensorType, Weight};
use snapc_weights::Store;

use crate::MinOs;
use crate::blob::{Layout, Place as BlobPlace};
use crate::emit::emit;
use crate::encode::{self, Form};
use crate::names::Names;
use crate::schema::{
    Argument, Binding, BlobFileValue, Block, ConstantDimension, Content, DataType, Dimension, Function,
    ImmediateValue, NamedValueType, Numbers, Operation, Program, RepeatedBools, RepeatedBytes,
    RepeatedFloats, RepeatedInts, RepeatedStrings, TensorType as MilTensorType, TensorValue, Value,
    ValueType,
};

/// The function that a model runs when none is named.
pub const FUNCTION: &str = "main";

/// The weight file as a program names it; `@model_path` is the model file's folder.
const WEIGHT_FILE: &str = "@model_path/weights/weight.bin";

/// Says a graph as a program whose weights lie where `layout` says.
///
/// # Errors
/// If a weight of a few numbers, which stands in the program itself, cannot be read.
pub fn program(graph: &Graph, store: &Store, layout: &Layout, min_os: MinOs) -> Result<Program> {
    let mut emitter = Emitter::new(graph, min_os);
    for (index, value) in graph.values().iter().enumerate() {
        if let Def::Weight(id) = value.def {
            emitter.values[index] = emitter.weight(graph.weight(id), layout.place(id.index()), store)?;
        }
    }
    for node in graph.nodes() {
        emit(&mut emitter, node)?;
    }
    emitter.name_outputs();
    let inputs = graph.inputs().iter().map(|port| named(&port.name, graph.ty(port.value))).collect();
    let outputs = graph.outputs().iter().map(|port| port.name.clone()).collect();
    let block = Block { outputs, operations: emitter.operations };
    let opset = min_os.opset().to_string();
    let block_specializations = BTreeMap::from([(opset.clone(), block)]);
    let function = Function { inputs, opset, block_specializations };
    Ok(Program { version: 1, functions: BTreeMap::from([(FUNCTION.to_string(), function)]) })
}

/// A program while it is made.
pub struct Emitter<'a> {
    pub graph: &'a Graph,
    pub min_os: MinOs,
    names: Names,
    /// The name of each value of the graph; empty until it is made.
    values: Vec<String>,
    /// The output that a value is; its name is the value's. A value that is two outputs has the first one's name.
    outputs: BTreeMap<usize, &'a str>,
    operations: Vec<Operation>,
}

impl<'a> Emitter<'a> {
    fn new(graph: &'a Graph, min_os: MinOs) -> Self {
        let mut names = Names::default();
        let mut values = vec![String::new(); graph.values().len()];
        for port in graph.inputs().iter().chain(graph.outputs()) {
            names.reserve(&port.name);
        }
        for port in graph.inputs() {
            values[port.value.index()].clone_from(&port.name);
        }
        let mut outputs = BTreeMap::new();
        for port in graph.outputs() {
            outputs.entry(port.value.index()).or_insert(port.name.as_str());
        }
        Emitter { graph, min_os, names, values, outputs, operations: Vec::new() }
    }

    /// Adds a weight's constant; its name.
    fn weight(&mut self, weight: &Weight, place: Option<BlobPlace>, store: &Store) -> Result<String> {
        let name = self.names.unique(&weight.name);
        let content = match (place, weight.coded()) {
            (Some(BlobPlace::Codes { codes, tables, zeros }), Some(coded)) => {
                self.encoded(weight, &coded, &name, [Some(codes), Some(tables), zeros])?;
                return Ok(name);
            }
            (Some(BlobPlace::Numbers(offset) | BlobPlace::Codes { codes: offset, .. }), _) => in_file(offset),
            (None, _) => immediate(few_numbers(weight, store)?),
        };
        self.constant(name.clone(), tensor_type(weight.dtype, &weight.shape()), content);
        Ok(name)
    }

    /// Adds the operation that makes a weight's numbers of codes. Before iOS 18 its parameters are attributes, then literals.
    fn encoded(
        &mut self,
        weight: &Weight,
        coded: &Coded,
        name: &str,
        [codes, tables, zeros]: [Option<u64>; 3],
    ) -> Result<()> {
        let form = encode::form(coded, self.min_os)?;
        let (kind, _) = encode::code_type(coded.code, form)?;
        let floats = data_type(weight.dtype);
        let file = |offset: Option<u64>, kind: DataType, shape: &[usize]| Value {
            ty: Some(value_type(kind, shape)),
            content: offset.map(in_file),
        };
        let literal = |kind: DataType, shape: &[usize], numbers: Numbers| Value {
            ty: Some(value_type(kind, shape)),
            content: Some(immediate(numbers)),
        };
        let scales = encode::table_shape(coded, form);
        let tables = file(tables, floats, &scales);
        let (operation, parameters) = match form {
            Form::Affine { axis } => {
                let axis = literal(DataType::Int32, &[], integers(&[axis])?);
                let (data, zeros) = (file(codes, kind, &coded.shape), file(zeros, DataType::Int8, &scales));
                let all =
                    vec![("quantized_data", data), ("scale", tables), ("zero_point", zeros), ("axis", axis)];
                ("constexpr_affine_dequantize", all)
            }
            Form::Table => {
                let sizes: Vec<u8> =
                    coded.shape.iter().flat_map(|&size| (size as u32).to_le_bytes()).collect();
                let shape = literal(DataType::Uint32, &[coded.shape.len()], bytes(sizes));
                let indices = file(codes, kind, &[coded.code_bytes()]);
                ("constexpr_lut_to_dense", vec![("indices", indices), ("lut", tables), ("shape", shape)])
            }
            Form::Scales => {
                let data = file(codes, kind, &coded.shape);
                ("constexpr_blockwise_shift_scale", vec![("data", data), ("scale", tables)])
            }
            Form::Tables => {
                let indices = file(codes, kind, &coded.shape);
                ("constexpr_lut_to_dense", vec![("indices", indices), ("lut", tables)])
            }
        };
        let mut attributes = BTreeMap::from([("name".to_string(), text(name))]);
        let mut inputs = BTreeMap::new();
        for (parameter, value) in parameters {
            if self.min_os >= MinOs::Ios18 {
                let binding = Binding { name: String::new(), value: Some(value) };
                inputs.insert(parameter.to_string(), Argument { arguments: vec![binding] });
            } else {
                attributes.insert(parameter.to_string(), value);
            }
        }
        let outputs = vec![named(name, &weight.ty())];
        self.operations.push(Operation { kind: operation.to_string(), inputs, outputs, attributes });
        Ok(())
    }

    fn constant(&mut self, name: String, ty: ValueType, content: Content) {
        let value = Value { ty: Some(ty.clone()), content: Some(content) };
        let attributes = BTreeMap::from([("name".to_string(), text(&name)), ("val".to_string(), value)]);
        let outputs = vec![NamedValueType { name, ty: Some(ty) }];
        self.operations.push(Operation {
            kind: "const".to_string(),
            inputs: BTreeMap::new(),
            outputs,
            attributes,
        });
    }

    /// Starts an operation for a node, which makes its results.
    pub fn call(&mut self, node: &'a Node, kind: &str) -> Call<'_, 'a> {
        let output = match node.results[..] {
            [only] => self.outputs.get(&only.index()).copied(),
            _ => None,
        };
        let name = match output {
            Some(output) => output.to_string(),
            None => return self.inner(node, kind),
        };
        Call { emitter: self, node, kind: kind.to_string(), name, inputs: BTreeMap::new() }
    }

    /// Starts an operation on the way to a node's results.
    pub fn inner(&mut self, node: &'a Node, kind: &str) -> Call<'_, 'a> {
        let scope = if node.scope.is_empty() { String::new() } else { format!("{}.", node.scope) };
        let name = self.names.unique(&format!("{scope}{kind}"));
        Call { emitter: self, node, kind: kind.to_string(), name, inputs: BTreeMap::new() }
    }

    /// An output that no operation has by its name (it is an input, a weight, or a value that another output names)
    /// gets an `identity`.
    fn name_outputs(&mut self) {
        for port in self.graph.outputs() {
            let value = &self.values[port.value.index()];
            if *value != port.name {
                let inputs = BTreeMap::from([("x".to_string(), binding([value.clone()]))]);
                self.operations.push(Operation {
                    kind: "identity".to_string(),
                    inputs,
                    outputs: vec![named(&port.name, self.graph.ty(port.value))],
                    attributes: BTreeMap::from([("name".to_string(), text(&port.name))]),
                });
            }
        }
    }
}

/// An operation while it is made. Every parameter is written, also one that has its default: Core ML has refused
/// models that left out what is called optional.
pub struct Call<'e, 'a> {
    emitter: &'e mut Emitter<'a>,
    node: &'a Node,
    kind: String,
    name: String,
    inputs: BTreeMap<String, Argument>,
}

impl Call<'_, '_> {
    /// Binds a parameter to the node's operand of that number; where the node has none, nothing.
    pub fn operand(&mut self, parameter: &str, number: usize) -> &mut Self {
        if let Some(value) = self.node.operands.get(number) {
            let name = self.emitter.values[value.index()].clone();
            self.inputs.insert(parameter.to_string(), binding([name]));
        }
        self
    }

    /// Binds a parameter to what an operation gave.
    pub fn named(&mut self, parameter: &str, name: String) -> &mut Self {
        self.inputs.insert(parameter.to_string(), binding([name]));
        self
    }

    /// Binds a parameter to all operands in order.
    pub fn operands(&mut self, parameter: &str) -> &mut Self {
        let names = self.node.operands.iter().map(|value| self.emitter.values[value.index()].clone());
        let list = binding(names.collect::<Vec<_>>());
        self.inputs.insert(parameter.to_string(), list);
        self
    }

    fn constant(&mut self, parameter: &str, ty: DataType, shape: &[usize], numbers: Numbers) -> &mut Self {
        let name = self.emitter.names.unique(&format!("{}_{parameter}_0", self.name));
        self.inputs.insert(parameter.to_string(), binding([name.clone()]));
        self.emitter.constant(name, value_type(ty, shape), immediate(numbers));
        self
    }

    pub fn int(&mut self, parameter: &str, value: usize) -> Result<&mut Self> {
        let values = integers(&[value])?;
        Ok(self.constant(parameter, DataType::Int32, &[], values))
    }

    pub fn ints(&mut self, parameter: &str, values: &[usize]) -> Result<&mut Self> {
        let numbers = integers(values)?;
        Ok(self.constant(parameter, DataType::Int32, &[values.len()], numbers))
    }

    pub fn bool(&mut self, parameter: &str, value: bool) -> &mut Self {
        self.constant(parameter, DataType::Bool, &[], Numbers::Bools(RepeatedBools { values: vec![value] }))
    }

    pub fn bools(&mut self, parameter: &str, values: &[bool]) -> &mut Self {
        let numbers = Numbers::Bools(RepeatedBools { values: values.to_vec() });
        self.constant(parameter, DataType::Bool, &[values.len()], numbers)
    }

    pub fn text(&mut self, parameter: &str, value: &str) -> &mut Self {
        let numbers = Numbers::Strings(RepeatedStrings { values: vec![value.to_string()] });
        self.constant(parameter, DataType::String, &[], numbers)
    }

    /// A number in the field of its type: f16 goes as bytes.
    pub fn float(&mut self, parameter: &str, value: f32, dtype: DType) -> &mut Self {
        let numbers = match dtype {
            DType::F16 => bytes(f16::from_f32(value).to_le_bytes().to_vec()),
            _ => Numbers::Floats(RepeatedFloats { values: vec![value] }),
        };
        self.constant(parameter, data_type(dtype), &[], numbers)
    }

    /// Adds the operation, which gives int8 of the sizes of the node's result; the name of that.
    pub fn codes(&mut self) -> String {
        let Call { emitter, node, kind, name, inputs } = self;
        let shape = node.results.first().map(|&result| emitter.graph.ty(result).shape.clone());
        let ty = Some(value_type(DataType::Int8, &shape.unwrap_or_default()));
        let outputs = vec![NamedValueType { name: name.clone(), ty }];
        let attributes = BTreeMap::from([("name".to_string(), text(name))]);
        let (kind, inputs) = (std::mem::take(kind), std::mem::take(inputs));
        emitter.operations.push(Operation { kind, inputs, outputs, attributes });
        name.clone()
    }

    /// Adds the operation; its results are the node's.
    pub fn finish(&mut self) -> Result<()> {
        let Call { emitter, node, kind, name, inputs } = self;
        let mut outputs = Vec::new();
        for (number, result) in node.results.iter().enumerate() {
            let output = match emitter.outputs.get(&result.index()) {
                Some(output) => (*output).to_string(),
                None if node.results.len() == 1 => name.clone(),
                None => emitter.names.unique(&format!("{name}_{number}")),
            };
            emitter.values[result.index()].clone_from(&output);
            outputs.push(named(&output, emitter.graph.ty(*result)));
        }
        let attributes = BTreeMap::from([("name".to_string(), text(name))]);
        let (kind, inputs) = (std::mem::take(kind), std::mem::take(inputs));
        emitter.operations.push(Operation { kind, inputs, outputs, attributes });
        Ok(())
    }
}

/// The numbers of a weight that is too small for the weight file, in the field of their type.
fn few_numbers(weight: &Weight, store: &Store) -> Result<Numbers> {
    let mut raw = Vec::new();
    store.stream(weight, &mut |bytes| {
        raw.extend_from_slice(bytes);
        Ok(())
    })?;
    match weight.dtype {
        DType::F16 => Ok(bytes(raw)),
        DType::F32 => {
            let (numbers, _) = raw.as_chunks::<4>();
            let values = numbers.iter().map(|number| f32::from_le_bytes(*number)).collect();
            Ok(Numbers::Floats(RepeatedFloats { values }))
        }
        DType::BF16 | DType::I32 => {
            Err(Error::bug("a weight of integers reaches the program").at(Place::Tensor(weight.name.clone())))
        }
    }
}

fn bytes(values: Vec<u8>) -> Numbers {
    Numbers::Bytes(RepeatedBytes { values })
}

fn integers(values: &[usize]) -> Result<Numbers> {
    let values: Option<Vec<i32>> = values.iter().map(|&value| i32::try_from(value).ok()).collect();
    let values =
        values.ok_or_else(|| Error::limit("a size is past 2147483647, the largest that Core ML has"))?;
    Ok(Numbers::Ints(RepeatedInts { values }))
}

/// A blob of the weight file.
fn in_file(offset: u64) -> Content {
    Content::BlobFile(BlobFileValue { file_name: WEIGHT_FILE.to_string(), offset })
}

fn immediate(numbers: Numbers) -> Content {
    Content::Immediate(ImmediateValue { tensor: Some(TensorValue { numbers: Some(numbers) }) })
}

fn text(value: &str) -> Value {
    let numbers = Numbers::Strings(RepeatedStrings { values: vec![value.to_string()] });
    Value { ty: Some(value_type(DataType::String, &[])), content: Some(immediate(numbers)) }
}

fn binding(names: impl IntoIterator<Item = String>) -> Argument {
    Argument { arguments: names.into_iter().map(|name| Binding { name, value: None }).collect() }
}

fn named(name: &str, ty: &TensorType) -> NamedValueType {
    NamedValueType { name: name.to_string(), ty: Some(tensor_type(ty.dtype, &ty.shape)) }
}

fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::F32 => DataType::Float32,
        DType::F16 => DataType::Float16,
        DType::I32 => DataType::Int32,
        // The verifier has seen that no value is bf16.
        DType::BF16 => DataType::Unused,
    }
}

fn tensor_type(dtype: DType, shape: &[usize]) -> ValueType {
    value_type(data_type(dtype), shape)
}

fn value_type(data_type: DataType, shape: &[usize]) -> ValueType {
    let dimension = |&size: &usize| Dimension { constant: Some(ConstantDimension { size: size as u64 }) };
    let dimensions: Vec<Dimension> = shape.iter().map(dimension).collect();
    let (data_type, rank) = (data_type as i32, dimensions.len() as i64);
    ValueType { tensor_type: Some(MilTensorType { data_type, rank, dimensions }) }
}
