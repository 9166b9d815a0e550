//! Packets that no honest peer sends: NHRP built byte by byte (RFC 2332, RFC 2784; nothing of our codec), put
//! into GRE and sent from a raw socket with any source address. Run as `dmvpn-lab inject` in a host.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::host::Host;
use crate::paths;

const GRE: u8 = 47;
const NHRP: u16 = 0x2001;
/// Bytes before the mandatory part.
const FIXED: usize = 20;

/// An NHRP packet with IPv4 addresses inside and outside.
#[derive(Clone, Debug)]
pub struct Nhrp {
    /// 1 resolution request … 8 traffic indication, or anything else.
    pub kind: u8,
    /// Flags of the mandatory part.
    pub flags: u16,
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
}

impl Nhrp {
    /// A packet of that kind that goes on with nothing.
    #[must_use]
    pub fn new(kind: u8, nbma: Ipv4Addr, source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self { kind, flags: 0, id: 0x4242, nbma, source, destination, rest: Vec::new() }
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
        // ar$afn, ar$pro.type, ar$pro.snap, ar$hopcnt, size, checksum, no extensions, version, type, lengths.
        let mut bytes = vec![0, 1, 8, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 1, self.kind, 4, 0];
        debug_assert_eq!(bytes.len(), FIXED);
        bytes.extend([4, 4]);
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        for address in [self.nbma, self.source, self.destination] {
            bytes.extend(address.octets());
        }
        bytes.extend(&self.rest);
        let size = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        bytes.splice(10..12, size.to_be_bytes());
        seal(&mut bytes);
        bytes
    }
}

/// Puts the checksum right, as whoever changed a byte on purpose wants it.
pub fn seal(bytes: &mut [u8]) {
    let Some(field) = bytes.get_mut(12..14) else { return };
    field.fill(0);
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap_or(0);
    if let Some(field) = bytes.get_mut(12..14) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// `payload` behind a GRE header that says NHRP, with `key` if there is one.
#[must_use]
pub fn in_gre(key: Option<u32>, payload: &[u8]) -> Vec<u8> {
    let flags: u16 = if key.is_some() { 0x2000 } else { 0 };
    let mut bytes = flags.to_be_bytes().to_vec();
    bytes.extend(NHRP.to_be_bytes());
    bytes.extend(key.into_iter().flat_map(u32::to_be_bytes));
    bytes.extend(payload);
    bytes
}

/// Sends GRE packets from `host` to `to`, with any source address. Returns when the kernel took them.
///
/// # Errors
/// When the program cannot be run, or the kernel takes none of it.
pub fn send(host: &Host, from: Ipv4Addr, to: Ipv4Addr, packets: &[Vec<u8>]) -> Result<()> {
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
    let words =
        [&program.to_string_lossy(), "inject", &from.to_string(), &to.to_string(), &file.to_string_lossy()];
    host.run(&words).map(drop)
}

/// What `dmvpn-lab inject` does: each line of `file` is one packet's bytes behind the IP header, in hex.
///
/// # Errors
/// Without the right to open a raw socket, or when the file is not as said.
pub fn run(from: Ipv4Addr, to: Ipv4Addr, file: &std::path::Path) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(GRE))));
    let socket = socket.context("raw socket")?;
    socket.set_header_included_v4(true)?;
    for line in std::fs::read_to_string(file)?.lines() {
        ensure!(line.len().is_multiple_of(2), "half a byte: {line}");
        let byte = |at: usize| u8::from_str_radix(line.get(at..at + 2).unwrap_or(""), 16);
        let payload: Vec<u8> = (0..line.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
        let length = u16::try_from(20 + payload.len())?;
        // The kernel fills in identification and checksum.
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, GRE, 0, 0]);
        packet.extend(from.octets());
        packet.extend(to.octets());
        packet.extend(payload);
        socket.send_to(&packet, &SocketAddrV4::new(to, 0).into()).context("send")?;
    }
    Ok(())
}
