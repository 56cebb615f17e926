use std::sync::OnceLock;

use snapc_ir::analysis::finished;
use snapc_ir::ops::Op;
use snapc_ir::{Def, Error, Graph, Node, Place, Result, ValueId, WeightId};
use snapc_weights::{Store, Tensor};

use crate::ops::{Call, execute};
use crate::pool::Pool;
use crate::value::Value;

/// What is shown of a run: each node and its results.
type Observe<'o> = &'o mut dyn FnMut(&Node, &[Tensor]);

/// Runs one graph. Weights are read when a node first asks for them and kept for the next run. The number of threads (rayon's)
/// changes no bit of a result.
pub struct Interpreter<'a> {
    graph: &'a Graph,
    store: &'a Store,
    weights: Vec<OnceLock<Value>>,
    /// For each node, the values that no later node reads.
    finished: Vec<Vec<ValueId>>,
}

impl<'a> Interpreter<'a> {
    /// An interpreter of `graph` with the weights of `store`.
    pub fn new(graph: &'a Graph, store: &'a Store) -> Self {
        let weights = graph.weights().iter().map(|_| OnceLock::new()).collect();
        Interpreter { graph, store, weights, finished: finished(graph) }
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
        // On a thread of the pool: each op's threads are then asked without a switch to one.
        rayon::scope(|_| self.compute(inputs, None))
    }

    /// As [`Interpreter::run`]; shows each node and its results to `observe`.
    ///
    /// # Errors
    /// As [`Interpreter::run`].
    pub fn run_observed(&self, inputs: &[(&str, &Tensor)], observe: Observe) -> Result<Vec<Tensor>> {
        self.compute(inputs, Some(observe))
    }

    fn compute(&self, inputs: &[(&str, &Tensor)], mut observe: Option<Observe>) -> Result<Vec<Tensor>> {
        let pool = Pool::default();
        let mut values: Vec<Option<Value>> = vec![None; self.graph.values().len()];
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
            values[port.value.index()] = Some(Value::new(tensor.clone()));
        }
        for (index, node) in self.graph.nodes().iter().enumerate() {
            let results = self.run_node(index, node, &mut values, &pool);
            let mut results = results.map_err(|error| error.at(Place::Node(node.scope.clone())))?;
            if let Some(observe) = &mut observe {
                let tensors: Vec<Tensor> = results.into_iter().map(Value::into_tensor).collect();
                observe(node, &tensors);
                results = tensors.into_iter().map(Value::new).collect();
            }
            for (id, result) in node.results.iter().zip(results) {
                values[id.index()] = Some(result);
            }
            for id in &self.finished[index] {
                if let Some(value) = values[id.index()].take() {
                    value.recycle(&pool);
                }
            }
        }
        let output = |id: ValueId| -> Result<Tensor> { Ok(self.value(id, &values)?.into_tensor()) };
        self.graph.outputs().iter().map(|port| output(port.value)).collect()
    }

    /// Runs one node. Operands that no later node reads are handed over, for their buffers.
    fn run_node(
        &self,
        index: usize,
        node: &Node,
        values: &mut [Option<Value>],
        pool: &Pool,
    ) -> Result<Vec<Value>> {
        let mut operands: Vec<Value> =
            node.operands.iter().map(|&id| self.value(id, values)).collect::<Result<_>>()?;
        for id in &self.finished[index] {
            values[id.index()] = None;
        }
        // An embedding reads some rows of a table, the others every number.
        if !matches!(node.op, Op::Embedding(_)) {
            operands = operands.into_iter().map(|operand| operand.widened(pool)).collect();
        }
        let results: Vec<_> = node.results.iter().map(|&id| self.graph.ty(id)).collect();
        let mut call = Call { operands, results, pool };
        let results = execute(&node.op, &mut call)?;
        call.operands.into_iter().for_each(|operand| operand.recycle(pool));
        Ok(results)
    }

    fn value(&self, id: ValueId, values: &[Option<Value>]) -> Result<Value> {
        match self.graph.value(id).def {
            Def::Weight(weight) => self.weight(weight),
            _ => values[id.index()]
                .clone()
                .ok_or_else(|| Error::bug("a value is asked for after its last use")),
        }
    }

    fn weight(&self, id: WeightId) -> Result<Value> {
        let slot = &self.weights[id.index()];
        if let Some(value) = slot.get() {
            return Ok(value.clone());
        }
        let value = Value::weight(self.store.read(self.graph.weight(id))?);
        Ok(slot.get_or_init(|| value).clone())
    }
}

#[cfg(test)]
mod tests {
    use snapc_ir::ops::{
        Attention, Conv2d, Gelu, GeluForm, Layout, MergeHeads, Pattern, RmsNorm, SplitHeads,
    };
    use snapc_ir::{Builder, DType, Stage, TensorType, TokenOrder};

    use super::*;

    fn numbers(shape: &[usize], seed: usize) -> Tensor {
        let count: usize = shape.iter().product();
        Tensor::f32(
            shape,
            (0..count).map(|at| ((at * 7919 + seed * 104_729) % 1009) as f32 * 0.002 - 1.0).collect(),
        )
    }

    /// A block of 32 x 32 tokens of 96 numbers: every kind of kernel that splits its work.
    fn block() -> Graph {
        let mut b = Builder::new("block", Stage::Subnet);
        let mut input = |name: &str, shape: &[usize]| b.input(name, TensorType::new(DType::F32, shape));
        let map = input("map", &[1, 96, 32, 32]);
        let [kernel, wide] = [input("kernel", &[96, 96, 3, 3]), input("wide", &[400, 96])];
        let narrow = input("narrow", &[96, 400]);
        let conv = Conv2d { stride: 1, padding: 1, layout: Layout::Nchw };
        let map = b.one(conv, &[map, kernel]).unwrap();
        let x = b.reshape(map, [1, 96, 1024]).unwrap();
        let x = b.transpose(x, &[0, 2, 1]).unwrap();
        let x = b.one(RmsNorm { eps: 1e-6 }, &[x]).unwrap();
        let heads = b.one(SplitHeads { head_dim: 16 }, &[x]).unwrap();
        let pattern =
            Pattern::Neighborhood { grid: [32, 32], tile: 4, radius: 1, order: TokenOrder::default() };
        let near = b.one(Attention { pattern, scale: 0.25 }, &[heads, heads, heads]).unwrap();
        let far = b.one(Attention { pattern: Pattern::Dense, scale: 0.25 }, &[heads, heads, heads]).unwrap();
        let sum = b.add(near, far).unwrap();
        let sum = b.one(MergeHeads {}, &[sum]).unwrap();
        let hidden = b.linear(sum, wide, None).unwrap();
        let hidden = b.one(Gelu { form: GeluForm::Tanh }, &[hidden]).unwrap();
        let y = b.linear(hidden, narrow, None).unwrap();
        let y = b.add(y, x).unwrap();
        let y = b.softmax(y).unwrap();
        b.output("y", y);
        b.finish().unwrap()
    }

    #[test]
    fn the_same_bits_with_any_number_of_threads() {
        let (graph, store) = (block(), Store::empty());
        let inputs: Vec<(&str, Tensor)> = graph
            .inputs()
            .iter()
            .enumerate()
            .map(|(seed, port)| (port.name.as_str(), numbers(&graph.ty(port.value).shape, seed)))
            .collect();
        let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let interpreter = Interpreter::new(&graph, &store);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| interpreter.run(&inputs).unwrap().remove(0))
        };
        let one = with(1);
        assert!(one.values().iter().all(|x| x.is_finite()));
        [2, 3, 7].into_iter().for_each(|threads| assert!(with(threads) == one, "{threads} threads"));
        let mut shown = Vec::new();
        let observed = interpreter.run_observed(&inputs, &mut |node, results| {
            shown.push((node.op.name(), results[0].ty.clone()));
        });
        assert_eq!(observed.unwrap()[0], one);
        assert_eq!(shown.len(), graph.nodes().len());
    }
}
