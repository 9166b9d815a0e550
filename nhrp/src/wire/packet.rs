//! A checked view of a received packet.

use std::net::IpAddr;

use super::checksum::checksum_is_valid;
use super::cie::{Cies, count, read_address};
use super::error::DecodeError;
use super::extension::{Extension, Extensions, check};
use super::header::{AFN_IPV4, AFN_IPV6, FIXED, Header, PRO_IPV4, PRO_IPV6, PacketType};

/// A received packet, checked once; borrowing from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    header: Header,
    /// CIE list (types 1–6), or payload (types 7 and 8).
    body: &'a [u8],
    entries: u32,
    extensions: Extensions<'a>,
    has_extensions: bool,
}

impl<'a> Packet<'a> {
    /// Checks and opens a packet. Bytes after `ar$pktsz` are link padding and ignored.
    ///
    /// # Errors
    /// The first thing that is wrong, see [`DecodeError`].
    pub fn parse(received: &'a [u8]) -> Result<Self, DecodeError> {
        let fixed = Fixed::read(received)?;
        let size = usize::from(fixed.size);
        let bytes = received.get(..size).ok_or(DecodeError::Bounds)?;
        if size < FIXED {
            return Err(DecodeError::Bounds);
        }
        if !checksum_is_valid(bytes) {
            return Err(DecodeError::Checksum);
        }
        if fixed.version != 1 {
            return Err(DecodeError::Version(fixed.version));
        }
        let end = match usize::from(fixed.extension_offset) {
            0 => size,
            offset if offset >= size => return Err(DecodeError::Bounds),
            offset => offset,
        };
        let mandatory = bytes.get(FIXED..end).ok_or(DecodeError::Bounds)?;
        let (header, body) = fixed.addresses(mandatory)?;
        let mut entries = 0;
        if header.packet_type.has_cies() {
            entries = count(body)?;
            // No address of a family that we know makes an odd list, and it could not be passed on: see `Builder::finish`.
            if body.len() % 2 == 1 {
                return Err(DecodeError::Cie);
            }
        }
        let has_extensions = fixed.extension_offset != 0;
        let extensions = match bytes.get(end..) {
            Some(list) if has_extensions => check(list)?,
            _ => Extensions::default(),
        };
        Ok(Self { bytes, header, body, entries, extensions, has_extensions })
    }

    /// The header's fields.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The packet without padding.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The client information entries (none in types 7 and 8).
    pub fn cies(&self) -> Cies<'a> {
        Cies::checked(if self.header.packet_type.has_cies() { self.body } else { &[] })
    }

    /// How many there are.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// What types 7 (packet in error) and 8 (data packet) carry; empty in the others.
    pub fn payload(&self) -> &'a [u8] {
        if self.header.packet_type.has_cies() { &[] } else { self.body }
    }

    /// The extensions in their order, without End.
    pub fn extensions(&self) -> Extensions<'a> {
        self.extensions
    }

    /// Whether there is an extension part, be it only End.
    pub fn has_extensions(&self) -> bool {
        self.has_extensions
    }

    /// The first extension of this type.
    pub fn extension(&self, kind: u16) -> Option<Extension<'a>> {
        self.extensions.first(kind)
    }

    /// Whether the packet has a compulsory extension of a type that is not `known`.
    pub fn has_compulsory_besides(&self, known: &[u16]) -> bool {
        self.extensions.has_compulsory_besides(known)
    }
}

/// The start of the packet that an Error Indication is about; it may end after its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// Its fixed fields.
    pub header: Header,
}

impl Embedded {
    /// Reads the start of a packet, without lengths and checksum (which no longer fit a piece of it).
    ///
    /// # Errors
    /// If not even the addresses are there.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let fixed = Fixed::read(bytes)?;
        let mandatory = bytes.get(FIXED..).ok_or(DecodeError::Truncated)?;
        Ok(Self { header: fixed.addresses(mandatory)?.0 })
    }
}

/// The 20 bytes that all packets start with.
struct Fixed {
    afn: u16,
    protocol: u16,
    hop_count: u8,
    size: u16,
    extension_offset: u16,
    version: u8,
    packet_type: u8,
    nbma_len: u8,
    sub_len: u8,
}

impl Fixed {
    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let fixed = bytes.first_chunk::<FIXED>().ok_or(DecodeError::Truncated)?;
        let [
            a0,
            a1,
            p0,
            p1,
            _,
            _,
            _,
            _,
            _,
            hop_count,
            s0,
            s1,
            _,
            _,
            e0,
            e1,
            version,
            packet_type,
            nbma_len,
            sub_len,
        ] = *fixed;
        Ok(Self {
            afn: u16::from_be_bytes([a0, a1]),
            protocol: u16::from_be_bytes([p0, p1]),
            hop_count,
            size: u16::from_be_bytes([s0, s1]),
            extension_offset: u16::from_be_bytes([e0, e1]),
            version,
            packet_type,
            nbma_len: nbma_len & 0x3f,
            sub_len: sub_len & 0x3f,
        })
    }

    /// Reads the fixed fields of the mandatory part; gives what follows the addresses.
    fn addresses<'a>(&self, mandatory: &'a [u8]) -> Result<(Header, &'a [u8]), DecodeError> {
        let packet_type =
            PacketType::from_wire(self.packet_type).ok_or(DecodeError::Type(self.packet_type))?;
        let nbma_len = match self.afn {
            AFN_IPV4 => 4,
            AFN_IPV6 => 16,
            other => return Err(DecodeError::AddressFamily(other)),
        };
        let proto_len = match self.protocol {
            PRO_IPV4 => 4,
            PRO_IPV6 => 16,
            other => return Err(DecodeError::Protocol(other)),
        };
        if self.nbma_len != nbma_len {
            return Err(DecodeError::AddressLength(self.nbma_len));
        }
        let (fields, rest) = mandatory.split_first_chunk::<8>().ok_or(DecodeError::Bounds)?;
        let [src_len, dst_len, f0, f1, r0, r1, r2, r3] = *fields;
        for length in [src_len, dst_len] {
            if length != proto_len {
                return Err(DecodeError::AddressLength(length));
            }
        }
        let (src_nbma, rest) = address(rest, nbma_len)?;
        let rest = match self.sub_len {
            0 => rest,
            length => rest.get(usize::from(length)..).ok_or(DecodeError::Bounds)?,
        };
        let (src_proto, rest) = address(rest, proto_len)?;
        let (dst_proto, rest) = address(rest, proto_len)?;
        let header = Header {
            packet_type,
            hop_count: self.hop_count,
            flags: u16::from_be_bytes([f0, f1]),
            request_id: u32::from_be_bytes([r0, r1, r2, r3]),
            src_nbma,
            src_proto,
            dst_proto,
        };
        Ok((header, rest))
    }
}

fn address(bytes: &[u8], length: u8) -> Result<(IpAddr, &[u8]), DecodeError> {
    match read_address(bytes, length) {
        Ok((Some(address), rest)) => Ok((address, rest)),
        _ => Err(DecodeError::Bounds),
    }
}
