//! What f16 can carry of a graph's values, from what was measured of them.
//!
//! f16 ends at 65504, and a value that passes it is an infinity from there on. The numbers decide: each value that was measured gets
//! a *power* p and is held as `2^-p` of itself, which is exact but for the smallest numbers. Most ops pass a power on, or have it for
//! nothing: a product takes it into its weights, a norm into its epsilon. What has no such rule is computed in f32 where it must be.

mod classes;
mod notes;
mod plan;

use snapc_ir::{Graph, ValueId};

pub use notes::Note;
pub use plan::{Plan, Rule};

/// The largest number of f16.
pub const LARGEST: f32 = 65504.0;

/// A measured value must stay this much below [`LARGEST`]: other prompts reach further than those that were measured, and a device
/// may add up in f16 what the interpreter rounds once. A power of two, as what is done about it, so that a last bit of a measured
/// number decides nothing but at the powers of two themselves.
pub const MARGIN: f32 = 8.0;

/// The largest power: `2^15` is the last one that f16 itself has.
const MOST: i32 = 15;

/// f16's smallest number; half of it is 0.
const SMALLEST: f32 = 1.0 / 16_777_216.0;

/// What was seen of one value in all runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The largest |x|; infinite where one was no number.
    pub largest: f32,
    /// The largest sum of squares along the last axis.
    pub squares: f32,
    /// The smallest mean of squares along the last axis that is not 0.
    pub least: f32,
}

impl Default for Range {
    fn default() -> Self {
        Range { largest: 0.0, squares: 0.0, least: f32::INFINITY }
    }
}

/// What was seen of each value of one graph, weights included.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured(Vec<Range>);

impl Measured {
    /// Nothing yet.
    pub fn new(graph: &Graph) -> Self {
        Measured(vec![Range::default(); graph.values().len()])
    }

    /// Adds the numbers of one value in one run; `last` is the size of its last axis.
    pub fn add(&mut self, value: ValueId, last: usize, numbers: &[f32]) {
        let range = &mut self.0[value.index()];
        for row in numbers.chunks(last.max(1)) {
            let squares = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
            let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            range.largest = range.largest.max(if squares.is_finite() { largest } else { f32::INFINITY });
            range.squares = range.squares.max(squares as f32);
            if squares > 0.0 {
                range.least = range.least.min((squares / row.len() as f64) as f32);
            }
        }
    }

    /// What was seen of a value.
    pub fn of(&self, value: ValueId) -> Range {
        self.0[value.index()]
    }
}

/// The smallest power that brings `size` to at most `bound`; `None` where no power of f16's does.
fn power_for(size: f32, bound: f32) -> Option<i32> {
    (0..=MOST).find(|&power| size * two_to(-power) <= bound)
}

/// `2^power`, exact.
pub fn two_to(power: i32) -> f32 {
    2f32.powi(power)
}
