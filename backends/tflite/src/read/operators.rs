//! Operators of a model as ops, each by what its kernel computes (google-ai-edge/LiteRT, `tflite/kernels/`).

use snapc_ir::ops::{
    Add, Cast, Concat, Conv2d, Cos, Embedding, FakeQuantize, Gelu, GeluForm, Layout, Linear, Matmul, Mul, Op,
    ReduceMean, Relu, Reshape, Rsqrt, Sigmoid, Sin, Slice, Softmax, Split, Sub, Tanh, Transpose,
};
use snapc_ir::{Builder, Context, DType, Error, Graph, Place, Result, TensorType, ValueId};
use snapc_weights::Region;

use super::encoded::{Blockwise, Codes};
use super::flat::Table;
use super::require;
use super::tensors::{Buffer, Constant, Tensor, size, sizes};
use crate::schema::{ABSENT, Builtin, padding, slot, tensor_type};

/// An operator, its options being of the type that its code says.
pub struct Operator<'a> {
    pub builtin: &'static Builtin,
    pub inputs: Vec<i32>,
    pub outputs: Vec<i32>,
    pub options: Option<Table<'a>>,
}

/// The fields of an operator's options that snapc writes.
pub fn options(builtin: &Builtin) -> &'static [u16] {
    match builtin.name {
        "FULLY_CONNECTED" => &[slot::fully_connected::KEEP_NUM_DIMS],
        "BATCH_MATMUL" => &[slot::batch_matmul::ADJ_Y],
        "CONV_2D" => &[slot::conv::PADDING, slot::conv::STRIDE_W, slot::conv::STRIDE_H],
        "RESHAPE" => &[slot::reshape::NEW_SHAPE],
        "CONCATENATION" => &[slot::concatenation::AXIS],
        "SPLIT" => &[slot::split::NUM_SPLITS],
        "SOFTMAX" => &[slot::softmax::BETA],
        "GELU" => &[slot::gelu::APPROXIMATE],
        "MEAN" => &[slot::reducer::KEEP_DIMS],
        "CAST" => &[slot::cast::IN_DATA_TYPE, slot::cast::OUT_DATA_TYPE],
        _ => &[],
    }
}

/// What a tensor holds.
pub enum Held {
    Value(ValueId),
    Integers(Vec<i32>),
    /// A map with so many zeros around it, for the convolution that follows.
    Padded(ValueId, usize),
    /// The numbers of codes, for a FULLY_CONNECTED of that version or a DEQUANTIZE.
    Codes(ValueId, i32),
    /// What is added to products of codes.
    Steps(ValueId),
    /// What an operator made codes of, as they stand for it.
    Rounded(ValueId),
}

/// The graph that is being read.
pub struct Reader<'a> {
    pub builder: Builder,
    pub tensors: &'a [Tensor<'a>],
    buffers: &'a [Buffer<'a>],
    held: Vec<Option<Held>>,
    /// How often operators and outputs read each tensor.
    uses: Vec<usize>,
    /// Codes whose scales lie in the file.
    blockwise: Vec<Blockwise>,
}

impl<'a> Reader<'a> {
    /// A reader of a subgraph with these tensors.
    pub fn new(builder: Builder, tensors: &'a [Tensor<'a>], buffers: &'a [Buffer<'a>]) -> Self {
        let held = tensors.iter().map(|_| None).collect();
        Reader { builder, tensors, buffers, held, uses: vec![0; tensors.len()], blockwise: Vec::new() }
    }

    /// Reads all; gives the graph and where its weights are.
    pub fn graph(
        mut self,
        inputs: &[(&str, usize)],
        outputs: &[(&str, usize)],
        operators: &[Operator],
    ) -> Result<(Graph, Vec<Region>, Vec<Blockwise>)> {
        for operator in operators {
            for &tensor in operator.inputs.iter().filter(|&&tensor| tensor != ABSENT) {
                let tensor = self.index(tensor)?;
                self.uses[tensor] += 1;
            }
        }
        for scales in self.tensors.iter().filter_map(|tensor| tensor.codes.as_ref()?.scales()) {
            *self.uses.get_mut(scales).ok_or_else(|| missing(scales))? += 1;
        }
        for &(name, tensor) in outputs {
            let uses = self.uses.get_mut(tensor).ok_or_else(|| missing(tensor))?;
            *uses += 1;
            let again = outputs.iter().filter(|other| other.1 == tensor).count() > 1;
            require(!again, || format!("the tensor of the output {name} has a second name"))?;
        }
        for &(name, number) in inputs {
            let tensor = self.tensors.get(number).ok_or_else(|| missing(number))?;
            require(tensor.scale.is_none(), || format!("the input {name} is of codes"))?;
            let value = self.builder.input(name, tensor.ty.clone());
            self.define(number, Held::Value(value)).at(|| Place::Node(name.to_string()))?;
        }
        let regions = self.constants()?;
        for operator in operators {
            self.operator(operator, outputs).at(|| Place::Node(self.name_of(operator).to_string()))?;
        }
        for &(name, tensor) in outputs {
            let value = self.value(tensor).at(|| Place::Node(name.to_string()))?;
            self.builder.output(name, value);
        }
        Ok((self.builder.finish()?, regions, self.blockwise))
    }

    fn constants(&mut self) -> Result<Vec<Region>> {
        let mut regions = Vec::new();
        for (number, tensor) in self.tensors.iter().enumerate() {
            let place = || Place::Tensor(tensor.name.to_string());
            let buffer = self.buffers.get(tensor.buffer).ok_or_else(|| missing(number))?;
            let Some(constant) = tensor.constant(buffer).at(place)? else { continue };
            require(self.uses[number] > 0, || format!("nothing uses {}", tensor.name))?;
            let held = match constant {
                Constant::Integers(values) => Held::Integers(values),
                Constant::Weight(weight, region) => {
                    regions.extend(region);
                    let taken = self.builder.weight(*weight);
                    let value = taken.map_err(|error| error.as_class(snapc_ir::Class::Input)).at(place)?;
                    match &tensor.codes {
                        Some(codes) if codes.bits == 32 => Held::Steps(value),
                        Some(codes) => Held::Codes(value, codes.version()),
                        None => Held::Value(value),
                    }
                }
            };
            self.hold(number, held)?;
            if let Some(scales) = tensor.codes.as_ref().and_then(Codes::scales) {
                self.blockwise.push(self.scales_of(tensor, scales).at(place)?);
            }
        }
        Ok(regions)
    }

    /// The scales of blocks: a tensor of f16 of its own, behind the flatbuffer.
    fn scales_of(&self, codes: &Tensor, number: usize) -> Result<Blockwise> {
        let scales = self.tensors.get(number).ok_or_else(|| missing(number))?;
        let buffer = self.buffers.get(scales.buffer).ok_or_else(|| missing(number))?;
        let expected = codes.codes.as_ref().map(|of| of.coding(&codes.ty.shape).blocks).unwrap_or_default();
        let fits = scales.ty == TensorType::new(DType::F16, expected) && self.uses[number] == 1;
        require(fits, || format!("{} are not the scales of {}", scales.name, codes.name))?;
        match scales.constant(buffer)? {
            Some(Constant::Weight(_, Some(region))) => {
                Ok(Blockwise { codes: codes.name.to_string(), scales: region })
            }
            _ => Err(Error::input(format!("{} are not behind the flatbuffer", scales.name))),
        }
    }

    fn index(&self, tensor: i32) -> Result<usize> {
        let index = usize::try_from(tensor).ok().filter(|&index| index < self.tensors.len());
        index.ok_or_else(|| Error::input(format!("there is no tensor {tensor}")))
    }

    fn hold(&mut self, number: usize, held: Held) -> Result<()> {
        let place = self.held.get_mut(number).ok_or_else(|| missing(number))?;
        match place.replace(held) {
            None => Ok(()),
            Some(_) => Err(Error::input(format!("{} is made twice", self.tensors[number].name))),
        }
    }

    /// Gives a tensor that has no numbers of its own what it holds.
    fn define(&mut self, number: usize, held: Held) -> Result<()> {
        let tensor = self.tensors.get(number).ok_or_else(|| missing(number))?;
        require(tensor.buffer == 0, || format!("{} has numbers of its own", tensor.name))?;
        let coded = matches!(held, Held::Rounded(_));
        require(coded == tensor.scale.is_some(), || {
            format!("{} has scales, or none, against its operator", tensor.name)
        })?;
        if let Held::Value(value) | Held::Rounded(value) = held {
            let made = self.builder.ty(value);
            require(*made == tensor.ty, || format!("{} is {made}, declared as {}", tensor.name, tensor.ty))?;
        }
        self.hold(number, held)
    }

    fn value(&self, number: usize) -> Result<ValueId> {
        let name = self.tensors.get(number).ok_or_else(|| missing(number))?.name;
        match &self.held[number] {
            Some(Held::Value(value)) => Ok(*value),
            Some(Held::Integers(_)) => Err(Error::input(format!("{name} is a list of integers, no value"))),
            Some(Held::Steps(_)) => Err(Error::input(format!("{name} is added to products of codes alone"))),
            Some(Held::Codes(..) | Held::Rounded(_)) => {
                Err(Error::input(format!("{name} holds codes, no numbers")))
            }
            Some(Held::Padded(..)) => Err(Error::input(format!("{name} is padded for no convolution"))),
            None => Err(Error::input(format!("{name} is not made before"))),
        }
    }

    fn name_of(&self, operator: &Operator) -> &'a str {
        let first = operator.outputs.first().and_then(|&tensor| self.index(tensor).ok());
        first.map_or(operator.builtin.name, |index| self.tensors[index].name)
    }

    fn operator(&mut self, operator: &Operator, outputs: &[(&str, usize)]) -> Result<()> {
        let results: Vec<usize> =
            operator.outputs.iter().map(|&tensor| self.index(tensor)).collect::<Result<_>>()?;
        require(results.iter().any(|&result| self.uses[result] > 0), || "nothing uses it".to_string())?;
        let scope = self.name_of(operator).rsplit_once('/').map_or("", |(scope, _)| scope);
        self.builder.set_scope(scope);
        let operands = Operands { reader: self, operator };
        let made = match operator.builtin.name {
            "PAD" => vec![operands.pad()?],
            "DEQUANTIZE" if operands.codes(0)?.is_some() => vec![operands.dequantize()?],
            "DEQUANTIZE" if operands.rounded(0)?.is_some() => vec![operands.numbers()?],
            "QUANTIZE" => {
                let x = operands.only()?;
                vec![self.rounded(&results, x)?]
            }
            "FULLY_CONNECTED" | "CONV_2D" if operands.rounded(0)?.is_some() => {
                let (op, values) = operands.product()?;
                let y = self.builder.one(op, &values)?;
                vec![self.rounded(&results, y)?]
            }
            "RESHAPE" if operands.is_copy()? => {
                let only = |result: &usize| outputs.iter().any(|output| output.1 == *result);
                let copied = matches!(&results[..], [result] if only(result) && self.uses[*result] == 1);
                require(copied, || "the copy is not an output alone".to_string())?;
                vec![Held::Value(operands.value(0)?)]
            }
            _ => {
                let (op, values) = operands.op()?;
                let expected = if let Op::Split(split) = &op { split.parts } else { 1 };
                require(results.len() == expected, || {
                    format!("{} results, expected {expected}", results.len())
                })?;
                self.builder.op(op, &values)?.into_iter().map(Held::Value).collect()
            }
        };
        require(made.len() == results.len(), || {
            format!("{} has {} results", operator.builtin.name, results.len())
        })?;
        if matches!(made[..], [Held::Padded(..)]) {
            require(self.uses[results[0]] == 1, || "the padded map is not used once".to_string())?;
        }
        for (result, held) in results.into_iter().zip(made) {
            self.define(result, held)?;
        }
        Ok(())
    }
}

impl Reader<'_> {
    /// A value rounded by the scale of the tensor that is to hold it.
    fn rounded(&mut self, results: &[usize], x: ValueId) -> Result<Held> {
        let scale = results.first().and_then(|&result| self.tensors[result].scale);
        let scale = scale.ok_or_else(|| Error::input("it does not give codes of one scale"))?;
        Ok(Held::Rounded(self.builder.one(FakeQuantize { scale }, &[x])?))
    }
}

/// An operator while it is read.
pub struct Operands<'a, 'b> {
    pub reader: &'b Reader<'a>,
    pub operator: &'b Operator<'b>,
}

impl Operands<'_, '_> {
    pub fn count(&self, count: usize) -> Result<()> {
        let found = self.operator.inputs.len();
        require(found == count, || {
            format!("{} has {found} operands, expected {count}", self.operator.builtin.name)
        })
    }

    pub fn held(&self, number: usize) -> Result<(usize, &Held)> {
        let tensor = self.operator.inputs.get(number).copied();
        let index = self.reader.index(tensor.ok_or_else(|| Error::input("an operand is missing"))?)?;
        let held = self.reader.held[index].as_ref();
        let name = self.reader.tensors[index].name;
        Ok((index, held.ok_or_else(|| Error::input(format!("{name} is not made before")))?))
    }

    fn value(&self, number: usize) -> Result<ValueId> {
        let (index, _) = self.held(number)?;
        self.reader.value(index)
    }

    /// The numbers of codes, and the version of FULLY_CONNECTED that takes these; `None` where the operand holds none.
    pub fn codes(&self, number: usize) -> Result<Option<(ValueId, i32)>> {
        match self.held(number)?.1 {
            Held::Codes(value, version) => Ok(Some((*value, *version))),
            _ => Ok(None),
        }
    }

    /// What an operator made codes of; `None` where the operand is another one.
    pub fn rounded(&self, number: usize) -> Result<Option<ValueId>> {
        match self.held(number)?.1 {
            Held::Rounded(value) => Ok(Some(*value)),
            _ => Ok(None),
        }
    }

    fn only(&self) -> Result<ValueId> {
        self.count(1)?;
        self.value(0)
    }

    /// Kernels and XNNPACK unpack codes of 8 bits.
    fn dequantize(&self) -> Result<Held> {
        self.count(1)?;
        let version = self.operator.builtin.version;
        match self.codes(0)? {
            Some((value, 12)) if version == 5 => Ok(Held::Value(value)),
            _ => Err(Error::input(format!("DEQUANTIZE of version {version} is not for these codes"))),
        }
    }

    fn values(&self) -> Result<Vec<ValueId>> {
        (0..self.operator.inputs.len()).map(|number| self.value(number)).collect()
    }

    fn shape(&self, number: usize) -> Result<&[usize]> {
        Ok(&self.reader.builder.ty(self.value(number)?).shape)
    }

    fn dtype(&self, number: usize) -> Result<DType> {
        Ok(self.reader.builder.ty(self.value(number)?).dtype)
    }

    /// A list of integers, itself of these sizes.
    fn integers(&self, number: usize, shape: &[usize]) -> Result<Vec<usize>> {
        let (index, held) = self.held(number)?;
        let Held::Integers(values) = held else {
            return Err(Error::input(format!("operand {number} is no constant list of integers")));
        };
        let found = &self.reader.tensors[index].ty.shape;
        require(found == shape, || {
            format!("operand {number} is a list of sizes {found:?}, expected {shape:?}")
        })?;
        sizes(values)
    }

    fn options(&self) -> Result<&Table<'_>> {
        let name = self.operator.builtin.name;
        self.operator.options.as_ref().ok_or_else(|| Error::input(format!("{name} has no options")))
    }

    fn axis(&self, value: usize, of: usize) -> Result<usize> {
        let rank = self.shape(of)?.len();
        require(value < rank, || format!("there is no axis {value} of {rank}"))?;
        Ok(value)
    }

    /// The sizes that a RESHAPE says, as an operand and in its options.
    fn new_shape(&self) -> Result<Vec<usize>> {
        self.count(2)?;
        let said = sizes(&self.options()?.ints(slot::reshape::NEW_SHAPE, 8)?)?;
        let shape = self.integers(1, &[said.len()])?;
        require(shape == said, || format!("RESHAPE says {shape:?} and {said:?}"))?;
        Ok(shape)
    }

    fn is_copy(&self) -> Result<bool> {
        Ok(self.new_shape()? == self.shape(0)?)
    }

    fn pad(&self) -> Result<Held> {
        self.count(2)?;
        let sides = self.integers(1, &[4, 2])?;
        let padding = sides[2];
        let p = padding;
        require(sides == [0, 0, p, p, p, p, 0, 0] && p > 0, || format!("PAD has the sides {sides:?}"))?;
        let x = self.value(0)?;
        let declared = self.operator.outputs.first().map(|&tensor| self.reader.index(tensor));
        let declared = declared.ok_or_else(|| Error::input("PAD has no result"))??;
        let mut ty = self.reader.builder.ty(x).clone();
        require(ty.rank() == 4, || format!("PAD is over {ty}"))?;
        ty.shape[1] += 2 * p;
        ty.shape[2] += 2 * p;
        let found = &self.reader.tensors[declared].ty;
        require(*found == ty, || format!("PAD makes {ty}, declared as {found}"))?;
        Ok(Held::Padded(x, padding))
    }

    fn op(&self) -> Result<(Op, Vec<ValueId>)> {
        let name = self.operator.builtin.name;
        if let Some(op) = without_options(name) {
            return Ok((op, self.values()?));
        }
        match name {
            "CONV_2D" => return self.convolution(),
            "FULLY_CONNECTED" => return self.fully_connected(),
            _ => {}
        }
        let op: Op = match name {
            "BATCH_MATMUL" => Matmul { transpose_b: self.options()?.bool(slot::batch_matmul::ADJ_Y)? }.into(),
            "GELU" => {
                let tanh = self.options()?.bool(slot::gelu::APPROXIMATE)?;
                Gelu { form: if tanh { GeluForm::Tanh } else { GeluForm::Erf } }.into()
            }
            "SOFTMAX" => {
                let beta = self.options()?.f32(slot::softmax::BETA)?;
                require(beta == 1.0, || format!("SOFTMAX has a beta of {beta}"))?;
                Softmax {}.into()
            }
            "CONCATENATION" => {
                let axis = size(self.options()?.i32(slot::concatenation::AXIS)?)?;
                Concat { axis: self.axis(axis, 0)? }.into()
            }
            "DEQUANTIZE" => {
                let half = self.dtype(0)? == DType::F16 && self.operator.builtin.version == 3;
                require(half, || "DEQUANTIZE is not of f16".to_string())?;
                Cast { dtype: DType::F32 }.into()
            }
            "CAST" => self.cast()?.into(),
            _ => return self.op_with_integers(),
        };
        Ok((op, self.values()?))
    }

    /// Operators that have operands which are attributes in the IR.
    fn op_with_integers(&self) -> Result<(Op, Vec<ValueId>)> {
        let only = |op: Op| Ok((op, vec![self.value(0)?]));
        match self.operator.builtin.name {
            "MEAN" => {
                self.count(2)?;
                let keep = self.options()?.bool(slot::reducer::KEEP_DIMS)?;
                require(keep, || "MEAN drops its axis".to_string())?;
                let axes = self.integers(1, &[1])?;
                only(ReduceMean { axis: self.axis(axes[0], 0)? }.into())
            }
            "TRANSPOSE" => {
                self.count(2)?;
                only(Transpose { perm: self.integers(1, &[self.shape(0)?.len()])? }.into())
            }
            "RESHAPE" => only(Reshape { shape: self.new_shape()? }.into()),
            "SLICE" => only(self.slice()?.into()),
            "SPLIT" => {
                self.count(2)?;
                let parts = size(self.options()?.i32(slot::split::NUM_SPLITS)?)?;
                let results = self.operator.outputs.len();
                require(parts == results, || format!("{results} results, expected {parts}"))?;
                let axis = self.axis(self.integers(0, &[])?[0], 1)?;
                Ok((Split { axis, parts }.into(), vec![self.value(1)?]))
            }
            other => Err(Error::input(format!("snapc writes no {other}"))),
        }
    }

    fn fully_connected(&self) -> Result<(Op, Vec<ValueId>)> {
        self.count(3)?;
        self.keeps_axes()?;
        let (weight, version) = match self.codes(1)? {
            Some((weight, version)) => (weight, version),
            None => (self.value(1)?, 5),
        };
        let found = self.operator.builtin.version;
        require(found == version, || format!("FULLY_CONNECTED is of version {found}, expected {version}"))?;
        let mut operands = vec![self.value(0)?, weight];
        if self.operator.inputs[2] != ABSENT {
            operands.push(self.value(2)?);
        }
        Ok((Linear {}.into(), operands))
    }

    pub fn keeps_axes(&self) -> Result<()> {
        let keep = self.options()?.bool(slot::fully_connected::KEEP_NUM_DIMS)?;
        require(keep, || "FULLY_CONNECTED drops axes".to_string())
    }

    fn convolution(&self) -> Result<(Op, Vec<ValueId>)> {
        self.count(3)?;
        let (x, padded) = match self.held(0)? {
            (_, Held::Padded(x, padding)) => (*x, *padding),
            _ => (self.value(0)?, 0),
        };
        let conv = self.convolution_of(x, self.value(1)?, padded)?;
        let (x_shape, weight) = (&self.reader.builder.ty(x).shape, self.shape(1)?);
        let grouped = x_shape[3] != weight[3];
        let expected = if grouped { 6 } else { 1 };
        let version = self.operator.builtin.version;
        require(version == expected, || format!("CONV_2D is of version {version}, expected {expected}"))?;
        Ok((conv.into(), vec![x, self.value(1)?, self.value(2)?]))
    }

    /// What a CONV_2D says of strides and padding.
    pub fn convolution_of(&self, x: ValueId, weight: ValueId, padded: usize) -> Result<Conv2d> {
        let [x_shape, weight] = [x, weight].map(|id| &self.reader.builder.ty(id).shape);
        require(x_shape.len() == 4 && weight.len() == 4, || "CONV_2D is not over a map".to_string())?;
        let options = self.options()?;
        let stride = size(options.i32(slot::conv::STRIDE_W)?)?;
        let down = size(options.i32(slot::conv::STRIDE_H)?)?;
        require(stride == down, || format!("CONV_2D has the strides {down} and {stride}"))?;
        let padding = match options.i8(slot::conv::PADDING)? {
            padding::VALID => padded,
            padding::SAME if padded == 0 => {
                let kernel = weight[1];
                let fits = stride == 1 && kernel % 2 == 1 && kernel == weight[2];
                require(fits, || format!("SAME is not the same on all sides of a kernel {weight:?}"))?;
                kernel / 2
            }
            other => return Err(Error::input(format!("CONV_2D has the padding {other}"))),
        };
        Ok(Conv2d { stride, padding, layout: Layout::Nhwc })
    }

    fn slice(&self) -> Result<Slice> {
        self.count(3)?;
        let shape = self.shape(0)?;
        let slice =
            Slice { starts: self.integers(1, &[shape.len()])?, sizes: self.integers(2, &[shape.len()])? };
        require(!slice.cut(shape).is_empty(), || "SLICE cuts nothing".to_string())?;
        Ok(slice)
    }

    fn cast(&self) -> Result<Cast> {
        let dtype = |slot: u16| match self.options()?.i8(slot)? {
            tensor_type::FLOAT32 => Ok(DType::F32),
            tensor_type::FLOAT16 => Ok(DType::F16),
            other => Err(Error::input(format!("CAST has the type {other}"))),
        };
        let from = dtype(slot::cast::IN_DATA_TYPE)?;
        require(self.dtype(0)? == from, || format!("CAST says that its operand is {from}"))?;
        Ok(Cast { dtype: dtype(slot::cast::OUT_DATA_TYPE)? })
    }
}

/// Operators whose operands are those of the IR and that have no attributes.
fn without_options(name: &str) -> Option<Op> {
    Some(match name {
        "ADD" => Add {}.into(),
        "SUB" => Sub {}.into(),
        "MUL" => Mul {}.into(),
        "EMBEDDING_LOOKUP" => Embedding {}.into(),
        "RSQRT" => Rsqrt {}.into(),
        "TANH" => Tanh {}.into(),
        "LOGISTIC" => Sigmoid {}.into(),
        "RELU" => Relu {}.into(),
        "SIN" => Sin {}.into(),
        "COS" => Cos {}.into(),
        _ => return None,
    })
}

fn missing(number: usize) -> Error {
    Error::input(format!("there is no tensor {number}"))
}
