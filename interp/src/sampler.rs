use snapc_ir::pipeline::{Schedule, StepRule};
use snapc_ir::{Error, Result};
use snapc_weights::Tensor;

/// What a walk along a schedule needs beside the velocity.
pub struct Sampling<'a> {
    /// The noise levels and the rule of a step.
    pub schedule: &'a Schedule,
    /// The latent at the first sigma: pure noise.
    pub noise: Tensor,
}

/// Walks a schedule: asks `velocity(latent, timestep, step)` at each sigma (timestep = 1000 sigma) and takes the step; where
/// the rule is stochastic, `fresh(step)` gives the noise that is mixed in. Returns the latent after each step.
///
/// # Errors
/// What `velocity` or `fresh` report, or shapes that differ.
pub fn sample(
    sampling: Sampling,
    velocity: &mut dyn FnMut(&Tensor, f32, usize) -> Result<Tensor>,
    fresh: &mut dyn FnMut(usize) -> Result<Tensor>,
) -> Result<Vec<Tensor>> {
    let Sampling { schedule, noise: mut latent } = sampling;
    let mut latents = Vec::new();
    for (step, pair) in schedule.sigmas.windows(2).enumerate() {
        let (sigma, next) = (pair[0], pair[1]);
        let v = velocity(&latent, 1000.0 * sigma, step)?;
        check_shape(&v, &latent)?;
        let pairs = latent.values().iter().zip(v.values());
        let values: Vec<f32> = match schedule.rule {
            StepRule::Euler => pairs.map(|(x, v)| x + (next - sigma) * v).collect(),
            // Without noise to come this is the denoised latent itself, and no noise is drawn.
            StepRule::Stochastic if next == 0.0 => pairs.map(|(x, v)| x - sigma * v).collect(),
            StepRule::Stochastic => {
                let drawn = fresh(step)?;
                check_shape(&drawn, &latent)?;
                let denoised = pairs.map(|(x, v)| x - sigma * v);
                denoised.zip(drawn.values()).map(|(x0, noise)| (1.0 - next) * x0 + next * noise).collect()
            }
        };
        latent = Tensor::float(latent.ty, values);
        latents.push(latent.clone());
    }
    Ok(latents)
}

fn check_shape(found: &Tensor, expected: &Tensor) -> Result<()> {
    if found.ty == expected.ty {
        return Ok(());
    }
    Err(Error::input(format!("a tensor of a sampling step is {}, the latent is {}", found.ty, expected.ty)))
}
