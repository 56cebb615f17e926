//! Nodes of a model as ops, one ONNX operator at a time (`docs/Operators.md` of onnx/onnx, opset 21).

use std::collections::BTreeMap;

use snapc_ir::ops::{
    Add, Cast, Concat, Conv2d, Cos, Embedding, Gelu, GeluForm, GroupNorm, LayerNorm, Layout, Linear, Matmul,
    Mul, Op, ReduceMean, Relu, Reshape, Sigmoid, Sin, Slice, Softmax, Split, Sub, Tanh, Transpose,
    UpsampleNearest,
};
use snapc_ir::{Builder, Context, DType, Error, Place, Result, Source, ValueId};

use super::attributes::Attributes;
use super::encoded::{self, Encoded};
use super::groups;
use super::tensors::check_count;
use crate::schema::{NodeProto, data_type};

/// Numbers in attributes and bounds stay below this: sums and products of them fit a word.
const LARGEST: usize = 1 << 40;

/// Repeating numbers, and joining values, keeps sizes within a word.
const LARGEST_FACTOR: f32 = 65536.0;
const MOST_OPERANDS: usize = 1 << 16;

/// Which operands of an op take a list of integers is fixed, so both kinds share the model's names.
enum Held {
    Value(ValueId),
    Integers(Vec<i64>),
    /// An input that is int64, and the value that a Cast makes of it.
    Wide(ValueId),
    /// Codes of these sizes, for a DequantizeLinear.
    Codes(Vec<usize>),
    /// The code of 0, for a QuantizeLinear.
    ZeroPoint,
}

/// The graph that is being read.
pub struct Reader<'a> {
    /// What is read so far.
    pub builder: Builder,
    /// The weights that are dequantized.
    pub encoded: Vec<Encoded>,
    held: BTreeMap<&'a str, Held>,
    uses: BTreeMap<&'a str, usize>,
}

impl<'a> Reader<'a> {
    /// A reader of a graph in which values are used so often.
    pub fn new(builder: Builder, uses: BTreeMap<&'a str, usize>) -> Self {
        Reader { builder, encoded: Vec::new(), held: BTreeMap::new(), uses }
    }

    /// Whether a node or an output reads the value.
    pub fn is_used(&self, name: &str) -> bool {
        self.uses.contains_key(name)
    }

    /// Whether one node reads the value, and no other one.
    pub fn is_used_once(&self, name: &str) -> bool {
        self.uses.get(name) == Some(&1)
    }

    /// Gives a value its name.
    pub fn define(&mut self, name: &'a str, value: ValueId) -> Result<()> {
        self.hold(name, Held::Value(value))
    }

    /// Gives a list of integers its name.
    pub fn define_integers(&mut self, name: &'a str, values: Vec<i64>) -> Result<()> {
        self.hold(name, Held::Integers(values))
    }

    /// Gives an int64 input its name; `value` is what a Cast makes of it.
    pub fn define_wide(&mut self, name: &'a str, value: ValueId) -> Result<()> {
        self.hold(name, Held::Wide(value))
    }

    /// Gives codes their name.
    pub fn define_codes(&mut self, name: &'a str, shape: Vec<usize>) -> Result<()> {
        self.hold(name, Held::Codes(shape))
    }

    /// Gives the code of 0 its name.
    pub fn define_zero_point(&mut self, name: &'a str) -> Result<()> {
        self.hold(name, Held::ZeroPoint)
    }

    /// Whether a name is that of the code of 0.
    pub fn is_zero_point(&self, name: &str) -> bool {
        matches!(self.held.get(name), Some(Held::ZeroPoint))
    }

    /// The sizes of the codes of a name.
    pub fn codes(&self, name: &str) -> Result<&[usize]> {
        match self.held.get(name) {
            Some(Held::Codes(shape)) => Ok(shape),
            _ => Err(Error::input(format!("{name} holds no codes"))),
        }
    }

    fn hold(&mut self, name: &'a str, held: Held) -> Result<()> {
        if name.is_empty() {
            return Err(Error::input("a value has no name"));
        }
        match self.held.insert(name, held) {
            None => Ok(()),
            Some(_) => Err(Error::input(format!("{name} is made twice"))),
        }
    }

    /// The value of a name.
    pub fn value(&self, name: &str) -> Result<ValueId> {
        match self.held.get(name) {
            Some(Held::Value(value)) => Ok(*value),
            Some(Held::Integers(_)) => {
                Err(Error::input(format!("{name} is a list of integers, not a value")))
            }
            Some(Held::Wide(_)) => Err(Error::input(format!("{name} is int64, which only a Cast may read"))),
            Some(Held::Codes(_)) => {
                Err(Error::input(format!("{name} holds codes, which only a DequantizeLinear may read")))
            }
            Some(Held::ZeroPoint) => Err(Error::input(format!("{name} is a code of 0, not a value"))),
            None => Err(Error::input(format!("{name} is not made before"))),
        }
    }

    /// What a Cast makes of the int64 input that the first operand is; `None` if it is none.
    fn narrowed(&self, node: &NodeProto) -> Option<ValueId> {
        match node.input.first().and_then(|name| self.held.get(name.as_str())) {
            Some(Held::Wide(value)) => Some(*value),
            _ => None,
        }
    }

    /// All of a node's operands as values.
    pub fn values(&self, node: &NodeProto) -> Result<Vec<ValueId>> {
        node.input.iter().map(|name| self.value(name)).collect()
    }

    /// The list of integers that an operand is.
    pub fn integers(&self, node: &NodeProto, number: usize) -> Result<&[i64]> {
        match node.input.get(number).and_then(|name| self.held.get(name.as_str())) {
            Some(Held::Integers(values)) => Ok(values),
            _ => Err(Error::input(format!("operand {number} is no constant list of integers"))),
        }
    }

    /// The one integer that an operand is.
    fn integer(&self, node: &NodeProto, number: usize) -> Result<i64> {
        match self.integers(node, number)? {
            &[value] => Ok(value),
            values => Err(Error::input(format!("operand {number} is {values:?}, expected one integer"))),
        }
    }

    /// The f32 numbers that stand in the model for a value.
    pub fn numbers(&self, name: &str) -> Result<(&[f32], &[usize])> {
        let weight = self.builder.as_weight(self.value(name)?).filter(|weight| weight.dtype == DType::F32);
        match weight.map(|weight| &weight.source) {
            Some(Source::Inline { values, shape }) => Ok((values, shape)),
            _ => Err(Error::input(format!("{name} does not stand in the model as f32"))),
        }
    }

    /// The f32 scalar that a value is.
    pub fn number(&self, name: &str) -> Result<f32> {
        match self.numbers(name)? {
            (&[value], []) => Ok(value),
            _ => Err(Error::input(format!("{name} is no scalar"))),
        }
    }

    /// Reads all nodes.
    ///
    /// # Errors
    /// At the first that is not as the specification says, or that snapc does not write.
    pub fn nodes(&mut self, nodes: &'a [NodeProto]) -> Result<()> {
        let mut left = nodes;
        while let Some(node) = left.first() {
            let place = || Place::Node(node.name.clone());
            let taken = self.node(node, left).at(place)?;
            left = left.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Reads a node, or the group of nodes that starts with it; gives how many that were.
    fn node(&mut self, node: &'a NodeProto, following: &'a [NodeProto]) -> Result<usize> {
        if !node.domain.is_empty() {
            return Err(Error::input(format!("{} is of the domain {}", node.op_type, node.domain)));
        }
        let scope = node.name.rsplit_once('/').map_or("", |(scope, _)| scope);
        self.builder.set_scope(scope);
        match node.op_type.as_str() {
            "Identity" => self.identity(node).map(|()| 1),
            "Pow" => groups::rms_norm(self, following),
            "Sqrt" => groups::rsqrt(self, following),
            "QuantizeLinear" => groups::fake_quantize(self, following),
            "DequantizeLinear" => encoded::dequantize(self, node).map(|()| 1),
            "Cast" if self.narrowed(node).is_some() => self.narrow(node).map(|()| 1),
            _ => {
                let mut attributes = Attributes::of(node)?;
                let (op, operands) = self.op(node, &mut attributes)?;
                attributes.end()?;
                self.add(node, op, &operands)?;
                Ok(1)
            }
        }
    }

    /// Adds an op whose results are the node's.
    pub fn add(&mut self, node: &'a NodeProto, op: impl Into<Op>, operands: &[ValueId]) -> Result<()> {
        let op = op.into();
        let expected = if let Op::Split(split) = &op { split.parts } else { 1 };
        if node.output.len() != expected {
            return Err(Error::input(format!("{} results, expected {expected}", node.output.len())));
        }
        let results = self.builder.op(op, operands)?;
        for (name, value) in node.output.iter().zip(results) {
            check_count(self.builder.ty(value))?;
            self.define(name, value)?;
        }
        Ok(())
    }

    /// A copy is for outputs alone: in the IR these name any value.
    fn identity(&mut self, node: &'a NodeProto) -> Result<()> {
        let ([from], [to], []) = (&node.input[..], &node.output[..], &node.attribute[..]) else {
            return Err(Error::input("Identity takes one value and gives one"));
        };
        if !self.is_used_once(to) {
            return Err(Error::input("the copy is not an output alone"));
        }
        let value = self.value(from)?;
        self.define(to, value)
    }

    /// A Cast of an int64 input is that input: the graph has it as it takes it.
    fn narrow(&mut self, node: &'a NodeProto) -> Result<()> {
        let Some(value) = self.narrowed(node) else { return Ok(()) };
        let mut attributes = Attributes::of(node)?;
        let to = attributes.required_int("to")?;
        attributes.end()?;
        let expected =
            if self.builder.ty(value).dtype == DType::I32 { data_type::INT32 } else { data_type::FLOAT };
        require(to == i64::from(expected), &format!("the Cast is to {to}, expected {expected}"))?;
        let ([_], [result]) = (&node.input[..], &node.output[..]) else {
            return Err(Error::input("Cast takes one value and gives one"));
        };
        self.define(result, value)
    }

    fn op(&self, node: &'a NodeProto, attributes: &mut Attributes<'a>) -> Result<(Op, Vec<ValueId>)> {
        if let Some(op) = without_attributes(&node.op_type) {
            return Ok((op, self.values(node)?));
        }
        let x =
            || node.input.first().map_or_else(|| Err(Error::input("no operand")), |name| self.value(name));
        let rank = |value: ValueId| self.builder.ty(value).rank();
        let op = match node.op_type.as_str() {
            "Softmax" => {
                let axis = axis(attributes.int("axis", -1)?, rank(x()?))?;
                require(axis + 1 == rank(x()?), "Softmax is not over the last axis")?;
                Softmax {}.into()
            }
            "Gelu" => match attributes.word("approximate", "none")? {
                "none" => Gelu { form: GeluForm::Erf }.into(),
                "tanh" => Gelu { form: GeluForm::Tanh }.into(),
                other => return Err(Error::input(format!("there is no Gelu with approximate={other}"))),
            },
            "LayerNormalization" => {
                let axis = axis(attributes.int("axis", -1)?, rank(x()?))?;
                require(axis + 1 == rank(x()?), "LayerNormalization is not over the last axis alone")?;
                require(node.input.len() >= 2, "LayerNormalization has no scale")?;
                // 1 stands for float: mean and variance are computed in it.
                attributes.expect_int("stash_type", 1, 1)?;
                LayerNorm { eps: attributes.float("epsilon", 1e-5)? }.into()
            }
            "InstanceNormalization" => {
                require(rank(x()?) == 4, "InstanceNormalization is not over a map")?;
                let groups = self.builder.ty(x()?).shape[1];
                GroupNorm { groups, eps: attributes.float("epsilon", 1e-5)? }.into()
            }
            "Gemm" => {
                require(rank(x()?) == 2, "Gemm takes a matrix")?;
                attributes.expect_int("transB", 0, 1)?;
                Linear {}.into()
            }
            "Concat" if node.input.len() > MOST_OPERANDS => return Err(Error::input("too many operands")),
            "Concat" => Concat { axis: axis(attributes.required_int("axis")?, rank(x()?))? }.into(),
            "Split" => {
                require(node.input.len() == 1, "Split has sizes of its own")?;
                let parts = size(attributes.required_int("num_outputs")?)?;
                Split { axis: axis(attributes.int("axis", 0)?, rank(x()?))?, parts }.into()
            }
            "Transpose" => {
                let perm = attributes.ints("perm")?.ok_or_else(|| Error::input("Transpose has no perm"))?;
                Transpose { perm: sizes(perm)? }.into()
            }
            "Cast" => {
                attributes.expect_int("saturate", 1, 1)?;
                let dtype = match i32::try_from(attributes.required_int("to")?) {
                    Ok(data_type::FLOAT) => DType::F32,
                    Ok(data_type::FLOAT16) => DType::F16,
                    _ => return Err(Error::input("snapc casts to f32 and f16 alone")),
                };
                Cast { dtype }.into()
            }
            _ => return self.op_with_constants(node, attributes),
        };
        Ok((op, self.values(node)?))
    }

    /// Ops that have operands in ONNX which are attributes in the IR, or operands in another order.
    fn op_with_constants(
        &self,
        node: &'a NodeProto,
        attributes: &mut Attributes<'a>,
    ) -> Result<(Op, Vec<ValueId>)> {
        let operands = |count: usize| {
            require(node.input.len() == count, &format!("{} has not {count} operands", node.op_type))
        };
        let value = |number: usize| {
            node.input
                .get(number)
                .map_or_else(|| Err(Error::input("an operand is missing")), |name| self.value(name))
        };
        match node.op_type.as_str() {
            "Gather" => {
                operands(2)?;
                attributes.expect_int("axis", 0, 0)?;
                Ok((Embedding {}.into(), vec![value(1)?, value(0)?]))
            }
            "Conv" => Ok((self.convolution(node, attributes)?.into(), self.values(node)?)),
            "ReduceMean" => {
                operands(2)?;
                let x = value(0)?;
                let axis = self.mean_axis(node, attributes, self.builder.ty(x).rank())?;
                Ok((ReduceMean { axis }.into(), vec![x]))
            }
            "Reshape" => {
                operands(2)?;
                // No size is 0 or -1 here, so `allowzero` changes nothing.
                attributes.expect_int("allowzero", 0, 0)?;
                let shape = sizes(self.integers(node, 1)?)?;
                require(!shape.contains(&0), "Reshape has a size of 0")?;
                Ok((Reshape { shape }.into(), vec![value(0)?]))
            }
            "Slice" => {
                operands(4)?;
                let x = value(0)?;
                let mut sizes_left = self.builder.ty(x).shape.clone();
                let mut first = vec![0; sizes_left.len()];
                let (starts, ends) = (sizes(self.integers(node, 1)?)?, sizes(self.integers(node, 2)?)?);
                let axes = self.integers(node, 3)?;
                require(
                    starts.len() == axes.len() && ends.len() == axes.len(),
                    "Slice has other bounds than axes",
                )?;
                let mut seen = Vec::new();
                for ((&start, &end), &number) in starts.iter().zip(&ends).zip(axes) {
                    let axis = axis(number, sizes_left.len())?;
                    require(!seen.contains(&axis), "Slice cuts an axis twice")?;
                    seen.push(axis);
                    first[axis] = start;
                    sizes_left[axis] =
                        end.checked_sub(start).ok_or_else(|| Error::input("Slice ends before it starts"))?;
                }
                Ok((Slice { starts: first, sizes: sizes_left }.into(), vec![x]))
            }
            "Resize" => {
                operands(3)?;
                let factor = self.resize(node, attributes)?;
                Ok((UpsampleNearest { factor }.into(), vec![value(0)?]))
            }
            other => Err(Error::input(format!("snapc writes no {other}"))),
        }
    }

    /// The one axis of a ReduceMean over so many axes, which stays with size 1.
    pub fn mean_axis(&self, node: &NodeProto, attributes: &mut Attributes, rank: usize) -> Result<usize> {
        attributes.expect_int("keepdims", 1, 1)?;
        attributes.expect_int("noop_with_empty_axes", 0, 0)?;
        axis(self.integer(node, 1)?, rank)
    }

    fn convolution(&self, node: &'a NodeProto, attributes: &mut Attributes<'a>) -> Result<Conv2d> {
        let operands = self.values(node)?;
        let types = operands.iter().map(|&id| self.builder.ty(id));
        let [x, weight, ..] = &types.collect::<Vec<_>>()[..] else {
            return Err(Error::input("Conv has no weight"));
        };
        require(x.rank() == 4 && weight.rank() == 4, "Conv is not over a map")?;
        attributes.expect_word("auto_pad", "NOTSET", "NOTSET")?;
        let kernel = attributes.ints("kernel_shape")?.map(sizes).transpose()?;
        require(kernel.is_none_or(|kernel| kernel == weight.shape[2..]), "kernel_shape is not the weight's")?;
        let same = |values: Option<&[i64]>, count: usize, default: usize| -> Result<usize> {
            let Some(values) = values else { return Ok(default) };
            let first = values.first().copied().unwrap_or(-1);
            require(
                values.len() == count && values.iter().all(|&value| value == first),
                "Conv has two ways on its axes",
            )?;
            size(first)
        };
        require(same(attributes.ints("dilations")?, 2, 1)? == 1, "Conv is dilated")?;
        let stride = same(attributes.ints("strides")?, 2, 1)?;
        let padding = same(attributes.ints("pads")?, 4, 0)?;
        let groups = size(attributes.int("group", 1)?)?;
        let expected = groups.checked_mul(weight.shape[1]);
        require(expected == Some(x.shape[1]), "group, weight and channels do not fit each other")?;
        Ok(Conv2d { stride, padding, layout: Layout::Nchw })
    }

    fn resize(&self, node: &'a NodeProto, attributes: &mut Attributes<'a>) -> Result<usize> {
        for (name, default, expected) in [
            ("coordinate_transformation_mode", "half_pixel", "asymmetric"),
            ("mode", "nearest", "nearest"),
            ("nearest_mode", "round_prefer_floor", "floor"),
        ] {
            attributes.expect_word(name, default, expected)?;
        }
        require(node.input[1].is_empty(), "Resize has a region")?;
        let (scales, _) = self.numbers(&node.input[2])?;
        let &[1.0, 1.0, rows, cols] = scales else {
            return Err(Error::input(format!("Resize has the scales {scales:?}")));
        };
        let whole = rows == cols && rows.fract() == 0.0 && (1.0..=LARGEST_FACTOR).contains(&rows);
        require(whole, "Resize has no whole factor")?;
        Ok(rows as usize)
    }
}

/// Ops whose operands are those of the IR and that have no attributes.
fn without_attributes(op_type: &str) -> Option<Op> {
    Some(match op_type {
        "Add" => Add {}.into(),
        "Sub" => Sub {}.into(),
        "Mul" => Mul {}.into(),
        "MatMul" => Matmul { transpose_b: false }.into(),
        "Tanh" => Tanh {}.into(),
        "Sigmoid" => Sigmoid {}.into(),
        "Relu" => Relu {}.into(),
        "Sin" => Sin {}.into(),
        "Cos" => Cos {}.into(),
        _ => return None,
    })
}

/// Fails with words when a condition does not hold.
pub fn require(condition: bool, message: &str) -> Result<()> {
    if condition { Ok(()) } else { Err(Error::input(message)) }
}

/// A size, a bound or a count.
pub fn size(value: i64) -> Result<usize> {
    let size = usize::try_from(value).ok().filter(|&size| size <= LARGEST);
    size.ok_or_else(|| Error::input(format!("{value} is no size")))
}

fn sizes(values: &[i64]) -> Result<Vec<usize>> {
    values.iter().map(|&value| size(value)).collect()
}

/// An axis; a negative one counts from behind.
pub fn axis(value: i64, rank: usize) -> Result<usize> {
    let from_front = if value < 0 { value.checked_add(rank as i64) } else { Some(value) };
    let axis = from_front.and_then(|value| usize::try_from(value).ok()).filter(|&axis| axis < rank);
    axis.ok_or_else(|| Error::input(format!("there is no axis {value} of {rank}")))
}
