//! Phase 2: spokes keep each other as next hop. The kernel asks for a next hop that it does not know; traffic goes by the
//! hub until the answer is there, and directly from then on. No redirect, no packet lost.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::peek::NhrpKind;
use e2e::lab::{Capture, Host, Ping, ping};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::Scene;
use e2e::scene::overlay::{BRANCH_A, BRANCH_B, HUB, NETWORK, Overlay, TUNNEL};
use e2e::wait;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);
/// Holding time: a path in use is renewed after two thirds of it.
const HOLDING: u64 = 15;
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(180) };

fn phase2(network: String) -> String {
    network
        .replace("phase: Phase3", "phase: Phase2")
        .replace("holdTimeSeconds: 600", &format!("holdTimeSeconds: {HOLDING}"))
}

/// Hub and two branches, up, with the routes to each other's LAN.
fn start(scene: &Scene) -> Result<Overlay> {
    let overlay = Overlay::start_with(scene, phase2)?;
    for (agent, lan, next_hop) in
        [(&overlay.branch_a, "10.30.0.0/24", BRANCH_B), (&overlay.branch_b, "10.20.0.0/24", BRANCH_A)]
    {
        let tunnel = agent.wait_until_up(NETWORK, SOON)?;
        ensure!(tunnel.destination.is_none(), "multipoint: {:?}", tunnel.destination);
        wait::until(SOON, "a route with the other branch as next hop", || {
            let route = agent.host().run(&["ip", "route", "show", lan])?;
            let kept = format!("{lan} via {next_hop} dev {TUNNEL}");
            wait::ensure(route.contains(&kept), || format!("{route:?}, not {kept:?}"))
        })?;
    }
    Ok(overlay)
}

/// The kernel's entry for an overlay address: underlay address and state; `None`: there is none.
fn neighbour(host: &Host, overlay: Ipv4Addr) -> Result<Option<(String, String)>> {
    let list = host.ip_json(&format!("neigh show to {overlay} dev {TUNNEL}"))?;
    let entry = &list[0];
    if entry.is_null() {
        return Ok(None);
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Some((text(&entry["lladdr"]), text(&entry["state"][0]))))
}

fn until_neighbour(host: &Host, overlay: Ipv4Addr, nbma: Ipv4Addr) -> Result<()> {
    wait::until(SOON, &format!("{overlay} at {nbma} on {}", host.name()), || {
        let seen = neighbour(host, overlay)?;
        let wanted = (nbma.to_string(), "PERMANENT".to_owned());
        wait::ensure(seen.as_ref() == Some(&wanted), || format!("{seen:?}"))
    })
}

#[test]
fn next_hops_are_kept_and_resolved() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
        let overlay = start(&scene)?;
        ensure!(
            neighbour(&a.host, BRANCH_B)?.is_none(),
            "nobody has asked: {:?}",
            neighbour(&a.host, BRANCH_B)?
        );
        let capture = Capture::start(&scene.isp, &scene.uplink(a), "proto gre")?;
        let (there, back) =
            ping::both_ways((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()), 500, TEN_MS)?;
        println!("a → b: {there}\nb → a: {back}");
        for report in [&there, &back] {
            report.ensure_nothing_lost()?;
            ensure!(report.hops().is_some_and(|(_, after)| after == 2), "not direct: {report}");
        }
        until_neighbour(&a.host, BRANCH_B, b.nbma())?;
        until_neighbour(&b.host, BRANCH_A, a.nbma())?;
        // The tunnel addresses themselves: no router in between.
        let report = Ping::start(&a.host, BRANCH_B.into(), 10, TEN_MS)?.finish()?;
        report.ensure_nothing_lost()?;
        ensure!(report.hops() == Some((0, 0)), "{report}");

        // A path in use is renewed, though all packets go to the LAN and none to the next hop's own address.
        let asked = |p: &e2e::lab::Peek| {
            p.is_nhrp(NhrpKind::ResolutionRequest) && p.is_between(a.nbma().into(), hub.nbma().into())
        };
        let pings = Ping::start(&a.lan, b.lan_host().into(), 200, TEN_MS * 10)?;
        wait::until(Duration::from_secs(HOLDING + 5), "the question after two thirds of the time", || {
            let count = capture.count(asked)?;
            wait::ensure(count >= 2, || format!("{count} requests"))
        })?;
        let report = pings.finish()?;
        report.ensure_nothing_lost()?;
        ensure!(report.hops() == Some((2, 2)), "{report}");

        let packets = capture.stop()?;
        let indications = packets.iter().filter(|p| p.is_nhrp(NhrpKind::TrafficIndication)).count();
        ensure!(indications == 0, "{indications} redirects");
        let questions: Vec<_> = packets.iter().filter(|p| asked(p)).collect();
        let about = |p: &&e2e::lab::Peek| p.nhrp.as_ref().and_then(|n| n.destination);
        ensure!(questions.iter().all(|p| about(p) == Some(BRANCH_B.into())), "{questions:?}");
        // The first packets went by the hub: it carries the traffic meanwhile.
        let data = |from: IpAddr, to: IpAddr| {
            packets.iter().filter(|p| p.inner.is_some() && p.is_between(from, to)).count()
        };
        let by_hub = data(a.nbma().into(), hub.nbma().into());
        ensure!((1..100).contains(&by_hub), "{by_hub} packets by the hub");
        ensure!(data(a.nbma().into(), b.nbma().into()) > 500);
        let shown = overlay.branch_a.cli("show ip nhrp brief")?;
        ensure!(shown.contains(&BRANCH_B.to_string()), "{shown}");
        Ok(())
    });
}

#[test]
fn scans_lost_questions_and_who_leaves() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
        let mut overlay = start(&scene)?;
        // Somebody in the LAN scans the overlay: the kernel's table does not grow, the hub says what is not there.
        a.lan.run(&["bash", "-c", "for i in {1..250}; do echo >/dev/udp/10.255.9.$i/9; done"])?;
        let table = a.host.ip_json(&format!("neigh show dev {TUNNEL}"))?;
        ensure!(table.as_array().is_some_and(|t| t.len() <= 2), "{table}");

        // The agent is away when the kernel asks, and the kernel does not ask again for a minute: the dump shows it.
        overlay.branch_a.kill()?;
        a.host.sh(&format!(
            "ip neigh flush to {BRANCH_B} nud permanent dev {TUNNEL}
             echo 60000 >/proc/sys/net/ipv4/neigh/{TUNNEL}/retrans_time_ms"
        ))?;
        let waiting = Ping::start(&a.lan, b.lan_host().into(), 1, TEN_MS)?;
        wait::until(SOON, "a next hop that the kernel waits for", || {
            let seen = neighbour(&a.host, BRANCH_B)?;
            wait::ensure(seen.as_ref().is_some_and(|(_, state)| state == "INCOMPLETE"), || {
                format!("{seen:?}")
            })
        })?;
        overlay.branch_a.restart()?;
        until_neighbour(&a.host, BRANCH_B, b.nbma())?;
        drop(waiting);

        // The hub is told to forget the branch: its routes go, and with them all that was resolved.
        overlay.branch_b.remove("branch-b.yaml")?;
        wait::until(SOON, "branch-b to be gone at branch-a", || {
            let route = a.host.run(&["ip", "route", "show", "table", "all", "dev", TUNNEL])?;
            let left = route.contains("10.30.0.0/24") || route.contains(&BRANCH_B.to_string());
            wait::ensure(!left && neighbour(&a.host, BRANCH_B)?.is_none(), || {
                format!("{route} {:?}", neighbour(&a.host, BRANCH_B))
            })
        })?;
        let ping = Ping::start(&a.lan, hub.lan_host().into(), 20, TEN_MS)?.finish()?;
        ping.ensure_nothing_lost()?;
        let shown = overlay.hub.tunnel(NETWORK).context("hub")?;
        ensure!(shown.peers.iter().any(|p| p.address == IpAddr::from(BRANCH_A)), "{:?}", shown.peers);
        ensure!(shown.peers.iter().all(|p| p.address != IpAddr::from(BRANCH_B)), "{:?}", shown.peers);
        ensure!(neighbour(&a.host, HUB)?.is_some(), "the hub's neighbour stays");
        Ok(())
    });
}
