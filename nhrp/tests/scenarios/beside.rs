//! A hub that has other links of the same networkId: what those lead to is told as its own.

use nhrp::{Config, Input, Nhs, PacketType, RouteKind};

use super::net::*;

const HUB: usize = 0;
const A: usize = 1;

/// Overlay and a LAN of the other link.
const OTHER: [&str; 2] = ["10.254.0.0/24", "10.20.0.0/24"];

fn with(beside: &[&str], config: Config) -> Config {
    Config { beside: beside.iter().map(|prefix| net(prefix)).collect(), ..config }
}

fn routes(sim: &Net, node: usize, kind: RouteKind) -> Vec<ipnet::IpNet> {
    let all = sim.nodes[node].routes.keys();
    all.filter(|(_, is)| *is == kind).map(|(prefix, _)| *prefix).collect()
}

#[test]
fn what_is_beside_is_told_and_taken_back() {
    let mut sim = Net::new(1);
    sim.add(with(&OTHER, hub(1)));
    sim.add(spoke(11, &["10.11.0.0/24"]));
    sim.run(1000);
    assert_eq!(routes(&sim, A, RouteKind::Announced), [net(OTHER[1]), net(OTHER[0])]);
    // Our own link is for what is registered here.
    assert_eq!(routes(&sim, HUB, RouteKind::Registered), [net("10.11.0.0/24")]);
    let less = with(&OTHER[..1], sim.nodes[HUB].config.clone());
    sim.input(HUB, Input::Configure(Box::new(less)));
    sim.run(1000);
    assert_eq!(routes(&sim, A, RouteKind::Announced), [net(OTHER[0])]);
}

#[test]
fn who_registers_here_goes_before_what_is_beside() {
    // A branch on both links: its LAN is beside too.
    let mut sim = Net::new(2);
    sim.add(with(&[OTHER[0], "10.11.0.0/24"], hub(1)));
    sim.add(spoke(11, &["10.11.0.0/24"]));
    sim.add(spoke(12, &["10.12.0.0/24"]));
    sim.run(1000);
    assert_eq!(routes(&sim, HUB, RouteKind::Registered), [net("10.11.0.0/24"), net("10.12.0.0/24")]);
    assert!(routes(&sim, A, RouteKind::Announced).contains(&net("10.12.0.0/24")));
    // Direct, as ever: it is the branch that answers, not the hub.
    sim.ping(2, ip("10.12.0.5"), ip("10.11.0.5"));
    sim.run(100);
    assert_eq!(sim.path(2, ip("10.11.0.5")).unwrap(), [2, A]);
    // Gone here, it is still reached through the hub.
    sim.input(A, Input::Withdraw);
    sim.run(1000);
    assert!(routes(&sim, 2, RouteKind::Announced).contains(&net("10.11.0.0/24")));
}

#[test]
fn no_hub_is_told_what_is_beside() {
    // Numbers 2 and 11 are clients here, and hubs on their other links: what they tell upwards is theirs alone.
    let mut sim = Net::new(3);
    sim.add(Config { child_hubs: vec![child_hub(2)], ..hub(1) });
    sim.add(with(&OTHER, Config { nhs: vec![nhs(1)], ..hub(2) }));
    sim.add(with(&OTHER, spoke(11, &["10.11.0.0/24"])));
    sim.run(1000);
    assert_eq!(routes(&sim, HUB, RouteKind::Registered), [net("10.11.0.0/24")]);
}

const SHORTCUT: (ipnet::IpNet, RouteKind) = (
    ipnet::IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 12, 0, 0), 24)),
    RouteKind::Shortcut,
);

/// Two hubs that are tunnels of one, a spoke of each: nodes 0 (hub of the overlay 10.255), 1 (its spoke, number 11), 2 (hub
/// of the overlay 10.254), 3 (its spoke, number 12). What leads to the one is beside the other.
fn two_links(across: bool) -> Net {
    let mut sim = Net::new(4);
    let crossing = |beside: [&str; 2], config| {
        let config = with(&beside, config);
        Config { across: if across { config.beside.clone() } else { Vec::new() }, ..config }
    };
    let other = |config| Config { overlay: vec![net(OTHER[0])], ..config };
    let other_hub =
        Nhs { name: "hub2".into(), overlay: vec![ip("10.254.0.1")], nbma: vec![nbma(2)], ..Nhs::default() };
    sim.add(crossing([OTHER[0], "10.12.0.0/24"], hub(1)));
    sim.add(spoke(11, &["10.11.0.0/24"]));
    sim.add(crossing([OVERLAY, "10.11.0.0/24"], other(Config { local: vec![ip("10.254.0.1")], ..hub(2) })));
    let far = Config { local: vec![ip("10.254.0.12")], nhs: vec![other_hub], ..spoke(12, &["10.12.0.0/24"]) };
    sim.add(other(far));
    sim.twins = [(0, 2), (2, 0)].into();
    sim.run(1000);
    sim
}

/// A packet for the far spoke comes in by the first hub's tunnel and leaves by the second's.
fn cross(sim: &mut Net) {
    let (src, dst) = (ip("10.11.0.5"), ip("10.12.0.5"));
    let onward = sim.nodes[2].engine.onward(dst).unwrap();
    assert_eq!((onward.overlay, onward.nbma), (ip("10.254.0.12"), nbma(12)));
    sim.input(0, Input::Crossing { link: LINK, packet: data(src, dst), onward });
}

#[test]
fn spokes_of_two_links_find_each_other() {
    let mut sim = two_links(true);
    cross(&mut sim);
    sim.run(100);
    assert_eq!(routes(&sim, A, RouteKind::Shortcut), [net("10.12.0.0/24")]);
    assert_eq!(sim.nodes[A].neighbours.get(&ip("10.254.0.12")), Some(&nbma(12)));
    // It is renewed, and outlives a restart.
    for _ in 0..4 {
        sim.nodes[A].engine.handle_input(sim.now, Input::Confirm);
        sim.ping(A, ip("10.11.0.5"), ip("10.12.0.5"));
        sim.run(30_000);
        sim.restart(A, 500);
    }
    assert_eq!(routes(&sim, A, RouteKind::Shortcut), [net("10.12.0.0/24")]);
    // The far spoke goes: so does what the hub tells of it, and with that the shortcut.
    let less = with(&OTHER[..1], sim.nodes[0].config.clone());
    sim.input(0, Input::Configure(Box::new(less)));
    sim.run(1000);
    assert!(routes(&sim, A, RouteKind::Shortcut).is_empty());
    assert!(!sim.nodes[A].neighbours.contains_key(&ip("10.254.0.12")));
}

#[test]
fn an_answer_that_comes_back_by_the_hubs_crosses_too() {
    let mut sim = two_links(true);
    // The underlays do not reach each other: the way is tried in vain, and both hubs are asked whether the far end lives.
    cross(&mut sim);
    sim.run(100);
    sim.cut = [(nbma(11), nbma(12)), (nbma(12), nbma(11))].into();
    sim.run(20_000);
    assert!(routes(&sim, A, RouteKind::Shortcut).is_empty(), "by a way that carries nothing");
    let back = |it: &Sent| it.is(PacketType::ResolutionReply) && it.from == nbma(1) && it.to == nbma(11);
    assert!(sim.wire.iter().any(back), "the witness's answer");
}

#[test]
fn without_the_same_key_the_hub_answers_for_what_is_beside() {
    let mut sim = two_links(false);
    cross(&mut sim);
    sim.run(100);
    let handed = |it: &Sent| it.is(PacketType::ResolutionRequest) && it.from == nbma(2);
    assert!(!sim.wire.iter().any(handed));
    let answer = |it: &Sent| it.is(PacketType::ResolutionReply) && it.from == nbma(1) && it.to == nbma(11);
    assert!(sim.wire.iter().any(answer));
    assert_ne!(sim.nodes[A].routes.get(&SHORTCUT), Some(&ip("10.254.0.12")));
}

#[test]
fn a_request_that_nobody_takes_is_answered_here() {
    let mut sim = two_links(true);
    cross(&mut sim);
    // It goes while the request is under way.
    sim.input(3, Input::Withdraw);
    sim.run(30_000);
    let answer = |it: &Sent| it.is(PacketType::ResolutionReply) && it.from == nbma(1) && it.to == nbma(11);
    assert!(sim.wire.iter().any(answer));
    assert_ne!(sim.nodes[A].routes.get(&SHORTCUT), Some(&ip("10.254.0.12")));
    assert!(!sim.nodes[A].neighbours.contains_key(&ip("10.254.0.12")));
}
