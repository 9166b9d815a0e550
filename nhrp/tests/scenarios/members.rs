//! What each authenticated identity may register, announce and keep.

use std::collections::BTreeSet;

use nhrp::wire::{Builder, Cie, Header, MAX_HOPS, PrefixChunk, ext, list_flags};
use nhrp::{Config, Event, Input, Member, Members, PacketType, RouteKind};

use super::net::*;

const A: u32 = 2;
const B: u32 = 3;
const MALLORY: u32 = 66;

fn member(n: u32, prefixes: &[&str]) -> Member {
    let prefixes = Some(prefixes.iter().map(|it| net(it)).collect());
    Member { name: format!("s{n}"), identity: format!("s{n}.example"), overlay: vec![overlay(n)], prefixes }
}

fn guarded(open: bool) -> Config {
    let declared = vec![member(A, &["10.2.0.0/16"]), member(B, &["10.3.0.0/24"])];
    Config { members: Some(Members { open, declared, denied: BTreeSet::new() }), ..hub(1) }
}

fn known(sim: &mut Net, h: usize, at: u32, identities: &[&str]) {
    let identities = identities.iter().map(|it| (*it).to_owned()).collect();
    sim.input(h, Input::Identities { nbma: nbma(at), identities });
}

/// Registers an overlay address from an underlay address with a list of prefixes; the code of the answer.
fn register(sim: &mut Net, h: usize, n: u32, at: u32, prefixes: &[&str]) -> u8 {
    let header = Header {
        packet_type: PacketType::RegistrationRequest,
        hop_count: MAX_HOPS,
        flags: 0,
        request_id: 900,
        src_nbma: nbma(at),
        src_proto: overlay(n),
        dst_proto: overlay(1),
    };
    let list = PrefixChunk {
        flags: list_flags::FIRST,
        prefixes: prefixes.iter().map(|it| net(it)).collect(),
        ..PrefixChunk::default()
    };
    let own = Cie { prefix_len: 0xff, holding_time: 600, ..Cie::default() };
    let request = Builder::new(&header).cie(&own).extension(false, ext::PREFIXES, &list.encode());
    sim.inject(nbma(at), h, &request.finish());
    let reply = sim.wire.last().unwrap();
    assert!(reply.is(PacketType::RegistrationReply), "{:?}", reply.message);
    reply.message.cies[0].code
}

fn routes(sim: &Net, h: usize) -> Vec<String> {
    let registered = sim.nodes[h].routes.iter().filter(|((_, kind), _)| *kind == RouteKind::Registered);
    registered.map(|((prefix, _), via)| format!("{prefix} {via}")).collect()
}

#[test]
fn only_what_is_declared_for_an_identity_is_its_own() {
    let mut sim = Net::new(900);
    let h = sim.add(guarded(true));
    for (at, name) in [(A, "s2.example"), (B, "s3.example"), (MALLORY, "mallory.example")] {
        known(&mut sim, h, at, &[name]);
    }
    assert_eq!(register(&mut sim, h, A, A, &["10.2.7.0/24"]), 0, "a part of its own");
    assert_eq!(routes(&sim, h), ["10.2.7.0/24 10.255.0.2"]);
    // A neighbour's address, bound or not.
    assert_eq!(register(&mut sim, h, A, MALLORY, &[]), 14);
    assert_eq!(register(&mut sim, h, B, MALLORY, &[]), 14);
    assert_eq!(register(&mut sim, h, B, A, &[]), 14, "a member that is declared, for another one's");
    // Whoever is declared with an address has no other.
    assert_eq!(register(&mut sim, h, 77, A, &[]), 4);
    assert_eq!(sim.nodes[h].neighbours.keys().copied().collect::<Vec<_>>(), [overlay(A)]);
    // Somebody new has what is nobody's: not what is declared, nor parts of it, nor a default route.
    let wish = ["10.2.7.0/24", "10.3.0.0/25", "10.0.0.0/8", "0.0.0.0/0", "172.20.0.0/16"];
    assert_eq!(register(&mut sim, h, MALLORY, MALLORY, &wish), 0);
    // B announces what is not in its subnets.
    assert_eq!(register(&mut sim, h, B, B, &["10.3.0.0/24", "10.4.0.0/24"]), 0);
    assert_eq!(
        routes(&sim, h),
        ["10.2.7.0/24 10.255.0.2", "10.3.0.0/24 10.255.0.3", "172.20.0.0/16 10.255.0.66"]
    );
    let told: Vec<_> = sim.nodes[h].events.iter().map(Event::to_string).collect();
    for part in [
        "declared for s2, and mallory.example claims it",
        "declared for s3, and s2.example claims it",
        "s2 (s2.example) is declared with 10.255.0.2",
        "mallory.example announces it, and 10.3.0.0/24 is declared for s3",
        "10.4.0.0/24 announced by 10.255.0.3 refused: it is not in the subnets of s3 (s3.example)",
    ] {
        assert!(told.iter().any(|it| it.contains(part)), "{part}: {told:#?}");
    }
}

#[test]
fn who_is_nobody_or_not_declared_gets_nothing() {
    let mut sim = Net::new(901);
    let h = sim.add(guarded(false));
    assert_eq!(register(&mut sim, h, A, A, &[]), 4, "nobody was authenticated there");
    known(&mut sim, h, MALLORY, &["mallory.example"]);
    assert_eq!(register(&mut sim, h, MALLORY, MALLORY, &[]), 4);
    known(&mut sim, h, A, &["s2.example", "s3.example"]);
    assert_eq!(register(&mut sim, h, A, A, &[]), 4, "two at one place: whose packet is it?");
    known(&mut sim, h, A, &["s2.example"]);
    assert_eq!(register(&mut sim, h, A, A, &[]), 0);
    // The daemon is away: who has it keeps it, where it is.
    known(&mut sim, h, A, &[]);
    assert_eq!(register(&mut sim, h, A, A, &[]), 0);
    assert_eq!(register(&mut sim, h, A, B, &[]), 4);
}

#[test]
fn an_identity_moves_at_once_and_another_never_gets_what_it_has() {
    let mut sim = Net::new(902);
    let h = sim.add(guarded(true));
    let (free, there) = (40, 41);
    known(&mut sim, h, free, &["new.example"]);
    known(&mut sim, h, MALLORY, &["mallory.example"]);
    assert_eq!(register(&mut sim, h, free, free, &[]), 0);
    assert_eq!(register(&mut sim, h, free, MALLORY, &[]), 14);
    known(&mut sim, h, there, &["new.example"]);
    assert_eq!(register(&mut sim, h, free, there, &[]), 0, "the same identity, from elsewhere, unasked");
    assert_eq!(sim.nodes[h].neighbours.get(&overlay(free)), Some(&nbma(there)));
    // Its registration ends: the address is still its own, also after a restart …
    sim.run(700_000);
    assert!(sim.nodes[h].neighbours.is_empty());
    assert_eq!(register(&mut sim, h, free, MALLORY, &[]), 14);
    sim.restart(h, 1_000);
    known(&mut sim, h, MALLORY, &["mallory.example"]);
    known(&mut sim, h, there, &["new.example"]);
    assert_eq!(register(&mut sim, h, free, MALLORY, &[]), 14);
    // … until it takes it back.
    assert_eq!(register(&mut sim, h, free, there, &[]), 0);
    let header = Header {
        packet_type: PacketType::PurgeRequest,
        hop_count: MAX_HOPS,
        flags: 0,
        request_id: 7,
        src_nbma: nbma(there),
        src_proto: overlay(free),
        dst_proto: overlay(1),
    };
    let entry = Cie { prefix_len: 32, proto: Some(overlay(free)), ..Cie::default() };
    sim.inject(nbma(MALLORY), h, &Builder::new(&header).cie(&entry).finish());
    assert_eq!(register(&mut sim, h, free, MALLORY, &[]), 14, "another one's purge");
    sim.inject(nbma(there), h, &Builder::new(&header).cie(&entry).finish());
    assert_eq!(register(&mut sim, h, free, MALLORY, &[]), 0);
}

#[test]
fn what_is_declared_later_or_denied_goes_at_once() {
    let mut sim = Net::new(903);
    let h = sim.add(guarded(true));
    for (at, name) in [(A, "s2.example"), (MALLORY, "mallory.example")] {
        known(&mut sim, h, at, &[name]);
    }
    assert_eq!(register(&mut sim, h, A, A, &["10.2.0.0/24", "10.2.1.0/24"]), 0);
    assert_eq!(register(&mut sim, h, MALLORY, MALLORY, &["172.20.0.0/16"]), 0);
    // A's prefixes become fewer; somebody else is denied.
    let mut config = guarded(true);
    let members = config.members.as_mut().unwrap();
    members.declared[0].prefixes = Some(vec![net("10.2.1.0/24")]);
    members.denied = ["mallory.example".to_owned()].into();
    sim.input(h, Input::Configure(Box::new(config.clone())));
    assert_eq!(routes(&sim, h), ["10.2.1.0/24 10.255.0.2"]);
    assert_eq!(sim.nodes[h].neighbours.keys().copied().collect::<Vec<_>>(), [overlay(A)]);
    assert_eq!(register(&mut sim, h, MALLORY, MALLORY, &[]), 4);
    // Another owner: the one before loses it.
    config.members.as_mut().unwrap().declared[0].identity = "s2-new.example".into();
    sim.input(h, Input::Configure(Box::new(config)));
    assert!(sim.nodes[h].neighbours.is_empty() && routes(&sim, h).is_empty());
    assert_eq!(register(&mut sim, h, A, A, &[]), 14);
}
