//! Overlay addresses in band: one network for all, boxes whose spokes name no address ask the hub. Seen from outside, on
//! the links and by pings: each gets its own and keeps it, whoever restarts or goes and comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::{Agent, Host, Lab, ping};
use e2e::scene::overlay::{NETWORK, TUNNEL};
use e2e::scene::{Scene, Site};
use e2e::{ring3, wait};
use ipnet::IpNet;
use view::State;

const SOON: Duration = Duration::from_secs(20);
/// One that was refused asks again after up to a minute.
const AGAIN: Duration = Duration::from_secs(90);
const TEN_MS: Duration = Duration::from_millis(10);

/// Three IPv4 addresses that are not reserved, of which the hub's manifests give one to a router.
const POOL: &str = "10.255.16.0/29";
const DECLARED: &str = "10.255.16.2";
/// What is left of it for two boxes.
const FREE: [&str; 2] = ["10.255.16.1", "10.255.16.3"];

fn network(pool: &str) -> String {
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
  addressing: {{pools: [{pool}, 'fd00:255::1:0/112'], reserved: [10.255.16.4/30], assignedBy: Hub}}
  tunnel: {{key: 100}}
  nhrp: {{networkId: 100}}
"
    )
}

/// The spoke of a site, with `spec` lines added.
fn spoke(site: &Site, extra: &str) -> String {
    let (name, lan) = (site.plan.name, site.plan.lan);
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {name}}}
spec:
  networkRef: {{name: branches}}
  placement: {{type: Node, nodeName: {name}}}
  subnets: [{{cidr: {lan}}}]
{extra}"
    )
}

const ROUTER: &str = "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {name: declared}
spec:
  networkRef: {name: branches}
  placement: {type: External}
  overlayAddresses: [10.255.16.2]
";

/// Starts the agent of a site; the hub's manifests name no box.
fn start(site: &Site) -> Result<Agent> {
    let network = ("network.yaml".to_owned(), network(POOL));
    match site.plan.name {
        "hub" => {
            let declared = ("declared.yaml".to_owned(), ROUTER.to_owned());
            Agent::start(&site.host, &["dmvpn.io/hub=hub1"], &BTreeMap::from([network, declared]))
        }
        _ => {
            let own = ("own.yaml".to_owned(), spoke(site, ""));
            Agent::start(&site.host, &[], &BTreeMap::from([network, own]))
        }
    }
}

/// Overlay addresses on the tunnel link of a host, as its kernel has them; none without a link.
fn on_link(host: &Host) -> Result<BTreeSet<IpAddr>> {
    let links = host.ip_json("address show")?;
    let all = links.as_array().into_iter().flatten().filter(|link| link["ifname"] == TUNNEL);
    let addresses = all.flat_map(|link| link["addr_info"].as_array().cloned().unwrap_or_default());
    let overlay = addresses.filter(|it| it["scope"] == "global");
    Ok(overlay.filter_map(|it| it["local"].as_str()?.parse().ok()).collect())
}

/// Waits until a box is Up with an address a family on its link; returns them.
fn addresses(agent: &Agent, deadline: Duration) -> Result<BTreeSet<IpAddr>> {
    let name = agent.host().name().to_owned();
    wait::until(deadline, &format!("{name} to be Up with its addresses"), || {
        let tunnel = agent.tunnel(NETWORK)?;
        let told: BTreeSet<IpAddr> = tunnel.addresses.iter().map(IpNet::addr).collect();
        ensure!(tunnel.state == State::Up, "{:?} {}: {}", tunnel.state, tunnel.reason, tunnel.message);
        let there = on_link(agent.host())?;
        ensure!(there.len() == 2 && told == there, "told {told:?}, on the link {there:?}");
        Ok(there)
    })
}

/// Pings in both directions between two LANs: none lost.
fn ensure_traffic(a: &Site, b: &Site) -> Result<()> {
    for (site, other) in [(a, b), (b, a)] {
        let to = other.lan_host();
        wait::until(SOON, &format!("a route to {to} at {}", site.plan.name), || {
            let way = site.host.run(&["ip", "route", "get", &to.to_string()])?;
            wait::ensure(way.contains(TUNNEL), || way)
        })?;
    }
    let (from, to) = (IpAddr::from(a.lan_host()), IpAddr::from(b.lan_host()));
    let (there, back) = ping::both_ways((&a.lan, from), (&b.lan, to), 100, TEN_MS)?;
    there.ensure_nothing_lost()?;
    back.ensure_nothing_lost()
}

#[test]
#[expect(clippy::redundant_closure, reason = "the closure's type names the test")]
fn boxes_get_their_addresses_from_the_hub_and_keep_them() {
    ring3(|lab| assigned(lab));
}

fn assigned(lab: &Lab) -> Result<()> {
    let scene = Scene::build(lab)?;
    let (a, b) = (scene.site("branch-a")?, scene.site("branch-b")?);

    // Before the hub is there: asking, with a reason.
    let mut branch_a = start(a)?;
    wait::until(SOON, "branch-a to ask for an address", || {
        let tunnel = branch_a.tunnel(NETWORK)?;
        ensure!(["AddressRequested", "NoAnswer"].contains(&tunnel.reason.as_str()), "{}", tunnel.reason);
        ensure!(tunnel.addresses.is_empty() && on_link(&a.host)?.is_empty(), "{:?}", tunnel.addresses);
        Ok(())
    })?;
    let mut hub = start(scene.site("hub")?)?;
    let branch_b = start(b)?;
    let of_a = addresses(&branch_a, SOON)?;
    let of_b = addresses(&branch_b, SOON)?;
    let all: BTreeSet<String> = of_a.union(&of_b).map(ToString::to_string).collect();
    ensure!(all.len() == 4, "given twice: {all:?}");
    let ipv4: Vec<&String> = all.iter().filter(|address| address.contains('.')).collect();
    ensure!(ipv4 == FREE, "{ipv4:?}");
    for agent in [&branch_a, &branch_b] {
        agent.wait_for_no_problem(SOON)?;
        let shown = agent.cli("show dmvpn detail")?;
        ensure!(shown.contains("10.255.16."), "{shown}");
    }
    ensure_traffic(a, b)?;

    // An agent dies and comes back: its addresses were never off the link, and are the same.
    branch_a.kill()?;
    ensure!(on_link(&a.host)? == of_a, "off the link");
    branch_a.restart()?;
    ensure!(on_link(&a.host)? == of_a, "off the link after the restart");
    ensure!(addresses(&branch_a, SOON)? == of_a, "another address after a restart");

    // So does the hub's: nobody's address changes.
    hub.kill()?;
    hub.restart()?;
    for (agent, before) in [(&branch_a, &of_a), (&branch_b, &of_b)] {
        ensure!(addresses(agent, SOON)? == *before, "another address after the hub's restart");
    }
    ensure_traffic(a, b)?;

    // A spoke goes: so does its address. It is kept for it: a third box is told that there is none, and the one that the
    // hub's manifests give to a router is not given either.
    let own = spoke(b, "");
    branch_b.remove("own.yaml")?;
    wait::until(SOON, "the tunnel of branch-b to be gone", || {
        let there = on_link(&b.host)?;
        ensure!(there.is_empty(), "{there:?}");
        Ok(())
    })?;
    let third_site = scene.site("router")?;
    let third = start(third_site)?;
    let told = third.wait_for_state(NETWORK, State::Nhrp, "PoolExhausted", SOON)?;
    ensure!(told.message.contains("Add a pool to addressing.pools"), "{}", told.message);
    ensure!(!on_link(&third_site.host)?.contains(&DECLARED.parse()?), "the declared address was given");
    branch_b.write("own.yaml", &own)?;
    ensure!(addresses(&branch_b, SOON)? == of_b, "another address after it came back");
    ensure_traffic(a, b)?;

    // A larger pool at the hub: the third box gets an address by itself.
    hub.write("network.yaml", &network("10.255.16.0/28"))?;
    let of_third = addresses(&third, AGAIN)?;
    let new: BTreeSet<_> = of_third.iter().copied().filter(IpAddr::is_ipv4).collect();
    let known: BTreeSet<_> = of_a.union(&of_b).copied().collect();
    ensure!(new.is_disjoint(&known) && !new.contains(&DECLARED.parse()?), "{new:?}");
    ensure!(addresses(&branch_a, SOON)? == of_a, "another address after the pool has changed");

    // A spoke that names one out of the pools is told: the hub does not know of it. What it had stays.
    third.write("own.yaml", &spoke(third_site, "  overlayAddresses: [10.255.16.1]\n"))?;
    let problem = third.wait_for_problem("DmvpnSpoke/router", "SettingConflict", SOON)?;
    ensure!(problem.message.contains("use one outside of addressing.pools"), "{problem:?}");
    ensure!(addresses(&third, SOON)? == of_third, "a refused edit costs an address");
    // One of its own takes the place of what was assigned.
    third.write("own.yaml", &spoke(third_site, "  overlayAddresses: [10.255.1.9, 'fd00:255::9']\n"))?;
    let stated = BTreeSet::from(["10.255.1.9".parse()?, "fd00:255::9".parse()?]);
    wait::until(SOON, "the stated addresses instead of the assigned", || {
        let there = on_link(&third_site.host)?;
        ensure!(there == stated, "{there:?}");
        Ok(())
    })?;
    third.wait_until_up(NETWORK, SOON)?;
    third.wait_for_no_problem(SOON)?;

    // What each side runs is shown of its peers.
    let detail = hub.cli("show ip nhrp detail")?;
    ensure!(detail.contains(&format!("Version: {}", env!("CARGO_PKG_VERSION"))), "{detail}");
    Ok(())
}

/// Two hubs that do not hear of each other's spokes: each assigns out of its own share of the one pool.
#[test]
#[expect(clippy::redundant_closure, reason = "the closure's type names the test")]
fn hubs_assign_out_of_shares_of_their_own() {
    ring3(|lab| shared(lab));
}

fn shared(lab: &Lab) -> Result<()> {
    let scene = Scene::build(lab)?;
    let (first, second) = (scene.site("hub")?, scene.site("router")?);
    let hub1 = "hub1, overlayAddresses: [10.255.0.1], nbma: [{address: 192.0.2.2}]";
    let hub2 = format!("hub2, overlayAddresses: [10.255.0.2], nbma: [{{address: {}}}]", second.nbma());
    let network = format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {{name: branches}}
spec:
  phase: Phase3
  overlay: [10.255.0.0/16]
  hubs:
  - {{name: {hub1}}}
  - {{name: {hub2}}}
  addressing: {{pools: [10.255.16.0/29], assignedBy: Hub}}
  tunnel: {{key: 100}}
"
    );
    let start = |site: &Site, labels: &[&str], own: &str| {
        let files = [("network.yaml".to_owned(), network.clone()), ("own.yaml".to_owned(), own.to_owned())];
        Agent::start(&site.host, labels, &BTreeMap::from(files))
    };
    let _hubs = [start(first, &["dmvpn.io/hub=hub1"], "")?, start(second, &["dmvpn.io/hub=hub2"], "")?];
    for (name, hub, share) in [("branch-a", "hub1", 0), ("branch-b", "hub2", 1)] {
        let site = scene.site(name)?;
        let agent = start(site, &[], &spoke(site, &format!("  hubs: [{hub}]\n")))?;
        agent.wait_until_up(NETWORK, SOON)?;
        let there = on_link(&site.host)?;
        let last = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => u8::MAX,
        };
        let numbers: Vec<u8> = there.iter().map(last).collect();
        ensure!(numbers.len() == 1 && numbers[0] % 2 == share, "{name} has {there:?} from {hub}");
    }
    Ok(())
}
