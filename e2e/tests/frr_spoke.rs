//! FRR 8.4 as spoke beside ours, on our hub: it registers, is redirected, answers and asks; and what it costs that it
//! ignores purges. Its LAN is known by its External DmvpnSpoke (`router.yaml` of the quickstart).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::lab::peek::NhrpKind;
use e2e::lab::ping::{self, Report};
use e2e::lab::{Capture, Frr, Ping};
use e2e::ring3::Needs;
use e2e::scene::foreign::Foreign;
use e2e::scene::overlay::{
    BRANCH_A, BRANCH_B, HUB, NETWORK, Overlay, ROUTER, ROUTER_LINK, TUNNEL, quickstart,
};
use e2e::scene::{Scene, Site};
use e2e::wait;
use e2e::{ring3_waiting, ring3_with};

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

/// A LAN that the hub routes to a branch which does not answer for it: nobody finds a shorter way, and all of it goes by
/// the hub. (FRR means to make a black hole of Error Indication 6, for its whole holding time, and takes the code in the
/// wrong byte order: on a little-endian machine it lets the question be.)
#[test]
fn what_nobody_answers_for_stays_with_the_hub() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, b, router) = (scene.site("hub")?, scene.site("branch-b")?, scene.site("router")?);
        b.host.ip("addr add 10.31.0.1/24 dev lan0")?;
        b.lan.ip("addr add 10.31.0.10/24 dev eth0")?;
        let foreign = Foreign::new(router, ROUTER).client_of(HUB, hub).default_by(HUB);
        let beside = Beside::start(&scene, foreign, |network| network)?;
        beside.overlay.hub.write(
            "more-of-b.yaml",
            &format!(
                "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: branch-b}}
spec:
  networkRef: {{name: branches}}
  placement: {{type: External}}
  overlayAddresses: [{BRANCH_B}]
  subnets: [{{cidr: {}}}, {{cidr: 10.31.0.0/24}}]
",
                b.plan.lan
            ),
        )?;
        let target = Ipv4Addr::new(10, 31, 0, 10);
        let a = scene.site("branch-a")?;
        for (host, link) in [(&hub.host, TUNNEL), (&a.host, TUNNEL), (&router.host, ROUTER_LINK)] {
            wait::until(SOON, &format!("a route from {} to {target}", host.name()), || {
                let route = host.run(&["ip", "route", "get", &target.to_string()])?;
                wait::ensure(route.contains(&format!("dev {link}")), || route)
            })?;
        }
        let capture = Capture::start(&scene.isp, &scene.uplink(router), "proto gre")?;
        let ways = [(&router.lan, target.into()), (&a.lan, target.into())];
        let reports = Ping::start_together(&ways, 500, TEN_MS)?;
        for pings in reports {
            let report = pings.finish()?;
            println!("{report}");
            report.ensure_nothing_lost()?;
        }
        println!("{}", beside.frr.vtysh("show ip nhrp shortcut")?);
        let from_hub = |p: &e2e::lab::Peek| p.is_between(hub.nbma().into(), router.nbma().into());
        let count = |kind| capture.count(|p| p.is_nhrp(kind) && from_hub(p));
        let (told, errors) = (count(NhrpKind::TrafficIndication)?, count(NhrpKind::ErrorIndication)?);
        println!("to FRR: {told} redirects, {errors} errors");
        ensure!(told >= 1 && errors >= 1, "FRR was not redirected, or not refused");
        let route = router.host.run(&["ip", "route", "show", "table", "all", &format!("{target}")])?;
        ensure!(!route.contains("blackhole"), "{route}");
        Ok(())
    });
}

/// A branch gets another underlay address. Ours beside it are told (purge) and follow; FRR does not listen, and its
/// traffic goes to the old address for as long as its shortcut holds.
#[test]
fn what_ignored_purges_cost() {
    const HOLDING: u16 = 30;
    ring3_waiting(NEEDS, |lab| {
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
        // Its cache, which has it from our own questions; its kernel is another matter.
        println!("FRR's cache has the new address after {} ms", moved.elapsed().as_millis());
        let (ours, frrs) = (ours.finish()?, frrs.finish()?);
        println!("ours beside it: {ours}\nFRR beside it: {frrs}");
        let gap = |report: &Report| report.longest_gap().as_millis();
        println!("nothing arrived for {} ms from ours, for {} ms from FRR", gap(&ours), gap(&frrs));
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
