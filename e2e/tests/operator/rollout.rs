//! A change of a network goes from node to node, and stops where it does harm.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::wait;
use serde_json::json;

use crate::bench::{Bench, Seen};

const NETWORK: &str = "DmvpnNetwork/branches";
const ENDPOINTS: [&str; 3] = ["branches-branch-a", "branches-branch-b", "branches-hub"];

/// The MTU that each endpoint is to have.
fn mtus(seen: &Seen) -> Result<Vec<i64>> {
    let mtu = |name: &&str| Ok(seen.present(name)?["spec"]["tunnel"]["mtu"].as_i64().unwrap_or_default());
    ENDPOINTS.iter().map(mtu).collect()
}

pub(crate) fn goes_node_by_node_and_stops_where_it_does_harm(bench: &Bench<'_>) -> Result<()> {
    let change = |mtu: i64| {
        let spec = json!({"spec": {"rollout": {"maxUnavailable": 1}, "tunnel": {"mtu": mtu}}});
        bench.patch("dmvpnnetwork/branches", &spec)
    };
    let wanted = |want: [i64; 3]| {
        bench.eventually(&format!("MTUs {want:?}"), |seen| {
            let mtus = mtus(seen)?;
            wait::ensure(mtus == want, || format!("{mtus:?}"))
        })
    };
    change(1300)?;
    wanted([1300, 1400, 1400])?;
    let told = "False RollingOut 1 of 3 endpoints have the change; waiting for branch-a";
    bench.told(NETWORK, "Ready", told)?;
    // The others' tunnels are what they were.
    ensure!(bench.see()?.condition("DmvpnSpoke/branch-b", "Ready")?.starts_with("True Up"));
    // Up at once is not enough: an agent may still take the change back. This one does.
    bench.report("branches-branch-a", "Up", "Up", json!({}))?;
    wait::stays(Duration::from_secs(3), "the others keep what they have", || {
        let mtus = mtus(&bench.see()?)?;
        wait::ensure(mtus == [1300, 1400, 1400], || format!("{mtus:?}"))
    })?;
    bench.report("branches-branch-a", "NHRP", "RolledBack", json!({}))?;
    let told = bench.told(NETWORK, "Ready", "False RolloutStopped 1 of 3 endpoints have the change")?;
    ensure!(told.contains("branch-a (RolledBack)"), "{told}");
    ensure!(bench.see()?.kstatus(NETWORK)? == "Failed");
    // Taken back, it is where it was, and nobody else has noticed.
    let mark = bench.mark()?;
    change(1400)?;
    wanted([1400; 3])?;
    bench.report("branches-branch-a", "Up", "Up", json!({}))?;
    bench.told(NETWORK, "Ready", "True Up 3 of 3")?;
    let writes = bench.writes_since(mark)?;
    let others = writes.iter().filter(|w| w.resource == "dmvpnendpoints" && w.name != ENDPOINTS[0]);
    ensure!(others.count() == 0, "{writes:?}");
    // A good one gets around: this one is kept, and the next node has it when that is certain.
    change(1350)?;
    wanted([1350, 1400, 1400])?;
    bench.report("branches-branch-a", "Up", "Up", json!({}))?;
    wanted([1350, 1350, 1400])?;
    // Without rollout the rest gets it at once.
    bench.patch("dmvpnnetwork/branches", &json!({"spec": {"rollout": null}}))?;
    wanted([1350; 3])?;
    for endpoint in &ENDPOINTS[1..] {
        bench.report(endpoint, "Up", "Up", json!({}))?;
    }
    bench.told(NETWORK, "Ready", "True Up 3 of 3").map(drop)
}
