//! Phase 1: a spoke's tunnel is point-to-point GRE to its hub, and everything goes by the hub. Then the network becomes one
//! of Phase 3 and back, by one word of YAML.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::groups::{self, Listener};
use e2e::lab::peek::NhrpKind;
use e2e::lab::{Agent, Capture, Ping, ping};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::overlay::{self, BRANCH_B, NETWORK, Overlay, TUNNEL};
use e2e::scene::{Scene, Site};
use e2e::wait;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);

fn phase1(network: String) -> String {
    network.replace("phase: Phase3", "phase: Phase1")
}

/// Until the kernel of `agent` routes to `target` by the tunnel.
fn until_routed(agent: &Agent, target: std::net::Ipv4Addr) -> Result<()> {
    wait::until(SOON, &format!("a route to {target} at {}", agent.host().name()), || {
        let way = agent.host().run(&["ip", "route", "get", &target.to_string()])?;
        wait::ensure(way.contains(&format!("dev {TUNNEL}")), || way)
    })
}

#[test]
fn everything_goes_by_the_hub() {
    ring3_with(Needs { deadline: Duration::from_secs(180), ..Needs::default() }, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
        let capture = Capture::start(&scene.isp, &scene.uplink(a), "proto gre")?;
        let mut overlay = Overlay::start_with(&scene, phase1)?;
        for (agent, other) in [(&overlay.branch_a, b), (&overlay.branch_b, a)] {
            let tunnel = agent.wait_until_up(NETWORK, SOON)?;
            ensure!(tunnel.destination == Some(hub.nbma().into()), "{:?}", tunnel.destination);
            let link = agent.host().ip_json(&format!("-d link show dev {TUNNEL}"))?;
            let remote = &link[0]["linkinfo"]["info_data"]["remote"];
            ensure!(*remote == hub.nbma().to_string().as_str(), "{link}");
            until_routed(agent, other.lan_host())?;
            let neighbours = agent.host().ip_json(&format!("neigh show nud permanent dev {TUNNEL}"))?;
            ensure!(neighbours.as_array().is_none_or(Vec::is_empty), "{neighbours}");
        }
        ensure!(overlay.hub.tunnel(NETWORK)?.destination.is_none(), "the hub is multipoint");
        let (there, back) =
            ping::both_ways((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()), 200, TEN_MS)?;
        println!("a → b: {there}\nb → a: {back}");
        for report in [&there, &back] {
            report.ensure_nothing_lost()?;
            ensure!(report.hops() == Some((3, 3)), "{report}");
        }
        Ping::start(&a.host, BRANCH_B.into(), 5, TEN_MS)?.finish()?.ensure_nothing_lost()?;

        // The agent dies and comes back: nobody notices.
        let pings = Ping::start(&a.lan, b.lan_host().into(), 300, TEN_MS)?;
        overlay.branch_a.kill()?;
        overlay.branch_a.restart()?;
        overlay.branch_a.wait_until_up(NETWORK, SOON)?;
        pings.finish()?.ensure_nothing_lost()?;
        // No redirect, no question, nothing past the hub.
        let packets = capture.stop()?;
        for kind in [NhrpKind::TrafficIndication, NhrpKind::ResolutionRequest, NhrpKind::ResolutionReply] {
            let count = packets.iter().filter(|p| p.is_nhrp(kind)).count();
            ensure!(count == 0, "{count} {kind:?}");
        }
        let stray = packets.iter().find(|p| {
            !p.is_between(a.nbma().into(), hub.nbma().into())
                && !p.is_between(hub.nbma().into(), a.nbma().into())
        });
        ensure!(stray.is_none(), "not between branch and hub: {stray:?}");

        // One word on every box: now it is a network of Phase 3, and Phase 1 again.
        let network = overlay::quickstart("network.yaml")?;
        for (text, hops) in [(network.clone(), 2), (phase1(network), 3)] {
            for agent in [&overlay.hub, &overlay.branch_a, &overlay.branch_b] {
                agent.write("network.yaml", &text)?;
            }
            wait::until(SOON, &format!("a path of {hops} routers"), || {
                let report = Ping::start(&a.lan, b.lan_host().into(), 5, TEN_MS)?.finish()?;
                report.ensure_nothing_lost()?;
                ensure!(report.hops().is_some_and(|(_, now)| now == hops), "{report}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

/// There is a second hub, and the first tells of it: a branch has the other end of its tunnel and nobody else. Multicast
/// goes by the kernel from a branch and by the agent from a hub, once each.
#[test]
fn one_hub_whatever_is_told_and_multicast_once() {
    ring3_with(Needs { memory_mib: 768, deadline: Duration::from_secs(180) }, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, second) = (scene.site("hub")?, scene.site("router")?);
        let (a, b) = (scene.site("branch-a")?, scene.site("branch-b")?);
        let two_hubs = |network: String| {
            let other = format!(
                "  - name: hub2\n    overlayAddresses: [10.255.0.2]\n    nbma: [{{address: {}}}]\n  tunnel:\n",
                second.nbma()
            );
            let multicast = "    networkId: 100\n    multicast: {mode: Dynamic}\n";
            phase1(network).replace("  tunnel:\n", &other).replace("    networkId: 100\n", multicast)
        };
        let capture = Capture::start(&scene.isp, &scene.uplink(second), "proto gre")?;
        let overlay = Overlay::start_with(&scene, two_hubs)?;
        let files = [("network.yaml".to_owned(), two_hubs(overlay::quickstart("network.yaml")?))];
        let other = Agent::start(&second.host, &["dmvpn.io/hub=hub2"], &files.into())?;
        for agent in [&overlay.branch_a, &overlay.branch_b] {
            agent.wait_until_up(NETWORK, SOON)?;
        }
        until_routed(&overlay.branch_a, b.lan_host())?;
        Ping::start(&a.lan, b.lan_host().into(), 300, TEN_MS)?.finish()?.ensure_nothing_lost()?;
        ensure!(other.tunnel(NETWORK)?.peers.is_empty(), "{:?}", other.tunnel(NETWORK)?.peers);
        let strays = capture.packets()?;
        ensure!(strays.is_empty(), "sent to the other hub: {strays:?}");

        let group = "224.0.0.100".parse()?;
        let hear = |site: &Site| Listener::start(&site.host, TUNNEL, group);
        let (at_hub, at_a, at_b) = (hear(hub)?, hear(a)?, hear(b)?);
        for (site, texts) in [(hub, ["from-hub", "last-of-hub"]), (a, ["from-a", "last-of-a"])] {
            for text in texts {
                groups::say(&site.host, TUNNEL, group, text)?;
            }
        }
        at_hub.wait_for("last-of-a", SOON)?;
        for listener in [&at_a, &at_b] {
            listener.wait_for("last-of-hub", SOON)?;
        }
        // Each sender hears itself.
        let both = ["from-hub", "last-of-hub", "from-a", "last-of-a"];
        ensure!(at_hub.heard() == both, "at the hub: {:?}", at_hub.heard());
        ensure!(sorted(&at_a) == sorted_of(&both), "at a: {:?}", at_a.heard());
        ensure!(at_b.heard() == both[..2], "at b: {:?}", at_b.heard());
        Ok(())
    });
}

fn sorted(listener: &Listener) -> Vec<String> {
    sorted_of(&listener.heard())
}

fn sorted_of(texts: &[impl ToString]) -> Vec<String> {
    let mut all: Vec<_> = texts.iter().map(ToString::to_string).collect();
    all.sort();
    all
}
