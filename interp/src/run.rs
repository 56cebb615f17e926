use std::sync::OnceLock;

use rayon::prelude::*;
use snapc_ir::analysis::finished;
use snapc_ir::ops::Op;
use snapc_ir::{Def, Error, Graph, Node, Place, Result, ValueId, Weight, WeightId};
use snapc_weights::{Store, Tensor};

use crate::awake::awake;
use crate::gemm::has_own;
use crate::kernels::add_row;
use crate::ops::{Call, columns, execute, is_few, outside};
use crate::pool::{Buffer, Pool};
use crate::value::{LARGE, Value};

/// Numbers of a weight that is not kept that are read at once.
const ROWS: usize = 1 << 18;

/// What is shown of a run: each node and its results.
type Observe<'o> = &'o mut dyn FnMut(&Node, &[Tensor]);

/// Runs one graph. Weights are read when a node first asks for them and kept for the next run, and so is the memory of values, which the
/// first run is the plan of. The number of threads (rayon's) changes no bit of a result.
pub struct Interpreter<'a> {
    graph: &'a Graph,
    store: &'a Store,
    weights: Vec<OnceLock<Value>>,
    /// Whether weights and buffers are kept for the next run.
    keeps: bool,
    /// The weights that are kept as the products of linears read them, where four bytes a number are kept.
    in_panels: Vec<bool>,
    pool: Pool,
    /// For each node, the values that no later node reads.
    finished: Vec<Vec<ValueId>>,
}

impl<'a> Interpreter<'a> {
    /// An interpreter of `graph` with the weights of `store`.
    pub fn new(graph: &'a Graph, store: &'a Store) -> Self {
        let weights = graph.weights().iter().map(|_| OnceLock::new()).collect();
        Interpreter {
            graph,
            store,
            weights,
            keeps: true,
            in_panels: in_panels(graph),
            pool: Pool::default(),
            finished: finished(graph),
        }
    }

    /// An interpreter that keeps no weight, and holds of the large ones only the rows that it works with: for a graph that is run once
    /// or twice. The results are the same.
    pub fn frugal(graph: &'a Graph, store: &'a Store) -> Self {
        Interpreter { keeps: false, ..Interpreter::new(graph, store) }
    }

    /// The graph.
    pub fn graph(&self) -> &'a Graph {
        self.graph
    }

    /// Numbers of f32 that runs hold for values by their plan, and the fewest that could do: what the last run's values were at most at
    /// once. Both leave out values of a few thousand numbers; before the second run nothing is planned.
    pub fn planned(&self) -> [usize; 2] {
        self.pool.planned()
    }

    /// Computes the outputs, in order, from the inputs, by name.
    ///
    /// # Errors
    /// If an input is missing or has another type, a weight cannot be read, or an id lies outside its table.
    pub fn run(&self, inputs: &[(&str, &Tensor)]) -> Result<Vec<Tensor>> {
        // What reads its weights as it goes waits for these, and has few ops.
        if self.keeps {
            awake(|| self.compute(inputs, None))
        } else {
            rayon::scope(|_| self.compute(inputs, None))
        }
    }

    /// As [`Interpreter::run`]; shows each node and its results to `observe`.
    ///
    /// # Errors
    /// As [`Interpreter::run`].
    pub fn run_observed(&self, inputs: &[(&str, &Tensor)], observe: Observe) -> Result<Vec<Tensor>> {
        self.compute(inputs, Some(observe))
    }

    fn compute(&self, inputs: &[(&str, &Tensor)], mut observe: Option<Observe>) -> Result<Vec<Tensor>> {
        let own = Pool::default();
        // What is shown leaves its place.
        let pool = if self.keeps && observe.is_none() { &self.pool } else { &own };
        pool.begin();
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
            values[port.value.index()] = Some(Value::copied(tensor, pool));
        }
        for (index, node) in self.graph.nodes().iter().enumerate() {
            let results = self.run_node(index, node, &mut values, pool);
            let mut results = results.map_err(|error| error.at(Place::Node(node.scope.to_string())))?;
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
                    value.recycle(pool);
                }
            }
        }
        let output = |id: ValueId| -> Result<Tensor> { Ok(self.value(id, &values)?.into_tensor()) };
        let outputs = self.graph.outputs().iter().map(|port| output(port.value)).collect::<Result<_>>()?;
        pool.end();
        Ok(outputs)
    }

    /// Runs one node. Operands that no later node reads are handed over, for their buffers.
    fn run_node(
        &self,
        index: usize,
        node: &Node,
        values: &mut [Option<Value>],
        pool: &Pool,
    ) -> Result<Vec<Value>> {
        if let Some(weight) = self.by_rows(node) {
            let x = self.value(node.operands[0], values)?.widened(pool);
            let mut results = match node.op {
                Op::Embedding(_) => self.look_up(&x, weight)?,
                _ => self.linear(&x, weight, pool)?,
            };
            if let Some(&bias) = node.operands.get(2) {
                add_row(&mut results, self.value(bias, values)?.widened(pool).values());
            }
            return Ok(vec![Value::float(self.graph.ty(node.results[0]).clone(), results)]);
        }
        let operands: Vec<Value> =
            node.operands.iter().map(|&id| self.value(id, values)).collect::<Result<_>>()?;
        for id in &self.finished[index] {
            values[id.index()] = None;
        }
        // A linear or an embedding reads its second operand, the weight, by rows, the others need every number of theirs.
        let by_rows = matches!(node.op, Op::Embedding(_) | Op::Linear(_));
        let wide = |(place, operand): (usize, Value)| match place {
            1 if by_rows => operand,
            _ => operand.widened(pool),
        };
        let operands = operands.into_iter().enumerate().map(wide).collect();
        let results: Vec<_> = node.results.iter().map(|&id| self.graph.ty(id)).collect();
        let mut call = Call { operands, results, pool };
        let results = execute(&node.op, &mut call)?;
        call.operands.into_iter().for_each(|operand| operand.recycle(pool));
        Ok(results)
    }

    /// The large weight of a linear or an embedding, where none is kept.
    fn by_rows(&self, node: &Node) -> Option<&'a Weight> {
        let (Op::Linear(_) | Op::Embedding(_)) = node.op else { return None };
        let Def::Weight(id) = self.graph.value(*node.operands.get(1)?).def else { return None };
        let weight = self.graph.weight(id);
        (!self.keeps && weight.ty().count() > ROWS && weight.rows(0, 1).is_some()).then_some(weight)
    }

    fn linear(&self, x: &Value, weight: &Weight, pool: &Pool) -> Result<Buffer> {
        let (out, inner) = (weight.ty().shape[0], weight.ty().last());
        let rows = x.values().len() / inner;
        let part = |piece: &Weight| -> Result<Vec<f32>> {
            let of_piece = self.store.read(piece)?;
            let count = of_piece.ty.shape[0];
            let mut part = vec![0.0; rows * count];
            columns(&mut part, count, x.values(), of_piece.values(), inner, None);
            Ok(part)
        };
        let parts: Vec<Vec<f32>> = weight.row_pieces(ROWS).par_iter().map(part).collect::<Result<_>>()?;
        let mut results = pool.take(rows * out);
        let mut first = 0;
        for part in parts {
            let count = part.len() / rows;
            for (to, from) in results.chunks_exact_mut(out).zip(part.chunks_exact(count)) {
                to[first..first + count].copy_from_slice(from);
            }
            first += count;
        }
        Ok(results)
    }

    fn look_up(&self, ids: &Value, table: &Weight) -> Result<Buffer> {
        let rows = table.ty().shape[0];
        let mut results = Vec::with_capacity(ids.integers().len() * table.ty().last());
        for &id in ids.integers() {
            let row = usize::try_from(id).ok().and_then(|id| table.rows(id, 1));
            let row = row.ok_or_else(|| outside(id, rows))?;
            results.extend_from_slice(self.store.read(&row)?.values());
        }
        Ok(results.into())
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
        let weight = self.graph.weight(id);
        if !self.keeps {
            return Ok(Value::new(self.store.read(weight)?));
        }
        let codes = if weight.ty().count() < LARGE { None } else { self.store.codes_of(weight)? };
        let value = match codes {
            Some(codes) => Value::coded(weight.ty(), codes),
            None if self.in_panels[id.index()] => Value::weight(self.store.read(weight)?).panels(),
            None => Value::weight(self.store.read(weight)?),
        };
        Ok(slot.get_or_init(|| value).clone())
    }
}

/// The weights that nothing but linears of many rows reads, as their second operand.
fn in_panels(graph: &Graph) -> Vec<bool> {
    let fits = |weight: &Weight| weight.ty().count() < LARGE || has_own();
    let mut read: Vec<bool> = graph.weights().iter().map(fits).collect();
    for node in graph.nodes() {
        for (place, &id) in node.operands.iter().enumerate() {
            let Def::Weight(weight) = graph.value(id).def else { continue };
            let rows = || graph.ty(node.results[0]).count() / graph.ty(node.results[0]).last().max(1);
            let fits = matches!(node.op, Op::Linear(_)) && place == 1 && !is_few(rows());
            read[weight.index()] &= fits;
        }
    }
    for port in graph.outputs() {
        if let Def::Weight(weight) = graph.value(port.value).def {
            read[weight.index()] = false;
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use snapc_ir::ops::{
        Attention, Conv2d, Gelu, GeluForm, Layout, MergeHeads, Pattern, RmsNorm, SplitHeads,
    };
    use snapc_ir::{Builder, DType, Encoding, Stage, TensorType, TokenOrder, Transform};

    use super::*;
    use crate::value::Numbers;

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

    /// A table that is looked up and a linear, both large and encoded so.
    fn large(encoding: Option<Encoding>) -> Graph {
        let mut b = Builder::new("large", Stage::Subnet);
        let (rows, width) = (5000, 416);
        let values = |seed| numbers(&[rows, width], seed).values().to_vec();
        let [table, wide] = [1, 2].map(|seed| {
            let mut weight = Weight::inline(format!("w{seed}"), values(seed), vec![rows, width]);
            weight.transforms.extend(encoding.map(Transform::Encode));
            weight
        });
        let (table, wide) = (b.weight(table).unwrap(), b.weight(wide).unwrap());
        let bias = b.weight(Weight::inline("b", values(3)[..rows].to_vec(), vec![rows])).unwrap();
        let ids = b.input("ids", TensorType::new(DType::I32, [3]));
        let x = b.one(snapc_ir::ops::Embedding {}, &[ids, table]).unwrap();
        let y = b.linear(x, wide, Some(bias)).unwrap();
        b.output("y", y);
        b.finish().unwrap()
    }

    #[test]
    fn weights_give_the_same_bits_however_they_are_held() {
        let store = Store::empty();
        let ids = Tensor::i32([3], vec![7, 4999, 7]);
        let run = |interpreter: &Interpreter| interpreter.run(&[("ids", &ids)]).unwrap().remove(0);
        for encoding in
            [Encoding::int(8, None), Encoding::int(4, Some(32)), Encoding::palette(3, None)].map(Some)
        {
            let graph = large(encoding);
            let interpreter = Interpreter::new(&graph, &store);
            let first = run(&interpreter);
            // Not computed from the weights as they were.
            assert_ne!(first, run(&Interpreter::new(&large(None), &store)));
            let held = interpreter.weights.iter().filter_map(|held| held.get());
            assert_eq!(held.filter(|held| matches!(held.numbers, Numbers::Coded(_))).count(), 2);
            // Once more, in buffers that were used.
            assert_eq!(run(&interpreter), first);
            assert_eq!(run(&Interpreter::frugal(&graph, &store)), first);
        }
    }

    #[test]
    fn a_frugal_run_gives_the_same_bits() {
        let (graph, store) = (large(None), Store::empty());
        let ids = Tensor::i32([3], vec![7, 4999, 7]);
        let run = |interpreter: Interpreter| interpreter.run(&[("ids", &ids)]).unwrap().remove(0);
        assert!(graph.weights().iter().any(|weight| weight.row_pieces(ROWS).len() > 1));
        assert_eq!(run(Interpreter::frugal(&graph, &store)), run(Interpreter::new(&graph, &store)));
        let outside = Tensor::i32([3], vec![7, 5000, 7]);
        assert!(Interpreter::frugal(&graph, &store).run(&[("ids", &outside)]).is_err());
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
        // The others went by the plan that the first was.
        let [planned, least] = interpreter.planned();
        assert!((least..2 * least).contains(&planned), "{planned} planned, {least} needed");
        assert_eq!(interpreter.pool.besides(), 0);
        let mut shown = Vec::new();
        let observed = interpreter.run_observed(&inputs, &mut |node, results| {
            shown.push((node.op.name(), results[0].ty.clone()));
        });
        assert_eq!(observed.unwrap()[0], one);
        assert_eq!(shown.len(), graph.nodes().len());
    }
}
