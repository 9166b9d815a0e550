//! Messages and packets: there and back, in pieces, and what is none.

use proptest::prelude::*;
use vici::{Frames, LARGEST, Message, Packet, Value, Wrong};

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9_.-]{0,12}"
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

fn message() -> impl Strategy<Value = Message> {
    let leaf = prop_oneof![
        bytes().prop_map(Value::Text),
        prop::collection::vec(bytes(), 0..4).prop_map(Value::List),
    ];
    let value = leaf.prop_recursive(4, 32, 5, |inner| {
        prop::collection::vec((name(), inner), 0..5).prop_map(|all| Value::Section(gathered(all)))
    });
    prop::collection::vec((name(), value), 0..6).prop_map(gathered)
}

fn gathered(all: Vec<(String, Value)>) -> Message {
    let mut message = Message::new();
    for (name, value) in all {
        message.push(&name, value);
    }
    message
}

fn packet() -> impl Strategy<Value = Packet> {
    prop_oneof![
        (name(), message()).prop_map(|(name, message)| Packet::Request(name, message)),
        message().prop_map(Packet::Response),
        Just(Packet::UnknownCommand),
        name().prop_map(Packet::Register),
        name().prop_map(Packet::Unregister),
        Just(Packet::Confirm),
        Just(Packet::UnknownEvent),
        (name(), message()).prop_map(|(name, message)| Packet::Event(name, message)),
    ]
}

proptest! {
    #[test]
    fn there_and_back_in_any_pieces(packets in prop::collection::vec(packet(), 1..5), piece in 1usize..50) {
        let stream: Vec<u8> = packets.iter().flat_map(|packet| packet.frame().unwrap()).collect();
        let mut frames = Frames::default();
        let mut got = Vec::new();
        for bytes in stream.chunks(piece) {
            frames.push(bytes);
            while let Some(packet) = frames.next_packet().unwrap() {
                got.push(packet);
            }
        }
        prop_assert_eq!(got, packets);
        prop_assert!(frames.is_empty());
    }

    #[test]
    fn garbage_is_refused_and_harms_nobody(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut frames = Frames::default();
        frames.push(&bytes);
        while let Ok(Some(_)) = frames.next_packet() {}
        let _ = Message::decode(&bytes);
        // What is understood is what would be written.
        if let Ok(packet) = Packet::decode(&bytes) {
            prop_assert_eq!(&packet.frame().unwrap()[4..], &bytes[..]);
        }
    }

    #[test]
    fn what_is_cut_off_is_no_packet(packet in packet()) {
        let frame = packet.frame().unwrap();
        for end in 4..frame.len() {
            if let Ok(other) = Packet::decode(&frame[4..end]) {
                // A shorter one may stand by itself, but is another.
                prop_assert_ne!(&other, &packet);
            }
        }
    }
}

/// The example of the plugin's own README: bytes that charon reads.
#[test]
fn as_strongswan_documents_it() {
    let message = Message::new().with("key1", "value1").with_section(
        "section1",
        Message::new()
            .with_section("sub-section", Message::new().with("key2", "value2"))
            .with_list("list1", ["item1", "item2"]),
    );
    let mut want = Vec::new();
    want.extend(
        b"\x03\x04key1\x00\x06value1\x01\x08section1\x01\x0bsub-section\x03\x04key2\x00\x06value2\x02",
    );
    want.extend(b"\x04\x05list1\x05\x00\x05item1\x05\x00\x05item2\x06\x02");
    let mut got = Vec::new();
    message.encode(&mut got).unwrap();
    assert_eq!(got, want);
    let section = message.section("section1").unwrap();
    assert_eq!(section.list("list1"), ["item1", "item2"]);
    assert_eq!(section.section("sub-section").and_then(|it| it.text("key2")), Some("value2"));
    assert_eq!((section.text("list1"), section.list("none").len()), (None, 0));
}

#[test]
fn bounds_hold() {
    for length in [0, u32::MAX, u32::try_from(LARGEST).unwrap() + 1] {
        let mut frames = Frames::default();
        frames.push(&length.to_be_bytes());
        assert!(matches!(frames.next_packet(), Err(Wrong::Length(_))), "{length}");
    }
    // Two hundred thousand sections within sections fit into a frame.
    let deep: Vec<u8> = [1, 0].repeat(200_000);
    assert_eq!(Message::decode(&deep), Err(Wrong::TooDeep));
    assert!(Packet::Register("x".repeat(256)).frame().is_err());
    assert!(Packet::Response(Message::new().with("key", vec![0; 65_536])).frame().is_err());
    let list = Message::new().with_list("all", vec![vec![0; 60_000]; 10]);
    assert!(Packet::Response(list).frame().is_err(), "longer than a frame may be");
}

#[test]
fn no_value_is_shown() {
    let secret = Message::new()
        .with("data", "hunter2")
        .with_list("owners", ["hunter2"])
        .with_section("in", Message::new().with("data", "hunter2"));
    let packet = Packet::Request("load-shared".into(), secret);
    let mut frames = Frames::default();
    frames.push(&packet.frame().unwrap());
    let raw = format!("{:?}", b"hunter2").replace(['[', ']'], "");
    for shown in [format!("{packet:?}"), format!("{frames:?}")] {
        assert!(!shown.contains("hunter2") && !shown.contains(&raw), "{shown}");
        assert!(shown.contains("bytes"), "{shown}");
    }
}
