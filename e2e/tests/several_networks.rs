//! Several networks on one node: the same prefix by both of them, and two of one networkId that know of each other.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::{Agent, Ping};
use e2e::scene::Scene;
use e2e::{ring3, wait};

const SOON: Duration = Duration::from_secs(20);
/// A dead hub is left within 3 s; its spokes are forgotten with their holding time of 10 s.
const LEFT: Duration = Duration::from_secs(16);
/// On a busy machine.
const BACK: Duration = Duration::from_secs(2);
const TEN_MS: Duration = Duration::from_millis(10);

/// Network number `n` (key, third octet of the overlay), with the hub at its site's address.
fn network(name: &str, n: u8, id: u32) -> String {
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {{name: {name}}}
spec:
  phase: Phase3
  overlay: [10.255.{n}.0/24]
  hubs: [{{name: hub1, overlayAddresses: [10.255.{n}.1], nbma: [{{address: 192.0.2.2}}]}}]
  tunnel: {{key: {n}}}
  nhrp: {{networkId: {id}, holdTimeSeconds: 10}}
"
    )
}

fn spoke(network: &str, node: &str, address: &str, lan: &str) -> String {
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {network}-{node}}}
spec:
  networkRef: {{name: {network}}}
  placement: {{type: Node, nodeName: {node}}}
  overlayAddresses: [{address}]
  subnets: [{{cidr: {lan}}}]
"
    )
}

fn files(texts: &[(&str, String)]) -> BTreeMap<String, String> {
    texts.iter().map(|(name, text)| (format!("{name}.yaml"), text.clone())).collect()
}

/// How a host routes there.
fn way(agent: &Agent, target: &str) -> Result<String> {
    agent.host().run(&["ip", "route", "get", target])
}

fn until_way(agent: &Agent, target: &str, by: &str, deadline: Duration) -> Result<()> {
    wait::until(deadline, &format!("{} to reach {target} {by}", agent.host().name()), || {
        let way = way(agent, target)?;
        ensure!(way.contains(by), "{}", way.trim());
        Ok(())
    })
}

/// Two networks over the same sites (two providers, in Cisco's words dual cloud): both tell the same prefixes. Each has its
/// metrics, the first one's routes are used, and the other takes over when it is cut.
#[test]
fn the_second_network_takes_over() {
    ring3(|lab| {
        let scene = Scene::build(lab)?;
        let both = [("blue", network("blue", 1, 1)), ("red", network("red", 2, 2))];
        let with = |node: &str, last: u8, lan: &str| {
            let mut all = both.to_vec();
            all.push(("blue-spoke", spoke("blue", node, &format!("10.255.1.{last}"), lan)));
            all.push(("red-spoke", spoke("red", node, &format!("10.255.2.{last}"), lan)));
            files(&all)
        };
        let (a, b) = (scene.site("branch-a")?, scene.site("branch-b")?);
        let hub = Agent::start(&scene.site("hub")?.host, &["dmvpn.io/hub=hub1"], &files(&both))?;
        let on_a = Agent::start(&a.host, &[], &with("branch-a", 11, &a.plan.lan.to_string()))?;
        let on_b = Agent::start(&b.host, &[], &with("branch-b", 12, &b.plan.lan.to_string()))?;
        for agent in [&on_a, &on_b] {
            agent.wait_until_up("blue", SOON)?;
            agent.wait_until_up("red", SOON)?;
        }
        let (lan_a, lan_b) = (a.lan_host().to_string(), b.lan_host().to_string());
        until_way(&on_a, &lan_b, "dev dm-blue", SOON)?;
        until_way(&on_b, &lan_a, "dev dm-blue", SOON)?;
        // Both have it, side by side, and nobody takes it from the other.
        let routes = |agent: &Agent, prefix: &str| -> Result<Vec<(String, u64)>> {
            let all = agent.host().ip_json(&format!("route show {prefix} proto 214"))?;
            let all = all.as_array().into_iter().flatten();
            let of = |route: &serde_json::Value| {
                (route["dev"].as_str().unwrap_or("-").to_owned(), route["metric"].as_u64().unwrap_or(0))
            };
            Ok(all.map(of).collect())
        };
        let prefix = b.plan.lan.to_string();
        let expected = [("dm-blue".to_owned(), 100), ("dm-red".to_owned(), 104)];
        wait::until(SOON, "both routes", || {
            let routes = routes(&on_a, &prefix)?;
            ensure!(routes == expected, "{routes:?}");
            Ok(())
        })?;
        wait::until(SOON, "both routes at the hub", || {
            let registered = routes(&hub, &prefix)?;
            let expected = [("dm-blue".to_owned(), 99), ("dm-red".to_owned(), 103)];
            ensure!(registered == expected, "{registered:?}");
            Ok(())
        })?;
        let steady = on_a.host().sh("timeout 3 ip monitor route || true")?;
        ensure!(!steady.contains(&prefix), "routes come and go: {steady}");

        let ping = Ping::start(&a.lan, b.lan_host().into(), 20_000, TEN_MS)?;
        ping.wait_for_reply(50, SOON)?;
        // GRE with the key of blue.
        scene.isp.nft(
            "table inet cut { chain f { type filter hook forward priority 0; \
             meta l4proto gre @th,32,32 1 drop; }; }",
        )?;
        until_way(&on_a, &lan_b, "dev dm-red", LEFT)?;
        until_way(&on_b, &lan_a, "dev dm-red", LEFT)?;
        let moved = ping.so_far().sent;
        ping.wait_for_reply(moved + 50, LEFT)?;
        let report = ping.stop()?;
        println!("over to the second network: {report}, longest gap {:?}", report.longest_gap());
        ensure!(report.longest_gap() < LEFT, "{report}");
        // The way back is there before it is used.
        let ping = Ping::start(&a.lan, b.lan_host().into(), 20_000, TEN_MS)?;
        scene.isp.run(&["nft", "delete", "table", "inet", "cut"])?;
        until_way(&on_a, &lan_b, "dev dm-blue", Duration::from_secs(40))?;
        until_way(&on_b, &lan_a, "dev dm-blue", SOON)?;
        let back = ping.so_far().sent;
        ping.wait_for_reply(back + 50, SOON)?;
        let report = ping.stop()?;
        println!("and back: {report}, longest gap {:?}", report.longest_gap());
        ensure!(report.longest_gap() < BACK, "{report}");
        Ok(())
    });
}

/// Two networks of one networkId meet in a hub: what is registered with one is told in the other, and a spoke of one
/// reaches LANs and tunnel addresses of the other. Not so with different ids.
#[test]
fn networks_of_one_id_know_of_each_other() {
    ring3(|lab| {
        let scene = Scene::build(lab)?;
        let (north, south) = (network("north", 1, 7), network("south", 2, 7));
        let (a, b) = (scene.site("branch-a")?, scene.site("branch-b")?);
        let mut hub = Agent::start(
            &scene.site("hub")?.host,
            &["dmvpn.io/hub=hub1"],
            &files(&[("north", north.clone()), ("south", south.clone())]),
        )?;
        let on_a = Agent::start(
            &a.host,
            &[],
            &files(&[
                ("north", north),
                ("spoke", spoke("north", "branch-a", "10.255.1.11", &a.plan.lan.to_string())),
            ]),
        )?;
        let on_b = Agent::start(
            &b.host,
            &[],
            &files(&[
                ("south", south.clone()),
                ("spoke", spoke("south", "branch-b", "10.255.2.12", &b.plan.lan.to_string())),
            ]),
        )?;
        on_a.wait_until_up("north", SOON)?;
        on_b.wait_until_up("south", SOON)?;
        let (lan_a, lan_b) = (a.lan_host().to_string(), b.lan_host().to_string());
        for (agent, targets, by) in [
            (&on_a, [lan_b.as_str(), "10.255.2.12"], "dev dm-north"),
            (&on_b, [lan_a.as_str(), "10.255.1.11"], "dev dm-south"),
        ] {
            for target in targets {
                until_way(agent, target, by, SOON)?;
            }
        }
        Ping::start(&a.lan, b.lan_host().into(), 100, TEN_MS)?.finish()?.ensure_nothing_lost()?;
        Ping::start(&b.lan, a.lan_host().into(), 100, TEN_MS)?.finish()?.ensure_nothing_lost()?;
        // A hub whose agent dies and comes back tells them nothing else.
        let ping = Ping::start(&a.lan, b.lan_host().into(), 500, TEN_MS)?;
        hub.kill()?;
        hub.restart()?;
        for network in ["north", "south"] {
            hub.wait_until_up(network, SOON)?;
        }
        ping.finish()?.ensure_nothing_lost()?;
        // What comes and goes in one is told in the other.
        on_b.write("spoke.yaml", &spoke("south", "branch-b", "10.255.2.12", "10.77.0.0/24"))?;
        until_way(&on_a, "10.77.0.5", "dev dm-north", SOON)?;
        wait::until(SOON, "the old LAN to be gone", || {
            let routes = on_a.host().run(&["ip", "route", "show", &b.plan.lan.to_string()])?;
            ensure!(routes.is_empty(), "{routes}");
            Ok(())
        })?;
        // Another id: strangers, on this hub too.
        hub.write("south.yaml", &south.replace("networkId: 7", "networkId: 8"))?;
        wait::until(SOON, "the networks to part", || {
            for target in ["10.77.0.0/24", "10.255.2.0/24"] {
                let routes = on_a.host().run(&["ip", "route", "show", target])?;
                ensure!(routes.is_empty(), "{routes}");
            }
            Ok(())
        })
    });
}
