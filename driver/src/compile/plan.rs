//! What a compile would do, without doing it: no number of a weight is read, and nothing is written.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use serde::Serialize;
use snapc_backend::limits::{Unit, Use};
use snapc_backend::{Explanation, Legalized};
use snapc_frontends::{Imported, Part, Pipeline};
use snapc_ir::pipeline::Schedule;
use snapc_ir::{Class, Error, Graph, Place, Result};
use snapc_onnx::Layout;

use super::finish::{self, Common};
use super::one_file::{self, One};
use super::{Job, Road, batch, jobs, parts, road};
use crate::Silent;
use crate::companions;
use crate::manifest::{OptionsEntry, PartEntry};
use crate::options::{CompileOptions, Ranges};
use crate::output::refuse_strangers;

/// What one folder of a compile would be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Where it would stand.
    pub folder: PathBuf,
    /// The options that it depends on.
    pub options: OptionsEntry,
    /// The parts.
    pub parts: Vec<PartPlan>,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Limits that the folder passes as a whole.
    pub passed: Vec<Passed>,
    /// What is known only to a compile.
    pub notes: Vec<String>,
    /// Why a compile refuses it: the first of all limits that are passed.
    #[serde(skip)]
    pub refused: Option<Error>,
}

/// What one part would be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartPlan {
    /// The part; with the size where there are several.
    pub name: String,
    /// What the manifest would say of it; none where the target has not all its ops.
    pub entry: Option<PartEntry>,
    /// Which ops the target has not or its delegates leave out, and why.
    pub not_native: Vec<Why>,
    /// How much of the target's limits it has.
    pub limits: Vec<UseEntry>,
    /// The limits that it passes.
    pub passed: Vec<Passed>,
}

/// Why some ops are not written as they are, or not run where the rest runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Why {
    /// The op.
    pub op: &'static str,
    /// How many.
    pub count: usize,
    /// The first one's path in the checkpoint.
    pub first: String,
    /// The reason.
    pub reason: String,
}

/// How much of a limit a part has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UseEntry {
    /// What has the limit.
    pub holder: &'static str,
    /// What is counted: `axes`, `length` (of the longest axis), `numbers` or `bytes`.
    pub unit: &'static str,
    /// What the part has.
    pub found: u64,
    /// The most that the target takes.
    pub most: u64,
    /// Where that is said.
    pub source: &'static str,
}

/// A limit that is passed, in the words of the compile that refuses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// What is passed, and by how much.
    pub message: String,
    /// Where, innermost first.
    pub places: Vec<String>,
    /// What to do.
    pub help: Option<String>,
}

impl From<&Error> for Passed {
    fn from(error: &Error) -> Self {
        Passed {
            message: error.message().to_string(),
            places: error.places().iter().map(Place::to_string).collect(),
            help: error.help_text().map(str::to_string),
        }
    }
}

impl From<Explanation> for Why {
    fn from(Explanation { op, reason, count, first }: Explanation) -> Self {
        Why { op, count, first, reason }
    }
}

impl From<Use> for UseEntry {
    fn from(Use { limit, found }: Use) -> Self {
        let unit = match limit.unit {
            Unit::Axes => "axes",
            Unit::Length => "length",
            Unit::Numbers => "numbers",
            Unit::Bytes => "bytes",
        };
        UseEntry { holder: limit.holder, unit, found, most: limit.most, source: limit.source }
    }
}

/// Goes the road of [`compile`](super::compile) up to where a weight is read. Limits that are passed are in the plan, each of them.
///
/// # Errors
/// What else a compile refuses.
pub fn plan(options: &CompileOptions) -> Result<Vec<Plan>> {
    one_file::check(options)?;
    let pipeline = Pipeline::open(&options.pipeline)?;
    let latent = pipeline.latent_size(options.sizes.first().copied())?;
    let schedule = pipeline.schedule(options.steps, latent)?;
    let mut jobs = jobs(options, &pipeline, &schedule)?;
    let parts = parts(options);
    let (pipeline, schedule, parts) = (&pipeline, &schedule, &parts[..]);
    let common = Common { options, pipeline, latent, schedule, parts, stamps: None };
    let mut known = BTreeMap::new();
    jobs.iter_mut().map(|job| plan_job(job, &common, &mut known)).collect()
}

/// What was imported so far: jobs that differ in the target alone share it.
type Known = BTreeMap<(bool, bool), Vec<One>>;

fn plan_job(job: &mut Job, common: &Common, known: &mut Known) -> Result<Plan> {
    let &Common { options, pipeline, schedule, .. } = common;
    refuse_strangers(&job.folder)?;
    let (guided, unscaled) = (job.guidance().is_some(), job.layout == Layout::Optimum);
    let imported = match known.entry((guided, unscaled)) {
        Entry::Occupied(found) => found.into_mut(),
        Entry::Vacant(place) => place.insert(import(common, pipeline, schedule, guided, unscaled)?),
    };
    let (mut planned, mut graphs, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for One { key, size, imported } in imported.iter() {
        let (part, graph, errors) = plan_part(job, key, *size, imported)?;
        planned.push(part);
        graphs.extend(graph);
        refused.extend(errors);
    }
    job.parts = planned.iter().filter_map(|part| part.entry.clone()).collect();
    let mut whole = Vec::new();
    if options.one_file {
        let graphs: Vec<&Graph> = graphs.iter().collect();
        let place = || Place::Target(job.target.name().to_string());
        whole.extend(snapc_tflite::check_file(&graphs).into_iter().map(|error| error.at(place())));
    }
    let manifest = finish::manifest(job, common);
    whole.extend(limit(companions::files(job.target, job.layout, pipeline, &manifest))?.err());
    let passed = whole.iter().map(Passed::from).collect();
    refused.extend(whole);
    Ok(Plan {
        folder: job.folder.clone(),
        weight_bytes: manifest.parts.iter().map(|part| part.weight_bytes).sum(),
        options: manifest.options,
        parts: planned,
        passed,
        notes: notes(job, options),
        refused: refused.into_iter().next(),
    })
}

/// The parts of a job, in all sizes where it writes one file.
fn import(
    common: &Common,
    pipeline: &Pipeline,
    schedule: &Schedule,
    guided: bool,
    unscaled: bool,
) -> Result<Vec<One>> {
    if common.options.one_file {
        return one_file::import(common.parts, common.options, pipeline, schedule, guided);
    }
    let one = |&part: &Part| {
        let imported = if unscaled && part == Part::VaeDecoder {
            pipeline.import_unscaled_decoder(1, common.latent)?
        } else {
            pipeline.import(part, batch(part, guided), common.latent)?
        };
        Ok(One { key: part.name().to_string(), size: None, imported })
    };
    common.parts.iter().map(one).collect()
}

/// An error that is a limit, to be noted; any other one ends the plan.
fn limit<T>(result: Result<T>) -> Result<std::result::Result<T, Error>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.class() == Class::Limit => Ok(Err(error)),
        Err(error) => Err(error),
    }
}

fn plan_part(
    job: &Job,
    name: &str,
    size: Option<[usize; 2]>,
    imported: &Imported,
) -> Result<(PartPlan, Option<Graph>, Vec<Error>)> {
    let found = limit(road(job, imported, &stand_ins, &mut Silent))?;
    let mut plan = PartPlan {
        name: name.to_string(),
        entry: None,
        not_native: Vec::new(),
        limits: Vec::new(),
        passed: Vec::new(),
    };
    let Road { whole: Legalized { graph, passed, .. }, notes, .. } = match found {
        Ok(road) => road,
        Err(error) => {
            plan.passed.push(Passed::from(&error));
            return Ok((plan, None, vec![error]));
        }
    };
    let mut entry = PartEntry::new(&graph, job.backend.artifact(graph.name()));
    entry.rename(job.layout);
    entry.size = size;
    plan.entry = Some(entry);
    plan.not_native = notes.into_iter().map(Why::from).collect();
    plan.limits = job.backend.uses(&graph, job.device).into_iter().map(UseEntry::from).collect();
    plan.passed = passed.iter().map(Passed::from).collect();
    Ok((plan, Some(graph), passed))
}

/// Numbers in the place of those that `bake` computes: the entries of a batch have one time, so they are the same; no two lists are, as
/// what has the same bytes would be stored once.
fn stand_ins(graph: &Graph, times: &[Vec<f32>]) -> Result<Vec<Vec<Vec<f32>>>> {
    /// What f16 counts to without a gap.
    const EXACT: usize = 2048;
    let mut next = 0;
    let mut list = |count: usize, batch: usize| -> Vec<f32> {
        next += 1;
        let digits = [next % EXACT, next / EXACT % EXACT];
        let entry = if count.is_multiple_of(batch) { count / batch } else { count };
        let digit = |place: usize| digits.get(place % entry);
        (0..count).map(|place| digit(place).map_or(0.0, |&digit| digit as f32)).collect()
    };
    let counts: Vec<usize> = graph.outputs().iter().map(|port| graph.ty(port.value).count()).collect();
    let step = |time: &Vec<f32>| counts.iter().map(|&count| list(count, time.len().max(1))).collect();
    Ok(times.iter().map(step).collect())
}

fn notes(job: &Job, options: &CompileOptions) -> Vec<String> {
    let mut notes = Vec::new();
    if job.precision().computes_half() && options.ranges != Ranges::Off {
        notes.push(
            "ranges are not measured by plan: a compile may scale values or keep some in f32".to_string(),
        );
    }
    if let Some(budget) = options.quantization.budget {
        notes.push(format!(
            "bits are not given out by plan: weights count as the encoding that is named, not as {budget}"
        ));
    }
    notes
}
