//! What a compile read: every file with its role, length and digest; and the licence of the model as it is found.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use snapc_frontends::{Part, Pipeline, tokenizer};
use snapc_ir::{Error, Place, Result};
use snapc_weights::Store;

use crate::files::{digests, length};
use crate::options::CompileOptions;

/// Files up to this length have a digest always; longer ones where provenance is asked for.
const ALWAYS: u64 = 64 << 20;

/// A file that a compile read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputEntry {
    /// Its path in the pipeline folder; the name alone of a file that an option names.
    pub path: String,
    /// What it is: `config`, `scheduler`, `tokenizer`, `weights`, `prompts`, `calibration`, `recipe` or `licence`.
    pub role: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, hexadecimal: of files up to 64 MiB, and of all of them with `--provenance`.
    pub sha256: Option<String>,
}

/// The licence of the model, as its folder says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenceEntry {
    /// What is said: an identifier, or the first line of the text.
    pub name: String,
    /// The file that says it.
    pub file: String,
}

/// The inputs of one compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The files, in the order of their paths.
    pub files: Vec<InputEntry>,
    /// For each part whose weights were read the fingerprint of its checkpoint: a hash of names, types, shapes and samples of every
    /// tensor.
    pub checkpoints: BTreeMap<String, String>,
    /// The licence.
    pub licence: Option<LicenceEntry>,
}

/// A file that was read.
struct Input {
    name: String,
    role: &'static str,
    path: PathBuf,
}

impl Inputs {
    /// The inputs of a compile of these parts; `drawn` says whether it drew pictures, which takes all parts and the prompts.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn of(options: &CompileOptions, pipeline: &Pipeline, parts: &[Part], drawn: bool) -> Result<Self> {
        let licence = licence(pipeline);
        let all = inputs(options, pipeline, parts, drawn, licence.as_ref())?;
        let files = entries(&all, options.provenance)?;
        // Behind the digests, opened anew: a checkpoint that was cut short before they were taken says so.
        let fingerprint =
            |part: Part| Ok((part.name().to_string(), checkpoint(pipeline, part)?.fingerprint()?));
        let checkpoints = read(parts, drawn).map(fingerprint).collect::<Result<_>>()?;
        Ok(Inputs { files, checkpoints, licence })
    }
}

/// The parts whose weights are read.
fn read(parts: &[Part], drawn: bool) -> impl Iterator<Item = Part> {
    Part::ALL.into_iter().filter(move |part| drawn || parts.contains(part))
}

fn checkpoint(pipeline: &Pipeline, part: Part) -> Result<Store> {
    let (name, weights) = part.files();
    Store::open_checkpoint(&pipeline.folder().join(name), weights)
}

/// The files that are read, in the order of their names.
fn inputs(
    options: &CompileOptions,
    pipeline: &Pipeline,
    parts: &[Part],
    drawn: bool,
    licence: Option<&LicenceEntry>,
) -> Result<Vec<Input>> {
    let folder = pipeline.folder();
    let mut all: Vec<Input> = Vec::new();
    let mut add = |path: PathBuf, role: &'static str| {
        let name = path.strip_prefix(folder).map(|path| path.display().to_string());
        let own = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        all.push(Input { name: name.unwrap_or_else(|_| own()), role, path });
    };
    for name in ["model_index.json", "text_encoder/config.json", "transformer/config.json", "vae/config.json"]
    {
        add(folder.join(name), "config");
    }
    add(folder.join("scheduler/scheduler_config.json"), "scheduler");
    tokenizer::files(folder).into_iter().for_each(|path| add(path, "tokenizer"));
    for part in read(parts, drawn) {
        let (name, weights) = part.files();
        checkpoint(pipeline, part)?.files().for_each(|path| add(path.to_path_buf(), "weights"));
        let index = folder.join(name).join(format!("{weights}.index.json"));
        if index.is_file() && !folder.join(name).join(weights).is_file() {
            add(index, "weights");
        }
    }
    let prompts = folder.join("verify_prompts.txt");
    if drawn && prompts.is_file() {
        add(prompts, "prompts");
    }
    let quantization = &options.quantization;
    quantization.calibration.iter().for_each(|path| add(path.clone(), "calibration"));
    quantization.recipe.iter().for_each(|path| add(path.clone(), "recipe"));
    if let Some(LicenceEntry { file, .. }) = licence.filter(|found| found.file != "model_index.json") {
        add(folder.join(file), "licence");
    }
    // Files that options name keep their order where they have one name.
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// When files were written last, and how long they are: what tells that one changed while it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamps(Vec<(PathBuf, Stamp)>);

/// The length of a file, when it was written, and which file it is.
type Stamp = (u64, Option<SystemTime>, u64);

impl Stamps {
    /// Those of what a compile of these parts is about to read. What is missing or damaged it will say itself.
    pub fn of(options: &CompileOptions, pipeline: &Pipeline, parts: &[Part]) -> Self {
        let all = inputs(options, pipeline, parts, false, None).unwrap_or_default();
        Stamps(
            all.into_iter()
                .filter_map(|Input { path, .. }| stamp(&path).ok().map(|stamp| (path, stamp)))
                .collect(),
        )
    }

    /// Fails where a file is not the one that it was.
    ///
    /// # Errors
    /// Names the file.
    pub fn check(&self) -> Result<()> {
        for (path, before) in &self.0 {
            if stamp(path)? != *before {
                return Err(Error::input("it changed while it was read")
                    .at(Place::File(path.clone()))
                    .help("compile again when nothing writes to it"));
            }
        }
        Ok(())
    }
}

fn stamp(path: &Path) -> Result<Stamp> {
    let data = std::fs::metadata(path).map_err(|error| Error::io("read", path, &error))?;
    Ok((data.len(), data.modified().ok(), data.ino()))
}

fn entries(all: &[Input], every: bool) -> Result<Vec<InputEntry>> {
    let lengths: Vec<u64> = all.iter().map(|input| length(&input.path)).collect::<Result<_>>()?;
    let is_hashed = |bytes: u64| every || bytes <= ALWAYS;
    let paths: Vec<PathBuf> = all
        .iter()
        .zip(&lengths)
        .filter(|(_, bytes)| is_hashed(**bytes))
        .map(|(input, _)| input.path.clone())
        .collect();
    let mut hashed = digests(&paths)?.into_iter();
    let entry = |(Input { name, role, .. }, bytes): (&Input, u64)| InputEntry {
        path: name.clone(),
        role: role.to_string(),
        bytes,
        sha256: if is_hashed(bytes) { hashed.next() } else { None },
    };
    Ok(all.iter().zip(lengths).map(entry).collect())
}

/// The licence that a pipeline's folder states: `license` in the front matter of its README.md or in model_index.json, else the first line
/// of a licence file.
fn licence(pipeline: &Pipeline) -> Option<LicenceEntry> {
    let folder = pipeline.folder();
    let found = |name: &str, file: &str| LicenceEntry { name: name.to_string(), file: file.to_string() };
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
    if let Some(name) = read("README.md").as_deref().and_then(front_matter) {
        return Some(found(&name, "README.md"));
    }
    let index = pipeline.json("model_index.json").ok();
    if let Some(name) = index.as_ref().and_then(|index| index.get("license")?.as_str()) {
        return Some(found(name, "model_index.json"));
    }
    ["LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "COPYING"].into_iter().find_map(|file| {
        let text = read(file)?;
        let line = text.lines().map(|line| line.trim_matches(['#', ' '])).find(|line| !line.is_empty())?;
        Some(found(line, file))
    })
}

/// The `license` of a model card's front matter; a `license_name` says more than `other`.
fn front_matter(text: &str) -> Option<String> {
    let lines: Vec<&str> =
        text.strip_prefix("---")?.lines().skip(1).take_while(|line| *line != "---").collect();
    let field = |key: &str| {
        let value = lines.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(value.trim().trim_matches(['"', '\'']).to_string()).filter(|value| !value.is_empty())
    };
    let licence = field("license");
    if licence.as_deref() == Some("other") { field("license_name").or(licence) } else { licence }
}
