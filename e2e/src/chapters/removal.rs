//! Chapter 6: a branch's YAML is removed: the Purge on the wire, the hub forgets, the kernel is as it was before.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::lab::Capture;
use crate::lab::peek::NhrpKind;
use crate::scene::Scene;
use crate::scene::overlay::{BRANCH_A, NETWORK, Overlay, TUNNEL};
use crate::story::Chapter;
use crate::wait;

/// The hub's part, with a holding time of 600 s.
const FORGETS: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);

pub(super) fn tell(chapter: &mut Chapter, scene: &Scene, overlay: &Overlay) -> Result<()> {
    let (a, hub) = (scene.site("branch-a")?, scene.site("hub")?);
    let capture = Capture::start(&hub.host, "wan0", "proto gre")?;
    let held = overlay.hub.tunnel(NETWORK)?.holding_time;
    chapter.step(
        "remove branch-a.yaml at branch-a (holding time 600 s)",
        "the hub's kernel forgets its tunnel address and its LAN within 1 s",
        || {
            ensure!(held == 600, "holding time {held} s");
            let gone = || -> Result<()> {
                let neighbour =
                    hub.host.run(&["ip", "neighbour", "show", &BRANCH_A.to_string(), "dev", TUNNEL])?;
                ensure!(neighbour.trim().is_empty(), "{neighbour}");
                let route = hub.host.run(&["ip", "route", "show", &a.plan.lan.to_string()])?;
                ensure!(route.trim().is_empty(), "{route}");
                Ok(())
            };
            ensure!(gone().is_err(), "the hub does not know branch-a even before");
            let start = Instant::now();
            overlay.branch_a.remove("branch-a.yaml")?;
            wait::until(SOON, "the hub to forget branch-a", gone)?;
            let took = start.elapsed();
            ensure!(took <= FORGETS, "the hub forgot after {} ms", took.as_millis());
            Ok(format!("forgotten {} ms after the file was removed", took.as_millis()))
        },
    )?;
    chapter.step(
        "the Purge is on the wire",
        "request from branch-a's NBMA address, reply from the hub's",
        || {
            let (from, to): (IpAddr, IpAddr) = (a.nbma().into(), hub.nbma().into());
            let request = capture.wait_for(SOON, "the purge request", |p| {
                p.is_nhrp(NhrpKind::PurgeRequest) && p.is_between(from, to)
            })?;
            let reply = capture.wait_for(SOON, "the purge reply", |p| {
                p.is_nhrp(NhrpKind::PurgeReply) && p.is_between(to, from)
            })?;
            let took = reply.time.saturating_sub(request.time);
            Ok(format!("{from} → {to}, acknowledged after {:.1} ms", took.as_secs_f64() * 1e3))
        },
    )?;
    chapter.step(
        "branch-b, which had a direct path to branch-a, is told too",
        "no neighbour and no route to branch-a's LAN is left there",
        || {
            let b = overlay.branch_b.host();
            wait::until(SOON, "branch-b to forget branch-a", || {
                let neighbour = b.run(&["ip", "neighbour", "show", &BRANCH_A.to_string(), "dev", TUNNEL])?;
                let route = b.run(&["ip", "route", "show", &a.plan.lan.to_string()])?;
                ensure!(neighbour.trim().is_empty() && route.trim().is_empty(), "{neighbour}{route}");
                Ok(())
            })?;
            Ok("forgotten".to_owned())
        },
    )?;
    chapter.step(
        "compare branch-a's kernel tables with the dump taken before its agent first ran",
        "equal: link, address, route, rule, neighbour, xfrm, nft, sysctl",
        || {
            let mut entries = 0;
            wait::until(SOON, "branch-a's kernel to be as before", || {
                let now = a.host.dump()?;
                entries = now.len();
                overlay.before_a.ensure_equal(&now)
            })?;
            Ok(format!("equal in all {entries} entries"))
        },
    )?;
    Ok(())
}
