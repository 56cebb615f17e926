use snapc_ir::ops::Op;
use snapc_ir::{Graph, Node, ValueId};

use super::classes::{Classes, carrier, moves};
use super::notes::{Note, Notes, Why};
use super::{LARGEST, MARGIN, MOST, Measured, Range, SMALLEST, power_for, two_to};
use crate::SAMPLER;

/// How a node is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// In f32 by its definition: the timestep and its sinusoid (a step of f16 at 1000 is 0.5), the sampler's step.
    Exact,
    /// In f32, for what was measured.
    Keep,
    /// A product with weights, which take the powers of operand and result.
    Product,
    /// A norm: x at that power, with that epsilon. What x is multiplied by, the norm divides by.
    Norm {
        /// The power of x.
        power: i32,
        /// The epsilon for it.
        eps: f32,
    },
    /// All operands at the power of the result.
    Same,
    /// The operand of that number at the power of the result, others as they are.
    Carry(usize),
    /// All as they are.
    Plain,
}

/// How each node of a graph is computed in f16, and at which power each value is held.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The power that a value needs; `None` where f16 has none for it.
    needs: Vec<Option<i32>>,
    powers: Vec<i32>,
    rules: Vec<Rule>,
    notes: Vec<Note>,
}

/// The bound of a norm's row, so that the sum of its squares keeps [`MARGIN`] in each number; a device may take the squares of a
/// number and of its negative.
fn row_bound() -> f32 {
    LARGEST.sqrt() / MARGIN
}

fn row(range: Range) -> f32 {
    (2.0 * range.squares).sqrt()
}

/// Whether a norm of x at that power computes what it should: its epsilon is a number that f16 has to four bits, or so small against
/// the smallest mean of squares that f16's smallest number instead of it changes no bit (11 of them count). The latter keeps x out of
/// f16's subnormal numbers too.
fn eps_fits(eps: f32, range: Range, power: i32) -> bool {
    let squared = two_to(-2 * power);
    power == 0 || eps * squared >= 16.0 * SMALLEST || range.least * squared >= 2048.0 * SMALLEST
}

impl Plan {
    /// Decides by rule:
    ///
    /// 1. a value whose largest number passes `65504 / 8` *needs* the smallest power that brings it below; so does the x of a norm
    ///    whose squares would;
    /// 2. values that a sum, a move or a product with a gate ties together are held at the largest power that one of them needs;
    /// 3. a node without a rule for powers, weights that a power would push out of f16, and scores that pass f16 are computed in f32.
    pub fn new(graph: &Graph, measured: &Measured) -> Self {
        let count = graph.values().len();
        let mut plan =
            Plan { needs: vec![Some(0); count], powers: Vec::new(), rules: Vec::new(), notes: Vec::new() };
        plan.powers = plan.powers_of(graph, measured);
        let mut notes = Notes::default();
        for node in graph.nodes() {
            let rule = match plan.rule(graph, measured, node) {
                Ok(rule) => rule,
                Err((why, size)) => {
                    notes.add(node, why, size, 0);
                    Rule::Keep
                }
            };
            if !matches!(rule, Rule::Keep | Rule::Exact) {
                plan.note_held(measured, node, rule, &mut notes);
            }
            plan.rules.push(rule);
        }
        plan.notes = notes.finish();
        plan
    }

    /// Notes what each value needs, and gives the power of each.
    fn powers_of(&mut self, graph: &Graph, measured: &Measured) -> Vec<i32> {
        let count = graph.values().len();
        let classes = Classes::new(graph, measured);
        let (mut needed, mut wished, mut most) = (vec![0; count], vec![0; count], vec![MOST; count]);
        for node in graph.nodes() {
            for &id in node.results.iter().chain(&node.operands) {
                if graph.as_weight(id).is_none() && graph.ty(id).dtype.is_float() {
                    let need = power_for(measured.of(id).largest, LARGEST / MARGIN);
                    self.needs[id.index()] = need;
                    let class = classes.of(id.index());
                    needed[class] = needed[class].max(need.unwrap_or(0));
                }
            }
            match &node.op {
                Op::RmsNorm(_) | Op::LayerNorm(_) => {
                    let class = classes.of(node.operands[0].index());
                    wished[class] = wished[class].max(norm_power(node, measured));
                }
                Op::Linear(_) | Op::Conv2d(_) => {
                    let class = classes.of(node.results[0].index());
                    most[class] = most[class].min(spare(measured.of(node.operands[1]).largest));
                }
                _ => {}
            }
        }
        let power = |class: usize| wished[class].min(most[class]).max(needed[class]);
        (0..count).map(|value| power(classes.of(value))).collect()
    }

    /// A plan for a graph of which nothing is known: all is taken to fit.
    pub fn unmeasured(graph: &Graph) -> Self {
        Plan::new(graph, &Measured::new(graph))
    }

    /// How the node of that number is computed.
    pub fn rule_of(&self, node: usize) -> Rule {
        self.rules[node]
    }

    /// The power at which a value is best held.
    pub fn power(&self, value: ValueId) -> i32 {
        self.powers[value.index()]
    }

    /// Whether f16 holds a value as it is.
    pub fn fits(&self, value: ValueId) -> bool {
        self.needs[value.index()] == Some(0)
    }

    /// What was done, and why.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The rule of a node; what forbids to compute it in f16 else, and how large that is.
    fn rule(&self, graph: &Graph, measured: &Measured, node: &Node) -> Result<Rule, (Why, f32)> {
        if matches!(node.op, Op::TimestepEmbedding(_)) || *node.scope == *SAMPLER {
            return Ok(Rule::Exact);
        }
        let largest = |id: &ValueId| measured.of(*id).largest;
        let passes = |id: &&ValueId| self.needs[id.index()].is_none();
        if let Some(id) = node.operands.iter().chain(&node.results).find(passes) {
            return Err((Why::Value, largest(id)));
        }
        let as_they_are = |ids: &[ValueId], but: Option<usize>| {
            let others = ids.iter().enumerate().filter(|(number, _)| Some(*number) != but).map(|(_, id)| id);
            match others.filter(|id| !self.fits(**id)).max_by(|a, b| largest(a).total_cmp(&largest(b))) {
                Some(id) => Err((Why::Value, largest(id))),
                None => Ok(()),
            }
        };
        let constant = node.operands.iter().skip(1).all(|&id| graph.as_weight(id).is_some());
        let rule = match &node.op {
            Op::Linear(_) | Op::Conv2d(_) if constant => Rule::Product,
            Op::RmsNorm(_) | Op::LayerNorm(_) | Op::GroupNorm(_) if constant => self.norm(measured, node)?,
            Op::Embedding(_) | Op::Add(_) | Op::Sub(_) => Rule::Same,
            op if moves(op) => Rule::Same,
            Op::Mul(_) | Op::Matmul(_) => {
                let carrier = carrier(graph, measured, node);
                as_they_are(&node.operands, Some(carrier))?;
                Rule::Carry(carrier)
            }
            Op::Attention(op) => {
                as_they_are(&node.operands, Some(2))?;
                let [q, k] = [0, 1].map(|number| measured.of(node.operands[number]).squares);
                let scores = q.sqrt() * k.sqrt() * op.scale.abs();
                if scores > LARGEST / MARGIN {
                    return Err((Why::Scores, scores));
                }
                Rule::Carry(2)
            }
            _ => {
                as_they_are(&node.operands, None)?;
                as_they_are(&node.results, None)?;
                Rule::Plain
            }
        };
        self.weights_fit(graph, measured, node, rule).map(|()| rule)
    }

    /// Whether f16 holds a node's weights at the powers that its rule gives them.
    fn weights_fit(
        &self,
        graph: &Graph,
        measured: &Measured,
        node: &Node,
        rule: Rule,
    ) -> Result<(), (Why, f32)> {
        let result = self.power(node.results[0]);
        for (number, &id) in
            node.operands.iter().enumerate().filter(|(_, id)| graph.as_weight(**id).is_some())
        {
            let largest = measured.of(id).largest;
            let power = match rule {
                Rule::Product if number == 1 => result - self.power(node.operands[0]),
                Rule::Product | Rule::Norm { .. } | Rule::Same => result,
                _ => 0,
            };
            let scaled = largest * two_to(-power);
            // What is added may become small; what is multiplied by must keep its bits.
            let small =
                number == 1 && rule == Rule::Product && power > 0 && largest > 0.0 && scaled < FEWEST_BITS;
            if scaled > LARGEST || small {
                return Err((Why::Weight, largest));
            }
        }
        Ok(())
    }

    fn norm(&self, measured: &Measured, node: &Node) -> Result<Rule, (Why, f32)> {
        let id = node.operands[0];
        let (range, held) = (measured.of(id), self.power(id));
        let eps = eps_of(&node.op);
        if let Op::GroupNorm(_) = node.op {
            // Written through f32 where a target has none of its own: only x itself must fit.
            return Ok(Rule::Norm { power: held, eps: eps * two_to(-2 * held) });
        }
        let wished = norm_power(node, measured);
        // Else x is multiplied where the norm reads it.
        let power = if held >= wished && eps_fits(eps, range, held) { held } else { wished };
        let needed = self.needs[id.index()].unwrap_or(MOST);
        if power < needed || row(range) * two_to(-power) > LARGEST.sqrt() {
            return Err((Why::Rows, range.squares));
        }
        let scaled = eps * two_to(-2 * power);
        Ok(Rule::Norm { power, eps: if power == 0 { eps } else { scaled.max(SMALLEST) } })
    }

    fn note_held(&self, measured: &Measured, node: &Node, rule: Rule, notes: &mut Notes) {
        if let Some(hot) = node.results.iter().find(|id| !moves(&node.op) && !self.fits(**id)) {
            notes.add(node, Why::Held, measured.of(*hot).largest, self.power(*hot));
        }
        if let (Rule::Norm { power, .. }, Op::RmsNorm(_) | Op::LayerNorm(_)) = (rule, &node.op)
            && power > 0
        {
            notes.add(node, Why::Squares, measured.of(node.operands[0]).squares, power);
        }
    }
}

/// The power that the squares of a norm's x need, or the largest that its epsilon permits.
fn norm_power(node: &Node, measured: &Measured) -> i32 {
    let range = measured.of(node.operands[0]);
    let wanted = power_for(row(range), row_bound()).unwrap_or(MOST);
    let eps = eps_of(&node.op);
    (0..=wanted).rev().find(|&power| eps_fits(eps, range, power)).unwrap_or(0)
}

fn eps_of(op: &Op) -> f32 {
    match op {
        Op::RmsNorm(op) => op.eps,
        Op::LayerNorm(op) => op.eps,
        Op::GroupNorm(op) => op.eps,
        _ => 0.0,
    }
}

/// The largest weight of a product must not become smaller than this: then most are still normal numbers (2^-14 is the last one), and
/// the error of the others lies below f16's own.
const FEWEST_BITS: f32 = 1.0 / 1024.0;

/// The power that weights of that size take at no loss worth a thought, where nothing but a norm's squares asks for it.
fn spare(largest: f32) -> i32 {
    (0..=MOST).rev().find(|&power| largest * two_to(-power) >= 16.0 * FEWEST_BITS).unwrap_or(0)
}
