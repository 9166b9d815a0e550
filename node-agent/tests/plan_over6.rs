//! The plan of a multipoint tunnel over IPv6 on a model kernel: no neighbours, each route with its outer header, and what
//! comes as the engine says it equals what one comparison makes.

use std::net::{IpAddr, Ipv6Addr};

use crds::endpoint::DmvpnEndpointSpec;
use dataplane::model::{GreLink, Link, Observed, Op, Outer, Route, Target};
use ipnet::IpNet;
use nhrp::{LinkId, Output, RouteKind};
use node_agent::plan::diff::{self, LinkStep};
use node_agent::plan::{Wanted, adopt};

const LINK: u32 = 7;

fn net(text: &str) -> IpNet {
    text.parse().expect("prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn ip6(text: &str) -> Ipv6Addr {
    text.parse().expect("address")
}

fn spec() -> DmvpnEndpointSpec {
    let json = serde_json::json!({
        "network": "branches", "nodeName": "branch-a", "desired": "Present", "role": "Spoke", "phase": "Phase3",
        "overlay": ["10.255.0.0/16", "fd00:255::/64"],
        "addresses": [{"address": "10.255.0.11", "owner": "branch-a"}],
        "subnets": [{"cidr": "10.1.0.0/24", "owner": "branch-a"}],
        "tunnel": {
            "interfaceName": "dm-branches", "source": {"from": "DefaultRoute"}, "underlayFamily": "IPv6", "key": 100,
            "mtuPolicy": "Fixed", "mtu": 1400, "tcpMssPolicy": "Clamp", "ttl": 255, "dscpPolicy": "Copy",
            "interfaceState": "Always"
        },
        "nhrp": {
            "mode": "Enabled", "networkId": 100, "holdTimeSeconds": 600, "uniquenessPolicy": "Identity",
            "registrationUnique": true
        },
        "nhs": [{"name": "hub1", "priority": 0, "cluster": 0, "overlayAddresses": ["10.255.0.1"],
                 "nbma": [{"address": "2001:db8:2::2"}]}],
        "routing": {"protocol": "NHRP", "metric": 100}
    });
    serde_json::from_value(json).expect("endpoint spec")
}

fn empty() -> Wanted {
    let mut wanted = Wanted::new(&spec(), ip("2001:db8:a::2"), None);
    wanted.set_gateway(&[net("10.255.0.0/16"), net("fd00:255::/64")], &[ip("10.255.0.1"), ip("fd00:255::1")]);
    wanted
}

fn neighbour(overlay: &str, nbma: &str) -> Output {
    Output::InstallNeighbour { link: LinkId(LINK), overlay: ip(overlay), nbma: ip(nbma) }
}

fn route(prefix: &str, via: &str, kind: RouteKind) -> Output {
    Output::InstallRoute { link: LinkId(LINK), prefix: net(prefix), via: ip(via), kind }
}

fn outputs() -> Vec<Output> {
    vec![
        neighbour("10.255.0.1", "2001:db8:2::2"),
        route("10.255.0.1/32", "10.255.0.1", RouteKind::Host),
        route("10.2.0.0/24", "10.255.0.1", RouteKind::Announced),
        neighbour("fd00:255::12", "2001:db8:b::2"),
        route("fd00:255::12/128", "fd00:255::12", RouteKind::Host),
        route("fd00:30::/64", "fd00:255::12", RouteKind::Shortcut),
    ]
}

/// A kernel that obeys: a deletion looks at prefix, metric, link and gateway, as the real one's does.
#[derive(Default)]
struct Model(Observed);

impl Model {
    fn apply(&mut self, ops: &[Op]) {
        let routes = &mut self.0.routes;
        let place = |r: &Route| (r.prefix, r.table, r.metric);
        for op in ops {
            match op {
                Op::CreateGre(gre) => self.0.links.push(link(gre)),
                Op::AddAddress(a) => self.0.addresses.push(a.clone()),
                Op::PutRoute(r) => {
                    assert!(!matches!(r.target, Target::Link { .. }), "{r:?} has no outer header");
                    routes.retain(|old| place(old) != place(r));
                    routes.push(r.clone());
                }
                Op::DeleteRoute(r) => {
                    routes.retain(|old| place(old) != place(r) || old.target.hop() != r.target.hop());
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Underlay addresses that a prefix leads to.
    fn places(&self, prefix: &str) -> Vec<IpAddr> {
        let routes = self.0.routes.iter().filter(|r| r.prefix == net(prefix));
        let outers = routes.filter_map(|r| match r.target {
            Target::Encap { outer, .. } => Some(outer.remote.into()),
            _ => None,
        });
        outers.collect()
    }
}

fn link(gre: &GreLink) -> Link {
    Link {
        index: LINK,
        name: gre.name.clone(),
        kind: "ip6gre".into(),
        alias: gre.alias.clone(),
        up: gre.up,
        carrier: true,
        noarp: false,
        mtu: gre.mtu,
        master: 0,
        vrf_table: None,
        gre: Some(gre.shown()),
    }
}

fn started() -> Model {
    let mut kernel = Model::default();
    let wanted = empty();
    assert_eq!(diff::link_step(&wanted.link, &kernel.0), LinkStep::Create);
    kernel.apply(&[Op::CreateGre(wanted.link.clone())]);
    assert_eq!(diff::link_step(&wanted.link, &kernel.0), LinkStep::Keep(LINK));
    kernel
}

#[test]
fn outputs_as_they_come_equal_the_diff() {
    let (mut one, mut wanted) = (started(), empty());
    one.apply(&diff::changes(&wanted, LINK, &one.0.clone()));
    assert!(one.places("10.255.0.0/16").is_empty(), "nobody knows where the hub is");
    for output in outputs() {
        one.apply(&wanted.take(&output, LINK));
    }
    assert_eq!(diff::changes(&wanted, LINK, &one.0), Vec::new());
    assert_eq!(
        one.places("10.255.0.0/16"),
        [ip("2001:db8:2::2")],
        "with the hub's place came what goes by it"
    );
    assert_eq!(one.places("fd00:30::/64"), [ip("2001:db8:b::2")]);
    let outer = Outer { local: ip6("2001:db8:a::2"), remote: ip6("2001:db8:b::2"), key: Some(100), ttl: 255 };
    let target = Target::Encap { link: LINK, via: Some(ip("fd00:255::12")), outer };
    assert!(one.0.routes.iter().any(|r| r.target == target && wanted.has_route(r, LINK)));
    assert_eq!(wanted.neighbours().count(), 0);
    assert_eq!(wanted.peers6(), [ip6("2001:db8:2::2"), ip6("2001:db8:b::2")]);

    let mut two = started();
    two.apply(&diff::changes(&wanted, LINK, &two.0.clone()));
    assert_eq!(diff::changes(&wanted, LINK, &two.0), Vec::new(), "a second comparison finds nothing");

    // A peer moves: all that goes by it moves with it. It goes: nothing goes by it.
    one.apply(&wanted.take(&neighbour("fd00:255::12", "2001:db8:c::2"), LINK));
    assert_eq!(one.places("fd00:30::/64"), [ip("2001:db8:c::2")]);
    assert_eq!(diff::changes(&wanted, LINK, &one.0), Vec::new());
    let gone = Output::RemoveNeighbour { link: LinkId(LINK), overlay: ip("fd00:255::12") };
    one.apply(&wanted.take(&gone, LINK));
    assert!(one.places("fd00:30::/64").is_empty() && one.places("fd00:255::12/128").is_empty());
    assert_eq!(diff::changes(&wanted, LINK, &one.0), Vec::new());
}

#[test]
fn another_outer_header_is_put_right_and_not_deleted() {
    let (mut kernel, mut wanted) = (started(), empty());
    for output in outputs() {
        kernel.apply(&wanted.take(&output, LINK));
    }
    kernel.apply(&diff::changes(&wanted, LINK, &kernel.0.clone()));
    for at in 0..kernel.0.routes.len() {
        let mut drifted = Model(kernel.0.clone());
        let Target::Encap { outer, .. } = &mut drifted.0.routes[at].target else { continue };
        outer.remote = ip6("2001:db8:dead::1");
        let changed = drifted.0.routes[at].clone();
        assert!(!wanted.has_route(&changed, LINK));
        drifted.apply(&diff::changes(&wanted, LINK, &drifted.0.clone()));
        assert_eq!(diff::changes(&wanted, LINK, &drifted.0), Vec::new());
        assert!(drifted.0.routes.iter().any(|r| r.prefix == changed.prefix && *r != changed), "{changed:?}");
    }
}

#[test]
fn a_node_has_one_such_link() {
    let kernel = started();
    let other = GreLink { name: "dm-other".into(), alias: "dmvpn.io/other".into(), ..empty().link };
    assert_eq!(diff::link_step(&other, &kernel.0), LinkStep::OnlyOne(LINK));
    let line = GreLink { remote: Some(ip("2001:db8:2::2")), ..other.clone() };
    assert_eq!(diff::link_step(&line, &kernel.0), LinkStep::Create);
    let over4 = GreLink { local: ip("192.0.2.2"), ..other };
    assert_eq!(diff::link_step(&over4, &kernel.0), LinkStep::Create);
    // Of the same network over another underlay it is another link.
    let moved = GreLink { local: ip("192.0.2.2"), ..empty().link };
    assert_eq!(diff::link_step(&moved, &kernel.0), LinkStep::Replace(LINK));
}

#[test]
fn a_hub_takes_back_from_the_routes_what_the_snapshot_lacks() {
    let (mut kernel, mut wanted) = (started(), empty());
    for output in [
        neighbour("10.255.0.13", "2001:db8:c::2"),
        route("10.255.0.13/32", "10.255.0.13", RouteKind::Host),
        route("10.3.0.0/24", "10.255.0.13", RouteKind::Registered),
    ] {
        kernel.apply(&wanted.take(&output, LINK));
    }
    let snapshot = adopt::fill(nhrp::Snapshot::default(), LINK, &kernel.0, wanted.metrics, 600);
    let [binding] = snapshot.bindings.as_slice() else { panic!("one binding: {snapshot:?}") };
    assert_eq!((binding.overlay, binding.nbma), (ip("10.255.0.13"), ip("2001:db8:c::2")));
    assert_eq!(binding.prefixes, [net("10.3.0.0/24")]);
}
