//! Hubs that register with hubs: what is told up and down, withdrawal without counting to infinity, shortcuts and purges
//! across regions, summaries and default routes.

use nhrp::wire::{Builder, Cie, PrefixChunk, ext, list_flags};
use nhrp::{ChildHub, Config, DropReason, Event, External, Input, PacketType, RouteKind, ShortcutPhase};

use super::net::*;

const CENTRE: usize = 0;
const WEST: usize = 1;
const EAST: usize = 2;
const A: usize = 3;
const B: usize = 4;

/// Hub `n` that registers with `parents` and that `children` register with.
fn hub_of(n: u32, parents: &[u32], children: &[u32]) -> Config {
    Config {
        nhs: parents.iter().map(|n| nhs(*n)).collect(),
        child_hubs: children.iter().map(|n| child_hub(*n)).collect(),
        ..hub(n)
    }
}

fn spoke_of(n: u32, hubs: &[u32], subnets: &[&str]) -> Config {
    Config { nhs: hubs.iter().map(|n| nhs(*n)).collect(), ..spoke(n, subnets) }
}

/// Hub 1 over hubs 2 and 3; spoke 12 (10.12.0.0/24) at hub 2, spoke 13 (10.13.0.0/24) at hub 3; all settled.
fn tree_of(seed: u64, configs: [Config; 3]) -> Net {
    let mut sim = Net::new(seed);
    configs.into_iter().for_each(|config| {
        sim.add(config);
    });
    sim.add(spoke_of(12, &[2], &["10.12.0.0/24"]));
    sim.add(spoke_of(13, &[3], &["10.13.0.0/24"]));
    sim.run(1000);
    assert!((WEST..=B).all(|node| sim.registered(node)));
    sim
}

fn tree(seed: u64) -> Net {
    tree_of(seed, [hub_of(1, &[], &[2, 3]), hub_of(2, &[1], &[]), hub_of(3, &[1], &[])])
}

fn told(sim: &Net, index: usize, kind: RouteKind) -> Vec<String> {
    let routes = sim.nodes[index].routes.iter().filter(|((_, of), _)| *of == kind);
    routes.map(|((prefix, _), via)| format!("{prefix} {via}")).collect()
}

fn has(sim: &Net, index: usize, prefix: &str) -> bool {
    sim.nodes[index].routes.keys().any(|(net, _)| *net == super::net::net(prefix))
}

#[test]
fn what_is_below_goes_up_and_what_is_above_goes_down() {
    let sim = tree(100);
    let below = ["10.12.0.0/24 10.255.0.2", "10.13.0.0/24 10.255.0.3", "10.255.0.12/32 10.255.0.2"];
    assert_eq!(told(&sim, CENTRE, RouteKind::Registered)[..3], below);
    assert_eq!(told(&sim, WEST, RouteKind::Registered), ["10.12.0.0/24 10.255.0.12"]);
    // Not what it told itself, and of the overlay nothing: that it routes upwards as a whole.
    assert_eq!(told(&sim, WEST, RouteKind::Announced), ["10.13.0.0/24 10.255.0.1"]);
    assert_eq!(told(&sim, A, RouteKind::Announced), ["10.13.0.0/24 10.255.0.2"]);
    assert_eq!(sim.path(A, ip("10.13.0.9")).unwrap(), [A, WEST, CENTRE, EAST, B]);
    assert_eq!(sim.path(B, overlay(12)).unwrap(), [B, EAST, CENTRE, WEST, A]);
    assert_eq!(sim.path(CENTRE, overlay(13)).unwrap(), [CENTRE, EAST, B]);
    // Nobody's address ends at the top, and does not turn round.
    assert!(sim.path(A, overlay(99)).unwrap_err().contains("no route"));
}

#[test]
fn shortcut_between_regions_and_nothing_lost() {
    let mut sim = tree(101);
    let (a, b) = (ip("10.12.0.5"), ip("10.13.0.5"));
    sim.watch(A, a, b);
    sim.watch(B, b, a);
    sim.watch(A, overlay(12), overlay(13));
    assert_eq!(sim.ping(A, a, b), [A, WEST, CENTRE, EAST, B]);
    let took = sim.until(100, |sim| sim.path(A, b).unwrap() == [A, B]);
    assert!(took <= 40, "indication, request four times, reply, the way tried: 8 × 5 ms, not {took}");
    sim.ping(B, b, a);
    sim.until(100, |sim| sim.path(B, a).unwrap() == [B, A]);
    // The request went by all three hubs, each in the record; the answer straight.
    let asked: Vec<_> = sim.wire.iter().filter(|sent| sent.is(PacketType::ResolutionRequest)).collect();
    let way: Vec<_> = asked[..4].iter().map(|sent| (sent.from, sent.to)).collect();
    assert_eq!(way, [(12, 2), (2, 1), (1, 3), (3, 13)].map(|(from, to)| (nbma(from), nbma(to))));
    let record = asked[3].message.extensions.iter().flatten().find(|it| it.kind == ext::FORWARD_RECORD);
    let record: Vec<_> =
        nhrp::wire::cies(&record.unwrap().value).unwrap().filter_map(|it| it.proto).collect();
    assert_eq!(record, [overlay(2), overlay(1), overlay(3)]);
    let reply = sim.wire.iter().find(|sent| sent.is(PacketType::ResolutionReply)).unwrap();
    assert_eq!((reply.from, reply.to), (nbma(13), nbma(12)));
    assert_eq!(sim.snapshot(A).shortcuts[0].prefix, net("10.13.0.0/24"));
    // Each hub told the one before it; the centre's word came to the spoke's hub, which had told it already.
    let indications: Vec<_> = sim
        .wire
        .iter()
        .filter(|it| it.is(PacketType::TrafficIndication))
        .map(|it| (it.from, it.to))
        .collect();
    assert!(indications.contains(&(nbma(2), nbma(12))) && indications.contains(&(nbma(1), nbma(2))));
    assert_eq!(indications.iter().filter(|(_, to)| *to == nbma(12)).count(), 1, "{indications:?}");
    // Tunnel addresses too.
    sim.ping(A, overlay(12), overlay(13));
    sim.run(50);
    assert_eq!(sim.path(A, overlay(13)).unwrap(), [A, B]);
}

#[test]
fn indication_from_above_reaches_the_spoke() {
    let mut sim = tree(102);
    // The regional hub does not see what it turns round (or is of a make that does not care).
    sim.input(CENTRE, Input::Hairpin { link: LINK, packet: data(ip("10.12.0.5"), ip("10.13.0.5")) });
    sim.run(60);
    assert_eq!(sim.path(A, ip("10.13.0.5")).unwrap(), [A, B]);
    // About traffic of nobody there, or that does not go up: not passed on.
    let before = sim.count(PacketType::TrafficIndication);
    for (src, dst) in [("10.99.0.5", "10.13.0.5"), ("10.12.0.5", "10.12.0.6")] {
        let header = nhrp::wire::Header {
            packet_type: PacketType::TrafficIndication,
            hop_count: 255,
            flags: 0,
            request_id: 0,
            src_nbma: nbma(1),
            src_proto: overlay(1),
            dst_proto: ip(src),
        };
        let bytes = Builder::new(&header).payload(&data(ip(src), ip(dst))[..84]).finish();
        sim.inject(nbma(1), WEST, &bytes);
    }
    assert_eq!(sim.count(PacketType::TrafficIndication), before);
    assert_eq!(sim.snapshot(WEST).counters.dropped(DropReason::NotOurTraffic), 2);
}

#[test]
fn egress_that_leaves_or_dies_is_purged_through_the_chain() {
    for dies in [false, true] {
        let mut sim = tree(103);
        let (a, b) = (ip("10.12.0.5"), ip("10.13.0.5"));
        sim.ping(A, a, b);
        sim.run(60);
        assert_eq!(sim.path(A, b).unwrap(), [A, B]);
        sim.wire.clear();
        if dies {
            sim.nodes[B].alive = false;
            // Used to the last: the shortcut does not go for lack of use.
            sim.until(61_000, |sim| !has(sim, EAST, "10.13.0.0/24"));
        } else {
            sim.cut.insert((nbma(13), nbma(12)));
            sim.input(B, Input::Withdraw);
        }
        sim.run(200);
        let purged = |from: u32, to: u32| {
            let between = |sent: &&Sent| (sent.from, sent.to) == (nbma(from), nbma(to));
            sim.wire.iter().any(|sent| sent.is(PacketType::PurgeRequest) && between(&sent))
        };
        assert!(purged(3, 1) && purged(1, 2) && purged(2, 12), "dies: {dies}");
        assert!(sim.snapshot(A).shortcuts.is_empty());
        assert!(sim.has_event(A, |event| matches!(event, Event::Purged { by, .. } if *by == nbma(2))));
        // Every purge was answered: none goes out again.
        let before = sim.count(PacketType::PurgeRequest);
        sim.cut.clear();
        sim.run(10_000);
        let to_the_dead = sim.wire.iter().filter(|it| it.is(PacketType::PurgeRequest) && it.from == nbma(13));
        assert!(sim.count(PacketType::PurgeRequest) - before <= to_the_dead.count());
    }
}

#[test]
fn refusal_comes_back_by_the_way_of_the_request() {
    let mut sim = tree(104);
    sim.input(WEST, Input::Hairpin { link: LINK, packet: data(ip("10.12.0.5"), overlay(99)) });
    sim.run(50);
    let state = &sim.snapshot(A).shortcuts[0];
    assert_eq!(state.phase, ShortcutPhase::Negative);
    assert!(state.reason.contains("code 12"), "{}", state.reason);
}

#[test]
fn withdrawal_through_two_levels() {
    let mut sim = tree(105);
    sim.watch(A, ip("10.12.0.1"), overlay(1));
    sim.input(B, Input::Configure(Box::new(spoke_of(13, &[3], NO_LAN))));
    // Gathered for 50 ms at each of three hubs.
    let took = sim.until(1000, |sim| (CENTRE..=A).all(|node| !has(sim, node, "10.13.0.0/24")));
    assert!(took <= 250, "{took}");
    sim.input(B, Input::Configure(Box::new(spoke_of(13, &[3], &["10.13.0.0/24"]))));
    let took = sim.until(1000, |sim| has(sim, A, "10.13.0.0/24"));
    assert!(took <= 250, "{took}");
    // A region whose hub dies goes with its registration.
    sim.nodes[EAST].alive = false;
    sim.run(61_000);
    assert!(!has(&sim, A, "10.13.0.0/24"));
    assert!(sim.path(A, ip("10.13.0.5")).is_err());
}

/// Checks that nobody's way goes round, wherever it starts, and what everybody believes of each LAN.
fn check_ways(sim: &Net, lans: &[(usize, String, bool)]) -> Result<(), String> {
    for (owner, lan, alive) in lans {
        let host = net(lan).network();
        for start in (0..sim.nodes.len()).filter(|start| start != owner) {
            match (sim.path(start, host), alive) {
                (Ok(way), true) if way.last() == Some(owner) => {}
                (Err(error), false) if !error.contains("loop") => {}
                (way, _) => return Err(format!("{start} to {lan} (there: {alive}): {way:?}")),
            }
            if !alive && has(sim, start, lan) {
                return Err(format!("{start} still has {lan}"));
            }
        }
    }
    Ok(())
}

/// Three hubs at the top that register with each other, three regional ones that register with two of them each, and
/// spokes that register with two regional hubs each: circles wherever one looks.
#[test]
fn nothing_lives_on_in_circles() {
    for seed in 0..12 {
        let mut sim = Net::new(10_600 + seed);
        sim.record = false;
        sim.delay_ms = (1, 40);
        let tops = [1, 2, 3];
        for n in tops {
            let peers: Vec<_> = tops.into_iter().filter(|other| *other != n).collect();
            let regional = (4..=6).filter(|r| r % 3 != n % 3);
            let children: Vec<_> = peers.iter().copied().chain(regional).collect();
            sim.add(hub_of(n, &peers, &children));
        }
        for n in 4..=6 {
            let parents: Vec<_> = tops.into_iter().filter(|top| n % 3 != top % 3).collect();
            sim.add(hub_of(n, &parents, &[]));
        }
        let homes = |n: u32| [4 + n % 3, 4 + (n + 1) % 3];
        let lan = |n: u32| format!("10.{n}.0.0/24");
        let mut lans = Vec::new();
        for n in 10..16 {
            let index = sim.add(spoke_of(n, &homes(n), &[&lan(n)]));
            lans.push((index, lan(n), true));
        }
        sim.run(3000);
        check_ways(&sim, &lans).unwrap_or_else(|error| panic!("seed {seed}, start: {error}"));
        sim.loss = 100;
        // Nobody is to be given up for lost, only the lists are in disorder.
        sim.spare_registrations = seed % 2 == 0;
        for _ in 0..30 {
            let at = (sim.random() % 6) as usize;
            let (index, lan, alive) = &mut lans[at];
            *alive = !*alive;
            let n = 10 + at as u32;
            let own = if *alive { vec![lan.as_str()] } else { Vec::new() };
            let config = spoke_of(n, &homes(n), &own);
            let index = *index;
            sim.input(index, Input::Configure(Box::new(config)));
            let pause = sim.random() % 150;
            sim.run(pause);
        }
        sim.loss = 0;
        sim.run(if sim.spare_registrations { 5000 } else { 70_000 });
        check_ways(&sim, &lans).unwrap_or_else(|error| panic!("seed {seed}, end: {error}"));
        // And it is quiet: 6 spokes, 3 regional and 3 top hubs have two registrations each, and there is another way for
        // each, so that each is asked every second.
        let before = sim.sent;
        sim.run(20_000);
        assert!(sim.sent - before <= 24 * 2 * 22, "seed {seed}: {} packets in 20 s", sim.sent - before);
    }
}

#[test]
fn two_peers_do_not_believe_each_other() {
    // Of two peers each of which has the spoke: both lose it at the same moment.
    let mut sim = Net::new(107);
    sim.delay_ms = (20, 20);
    let left = sim.add(hub_of(1, &[2], &[2]));
    let right = sim.add(hub_of(2, &[1], &[1]));
    let s = sim.add(spoke_of(12, &[1, 2], &["10.12.0.0/24"]));
    sim.add(spoke_of(13, &[1], &["10.13.0.0/24"]));
    sim.run(2000);
    assert_eq!(sim.path(right, ip("10.13.0.1")).unwrap(), [right, left, 3]);
    assert_eq!(sim.path(right, ip("10.12.0.1")).unwrap(), [right, s], "the spoke's own word");
    sim.input(s, Input::Configure(Box::new(spoke_of(12, &[1, 2], NO_LAN))));
    let took = sim.until(1000, |sim| [left, right].iter().all(|hub| !has(sim, *hub, "10.12.0.0/24")));
    assert!(took <= 400, "{took}");
    let sent = sim.sent;
    sim.run(5000);
    // The spoke with two hubs asks each of them every second.
    assert!(sim.sent - sent < 2 * 2 * 5 + 14, "the two go on telling each other: {}", sim.sent - sent);
    // Addresses of nobody do not go to and fro.
    assert!(sim.path(left, overlay(99)).is_err());
}

#[test]
fn spoke_with_two_regional_hubs() {
    let mut sim = tree(108);
    let s = sim.add(spoke_of(14, &[2, 3], &["10.14.0.0/24"]));
    sim.run(1000);
    let key = (net("10.14.0.0/24"), RouteKind::Registered);
    assert_eq!(sim.nodes[CENTRE].routes[&key], overlay(2), "who told first");
    sim.watch(B, ip("10.13.0.1"), ip("10.14.0.1"));
    // It leaves one of them: the other's word was there all along.
    sim.input(s, Input::Configure(Box::new(spoke_of(14, &[3], &["10.14.0.0/24"]))));
    sim.run(1000);
    assert_eq!(sim.nodes[CENTRE].routes[&key], overlay(3));
    assert_eq!(sim.path(A, ip("10.14.0.1")).unwrap(), [A, WEST, CENTRE, EAST, s]);
    // And registers with the centre besides: nearer than by any hub.
    sim.input(s, Input::Configure(Box::new(spoke_of(14, &[1, 3], &["10.14.0.0/24"]))));
    sim.run(1000);
    assert_eq!(sim.nodes[CENTRE].routes[&key], overlay(14));
    assert_eq!(sim.path(A, ip("10.14.0.1")).unwrap(), [A, WEST, CENTRE, s]);
    assert!(!sim.has_event(CENTRE, |event| matches!(event, Event::PrefixRefused { .. })));
}

#[test]
fn who_is_no_hub_speaks_for_nobody() {
    // A spoke, and a hub that is not where the configuration says: neither has a say over hosts of the overlay.
    let mut elsewhere = child_hub(2);
    elsewhere.nbma = vec![nbma(77)];
    for child_hubs in [Vec::new(), vec![elsewhere]] {
        let mut sim = Net::new(109);
        let centre = sim.add(Config { child_hubs, ..hub(1) });
        sim.add(hub_of(2, &[1], &[]));
        let victim = sim.add(spoke_of(13, &[1], &["10.13.0.0/24"]));
        sim.add(spoke_of(12, &[2], &["10.12.0.0/24"]));
        sim.run(1000);
        assert!(
            !has(&sim, centre, "10.255.0.12/32") || sim.nodes[centre].neighbours.contains_key(&overlay(12))
        );
        assert!(sim.has_event(centre, |event| {
            matches!(event, Event::PrefixRefused { prefix, from, .. } if *prefix == net("10.255.0.12/32") && *from == overlay(2))
        }));
        assert_eq!(sim.path(centre, ip("10.13.0.1")).unwrap(), [centre, victim]);
    }
    // A real one has no say over another's hosts and LANs either, nor over the hub's own address or all of it.
    let mut sim = Net::new(110);
    let centre = sim.add(hub_of(1, &[], &[2]));
    let victim = sim.add(spoke_of(13, &[1], &["10.13.0.0/24"]));
    let bad = ["10.13.0.0/25", "10.255.0.1/32", "10.255.0.0/16", "0.0.0.0/0", "198.18.0.0/24"];
    let mut config = hub_of(2, &[1], &[]);
    config.subnets = bad.iter().map(|prefix| net(prefix)).collect();
    sim.add(config);
    sim.run(1000);
    for prefix in bad {
        let refused =
            |event: &Event| matches!(event, Event::PrefixRefused { prefix: p, .. } if *p == net(prefix));
        assert!(sim.has_event(centre, refused), "{prefix}");
        assert!(!has(&sim, centre, prefix), "{prefix}");
    }
    assert_eq!(sim.path(centre, ip("10.13.0.1")).unwrap(), [centre, victim]);
}

#[test]
fn foreign_router_of_a_region_is_known_at_every_level() {
    let external = vec![External {
        name: "router".into(),
        overlay: vec![overlay(9)],
        prefixes: vec![net("10.9.0.0/24")],
    }];
    // Every hub of the network has the same configuration of it.
    let configs = [hub_of(1, &[], &[2, 3]), hub_of(2, &[1], &[]), hub_of(3, &[1], &[])];
    let mut sim = tree_of(111, configs.map(|config| Config { external: external.clone(), ..config }));
    // A router of another make: it tells nothing.
    let router = sim.add(spoke_of(9, &[2], NO_LAN));
    sim.run(1000);
    sim.nodes[router].config.subnets = vec![net("10.9.0.0/24")];
    assert_eq!(sim.path(B, ip("10.9.0.1")).unwrap(), [B, EAST, CENTRE, WEST, router]);
    assert_eq!(sim.path(A, ip("10.9.0.1")).unwrap(), [A, WEST, router]);
    assert!(!sim.has_event(CENTRE, |event| matches!(event, Event::PrefixRefused { .. })));
    sim.input(router, Input::Withdraw);
    sim.run(1000);
    assert!((CENTRE..=B).all(|node| !has(&sim, node, "10.9.0.0/24")));
}

/// The tree with summaries: regions of a /16 of LANs and a /24 of tunnel addresses each, everything by the centre.
fn summaries(seed: u64) -> Net {
    let with = |config: Config, advertise: &[&str]| Config {
        advertise: advertise.iter().map(|prefix| net(prefix)).collect(),
        ..config
    };
    let mut sim = Net::new(seed);
    sim.add(with(hub_of(1, &[], &[2, 3]), &["10.0.0.0/8"]));
    sim.add(with(hub_of(2, &[1], &[]), &["10.12.0.0/16", "10.255.12.0/24"]));
    sim.add(with(hub_of(3, &[1], &[]), &["10.13.0.0/16", "10.255.13.0/24"]));
    for n in [12, 13] {
        let lan = format!("10.{n}.1.0/24");
        let config = spoke_of(n, &[n - 10], &[&lan]);
        sim.add(Config { local: vec![ip(&format!("10.255.{n}.1"))], ..config });
    }
    sim.run(1000);
    sim
}

#[test]
fn summaries_in_place_of_what_is_in_them() {
    let mut sim = summaries(112);
    assert_eq!(told(&sim, A, RouteKind::Announced), ["10.0.0.0/8 10.255.0.2", "10.12.0.0/16 10.255.0.2"]);
    assert_eq!(told(&sim, WEST, RouteKind::Announced), ["10.0.0.0/8 10.255.0.1"]);
    let below = [
        "10.12.0.0/16 10.255.0.2",
        "10.13.0.0/16 10.255.0.3",
        "10.255.12.0/24 10.255.0.2",
        "10.255.13.0/24 10.255.0.3",
    ];
    assert_eq!(told(&sim, CENTRE, RouteKind::Registered), below);
    let (a, b) = (ip("10.12.1.5"), ip("10.13.1.5"));
    sim.watch(A, a, b);
    // Of a summary nothing but what is there: no turning round.
    assert!(sim.path(A, ip("10.13.7.1")).unwrap_err().contains("summary"));
    assert!(sim.path(A, ip("10.99.7.1")).unwrap_err().contains("summary"));
    assert!(sim.path(B, ip("10.255.12.99")).unwrap_err().contains("summary"));
    // A spoke comes and goes: nobody above its hub hears of it.
    let before = sim.sent;
    let config = spoke_of(20, &[2], &["10.12.2.0/24"]);
    let s = sim.add(Config { local: vec![ip("10.255.12.2")], ..config });
    sim.run(500);
    assert_eq!(sim.sent - before, 2, "its registration, and the answer");
    assert_eq!(sim.path(B, ip("10.12.2.1")).unwrap(), [B, EAST, CENTRE, WEST, s]);
    // The direct path still is for the egress's own prefix, and goes with the egress.
    sim.ping(A, a, b);
    sim.run(60);
    assert_eq!(sim.path(A, b).unwrap(), [A, B]);
    assert_eq!(sim.snapshot(A).shortcuts[0].prefix, net("10.13.1.0/24"));
    assert_eq!(sim.path(A, ip("10.13.1.77")).unwrap(), [A, B]);
    sim.watched.clear();
    sim.cut.insert((nbma(13), nbma(12)));
    sim.input(B, Input::Withdraw);
    sim.run(200);
    assert!(sim.snapshot(A).shortcuts.is_empty(), "no withdrawal shows it, the purge does");
}

#[test]
fn answer_counts_for_no_more_than_the_hub_vouches_for() {
    for advertise in ["10.0.0.0/8", "0.0.0.0/0"] {
        let mut sim = Net::new(113);
        let hub = sim.add(Config { advertise: vec![net(advertise)], ..hub(1) });
        let a = sim.add(spoke(2, &["10.2.0.0/24"]));
        let b = sim.add(spoke(3, &["10.3.0.0/24"]));
        sim.run(500);
        assert_eq!(told(&sim, a, RouteKind::Announced), [format!("{advertise} 10.255.0.1")]);
        // The spoke answers for far more than it has told its hub.
        let mut greedy = spoke(3, &["10.3.0.0/24", "10.0.0.0/9"]);
        greedy.nhs = Vec::new();
        sim.nodes[b].engine = nhrp::Engine::new(greedy, 1, sim.now);
        sim.ping(a, ip("10.2.0.5"), ip("10.3.0.5"));
        sim.run(50);
        assert_eq!(sim.snapshot(a).shortcuts[0].prefix, net("10.3.0.0/24"), "under {advertise}");
        // Renewed as it was.
        for _ in 0..100 {
            sim.ping(a, ip("10.2.0.5"), ip("10.3.0.5"));
            sim.run(500);
        }
        assert_eq!(sim.snapshot(a).shortcuts[0].prefix, net("10.3.0.0/24"));
        // A hub that says nothing (of another make): the host alone.
        let mut sim = Net::new(114);
        sim.add(Config { advertise: vec![net(advertise)], ..super::net::hub(1) });
        let a = sim.add(spoke(2, &["10.2.0.0/24"]));
        sim.add(spoke(3, &["10.3.0.0/24"]));
        sim.run(500);
        let header = nhrp::wire::Header {
            packet_type: PacketType::TrafficIndication,
            hop_count: 1,
            flags: 0,
            request_id: 0,
            src_nbma: nbma(1),
            src_proto: overlay(1),
            dst_proto: ip("10.2.0.5"),
        };
        let packet = data(ip("10.2.0.5"), ip("10.3.0.5"));
        sim.inject(nbma(1), a, &Builder::new(&header).payload(&packet[..84]).finish());
        sim.run(50);
        let expected = if advertise == "0.0.0.0/0" { "10.3.0.5/32" } else { "10.3.0.0/24" };
        assert_eq!(sim.snapshot(a).shortcuts[0].prefix, net(expected));
        let _ = hub;
    }
}

#[test]
fn default_route_from_the_top() {
    let centre = Config { advertise: vec![net("0.0.0.0/0")], ..hub_of(1, &[], &[2, 3]) };
    let mut sim = tree_of(115, [centre, hub_of(2, &[1], &[]), hub_of(3, &[1], &[])]);
    // Alone: it has all the others in it. A region still tells its own.
    assert_eq!(told(&sim, WEST, RouteKind::Announced), ["0.0.0.0/0 10.255.0.1"]);
    assert_eq!(told(&sim, A, RouteKind::Announced), ["0.0.0.0/0 10.255.0.2"]);
    sim.watch(A, ip("10.12.0.5"), ip("10.13.0.5"));
    // Into the wide world: at the top it leaves; no hub on the way redirects that, no spoke asks.
    sim.input(WEST, Input::Hairpin { link: LINK, packet: data(ip("10.12.0.5"), ip("203.0.113.9")) });
    assert_eq!(sim.count(PacketType::TrafficIndication), 0);
    // To another region: the centre knows whose it is.
    sim.input(CENTRE, Input::Hairpin { link: LINK, packet: data(ip("10.12.0.5"), ip("10.13.0.5")) });
    sim.run(100);
    assert_eq!(sim.path(A, ip("10.13.0.5")).unwrap(), [A, B]);
    // No spoke and no regional hub may tell one.
    let mut sim = tree(116);
    sim.input(
        WEST,
        Input::Configure(Box::new(Config { advertise: vec![net("0.0.0.0/0")], ..hub_of(2, &[1], &[]) })),
    );
    sim.run(500);
    assert_eq!(told(&sim, A, RouteKind::Announced), ["0.0.0.0/0 10.255.0.2"]);
    assert!(!has(&sim, CENTRE, "0.0.0.0/0"));
    assert!(has(&sim, CENTRE, "10.12.0.0/24"));
}

#[test]
fn regional_hub_restarts() {
    let mut sim = tree(117);
    sim.watch(B, ip("10.13.0.5"), ip("10.12.0.5"));
    sim.watch(A, ip("10.12.0.5"), ip("10.13.0.5"));
    sim.watch(CENTRE, overlay(1), overlay(12));
    sim.restart(WEST, 3000);
    sim.run(70_000);
    sim.restart(CENTRE, 3000);
    sim.run(70_000);
    assert_eq!(sim.path(A, ip("10.13.0.5")).unwrap(), [A, WEST, CENTRE, EAST, B]);
}

#[test]
fn both_families_and_a_changed_summary() {
    let v6 = |config: Config, n: u32| {
        let overlays = vec![net(OVERLAY), net("fd00:255::/64")];
        let local = vec![overlay(n), ip(&format!("fd00:255::{n}"))];
        let families = |hub: &mut nhrp::Nhs| {
            let n = hub.name.trim_start_matches("hub").to_owned();
            hub.overlay.push(ip(&format!("fd00:255::{n}")));
        };
        let child = |hub: &mut ChildHub| {
            let n = hub.name.trim_start_matches("hub").to_owned();
            hub.overlay.push(ip(&format!("fd00:255::{n}")));
        };
        let mut config = Config { overlay: overlays, local, ..config };
        config.nhs.iter_mut().for_each(families);
        config.child_hubs.iter_mut().for_each(child);
        config
    };
    let mut sim = Net::new(118);
    sim.add(v6(hub_of(1, &[], &[2, 3]), 1));
    let west = v6(hub_of(2, &[1], &[]), 2);
    sim.add(west.clone());
    sim.add(v6(hub_of(3, &[1], &[]), 3));
    let a = sim.add(v6(spoke_of(12, &[2], &["10.12.0.0/24", "fd00:12::/64"]), 12));
    let b = sim.add(v6(spoke_of(13, &[3], &["10.13.0.0/24", "fd00:13::/64"]), 13));
    sim.run(1000);
    for (src, dst) in [("10.12.0.5", "10.13.0.5"), ("fd00:12::5", "fd00:13::5")] {
        assert_eq!(sim.ping(a, ip(src), ip(dst)).len(), 5);
        sim.run(60);
        assert_eq!(sim.path(a, ip(dst)).unwrap(), [a, b]);
    }
    // A summary comes into the configuration, and goes.
    let advertise = vec![net("10.12.0.0/16"), net("fd00:12::/48")];
    sim.input(WEST, Input::Configure(Box::new(Config { advertise, ..west.clone() })));
    sim.run(500);
    assert!(has(&sim, B, "10.12.0.0/16") && !has(&sim, B, "10.12.0.0/24") && has(&sim, B, "fd00:12::/48"));
    sim.input(WEST, Input::Configure(Box::new(west)));
    sim.run(500);
    assert!(!has(&sim, B, "10.12.0.0/16") && has(&sim, B, "10.12.0.0/24") && has(&sim, B, "fd00:12::/64"));
}

#[test]
fn large_regions_tell_in_chunks() {
    let mut sim = tree(119);
    sim.record = false;
    let spokes: Vec<_> = (0..600)
        .map(|n| sim.add(spoke_of(1000 + n, &[2], &[&format!("10.{}.{}.0/24", 100 + n / 200, n % 200)])))
        .collect();
    sim.run(5000);
    assert!(spokes.iter().all(|spoke| sim.registered(*spoke)));
    let behind =
        told(&sim, CENTRE, RouteKind::Registered).iter().filter(|it| it.ends_with(" 10.255.0.2")).count();
    assert_eq!(behind, 2 * 601, "LAN and host of each");
    assert_eq!(told(&sim, B, RouteKind::Announced).len(), 601);
    sim.input(spokes[300], Input::Withdraw);
    sim.run(2000);
    assert_eq!(told(&sim, B, RouteKind::Announced).len(), 600);
    // A list that is cut off on the way is none.
    let torn = PrefixChunk {
        flags: list_flags::FIRST | list_flags::MORE,
        chunk: 0,
        generation: 7,
        prefixes: vec![net("10.77.0.0/16")],
        next_hops: std::collections::BTreeMap::new(),
    };
    let header = nhrp::wire::Header {
        packet_type: PacketType::RegistrationRequest,
        hop_count: 255,
        flags: 0,
        request_id: 5,
        src_nbma: nbma(2),
        src_proto: overlay(2),
        dst_proto: overlay(1),
    };
    let cie = Cie { prefix_len: 0xff, holding_time: 60, ..Cie::default() };
    let builder = Builder::new(&header).cie(&cie).extension(false, ext::PREFIXES, &torn.encode());
    sim.inject(nbma(2), CENTRE, &builder.finish());
    assert_eq!(told(&sim, B, RouteKind::Announced).len(), 600);
    assert!(!has(&sim, CENTRE, "10.77.0.0/16"));
}
