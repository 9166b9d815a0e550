//! Model → netlink requests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, GreIOFlags, In6AddrGenMode, InfoData, InfoGre, InfoGre6, InfoKind,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::neighbour_table::{
    NeighbourTableAttribute, NeighbourTableMessage, NeighbourTableParameter,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteIp6Tunnel, RouteIp6TunnelFlags, RouteLwEnCapType,
    RouteLwTunnelEncap, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::frame::Request;
use crate::Error;
use crate::model::{Address, GreLink, Neighbour, Outer, PROTOCOL, Route, Target};
use crate::names;

/// The main routing table.
pub(crate) const MAIN_TABLE: u32 = 254;
/// The metric that IPv6 routes get when none is given; the kernel has no 0 there.
pub(crate) const IPV6_DEFAULT_METRIC: u32 = 1024;

/// `IFLA_GRE_FLAGS` and, in it, `IP6_TNL_F_IGN_ENCAP_LIMIT`: no destination option with an encapsulation limit in each
/// packet (linux/if_tunnel.h, linux/ip6_tunnel.h).
pub(crate) const GRE_FLAGS: u16 = 13;
pub(crate) const NO_ENCAP_LIMIT: u32 = 1;
/// There too, `IP6_TNL_F_USE_ORIG_TCLASS`: the outer traffic class is the inner one.
pub(crate) const COPY_CLASS: u32 = 2;
/// `IFLA_GRE_TOS`: the outer TOS is the inner one.
pub(crate) const INHERIT: u8 = 1;

const NLA_F_NESTED: u16 = 0x8000;
const IFLA_INET_CONF: u16 = 1;
// Numbers of per-interface IPv4 settings (linux/ip.h).
const DEVCONF_FORWARDING: u16 = 1;
const DEVCONF_ACCEPT_REDIRECTS: u16 = 4;
const DEVCONF_SEND_REDIRECTS: u16 = 6;
const DEVCONF_RP_FILTER: u16 = 8;

/// Refuses links that the kernel or nft could not take, or that we cannot make.
pub(crate) fn check(link: &GreLink) -> Result<(), Error> {
    names::check_interface(&link.name)?;
    names::check_alias(&link.alias)?;
    if link.ttl == 0 {
        return Err(Error::invalid("tunnel TTL", link.ttl, "must be 1 to 255, it is never inherited"));
    }
    if link.local.is_unspecified() {
        return Err(Error::invalid("tunnel source", link.local, "must be an address"));
    }
    if link.underlay != 0 && link.local.is_ipv6() {
        return Err(Error::invalid("VRF of the underlay", link.underlay, "is not supported over IPv6"));
    }
    if link.copy_dscp && link.is_metadata() {
        return Err(Error::invalid(
            "copy of the DSCP",
            link.copy_dscp,
            "is not done by a link in metadata mode",
        ));
    }
    match link.remote {
        Some(remote) if remote.is_ipv4() != link.local.is_ipv4() => {
            Err(Error::invalid("tunnel destination", remote, "is not of the tunnel source's family"))
        }
        Some(remote) if remote.is_unspecified() => {
            Err(Error::invalid("tunnel destination", remote, "must be an address"))
        }
        _ => Ok(()),
    }
}

/// Creates the link, down.
pub(crate) fn create_link(link: &GreLink) -> Result<Request, Error> {
    check(link)?;
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(link.name.clone()));
    message.attributes.push(LinkAttribute::Mtu(link.mtu));
    message.attributes.push(gre_info(link)?);
    if link.master != 0 {
        message.attributes.push(LinkAttribute::Controller(link.master));
    }
    set_flags(&mut message, false);
    Ok(Request { message: RouteNetlinkMessage::NewLink(message), flags: NLM_F_CREATE | NLM_F_EXCL })
}

/// Gives the existing link with this index the parameters, alias and MTU of `link`.
pub(crate) fn change_link(index: u32, link: &GreLink) -> Result<Request, Error> {
    check(link)?;
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Mtu(link.mtu));
    message.attributes.push(LinkAttribute::IfAlias(link.alias.clone()));
    // 0 takes it out of whatever it is in.
    message.attributes.push(LinkAttribute::Controller(link.master));
    message.attributes.push(gre_info(link)?);
    Ok(Request { message: RouteNetlinkMessage::NewLink(message), flags: 0 })
}

/// Our mark of ownership.
pub(crate) fn set_alias(index: u32, alias: &str) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
    Request { message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// IPv4 settings of the link: forwarding, loose reverse-path check, no ICMP redirects either way. They go by
/// netlink because /proc/sys is read-only for a pod without privileges.
pub(crate) fn ipv4_settings(index: u32) -> Request {
    let settings = [
        (DEVCONF_FORWARDING, 1_u32),
        (DEVCONF_ACCEPT_REDIRECTS, 0),
        (DEVCONF_SEND_REDIRECTS, 0),
        (DEVCONF_RP_FILTER, 2),
    ];
    let mut nested = Vec::with_capacity(settings.len() * 8);
    for (number, value) in settings {
        nested.extend(8_u16.to_ne_bytes());
        nested.extend(number.to_ne_bytes());
        nested.extend(value.to_ne_bytes());
    }
    let nested = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, nested));
    af_spec(index, AfSpecUnspec::Inet(vec![nested]))
}

/// No automatic IPv6 link-local address: on a multipoint tunnel nobody could reach it, and its router
/// solicitations would count as transmit errors.
pub(crate) fn ipv6_settings(index: u32) -> Request {
    af_spec(index, AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]))
}

/// Unresolved next hops raise one `RTM_GETNEIGH` and no ARP or neighbour discovery packet. `table` is
/// `arp_cache` or `ndisc_cache`.
pub(crate) fn neighbour_settings(index: u32, table: &str) -> Request {
    let mut message = NeighbourTableMessage::default();
    message.header.family = if table == "arp_cache" { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes = vec![
        NeighbourTableAttribute::Name(table.to_owned()),
        NeighbourTableAttribute::Parms(vec![
            NeighbourTableParameter::Ifindex(index),
            NeighbourTableParameter::AppProbes(1),
            NeighbourTableParameter::UcastProbes(0),
            NeighbourTableParameter::McastProbes(0),
        ]),
    ];
    Request { message: RouteNetlinkMessage::SetNeighbourTable(message), flags: 0 }
}

/// Where a multipoint link puts multicast by itself, in the place of a broadcast address. Without it the kernel tells a
/// sender of IPv6 multicast EINVAL, though the packet was captured; with it all such packets go to one multicast
/// address of the underlay, which is dropped (see `nft`).
const MULTICAST_SINK: [u8; 4] = [224, 0, 0, 0];

/// Up or down, always without NOARP.
pub(crate) fn bring(index: u32, link: &GreLink) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    set_flags(&mut message, link.up);
    // In metadata mode what no route leads is dropped by the link itself.
    if link.remote.is_none() && link.local.is_ipv4() {
        message.attributes.push(LinkAttribute::Broadcast(MULTICAST_SINK.to_vec()));
    }
    Request { message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// Changes nothing about a link that does not exist; but who may not change links is told so before that.
pub(crate) fn may_we() -> Request {
    let mut message = LinkMessage::default();
    message.header.index = i32::MAX.unsigned_abs();
    Request { message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

pub(crate) fn delete_link(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Request { message: RouteNetlinkMessage::DelLink(message), flags: 0 }
}

pub(crate) fn put_address(address: &Address) -> Request {
    let message = RouteNetlinkMessage::NewAddress(address_message(address));
    Request { message, flags: NLM_F_CREATE | NLM_F_REPLACE }
}

pub(crate) fn delete_address(address: &Address) -> Request {
    Request { message: RouteNetlinkMessage::DelAddress(address_message(address)), flags: 0 }
}

/// `replace`: a route of ours has the place; else the kernel refuses (EEXIST) where there is any.
pub(crate) fn put_route(route: &Route, replace: bool) -> Result<Request, Error> {
    let message = RouteNetlinkMessage::NewRoute(route_message(route)?);
    let flags = NLM_F_CREATE | if replace { NLM_F_REPLACE } else { NLM_F_EXCL };
    Ok(Request { message, flags })
}

pub(crate) fn delete_route(route: &Route) -> Result<Request, Error> {
    let mut message = route_message(route)?;
    // A preferred source may have gone with its address, an outer header may be another by now: the rest says which
    // route is meant.
    message.attributes.retain(|a| {
        !matches!(a, RouteAttribute::PrefSource(_) | RouteAttribute::EncapType(_) | RouteAttribute::Encap(_))
    });
    Ok(Request { message: RouteNetlinkMessage::DelRoute(message), flags: 0 })
}

pub(crate) fn put_neighbour(neighbour: &Neighbour) -> Result<Request, Error> {
    let nbma = ipv4("NBMA address of a neighbour", neighbour.nbma)?;
    let mut message = neighbour_message(neighbour.link, neighbour.overlay);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(nbma.octets().to_vec()));
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    let message = RouteNetlinkMessage::NewNeighbour(message);
    Ok(Request { message, flags: NLM_F_CREATE | NLM_F_REPLACE })
}

pub(crate) fn delete_neighbour(link: u32, overlay: IpAddr) -> Request {
    let message = RouteNetlinkMessage::DelNeighbour(neighbour_message(link, overlay));
    Request { message, flags: 0 }
}

pub(crate) fn dump_links() -> Request {
    Request { message: RouteNetlinkMessage::GetLink(LinkMessage::default()), flags: NLM_F_DUMP }
}

pub(crate) fn link_by_index(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Request { message: RouteNetlinkMessage::GetLink(message), flags: 0 }
}

pub(crate) fn link_by_name(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    Request { message: RouteNetlinkMessage::GetLink(message), flags: 0 }
}

pub(crate) fn dump_addresses() -> Request {
    Request { message: RouteNetlinkMessage::GetAddress(AddressMessage::default()), flags: NLM_F_DUMP }
}

/// Routes of our protocol number in all tables of one family; the kernel filters.
pub(crate) fn dump_routes(family: AddressFamily) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    Request { message: RouteNetlinkMessage::GetRoute(message), flags: NLM_F_DUMP }
}

/// All routes of one family in the main table; the kernel filters.
pub(crate) fn dump_main_table(family: AddressFamily) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.attributes.push(RouteAttribute::Table(MAIN_TABLE));
    Request { message: RouteNetlinkMessage::GetRoute(message), flags: NLM_F_DUMP }
}

pub(crate) fn dump_neighbours() -> Request {
    Request { message: RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), flags: NLM_F_DUMP }
}

pub(crate) fn lookup(to: IpAddr, by: u32) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to);
    message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(to.into()));
    if by != 0 {
        message.attributes.push(RouteAttribute::Oif(by));
    }
    Request { message: RouteNetlinkMessage::GetRoute(message), flags: 0 }
}

fn gre_info(link: &GreLink) -> Result<LinkAttribute, Error> {
    if let IpAddr::V6(local) = link.local {
        return Ok(gre6_info(link, local));
    }
    let flags = if link.key.is_some() { GreIOFlags::Key } else { GreIOFlags::empty() };
    let mut data = vec![
        InfoGre::Local(ipv4("tunnel source", link.local)?),
        InfoGre::Ttl(link.ttl),
        InfoGre::PathMTUDiscovery(true),
        // Both flags are needed beside the two keys, and in a change they take the keys away.
        InfoGre::IFlags(flags),
        InfoGre::OFlags(flags),
    ];
    if let Some(remote) = link.remote {
        data.push(InfoGre::Remote(ipv4("tunnel destination", remote)?));
    }
    if link.copy_dscp {
        data.push(InfoGre::Tos(INHERIT));
    }
    if link.underlay != 0 {
        data.push(InfoGre::Link(link.underlay));
    }
    if let Some(key) = link.key {
        data.push(InfoGre::IKey(key));
        data.push(InfoGre::OKey(key));
    }
    Ok(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::GreTun),
        LinkInfo::Data(InfoData::GreTun(data)),
    ]))
}

/// Over IPv6: point-to-point with all that it needs, multipoint in metadata mode.
fn gre6_info(link: &GreLink, local: Ipv6Addr) -> LinkAttribute {
    let flags = if link.key.is_some() { GreIOFlags::Key } else { GreIOFlags::empty() };
    let behaviour = NO_ENCAP_LIMIT | if link.copy_dscp { COPY_CLASS } else { 0 };
    let data = match link.remote {
        Some(IpAddr::V6(remote)) => {
            let keys = link.key.into_iter().flat_map(|key| [InfoGre6::IKey(key), InfoGre6::OKey(key)]);
            let fixed = [
                InfoGre6::Local(local),
                InfoGre6::Remote(remote),
                InfoGre6::Ttl(link.ttl),
                InfoGre6::IFlags(flags),
                InfoGre6::OFlags(flags),
                InfoGre6::Other(DefaultNla::new(GRE_FLAGS, behaviour.to_ne_bytes().to_vec())),
            ];
            fixed.into_iter().chain(keys).collect()
        }
        _ => vec![InfoGre6::CollectMetadata],
    };
    LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::GreTun6), LinkInfo::Data(InfoData::GreTun6(data))])
}

/// What `ip route … encap ip6` writes.
fn encap(outer: &Outer) -> [RouteAttribute; 2] {
    let flags = if outer.key.is_some() { RouteIp6TunnelFlags::Key } else { RouteIp6TunnelFlags::empty() };
    let all = [
        RouteIp6Tunnel::Id(outer.key.unwrap_or(0).into()),
        RouteIp6Tunnel::Destination(outer.remote),
        RouteIp6Tunnel::Source(outer.local),
        RouteIp6Tunnel::Hoplimit(outer.ttl),
        RouteIp6Tunnel::Flags(flags),
    ];
    [
        RouteAttribute::EncapType(RouteLwEnCapType::Ip6),
        RouteAttribute::Encap(all.into_iter().map(RouteLwTunnelEncap::Ip6).collect()),
    ]
}

/// NOARP off (else nothing is ever resolved), multicast on.
fn set_flags(message: &mut LinkMessage, up: bool) {
    message.header.flags = LinkFlags::Multicast | if up { LinkFlags::Up } else { LinkFlags::empty() };
    message.header.change_mask = LinkFlags::Multicast | LinkFlags::Up | LinkFlags::Noarp;
}

fn af_spec(index: u32, settings: AfSpecUnspec) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![settings]));
    Request { message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

fn address_message(address: &Address) -> AddressMessage {
    let ip = address.address.addr();
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = address.address.prefix_len();
    message.header.index = address.link;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    if ip.is_ipv6() {
        // Duplicate address detection cannot hear anybody on a multipoint tunnel.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn route_message(route: &Route) -> Result<RouteMessage, Error> {
    let v6 = route.prefix.addr().is_ipv6();
    if v6 && route.metric == IPV6_DEFAULT_METRIC {
        // The kernel turns 0 into 1024; the two could not be told apart in a dump.
        return Err(Error::invalid(
            "metric of an IPv6 route",
            route.metric,
            "is the kernel's default: give 0",
        ));
    }
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.prefix.addr());
    message.header.destination_prefix_length = route.prefix.prefix_len();
    message.header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    let metric = if v6 && route.metric == 0 { IPV6_DEFAULT_METRIC } else { route.metric };
    message.attributes = vec![
        RouteAttribute::Destination(route.prefix.network().into()),
        RouteAttribute::Table(route.table),
        RouteAttribute::Priority(metric),
    ];
    if let Target::Encap { outer, .. } = &route.target {
        if outer.ttl == 0 || outer.local.is_unspecified() || outer.remote.is_unspecified() {
            return Err(Error::invalid(
                "outer header",
                format!("{outer:?}"),
                "lacks an address or a hop limit",
            ));
        }
        message.attributes.extend(encap(outer));
    }
    match route.target.hop() {
        None => message.header.kind = RouteType::Unreachable,
        Some((link, via)) => {
            message.header.kind = RouteType::Unicast;
            message.attributes.push(RouteAttribute::Oif(link));
            match via {
                None if !v6 => message.header.scope = RouteScope::Link,
                None => {}
                Some(via) => {
                    // The gateway is an overlay host on this link, whatever other routes say about it.
                    message.header.flags = RouteFlags::Onlink;
                    message.attributes.push(match via {
                        IpAddr::V6(v6_gateway) if !v6 => RouteAttribute::Via(RouteVia::Inet6(v6_gateway)),
                        _ => RouteAttribute::Gateway(via.into()),
                    });
                }
            }
        }
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    Ok(message)
}

fn neighbour_message(link: u32, overlay: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(overlay);
    message.header.ifindex = link;
    message.attributes.push(NeighbourAttribute::Destination(overlay.into()));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn ipv4(what: &'static str, address: IpAddr) -> Result<Ipv4Addr, Error> {
    match address {
        IpAddr::V4(address) if !address.is_unspecified() => Ok(address),
        IpAddr::V4(_) => Err(Error::invalid(what, address, "must not be 0.0.0.0")),
        IpAddr::V6(_) => Err(Error::invalid(what, address, "a gre link has an IPv4 underlay")),
    }
}
