//! One NHRP network over two links: a hub with an uplink to each of two providers, a tunnel on each of them with the same key
//! and networkId (Cisco: two tunnel interfaces with the same `ip nhrp network-id`). Branches of one provider and of the other
//! talk straight, and a branch with both keeps going when it loses one.
//!
//! ```text
//!               ┌ wan0 192.0.2.2 ── isp ── 198.51.100.2 wan0 branch-a ── lan-branch-a
//!  lan-hub ─ hub                     │ 100.64.0.0/30    wan1 198.19.1.2 ┐ (one test alone)
//!               └ wan1 198.19.0.2 ─ isp2 ─ 203.0.113.2 wan0 branch-b ── lan-branch-b
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::peek::{Nhrp, NhrpKind};
use e2e::lab::{Agent, Capture, Host, Lab, Peek, Ping, ping};
use e2e::ring3;
use e2e::scene::{Scene, Site};
use e2e::wait;

const SOON: Duration = Duration::from_secs(20);
/// Holding time, and a little more.
const LEFT: Duration = Duration::from_secs(16);
const TEN_MS: Duration = Duration::from_millis(10);
/// The hub at its second provider.
const HUB2: &str = "198.19.0.2";

/// The network by the hub's uplink `n` (0 or 1).
fn network(n: u8, key: u32) -> String {
    let (name, nbma) = if n == 0 { ("north", "192.0.2.2") } else { ("south", HUB2) };
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {{name: {name}}}
spec:
  phase: Phase3
  overlay: [10.255.{n}.0/24]
  hubs:
  - name: hub1
    overlayAddresses: [10.255.{n}.1]
    nbma: [{{address: {nbma}}}]
    tunnelSource: {{from: Interface, interface: wan{n}}}
  tunnel: {{key: {key}}}
  nhrp: {{networkId: 7, holdTimeSeconds: 10}}
"
    )
}

/// A branch of network `n` by its uplink `wan`.
fn spoke(n: u8, site: &Site, wan: u8, last: u8) -> String {
    let (name, lan) = (site.plan.name, site.plan.lan);
    let network = if n == 0 { "north" } else { "south" };
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {network}-{name}}}
spec:
  networkRef: {{name: {network}}}
  placement: {{type: Node, nodeName: {name}}}
  tunnelSource: {{from: Interface, interface: wan{wan}}}
  overlayAddresses: [10.255.{n}.{last}]
  subnets: [{{cidr: {lan}}}]
"
    )
}

fn files(texts: &[(&str, String)]) -> BTreeMap<String, String> {
    texts.iter().map(|(name, text)| (format!("{name}.yaml"), text.clone())).collect()
}

/// A second uplink of a host, at the second provider; what has its address goes out by it.
fn second_uplink(lab: &Lab, isp2: &Host, host: &Host, net: &str) -> Result<()> {
    let port = format!("to-{}", host.name());
    lab.link(isp2, &port, host, "wan1")?;
    isp2.ip(&format!("addr add {net}.1/24 dev {port}"))?;
    host.ip_batch(&[
        format!("addr add {net}.2/24 dev wan1"),
        format!("route add default via {net}.1 dev wan1 table 102"),
        format!("rule add from {net}.2 lookup 102"),
    ])
}

/// The scene: branch-b is the second provider's.
fn build(lab: &Lab) -> Result<(Scene, Host)> {
    let scene = Scene::build(lab)?;
    let isp2 = lab.host("isp2")?;
    lab.link(&scene.isp, "peer", &isp2, "peer")?;
    second_uplink(lab, &isp2, &scene.site("hub")?.host, "198.19.0")?;
    second_uplink(lab, &isp2, &scene.site("branch-a")?.host, "198.19.1")?;
    let b = &scene.site("branch-b")?.host;
    b.ip("link del wan0")?;
    lab.link(&isp2, "to-branch-b", b, "wan0")?;
    b.ip_batch(&["addr add 203.0.113.2/24 dev wan0".into(), "route add default via 203.0.113.1".into()])?;
    isp2.ip_batch(&[
        "addr add 203.0.113.1/24 dev to-branch-b".into(),
        "addr add 100.64.0.2/30 dev peer".into(),
        "route add default via 100.64.0.1".into(),
    ])?;
    scene.isp.ip_batch(&[
        "addr add 100.64.0.1/30 dev peer".into(),
        "route add 203.0.113.0/24 via 100.64.0.2".into(),
        "route add 198.19.0.0/16 via 100.64.0.2".into(),
    ])?;
    Ok((scene, isp2))
}

fn until_way(agent: &Agent, target: &str, by: &str, deadline: Duration) -> Result<()> {
    wait::until(deadline, &format!("{} to reach {target} {by}", agent.host().name()), || {
        let way = agent.host().run(&["ip", "route", "get", target])?;
        ensure!(way.contains(by), "{}", way.trim());
        Ok(())
    })
}

/// GRE that holds data.
fn is_data(peek: &Peek) -> bool {
    peek.gre.is_some() && peek.inner.is_some()
}

#[test]
fn branches_of_two_links_talk_straight() {
    ring3(|lab| {
        let (scene, isp2) = build(lab)?;
        let (a, b) = (scene.site("branch-a")?, scene.site("branch-b")?);
        let hub_host = &scene.site("hub")?.host;
        let networks = [("north", network(0, 7)), ("south", network(1, 7))];
        let hub = Agent::start(hub_host, &["dmvpn.io/hub=hub1"], &files(&networks))?;
        let mut on_a =
            Agent::start(&a.host, &[], &files(&[("north", network(0, 7)), ("spoke", spoke(0, a, 0, 11))]))?;
        let on_b =
            Agent::start(&b.host, &[], &files(&[("south", network(1, 7)), ("spoke", spoke(1, b, 0, 12))]))?;
        on_a.wait_until_up("north", SOON)?;
        on_b.wait_until_up("south", SOON)?;
        let (lan_a, lan_b) = (a.lan_host().to_string(), b.lan_host().to_string());
        until_way(&on_a, &lan_b, "via 10.255.0.1 dev dm-north", SOON)?;
        until_way(&on_b, &lan_a, "via 10.255.1.1 dev dm-south", SOON)?;
        let wire_a = Capture::start(&a.host, "wan0", "proto 47")?;
        let wire_b = Capture::start(&b.host, "wan0", "proto 47")?;

        // From the first packet on none is lost; direct, each sees one router less.
        let (there, back) =
            ping::both_ways((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()), 500, TEN_MS)?;
        for report in [&there, &back] {
            println!("across: {report}");
            report.ensure_nothing_lost()?;
            ensure!(report.hops() == Some((3, 2)) || report.hops() == Some((2, 2)), "not direct: {report}");
        }
        until_way(&on_a, &lan_b, "via 10.255.1.12 dev dm-north", SOON)?;
        until_way(&on_b, &lan_a, "via 10.255.0.11 dev dm-south", SOON)?;
        let (nbma_a, nbma_b): (IpAddr, IpAddr) = (a.nbma().into(), b.nbma().into());
        let (hub1, hub2): (IpAddr, IpAddr) = ("192.0.2.2".parse()?, HUB2.parse()?);
        // Each hears of the other by its own link, and asks by it.
        for (wire, from, own) in [(&wire_a, hub1, nbma_a), (&wire_b, hub2, nbma_b)] {
            let told = |p: &Peek| p.is_nhrp(NhrpKind::TrafficIndication) && p.is_between(from, own);
            wire.wait_for(SOON, "a redirect", told)?;
            let asked = |p: &Peek| p.is_nhrp(NhrpKind::ResolutionRequest) && p.is_between(own, from);
            wire.wait_for(SOON, "the request", asked)?;
        }
        for (wire, from, own, asker) in [(&wire_b, hub2, nbma_b, nbma_a), (&wire_a, hub1, nbma_a, nbma_b)] {
            // The other one's request arrives by the hub's own link, and says who asks.
            let handed = |p: &Peek| {
                let asks = |it: &Nhrp| it.source_nbma == Some(asker);
                p.is_nhrp(NhrpKind::ResolutionRequest)
                    && p.is_between(from, own)
                    && p.nhrp.as_ref().is_some_and(asks)
            };
            wire.wait_for(SOON, "the request, handed over", handed)?;
        }
        let direct = |p: &Peek| is_data(p) && p.is_between(nbma_a, nbma_b);
        ensure!(wire_b.count(direct)? > 300, "{} packets came straight", wire_b.count(direct)?);

        // Now nothing of it passes the hub, nor does a dead agent matter.
        let at_hub =
            [Capture::start(hub_host, "wan0", "proto 47")?, Capture::start(hub_host, "wan1", "proto 47")?];
        let ping = Ping::start(&a.lan, b.lan_host().into(), 500, TEN_MS)?;
        on_a.kill()?;
        on_a.restart()?;
        on_a.wait_until_up("north", SOON)?;
        let report = ping.finish()?;
        println!("agent killed: {report}");
        report.ensure_nothing_lost()?;
        for capture in at_hub {
            // What is between the hub and a branch (the path MTU is measured) is none of it.
            let lan = IpAddr::from(b.lan_host());
            let ours = |p: &Peek| p.inner.is_some_and(|it| it.destination == lan || it.source == lan);
            let seen = capture.stop()?.into_iter().filter(ours).count();
            ensure!(seen == 0, "{seen} packets went by the hub");
        }
        // It is renewed: three holding times later it is there still, without a break.
        let ping = Ping::start(&a.lan, b.lan_host().into(), 600, Duration::from_millis(50))?;
        let report = ping.finish()?;
        println!("over three holding times: {report}");
        report.ensure_nothing_lost()?;
        until_way(&on_a, &lan_b, "via 10.255.1.12 dev dm-north", SOON)?;

        // What goes there is taken back here.
        on_b.write("spoke.yaml", &spoke(1, b, 0, 12).replace("10.30.0.0/24", "10.77.0.0/24"))?;
        wait::until(SOON, "the shortcut to be gone", || {
            let routes = on_a.host().run(&["ip", "route", "show", &b.plan.lan.to_string()])?;
            ensure!(routes.is_empty(), "{routes}");
            Ok(())
        })?;
        on_b.write("spoke.yaml", &spoke(1, b, 0, 12))?;
        until_way(&on_a, &lan_b, "dev dm-north", SOON)?;

        // Where the providers do not carry GRE to each other, traffic stays with the hub.
        isp2.nft(
            "table inet cut { chain f { type filter hook forward priority 0; iifname peer ip protocol 47 drop; }; }",
        )?;
        wait::until(LEFT, "the hub's path again", || {
            Ping::start(&a.lan, b.lan_host().into(), 50, TEN_MS)?.finish()?.ensure_nothing_lost()?;
            until_way(&on_a, &lan_b, "via 10.255.0.1 dev dm-north", Duration::from_secs(1))
        })?;
        isp2.run(&["nft", "delete", "table", "inet", "cut"])?;

        // With keys that differ nobody is told of a way that he could not use.
        hub.write("south.yaml", &network(1, 8))?;
        on_b.write("south.yaml", &network(1, 8))?;
        on_b.wait_until_up("south", SOON)?;
        let other = |p: &Peek| p.gre.is_some_and(|gre| gre.key == Some(8)) && p.is_between(hub2, nbma_b);
        wire_b.wait_for(SOON, "the other key", other)?;
        until_way(&on_a, &lan_b, "via 10.255.0.1 dev dm-north", LEFT)?;
        wait::until(SOON, "both ways by the hub", || {
            let pings = Ping::start(&a.lan, b.lan_host().into(), 20, TEN_MS)?.finish()?;
            pings.ensure_nothing_lost()
        })?;
        let before = wire_a.count(|p| p.is_nhrp(NhrpKind::TrafficIndication))?;
        Ping::start(&a.lan, b.lan_host().into(), 300, TEN_MS)?.finish()?.ensure_nothing_lost()?;
        let after = wire_a.count(|p| p.is_nhrp(NhrpKind::TrafficIndication))?;
        ensure!(before == after, "redirects to a tunnel with another key");
        Ok(())
    });
}

#[test]
fn the_loss_of_one_link_moves_its_traffic_to_the_other() {
    ring3(|lab| {
        let (scene, _isp2) = build(lab)?;
        let (a, b) = (scene.site("branch-a")?, scene.site("branch-b")?);
        let networks = [("north", network(0, 7)), ("south", network(1, 7))];
        let with = |more: &[(&str, String)]| files(&[&networks[..], more].concat());
        let _hub = Agent::start(&scene.site("hub")?.host, &["dmvpn.io/hub=hub1"], &with(&[]))?;
        let both = [("spoke0", spoke(0, a, 0, 11)), ("spoke1", spoke(1, a, 1, 11))];
        let on_a = Agent::start(&a.host, &[], &with(&both))?;
        let on_b =
            Agent::start(&b.host, &[], &files(&[("south", network(1, 7)), ("spoke", spoke(1, b, 0, 12))]))?;
        for network in ["north", "south"] {
            on_a.wait_until_up(network, SOON)?;
        }
        on_b.wait_until_up("south", SOON)?;
        let (lan_a, lan_b) = (a.lan_host().to_string(), b.lan_host().to_string());
        until_way(&on_a, &lan_b, "dev dm-north", SOON)?;
        until_way(&on_b, &lan_a, "dev dm-south", SOON)?;
        let ping = Ping::start(&a.lan, b.lan_host().into(), 20_000, TEN_MS)?;
        ping.wait_for_reply(50, SOON)?;
        // The first link's path goes to the other provider, straight.
        until_way(&on_a, &lan_b, "via 10.255.1.12 dev dm-north", SOON)?;
        let back = Ping::start(&b.lan, a.lan_host().into(), 20_000, TEN_MS)?;
        back.wait_for_reply(50, SOON)?;

        scene.isp.ip(&format!("link set {} down", scene.uplink(a)))?;
        until_way(&on_a, &lan_b, "dev dm-south", LEFT)?;
        let moved = (ping.so_far().sent, back.so_far().sent);
        ping.wait_for_reply(moved.0 + 50, LEFT)?;
        back.wait_for_reply(moved.1 + 50, LEFT)?;
        // And straight by that one too.
        until_way(&on_a, &lan_b, "via 10.255.1.12 dev dm-south", SOON)?;
        until_way(&on_b, &lan_a, "via 10.255.1.11 dev dm-south", SOON)?;
        for (name, ping) in [("there", ping), ("back", back)] {
            let report = ping.stop()?;
            println!("over to the second link, {name}: {report}");
            ensure!(report.longest_gap() < LEFT, "{report}");
        }

        // The way back is there before it is used.
        let ping = Ping::start(&a.lan, b.lan_host().into(), 20_000, TEN_MS)?;
        scene.isp.ip(&format!("link set {} up", scene.uplink(a)))?;
        on_a.wait_until_up("north", SOON)?;
        until_way(&on_a, &lan_b, "dev dm-north", SOON)?;
        let returned = ping.so_far().sent;
        ping.wait_for_reply(returned + 50, SOON)?;
        let report = ping.stop()?;
        println!("and back on the first: {report}");
        ensure!(report.longest_gap() < Duration::from_secs(2), "{report}");
        Ok(())
    });
}

/// A loopback as tunnel source: which uplink the tunnel's packets take is the routing's business, and one that is pulled out
/// changes nothing for the tunnel.
#[test]
fn a_loopback_source_outlives_the_uplink_in_use() {
    ring3(|lab| {
        let (scene, isp2) = build(lab)?;
        let (hub, a) = (scene.site("hub")?, scene.site("branch-a")?);
        a.host.ip_batch(&[
            "link add lo1 type dummy".into(),
            "link set lo1 up".into(),
            "addr add 198.18.200.1/32 dev lo1".into(),
            "route add default via 198.19.1.1 dev wan1 metric 100".into(),
        ])?;
        for (isp, direct, peer) in
            [(&scene.isp, "198.51.100.2", "100.64.0.2"), (&isp2, "198.19.1.2", "100.64.0.1")]
        {
            isp.ip_batch(&[
                format!("route add 198.18.200.1 via {direct} metric 10"),
                format!("route add 198.18.200.1 via {peer} metric 20"),
            ])?;
        }
        let network = network(0, 7);
        let own = spoke(0, a, 0, 11).replace("interface: wan0", "interface: lo1");
        let on_hub = Agent::start(&hub.host, &["dmvpn.io/hub=hub1"], &files(&[("north", network.clone())]))?;
        on_hub.write(
            "lan.yaml",
            &spoke(0, hub, 0, 1)
                .replace("  overlayAddresses: [10.255.0.1]\n", "")
                .replace("  tunnelSource: {from: Interface, interface: wan0}\n", ""),
        )?;
        let on_a = Agent::start(&a.host, &[], &files(&[("north", network), ("spoke", own)]))?;
        on_a.wait_until_up("north", SOON)?;
        until_way(&on_a, &hub.lan_host().to_string(), "dev dm-north", SOON)?;
        let link = a.host.run(&["ip", "-d", "link", "show", "dm-north"])?;
        ensure!(link.contains("local 198.18.200.1"), "{link}");
        let ping = Ping::start(&a.lan, hub.lan_host().into(), 20_000, TEN_MS)?;
        ping.wait_for_reply(50, SOON)?;
        let other = Capture::start(&a.host, "wan1", "proto 47")?;
        // Pulled out: it is not there any more, at either end.
        a.host.ip("link del wan0")?;
        // For longer than the holding time.
        wait::stays(Duration::from_secs(12), "the tunnel", || {
            let tunnel = on_a.tunnel("north")?;
            wait::ensure(tunnel.state == view::State::Up, || format!("{:?} {}", tunnel.state, tunnel.message))
        })?;
        let moved = ping.so_far().sent;
        ping.wait_for_reply(moved + 50, SOON)?;
        let report = ping.stop()?;
        println!("an uplink pulled out under a loopback: {report}");
        ensure!(report.longest_gap() < Duration::from_millis(500), "{report}");
        let data = other.count(is_data)?;
        ensure!(data > 500, "{data} packets by the other uplink");
        let index = a.host.run(&["ip", "-d", "link", "show", "dm-north"])?;
        ensure!(index == link, "the link was made anew: {index}");
        Ok(())
    });
}
