use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use snapc_ir::{Error, Place, Result};
use snapc_weights::{Statistics, Store};

/// The one key of the metadata of files that `calibrate` writes: the crate keeps several in no order. A JSON object stands there.
pub const METADATA: &str = "snapc";

/// The object's key under which a calibration's facts stand.
pub const FACTS: &str = "calibration";

/// The object's key of which layer has which other one's input.
pub const SHARES: &str = "shares";

/// The object's key of a shard's header.
pub const SHARD: &str = "shard";

/// What a calibration was measured with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Version of this form.
    pub schema: u32,
    /// The transformer's width.
    pub width: usize,
    /// Rows and columns of the latent.
    pub latent: [usize; 2],
    /// The noise levels.
    pub sigmas: Vec<f32>,
    /// Guidance, where the prompts were drawn with it.
    pub guidance: Option<f32>,
    /// `channels` or `full`.
    pub moments: String,
    /// How many prompts in all.
    pub prompts: usize,
    /// A hash of the prompts.
    pub prompts_digest: String,
    /// For each part that was measured the fingerprint of its checkpoint.
    pub checkpoints: BTreeMap<String, String>,
}

impl Facts {
    /// Whether a part was measured.
    pub fn has(&self, part: &str) -> bool {
        self.checkpoints.contains_key(part)
    }
}

/// A file that `calibrate` wrote.
#[derive(Clone, Debug)]
pub struct CalibrationFile {
    path: PathBuf,
    /// What it was measured with.
    pub facts: Facts,
    store: Arc<Store>,
    shares: Arc<BTreeMap<String, String>>,
}

impl CalibrationFile {
    /// Opens it.
    ///
    /// # Errors
    /// If it is damaged, or was not written by `calibrate`.
    pub fn open(path: &Path) -> Result<Self> {
        let store = Store::open(&[path.to_path_buf()])?;
        let text = Store::metadata(path)?.remove(METADATA).unwrap_or_default();
        let mut entries: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(&text).unwrap_or_default();
        let wrong = |message: String| {
            Error::input(message)
                .at(Place::File(path.to_path_buf()))
                .help("`snapc calibrate` writes such a file")
        };
        let (Some(facts), Some(shares)) = (entries.remove(FACTS), entries.remove(SHARES)) else {
            let shard = "; the files of shards have to be merged first, by `snapc calibrate --merge`";
            let what = if entries.contains_key(SHARD) { shard } else { "" };
            return Err(wrong(format!("this is no calibration{what}")));
        };
        let damaged = |error| wrong(format!("this is no calibration: {error}"));
        let facts: Facts = serde_json::from_value(facts).map_err(damaged)?;
        let shares = serde_json::from_value(shares).map_err(damaged)?;
        Ok(CalibrationFile {
            path: path.to_path_buf(),
            facts,
            store: Arc::new(store),
            shares: Arc::new(shares),
        })
    }

    /// What was measured of a part.
    pub fn statistics(&self, part: &str) -> Statistics {
        Statistics::new(self.store.clone(), part, self.shares.clone())
    }

    /// For each layer of a part that was measured the largest |x| of its inputs and of its results.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn largest(&self, part: &str) -> Result<BTreeMap<String, [f32; 2]>> {
        let statistics = self.statistics(part);
        let weights = statistics.weights();
        weights
            .into_iter()
            .map(|weight| statistics.largest(&weight).map(|largest| (weight, largest)))
            .collect()
    }

    /// Checks that a part was measured with this checkpoint.
    ///
    /// # Errors
    /// If it was another one.
    pub fn check(&self, part: &str, store: &Store) -> Result<()> {
        let (found, expected) = (store.fingerprint()?, self.facts.checkpoints.get(part));
        if expected == Some(&found) {
            return Ok(());
        }
        let expected = expected.map_or("nothing", |digest| &digest[..12.min(digest.len())]);
        let message = format!(
            "the calibration was measured with another {part}: its checkpoint is {expected}.., this one {}..",
            &found[..12]
        );
        Err(Error::input(message)
            .at(Place::File(self.path.clone()))
            .help("calibrate again with this pipeline"))
    }
}
