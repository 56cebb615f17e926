use std::collections::BTreeMap;

use snapc_ir::ops::{Cast, Op, Reshape, Transpose};
use snapc_ir::{Builder, DType, Graph, Replayed, Result, ValueId, rewrite};

/// Lets reshapes, transposes and casts that follow each other become one or none, and casts a weight once for all its readers: a
/// runtime that does so when it loads keeps one copy. Computes the same bits.
pub fn tidy(graph: &Graph) -> Result<Graph> {
    let mut cast_weights: BTreeMap<(ValueId, DType), ValueId> = BTreeMap::new();
    rewrite(graph, graph.stage().clone(), Ok, |builder, node| match node.op() {
        Op::Reshape(reshape) => merge_reshape(builder, node, reshape).map(Some),
        Op::Transpose(transpose) => merge_transpose(builder, node, transpose).map(Some),
        // A cast weight stays: it is stored in the one type and used in the other.
        Op::Cast(Cast { dtype }) if builder.as_weight(node.operands[0]).is_some() => {
            let key = (node.operands[0], *dtype);
            if let Some(&known) = cast_weights.get(&key) {
                return Ok(Some(vec![known]));
            }
            let made = builder.one(Cast { dtype: *dtype }, &node.operands)?;
            cast_weights.insert(key, made);
            Ok(Some(vec![made]))
        }
        Op::Cast(cast) => drop_round_trip(builder, node, cast.dtype).map(Some),
        _ => Ok(None),
    })
}

fn merge_reshape(builder: &mut Builder, node: &Replayed, reshape: &Reshape) -> Result<ValueIds> {
    let source = match builder.maker(node.operands[0]) {
        Some(made) if matches!(made.op, Op::Reshape(_)) => made.operands[0],
        _ => node.operands[0],
    };
    Ok(vec![builder.reshape(source, reshape.shape.clone())?])
}

fn merge_transpose(builder: &mut Builder, node: &Replayed, transpose: &Transpose) -> Result<ValueIds> {
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
fn drop_round_trip(builder: &mut Builder, node: &Replayed, dtype: DType) -> Result<ValueIds> {
    let source = match builder.maker(node.operands[0]) {
        Some(made) if matches!(made.op, Op::Cast(_)) => {
            let (inner, middle) = (made.operands[0], builder.ty(node.operands[0]).dtype);
            if middle == DType::F32 && builder.ty(inner).dtype == dtype { inner } else { node.operands[0] }
        }
        _ => node.operands[0],
    };
    Ok(vec![builder.cast(source, dtype)?])
}

type ValueIds = Vec<ValueId>;
