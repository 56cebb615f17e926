//! Loops that are worth writing with care. Each is tested against the plain loop that says what it computes. Every number of a result
//! is summed up in one order, whatever the number of threads.

use std::cell::RefCell;

use pulp::Arch;
use rayon::prelude::*;

pub mod attend;
pub mod broadcast;
pub mod conv;
pub mod functions;
pub mod panels;
pub mod product;
pub mod rows;
pub mod tile;

/// Numbers that one thread changes at once.
pub const BLOCK: usize = 1 << 14;

/// Runs plain loops compiled for the widest vectors of this CPU.
#[inline(always)]
pub fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(work)
}

/// Blocks of `size` numbers, on all threads where there are several. `work` gets a block's number.
pub fn blocks(values: &mut [f32], size: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let size = size.max(1);
    if values.len() <= size {
        if !values.is_empty() {
            work(0, values);
        }
        return;
    }
    values.par_chunks_mut(size).enumerate().for_each(|(number, block)| work(number, block));
}

/// Blocks of whole rows of `length` numbers, of about [`BLOCK`] numbers. `work` gets the first row's number.
pub fn row_blocks(values: &mut [f32], length: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = (BLOCK / length.max(1)).max(1);
    blocks(values, rows * length, |number, block| work(number * rows, block));
}

/// Runs `work` with room for so many numbers, whatever they are: what this thread had before, where there was any.
pub fn with_room<R>(count: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        /// One for each of those that are at work inside each other.
        static ROOMS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
    }
    let mut room = ROOMS.with_borrow_mut(Vec::pop).unwrap_or_default();
    if room.len() < count {
        room.resize(count, 0.0);
    }
    let result = work(&mut room[..count]);
    ROOMS.with_borrow_mut(|rooms| rooms.push(room));
    result
}

/// Changes every number.
pub fn map(values: &mut [f32], of: impl Fn(f32) -> f32 + Sync) {
    blocks(values, BLOCK, |_, block| {
        vectorised(
            #[inline(always)]
            || {
                for x in block {
                    *x = of(*x);
                }
            },
        )
    });
}

/// Copies numbers.
pub fn copy(to: &mut [f32], from: &[f32]) {
    blocks(to, BLOCK, |number, block| block.copy_from_slice(&from[number * BLOCK..][..block.len()]));
}

/// Adds a row to each row.
pub fn add_row(values: &mut [f32], row: &[f32]) {
    add_row_at(values, row.len(), row);
}

/// Adds a row to each row, which are `stride` apart.
pub fn add_row_at(values: &mut [f32], stride: usize, row: &[f32]) {
    row_blocks(values, stride, |_, block| {
        vectorised(
            #[inline(always)]
            || {
                for line in block.chunks_mut(stride.max(1)) {
                    line.iter_mut().zip(row).for_each(|(x, y)| *x += y);
                }
            },
        );
    });
}
