use std::collections::{BTreeMap, BTreeSet};

use snapc_ir::ops::{Attention, Op};
use snapc_ir::{Graph, Node, Result, Stage, ValueId, rewrite};

use crate::Pass;

/// Moves an attention's scale into the weight of the norm that its queries come from, where it is a power of two: the product is
/// exact there, and costs nothing at run time.
pub struct AttentionScale;

impl Pass for AttentionScale {
    fn name(&self) -> &'static str {
        "attention_scale"
    }

    fn leaves(&self, stage: &Stage) -> Option<Stage> {
        (*stage == Stage::Subnet).then_some(Stage::Subnet)
    }

    fn run(&self, graph: &Graph) -> Result<Graph> {
        let scaled = scaled(graph);
        let powers: BTreeMap<ValueId, i32> = scaled.iter().map(|found| (found.norm, found.power)).collect();
        let attentions: BTreeSet<ValueId> =
            scaled.iter().flat_map(|found| found.attentions.clone()).collect();
        rewrite(graph, graph.stage().clone(), Ok, |b, node| {
            let result = node.node.results[0];
            match node.op() {
                Op::Attention(op) if attentions.contains(&result) => {
                    b.op(Attention { scale: 1.0, ..op.clone() }, &node.operands).map(Some)
                }
                op => {
                    let (Some(&power), Some(weight)) =
                        (powers.get(&result), node.operands.get(1).and_then(|&weight| b.as_weight(weight)))
                    else {
                        return Ok(None);
                    };
                    let mut weight = weight.clone();
                    weight.double(power)?;
                    weight.name += ".scaled";
                    let weight = b.weight(weight)?;
                    b.op(op.clone(), &[node.operands[0], weight]).map(Some)
                }
            }
        })
    }
}

/// A norm whose result is nothing but the queries of attentions of one scale.
struct Found {
    norm: ValueId,
    attentions: Vec<ValueId>,
    power: i32,
}

fn scaled(graph: &Graph) -> Vec<Found> {
    let users = graph.readers();
    let weighted = |node: &&Node| {
        matches!(node.op, Op::RmsNorm(_))
            && node.operands.get(1).is_some_and(|&w| graph.as_weight(w).is_some())
    };
    graph
        .nodes()
        .iter()
        .filter(weighted)
        .filter_map(|node| queries_of(graph, node.results[0], &users))
        .collect()
}

fn queries_of(graph: &Graph, norm: ValueId, users: &[Vec<&Node>]) -> Option<Found> {
    let mut open = vec![norm];
    let (mut attentions, mut scale) = (Vec::new(), None);
    while let Some(value) = open.pop() {
        if graph.outputs().iter().any(|port| port.value == value) || users[value.index()].is_empty() {
            return None;
        }
        for user in &users[value.index()] {
            match &user.op {
                Op::Attention(op) => {
                    let only_queries = user.operands.iter().filter(|&&x| x == value).count() == 1;
                    if user.operands[0] != value
                        || !only_queries
                        || scale.is_some_and(|known| known != op.scale)
                    {
                        return None;
                    }
                    scale = Some(op.scale);
                    attentions.push(user.results[0]);
                }
                Op::Rotary(_) => open.extend(&user.results),
                _ => return None,
            }
        }
    }
    let scale = scale?;
    let power = scale.log2();
    let exact = power.fract() == 0.0 && power != 0.0 && power.abs() <= 16.0;
    exact.then_some(Found { norm, attentions, power: power as i32 })
}
