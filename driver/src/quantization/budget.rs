//! Bits are given out under a budget: what each layer's loss is at each choice is measured end to end, one layer at a time; then a
//! knapsack takes the choices whose losses add up to the least.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use snapc_frontends::Part;
use snapc_interp::Interpreter;
use snapc_ir::{Code, Encoding, Error, Graph, Result};
use snapc_passes::quantize::{Choice, Layer, layers};
use snapc_passes::{Pass, Quantize, QuantizePass};
use snapc_weights::{Store, Tensor};

use super::calibrate::calibration_prompts;
use crate::Report;
use crate::examples::{Example, borrowed, draw};
use crate::options::{Bake, Width};
use crate::parts::{self, Parts};

/// Prompts that losses are measured over, all steps of each.
const PROMPTS: usize = 2;

/// Steps of the knapsack's table: bytes are counted in this share of the budget, rounded up.
const CELLS: u64 = 1 << 16;

/// How many bytes the transformer's weights may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// All of them together, those that stay as they are too; without the container.
    Bytes(u64),
    /// Bits of a number of the layers that are quantized, scales and tables included.
    Bits(f64),
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Budget::Bits(bits) => write!(f, "{bits} bits a weight"),
        }
    }
}

/// Reads a number of bytes, as `230MB`, `1.5GB` or `900kB`: powers of 1000.
///
/// # Errors
/// A text of another form.
pub fn parse_bytes(text: &str) -> std::result::Result<u64, String> {
    let wrong = || format!("`{text}` is no number of bytes; write it as 230MB, 1.5GB or 900000");
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|_| wrong())?;
    let unit = match text[end..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        _ => return Err(wrong()),
    };
    Ok((number * unit) as u64)
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// What each tensor gets.
    pub quantize: Quantize,
    /// Bytes of the layers that bits were given out to.
    pub bytes: u64,
    /// Bits of one of their numbers.
    pub bits: f64,
    /// What their losses add up to: the mean over prompts and steps of the squared relative error of the velocity.
    pub loss: f64,
    /// The table counts in so many bytes: a choice that is better by less may be missed.
    pub granule: u64,
}

/// What a layer may get: the kinds of the choice that is asked for, and f16.
fn ladder(asked: Choice) -> Vec<Option<Choice>> {
    let of = |code: Code, group: Option<usize>| {
        Some(Choice { encoding: Encoding { code, group, method: asked.encoding.method }, ..asked })
    };
    let group = asked.encoding.group;
    let mut all = match asked.encoding.code {
        Code::Int { .. } => vec![of(Code::Int { bits: 4 }, group), of(Code::Int { bits: 8 }, None)],
        Code::Palette { .. } => [2, 3, 4, 6, 8].map(|bits| of(Code::Palette { bits }, group)).to_vec(),
    };
    all.push(None);
    all
}

/// One choice of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    /// Its bytes.
    pub bytes: u64,
    /// Its loss.
    pub loss: f64,
}

/// What losses are measured on: a part's runs.
struct Subject<'a> {
    graph: &'a Graph,
    store: &'a Store,
    examples: Vec<Example>,
    expected: Vec<Tensor>,
}

impl Subject<'_> {
    fn run(&self, graph: &Graph) -> Result<Vec<Tensor>> {
        let interpreter = Interpreter::new(graph, self.store);
        self.examples
            .iter()
            .map(|example| crate::walk::first(interpreter.run(&borrowed(&example.inputs))?))
            .collect()
    }

    /// Bytes and loss of one choice for one layer, all else as it was.
    fn price(&self, layer: &Layer, choice: Option<Choice>) -> Result<Price> {
        let count = layer.shape.iter().product::<usize>() as u64;
        let Some(choice) = choice else { return Ok(Price { bytes: 2 * count, loss: 0.0 }) };
        let tensors = BTreeMap::from([(layer.tensor.clone(), Some(choice))]);
        let quantize = Quantize { tensors, ..Quantize::default() };
        let coded = QuantizePass { quantize: Some(quantize) }.run(self.graph)?;
        let stored = snapc_passes::quantize::encoded(&coded)
            .iter()
            .map(|(_, weight)| weight.stored_bytes())
            .sum::<u64>();
        let beside = 2 * choice.rank * (layer.shape[0] + layer.shape[1..].iter().product::<usize>());
        let mut loss = 0.0;
        for (found, expected) in self.run(&coded)?.iter().zip(&self.expected) {
            let pairs =
                || found.values().iter().zip(expected.values()).map(|(f, e)| (f64::from(*f), f64::from(*e)));
            let off: f64 = pairs().map(|(f, e)| (f - e) * (f - e)).sum();
            loss += off / pairs().map(|(_, e)| e * e).sum::<f64>();
        }
        Ok(Price { bytes: stored + beside as u64, loss: loss / self.expected.len() as f64 })
    }
}

/// The networks and prompts that losses are measured with.
pub struct Sample<'a> {
    /// The pipeline folder.
    pub pipeline: &'a Path,
    /// The network.
    pub width: &'a Width,
    /// Rows and columns of the picture, in pixels.
    pub size: Option<[usize; 2]>,
    /// Steps.
    pub steps: Option<usize>,
}

/// Gives out bits among the layers of the transformer that `asked` would quantize. `fixed` are the bytes of what stays as it is; tensors
/// that a recipe names keep what it says.
///
/// # Errors
/// If the budget cannot be met (the least is told), or what the interpreter finds.
pub fn give_out(
    budget: Budget,
    asked: &Quantize,
    sample: &Sample,
    store: impl Fn(&Store) -> Result<Store>,
    fixed: impl Fn(&[Layer]) -> u64,
    report: &mut dyn Report,
) -> Result<Given> {
    let default = asked.default.unwrap_or(Choice::of(Encoding::int(4, Some(32))));
    if default.activations {
        return Err(Error::usage(format!("a budget gives out bits a layer, and {default} has 8 for each"))
            .help(
                "name int8, int4 or a palette with --quantize; a --recipe may have w8a8 for single tensors",
            ));
    }
    let choice = parts::Choice { width: Some(sample.width), size: sample.size, steps: sample.steps };
    let parts = Parts::from_pipeline(sample.pipeline, &choice)?;
    let store = store(&parts.transformer.store)?;
    let graph = super::calibrate::prepared(&parts.transformer.graph, &store)?;
    let free = |layer: &Layer| !layer.outer && !asked.tensors.contains_key(&layer.tensor);
    let layers: Vec<Layer> = layers(&graph).into_iter().filter(free).collect();
    let count: u64 = layers.iter().map(|layer| layer.shape.iter().product::<usize>() as u64).sum();
    let mut subject = Subject { graph: &graph, store: &store, examples: Vec::new(), expected: Vec::new() };
    for (seed, prompt) in calibration_prompts(sample.pipeline, None)?.iter().take(PROMPTS).enumerate() {
        let mut examples = Vec::new();
        draw(&parts, prompt, None, seed as u64, Bake::None, &mut examples)?;
        let mine = examples.into_iter().filter(|(part, _)| *part == Part::Transformer);
        subject.examples.extend(mine.map(|(_, example)| example));
    }
    subject.expected = subject.run(&graph)?;
    let ladder = ladder(default);
    report.begin("sensitivity", (layers.len() * ladder.len()) as u64);
    let mut prices = Vec::new();
    for layer in &layers {
        let mut own = Vec::new();
        for &choice in &ladder {
            own.push(subject.price(layer, choice)?);
            report.advance(1);
        }
        prices.push(own);
    }
    let fixed = fixed(&layers);
    let (bytes, told) = match budget {
        Budget::Bytes(bytes) => (bytes.checked_sub(fixed), format!("{bytes} bytes")),
        Budget::Bits(bits) => (Some((bits * count as f64 / 8.0) as u64), format!("{bits} bits a weight")),
    };
    let least: u64 = prices.iter().filter_map(|own| own.iter().map(|price| price.bytes).min()).sum();
    let Some((taken, granule)) = bytes.and_then(|bytes| knapsack(&prices, bytes)) else {
        let least = match budget {
            Budget::Bytes(_) => format!("{} bytes, of which {fixed} are what stays f16", fixed + least),
            Budget::Bits(_) => format!("{:.3} bits a weight", 8.0 * least as f64 / count as f64),
        };
        return Err(Error::usage(format!("a budget of {told} cannot be met: the least possible is {least}"))
            .help("raise it, take a narrower subnet, or choose palettes with --quantize palette4 (Core ML), which go down to 2 bits"));
    };
    let mut quantize = asked.clone();
    quantize.default = None;
    for (layer, &number) in layers.iter().zip(&taken) {
        quantize.tensors.insert(layer.tensor.clone(), ladder[number]);
    }
    let sum = |of: &dyn Fn(&Price) -> f64| -> f64 {
        prices.iter().zip(&taken).map(|(own, &number)| of(&own[number])).sum()
    };
    let bytes = sum(&|price| price.bytes as f64) as u64;
    let bits = 8.0 * bytes as f64 / count as f64;
    Ok(Given { quantize, bytes, bits, loss: sum(&|price| price.loss), granule })
}

/// For each list the number of the choice, so that the bytes keep to the budget and the losses add up to the least; and the bytes that it
/// counts in. Every choice is rounded up to whole granules, so the result keeps to the budget, and its loss is the least of all results
/// that would keep to it by a granule a list. `None` where nothing keeps to it.
pub fn knapsack(lists: &[Vec<Price>], budget: u64) -> Option<(Vec<usize>, u64)> {
    // Even a budget that is met by a hair is met: what the least choices leave is what is counted.
    let least: Vec<u64> =
        lists.iter().map(|list| list.iter().map(|one| one.bytes).min()).collect::<Option<_>>()?;
    let spare = budget.checked_sub(least.iter().sum())?;
    let granule = spare.div_ceil(CELLS).max(1);
    let cells = (spare / granule) as usize;
    let mut best = vec![0.0; cells + 1];
    let mut chosen: Vec<Vec<u8>> = Vec::with_capacity(lists.len());
    for (list, least) in lists.iter().zip(&least) {
        let mut next = vec![f64::INFINITY; cells + 1];
        let mut own = vec![0u8; cells + 1];
        for (number, one) in list.iter().enumerate() {
            let size = (one.bytes - least).div_ceil(granule) as usize;
            for cell in size..=cells {
                let loss = best[cell - size] + one.loss;
                if loss < next[cell] {
                    (next[cell], own[cell]) = (loss, number as u8);
                }
            }
        }
        best = next;
        chosen.push(own);
    }
    let mut cell = cells;
    let mut taken = vec![0; lists.len()];
    for (place, own) in chosen.iter().enumerate().rev() {
        taken[place] = usize::from(own[cell]);
        cell -= (lists[place][taken[place]].bytes - least[place]).div_ceil(granule) as usize;
    }
    Some((taken, granule))
}
