//! `drain`: in vain it names who did not answer, and everything goes on; else nothing is left.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::wait;
use serde_json::{Value, json};

use crate::SOON;
use crate::bench::Bench;
use crate::replicas::holder;

const ENDPOINTS: [&str; 2] = ["net-branch-b", "net-hub"];

pub(crate) fn a_drain_in_vain_names_who_is_left(bench: &Bench<'_>) -> Result<()> {
    for endpoint in ENDPOINTS {
        bench.report(endpoint, "Up", "Up", json!({}))?;
    }
    bench.told("DmvpnNetwork/net", "Ready", "True Up")?;
    let mark = bench.mark()?;
    let mut drain = bench.drain(8)?;
    bench.eventually("endpoints to be asked to be Absent", |seen| {
        for name in ENDPOINTS {
            let desired = &seen.get("DmvpnEndpoint", name)?["spec"]["desired"];
            wait::ensure(desired == "Absent", || format!("{name}: {desired}"))?;
        }
        Ok(())
    })?;
    let status = drain.wait(SOON)?;
    ensure!(status.code() == Some(1), "{status}: {}", drain.log());
    let log = drain.log();
    for words in ["2 endpoints are not taken away", "net-branch-b (node branch-b)", "net-hub (node hub)"] {
        ensure!(log.contains(words), "no {words:?} in {log}");
    }
    // The operator had stopped before the first was asked: none was asked twice.
    let writes = bench.writes_since(mark)?;
    let asked = |name: &str| {
        writes.iter().filter(|w| w.resource == "dmvpnendpoints" && w.name == name && w.pod.is_empty()).count()
    };
    for name in ENDPOINTS {
        ensure!(asked(name) == 1, "{name} was asked {} times: {writes:?}", asked(name));
    }
    // It goes on.
    bench.eventually("endpoints to be wanted again", |seen| {
        ENDPOINTS.iter().try_for_each(|name| seen.present(name).map(drop))
    })?;
    let (holder, _) = holder(bench)?;
    ensure!(bench.pods.contains(&holder), "held by {holder}");
    for endpoint in ENDPOINTS {
        bench.report(endpoint, "Up", "Up", json!({}))?;
    }
    bench.told("DmvpnNetwork/net", "Ready", "True Up").map(drop)
}

pub(crate) fn takes_everything_away(bench: &Bench<'_>) -> Result<()> {
    bench.widen("dmvpnendpoints.dmvpn.io", "role", "Novel")?;
    let mut drain = bench.drain(60)?;
    drain.wait_for_log("holding the Lease", SOON)?;
    // One that cannot be read, and no operator that could care for it.
    let mut odd: Value = bench.see()?.get("DmvpnEndpoint", "net-branch-b")?.clone();
    odd["metadata"] = json!({"name": "odd-idle", "finalizers": ["dmvpn.io/endpoint"]});
    odd["status"] = Value::Null;
    odd["spec"]["role"] = json!("Novel");
    odd["spec"]["desired"] = json!("Present");
    odd["spec"]["nodeName"] = json!("idle");
    odd["spec"]["nodeUid"] = bench.cluster.kubectl_json(&["get", "node", "idle"])?["metadata"]["uid"].clone();
    wait::until(SOON, "the wider schema", || bench.cluster.apply(&odd.to_string()))?;
    // Two answer, the node of the third goes.
    bench.report_absent("odd-idle")?;
    bench.report_absent("net-branch-b")?;
    bench.cluster.kubectl(&["delete", "node", "hub"])?;
    let status = drain.wait(SOON)?;
    ensure!(status.success(), "{status}: {}", drain.log());
    ensure!(bench.see()?.names("DmvpnEndpoint").is_empty(), "{:?}", bench.see()?.all());
    // Operators run on, and put nothing back while the uninstall takes its time.
    let (mark, start) = (bench.mark()?, std::time::Instant::now());
    wait::until(SOON, "some time to pass", || {
        wait::ensure(start.elapsed() > Duration::from_secs(5), || "not yet".into())
    })?;
    let writes = bench.writes_since(mark)?;
    ensure!(writes.is_empty(), "{writes:?}");
    let (holder, _) = holder(bench)?;
    ensure!(!bench.pods.contains(&holder), "held by {holder}");
    bench.see()?.names("DmvpnEndpoint").is_empty().then_some(()).context("endpoints are back")
}
