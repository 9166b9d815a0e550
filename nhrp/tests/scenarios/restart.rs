//! Restarts of the agent while the kernel forwards on, and determinism.

use nhrp::{Event, Input, Output, RouteKind, ShortcutPhase, Time};

use super::net::*;

const A: usize = 1;
const B: usize = 2;

fn triangle(seed: u64) -> Net {
    let mut sim = Net::new(seed);
    sim.add(hub(1));
    sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.add(spoke(3, &["10.3.0.0/24"]));
    sim.run(500);
    sim
}

#[test]
fn hub_restart_keeps_its_spokes() {
    let mut sim = triangle(70);
    sim.watch(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.watch(B, ip("10.3.0.5"), ip("10.2.0.5"));
    let before = (sim.nodes[0].neighbours.clone(), sim.nodes[0].routes.clone());
    let snapshot = sim.restart(0, 3_000);
    assert_eq!((sim.nodes[0].neighbours.clone(), sim.nodes[0].routes.clone()), before);
    let after = sim.snapshot(0);
    assert_eq!(after.bindings.len(), snapshot.bindings.len());
    let ids_on = after.next_request_id.wrapping_sub(snapshot.next_request_id);
    assert!((100..200).contains(&ids_on), "{ids_on}");
    let old = snapshot.bindings.iter().find(|it| it.overlay == overlay(2)).unwrap();
    let new = after.bindings.iter().find(|it| it.overlay == overlay(2)).unwrap();
    assert_eq!(old.expires_ms.unwrap() - new.expires_ms.unwrap(), 3_000, "it does not live longer for it");
    assert_eq!(new.age_ms - old.age_ms, 3_000);
    // The list still reaches everybody, and a change after the restart does too.
    let c = sim.add(spoke(4, &["10.4.0.0/24"]));
    sim.run(500);
    assert!(sim.registered(c));
    assert!(sim.nodes[A].routes.contains_key(&(net("10.4.0.0/24"), RouteKind::Announced)));
    // Redirects go on.
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    assert_eq!(sim.path(A, ip("10.3.0.5")).unwrap(), [A, B]);
    sim.run(120_000);
    let expired = sim.nodes[0].events.iter().any(|event| matches!(event, Event::Expired { .. }));
    assert!(!expired && sim.nodes[0].neighbours.len() == 3);
}

#[test]
fn a_spoke_that_died_with_the_hub_away_expires() {
    let mut sim = triangle(71);
    sim.nodes[B].alive = false;
    sim.restart(0, 61_000);
    assert!(!sim.nodes[0].engine.snapshot(sim.now).bindings.iter().any(|it| it.overlay == overlay(3)));
}

#[test]
fn spoke_restart_keeps_routes_and_shortcuts() {
    let mut sim = triangle(72);
    let (a, b) = (ip("10.2.0.5"), ip("10.3.0.5"));
    sim.ping(A, a, b);
    sim.ping(A, overlay(2), overlay(3));
    sim.run(50);
    sim.watch(A, a, b);
    assert_eq!(sim.path(A, b).unwrap(), [A, B]);
    let before = (sim.nodes[A].neighbours.clone(), sim.nodes[A].routes.clone());
    let snapshot = sim.restart(A, 2_000);
    assert_eq!((sim.nodes[A].neighbours.clone(), sim.nodes[A].routes.clone()), before);
    let after = sim.snapshot(A);
    let up = |snapshot: &nhrp::Snapshot| {
        snapshot.shortcuts.iter().filter(|it| it.phase == ShortcutPhase::Up).count()
    };
    assert_eq!(up(&after), up(&snapshot));
    sim.until(100, |sim| sim.registered(A));
    // What went away meanwhile goes, what is used stays.
    sim.input(B, Input::Configure(Box::new(spoke(3, &["10.3.0.0/24", "10.33.0.0/24"]))));
    sim.run(200);
    assert!(sim.nodes[A].routes.contains_key(&(net("10.33.0.0/24"), RouteKind::Announced)));
    for _ in 0..150 {
        assert_eq!(sim.ping(A, a, b), [A, B]);
        sim.run(1000);
    }
}

#[test]
fn what_was_withdrawn_meanwhile_goes() {
    let mut sim = triangle(73);
    let key = (net("10.3.0.0/24"), RouteKind::Announced);
    sim.nodes[A].alive = false;
    let snapshot = sim.nodes[A].engine.snapshot(sim.now);
    sim.input(B, Input::Withdraw);
    sim.run(20_000);
    sim.nodes[A].engine = nhrp::Engine::restore(sim.nodes[A].config.clone(), &snapshot, 20_000, 9, sim.now);
    sim.nodes[A].alive = true;
    let config = sim.nodes[A].config.clone();
    // Any input drains the outputs.
    sim.input(A, Input::Configure(Box::new(config)));
    assert!(sim.nodes[A].routes.contains_key(&key), "until the hub says otherwise");
    sim.run(100);
    assert!(sim.registered(A));
    assert!(!sim.nodes[A].routes.contains_key(&key));
}

#[test]
fn restored_state_of_a_dead_hub_goes_too() {
    let mut sim = triangle(74);
    sim.nodes[0].alive = false;
    sim.restart(A, 1_000);
    let key = (net("10.3.0.0/24"), RouteKind::Announced);
    assert!(sim.nodes[A].routes.contains_key(&key));
    // Its kernel may be forwarding while its agent is away: for the holding time since its last answer.
    sim.run(57_000);
    assert!(sim.nodes[A].routes.contains_key(&key));
    sim.run(3_000);
    assert!(!sim.nodes[A].routes.contains_key(&key));
    assert_eq!(sim.nodes[A].neighbours[&overlay(1)], nbma(1));
}

#[test]
fn snapshot_survives_text() {
    let mut sim = triangle(75);
    sim.ping(A, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    for index in 0..3 {
        let snapshot = sim.snapshot(index);
        let text = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(serde_json::from_str::<nhrp::Snapshot>(&text).unwrap(), snapshot);
        assert!(snapshot.bindings.is_sorted_by_key(|it| it.overlay));
        assert!(snapshot.shortcuts.is_sorted_by_key(|it| it.prefix));
    }
}

#[test]
fn a_spoke_that_leaves_right_after_its_restart_is_forgotten_by_the_hub() {
    let mut sim = triangle(77);
    let now = sim.now;
    assert!(sim.registered(A));
    let snapshot = sim.snapshot(A);
    sim.nodes[A].engine = nhrp::Engine::restore(sim.nodes[A].config.clone(), &snapshot, 0, 9, now);
    // Before it has said a word.
    sim.nodes[A].engine.handle_input(now, Input::Withdraw);
    sim.run(500);
    assert!(!sim.snapshot(0).bindings.iter().any(|it| it.overlay == overlay(2)));
}

#[test]
fn a_spoke_that_leaves_right_after_a_restart_without_snapshot_is_forgotten_by_the_hub() {
    let mut sim = triangle(77);
    let now = sim.now;
    assert!(sim.registered(A));
    sim.nodes[A].engine = nhrp::Engine::new(sim.nodes[A].config.clone(), 9, now);
    sim.nodes[A].engine.handle_input(now, Input::Withdraw);
    sim.run(500);
    assert!(!sim.snapshot(0).bindings.iter().any(|it| it.overlay == overlay(2)));
}

#[test]
fn link_replaced() {
    let mut sim = triangle(76);
    let mut engine = nhrp::Engine::restore(sim.nodes[0].config.clone(), &sim.snapshot(0), 0, 1, sim.now);
    while engine.poll_output().is_some() {}
    let mut config = sim.nodes[0].config.clone();
    config.link = nhrp::LinkId(8);
    engine.handle_input(sim.now, Input::Configure(Box::new(config)));
    let mut installed = 0;
    while let Some(output) = engine.poll_output() {
        match output {
            Output::InstallNeighbour { link, .. } | Output::InstallRoute { link, .. } => {
                assert_eq!(link, nhrp::LinkId(8));
                installed += 1;
            }
            _ => {}
        }
    }
    assert_eq!(installed, 6, "two neighbours, two hosts, two prefixes");
    sim.run(1);
}

#[test]
fn same_seed_same_trace() {
    let run = |seed: u64| {
        let mut sim = Net::new(seed);
        sim.tracing = true;
        sim.loss = 150;
        sim.delay_ms = (1, 90);
        sim.add(hub(1));
        let spokes: Vec<_> = (2..30).map(|n| sim.add(spoke(n, &[&format!("10.{n}.0.0/24")]))).collect();
        sim.run(5_000);
        for _ in 0..60 {
            let s = spokes[(sim.random() % 28) as usize];
            let n = 2 + sim.random() % 28;
            if sim.path(s, ip(&format!("10.{n}.0.9"))).is_ok_and(|way| way.len() > 1) {
                sim.ping(s, ip(&format!("10.{}.0.1", s + 1)), ip(&format!("10.{n}.0.9")));
            }
            sim.run(1_000);
        }
        sim.input(spokes[0], Input::Withdraw);
        sim.run(10_000);
        sim.trace
    };
    let first = run(80);
    assert!(first.len() > 1000);
    assert_eq!(first, run(80));
    assert_ne!(first, run(81));
}

/// The clock of the shell stands for minutes (a suspended laptop): all that is due is done, in one go.
#[test]
fn long_sleep() {
    let mut sim = triangle(77);
    let late = Time(sim.now.0 + 3_600_000);
    let engine = &mut sim.nodes[0].engine;
    engine.handle_timeout(late);
    let mut outputs = 0;
    while let Some(output) = engine.poll_output() {
        outputs += 1;
        assert!(!matches!(output, Output::InstallRoute { .. }));
    }
    assert!(outputs > 6);
    assert!(engine.snapshot(late).bindings.iter().all(|it| it.overlay == overlay(1)));
    assert!(engine.poll_timeout().is_none_or(|at| at > late));
}
