//! Extension 0x3801: the list of the network's hubs, so that a new one needs no edit at any client. Not compulsory, so
//! that a peer of another make passes it by.
//!
//! ```text
//! version(1) = 1 | flags(1) | first(2) | generation(4) | entry*
//! entry: length of what follows(2) | priority(1) | cluster(1) | most of its cluster in use(1), 0: all | mode(1)
//!        | length(1) name | count(1) { family(1) 4 or 6 | address }                  its overlay addresses
//!        | count(1) { 4 or 6 (1) | address, or 0 (1) | length(1) host name }         its underlay addresses
//! ```
//! A client's Registration Request carries it without entries: the generation of the list that it holds, or with
//! [`hub_flags::WANT`] from which entry of which generation on it wants to hear. The NHS's reply carries, with
//! [`hub_flags::TOLD`], its own generation, and entries from `first` on unless the client holds them all; with
//! [`hub_flags::MORE`] there are others, for which the client asks at once. A push of prefixes (0x3800) carries the
//! generation alone, upon which a client that holds another asks.
//!
//! The generation is made of the list's content: the same list has the same one wherever and whenever it is told.
//! What a later version appends to an entry is passed by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::cie::write_address;
use super::error::DecodeError;

/// Bytes before the entries.
pub const HUBS_HEADER: usize = 8;
/// No entry is longer: underlay addresses that would make it so are left out.
const ENTRY_BOUND: usize = 320;
const VERSION: u8 = 1;
const DRAINING: u8 = 1;

/// Flag bits of a list of hubs.
pub mod hub_flags {
    /// There are entries after these.
    pub const MORE: u8 = 1;
    /// An NHS says it (and not a client, whose words another make may echo).
    pub const TOLD: u8 = 4;
    /// A client asks for entries.
    pub const WANT: u8 = 8;
}

/// A hub as hubs tell of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubEntry {
    /// Its name: the same wherever the network is configured.
    pub name: String,
    /// 0 is best.
    pub priority: u8,
    /// Cluster; 0: none.
    pub cluster: u8,
    /// How many hubs of its cluster a client uses; 0: all.
    pub max_connections: u8,
    /// It hands its clients on to others.
    pub draining: bool,
    /// Overlay addresses, one a family.
    pub overlay: Vec<IpAddr>,
    /// Underlay addresses and host names, tried in order.
    pub nbma: Vec<HubNbma>,
}

/// Where a hub is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HubNbma {
    /// An underlay address.
    Address(IpAddr),
    /// A host name, which the client resolves.
    Name(String),
}

/// A part of the list, or what a client says of the one that it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HubChunk {
    /// See [`hub_flags`].
    pub flags: u8,
    /// Place of the first entry in the list.
    pub first: u16,
    /// Tells lists apart; 0: none.
    pub generation: u32,
    /// The entries.
    pub entries: Vec<HubEntry>,
}

impl HubChunk {
    /// Reads the content of the extension.
    ///
    /// # Errors
    /// [`DecodeError::HubList`] on another version or what cannot be read.
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        Self::read(value).ok_or(DecodeError::HubList)
    }

    fn read(value: &[u8]) -> Option<Self> {
        let (fixed, mut rest) = value.split_first_chunk::<HUBS_HEADER>()?;
        let [version, flags, f0, f1, g0, g1, g2, g3] = *fixed;
        if version != VERSION {
            return None;
        }
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<2>()?;
            let (entry, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            entries.push(Reader(entry).entry()?);
            rest = after;
        }
        let generation = u32::from_be_bytes([g0, g1, g2, g3]);
        Some(Self { flags, first: u16::from_be_bytes([f0, f1]), generation, entries })
    }

    /// Content of the extension.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = vec![VERSION, self.flags];
        value.extend_from_slice(&self.first.to_be_bytes());
        value.extend_from_slice(&self.generation.to_be_bytes());
        self.entries.iter().for_each(|entry| entry.write(&mut value));
        value
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl HubEntry {
    /// Bytes that it takes in a list.
    pub fn length(&self) -> usize {
        let mut out = Vec::new();
        self.write(&mut out);
        out.len()
    }

    /// Generation of a list: FNV-1a of its entries, never 0.
    pub fn generation(list: &[Self]) -> u32 {
        let mut bytes = Vec::new();
        list.iter().for_each(|entry| entry.write(&mut bytes));
        let hash = bytes
            .iter()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        hash.max(1)
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mode = if self.draining { DRAINING } else { 0 };
        let mut entry = vec![self.priority, self.cluster, self.max_connections, mode];
        write_text(&mut entry, &self.name);
        entry.push(self.overlay.len().min(2) as u8);
        self.overlay.iter().take(2).for_each(|address| write_with_family(&mut entry, *address));
        let mut places = Vec::new();
        let mut count = 0_u8;
        for nbma in &self.nbma {
            let mut place = Vec::new();
            match nbma {
                HubNbma::Address(address) => write_with_family(&mut place, *address),
                HubNbma::Name(name) => {
                    place.push(0);
                    write_text(&mut place, name);
                }
            }
            if entry.len() + places.len() + place.len() < ENTRY_BOUND && count < u8::MAX {
                places.extend(place);
                count += 1;
            }
        }
        entry.push(count);
        entry.extend(places);
        out.extend_from_slice(&(entry.len() as u16).to_be_bytes());
        out.extend(entry);
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let bytes = bytes.get(..bytes.len().min(255)).unwrap_or(bytes);
    out.push(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

fn write_with_family(out: &mut Vec<u8>, address: IpAddr) {
    out.push(if address.is_ipv4() { 4 } else { 6 });
    write_address(out, address);
}

/// What is left of an entry.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn entry(&mut self) -> Option<HubEntry> {
        let [priority, cluster, max_connections, mode] = self.bytes::<4>()?;
        let name = self.text()?;
        let overlay = (0..self.byte().filter(|count| *count <= 2)?)
            .map(|_| {
                let family = self.byte()?;
                self.address(family)
            })
            .collect::<Option<_>>()?;
        let nbma = (0..self.byte()?)
            .map(|_| match self.byte()? {
                0 => self.text().map(HubNbma::Name),
                family => self.address(family).map(HubNbma::Address),
            })
            .collect::<Option<_>>()?;
        let draining = mode & DRAINING != 0;
        Some(HubEntry { name, priority, cluster, max_connections, draining, overlay, nbma })
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    fn address(&mut self, family: u8) -> Option<IpAddr> {
        match family {
            4 => self.bytes::<4>().map(|octets| Ipv4Addr::from(octets).into()),
            6 => self.bytes::<16>().map(|octets| Ipv6Addr::from(octets).into()),
            _ => None,
        }
    }

    /// A name: printable ASCII without blanks, so that it can be shown as it is.
    fn text(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let plain = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
        plain.then(|| String::from_utf8_lossy(bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Vec<HubEntry> {
        let address = |text: &str| text.parse().unwrap();
        vec![
            HubEntry {
                name: "hub1".into(),
                overlay: vec![address("10.255.0.1"), address("fd00:255::1")],
                nbma: vec![HubNbma::Address(address("192.0.2.2"))],
                ..HubEntry::default()
            },
            HubEntry {
                name: "dc2".into(),
                priority: 5,
                cluster: 2,
                max_connections: 1,
                draining: true,
                overlay: vec![address("10.255.0.2")],
                nbma: vec![
                    HubNbma::Name("vpn2.example.net".into()),
                    HubNbma::Address(address("2001:db8::2")),
                ],
            },
        ]
    }

    #[test]
    fn reads_what_it_writes_and_what_a_later_version_appends() {
        let chunk = HubChunk { flags: hub_flags::TOLD, first: 3, generation: 0x1234_5678, entries: list() };
        let bytes = chunk.encode();
        assert_eq!(HubChunk::decode(&bytes).unwrap(), chunk);
        let lengths: usize = chunk.entries.iter().map(HubEntry::length).sum();
        assert_eq!(bytes.len(), HUBS_HEADER + lengths);
        let mut later = HubChunk { entries: Vec::new(), ..chunk.clone() }.encode();
        for entry in &chunk.entries {
            let mut one = Vec::new();
            entry.write(&mut one);
            let length = u16::from_be_bytes([one[0], one[1]]) + 3;
            later.extend_from_slice(&length.to_be_bytes());
            later.extend_from_slice(&one[2..]);
            later.extend_from_slice(&[7, 7, 7]);
        }
        assert_eq!(HubChunk::decode(&later).unwrap(), chunk);
    }

    #[test]
    fn whatever_is_cut_or_changed_is_an_error_or_a_list() {
        let bytes = HubChunk { flags: 0, first: 0, generation: 1, entries: list() }.encode();
        for cut in 0..bytes.len() {
            let _ = HubChunk::decode(&bytes[..cut]);
        }
        for at in 0..bytes.len() {
            for value in 0..=255 {
                let mut changed = bytes.clone();
                changed[at] = value;
                if let Ok(chunk) = HubChunk::decode(&changed) {
                    assert_eq!(HubChunk::decode(&chunk.encode()).unwrap(), chunk);
                }
            }
        }
    }

    #[test]
    fn a_long_entry_leaves_addresses_out() {
        let nbma = (0..40).map(|n| HubNbma::Name(format!("name-{n:03}.example.net"))).collect();
        let entry = HubEntry { name: "h".into(), nbma, ..HubEntry::default() };
        assert!(entry.length() <= ENTRY_BOUND + 4);
        let read =
            HubChunk::decode(&HubChunk { entries: vec![entry.clone()], ..HubChunk::default() }.encode());
        let kept = &read.unwrap().entries[0].nbma;
        assert!(kept.len() > 8 && entry.nbma.starts_with(kept));
    }

    #[test]
    fn the_generation_is_that_of_the_content() {
        let mut other = list();
        assert_eq!(HubEntry::generation(&list()), HubEntry::generation(&other));
        other[1].draining = false;
        assert_ne!(HubEntry::generation(&list()), HubEntry::generation(&other));
    }
}
