//! Threads that wait for work without going to sleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Runs that are under way in this process.
static RUNS: AtomicUsize = AtomicUsize::new(0);

/// Pauses between two looks at the queues.
const PAUSES: usize = 64;

/// A run that is under way, until it is dropped.
struct Run {
    over: Arc<AtomicBool>,
}

impl Run {
    fn begin() -> Self {
        RUNS.fetch_add(1, Ordering::SeqCst);
        Run { over: Arc::default() }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        RUNS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Does `work` on a thread of rayon's pool while the pool's others look for pieces of it without going to sleep: a graph has thousands of
/// ops, and a thread that sleeps takes as long to wake as a small op takes.
pub fn awake<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|scope| {
        let own = rayon::current_thread_index();
        let run = Run::begin();
        let over = run.over.clone();
        scope.spawn_broadcast(move |_, thread| {
            // With two runs each could wait below the other's watch; then nobody watches.
            let watches = || !over.load(Ordering::SeqCst) && RUNS.load(Ordering::SeqCst) == 1;
            while Some(thread.index()) != own && watches() {
                if rayon::yield_now() != Some(rayon::Yield::Executed) {
                    (0..PAUSES).for_each(|_| std::hint::spin_loop());
                }
            }
        });
        let result = work();
        drop(run);
        result
    })
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    fn pool() -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap()
    }

    fn sum() -> u64 {
        awake(|| (0..200_000u64).into_par_iter().map(|x| x % 7).sum())
    }

    #[test]
    fn runs_beside_and_inside_each_other_end() {
        let expected: u64 = (0..200_000u64).map(|x| x % 7).sum();
        let beside: Vec<u64> = pool().install(|| (0..40).into_par_iter().map(|_| sum()).collect());
        assert_eq!(beside, [expected; 40]);
        let inside: Vec<u64> = pool().install(|| awake(|| (0..40).into_par_iter().map(|_| sum()).collect()));
        assert_eq!(inside, [expected; 40]);
    }

    #[test]
    fn a_panic_ends_the_watch() {
        let run = || pool().install(|| awake(|| panic!("as it should")));
        assert!(std::panic::catch_unwind(run).is_err());
    }
}
