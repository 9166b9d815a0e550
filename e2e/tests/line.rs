//! The tunnel's line: an MTU that follows the underlay's, and a line protocol that follows the hubs.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::Host;
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::Scene;
use e2e::scene::overlay::{HUB, NETWORK, Overlay, TUNNEL};
use e2e::wait;

const SOON: Duration = Duration::from_secs(20);
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(180) };
/// Outer IPv4 header, GRE and key.
const OVERHEAD: u32 = 20 + 4 + 4;
/// Inner IPv4 and ICMP headers.
const PING: u32 = 20 + 8;

/// What comes of one ping that must not be cut, of `size` bytes with its headers.
fn ping(host: &Host, size: u32) -> Result<String> {
    host.sh(&format!("ping -c1 -W2 -M do -s {} {HUB} 2>&1 || true", size - PING))
}

#[test]
fn the_mtu_follows_the_underlay() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let branch = scene.site("branch-a")?;
        branch.host.ip("link set wan0 mtu 1492")?;
        let overlay = Overlay::start_with(&scene, |network| {
            network.replace("    key: 100\n", "    key: 100\n    mtuPolicy: Auto\n")
        })?;
        let agent = &overlay.branch_a;
        agent.wait_until_up(NETWORK, SOON)?;
        for underlay in [1492, 1300, 1500] {
            branch.host.ip(&format!("link set wan0 mtu {underlay}"))?;
            let mtu = underlay - OVERHEAD;
            wait::until(SOON, &format!("an MTU of {mtu}"), || {
                let link = &agent.host().ip_json(&format!("link show dev {TUNNEL}"))?[0];
                ensure!(link["mtu"] == mtu, "{link}");
                let told = agent.tunnel(NETWORK)?.mtu;
                ensure!(told == mtu, "told {told}");
                let rules = agent.host().run(&["nft", "list", "table", "inet", "dmvpn_branches"])?;
                wait::ensure(rules.contains(&format!("maxseg size set {}", mtu - 40)), || rules)
            })?;
            // As much as that passes; one byte more is refused here, and not lost somewhere.
            let passed = ping(&agent.host().clone(), mtu)?;
            ensure!(passed.contains("1 received"), "{mtu}: {passed}");
            let refused = ping(agent.host(), mtu + 1)?;
            ensure!(refused.contains(&format!("mtu={mtu}")) || refused.contains("too long"), "{refused}");
        }
        let hub = overlay.hub.tunnel(NETWORK)?.mtu;
        ensure!(hub == 1500 - OVERHEAD, "the hub's: {hub}");
        Ok(())
    });
}

#[test]
fn the_line_follows_the_hubs() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let hub_lan = scene.site("hub")?.lan_host();
        let mut overlay = Overlay::start_with(&scene, |network| {
            network
                .replace("    key: 100\n", "    key: 100\n    interfaceState: FollowNHS\n")
                .replace("holdTimeSeconds: 600", "holdTimeSeconds: 9")
        })?;
        let line = |overlay: &Overlay, up: bool| {
            wait::until(SOON, &format!("the line to be up: {up}"), || {
                let agent = &overlay.branch_a;
                ensure!(agent.tunnel(NETWORK)?.line_up == up, "told otherwise");
                let way = agent.host().sh(&format!("ip route get {hub_lan} 2>&1 || true"))?;
                wait::ensure(way.contains(&format!("dev {TUNNEL}")) == up, || way)
            })
        };
        overlay.branch_a.wait_until_up(NETWORK, SOON)?;
        line(&overlay, true)?;
        let detail = overlay.branch_a.cli("show dmvpn detail")?;
        ensure!(detail.contains("Interface State Control: Enabled"), "{detail}");
        // An agent that starts again is no reason.
        let pings = e2e::lab::Ping::start(
            &scene.site("branch-a")?.lan,
            hub_lan.into(),
            300,
            Duration::from_millis(10),
        )?;
        overlay.branch_a.kill()?;
        overlay.branch_a.restart()?;
        overlay.branch_a.wait_until_up(NETWORK, SOON)?;
        pings.finish()?.ensure_nothing_lost()?;

        scene.isp.nft(
            "table inet block { chain f { type filter hook forward priority 0; meta l4proto gre drop; }; }",
        )?;
        line(&overlay, false)?;
        let shown = overlay.branch_a.cli("show dmvpn detail")?;
        ensure!(shown.contains("is up/down"), "{shown}");
        scene.isp.nft("delete table inet block")?;
        line(&overlay, true)
    });
}
