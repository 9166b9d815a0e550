//! The API server's address is covered by what a site announces, and asked for as an overlay address: the node keeps it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::lab::Ping;
use e2e::scene::overlay::{NETWORK, TUNNEL, quickstart};
use e2e::wait;

use crate::stage::{LOOK, SOON, Stage, condition, endpoint, network, under_pings};

/// A node has its API server back within this time, as the guide says.
const BACK: Duration = Duration::from_secs(15);

pub(crate) fn api_server_covered(stage: &mut Stage<'_>) -> Result<()> {
    let east = stage.east;
    let host = stage.site("branch-a")?.host.clone();
    let server = east.server_address().to_string();
    let way = |to: &str| host.run(&["ip", "route", "get", to]);
    ensure!(way(&server)?.contains("dev mgmt0"), "{}", way(&server)?);
    // More exact than what the node has, and a neighbour of the API server that is nobody.
    let [x, y, z, last] = east.server_address().octets();
    let (covering, beside) = (format!("{x}.{y}.{z}.{}/30", last & !3), format!("{x}.{y}.{z}.{}", last | 3));
    let own = "- cidr: 10.10.0.0/24";
    let lan = quickstart("hub-lan.yaml")?;
    ensure!(lan.contains(own), "hub-lan.yaml has no {own:?}");
    under_pings(stage, |_| {
        east.apply(&lan.replace(own, &format!("{own}\n  - cidr: {covering}")))?;
        wait::until(SOON, "the prefix to be routed by the tunnel", || {
            let way = way(&beside)?;
            wait::ensure(way.contains(&format!("dev {TUNNEL}")), || way)
        })?;
        wait::stays(Duration::from_secs(1), "the API server's address on its own way", || {
            let way = way(&server)?;
            wait::ensure(way.contains("dev mgmt0"), || way)
        })?;
        let pin = host.run(&["ip", "route", "show", &server])?;
        ensure!(pin.contains("dev mgmt0 proto 214"), "{pin}");
        east.apply(&lan)?;
        wait::until(SOON, "the pin to go", || {
            let pin = host.run(&["ip", "route", "show", &server])?;
            wait::ensure(pin.trim().is_empty(), || pin)
        })
    })
}

pub(crate) fn api_server_taken(stage: &mut Stage<'_>) -> Result<()> {
    let east = stage.east;
    let host = stage.site("branch-a")?.host.clone();
    let server = east.server_address().to_string();
    let overlay = "[10.255.0.0/16]";
    let wider = network()?.replace(overlay, &format!("[10.255.0.0/16, {server}/32]"));
    ensure!(wider != network()?, "the network has no {overlay}");
    let address = "[10.255.0.11]";
    let spoke = quickstart("branch-a.yaml")?;
    let taken = spoke.replace(address, &format!("[{server}]"));
    ensure!(taken != spoke, "branch-a.yaml has no {address}");
    east.apply(&wider)?;
    stage.wait_until_up("branch-a")?;
    east.apply(&taken)?;
    let way = || host.run(&["ip", "route", "get", &server]);
    wait::until(SOON, "the API server to be cut off", || {
        let way = way()?;
        wait::ensure(way.contains("local"), || way)
    })?;
    let start = Instant::now();
    wait::until(BACK, "the API server to be back", || {
        let way = way()?;
        wait::ensure(way.contains("dev mgmt0"), || way)
    })?;
    let back = start.elapsed();
    let told = wait::until_max(SOON, LOOK, "the endpoint to say so", || {
        let endpoint = endpoint(east, "branch-a")?;
        let ready = condition(&endpoint, "Ready");
        ensure!(ready["reason"] == "RolledBack" && ready["status"] == "False", "{}", endpoint["status"]);
        Ok(endpoint)
    })?;
    let after = start.elapsed();
    let message = condition(&told, "Ready")["message"].to_string();
    ensure!(message.contains("its API server"), "{message}");
    let (generation, observed) = (&told["metadata"]["generation"], &told["status"]["observedGeneration"]);
    ensure!(generation == observed, "generation {generation}, observed {observed}");
    println!("    back after {back:.1?}, told after {after:.1?}");
    wait::until_max(SOON, LOOK, "the event", || {
        let events = east.kubectl(&["get", "events", "-A", "--field-selector", "reason=RolledBack"])?;
        wait::ensure(events.contains("dmvpnendpoint/") && events.contains("Warning"), || events)
    })?;
    // Traffic goes on as before.
    under_pings(stage, |_| Ok(()))?;
    east.apply(&spoke)?;
    east.apply(&network()?)?;
    stage.wait_until_up("branch-a").map(drop)
}

/// A key that half of the network has not is a change that cuts: with `rollout` one node tries it, and no other gets it.
pub(crate) fn a_key_stops_at_one_node(stage: &mut Stage<'_>) -> Result<()> {
    let east = stage.east;
    let [hub, b] = ["hub", "branch-b"].map(|name| stage.site(name).cloned());
    let (hub, b) = (hub?, b?);
    let old = "  tunnel:\n    key: 100\n";
    let other = network()?.replace(old, "  rollout: {maxUnavailable: 1}\n  tunnel:\n    key: 101\n");
    ensure!(other != network()?, "the network has no {old:?}");
    let key = |node: &str| Ok::<_, anyhow::Error>(endpoint(east, node)?["spec"]["tunnel"]["key"].clone());
    let pings = Ping::start_together(&[(&b.lan, hub.lan_host().into())], 12_000, Duration::from_millis(10))?;
    let start = Instant::now();
    east.apply(&other)?;
    wait::until_max(SOON, LOOK, "branch-a to get the key", || {
        let key = key("branch-a")?;
        wait::ensure(key == 101, || key.to_string())
    })?;
    wait::until_max(SOON, LOOK, "the network to say that it stops there", || {
        let hub = key("hub")?;
        ensure!(hub == 100, "the hub has key {hub}");
        let object = east.kubectl_json(&["get", "dmvpnnetwork", NETWORK])?;
        let ready = condition(&object, "Ready");
        let message = ready["message"].as_str().unwrap_or_default();
        let named = message.contains("branch-a (RolledBack") && message.contains("its hubs");
        wait::ensure(ready["reason"] == "RolloutStopped" && named, || ready.to_string())
    })?;
    println!("    stopped after {:.1?}", start.elapsed());
    for ping in pings {
        let report = ping.stop()?;
        report.ensure_nothing_lost()?;
        println!("    to {}: {report}", report.target);
    }
    // With what was in force before all is as it was.
    under_pings(stage, |_| Ok(()))?;
    ensure!(key("hub")? == 100, "the hub got it after all");
    east.apply(&network()?)?;
    stage.wait_until_up("branch-a").map(drop)
}
