//! A look into a captured packet: IP, GRE with its key, NHRP type and addresses, or the inner IP header.
//!
//! For assertions about the wire. It knows nothing of our codec, so that a fault there is not hidden here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::pcap::Frame;

/// What one packet is, as far as scenarios care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peek {
    /// Since the Unix epoch, by the clock of the guest.
    pub time: Duration,
    /// The outermost IP header; `None` on a GRE link, where packets have none, and for ARP.
    pub ip: Option<Ip>,
    /// GRE after that header.
    pub gre: Option<Gre>,
    /// NHRP, within GRE or (on a GRE link) bare.
    pub nhrp: Option<Nhrp>,
    /// The IP header within GRE.
    pub inner: Option<Ip>,
}

/// An IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// 47 GRE, 50 ESP, 1 ICMP, …; for IPv6 the first next-header value.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class: DSCP and ECN.
    pub tos: u8,
}

/// A GRE header (RFC 2784, RFC 2890).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gre {
    /// What it carries: 0x0800 IPv4, 0x86dd IPv6, 0x2001 NHRP.
    pub protocol: u16,
    /// The key, if it has one.
    pub key: Option<u32>,
}

/// The fixed and mandatory part of an NHRP packet (RFC 2332 §5.2.0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nhrp {
    /// Packet type.
    pub kind: NhrpKind,
    /// ar$hopcnt.
    pub hop_count: u8,
    /// Flags of the mandatory part.
    pub flags: u16,
    /// Request id; the error code and offset for an Error Indication.
    pub request_id: u32,
    /// Source NBMA address.
    pub source_nbma: Option<IpAddr>,
    /// Source protocol address.
    pub source: Option<IpAddr>,
    /// Destination protocol address.
    pub destination: Option<IpAddr>,
}

/// NHRP packet types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NhrpKind {
    /// 1
    ResolutionRequest,
    /// 2
    ResolutionReply,
    /// 3
    RegistrationRequest,
    /// 4
    RegistrationReply,
    /// 5
    PurgeRequest,
    /// 6
    PurgeReply,
    /// 7
    ErrorIndication,
    /// 8, not in RFC 2332: "there is a shorter way".
    TrafficIndication,
    /// Anything else.
    Other(u8),
}

impl From<u8> for NhrpKind {
    fn from(value: u8) -> Self {
        match value {
            1 => Self::ResolutionRequest,
            2 => Self::ResolutionReply,
            3 => Self::RegistrationRequest,
            4 => Self::RegistrationReply,
            5 => Self::PurgeRequest,
            6 => Self::PurgeReply,
            7 => Self::ErrorIndication,
            8 => Self::TrafficIndication,
            other => Self::Other(other),
        }
    }
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const NHRP: u16 = 0x2001;
const GRE: u8 = 47;

impl Peek {
    /// Looks into a captured packet; what is cut off or unknown is simply not there.
    #[must_use]
    pub fn of(frame: &Frame) -> Self {
        let mut peek = Self { time: frame.time, ip: None, gre: None, nhrp: None, inner: None };
        if frame.ethertype == NHRP {
            peek.nhrp = nhrp(&frame.data);
            return peek;
        }
        let Some((ip, payload)) = ip(frame.ethertype, &frame.data) else { return peek };
        peek.ip = Some(ip);
        if ip.protocol != GRE {
            return peek;
        }
        let Some((gre, payload)) = gre(payload) else { return peek };
        peek.gre = Some(gre);
        if gre.protocol == NHRP {
            peek.nhrp = nhrp(payload);
        } else {
            peek.inner = self::ip(gre.protocol, payload).map(|(inner, _)| inner);
        }
        peek
    }

    /// Whether it is an NHRP packet of that type.
    #[must_use]
    pub fn is_nhrp(&self, kind: NhrpKind) -> bool {
        self.nhrp.as_ref().is_some_and(|n| n.kind == kind)
    }

    /// Whether its outermost addresses are these.
    #[must_use]
    pub fn is_between(&self, source: IpAddr, destination: IpAddr) -> bool {
        self.ip.is_some_and(|ip| ip.source == source && ip.destination == destination)
    }
}

impl fmt::Display for Peek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.time.as_secs_f64())?;
        if let Some(ip) = self.ip {
            write!(f, " {ip}")?;
        }
        if let Some(gre) = self.gre {
            write!(f, " GRE {:#06x}", gre.protocol)?;
            if let Some(key) = gre.key {
                write!(f, " key {key}")?;
            }
        }
        if let Some(nhrp) = &self.nhrp {
            write!(f, " NHRP {:?} id {} hops {}", nhrp.kind, nhrp.request_id, nhrp.hop_count)?;
            for (name, address) in
                [("nbma", nhrp.source_nbma), ("src", nhrp.source), ("dst", nhrp.destination)]
            {
                if let Some(address) = address {
                    write!(f, " {name} {address}")?;
                }
            }
        }
        if let Some(inner) = self.inner {
            write!(f, " [{inner}]")?;
        }
        Ok(())
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} proto {} ttl {}", self.source, self.destination, self.protocol, self.ttl)
    }
}

fn ip(ethertype: u16, data: &[u8]) -> Option<(Ip, &[u8])> {
    match ethertype {
        IPV4 => {
            let header = usize::from(data.first()? & 0x0f) * 4;
            let source = address(data.get(12..16)?)?;
            let destination = address(data.get(16..20)?)?;
            let ip =
                Ip { source, destination, protocol: *data.get(9)?, ttl: *data.get(8)?, tos: *data.get(1)? };
            Some((ip, data.get(header..)?))
        }
        IPV6 => {
            let source = address(data.get(8..24)?)?;
            let destination = address(data.get(24..40)?)?;
            let tos = data.first()? << 4 | data.get(1)? >> 4;
            let ip = Ip { source, destination, protocol: *data.get(6)?, ttl: *data.get(7)?, tos };
            // Destination options (tunnel encapsulation limit) stand between IPv6 and GRE: step over them.
            if ip.protocol == 60 {
                let options = data.get(40..)?;
                let length = (usize::from(*options.get(1)?) + 1) * 8;
                return Some((Ip { protocol: *options.first()?, ..ip }, options.get(length..)?));
            }
            Some((ip, data.get(40..)?))
        }
        _ => None,
    }
}

fn gre(data: &[u8]) -> Option<(Gre, &[u8])> {
    let flags = word(data, 0)?;
    let protocol = word(data, 2)?;
    let mut at = 4;
    // Checksum and reserved field.
    if flags & 0x8000 != 0 {
        at += 4;
    }
    let mut key = None;
    if flags & 0x2000 != 0 {
        key = Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?));
        at += 4;
    }
    // Sequence number.
    if flags & 0x1000 != 0 {
        at += 4;
    }
    Some((Gre { protocol, key }, data.get(at..)?))
}

/// Fixed header of 20 bytes, then lengths of the source protocol, the destination protocol, flags, id, addresses.
fn nhrp(data: &[u8]) -> Option<Nhrp> {
    let nbma_length = usize::from(*data.get(18)? & 0x3f) + usize::from(*data.get(19)? & 0x3f);
    let source_length = usize::from(*data.get(20)?);
    let destination_length = usize::from(*data.get(21)?);
    let id = data.get(24..28)?;
    let source_at = 28 + nbma_length;
    let destination_at = source_at + source_length;
    Some(Nhrp {
        kind: NhrpKind::from(*data.get(17)?),
        hop_count: *data.get(9)?,
        flags: word(data, 22)?,
        request_id: u32::from_be_bytes(id.try_into().ok()?),
        source_nbma: data.get(28..source_at).and_then(address),
        source: data.get(source_at..destination_at).and_then(address),
        destination: data.get(destination_at..destination_at + destination_length).and_then(address),
    })
}

fn word(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A registration request within GRE with key 100 within IPv4, written out by hand from the RFCs.
    fn registration() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 80, 0, 0, 0, 0, 64, GRE, 0, 0, 198, 51, 100, 2, 192, 0, 2, 2];
        packet.extend([0x20, 0x00, 0x20, 0x01, 0, 0, 0, 100]);
        packet.extend([0, 1, 8, 0, 0, 0, 0, 0, 0, 16, 0, 52, 0, 0, 0, 0, 1, 3, 4, 0]);
        packet.extend([4, 4, 0x80, 0x02, 0, 0, 0, 7]);
        packet.extend([198, 51, 100, 2, 10, 255, 0, 11, 10, 255, 0, 1]);
        packet
    }

    #[test]
    fn sees_nhrp_through_ip_and_gre() {
        let frame = Frame { time: Duration::ZERO, ethertype: IPV4, data: registration() };
        let peek = Peek::of(&frame);
        assert!(peek.is_nhrp(NhrpKind::RegistrationRequest), "{peek:?}");
        assert!(peek.is_between("198.51.100.2".parse().unwrap(), "192.0.2.2".parse().unwrap()));
        assert_eq!(peek.gre, Some(Gre { protocol: NHRP, key: Some(100) }));
        let nhrp = peek.nhrp.unwrap();
        assert_eq!((nhrp.request_id, nhrp.hop_count, nhrp.flags), (7, 16, 0x8002));
        assert_eq!(nhrp.source, Some("10.255.0.11".parse().unwrap()));
        assert_eq!(nhrp.destination, Some("10.255.0.1".parse().unwrap()));
        assert_eq!(nhrp.source_nbma, Some("198.51.100.2".parse().unwrap()));
    }

    #[test]
    fn what_is_cut_off_is_not_there_and_nothing_panics() {
        let whole = registration();
        for end in 0..whole.len() {
            let frame = Frame { time: Duration::ZERO, ethertype: IPV4, data: whole[..end].to_vec() };
            let peek = Peek::of(&frame);
            assert!(peek.nhrp.is_none_or(|n| n.destination.is_none()), "cut at {end}");
        }
    }
}
