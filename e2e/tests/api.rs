//! The CustomResourceDefinitions on a real API server: examples are accepted, bad objects refused with the message
//! that names the cure (the same that a box without an API server gives), and what `kubectl` shows of the kinds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Cluster, paths, ring2, wait};
use serde_json::{Value, json};

const ENDPOINT: &str = include_str!("../../compile/tests/specimens/endpoint.yaml");
const ADDRESS: &str = include_str!("../../compile/tests/specimens/address.yaml");

#[test]
fn the_kinds_on_a_real_server() {
    ring2(|cluster| {
        let start = Instant::now();
        cluster.install_crds()?;
        println!("CRDs in force after {:.1} s", start.elapsed().as_secs_f64());
        for (name, check) in [
            ("examples", examples_are_accepted as fn(&Cluster) -> Result<()>),
            ("kstatus", kstatus_from_the_first_second),
            ("columns", printer_columns_and_short_names),
            ("selector", endpoints_are_selected_by_node),
            ("immutable", immutable_fields_stay),
            ("ownership", appliers_share_a_status),
            ("again", definitions_apply_again_without_a_change),
        ] {
            let start = Instant::now();
            check(cluster).with_context(|| name.to_owned())?;
            println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
        }
        Ok(())
    });
}

/// A change of a valid object, and what both the server and the client must say.
type Case = (fn(&mut Value), &'static str);

#[test]
fn bad_objects_are_refused_with_the_cure() {
    ring2(|cluster| {
        cluster.install_crds()?;
        refuses(cluster, &network(), NETWORKS)?;
        refuses(cluster, &spoke(), SPOKES)?;
        misshapen(cluster)
    });
}

const NETWORKS: &[Case] = &[
    (|s| s["overlay"] = json!(["10.255.0.1/16"]), "host bits"),
    (
        |s| s["hubs"][0]["nbma"][0]["hostname"] = json!("x.example.net"),
        "give exactly one of address and hostname",
    ),
    (|s| s["hubs"][0]["nbma"][0] = json!({}), "give exactly one of address and hostname"),
    (|s| s["hubs"][0]["nbma"][0]["address"] = json!("192.0.2.2/24"), "prefix"),
    (
        |s| s["hubs"][0]["overlayAddresses"] = json!(["10.255.0.1", "10.255.0.9"]),
        "at most one address a family",
    ),
    (|s| s["hubs"][0]["registersTo"] = json!(["hub1"]), "must name other hubs"),
    (|s| s["hubs"][0]["cluster"] = json!("c"), "must be the name of an entry of clusters"),
    (|s| s["hubs"][0]["tunnelSource"] = json!({"from": "Interface"}), "from Interface needs interface"),
    (|s| s["hubs"][0]["tunnelSource"] = json!({"from": "Address"}), "from Address needs address"),
    (|s| s["nhrp"] = json!({"registrationIntervalSeconds": 201}), "at least three times"),
    (|s| s["nhrp"] = json!({"mode": "Disabled"}), "set phase to Phase1"),
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
    (|s| s["tunnel"] = json!({"key": 4_294_967_296_u64}), "must be 0-4294967295"),
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

const SPOKES: &[Case] = &[
    (|s| s["placement"] = json!({"type": "Node"}), "type Node needs nodeName"),
    (|s| s["placement"] = json!({"type": "External", "nodeName": "a"}), "no other type has it"),
    (|s| s["placement"] = json!({"type": "EveryNode"}), "EveryNode and OneNode need nodeSelector"),
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
    (|s| s["subnets"] = json!([{"cidr": "10.1.0.1/24"}]), "host bits"),
    (|s| s["overlayAddresses"] = json!(["fd00::1", "fd00::2"]), "at most one address a family"),
];

fn refuses(cluster: &Cluster, valid: &Value, cases: &[Case]) -> Result<()> {
    let kind = valid["kind"].as_str().context("kind")?;
    cluster.kubectl_with_input(&["create", "--dry-run=server", "-f", "-"], &valid.to_string())?;
    for (change, want) in cases {
        let mut object = valid.clone();
        change(&mut object["spec"]);
        let server = cluster.refused(&object.to_string())?;
        ensure!(server.contains(want), "{want:?} is not in what the server says: {server}\n{object}");
        let errors = crds::schema::check(kind, &object);
        let [error] = errors.as_slice() else {
            anyhow::bail!("{want:?}: the client says {errors:?}\n{object}");
        };
        ensure!(error.message.contains(want), "{want:?} is not in what the client says: {error}\n{object}");
        ensure!(server.contains(&error.field), "client: {error}\nserver: {server}");
        // What is wrong with an address or a prefix is said more closely by the client, which can parse it.
        let parsed = error.value.contains('.') && error.value.contains('/');
        ensure!(parsed || server.contains(&error.message), "client: {error}\nserver: {server}");
    }
    println!("{kind}: {} bad objects refused by the server and by the client", cases.len());
    Ok(())
}

/// Not a rule but the structure: the field is named by both.
fn misshapen(cluster: &Cluster) -> Result<()> {
    let cases: &[Case] = &[
        (|s| s["tunel"] = json!({}), "spec.tunel"),
        (|s| s["phase"] = json!("Phase4"), "spec.phase"),
        (|s| s["tunnel"] = json!({"mtu": 10}), "spec.tunnel.mtu"),
        (|s| s["tunnel"] = json!({"mtu": "1400"}), "spec.tunnel.mtu"),
        (|s| s["overlay"] = json!([]), "spec.overlay"),
        (|s| s["hubs"][0]["name"] = json!("Hub_1"), "spec.hubs[0].name"),
        (|s| drop(s.as_object_mut().and_then(|s| s.remove("phase"))), "spec.phase"),
    ];
    for (change, field) in cases {
        let mut object = network();
        change(&mut object["spec"]);
        let server = cluster.refused(&object.to_string())?;
        ensure!(server.contains(field), "{field} is not in what the server says: {server}");
        let errors = crds::schema::check("DmvpnNetwork", &object);
        ensure!(errors.iter().any(|e| e.field == *field), "{field}: the client says {errors:?}");
    }
    Ok(())
}

fn examples_are_accepted(cluster: &Cluster) -> Result<()> {
    let dir = paths::repository().join("examples/quickstart");
    let mut accepted = 0;
    for entry in std::fs::read_dir(&dir)? {
        let text = std::fs::read_to_string(entry?.path())?;
        accepted += cluster.apply(&text)?.lines().count();
    }
    ensure!(accepted >= 5, "only {accepted} objects in {}", dir.display());
    cluster.apply(ENDPOINT)?;
    cluster.apply(ADDRESS)?;
    Ok(())
}

fn kstatus_from_the_first_second(cluster: &Cluster) -> Result<()> {
    for object in ["dmvpnnetwork/branches", "dmvpnspoke/branch-a", "dmvpnendpoint/branches-hub"] {
        let object = cluster.kubectl_json(&["get", object])?;
        let (generation, status) = (&object["metadata"]["generation"], &object["status"]);
        // Another number than the generation is "in progress" to every tool that follows kstatus.
        ensure!(*generation == 1 && status["observedGeneration"] == -1, "{generation} {status}");
    }
    let reply = cluster.output(
        "kubectl",
        &["wait", "--for=condition=Ready", "--timeout=1s", "dmvpnnetwork/branches"],
        "",
    )?;
    ensure!(reply.status != 0 && reply.stderr.contains("timed out"), "{reply:?}");
    Ok(())
}

fn printer_columns_and_short_names(cluster: &Cluster) -> Result<()> {
    let status = json!({"status": {
        "observedGeneration": 1, "state": "Up", "tunnelIp": "10.255.0.1", "nbma": "192.0.2.2", "peers": 3,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Up", "message": "",
            "lastTransitionTime": "2026-01-31T12:00:00Z", "observedGeneration": 1}],
    }});
    let patch =
        ["patch", "dep", "branches-hub", "--subresource=status", "--type=merge", "-p", &status.to_string()];
    cluster.kubectl(&patch)?;
    let columns = [
        ("dnet", "branches", "NAME PHASE HUBS SPOKES READY AGE", "branches Phase3"),
        ("dspoke", "branch-a", "NAME NETWORK ADDRESS READY AGE", "branch-a branches"),
        (
            "dep",
            "branches-hub",
            "NAME NETWORK NODE ROLE TUNNEL-IP NBMA STATE PEERS READY AGE",
            "branches-hub branches hub HubSpoke 10.255.0.1 192.0.2.2 Up 3 True",
        ),
        ("daddr", "", "NAME NETWORK ADDRESS OWNER AGE", ""),
    ];
    for (kind, name, head, row) in columns {
        let words = ["get", kind, name];
        let words = words.as_slice().strip_suffix(&[""]).unwrap_or(&words);
        let table = cluster.kubectl(words)?;
        let lines: Vec<String> =
            table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        ensure!(lines.len() >= 2 && lines[0] == head && lines[1].starts_with(row), "{kind}:\n{table}");
    }
    Ok(())
}

fn endpoints_are_selected_by_node(cluster: &Cluster) -> Result<()> {
    let words = ["get", "dmvpnendpoints", "--field-selector", "spec.nodeName=branch-a", "-o", "name"];
    let names = cluster.kubectl(&words)?;
    ensure!(names.trim() == "dmvpnendpoint.dmvpn.io/branches-branch-a", "{names:?}");
    // The watch of an agent: an object of another node is not seen, one of its own is.
    ensure!(
        cluster.kubectl(&["get", "dep", "-o", "name"])?.lines().count() >= 2,
        "one endpoint is no selection"
    );
    Ok(())
}

fn immutable_fields_stay(cluster: &Cluster) -> Result<()> {
    let patch = |object: &str, patch: Value, want: &str| -> Result<()> {
        let patch = patch.to_string();
        let reply = cluster.output("kubectl", &["patch", object, "--type=merge", "-p", &patch], "")?;
        ensure!(reply.status != 0 && reply.stderr.contains(want), "{object}: {reply:?}");
        Ok(())
    };
    patch(
        "dmvpnspoke/branch-a",
        json!({"spec": {"networkRef": {"name": "other"}}}),
        "networkRef is immutable: delete the DmvpnSpoke and create it in the other network",
    )?;
    let address = cluster.kubectl(&["get", "dmvpnaddresses", "-o", "name"])?;
    let address = address.lines().next().context("no address")?;
    patch(address, json!({"spec": {"owner": "somebody-else"}}), "an allocation is immutable: delete it")?;
    // What is not the reference may change.
    cluster.kubectl(&[
        "patch",
        "dmvpnspoke/branch-a",
        "--type=merge",
        "-p",
        r#"{"spec":{"suspend":true}}"#,
    ])?;
    Ok(())
}

/// Each condition has its owner, so that operator and agent can both write to one list.
fn appliers_share_a_status(cluster: &Cluster) -> Result<()> {
    let apply = |manager: &str, condition: &str| {
        let object = json!({
            "apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnEndpoint", "metadata": {"name": "branches-branch-a"},
            "status": {"conditions": [{"type": condition, "status": "True", "reason": "Test", "message": "",
                "lastTransitionTime": "2026-01-31T12:00:00Z"}]},
        });
        let manager = format!("--field-manager={manager}");
        let words = ["apply", "--server-side", "--subresource=status", &manager, "-f", "-"];
        cluster.kubectl_with_input(&words, &object.to_string())
    };
    apply("first", "Ready")?;
    apply("second", "Registered")?;
    let object = cluster.kubectl_json(&["get", "dep", "branches-branch-a"])?;
    let types: Vec<&str> = object["status"]["conditions"]
        .as_array()
        .context("conditions")?
        .iter()
        .filter_map(|c| c["type"].as_str())
        .collect();
    ensure!(types == ["Ready", "Registered"], "{types:?}");
    Ok(())
}

fn definitions_apply_again_without_a_change(cluster: &Cluster) -> Result<()> {
    let generation = || cluster.kubectl(&["get", "crds", "-o", "jsonpath={.items[*].metadata.generation}"]);
    let before = generation()?;
    cluster.install_crds()?;
    let after = generation()?;
    ensure!(before == after && !before.is_empty(), "{before} then {after}");
    // The server's own copy of the schema is what clients explain fields from.
    wait::until(Duration::from_secs(30), "kubectl explain", || {
        let text = cluster.kubectl(&["explain", "dmvpnnetwork.spec.tunnel.key"])?;
        ensure!(text.contains("DESCRIPTION") && text.contains("key <"), "{text}");
        Ok(())
    })
}

fn network() -> Value {
    json!({
        "apiVersion": "dmvpn.io/v1alpha1",
        "kind": "DmvpnNetwork",
        "metadata": {"name": "valid"},
        "spec": {
            "phase": "Phase3",
            "overlay": ["10.255.0.0/16"],
            "hubs": [
                {"name": "hub1", "overlayAddresses": ["10.255.0.1"], "nbma": [{"address": "192.0.2.2"}]},
                {"name": "hub2", "overlayAddresses": ["10.255.0.2"], "nbma": [{"hostname": "b.example.net"}]},
            ],
        },
    })
}

fn spoke() -> Value {
    json!({
        "apiVersion": "dmvpn.io/v1alpha1",
        "kind": "DmvpnSpoke",
        "metadata": {"name": "valid"},
        "spec": {"networkRef": {"name": "branches"}, "placement": {"type": "Node", "nodeName": "a"}},
    })
}
