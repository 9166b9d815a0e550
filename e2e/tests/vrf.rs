//! VRFs: two overlays of the same prefixes in two VRFs of the same boxes, with shortcuts in each, and an underlay in a VRF of
//! its own (front door). VRFs are the host's: one that is missing, or another than is meant, is told with the cure.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::{Agent, Capture, Host, ping};
use e2e::paths;
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::overlay::{NETWORK, Overlay, TUNNEL, manifests, quickstart};
use e2e::scene::{Scene, Site};
use e2e::wait;
use view::State;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(240) };
/// The two customers: VRF and network of each, GRE key and NHRP's network id.
const CUSTOMERS: [(&str, u32); 2] = [("red", 100), ("blue", 200)];

fn network(vrf: &str, key: u32) -> String {
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {{name: {vrf}}}
spec:
  phase: Phase3
  overlay: [10.255.0.0/16]
  hubs:
  - {{name: hub1, overlayAddresses: [10.255.0.1], nbma: [{{address: 192.0.2.2}}]}}
  tunnel: {{key: {key}, vrf: {vrf}}}
  nhrp: {{networkId: {key}}}
"
    )
}

fn spoke(vrf: &str, site: &Site, number: u8) -> String {
    let (name, lan) = (site.plan.name, site.plan.lan);
    let own =
        if name == "hub" { String::new() } else { format!("  overlayAddresses: [10.255.0.{number}]\n") };
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {vrf}-{name}}}
spec:
  networkRef: {{name: {vrf}}}
  placement: {{type: Node, nodeName: {name}}}
{own}  subnets: [{{cidr: {lan}}}]
"
    )
}

/// The blue VRF, in which a dummy link stands for the LAN: it has the address of the host in the red one.
fn make_blue(site: &Site) -> Result<()> {
    site.host.ip_batch(&[
        "link add blue type vrf table 102".into(),
        "link set blue up".into(),
        "link add cust0 type dummy".into(),
        "link set cust0 master blue".into(),
        "link set cust0 up".into(),
        format!("addr add {}/24 dev cust0", site.lan_host()),
    ])
}

fn start(site: &Site, number: u8, labels: &[&str]) -> Result<Agent> {
    site.host.ip_batch(&[
        "link add red type vrf table 101".into(),
        "link set red up".into(),
        "link set lan0 master red".into(),
    ])?;
    make_blue(site)?;
    let files = CUSTOMERS.iter().flat_map(|(vrf, key)| {
        let own = (format!("{vrf}-own.yaml"), spoke(vrf, site, number));
        [(format!("{vrf}.yaml"), network(vrf, *key)), own]
    });
    Agent::start(&site.host, labels, &files.collect())
}

/// The route of `host` in a VRF to the LAN of `to` leads to `hop` itself.
fn shortcut(host: &Host, vrf: &str, to: &Site, hop: &str) -> Result<()> {
    let way = host.run(&["ip", "route", "get", "vrf", vrf, &to.lan_host().to_string()])?;
    wait::ensure(way.contains(&format!("via {hop} dev dm-{vrf}")), || way)
}

#[test]
fn the_same_overlay_in_two_vrfs() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
        let _hub = start(hub, 1, &["dmvpn.io/hub=hub1"])?;
        let agent_a = start(a, 11, &[])?;
        let agent_b = start(b, 12, &[])?;
        for agent in [&agent_a, &agent_b] {
            for (network, _) in CUSTOMERS {
                agent.wait_until_up(network, SOON)?;
            }
            let problems = agent.report()?.problems;
            ensure!(problems.is_empty(), "{problems:?}");
        }
        let capture = Capture::start(&a.host, "wan0", "proto 47")?;
        let red = || -> Result<()> {
            wait::until(SOON, "the direct path in red", || {
                let ends = ((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()));
                ping::both_ways(ends.0, ends.1, 2, TEN_MS)?;
                shortcut(&a.host, "red", b, "10.255.0.12")?;
                shortcut(&b.host, "red", a, "10.255.0.11")
            })?;
            let (there, back) =
                ping::both_ways((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()), 50, TEN_MS)?;
            for report in [&there, &back] {
                report.ensure_nothing_lost()?;
                ensure!(report.hops().is_some_and(|(_, after)| after == 2), "not direct: {report}");
            }
            Ok(())
        };
        // The same destination, of the other customer: it answers by itself, with no router in between.
        let blue = || -> Result<()> {
            let to = b.lan_host().to_string();
            wait::until(SOON, "the direct path in blue", || {
                let answer = a.host.run(&["ping", "-I", "blue", "-c1", "-W2", &to])?;
                shortcut(&a.host, "blue", b, "10.255.0.12")?;
                wait::ensure(answer.contains("ttl=64"), || answer)
            })
        };
        red()?;
        blue()?;
        // Each by its own key, and none of it anywhere else.
        let seen = capture.packets()?;
        for (source, own, other) in [("10.20.0.10".parse()?, 100, 200), ("10.255.0.11".parse()?, 200, 100)] {
            let to = b.lan_host().into();
            let by = |key: u32| {
                let inner = |p: &&e2e::lab::Peek| {
                    p.inner.is_some_and(|ip| (ip.source, ip.destination) == (source, to))
                };
                seen.iter().filter(inner).filter(|p| p.gre.is_some_and(|gre| gre.key == Some(key))).count()
            };
            ensure!(
                by(own) > 0 && by(other) == 0,
                "{source}: {} by key {own}, {} by {other}",
                by(own),
                by(other)
            );
        }
        for host in [&hub.host, &a.host, &b.host] {
            let main = host.run(&["ip", "route", "show", "table", "main"])?;
            ensure!(!main.contains("10.255.") && !main.contains("dm-"), "in the main table:\n{main}");
        }

        // A VRF that goes takes its tunnel along, and nothing of the other.
        // (What is left of blue must not be in the main table: local addresses there come before any VRF.)
        a.host.ip("link del cust0")?;
        a.host.ip("link del blue")?;
        let told = agent_a.wait_for_state("blue", State::Intf, "VrfMissing", SOON)?;
        ensure!(told.message.contains("ip link add blue type vrf"), "{}", told.message);
        wait::until(SOON, "the tunnel without its VRF to be down", || {
            let link = a.host.run(&["ip", "link", "show", "dm-blue"])?;
            wait::ensure(!link.contains(",UP"), || link)
        })?;
        red()?;
        make_blue(a)?;
        agent_a.wait_until_up("blue", SOON)?;
        blue()?;
        red()?;

        // One customer goes, the other stays; then all.
        agent_b.remove("blue-own.yaml")?;
        agent_b.remove("blue.yaml")?;
        wait::until(SOON, "blue to be gone", || {
            let routes = b.host.run(&["ip", "-d", "route", "show", "table", "102"])?;
            wait::ensure(!routes.contains("proto 214"), || routes)?;
            let links = b.host.run(&["ip", "link"])?;
            wait::ensure(!links.contains("dm-blue"), || links)
        })?;
        red()?;
        agent_b.remove("red-own.yaml")?;
        agent_b.remove("red.yaml")?;
        wait::until(SOON, "all to be gone", || {
            let routes = b.host.run(&["ip", "-d", "route", "show", "table", "all", "proto", "214"])?;
            let (links, tables) = (b.host.run(&["ip", "link"])?, b.host.run(&["nft", "list", "tables"])?);
            wait::ensure(routes.is_empty() && !links.contains("dm-") && !tables.contains("dmvpn"), || {
                format!("{routes}{links}{tables}")
            })
        })
    });
}

#[test]
fn an_underlay_in_a_vrf_of_its_own() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (a, b) = (scene.site("branch-a")?, scene.site("branch-b")?);
        // The internet is in a VRF: nothing of it is in the main table.
        let route = "route replace default via 198.51.100.1 dev wan0 table 110".to_owned();
        a.host.ip_batch(&[
            "link add isp type vrf table 110".into(),
            "link set isp up".into(),
            "link set wan0 master isp".into(),
            route.clone(),
        ])?;
        let main = a.host.run(&["ip", "route", "show", "table", "main"])?;
        ensure!(!main.contains("default") && !main.contains("wan0"), "{main}");
        let before_a = a.host.dump()?;
        let own = |source: &str| -> Result<String> {
            let address = "overlayAddresses: [10.255.0.11]";
            Ok(quickstart("branch-a.yaml")?.replace(address, &format!("{address}\n  tunnelSource: {source}")))
        };
        let files = BTreeMap::from([
            ("network.yaml".to_owned(), quickstart("network.yaml")?),
            ("branch-a.yaml".to_owned(), own("{vrf: isp}")?),
        ]);
        let hub = scene.site("hub")?;
        let overlay = Overlay {
            hub: Agent::start(
                &hub.host,
                &["dmvpn.io/hub=hub1"],
                &manifests(&["network.yaml", "hub-lan.yaml"])?,
            )?,
            branch_a: Agent::start(&a.host, &[], &files)?,
            branch_b: Agent::start(&b.host, &[], &manifests(&["network.yaml", "branch-b.yaml"])?)?,
            before_a,
        };
        let agent = &overlay.branch_a;
        agent.wait_until_up(NETWORK, SOON)?;
        overlay.branch_b.wait_until_up(NETWORK, SOON)?;
        let link = a.host.run(&["ip", "-d", "link", "show", TUNNEL])?;
        ensure!(link.contains("dev isp") && link.contains("local 198.51.100.2"), "{link}");
        let direct = || -> Result<()> {
            wait::until(SOON, "the direct path", || {
                let ends = ((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()));
                let (there, back) = ping::both_ways(ends.0, ends.1, 20, TEN_MS)?;
                for report in [&there, &back] {
                    report.ensure_nothing_lost()?;
                    ensure!(report.hops().is_some_and(|(_, after)| after == 2), "not direct: {report}");
                }
                Ok(())
            })
        };
        direct()?;

        // Another VRF than is meant, and none.
        agent.write("branch-a.yaml", &own("{from: Interface, interface: wan0}")?)?;
        let told = agent.wait_for_state(NETWORK, State::Intf, "VrfMismatch", SOON)?;
        ensure!(told.message.contains("wan0 is in VRF isp: set tunnelSource.vrf to isp"), "{}", told.message);
        for from in ["from: Interface, interface: wan0", "from: Address, address: 198.51.100.2"] {
            agent.write("branch-a.yaml", &own(&format!("{{{from}, vrf: isp}}"))?)?;
            agent.wait_until_up(NETWORK, SOON)?;
            direct()?;
        }
        agent.write("branch-a.yaml", &own("{vrf: elsewhere}")?)?;
        let told = agent.wait_for_state(NETWORK, State::Intf, "VrfMissing", SOON)?;
        ensure!(
            told.message.contains("tunnelSource.vrf: this node has no VRF elsewhere"),
            "{}",
            told.message
        );
        agent.write("branch-a.yaml", &own("{vrf: isp}")?)?;
        agent.wait_until_up(NETWORK, SOON)?;
        direct()?;
        // The underlay's only way goes, and comes back.
        a.host.ip("route del default table 110")?;
        agent.wait_for_state(NETWORK, State::Intf, "NoDefaultRoute", SOON)?;
        a.host.ip(&route)?;
        agent.wait_until_up(NETWORK, SOON)?;
        direct()?;

        agent.remove("branch-a.yaml")?;
        agent.remove("network.yaml")?;
        wait::until(SOON, "all of it to go", || overlay.before_a.ensure_equal(&a.host.dump()?))
    });
}

/// The example: inside and outside in a VRF each.
#[test]
fn an_overlay_in_one_and_its_underlay_in_another() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a) = (scene.site("hub")?, scene.site("branch-a")?);
        let example = |file: &str| -> Result<(String, String)> {
            let path = paths::repository().join("examples/vrf").join(file);
            Ok((file.to_owned(), fs::read_to_string(path)?))
        };
        for site in [hub, a] {
            site.host.ip_batch(&[
                "link add red type vrf table 101".into(),
                "link set red up".into(),
                "link set lan0 master red".into(),
            ])?;
        }
        a.host.ip_batch(&[
            "link add isp type vrf table 110".into(),
            "link set isp up".into(),
            "link set wan0 master isp".into(),
            "route add default via 198.51.100.1 dev wan0 table 110".into(),
        ])?;
        let before = a.host.dump()?;
        let own = ("own.yaml".to_owned(), spoke("red", hub, 1));
        let _hub = Agent::start(
            &hub.host,
            &["dmvpn.io/hub=hub1"],
            &BTreeMap::from([example("network.yaml")?, own]),
        )?;
        let files = BTreeMap::from([example("network.yaml")?, example("branch-a.yaml")?]);
        let agent = Agent::start(&a.host, &[], &files)?;
        agent.wait_until_up("red", SOON)?;
        wait::until(SOON, "the way to the hub's LAN, and back", || {
            shortcut(&a.host, "red", hub, "10.255.0.1")?;
            shortcut(&hub.host, "red", a, "10.255.0.11")
        })?;
        let (there, back) =
            ping::both_ways((&a.lan, a.lan_host().into()), (&hub.lan, hub.lan_host().into()), 50, TEN_MS)?;
        there.ensure_nothing_lost()?;
        back.ensure_nothing_lost()?;
        agent.remove("branch-a.yaml")?;
        agent.remove("network.yaml")?;
        wait::until(SOON, "all of it to go", || before.ensure_equal(&a.host.dump()?))
    });
}

/// GRE keepalives of Phase 1 where inside and outside of both ends are in VRFs: sent by the VRF, and answered by it.
#[test]
fn keepalives_go_by_the_vrf_of_the_underlay() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let (hub, a) = (scene.site("hub")?, scene.site("branch-a")?);
        for (site, gateway) in [(hub, "192.0.2.1"), (a, "198.51.100.1")] {
            site.host.ip_batch(&[
                "link add red type vrf table 101".into(),
                "link set red up".into(),
                "link set lan0 master red".into(),
                "link add isp type vrf table 110".into(),
                "link set isp up".into(),
                "link set wan0 master isp".into(),
                format!("route replace default via {gateway} dev wan0 table 110"),
            ])?;
        }
        let text = network("red", 100)
            .replace("phase: Phase3", "phase: Phase1")
            .replace("nbma: [{address: 192.0.2.2}]", "nbma: [{address: 192.0.2.2}], tunnelSource: {vrf: isp}")
            .replace("vrf: red}", "vrf: red, keepalive: {periodSeconds: 1, retries: 2}}");
        let files = |site: &Site, number| {
            let own =
                spoke("red", site, number).replace("  placement", "  tunnelSource: {vrf: isp}\n  placement");
            BTreeMap::from([("red.yaml".to_owned(), text.clone()), ("own.yaml".to_owned(), own)])
        };
        let on_hub = Agent::start(&hub.host, &["dmvpn.io/hub=hub1"], &files(hub, 1))?;
        let agent = Agent::start(&a.host, &[], &files(a, 11))?;
        agent.wait_until_up("red", SOON)?;
        let returned = |more: u64| {
            wait::until(SOON, "keepalives to come back", || {
                let seen = agent.tunnel("red")?.keepalive.context("no keepalives")?;
                wait::ensure(seen.returned >= more, || format!("{seen:?}"))?;
                Ok(seen.returned)
            })
        };
        let so_far = returned(3)?;
        let answered = on_hub.tunnel("red")?.keepalive.context("no keepalives")?.answered;
        ensure!(answered >= 3, "the hub answered {answered}");
        scene.isp.nft(
            "table inet block { chain f { type filter hook forward priority 0; meta l4proto gre drop; }; }",
        )?;
        agent.wait_for_state("red", State::Intf, "KeepaliveLost", SOON)?;
        scene.isp.nft("delete table inet block")?;
        agent.wait_until_up("red", SOON)?;
        returned(so_far + 3)?;
        let (there, back) =
            ping::both_ways((&a.lan, a.lan_host().into()), (&hub.lan, hub.lan_host().into()), 50, TEN_MS)?;
        there.ensure_nothing_lost()?;
        back.ensure_nothing_lost()
    });
}
