//! What a hub passes on, byte for byte: one hop less, itself in the record, its own password, the NAT extension
//! filled from what it knows; all else as it came.

use nhrp::wire::{
    Cie, ErrorCode, Header, MAX_HOPS, Message, OwnedExtension, authentication_value, ext, flags,
};
use nhrp::{DropReason, PacketType};

use super::net::*;

/// The spokes 2 (behind NAT, claims 192.168.1.2) and 3 of hub 1, which takes two passwords.
fn hub_with_members(seed: u64) -> Net {
    let mut sim = Net::new(seed);
    let mut config = hub(1);
    config.authentication = vec!["new-one".into(), "old-one".into()];
    sim.add(config);
    for (n, claimed) in [(2, ip("192.168.1.2")), (3, nbma(3))] {
        let header = Header {
            src_nbma: claimed,
            dst_proto: overlay(1),
            ..header(PacketType::RegistrationRequest, n, overlay(1))
        };
        let registration = Message {
            header,
            cies: vec![Cie { prefix_len: 0xff, holding_time: 600, ..Cie::default() }],
            payload: Vec::new(),
            extensions: Some(vec![password("old-one")]),
        };
        sim.inject(nbma(n), 0, &registration.encode());
    }
    assert_eq!(sim.nodes[0].neighbours.len(), 2);
    sim.wire.clear();
    sim
}

fn header(packet_type: PacketType, src: u32, dst: std::net::IpAddr) -> Header {
    Header {
        packet_type,
        hop_count: MAX_HOPS,
        flags: flags::ROUTER | flags::AUTHORITATIVE | flags::SOURCE_STABLE | flags::NAT,
        request_id: 77,
        src_nbma: nbma(src),
        src_proto: overlay(src),
        dst_proto: dst,
    }
}

fn extension(compulsory: bool, kind: u16, value: &[u8]) -> OwnedExtension {
    OwnedExtension { compulsory, kind, value: value.to_vec() }
}

fn password(word: &str) -> OwnedExtension {
    extension(true, ext::AUTHENTICATION, &authentication_value(word.as_bytes()))
}

/// An entry as it stands in a record (holding time and MTU of the hub) or in the NAT extension.
fn entry(nbma: std::net::IpAddr, proto: std::net::IpAddr, record: bool) -> Vec<u8> {
    let (std::net::IpAddr::V4(nbma), std::net::IpAddr::V4(proto)) = (nbma, proto) else { panic!() };
    let mut bytes = if record {
        vec![0, 0, 0, 0, 0x05, 0x78, 0, 60, 4, 0, 4, 0]
    } else {
        vec![0, 32, 0, 0, 0, 0, 0, 0, 4, 0, 4, 0]
    };
    bytes.extend(nbma.octets());
    bytes.extend(proto.octets());
    bytes
}

/// A request of spoke 2 for spoke 3, with all that a hub must leave alone.
fn request() -> Message {
    Message {
        header: Header {
            src_nbma: ip("192.168.1.2"),
            ..header(PacketType::ResolutionRequest, 2, overlay(3))
        },
        cies: vec![Cie { prefix_len: 32, mtu: 1400, holding_time: 600, preference: 9, ..Cie::default() }],
        payload: Vec::new(),
        extensions: Some(vec![
            extension(true, ext::RESPONDER, &[]),
            extension(true, ext::FORWARD_RECORD, &[]),
            extension(true, ext::REVERSE_RECORD, &[]),
            extension(false, ext::VENDOR, b"\x00\x00\x0cgroup\x00"),
            password("old-one"),
            extension(false, ext::VENDOR, b"\x00\x00\x0cmore"),
            extension(false, ext::NAT, &[]),
            extension(false, 0x3abc, b"what is this"),
        ]),
    }
}

fn set(message: &mut Message, kind: u16, value: Vec<u8>) {
    let extensions = message.extensions.as_mut().unwrap();
    extensions.iter_mut().find(|extension| extension.kind == kind).unwrap().value = value;
}

#[test]
fn a_request_byte_for_byte() {
    let mut sim = hub_with_members(120);
    sim.inject(nbma(2), 0, &request().encode());
    let mut expected = request();
    expected.header.hop_count = 254;
    set(&mut expected, ext::FORWARD_RECORD, entry(nbma(1), overlay(1), true));
    set(&mut expected, ext::AUTHENTICATION, authentication_value(b"new-one"));
    set(&mut expected, ext::NAT, entry(nbma(2), overlay(2), false));
    let [sent] = &sim.wire[..] else { panic!("{}", sim.wire.len()) };
    assert_eq!((sent.to, &sent.message), (nbma(3), &expected));
    assert_eq!(sent.bytes, expected.encode());

    // Another hub has been there: its entry comes first, and what it filled in stays.
    let mut second = request();
    second.header.request_id = 78;
    second.header.hop_count = 7;
    let before = entry(nbma(9), overlay(9), true);
    set(&mut second, ext::FORWARD_RECORD, before.clone());
    set(&mut second, ext::NAT, entry(nbma(2), overlay(2), false));
    sim.inject(nbma(2), 0, &second.encode());
    second.header.hop_count = 6;
    set(&mut second, ext::FORWARD_RECORD, [before, entry(nbma(1), overlay(1), true)].concat());
    set(&mut second, ext::AUTHENTICATION, authentication_value(b"new-one"));
    assert_eq!(sim.wire.last().unwrap().bytes, second.encode());
}

#[test]
fn what_is_not_understood_goes_on_without_a_trace() {
    let mut sim = hub_with_members(121);
    let mut strange = request();
    strange.extensions.as_mut().unwrap().insert(1, extension(true, 0x0123, b"must be known"));
    sim.inject(nbma(2), 0, &strange.encode());
    strange.header.hop_count = 254;
    set(&mut strange, ext::AUTHENTICATION, authentication_value(b"new-one"));
    set(&mut strange, ext::NAT, entry(nbma(2), overlay(2), false));
    assert_eq!(sim.wire.last().unwrap().bytes, strange.encode());
    assert!(sim.snapshot(0).bindings.iter().all(|it| it.requesters.is_empty()), "nor is it remembered");
}

/// The answer of spoke 2, behind NAT, to a request of spoke 3.
fn reply() -> Message {
    let mut reply = request();
    reply.header = header(PacketType::ResolutionReply, 3, overlay(2));
    reply.cies = vec![Cie {
        prefix_len: 32,
        mtu: 1400,
        holding_time: 600,
        nbma: Some(ip("192.168.1.2")),
        proto: Some(overlay(2)),
        ..Cie::default()
    }];
    set(&mut reply, ext::FORWARD_RECORD, entry(nbma(1), overlay(1), true));
    set(&mut reply, ext::RESPONDER, entry(ip("192.168.1.2"), overlay(2), false));
    reply
}

fn asked(sim: &mut Net) {
    let mut question = request();
    question.header = header(PacketType::ResolutionRequest, 3, overlay(2));
    sim.inject(nbma(3), 0, &question.encode());
    assert_eq!(sim.wire.last().unwrap().to, nbma(2));
}

#[test]
fn a_reply_byte_for_byte() {
    let mut sim = hub_with_members(122);
    asked(&mut sim);
    sim.inject(nbma(2), 0, &reply().encode());
    let mut expected = reply();
    expected.header.hop_count = 254;
    set(&mut expected, ext::REVERSE_RECORD, entry(nbma(1), overlay(1), true));
    set(&mut expected, ext::AUTHENTICATION, authentication_value(b"new-one"));
    set(&mut expected, ext::NAT, entry(nbma(2), overlay(2), false));
    let sent = sim.wire.last().unwrap();
    assert_eq!((sent.to, &sent.bytes), (nbma(3), &expected.encode()));
}

fn last_error(sim: &Net, to: u32) -> (ErrorCode, std::net::IpAddr) {
    let sent = sim.wire.last().unwrap();
    assert!(sent.is(PacketType::ErrorIndication), "{:?}", sent.message);
    assert_eq!(sent.to, nbma(to));
    (sent.message.header.error().0, sent.message.header.dst_proto)
}

#[test]
fn loops_and_hops() {
    let mut sim = hub_with_members(123);
    let own = || entry(nbma(200), overlay(1), true);
    // By protocol address: the underlay address in the record may be anything.
    let mut round = request();
    set(&mut round, ext::FORWARD_RECORD, [entry(nbma(9), overlay(9), true), own()].concat());
    sim.inject(nbma(2), 0, &round.encode());
    assert_eq!(last_error(&sim, 2), (ErrorCode::Loop, overlay(2)));
    let mut tired = request();
    tired.header.hop_count = 1;
    sim.inject(nbma(2), 0, &tired.encode());
    assert_eq!(last_error(&sim, 2), (ErrorCode::HopCountExceeded, overlay(2)));

    asked(&mut sim);
    for kind in [ext::REVERSE_RECORD, ext::RESPONDER] {
        let mut round = reply();
        set(&mut round, kind, own());
        sim.inject(nbma(2), 0, &round.encode());
        assert_eq!(last_error(&sim, 2).0, ErrorCode::Loop);
    }
    let mut tired = reply();
    tired.header.hop_count = 1;
    sim.inject(nbma(2), 0, &tired.encode());
    assert_eq!(last_error(&sim, 2), (ErrorCode::HopCountExceeded, overlay(2)), "to the responder");
    let counters = sim.snapshot(0).counters;
    assert_eq!((counters.dropped(DropReason::Loop), counters.dropped(DropReason::HopCount)), (3, 2));
    assert_eq!(counters.forwarded.total(), 1, "the question");
    // The error says what it is about, from its first byte on.
    let error = sim.wire.last().unwrap();
    assert!(tired.encode().starts_with(&error.message.payload) && error.message.payload.len() >= 40);
    assert!(error.bytes.len() <= tired.encode().len());
}

/// An error goes back by the way of the request that it is about, and only from where that went.
#[test]
fn errors_on_their_way_back() {
    let mut sim = hub_with_members(124);
    sim.inject(nbma(2), 0, &request().encode());
    let mut about = request().encode();
    about.truncate(60);
    let word = u32::from(u16::from(ErrorCode::ProtocolAddressUnreachable)) << 16;
    let error = Message {
        header: Header { flags: 0, request_id: word, ..header(PacketType::ErrorIndication, 3, overlay(2)) },
        cies: Vec::new(),
        payload: about,
        extensions: None,
    };
    let sent = sim.wire.len();
    sim.inject(nbma(66), 0, &error.encode());
    let mut other = error.clone();
    other.payload[27] ^= 1;
    sim.inject(nbma(3), 0, &other.encode());
    let mut elsewhere = error.clone();
    elsewhere.header.dst_proto = overlay(3);
    sim.inject(nbma(3), 0, &elsewhere.encode());
    let counters = sim.snapshot(0).counters;
    assert_eq!(counters.dropped(DropReason::WrongSender), 1);
    assert_eq!(counters.dropped(DropReason::Unsolicited), 2);
    assert_eq!(sim.wire.len(), sent, "and none of them is answered");
    sim.inject(nbma(3), 0, &error.encode());
    let mut expected = error;
    expected.header.hop_count = 254;
    let passed = sim.wire.last().unwrap();
    assert_eq!((passed.to, &passed.bytes), (nbma(2), &expected.encode()));
}
