//! ICMP errors about GRE packets of ours: the only word that a host has for somebody whose GRE key it does not know.
//!
//! Linux answers GRE that no tunnel takes with "port unreachable" (`gre_rcv`), and passes by such an answer when it gets
//! one (`ipgre_err`). A raw socket sees it all the same.

use std::io::{self, Read};
use std::net::Ipv4Addr;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::{Error, sys};

/// Longest part of an ICMP message that is read, in bytes: RFC 1812 §4.3.2.3 wants no more than 576.
const MESSAGE: usize = 576;
const GRE: u8 = 47;
const UNREACHABLE: u8 = 3;
/// The host has no GRE at all, …
const PROTOCOL: u8 = 2;
/// … or no tunnel with this key.
const PORT: u8 = 3;
/// GRE flags (RFC 2784, RFC 2890).
const CHECKSUM: u16 = 0x8000;
const KEY: u16 = 0x2000;

/// A host says that no tunnel of it takes what we sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GreRefused {
    /// The host: where we sent to, and who answered.
    pub by: Ipv4Addr,
    /// Our address.
    pub from: Ipv4Addr,
    /// Key of the packet.
    pub key: Option<u32>,
}

/// A socket that hears of them.
#[derive(Debug)]
pub struct IcmpSocket(AsyncFd<Socket>);

impl IcmpSocket {
    /// Opens it.
    ///
    /// # Errors
    /// [`Error::Capability`] without CAP_NET_RAW.
    pub fn open() -> Result<Self, Error> {
        Self::socket().map(Self).map_err(|e| Error::io("ICMP socket", "CAP_NET_RAW", e))
    }

    fn socket() -> io::Result<AsyncFd<Socket>> {
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4))?;
        socket.attach_filter(&unreachable())?;
        sys::watched(socket)
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn receive(&self) -> Result<GreRefused, Error> {
        let mut buffer = [0; MESSAGE];
        loop {
            let mut guard =
                self.0.readable().await.map_err(|source| Error::Io { what: "receive ICMP", source })?;
            match guard.try_io(|fd| fd.get_ref().read(&mut buffer)) {
                Ok(Ok(length)) => {
                    if let Some(refused) = buffer.get(..length).and_then(parse) {
                        return Ok(refused);
                    }
                }
                Ok(Err(source)) => return Err(Error::Io { what: "receive ICMP", source }),
                Err(_would_block) => {}
            }
        }
    }
}

/// Lets nothing pass but "unreachable": classic BPF over the packet from its IP header on.
fn unreachable() -> [SockFilter; 5] {
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const LOAD_BYTE_BEHIND: u16 = 0x50;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_HEADER_LENGTH, 0, 0, 0),
        SockFilter::new(LOAD_BYTE_BEHIND, 0, 0, 0),
        SockFilter::new(JUMP_EQUAL, 0, 1, UNREACHABLE.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Reads an IP packet with an ICMP error; `None` unless the addressee of a GRE packet says that no tunnel takes it.
fn parse(packet: &[u8]) -> Option<GreRefused> {
    let (outer, icmp) = header(packet)?;
    let (fixed, quoted) = icmp.split_first_chunk::<8>()?;
    let [kind, code, ..] = *fixed;
    if kind != UNREACHABLE || !matches!(code, PROTOCOL | PORT) {
        return None;
    }
    let (inner, gre) = header(quoted)?;
    if inner.protocol != GRE || inner.to != outer.from {
        return None;
    }
    let (fixed, rest) = gre.split_first_chunk::<4>()?;
    let [f0, f1, ..] = *fixed;
    let flags = u16::from_be_bytes([f0, f1]);
    let rest = if flags & CHECKSUM != 0 { rest.get(4..)? } else { rest };
    let key = match flags & KEY != 0 {
        true => Some(u32::from_be_bytes(*rest.first_chunk::<4>()?)),
        false => None,
    };
    Some(GreRefused { by: inner.to, from: inner.from, key })
}

struct Ip {
    protocol: u8,
    from: Ipv4Addr,
    to: Ipv4Addr,
}

/// An IPv4 header, and what stands behind it.
fn header(packet: &[u8]) -> Option<(Ip, &[u8])> {
    let fixed = packet.first_chunk::<20>()?;
    let [version, .., s0, s1, s2, s3, d0, d1, d2, d3] = *fixed;
    if version >> 4 != 4 {
        return None;
    }
    let rest = packet.get(usize::from(version & 0xf) * 4..)?;
    let (from, to) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
    Some((Ip { protocol: *fixed.get(9)?, from, to }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    const HUB: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn ip(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&from.octets());
        packet[16..20].copy_from_slice(&to.octets());
        packet.extend_from_slice(rest);
        packet
    }

    fn error(by: Ipv4Addr, kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
        let mut icmp = vec![kind, code, 0, 0, 0, 0, 0, 0];
        icmp.extend_from_slice(quoted);
        ip(1, by, US, &icmp)
    }

    #[test]
    fn a_refusal_is_read_with_its_key_and_nothing_else_is_one() {
        let keyed = ip(GRE, US, HUB, &[0x20, 0, 0x20, 0x01, 0, 0, 0, 100]);
        let plain = ip(GRE, US, HUB, &[0, 0, 0x20, 0x01]);
        let refused = |key| Some(GreRefused { by: HUB, from: US, key });
        assert_eq!(parse(&error(HUB, 3, 3, &keyed)), refused(Some(100)));
        assert_eq!(parse(&error(HUB, 3, 3, &plain)), refused(None));
        let summed = ip(GRE, US, HUB, &[0xa0, 0, 0x20, 0x01, 1, 2, 3, 4, 0, 0, 0, 7]);
        assert_eq!(parse(&error(HUB, 3, 3, &summed)), refused(Some(7)));
        assert_eq!(
            parse(&error(Ipv4Addr::new(192, 0, 2, 1), 3, 3, &keyed)),
            None,
            "from a router on the way"
        );
        assert_eq!(parse(&error(HUB, 3, 2, &keyed)), refused(Some(100)), "it knows no GRE at all");
        assert_eq!(parse(&error(HUB, 3, 1, &keyed)), None);
        assert_eq!(parse(&error(HUB, 11, 0, &keyed)), None);
        assert_eq!(parse(&error(HUB, 3, 3, &ip(17, US, HUB, &[0; 8]))), None);
        let whole = error(HUB, 3, 3, &keyed);
        assert!((0..whole.len()).all(|cut| parse(&whole[..cut]).is_none()));
    }
}
