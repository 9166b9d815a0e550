//! Extensions (RFC 2332 §5.3): type, length, value, ended by End.

use super::cie::{Cies, cies};
use super::error::DecodeError;

/// Extension types.
pub mod ext {
    /// Ends the list.
    pub const END: u16 = 0;
    /// Responder Address: empty in a request, one CIE in the reply.
    pub const RESPONDER: u16 = 3;
    /// Forward Transit NHS Record: each NHS that forwards a request appends itself.
    pub const FORWARD_RECORD: u16 = 4;
    /// Reverse Transit NHS Record: the same for replies.
    pub const REVERSE_RECORD: u16 = 5;
    /// Authentication: SPI and clear text, hop by hop.
    pub const AUTHENTICATION: u16 = 7;
    /// Vendor-Private; may repeat, is echoed.
    pub const VENDOR: u16 = 8;
    /// Cisco's NAT Address: a list of CIEs. RFC 2735 gave the same number to Device Capabilities.
    pub const NAT: u16 = 9;
    /// Our prefix lists, not compulsory (range for experiments).
    pub const PREFIXES: u16 = 0x3800;
    /// Our list of hubs, not compulsory.
    pub const HUBS: u16 = 0x3801;
    /// Groups that a client belongs to, not compulsory.
    pub const GROUPS: u16 = 0x3802;
    /// Our version and capabilities, not compulsory.
    pub const SOFTWARE: u16 = 0x3803;
    /// A client without an overlay address asks for one, and the answer; not compulsory.
    pub const ADDRESS: u16 = 0x3804;
    /// Where the egress of redirected traffic is (one CIE), in our Traffic Indications to nodes of ours.
    pub const EGRESS: u16 = 0x3805;
    /// In a Resolution Request: the answer is to go back by the NHS that the request comes by. Empty.
    pub const BACK: u16 = 0x3806;
    /// In a Registration Reply: prefixes of the client's list that the NHS does not take, each with the overlay address
    /// of who announced what it overlaps with. A prefix list of one chunk.
    pub const REFUSED: u16 = 0x3807;
}

/// Bit "compulsory" of the type word.
const COMPULSORY: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// One extension inside a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// A receiver that does not know it must not go on.
    pub compulsory: bool,
    /// Type, see [`ext`].
    pub kind: u16,
    /// Content.
    pub value: &'a [u8],
}

/// RFC 2735 Device Capabilities: what the two ends can do, as bits (the highest of each: VPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceCapabilities {
    /// Bits of the requester.
    pub source: u32,
    /// Bits of the responder; zero in a request.
    pub destination: u32,
}

impl<'a> Extension<'a> {
    /// Whether it is Cisco's NAT Address: its number and not [`Self::device_capabilities`].
    pub fn is_nat(&self) -> bool {
        self.kind == ext::NAT && self.device_capabilities().is_none()
    }

    /// The other meaning of [`ext::NAT`], told by its length: no list of entries has eight bytes.
    pub fn device_capabilities(&self) -> Option<DeviceCapabilities> {
        let [s0, s1, s2, s3, d0, d1, d2, d3] = *<&[u8; 8]>::try_from(self.value).ok()?;
        let bits = |octets| u32::from_be_bytes(octets);
        let both = DeviceCapabilities { source: bits([s0, s1, s2, s3]), destination: bits([d0, d1, d2, d3]) };
        (self.kind == ext::NAT).then_some(both)
    }

    /// The content as a list of client information entries (types 3, 4, 5 and 9).
    ///
    /// # Errors
    /// [`DecodeError::Cie`] or [`DecodeError::AddressLength`] if it is none.
    pub fn cies(&self) -> Result<Cies<'a>, DecodeError> {
        cies(self.value)
    }

    fn read(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), DecodeError> {
        let (fixed, rest) = bytes.split_first_chunk::<4>().ok_or(DecodeError::Extension)?;
        let [word0, word1, len0, len1] = *fixed;
        let word = u16::from_be_bytes([word0, word1]);
        let length = usize::from(u16::from_be_bytes([len0, len1]));
        let (value, rest) = rest.split_at_checked(length).ok_or(DecodeError::Extension)?;
        Ok((Self { compulsory: word & COMPULSORY != 0, kind: word & TYPE_MASK, value }, rest))
    }
}

pub(crate) fn write_extension(out: &mut Vec<u8>, compulsory: bool, kind: u16, value: &[u8]) {
    let [word0, word1] = ((kind & TYPE_MASK) | if compulsory { COMPULSORY } else { 0 }).to_be_bytes();
    let [len0, len1] = (value.len() as u16).to_be_bytes();
    out.extend_from_slice(&[word0, word1, len0, len1]);
    if !value.is_empty() {
        out.extend_from_slice(value);
    }
}

/// Checks a list that must end with End; what follows End is ignored.
pub(crate) fn check(bytes: &[u8]) -> Result<Extensions<'_>, DecodeError> {
    let mut list = Extensions { rest: bytes, ..Extensions::default() };
    let mut rest = bytes;
    loop {
        let (extension, next) = Extension::read(rest)?;
        if extension.kind == ext::END {
            return Ok(list);
        }
        list.kinds |= bit(extension.kind);
        if extension.compulsory {
            list.compulsory |= bit(extension.kind);
        }
        rest = next;
    }
}

/// Types below 16 have a bit each, the others share sixteen.
fn bit(kind: u16) -> u32 {
    1 << if kind < 16 { kind } else { 16 + kind % 16 }
}

/// The extensions of a checked list, without End.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extensions<'a> {
    rest: &'a [u8],
    /// Which types the whole list has, see [`bit`]: most questions are answered without going through it.
    kinds: u32,
    compulsory: u32,
}

impl<'a> Extensions<'a> {
    /// The first of this type.
    pub(crate) fn first(mut self, kind: u16) -> Option<Extension<'a>> {
        if self.kinds & bit(kind) == 0 {
            return None;
        }
        self.find(|extension| extension.kind == kind)
    }

    /// Whether there is a compulsory one of a type that is not `known`.
    pub(crate) fn has_compulsory_besides(mut self, known: &[u16]) -> bool {
        let own_bits = known.iter().filter(|kind| **kind < 16).fold(0, |bits, kind| bits | bit(*kind));
        self.compulsory & !own_bits != 0 && self.any(|it| it.compulsory && !known.contains(&it.kind))
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Extension<'a>;

    fn next(&mut self) -> Option<Extension<'a>> {
        let (extension, rest) = Extension::read(self.rest).ok()?;
        if extension.kind == ext::END {
            self.rest = &[];
            return None;
        }
        self.rest = rest;
        Some(extension)
    }
}
