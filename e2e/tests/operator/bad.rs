//! Objects that are refused or cannot be read: the others go on, what was in force stays, and it is said what is wrong.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::wait;
use serde_json::{Value, json};

use crate::SOON;
use crate::bench::{Bench, Seen};

/// A spoke; `last` is the end of its overlay address.
fn spoke(name: &str, (node, last): (&str, u8), cidr: &str, policy: &str) -> String {
    let mut spoke =
        json!({"apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnSpoke", "metadata": {"name": name}});
    spoke["spec"] = json!({"networkRef": {"name": "branches"}, "subnets": [{"cidr": cidr}], "podCIDRPolicy": policy,
        "placement": {"type": "Node", "nodeName": node}, "overlayAddresses": [format!("10.255.0.{last}")]});
    spoke.to_string()
}

fn subnets(seen: &Seen, endpoint: &str) -> Result<Vec<String>> {
    let subnets = seen.present(endpoint)?["spec"]["subnets"].as_array().cloned().unwrap_or_default();
    Ok(subnets.iter().filter_map(|s| s["cidr"].as_str().map(String::from)).collect())
}

fn has_subnets(bench: &Bench<'_>, endpoint: &str, want: &[&str]) -> Result<()> {
    bench.eventually(&format!("{endpoint} to have {want:?}"), |seen| {
        let seen = subnets(seen, endpoint)?;
        wait::ensure(seen == want, || format!("{seen:?}"))
    })
}

/// Waits for a warning about an object whose note has all of `words`; it was told once.
fn warned(bench: &Bench<'_>, object: &str, words: &[&str]) -> Result<()> {
    wait::until(SOON, &format!("an Event of {object} with {words:?}"), || {
        let events = bench.events(object)?;
        let told = events.iter().filter(|e| words.iter().all(|word| e.1.contains(word)));
        let times: i64 = told.map(|e| e.2).sum();
        wait::ensure(times == 1, || format!("{times} times: {events:?}"))
    })
}

pub(crate) fn a_refused_spoke_stops_nobody(bench: &Bench<'_>) -> Result<()> {
    // Its prefix would swallow the overlay's own addresses.
    let both = [
        spoke("bad", ("branch-a", 21), "10.255.3.0/24", "None"),
        spoke("good", ("branch-a", 22), "10.21.0.0/24", "None"),
    ];
    bench.cluster.apply(&both.join("\n---\n"))?;
    has_subnets(bench, "branches-branch-a", &["10.20.0.0/24", "10.21.0.0/24"])?;
    let accepted = bench.told("DmvpnSpoke/bad", "Accepted", "False")?;
    ensure!(accepted.contains("spec.subnets[0]") && accepted.contains("10.255.3.0/24"), "{accepted}");
    let seen = bench.see()?;
    ensure!(seen.kstatus("DmvpnSpoke/bad")? == "Failed", "{}", seen.kstatus("DmvpnSpoke/bad")?);
    ensure!(
        seen.condition("DmvpnNetwork/branches", "Accepted")?.starts_with("True"),
        "the network is blamed"
    );
    warned(bench, "DmvpnSpoke/bad", &["spec.subnets[0]"])
}

pub(crate) fn bad_edits_keep_what_was_in_force(bench: &Bench<'_>) -> Result<()> {
    let generation =
        |seen: &Seen, name: &str| seen.present(name).map(|e| e["metadata"]["generation"].clone());
    let before = bench.see()?;
    bench.patch("dmvpnspoke/branch-b", &json!({"spec": {"subnets": [{"cidr": "10.255.3.0/24"}]}}))?;
    let accepted = bench.told("DmvpnSpoke/branch-b", "Accepted", "False")?;
    ensure!(accepted.contains("what it gave before stays in force"), "{accepted}");
    let seen = bench.see()?;
    let same = generation(&seen, "branches-branch-b")? == generation(&before, "branches-branch-b")?;
    ensure!(same, "{}", seen.get("DmvpnEndpoint", "branches-branch-b")?);
    bench.patch("dmvpnspoke/branch-b", &json!({"spec": {"subnets": [{"cidr": "10.31.0.0/24"}]}}))?;
    has_subnets(bench, "branches-branch-b", &["10.31.0.0/24"])?;
    bench.told("DmvpnSpoke/branch-b", "Accepted", "True")?;

    let before = bench.see()?;
    bench
        .patch("dmvpnnetwork/branches", &json!({"spec": {"overlay": ["10.255.0.0/16", "10.255.0.0/17"]}}))?;
    let accepted = bench.told("DmvpnNetwork/branches", "Accepted", "False")?;
    ensure!(accepted.contains("spec.overlay") && accepted.contains("stays in force"), "{accepted}");
    let seen = bench.see()?;
    for endpoint in before.names("DmvpnEndpoint") {
        ensure!(generation(&seen, endpoint)? == generation(&before, endpoint)?, "{endpoint} was changed");
    }
    bench.patch("dmvpnnetwork/branches", &json!({"spec": {"overlay": ["10.255.0.0/16"]}}))?;
    bench.told("DmvpnNetwork/branches", "Accepted", "True").map(drop)
}

pub(crate) fn an_undecodable_spoke_stops_nobody(bench: &Bench<'_>) -> Result<()> {
    bench.widen("dmvpnspokes.dmvpn.io", "podCIDRPolicy", "Orbit")?;
    let odd = spoke("odd", ("branch-b", 23), "10.32.0.0/24", "Orbit");
    wait::until(SOON, "the wider schema", || bench.cluster.apply(&odd))?;
    bench.cluster.apply(&spoke("beside", ("branch-b", 24), "10.33.0.0/24", "None"))?;
    has_subnets(bench, "branches-branch-b", &["10.31.0.0/24", "10.33.0.0/24"])?;
    let words = ["spec.podCIDRPolicy", "Orbit"];
    for (type_, begin) in
        [("Accepted", "False Invalid"), ("Ready", "False Invalid"), ("Stalled", "True Invalid")]
    {
        let told = bench.told("DmvpnSpoke/odd", type_, begin)?;
        ensure!(words.iter().all(|word| told.contains(word)), "{told}");
    }
    ensure!(bench.see()?.kstatus("DmvpnSpoke/odd")? == "Failed");
    warned(bench, "DmvpnSpoke/odd", &words)?;
    // One that was good keeps what it gave.
    bench.patch("dmvpnspoke/beside", &json!({"spec": {"podCIDRPolicy": "Orbit"}}))?;
    let told = bench.told("DmvpnSpoke/beside", "Accepted", "False Invalid")?;
    ensure!(told.contains("stays in force"), "{told}");
    let seen = subnets(&bench.see()?, "branches-branch-b")?;
    ensure!(seen == ["10.31.0.0/24", "10.33.0.0/24"], "{seen:?}");
    Ok(())
}

pub(crate) fn undecodable_endpoints_are_told_and_mended(bench: &Bench<'_>) -> Result<()> {
    bench.widen("dmvpnendpoints.dmvpn.io", "role", "Novel")?;
    let novel = json!({"spec": {"role": "Novel"}});
    wait::until(SOON, "the wider schema", || bench.patch("dmvpnendpoint/branches-branch-a", &novel))?;
    // It is wanted: written as it should be.
    bench.eventually("the endpoint as it should be", |seen| {
        let endpoint = seen.present("branches-branch-a")?;
        wait::ensure(endpoint["spec"]["role"] == "Spoke", || endpoint.to_string())
    })?;
    // Nobody wants this one: its agent is asked to take it away, and then it goes.
    let mut stray = bench.see()?.get("DmvpnEndpoint", "branches-branch-a")?.clone();
    stray["metadata"] = json!({"name": "old-branch-a", "finalizers": ["dmvpn.io/endpoint"]});
    stray["status"] = Value::Null;
    stray["spec"]["network"] = json!("old");
    stray["spec"]["role"] = json!("Novel");
    stray["spec"]["addresses"] = json!([]);
    bench.cluster.apply(&stray.to_string())?;
    warned(bench, "DmvpnEndpoint/old-branch-a", &["cannot be read", "spec.role", "Novel"])?;
    bench.report_absent("old-branch-a")?;
    bench.eventually("old-branch-a to go", |seen| {
        wait::ensure(!seen.names("DmvpnEndpoint").contains(&"old-branch-a"), || "still there".into())
    })
}

pub(crate) fn bad_objects_are_written_to_once(bench: &Bench<'_>) -> Result<()> {
    bench.quiet_for(Duration::from_secs(6))
}
