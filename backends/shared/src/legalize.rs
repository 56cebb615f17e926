use std::ops::Deref;

use snapc_ir::ops::Op;
use snapc_ir::{Context, Error, Graph, Place, Replayed, Result, Stage, Weight, rewrite, rewrite_whole};

use crate::lower::{self, Device};
use crate::tidy::tidy;
use crate::{Backend, Native};

/// How often what comes of a rule or an expansion is asked again. The deepest road (a group norm inside an attention
/// block) takes three rounds; one that takes more than this goes in circles.
const ROUNDS: usize = 16;

/// A graph of only what its target has. Nothing but [`legalize`] makes one, so a writer meets no op that it lacks.
#[derive(Clone, Debug, PartialEq)]
pub struct LegalGraph(Graph);

impl LegalGraph {
    /// As [`Graph::into_weights`].
    pub fn into_weights(self) -> Vec<Weight> {
        self.0.into_weights()
    }
}

impl Deref for LegalGraph {
    type Target = Graph;

    fn deref(&self) -> &Graph {
        &self.0
    }
}

/// Why some ops of a graph are not written as they are, or not run where the target runs the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The op.
    pub op: &'static str,
    /// Why the target has it not.
    pub reason: String,
    /// How many nodes that is.
    pub count: usize,
    /// The first of them, by its path in the checkpoint.
    pub first: String,
}

/// Rewrites a graph until its target has every op: asks of each node for a rule, then whether it is native, then for
/// its expansion; then lets transposes, reshapes and casts that meet cancel, and checks the target's limits.
///
/// # Errors
/// A node that the target cannot take, or a limit that is passed, with the node's path.
pub fn legalize(graph: &Graph, backend: &dyn Backend) -> Result<LegalGraph> {
    legalize_explained(graph, backend, backend.default_device()).map(|(legal, _)| legal)
}

/// As [`legalize`], for a device; also says which ops were expanded, and which of the legal ones a delegate leaves out, and why.
///
/// # Errors
/// As [`legalize`].
pub fn legalize_explained(
    graph: &Graph,
    backend: &dyn Backend,
    device: Device,
) -> Result<(LegalGraph, Vec<Explanation>)> {
    legalize_whole(graph, backend, device)?.checked()
}

/// A graph of only what its target has, whether or not it keeps to the target's limits.
#[derive(Clone, Debug)]
pub struct Legalized {
    /// The graph, to be looked at: only [`Legalized::checked`] gives one that can be written.
    pub graph: Graph,
    /// Which ops were expanded, which of the legal ones a delegate leaves out, and why.
    pub explanations: Vec<Explanation>,
    /// Every limit that is passed.
    pub passed: Vec<Error>,
}

impl Legalized {
    /// What can be written.
    ///
    /// # Errors
    /// The first limit that is passed.
    pub fn checked(self) -> Result<(LegalGraph, Vec<Explanation>)> {
        match self.passed.into_iter().next() {
            Some(error) => Err(error),
            None => Ok((LegalGraph(self.graph), self.explanations)),
        }
    }
}

/// As [`legalize_explained`], up to the end where limits are passed.
///
/// # Errors
/// A node that the target cannot take.
pub fn legalize_whole(graph: &Graph, backend: &dyn Backend, device: Device) -> Result<Legalized> {
    let mut explanations: Vec<Explanation> = Vec::new();
    let stage = Stage::Legal(backend.name().to_string());
    let target = || Place::Target(backend.name().to_string());
    let mut current =
        lower_whole(graph, backend, device, &mut explanations).map_err(|error| error.at(target()))?;
    for _ in 0..ROUNDS {
        let mut changed = false;
        current = rewrite_whole(current, stage.clone(), Ok, |builder, node| {
            let place = || Place::Node(node.node.scope.to_string());
            if let Some(results) = backend.rule(builder, node).at(place)? {
                changed = true;
                return Ok(Some(results));
            }
            let types: Vec<_> = node.operands.iter().map(|&id| builder.ty(id)).collect();
            let Native::No(reason) = backend.native(node.op(), &types) else { return Ok(None) };
            changed = true;
            let expanded = node.op().expand(builder, &node.operands).at(place)?;
            note(&mut explanations, node.op().name(), &node.node.scope, &reason);
            expanded.map(Some).ok_or_else(|| refuse(node, &reason).at(place()))
        })
        .map_err(|error| error.at(target()))?;
        if !changed {
            let graph = tidy(current)?;
            let passed = backend.check(&graph, device).into_iter().map(|error| error.at(target())).collect();
            for node in graph.nodes() {
                for reason in backend.left_out(&graph, node) {
                    note(&mut explanations, node.op.name(), &node.scope, reason);
                }
            }
            return Ok(Legalized { graph, explanations, passed });
        }
    }
    Err(Error::bug("legalizing does not come to an end").at(target()))
}

/// What is lowered as several nodes of the model together goes first: attention with the norms of its queries, and feed-forwards.
fn lower_whole(
    graph: &Graph,
    backend: &dyn Backend,
    device: Device,
    explanations: &mut Vec<Explanation>,
) -> Result<Graph> {
    rewrite(graph, Stage::Legal(backend.name().to_string()), Ok, |builder, node| {
        let place = || Place::Node(node.node.scope.to_string());
        if let Op::Linear(_) = node.op() {
            let (lowered, why) = lower::linear(builder, device, &node.operands).at(place)?;
            if lowered.is_some() {
                note(explanations, "linear", &node.node.scope, why);
            }
            return Ok(lowered.map(|y| vec![y]));
        }
        let Op::Attention(op) = node.op() else { return Ok(None) };
        let types: Vec<_> = node.operands.iter().map(|&id| builder.ty(id)).collect();
        let Native::No(reason) = backend.native(node.op(), &types) else { return Ok(None) };
        let (result, way) = lower::attention(builder, device, op, &node.operands).at(place)?;
        note(explanations, node.op().name(), &node.node.scope, &format!("{reason}: {way}"));
        Ok(Some(vec![result]))
    })
}

fn note(explanations: &mut Vec<Explanation>, op: &'static str, scope: &str, reason: &str) {
    match explanations.iter_mut().find(|known| known.op == op && known.reason == reason) {
        Some(known) => known.count += 1,
        None => {
            let (reason, first) = (reason.to_string(), scope.to_string());
            explanations.push(Explanation { op, reason, count: 1, first });
        }
    }
}

fn refuse(node: &Replayed, reason: &str) -> Error {
    Error::limit(format!("{} cannot be written: {reason}", node.op().name()))
        .help("another target may have it: see the table of targets in the README")
}
