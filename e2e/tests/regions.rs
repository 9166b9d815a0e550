//! Two regional hubs under a central one, a spoke each: what is told up and down, the direct path from region to
//! region, its end when the egress goes, summaries, and a default route from the top.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::peek::NhrpKind;
use e2e::lab::ping::{self, Report};
use e2e::lab::{Agent, Capture, Host, Lab, Ping};
use e2e::ring3::Needs;
use e2e::scene::overlay::{NETWORK, TUNNEL};
use e2e::scene::{Scene, Site, plan};
use e2e::{ring3_with, wait};

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);
/// Our route protocol.
const OURS: &str = "proto 214";

/// Routers on the way between the LANs of the two spokes: by three hubs, and directly.
const BY_HUBS: u8 = 5;
const DIRECT: u8 = 2;

/// Five agents and ten hosts take their time.
fn needs() -> Needs {
    Needs { deadline: Duration::from_secs(170), ..Needs::default() }
}

/// The network, with lines of their own for the three hubs.
fn network(core: &str, west: &str, east: &str) -> String {
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {{name: branches}}
spec:
  phase: Phase3
  overlay: [10.255.0.0/16]
  hubs:
  - {{name: core, overlayAddresses: [10.255.0.1], nbma: [{{address: 192.0.2.2}}]{core}}}
  - {{name: west, overlayAddresses: [10.255.0.2], nbma: [{{address: 198.51.100.2}}], registersTo: [core]{west}}}
  - {{name: east, overlayAddresses: [10.255.0.3], nbma: [{{address: 203.0.113.2}}], registersTo: [core]{east}}}
  tunnel: {{key: 100}}
  nhrp: {{networkId: 100, holdTimeSeconds: 60}}
"
    )
}

fn spoke(node: &str, rest: &str) -> String {
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: lan-of-{node}}}
spec:
  networkRef: {{name: branches}}
  placement: {{type: Node, nodeName: {node}}}
  {rest}
"
    )
}

/// All five agents, up.
struct Regions {
    scene: Scene,
    core: Agent,
    west: Agent,
    east: Agent,
    west_1: Agent,
    east_1: Agent,
}

impl Regions {
    fn start(lab: &Lab, network: &str) -> Result<Self> {
        let mut scene = Scene::empty(lab)?;
        for (name, wan, wan6, lan, lan6) in [
            ("core", "192.0.2.2/24", "2001:db8:1::2/64", "10.10.0.0/24", "fd00:10::/64"),
            ("west", "198.51.100.2/24", "2001:db8:2::2/64", "10.21.0.0/24", "fd00:21::/64"),
            ("east", "203.0.113.2/24", "2001:db8:3::2/64", "10.22.0.0/24", "fd00:22::/64"),
            ("west-1", "198.18.1.2/24", "2001:db8:4::2/64", "10.21.1.0/24", "fd00:211::/64"),
            ("east-1", "198.18.2.2/24", "2001:db8:5::2/64", "10.22.1.0/24", "fd00:221::/64"),
        ] {
            scene.add(lab, plan(name, wan, wan6, lan, lan6)?)?;
        }
        let start = |name: &str, labels: &[&str], own: &str| -> Result<Agent> {
            let site = scene.site(name)?;
            let own = spoke(name, &format!("subnets: [{{cidr: {}}}]\n  {own}", site.plan.lan));
            let files = [("network.yaml".to_owned(), network.to_owned()), ("own.yaml".to_owned(), own)];
            Agent::start(&site.host, labels, &BTreeMap::from(files))
        };
        let regions = Self {
            core: start("core", &["dmvpn.io/hub=core"], "")?,
            west: start("west", &["dmvpn.io/hub=west"], "")?,
            east: start("east", &["dmvpn.io/hub=east"], "")?,
            west_1: start("west-1", &[], "overlayAddresses: [10.255.1.1]\n  hubs: [west]")?,
            east_1: start("east-1", &[], "overlayAddresses: [10.255.2.1]\n  hubs: [east]")?,
            scene,
        };
        for agent in regions.all() {
            agent.wait_until_up(NETWORK, SOON)?;
            let problems = agent.report()?.problems;
            ensure!(problems.iter().all(|p| p.reason == "NodeNotFound"), "{problems:?}");
        }
        Ok(regions)
    }

    fn all(&self) -> [&Agent; 5] {
        [&self.core, &self.west, &self.east, &self.west_1, &self.east_1]
    }

    fn ends(&self) -> Result<(&Site, &Site)> {
        Ok((self.scene.site("west-1")?, self.scene.site("east-1")?))
    }

    /// Pings between the LANs of the two spokes, both ways at once.
    fn ping(&self, count: u32) -> Result<(Report, Report)> {
        let (a, b) = self.ends()?;
        ping::both_ways((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()), count, TEN_MS)
    }

    /// Waits until both spokes route to the other's LAN by their hubs.
    fn wait_for_routes(&self) -> Result<()> {
        let (a, b) = self.ends()?;
        for (from, to, hub) in [(a, b, "10.255.0.2"), (b, a, "10.255.0.3")] {
            wait_for_way(&from.host, to.lan_host(), &format!("via {hub} dev {TUNNEL}"))?;
        }
        Ok(())
    }

    /// Pings until the path is direct both ways, and beyond: nothing is lost.
    fn ensure_direct(&self) -> Result<()> {
        let (there, back) = self.ping(300)?;
        println!("west → east: {there}\neast → west: {back}");
        for report in [&there, &back] {
            report.ensure_nothing_lost()?;
            ensure!(report.hops().is_some_and(|(_, after)| after == DIRECT), "not direct: {report}");
        }
        Ok(())
    }
}

/// Waits until the host's way to an address is this one.
fn wait_for_way(host: &Host, to: Ipv4Addr, want: &str) -> Result<()> {
    wait::until(SOON, &format!("{} to route {to} {want}", host.name()), || {
        let way = host.run(&["ip", "route", "get", &to.to_string()])?;
        wait::ensure(way.contains(want), || way)
    })
}

fn routes(host: &Host) -> Result<String> {
    host.run(&["ip", "route", "show", "proto", "214"])
}

/// Waits until our routes at a host have all of one list and none of the other.
fn wait_for_table(host: &Host, with: &[&str], without: &[&str]) -> Result<()> {
    wait::until(SOON, &format!("routes of {}", host.name()), || {
        let table = routes(host)?;
        let has = |start: &str| table.lines().any(|line| line.starts_with(start));
        let missing: Vec<_> = with.iter().filter(|start| !has(start)).collect();
        let there: Vec<_> = without.iter().filter(|start| has(start)).collect();
        ensure!(missing.is_empty() && there.is_empty(), "without {missing:?}, with {there:?}:\n{table}");
        Ok(())
    })
}

#[test]
#[expect(clippy::redundant_closure, reason = "the closure's type names the test")]
fn direct_from_region_to_region_until_the_egress_goes() {
    ring3_with(needs(), |lab| direct(lab));
}

fn direct(lab: &Lab) -> Result<()> {
    let mut regions = Regions::start(lab, &network("", "", ""))?;
    regions.wait_for_routes()?;
    let (a, b) = regions.ends()?;
    let (core, west) = (regions.scene.site("core")?, regions.scene.site("west")?);
    let at_core = Capture::start(&core.host, "wan0", "proto gre")?;
    let at_a = Capture::start(&a.host, "wan0", "proto gre")?;
    let first = Ping::start(&a.lan, b.lan_host().into(), 1, TEN_MS)?.finish()?;
    ensure!(first.hops().is_some_and(|(before, _)| before == BY_HUBS), "the first answer: {first}");
    regions.ensure_direct()?;
    // The first packets went by the core, and so did the question; the answer came straight.
    let lans = |p: &e2e::lab::Peek| {
        p.inner.is_some_and(|ip| ip.source == a.lan_host() && ip.destination == b.lan_host())
    };
    let by_core = at_core.count(lans)?;
    // Requests of one ping and answers to the other, each in and out; with luck no more than the first.
    println!("by the core: {by_core} of 1202");
    ensure!((2..600).contains(&by_core), "{by_core} packets by the core");
    at_core.wait_for(SOON, "the question at the core", |p| {
        p.is_nhrp(NhrpKind::ResolutionRequest) && p.ip.is_some_and(|ip| ip.source == west.nbma())
    })?;
    at_a.wait_for(SOON, "the regional hub's indication", |p| {
        p.is_nhrp(NhrpKind::TrafficIndication) && p.is_between(west.nbma().into(), a.nbma().into())
    })?;
    at_a.wait_for(SOON, "the egress's own answer", |p| {
        p.is_nhrp(NhrpKind::ResolutionReply) && p.ip.is_some_and(|ip| ip.source == b.nbma())
    })?;
    let far = at_core.count(|p| p.is_nhrp(NhrpKind::ResolutionReply))?;
    ensure!(far == 0, "{far} answers went by the core");

    // The egress goes, and its own word does not get through: that of the hubs does.
    let (a_nbma, b_nbma) = (a.nbma(), b.nbma());
    a.host.nft(&format!(
        "table ip block {{ chain c {{ type filter hook prerouting priority -300; ip saddr {b_nbma} drop; }}; }}\n"
    ))?;
    let (a_host, b_lan) = (a.host.clone(), b.lan_host());
    let west_nbma = west.nbma();
    regions.east_1.remove("own.yaml")?;
    let purge = at_a.wait_for(SOON, "a purge from the regional hub", |p| {
        p.is_nhrp(NhrpKind::PurgeRequest) && p.is_between(west_nbma.into(), a_nbma.into())
    })?;
    println!("purge: {purge}");
    wait::until(SOON, "the shortcut to go", || {
        let way = a_host.run(&["ip", "route", "show", "10.22.1.0/24"])?;
        wait::ensure(!way.contains("10.255.2.1"), || way)
    })?;
    // And the route through two levels.
    for host in regions.all().map(|agent| agent.host().clone()) {
        wait_for_table(&host, &[], &["10.22.1.0/24"])?;
    }
    let way = a_host.output(&["ip", "route", "get", &b_lan.to_string()])?;
    ensure!(!String::from_utf8_lossy(&way.stdout).contains(TUNNEL), "still a way to {b_lan}");
    // The regional hub's agent is restarted: what is behind it stays known above.
    regions.west.kill()?;
    regions.west.restart()?;
    regions.west.wait_until_up(NETWORK, SOON)?;
    wait_for_table(regions.core.host(), &["10.21.1.0/24", "10.255.1.1 "], &[])
}

#[test]
#[expect(clippy::redundant_closure, reason = "the closure's type names the test")]
fn summaries_alone_and_what_is_in_none_ends() {
    ring3_with(needs(), |lab| summaries(lab));
}

fn summaries(lab: &Lab) -> Result<()> {
    let network = network(
        ", advertise: [10.0.0.0/8]",
        ", advertise: [10.21.0.0/16, 10.255.1.0/24]",
        ", advertise: [10.22.0.0/16, 10.255.2.0/24]",
    );
    let regions = Regions::start(lab, &network)?;
    wait_for_table(
        regions.core.host(),
        &["10.21.0.0/16 via 10.255.0.2", "10.22.0.0/16 via 10.255.0.3", "10.255.1.0/24 via 10.255.0.2"],
        &["10.21.1.0/24", "10.22.1.0/24", "10.255.1.1 "],
    )?;
    wait_for_table(
        regions.west_1.host(),
        &["10.0.0.0/8 via 10.255.0.2", "10.21.0.0/16 via 10.255.0.2"],
        &["10.22", "10.10"],
    )?;
    // Nothing is there: it ends at the hub that tells it, and is said so, instead of going to and fro.
    let a = regions.scene.site("west-1")?;
    for nowhere in ["10.22.77.1", "10.77.0.1", "10.255.2.99"] {
        let report = Ping::start(&a.lan, nowhere.parse()?, 3, TEN_MS)?.finish()?;
        ensure!(report.received == 0, "{nowhere} answered");
        let told = report.errors.join("\n").to_lowercase();
        ensure!(!told.contains("exceeded"), "{nowhere} went round: {told}");
    }
    regions.ensure_direct()?;
    // The direct path is for the egress's own prefix.
    wait_for_table(a_host(&regions)?, &["10.22.1.0/24 via 10.255.2.1"], &["10.22.0.0/16 via 10.255.2.1"])?;
    Ok(())
}

fn a_host(regions: &Regions) -> Result<&Host> {
    Ok(&regions.scene.site("west-1")?.host)
}

#[test]
#[expect(clippy::redundant_closure, reason = "the closure's type names the test")]
fn default_route_from_the_top() {
    ring3_with(needs(), |lab| default_route(lab));
}

fn default_route(lab: &Lab) -> Result<()> {
    let told = network(", advertise: [0.0.0.0/0]", "", "");
    let mut regions = Regions::start(lab, &network("", "", ""))?;
    regions.wait_for_routes()?;
    // Default routes as a DHCP client puts them in, with a metric: one without would beat the one that a hub tells.
    for name in ["west", "east", "west-1", "east-1"] {
        let site = regions.scene.site(name)?;
        let gateway = Ipv4Addr::from_bits(site.plan.wan.network().to_bits() + 1);
        site.host.ip(&format!("route add default via {gateway} metric 1024"))?;
        site.host.ip(&format!("route del default via {gateway} metric 0"))?;
    }
    let (a, b) = regions.ends()?;
    let (a, b) = (a.clone(), b.clone());
    let steady = Ping::start(&a.lan, "10.10.0.10".parse()?, 6000, TEN_MS)?;
    steady.wait_for_reply(20, SOON)?;
    for agent in regions.all() {
        agent.write("network.yaml", &told)?;
    }
    let outside: Ipv4Addr = "9.9.9.9".parse()?;
    wait_for_way(&a.host, outside, &format!("via 10.255.0.2 dev {TUNNEL}"))?;
    wait_for_way(&b.host, outside, &format!("via 10.255.0.3 dev {TUNNEL}"))?;
    // In place of all that is in it, and beside it what keeps the tunnel itself out of it.
    let pin = |nbma: Ipv4Addr| format!("{nbma} via 198.18.1.1 dev wan0");
    let west = regions.scene.site("west")?.nbma();
    wait_for_table(
        &a.host,
        &["default via 10.255.0.2", &pin(west)],
        &["10.22.1.0/24 via 10.255.0.2", "10.10.0.0/24 via 10.255.0.2"],
    )?;
    regions.west_1.wait_until_up(NETWORK, SOON)?;
    // Direct paths form under it, each with its pin: for the host alone, as its own hub knows no more than a default
    // route either, and nothing says how far an answer may go.
    regions.ensure_direct()?;
    let direct = format!("{} via 10.255.2.1", b.lan_host());
    wait_for_table(&a.host, &[&direct, &pin(b.nbma())], &["10.22.1.0/24"])?;
    // The agent is killed and comes back: nothing of that is let go for a moment.
    regions.west_1.kill()?;
    regions.west_1.restart()?;
    regions.west_1.wait_until_up(NETWORK, SOON)?;
    // The uplink's gateway moves (here: to another address of the same link), and the pins with it.
    regions.scene.isp.ip("addr add 198.18.1.77/24 dev to-west-1")?;
    a.host.ip("route replace default via 198.18.1.77 metric 1024")?;
    wait_for_table(&a.host, &[&format!("{west} via 198.18.1.77 dev wan0")], &[&pin(west)])?;
    a.host.ip("route replace default via 198.18.1.1 metric 1024")?;
    wait_for_table(&a.host, &[&pin(west)], &[])?;
    // Somebody takes a pin away: it is put back.
    a.host.ip(&format!("route del {west} {OURS}"))?;
    wait_for_table(&a.host, &[&pin(west)], &[])?;
    // The hub takes it back: all of it goes, nothing is lost meanwhile.
    for agent in regions.all() {
        agent.write("network.yaml", &network("", "", ""))?;
    }
    wait_for_table(&a.host, &["10.10.0.0/24"], &["default", &format!("{west} "), &format!("{} ", b.nbma())])?;
    let report = steady.stop()?;
    println!("to the core's LAN all the while: {report}");
    report.ensure_nothing_lost()
}
