//! What was counted: packets by type and direction, drops by reason.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::wire::PacketType;

/// All counters since the engine was made (or since the snapshot that it resumed from was begun).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets that we originated.
    pub sent: ByType,
    /// Packets received that could be read.
    pub received: ByType,
    /// Packets of others passed on.
    pub forwarded: ByType,
    /// Drops, and requests that were not acted on, by reason.
    pub drops: BTreeMap<DropReason, u64>,
}

impl Counters {
    /// How often this reason came up.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(&reason).copied().unwrap_or(0)
    }
}

/// One counter a packet type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByType {
    /// Type 1.
    pub resolution_request: u64,
    /// Type 2.
    pub resolution_reply: u64,
    /// Type 3.
    pub registration_request: u64,
    /// Type 4.
    pub registration_reply: u64,
    /// Type 5.
    pub purge_request: u64,
    /// Type 6.
    pub purge_reply: u64,
    /// Type 7.
    pub error_indication: u64,
    /// Type 8.
    pub traffic_indication: u64,
}

impl ByType {
    /// The counter of a type.
    pub fn of(&self, packet_type: PacketType) -> u64 {
        match packet_type {
            PacketType::ResolutionRequest => self.resolution_request,
            PacketType::ResolutionReply => self.resolution_reply,
            PacketType::RegistrationRequest => self.registration_request,
            PacketType::RegistrationReply => self.registration_reply,
            PacketType::PurgeRequest => self.purge_request,
            PacketType::PurgeReply => self.purge_reply,
            PacketType::ErrorIndication => self.error_indication,
            PacketType::TrafficIndication => self.traffic_indication,
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        PacketType::ALL.iter().map(|packet_type| self.of(*packet_type)).sum()
    }

    pub(crate) fn count(&mut self, packet_type: PacketType) {
        let counter = match packet_type {
            PacketType::ResolutionRequest => &mut self.resolution_request,
            PacketType::ResolutionReply => &mut self.resolution_reply,
            PacketType::RegistrationRequest => &mut self.registration_request,
            PacketType::RegistrationReply => &mut self.registration_reply,
            PacketType::PurgeRequest => &mut self.purge_request,
            PacketType::PurgeReply => &mut self.purge_reply,
            PacketType::ErrorIndication => &mut self.error_indication,
            PacketType::TrafficIndication => &mut self.traffic_indication,
        };
        *counter += 1;
    }
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident => $text:literal,)+) => {
        /// Why a packet was dropped, or an input not acted on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$name,)+];
        }

        impl fmt::Display for DropReason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $text,)+ })
            }
        }
    };
}

drop_reasons! {
    /// A Traffic Indication about a destination that has a shortcut, or that is being asked for.
    AlreadyDirect => "a shortcut exists or is being asked for",
    /// The password is missing or wrong.
    Authentication => "authentication failed",
    /// The destination is in its back-off after a failure.
    BackOff => "the destination is in its back-off",
    /// Wrong checksum.
    BadChecksum => "wrong checksum",
    /// A list of hubs that cannot be read.
    BadHubList => "malformed list of hubs",
    /// A prefix list that cannot be read.
    BadPrefixList => "malformed prefix list",
    /// An NHRP version other than 1.
    BadVersion => "unknown NHRP version",
    /// A message about an address or prefix that the sender may not speak for.
    Forbidden => "the sender may not say this",
    /// A data packet whose header cannot be read.
    HairpinMalformed => "unreadable data packet",
    /// Hop count used up.
    HopCount => "hop count exceeded",
    /// The packet came round.
    Loop => "loop",
    /// Lengths, lists or addresses that do not fit.
    Malformed => "malformed packet",
    /// No local overlay or underlay address to act with.
    NoAddress => "no local address",
    /// No binding leads to the destination.
    NoRoute => "no binding for the destination",
    /// A data packet that is not from one spoke to another.
    NoSpoke => "source or destination is not behind a spoke",
    /// A registration with an NHS that is not us.
    NotForUs => "addressed to another NHS",
    /// A purge by one who is neither owner nor NHS.
    NotOwner => "purge not from the owner",
    /// A Traffic Indication about traffic that is not ours.
    NotOurTraffic => "redirect for traffic that is not ours",
    /// A registration with a node that is no NHS.
    NotServer => "this node is not an NHS",
    /// The phase of the network has no such message.
    Phase => "not in this DMVPN phase",
    /// The old holder of the address is being probed.
    ProbePending => "the old holder of the address is being probed",
    /// More than the budget allows.
    RateLimited => "over the rate limit",
    /// A claim that was answered with a refusal.
    Refused => "registration refused",
    /// A table is full.
    TableFull => "table full",
    /// An unknown compulsory extension.
    UnknownExtension => "unknown compulsory extension",
    /// A registration that names a bandwidth class which is not configured: it is accepted without.
    UnknownGroup => "unknown QoS group",
    /// A packet type that we do not know.
    UnknownType => "unknown packet type",
    /// A reply or error that matches no outstanding request.
    Unsolicited => "matches no outstanding request",
    /// The endpoint is being taken away.
    Withdrawing => "the endpoint is being withdrawn",
    /// Input of another tunnel interface.
    WrongLink => "wrong tunnel interface",
    /// A message that only an NHS of ours may send, or a reply from one who was not asked.
    WrongSender => "not from the one who may send it",
}
