//! Some seeds of the simulator in every test run (`make sim SEEDS=n` plays as many as one likes).

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const SEEDS: u64 = 200;

#[test]
fn networks_keep_their_rules() {
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    if let Some(violation) = nhrp_sim::run(seed, None, false).violation {
                        failed.lock().unwrap().push((seed, violation));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    for (seed, violation) in &failed {
        println!("seed {seed} fails after {} ms: {}", violation.at_ms, violation.what);
        println!("look at it: cargo run -q --profile sim -p nhrp-sim -- replay {seed}");
    }
    assert!(failed.is_empty(), "{} of {SEEDS} seeds fail", failed.len());
}

/// Seeds that found something: a trial of a way that a withdrawal had stopped, and nobody began again.
#[test]
fn what_was_found_stays_mended() {
    for seed in [1_055_987, 1_091_430] {
        let violation = nhrp_sim::run(seed, None, false).violation;
        assert!(violation.is_none(), "seed {seed}: {violation:?}");
    }
}

/// A seed is a run: the same one gives the same trace.
#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 4, 11] {
        let first = nhrp_sim::run(seed, None, true);
        let again = nhrp_sim::run(seed, None, true);
        assert!(first.trace.len() > 500);
        assert!(first.trace == again.trace, "seed {seed}");
    }
}
