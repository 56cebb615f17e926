//! How a narrower subnet's weight stands in the wider one's, found by their bytes: whatever layout a target gives a weight, the narrower one
//! is its first rows, of each the first numbers, and so on inwards.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use snapc_assemble::Weave;
use snapc_ir::{Error, Result};

/// Bytes that are compared at once.
const BLOCK: u64 = 1 << 20;
/// Bytes by which a run is recognised before all are compared.
const PROBE: u64 = 64;
/// Runs may go on by chance: how many shorter ones are tried.
const TRIES: usize = 8;

/// An open file.
pub struct Source {
    path: PathBuf,
    file: File,
}

impl Source {
    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io("open", path, &error))?;
        Ok(Source { path: path.to_path_buf(), file })
    }

    /// The bytes of a range.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = self.file.read_exact_at(&mut bytes, range.start);
        read.map_err(|error| {
            Error::io("read", &self.path, &error).help("did the file change while it was read?")
        })?;
        Ok(bytes)
    }

    /// Calls `take` with the bytes of a range, block by block, and where each begins in it.
    ///
    /// # Errors
    /// If they cannot be read, and what `take` finds.
    pub fn blocks(&self, range: Range<u64>, mut take: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let length = range.end - range.start;
        for at in (0..length).step_by(BLOCK as usize) {
            let end = length.min(at + BLOCK);
            take(at, &self.read(range.start + at..range.start + end)?)?;
        }
        Ok(())
    }
}

/// The bytes of a weight in a file.
pub struct Weight<'a> {
    /// The file.
    pub source: &'a Source,
    /// Where it lies.
    pub range: Range<u64>,
}

impl Weight<'_> {
    fn length(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        self.source.read(self.range.start + range.start..self.range.start + range.end)
    }

    /// How many bytes, from the start on, are the other's too.
    fn common(&self, other: &Weight) -> Result<u64> {
        let length = self.length().min(other.length());
        for start in (0..length).step_by(BLOCK as usize) {
            let block = start..length.min(start + BLOCK);
            let (ours, theirs) = (self.read(block.clone())?, other.read(block)?);
            if let Some(at) = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs) {
                return Ok(start + at as u64);
            }
        }
        Ok(length)
    }
}

/// How `narrow` (the `file`-th of the narrower subnet) stands in `wide`; none where it does not.
///
/// # Errors
/// If a file cannot be read.
pub fn find(narrow: &Weight, wide: &Weight, file: usize) -> Result<Option<Weave>> {
    let (bytes, total) = (narrow.length(), wide.length());
    if bytes == 0 || bytes > total {
        return Ok(None);
    }
    let common = narrow.common(wide)?;
    let begin = Weave { file, offset: narrow.range.start, bytes: total, run: bytes, loops: Vec::new() };
    if common == bytes {
        return Ok(Some(begin));
    }
    let runs = divisors(bytes).into_iter().rev().filter(|&run| run <= common).take(TRIES);
    for run in runs {
        let weave = Weave { run, ..begin.clone() };
        if let Some(weave) = with_loops(weave, narrow, wide)?
            && holds(&weave, narrow, wide)?
        {
            return Ok(Some(weave));
        }
    }
    Ok(None)
}

/// Adds loops around a run until all of the narrower weight is placed; none where a run is not found again.
fn with_loops(mut weave: Weave, narrow: &Weight, wide: &Weight) -> Result<Option<Weave>> {
    let (bytes, total) = (narrow.length(), wide.length());
    let probe = weave.run.min(PROBE);
    let strides = divisors(total);
    let same = |at: u64, place: u64| -> Result<bool> {
        let inside = at + probe <= bytes && place + probe <= total;
        Ok(inside && narrow.read(at..at + probe)? == wide.read(place..place + probe)?)
    };
    let (mut placed, mut extent) = (weave.run, weave.run);
    while placed < bytes {
        let mut found = None;
        for &stride in strides.iter().filter(|&&stride| stride >= extent) {
            if same(placed, stride)? {
                found = Some(stride);
                break;
            }
        }
        let Some(stride) = found else { return Ok(None) };
        let mut turns = 2;
        while same(turns * placed, turns * stride)? {
            turns += 1;
        }
        // An axis has a whole number of turns; a turn more may look right by chance.
        let whole = divisors(bytes / placed).into_iter().rev().find(|&count| count <= turns);
        let Some(count) = whole.filter(|&count| count > 1) else { return Ok(None) };
        weave.loops.insert(0, (count, stride));
        (placed, extent) = (placed * count, stride * (count - 1) + extent);
    }
    Ok(Some(weave))
}

/// Whether all bytes of the narrower weight stand where the weave says.
fn holds(weave: &Weave, narrow: &Weight, wide: &Weight) -> Result<bool> {
    for start in (0..weave.bytes).step_by(BLOCK as usize) {
        let block = start..weave.bytes.min(start + BLOCK);
        let ours = narrow.read(weave.taken(block.clone()))?;
        let theirs = wide.read(block)?;
        let mut ours = &ours[..];
        for (bytes, is_narrower) in stretches(weave, start, &theirs) {
            if is_narrower {
                let (expected, rest) = ours.split_at(bytes.len());
                if expected != bytes {
                    return Ok(false);
                }
                ours = rest;
            }
        }
    }
    Ok(true)
}

/// The bytes of a block that begins at `start` of the wider weight, cut where runs begin and end; whether each is of the narrower one.
pub fn stretches<'a>(weave: &Weave, start: u64, block: &'a [u8]) -> impl Iterator<Item = (&'a [u8], bool)> {
    let within = move |at: u64| (at - start) as usize;
    let all = weave.stretches(start..start + block.len() as u64);
    all.map(move |(stretch, is_narrower)| (&block[within(stretch.start)..within(stretch.end)], is_narrower))
}

/// The divisors of a number, in order.
fn divisors(number: u64) -> Vec<u64> {
    let small: Vec<u64> = (1..=number.isqrt()).filter(|&divisor| number.is_multiple_of(divisor)).collect();
    let large = small.iter().rev().map(|divisor| number / divisor).filter(|large| large * large != number);
    small.iter().copied().chain(large).collect()
}
