//! Two branches whose LANs have the same addresses: told so by name while they clash, and mapped 1:1 to prefixes of their
//! own by `advertiseAs`. Looked at from both LANs and on the wire.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::{Agent, Capture, Host, Ping, ping};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::overlay::{BRANCH_A, BRANCH_B, NETWORK, TUNNEL, overlay6, quickstart};
use e2e::scene::{Scene, Site, plan};
use e2e::wait;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(240) };
/// What each LAN is called in the overlay.
const NAMES: [(&str, &str); 2] = [("10.120.0.0/24", "fd00:120::/64"), ("10.130.0.0/24", "fd00:130::/64")];
/// The host in each LAN, by that name.
const HOSTS: [(Ipv4Addr, Ipv6Addr); 2] = [
    (Ipv4Addr::new(10, 120, 0, 10), Ipv6Addr::new(0xfd00, 0x120, 0, 0, 0, 0, 0, 10)),
    (Ipv4Addr::new(10, 130, 0, 10), Ipv6Addr::new(0xfd00, 0x130, 0, 0, 0, 0, 0, 10)),
];

fn network() -> Result<String> {
    Ok(quickstart("network.yaml")?
        .replace("overlay: [10.255.0.0/16]", "overlay: [10.255.0.0/16, 'fd00:255::/64']")
        .replace("overlayAddresses: [10.255.0.1]", "overlayAddresses: [10.255.0.1, 'fd00:255::1']"))
}

fn spoke(name: &str, overlay: Ipv4Addr, names: Option<(&str, &str)>) -> String {
    let (v4, v6) = names.map_or_else(Default::default, |(v4, v6)| {
        (format!(", advertiseAs: {v4}"), format!(", advertiseAs: '{v6}'"))
    });
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {name}}}
spec:
  networkRef: {{name: branches}}
  placement: {{type: Node, nodeName: {name}}}
  overlayAddresses: [{overlay}, '{}']
  subnets: [{{cidr: 10.20.0.0/24{v4}}}, {{cidr: 'fd00:20::/64'{v6}}}]
",
        overlay6(overlay)
    )
}

fn start(site: &Site, labels: &[&str], own: String) -> Result<Agent> {
    let files = BTreeMap::from([("network.yaml".to_owned(), network()?), ("own.yaml".to_owned(), own)]);
    Agent::start_confined(&site.host, labels, &files)
}

/// A TCP stream for a second, each way, that has to carry something.
fn streams(from: &Host, to: &Host, address: IpAddr) -> Result<()> {
    let _server = to.spawn("iperf3-server", &["iperf3", "--server", "--one-off"])?;
    let address = address.to_string();
    let words = ["iperf3", "--json", "--time", "1", "--bidir", "--client", &address];
    let said: serde_json::Value = wait::until(SOON, "a stream", || {
        let said: serde_json::Value = serde_json::from_str(&from.run(&words)?)?;
        ensure!(said["error"].is_null(), "{}", said["error"]);
        Ok(said)
    })?;
    for end in ["sum_received", "sum_received_bidir_reverse"] {
        let bytes = said["end"][end]["bytes"].as_u64().unwrap_or(0);
        ensure!(bytes > 100_000, "{address}: {end} {bytes}: {}", said["end"]);
    }
    Ok(())
}

/// Both ways between the LANs by their names, nothing lost.
fn both_ways(a: &Site, b: &Site, count: u32) -> Result<()> {
    for v6 in [false, true] {
        let host = |at: usize| if v6 { IpAddr::from(HOSTS[at].1) } else { HOSTS[at].0.into() };
        let (there, back) = ping::both_ways((&a.lan, host(0)), (&b.lan, host(1)), count, TEN_MS)?;
        there.ensure_nothing_lost()?;
        back.ensure_nothing_lost()?;
    }
    Ok(())
}

#[test]
fn two_lans_of_the_same_prefix_are_told_and_mapped() {
    ring3_with(NEEDS, |lab| {
        let mut scene = Scene::empty(lab)?;
        let hub = scene
            .add(lab, plan("hub", "192.0.2.2/24", "2001:db8:2::2/64", "10.10.0.0/24", "fd00:10::/64")?)?;
        let a = scene.add(
            lab,
            plan("branch-a", "198.51.100.2/24", "2001:db8:a::2/64", "10.20.0.0/24", "fd00:20::/64")?,
        )?;
        let b = scene.add(
            lab,
            plan("branch-b", "203.0.113.2/24", "2001:db8:b::2/64", "10.20.0.0/24", "fd00:20::/64")?,
        )?;
        let at_hub = start(&hub, &["dmvpn.io/hub=hub1"], quickstart("hub-lan.yaml")?)?;
        let mut at_a = start(&a, &[], spoke("branch-a", BRANCH_A, None))?;
        at_a.wait_until_up(NETWORK, SOON)?;

        // The second one of that prefix: the first does not notice.
        let beside = Ping::start(&hub.lan, a.lan_host().into(), 300, TEN_MS)?;
        let at_b = start(&b, &[], spoke("branch-b", BRANCH_B, None))?;
        at_b.wait_until_up(NETWORK, SOON)?;
        let clash = |wanted: bool| {
            wait::until(SOON, "the clash at the branch", || {
                let shown = at_b.tunnel(NETWORK)?;
                let told = ["hub hub1 does not lead to 10.20.0.0/24", "10.255.0.11", "advertiseAs"]
                    .iter()
                    .all(|word| shown.hindrance.contains(word));
                wait::ensure(told == wanted, || shown.hindrance.clone())
            })
        };
        clash(true)?;
        wait::until(SOON, "the clash in the hub's log", || {
            let log = at_hub.log();
            let told = log.lines().any(|line| {
                ["10.20.0.0/24", "10.255.0.12", "10.255.0.11"].iter().all(|word| line.contains(word))
                    && line.contains("overlaps")
            });
            wait::ensure(told, || log)
        })?;
        beside.finish()?.ensure_nothing_lost()?;

        let wires = [&a, &b].map(|site| Capture::start(&scene.isp, &scene.uplink(site), "proto gre"));
        let [wire_a, wire_b] = wires;
        let (wire_a, wire_b) = (wire_a?, wire_b?);
        at_a.write("own.yaml", &spoke("branch-a", BRANCH_A, Some(NAMES[0])))?;
        at_b.write("own.yaml", &spoke("branch-b", BRANCH_B, Some(NAMES[1])))?;
        for (address, via) in [(HOSTS[0].0, BRANCH_A), (HOSTS[1].0, BRANCH_B)] {
            wait::until(SOON, "a route at the hub", || {
                let way = hub.host.run(&["ip", "route", "get", &address.to_string()])?;
                wait::ensure(way.contains(&format!("via {via} dev {TUNNEL}")), || way)
            })?;
        }
        clash(false)?;
        wait::until(SOON, "the first ping", || {
            Ping::start(&a.lan, HOSTS[1].0.into(), 1, TEN_MS)?.finish()?.ensure_nothing_lost()?;
            Ping::start(&a.lan, HOSTS[1].1.into(), 1, TEN_MS)?.finish()?.ensure_nothing_lost()
        })?;
        both_ways(&a, &b, 100)?;
        // The branches found each other: by the names.
        for (site, address, via) in [(&a, HOSTS[1].0, BRANCH_B), (&b, HOSTS[0].0, BRANCH_A)] {
            wait::until(SOON, "a direct path", || {
                both_ways(&a, &b, 5)?;
                let way = site.host.run(&["ip", "route", "get", &address.to_string()])?;
                wait::ensure(way.contains(&format!("via {via} dev {TUNNEL}")), || way)
            })?;
        }
        both_ways(&a, &b, 100)?;
        streams(&a.lan, &b.lan, HOSTS[1].0.into())?;
        streams(&b.lan, &a.lan, HOSTS[0].1.into())?;
        streams(&hub.lan, &b.lan, HOSTS[1].0.into())?;

        // What is said of a packet reaches its sender, under the name that he sent it to.
        let script = format!(
            "exec 3<>/dev/udp/{}/9; echo one >&3; sleep 0.5; (echo two >&3) 2>&1 || true",
            HOSTS[1].0
        );
        let said = a.lan.run(&["bash", "-ec", &script])?;
        ensure!(said.contains("refused"), "no port unreachable: {said:?}");

        // Somebody masquerades all that leaves by whatever link: not what is mapped.
        a.host.nft(
            "table ip foreign { chain post { type nat hook postrouting priority srcnat; oifname != lan0 counter masquerade; }; }",
        )?;
        streams(&a.lan, &b.lan, HOSTS[1].0.into())?;
        both_ways(&a, &b, 20)?;
        let seen = a.host.run(&["nft", "list", "table", "ip", "foreign"])?;
        println!("{seen}");

        // An agent that is killed and started again.
        let pings =
            Ping::start_together(&[(&a.lan, HOSTS[1].0.into()), (&b.lan, HOSTS[0].0.into())], 400, TEN_MS)?;
        at_a.kill()?;
        at_a.restart()?;
        at_a.wait_until_up(NETWORK, SOON)?;
        for run in pings {
            run.finish()?.ensure_nothing_lost()?;
        }

        // On the wire they have their names and no other.
        let packets: Vec<_> = wire_a.stop()?.into_iter().chain(wire_b.stop()?).collect();
        let inner: Vec<_> = packets.iter().filter_map(|packet| packet.inner).collect();
        let local = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[..3] == [10, 20, 0],
            IpAddr::V6(address) => address.segments()[..2] == [0xfd00, 0x20],
        };
        let named = inner.iter().filter(|ip| ip.source == IpAddr::from(HOSTS[0].0)).count();
        let named6 = inner.iter().filter(|ip| ip.source == IpAddr::from(HOSTS[1].1)).count();
        ensure!(named > 200 && named6 > 200, "{named} and {named6} of {}", inner.len());
        // What the first branch said by its own addresses before it had a name has been on its way at most.
        let unnamed: Vec<_> = packets
            .iter()
            .filter(|it| it.inner.is_some_and(|ip| local(ip.source) || local(ip.destination)))
            .collect();
        ensure!(unnamed.is_empty(), "{} with local addresses, one is {}", unnamed.len(), unnamed[0]);
        println!("{} packets on two wires, none with an address of a LAN", inner.len());

        // Without the mapping nothing of it stays.
        at_a.write("own.yaml", &spoke("branch-a", BRANCH_A, None))?;
        wait::until(SOON, "no mapping", || {
            let table = a.host.run(&["nft", "list", "table", "inet", "dmvpn_branches"])?;
            wait::ensure(!table.contains("prefix to"), || table)
        })
    });
}
