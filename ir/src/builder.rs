//! The only way to make a graph: every type is inferred as nodes are added, and what no output reaches is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Place, Result};
use crate::graph::{Def, Graph, Node, NodeId, Port, Stage, Value, ValueId, ValueIds, WeightId};
use crate::ops::{
    Add, Cast, Concat, Cos, Linear, Matmul, Mul, Op, ReduceMean, Reshape, Rsqrt, Sigmoid, Sin, Slice,
    Softmax, Sub, Tanh, Transpose,
};
use crate::types::{DType, TensorType};
use crate::verify::verify;
use crate::weight::{Dim, Weight};

/// Makes a graph.
pub struct Builder {
    graph: Graph,
    scope: Arc<str>,
    weights: BTreeMap<String, ValueId>,
}

impl Builder {
    /// An empty graph.
    pub fn new(name: impl Into<String>, stage: Stage) -> Self {
        let graph = Graph {
            name: name.into(),
            stage,
            values: Vec::new(),
            nodes: Vec::new(),
            weights: Vec::new(),
            weight_values: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        Builder { graph, scope: Arc::default(), weights: BTreeMap::new() }
    }

    /// As [`Builder::new`], with room for as many nodes as `graph` has, which it will be much like.
    pub(crate) fn like(graph: &Graph, stage: Stage) -> Self {
        let mut builder = Builder::new(graph.name(), stage);
        builder.graph.nodes.reserve_exact(graph.nodes.len());
        builder.graph.values.reserve_exact(graph.values.len());
        builder
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        self.graph.ty(id)
    }

    /// The weight behind a value, if it is one.
    pub fn as_weight(&self, id: ValueId) -> Option<&Weight> {
        self.graph.as_weight(id)
    }

    /// The node that makes a value; `None` for inputs and weights.
    pub fn maker(&self, id: ValueId) -> Option<&Node> {
        match self.graph.value(id).def {
            Def::Result(node, _) => Some(self.graph.node(node)),
            _ => None,
        }
    }

    /// What the next nodes belong to, as a path in the checkpoint; returns what was set before.
    pub fn set_scope(&mut self, scope: impl Into<Arc<str>>) -> Arc<str> {
        std::mem::replace(&mut self.scope, scope.into())
    }

    /// Runs `body` with `name` appended to the path.
    pub fn scoped<T>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let inner = if self.scope.is_empty() { name.to_string() } else { format!("{}.{name}", self.scope) };
        let outer = self.set_scope(inner);
        let result = body(self);
        self.set_scope(outer);
        result
    }

    /// The path of the next nodes.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    fn push_value(&mut self, ty: TensorType, def: Def) -> ValueId {
        self.graph.values.push(Value { ty, def });
        ValueId(self.graph.values.len() as u32 - 1)
    }

    /// Adds an input.
    pub fn input(&mut self, name: impl Into<String>, ty: TensorType) -> ValueId {
        let value = self.push_value(ty, Def::Input(self.graph.inputs.len()));
        self.graph.inputs.push(Port { name: name.into(), value });
        value
    }

    /// Adds a weight, or finds the equal one of that name.
    ///
    /// # Errors
    /// If another recipe has that name.
    pub fn weight(&mut self, weight: Weight) -> Result<ValueId> {
        if let Some(&value) = self.weights.get(&weight.name) {
            if self.graph.as_weight(value) == Some(&weight) {
                return Ok(value);
            }
            return Err(Error::bug("two weights have one name").at(Place::Tensor(weight.name)));
        }
        let value = self.push_value(weight.ty(), Def::Weight(WeightId(self.graph.weights.len() as u32)));
        self.weights.insert(weight.name.clone(), value);
        self.graph.weights.push(weight);
        self.graph.weight_values.push(value);
        Ok(value)
    }

    /// Names an output.
    pub fn output(&mut self, name: impl Into<String>, value: ValueId) {
        self.graph.outputs.push(Port { name: name.into(), value });
    }

    /// Adds a node.
    ///
    /// # Errors
    /// If the operands do not fit the op.
    pub fn op(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<Vec<ValueId>> {
        let op = op.into();
        let types: Vec<&TensorType> = operands.iter().map(|&id| self.graph.ty(id)).collect();
        let inferred = op.infer(&types).map_err(|reason| {
            Error::input(format!("{}: {reason}", op.name())).at(Place::Node(self.scope.to_string()))
        })?;
        let node = NodeId(self.graph.nodes.len() as u32);
        let results: ValueIds = inferred
            .into_iter()
            .enumerate()
            .map(|(number, ty)| self.push_value(ty, Def::Result(node, number)))
            .collect();
        let scope = self.scope.clone();
        self.graph.nodes.push(Node { op, operands: operands.into(), results: results.clone(), scope });
        Ok(results.into_vec())
    }

    /// Adds a node that has one result.
    ///
    /// # Errors
    /// If the operands do not fit the op.
    pub fn one(&mut self, op: impl Into<Op>, operands: &[ValueId]) -> Result<ValueId> {
        Ok(self.op(op, operands)?[0])
    }

    /// Drops what no output reaches (inputs stay), checks the rules and gives the graph.
    ///
    /// # Errors
    /// If a rule of [`verify`] is broken.
    pub fn finish(self) -> Result<Graph> {
        let graph = prune(self.graph);
        verify(&graph)?;
        Ok(graph)
    }
}

/// What frontends, expansions and rules write often. Each says no more than its op does.
#[allow(missing_docs)]
impl Builder {
    pub fn linear(&mut self, x: ValueId, weight: ValueId, bias: Option<ValueId>) -> Result<ValueId> {
        let mut operands = vec![x, weight];
        operands.extend(bias);
        self.one(Linear {}, &operands)
    }

    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.one(Add {}, &[a, b])
    }

    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.one(Sub {}, &[a, b])
    }

    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.one(Mul {}, &[a, b])
    }

    pub fn matmul(&mut self, a: ValueId, b: ValueId, transpose_b: bool) -> Result<ValueId> {
        self.one(Matmul { transpose_b }, &[a, b])
    }

    pub fn softmax(&mut self, x: ValueId) -> Result<ValueId> {
        self.one(Softmax {}, &[x])
    }

    pub fn reduce_mean(&mut self, x: ValueId, axis: usize) -> Result<ValueId> {
        self.one(ReduceMean { axis }, &[x])
    }

    pub fn rsqrt(&mut self, x: ValueId) -> Result<ValueId> {
        self.one(Rsqrt {}, &[x])
    }

    pub fn sigmoid(&mut self, x: ValueId) -> Result<ValueId> {
        self.one(Sigmoid {}, &[x])
    }

    pub fn tanh(&mut self, x: ValueId) -> Result<ValueId> {
        self.one(Tanh {}, &[x])
    }

    pub fn sin(&mut self, x: ValueId) -> Result<ValueId> {
        self.one(Sin {}, &[x])
    }

    pub fn cos(&mut self, x: ValueId) -> Result<ValueId> {
        self.one(Cos {}, &[x])
    }

    /// A scalar weight of the type of `like`.
    fn scalar(&mut self, value: f32, like: ValueId) -> Result<ValueId> {
        let dtype = self.ty(like).dtype;
        let scalar = self.weight(Weight::inline(format!("scalar.{value}"), vec![value], vec![]))?;
        self.cast_weight(scalar, dtype)
    }

    pub fn add_scalar(&mut self, x: ValueId, value: f32) -> Result<ValueId> {
        let scalar = self.scalar(value, x)?;
        self.add(x, scalar)
    }

    pub fn mul_scalar(&mut self, x: ValueId, value: f32) -> Result<ValueId> {
        let scalar = self.scalar(value, x)?;
        self.mul(x, scalar)
    }

    /// One operand alone is that operand.
    pub fn concat(&mut self, parts: &[ValueId], axis: usize) -> Result<ValueId> {
        if let [only] = parts {
            return Ok(*only);
        }
        self.one(Concat { axis }, parts)
    }

    /// A slice of the whole axis is its operand.
    pub fn slice(&mut self, x: ValueId, axis: usize, start: usize, size: usize) -> Result<ValueId> {
        let shape = &self.ty(x).shape;
        if start == 0 && shape.get(axis) == Some(&size) {
            return Ok(x);
        }
        if axis >= shape.len() {
            return Err(Error::bug(format!("{} has no axis {axis}", self.ty(x))));
        }
        let slice = Slice::of_axis(shape, axis, start, size);
        self.one(slice, &[x])
    }

    /// A slice of everything is its operand.
    pub fn slice_all(&mut self, x: ValueId, starts: &[usize], sizes: &[usize]) -> Result<ValueId> {
        if self.ty(x).shape == sizes {
            return Ok(x);
        }
        self.one(Slice { starts: starts.to_vec(), sizes: sizes.to_vec() }, &[x])
    }

    /// Changes the recipe where `x` is a weight; the operand itself where nothing changes.
    pub fn reshape(&mut self, x: ValueId, shape: impl Into<Vec<usize>>) -> Result<ValueId> {
        let shape = shape.into();
        if self.ty(x).shape == shape {
            return Ok(x);
        }
        if let Some((stored, dtype)) = self.cast_of_weight(x) {
            let reshaped = self.reshape(stored, shape)?;
            return self.one(Cast { dtype }, &[reshaped]);
        }
        if let Some(weight) = self.as_weight(x) {
            let mut weight = weight.clone();
            let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
            weight.name = format!("{}.as.{}", weight.name, sizes.join("x"));
            weight.reshape(shape.into_iter().map(Dim::fixed).collect())?;
            return self.weight(weight);
        }
        self.one(Reshape { shape }, &[x])
    }

    /// Changes the recipe where `x` is a weight; the operand itself where nothing changes.
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Result<ValueId> {
        if perm.iter().copied().eq(0..perm.len()) && perm.len() == self.ty(x).rank() {
            return Ok(x);
        }
        if let Some((stored, dtype)) = self.cast_of_weight(x) {
            let transposed = self.transpose(stored, perm)?;
            return self.one(Cast { dtype }, &[transposed]);
        }
        if let Some(weight) = self.as_weight(x) {
            let mut weight = weight.clone();
            let axes: Vec<String> = perm.iter().map(usize::to_string).collect();
            weight.name = format!("{}.axes.{}", weight.name, axes.join(""));
            weight.transpose(perm)?;
            return self.weight(weight);
        }
        self.one(Transpose { perm: perm.to_vec() }, &[x])
    }

    /// A slice of one axis of a weight, as a recipe.
    pub fn part_of_weight(&mut self, x: ValueId, axis: usize, start: usize, size: usize) -> Result<ValueId> {
        if let Some((stored, dtype)) = self.cast_of_weight(x) {
            let part = self.part_of_weight(stored, axis, start, size)?;
            return self.one(Cast { dtype }, &[part]);
        }
        let Some(weight) = self.as_weight(x) else { return self.slice(x, axis, start, size) };
        let mut weight = weight.clone();
        weight.name = format!("{}.part{axis}.{start}", weight.name);
        weight.part(axis, start, size)?;
        self.weight(weight)
    }

    /// Changes the recipe where `x` is a weight; the operand itself where nothing changes.
    pub fn cast(&mut self, x: ValueId, dtype: DType) -> Result<ValueId> {
        if self.ty(x).dtype == dtype {
            return Ok(x);
        }
        if self.as_weight(x).is_some() {
            return self.cast_weight(x, dtype);
        }
        self.one(Cast { dtype }, &[x])
    }

    /// The weight behind a cast, and what it is cast to: a weight stored in fewer bytes than it is used in.
    fn cast_of_weight(&self, x: ValueId) -> Option<(ValueId, DType)> {
        let made = self.maker(x).filter(|made| matches!(made.op, Op::Cast(_)))?;
        self.as_weight(made.operands[0]).map(|_| (made.operands[0], self.ty(x).dtype))
    }

    /// The same weight with values of another type.
    pub fn cast_weight(&mut self, x: ValueId, dtype: DType) -> Result<ValueId> {
        match self.as_weight(x) {
            Some(weight) if weight.dtype != dtype => {
                let mut weight = weight.clone();
                weight.name = format!("{}.{dtype}", weight.name);
                weight.dtype = dtype;
                self.weight(weight)
            }
            _ => Ok(x),
        }
    }
}

/// Keeps inputs, outputs and what outputs reach; ids become dense again, order stays. No second list of nodes is made: graphs are what a
/// compile holds most of beside the weights that are being written.
fn prune(mut graph: Graph) -> Graph {
    let mut live = vec![false; graph.values.len()];
    for port in graph.outputs.iter().chain(&graph.inputs) {
        live[port.value.index()] = true;
    }
    let mut live_node = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        if node.results.iter().any(|result| live[result.index()]) {
            live_node[index] = true;
            node.results.iter().chain(&node.operands).for_each(|value| live[value.index()] = true);
        }
    }
    let mut kept = live_node.into_iter();
    graph.nodes.retain(|_| kept.next().unwrap_or_default());
    graph.nodes.shrink_to_fit();
    let mut kept = graph.weight_values.iter().map(|value| live[value.index()]);
    graph.weights.retain(|_| kept.next().unwrap_or_default());
    graph.weights.shrink_to_fit();
    graph.weight_values.retain(|value| live[value.index()]);

    let inputs = graph.inputs.iter().enumerate().map(|(number, port)| (port.value, Def::Input(number)));
    let weights = (0..).zip(&graph.weight_values).map(|(id, value)| (*value, Def::Weight(WeightId(id))));
    let results = (0..).zip(&graph.nodes).flat_map(|(id, node)| {
        node.results.iter().enumerate().map(move |(number, value)| (*value, Def::Result(NodeId(id), number)))
    });
    let mut values = Vec::with_capacity(live.iter().filter(|live| **live).count());
    let mut map: Vec<Option<ValueId>> = vec![None; live.len()];
    for (value, def) in inputs.chain(weights).chain(results) {
        let ty = std::mem::replace(&mut graph.values[value.index()].ty, TensorType::new(DType::F32, []));
        map[value.index()] = Some(ValueId(values.len() as u32));
        values.push(Value { ty, def });
    }
    graph.values = values;
    // Every value that a kept node or port names was made above: nodes lie in order.
    let renamed = |id: &mut ValueId| *id = map[id.index()].unwrap_or(*id);
    graph.weight_values.iter_mut().for_each(renamed);
    for node in &mut graph.nodes {
        node.operands.iter_mut().chain(&mut node.results).for_each(renamed);
    }
    graph.inputs.iter_mut().chain(&mut graph.outputs).for_each(|port| renamed(&mut port.value));
    graph
}
