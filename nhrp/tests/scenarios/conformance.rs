//! Single rules of RFC 2332 that no longer story shows: see docs/nhrp-conformance.md.

use nhrp::PacketType;
use nhrp::wire::{Builder, Cie, Header, Message, ext, flags};

use super::net::*;

fn request(dst: &str) -> Header {
    Header {
        packet_type: PacketType::ResolutionRequest,
        hop_count: 255,
        flags: flags::ROUTER | flags::AUTHORITATIVE | flags::SOURCE_STABLE | flags::NAT,
        request_id: 41,
        src_nbma: nbma(2),
        src_proto: overlay(2),
        dst_proto: ip(dst),
    }
}

/// What the hub answers spoke 2.
fn answer(header: &Header) -> Message {
    let mut sim = Net::new(1);
    let mut config = hub(1);
    config.subnets = vec![net("10.1.0.0/16")];
    let h = sim.add(config);
    let s = sim.add(spoke(2, NO_LAN));
    sim.until(100, |sim| sim.registered(s));
    let own = Cie { holding_time: 60, ..Cie::default() };
    let packet = Builder::new(header).cie(&own).extension(true, ext::RESPONDER, &[]).finish();
    sim.inject(nbma(2), h, &packet);
    let reply = sim.wire.pop().unwrap();
    assert_eq!((reply.from, reply.to), (nbma(1), nbma(2)));
    assert!(reply.is(PacketType::ResolutionReply));
    reply.message
}

/// §5.2.2: addresses and flags of the request, D for a binding that is stable, our own prefix and holding time.
#[test]
fn a_reply_keeps_the_request_and_says_that_it_is_stable() {
    let header = request("10.1.9.9");
    let reply = answer(&header);
    let flags = header.flags | flags::DESTINATION_STABLE;
    assert_eq!(
        reply.header,
        Header { packet_type: PacketType::ResolutionReply, flags, ..header },
        "source and destination are those of the request"
    );
    assert_eq!(reply.cies.len(), 1);
    let cie = reply.cies[0];
    assert_eq!((cie.code, cie.prefix_len, cie.holding_time), (0, 16, 60));
    assert_eq!((cie.nbma, cie.proto), (Some(nbma(1)), Some(overlay(1))));
}

/// §5.2.2: "no binding exists" is one entry with code 12 and nothing else in it; not stable.
#[test]
fn no_binding_is_an_entry_of_zeros() {
    let header = request("10.255.0.77");
    let reply = answer(&header);
    assert_eq!(reply.cies, [Cie { code: 12, ..Cie::default() }]);
    assert_eq!(reply.header.flags, header.flags);
}
