//! ICMP errors about GRE packets of ours: the only word that a host has for somebody whose GRE key it does not know.
//!
//! Linux answers GRE that no tunnel takes with "port unreachable" (`gre_rcv`), and passes by such an answer when it gets
//! one (`ipgre_err`, `ip6gre_err`). A raw socket sees it all the same. A link in metadata mode takes GRE of any key, so that
//! its host answers nobody: [`refuse`] says in its place what the kernel would say without it.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::{Error, sys};

/// Longest part of an ICMP message that is read, in bytes: RFC 1812 §4.3.2.3 wants no more than 576.
const MESSAGE: usize = 576;
const GRE: u8 = 47;
/// Room for messages that wait, in bytes: of a flood no more than what is soon read.
const RECEIVE_BUFFER: usize = 16 << 10;
/// ICMPv6 (RFC 4443): destination unreachable, port unreachable; parameter problem, unknown next header.
const UNREACHABLE6: u8 = 1;
const PORT6: u8 = 4;
const PARAMETER6: u8 = 4;
const NEXT_HEADER6: u8 = 1;
/// Bytes of an IPv6 header.
const HEADER6: usize = 40;
/// Most of a packet that is quoted: with all headers no more than what every link carries (RFC 4443 §2.4).
const QUOTED: usize = 1280 - 2 * HEADER6 - 8;
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
    pub by: IpAddr,
    /// Our address.
    pub from: IpAddr,
    /// Key of the packet.
    pub key: Option<u32>,
}

/// A socket that hears of them.
#[derive(Debug)]
pub struct IcmpSocket {
    socket: AsyncFd<Socket>,
    v6: bool,
}

impl IcmpSocket {
    /// Opens it, for an underlay of IPv6 or of IPv4.
    ///
    /// # Errors
    /// [`Error::Capability`] without CAP_NET_RAW.
    pub fn open(v6: bool) -> Result<Self, Error> {
        let socket = Self::socket(v6).map_err(|e| Error::io("ICMP socket", "CAP_NET_RAW", e))?;
        Ok(Self { socket, v6 })
    }

    fn socket(v6: bool) -> io::Result<AsyncFd<Socket>> {
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = match v6 {
            true => Socket::new(Domain::IPV6, kind, Some(Protocol::ICMPV6))?,
            false => Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4))?,
        };
        if v6 {
            socket.attach_filter(&unreachable6())?;
        } else {
            socket.attach_filter(&unreachable())?;
        }
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        sys::watched(socket)
    }

    /// Waits for the next message that may be one; `None`: it is none. How many is for the caller to limit: anybody can send
    /// them.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn receive(&self) -> Result<Option<GreRefused>, Error> {
        let mut buffer = [0; MESSAGE];
        loop {
            let mut guard =
                self.socket.readable().await.map_err(|source| Error::Io { what: "receive ICMP", source })?;
            match guard.try_io(|fd| fd.get_ref().read(&mut buffer)) {
                Ok(Ok(length)) => {
                    let parse = if self.v6 { parse6 } else { parse };
                    return Ok(buffer.get(..length).and_then(parse));
                }
                Ok(Err(source)) => return Err(Error::Io { what: "receive ICMP", source }),
                Err(_would_block) => {}
            }
        }
    }
}

/// Lets nothing pass but "unreachable" about GRE: classic BPF over the packet from its IP header on.
fn unreachable() -> [SockFilter; 7] {
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const LOAD_BYTE_BEHIND: u16 = 0x50;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_HEADER_LENGTH, 0, 0, 0),
        SockFilter::new(LOAD_BYTE_BEHIND, 0, 0, 0),
        SockFilter::new(JUMP_EQUAL, 0, 3, UNREACHABLE.into()),
        SockFilter::new(LOAD_BYTE_BEHIND, 0, 0, 8 + 9),
        SockFilter::new(JUMP_EQUAL, 0, 1, GRE.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// The same for ICMPv6, of which a raw socket shows no IP header: "unreachable" and "parameter problem".
fn unreachable6() -> [SockFilter; 7] {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 0),
        SockFilter::new(JUMP_EQUAL, 1, 0, UNREACHABLE6.into()),
        SockFilter::new(JUMP_EQUAL, 0, 3, PARAMETER6.into()),
        SockFilter::new(LOAD_BYTE, 0, 0, 8 + 6),
        SockFilter::new(JUMP_EQUAL, 0, 1, GRE.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Says to `to` that its GRE packet for `local` is for no tunnel here; `gre` is that packet from its GRE header on.
///
/// # Errors
/// [`Error::Capability`] without CAP_NET_RAW; [`Error::Io`] if it cannot be sent.
pub fn refuse(local: Ipv6Addr, to: Ipv6Addr, gre: &[u8]) -> Result<(), Error> {
    let sent = || -> io::Result<usize> {
        let socket = Socket::new(Domain::IPV6, Type::RAW.nonblocking().cloexec(), Some(Protocol::ICMPV6))?;
        socket.bind(&SocketAddrV6::new(local, 0, 0, 0).into())?;
        // The kernel sets the checksum.
        socket.send_to(&refusal(local, to, gre), &SocketAddrV6::new(to, 0, 0, 0).into())
    };
    sent().map(drop).map_err(|e| Error::io("ICMP error", "CAP_NET_RAW", e))
}

fn refusal(local: Ipv6Addr, to: Ipv6Addr, gre: &[u8]) -> Vec<u8> {
    let mut message = vec![UNREACHABLE6, PORT6, 0, 0, 0, 0, 0, 0];
    let [l0, l1] = (gre.len() as u16).to_be_bytes();
    message.extend([0x60, 0, 0, 0, l0, l1, GRE, 64]);
    message.extend(to.octets());
    message.extend(local.octets());
    message.extend(gre.iter().take(QUOTED));
    message
}

/// Reads an ICMPv6 error; `None` unless it is about a GRE packet that its addressee has no tunnel for. A raw socket does not
/// show here who says so: a router on the way says other things.
fn parse6(message: &[u8]) -> Option<GreRefused> {
    let (fixed, quoted) = message.split_first_chunk::<8>()?;
    let [kind, code, ..] = *fixed;
    if !matches!((kind, code), (UNREACHABLE6, PORT6) | (PARAMETER6, NEXT_HEADER6)) {
        return None;
    }
    let (header, gre) = quoted.split_first_chunk::<HEADER6>()?;
    let address = |at: usize| Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?));
    let (from, by) = (address(8)?, address(24)?);
    if header.first()? >> 4 != 6 || header.get(6) != Some(&GRE) {
        return None;
    }
    Some(GreRefused { by: by.into(), from: from.into(), key: key_of(gre)? })
}

/// The key of a GRE packet, if it has one; `None` if it is cut short.
#[allow(clippy::option_option, reason = "cut short, or without a key")]
pub(crate) fn key_of(gre: &[u8]) -> Option<Option<u32>> {
    let (fixed, rest) = gre.split_first_chunk::<4>()?;
    let [f0, f1, ..] = *fixed;
    let flags = u16::from_be_bytes([f0, f1]);
    let rest = if flags & CHECKSUM != 0 { rest.get(4..)? } else { rest };
    if flags & KEY == 0 {
        return Some(None);
    }
    rest.first_chunk::<4>().map(|key| Some(u32::from_be_bytes(*key)))
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
    Some(GreRefused { by: inner.to.into(), from: inner.from.into(), key: key_of(gre)? })
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
    use crate::sys::passes;

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
        let refused = |key| Some(GreRefused { by: HUB.into(), from: US.into(), key });
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
        let passes = |message: &[u8]| passes(&unreachable(), message);
        assert!(passes(&error(HUB, 3, 3, &keyed)) && passes(&error(HUB, 3, 2, &plain)));
        assert!(!passes(&error(HUB, 11, 0, &keyed)) && !passes(&error(HUB, 3, 3, &ip(17, US, HUB, &[0; 8]))));
        let whole = error(HUB, 3, 3, &keyed);
        assert!((0..whole.len()).all(|cut| parse(&whole[..cut]).is_none()));
    }

    #[test]
    fn over_ipv6_what_one_says_the_other_reads() {
        let [hub, us]: [Ipv6Addr; 2] = ["2001:db8::1", "2001:db8::2"].map(|it| it.parse().unwrap());
        let keyed = [0x20, 0, 0x20, 0x01, 0, 0, 0, 101, 1, 2, 3];
        let said = refusal(hub, us, &keyed);
        let refused = |key| Some(GreRefused { by: hub.into(), from: us.into(), key });
        assert_eq!(parse6(&said), refused(Some(101)));
        assert_eq!(parse6(&refusal(hub, us, &[0, 0, 0x20, 0x01])), refused(None));
        assert_eq!(refusal(hub, us, &[0; 4000]).len(), 1280 - HEADER6);
        // Of another kind, about something else, cut short.
        for (at, value) in [(0, 3), (1, 0), (8, 0x45), (8 + 6, 17)] {
            let mut other = said.clone();
            other[at] = value;
            assert_eq!(parse6(&other), None);
        }
        assert!(passes(&unreachable6(), &said));
        for (at, value) in [(0, 3), (8 + 6, 17)] {
            let mut other = said.clone();
            other[at] = value;
            assert!(!passes(&unreachable6(), &other));
        }
        let end = said.len() - 3;
        assert!((0..end).all(|cut| parse6(&said[..cut]).is_none()));
        // A host that knows no GRE.
        let mut other = said;
        (other[0], other[1]) = (4, 1);
        assert_eq!(parse6(&other), refused(Some(101)));
        assert!(passes(&unreachable6(), &other));
    }
}
