//! GRE keepalives, as Cisco has them on point-to-point tunnels.
//!
//! Who wants to know whether the other end is there sends through the tunnel an IP packet that is addressed to itself and
//! holds GRE with protocol type 0. The other end's router takes it out of the tunnel and routes it back, so that it comes
//! home as GRE of that type. Linux drops such a packet where it is to be turned round (its source is an address of the
//! node: martian), so that it is answered here.
//!
//! ```text
//!  asks:     outer [us → peer] GRE IP [peer → us] GRE 0 | token        by the link
//!  answers:                        IP [peer → us] GRE 0 | token        by the underlay
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::sys::{self, ETH_P_ALL, ETH_P_IP, Oddities, PACKET_BYTES, Packet};
use crate::{Error, requests};

/// IPv4 header without options, in bytes.
const IP: usize = 20;
const GRE: u8 = 47;
/// Key flag of GRE (RFC 2890).
const KEY: u8 = 0x20;
/// Precedence 6: internetwork control, as routing protocols have it.
const TOS: u8 = 0xc0;

/// Something that came in by the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keepalive {
    /// One that was sent from here came back; what stood behind its GRE header.
    Returned(Vec<u8>),
    /// The other end asks; this is to go to it by the underlay.
    Asked {
        /// Where to.
        to: Ipv4Addr,
        /// The packet, from its IP header on.
        packet: Vec<u8>,
    },
}

/// Sockets of one tunnel link.
#[derive(Debug)]
pub struct KeepaliveSocket {
    link: u32,
    local: Ipv4Addr,
    packet: Packet,
    underlay: AsyncFd<Socket>,
}

impl KeepaliveSocket {
    /// Opens them for the link with index `link`, whose underlay address is `local`, in the VRF of that name: `None`, in
    /// none.
    ///
    /// # Errors
    /// [`Error::Capability`] without CAP_NET_RAW; [`Error::Io`] if there is no such link.
    pub fn open(link: u32, local: Ipv4Addr, vrf: Option<&str>) -> Result<Self, Error> {
        let error = |e| Error::io("keepalive sockets", "CAP_NET_RAW", e);
        let packet = Packet::filtered(link, ETH_P_ALL, &filter()).map_err(error)?;
        let underlay = Self::raw(vrf).map_err(error)?;
        Ok(Self { link, local, packet, underlay })
    }

    fn raw(vrf: Option<&str>) -> io::Result<AsyncFd<Socket>> {
        // IPPROTO_RAW: what is sent has its IP header already, and nothing is received.
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new(Domain::IPV4, kind, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        // What it sends is routed by that VRF's table.
        socket.bind_device(vrf.map(str::as_bytes))?;
        sys::watched(socket)
    }

    /// Waits until something comes in.
    ///
    /// # Errors
    /// [`Error::Io`], e.g. ENETDOWN when the link went down.
    pub async fn receive(&self) -> Result<Vec<Keepalive>, Error> {
        let mut buffer = vec![0; 8 * PACKET_BYTES];
        loop {
            let mut found = Vec::new();
            let mut remote = None;
            let hand_on = |source: Option<Ipv4Addr>, packet: &[u8]| {
                // A point-to-point link takes packets from its other end alone.
                let peer = source.or_else(|| {
                    let asked = remote.get_or_insert_with(|| requests::remote(self.link).ok().flatten());
                    asked.and_then(|remote: IpAddr| match remote {
                        IpAddr::V4(remote) => Some(remote),
                        IpAddr::V6(_) => None,
                    })
                });
                found.extend(peer.and_then(|peer| read(packet, self.local, peer)));
            };
            match self.packet.receive(&mut buffer, hand_on).await {
                Ok(Oddities { .. }) if found.is_empty() => {}
                Ok(_) => return Ok(found),
                Err(source) => return Err(Error::Io { what: "receive keepalives", source }),
            }
        }
    }

    /// Asks whether `peer`, the other end of the link, is there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn ask(&self, peer: Ipv4Addr, key: Option<u32>, token: &[u8]) -> Result<(), Error> {
        let question = question(self.local, peer, key, token);
        let sent = self.packet.send(ETH_P_IP, &[(peer, &question)]).await;
        sent.map(drop).map_err(|source| Error::Io { what: "send keepalive", source })
    }

    /// Sends what the other end asked for back to it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn answer(&self, to: Ipv4Addr, packet: &[u8]) -> Result<(), Error> {
        let to: SockAddr = std::net::SocketAddrV4::new(to, 0).into();
        let sent = loop {
            let ready = self.underlay.writable().await;
            let mut guard = ready.map_err(|source| Error::Io { what: "answer keepalive", source })?;
            if let Ok(sent) = guard.try_io(|fd| fd.get_ref().send_to(packet, &to)) {
                break sent;
            }
        };
        sent.map(drop).map_err(|source| Error::Io { what: "answer keepalive", source })
    }
}

/// The packet that is to come home: from the other end to us.
fn question(local: Ipv4Addr, peer: Ipv4Addr, key: Option<u32>, token: &[u8]) -> Vec<u8> {
    let gre = gre(key, token);
    let length = u16::try_from(IP + gre.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0x45, TOS, length[0], length[1], 0, 0, 0, 0, 255, GRE, 0, 0];
    packet.extend_from_slice(&peer.octets());
    packet.extend_from_slice(&local.octets());
    let sum = checksum(&packet).to_be_bytes();
    packet.splice(10..12, sum);
    packet.extend_from_slice(&gre);
    packet
}

fn gre(key: Option<u32>, token: &[u8]) -> Vec<u8> {
    let mut gre = vec![key.map_or(0, |_| KEY), 0, 0, 0];
    gre.extend(key.into_iter().flat_map(u32::to_be_bytes));
    gre.extend_from_slice(token);
    gre
}

/// Internet checksum (RFC 1071) of an IP header.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded + (folded >> 16)) as u16)
}

/// Reads what stands behind the outer GRE header of a packet from `peer`: nothing but a token (it had protocol type 0),
/// or an IP packet that wants to go home.
fn read(packet: &[u8], local: Ipv4Addr, peer: Ipv4Addr) -> Option<Keepalive> {
    let asks = packet.first().is_some_and(|first| first >> 4 == 4) && packet.get(9) == Some(&GRE);
    if !asks {
        return Some(Keepalive::Returned(packet.to_vec()));
    }
    let header = usize::from(packet.first()? & 0xf) * 4;
    let length = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let whole = packet.get(..length)?;
    let addresses = whole.get(12..IP)?.first_chunk::<8>()?;
    let [s0, s1, s2, s3, d0, d1, d2, d3] = *addresses;
    if Ipv4Addr::new(s0, s1, s2, s3) != local || Ipv4Addr::new(d0, d1, d2, d3) != peer {
        return None;
    }
    // Version 0, no checksum, no sequence number; the protocol type is that of nothing.
    let [flags, version, 0, 0] = *whole.get(header..)?.first_chunk::<4>()? else { return None };
    if flags & !KEY != 0 || version != 0 {
        return None;
    }
    let mut packet = whole.to_vec();
    // It is routed: one hop less. (The kernel makes the checksum.)
    let ttl = packet.get_mut(8)?;
    *ttl = ttl.checked_sub(1).filter(|left| *left > 0)?;
    Some(Keepalive::Asked { to: peer, packet })
}

/// Lets through what has no protocol and IPv4 that holds GRE: classic BPF, from the network header on.
fn filter() -> [SockFilter; 7] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// `SKF_AD_OFF + SKF_AD_PROTOCOL`
    const PROTOCOL: u32 = 0xffff_f000;
    [
        SockFilter::new(LOAD_WORD, 0, 0, PROTOCOL),
        SockFilter::new(JUMP_EQUAL, 3, 0, 0),
        SockFilter::new(JUMP_EQUAL, 0, 3, ETH_P_IP.into()),
        SockFilter::new(LOAD_BYTE, 0, 0, 9),
        SockFilter::new(JUMP_EQUAL, 0, 1, GRE.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    #[test]
    fn what_one_end_asks_the_other_sends_home() {
        for key in [None, Some(100)] {
            let question = question(US, PEER, key, b"token");
            assert_eq!(checksum(&question[..20]), 0, "of a header with its checksum");
            assert_eq!(question[12..20], [192, 0, 2, 2, 198, 51, 100, 2]);
            let mut expected = question.clone();
            expected[8] = 254;
            let asked = read(&question, PEER, US);
            assert_eq!(asked, Some(Keepalive::Asked { to: US, packet: expected }));
            // Not of these two: it would make us send to anybody.
            assert_eq!(read(&question, US, PEER), None);
            assert_eq!(read(&question, PEER, Ipv4Addr::new(203, 0, 113, 2)), None);
        }
        assert_eq!(read(b"token", US, PEER), Some(Keepalive::Returned(b"token".to_vec())));
        assert_eq!(read(b"", US, PEER), Some(Keepalive::Returned(Vec::new())));
    }

    #[test]
    fn other_gre_in_the_tunnel_is_none_of_our_business() {
        let good = question(US, PEER, None, b"");
        let changed = |at: usize, value: u8| {
            let mut packet = good.clone();
            packet[at] = value;
            read(&packet, PEER, US)
        };
        assert!(changed(8, 200).is_some());
        for (at, value) in [(8, 1), (8, 0), (20, 0x80), (21, 1), (22, 0x08), (3, 255), (0, 0x4f)] {
            assert_eq!(changed(at, value), None, "byte {at} = {value}");
        }
        assert!((10..good.len()).all(|cut| read(&good[..cut], PEER, US).is_none()));
    }
}
