//! Registration: life of a binding, refusals and their reasons, authentication, NAT, moves.

use nhrp::wire::{Cie, CieCode, Message, ext};
use nhrp::{DropReason, Event, Input, NhsPhase, PacketType, RouteKind, Source, StaticBinding, Uniqueness};

use super::net::*;

#[test]
fn register_refresh_and_expire() {
    let mut sim = Net::new(1);
    let h = sim.add(hub(1));
    let s = sim.add(spoke(2, NO_LAN));
    // The hub's binding is there before any answer.
    assert_eq!(sim.nodes[s].neighbours[&overlay(1)], nbma(1));
    assert_eq!(sim.nodes[s].engine.nhs_states(sim.now)[0].reason_code, "Registering");
    let took = sim.until(50, |sim| sim.registered(s));
    assert!(took <= 10, "one round trip, not {took} ms");
    assert_eq!(sim.nodes[h].neighbours[&overlay(2)], nbma(2));
    assert_eq!(sim.nodes[h].routes[&(net("10.255.0.2/32"), RouteKind::Host)], overlay(2));
    assert!(
        sim.has_event(h, |event| matches!(event, Event::Registered { overlay: o, .. } if *o == overlay(2)))
    );
    assert!(sim.has_event(s, |event| matches!(event, Event::NhsUp { name, .. } if name == "hub1")));
    let state = &sim.nodes[s].engine.nhs_states(sim.now)[0];
    assert_eq!((state.reason_code.as_str(), state.requests_sent, state.replies_received), ("", 1, 1));

    sim.run(300_000);
    let times: Vec<_> = sim
        .wire
        .iter()
        .filter(|sent| sent.is(PacketType::RegistrationRequest) && sent.from == nbma(2))
        .map(|sent| sent.at)
        .collect();
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    // A third of 60 s, less up to a tenth, plus the round trip.
    assert!(gaps.iter().all(|gap| (18_000..=20_010).contains(gap)), "{gaps:?}");
    assert!(gaps.windows(2).any(|pair| pair[0] != pair[1]), "no jitter: {gaps:?}");
    let ids: std::collections::BTreeSet<_> = sim
        .wire
        .iter()
        .filter(|sent| sent.is(PacketType::RegistrationRequest) && sent.from == nbma(2))
        .map(|sent| sent.message.header.request_id)
        .collect();
    assert_eq!(ids.len(), times.len(), "a new id for each new request");
    // Refreshes change nothing in the kernel.
    assert_eq!(sim.nodes[h].events.len(), 1, "{:?}", sim.nodes[h].events);

    sim.nodes[s].alive = false;
    sim.run(61_000);
    assert!(sim.has_event(h, |event| matches!(event, Event::Expired { overlay: o, .. } if *o == overlay(2))));
    assert!(sim.nodes[h].neighbours.is_empty() && sim.nodes[h].routes.is_empty());
}

#[test]
fn retransmits_with_the_same_id_then_down() {
    let mut sim = Net::new(2);
    let s = sim.add(spoke(2, NO_LAN));
    sim.run(400_000);
    let sent: Vec<_> = sim.wire.iter().map(|sent| (sent.at, sent.message.header.request_id)).collect();
    assert!(sent.iter().all(|(_, id)| *id == sent[0].1));
    let gaps: Vec<_> = sent.windows(2).map(|pair| pair[1].0.since(pair[0].0)).collect();
    for (gap, nominal) in gaps.iter().zip([1, 2, 4, 8, 8, 8, 8, 8, 8]) {
        assert!((nominal * 900..=nominal * 1000).contains(gap), "{gap} for {nominal} s");
    }
    let state = &sim.nodes[s].engine.nhs_states(sim.now)[0];
    assert_eq!((state.phase, state.reason_code.as_str()), (NhsPhase::Expecting, "NoAnswer"));
    assert!(state.requests_failed >= 3);
    let downs = sim.nodes[s].events.iter().filter(|event| matches!(event, Event::NhsDown { .. })).count();
    assert_eq!(downs, 1, "said once");
    // The binding of the hub stays: the kernel can still reach it.
    assert_eq!(sim.nodes[s].neighbours[&overlay(1)], nbma(1));

    let h = sim.add(hub(1));
    sim.until(8_000, |sim| sim.registered(s));
    assert_eq!(sim.nodes[h].neighbours[&overlay(2)], nbma(2));
}

#[test]
fn several_nbma_addresses_are_tried_in_turn() {
    let mut sim = Net::new(3);
    let mut config = spoke(2, NO_LAN);
    config.nhs[0].nbma = vec![nbma(99), nbma(1)];
    sim.add(hub(1));
    let s = sim.add(config);
    let took = sim.until(10_000, |sim| sim.registered(s));
    assert!((1_300..=1_600).contains(&took), "three misses of half a second, not {took} ms");
    assert_eq!(sim.nodes[s].neighbours[&overlay(1)], nbma(1));
}

fn reason(sim: &Net, s: usize) -> String {
    sim.nodes[s].engine.nhs_states(sim.now)[0].reason_code.clone()
}

#[test]
fn refusals_have_their_reasons() {
    let mut sim = Net::new(4);
    let mut config = hub(1);
    let mapped = StaticBinding { overlay: overlay(50), nbma: nbma(50), prefixes: vec![net("10.50.0.0/24")] };
    config.statics = vec![mapped];
    let h = sim.add(config);
    assert_eq!(sim.nodes[h].routes[&(net("10.50.0.0/24"), RouteKind::Registered)], overlay(50));

    let mut outside = spoke(2, NO_LAN);
    outside.local = vec![ip("10.254.0.2")];
    let outside = sim.add(outside);
    let mut hubs_own = spoke(3, NO_LAN);
    hubs_own.local = vec![overlay(1)];
    hubs_own.nhs[0].overlay = Vec::new();
    let hubs_own = sim.add(hubs_own);
    let mut static_one = spoke(4, NO_LAN);
    static_one.local = vec![overlay(50)];
    let static_one = sim.add(static_one);
    sim.run(100);
    assert_eq!(reason(&sim, outside), "AdministrativelyProhibited");
    assert_eq!(reason(&sim, hubs_own), "AddressTaken");
    assert_eq!(reason(&sim, static_one), "AddressTaken");
    assert!(sim.has_event(h, |event| {
        matches!(event, Event::AddressConflict { overlay: o, claimant, .. } if *o == overlay(50) && *claimant == nbma(4))
    }));
    assert!(sim.has_event(h, |event| {
        matches!(event, Event::RegistrationRefused { code: CieCode::AdministrativelyProhibited, .. })
    }));
    for sent in sim.wire.iter().filter(|sent| sent.is(PacketType::RegistrationReply)) {
        assert!(sent.message.cies.iter().all(|cie| cie.code != 0 && cie.holding_time == 0));
    }
    assert_eq!(sim.nodes[h].neighbours[&overlay(50)], nbma(50), "the static mapping stands");
    assert!(!sim.nodes[h].neighbours.contains_key(&ip("10.254.0.2")));
    // Refused ones try again, more and more rarely.
    let before = sim.wire.iter().filter(|sent| sent.from == nbma(2)).count();
    sim.run(60_000);
    let tries = sim.wire.iter().filter(|sent| sent.from == nbma(2)).count() - before;
    assert!((5..=7).contains(&tries), "{tries}");

    // The owner of a static mapping may well register it.
    let mut owner = spoke(50, NO_LAN);
    owner.nbma = Some(nbma(50));
    let owner = sim.add(owner);
    sim.until(100, |sim| sim.registered(owner));
}

#[test]
fn authentication_right_wrong_and_rotated() {
    let mut sim = Net::new(5);
    let mut config = hub(1);
    config.authentication = vec!["new-one".into(), "s3cret".into()];
    let h = sim.add(config);
    let mut good = spoke(2, NO_LAN);
    good.authentication = vec!["s3cret".into()];
    let good = sim.add(good);
    let mut bad = spoke(3, NO_LAN);
    bad.authentication = vec!["S3cret".into()];
    let bad = sim.add(bad);
    let none = sim.add(spoke(4, NO_LAN));
    sim.run(100);
    assert!(sim.registered(good), "the second password counts too");
    assert_eq!(reason(&sim, bad), "AuthenticationFailed");
    assert_eq!(reason(&sim, none), "AuthenticationFailed");
    let counters = sim.snapshot(h).counters;
    assert_eq!(counters.dropped(DropReason::Authentication), 2);
    assert_eq!(counters.sent.error_indication, 2);
    // The reply speaks with the password that the client knows, once.
    for sent in sim.wire.iter().filter(|sent| sent.is(PacketType::RegistrationReply)) {
        let auth: Vec<_> =
            sent.message.extensions.iter().flatten().filter(|it| it.kind == ext::AUTHENTICATION).collect();
        assert_eq!(auth.len(), 1);
        assert_eq!(auth[0].value, b"\x00\x00\x00\x01s3cret");
    }
    // No secret in what people read.
    for node in &sim.nodes {
        let text = format!("{:?} {:?}", node.events, node.engine.snapshot(sim.now));
        assert!(!text.contains("s3cret") && !text.contains("S3cret"));
    }
}

#[test]
fn a_hub_that_proves_nothing_is_not_taken_for_a_silent_one() {
    let mut sim = Net::new(8);
    sim.add(hub(1));
    let mut config = spoke(2, NO_LAN);
    config.authentication = vec!["s3cret".into()];
    let s = sim.add(config);
    sim.run(20_000);
    assert!(!sim.registered(s));
    assert_eq!(reason(&sim, s), "AuthenticationFailed");
}

#[test]
fn hub_address_learned() {
    let mut sim = Net::new(6);
    let h = sim.add(hub(1));
    let mut config = spoke(2, &["10.2.0.0/24"]);
    config.nhs[0].overlay = Vec::new();
    let s = sim.add(config);
    assert!(sim.nodes[s].neighbours.is_empty());
    sim.until(50, |sim| sim.registered(s));
    let request = &sim.wire[0].message;
    assert_eq!(request.header.dst_proto, overlay(2), "its own address stands for an unknown one");
    let reply = sim.wire.iter().find(|sent| sent.is(PacketType::RegistrationReply)).unwrap();
    assert_eq!(reply.message.header.dst_proto, overlay(1));
    assert_eq!(sim.nodes[s].neighbours[&overlay(1)], nbma(1));
    assert_eq!(sim.nodes[s].engine.nhs_states(sim.now)[0].overlay, Some(overlay(1)));
    assert_eq!(sim.nodes[h].routes[&(net("10.2.0.0/24"), RouteKind::Registered)], overlay(2));
    sim.run(60_000);
    let last = sim.wire.iter().rfind(|sent| sent.is(PacketType::RegistrationRequest) && sent.from == nbma(2));
    assert_eq!(last.unwrap().message.header.dst_proto, overlay(1));
}

#[test]
fn natted_spoke_learns_its_public_address() {
    let mut sim = Net::new(7);
    let h = sim.add(hub(1));
    let mut config = spoke(2, NO_LAN);
    config.nbma = Some(ip("192.168.1.2"));
    let s = sim.add_natted(config, nbma(2));
    sim.until(50, |sim| sim.registered(s));
    assert_eq!(sim.nodes[s].engine.nhs_states(sim.now)[0].public_nbma, Some(nbma(2)));
    assert_eq!(sim.nodes[h].neighbours[&overlay(2)], nbma(2));
    let binding = sim.snapshot(h).bindings.into_iter().find(|it| it.overlay == overlay(2)).unwrap();
    assert_eq!((binding.claimed_nbma, binding.source), (Some(ip("192.168.1.2")), Source::Registered));
    let reply = sim.wire.iter().find(|sent| sent.is(PacketType::RegistrationReply)).unwrap();
    assert_eq!(reply.to, nbma(2), "straight to the outer source");
    let nat = reply.message.extensions.iter().flatten().find(|it| it.kind == ext::NAT).unwrap();
    let list: Vec<Cie> = nhrp::wire::cies(&nat.value).unwrap().collect();
    assert_eq!(list.len(), 2);
    assert_eq!((list[1].nbma, list[1].proto), (Some(nbma(2)), Some(overlay(2))));
}

#[test]
fn a_spoke_moves_and_a_thief_does_not() {
    let mut sim = Net::new(8);
    let h = sim.add(hub(1));
    let s = sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.until(50, |sim| sim.registered(s));
    // A new lease: the old address is silent, so the hub lets go of it.
    sim.readdress(s, nbma(20));
    let took = sim.until(2_000, |sim| sim.nodes[h].neighbours[&overlay(2)] == nbma(20));
    assert!(took >= 900, "the old address gets its second: {took}");
    sim.until(1000, |sim| sim.registered(s));
    assert!(sim.has_event(h, |event| {
        matches!(event, Event::Moved { from, to, .. } if *from == nbma(2) && *to == nbma(20))
    }));
    assert_eq!(sim.nodes[h].routes[&(net("10.2.0.0/24"), RouteKind::Registered)], overlay(2));

    // A thief claims it while the owner lives.
    let mut thief = spoke(3, NO_LAN);
    thief.local = vec![overlay(2)];
    let thief = sim.add(thief);
    sim.run(5_000);
    assert_eq!(reason(&sim, thief), "AddressTaken");
    assert_eq!(sim.nodes[h].neighbours[&overlay(2)], nbma(20));
    assert!(sim.has_event(h, |event| {
        matches!(event, Event::AddressConflict { claimant, holder, .. } if *claimant == nbma(3) && *holder == nbma(20))
    }));
    assert!(sim.registered(s));
}

#[test]
fn uniqueness_by_nbma_and_none() {
    for (policy, unique, wins) in
        [(Uniqueness::Nbma, true, false), (Uniqueness::Nbma, false, true), (Uniqueness::None, true, true)]
    {
        let mut sim = Net::new(9);
        let mut config = hub(1);
        config.uniqueness = policy;
        let h = sim.add(config);
        let mut first = spoke(2, NO_LAN);
        first.unique = unique;
        let first = sim.add(first);
        sim.until(50, |sim| sim.registered(first));
        let mut second = spoke(3, NO_LAN);
        second.local = vec![overlay(2)];
        let second = sim.add(second);
        sim.run(50);
        assert_eq!(sim.registered(second), wins, "{policy:?} unique={unique}");
        let holder = if wins { nbma(3) } else { nbma(2) };
        assert_eq!(sim.nodes[h].neighbours[&overlay(2)], holder);
    }
}

#[test]
fn withdrawal_is_seen_and_forgotten_at_once() {
    let mut sim = Net::new(10);
    let h = sim.add(hub(1));
    let a = sim.add(spoke(2, &["10.2.0.0/24"]));
    let b = sim.add(spoke(3, &["10.3.0.0/24"]));
    sim.run(500);
    assert!(sim.nodes[b].routes.contains_key(&(net("10.2.0.0/24"), RouteKind::Announced)));
    sim.input(a, Input::Withdraw);
    let took = sim.until(1000, |sim| sim.nodes[a].withdrawn);
    assert!(took <= 20, "{took}");
    assert!(!sim.nodes[h].neighbours.contains_key(&overlay(2)));
    assert!(sim.has_event(h, |event| matches!(event, Event::Purged { by, .. } if *by == nbma(2))));
    let purge = sim.wire.iter().find(|sent| sent.is(PacketType::PurgeRequest)).unwrap();
    let registration = sim.wire.iter().find(|sent| sent.from == nbma(2)).unwrap();
    assert_eq!(purge.message.header.request_id, registration.message.header.request_id, "as Cisco wants it");
    sim.until(200, |sim| !sim.nodes[b].routes.contains_key(&(net("10.2.0.0/24"), RouteKind::Announced)));
    sim.run(120_000);
    assert!(!sim.nodes[h].neighbours.contains_key(&overlay(2)), "it does not register again");

    // A hub that is dead does not hold it up.
    sim.nodes[h].alive = false;
    sim.input(b, Input::Withdraw);
    let took = sim.until(3000, |sim| sim.nodes[b].withdrawn);
    assert!((1_900..=2_000).contains(&took), "{took}");
}

#[test]
fn underlay_lost_and_back() {
    let mut sim = Net::new(11);
    sim.add(hub(1));
    let s = sim.add(spoke(2, NO_LAN));
    sim.until(50, |sim| sim.registered(s));
    sim.input(s, Input::Nbma { link: LINK, nbma: None });
    let state = &sim.nodes[s].engine.nhs_states(sim.now)[0];
    assert_eq!((state.phase, state.reason_code.as_str()), (NhsPhase::Down, "NoUnderlayAddress"));
    let before = sim.wire.len();
    sim.run(100_000);
    assert_eq!(sim.wire.len(), before, "nothing to send from");
    sim.input(s, Input::Nbma { link: LINK, nbma: Some(nbma(2)) });
    sim.until(50, |sim| sim.registered(s));
}

#[test]
fn lossy_network_registers_all() {
    for seed in 0..20 {
        let mut sim = Net::new(1000 + seed);
        sim.loss = 300;
        sim.delay_ms = (1, 80);
        let h = sim.add(hub(1));
        let spokes: Vec<_> = (2..12).map(|n| sim.add(spoke(n, &[&format!("10.{n}.0.0/24")]))).collect();
        sim.run(90_000);
        sim.loss = 0;
        sim.run(90_000);
        for (index, s) in spokes.iter().enumerate() {
            assert!(sim.registered(*s), "seed {seed}");
            let told = sim.nodes[*s].routes.keys().filter(|(_, kind)| *kind == RouteKind::Announced).count();
            assert_eq!(told, 9, "seed {seed}: spoke {index}");
        }
        assert_eq!(sim.nodes[h].routes.len(), 20, "seed {seed}");
    }
}

#[test]
fn configuration_changes_without_restart() {
    let mut sim = Net::new(12);
    let h = sim.add(hub(1));
    sim.add(hub(9));
    let s = sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.until(50, |sim| sim.registered(s));
    // A password.
    let mut locked = hub(1);
    locked.authentication = vec!["k".into()];
    sim.input(h, Input::Configure(Box::new(locked)));
    let mut config = spoke(2, &["10.2.0.0/24"]);
    config.authentication = vec!["k".into()];
    sim.input(s, Input::Configure(Box::new(config.clone())));
    sim.run(100);
    assert!(sim.registered(s));
    assert_eq!(sim.snapshot(h).counters.dropped(DropReason::Authentication), 0);
    // A holding time: told at once.
    config.holding_time = 300;
    sim.input(s, Input::Configure(Box::new(config.clone())));
    sim.run(100);
    let binding = sim.snapshot(h).bindings.into_iter().find(|it| it.overlay == overlay(2)).unwrap();
    assert_eq!(binding.holding_time, 300);
    // Another overlay address: the old one is taken back.
    config.local = vec![overlay(22)];
    sim.input(s, Input::Configure(Box::new(config.clone())));
    sim.run(100);
    assert!(sim.registered(s));
    assert!(!sim.nodes[h].neighbours.contains_key(&overlay(2)));
    assert_eq!(sim.nodes[h].neighbours[&overlay(22)], nbma(2));
    assert_eq!(sim.nodes[h].routes[&(net("10.2.0.0/24"), RouteKind::Registered)], overlay(22));
    // Another hub.
    config.nhs = vec![nhs(9)];
    config.authentication = Vec::new();
    sim.input(s, Input::Configure(Box::new(config.clone())));
    sim.run(100);
    assert!(sim.registered(s));
    assert_eq!(sim.nodes[s].neighbours.keys().copied().collect::<Vec<_>>(), [overlay(9)]);
    // The same again is no change.
    let before = sim.wire.len();
    sim.input(s, Input::Configure(Box::new(config)));
    sim.run(1);
    assert_eq!(sim.wire.len(), before);
}

#[test]
fn two_families() {
    let mut sim = Net::new(13);
    let both = |mut config: nhrp::Config, n: u32| {
        config.overlay.push(net("fd00:255::/64"));
        config.local.push(ip(&format!("fd00:255::{n}")));
        for nhs in &mut config.nhs {
            nhs.overlay.push(ip("fd00:255::1"));
        }
        config
    };
    let h = sim.add(both(hub(1), 1));
    let a = sim.add(both(spoke(2, &["10.2.0.0/24", "fd02::/64"]), 2));
    let b = sim.add(both(spoke(3, &["fd03::/64"]), 3));
    sim.run(500);
    assert!(sim.registered(a) && sim.registered(b));
    assert_eq!(sim.nodes[a].engine.nhs_states(sim.now).len(), 2);
    assert_eq!(sim.nodes[h].neighbours[&ip("fd00:255::2")], nbma(2));
    assert_eq!(sim.nodes[h].routes[&(net("fd02::/64"), RouteKind::Registered)], ip("fd00:255::2"));
    assert_eq!(sim.nodes[b].routes[&(net("fd02::/64"), RouteKind::Announced)], ip("fd00:255::1"));
    assert_eq!(sim.nodes[b].routes[&(net("10.2.0.0/24"), RouteKind::Announced)], overlay(1));
    let families: Vec<_> = sim
        .wire
        .iter()
        .filter(|sent| sent.from == nbma(2) && sent.is(PacketType::RegistrationRequest))
        .map(|sent| sent.bytes[2..4].to_vec())
        .collect();
    assert!(families.contains(&vec![0x08, 0x00]) && families.contains(&vec![0x86, 0xdd]));
    let way = sim.ping(b, ip("fd03::1"), ip("fd02::1"));
    assert_eq!(way, [b, h, a]);
    sim.run(50);
    assert_eq!(sim.path(b, ip("fd02::1")).unwrap(), [b, a]);
}

#[test]
fn ipv6_underlay() {
    let mut sim = Net::new(14);
    let six = |n: u32| ip(&format!("2001:db8::{n}"));
    let on_six = |mut config: nhrp::Config, n: u32| {
        config.nbma = Some(six(n));
        for nhs in &mut config.nhs {
            nhs.nbma = vec![six(1)];
        }
        config
    };
    let h = sim.add(on_six(hub(1), 1));
    let a = sim.add(on_six(spoke(2, &["10.2.0.0/24"]), 2));
    let b = sim.add(on_six(spoke(3, &["10.3.0.0/24"]), 3));
    sim.run(500);
    assert_eq!(sim.nodes[h].neighbours[&overlay(2)], six(2));
    sim.ping(b, ip("10.3.0.1"), ip("10.2.0.1"));
    sim.run(50);
    assert_eq!(sim.path(b, ip("10.2.0.1")).unwrap(), [b, a]);
}

/// FRR 8.4 as spoke, by its captured packet: no extension of ours, hop count 1, NAT flag only.
#[test]
fn captured_frr_registration_is_answered() {
    let text = include_str!("../vectors/phase3-frr844-spoke1.hex");
    let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
    let bytes: Vec<u8> =
        (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect();
    let request = Message::decode(&bytes).unwrap();
    assert_eq!(request.header.packet_type, PacketType::RegistrationRequest);
    let mut sim = Net::new(15);
    let h = sim.add(hub(1));
    let from = request.header.src_nbma;
    sim.inject(from, h, &bytes);
    let reply = sim.wire.last().unwrap();
    assert_eq!((reply.to, reply.message.header.packet_type), (from, PacketType::RegistrationReply));
    assert_eq!(reply.message.cies[0].code, 0);
    let kinds = |message: &Message| message.extensions.iter().flatten().map(|it| it.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&reply.message), kinds(&request), "only what was asked for");
    assert_eq!(sim.nodes[h].neighbours[&request.header.src_proto], from);
    sim.run(1000);
    assert_eq!(sim.count(PacketType::RegistrationRequest), 0, "no list is pushed to a foreign peer");
}

/// FRR never answers a purge: tried until what it is about is over anyway.
#[test]
fn unanswered_purges_end() {
    let mut sim = Net::new(16);
    let h = sim.add(hub(1));
    let a = sim.add(spoke(2, NO_LAN));
    let b = sim.add(spoke(3, &["10.3.0.0/24"]));
    sim.run(500);
    sim.ping(a, overlay(2), ip("10.3.0.1"));
    sim.run(50);
    sim.nodes[a].alive = false;
    let purges = |sim: &Net| {
        let ours = sim.wire.iter().filter(|sent| sent.is(PacketType::PurgeRequest) && sent.from == nbma(1));
        ours.map(|sent| (sent.at, sent.message.header.request_id)).collect::<Vec<_>>()
    };
    assert!(purges(&sim).is_empty());
    sim.input(b, Input::Withdraw);
    sim.run(600_000);
    let sent = purges(&sim);
    let gaps: Vec<_> = sent.windows(2).map(|pair| pair[1].0.since(pair[0].0)).collect();
    assert_eq!(gaps, [1000, 2000, 4000, 8000, 16_000], "{sent:?}");
    assert!(sent.iter().all(|(_, id)| *id == sent[0].1));
    assert!(sim.snapshot(h).bindings.iter().all(|it| it.overlay == overlay(1)));
}

/// Two hubs that register with each other: each keeps the other's configured binding and learns its prefixes.
#[test]
fn hubs_register_with_each_other() {
    let mut sim = Net::new(17);
    let with = |own: u32, other: u32| {
        let mut config = hub(own);
        config.nhs = vec![nhs(other)];
        config.subnets = vec![net(&format!("10.{own}.0.0/24"))];
        config
    };
    let one = sim.add(with(1, 2));
    let two = sim.add(with(2, 1));
    sim.run(2_000);
    assert!(sim.registered(one) && sim.registered(two));
    assert_eq!(sim.nodes[one].routes[&(net("10.2.0.0/24"), RouteKind::Registered)], overlay(2));
    assert_eq!(sim.nodes[two].routes[&(net("10.1.0.0/24"), RouteKind::Registered)], overlay(1));
    let state = sim.snapshot(one).bindings.into_iter().find(|it| it.overlay == overlay(2)).unwrap();
    assert_eq!(state.source, Source::Nhs);
    let snapshot = sim.restart(one, 1_000);
    assert_eq!(sim.nodes[one].routes[&(net("10.2.0.0/24"), RouteKind::Registered)], overlay(2));
    assert_eq!(snapshot.bindings.len(), 2);
    // One goes: what it announced goes with its time, the configured binding stays.
    sim.nodes[two].alive = false;
    sim.run(62_000);
    assert!(!sim.nodes[one].routes.contains_key(&(net("10.2.0.0/24"), RouteKind::Registered)));
    assert_eq!(sim.nodes[one].neighbours[&overlay(2)], nbma(2));
}
