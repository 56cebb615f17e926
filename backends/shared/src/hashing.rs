//! The hash of a file, taken while it is written.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use snapc_ir::{Error, Result};
use snapc_weights::{Limits, Sha256};

/// Bytes that are hashed at once, of which a core's cache holds a few.
const PIECE: usize = 1 << 18;

/// Pieces that wait to be hashed.
const WAITING: usize = 3;

/// Where a file's hash is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashed {
    /// Nowhere: the file is gone back to.
    Not,
    /// On the thread that writes.
    Here,
    /// On a thread beside it: hashing takes longer than all else where a processor has no instructions for it.
    Beside,
}

impl Hashed {
    /// Beside the writing, unless all is to be done by one thread.
    pub fn within(limits: Limits) -> Self {
        if limits.jobs > 1 { Hashed::Beside } else { Hashed::Here }
    }
}

/// A hash that is being taken.
pub(crate) enum Hashing {
    Here(Sha256),
    Beside(Beside),
}

impl Hashing {
    pub fn new(hashed: Hashed) -> Result<Option<Self>> {
        Ok(match hashed {
            Hashed::Not => None,
            Hashed::Here => Some(Hashing::Here(Sha256::default())),
            Hashed::Beside => Some(Hashing::Beside(Beside::new()?)),
        })
    }

    pub fn update(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Hashing::Here(hash) => hash.update(bytes),
            Hashing::Beside(beside) => return beside.update(bytes),
        }
        Ok(())
    }

    pub fn finish(self) -> Result<[u8; 32]> {
        match self {
            Hashing::Here(hash) => Ok(hash.finish()),
            Hashing::Beside(beside) => beside.finish(),
        }
    }
}

/// A thread that hashes, and the buffers that go to it and come back.
pub(crate) struct Beside {
    filling: Vec<u8>,
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<[u8; 32]>,
}

impl Beside {
    fn new() -> Result<Self> {
        let (full, pieces) = sync_channel::<Vec<u8>>(WAITING);
        let (back, empty) = sync_channel(WAITING);
        for _ in 0..WAITING {
            // It has room for all of them.
            let _ = back.try_send(Vec::with_capacity(PIECE));
        }
        let thread = thread::Builder::new().spawn(move || {
            let mut hash = Sha256::default();
            for piece in pieces {
                hash.update(&piece);
                // Nobody takes it back once the file is written.
                let _ = back.send(piece);
            }
            hash.finish()
        });
        let thread = thread.map_err(Error::thread)?;
        Ok(Beside { filling: Vec::with_capacity(PIECE), full, empty, thread })
    }

    fn update(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(PIECE - self.filling.len()));
            self.filling.extend_from_slice(now);
            bytes = rest;
            if self.filling.len() == PIECE {
                let mut next = self.empty.recv().map_err(|_| gone())?;
                next.clear();
                self.full.send(std::mem::replace(&mut self.filling, next)).map_err(|_| gone())?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<[u8; 32]> {
        let Beside { filling, full, empty, thread } = self;
        drop(empty);
        full.send(filling).map_err(|_| gone())?;
        drop(full);
        thread.join().map_err(|_| gone())
    }
}

fn gone() -> Error {
    Error::bug("the thread that hashes a file stopped in the middle")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_same_wherever_it_is_taken() -> Result<()> {
        let bytes: Vec<u8> = (0..5 * PIECE + 77).map(|number| (number * number / 128) as u8).collect();
        for end in [0, 1, PIECE - 1, PIECE, PIECE + 1, bytes.len()] {
            for step in [1000, PIECE, 3 * PIECE] {
                for hashed in [Hashed::Here, Hashed::Beside] {
                    let mut hashing = Hashing::new(hashed)?.ok_or_else(gone)?;
                    bytes[..end].chunks(step).try_for_each(|bytes| hashing.update(bytes))?;
                    assert_eq!(hashing.finish()?, Sha256::of(&bytes[..end]), "{end} by {step}, {hashed:?}");
                }
            }
        }
        assert!(Hashing::new(Hashed::Not)?.is_none());
        Ok(())
    }
}
