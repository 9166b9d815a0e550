//! The prefix extension: announced, told to all others, pushed on change, withdrawn, refused by name.

use nhrp::wire::ext;
use nhrp::{Event, External, Input, PacketType, RouteKind};

use super::net::*;

fn announced(sim: &Net, index: usize) -> Vec<String> {
    let routes = sim.nodes[index].routes.keys().filter(|(_, kind)| *kind == RouteKind::Announced);
    routes.map(|(prefix, _)| prefix.to_string()).collect()
}

#[test]
fn everybody_hears_of_everybody_else() {
    let mut sim = Net::new(20);
    let mut config = hub(1);
    config.subnets = vec![net("10.1.0.0/24")];
    let h = sim.add(config);
    let a = sim.add(spoke(2, &["10.2.0.0/24", "10.22.0.0/16"]));
    sim.until(50, |sim| sim.registered(a));
    assert_eq!(announced(&sim, a), ["10.1.0.0/24"], "with the first reply");
    sim.run(100);
    let b = sim.add(spoke(3, &["10.3.0.0/24"]));
    sim.until(50, |sim| sim.registered(b));
    assert_eq!(announced(&sim, b).len(), 3, "with the first reply: the list of the hub as it was");
    // Gathered for 50 ms, then pushed.
    let took = sim.until(200, |sim| announced(sim, a).len() == 2);
    assert!(took <= 80, "{took}");
    assert_eq!(announced(&sim, a), ["10.1.0.0/24", "10.3.0.0/24"]);
    assert_eq!(sim.nodes[a].routes[&(net("10.3.0.0/24"), RouteKind::Announced)], overlay(1));
    assert_eq!(sim.nodes[h].routes[&(net("10.22.0.0/16"), RouteKind::Registered)], overlay(2));
    sim.run(1000);
    // All confirmed: nothing is sent again.
    let pushes =
        sim.wire.iter().filter(|sent| sent.is(PacketType::RegistrationRequest) && sent.from == nbma(1));
    assert!(pushes.count() <= 4);
    // A push makes no binding of the hub at the spoke beyond the configured one.
    assert_eq!(sim.nodes[a].neighbours.len(), 1);
}

#[test]
fn changed_subnets_are_told_at_once() {
    let mut sim = Net::new(21);
    let h = sim.add(hub(1));
    let a = sim.add(spoke(2, &["10.2.0.0/24"]));
    let b = sim.add(spoke(3, NO_LAN));
    sim.run(500);
    assert_eq!(announced(&sim, b), ["10.2.0.0/24"]);
    sim.input(a, Input::Configure(Box::new(spoke(2, &["10.2.1.0/24", "10.2.2.0/24"]))));
    sim.run(100);
    assert_eq!(announced(&sim, b), ["10.2.1.0/24", "10.2.2.0/24"]);
    assert!(!sim.nodes[h].routes.contains_key(&(net("10.2.0.0/24"), RouteKind::Registered)));
    // Expiry takes the prefixes along.
    sim.nodes[a].alive = false;
    sim.run(61_000);
    assert!(announced(&sim, b).is_empty());
    assert!(sim.nodes[h].routes.keys().all(|(_, kind)| *kind == RouteKind::Host));
}

#[test]
fn overlaps_are_refused_by_name_and_first_come_stays() {
    let mut sim = Net::new(22);
    let mut config = hub(1);
    config.subnets = vec![net("10.1.0.0/24")];
    config.external = vec![External {
        name: "old-router".into(),
        overlay: vec![overlay(9)],
        prefixes: vec![net("10.9.0.0/24")],
    }];
    let h = sim.add(config);
    let a = sim.add(spoke(2, &["10.2.0.0/16"]));
    sim.run(100);
    let bad = [
        "10.2.3.0/24",
        "10.0.0.0/8",
        "10.255.7.0/24",
        "10.1.0.128/25",
        "10.9.0.0/25",
        "0.0.0.0/0",
        "198.18.0.0/24",
    ];
    let mut wanted: Vec<_> = bad.to_vec();
    wanted.push("10.3.0.0/24");
    let b = sim.add(spoke(3, &wanted));
    sim.run(100);
    assert_eq!(sim.nodes[h].routes[&(net("10.3.0.0/24"), RouteKind::Registered)], overlay(3));
    assert_eq!(sim.nodes[h].routes[&(net("10.2.0.0/16"), RouteKind::Registered)], overlay(2));
    for prefix in bad {
        assert!(!sim.nodes[h].routes.contains_key(&(net(prefix), RouteKind::Registered)), "{prefix}");
        let refusals: Vec<_> = sim.nodes[h]
            .events
            .iter()
            .filter(|event| matches!(event, Event::PrefixRefused { prefix: p, from, .. } if *p == net(prefix) && *from == overlay(3)))
            .collect();
        assert_eq!(refusals.len(), 1, "{prefix}: {refusals:?}");
    }
    let text: Vec<_> = sim.nodes[h].events.iter().map(ToString::to_string).collect();
    assert!(text.iter().any(|line| line.contains("10.2.3.0/24")
        && line.contains("10.2.0.0/16")
        && line.contains("10.255.0.2")));
    assert!(text.iter().any(|line| line.contains("old-router")));
    // The client is told: what, and who has it.
    let denied =
        |sim: &Net| sim.nodes[b].engine.denied().map(|(_, it, holder)| (it, holder)).collect::<Vec<_>>();
    for (prefix, holder) in [
        ("10.2.3.0/24", Some(overlay(2))),
        ("10.0.0.0/8", Some(overlay(2))),
        ("10.1.0.128/25", Some(overlay(1))),
        ("198.18.0.0/24", None),
    ] {
        assert!(denied(&sim).contains(&(net(prefix), holder)), "{prefix}: {:?}", denied(&sim));
        let told = |event: &Event| matches!(event, Event::PrefixDenied { prefix: p, holder: h, .. } if *p == net(prefix) && *h == holder);
        assert_eq!(sim.nodes[b].events.iter().filter(|it| told(it)).count(), 1, "{prefix}");
    }
    assert_eq!((denied(&sim).len(), sim.nodes[a].engine.denied().count()), (bad.len(), 0));
    let before = text.len();
    sim.run(100_000);
    assert_eq!(sim.nodes[h].events.len(), before, "a refusal is told once, not with each refresh");
    // The first one leaves: the next refresh of the other succeeds.
    sim.input(a, Input::Withdraw);
    sim.run(25_000);
    assert_eq!(sim.nodes[h].routes[&(net("10.2.3.0/24"), RouteKind::Registered)], overlay(3));
    assert!(!denied(&sim).iter().any(|(it, _)| *it == net("10.2.3.0/24")), "{:?}", denied(&sim));
    let taken =
        |event: &Event| matches!(event, Event::PrefixTaken { prefix, .. } if *prefix == net("10.2.3.0/24"));
    assert!(sim.has_event(b, taken));
    assert!(sim.registered(b));
}

#[test]
fn prefix_with_the_hub_in_it_is_not_believed() {
    let mut sim = Net::new(23);
    let mut config = hub(1);
    // The hub does not know that its own underlay address lies in there: it is behind NAT.
    config.nbma = Some(ip("192.168.0.1"));
    config.subnets = vec![net("198.18.0.0/16"), net("10.1.0.0/24")];
    let h = sim.add_natted(config, nbma(1));
    let s = sim.add(spoke(2, NO_LAN));
    // Port forwarding, so to speak.
    let _ = h;
    sim.run(10);
    let open = nhrp::wire::Message::decode(&sim.wire[0].bytes).unwrap().encode();
    sim.inject(nbma(2), h, &open);
    sim.run(3000);
    assert!(sim.registered(s));
    assert_eq!(announced(&sim, s), ["10.1.0.0/24"]);
    assert!(sim.has_event(s, |event| {
        matches!(event, Event::PrefixRefused { prefix, .. } if *prefix == net("198.18.0.0/16"))
    }));
}

#[test]
fn external_prefixes_while_the_router_is_registered() {
    let mut sim = Net::new(24);
    let mut config = hub(1);
    config.external = vec![External {
        name: "router".into(),
        overlay: vec![overlay(9), overlay(8)],
        prefixes: vec![net("10.9.0.0/24")],
    }];
    let h = sim.add(config.clone());
    let b = sim.add(spoke(3, NO_LAN));
    // Like a foreign router: it announces nothing.
    let router = sim.add(spoke(9, NO_LAN));
    sim.run(500);
    assert_eq!(sim.nodes[h].routes[&(net("10.9.0.0/24"), RouteKind::Registered)], overlay(9));
    assert_eq!(announced(&sim, b), ["10.9.0.0/24"]);
    let state = sim.snapshot(h).bindings.into_iter().find(|it| it.overlay == overlay(9)).unwrap();
    assert_eq!(state.prefixes, [net("10.9.0.0/24")]);
    // Its second address takes over.
    let second = sim.add(spoke(8, NO_LAN));
    sim.run(500);
    sim.input(router, Input::Withdraw);
    sim.run(500);
    assert_eq!(sim.nodes[h].routes[&(net("10.9.0.0/24"), RouteKind::Registered)], overlay(8));
    sim.input(second, Input::Withdraw);
    sim.run(500);
    assert!(announced(&sim, b).is_empty());
    // Declared while it is registered.
    let third = sim.add(spoke(7, NO_LAN));
    sim.run(500);
    config.external[0].overlay = vec![overlay(7)];
    sim.input(h, Input::Configure(Box::new(config.clone())));
    sim.run(500);
    assert_eq!(announced(&sim, b), ["10.9.0.0/24"]);
    config.external.clear();
    sim.input(h, Input::Configure(Box::new(config)));
    sim.run(500);
    assert!(announced(&sim, b).is_empty());
    assert!(sim.registered(third));
}

#[test]
fn long_lists_go_in_chunks() {
    let mut sim = Net::new(25);
    let h = sim.add(hub(1));
    let many: Vec<_> = (0..400).map(|n| format!("10.{}.{}.0/24", 100 + n / 200, n % 200)).collect();
    let refs: Vec<_> = many.iter().map(String::as_str).collect();
    let a = sim.add(spoke(2, &refs));
    let b = sim.add(spoke(3, NO_LAN));
    sim.run(2000);
    assert!(sim.registered(a));
    let registered = sim.nodes[h].routes.keys().filter(|(_, kind)| *kind == RouteKind::Registered).count();
    assert_eq!(registered, 400);
    assert_eq!(announced(&sim, b).len(), 400);
    sim.run(120_000);
    assert_eq!(announced(&sim, b).len(), 400, "refreshes leave it alone");
    sim.input(a, Input::Configure(Box::new(spoke(2, &refs[..250]))));
    sim.run(2000);
    assert_eq!(announced(&sim, b).len(), 250);
}

#[test]
fn two_hubs_tell_the_same() {
    let mut sim = Net::new(26);
    sim.add(hub(1));
    let h2 = sim.add(hub(2));
    let both = |n: u32, subnets: &[&str]| {
        let mut config = spoke(n, subnets);
        config.nhs = vec![nhs(1), nhs(2)];
        config
    };
    let a = sim.add(both(12, &["10.12.0.0/24"]));
    let b = sim.add(both(13, &["10.13.0.0/24"]));
    sim.run(500);
    assert!(sim.registered(a) && sim.registered(b));
    let key = (net("10.12.0.0/24"), RouteKind::Announced);
    assert_eq!(sim.nodes[b].routes[&key], overlay(1), "priority 0");
    assert_eq!(sim.nodes[h2].routes[&(net("10.12.0.0/24"), RouteKind::Registered)], overlay(12));
    // The first hub dies for good: its routes go over to the second within the misses of one registration.
    sim.nodes[0].alive = false;
    sim.until(30_000, |sim| sim.nodes[b].routes[&key] == overlay(2));
    assert_eq!(sim.path(b, ip("10.12.0.1")).unwrap().len(), 3);
    sim.nodes[0].alive = true;
    sim.run(70_000);
    assert_eq!(sim.nodes[b].routes[&key], overlay(1), "and back");
    // Both dead: the routes go, the hubs' own bindings stay.
    sim.nodes[0].alive = false;
    sim.nodes[h2].alive = false;
    sim.run(60_000);
    assert!(announced(&sim, b).is_empty());
    assert_eq!(sim.nodes[b].neighbours.len(), 2);
}

#[test]
fn extension_is_not_compulsory() {
    let mut sim = Net::new(27);
    sim.add(hub(1));
    sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.run(500);
    let mut seen = 0;
    for sent in &sim.wire {
        for extension in sent.message.extensions.iter().flatten().filter(|it| it.kind == ext::PREFIXES) {
            assert!(!extension.compulsory);
            seen += 1;
        }
    }
    assert!(seen >= 2);
}
