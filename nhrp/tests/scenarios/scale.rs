//! Thousands of spokes on one hub, within seconds of real time.

#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "the only test about real time")]

use std::time::Instant;

use nhrp::{Counters, RouteKind};

use super::net::*;

#[test]
fn two_thousand_spokes_on_one_hub() {
    let start = Instant::now();
    let mut sim = Net::new(90);
    sim.record = false;
    let h = sim.add(hub(1));
    for n in 0..2000u32 {
        // A LAN behind each eighth.
        let lan = format!("10.{}.{}.0/24", n / 250, n % 250);
        let mut config = spoke(2 + n, if n % 8 == 0 { std::slice::from_ref(&lan) } else { &[] });
        config.holding_time = 600;
        sim.add(config);
        if n % 100 == 0 {
            sim.run(20);
        }
    }
    sim.run(20_000);
    assert_eq!(sim.nodes[h].neighbours.len(), 2000);
    assert_eq!(sim.nodes[h].routes.len(), 2250);
    for index in 1..=2000 {
        assert!(sim.registered(index), "{index}");
        let told = sim.nodes[index].routes.keys().filter(|(_, kind)| *kind == RouteKind::Announced).count();
        assert_eq!(told, if index % 8 == 1 { 249 } else { 250 }, "{index}");
    }
    // Settled: only refreshes from now on.
    let before = sim.sent;
    sim.run(200_000);
    let refreshes = sim.sent - before;
    assert!((4000..=4600).contains(&refreshes), "{refreshes}");
    let counters: Counters = sim.snapshot(h).counters;
    assert!(counters.drops.is_empty(), "{:?}", counters.drops);
    println!("{} packets, {} ms", sim.sent, start.elapsed().as_millis());
    assert!(start.elapsed().as_secs() < 60);
}
