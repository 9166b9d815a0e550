//! Plain point-to-point GRE without NHRP: between two agents of ours, with keepalives as Cisco has them, and to a tunnel
//! that somebody made with `ip`.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::{Agent, Capture, Ping, ping};
use e2e::ring3::Needs;
use e2e::scene::overlay::{self, Overlay};
use e2e::scene::{Scene, Site};
use e2e::{paths, ring3_with, wait};
use view::State;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);
const NETWORK: &str = "lease";
const LINK: &str = "dm-lease";
const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 254, 0, 1), Ipv4Addr::new(10, 254, 0, 2)];
const KEY: u32 = 7;

fn example(file: &str) -> Result<String> {
    let path = paths::repository().join("examples/plain-gre").join(file);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn network(period: u8) -> Result<String> {
    Ok(example("network.yaml")?.replace("periodSeconds: 10", &format!("periodSeconds: {period}")))
}

fn start(site: &Site, labels: &[&str], network: &str, spoke: Option<&str>) -> Result<Agent> {
    let files = [("network.yaml".to_owned(), network.to_owned())];
    let spoke = spoke.map(|text| ("r31.yaml".to_owned(), text.to_owned()));
    Agent::start(&site.host, labels, &files.into_iter().chain(spoke).collect::<BTreeMap<_, _>>())
}

/// Which link the kernel of `site` sends to `target` by.
fn way(site: &Site, target: Ipv4Addr) -> Result<String> {
    site.host.sh(&format!("ip route get {target} 2>&1 || true"))
}

#[test]
fn two_ends_with_static_routes_and_keepalives() {
    ring3_with(Needs { deadline: Duration::from_secs(180), ..Needs::default() }, |lab| {
        let scene = Scene::build(lab)?;
        let (r11, r31) = (scene.site("hub")?, scene.site("branch-a")?);
        let before = [r11.host.dump()?, r31.host.dump()?];
        let capture = Capture::start(&scene.isp, &scene.uplink(r31), "proto gre")?;
        let text = network(1)?;
        let spoke = example("r31.yaml")?;
        let a = start(r11, &["dmvpn.io/hub=r11"], &text, None)?;
        let b = start(r31, &[], &text, Some(&spoke))?;
        for (agent, other) in [(&a, r31), (&b, r11)] {
            let tunnel = agent.wait_until_up(NETWORK, SOON)?;
            ensure!(tunnel.destination == Some(other.nbma().into()), "{:?}", tunnel.destination);
            let link = agent.host().ip_json(&format!("-d link show dev {LINK}"))?;
            let data = &link[0]["linkinfo"]["info_data"];
            ensure!(data["remote"] == other.nbma().to_string().as_str(), "{link}");
            let shown = agent.cli("show dmvpn")?;
            ensure!(shown.contains(&other.nbma().to_string()) && shown.contains("UP"), "{shown}");
        }
        let ends = [(&r11.lan, r11.lan_host().into()), (&r31.lan, r31.lan_host().into())];
        let (there, back) = ping::both_ways(ends[0], ends[1], 200, TEN_MS)?;
        for report in [&there, &back] {
            report.ensure_nothing_lost()?;
        }
        for (site, other) in [(r11, ENDS[1]), (r31, ENDS[0])] {
            Ping::start(&site.host, other.into(), 5, TEN_MS)?.finish()?.ensure_nothing_lost()?;
        }

        // On the wire: GRE that holds an IP packet from the other end to the asker with GRE in it, and, as the answer, that
        // packet by itself.
        let (hub, branch) = (r11.nbma(), r31.nbma());
        let asks = capture.wait_for(SOON, "a keepalive", |p| {
            let home =
                |ip: e2e::lab::peek::Ip| ip.protocol == 47 && ip.source == hub && ip.destination == branch;
            p.is_between(branch.into(), hub.into()) && p.inner.is_some_and(home)
        })?;
        ensure!(asks.gre.is_some_and(|gre| gre.protocol == 0x0800 && gre.key == Some(KEY)), "{asks}");
        let home = capture.wait_for(SOON, "it on its way home", |p| {
            p.is_between(hub.into(), branch.into()) && p.gre.is_some_and(|gre| gre.protocol == 0)
        })?;
        ensure!(home.gre.is_some_and(|gre| gre.key == Some(KEY)) && home.time > asks.time, "{asks}; {home}");
        for agent in [&a, &b] {
            wait::until(SOON, "keepalives both ways", || {
                let keepalive = agent.tunnel(NETWORK)?.keepalive.context("no keepalives")?;
                ensure!(keepalive.returned >= 3 && keepalive.answered >= 3, "{keepalive:?}");
                ensure!(keepalive.sent - keepalive.returned <= 2, "{keepalive:?}");
                Ok(())
            })?;
        }
        let shown = b.cli("show dmvpn detail")?;
        ensure!(shown.contains("Keepalive set (1 sec), retries 3"), "{shown}");

        // Blocked: three missed, and both ends take their routes away.
        let blocked = Instant::now();
        scene.isp.nft(
            "table inet block { chain f { type filter hook forward priority 0; meta l4proto gre drop; }; }",
        )?;
        for (agent, site, other) in [(&a, r11, r31), (&b, r31, r11)] {
            let tunnel = agent.wait_for_state(NETWORK, State::Intf, "KeepaliveLost", SOON)?;
            ensure!(!tunnel.line_up && tunnel.message.contains("did not come back"), "{}", tunnel.message);
            let took = blocked.elapsed();
            ensure!(took > Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
            wait::until(SOON, "routes to be gone", || {
                let way = way(site, other.lan_host())?;
                wait::ensure(!way.contains(LINK), || way)
            })?;
        }
        println!("both down after {:.1} s with a period of 1 s", blocked.elapsed().as_secs_f64());
        scene.isp.nft("delete table inet block")?;
        let back = Instant::now();
        for (agent, site, other) in [(&a, r11, r31), (&b, r31, r11)] {
            agent.wait_until_up(NETWORK, SOON)?;
            wait::until(SOON, "routes to be back", || {
                let way = way(site, other.lan_host())?;
                wait::ensure(way.contains(LINK), || way)
            })?;
        }
        println!("both up again after {:.1} s", back.elapsed().as_secs_f64());
        let (there, back) = ping::both_ways(ends[0], ends[1], 100, TEN_MS)?;
        there.ensure_nothing_lost()?;
        back.ensure_nothing_lost()?;
        let packets = capture.stop()?;
        ensure!(packets.iter().all(|p| p.nhrp.is_none()), "NHRP without NHRP");

        // Removed: as it was.
        for (agent, site, before) in [(&a, r11, &before[0]), (&b, r31, &before[1])] {
            agent.remove("network.yaml")?;
            wait::until(SOON, "nothing to be left", || before.ensure_equal(&site.host.dump()?))?;
        }
        Ok(())
    });
}

/// The other end is somebody's `ip tunnel add`, which says nothing and answers no keepalive.
#[test]
fn to_a_tunnel_made_by_hand() {
    ring3_with(Needs { deadline: Duration::from_secs(120), ..Needs::default() }, |lab| {
        let scene = Scene::build(lab)?;
        let (ours, other) = (scene.site("hub")?, scene.site("branch-a")?);
        let text = network(1)?;
        let without = text
            .lines()
            .filter(|line| !line.contains("keepalive") && !line.contains("Three missed"))
            .map(|line| format!("{line}\n"))
            .collect::<String>();
        let [us, them] = ENDS;
        for line in [
            format!("link add gre1 type gre local {} remote {} key {KEY}", other.nbma(), ours.nbma()),
            format!("addr add {them} peer {us} dev gre1"),
            "link set gre1 up".to_owned(),
            format!("route add {} dev gre1", "10.10.0.0/24"),
        ] {
            other.host.ip(&line)?;
        }
        let agent = start(ours, &["dmvpn.io/hub=r11"], &without, None)?;
        agent.wait_until_up(NETWORK, SOON)?;
        let ends = [(&ours.lan, ours.lan_host().into()), (&other.lan, other.lan_host().into())];
        let (there, back) = ping::both_ways(ends[0], ends[1], 200, TEN_MS)?;
        there.ensure_nothing_lost()?;
        back.ensure_nothing_lost()?;
        // Asked for keepalives, it has none to give: that is said, and the tunnel is not used.
        agent.write("network.yaml", &text)?;
        let tunnel = agent.wait_for_state(NETWORK, State::Intf, "KeepaliveLost", SOON)?;
        ensure!(tunnel.message.contains("answers keepalives"), "{}", tunnel.message);
        agent.write("network.yaml", &without)?;
        agent.wait_until_up(NETWORK, SOON)?;
        Ping::start(&ours.lan, other.lan_host().into(), 20, TEN_MS)?.finish()?.ensure_nothing_lost()
    });
}

/// A spoke of Phase 1 watches its hub in the same way; the hub's link is multipoint, and it has many spokes.
#[test]
fn a_multipoint_hub_answers_its_spokes() {
    ring3_with(Needs { deadline: Duration::from_secs(120), ..Needs::default() }, |lab| {
        let scene = Scene::build(lab)?;
        let overlay = Overlay::start_with(&scene, |network| {
            let keepalive = "    key: 100\n    keepalive: {periodSeconds: 1, retries: 2}\n";
            network.replace("phase: Phase3", "phase: Phase1").replace("    key: 100\n", keepalive)
        })?;
        let keepalive = |agent: &Agent| -> Result<view::Keepalive> {
            agent.tunnel(overlay::NETWORK)?.keepalive.context("no keepalives")
        };
        for agent in [&overlay.branch_a, &overlay.branch_b] {
            agent.wait_until_up(overlay::NETWORK, SOON)?;
            wait::until(SOON, "three back", || {
                let seen = keepalive(agent)?;
                wait::ensure(seen.returned >= 3 && seen.answered == 0, || format!("{seen:?}"))
            })?;
        }
        let hub = keepalive(&overlay.hub)?;
        ensure!(hub.answered >= 6 && hub.sent == 0, "{hub:?}");
        // The hub's link goes down and is put up again: all is as before.
        let before = keepalive(&overlay.branch_a)?.returned;
        overlay.hub.host().ip(&format!("link set {} down", overlay::TUNNEL))?;
        wait::until(SOON, "three back again", || {
            let seen = keepalive(&overlay.branch_a)?;
            wait::ensure(seen.returned >= before + 3, || format!("{seen:?}"))
        })?;
        overlay.branch_a.wait_until_up(overlay::NETWORK, SOON).map(drop)
    });
}
