//! What snapc does, as functions: each command of the binary calls one.

mod baking;
pub mod bundle;
mod companions;
mod compile;
mod diff;
mod elastic;
mod examples;
mod files;
mod generate;
mod inputs;
mod inspect;
mod manifest;
mod options;
mod output;
mod parts;
mod project;
mod provenance;
mod quantization;
mod ranges;
mod runtime;
mod show;
mod targets;
mod verify;
mod walk;

pub use bundle::{
    BundleConfig, BundleManifest, BundleOptions, Bundled, Delivery, DeviceConfig, ElasticEntry, PackEntry,
    Platform, SharedEntry, SubnetEntry, bundle,
    devices::DeviceEntry,
    stores::{Standing, StoreEntry},
    view::is_bundle,
};
pub use compile::{Compiled, PartPlan, Passed, Plan, UseEntry, Why, compile, plan};
pub use diff::{Change, Differences, diff};
pub use elastic::{AssembleOptions, Assembled, Elastic, ElasticSubnet, assemble, store as elastic_store};
pub use files::FileEntry;
pub use generate::{GenerateOptions, Generated, generate, picture};
pub use inputs::{InputEntry, LicenceEntry};
pub use inspect::{Inspection, PartSummary, TensorSummary, inspect};
pub use manifest::{
    Manifest, MemoryEntry, OptionsEntry, PartEntry, PortEntry, ScheduleEntry, TokenizerEntry, VerifiedEntry,
};
pub use options::{Bake, CompileOptions, Ranges, Width, parse_part, parse_size};
pub use parts::{Choice, Parts, is_compiled};
pub use project::Project;
pub use quantization::Strip;
pub use quantization::accuracy::{LayerLoss, PictureLoss, StepLoss, measure as measure_accuracy};
pub use quantization::budget::{Given, Price, knapsack, parse_bytes};
pub use quantization::calibrate::{CalibrateOptions, Calibrated, MomentsKind, calibrate, merge, parse_shard};
pub use quantization::{Accuracy, Budget, CalibrationFile, MaxLoss, QuantizeOptions, Recipe, When};
pub use ranges::{NodeRange, PartRanges};
pub use show::{Form, ShowOptions, show};
pub use snapc_backend::{Device, Explanation};
pub use snapc_coreml::MinOs;
pub use snapc_frontends::Part;
pub use snapc_ir::{Code, Encoding, Method};
use snapc_ir::{Error, Result};
pub use snapc_onnx::Layout;
pub use snapc_passes::quantize::Choice as QuantizeChoice;
pub use snapc_passes::{NAMES as PASS_NAMES, Precision};
pub use targets::Target;
pub use verify::{Row, Thresholds, Verified, VerifyOptions, verify};

/// Sets the threads that all work is spread over; call it before any. Without it there are as many as processors.
///
/// # Errors
/// If there are none, or work has begun.
pub fn use_threads(count: usize) -> Result<()> {
    if count == 0 {
        return Err(Error::usage("0 jobs do no work").help("name 1 or more, or leave --jobs out"));
    }
    rayon::ThreadPoolBuilder::new().num_threads(count).build_global().map_err(Error::thread)
}

/// What a command tells while it works.
pub trait Report: Send {
    /// A piece of work begins that will pass `total` units (bytes, steps).
    fn begin(&mut self, what: &str, total: u64);
    /// That many units are done since the last call.
    fn advance(&mut self, units: u64);
    /// Something that the user should know and that stops nothing.
    fn warn(&mut self, message: &str);
}

/// A report that says nothing.
pub struct Silent;

impl Report for Silent {
    fn begin(&mut self, _what: &str, _total: u64) {}
    fn advance(&mut self, _units: u64) {}
    fn warn(&mut self, _message: &str) {}
}
