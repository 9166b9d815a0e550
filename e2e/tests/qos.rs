//! Bandwidth classes: what the hub sends to each spoke is shaped to the rate of the class that the spoke says it is of,
//! measured with iperf3 from behind the hub to behind the spokes. Looked at from outside: `tc`, `nft`, pings.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::charon::Charon;
use e2e::lab::{Agent, Capture, Host, Process, ping};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::overlay::{NETWORK, TUNNEL, quickstart, start_router};
use e2e::scene::{Scene, Site};
use e2e::wait;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);
/// Drift is healed within this.
const HEALED: Duration = Duration::from_secs(1);
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(240) };
/// Rates in kbit/s.
const GOLD: u32 = 20_000;
const SILVER: u32 = 5_000;
/// How long a stream is measured, in seconds; the first one before that does not count.
const SECONDS: u32 = 3;

fn network(qos: &str) -> String {
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {{name: branches}}
spec:
  phase: Phase3
  overlay: [10.255.0.0/16, 'fd00:255::/64']
  hubs:
  - {{name: hub1, overlayAddresses: [10.255.0.1, 'fd00:255::1'], nbma: [{{address: 192.0.2.2}}]}}
  tunnel: {{key: 100}}
  nhrp: {{networkId: 100}}
{qos}
"
    )
}

fn classes(groups: &[(&str, u32)]) -> String {
    let groups: Vec<_> =
        groups.iter().map(|(name, rate)| format!("{{name: {name}, rateKbps: {rate}}}")).collect();
    network(&format!("  qos: {{groups: [{}]}}", groups.join(", ")))
}

/// A spoke, or what is behind the hub, with more lines.
fn spoke(site: &Site, more: &str) -> String {
    let (name, lan, lan6) = (site.plan.name, site.plan.lan, site.plan.lan6);
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {name}}}
spec:
  networkRef: {{name: branches}}
  placement: {{type: Node, nodeName: {name}}}
  subnets: [{{cidr: {lan}}}, {{cidr: '{lan6}'}}]
{more}
"
    )
}

fn branch(site: &Site, number: u8, group: &str) -> String {
    spoke(
        site,
        &format!("  overlayAddresses: [10.255.0.{number}, 'fd00:255::{number}']\n  qosGroup: {group}"),
    )
}

fn start(site: &Site, labels: &[&str], network: &str, own: String) -> Result<Agent> {
    let files = BTreeMap::from([("network.yaml".into(), network.to_owned()), ("own.yaml".into(), own)]);
    // With the rights that a pod has: shaping needs no more.
    Agent::start_confined(&site.host, labels, &files)
}

/// Listens behind a spoke.
fn listen(site: &Site) -> Result<Process> {
    site.lan.spawn("iperf3-server", &["iperf3", "--server"])
}

/// Sends from behind the hub for some seconds; gives what came in, in kbit/s.
fn stream(hub: &Site, to: IpAddr) -> Result<f64> {
    let seconds = SECONDS.to_string();
    let words = ["iperf3", "--json", "--omit", "1", "--time", &seconds, "--client", &to.to_string()];
    let said = hub.lan.run(&words)?;
    let said: Value = serde_json::from_str(&said)?;
    let rate = said["end"]["sum_received"]["bits_per_second"].as_f64();
    let rate = rate.with_context(|| said.to_string())? / 1000.0;
    println!("to {to}: {rate:.0} kbit/s");
    Ok(rate)
}

/// Within 10 % of the rate: each of these streams, all at once. A guest that has to wait for its CPU longer than a burst lasts
/// loses what it would have sent meanwhile, so there are three tries; a wrong rate is wrong each time.
fn ensure_shaped(hub: &Site, to: &[(IpAddr, u32)]) -> Result<()> {
    let mut tries = 0;
    loop {
        tries += 1;
        let rates: Vec<Result<f64>> = std::thread::scope(|scope| {
            let streams: Vec<_> = to.iter().map(|(to, _)| scope.spawn(|| stream(hub, *to))).collect();
            streams.into_iter().map(|it| it.join().expect("a stream")).collect()
        });
        let mut off = Vec::new();
        for (rate, (to, wanted)) in rates.into_iter().zip(to) {
            let rate = rate?;
            if !(0.9..=1.1).contains(&(rate / f64::from(*wanted))) {
                off.push(format!("{rate:.0} kbit/s to {to}, and its rate is {wanted} kbit/s"));
            }
        }
        if off.is_empty() {
            return Ok(());
        }
        ensure!(tries < 3, "{}", off.join("; "));
    }
}

/// What `tc` says, its lines of one entry in one (its JSON is none where HTB is).
fn tc(host: &Host, what: &str) -> Result<Vec<String>> {
    let said = host.run(&["tc", "-s", "-d", what, "show", "dev", TUNNEL])?;
    let next = format!("\n{what} ");
    let entries = said.split(&next);
    Ok(entries.map(|it| it.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

/// The word after this one.
fn after<'a>(entry: &'a str, word: &str) -> Option<&'a str> {
    entry.split(' ').skip_while(|it| *it != word).nth(1)
}

/// The classes of the tunnel: handle, rate in kbit/s, and bytes sent. Each has `fq_codel` below it.
fn tc_classes(host: &Host) -> Result<BTreeMap<String, (u32, u64)>> {
    let qdiscs = tc(host, "qdisc")?;
    let root = |it: &String| it.contains("htb d600: root ");
    wait::ensure(qdiscs.iter().any(root), || format!("no htb: {qdiscs:?}"))?;
    let mut found = BTreeMap::new();
    for class in tc(host, "class")?.iter().filter(|it| it.contains("htb d600:")) {
        let handle = after(class, "htb").context("no handle")?;
        let leaf = |it: &String| it.starts_with("fq_codel") || it.contains(" fq_codel ");
        let leaf = qdiscs.iter().any(|it| leaf(it) && it.contains(&format!("parent {handle} ")));
        wait::ensure(leaf, || format!("nothing below {handle}: {qdiscs:?}"))?;
        let rate = after(class, "rate").with_context(|| class.clone())?;
        let units = [("Gbit", 1_000_000), ("Mbit", 1_000), ("Kbit", 1)];
        let rate =
            units.iter().find_map(|(unit, kilo)| Some(rate.strip_suffix(unit)?.parse::<u32>().ok()? * kilo));
        let bytes = after(class, "Sent").and_then(|it| it.parse().ok());
        let (rate, bytes) = rate.zip(bytes).with_context(|| class.clone())?;
        found.insert(handle.to_owned(), (rate, bytes));
    }
    Ok(found)
}

fn rates(host: &Host) -> Result<Vec<u32>> {
    let mut rates: Vec<_> = tc_classes(host)?.values().map(|(rate, _)| *rate).collect();
    rates.sort_unstable();
    Ok(rates)
}

/// Which class each overlay host is led to.
fn led(host: &Host) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for map in ["shape4", "shape6"] {
        let said = host.run(&["nft", "-j", "list", "map", "inet", "dmvpn_branches", map])?;
        let said: Value = serde_json::from_str(&said)?;
        let maps =
            said["nftables"].as_array().into_iter().flatten().filter_map(|it| it["map"]["elem"].as_array());
        for pair in maps.flatten() {
            let text = |at: usize| pair[at].as_str().unwrap_or_default().to_owned();
            found.insert(text(0), text(1));
        }
    }
    Ok(found)
}

fn until_rates(host: &Host, wanted: &[u32], hosts: usize) -> Result<Duration> {
    let begin = Instant::now();
    wait::until(SOON, &format!("classes of {wanted:?} kbit/s"), || {
        let (rates, led) = (rates(host)?, led(host)?);
        wait::ensure(rates == wanted && led.len() == hosts, || format!("{rates:?}, {led:?}"))
    })?;
    Ok(begin.elapsed())
}

#[test]
fn each_spoke_gets_the_rate_of_its_class() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let site = |name: &str| scene.site(name);
        let (hub, a, b, router) = (site("hub")?, site("branch-a")?, site("branch-b")?, site("router")?);
        let both = classes(&[("gold", GOLD), ("silver", SILVER)]);
        let mut agent = start(hub, &["dmvpn.io/hub=hub1"], &both, spoke(hub, ""))?;
        let agent_a = start(a, &[], &both, branch(a, 11, "gold"))?;
        let agent_b = start(b, &[], &both, branch(b, 12, "silver"))?;
        // A router of another make says nothing of classes; what is behind it is declared.
        agent.write("router.yaml", &quickstart("router.yaml")?)?;
        let _router = start_router(&scene)?;
        let servers = [a, b, router].map(listen);
        ensure!(servers.iter().all(Result::is_ok), "{servers:?}");
        for it in [&agent_a, &agent_b] {
            it.wait_until_up(NETWORK, SOON)?;
        }
        until_rates(&hub.host, &[SILVER, GOLD], 4)?;
        let lan = |site: &Site| IpAddr::from(site.lan_host());
        wait::until(SOON, "a route to the router's LAN", || {
            let way = hub.host.run(&["ip", "route", "get", &lan(router).to_string()])?;
            wait::ensure(way.contains("via 10.255.0.13"), || way)
        })?;

        let shown = agent.cli("show dmvpn detail")?;
        for line in [
            "NHRP group: gold",
            "NHRP group: silver",
            "Output QoS service-policy applied: gold (20000 kbit/s)",
        ] {
            ensure!(shown.contains(line), "no `{line}`:\n{shown}");
        }
        let shown = agent.cli("show ip nhrp detail")?;
        ensure!(shown.contains("   Group: gold\n") && shown.contains("   Group: silver\n"), "{shown}");

        // What leaves the hub, after everything of ours has seen it.
        hub.host.nft(
            "table ip seen { chain c { type filter hook postrouting priority 200; oifname wan0 meta l4proto 47 counter; \
             oifname wan0 meta l4proto 47 meta priority d600:0-d600:ffff counter comment \"leaked\"; }; }",
        )?;
        // One after the other and of both families, both at once, and the one without a class.
        ensure_shaped(hub, &[(lan(a), GOLD)])?;
        ensure_shaped(hub, &[(lan(b), SILVER)])?;
        let six = IpAddr::from(a.lan_host6());
        ensure_shaped(hub, &[(six, GOLD)])?;
        ensure_shaped(hub, &[(lan(a), GOLD), (lan(b), SILVER)])?;
        let free = stream(hub, lan(router))?;
        ensure!(free > f64::from(GOLD) * 3.0, "the router is not of a class, and gets {free:.0} kbit/s");

        // The class stays in the tunnel: outer packets have the priority of all others.
        let seen = hub.host.run(&["nft", "list", "table", "ip", "seen"])?;
        let packets: Vec<_> = seen.lines().filter_map(|line| after(line.trim(), "packets")).collect();
        ensure!(packets.len() == 2 && packets[0] != "0" && packets[1] == "0", "{seen}");

        // Another rate, without loss.
        let before = tc_classes(&hub.host)?;
        let ping = ping::Ping::start(&hub.lan, lan(a), 300, TEN_MS)?;
        agent.write("network.yaml", &classes(&[("gold", 2 * GOLD), ("silver", SILVER)]))?;
        until_rates(&hub.host, &[SILVER, 2 * GOLD], 4)?;
        let after = tc_classes(&hub.host)?;
        ensure!(before.keys().eq(after.keys()), "other classes: {before:?}, {after:?}");
        ensure!(before.iter().all(|(it, (_, bytes))| after[it].1 >= *bytes), "{before:?}, {after:?}");
        ensure_shaped(hub, &[(lan(a), 2 * GOLD)])?;
        ping.finish()?.ensure_nothing_lost()?;

        // Killed and started again: the classes stay as they are.
        let before = tc_classes(&hub.host)?;
        let ping = ping::Ping::start(&hub.lan, lan(a), 400, TEN_MS)?;
        agent.kill()?;
        agent.restart()?;
        agent.wait_until_up(NETWORK, SOON)?;
        until_rates(&hub.host, &[SILVER, 2 * GOLD], 4)?;
        ping.finish()?.ensure_nothing_lost()?;
        let after = tc_classes(&hub.host)?;
        ensure!(before.iter().all(|(it, (_, bytes))| after[it].1 > *bytes / 2), "{before:?}, {after:?}");
        ensure!(before.keys().eq(after.keys()), "other classes: {before:?}, {after:?}");

        // Whoever takes something of it away sees it back.
        let wanted = (rates(&hub.host)?, led(&hub.host)?);
        for (what, by) in [
            ("root deleted", format!("tc qdisc del dev {TUNNEL} root")),
            ("another root", format!("tc qdisc replace dev {TUNNEL} root handle 1: pfifo")),
            (
                "a look-alike",
                format!(
                    "printf 'qdisc del dev {TUNNEL} root\\nqdisc add dev {TUNNEL} root handle d600: pfifo\\n' | tc -batch -"
                ),
            ),
            (
                "class deleted",
                format!("tc class del dev {TUNNEL} classid {}", after.keys().next().context("none")?),
            ),
            ("class changed", {
                let class = after.keys().next().context("none")?;
                format!("tc class change dev {TUNNEL} parent d600: classid {class} htb rate 1gbit")
            }),
            ("fq_codel replaced", {
                let class = after.keys().next().context("none")?;
                format!("tc qdisc replace dev {TUNNEL} parent {class} pfifo")
            }),
            ("nft table deleted", "nft delete table inet dmvpn_branches".to_owned()),
        ] {
            hub.host.sh(&by)?;
            let begin = Instant::now();
            wait::until(SOON, what, || {
                let now = (rates(&hub.host)?, led(&hub.host)?);
                wait::ensure(now == wanted, || format!("{now:?}"))
            })?;
            let took = begin.elapsed();
            println!("{:>5} ms  {what}", took.as_millis());
            ensure!(took < HEALED || what.starts_with("nft") && took < 4 * HEALED, "{what}: {took:?}");
        }

        // Declared for the router that cannot say it.
        let external = quickstart("router.yaml")?.replace("spec:\n", "spec:\n  qosGroup: silver\n");
        agent.write("router.yaml", &external)?;
        until_rates(&hub.host, &[SILVER, SILVER, 2 * GOLD], 5)?;
        ensure_shaped(hub, &[(lan(router), SILVER)])?;

        // A class that the hub does not know: told by name, and not shaped.
        agent.write("network.yaml", &classes(&[("silver", SILVER)]))?;
        until_rates(&hub.host, &[SILVER, SILVER], 3)?;
        wait::until(SOON, "the unknown class in the log", || {
            let log = agent.log();
            wait::ensure(log.contains(r#"is of QoS group "gold", which the network does not define"#), || log)
        })?;
        let shown = agent.cli("show dmvpn detail")?;
        ensure!(shown.contains("NHRP group: gold\n Output QoS service-policy applied: none"), "{shown}");
        let free = stream(hub, lan(a))?;
        ensure!(free > f64::from(GOLD) * 3.0, "not shaped any more, and gets {free:.0} kbit/s");

        // No classes, nothing of ours.
        agent.write("network.yaml", &network(""))?;
        wait::until(SOON, "no queueing discipline", || {
            let qdiscs = tc(&hub.host, "qdisc")?;
            let table = hub.host.run(&["nft", "list", "table", "inet", "dmvpn_branches"])?;
            let none = !qdiscs.iter().any(|it| it.contains("htb") || it.contains("fq_codel"));
            wait::ensure(none && !table.contains("shape"), || format!("{qdiscs:?}\n{table}"))
        })?;
        let problems = agent.report()?.problems;
        ensure!(!problems.iter().any(|it| it.object.starts_with("DmvpnNetwork")), "{problems:?}");
        Ok(())
    });
}

/// Rates hold whichever transport packets take: a source on none of them is worth a word.
#[test]
fn a_loopback_as_tunnel_source_is_remarked() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let hub = scene.site("hub")?;
        hub.host.ip_batch(&[
            "link add lo1 type dummy".into(),
            "link set lo1 up".into(),
            "addr add 192.0.2.77/32 dev lo1".into(),
        ])?;
        let by = |device: &str, text: &str| {
            text.replace(
                "{name: hub1,",
                &format!("{{name: hub1, tunnelSource: {{from: Interface, interface: {device}}},"),
            )
        };
        let both = classes(&[("gold", GOLD)]);
        let agent = start(hub, &["dmvpn.io/hub=hub1"], &by("lo1", &both), spoke(hub, ""))?;
        let remark = |wanted: bool| {
            wait::until(SOON, "the remark", || {
                let tunnel = agent.tunnel(NETWORK)?;
                let there = tunnel.remark.contains("tunnel source 192.0.2.77 is on lo1, a loopback");
                wait::ensure(tunnel.source.is_some() && there == wanted, || tunnel.remark.clone())
            })
        };
        remark(true)?;
        let shown = agent.cli("show dmvpn detail")?;
        ensure!(shown.contains("   Remark: the tunnel source 192.0.2.77 is on lo1"), "{shown}");
        // On an interface of a transport, or without classes, there is nothing to say.
        agent.write("network.yaml", &by("wan0", &both))?;
        remark(false)?;
        agent.write("network.yaml", &by("lo1", &network("")))?;
        remark(false)
    });
}

/// The overlay in a VRF: classes are found by next hops of that VRF's table.
#[test]
fn spokes_of_a_vrf_are_shaped_too() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a) = (scene.site("hub")?, scene.site("branch-a")?);
        for site in [hub, a] {
            site.host.ip_batch(&[
                "link add red type vrf table 101".into(),
                "link set red up".into(),
                "link set lan0 master red".into(),
            ])?;
        }
        let text = classes(&[("gold", GOLD)]).replace("tunnel: {key: 100}", "tunnel: {key: 100, vrf: red}");
        let _agent = start(hub, &["dmvpn.io/hub=hub1"], &text, spoke(hub, ""))?;
        // (Into a VRF a link takes its IPv4 addresses alone.)
        let agent = start(a, &[], &text, branch(a, 11, "gold"))?;
        shaped_to(hub, a, &agent, GOLD, &[a.lan_host().into()])
    });
}

/// Under IPsec what is queued is still GRE: the class is found as ever, and ESP comes on top of its rate.
#[test]
fn spokes_under_ipsec_are_shaped_too() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a) = (scene.site("hub")?, scene.site("branch-a")?);
        let _daemons = [Charon::start(&hub.host)?, Charon::start(&a.host)?];
        let secret = "  ipsec: {mode: Required, authentication: {type: PSK, pskSecretRefs: [{name: psk}]}}\n---\n\
                      apiVersion: v1\nkind: Secret\nmetadata: {name: psk, labels: {dmvpn.io/network: branches}}\n\
                      stringData: {psk: one-for-all}\n";
        // As much as the guest encrypts, on a busy machine too.
        let text = classes(&[("silver", SILVER)]) + secret;
        let files =
            |own: String| BTreeMap::from([("network.yaml".into(), text.clone()), ("own.yaml".into(), own)]);
        let _agent = Agent::start(&hub.host, &["dmvpn.io/hub=hub1"], &files(spoke(hub, "")))?;
        let clear = Capture::start(&hub.host, "wan0", "proto 47")?;
        let agent = Agent::start(&a.host, &[], &files(branch(a, 11, "silver")))?;
        shaped_to(hub, a, &agent, SILVER, &[a.lan_host().into(), a.lan_host6().into()])?;
        let clear = clear.stop()?.len();
        ensure!(clear == 0, "{clear} packets of GRE in clear");
        Ok(())
    });
}

/// What the hub sends to the one branch there is, to each of these addresses behind it.
fn shaped_to(hub: &Site, a: &Site, agent: &Agent, rate: u32, to: &[IpAddr]) -> Result<()> {
    agent.wait_until_up(NETWORK, SOON)?;
    let _server = listen(a)?;
    until_rates(&hub.host, &[rate], 2)?;
    wait::until(SOON, "both ways", || {
        let ends = ((&hub.lan, hub.lan_host().into()), (&a.lan, a.lan_host().into()));
        let (there, back) = ping::both_ways(ends.0, ends.1, 10, TEN_MS)?;
        there.ensure_nothing_lost()?;
        back.ensure_nothing_lost()
    })?;
    to.iter().try_for_each(|to| ensure_shaped(hub, &[(*to, rate)]))
}
