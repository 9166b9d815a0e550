//! A change that would cut a node off from its hubs or from its default gateway is tried, found out and taken back; one that
//! is right is kept; a hub that is away by itself, or that follows later, is told apart from both. What is looked at is the
//! kernel's link and routes, pings from LAN to LAN, and what the agent says.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::charon::Charon;
use e2e::lab::ping::Report;
use e2e::lab::{Agent, Host, Ping};
use e2e::paths;
use e2e::ring3::{Needs, ring3_waiting};
use e2e::scene::Scene;
use e2e::scene::overlay::{NETWORK, TUNNEL, manifests, quickstart};
use e2e::{Lab, wait};
use vici::Message;

const SOON: Duration = Duration::from_secs(10);
/// Traffic is back within this time after such a change, as the guide says: 10 s of trial, and the return.
const BACK: Duration = Duration::from_secs(15);
/// As long again as a trial, and more: nothing may happen any more.
const AFTER: Duration = Duration::from_secs(20);
/// A hub that follows is found within this time: it is asked every 10 s, and is silent after 7 s.
const FOLLOWED: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(20);
const MOST: u32 = 10_000;
const OBJECT: &str = "DmvpnNetwork/branches";
/// An address of the branch that the underlay leads nobody to.
const NOWHERE: &str = "203.0.113.77";
/// The branch's router.
const GATEWAY: &str = "198.51.100.1";

struct Pair {
    scene: Scene,
    hub: Agent,
    branch: Agent,
}

impl Pair {
    fn start(lab: &Lab) -> Result<Self> {
        let scene = Scene::build(lab)?;
        let hub = &scene.site("hub")?.host;
        let hub = Agent::start(hub, &["dmvpn.io/hub=hub1"], &manifests(&["network.yaml", "hub-lan.yaml"])?)?;
        let files = manifests(&["network.yaml", "branch-a.yaml"])?;
        let branch = Agent::start(&scene.site("branch-a")?.host, &[], &files)?;
        branch.wait_until_up(NETWORK, SOON)?;
        Ok(Self { scene, hub, branch })
    }

    fn host(&self) -> &Host {
        self.branch.host()
    }

    /// Pings from the branch's LAN to the hub's; they run.
    fn pings(&self) -> Result<Ping> {
        let (lan, to) = (&self.scene.site("branch-a")?.lan, self.scene.site("hub")?.lan_host());
        let pings = Ping::start(lan, to.into(), MOST, INTERVAL)?;
        pings.wait_for_reply(20, SOON)?;
        Ok(pings)
    }

    fn key_of_link(&self) -> Result<u64> {
        let link = self.host().ip_json(&format!("-d link show {TUNNEL}"))?;
        let key = link[0]["linkinfo"]["info_data"]["ikey"].as_str().context("no key")?.to_owned();
        let number = key.parse::<std::net::Ipv4Addr>().map(|it| u32::from(it).into());
        number.or_else(|_| key.parse()).with_context(|| key)
    }

    /// How often what is in force has changed without anybody's doing.
    fn switches(&self) -> usize {
        let log = self.branch.log();
        log.matches("cannot be reached").count() + log.matches("under the change this node lost").count()
    }
}

fn changed(file: &str, from: &str, to: &str) -> Result<String> {
    let text = quickstart(file)?;
    ensure!(text.contains(from), "{file} has no {from:?}");
    Ok(text.replace(from, to))
}

fn key(key: u32) -> Result<String> {
    changed("network.yaml", "key: 100", &format!("key: {key}"))
}

/// The longest time in which no reply came.
fn silence(report: &Report) -> Duration {
    let times = report.replies.windows(2).map(|pair| pair[1].time.saturating_sub(pair[0].time));
    times.max().unwrap_or_default()
}

fn needs() -> Needs {
    Needs { memory_mib: 768, deadline: Duration::from_secs(240) }
}

#[test]
fn a_change_that_cuts_the_hub_is_rolled_back_and_told() {
    ring3_waiting(needs(), |lab| {
        let mut pair = Pair::start(lab)?;
        pair.host().ip(&format!("addr add {NOWHERE}/32 dev lo"))?;
        let address = "overlayAddresses: [10.255.0.11]";
        let source = format!("{address}\n  tunnelSource: {{from: Address, address: {NOWHERE}}}");
        let missing = format!("{address}\n  tunnelSource: {{from: Interface, interface: wan7}}");
        let cases = [
            ("network.yaml", key(101)?, "KeyMismatchSuspected"),
            ("branch-a.yaml", changed("branch-a.yaml", address, &source)?, "NoAnswer"),
            ("branch-a.yaml", changed("branch-a.yaml", address, &missing)?, "InterfaceMissing"),
        ];
        for (file, change, why) in cases {
            let pings = pair.pings()?;
            let switches = pair.switches();
            let start = Instant::now();
            pair.branch.write(file, &change)?;
            let problem = pair.branch.wait_for_problem(OBJECT, "RolledBack", BACK)?;
            let told = start.elapsed();
            let said = problem.message;
            ensure!(said.contains("lost its hubs") && said.contains(why), "{said}");
            ensure!(told > Duration::from_secs(9), "not even tried: told after {told:?}");
            ensure!(pair.branch.cli("show problems")?.contains("RolledBack"), "not shown");
            pair.branch.wait_until_up(NETWORK, SOON)?;
            let last = pings.so_far().replies.last().map_or(0, |reply| reply.sequence);
            pings.wait_for_reply(last + 50, SOON)?;
            // Nothing moves any more.
            let as_before = || wait::ensure(pair.key_of_link()? == 100, || "it is in force".into());
            wait::stays(AFTER, "the change taken back", as_before)?;
            ensure!(pair.switches() - switches == 2, "{}", pair.branch.log());
            // Nor does it after a restart of the agent, who is told the change at once.
            pair.branch.kill()?;
            pair.branch.restart()?;
            pair.branch.wait_for_problem(OBJECT, "RolledBack", SOON)?;
            pair.branch.wait_until_up(NETWORK, SOON)?;
            let as_before = || wait::ensure(pair.key_of_link()? == 100, || "it is in force".into());
            wait::stays(Duration::from_secs(2), "the change taken back after a restart", as_before)?;
            let report = pings.stop()?;
            let silent = silence(&report);
            println!("{why}: told after {told:.1?}, without an answer for {silent:.1?}; {report}");
            ensure!(silent < BACK, "no traffic for {silent:?}");
            ensure!(silent > Duration::from_secs(9) || why == "InterfaceMissing", "what was cut? {report}");
            // Mended by hand: nothing is left of it.
            pair.branch.write(file, &quickstart(file)?)?;
            pair.branch.wait_for_no_problem(SOON)?;
            pair.branch.wait_until_up(NETWORK, SOON)?;
        }
        Ok(())
    });
}

#[test]
fn a_right_change_is_kept_without_a_packet_lost() {
    ring3_waiting(needs(), |lab| {
        let pair = Pair::start(lab)?;
        let pings = pair.pings()?;
        pair.branch
            .write("network.yaml", &changed("network.yaml", "key: 100", "key: 100\n    mtu: 1390")?)?;
        wait::until(BACK, "the change to be kept", || {
            wait::ensure(pair.branch.log().contains("the change is kept"), || pair.branch.log())
        })?;
        ensure!(pair.host().ip_json(&format!("link show {TUNNEL}"))?[0]["mtu"] == 1390, "not in force");
        ensure!(pair.switches() == 0, "{}", pair.branch.log());
        pair.branch.wait_for_no_problem(SOON)?;
        pings.stop()?.ensure_nothing_lost()
    });
}

/// The key changes at both ends, a few seconds apart, then more than the time of a trial apart.
#[test]
fn a_hub_that_follows_sooner_or_later_is_found() {
    ring3_waiting(needs(), |lab| {
        let pair = Pair::start(lab)?;
        pair.branch.write("network.yaml", &key(101)?)?;
        let key_is = |key: u64| {
            let pair = &pair;
            move || wait::ensure(pair.key_of_link()? == key, || "another key".into())
        };
        wait::until(SOON, "the new key", key_is(101))?;
        wait::stays(Duration::from_secs(3), "the change on trial", key_is(101))?;
        pair.hub.write("network.yaml", &key(101)?)?;
        pair.branch.wait_until_up(NETWORK, SOON)?;
        wait::until(BACK, "the change to be kept", || {
            wait::ensure(pair.branch.log().contains("the change is kept"), || pair.branch.log())
        })?;
        ensure!(pair.key_of_link()? == 101 && pair.switches() == 0, "{}", pair.branch.log());

        pair.branch.write("network.yaml", &key(102)?)?;
        pair.branch.wait_for_problem(OBJECT, "RolledBack", BACK)?;
        ensure!(pair.key_of_link()? == 101, "not rolled back");
        // It works all the while, and the hub is not hurried.
        wait::stays(Duration::from_secs(12), "the old key", key_is(101))?;
        pair.branch.wait_until_up(NETWORK, SOON)?;
        let start = Instant::now();
        pair.hub.write("network.yaml", &key(102)?)?;
        wait::until(FOLLOWED, "the branch to follow", || {
            let key = pair.key_of_link()?;
            ensure!(key == 102, "key {key}");
            pair.branch.wait_until_up(NETWORK, Duration::ZERO)
        })?;
        println!("followed after {:.1?}", start.elapsed());
        pair.branch.wait_for_no_problem(BACK)?;
        ensure!(pair.key_of_link()? == 102, "not kept");
        Ok(())
    });
}

/// Roll back once, see that it does not help, and go on with what is wanted.
#[test]
fn a_hub_that_is_away_by_itself_is_no_reason_to_go_back_and_forth() {
    ring3_waiting(needs(), |lab| {
        let pair = Pair::start(lab)?;
        let uplink = pair.scene.uplink(pair.scene.site("hub")?);
        pair.scene.isp.ip(&format!("link set {uplink} down"))?;
        pair.branch
            .write("network.yaml", &changed("network.yaml", "key: 100", "key: 100\n    mtu: 1390")?)?;
        let mtu = || -> Result<u64> {
            let link = pair.host().ip_json(&format!("link show {TUNNEL}"))?;
            link[0]["mtu"].as_u64().context("mtu")
        };
        let start = Instant::now();
        let (mut seen, mut last) = (Vec::new(), 0);
        wait::stays(Duration::from_secs(45), "the link there", || {
            let now = mtu()?;
            if now != last {
                seen.push((start.elapsed().as_secs(), now));
                last = now;
            }
            Ok(())
        })?;
        println!("MTUs by second: {seen:?}");
        let values: Vec<_> =
            seen.iter().map(|(_, mtu)| *mtu).filter(|mtu| *mtu != 1400 || last != 0).collect();
        ensure!(values.ends_with(&[1390, 1400, 1390]) && values.len() <= 4, "{seen:?}");
        ensure!(pair.branch.report()?.problems.is_empty(), "the change is blamed");
        pair.scene.isp.ip(&format!("link set {uplink} up"))?;
        pair.branch.wait_until_up(NETWORK, FOLLOWED)?;
        wait::until(BACK, "the change to be kept", || {
            wait::ensure(pair.branch.log().contains("the change is kept"), || pair.branch.log())
        })?;
        ensure!(mtu()? == 1390, "not kept");
        Ok(())
    });
}

/// A prefix that covers the default gateway is announced, and an overlay address that is the gateway's is asked for.
#[test]
fn the_default_gateway_stays_where_it_is() {
    ring3_waiting(needs(), |lab| {
        let mut pair = Pair::start(lab)?;
        let host = pair.host().clone();
        let way = |to: &str| host.run(&["ip", "route", "get", to]);
        let over = |to: &str, link: &str| {
            wait::until(SOON, &format!("{to} to go by {link}"), || {
                let way = way(to)?;
                wait::ensure(way.contains(&format!("dev {link}")), || way)
            })
        };
        over(GATEWAY, "wan0")?;
        let pings = pair.pings()?;
        let own = "- cidr: 10.10.0.0/24";
        let more = format!("{own}\n  - cidr: 198.51.100.0/31\n  - cidr: 192.0.2.128/25");
        pair.hub.write("hub-lan.yaml", &changed("hub-lan.yaml", own, &more)?)?;
        over("192.0.2.200", TUNNEL)?;
        over("198.51.100.0", TUNNEL)?;
        over(GATEWAY, "wan0")?;
        host.run(&["ping", "-c3", "-i0.2", "-W1", GATEWAY])?;
        let routes = host.run(&["ip", "route", "show", GATEWAY])?;
        ensure!(routes.contains("dev wan0 proto 214") && !routes.contains(TUNNEL), "{routes}");
        pair.branch.kill()?;
        pair.branch.restart()?;
        over(GATEWAY, "wan0")?;
        pair.hub.write("hub-lan.yaml", &quickstart("hub-lan.yaml")?)?;
        over("198.51.100.0", "wan0")?;
        wait::until(SOON, "the pin to go", || {
            let left = host.run(&["ip", "route", "show", "proto", "214", "dev", "wan0"])?;
            wait::ensure(left.trim().is_empty(), || left)
        })?;
        pings.stop()?.ensure_nothing_lost()?;

        let start = Instant::now();
        let wider = changed("network.yaml", "[10.255.0.0/16]", "[10.255.0.0/16, 198.51.100.1/32]")?;
        pair.branch.write("network.yaml", &wider)?;
        over(GATEWAY, "wan0")?;
        let taken = changed("branch-a.yaml", "[10.255.0.11]", &format!("[{GATEWAY}]"))?;
        pair.branch.write("branch-a.yaml", &taken)?;
        wait::until(SOON, "the gateway to be cut off", || {
            let way = way(GATEWAY)?;
            wait::ensure(way.contains("local"), || way)
        })?;
        let problem = pair.branch.wait_for_problem(OBJECT, "RolledBack", BACK + SOON)?;
        ensure!(problem.message.contains("its default gateway"), "{}", problem.message);
        over(GATEWAY, "wan0")?;
        host.run(&["ping", "-c3", "-i0.2", "-W1", GATEWAY])?;
        println!("the gateway is back after {:.1?}", start.elapsed());
        Ok(())
    });
}

/// Under IPsec a wrong key cuts nothing at once: SAs that are there outlast it. The hub is met once more while the change is
/// on trial, beside what is in use; nothing of that is lost, and nothing of the trial is left in the daemons.
#[test]
fn a_wrong_key_is_found_before_the_next_ike_needs_it() {
    ring3_waiting(needs(), |lab| {
        let scene = Scene::build(lab)?;
        let example = fs::read_to_string(paths::repository().join("examples/ipsec/network.yaml"))?;
        let (at_hub, at_branch) = (&scene.site("hub")?.host, &scene.site("branch-a")?.host);
        let of_hub = Charon::start(at_hub)?;
        let mut of_branch = Charon::start(at_branch)?;
        let with = |files: &[&str]| -> Result<_> {
            let mut files = manifests(files)?;
            files.insert("network.yaml".into(), example.clone());
            Ok(files)
        };
        let hub = Agent::start(at_hub, &["dmvpn.io/hub=hub1"], &with(&["hub-lan.yaml"])?)?;
        let branch = Agent::start(at_branch, &[], &with(&["branch-a.yaml"])?)?;
        branch.wait_until_up(NETWORK, FOLLOWED)?;
        let pair = Pair { scene, hub, branch };
        let pings = pair.pings()?;
        let key = example.lines().find_map(|line| line.trim().strip_prefix("psk: ")).context("no key")?;
        let wrong = example.replace(key, "another-key-than-the-hub-has");
        let start = Instant::now();
        pair.branch.write("network.yaml", &wrong)?;
        let problem = pair.branch.wait_for_problem(OBJECT, "RolledBack", BACK)?;
        println!("told after {:.1?}: {}", start.elapsed(), problem.message);
        ensure!(problem.message.contains("lost its hubs (IkeAuthenticationFailed"), "{}", problem.message);
        pair.branch.wait_until_up(NETWORK, SOON)?;
        // The key that is in force is the one that IKE takes.
        let last = pings.so_far().sent;
        pings.wait_for_reply(last + 20, SOON)?;
        let report = pings.stop()?;
        println!("under a wrong key: {report}");
        report.ensure_nothing_lost()?;
        of_branch.stop()?;
        of_branch.restart()?;
        pair.branch.wait_until_up(NETWORK, FOLLOWED)?;
        pair.branch.write("network.yaml", &example)?;
        pair.branch.wait_for_no_problem(SOON)?;

        // A right one, step by step: the hub takes both, the branch shows the new one.
        let named = |names: &str| {
            let more = "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: new\n  labels: {dmvpn.io/network: branches}\n\
                        stringData: {psk: another-key}\n";
            example.replace("pskSecretRefs: [{name: branches-psk}]", &format!("pskSecretRefs: [{names}]"))
                + more
        };
        let pings = pair.pings()?;
        pair.hub.write("network.yaml", &named("{name: branches-psk}, {name: new}"))?;
        wait::until(SOON, "the hub's keys", || {
            wait::ensure(pair.hub.log().matches("pre-shared key loaded").count() >= 3, || pair.hub.log())
        })?;
        pair.branch.write("network.yaml", &named("{name: new}"))?;
        wait::until(BACK, "the change to be kept", || {
            wait::ensure(pair.branch.log().contains("the change is kept"), || pair.branch.log())
        })?;
        pair.branch.wait_for_no_problem(SOON)?;
        let report = pings.stop()?;
        println!("to another key: {report}");
        report.ensure_nothing_lost()?;
        for daemon in [&of_hub, &of_branch] {
            wait::until(SOON, "nothing of the trial to be left", || {
                let connections = daemon.call("get-conns", Message::new())?;
                let names = connections.list("conns");
                wait::ensure(!names.iter().any(|name| name.contains("proof")), || format!("{names:?}"))
            })?;
        }
        Ok(())
    });
}
