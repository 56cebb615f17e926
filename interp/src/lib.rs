//! The reference interpreter: the definition of what each op computes.
//!
//! An [`Interpreter`] runs one graph; [`sample`] walks a schedule with the transformer's; [`TorchGenerator`] draws the noise that
//! PyTorch draws. Numbers are computed in f32; a value of type f16 is rounded to f16 as it is made.

mod awake;
mod gemm;
mod kernels;
pub mod noise;
mod ops;
mod plan;
mod pool;
mod products;
mod run;
mod sampler;
mod value;

pub use noise::TorchGenerator;
pub use products::products;
pub use run::Interpreter;
pub use sampler::{Sampling, sample};
