//! Is what was written still the same model? Each artifact is read back, interpreted, and held against the pipeline in f32.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use snapc_frontends::Part;
use snapc_ir::{Class, Error, Place, Result};
use snapc_weights::Tensor;

use crate::Report;
use crate::bundle::view::{assemble, is_bundle};
use crate::bundle::{BUNDLE, BundleManifest};
use crate::examples::{Example, borrowed, draw, prompts};
use crate::files::{self, Listed, MANIFEST, PROVENANCE};
use crate::manifest::{Manifest, VerifiedEntry, sized};
use crate::output::write_file;
use crate::parts::{Network, Parts, read_artifact};
use crate::provenance;
use crate::quantization::accuracy::{measure, psnr};
use crate::quantization::{Accuracy, MaxLoss};
use crate::runtime;

/// What an artifact must keep to: each part its relative error, the picture its PSNR.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Largest relative error (2-norm) of a part's output.
    pub relative: f64,
    /// Smallest PSNR of the final picture, in dB.
    pub psnr: f64,
}

impl Thresholds {
    /// The thresholds of a precision: f32 artifacts compute the same, f16 ones round.
    pub fn of(precision: &str) -> Self {
        match precision {
            "f32" => Thresholds { relative: 1e-4, psnr: 60.0 },
            _ => Thresholds { relative: 2e-2, psnr: 40.0 },
        }
    }

    /// Those of a part: one that is not quantized loses no more than others.
    fn of_part(self, manifest: &Manifest, part: Part) -> Self {
        let coded = manifest.options.quantized.iter().any(|name| name == part.name());
        if coded { self } else { Thresholds::of(&manifest.options.precision) }
    }

    /// The thresholds of a folder. What is quantized has to keep to what its compile measured; the margins are those of a runtime that
    /// rounds activations to 8 bits. Where nothing was measured, what is no noise passes, and `--max-loss` decides.
    fn of_folder(manifest: &Manifest, prompts: usize) -> Self {
        let plain = Thresholds::of(&manifest.options.precision);
        let Some(accuracy) = &manifest.accuracy else {
            let coded = !manifest.options.quantized.is_empty();
            return if coded { Thresholds { relative: 0.5, psnr: 15.0 } } else { plain };
        };
        let relative = accuracy.steps.iter().map(|loss| loss.relative).fold(0.0, f64::max);
        let psnr =
            accuracy.pictures.iter().take(prompts).map(|picture| picture.psnr).fold(plain.psnr, f64::min);
        let hundredths = |number: f64| (100.0 * number).round() / 100.0;
        let relative = plain.relative.max(hundredths(1.05 * relative + 2e-2));
        Thresholds { relative, psnr: plain.psnr.min(hundredths(psnr - 1.0)) }
    }
}

/// What `verify` is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyOptions {
    /// A folder that `compile` wrote, or one above several.
    pub dist: PathBuf,
    /// The pipeline that it was written from.
    pub pipeline: PathBuf,
    /// A Python that has the targets' runtimes, to run the artifacts there too.
    pub runtime: Option<PathBuf>,
    /// How many prompts.
    pub prompts: usize,
    /// Bounds of what is lost, beside the thresholds.
    pub max_loss: Vec<MaxLoss>,
    /// Whether the table of a folder that passes is written into its manifest.
    pub record: bool,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The part, or `picture` for prompt to picture; with the size where there are several.
    pub part: String,
    /// `interpreted`, or the runtime's name.
    pub run_by: String,
    /// Largest difference of a number.
    pub max_abs: f64,
    /// Relative error in the 2-norm: the worst of all prompts and steps.
    pub relative: f64,
    /// PSNR of the picture, in dB; the worst of all prompts.
    pub psnr: Option<f64>,
    /// Whether the thresholds are kept.
    pub passed: bool,
}

/// What was found of one folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verified {
    /// The folder.
    pub folder: PathBuf,
    /// Its precision.
    pub precision: String,
    /// What it must keep to.
    pub thresholds: Thresholds,
    /// The table.
    pub rows: Vec<Row>,
    /// What was lost, where weights are quantized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Accuracy>,
    /// Whether all of it passed.
    pub passed: bool,
}

/// The error of a row so far.
#[derive(Clone, Copy, Default)]
struct Worst {
    max_abs: f64,
    relative: f64,
    psnr: Option<f64>,
}

impl Worst {
    fn add(&mut self, found: &Tensor, expected: &Tensor) -> Result<()> {
        if found.ty.shape != expected.ty.shape {
            return Err(Error::new(
                Class::Verification,
                format!("the artifact gives {}, the pipeline {}", found.ty, expected.ty),
            ));
        }
        let pairs =
            || found.values().iter().zip(expected.values()).map(|(f, e)| (f64::from(*f), f64::from(*e)));
        let square: f64 = pairs().map(|(f, e)| (f - e) * (f - e)).sum();
        let norm: f64 = pairs().map(|(_, e)| e * e).sum();
        let relative = if norm == 0.0 { square.sqrt() } else { (square / norm).sqrt() };
        // A NaN must fail every bound: `max` would lose it.
        let worse = |old: f64, new: f64| if new.is_nan() || new > old { new } else { old };
        self.relative = worse(self.relative, relative);
        self.max_abs = pairs().fold(self.max_abs, |largest, (f, e)| worse(largest, (f - e).abs()));
        Ok(())
    }

    fn add_picture(&mut self, found: &Tensor, expected: &Tensor) {
        let psnr = psnr(found, expected);
        self.psnr = Some(match self.psnr {
            Some(old) if old < psnr => old,
            _ => psnr,
        });
    }

    fn row(self, part: &str, run_by: &str, thresholds: Thresholds) -> Row {
        let Worst { max_abs, relative, psnr } = self;
        // Four steps carry a part's error on: a picture is judged by its PSNR alone.
        let passed = match psnr {
            Some(psnr) => psnr >= thresholds.psnr,
            None => relative <= thresholds.relative,
        };
        Row { part: part.to_string(), run_by: run_by.to_string(), max_abs, relative, psnr, passed }
    }
}

/// Holds every folder that `compile` wrote at or below `dist` against its manifest, file by file, then against the pipeline.
///
/// # Errors
/// If a file is not what its manifest says; if a folder, the pipeline or a runtime is missing or damaged. A difference past a threshold is no error here: it is in the table.
pub fn verify(options: &VerifyOptions, report: &mut dyn Report) -> Result<Vec<Verified>> {
    let folders = written_folders(&options.dist)?;
    let listed = |folder: &PathBuf| match is_bundle(folder) {
        true => BundleManifest::read(folder).map(|bundle| Listed {
            folder: folder.clone(),
            index: BUNDLE,
            files: bundle.files(),
        }),
        false => Listed::compiled(folder),
    };
    files::check(&folders.iter().map(listed).collect::<Result<Vec<_>>>()?)?;
    report.begin("verify", folders.len() as u64);
    let mut all = Vec::new();
    for folder in folders {
        match is_bundle(&folder) {
            true => all.extend(verify_bundle(&folder, options, report)?),
            false => all.push(verify_folder(&folder, options, report)?),
        }
        report.advance(1);
    }
    Ok(all)
}

/// Each network of a bundle, with what it shares, as the folder that was compiled.
fn verify_bundle(root: &Path, options: &VerifyOptions, report: &mut dyn Report) -> Result<Vec<Verified>> {
    if options.record {
        return Err(Error::usage(
            "a bundle's manifests have their digests in bundle.json: nothing is recorded there",
        )
        .at(Place::File(root.to_path_buf()))
        .help("leave --record out"));
    }
    let bundle = BundleManifest::read(root)?;
    let mut all = Vec::new();
    for subnet in &bundle.subnets {
        let view = assemble(root, &bundle, subnet)?;
        files::check(&[Listed::compiled(view.path())?])?;
        let folder = root.join(&subnet.folder);
        let found = verify_folder(view.path(), options, report)
            .map_err(|error| error.at(Place::File(folder.clone())))?;
        all.push(Verified { folder, ..found });
    }
    Ok(all)
}

/// The folders with a manifest of a compile or a bundle, at most two below.
fn written_folders(dist: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut level = vec![dist.to_path_buf()];
    for _ in 0..3 {
        let mut below = Vec::new();
        for folder in level {
            if folder.join(MANIFEST).is_file() || is_bundle(&folder) {
                found.push(folder);
                continue;
            }
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            below.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
        }
        level = below;
    }
    found.sort();
    if found.is_empty() {
        return Err(Error::input(format!("there is no manifest.json at or below {}", dist.display()))
            .help("name a folder that `snapc compile` wrote"));
    }
    Ok(found)
}

fn verify_folder(folder: &Path, options: &VerifyOptions, report: &mut dyn Report) -> Result<Verified> {
    let manifest = Manifest::read(folder)?;
    let mut rows: Vec<Row> = Vec::new();
    for size in manifest.sizes() {
        // No size changes the text encoder: the rows of the first one are those of all.
        let found = verify_size(folder, &manifest, size, options)?;
        let known = |new: &Row| rows.iter().any(|old| (&old.part, &old.run_by) == (&new.part, &new.run_by));
        let new: Vec<Row> = found.into_iter().filter(|row| !known(row)).collect();
        rows.extend(new);
    }
    let passed = rows.iter().all(|row| row.passed);
    let thresholds = Thresholds::of_folder(&manifest, options.prompts);
    let mut accuracy = None;
    if !manifest.options.quantized.is_empty() || !options.max_loss.is_empty() {
        let measured = measure(folder, &options.pipeline, true, Some(options.prompts), report)?;
        accuracy = measured.map(|(accuracy, _)| accuracy);
    }
    if let Some(accuracy) = &accuracy {
        accuracy.check(&options.max_loss).map_err(|error| error.at(Place::File(folder.to_path_buf())))?;
    }
    if options.record && passed {
        record(
            folder,
            &manifest,
            VerifiedEntry { prompts: options.prompts, thresholds, rows: rows.clone() },
        )?;
    }
    let precision = manifest.options.precision;
    Ok(Verified { folder: folder.to_path_buf(), precision, thresholds, rows, accuracy, passed })
}

/// Writes what was found into the manifest, and the manifest's new digest into a statement about it.
fn record(folder: &Path, manifest: &Manifest, found: VerifiedEntry) -> Result<()> {
    let manifest = Manifest { verified: Some(found), ..manifest.clone() };
    write_file(&folder.join(MANIFEST), manifest.text()?.as_bytes())?;
    if folder.join(PROVENANCE).is_file() { provenance::write(folder, &manifest) } else { Ok(()) }
}

/// The table of the parts for pictures of one size.
fn verify_size(
    folder: &Path,
    manifest: &Manifest,
    size: [usize; 2],
    options: &VerifyOptions,
) -> Result<Vec<Row>> {
    let thresholds = Thresholds::of_folder(manifest, options.prompts);
    // What the manifest asks for was no word of the call.
    let reference =
        Parts::reference(&options.pipeline, manifest, size).map_err(|error| match error.class() {
            Class::Usage => error.as_class(Class::Input).at(Place::File(folder.join(MANIFEST))),
            _ => error,
        })?;
    if reference.width != manifest.options.width || reference.schedule.sigmas != manifest.schedule.sigmas {
        return Err(Error::input("the folder was written from another pipeline: width or sigmas differ")
            .at(Place::File(folder.to_path_buf()))
            .help("name the pipeline that it was compiled from with --pipeline"));
    }
    let bake = manifest.bake().map_err(|error| error.at(Place::File(folder.to_path_buf())))?;
    let guidance = manifest.options.guidance;
    let prompts = prompts(&options.pipeline, options.prompts)?;
    let mut examples: Vec<(Part, Example)> = Vec::new();
    let mut pictures = Vec::new();
    for (seed, prompt) in prompts.iter().enumerate() {
        pictures.push(draw(&reference, prompt, guidance, seed as u64, bake, &mut examples)?);
    }
    let mut rows = Vec::new();
    let mut networks = Vec::new();
    for part in Part::ALL {
        if let Some(network) = read_artifact(folder, manifest, part, size)? {
            let mut worst = Worst::default();
            let runner = network.runner();
            for (_, example) in examples.iter().filter(|(of, _)| *of == part) {
                worst.add(&runner.run(&borrowed(&example.inputs))?, &example.output)?;
            }
            let thresholds = thresholds.of_part(manifest, part);
            rows.push(worst.row(&row_name(manifest, part.name(), size), "interpreted", thresholds));
            networks.push(network);
        }
    }
    if let Ok([text_encoder, transformer, vae_decoder]) = <[Network; 3]>::try_from(networks) {
        let written = Parts { text_encoder, transformer, vae_decoder, bake, guidance, ..reference };
        let mut worst = Worst::default();
        for (seed, (prompt, expected)) in prompts.iter().zip(&pictures).enumerate() {
            let found = draw(&written, prompt, guidance, seed as u64, bake, &mut Vec::new())?;
            worst.add(&found.image, &expected.image)?;
            worst.add_picture(&found.image, &expected.image);
        }
        rows.push(worst.row(&row_name(manifest, "picture", size), "interpreted", thresholds));
    }
    if let Some(python) = &options.runtime {
        rows.extend(in_runtime(folder, manifest, size, python, &examples, thresholds)?);
    }
    Ok(rows)
}

fn row_name(manifest: &Manifest, part: &str, size: [usize; 2]) -> String {
    let one = part == Part::TextEncoder.name() || manifest.sizes().len() == 1;
    sized(part, (!one).then_some(size))
}

fn in_runtime(
    folder: &Path,
    manifest: &Manifest,
    size: [usize; 2],
    python: &Path,
    examples: &[(Part, Example)],
    thresholds: Thresholds,
) -> Result<Vec<Row>> {
    if manifest.options.latent_divisor.is_some() {
        return Err(Error::usage("the optimum layout has other inputs than snapc's own")
            .at(Place::File(folder.to_path_buf()))
            .help("verify it without --runtime, or compile with --layout default"));
    }
    let target = manifest.target()?;
    let mut jobs = Vec::new();
    for (part, example) in examples {
        if let Some(entry) = manifest.part(*part, size) {
            jobs.push((*part, folder.join(&entry.artifact), entry.signature.as_deref(), example));
        }
    }
    let runs: Vec<runtime::Run> = jobs
        .iter()
        .map(|(_, artifact, signature, example)| runtime::Run {
            artifact,
            signature: *signature,
            inputs: borrowed(&example.inputs),
        })
        .collect();
    let outputs = runtime::run(target, python, &runs)?;
    let mut rows = Vec::new();
    for part in Part::ALL {
        let mut worst = Worst::default();
        let mine: Vec<_> = jobs.iter().zip(&outputs).filter(|((of, ..), _)| *of == part).collect();
        for ((.., example), output) in &mine {
            worst.add(output, &example.output)?;
        }
        if !mine.is_empty() {
            let thresholds = thresholds.of_part(manifest, part);
            rows.push(worst.row(&row_name(manifest, part.name(), size), runtime::name(target), thresholds));
        }
    }
    Ok(rows)
}
