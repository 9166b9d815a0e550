//! What endpoints are made, and what is in them.

use crds::endpoint::{Desired, Role};
use crds::network::HubMode;
use crds::spoke::TunnelSourceFrom;

use super::*;

const QUICKSTART: [&str; 5] = [
    include_str!("../../../examples/quickstart/network.yaml"),
    include_str!("../../../examples/quickstart/hub-lan.yaml"),
    include_str!("../../../examples/quickstart/branch-a.yaml"),
    include_str!("../../../examples/quickstart/branch-b.yaml"),
    include_str!("../../../examples/quickstart/router.yaml"),
];

#[test]
fn the_quickstart_gives_a_hub_and_two_spokes() {
    let yaml = QUICKSTART.join("---\n");
    let compiled = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1", "branch-a", "branch-b"]));
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    assert_eq!(compiled.names(), ["branches-branch-a", "branches-branch-b", "branches-hub"]);

    let hub = &compiled.endpoint("branches-hub").spec;
    assert_eq!((hub.role, hub.desired, hub.nhs.len()), (Role::Hub, Desired::Present, 0));
    assert_eq!(hub.addresses.len(), 1, "the LAN behind the hub needs no address of its own");
    assert_eq!(hub.addresses[0].address.to_string(), "10.255.0.1");
    assert_eq!(hub.subnets[0].cidr.to_string(), "10.10.0.0/24");
    assert_eq!(hub.subnets[0].owner, "hub-lan");
    assert_eq!(hub.external[0].name, "router");
    assert_eq!(hub.external[0].subnets[0].to_string(), "10.40.0.0/24");
    assert_eq!(hub.tunnel.interface_name, "dm-branches");
    assert_eq!(hub.tunnel.source.from, TunnelSourceFrom::DefaultRoute);
    assert_eq!((hub.tunnel.key, hub.nhrp.network_id, hub.nhrp.hold_time_seconds), (Some(100), 100, 600));

    let branch = &compiled.endpoint("branches-branch-a").spec;
    assert_eq!((branch.role, branch.tunnel.destination.clone()), (Role::Spoke, None));
    assert_eq!(branch.addresses[0].address.to_string(), "10.255.0.11");
    assert_eq!(branch.subnets[0].cidr.to_string(), "10.20.0.0/24");
    assert_eq!(branch.nhs.len(), 1);
    assert_eq!(branch.nhs[0].nbma[0].address.as_deref(), Some("192.0.2.2"));
    assert!(branch.external.is_empty());
}

#[test]
fn a_box_renders_its_own_endpoint_and_waits_for_the_others() {
    let compiled = compile(&inputs(&QUICKSTART.join("---\n"), &["branch-b"]));
    assert_eq!(compiled.names(), ["branches-branch-b"]);
    let faults = compiled.faults("DmvpnSpoke/branch-a");
    assert!(
        faults[0].starts_with("NodeNotFound spec.placement.nodeName: node branch-a is not here"),
        "{faults:?}"
    );
    let branch_a = compiled.conditions.iter().find(|c| c.name == "branch-a").unwrap();
    assert!(branch_a.accepted() && branch_a.waiting());
    assert_eq!(
        compiled.conditions.iter().flat_map(crate::ObjectConditions::faults).count(),
        0,
        "nothing to mend on this box"
    );
}

#[test]
fn every_endpoint_is_valid_under_its_own_schema() {
    let yaml = QUICKSTART.join("---\n");
    let compiled = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1", "branch-a", "branch-b"]));
    for endpoint in &compiled.endpoints {
        let value = serde_json::to_value(endpoint).unwrap();
        assert_eq!(crds::schema::check("DmvpnEndpoint", &value), Vec::new());
    }
}

#[test]
fn two_hubs_and_a_pool_compile() {
    let yaml = "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {name: branches}
spec:
  phase: Phase3
  overlay: [10.255.0.0/16, \"fd00:255::/64\"]
  hubs:
  - {name: hub1, priority: 0, overlayAddresses: [10.255.0.1], nbma: [{address: 192.0.2.2}]}
  - {name: dc2, priority: 1, overlayAddresses: [10.255.0.2], nbma: [{hostname: vpn2.example.net}]}
  addressing: {pools: [10.255.16.0/20]}
  tunnel: {key: 100}
  nhrp: {networkId: 100}
---
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {name: west-lan}
spec:
  networkRef: {name: branches}
  placement: {type: Node, nodeName: west-1}
  subnets: [{cidr: 10.20.0.0/24}]
";
    let compiled = compile(&inputs(yaml, &["west-1"]));
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    let spec = &compiled.endpoint("branches-west-1").spec;
    assert_eq!(spec.nhs.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["hub1", "dc2"]);
    assert_eq!(spec.addresses.len(), 1);
    let pool: crds::Cidr = "10.255.16.0/20".parse().unwrap();
    assert!(pool.contains(&spec.addresses[0].address));
    assert_eq!(compiled.allocations.len(), 1);
}

#[test]
fn spokes_of_one_node_share_an_endpoint() {
    let on_a = "{type: Node, nodeName: a}";
    let yaml = network("branches", "")
        + &spoke_at("one", on_a, "  overlayAddresses: [10.255.0.11]\n  subnets: [{cidr: 10.1.0.0/24}]")
        + &spoke_at("two", on_a, "  overlayAddresses: [10.255.0.12]\n  subnets: [{cidr: 10.2.0.0/24}]")
        + &spoke_at("idle", on_a, "  suspend: true\n  overlayAddresses: [10.255.0.13]");
    let compiled = compile(&inputs(&yaml, &["a"]));
    let spec = &compiled.endpoint("branches-a").spec;
    let owners: Vec<_> = spec.addresses.iter().map(|a| (a.address.to_string(), a.owner.as_str())).collect();
    assert_eq!(owners, [("10.255.0.11".to_owned(), "one"), ("10.255.0.12".to_owned(), "two")]);
    assert_eq!(spec.subnets.len(), 2);
    assert!(!spec.suspend);

    let off = compile(&inputs(
        &(network("branches", "") + &spoke("b", "  suspend: true\n  overlayAddresses: [10.255.0.13]")),
        &["b"],
    ));
    let spec = &off.endpoint("branches-b").spec;
    assert!(spec.suspend && spec.addresses.len() == 1, "a suspended tunnel keeps its address");
}

#[test]
fn placements_choose_their_nodes() {
    let yaml = network("branches", "  addressing: {pools: [10.255.16.0/20]}")
        + &spoke_at("each", "{type: EveryNode, nodeSelector: {edge: 'yes'}}", "")
        + &spoke_at(
            "one",
            "{type: OneNode, nodeSelector: {edge: 'yes'}}",
            "  subnets: [{cidr: 10.9.0.0/24}]",
        );
    let mut facts = inputs(&yaml, &["n1:edge=yes", "n2:edge=yes", "n3"]);
    facts.nodes[0].ready = false;
    let compiled = compile(&facts);
    assert_eq!(compiled.names(), ["branches-n1", "branches-n2"]);
    let subnets = |name: &str| compiled.endpoint(name).spec.subnets.len();
    assert_eq!(
        (subnets("branches-n1"), subnets("branches-n2")),
        (0, 1),
        "OneNode goes to a node that is ready"
    );
    let owners: Vec<&str> = compiled.allocations.iter().map(|a| a.owner.as_str()).collect();
    let mut sorted = owners.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["each/n1", "each/n2", "one"]);
}

#[test]
fn hubs_register_with_hubs_and_spokes_only_with_active_ones() {
    let yaml = "apiVersion: dmvpn.io/v1alpha1\nkind: DmvpnNetwork\nmetadata: {name: branches}\nspec:\n  phase: Phase3\n  \
                overlay: [10.255.0.0/16]\n  hubs:\n  - {name: top, overlayAddresses: [10.255.0.1], nbma: [{address: \
                192.0.2.1}]}\n  - {name: mid, priority: 1, overlayAddresses: [10.255.0.2], nbma: [{address: \
                192.0.2.2}], registersTo: [top]}\n  - {name: old, mode: Disabled, overlayAddresses: [10.255.0.3], \
                nbma: [{address: 192.0.2.3}]}\n"
        .to_owned()
        + &spoke("a", "  overlayAddresses: [10.255.0.11]");
    let nodes = ["t:dmvpn.io/hub=top", "m:dmvpn.io/hub=mid", "o:dmvpn.io/hub=old", "a"];
    let compiled = compile(&inputs(&yaml, &nodes));
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    assert_eq!(compiled.names(), ["branches-a", "branches-m", "branches-t"]);
    let of = |name: &str| {
        let spec = &compiled.endpoint(name).spec;
        (spec.role, spec.nhs.iter().map(|n| n.name.clone()).collect::<Vec<_>>())
    };
    assert_eq!(of("branches-t"), (Role::Hub, vec![]));
    assert_eq!(of("branches-m"), (Role::HubSpoke, vec!["top".to_owned()]));
    assert_eq!(of("branches-a"), (Role::Spoke, vec!["top".to_owned(), "mid".to_owned()]));
}

#[test]
fn clusters_modes_and_the_list_of_hubs() {
    let yaml = "apiVersion: dmvpn.io/v1alpha1\nkind: DmvpnNetwork\nmetadata: {name: branches}\nspec:\n  phase: Phase3\n  \
                overlay: [10.255.0.0/16]\n  clusters: [{name: x, maxConnections: 2}, {name: yy, maxConnections: 1}]\n  \
                fallbackSeconds: 30\n  hubs:\n  - {name: one, cluster: yy, mode: Draining, overlayAddresses: \
                [10.255.0.1], nbma: [{address: 192.0.2.1}]}\n  - {name: two, priority: 7, cluster: yy, \
                overlayAddresses: [10.255.0.2], nbma: [{hostname: two.example.net}]}\n  - {name: old, mode: \
                Disabled, overlayAddresses: [10.255.0.3], nbma: [{address: 192.0.2.3}]}\n"
        .to_owned()
        + &spoke("a", "  overlayAddresses: [10.255.0.11]");
    let compiled = compile(&inputs(&yaml, &["h:dmvpn.io/hub=one", "a"]));
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    let brief = |list: &[crds::endpoint::EndpointNhs]| {
        let one = |n: &crds::endpoint::EndpointNhs| (n.name.clone(), n.cluster, n.max_connections, n.mode);
        list.iter().map(one).collect::<Vec<_>>()
    };
    let (active, draining) = (HubMode::Active, HubMode::Draining);
    let hubs = vec![("two".to_owned(), 2, Some(1), active), ("one".to_owned(), 2, Some(1), draining)];
    let branch = &compiled.endpoint("branches-a").spec;
    assert_eq!(brief(&branch.nhs), hubs);
    assert_eq!((branch.nhrp.fallback_seconds, branch.nhrp.hub_list.len()), (30, 0));
    let hub = &compiled.endpoint("branches-h").spec;
    assert_eq!((brief(&hub.nhrp.hub_list), hub.nhs.len()), (hubs, 0), "what it tells, itself too");
}

#[test]
fn phase_1_is_point_to_point() {
    let yaml = network("branches", "").replace("Phase3", "Phase1")
        + &spoke("a", "  overlayAddresses: [10.255.0.11]");
    let compiled = compile_with(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1", "a"]), Support::ALL);
    let destination =
        |name: &str| compiled.endpoint(name).spec.tunnel.destination.clone().and_then(|d| d.address);
    assert_eq!(destination("branches-a").as_deref(), Some("192.0.2.2"));
    assert_eq!(destination("branches-hub"), None);

    let mapping =
        "  nhrp: {mode: Disabled, staticMappings: [{overlayAddress: 10.255.0.11, nbmaAddress: 192.0.2.9}]}";
    let yaml = network("branches", mapping).replace("Phase3", "Phase1");
    let compiled = compile_with(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1"]), Support::ALL);
    let spec = &compiled.endpoint("branches-hub").spec;
    assert_eq!(spec.tunnel.destination.as_ref().and_then(|d| d.address.as_deref()), Some("192.0.2.9"));
}

#[test]
fn the_internal_ip_of_the_node_is_filled_in() {
    let yaml = network("branches", "")
        + &spoke("a", "  overlayAddresses: [10.255.0.11]\n  tunnelSource: {from: NodeInternalIP}");
    let mut facts = inputs(&yaml, &["a"]);
    let compiled = compile(&facts);
    assert_eq!(compiled.names(), Vec::<&str>::new());
    assert!(compiled.faults("DmvpnSpoke/a")[0].starts_with("NodeAddressUnknown spec.tunnelSource.from"));
    facts.nodes[0].internal_ips = vec!["fd00::9".parse().unwrap(), "192.0.2.9".parse().unwrap()];
    let compiled = compile(&facts);
    let source = &compiled.endpoint("branches-a").spec.tunnel.source;
    assert_eq!(source.address.as_deref(), Some("192.0.2.9"));
}

#[test]
fn long_names_give_short_interfaces() {
    for (name, want) in [("branches", "dm-branches"), ("a-very-long-name", "dm-a-very-")] {
        let yaml = network(name, "") + &spoke("a", "").replace("branches", name);
        let yaml = yaml.replace("  placement", "  overlayAddresses: [10.255.0.11]\n  placement");
        let compiled = compile(&inputs(&yaml, &["a"]));
        let interface = compiled.endpoints[0].spec.tunnel.interface_name.clone();
        assert!(interface.starts_with(want) && interface.len() <= 15, "{interface}");
    }
}

#[test]
fn it_is_told_which_spoke_is_part_of_which_endpoint() {
    let yaml = network("branches", "")
        + &spoke_at("lan", "{type: Node, nodeName: hub}", "")
        + &spoke("a", "  overlayAddresses: [10.255.0.11]")
        + &spoke("elsewhere", "  overlayAddresses: [10.255.0.12]");
    let compiled = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1", "a"]));
    let told: Vec<String> = compiled
        .members
        .iter()
        .map(|m| format!("{} {} {} {:?}", m.spoke, m.node, m.endpoint, m.addresses))
        .collect();
    assert_eq!(told, ["a a branches-a [10.255.0.11]", "lan hub branches-hub []"]);
}

#[test]
fn without_nhrp_both_ends_are_named() {
    let yaml = include_str!("../../../examples/plain-gre/network.yaml").to_owned()
        + "---\n"
        + include_str!("../../../examples/plain-gre/r31.yaml");
    let nodes = ["hub:dmvpn.io/hub=r11", "branch-a"];
    let compiled = compile(&inputs(&yaml, &nodes));
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    let hub = &compiled.endpoint("lease-hub").spec;
    assert_eq!(
        hub.tunnel.destination.as_ref().and_then(|it| it.address.as_deref()),
        Some("198.51.100.2"),
        "point-to-point too"
    );
    assert_eq!(hub.nhrp.static_mappings[0].subnets[0].to_string(), "10.20.0.0/24");
    let spoke = &compiled.endpoint("lease-branch-a").spec;
    assert_eq!(spoke.nhs[0].subnets[0].to_string(), "10.10.0.0/24");
    assert_eq!(spoke.tunnel.keepalive.as_ref().map(|it| (it.period_seconds, it.retries)), Some((10, 3)));

    for (from, to, object, want) in [
        (
            "  nhrp:\n",
            "  - {name: r12, overlayAddresses: [10.254.0.1], nbma: [{address: 192.0.2.3}]}\n  nhrp:\n",
            "DmvpnNetwork/lease",
            "spec.hubs: without NHRP (nhrp.mode: Disabled) a tunnel has two ends: state one hub, not 2",
        ),
        (
            "    staticMappings:\n    - overlayAddress: 10.254.0.2\n      nbmaAddress: 198.51.100.2\n      subnets: [10.20.0.0/24]\n",
            "",
            "DmvpnNetwork/lease",
            "spec.nhrp.staticMappings: without NHRP (nhrp.mode: Disabled) the hub has to be told of the other end",
        ),
        (
            "advertise: [10.10.0.0/24]",
            "advertise: [0.0.0.0/0]",
            "DmvpnNetwork/lease",
            "0.0.0.0/0 contains 198.51.100.2, an end of the tunnel",
        ),
        (
            "subnets: [10.20.0.0/24]",
            "subnets: [198.51.100.0/24]",
            "DmvpnNetwork/lease",
            "198.51.100.0/24 contains 198.51.100.2",
        ),
        (
            "overlayAddresses: [10.254.0.2]",
            "overlayAddresses: [10.254.0.3]",
            "DmvpnSpoke/r31",
            "spec.overlayAddresses",
        ),
    ] {
        assert!(yaml.contains(from), "{from}");
        let compiled = compile(&inputs(&yaml.replace(from, to), &nodes));
        let faults = compiled.faults(object).join("\n");
        assert!(faults.contains(want), "{to}: {faults}");
    }
}
