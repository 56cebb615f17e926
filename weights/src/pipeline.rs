//! Work that overlaps: weights are read and encoded by some threads, and taken in order by the one that writes.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use half::f16;
use snapc_ir::{Error, Result};

use crate::read::BLOCK;
use crate::stream::{Scratch, Stored};

/// Blocks of one weight that wait for the writer.
const WAITING: usize = 2;

/// A block that is handed from one thread to another.
enum Block {
    Bytes(Vec<u8>),
    Tables(Vec<f16>),
    Lengths(Vec<f32>),
}

/// How much is done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Threads that read and encode.
    pub jobs: usize,
    /// Bytes that they may hold together.
    pub memory: u64,
}

impl Default for Limits {
    /// As many threads as rayon has, and 26 MiB for each of them and no less than two.
    fn default() -> Self {
        let jobs = rayon::current_num_threads();
        Limits { jobs, memory: jobs.max(2) as u64 * (26 << 20) }
    }
}

/// What makes the bytes of one weight.
pub type Make<'a> =
    &'a (dyn Fn(usize, &mut Scratch, &mut dyn FnMut(Stored) -> Result<()>) -> Result<()> + Sync);

/// What takes them: the weight's number and some of its bytes.
pub type Take<'a> = &'a mut dyn FnMut(usize, Stored) -> Result<()>;

/// Makes weights 0, 1, .. on threads and takes what they give in order, on this one. `needs` holds the bytes that making each one
/// takes: one is begun only when it fits `limits.memory` beside those that are being made, the first of all always.
///
/// # Errors
/// The first, in order, of what making or taking finds; or that a thread cannot be started.
pub fn in_order(limits: Limits, needs: &[u64], make: Make, take: Take) -> Result<()> {
    if limits.jobs <= 1 {
        let mut scratch = Scratch::default();
        return (0..needs.len())
            .try_for_each(|number| make(number, &mut scratch, &mut |stored| take(number, stored)));
    }
    // Each thread has a heap of its own. What all have used up to now, the graphs for the most part, has left room in this thread's: the
    // large buffers take that.
    let workers = limits.jobs.min(needs.len());
    let most = needs.iter().copied().max().unwrap_or_default().min(limits.memory);
    let scratches: Vec<Scratch> = (0..workers).map(|_| Scratch::with_room(most)).collect();
    let waiting = WAITING * (workers + 1) + workers;
    let queue = Queue {
        state: Mutex::default(),
        freed: Condvar::new(),
        begun: Condvar::new(),
        buffers: Mutex::new((0..waiting).map(|_| Vec::with_capacity(BLOCK)).collect()),
        limits,
    };
    thread::scope(|scope| {
        let start = |scratch| thread::Builder::new().spawn_scoped(scope, || queue.work(needs, make, scratch));
        let workers: io::Result<Vec<_>> = scratches.into_iter().map(start).collect();
        let taken = match &workers {
            Ok(_) => (0..needs.len()).try_for_each(|number| queue.drain(number, take)),
            Err(error) => Err(Error::thread(error)),
        };
        if taken.is_err() {
            queue.stop();
        }
        for worker in workers.into_iter().flatten() {
            worker.join().map_err(|_| gone())?;
        }
        taken
    })
}

fn gone() -> Error {
    Error::bug("a thread that reads weights stopped in the middle")
}

#[derive(Default)]
struct State {
    /// The first weight that is not begun.
    next: usize,
    /// Where the blocks of those come from that are begun and not asked for, in order: no more than threads are ahead of the writer.
    begun: VecDeque<Receiver<Result<Block>>>,
    /// Bytes that those being made take.
    held: u64,
    /// How many were taken whole.
    taken: usize,
    /// Whether no more are to be begun.
    stopped: bool,
}

struct Queue {
    state: Mutex<State>,
    /// Told when bytes are given back.
    freed: Condvar,
    /// Told when a weight is begun, or none will be.
    begun: Condvar,
    /// Buffers that were written, for the blocks to come.
    buffers: Mutex<Vec<Vec<u8>>>,
    limits: Limits,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next weight as soon as it fits, and no further ahead of the writer than threads keep busy. The one that is waited for
    /// has been begun before: none waits for one behind it.
    fn next(&self, needs: &[u64]) -> Option<(usize, SyncSender<Result<Block>>)> {
        let mut state = self.state();
        loop {
            let number = state.next;
            let need = *needs.get(number).filter(|_| !state.stopped)?;
            let fits = number <= state.taken + self.limits.jobs;
            if fits && (state.held == 0 || state.held + need <= self.limits.memory) {
                let (sender, receiver) = sync_channel(WAITING);
                state.held += need;
                state.next += 1;
                state.begun.push_back(receiver);
                self.begun.notify_one();
                return Some((number, sender));
            }
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets no more be begun; what is being made finds that nobody listens.
    fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        state.begun.clear();
        drop(state);
        self.freed.notify_all();
        self.begun.notify_one();
    }

    /// The blocks of the next weight, once it is begun.
    fn blocks(&self) -> Result<Receiver<Result<Block>>> {
        let mut state = self.state();
        loop {
            if let Some(blocks) = state.begun.pop_front() {
                return Ok(blocks);
            }
            if state.stopped {
                return Err(gone());
            }
            state = self.begun.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self, needs: &[u64], make: Make, mut scratch: Scratch) {
        while let Some((number, sender)) = self.next(needs) {
            let _held = Held { queue: self, need: needs[number] };
            let stopped = || Error::bug("the writer stopped");
            let made = make(number, &mut scratch, &mut |stored| {
                let block = match stored {
                    Stored::Bytes(bytes) => Block::Bytes(self.filled(bytes)),
                    Stored::Tables(tables) => Block::Tables(tables),
                    Stored::Lengths(lengths) => Block::Lengths(lengths),
                };
                sender.send(Ok(block)).map_err(|_| stopped())
            });
            if let Err(error) = made {
                // Nobody listens only where another error has been found before.
                let _ = sender.send(Err(error));
            }
        }
    }

    fn drain(&self, number: usize, take: Take) -> Result<()> {
        for block in self.blocks()? {
            match block? {
                Block::Bytes(bytes) => {
                    take(number, Stored::Bytes(&bytes))?;
                    self.buffers().push(bytes);
                }
                Block::Tables(tables) => take(number, Stored::Tables(tables))?,
                Block::Lengths(lengths) => take(number, Stored::Lengths(lengths))?,
            }
        }
        self.state().taken += 1;
        self.freed.notify_all();
        Ok(())
    }

    fn buffers(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filled(&self, bytes: &[u8]) -> Vec<u8> {
        let mut buffer = self.buffers().pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        buffer
    }
}

/// Bytes that are given back also by a thread that panics, which begins no more weights and so lets none wait for one.
struct Held<'a> {
    queue: &'a Queue,
    need: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.queue.state().held -= self.need;
        self.queue.freed.notify_all();
        if thread::panicking() {
            self.queue.stop();
        }
    }
}
