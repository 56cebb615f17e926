//! Elastic delivery: the folders of several subnets as one store, in which a wider subnet is the narrower one plus bands. What is stored is
//! described in `docs/elastic.md`; `snapc-assemble` reads it.

mod assemble;
mod weave;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use snapc_assemble::{Chunk, FileEntry, INDEX, Index, Piece, Subnet};
use snapc_backend::{Hashed, Sink, Written};
use snapc_ir::{Error, Result};
use snapc_weights::hexadecimal;

use crate::Report;
use crate::files;
use crate::manifest::Manifest;
pub use assemble::{AssembleOptions, Assembled, assemble, write};
use weave::{Source, Weight, find, stretches};

/// Codes, scales and parts of a weight have names that begin alike.
const CANDIDATES: usize = 6;

/// What a store holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Elastic {
    /// The subnets, the narrowest first.
    pub subnets: Vec<ElasticSubnet>,
    /// Its files, in the order of their names.
    pub files: Vec<files::FileEntry>,
}

/// One subnet of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ElasticSubnet {
    /// Its name.
    pub name: String,
    /// Bytes of its folder.
    pub folder_bytes: u64,
    /// Bytes of its chunks: what a device that has the next narrower subnet downloads.
    pub download_bytes: u64,
    /// Bytes of the next narrower subnet's weights that this one's weights do not hold: they are stored twice.
    pub repeated_bytes: u64,
}

impl Elastic {
    /// Bytes of the whole store.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The store's bytes over those of the widest subnet's folder.
    pub fn ratio(&self) -> f64 {
        self.bytes() as f64 / self.subnets.last().map_or(1, |widest| widest.folder_bytes).max(1) as f64
    }
}

/// A compiled folder, as its files lie.
struct Folder {
    path: PathBuf,
    entry: Subnet,
    /// By file, where its weights lie, by name.
    weights: BTreeMap<String, BTreeMap<String, Range<u64>>>,
}

/// Writes the store of compiled folders (one target, different widths) into an empty folder. A chunk has at most `chunk_bytes` bytes.
///
/// # Errors
/// If a folder cannot be read back, or the store not be written.
pub fn store(folders: &[PathBuf], into: &Path, chunk_bytes: u64, report: &mut dyn Report) -> Result<Elastic> {
    let mut manifests = Vec::new();
    for folder in folders {
        manifests.push((Manifest::read(folder)?, folder));
    }
    manifests.sort_by_key(|(manifest, _)| manifest.options.width);
    if let Some(pair) = manifests.array_windows().find(|[(narrow, _), (wide, _)]| {
        narrow.options.width == wide.options.width || narrow.options.target != wide.options.target
    }) {
        return Err(Error::usage(format!(
            "{} and {} have one width, or two targets: neither is the other plus bands",
            pair[0].1.display(),
            pair[1].1.display()
        ))
        .help("name subnets of different widths, of one target"));
    }
    let mut folders = manifests
        .iter()
        .map(|(manifest, folder)| Folder::open(folder, manifest))
        .collect::<Result<Vec<_>>>()?;
    let total = folders.iter().flat_map(|folder| &folder.entry.files).map(|file| file.bytes).sum();
    report.begin("storing bands", total);
    for level in 0..folders.len() {
        let (narrower, rest) = folders.split_at_mut(level);
        rest[0].store(narrower.last(), into, chunk_bytes, report)?;
    }
    let subnets = folders.iter().enumerate().map(|(level, folder)| ElasticSubnet {
        name: folder.entry.name.clone(),
        folder_bytes: folder.entry.files.iter().map(|file| file.bytes).sum(),
        download_bytes: folder.entry.chunks.iter().map(|chunk| chunk.bytes).sum(),
        repeated_bytes: folder.repeated_bytes(level.checked_sub(1).map(|below| &folders[below])),
    });
    let subnets = subnets.collect();
    let index = Index { subnets: folders.into_iter().map(|folder| folder.entry).collect() };
    let (path, text) = (into.join(INDEX), index.to_string());
    std::fs::write(&path, &text).map_err(|error| Error::io("write", &path, &error))?;
    let chunks = index.subnets.into_iter().flat_map(|subnet| subnet.chunks);
    let chunks = chunks.map(|Chunk { name, bytes, sha256 }| files::FileEntry { path: name, bytes, sha256 });
    let (bytes, sha256) = (text.len() as u64, files::digest_of(text.as_bytes()));
    let mut files: Vec<_> = chunks.collect();
    files.push(files::FileEntry { path: INDEX.to_string(), bytes, sha256 });
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Elastic { subnets, files })
}

impl Folder {
    fn open(path: &Path, manifest: &Manifest) -> Result<Self> {
        let target = manifest.target()?;
        let mut weights: BTreeMap<String, BTreeMap<String, Range<u64>>> = BTreeMap::new();
        for part in &manifest.parts {
            let artifact = path.join(&part.artifact);
            // A bundle keeps what its subnets share elsewhere.
            if !artifact.exists() {
                continue;
            }
            let (_, store) = target.read(&artifact, part.signature.as_deref())?;
            for region in store.regions() {
                let file = store.path(region).strip_prefix(path).map_err(Error::bug)?;
                let of_file = weights.entry(file.to_string_lossy().into_owned()).or_default();
                let name = format!("{} {}", part.signature.as_deref().unwrap_or_default(), region.name);
                let tables = region.coding.as_ref().and_then(|coding| coding.tables_at.clone());
                of_file.extend(tables.map(|tables| (format!("{name} tables"), tables)));
                of_file.insert(name, region.range());
            }
        }
        let entry = |file: files::FileEntry| FileEntry {
            path: file.path,
            bytes: file.bytes,
            sha256: file.sha256,
            pieces: Vec::new(),
        };
        let files = files::list(path, &[], &[])?.into_iter().map(entry).collect();
        let name = manifest.label();
        Ok(Folder { path: path.to_path_buf(), entry: Subnet { name, chunks: Vec::new(), files }, weights })
    }

    /// Finds what of this folder the narrower one has, and writes the rest.
    fn store(
        &mut self,
        narrower: Option<&Folder>,
        into: &Path,
        chunk_bytes: u64,
        report: &mut dyn Report,
    ) -> Result<()> {
        let mut chunks = Chunks::new(into, &self.entry.name, chunk_bytes);
        for file in 0..self.entry.files.len() {
            let entry = &self.entry.files[file];
            let source = Source::open(&self.path.join(&entry.path))?;
            let pieces = self.pieces(entry, &source, narrower)?;
            let mut at = 0;
            for piece in &pieces {
                let range = at..at + piece.bytes();
                at = range.end;
                match piece {
                    Piece::Weave(weave) if weave.narrower() == weave.bytes => {}
                    Piece::Own(_) => source.blocks(range, |_, block| chunks.write(block))?,
                    Piece::Weave(weave) => source.blocks(range, |start, block| {
                        let own = stretches(weave, start, block).filter(|(_, is_narrower)| !is_narrower);
                        own.map(|(bytes, _)| bytes).try_for_each(|bytes| chunks.write(bytes))
                    })?,
                }
            }
            report.advance(entry.bytes);
            self.entry.files[file].pieces = pieces;
        }
        self.entry.chunks = chunks.finish()?;
        Ok(())
    }

    /// Bytes of the narrower folder's weights that no weave of this one takes.
    fn repeated_bytes(&self, narrower: Option<&Folder>) -> u64 {
        let Some(narrower) = narrower else { return 0 };
        let mut bytes = 0;
        for (path, weights) in &narrower.weights {
            let ranges: BTreeMap<u64, u64> = weights.values().map(|range| (range.start, range.end)).collect();
            let all: u64 = ranges.iter().map(|(start, end)| end - start).sum();
            let pieces =
                self.entry.files.iter().filter(|file| file.path == *path).flat_map(|file| &file.pieces);
            let woven: u64 = pieces.map(|piece| piece.bytes() - piece.own()).sum();
            bytes += all.saturating_sub(woven);
        }
        bytes
    }

    /// What a file is made of.
    fn pieces(&self, entry: &FileEntry, source: &Source, narrower: Option<&Folder>) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut at = 0;
        let own = |pieces: &mut Vec<Piece>, bytes: u64| match pieces.last_mut() {
            _ if bytes == 0 => {}
            Some(Piece::Own(before)) => *before += bytes,
            _ => pieces.push(Piece::Own(bytes)),
        };
        for (range, piece) in self.weaves(entry, source, narrower)? {
            own(&mut pieces, range.start - at);
            pieces.push(piece);
            at = range.end;
        }
        own(&mut pieces, entry.bytes - at);
        Ok(pieces)
    }

    /// The weights of a file that hold those of the narrower folder, in their order.
    fn weaves(
        &self,
        entry: &FileEntry,
        source: &Source,
        narrower: Option<&Folder>,
    ) -> Result<Vec<(Range<u64>, Piece)>> {
        let found = narrower.and_then(|narrower| {
            let index = narrower.entry.files.iter().position(|file| file.path == entry.path)?;
            Some((narrower, index))
        });
        let Some((narrower, index)) = found.filter(|_| entry.bytes > 0) else { return Ok(Vec::new()) };
        let same = &narrower.entry.files[index];
        let other = Source::open(&narrower.path.join(&same.path))?;
        if (same.bytes, &same.sha256) == (entry.bytes, &entry.sha256) {
            let whole = Weight { source: &other, range: 0..same.bytes };
            let weave = find(&whole, &Weight { source, range: 0..entry.bytes }, index)?;
            return Ok(weave.map(|weave| (0..entry.bytes, Piece::Weave(weave))).into_iter().collect());
        }
        let (Some(ours), Some(theirs)) = (self.weights.get(&entry.path), narrower.weights.get(&entry.path))
        else {
            return Ok(Vec::new());
        };
        let gone = theirs.iter().filter(|(name, _)| !ours.contains_key(*name)).collect::<Vec<_>>();
        let mut ours: Vec<(&String, &Range<u64>)> = ours.iter().collect();
        ours.sort_by_key(|(_, range)| range.start);
        let mut weaves = Vec::new();
        let mut at = 0;
        for (name, range) in ours {
            if range.start < at {
                continue;
            }
            for theirs in namesakes(name, theirs, &gone) {
                let narrow = Weight { source: &other, range: theirs.clone() };
                if let Some(weave) = find(&narrow, &Weight { source, range: range.clone() }, index)? {
                    weaves.push((range.clone(), Piece::Weave(weave)));
                    at = range.end;
                    break;
                }
            }
        }
        Ok(weaves)
    }
}

/// The narrower subnet's weight of that name. Where moves are part of a name, so are sizes: then some, of those that no weight of the wider
/// subnet is called, whose names are most like it. Which it is, the bytes tell.
fn namesakes<'a>(
    name: &str,
    theirs: &'a BTreeMap<String, Range<u64>>,
    gone: &[(&'a String, &'a Range<u64>)],
) -> Vec<&'a Range<u64>> {
    if let Some(range) = theirs.get(name) {
        return vec![range];
    }
    let alike = |other: &str| name.bytes().zip(other.bytes()).take_while(|(own, other)| own == other).count();
    let mut nearest = gone.to_vec();
    nearest.sort_by_key(|(other, _)| std::cmp::Reverse(alike(other)));
    nearest.into_iter().take(CANDIDATES).map(|(_, range)| range).collect()
}

/// A subnet's own bytes, cut into files.
struct Chunks<'a> {
    into: &'a Path,
    subnet: &'a str,
    most: u64,
    done: Vec<Chunk>,
    open: Option<Sink>,
}

impl<'a> Chunks<'a> {
    fn new(into: &'a Path, subnet: &'a str, most: u64) -> Self {
        Chunks { into, subnet, most: most.max(1), done: Vec::new(), open: None }
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let sink = match &mut self.open {
                Some(sink) => sink,
                None => {
                    let path = self.into.join(format!("{}.{:03}", self.subnet, self.done.len()));
                    self.open.insert(Sink::create(&path, Hashed::Here)?)
                }
            };
            let (now, rest) = bytes.split_at(bytes.len().min((self.most - sink.at()) as usize));
            sink.put(now)?;
            bytes = rest;
            if sink.at() == self.most {
                self.close()?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        if let Some(sink) = self.open.take() {
            let Written { path, bytes, sha256 } = sink.finish()?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let hash = sha256.ok_or_else(|| Error::bug("a chunk has no hash"))?;
            self.done.push(Chunk { name, bytes, sha256: hexadecimal(&hash) });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Chunk>> {
        self.close()?;
        Ok(self.done)
    }
}
