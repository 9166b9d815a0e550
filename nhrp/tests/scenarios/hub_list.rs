//! The list of hubs in band (0x3801), and a hub that hands its spokes on.

use nhrp::wire::{CieCode, HubChunk, Message, ext, hub_flags};
use nhrp::{Config, DropReason, Event, HubEntry, HubNbma, Input, Nhs, NhsPhase, PacketType, RouteKind};

use super::net::*;

fn entry(n: u32) -> HubEntry {
    HubEntry {
        name: format!("hub{n}"),
        priority: n as u8 - 1,
        overlay: vec![overlay(n)],
        nbma: vec![HubNbma::Address(nbma(n))],
        ..HubEntry::default()
    }
}

fn draining(n: u32) -> HubEntry {
    HubEntry { draining: true, ..entry(n) }
}

/// A hub that tells this list.
fn telling(n: u32, list: &[HubEntry]) -> Config {
    Config { hub_list: list.to_vec(), ..hub(n) }
}

fn tell(sim: &mut Net, index: usize, list: &[HubEntry]) {
    let config = Config { hub_list: list.to_vec(), ..sim.nodes[index].config.clone() };
    sim.input(index, Input::Configure(Box::new(config)));
}

/// Names of the hubs that a spoke is registered with; those that it was told with a `*`.
fn serving(sim: &Net, spoke: usize) -> Vec<String> {
    let states = sim.nodes[spoke].engine.nhs_states(sim.now);
    let up = states.into_iter().filter(|state| state.phase == NhsPhase::Responding);
    up.map(|state| format!("{}{}", state.name, if state.learned { "*" } else { "" })).collect()
}

fn is_registered(sim: &Net, hub: usize, n: u32) -> bool {
    sim.nodes[hub].neighbours.contains_key(&overlay(n))
}

#[test]
fn fixed_hubs_are_all_and_what_is_told_of_them_counts() {
    let mut sim = Net::new(58);
    let elsewhere = HubEntry { nbma: vec![HubNbma::Address(nbma(9))], ..draining(1) };
    let first = sim.add(telling(1, &[entry(1), entry(3)]));
    sim.add(telling(3, &[entry(1), entry(3)]));
    let s = sim.add(Config { fixed_hubs: true, ..spoke(11, &["10.11.0.0/24"]) });
    sim.run(3_000);
    assert_eq!(serving(&sim, s), ["hub1"]);
    tell(&mut sim, first, &[elsewhere, entry(3)]);
    sim.run(3_000);
    let known: Vec<_> =
        sim.nodes[s].engine.hubs().map(|hub| (hub.name.to_owned(), hub.nbma.to_vec())).collect();
    assert_eq!(known, [("hub1".to_owned(), vec![nbma(1), nbma(9)])]);
}

#[test]
fn a_hubs_address_is_nobody_elses() {
    let mut sim = Net::new(57);
    // Hubs 1 and 3 do not register with each other.
    let h = sim.add(telling(1, &[entry(1), entry(3)]));
    let thief = |at: u32, of: u32| Config {
        local: vec![overlay(of)],
        nbma: Some(nbma(at)),
        fixed_hubs: true,
        ..spoke(11, NO_LAN)
    };
    let s = sim.add(thief(66, 3));
    sim.run(3_000);
    assert!(!sim.registered(s) && !is_registered(&sim, h, 3));
    let refused = |event: &Event| {
        matches!(event, Event::RegistrationRefused { reason, code: CieCode::AlreadyRegistered, .. }
            if reason == "the address belongs to hub hub3, which is elsewhere")
    };
    assert!(sim.has_event(h, refused));
    // Hub 2 is not there yet; when it comes, he who has its address loses it.
    let s = sim.add(thief(67, 2));
    sim.run(3_000);
    assert!(sim.registered(s) && is_registered(&sim, h, 2));
    tell(&mut sim, h, &[entry(1), entry(2), entry(3)]);
    assert!(!is_registered(&sim, h, 2));
    sim.run(30_000);
    assert!(!is_registered(&sim, h, 2));
}

#[test]
fn hubs_that_register_may_come_from_elsewhere() {
    // A second uplink, and a name that is not resolved (yet).
    let mut sim = Net::new(56);
    let named = HubEntry { nbma: vec![HubNbma::Name("hub3.example".into())], ..entry(3) };
    let above = Config { child_hubs: vec![child_hub(2)], ..telling(1, &[entry(1), entry(2), named]) };
    let h = sim.add(above);
    for (number, at) in [(2, 62), (3, 63)] {
        let below = Config { nbma: Some(nbma(at)), nhs: vec![nhs(1)], fixed_hubs: true, ..hub(number) };
        let below = sim.add(below);
        sim.run(3_000);
        assert!(sim.registered(below) && is_registered(&sim, h, number), "hub{number}");
    }
}

#[test]
fn a_hub_is_added_and_removed_without_an_edit_at_any_spoke() {
    let mut sim = Net::new(50);
    let first = sim.add(telling(1, &[entry(1)]));
    let a = sim.add(spoke(11, &["10.11.0.0/24"]));
    let b = sim.add(spoke(12, &["10.12.0.0/24"]));
    sim.run(1_000);
    assert_eq!(serving(&sim, a), ["hub1"]);
    let new = sim.add(telling(3, &[entry(1), entry(3)]));
    tell(&mut sim, first, &[entry(1), entry(3)]);
    let took = sim.until(1_200, |sim| serving(sim, a).len() == 2 && serving(sim, b).len() == 2);
    assert!(took > 10, "all at once would be a flood: {took}");
    assert_eq!(serving(&sim, a), ["hub1", "hub3*"]);
    assert!(is_registered(&sim, new, 11) && is_registered(&sim, new, 12));
    // It carries on when the one that told of it dies, for longer than anything that was told holds.
    sim.cut_off(first, true);
    sim.run(3_000);
    sim.watch(a, ip("10.11.0.5"), ip("10.12.0.5"));
    sim.run(200_000);
    assert_eq!(serving(&sim, a), ["hub3*"]);
    // And when the spoke starts anew meanwhile.
    sim.restart(a, 2_000);
    sim.run(5_000);
    assert_eq!(serving(&sim, a), ["hub3*"]);
    sim.cut_off(first, false);
    sim.run(30_000);
    assert_eq!(serving(&sim, a), ["hub1", "hub3*"]);
    // Nobody vouches for himself: it goes when the others no longer name it, though it still does.
    sim.watched.clear();
    tell(&mut sim, first, &[entry(1)]);
    sim.until(1_200, |sim| !is_registered(sim, new, 11) && !is_registered(sim, new, 12));
    assert_eq!(serving(&sim, a), ["hub1"]);
    assert!(!sim.nodes[a].neighbours.contains_key(&overlay(3)));
}

#[test]
fn a_hub_that_moves_by_the_configuration_is_followed_at_once() {
    let mut sim = Net::new(57);
    let old = sim.add(telling(1, &[entry(1)]));
    let there = HubEntry { nbma: vec![HubNbma::Address(nbma(5))], ..entry(1) };
    let new = sim.add(Config { nbma: Some(nbma(5)), ..telling(1, &[there]) });
    let s = sim.add(Config { holding_time: 600, ..spoke(11, &["10.11.0.0/24"]) });
    sim.run(1_000);
    assert!(is_registered(&sim, old, 11) && !is_registered(&sim, new, 11));
    let moved = Config { nhs: vec![Nhs { nbma: vec![nbma(5)], ..nhs(1) }], ..sim.nodes[s].config.clone() };
    sim.input(s, Input::Configure(Box::new(moved)));
    sim.until(200, |sim| is_registered(sim, new, 11) && !is_registered(sim, old, 11));
    let states = sim.nodes[s].engine.nhs_states(sim.now);
    assert_eq!((states.len(), states[0].nbma, states[0].phase), (1, Some(nbma(5)), NhsPhase::Responding));
    assert_eq!(sim.nodes[s].neighbours.get(&overlay(1)), Some(&nbma(5)));
}

#[test]
fn a_long_list_comes_in_parts() {
    let mut sim = Net::new(51);
    let long = |n: u32| HubEntry {
        name: format!("hub{n}-{}", "x".repeat(50)),
        nbma: vec![HubNbma::Address(nbma(n)), HubNbma::Name(format!("{}.example.net", "y".repeat(60)))],
        cluster: 1,
        max_connections: 3,
        ..entry(n)
    };
    let list: Vec<_> = (1..=20).map(long).collect();
    let prefixes: Vec<_> = (0..100).map(|n| format!("10.77.{n}.0/24")).collect();
    for n in 1..=4 {
        let mut config = telling(n, &list);
        config.mtu = 576;
        config.subnets = prefixes.iter().map(|text| net(text)).collect();
        sim.add(config);
    }
    let mut config = spoke(30, NO_LAN);
    config.nhs[0] = Nhs { name: list[0].name.clone(), ..nhs(1) };
    let s = sim.add(config);
    sim.run(2_000);
    let states = sim.nodes[s].engine.nhs_states(sim.now);
    assert_eq!(states.len(), 20);
    let parts = sim.wire.iter().filter(|sent| sent.to == nbma(30) && sent.is(PacketType::RegistrationReply));
    let parts = parts.filter(|sent| {
        let hubs = sent.message.extensions.iter().flatten().find(|it| it.kind == ext::HUBS);
        hubs.is_some_and(|it| HubChunk::decode(&it.value).unwrap().has(hub_flags::MORE))
    });
    assert!(parts.count() >= 4);
    // The rest of its cluster waits: 1 has no cluster by its configuration, of the others three are used.
    let up = states.iter().filter(|state| state.phase == NhsPhase::Responding).count();
    assert_eq!(up, 4);
    assert_eq!(sim.nodes[s].engine.host_names().next(), Some(&*format!("{}.example.net", "y".repeat(60))));
}

#[test]
fn host_names_of_told_hubs_are_resolved_by_the_shell() {
    let mut sim = Net::new(52);
    let named = HubEntry { nbma: vec![HubNbma::Name("vpn3.example.net".into())], ..entry(3) };
    sim.add(telling(1, &[entry(1), named]));
    sim.add(hub(3));
    let s = sim.add(spoke(11, NO_LAN));
    sim.run(500);
    assert_eq!(sim.nodes[s].engine.nhs_states(sim.now)[1].reason_code, "NoNhsAddress");
    assert_eq!(sim.nodes[s].engine.host_names().collect::<Vec<_>>(), ["vpn3.example.net"]);
    let names = vec![("vpn3.example.net".to_owned(), vec![nbma(3)])];
    let config = Config { names, ..sim.nodes[s].config.clone() };
    sim.input(s, Input::Configure(Box::new(config)));
    sim.run(500);
    assert_eq!(serving(&sim, s), ["hub1", "hub3*"]);
}

/// Underlay addresses that a hub got without an edit here are tried after the configured ones.
#[test]
fn a_configured_hub_gets_further_addresses() {
    let mut sim = Net::new(53);
    let mut moved = entry(1);
    moved.priority = 99;
    moved.nbma = vec![HubNbma::Address(nbma(1)), HubNbma::Address(nbma(40))];
    let h = sim.add(telling(1, &[moved]));
    let s = sim.add(spoke(11, NO_LAN));
    sim.run(500);
    let state = &sim.nodes[s].engine.nhs_states(sim.now)[0];
    assert_eq!((state.priority, state.nbma, state.learned), (0, Some(nbma(1)), false));
    sim.readdress(h, nbma(40));
    sim.until(4_000, |sim| sim.nodes[s].neighbours[&overlay(1)] == nbma(40));
    assert_eq!(serving(&sim, s), ["hub1"]);
}

#[test]
fn only_what_can_be_a_hub_is_believed_and_only_from_one() {
    let mut sim = Net::new(54);
    let bad = [
        HubEntry { overlay: vec![ip("10.254.0.9")], ..entry(20) },
        HubEntry { overlay: vec![overlay(11)], ..entry(21) },
        HubEntry { overlay: vec![overlay(1)], ..entry(22) },
        HubEntry { overlay: Vec::new(), ..entry(23) },
    ];
    let inside =
        HubEntry { nbma: vec![HubNbma::Address(overlay(9)), HubNbma::Address(ip("10.11.0.7"))], ..entry(24) };
    let mut list = vec![entry(1)];
    list.extend(bad);
    list.push(inside);
    let h = sim.add(telling(1, &list));
    let s = sim.add(spoke(11, &["10.11.0.0/24"]));
    sim.run(500);
    let names: Vec<_> =
        sim.nodes[s].engine.nhs_states(sim.now).into_iter().map(|it| (it.name, it.nbma)).collect();
    assert_eq!(names, [("hub1".to_owned(), Some(nbma(1))), ("hub24".to_owned(), None)]);

    // A reply from elsewhere, and a notice from elsewhere.
    let reply = sim.wire.iter().rev().find(|sent| sent.is(PacketType::RegistrationReply)).unwrap();
    let mut forged = Message::decode(&reply.bytes).unwrap();
    for extension in forged.extensions.iter_mut().flatten().filter(|it| it.kind == ext::HUBS) {
        let entries = vec![entry(66)];
        let chunk = HubChunk { flags: hub_flags::TOLD, first: 0, generation: 7, entries };
        extension.value = chunk.encode();
    }
    sim.inject(nbma(66), s, &forged.encode());
    sim.inject(nbma(1), s, &forged.encode());
    sim.run(100);
    assert!(sim.nodes[s].engine.nhs_states(sim.now).iter().all(|it| it.name != "hub66"));
    assert_eq!(sim.snapshot(s).counters.dropped(DropReason::Unsolicited), 2);
    assert!(sim.nodes[h].alive);
}

/// A peer of another make neither minds the extension nor gets it.
#[test]
fn foreign_peers_are_unaffected() {
    // Without a list a hub of ours does with the extension what RFC 2332 §5.3 says: it returns it as it came.
    let mut sim = Net::new(55);
    sim.add(hub(1));
    let s = sim.add(spoke(11, NO_LAN));
    sim.run(60_000);
    assert_eq!(serving(&sim, s), ["hub1"]);
    let of = |sent: &Sent| sent.message.extensions.iter().flatten().find(|it| it.kind == ext::HUBS).cloned();
    let request = sim.wire.iter().find(|sent| sent.is(PacketType::RegistrationRequest)).and_then(of).unwrap();
    let reply = sim.wire.iter().find(|sent| sent.is(PacketType::RegistrationReply)).and_then(of).unwrap();
    assert!(!request.compulsory && request == reply);
    assert!(sim.snapshot(s).counters.drops.is_empty());

    // A client that does not know it.
    let text = include_str!("../vectors/phase3-frr844-spoke1.hex");
    let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
    let bytes: Vec<u8> =
        (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect();
    let request = Message::decode(&bytes).unwrap();
    let mut sim = Net::new(56);
    let h = sim.add(telling(1, &[entry(1), entry(2)]));
    sim.inject(request.header.src_nbma, h, &bytes);
    let reply = sim.wire.last().unwrap();
    assert!(reply.is(PacketType::RegistrationReply) && of(reply).is_none());
    sim.run(1_000);
    assert_eq!(sim.wire.len(), 1);
}

/// The spokes register elsewhere first, then leave; nothing is lost on the way.
#[test]
fn a_draining_hub_hands_its_spokes_on() {
    for clustered in [false, true] {
        let mut sim = Net::new(57);
        let of = |n: u32, draining: bool| HubEntry {
            cluster: u8::from(clustered),
            max_connections: u8::from(clustered),
            draining,
            ..entry(n)
        };
        let list = |first: bool| [of(1, first), of(2, false)];
        let one = sim.add(telling(1, &list(false)));
        let two = sim.add(telling(2, &list(false)));
        let known = |n: u32| Nhs { cluster: u8::from(clustered), max_connections: 1, ..nhs(n) };
        let with = |n: u32| Config { nhs: vec![known(1)], ..spoke(n, &[&format!("10.{n}.0.0/24")]) };
        let spokes: Vec<_> = (11..15).map(|n| sim.add(with(n))).collect();
        sim.run(12_000);
        assert_eq!(serving(&sim, spokes[0]).len(), if clustered { 1 } else { 2 });
        for (at, from) in spokes.iter().enumerate() {
            for to in (0..spokes.len()).filter(|to| *to != at) {
                sim.watch(*from, ip(&format!("10.{}.0.5", 11 + at)), ip(&format!("10.{}.0.5", 11 + to)));
            }
        }
        tell(&mut sim, one, &list(true));
        tell(&mut sim, two, &list(true));
        let by_two = |sim: &Net| spokes.iter().all(|s| sim.nodes[*s].engine.gateways().eq([overlay(2)]));
        sim.until(12_000, by_two);
        assert_eq!(sim.nodes[one].neighbours.len(), 4, "left before others could know");
        sim.until(12_000, |sim| sim.nodes[one].neighbours.is_empty());
        assert!(sim.nodes[one].routes.is_empty());
        sim.run(100_000);
        assert!(sim.nodes[one].neighbours.is_empty());
        for s in &spokes {
            assert_eq!(serving(&sim, *s), ["hub2*"]);
            let state = &sim.nodes[*s].engine.nhs_states(sim.now)[0];
            assert_eq!((state.phase, state.reason_code.as_str()), (NhsPhase::Waiting, "Draining"));
        }
        // Who comes new and knows nobody else is told of the others.
        let late = sim.add(with(20));
        sim.until(3_000, |sim| serving(sim, late) == ["hub2*"]);
        assert!(!is_registered(&sim, one, 20));
        // The hub is active again.
        tell(&mut sim, one, &list(false));
        tell(&mut sim, two, &list(false));
        sim.until(80_000, |sim| spokes.iter().all(|s| serving(sim, *s).contains(&"hub1".to_owned())));
        sim.run(20_000);
        assert_eq!(sim.path(spokes[0], ip("10.12.0.5")).unwrap()[1], one);
    }
}

#[test]
fn with_no_other_hub_spokes_stay_with_one_that_drains() {
    let mut sim = Net::new(58);
    let one = sim.add(telling(1, &[entry(1), entry(2)]));
    let a = sim.add(spoke(11, &["10.11.0.0/24"]));
    let b = sim.add(spoke(12, &["10.12.0.0/24"]));
    sim.run(2_000);
    sim.watch(a, ip("10.11.0.5"), ip("10.12.0.5"));
    tell(&mut sim, one, &[draining(1), entry(2)]);
    sim.run(120_000);
    assert_eq!((serving(&sim, a), serving(&sim, b)), (vec!["hub1".to_owned()], vec!["hub1".to_owned()]));
    // The other one comes at last.
    let two = sim.add(telling(2, &[draining(1), entry(2)]));
    sim.until(30_000, |sim| sim.nodes[one].neighbours.is_empty());
    assert!(sim.nodes[two].routes.contains_key(&(net("10.11.0.0/24"), RouteKind::Registered)));
    assert_eq!(serving(&sim, a), ["hub2*"]);
}
