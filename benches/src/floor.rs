use std::collections::BTreeMap;

use snapc_ir::ops::attention::bands;
use snapc_ir::ops::{Attention, Op, Pattern};
use snapc_ir::{Builder, DType, Error, Graph, Result, Stage, TensorType, ValueId};

/// Queries of one product of an attention to all keys, and with them its scores: as many as stay in a cache.
const ROWS: usize = 2048;

/// The matrix products of a graph and nothing else, each fed by the one before it: what no way to run the model can go below, as
/// long as the runtime multiplies as it does. Products of attention have the sizes that the tiles need, in pieces that stay in a
/// cache; nothing is moved, normed, added or turned.
///
/// # Errors
/// If the graph has a product of another form.
pub fn floor(graph: &Graph) -> Result<Graph> {
    let mut chain = Chain { b: Builder::new("floor", Stage::Subnet), ready: BTreeMap::new(), inputs: 0 };
    for node in graph.nodes() {
        let types = graph.operand_types(node);
        match &node.op {
            Op::Linear(_) => {
                let weight =
                    graph.as_weight(node.operands[1]).ok_or_else(|| Error::bug("a computed weight"))?;
                let weight = chain.b.weight(weight.clone())?;
                chain.linear(types[0].count() / types[0].last(), weight)?;
            }
            Op::Conv2d(op) => {
                let weight =
                    graph.as_weight(node.operands[1]).ok_or_else(|| Error::bug("a computed weight"))?;
                let [out, part] = [weight.shape()[0], weight.shape()[1..].iter().product()];
                let places = types[0].shape[2] * types[0].shape[3] / (op.stride * op.stride);
                let groups = types[0].shape[1] / weight.shape()[1];
                let weight = chain.b.weight(weight.clone())?;
                if groups == 1 {
                    let weight = chain.b.reshape(weight, [out, part])?;
                    chain.linear(places, weight)?;
                } else {
                    let weight = chain.b.reshape(weight, [groups, out / groups, part])?;
                    chain.batched([groups, places, part], weight)?;
                }
            }
            Op::Attention(op) => chain.attention(op, &types)?,
            _ => {}
        }
    }
    chain.finish()
}

struct Chain {
    b: Builder,
    /// Results that no product has read yet, by shape.
    ready: BTreeMap<Vec<usize>, ValueId>,
    inputs: usize,
}

impl Chain {
    /// The last result of a shape, or an input.
    fn take(&mut self, shape: &[usize]) -> ValueId {
        self.ready.remove(shape).unwrap_or_else(|| {
            self.inputs += 1;
            self.b.input(format!("x{}", self.inputs), TensorType::new(DType::F32, shape))
        })
    }

    /// Where a result of that shape waits to be read, the mirrored product reads it: it has as many operations.
    fn linear(&mut self, rows: usize, weight: ValueId) -> Result<()> {
        let [out, inner] = [0, 1].map(|axis| self.b.ty(weight).shape[axis]);
        let (shape, result) = ([1, rows, inner], [1, rows, out]);
        let (shape, result, weight) = if inner != out && self.ready.contains_key(&result[..]) {
            (result, shape, self.b.transpose(weight, &[1, 0])?)
        } else {
            (shape, result, weight)
        };
        let x = self.take(&shape);
        let y = self.b.linear(x, weight, None)?;
        self.ready.insert(result.to_vec(), y);
        Ok(())
    }

    fn batched(&mut self, shape: [usize; 3], weight: ValueId) -> Result<()> {
        let x = self.take(&shape);
        let y = self.b.matmul(x, weight, true)?;
        let result = self.b.ty(y).shape.clone();
        self.ready.insert(result, y);
        Ok(())
    }

    fn attention(&mut self, op: &Attention, types: &[&TensorType]) -> Result<()> {
        let [queries, heads, dim] = [1, 2, 3].map(|axis| types[0].shape[axis]);
        let (keys, groups) = (types[1].shape[1], types[1].shape[2]);
        let repeat = heads / groups;
        let Pattern::Neighborhood { grid, tile, radius, .. } = op.pattern else {
            let rows = (queries * repeat).min(ROWS);
            for _ in 0..groups * queries * repeat / rows {
                self.attend([1, rows, dim], keys)?;
            }
            return Ok(());
        };
        for row in bands(grid[0] / tile, radius) {
            for col in bands(grid[1] / tile, radius) {
                let seen = row.pairs() * col.pairs() / (row.size * col.size);
                for _ in 0..row.size * col.size {
                    self.attend([groups, tile * tile * repeat, dim], seen * tile * tile)?;
                }
            }
        }
        Ok(())
    }

    /// Queries with keys, and what comes of it with values.
    fn attend(&mut self, shape: [usize; 3], keys: usize) -> Result<()> {
        let [pairs, _, dim] = shape;
        let q = self.take(&shape);
        let k = self.given("k", [pairs, keys, dim])?;
        let v = self.given("v", [pairs, keys, dim])?;
        let scores = self.b.matmul(q, k, true)?;
        let sums = self.b.matmul(scores, v, false)?;
        self.ready.insert(shape.to_vec(), sums);
        Ok(())
    }

    /// An input that every product of its shape reads.
    fn given(&mut self, name: &str, shape: [usize; 3]) -> Result<ValueId> {
        let mut key = vec![usize::from(name == "v"); 5];
        key[..3].copy_from_slice(&shape);
        if let Some(&value) = self.ready.get(&key) {
            return Ok(value);
        }
        let value = self.take(&shape);
        self.ready.insert(key, value);
        Ok(value)
    }

    fn finish(self) -> Result<Graph> {
        let Chain { mut b, ready, .. } = self;
        for (number, (_, value)) in ready.into_iter().filter(|(shape, _)| shape.len() == 3).enumerate() {
            b.output(format!("y{number}"), value);
        }
        b.finish()
    }
}
