//! Redirect, resolution, shortcut: no packet lost or turning round at any step.

use nhrp::wire::{ext, flags};
use nhrp::{DropReason, Event, Input, PacketType, RouteKind, ShortcutPhase};

use super::net::*;

/// Hub 0, spokes 1 (10.2.0.0/24) and 2 (10.3.0.0/24), all settled.
fn triangle(seed: u64) -> Net {
    let mut sim = Net::new(seed);
    sim.add(hub(1));
    sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.add(spoke(3, &["10.3.0.0/24"]));
    sim.run(500);
    sim
}

const A: usize = 1;
const B: usize = 2;

#[test]
fn direct_in_both_directions_and_nothing_lost() {
    let mut sim = triangle(30);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.watch(A, a, b);
    sim.watch(B, b, a);
    sim.watch(A, overlay(2), overlay(3));
    assert_eq!(sim.ping(A, a, b), [A, 0, B]);
    let took = sim.until(100, |sim| sim.path(A, b).unwrap() == [A, B]);
    assert!(took <= 25, "indication, request twice, reply: 4 × 5 ms, not {took}");
    assert_eq!(sim.path(B, a).unwrap(), [B, 0, A], "each direction for itself");
    sim.ping(B, b, a);
    sim.until(100, |sim| sim.path(B, a).unwrap() == [B, A]);
    let shortcut = &sim.snapshot(A).shortcuts[0];
    assert_eq!(
        (shortcut.prefix, shortcut.via, shortcut.phase),
        (net("10.3.0.0/24"), Some(overlay(3)), ShortcutPhase::Up)
    );
    let request = sim.wire.iter().find(|sent| sent.is(PacketType::ResolutionRequest)).unwrap();
    assert_eq!(request.message.header.flags, 0xc802);
    let reply = sim.wire.iter().find(|sent| sent.is(PacketType::ResolutionReply)).unwrap();
    assert_eq!((reply.from, reply.to), (nbma(3), nbma(2)), "straight to the requester");
    assert_ne!(reply.message.header.flags & flags::DESTINATION_STABLE, 0);
    assert!(sim.has_event(A, |event| matches!(event, Event::ShortcutUp { took_ms, .. } if *took_ms <= 20)));
    // Another host behind the same spoke is covered: the hub sees nothing of it.
    assert_eq!(sim.ping(A, a, ip("10.3.0.77")), [A, B]);
}

#[test]
fn overlay_host_itself() {
    let mut sim = triangle(31);
    sim.ping(A, overlay(2), overlay(3));
    sim.run(50);
    assert_eq!(sim.path(A, overlay(3)).unwrap(), [A, B]);
    // The LAN behind the same spoke later: one neighbour, and it stays while either is used.
    sim.ping(A, ip("10.2.0.1"), ip("10.3.0.1"));
    sim.run(50);
    assert_eq!(sim.snapshot(A).shortcuts.len(), 2);
    assert_eq!(sim.nodes[A].neighbours.len(), 2);
}

#[test]
fn renewed_while_used_and_gone_when_idle() {
    let mut sim = triangle(32);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.watch(A, a, b);
    sim.ping(A, a, b);
    sim.run(50);
    for _ in 0..200 {
        assert_eq!(sim.ping(A, a, b), [A, B], "renewed without a gap");
        sim.run(1000);
    }
    let ups = sim.nodes[A].events.iter().filter(|event| matches!(event, Event::ShortcutUp { .. })).count();
    assert_eq!(ups, 1, "a renewal is no event");
    // Renewals go at two thirds of 60 s, by the hub.
    let requests = sim
        .wire
        .iter()
        .filter(|sent| sent.is(PacketType::ResolutionRequest) && sent.from == nbma(2) && sent.to == nbma(1));
    assert!((5..=6).contains(&requests.count()));
    sim.run(130_000);
    assert_eq!(sim.path(A, b).unwrap(), [A, 0, B], "unused: by the hub again");
    assert!(sim.snapshot(A).shortcuts.is_empty());
    assert_eq!(sim.nodes[A].neighbours.len(), 1);
}

#[test]
fn egress_withdraws_and_its_requesters_hear() {
    let mut sim = triangle(33);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.ping(A, a, b);
    sim.run(50);
    assert_eq!(sim.path(A, b).unwrap(), [A, B]);
    sim.input(B, Input::Withdraw);
    sim.run(100);
    assert!(sim.nodes[B].withdrawn);
    assert!(sim.snapshot(A).shortcuts.is_empty());
    assert!(sim.has_event(A, |event| matches!(event, Event::Purged { by, .. } if *by == nbma(3))));
    assert_eq!(sim.nodes[A].neighbours.keys().copied().collect::<Vec<_>>(), [overlay(1)]);
}

#[test]
fn dead_egress_is_purged_by_the_hub() {
    let mut sim = triangle(34);
    // So that the registration ends long before the shortcut would.
    let mut config = spoke(3, &["10.3.0.0/24"]);
    config.holding_time = 30;
    sim.input(B, Input::Configure(Box::new(config)));
    sim.run(100);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.ping(A, a, b);
    sim.run(50);
    assert_eq!(
        sim.snapshot(0).bindings.iter().find(|it| it.overlay == overlay(3)).unwrap().requesters[0].overlay,
        overlay(2)
    );
    sim.nodes[B].alive = false;
    let took = sim.until(31_000, |sim| sim.snapshot(A).shortcuts.is_empty());
    assert!(took < 31_000);
    assert!(sim.has_event(A, |event| {
        matches!(event, Event::Purged { by, .. } if *by == nbma(1))
            || matches!(event, Event::ShortcutDown { .. })
    }));
    assert!(
        sim.wire
            .iter()
            .any(|sent| sent.is(PacketType::PurgeRequest) && sent.from == nbma(1) && sent.to == nbma(2))
    );
}

#[test]
fn subnet_taken_away_from_the_egress() {
    let mut sim = triangle(35);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.ping(A, a, b);
    sim.run(50);
    sim.input(B, Input::Configure(Box::new(spoke(3, NO_LAN))));
    sim.run(200);
    assert!(sim.snapshot(A).shortcuts.is_empty());
    assert!(sim.path(A, b).is_err(), "nobody has it any more");
}

#[test]
fn blocked_path_stays_on_the_hub() {
    let mut sim = triangle(36);
    sim.cut.insert((nbma(3), nbma(2)));
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.watch(A, a, b);
    for _ in 0..40 {
        assert_eq!(sim.ping(A, a, b), [A, 0, B]);
        sim.run(1000);
    }
    let requests = |sim: &Net| {
        sim.wire
            .iter()
            .filter(|sent| {
                sent.is(PacketType::ResolutionRequest) && sent.from == nbma(2) && sent.to == nbma(1)
            })
            .map(|sent| sent.at)
            .collect::<Vec<_>>()
    };
    let times = requests(&sim);
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    assert_eq!(gaps, [1000, 2000, 4000, 7000, 7000]);
    let state = &sim.snapshot(A).shortcuts[0];
    assert_eq!((state.phase, state.reason.as_str()), (ShortcutPhase::Negative, "no answer"));
    assert!(sim.snapshot(A).counters.dropped(DropReason::BackOff) > 0);
    // 60 s of back-off, then 120 s: six rounds would fit into ten minutes without.
    for _ in 0..600 {
        sim.ping(A, a, b);
        sim.run(1000);
    }
    let rounds = (requests(&sim).len() - 6).div_ceil(6);
    assert!((2..=4).contains(&rounds), "{rounds}");
    sim.cut.clear();
    for _ in 0..600 {
        sim.ping(A, a, b);
        sim.run(1000);
    }
    assert_eq!(sim.path(A, b).unwrap(), [A, B], "tried again once the back-off is over");
}

#[test]
fn natted_egress_never_becomes_a_black_hole() {
    let mut sim = Net::new(37);
    sim.add(hub(1));
    let a = sim.add(spoke(2, &["10.2.0.0/24"]));
    let mut config = spoke(3, &["10.3.0.0/24"]);
    config.nbma = Some(ip("192.168.1.2"));
    let b = sim.add_natted(config, nbma(3));
    sim.run(500);
    sim.watch(a, ip("10.2.0.5"), ip("10.3.0.5"));
    for _ in 0..10 {
        assert_eq!(sim.ping(a, ip("10.2.0.5"), ip("10.3.0.5")), [a, 0, b]);
        sim.run(1000);
    }
    let state = &sim.snapshot(a).shortcuts[0];
    assert_eq!(state.phase, ShortcutPhase::Negative);
    assert!(state.reason.contains("NAT"), "{}", state.reason);
    // The other way round: the reply to the public address does not come in, so it fails as silence.
    let request = sim.wire.iter().find(|sent| sent.is(PacketType::ResolutionRequest)).unwrap();
    let nat = request.message.extensions.iter().flatten().find(|it| it.kind == ext::NAT).unwrap();
    assert!(nat.value.is_empty(), "the requester is in the open");
    sim.ping(b, ip("10.3.0.5"), ip("10.2.0.5"));
    sim.run(40);
    let forwarded =
        sim.wire.iter().rfind(|sent| sent.is(PacketType::ResolutionRequest) && sent.to == nbma(2)).unwrap();
    let nat = forwarded.message.extensions.iter().flatten().find(|it| it.kind == ext::NAT).unwrap();
    let public = nhrp::wire::cies(&nat.value).unwrap().next().unwrap();
    assert_eq!((public.nbma, public.proto), (Some(nbma(3)), Some(overlay(3))));
}

#[test]
fn redirects_are_limited_by_pair() {
    let mut sim = triangle(38);
    sim.nodes[A].alive = false;
    for _ in 0..40 {
        sim.input(0, Input::Hairpin { link: LINK, packet: data(ip("10.2.0.5"), ip("10.3.0.5")) });
        sim.run(100);
    }
    assert_eq!(sim.count(PacketType::TrafficIndication), 2);
    assert_eq!(sim.snapshot(0).counters.dropped(DropReason::RateLimited), 38);
    for packet in
        [vec![], vec![0x45; 10], data(ip("10.1.1.1"), ip("10.3.0.5")), data(ip("10.3.0.1"), ip("10.3.0.5"))]
    {
        sim.input(0, Input::Hairpin { link: LINK, packet });
    }
    let counters = sim.snapshot(0).counters;
    assert_eq!(counters.dropped(DropReason::HairpinMalformed), 2);
    assert_eq!(counters.dropped(DropReason::NoSpoke), 1);
    assert_eq!(counters.dropped(DropReason::Loop), 1);
    let many: Vec<_> =
        (0..3000u32).map(|n| data(ip("10.2.0.5"), ip(&format!("10.3.0.{}", n % 250 + 1)))).collect();
    for packet in many {
        sim.input(0, Input::Hairpin { link: LINK, packet });
    }
    assert!(sim.count(PacketType::TrafficIndication) <= 253);
}

#[test]
fn hub_prefix_bounds_what_an_egress_may_claim() {
    let mut sim = Net::new(40);
    sim.add(hub(1));
    let a = sim.add(spoke(2, &["10.2.0.0/24"]));
    let b = sim.add(spoke(3, &["10.3.0.0/24"]));
    sim.run(500);
    // The spoke now answers for far more than it has told its hub.
    let mut greedy = spoke(3, &["10.3.0.0/24", "10.0.0.0/9"]);
    greedy.nhs = Vec::new();
    sim.nodes[b].engine = nhrp::Engine::new(greedy, 1, sim.now);
    sim.ping(a, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    assert_eq!(sim.snapshot(a).shortcuts[0].prefix, net("10.3.0.0/24"));
    // Without any covering route of ours (a hub that does not know our extension): the host alone.
    let mut sim = Net::new(41);
    let mut config = hub(1);
    config.external = vec![nhrp::External {
        name: "b".into(),
        overlay: vec![overlay(3)],
        prefixes: vec![net("10.3.0.0/24")],
    }];
    sim.add(config);
    let a = sim.add(spoke(2, &["10.2.0.0/24"]));
    let b = sim.add(spoke(3, &["10.3.0.0/24"]));
    sim.run(500);
    let _ = b;
    sim.ping(a, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    assert_eq!(sim.snapshot(a).shortcuts[0].prefix, net("10.3.0.0/24"));
    assert!(sim.nodes[a].routes.contains_key(&(net("10.3.0.0/24"), RouteKind::Shortcut)));
}

#[test]
fn silent_hub_does_not_take_shortcuts_along() {
    let mut sim = triangle(42);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.ping(A, a, b);
    sim.run(50);
    sim.nodes[0].alive = false;
    sim.watch(A, a, b);
    sim.run(35_000);
    let state = &sim.nodes[A].engine.nhs_states(sim.now)[0];
    assert_eq!(state.reason_code, "NoAnswer");
    assert_eq!(sim.path(A, b).unwrap(), [A, B]);
}

#[test]
fn lossy_shortcuts_form() {
    for seed in 0..30 {
        let mut sim = Net::new(4000 + seed);
        sim.delay_ms = (1, 60);
        sim.add(hub(1));
        let spokes: Vec<_> = (2..8).map(|n| sim.add(spoke(n, &[&format!("10.{n}.0.0/24")]))).collect();
        sim.run(2000);
        sim.loss = 250;
        for s in &spokes {
            for n in 2..8 {
                if *s as u32 + 1 != n {
                    sim.watch(*s, ip("0.0.0.0"), ip(&format!("10.{n}.0.9")));
                }
            }
        }
        // A hub that seems dead takes its routes along, and rightly so: that is not what is tried here.
        sim.spare_registrations = true;
        for _ in 0..120 {
            let s = spokes[(sim.random() % 6) as usize];
            let n = 2 + sim.random() % 6;
            if s as u64 + 1 != n {
                sim.ping(s, ip(&format!("10.{}.0.1", s + 1)), ip(&format!("10.{n}.0.9")));
            }
            sim.run(200);
        }
        let direct: usize = spokes
            .iter()
            .map(|s| sim.snapshot(*s).shortcuts.iter().filter(|it| it.phase == ShortcutPhase::Up).count())
            .sum();
        assert!(direct >= 10, "seed {seed}: {direct}");
    }
}
