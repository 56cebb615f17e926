//! Memory of a run's values: planned from the lifetimes that the first run shows, and kept for those that follow.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kernels::copy;
use crate::plan::{Lifetime, most, plan};

/// Smaller buffers are left to the allocator.
const SMALL: usize = 1 << 12;

/// Numbers of a value, the first ones of what was asked of the system: what lies behind them waits for a longer value.
#[derive(Debug, Default)]
pub struct Buffer {
    all: Vec<f32>,
    count: usize,
    /// Which one of this run it is.
    number: Option<usize>,
}

impl From<Vec<f32>> for Buffer {
    fn from(all: Vec<f32>) -> Self {
        Buffer { count: all.len(), all, number: None }
    }
}

impl From<Buffer> for Vec<f32> {
    fn from(mut buffer: Buffer) -> Self {
        buffer.all.truncate(buffer.count);
        buffer.all
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.all[..self.count]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.all[..self.count]
    }
}

/// Buffers for the values of a graph. The first run takes one that was read for the last time, where it fits. It shows how long each lives, and
/// the next ones have a place planned for each, which is not asked of the system again, nor filled with zeros.
#[derive(Debug, Default)]
pub struct Pool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was read for the last time, before there is a plan and besides it.
    free: Vec<Vec<f32>>,
    /// The buffers of this run, in the order that they were asked for.
    lifetimes: Vec<Lifetime>,
    /// Events of this run.
    clock: usize,
    /// Whether the run came to its end: one that fails is no plan.
    whole: bool,
    /// For each buffer of a run, its size and its place.
    plan: Vec<(usize, usize)>,
    /// The places: their sizes, and what is not in use.
    places: Vec<(usize, Option<Vec<f32>>)>,
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a run: what the one before it showed is planned for.
    pub fn begin(&self) {
        let mut state = self.state();
        let lifetimes = std::mem::take(&mut state.lifetimes);
        state.clock = 0;
        let whole = std::mem::take(&mut state.whole);
        if whole && state.plan.is_empty() && !lifetimes.is_empty() {
            let (places, sizes) = plan(&lifetimes);
            state.plan = lifetimes.iter().map(|lifetime| lifetime.count).zip(places).collect();
            state.places = sizes.into_iter().map(|size| (size, None)).collect();
            state.free.clear();
        }
    }

    /// Ends a run that gave its results.
    pub fn end(&self) {
        self.state().whole = true;
    }

    /// A buffer of `count` numbers. Whoever takes it writes each of them: they are whatever was there.
    pub fn take(&self, count: usize) -> Buffer {
        if count < SMALL {
            return vec![0.0; count].into();
        }
        let mut state = self.state();
        let number = state.lifetimes.len();
        let from = state.clock;
        state.lifetimes.push(Lifetime { count, from, to: usize::MAX });
        state.clock += 1;
        let all = state.planned(number, count).or_else(|| state.fitting(count));
        drop(state);
        Buffer { all: all.unwrap_or_else(|| vec![0.0; count]), count, number: Some(number) }
    }

    /// A buffer with these numbers.
    pub fn copy(&self, values: &[f32]) -> Buffer {
        let mut copied = self.take(values.len());
        copy(&mut copied, values);
        copied
    }

    /// Takes a buffer back.
    pub fn give(&self, buffer: Buffer) {
        if buffer.all.len() < SMALL {
            return;
        }
        let mut state = self.state();
        let clock = state.clock;
        state.clock += 1;
        let Some(number) = buffer.number.filter(|&number| number < state.lifetimes.len()) else {
            if state.plan.is_empty() {
                state.free.push(buffer.all);
            }
            return;
        };
        state.lifetimes[number].to = clock;
        let place = state.plan.get(number).map(|&(_, place)| place);
        match place.and_then(|place| state.places.get_mut(place)) {
            Some((size, unused)) if *size == buffer.all.len() => *unused = Some(buffer.all),
            _ => state.free.push(buffer.all),
        }
    }

    /// Numbers of all places that are planned, and the most that the last run's values were at once.
    pub fn planned(&self) -> [usize; 2] {
        let state = self.state();
        [state.places.iter().map(|(size, _)| size).sum(), most(&state.lifetimes)]
    }

    /// Buffers besides the plan.
    #[cfg(test)]
    pub fn besides(&self) -> usize {
        self.state().free.len()
    }
}

impl State {
    /// The place that is planned for a buffer, where the run goes as the first one did.
    fn planned(&mut self, number: usize, count: usize) -> Option<Vec<f32>> {
        let (_, place) = *self.plan.get(number).filter(|(planned, _)| *planned == count)?;
        let (size, unused) = &mut self.places[place];
        Some(unused.take().unwrap_or_else(|| vec![0.0; *size]))
    }

    /// The smallest free one that is not too large. Where none fits as much is freed as is to be made, so that what is kept does not
    /// add to the peak.
    fn fitting(&mut self, count: usize) -> Option<Vec<f32>> {
        let fits = |buffer: &Vec<f32>| (count..=2 * count).contains(&buffer.len());
        let free = &mut self.free;
        let best = (0..free.len()).filter(|&at| fits(&free[at])).min_by_key(|&at| free[at].len());
        if let Some(best) = best {
            return Some(free.swap_remove(best));
        }
        let mut freed = 0;
        while freed < count
            && let Some(buffer) = free.pop()
        {
            freed += buffer.len();
        }
        None
    }
}
