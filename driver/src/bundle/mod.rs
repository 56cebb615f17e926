//! Bundles: what an app of a platform ships. Several networks with what they share stored once, and sources that load and run them.

pub mod config;
pub mod devices;
mod elastic;
pub mod entry;
mod layout;
mod sources;
pub mod stores;
pub mod text;
pub mod tokenizer;
pub mod view;

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snapc_frontends::Pipeline;
use snapc_ir::{Error, Result};
use snapc_onnx::Layout;

use crate::Report;
use crate::compile::{Compiled, compile};
use crate::files::FileEntry;
use crate::manifest::Manifest;
use crate::options::{Bake, CompileOptions, Width};
use crate::output::Staging;
use crate::targets::Target;

pub use config::{BundleConfig, Delivery, DeviceConfig};
pub use entry::{BUNDLE, BUNDLE_SCHEMA, BundleManifest, ElasticEntry, PackEntry, SharedEntry, SubnetEntry};

use config::{Names, check_labels};
use layout::{Places, lay_out};
use sources::Sources;
use stores::{Sized, Sizes};
use tokenizer::Settings;

/// What runs a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// A SwiftPM package for Core ML.
    Ios,
    /// Asset packs and Kotlin for LiteRT.
    Android,
    /// ONNX folders and Python.
    Desktop,
}

impl Platform {
    /// All of them.
    pub const ALL: [Platform; 3] = [Platform::Ios, Platform::Android, Platform::Desktop];

    /// The word of the option, and the name of the output folder.
    pub fn name(self) -> &'static str {
        match self {
            Platform::Ios => "ios",
            Platform::Android => "android",
            Platform::Desktop => "desktop",
        }
    }

    /// The format of its models.
    pub fn target(self) -> Target {
        match self {
            Platform::Ios => Target::CoreMl,
            Platform::Android => Target::TfLite,
            Platform::Desktop => Target::Onnx,
        }
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let names = || Platform::ALL.map(Platform::name).join(", ");
        Platform::ALL
            .into_iter()
            .find(|platform| platform.name() == text)
            .ok_or_else(|| format!("`{text}` is no platform; the platforms are {}", names()))
    }
}

/// What `bundle` is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct BundleOptions {
    /// The platform.
    pub platform: Platform,
    /// The `[bundle]` table.
    pub config: BundleConfig,
    /// Whether the networks go into an elastic store, and the most bytes that a chunk of it has.
    pub elastic: Option<u64>,
    /// How the networks are compiled, and which. `output` is where the bundle stands; targets, parts and layout are the bundle's to say.
    pub compile: CompileOptions,
}

/// A bundle that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundled {
    /// Where it stands.
    pub folder: PathBuf,
    /// What is in it.
    pub bundle: BundleManifest,
}

/// Chunks below this would only be many.
const LEAST_CHUNK: u64 = 100_000;

/// Where compiles lie in a bundle under construction.
const COMPILED: &str = "compiled";

/// Compiles the networks, lays them out, writes the sources. The folder appears when all of it is there.
///
/// # Errors
/// What a compile finds; a configuration that contradicts itself; a tokenizer that the sources have not; a store's limit.
pub fn bundle(options: &BundleOptions, report: &mut dyn Report) -> Result<Bundled> {
    let BundleOptions { platform, config, elastic, compile: asked } = options;
    if elastic.is_some_and(|bytes| bytes < LEAST_CHUNK) {
        return Err(Error::usage(format!("a chunk of an elastic store has at least {LEAST_CHUNK} bytes"))
            .help("name a larger --chunk-size, as 256MB"));
    }
    let pipeline = Pipeline::open(&asked.pipeline)?;
    let networks = networks(&asked.widths, &pipeline)?;
    let labels: Vec<String> = networks.iter().map(Width::label).collect();
    check_labels(labels.iter().map(String::as_str))?;
    let configured = devices::configured(config, &labels)?;
    let share = devices::share(config)?;
    let names = Names::new(config, &folder_name(&pipeline))?;
    let tokenizer = match platform {
        Platform::Desktop => None,
        Platform::Ios | Platform::Android => Some(Settings::read(pipeline.folder(), pipeline.text_tokens())?),
    };
    let staging = Staging::begin(&asked.output)?;
    let inner = CompileOptions {
        // The widest first: what is shared is measured on its pictures.
        widths: networks.iter().rev().cloned().collect(),
        output: staging.path().join(COMPILED),
        ..compile_options(*platform, asked)?
    };
    let mut compiled = compile(&inner, report)?;
    compiled.reverse();
    let places = Places {
        platform: *platform,
        names: &names,
        delivery: config.delivery,
        // What is assembled on a device lies in no pack.
        first: elastic.is_none().then(|| labels[0].clone()),
    };
    let (shared, subnets) = lay_out(&places, &compiled, staging.path())?;
    let rest = staging.path().join(COMPILED);
    std::fs::remove_dir_all(&rest).map_err(|error| Error::io("remove", &rest, &error))?;
    let peaks: Vec<(String, u64)> = subnets.iter().map(|one| (one.name.clone(), one.peak_bytes)).collect();
    let devices = if configured.is_empty() { devices::by_memory(&peaks, share) } else { configured };
    let shipped = if elastic.is_none() { &subnets[..] } else { &[] };
    let stores = stores::verdicts(*platform, &sizes(&shared, shipped));
    stores::check(&stores)?.iter().for_each(|warning| report.warn(warning));
    let manifests: Vec<&Manifest> = compiled.iter().map(|one: &Compiled| &one.manifest).collect();
    let sources = Sources {
        platform: *platform,
        names: &names,
        manifests: &manifests,
        shared: &shared,
        subnets: &subnets,
        devices: &devices,
        tokenizer: tokenizer.as_ref(),
        min_os: asked.min_os,
    };
    let mut written = Vec::new();
    for (path, text) in sources.files()? {
        staging.write(&path, text.as_bytes())?;
        let (bytes, sha256) = (text.len() as u64, crate::files::digest_of(text.as_bytes()));
        written.push(FileEntry { path, bytes, sha256 });
    }
    let elastic = match elastic {
        Some(chunk_bytes) => Some(elastic::store_networks(&staging, &subnets, *chunk_bytes, report)?),
        None => None,
    };
    let bundle = BundleManifest {
        schema: BUNDLE_SCHEMA,
        snapc: env!("CARGO_PKG_VERSION").to_string(),
        platform: platform.name().to_string(),
        name: names.class.clone(),
        shared,
        subnets,
        elastic,
        devices,
        sources: written,
        stores,
    };
    staging.write(BUNDLE, bundle.text()?.as_bytes())?;
    Ok(Bundled { folder: staging.finish()?, bundle })
}

/// The options of the compile inside.
fn compile_options(platform: Platform, asked: &CompileOptions) -> Result<CompileOptions> {
    let bake = asked.bake.unwrap_or(Bake::Step);
    if bake == Bake::None {
        return Err(Error::usage("a bundle's sources run baked steps, and `none` bakes none")
            .help("leave --bake out, or write step or unrolled (`bake` in snapc.toml counts too)"));
    }
    Ok(CompileOptions {
        targets: vec![platform.target()],
        parts: Vec::new(),
        one_file: false,
        layout: Layout::Default,
        bake: Some(bake),
        share: true,
        ..asked.clone()
    })
}

/// The networks, each once, the smallest first.
fn networks(widths: &[Width], pipeline: &Pipeline) -> Result<Vec<Width>> {
    let mut all: Vec<(usize, Width)> = Vec::new();
    for width in widths {
        let wide = width.resolve(pipeline)?;
        if !all.iter().any(|(_, own)| own == width) {
            all.push((wide, width.clone()));
        }
    }
    if all.is_empty() {
        all = pipeline.subnets().into_iter().map(|(name, wide)| (wide, Width::Subnet(name))).collect();
    }
    all.sort_by_key(|(wide, width)| (*wide, width.label()));
    Ok(all.into_iter().map(|(_, width)| width).collect())
}

fn folder_name(pipeline: &Pipeline) -> String {
    let whole = pipeline.folder().canonicalize();
    let name = whole.ok().and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()));
    name.unwrap_or_default()
}

/// Bytes of some files.
fn size(files: &[FileEntry]) -> u64 {
    files.iter().map(|file| file.bytes).sum()
}

/// What the stores count.
fn sizes(shared: &SharedEntry, subnets: &[SubnetEntry]) -> Sizes {
    let all = std::iter::once((&shared.folder, &shared.pack, shared.bytes))
        .chain(subnets.iter().map(|one| (&one.folder, &one.pack, one.bytes)));
    let mut packs: Vec<(Sized, Delivery)> = Vec::new();
    for (folder, pack, bytes) in all {
        // A folder without a pack comes with the app.
        let (name, delivery) = match pack {
            Some(pack) => (pack.name.clone(), pack.delivery),
            None => (folder.clone(), Delivery::InstallTime),
        };
        match packs.iter_mut().find(|(known, _)| known.name == name) {
            Some((known, _)) => known.bytes += bytes,
            None => packs.push((Sized { name, bytes }, delivery)),
        }
    }
    let files = shared.files.iter().chain(subnets.iter().flat_map(|one| &one.files));
    let files = files.map(|file| Sized { name: file.path.clone(), bytes: file.bytes }).collect();
    Sizes { packs, files, base: 0 }
}
