//! Reads a pipeline folder into graphs: the only code that knows a checkpoint's names.

mod checkpoint;
mod config;
mod diffusers;
pub mod scheduler;
pub mod text_encoder;
pub mod tokenizer;
pub mod transformer;
pub mod vae;

pub use checkpoint::Checkpoint;
pub use config::LARGEST_SIZE;
pub use diffusers::{Imported, Part, Pipeline};
