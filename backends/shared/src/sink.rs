//! Files of weights, which are written from their first byte to their last.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use snapc_ir::{Error, Result};

use crate::hashing::{Hashed, Hashing};

/// Bytes that wait until they are worth a call.
const BUFFER: usize = 1 << 16;

/// A file that was written whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where it lies.
    pub path: PathBuf,
    /// How long it is.
    pub bytes: u64,
    /// Its SHA-256, where each of its bytes was known when its turn came.
    pub sha256: Option<[u8; 32]>,
}

/// A file that is being written. Its hash is taken on the way, while its bytes are near.
pub struct Sink {
    file: BufWriter<File>,
    path: PathBuf,
    at: u64,
    /// What is being written: the bytes of one weight.
    run: Range<u64>,
    hash: Option<Hashing>,
}

impl Sink {
    /// Begins a file, in place of what stands there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(path: &Path, hashed: Hashed) -> Result<Self> {
        let file = File::create(path).map_err(|error| Error::io("create", path, &error))?;
        Ok(Sink {
            file: BufWriter::with_capacity(BUFFER, file),
            path: path.to_path_buf(),
            at: 0,
            run: 0..0,
            hash: Hashing::new(hashed)?,
        })
    }

    /// How far it is.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| Error::io("write", &self.path, &error))?;
        self.at += bytes.len() as u64;
        self.hash.as_mut().map_or(Ok(()), |hash| hash.update(bytes))
    }

    /// Writes zeros up to there.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn pad_to(&mut self, offset: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.at < offset {
            self.put(&ZEROS[..(offset - self.at).min(ZEROS.len() as u64) as usize])?;
        }
        Ok(())
    }

    /// What is put from here on are the bytes of this run, up to the next call: it ends the run before, with zeros between.
    ///
    /// # Errors
    /// If the run before has another length than it was said to have, or the zeros cannot be written.
    pub fn begin(&mut self, run: Range<u64>) -> Result<()> {
        if run == self.run {
            return Ok(());
        }
        self.end()?;
        self.pad_to(run.start)?;
        self.run = run;
        Ok(())
    }

    /// Ends the run that was begun last.
    ///
    /// # Errors
    /// If it has another length than it was said to have.
    pub fn end(&self) -> Result<()> {
        if self.run.is_empty() || self.at == self.run.end {
            return Ok(());
        }
        let message = format!("a weight ends at {} in place of {}", self.at, self.run.end);
        Err(Error::bug(message))
    }

    /// Writes other bytes in place of the first ones, of a file that is not hashed.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn replace_start(&mut self, bytes: &[u8]) -> Result<()> {
        if self.hash.is_some() {
            return Err(Error::bug("bytes that are hashed are replaced"));
        }
        let end = SeekFrom::Start(self.at);
        let mut replace = || {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(bytes)?;
            self.file.seek(end)
        };
        replace().map(drop).map_err(|error| Error::io("write", &self.path, &error))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<Written> {
        self.file.flush().map_err(|error| Error::io("write", &self.path, &error))?;
        let sha256 = self.hash.map(Hashing::finish).transpose()?;
        Ok(Written { path: self.path, bytes: self.at, sha256 })
    }
}
