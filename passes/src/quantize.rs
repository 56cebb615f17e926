//! Which weights are stored as codes, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use snapc_ir::analysis::Flow;
use snapc_ir::ops::{FakeQuantize, Linear, Op};
use snapc_ir::{
    Code, Def, Encoding, Error, Factor, Graph, Node, Place, Result, Source, Stage, ValueId, Weight, rewrite,
    shape_text,
};

use crate::Pass;

/// Weights of fewer numbers stay as they are: their scales and their place in a file would weigh as much.
const FEWEST: usize = 1024;

/// How one weight is stored: codes, and beside them a low-rank product where a rank is given; and whether its layer multiplies codes.
/// Text form: `int4 group 32 gptq rank 16`, or `w8a8 gptq` for `int8 gptq` with activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    /// The encoding of the weight, or of what the product leaves of it.
    pub encoding: Encoding,
    /// The rank of the product; 0 is none.
    pub rank: usize,
    /// Whether what the weight is multiplied with is rounded to 8 bits, with one scale for all of it.
    pub activations: bool,
}

/// The word of `int8` with activations.
const ACTIVATIONS: &str = "w8a8";

impl Choice {
    /// An encoding alone.
    pub fn of(encoding: Encoding) -> Self {
        Choice { encoding, rank: 0, activations: false }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoding = self.encoding.to_string();
        match encoding.strip_prefix("int8").filter(|_| self.activations) {
            Some(method) => write!(f, "{ACTIVATIONS}{method}")?,
            None => f.write_str(&encoding)?,
        }
        if self.rank == 0 { Ok(()) } else { write!(f, " rank {}", self.rank) }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (encoding, rank) = text.split_once(" rank ").unwrap_or((text, "0"));
        let rank = rank.trim().parse().map_err(|_| format!("`{text}`: a rank is a number"))?;
        let method =
            encoding.strip_prefix(ACTIVATIONS).filter(|rest| rest.is_empty() || rest.starts_with(' '));
        match method {
            Some(_) if rank > 0 => Err(format!("`{text}`: {ACTIVATIONS} has no product beside it")),
            Some(method) => {
                let encoding: Encoding = format!("int8{method}").parse()?;
                match encoding.group {
                    Some(_) => Err(format!("`{text}`: {ACTIVATIONS} has a scale an output channel")),
                    None => Ok(Choice { activations: true, ..Choice::of(encoding) }),
                }
            }
            None => Ok(Choice { rank, ..Choice::of(encoding.parse()?) }),
        }
    }
}

/// What is asked for of a part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quantize {
    /// What every layer gets that may be encoded and is not named; none leaves them as they are.
    pub default: Option<Choice>,
    /// What single tensors of the checkpoint get, by name; none leaves one as it is.
    pub tensors: BTreeMap<String, Option<Choice>>,
    /// Palettes are stored as the numbers that they decode to: for targets that have none.
    pub decode_palettes: bool,
    /// For each layer, by its tensor, the largest |x| of what it is given and of what comes of it: scales of activations follow from
    /// these.
    pub largest: BTreeMap<String, [f32; 2]>,
    /// What comes of a layer with rounded activations is rounded too: for targets in which products of codes are codes.
    pub round_results: bool,
}

/// A layer whose weight may be encoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Its weight's name in the checkpoint.
    pub tensor: String,
    /// Its weight's name in the graph.
    pub weight: String,
    /// The sizes of the weight.
    pub shape: Vec<usize>,
    /// What it is multiplied with.
    pub input: ValueId,
    /// What comes of it.
    pub result: ValueId,
    /// Whether it stays as it is unless it is named: the first and the last layers.
    pub outer: bool,
}

/// Something that is done otherwise than was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Instead {
    /// The tensor.
    pub tensor: String,
    /// What it gets, and why.
    pub reason: String,
}

/// The layers whose weights may be encoded: linears and convolutions in one group whose weight comes from the checkpoint, has some size,
/// and is read by such layers alone. Not those that depend on the timestep alone: their precision is that of the whole modulation. First
/// layers read an input of the graph with no other layer between, last ones give an output so.
pub fn layers(graph: &Graph) -> Vec<Layer> {
    let of_time = match graph.inputs().iter().position(|port| port.name == "timestep") {
        Some(input) => Flow::new(graph).only_from(input),
        None => BTreeSet::new(),
    };
    let (first, last) = (behind_inputs(graph), before_outputs(graph));
    let mut found: BTreeMap<&str, Layer> = BTreeMap::new();
    let mut refused: BTreeSet<&str> = BTreeSet::new();
    for (id, node) in graph.nodes_with_ids() {
        for (number, &operand) in node.operands.iter().enumerate() {
            let Some(weight) = graph.as_weight(operand) else { continue };
            let Source::Tensor { name, .. } = &weight.source else { continue };
            let fits = number == 1 && is_layer(graph, node) && !of_time.contains(&id);
            if !fits || weight.ty().count() < FEWEST || weight.encoding().is_some() {
                refused.insert(&weight.name);
                continue;
            }
            let outer = first[node.operands[0].index()] || last[node.results[0].index()];
            let layer = found.entry(&weight.name).or_insert_with(|| Layer {
                tensor: name.clone(),
                weight: weight.name.clone(),
                shape: weight.shape(),
                input: node.operands[0],
                result: node.results[0],
                outer,
            });
            layer.outer |= outer;
        }
    }
    found.retain(|name, _| !refused.contains(name));
    // In the order of the graph.
    let place: BTreeMap<&str, usize> =
        graph.weights().iter().enumerate().map(|(place, weight)| (weight.name.as_str(), place)).collect();
    let mut layers: Vec<Layer> = found.into_values().collect();
    layers.sort_by_key(|layer| place.get(layer.weight.as_str()).copied());
    layers
}

fn is_layer(graph: &Graph, node: &Node) -> bool {
    match &node.op {
        Op::Linear(_) => true,
        Op::Conv2d(op) => op.groups(graph.ty(node.operands[0]), graph.ty(node.operands[1])) == 1,
        _ => false,
    }
}

/// What mixes channels: numbers behind it are not those before it.
fn mixes(node: &Node) -> bool {
    matches!(node.op, Op::Linear(_) | Op::Conv2d(_) | Op::Embedding(_) | Op::Matmul(_) | Op::Attention(_))
}

/// For each value, whether an input reaches it through no node that mixes.
fn behind_inputs(graph: &Graph) -> Vec<bool> {
    let mut reached = vec![false; graph.values().len()];
    graph.inputs().iter().for_each(|port| reached[port.value.index()] = true);
    for node in graph.nodes().iter().filter(|node| !mixes(node)) {
        if node.operands.iter().any(|id| reached[id.index()]) {
            node.results.iter().for_each(|id| reached[id.index()] = true);
        }
    }
    reached
}

/// For each value, whether nothing that mixes reads what comes of it.
fn before_outputs(graph: &Graph) -> Vec<bool> {
    let mut only = vec![true; graph.values().len()];
    for node in graph.nodes().iter().rev() {
        if mixes(node) || node.results.iter().any(|id| !only[id.index()]) {
            node.operands.iter().for_each(|id| only[id.index()] = false);
        }
    }
    only
}

impl Quantize {
    /// What each layer gets, by its weight's name in the graph, and what is not as it was asked for.
    ///
    /// # Errors
    /// A tensor is named that is no layer's.
    pub fn plan(&self, graph: &Graph) -> Result<(BTreeMap<String, Choice>, Vec<Instead>)> {
        let layers = layers(graph);
        let known = |name: &&String| !layers.iter().any(|layer| layer.tensor == **name);
        if let Some(name) = self.tensors.keys().find(known) {
            return Err(unknown(name, graph, &layers));
        }
        let (mut plan, mut instead) = (BTreeMap::new(), Vec::new());
        for layer in &layers {
            let own = self.tensors.get(&layer.tensor);
            let Some(asked) = own.copied().unwrap_or(self.default.filter(|_| !layer.outer)) else { continue };
            let (choice, reason) = fitting(asked, &layer.shape);
            if let Some(reason) = reason {
                instead.push(Instead { tensor: layer.tensor.clone(), reason });
            }
            plan.insert(layer.weight.clone(), choice);
        }
        Ok((plan, instead))
    }
}

/// What comes nearest to a choice for a weight of that shape, and why where it is another one.
fn fitting(asked: Choice, shape: &[usize]) -> (Choice, Option<String>) {
    let Choice { mut encoding, rank, activations } = asked;
    let matrix = shape.len() == 2;
    let mut reason = None;
    match encoding.code {
        Code::Int { bits: 4 } if !matrix => {
            encoding = Encoding { code: Code::Int { bits: 8 }, group: None, ..encoding };
            reason = Some("8 bits: no runtime has convolutions of 4".to_string());
        }
        Code::Int { .. } if encoding.group.is_some() && encoding.blocks(shape).is_none() => {
            let inputs = shape[1];
            encoding = Encoding { code: Code::Int { bits: 8 }, group: None, ..encoding };
            reason = Some(format!("8 bits an output channel: groups do not divide its {inputs} inputs"));
        }
        Code::Palette { .. } if encoding.group.is_some() && encoding.blocks(shape).is_none() => {
            encoding.group = None;
            reason = Some(format!("one table: groups do not divide its {} output channels", shape[0]));
        }
        _ => {}
    }
    if !matrix {
        encoding.method = Default::default();
    }
    let largest = if matrix { shape[0].min(shape[1]) } else { 0 };
    if !matrix || rank <= largest {
        return (Choice { encoding, rank: rank.min(largest), activations }, reason);
    }
    let none = format!("no product beside it: a weight of {} has no rank of {rank}", shape_text(shape));
    let reason = reason.map_or(none.clone(), |first| format!("{first}; {none}"));
    (Choice { encoding, rank: 0, activations }, Some(reason))
}

fn unknown(name: &str, graph: &Graph, layers: &[Layer]) -> Error {
    let of_graph =
        |weight: &&Weight| matches!(&weight.source, Source::Tensor { name: own, .. } if own == name);
    let part = graph.name();
    let error = match graph.weights().iter().find(of_graph) {
        Some(_) => Error::input(format!("the {part}'s {name} cannot be encoded"))
            .help("weights of linears and convolutions can, of some size and not on the time path; norms, biases and embeddings stay"),
        None => {
            let close = layers.iter().filter(|layer| layer.tensor.ends_with(name.rsplit('.').next().unwrap_or(name)));
            let close: Vec<&str> = close.take(3).map(|layer| layer.tensor.as_str()).collect();
            Error::input(format!("the {part} has no tensor {name}"))
                .help(format!("it has {} layers, such as {}", layers.len(), close.join(", ")))
        }
    };
    error.at(Place::Tensor(name.to_string()))
}

/// Stores weights as codes. Their values' types stay: no op knows of it. With a rank, a layer becomes two: what is encoded, and a
/// narrow product beside it.
pub struct QuantizePass {
    /// What is asked for; none leaves the graph as it is.
    pub quantize: Option<Quantize>,
}

impl Pass for QuantizePass {
    fn name(&self) -> &'static str {
        "quantize"
    }

    fn leaves(&self, stage: &Stage) -> Option<Stage> {
        (*stage == Stage::Subnet).then_some(Stage::Subnet)
    }

    fn run(&self, graph: &Graph) -> Result<Graph> {
        let Some(quantize) = &self.quantize else { return Ok(graph.clone()) };
        let (plan, _) = quantize.plan(graph)?;
        let encode = |mut weight: Weight, encoding: Encoding| -> Result<Weight> {
            weight.encode(encoding)?;
            if quantize.decode_palettes && matches!(encoding.code, Code::Palette { .. }) {
                weight.decode()?;
            }
            Ok(weight)
        };
        let whole = |weight: Weight| match plan.get(&weight.name) {
            Some(Choice { encoding, rank: 0, .. }) => encode(weight, *encoding),
            _ => Ok(weight),
        };
        let scales = quantize.scales(graph, &plan)?;
        let mut rounded: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        rewrite(graph, graph.stage().clone(), whole, |builder, node| {
            if let Some(result) = scales.of_layer(graph, node.node) {
                let x = node.node.operands[0];
                let mut operands = node.operands.clone();
                operands[0] = match rounded.get(&x) {
                    Some(&known) => known,
                    None => builder.one(FakeQuantize { scale: scales.inputs[&x] }, &operands[..1])?,
                };
                rounded.insert(x, operands[0]);
                let y = builder.one(node.op().clone(), &operands)?;
                return Ok(Some(vec![match result {
                    Some(scale) => builder.one(FakeQuantize { scale }, &[y])?,
                    None => y,
                }]));
            }
            let weight = node.node.operands.get(1).and_then(|&id| graph.as_weight(id));
            let choice = weight.and_then(|weight| plan.get(&weight.name)).filter(|choice| choice.rank > 0);
            let (Some(weight), Some(&Choice { encoding, rank, .. }), Op::Linear(Linear {})) =
                (weight, choice, node.op())
            else {
                return Ok(None);
            };
            let part = |factor: Factor| -> Result<Weight> {
                let mut part = weight.clone();
                part.name = format!("{}.{}", weight.name, factor.name());
                part.low_rank(rank, factor).map_err(|error| error.at(Place::Tensor(weight.name.clone())))?;
                Ok(part)
            };
            let rest = builder.weight(encode(part(Factor::Rest)?, encoding)?)?;
            let [left, right] = [Factor::Left, Factor::Right].map(part);
            let (left, right) = (builder.weight(left?)?, builder.weight(right?)?);
            let y = builder.linear(node.operands[0], rest, node.operands.get(2).copied())?;
            let narrow = builder.linear(node.operands[0], right, None)?;
            let product = builder.linear(narrow, left, None)?;
            Ok(Some(vec![builder.add(y, product)?]))
        })
    }
}

/// The scales of activations.
struct Scales {
    /// Of what layers read: one for all that read the same.
    inputs: BTreeMap<ValueId, f32>,
    /// For each weight of such a layer the scale of its results, where these are rounded.
    results: BTreeMap<String, Option<f32>>,
}

impl Scales {
    /// For a layer with rounded activations the scale of its result, where that is rounded too.
    fn of_layer(&self, graph: &Graph, node: &Node) -> Option<Option<f32>> {
        let weight = node.operands.get(1).and_then(|&id| graph.as_weight(id))?;
        self.results.get(&weight.name).copied()
    }
}

impl Quantize {
    fn scales(&self, graph: &Graph, plan: &BTreeMap<String, Choice>) -> Result<Scales> {
        let (mut largest, mut results) = (BTreeMap::<ValueId, f32>::new(), BTreeMap::new());
        for node in graph.nodes() {
            let weight = node.operands.get(1).and_then(|&id| graph.as_weight(id));
            let Some(weight) =
                weight.filter(|weight| plan.get(&weight.name).is_some_and(|own| own.activations))
            else {
                continue;
            };
            let Source::Tensor { name, .. } = &weight.source else { continue };
            let &[input, result] = self.largest.get(name).ok_or_else(|| {
                Error::input("the calibration does not say how large its inputs and results become")
                    .at(Place::Tensor(name.clone()))
                    .help("run `snapc calibrate` again, with this pipeline and subnet, and name its file with --calibration")
            })?;
            let known = largest.entry(node.operands[0]).or_default();
            *known = known.max(input);
            results.insert(weight.name.clone(), self.round_results.then(|| scale(result)));
        }
        let inputs = largest.into_iter().map(|(id, largest)| (id, scale(largest))).collect();
        Ok(Scales { inputs, results })
    }
}

/// The scale whose largest code stands for the largest number, in the 11 bits that f16 has, so that all targets have the same one.
fn scale(largest: f32) -> f32 {
    const DROPPED: u32 = 13;
    // All was zero: any scale will do.
    if largest == 0.0 {
        return 1.0;
    }
    let bits = (largest / FakeQuantize::LARGEST).max(f32::MIN_POSITIVE).to_bits();
    f32::from_bits((bits + (1 << (DROPPED - 1))) >> DROPPED << DROPPED)
}

/// Weights of a graph that are stored as codes, by the name of their tensor.
pub fn encoded(graph: &Graph) -> Vec<(&str, &Weight)> {
    let weights = graph.values().iter().filter_map(|value| match value.def {
        Def::Weight(id) => Some(graph.weight(id)),
        _ => None,
    });
    weights
        .filter(|weight| weight.encoding().is_some())
        .map(|weight| match &weight.source {
            Source::Tensor { name, .. } => (name.as_str(), weight),
            Source::Inline { .. } | Source::Table(_) => (weight.name.as_str(), weight),
        })
        .collect()
}
