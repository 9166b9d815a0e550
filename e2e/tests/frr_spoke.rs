//! FRR 8.4 as spoke beside ours, on our hub: it registers, is redirected, answers and asks; and what it costs that it
//! ignores purges. Its LAN is known by its External DmvpnSpoke (`router.yaml` of the quickstart).

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::lab::peek::NhrpKind;
use e2e::lab::{Capture, Frr, Ping, ping};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::foreign::Foreign;
use e2e::scene::overlay::{BRANCH_A, HUB, NETWORK, Overlay, ROUTER, ROUTER_LINK, TUNNEL, quickstart};
use e2e::scene::{Scene, Site};
use e2e::wait;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(240) };

/// Our hub and branches, and FRR at the site `router`.
struct Beside {
    overlay: Overlay,
    frr: Frr,
}

impl Beside {
    fn start(scene: &Scene, router: Foreign<'_>, change: impl Fn(String) -> String) -> Result<Self> {
        let overlay = Overlay::start_with(scene, change)?;
        overlay.hub.write("router.yaml", &quickstart("router.yaml")?)?;
        let frr = router.start()?;
        frr.wait_for_cache("nhs", HUB, SOON)?;
        let site = scene.site("router")?;
        wait::until(SOON, "FRR to be registered with our hub", || {
            let peers = overlay.hub.tunnel(NETWORK)?.peers;
            let lan = peers.iter().find(|p| p.target == site.plan.lan.into());
            wait::ensure(lan.is_some_and(|p| p.nbma == Some(site.nbma().into())), || format!("{peers:?}"))
        })?;
        for agent in [&overlay.branch_a, &overlay.branch_b] {
            agent.wait_until_up(NETWORK, SOON)?;
            until_route(agent.host(), site, TUNNEL)?;
        }
        until_route(&site.host, scene.site("branch-a")?, ROUTER_LINK)?;
        Ok(Self { overlay, frr })
    }
}

fn until_route(host: &e2e::lab::Host, to: &Site, link: &str) -> Result<()> {
    wait::until(SOON, &format!("a route from {} to the LAN of {}", host.name(), to.plan.name), || {
        let route = host.run(&["ip", "route", "get", &to.lan_host().to_string()])?;
        wait::ensure(route.contains(&format!("dev {link}")), || route)
    })
}

#[test]
fn an_frr_spoke_and_ours_get_direct() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, router) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("router")?);
        let foreign = Foreign::new(router, ROUTER).client_of(HUB, hub).default_by(HUB);
        let beside = Beside::start(&scene, foreign, |network| network)?;
        let capture = Capture::start(&scene.isp, &scene.uplink(router), "proto gre")?;
        let ends = ((&a.lan, a.lan_host().into()), (&router.lan, router.lan_host().into()));
        let (there, back) = ping::both_ways(ends.0, ends.1, 500, TEN_MS)?;
        println!("ours → FRR: {there}\nFRR → ours: {back}");
        for report in [&there, &back] {
            report.ensure_nothing_lost()?;
            ensure!(report.hops().is_some_and(|(_, after)| after == 2), "not direct: {report}");
        }
        // The three tables, and the wire.
        beside.frr.wait_for_shortcut(a.plan.lan, BRANCH_A, SOON)?;
        let entry = beside.frr.nhrp_cache()?.into_iter().find(|e| e.protocol == BRANCH_A.to_string());
        ensure!(entry.as_ref().is_some_and(|e| e.nbma == a.nbma().to_string()), "{entry:?}");
        let cache = beside.overlay.branch_a.tunnel(NETWORK)?.cache;
        let to_lan = cache.iter().find(|e| e.target == router.plan.lan.into());
        ensure!(to_lan.is_some_and(|e| e.nbma == Some(router.nbma().into())), "{cache:?}");
        for (kind, from, to) in [
            (NhrpKind::TrafficIndication, hub, router),
            (NhrpKind::ResolutionRequest, router, hub),
            (NhrpKind::ResolutionRequest, hub, router),
            (NhrpKind::ResolutionReply, a, router),
            (NhrpKind::ResolutionReply, router, a),
        ] {
            capture.wait_for(
                SOON,
                &format!("{kind:?} from {} to {}", from.plan.name, to.plan.name),
                |p| p.is_nhrp(kind) && p.is_between(from.nbma().into(), to.nbma().into()),
            )?;
        }
        Ok(())
    });
}

/// In Phase 2 our branch asks for the FRR router's tunnel address and goes direct. FRR never asks for a next hop by
/// itself; what it does with our question is its own affair, and no packet may get lost of it.
#[test]
fn an_frr_spoke_in_phase_2() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, router) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("router")?);
        let foreign =
            Foreign::new(router, ROUTER).client_of(HUB, hub).default_by(HUB).route(a.plan.lan, BRANCH_A);
        let phase2 = |network: String| network.replace("phase: Phase3", "phase: Phase2");
        let beside = Beside::start(&scene, foreign, phase2)?;
        let route = a.host.run(&["ip", "route", "show", &router.plan.lan.to_string()])?;
        ensure!(route.contains(&format!("via {ROUTER} dev {TUNNEL}")), "next hop not kept: {route}");
        let capture = Capture::start(&scene.isp, &scene.uplink(router), "proto gre")?;
        let ends = ((&a.lan, a.lan_host().into()), (&router.lan, router.lan_host().into()));
        let (there, back) = ping::both_ways(ends.0, ends.1, 500, TEN_MS)?;
        println!("ours → FRR: {there}\nFRR → ours: {back}\n{:?}", beside.frr.nhrp_cache()?);
        for report in [&there, &back] {
            report.ensure_nothing_lost()?;
        }
        let packets = capture.stop()?;
        let direct = packets
            .iter()
            .filter(|p| p.inner.is_some() && p.is_between(a.nbma().into(), router.nbma().into()))
            .count();
        ensure!(direct > 800, "{direct} packets straight from ours to FRR");
        ensure!(!packets.iter().any(|p| p.is_nhrp(NhrpKind::TrafficIndication)), "a redirect in Phase 2");
        Ok(())
    });
}

/// A branch gets another underlay address. Ours beside it are told (purge) and follow; FRR does not listen, and its
/// traffic goes to the old address for as long as its shortcut holds.
#[test]
fn what_ignored_purges_cost() {
    const HOLDING: u16 = 30;
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
        let router = scene.site("router")?;
        let foreign = Foreign::new(router, ROUTER).client_of(HUB, hub).default_by(HUB).holding(HOLDING);
        let hold =
            |network: String| network.replace("holdTimeSeconds: 600", &format!("holdTimeSeconds: {HOLDING}"));
        let beside = Beside::start(&scene, foreign, hold)?;
        until_route(&b.host, a, TUNNEL)?;
        for site in [b, router] {
            wait::until(SOON, "a direct path", || {
                let report = Ping::start(&site.lan, a.lan_host().into(), 5, TEN_MS)?.finish()?;
                ensure!(report.hops().is_some_and(|(_, now)| now == 2), "{report}");
                Ok(())
            })?;
        }
        beside.frr.wait_for_shortcut(a.plan.lan, BRANCH_A, SOON)?;
        let capture = Capture::start(&scene.isp, &scene.uplink(router), "proto gre")?;
        let count = 2500;
        let interval = Duration::from_millis(20);
        let ways = [(&b.lan, a.lan_host().into()), (&router.lan, a.lan_host().into())];
        let mut pings = Ping::start_together(&ways, count, interval)?.into_iter();
        let (Some(ours), Some(frrs)) = (pings.next(), pings.next()) else { anyhow::bail!("two pings") };
        ours.wait_for_reply(50, SOON)?;
        let moved = Instant::now();
        a.host.ip_batch(&[
            format!("addr del {} dev wan0", a.plan.wan),
            "addr add 198.51.100.3/24 dev wan0".to_owned(),
            "route add default via 198.51.100.1".to_owned(),
        ])?;
        wait::until(Duration::from_secs(60), "FRR to know the new address", || {
            let cache = beside.frr.nhrp_cache()?;
            let entry = cache.iter().find(|e| e.protocol == BRANCH_A.to_string());
            wait::ensure(entry.is_none_or(|e| e.nbma == "198.51.100.3"), || format!("{entry:?}"))
        })?;
        println!("FRR held the old address for {} ms", moved.elapsed().as_millis());
        let (ours, frrs) = (ours.finish()?, frrs.finish()?);
        println!("ours beside it: {ours}\nFRR beside it: {frrs}");
        let purges = |kind, from: &Site, to: &Site| {
            capture.count(|p| p.is_nhrp(kind) && p.is_between(from.nbma().into(), to.nbma().into()))
        };
        let (told, answered) =
            (purges(NhrpKind::PurgeRequest, hub, router)?, purges(NhrpKind::PurgeReply, router, hub)?);
        println!("purges to FRR: {told}, answered: {answered}");
        ensure!(told >= 1 && answered == 0, "{told} purges, {answered} answers");
        ensure!(ours.longest_gap() < Duration::from_secs(5), "{ours}");
        ensure!(frrs.longest_gap() > ours.longest_gap(), "no cost: {frrs}");
        ensure!(frrs.longest_gap() < Duration::from_secs(u64::from(HOLDING) + 10), "{frrs}");
        Ok(())
    });
}
