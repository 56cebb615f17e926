//! Text encoders.

pub mod clip;
