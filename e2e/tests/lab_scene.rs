//! The scene's underlay, and the ping that measures it.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::Lab;
use e2e::lab::{Ping, ping};
use e2e::ring3;
use e2e::scene::Scene;

const TEN_MS: Duration = Duration::from_millis(10);

#[test]
fn sites_reach_each_other_by_nbma_and_lans_do_not() {
    ring3(|lab| {
        let scene = Scene::build(lab)?;
        ensure!(scene.sites().len() == 4, "{} sites", scene.sites().len());
        for a in scene.sites() {
            for b in scene.sites().iter().filter(|b| b.plan.name != a.plan.name) {
                for target in [b.nbma().into(), b.nbma6().into()] {
                    let report = Ping::start(&a.host, target, 2, TEN_MS)?.finish()?;
                    report.ensure_nothing_lost()?;
                    ensure!(report.hops() == Some((1, 1)), "{} → {}: {report}", a.plan.name, b.plan.name);
                }
            }
        }
        let (a, b) = (scene.site("branch-a")?, scene.site("branch-b")?);
        let (there, back) =
            ping::both_ways((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()), 2, TEN_MS)?;
        ensure!((there.received, back.received) == (0, 0), "{there} / {back}");
        Ok(())
    });
}

#[test]
fn a_ping_sees_delay_loss_and_a_change_of_path() {
    ring3(|lab| {
        let scene = Scene::build(lab)?;
        let (hub, branch) = (scene.site("hub")?, scene.site("branch-a")?);
        let uplink = scene.uplink(hub);
        scene.isp.netem(&uplink, "delay 30ms")?;
        let report = Ping::start(&branch.host, hub.nbma().into(), 5, TEN_MS)?.finish()?;
        report.ensure_nothing_lost()?;
        let fastest = report.replies.iter().map(|r| r.round_trip).min().unwrap_or_default();
        ensure!(fastest >= Duration::from_millis(30), "{fastest:?}");

        scene.isp.netem(&uplink, "loss 100%")?;
        let report = Ping::start(&branch.host, hub.nbma().into(), 5, TEN_MS)?.finish()?;
        ensure!(report.lost() == 5 && report.missing() == [1, 2, 3, 4, 5], "{report}");
        ensure!(report.ensure_nothing_lost().is_err(), "a loss passed for none");
        scene.isp.netem(&uplink, "delay 0ms")?;

        second_path(lab, &scene)
    });
}

/// A direct link between two sites appears under a running ping: one hop less, nothing lost.
fn second_path(lab: &Lab, scene: &Scene) -> Result<()> {
    let (hub, branch) = (scene.site("hub")?, scene.site("branch-a")?);
    let ping = Ping::start(&branch.host, hub.nbma().into(), 100, TEN_MS)?;
    ping.wait_for_reply(20, Duration::from_secs(20))?;
    lab.link(&hub.host, "direct", &branch.host, "direct")?;
    hub.host.ip("addr add 172.16.0.1/30 dev direct")?;
    branch.host.ip("addr add 172.16.0.2/30 dev direct")?;
    hub.host.ip("route add 198.51.100.2/32 via 172.16.0.2")?;
    branch.host.ip("route add 192.0.2.2/32 via 172.16.0.1")?;
    let report = ping.finish()?;
    report.ensure_nothing_lost()?;
    ensure!(report.hops() == Some((1, 0)), "{report}");
    let (reply, _) = report.switch().ok_or_else(|| anyhow::anyhow!("no switch: {report}"))?;
    ensure!(reply.sequence > 20, "{report}");
    Ok(())
}
