//! The codec.

use nhrp::wire::{
    Assignment, Authentication, Builder, Embedded, Extension, Groups, HubChunk, Message, Packet, PrefixChunk,
    Software,
};

/// Reads the bytes as they are, and once more with size and checksum made to fit.
///
/// # Panics
/// If a packet that was read cannot be written and read again as the same.
pub fn decode(bytes: &[u8]) {
    read(bytes);
    let mut repaired = bytes.to_vec();
    crate::repair(&mut repaired);
    read(&repaired);
}

fn read(bytes: &[u8]) {
    let _ = Embedded::parse(bytes);
    let _ = PrefixChunk::decode(bytes);
    let Ok(packet) = Packet::parse(bytes) else { return };
    packet.extensions().for_each(|extension| look_into(&extension));
    for cie in packet.cies() {
        let _ = cie.prefix_of(packet.header().src_proto);
    }
    let forwarded = Builder::forward(&packet, packet.header().hop_count.saturating_sub(1)).finish();
    assert!(Packet::parse(&forwarded).is_ok(), "cannot be passed on");

    let message = Message::decode(bytes).expect("what the view takes, the owner takes");
    let again = message.encode();
    let mut expected = message;
    let odd = again.len() % 2 == 1;
    assert!(!odd || again.last() == Some(&0), "an odd packet that old peers cannot check");
    let read = Message::decode(&again).expect("cannot be read again");
    if read.payload.len() + 1 == expected.payload.len() {
        // Never sent: the last byte of an odd payload.
        expected.payload.pop();
    }
    assert_eq!(read, expected);
}

fn look_into(extension: &Extension<'_>) {
    let entries = extension.cies().map(Iterator::count);
    assert!(!(extension.device_capabilities().is_some() && entries.is_ok()), "two meanings of {extension:?}");
    let _ = Authentication::read(extension.value);
    if let Ok(hubs) = HubChunk::decode(extension.value) {
        assert_eq!(HubChunk::decode(&hubs.encode()), Ok(hubs));
    }
    if let Some(groups) = Groups::decode(extension.value) {
        assert_eq!(Groups::decode(&groups.encode()), Some(groups));
    }
    if let Some(software) = Software::decode(extension.value) {
        assert_eq!(Software::decode(&software.encode()), Some(software));
    }
    if let Some(assignment) = Assignment::decode(extension.value) {
        assert_eq!(Assignment::decode(&assignment.encode()), Some(assignment));
    }
    if let Ok(chunk) = PrefixChunk::decode(extension.value) {
        assert_eq!(PrefixChunk::decode(&chunk.encode()), Ok(chunk));
    }
}
