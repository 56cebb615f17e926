//! Denoisers.

pub mod snapgen;
