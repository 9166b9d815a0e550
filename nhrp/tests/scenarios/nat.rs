//! Spokes behind NAT, without IPsec: direct where the NAT lets others in (1:1), by the hub where it does not.

use nhrp::wire::CieCode;
use nhrp::{Config, Event, NhsPhase, ShortcutPhase};

use super::net::*;

/// Spoke `n` with a private underlay address.
fn private(n: u32, subnet: &str) -> Config {
    let mut config = spoke(n, &[subnet]);
    config.nbma = Some(ip(&format!("192.168.1.{n}")));
    config
}

/// Hub 0, spoke 1 in the open, spoke 2 behind `nbma(3)`.
fn natted(seed: u64, one_to_one: bool) -> Net {
    let mut sim = Net::new(seed);
    sim.add(hub(1));
    sim.add(spoke(2, &["10.2.0.0/24"]));
    let b = sim.add_natted(private(3, "10.3.0.0/24"), nbma(3));
    sim.nodes[b].one_to_one = one_to_one;
    sim.run(500);
    sim.watch(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.watch(B, ip("10.3.0.5"), ip("10.2.0.5"));
    sim
}

const A: usize = 1;
const B: usize = 2;

#[test]
fn one_to_one_nat_is_direct_both_ways() {
    let mut sim = natted(70, true);
    assert_eq!(sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5")), [A, 0, B]);
    assert_eq!(sim.ping(B, ip("10.3.0.5"), ip("10.2.0.5")), [B, 0, A]);
    sim.run(2_000);
    for _ in 0..100 {
        assert_eq!(sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5")), [A, B]);
        assert_eq!(sim.ping(B, ip("10.3.0.5"), ip("10.2.0.5")), [B, A]);
        sim.run(1000);
    }
    assert_eq!(sim.nodes[A].neighbours[&overlay(3)], nbma(3), "its public address");
}

#[test]
fn a_way_that_has_fallen_silent_is_proven_anew() {
    let mut sim = Net::new(76);
    sim.add(Config { holding_time: 15, ..hub(1) });
    sim.add(Config { holding_time: 15, ..spoke(2, &["10.2.0.0/24"]) });
    let b = sim.add_natted(Config { holding_time: 15, ..private(3, "10.3.0.0/24") }, nbma(3));
    sim.nodes[b].one_to_one = true;
    sim.run(500);
    let there = ip("10.3.0.5");
    sim.ping(A, ip("10.2.0.5"), there);
    // It registers after this shortcut was made, so that its registration ends later.
    sim.run(9_000);
    assert_eq!(sim.path(A, there).unwrap(), [A, B]);
    // The way is blocked while the egress's agent is away, who could say that it is there: the shortcut ends with its time.
    sim.cut.extend([(nbma(2), nbma(3)), (nbma(3), nbma(2))]);
    sim.nodes[b].alive = false;
    sim.until(20_000, |sim| !sim.nodes[A].neighbours.contains_key(&overlay(3)));
    sim.nodes[b].alive = true;
    assert!(sim.nodes[0].neighbours.contains_key(&overlay(3)), "still registered");
    // Now it answers, by the hub. That the way was good less than a minute ago counts for nothing.
    for _ in 0..30 {
        assert_eq!(sim.ping(A, ip("10.2.0.5"), there), [A, 0, B]);
        sim.run(1_000);
    }
}

#[test]
fn masquerade_stays_on_the_hub_both_ways() {
    let mut sim = natted(71, false);
    for _ in 0..300 {
        assert_eq!(sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5")), [A, 0, B]);
        assert_eq!(sim.ping(B, ip("10.3.0.5"), ip("10.2.0.5")), [B, 0, A]);
        sim.run(1000);
    }
    let reason = |index: usize| {
        let shortcuts = sim.snapshot(index).shortcuts;
        let negative = shortcuts.iter().find(|it| it.phase == ShortcutPhase::Negative);
        negative.map(|it| it.reason.clone()).unwrap_or_default()
    };
    assert_eq!(reason(A), "the egress 10.255.0.3 is behind NAT at 198.18.0.3, which lets nobody in");
    assert_eq!(reason(B), "no answer: we are behind NAT at 198.18.0.3, where nobody gets in");
}

#[test]
fn a_nat_that_rebinds_is_followed() {
    let mut sim = natted(72, false);
    sim.watched.clear();
    sim.rebind(B, nbma(33));
    let took = sim.until(15_000, |sim| sim.nodes[0].neighbours.get(&overlay(3)) == Some(&nbma(33)));
    assert!(took <= 11_100, "the next registration and the probe of the old address: {took}");
    let moved = |event: &Event| matches!(event, Event::Moved { to, .. } if *to == nbma(33));
    assert!(sim.has_event(0, moved));
    assert_eq!(sim.path(A, ip("10.3.0.5")).unwrap(), [A, 0, B]);
}

#[test]
fn the_second_behind_one_address_is_refused_by_name_and_takes_nothing() {
    let mut sim = natted(73, false);
    // A NAT that gives the hub's packets to whoever sent last cuts the first one off, whatever the hub does.
    sim.watched.clear();
    let c = sim.add_natted(private(4, "10.4.0.0/24"), nbma(3));
    sim.run(3_000);
    assert!(!sim.nodes[0].neighbours.contains_key(&overlay(4)));
    assert_eq!(sim.nodes[0].neighbours[&overlay(3)], nbma(3));
    let told = sim.nodes[0].events.iter().find_map(|event| match event {
        Event::RegistrationRefused { overlay: claim, code, reason, .. } if *claim == overlay(4) => {
            Some((*code, reason.clone()))
        }
        _ => None,
    });
    let (code, reason) = told.unwrap();
    assert_eq!(code, CieCode::AdministrativelyProhibited);
    assert!(reason.starts_with("10.255.0.3 is registered from behind the same NAT address"), "{reason}");
    let state = &sim.nodes[c].engine.nhs_states(sim.now)[0];
    assert_eq!(
        (state.phase, state.reason_code.as_str()),
        (NhsPhase::Expecting, "AdministrativelyProhibited")
    );
    // When the first has gone, its place is free.
    sim.input(B, nhrp::Input::Withdraw);
    sim.nodes[B].alive = false;
    sim.until(70_000, |sim| sim.nodes[0].neighbours.contains_key(&overlay(4)));
}

#[test]
fn one_host_with_two_overlay_addresses_is_no_second() {
    let mut sim = Net::new(74);
    let mut dual = hub(1);
    dual.local.push(ip("fd00:255::1"));
    dual.overlay.push(net("fd00:255::/64"));
    sim.add(dual);
    let mut config = private(3, "10.3.0.0/24");
    config.local.push(ip("fd00:255::3"));
    config.overlay.push(net("fd00:255::/64"));
    config.nhs[0].overlay.push(ip("fd00:255::1"));
    let b = sim.add_natted(config, nbma(3));
    sim.run(500);
    assert!(sim.registered(b));
    assert_eq!(sim.nodes[0].neighbours.len(), 2);
}
