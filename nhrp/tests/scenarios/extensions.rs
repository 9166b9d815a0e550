//! Extensions that the engine does not act on: kept, in their order, in replies and on the way through.

use nhrp::wire::{
    Builder, Cie, Header, Message, OwnedExtension, PrefixChunk, Software, capability, ext, flags, list_flags,
};
use nhrp::{PacketType, RouteKind};

use super::net::*;

const VENDOR_A: &[u8] = b"\x00\x00\x0cgroup=A";
const VENDOR_B: &[u8] = b"\x00\x00\x0codd length";
const MOBILE: u16 = 10;

/// What a peer may put beside the usual: several Vendor-Privates, RFC 2735's capabilities, something new.
fn with_strangers(builder: Builder) -> Vec<u8> {
    builder
        .extension(false, ext::VENDOR, VENDOR_A)
        .extension(true, ext::RESPONDER, &[])
        .extension(false, ext::NAT, &[0x80, 0, 0, 0, 0, 0, 0, 0])
        .extension(false, MOBILE, b"xyz")
        .extension(false, ext::VENDOR, VENDOR_B)
        .extension(false, 0x3fff, b"experiment")
        .finish()
}

fn strangers(message: &Message) -> Vec<(u16, Vec<u8>)> {
    let owned = message.extensions.as_ref().unwrap().iter();
    let strange = |it: &&OwnedExtension| it.kind != ext::RESPONDER;
    owned.filter(strange).map(|it| (it.kind, it.value.clone())).collect()
}

fn header(packet_type: PacketType, src: u32, dst: std::net::IpAddr) -> Header {
    Header {
        packet_type,
        hop_count: 16,
        flags: if packet_type == PacketType::ResolutionRequest { flags::ROUTER } else { 0 },
        request_id: 77,
        src_nbma: nbma(src),
        src_proto: overlay(src),
        dst_proto: dst,
    }
}

fn expected() -> Vec<(u16, Vec<u8>)> {
    vec![
        (ext::VENDOR, VENDOR_A.to_vec()),
        (ext::NAT, vec![0x80, 0, 0, 0, 0, 0, 0, 0]),
        (MOBILE, b"xyz".to_vec()),
        (ext::VENDOR, VENDOR_B.to_vec()),
        (0x3fff, b"experiment".to_vec()),
    ]
}

#[test]
fn echoed_in_replies() {
    let mut sim = Net::new(1);
    let mut config = hub(1);
    config.subnets = vec![net("10.1.0.0/24")];
    let h = sim.add(config);
    let own = Cie { holding_time: 60, prefix_len: 0xff, ..Cie::default() };
    let registration = header(PacketType::RegistrationRequest, 9, overlay(1));
    // As seen by the hub from behind NAT: the NAT extension would be filled in, were this one.
    sim.inject(nbma(8), h, &with_strangers(Builder::new(&registration).cie(&own)));
    let resolution = header(PacketType::ResolutionRequest, 9, ip("10.1.0.1"));
    sim.inject(nbma(8), h, &with_strangers(Builder::new(&resolution).cie(&own)));
    for packet_type in [PacketType::RegistrationReply, PacketType::ResolutionReply] {
        let reply = sim.wire.iter().find(|sent| sent.is(packet_type)).unwrap();
        assert_eq!(reply.message.cies[0].code, 0);
        assert_eq!(strangers(&reply.message), expected(), "{packet_type}");
    }
}

#[test]
fn passed_on_by_a_transit_hub() {
    let mut sim = Net::new(2);
    let h = sim.add(hub(1));
    let a = sim.add(spoke(2, NO_LAN));
    let b = sim.add(spoke(3, &["10.3.0.0/24"]));
    sim.until(100, |sim| sim.registered(a) && sim.registered(b));
    let own = Cie { holding_time: 60, ..Cie::default() };
    let request = header(PacketType::ResolutionRequest, 2, ip("10.3.0.1"));
    sim.inject(nbma(2), h, &with_strangers(Builder::new(&request).cie(&own)));
    let passed = sim.wire.iter().find(|sent| sent.is(PacketType::ResolutionRequest) && sent.from == nbma(1));
    assert_eq!(strangers(&passed.unwrap().message), expected());
}

/// One registration with what the client says of itself.
fn registration(client: u32, software: Option<&[u8]>) -> Vec<u8> {
    let own = Cie { holding_time: 60, prefix_len: 0xff, ..Cie::default() };
    let builder = Builder::new(&header(PacketType::RegistrationRequest, client, overlay(1))).cie(&own);
    match software {
        Some(value) => builder.extension(false, ext::SOFTWARE, value).finish(),
        None => builder.finish(),
    }
}

#[test]
fn versions_are_told_both_ways() {
    let mut sim = Net::new(3);
    let h = sim.add(hub(1));
    let s = sim.add(spoke(2, NO_LAN));
    sim.until(100, |sim| sim.registered(s));
    let at_hub = |sim: &Net, n: u32| {
        let bindings = sim.snapshot(h).bindings;
        bindings.into_iter().find(|it| it.overlay == overlay(n)).unwrap().software
    };
    assert_eq!(at_hub(&sim, 2), Some(Software::OURS));
    assert_eq!(sim.snapshot(s).nhs[0].software, Some(Software::OURS));
    // Kept over restarts of either side, before anybody says it again.
    sim.restart(h, 100);
    assert_eq!(at_hub(&sim, 2), Some(Software::OURS));
    sim.nodes[h].alive = false;
    sim.restart(s, 100);
    assert_eq!(sim.snapshot(s).nhs[0].software, Some(Software::OURS));
}

/// A peer of another make, an older version, a newer one, and one that says it in another form: all are served.
#[test]
fn mixed_versions() {
    let mut sim = Net::new(4);
    let h = sim.add(hub(1));
    let newer: &[u8] = &[1, 200, 1, 2, 0x80, 0, 0, 1, b'm', b'o', b'r', b'e'];
    let older: &[u8] = &[1, 0, 0, 9, 0, 0, 0, 0];
    let unreadable: &[u8] = &[2, 1];
    let cases = [
        (2, None, None),
        (3, Some(older), Some(Software { version: [0, 0, 9], capabilities: 0 })),
        (4, Some(newer), Some(Software { version: [200, 1, 2], capabilities: 0x8000_0001 })),
        (5, Some(unreadable), None),
    ];
    for (client, value, expected) in cases {
        sim.inject(nbma(client), h, &registration(client, value));
        let reply = sim.wire.iter().rfind(|sent| sent.is(PacketType::RegistrationReply)).unwrap();
        assert_eq!((reply.to, reply.message.cies[0].code), (nbma(client), 0));
        let told = reply.message.extensions.as_ref().map(|all| all[0].clone());
        let ours = OwnedExtension {
            compulsory: false,
            kind: ext::SOFTWARE,
            value: Software::OURS.encode().to_vec(),
        };
        assert_eq!(told, value.map(|_| ours), "only in answer to the same");
        let bindings = sim.snapshot(h).bindings;
        let binding = bindings.iter().find(|it| it.overlay == overlay(client)).unwrap();
        assert_eq!(binding.software, expected);
    }
    assert!(Software::OURS.can(capability::PREFIXES));
    // It was replaced by another make's router.
    sim.inject(nbma(4), h, &registration(4, None));
    assert!(sim.snapshot(h).bindings.iter().all(|it| it.overlay != overlay(4) || it.software.is_none()));
}

/// A client may claim several addresses, but its list is its own: who claims one address does not speak for another.
#[test]
fn lists_of_others_are_not_touched() {
    let mut sim = Net::new(5);
    let h = sim.add(hub(1));
    let victim = sim.add(spoke(2, &["10.2.0.0/24"]));
    sim.until(100, |sim| sim.registered(victim));
    let route = (net("10.2.0.0/24"), RouteKind::Registered);
    assert_eq!(sim.nodes[h].routes[&route], overlay(2));
    let thief = Cie { holding_time: 60, prefix_len: 0xff, proto: Some(overlay(9)), ..Cie::default() };
    let in_the_name_of = header(PacketType::RegistrationRequest, 2, overlay(1));
    for prefixes in [vec![], vec![net("10.99.0.0/24")]] {
        let list = PrefixChunk { flags: list_flags::FIRST, prefixes, ..PrefixChunk::default() };
        let forged = Builder::new(&in_the_name_of).cie(&thief);
        let forged = forged.extension(false, ext::PREFIXES, &list.encode());
        sim.inject(nbma(9), h, &forged.extension(false, ext::SOFTWARE, &[1; 8]).finish());
        assert_eq!(sim.nodes[h].routes[&route], overlay(2));
        assert!(!sim.nodes[h].routes.contains_key(&(net("10.99.0.0/24"), RouteKind::Registered)));
    }
    let bindings = sim.snapshot(h).bindings;
    assert_eq!(bindings.iter().find(|it| it.overlay == overlay(2)).unwrap().software, Some(Software::OURS));
}
