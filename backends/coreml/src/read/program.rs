//! A function's block as a graph (`MIL.proto`: `Function`, `Block`, `Operation`).

use std::collections::{BTreeMap, BTreeSet};

use coreml_proto::proto::mil_spec::argument::binding;
use coreml_proto::proto::mil_spec::{Argument, DataType, Function, NamedValueType, Operation};
use snapc_ir::{Builder, Dim, Error, Place, Result, Stage, TensorType, ValueId, Weight};
use snapc_weights::Region;

use super::blobs::Blobs;
use super::constants::{Constant, MOST_AXES, Numbers, element_type, shaped, tensor_type};
use super::constexpr::{self, Encoded};
use super::{Made, Reading, ops};

/// The most operations and inputs that a function may have: a bound on the work of reading one.
const MOST_OPERATIONS: usize = 1 << 20;

/// Reads a function. `specification` decides which parameters an operation has.
pub fn read(name: &str, specification: i32, function: &Function, blobs: &Blobs) -> Result<Made> {
    let mut reader = Reader {
        specification,
        builder: Builder::new(name, Stage::Legal("coreml".to_string())),
        values: BTreeMap::new(),
        constants: BTreeMap::new(),
        codes: BTreeMap::new(),
        codes_taken: BTreeSet::new(),
        regions: Vec::new(),
        blobs_used: BTreeSet::new(),
    };
    let outputs = reader.function(function, blobs)?;
    let unused = reader.constants.iter().find(|(_, constant)| !constant.used);
    if let Some((name, _)) = unused {
        return Err(Error::input(format!("no operation uses the constant {name}")));
    }
    if let Some(name) = reader.codes.keys().next() {
        return Err(Error::input(format!("no operation dequantizes {name}")));
    }
    for (name, value) in outputs {
        reader.builder.output(name, value);
    }
    Ok(Made { graph: reader.builder.finish()?, regions: reader.regions, blobs_used: reader.blobs_used })
}

struct Known {
    constant: Constant,
    used: bool,
}

/// What was quantized, and by which scale.
pub struct Codes {
    pub x: ValueId,
    pub scale: f32,
}

/// What is known of a block so far.
pub struct Reader {
    pub specification: i32,
    builder: Builder,
    /// Inputs, results, and constants that were used as tensors.
    values: BTreeMap<String, ValueId>,
    constants: BTreeMap<String, Known>,
    /// Results of quantize, for a dequantize.
    codes: BTreeMap<String, Codes>,
    codes_taken: BTreeSet<String>,
    regions: Vec<Region>,
    blobs_used: BTreeSet<u64>,
}

impl Reader {
    fn function(&mut self, function: &Function, blobs: &Blobs) -> Result<Vec<(String, ValueId)>> {
        let only = function.block_specializations.get(&function.opset);
        let block = only
            .filter(|block| {
                function.block_specializations.len() == 1
                    && function.attributes.is_empty()
                    && block.attributes.is_empty()
                    && block.inputs.is_empty()
            })
            .ok_or_else(|| {
                Error::input("its function has other blocks than one of its opset, or attributes")
            })?;
        if block.operations.len() > MOST_OPERATIONS || function.inputs.len() > MOST_OPERATIONS {
            return Err(Error::input(format!("its function has more than {MOST_OPERATIONS} operations")));
        }
        for input in &function.inputs {
            self.input(input).map_err(|reason| Error::input(reason).at(Place::Tensor(input.name.clone())))?;
        }
        for operation in &block.operations {
            self.operation(operation, blobs).map_err(|reason| {
                let name = operation.outputs.first().map_or("(no output)", |output| output.name.as_str());
                Error::input(format!("{}: {reason}", operation.r#type)).at(Place::Node(name.to_string()))
            })?;
        }
        let output = |name: &String| match self.values.get(name) {
            Some(&value) => Ok((name.clone(), value)),
            None => Err(Error::input(format!("its output {name} is made by no operation"))),
        };
        block.outputs.iter().map(output).collect()
    }

    fn input(&mut self, input: &NamedValueType) -> Reading<()> {
        let ty = tensor_type(input.r#type.as_ref())?;
        let value = self.builder.input(input.name.clone(), ty);
        self.define(&input.name, value)
    }

    fn define(&mut self, name: &str, value: ValueId) -> Reading<()> {
        self.check_new(name)?;
        self.values.insert(name.to_string(), value);
        Ok(())
    }

    /// Names are identifiers and unique in a function.
    fn check_new(&self, name: &str) -> Reading<()> {
        let first = |c: char| c.is_ascii_alphabetic() || c == '_';
        if !name.starts_with(first) || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(format!("`{name}` is no identifier"));
        }
        let codes = self.codes.contains_key(name) || self.codes_taken.contains(name);
        if self.values.contains_key(name) || self.constants.contains_key(name) || codes {
            return Err(format!("{name} is made twice"));
        }
        Ok(())
    }

    fn operation(&mut self, operation: &Operation, blobs: &Blobs) -> Reading<()> {
        if !operation.blocks.is_empty() {
            return Err("it has blocks".to_string());
        }
        if let Some(encoded) = constexpr::read(operation, self.specification, blobs)? {
            return self.encoded(operation, encoded, blobs);
        }
        let is_constant = operation.r#type == "const";
        let mut attributes: Vec<&str> = operation.attributes.keys().map(String::as_str).collect();
        attributes.sort_unstable();
        if attributes != if is_constant { vec!["name", "val"] } else { vec!["name"] } {
            return Err(format!("its attributes are [{}]", attributes.join(", ")));
        }
        let name = match Constant::read(&operation.attributes["name"], blobs)?.numbers {
            Numbers::Text(name) => name,
            _ => return Err("its name is no text".to_string()),
        };
        if is_constant {
            return self.constant(operation, blobs);
        }
        self.builder.set_scope(name);
        if operation.r#type == "quantize" {
            return self.quantize(operation);
        }
        let results = ops::read(self, operation)?;
        if results.len() != operation.outputs.len() {
            return Err(format!("it has {} outputs, expected {}", operation.outputs.len(), results.len()));
        }
        for (output, value) in operation.outputs.iter().zip(results) {
            let (declared, made) = (tensor_type(output.r#type.as_ref())?, self.builder.ty(value));
            if declared != *made {
                return Err(format!("{} is declared as {declared}, it is {made}", output.name));
            }
            self.define(&output.name, value)?;
        }
        Ok(())
    }

    /// Codes of a value, which a graph has not: they are held until they are dequantized.
    fn quantize(&mut self, operation: &Operation) -> Reading<()> {
        let codes = ops::quantize(self, operation)?;
        let [output] = &operation.outputs[..] else { return Err("it has not one output".to_string()) };
        let declared = shaped(output.r#type.as_ref(), MOST_AXES)?;
        let expected = (DataType::Int8, self.ty(codes.x).shape.clone());
        if declared != expected {
            return Err(format!("{} is declared as {declared:?}, it is {expected:?}", output.name));
        }
        self.check_new(&output.name)?;
        self.codes.insert(output.name.clone(), codes);
        Ok(())
    }

    /// The codes of that name, which nothing else takes.
    pub fn take_codes(&mut self, name: &str) -> Reading<Codes> {
        let codes = self.codes.remove(name).ok_or_else(|| format!("{name} is not quantized before"))?;
        self.codes_taken.insert(name.to_string());
        Ok(codes)
    }

    /// A weight that is stored as codes.
    fn encoded(&mut self, operation: &Operation, encoded: Encoded, blobs: &Blobs) -> Reading<()> {
        let ([output], Some(name)) = (&operation.outputs[..], operation.attributes.get("name")) else {
            return Err("it has no name, or not one output".to_string());
        };
        if !matches!(Constant::read(name, blobs)?.numbers, Numbers::Text(_)) {
            return Err("its name is no text".to_string());
        }
        let (declared, made) = (tensor_type(output.r#type.as_ref())?, encoded.ty());
        if declared != made {
            return Err(format!("{} is declared as {declared}, it is {made}", output.name));
        }
        self.blobs_used.extend(&encoded.blobs_used);
        let dims = made.shape.iter().copied().map(Dim::fixed).collect();
        let weight = Weight { dtype: made.dtype, ..Weight::tensor(&output.name, made.dtype, dims) };
        let value = self.builder.weight(weight).map_err(|error| error.to_string())?;
        self.regions.push(Region { name: output.name.clone(), ..encoded.region });
        self.define(&output.name, value)
    }

    fn constant(&mut self, operation: &Operation, blobs: &Blobs) -> Reading<()> {
        let ([output], true) = (&operation.outputs[..], operation.inputs.is_empty()) else {
            return Err("it has inputs, or not one output".to_string());
        };
        let value = &operation.attributes["val"];
        if value.r#type != output.r#type {
            return Err("its value is of another type than its output".to_string());
        }
        self.check_new(&output.name)?;
        let constant = Constant::read(value, blobs)?;
        if let Numbers::Blob { metadata, .. } = constant.numbers {
            self.blobs_used.insert(metadata);
        }
        self.constants.insert(output.name.clone(), Known { constant, used: false });
        Ok(())
    }

    /// The value of that name; a constant becomes a weight.
    pub fn value(&mut self, name: &str) -> Reading<ValueId> {
        if let Some(&value) = self.values.get(name) {
            return Ok(value);
        }
        let known = self.constants.get_mut(name).ok_or_else(|| format!("{name} is not made before"))?;
        known.used = true;
        let Constant { data_type, shape, numbers } = known.constant.clone();
        let dtype = element_type(data_type)?;
        let mut weight = match numbers {
            Numbers::Floats(values) => Weight::inline(name, values, shape),
            Numbers::Blob { start, .. } => {
                let dims = shape.iter().copied().map(Dim::fixed).collect();
                self.regions.push(Region::plain(name, start, dtype, shape));
                Weight::tensor(name, dtype, dims)
            }
            _ => return Err(format!("{name} is no floating-point constant")),
        };
        weight.dtype = dtype;
        let value = self.builder.weight(weight).map_err(|error| error.to_string())?;
        self.values.insert(name.to_string(), value);
        Ok(value)
    }

    /// The constant of that name.
    pub fn constant_named(&mut self, name: &str) -> Reading<&Constant> {
        match self.constants.get_mut(name) {
            Some(known) => {
                known.used = true;
                Ok(&known.constant)
            }
            None => Err(format!("{name} is no constant made before")),
        }
    }

    /// Whether a value is a constant.
    pub fn is_constant(&self, value: ValueId) -> bool {
        self.builder.as_weight(value).is_some()
    }

    /// A value's type.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        self.builder.ty(value)
    }

    /// Adds a node.
    pub fn node(&mut self, op: impl Into<snapc_ir::ops::Op>, operands: &[ValueId]) -> Reading<Vec<ValueId>> {
        self.builder.op(op, operands).map_err(|error| error.message().to_string())
    }
}

/// The names that an argument binds.
pub fn bound_names(argument: &Argument) -> Reading<Vec<&str>> {
    argument
        .arguments
        .iter()
        .map(|binding| match &binding.binding {
            Some(binding::Binding::Name(name)) => Ok(name.as_str()),
            _ => Err("it binds a literal".to_string()),
        })
        .collect()
}
