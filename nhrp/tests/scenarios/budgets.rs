//! Floods: what one peer may ask of a node, and what others do not notice of it.

use nhrp::wire::{Builder, Cie, Header, MAX_HOPS};
use nhrp::{DropReason, Event, Input, PacketType};

use super::net::*;

/// A member that sends more than is good.
const MALLORY: u32 = 66;

fn packet(packet_type: PacketType, id: u32, src: u32, at: u32, dst: u32) -> Vec<u8> {
    let header = Header {
        packet_type,
        hop_count: MAX_HOPS,
        flags: 0,
        request_id: id,
        src_nbma: nbma(at),
        src_proto: overlay(src),
        dst_proto: overlay(dst),
    };
    Builder::new(&header).cie(&Cie { prefix_len: 0xff, holding_time: 600, ..Cie::default() }).finish()
}

fn register(n: u32, at: u32) -> Vec<u8> {
    packet(PacketType::RegistrationRequest, n, n, at, 1)
}

fn limited(sim: &Net, index: usize) -> u64 {
    sim.snapshot(index).counters.dropped(DropReason::RateLimited)
}

/// A hub with a member Mallory and the addresses 2…9 registered.
fn hub_with_members(seed: u64) -> Net {
    let mut sim = Net::new(seed);
    sim.add(hub(1));
    for n in (2..10).chain([MALLORY]) {
        sim.inject(nbma(n), 0, &register(n, n));
    }
    sim
}

#[test]
fn a_flood_of_one_peer_starves_nobody() {
    let mut sim = hub_with_members(80);
    let sent = sim.sent;
    for n in 0..4000 {
        sim.inject(nbma(MALLORY), 0, &packet(PacketType::ResolutionRequest, n, MALLORY, MALLORY, 2 + n % 8));
        sim.inject(nbma(MALLORY), 0, &packet(PacketType::PurgeRequest, n, 200, MALLORY, 1));
        sim.inject(nbma(MALLORY), 0, b"neither fish nor fowl");
    }
    assert_eq!(limited(&sim, 0), 7000, "what is over the budget of 1000 at once");
    assert_eq!(sim.sent - sent, 1000, "and what is within it costs one packet each");
    // In the same moment: registrations old and new, resolutions of others, and its own registration.
    sim.inject(nbma(2), 0, &register(2, 2));
    sim.inject(nbma(10), 0, &register(10, 10));
    sim.inject(nbma(3), 0, &packet(PacketType::ResolutionRequest, 7, 3, 3, 4));
    sim.inject(nbma(MALLORY), 0, &register(MALLORY, MALLORY));
    assert_eq!(limited(&sim, 0), 7000);
    assert_eq!(sim.sent - sent, 1004);
    assert_eq!(sim.nodes[0].neighbours[&overlay(10)], nbma(10));
    let told = sim.nodes[0].events.iter().filter(|event| {
        matches!(event, Event::Dropped { reason: DropReason::RateLimited, from, .. } if *from == Some(nbma(MALLORY)))
    });
    assert_eq!(told.count(), 1, "told once, and rarely again");
    // A second later it has 500 more.
    sim.run(1000);
    for n in 0..600 {
        sim.inject(nbma(MALLORY), 0, &packet(PacketType::PurgeRequest, n, 200, MALLORY, 1));
    }
    assert_eq!(limited(&sim, 0), 7100);
}

#[test]
fn a_flood_of_registrations_is_its_senders_own_problem() {
    let mut sim = hub_with_members(81);
    for _ in 0..4000 {
        sim.inject(nbma(MALLORY), 0, &register(MALLORY, MALLORY));
    }
    assert_eq!(limited(&sim, 0), 3001, "one of its thousand was its first");
    for n in 2..10 {
        sim.inject(nbma(n), 0, &register(n, n));
    }
    assert_eq!(limited(&sim, 0), 3001);
}

#[test]
fn honest_spokes_come_all_at_once_and_probe_each_second() {
    let mut sim = Net::new(82);
    sim.add(hub(1));
    sim.record = false;
    let all: Vec<_> = (2..5000).map(|n| (nbma(n), register(n, n))).collect();
    for _ in 0..5 {
        for (from, bytes) in &all {
            sim.inject(*from, 0, bytes);
            sim.inject(*from, 0, bytes);
        }
        sim.run(1000);
    }
    assert_eq!(limited(&sim, 0), 0);
    assert_eq!(sim.sent, 10 * all.len() as u64, "each of them is answered");
    assert_eq!(sim.nodes[0].neighbours.len(), all.len());
}

#[test]
fn one_address_does_not_hold_them_all() {
    let mut sim = hub_with_members(83);
    // Slowly enough for the budget.
    for n in 1000..2500 {
        sim.inject(nbma(MALLORY), 0, &register(n, MALLORY));
        sim.run(4);
    }
    assert_eq!(sim.nodes[0].neighbours.values().filter(|at| **at == nbma(MALLORY)).count(), 1024);
    let refused = sim.wire.last().unwrap();
    assert_eq!((refused.message.cies[0].code, refused.message.cies[0].holding_time), (5, 0));
    assert_eq!(refused.to, nbma(MALLORY));
    assert!(
        sim.has_event(0, |event| event.to_string().contains("too many addresses are registered from there"))
    );
    assert_eq!(sim.snapshot(0).counters.dropped(DropReason::Refused), 1500 - 1023);
    // What it holds it may refresh and give up, and then have another.
    sim.inject(nbma(MALLORY), 0, &register(1000, MALLORY));
    assert_eq!(sim.wire.last().unwrap().message.cies[0].code, 0);
    sim.inject(nbma(MALLORY), 0, &packet(PacketType::PurgeRequest, 1, 1001, MALLORY, 1));
    sim.inject(nbma(MALLORY), 0, &register(2600, MALLORY));
    assert_eq!(sim.wire.last().unwrap().message.cies[0].code, 0);
    sim.inject(nbma(20), 0, &register(20, 20));
    assert_eq!(sim.nodes[0].neighbours[&overlay(20)], nbma(20));
    // All of it goes with its time, and the room is there again.
    sim.run(700_000);
    assert_eq!(sim.nodes[0].neighbours.len(), 0);
    sim.inject(nbma(MALLORY), 0, &register(1000, MALLORY));
    assert_eq!(sim.wire.last().unwrap().message.cies[0].code, 0);
}

#[test]
fn errors_are_few_short_and_never_about_errors() {
    let mut sim = Net::new(84);
    let mut config = hub(1);
    config.authentication = vec!["s3cret".into()];
    sim.add(config);
    for n in 0..1000 {
        sim.inject(nbma(MALLORY), 0, &register(n, MALLORY));
    }
    let errors: Vec<_> = sim.wire.iter().filter(|sent| sent.is(PacketType::ErrorIndication)).collect();
    assert_eq!(errors.len(), 16, "at once; then four a second");
    let bytes = register(0, MALLORY);
    assert!(errors.iter().all(|error| error.bytes.len() <= bytes.len().max(80)), "no amplifier");
    let error = errors[0].bytes.clone();
    sim.run(10_000);
    sim.wire.clear();
    sim.inject(nbma(MALLORY), 0, &error);
    assert!(sim.wire.is_empty());
}

/// A scan from behind a spoke, or indications without end: so many requests are under way, and no more.
#[test]
fn requests_of_our_own_are_bounded() {
    let mut sim = Net::new(85);
    sim.add(hub(1));
    let s = sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.until(50, |sim| sim.registered(s));
    sim.nodes[0].alive = false;
    sim.record = false;
    let indication = Header {
        packet_type: PacketType::TrafficIndication,
        hop_count: MAX_HOPS,
        flags: 0,
        request_id: 0,
        src_nbma: nbma(1),
        src_proto: overlay(1),
        dst_proto: overlay(2),
    };
    let sent = sim.sent;
    for n in 0..2000u32 {
        let dst = std::net::IpAddr::from((0x0a63_0000 + n).to_be_bytes());
        let packet = data(ip("10.2.0.5"), dst);
        sim.inject(nbma(1), s, &Builder::new(&indication).payload(&packet[..84]).finish());
    }
    assert_eq!(sim.sent - sent, 1024);
    assert_eq!(sim.snapshot(s).counters.dropped(DropReason::TableFull), 2000 - 1024);
    // The hub's hairpins are another matter: see `redirects_are_limited_by_pair`.
    sim.input(s, Input::Hairpin { link: LINK, packet: data(ip("10.2.0.5"), ip("10.9.0.5")) });
    assert_eq!(sim.snapshot(s).counters.dropped(DropReason::NotServer), 1);
}

/// Each change of a list is told to all others: one spoke must not set them all going without end.
#[test]
fn a_list_that_flaps_is_told_on_a_few_times_only() {
    let mut sim = Net::new(86);
    sim.add(hub(1));
    let spokes: Vec<_> = (2..8).map(|n| sim.add(spoke(n, &[format!("10.{n}.0.0/24")]))).collect();
    sim.run(1000);
    let announced = |sim: &Net, prefix: &str| {
        sim.nodes[spokes[1]].routes.contains_key(&(net(prefix), nhrp::RouteKind::Announced))
    };
    assert!(announced(&sim, "10.2.0.0/24"));
    let before = sim.sent;
    let lists = [net("10.2.0.0/24"), net("10.2.1.0/24")];
    for n in 0..2000 {
        let chunk = nhrp::wire::PrefixChunk {
            flags: nhrp::wire::list_flags::FIRST,
            generation: n,
            prefixes: vec![lists[(n % 2) as usize]],
            ..Default::default()
        };
        let header = Header {
            packet_type: PacketType::RegistrationRequest,
            hop_count: MAX_HOPS,
            flags: 0,
            request_id: n,
            src_nbma: nbma(2),
            src_proto: overlay(2),
            dst_proto: overlay(1),
        };
        let registration = Builder::new(&header)
            .cie(&Cie { prefix_len: 0xff, holding_time: 600, ..Cie::default() })
            .extension(false, nhrp::wire::ext::PREFIXES, &chunk.encode());
        sim.inject(nbma(2), 0, &registration.finish());
        sim.run(60);
    }
    let limited = limited(&sim, 0);
    // Every other one says what is known already.
    assert!((900..1000).contains(&limited), "{limited}");
    // 120 s: some 44 changes, each told to five others (and answered), besides 2000 replies and their refreshes.
    let told = sim.sent - before - 2000;
    assert!(told < 44 * 2 * 6 + 200, "{told}");
    // In the end what the spoke says counts.
    sim.until(30_000, |sim| announced(sim, "10.2.0.0/24") && !announced(sim, "10.2.1.0/24"));
}
