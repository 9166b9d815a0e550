//! Extension 0x3800: lists of prefixes. Not compulsory, so that a peer of another make passes it by.
//!
//! ```text
//! version(1) = 1 | flags(1) | chunk(2) | generation(4) | entry*
//! entry: family(1) 4 or 6 | prefix length(1) | preference(1) | marks(1) | address(4 or 16) | next hop(4 or 16)?
//! ```
//! The next hop is there if bit 0 of the marks is set; it is of the entry's family. Without one the sender is meant.
//! Only who said [`list_flags::NEXT_HOPS`] is told any: a peer from before that reads an entry without.
//!
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

use std::collections::BTreeMap;
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
/// Mark of an entry that a next hop follows.
const HAS_NEXT_HOP: u8 = 1;

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
    /// The sender reads entries with next hops of their own.
    pub const NEXT_HOPS: u8 = 16;
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
    /// Overlay next hop of those prefixes that are not reached by the sender itself (Phase 2).
    pub next_hops: BTreeMap<IpNet, IpAddr>,
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
        let mut next_hops = BTreeMap::new();
        while let Some(([family, length, _preference, marks], after)) = rest.split_first_chunk::<4>() {
            let (address, after) = address(*family, after)?;
            let prefix = IpNet::new(address, *length).map_err(|_| DecodeError::PrefixList)?.trunc();
            prefixes.push(prefix);
            rest = after;
            if marks & HAS_NEXT_HOP != 0 {
                let (next_hop, after) = self::address(*family, rest)?;
                next_hops.insert(prefix, next_hop);
                rest = after;
            }
        }
        if !rest.is_empty() {
            return Err(DecodeError::PrefixList);
        }
        let generation = u32::from_be_bytes([g0, g1, g2, g3]);
        Ok(Self { flags, chunk: u16::from_be_bytes([c0, c1]), generation, prefixes, next_hops })
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
            let next_hop = self.next_hops.get(prefix).filter(|hop| hop.is_ipv4() == prefix.addr().is_ipv4());
            let marks = if next_hop.is_some() { HAS_NEXT_HOP } else { 0 };
            out.extend_from_slice(&[family, prefix.prefix_len(), 0, marks]);
            write_address(out, prefix.network());
            if let Some(next_hop) = next_hop {
                write_address(out, *next_hop);
            }
        }
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Reads the address of an entry; what follows it.
fn address(family: u8, bytes: &[u8]) -> Result<(IpAddr, &[u8]), DecodeError> {
    match family {
        4 => {
            let (octets, after) = bytes.split_first_chunk::<4>().ok_or(DecodeError::PrefixList)?;
            Ok((IpAddr::V4(Ipv4Addr::from(*octets)), after))
        }
        6 => {
            let (octets, after) = bytes.split_first_chunk::<16>().ok_or(DecodeError::PrefixList)?;
            Ok((IpAddr::V6(Ipv6Addr::from(*octets)), after))
        }
        _ => Err(DecodeError::PrefixList),
    }
}
