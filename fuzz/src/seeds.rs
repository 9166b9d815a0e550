//! What fuzzing starts from: the vectors and captures of the codec's tests.

use crate::history::step;

const FILES: [&str; 5] = [
    include_str!("../../nhrp/tests/vectors/cisco-form.hex"),
    include_str!("../../nhrp/tests/vectors/phase3-frr844-hub.hex"),
    include_str!("../../nhrp/tests/vectors/phase3-frr844-spoke1.hex"),
    include_str!("../../nhrp/tests/vectors/phase3-frr844-spoke2.hex"),
    include_str!("../../nhrp/tests/vectors/probe-frr1071-auth.hex"),
];

/// Each packet once.
pub(crate) fn packets() -> Vec<Vec<u8>> {
    let lines = FILES.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with('#'));
    let mut packets: Vec<_> = lines.map(unhex).collect();
    packets.sort();
    packets.dedup();
    packets
}

fn unhex(line: &str) -> Vec<u8> {
    let digits: Vec<_> = line.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8)).collect()
}

/// For each kind of engine: a whole capture, each packet from its likely sender; answers to what it sent itself.
pub(crate) fn histories() -> Vec<Vec<u8>> {
    let mut histories = Vec::new();
    for who in [0x00, 0x01, 0x02, 0x03, 0x41, 0x21, 0x46, 0x0b, 0x80, 0x81, 0xd3, 0x30, 0x31] {
        for text in FILES {
            let mut history = vec![who];
            for line in text.lines().filter(|line| !line.starts_with('#')).take(12) {
                let packet = unhex(line);
                let from = sender(&packet);
                history.extend_from_slice(&[step::PACKET, from]);
                history.extend_from_slice(&(packet.len() as u16).to_be_bytes());
                history.extend_from_slice(&packet);
            }
            history.extend_from_slice(&[step::WAIT, 4, 0]);
            histories.push(history);
        }
        let ping: Vec<_> = ip_packets().swap_remove(0);
        let mut history = vec![who, step::ANSWER, 0, 0, step::ANSWER, 1, 1, 47, 0, step::RESOLVE, 2];
        history.extend_from_slice(&[step::HAIRPIN, ping.len() as u8]);
        history.extend_from_slice(&ping);
        history.extend_from_slice(&[step::ANSWER, 0, 1, 40, 0, step::WAIT, 0, 100, step::RESTART]);
        history.extend_from_slice(&[step::CONFIGURE, who ^ 0x10, step::NBMA, 3, step::WITHDRAW]);
        histories.push(history);
    }
    histories
}

/// The number that a packet's likely sender has here: its NBMA address stands in requests.
fn sender(packet: &[u8]) -> u8 {
    match packet.get(28..32) {
        Some([198, ..]) => 1,
        Some([203, ..]) => 2,
        Some([192, 1, 3, ..]) => 3,
        _ => 0,
    }
}

/// Each packet for several engines; what may come back to what they sent last; hairpins.
pub(crate) fn single_packets() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (number, packet) in (0_u8..).zip(packets()) {
        for which in [number, number.wrapping_mul(7), number.wrapping_add(40)] {
            all.push([&[which, 0, sender(&packet), 0][..], &packet].concat());
        }
    }
    for which in 0..80 {
        all.push(vec![which, 2, which % 4, 0xe0 | (which % 16)]);
        all.push(vec![which, 2, 0, 0, 47, 0, 40, 0]);
        all.extend(ip_packets().iter().map(|packet| [&[which, 3, 0, 0xe3][..], packet].concat()));
    }
    all
}

/// Starts of IP packets between two spokes.
fn ip_packets() -> Vec<Vec<u8>> {
    let mut v4 = vec![0; 84];
    v4.splice(0..1, [0x45]);
    v4.splice(12..20, [10, 255, 0, 11, 10, 255, 0, 12]);
    let mut v6 = vec![0; 80];
    v6.splice(0..1, [0x60]);
    v6.splice(8..10, [0xfd, 0x00]);
    v6.splice(24..26, [0xfd, 0x00]);
    let short = v4.iter().copied().take(19).collect();
    vec![v4, v6, short, vec![]]
}

/// Netlink datagrams as nfnetlink_log writes them: one message, several, and the end of a batch.
pub(crate) fn datagrams() -> Vec<Vec<u8>> {
    let mut datagrams: Vec<_> = ip_packets().iter().map(|packet| logged(packet)).collect();
    datagrams.push(datagrams.concat());
    // NLMSG_DONE, as at the end of a batch, and an error.
    datagrams.push(message(3, &[0; 4]));
    datagrams.push(message(2, &[0xff; 20]));
    datagrams
}

fn logged(packet: &[u8]) -> Vec<u8> {
    // AF_INET, version 0, group 1.
    let mut body = vec![2, 0, 0, 1];
    // Packet header, mark, links in and out (big endian), payload, prefix, sequence number.
    attribute(&mut body, 1, &[8, 0, 2, 0]);
    attribute(&mut body, 2, &[0, 0, 0, 9]);
    attribute(&mut body, 4, &[0, 0, 0, 7]);
    attribute(&mut body, 5, &[0, 0, 0, 7]);
    attribute(&mut body, 9, packet);
    attribute(&mut body, 10, b"dmvpn\0");
    attribute(&mut body, 12, &[0, 0, 0, 1]);
    // NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET
    message(0x0400, &body)
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&[0; 10]);
    message.extend_from_slice(body);
    message
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}
