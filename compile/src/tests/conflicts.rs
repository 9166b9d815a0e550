//! Objects that contradict each other: the right one is at fault, says why, and nobody else is stopped.

use super::*;

const A: &str = "  overlayAddresses: [10.255.0.11]\n  subnets: [{cidr: 10.1.0.0/24}]";

/// Compiles the network with spokes `a` (sound) and `b` (as given) and says what is wrong with `b`.
fn fault_of_b(network_extra: &str, b: &str) -> String {
    let yaml = network("branches", network_extra) + &spoke("a", A) + &spoke("b", b);
    let compiled = compile(&inputs(&yaml, &["a", "b"]));
    assert_eq!(compiled.names(), ["branches-a"], "b is left out, a is not");
    assert_eq!(compiled.faults("DmvpnSpoke/a"), Vec::<String>::new());
    assert_eq!(compiled.faults("DmvpnNetwork/branches"), Vec::<String>::new());
    let b = compiled.conditions.iter().find(|c| c.name == "b").unwrap();
    assert!(!b.accepted() && !b.waiting());
    assert!(
        b.findings.iter().any(|f| f.type_ == ConditionType::Stalled && f.status == ConditionStatus::True)
    );
    assert!(b.findings.iter().any(|f| f.type_ == ConditionType::Ready && f.status == ConditionStatus::False));
    compiled.faults("DmvpnSpoke/b").join("\n")
}

#[test]
fn spokes_at_fault() {
    for (network, b, want) in [
        (
            "",
            "  overlayAddresses: [10.255.0.12]\n  subnets: [{cidr: 10.1.0.128/25}]",
            "OverlappingSubnets spec.subnets[0].cidr: 10.1.0.128/25 overlaps 10.1.0.0/24 of DmvpnSpoke/a",
        ),
        (
            "",
            "  overlayAddresses: [10.255.0.12]\n  subnets: [{cidr: 10.255.3.0/24}]",
            "SubnetOverlapsOverlay spec.subnets[0].cidr: 10.255.3.0/24 overlaps the overlay 10.255.0.0/16",
        ),
        (
            "",
            "  overlayAddresses: [10.255.0.12]\n  subnets: [{cidr: 192.0.2.0/24}]",
            "SubnetContainsNbma spec.subnets[0].cidr: 192.0.2.0/24 contains 192.0.2.2, the underlay address of hub hub1",
        ),
        (
            "",
            "  overlayAddresses: [10.255.0.12]\n  subnets: [{cidr: 10.7.0.0/16}, {cidr: 10.7.1.0/24}]",
            "OverlappingSubnets spec.subnets[1].cidr: 10.7.1.0/24 overlaps 10.7.0.0/16 of the same spoke",
        ),
        (
            "",
            "  overlayAddresses: [10.255.0.12]\n  subnets: [{cidr: 10.7.0.0/16, advertiseAs: 10.8.0.0/16}, {cidr: 10.7.1.0/24}]",
            "OverlappingSubnets spec.subnets[1].cidr: 10.7.1.0/24 overlaps 10.7.0.0/16 of the same spoke",
        ),
        (
            "",
            "  overlayAddresses: [10.255.0.12]\n  subnets: [{cidr: 10.7.0.0/16, advertiseAs: 10.1.0.0/16}]",
            "OverlappingSubnets spec.subnets[0].advertiseAs: 10.1.0.0/16 overlaps 10.1.0.0/24 of DmvpnSpoke/a",
        ),
        (
            "  tunnel: {vrf: red}",
            "  overlayAddresses: [10.255.0.12]\n  subnets: [{cidr: 10.7.0.0/16, advertiseAs: 10.8.0.0/16}]",
            "NotSupported spec.subnets[0].advertiseAs: 10.8.0.0/16 is not supported by \
             this version in a VRF (red)",
        ),
        (
            "",
            "  overlayAddresses: [10.254.0.12]",
            "AddressOutsideOverlay spec.overlayAddresses[0]: 10.254.0.12 is outside of the overlay",
        ),
        (
            "",
            "  overlayAddresses: [10.255.255.255]",
            "AddressNotUsable spec.overlayAddresses[0]: 10.255.255.255 is the network or broadcast address",
        ),
        (
            "",
            "  overlayAddresses: [10.255.0.1]",
            "AddressTaken spec.overlayAddresses[0]: 10.255.0.1 belongs to hub hub1",
        ),
        (
            "",
            "  overlayAddresses: [10.255.0.11]",
            "AddressTaken spec.overlayAddresses[0]: 10.255.0.11 belongs to DmvpnSpoke/a",
        ),
        (
            "  addressing: {reserved: [10.255.0.12]}",
            "  overlayAddresses: [10.255.0.12]",
            "AddressReserved spec.overlayAddresses[0]: 10.255.0.12 lies in addressing.reserved",
        ),
        ("", "", "AddressMissing spec.overlayAddresses: it has no overlay address: add overlayAddresses, or"),
        (
            "  nhrp: {staticMappings: [{overlayAddress: 10.255.0.50, nbmaAddress: 192.0.2.50, subnets: [10.50.0.0/24]}]}",
            "  overlayAddresses: [10.255.0.12]\n  subnets: [{cidr: 10.50.0.0/16}]",
            "OverlappingSubnets spec.subnets[0].cidr: 10.50.0.0/16 overlaps 10.50.0.0/24 of static mapping 10.255.0.50",
        ),
    ] {
        let got = fault_of_b(network, b);
        assert!(got.contains(want), "{b}\n got: {got}\nwant: {want}");
    }
}

#[test]
fn the_same_prefix_behind_one_node_has_one_name() {
    let mapped = |to: &str| format!("  subnets: [{{cidr: 10.1.0.0/24, advertiseAs: {to}}}]");
    let on_a = "{type: Node, nodeName: a}";
    let yaml = network("branches", "  addressing: {pools: [10.255.16.0/20]}")
        + &spoke_at("one", on_a, &mapped("10.8.0.0/24"))
        + &spoke_at("two", on_a, &mapped("10.9.0.0/24"))
        + &spoke("b", &mapped("10.10.0.0/24"));
    let compiled = compile(&inputs(&yaml, &["a", "b"]));
    assert_eq!(compiled.names(), ["branches-a", "branches-b"]);
    let subnets = |name: &str| {
        let of = |s: &crds::endpoint::EndpointSubnet| {
            format!("{} as {:?}", s.cidr, s.advertise_as.map(|it| it.to_string()))
        };
        compiled.endpoint(name).spec.subnets.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(subnets("branches-a"), ["10.1.0.0/24 as Some(\"10.8.0.0/24\")"]);
    assert_eq!(subnets("branches-b"), ["10.1.0.0/24 as Some(\"10.10.0.0/24\")"], "on another node it may");
    let faults = compiled.faults("DmvpnSpoke/two");
    assert!(
        faults[0].contains("10.1.0.0/24 overlaps 10.1.0.0/24 of DmvpnSpoke/one, which is behind node a too and announced as 10.8.0.0/24"),
        "{faults:?}"
    );
}

#[test]
fn an_unknown_network_is_named() {
    let yaml =
        network("branches", "") + &spoke("a", A) + &spoke("b", A).replace("name: branches", "name: branch");
    let compiled = compile(&inputs(&yaml, &["a", "b"]));
    assert_eq!(compiled.names(), ["branches-a"]);
    let faults = compiled.faults("DmvpnSpoke/b");
    assert!(
        faults[0].starts_with("NetworkNotFound spec.networkRef.name: there is no DmvpnNetwork/branch"),
        "{faults:?}"
    );
}

#[test]
fn an_external_spoke_needs_an_address() {
    let yaml = network("branches", "  addressing: {pools: [10.255.16.0/20]}")
        + &spoke_at("r", "{type: External}", "  subnets: [{cidr: 10.3.0.0/24}]");
    let compiled = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1"]));
    assert!(compiled.faults("DmvpnSpoke/r")[0].starts_with("AddressMissing"));
    assert!(compiled.endpoint("branches-hub").spec.external.is_empty());
}

#[test]
fn the_younger_is_at_fault() {
    let yaml = network("branches", "") + &spoke("a", A) + &spoke("b", &A.replace(".11", ".12"));
    let mut facts = inputs(&yaml, &["a", "b"]);
    for (spoke, time) in facts.spokes.iter_mut().zip(["2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z"]) {
        spoke.metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time.parse().unwrap()));
    }
    let compiled = compile(&facts);
    assert_eq!(compiled.names(), ["branches-b"]);
    assert!(compiled.faults("DmvpnSpoke/a")[0].contains("overlaps 10.1.0.0/24 of DmvpnSpoke/b"));
}

#[test]
fn one_at_fault_does_not_count_against_others() {
    // b overlaps a and is refused; c overlaps only b
    let yaml = network("branches", "")
        + &spoke("a", A)
        + &spoke("b", "  overlayAddresses: [10.255.0.12]\n  subnets: [{cidr: 10.0.0.0/14}]")
        + &spoke("c", "  overlayAddresses: [10.255.0.13]\n  subnets: [{cidr: 10.2.0.0/24}]");
    let compiled = compile(&inputs(&yaml, &["a", "b", "c"]));
    assert_eq!(compiled.names(), ["branches-a", "branches-c"]);
}

#[test]
fn a_thousand_spokes_do_not_mind_a_bad_one() {
    let mut yaml = network("branches", "");
    for i in 0..1000 {
        yaml += &spoke(
            &format!("s{i:03}"),
            &format!("  overlayAddresses: [10.255.{}.{}]", 1 + i / 250, 1 + i % 250),
        );
    }
    yaml += &spoke("z", "  overlayAddresses: [10.255.1.1]");
    let nodes: Vec<String> = (0..1000).map(|i| format!("s{i:03}")).chain(["z".into()]).collect();
    let compiled = compile(&inputs(&yaml, &nodes.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(compiled.endpoints.len(), 1000);
    assert_eq!(compiled.all_faults().len(), 1, "{:?}", compiled.all_faults());
}

#[test]
fn networks_at_fault() {
    let good = network("branches", "");
    for (from, to, want) in [
        ("10.255.0.1]", "10.254.0.1]", "AddressOutsideOverlay spec.hubs[0].overlayAddresses[0]: 10.254.0.1"),
        (
            "overlayAddresses: [10.255.0.1], ",
            "",
            "HubIncomplete spec.hubs[0].overlayAddresses: hub hub1 has no overlay",
        ),
        (
            ", nbma: [{address: 192.0.2.2}]",
            "",
            "HubIncomplete spec.hubs[0].nbma: hub hub1 has no underlay address",
        ),
        (
            "192.0.2.2",
            "10.255.0.9",
            "AddressNotUsable spec.hubs[0].nbma[0].address: 10.255.0.9 lies in the overlay",
        ),
        (
            "192.0.2.2",
            "0.0.0.0",
            "AddressNotUsable spec.hubs[0].nbma[0].address: 0.0.0.0 is no address of a host",
        ),
        ("name: hub1,", "name: hub1, mode: Disabled,", "NoHub spec.hubs: no hub can be used"),
        ("  hubs:", "  tunnel: {mtu: 1000}\n  hubs:", ""),
        (
            "[10.255.0.0/16]",
            "[10.255.0.0/16, 'fd00::/64']\n  tunnel: {mtu: 1000}",
            "SettingConflict spec.tunnel.mtu: an MTU of 1000 is too small for an IPv6 overlay",
        ),
        (
            "[10.255.0.0/16]",
            "[10.255.0.0/16, 10.255.1.0/24]",
            "OverlappingOverlay spec.overlay[1]: 10.255.1.0/24 overlaps 10.255.0.0/16",
        ),
        (
            "[10.255.0.0/16]",
            "[10.255.0.0/16]\n  addressing: {pools: [10.1.0.0/16]}",
            "AddressOutsideOverlay spec.addressing.pools[0]: 10.1.0.0/16 is outside of the overlay",
        ),
        ("name: hub1,", "name: hub1, registersTo: [],", ""),
    ] {
        assert!(good.contains(from), "{from}");
        let compiled = compile(&inputs(&good.replace(from, to), &["hub:dmvpn.io/hub=hub1"]));
        let faults = compiled.faults("DmvpnNetwork/branches").join("\n");
        match want {
            "" => assert_eq!(faults, "", "{to}"),
            want => assert!(faults.contains(want), "{to}\n got: {faults}\nwant: {want}"),
        }
    }
    let none = good.split("  hubs:").next().unwrap().to_owned() + "  hubs: []\n";
    let faults = compile(&inputs(&none, &[])).faults("DmvpnNetwork/branches");
    assert!(faults[0].starts_with("NoHub spec.hubs: the network has no hub"), "{faults:?}");
}

#[test]
fn holding_time_is_at_least_three_intervals() {
    // the schema refuses it; objects that came past the schema are refused too
    let mut facts = inputs(&network("branches", ""), &[]);
    facts.networks[0].spec.nhrp.registration_interval_seconds = Some(201);
    let faults = compile(&facts).faults("DmvpnNetwork/branches");
    assert!(
        faults[0].starts_with("SettingConflict spec.nhrp.holdTimeSeconds: a holding time of 600 s"),
        "{faults:?}"
    );
}

#[test]
fn a_broken_hub_does_not_stop_the_other() {
    let yaml =
        network("branches", "  - {name: hub2, overlayAddresses: [10.255.0.1], nbma: [{address: 192.0.2.3}]}")
            + &spoke("a", A);
    let compiled = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1", "a"]));
    assert_eq!(compiled.names(), ["branches-a", "branches-hub"]);
    assert_eq!(compiled.endpoint("branches-a").spec.nhs.len(), 1);
    let faults = compiled.faults("DmvpnNetwork/branches");
    assert!(
        faults[0].starts_with("AddressTaken spec.hubs[1].overlayAddresses[0]: 10.255.0.1 of hub hub2"),
        "{faults:?}"
    );
}

#[test]
fn a_hub_is_on_one_node_and_a_node_has_one_hub() {
    let yaml = network(
        "branches",
        "  - {name: hub2, overlayAddresses: [10.255.0.2], nbma: [{address: 192.0.2.3}], \
                                    nodeSelector: {edge: 'yes'}}",
    );
    let compiled = compile(&inputs(&yaml, &["n1:dmvpn.io/hub=hub1,edge=yes", "n2:dmvpn.io/hub=hub1"]));
    assert_eq!(compiled.names(), ["branches-n1"]);
    let faults = compiled.faults("DmvpnNetwork/branches").join("\n");
    assert!(
        faults.contains("HubOnSeveralNodes spec.hubs[0].nodeSelector: hub hub1 is placed on nodes n1, n2"),
        "{faults}"
    );
    assert!(faults.contains("HubsShareNode spec.hubs[1].nodeSelector: hubs hub1 and hub2"), "{faults}");
}

/// Linux has one link in metadata mode a node. Elsewhere the younger network is as it should be.
#[test]
fn a_node_has_one_multipoint_tunnel_over_ipv6() {
    let over6 = |name: &str, key: u32| {
        network(name, &format!("  tunnel: {{underlayFamily: IPv6, key: {key}}}"))
            .replace("192.0.2.2", "'2001:db8:2::2'")
    };
    let second = over6("zweite", 2).replace("10.255.", "10.254.")
        + &spoke("b2", "  overlayAddresses: [10.254.0.11]")
            .replace("nodeName: b2", "nodeName: a")
            .replace("name: branches", "name: zweite");
    let first = over6("branches", 1) + &spoke("a", A);
    let compiled = compile(&inputs(&(first.clone() + &second), &["a"]));
    assert_eq!(compiled.names(), ["branches-a"]);
    let faults = compiled.faults("DmvpnNetwork/zweite").join("\n");
    let want =
        "TunnelConflict spec.tunnel.underlayFamily: DmvpnNetwork/branches is multipoint over IPv6 on node a";
    assert!(faults.contains(want), "{faults}");
    // A branch of Phase 1 has a tunnel of another kind.
    let compiled = compile(&inputs(&(first + &second.replace("Phase3", "Phase1")), &["a"]));
    assert_eq!(compiled.names(), ["branches-a", "zweite-a"]);
}

#[test]
fn two_networks_on_one_node_must_differ() {
    let second = |extra: &str| {
        network("zweite", extra).replace("10.255.", "10.254.")
            + &spoke("b2", "  overlayAddresses: [10.254.0.11]")
                .replace("nodeName: b2", "nodeName: a")
                .replace("name: branches", "name: zweite")
    };
    let both = |extra: &str| {
        let yaml = network("branches", "") + &spoke("a", A) + &second(extra);
        compile(&inputs(&yaml, &["a", "hub:dmvpn.io/hub=hub1"]))
    };
    for (extra, want) in [
        ("", "TunnelConflict spec.tunnel.key: DmvpnNetwork/branches has no key on the same tunnel source"),
        ("  tunnel: {key: 1, interfaceName: dm-branches}", "InterfaceNameTaken spec.tunnel.interfaceName"),
    ] {
        let compiled = both(extra);
        assert_eq!(compiled.names(), ["branches-a", "branches-hub"]);
        let faults = compiled.faults("DmvpnNetwork/zweite").join("\n");
        assert!(faults.contains(want), "{faults}");
        assert_eq!(compiled.faults("DmvpnSpoke/b2").len(), 1, "the spoke is told too");
        let told = compiled.conditions.iter().flat_map(|c| c.faults().map(|f| (c.name.as_str(), f.reason)));
        let told: Vec<_> = told.collect();
        assert!(told.iter().all(|(name, _)| *name == "zweite"), "one object to mend: {told:?}");
        assert_eq!(told.len(), 2, "on each node that has both: {told:?}");
        assert_eq!(compiled.faults("DmvpnNetwork/branches"), Vec::<String>::new());
    }
    assert_eq!(both("  tunnel: {key: 1}").names().len(), 4);
    let same = network("branches", "") + &network("zweite", "  tunnel: {key: 1}");
    let compiled = compile(&inputs(&same, &["hub:dmvpn.io/hub=hub1"]));
    let faults = compiled.faults("DmvpnNetwork/zweite").join("\n");
    assert!(
        faults.starts_with("OverlappingOverlay spec.overlay: 10.255.0.0/16 overlaps 10.255.0.0/16"),
        "{faults}"
    );
}

#[test]
fn spokes_of_one_node_share_the_tunnel_source() {
    let on_a = "{type: Node, nodeName: a}";
    let yaml = network("branches", "")
        + &spoke_at(
            "one",
            on_a,
            "  overlayAddresses: [10.255.0.11]\n  tunnelSource: {from: Interface, interface: eth0}",
        )
        + &spoke_at(
            "two",
            on_a,
            "  overlayAddresses: [10.255.0.12]\n  tunnelSource: {from: Interface, interface: eth1}",
        )
        + &spoke_at("xyz", on_a, "  overlayAddresses: [10.255.0.13]");
    let compiled = compile(&inputs(&yaml, &["a"]));
    assert_eq!(compiled.endpoint("branches-a").spec.addresses.len(), 2);
    let faults = compiled.faults("DmvpnSpoke/two");
    assert!(
        faults[0].starts_with("TunnelSourceConflict spec.tunnelSource: DmvpnSpoke/one on node a"),
        "{faults:?}"
    );
}

#[test]
fn a_tunnel_source_that_contradicts_itself_is_refused() {
    let source =
        "  overlayAddresses: [10.255.0.12]\n  tunnelSource: {from: NodeInternalIP, address: 192.0.2.9}";
    assert!(
        fault_of_b("", source).starts_with("Invalid spec.tunnelSource.address: address is for from Address")
    );
    let hub = network("branches", "")
        .replace("{name: hub1,", "{name: hub1, tunnelSource: {from: Address, address: 127.0.0.1},");
    let faults = compile(&inputs(&hub, &[])).faults("DmvpnNetwork/branches").join("\n");
    assert!(
        faults.contains("Invalid spec.hubs[0].tunnelSource.address: 127.0.0.1 is no address of a host"),
        "{faults}"
    );
}

#[test]
fn two_objects_of_one_name_are_told() {
    let yaml = network("branches", "") + &spoke("a", A) + &spoke("a", &A.replace(".11", ".12"));
    let compiled = compile(&inputs(&yaml, &["a"]));
    assert!(compiled.faults("DmvpnSpoke/a")[0].starts_with("SettingConflict metadata.name"));
    let same = network("branches", "") + &spoke("a", A) + &spoke("a", A);
    assert_eq!(compile(&inputs(&same, &["a"])).all_faults(), Vec::<String>::new());
}
