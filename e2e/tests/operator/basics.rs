//! The quickstart: what it becomes, what is told of it, and that nothing is written where nothing changes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::wait;
use serde_json::{Value, json};

use crate::bench::Bench;

const FILES: [&str; 5] = [
    include_str!("../../../examples/quickstart/network.yaml"),
    include_str!("../../../examples/quickstart/hub-lan.yaml"),
    include_str!("../../../examples/quickstart/branch-a.yaml"),
    include_str!("../../../examples/quickstart/branch-b.yaml"),
    include_str!("../../../examples/quickstart/router.yaml"),
];
const OBJECTS: [&str; 5] = [
    "DmvpnNetwork/branches",
    "DmvpnSpoke/hub-lan",
    "DmvpnSpoke/branch-a",
    "DmvpnSpoke/branch-b",
    "DmvpnSpoke/router",
];

pub(crate) fn nothing_looks_done_before_it_is(bench: &Bench<'_>) -> Result<()> {
    bench.cluster.apply(&FILES.join("\n---\n"))?;
    let seen = bench.see()?;
    for object in OBJECTS {
        ensure!(seen.kstatus(object)? == "InProgress", "{object} is {}", seen.kstatus(object)?);
    }
    bench.start(0, "")
}

pub(crate) fn endpoints_follow(bench: &Bench<'_>) -> Result<()> {
    let names = ["branches-branch-a", "branches-branch-b", "branches-hub"];
    let seen = bench.eventually("the endpoints", |seen| {
        wait::ensure(seen.names("DmvpnEndpoint") == names, || format!("{:?}", seen.all()))?;
        Ok(names.map(|name| seen.present(name).cloned()))
    })?;
    let [a, _, hub] = seen;
    let (a, hub) = (a?, hub?);
    let network = bench.cluster.kubectl_json(&["get", "dmvpnnetwork", "branches"])?;
    let node = bench.cluster.kubectl_json(&["get", "node", "branch-a"])?;
    for (at, want) in [
        ("/metadata/finalizers", json!(["dmvpn.io/endpoint"])),
        ("/metadata/labels", json!({"dmvpn.io/network": "branches"})),
        ("/metadata/annotations", Value::Null),
        ("/metadata/ownerReferences/0/uid", network["metadata"]["uid"].clone()),
        ("/metadata/ownerReferences/0/controller", json!(true)),
        ("/spec/network", json!("branches")),
        ("/spec/nodeName", json!("branch-a")),
        ("/spec/nodeUid", node["metadata"]["uid"].clone()),
        ("/spec/role", json!("Spoke")),
        ("/spec/addresses", json!([{"address": "10.255.0.11", "owner": "branch-a"}])),
        ("/spec/subnets/0/cidr", json!("10.20.0.0/24")),
        ("/spec/nhs/0/overlayAddresses", json!(["10.255.0.1"])),
        ("/spec/tunnel/key", json!(100)),
    ] {
        let seen = a.pointer(at).cloned().unwrap_or_default();
        ensure!(seen == want, "branches-branch-a{at} is {seen}, not {want}");
    }
    for (at, want) in [
        ("/spec/role", json!("Hub")),
        ("/spec/nhs", Value::Null),
        ("/spec/addresses/0/address", json!("10.255.0.1")),
        ("/spec/subnets/0/cidr", json!("10.10.0.0/24")),
        ("/spec/external/0/name", json!("router")),
        ("/spec/external/0/subnets", json!(["10.40.0.0/24"])),
    ] {
        let seen = hub.pointer(at).cloned().unwrap_or_default();
        let empty = want.is_null() && seen == json!([]);
        ensure!(seen == want || empty, "branches-hub{at} is {seen}, not {want}");
    }
    Ok(())
}

pub(crate) fn conditions_follow_the_agents(bench: &Bench<'_>) -> Result<()> {
    bench.told("DmvpnNetwork/branches", "Ready", "False TunnelsNotReady 0 of 3 endpoints ready")?;
    bench.told("DmvpnSpoke/router", "Ready", "False NotRegistered not registered with the hub on hub")?;
    let seen = bench.see()?;
    for object in OBJECTS {
        ensure!(seen.condition(object, "Accepted")?.starts_with("True Accepted"), "{object}");
        ensure!(seen.condition(object, "Stalled")?.starts_with("False"), "{object}");
        ensure!(seen.kstatus(object)? == "InProgress", "{object} is {}", seen.kstatus(object)?);
    }
    bench.report(
        "branches-hub",
        "Up",
        "Up",
        json!({"external": [{"name": "router", "nbma": "192.0.2.77"}]}),
    )?;
    bench.report("branches-branch-a", "Up", "Up", json!({}))?;
    bench.report("branches-branch-b", "NHRP", "NoAnswer", json!({}))?;
    // A pass may have seen that two have reported, and the third not yet.
    let two = "False TunnelsNotReady 2 of 3 endpoints ready; branch-b (NHRP, NoAnswer";
    bench.told("DmvpnNetwork/branches", "Ready", two)?;
    let ready = bench.told("DmvpnSpoke/router", "Ready", "True Up")?;
    ensure!(ready.contains("192.0.2.77"), "{ready}");
    bench.report("branches-branch-b", "Up", "Up", json!({}))?;
    bench.eventually("everything to be Ready", |seen| {
        for object in OBJECTS {
            wait::ensure(seen.kstatus(object)? == "Current", || {
                format!("{object}: {:?}", seen.condition(object, "Ready"))
            })?;
            ensure!(seen.condition(object, "Ready")?.starts_with("True Up"), "{object}");
        }
        Ok(())
    })?;
    let seen = bench.see()?;
    let status = |kind, name| seen.get(kind, name).map(|object| object["status"].clone());
    let network = status("DmvpnNetwork", "branches")?;
    for (count, want) in [("hubs", 1), ("spokes", 4), ("readySpokes", 4), ("endpoints", 3)] {
        ensure!(network[count] == want, "{count}: {network}");
    }
    let spoke = status("DmvpnSpoke", "branch-a")?;
    ensure!(spoke["address"] == "10.255.0.11" && spoke["nodeName"] == "branch-a", "{spoke}");
    ensure!(spoke["nodes"] == 1 && spoke["readyNodes"] == 1, "{spoke}");
    Ok(())
}

pub(crate) fn transitions_are_told_once(bench: &Bench<'_>) -> Result<()> {
    let told = |object: &str, want: &[&str]| {
        wait::until(crate::SOON, &format!("Events of {object}"), || {
            let mut events = bench.events(object)?;
            events.sort();
            let seen: Vec<String> = events.iter().map(|(r, note, n)| format!("{r} {n} {note}")).collect();
            let same = seen.len() == want.len() && seen.iter().zip(want).all(|(s, w)| s.starts_with(w));
            wait::ensure(same, || format!("{seen:?}"))
        })
    };
    for object in OBJECTS {
        told(object, &["Accepted 1"])?;
    }
    told("DmvpnEndpoint/branches-branch-a", &["Up 1 node branch-a: Up"])?;
    told(
        "DmvpnEndpoint/branches-branch-b",
        &["NoAnswer 1 node branch-b: NHRP", "Up 1 node branch-b: NHRP → Up"],
    )
}

pub(crate) fn nothing_is_written_where_nothing_changes(bench: &Bench<'_>) -> Result<()> {
    bench.quiet_for(Duration::from_secs(10))?;
    // What others write to these objects is no reason either.
    bench.cluster.kubectl(&["label", "dmvpnendpoint", "branches-hub", "site=north"])?;
    bench.quiet_for(Duration::from_secs(2))?;
    let hub = bench.see()?;
    let label = &hub.get("DmvpnEndpoint", "branches-hub")?["metadata"]["labels"]["site"];
    label.as_str().filter(|site| *site == "north").map(drop).context("the label of somebody else is gone")
}
