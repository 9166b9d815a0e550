//! FRR 8.4 as hub for our agents: both branches register with it, redirects from FRR make our shortcuts, nothing is
//! lost, and FRR's own tables say the same. (FRR does not know prefix lists: routes to the LANs are the admin's.)

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::peek::NhrpKind;
use e2e::lab::{Agent, Capture, Frr, frr, ping};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::overlay::{BRANCH_A, BRANCH_B, HUB, KEY, NETWORK, TUNNEL, manifests};
use e2e::scene::{Scene, Site};
use e2e::wait;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);

fn start_hub(site: &Site) -> Result<Frr> {
    frr::make_gre(&site.host, "gre1", site.nbma(), Some(KEY), HUB)?;
    let group = frr::NFLOG_GROUP;
    Frr::start(
        &site.host,
        &format!(
            "nhrp nflog-group {group}
interface gre1
 ip nhrp network-id 100
 ip nhrp holdtime 600
 ip nhrp redirect
 ip nhrp shortcut
ip route 10.20.0.0/24 {BRANCH_A}
ip route 10.30.0.0/24 {BRANCH_B}
"
        ),
    )
}

#[test]
fn our_branches_get_direct_beside_an_frr_hub() {
    ring3_with(Needs { deadline: Duration::from_secs(180), ..Needs::default() }, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
        let frr = start_hub(hub)?;
        let start =
            |site: &Site, own: &str| Agent::start(&site.host, &[], &manifests(&["network.yaml", own])?);
        let agent_a = start(a, "branch-a.yaml")?;
        let agent_b = start(b, "branch-b.yaml")?;
        for (agent, overlay, site) in [(&agent_a, BRANCH_A, a), (&agent_b, BRANCH_B, b)] {
            agent.wait_until_up(NETWORK, SOON)?;
            let entry = frr.wait_for_cache("dynamic", overlay, SOON)?;
            ensure!(entry.nbma == site.nbma().to_string(), "{entry:?}");
        }
        for (site, lan) in [(a, b.plan.lan), (b, a.plan.lan)] {
            site.host.ip(&format!("route add {lan} via {HUB} dev {TUNNEL} onlink metric 200"))?;
        }
        // FRR's own route to a LAN may come a moment after the registration.
        for lan in [a.plan.lan, b.plan.lan] {
            wait::until(SOON, "FRR's route to a LAN", || {
                let route = hub.host.run(&["ip", "route", "show", &lan.to_string()])?;
                wait::ensure(route.contains("gre1"), || format!("{lan}: {route:?}"))
            })?;
        }
        let capture = Capture::start(&hub.host, "wan0", "proto gre")?;
        let (there, back) =
            ping::both_ways((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()), 500, TEN_MS)?;
        println!("a → b: {there}\nb → a: {back}");
        for report in [&there, &back] {
            report.ensure_nothing_lost()?;
            ensure!(report.hops().is_some_and(|(_, after)| after == 2), "not direct: {report}");
        }
        capture.wait_for(SOON, "FRR's redirect", |p| {
            p.is_nhrp(NhrpKind::TrafficIndication) && p.is_between(hub.nbma().into(), a.nbma().into())
        })?;
        let shortcut = |agent: &Agent, to: Ipv4Addr| -> Result<()> {
            let tunnel = agent.tunnel(NETWORK)?;
            let found = tunnel.cache.iter().any(|e| e.target.contains(&std::net::IpAddr::from(to)));
            ensure!(found, "no shortcut to {to}: {:?}", tunnel.cache);
            Ok(())
        };
        shortcut(&agent_a, b.lan_host())?;
        shortcut(&agent_b, a.lan_host())
    });
}
