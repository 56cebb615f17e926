use std::collections::BTreeSet;
use std::str::FromStr;

use snapc_ir::ops::Cast;
use snapc_ir::{DType, Graph, Result, Stage, Weight};

use crate::half_replay::HalfReplay;
use crate::ranges::Plan;
use crate::{Pass, SAMPLER};

/// The type in which a part is written and computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Weights and values in f16; inputs and outputs stay f32.
    #[default]
    F16,
    /// Everything in f32.
    F32,
}

impl Precision {
    /// `f16` or `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F16 => "f16",
            Precision::F32 => "f32",
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [Precision::F16, Precision::F32]
            .into_iter()
            .find(|precision| precision.name() == text)
            .ok_or_else(|| format!("`{text}` is no precision; the precisions are f16, f32"))
    }
}

/// Gives weights and values their types. What f16 cannot carry stays f32: the timestep and its sinusoid (a step of f16 at 1000 is
/// 0.5), the sampler's step and its coefficients; norms take and give f16 but are computed in f32 by their definition. What is known
/// of the values' ranges decides which are scaled by a power of two, and what else stays f32 ([`Plan`]).
pub struct PrecisionPass {
    /// The type to compute in.
    pub precision: Precision,
    /// Only the weights are stored in f16; each is cast back, and everything is computed in f32.
    pub weights_only: bool,
}

impl PrecisionPass {
    /// As a run of the pass with `F16`, for a graph whose values were measured.
    ///
    /// # Errors
    /// A plan of another graph.
    pub fn run_measured(&self, graph: &Graph, plan: &Plan) -> Result<Graph> {
        if self.computes_half() { self.to_half(graph, plan) } else { self.run(graph) }
    }

    /// Whether values become f16, so that their ranges matter.
    pub fn computes_half(&self) -> bool {
        self.precision == Precision::F16 && !self.weights_only
    }

    fn to_half(&self, graph: &Graph, plan: &Plan) -> Result<Graph> {
        let mut replay = HalfReplay::new(graph, plan)?;
        graph.nodes().iter().enumerate().try_for_each(|(index, node)| replay.node(index, node))?;
        replay.finish()
    }

    /// Weights of less than a page stay as they are: their casts would cost more than their bytes. So do codes, which decode to f32.
    fn store_half(&self, graph: &Graph) -> Result<Graph> {
        const SMALLEST: usize = 1024;
        let kept = sampler_weights(graph);
        let stored = |weight: &Weight| {
            let plain = weight.dtype == DType::F32 && weight.coded().is_none();
            plain && weight.ty().count() >= SMALLEST && !kept.contains(&weight.name)
        };
        snapc_ir::rewrite(
            graph,
            graph.stage().clone(),
            |weight| Ok(if stored(&weight) { half(weight) } else { weight }),
            |builder, node| {
                let mut operands = Vec::new();
                for &id in &node.operands {
                    let cast = builder.as_weight(id).is_some_and(|weight| weight.dtype == DType::F16);
                    operands.push(if cast { builder.one(Cast { dtype: DType::F32 }, &[id])? } else { id });
                }
                builder.op(node.op().clone(), &operands).map(Some)
            },
        )
    }
}

/// The names of the weights that the sampler alone reads.
pub(crate) fn sampler_weights(graph: &Graph) -> BTreeSet<String> {
    let read_by = |sampler: bool| -> BTreeSet<String> {
        let nodes = graph.nodes().iter().filter(|node| (*node.scope == *SAMPLER) == sampler);
        nodes
            .flat_map(|node| &node.operands)
            .filter_map(|&id| graph.as_weight(id))
            .map(|weight| weight.name.clone())
            .collect()
    };
    &read_by(true) - &read_by(false)
}

pub(crate) fn half(mut weight: Weight) -> Weight {
    if weight.dtype == DType::F32 {
        weight.dtype = DType::F16;
    }
    weight
}

impl Pass for PrecisionPass {
    fn name(&self) -> &'static str {
        "precision"
    }

    fn leaves(&self, stage: &Stage) -> Option<Stage> {
        (*stage == Stage::Subnet).then_some(Stage::Subnet)
    }

    fn run(&self, graph: &Graph) -> Result<Graph> {
        match (self.precision, self.weights_only) {
            (Precision::F32, _) => Ok(graph.clone()),
            (Precision::F16, false) => self.to_half(graph, &Plan::unmeasured(graph)),
            (Precision::F16, true) => self.store_half(graph),
        }
    }
}
