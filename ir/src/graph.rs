//! Graph, node and value.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::ops::Op;
use crate::types::TensorType;
use crate::weight::Weight;

/// A value of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

/// A node of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

/// A weight of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub(crate) u32);

macro_rules! index {
    ($($id:ident),*) => { $(
        impl $id {
            /// Its place in the graph's list.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    )* };
}
index!(ValueId, NodeId, WeightId);

/// How far a graph is on its road. Each pass says which stage it takes and which it leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// As imported: elastic axes, no op holds a width.
    Supernet,
    /// Cut to one width.
    Subnet,
    /// Only what the named target has.
    Legal(String),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Supernet => f.write_str("supernet"),
            Stage::Subnet => f.write_str("subnet"),
            Stage::Legal(target) => write!(f, "legal {target}"),
        }
    }
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Def {
    /// The graph's input of that number.
    Input(usize),
    /// A weight.
    Weight(WeightId),
    /// A node's result of that number.
    Result(NodeId, usize),
}

/// A value and its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Element type and sizes.
    pub ty: TensorType,
    /// Where it comes from.
    pub def: Def,
}

/// Values that a node reads or makes: so few, in most nodes, that they need no memory of their own.
pub type ValueIds = SmallVec<[ValueId; 4]>;

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// What it reads, in the order that the op names; optional ones at the end may be missing.
    pub operands: ValueIds,
    /// What it makes.
    pub results: ValueIds,
    /// Its path in the checkpoint, `down.0.self_attn`; kept through every pass and expansion, and held once for all nodes that
    /// come of one.
    pub scope: Arc<str>,
}

/// A named input or output.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The name that artifacts use.
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// A graph: nodes in an order in which each one's operands are made before it.
///
/// Only a [`Builder`](crate::Builder) makes one, so that every type is inferred and nothing is left over.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    pub(crate) name: String,
    pub(crate) stage: Stage,
    pub(crate) values: Vec<Value>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) weights: Vec<Weight>,
    pub(crate) weight_values: Vec<ValueId>,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
}

impl Graph {
    /// Its name: `transformer`, `text_encoder`, `vae_decoder`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How far it is on its road.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes with their ids, in order.
    pub fn nodes_with_ids(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(index, node)| (NodeId(index as u32), node))
    }

    /// All values.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The weights.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The weights alone: what a writer needs once the nodes are written.
    pub fn into_weights(self) -> Vec<Weight> {
        self.weights
    }

    /// The inputs, in the order in which artifacts list them.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// A value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// A value's type.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.values[id.index()].ty
    }

    /// A weight.
    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[id.index()]
    }

    /// The value of a weight.
    pub fn weight_value(&self, id: WeightId) -> ValueId {
        self.weight_values[id.index()]
    }

    /// The weight behind a value, if it is one.
    pub fn as_weight(&self, id: ValueId) -> Option<&Weight> {
        match self.value(id).def {
            Def::Weight(weight) => Some(self.weight(weight)),
            _ => None,
        }
    }

    /// For each value the nodes that read it, in order, as often as they do.
    pub fn readers(&self) -> Vec<Vec<&Node>> {
        let mut readers = vec![Vec::new(); self.values.len()];
        for node in &self.nodes {
            node.operands.iter().for_each(|x| readers[x.index()].push(node));
        }
        readers
    }

    /// The types of a node's operands.
    pub fn operand_types(&self, node: &Node) -> Vec<&TensorType> {
        node.operands.iter().map(|&id| self.ty(id)).collect()
    }

    /// Numbers in the weights that come from a checkpoint.
    pub fn parameters(&self) -> u64 {
        self.weights.iter().map(Weight::parameters).sum()
    }

    /// Bytes of all weights as they are stored: as codes, or as their values' types.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(Weight::stored_bytes).sum()
    }

    /// Floating-point operations of one run; a multiply-add is two.
    pub fn flops(&self) -> u64 {
        let of = |node: &Node| {
            let results: Vec<&TensorType> = node.results.iter().map(|&id| self.ty(id)).collect();
            node.op.flops(&self.operand_types(node), &results)
        };
        self.nodes.iter().map(of).sum()
    }
}
