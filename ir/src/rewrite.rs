//! Replaying a graph through a builder: the only way to change one.

use crate::builder::Builder;
use crate::error::Result;
use crate::graph::{Def, Graph, Node, Stage, ValueId};
use crate::ops::Op;
use crate::weight::Weight;

/// What a rule sees of a node: the old node, and its operands as they are in the new graph.
pub struct Replayed<'a> {
    /// The node in the old graph.
    pub node: &'a Node,
    /// Its operands in the new graph.
    pub operands: Vec<ValueId>,
}

impl Replayed<'_> {
    /// The node's op.
    pub fn op(&self) -> &Op {
        &self.node.op
    }
}

/// Replays `graph`: `weight` may change each recipe, `rule` may replace each node by other values (`None` keeps it).
/// Types are inferred anew, so an ill-typed result cannot be made. Scopes stay.
///
/// # Errors
/// What `weight` or `rule` report, or operands that do not fit any more.
pub fn rewrite(
    graph: &Graph,
    stage: Stage,
    mut weight: impl FnMut(Weight) -> Result<Weight>,
    mut rule: impl FnMut(&mut Builder, &Replayed) -> Result<Option<Vec<ValueId>>>,
) -> Result<Graph> {
    let mut builder = Builder::new(graph.name(), stage);
    let mut map: Vec<Option<ValueId>> = vec![None; graph.values().len()];
    for port in graph.inputs() {
        map[port.value.index()] = Some(builder.input(port.name.clone(), graph.ty(port.value).clone()));
    }
    for (index, value) in graph.values().iter().enumerate() {
        if let Def::Weight(id) = value.def {
            map[index] = Some(builder.weight(weight(graph.weight(id).clone())?)?);
        }
    }
    for node in graph.nodes() {
        // The verifier has seen that every operand is made before its node.
        let operands = node.operands.iter().map(|id| map[id.index()].unwrap_or(*id)).collect();
        builder.set_scope(node.scope.clone());
        let replayed = Replayed { node, operands };
        let results = match rule(&mut builder, &replayed)? {
            Some(results) => results,
            None => builder.op(node.op.clone(), &replayed.operands)?,
        };
        for (old, new) in node.results.iter().zip(results) {
            map[old.index()] = Some(new);
        }
    }
    for port in graph.outputs() {
        builder.output(port.name.clone(), map[port.value.index()].unwrap_or(port.value));
    }
    builder.finish()
}

/// Replays `graph` with changed recipes and no other change.
///
/// # Errors
/// As [`rewrite`].
pub fn map_weights(
    graph: &Graph,
    stage: Stage,
    weight: impl FnMut(Weight) -> Result<Weight>,
) -> Result<Graph> {
    rewrite(graph, stage, weight, |_, _| Ok(None))
}
