//! The foreign peer alone: FRR hub and two FRR spokes make a DMVPN of their own in the scene. This shows that
//! the driver, the captures and the pings work, and it is the baseline that our agent is compared with.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::peek::NhrpKind;
use e2e::lab::{Capture, Frr, ping};
use e2e::ring3::Needs;
use e2e::scene::foreign::Foreign;
use e2e::scene::overlay::{BRANCH_A as A, BRANCH_B as B, HUB, KEY};
use e2e::scene::{Scene, Site};
use e2e::{ring3, ring3_with, wait};

const SOON: Duration = Duration::from_secs(20);

fn start_hub(scene: &Scene) -> Result<Frr> {
    let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
    Foreign::hub(hub, &[(a, A), (b, B)]).redirects().holding(30).start()
}

fn start_spoke(site: &Site, overlay: Ipv4Addr, hub: &Site) -> Result<Frr> {
    Foreign::new(site, overlay).client_of(HUB, hub).default_by(HUB).holding(30).start()
}

#[test]
fn a_spoke_registers_and_the_wire_shows_it() {
    ring3(|lab| {
        let scene = Scene::build(lab)?;
        let (hub, spoke) = (scene.site("hub")?, scene.site("branch-a")?);
        let capture = Capture::start(&scene.isp, &scene.uplink(spoke), "proto gre")?;
        let frr_hub = start_hub(&scene)?;
        let within = Capture::start(&hub.host, "gre1", "")?;
        let frr_spoke = start_spoke(spoke, A, hub)?;

        let entry = frr_hub.wait_for_cache("dynamic", A, SOON)?;
        ensure!(entry.nbma == spoke.nbma().to_string(), "{entry:?}");
        let nhs = frr_spoke.wait_for_cache("nhs", HUB, SOON)?;
        ensure!(nhs.nbma == hub.nbma().to_string(), "{nhs:?}");

        let request =
            capture.wait_for(SOON, "a registration", |p| p.is_nhrp(NhrpKind::RegistrationRequest))?;
        ensure!(request.is_between(spoke.nbma().into(), hub.nbma().into()), "{request}");
        ensure!(request.gre.is_some_and(|g| g.key == Some(KEY)), "{request}");
        let nhrp = request.nhrp.as_ref();
        ensure!(
            nhrp.is_some_and(|n| n.source == Some(A.into()) && n.destination == Some(HUB.into())),
            "{request}"
        );
        let reply = capture.wait_for(SOON, "its reply", |p| {
            p.is_nhrp(NhrpKind::RegistrationReply)
                && p.nhrp.as_ref().map(|n| n.request_id) == nhrp.map(|n| n.request_id)
        })?;
        ensure!(reply.is_between(hub.nbma().into(), spoke.nbma().into()), "{reply}");
        let bare = within
            .wait_for(SOON, "the same on the GRE link", |p| p.is_nhrp(NhrpKind::RegistrationRequest))?;
        ensure!(bare.nhrp.as_ref().map(|n| n.request_id) == nhrp.map(|n| n.request_id), "{bare}");
        let packets = capture.stop()?;
        ensure!(packets.iter().all(|p| p.gre.is_some()), "something that is no GRE passed the filter");
        Ok(())
    });
}

#[test]
fn two_spokes_find_the_direct_path() {
    ring3_with(Needs { deadline: Duration::from_secs(180), ..Needs::default() }, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
        let frr_hub = start_hub(&scene)?;
        let frr_a = start_spoke(a, A, hub)?;
        let _frr_b = start_spoke(b, B, hub)?;
        frr_hub.wait_for_cache("dynamic", A, SOON)?;
        frr_hub.wait_for_cache("dynamic", B, SOON)?;
        for site in [a, b] {
            wait::until(SOON, "the route to the overlay", || {
                let route = site.host.run(&["ip", "route", "get", "10.10.0.10"])?;
                wait::ensure(route.contains("dev gre1"), || route)
            })?;
        }
        // Both LANs know their router's link address: no packet waits for ARP when it counts.
        for site in [a, b] {
            let router = site.nbma().into();
            ping::Ping::start(&site.lan, router, 2, Duration::from_millis(10))?
                .finish()?
                .ensure_nothing_lost()?;
        }
        let direct = Capture::start(&scene.isp, &scene.uplink(b), "proto gre")?;
        let (there, back) = ping::both_ways(
            (&a.lan, a.lan_host().into()),
            (&b.lan, b.lan_host().into()),
            300,
            Duration::from_millis(10),
        )?;
        println!("a → b: {there}\nb → a: {back}");
        for report in [&there, &back] {
            // FRR may lose some while it switches; what matters here is that the lab sees the switch.
            ensure!(report.received >= 250, "{report}");
            ensure!(report.hops().is_some_and(|(_, after)| after == 2), "{report}");
        }
        // A ping sees the way back only, and that of the other may be direct before its first reply.
        let saw_both = |r: &ping::Report| r.hops() == Some((3, 2)) && r.switch().is_some();
        ensure!(saw_both(&there) || saw_both(&back), "no switch seen: {there} / {back}");
        let echo = |p: &&e2e::lab::Peek| p.inner.is_some_and(|i| i.destination == b.lan_host());
        let packets = direct.stop()?;
        let through_hub =
            packets.iter().filter(echo).filter(|p| p.is_between(hub.nbma().into(), b.nbma().into()));
        let straight = packets.iter().filter(echo).filter(|p| p.is_between(a.nbma().into(), b.nbma().into()));
        let (through_hub, straight) = (through_hub.count(), straight.count());
        ensure!(through_hub >= 1 && straight >= 250, "{through_hub} through the hub, {straight} straight");
        // "cached" or "dynamic", depending on which of the two asked first.
        let cache = frr_a.nhrp_cache()?;
        let peer = cache.iter().find(|e| e.protocol == B.to_string());
        ensure!(peer.is_some_and(|e| e.nbma == b.nbma().to_string()), "{cache:?}");
        Ok(())
    });
}
