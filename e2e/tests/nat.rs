//! Branches behind NAT without IPsec, and ways between branches that a firewall blocks: nobody's traffic goes into a
//! black hole. Direct where it can be (1:1 NAT), by the hub where it cannot, with the reason shown, and no flapping.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::ping::{Report, both_ways};
use e2e::lab::{Agent, Host, Lab, Ping};
use e2e::ring3::Needs;
use e2e::scene::branches::Branches;
use e2e::scene::overlay::{BRANCH_A, BRANCH_B, NETWORK, TUNNEL, manifests, quickstart};
use e2e::scene::{Scene, Site, plan};
use e2e::{ring3_with, wait};

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(240) };
/// Overlay addresses of the branches behind the NAT.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 21);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 22);

/// A branch behind the NAT box, and a host in its LAN.
struct Natted {
    agent: Agent,
    lan: Host,
    address: IpAddr,
}

/// Hub, `branch-a` in the open, and a NAT box (`cgn`) with room for branches behind it.
struct Stage {
    scene: Scene,
    hub: Agent,
    branch_a: Agent,
    cgn: Site,
}

impl Stage {
    fn build(lab: &Lab) -> Result<Self> {
        let mut scene = Scene::build(lab)?;
        let cgn = scene
            .add(lab, plan("cgn", "198.18.5.2/24", "2001:db8:d::2/64", "192.168.5.0/24", "fd00:50::/64")?)?;
        let hub = Agent::start(
            &scene.site("hub")?.host,
            &["dmvpn.io/hub=hub1"],
            &manifests(&["network.yaml", "hub-lan.yaml"])?,
        )?;
        let branch_a = Agent::start(
            &scene.site("branch-a")?.host,
            &[],
            &manifests(&["network.yaml", "branch-a.yaml"])?,
        )?;
        branch_a.wait_until_up(NETWORK, SOON)?;
        Ok(Self { scene, hub, branch_a, cgn })
    }

    /// Starts the agent of `host`, which stands behind the NAT box, with a LAN of its own.
    fn branch(&self, lab: &Lab, host: &Host, overlay: Ipv4Addr, net: u8) -> Result<Natted> {
        let lan = lab.host(&format!("lan-{}", host.name()))?;
        lab.link(host, "lan9", &lan, "eth0")?;
        host.ip(&format!("addr add 10.{net}.0.1/24 dev lan9"))?;
        lan.ip_batch(&[
            format!("addr add 10.{net}.0.10/24 dev eth0"),
            format!("route add default via 10.{net}.0.1"),
        ])?;
        let name = host.name();
        let own = format!(
            "apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {name}}}
spec:
  networkRef: {{name: {NETWORK}}}
  placement: {{type: Node, nodeName: {name}}}
  overlayAddresses: [{overlay}]
  subnets: [{{cidr: 10.{net}.0.0/24}}]
"
        );
        let files = BTreeMap::from([
            ("network.yaml".to_owned(), quickstart("network.yaml")?),
            ("own.yaml".to_owned(), own),
        ]);
        let agent = Agent::start(host, &[], &files)?;
        Ok(Natted { agent, lan, address: Ipv4Addr::new(10, net, 0, 10).into() })
    }

    /// Rules of the NAT box, in the place of earlier ones.
    fn nat(&self, rules: &str) -> Result<()> {
        self.cgn.host.nft(&format!("add table ip nat\ndelete table ip nat\ntable ip nat {{\n{rules}\n}}\n"))
    }

    /// Waits until both LANs route to each other.
    fn wait_for_routes(&self, natted: &Natted) -> Result<()> {
        let a = self.scene.site("branch-a")?;
        for (host, to) in [(&a.host, natted.address), (natted.agent.host(), a.lan_host().into())] {
            wait::until(SOON, &format!("a route to {to} at {}", host.name()), || {
                let way = host.run(&["ip", "route", "get", &to.to_string()])?;
                wait::ensure(way.contains(TUNNEL), || way)
            })?;
        }
        Ok(())
    }

    /// Pings between the LAN of `branch-a` and one behind the NAT, both ways at once.
    fn pings(&self, natted: &Natted, count: u32) -> Result<[Report; 2]> {
        let a = self.scene.site("branch-a")?;
        let (there, back) =
            both_ways((&a.lan, a.lan_host().into()), (&natted.lan, natted.address), count, TEN_MS)?;
        println!("to the NAT: {there}\nfrom it: {back}");
        Ok([there, back])
    }
}

const MASQUERADE: &str = "chain post {
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"wan0\" masquerade
}";
const ONE_TO_ONE: &str = "chain pre {
    type nat hook prerouting priority dstnat; policy accept;
    iifname \"wan0\" ip daddr 198.18.5.2 dnat to 192.168.5.10
}
chain post {
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"wan0\" snat to 198.18.5.2
}";

/// A NAT that remembers nothing: what comes goes to the first branch, what leaves bears `public`.
fn stateless(public: &str) -> String {
    format!(
        "chain pre {{
    type filter hook prerouting priority raw; policy accept;
    iifname \"wan0\" ip daddr {public} ip protocol gre ip daddr set 192.168.5.10
}}
chain post {{
    type filter hook postrouting priority srcnat; policy accept;
    oifname \"wan0\" ip saddr set {public}
}}"
    )
}

/// Why there is no shortcut towards `to`, as the agent shows it.
fn reason(agent: &Agent, to: IpAddr) -> Result<String> {
    let cache = agent.tunnel(NETWORK)?.cache;
    let entry = cache.iter().find(|e| e.target.addr() == to && !e.reason.is_empty());
    Ok(entry.with_context(|| format!("nothing refused towards {to}: {cache:?}"))?.reason.clone())
}

fn ups(agent: &Agent) -> usize {
    agent.log().lines().filter(|line| line.contains("shortcut to ") && !line.contains("no shortcut")).count()
}

#[test]
fn one_to_one_nat_gets_direct_both_ways() {
    ring3_with(NEEDS, |lab| {
        let stage = Stage::build(lab)?;
        stage.nat(ONE_TO_ONE)?;
        let natted = stage.branch(lab, &stage.cgn.lan, FIRST, 50)?;
        natted.agent.wait_until_up(NETWORK, SOON)?;
        stage.wait_for_routes(&natted)?;
        for report in stage.pings(&natted, 300)? {
            report.ensure_nothing_lost()?;
            ensure!(report.hops().is_some_and(|(_, after)| after == 2), "not direct: {report}");
        }
        let peers = stage.branch_a.tunnel(NETWORK)?.peers;
        let peer = peers.iter().find(|p| p.address == FIRST).context("no peer")?;
        ensure!(peer.nbma == Some("198.18.5.2".parse()?), "{peer:?}");
        Ok(())
    });
}

#[test]
fn masquerade_stays_on_the_hub_and_says_so() {
    ring3_with(NEEDS, |lab| {
        let stage = Stage::build(lab)?;
        stage.nat(MASQUERADE)?;
        let natted = stage.branch(lab, &stage.cgn.lan, FIRST, 50)?;
        natted.agent.wait_until_up(NETWORK, SOON)?;
        stage.wait_for_routes(&natted)?;
        // Longer than all tries of a request (28 s).
        for report in stage.pings(&natted, 3_500)? {
            report.ensure_nothing_lost()?;
            ensure!(
                report.hops() == Some((3, 3)) && report.switch().is_none(),
                "left the hub's path: {report}"
            );
        }
        let a = stage.scene.site("branch-a")?;
        let said = reason(&stage.branch_a, natted.address)?;
        ensure!(said.contains("behind NAT at 198.18.5.2"), "{said}");
        let said = reason(&natted.agent, a.lan_host().into())?;
        ensure!(said.contains("we are behind NAT at 198.18.5.2"), "{said}");
        ensure!(natted.agent.cli("show ip nhrp")?.contains("behind NAT"), "not shown");
        ensure!(ups(&stage.branch_a) + ups(&natted.agent) == 0, "flapped");
        let peers = stage.hub.tunnel(NETWORK)?.peers;
        let peer = peers.iter().find(|p| p.address == FIRST).context("no peer")?;
        ensure!(peer.attributes.nated && peer.claimed_nbma == Some("192.168.5.10".parse()?), "{peer:?}");
        Ok(())
    });
}

#[test]
fn the_second_behind_one_address_does_no_harm_and_is_told_why() {
    ring3_with(NEEDS, |lab| {
        let stage = Stage::build(lab)?;
        stage.nat(&stateless("198.18.5.2"))?;
        let first = stage.branch(lab, &stage.cgn.lan, FIRST, 50)?;
        first.agent.wait_until_up(NETWORK, SOON)?;
        stage.wait_for_routes(&first)?;
        let a = stage.scene.site("branch-a")?;
        let beside = Ping::start(&a.lan, first.address, 1_500, TEN_MS)?;
        let host = lab.host("second")?;
        lab.link(&stage.cgn.host, "lan1", &host, "eth0")?;
        stage.cgn.host.ip("addr add 192.168.6.1/24 dev lan1")?;
        host.ip_batch(&[
            "addr add 192.168.6.10/24 dev eth0".into(),
            "route add default via 192.168.6.1".into(),
        ])?;
        let second = stage.branch(lab, &host, SECOND, 51)?;
        wait::until(SOON, "the hub to refuse the second", || {
            let log = stage.hub.log();
            let line = log
                .lines()
                .find(|l| l.contains(&format!("registration of {SECOND} from 198.18.5.2 refused")));
            let line = line.context("no refusal")?;
            wait::ensure(
                line.contains(&format!("{FIRST} is registered from behind the same NAT address")),
                || line.to_owned(),
            )
        })?;
        beside.finish()?.ensure_nothing_lost()?;
        let peers = stage.hub.tunnel(NETWORK)?.peers;
        ensure!(
            peers.iter().any(|p| p.address == FIRST) && !peers.iter().any(|p| p.address == SECOND),
            "{peers:?}"
        );
        let tunnel = second.agent.tunnel(NETWORK)?;
        ensure!(tunnel.state == view::State::Nhrp, "{:?} {}", tunnel.state, tunnel.message);
        Ok(())
    });
}

/// A NAT that keeps state lets only one of two in: what Linux's does, so that the guide does not promise more.
#[test]
fn masquerade_carries_one_of_two() {
    ring3_with(NEEDS, |lab| {
        let stage = Stage::build(lab)?;
        stage.nat(MASQUERADE)?;
        let first = stage.branch(lab, &stage.cgn.lan, FIRST, 50)?;
        first.agent.wait_until_up(NETWORK, SOON)?;
        stage.wait_for_routes(&first)?;
        let host = lab.host("second")?;
        lab.link(&stage.cgn.host, "lan1", &host, "eth0")?;
        stage.cgn.host.ip("addr add 192.168.6.1/24 dev lan1")?;
        host.ip_batch(&[
            "addr add 192.168.6.10/24 dev eth0".into(),
            "route add default via 192.168.6.1".into(),
        ])?;
        let second = stage.branch(lab, &host, SECOND, 51)?;
        // Its pings come back, its GRE does not.
        second.agent.wait_for_state(NETWORK, view::State::Nhrp, "GreBlocked", SOON)?;
        for report in stage.pings(&first, 300)? {
            report.ensure_nothing_lost()?;
        }
        first.agent.wait_until_up(NETWORK, SOON)?;
        Ok(())
    });
}

#[test]
fn a_nat_that_gives_out_another_address_is_followed() {
    ring3_with(NEEDS, |lab| {
        let stage = Stage::build(lab)?;
        stage.cgn.host.ip("addr add 198.18.5.3/24 dev wan0")?;
        stage.nat(&stateless("198.18.5.2"))?;
        let natted = stage.branch(lab, &stage.cgn.lan, FIRST, 50)?;
        natted.agent.wait_until_up(NETWORK, SOON)?;
        stage.wait_for_routes(&natted)?;
        let a = stage.scene.site("branch-a")?;
        let run = Ping::start(&a.lan, natted.address, 2_500, TEN_MS)?;
        run.wait_for_reply(100, SOON)?;
        stage.nat(&stateless("198.18.5.3"))?;
        wait::until(SOON, "the hub to know the new address", || {
            let peers = stage.hub.tunnel(NETWORK)?.peers;
            let at = peers.iter().find(|p| p.address == FIRST).and_then(|p| p.nbma);
            wait::ensure(at == Some("198.18.5.3".parse()?), || format!("{at:?}"))
        })?;
        let report = run.finish()?;
        println!("rebinding: {report}");
        // The next registration (10 s at most), and 1 s in which the old address is asked.
        ensure!(report.longest_gap() < Duration::from_secs(12), "{report}");
        ensure!(report.replies.last().is_some_and(|r| r.sequence == report.sent), "{report}");
        Ok(())
    });
}

/// Drops GRE from one branch to the other at the isp.
fn block(scene: &Scene, from: &Site, to: &Site) -> Result<()> {
    scene.isp.nft(&format!(
        "table ip firewall {{
            chain between {{
                type filter hook forward priority filter; policy accept;
                ip saddr {} ip daddr {} ip protocol gre drop
            }}
        }}
",
        from.nbma(),
        to.nbma()
    ))
}

#[test]
fn a_blocked_way_between_branches_loses_nothing_and_opens_later() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (a, b) = (scene.site("branch-a")?.clone(), scene.site("branch-b")?.clone());
        // One way only: answers of the egress arrive, what is sent to it does not.
        block(&scene, &a, &b)?;
        let start = |site: &Site, labels: &[&str], own: &str| {
            Agent::start(&site.host, labels, &manifests(&["network.yaml", own])?)
        };
        let _hub = start(scene.site("hub")?, &["dmvpn.io/hub=hub1"], "hub-lan.yaml")?;
        let branch_a = start(&a, &[], "branch-a.yaml")?;
        let branch_b = start(&b, &[], "branch-b.yaml")?;
        for (agent, other) in [(&branch_a, &b), (&branch_b, &a)] {
            agent.wait_until_up(NETWORK, SOON)?;
            wait::until(SOON, "the other's LAN", || {
                let way = agent.host().run(&["ip", "route", "get", &other.lan_host().to_string()])?;
                wait::ensure(way.contains(TUNNEL), || way)
            })?;
        }
        let (there, back) =
            both_ways((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()), 2_000, TEN_MS)?;
        println!("a → b: {there}\nb → a: {back}");
        for report in [&there, &back] {
            report.ensure_nothing_lost()?;
            ensure!(report.switch().is_none(), "left the hub's path: {report}");
        }
        let said = reason(&branch_a, b.lan_host().into())?;
        ensure!(said == format!("the way to {BRANCH_B} at {} does not carry packets", b.nbma()), "{said}");
        ensure!(ups(&branch_a) + ups(&branch_b) == 0, "flapped");
        // Opened: direct when the back-off is over.
        scene.isp.nft("delete table ip firewall\n")?;
        for (from, to, hop) in [(&a, &b, BRANCH_B), (&b, &a, BRANCH_A)] {
            wait::until(Duration::from_secs(100), "a direct path", || {
                Ping::start(&from.lan, to.lan_host().into(), 20, TEN_MS)?.finish()?.ensure_nothing_lost()?;
                let way = from.host.run(&["ip", "route", "get", &to.lan_host().to_string()])?;
                wait::ensure(way.contains(&format!("via {hop} ")), || way)
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_way_that_is_blocked_in_use_is_left_within_seconds() {
    ring3_with(NEEDS, |lab| {
        let branches = Branches::start(Scene::build(lab)?)?;
        let (a, b) = (branches.a()?, branches.b()?);
        let run = Ping::start(&a.lan, b.lan_host().into(), 2_000, TEN_MS)?;
        run.wait_for_reply(100, SOON)?;
        block(&branches.scene, a, b)?;
        let report = run.finish()?;
        println!("blocked in use: {report}");
        ensure!(report.longest_gap() < Duration::from_millis(5_500), "{report}");
        ensure!(report.replies.last().is_some_and(|r| r.sequence == report.sent), "{report}");
        ensure!(report.longest_gap() > Duration::from_millis(500), "was it blocked at all? {report}");
        let said = reason(&branches.overlay.branch_a, b.lan_host().into())?;
        ensure!(said.contains("no longer carries packets"), "{said}");
        Ok(())
    });
}
