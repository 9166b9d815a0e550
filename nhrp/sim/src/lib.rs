//! Whole DMVPN networks of real engines on a simulated network and clock, each from a seed.
//!
//! A seed makes a topology (hubs, spokes, members of other make, NATs, a hostile member), traffic, and what happens to
//! them. [`run`] plays it and says what rule of the network was broken first, if any: the rules stand in `check` (at
//! every step) and `settle` (when faults have stopped). The same seed always gives the same run, so that a failing one
//! can be looked at with its trace.
//!
//! With the feature `proof` the engines can be told to leave out one safety rule: the simulator has to notice.

#![forbid(unsafe_code)]

mod address;
mod check;
mod faults;
mod hostile;
mod node;
mod plan;
#[cfg(feature = "proof")]
pub mod proof;
mod rng;
pub mod scale;
mod settle;
mod underlay;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use nhrp::Rule;
use world::World;

/// What was broken, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Milliseconds since the world began.
    pub at_ms: u64,
    /// For people.
    pub what: String,
}

/// How much happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Things that happened: packets, timeouts, data, faults.
    pub events: u64,
    /// NHRP packets sent by engines.
    pub packets: u64,
    /// Attempts of the hostile member.
    pub attacks: u64,
    /// From the last fault until all was settled, milliseconds.
    pub settled_ms: u64,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The first breach.
    pub violation: Option<Violation>,
    /// How much happened.
    pub stats: Stats,
    /// All that happened, if it was asked for.
    pub trace: Vec<String>,
}

/// A rule by its name.
pub fn rule(name: &str) -> Option<Rule> {
    Rule::ALL.iter().copied().find(|rule| format!("{rule:?}") == name)
}

/// Plays a seed; `rule` is left out by all engines (only with the feature `proof`).
pub fn run(seed: u64, rule: Option<Rule>, traced: bool) -> Outcome {
    let mut world = World::new(seed, rule, traced);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = result {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
        world.fail(format!("panic: {text}"));
    }
    Outcome {
        violation: world.violation.take(),
        stats: world.stats,
        trace: world.trace.take().unwrap_or_default(),
    }
}
