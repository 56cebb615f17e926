use super::super::Op;
use super::Attention;
use crate::builder::Builder;
use crate::error::Result;
use crate::graph::ValueId;

/// The operands of an attention by key-value head, `[B, g, rows, d]`. The query heads that share a key-value head lie behind each
/// other in the rows, so that keys are never copied.
#[derive(Clone, Copy, Debug)]
pub struct Grouped {
    /// `[B, g, N * u, d]`, times the attention's scale; row `n * u + j` is query head `j` of the group at token `n`.
    pub q: ValueId,
    /// `[B, g, M, d]`.
    pub k: ValueId,
    /// As `k`.
    pub v: ValueId,
    /// B.
    pub batch: usize,
    /// N.
    pub queries: usize,
    /// M.
    pub keys: usize,
    /// g.
    pub groups: usize,
    /// Query heads of a group, u.
    pub repeat: usize,
    /// d.
    pub dim: usize,
}

impl Grouped {
    /// From `q [B, N, h, d]`, `k` and `v [B, M, g, d]`.
    ///
    /// # Errors
    /// If the operands do not fit.
    pub fn new(b: &mut Builder, op: &Attention, operands: &[ValueId]) -> Result<Self> {
        let (qt, kt) = (b.ty(operands[0]).clone(), b.ty(operands[1]).clone());
        let [batch, queries, heads, dim] = [0, 1, 2, 3].map(|axis| qt.shape[axis]);
        let (keys, groups) = (kt.shape[1], kt.shape[2]);
        let repeat = heads / groups;
        let q = if op.scale == 1.0 { operands[0] } else { b.mul_scalar(operands[0], op.scale)? };
        // A norm over a head's numbers does not ask where the heads lie: behind the move it needs no axes of its own.
        let norm = b.maker(q).filter(|made| matches!(made.op, Op::RmsNorm(_))).cloned();
        let source = norm.as_ref().map_or(q, |norm| norm.operands[0]);
        let moved = b.reshape(source, [batch, queries, groups, repeat * dim])?;
        let moved = b.transpose(moved, &[0, 2, 1, 3])?;
        let mut q = b.reshape(moved, [batch, groups, queries * repeat, dim])?;
        if let Some(norm) = norm {
            let parameters = norm.operands[1..].iter().copied();
            q = b.one(norm.op, &std::iter::once(q).chain(parameters).collect::<Vec<_>>())?;
        }
        let k = b.transpose(operands[1], &[0, 2, 1, 3])?;
        let v = b.transpose(operands[2], &[0, 2, 1, 3])?;
        Ok(Grouped { q, k, v, batch, queries, keys, groups, repeat, dim })
    }

    /// `[B, N, h, d]` from rows as those of `q`.
    ///
    /// # Errors
    /// If `rows` has another size.
    pub fn heads(&self, b: &mut Builder, rows: ValueId) -> Result<ValueId> {
        let Grouped { batch, queries, groups, repeat, dim, .. } = *self;
        let x = b.reshape(rows, [batch, groups, queries, repeat * dim])?;
        let x = b.transpose(x, &[0, 2, 1, 3])?;
        b.reshape(x, [batch, queries, groups * repeat, dim])
    }
}
