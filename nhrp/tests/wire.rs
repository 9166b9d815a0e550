//! The codec: vectors, captures, damage, and decode(encode(x)) = x.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nhrp::PacketType;
use nhrp::wire::{
    Builder, Cie, CieCode, DecodeError, DeviceCapabilities, Embedded, ErrorCode, Extension, Header, Message,
    OwnedExtension, Packet, PrefixChunk, checksum, ext, flags, list_flags,
};
use proptest::prelude::*;

/// Comment and packet, from a file of vectors.
fn vectors(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut comment = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        match line.strip_prefix('#') {
            Some(rest) => comment = rest.trim().to_owned(),
            None => found.push((comment.clone(), unhex(line))),
        }
    }
    found
}

fn unhex(line: &str) -> Vec<u8> {
    (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect()
}

fn cisco_form() -> Vec<(String, Vec<u8>)> {
    let all = vectors(include_str!("vectors/cisco-form.hex"));
    assert_eq!(all.len(), 10);
    all
}

fn captures() -> Vec<(String, Vec<u8>)> {
    let files = [
        include_str!("vectors/phase3-frr844-hub.hex"),
        include_str!("vectors/phase3-frr844-spoke1.hex"),
        include_str!("vectors/phase3-frr844-spoke2.hex"),
        include_str!("vectors/probe-frr1071-auth.hex"),
    ];
    files.into_iter().flat_map(vectors).collect()
}

#[test]
fn vectors_decode_and_encode_to_the_same_bytes() {
    for (name, bytes) in cisco_form() {
        let message = Message::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = message.encode();
        if bytes.len() % 2 == 1 {
            // Never sent: the last byte of the payload goes, so that all peers agree on the sum.
            assert_eq!(again.len(), bytes.len() - 1, "{name}");
            assert_eq!(Message::decode(&again).unwrap().header, message.header, "{name}");
        } else {
            assert_eq!(again, bytes, "{name}");
        }
    }
}

#[test]
fn what_the_vectors_say() {
    let all = cisco_form();
    let packet = |at: usize| Packet::parse(&all[at].1).unwrap();
    let v1 = packet(0);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(
        *v1.header(),
        Header {
            packet_type: PacketType::RegistrationRequest,
            hop_count: 255,
            flags: flags::REGISTRATION_UNIQUE | flags::NAT,
            request_id: 3,
            src_nbma: address("192.1.3.3"),
            src_proto: address("10.1.1.3"),
            dst_proto: address("10.1.1.4"),
        }
    );
    let cie = v1.cies().next().unwrap();
    assert_eq!((cie.prefix_len, cie.mtu, cie.holding_time, cie.nbma), (32, 17916, 7200, None));
    assert_eq!(cie.prefix_of(address("10.1.1.3")), "10.1.1.3/32".parse().unwrap());
    let nat = v1.extension(ext::NAT).unwrap().cies().unwrap().next().unwrap();
    assert_eq!((nat.nbma, nat.proto), (Some(address("192.1.4.4")), Some(address("10.1.1.4"))));
    assert_eq!(packet(2).extension(ext::AUTHENTICATION).unwrap().value, b"\x00\x00\x00\x01cisco123");
    assert_eq!(packet(3).header().flags, 0xc802);
    assert_eq!(packet(4).extension(ext::FORWARD_RECORD).unwrap().cies().unwrap().count(), 1);
    let nak = packet(5).cies().next().unwrap();
    assert_eq!((CieCode::from(nak.code), nak.holding_time), (CieCode::AlreadyRegistered, 0));
    assert_eq!(packet(6).cies().next().unwrap().proto, Some(address("10.1.1.3")));
    let error = packet(7);
    assert_eq!(error.header().error(), (ErrorCode::AuthenticationFailure, 0));
    let embedded = Embedded::parse(error.payload());
    // The vector embeds 28 bytes: the fields, but no addresses.
    assert_eq!(embedded, Err(DecodeError::Bounds));
    assert_eq!(packet(8).payload().len(), 84);
    assert!(!packet(8).has_extensions());
    assert_eq!(packet(9).payload().len(), 29);
}

#[test]
fn odd_length_with_either_sum() {
    let (_, v10) = cisco_form().pop().unwrap();
    assert_eq!(v10.len() % 2, 1);
    assert_eq!(v10[12..14], [0x76, 0xed]);
    assert!(Packet::parse(&v10).is_ok());
    let mut other = v10.clone();
    other[12..14].copy_from_slice(&[0x7e, 0xe5]);
    assert!(Packet::parse(&other).is_ok(), "the sum of FRR before 10.7 and OpenNHRP");
    other[13] ^= 1;
    assert_eq!(Packet::parse(&other).unwrap_err(), DecodeError::Checksum);
}

/// Bytes after `ar$pktsz` are padding; fewer than it are not.
#[test]
fn padding_is_ignored() {
    for (name, bytes) in cisco_form() {
        let mut padded = bytes.clone();
        padded.extend_from_slice(&[0xee; 7]);
        assert_eq!(Message::decode(&padded).unwrap(), Message::decode(&bytes).unwrap(), "{name}");
    }
}

#[test]
fn every_truncation_is_an_error() {
    for (name, bytes) in cisco_form().into_iter().chain(captures()) {
        for length in 0..bytes.len() {
            assert!(Packet::parse(&bytes[..length]).is_err(), "{name} at {length}");
            let _ = Embedded::parse(&bytes[..length]);
        }
    }
}

/// As damaged on the way (the sum no longer fits), and as sent so by somebody (it does).
#[test]
fn every_changed_byte_is_an_error_or_a_packet() {
    let mut readable = 0;
    for (name, bytes) in cisco_form() {
        for at in 0..bytes.len() {
            for bits in 1..=255u8 {
                readable += usize::from(changed_byte(&name, &bytes, at, bits));
            }
        }
    }
    assert!(readable > 10_000, "only {readable} changed packets could be read");
}

/// The captures hold most packets twice, as seen from both ends.
#[test]
fn every_changed_byte_of_the_captures_is_an_error_or_a_packet() {
    let captured: BTreeSet<_> = captures().into_iter().map(|(_, bytes)| bytes).collect();
    assert!(captured.len() > 60);
    let mut readable = 0;
    for bytes in captured.iter().filter(|bytes| Packet::parse(bytes).is_ok()) {
        for at in 0..bytes.len() {
            for bits in (0..8).map(|bit| 1 << bit).chain([0xff, bytes[at] ^ 0xff, bytes[at]]) {
                if bits != 0 {
                    readable += usize::from(changed_byte("captured", bytes, at, bits));
                }
            }
        }
    }
    assert!(readable > 10_000, "only {readable} changed packets could be read");
}

/// Whether the packet can still be read when its sum is made to fit.
fn changed_byte(name: &str, bytes: &[u8], at: usize, bits: u8) -> bool {
    let mut changed = bytes.to_vec();
    changed[at] ^= bits;
    if !(10..14).contains(&at) {
        // The size decides which bytes are summed up.
        assert!(Packet::parse(&changed).is_err(), "{name}: one changed byte fits no sum, at {at}");
    }
    let _ = Embedded::parse(&changed);
    repair(&mut changed);
    let Ok(message) = Message::decode(&changed) else { return false };
    let again = message.encode();
    assert!(Packet::parse(&again).is_ok(), "{name} at {at}");
    true
}

fn repair(bytes: &mut [u8]) {
    let size = usize::from(u16::from_be_bytes([bytes[10], bytes[11]]));
    if size < 20 || size > bytes.len() {
        return;
    }
    bytes[12..14].fill(0);
    let sum = checksum(&bytes[..size]);
    bytes[12..14].copy_from_slice(&sum.to_be_bytes());
}

/// All that FRR sent, and byte for byte what we would send of it.
#[test]
fn captures_decode_and_encode_to_the_same_bytes() {
    let mut seen = BTreeMap::new();
    let mut refused = Vec::new();
    for (name, bytes) in captures() {
        let message = match Message::decode(&bytes) {
            Ok(message) => message,
            Err(error) => {
                refused.push(error);
                continue;
            }
        };
        *seen.entry(message.header.packet_type).or_insert(0) += 1;
        let again = message.encode();
        if bytes.len() % 2 == 1 && bytes.last() != Some(&0) {
            assert_eq!(again.len(), bytes.len() - 1, "{name}");
        } else {
            assert_eq!(again, bytes, "{name}");
        }
    }
    assert!(seen[&PacketType::RegistrationRequest] >= 20, "{seen:?}");
    assert!(seen[&PacketType::ResolutionReply] >= 10, "{seen:?}");
    assert!(seen[&PacketType::TrafficIndication] >= 5, "{seen:?}");
    assert!(seen[&PacketType::ErrorIndication] >= 5, "{seen:?}");
    // Probes with a damaged packet on purpose.
    assert_eq!(refused, [DecodeError::Checksum, DecodeError::Version(2), DecodeError::Type(42)]);
}

/// FRR's own errors: header and addresses of the packet in error, no more.
#[test]
fn captured_errors_name_the_request() {
    let mut named = 0;
    for (name, bytes) in captures() {
        let Ok(packet) = Packet::parse(&bytes) else { continue };
        if packet.header().packet_type == PacketType::ErrorIndication {
            let embedded =
                Embedded::parse(packet.payload()).unwrap_or_else(|error| panic!("{name}: {error}"));
            // It even answers errors with errors.
            named += usize::from(embedded.header.packet_type != PacketType::ErrorIndication);
        }
    }
    assert!(named >= 5);
}

#[test]
fn legacy_codes_read_as_the_rfc_s() {
    assert_eq!(ErrorCode::from(2), ErrorCode::Loop);
    assert_eq!(u16::from(ErrorCode::Loop), 3);
    assert_eq!(CieCode::from(11), CieCode::NoBinding);
    assert_eq!(u8::from(CieCode::NoBinding), 12);
    for code in 0..=255u8 {
        if code != 11 {
            assert_eq!(u8::from(CieCode::from(code)), code);
        }
        if code != 2 {
            assert_eq!(u16::from(ErrorCode::from(u16::from(code))), u16::from(code));
        }
    }
}

/// One host: 0 and 0xff (RFC 2332), the host length and more (Cisco); the rest is a prefix.
#[test]
fn prefix_lengths_are_normalised() {
    for (host, address) in [(32_u8, "10.1.1.3"), (128, "fd00::3")] {
        let address: IpAddr = address.parse().unwrap();
        let prefix = |prefix_len| Cie { prefix_len, ..Cie::default() }.prefix_of(address);
        for one in [0, host, host + 1, 0xff] {
            assert_eq!(prefix(one), ipnet::IpNet::from(address), "{one}");
        }
        assert_eq!(prefix(8), format!("{address}/8").parse::<ipnet::IpNet>().unwrap().trunc());
    }
}

/// Extension 9: a list of entries with Cisco, eight bytes of bits with RFC 2735.
#[test]
fn nat_address_or_device_capabilities() {
    let cie = Cie { nbma: Some(IpAddr::from([192, 0, 2, 1])), ..Cie::default() };
    let header = *Packet::parse(&cisco_form()[0].1).unwrap().header();
    let build = Builder::new(&header).extension_cies(false, ext::NAT, &[cie]);
    let bits = [0x80, 0, 0, 0, 0, 0, 0, 1];
    let bytes = build.extension(false, ext::NAT, &[]).extension(false, ext::NAT, &bits).finish();
    let packet = Packet::parse(&bytes).unwrap();
    let all: Vec<_> = packet.extensions().collect();
    assert_eq!(all.iter().map(Extension::is_nat).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(all[0].cies().unwrap().collect::<Vec<_>>(), [cie]);
    let capabilities = DeviceCapabilities { source: 0x8000_0000, destination: 1 };
    assert_eq!(all[2].device_capabilities(), Some(capabilities));
    assert!(all[2].cies().is_err());
}

#[test]
fn lengths_that_contradict_each_other() {
    let (_, v1) = cisco_form().swap_remove(0);
    let with = |at: usize, value: u8| {
        let mut bytes = v1.clone();
        bytes[at] = value;
        repair(&mut bytes);
        Packet::parse(&bytes).unwrap_err()
    };
    assert_eq!(with(16, 0), DecodeError::Version(0));
    assert_eq!(with(17, 9), DecodeError::Type(9));
    assert_eq!(with(1, 3), DecodeError::AddressFamily(3));
    assert_eq!(with(2, 0x09), DecodeError::Protocol(0x0900));
    assert_eq!(with(18, 5), DecodeError::AddressLength(5));
    assert_eq!(with(20, 16), DecodeError::AddressLength(16));
    assert_eq!(with(15, 92), DecodeError::Bounds, "extensions begin at the end");
    assert_eq!(with(15, 30), DecodeError::Bounds, "extensions begin inside the fixed fields");
    assert_eq!(with(15, 50), DecodeError::Cie, "extensions begin inside an entry");
    assert_eq!(with(11, 93), DecodeError::Bounds, "longer than received");
    assert_eq!(with(55, 200), DecodeError::Extension);
}

#[test]
fn damaged_prefix_lists() {
    let prefixes = vec!["10.20.0.0/16".parse().unwrap(), "fd00:1::/48".parse().unwrap()];
    let next_hops =
        prefixes.iter().copied().zip(["10.255.0.12".parse().unwrap(), "fd00:255::12".parse().unwrap()]);
    let plain = PrefixChunk {
        flags: list_flags::FIRST | list_flags::WANT,
        chunk: 7,
        generation: 0xdead_beef,
        prefixes: prefixes.clone(),
        next_hops: BTreeMap::new(),
    };
    let with_next_hops = PrefixChunk { next_hops: next_hops.collect(), ..plain.clone() };
    for (chunk, whole) in [(plain, [8, 16]), (with_next_hops, [8, 20])] {
        let value = chunk.encode();
        assert_eq!(value.len() % 2, 0);
        assert_eq!(PrefixChunk::decode(&value), Ok(chunk));
        for length in (0..value.len()).filter(|length| !whole.contains(length)) {
            assert_eq!(PrefixChunk::decode(&value[..length]), Err(DecodeError::PrefixList), "{length}");
        }
        for (at, bad) in [(0, 2), (8, 5), (9, 33)] {
            let mut damaged = value.clone();
            damaged[at] = bad;
            assert_eq!(PrefixChunk::decode(&damaged), Err(DecodeError::PrefixList));
        }
    }
}

fn address(v4: bool) -> BoxedStrategy<IpAddr> {
    if v4 {
        any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
    } else {
        any::<[u8; 16]>().prop_map(IpAddr::from).boxed()
    }
}

fn any_cie() -> impl Strategy<Value = Cie> {
    let maybe = || proptest::option::of(any::<bool>().prop_flat_map(address));
    (any::<(u8, u8, u16, u16, u8)>(), maybe(), maybe()).prop_map(|(numbers, nbma, proto)| {
        let (code, prefix_len, mtu, holding_time, preference) = numbers;
        Cie { code, prefix_len, mtu, holding_time, preference, nbma, proto }
    })
}

fn any_extension() -> impl Strategy<Value = OwnedExtension> {
    let value = proptest::collection::vec(any::<u8>(), 0..40);
    (any::<bool>(), 1..0x4000u16, value).prop_map(|(compulsory, kind, value)| OwnedExtension {
        compulsory,
        kind,
        value,
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    let families = (any::<bool>(), any::<bool>());
    families.prop_flat_map(|(nbma_v4, proto_v4)| {
        let addresses = (address(nbma_v4), address(proto_v4), address(proto_v4));
        let numbers = (0..8usize, any::<u8>(), any::<u16>(), any::<u32>());
        let lists = (
            proptest::collection::vec(any_cie(), 0..5),
            proptest::collection::vec(any::<u8>(), 0..200),
            proptest::option::of(proptest::collection::vec(any_extension(), 0..5)),
        );
        (addresses, numbers, lists).prop_map(|((src_nbma, src_proto, dst_proto), numbers, lists)| {
            let (packet_type, hop_count, flags, request_id) = numbers;
            let packet_type = PacketType::ALL[packet_type];
            let (cies, mut payload, extensions) = lists;
            // Odd ones lose a byte on purpose.
            payload.truncate(payload.len() & !1);
            let has_cies = packet_type.has_cies();
            Message {
                header: Header { packet_type, hop_count, flags, request_id, src_nbma, src_proto, dst_proto },
                cies: if has_cies { cies } else { Vec::new() },
                payload: if has_cies { Vec::new() } else { payload },
                extensions,
            }
        })
    })
}

proptest! {
    #[test]
    fn decode_of_encode_is_the_same(message in any_message()) {
        let bytes = message.encode();
        prop_assert!(bytes.len() % 2 == 0 || bytes.last() == Some(&0), "an odd packet that old peers cannot check");
        prop_assert_eq!(Message::decode(&bytes), Ok(message));
    }

    #[test]
    fn any_bytes_are_an_error_or_a_packet(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::decode(&bytes);
        let _ = Embedded::parse(&bytes);
        let _ = PrefixChunk::decode(&bytes);
        // With a plausible start, so that the lists are reached.
        if let [a0, a1, p0, p1, rest @ ..] = bytes.as_mut_slice() {
            (*a0, *a1, *p0, *p1) = (0, 1, 8, 0);
            if rest.len() > 20 {
                rest[12] = 1;
                rest[13] = 1 + rest[13] % 8;
                rest[14] = 4;
                rest[15] = 0;
                rest[16] = 4;
                rest[17] = 4;
                let size = (rest.len() + 4) as u16;
                rest[6..8].copy_from_slice(&size.to_be_bytes());
                rest[10] = 0;
            }
        }
        if bytes.len() >= 20 {
            repair(&mut bytes);
        }
        let _ = Message::decode(&bytes);
    }
}
