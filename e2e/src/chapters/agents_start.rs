//! Chapter 2: the agents start from the quickstart's YAML, the FRR router registers by itself.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::frr::Frr;
use crate::lab::peek::NhrpKind;
use crate::lab::{Capture, Lab, Ping};
use crate::scene::Scene;
use crate::scene::overlay::{self, NETWORK, Overlay, ROUTER, TUNNEL};
use crate::story::Chapter;
use crate::wait;

const SOON: Duration = Duration::from_secs(20);

pub(super) fn tell(chapter: &mut Chapter, _lab: &Lab, scene: &Scene) -> Result<(Overlay, Frr)> {
    let hub_site = scene.site("hub")?;
    let capture = Capture::start(&hub_site.host, "wan0", "proto gre")?;
    let overlay = chapter.step_with(
        "start dmvpn-agent on hub, branch-a and branch-b from examples/quickstart",
        "every agent answers on its socket and has no complaint",
        || {
            let overlay = Overlay::start(scene)?;
            for agent in [&overlay.hub, &overlay.branch_a, &overlay.branch_b] {
                let report = agent.report()?;
                ensure!(report.problems.is_empty(), "{}: {:?}", agent.host().name(), report.problems);
            }
            Ok((overlay, "three agents answer"))
        },
    )?;
    for agent in [&overlay.branch_a, &overlay.branch_b] {
        let name = agent.host().name().to_owned();
        chapter.step(
            &format!("{name} registers with the hub, which has no line that names it"),
            "tunnel Up; registration request and reply on the wire",
            || {
                let tunnel = agent.wait_until_up(NETWORK, SOON)?;
                let nbma: IpAddr = scene.site(&name)?.nbma().into();
                let hub: IpAddr = hub_site.nbma().into();
                let request = capture.wait_for(SOON, "the registration request", |p| {
                    p.is_nhrp(NhrpKind::RegistrationRequest) && p.is_between(nbma, hub)
                })?;
                let reply = capture.wait_for(SOON, "the registration reply", |p| {
                    p.is_nhrp(NhrpKind::RegistrationReply) && p.is_between(hub, nbma)
                })?;
                let key = request.gre.and_then(|g| g.key);
                ensure!(key == Some(overlay::KEY), "GRE key {key:?}");
                let took = reply.time.saturating_sub(request.time);
                Ok(format!(
                    "{} {:?}; request → reply {:.1} ms, GRE key {}",
                    TUNNEL,
                    tunnel.state,
                    took.as_secs_f64() * 1e3,
                    overlay::KEY
                ))
            },
        )?;
    }
    chapter.show("router's whole FRR configuration:", overlay::ROUTER_CONFIGURATION);
    let router = chapter.step_with(
        "start FRR 8.4 nhrpd on router: zero touch",
        "the hub has its binding, no line of ours names it, its tunnel address answers",
        || {
            let router = overlay::start_router(scene)?;
            let address: IpAddr = ROUTER.into();
            let nbma = IpAddr::from(scene.site("router")?.nbma());
            wait::until(SOON, "the router at the hub", || {
                let tunnel = overlay.hub.tunnel(NETWORK)?;
                let found = tunnel.peers.iter().any(|p| p.address == address && p.nbma == Some(nbma));
                wait::ensure(found, || format!("{:?}", tunnel.peers))
            })?;
            let ping = Ping::start(&hub_site.host, address, 5, Duration::from_millis(10))?.finish()?;
            ping.ensure_nothing_lost()?;
            Ok((router, format!("{ROUTER} registered from {nbma}; ping from the hub: {ping}")))
        },
    )?;
    let lan = scene.site("router")?.plan.lan;
    chapter.step(
        "name the router's LAN at the hub: one External DmvpnSpoke (router.yaml), read while the agent runs",
        "a route to it at the hub, and at both branches without an edit there",
        || {
            overlay.hub.write("router.yaml", &overlay::quickstart("router.yaml")?)?;
            let mut seen = Vec::new();
            for agent in [&overlay.hub, &overlay.branch_a, &overlay.branch_b] {
                let host = agent.host();
                let line = wait::until(SOON, &format!("the route to {lan} at {}", host.name()), || {
                    let text = host.run(&["ip", "route", "show", &lan.to_string()])?;
                    ensure!(text.contains(TUNNEL), "{text:?}");
                    Ok(text.trim().to_owned())
                })?;
                seen.push(format!("{}: {line}", host.name()));
            }
            Ok(seen.join("\n"))
        },
    )?;
    Ok((overlay, router))
}
