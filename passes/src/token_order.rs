use std::collections::{BTreeSet, HashMap};

use snapc_ir::ops::{
    Attention, Conv2d, MapFromTokens, MergeHeads, Op, Pattern, Rotary, SplitHeads, SplitTokens, TokensFromMap,
};
use snapc_ir::{Builder, Graph, Grid, Replayed, Result, Stage, TokenOrder, ValueId, rewrite};

use crate::Pass;

/// Lets tokens lie tile by tile, inside a tile window by window, instead of row by row: a neighbourhood's tiles are then
/// contiguous, and a convolution whose kernel is its stride (`downsample`, a key-value convolution) is a reshape and a product.
/// Tokens are moved where a map becomes tokens and back where they become a map again.
///
/// Leaves a graph as it is where the sides of tiles and windows do not divide each other, or where an op asks for the places of
/// tokens in a way that the pass does not know.
pub struct TokenOrderPass;

impl Pass for TokenOrderPass {
    fn name(&self) -> &'static str {
        "token_order"
    }

    fn leaves(&self, stage: &Stage) -> Option<Stage> {
        (*stage == Stage::Subnet).then_some(Stage::Subnet)
    }

    fn run(&self, graph: &Graph) -> Result<Graph> {
        let Some(layout) = layout_of(graph) else { return Ok(graph.clone()) };
        let mut pass = Orders { layout, of: HashMap::new(), maps: HashMap::new(), unknown: false };
        let ordered = rewrite(graph, graph.stage().clone(), Ok, |b, node| {
            let results = pass.node(b, node)?;
            let is_output = graph.outputs().iter().any(|port| node.node.results.contains(&port.value));
            // Whoever reads an output expects it row by row.
            pass.unknown |= is_output && results.iter().flatten().any(|y| pass.of.contains_key(y));
            Ok(results)
        })?;
        Ok(if pass.unknown { graph.clone() } else { ordered })
    }
}

/// A grid of tokens and the order in which they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    grid: [usize; 2],
    order: TokenOrder,
}

/// The layout in which every neighbourhood's tiles and every window of the grid are contiguous; `None` where there is none.
fn layout_of(graph: &Graph) -> Option<Layout> {
    let mut tiled: BTreeSet<([usize; 2], usize)> = BTreeSet::new();
    let mut windows: BTreeSet<([usize; 2], usize)> = BTreeSet::new();
    for node in graph.nodes() {
        match &node.op {
            Op::Attention(Attention { pattern: Pattern::Neighborhood { grid, tile, order, .. }, .. }) => {
                if !order.is_row_major() {
                    return None;
                }
                tiled.insert((*grid, *tile));
            }
            Op::Conv2d(op) => {
                let [x, weight] = [0, 1].map(|operand| &graph.ty(node.operands[operand]).shape);
                if is_windowed(op, weight) {
                    windows.insert(([x[2], x[3]], op.stride));
                }
            }
            _ => {}
        }
    }
    let (Some(&(grid, tile)), true) = (tiled.first(), tiled.len() == 1) else { return None };
    let mut sides: Vec<usize> =
        windows.iter().filter(|(of, _)| *of == grid).map(|(_, stride)| *stride).chain([tile]).collect();
    sides.sort_unstable_by(|a, b| b.cmp(a));
    // A tile that lies inside a window would not be contiguous among its neighbours.
    let order =
        TokenOrder::new(&sides).filter(|order| order.sides().first() == Some(&tile) && order.fits(grid))?;
    Some(Layout { grid, order })
}

/// Whether the kernel's windows do not overlap and leave nothing out.
fn is_windowed(op: &Conv2d, weight: &[usize]) -> bool {
    op.padding == 0 && op.layout == snapc_ir::ops::Layout::Nchw && weight[2..] == [op.stride; 2]
}

/// What is known while the graph is replayed.
struct Orders {
    /// The order of the tokens that maps become.
    layout: Layout,
    /// Of values of the new graph whose second axis is tokens in another order than row by row: which.
    of: HashMap<ValueId, Layout>,
    /// Maps of the new graph that were made of such tokens.
    maps: HashMap<ValueId, (ValueId, Layout)>,
    unknown: bool,
}

type Rewritten = Result<Option<Vec<ValueId>>>;

impl Orders {
    fn layout(&self, value: ValueId) -> Option<Layout> {
        self.of.get(&value).copied()
    }

    fn mark(&mut self, value: ValueId, layout: Layout) -> ValueId {
        self.of.insert(value, layout);
        value
    }

    fn node(&mut self, b: &mut Builder, node: &Replayed) -> Rewritten {
        let x = node.operands[0];
        if let Op::Conv2d(op) = node.op()
            && let Some(tokens) = self.windows(b, op, node)?
        {
            return Ok(Some(vec![tokens]));
        }
        if let Op::TokensFromMap(_) = node.op() {
            return self.tokens_from_map(b, x);
        }
        let operands = node.operands.clone();
        let Some(layout) = operands.iter().find_map(|&x| self.layout(x)) else { return Ok(None) };
        match node.op() {
            Op::MapFromTokens(op) => self.map_from_tokens(b, op, x, layout),
            Op::SplitTokens(op) => self.split_tokens(b, op, x, layout),
            Op::Rotary(op) => {
                self.unknown |= [op.grid.rows, op.grid.cols] != layout.grid || !op.grid.order.is_row_major();
                let grid = Grid { order: layout.order, ..op.grid };
                let y = b.one(Rotary { grid, ..op.clone() }, &[x])?;
                Ok(Some(vec![self.mark(y, layout)]))
            }
            Op::Attention(op) => self.attention(b, op, &operands),
            op => self.by_token(b, op, &operands, layout),
        }
    }

    /// A map becomes tokens: they are moved once, here.
    fn tokens_from_map(&mut self, b: &mut Builder, map: ValueId) -> Rewritten {
        if let Some(&(tokens, layout)) = self.maps.get(&map) {
            return Ok(Some(vec![self.mark(tokens, layout)]));
        }
        let shape = &b.ty(map).shape;
        let grid = [shape[2], shape[3]];
        if grid != self.layout.grid {
            return Ok(Some(vec![b.one(TokensFromMap {}, &[map])?]));
        }
        let moved = match self.patches(b, map)? {
            Some(tokens) => tokens,
            None => {
                let tokens = b.one(TokensFromMap {}, &[map])?;
                self.layout.order.arrange(b, tokens, grid)?
            }
        };
        Ok(Some(vec![self.mark(moved, self.layout)]))
    }

    /// Where the map is a convolution over windows, what it reads is moved instead: pixels have fewer numbers than tokens.
    fn patches(&self, b: &mut Builder, map: ValueId) -> Result<Option<ValueId>> {
        let Some(made) = b.maker(map).cloned() else { return Ok(None) };
        let Op::Conv2d(op) = &made.op else { return Ok(None) };
        let (x, weight) = (b.ty(made.operands[0]).shape.clone(), b.ty(made.operands[1]).shape.clone());
        let pixels = self.layout.order.finer(op.stride);
        let (Some(order), Some(_), true) =
            (pixels, b.as_weight(made.operands[1]), is_windowed(op, &weight) && weight[1] == x[1])
        else {
            return Ok(None);
        };
        let grid = [x[2], x[3]];
        let pixels = b.one(TokensFromMap {}, &[made.operands[0]])?;
        let pixels = order.arrange(b, pixels, grid)?;
        windowed(b, op.stride, order.inside(op.stride), pixels, &made.operands[1..]).map(Some)
    }

    /// The map is made of tokens that are moved back; a convolution over windows takes the tokens as they are instead, and the map
    /// is dropped.
    fn map_from_tokens(
        &mut self,
        b: &mut Builder,
        op: &MapFromTokens,
        x: ValueId,
        layout: Layout,
    ) -> Rewritten {
        if op.grid != layout.grid {
            self.unknown = true;
            return Ok(None);
        }
        let rows = layout.order.restore(b, x, layout.grid)?;
        let map = b.one(op.clone(), &[rows])?;
        self.maps.insert(map, (x, layout));
        Ok(Some(vec![map]))
    }

    /// A convolution over windows of a map that was made of tokens. So is its result.
    fn windows(&mut self, b: &mut Builder, op: &Conv2d, node: &Replayed) -> Result<Option<ValueId>> {
        let Some(&(tokens, layout)) = self.maps.get(&node.operands[0]) else { return Ok(None) };
        let weight = b.ty(node.operands[1]).shape.clone();
        let coarse = layout.order.coarser(op.stride).filter(|_| is_windowed(op, &weight));
        let (Some(order), Some(_)) = (coarse, b.as_weight(node.operands[1])) else { return Ok(None) };
        let y = windowed(b, op.stride, layout.order.inside(op.stride), tokens, &node.operands[1..])?;
        let grid = layout.grid.map(|side| side / op.stride);
        let rows = order.restore(b, y, grid)?;
        let map = b.one(MapFromTokens { grid }, &[rows])?;
        self.maps.insert(map, (y, Layout { grid, order }));
        Ok(Some(map))
    }

    fn split_tokens(&mut self, b: &mut Builder, op: &SplitTokens, x: ValueId, layout: Layout) -> Rewritten {
        let grid = layout.grid.map(|side| side * op.factor);
        let Some(order) = layout.order.finer(op.factor).filter(|_| op.grid == layout.grid) else {
            let rows = layout.order.restore(b, x, layout.grid)?;
            return Ok(Some(vec![b.one(op.clone(), &[rows])?]));
        };
        let shape = b.ty(x).shape.clone();
        let pieces = op.factor * op.factor;
        let y = b.reshape(x, [shape[0], shape[1] * pieces, shape[2] / pieces])?;
        Ok(Some(vec![self.mark(y, Layout { grid, order })]))
    }

    /// Keys and values may lie in any order that they share; a neighbourhood's must be that of the queries.
    fn attention(&mut self, b: &mut Builder, op: &Attention, operands: &[ValueId]) -> Rewritten {
        let [q, k, v] = [0, 1, 2].map(|operand| self.layout(operands[operand]));
        let mut op = op.clone();
        match &mut op.pattern {
            Pattern::Dense if operands.len() == 3 || k.is_none() => self.unknown |= k != v,
            Pattern::Neighborhood { grid, order, .. } => {
                let same = q == k && k == v;
                self.unknown |= !same || q.is_none_or(|layout| layout.grid != *grid);
                *order = q.map(|layout| layout.order).unwrap_or_default();
            }
            Pattern::Dense | Pattern::Causal => self.unknown = true,
        }
        if self.unknown {
            return Ok(None);
        }
        let y = b.one(op, operands)?;
        if let Some(layout) = q {
            self.mark(y, layout);
        }
        Ok(Some(vec![y]))
    }

    /// Ops that treat every token alike: all operands that have tokens on the second axis must have them in the same order.
    fn by_token(&mut self, b: &mut Builder, op: &Op, operands: &[ValueId], layout: Layout) -> Rewritten {
        let rank = operands.iter().map(|&x| b.ty(x).rank()).max().unwrap_or_default();
        let alike = match op {
            Op::Linear(_) | Op::RmsNorm(_) | Op::LayerNorm(_) | Op::SplitHeads(SplitHeads { .. }) => true,
            Op::MergeHeads(MergeHeads {}) => rank == 4,
            Op::Softmax(_) => rank > 2,
            Op::ReduceMean(op) => op.axis > 1,
            Op::Concat(op) => op.axis > 1,
            Op::Split(op) => op.axis > 1,
            op => op.is_elementwise(),
        };
        let tokens = layout.grid[0] * layout.grid[1];
        let fits = operands.iter().all(|&x| match self.layout(x) {
            Some(other) => other == layout && b.ty(x).rank() == rank,
            // One number, or one row, for all tokens.
            None => {
                let shape = &b.ty(x).shape;
                b.as_weight(x).is_some() && !op.is_elementwise()
                    || broadcast_axis(shape, rank) != Some(tokens)
            }
        });
        if !alike || !fits {
            self.unknown = true;
            return Ok(None);
        }
        let results = b.op(op.clone(), operands)?;
        results.iter().for_each(|&y| {
            self.mark(y, layout);
        });
        Ok(Some(results))
    }
}

/// The size of the second axis of `rank` that a shape is broadcast to, where it has one.
fn broadcast_axis(shape: &[usize], rank: usize) -> Option<usize> {
    (shape.len() + 1 >= rank).then(|| shape.get(shape.len() + 1 - rank).copied()).flatten()
}

/// A convolution over windows of `side` as products of what lies behind each other: `tokens [B, N, C]`, `weight [out, C / groups,
/// side, side]` and a bias to `[B, N / side^2, out]`. `inside` is the order of a window's tokens.
fn windowed(
    b: &mut Builder,
    side: usize,
    inside: TokenOrder,
    tokens: ValueId,
    parameters: &[ValueId],
) -> Result<ValueId> {
    let [batch, count, channels] = [0, 1, 2].map(|axis| b.ty(tokens).shape[axis]);
    let weight = b.ty(parameters[0]).shape.clone();
    let (out, part, window) = (weight[0], weight[1], side * side);
    let (groups, windows) = (channels / part, count / window);
    let bias = parameters.get(1).copied();
    // `[out, part, window]`, the window's tokens in their order.
    let mut kernel = b.reshape(parameters[0], [out * part, side, side])?;
    let mut outer = side;
    let mut squares = 1;
    for &inner in inside.sides() {
        kernel = b.reshape(kernel, [out * part * squares, outer / inner, inner, outer / inner, inner])?;
        kernel = b.transpose(kernel, &[0, 1, 3, 2, 4])?;
        squares *= (outer / inner).pow(2);
        outer = inner;
    }
    if groups == 1 {
        let kernel = b.reshape(kernel, [out, part, window])?;
        let kernel = b.transpose(kernel, &[0, 2, 1])?;
        let kernel = b.reshape(kernel, [out, window * part])?;
        let rows = b.reshape(tokens, [batch, windows, window * channels])?;
        return b.linear(rows, kernel, bias);
    }
    let y = if part == 1 && out == groups {
        // Each channel alone: a product and a sum, which is the mean times how many there are.
        let kernel = b.reshape(kernel, [out, window])?;
        let kernel = b.transpose(kernel, &[1, 0])?;
        let rows = b.reshape(tokens, [batch * windows, window, channels])?;
        let products = b.mul(rows, kernel)?;
        let mean = b.reduce_mean(products, 1)?;
        let sum = b.mul_scalar(mean, window as f32)?;
        b.reshape(sum, [batch, windows, out])?
    } else {
        // Group by group, as attention takes keys and values head by head: the moves of the two are one.
        let kernel = b.reshape(kernel, [groups, out / groups, part, window])?;
        let kernel = b.transpose(kernel, &[0, 3, 2, 1])?;
        let kernel = b.reshape(kernel, [groups, window * part, out / groups])?;
        let rows = b.reshape(tokens, [batch, count, groups, part])?;
        let rows = b.transpose(rows, &[0, 2, 1, 3])?;
        let rows = b.reshape(rows, [batch, groups, windows, window * part])?;
        let sums = b.matmul(rows, kernel, false)?;
        let sums = b.transpose(sums, &[0, 2, 1, 3])?;
        b.reshape(sums, [batch, windows, out])?
    };
    match bias {
        Some(bias) => b.add(y, bias),
        None => Ok(y),
    }
}
