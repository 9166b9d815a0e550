//! `kubectl apply`, and what comes of it.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::ping::both_ways;
use e2e::lab::{Capture, Peek, Ping};
use e2e::scene::Site;
use e2e::scene::overlay::{BRANCH_A, BRANCH_B, HUB, NETWORK, TUNNEL, quickstart};
use e2e::wait;

use crate::stage::{
    PASSWORD, SOON, Stage, apply_secret, condition, endpoint, kept, network, nothing_written_since, quiet,
    under_pings,
};

const INTERVAL: Duration = Duration::from_millis(10);
const PINGS: &str = "icmp[icmptype] = icmp-echo";
/// Time to live of what came by two routers, the branches themselves.
const DIRECT_TTL: u8 = 62;
/// A time in which nobody writes, longer than any that the programs gather for.
const QUIET: Duration = Duration::from_secs(8);

pub(crate) fn makes_tunnels(stage: &mut Stage<'_>) -> Result<()> {
    let east = stage.east;
    let tls = Capture::start(&stage.operator.host, "mgmt0", "tcp port 8443")?;
    let wire = Capture::start(&stage.site("hub")?.host, "wan0", "proto gre")?;
    // In one go, as users do; what is first is not what is needed first.
    for file in ["branch-a.yaml", "hub-lan.yaml"] {
        east.apply(&quickstart(file)?)?;
    }
    apply_secret(east, PASSWORD)?;
    east.apply(&network()?)?;
    for (node, role, tunnel, peers) in [("hub", "Hub", HUB, 2), ("branch-a", "Spoke", BRANCH_A, 1)] {
        stage.wait_until_up(node)?;
        wait::until(SOON, &format!("the peers of {node}"), || {
            let endpoint = endpoint(east, node)?;
            let status = &endpoint["status"];
            ensure!(endpoint["spec"]["role"] == role, "{}", endpoint["spec"]);
            ensure!(status["tunnelIp"] == tunnel.to_string(), "{status}");
            ensure!(status["nbma"] == stage.site(node)?.nbma().to_string(), "{status}");
            ensure!(status["peers"] == peers, "{status}");
            for type_ in ["InterfaceReady", "CredentialsReady"] {
                ensure!(condition(&endpoint, type_)["status"] == "True", "{type_}: {status}");
            }
            Ok(())
        })?;
    }
    stage.b.wait_until_up(NETWORK, SOON)?;
    let kinds = "dmvpnnetworks,dmvpnspokes,dmvpnendpoints";
    east.kubectl(&["wait", "--for=condition=Ready", kinds, "--all", "--timeout=20s"])?;
    let spoke = east.kubectl_json(&["get", "dmvpnspoke", "branch-a"])?;
    let status = &spoke["status"];
    ensure!(status["address"] == BRANCH_A.to_string() && status["nodeName"] == "branch-a", "{status}");
    ensure!(status["nodes"] == 1 && status["readyNodes"] == 1, "{status}");

    // The password is in each packet to the hub, and on its way from the operator nobody can read it.
    let has = |data: &[u8]| data.windows(PASSWORD.len()).any(|w| w == PASSWORD.as_bytes());
    ensure!(wire.frames()?.iter().any(|f| has(&f.data)), "the password is in no packet: what was shown?");
    let fetched = tls.frames()?;
    ensure!(fetched.len() > 10, "{} packets to the operator: nobody asked it", fetched.len());
    ensure!(!fetched.iter().any(|f| has(&f.data)), "the password can be read on the way from the operator");
    let objects = east.kubectl(&["get", "dmvpnendpoints,dmvpnnetworks", "-o", "yaml"])?;
    ensure!(!objects.contains(PASSWORD), "the password is in an object:\n{objects}");
    let (mode, _) = kept(&stage.a)?;
    ensure!(mode == 0o600, "the last good configuration has mode {mode:o}");
    Ok(())
}

pub(crate) fn gets_direct_and_quiet(stage: &mut Stage<'_>) -> Result<()> {
    let (a, b) = (stage.site("branch-a")?.clone(), stage.site("branch-b")?.clone());
    // As they arrive in the LANs: a reply may come back another way than the request went.
    let arrivals = [Capture::start(&b.lan, "eth0", PINGS)?, Capture::start(&a.lan, "eth0", PINGS)?];
    let (there, back) = both_ways(ends(&a), ends(&b), 200, INTERVAL)?;
    let mut by_hub = 0;
    for ((report, from), arrived) in [(there, &a), (back, &b)].into_iter().zip(arrivals) {
        report.ensure_nothing_lost()?;
        let arrived = arrived.stop()?.into_iter().filter_map(|p| p.ip);
        let ttls: Vec<u8> = arrived.filter(|ip| ip.source == from.lan_host()).map(|ip| ip.ttl).collect();
        let direct = ttls.iter().position(|ttl| *ttl == DIRECT_TTL).unwrap_or(ttls.len());
        println!("    from {}: {report}; the first {direct} by the hub", from.plan.name);
        by_hub += direct;
        ensure!(ttls[direct..].iter().all(|ttl| *ttl == DIRECT_TTL), "TTLs: {ttls:?}");
        ensure!(ttls.len() > direct + 100, "TTLs: {ttls:?}");
    }
    // Who begins a few milliseconds later may find the path made by the other.
    ensure!(by_hub > 0, "no ping went by the hub: what got direct?");
    for (from, to, hop) in [(&a, &b, BRANCH_B), (&b, &a, BRANCH_A)] {
        let route = from.host.run(&["ip", "route", "get", &to.lan_host().to_string()])?;
        ensure!(route.contains(&format!("via {hop} dev {TUNNEL}")), "{route}");
    }
    let capture = Capture::start(&stage.site("hub")?.host, "wan0", "proto gre")?;
    let report = Ping::start(&a.lan, b.lan_host().into(), 100, INTERVAL)?.finish()?;
    report.ensure_nothing_lost()?;
    ensure!(report.replies.iter().all(|r| r.ttl == DIRECT_TTL), "not all by the direct path: {report}");
    let between = |p: &Peek| {
        let inner = p.inner.map(|i| (i.source, i.destination));
        inner == Some((a.lan_host().into(), b.lan_host().into()))
    };
    let seen = capture.stop()?;
    ensure!(!seen.iter().any(between), "the hub still carries pings between the branches");

    // Under traffic, with a registration every few seconds: nobody writes.
    let east = stage.east;
    let writes = under_pings(stage, |_| quiet(east, QUIET))?;
    nothing_written_since(east, writes)
}

fn ends(site: &Site) -> (&e2e::lab::Host, std::net::IpAddr) {
    (&site.lan, site.lan_host().into())
}
