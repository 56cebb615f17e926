//! Every pass by name, and the standard order.

use snapc_ir::{Error, Graph, Place, Result, Stage};

use crate::{
    AttentionScale, BakePass, Baking, Evaluate, Pass, Precision, PrecisionPass, Quantize, QuantizePass,
    RotaryHalves, Slice, TokenOrderPass,
};

/// The names that `print --after` takes, in the order in which a compile reaches them: `import` is the graph as the frontend made it,
/// `legalize` what a backend makes of it; between them lie the passes.
pub const NAMES: [&str; 9] = [
    "import",
    "slice",
    "attention_scale",
    "rotary_halves",
    "token_order",
    "bake",
    "quantize",
    "precision",
    "legalize",
];

/// What the standard order depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Standard {
    /// The supernet's width and the one that is asked for.
    pub widths: (usize, usize),
    /// What of the schedule becomes part of the graph.
    pub baking: Option<Baking>,
    /// The type to compute in.
    pub precision: Precision,
    /// Weights alone in f16: for targets that compute in f32 at no loss of speed.
    pub weights_only: bool,
    /// Which weights are stored as codes.
    pub quantize: Option<Quantize>,
}

/// The passes of a compile for a graph of that stage, in order:
/// `slice` first, so that everything behind it sees the sizes that ship; `rotary_halves` before `token_order`, which turns the
/// convolutions that it follows into products; `bake` behind those, which work on one step, and before a number is rounded, as it
/// computes some; `quantize` behind it, so that no code is spent on what only the time path reads; `precision` last, so that it sees every op that will be. `evaluate` is the interpreter, which `bake` asks.
pub fn standard<'a>(
    options: &Standard,
    stage: &Stage,
    evaluate: &'a Evaluate<'a>,
) -> Vec<Box<dyn Pass + 'a>> {
    let mut passes: Vec<Box<dyn Pass + 'a>> = Vec::new();
    if *stage == Stage::Supernet {
        passes.push(Box::new(Slice { from: options.widths.0, to: options.widths.1 }));
    }
    passes.push(Box::new(AttentionScale));
    passes.push(Box::new(RotaryHalves));
    passes.push(Box::new(TokenOrderPass));
    passes.push(Box::new(BakePass { baking: options.baking.clone(), evaluate }));
    passes.push(Box::new(QuantizePass { quantize: options.quantize.clone() }));
    let Standard { precision, weights_only, .. } = *options;
    passes.push(Box::new(PrecisionPass { precision, weights_only }));
    passes
}

/// Runs passes in order, up to and with the one named `last` where one is named. Each replay verifies its graph.
///
/// # Errors
/// If the stages of two neighbours do not meet (found before any runs), or a pass fails.
pub fn run(graph: &Graph, passes: &[Box<dyn Pass + '_>], last: Option<&str>) -> Result<Graph> {
    let mut stage = graph.stage().clone();
    for pass in passes {
        stage = pass.leaves(&stage).ok_or_else(|| {
            Error::bug(format!("{} does not take a {stage} graph", pass.name()))
                .at(Place::Pass(pass.name().to_string()))
        })?;
    }
    let mut current = graph.clone();
    for pass in passes {
        current = pass.run(&current).map_err(|error| error.at(Place::Pass(pass.name().to_string())))?;
        if last == Some(pass.name()) {
            break;
        }
    }
    Ok(current)
}
