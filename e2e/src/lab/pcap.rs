//! Reads the classic pcap files that tcpdump writes, also while it still writes them.

use std::time::Duration;

use anyhow::{Result, bail};

/// One captured packet, without its link header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Since the Unix epoch, by the clock of the guest.
    pub time: Duration,
    /// What follows the link header: 0x0800 IPv4, 0x86dd IPv6, 0x2001 NHRP on a GRE link, …
    pub ethertype: u16,
    /// From the network header on, as far as it was captured.
    pub data: Vec<u8>,
}

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const ETHERNET: u32 = 1;
const RAW_BSD: u32 = 12;
const RAW: u32 = 101;
const LINUX_SLL: u32 = 113;
const LINUX_SLL2: u32 = 276;

/// All complete packets of a file. A record that is cut off at the end is left out: its writer is not done.
///
/// # Errors
/// When this is no pcap file or the link type is not known. An empty file has no packets.
pub fn parse(file: &[u8]) -> Result<Vec<Frame>> {
    let Some(header) = file.get(..24) else { return Ok(Vec::new()) };
    let little = match header.first_chunk() {
        Some(magic) if is_magic(u32::from_le_bytes(*magic)) => true,
        Some(magic) if is_magic(u32::from_be_bytes(*magic)) => false,
        _ => bail!("not a pcap file"),
    };
    let word = |bytes: &[u8], at: usize| -> Option<u32> {
        let raw: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(if little { u32::from_le_bytes(raw) } else { u32::from_be_bytes(raw) })
    };
    let nanoseconds = word(header, 0) == Some(MAGIC_NANOSECONDS);
    // The upper bits of the link type word say how a frame check sequence is stored.
    let link = word(header, 20).unwrap_or(0) & 0x0fff_ffff;
    let mut frames = Vec::new();
    let mut rest = file.get(24..).unwrap_or_default();
    while let (Some(seconds), Some(fraction), Some(length)) = (word(rest, 0), word(rest, 4), word(rest, 8)) {
        let Some(packet) = rest.get(16..).and_then(|r| r.get(..length as usize)) else { break };
        rest = rest.get(16 + packet.len()..).unwrap_or_default();
        let nanos = if nanoseconds { fraction } else { fraction.saturating_mul(1000) };
        let time = Duration::from_secs(seconds.into()) + Duration::from_nanos(nanos.into());
        if let Some((ethertype, data)) = strip(link, packet)? {
            frames.push(Frame { time, ethertype, data: data.to_vec() });
        }
    }
    Ok(frames)
}

fn is_magic(word: u32) -> bool {
    word == MAGIC_MICROSECONDS || word == MAGIC_NANOSECONDS
}

/// Takes the link header off; `None` for a packet too short for one.
fn strip(link: u32, packet: &[u8]) -> Result<Option<(u16, &[u8])>> {
    let split = |type_at: usize, length: usize| {
        let ethertype: [u8; 2] = packet.get(type_at..type_at + 2)?.try_into().ok()?;
        Some((u16::from_be_bytes(ethertype), packet.get(length..)?))
    };
    Ok(match link {
        ETHERNET => split(12, 14),
        LINUX_SLL => split(14, 16),
        LINUX_SLL2 => split(0, 20),
        RAW | RAW_BSD => packet.first().map(|b| (if b >> 4 == 6 { 0x86dd } else { 0x0800 }, packet)),
        other => bail!("link type {other} is not known"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(link: u32, packets: &[&[u8]]) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [MAGIC_MICROSECONDS, 0x0004_0002, 0, 0, 65535, link] {
            file.extend(word.to_le_bytes());
        }
        for (i, packet) in packets.iter().enumerate() {
            let length = u32::try_from(packet.len()).unwrap();
            for word in [100 + u32::try_from(i).unwrap(), 250_000, length, length] {
                file.extend(word.to_le_bytes());
            }
            file.extend(*packet);
        }
        file
    }

    #[test]
    fn takes_each_link_header_off() {
        let mut ethernet = vec![0; 12];
        ethernet.extend([0x08, 0x00, 0x45, 1, 2]);
        let mut cooked = vec![0; 14];
        cooked.extend([0x20, 0x01, 7, 8]);
        let mut cooked2 = vec![0x86, 0xdd];
        cooked2.resize(20, 0);
        cooked2.push(0x60);
        for (link, packet, ethertype, data) in [
            (ETHERNET, ethernet, 0x0800, vec![0x45, 1, 2]),
            (LINUX_SLL, cooked, 0x2001, vec![7, 8]),
            (LINUX_SLL2, cooked2, 0x86dd, vec![0x60]),
            (RAW, vec![0x60, 9], 0x86dd, vec![0x60, 9]),
        ] {
            let frames = parse(&file(link, &[&packet])).unwrap();
            let time = Duration::from_millis(100_250);
            assert_eq!(frames, vec![Frame { time, ethertype, data }], "link type {link}");
        }
    }

    #[test]
    fn a_file_that_is_still_being_written_gives_what_is_complete() {
        let whole = file(RAW, &[&[0x45; 20], &[0x45; 30]]);
        for end in 0..=whole.len() {
            let expected = match end {
                _ if end >= whole.len() => 2,
                _ if end >= 24 + 16 + 20 => 1,
                _ => 0,
            };
            assert_eq!(parse(&whole[..end]).unwrap().len(), expected, "cut at {end}");
        }
    }

    #[test]
    fn refuses_what_is_no_capture() {
        assert!(parse(&[0x50; 64]).is_err());
        assert!(parse(&file(9999, &[&[1]])).is_err());
    }
}
