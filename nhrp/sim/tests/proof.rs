//! The simulator proves itself: with each safety rule left out, one at a time, it finds the breach.

use nhrp_sim::Rule;

const SEEDS: u64 = 1000;

#[test]
fn each_rule_left_out_is_noticed() {
    let mut missed = Vec::new();
    for rule in Rule::ALL {
        match nhrp_sim::proof::find(*rule, SEEDS) {
            Some((seeds, violation)) => println!("{rule:?}: {seeds} seeds ({})", violation.what),
            None => missed.push(rule),
        }
    }
    assert!(missed.is_empty(), "not noticed in {SEEDS} seeds: {missed:?}");
}
