//! What we write, read back by the decoder that reads the kernel's dumps: every kind of object survives, over
//! IPv4 and IPv6, whatever its values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::Nla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoData, InfoGre, LinkAttribute, LinkFlags, LinkInfo,
};
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::neighbour_table::{NeighbourTableAttribute, NeighbourTableParameter};
use netlink_packet_route::route::RouteFlags;
use proptest::prelude::*;

use super::frame::{self, Request};
use super::{decode, encode};
use crate::model::{Address, GreLink, Neighbour, Outer, PROTOCOL, Route, Target};

/// Through bytes and back.
fn reread(request: Request) -> RouteNetlinkMessage {
    let mut bytes = Vec::new();
    request.write(7, true, &mut bytes);
    assert_eq!(bytes.len() % 4, 0);
    let mut messages = frame::messages(&bytes);
    let message = messages.next().unwrap();
    assert_eq!(message.sequence, 7);
    assert!(messages.next().is_none());
    message.decode().unwrap()
}

fn reread_link(request: Request) -> (crate::model::Link, netlink_packet_route::link::LinkMessage) {
    match reread(request) {
        RouteNetlinkMessage::NewLink(m) | RouteNetlinkMessage::SetLink(m) => (decode::link(&m).unwrap(), m),
        other => panic!("{other:?}"),
    }
}

fn v4() -> impl Strategy<Value = IpAddr> {
    (1_u32..u32::MAX).prop_map(|a| IpAddr::V4(Ipv4Addr::from(a)))
}

fn v6() -> impl Strategy<Value = IpAddr> {
    (1_u128..u128::MAX).prop_map(|a| IpAddr::V6(Ipv6Addr::from(a)))
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![v4(), v6()]
}

fn net() -> impl Strategy<Value = IpNet> {
    (ip(), 0_u8..=128).prop_map(|(a, len)| {
        let max = if a.is_ipv4() { 32 } else { 128 };
        IpNet::new(a, len.min(max)).unwrap().trunc()
    })
}

prop_compose! {
    fn gre()(
        name in "[A-Za-z0-9_-]{1,15}", alias in "[a-z./-]{1,60}",
        local in v4(), remote in proptest::option::of(v4()),
        key in proptest::option::of(any::<u32>()), ttl in 1_u8..=255, mtu in 68_u32..65_000,
        copy_dscp in any::<bool>(), master in 0_u32..9, underlay in 0_u32..9,
    ) -> GreLink {
        GreLink { name, alias, local, remote, key, ttl, copy_dscp, master, underlay, mtu, up: false }
    }
}

prop_compose! {
    fn gre6()(
        link in gre(), local in v6(), remote in proptest::option::of(v6()),
    ) -> GreLink {
        GreLink { local, remote, copy_dscp: link.copy_dscp && remote.is_some(), underlay: 0, ..link }
    }
}

prop_compose! {
    fn outer()(
        local in 1_u128..u128::MAX, remote in 1_u128..u128::MAX, key in proptest::option::of(any::<u32>()),
        ttl in 1_u8..=255,
    ) -> Outer {
        Outer { local: local.into(), remote: remote.into(), key, ttl }
    }
}

prop_compose! {
    fn route()(
        prefix in net(), table in 1_u32..=u32::MAX, metric in 0_u32..=u32::MAX, link in 1_u32..0x7fff_ffff,
        hop in proptest::option::of((v4(), v6())), unreachable in any::<bool>(), sourced in any::<bool>(),
        outer in proptest::option::of(outer()),
    ) -> Route {
        let v4 = prefix.addr().is_ipv4();
        let metric = if !v4 && metric == 1024 { 1025 } else { metric };
        let same = |(a, b)| if v4 { a } else { b };
        let on = match outer {
            Some(outer) => Target::Encap { link, via: hop.map(same), outer },
            None => Target::Link { link, via: hop.map(same) },
        };
        let target = if unreachable { Target::Unreachable } else { on };
        Route { prefix, table, metric, target, source: hop.map(same).filter(|_| sourced) }
    }
}

proptest! {
    #[test]
    fn links(link in prop_oneof![gre(), gre6()], index in 1_u32..0x7fff_ffff) {
        let (created, message) = reread_link(encode::create_link(&link).unwrap());
        prop_assert_eq!(created.gre.unwrap(), GreLink { alias: String::new(), ..link.shown() });
        prop_assert!(message.header.change_mask.contains(LinkFlags::Noarp | LinkFlags::Up));
        prop_assert!(!message.header.flags.contains(LinkFlags::Noarp) && !created.up);
        let (changed, _) = reread_link(encode::change_link(index, &link).unwrap());
        prop_assert_eq!(changed.index, index);
        // A change does not rename.
        prop_assert_eq!(changed.gre.unwrap(), GreLink { name: String::new(), ..link.shown() });
    }

    #[test]
    fn routes(route in route(), replace in any::<bool>()) {
        let RouteNetlinkMessage::NewRoute(put) = reread(encode::put_route(&route, replace).unwrap()) else {
            panic!()
        };
        prop_assert_eq!(decode::route(&put), Some((route.clone(), PROTOCOL)));
        let via = matches!(route.target.hop(), Some((_, Some(_))));
        prop_assert_eq!(put.header.flags.contains(RouteFlags::Onlink), via);
        let RouteNetlinkMessage::DelRoute(gone) = reread(encode::delete_route(&route).unwrap()) else {
            panic!()
        };
        let target = route.target.hop().map_or(Target::Unreachable, |(link, via)| Target::Link { link, via });
        prop_assert_eq!(decode::route(&gone), Some((Route { source: None, target, ..route }, PROTOCOL)));
    }

    #[test]
    fn neighbours(link in 1_u32..0x7fff_ffff, overlay in ip(), nbma in v4()) {
        let neighbour = Neighbour { link, overlay, nbma };
        let request = encode::put_neighbour(&neighbour).unwrap();
        let RouteNetlinkMessage::NewNeighbour(m) = reread(request) else { panic!() };
        let entry = decode::Entry {
            link, overlay, nbma: Some(nbma), state: NeighbourState::Permanent, protocol: PROTOCOL,
        };
        prop_assert_eq!(decode::neighbour(&m), Some(entry));
        let RouteNetlinkMessage::DelNeighbour(m) = reread(encode::delete_neighbour(link, overlay)) else {
            panic!()
        };
        let entry = decode::neighbour(&m).unwrap();
        prop_assert_eq!((entry.link, entry.overlay, entry.nbma), (link, overlay, None));
    }

    #[test]
    fn addresses(link in 1_u32..0x7fff_ffff, ip in ip(), len in 0_u8..=32) {
        let address = Address { link, address: IpNet::new(ip, len).unwrap() };
        let RouteNetlinkMessage::NewAddress(m) = reread(encode::put_address(&address)) else { panic!() };
        prop_assert_eq!(decode::address(&m), Some(address.clone()));
        let RouteNetlinkMessage::DelAddress(m) = reread(encode::delete_address(&address)) else { panic!() };
        prop_assert_eq!(decode::address(&m), Some(address));
    }

    #[test]
    fn hostile_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 16_u16..30,
    ) {
        let mut message = ((bytes.len() + 16) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(bytes);
        for raw in frame::messages(&message) {
            match raw.decode() {
                Some(RouteNetlinkMessage::NewLink(m)) => drop(decode::link(&m)),
                Some(RouteNetlinkMessage::NewRoute(m)) => drop(decode::route(&m)),
                Some(RouteNetlinkMessage::NewNeighbour(m)) => drop(decode::neighbour(&m)),
                Some(RouteNetlinkMessage::NewAddress(m)) => drop(decode::address(&m)),
                _ => {}
            }
        }
    }
}

fn plain() -> GreLink {
    GreLink {
        name: "gre1".into(),
        alias: "dmvpn.io/branches".into(),
        local: "192.0.2.1".parse().unwrap(),
        remote: None,
        key: Some(100),
        ttl: 255,
        copy_dscp: false,
        master: 0,
        underlay: 0,
        mtu: 1400,
        up: true,
    }
}

#[test]
fn what_we_cannot_make_is_refused() {
    let cases = [
        GreLink { name: "sixteen-bytes-xx".into(), ..plain() },
        GreLink { name: "a\"b".into(), ..plain() },
        GreLink { alias: "a b".into(), ..plain() },
        GreLink { ttl: 0, ..plain() },
        GreLink { local: "2001:db8::1".parse().unwrap(), copy_dscp: true, ..plain() },
        GreLink { local: "2001:db8::1".parse().unwrap(), underlay: 7, ..plain() },
        GreLink { local: "::".parse().unwrap(), ..plain() },
        GreLink { local: "2001:db8::1".parse().unwrap(), remote: Some([192, 0, 2, 2].into()), ..plain() },
        GreLink { local: "0.0.0.0".parse().unwrap(), ..plain() },
        GreLink { remote: Some("2001:db8::1".parse().unwrap()), ..plain() },
    ];
    for link in cases {
        assert!(encode::create_link(&link).is_err(), "{link:?}");
        assert!(encode::change_link(3, &link).is_err(), "{link:?}");
    }
    let prefix = "fd00::/64".parse().unwrap();
    let route = Route { prefix, table: 254, metric: 1024, target: Target::Unreachable, source: None };
    assert!(encode::put_route(&route, false).is_err());
    let neighbour = Neighbour { link: 1, overlay: [10, 0, 0, 1].into(), nbma: "::1".parse().unwrap() };
    assert!(encode::put_neighbour(&neighbour).is_err());
}

#[test]
fn foreign_parameters_never_look_like_wanted_ones() {
    let foreign = [
        InfoGre::OKey(7),
        InfoGre::IFlags(netlink_packet_route::link::GreIOFlags::Seq),
        InfoGre::Tos(4),
        InfoGre::PathMTUDiscovery(false),
    ];
    for parameter in foreign {
        let (_, mut message) = reread_link(encode::change_link(3, &plain()).unwrap());
        for attribute in &mut message.attributes {
            let LinkAttribute::LinkInfo(infos) = attribute else { continue };
            for info in infos {
                let LinkInfo::Data(InfoData::GreTun(data)) = info else { continue };
                data.retain(|p| p.kind() != parameter.kind());
                data.push(parameter.clone());
            }
        }
        assert_eq!(decode::link(&message).unwrap().gre.unwrap().ttl, 0, "{parameter:?}");
    }
}

/// `ip route add 10.9.0.2/32 encap ip6 id 100 src 2001:db8::a dst 2001:db8::b hoplimit 255 key …`, as `strace` shows it
/// of iproute2 6.1 (which also sends a traffic class of 0).
#[test]
fn an_outer_header_is_what_ip_route_writes() {
    let outer = Outer {
        local: "2001:db8::a".parse().unwrap(),
        remote: "2001:db8::b".parse().unwrap(),
        key: Some(100),
        ttl: 255,
    };
    let target = Target::Encap { link: 9, via: None, outer };
    let prefix = "10.9.0.2/32".parse().unwrap();
    let route = Route { prefix, table: 254, metric: 0, target, source: None };
    let mut bytes = Vec::new();
    encode::put_route(&route, false).unwrap().write(1, true, &mut bytes);
    let mut encap = vec![12, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 100];
    encap.extend([20, 0, 2, 0, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0b]);
    encap.extend([20, 0, 3, 0, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a]);
    encap.extend([5, 0, 4, 0, 255, 0, 0, 0]);
    encap.extend([6, 0, 6, 0, 0, 4, 0, 0]);
    let found = bytes.windows(encap.len()).position(|part| part == encap).expect("the outer header");
    // RTA_ENCAP (22) around it, and RTA_ENCAP_TYPE (21) with LWTUNNEL_ENCAP_IP6.
    assert_eq!(bytes[found - 4..found], [encap.len() as u8 + 4, 0, 22, 0]);
    assert!(bytes.windows(6).any(|part| part == [6, 0, 21, 0, 4, 0]));
    let empty = Outer { ttl: 0, ..outer };
    let target = Target::Encap { link: 9, via: None, outer: empty };
    assert!(encode::put_route(&Route { target, ..route }, false).is_err());
}

#[test]
fn a_bridge_ports_message_is_not_a_links() {
    let (_, mut message) = reread_link(encode::change_link(3, &plain()).unwrap());
    message.header.interface_family = netlink_packet_route::AddressFamily::Bridge;
    assert!(decode::link(&message).is_none());
}

#[test]
fn link_settings_are_the_numbers_that_we_mean() {
    let RouteNetlinkMessage::SetNeighbourTable(table) = reread(encode::neighbour_settings(9, "ndisc_cache"))
    else {
        panic!()
    };
    let parameters = table.attributes.iter().find_map(|a| match a {
        NeighbourTableAttribute::Parms(p) => Some(p.clone()),
        _ => None,
    });
    let want = [
        NeighbourTableParameter::Ifindex(9),
        NeighbourTableParameter::AppProbes(1),
        NeighbourTableParameter::UcastProbes(0),
        NeighbourTableParameter::McastProbes(0),
    ];
    assert_eq!(parameters.unwrap(), want);
    let request = encode::ipv4_settings(9);
    let RouteNetlinkMessage::SetLink(m) = &request.message else { panic!() };
    let Some(LinkAttribute::AfSpecUnspec(spec)) = m.attributes.first() else { panic!() };
    let Some(AfSpecUnspec::Inet(inet)) = spec.first() else { panic!() };
    let Some(AfSpecInet::Other(nla)) = inet.first() else { panic!() };
    let mut value = vec![0; nla.value_len()];
    nla.emit_value(&mut value);
    let numbers: Vec<_> = value
        .chunks(8)
        .map(|c| (u16::from_ne_bytes([c[2], c[3]]), u32::from_ne_bytes([c[4], c[5], c[6], c[7]])))
        .collect();
    assert_eq!(numbers, [(1, 1), (4, 0), (6, 0), (8, 2)]);
}
