//! Addresses from a pool: an object each, there before the endpoint that uses it, the same as long as it is wanted, and
//! gone after it.

use anyhow::{Context, Result, ensure};
use e2e::lab::Process;
use e2e::wait;
use serde_json::{Value, json};

use crate::bench::{AGENT, Bench, Seen};

pub(crate) const SELECTOR: &str = "dmvpn.test/agent=yes";

pub(crate) fn network() -> Value {
    json!({"apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnNetwork", "metadata": {"name": "net"}, "spec": {
        "phase": "Phase3", "overlay": ["10.255.0.0/16"], "addressing": {"pools": ["10.255.16.0/24"]},
        "hubs": [{"name": "hub1", "overlayAddresses": ["10.255.0.1"], "nbma": [{"address": "192.0.2.2"}]}],
    }})
}

pub(crate) fn every_node() -> Value {
    json!({"apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnSpoke", "metadata": {"name": "every"}, "spec": {
        "networkRef": {"name": "net"}, "placement": {"type": "EveryNode", "nodeSelector": {"site": "yes"}},
    }})
}

/// The one address of an endpoint.
pub(crate) fn address(seen: &Seen, endpoint: &str) -> Result<String> {
    let list = &seen.get("DmvpnEndpoint", endpoint)?["spec"]["addresses"];
    ensure!(list.as_array().is_some_and(|list| list.len() == 1), "{list}");
    Ok(list[0]["address"].as_str().context("text")?.to_owned())
}

pub(crate) fn gone(bench: &Bench<'_>, kind: &str, name: &str) -> Result<()> {
    bench.eventually(&format!("{kind}/{name} to go"), |seen| {
        wait::ensure(!seen.names(kind).contains(&name), || "still there".into())
    })
}

/// The place of the first write of that kind in the audit log since a mark.
fn first(bench: &Bench<'_>, mark: usize, verb: &str, resource: &str, name: &str) -> Result<usize> {
    let writes = bench.writes_since(mark)?;
    let found = writes.iter().position(|w| {
        (w.verb.as_str(), w.resource.as_str()) == (verb, resource) && w.name == name && w.code < 300
    });
    found.with_context(|| format!("no {verb} of {resource}/{name} among {writes:?}"))
}

pub(crate) fn come_before_endpoints(bench: &Bench<'_>) -> Result<()> {
    ensure!(SELECTOR == format!("{AGENT}=yes"));
    for node in ["hub", "branch-a", "branch-b"] {
        bench.agent_pod(node)?;
    }
    bench.start(0, SELECTOR)?;
    bench.cluster.apply(&network().to_string())?;
    bench.cluster.apply(&every_node().to_string())?;
    bench.told("DmvpnSpoke/every", "Accepted", "True")?;
    ensure!(bench.see()?.names("DmvpnAddress").is_empty(), "an address for nobody");
    let mark = bench.mark()?;
    bench.cluster.kubectl(&["label", "node", "branch-a", "site=yes"])?;
    let (ip, object) = bench.eventually("net-branch-a", |seen| {
        let ip = address(seen, "net-branch-a")?;
        Ok((ip.clone(), seen.get("DmvpnAddress", &format!("net-{ip}"))?.clone()))
    })?;
    ensure!(ip.starts_with("10.255.16."), "{ip}");
    ensure!(object["spec"]["address"] == json!(ip) && object["spec"]["network"] == "net", "{object}");
    let owner = object["spec"]["owner"].as_str().unwrap_or_default();
    ensure!(owner.starts_with("every"), "{object}");
    ensure!(object["metadata"]["ownerReferences"][0]["kind"] == "DmvpnNetwork", "{object}");
    // The audit log names no object in a create.
    let created =
        bench.writes_since(mark)?.iter().position(|w| w.verb == "create" && w.resource == "dmvpnaddresses");
    let created = created.context("no create of an address")?;
    let applied = first(bench, mark, "patch", "dmvpnendpoints", "net-branch-a")?;
    ensure!(created < applied, "the endpoint came first: {:?}", bench.writes_since(mark)?);
    Ok(())
}

pub(crate) fn outlive_a_restart(bench: &Bench<'_>) -> Result<()> {
    let before = bench.see()?;
    let ip = address(&before, "net-branch-a")?;
    let status = bench.end(0, Process::stop)?;
    ensure!(status.success(), "{status}");
    bench.cluster.kubectl(&["label", "node", "branch-b", "site=yes"])?;
    bench.start(0, SELECTOR)?;
    bench.eventually("net-branch-b", |seen| address(seen, "net-branch-b").map(drop))?;
    let after = bench.see()?;
    ensure!(address(&after, "net-branch-a")? == ip, "another address after a restart");
    ensure!(address(&after, "net-branch-b")? != ip, "two with one address");
    let generation = |seen: &Seen| seen.present("net-branch-a").map(|e| e["metadata"]["generation"].clone());
    ensure!(generation(&before)? == generation(&after)?, "the restart changed the endpoint");
    ensure!(after.names("DmvpnAddress").len() == 2, "{:?}", after.all());
    Ok(())
}

pub(crate) fn go_after_endpoints(bench: &Bench<'_>) -> Result<()> {
    let object = format!("net-{}", address(&bench.see()?, "net-branch-b")?);
    let mark = bench.mark()?;
    bench.cluster.kubectl(&["label", "node", "branch-b", "site-"])?;
    bench.report_absent("net-branch-b")?;
    gone(bench, "DmvpnEndpoint", "net-branch-b")?;
    gone(bench, "DmvpnAddress", &object)?;
    let endpoint = first(bench, mark, "delete", "dmvpnendpoints", "net-branch-b")?;
    let address = first(bench, mark, "delete", "dmvpnaddresses", &object)?;
    ensure!(endpoint < address, "the address went first: {:?}", bench.writes_since(mark)?);
    Ok(())
}
