//! Tunnels under IPsec, with stock strongSwan: what is on the wire from the first moment to the last.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::charon::Charon;
use e2e::lab::inject::{self, in_gre};
use e2e::lab::{Agent, Capture, Host, Lab, Ping};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::branches::{self, Branches};
use e2e::scene::overlay::{self, KEY, NETWORK, Overlay, TUNNEL};
use e2e::scene::wire::{self, FORGER, Wire};
use e2e::scene::{Scene, Site};
use e2e::{paths, wait};
use vici::Message;
use view::State;

const SOON: Duration = Duration::from_secs(30);
const TEN_MS: Duration = Duration::from_millis(10);
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(240) };
const UNTIL_STOPPED: u32 = 20_000;
/// What the agent says when it has loaded or unloaded a key.
const KEYS: &str = "pre-shared key";

fn example() -> Result<String> {
    let path = paths::repository().join("examples/ipsec/network.yaml");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The key of the example.
fn key() -> Result<String> {
    let text = example()?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("psk: "));
    line.map(str::to_owned).context("the example has a key")
}

/// How many packets the rules of a chain have dropped.
fn dropped(host: &Host, chain: &str) -> Result<u64> {
    let text = host.run(&["nft", "list", "chain", "inet", &format!("dmvpn_{NETWORK}"), chain])?;
    let counts =
        text.split("counter packets ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}

/// Until `from` knows the way to the LAN of `to` by the hub.
fn until_routed(from: &Site, to: &Site) -> Result<()> {
    wait::until(SOON, "the hub to have told the way", || {
        let way = from.host.run(&["ip", "route", "get", &to.lan_host().to_string()])?;
        wait::ensure(way.contains(&format!("via {} dev {TUNNEL}", overlay::HUB)), || way)
    })
}

/// Writes the network of `agent`, and waits until it says once more that it told the daemon.
fn write_and_wait(agent: &Agent, network: &str, what: &str) -> Result<()> {
    let count = || agent.log().matches(what).count();
    let before = count();
    agent.write("network.yaml", network)?;
    wait::until(SOON, what, || wait::ensure(count() > before, || agent.log()))
}

fn ping(a: &Site, b: &Site, count: u32) -> Result<Ping> {
    Ping::start(&a.lan, b.lan_host().into(), count, TEN_MS)
}

/// SPIs of the kernel's SAs, and how often the daemon has renewed IKE.
fn renewed(host: &Host) -> Result<(BTreeSet<String>, usize)> {
    let states = host.run(&["ip", "xfrm", "state"])?;
    let mut words = states.split_whitespace();
    let spis = std::iter::from_fn(|| words.find(|word| *word == "spi").and_then(|_| words.next()));
    let spis = spis.map(str::to_owned).collect();
    let log = fs::read_to_string(host.out().join(format!("{}-charon.txt", host.name())))?;
    Ok((spis, log.matches(" rekeyed between ").count()))
}

#[test]
fn no_clear_gre_from_the_first_packet_to_the_last() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let wire = Wire::tap(&scene)?;
        let example = example()?;
        // First the agents, without a daemon.
        let overlay = Overlay::start_with(&scene, |_| example.clone())?;
        overlay::until_at(&overlay.branch_a, State::Ike, "IkeDaemonAway")?;
        let site = |name: &str| scene.site(name).cloned();
        let (hub, a, b) = (site("hub")?, site("branch-a")?, site("branch-b")?);
        let lost = Ping::start(&a.host, overlay::HUB.into(), 5, TEN_MS)?.finish()?;
        ensure!(lost.replies.is_empty(), "{lost}");
        ensure!(dropped(&a.host, "guard_out")? > 0, "nothing was dropped");
        let _of_hub = Charon::start(&hub.host)?;
        let of_b = Charon::start(&b.host)?;
        let mut of_a = Charon::start(&a.host)?;
        for agent in [&overlay.branch_a, &overlay.branch_b] {
            agent.wait_until_up(NETWORK, SOON)?;
        }
        let mut branches = Branches { scene, overlay };

        // The first packet sets off resolution and IKE; it and those after it lose nothing on their way.
        until_routed(&a, &b)?;
        until_routed(&b, &a)?;
        let report = ping(&a, &b, 300)?.finish()?;
        println!("cold, from LAN to LAN: {report}");
        report.ensure_nothing_lost()?;
        ensure!(report.hops() == Some((3, 2)), "{report}");
        branches.make_direct()?;
        branches.ensure_direct_traffic()?;
        let direct = a.host.run(&["ip", "xfrm", "policy"])?;
        ensure!(direct.contains(&format!("dst {}/32 proto gre", b.nbma())), "{direct}");

        // Clear GRE from one who should protect it is dropped and counted.
        let clear = in_gre(Some(KEY), &[0; 40]);
        let forger = branches.scene.site("router")?;
        ensure!(IpAddr::from(forger.nbma()) == FORGER, "the scene has changed");
        inject::send(&forger.host, forger.nbma(), hub.nbma(), &[clear])?;
        wait::until(SOON, "clear GRE dropped at the hub", || {
            let count = dropped(&hub.host, "guard_in")?;
            wait::ensure(count > 0, || format!("{count} dropped"))
        })?;

        // The agent dies, then the daemon: SAs are the kernel's.
        let pings = ping(&a, &b, 400)?;
        branches.overlay.branch_a.kill()?;
        branches.overlay.branch_a.restart()?;
        branches.overlay.branch_a.wait_until_up(NETWORK, SOON)?;
        of_a.kill()?;
        overlay::until_at(&branches.overlay.branch_a, State::Unknown, "IkeDaemonAway")?;
        pings.finish()?.ensure_nothing_lost()?;
        let pings = ping(&a, &b, 300)?;
        of_a.restart()?;
        branches.overlay.branch_a.wait_until_up(NETWORK, SOON)?;
        println!("a new charon: {}", pings.finish()?);
        wait::until(SOON, "a direct path again", || branches.ensure_direct_traffic())?;

        let secret = key()?;
        let overlay = &branches.overlay;
        for agent in [&overlay.hub, &overlay.branch_a, &overlay.branch_b] {
            let told = agent.log() + &agent.cli("show dmvpn detail")? + &agent.cli("show dmvpn -o json")?;
            ensure!(!told.contains(&secret), "the key is told by {}", agent.host().name());
        }
        // Taken away: the guard outlasts the link, and then all is gone.
        overlay.branch_b.remove("network.yaml")?;
        overlay.branch_b.remove("branch-b.yaml")?;
        wait::until(SOON, "branch-b to be without a tunnel", || {
            let links = b.host.run(&["ip", "-br", "link"])? + &b.host.run(&["nft", "list", "tables"])?;
            wait::ensure(!links.contains(TUNNEL) && !links.contains("dmvpn_"), || links)
        })?;
        wait::until(Duration::from_secs(5), "the IKE daemon of branch-b to hold nothing", || {
            let connections = of_b.call("get-conns", Message::new())?;
            let keys = of_b.call("get-shared", Message::new())?;
            let held = [connections.list("conns"), keys.list("keys")].concat();
            let sas = b.host.run(&["ip", "xfrm", "state"])?;
            wait::ensure(held.is_empty() && !sas.contains("proto esp"), || format!("{held:?}, {sas}"))
        })?;
        branches.overlay.branch_a.stop()?;
        println!("purged: {}", branches::purge(&branches.overlay.branch_a)?);
        let conns = of_a.call("get-conns", Message::new())?;
        ensure!(conns.list("conns").is_empty(), "{:?}", conns.list("conns"));
        wait::until(SOON, "no policy at branch-a", || {
            let policies = a.host.run(&["ip", "xfrm", "policy"])?;
            wait::ensure(!policies.contains("proto gre"), || policies)
        })?;
        let (clear, protected) = wire.stop()?;
        println!("{clear} packets of clear GRE, {protected} of ESP");
        ensure!(clear == 0 && protected > 500, "{clear} of clear GRE, {protected} of ESP");
        Ok(())
    });
}

/// SAs are replaced under traffic, IKE's and ESP's, at both ends; then the hub's daemon goes, and comes again.
#[test]
fn nothing_is_lost_while_keys_are_renewed() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let wire = Wire::tap(&scene)?;
        let example = example()?;
        let daemon = |name: &str| Charon::start(&scene.site(name)?.host);
        let (mut of_hub, of_a, of_b) = (daemon("hub")?, daemon("branch-a")?, daemon("branch-b")?);
        let branches = Branches::start_with(scene, |_| example.clone())?;
        let (a, b) = (branches.a()?.clone(), branches.b()?.clone());
        let to_hub = format!("dmvpn-{NETWORK}/{}", branches.scene.site("hub")?.nbma());
        let pings = ping(&a, &b, UNTIL_STOPPED)?;
        let by_hub = Ping::start(&a.host, overlay::HUB.into(), UNTIL_STOPPED, TEN_MS)?;
        by_hub.wait_for_reply(50, SOON)?;
        for (daemon, host) in [(&of_a, &a.host), (&of_b, &b.host)] {
            for what in [("child", "gre"), ("ike", to_hub.as_str()), ("child", "gre")] {
                let before = renewed(host)?;
                let rekeyed = daemon.call("rekey", Message::new().with(what.0, what.1))?;
                println!("{what:?}: {:?} rekeyed", rekeyed.text("matches"));
                wait::until(SOON, "it to be renewed", || {
                    let now = renewed(host)?;
                    let done = if what.0 == "ike" { now.1 > before.1 } else { !now.0.is_subset(&before.0) };
                    wait::ensure(done, || format!("{before:?}, now {now:?}"))
                })?;
            }
        }
        for pings in [pings, by_hub] {
            pings.wait_for_reply(pings.so_far().sent + 50, SOON)?;
            let report = pings.stop()?;
            println!("while SAs were replaced: {report}");
            report.ensure_nothing_lost()?;
        }
        branches.ensure_direct_traffic()?;
        for host in [&a.host, &b.host, &branches.scene.site("hub")?.host] {
            let counters = host.run(&["cat", "/proc/net/xfrm_stat"])?;
            let errors: Vec<_> =
                counters.lines().filter(|line| !line.ends_with("\t0") && !line.ends_with(" 0")).collect();
            ensure!(counters.lines().count() > 20 && errors.is_empty(), "at {}: {errors:?}", host.name());
        }

        // Stopped, it takes its SAs along and says so to the branches; direct traffic goes on.
        of_hub.stop()?;
        overlay::until_at(&branches.overlay.branch_a, State::Ike, "WaitingForIke")
            .or_else(|_| overlay::until_at(&branches.overlay.branch_a, State::Ike, "IkeNoAnswer"))?;
        branches.ensure_direct_traffic()?;
        of_hub.restart()?;
        for agent in [&branches.overlay.branch_a, &branches.overlay.branch_b] {
            agent.wait_until_up(NETWORK, SOON)?;
        }
        Ping::start(&a.host, overlay::HUB.into(), 20, TEN_MS)?.finish()?.ensure_nothing_lost()?;
        let (clear, protected) = wire.stop()?;
        ensure!(clear == 0 && protected > 1000, "{clear} of clear GRE, {protected} of ESP");
        Ok(())
    });
}

/// A NAT on the way: ESP goes in UDP, and between branches by the hub, which knows the one behind it by the NAT's address.
#[test]
fn behind_a_nat_esp_goes_in_udp() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
        scene.isp.nft(&format!(
            "table ip nat {{\n chain post {{\n type nat hook postrouting priority srcnat; policy accept;\n \
             ip saddr {} masquerade\n }}\n}}\n",
            a.nbma()
        ))?;
        let wire = Wire::tap(&scene)?;
        let encapsulated = Capture::start(&scene.isp, &scene.uplink(hub), "udp port 4500")?;
        let example = example()?;
        let daemon = |name: &str| Charon::start(&scene.site(name)?.host);
        let _daemons = [daemon("hub")?, daemon("branch-a")?, daemon("branch-b")?];
        let overlay = Overlay::start_with(&scene, |_| example.clone())?;
        for agent in [&overlay.branch_a, &overlay.branch_b] {
            agent.wait_until_up(NETWORK, SOON)?;
        }
        for (from, to) in [(a, hub), (a, b), (b, a)] {
            until_routed(from, to)?;
            let report = ping(from, to, 300)?.finish()?;
            println!("{} → {}: {report}", from.plan.name, to.plan.name);
            report.ensure_nothing_lost()?;
        }
        let count = encapsulated.stop()?.len();
        ensure!(count > 600, "{count} packets on UDP 4500");
        let (clear, protected) = wire.stop()?;
        ensure!(clear == 0 && protected > 600, "{clear} of clear GRE, {protected} of ESP");
        Ok(())
    });
}

/// Phase 1: a link to the hub alone, and so one SA; here with ESP in UDP, though there is no NAT.
#[test]
fn point_to_point_is_protected_too() {
    ring3_with(NEEDS, |lab| other_phase(lab, "Phase1", "udpEncapsulation: Always", (3, 3), 17));
}

/// Phase 2: the kernel asks for next hops, and an SA is made with each.
#[test]
fn next_hops_of_phase_2_are_protected_too() {
    ring3_with(NEEDS, |lab| other_phase(lab, "Phase2", "dpdSeconds: 20", (3, 2), 50));
}

/// Up, and pings from LAN to LAN by `hops` routers at first and at last, in packets of `protocol` alone.
fn other_phase(lab: &Lab, phase: &str, setting: &str, hops: (u8, u8), protocol: u8) -> Result<()> {
    let scene = Scene::build(lab)?;
    let wire = Wire::tap(&scene)?;
    let other = Capture::start(&scene.isp, &scene.uplink(scene.site("branch-a")?), wire::FILTER)?;
    let example = example()?
        .replace("phase: Phase3", &format!("phase: {phase}"))
        .replace("    mode: Required", &format!("    mode: Required\n    {setting}"));
    let overlay = Overlay::start_with(&scene, |_| example.clone())?;
    overlay::until_at(&overlay.branch_a, State::Ike, "IkeDaemonAway")?;
    let daemon = |name: &str| Charon::start(&scene.site(name)?.host);
    let _daemons = [daemon("hub")?, daemon("branch-a")?, daemon("branch-b")?];
    for agent in [&overlay.branch_a, &overlay.branch_b] {
        agent.wait_until_up(NETWORK, SOON)?;
    }
    let (a, b) = (scene.site("branch-a")?, scene.site("branch-b")?);
    for (from, to) in [(a, b), (b, a)] {
        wait::until(SOON, "the hub to have told the way", || {
            let way = from.host.run(&["ip", "route", "get", &to.lan_host().to_string()])?;
            wait::ensure(way.contains(&format!("dev {TUNNEL}")), || way)
        })?;
    }
    let report = ping(a, b, 300)?.finish()?;
    println!("{phase}: {report}");
    report.ensure_nothing_lost()?;
    ensure!(report.hops() == Some(hops), "{report}");
    let stray = other.stop()?.into_iter().find(|p| p.ip.is_some_and(|ip| ip.protocol != protocol));
    ensure!(stray.is_none(), "{stray:?}");
    let (clear, protected) = wire.stop()?;
    ensure!(clear == 0 && protected > 300, "{clear} of clear GRE, {protected} of ESP");
    Ok(())
}

/// The same capture where nothing is protected: it sees what there is.
#[test]
fn a_clear_tunnel_is_seen_in_clear() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let wire = Wire::tap(&scene)?;
        let branches = Branches::start(scene)?;
        branches.ensure_direct_traffic()?;
        let (clear, protected) = wire.stop()?;
        ensure!(clear > 0 && protected == 0, "{clear} of clear GRE, {protected} of ESP");
        Ok(())
    });
}

#[test]
fn each_failure_of_ike_has_its_reason() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let wire = Wire::tap(&scene)?;
        let example = example()?;
        let mut of_hub = Charon::start(&scene.site("hub")?.host)?;
        let mut of_a = Charon::start(&scene.site("branch-a")?.host)?;
        let mut of_b = Charon::start(&scene.site("branch-b")?.host)?;
        let overlay = Overlay::start_with(&scene, |_| example.clone())?;
        let a = &overlay.branch_a;
        a.wait_until_up(NETWORK, SOON)?;
        overlay.branch_b.wait_until_up(NETWORK, SOON)?;
        // The key is exchanged in three steps, and nobody notices; IKE from nothing then goes by the new one.
        let with_keys = |names: &[&str]| {
            let refs: Vec<_> = names.iter().map(|name| format!("{{name: {name}}}")).collect();
            let more = "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: new\n  labels: {dmvpn.io/network: branches}\n\
                        stringData: {psk: another-key}\n";
            let refs = format!("pskSecretRefs: [{}]", refs.join(", "));
            example.replace("pskSecretRefs: [{name: branches-psk}]", &refs) + more
        };
        let pings = Ping::start(a.host(), overlay::HUB.into(), 300, TEN_MS)?;
        for names in [&["branches-psk", "new"][..], &["new", "branches-psk"], &["new"]] {
            for agent in [&overlay.hub, &overlay.branch_a, &overlay.branch_b] {
                write_and_wait(agent, &with_keys(names), KEYS)?;
            }
        }
        pings.finish()?.ensure_nothing_lost()?;
        let rotated = with_keys(&["new"]);
        of_a.stop()?;
        of_a.restart()?;
        a.wait_until_up(NETWORK, SOON)?;

        // A second protected network on one node is told to be no use, and changes nothing for the first.
        let second = |text: String| {
            let text = text.replace("branches", "zoo").replace("10.255.", "10.254.");
            text.replace("key: 100", "key: 200").replace("networkId: 100", "networkId: 200")
        };
        a.write("second.yaml", &second(example.clone()))?;
        let own = second(overlay::quickstart("branch-a.yaml")?);
        let own = own.replace("name: branch-a\n", "name: zoo-a\n").replace("10.20.", "10.21.");
        a.write("zoo-a.yaml", &own)?;
        wait::until(SOON, "the second to be refused", || {
            let tunnel = a.tunnel("zoo")?;
            wait::ensure(tunnel.reason == "NotSupported", || format!("{}: {}", tunnel.reason, tunnel.message))
        })?;
        a.remove("zoo-a.yaml")?;
        a.remove("second.yaml")?;
        a.wait_until_up(NETWORK, SOON)?;
        // Somebody takes the guard away: it is put back.
        a.host().nft(&format!("delete table inet dmvpn_{NETWORK}\n"))?;
        wait::until(SOON, "the guard", || dropped(a.host(), "guard_out").map(drop))?;

        // SAs go with the daemons; then one has another key, one has other proposals.
        write_and_wait(a, &rotated.replace("another-key", "a-wrong-key"), KEYS)?;
        let others = "    mode: Required\n    proposals: [aes128-sha256-ecp384]";
        write_and_wait(
            &overlay.branch_b,
            &rotated.replace("    mode: Required", others),
            "IKE connection loaded",
        )?;
        of_a.stop()?;
        of_b.stop()?;
        of_a.restart()?;
        of_b.restart()?;
        overlay::until_at(a, State::Ike, "IkeAuthenticationFailed")?;
        overlay::until_at(&overlay.branch_b, State::Ike, "IkeNoProposal")?;
        wait::until(SOON, "the hub to know of the wrong key", || {
            let log = overlay.hub.log();
            wait::ensure(log.contains("MAC mismatched"), || log)
        })?;
        // Corrected, it comes by itself; then nobody is there.
        a.write("network.yaml", &rotated)?;
        a.wait_until_up(NETWORK, SOON)?;
        of_hub.kill()?;
        of_a.stop()?;
        of_a.restart()?;
        overlay::until_at(a, State::Ike, "IkeNoAnswer")?;
        let (clear, protected) = wire.stop()?;
        ensure!(clear == 0 && protected > 0, "{clear} of clear GRE, {protected} of ESP");
        Ok(())
    });
}
