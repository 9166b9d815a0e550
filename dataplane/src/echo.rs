//! ICMP echo: whether a host answers at all, by the underlay or through a tunnel.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::{Error, sys};

/// Message types (RFC 792, RFC 4443).
const REQUEST: u8 = 8;
const REPLY: u8 = 0;
const REQUEST6: u8 = 128;
const REPLY6: u8 = 129;
/// One that is lost is not the end: so many are sent.
const TRIES: u16 = 3;

/// Whom to ask, and how.
#[derive(Clone, Copy, Debug)]
pub struct Ping<'a> {
    /// An address of ours.
    pub from: IpAddr,
    /// Who is asked.
    pub to: IpAddr,
    /// By the link of this name; `None`: as the routes say.
    pub by: Option<&'a str>,
    /// Length of the whole IP packet, which nobody may cut; `None`: a short one.
    pub length: Option<u16>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An answer.
    Answer,
    /// The packet is too long for the way: an ICMP error, or our own kernel, says so.
    TooLong,
    /// Nothing.
    Nothing,
}

/// Sends ICMP echo requests until something is heard; all together take `within`.
///
/// # Errors
/// [`Error::Capability`] without CAP_NET_RAW; [`Error::Io`] while no interface has the address, or without a route.
pub async fn echo(ping: &Ping<'_>, within: Duration) -> Result<Heard, Error> {
    static LAST: AtomicU16 = AtomicU16::new(0);
    let [high, low, ..] = std::process::id().rotate_left(16).to_be_bytes();
    let id = u16::from_be_bytes([high, low]).wrapping_add(LAST.fetch_add(1, Ordering::Relaxed));
    let v6 = ping.to.is_ipv6();
    let socket = socket(ping).map_err(|e| Error::io("ICMP echo socket", "CAP_NET_RAW", e))?;
    let header = if v6 { 40 } else { 20 };
    let length = usize::from(ping.length.unwrap_or(0)).saturating_sub(header).max(8);
    let mut buffer = vec![0; length + 64];
    for sequence in 0..TRIES {
        let answered = async {
            socket.send(&request(v6, id, sequence, length)).await?;
            loop {
                let length = socket.recv(&mut buffer).await?;
                if buffer.get(..length).is_some_and(|packet| answers(packet, v6, id)) {
                    return io::Result::Ok(());
                }
            }
        };
        match tokio::time::timeout(within / u32::from(TRIES), answered).await {
            Ok(Ok(())) => return Ok(Heard::Answer),
            Ok(Err(error)) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(Heard::TooLong),
            Ok(Err(source)) => return Err(Error::Io { what: "ICMP echo", source }),
            Err(_silence) => {}
        }
    }
    Ok(Heard::Nothing)
}

/// A raw socket that hears of one host alone; std and tokio have none, and those of UDP make the same system calls.
fn socket(ping: &Ping<'_>) -> io::Result<tokio::net::UdpSocket> {
    let (domain, protocol) = match ping.to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    if let Some(link) = ping.by {
        socket.bind_device(Some(link.as_bytes()))?;
    }
    if ping.length.is_some() {
        sys::never_cut(&socket, ping.to.is_ipv6())?;
    }
    socket.bind(&SocketAddr::new(ping.from, 0).into())?;
    socket.connect(&SocketAddr::new(ping.to, 0).into())?;
    tokio::net::UdpSocket::from_std(UdpSocket::from(socket))
}

/// An echo request of this length, filled with zeros; the kernel sets the checksum of ICMPv6.
fn request(v6: bool, id: u16, sequence: u16, length: usize) -> Vec<u8> {
    let kind = if v6 { REQUEST6 } else { REQUEST };
    let ([i0, i1], [s0, s1]) = (id.to_be_bytes(), sequence.to_be_bytes());
    let sum =
        [u16::from_be_bytes([kind, 0]), id, sequence].iter().fold(0_u32, |sum, &word| sum + u32::from(word));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) & 0xffff;
    let [.., c0, c1] = if v6 { [0; 4] } else { sum.to_be_bytes() };
    let mut message = vec![kind, 0, c0, c1, i0, i1, s0, s1];
    message.resize(length.max(8), 0);
    message
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
            let request = request(false, id, sequence, 40);
            let words = request.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
            let sum: u32 = words.sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "{request:x?}");
        }
        assert_eq!(request(true, 1, 2, 0), [128, 0, 0, 0, 0, 1, 0, 2]);
        assert_eq!(request(true, 1, 2, 1000).len(), 1000);
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
