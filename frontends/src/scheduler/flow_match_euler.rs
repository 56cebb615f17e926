//! diffusers' `FlowMatchEulerDiscreteScheduler`: the sigmas of its `set_timesteps(n)`, to the bit where the C library allows it.
//!
//! diffusers works in float32 while it lays out the training sigmas and in float64 (numpy) from there on, and rounds once at the end.
//! The same is done here, in the same order.

use serde::Deserialize;
use serde_json::{Map, Value};
use snapc_ir::pipeline::{Schedule, StepRule};
use snapc_ir::{Error, Result};

use super::beta;

/// Steps of a run for which neither the caller nor the pipeline says a number: what diffusers' pipelines of this scheduler take.
pub const DEFAULT_STEPS: usize = 28;

/// More steps than this are a slip of the keyboard.
const MAX_STEPS: usize = 100_000;

/// The class that a `scheduler_config.json` must name.
const CLASS: &str = "FlowMatchEulerDiscreteScheduler";

/// A `scheduler_config.json`: the fields that change the sigmas, and what each is where the file does not have it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct FlowMatchEuler {
    num_train_timesteps: u32,
    shift: f64,
    use_dynamic_shifting: bool,
    base_shift: Option<f64>,
    max_shift: Option<f64>,
    base_image_seq_len: f64,
    max_image_seq_len: f64,
    invert_sigmas: bool,
    shift_terminal: Option<f64>,
    use_karras_sigmas: bool,
    use_exponential_sigmas: bool,
    use_beta_sigmas: bool,
    time_shift_type: TimeShift,
    stochastic_sampling: bool,
    /// No argument of diffusers' class, but its curves use it if the config has it.
    sigma_min: Option<f64>,
    /// As `sigma_min`.
    sigma_max: Option<f64>,
    /// A step-distilled student's own sigmas; diffusers does not know it.
    distilled_sigmas: Option<Vec<f64>>,
}

/// How dynamic shifting bends the sigmas.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TimeShift {
    Exponential,
    Linear,
}

/// The curves that can replace the sigmas between the first and the last.
#[derive(Clone, Copy)]
enum Curve {
    Karras,
    Exponential,
    Beta,
}

impl Default for FlowMatchEuler {
    fn default() -> Self {
        FlowMatchEuler {
            num_train_timesteps: 1000,
            shift: 1.0,
            use_dynamic_shifting: false,
            base_shift: Some(0.5),
            max_shift: Some(1.15),
            base_image_seq_len: 256.0,
            max_image_seq_len: 4096.0,
            invert_sigmas: false,
            shift_terminal: None,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            time_shift_type: TimeShift::Exponential,
            stochastic_sampling: false,
            sigma_min: None,
            sigma_max: None,
            distilled_sigmas: None,
        }
    }
}

impl FlowMatchEuler {
    /// Reads the text of a `scheduler_config.json`. Fields that do not change the sigmas are passed over.
    pub fn from_json(text: &str) -> Result<Self> {
        let fields: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| Error::input(format!("the scheduler's config is no JSON object: {error}")))?;
        if let Some(class) = fields.get("_class_name").filter(|&class| class != CLASS) {
            return Err(Error::input(format!("the scheduler is a {class}")).help(format!(
                "snapc knows the schedule of {CLASS}, which flow matching models are sampled with"
            )));
        }
        let config = Self::deserialize(&fields).map_err(|error| name_field(&fields, &error))?;
        config.check()?;
        Ok(config)
    }

    /// The sigmas and the rule of a run.
    ///
    /// `steps` is the caller's number. Left out, it is that of the distilled student, or [`DEFAULT_STEPS`]. `image_seq_len` is the number of
    /// the transformer's tokens at its first stage, (height / patch) * (width / patch) of the latent; only dynamic shifting looks at it.
    pub fn schedule(&self, steps: Option<usize>, image_seq_len: usize) -> Result<Schedule> {
        let rule = if self.stochastic_sampling { StepRule::Stochastic } else { StepRule::Euler };
        if let Some(distilled) = &self.distilled_sigmas {
            let sigmas = distilled_schedule(distilled)?;
            let own = sigmas.len() - 1;
            if let Some(asked) = steps.filter(|&asked| asked != own) {
                return Err(Error::usage(format!(
                    "{asked} steps were asked for, but the pipeline's model was distilled for {own} and has sigmas for no other number"
                ))
                .help(format!("leave the number of steps out, or ask for {own}")));
            }
            return Ok(Schedule { sigmas, rule, distilled: true });
        }
        let steps = steps.unwrap_or(DEFAULT_STEPS);
        if !(1..=MAX_STEPS).contains(&steps) {
            return Err(Error::usage(format!("{steps} steps were asked for")).help(format!(
                "ask for 1 to {MAX_STEPS} steps; a model that is not distilled wants about {DEFAULT_STEPS}"
            )));
        }
        let mu = if self.use_dynamic_shifting { Some(self.mu(image_seq_len)?) } else { None };
        let sigmas = self.sigmas(steps, mu);
        let falls = sigmas.windows(2).all(|pair| pair[0] >= pair[1]);
        // The first may stand a rounding above 1, as it does in diffusers.
        let inside = sigmas[..steps].iter().all(|&sigma| 0.0 < sigma && sigma < 1.0 + 1e-6);
        if !(falls && inside) {
            let why = match self.shift_terminal {
                Some(_) if steps == 1 => {
                    "shift_terminal sets the last of several sigmas, and one step has one only: ask for 2 steps or more"
                }
                _ => {
                    "check shift, base_shift, max_shift, shift_terminal, sigma_min and sigma_max in scheduler_config.json"
                }
            };
            return Err(Error::input(format!(
                "the scheduler's config gives sigmas from {} to {} at {steps} steps; they must fall within (0, 1]",
                sigmas[0],
                sigmas[steps - 1]
            ))
            .help(why));
        }
        Ok(Schedule { sigmas, rule, distilled: false })
    }

    /// What no number of steps can put right.
    fn check(&self) -> Result<()> {
        if self.invert_sigmas {
            return Err(Error::input("the scheduler's config has invert_sigmas: its sigmas rise from 0 to 1").help(
                "that is for models that take 0 as pure noise (Mochi); a SnapGen++ model takes 1000 * sigma with 1 as pure noise, \
                 and sampling goes down to 0: set invert_sigmas to false",
            ));
        }
        let curves: Vec<&str> = [
            (self.use_karras_sigmas, "use_karras_sigmas"),
            (self.use_exponential_sigmas, "use_exponential_sigmas"),
            (self.use_beta_sigmas, "use_beta_sigmas"),
        ]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
        .collect();
        if curves.len() > 1 {
            return Err(Error::input(format!("the scheduler's config has {} at once", curves.join(" and ")))
                .help("each is a curve of its own: set all but one to false"));
        }
        if self.num_train_timesteps == 0 {
            return Err(field_error("num_train_timesteps", "is 0", "1000 is usual"));
        }
        if self.shift <= 0.0 {
            return Err(field_error("shift", "is not above 0", "1 changes nothing, 3 is usual"));
        }
        if self.shift_terminal.is_some_and(|end| !(0.0..1.0).contains(&end)) {
            return Err(field_error("shift_terminal", "is not within 0 and 1", "null and 0 turn it off"));
        }
        if let Some(distilled) = &self.distilled_sigmas {
            distilled_schedule(distilled)?;
        }
        Ok(())
    }

    /// diffusers' `calculate_shift`: the strength of dynamic shifting, on a line through two sizes of picture.
    fn mu(&self, image_seq_len: usize) -> Result<f64> {
        let (Some(base), Some(max)) = (self.base_shift, self.max_shift) else {
            return Err(Error::input(
                "the scheduler's config has use_dynamic_shifting, and null for base_shift or max_shift",
            )
            .help(
                "give both a number (0.5 and 1.15 are diffusers' own), or set use_dynamic_shifting to false",
            ));
        };
        let slope = (max - base) / (self.max_image_seq_len - self.base_image_seq_len);
        let mu = image_seq_len as f64 * slope + (base - slope * self.base_image_seq_len);
        if !mu.is_finite() {
            return Err(Error::input(
                "the scheduler's config has use_dynamic_shifting, but no line goes through its base_image_seq_len and max_image_seq_len",
            )
            .help("the two must differ (256 and 4096 are diffusers' own)"));
        }
        Ok(mu)
    }

    /// The first and the last training sigma, in float32 as diffusers has them. They are shifted already where shifting does
    /// not depend on the picture: `shift` works on them again with the rest.
    fn training_ends(&self) -> (f64, f64) {
        let count = self.num_train_timesteps as f32;
        let sigma = |timestep: f32| {
            let sigma = timestep / count;
            if self.use_dynamic_shifting {
                return f64::from(sigma);
            }
            f64::from(self.shift as f32 * sigma / (1.0 + (self.shift - 1.0) as f32 * sigma))
        };
        (sigma(count), sigma(1.0))
    }

    /// `set_timesteps(steps, mu=mu)`: `steps` sigmas and the final 0, unchecked. `mu` is there where dynamic shifting is.
    fn sigmas(&self, steps: usize, mu: Option<f64>) -> Vec<f32> {
        let count = f64::from(self.num_train_timesteps);
        let (first, last) = self.training_ends();
        let mut sigmas = linspace(first * count, last * count, steps);
        for sigma in &mut sigmas {
            let s = *sigma / count;
            *sigma = match (mu, self.time_shift_type) {
                (None, _) => self.shift * s / (1.0 + (self.shift - 1.0) * s),
                (Some(mu), TimeShift::Exponential) => mu.exp() / (mu.exp() + (1.0 / s - 1.0)),
                (Some(mu), TimeShift::Linear) => mu / (mu + (1.0 / s - 1.0)),
            };
        }
        if let Some(end) = self.shift_terminal.filter(|&end| end != 0.0) {
            let scale = (1.0 - sigmas[steps - 1]) / (1.0 - end);
            for sigma in &mut sigmas {
                *sigma = 1.0 - (1.0 - *sigma) / scale;
            }
        }
        if let Some(curve) = self.curve() {
            let max = self.sigma_max.unwrap_or(sigmas[0]);
            let min = self.sigma_min.unwrap_or(sigmas[steps - 1]);
            sigmas = curve.sigmas(max, min, steps);
        }
        sigmas.iter().map(|&sigma| sigma as f32).chain([0.0]).collect()
    }

    fn curve(&self) -> Option<Curve> {
        if self.use_karras_sigmas {
            Some(Curve::Karras)
        } else if self.use_exponential_sigmas {
            Some(Curve::Exponential)
        } else if self.use_beta_sigmas {
            Some(Curve::Beta)
        } else {
            None
        }
    }
}

impl Curve {
    fn sigmas(self, max: f64, min: f64, steps: usize) -> Vec<f64> {
        /// The power of Karras et al.
        const RHO: f64 = 7.0;
        match self {
            Curve::Karras => {
                let (high, low) = (max.powf(1.0 / RHO), min.powf(1.0 / RHO));
                let point = |ramp: f64| (high + ramp * (low - high)).powf(RHO);
                linspace(0.0, 1.0, steps).into_iter().map(point).collect()
            }
            Curve::Exponential => linspace(max.ln(), min.ln(), steps).into_iter().map(f64::exp).collect(),
            Curve::Beta => {
                let point = |ramp: f64| min + beta::quantile(1.0 - ramp) * (max - min);
                linspace(0.0, 1.0, steps).into_iter().map(point).collect()
            }
        }
    }
}

/// numpy's `linspace`: the same operations, so the same bits.
fn linspace(start: f64, stop: f64, count: usize) -> Vec<f64> {
    let delta = stop - start;
    let gaps = count.saturating_sub(1) as f64;
    let step = delta / gaps;
    let mut points: Vec<f64> = (0..count)
        .map(|i| if step == 0.0 { i as f64 / gaps * delta } else { i as f64 * step } + start)
        .collect();
    match points.as_mut_slice() {
        [only] => *only = start,
        [.., last] => *last = stop,
        [] => {}
    }
    points
}

/// A distilled student's sigmas in float32, or why they are none.
fn distilled_schedule(distilled: &[f64]) -> Result<Vec<f32>> {
    let sigmas: Vec<f32> = distilled.iter().map(|&sigma| sigma as f32).collect();
    let fault = |what: String| {
        field_error(
            "distilled_sigmas",
            &what,
            "a student of n steps has n + 1 falling numbers within (0, 1] that end in 0",
        )
    };
    let [head @ .., last] = sigmas.as_slice() else {
        return Err(fault("is empty".into()));
    };
    if head.is_empty() {
        return Err(fault("has one number: that is no step".into()));
    }
    if let Some(sigma) = head.iter().find(|&&sigma| !(0.0 < sigma && sigma <= 1.0)) {
        return Err(fault(format!("has {sigma} before its end")));
    }
    if *last != 0.0 {
        return Err(fault(format!("ends in {last}")));
    }
    if let Some(pair) = sigmas.windows(2).find(|pair| pair[0] <= pair[1]) {
        return Err(fault(format!("does not fall from {} to {}", pair[0], pair[1])));
    }
    Ok(sigmas)
}

fn field_error(field: &str, fault: &str, help: &str) -> Error {
    Error::input(format!("the scheduler's config: {field} {fault}")).help(help)
}

/// serde's message says what is wrong with a value but not which: the first field that is wrong by itself is it.
fn name_field(fields: &Map<String, Value>, error: &serde_json::Error) -> Error {
    for (name, value) in fields {
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        if let Err(error) = FlowMatchEuler::deserialize(&alone) {
            return Error::input(format!("the scheduler's config: {name}: {error}"));
        }
    }
    Error::input(format!("the scheduler's config: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use serde_json::json;
    use snapc_ir::Class;

    use super::*;

    #[derive(Deserialize)]
    struct Case {
        name: String,
        config: Value,
        steps: usize,
        mu: Option<f64>,
        image_seq_len: Option<usize>,
        sigmas: Vec<f32>,
    }

    fn cases() -> Vec<Case> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/reference/scheduler.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn read(config: Value) -> Result<FlowMatchEuler> {
        FlowMatchEuler::from_json(&config.to_string())
    }

    #[track_caller]
    fn refused(result: Result<impl std::fmt::Debug>, class: Class, words: &[&str]) {
        let error = result.unwrap_err();
        assert_eq!(error.class(), class, "{error}");
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "no {word:?} in: {text}");
        }
        assert!(error.help_text().is_some() || text.contains("expected"), "no help: {text}");
    }

    #[test]
    fn every_schedule_is_diffusers_own() {
        let mut different = 0;
        let mut numbers = 0;
        for case in cases() {
            if case.config["invert_sigmas"] == true {
                refused(read(case.config), Class::Input, &["invert_sigmas"]);
                continue;
            }
            let config = read(case.config).unwrap();
            let ours = config.sigmas(case.steps, case.mu);
            assert_eq!(ours.len(), case.sigmas.len(), "{}", case.name);
            for (i, (a, b)) in ours.iter().zip(&case.sigmas).enumerate() {
                // One last place: a C library's exp and pow may round the other way.
                assert!((a - b).abs() <= b * f32::EPSILON, "{}, sigma {i}: {a} is not {b}", case.name);
                different += usize::from(a.to_bits() != b.to_bits());
                numbers += 1;
            }
            if case.mu.is_none() || case.image_seq_len.is_some() {
                let schedule = config.schedule(Some(case.steps), case.image_seq_len.unwrap_or(1)).unwrap();
                assert_eq!(
                    schedule,
                    Schedule { sigmas: ours, rule: StepRule::Euler, distilled: false },
                    "{}",
                    case.name
                );
            }
            if let Some(length) = case.image_seq_len {
                // serde_json may read the last place of a float64 wrongly.
                let (ours, theirs) = (config.mu(length).unwrap(), case.mu.unwrap());
                assert!((ours - theirs).abs() <= 2.0 * f64::EPSILON, "{}: {ours} is not {theirs}", case.name);
            }
        }
        println!("{different} of {numbers} sigmas differ by a bit");
        assert!(different * 1000 <= numbers, "{different} of {numbers} sigmas differ by a bit");
    }

    #[test]
    fn an_empty_config_is_diffusers_defaults() {
        let schedule = read(json!({})).unwrap().schedule(None, 256).unwrap();
        assert_eq!(schedule.sigmas.len(), DEFAULT_STEPS + 1);
        assert_eq!(schedule.sigmas[0], 1.0);
        assert_eq!(schedule.sigmas[DEFAULT_STEPS - 1], 0.001);
        assert_eq!((schedule.rule, schedule.distilled), (StepRule::Euler, false));
        let written_out = cases().into_iter().find(|case| case.name == "plain/28").unwrap();
        assert_eq!(read(written_out.config).unwrap(), FlowMatchEuler::default());
    }

    #[test]
    fn a_distilled_student_has_its_own_sigmas() {
        let config =
            json!({"shift": 3, "stochastic_sampling": true, "distilled_sigmas": [1.0, 0.9, 0.75, 0.5, 0.0]});
        let config = read(config).unwrap();
        let schedule = config.schedule(None, 64).unwrap();
        assert_eq!(schedule.sigmas, [1.0, 0.9, 0.75, 0.5, 0.0]);
        assert_eq!((schedule.rule, schedule.distilled), (StepRule::Stochastic, true));
        assert_eq!(config.schedule(Some(4), 64).unwrap(), schedule);
        refused(config.schedule(Some(8), 64), Class::Usage, &["8 steps", "distilled for 4", "ask for 4"]);
        refused(config.schedule(Some(0), 64), Class::Usage, &["distilled for 4"]);
    }

    #[test]
    fn the_trained_fixtures_schedule() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/shapes/scheduler/scheduler_config.json");
        let config = FlowMatchEuler::from_json(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(config.schedule(None, 256).unwrap().sigmas, [1.0, 0.9, 0.75, 0.5, 0.0]);
    }

    #[test]
    fn distilled_sigmas_must_fall_to_zero() {
        for (sigmas, fault) in [
            (json!([]), "is empty"),
            (json!([0.0]), "one number"),
            (json!([1.0, 0.5]), "ends in 0.5"),
            (json!([1.0, 0.5, 0.7, 0.0]), "does not fall from 0.5 to 0.7"),
            (json!([1.0, 0.5, 0.5, 0.0]), "does not fall from 0.5 to 0.5"),
            (json!([1.5, 0.5, 0.0]), "has 1.5"),
            (json!([1.0, -0.5, 0.0]), "has -0.5"),
            (json!([1.0, 0.0, 0.0]), "has 0 "),
            (json!([1.0, 1e-60, 0.0]), "has 0 "),
            (json!([1e300, 0.5, 0.0]), "has inf"),
        ] {
            refused(read(json!({"distilled_sigmas": sigmas})), Class::Input, &["distilled_sigmas", fault]);
        }
        assert!(read(json!({"distilled_sigmas": null})).unwrap().distilled_sigmas.is_none());
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named() {
        for (field, value) in [
            ("shift", json!("3")),
            ("shift", json!(null)),
            ("num_train_timesteps", json!(1000.5)),
            ("num_train_timesteps", json!(-1)),
            ("use_karras_sigmas", json!("yes")),
            ("time_shift_type", json!("cubic")),
            ("shift_terminal", json!([0.1])),
            ("distilled_sigmas", json!(4)),
        ] {
            let config = json!({"_diffusers_version": "0.42.1", "base_shift": 0.5, field: value});
            refused(read(config), Class::Input, &[field, "expected"]);
        }
        refused(
            FlowMatchEuler::from_json("[1]").map_err(|error| error.help("")),
            Class::Input,
            &["no JSON object"],
        );
        let other = json!({"_class_name": "DDIMScheduler"});
        refused(read(other), Class::Input, &["DDIMScheduler", "FlowMatchEulerDiscreteScheduler"]);
    }

    #[test]
    fn unknown_fields_are_passed_over() {
        let config =
            json!({"_class_name": "FlowMatchEulerDiscreteScheduler", "later": {"deep": [1]}, "shift": 3});
        assert_eq!(read(config).unwrap(), FlowMatchEuler { shift: 3.0, ..Default::default() });
    }

    #[test]
    fn what_diffusers_refuses_is_refused() {
        let two = json!({"use_karras_sigmas": true, "use_beta_sigmas": true});
        refused(read(two), Class::Input, &["use_karras_sigmas and use_beta_sigmas"]);
        let config = read(json!({})).unwrap();
        refused(config.schedule(Some(0), 256), Class::Usage, &["0 steps"]);
        refused(config.schedule(Some(usize::MAX), 256), Class::Usage, &["steps"]);
        let no_shift = read(json!({"use_dynamic_shifting": true, "max_shift": null})).unwrap();
        refused(no_shift.schedule(None, 256), Class::Input, &["max_shift"]);
        let no_line =
            json!({"use_dynamic_shifting": true, "base_image_seq_len": 64, "max_image_seq_len": 64});
        refused(read(no_line).unwrap().schedule(None, 256), Class::Input, &["image_seq_len"]);
        // Without dynamic shifting nothing looks at them.
        assert!(read(json!({"max_shift": null})).unwrap().schedule(None, 256).is_ok());
    }

    #[test]
    fn numbers_that_give_no_schedule_are_refused() {
        for (field, value) in [("num_train_timesteps", 0.into()), ("shift", json!(0)), ("shift", json!(-3.0))]
        {
            refused(read(json!({field: value})), Class::Input, &[field]);
        }
        for end in [1.0, 2.0, -0.1] {
            refused(read(json!({"shift_terminal": end})), Class::Input, &["shift_terminal"]);
        }
        let one = read(json!({"shift_terminal": 0.1})).unwrap();
        refused(one.schedule(Some(1), 256), Class::Input, &["2 steps"]);
        let linear = json!({"use_dynamic_shifting": true, "time_shift_type": "linear", "base_shift": -1, "max_shift": -1});
        refused(read(linear).unwrap().schedule(Some(4), 256), Class::Input, &["(0, 1]"]);
        let steep = json!({"use_dynamic_shifting": true, "base_shift": 1000, "max_shift": 1000});
        refused(read(steep).unwrap().schedule(Some(4), 256), Class::Input, &["(0, 1]"]);
        let upward = json!({"use_karras_sigmas": true, "sigma_min": 0.9, "sigma_max": 0.1});
        refused(read(upward).unwrap().schedule(Some(4), 256), Class::Input, &["sigma_max"]);
    }
}
