//! FRR 8.4 as hub for our agents: both branches register with it, it redirects (Phase 3) or passes their questions on
//! (Phase 2), nothing is lost, and FRR's own tables say the same. (FRR does not know prefix lists: routes to the LANs are
//! the admin's.)

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::peek::NhrpKind;
use e2e::lab::{Agent, Capture, Frr, ping};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::foreign::Foreign;
use e2e::scene::overlay::{
    BRANCH_A, BRANCH_B, HUB, NETWORK, ROUTER, ROUTER_LINK, TUNNEL, manifests, quickstart,
};
use e2e::scene::{Scene, Site};
use e2e::wait;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(180) };

/// A branch of ours, registered with the FRR hub as FRR's own tables say.
fn start(site: &Site, own: &str, network: &str, overlay: Ipv4Addr, hub: &Frr) -> Result<Agent> {
    let mut files = manifests(&[own])?;
    files.insert("network.yaml".to_owned(), network.to_owned());
    let agent = Agent::start(&site.host, &[], &files)?;
    agent.wait_until_up(NETWORK, SOON)?;
    let entry = hub.wait_for_cache("dynamic", overlay, SOON)?;
    ensure!(entry.nbma == site.nbma().to_string(), "{entry:?}");
    Ok(agent)
}

/// FRR's own routes to the LANs, which may come a moment after the registrations.
fn until_frr_routes(hub: &Site, lans: &[&Site]) -> Result<()> {
    for site in lans {
        wait::until(SOON, "FRR's route to a LAN", || {
            let route = hub.host.run(&["ip", "route", "show", &site.plan.lan.to_string()])?;
            wait::ensure(route.contains(ROUTER_LINK), || format!("{}: {route:?}", site.plan.lan))
        })?;
    }
    Ok(())
}

fn has_entry(agent: &Agent, to: IpAddr, nbma: IpAddr) -> Result<()> {
    let tunnel = agent.tunnel(NETWORK)?;
    let found = tunnel.cache.iter().any(|e| e.target.contains(&to) && e.nbma == Some(nbma));
    ensure!(found, "no entry for {to} at {nbma}: {:?}", tunnel.cache);
    Ok(())
}

#[test]
fn our_branches_get_direct_beside_an_frr_hub() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
        let frr = Foreign::hub(hub, &[(a, BRANCH_A), (b, BRANCH_B)]).redirects().start()?;
        let network = quickstart("network.yaml")?;
        let agent_a = start(a, "branch-a.yaml", &network, BRANCH_A, &frr)?;
        let agent_b = start(b, "branch-b.yaml", &network, BRANCH_B, &frr)?;
        for (site, lan) in [(a, b.plan.lan), (b, a.plan.lan)] {
            site.host.ip(&format!("route add {lan} via {HUB} dev {TUNNEL} onlink metric 200"))?;
        }
        until_frr_routes(hub, &[a, b])?;
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
        has_entry(&agent_a, b.lan_host().into(), b.nbma().into())?;
        has_entry(&agent_b, a.lan_host().into(), a.nbma().into())
    });
}

#[test]
fn an_frr_hub_passes_phase_2_questions_on() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
        // No redirects: the branches' kernels ask.
        let frr = Foreign::hub(hub, &[(a, BRANCH_A), (b, BRANCH_B)]).start()?;
        let network = quickstart("network.yaml")?.replace("phase: Phase3", "phase: Phase2");
        let agent_a = start(a, "branch-a.yaml", &network, BRANCH_A, &frr)?;
        let agent_b = start(b, "branch-b.yaml", &network, BRANCH_B, &frr)?;
        for (site, lan, next_hop) in [(a, b.plan.lan, BRANCH_B), (b, a.plan.lan, BRANCH_A)] {
            site.host.ip(&format!("route add {lan} via {next_hop} dev {TUNNEL} onlink metric 200"))?;
        }
        until_frr_routes(hub, &[a, b])?;
        let capture = Capture::start(&scene.isp, &scene.uplink(a), "proto gre")?;
        let (there, back) =
            ping::both_ways((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()), 500, TEN_MS)?;
        println!("a → b: {there}\nb → a: {back}");
        for report in [&there, &back] {
            report.ensure_nothing_lost()?;
            ensure!(report.hops().is_some_and(|(_, after)| after == 2), "not direct: {report}");
        }
        let packets = capture.stop()?;
        let seen = |kind, from: &Site, to: &Site| {
            packets.iter().any(|p| p.is_nhrp(kind) && p.is_between(from.nbma().into(), to.nbma().into()))
        };
        ensure!(seen(NhrpKind::ResolutionRequest, a, hub), "no question to the hub");
        ensure!(seen(NhrpKind::ResolutionReply, b, a), "no answer straight from the other branch");
        ensure!(!packets.iter().any(|p| p.is_nhrp(NhrpKind::TrafficIndication)), "a redirect");
        has_entry(&agent_a, BRANCH_B.into(), b.nbma().into())?;
        has_entry(&agent_b, BRANCH_A.into(), a.nbma().into())
    });
}

/// An FRR hub between a branch of ours and an FRR spoke, Phase 3.
#[test]
fn an_frr_hub_between_ours_and_frr() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, router) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("router")?);
        let frr = Foreign::hub(hub, &[(a, BRANCH_A), (router, ROUTER)]).redirects().start()?;
        let agent = start(a, "branch-a.yaml", &quickstart("network.yaml")?, BRANCH_A, &frr)?;
        let spoke = Foreign::new(router, ROUTER).client_of(HUB, hub).default_by(HUB).start()?;
        frr.wait_for_cache("dynamic", ROUTER, SOON)?;
        spoke.wait_for_cache("nhs", HUB, SOON)?;
        a.host.ip(&format!("route add {} via {HUB} dev {TUNNEL} onlink metric 200", router.plan.lan))?;
        until_frr_routes(hub, &[a, router])?;
        until_frr_routes(router, &[])?;
        wait::until(SOON, "the FRR spoke's route to the overlay", || {
            let route = router.host.run(&["ip", "route", "get", &a.lan_host().to_string()])?;
            wait::ensure(route.contains(ROUTER_LINK), || route)
        })?;
        let ends = ((&a.lan, a.lan_host().into()), (&router.lan, router.lan_host().into()));
        let (there, back) = ping::both_ways(ends.0, ends.1, 500, TEN_MS)?;
        println!("ours → FRR: {there}\nFRR → ours: {back}");
        // What goes our way is not lost; FRR's own switch may lose some of the other direction's.
        for report in [&there, &back] {
            ensure!(report.hops().is_some_and(|(_, after)| after == 2), "not direct: {report}");
            ensure!(report.lost() <= 5, "{report}");
        }
        has_entry(&agent, router.lan_host().into(), router.nbma().into())?;
        spoke.wait_for_shortcut(a.plan.lan, BRANCH_A, SOON)
    });
}
