//! The schedule of a pipeline: which noise levels a picture passes through.

/// How one step goes from a sigma to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepRule {
    /// `x <- x + (sigma_next - sigma) * v`.
    Euler,
    /// `x0 = x - sigma * v`, then `x <- (1 - sigma_next) * x0 + sigma_next * fresh`. Where `sigma_next` is 0 no noise is drawn.
    Stochastic,
}

/// The noise levels of one run, largest first, `steps + 1` of them, the last 0; and the rule of a step.
/// The model's timestep at a step is `1000 * sigma`.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// `steps + 1` sigmas.
    pub sigmas: Vec<f32>,
    /// The rule of a step.
    pub rule: StepRule,
    /// The sigmas are a step-distilled student's own: they fix the number of steps and exclude guidance.
    pub distilled: bool,
}
