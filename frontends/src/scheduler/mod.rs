//! The schedule of a pipeline, read from its `scheduler/` folder.

mod beta;
mod flow_match_euler;

pub use flow_match_euler::{DEFAULT_STEPS, FlowMatchEuler};
