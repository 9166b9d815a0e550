//! Extension 0x3800: lists of prefixes. Not compulsory, so that a peer of another make passes it by.
//!
//! ```text
//! version(1) = 1 | flags(1) | chunk(2) | generation(4) | entry*
//! entry: family(1) 4 or 6 | prefix length(1) | preference(1) | reserved(1) = 0 | address(4 or 16)
//! ```
//! Who says what with it:
//! - A client's Registration Request: the prefixes behind the client (none is a list too). [`list_flags::WANT`]: "I
//!   hold no complete list of yours".
//! - The NHS's Registration Reply, with [`list_flags::REACHABLE`]: what is reachable through the NHS; without
//!   [`list_flags::FIRST`] nothing is said (the client's list still holds, or the NHS is going to push).
//! - A push, a Registration Request from NHS to client, with `REACHABLE`: one chunk of the NHS's list. The client's
//!   Registration Reply echoes chunk and generation without entries.
//! - A Traffic Indication, with `REACHABLE` and one entry: the prefix by which the NHS routes the destination.
//!
//! A list that does not fit one packet goes in chunks 0, 1, … of one generation, all but the last with
//! [`list_flags::MORE`], the first with `FIRST`; it counts once it is complete.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::cie::write_address;
use super::error::DecodeError;

/// Bytes before the entries.
pub const LIST_HEADER: usize = 8;
/// Bytes of an IPv4 entry.
pub const ENTRY_V4: usize = 8;
/// Bytes of an IPv6 entry.
pub const ENTRY_V6: usize = 20;
const VERSION: u8 = 1;

/// Flag bits of a list.
pub mod list_flags {
    /// More chunks follow.
    pub const MORE: u8 = 1;
    /// The first chunk: forget what came before.
    pub const FIRST: u8 = 2;
    /// An NHS's list of what is reachable through it (not a client's own prefixes).
    pub const REACHABLE: u8 = 4;
    /// The sender asks for the receiver's list.
    pub const WANT: u8 = 8;
}

/// One chunk of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixChunk {
    /// See [`list_flags`].
    pub flags: u8,
    /// Position in the list.
    pub chunk: u16,
    /// Tells lists apart.
    pub generation: u32,
    /// The prefixes, host bits cleared.
    pub prefixes: Vec<IpNet>,
}

impl PrefixChunk {
    /// Reads the content of the extension.
    ///
    /// # Errors
    /// [`DecodeError::PrefixList`] on another version, a length that does not fit or a bad prefix.
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let (fixed, mut rest) = value.split_first_chunk::<LIST_HEADER>().ok_or(DecodeError::PrefixList)?;
        let [version, flags, c0, c1, g0, g1, g2, g3] = *fixed;
        if version != VERSION {
            return Err(DecodeError::PrefixList);
        }
        let mut prefixes = Vec::with_capacity(rest.len() / ENTRY_V4);
        while let Some(([family, length, _preference, _reserved], after)) = rest.split_first_chunk::<4>() {
            let (address, after) = match family {
                4 => {
                    let (octets, after) = after.split_first_chunk::<4>().ok_or(DecodeError::PrefixList)?;
                    (IpAddr::V4(Ipv4Addr::from(*octets)), after)
                }
                6 => {
                    let (octets, after) = after.split_first_chunk::<16>().ok_or(DecodeError::PrefixList)?;
                    (IpAddr::V6(Ipv6Addr::from(*octets)), after)
                }
                _ => return Err(DecodeError::PrefixList),
            };
            let net = IpNet::new(address, *length).map_err(|_| DecodeError::PrefixList)?;
            prefixes.push(net.trunc());
            rest = after;
        }
        if !rest.is_empty() {
            return Err(DecodeError::PrefixList);
        }
        let generation = u32::from_be_bytes([g0, g1, g2, g3]);
        Ok(Self { flags, chunk: u16::from_be_bytes([c0, c1]), generation, prefixes })
    }

    /// Content of the extension.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(LIST_HEADER + self.prefixes.len() * ENTRY_V6);
        self.write(&mut value);
        value
    }

    /// Appends the content of the extension.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, self.flags]);
        out.extend_from_slice(&self.chunk.to_be_bytes());
        out.extend_from_slice(&self.generation.to_be_bytes());
        for prefix in &self.prefixes {
            let family = if prefix.addr().is_ipv4() { 4 } else { 6 };
            out.extend_from_slice(&[family, prefix.prefix_len(), 0, 0]);
            write_address(out, prefix.network());
        }
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}
