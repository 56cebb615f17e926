//! Passes: graph to graph, knowing no target. Each reads a graph and replays it; none edits.

mod attention_scale;
mod bake;
mod half_replay;
mod list;
mod precision;
pub mod quantize;
pub mod ranges;
mod rotary_halves;
mod slice;
mod token_order;

use snapc_ir::{Graph, Result, Stage};

pub use attention_scale::AttentionScale;
pub use bake::{BakePass, Baking, Evaluate, Form, SAMPLER};
pub use list::{NAMES, Standard, run, standard};
pub use precision::{Precision, PrecisionPass};
pub use quantize::{Quantize, QuantizePass};
pub use rotary_halves::RotaryHalves;
pub use slice::Slice;
pub use token_order::TokenOrderPass;

/// One pass.
pub trait Pass {
    /// Its name, as `print --after` takes it.
    fn name(&self) -> &'static str;

    /// Whether it takes a graph of this stage, and the stage that it leaves.
    fn leaves(&self, stage: &Stage) -> Option<Stage>;

    /// Runs it.
    ///
    /// # Errors
    /// What its description says.
    fn run(&self, graph: &Graph) -> Result<Graph>;
}
