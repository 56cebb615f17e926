use std::collections::BTreeSet;

use snapc_ir::ops::{
    Attention, Linear, MapFromTokens, MergeHeads, Op, RmsNorm, Rotary, SplitHeads, TokensFromMap,
};
use snapc_ir::{Builder, Def, Dim, Graph, Node, Pairs, Replayed, Result, Stage, ValueId, Weight, rewrite};

use crate::Pass;

/// Orders each head's numbers so that a rotary embedding exchanges the halves of a head, not the quarters: two slices where there
/// were four. The products of queries and keys do not depend on that order, so the rows of `q` and `k`, the norms over a head and
/// both sides of a key convolution are permuted, as recipes.
///
/// Leaves a graph as it is where something else reads the numbers of such a head.
pub struct RotaryHalves;

impl Pass for RotaryHalves {
    fn name(&self) -> &'static str {
        "rotary_halves"
    }

    fn leaves(&self, stage: &Stage) -> Option<Stage> {
        (*stage == Stage::Subnet).then_some(Stage::Subnet)
    }

    fn run(&self, graph: &Graph) -> Result<Graph> {
        let Some((permuted, head_dim)) = permuted(graph) else { return Ok(graph.clone()) };
        rewrite(graph, graph.stage().clone(), Ok, |b, node| {
            if node.node.results.iter().any(|y| permuted.contains(y)) {
                permute(b, node, head_dim)
            } else {
                Ok(None)
            }
        })
    }
}

/// The values whose heads' numbers change places, and the numbers of a head; `None` where there is no rotary embedding, or one
/// that cannot be followed.
fn permuted(graph: &Graph) -> Option<(BTreeSet<ValueId>, usize)> {
    let mut head_dim = None;
    let mut open: Vec<ValueId> = Vec::new();
    for node in graph.nodes() {
        if let Op::Rotary(op) = &node.op {
            let dim = graph.ty(node.results[0]).last();
            if op.pairs != Pairs::ByAxis || head_dim.is_some_and(|known| known != dim) {
                return None;
            }
            head_dim = Some(dim);
            open.extend(&node.results);
        }
    }
    let head_dim = head_dim?;
    let users = graph.readers();
    let mut permuted = BTreeSet::new();
    while let Some(value) = open.pop() {
        if !permuted.insert(value) {
            continue;
        }
        let Def::Result(maker, _) = graph.value(value).def else { return None };
        open.extend(operand_of(graph, graph.node(maker), head_dim)?);
        for user in &users[value.index()] {
            open.extend(follow(user, value)?);
        }
        if graph.outputs().iter().any(|port| port.value == value) {
            return None;
        }
    }
    // The values are summed as they are.
    let mixed = |node: &&Node| matches!(node.op, Op::Attention(_)) && permuted.contains(&node.operands[2]);
    if graph.nodes().iter().any(|node| mixed(&node)) { None } else { Some((permuted, head_dim)) }
}

/// The operand that is permuted where a node's result is: none behind a linear, whose weight takes the permutation. `None` where
/// the node cannot be followed.
fn operand_of(graph: &Graph, node: &Node, head_dim: usize) -> Option<Option<ValueId>> {
    let is_weight = |operand: usize| node.operands.get(operand).is_none_or(|&x| graph.as_weight(x).is_some());
    let heads = |size: usize| size.is_multiple_of(head_dim);
    match &node.op {
        Op::Linear(Linear {}) => (is_weight(1) && is_weight(2)).then_some(None),
        Op::Conv2d(_) => {
            let part = graph.ty(node.operands[1]).shape[1];
            (is_weight(1) && is_weight(2) && (part == 1 || heads(part))).then_some(Some(node.operands[0]))
        }
        Op::SplitHeads(SplitHeads { head_dim: size }) if *size != head_dim => None,
        Op::RmsNorm(RmsNorm { .. }) if !is_weight(1) || graph.ty(node.operands[0]).last() != head_dim => None,
        Op::Rotary(_)
        | Op::RmsNorm(_)
        | Op::SplitHeads(_)
        | Op::MergeHeads(MergeHeads {})
        | Op::MapFromTokens(MapFromTokens { .. })
        | Op::TokensFromMap(TokensFromMap {}) => Some(Some(node.operands[0])),
        _ => None,
    }
}

/// What else is permuted because `value` is and `user` reads it; `None` where that would change what `user` computes.
fn follow(user: &Node, value: ValueId) -> Option<Vec<ValueId>> {
    match &user.op {
        Op::Attention(Attention { .. }) => {
            let (q, k) = (user.operands[0], user.operands[1]);
            (value == q || value == k).then(|| vec![q, k])
        }
        Op::Rotary(_)
        | Op::RmsNorm(_)
        | Op::SplitHeads(_)
        | Op::MergeHeads(_)
        | Op::MapFromTokens(_)
        | Op::TokensFromMap(_)
        | Op::Conv2d(_) => Some(user.results.to_vec()),
        _ => None,
    }
}

fn permute(b: &mut Builder, node: &Replayed, head_dim: usize) -> Result<Option<Vec<ValueId>>> {
    let mut operands = node.operands.clone();
    let op = match node.op() {
        Op::Rotary(op) => Op::from(Rotary { pairs: Pairs::ByHalf, ..op.clone() }),
        Op::RmsNorm(_) | Op::Linear(_) => {
            for operand in &mut operands[1..] {
                *operand = by_half(b, *operand, &[0], head_dim)?;
            }
            node.op().clone()
        }
        Op::Conv2d(_) => {
            let input: &[usize] = if b.ty(operands[1]).shape[1] == 1 { &[0] } else { &[0, 1] };
            operands[1] = by_half(b, operands[1], input, head_dim)?;
            if let Some(bias) = operands.get_mut(2) {
                *bias = by_half(b, *bias, &[0], head_dim)?;
            }
            node.op().clone()
        }
        _ => return Ok(None),
    };
    b.op(op, &operands).map(Some)
}

/// The weight with the quarters of each head in another order on some axes: the two in the middle change places.
fn by_half(b: &mut Builder, value: ValueId, axes: &[usize], head_dim: usize) -> Result<ValueId> {
    let Some(weight) = b.as_weight(value) else { return Ok(value) };
    let mut weight: Weight = weight.clone();
    let dims = weight.dims.clone();
    for &axis in axes {
        let shape = weight.shape();
        let mut open = shape[..axis].to_vec();
        open.extend([shape[axis] / head_dim, 2, 2, head_dim / 4]);
        open.extend(&shape[axis + 1..]);
        let mut perm: Vec<usize> = (0..open.len()).collect();
        perm.swap(axis + 1, axis + 2);
        weight.reshape(open.into_iter().map(Dim::fixed).collect())?;
        weight.transpose(&perm)?;
        weight.reshape(dims.clone())?;
    }
    weight.name += ".by_half";
    b.weight(weight)
}
