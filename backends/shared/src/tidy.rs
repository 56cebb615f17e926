use std::collections::BTreeSet;

use snapc_ir::ops::{Op, Reshape, Transpose};
use snapc_ir::{Builder, DType, Graph, Replayed, Result, ValueId, rewrite_whole};

/// Lets reshapes, transposes and casts that follow each other become one or none, and says once what is said twice. Computes the
/// same bits.
pub fn tidy(graph: Graph) -> Result<Graph> {
    let mut said = Said::default();
    let stage = graph.stage().clone();
    rewrite_whole(graph, stage, Ok, |builder, node| {
        let results = match node.op() {
            Op::Reshape(reshape) => merge_reshape(builder, node, reshape)?,
            Op::Transpose(transpose) => merge_transpose(builder, node, transpose)?,
            // A cast weight stays: it is stored in the one type and used in the other.
            Op::Cast(cast) if builder.as_weight(node.operands[0]).is_none() => {
                drop_round_trip(builder, node, cast.dtype)?
            }
            op => builder.op(op.clone(), &node.operands)?,
        };
        Ok(Some(said.once(builder, results)))
    })
}

/// The nodes so far: what each reads first, its op, and its first result.
#[derive(Default)]
struct Said(BTreeSet<(ValueId, &'static str, ValueId)>);

impl Said {
    /// The results of an earlier node that does the same, or these; what nothing reads is dropped at the end.
    fn once(&mut self, builder: &Builder, results: Vec<ValueId>) -> Vec<ValueId> {
        let Some(made) = builder.maker(results[0]).filter(|made| made.results[..] == results[..]) else {
            return results;
        };
        let Some(&first) = made.operands.first() else { return results };
        let name = made.op.name();
        // What a node makes comes behind what it reads.
        let earlier = self.0.range((first, name, first)..=(first, name, results[0]));
        let same = earlier
            .filter_map(|&(.., result)| builder.maker(result))
            .find(|earlier| earlier.operands == made.operands && earlier.op == made.op);
        match same {
            Some(earlier) => earlier.results.to_vec(),
            None => {
                self.0.insert((first, name, results[0]));
                results
            }
        }
    }
}

fn merge_reshape(builder: &mut Builder, node: &Replayed, reshape: &Reshape) -> Result<Vec<ValueId>> {
    let source = match builder.maker(node.operands[0]) {
        Some(made) if matches!(made.op, Op::Reshape(_)) => made.operands[0],
        _ => node.operands[0],
    };
    Ok(vec![builder.reshape(source, reshape.shape.clone())?])
}

fn merge_transpose(builder: &mut Builder, node: &Replayed, transpose: &Transpose) -> Result<Vec<ValueId>> {
    let (source, perm) = match builder.maker(node.operands[0]) {
        Some(made) => match &made.op {
            Op::Transpose(first) => {
                (made.operands[0], transpose.perm.iter().map(|&axis| first.perm[axis]).collect())
            }
            _ => (node.operands[0], transpose.perm.clone()),
        },
        None => (node.operands[0], transpose.perm.clone()),
    };
    Ok(vec![builder.transpose(source, &perm)?])
}

/// f16 to f32 and back is the same number; f32 to f16 and back is not.
fn drop_round_trip(builder: &mut Builder, node: &Replayed, dtype: DType) -> Result<Vec<ValueId>> {
    let source = match builder.maker(node.operands[0]) {
        Some(made) if matches!(made.op, Op::Cast(_)) => {
            let (inner, middle) = (made.operands[0], builder.ty(node.operands[0]).dtype);
            if middle == DType::F32 && builder.ty(inner).dtype == dtype { inner } else { node.operands[0] }
        }
        _ => node.operands[0],
    };
    Ok(vec![builder.cast(source, dtype)?])
}
