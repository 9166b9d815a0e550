//! What is taken away, when, and what is not.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::lab::Capture;
use e2e::lab::Ping;
use e2e::lab::peek::NhrpKind;
use e2e::scene::overlay::{NETWORK, TUNNEL, link_index};
use e2e::wait;
use serde_json::json;

use crate::stage::{LOOK, NAMESPACE, SOON, Stage, condition, endpoint, under_pings, wait_until_gone};

const FORGETS: Duration = Duration::from_secs(1);
/// Keeps an object that everybody else has let go.
const HOLD: &str = "lab.example/hold";

pub(crate) fn endpoint_deleted_by_hand(stage: &mut Stage<'_>) -> Result<()> {
    let old = stage.wait_until_up("branch-a")?;
    under_pings(stage, |stage| {
        let name = old["metadata"]["name"].as_str().unwrap_or_default();
        stage.east.kubectl(&["delete", "dmvpnendpoint", name, "--wait=false"])?;
        wait::until_max(SOON, LOOK, "another object", || {
            let new = endpoint(stage.east, "branch-a")?;
            ensure!(new["metadata"]["uid"] != old["metadata"]["uid"], "still the old one");
            Ok(())
        })?;
        let new = stage.wait_until_up("branch-a")?;
        ensure!(new["spec"] == old["spec"], "{} → {}", old["spec"], new["spec"]);
        stage.a.wait_for_no_problem(SOON)
    })
}

pub(crate) fn spoke_deleted(stage: &mut Stage<'_>) -> Result<()> {
    let east = stage.east;
    let name = endpoint(east, "branch-a")?["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    // So that the object can still be looked at when operator and agent are done with it.
    let hold = json!([{"op": "add", "path": "/metadata/finalizers/-", "value": HOLD}]).to_string();
    east.kubectl(&["patch", "dmvpnendpoint", &name, "--type=json", "-p", &hold])?;
    let capture = Capture::start(&stage.site("hub")?.host, "wan0", "proto gre")?;
    ensure!(stage.hub_has_forgotten_a().is_err(), "the hub does not know branch-a even before");
    stage.delete_spoke()?;
    let start = Instant::now();
    wait::until(SOON, "the hub to forget branch-a", || stage.hub_has_forgotten_a())?;
    let took = start.elapsed();
    println!("    the hub forgot {} ms after kubectl delete", took.as_millis());
    ensure!(took <= FORGETS, "the hub forgot after {} ms", took.as_millis());
    purged(stage, &capture)?;
    stage.a_is_as_before()?;
    let seen = wait::until_max(SOON, LOOK, "the operator to let go of the object", || {
        let seen = endpoint(east, "branch-a")?;
        let metadata = &seen["metadata"];
        ensure!(metadata["finalizers"] == json!([HOLD]), "{metadata}");
        ensure!(metadata["deletionTimestamp"].is_string(), "{metadata}");
        Ok(seen)
    })?;
    ensure!(seen["spec"]["desired"] == "Absent" && seen["status"]["state"] == "Absent", "{seen}");
    ensure!(seen["status"]["observedGeneration"].is_number(), "{}", seen["status"]);
    ensure!(condition(&seen, "Ready")["reason"] == "Removed", "{}", seen["status"]);
    let free = json!({"metadata": {"finalizers": null}}).to_string();
    east.kubectl(&["patch", "dmvpnendpoint", &name, "--type=merge", "-p", &free])?;
    wait_until_gone(east, "branch-a")?;
    stage.apply_spoke()
}

pub(crate) fn spoke_deleted_without_agent(stage: &mut Stage<'_>) -> Result<()> {
    let east = stage.east;
    let (a, hub) = (stage.site("branch-a")?.clone(), stage.site("hub")?.clone());
    let index = link_index(&a.host, TUNNEL)?;
    stage.a.kill()?;
    stage.delete_spoke()?;
    wait::until_max(SOON, LOOK, "the endpoint to be unwanted", || {
        let endpoint = endpoint(east, "branch-a")?;
        ensure!(endpoint["spec"]["desired"] == "Absent", "{}", endpoint["spec"]);
        Ok(())
    })?;
    // Nobody is there to take the tunnel away: it stays, and works.
    Ping::start(&a.lan, hub.lan_host().into(), 50, Duration::from_millis(10))?
        .finish()?
        .ensure_nothing_lost()?;
    ensure!(link_index(&a.host, TUNNEL)? == index, "the link is another");
    ensure!(stage.hub_has_forgotten_a().is_err(), "the hub forgot a spoke that has said nothing");
    let left = endpoint(east, "branch-a")?;
    ensure!(left["metadata"]["deletionTimestamp"].is_null(), "deleted before it is gone: {left}");
    let capture = Capture::start(&hub.host, "wan0", "proto gre")?;
    stage.a.restart()?;
    wait_until_gone(east, "branch-a")?;
    purged(stage, &capture)?;
    stage.hub_has_forgotten_a()?;
    stage.a_is_as_before()?;
    stage.apply_spoke()
}

pub(crate) fn terminated(stage: &mut Stage<'_>) -> Result<()> {
    let hub = stage.site("hub")?.host.clone();
    let capture = Capture::start(&hub, "wan0", "proto gre")?;
    under_pings(stage, |stage| {
        ensure!(stage.a.stop()?.success(), "the agent ends badly");
        Ok(())
    })?;
    let purges = capture.count(|p| p.is_nhrp(NhrpKind::PurgeRequest))?;
    ensure!(purges == 0, "{purges} farewells of an agent that will come back");
    stage.a.restart()?;
    stage.a.wait_until_up(NETWORK, SOON)?;
    stage.east.kubectl(&["delete", "daemonset", "dmvpn-agent", "-n", NAMESPACE, "--cascade=orphan"])?;
    ensure!(stage.a.stop()?.success(), "the agent ends badly");
    purged(stage, &capture)?;
    stage.hub_has_forgotten_a()?;
    stage.a_is_as_before()?;
    ensure!(!stage.a.dir().join("last-endpoints.json").exists(), "passwords are left");
    Ok(())
}

/// The farewell is on the wire, and was acknowledged.
fn purged(stage: &Stage<'_>, capture: &Capture) -> Result<()> {
    let (a, hub): (IpAddr, IpAddr) =
        (stage.site("branch-a")?.nbma().into(), stage.site("hub")?.nbma().into());
    for (what, kind, from, to) in [
        ("the purge request", NhrpKind::PurgeRequest, a, hub),
        ("the purge reply", NhrpKind::PurgeReply, hub, a),
    ] {
        capture.wait_for(SOON, what, |p| p.is_nhrp(kind) && p.is_between(from, to))?;
    }
    Ok(())
}
