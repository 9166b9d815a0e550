//! Plan and diff against a model kernel: whatever the kernel looks like, one diff makes it equal to the plan, a second
//! one finds nothing, and nothing foreign is touched.

use std::net::IpAddr;

use crds::endpoint::{DmvpnEndpointSpec, Role};
use crds::network::{Multicast, MulticastMode, Phase};
use dataplane::model::{Address, GreLink, Link, Neighbour, Observed, Op, Route, Target};
use dataplane::nft::Use;
use ipnet::IpNet;
use nhrp::{LinkId, Output, RouteKind};
use node_agent::plan::diff::{self, LinkStep};
use node_agent::plan::{Wanted, adopt, pins};

const LINK: u32 = 7;

fn net(text: &str) -> IpNet {
    text.parse().expect("prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn spec() -> DmvpnEndpointSpec {
    let json = serde_json::json!({
        "network": "branches", "nodeName": "branch-a", "desired": "Present", "role": "Spoke", "phase": "Phase3",
        "overlay": ["10.255.0.0/16"],
        "addresses": [{"address": "10.255.0.11", "owner": "branch-a"}],
        "subnets": [{"cidr": "10.1.0.0/24", "owner": "branch-a"}],
        "tunnel": {
            "interfaceName": "dm-branches", "source": {"from": "DefaultRoute"}, "underlayFamily": "IPv4", "key": 100,
            "mtuPolicy": "Fixed", "mtu": 1400, "tcpMssPolicy": "Clamp", "ttl": 255, "dscpPolicy": "Copy",
            "interfaceState": "Always"
        },
        "nhrp": {
            "mode": "Enabled", "networkId": 100, "holdTimeSeconds": 600, "uniquenessPolicy": "Identity",
            "registrationUnique": true
        },
        "nhs": [{"name": "hub1", "priority": 0, "cluster": 0, "overlayAddresses": ["10.255.0.1"],
                 "nbma": [{"address": "192.0.2.2"}]}],
        "routing": {"protocol": "NHRP", "metric": 100}
    });
    serde_json::from_value(json).expect("endpoint spec")
}

fn wanted() -> Wanted {
    let mut wanted = Wanted::new(&spec(), ip("198.51.100.2"), None);
    wanted.set_gateway(&[net("10.255.0.0/16")], &[ip("10.255.0.1")]);
    for output in outputs() {
        wanted.learn(&output, LINK);
    }
    wanted
}

fn outputs() -> Vec<Output> {
    let link = LinkId(LINK);
    let route = |prefix: &str, via: &str, kind| Output::InstallRoute {
        link,
        prefix: net(prefix),
        via: ip(via),
        kind,
    };
    vec![
        Output::InstallNeighbour { link, overlay: ip("10.255.0.1"), nbma: ip("192.0.2.2") },
        route("10.255.0.1/32", "10.255.0.1", RouteKind::Host),
        route("10.2.0.0/24", "10.255.0.1", RouteKind::Announced),
        Output::InstallNeighbour { link, overlay: ip("10.255.0.12"), nbma: ip("203.0.113.2") },
        route("10.255.0.12/32", "10.255.0.12", RouteKind::Host),
        route("10.2.0.0/24", "10.255.0.12", RouteKind::Shortcut),
    ]
}

/// A kernel that obeys: enough of one to see where a list of changes leads.
struct Model(Observed);

impl Model {
    fn apply(&mut self, ops: &[Op]) {
        let kernel = &mut self.0;
        for op in ops {
            match op {
                Op::CreateGre(gre) => kernel.links.push(link(LINK, gre)),
                Op::ChangeGre { index, link: gre } => {
                    kernel.links.retain(|l| l.index != *index);
                    kernel.links.push(link(*index, gre));
                }
                Op::DeleteLink { index } => {
                    kernel.links.retain(|l| l.index != *index);
                    kernel.addresses.retain(|a| a.link != *index);
                    kernel.neighbours.retain(|n| n.link != *index);
                    kernel
                        .routes
                        .retain(|r| !matches!(r.target, Target::Link { link, .. } if link == *index));
                }
                Op::AddAddress(a) => kernel.addresses.push(a.clone()),
                Op::DeleteAddress(a) => kernel.addresses.retain(|b| b != a),
                Op::PutRoute(r) => {
                    if let Target::Link { link: link @ LINK, via: Some(via) } = r.target {
                        let known = kernel.neighbours.iter().any(|n| n.link == link && n.overlay == via);
                        assert!(known, "route {r:?} before its next hop's neighbour");
                    }
                    let key = |r: &Route| (r.prefix, r.table, r.metric);
                    kernel.routes.retain(|old| key(old) != key(r));
                    kernel.routes.push(r.clone());
                }
                Op::DeleteRoute(r) => kernel.routes.retain(|old| old != r),
                Op::PutNeighbour(n) => {
                    kernel.neighbours.retain(|o| (o.link, o.overlay) != (n.link, n.overlay));
                    kernel.neighbours.push(n.clone());
                }
                Op::DeleteNeighbour { link, overlay } => {
                    let used = kernel.routes.iter().any(
                        |r| matches!(r.target, Target::Link { link: l, via: Some(v) } if l == *link && v == *overlay),
                    );
                    assert!(!used, "neighbour {overlay} removed while a route uses it");
                    kernel.neighbours.retain(|o| (o.link, o.overlay) != (*link, *overlay));
                }
                // What shapes is compared by itself (`plan::shaping`).
                Op::PutShaper { .. }
                | Op::DeleteShaper { .. }
                | Op::PutClass(_)
                | Op::PutLeaf { .. }
                | Op::DeleteClass { .. } => panic!("{op:?} among the rest"),
            }
        }
    }
}

fn link(index: u32, gre: &GreLink) -> Link {
    Link {
        index,
        name: gre.name.clone(),
        kind: "gre".into(),
        alias: gre.alias.clone(),
        up: gre.up,
        carrier: true,
        noarp: false,
        mtu: gre.mtu,
        master: 0,
        vrf_table: None,
        gre: Some(gre.clone()),
    }
}

fn foreign() -> Observed {
    let eth = Link {
        index: 2,
        name: "eth0".into(),
        kind: String::new(),
        alias: String::new(),
        up: true,
        carrier: true,
        noarp: false,
        mtu: 1500,
        master: 0,
        vrf_table: None,
        gre: None,
    };
    Observed {
        links: vec![eth],
        addresses: vec![Address { link: 2, address: net("198.51.100.2/30") }],
        ..Observed::default()
    }
}

#[test]
fn from_nothing_and_again() {
    let wanted = wanted();
    let mut kernel = Model(foreign());
    assert_eq!(diff::link_step(&wanted.link, &kernel.0), LinkStep::Create);
    kernel.apply(&[Op::CreateGre(wanted.link.clone())]);
    kernel.apply(&diff::changes(&wanted, LINK, &kernel.0.clone()));
    assert_eq!(diff::link_step(&wanted.link, &kernel.0), LinkStep::Keep(LINK));
    assert_eq!(diff::changes(&wanted, LINK, &kernel.0), Vec::new(), "a second comparison finds nothing");
    assert!(diff::stale(&[&wanted], &kernel.0).is_empty());
    for route in &kernel.0.routes {
        assert!(wanted.has_route(route, LINK), "{route:?}");
        let elsewhere = Route { metric: route.metric + 7, ..route.clone() };
        assert!(!wanted.has_route(&elsewhere, LINK), "{elsewhere:?}");
    }
    // Direct beats the hub: the shortcut's metric is the lower one.
    let metric = |via: &str| {
        let target = Target::Link { link: LINK, via: Some(ip(via)) };
        kernel
            .0
            .routes
            .iter()
            .find(|r| r.prefix == net("10.2.0.0/24") && r.target == target)
            .map(|r| r.metric)
    };
    assert!(metric("10.255.0.12").expect("shortcut") < metric("10.255.0.1").expect("by the hub"));
}

#[test]
fn outputs_as_they_come_equal_the_diff() {
    let mut one = Model(foreign());
    let mut wanted = Wanted::new(&spec(), ip("198.51.100.2"), None);
    one.apply(&[Op::CreateGre(wanted.link.clone())]);
    one.apply(&diff::changes(&wanted, LINK, &one.0.clone()));
    for output in outputs() {
        let op = wanted.learn(&output, LINK).expect("every output is a change");
        one.apply(&[op]);
    }
    assert_eq!(diff::changes(&wanted, LINK, &one.0), Vec::new());
    // And back: removal in the engine's order leaves only the fixed part.
    for output in outputs().into_iter().rev() {
        let back = match output {
            Output::InstallNeighbour { link, overlay, .. } => Output::RemoveNeighbour { link, overlay },
            Output::InstallRoute { link, prefix, kind, .. } => Output::RemoveRoute { link, prefix, kind },
            other => other,
        };
        let op = wanted.learn(&back, LINK).expect("every removal is a change");
        one.apply(&[op]);
    }
    assert!(wanted.learned.is_empty() && wanted.neighbours().count() == 0);
    assert_eq!(diff::changes(&wanted, LINK, &one.0), Vec::new());
}

/// A Phase 1 spoke's link has one other end: no neighbours on it, and routes by the hub all the same.
#[test]
fn point_to_point_needs_no_neighbours() {
    let mut spec = spec();
    spec.phase = Phase::Phase1;
    let mut wanted = Wanted::new(&spec, ip("198.51.100.2"), Some(ip("192.0.2.2")));
    wanted.set_gateway(&[net("10.255.0.0/16")], &[ip("10.255.0.1")]);
    assert_eq!((wanted.link.remote, wanted.nft.track_use), (Some(ip("192.0.2.2")), None));
    let link = LinkId(LINK);
    let (overlay, nbma) = (ip("10.255.0.1"), ip("192.0.2.2"));
    assert_eq!(wanted.learn(&Output::InstallNeighbour { link, overlay, nbma }, LINK), None);
    let (prefix, kind) = (net("10.255.0.1/32"), RouteKind::Host);
    assert!(wanted.learn(&Output::InstallRoute { link, prefix, via: overlay, kind }, LINK).is_some());
    assert_eq!(wanted.learn(&Output::RemoveNeighbour { link, overlay }, LINK), None);
    assert!(wanted.neighbours().next().is_none());
    assert_eq!(wanted.routes(LINK).count(), 3, "the overlay by the hub, the hub itself, the last resort");
    // A default route by the hub: the tunnel's own packets stay on the underlay, as with neighbours.
    wanted.learn(&default_by_hub(), LINK);
    assert!(
        wanted.routes(LINK).all(|route| route.prefix != net("0.0.0.0/0")),
        "the underlay is not known yet"
    );
    wanted.underlay = Some(vec![underlay("0.0.0.0/0", Some("198.51.100.1"), 1024)]);
    assert!(wanted.routes(LINK).any(|route| route.prefix == net("0.0.0.0/0")));
    let pin = Route { metric: 214, ..underlay("192.0.2.2/32", Some("198.51.100.1"), 0) };
    assert_eq!(wanted.pins(), Some([pin].into()));
}

#[test]
fn multicast_is_copied_where_the_link_does_not_carry_it() {
    let mut spec = spec();
    spec.nhrp.multicast = Some(Multicast { mode: MulticastMode::Dynamic, groups: Vec::new() });
    let of = |remote| {
        let wanted = Wanted::new(&spec, ip("198.51.100.2"), remote);
        (wanted.multicast.is_some(), wanted.nft.multicast.is_some())
    };
    assert_eq!((of(None), of(Some(ip("192.0.2.2")))), ((true, true), (false, false)));
}

#[test]
fn use_is_seen_by_what_is_resolved() {
    let used = |phase, role| {
        let mut spec = spec();
        (spec.phase, spec.role) = (phase, role);
        Wanted::new(&spec, ip("198.51.100.2"), None).nft.track_use
    };
    assert_eq!(used(Phase::Phase3, Role::Spoke), Some(Use::Destinations));
    assert_eq!(used(Phase::Phase2, Role::Spoke), Some(Use::NextHops));
    assert_eq!(used(Phase::Phase2, Role::Hub), None);
}

/// What a hub assigns goes on the link and away again, outlasts a new endpoint, and is nobody else's while it is wanted.
#[test]
fn assigned_addresses_come_and_go() {
    let mut asking = spec();
    asking.addresses.clear();
    let mut wanted = Wanted::new(&asking, ip("198.51.100.2"), None);
    let mut kernel = Model(foreign());
    kernel.apply(&[Op::CreateGre(wanted.link.clone())]);
    kernel.apply(&diff::changes(&wanted, LINK, &kernel.0.clone()));
    let before = kernel.0.clone();
    let (link, address) = (LinkId(LINK), ip("10.255.16.7"));
    let put = wanted.learn(&Output::AssignAddress { link, address }, LINK);
    let on_link = Address { link: LINK, address: net("10.255.16.7/32") };
    assert_eq!(put, Some(Op::AddAddress(on_link.clone())));
    kernel.apply(&[Op::AddAddress(on_link.clone())]);
    assert!(wanted.has_address(&on_link.address));
    assert_eq!(diff::changes(&wanted, LINK, &kernel.0), Vec::new());

    wanted.replace_fixed(Wanted::new(&asking, ip("198.51.100.66"), None));
    assert_eq!(diff::changes(&wanted, LINK, &kernel.0), Vec::new(), "another underlay address");
    // Somebody takes it away: it comes back.
    let without = Observed { addresses: before.addresses.clone(), ..kernel.0.clone() };
    assert_eq!(diff::changes(&wanted, LINK, &without), [Op::AddAddress(on_link.clone())]);

    let take = wanted.learn(&Output::ReleaseAddress { link, address }, LINK).expect("a change");
    kernel.apply(&[take]);
    assert_eq!(kernel.0, before);
    assert_eq!(diff::changes(&wanted, LINK, &kernel.0), Vec::new());

    // An address that the endpoint names meanwhile stays when it is no longer assigned.
    wanted.learn(&Output::AssignAddress { link, address: ip("10.255.0.11") }, LINK);
    wanted.replace_fixed(Wanted::new(&spec(), ip("198.51.100.2"), None));
    assert_eq!(wanted.learn(&Output::ReleaseAddress { link, address: ip("10.255.0.11") }, LINK), None);
    assert!(wanted.has_address(&net("10.255.0.11/32")));
}

#[test]
fn drift_heals_whatever_is_taken() {
    let wanted = wanted();
    let mut whole = Model(foreign());
    whole.apply(&[Op::CreateGre(wanted.link.clone())]);
    whole.apply(&diff::changes(&wanted, LINK, &whole.0.clone()));
    let sorted = |o: &Observed| {
        let mut o = o.clone();
        o.routes.sort();
        o.neighbours.sort();
        o.addresses.sort();
        o
    };
    let goal = sorted(&whole.0);
    let pieces = goal.routes.len() + goal.neighbours.len();
    // Every subset of what can be deleted, as bits.
    for mask in 0_u32..1 << pieces {
        let mut broken = Model(goal.clone());
        let mut bit = 0;
        let mut gone = || {
            bit += 1;
            mask >> (bit - 1) & 1 == 1
        };
        broken.0.routes.retain(|_| !gone());
        broken.0.neighbours.retain(|_| !gone());
        let ops = diff::changes(&wanted, LINK, &broken.0.clone());
        assert_eq!(ops.len(), mask.count_ones() as usize, "one change for each piece, {mask:b}");
        broken.apply(&ops);
        assert_eq!(sorted(&broken.0), goal, "{mask:b}");
    }
}

#[test]
fn strangers_are_left_alone() {
    let wanted = wanted();
    let mut kernel = foreign();
    let other = GreLink { name: "gre1".into(), alias: "somebody".into(), ..wanted.link.clone() };
    kernel.links.push(link(9, &other));
    kernel.neighbours.push(Neighbour { link: 9, overlay: ip("10.9.9.9"), nbma: ip("192.0.2.9") });
    kernel.routes.push(Route {
        prefix: net("10.9.0.0/16"),
        table: 254,
        metric: 1,
        target: Target::Link { link: 9, via: None },
        source: None,
    });
    assert!(diff::stale(&[], &kernel).is_empty(), "a foreign link and its routes are not stale");
    let ops = diff::changes(&wanted, LINK, &kernel);
    let touches_9 = |op: &Op| format!("{op:?}").contains("link: 9");
    assert!(!ops.iter().any(touches_9), "{ops:?}");
    // A foreign link with our name is never taken over.
    let same_name = GreLink { alias: String::new(), ..wanted.link.clone() };
    kernel.links.push(link(11, &same_name));
    assert_eq!(diff::link_step(&wanted.link, &kernel), LinkStep::NameTaken(11));
}

#[test]
fn links_are_changed_in_place_or_replaced() {
    let wanted = wanted();
    let observed = |gre: GreLink| {
        let mut kernel = foreign();
        kernel.links.push(link(LINK, &gre));
        kernel
    };
    let moved = GreLink { local: ip("198.51.100.66"), ..wanted.link.clone() };
    assert_eq!(diff::link_step(&wanted.link, &observed(moved)), LinkStep::Change(LINK));
    let other_key = GreLink { key: Some(7), ..wanted.link.clone() };
    assert_eq!(diff::link_step(&wanted.link, &observed(other_key)), LinkStep::Change(LINK));
    let p2p = GreLink { remote: Some(ip("192.0.2.2")), ..wanted.link.clone() };
    assert_eq!(diff::link_step(&wanted.link, &observed(p2p)), LinkStep::Replace(LINK));
    let renamed = GreLink { name: "old".into(), ..wanted.link.clone() };
    assert_eq!(diff::link_step(&wanted.link, &observed(renamed)), LinkStep::Replace(LINK));
}

#[test]
fn stale_links_and_last_resorts_go() {
    let wanted = wanted();
    let mut kernel = foreign();
    let old = GreLink { name: "dm-old".into(), alias: "dmvpn.io/old".into(), ..wanted.link.clone() };
    kernel.links.push(link(12, &old));
    let unreachable = |prefix: &str| Route {
        prefix: net(prefix),
        table: 254,
        metric: 65_535,
        target: Target::Unreachable,
        source: None,
    };
    kernel.routes.push(unreachable("10.250.0.0/16"));
    kernel.routes.push(unreachable("10.255.0.0/16"));
    let ops = diff::stale(&[&wanted], &kernel);
    assert_eq!(ops, [Op::DeleteLink { index: 12 }, Op::DeleteRoute(unreachable("10.250.0.0/16"))]);
}

#[test]
fn a_hub_takes_back_from_the_kernel_what_the_snapshot_lacks() {
    let wanted = wanted();
    let mut kernel = Model(foreign());
    kernel.apply(&[
        Op::PutNeighbour(Neighbour { link: LINK, overlay: ip("10.255.0.13"), nbma: ip("198.18.0.2") }),
        Op::PutRoute(Route {
            prefix: net("10.3.0.0/24"),
            table: 254,
            metric: wanted.metrics.of(RouteKind::Registered),
            target: Target::Link { link: LINK, via: Some(ip("10.255.0.13")) },
            source: None,
        }),
    ]);
    let snapshot = adopt::fill(nhrp::Snapshot::default(), LINK, &kernel.0, wanted.metrics, 600);
    let [binding] = snapshot.bindings.as_slice() else { panic!("one binding: {snapshot:?}") };
    assert_eq!((binding.overlay, binding.nbma), (ip("10.255.0.13"), ip("198.18.0.2")));
    assert_eq!(binding.prefixes, [net("10.3.0.0/24")]);
    assert_eq!(binding.expires_ms, Some(600_000));
}

/// A route of the underlay, by its gateway on link 2.
fn underlay(prefix: &str, via: Option<&str>, metric: u32) -> Route {
    let target = Target::Link { link: 2, via: via.map(ip) };
    Route { prefix: net(prefix), table: 254, metric, target, source: None }
}

fn default_by_hub() -> Output {
    let (link, kind) = (LinkId(LINK), RouteKind::Announced);
    Output::InstallRoute { link, prefix: net("0.0.0.0/0"), via: ip("10.255.0.1"), kind }
}

#[test]
fn default_route_by_the_tunnel_leaves_its_own_packets_on_the_underlay() {
    let mut kernel = Model(foreign());
    let mut wanted = wanted();
    kernel.apply(&[Op::CreateGre(wanted.link.clone())]);
    assert_eq!(wanted.learn(&default_by_hub(), LINK), None, "not before the underlay was looked at");
    assert!(wanted.routes(LINK).all(|route| route.prefix != net("0.0.0.0/0")));
    // Nothing there but the way to somewhere else: the hub could not be reached any more.
    wanted.underlay = Some(vec![underlay("198.51.100.0/30", None, 0)]);
    kernel.apply(&diff::changes(&wanted, LINK, &kernel.0.clone()));
    assert!(kernel.0.routes.iter().all(|route| route.prefix.prefix_len() > 0));
    // One spoke of the two is reached by the default route, the other by a way of its own.
    let by_default = underlay("0.0.0.0/0", Some("198.51.100.1"), 1024);
    wanted.underlay = Some(vec![by_default, underlay("203.0.113.0/24", Some("198.51.100.2"), 0)]);
    let changes = diff::changes(&wanted, LINK, &kernel.0);
    let pin = Route { metric: 214, ..underlay("192.0.2.2/32", Some("198.51.100.1"), 0) };
    let at = |wanted: &dyn Fn(&Route) -> bool| {
        changes.iter().position(|op| matches!(op, Op::PutRoute(route) if wanted(route)))
    };
    let (pinned, put) = (at(&|route| *route == pin), at(&|route| route.prefix == net("0.0.0.0/0")));
    assert!(pinned.expect("a pin") < put.expect("the default route"));
    kernel.apply(&changes);
    assert!(wanted.has_route(&pin, LINK));
    assert_eq!(kernel.0.routes.iter().filter(|route| route.metric == 214).count(), 1);
    assert_eq!(diff::changes(&wanted, LINK, &kernel.0), Vec::new());
    assert!(pins::stale(&[&wanted], &kernel.0).is_empty());
    // The uplink changes: the pin follows, in place.
    wanted.underlay = Some(vec![underlay("0.0.0.0/0", Some("198.51.100.9"), 1024)]);
    kernel.apply(&diff::changes(&wanted, LINK, &kernel.0.clone()));
    kernel.apply(&pins::stale(&[&wanted], &kernel.0.clone()));
    let pinned: Vec<_> = kernel.0.routes.iter().filter(|route| route.metric == 214).cloned().collect();
    assert_eq!(pinned.len(), 2, "and the other spoke now goes by default too: {pinned:?}");
    assert!(
        pinned.iter().all(|route| route.target == Target::Link { link: 2, via: Some(ip("198.51.100.9")) })
    );
    // Who is answered without being a neighbour is pinned for a while, a flood of them only so far.
    let before = wanted.pins().expect("pins");
    wanted.visited(nhrp::Time(1_000), [ip("192.0.2.99")].into_iter());
    let (first, last) = pins::changes(&before, &wanted.pins().expect("pins"));
    let to = |op: &Op| matches!(op, Op::PutRoute(route) if route.prefix == net("192.0.2.99/32"));
    assert!(first.iter().any(to) && first.len() == 1 && last.is_empty());
    wanted.visited(nhrp::Time(2_000), (0..1000).map(|n| IpAddr::from([172, 16, (n >> 8) as u8, n as u8])));
    assert_eq!(wanted.pins().expect("pins").len(), before.len() + 256);
    wanted.visited(nhrp::Time(12_000), std::iter::empty());
    assert_eq!(wanted.pins().expect("pins"), before);
    // The hub takes it back: the default route goes first, then what it needed.
    let before = wanted.pins().expect("pins");
    let (link, kind) = (LinkId(LINK), RouteKind::Announced);
    let gone = wanted.learn(&Output::RemoveRoute { link, prefix: net("0.0.0.0/0"), kind }, LINK);
    kernel.apply(&[gone.expect("a change")]);
    let (first, last) = pins::changes(&before, &wanted.pins().unwrap_or_default());
    assert!(first.is_empty() && last.len() == 2);
    kernel.apply(&last);
    assert!(kernel.0.routes.iter().all(|route| route.metric != 214 && route.prefix.prefix_len() > 0));
}

#[test]
fn foreign_routes_that_look_like_pins_stay() {
    let mut kernel = foreign();
    kernel.routes = vec![
        underlay("192.0.2.2/32", Some("198.51.100.1"), 0),
        Route { metric: 214, ..underlay("192.0.2.0/24", Some("198.51.100.1"), 0) },
        Route { metric: 214, table: 100, ..underlay("192.0.2.2/32", Some("198.51.100.1"), 0) },
    ];
    assert_eq!(pins::stale(&[], &kernel), Vec::new());
    kernel.routes.push(Route { metric: 214, ..underlay("192.0.2.2/32", Some("198.51.100.1"), 0) });
    assert_eq!(pins::stale(&[], &kernel).len(), 1);
}

#[test]
fn summaries_end_at_the_hub_that_tells_them() {
    let mut spec = spec();
    spec.role = Role::HubSpoke;
    spec.advertise =
        ["10.1.0.0/16", "10.255.1.0/24", "0.0.0.0/0"].map(|net| net.parse().expect("prefix")).into();
    let wanted = Wanted::new(&spec, ip("198.51.100.2"), None);
    let ends: Vec<_> = wanted
        .routes(LINK)
        .filter(|route| route.target == Target::Unreachable)
        .map(|route| route.prefix)
        .collect();
    assert_eq!(ends, ["10.1.0.0/16", "10.255.0.0/16", "10.255.1.0/24"].map(net));
}

#[test]
fn rates_that_the_kernel_refuses_hinder() {
    let mut tunnel = node_agent::tunnel::Tunnel::new(spec(), Vec::new());
    let host = dataplane::Settings { ipv4_forwarding: true, ..dataplane::Settings::default() };
    tunnel.look_at_host(&host, nhrp::Time(0));
    assert_eq!(tunnel.hindrance, None);
    tunnel.unshaped = Some("put htb on link 7: no such file".into());
    tunnel.look_at_host(&host, nhrp::Time(0));
    let hindrance = tunnel.hindrance.expect("one");
    assert_eq!(hindrance.reason, crds::Reason::NotShaped);
    assert!(hindrance.message.starts_with("put htb on link 7: no such file: See"), "{hindrance:?}");
}

/// A hub with a class.
fn shaping_hub() -> Wanted {
    let groups = serde_json::json!([{"name": "gold", "rateKbps": 20_000}]);
    let qos_groups = serde_json::from_value(groups).expect("classes");
    let hub = DmvpnEndpointSpec { role: Role::Hub, qos_groups, ..spec() };
    Wanted::new(&hub, ip("198.51.100.2"), None)
}

/// A spoke registers, with its class.
fn join(wanted: &mut Wanted, n: u32) {
    let (overlay, nbma) = ((0x0aff_0000 + n).to_be_bytes().into(), (0xc612_0000 + n).to_be_bytes().into());
    wanted.learn(&Output::InstallNeighbour { link: LinkId(LINK), overlay, nbma }, LINK);
    wanted.learn(&Output::Group { link: LinkId(LINK), overlay, group: Some("gold".into()) }, LINK);
}

#[test]
fn after_a_refusal_changes_wait_for_the_next_try() {
    let mut tunnel = node_agent::tunnel::Tunnel::new(spec(), Vec::new());
    let mut now = nhrp::Time(10_000);
    (tunnel.link, tunnel.wanted) = (LINK, Some(shaping_hub()));
    let change =
        |tunnel: &mut node_agent::tunnel::Tunnel, n| join(tunnel.wanted.as_mut().expect("wanted"), n);
    let tried =
        |tunnel: &mut node_agent::tunnel::Tunnel| drop(tunnel.wanted.as_mut().expect("wanted").shape());
    let refused = || Some("put htb on link 7: no such file".to_owned());
    change(&mut tunnel, 2);
    assert!(tunnel.is_to_be_shaped(now));
    tried(&mut tunnel);
    assert!(!tunnel.is_to_be_shaped(now));
    assert!(tunnel.shaping_tried(refused(), now), "said");
    // Registrations come in meanwhile.
    for n in 3..12 {
        change(&mut tunnel, n);
        assert!(!tunnel.is_to_be_shaped(now));
        assert_eq!(tunnel.reshape_at(now), nhrp::Time(11_000));
        now = now.after(100);
    }
    now = now.after(100);
    assert!(tunnel.is_to_be_shaped(now), "one try for all of them");
    assert_eq!(tunnel.reshape_at(now), now);
    tried(&mut tunnel);
    assert!(!tunnel.shaping_tried(refused(), now), "the same is said once");
    assert!(tunnel.shaping_tried(Some("put class 1: no room".into()), now), "another is news");
    assert!(!tunnel.shaping_tried(None, now));
    assert_eq!((tunnel.unshaped.as_ref(), tunnel.reshape_at(now)), (None, now));
    change(&mut tunnel, 20);
    assert!(tunnel.is_to_be_shaped(now), "nothing to wait for any more");
}

#[test]
fn spokes_that_are_too_many_to_be_shaped_are_remarked() {
    let mut tunnel = node_agent::tunnel::Tunnel::new(spec(), Vec::new());
    let mut wanted = shaping_hub();
    (0..32_003).for_each(|n| join(&mut wanted, n));
    assert_eq!(wanted.shape().classes.len(), 32_000);
    // What is configured anew changes nothing in that.
    wanted.replace_fixed(shaping_hub());
    tunnel.wanted = Some(wanted);
    tunnel.mark(String::new());
    assert!(
        tunnel.remark.starts_with("spokes that have a class and are not shaped: 3,"),
        "{}",
        tunnel.remark
    );
    tunnel.mark("the source is on a loopback".into());
    assert!(tunnel.remark.starts_with("the source is on a loopback; spokes that have"), "{}", tunnel.remark);
    tunnel.wanted = Some(shaping_hub());
    tunnel.mark(String::new());
    assert_eq!(tunnel.remark, "");
}

/// What the node lives by keeps the way of the underlay, whatever covers it; nothing else does.
#[test]
fn what_a_node_lives_by_is_not_taken_by_a_route() {
    let mut kernel = Model(foreign());
    let mut wanted = wanted();
    kernel.apply(&[Op::CreateGre(wanted.link.clone())]);
    kernel.apply(&diff::changes(&wanted, LINK, &kernel.0.clone()));
    let (gateway, server) = (ip("198.51.100.1"), ip("172.18.0.5"));
    wanted.keep(&[gateway, server].into());
    assert!(!wanted.depends_on_underlay() && wanted.pins().is_none(), "nothing covers them");
    let (link, kind) = (LinkId(LINK), RouteKind::Announced);
    let announced =
        |prefix: &str| Output::InstallRoute { link, prefix: net(prefix), via: ip("10.255.0.1"), kind };
    let all = ["198.51.100.0/25", "198.51.100.0/24", "172.18.0.0/16", "172.18.0.5/32"];
    for prefix in all {
        assert_eq!(wanted.learn(&announced(prefix), LINK), None, "not before the underlay was looked at");
    }
    let put = |wanted: &Wanted, prefix: &str| wanted.routes(LINK).any(|route| route.prefix == net(prefix));
    assert!(wanted.depends_on_underlay() && !all.iter().any(|prefix| put(&wanted, prefix)));
    wanted.underlay =
        Some(vec![underlay("198.51.100.0/24", None, 0), underlay("0.0.0.0/0", Some("198.51.100.1"), 1024)]);
    assert!(all[..3].iter().all(|prefix| put(&wanted, prefix)), "all else follows them");
    assert!(!put(&wanted, all[3]), "the address itself is nobody else's");
    let pins = [
        Route { metric: 214, ..underlay("198.51.100.1/32", None, 0) },
        Route { metric: 214, ..underlay("172.18.0.5/32", Some("198.51.100.1"), 0) },
    ];
    assert_eq!(wanted.pins(), Some(pins.clone().into()));
    let changes = diff::changes(&wanted, LINK, &kernel.0);
    let at = |prefix: &str| {
        changes.iter().position(|op| matches!(op, Op::PutRoute(route) if route.prefix == net(prefix)))
    };
    assert!(at("172.18.0.5/32").expect("a pin") < at("172.18.0.0/16").expect("the route"));
    kernel.apply(&changes);
    assert_eq!(diff::changes(&wanted, LINK, &kernel.0), Vec::new());
    assert!(pins.iter().all(|pin| wanted.has_route(pin, LINK)));
    // A prefix that the underlay's own beats needs none.
    for prefix in [all[0], all[2]] {
        wanted.learn(&Output::RemoveRoute { link, prefix: net(prefix), kind }, LINK);
    }
    assert_eq!(wanted.pins(), Some([pins[1].clone()].into()), "for 172.18.0.5/32, which is not put in");
    wanted.learn(&Output::RemoveRoute { link, prefix: net(all[3]), kind }, LINK);
    assert_eq!(wanted.pins(), None);
    // In a VRF it takes nothing away.
    wanted.learn(&announced(all[2]), LINK);
    let vrf = Some(node_agent::plan::wanted::Vrf { link: 77, table: 100 });
    let vrfs = node_agent::plan::wanted::Vrfs { overlay: vrf, underlay: None };
    assert!(!wanted.clone().within(vrfs).depends_on_underlay());
}
