//! From noise to the last latent with one transformer, whatever of the schedule is in it.

use snapc_interp::{Sampling, sample};
use snapc_ir::pipeline::{Schedule, StepRule};
use snapc_ir::{Error, Result};
use snapc_weights::Tensor;

use crate::options::Bake;
use crate::parts::{Network, Runner};

/// A prompt as the transformer takes it.
#[derive(Clone)]
pub struct Text {
    /// Token ids.
    pub ids: Tensor,
    /// The text encoder's output.
    pub hidden: Tensor,
    /// 1 = a real token.
    pub mask: Tensor,
}

/// What a transformer is asked.
pub struct Walk<'a> {
    /// The transformer.
    pub transformer: &'a Network,
    /// What of the schedule is in it.
    pub bake: Bake,
    /// The noise levels and the rule of a step.
    pub schedule: &'a Schedule,
    /// What the picture shows.
    pub text: &'a Text,
    /// With guidance, its strength and what the picture shall not show.
    pub guidance: Option<(f32, &'a Text)>,
}

/// One run of a transformer: what was given and what came.
pub struct Step<'a> {
    /// The inputs.
    pub inputs: &'a [(String, Tensor)],
    /// The output.
    pub output: &'a Tensor,
}

/// The latents and the noise of a walk.
pub struct Walked {
    /// The latent at the first sigma.
    pub noise: Tensor,
    /// What was mixed in after each step; nothing where the rule mixes nothing in.
    pub fresh: Vec<Tensor>,
    /// The latent after each step, or after the last one alone where all are one run.
    pub latents: Vec<Tensor>,
}

impl Walk<'_> {
    /// Walks. `fresh(step)` gives what stochastic steps mix in; `each` is told of every run.
    ///
    /// # Errors
    /// What the transformer, the sampler or `fresh` find.
    pub fn run(
        &self,
        noise: Tensor,
        fresh: &mut dyn FnMut(usize) -> Result<Tensor>,
        each: &mut dyn FnMut(&Step),
    ) -> Result<Walked> {
        let runner = self.transformer.runner();
        let mut walked = Walked { noise: noise.clone(), fresh: Vec::new(), latents: Vec::new() };
        let mut draw = |step: usize| {
            let drawn = fresh(step)?;
            walked.fresh.push(drawn.clone());
            Ok(drawn)
        };
        let mut call = |inputs: Vec<(String, Tensor)>| call(&runner, &inputs, each);
        walked.latents = match self.bake {
            Bake::None => sample(
                Sampling { schedule: self.schedule, noise },
                &mut |latent, timestep, _| {
                    let v = call(velocity_inputs(latent, timestep, self.text))?;
                    let Some((guidance, negative)) = self.guidance else { return Ok(v) };
                    Ok(guide(&call(velocity_inputs(latent, timestep, negative))?, &v, guidance))
                },
                &mut draw,
            )?,
            Bake::Step => {
                let mut latents = Vec::new();
                let mut latent = noise;
                for step in 0..self.steps() {
                    let drawn = if self.draws(step) { Some(draw(step)?) } else { None };
                    latent = call(self.step_inputs(&latent, step, drawn.as_ref()))?;
                    latents.push(latent.clone());
                }
                latents
            }
            Bake::Unrolled => {
                let drawn = (0..self.steps()).filter(|&step| self.draws(step)).map(&mut draw);
                let drawn: Vec<Tensor> = drawn.collect::<Result<_>>()?;
                vec![call(self.unrolled_inputs(&noise, &drawn))?]
            }
        };
        Ok(walked)
    }

    fn steps(&self) -> usize {
        self.schedule.sigmas.len() - 1
    }

    /// Whether noise is mixed in after a step: at the last one none is left to come.
    fn draws(&self, step: usize) -> bool {
        self.schedule.rule == StepRule::Stochastic && self.schedule.sigmas[step + 1] != 0.0
    }

    /// The inputs of a transformer that takes one step. Where the rule takes noise and none is mixed in, it is zeros.
    pub fn step_inputs(&self, latent: &Tensor, step: usize, fresh: Option<&Tensor>) -> Vec<(String, Tensor)> {
        let mut inputs = vec![
            ("latent".to_string(), latent.clone()),
            ("step".to_string(), Tensor::i32([1], vec![step as i32])),
        ];
        inputs.extend(self.texts());
        if self.schedule.rule == StepRule::Stochastic {
            let zeros = || Tensor::float(latent.ty.clone(), vec![0.0; latent.ty.count()]);
            inputs.push(("noise".to_string(), fresh.cloned().unwrap_or_else(zeros)));
        }
        inputs
    }

    /// The inputs of a transformer that takes all steps.
    pub fn unrolled_inputs(&self, noise: &Tensor, fresh: &[Tensor]) -> Vec<(String, Tensor)> {
        let mut inputs = vec![("noise".to_string(), noise.clone())];
        inputs.extend(
            fresh.iter().enumerate().map(|(step, drawn)| (format!("noise{}", step + 1), drawn.clone())),
        );
        inputs.extend(self.texts());
        inputs
    }

    fn texts(&self) -> Vec<(String, Tensor)> {
        let mut inputs = text_inputs("", self.text);
        inputs.extend(self.guidance.iter().flat_map(|(_, text)| text_inputs("negative_", text)));
        inputs
    }
}

fn call(runner: &Runner, inputs: &[(String, Tensor)], each: &mut dyn FnMut(&Step)) -> Result<Tensor> {
    let borrowed: Vec<(&str, &Tensor)> =
        inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let output = runner.run(&borrowed)?;
    each(&Step { inputs, output: &output });
    Ok(output)
}

fn velocity_inputs(latent: &Tensor, timestep: f32, text: &Text) -> Vec<(String, Tensor)> {
    let mut inputs = vec![
        ("latent".to_string(), latent.clone()),
        ("timestep".to_string(), Tensor::f32([1], vec![timestep])),
    ];
    inputs.extend(text_inputs("", text));
    inputs
}

fn text_inputs(prefix: &str, text: &Text) -> Vec<(String, Tensor)> {
    vec![(format!("{prefix}text"), text.hidden.clone()), (format!("{prefix}text_mask"), text.mask.clone())]
}

fn guide(negative: &Tensor, positive: &Tensor, guidance: f32) -> Tensor {
    let pairs = negative.values().iter().zip(positive.values());
    Tensor::float(positive.ty.clone(), pairs.map(|(n, p)| n + guidance * (p - n)).collect())
}

/// The one output of a run.
///
/// # Errors
/// A graph without outputs.
pub fn first(outputs: Vec<Tensor>) -> Result<Tensor> {
    outputs.into_iter().next().ok_or_else(|| Error::bug("a graph without outputs"))
}
