//! What a pipeline's layers are given: largest values and second moments over prompts, measured by the interpreter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use snapc_frontends::Part;
use snapc_interp::Interpreter;
use snapc_ir::{Error, Graph, Place, Result, ValueId};
use snapc_passes::quantize::{Layer, layers};
use snapc_passes::{Precision, Standard, run, standard};
use snapc_weights::{Statistics, Store};

use super::file::Facts;
use super::state::{Measured, State};
use crate::Report;
use crate::baking::{check_guidance, evaluate};
use crate::examples::{Example, borrowed, draw, lines};
use crate::files::digest_of;
use crate::options::{Bake, Width};
use crate::output::check_parent;
use crate::parts::{Choice, Parts};

/// Prompts where no file is named and the pipeline folder has no `calibration_prompts.txt`.
const PROMPTS: &str = include_str!("prompts.txt");

/// Which second moments are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MomentsKind {
    /// The mean square of each channel.
    #[default]
    Channels,
    /// The mean product of each two channels, which gptq asks for: as many numbers as the square of a layer's inputs.
    Full,
}

impl MomentsKind {
    fn name(self) -> &'static str {
        match self {
            MomentsKind::Channels => "channels",
            MomentsKind::Full => "full",
        }
    }
}

impl std::str::FromStr for MomentsKind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [MomentsKind::Channels, MomentsKind::Full]
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("`{text}` are no moments; they are channels or full"))
    }
}

/// What `calibrate` is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrateOptions {
    /// The pipeline folder.
    pub pipeline: PathBuf,
    /// The network.
    pub width: Option<Width>,
    /// Rows and columns of the picture, in pixels.
    pub size: Option<[usize; 2]>,
    /// Steps.
    pub steps: Option<usize>,
    /// Guidance to draw with.
    pub guidance: Option<f32>,
    /// A file of prompts, one a line.
    pub prompts: Option<PathBuf>,
    /// The most prompts that are taken.
    pub count: Option<usize>,
    /// Which moments.
    pub moments: MomentsKind,
    /// Which share of the prompts, from 1 on, of how many; the file is then one to merge.
    pub shard: Option<(usize, usize)>,
    /// The file.
    pub output: PathBuf,
}

impl CalibrateOptions {
    /// All prompts of a pipeline, everything else as the command has it where nothing is said.
    pub fn new(pipeline: PathBuf, width: Width, output: PathBuf) -> Self {
        CalibrateOptions {
            pipeline,
            width: Some(width),
            size: None,
            steps: None,
            guidance: None,
            prompts: None,
            count: None,
            moments: MomentsKind::default(),
            shard: None,
            output,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibrated {
    /// The file.
    pub output: PathBuf,
    /// Prompts drawn in all, also before it was resumed.
    pub prompts: usize,
    /// How many of them an earlier run had drawn.
    pub resumed: usize,
    /// Layers that were measured.
    pub layers: usize,
}

/// Reads `I/N`.
///
/// # Errors
/// A text of another form.
pub fn parse_shard(text: &str) -> std::result::Result<(usize, usize), String> {
    let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    numbers
        .filter(|&(i, n): &(usize, usize)| (1..=n).contains(&i))
        .ok_or_else(|| format!("`{text}` is no shard; write the second of eight as 2/8"))
}

/// Draws prompts and measures. What is done so far stands in `OUTPUT.partial` after each prompt; a run that finds one of its own goes on
/// there.
///
/// # Errors
/// What the pipeline or the interpreter finds.
pub fn calibrate(options: &CalibrateOptions, report: &mut dyn Report) -> Result<Calibrated> {
    check_parent(&options.output)?;
    let choice = Choice { width: options.width.as_ref(), size: options.size, steps: options.steps };
    let parts = Parts::from_pipeline(&options.pipeline, &choice)?;
    let guidance = check_guidance(options.guidance, &parts.schedule)?;
    let mut prompts = calibration_prompts(&options.pipeline, options.prompts.as_deref())?;
    prompts.truncate(options.count.unwrap_or(usize::MAX).max(1));
    let subjects: Vec<Subject> =
        Part::ALL.iter().map(|&part| Subject::new(part, &parts)).collect::<Result<_>>()?;
    let facts = facts(options, &parts, &prompts, guidance, &subjects)?;
    let shard = options.shard.unwrap_or((1, 1));
    let mine: Vec<usize> = (0..prompts.len()).filter(|prompt| prompt % shard.1 == shard.0 - 1).collect();
    let partial = with_suffix(&options.output, ".partial");
    let mut state = State::resume(&partial, &facts, shard, report)?;
    let resumed = state.done;
    report.begin("calibration", mine.len() as u64);
    report.advance(resumed as u64);
    for &number in &mine[resumed..] {
        let mut examples = Vec::new();
        draw(&parts, &prompts[number], guidance, number as u64, Bake::None, &mut examples)?;
        for subject in &subjects {
            let inputs = examples.iter().filter(|(part, _)| *part == subject.part);
            subject.measure(inputs.map(|(_, example)| example), options.moments, &mut state)?;
        }
        state.done += 1;
        state.save(&partial)?;
        report.advance(1);
    }
    let layers = subjects.iter().map(|subject| subject.layers.len()).sum();
    match options.shard {
        Some(_) => state.save(&options.output)?,
        None => state.finish(&options.output)?,
    }
    // It is only a help for the next run: none is missed.
    let _ = std::fs::remove_file(&partial);
    Ok(Calibrated { output: options.output.clone(), prompts: mine.len(), resumed, layers })
}

/// Adds up the files of all shards. The file is the one that a run without shards writes.
///
/// # Errors
/// If a file is no shard's, is of another run, or one is missing or there twice.
pub fn merge(shards: &[PathBuf], output: &Path) -> Result<Calibrated> {
    check_parent(output)?;
    let mut whole: Option<State> = None;
    let mut seen = BTreeMap::new();
    for path in shards {
        let state = State::read(path)?;
        let place = |error: Error| error.at(Place::File(path.clone()));
        if let Some(earlier) = seen.insert(state.shard.0, path) {
            return Err(place(Error::input(format!(
                "it is shard {} again, as {}",
                state.shard.0,
                earlier.display()
            ))));
        }
        if state.done < state.own_prompts() {
            let message = format!("{} of its {} prompts are drawn", state.done, state.own_prompts());
            return Err(place(
                Error::input(message).help("run its shard again: it goes on where it stopped"),
            ));
        }
        match &mut whole {
            None => whole = Some(state),
            Some(whole) => whole.add(state).map_err(place)?,
        }
    }
    let whole = whole.ok_or_else(|| Error::usage("no shard is named"))?;
    let missing: Vec<String> = (1..=whole.shard.1)
        .filter(|shard| !seen.contains_key(shard))
        .map(|shard| shard.to_string())
        .collect();
    if !missing.is_empty() {
        let (count, all) = (missing.join(", "), whole.shard.1);
        return Err(Error::input(format!("of {all} shards these are missing: {count}"))
            .help("name the files of all shards"));
    }
    whole.finish(output)?;
    let (prompts, layers) = (whole.facts.prompts, whole.layers());
    Ok(Calibrated { output: output.to_path_buf(), prompts, resumed: prompts, layers })
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}

/// The prompts of a file, else of the pipeline's `calibration_prompts.txt`, else the built-in ones.
///
/// # Errors
/// If there are none.
pub fn calibration_prompts(pipeline: &Path, file: Option<&Path>) -> Result<Vec<String>> {
    let own = pipeline.join("calibration_prompts.txt");
    let path = file.map(Path::to_path_buf).or_else(|| own.is_file().then_some(own));
    let text = match &path {
        Some(path) => std::fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?,
        None => PROMPTS.to_string(),
    };
    let prompts = lines(&text);
    if prompts.is_empty() {
        let error = Error::input("there are no prompts to measure").help("write some, one a line");
        return Err(path.map(Place::File).into_iter().fold(error, Error::at));
    }
    Ok(prompts)
}

fn facts(
    options: &CalibrateOptions,
    parts: &Parts,
    prompts: &[String],
    guidance: Option<f32>,
    subjects: &[Subject],
) -> Result<Facts> {
    let checkpoints = subjects
        .iter()
        .map(|subject| Ok((subject.part.name().to_string(), subject.store.fingerprint()?)))
        .collect::<Result<_>>()?;
    Ok(Facts {
        schema: 1,
        width: parts.width,
        latent: [parts.latent_shape[2], parts.latent_shape[3]],
        sigmas: parts.schedule.sigmas.clone(),
        guidance,
        moments: options.moments.name().to_string(),
        prompts: prompts.len(),
        prompts_digest: digest_of(prompts.join("\n").as_bytes()),
        checkpoints,
    })
}

/// A graph whose layers are measured: as `quantize` gets it, but for what is baked.
struct Subject<'a> {
    part: Part,
    graph: Graph,
    store: &'a Store,
    layers: Vec<Layer>,
    /// For each value that layers read, those layers; for each that one makes, that layer.
    readers: BTreeMap<ValueId, Vec<usize>>,
    makers: BTreeMap<ValueId, usize>,
}

impl<'a> Subject<'a> {
    fn new(part: Part, parts: &'a Parts) -> Result<Self> {
        let network = parts.network(part);
        let (graph, store) = (prepared(&network.graph, &network.store)?, &network.store);
        let layers = layers(&graph);
        let (mut readers, mut makers) = (BTreeMap::<_, Vec<usize>>::new(), BTreeMap::new());
        for (number, layer) in layers.iter().enumerate() {
            readers.entry(layer.input).or_default().push(number);
            makers.insert(layer.result, number);
        }
        // The first is measured for all: a linear's moments are asked for, a convolution's are not.
        readers.values_mut().for_each(|numbers| numbers.sort_by_key(|&number| layers[number].shape.len()));
        Ok(Subject { part, graph, store, layers, readers, makers })
    }

    /// Adds one prompt's runs.
    fn measure<'e>(
        &self,
        examples: impl Iterator<Item = &'e Example>,
        kind: MomentsKind,
        state: &mut State,
    ) -> Result<()> {
        let interpreter = Interpreter::new(&self.graph, self.store);
        let mut prompt: BTreeMap<String, Measured> = BTreeMap::new();
        for example in examples {
            let mut see = |id: ValueId, values: &[f32]| {
                for &number in self.readers.get(&id).into_iter().flatten() {
                    let key = |kind| Statistics::key(self.part.name(), kind, &self.layers[number].tensor);
                    let first = self.readers[&id][0];
                    state.shares(&self.key(number), &self.key(first));
                    if number == first {
                        let inputs = self.layers[number].shape[1];
                        prompt.entry(key("largest")).or_default().largest(values);
                        match kind {
                            _ if self.layers[number].shape.len() != 2 => {}
                            MomentsKind::Channels => {
                                prompt.entry(key("moments")).or_default().squares(values, inputs)
                            }
                            MomentsKind::Full => {
                                prompt.entry(key("products")).or_default().products(values, inputs)
                            }
                        }
                    }
                }
                if let Some(&number) = self.makers.get(&id) {
                    let key = Statistics::key(self.part.name(), "result", &self.layers[number].tensor);
                    prompt.entry(key).or_default().largest(values);
                }
            };
            let inputs = borrowed(&example.inputs);
            for (name, tensor) in &inputs {
                if let Some(port) = self.graph.inputs().iter().find(|port| port.name == *name) {
                    see(port.value, tensor.values());
                }
            }
            interpreter.run_observed(&inputs, &mut |node, results| {
                node.results.iter().zip(results).for_each(|(&id, result)| see(id, result.values()));
            })?;
        }
        prompt.into_iter().try_for_each(|(key, measured)| state.add_prompt(key, &measured))
    }

    fn key(&self, layer: usize) -> String {
        format!("{}/{}", self.part.name(), self.layers[layer].tensor)
    }
}

/// A subnet behind the passes that come before `quantize`, nothing baked.
///
/// # Errors
/// What a pass finds.
pub fn prepared(graph: &Graph, store: &Store) -> Result<Graph> {
    let options = Standard {
        widths: (1, 1),
        baking: None,
        precision: Precision::F32,
        weights_only: true,
        quantize: None,
    };
    let evaluate = |graph: &Graph, times: &[Vec<f32>]| evaluate(store, graph, times);
    run(graph, &standard(&options, graph.stage(), &evaluate), None)
}
