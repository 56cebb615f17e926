use snapc_ir::ops::attention::{Grouped, attend, mask_bias};
use snapc_ir::ops::{Attention, Pattern, Split};
use snapc_ir::{Builder, Result, TensorType, ValueId};

use super::{Device, Lowering};

/// Attention to all keys, some queries at a time, so that the scores of all tokens are never there at once.
pub struct Chunked;

/// The most scores of one product on a CPU: 8 MB in f32, about a second-level cache with its neighbours.
const MOST_SCORES: usize = 1 << 21;

/// On a GPU or a neural engine, where all heads go together.
const MOST_SCORES_TOGETHER: usize = 1 << 23;

/// The most queries of one product there (ml-stable-diffusion cuts its queries so).
const MOST_QUERIES: usize = 512;

impl Lowering for Chunked {
    fn takes(&self, device: Device, op: &Attention, operands: &[&TensorType]) -> Option<String> {
        let [queries, keys] = [operands[0], operands[1]].map(|ty| ty.shape[1]);
        let scores = queries * keys * operands[0].shape[0] * operands[0].shape[2];
        let needed = |most| op.pattern == Pattern::Dense && scores > most;
        match device {
            Device::Cpu => needed(MOST_SCORES).then(|| {
                "by key-value head and some queries at a time: on a CPU the scores stay in a cache"
                    .to_string()
            }),
            Device::Gpu | Device::Npu => (needed(MOST_SCORES_TOGETHER) && queries > MOST_QUERIES).then(|| {
                format!(
                    "{MOST_QUERIES} queries at a time, all heads together: no score matrix over all tokens"
                )
            }),
        }
    }

    fn lower(
        &self,
        b: &mut Builder,
        device: Device,
        op: &Attention,
        operands: &[ValueId],
    ) -> Result<ValueId> {
        let grouped = Grouped::new(b, op, operands)?;
        let bias: Vec<ValueId> = mask_bias(b, operands)?.into_iter().collect();
        let rows = match device {
            Device::Cpu => by_head(b, &grouped, &bias)?,
            Device::Gpu | Device::Npu => {
                let parts = queries(b, &grouped, [grouped.q, grouped.k, grouped.v], MOST_QUERIES, &bias)?;
                b.concat(&parts, 2)?
            }
        };
        grouped.heads(b, rows)
    }
}

fn by_head(b: &mut Builder, grouped: &Grouped, bias: &[ValueId]) -> Result<ValueId> {
    let rows = MOST_SCORES / (grouped.keys * grouped.batch);
    let at_once = (rows / grouped.repeat).max(1);
    let mut heads = Vec::new();
    for group in 0..grouped.groups {
        let [q, k, v] = [grouped.q, grouped.k, grouped.v].map(|x| b.slice(x, 1, group, 1));
        let parts = queries(b, grouped, [q?, k?, v?], at_once, bias)?;
        heads.push(b.concat(&parts, 2)?);
    }
    b.concat(&heads, 1)
}

/// Equal runs of queries, as few as keep each to `at_once`.
fn queries(
    b: &mut Builder,
    grouped: &Grouped,
    [q, k, v]: [ValueId; 3],
    at_once: usize,
    bias: &[ValueId],
) -> Result<Vec<ValueId>> {
    let count = grouped.queries.div_ceil(at_once);
    let size = grouped.queries.div_ceil(count);
    let mut parts = Vec::new();
    if count > 1 && grouped.queries == count * size {
        for part in b.op(Split { axis: 2, parts: count }, &[q])? {
            parts.push(attend(b, part, k, v, bias)?);
        }
        return Ok(parts);
    }
    for start in (0..grouped.queries).step_by(size) {
        let rows = size.min(grouped.queries - start) * grouped.repeat;
        let part = b.slice(q, 2, start * grouped.repeat, rows)?;
        parts.push(attend(b, part, k, v, bias)?);
    }
    Ok(parts)
}
