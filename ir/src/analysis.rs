//! Questions to a graph: what depends on what, where to cut, a picture of it (as a petgraph); what a run holds at once.

mod cut;
mod liveness;

use std::collections::BTreeSet;
use std::fmt::Write;

use petgraph::algo::dominators;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::Dfs;

use crate::graph::{Def, Graph, NodeId};

pub use cut::{Cut, Prices};
pub use liveness::{Peak, finished, peak};

/// What a vertex of the view stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vertex {
    /// Before all inputs.
    Start,
    /// The graph's input of that number.
    Input(usize),
    /// A node.
    Node(NodeId),
    /// The graph's output of that number.
    Output(usize),
    /// Behind all outputs.
    End,
}

/// The flow of values through a graph; weights are left out.
pub struct Flow<'a> {
    graph: &'a Graph,
    edges: DiGraph<Vertex, ()>,
    start: NodeIndex,
    end: NodeIndex,
    inputs: Vec<NodeIndex>,
    nodes: Vec<NodeIndex>,
}

impl<'a> Flow<'a> {
    /// The view of a graph.
    pub fn new(graph: &'a Graph) -> Self {
        let mut edges = DiGraph::new();
        let start = edges.add_node(Vertex::Start);
        let end = edges.add_node(Vertex::End);
        let inputs: Vec<_> = (0..graph.inputs().len()).map(|i| edges.add_node(Vertex::Input(i))).collect();
        inputs.iter().for_each(|&input| {
            edges.add_edge(start, input, ());
        });
        let nodes: Vec<_> = graph.nodes_with_ids().map(|(id, _)| edges.add_node(Vertex::Node(id))).collect();
        let mut flow = Flow { graph, edges, start, end, inputs, nodes };
        for (id, node) in graph.nodes_with_ids() {
            let sources: BTreeSet<_> = node.operands.iter().filter_map(|&value| flow.maker(value)).collect();
            for source in sources {
                flow.edges.add_edge(source, flow.nodes[id.index()], ());
            }
        }
        for (number, port) in graph.outputs().iter().enumerate() {
            let output = flow.edges.add_node(Vertex::Output(number));
            if let Some(source) = flow.maker(port.value) {
                flow.edges.add_edge(source, output, ());
            }
            flow.edges.add_edge(output, flow.end, ());
        }
        flow
    }

    fn maker(&self, value: crate::graph::ValueId) -> Option<NodeIndex> {
        match self.graph.value(value).def {
            Def::Input(number) => Some(self.inputs[number]),
            Def::Result(node, _) => Some(self.nodes[node.index()]),
            Def::Weight(_) => None,
        }
    }

    /// The nodes that depend on the input of that number.
    pub fn reached_from(&self, input: usize) -> BTreeSet<NodeId> {
        let mut search = Dfs::new(&self.edges, self.inputs[input]);
        let mut reached = BTreeSet::new();
        while let Some(index) = search.next(&self.edges) {
            if let Vertex::Node(id) = self.edges[index] {
                reached.insert(id);
            }
        }
        reached
    }

    /// The nodes that depend on that input and on no other one: what can be computed once it is known. Nodes that
    /// depend on no input at all are not in it.
    pub fn only_from(&self, input: usize) -> BTreeSet<NodeId> {
        let mut only = self.reached_from(input);
        for other in (0..self.inputs.len()).filter(|&other| other != input) {
            for id in self.reached_from(other) {
                only.remove(&id);
            }
        }
        only
    }

    /// The nodes through which every value on its way from the inputs to the outputs passes, in order: places where
    /// the graph can be cut in two with one value crossing.
    pub fn waists(&self) -> Vec<NodeId> {
        let tree = dominators::simple_fast(&self.edges, self.start);
        let mut waists: Vec<NodeId> = tree
            .strict_dominators(self.end)
            .into_iter()
            .flatten()
            .filter_map(|index| match self.edges[index] {
                Vertex::Node(id) => Some(id),
                _ => None,
            })
            .collect();
        waists.sort_unstable();
        waists
    }

    /// The graph in Graphviz's DOT language: a box a node, named by op and path.
    pub fn dot(&self) -> String {
        let mut text = format!("digraph \"{}\" {{\n  node [shape=box];\n", self.graph.name());
        let name = |vertex: Vertex| match vertex {
            Vertex::Start | Vertex::End => None,
            Vertex::Input(number) => Some((format!("in{number}"), self.graph.inputs()[number].name.clone())),
            Vertex::Output(number) => {
                Some((format!("out{number}"), self.graph.outputs()[number].name.clone()))
            }
            Vertex::Node(id) => {
                let node = self.graph.node(id);
                Some((format!("n{}", id.index()), format!("{}\\n{}", node.op.name(), node.scope)))
            }
        };
        for index in self.edges.node_indices() {
            if let Some((id, label)) = name(self.edges[index]) {
                // Writing into a String cannot fail.
                let _ = writeln!(text, "  {id} [label=\"{label}\"];");
            }
        }
        for edge in self.edges.raw_edges() {
            if let (Some((from, _)), Some((to, _))) =
                (name(self.edges[edge.source()]), name(self.edges[edge.target()]))
            {
                let _ = writeln!(text, "  {from} -> {to};");
            }
        }
        text.push_str("}\n");
        text
    }
}
