//! Why bytes are not an NHRP packet.

use thiserror::Error;

/// What is wrong with a received packet.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than a fixed header, or than the lengths in it promise.
    #[error("truncated")]
    Truncated,
    /// `ar$op.version` is not 1 (0 would be NARP, RFC 1735).
    #[error("NHRP version {0}, not 1")]
    Version(u8),
    /// `ar$op.type` is none that we know.
    #[error("unknown packet type {0}")]
    Type(u8),
    /// `ar$afn` is neither IPv4 nor IPv6.
    #[error("unknown address family number {0}")]
    AddressFamily(u16),
    /// `ar$pro.type` is neither IPv4 nor IPv6.
    #[error("unknown protocol type {0:#06x}")]
    Protocol(u16),
    /// An address length does not fit the family.
    #[error("address length {0}")]
    AddressLength(u8),
    /// The checksum is wrong, by RFC 1071 and by the variant of old open source peers.
    #[error("wrong checksum")]
    Checksum,
    /// `ar$pktsz` or `ar$extoff` contradict each other or the bytes received.
    #[error("packet size or extension offset out of bounds")]
    Bounds,
    /// A client information entry runs past the end of its list.
    #[error("malformed client information entry")]
    Cie,
    /// An extension runs past the end, or the list has no End.
    #[error("malformed extension list")]
    Extension,
    /// A prefix list extension that we cannot read.
    #[error("malformed prefix list")]
    PrefixList,
    /// A list of hubs that we cannot read.
    #[error("malformed list of hubs")]
    HubList,
}
