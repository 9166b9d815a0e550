//! No password in anything that people or files get to see.

use nhrp::{Input, PacketType};

use super::net::*;

#[test]
fn no_output_for_people_bears_a_password() {
    let mut sim = Net::new(90);
    let with = |mut config: nhrp::Config, password: &str| {
        config.authentication = vec![password.into(), "0ld-one".into()];
        config
    };
    let h = sim.add(with(hub(1), "s3cret"));
    let a = sim.add(with(spoke(2, &["10.2.0.0/24"]), "s3cret"));
    let b = sim.add(with(spoke(3, &["10.3.0.0/24"]), "s3cret"));
    sim.add(with(spoke(4, NO_LAN), "wr0ng"));
    sim.run(500);
    sim.ping(a, ip("10.2.0.5"), ip("10.3.0.5"));
    sim.run(50);
    // A claim that waits for a probe, and purges that wait for their answers: both keep whole packets.
    let mut thief = with(spoke(5, NO_LAN), "s3cret");
    thief.local = vec![overlay(3)];
    sim.nodes[b].alive = false;
    sim.add(thief);
    sim.run(10);
    sim.nodes[a].alive = false;
    sim.input(b, Input::Withdraw);
    sim.run(10);
    assert!(sim.wire.iter().any(|sent| sent.is(PacketType::PurgeRequest) && sent.from == nbma(3)));
    let bytes = |text: &str| format!("{:?}", text.as_bytes()).trim_matches(['[', ']']).to_owned();
    let forbidden: Vec<_> =
        ["s3cret", "0ld-one", "wr0ng"].iter().flat_map(|text| [(*text).to_owned(), bytes(text)]).collect();
    for node in &sim.nodes {
        let snapshot = node.engine.snapshot(sim.now);
        let text = format!(
            "{:?} {:?} {:?} {:?} {}",
            node.config,
            node.engine,
            node.events,
            snapshot,
            serde_json::to_string(&snapshot).unwrap()
        );
        let told: Vec<_> = node.events.iter().map(ToString::to_string).collect();
        for word in &forbidden {
            assert!(!text.contains(word) && !told.concat().contains(word), "{word} in {text}");
        }
        assert!(text.contains("Secret(…)"), "it was there to be shown");
    }
    assert!(sim.snapshot(h).counters.received.registration_request > 0);
}
