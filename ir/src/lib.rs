//! The intermediate representation of snapc.
//!
//! A [`Graph`] is a list of [`Node`]s over typed values. It holds no weight bytes: a [`Weight`] is a recipe (a
//! [`Source`] and [`Transform`]s) that the `weights` crate runs when a writer or the interpreter asks for the numbers.
//! A graph is made by a [`Builder`] alone, which infers every type; it is changed by replaying it ([`rewrite`]). So
//! there are no use lists, no stale ids and no dead code. [`text`] prints a graph and parses it back, [`analysis`]
//! answers questions about it, [`verify`] lists what is true of every one.

pub mod analysis;
mod builder;
mod encoding;
mod error;
mod graph;
pub mod ops;
mod order;
pub mod pipeline;
mod rewrite;
pub mod text;
mod types;
mod verify;
mod weight;

pub use builder::Builder;
pub use encoding::{Code, Coded, Encoding, Factor, Method};
pub use error::{Class, Context, Error, Place, Result};
pub use graph::{Def, Graph, Node, NodeId, Port, Stage, Value, ValueId, ValueIds, WeightId};
pub use order::TokenOrder;
pub use rewrite::{Replayed, map_weights, rewrite, rewrite_whole};
pub use types::{DType, TensorType, element_count, shape_text};
pub use verify::verify;
pub use weight::{Dim, Grid, Pairs, Source, Table, Transform, Weight};
