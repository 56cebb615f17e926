//! Readers of pipelines.

pub mod scheduler;
