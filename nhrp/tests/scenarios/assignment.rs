//! Overlay addresses in band: a spoke without one asks, a hub assigns, and nobody ever has another's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nhrp::wire::{Assignment, Builder, Cie, Header, ext};
use nhrp::{AddressRequest, Config, Engine, Event, Input, PacketType, Pool, RouteKind};

use super::net::*;

const POOL: &str = "10.255.16.0/24";

/// Hub `n`, with this share of the pool.
fn pool_hub(n: u32, pool: &str, share: u16, shares: u16) -> Config {
    let pool = Pool { prefixes: vec![net(pool)], reserved: Vec::new(), share, shares };
    Config { pool: Some(pool), ..hub(n) }
}

/// Spoke `n` without an address of its own, with these hubs.
fn asking(n: u32, identity: &str, hubs: &[u32]) -> Config {
    let request = AddressRequest { identity: identity.into(), ipv4: true, ipv6: false, group: None };
    let nhs = hubs.iter().map(|hub| nhs(*hub)).collect();
    Config { local: Vec::new(), request: Some(request), nhs, ..spoke(n, NO_LAN) }
}

fn address(sim: &Net, index: usize) -> Option<IpAddr> {
    sim.snapshot(index).assigned.first().copied()
}

fn reason(sim: &Net, index: usize) -> String {
    sim.nodes[index].engine.nhs_states(sim.now)[0].reason_code.clone()
}

#[test]
fn asks_gets_and_registers_in_two_round_trips() {
    let mut sim = Net::new(1);
    let h = sim.add(pool_hub(1, POOL, 0, 1));
    let a = sim.add(Config { subnets: vec![net("10.1.0.0/24")], ..asking(2, "branch-a", &[1]) });
    let took = sim.until(100, |sim| sim.registered(a));
    assert!(took <= 20, "two round trips, not {took} ms");
    let given = address(&sim, a).unwrap();
    assert!(net(POOL).contains(&given));
    assert!(sim.nodes[a].assigned.contains(&given));
    assert_eq!(sim.nodes[h].neighbours[&given], nbma(2));
    assert_eq!(sim.nodes[h].routes[&(net("10.1.0.0/24"), RouteKind::Registered)], given);
    assert!(sim.has_event(h, |event| {
        matches!(event, Event::AddressAssigned { address, identity } if *address == given && identity == "branch-a")
    }));
    assert!(sim.has_event(a, |event| {
        matches!(event, Event::AddressReceived { address, by } if *address == given && by == "hub1")
    }));
    // Two of them reach each other, and find the direct way.
    let b = sim.add(asking(3, "branch-b", &[1]));
    sim.until(100, |sim| sim.registered(b));
    let other = address(&sim, b).unwrap();
    assert_ne!(other, given);
    assert_eq!(sim.ping(a, given, other), [a, h, b]);
    sim.run(100);
    assert_eq!(sim.path(a, other), Ok(vec![a, b]));
}

#[test]
fn both_families() {
    let mut sim = Net::new(2);
    let mut config = pool_hub(1, POOL, 0, 1);
    config.local.push(ip("fd00::1"));
    config.overlay.push(net("fd00::/64"));
    config.pool.as_mut().unwrap().prefixes.push(net("fd00::1:0/112"));
    sim.add(config);
    let mut config = asking(2, "branch-a", &[1]);
    config.overlay.push(net("fd00::/64"));
    config.nhs[0].overlay.push(ip("fd00::1"));
    config.request.as_mut().unwrap().ipv6 = true;
    let s = sim.add(config);
    sim.until(100, |sim| sim.nodes[s].assigned.len() == 2 && sim.registered(s));
    let families: BTreeSet<_> = sim.nodes[s].assigned.iter().map(IpAddr::is_ipv6).collect();
    assert_eq!(families.len(), 2);
    assert_eq!(sim.nodes[s].engine.nhs_states(sim.now).len(), 2);
}

/// The same identity gets the same address: after its own restart with and without memory, after the hub's.
#[test]
fn stable_by_identity() {
    let mut sim = Net::new(3);
    let h = sim.add(pool_hub(1, POOL, 0, 1));
    let spokes: Vec<_> = (2..12).map(|n| sim.add(asking(n, &format!("branch-{n}"), &[1]))).collect();
    sim.until(3_000, |sim| spokes.iter().all(|s| sim.registered(*s)));
    let first: Vec<_> = spokes.iter().map(|s| address(&sim, *s).unwrap()).collect();

    sim.restart(spokes[0], 500);
    assert_eq!(address(&sim, spokes[0]), Some(first[0]), "from its snapshot, with nobody asked");
    sim.until(100, |sim| sim.registered(spokes[0]));

    // A box that was re-imaged, with another underlay address.
    sim.nodes[spokes[1]].alive = false;
    let again = sim.add(asking(50, "branch-3", &[1]));
    sim.until(5_000, |sim| sim.registered(again));
    assert_eq!(address(&sim, again), Some(first[1]));

    // The hub's agent comes back with its snapshot: who comes now gets another address than all that are known.
    sim.nodes[spokes[2]].alive = false;
    sim.run(61_000);
    assert!(!sim.nodes[h].neighbours.contains_key(&first[2]), "expired");
    sim.restart(h, 500);
    let new = sim.add(asking(60, "branch-new", &[1]));
    let back = sim.add(asking(61, "branch-4", &[1]));
    sim.until(5_000, |sim| sim.registered(new) && sim.registered(back));
    assert!(!first.contains(&address(&sim, new).unwrap()));
    assert_eq!(address(&sim, back), Some(first[2]), "the lease outlived registration and restart");
}

/// Two hubs, a lossy network, a pool that just suffices: nobody gets what somebody has.
#[test]
fn never_the_same_address_twice() {
    let mut sim = Net::new(4);
    sim.loss = 200;
    let pool = "10.255.16.0/26";
    let mut configs = [pool_hub(1, pool, 0, 2), pool_hub(2, pool, 1, 2)];
    for config in &mut configs {
        config.pool.as_mut().unwrap().reserved = vec![net("10.255.16.8/30"), net("10.255.16.63/32")];
    }
    let hubs = configs.map(|config| sim.add(config));
    let fixed = Config { local: vec![ip("10.255.16.20")], nhs: vec![nhs(1), nhs(2)], ..spoke(90, NO_LAN) };
    let fixed = sim.add(fixed);
    sim.until(60_000, |sim| sim.registered(fixed));
    let spokes: Vec<_> = (10..50)
        .map(|n| {
            let order: &[u32] = if n % 2 == 0 { &[1, 2] } else { &[2, 1] };
            sim.add(asking(n, &format!("branch-{n}"), order))
        })
        .collect();
    sim.until(300_000, |sim| spokes.iter().all(|s| sim.registered(*s)));
    let mut given = BTreeMap::new();
    for s in &spokes {
        let address = address(&sim, *s).unwrap();
        assert!(net(pool).contains(&address));
        assert!(address != ip("10.255.16.20") && !net("10.255.16.8/30").contains(&address), "{address}");
        assert!(address != ip("10.255.16.0") && address != ip("10.255.16.63"));
        assert_eq!(given.insert(address, *s), None, "{address} given twice");
    }
    // Each hub from its own share.
    for (share, h) in hubs.iter().enumerate() {
        for event in &sim.nodes[*h].events {
            if let Event::AddressAssigned { address: IpAddr::V4(address), .. } = event {
                assert_eq!(usize::from(address.octets()[3]) % 2, share);
            }
        }
    }
    for h in hubs {
        let told: BTreeSet<_> = sim.nodes[h].neighbours.keys().copied().collect();
        assert!(given.keys().all(|address| told.contains(address)), "all are registered with all hubs");
    }
}

#[test]
fn refusals_have_their_reasons() {
    let mut sim = Net::new(5);
    let h = sim.add(pool_hub(1, "10.255.16.0/30", 0, 1));
    let served: Vec<_> = (2..4).map(|n| sim.add(asking(n, &format!("branch-{n}"), &[1]))).collect();
    sim.until(3_000, |sim| served.iter().all(|s| sim.registered(*s)));
    let late = sim.add(asking(4, "late", &[1]));
    sim.run(1_000);
    assert_eq!(reason(&sim, late), "PoolExhausted");
    assert!(
        sim.has_event(
            h,
            |event| matches!(event, Event::AddressRefused { identity, .. } if identity == "late")
        )
    );
    // A hub that assigns none, then one that does: the second is asked at once.
    sim.add(hub(5));
    sim.add(pool_hub(6, "10.255.17.0/24", 0, 1));
    let poor = sim.add(asking(7, "poor", &[5]));
    let rich = sim.add(asking(8, "rich", &[5, 6]));
    sim.run(200);
    assert_eq!(reason(&sim, poor), "AddressNotAssigned");
    assert!(address(&sim, rich).is_some_and(|address| net("10.255.17.0/24").contains(&address)));
    // A hub that is silent: the next after three tries.
    let patient = sim.add(asking(9, "patient", &[99, 6]));
    sim.run(1_000);
    assert_eq!(reason(&sim, patient), "AddressRequested");
    sim.until(10_000, |sim| address(sim, patient).is_some());
    // Refused ones ask more and more rarely, and are served when there is room.
    let asked = |sim: &Net| sim.wire.iter().filter(|sent| sent.from == nbma(4)).count();
    let before = asked(&sim);
    sim.run(120_000);
    assert!(asked(&sim) - before < 12);
    let mut wider = pool_hub(1, POOL, 0, 1);
    wider.link = LINK;
    sim.input(h, Input::Configure(Box::new(wider)));
    sim.until(70_000, |sim| sim.registered(late));
}

/// Two boxes that say they are the same: the second is told, and does not take the first one's address.
#[test]
fn an_identity_used_twice() {
    let mut sim = Net::new(6);
    let h = sim.add(pool_hub(1, POOL, 0, 1));
    let first = sim.add(asking(2, "branch", &[1]));
    sim.until(100, |sim| sim.registered(first));
    let given = address(&sim, first).unwrap();
    let second = sim.add(asking(3, "branch", &[1]));
    sim.run(30_000);
    assert_eq!(sim.nodes[h].neighbours[&given], nbma(2));
    assert_eq!((address(&sim, second), reason(&sim, second)), (None, "AddressTaken".into()));
    assert!(sim.nodes[second].assigned.is_empty());
    assert!(sim.registered(first));
}

/// A hub without memory gives away what a client of the other hub holds: it is declined, and all have their own.
#[test]
fn a_hub_that_lost_its_memory() {
    let mut declined = 0;
    for seed in 0..20 {
        let mut sim = Net::new(100 + seed);
        let pool = "10.255.16.0/29";
        let h1 = sim.add(pool_hub(1, pool, 0, 1));
        sim.add(pool_hub(2, pool, 0, 1));
        // The two share one pool by mistake, and the first does not know the clients of the second.
        let old: Vec<_> = (10..13).map(|n| sim.add(asking(n, &format!("old-{n}-{seed}"), &[2]))).collect();
        sim.until(5_000, |sim| old.iter().all(|s| sim.registered(*s)));
        let new: Vec<_> = (20..23).map(|n| sim.add(asking(n, &format!("new-{n}-{seed}"), &[1, 2]))).collect();
        sim.until(120_000, |sim| new.iter().chain(&old).all(|s| sim.registered(*s)));
        let all: BTreeSet<_> = new.iter().chain(&old).map(|s| address(&sim, *s).unwrap()).collect();
        assert_eq!(all.len(), 6, "seed {seed}");
        let received = |s: &usize| {
            sim.nodes[*s].events.iter().filter(|event| matches!(event, Event::AddressReceived { .. })).count()
        };
        declined += new.iter().map(received).sum::<usize>() - new.len();
        // It starts with nothing: nobody's address changes.
        let config = sim.nodes[h1].config.clone();
        let seed = sim.random();
        sim.nodes[h1].engine = Engine::new(config, seed, sim.now);
        sim.nodes[h1].neighbours.clear();
        sim.nodes[h1].routes.clear();
        sim.run(60_000);
        assert!(new.iter().chain(&old).all(|s| sim.registered(*s)));
        let same: BTreeSet<_> = new.iter().chain(&old).map(|s| address(&sim, *s).unwrap()).collect();
        assert_eq!(same, all);
    }
    assert!(declined > 0, "nobody ever got another's address");
}

#[test]
fn a_configured_address_ends_the_lease() {
    let mut sim = Net::new(7);
    let h = sim.add(pool_hub(1, POOL, 0, 1));
    let s = sim.add(asking(2, "branch", &[1]));
    sim.until(100, |sim| sim.registered(s));
    let given = address(&sim, s).unwrap();
    // The same wish again changes nothing.
    sim.input(s, Input::Configure(Box::new(asking(2, "branch", &[1]))));
    assert_eq!(address(&sim, s), Some(given));
    let fixed = Config { local: vec![overlay(2)], ..asking(2, "branch", &[1]) };
    sim.input(s, Input::Configure(Box::new(fixed)));
    sim.run(100);
    assert_eq!(address(&sim, s), None);
    assert!(sim.registered(s));
    assert_eq!(sim.nodes[h].neighbours.get(&overlay(2)), Some(&nbma(2)));
    assert!(!sim.nodes[h].neighbours.contains_key(&given), "purged");
}

/// Answers count from the NHS that was asked, with the id of the question, and only for an address of the overlay.
#[test]
fn forged_assignments() {
    let mut sim = Net::new(8);
    let s = sim.add(asking(2, "branch", &[1]));
    sim.run(1);
    let request = sim.wire.last().unwrap().message.header;
    assert_eq!((request.src_proto, request.packet_type), (ip("0.0.0.0"), PacketType::RegistrationRequest));
    let reply = |id: u32, address: IpAddr| {
        let header = Header { packet_type: PacketType::RegistrationReply, request_id: id, ..request };
        let assignment = Assignment { flags: 0, seconds: 60, address, identity: "branch".into() };
        Builder::new(&header)
            .cie(&Cie::default())
            .extension(false, ext::ADDRESS, &assignment.encode())
            .finish()
    };
    let good = ip("10.255.16.9");
    sim.inject(nbma(66), s, &reply(request.request_id, good));
    sim.inject(nbma(1), s, &reply(request.request_id.wrapping_add(1), good));
    assert_eq!(address(&sim, s), None);
    for bad in ["192.0.2.1", "0.0.0.0", "224.0.0.5", "10.255.0.1", "fd00::9"] {
        let id = sim.wire.last().unwrap().message.header.request_id;
        sim.inject(nbma(1), s, &reply(id, ip(bad)));
        assert_eq!(address(&sim, s), None, "{bad}");
        sim.run(70_000);
    }
    let id = sim.wire.last().unwrap().message.header.request_id;
    sim.inject(nbma(1), s, &reply(id, good));
    assert_eq!(address(&sim, s), Some(good));
}

/// Taken away while the answer is under way: nothing comes back to life.
#[test]
fn withdrawn_before_the_answer() {
    let mut sim = Net::new(9);
    let h = sim.add(pool_hub(1, POOL, 0, 1));
    let s = sim.add(asking(2, "branch", &[1]));
    sim.run(1);
    sim.input(s, Input::Withdraw);
    sim.run(5_000);
    assert!(sim.nodes[s].withdrawn);
    assert_eq!(address(&sim, s), None);
    assert!(sim.nodes[h].neighbours.is_empty());
    // Wanted again: it asks anew.
    sim.nodes[s].withdrawn = false;
    let mut config = asking(2, "branch", &[1]);
    config.mtu = 1300;
    sim.input(s, Input::Configure(Box::new(config)));
    sim.until(2_000, |sim| sim.registered(s));
}
