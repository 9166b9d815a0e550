//! IPv4 and IPv6 overlay in one tunnel over an IPv4 underlay: both families register, both get the direct path, and
//! spokes without an address of their own get one from the pools that stays.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::{Agent, ping};
use e2e::ring3;
use e2e::scene::Scene;
use e2e::scene::overlay::{NETWORK, TUNNEL};
use e2e::wait;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);

const NETWORK_YAML: &str = "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {name: branches}
spec:
  phase: Phase3
  overlay: [10.255.0.0/16, 'fd00:255::/64']
  hubs:
  - {name: hub1, overlayAddresses: [10.255.0.1, 'fd00:255::1'], nbma: [{address: 192.0.2.2}]}
  addressing: {pools: [10.255.16.0/20, 'fd00:255::1:0/112']}
  tunnel: {key: 100}
  nhrp: {networkId: 100}
";

/// No overlayAddresses: from the pools.
fn spoke(name: &str, lan: &str, lan6: &str) -> String {
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {name}}}
spec:
  networkRef: {{name: branches}}
  placement: {{type: Node, nodeName: {name}}}
  subnets: [{{cidr: {lan}}}, {{cidr: '{lan6}'}}]
"
    )
}

#[test]
fn both_families_get_direct_and_allocated_addresses_stay() {
    ring3(|lab| {
        let scene = Scene::build(lab)?;
        let start = |name: &str, labels: &[&str]| -> Result<Agent> {
            let site = scene.site(name)?;
            let files = BTreeMap::from([
                ("network.yaml".to_owned(), NETWORK_YAML.to_owned()),
                ("own.yaml".to_owned(), spoke(name, &site.plan.lan.to_string(), &site.plan.lan6.to_string())),
            ]);
            Agent::start(&site.host, labels, &files)
        };
        let _hub = start("hub", &["dmvpn.io/hub=hub1"])?;
        let mut branch_a = start("branch-a", &[])?;
        let branch_b = start("branch-b", &[])?;
        for agent in [&branch_a, &branch_b] {
            let tunnel = agent.wait_until_up(NETWORK, SOON)?;
            ensure!(tunnel.addresses.len() == 2, "one address a family: {:?}", tunnel.addresses);
            let problems = agent.report()?.problems;
            ensure!(problems.is_empty(), "{problems:?}");
        }
        let (a, b) = (scene.site("branch-a")?, scene.site("branch-b")?);
        for (from, to) in [
            (IpAddr::from(a.lan_host()), IpAddr::from(b.lan_host())),
            (IpAddr::from(a.lan_host6()), IpAddr::from(b.lan_host6())),
        ] {
            // The hub tells the prefixes after the registration: the pings begin when both ends have them.
            for (host, target) in [(&a.host, to), (&b.host, from)] {
                wait::until(SOON, &format!("a route to {target} at {}", host.name()), || {
                    let way = host.run(&["ip", "route", "get", &target.to_string()])?;
                    wait::ensure(way.contains(TUNNEL), || way)
                })?;
            }
            let (there, back) = ping::both_ways((&a.lan, from), (&b.lan, to), 200, TEN_MS)?;
            for report in [&there, &back] {
                report.ensure_nothing_lost()?;
                ensure!(report.hops().is_some_and(|(_, after)| after == 2), "not direct: {report}");
            }
            println!("{from} → {to}: {there}\n{to} → {from}: {back}");
        }
        let text = branch_a.cli("show ipv6 nhrp brief")?.to_lowercase();
        ensure!(text.contains("fd00:30::/64"), "{text}");

        let before = branch_a.tunnel(NETWORK)?.addresses;
        branch_a.kill()?;
        branch_a.restart()?;
        let after = branch_a.wait_until_up(NETWORK, SOON)?.addresses;
        ensure!(after == before, "addresses were {before:?} and are {after:?}");
        Ok(())
    });
}
