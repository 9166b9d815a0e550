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
    /// Cisco's NAT Address: a list of CIEs.
    pub const NAT: u16 = 9;
    /// Our prefix lists, not compulsory (range for experiments).
    pub const PREFIXES: u16 = 0x3800;
    /// Where the egress of redirected traffic is (one CIE), in our Traffic Indications to nodes of ours.
    pub const EGRESS: u16 = 0x3805;
    /// In a Resolution Request: the answer is to go back by the NHS that the request comes by. Empty.
    pub const BACK: u16 = 0x3806;
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

impl<'a> Extension<'a> {
    /// The content as a list of client information entries (types 3, 4, 5 and 9).
    ///
    /// # Errors
    /// [`DecodeError::Cie`] or [`DecodeError::AddressLength`] if it is none (type 9 also stands for RFC 2735).
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
    let word = (kind & TYPE_MASK) | if compulsory { COMPULSORY } else { 0 };
    out.extend_from_slice(&word.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

/// Checks a list that must end with End; what follows End is ignored.
pub(crate) fn check(bytes: &[u8]) -> Result<Extensions<'_>, DecodeError> {
    let mut rest = bytes;
    loop {
        let (extension, next) = Extension::read(rest)?;
        if extension.kind == ext::END {
            return Ok(Extensions { rest: bytes });
        }
        rest = next;
    }
}

/// The extensions of a checked list, without End.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extensions<'a> {
    rest: &'a [u8],
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
