//! What all backends share: the [`Backend`] trait, [`legalize`] and [`LegalGraph`].

mod hashing;
mod legalize;
pub mod limits;
mod lower;
mod names;
mod sink;
mod tidy;

use std::path::Path;

use snapc_ir::ops::Op;
use snapc_ir::{Builder, Error, Graph, Node, Replayed, Result, TensorType, ValueId};
use snapc_weights::{Limits, Store};

pub use hashing::Hashed;
pub use legalize::{Explanation, LegalGraph, Legalized, legalize, legalize_explained, legalize_whole};
pub use lower::Device;
pub use names::Names;
pub use sink::{Sink, Written};

/// Whether a target has an op for these operands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Native {
    /// It has.
    Yes,
    /// It has not; why, in words for `--explain`.
    No(String),
}

/// What a backend is given to write one part.
pub struct Part<'a> {
    /// The graph: `text_encoder`, `transformer` or `vae_decoder`. It is the writer's: while weights are written, its nodes are gone.
    pub graph: LegalGraph,
    /// Where its weights are.
    pub store: &'a Store,
    /// How much is read and encoded at once.
    pub limits: Limits,
    /// Facts that the artifact carries along: key and value, in order. No time and no absolute path.
    pub facts: &'a [(String, String)],
}

impl<'a> Part<'a> {
    /// A part, written at the usual pace.
    pub fn new(graph: LegalGraph, store: &'a Store, facts: &'a [(String, String)]) -> Self {
        Part { graph, store, limits: Limits::default(), facts }
    }
}

/// A target's writer.
pub trait Backend: Send + Sync {
    /// The target's name, `coreml`.
    fn name(&self) -> &'static str;

    /// What its artifacts are written for where nothing else is asked for.
    fn default_device(&self) -> Device;

    /// Whether the target has this op for operands of these types.
    fn native(&self, op: &Op, operands: &[&TensorType]) -> Native;

    /// This target's own rewriting of a node; `None` where it has none, or nothing to change.
    ///
    /// # Errors
    /// If the node cannot be said in this target.
    fn rule(&self, _builder: &mut Builder, _node: &Replayed) -> Result<Option<Vec<ValueId>>> {
        Ok(None)
    }

    /// Why a delegate or a processor of this target will not take a node of a legal graph: it runs elsewhere, slower. No reason
    /// where all take it.
    fn left_out(&self, _graph: &Graph, _node: &Node) -> Vec<&'static str> {
        Vec::new()
    }

    /// Everything in a graph that passes a limit of the target: the limit, the node's path and what to do. A graph of which this finds
    /// nothing can be written.
    fn check(&self, graph: &Graph, device: Device) -> Vec<Error>;

    /// How much a graph has of what the target's [`limits`] count.
    fn uses(&self, graph: &Graph, device: Device) -> Vec<limits::Use>;

    /// The file or folder name of a part: `Transformer.mlpackage`.
    fn artifact(&self, part: &str) -> String;

    /// Writes a part to `path`, which does not exist yet and is renamed by the caller once all is well.
    /// Same part, same bytes. `progress` is told the bytes of weights written since its last call. Gives the files whose hash was taken on
    /// the way: those of weights.
    ///
    /// # Errors
    /// If a weight cannot be read or the folder not be written.
    fn write(&self, part: Part, path: &Path, progress: &mut dyn FnMut(u64)) -> Result<Vec<Written>>;

    /// Reads what was written back into a graph and the store of its weights. Written from the format's specification,
    /// not from the writer.
    ///
    /// # Errors
    /// If the artifact breaks the format or uses more of it than snapc writes.
    fn read(&self, path: &Path) -> Result<(Graph, Store)>;
}
