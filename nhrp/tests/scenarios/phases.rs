//! Phase 1: nothing but the hub. Phase 2: routes keep the spoke as next hop, and the kernel's question makes the path.

use nhrp::wire::{Builder, Cie, Header, MAX_HOPS, PrefixChunk, ext, list_flags};
use nhrp::{
    Config, DropReason, Event, HubEntry, HubNbma, Input, PacketType, Phase, RouteKind, ShortcutPhase,
};

use super::net::*;

const HUB: usize = 0;
const A: usize = 1;
const B: usize = 2;

fn with(phase: Phase, mut config: Config) -> Config {
    config.phase = phase;
    config
}

/// Hub 0, spokes 1 (10.2.0.0/24) and 2 (10.3.0.0/24), all settled.
fn triangle(seed: u64, phase: Phase) -> Net {
    let mut sim = Net::new(seed);
    sim.add(with(phase, hub(1)));
    sim.add(with(phase, spoke(2, &["10.2.0.0/24"])));
    sim.add(with(phase, spoke(3, &["10.3.0.0/24"])));
    sim.run(500);
    sim
}

fn route(sim: &Net, node: usize, prefix: &str) -> Option<std::net::IpAddr> {
    sim.nodes[node].routes.get(&(net(prefix), RouteKind::Announced)).copied()
}

fn asked(sim: &Net, from: u32) -> usize {
    let ours = |sent: &&Sent| {
        sent.is(PacketType::ResolutionRequest) && (sent.from, sent.to) == (nbma(from), nbma(1))
    };
    sim.wire.iter().filter(ours).count()
}

/// A Resolution Request of the spoke 2, for a foreign peer's sake built by hand.
fn request(dst: std::net::IpAddr) -> Vec<u8> {
    let header = Header {
        packet_type: PacketType::ResolutionRequest,
        hop_count: MAX_HOPS,
        flags: 0xc802,
        request_id: 77,
        src_nbma: nbma(2),
        src_proto: overlay(2),
        dst_proto: dst,
    };
    Builder::new(&header).cie(&Cie { prefix_len: 32, holding_time: 60, ..Cie::default() }).finish()
}

#[test]
fn phase_one_has_no_way_round_the_hub() {
    let mut sim = triangle(60, Phase::One);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.watch(A, a, b);
    for _ in 0..5 {
        assert_eq!(sim.ping(A, a, b), [A, HUB, B]);
        sim.run(1000);
    }
    assert_eq!(sim.count(PacketType::TrafficIndication), 0);
    sim.input(A, Input::ResolveNeeded { link: LINK, overlay: overlay(3) });
    assert_eq!(sim.count(PacketType::ResolutionRequest), 0);
    assert_eq!(sim.snapshot(A).counters.dropped(DropReason::Phase), 1);
    assert_eq!(route(&sim, A, "10.3.0.0/24"), Some(overlay(1)));
    assert!(route(&sim, A, "10.255.0.3/32").is_none());
    // A foreign peer asks the hub, and (knowing the way) the spoke itself: refused, it stays on the hub.
    for (node, dst) in [(HUB, b), (HUB, overlay(3)), (B, b), (B, overlay(3))] {
        sim.wire.clear();
        sim.inject(nbma(2), node, &request(dst));
        let reply = sim.wire.iter().find(|sent| sent.is(PacketType::ResolutionReply)).expect("an answer");
        assert_eq!(
            (reply.message.cies[0].code, reply.message.cies[0].proto),
            (4, None),
            "{node} about {dst}"
        );
    }
    // The hub itself is everybody's.
    sim.wire.clear();
    sim.inject(nbma(2), HUB, &request(overlay(1)));
    let reply = sim.wire.iter().find(|sent| sent.is(PacketType::ResolutionReply)).expect("an answer");
    assert_eq!(reply.message.cies[0].code, 0);
}

#[test]
fn phase_one_spoke_still_tells_the_hub_that_it_lives() {
    let mut sim = triangle(61, Phase::One);
    // A thief claims the address of spoke 3: the hub asks who holds it.
    let thief = sim.add(with(Phase::One, Config { nbma: Some(nbma(9)), ..spoke(3, NO_LAN) }));
    sim.run(3000);
    assert!(!sim.registered(thief));
    assert_eq!(sim.nodes[HUB].neighbours[&overlay(3)], nbma(3));
}

#[test]
fn phase_two_keeps_the_next_hop_and_goes_direct() {
    let mut sim = triangle(62, Phase::Two);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    assert_eq!(route(&sim, A, "10.3.0.0/24"), Some(overlay(3)));
    assert_eq!(route(&sim, A, "10.255.0.3/32"), Some(overlay(3)));
    assert!(route(&sim, A, "10.255.0.2/32").is_none(), "its own");
    assert!(!sim.nodes[A].neighbours.contains_key(&overlay(3)), "nobody has asked yet");
    sim.watch(A, a, b);
    sim.watch(B, b, a);
    assert_eq!(sim.ping(A, a, b), [A, HUB, B], "by the hub at once");
    assert_eq!(sim.nodes[A].neighbours[&overlay(3)], nbma(1));
    let took = sim.until(100, |sim| sim.path(A, b).unwrap() == [A, B]);
    assert!(took <= 25, "request twice, reply, question and answer: 5 × 5 ms, not {took}");
    assert_eq!(sim.count(PacketType::TrafficIndication), 0);
    let request = sim.wire.iter().find(|sent| sent.is(PacketType::ResolutionRequest)).unwrap();
    assert_eq!(request.message.header.dst_proto, overlay(3), "the next hop, not the destination");
    let state = &sim.snapshot(A).shortcuts[0];
    assert_eq!((state.prefix, state.via), (net("10.255.0.3/32"), Some(overlay(3))));
    // All that lies behind the next hop goes the same way, and the tunnel address itself.
    assert_eq!(sim.ping(A, a, ip("10.3.0.77")), [A, B]);
    assert_eq!(sim.path(A, overlay(3)).unwrap(), [A, B]);
    assert_eq!(asked(&sim, 2), 1);
    assert_eq!(sim.ping(B, b, a), [B, HUB, A], "each direction for itself");
    sim.until(100, |sim| sim.path(B, a).unwrap() == [B, A]);
}

/// A summary stands for the next hops inside it too; a part of the overlay is told upwards, and hides no spoke.
#[test]
fn phase_two_summaries_hide_what_lies_inside_them() {
    let mut sim = triangle(73, Phase::Two);
    let told = |sim: &Net| {
        let routes = sim.nodes[A].routes.keys().filter(|(_, kind)| *kind == RouteKind::Announced);
        routes.map(|(prefix, _)| prefix.to_string()).collect::<Vec<_>>()
    };
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    let each = ["10.3.0.0/24", "10.255.0.3/32"];
    for (advertise, expected) in
        [("10.0.0.0/8", &["10.0.0.0/8"][..]), ("10.255.0.0/24", &each), ("0.0.0.0/0", &["0.0.0.0/0"])]
    {
        let config = Config { advertise: vec![net(advertise)], ..sim.nodes[HUB].config.clone() };
        sim.input(HUB, Input::Configure(Box::new(config)));
        sim.run(2000);
        assert_eq!(told(&sim), expected, "under {advertise}");
        sim.ping(A, a, b);
        sim.run(50);
        let direct = expected.len() > 1;
        let way = if direct { vec![A, B] } else { vec![A, HUB, B] };
        assert_eq!(sim.ping(A, a, b), way, "under {advertise}");
    }
}

/// One of Phase 1 has the other end of its tunnel and nothing else, whatever hubs tell of each other.
#[test]
fn phase_one_takes_no_way_that_is_told() {
    let entry = |n: u32, places: &[u32]| HubEntry {
        name: format!("hub{n}"),
        overlay: vec![overlay(n)],
        nbma: places.iter().map(|n| HubNbma::Address(nbma(*n))).collect(),
        ..HubEntry::default()
    };
    let list = vec![entry(1, &[1, 9]), entry(2, &[2])];
    let mut sim = Net::new(74);
    sim.add(with(Phase::One, Config { hub_list: list.clone(), ..hub(1) }));
    sim.add(with(Phase::One, Config { hub_list: list, ..hub(2) }));
    let a = sim.add(with(Phase::One, Config { fixed_hubs: true, ..spoke(12, &["10.2.0.0/24"]) }));
    sim.run(5000);
    assert!(sim.registered(a));
    sim.nodes[0].alive = false;
    sim.run(120_000);
    assert!(!sim.registered(a));
    sim.nodes[0].alive = true;
    sim.until(65_000, |sim| sim.registered(a));
    let ways = sim.wire.iter().filter(|sent| sent.from == nbma(12)).map(|sent| sent.to);
    assert_eq!(ways.collect::<std::collections::BTreeSet<_>>(), [nbma(1)].into());
}

#[test]
fn phase_two_is_renewed_while_used_and_gone_when_idle() {
    let mut sim = triangle(63, Phase::Two);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.watch(A, a, b);
    sim.ping(A, a, b);
    sim.run(50);
    for _ in 0..200 {
        assert_eq!(sim.ping(A, a, b), [A, B], "renewed without a gap");
        sim.run(1000);
    }
    assert!((5..=6).contains(&asked(&sim, 2)), "at two thirds of 60 s: {}", asked(&sim, 2));
    sim.run(130_000);
    assert!(sim.snapshot(A).shortcuts.is_empty());
    assert_eq!(sim.nodes[A].neighbours.len(), 1, "the hub alone: {:?}", sim.nodes[A].neighbours);
    assert_eq!(sim.ping(A, a, b), [A, HUB, B], "asked anew");
}

#[test]
fn phase_two_who_is_not_there_stays_with_the_hub() {
    let mut sim = triangle(64, Phase::Two);
    let ask = |sim: &mut Net| sim.input(A, Input::ResolveNeeded { link: LINK, overlay: overlay(77) });
    ask(&mut sim);
    sim.run(50);
    assert_eq!(sim.nodes[A].neighbours[&overlay(77)], nbma(1), "unknown: by the hub, which knows best");
    let state = sim.snapshot(A).shortcuts.into_iter().find(|it| it.prefix.addr() == overlay(77)).unwrap();
    assert_eq!(state.phase, ShortcutPhase::Negative);
    assert!(state.reason.contains("code 12"), "{}", state.reason);
    // The kernel loses it and asks again: nothing new goes out.
    ask(&mut sim);
    assert_eq!(asked(&sim, 2), 1);
    sim.run(61_000);
    assert!(!sim.nodes[A].neighbours.contains_key(&overlay(77)));
}

#[test]
fn phase_two_questions_have_a_budget() {
    let mut sim = triangle(65, Phase::Two);
    for n in 100..6100 {
        sim.input(A, Input::ResolveNeeded { link: LINK, overlay: overlay(n) });
    }
    assert_eq!(asked(&sim, 2), 1000);
    assert_eq!(sim.nodes[A].neighbours.len(), 1001, "no neighbour without a question");
    assert_eq!(sim.snapshot(A).counters.dropped(DropReason::RateLimited), 5000);
    // What leads nowhere is forgotten, and known spokes are found all the same.
    sim.run(70_000);
    assert_eq!(sim.nodes[A].neighbours.len(), 1);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    assert_eq!(sim.path(A, ip("10.3.0.5")).unwrap(), [A, B]);
}

#[test]
fn phase_two_egress_leaves_and_comes_back() {
    let mut sim = triangle(66, Phase::Two);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.ping(A, a, b);
    sim.run(50);
    sim.input(B, Input::Withdraw);
    sim.run(200);
    assert!(sim.snapshot(A).shortcuts.is_empty());
    assert!(sim.has_event(A, |event| matches!(event, Event::Purged { by, .. } if *by == nbma(3))));
    assert_eq!(sim.nodes[A].neighbours.keys().copied().collect::<Vec<_>>(), [overlay(1)]);
    assert_eq!(route(&sim, A, "10.3.0.0/24"), None);
    assert_eq!(route(&sim, A, "10.255.0.3/32"), None);
    // Wanted again, with another LAN and none of it known before.
    sim.nodes[B].config = with(Phase::Two, spoke(3, &["10.33.0.0/24"]));
    let config = sim.nodes[B].config.clone();
    sim.input(B, Input::Configure(Box::new(config)));
    sim.run(500);
    assert_eq!(sim.ping(A, a, ip("10.33.0.1")), [A, HUB, B]);
    sim.run(50);
    assert_eq!(sim.path(A, ip("10.33.0.1")).unwrap(), [A, B]);
}

#[test]
fn phase_two_egress_moves() {
    let mut sim = triangle(67, Phase::Two);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.ping(A, a, b);
    sim.run(50);
    sim.readdress(B, nbma(30));
    // The hub makes sure that the old address is silent, then tells those who were told.
    sim.run(5000);
    sim.ping(A, a, b);
    sim.run(50);
    assert_eq!(sim.path(A, b).unwrap(), [A, B]);
    assert_eq!(sim.nodes[A].neighbours[&overlay(3)], nbma(30));
}

#[test]
fn phase_two_follows_the_hub_that_answers() {
    let mut sim = Net::new(68);
    let two = |mut config: Config| {
        config.phase = Phase::Two;
        config.nhs = vec![nhs(1), nhs(2)];
        config
    };
    sim.add(with(Phase::Two, hub(1)));
    sim.add(with(Phase::Two, hub(2)));
    let a = sim.add(two(spoke(12, &["10.2.0.0/24"])));
    let b = sim.add(two(spoke(13, &["10.3.0.0/24"])));
    sim.run(500);
    // Nobody answers for this one: traffic goes by the first hub for the time of the back-off.
    sim.input(a, Input::ResolveNeeded { link: LINK, overlay: overlay(77) });
    assert_eq!(sim.nodes[a].neighbours[&overlay(77)], nbma(1));
    sim.nodes[0].alive = false;
    sim.until(60_000, |sim| sim.nodes[a].neighbours.get(&overlay(77)) == Some(&nbma(2)));
    assert_eq!(route(&sim, a, "10.3.0.0/24"), Some(overlay(13)));
    assert_eq!(sim.ping(a, ip("10.2.0.5"), ip("10.3.0.5")), [a, 1, b]);
    sim.run(50);
    assert_eq!(sim.path(a, ip("10.3.0.5")).unwrap(), [a, b]);
}

#[test]
fn phase_two_renews_with_the_hub_that_answers() {
    let mut sim = Net::new(69);
    let two = |mut config: Config| {
        config.phase = Phase::Two;
        config.nhs = vec![nhs(1), nhs(2)];
        config
    };
    sim.add(with(Phase::Two, hub(1)));
    sim.add(with(Phase::Two, hub(2)));
    let a = sim.add(two(spoke(12, &["10.2.0.0/24"])));
    let b = sim.add(two(spoke(13, &["10.3.0.0/24"])));
    sim.run(500);
    sim.ping(a, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    sim.nodes[0].alive = false;
    sim.watch(a, ip("10.2.0.5"), ip("10.3.0.5"));
    for _ in 0..150 {
        assert_eq!(sim.ping(a, ip("10.2.0.5"), ip("10.3.0.5")), [a, b]);
        sim.run(1000);
    }
}

#[test]
fn phase_two_survives_restarts() {
    let mut sim = triangle(70, Phase::Two);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.ping(A, a, b);
    sim.run(50);
    sim.watch(A, a, b);
    sim.restart(A, 2000);
    assert_eq!(route(&sim, A, "10.3.0.0/24"), Some(overlay(3)));
    assert_eq!(sim.ping(A, a, b), [A, B]);
    sim.restart(HUB, 2000);
    sim.run(30_000);
    assert_eq!(route(&sim, A, "10.3.0.0/24"), Some(overlay(3)), "the hub knows what its clients read");
    assert_eq!(sim.ping(A, a, b), [A, B]);
}

#[test]
fn phases_change_while_traffic_flows() {
    let mut sim = triangle(71, Phase::Three);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.watch(A, a, b);
    sim.ping(A, a, b);
    sim.run(50);
    assert_eq!(sim.path(A, b).unwrap(), [A, B]);
    for phase in [Phase::Two, Phase::One, Phase::Two, Phase::Three] {
        for node in [A, HUB, B] {
            let config = with(phase, sim.nodes[node].config.clone());
            sim.input(node, Input::Configure(Box::new(config)));
            sim.run(700);
            sim.ping(A, a, b);
        }
        sim.run(1000);
        sim.ping(A, a, b);
        sim.run(100);
        let want = if phase == Phase::One { vec![A, HUB, B] } else { vec![A, B] };
        assert_eq!(sim.ping(A, a, b), want, "{phase:?}");
        let keeps = phase == Phase::Two;
        let next_hop = if keeps { overlay(3) } else { overlay(1) };
        assert_eq!(route(&sim, A, "10.3.0.0/24"), Some(next_hop), "{phase:?}");
        assert_eq!(route(&sim, A, "10.255.0.3/32").is_some(), keeps, "{phase:?}");
    }
}

/// A client from before the next hops is told the list as it always was.
#[test]
fn older_clients_read_the_list_without_next_hops() {
    let mut sim = triangle(72, Phase::Two);
    let header = Header {
        packet_type: PacketType::RegistrationRequest,
        hop_count: MAX_HOPS,
        flags: 0,
        request_id: 5,
        src_nbma: nbma(8),
        src_proto: overlay(8),
        dst_proto: overlay(1),
    };
    let list = |flags: u8| {
        let own = PrefixChunk { flags: flags | list_flags::FIRST, ..PrefixChunk::default() };
        Builder::new(&header)
            .cie(&Cie { prefix_len: 0xff, holding_time: 60, ..Cie::default() })
            .extension(false, ext::PREFIXES, &own.encode())
            .finish()
    };
    let told = |sim: &Net| {
        let reply =
            sim.wire.iter().rfind(|it| it.is(PacketType::RegistrationReply) && it.to == nbma(8)).unwrap();
        let value = reply.message.extensions.iter().flatten().find(|it| it.kind == ext::PREFIXES).unwrap();
        PrefixChunk::decode(&value.value).unwrap()
    };
    sim.inject(nbma(8), HUB, &list(list_flags::WANT));
    let old = told(&sim);
    assert_eq!(old.prefixes, [net("10.2.0.0/24"), net("10.3.0.0/24")]);
    assert!(old.next_hops.is_empty());
    sim.inject(nbma(8), HUB, &list(list_flags::WANT | list_flags::NEXT_HOPS));
    let new = told(&sim);
    assert_eq!(new.prefixes.len(), 4, "with the hosts: {:?}", new.prefixes);
    assert_eq!(new.next_hops[&net("10.3.0.0/24")], overlay(3));
    assert_eq!(new.next_hops[&net("10.255.0.3/32")], overlay(3));
}
