//! Replaying a graph through a builder: the only way to change one.

use crate::builder::Builder;
use crate::error::Result;
use crate::graph::{Graph, Node, Stage, ValueId};
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
    weight: impl FnMut(Weight) -> Result<Weight>,
    rule: impl FnMut(&mut Builder, &Replayed) -> Result<Option<Vec<ValueId>>>,
) -> Result<Graph> {
    rewrite_whole(graph.clone(), stage, weight, rule)
}

/// As [`rewrite`], of a graph that nothing else needs: what is replayed is let go of, so that there are never two of a large graph.
///
/// # Errors
/// As [`rewrite`].
pub fn rewrite_whole(
    graph: Graph,
    stage: Stage,
    mut weight: impl FnMut(Weight) -> Result<Weight>,
    mut rule: impl FnMut(&mut Builder, &Replayed) -> Result<Option<Vec<ValueId>>>,
) -> Result<Graph> {
    let mut builder = Builder::like(&graph, stage);
    let Graph { values, nodes, weights, weight_values, inputs, outputs, .. } = graph;
    let mut map: Vec<Option<ValueId>> = vec![None; values.len()];
    for port in inputs {
        map[port.value.index()] = Some(builder.input(port.name, values[port.value.index()].ty.clone()));
    }
    for (recipe, value) in weights.into_iter().zip(weight_values) {
        map[value.index()] = Some(builder.weight(weight(recipe)?)?);
    }
    drop(values);
    for node in nodes {
        // The verifier has seen that every operand is made before its node.
        let operands = node.operands.iter().map(|id| map[id.index()].unwrap_or(*id)).collect();
        builder.set_scope(node.scope.clone());
        let replayed = Replayed { node: &node, operands };
        let results = match rule(&mut builder, &replayed)? {
            Some(results) => results,
            None => builder.op(node.op.clone(), &replayed.operands)?,
        };
        for (old, new) in node.results.iter().zip(results) {
            map[old.index()] = Some(new);
        }
    }
    for port in outputs {
        builder.output(port.name, map[port.value.index()].unwrap_or(port.value));
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
