//! The schedule as part of the graph: what depends on the time alone becomes tables, and the sampler's step follows the velocity.

use std::collections::BTreeSet;

use snapc_ir::analysis::{Cut, Flow, Prices};
use snapc_ir::ops::{Embedding, Split};
use snapc_ir::pipeline::{Schedule, StepRule};
use snapc_ir::{
    Builder, DType, Error, Graph, NodeId, Place, Port, Result, Stage, TensorType, ValueId, Weight,
};

use crate::Pass;

/// The path of the nodes that take the sampler's step, which no precision rounds: a latent is carried through all steps.
pub const SAMPLER: &str = "sampler";

/// The path of the nodes that look up what was computed beforehand.
const TABLES: &str = "schedule";

/// What a table or a constant costs beside its numbers: a node or two that cut it out, their names and types.
const TABLE_BYTES: u64 = 64;

/// How much of a run the graph takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One step: `latent`, `step i32[1]`, the other inputs (and `noise`, where the rule mixes some in) to `next_latent`. The caller keeps
    /// `step` below the number of steps.
    Step,
    /// All steps: `noise` (and `noise1`, `noise2` .., what is mixed in after each step but the last), the other inputs, to
    /// `final_latent`.
    Unrolled,
}

/// What is baked.
#[derive(Clone, Debug, PartialEq)]
pub struct Baking {
    /// How much of a run the graph takes.
    pub form: Form,
    /// The noise levels and the rule of a step.
    pub schedule: Schedule,
    /// `v = v_negative + guidance * (v - v_negative)`, of a graph whose batch is two: the inputs are of one entry each, and those that are
    /// neither latent nor noise once more as `negative_..`.
    pub guidance: Option<f32>,
}

/// Runs a graph of one input once for each list of its numbers; for each run the numbers of each output.
pub type Evaluate<'a> = dyn Fn(&Graph, &[Vec<f32>]) -> Result<Vec<Vec<Vec<f32>>>> + 'a;

/// Bakes the schedule into a graph that gives a velocity, of the type of its input `latent`. A graph without the input `timestep`
/// stays as it is. Which values become tables is the cheapest cut in bytes; no name but those two is looked at.
pub struct BakePass<'a> {
    /// What is baked; nothing changes without.
    pub baking: Option<Baking>,
    /// The interpreter.
    pub evaluate: &'a Evaluate<'a>,
}

impl Pass for BakePass<'_> {
    fn name(&self) -> &'static str {
        "bake"
    }

    fn leaves(&self, stage: &Stage) -> Option<Stage> {
        (*stage == Stage::Subnet).then_some(Stage::Subnet)
    }

    fn run(&self, graph: &Graph) -> Result<Graph> {
        let timestep = graph.inputs().iter().position(|port| port.name == "timestep");
        match (&self.baking, timestep) {
            (Some(baking), Some(timestep)) => {
                let body = Body::new(graph, baking, timestep, self.evaluate)?;
                match baking.form {
                    Form::Step => body.step(),
                    Form::Unrolled => body.unrolled(),
                }
            }
            _ => Ok(graph.clone()),
        }
    }
}

/// The graph of a velocity, and what of it is known.
struct Body<'a> {
    graph: &'a Graph,
    baking: &'a Baking,
    latent: ValueId,
    velocity: ValueId,
    /// The inputs that are neither the latent nor the timestep.
    others: Vec<&'a Port>,
    /// What changes from step to step.
    moving: BTreeSet<NodeId>,
    cut: Cut,
    /// For each step the numbers of each value that crosses the cut.
    numbers: Vec<Vec<Vec<f32>>>,
}

/// What each value of the old graph is in the new one.
type Map = Vec<Option<ValueId>>;

impl<'a> Body<'a> {
    fn new(graph: &'a Graph, baking: &'a Baking, timestep: usize, evaluate: &Evaluate) -> Result<Self> {
        let latent = graph.inputs().iter().position(|port| port.name == "latent");
        let (Some(latent), [output]) = (latent, graph.outputs()) else {
            return Err(unfit("it has no input `latent`, or more than one output"));
        };
        let (place, velocity) = (graph.inputs()[latent].value, output.value);
        if graph.ty(velocity) != graph.ty(place) {
            let (found, expected) = (graph.ty(velocity), graph.ty(place));
            return Err(unfit(&format!("its output {} is {found}, its latent {expected}", output.name)));
        }
        let flow = Flow::new(graph);
        let steps = baking.schedule.sigmas.len().saturating_sub(1);
        let price = |ty: &TensorType| (steps * ty.bytes()) as u64 + TABLE_BYTES;
        let cut = flow.cut(timestep, &Prices { value: &price, weight: &|weight| weight.ty().bytes() as u64 });
        let mut moving = flow.reached_from(latent);
        moving.extend(flow.reached_from(timestep));
        let moving = moving.difference(&cut.before).copied().collect();
        let known = [latent, timestep];
        let others = graph.inputs().iter().enumerate().filter(|(number, _)| !known.contains(number));
        let others = others.map(|(_, port)| port).collect();
        let numbers = numbers(graph, &flow, timestep, &cut, &baking.schedule, evaluate)?;
        let body = Body { graph, baking, latent: place, velocity, others, moving, cut, numbers };
        body.check_batch().map(|()| body)
    }

    fn check_batch(&self) -> Result<()> {
        let doubled = |value| self.graph.ty(value).shape.first() == Some(&2);
        let all = self.others.iter().map(|port| port.value).chain([self.latent]);
        if self.baking.guidance.is_none() || all.into_iter().all(doubled) {
            return Ok(());
        }
        Err(Error::bug("guidance wants a graph whose batch is two"))
    }

    /// The type of one entry of a batch with guidance; else the type itself.
    fn own_type(&self, value: ValueId) -> TensorType {
        let mut ty = self.graph.ty(value).clone();
        if let (Some(_), Some(batch)) = (self.baking.guidance, ty.shape.first_mut()) {
            *batch = 1;
        }
        ty
    }

    /// An empty graph with all weights.
    fn begin(&self) -> Result<(Builder, Map)> {
        let mut b = Builder::new(self.graph.name(), self.graph.stage().clone());
        let map = weights(&mut b, self.graph)?;
        Ok((b, map))
    }

    /// The inputs that are neither latent nor noise. Where there are two branches, the negative one comes first.
    fn other_inputs(&self, b: &mut Builder, map: &mut Map) -> Result<()> {
        let input = |b: &mut Builder, prefix: &str, port: &Port| {
            b.input(format!("{prefix}{}", port.name), self.own_type(port.value))
        };
        let positive: Vec<ValueId> = self.others.iter().map(|port| input(b, "", port)).collect();
        let both: Vec<ValueId> = match self.baking.guidance {
            None => positive,
            Some(_) => {
                let negative: Vec<ValueId> =
                    self.others.iter().map(|port| input(b, "negative_", port)).collect();
                b.set_scope(SAMPLER);
                let pairs = negative.iter().zip(&positive);
                pairs
                    .map(|(&negative, &positive)| b.concat(&[negative, positive], 0))
                    .collect::<Result<_>>()?
            }
        };
        for (port, value) in self.others.iter().zip(both) {
            map[port.value.index()] = Some(value);
        }
        Ok(())
    }

    fn step(&self) -> Result<Graph> {
        let (mut b, mut map) = self.begin()?;
        let latent = b.input("latent", self.own_type(self.latent));
        let step = b.input("step", TensorType::new(DType::I32, [1]));
        // The look-ups stand first: a delegate that has none takes all that follows as one piece.
        let row = self.row(&mut b, step)?;
        let coefficients = self.coefficient_row(&mut b, step)?;
        self.other_inputs(&mut b, &mut map)?;
        let noise = match self.baking.schedule.rule {
            StepRule::Euler => None,
            StepRule::Stochastic => Some(b.input("noise", self.own_type(self.latent))),
        };
        self.cut_row(&mut b, row, &mut map)?;
        self.replay(&mut b, &mut map, |id| !self.cut.before.contains(&id), latent)?;
        let velocity = self.velocity(&mut b, &map)?;
        let rank = self.graph.ty(self.latent).rank();
        let mut factors = Vec::new();
        for number in 0..b.ty(coefficients).last() {
            let one = b.slice(coefficients, 1, number, 1)?;
            factors.push(b.reshape(one, vec![1; rank])?);
        }
        let next = match (&factors[..], noise) {
            (&[of_latent, of_velocity, of_noise], Some(noise)) => {
                let kept = b.mul(latent, of_latent)?;
                let noise = b.mul(noise, of_noise)?;
                let moved = self.moved(&mut b, kept, velocity, of_velocity)?;
                b.add(moved, noise)?
            }
            _ => self.moved(&mut b, latent, velocity, factors[0])?,
        };
        b.output("next_latent", next);
        b.finish()
    }

    fn unrolled(&self) -> Result<Graph> {
        let (mut b, mut map) = self.begin()?;
        let steps = self.numbers.len();
        let ty = self.own_type(self.latent);
        let mut latent = b.input("noise", ty.clone());
        let fresh: Vec<ValueId> = match self.baking.schedule.rule {
            StepRule::Euler => Vec::new(),
            StepRule::Stochastic => {
                (1..steps).map(|step| b.input(format!("noise{step}"), ty.clone())).collect()
            }
        };
        self.other_inputs(&mut b, &mut map)?;
        let fixed = |id: NodeId| !self.cut.before.contains(&id) && !self.moving.contains(&id);
        self.replay(&mut b, &mut map, fixed, latent)?;
        for step in 0..steps {
            let mut map = map.clone();
            for (number, &value) in self.cut.crossing.iter().enumerate() {
                let shape = self.graph.ty(value).shape.clone();
                let values = self.numbers[step][number].clone();
                let name = format!("{TABLES}.{step}.{number}");
                map[value.index()] = Some(b.weight(Weight::inline(name, values, shape))?);
            }
            self.replay(&mut b, &mut map, |id| self.moving.contains(&id), latent)?;
            let velocity = self.velocity(&mut b, &map)?;
            let [of_latent, of_velocity, of_noise] = coefficients(&self.baking.schedule, step);
            let mut constant = |what: &str, value: f32| {
                b.weight(Weight::inline(format!("{SAMPLER}.{step}.{what}"), vec![value], vec![]))
            };
            let factors = [constant("latent", of_latent)?, constant("velocity", of_velocity)?];
            let of_noise = constant("noise", of_noise)?;
            let kept = if of_latent == 1.0 { latent } else { b.mul(latent, factors[0])? };
            latent = self.moved(&mut b, kept, velocity, factors[1])?;
            // At the last step no noise is left to come.
            if let Some(&noise) = fresh.get(step) {
                let noise = b.mul(noise, of_noise)?;
                latent = b.add(latent, noise)?;
            }
        }
        b.output("final_latent", latent);
        b.finish()
    }

    /// Replays the nodes that are wanted, on a latent.
    fn replay(
        &self,
        b: &mut Builder,
        map: &mut Map,
        wanted: impl Fn(NodeId) -> bool,
        latent: ValueId,
    ) -> Result<()> {
        b.set_scope(SAMPLER);
        let both = if self.baking.guidance.is_some() { b.concat(&[latent, latent], 0)? } else { latent };
        map[self.latent.index()] = Some(both);
        replay(b, self.graph, map, wanted)
    }

    /// The velocity of one latent, guided where there are two branches. The nodes behind it are the sampler's.
    fn velocity(&self, b: &mut Builder, map: &Map) -> Result<ValueId> {
        b.set_scope(SAMPLER);
        let velocity = map[self.velocity.index()].unwrap_or(self.velocity);
        let Some(guidance) = self.baking.guidance else { return Ok(velocity) };
        let branches = b.op(Split { axis: 0, parts: 2 }, &[velocity])?;
        let guidance = b.weight(Weight::inline(format!("{SAMPLER}.guidance"), vec![guidance], vec![]))?;
        let difference = b.sub(branches[1], branches[0])?;
        let pull = b.mul(difference, guidance)?;
        b.add(branches[0], pull)
    }

    fn moved(&self, b: &mut Builder, latent: ValueId, velocity: ValueId, by: ValueId) -> Result<ValueId> {
        let change = b.mul(velocity, by)?;
        b.add(latent, change)
    }

    /// How often a value's entries stand in the tables: once where all entries of the batch are the same at every step.
    fn entries(&self, number: usize) -> usize {
        let ty = self.graph.ty(self.cut.crossing[number]);
        let batch = ty.shape.first().copied().unwrap_or(1);
        let size = ty.count() / batch.max(1);
        let same = |values: &Vec<f32>| values.chunks_exact(size).all(|entry| *entry == values[..size]);
        if self.numbers.iter().all(|step| same(&step[number])) { 1 } else { batch }
    }

    /// `[1, numbers of all tables]`: those of a step.
    fn row(&self, b: &mut Builder, step: ValueId) -> Result<Option<ValueId>> {
        let mut table = Vec::new();
        for values in &self.numbers {
            for (number, values) in values.iter().enumerate() {
                let batch = self.graph.ty(self.cut.crossing[number]).shape.first().copied().unwrap_or(1);
                table.extend_from_slice(&values[..values.len() / batch * self.entries(number)]);
            }
        }
        if table.is_empty() {
            return Ok(None);
        }
        look_up(b, TABLES, "table", table, self.numbers.len(), step).map(Some)
    }

    /// Gives each value that crosses the cut its part of the row.
    fn cut_row(&self, b: &mut Builder, row: Option<ValueId>, map: &mut Map) -> Result<()> {
        let Some(row) = row else { return Ok(()) };
        b.set_scope(TABLES);
        let mut start = 0;
        for (number, &value) in self.cut.crossing.iter().enumerate() {
            let mut shape = self.graph.ty(value).shape.clone();
            let (batch, entries) = (shape.first().copied().unwrap_or(1), self.entries(number));
            if let Some(first) = shape.first_mut() {
                *first = entries;
            }
            let size = shape.iter().product();
            let part = b.slice(row, 1, start, size)?;
            let part = b.reshape(part, shape)?;
            map[value.index()] = Some(b.concat(&vec![part; batch / entries], 0)?);
            start += size;
        }
        Ok(())
    }

    /// `[1, 1 or 3]`: the coefficients of a step; Euler's rule has but the velocity's.
    fn coefficient_row(&self, b: &mut Builder, step: ValueId) -> Result<ValueId> {
        let schedule = &self.baking.schedule;
        let steps = self.numbers.len();
        let of = |step: usize| match schedule.rule {
            StepRule::Euler => vec![coefficients(schedule, step)[1]],
            StepRule::Stochastic => coefficients(schedule, step).to_vec(),
        };
        look_up(b, SAMPLER, "coefficients", (0..steps).flat_map(of).collect(), steps, step)
    }
}

/// The row of a step from a table of all steps.
fn look_up(
    b: &mut Builder,
    scope: &str,
    name: &str,
    values: Vec<f32>,
    steps: usize,
    step: ValueId,
) -> Result<ValueId> {
    b.set_scope(scope);
    let shape = vec![steps, values.len() / steps];
    let table = b.weight(Weight::inline(format!("{scope}.{name}"), values, shape))?;
    b.one(Embedding {}, &[step, table])
}

/// A step as factors of latent, velocity and fresh noise.
fn coefficients(schedule: &Schedule, step: usize) -> [f32; 3] {
    let (sigma, next) = (f64::from(schedule.sigmas[step]), f64::from(schedule.sigmas[step + 1]));
    match schedule.rule {
        StepRule::Euler => [1.0, (next - sigma) as f32, 0.0],
        StepRule::Stochastic => [(1.0 - next) as f32, (-(1.0 - next) * sigma) as f32, next as f32],
    }
}

fn unfit(reason: &str) -> Error {
    Error::input(format!("the schedule cannot be baked into this graph: {reason}"))
        .help("compile with --bake none")
}

fn weights(b: &mut Builder, graph: &Graph) -> Result<Map> {
    let mut map = vec![None; graph.values().len()];
    for (index, value) in graph.values().iter().enumerate() {
        if let snapc_ir::Def::Weight(id) = value.def {
            map[index] = Some(b.weight(graph.weight(id).clone())?);
        }
    }
    Ok(map)
}

fn replay(b: &mut Builder, graph: &Graph, map: &mut Map, wanted: impl Fn(NodeId) -> bool) -> Result<()> {
    for (_, node) in graph.nodes_with_ids().filter(|(id, _)| wanted(*id)) {
        b.set_scope(node.scope.clone());
        let operands: Option<Vec<ValueId>> = node.operands.iter().map(|id| map[id.index()]).collect();
        let operands = operands.ok_or_else(|| {
            Error::bug("a node is replayed before its operands").at(Place::Node(node.scope.to_string()))
        })?;
        for (old, new) in node.results.iter().zip(b.op(node.op.clone(), &operands)?) {
            map[old.index()] = Some(new);
        }
    }
    Ok(())
}

/// The numbers of the values that cross the cut, at each step.
fn numbers(
    graph: &Graph,
    flow: &Flow,
    timestep: usize,
    cut: &Cut,
    schedule: &Schedule,
    evaluate: &Evaluate,
) -> Result<Vec<Vec<Vec<f32>>>> {
    let steps = schedule.sigmas.len().saturating_sub(1);
    if steps == 0 {
        return Err(Error::bug("a schedule without steps"));
    }
    let mut b = Builder::new(graph.name(), graph.stage().clone());
    let mut map = weights(&mut b, graph)?;
    let port = &graph.inputs()[timestep];
    map[port.value.index()] = Some(b.input(port.name.clone(), graph.ty(port.value).clone()));
    let foreign: BTreeSet<NodeId> = (0..graph.inputs().len())
        .filter(|&number| number != timestep)
        .flat_map(|number| flow.reached_from(number))
        .collect();
    replay(&mut b, graph, &mut map, |id| !foreign.contains(&id))?;
    if cut.crossing.is_empty() {
        return Ok(vec![Vec::new(); steps]);
    }
    for (number, value) in cut.crossing.iter().enumerate() {
        b.output(format!("value{number}"), map[value.index()].unwrap_or(*value));
    }
    let count = graph.ty(port.value).count();
    let times: Vec<Vec<f32>> =
        schedule.sigmas[..steps].iter().map(|&sigma| vec![1000.0 * sigma; count]).collect();
    let numbers = evaluate(&b.finish()?, &times)?;
    let fits = |values: &[Vec<f32>]| {
        let counts = cut.crossing.iter().map(|&value| graph.ty(value).count());
        values.iter().map(Vec::len).eq(counts)
    };
    if numbers.len() != steps || !numbers.iter().all(|values| fits(values)) {
        return Err(Error::bug("the interpreter gives other values than the graph has"));
    }
    let broken = numbers.iter().position(|values| values.iter().flatten().any(|value| !value.is_finite()));
    match broken {
        None => Ok(numbers),
        Some(step) => Err(Error::input(format!(
            "what depends on the time alone is not finite at step {step}, sigma {}",
            schedule.sigmas[step]
        ))
        .help("is a weight of the time embedding damaged?")),
    }
}
