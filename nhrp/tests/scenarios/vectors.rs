//! What the engine sends, byte for byte against the vectors of Cisco's form.

use nhrp::wire::{Message, checksum, ext};
use nhrp::{Input, Origin, Output, PacketType, Uniqueness};

use super::net::*;

fn vector(number: usize) -> Vec<u8> {
    let text = include_str!("../vectors/cisco-form.hex");
    let line = text.lines().filter(|line| !line.starts_with('#')).nth(number - 1).unwrap();
    (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect()
}

fn hub_of_the_vectors() -> nhrp::Config {
    let mut config = hub(1);
    config.nbma = Some(ip("192.1.4.4"));
    config.local = vec![ip("10.1.1.4")];
    config.overlay = vec![net("10.1.1.0/24")];
    config.mtu = 17916;
    config.holding_time = 7200;
    config
}

fn spoke_of_the_vectors() -> nhrp::Config {
    let mut config = hub_of_the_vectors();
    config.server = false;
    config.nbma = Some(ip("192.1.3.3"));
    config.local = vec![ip("10.1.1.3")];
    config.unique = true;
    config.nhs = vec![nhrp::Nhs {
        name: "hub".into(),
        overlay: vec![ip("10.1.1.4")],
        nbma: vec![ip("192.1.4.4")],
        ..nhrp::Nhs::default()
    }];
    config
}

/// The vectors have request ids of their own.
fn with_id(mut bytes: Vec<u8>, id: u32) -> Vec<u8> {
    bytes[24..28].copy_from_slice(&id.to_be_bytes());
    bytes[12..14].fill(0);
    let sum = checksum(&bytes);
    bytes[12..14].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn sent(engine: &mut nhrp::Engine) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(output) = engine.poll_output() {
        if let Output::Send { bytes, .. } = output {
            all.push(bytes);
        }
    }
    all
}

fn from(text: &str) -> Origin {
    Origin { link: LINK, nbma: ip(text) }
}

#[test]
fn registration_reply_is_v2_and_refusal_v6() {
    let now = nhrp::Time(0);
    let mut config = hub_of_the_vectors();
    let mut engine = nhrp::Engine::new(config.clone(), 1, now);
    engine.handle_packet(now, from("192.1.3.3"), &vector(1));
    assert_eq!(sent(&mut engine), [vector(2)]);

    // Another one holds the address, uniquely.
    config.uniqueness = Uniqueness::Nbma;
    let mut engine = nhrp::Engine::new(config, 1, now);
    engine.handle_packet(now, from("192.1.9.9"), &vector(1));
    sent(&mut engine);
    engine.handle_packet(now, from("192.1.3.3"), &vector(1));
    assert_eq!(sent(&mut engine), [vector(6)]);
}

#[test]
fn forwarded_request_is_v5() {
    let now = nhrp::Time(0);
    let mut config = hub_of_the_vectors();
    config.authentication = vec!["cisco123".into()];
    config.statics = vec![nhrp::StaticBinding {
        overlay: ip("10.1.1.2"),
        nbma: ip("192.1.2.2"),
        prefixes: vec![net("2.2.2.0/24")],
    }];
    let mut engine = nhrp::Engine::new(config, 1, now);
    engine.handle_packet(now, from("192.1.3.3"), &vector(3));
    sent(&mut engine);
    engine.handle_packet(now, from("192.1.3.3"), &vector(4));
    assert_eq!(sent(&mut engine), [vector(5)]);
}

#[test]
fn own_registration_is_v1_plus_our_extensions() {
    let now = nhrp::Time(0);
    let mut engine = nhrp::Engine::new(spoke_of_the_vectors(), 1, now);
    engine.handle_timeout(now);
    let bytes = sent(&mut engine).remove(0);
    let mut message = Message::decode(&bytes).unwrap();
    message.extensions.as_mut().unwrap().retain(|extension| extension.kind < ext::PREFIXES);
    let mut expected = Message::decode(&vector(1)).unwrap();
    expected.header.request_id = message.header.request_id;
    // RFC 2332 wants 0xff with the unique flag; Cisco writes 32.
    expected.cies[0].prefix_len = 0xff;
    assert_eq!(message, expected);
}

#[test]
fn own_requests_are_v4_v7_and_v9() {
    let now = nhrp::Time(0);
    let mut config = spoke_of_the_vectors();
    config.subnets = vec![net("172.16.3.0/24")];
    config.authentication = vec!["cisco123".into()];
    let mut engine = nhrp::Engine::new(config.clone(), 1, now);
    engine.handle_timeout(now);
    let request = Message::decode(&sent(&mut engine)[0]).unwrap();
    // A redirect as the hub would send it with the password.
    let mut indication = Message::decode(&vector(9)).unwrap();
    indication.payload[16..20].copy_from_slice(&[2, 2, 2, 2]);
    let password = nhrp::wire::authentication_value(b"cisco123");
    indication.extensions = Some(vec![nhrp::wire::OwnedExtension {
        compulsory: true,
        kind: ext::AUTHENTICATION,
        value: password,
    }]);
    engine.handle_packet(now, from("192.1.4.4"), &indication.encode());
    let bytes = sent(&mut engine).remove(0);
    let id = Message::decode(&bytes).unwrap().header.request_id;
    assert_eq!(bytes, with_id(vector(4), id));

    config.authentication = Vec::new();
    let mut engine = nhrp::Engine::new(config, 1, now);
    engine.handle_timeout(now);
    sent(&mut engine);
    engine.handle_input(now, Input::Withdraw);
    let purge = sent(&mut engine).remove(0);
    assert_eq!(purge, with_id(vector(7), request.header.request_id));

    let mut engine = nhrp::Engine::new(
        nhrp::Config {
            statics: [("10.1.1.3", "192.1.3.3", "172.16.3.0/24"), ("10.1.1.5", "192.1.5.5", "172.16.5.0/24")]
                .map(|(overlay, nbma, prefix)| nhrp::StaticBinding {
                    overlay: ip(overlay),
                    nbma: ip(nbma),
                    prefixes: vec![net(prefix)],
                })
                .to_vec(),
            ..hub_of_the_vectors()
        },
        1,
        now,
    );
    sent(&mut engine);
    let packet = Message::decode(&vector(9)).unwrap().payload;
    engine.handle_input(now, Input::Hairpin { link: LINK, packet });
    assert_eq!(sent(&mut engine), [vector(9)]);
    assert_eq!(Message::decode(&vector(9)).unwrap().header.packet_type, PacketType::TrafficIndication);
}
