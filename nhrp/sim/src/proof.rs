//! The proof of the simulator: a world whose engines leave out one safety rule is found out.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Rule, Violation, run};

/// The first seed (in their order) in which leaving out `rule` is noticed, and how many that took.
///
/// All cores work on it; what counts is the lowest seed, so that the answer is always the same.
pub fn find(rule: Rule, seeds: u64) -> Option<(u64, Violation)> {
    let next = AtomicU64::new(0);
    let best = AtomicU64::new(u64::MAX);
    let found: Mutex<Option<(u64, Violation)>> = Mutex::new(None);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || seed >= best.load(Ordering::Relaxed) {
                        return;
                    }
                    let Some(violation) = run(seed, Some(rule), false).violation else { continue };
                    best.fetch_min(seed, Ordering::Relaxed);
                    if let Ok(mut found) = found.lock() {
                        if found.as_ref().is_none_or(|(count, _)| seed + 1 < *count) {
                            *found = Some((seed + 1, violation));
                        }
                    }
                }
            });
        }
    });
    found.into_inner().ok().flatten()
}
