use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::index::{FileEntry, Index, Piece, Subnet, Weave};
use crate::sha256::Sha256;

/// The file of an elastic store that says what the others are.
pub const INDEX: &str = "elastic.index";
/// An index has some hundred lines a subnet; this is far more.
const LONGEST_INDEX: u64 = 64 << 20;
/// Bytes that are made at once.
const BLOCK: usize = 1 << 20;

/// An elastic store: a folder with [`INDEX`] and the chunks that it names. Chunks are opened when their bytes are asked for, so those of
/// subnets that are not needed need not be there.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    index: Index,
    /// For each subnet, where its folder stands already, if it does.
    installed: Vec<Option<PathBuf>>,
    /// For each subnet and file, where its pieces begin: in the file, and in the subnet's own bytes.
    begins: Vec<Vec<Vec<(u64, u64)>>>,
    open: BTreeMap<PathBuf, File>,
}

impl Store {
    /// Reads the index of a store.
    ///
    /// # Errors
    /// If there is none, or it does not add up.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(INDEX);
        let failed = |error| Error::Io { path: path.clone(), error };
        let mut bytes = Vec::new();
        File::open(&path).map_err(failed)?.take(LONGEST_INDEX + 1).read_to_end(&mut bytes).map_err(failed)?;
        let damaged = |what: String| Error::Damaged { path: path.clone(), what };
        if bytes.len() as u64 > LONGEST_INDEX {
            return Err(damaged(format!("it has more than {LONGEST_INDEX} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is no text".into()))?;
        let index = Index::parse(&text).map_err(damaged)?;
        let installed = vec![None; index.subnets.len()];
        let begins = index.subnets.iter().map(begins).collect();
        Ok(Store { folder: folder.to_path_buf(), index, installed, begins, open: BTreeMap::new() })
    }

    /// What the store holds.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Takes the bytes of a subnet from its folder, where it was assembled before: neither its chunks nor narrower ones are needed then.
    ///
    /// # Errors
    /// If the store has no such subnet.
    pub fn installed(mut self, subnet: &str, folder: &Path) -> Result<Self> {
        let level = self.level(subnet)?;
        self.installed[level] = Some(folder.to_path_buf());
        Ok(self)
    }

    /// The chunks that a subnet needs, of its own and of the narrower ones down to one that is installed.
    ///
    /// # Errors
    /// If the store has no such subnet.
    pub fn needed(&self, subnet: &str) -> Result<Vec<&crate::Chunk>> {
        let level = self.level(subnet)?;
        let first =
            (0..level).rev().find(|&level| self.installed[level].is_some()).map_or(0, |level| level + 1);
        Ok(self.index.subnets[first..=level].iter().flat_map(|subnet| &subnet.chunks).collect())
    }

    /// Makes a subnet's folder, bit for bit as it was compiled. It is made beside `folder` and renamed when all its digests are right;
    /// `folder` must not exist. `progress` is told the bytes that were written since its last call.
    ///
    /// # Errors
    /// If a chunk is missing, or what comes of the chunks has another digest than the index says: nothing is left then.
    pub fn assemble(&mut self, subnet: &str, folder: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |error| Error::Io { path, error }
        };
        if folder.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: folder.to_path_buf() });
        }
        let mut name = folder.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".assembling-{}", std::process::id()));
        let made = folder.with_file_name(name);
        std::fs::create_dir_all(&made).map_err(failed(&made))?;
        let done = self
            .write(subnet, &made, progress)
            .and_then(|()| std::fs::rename(&made, folder).map_err(failed(folder)));
        if done.is_err() {
            // What went wrong is the news, not that its rest could not be removed.
            let _ = std::fs::remove_dir_all(&made);
        }
        done
    }

    /// As [`assemble`](Store::assemble), into an empty folder of the caller's, who removes it where this fails.
    ///
    /// # Errors
    /// As there.
    pub fn write(&mut self, subnet: &str, folder: &Path, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let level = self.level(subnet)?;
        for file in 0..self.index.subnets[level].files.len() {
            let entry = &self.index.subnets[level].files[file];
            let (path, sha256) = (folder.join(&entry.path), entry.sha256.clone());
            let found = self.write_file(level, file, &path, progress)?;
            if found != sha256 {
                return Err(Error::Altered {
                    path: self.index.subnets[level].files[file].path.clone(),
                    sha256,
                    found,
                });
            }
        }
        Ok(())
    }

    /// Writes one file; gives its digest.
    fn write_file(
        &mut self,
        level: usize,
        file: usize,
        path: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<String> {
        let failed = |error| Error::Io { path: path.to_path_buf(), error };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut out = File::create_new(path).map_err(failed)?;
        let (mut hash, mut block) = (Sha256::new(), vec![0; BLOCK]);
        let bytes = self.index.subnets[level].files[file].bytes;
        let mut position = 0;
        while position < bytes {
            let block = &mut block[..(bytes - position).min(BLOCK as u64) as usize];
            self.read(level, file, position, block)?;
            hash.update(block);
            out.write_all(block).map_err(failed)?;
            position += block.len() as u64;
            progress(block.len() as u64);
        }
        out.sync_all().map_err(failed)?;
        Ok(hash.finish())
    }

    /// Bytes of a subnet's file, wherever they lie.
    fn read(&mut self, level: usize, file: usize, mut position: u64, mut buffer: &mut [u8]) -> Result<()> {
        if let Some(folder) = &self.installed[level] {
            let path = folder.join(&self.index.subnets[level].files[file].path);
            return self.read_file(path, position, buffer);
        }
        let begins = &self.begins[level][file];
        let mut piece = begins.partition_point(|(begin, _)| *begin <= position).saturating_sub(1);
        while !buffer.is_empty() {
            let (begin, own) = self.begins[level][file][piece];
            let entry = &self.index.subnets[level].files[file].pieces[piece];
            let within = position - begin;
            let count = (entry.bytes() - within).min(buffer.len() as u64);
            let (part, rest) = buffer.split_at_mut(count as usize);
            match entry {
                Piece::Own(_) => self.read_own(level, own + within, part)?,
                Piece::Weave(weave) => {
                    let weave = weave.clone();
                    self.read_woven(level, own, &weave, within, part)?;
                }
            }
            (buffer, position, piece) = (rest, position + count, piece + 1);
        }
        Ok(())
    }

    /// Bytes of a weave: those of the narrower subnet in one read, the own ones in another, then one between the other.
    fn read_woven(
        &mut self,
        level: usize,
        own: u64,
        weave: &Weave,
        within: u64,
        buffer: &mut [u8],
    ) -> Result<()> {
        let end = within + buffer.len() as u64;
        let taken = weave.taken(within..end);
        let mut narrower = vec![0; (taken.end - taken.start) as usize];
        let mut ours = vec![0; buffer.len() - narrower.len()];
        self.read(level - 1, weave.file, weave.offset + taken.start, &mut narrower)?;
        self.read_own(level, own + within - taken.start, &mut ours)?;
        let (mut narrower, mut ours) = (&narrower[..], &ours[..]);
        for (stretch, is_narrower) in weave.stretches(within..end) {
            let source = if is_narrower { &mut narrower } else { &mut ours };
            let part = &mut buffer[(stretch.start - within) as usize..(stretch.end - within) as usize];
            let (bytes, rest) = source.split_at(part.len());
            part.copy_from_slice(bytes);
            *source = rest;
        }
        Ok(())
    }

    /// A subnet's own bytes, from as many chunks as they lie in.
    fn read_own(&mut self, level: usize, mut position: u64, mut buffer: &mut [u8]) -> Result<()> {
        for chunk in 0..self.index.subnets[level].chunks.len() {
            if buffer.is_empty() {
                break;
            }
            let entry = &self.index.subnets[level].chunks[chunk];
            if position >= entry.bytes {
                position -= entry.bytes;
                continue;
            }
            let count = (entry.bytes - position).min(buffer.len() as u64);
            let (part, rest) = std::mem::take(&mut buffer).split_at_mut(count as usize);
            self.read_file(self.folder.join(&entry.name), position, part)?;
            (buffer, position) = (rest, 0);
        }
        Ok(())
    }

    fn read_file(&mut self, path: PathBuf, position: u64, buffer: &mut [u8]) -> Result<()> {
        let failed = |error| Error::Io { path: path.clone(), error };
        if !self.open.contains_key(&path) {
            let file = File::open(&path).map_err(failed)?;
            self.open.insert(path.clone(), file);
        }
        if let Some(mut file) = self.open.get(&path) {
            file.seek(SeekFrom::Start(position)).map_err(failed)?;
            file.read_exact(buffer).map_err(failed)?;
        }
        Ok(())
    }

    fn level(&self, subnet: &str) -> Result<usize> {
        let found = self.index.subnets.iter().position(|known| known.name == subnet);
        found.ok_or_else(|| Error::NoSubnet {
            name: subnet.into(),
            known: self.index.subnets.iter().map(|subnet| subnet.name.clone()).collect(),
        })
    }
}

fn begins(subnet: &Subnet) -> Vec<Vec<(u64, u64)>> {
    let mut own = 0;
    let mut of_file = |file: &FileEntry| {
        let mut begin = 0;
        let mut next = |piece: &Piece| {
            let place = (begin, own);
            (begin, own) = (begin + piece.bytes(), own + piece.own());
            place
        };
        file.pieces.iter().map(&mut next).collect()
    };
    subnet.files.iter().map(&mut of_file).collect()
}
