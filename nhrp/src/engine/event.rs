//! What people and metrics get to know, one English line each.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::counters::DropReason;
use crate::wire::CieCode;

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// As NHS we assigned an overlay address.
    AddressAssigned {
        /// The address.
        address: IpAddr,
        /// Who asked for it.
        identity: String,
    },
    /// An NHS assigned us an overlay address.
    AddressReceived {
        /// The address.
        address: IpAddr,
        /// Name of the NHS.
        by: String,
    },
    /// As NHS we refused to assign an overlay address.
    AddressRefused {
        /// Who asked for it.
        identity: String,
        /// What it was told.
        code: CieCode,
        /// Why.
        reason: String,
    },
    /// Somebody claims an overlay address that is taken (and was refused).
    AddressConflict {
        /// The address.
        overlay: IpAddr,
        /// Who holds it.
        holder: IpAddr,
        /// Who claims it.
        claimant: IpAddr,
    },
    /// Packets were dropped; at most one event a reason and peer in 10 s.
    Dropped {
        /// Why.
        reason: DropReason,
        /// Outer source, if it was a packet.
        from: Option<IpAddr>,
        /// How many since the last event.
        count: u64,
    },
    /// A registration was not refreshed.
    Expired {
        /// Overlay address.
        overlay: IpAddr,
        /// Where it was.
        nbma: IpAddr,
    },
    /// A client says that it is of a bandwidth class that is not configured: it is served as one without.
    GroupUnknown {
        /// Its overlay address.
        overlay: IpAddr,
        /// Its NBMA address.
        nbma: IpAddr,
        /// The name.
        group: String,
    },
    /// A hub told us which hubs the network has.
    HubsTold {
        /// Its name.
        teller: String,
        /// Names of the hubs.
        names: Vec<String>,
    },
    /// A registered address moved to another NBMA address.
    Moved {
        /// Overlay address.
        overlay: IpAddr,
        /// Old NBMA address.
        from: IpAddr,
        /// New NBMA address.
        to: IpAddr,
    },
    /// Another hub became the one that traffic takes.
    NhsChosen {
        /// Its name.
        name: String,
        /// Its overlay address.
        overlay: IpAddr,
    },
    /// A hub no longer answers, or refuses us.
    NhsDown {
        /// Its name.
        name: String,
        /// Its overlay address, if known.
        overlay: Option<IpAddr>,
        /// Machine-readable reason, as in `NhsState::reason_code`.
        reason: String,
    },
    /// A hub accepted our registration.
    NhsUp {
        /// Its name.
        name: String,
        /// Its overlay address.
        overlay: Option<IpAddr>,
        /// Its NBMA address.
        nbma: IpAddr,
    },
    /// A hub does not take a prefix that we announce.
    PrefixDenied {
        /// The prefix.
        prefix: IpNet,
        /// The hub's name.
        hub: String,
        /// Who announced what it overlaps with, if that is why.
        holder: Option<IpAddr>,
    },
    /// A hub takes a prefix that it did not take before, or we no longer announce it there.
    PrefixTaken {
        /// The prefix.
        prefix: IpNet,
        /// The hub's name.
        hub: String,
    },
    /// An announced prefix was not accepted.
    PrefixRefused {
        /// The prefix.
        prefix: IpNet,
        /// Who announced it (overlay address).
        from: IpAddr,
        /// Why, naming what stands against it.
        reason: String,
    },
    /// A binding or shortcut was taken back by its owner or an NHS.
    Purged {
        /// What was purged.
        prefix: IpNet,
        /// Outer source of the purge.
        by: IpAddr,
    },
    /// A spoke registered.
    Registered {
        /// Overlay address.
        overlay: IpAddr,
        /// NBMA address.
        nbma: IpAddr,
        /// The address that it claims, if it is behind NAT.
        claimed_nbma: Option<IpAddr>,
    },
    /// A registration was refused.
    RegistrationRefused {
        /// Overlay address that was claimed.
        overlay: IpAddr,
        /// Outer source.
        nbma: IpAddr,
        /// What it was told.
        code: CieCode,
        /// Why.
        reason: String,
    },
    /// A shortcut ended or could not be made; traffic goes by the hub.
    ShortcutDown {
        /// What it covers.
        prefix: IpNet,
        /// Why.
        reason: String,
    },
    /// Traffic goes straight to the egress.
    ShortcutUp {
        /// What it covers.
        prefix: IpNet,
        /// Egress overlay address.
        via: IpAddr,
        /// Egress NBMA address.
        nbma: IpAddr,
        /// Milliseconds from the redirect (or request) to the route.
        took_ms: u64,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressAssigned { address, identity } => write!(f, "{address} assigned to {identity}"),
            Self::AddressReceived { address, by } => write!(f, "hub {by} assigned {address} to us"),
            Self::AddressRefused { identity, code, reason } => {
                write!(f, "no address for {identity}, refused with {code}: {reason}")
            }
            Self::AddressConflict { overlay, holder, claimant } => {
                write!(f, "{claimant} claims {overlay}, which {holder} holds: refused")
            }
            Self::Dropped { reason, from: Some(from), count } => {
                write!(f, "dropped {count} from {from}: {reason}")
            }
            Self::Dropped { reason, from: None, count } => write!(f, "dropped {count}: {reason}"),
            Self::Expired { overlay, nbma } => write!(f, "registration of {overlay} at {nbma} expired"),
            Self::GroupUnknown { overlay, nbma, group } => {
                write!(
                    f,
                    "{overlay} at {nbma} is of QoS group {group:?}, which the network does not define: not shaped"
                )
            }
            Self::HubsTold { teller, names } => write!(f, "hub {teller} tells of {}", names.join(", ")),
            Self::Moved { overlay, from, to } => write!(f, "{overlay} moved from {from} to {to}"),
            Self::NhsChosen { name, overlay } => write!(f, "traffic goes by hub {name} ({overlay})"),
            Self::NhsDown { name, overlay: Some(overlay), reason } => {
                write!(f, "hub {name} ({overlay}) is down: {reason}")
            }
            Self::NhsDown { name, overlay: None, reason } => write!(f, "hub {name} is down: {reason}"),
            Self::NhsUp { name, overlay: Some(overlay), nbma } => {
                write!(f, "registered with hub {name} ({overlay}) at {nbma}")
            }
            Self::NhsUp { name, overlay: None, nbma } => write!(f, "registered with hub {name} at {nbma}"),
            Self::PrefixDenied { prefix, hub, holder: Some(holder) } => {
                write!(f, "hub {hub} does not take {prefix}: it overlaps with what {holder} announced first")
            }
            Self::PrefixDenied { prefix, hub, holder: None } => {
                write!(f, "hub {hub} does not take {prefix}")
            }
            Self::PrefixTaken { prefix, hub } => write!(f, "{prefix} is no longer refused by hub {hub}"),
            Self::PrefixRefused { prefix, from, reason } => {
                write!(f, "{prefix} announced by {from} refused: {reason}")
            }
            Self::Purged { prefix, by } => write!(f, "{prefix} purged by {by}"),
            Self::Registered { overlay, nbma, claimed_nbma: Some(claimed) } => {
                write!(f, "{overlay} registered from {nbma} (behind NAT, claims {claimed})")
            }
            Self::Registered { overlay, nbma, claimed_nbma: None } => {
                write!(f, "{overlay} registered from {nbma}")
            }
            Self::RegistrationRefused { overlay, nbma, code, reason } => {
                write!(f, "registration of {overlay} from {nbma} refused with {code}: {reason}")
            }
            Self::ShortcutDown { prefix, reason } => write!(f, "no shortcut to {prefix}: {reason}"),
            Self::ShortcutUp { prefix, via, nbma, took_ms } => {
                write!(f, "shortcut to {prefix} via {via} at {nbma} after {took_ms} ms")
            }
        }
    }
}

impl Event {
    /// Whether somebody should look at it, as opposed to the ordinary course of things.
    pub fn is_warning(&self) -> bool {
        matches!(
            self,
            Self::AddressConflict { .. }
                | Self::AddressRefused { .. }
                | Self::Dropped { .. }
                | Self::GroupUnknown { .. }
                | Self::NhsDown { .. }
                | Self::PrefixDenied { .. }
                | Self::PrefixRefused { .. }
                | Self::RegistrationRefused { .. }
        )
    }
}
