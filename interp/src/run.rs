use std::sync::{Arc, OnceLock};

use snapc_ir::{Def, Error, Graph, Node, Place, Result, ValueId, WeightId};
use snapc_weights::{Store, Tensor};

use crate::ops::execute;

/// Runs one graph. Weights are read when a node first asks for them and kept for the next run.
pub struct Interpreter<'a> {
    graph: &'a Graph,
    store: &'a Store,
    weights: Vec<OnceLock<Arc<Tensor>>>,
    /// For each node, the values that no later node reads.
    finished: Vec<Vec<ValueId>>,
}

impl<'a> Interpreter<'a> {
    /// An interpreter of `graph` with the weights of `store`.
    pub fn new(graph: &'a Graph, store: &'a Store) -> Self {
        let weights = graph.weights().iter().map(|_| OnceLock::new()).collect();
        let mut last_use = vec![None; graph.values().len()];
        for (index, node) in graph.nodes().iter().enumerate() {
            node.operands
                .iter()
                .chain(&node.results)
                .for_each(|id| last_use[id.index()] = Some((index, *id)));
        }
        graph.outputs().iter().for_each(|port| last_use[port.value.index()] = None);
        let mut finished = vec![Vec::new(); graph.nodes().len()];
        for (node, id) in last_use.into_iter().flatten() {
            finished[node].push(id);
        }
        Interpreter { graph, store, weights, finished }
    }

    /// The graph.
    pub fn graph(&self) -> &'a Graph {
        self.graph
    }

    /// Computes the outputs, in order, from the inputs, by name.
    ///
    /// # Errors
    /// If an input is missing or has another type, a weight cannot be read, or an id lies outside its table.
    pub fn run(&self, inputs: &[(&str, &Tensor)]) -> Result<Vec<Tensor>> {
        self.run_observed(inputs, &mut |_, _| {})
    }

    /// As [`Interpreter::run`]; shows each node and its results to `observe`.
    ///
    /// # Errors
    /// As [`Interpreter::run`].
    pub fn run_observed(
        &self,
        inputs: &[(&str, &Tensor)],
        observe: &mut dyn FnMut(&Node, &[Tensor]),
    ) -> Result<Vec<Tensor>> {
        let mut values: Vec<Option<Arc<Tensor>>> = vec![None; self.graph.values().len()];
        for port in self.graph.inputs() {
            let expected = self.graph.ty(port.value);
            let given = inputs.iter().find(|(name, _)| *name == port.name).map(|(_, tensor)| *tensor);
            let tensor = given.ok_or_else(|| Error::input(format!("the input {} is missing", port.name)))?;
            if tensor.ty != *expected {
                return Err(Error::input(format!(
                    "the input {} is {}, expected {expected}",
                    port.name, tensor.ty
                )));
            }
            values[port.value.index()] = Some(Arc::new(tensor.clone()));
        }
        for (index, node) in self.graph.nodes().iter().enumerate() {
            let results =
                self.run_node(node, &values).map_err(|error| error.at(Place::Node(node.scope.clone())))?;
            observe(node, &results);
            for (id, result) in node.results.iter().zip(results) {
                values[id.index()] = Some(Arc::new(result));
            }
            self.finished[index].iter().for_each(|id| values[id.index()] = None);
        }
        let output = |id: ValueId| -> Result<Tensor> { Ok(self.value(id, &values)?.as_ref().clone()) };
        self.graph.outputs().iter().map(|port| output(port.value)).collect()
    }

    fn run_node(&self, node: &Node, values: &[Option<Arc<Tensor>>]) -> Result<Vec<Tensor>> {
        let operands: Vec<Arc<Tensor>> =
            node.operands.iter().map(|&id| self.value(id, values)).collect::<Result<_>>()?;
        let operands: Vec<&Tensor> = operands.iter().map(Arc::as_ref).collect();
        let types: Vec<_> = node.results.iter().map(|&id| self.graph.ty(id)).collect();
        execute(&node.op, &operands, &types)
    }

    fn value(&self, id: ValueId, values: &[Option<Arc<Tensor>>]) -> Result<Arc<Tensor>> {
        match self.graph.value(id).def {
            Def::Weight(weight) => self.weight(weight),
            _ => values[id.index()]
                .clone()
                .ok_or_else(|| Error::bug("a value is asked for after its last use")),
        }
    }

    fn weight(&self, id: WeightId) -> Result<Arc<Tensor>> {
        let slot = &self.weights[id.index()];
        if let Some(tensor) = slot.get() {
            return Ok(tensor.clone());
        }
        let tensor = Arc::new(self.store.read(self.graph.weight(id))?);
        Ok(slot.get_or_init(|| tensor).clone())
    }
}
