use std::collections::BTreeMap;

use snapc_ir::ops::Rotary;
use snapc_ir::{Pairs, Result};

use super::{Call, Execute};
use crate::kernels::{row_blocks, vectorised};
use crate::value::Value;

/// Pairs that are turned at once.
const FEW: usize = 4;

impl Execute for Rotary {
    fn execute(&self, call: &mut Call) -> Result<Vec<Value>> {
        let shape = &call.results[0].shape;
        let (tokens, heads, dim) = (shape[1], shape[2], shape[3]);
        let positions = self.grid.positions();
        let quarter = dim / 4;
        let theta = f64::from(self.theta);
        let speeds: Vec<f64> =
            (0..quarter).map(|pair| theta.powf(-2.0 * pair as f64 / (dim / 2) as f64)).collect();
        // The quarters of a head that a rotation reads, first and second, and the axis whose angle it takes.
        let pairs = match self.pairs {
            Pairs::ByAxis => [[0, 1], [2, 3]],
            Pairs::ByHalf => [[0, 2], [1, 3]],
        };
        // Each angle is the same for all heads: a table of cos and sin a token.
        let mut table = vec![0.0f32; tokens * dim];
        row_blocks(&mut table, dim, |first, block| {
            // Tokens of a row or a column have the same number there.
            let mut known: BTreeMap<u64, Vec<f32>> = BTreeMap::new();
            for (token, angles) in block.chunks_exact_mut(dim).enumerate() {
                for (axis, position) in positions[first + token].into_iter().enumerate() {
                    let turned = known.entry(position.to_bits()).or_insert_with(|| {
                        let cos = speeds.iter().map(|speed| (position * speed).cos() as f32);
                        cos.chain(speeds.iter().map(|speed| (position * speed).sin() as f32)).collect()
                    });
                    angles[2 * axis * quarter..][..2 * quarter].copy_from_slice(turned);
                }
            }
        });
        let mut values = call.own(0);
        row_blocks(&mut values, heads * dim, |first, block| {
            vectorised(
                #[inline(always)]
                || {
                    for (token, numbers) in block.chunks_exact_mut(heads * dim).enumerate() {
                        let angles = &table[(first + token) % tokens * dim..][..dim];
                        for head in numbers.chunks_exact_mut(dim) {
                            turn(head, angles, pairs);
                        }
                    }
                },
            );
        });
        call.one(values)
    }
}

/// Turns the pairs of one head.
#[inline(always)]
fn turn(head: &mut [f32], angles: &[f32], pairs: [[usize; 2]; 2]) {
    let quarter = head.len() / 4;
    for (angles, [first, second]) in angles.chunks_exact(2 * quarter).zip(pairs) {
        let (cos, sin) = angles.split_at(quarter);
        let (front, back) = head.split_at_mut(second * quarter);
        let (xs, ys) = (&mut front[first * quarter..][..quarter], &mut back[..quarter]);
        // Pieces of a known size become vectors, short as a quarter is.
        let ((xs, rest_xs), (ys, rest_ys)) = (xs.as_chunks_mut::<FEW>(), ys.as_chunks_mut::<FEW>());
        let ((cos, rest_cos), (sin, rest_sin)) = (cos.as_chunks::<FEW>(), sin.as_chunks::<FEW>());
        for ((xs, ys), (cos, sin)) in xs.iter_mut().zip(ys).zip(cos.iter().zip(sin)) {
            turn_pairs(xs, ys, cos, sin);
        }
        turn_pairs(rest_xs, rest_ys, rest_cos, rest_sin);
    }
}

#[inline(always)]
fn turn_pairs(xs: &mut [f32], ys: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((x, y), (cos, sin)) in xs.iter_mut().zip(ys).zip(cos.iter().zip(sin)) {
        (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
    }
}
