use std::sync::{Mutex, PoisonError};

use crate::kernels::copy;

/// Buffers that were read for the last time, for the results to come: pages that are there need not be asked of the system again.
#[derive(Debug, Default)]
pub struct Pool {
    free: Mutex<Vec<Vec<f32>>>,
}

/// Smaller buffers are left to the allocator.
const SMALL: usize = 1 << 12;

impl Pool {
    /// A buffer of `count` numbers. Whoever takes it writes each of them: they are whatever was there.
    pub fn take(&self, count: usize) -> Vec<f32> {
        if count < SMALL {
            return vec![0.0; count];
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Vec<f32>| (count..=2 * count).contains(&buffer.capacity());
        let best = (0..free.len()).filter(|&at| fits(&free[at])).min_by_key(|&at| free[at].capacity());
        if let Some(best) = best {
            let mut buffer = free.swap_remove(best);
            buffer.resize(count, 0.0);
            return buffer;
        }
        // None fits: as much is freed as is made, so that what is kept does not add to the peak.
        let mut freed = 0;
        while freed < count
            && let Some(buffer) = free.pop()
        {
            freed += buffer.capacity();
        }
        drop(free);
        vec![0.0; count]
    }

    /// A buffer with these numbers.
    pub fn copy(&self, values: &[f32]) -> Vec<f32> {
        let mut copied = self.take(values.len());
        copy(&mut copied, values);
        copied
    }

    /// Takes a buffer back.
    pub fn give(&self, buffer: Vec<f32>) {
        if buffer.capacity() >= SMALL {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}
