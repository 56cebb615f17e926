//! Replays a graph in f16 as a [`Plan`] says.

use std::collections::BTreeMap;

use snapc_ir::ops::{Cast, FakeQuantize, GroupNorm, LayerNorm, Op, RmsNorm};
use snapc_ir::{Builder, DType, Def, Error, Graph, Node, Result, ValueId};

use crate::precision::{half, sampler_weights};
use crate::ranges::{Plan, Rule, two_to};

/// A value of the old graph in the new one: `2^-power` of it. In f32 the power is 0.
#[derive(Clone, Copy)]
struct Held {
    value: ValueId,
    power: i32,
}

/// A replay under way.
pub struct HalfReplay<'a> {
    graph: &'a Graph,
    plan: &'a Plan,
    builder: Builder,
    held: Vec<Option<Held>>,
    /// The forms in which values were asked for: in f16 at a power, or in f32.
    forms: BTreeMap<(ValueId, Option<i32>), ValueId>,
}

impl<'a> HalfReplay<'a> {
    /// A replay that has the inputs.
    ///
    /// # Errors
    /// A plan of another graph.
    pub fn new(graph: &'a Graph, plan: &'a Plan) -> Result<Self> {
        let mut builder = Builder::new(graph.name(), graph.stage().clone());
        let mut held = vec![None; graph.values().len()];
        for port in graph.inputs() {
            let value = builder.input(port.name.clone(), graph.ty(port.value).clone());
            held[port.value.index()] = Some(Held { value, power: 0 });
        }
        let exact = sampler_weights(graph);
        for (index, value) in graph.values().iter().enumerate() {
            if let Def::Weight(id) = value.def {
                let weight = graph.weight(id).clone();
                let weight = if exact.contains(&weight.name) { weight } else { half(weight) };
                held[index] = Some(Held { value: builder.weight(weight)?, power: 0 });
            }
        }
        Ok(HalfReplay { graph, plan, builder, held, forms: BTreeMap::new() })
    }

    /// Replays one node.
    ///
    /// # Errors
    /// What the builder finds.
    pub fn node(&mut self, index: usize, node: &Node) -> Result<()> {
        self.builder.set_scope(node.scope.clone());
        let wanted = self.plan.power(node.results[0]);
        let (results, power) = match self.plan.rule_of(index) {
            Rule::Exact | Rule::Keep => {
                let operands = self.all(node, |replay, _, id| replay.plain(id))?;
                (self.builder.op(typed(&node.op, DType::F32), &operands)?, 0)
            }
            Rule::Plain => (self.in_half(node, |_| 0)?, 0),
            Rule::Same => {
                let operands = self.all(node, |replay, _, id| replay.at(id, wanted))?;
                let op = at_power(&typed(&node.op, DType::F16), wanted);
                (self.builder.op(op, &operands)?, wanted)
            }
            Rule::Carry(carrier) => (self.in_half(node, |n| if n == carrier { wanted } else { 0 })?, wanted),
            Rule::Product => {
                let x = self.plan.power(node.operands[0]);
                (self.in_half(node, |number| [x, wanted - x].get(number).copied().unwrap_or(wanted))?, wanted)
            }
            Rule::Norm { power, eps } => {
                let operands = self.all(node, |replay, number, id| {
                    replay.at(id, if number == 0 { power } else { wanted })
                })?;
                let results = self.builder.op(with_eps(&node.op, eps), &operands)?;
                // A norm without a weight gives at most the root of its axis: only a sum behind it asks for a power.
                (results, if operands.len() > 1 { wanted } else { 0 })
            }
        };
        for (&old, value) in node.results.iter().zip(results) {
            self.held[old.index()] = Some(Held { value, power });
        }
        Ok(())
    }

    /// Names the outputs, in their own types.
    ///
    /// # Errors
    /// What the builder finds.
    pub fn finish(mut self) -> Result<Graph> {
        self.builder.set_scope("");
        for port in self.graph.outputs() {
            let value = self.plain(port.value)?;
            self.builder.output(port.name.clone(), value);
        }
        self.builder.finish()
    }

    fn in_half(&mut self, node: &Node, power: impl Fn(usize) -> i32) -> Result<Vec<ValueId>> {
        let operands = self.all(node, |replay, number, id| replay.at(id, power(number)))?;
        self.builder.op(typed(&node.op, DType::F16), &operands)
    }

    fn all(
        &mut self,
        node: &Node,
        mut form: impl FnMut(&mut Self, usize, ValueId) -> Result<ValueId>,
    ) -> Result<Vec<ValueId>> {
        node.operands.iter().enumerate().map(|(number, &id)| form(self, number, id)).collect()
    }

    fn held(&self, id: ValueId) -> Result<Held> {
        self.held[id.index()].ok_or_else(|| Error::bug("a value is read before it is made"))
    }

    /// A value in f16, times `2^-power`.
    fn at(&mut self, id: ValueId, power: i32) -> Result<ValueId> {
        let held = self.held(id)?;
        let ty = self.builder.ty(held.value).clone();
        if !ty.dtype.is_float() || (ty.dtype == DType::F16 && held.power == power) {
            return Ok(held.value);
        }
        if let Some(&known) = self.forms.get(&(id, Some(power))) {
            return Ok(known);
        }
        let value = match self.graph.as_weight(id).cloned() {
            Some(weight) if power != 0 => {
                let mut weight = half(weight);
                weight.double(-power)?;
                let word = if power > 0 { "halved" } else { "doubled" };
                weight.name += &format!(".{word}.{}", power.abs());
                self.builder.weight(weight)?
            }
            Some(_) => self.builder.cast(held.value, DType::F16)?,
            // What fits goes to f16 first: f32 leaves a neural engine.
            None if ty.dtype == DType::F32 && (power == 0 || !self.plan.fits(id)) => {
                let scaled = self.times(held.value, -power)?;
                self.builder.cast(scaled, DType::F16)?
            }
            None if ty.dtype == DType::F32 => {
                let cast = self.at(id, 0)?;
                self.times(cast, -power)?
            }
            None => self.times(held.value, held.power - power)?,
        };
        self.forms.insert((id, Some(power)), value);
        Ok(value)
    }

    /// A value in f32, as it is.
    fn plain(&mut self, id: ValueId) -> Result<ValueId> {
        let held = self.held(id)?;
        if self.builder.ty(held.value).dtype != DType::F16 {
            return Ok(held.value);
        }
        if let Some(&known) = self.forms.get(&(id, None)) {
            return Ok(known);
        }
        let value = self.builder.cast(held.value, DType::F32)?;
        let value = self.times(value, held.power)?;
        self.forms.insert((id, None), value);
        Ok(value)
    }

    fn times(&mut self, x: ValueId, power: i32) -> Result<ValueId> {
        if power == 0 { Ok(x) } else { self.builder.mul_scalar(x, two_to(power)) }
    }
}

/// A cast goes to the type in which all is computed.
fn typed(op: &Op, dtype: DType) -> Op {
    match op {
        Op::Cast(_) => Cast { dtype }.into(),
        op => op.clone(),
    }
}

/// What is held at a power goes in steps of that power.
fn at_power(op: &Op, power: i32) -> Op {
    match op {
        Op::FakeQuantize(op) => FakeQuantize { scale: op.scale * two_to(-power) }.into(),
        op => op.clone(),
    }
}

fn with_eps(op: &Op, eps: f32) -> Op {
    match op {
        Op::RmsNorm(_) => RmsNorm { eps }.into(),
        Op::LayerNorm(_) => LayerNorm { eps }.into(),
        Op::GroupNorm(op) => GroupNorm { eps, ..op.clone() }.into(),
        op => op.clone(),
    }
}
