//! A file: its signatures, the weights that they share, and how it is written.

use std::path::Path;

use snapc_backend::{Hashed, LegalGraph, Sink, Written};
use snapc_ir::{Error, Graph, Result};
use snapc_weights::{Limits, Store};

use crate::blocks::Blocks;
use crate::pack::Model;
use crate::schema::SIGNATURE;
use crate::{emit, legal, pack};

/// One graph of a file, by the name that an app runs it by.
#[derive(Clone, Debug)]
pub struct Signature<'a> {
    /// The name, unique in the file: the graph's own, alone or with `_` and more behind it; `serving_default` where it is the only one.
    pub key: String,
    /// The graph. It is the file's: while weights are written, its nodes are gone.
    pub graph: LegalGraph,
    /// Where its weights are.
    pub store: &'a Store,
}

/// One file of several signatures. Weights that have the same bytes by their recipes are stored once.
pub struct ModelFile<'a> {
    signatures: Vec<Signature<'a>>,
    facts: &'a [(String, String)],
    blocks: Blocks,
}

impl<'a> ModelFile<'a> {
    /// Plans a file; `facts` are keys and values that it carries along, as a part's do.
    ///
    /// # Errors
    /// If the whole passes a limit of the format.
    pub fn new(signatures: Vec<Signature<'a>>, facts: &'a [(String, String)]) -> Result<Self> {
        for (number, Signature { key, graph, .. }) in signatures.iter().enumerate() {
            let again = signatures[..number].iter().any(|other| other.key == *key);
            if again || !is_key(key, graph.name(), signatures.len()) {
                return Err(Error::bug(format!("{key} cannot be the signature of {}", graph.name())));
            }
        }
        let graphs: Vec<&Graph> = signatures.iter().map(|signature| &*signature.graph).collect();
        if let Some(error) = legal::check_file(&graphs).into_iter().next() {
            return Err(error);
        }
        let blocks = Blocks::new(&signatures);
        Ok(ModelFile { signatures, facts, blocks })
    }

    /// Bytes of the weights, shared ones once: what a writer's `progress` is told in all.
    pub fn weight_bytes(&self) -> u64 {
        self.blocks.weight_bytes()
    }

    /// Writes the file to `path`, which does not exist yet. The same signatures and facts give the same bytes. `progress` is told the
    /// bytes of weights written since its last call.
    ///
    /// # Errors
    /// If a weight cannot be read or the file not be written.
    pub fn write(self, path: &Path, limits: Limits, progress: &mut dyn FnMut(u64)) -> Result<Written> {
        let ModelFile { signatures, facts, blocks } = self;
        let made = |signatures: &[Signature]| emit::model(signatures, facts, &blocks);
        let hashed = if blocks.has_inner_scales() { Hashed::Not } else { Hashed::within(limits) };
        let mut sink = Sink::create(path, hashed)?;
        let model = made(&signatures)?;
        if blocks.has_inner_scales() {
            put(&mut sink, model, &blocks, progress)?;
            let weights: Vec<_> = signatures.iter().map(|one| (one.graph.weights(), one.store)).collect();
            let scales = blocks.write(&weights, limits, &mut sink, progress)?;
            // Scales are known now; the flatbuffer's length does not depend on them. The model was not held meanwhile.
            let mut model = made(&signatures)?;
            emit::set_scales(&mut model, &scales);
            sink.replace_start(pack::pack(&model, &blocks).bytes())?;
        } else {
            // Of the graphs, the model, the flatbuffer and the buffers of weights, no three are held at once.
            let owned = signatures.into_iter().map(|one| (one.graph.into_weights(), one.store));
            let owned: Vec<_> = owned.collect();
            put(&mut sink, model, &blocks, progress)?;
            let weights: Vec<_> = owned.iter().map(|(weights, store)| (&weights[..], *store)).collect();
            blocks.write(&weights, limits, &mut sink, progress)?;
        }
        sink.finish()
    }
}

/// Writes the flatbuffer, with the weights that stand in it.
fn put(sink: &mut Sink, model: Model, blocks: &Blocks, progress: &mut dyn FnMut(u64)) -> Result<()> {
    sink.put(pack::pack(&model, blocks).bytes())?;
    progress(blocks.inline_bytes());
    Ok(())
}

/// Whether a signature of a file with so many can have this key.
fn is_key(key: &str, graph: &str, count: usize) -> bool {
    let of_graph = key.strip_prefix(graph).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    of_graph || (count == 1 && key == SIGNATURE)
}
