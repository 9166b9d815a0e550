//! Who gets multicast.

use std::net::IpAddr;

use nhrp::{Multicast, StaticBinding};

use super::net::*;

fn peers(sim: &Net, index: usize, mode: Multicast, from: Option<IpAddr>) -> Vec<IpAddr> {
    sim.nodes[index].engine.multicast_peers(mode, ip("224.0.0.5"), from)
}

#[test]
fn dynamic_follows_registrations_both_ways() {
    let mut sim = Net::new(80);
    let h = sim.add(hub(1));
    let a = sim.add(spoke(2, NO_LAN));
    sim.add(spoke(3, NO_LAN));
    assert!(peers(&sim, h, Multicast::Dynamic, None).is_empty(), "nobody has registered yet");
    assert!(peers(&sim, a, Multicast::Dynamic, None).is_empty(), "the hub has not answered yet");
    sim.run(500);
    assert_eq!(peers(&sim, h, Multicast::Dynamic, None), [nbma(2), nbma(3)]);
    assert_eq!(peers(&sim, h, Multicast::Dynamic, Some(nbma(2))), [nbma(3)], "never back");
    assert_eq!(peers(&sim, a, Multicast::Dynamic, None), [nbma(1)]);
    assert_eq!(peers(&sim, a, Multicast::Nhs, None), [nbma(1)]);
    assert!(peers(&sim, h, Multicast::Nhs, None).is_empty());
    assert!(peers(&sim, a, Multicast::Dynamic, Some(nbma(1))).is_empty());
    let six = sim.nodes[h].engine.multicast_peers(Multicast::Dynamic, ip("ff02::5"), None);
    assert!(six.is_empty(), "nobody has an IPv6 overlay address");
    // A shortcut's egress is no registered peer, and a hub that is silent is not in use.
    sim.nodes[h].alive = false;
    sim.run(40_000);
    assert!(peers(&sim, a, Multicast::Nhs, None).is_empty());
    sim.nodes[h].alive = true;
    sim.nodes[a].alive = false;
    sim.run(70_000);
    assert_eq!(peers(&sim, h, Multicast::Dynamic, None), [nbma(3)], "whose registration ended is out");
}

#[test]
fn statics_are_a_list_of_their_own() {
    let mut sim = Net::new(81);
    let mut config = hub(1);
    config.statics = vec![StaticBinding { overlay: overlay(9), nbma: nbma(9), prefixes: Vec::new() }];
    let h = sim.add(config);
    sim.add(spoke(2, NO_LAN));
    sim.run(500);
    assert_eq!(peers(&sim, h, Multicast::Static, None), [nbma(9)]);
    assert_eq!(peers(&sim, h, Multicast::Dynamic, None), [nbma(2)]);
}

#[test]
fn hubs_that_are_each_others_clients_send_nothing_round() {
    let mut sim = Net::new(82);
    for n in 1..=3 {
        let mut config = hub(n);
        config.nhs = (1..=3).filter(|other| *other != n).map(nhs).collect();
        sim.add(config);
    }
    let mut config = spoke(10, NO_LAN);
    config.nhs = vec![nhs(1)];
    sim.add(config);
    let mut config = spoke(20, NO_LAN);
    config.nhs = vec![nhs(2)];
    sim.add(config);
    sim.run(2000);
    // Spoke 10 → hub 1 → the other hubs → their spokes, and no further.
    assert_eq!(peers(&sim, 0, Multicast::Dynamic, Some(nbma(10))), [nbma(2), nbma(3)]);
    assert_eq!(peers(&sim, 1, Multicast::Dynamic, Some(nbma(1))), [nbma(20)]);
    assert!(peers(&sim, 2, Multicast::Dynamic, Some(nbma(1))).is_empty());
}
