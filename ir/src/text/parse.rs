use std::collections::BTreeMap;

use crate::builder::Builder;
use crate::encoding::Factor;
use crate::error::{Error, Place, Result};
use crate::graph::{Graph, Stage, ValueId};
use crate::ops::Op;
use crate::types::{DType, TensorType};
use crate::weight::{Dim, Source, Transform, Weight};

type Parsed<T> = std::result::Result<T, String>;

/// The most numbers that an inline weight or the most elements that a type may have: a bound before memory is asked for.
const MOST_ELEMENTS: usize = 1 << 40;

/// Reads a graph from its text form.
///
/// # Errors
/// Where the text breaks the form or the graph breaks a rule, with the line.
pub fn parse(text: &str) -> Result<Graph> {
    let mut reader = Reader { builder: None, values: BTreeMap::new() };
    for (index, line) in text.lines().enumerate() {
        let content = line.split_once(';').map_or(line, |(content, _)| content).trim();
        if !content.is_empty() {
            reader.line(content).map_err(|message| Error::input(message).at(Place::Line(index + 1)))?;
        }
    }
    match reader.builder {
        Some(builder) => builder.finish(),
        None => Err(Error::input("the text has no line `graph NAME STAGE`")),
    }
}

struct Reader {
    builder: Option<Builder>,
    values: BTreeMap<String, ValueId>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Parsed<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        if word == "graph" {
            if self.builder.is_some() {
                return Err("a second graph".to_string());
            }
            let (name, stage) = rest.split_once(' ').ok_or("expected `graph NAME STAGE`")?;
            self.builder = Some(Builder::new(name, parse_stage(stage.trim())?));
            return Ok(());
        }
        let Reader { builder, values } = self;
        let builder = builder.as_mut().ok_or("expected `graph NAME STAGE` first")?;
        match word {
            "input" => {
                let (name, ty) = rest.split_once(": ").ok_or("expected `input %NAME: TYPE`")?;
                let plain = name.strip_prefix('%').ok_or("an input's name starts with %")?;
                let (ty, left) = parse_type(ty)?;
                expect_end(left)?;
                let value = builder.input(plain, ty);
                define(values, name, value)
            }
            "weight" => {
                let weight = parse_weight(rest)?;
                let name = format!("@{}", weight.name);
                let value = builder.weight(weight).map_err(|error| error.to_string())?;
                define(values, &name, value)
            }
            "scope" => {
                builder.set_scope(if rest == "-" { "" } else { rest });
                Ok(())
            }
            "output" => {
                let (name, value) = rest.split_once(' ').ok_or("expected `output NAME %VALUE`")?;
                builder.output(name, lookup(values, value.trim())?);
                Ok(())
            }
            _ => parse_node(builder, values, line),
        }
    }
}

fn define(values: &mut BTreeMap<String, ValueId>, name: &str, value: ValueId) -> Parsed<()> {
    match values.insert(name.to_string(), value) {
        None => Ok(()),
        Some(_) => Err(format!("{name} is made twice")),
    }
}

fn lookup(values: &BTreeMap<String, ValueId>, name: &str) -> Parsed<ValueId> {
    values.get(name).copied().ok_or_else(|| format!("{name} is not made before"))
}

fn parse_stage(text: &str) -> Parsed<Stage> {
    match text.split_once(' ') {
        None if text == "supernet" => Ok(Stage::Supernet),
        None if text == "subnet" => Ok(Stage::Subnet),
        Some(("legal", target)) => Ok(Stage::Legal(target.trim().to_string())),
        _ => Err(format!("`{text}` is no stage; the stages are supernet, subnet, legal TARGET")),
    }
}

fn parse_node(builder: &mut Builder, values: &mut BTreeMap<String, ValueId>, line: &str) -> Parsed<()> {
    let (results, rest) = line.split_once(" = ").ok_or("expected `%RESULT = OP OPERANDS : TYPE`")?;
    let (rest, types) = rest.rsplit_once(" : ").ok_or("expected ` : TYPE` at the end")?;
    let (head, attributes) = match rest.find('{') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (name, operands) = head.trim().split_once(' ').unwrap_or((head.trim(), ""));
    let op = Op::from_text(name, attributes)?;
    let operands: Vec<ValueId> = operands
        .split(',')
        .map(str::trim)
        .filter(|operand| !operand.is_empty())
        .map(|operand| lookup(values, operand))
        .collect::<Parsed<_>>()?;
    let made = builder.op(op, &operands).map_err(|error| error.to_string())?;
    let names: Vec<&str> = results.split(',').map(str::trim).collect();
    if names.len() != made.len() {
        return Err(format!("{name} gives {} results, {} are named", made.len(), names.len()));
    }
    let mut left = types;
    for (result, value) in names.into_iter().zip(made) {
        if !result.starts_with('%') {
            return Err(format!("`{result}`: a result's name starts with %"));
        }
        let (ty, rest) = parse_type(left)?;
        left = rest.trim_start().trim_start_matches(',').trim_start();
        if ty != *builder.ty(value) {
            return Err(format!("{result} is {}, the text says {ty}", builder.ty(value)));
        }
        define(values, result, value)?;
    }
    expect_end(left)
}

fn expect_end(left: &str) -> Parsed<()> {
    if left.trim().is_empty() { Ok(()) } else { Err(format!("`{}` is left over", left.trim())) }
}

fn parse_dims(text: &str) -> Parsed<(DType, Vec<Dim>, &str)> {
    let open = text.find('[').ok_or_else(|| format!("`{text}` is no type"))?;
    let close = text.find(']').filter(|&close| close > open).ok_or_else(|| format!("`{text}` is no type"))?;
    let dtype = text[..open].trim().parse()?;
    let dims: Vec<Dim> = text[open + 1..close]
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty())
        .map(parse_dim)
        .collect::<Parsed<_>>()?;
    let count = dims.iter().try_fold(1usize, |count, dim| {
        dim.chunks
            .checked_mul(dim.size)
            .and_then(|size| count.checked_mul(size))
            .filter(|&count| count <= MOST_ELEMENTS)
    });
    count.ok_or_else(|| format!("`{}` is too large", &text[..=close]))?;
    Ok((dtype, dims, &text[close + 1..]))
}

fn parse_dim(text: &str) -> Parsed<Dim> {
    Ok(match text.split_once('~') {
        None => Dim::fixed(number(text)?),
        Some(("", size)) => Dim::elastic(number(size)?),
        Some((chunks, size)) => {
            Dim::chunked(number(chunks.strip_suffix('x').ok_or("expected CHUNKSx~SIZE")?)?, number(size)?)
        }
    })
}

fn parse_type(text: &str) -> Parsed<(TensorType, &str)> {
    let (dtype, dims, left) = parse_dims(text)?;
    if dims.iter().any(|dim| dim.elastic) {
        return Err("only a weight has elastic axes".to_string());
    }
    Ok((TensorType::new(dtype, dims.iter().map(Dim::total).collect::<Vec<_>>()), left))
}

fn number(text: &str) -> Parsed<usize> {
    text.trim().parse().map_err(|_| format!("`{text}` is no size"))
}

fn numbers(text: &str) -> Parsed<Vec<usize>> {
    text.split_whitespace().map(number).collect()
}

fn parse_weight(text: &str) -> Parsed<Weight> {
    let (head, recipe) = text.split_once(" = ").ok_or("expected `weight @NAME: TYPE = SOURCE`")?;
    let (name, ty) = head.split_once(": ").ok_or("expected `weight @NAME: TYPE = SOURCE`")?;
    let name = name.strip_prefix('@').ok_or("a weight's name starts with @")?.to_string();
    let (dtype, dims, left) = parse_dims(ty)?;
    expect_end(left)?;
    if dtype == DType::BF16 {
        return Err("bf16 is a type of stored tensors, not of values".to_string());
    }
    // The last transform, as it holds a recipe of its own.
    let (recipe, steps) = match recipe.split_once(STEPS) {
        Some((recipe, steps)) => (recipe, Some(parse_steps(steps)?)),
        None => (recipe, None),
    };
    let mut parts = recipe.split(" | ");
    let source = parse_source(parts.next().unwrap_or_default().trim(), &name)?;
    let transforms = parts.map(parse_transform).chain(steps.map(Ok)).collect::<Parsed<_>>()?;
    Ok(Weight { name, source, transforms, dims, dtype })
}

/// What stands before the scale and the weight of steps.
const STEPS: &str = " | steps ";

fn parse_steps(text: &str) -> Parsed<Transform> {
    let (scale, of) = text.split_once(' ').ok_or("expected `steps SCALE @NAME: TYPE = SOURCE`")?;
    if of.contains(STEPS) {
        return Err("steps go by codes, which have none".to_string());
    }
    let scale = scale.parse().map_err(|_| format!("`{scale}` is no scale"))?;
    Ok(Transform::Steps { of: Box::new(parse_weight(of)?), scale })
}

fn parse_source(text: &str, weight: &str) -> Parsed<Source> {
    let (word, rest) = text.split_once(' ').ok_or_else(|| format!("`{text}` is no source"))?;
    match word {
        "tensor" => {
            let (ty, left) = parse_type(rest)?;
            let name = if left.trim().is_empty() { weight } else { left.trim() };
            Ok(Source::Tensor { name: name.to_string(), dtype: ty.dtype, shape: ty.shape })
        }
        "inline" => {
            let inner = rest.strip_prefix('[').ok_or("expected `inline [SIZES] [VALUES]`")?;
            let (sizes, values) = inner.split_once(']').ok_or("expected `inline [SIZES] [VALUES]`")?;
            let shape = numbers(sizes)?;
            let values = values.trim().strip_prefix('[').and_then(|text| text.strip_suffix(']'));
            let values: Vec<f32> = values
                .ok_or("expected `inline [SIZES] [VALUES]`")?
                .split(',')
                .map(|value| value.trim().parse().map_err(|_| format!("`{value}` is no number")))
                .collect::<Parsed<_>>()?;
            if shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size)) != Some(values.len()) {
                return Err(format!("{} values do not fill {shape:?}", values.len()));
            }
            Ok(Source::Inline { values, shape })
        }
        "table" => serde_json::from_str(rest).map(Source::Table).map_err(|error| format!("table: {error}")),
        _ => Err(format!("`{word}` is no source; the sources are tensor, inline, table")),
    }
}

fn parse_transform(text: &str) -> Parsed<Transform> {
    let (word, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    match word {
        "take" => {
            let (axis, keep) = rest.trim().split_once(' ').ok_or("expected `take AXIS KEEP`")?;
            let (chunks, keep) = keep.split_once('x').unwrap_or(("1", keep));
            Ok(Transform::Take { axis: number(axis)?, chunks: number(chunks)?, keep: number(keep)? })
        }
        "part" => match numbers(rest)?[..] {
            [axis, start, size] => Ok(Transform::Part { axis, start, size }),
            _ => Err("expected `part AXIS START SIZE`".to_string()),
        },
        "transpose" => Ok(Transform::Transpose(numbers(rest)?)),
        "reshape" => Ok(Transform::Reshape(numbers(rest)?)),
        "repeat" => Ok(Transform::Repeat(number(rest)?)),
        "double" => {
            rest.trim().parse().map(Transform::Double).map_err(|_| format!("`{rest}` is no power of two"))
        }
        "low_rank" => {
            let (rank, factor) = rest.trim().split_once(' ').ok_or("expected `low_rank RANK FACTOR`")?;
            let factor = Factor::ALL.into_iter().find(|known| known.name() == factor);
            let factor = factor.ok_or("a factor is left, right or rest")?;
            Ok(Transform::LowRank { rank: number(rank)?, factor })
        }
        "encode" => rest.parse().map(Transform::Encode),
        "decode" if rest.is_empty() => Ok(Transform::Decode),
        _ => Err(format!(
            "`{word}` is no transform; the transforms are take, part, transpose, reshape, repeat, double, low_rank, encode, decode, steps"
        )),
    }
}
