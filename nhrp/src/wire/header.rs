//! The fixed header and the fixed fields of the mandatory part (RFC 2332 §5.1, §5.2).

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Hop count of what we originate, as Cisco sends it (it drops packets that arrive with 0).
pub const MAX_HOPS: u8 = 255;
/// Bytes before the mandatory part.
pub(crate) const FIXED: usize = 20;
pub(crate) const AFN_IPV4: u16 = 1;
pub(crate) const AFN_IPV6: u16 = 2;
pub(crate) const PRO_IPV4: u16 = 0x0800;
pub(crate) const PRO_IPV6: u16 = 0x86dd;

/// What all packets carry before their lists. The lengths and the checksum are the codec's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `ar$op.type`.
    pub packet_type: PacketType,
    /// `ar$hopcnt`: how many more NHSs the packet may pass.
    pub hop_count: u8,
    /// Flags word, see [`flags`]; unused and zero in types 7 and 8.
    pub flags: u16,
    /// Request id; in an Error Indication error code (high half) and offset (low half), in a Traffic Indication the
    /// traffic code (high half, 0 = redirect).
    pub request_id: u32,
    /// Sender's NBMA address as it claims it.
    pub src_nbma: IpAddr,
    /// Source protocol (overlay) address: in replies that of the requester.
    pub src_proto: IpAddr,
    /// Destination protocol (overlay) address; same family as the source.
    pub dst_proto: IpAddr,
}

impl Header {
    /// Error code and offset of an Error Indication.
    pub fn error(&self) -> (ErrorCode, u16) {
        (ErrorCode::from((self.request_id >> 16) as u16), self.request_id as u16)
    }
}

/// `ar$op.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PacketType {
    /// 1: who is the egress for this destination?
    ResolutionRequest,
    /// 2: answer to 1.
    ResolutionReply,
    /// 3: a client tells its binding to an NHS.
    RegistrationRequest,
    /// 4: answer to 3.
    RegistrationReply,
    /// 5: forget this binding.
    PurgeRequest,
    /// 6: answer to 5.
    PurgeReply,
    /// 7: a packet could not be handled.
    ErrorIndication,
    /// 8: Cisco's redirect: there is a shorter way.
    TrafficIndication,
}

impl PacketType {
    /// All types, in wire order.
    pub const ALL: [Self; 8] = [
        Self::ResolutionRequest,
        Self::ResolutionReply,
        Self::RegistrationRequest,
        Self::RegistrationReply,
        Self::PurgeRequest,
        Self::PurgeReply,
        Self::ErrorIndication,
        Self::TrafficIndication,
    ];

    /// From the wire value; `None` if it is none that we know.
    pub fn from_wire(value: u8) -> Option<Self> {
        Self::ALL.get(usize::from(value).checked_sub(1)?).copied()
    }

    /// That of a packet which is not looked into any further (`ar$op.type`, RFC 2332 §5.2); `None` if it is none.
    pub fn of(packet: &[u8]) -> Option<Self> {
        packet.get(17).and_then(|value| Self::from_wire(*value))
    }

    /// The wire value, 1–8.
    pub fn to_wire(self) -> u8 {
        self as u8 + 1
    }

    /// Whether the mandatory part ends in a list of client information entries (types 1–6) and not in a payload.
    pub fn has_cies(self) -> bool {
        !matches!(self, Self::ErrorIndication | Self::TrafficIndication)
    }

    /// Whether it answers another packet.
    pub fn is_reply(self) -> bool {
        matches!(self, Self::ResolutionReply | Self::RegistrationReply | Self::PurgeReply)
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ResolutionRequest => "Resolution Request",
            Self::ResolutionReply => "Resolution Reply",
            Self::RegistrationRequest => "Registration Request",
            Self::RegistrationReply => "Registration Reply",
            Self::PurgeRequest => "Purge Request",
            Self::PurgeReply => "Purge Reply",
            Self::ErrorIndication => "Error Indication",
            Self::TrafficIndication => "Traffic Indication",
        })
    }
}

/// Flag bits by packet type (RFC 2332 §5.2.1–5.2.5, and Cisco's NAT bit).
pub mod flags {
    /// Resolution: the requester is a router.
    pub const ROUTER: u16 = 0x8000;
    /// Resolution: authoritative.
    pub const AUTHORITATIVE: u16 = 0x4000;
    /// Resolution Reply: the destination binding is stable.
    pub const DESTINATION_STABLE: u16 = 0x2000;
    /// Resolution: only a unique binding will do.
    pub const RESOLUTION_UNIQUE: u16 = 0x1000;
    /// Resolution: the source binding is stable.
    pub const SOURCE_STABLE: u16 = 0x0800;
    /// Registration: the binding is unique.
    pub const REGISTRATION_UNIQUE: u16 = 0x8000;
    /// Purge: no reply wanted.
    pub const NO_REPLY: u16 = 0x8000;
    /// Cisco: the sender understands the NAT extension.
    pub const NAT: u16 = 0x0002;
}

/// Error codes of Error Indications (RFC 2332 §5.2.7). The legacy number of FRR and OpenNHRP for a loop, 2,
/// reads as the RFC's 3; what we send is the RFC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorCode {
    /// 1: a compulsory extension is not known.
    UnrecognisedExtension,
    /// 3 (legacy 2): loop.
    Loop,
    /// 6: the destination cannot be reached.
    ProtocolAddressUnreachable,
    /// 7: version, type or checksum.
    ProtocolError,
    /// 8: the packet is too big.
    TooBig,
    /// 9: an extension is malformed.
    InvalidExtension,
    /// 10: a reply that nobody asked for.
    InvalidReply,
    /// 11: authentication failed.
    AuthenticationFailure,
    /// 15: hop count exceeded.
    HopCountExceeded,
    /// 16 (RFC 2735): the packet is of another VPN.
    VpnMismatch,
    /// 17 (RFC 2735): VPNs are not supported.
    VpnUnsupported,
    /// Any other number.
    Other(u16),
}

impl From<u16> for ErrorCode {
    fn from(code: u16) -> Self {
        match code {
            1 => Self::UnrecognisedExtension,
            2 | 3 => Self::Loop,
            6 => Self::ProtocolAddressUnreachable,
            7 => Self::ProtocolError,
            8 => Self::TooBig,
            9 => Self::InvalidExtension,
            10 => Self::InvalidReply,
            11 => Self::AuthenticationFailure,
            15 => Self::HopCountExceeded,
            16 => Self::VpnMismatch,
            17 => Self::VpnUnsupported,
            other => Self::Other(other),
        }
    }
}

impl From<ErrorCode> for u16 {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::UnrecognisedExtension => 1,
            ErrorCode::Loop => 3,
            ErrorCode::ProtocolAddressUnreachable => 6,
            ErrorCode::ProtocolError => 7,
            ErrorCode::TooBig => 8,
            ErrorCode::InvalidExtension => 9,
            ErrorCode::InvalidReply => 10,
            ErrorCode::AuthenticationFailure => 11,
            ErrorCode::HopCountExceeded => 15,
            ErrorCode::VpnMismatch => 16,
            ErrorCode::VpnUnsupported => 17,
            ErrorCode::Other(other) => other,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnrecognisedExtension => f.write_str("unrecognised extension"),
            Self::Loop => f.write_str("loop"),
            Self::ProtocolAddressUnreachable => f.write_str("protocol address unreachable"),
            Self::ProtocolError => f.write_str("protocol error"),
            Self::TooBig => f.write_str("packet too big"),
            Self::InvalidExtension => f.write_str("invalid extension"),
            Self::InvalidReply => f.write_str("invalid reply"),
            Self::AuthenticationFailure => f.write_str("authentication failure"),
            Self::HopCountExceeded => f.write_str("hop count exceeded"),
            Self::VpnMismatch => f.write_str("VPN mismatch"),
            Self::VpnUnsupported => f.write_str("VPN not supported"),
            Self::Other(code) => write!(f, "error {code}"),
        }
    }
}
