//! What should be in the kernel for one tunnel: the fixed part from the endpoint, the moving part from the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::endpoint::{DmvpnEndpointSpec, Role};
use crds::network::MulticastMode;
use dataplane::model::{Address, GreLink, Neighbour, Op, Route, Target};
use dataplane::nft::{Capture, Ruleset};
use ipnet::IpNet;
use nhrp::{Multicast, Output, RouteKind};

/// Prefix of the alias that marks our links.
pub const ALIAS_PREFIX: &str = "dmvpn.io/";
/// The main routing table.
pub const MAIN_TABLE: u32 = 254;
/// NFLOG group of the redirect capture (a number of our own; groups are per network namespace).
pub const REDIRECT_GROUP: u16 = 214;
/// NFLOG group of the multicast capture.
pub const MULTICAST_GROUP: u16 = 215;
/// Metric of the route that keeps overlay traffic without a better way from following the default route.
const LAST_RESORT: u32 = 65_535;

/// Metrics of the kinds of routes: the more direct, the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    announced: u32,
}

impl Metrics {
    /// `metric` is that of prefixes learned through a hub (`spec.routing.metric`); three lower ones are used too.
    pub fn new(metric: u32) -> Self {
        Self { announced: metric.max(4) }
    }

    /// Metric of a kind.
    pub fn of(self, kind: RouteKind) -> u32 {
        match kind {
            RouteKind::Host => self.announced - 3,
            RouteKind::Shortcut => self.announced - 2,
            RouteKind::Registered => self.announced - 1,
            RouteKind::Announced => self.announced,
        }
    }
}

/// Where a wanted route goes; the link is the tunnel's, whose index is only known once it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// On the link.
    Direct,
    /// By an overlay next hop on the link.
    Via(IpAddr),
    /// Unreachable.
    Unreachable,
}

/// Everything that should be in the kernel for one tunnel.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Name of the network.
    pub network: String,
    /// The link.
    pub link: GreLink,
    /// Addresses on it.
    pub addresses: BTreeSet<IpNet>,
    /// The nft table.
    pub nft: Ruleset,
    /// Who gets multicast; `None`: nobody.
    pub multicast: Option<Multicast>,
    /// Routes of the endpoint itself: (prefix, metric) → way.
    pub fixed: BTreeMap<(IpNet, u32), Way>,
    /// Routes of the engine: (prefix, kind) → overlay next hop.
    pub learned: BTreeMap<(IpNet, RouteKind), IpAddr>,
    /// Neighbours of the engine: overlay → NBMA.
    pub neighbours: BTreeMap<IpAddr, IpAddr>,
    /// Metrics.
    pub metrics: Metrics,
}

impl Wanted {
    /// The fixed part. `local` is the underlay address found for the endpoint's tunnel source.
    pub fn new(spec: &DmvpnEndpointSpec, local: IpAddr) -> Self {
        let tunnel = &spec.tunnel;
        let link = GreLink {
            name: tunnel.interface_name.clone(),
            alias: format!("{ALIAS_PREFIX}{}", spec.network),
            local,
            remote: None,
            key: tunnel.key,
            ttl: tunnel.ttl,
            mtu: u32::from(tunnel.mtu),
            up: !spec.suspend,
        };
        let addresses = spec.addresses.iter().map(|a| IpNet::from(a.address)).collect();
        let fixed = spec.overlay.iter().map(|p| ((p.0, LAST_RESORT), Way::Unreachable)).collect();
        let multicast = spec.nhrp.multicast.as_ref().and_then(|multicast| match multicast.mode {
            MulticastMode::Dynamic => Some(Multicast::Dynamic),
            MulticastMode::Nhs => Some(Multicast::Nhs),
            MulticastMode::Static => Some(Multicast::Static),
            MulticastMode::None => None,
        });
        let mtu = tunnel.mtu;
        let clamp = tunnel.tcp_mss_policy == crds::network::TcpMssPolicy::Clamp;
        let nft = Ruleset {
            network: spec.network.clone(),
            interface: tunnel.interface_name.clone(),
            redirect_group: (spec.role != Role::Spoke && spec.phase == crds::network::Phase::Phase3)
                .then_some(REDIRECT_GROUP),
            // IPv4 and TCP headers without options are 40 bytes, IPv6's 60 (RFC 6691).
            mss_clamp: clamp.then(|| (mtu.saturating_sub(40), mtu.saturating_sub(60))),
            track_use: spec.role != Role::Hub,
            multicast: multicast.map(|mode| capture(spec, mode)),
            outer: match local {
                IpAddr::V4(local) => Some((local, tunnel.key)),
                IpAddr::V6(_) => None,
            },
        };
        Self {
            network: spec.network.clone(),
            link,
            addresses,
            nft,
            multicast,
            fixed,
            learned: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            metrics: Metrics::new(spec.routing.metric),
        }
    }

    /// Takes a new fixed part, keeping what the engine found out.
    pub fn replace_fixed(&mut self, new: Self) {
        let learned = std::mem::take(&mut self.learned);
        let neighbours = std::mem::take(&mut self.neighbours);
        *self = Self { learned, neighbours, ..new };
    }

    /// Which hub's overlay addresses the overlay as a whole is routed by (`None`: nowhere).
    pub fn set_gateway(&mut self, overlay: &[IpNet], hubs: &[IpAddr]) {
        let metric = self.metrics.of(RouteKind::Announced);
        for prefix in overlay {
            let hub = hubs.iter().find(|h| h.is_ipv4() == prefix.addr().is_ipv4());
            match hub {
                Some(hub) => self.fixed.insert((*prefix, metric), Way::Via(*hub)),
                None => self.fixed.remove(&(*prefix, metric)),
            };
        }
    }

    /// Takes an output of the engine into the set; returns the change of the kernel that it means, for a link with
    /// index `link`.
    pub fn learn(&mut self, output: &Output, link: u32) -> Option<Op> {
        match *output {
            Output::InstallNeighbour { overlay, nbma, .. } => {
                self.neighbours.insert(overlay, nbma);
                Some(Op::PutNeighbour(Neighbour { link, overlay, nbma }))
            }
            Output::RemoveNeighbour { overlay, .. } => {
                self.neighbours.remove(&overlay);
                Some(Op::DeleteNeighbour { link, overlay })
            }
            Output::InstallRoute { prefix, via, kind, .. } => {
                self.learned.insert((prefix, kind), via);
                Some(Op::PutRoute(self.route(prefix, self.metrics.of(kind), way(prefix, via), link)))
            }
            Output::RemoveRoute { prefix, kind, .. } => {
                let via = self.learned.remove(&(prefix, kind))?;
                let metric = self.metrics.of(kind);
                // A fixed route of the same place stays.
                match self.fixed.get(&(prefix, metric)) {
                    Some(&fixed) => Some(Op::PutRoute(self.route(prefix, metric, fixed, link))),
                    None => Some(Op::DeleteRoute(self.route(prefix, metric, way(prefix, via), link))),
                }
            }
            _ => None,
        }
    }

    /// All routes, as the kernel knows them, on a link with index `link`.
    pub fn routes(&self, link: u32) -> impl Iterator<Item = Route> + '_ {
        let mut all = self.fixed.clone();
        let learned = self.learned.iter();
        all.extend(
            learned.map(|(&(prefix, kind), &via)| ((prefix, self.metrics.of(kind)), way(prefix, via))),
        );
        all.into_iter().map(move |((prefix, metric), way)| self.route(prefix, metric, way, link))
    }

    /// Whether exactly this route is wanted, on a link with index `link`.
    pub fn has_route(&self, route: &Route, link: u32) -> bool {
        let key = (route.prefix, route.metric);
        let kinds = [RouteKind::Host, RouteKind::Shortcut, RouteKind::Registered, RouteKind::Announced];
        let learned = kinds
            .into_iter()
            .filter(|k| self.metrics.of(*k) == route.metric)
            .find_map(|kind| self.learned.get(&(route.prefix, kind)).map(|via| way(route.prefix, *via)));
        let way = learned.or_else(|| self.fixed.get(&key).copied());
        way.is_some_and(|way| self.route(route.prefix, route.metric, way, link) == *route)
    }

    /// All addresses.
    pub fn addresses(&self, link: u32) -> impl Iterator<Item = Address> + '_ {
        self.addresses.iter().map(move |&address| Address { link, address })
    }

    fn route(&self, prefix: IpNet, metric: u32, way: Way, link: u32) -> Route {
        let target = match way {
            Way::Direct => Target::Link { link, via: None },
            Way::Via(hop) => Target::Link { link, via: Some(hop) },
            Way::Unreachable => Target::Unreachable,
        };
        Route { prefix, table: MAIN_TABLE, metric, target, source: None }
    }
}

/// What of multicast the kernel hands to us.
///
/// Link-local groups (224.0.0.0/24, ff02::/16) are not passed on from one spoke to others: routers do not forward them
/// (RFC 5771 §4, RFC 4291 §2.7), Cisco's hubs do not, and relayed hellos would make each spoke every other's routing
/// neighbour. Whoever wants one relayed names it in `groups`.
fn capture(spec: &DmvpnEndpointSpec, mode: Multicast) -> Capture {
    let named = spec.nhrp.multicast.iter().flat_map(|multicast| &multicast.groups);
    let named: BTreeSet<IpAddr> = named.filter_map(|group| group.parse().ok()).collect();
    let link_local = |group: &IpAddr| match group {
        IpAddr::V4(group) => matches!(group.octets(), [224, 0, 0, _]),
        IpAddr::V6(group) => group.segments()[0] == 0xff02,
    };
    let relays = spec.role != Role::Spoke && mode != Multicast::Nhs;
    Capture {
        group: MULTICAST_GROUP,
        groups: named.iter().copied().filter(|group| !link_local(group)).collect(),
        relayed: if relays { named.into_iter().collect() } else { Vec::new() },
    }
}

fn way(prefix: IpNet, via: IpAddr) -> Way {
    if prefix == IpNet::from(via) { Way::Direct } else { Way::Via(via) }
}
