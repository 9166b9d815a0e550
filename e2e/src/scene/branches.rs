//! Hub and two branches that are up, with a direct path between the branches: where many scenarios begin.
//! What they compare is [`ours`]: all that the agent put into the kernel of a host, as `ip` and `nft` show.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::overlay::{BRANCH_A, BRANCH_B, NETWORK, Overlay, TUNNEL};
use super::{Scene, Site};
use crate::lab::ping::both_ways;
use crate::lab::{Agent, Host, Ping};
use crate::{paths, wait};

const SOON: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(10);
/// Time to live of a reply that came by two routers, the branches themselves.
const DIRECT_TTL: u8 = 62;
/// Our route protocol.
const PROTOCOL: &str = "214";

/// Scene and overlay without the FRR router (its host is there, and free for other use).
#[derive(Debug)]
pub struct Branches {
    /// The hosts.
    pub scene: Scene,
    /// The agents.
    pub overlay: Overlay,
}

impl Branches {
    /// Starts the agents from the quickstart on `scene`, and waits until both branches are up and direct.
    ///
    /// # Errors
    /// When something of that does not come.
    pub fn start(scene: Scene) -> Result<Self> {
        Self::start_with(scene, |network| network)
    }

    /// As [`Self::start`], with the text of `network.yaml` changed on all hosts.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(scene: Scene, change: impl Fn(String) -> String) -> Result<Self> {
        let overlay = Overlay::start_with(&scene, change)?;
        let branches = Self { scene, overlay };
        branches.overlay.branch_a.wait_until_up(NETWORK, SOON)?;
        branches.overlay.branch_b.wait_until_up(NETWORK, SOON)?;
        branches.make_direct()?;
        Ok(branches)
    }

    /// The site of `branch-a`.
    ///
    /// # Errors
    /// Never.
    pub fn a(&self) -> Result<&Site> {
        self.scene.site("branch-a")
    }

    /// The site of `branch-b`.
    ///
    /// # Errors
    /// Never.
    pub fn b(&self) -> Result<&Site> {
        self.scene.site("branch-b")
    }

    /// Sends traffic between the LANs of the branches until each routes to the other directly.
    ///
    /// # Errors
    /// When that does not come.
    pub fn make_direct(&self) -> Result<()> {
        let (a, b) = (self.a()?, self.b()?);
        for (from, to, hop) in [(a, b, BRANCH_B), (b, a, BRANCH_A)] {
            wait::until(SOON, "a direct path", || {
                let ways = ((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()));
                both_ways(ways.0, ways.1, 2, INTERVAL)?;
                direct_route(&from.host, to, hop)
            })?;
        }
        Ok(())
    }

    /// 20 pings from one branch's LAN to the other's: none lost, all by the direct path both ways.
    ///
    /// # Errors
    /// With what was lost, or went by the hub.
    pub fn ensure_direct_traffic(&self) -> Result<()> {
        let (a, b) = (self.a()?, self.b()?);
        direct_route(&a.host, b, BRANCH_B)?;
        let report = Ping::start(&a.lan, b.lan_host().into(), 20, INTERVAL / 2)?.finish()?;
        report.ensure_nothing_lost()?;
        let detour = report.replies.iter().find(|r| r.ttl != DIRECT_TTL);
        ensure!(detour.is_none(), "not by the direct path: {detour:?}");
        Ok(())
    }
}

/// The route of `host` to the LAN of `to` leads to `hop` itself.
fn direct_route(host: &Host, to: &Site, hop: Ipv4Addr) -> Result<()> {
    let text = host.run(&["ip", "route", "get", &to.lan_host().to_string()])?;
    ensure!(text.contains(&format!("via {hop} dev {TUNNEL}")), "{}", text.trim());
    Ok(())
}

/// Parts of what is ours, each with the arguments of `ip -j` that list it (nft: its own).
const PARTS: [(&str, &str); 5] = [
    ("link", "-d link show dev dm-branches"),
    ("address", "-4 address show dev dm-branches"),
    ("neighbour", "-d neighbour show dev dm-branches nud permanent"),
    ("route", "-d -4 route show table all"),
    ("nft", "nft -s -t list table inet dmvpn_branches"),
];

/// What the agent of `host` put into its kernel, one object a line: link, addresses, neighbours, routes, nft
/// table. Indexes and counters are left out.
///
/// # Errors
/// When a table cannot be read, or there is no tunnel link.
pub fn ours(host: &Host) -> Result<BTreeSet<String>> {
    ours_of(host, &PARTS.map(|(part, _)| part))
}

/// Only some parts of it: each costs a process, and the time until something is healed is measured by asking
/// again and again.
fn ours_of(host: &Host, parts: &[&str]) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for (part, arguments) in PARTS.iter().filter(|(part, _)| parts.contains(part)) {
        if *part == "nft" {
            let words: Vec<&str> = arguments.split(' ').collect();
            all.extend(host.run(&words)?.lines().map(|line| format!("nft {}", line.trim())));
        } else {
            let objects = list(&host.ip_json(arguments)?);
            all.extend(objects.iter().flat_map(|object| lines_of(part, object)));
        }
    }
    Ok(all)
}

fn lines_of(part: &str, object: &Value) -> Vec<String> {
    let field = |name: &str| object[name].to_string();
    match part {
        "link" => {
            let flags = field("flags");
            let (up, arp) = (flags.contains("\"UP\""), !flags.contains("NOARP"));
            let data = &object["linkinfo"]["info_data"];
            vec![format!("link up {up} arp {arp} {} {} {data}", field("mtu"), field("ifalias"))]
        }
        "address" => {
            let addresses = list(&object["addr_info"]);
            addresses.iter().map(|a| format!("address {}/{}", a["local"], a["prefixlen"])).collect()
        }
        "neighbour" => {
            vec![format!("neighbour {} {} protocol {}", field("dst"), field("lladdr"), field("protocol"))]
        }
        _ => {
            let unreachable = object["type"] == "unreachable" && object["protocol"] == PROTOCOL;
            let parts = ["type", "dst", "gateway", "dev", "protocol", "metric", "table"].map(field);
            let ours = object["dev"] == TUNNEL || unreachable;
            if ours { vec![format!("route {}", parts.join(" "))] } else { Vec::new() }
        }
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// Waits until [`ours`] is `wanted` again, looking every few milliseconds; returns how long it took. Only
/// `part` of it is looked at first, for the time; then all.
///
/// # Errors
/// After `deadline`, with the difference.
pub fn until_ours_is(
    host: &Host,
    wanted: &BTreeSet<String>,
    part: &str,
    deadline: Duration,
) -> Result<Duration> {
    let start = Instant::now();
    let difference = |parts: &[&str]| {
        let now = ours_of(host, parts)?;
        let is_looked_at = |line: &&String| parts.iter().any(|p| line.starts_with(&format!("{p} ")));
        let wanted: BTreeSet<String> = wanted.iter().filter(is_looked_at).cloned().collect();
        let lines = |a: &BTreeSet<String>, b: &BTreeSet<String>, sign: char| {
            a.difference(b).map(|line| format!("\n{sign} {line}")).collect::<String>()
        };
        let difference = lines(&wanted, &now, '-') + &lines(&now, &wanted, '+');
        wait::ensure(difference.is_empty(), || difference)
    };
    let what = format!("what is ours on {} to be as before", host.name());
    // nft takes as long to list as the agent to load: it must not be in its way.
    let pause = Duration::from_millis(if part == "nft" { 150 } else { 5 });
    wait::until_max(deadline, pause, &what, || difference(&[part]))?;
    let took = start.elapsed();
    wait::until_max(deadline, Duration::from_millis(5), &what, || difference(&PARTS.map(|(p, _)| p)))?;
    Ok(took)
}

/// Runs `dmvpn-agent purge` on the host of `agent`; returns what it printed.
///
/// # Errors
/// When it fails.
pub fn purge(agent: &Agent) -> Result<String> {
    let program = paths::program("dmvpn-agent")?;
    let host = agent.host();
    let socket = format!("/run/dmvpn/{}/agent.sock", host.name());
    let vici = crate::lab::charon::socket(host);
    let vici = vici.to_string_lossy();
    host.run(&[&program.to_string_lossy(), "--socket", &socket, "--vici", &vici, "purge"])
}
