//! A hub that has other links of the same networkId: what those lead to is told as its own.

use nhrp::{Config, Input, RouteKind};

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
