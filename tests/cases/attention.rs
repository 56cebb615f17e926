use snapc_ir::TokenOrder;
use snapc_ir::ops::{Attention, Pattern};
use snapc_weights::Tensor;

use super::{Case, f64s, numbers};

struct Sizes {
    batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    groups: usize,
    dim: usize,
}

/// Softmax over the keys that `sees` lets through, by its definition.
fn plain(
    sizes: &Sizes,
    [q, k, v]: [&Tensor; 3],
    scale: f64,
    sees: &dyn Fn(usize, usize, usize) -> bool,
) -> Vec<f64> {
    let Sizes { batch, queries, keys, heads, groups, dim } = *sizes;
    let (q, k, v) = (f64s(q), f64s(k), f64s(v));
    let mut out = vec![0.0; batch * queries * heads * dim];
    for b in 0..batch {
        for n in 0..queries {
            for h in 0..heads {
                let g = h / (heads / groups);
                let query = &q[((b * queries + n) * heads + h) * dim..][..dim];
                let row = |x: &[f64], m: usize| x[((b * keys + m) * groups + g) * dim..][..dim].to_vec();
                let logits: Vec<Option<f64>> = (0..keys)
                    .map(|m| {
                        let dot: f64 = query.iter().zip(row(&k, m)).map(|(q, k)| q * k).sum();
                        sees(b, n, m).then_some(dot * scale)
                    })
                    .collect();
                let sum: f64 = logits.iter().flatten().map(|logit| logit.exp()).sum();
                for (m, logit) in logits.iter().enumerate() {
                    let Some(logit) = logit else { continue };
                    let share = logit.exp() / sum;
                    for (i, value) in row(&v, m).into_iter().enumerate() {
                        out[((b * queries + n) * heads + h) * dim + i] += share * value;
                    }
                }
            }
        }
    }
    out
}

fn case(
    name: &str,
    sizes: &Sizes,
    pattern: Pattern,
    mask: Option<Tensor>,
    sees: &dyn Fn(usize, usize, usize) -> bool,
) -> Case {
    let Sizes { batch, queries, keys, heads, groups, dim } = *sizes;
    let q = numbers(1, &[batch, queries, heads, dim]);
    let k = numbers(2, &[batch, keys, groups, dim]);
    let v = numbers(3, &[batch, keys, groups, dim]);
    let scale = 1.0 / (dim as f32).sqrt();
    let expected = plain(sizes, [&q, &k, &v], f64::from(scale), sees);
    let mut inputs = vec![("q", q), ("k", k), ("v", v)];
    inputs.extend(mask.map(|mask| ("mask", mask)));
    let build =
        |b: &mut snapc_ir::Builder, values: &[snapc_ir::ValueId]| b.op(Attention { pattern, scale }, values);
    Case::new(name, "attention", inputs, vec![], build, vec![expected])
}

pub fn cases() -> Vec<Case> {
    let dense = Sizes { batch: 2, queries: 5, keys: 7, heads: 4, groups: 2, dim: 8 };
    let same = Sizes { batch: 1, queries: 6, keys: 6, heads: 2, groups: 2, dim: 4 };
    let one = Sizes { batch: 1, queries: 3, keys: 4, heads: 4, groups: 1, dim: 4 };
    let mask = Tensor::f32([2, 7], vec![1., 1., 1., 0., 0., 0., 0., 1., 0., 1., 1., 1., 1., 0.]);
    let masked = mask.values().to_vec();
    let mut cases = vec![
        case("dense", &dense, Pattern::Dense, None, &|_, _, _| true),
        case("dense_masked", &dense, Pattern::Dense, Some(mask), &|b, _, m| masked[b * 7 + m] == 1.0),
        case("causal", &same, Pattern::Causal, None, &|_, n, m| m <= n),
        case("one_key_head", &one, Pattern::Dense, None, &|_, _, _| true),
    ];
    let row_major = TokenOrder::default();
    let squares = |sides: &[usize]| TokenOrder::new(sides).unwrap();
    for (grid, tile, radius, order) in [
        ([4, 4], 2, 1, row_major),
        ([6, 4], 2, 0, row_major),
        ([4, 6], 1, 1, row_major),
        ([10, 10], 2, 2, row_major),
        ([8, 2], 2, 1, row_major),
        ([6, 6], 2, 5, row_major),
        ([6, 4], 2, 1, squares(&[2])),
        ([8, 12], 4, 1, squares(&[4, 2])),
    ] {
        let places = order.places(grid);
        for batch in [1, 2] {
            let tokens = grid[0] * grid[1];
            let sizes = Sizes { batch, queries: tokens, keys: tokens, heads: 4, groups: 2, dim: 4 };
            let near = |n: usize, m: usize| {
                let tile_of = |token: usize| (places[token][0] / tile, places[token][1] / tile);
                let ((row, col), (other_row, other_col)) = (tile_of(n), tile_of(m));
                row.abs_diff(other_row) <= radius && col.abs_diff(other_col) <= radius
            };
            let sides: String = order.sides().iter().map(|side| format!("_in_{side}")).collect();
            let name = format!(
                "neighborhood_{}x{}_tile_{tile}_radius_{radius}_batch_{batch}{sides}",
                grid[0], grid[1]
            );
            let pattern = Pattern::Neighborhood { grid, tile, radius, order };
            cases.push(case(&name, &sizes, pattern, None, &|_, n, m| near(n, m)));
        }
    }
    cases
}
