//! How endpoints end: asked to be Absent, and gone when the agent has answered or its node is gone.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::wait;
use serde_json::json;

use crate::addresses::{address, gone, network};
use crate::bench::Bench;

pub(crate) fn deleted_by_hand_it_comes_back(bench: &Bench<'_>) -> Result<()> {
    let before = bench.see()?;
    let uid = before.get("DmvpnEndpoint", "net-branch-a")?["metadata"]["uid"].clone();
    bench.cluster.kubectl(&["delete", "dmvpnendpoint", "net-branch-a"])?;
    bench.eventually("the endpoint to come back", |seen| {
        let endpoint = seen.present("net-branch-a")?;
        wait::ensure(endpoint["metadata"]["uid"] != uid, || endpoint.to_string())?;
        wait::ensure(address(seen, "net-branch-a")? == address(&before, "net-branch-a")?, || {
            endpoint.to_string()
        })
    })
}

pub(crate) fn a_spoke_goes_when_its_agent_is_done(bench: &Bench<'_>) -> Result<()> {
    let spoke = json!({"apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnSpoke", "metadata": {"name": "one"}, "spec": {
        "networkRef": {"name": "net"}, "placement": {"type": "Node", "nodeName": "branch-b"},
        "overlayAddresses": ["10.255.0.12"],
    }});
    bench.cluster.apply(&spoke.to_string())?;
    bench.eventually("net-branch-b", |seen| seen.present("net-branch-b").map(drop))?;
    bench.report("net-branch-b", "Up", "Up", json!({}))?;
    bench.told("DmvpnSpoke/one", "Ready", "True Up")?;
    bench.cluster.kubectl(&["delete", "dmvpnspoke", "one"])?;
    bench.eventually("net-branch-b to be asked to be Absent", |seen| {
        let endpoint = seen.get("DmvpnEndpoint", "net-branch-b")?;
        wait::ensure(endpoint["spec"]["desired"] == "Absent", || endpoint.to_string())
    })?;
    // The answer to what was asked before is none to this.
    let generation = bench.see()?.get("DmvpnEndpoint", "net-branch-b")?["metadata"]["generation"].clone();
    let status =
        json!({"status": {"state": "Absent", "observedGeneration": generation.as_i64().map(|g| g - 1)}});
    let words = ["patch", "dmvpnendpoint", "net-branch-b", "--subresource=status", "--type=merge", "-p"];
    bench.cluster.kubectl(&[&words[..], &[&status.to_string()]].concat())?;
    bench.quiet_about("dmvpnendpoints", Duration::from_secs(3))?;
    bench.report_absent("net-branch-b")?;
    gone(bench, "DmvpnEndpoint", "net-branch-b")
}

pub(crate) fn a_node_takes_its_endpoints_along(bench: &Bench<'_>) -> Result<()> {
    let object = format!("net-{}", address(&bench.see()?, "net-branch-a")?);
    bench.cluster.kubectl(&["delete", "node", "branch-a"])?;
    gone(bench, "DmvpnEndpoint", "net-branch-a")?;
    gone(bench, "DmvpnAddress", &object)?;
    // A node of that name that comes later is another one.
    bench.cluster.register_node("branch-a", &[("site", "yes")])?;
    let node = bench.cluster.kubectl_json(&["get", "node", "branch-a"])?;
    bench.eventually("net-branch-a for the new node", |seen| {
        let endpoint = seen.present("net-branch-a")?;
        ensure!(endpoint["spec"]["nodeUid"] == node["metadata"]["uid"], "{endpoint}");
        Ok(())
    })
}

pub(crate) fn a_network_goes_when_its_agents_are_done(bench: &Bench<'_>) -> Result<()> {
    let endpoints = ["net-branch-a", "net-hub"];
    bench.cluster.kubectl(&["delete", "dmvpnnetwork", "net", "--wait=false"])?;
    bench.eventually("endpoints to be Absent while they are on their way out", |seen| {
        for name in endpoints {
            let endpoint = seen.get("DmvpnEndpoint", name)?;
            wait::ensure(endpoint["spec"]["desired"] == "Absent", || endpoint.to_string())?;
            wait::ensure(!endpoint["metadata"]["deletionTimestamp"].is_null(), || endpoint.to_string())?;
        }
        Ok(())
    })?;
    bench.told("DmvpnSpoke/every", "Ready", "False")?;
    for name in endpoints {
        bench.report_absent(name)?;
    }
    bench.eventually("everything of the network to go", |seen| {
        wait::ensure(seen.all() == ["DmvpnSpoke/every"], || format!("{:?}", seen.all()))
    })?;
    // And the same network is as new.
    bench.cluster.apply(&network().to_string())?;
    bench.eventually("the endpoints again", |seen| {
        endpoints.iter().try_for_each(|name| seen.present(name).map(drop))
    })
}
