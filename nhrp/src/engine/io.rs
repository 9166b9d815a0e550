//! What goes into the engine and what comes out of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::event::Event;

/// A point in time: milliseconds on any clock that never runs backwards (the shell uses `CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// This time plus `ms` milliseconds, saturating.
    pub fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this time; 0 if `earlier` lies ahead.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A tunnel interface, by the kernel's interface index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LinkId(pub u32);

/// Where a packet came from, as the kernel saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The tunnel interface that it arrived on.
    pub link: LinkId,
    /// The source address of the outer IP header: the only sender address that was not the sender's own claim.
    pub nbma: IpAddr,
}

/// A client of a hub that a packet goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Onward {
    /// Its overlay address.
    pub overlay: IpAddr,
    /// Where it is.
    pub nbma: IpAddr,
    /// The prefix that leads there.
    pub prefix: IpNet,
}

/// A packet on its way from one tunnel of a networkId to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Across {
    /// The packet, as the first tunnel passes it on.
    pub bytes: Vec<u8>,
    /// A request as it was received, and from where: the first tunnel answers it if no other one takes it.
    pub received: Option<(IpAddr, Vec<u8>)>,
}

/// What the shell tells the engine, besides packets and time.
#[derive(Clone, Debug)]
pub enum Input {
    /// The configuration changed: the engine works out the difference, keeps what still holds and withdraws the rest.
    Configure(Box<Config>),
    /// The tunnel's local underlay address changed or the link went down (`None`).
    Nbma {
        /// The tunnel interface.
        link: LinkId,
        /// Underlay address.
        nbma: Option<IpAddr>,
    },
    /// A data packet came in by one tunnel of this network and left by one (a hairpin): its first bytes, from the
    /// inner IP header on.
    Hairpin {
        /// The tunnel interface.
        link: LinkId,
        /// The packet, its first 128 bytes at least.
        packet: Vec<u8>,
    },
    /// A data packet came in by the tunnel of this network and left by another one of the same networkId: its first
    /// bytes, from the inner IP header on, and where that one's engine says that it goes ([`super::Engine::onward`]).
    Crossing {
        /// The tunnel interface that it came in by.
        link: LinkId,
        /// The packet, its first 128 bytes at least.
        packet: Vec<u8>,
        /// Where it goes.
        onward: Onward,
    },
    /// Nobody took what [`Output::Across`] held: the same.
    Stranded(Across),
    /// The kernel asked for an unresolved overlay next hop (`RTM_GETNEIGH`).
    ResolveNeeded {
        /// The tunnel interface.
        link: LinkId,
        /// Overlay address.
        overlay: IpAddr,
    },
    /// Answer to [`Output::QueryUse`]: whether traffic used the prefix lately.
    Use {
        /// The prefix.
        prefix: IpNet,
        /// Whether it was used since the last question or within a minute.
        used: bool,
    },
    /// Who is authenticated at an underlay address now, by IPsec; nobody is known there any more: none.
    Identities {
        /// Underlay address.
        nbma: IpAddr,
        /// IKE identities.
        identities: BTreeSet<String>,
    },
    /// Something changed of which the configuration says nothing: every hub in use is asked at once, as if anew.
    Confirm,
    /// The endpoint is being taken away: withdraw all registrations (Purge to every NHS and to every requester that
    /// was told). [`Output::Withdrawn`] follows when all is acknowledged or has been tried in vain.
    Withdraw,
}

/// Why a route is there; the shell turns it into a metric. A lower variant is a better route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RouteKind {
    /// Overlay host route of a binding: the next hop is the host itself.
    Host,
    /// Resolved by NHRP: straight to the egress.
    Shortcut,
    /// Announced with a registration (at an NHS), or declared for an external spoke.
    Registered,
    /// Told by an NHS: reachable through it.
    Announced,
}

/// What the engine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send an NHRP packet in GRE (protocol 0x2001) to this underlay address.
    Send {
        /// The tunnel interface.
        link: LinkId,
        /// Outer destination.
        to: IpAddr,
        /// What follows the GRE header.
        bytes: Vec<u8>,
    },
    /// Make `overlay` reachable at `nbma` (permanent neighbour); replaces what was there.
    InstallNeighbour {
        /// The tunnel interface.
        link: LinkId,
        /// Overlay address.
        overlay: IpAddr,
        /// Underlay address.
        nbma: IpAddr,
    },
    /// Hand this to the engine of another tunnel of the same networkId ([`super::Engine::take_across`]); if none takes
    /// it, it comes back ([`Input::Stranded`]).
    Across(Across),
    /// Take that neighbour away.
    RemoveNeighbour {
        /// The tunnel interface.
        link: LinkId,
        /// Overlay address.
        overlay: IpAddr,
    },
    /// Route `prefix` to overlay next hop `via` (for [`RouteKind::Host`] the host itself); replaces the route of the
    /// same prefix and kind.
    InstallRoute {
        /// The tunnel interface.
        link: LinkId,
        /// The prefix.
        prefix: IpNet,
        /// Overlay next hop.
        via: IpAddr,
        /// Why it is there.
        kind: RouteKind,
    },
    /// Take that route away.
    RemoveRoute {
        /// The tunnel interface.
        link: LinkId,
        /// The prefix.
        prefix: IpNet,
        /// Why it is there.
        kind: RouteKind,
    },
    /// Put an overlay address that we were assigned on the link: it is ours until it is released.
    AssignAddress {
        /// The tunnel interface.
        link: LinkId,
        /// The address.
        address: IpAddr,
    },
    /// Take that address away.
    ReleaseAddress {
        /// The tunnel interface.
        link: LinkId,
        /// The address.
        address: IpAddr,
    },
    /// A client of ours is of this bandwidth class (`None`: of none, or of no more). It ends with the neighbour.
    Group {
        /// The tunnel interface.
        link: LinkId,
        /// Overlay address.
        overlay: IpAddr,
        /// Name of the class, as the client says it: the configuration may not know it.
        group: Option<String>,
    },
    /// Find out whether traffic uses this shortcut; answer with [`Input::Use`].
    QueryUse {
        /// The prefix.
        prefix: IpNet,
    },
    /// All that [`Input::Withdraw`] set off is over.
    Withdrawn,
    /// Something that people or metrics want to know.
    Event(Event),
}
