use std::collections::{BTreeMap, BTreeSet};

use petgraph::Direction;
use petgraph::algo::ford_fulkerson;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use super::Flow;
use crate::graph::{Def, NodeId, ValueId};
use crate::types::TensorType;
use crate::weight::Weight;

/// What a cut costs; any unit, bytes as a rule.
pub struct Prices<'a> {
    /// A value that is computed before the cut and used behind it.
    pub value: &'a dyn Fn(&TensorType) -> u64,
    /// A weight that is read behind the cut, however often.
    pub weight: &'a dyn Fn(&Weight) -> u64,
}

/// A graph in two: what is computed once an input is known, and the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The nodes before the cut: they depend on the input, and none of them on another input or on a node behind the cut.
    pub before: BTreeSet<NodeId>,
    /// The values that are computed before the cut (or are the input) and used behind it, in order.
    pub crossing: Vec<ValueId>,
    /// What the cut costs.
    pub cost: u64,
}

/// A network whose cheapest cut is the graph's. What stays on the side of `source` is computed before the cut.
struct Network {
    edges: DiGraph<(), u64>,
    source: NodeIndex,
    sink: NodeIndex,
    /// More than all prices together.
    never: u64,
    nodes: BTreeMap<NodeId, NodeIndex>,
}

impl Flow<'_> {
    /// The cheapest place to cut the graph, one input being known: of the nodes that depend on it alone
    /// ([`only_from`](Flow::only_from)), those that are best computed beforehand. Exact: a minimum cut. Of several cheapest ones it is the
    /// one with the most nodes before it. Weights that nodes behind the cut read in any case cost nothing.
    pub fn cut(&self, input: usize, prices: &Prices) -> Cut {
        let free = self.only_from(input);
        let network = self.network(input, &free, prices);
        let (cost, flows) = ford_fulkerson(&network.edges, network.source, network.sink);
        let behind = network.reaching_sink(&flows);
        let before: BTreeSet<NodeId> =
            free.into_iter().filter(|id| !behind.contains(&network.nodes[id])).collect();
        let is_before = |id: &NodeId| before.contains(id);
        let mut crossing: BTreeSet<ValueId> = self.graph.outputs().iter().map(|port| port.value).collect();
        for (_, node) in self.graph.nodes_with_ids().filter(|(id, _)| !is_before(id)) {
            crossing.extend(&node.operands);
        }
        crossing.retain(|&value| match self.graph.value(value).def {
            Def::Input(number) => number == input,
            Def::Result(id, _) => is_before(&id),
            Def::Weight(_) => false,
        });
        Cut { before, crossing: crossing.into_iter().collect(), cost }
    }

    fn network(&self, input: usize, free: &BTreeSet<NodeId>, prices: &Prices) -> Network {
        let mut edges = DiGraph::new();
        let (source, sink) = (edges.add_node(()), edges.add_node(()));
        let nodes: BTreeMap<NodeId, NodeIndex> = free.iter().map(|&id| (id, edges.add_node(()))).collect();
        let graph = self.graph;
        let prices_of_values = graph.values().iter().map(|value| (prices.value)(&value.ty));
        let prices_of_weights = graph.weights().iter().map(prices.weight);
        let never = prices_of_values.chain(prices_of_weights).fold(1, u64::saturating_add);
        let mut network = Network { edges, source, sink, never, nodes };

        // Where a node that is free to lie on either side reads a weight, also through nodes that depend on no input.
        let constants = self.weights_of_constants();
        let read = |id: NodeId| -> BTreeSet<usize> {
            graph.node(id).operands.iter().flat_map(|&value| self.weights_behind(value, &constants)).collect()
        };
        let mut paid = BTreeSet::new();
        let mut readers: BTreeMap<usize, Vec<NodeIndex>> = BTreeMap::new();
        for (id, _) in graph.nodes_with_ids() {
            match network.nodes.get(&id) {
                Some(&place) => read(id).into_iter().for_each(|weight| {
                    readers.entry(weight).or_default().push(place);
                }),
                None if constants.contains_key(&id) => {}
                None => paid.extend(read(id)),
            }
        }
        for (weight, readers) in readers.into_iter().filter(|(weight, _)| !paid.contains(weight)) {
            network.add_weight((prices.weight)(&graph.weights()[weight]), &readers);
        }
        self.add_values(&mut network, input, prices);
        network
    }

    fn add_values(&self, network: &mut Network, input: usize, prices: &Prices) {
        let graph = self.graph;
        let mut readers: BTreeMap<ValueId, Vec<NodeIndex>> = BTreeMap::new();
        for (id, node) in graph.nodes_with_ids() {
            let place = network.nodes.get(&id).copied().unwrap_or(network.sink);
            node.operands.iter().for_each(|&value| readers.entry(value).or_default().push(place));
        }
        for port in graph.outputs() {
            readers.entry(port.value).or_default().push(network.sink);
        }
        for (value, readers) in readers {
            let maker = match graph.value(value).def {
                Def::Input(number) if number == input => Some(network.source),
                Def::Result(id, _) => network.nodes.get(&id).copied(),
                _ => None,
            };
            if let Some(maker) = maker {
                network.add_value((prices.value)(graph.ty(value)), maker, &readers);
            }
        }
    }

    /// For each node that depends on no input the weights that it depends on.
    fn weights_of_constants(&self) -> BTreeMap<NodeId, BTreeSet<usize>> {
        let moving: BTreeSet<NodeId> =
            (0..self.graph.inputs().len()).flat_map(|input| self.reached_from(input)).collect();
        let mut known = BTreeMap::new();
        for (id, node) in self.graph.nodes_with_ids().filter(|(id, _)| !moving.contains(id)) {
            let weights =
                node.operands.iter().flat_map(|&value| self.weights_behind(value, &known)).collect();
            known.insert(id, weights);
        }
        known
    }

    fn weights_behind(&self, value: ValueId, constants: &BTreeMap<NodeId, BTreeSet<usize>>) -> Vec<usize> {
        match self.graph.value(value).def {
            Def::Weight(id) => vec![id.index()],
            Def::Result(id, _) => constants.get(&id).into_iter().flatten().copied().collect(),
            Def::Input(_) => Vec::new(),
        }
    }
}

impl Network {
    /// A weight costs its price once any of its readers lies behind the cut.
    fn add_weight(&mut self, price: u64, readers: &[NodeIndex]) {
        let weight = self.edges.add_node(());
        self.edges.add_edge(self.source, weight, price);
        for &reader in readers {
            self.edges.add_edge(weight, reader, self.never);
        }
    }

    /// A value costs its price once its maker lies before the cut and any of its readers behind it; a reader before the cut needs
    /// its maker there.
    fn add_value(&mut self, price: u64, maker: NodeIndex, readers: &[NodeIndex]) {
        let value = self.edges.add_node(());
        self.edges.add_edge(maker, value, price);
        for &reader in readers {
            self.edges.add_edge(value, reader, self.never);
            if reader != self.sink && maker != self.source {
                self.edges.add_edge(reader, maker, self.never);
            }
        }
    }

    /// What could still send something to the sink: the smallest side behind a cheapest cut.
    fn reaching_sink(&self, flows: &[u64]) -> BTreeSet<NodeIndex> {
        let mut reaching = BTreeSet::from([self.sink]);
        let mut open = vec![self.sink];
        while let Some(place) = open.pop() {
            let into = self.edges.edges_directed(place, Direction::Incoming);
            let unused =
                into.filter(|edge| flows[edge.id().index()] < *edge.weight()).map(|edge| edge.source());
            let out = self.edges.edges_directed(place, Direction::Outgoing);
            let returned = out.filter(|edge| flows[edge.id().index()] > 0).map(|edge| edge.target());
            let next: Vec<NodeIndex> = unused.chain(returned).collect();
            open.extend(next.into_iter().filter(|&place| reaching.insert(place)));
        }
        reaching
    }
}
