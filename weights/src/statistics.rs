use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use snapc_ir::{Error, Place, Result};

use crate::store::Store;

/// Second moments of the inputs of a linear.
#[derive(Clone, Debug, PartialEq)]
pub enum Moments {
    /// `[in]`: the mean square of each channel.
    Channels(Vec<f32>),
    /// `[in, in]`: the mean product of each two channels.
    Full(Vec<f32>),
}

impl Moments {
    /// The mean square of each channel.
    pub fn channels(&self) -> Vec<f32> {
        match self {
            Moments::Channels(values) => values.clone(),
            Moments::Full(values) => {
                let size = values.len().isqrt();
                values.iter().step_by(size + 1).copied().collect()
            }
        }
    }
}

/// What was measured of the inputs that the weights of one part are multiplied with: a safetensors file whose tensors are named
/// `PART/KIND/WEIGHT`. It is read as it is asked for.
#[derive(Clone, Debug)]
pub struct Statistics {
    store: Arc<Store>,
    part: String,
    /// `PART/WEIGHT` to the one under whose name the inputs that both have are measured.
    shares: Arc<BTreeMap<String, String>>,
}

impl Statistics {
    /// The kinds of tensors: the largest |x| of a layer's inputs and of its results, `[1]`; a linear's second moments by channel
    /// and in full.
    pub const KINDS: [&str; 4] = ["largest", "result", "moments", "products"];

    /// Those of one part, in an open file. `shares` tells for `PART/WEIGHT` which other one has the same inputs, where they are measured
    /// once.
    pub fn new(store: Arc<Store>, part: &str, shares: Arc<BTreeMap<String, String>>) -> Self {
        Statistics { store, part: part.to_string(), shares }
    }

    /// The name of a tensor in the file.
    pub fn key(part: &str, kind: &str, weight: &str) -> String {
        format!("{part}/{kind}/{weight}")
    }

    fn numbers(&self, kind: &str, weight: &str) -> Result<Option<Vec<f32>>> {
        let own = format!("{}/{weight}", self.part);
        let measured = self.shares.get(&own).filter(|_| kind != "result");
        let weight = measured.and_then(|first| first.split_once('/')).map_or(weight, |(_, first)| first);
        let key = Self::key(&self.part, kind, weight);
        if self.store.region(&key).is_none() {
            return Ok(None);
        }
        let values = self.store.tensor(&key)?.values().to_vec();
        match values.iter().find(|value| !value.is_finite() || **value < 0.0 && kind != "products") {
            Some(value) => Err(Error::input(format!("{value} cannot be measured"))
                .at(Place::Tensor(key))
                .at(self.place())),
            None => Ok(Some(values)),
        }
    }

    fn place(&self) -> Place {
        Place::File(self.store.files().next().unwrap_or(Path::new("")).to_path_buf())
    }

    /// Second moments of what a weight is multiplied with, the fullest that the file has.
    ///
    /// # Errors
    /// If the file has none, others than for `inputs` channels, or cannot be read.
    pub fn moments(&self, weight: &str, inputs: usize) -> Result<Moments> {
        let (moments, count) = match self.numbers("products", weight)? {
            Some(values) => (Moments::Full(values), inputs.saturating_mul(inputs)),
            None => (Moments::Channels(self.numbers("moments", weight)?.unwrap_or_default()), inputs),
        };
        let (Moments::Full(values) | Moments::Channels(values)) = &moments;
        if values.len() == count {
            return Ok(moments);
        }
        let found = if values.is_empty() { "none".to_string() } else { format!("{} numbers", values.len()) };
        Err(Error::input(format!("no second moments of {inputs} input channels: the file has {found}"))
            .at(Place::Tensor(weight.to_string()))
            .at(self.place())
            .help("calibrate again, with this checkpoint and this subnet"))
    }

    /// The weights of the part that were measured.
    pub fn weights(&self) -> Vec<String> {
        let start = Self::key(&self.part, "result", "");
        self.store.names().filter_map(|name| name.strip_prefix(&start)).map(str::to_string).collect()
    }

    /// The largest |x| of what a weight is multiplied with, and of what comes of it.
    ///
    /// # Errors
    /// If the file has none or cannot be read.
    pub fn largest(&self, weight: &str) -> Result<[f32; 2]> {
        let one = |kind| match self.numbers(kind, weight)?.as_deref() {
            Some([value]) => Ok(*value),
            _ => Err(Error::input("the file does not say how large its inputs and results become")
                .at(Place::Tensor(weight.to_string()))
                .at(self.place())
                .help("calibrate again, with this checkpoint and this subnet")),
        };
        Ok([one("largest")?, one("result")?])
    }
}
