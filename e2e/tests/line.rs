//! The tunnel's line: an MTU that follows the underlay's, a line protocol that follows the hubs, a DSCP that shows outside.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::{Agent, Capture, Host};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::Scene;
use e2e::scene::overlay::{HUB, NETWORK, Overlay, TUNNEL, link_index, quickstart};
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

/// Of both overlays' packets, both ways; and no more when it is not asked for, without a new link.
#[test]
fn outer_packets_bear_the_dscp_of_inner_ones() {
    ring3_with(NEEDS, |lab| {
        const TOS: u8 = 0xb8;
        const HUB6: &str = "fd00:255::1";
        let scene = Scene::build(lab)?;
        let copies = |policy: &str| {
            let network = quickstart("network.yaml")?
                .replace("    key: 100\n", &format!("    key: 100\n    dscpPolicy: {policy}\n"))
                .replace("overlay: [10.255.0.0/16]", "overlay: [10.255.0.0/16, 'fd00:255::/64']")
                .replace(
                    "overlayAddresses: [10.255.0.1]",
                    &format!("overlayAddresses: [10.255.0.1, '{HUB6}']"),
                );
            ensure!(network.contains(HUB6), "{network}");
            anyhow::Ok(network)
        };
        let files = |policy: &str, own: &str| {
            let own_text = quickstart(own)?.replace(
                "overlayAddresses: [10.255.0.11]",
                "overlayAddresses: [10.255.0.11, 'fd00:255::11']",
            );
            anyhow::Ok(BTreeMap::from([
                ("network.yaml".to_owned(), copies(policy)?),
                (own.to_owned(), own_text),
            ]))
        };
        let hub =
            Agent::start(&scene.site("hub")?.host, &["dmvpn.io/hub=hub1"], &files("Copy", "hub-lan.yaml")?)?;
        let host = &scene.site("branch-a")?.host;
        let branch = Agent::start(host, &[], &files("Copy", "branch-a.yaml")?)?;
        branch.wait_until_up(NETWORK, SOON)?;
        let index = link_index(host, TUNNEL)?;
        let outer = |want: u8| -> Result<()> {
            let capture = Capture::start(host, "wan0", "proto 47")?;
            let (ours, hubs) = (scene.site("branch-a")?.nbma().into(), scene.site("hub")?.nbma().into());
            for to in [HUB.to_string(), HUB6.to_owned()] {
                wait::until(SOON, "an answer", || {
                    host.run(&["ping", "-c1", "-W2", "-Q", &format!("{TOS:#x}"), &to])
                })?;
                let family = to.contains(':');
                for (from, to) in [(ours, hubs), (hubs, ours)] {
                    let seen = capture.wait_for(SOON, "a ping in GRE", |p| {
                        let inner = p.inner.is_some_and(|ip| ip.tos == TOS && ip.source.is_ipv6() == family);
                        p.is_between(from, to) && inner
                    })?;
                    let tos = seen.ip.map(|ip| (ip.tos, ip.ttl >= 250));
                    ensure!(tos == Some((want, true)), "not {want:#x}: {seen} {tos:?}");
                }
            }
            Ok(())
        };
        outer(TOS)?;
        for agent in [&hub, &branch] {
            agent.write("network.yaml", &copies("Clear")?)?;
            wait::until(SOON, "a TOS of 0", || {
                let link = agent.host().run(&["ip", "-d", "link", "show", TUNNEL])?;
                wait::ensure(!link.contains("tos inherit"), || link)
            })?;
        }
        outer(0)?;
        ensure!(link_index(host, TUNNEL)? == index, "another link");
        Ok(())
    });
}
