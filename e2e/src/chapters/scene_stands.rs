//! Chapter 1: hosts, LANs and the isp; the underlay carries packets, and nothing joins the LANs yet.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::{Lab, Ping};
use crate::scene::Scene;
use crate::story::Chapter;

pub(super) fn tell(chapter: &mut Chapter, lab: &Lab) -> Result<Scene> {
    let scene = chapter.step_with(
        "make the hosts hub, branch-a, branch-b and router, each with a LAN, and the isp between them",
        "nine network namespaces",
        || {
            let scene = Scene::build(lab)?;
            let mut names: Vec<String> = lab.hosts().iter().map(|h| h.name().to_owned()).collect();
            // Those of the clusters' management links come later in the story.
            names.retain(|name| !name.starts_with("mgmt-"));
            ensure!(names.len() == 9, "{} hosts", names.len());
            Ok((scene, names.join(", ")))
        },
    )?;
    chapter.step("each branch pings the hub over the isp, IPv4 and IPv6", "every ping answered", || {
        let hub = scene.site("hub")?;
        let mut seen = Vec::new();
        for site in scene.sites().iter().filter(|s| s.plan.name != "hub") {
            for target in [hub.nbma().into(), hub.nbma6().into()] {
                let report = Ping::start(&site.host, target, 3, Duration::from_millis(10))?.finish()?;
                report.ensure_nothing_lost()?;
                seen.push(format!("{} → {target}: {} of {}", site.plan.name, report.received, report.sent));
            }
        }
        Ok(seen.join("\n"))
    })?;
    chapter.step("each LAN host pings its own router", "every ping answered", || {
        let mut seen = Vec::new();
        for site in scene.sites() {
            let report =
                Ping::start(&site.lan, site.nbma().into(), 3, Duration::from_millis(10))?.finish()?;
            report.ensure_nothing_lost()?;
            seen.push(format!("{}: {} of {}", site.lan.name(), report.received, report.sent));
        }
        Ok(seen.join(", "))
    })?;
    chapter.step(
        "LAN of branch-a pings the LANs of hub, branch-b and router",
        "no answer: the isp has no route to a LAN",
        || {
            let from = &scene.site("branch-a")?.lan;
            // All at the same time: ping waits two seconds for an answer that must not come.
            let mut running = Vec::new();
            for name in ["hub", "branch-b", "router"] {
                let target = scene.site(name)?.lan_host();
                running.push((name, Ping::start(from, target.into(), 3, Duration::from_millis(10))?));
            }
            let mut seen = Vec::new();
            for (name, ping) in running {
                let report = ping.finish()?;
                ensure!(report.received == 0, "{} answered {} pings", report.target, report.received);
                seen.push(format!("{name}: 0 of {}", report.sent));
            }
            Ok(seen.join(", "))
        },
    )?;
    Ok(scene)
}
