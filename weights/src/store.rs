use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::hash::{Sha256, hexadecimal};
use crate::statistics::Statistics;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use snapc_ir::{Code, DType, Error, Place, Result, element_count};

/// The longest header that a safetensors file may have; the crate's own bound.
const LONGEST_HEADER: u64 = 100_000_000;

/// Where one tensor lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// The tensor's name.
    pub name: String,
    /// Which of the store's files.
    pub file: usize,
    /// Where its first byte is in that file.
    pub offset: u64,
    /// How its numbers are stored.
    pub dtype: DType,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// What its bytes stand for where they are codes; its type is then what they decode to.
    pub coding: Option<Coding>,
}

impl Region {
    /// Numbers that are stored as they are.
    pub fn plain(name: impl Into<String>, offset: u64, dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Region { name: name.into(), file: 0, offset, dtype, shape: shape.into(), coding: None }
    }

    /// The bytes of its file that it lies in.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.bytes())
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        let count = element_count(&self.shape);
        match &self.coding {
            Some(coding) => count.saturating_mul(coding.code.bits()).div_ceil(8) as u64,
            None => count.saturating_mul(self.dtype.size()) as u64,
        }
    }
}

impl Region {
    /// How many bytes it takes with its scales or tables, which count as f16: what `Weight::stored_bytes` says of its weight. The lengths
    /// of steps (codes of 32 bits) are products of scales that are counted.
    pub fn stored_bytes(&self) -> u64 {
        let own = self.coding.as_ref().filter(|coding| coding.code.bits() < 32);
        let tables = own.map_or(0, |coding| coding.tables.len());
        self.bytes().saturating_add(2 * tables as u64)
    }
}

/// What the codes of a region stand for, as a reader of a package knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Coding {
    /// What a code stands for.
    pub code: Code,
    /// Into how many blocks each axis is cut; a block shares a scale or a table.
    pub blocks: Vec<usize>,
    /// Scales, or the tables one behind the other, by block.
    pub tables: Vec<f32>,
    /// The bytes of the region's file that they lie in, where they lie there.
    pub tables_at: Option<Range<u64>>,
}

#[derive(Clone, Debug)]
struct OpenFile {
    path: PathBuf,
    file: Arc<File>,
}

/// Where the tensors of one part lie: one or more files, opened once, read by position. A clone reads the same open files.
#[derive(Clone, Debug, Default)]
pub struct Store {
    files: Vec<OpenFile>,
    regions: BTreeMap<String, Region>,
    /// Tensors of a type that no weight can have (`i64`, `f64`, ..): known by name only.
    foreign: BTreeMap<String, String>,
    /// What was measured of the inputs that these tensors are multiplied with.
    statistics: Option<Arc<Statistics>>,
}

impl Store {
    /// The store with what was measured of the inputs that its tensors are multiplied with: encodings ask for it.
    pub fn with_statistics(mut self, statistics: Arc<Statistics>) -> Self {
        self.statistics = Some(statistics);
        self
    }

    /// What was measured, if anything.
    pub(crate) fn statistics(&self) -> Option<&Statistics> {
        self.statistics.as_deref()
    }

    /// A store without tensors, for graphs whose weights are all inline or computed.
    pub fn empty() -> Self {
        Store::default()
    }

    /// Opens a safetensors file, or, where `index` names the index of a sharded checkpoint, all its shards.
    ///
    /// # Errors
    /// If a file is missing or its header lies about what follows.
    pub fn open_checkpoint(folder: &Path, name: &str) -> Result<Self> {
        let whole = folder.join(name);
        let index = folder.join(format!("{name}.index.json"));
        if whole.exists() || !index.exists() {
            return Store::open(&[whole]);
        }
        Store::open_index(folder, &index)
    }

    /// Opens safetensors files; their tensors' names must differ.
    ///
    /// # Errors
    /// If a file is missing, cut off, or its header lies about what follows.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut store = Store::default();
        for path in paths {
            store.add_safetensors(path)?;
        }
        Ok(store)
    }

    fn open_index(folder: &Path, index: &Path) -> Result<Self> {
        let place = || Place::File(index.to_path_buf());
        let text = std::fs::read_to_string(index).map_err(|error| Error::io("read", index, &error))?;
        let parsed: Index = serde_json::from_str(&text).map_err(|error| {
            Error::input(format!("the index is not what a sharded checkpoint has: {error}")).at(place())
        })?;
        let shards: BTreeSet<&String> = parsed.weight_map.values().collect();
        if let Some(shard) = shards.iter().find(|shard| Path::new(shard).file_name() != Some(shard.as_ref()))
        {
            return Err(
                Error::input(format!("the index names `{shard}`, which is no file beside it")).at(place())
            );
        }
        if shards.is_empty() {
            return Err(Error::input("the index names no tensor").at(place()));
        }
        let paths: Vec<PathBuf> = shards.iter().map(|shard| folder.join(shard)).collect();
        let store = Store::open(&paths)?;
        for (tensor, shard) in &parsed.weight_map {
            let found = store.regions.get(tensor).map(|region| &store.files[region.file].path);
            if found != Some(&folder.join(shard)) && !store.foreign.contains_key(tensor) {
                return Err(Error::input(format!(
                    "the index says that {tensor} is in {shard}; it is not there"
                ))
                .at(place())
                .help("download the shards and the index again, all from one revision"));
            }
        }
        if let Some(tensor) = store.regions.keys().find(|name| !parsed.weight_map.contains_key(*name)) {
            return Err(Error::input(format!(
                "a shard has the tensor {tensor}, which the index does not name"
            ))
            .at(place())
            .help("download the shards and the index again, all from one revision"));
        }
        Ok(store)
    }

    /// A store over any file whose tensors' places are known, as a reader of a package knows them.
    ///
    /// # Errors
    /// If the file is missing or shorter than a region says.
    pub fn from_regions(path: &Path, regions: Vec<Region>) -> Result<Self> {
        let file = open_file(path)?;
        let length = file_length(&file, path)?;
        let mut store =
            Store { files: vec![OpenFile { path: path.to_path_buf(), file }], ..Store::default() };
        for region in regions {
            if region.offset.checked_add(region.bytes()).is_none_or(|end| end > length) {
                return Err(Error::input(format!("{} lies behind the end of the file", region.name))
                    .at(Place::File(path.to_path_buf())));
            }
            store.regions.insert(region.name.clone(), Region { file: 0, ..region });
        }
        Ok(store)
    }

    fn add_safetensors(&mut self, path: &Path) -> Result<()> {
        let place = || Place::File(path.to_path_buf());
        let file = open_file(path)?;
        let length = file_length(&file, path)?;
        let header = read_header(&file, length).map_err(|error| error.at(place()))?;
        let data = 8 + header.len() as u64;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| {
            Error::input(format!("the safetensors header is damaged: {error}"))
                .at(place())
                .help("download or export the file again")
        })?;
        let end = data + metadata.data_len() as u64;
        if end != length {
            return Err(Error::input(format!("the tensors end at byte {end}, the file has {length} bytes"))
                .at(place())
                .help("the file is cut off or damaged: download or export it again"));
        }
        let index = self.files.len();
        for name in metadata.offset_keys() {
            let Some(info) = metadata.info(&name) else { continue };
            let dtype = match info.dtype {
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                Dtype::I32 => DType::I32,
                other => {
                    self.foreign.insert(name, format!("{other:?}"));
                    continue;
                }
            };
            let (offset, shape) = (data + info.data_offsets.0 as u64, info.shape.clone());
            let region = Region { file: index, ..Region::plain(name.clone(), offset, dtype, shape) };
            if self.regions.insert(name.clone(), region).is_some() {
                return Err(Error::input(format!("{name} is in more than one shard")).at(place()));
            }
        }
        self.files.push(OpenFile { path: path.to_path_buf(), file });
        Ok(())
    }

    /// The metadata of a safetensors file.
    ///
    /// # Errors
    /// If it is missing or its header is damaged.
    pub fn metadata(path: &Path) -> Result<BTreeMap<String, String>> {
        let file = open_file(path)?;
        let header = read_header(&file, file_length(&file, path)?)
            .map_err(|error| error.at(Place::File(path.to_path_buf())))?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| {
            Error::input(format!("the safetensors header is damaged: {error}"))
                .at(Place::File(path.to_path_buf()))
        })?;
        Ok(metadata.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// A hash (SHA-256, hexadecimal) of names, types, shapes and three samples of 4 KiB of each tensor: it tells checkpoints apart without
    /// reading them. Names of files, and how tensors are spread over them, do not count.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        const SAMPLE: u64 = 4096;
        let mut hash = Sha256::default();
        let mut sample = Vec::new();
        for (name, region) in &self.regions {
            hash.update(format!("{name} {}{:?}\n", region.dtype, region.shape).as_bytes());
            let bytes = region.bytes();
            let last = bytes.saturating_sub(SAMPLE);
            for start in [0, last / 2, last] {
                sample.resize(SAMPLE.min(bytes) as usize, 0);
                self.read_at(region, start, &mut sample)?;
                hash.update(&sample);
            }
        }
        Ok(hexadecimal(&hash.finish()))
    }

    /// The names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let foreign = self.foreign.keys().map(String::as_str);
        let mut names: Vec<&str> = self.regions.keys().map(String::as_str).chain(foreign).collect();
        names.sort_unstable();
        names.into_iter()
    }

    /// Where a tensor lies.
    pub fn region(&self, name: &str) -> Option<&Region> {
        self.regions.get(name)
    }

    /// The type of a tensor that no weight can have (`I64`, ..).
    pub fn foreign_type(&self, name: &str) -> Option<&str> {
        self.foreign.get(name).map(String::as_str)
    }

    /// Where its tensors lie, in the order of their names.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }

    /// The store's files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The file that a region lies in.
    pub fn path(&self, region: &Region) -> &Path {
        &self.files[region.file].path
    }

    /// Fills `buffer` with the bytes of a region from its byte `start` on.
    pub(crate) fn read_at(&self, region: &Region, start: u64, buffer: &mut [u8]) -> Result<()> {
        let OpenFile { path, file } = &self.files[region.file];
        file.read_exact_at(buffer, region.offset + start).map_err(|error| {
            Error::io("read", path, &error)
                .at(Place::Tensor(region.name.clone()))
                .help("did the file change while it was read?")
        })
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn open_file(path: &Path) -> Result<Arc<File>> {
    File::open(path)
        .map(Arc::new)
        .map_err(|error| Error::io("open", path, &error).help("was the folder downloaded or exported whole?"))
}

fn file_length(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(|error| Error::io("read", path, &error))?.len())
}

/// The JSON text between the eight bytes of its length and the data.
fn read_header(file: &File, length: u64) -> Result<Vec<u8>> {
    let damaged = |message: String| {
        Error::input(message).help("is this a safetensors file? download or export it again")
    };
    let mut size = [0u8; 8];
    file.read_exact_at(&mut size, 0)
        .map_err(|_| damaged(format!("the file has {length} bytes: too few for a safetensors header")))?;
    let size = u64::from_le_bytes(size);
    if size > LONGEST_HEADER || size + 8 > length {
        return Err(damaged(format!(
            "the safetensors header should be {size} bytes long, the file has {length} bytes"
        )));
    }
    let mut header = vec![0u8; size as usize];
    file.read_exact_at(&mut header, 8)
        .map_err(|error| damaged(format!("the header cannot be read: {error}")))?;
    Ok(header)
}
