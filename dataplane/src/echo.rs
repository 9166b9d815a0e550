//! ICMP echo: whether a host answers at all, by the underlay or through a tunnel.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;

/// Message types (RFC 792, RFC 4443).
const REQUEST: u8 = 8;
const REPLY: u8 = 0;
const REQUEST6: u8 = 128;
const REPLY6: u8 = 129;
/// One that is lost is not the end: so many are sent.
const TRIES: u16 = 3;

/// Sends ICMP echo requests from an address of ours, by the link named `by` or as the routes say, until one is answered;
/// false: none was, all together took `within`.
///
/// # Errors
/// [`Error::Capability`] without CAP_NET_RAW; [`Error::Io`] while no interface has the address, or without a route.
pub async fn echo(from: IpAddr, to: IpAddr, by: Option<&str>, within: Duration) -> Result<bool, Error> {
    static LAST: AtomicU16 = AtomicU16::new(0);
    let [high, low, ..] = std::process::id().rotate_left(16).to_be_bytes();
    let id = u16::from_be_bytes([high, low]).wrapping_add(LAST.fetch_add(1, Ordering::Relaxed));
    let socket = socket(from, to, by).map_err(|e| Error::io("ICMP echo socket", "CAP_NET_RAW", e))?;
    let failed = |source| Error::Io { what: "ICMP echo", source };
    let mut buffer = [0; 256];
    for sequence in 0..TRIES {
        socket.send(&request(to.is_ipv6(), id, sequence)).await.map_err(failed)?;
        let answered = async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                if buffer.get(..length).is_some_and(|packet| answers(packet, to.is_ipv6(), id)) {
                    return io::Result::Ok(());
                }
            }
        };
        if let Ok(answered) = tokio::time::timeout(within / u32::from(TRIES), answered).await {
            return answered.map(|()| true).map_err(failed);
        }
    }
    Ok(false)
}

/// A raw socket that hears of one host alone; std and tokio have none, and those of UDP make the same system calls.
fn socket(from: IpAddr, to: IpAddr, by: Option<&str>) -> io::Result<tokio::net::UdpSocket> {
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    if let Some(link) = by {
        socket.bind_device(Some(link.as_bytes()))?;
    }
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    tokio::net::UdpSocket::from_std(UdpSocket::from(socket))
}

/// An echo request; the kernel sets the checksum of ICMPv6.
fn request(v6: bool, id: u16, sequence: u16) -> [u8; 8] {
    let kind = if v6 { REQUEST6 } else { REQUEST };
    let ([i0, i1], [s0, s1]) = (id.to_be_bytes(), sequence.to_be_bytes());
    let sum =
        [u16::from_be_bytes([kind, 0]), id, sequence].iter().fold(0_u32, |sum, &word| sum + u32::from(word));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) & 0xffff;
    let [.., c0, c1] = if v6 { [0; 4] } else { sum.to_be_bytes() };
    [kind, 0, c0, c1, i0, i1, s0, s1]
}

/// Whether a packet as a raw socket brings it (of IPv4 with its header) is an answer to what has this number.
fn answers(packet: &[u8], v6: bool, id: u16) -> bool {
    let (header, reply) = match v6 {
        true => (0, REPLY6),
        false => (packet.first().map_or(0, |first| usize::from(first & 0xf) * 4), REPLY),
    };
    let icmp = packet.get(header..).and_then(|icmp| icmp.first_chunk::<8>());
    icmp.is_some_and(|[kind, code, _, _, i0, i1, ..]| {
        (*kind, *code) == (reply, 0) && u16::from_be_bytes([*i0, *i1]) == id
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_checksum_makes_all_words_one() {
        for (id, sequence) in [(0, 0), (0xffff, 2), (0x1234, 0xf7ff), (0xf800, 0)] {
            let request = request(false, id, sequence);
            let words = request.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
            let sum: u32 = words.sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "{request:x?}");
        }
        assert_eq!(request(true, 1, 2), [128, 0, 0, 0, 0, 1, 0, 2]);
    }

    #[test]
    fn an_answer_is_that_to_our_own_number() {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet.extend([0, 0, 9, 9, 0x12, 0x34, 0, 0]);
        assert!(answers(&packet, false, 0x1234));
        assert!(!answers(&packet, false, 0x1235));
        assert!((0..packet.len()).all(|cut| !answers(&packet[..cut], false, 0x1234)));
        packet[20] = 8;
        assert!(!answers(&packet, false, 0x1234), "a request of somebody else's");
        assert!(answers(&[129, 0, 0, 0, 0x12, 0x34, 0, 0], true, 0x1234));
    }
}
