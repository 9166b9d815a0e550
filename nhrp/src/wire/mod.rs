//! The NHRP wire format (RFC 2332 as DMVPN deploys it).
//!
//! Reading: [`Packet::parse`] checks a received packet once (version, lengths, checksum, lists), after that its
//! accessors and iterators cannot fail and copy nothing. Writing: [`Builder`] is the only way to make a packet.
//! [`Message`] owns all parts of a packet, for tools and tests. No function here panics, whatever the bytes are.

mod assignment;
mod auth;
mod builder;
mod capabilities;
mod checksum;
mod cie;
mod error;
mod extension;
mod groups;
mod header;
mod hubs;
mod message;
mod packet;
mod prefixes;

pub use assignment::{Assignment, MAX_IDENTITY, assignment_flags};
pub use auth::{Authentication, CLEAR_TEXT, authentication_value, same_secret};
pub use builder::Builder;
pub use capabilities::{Software, capability};
pub use checksum::{checksum, checksum_is_valid};
pub use cie::{Cie, CieCode, Cies, cies};
pub use error::DecodeError;
pub use extension::{DeviceCapabilities, Extension, Extensions, ext};
pub use groups::{Groups, MAX_GROUP, MAX_GROUPS, group_kind};
pub use header::{ErrorCode, Header, MAX_HOPS, PacketType, flags};
pub use hubs::{HUBS_HEADER, HubChunk, HubEntry, HubNbma, hub_flags};
pub use message::{Message, OwnedExtension};
pub use packet::{Embedded, Packet};
pub use prefixes::{ENTRY_V4, ENTRY_V6, LIST_HEADER, PrefixChunk, list_flags};
