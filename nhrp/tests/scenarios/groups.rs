//! Bandwidth classes: told with registrations, kept with bindings, known or not.

use nhrp::wire::{Builder, Cie, Groups, Header, flags, group_kind};
use nhrp::{Config, DropReason, Event, Input, PacketType, StaticBinding};

use super::net::*;

fn shaping(n: u32, groups: &[&str]) -> Config {
    Config { groups: groups.iter().map(|it| (*it).to_owned()).collect(), ..hub(n) }
}

fn member(n: u32, group: &str) -> Config {
    Config { own_groups: vec![(overlay(n), group.to_owned())], ..spoke(n, NO_LAN) }
}

fn configure(sim: &mut Net, index: usize, config: Config) {
    sim.input(index, Input::Configure(Box::new(config)));
}

fn unknown(sim: &Net, index: usize) -> Vec<String> {
    let of = |event: &Event| match event {
        Event::GroupUnknown { group, .. } => Some(group.clone()),
        _ => None,
    };
    sim.nodes[index].events.iter().filter_map(of).collect()
}

/// What the hub's shell was told, which is what its snapshot says.
fn at_hub(sim: &Net, hub: usize, n: u32) -> Option<String> {
    let told = sim.nodes[hub].groups.get(&overlay(n)).cloned();
    let bindings = sim.snapshot(hub).bindings;
    assert_eq!(bindings.iter().find(|it| it.overlay == overlay(n)).and_then(|it| it.group.clone()), told);
    told
}

#[test]
fn announced_changed_and_taken_back() {
    let mut sim = Net::new(1);
    let h = sim.add(shaping(1, &["gold", "silver"]));
    let a = sim.add(member(2, "gold"));
    let b = sim.add(spoke(3, NO_LAN));
    sim.until(100, |sim| sim.registered(a) && sim.registered(b));
    assert_eq!((at_hub(&sim, h, 2).as_deref(), at_hub(&sim, h, 3)), (Some("gold"), None));
    // Another class, at once.
    configure(&mut sim, a, member(2, "silver"));
    sim.until(100, |sim| at_hub(sim, h, 2).as_deref() == Some("silver"));
    // None any more.
    configure(&mut sim, a, spoke(2, NO_LAN));
    sim.until(100, |sim| at_hub(sim, h, 2).is_none());
    assert_eq!(unknown(&sim, h), [""; 0]);
}

#[test]
fn kept_over_a_restart_and_gone_with_the_binding() {
    let mut sim = Net::new(2);
    let h = sim.add(Config { holding_time: 15, ..shaping(1, &["gold"]) });
    let a = sim.add(Config { holding_time: 15, ..member(2, "gold") });
    sim.until(100, |sim| sim.registered(a));
    sim.nodes[a].alive = false;
    sim.restart(h, 100);
    assert_eq!(at_hub(&sim, h, 2).as_deref(), Some("gold"), "before anybody says it again");
    sim.until(20_000, |sim| !sim.nodes[h].neighbours.contains_key(&overlay(2)));
    assert_eq!(at_hub(&sim, h, 2), None);
}

/// A static mapping stays when its owner is gone, without the class that only the owner said.
#[test]
fn gone_when_a_client_with_a_static_mapping_falls_silent() {
    let mapped = StaticBinding { overlay: overlay(2), nbma: nbma(2), prefixes: Vec::new() };
    let plain = Config { holding_time: 15, ..shaping(1, &["gold"]) };
    let with_mapping = Config { statics: vec![mapped], ..plain.clone() };
    // Mapped from the start; and by somebody who saw it fall silent.
    for (seed, before) in [(6, &with_mapping), (7, &plain)] {
        let mut sim = Net::new(seed);
        let h = sim.add(before.clone());
        let a = sim.add(Config { holding_time: 15, ..member(2, "gold") });
        sim.until(100, |sim| sim.registered(a));
        sim.run(60_000);
        assert_eq!(at_hub(&sim, h, 2).as_deref(), Some("gold"), "as long as it says so");
        sim.nodes[a].alive = false;
        configure(&mut sim, h, with_mapping.clone());
        assert_eq!(at_hub(&sim, h, 2).as_deref(), Some("gold"), "for its holding time");
        sim.run(20_000);
        assert_eq!(sim.nodes[h].neighbours[&overlay(2)], nbma(2), "the static mapping stands");
        assert_eq!(at_hub(&sim, h, 2), None);
        // It comes back.
        sim.nodes[a].alive = true;
        sim.reboot(a);
        sim.until(10_000, |sim| at_hub(sim, h, 2).as_deref() == Some("gold"));
    }
}

#[test]
fn an_unknown_one_is_told_and_served() {
    let mut sim = Net::new(3);
    let h = sim.add(shaping(1, &["gold"]));
    let a = sim.add(member(2, "platinum"));
    sim.until(100, |sim| sim.registered(a));
    assert_eq!(unknown(&sim, h), ["platinum"]);
    assert!(sim.snapshot(h).counters.dropped(DropReason::UnknownGroup) == 1);
    // Each registration says it again, and nobody is told each time.
    sim.run(60_000);
    assert_eq!(unknown(&sim, h), ["platinum"]);
    // Known from now on; and no more.
    configure(&mut sim, h, shaping(1, &["platinum"]));
    sim.run(60_000);
    assert_eq!(unknown(&sim, h), ["platinum"]);
    configure(&mut sim, h, shaping(1, &[]));
    assert_eq!(unknown(&sim, h), ["platinum", "platinum"]);
    assert!(sim.registered(a));
}

/// Of a peer of another make nothing is known, nor of one that says it in another form; what it said before no longer
/// holds.
#[test]
fn without_the_extension_or_with_a_bad_one() {
    let mut sim = Net::new(4);
    let h = sim.add(shaping(1, &["gold"]));
    let gold = Groups { entries: vec![(7, "staff".into()), (group_kind::QOS, "gold".into())] }.encode();
    let cut = &gold[..gold.len() - 1];
    let cases: [(Option<&[u8]>, Option<&str>); 5] = [
        (None, None),
        (Some(&gold), Some("gold")),
        (Some(cut), None),
        (Some(&gold), Some("gold")),
        (None, None),
    ];
    for (value, expected) in cases {
        let header = Header {
            packet_type: PacketType::RegistrationRequest,
            hop_count: 16,
            flags: flags::NAT,
            request_id: 5,
            src_nbma: nbma(9),
            src_proto: overlay(9),
            dst_proto: overlay(1),
        };
        let own = Cie { holding_time: 60, prefix_len: 0xff, ..Cie::default() };
        let builder = Builder::new(&header).cie(&own);
        let packet = match value {
            Some(value) => builder.extension(false, nhrp::wire::ext::GROUPS, value).finish(),
            None => builder.finish(),
        };
        sim.inject(nbma(9), h, &packet);
        let reply = sim.wire.iter().rfind(|sent| sent.is(PacketType::RegistrationReply)).unwrap();
        assert_eq!(reply.message.cies[0].code, 0);
        assert_eq!(at_hub(&sim, h, 9).as_deref(), expected);
    }
}

/// An address that a hub gave has the class of the spoke that asked for it.
#[test]
fn of_an_address_that_was_assigned() {
    let mut sim = Net::new(5);
    let pool =
        nhrp::Pool { prefixes: vec![net("10.255.16.0/24")], reserved: Vec::new(), share: 0, shares: 1 };
    let h = sim.add(Config { pool: Some(pool), ..shaping(1, &["gold"]) });
    let request = nhrp::AddressRequest {
        identity: "branch".into(),
        ipv4: true,
        ipv6: false,
        group: Some("gold".into()),
    };
    let a = sim.add(Config { local: Vec::new(), request: Some(request), ..spoke(2, NO_LAN) });
    sim.until(10_000, |sim| !sim.nodes[h].groups.is_empty());
    let assigned = sim.snapshot(a).assigned[0];
    assert_eq!(sim.nodes[h].groups.get(&assigned).map(String::as_str), Some("gold"));
}
