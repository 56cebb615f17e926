//! Sums of a calibration under way. They are added up in fixed point, so that no order of prompts and no division into shards changes
//! them.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use snapc_interp::products;
use snapc_ir::{Error, Place, Result};

use super::file::{FACTS, Facts, METADATA, SHARD, SHARES};
use crate::Report;
use crate::output::write_file;

/// Fixed point: numbers times this.
const ONE: f64 = (1u128 << 64) as f64;

/// Means are below this: 2^62 of them can be added.
const MOST: f64 = 1e18;

/// What one prompt gave, over all its runs.
#[derive(Default)]
pub struct Measured {
    sums: Vec<f64>,
    rows: usize,
    largest: f32,
}

impl Measured {
    /// The largest |x|.
    pub fn largest(&mut self, values: &[f32]) {
        self.largest = values.iter().fold(self.largest, |largest, value| largest.max(value.abs()));
        self.rows = self.rows.max(1);
    }

    /// Squares by channel.
    pub fn squares(&mut self, values: &[f32], channels: usize) {
        self.sums.resize(channels, 0.0);
        for row in values.chunks_exact(channels) {
            self.sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
        }
        self.rows += values.len() / channels;
    }

    /// Products of each two channels.
    pub fn products(&mut self, values: &[f32], channels: usize) {
        self.sums.resize(channels * channels, 0.0);
        let rows = values.len() / channels;
        let products = products(values, rows, channels);
        self.sums.iter_mut().zip(&products).for_each(|(sum, x)| *sum += f64::from(*x));
        self.rows += rows;
    }
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Header {
    facts: Facts,
    shard: (usize, usize),
    done: usize,
    shares: BTreeMap<String, String>,
}

/// Sums over some prompts.
pub struct State {
    /// What is measured.
    pub facts: Facts,
    /// Which shard of how many.
    pub shard: (usize, usize),
    /// Prompts that are in it.
    pub done: usize,
    /// For each layer the first one that has the same input.
    shares: BTreeMap<String, String>,
    sums: BTreeMap<String, Vec<i128>>,
    largest: BTreeMap<String, f32>,
}

impl State {
    /// A state that goes on from a file where that is of the same run.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn resume(
        path: &Path,
        facts: &Facts,
        shard: (usize, usize),
        report: &mut dyn Report,
    ) -> Result<Self> {
        if path.is_file() {
            match State::read(path) {
                Ok(state) if state.facts == *facts && state.shard == shard => return Ok(state),
                _ => report.warn(&format!("{} is of another run: it is begun anew", path.display())),
            }
        }
        Ok(State {
            facts: facts.clone(),
            shard,
            done: 0,
            shares: BTreeMap::new(),
            sums: BTreeMap::new(),
            largest: BTreeMap::new(),
        })
    }

    /// Reads a shard's file.
    ///
    /// # Errors
    /// If it is damaged or none.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|error| Error::io("read", path, &error))?;
        State::parse(&bytes).map_err(|message| {
            Error::input(message)
                .at(Place::File(path.to_path_buf()))
                .help("`snapc calibrate --shard` writes such a file")
        })
    }

    fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let damaged = |error: &dyn std::fmt::Display| format!("this is no shard of a calibration: {error}");
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(&error))?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| damaged(&error))?;
        let text = metadata.metadata().as_ref().and_then(|metadata| metadata.get(METADATA));
        let text = text.ok_or_else(|| damaged(&"it has no such metadata"))?;
        let mut entries: BTreeMap<String, Header> =
            serde_json::from_str(text).map_err(|error| damaged(&error))?;
        let header = entries.remove(SHARD).ok_or_else(|| damaged(&"it has no such metadata"))?;
        let Header { facts, shard, done, shares } = header;
        let (mut sums, mut largest) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in tensors.tensors() {
            match view.dtype() {
                Dtype::U8 => {
                    let (numbers, rest) = view.data().as_chunks::<16>();
                    if !rest.is_empty() {
                        return Err(damaged(&format!("{name} has half a number")));
                    }
                    sums.insert(name, numbers.iter().map(|bytes| i128::from_le_bytes(*bytes)).collect());
                }
                _ => {
                    let number = <[u8; 4]>::try_from(view.data()).map_err(|_| damaged(&name))?;
                    largest.insert(name, f32::from_le_bytes(number));
                }
            }
        }
        Ok(State { facts, shard, done, shares, sums, largest })
    }

    /// Notes that a layer has the input of another one.
    pub fn shares(&mut self, layer: &str, first: &str) {
        if !self.shares.contains_key(layer) {
            self.shares.insert(layer.to_string(), first.to_string());
        }
    }

    /// Layers that were measured.
    pub fn layers(&self) -> usize {
        self.shares.len()
    }

    /// How many of all prompts are its shard's.
    pub fn own_prompts(&self) -> usize {
        let (shard, of) = self.shard;
        (0..self.facts.prompts).filter(|prompt| prompt % of == shard - 1).count()
    }

    /// Adds what one prompt gave.
    ///
    /// # Errors
    /// A number that is not finite, or past what can be added.
    pub fn add_prompt(&mut self, key: String, measured: &Measured) -> Result<()> {
        let Measured { sums, rows, largest } = measured;
        let means = sums.iter().map(|sum| sum / *rows as f64);
        if let Some(mean) = means.clone().find(|mean| mean.is_nan() || mean.abs() >= MOST) {
            return Err(Error::input(format!(
                "the mean of squares is {mean:e}: a value is not finite or too large"
            ))
            .at(Place::Tensor(key))
            .help("do the pipeline's pictures look right? see `snapc run`"));
        }
        if sums.is_empty() {
            let known = self.largest.entry(key).or_insert(0.0);
            *known = known.max(*largest);
            return Ok(());
        }
        let all = self.sums.entry(key).or_insert_with(|| vec![0; sums.len()]);
        all.iter_mut().zip(means).for_each(|(sum, mean)| *sum += (mean * ONE).round() as i128);
        Ok(())
    }

    /// Adds another shard.
    ///
    /// # Errors
    /// If it is of another run.
    pub fn add(&mut self, other: State) -> Result<()> {
        let same = self.facts == other.facts && self.shard.1 == other.shard.1 && self.shares == other.shares;
        let same = same && self.sums.keys().eq(other.sums.keys());
        if !same {
            return Err(Error::input("it is a shard of another run")
                .help("all shards have the same pipeline, subnet, prompts and options"));
        }
        self.done += other.done;
        for (key, numbers) in other.sums {
            let all = self.sums.entry(key).or_default();
            all.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
        }
        for (key, number) in other.largest {
            let known = self.largest.entry(key).or_insert(0.0);
            *known = known.max(number);
        }
        Ok(())
    }

    /// Writes a shard's file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let header = Header {
            facts: self.facts.clone(),
            shard: self.shard,
            done: self.done,
            shares: self.shares.clone(),
        };
        let sums = self.sums.iter().map(|(key, numbers)| {
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            (key.clone(), Dtype::U8, vec![16 * numbers.len()], bytes)
        });
        let tensors = sums.chain(self.largest_tensors()).collect();
        write_tensors(path, tensors, &BTreeMap::from([(SHARD, header)]))
    }

    fn largest_tensors(&self) -> impl Iterator<Item = StoredTensor> {
        let all = self.largest.iter();
        all.map(|(key, number)| (key.clone(), Dtype::F32, vec![1], number.to_le_bytes().to_vec()))
    }

    /// Writes the calibration.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(&self, path: &Path) -> Result<()> {
        let means = self.sums.iter().map(|(key, sums)| {
            let mean = |sum: &i128| (*sum as f64 / ONE / self.facts.prompts as f64) as f32;
            let bytes = sums.iter().flat_map(|sum| mean(sum).to_le_bytes()).collect();
            (key.clone(), Dtype::F32, vec![sums.len()], bytes)
        });
        let tensors = means.chain(self.largest_tensors()).collect();
        write_tensors(path, tensors, &serde_json::json!({ FACTS: self.facts, SHARES: self.shares }))
    }
}

type StoredTensor = (String, Dtype, Vec<usize>, Vec<u8>);

fn write_tensors(path: &Path, mut tensors: Vec<StoredTensor>, metadata: &impl Serialize) -> Result<()> {
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        TensorView::new(*dtype, shape.clone(), bytes).map(|view| (name.as_str(), view)).map_err(Error::bug)
    });
    let views: Vec<_> = views.collect::<Result<_>>()?;
    let metadata = serde_json::to_string(metadata).map_err(Error::bug)?;
    let metadata = std::collections::HashMap::from([(METADATA.to_string(), metadata)]);
    write_file(path, &safetensors::serialize(views, Some(metadata)).map_err(Error::bug)?)
}
