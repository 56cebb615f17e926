//! MIL's operations as ops of a graph. Each parameter must have the value with which the operation means what the op
//! means (coremltools, `converters/mil/mil/ops/defs`); any other parameter is refused.

use std::collections::BTreeMap;

use coreml_proto::proto::mil_spec::{Argument, DataType, Operation};
use snapc_ir::ops::{
    Add, Cast, Concat, Conv2d, Cos, Embedding, FakeQuantize, Gelu, GeluForm, LayerNorm, Layout, Linear,
    Matmul, Mul, Op, ReduceMean, Relu, Reshape, Rsqrt, Sigmoid, Silu, Sin, Slice, Softmax, Split, Sub, Tanh,
    Transpose, UpsampleNearest,
};
use snapc_ir::{DType, ValueId};

use super::Reading;
use super::constants::Numbers;
use super::program::{Codes, Reader, bound_names};

/// The largest epsilon of `rsqrt` that is taken for none: beside the 1e-6 that a norm adds itself, it moves the result by
/// 5e-7 of it at most.
const LARGEST_RSQRT_EPSILON: f32 = 1e-12;

/// The first specification whose `gather` has `validate_indices`.
const IOS17: i32 = 8;

/// Reads an operation; its results in order.
pub fn read(reader: &mut Reader, operation: &Operation) -> Reading<Vec<ValueId>> {
    let mut inputs = BTreeMap::new();
    for (name, argument) in &operation.inputs {
        inputs.insert(name.as_str(), argument);
    }
    let mut call = Call { reader, inputs, outputs: operation.outputs.len() };
    let results = match operation.r#type.as_str() {
        "linear" => call.linear(),
        "conv" => call.conv(),
        "gather" => call.gather(),
        "layer_norm" => call.layer_norm(),
        "gelu" => call.gelu(),
        "split" => call.split(),
        "concat" => call.concat(),
        "upsample_nearest_neighbor" => call.upsample(),
        "add" => call.binary(Add {}.into()),
        "sub" => call.binary(Sub {}.into()),
        "mul" => call.binary(Mul {}.into()),
        "matmul" => call.matmul(),
        "softmax" => call.softmax(),
        "reduce_mean" => call.reduce_mean(),
        "rsqrt" => call.rsqrt(),
        "silu" => call.unary(Silu {}.into()),
        "tanh" => call.unary(Tanh {}.into()),
        "sigmoid" => call.unary(Sigmoid {}.into()),
        "relu" => call.unary(Relu {}.into()),
        "sin" => call.unary(Sin {}.into()),
        "cos" => call.unary(Cos {}.into()),
        "transpose" => call.transpose(),
        "reshape" => call.reshape(),
        "slice_by_index" => call.slice(),
        "cast" => call.cast(),
        "dequantize" => call.dequantize(),
        "identity" => Ok(vec![call.operand("x")?]),
        _ => Err("snapc does not write this operation".to_string()),
    }?;
    call.end()?;
    Ok(results)
}

/// Reads a `quantize`.
pub fn quantize(reader: &mut Reader, operation: &Operation) -> Reading<Codes> {
    let inputs = operation.inputs.iter().map(|(name, argument)| (name.as_str(), argument)).collect();
    let mut call = Call { reader, inputs, outputs: operation.outputs.len() };
    let x = call.operand("input")?;
    let dtype = call.reader.ty(x).dtype;
    let scale = call.float("scale", dtype)?;
    if call.text("output_dtype")? != "int8" {
        return Err("it does not give int8".to_string());
    }
    call.end()?;
    Ok(Codes { x, scale })
}

/// An operation whose parameters are taken one by one.
struct Call<'a> {
    reader: &'a mut Reader,
    inputs: BTreeMap<&'a str, &'a Argument>,
    outputs: usize,
}

impl Call<'_> {
    fn end(&self) -> Reading<()> {
        match self.inputs.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("its parameter {name} is none that snapc writes")),
        }
    }

    fn names(&mut self, parameter: &str) -> Reading<Vec<&str>> {
        let argument = self.inputs.remove(parameter).ok_or_else(|| format!("it has no {parameter}"))?;
        bound_names(argument)
    }

    fn operand(&mut self, parameter: &str) -> Reading<ValueId> {
        let argument = self.inputs.remove(parameter).ok_or_else(|| format!("it has no {parameter}"))?;
        match bound_names(argument)?[..] {
            [name] => self.reader.value(name),
            _ => Err(format!("its {parameter} is a list")),
        }
    }

    /// An operand that must be a constant.
    fn weight(&mut self, parameter: &str) -> Reading<ValueId> {
        let value = self.operand(parameter)?;
        if self.reader.is_constant(value) {
            Ok(value)
        } else {
            Err(format!("its {parameter} is not constant"))
        }
    }

    fn optional_weight(&mut self, parameter: &str) -> Reading<Option<ValueId>> {
        if self.inputs.contains_key(parameter) { self.weight(parameter).map(Some) } else { Ok(None) }
    }

    fn constant(&mut self, parameter: &str) -> Reading<(DataType, Vec<usize>, Numbers)> {
        let argument = self.inputs.remove(parameter).ok_or_else(|| format!("it has no {parameter}"))?;
        let [name] = bound_names(argument)?[..] else { return Err(format!("its {parameter} is a list")) };
        let constant = self.reader.constant_named(name)?;
        Ok((constant.data_type, constant.shape.clone(), constant.numbers.clone()))
    }

    fn sizes(&mut self, parameter: &str, axes: usize) -> Reading<Vec<usize>> {
        let (_, shape, numbers) = self.constant(parameter)?;
        let sizes: Option<Vec<usize>> = match &numbers {
            Numbers::Ints(values) if shape.len() == axes => {
                values.iter().map(|&value| usize::try_from(value).ok()).collect()
            }
            _ => None,
        };
        sizes.ok_or_else(|| format!("its {parameter} is not of integers from 0 on"))
    }

    fn ints(&mut self, parameter: &str) -> Reading<Vec<usize>> {
        self.sizes(parameter, 1)
    }

    fn int(&mut self, parameter: &str) -> Reading<usize> {
        Ok(self.sizes(parameter, 0)?[0])
    }

    fn bools(&mut self, parameter: &str) -> Reading<Vec<bool>> {
        match self.constant(parameter)? {
            (_, shape, Numbers::Bools(values)) if shape.len() == 1 => Ok(values),
            _ => Err(format!("its {parameter} is no list of truth values")),
        }
    }

    fn text(&mut self, parameter: &str) -> Reading<String> {
        match self.constant(parameter)? {
            (_, shape, Numbers::Text(text)) if shape.is_empty() => Ok(text),
            _ => Err(format!("its {parameter} is no text")),
        }
    }

    /// A number of the type that x has.
    fn float(&mut self, parameter: &str, dtype: DType) -> Reading<f32> {
        let expected = if dtype == DType::F16 { DataType::Float16 } else { DataType::Float32 };
        match self.constant(parameter)? {
            (data_type, shape, Numbers::Floats(values)) if shape.is_empty() && data_type == expected => {
                Ok(values[0])
            }
            _ => Err(format!("its {parameter} is no number of {dtype}")),
        }
    }

    /// Takes a truth value that must be `expected`.
    fn expect_bool(&mut self, parameter: &str, expected: bool) -> Reading<()> {
        match self.constant(parameter)? {
            (_, shape, Numbers::Bools(values)) if shape.is_empty() && values == [expected] => Ok(()),
            _ => Err(format!("its {parameter} is not {expected}")),
        }
    }

    /// Takes an integer that must be `expected`.
    fn expect_int(&mut self, parameter: &str, expected: usize) -> Reading<()> {
        match self.int(parameter)? {
            value if value == expected => Ok(()),
            value => Err(format!("its {parameter} is {value}, expected {expected}")),
        }
    }

    fn rank(&self, value: ValueId) -> usize {
        self.reader.ty(value).rank()
    }

    fn last_axis(&self, value: ValueId) -> Reading<usize> {
        self.rank(value).checked_sub(1).ok_or_else(|| "its x is a scalar".to_string())
    }

    fn unary(&mut self, op: Op) -> Reading<Vec<ValueId>> {
        let x = self.operand("x")?;
        self.reader.node(op, &[x])
    }

    fn binary(&mut self, op: Op) -> Reading<Vec<ValueId>> {
        let operands = [self.operand("x")?, self.operand("y")?];
        self.reader.node(op, &operands)
    }

    fn linear(&mut self) -> Reading<Vec<ValueId>> {
        let mut operands = vec![self.operand("x")?, self.weight("weight")?];
        operands.extend(self.optional_weight("bias")?);
        if !(1..=3).contains(&self.rank(operands[0])) {
            return Err("its x has not 1 to 3 axes".to_string());
        }
        self.reader.node(Linear {}, &operands)
    }

    fn matmul(&mut self) -> Reading<Vec<ValueId>> {
        let operands = [self.operand("x")?, self.operand("y")?];
        self.expect_bool("transpose_x", false)?;
        let transpose_b = match self.constant("transpose_y")? {
            (_, shape, Numbers::Bools(values)) if shape.is_empty() => values[0],
            _ => return Err("its transpose_y is no truth value".to_string()),
        };
        self.reader.node(Matmul { transpose_b }, &operands)
    }

    fn conv(&mut self) -> Reading<Vec<ValueId>> {
        let mut operands = vec![self.operand("x")?, self.weight("weight")?];
        operands.extend(self.optional_weight("bias")?);
        let stride = match self.ints("strides")?[..] {
            [rows, cols] if rows == cols => rows,
            _ => return Err("its strides differ, or are not two".to_string()),
        };
        if self.ints("dilations")? != [1, 1] {
            return Err("it is dilated".to_string());
        }
        let pad = self.ints("pad")?;
        let padding = match (self.text("pad_type")?.as_str(), &pad[..]) {
            ("valid", [0, 0, 0, 0]) => 0,
            ("custom", [top, rest @ ..]) if rest.len() == 3 && rest.iter().all(|side| side == top) => *top,
            (kind, _) => return Err(format!("its padding is {pad:?} of kind {kind}")),
        };
        let groups = self.int("groups")?;
        let (x, weight) = (self.reader.ty(operands[0]), self.reader.ty(operands[1]));
        if x.rank() != 4 || weight.rank() != 4 || weight.shape[1].checked_mul(groups) != Some(x.shape[1]) {
            return Err(format!("{groups} groups of {weight} do not fit {x}"));
        }
        self.reader.node(Conv2d { stride, padding, layout: Layout::Nchw }, &operands)
    }

    fn gather(&mut self) -> Reading<Vec<ValueId>> {
        let operands = [self.operand("indices")?, self.operand("x")?];
        self.expect_int("axis", 0)?;
        self.expect_int("batch_dims", 0)?;
        if self.reader.specification >= IOS17 {
            self.expect_bool("validate_indices", false)?;
        }
        self.reader.node(Embedding {}, &operands)
    }

    fn layer_norm(&mut self) -> Reading<Vec<ValueId>> {
        let x = self.operand("x")?;
        let mut operands = vec![x];
        operands.extend(self.optional_weight("gamma")?);
        if let Some(beta) = self.optional_weight("beta")? {
            if operands.len() == 1 {
                return Err("it has a beta without a gamma".to_string());
            }
            operands.push(beta);
        }
        if self.ints("axes")? != [self.last_axis(x)?] {
            return Err("it is not over the last axis".to_string());
        }
        let dtype = self.reader.ty(x).dtype;
        let eps = self.float("epsilon", dtype)?;
        self.reader.node(LayerNorm { eps }, &operands)
    }

    fn gelu(&mut self) -> Reading<Vec<ValueId>> {
        let form = match self.text("mode")?.as_str() {
            "EXACT" => GeluForm::Erf,
            "TANH_APPROXIMATION" => GeluForm::Tanh,
            mode => return Err(format!("snapc does not write its mode {mode}")),
        };
        self.unary(Gelu { form }.into())
    }

    fn softmax(&mut self) -> Reading<Vec<ValueId>> {
        let x = self.operand("x")?;
        let last = self.last_axis(x)?;
        self.expect_int("axis", last)?;
        self.reader.node(Softmax {}, &[x])
    }

    fn reduce_mean(&mut self) -> Reading<Vec<ValueId>> {
        let [axis] = self.ints("axes")?[..] else { return Err("it is not over one axis".to_string()) };
        self.expect_bool("keep_dims", true)?;
        self.unary(ReduceMean { axis }.into())
    }

    fn rsqrt(&mut self) -> Reading<Vec<ValueId>> {
        let x = self.operand("x")?;
        let dtype = self.reader.ty(x).dtype;
        let epsilon = self.float("epsilon", dtype)?;
        if !(0.0..=LARGEST_RSQRT_EPSILON).contains(&epsilon) {
            return Err(format!("its epsilon is {epsilon:e}, expected at most {LARGEST_RSQRT_EPSILON:e}"));
        }
        self.reader.node(Rsqrt {}, &[x])
    }

    fn split(&mut self) -> Reading<Vec<ValueId>> {
        let (parts, axis) = (self.int("num_splits")?, self.int("axis")?);
        // Compared here, so that a large number makes no long list of results.
        if parts != self.outputs {
            return Err(format!("it has {} outputs, its num_splits is {parts}", self.outputs));
        }
        self.unary(Split { axis, parts }.into())
    }

    fn concat(&mut self) -> Reading<Vec<ValueId>> {
        let names: Vec<String> = self.names("values")?.into_iter().map(str::to_string).collect();
        let operands: Vec<ValueId> =
            names.iter().map(|name| self.reader.value(name)).collect::<Reading<_>>()?;
        let axis = self.int("axis")?;
        self.expect_bool("interleave", false)?;
        self.reader.node(Concat { axis }, &operands)
    }

    fn upsample(&mut self) -> Reading<Vec<ValueId>> {
        let factor = self.int("scale_factor_height")?;
        self.expect_int("scale_factor_width", factor)?;
        self.unary(UpsampleNearest { factor }.into())
    }

    fn transpose(&mut self) -> Reading<Vec<ValueId>> {
        let perm = self.ints("perm")?;
        self.unary(Transpose { perm }.into())
    }

    /// A 0 copies a size of x, another one in each opset.
    fn reshape(&mut self) -> Reading<Vec<ValueId>> {
        let shape = self.ints("shape")?;
        if shape.contains(&0) {
            return Err("its shape has a 0".to_string());
        }
        self.unary(Reshape { shape }.into())
    }

    /// Axes are cut with steps of 1; the masks keep the others whole.
    fn slice(&mut self) -> Reading<Vec<ValueId>> {
        let x = self.operand("x")?;
        let rank = self.rank(x);
        let (begin, end, stride) = (self.ints("begin")?, self.ints("end")?, self.ints("stride")?);
        let (from_start, to_end) = (self.bools("begin_mask")?, self.bools("end_mask")?);
        if begin.len() != rank || end.len() != rank || from_start.len() != rank || from_start != to_end {
            return Err("its bounds and masks do not fit x".to_string());
        }
        if stride != vec![1; rank] || self.bools("squeeze_mask")? != vec![false; rank] {
            return Err("it has steps or drops axes".to_string());
        }
        let (mut starts, mut sizes) = (vec![0; rank], self.reader.ty(x).shape.clone());
        for axis in (0..rank).filter(|&axis| !from_start[axis]) {
            (starts[axis], sizes[axis]) = (begin[axis], end[axis].saturating_sub(begin[axis]));
        }
        self.reader.node(Slice { starts, sizes }, &[x])
    }

    /// Back by the scale that the codes were made by, with no zero point either.
    fn dequantize(&mut self) -> Reading<Vec<ValueId>> {
        let name = match self.names("input")?[..] {
            [name] => name.to_string(),
            _ => return Err("its input is a list".to_string()),
        };
        let Codes { x, scale } = self.reader.take_codes(&name)?;
        let dtype = self.reader.ty(x).dtype;
        let back = self.float("scale", dtype)?;
        if back != scale {
            return Err(format!("its scale is {back}, that of its codes {scale}"));
        }
        self.reader.node(FakeQuantize { scale }, &[x])
    }

    fn cast(&mut self) -> Reading<Vec<ValueId>> {
        let dtype = match self.text("dtype")?.as_str() {
            "fp16" => DType::F16,
            "fp32" => DType::F32,
            other => return Err(format!("snapc does not write casts to {other}")),
        };
        self.unary(Cast { dtype }.into())
    }
}
