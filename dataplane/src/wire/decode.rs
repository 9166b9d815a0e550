//! Netlink messages → model.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::Nla as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    GreIOFlags, InfoData, InfoGre, InfoGre6, InfoKind, InfoVrf, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteIp6Tunnel, RouteIp6TunnelFlags, RouteLwTunnelEncap,
    RouteMessage, RouteNextHop, RouteType, RouteVia,
};

use super::encode::{COPY_CLASS, GRE_FLAGS, INHERIT, IPV6_DEFAULT_METRIC, NO_ENCAP_LIMIT};
use crate::model::{Address, GreLink, Link, LinkCounters, Lookup, Outer, PROTOCOL, Route, Target};

/// A neighbour entry of any state and owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) link: u32,
    pub(crate) overlay: IpAddr,
    pub(crate) nbma: Option<IpAddr>,
    pub(crate) state: NeighbourState,
    pub(crate) protocol: u8,
}

/// A link; `None` for messages about a link's role in something else (a bridge port's removal looks like a
/// link's).
pub(crate) fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        alias: String::new(),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        noarp: flags.contains(LinkFlags::Noarp),
        mtu: 0,
        master: 0,
        vrf_table: None,
        gre: None,
    };
    let (mut data, mut data6) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(master) => link.master = *master,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(InfoKind::Other(kind)) => link.kind.clone_from(kind),
                        LinkInfo::Kind(kind) => link.kind = kind.to_string(),
                        LinkInfo::Data(InfoData::GreTun(parameters)) => data = Some(parameters),
                        LinkInfo::Data(InfoData::GreTun6(parameters)) => data6 = Some(parameters),
                        LinkInfo::Data(InfoData::Vrf(parameters)) => {
                            link.vrf_table = parameters.iter().find_map(|parameter| match parameter {
                                InfoVrf::TableId(table) => Some(*table),
                                _ => None,
                            });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let over4 = data.and_then(|parameters| gre(&link, parameters));
    link.gre = over4.or_else(|| data6.map(|parameters| gre6(&link, parameters)));
    Some(link)
}

/// Counters out of a link message.
pub(crate) fn counters(message: &LinkMessage) -> Option<LinkCounters> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(s) => Some(LinkCounters {
            rx_packets: s.rx_packets,
            tx_packets: s.tx_packets,
            rx_bytes: s.rx_bytes,
            tx_bytes: s.tx_bytes,
            rx_errors: s.rx_errors,
            tx_errors: s.tx_errors,
        }),
        _ => None,
    })
}

/// An address of scope global, site or link.
pub(crate) fn address(message: &AddressMessage) -> Option<Address> {
    if matches!(message.header.scope, AddressScope::Host | AddressScope::Nowhere) {
        return None;
    }
    let (mut local, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => peer = Some(*a),
            _ => {}
        }
    }
    // With a point-to-point peer the latter is the peer's.
    let ip = local.or(peer)?;
    let address = IpNet::new(ip, message.header.prefix_len).ok()?;
    Some(Address { link: message.header.index, address })
}

/// A route that steers packets, and its protocol number; `None` for local, broadcast, multicast and cached
/// ones.
pub(crate) fn route(message: &RouteMessage) -> Option<(Route, u8)> {
    let header = &message.header;
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let (mut destination, mut table, mut metric, mut source) = (any, u32::from(header.table), 0, None);
    let (mut hop, mut outer) = ((None, None), None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => destination = ip(a)?,
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Priority(p) => metric = *p,
            RouteAttribute::PrefSource(a) => source = ip(a),
            RouteAttribute::Encap(parts) => outer = self::outer(parts),
            // Ours have one hop; of a foreign one the first will do.
            RouteAttribute::MultiPath(hops) => hop = hops.first().map(multipath_hop).unwrap_or_default(),
            _ => {}
        }
    }
    let (oif, via) = next_hop(&message.attributes);
    hop = (hop.0.or(oif), hop.1.or(via));
    let target = match header.kind {
        RouteType::Unicast => match outer {
            Some(outer) => Target::Encap { link: hop.0?, via: hop.1, outer },
            None => Target::Link { link: hop.0?, via: hop.1 },
        },
        RouteType::Unreachable | RouteType::BlackHole | RouteType::Prohibit => Target::Unreachable,
        _ => return None,
    };
    let protocol = u8::from(header.protocol);
    if any.is_ipv6() && metric == IPV6_DEFAULT_METRIC && protocol == PROTOCOL {
        metric = 0;
    }
    let prefix = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some((Route { prefix, table, metric, target, source }, protocol))
}

/// The answer to a route lookup; `None`: the kernel would not send it.
pub(crate) fn lookup(message: &RouteMessage) -> Option<Lookup> {
    if matches!(message.header.kind, RouteType::Unreachable | RouteType::BlackHole | RouteType::Prohibit) {
        return None;
    }
    let (link, via) = next_hop(&message.attributes);
    let source = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::PrefSource(a) => ip(a),
        _ => None,
    });
    Some(Lookup { link: link?, via, source })
}

/// A neighbour entry of an IP family.
pub(crate) fn neighbour(message: &NeighbourMessage) -> Option<Entry> {
    let (mut overlay, mut nbma, mut protocol) = (None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => overlay = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => overlay = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => nbma = link_layer(bytes),
            NeighbourAttribute::Protocol(p) => protocol = u8::from(*p),
            _ => {}
        }
    }
    let NeighbourMessage { header, .. } = message;
    Some(Entry { link: header.ifindex, overlay: overlay?, nbma, state: header.state, protocol })
}

/// The parameters in the form of a wanted link. What no wanted link has (two keys, checksums, sequence
/// numbers, a fixed TOS, no path MTU discovery) is reported as TTL 0, so that a comparison always sees
/// the difference.
fn gre(link: &Link, parameters: &[InfoGre]) -> Option<GreLink> {
    let mut local = Ipv4Addr::UNSPECIFIED;
    let mut remote = Ipv4Addr::UNSPECIFIED;
    let (mut iflags, mut oflags) = (GreIOFlags::empty(), GreIOFlags::empty());
    let (mut ikey, mut okey, mut ttl, mut plain, mut copy_dscp, mut underlay) = (0, 0, 0, true, false, 0);
    for parameter in parameters {
        match parameter {
            InfoGre::Local(a) => local = *a,
            InfoGre::Remote(a) => remote = *a,
            InfoGre::IFlags(f) => iflags = *f,
            InfoGre::OFlags(f) => oflags = *f,
            InfoGre::IKey(k) => ikey = *k,
            InfoGre::OKey(k) => okey = *k,
            InfoGre::Ttl(t) => ttl = *t,
            InfoGre::Link(index) => underlay = *index,
            InfoGre::Tos(tos) => {
                copy_dscp = *tos == INHERIT;
                plain &= copy_dscp || *tos == 0;
            }
            InfoGre::PathMTUDiscovery(on) => plain &= *on,
            InfoGre::CollectMetadata => return None,
            _ => {}
        }
    }
    plain &= iflags == oflags && (GreIOFlags::Key.contains(iflags)) && ikey == okey;
    Some(GreLink {
        name: link.name.clone(),
        alias: link.alias.clone(),
        local: local.into(),
        remote: (!remote.is_unspecified()).then_some(remote.into()),
        key: iflags.contains(GreIOFlags::Key).then_some(ikey),
        ttl: if plain { ttl } else { 0 },
        copy_dscp,
        master: link.master,
        underlay,
        mtu: link.mtu,
        up: link.up,
    })
}

/// The same over IPv6. A link in metadata mode is reported as [`GreLink::shown`] says it.
fn gre6(link: &Link, parameters: &[InfoGre6]) -> GreLink {
    let (mut local, mut remote) = (Ipv6Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let (mut iflags, mut oflags) = (GreIOFlags::empty(), GreIOFlags::empty());
    let (mut ikey, mut okey, mut ttl, mut plain, mut metadata, mut flags) = (0, 0, 0, true, false, 0);
    let mut underlay = 0;
    for parameter in parameters {
        match parameter {
            InfoGre6::Local(a) => local = *a,
            InfoGre6::Remote(a) => remote = *a,
            InfoGre6::IFlags(f) => iflags = *f,
            InfoGre6::OFlags(f) => oflags = *f,
            InfoGre6::IKey(k) => ikey = *k,
            InfoGre6::OKey(k) => okey = *k,
            InfoGre6::Ttl(t) => ttl = *t,
            InfoGre6::Link(index) => underlay = *index,
            InfoGre6::FlowLabel(flow) => plain &= *flow == 0,
            InfoGre6::CollectMetadata => metadata = true,
            InfoGre6::Other(other) if other.kind() == GRE_FLAGS => {
                let mut value = [0; 4];
                if other.value_len() == value.len() {
                    other.emit_value(&mut value);
                }
                flags = u32::from_ne_bytes(value);
            }
            _ => {}
        }
    }
    let shown = GreLink {
        name: link.name.clone(),
        alias: link.alias.clone(),
        local: local.into(),
        remote: (!remote.is_unspecified()).then_some(remote.into()),
        key: iflags.contains(GreIOFlags::Key).then_some(ikey),
        ttl,
        copy_dscp: flags & COPY_CLASS != 0,
        master: link.master,
        underlay,
        mtu: link.mtu,
        up: link.up,
    };
    if metadata {
        return GreLink {
            local: Ipv6Addr::UNSPECIFIED.into(),
            remote: None,
            key: None,
            ttl: u8::MAX,
            copy_dscp: false,
            ..shown
        };
    }
    // Without a remote, and not in metadata mode, it cannot send: no wanted link is like that.
    plain &= iflags == oflags && GreIOFlags::Key.contains(iflags) && ikey == okey;
    plain &= flags & NO_ENCAP_LIMIT != 0 && shown.remote.is_some();
    GreLink { ttl: if plain { ttl } else { 0 }, ..shown }
}

/// The outer header of a route; `None`: it has none over IPv6.
fn outer(parts: &[RouteLwTunnelEncap]) -> Option<Outer> {
    let (mut local, mut remote, mut key) = (Ipv6Addr::UNSPECIFIED, None, 0);
    let (mut ttl, mut plain, mut flags) = (0, true, RouteIp6TunnelFlags::empty());
    for part in parts {
        let RouteLwTunnelEncap::Ip6(part) = part else { continue };
        match part {
            RouteIp6Tunnel::Id(id) => key = *id,
            RouteIp6Tunnel::Destination(a) => remote = Some(*a),
            RouteIp6Tunnel::Source(a) => local = *a,
            RouteIp6Tunnel::Hoplimit(limit) => ttl = *limit,
            RouteIp6Tunnel::Tc(tc) => plain &= *tc == 0,
            RouteIp6Tunnel::Flags(all) => flags = *all,
            RouteIp6Tunnel::Opts(_) => plain = false,
            _ => {}
        }
    }
    plain &= RouteIp6TunnelFlags::Key.contains(flags) && u32::try_from(key).is_ok();
    Some(Outer {
        local,
        remote: remote?,
        key: flags.contains(RouteIp6TunnelFlags::Key).then_some(u32::try_from(key).unwrap_or(0)),
        ttl: if plain { ttl } else { 0 },
    })
}

fn multipath_hop(hop: &RouteNextHop) -> (Option<u32>, Option<IpAddr>) {
    let (_, via) = next_hop(&hop.attributes);
    (Some(hop.interface_index), via)
}

fn next_hop(attributes: &[RouteAttribute]) -> (Option<u32>, Option<IpAddr>) {
    let (mut link, mut via) = (None, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(a) => via = ip(a),
            RouteAttribute::Via(RouteVia::Inet(a)) => via = Some(IpAddr::V4(*a)),
            RouteAttribute::Via(RouteVia::Inet6(a)) => via = Some(IpAddr::V6(*a)),
            _ => {}
        }
    }
    (link, via)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn link_layer(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        // A neighbour without an answer yet shows zeros.
        return Some(IpAddr::from(octets)).filter(|a| !a.is_unspecified());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from).filter(|a| !a.is_unspecified())
}
