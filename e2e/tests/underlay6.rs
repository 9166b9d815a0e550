//! Tunnels over an IPv6 internet: hub and two branches, with an overlay of IPv4, of IPv6, and of both. Shortcuts, a killed
//! agent, strangers with and without the key, and nothing left behind. Then every combination of underlay, kind of tunnel
//! (multipoint; point-to-point, in Phase 1) and overlay.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::{Agent, Capture, Host, Lab, Ping, ping};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::overlay::{NETWORK, TUNNEL};
use e2e::scene::{Scene, Site};
use e2e::wait;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);

/// Families of an overlay, and whether that is over IPv6.
#[derive(Clone, Copy)]
struct Overlay {
    v4: bool,
    v6: bool,
    over6: bool,
}

impl Overlay {
    /// Those of two texts that it has.
    fn list(self, v4: &str, v6: &str) -> String {
        let all = [(self.v4, v4), (self.v6, v6)];
        all.iter().filter(|(has, _)| *has).map(|(_, text)| format!("'{text}'")).collect::<Vec<_>>().join(", ")
    }

    fn network(self, phase: &str, hub: &Site) -> String {
        format!(
            "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {{name: branches}}
spec:
  phase: {phase}
  overlay: [{overlay}]
  hubs:
  - {{name: hub1, overlayAddresses: [{hubs}], nbma: [{{address: '{nbma}'}}]}}
  tunnel: {{key: 100, underlayFamily: {family}}}
  nhrp: {{networkId: 100}}
",
            overlay = self.list("10.255.0.0/16", "fd00:255::/64"),
            hubs = self.list("10.255.0.1", "fd00:255::1"),
            family = if self.over6 { "IPv6" } else { "IPv4" },
            nbma = self.nbma(hub),
        )
    }

    /// Where a site is.
    fn nbma(self, site: &Site) -> IpAddr {
        if self.over6 { site.nbma6().into() } else { site.nbma().into() }
    }

    fn spoke(self, site: &Site, number: u8) -> String {
        let (name, lan, lan6) = (site.plan.name, site.plan.lan, site.plan.lan6);
        let own = self.list(&format!("10.255.0.{number}"), &format!("fd00:255::{number}"));
        let own = if name == "hub" { String::new() } else { format!("  overlayAddresses: [{own}]\n") };
        format!(
            "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {name}}}
spec:
  networkRef: {{name: branches}}
  placement: {{type: Node, nodeName: {name}}}
{own}  subnets: [{subnets}]
",
            subnets = [(self.v4, lan.to_string()), (self.v6, lan6.to_string())]
                .iter()
                .filter(|(has, _)| *has)
                .map(|(_, cidr)| format!("{{cidr: '{cidr}'}}"))
                .collect::<Vec<_>>()
                .join(", "),
        )
    }

    /// LAN hosts of two sites, in each family.
    fn pairs(self, a: &Site, b: &Site) -> Vec<(IpAddr, IpAddr)> {
        let v4 = self.v4.then(|| (a.lan_host().into(), b.lan_host().into()));
        let v6 = self.v6.then(|| (a.lan_host6().into(), b.lan_host6().into()));
        v4.into_iter().chain(v6).collect()
    }

    fn start(self, scene: &Scene, phase: &str) -> Result<[Agent; 3]> {
        let hub = scene.site("hub")?;
        let start = |name: &str, number: u8, labels: &[&str]| -> Result<Agent> {
            let site = scene.site(name)?;
            let files = BTreeMap::from([
                ("network.yaml".to_owned(), self.network(phase, hub)),
                ("own.yaml".to_owned(), self.spoke(site, number)),
            ]);
            Agent::start(&site.host, labels, &files)
        };
        let agents = [
            start("hub", 1, &["dmvpn.io/hub=hub1"])?,
            start("branch-a", 11, &[])?,
            start("branch-b", 12, &[])?,
        ];
        for agent in &agents {
            agent.wait_until_up(NETWORK, SOON)?;
            let problems = agent.report()?.problems;
            ensure!(problems.is_empty(), "{problems:?}");
        }
        for agent in agents.iter().skip(1) {
            wait::until(SOON, "the path MTU to the hub", || {
                let tunnel = agent.tunnel(NETWORK)?;
                wait::ensure(tunnel.path_mtu == Some(tunnel.mtu), || format!("{:?}", tunnel.path_mtu))
            })?;
        }
        Ok(agents)
    }
}

/// Both ways at once, from the first packet on: nothing is lost, and the last ones take so many routers.
fn exchange(overlay: Overlay, a: &Site, b: &Site, routers: u8) -> Result<()> {
    for (from, to) in overlay.pairs(a, b) {
        // The hub tells the prefixes after the registration: the pings begin when both ends have them.
        for (host, target) in [(&a.host, to), (&b.host, from)] {
            wait::until(SOON, &format!("a route to {target} at {}", host.name()), || {
                let way = host.run(&["ip", "route", "get", &target.to_string()])?;
                wait::ensure(way.contains(TUNNEL), || way)
            })?;
        }
        let (there, back) = ping::both_ways((&a.lan, from), (&b.lan, to), 200, TEN_MS)?;
        println!("{from} → {to}: {there}\n{to} → {from}: {back}");
        for report in [&there, &back] {
            report.ensure_nothing_lost()?;
            ensure!(report.hops().is_some_and(|(_, after)| after == routers), "{routers} routers: {report}");
        }
    }
    Ok(())
}

/// One combination: in Phase 3 the branches get direct, in Phase 1 each has a link to its hub and to nobody else.
fn combination(lab: &Lab, overlay: Overlay, phase: &str) -> Result<()> {
    let scene = Scene::build(lab)?;
    let [_hub, branch_a, _b] = overlay.start(&scene, phase)?;
    let link = branch_a.host().ip_json(&format!("-d link show dev {TUNNEL}"))?;
    let (kind, remote) = (&link[0]["linkinfo"]["info_kind"], &link[0]["linkinfo"]["info_data"]["remote"]);
    ensure!(*kind == if overlay.over6 { "ip6gre" } else { "gre" }, "{link}");
    let hub = overlay.nbma(scene.site("hub")?).to_string();
    ensure!((*remote == hub.as_str()) == (phase == "Phase1"), "{link}");
    let routers = if phase == "Phase1" { 3 } else { 2 };
    exchange(overlay, scene.site("branch-a")?, scene.site("branch-b")?, routers)
}

macro_rules! combinations {
    ($($name:ident: $v4:literal, $v6:literal, over6 $over6:literal, $phase:literal;)+) => {
        $(#[test]
        fn $name() {
            let needs = Needs { deadline: Duration::from_secs(240), ..Needs::default() };
            let overlay = Overlay { v4: $v4, v6: $v6, over6: $over6 };
            ring3_with(needs, |lab| combination(lab, overlay, $phase));
        })+
    };
}

combinations! {
    multipoint_over_ipv4_with_ipv4: true, false, over6 false, "Phase3";
    multipoint_over_ipv4_with_ipv6: false, true, over6 false, "Phase3";
    multipoint_over_ipv4_with_both: true, true, over6 false, "Phase3";
    multipoint_over_ipv6_with_ipv4: true, false, over6 true, "Phase3";
    multipoint_over_ipv6_with_ipv6: false, true, over6 true, "Phase3";
    multipoint_over_ipv6_with_both: true, true, over6 true, "Phase3";
    point_to_point_over_ipv4_with_ipv4: true, false, over6 false, "Phase1";
    point_to_point_over_ipv4_with_ipv6: false, true, over6 false, "Phase1";
    point_to_point_over_ipv4_with_both: true, true, over6 false, "Phase1";
    point_to_point_over_ipv6_with_ipv4: true, false, over6 true, "Phase1";
    point_to_point_over_ipv6_with_ipv6: false, true, over6 true, "Phase1";
    point_to_point_over_ipv6_with_both: true, true, over6 true, "Phase1";
}

/// Packets that the hub's filter dropped.
fn strangers(host: &Host) -> Result<u64> {
    let text = host.run(&["nft", "list", "chain", "inet", "dmvpn_branches", "strangers"])?;
    let counted = text.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
    counted.and_then(|n| n.parse().ok()).with_context(|| text.clone())
}

#[test]
fn both_families_a_killed_agent_strangers_and_the_end() {
    ring3_with(Needs { deadline: Duration::from_secs(240), ..Needs::default() }, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
        let router = scene.site("router")?;
        let before = a.host.dump()?;
        let both = Overlay { v4: true, v6: true, over6: true };
        let [_hub, mut branch_a, _b] = both.start(&scene, "Phase3")?;
        exchange(both, a, b, 2)?;

        // The agent dies and comes back: nobody notices.
        let pings = Ping::start_together(
            &[(&a.lan, b.lan_host().into()), (&a.lan, b.lan_host6().into())],
            300,
            TEN_MS,
        )?;
        branch_a.kill()?;
        branch_a.restart()?;
        branch_a.wait_until_up(NETWORK, SOON)?;
        for ping in pings {
            ping.finish()?.ensure_nothing_lost()?;
        }

        // Who has the key and is no member, and a member's neighbour with another key.
        let ping_hub = "ping -q -c 3 -i 0.1 -W 0.3 10.255.0.1 >/dev/null 2>&1 && echo answered || true";
        for key in [100, 101] {
            let earlier = strangers(&hub.host)?;
            router.host.sh(&format!(
                "ip link add foreign type ip6gre local {} remote {} key {key} encaplimit none
                 ip link set foreign up
                 ip addr add 10.255.0.99/32 dev foreign
                 ip route add 10.255.0.1 dev foreign",
                router.nbma6(),
                hub.nbma6()
            ))?;
            let said = router.host.sh(ping_hub)?;
            router.host.ip("link del foreign")?;
            ensure!(said.is_empty(), "with key {key}: {said}");
            let counted = strangers(&hub.host)? - earlier;
            ensure!(counted == 3, "with key {key} {counted} of 3 packets were counted");
        }

        // Drift: a route by the tunnel goes, and one gets another outer header.
        for drift in [
            "ip route del 10.30.0.0/24 via 10.255.0.12",
            "ip -6 route del fd00:30::/64 via fd00:255::12",
            "ip link set dm-branches down",
        ] {
            a.host.sh(drift).context(drift)?;
            wait::until(SOON, drift, || {
                for target in [b.lan_host().to_string(), b.lan_host6().to_string()] {
                    let way = a.host.run(&["ip", "route", "get", &target])?;
                    wait::ensure(way.contains(&b.nbma6().to_string()), || way)?;
                }
                Ok(())
            })?;
            exchange(both, a, b, 2).context(drift)?;
        }

        branch_a.remove("own.yaml")?;
        branch_a.remove("network.yaml")?;
        wait::until(SOON, "all of the network to go", || before.ensure_equal(&a.host.dump()?))
    });
}

#[test]
fn a_firewall_that_takes_gre_is_told_over_ipv6_too() {
    ring3_with(Needs { memory_mib: 768, deadline: Duration::from_secs(180) }, |lab| {
        let scene = Scene::build(lab)?;
        let [_hub, mut branch, _other] =
            Overlay { v4: true, v6: false, over6: true }.start(&scene, "Phase3")?;
        branch.kill()?;
        scene.isp.nft(
            "table inet block { chain f { type filter hook forward priority 0; meta l4proto gre drop; }; }",
        )?;
        branch.restart()?;
        let tunnel = branch.wait_for_state(NETWORK, view::State::Nhrp, "GreBlocked", 2 * SOON)?;
        let hub = scene.site("hub")?.nbma6();
        ensure!(tunnel.message.contains(&format!("{hub} answers ping")), "{}", tunnel.message);
        scene.isp.nft("delete table inet block")?;
        branch.wait_until_up(NETWORK, 2 * SOON).map(drop)
    });
}

/// A hub's link takes any key, so that its kernel answers nobody: the agent says so in its place, unless another link of
/// the node has that key. Without a tunnel the kernel itself says it.
#[test]
fn a_wrong_key_is_told_over_ipv6_too() {
    ring3_with(Needs { memory_mib: 768, deadline: Duration::from_secs(240) }, |lab| {
        let scene = Scene::build(lab)?;
        let overlay = Overlay { v4: true, v6: false, over6: true };
        let [hub, mut branch, _other] = overlay.start(&scene, "Phase3")?;
        let network = overlay.network("Phase3", scene.site("hub")?);
        let network = network.replace("networkId: 100", "networkId: 100, registrationIntervalSeconds: 2");
        let other = network.replace("key: 100", "key: 101");
        let capture = Capture::start(branch.host(), "wan0", "icmp6 and icmp6[icmp6type] == 1")?;
        branch.write("network.yaml", &other)?;
        let tunnel = branch.wait_for_state(NETWORK, view::State::Nhrp, "KeyMismatchSuspected", 2 * SOON)?;
        ensure!(tunnel.message.contains("no tunnel for GRE with key 101"), "{}", tunnel.message);
        let refused = capture.frames()?.len();
        ensure!(refused > 0, "nothing on the wire");
        // Mended, it is up at once.
        branch.write("network.yaml", &network)?;
        branch.wait_until_up(NETWORK, SOON)?;

        // Somebody else's link at the hub, at any of its addresses, has the key: whoever uses it is not told otherwise.
        branch.kill()?;
        let branch6 = scene.site("branch-a")?.nbma6();
        hub.host().ip(&format!("link add gre6 type ip6gre remote {branch6} key 101"))?;
        let before = capture.frames()?.len();
        branch.write("network.yaml", &other)?;
        branch.restart()?;
        wait::until(2 * SOON, "silence", || {
            let tunnel = branch.tunnel(NETWORK)?;
            let failed = tunnel.nhs.first().is_some_and(|nhs| nhs.requests_failed >= 4);
            wait::ensure(failed && tunnel.reason != "KeyMismatchSuspected", || format!("{tunnel:?}"))
        })?;
        let after = capture.frames()?.len();
        ensure!(before == after, "{before} and then {after} refusals");
        branch.kill()?;
        hub.host().ip("link del gre6")?;

        // No tunnel at all.
        hub.remove("own.yaml")?;
        hub.remove("network.yaml")?;
        wait::until(SOON, "no link at the hub", || {
            let links = hub.host().run(&["ip", "-br", "link"])?;
            wait::ensure(!links.contains(TUNNEL), || links)
        })?;
        branch.restart()?;
        branch.wait_for_state(NETWORK, view::State::Nhrp, "KeyMismatchSuspected", 2 * SOON).map(drop)
    });
}
