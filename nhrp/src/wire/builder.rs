//! The one place that writes packets.

use super::auth::CLEAR_TEXT;
use super::checksum::checksum;
use super::cie::{Cie, address_len, write_address};
use super::extension::{ext, write_extension};
use super::header::{AFN_IPV4, AFN_IPV6, FIXED, Header, PRO_IPV4, PRO_IPV6};
use super::packet::Packet;

/// Writes one packet into one buffer: header, then entries or payload, then extensions, then [`Self::finish`].
#[derive(Clone, Debug)]
pub struct Builder {
    bytes: Vec<u8>,
    /// Where the extensions start, once there is one.
    extensions: Option<usize>,
}

impl Builder {
    /// Starts a packet with its header. Source and destination protocol address must be of one family; should they
    /// differ, the destination is written as "any" of the source's family.
    pub fn new(header: &Header) -> Self {
        Self::reuse(Vec::with_capacity(192), header)
    }

    /// The same in a buffer that was used before; what is in it goes.
    pub fn reuse(mut bytes: Vec<u8>, header: &Header) -> Self {
        bytes.clear();
        let afn = if header.src_nbma.is_ipv4() { AFN_IPV4 } else { AFN_IPV6 };
        let protocol = if header.src_proto.is_ipv4() { PRO_IPV4 } else { PRO_IPV6 };
        let dst_proto = match header.dst_proto.is_ipv4() == header.src_proto.is_ipv4() {
            true => header.dst_proto,
            false => unspecified_like(header.src_proto),
        };
        let [afn0, afn1] = afn.to_be_bytes();
        let [protocol0, protocol1] = protocol.to_be_bytes();
        let (kind, nbma_len) = (header.packet_type.to_wire(), address_len(Some(header.src_nbma)));
        let hops = header.hop_count;
        let proto_len = address_len(Some(header.src_proto));
        let [flags0, flags1] = header.flags.to_be_bytes();
        let [id0, id1, id2, id3] = header.request_id.to_be_bytes();
        // Size, checksum and extension offset (the zeros after the hop count) are written by `finish`.
        let fixed: [u8; FIXED + 8] = [
            afn0, afn1, protocol0, protocol1, 0, 0, 0, 0, 0, hops, 0, 0, 0, 0, 0, 0, 1, kind, nbma_len, 0,
            proto_len, proto_len, flags0, flags1, id0, id1, id2, id3,
        ];
        bytes.extend_from_slice(&fixed);
        write_address(&mut bytes, header.src_nbma);
        write_address(&mut bytes, header.src_proto);
        write_address(&mut bytes, dst_proto);
        Self { bytes, extensions: None }
    }

    /// Starts a packet with another one's mandatory part (entries or payload included), as a transit NHS does.
    pub fn forward(packet: &Packet<'_>, hop_count: u8) -> Self {
        let mut builder = Self::new(&Header { hop_count, ..*packet.header() });
        match packet.header().packet_type.has_cies() {
            true => builder.bytes.extend_from_slice(packet.cies().as_bytes()),
            false => builder.bytes.extend_from_slice(packet.payload()),
        }
        builder
    }

    /// Adds an entry to the mandatory part.
    pub fn cie(mut self, cie: &Cie) -> Self {
        cie.write(&mut self.bytes);
        self
    }

    /// Adds the payload of an Error Indication or a Traffic Indication.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.bytes.extend_from_slice(payload);
        self
    }

    /// Appends an extension.
    pub fn extension(mut self, compulsory: bool, kind: u16, value: &[u8]) -> Self {
        self.append(compulsory, kind, value);
        self
    }

    /// Appends an extension that is a list of entries.
    pub fn extension_cies(mut self, compulsory: bool, kind: u16, list: &[Cie]) -> Self {
        self.append_by(compulsory, kind, |out| list.iter().for_each(|cie| cie.write(out)));
        self
    }

    /// Appends the authentication extension for a password.
    pub fn authentication(mut self, password: &[u8]) -> Self {
        self.append_by(true, ext::AUTHENTICATION, |out| {
            out.extend_from_slice(&CLEAR_TEXT);
            out.extend_from_slice(password);
        });
        self
    }

    /// Appends an extension.
    pub(crate) fn append(&mut self, compulsory: bool, kind: u16, value: &[u8]) {
        self.extensions.get_or_insert(self.bytes.len());
        write_extension(&mut self.bytes, compulsory, kind, value);
    }

    /// Appends an extension whose content `write` appends.
    pub(crate) fn append_by(&mut self, compulsory: bool, kind: u16, write: impl FnOnce(&mut Vec<u8>)) {
        self.append(compulsory, kind, &[]);
        let start = self.bytes.len();
        write(&mut self.bytes);
        let length = self.bytes.len() - start;
        self.put(start - 2, length as u16);
    }

    /// Appends nothing but makes the packet have an extension part (with End) even if none was added.
    pub fn with_extensions(mut self) -> Self {
        self.extensions.get_or_insert(self.bytes.len());
        self
    }

    /// Gives the buffer back without a packet.
    pub fn discard(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes so far; End (4 bytes) comes on top if there are extensions.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a packet starts with its header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Ends the extensions, fills in lengths and checksum.
    ///
    /// A packet of odd length whose last byte is not zero would be summed up differently by FRR before 10.7 and by
    /// OpenNHRP; only payloads can make one, and they lose their last byte then.
    pub fn finish(mut self) -> Vec<u8> {
        let offset = self.extensions.unwrap_or(0);
        if self.extensions.is_some() {
            write_extension(&mut self.bytes, true, ext::END, &[]);
        }
        if self.bytes.len() % 2 == 1 && self.bytes.last() != Some(&0) && self.bytes.len() > FIXED {
            self.bytes.pop();
        }
        let size = self.bytes.len() as u16;
        self.put(10, size);
        self.put(14, offset as u16);
        let sum = checksum(&self.bytes);
        self.put(12, sum);
        self.bytes
    }

    fn put(&mut self, at: usize, value: u16) {
        if let Some(field) = self.bytes.get_mut(at..at + 2) {
            field.copy_from_slice(&value.to_be_bytes());
        }
    }
}

fn unspecified_like(address: std::net::IpAddr) -> std::net::IpAddr {
    match address {
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
