//! Layers that multiply codes: input, weight and result have 8 bits, the bias is what is added to their products.

use snapc_ir::ops::Op;
use snapc_ir::{Def, Error, Graph, Node, Place, Result, ValueId, Weight};

use crate::encode::{self, Form};
use crate::maps::needs_pad;

/// Which layers of a graph do.
pub struct Products {
    /// For each node that is such a layer the scale of its result.
    results: Vec<Option<f32>>,
    /// For each value whether something reads its numbers.
    numbers: Vec<bool>,
    /// For each value whether something reads it as codes.
    codes: Vec<bool>,
}

impl Products {
    /// Those of a graph: what they read is rounded, and what comes of them is, and read in no other way.
    pub fn new(graph: &Graph) -> Self {
        let count = graph.values().len();
        let readers = graph.readers();
        let result = |node: &Node| {
            let [reader] = readers[node.results[0].index()][..] else { return None };
            let is_output = graph.outputs().iter().any(|port| port.value == node.results[0]);
            match &reader.op {
                Op::FakeQuantize(op) if !is_output => is_product(graph, node).then_some(op.scale),
                _ => None,
            }
        };
        let results: Vec<Option<f32>> = graph.nodes().iter().map(result).collect();
        let (mut numbers, mut codes) = (vec![false; count], vec![false; count]);
        graph.outputs().iter().for_each(|port| numbers[port.value.index()] = true);
        for (node, result) in graph.nodes().iter().zip(&results) {
            for (number, id) in node.operands.iter().enumerate() {
                let hybrid = number == 1 && matches!(node.op, Op::Linear(_));
                let as_codes = result.is_some() || hybrid && graph.as_weight(*id).is_some();
                let of = if as_codes { &mut codes } else { &mut numbers };
                of[id.index()] = true;
            }
        }
        Products { results, numbers, codes }
    }

    /// The scale of the result of the node of that number, where it multiplies codes.
    pub fn result(&self, node: usize) -> Option<f32> {
        self.results[node]
    }

    /// Whether the numbers of a value are read, not its codes alone.
    pub fn reads_numbers(&self, value: usize) -> bool {
        self.numbers[value]
    }

    /// Checks that nothing but such layers reads what is added to products of codes.
    ///
    /// # Errors
    /// A bias in steps that something else reads.
    pub fn check(&self, graph: &Graph) -> Result<()> {
        for (value, known) in graph.values().iter().enumerate() {
            let Def::Weight(id) = known.def else { continue };
            let weight = graph.weight(id);
            if weight.stepped().is_some() && (self.numbers[value] || !self.codes[value]) {
                return Err(Error::bug("a bias in steps is not added to products of codes")
                    .at(Place::Tensor(weight.name.clone())));
            }
        }
        Ok(())
    }
}

/// Whether a layer's operands are codes and what is added to their products.
fn is_product(graph: &Graph, node: &Node) -> bool {
    let weight = node.operands.get(1).and_then(|&id| graph.as_weight(id));
    let Some((scale, weight)) = rounded_by(graph, node.operands[0]).zip(weight) else { return false };
    let form = weight.coded().and_then(|coded| encode::form(&coded).ok());
    let fits = match &node.op {
        Op::Linear(_) => true,
        Op::Conv2d(op) => {
            let [x, w] = [0, 1].map(|number| graph.ty(node.operands[number]));
            op.groups(x, w) == 1 && !needs_pad(op, w)
        }
        _ => false,
    };
    let bias = match node.operands.get(2) {
        Some(&bias) => {
            graph.as_weight(bias).and_then(Weight::stepped).is_some_and(|own| own == (weight, scale))
        }
        None => matches!(node.op, Op::Linear(_)),
    };
    fits && bias && form == Some(Form::Channels { bits: 8 })
}

fn rounded_by(graph: &Graph, value: ValueId) -> Option<f32> {
    let Def::Result(maker, _) = graph.value(value).def else { return None };
    match &graph.node(maker).op {
        Op::FakeQuantize(op) => Some(op.scale),
        _ => None,
    }
}
