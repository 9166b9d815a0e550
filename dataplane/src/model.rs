//! The kernel objects we program, as values: the same types say what is wanted and what was observed, so that
//! a plan can be compared with a dump.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Protocol number of our routes and neighbours (191 is zebra's own and would be adopted by it).
pub const PROTOCOL: u8 = 214;

/// A GRE tunnel link. Without a remote it is multipoint: over IPv4 mGRE with a neighbour for each peer; over IPv6 one link
/// in metadata mode, which has neither address nor key nor TTL of its own: its routes say them ([`Target::Encap`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GreLink {
    /// Interface name, at most 15 bytes.
    pub name: String,
    /// Our mark of ownership (`IFLA_IFALIAS`), e.g. `dmvpn.io/branches`.
    pub alias: String,
    /// Local underlay address.
    pub local: IpAddr,
    /// Remote underlay address of a point-to-point tunnel; `None`: multipoint.
    pub remote: Option<IpAddr>,
    /// GRE key, both directions.
    pub key: Option<u32>,
    /// Fixed outer TTL, 1–255 (never inherited). As observed, 0 means that the link has something which no
    /// wanted link has (inherited TTL, fixed TOS, different keys, checksums, sequence numbers): it always
    /// differs.
    pub ttl: u8,
    /// Outer packets bear the DSCP (and ECN) of inner ones; else 0. A link in metadata mode cannot.
    pub copy_dscp: bool,
    /// Index of the VRF that it belongs to; 0: none.
    pub master: u32,
    /// Index of the link, a VRF, that outer packets are routed by; 0: by the main table.
    pub underlay: u32,
    /// Link MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
}

impl GreLink {
    /// Whether it is a link in metadata mode: multipoint over IPv6, of which a network namespace can have one.
    pub fn is_metadata(&self) -> bool {
        self.local.is_ipv6() && self.remote.is_none() && self.ttl != 0
    }

    /// As the kernel shows it: without what stands in the routes by it.
    #[must_use]
    pub fn shown(&self) -> Self {
        if !self.is_metadata() {
            return self.clone();
        }
        Self {
            local: Ipv6Addr::UNSPECIFIED.into(),
            key: None,
            ttl: u8::MAX,
            copy_dscp: false,
            ..self.clone()
        }
    }
}

/// Any link, as observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// `IFLA_INFO_KIND`, e.g. `gre`; empty for physical links.
    pub kind: String,
    /// `IFLA_IFALIAS`; empty if none.
    pub alias: String,
    /// `IFF_UP`.
    pub up: bool,
    /// `IFF_LOWER_UP`.
    pub carrier: bool,
    /// `IFF_NOARP`: must be clear on our multipoint links.
    pub noarp: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Index of the enslaving device (bridge, VRF), 0 if none.
    pub master: u32,
    /// Of a VRF: its routing table.
    pub vrf_table: Option<u32>,
    /// For kinds `gre` and `ip6gre`: its parameters, in the form that a wanted link has ([`GreLink::shown`]).
    pub gre: Option<GreLink>,
}

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Interface index.
    pub link: u32,
    /// Address with prefix length.
    pub address: IpNet,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Target {
    /// Out of a link, by an on-link gateway (`None`: the destination is on the link itself).
    Link {
        /// Interface index.
        link: u32,
        /// Gateway.
        via: Option<IpAddr>,
    },
    /// Out of a link in metadata mode: as [`Target::Link`], with the outer header that its packets get.
    Encap {
        /// Interface index.
        link: u32,
        /// Gateway, which nobody resolves.
        via: Option<IpAddr>,
        /// The outer header.
        outer: Outer,
    },
    /// ICMP unreachable.
    Unreachable,
}

impl Target {
    /// Where it leads: link and gateway.
    pub fn hop(&self) -> Option<(u32, Option<IpAddr>)> {
        match *self {
            Self::Link { link, via } | Self::Encap { link, via, .. } => Some((link, via)),
            Self::Unreachable => None,
        }
    }
}

/// The outer header of what goes by a route of a link in metadata mode: GRE over IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Outer {
    /// Source.
    pub local: Ipv6Addr,
    /// Destination: the peer's underlay address.
    pub remote: Ipv6Addr,
    /// GRE key.
    pub key: Option<u32>,
    /// Hop limit. As observed, 0 means something that no wanted route has (checksums, a traffic class).
    pub ttl: u8,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub prefix: IpNet,
    /// Routing table, 254 = main.
    pub table: u32,
    /// Priority: lower wins. IPv6 has no 0 in the kernel: 0 stands for its default 1024 both ways, and 1024
    /// itself is refused.
    pub metric: u32,
    /// Where it goes.
    pub target: Target,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

/// A permanent neighbour: overlay address → underlay (NBMA) address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Neighbour {
    /// Interface index.
    pub link: u32,
    /// Overlay address.
    pub overlay: IpAddr,
    /// Link-layer address, which for GRE is the peer's underlay address.
    pub nbma: IpAddr,
}

/// Major number of our queueing discipline and its classes: a class is `d600:N`.
pub const ROOT: u16 = 0xd600;

/// A class of our root queueing discipline: what goes there in the mean is no more than its rate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Class {
    /// Interface index.
    pub link: u32,
    /// Its number, from 1.
    pub minor: u16,
    /// Bytes a second, outer IP and GRE header of a multipoint link included. As observed, 0 is something that no
    /// wanted class is.
    pub rate: u32,
    /// Time that a burst takes at that rate, in units of 64 ns (the kernel's).
    pub burst: u32,
}

impl Class {
    /// A class of `rate_kbps` kbit/s, whose burst is of so many bytes; else of what the rate carries in 50 ms, and two
    /// packets at least.
    pub fn new(link: u32, minor: u16, rate_kbps: u32, burst_bytes: Option<u32>) -> Self {
        let rate = (u64::from(rate_kbps) * 125).clamp(1, u64::from(u32::MAX));
        let burst = burst_bytes.map_or_else(|| (rate / 20).max(3_000), u64::from);
        let ticks = burst * (1_000_000_000 / 64) / rate;
        let (rate, burst) = (rate as u32, u32::try_from(ticks.max(1)).unwrap_or(u32::MAX));
        Self { link, minor, rate, burst }
    }
}

/// How a link shapes, as observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shaper {
    /// Interface index.
    pub link: u32,
    /// Its classes.
    pub classes: Vec<Class>,
    /// Numbers of those that have their `fq_codel`.
    pub leaves: Vec<u16>,
}

/// One change. Deletions of what is already gone succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Create the link (down, without NOARP), set alias, MTU, neighbour parameters (application solicitation
    /// 1, multicast and unicast probes 0) and per-interface settings (loose rp_filter, forwarding on, ICMP
    /// redirects off), then bring it up if wanted.
    CreateGre(GreLink),
    /// Bring an existing link with this index to the wanted parameters (same name; `RTM_NEWLINK` change of
    /// local/remote/ttl/key, so that index, addresses and routes stay). The kernel refuses (EINVAL) to turn a
    /// multipoint link into a point-to-point one or back.
    ChangeGre {
        /// Interface index.
        index: u32,
        /// Wanted parameters.
        link: GreLink,
    },
    /// Delete the link.
    DeleteLink {
        /// Interface index.
        index: u32,
    },
    /// Add an address (or replace its attributes).
    AddAddress(Address),
    /// Remove an address.
    DeleteAddress(Address),
    /// Add or replace a route with our protocol number.
    PutRoute(Route),
    /// Remove a route of ours. The outer header of a [`Target::Encap`] plays no part.
    DeleteRoute(Route),
    /// Add or replace a permanent neighbour with our protocol number.
    PutNeighbour(Neighbour),
    /// Remove it.
    DeleteNeighbour {
        /// Interface index.
        link: u32,
        /// Overlay address.
        overlay: IpAddr,
    },
    /// Put our root queueing discipline, without classes, on a link that has none.
    PutShaper {
        /// Interface index.
        link: u32,
    },
    /// Remove the root queueing discipline, whatever it is, with its classes.
    DeleteShaper {
        /// Interface index.
        link: u32,
    },
    /// Add a class or change it, which loses nothing.
    PutClass(Class),
    /// Put `fq_codel` below a class.
    PutLeaf {
        /// Interface index.
        link: u32,
        /// Number of the class.
        minor: u16,
    },
    /// Remove a class, with what waits in it.
    DeleteClass {
        /// Interface index.
        link: u32,
        /// Number of the class.
        minor: u16,
    },
}

/// All of the kernel's state that concerns us, from one dump.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// All links.
    pub links: Vec<Link>,
    /// All addresses of scope global or link, on all links.
    pub addresses: Vec<Address>,
    /// Routes of [`PROTOCOL`], in all tables.
    pub routes: Vec<Route>,
    /// Permanent neighbours of [`PROTOCOL`].
    pub neighbours: Vec<Neighbour>,
    /// Overlay hosts that the kernel waits for (state INCOMPLETE) on links of kind `gre`: (link, overlay).
    pub incomplete: Vec<(u32, IpAddr)>,
    /// Links whose root queueing discipline is ours.
    pub shapers: Vec<Shaper>,
}

/// What the monitor reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// A link appeared or changed.
    Link(Link),
    /// A link is gone.
    LinkGone {
        /// Its former index.
        index: u32,
        /// Its last name.
        name: String,
    },
    /// An address came or went.
    Address {
        /// Interface index.
        link: u32,
        /// The address.
        address: IpNet,
        /// It went.
        gone: bool,
    },
    /// Somebody else changed or removed a route of ours; or (`ours: false`) a foreign one came or went.
    Route {
        /// The route.
        route: Route,
        /// It has our protocol number.
        ours: bool,
        /// It is gone.
        gone: bool,
    },
    /// A neighbour on a `gre` link was deleted or overwritten, not by us.
    Neighbour {
        /// Interface index.
        link: u32,
        /// Overlay address.
        overlay: IpAddr,
        /// What stands there now (`None`: the kernel gave up on it).
        nbma: Option<IpAddr>,
        /// It was deleted.
        gone: bool,
    },
    /// `RTM_GETNEIGH`: the kernel has a packet for an overlay host whose underlay address it does not know.
    ResolveNeeded {
        /// Interface index.
        link: u32,
        /// Overlay address.
        overlay: IpAddr,
    },
    /// A queueing discipline or class of a `gre` link was made, changed or deleted, not by us.
    Queues {
        /// Interface index.
        link: u32,
    },
    /// A table of ours in nft, or something in it, was made or deleted, by us or by somebody else.
    Nft {
        /// Its name.
        table: String,
    },
    /// A sysctl about forwarding or reverse paths was changed.
    Settings,
    /// Events were lost: dump everything again.
    Overrun,
}

/// Answer to "how would the kernel send to this address?" (`RTM_GETROUTE`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// Outgoing interface.
    pub link: u32,
    /// Gateway, if any.
    pub via: Option<IpAddr>,
    /// Source address that would be chosen.
    pub source: Option<IpAddr>,
}

/// Counters of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Send errors.
    pub tx_errors: u64,
}
