//! What should be in the kernel for one tunnel: the fixed part from the endpoint, the moving part from the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::endpoint::{DmvpnEndpointSpec, Role};
use crds::network::{DscpPolicy, MulticastMode, NhrpMode, Phase};
use dataplane::model::{Address, GreLink, Neighbour, Op, Route, Target};
use dataplane::nft::{Capture, Guard, Mapping, Peers, Ruleset, Senders, Use};
use ipnet::IpNet;
use nhrp::{Multicast, Output, RouteKind, Time};

use super::keep::Keep;
use super::pins;
use super::shaping::{Shape, Shaping};
use super::sources::Sources;

/// Prefix of the alias that marks our links.
pub const ALIAS_PREFIX: &str = "dmvpn.io/";
/// The main routing table.
pub const MAIN_TABLE: u32 = 254;
/// NFLOG group of the redirect capture (a number of our own; groups are per network namespace).
pub const REDIRECT_GROUP: u16 = 214;
/// NFLOG group of the multicast capture.
pub const MULTICAST_GROUP: u16 = 215;
/// How long a pin outlasts the last question or answer to a peer: it is asked again, or becomes a neighbour, sooner.
const VISIT_MS: u64 = 10_000;
/// Such peers in all: strangers may have us answer them.
const VISITORS: usize = 256;
/// A peer over IPv6 is let in for so long after we sent it something, in seconds: the longest holding time that is usual
/// (Cisco's default).
const PEER_SECONDS: u32 = 7_200;
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

/// A VRF: its device, and its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vrf {
    /// Interface index of the device.
    pub link: u32,
    /// Routing table.
    pub table: u32,
}

/// The VRFs of a tunnel; `None`: the main table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vrfs {
    /// That of its inner side.
    pub overlay: Option<Vrf>,
    /// That of its outer side (front door).
    pub underlay: Option<Vrf>,
}

/// Everything that should be in the kernel for one tunnel.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Name of the network.
    pub network: String,
    /// The link.
    pub link: GreLink,
    /// Addresses on it that the endpoint names.
    pub addresses: BTreeSet<IpNet>,
    /// Addresses on it that a hub assigned.
    pub assigned: BTreeSet<IpNet>,
    /// The nft table.
    pub nft: Ruleset,
    /// Who gets multicast; `None`: nobody.
    pub multicast: Option<Multicast>,
    /// Routes of the endpoint itself: (prefix, metric) → way.
    pub fixed: BTreeMap<(IpNet, u32), Way>,
    /// Routes of the engine: (prefix, kind) → overlay next hop; those to a host itself are in `hosts`.
    pub learned: BTreeMap<(IpNet, RouteKind), IpAddr>,
    /// Overlay hosts of the engine.
    hosts: BTreeMap<IpAddr, Host>,
    /// Metrics.
    pub metrics: Metrics,
    /// Underlay addresses that were asked or answered straight lately: who asked by way of others is no neighbour.
    visitors: BTreeMap<IpAddr, Time>,
    /// Routes of the underlay, of its family, once they were looked at: only needed with a default route by the tunnel.
    pub underlay: Option<Vec<Route>>,
    /// The table that its routes are in: the main one, or that of its VRF.
    pub(super) table: u32,
    /// The other end of a point-to-point tunnel answers no keepalive: nothing is routed there.
    pub dead: bool,
    /// What each peer of a hub may send.
    pub sources: Sources,
    /// How fast a hub sends to its spokes.
    pub shaping: Shaping,
    /// What this node must not lose to a route of ours.
    pub(super) keep: Keep,
}

/// What is wanted for an overlay host. A hub has one of these for each spoke.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Host {
    /// Neighbour: where it is in the underlay.
    nbma: Option<IpAddr>,
    /// A route to it on the link.
    routed: bool,
}

impl Wanted {
    /// The fixed part. `local` is the underlay address found for the endpoint's tunnel source, `remote` the other end
    /// of a point-to-point tunnel.
    pub fn new(spec: &DmvpnEndpointSpec, local: IpAddr, remote: Option<IpAddr>) -> Self {
        Self::with_mtu(spec, local, remote, u32::from(spec.tunnel.mtu))
    }

    /// As [`Self::new`], with an IP MTU that was worked out.
    pub fn with_mtu(spec: &DmvpnEndpointSpec, local: IpAddr, remote: Option<IpAddr>, mtu: u32) -> Self {
        let tunnel = &spec.tunnel;
        let link = GreLink {
            name: tunnel.interface_name.clone(),
            alias: format!("{ALIAS_PREFIX}{}", spec.network),
            local,
            remote,
            key: tunnel.key,
            ttl: tunnel.ttl,
            copy_dscp: tunnel.dscp_policy == DscpPolicy::Copy,
            master: 0,
            underlay: 0,
            mtu,
            up: !spec.suspend,
        };
        let addresses = spec.addresses.iter().map(|a| IpNet::from(a.address)).collect();
        // What lies in a summary of ours and is nowhere must not follow a route that leads on: others send it here.
        let summaries = spec.advertise.iter().filter(|p| p.prefix_len() > 0);
        let ends_here = spec.overlay.iter().chain(summaries);
        let mut fixed: BTreeMap<_, _> = ends_here.map(|p| ((p.0, LAST_RESORT), Way::Unreachable)).collect();
        fixed.extend(other_end(spec, remote));
        // A point-to-point link carries multicast by itself: with a copy of ours the hub would have it twice.
        let settings = spec.nhrp.multicast.as_ref().filter(|_| remote.is_none());
        let multicast = settings.and_then(|multicast| match multicast.mode {
            MulticastMode::Dynamic => Some(Multicast::Dynamic),
            MulticastMode::Nhs => Some(Multicast::Nhs),
            MulticastMode::Static => Some(Multicast::Static),
            MulticastMode::None => None,
        });
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        let clamp = tunnel.tcp_mss_policy == crds::network::TcpMssPolicy::Clamp;
        let shaping = Shaping::new(spec, remote.is_none() && local.is_ipv4());
        let nft = Ruleset {
            network: spec.network.clone(),
            interface: tunnel.interface_name.clone(),
            vrf: false,
            redirect_group: (spec.role != Role::Spoke && spec.phase == Phase::Phase3)
                .then_some(REDIRECT_GROUP),
            beside: BTreeSet::new(),
            // IPv4 and TCP headers without options are 40 bytes, IPv6's 60 (RFC 6691).
            mss_clamp: clamp.then(|| (mtu.saturating_sub(40), mtu.saturating_sub(60))),
            track_use: match spec.phase {
                _ if spec.role == Role::Hub => None,
                Phase::Phase1 => None,
                Phase::Phase2 => Some(Use::NextHops),
                Phase::Phase3 => Some(Use::Destinations),
            },
            multicast: multicast.map(|mode| capture(spec, mode)),
            guard: match local {
                IpAddr::V4(local) if spec.ipsec.is_some() => {
                    Some(Guard { locals: [local].into(), key: tunnel.key })
                }
                _ => None,
            },
            outer: match local {
                IpAddr::V4(local) => Some((local, tunnel.key)),
                IpAddr::V6(_) => None,
            },
            // Until it is known who is behind whom.
            sources: None,
            peers: match local {
                IpAddr::V6(local) if remote.is_none() => Some(peers(spec, local)),
                _ => None,
            },
            shape: shaping.is_on(),
            mappings: mappings(spec),
        };
        Self {
            network: spec.network.clone(),
            link,
            addresses,
            assigned: BTreeSet::new(),
            nft,
            multicast,
            fixed,
            learned: BTreeMap::new(),
            hosts: BTreeMap::new(),
            visitors: BTreeMap::new(),
            metrics: Metrics::new(spec.routing.metric),
            underlay: None,
            table: MAIN_TABLE,
            dead: false,
            sources: Sources::new(spec),
            shaping,
            keep: Keep::default(),
        }
    }

    /// The same in these VRFs.
    #[must_use]
    pub fn within(mut self, vrfs: Vrfs) -> Self {
        self.link.master = vrfs.overlay.map_or(0, |vrf| vrf.link);
        self.link.underlay = vrfs.underlay.map_or(0, |vrf| vrf.link);
        self.nft.vrf = vrfs.overlay.is_some();
        self.table = vrfs.overlay.map_or(MAIN_TABLE, |vrf| vrf.table);
        self
    }

    /// Its VRF has gone: the link is to be down, with nothing on it, until there is one again.
    pub fn lose_vrf(&mut self) {
        self.link.up &= !self.nft.vrf;
        self.link.master = 0;
    }

    /// Whether the VRF that it belongs to has gone.
    pub fn is_homeless(&self) -> bool {
        self.nft.vrf && self.link.master == 0
    }

    /// Takes a new fixed part, keeping what the engine found out.
    pub fn replace_fixed(&mut self, mut new: Self) {
        new.shaping.keep(&mut self.shaping);
        new.sources.keep(&mut self.sources);
        new.nft.sources = self.nft.sources.and_then(|_| new.sources.strangers());
        let learned = std::mem::take(&mut self.learned);
        let hosts = std::mem::take(&mut self.hosts);
        let visitors = std::mem::take(&mut self.visitors);
        let assigned = std::mem::take(&mut self.assigned);
        let underlay = self.underlay.take();
        let keep = std::mem::take(&mut self.keep);
        let dead = self.dead && new.link.remote == self.link.remote;
        *self = Self { learned, hosts, visitors, assigned, underlay, dead, keep, ..new };
    }

    /// Prefixes that the tunnel leads to, whichever way: told by hubs, registered here, or fixed.
    pub fn leads_to(&self) -> impl Iterator<Item = IpNet> + '_ {
        let told = |kind: &RouteKind| matches!(kind, RouteKind::Announced | RouteKind::Registered);
        let learned = self.learned.keys().filter(move |(_, kind)| told(kind)).map(|(prefix, _)| *prefix);
        let fixed = self.fixed.iter().filter(|(_, way)| **way != Way::Unreachable);
        learned.chain(fixed.map(|((prefix, _), _)| *prefix))
    }

    /// Forgets what the engine found out.
    pub fn forget(&mut self) {
        self.learned.clear();
        self.keep.forget();
        self.hosts.clear();
        self.visitors.clear();
        self.assigned.clear();
        self.shaping.forget();
        self.sources.stir();
    }

    /// What each peer may send now.
    pub fn senders(&mut self) -> Senders {
        let hosts = self.hosts.iter().filter_map(|(overlay, host)| Some((*overlay, host.nbma?)));
        let behind = [RouteKind::Registered, RouteKind::Shortcut];
        let prefixes = self.learned.iter().filter(|((_, kind), _)| behind.contains(kind));
        let prefixes = prefixes.map(|((prefix, _), via)| (*prefix, *via));
        self.sources.senders(hosts, prefixes)
    }

    /// The NBMA address of the neighbour that is wanted for an overlay host.
    pub fn neighbour(&self, overlay: IpAddr) -> Option<IpAddr> {
        self.hosts.get(&overlay)?.nbma
    }

    /// All neighbours: overlay and NBMA address. A point-to-point link has none, nor has one over IPv6.
    pub fn neighbours(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> + '_ {
        let hosts = self.hosts.iter().filter(|_| self.has_neighbours());
        hosts.filter_map(|(overlay, host)| Some((*overlay, host.nbma?)))
    }

    /// How fast it is to send to whom now.
    pub fn shape(&mut self) -> Shape {
        let known = self.hosts.iter().filter_map(|(overlay, host)| Some((*overlay, host.nbma?)));
        self.shaping.shape(known)
    }

    /// Whether the link is told of neighbours.
    fn has_neighbours(&self) -> bool {
        self.link.remote.is_none() && !self.routes_encapsulate() && !self.is_homeless()
    }

    /// Underlay addresses of all overlay hosts, by whatever means the kernel is told of them.
    pub(super) fn places(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let hosts = self.hosts.values().filter(|_| self.link.remote.is_none());
        hosts.filter_map(|host| host.nbma)
    }

    /// Whether an overlay host has a route of its own.
    pub(super) fn is_routed(&self, overlay: IpAddr) -> bool {
        self.hosts.get(&overlay).is_some_and(|host| host.routed)
    }

    /// Changes what is wanted for an overlay host; says what was wanted before.
    fn host(&mut self, overlay: IpAddr, change: impl FnOnce(&mut Host)) -> Host {
        let host = self.hosts.entry(overlay).or_default();
        let before = *host;
        change(host);
        if *host == Host::default() {
            self.hosts.remove(&overlay);
        }
        before
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
        self.sources.heed(output);
        match *output {
            // A point-to-point link has one other end, and asks nobody where that is: kept for when it is another.
            Output::InstallNeighbour { overlay, nbma, .. } => {
                self.host(overlay, |host| host.nbma = Some(nbma));
                self.shaping.stir();
                let put = Op::PutNeighbour(Neighbour { link, overlay, nbma });
                self.has_neighbours().then_some(put)
            }
            Output::RemoveNeighbour { overlay, .. } => {
                self.host(overlay, |host| host.nbma = None);
                self.shaping.say(overlay, None);
                self.has_neighbours().then_some(Op::DeleteNeighbour { link, overlay })
            }
            Output::InstallRoute { prefix, via, kind, .. } => {
                match is_to_host(prefix, kind, via) {
                    true => drop(self.host(via, |host| host.routed = true)),
                    false => {
                        self.keep.learn(prefix, kind);
                        self.learned.insert((prefix, kind), via);
                    }
                }
                if self.dead || !self.may_be_put(prefix) {
                    return None;
                }
                self.route(prefix, self.metrics.of(kind), way(prefix, via), link).map(Op::PutRoute)
            }
            Output::RemoveRoute { prefix, kind, .. } => {
                let via = match is_to_host(prefix, kind, prefix.addr()) {
                    true => {
                        self.host(prefix.addr(), |host| host.routed = false).routed.then(|| prefix.addr())
                    }
                    false => {
                        self.keep.unlearn(prefix, kind);
                        self.learned.remove(&(prefix, kind))
                    }
                }?;
                if self.dead {
                    return None;
                }
                let metric = self.metrics.of(kind);
                // A fixed route of the same place stays.
                match self.fixed.get(&(prefix, metric)) {
                    Some(&fixed) => self.route(prefix, metric, fixed, link).map(Op::PutRoute),
                    None => {
                        let target = plain(way(prefix, via), link);
                        Some(Op::DeleteRoute(Route {
                            prefix,
                            table: self.table,
                            metric,
                            target,
                            source: None,
                        }))
                    }
                }
            }
            Output::Group { overlay, ref group, .. } => {
                self.shaping.say(overlay, group.as_ref());
                None
            }
            Output::AssignAddress { address, .. } => {
                let address = IpNet::from(address);
                self.assigned.insert(address);
                Some(Op::AddAddress(Address { link, address }))
            }
            Output::ReleaseAddress { address, .. } => {
                let address = IpNet::from(address);
                self.assigned.remove(&address);
                (!self.addresses.contains(&address)).then_some(Op::DeleteAddress(Address { link, address }))
            }
            _ => None,
        }
    }

    /// All routes, as the kernel knows them, on a link with index `link`.
    pub fn routes(&self, link: u32) -> impl Iterator<Item = Route> + '_ {
        let mut all = self.fixed.clone();
        let withheld = self.default_pins().is_none();
        let learned = self
            .learned
            .iter()
            .filter(move |((prefix, _), _)| !(withheld && *prefix == self.default_prefix()));
        all.extend(
            learned.map(|(&(prefix, kind), &via)| ((prefix, self.metrics.of(kind)), way(prefix, via))),
        );
        let routed = self.hosts.iter().filter(|(_, host)| host.routed);
        let metric = self.metrics.of(RouteKind::Host);
        all.extend(routed.map(|(overlay, _)| ((IpNet::from(*overlay), metric), Way::Direct)));
        let all = all.into_iter().filter(|((prefix, _), way)| self.leads(*way) && self.spares(*prefix, *way));
        all.filter_map(move |((prefix, metric), way)| self.route(prefix, metric, way, link))
    }

    /// Whether routes of this kind are put in: not into a tunnel whose other end is away.
    fn leads(&self, way: Way) -> bool {
        !self.dead || way == Way::Unreachable
    }

    /// 0.0.0.0/0, or ::/0: that of the underlay's family, which the underlay's own is beside.
    fn default_prefix(&self) -> IpNet {
        match self.link.local {
            IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
        }
    }

    /// The next hop of a default route of that family that a hub told.
    pub fn default_gateway(&self) -> Option<IpAddr> {
        self.learned.get(&(self.default_prefix(), RouteKind::Announced)).copied()
    }

    /// Host routes on the underlay that go with that default route, or with routes that cover what this node lives by;
    /// `None`: there is no such route, or it must not be put in.
    pub fn pins(&self) -> Option<BTreeSet<Route>> {
        match (self.default_pins(), self.keeping_pins()) {
            (Some(pins), more) => Some(pins.into_iter().chain(more).collect()),
            (None, more) => (!more.is_empty()).then_some(more),
        }
    }

    /// Host routes on the underlay that go with that default route; `None`: there is none, or it must not be put in,
    /// since the underlay (as far as it is known) has no way of its own to the hub.
    fn default_pins(&self) -> Option<BTreeSet<Route>> {
        let gateway = self.default_gateway()?;
        if self.link.master != self.link.underlay {
            // The tunnel's packets follow another table.
            return Some(BTreeSet::new());
        }
        let remote = self.link.remote;
        let hub = remote.or_else(|| self.neighbour(gateway))?;
        let underlay = self.underlay.as_ref()?;
        pins::pin(underlay, hub)?;
        let peers = self.places().chain(remote);
        let peers = peers.chain(self.visitors.keys().copied());
        Some(peers.filter_map(|nbma| pins::pin(underlay, nbma)?).collect())
    }

    /// These underlay addresses are asked or answered now: their pins stay for a while. Without a default route by the
    /// tunnel there are none, and nothing is kept.
    pub fn visited(&mut self, now: Time, by: impl Iterator<Item = IpAddr>) {
        self.visitors.retain(|_, since| now.since(*since) < VISIT_MS);
        if self.default_gateway().is_none() {
            return;
        }
        for nbma in by {
            self.visitors.insert(nbma, now);
        }
        while self.visitors.len() > VISITORS {
            let oldest = self.visitors.iter().min_by_key(|(_, since)| **since).map(|(nbma, _)| *nbma);
            oldest.map(|nbma| self.visitors.remove(&nbma));
        }
    }

    /// That default route, on a link with index `link`.
    pub fn default_route(&self, link: u32) -> Option<Route> {
        let metric = self.metrics.of(RouteKind::Announced);
        let way = Some(Way::Via(self.default_gateway()?)).filter(|way| self.leads(*way))?;
        self.default_pins()?;
        self.route(self.default_prefix(), metric, way, link)
    }

    pub(super) fn may_be_put(&self, prefix: IpNet) -> bool {
        let spared = self.spares(prefix, Way::Direct);
        spared && (prefix != self.default_prefix() || self.default_pins().is_some())
    }

    /// Whether exactly this route is wanted, on a link with index `link`.
    pub fn has_route(&self, route: &Route, link: u32) -> bool {
        let key = (route.prefix, route.metric);
        let kinds = [RouteKind::Host, RouteKind::Shortcut, RouteKind::Registered, RouteKind::Announced];
        let learned = kinds
            .into_iter()
            .filter(|k| self.metrics.of(*k) == route.metric)
            .find_map(|kind| self.learned.get(&(route.prefix, kind)).map(|via| way(route.prefix, *via)));
        let learned = learned.filter(|_| self.may_be_put(route.prefix));
        let host = self.hosts.get(&route.prefix.addr()).filter(|host| {
            host.routed
                && is_to_host(route.prefix, RouteKind::Host, route.prefix.addr())
                && route.metric == self.metrics.of(RouteKind::Host)
        });
        let way = host.map(|_| Way::Direct).or(learned).or_else(|| self.fixed.get(&key).copied());
        let same = |way| self.route(route.prefix, route.metric, way, link).as_ref() == Some(route);
        way.is_some_and(|way| self.leads(way) && self.spares(route.prefix, way) && same(way))
            || self.pins().is_some_and(|pins| pins.contains(route))
    }

    /// All addresses.
    pub fn addresses(&self, link: u32) -> impl Iterator<Item = Address> + '_ {
        let all = self.addresses.union(&self.assigned).filter(|_| !self.is_homeless());
        all.map(move |&address| Address { link, address })
    }

    /// Whether an address is wanted on the link.
    pub fn has_address(&self, address: &IpNet) -> bool {
        !self.is_homeless() && (self.addresses.contains(address) || self.assigned.contains(address))
    }

    /// A route; `None`: it cannot be put in, since nobody knows where its next hop is.
    pub(super) fn route(&self, prefix: IpNet, metric: u32, way: Way, link: u32) -> Option<Route> {
        let target = match self.routes_encapsulate() {
            true => self.encapsulated(prefix, way, link)?,
            false => plain(way, link),
        };
        Some(Route { prefix, table: self.table, metric, target, source: None })
    }
}

/// Whether this is the route to an overlay host that the host's neighbour entry goes with.
fn is_to_host(prefix: IpNet, kind: RouteKind, via: IpAddr) -> bool {
    kind == RouteKind::Host && prefix == IpNet::from(via)
}

fn plain(way: Way, link: u32) -> Target {
    match way {
        Way::Direct => Target::Link { link, via: None },
        Way::Via(hop) => Target::Link { link, via: Some(hop) },
        Way::Unreachable => Target::Unreachable,
    }
}

/// Prefixes behind the node that are mapped, or keep their addresses.
fn mappings(spec: &DmvpnEndpointSpec) -> Vec<Mapping> {
    let named = spec.subnets.iter().filter_map(|it| Some((it.cidr.0, it.advertise_as?.0)));
    named.map(|(local, announced)| Mapping { local, announced }).collect()
}

/// Whose GRE is let into a multipoint tunnel over IPv6: those who are mapped, and those who are dealt with.
fn peers(spec: &DmvpnEndpointSpec, local: std::net::Ipv6Addr) -> Peers {
    let mapped = spec.nhrp.static_mappings.iter().filter_map(|mapping| match mapping.nbma_address {
        IpAddr::V6(nbma) => Some(nbma),
        IpAddr::V4(_) => None,
    });
    Peers {
        local,
        key: spec.tunnel.key,
        fixed: mapped.collect(),
        // They keep what we told them for a holding time, theirs or ours.
        seconds: u32::from(spec.nhrp.hold_time_seconds).max(PEER_SECONDS),
    }
}

/// Routes to the other end (`remote`) of a tunnel without NHRP, and to what is behind it: what the endpoint says is all
/// there is.
fn other_end(spec: &DmvpnEndpointSpec, remote: Option<IpAddr>) -> Vec<((IpNet, u32), Way)> {
    if spec.nhrp.mode == NhrpMode::Enabled {
        return Vec::new();
    }
    let metrics = Metrics::new(spec.routing.metric);
    let mapped = spec.nhrp.static_mappings.iter();
    let hosts = spec.nhs.iter().flat_map(|hub| &hub.overlay_addresses);
    let hosts = hosts.chain(mapped.clone().map(|it| &it.overlay_address));
    let prefixes = spec.nhs.iter().flat_map(|hub| &hub.subnets).chain(mapped.flat_map(|it| &it.subnets));
    let hosts = hosts.map(|host| ((IpNet::from(*host), metrics.of(RouteKind::Host)), Way::Direct));
    // The tunnel's own packets must not follow them.
    let prefixes = prefixes.filter(|it| it.prefix_len() > 0 && !remote.is_some_and(|end| it.contains(&end)));
    hosts.chain(prefixes.map(|it| ((it.0, metrics.of(RouteKind::Registered)), Way::Direct))).collect()
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
