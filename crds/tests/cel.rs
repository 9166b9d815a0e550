//! CEL rules run as on the API server: what each refuses, what it says, and what it lets pass.

use crds::{DmvpnNetwork, DmvpnSpoke};
use serde_json::{Value, json};

fn network(change: impl FnOnce(&mut Value)) -> DmvpnNetwork {
    let mut object = json!({
        "apiVersion": "dmvpn.io/v1alpha1",
        "kind": "DmvpnNetwork",
        "metadata": {"name": "branches"},
        "spec": {
            "phase": "Phase3",
            "overlay": ["10.255.0.0/16"],
            "hubs": [
                {"name": "hub1", "overlayAddresses": ["10.255.0.1"], "nbma": [{"address": "192.0.2.2"}]},
                {"name": "hub2", "overlayAddresses": ["10.255.0.2"], "nbma": [{"hostname": "b.example.net"}]},
            ],
        },
    });
    change(&mut object["spec"]);
    serde_json::from_value(object).unwrap()
}

fn spoke(change: impl FnOnce(&mut Value)) -> DmvpnSpoke {
    let mut object = json!({
        "apiVersion": "dmvpn.io/v1alpha1",
        "kind": "DmvpnSpoke",
        "metadata": {"name": "a"},
        "spec": {"networkRef": {"name": "branches"}, "placement": {"type": "Node", "nodeName": "a"}},
    });
    change(&mut object["spec"]);
    serde_json::from_value(object).unwrap()
}

fn messages(result: Result<(), kube::core::cel::ValidationErrors>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

/// A change of an object's spec, and what is said about it; empty: nothing.
type Case = (fn(&mut Value), &'static str);

#[test]
fn networks() {
    let cases: &[Case] = &[
        (|_| {}, ""),
        (|s| s["overlay"] = json!(["10.255.0.1/16"]), "must be a prefix without host bits"),
        (|s| s["overlay"] = json!(["10.255.0.0"]), "must be a prefix without host bits"),
        (|s| s["overlay"] = json!(["fd00::/64"]), ""),
        (
            |s| s["hubs"][0]["nbma"][0]["hostname"] = json!("x.example.net"),
            "exactly one of address and hostname",
        ),
        (|s| s["hubs"][0]["nbma"][0] = json!({}), "exactly one of address and hostname"),
        (|s| s["hubs"][0]["nbma"][0]["address"] = json!("192.0.2.2/24"), "without prefix length"),
        (
            |s| s["hubs"][0]["overlayAddresses"] = json!(["10.255.0.1", "10.255.0.9"]),
            "at most one address a family",
        ),
        (|s| s["hubs"][0]["overlayAddresses"] = json!(["10.255.0.1", "fd00::1"]), ""),
        (|s| s["hubs"][0]["registersTo"] = json!(["hub2"]), ""),
        (|s| s["hubs"][0]["registersTo"] = json!(["hub1"]), "must name other hubs"),
        (|s| s["hubs"][0]["registersTo"] = json!(["hub3"]), "must name other hubs"),
        (|s| s["hubs"][0]["cluster"] = json!("c"), "must be the name of an entry of clusters"),
        (
            |s| {
                s["clusters"] = json!([{"name": "c", "maxConnections": 1}]);
                s["hubs"][0]["cluster"] = json!("c");
            },
            "",
        ),
        (|s| s["hubs"][0]["nodeSelector"] = json!({"dmvpn.io/site": "x"}), ""),
        (|s| s["hubs"][0]["tunnelSource"] = json!({"from": "Interface"}), "from Interface needs interface"),
        (|s| s["hubs"][0]["tunnelSource"] = json!({"from": "Address"}), "from Address needs address"),
        (|s| s["hubs"][0]["tunnelSource"] = json!({"from": "Address", "address": "192.0.2.2"}), ""),
        (|s| s["hubs"][0]["tunnelSource"] = json!({"interface": "eth0"}), "from Interface needs interface"),
        (|s| s["nhrp"] = json!({"registrationIntervalSeconds": 200}), ""),
        (|s| s["nhrp"] = json!({"registrationIntervalSeconds": 201}), "at least three times"),
        (|s| s["nhrp"] = json!({"mode": "Disabled"}), "set phase to Phase1"),
        (
            |s| {
                s["nhrp"] = json!({"mode": "Disabled"});
                s["phase"] = json!("Phase1");
            },
            "",
        ),
        (|s| s["tunnel"] = json!({"keepalive": {}}), "tunnel.keepalive is for point-to-point tunnels"),
        (
            |s| {
                s["tunnel"] = json!({"keepalive": {}});
                s["phase"] = json!("Phase1");
                s["ipsec"] = json!({"mode": "Required", "authentication": {"type": "PSK"}});
            },
            "cannot be used together with IPsec",
        ),
        (|s| s["ipsec"] = json!({"mode": "Required"}), "mode Required needs authentication"),
        (
            |s| s["ipsec"] = json!({"mode": "Required", "authentication": {"type": "Certificate"}}),
            "type Certificate needs certificate",
        ),
        (
            |s| s["ipsec"] = json!({"authentication": {"type": "PSK", "certificate": {}}}),
            "certificate is for type Certificate",
        ),
        (|s| s["registration"] = json!({"policy": "Authenticated"}), "set ipsec.mode to Required"),
        (
            |s| s["nhrp"] = json!({"multicast": {"mode": "Static", "groups": ["10.0.0.1"]}}),
            "must be a multicast address",
        ),
        (|s| s["nhrp"] = json!({"multicast": {"mode": "Static", "groups": ["239.1.1.1", "ff08::1"]}}), ""),
        (|s| s["addressing"] = json!({"reserved": ["10.255.0.9", "10.255.1.0/24"]}), ""),
        (|s| s["addressing"] = json!({"reserved": ["10.255.1.1/24"]}), "an IP address or a prefix"),
        (
            |s| {
                s["access"] = json!({"defaultAction": "Deny", "rules": [
                    {"name": "r", "action": "Allow", "ports": [{"port": 80}]},
                ]});
            },
            "ports need protocol TCP or UDP",
        ),
        (
            |s| {
                s["access"] = json!({"defaultAction": "Deny", "rules": [
                    {"name": "r", "action": "Allow", "protocol": "TCP", "ports": [{"port": 80, "endPort": 79}]},
                ]});
            },
            "endPort must not be below port",
        ),
    ];
    for (i, (change, want)) in cases.iter().enumerate() {
        let got = messages(network(change).validate_cel());
        match *want {
            "" => assert_eq!(got, "", "case {i}"),
            want => assert!(got.contains(want), "case {i}\n got: {got}\nwant: {want}"),
        }
    }
}

#[test]
fn spokes() {
    let cases: &[Case] = &[
        (|_| {}, ""),
        (|s| s["placement"] = json!({"type": "Node"}), "type Node needs nodeName"),
        (|s| s["placement"] = json!({"type": "External", "nodeName": "a"}), "no other type has it"),
        (|s| s["placement"] = json!({"type": "EveryNode"}), "EveryNode and OneNode need nodeSelector"),
        (|s| s["placement"]["nodeSelector"] = json!({"a": "b"}), "no other type has it"),
        (|s| s["placement"] = json!({"type": "OneNode", "nodeSelector": {"a": "b"}}), ""),
        (
            |s| {
                s["placement"] = json!({"type": "EveryNode", "nodeSelector": {"a": "b"}});
                s["overlayAddresses"] = json!(["10.255.0.9"]);
            },
            "overlayAddresses cannot be shared by several nodes",
        ),
        (
            |s| {
                s["placement"] = json!({"type": "EveryNode", "nodeSelector": {"a": "b"}});
                s["subnets"] = json!([{"cidr": "10.1.0.0/24"}]);
            },
            "subnets belong to one site",
        ),
        (
            |s| {
                s["placement"] = json!({"type": "External"});
                s["tunnelSource"] = json!({"from": "DefaultRoute"});
            },
            "tunnelSource is for tunnels of ours",
        ),
        (|s| s["subnets"] = json!([{"cidr": "10.1.0.1/24"}]), "must be a prefix without host bits"),
        (|s| s["overlayAddresses"] = json!(["fd00::1", "fd00::2"]), "at most one address a family"),
    ];
    for (i, (change, want)) in cases.iter().enumerate() {
        let got = messages(spoke(change).validate_cel());
        match *want {
            "" => assert_eq!(got, "", "case {i}"),
            want => assert!(got.contains(want), "case {i}\n got: {got}\nwant: {want}"),
        }
    }
}

#[test]
fn a_spoke_stays_in_its_network() {
    let old = spoke(|_| {});
    let moved = spoke(|s| s["networkRef"]["name"] = json!("other"));
    assert!(messages(moved.validate_cel_update(&old)).contains("networkRef is immutable: delete"));
    let changed = spoke(|s| s["suspend"] = json!(true));
    assert_eq!(messages(changed.validate_cel_update(&old)), "");
}
