//! The way to an egress is shown to carry packets before a shortcut uses it, and watched while one does.

use nhrp::{Event, PacketType, ShortcutPhase};

use super::net::*;

const A: usize = 1;
const B: usize = 2;

/// Hub 0, spokes 1 (10.2.0.0/24) and 2 (10.3.0.0/24), all settled; flows both ways are watched.
fn triangle(seed: u64) -> Net {
    let mut sim = Net::new(seed);
    sim.add(hub(1));
    sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.add(spoke(3, &["10.3.0.0/24"]));
    sim.run(500);
    sim.watch(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.watch(B, ip("10.3.0.5"), ip("10.2.0.5"));
    sim
}

fn ping(sim: &mut Net) -> Vec<usize> {
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"))
}

/// Questions that A put straight to B, with their times.
fn trials(sim: &Net) -> Vec<u64> {
    let straight = sim
        .wire
        .iter()
        .filter(|sent| sent.is(PacketType::ResolutionRequest) && sent.from == nbma(2) && sent.to == nbma(3));
    straight.map(|sent| sent.at.0).collect()
}

#[test]
fn one_way_block_never_becomes_a_black_hole() {
    let mut sim = triangle(60);
    // What B sends arrives, its answer too: without a trial A would believe in the way.
    sim.cut.insert((nbma(2), nbma(3)));
    for _ in 0..40 {
        assert_eq!(ping(&mut sim), [A, 0, B]);
        sim.run(500);
    }
    let state = &sim.snapshot(A).shortcuts[0];
    assert_eq!(state.phase, ShortcutPhase::Negative);
    assert_eq!(state.reason, "the way to 10.255.0.3 at 198.18.0.3 does not carry packets");
    assert_eq!(trials(&sim).len(), 3, "one trial, then a back-off");
    // Each further trial waits twice as long: 30, 60, 120, 240 s.
    for _ in 0..450 {
        assert_eq!(ping(&mut sim), [A, 0, B]);
        sim.run(1000);
    }
    let times = trials(&sim);
    let starts: Vec<_> = times.chunks(3).map(|trial| trial[0]).collect();
    let gaps: Vec<_> = starts.windows(2).map(|pair| (pair[1] - pair[0]) / 1000).collect();
    assert_eq!(times.len() % 3, 0);
    assert!(matches!(gaps[..], [30..=35, 60..=65, 120..=125, 240..=245]), "{gaps:?}");
    let downs = |event: &&Event| matches!(event, Event::ShortcutDown { .. });
    assert_eq!(sim.nodes[A].events.iter().filter(downs).count(), starts.len(), "told once a trial");
    // The firewall is opened: direct when the back-off is over.
    sim.cut.clear();
    for _ in 0..500 {
        ping(&mut sim);
        sim.run(1000);
    }
    assert_eq!(ping(&mut sim), [A, B]);
}

#[test]
fn the_proof_costs_no_time_beside_a_hub_of_ours() {
    let mut sim = triangle(61);
    ping(&mut sim);
    let took = sim.until(100, |sim| sim.path(A, ip("10.3.0.5")).unwrap() == [A, B]);
    assert!(took <= 25, "indication, request twice, reply: 4 × 5 ms, not {took}");
    assert_eq!(trials(&sim).len(), 1);
    // Another destination at the same egress: the way is known.
    sim.ping(A, ip("10.2.0.5"), overlay(3));
    sim.run(50);
    assert_eq!(sim.path(A, overlay(3)).unwrap(), [A, B]);
    assert_eq!(trials(&sim).len(), 1);
}

#[test]
fn a_way_that_dies_in_use_is_left_within_seconds() {
    let mut sim = triangle(62);
    ping(&mut sim);
    sim.run(10_000);
    assert_eq!(ping(&mut sim), [A, B]);
    let before = trials(&sim).len();
    assert!((4..=5).contains(&before), "a question every 3 s: {before}");
    sim.watched.clear();
    sim.cut.insert((nbma(2), nbma(3)));
    let took = sim.until(10_000, |sim| sim.path(A, ip("10.3.0.5")) == Ok(vec![A, 0, B]));
    assert!(took <= 4_600, "{took}");
    let state = &sim.snapshot(A).shortcuts[0];
    assert_eq!(state.phase, ShortcutPhase::Negative);
    assert!(state.reason.contains("no longer carries"), "{}", state.reason);
    // No flapping: it stays there for the back-off, then comes back for good.
    for _ in 0..25 {
        assert_eq!(ping(&mut sim), [A, 0, B]);
        sim.run(1000);
    }
    sim.cut.clear();
    for _ in 0..10 {
        ping(&mut sim);
        sim.run(1000);
    }
    assert_eq!(ping(&mut sim), [A, B]);
    let ups = sim.nodes[A].events.iter().filter(|event| matches!(event, Event::ShortcutUp { .. }));
    assert_eq!(ups.count(), 2);
}

#[test]
fn blocked_both_ways_in_use_is_told_from_an_agent_that_is_away() {
    let mut sim = triangle(66);
    ping(&mut sim);
    sim.run(5_000);
    // B's agent restarts: its kernel forwards all the same, so nothing changes.
    sim.nodes[B].alive = false;
    for _ in 0..15 {
        assert_eq!(ping(&mut sim), [A, B]);
        sim.run(1000);
    }
    sim.nodes[B].alive = true;
    sim.run(10_000);
    assert_eq!(ping(&mut sim), [A, B]);
    // A firewall both ways: B still answers by way of the hub, and only there.
    sim.watched.clear();
    sim.cut.insert((nbma(2), nbma(3)));
    sim.cut.insert((nbma(3), nbma(2)));
    let took = sim.until(10_000, |sim| sim.path(A, ip("10.3.0.5")) == Ok(vec![A, 0, B]));
    assert!(took <= 4_600, "{took}");
}

#[test]
fn some_loss_is_no_dead_way_and_an_unused_way_is_not_asked() {
    let mut sim = triangle(63);
    ping(&mut sim);
    sim.run(50);
    sim.loss = 50;
    sim.spare_registrations = true;
    for _ in 0..200 {
        assert_eq!(ping(&mut sim), [A, B]);
        sim.run(1000);
    }
    sim.loss = 0;
    sim.run(130_000);
    assert!(sim.snapshot(A).shortcuts.is_empty(), "not used");
    let before = trials(&sim).len();
    sim.run(300_000);
    assert_eq!(trials(&sim).len(), before);
}

#[test]
fn a_restart_keeps_the_way_and_looks_at_it() {
    let mut sim = triangle(64);
    ping(&mut sim);
    sim.run(50);
    sim.restart(A, 1000);
    assert_eq!(sim.path(A, ip("10.3.0.5")).unwrap(), [A, B]);
    let before = trials(&sim).len();
    sim.run(100);
    assert_eq!(trials(&sim).len(), before + 1);
    // It died while the agent was away.
    sim.watched.clear();
    sim.cut.insert((nbma(2), nbma(3)));
    sim.restart(A, 1000);
    sim.until(2_000, |sim| sim.path(A, ip("10.3.0.5")) == Ok(vec![A, 0, B]));
}

#[test]
fn what_is_purged_while_the_way_is_tried_is_not_put_in() {
    let mut sim = Net::new(65);
    sim.add(hub(1));
    sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.add(spoke(3, &["10.3.0.0/24"]));
    sim.run(500);
    sim.cut.insert((nbma(2), nbma(3)));
    ping(&mut sim);
    sim.run(100);
    assert_eq!(sim.snapshot(A).shortcuts[0].phase, ShortcutPhase::Incomplete);
    sim.input(B, nhrp::Input::Configure(Box::new(spoke(3, NO_LAN))));
    sim.run(100);
    sim.cut.clear();
    sim.run(5000);
    assert!(sim.snapshot(A).shortcuts.is_empty());
    assert!(!sim.nodes[A].neighbours.contains_key(&overlay(3)));
}

/// Straight to the egress's own tunnel address, which no announced prefix covers.
fn to_b(sim: &mut Net) -> Vec<usize> {
    sim.ping(A, overlay(2), overlay(3))
}

/// The hub lost its memory, and the egress has not come back to it yet: asked for a renewal it knows no such member. What
/// is proven every few seconds is not given up for that.
#[test]
fn a_renewal_refused_by_a_hub_that_knows_nothing_yet_costs_no_packet() {
    let mut sim = triangle(67);
    sim.watched.clear();
    to_b(&mut sim);
    sim.run(1_000);
    assert_eq!(to_b(&mut sim), [A, B]);
    let hold = u64::from(sim.nodes[A].config.holding_time) * 1000;
    sim.watch(A, overlay(2), overlay(3));
    // Shortly before the renewal.
    sim.run(hold * 6 / 10);
    assert_eq!(to_b(&mut sim), [A, B]);
    sim.cut.extend([(nbma(3), nbma(1)), (nbma(1), nbma(3))]);
    sim.reboot(0);
    let refused = |sim: &Net| {
        let told = sim.wire.iter().filter(|s| s.is(PacketType::ResolutionReply) && s.to == nbma(2));
        told.filter(|s| s.from == nbma(1) && s.message.cies[0].code == 12).count()
    };
    let took = sim.until(hold, |sim| refused(sim) > 0);
    assert!(took < hold, "nothing was refused");
    for _ in 0..5 {
        sim.run(1_000);
        assert_eq!(to_b(&mut sim), [A, B]);
    }
    // The egress comes back to the hub: renewed, without a break.
    sim.cut.clear();
    for _ in 0..2 * hold / 1000 {
        sim.run(1_000);
        assert_eq!(to_b(&mut sim), [A, B]);
    }
    assert!(!sim.has_event(A, |event| matches!(event, Event::ShortcutDown { .. })));
}

/// But who is gone is given up: the way is proven no more.
#[test]
fn a_refused_renewal_ends_a_way_that_answers_nobody() {
    let mut sim = triangle(68);
    sim.watched.clear();
    to_b(&mut sim);
    sim.run(1_000);
    assert_eq!(to_b(&mut sim), [A, B]);
    sim.nodes[B].alive = false;
    sim.reboot(0);
    let hold = u64::from(sim.nodes[A].config.holding_time) * 1000;
    // Not only when its time is over.
    let down = |event: &Event| matches!(event, Event::ShortcutDown { reason, .. } if reason != "not renewed");
    let given_up = (0..hold * 3 / 4000).any(|_| {
        // As long as it is sent there it is used.
        if sim.path(A, overlay(3)).is_ok() {
            to_b(&mut sim);
        }
        sim.run(1_000);
        sim.has_event(A, down)
    });
    assert!(given_up, "{:?}", sim.nodes[A].events);
}
