//! An agent that does not report: nobody knows how its tunnels are, and that is said, once.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::cluster::product::NAMESPACE;
use e2e::wait;
use serde_json::json;

use crate::bench::Bench;

const ENDPOINT: &str = "DmvpnEndpoint/net-branch-a";

fn up(bench: &Bench<'_>) -> Result<()> {
    bench.report("net-branch-a", "Up", "Up", json!({}))?;
    bench.told("DmvpnSpoke/every", "Ready", "True Up")?;
    let state = bench.see()?.get("DmvpnEndpoint", "net-branch-a")?["status"]["state"].clone();
    ensure!(state == "Up", "{state}");
    Ok(())
}

/// Unknown, told to the spoke too, and written to the endpoint once.
fn silent(bench: &Bench<'_>, mark: usize) -> Result<()> {
    bench.told(ENDPOINT, "Ready", "Unknown AgentSilent")?;
    bench.told("DmvpnSpoke/every", "Ready", "Unknown AgentSilent")?;
    let seen = bench.see()?;
    let status = &seen.get("DmvpnEndpoint", "net-branch-a")?["status"];
    ensure!(status["state"] == "Unknown", "{status}");
    ensure!(seen.kstatus("DmvpnSpoke/every")? == "InProgress");
    bench.quiet_for(Duration::from_secs(3))?;
    let writes = bench.writes_since(mark)?;
    let told = writes.iter().filter(|w| w.resource == "dmvpnendpoints/status" && w.name == "net-branch-a");
    ensure!(told.count() == 1, "{writes:?}");
    Ok(())
}

pub(crate) fn an_agent_without_pod_is_silent_after_a_while(bench: &Bench<'_>) -> Result<()> {
    bench.report("net-hub", "Up", "Up", json!({}))?;
    up(bench)?;
    let (mark, start) = (bench.mark()?, Instant::now());
    let words = ["delete", "pod", "test-branch-a", "-n", NAMESPACE, "--force", "--grace-period=0"];
    bench.cluster.kubectl(&words)?;
    bench.told(ENDPOINT, "Ready", "Unknown AgentSilent")?;
    let after = start.elapsed();
    ensure!(after >= Duration::from_secs(10), "silent after {after:?}: a roll-out is no silence");
    ensure!(after <= Duration::from_secs(15), "silent only after {after:?}");
    silent(bench, mark)?;
    wait::until(crate::SOON, "an Event", || {
        let events = bench.events(ENDPOINT)?;
        let told = events.iter().filter(|e| e.1.contains("Up → Unknown"));
        wait::ensure(told.map(|e| e.2).sum::<i64>() == 1, || format!("{events:?}"))
    })?;
    bench.agent_pod("branch-a")?;
    up(bench)
}

pub(crate) fn a_node_that_is_not_ready_is_silent_at_once(bench: &Bench<'_>) -> Result<()> {
    let (mark, start) = (bench.mark()?, Instant::now());
    bench.cluster.node_is_ready("branch-a", false)?;
    bench.told(ENDPOINT, "Ready", "Unknown AgentSilent")?;
    ensure!(start.elapsed() < Duration::from_secs(8), "silent only after {:?}", start.elapsed());
    silent(bench, mark)?;
    bench.cluster.node_is_ready("branch-a", true)?;
    // Kubernetes took the pod of a node that is not Ready for not Ready.
    bench.agent_pod("branch-a")?;
    up(bench)
}
