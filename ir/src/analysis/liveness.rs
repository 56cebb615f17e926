//! How long values live, and what a run holds at once.

use crate::graph::{Graph, Node, ValueId};

/// For each node the values that no later node reads and that are no output, in the order of their ids: what a run can let go of behind it.
/// Results that nothing reads are among them; inputs and weights that no node reads are nobody's.
pub fn finished(graph: &Graph) -> Vec<Vec<ValueId>> {
    let mut last_use = vec![None; graph.values().len()];
    for (index, node) in graph.nodes().iter().enumerate() {
        node.operands.iter().chain(&node.results).for_each(|id| last_use[id.index()] = Some((index, *id)));
    }
    graph.outputs().iter().for_each(|port| last_use[port.value.index()] = None);
    let mut finished = vec![Vec::new(); graph.nodes().len()];
    for (node, id) in last_use.into_iter().flatten() {
        finished[node].push(id);
    }
    finished
}

/// The most bytes that values take at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peak {
    /// Bytes of inputs, results and outputs, each in its own type; weights are not in it.
    pub bytes: u64,
    /// The path of the node that runs then; empty where that is between the modules, or no node runs.
    pub scope: String,
}

/// The peak of a run that makes nodes in the graph's order, keeps a node's operands until its results are made, and lets go of a value
/// behind its last reader. Inputs are there from the start. No result takes the place of an operand, and no kernel needs room of its own.
pub fn peak(graph: &Graph) -> Peak {
    let bytes = |id: &ValueId| if graph.as_weight(*id).is_some() { 0 } else { graph.ty(*id).bytes() as u64 };
    let sum = |ids: &[ValueId]| ids.iter().map(bytes).sum::<u64>();
    let mut live: u64 = graph.inputs().iter().map(|port| bytes(&port.value)).sum();
    let mut peak = Peak { bytes: live, scope: String::new() };
    for (node, finished) in graph.nodes().iter().zip(finished(graph)) {
        let Node { results, scope, .. } = node;
        live += sum(results);
        if live > peak.bytes {
            peak = Peak { bytes: live, scope: scope.to_string() };
        }
        live -= sum(&finished);
    }
    peak
}
