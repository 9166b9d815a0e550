//! FRR's own topotests `nhrp_redundancy` and `nhrp_nhs_priority`, with our agents in the roles and FRR's nhrpd in the
//! others: three servers, two clients, a LAN behind each client; and no packet may be lost where FRR's allow for nine of
//! ten.
//!
//! ```text
//!  nhs1 172.16.1.1 ──┐                ┌── nhc1 172.16.1.4 ── 10.4.4.0/24
//!  nhs2 172.16.1.2 ──┤ router: the    │
//!  nhs3 172.16.1.3 ──┘ scene's isp  ──┴── nhc2 172.16.1.5 ── 10.5.5.0/24      holding time 10 s
//! ```
//!
//! FRR knows no prefix lists: where it is the server the clients' own addresses stand for their LANs, and where it is the
//! client it has a route by each server, the best first. It knows no priorities in 8.4.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::Lab;
use e2e::lab::ping::{self, Report};
use e2e::lab::{Agent, Frr, Host, Ping};
use e2e::ring3::Needs;
use e2e::ring3_waiting;
use e2e::scene::foreign::Foreign;
use e2e::scene::overlay::{KEY, ROUTER_LINK};
use e2e::scene::{Scene, Site, plan};
use e2e::wait;
use ipnet::IpNet;
use view::NhsStatus;

const SOON: Duration = Duration::from_secs(20);
/// FRR gives a silent server up after 16 s and more.
const LATE: Duration = Duration::from_secs(60);
/// Ours remembers for 60 s that a path was used, then it ends with its holding time.
const IDLE: Duration = Duration::from_secs(120);
const TEN_MS: Duration = Duration::from_millis(10);
const NEEDS: Needs = Needs { memory_mib: 1024, deadline: Duration::from_secs(400) };
const NETWORK: &str = "redundancy";
const HOLDING: u16 = 10;
const SERVERS: [(&str, Ipv4Addr, u8); 3] = [
    ("nhs1", Ipv4Addr::new(172, 16, 1, 1), 0),
    ("nhs2", Ipv4Addr::new(172, 16, 1, 2), 50),
    ("nhs3", Ipv4Addr::new(172, 16, 1, 3), 255),
];
const CLIENTS: [(&str, Ipv4Addr); 2] =
    [("nhc1", Ipv4Addr::new(172, 16, 1, 4)), ("nhc2", Ipv4Addr::new(172, 16, 1, 5))];

/// Whose software a router runs.
#[derive(Clone, Copy, PartialEq)]
enum Whose {
    Ours,
    Frr,
}

enum Router {
    Ours(Agent),
    Frr(Frr),
}

impl Router {
    /// Its cache has this overlay address, at an underlay address.
    fn knows(&self, overlay: Ipv4Addr) -> Result<bool> {
        Ok(match self {
            Self::Ours(agent) => {
                let cache = agent.tunnel(NETWORK)?.cache;
                cache.iter().any(|e| e.target == IpNet::from(IpAddr::from(overlay)) && e.nbma.is_some())
            }
            Self::Frr(frr) => frr.nhrp_cache()?.iter().any(|e| e.protocol == overlay.to_string()),
        })
    }

    /// A server answers it. (Ours keeps a neighbour for each server that is configured.)
    fn uses(&self, server: Ipv4Addr) -> Result<bool> {
        Ok(match self {
            Self::Ours(agent) => {
                let nhs = agent.tunnel(NETWORK)?.nhs;
                nhs.iter().any(|n| n.address == Some(server.into()) && n.status == NhsStatus::Responding)
            }
            Self::Frr(_) => self.knows(server)?,
        })
    }

    /// Its shortcuts: prefix and overlay next hop.
    fn shortcuts(&self) -> Result<Vec<(String, String)>> {
        match self {
            Self::Ours(agent) => {
                let cache = agent.tunnel(NETWORK)?.cache;
                let own: Vec<_> = CLIENTS.iter().map(|(_, overlay)| IpAddr::from(*overlay)).collect();
                let shortcuts = cache.iter().filter(|e| {
                    own.contains(&e.via) && !e.flags.iter().any(|flag| flag == "local") && e.nbma.is_some()
                });
                Ok(shortcuts.map(|e| (e.target.to_string(), e.via.to_string())).collect())
            }
            Self::Frr(frr) => frr.shortcuts(),
        }
    }
}

/// Pings under way from each end to the other's.
struct Flow {
    pings: Vec<Ping>,
    /// Echo requests that the second end had got before.
    before: u64,
}

struct Net {
    scene: Scene,
    servers: Vec<Router>,
    clients: Vec<Router>,
    /// Between whom traffic flows: the LANs, or the clients themselves.
    ends: [(Host, IpAddr); 2],
}

/// The network, with `more` lines and in each server's line `each`.
fn network(scene: &Scene, each: &str, more: &str) -> Result<String> {
    let mut hubs = String::new();
    for (name, overlay, priority) in SERVERS {
        let nbma = scene.site(name)?.nbma();
        hubs += &format!(
            "  - {{name: {name}, priority: {priority}, overlayAddresses: [{overlay}], nbma: [{{address: {nbma}}}]{each}}}\n"
        );
    }
    Ok(format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {{name: {NETWORK}}}
spec:
  phase: Phase3
  overlay: [172.16.1.0/24]
  hubs:
{hubs}{more}  tunnel: {{key: {KEY}, interfaceName: {ROUTER_LINK}}}
  nhrp: {{networkId: 42, holdTimeSeconds: {HOLDING}}}
"
    ))
}

fn spoke(site: &Site, overlay: Ipv4Addr, placement: &str) -> String {
    format!(
        "
apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {{name: {}}}
spec:
  networkRef: {{name: {NETWORK}}}
  placement: {{{placement}}}
  overlayAddresses: [{overlay}]
  subnets: [{{cidr: {}}}]
",
        site.plan.name, site.plan.lan
    )
}

fn files(all: Vec<(String, String)>) -> std::collections::BTreeMap<String, String> {
    all.into_iter().map(|(name, text)| (format!("{name}.yaml"), text)).collect()
}

impl Net {
    fn start(lab: &Lab, servers: Whose, clients: [Whose; 2], each: &str, more: &str) -> Result<Self> {
        let mut scene = Scene::empty(lab)?;
        for (name, wan, lan, n) in [
            ("nhs1", "192.168.1.2/24", "10.1.1.0/24", 1),
            ("nhs2", "192.168.2.2/24", "10.2.2.0/24", 2),
            ("nhs3", "192.168.3.2/24", "10.3.3.0/24", 3),
            ("nhc1", "192.168.4.2/24", "10.4.4.0/24", 4),
            ("nhc2", "192.168.5.2/24", "10.5.5.0/24", 5),
        ] {
            scene
                .add(lab, plan(name, wan, &format!("2001:db8:{n}::2/64"), lan, &format!("fd00:{n}::/64"))?)?;
        }
        let text = network(&scene, each, more)?;
        let sites = CLIENTS.map(|(name, overlay)| scene.site(name).map(|site| (site, overlay)));
        let sites: Vec<_> = sites.into_iter().collect::<Result<_>>()?;
        let start_server = |name: &str, overlay| match servers {
            Whose::Ours => {
                let mut all = vec![("network".to_owned(), text.clone())];
                for ((site, overlay), whose) in sites.iter().zip(clients) {
                    if whose == Whose::Frr {
                        all.push((site.plan.name.to_owned(), spoke(site, *overlay, "type: External")));
                    }
                }
                let label = format!("dmvpn.io/hub={name}");
                Agent::start(&scene.site(name)?.host, &[&label], &files(all)).map(Router::Ours)
            }
            Whose::Frr => {
                let hub = Foreign::new(scene.site(name)?, overlay).holding(HOLDING).redirects();
                hub.start().map(Router::Frr)
            }
        };
        let servers_run: Vec<_> =
            SERVERS.iter().map(|(name, overlay, _)| start_server(name, *overlay)).collect::<Result<_>>()?;
        let start_client = |site: &Site, overlay, whose| match whose {
            Whose::Ours => {
                let own = spoke(site, overlay, &format!("type: Node, nodeName: {}", site.plan.name));
                let all = vec![("network".to_owned(), text.clone()), ("own".to_owned(), own)];
                Agent::start(&site.host, &[], &files(all)).map(Router::Ours)
            }
            Whose::Frr => {
                let mut router = Foreign::new(site, overlay).holding(HOLDING);
                for (at, (name, server, _)) in SERVERS.iter().enumerate() {
                    let line = format!("ip route 10.0.0.0/8 {server} {}", 10 * (at + 1));
                    router = router.client_of(*server, scene.site(name)?).line(&line);
                }
                router.start().map(Router::Frr)
            }
        };
        let clients_run: Vec<_> = sites
            .iter()
            .zip(clients)
            .map(|((site, overlay), whose)| start_client(site, *overlay, whose))
            .collect::<Result<_>>()?;
        // An FRR server has no routes to LANs.
        let ends = [0, 1].map(|at| {
            let (site, overlay) = sites[at];
            match servers {
                Whose::Ours => (site.lan.clone(), IpAddr::from(site.lan_host())),
                Whose::Frr => (site.host.clone(), IpAddr::from(overlay)),
            }
        });
        Ok(Self { scene, servers: servers_run, clients: clients_run, ends })
    }

    /// Waits until both clients are registered with exactly these servers.
    fn until_known(&self, wanted: [bool; 3], deadline: Duration) -> Result<()> {
        wait::until(deadline, &format!("servers {wanted:?} to be used"), || {
            for ((name, overlay, _), wanted) in SERVERS.iter().zip(wanted) {
                for ((client, _), router) in CLIENTS.iter().zip(&self.clients) {
                    ensure!(router.uses(*overlay)? == wanted, "{client}: {name} in use: {}", !wanted);
                }
            }
            Ok(())
        })
    }

    fn until_servers_know(&self, wanted: [bool; 3], deadline: Duration) -> Result<()> {
        wait::until(deadline, &format!("servers {wanted:?} to know the clients"), || {
            for (((name, _, _), router), wanted) in SERVERS.iter().zip(&self.servers).zip(wanted) {
                for (client, overlay) in CLIENTS {
                    ensure!(router.knows(overlay)? == wanted, "{name}: {client} known: {}", !wanted);
                }
            }
            Ok(())
        })
    }

    /// Pings both ways at once; the reports are of the first client's and of the second's.
    fn flow(&self, count: u32) -> Result<[Report; 2]> {
        let [a, b] = &self.ends;
        let (there, back) = ping::both_ways((&a.0, a.1), (&b.0, b.1), count, TEN_MS)?;
        Ok([there, back])
    }

    /// Traffic between the clients gets direct, and nothing is lost of it.
    fn gets_direct(&self, what: &str) -> Result<()> {
        for report in self.flow(300)? {
            println!("{what}: {report}");
            report.ensure_nothing_lost()?;
            let routers = if self.ends[0].1 == IpAddr::from(CLIENTS[0].1) { 0 } else { 2 };
            ensure!(report.hops().is_some_and(|(_, now)| now == routers), "not direct: {report}");
        }
        Ok(())
    }

    /// Waits until the first client has a shortcut to the other's end.
    fn until_shortcut(&self, prefix: &str) -> Result<()> {
        let wanted = (prefix.to_owned(), CLIENTS[1].1.to_string());
        wait::until(SOON, &format!("a shortcut to {prefix}"), || {
            let shortcuts = self.clients[0].shortcuts()?;
            wait::ensure(shortcuts.contains(&wanted), || format!("{shortcuts:?}"))
        })
    }

    /// Waits until no client has a shortcut: nobody uses one.
    fn until_idle(&self) -> Result<()> {
        wait::until(IDLE, "unused shortcuts to end", || {
            for router in &self.clients {
                let shortcuts = router.shortcuts()?;
                ensure!(shortcuts.is_empty(), "{shortcuts:?}");
            }
            Ok(())
        })
    }

    /// Cuts the first server off the network, or joins it again.
    fn cable(&self, way: &str) -> Result<()> {
        self.scene.isp.ip(&format!("link set {} {way}", self.scene.uplink(self.scene.site("nhs1")?)))
    }

    /// Pings from each end to the other's, until they are stopped; they are under way.
    fn endless(&self) -> Result<Flow> {
        let [a, b] = &self.ends;
        let before = echo_requests(&b.0)?;
        let pings = Ping::start_together(&[(&a.0, b.1), (&b.0, a.1)], 20_000, TEN_MS)?;
        pings[0].wait_for_reply(100, SOON)?;
        Ok(Flow { pings, before })
    }

    /// Ends a flow: nothing is lost of what ours sent. What an FRR client sends (the answers too) is its own affair,
    /// as long as it comes back.
    fn survives(&self, flow: Flow, what: &str) -> Result<()> {
        let reports = flow.pings.into_iter().map(Ping::stop).collect::<Result<Vec<_>>>()?;
        for report in &reports {
            println!("{what}: {report}");
        }
        let arrived = echo_requests(&self.ends[1].0)? - flow.before;
        ensure!(arrived == u64::from(reports[0].sent), "{arrived} arrived of {}", reports[0].sent);
        for report in reports {
            if self.clients.iter().all(|router| matches!(router, Router::Ours(_))) {
                report.ensure_nothing_lost()?;
            }
            ensure!(report.longest_gap() < SOON, "{report}");
        }
        Ok(())
    }

    /// Each client reaches each server.
    fn servers_answer(&self, servers: &[Ipv4Addr]) -> Result<()> {
        let hosts = [self.scene.site(CLIENTS[0].0)?, self.scene.site(CLIENTS[1].0)?];
        let ways: Vec<_> = hosts
            .iter()
            .flat_map(|site| servers.iter().map(|server| (&site.host, IpAddr::from(*server))))
            .collect();
        for ping in Ping::start_together(&ways, 50, TEN_MS)? {
            ping.finish()?.ensure_nothing_lost()?;
        }
        Ok(())
    }
}

/// ICMP echo requests that a host has received, by its kernel's count.
fn echo_requests(host: &Host) -> Result<u64> {
    let text = host.run(&["cat", "/proc/net/snmp"])?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let names = lines.next().context("no names of counters")?;
    let values = lines.next().context("no counters")?;
    let at = names.split(' ').position(|name| name == "InEchos").context("no such counter")?;
    values.split(' ').nth(at).context("no counter")?.parse().context("a counter")
}

/// All of FRR's `nhrp_redundancy`; `shortcut` is what the first client gets.
fn redundancy(net: &Net, shortcut: &str) -> Result<()> {
    let all = SERVERS.map(|(_, overlay, _)| overlay);
    net.until_known([true; 3], SOON)?;
    net.until_servers_know([true; 3], SOON)?;
    net.servers_answer(&all)?;
    net.gets_direct("three servers")?;
    net.until_shortcut(shortcut)?;

    // The first server is gone while traffic flows.
    let flow = net.endless()?;
    net.until_shortcut(shortcut)?;
    net.cable("down")?;
    let cut = Instant::now();
    net.until_known([false, true, true], LATE)?;
    println!("both clients have left nhs1 after {} ms", cut.elapsed().as_millis());
    net.survives(flow, "while nhs1 dies")?;
    net.until_idle()?;
    net.servers_answer(&all[1..])?;
    net.gets_direct("two servers")?;
    net.until_shortcut(shortcut)?;

    // It comes back while traffic flows.
    let flow = net.endless()?;
    net.cable("up")?;
    net.until_known([true; 3], LATE * 2)?;
    net.survives(flow, "while nhs1 comes back")?;
    net.servers_answer(&all)
}

#[test]
fn nhrp_redundancy() {
    ring3_waiting(NEEDS, |lab| {
        redundancy(&Net::start(lab, Whose::Ours, [Whose::Ours; 2], "", "")?, "10.5.5.0/24")
    });
}

#[test]
fn nhrp_redundancy_with_frr_servers() {
    ring3_waiting(NEEDS, |lab| {
        redundancy(&Net::start(lab, Whose::Frr, [Whose::Ours; 2], "", "")?, "172.16.1.5/32")
    });
}

#[test]
fn nhrp_redundancy_with_an_frr_client() {
    ring3_waiting(NEEDS, |lab| {
        redundancy(&Net::start(lab, Whose::Ours, [Whose::Ours, Whose::Frr], "", "")?, "10.5.5.0/24")
    });
}

/// FRR's `nhrp_nhs_priority`: of the three servers the best one alone is used, and again when it is back.
fn priority(net: &Net, shortcut: &str) -> Result<()> {
    net.until_known([true, false, false], SOON)?;
    net.until_servers_know([true, false, false], SOON)?;
    for router in &net.clients {
        let Router::Ours(agent) = router else { continue };
        let shown: Vec<_> =
            agent.tunnel(NETWORK)?.nhs.into_iter().map(|nhs| (nhs.name, nhs.priority, nhs.status)).collect();
        let status = |at| if at == 0 { NhsStatus::Responding } else { NhsStatus::Waiting };
        let wanted: Vec<_> =
            SERVERS.iter().enumerate().map(|(at, s)| (s.0.to_owned(), s.2, status(at))).collect();
        ensure!(shown == wanted, "{shown:?}");
    }
    net.gets_direct("the best server")?;
    net.until_shortcut(shortcut)?;

    let flow = net.endless()?;
    net.cable("down")?;
    let cut = Instant::now();
    net.until_known([false, true, false], LATE)?;
    println!("both clients have left nhs1 for nhs2 after {} ms", cut.elapsed().as_millis());
    net.survives(flow, "while nhs1 dies")?;
    net.until_idle()?;
    net.gets_direct("the next server")?;

    let flow = net.endless()?;
    net.cable("up")?;
    let back = Instant::now();
    net.until_known([true, false, false], LATE * 2)?;
    println!("both clients are back at nhs1 after {} ms", back.elapsed().as_millis());
    net.survives(flow, "while nhs1 comes back")?;
    net.until_servers_know([true, false, false], LATE)
}

const ONE_OF_ALL: (&str, &str) = (", cluster: all", "  clusters: [{name: all, maxConnections: 1}]\n");

#[test]
fn nhrp_nhs_priority() {
    ring3_waiting(NEEDS, |lab| {
        let (each, more) = ONE_OF_ALL;
        priority(&Net::start(lab, Whose::Ours, [Whose::Ours; 2], each, more)?, "10.5.5.0/24")
    });
}

#[test]
fn nhrp_nhs_priority_with_frr_servers() {
    ring3_waiting(NEEDS, |lab| {
        let (each, more) = ONE_OF_ALL;
        priority(&Net::start(lab, Whose::Frr, [Whose::Ours; 2], each, more)?, "172.16.1.5/32")
    });
}
