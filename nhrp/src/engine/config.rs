//! The engine's configuration: one tunnel of one network on one node.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::io::LinkId;
use super::members::Members;
use crate::wire::HubEntry;

/// DMVPN phase: who talks to whom directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All traffic through the hub.
    One,
    /// Spokes resolve each other's tunnel addresses.
    Two,
    /// The hub redirects, spokes install shortcuts.
    Three,
}

/// All that the engine needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Tunnel interface of this network on this node.
    pub link: LinkId,
    /// Local underlay address; `None` while the underlay has none.
    pub nbma: Option<IpAddr>,
    /// Phase of the network.
    pub phase: Phase,
    /// Answers registrations (hub).
    pub server: bool,
    /// Our overlay addresses on this tunnel, at most one a family is used as source.
    pub local: Vec<IpAddr>,
    /// Prefixes of the overlay itself: who registers an address outside of them is refused.
    pub overlay: Vec<IpNet>,
    /// Prefixes behind this node: announced with the registration, and answered for as egress.
    pub subnets: Vec<IpNet>,
    /// What this node reaches by its other tunnels of the same networkId on which it is a hub: their overlays, and what
    /// is registered there. Told to clients, and answered for as `subnets` are, but what a client registers goes first.
    pub beside: Vec<IpNet>,
    /// Those of `beside` that lead to tunnels with the same key: their spokes and ours can talk straight, so requests are
    /// handed over ([`super::Output::Across`]).
    pub across: Vec<IpNet>,
    /// Summaries and default routes that a hub tells in place of what lies inside them.
    pub advertise: Vec<IpNet>,
    /// Hubs this node registers with.
    pub nhs: Vec<Nhs>,
    /// Registers with those only, whatever hubs tell of others.
    pub fixed_hubs: bool,
    /// Addresses of the host names that hubs told us (see [`super::Engine::host_names`]).
    pub names: Vec<(String, Vec<IpAddr>)>,
    /// The hubs of the network, as this hub tells them to its clients; empty: nothing is told.
    pub hub_list: Vec<HubEntry>,
    /// Hubs that register with this one: they speak for others besides themselves.
    pub child_hubs: Vec<ChildHub>,
    /// Fixed bindings (`ip nhrp map`).
    pub statics: Vec<StaticBinding>,
    /// Prefixes of routers that do not announce them themselves (External `DmvpnSpoke`s), by owner.
    pub external: Vec<External>,
    /// Seconds that others may keep what we tell them (RFC 2332 §5.2.0.1), 1–65535.
    pub holding_time: u16,
    /// Seconds that an NHS which had failed has to answer before it is used in the place of another again.
    pub fallback_seconds: u16,
    /// Seconds between registrations; `None`: a third of the holding time.
    pub registration_interval: Option<u16>,
    /// Sets the unique flag in our registrations.
    pub unique: bool,
    /// What an NHS does when another NBMA address claims an address that is taken.
    pub uniqueness: Uniqueness,
    /// Clear-text passwords (at most 8 bytes each for Cisco): the first is sent, all are accepted; empty: none is
    /// sent and none is asked for.
    pub authentication: Vec<Secret>,
    /// The tunnel's IP MTU in bytes, told in CIEs and the limit for what we send.
    pub mtu: u16,
    /// Asks the NHSs for an overlay address in band, for each family that `local` has none of.
    pub request: Option<AddressRequest>,
    /// What this NHS assigns addresses from in band; `None`: it assigns none.
    pub pool: Option<Pool>,
    /// Bandwidth classes of our addresses, 1 to 63 bytes: told when they are registered.
    pub own_groups: Vec<(IpAddr, String)>,
    /// Bandwidth classes that clients may be of.
    pub groups: BTreeSet<String>,
    /// Who may register what; `None`: nothing says who anybody is.
    pub members: Option<Members>,
}

/// Wish for overlay addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRequest {
    /// Who asks, 1 to 128 bytes: the same identity gets the same address.
    pub identity: String,
    /// An IPv4 address is wanted.
    pub ipv4: bool,
    /// An IPv6 address is wanted.
    pub ipv6: bool,
    /// Bandwidth class of the address that is given.
    pub group: Option<String>,
}

/// What an NHS assigns addresses from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Prefixes within the overlay.
    pub prefixes: Vec<IpNet>,
    /// Never assigned.
    pub reserved: Vec<IpNet>,
    /// Which share of the pool is this NHS's, from 0, …
    pub share: u16,
    /// … and how many there are: several NHSs never assign the same address.
    pub shares: u16,
}

/// A password. It does not show in any output for people.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A next hop server as the client knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nhs {
    /// Name for people.
    pub name: String,
    /// Overlay addresses, one a family; empty: learned from its reply.
    pub overlay: Vec<IpAddr>,
    /// Underlay addresses, tried in order.
    pub nbma: Vec<IpAddr>,
    /// 0 is best.
    pub priority: u8,
    /// Cluster that it belongs to; 0: none.
    pub cluster: u8,
    /// How many NHSs of its cluster are used at a time; 0: all.
    pub max_connections: u8,
    /// It hands its clients on to others: it is left as soon as others serve.
    pub draining: bool,
}

/// A hub that registers with this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildHub {
    /// Name for people.
    pub name: String,
    /// Overlay addresses, one a family.
    pub overlay: Vec<IpAddr>,
    /// Underlay addresses: from elsewhere it counts as a spoke like any other.
    pub nbma: Vec<IpAddr>,
}

/// A fixed binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticBinding {
    /// Overlay host.
    pub overlay: IpAddr,
    /// Its underlay address.
    pub nbma: IpAddr,
    /// Prefixes behind it.
    pub prefixes: Vec<IpNet>,
}

/// The prefixes behind a router that cannot announce them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Name of the `DmvpnSpoke`.
    pub name: String,
    /// Overlay addresses of the router.
    pub overlay: Vec<IpAddr>,
    /// Prefixes behind it, installed while one of its addresses of that family is bound.
    pub prefixes: Vec<IpNet>,
}

/// What an NHS does when an address that is taken is claimed from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uniqueness {
    /// The same identity may move (without IPsec the old NBMA address is probed, 3 in 1 s, and loses only if silent).
    Identity,
    /// RFC 2332 and Cisco: another NBMA address gets code 14 if the entry is unique.
    Nbma,
    /// The last one wins.
    None,
}
