//! Several hubs: which are used, how soon a silent one is left, the way back, and that no packet is lost meanwhile.

use nhrp::wire::{PrefixChunk, ext, list_flags};
use nhrp::{Config, Engine, Event, Input, Nhs, NhsPhase, NhsState, PacketType, RouteKind};

use super::net::*;

/// LAN hosts of spokes `a` and `b`.
const A: &str = "10.11.0.5";
const B: &str = "10.12.0.5";

/// Hubs 1 to `hubs` and two spokes, 11 and 12, each with a LAN, which know them as `nhs`; all are registered.
struct Scene {
    sim: Net,
    a: usize,
    b: usize,
}

impl Scene {
    fn new(seed: u64, hubs: u32, nhs: &[Nhs], fallback_seconds: u16) -> Self {
        let mut sim = Net::new(seed);
        for n in 1..=hubs {
            sim.add(hub(n));
        }
        let with = |n: u32, lan: &str| Config { nhs: nhs.to_vec(), fallback_seconds, ..spoke(n, &[lan]) };
        let a = sim.add(with(11, "10.11.0.0/24"));
        let b = sim.add(with(12, "10.12.0.0/24"));
        sim.run(1_000);
        Self { sim, a, b }
    }

    fn states(&self) -> Vec<NhsState> {
        self.sim.nodes[self.a].engine.nhs_states(self.sim.now)
    }

    fn phases(&self) -> Vec<NhsPhase> {
        self.states().iter().map(|state| state.phase).collect()
    }

    /// Number of the hub by which packets from the one LAN to the other go; of one that does not pass them, 0.
    fn way(&self) -> u32 {
        let way = self.sim.path(self.a, ip(B)).map(|way| way[1] as u32 + 1);
        let back = self.sim.path(self.b, ip(A)).map(|way| way[1] as u32 + 1);
        match (way, back) {
            (Ok(way), Ok(back)) if way == back => way,
            _ => 0,
        }
    }

    fn watch(&mut self) {
        self.sim.watch(self.a, ip(A), ip(B));
        self.sim.watch(self.b, ip(B), ip(A));
        self.sim.watch(self.a, overlay(11), overlay(12));
    }

    fn to(&self, hub: u32, packet_type: PacketType) -> usize {
        let sent = self.sim.wire.iter().filter(|sent| sent.is(packet_type) && sent.to == nbma(hub));
        sent.count()
    }
}

fn all() -> Vec<Nhs> {
    vec![nhs(1), nhs(2), nhs(3)]
}

/// All in one cluster.
fn cluster(max_connections: u8) -> Vec<Nhs> {
    all().into_iter().map(|nhs| Nhs { cluster: 1, max_connections, ..nhs }).collect()
}

use NhsPhase::{Expecting, Responding, Waiting};

#[test]
fn a_silent_hub_is_left_within_three_seconds_and_taken_back() {
    for seed in 0..10 {
        let mut scene = Scene::new(seed, 3, &all(), 20);
        assert_eq!((scene.phases(), scene.way()), (vec![Responding; 3], 1));
        scene.sim.run(seed * 137);
        for (dead, next) in [(0, 2), (1, 3)] {
            scene.sim.cut_off(dead, true);
            let start = scene.sim.now;
            while scene.way() != next {
                scene.sim.run(1);
                let took = scene.sim.now.since(start);
                assert!(took <= 2_700, "seed {seed}: not on hub {next} after {took} ms");
            }
            let took = scene.sim.now.since(start);
            assert!(took > 1_000, "seed {seed}: too nervous: {took} ms");
            scene.sim.run(1_000);
        }
        assert_eq!(scene.phases(), [Expecting, Expecting, Responding]);
        assert_eq!(scene.states()[0].reason_code, "NoAnswer");
        // Both come back: used again when they have answered for 20 s, and not before.
        scene.sim.cut_off(0, false);
        scene.sim.cut_off(1, false);
        let (a, back) = (scene.a, scene.sim.now);
        scene.sim.until(8_100, |sim| sim.registered(a));
        let answered = scene.sim.now;
        assert!(scene.states()[0].fallback_ms.is_some());
        scene.watch();
        while scene.way() != 1 {
            scene.sim.run(10);
            assert!(scene.sim.now.since(answered) <= 28_200, "seed {seed}: still on {}", scene.way());
        }
        assert!(scene.sim.now.since(back) >= 20_000, "seed {seed}");
        scene.sim.run(60_000);
        assert_eq!(scene.way(), 1);
    }
}

#[test]
fn a_silent_hub_is_asked_often_with_the_same_id_and_back_within_seconds() {
    let mut scene = Scene::new(30, 2, &[nhs(1), nhs(2)], 0);
    scene.sim.run(5_000);
    scene.sim.cut_off(0, true);
    let start = scene.sim.wire.len();
    scene.sim.run(60_000);
    let asked: Vec<_> = scene.sim.wire[start..]
        .iter()
        .filter(|sent| {
            sent.from == nbma(11) && sent.to == nbma(1) && sent.is(PacketType::RegistrationRequest)
        })
        .collect();
    assert!(asked.iter().all(|sent| sent.message.header.request_id == asked[0].message.header.request_id));
    let gaps: Vec<_> = asked.windows(2).map(|pair| pair[1].at.since(pair[0].at)).collect();
    for (gap, nominal) in gaps.iter().zip([500, 500, 500, 1000, 2000, 4000, 8000, 8000, 8000]) {
        assert!((nominal * 9 / 10..=nominal).contains(gap), "{gap} for {nominal}: {gaps:?}");
    }
    scene.sim.cut_off(0, false);
    scene.watch();
    let a = scene.a;
    scene.sim.until(8_100, |sim| sim.registered(a));
    scene.sim.run(8_000);
    assert_eq!(scene.way(), 1, "without a fallback time it is used at once");
    // For hours: more and more rarely, since another one serves.
    scene.sim.watched.clear();
    scene.sim.cut_off(0, true);
    scene.sim.run(1_200_000);
    let start = scene.sim.wire.len();
    scene.sim.run(320_000);
    let asked = scene.sim.wire[start..].iter().filter(|sent| sent.from == nbma(11) && sent.to == nbma(1));
    assert!((5..=6).contains(&asked.count()));
}

/// What is asked each second is an ordinary registration, without the prefixes.
#[test]
fn a_hub_is_watched_from_the_moment_on_that_there_is_another() {
    let mut scene = Scene::new(27, 3, &[nhs(1)], 0);
    let both = Config { nhs: all(), ..scene.sim.nodes[scene.a].config.clone() };
    scene.sim.input(scene.a, Input::Configure(Box::new(both)));
    scene.sim.run(1_500);
    scene.sim.cut_off(0, true);
    let a = scene.a;
    let took = scene.sim.until(3_000, |sim| sim.nodes[a].engine.nhs_states(sim.now)[0].phase == Expecting);
    assert!(took > 900, "{took}");
}

#[test]
fn the_pulse_is_light_and_only_where_there_is_another_way() {
    let mut scene = Scene::new(31, 2, &[nhs(1), nhs(2)], 0);
    let start = scene.sim.wire.len();
    scene.sim.run(10_000);
    let pulse: Vec<_> = scene.sim.wire[start..]
        .iter()
        .filter(|sent| {
            sent.from == nbma(11) && sent.to == nbma(1) && sent.is(PacketType::RegistrationRequest)
        })
        .collect();
    assert!((9..=12).contains(&pulse.len()), "{}", pulse.len());
    for sent in pulse {
        let mut lists = sent.message.extensions.iter().flatten().filter(|it| it.kind == ext::PREFIXES);
        let list = PrefixChunk::decode(&lists.next_back().unwrap().value).unwrap();
        assert!(list.prefixes.is_empty() && !list.has(list_flags::FIRST));
        assert!(!sent.message.extensions.iter().flatten().any(|it| it.compulsory && it.kind >= 0x3800));
    }
    assert!(scene.sim.nodes[0].routes.contains_key(&(net("10.11.0.0/24"), RouteKind::Registered)));

    let mut scene = Scene::new(31, 1, &[nhs(1)], 0);
    let start = scene.sim.wire.len();
    scene.sim.run(10_000);
    assert_eq!(scene.sim.wire.len(), start, "one hub alone is not watched");
}

/// A hub that starts anew without memory asks for what a light registration leaves out.
#[test]
fn a_hub_without_memory_hears_everything_again() {
    let mut scene = Scene::new(32, 2, &[nhs(1), nhs(2)], 0);
    scene.sim.run(3_000);
    let config = scene.sim.nodes[0].config.clone();
    scene.sim.nodes[0].engine = Engine::new(config, 5, scene.sim.now);
    scene.sim.nodes[0].neighbours.clear();
    scene.sim.nodes[0].routes.clear();
    let prefix = (net("10.11.0.0/24"), RouteKind::Registered);
    scene.sim.until(1_100, |sim| sim.nodes[0].routes.contains_key(&prefix));
}

#[test]
fn an_agent_restart_of_a_hub_loses_nothing() {
    for (hubs, away) in [(1, 40_000), (2, 1_000), (2, 5_000), (2, 40_000)] {
        for fallback in [0, 15] {
            let list = all();
            let mut scene = Scene::new(33, hubs, &list[..hubs as usize], fallback);
            scene.watch();
            scene.sim.restart(0, away);
            scene.sim.run(40_000);
            assert_eq!(scene.way(), 1, "{hubs} hubs, {away} ms away");
            assert!(scene.phases().iter().all(|phase| *phase == Responding));
        }
    }
}

/// With one hub its routes stay while it is silent, until the holding time since its last answer is over.
#[test]
fn what_a_single_hub_told_stays_for_the_holding_time() {
    let mut scene = Scene::new(34, 1, &[nhs(1)], 0);
    scene.sim.run(30_000);
    scene.sim.nodes[0].alive = false;
    let last = scene.states()[0].last_reply_ms.unwrap();
    let key = (net("10.12.0.0/24"), RouteKind::Announced);
    let mut kept = 0;
    while scene.sim.nodes[scene.a].routes.contains_key(&key) {
        scene.sim.run(100);
        kept += 100;
        assert!(kept <= 60_100);
    }
    assert!(kept + last >= 60_000, "{kept} ms, last answer {last} ms before");
    assert_eq!(scene.states()[0].reason_code, "NoAnswer");
    // The overlay as a whole is still tried by it.
    assert_eq!(scene.sim.nodes[scene.a].engine.gateways().collect::<Vec<_>>(), [overlay(1)]);
}

/// A refusal is another matter: at once.
#[test]
fn what_a_hub_told_that_refuses_us_goes_at_once() {
    let mut scene = Scene::new(35, 1, &[nhs(1)], 0);
    let locked = Config { authentication: vec![b"k".to_vec().into()], ..hub(1) };
    scene.sim.input(0, Input::Configure(Box::new(locked)));
    scene.sim.run(21_000);
    assert_eq!(scene.states()[0].reason_code, "AuthenticationFailed");
    let key = (net("10.12.0.0/24"), RouteKind::Announced);
    assert!(!scene.sim.nodes[scene.a].routes.contains_key(&key));
}

#[test]
fn of_a_cluster_only_the_best_are_used() {
    let mut scene = Scene::new(36, 3, &cluster(1), 20);
    scene.sim.run(5_000);
    assert_eq!((scene.phases(), scene.way()), (vec![Responding, Waiting, Waiting], 1));
    assert_eq!(scene.states()[1].reason_code, "Standby");
    assert_eq!(scene.states().iter().map(|it| it.spare).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(
        scene.to(2, PacketType::RegistrationRequest) + scene.to(3, PacketType::RegistrationRequest),
        0
    );
    let two = Scene::new(36, 3, &cluster(2), 20);
    assert_eq!(two.phases(), [Responding, Responding, Waiting]);

    // The next is taken at once, the one after that stays alone.
    scene.sim.cut_off(0, true);
    let start = scene.sim.now;
    while scene.way() != 2 {
        scene.sim.run(1);
        assert!(scene.sim.now.since(start) <= 2_900, "{:?}", scene.states());
    }
    assert_eq!(scene.phases(), [Expecting, Responding, Waiting]);
    assert!(scene.states()[0].spare, "its cluster has enough without it");
    scene.sim.run(30_000);
    assert_eq!(scene.to(3, PacketType::RegistrationRequest), 0);

    // The better one comes back: probed, used after 20 s, and only then the other is left, without a loss.
    scene.sim.cut_off(0, false);
    scene.watch();
    let back = scene.sim.now;
    while scene.way() != 1 {
        assert_eq!(scene.to(2, PacketType::PurgeRequest), 0, "left before the other is used");
        scene.sim.run(10);
        assert!(scene.sim.now.since(back) <= 28_300);
    }
    assert!(scene.sim.now.since(back) >= 20_000);
    scene.sim.run(20_000);
    assert_eq!((scene.phases(), scene.way()), (vec![Responding, Waiting, Waiting], 1));
    assert_eq!(scene.to(2, PacketType::PurgeRequest), 2);
    assert!(scene.sim.nodes[1].neighbours.is_empty(), "nobody is registered there any more");
    let chosen: Vec<_> = scene.sim.nodes[scene.a]
        .events
        .iter()
        .filter_map(|event| match event {
            Event::NhsChosen { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(chosen, ["hub1", "hub2", "hub1"]);
    // Nothing is withdrawn at hubs that were never used.
    scene.sim.watched.clear();
    scene.sim.input(scene.a, Input::Withdraw);
    scene.sim.run(3_000);
    assert_eq!(scene.to(3, PacketType::PurgeRequest), 0);
}

#[test]
fn of_a_cluster_one_after_the_other_fails_and_dead_ones_at_the_start_are_passed_by() {
    let mut scene = Scene::new(37, 3, &cluster(1), 0);
    for (dead, next) in [(0, 2), (1, 3)] {
        scene.sim.cut_off(dead, true);
        let start = scene.sim.now;
        while scene.way() != next {
            scene.sim.run(1);
            assert!(scene.sim.now.since(start) <= 2_900, "{:?}", scene.states());
        }
    }
    assert_eq!(scene.phases(), [Expecting, Expecting, Responding]);

    let mut sim = Net::new(38);
    sim.add(hub(3));
    let s = sim.add(Config { nhs: cluster(1), ..spoke(11, NO_LAN) });
    let responds = |sim: &Net| sim.nodes[s].engine.nhs_states(sim.now)[2].phase == Responding;
    let took = sim.until(5_000, responds);
    assert!(took <= 3_100, "1.5 s for each that is dead: {took}");
}

/// A spoke that starts anew while its best hub is away goes on with the one that it used.
#[test]
fn a_spoke_restart_stays_where_it_was() {
    for list in [all(), cluster(1)] {
        let mut scene = Scene::new(39, 3, &list, 30);
        scene.sim.cut_off(0, true);
        scene.sim.run(10_000);
        assert_eq!(scene.way(), 2);
        scene.watch();
        scene.sim.restart(scene.a, 2_000);
        assert_eq!(scene.way(), 2);
        scene.sim.run(10_000);
        assert_eq!(scene.way(), 2);
        assert_eq!(scene.states()[0].reason_code, "NoAnswer");
        scene.sim.cut_off(0, false);
        scene.sim.run(15_000);
        assert_eq!(scene.way(), 2);
        scene.sim.restart(scene.a, 2_000);
        scene.sim.run(10_000);
        assert_eq!(scene.way(), 2, "the time of the fallback goes on, it does not end");
        scene.sim.run(25_000);
        assert_eq!(scene.way(), 1);
    }
}

/// Several addresses of one hub: another one is asked when it is silent, traffic follows when that one answers.
#[test]
fn traffic_follows_to_another_address_only_when_it_answers() {
    let mut one = nhs(1);
    one.nbma = vec![nbma(1), nbma(99)];
    let mut scene = Scene::new(40, 1, &[one], 0);
    scene.watch();
    scene.sim.restart(0, 20_000);
    scene.sim.run(20_000);
    assert_eq!(scene.sim.nodes[scene.a].neighbours[&overlay(1)], nbma(1));
    assert_eq!(scene.phases(), [Responding]);
    let asked = scene.sim.wire.iter().filter(|sent| sent.to == nbma(99)).count();
    assert!(asked > 0, "the other address was tried");
}

/// A direct path is renewed by the hub that serves, and outlives the one that made it.
#[test]
fn a_shortcut_outlives_its_hub() {
    let mut scene = Scene::new(41, 2, &[nhs(1), nhs(2)], 0);
    scene.sim.ping(scene.a, ip(A), ip(B));
    scene.sim.run(50);
    assert_eq!(scene.sim.path(scene.a, ip(B)).unwrap(), [scene.a, scene.b]);
    scene.sim.cut_off(0, true);
    for _ in 0..180 {
        assert_eq!(scene.sim.ping(scene.a, ip(A), ip(B)), [scene.a, scene.b]);
        scene.sim.run(1_000);
    }
}
