use snapc_ir::ops::Op;
use snapc_ir::{Graph, Node, ValueId};

use super::Measured;
use crate::SAMPLER;

/// Sets of values that are held at one power, so that sums and moves need no multiplication.
pub struct Classes(Vec<usize>);

impl Classes {
    /// The classes of a graph.
    pub fn new(graph: &Graph, measured: &Measured) -> Self {
        let mut classes = Classes((0..graph.values().len()).collect());
        for node in graph.nodes() {
            for id in carriers(graph, measured, node) {
                for &result in &node.results {
                    classes.join(id.index(), result.index());
                }
            }
        }
        classes
    }

    /// The value that stands for the class.
    pub fn of(&self, value: usize) -> usize {
        let mut at = value;
        while self.0[at] != at {
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.of(a), self.of(b));
        // The earlier value stands for both, whatever the order of the joins.
        self.0[a.max(b)] = a.min(b);
    }
}

/// Whether an op moves or scales numbers alone: what its operand is multiplied by, its result is.
pub fn moves(op: &Op) -> bool {
    matches!(
        op,
        Op::Split(_)
            | Op::Concat(_)
            | Op::SplitHeads(_)
            | Op::MergeHeads(_)
            | Op::TokensFromMap(_)
            | Op::MapFromTokens(_)
            | Op::SplitTokens(_)
            | Op::UpsampleNearest(_)
            | Op::Relu(_)
            | Op::Rotary(_)
            | Op::ReduceMean(_)
            | Op::Transpose(_)
            | Op::Reshape(_)
            | Op::Slice(_)
            | Op::Cast(_)
            | Op::FakeQuantize(_)
    )
}

/// The operand of a product of two values whose power the result has: the one that is as large as the result, so that what is the
/// same for all tokens (a gate) stays as it is; of two such the one with the larger numbers.
pub fn carrier(graph: &Graph, measured: &Measured, node: &Node) -> usize {
    let weight = |number: usize| graph.as_weight(node.operands[number]).is_some();
    let full = |number: usize| graph.ty(node.operands[number]).shape == graph.ty(node.results[0]).shape;
    let largest = |number: usize| measured.of(node.operands[number]).largest;
    let second = match node.op {
        // A matrix product's shape says nothing of its operands'.
        Op::Matmul(_) => weight(0),
        _ if weight(0) || weight(1) => weight(0),
        _ if full(0) && full(1) => largest(1) > largest(0),
        _ => full(1),
    };
    usize::from(second)
}

/// The operands whose power the results have.
fn carriers(graph: &Graph, measured: &Measured, node: &Node) -> Vec<ValueId> {
    // The sampler's step is f32 at all powers.
    if *node.scope == *SAMPLER {
        return Vec::new();
    }
    let full = |id: &ValueId| graph.ty(*id).shape == graph.ty(node.results[0]).shape;
    let mut found = match &node.op {
        // What is added to every token alike is small: it is scaled where it is added.
        Op::Add(_) | Op::Sub(_) => node.operands.iter().copied().filter(full).collect(),
        Op::Mul(_) | Op::Matmul(_) => vec![node.operands[carrier(graph, measured, node)]],
        Op::Attention(_) => vec![node.operands[2]],
        op if moves(op) => node.operands.to_vec(),
        _ => Vec::new(),
    };
    found.retain(|&id| graph.as_weight(id).is_none());
    found
}
