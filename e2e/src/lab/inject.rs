//! Packets that no honest peer sends: NHRP built byte by byte (RFC 2332, RFC 2784; nothing of our codec), put
//! into GRE and sent from a raw socket with any source address. Run as `dmvpn-lab inject` in a host.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::host::Host;
use crate::paths;

const GRE: u8 = 47;
const NHRP: u16 = 0x2001;
const IPV4: u16 = 0x0800;
/// Bytes before the mandatory part.
const FIXED: usize = 20;

/// Extension types of RFC 2332 §5.3, with the bit that says "compulsory".
pub mod ext {
    /// Responder Address.
    pub const RESPONDER: u16 = 0x8003;
    /// Forward Transit NHS Record.
    pub const FORWARD_RECORD: u16 = 0x8004;
    /// Authentication.
    pub const AUTHENTICATION: u16 = 0x8007;
    /// Cisco's NAT Address.
    pub const NAT: u16 = 0x0009;
    /// Our prefix lists.
    pub const PREFIXES: u16 = 0x3800;
    /// Compulsory, and nobody knows it.
    pub const UNKNOWN: u16 = 0x8123;
}

/// An NHRP packet with IPv4 addresses inside and outside.
#[derive(Clone, Debug)]
pub struct Nhrp {
    /// 1 resolution request … 8 traffic indication, or anything else.
    pub kind: u8,
    /// Flags of the mandatory part.
    pub flags: u16,
    /// Hop count.
    pub hops: u8,
    /// Request id.
    pub id: u32,
    /// Source NBMA address as it claims.
    pub nbma: Ipv4Addr,
    /// Source protocol address.
    pub source: Ipv4Addr,
    /// Destination protocol address.
    pub destination: Ipv4Addr,
    /// What follows: client entries ([`Self::entry`]) or a payload.
    pub rest: Vec<u8>,
    /// Extensions: type with its compulsory bit, content.
    pub extensions: Vec<(u16, Vec<u8>)>,
}

impl Nhrp {
    /// A packet of that kind that goes on with nothing.
    #[must_use]
    pub fn new(kind: u8, nbma: Ipv4Addr, source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        let (rest, extensions) = (Vec::new(), Vec::new());
        Self { kind, flags: 0, hops: 255, id: 0x4242, nbma, source, destination, rest, extensions }
    }

    /// Appends an extension.
    #[must_use]
    pub fn extension(mut self, kind: u16, value: &[u8]) -> Self {
        self.extensions.push((kind, value.to_vec()));
        self
    }

    /// Appends an extension that is a list of one client entry.
    #[must_use]
    pub fn extension_entry(self, kind: u16, nbma: Ipv4Addr, address: Ipv4Addr) -> Self {
        let list = Self { rest: Vec::new(), ..self.clone() }.entry(32, nbma, Some(address)).rest;
        self.extension(kind, &list)
    }

    /// What an error indication is about, with its code.
    #[must_use]
    pub fn error(mut self, code: u16, about: &[u8]) -> Self {
        self.id = u32::from(code) << 16;
        self.rest.extend(about);
        self
    }

    /// Adds a client entry of prefix length `length` about `address` (if any) at `nbma`, for 600 s.
    #[must_use]
    pub fn entry(mut self, length: u8, nbma: Ipv4Addr, address: Option<Ipv4Addr>) -> Self {
        self.rest.extend([0, length, 0, 0]);
        self.rest.extend(1400_u16.to_be_bytes());
        self.rest.extend(600_u16.to_be_bytes());
        self.rest.extend([4, 0, if address.is_some() { 4 } else { 0 }, 255]);
        self.rest.extend(nbma.octets());
        self.rest.extend(address.iter().flat_map(Ipv4Addr::octets));
        self
    }

    /// Adds the start of an IPv4 packet: what a traffic indication is about.
    #[must_use]
    pub fn about(mut self, source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        self.rest.extend([0x45, 0, 0, 84, 0, 0, 0x40, 0, 63, 1, 0, 0]);
        self.rest.extend(source.octets());
        self.rest.extend(destination.octets());
        self
    }

    /// The packet with its lengths and a right checksum.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        // ar$afn, ar$pro.type, ar$pro.snap, ar$hopcnt, size, checksum, extensions, version, type, lengths.
        let mut bytes = vec![0, 1, 8, 0, 0, 0, 0, 0, 0, self.hops, 0, 0, 0, 0, 0, 0, 1, self.kind, 4, 0];
        debug_assert_eq!(bytes.len(), FIXED);
        bytes.extend([4, 4]);
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        for address in [self.nbma, self.source, self.destination] {
            bytes.extend(address.octets());
        }
        bytes.extend(&self.rest);
        if !self.extensions.is_empty() {
            let offset = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
            bytes.splice(14..16, offset.to_be_bytes());
            for (kind, value) in &self.extensions {
                bytes.extend(kind.to_be_bytes());
                bytes.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
                bytes.extend(value);
            }
            bytes.extend([0x80, 0, 0, 0]);
        }
        let size = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        bytes.splice(10..12, size.to_be_bytes());
        seal(&mut bytes);
        bytes
    }
}

/// A registration of an IPv6 overlay address, over IPv4.
#[must_use]
pub fn registration_of_ipv6(nbma: Ipv4Addr, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let mut bytes = vec![0, 1, 0x86, 0xdd, 0, 0, 0, 0, 0, 255, 0, 72, 0, 0, 0, 0, 1, 3, 4, 0];
    bytes.extend([16, 16, 0, 0, 0, 0, 0x42, 0x42]);
    bytes.extend(nbma.octets());
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend([0, 255, 0, 0, 0x05, 0x78, 0x02, 0x58, 0, 0, 0, 0]);
    debug_assert_eq!(bytes.len(), 76);
    bytes.splice(10..12, [0, 76]);
    seal(&mut bytes);
    bytes
}

/// Puts the checksum right, as whoever changed a byte on purpose wants it.
pub fn seal(bytes: &mut [u8]) {
    let Some(field) = bytes.get_mut(12..14) else { return };
    field.fill(0);
    let sum = checksum(bytes);
    if let Some(field) = bytes.get_mut(12..14) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// The Internet's checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// A whole IPv4 packet of an experimental protocol, behind a GRE header: data for the tunnel.
#[must_use]
pub fn data_in_gre(key: u32, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 253, 0, 0];
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    let sum = checksum(&bytes);
    bytes.splice(10..12, sum.to_be_bytes());
    bytes.resize(40, 0);
    gre(Some(key), IPV4, &bytes)
}

/// `payload` behind a GRE header that says NHRP, with `key` if there is one.
#[must_use]
pub fn in_gre(key: Option<u32>, payload: &[u8]) -> Vec<u8> {
    gre(key, NHRP, payload)
}

fn gre(key: Option<u32>, protocol: u16, payload: &[u8]) -> Vec<u8> {
    let flags: u16 = if key.is_some() { 0x2000 } else { 0 };
    let mut bytes = flags.to_be_bytes().to_vec();
    bytes.extend(protocol.to_be_bytes());
    bytes.extend(key.into_iter().flat_map(u32::to_be_bytes));
    bytes.extend(payload);
    bytes
}

/// Sends GRE packets from `host` to `to`, with any source address. Returns when the kernel took them.
///
/// # Errors
/// When the program cannot be run, or the kernel takes none of it.
pub fn send(host: &Host, from: Ipv4Addr, to: Ipv4Addr, packets: &[Vec<u8>]) -> Result<()> {
    send_as(host, (from.into(), 1), to.into(), packets)
}

/// As [`send`], also over IPv6 (there `from` is an address of the host); over IPv4 so many senders, from that address on,
/// take turns.
///
/// # Errors
/// As [`send`].
pub fn send_as(host: &Host, from: (IpAddr, u32), to: IpAddr, packets: &[Vec<u8>]) -> Result<()> {
    let mut text = String::new();
    for packet in packets {
        for byte in packet {
            write!(text, "{byte:02x}")?;
        }
        text.push('\n');
    }
    let file = std::env::temp_dir().join(format!("inject-{}-{}", host.name(), std::process::id()));
    std::fs::write(&file, text)?;
    let program = paths::program("dmvpn-lab")?;
    let (from, senders) = (from.0.to_string(), from.1.to_string());
    let (program, file) = (program.to_string_lossy(), file.to_string_lossy());
    host.run(&[&program, "inject", &from, &to.to_string(), &file, &senders]).map(drop)
}

/// What `dmvpn-lab inject` does: each line of `file` is one packet's bytes behind the IP header, in hex.
///
/// # Errors
/// Without the right to open a raw socket, or when the file is not as said.
pub fn run((from, senders): (IpAddr, u32), to: IpAddr, file: &std::path::Path) -> Result<()> {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(GRE))));
    let socket = socket.context("raw socket")?;
    // From an address of the host's own the kernel writes the header: only then does it see GRE, and protect it by an SA.
    let own = senders == 1 && socket.bind(&SocketAddr::new(from, 0).into()).is_ok();
    match from {
        IpAddr::V4(_) => socket.set_header_included_v4(!own)?,
        IpAddr::V6(_) if own => {}
        IpAddr::V6(_) => socket.bind(&SocketAddr::new(from, 0).into()).context("source address")?,
    }
    for (number, line) in (0..).zip(std::fs::read_to_string(file)?.lines()) {
        ensure!(line.len().is_multiple_of(2), "half a byte: {line}");
        let byte = |at: usize| u8::from_str_radix(line.get(at..at + 2).unwrap_or(""), 16);
        let payload: Vec<u8> = (0..line.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
        let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else {
            socket.send_to(&payload, &SocketAddr::new(to, 0).into()).context("send")?;
            continue;
        };
        let from = Ipv4Addr::from_bits(from.to_bits().wrapping_add(number % senders.max(1)));
        let length = u16::try_from(20 + payload.len())?;
        // The kernel fills in identification and checksum.
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, GRE, 0, 0]);
        packet.extend(from.octets());
        packet.extend(to.octets());
        packet.extend(&payload);
        let packet = if own { payload } else { packet };
        socket.send_to(&packet, &SocketAddrV4::new(to, 0).into()).context("send")?;
    }
    Ok(())
}
