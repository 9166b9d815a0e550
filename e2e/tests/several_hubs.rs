//! Several hubs, on the wire: how soon traffic leaves a dead one, the way back, hubs that are added and drained with no
//! edit at any branch, agents that restart. Shortcuts are kept from forming (the isp drops Traffic Indications), so that
//! all traffic between the branches goes by a hub.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::ping::Report;
use e2e::lab::{Agent, Lab, Ping};
use e2e::scene::overlay::{BRANCH_A, BRANCH_B, NETWORK, TUNNEL, quickstart};
use e2e::scene::{Scene, plan};
use e2e::{ring3, wait};
use view::{NhsStatus, State};

const SOON: Duration = Duration::from_secs(20);
const LATE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(20);
/// A hub that dies is left within 3 s; a little more for the guest's clock and the ping's interval.
const LEFT: Duration = Duration::from_millis(3_200);

/// The hubs: name, site, overlay address, priority.
const HUBS: [(&str, &str, Ipv4Addr, u8); 3] = [
    ("hub1", "hub", Ipv4Addr::new(10, 255, 0, 1), 0),
    ("hub2", "router", Ipv4Addr::new(10, 255, 0, 2), 1),
    ("hub3", "hub3", Ipv4Addr::new(10, 255, 0, 3), 2),
];

/// The whole: hubs and two branches.
struct Net {
    scene: Scene,
    hubs: Vec<Agent>,
    a: Agent,
    b: Agent,
}

/// `network.yaml` with the first `count` hubs, `extra` in each hub's line (after its name), and `more` lines.
fn network(scene: &Scene, count: usize, extra: impl Fn(&str) -> String, more: &str) -> Result<String> {
    let text = quickstart("network.yaml")?;
    let (head, tail) = text.split_once("  - name: hub1").context("the quickstart's hub")?;
    let (_, tail) = tail.split_once("  tunnel:").context("the quickstart's tunnel")?;
    let mut hubs = String::new();
    for (name, site, overlay, priority) in HUBS.iter().take(count) {
        let nbma = scene.site(site)?.nbma();
        let extra = extra(name);
        hubs += &format!(
            "  - {{name: {name}, priority: {priority}, overlayAddresses: [{overlay}], nbma: [{{address: {nbma}}}]{extra}}}\n"
        );
    }
    Ok(format!("{head}{hubs}{more}  tunnel:{tail}"))
}

fn nothing(_: &str) -> String {
    String::new()
}

impl Net {
    /// Starts the first `count` hubs with `hubs` as their network and both branches with `branches`; all is up.
    fn start(lab: &Lab, count: usize, texts: impl Fn(&Scene) -> Result<(String, String)>) -> Result<Self> {
        let mut scene = Scene::build(lab)?;
        scene.add(lab, plan("hub3", "198.19.0.2/24", "2001:db8:d::2/64", "10.50.0.0/24", "fd00:50::/64")?)?;
        // NHRP type 8 in GRE with a key.
        scene.isp.nft(
            "table inet hold { chain f { type filter hook forward priority 0; \
             meta l4proto gre @th,16,16 0x2001 @th,200,8 8 drop; }; }",
        )?;
        let (hubs_text, branches_text) = texts(&scene)?;
        let hubs = HUBS.iter().take(count).map(|hub| start_hub(&scene, hub.0, &hubs_text));
        let hubs: Vec<_> = hubs.collect::<Result<_>>()?;
        let branch = |name: &str| {
            let own = format!("{name}.yaml");
            let files = [("network.yaml".into(), branches_text.clone()), (own.clone(), quickstart(&own)?)];
            Agent::start(&scene.site(name)?.host, &[], &files.into())
        };
        let (a, b) = (branch("branch-a")?, branch("branch-b")?);
        let net = Self { scene, hubs, a, b };
        for agent in [&net.a, &net.b] {
            agent.wait_until_up(NETWORK, SOON)?;
        }
        net.until_by("hub1", SOON)?;
        Ok(net)
    }

    /// Waits until both branches route to each other's LAN, and to each other's tunnel address, by this hub.
    fn until_by(&self, hub: &str, deadline: Duration) -> Result<()> {
        let (_, _, overlay, _) = *HUBS.iter().find(|h| h.0 == hub).context("no such hub")?;
        let (lan_a, lan_b) =
            (self.scene.site("branch-a")?.lan_host(), self.scene.site("branch-b")?.lan_host());
        wait::until(deadline, &format!("both branches to go by {hub}"), || {
            for (agent, targets) in [(&self.a, [lan_b, BRANCH_B]), (&self.b, [lan_a, BRANCH_A])] {
                for target in targets {
                    let way = agent.host().run(&["ip", "route", "get", &target.to_string()])?;
                    ensure!(way.contains(&format!("via {overlay} dev {TUNNEL}")), "{}", way.trim());
                }
            }
            Ok(())
        })
    }

    /// Pings from LAN to LAN, until stopped.
    fn pings(&self) -> Result<Ping> {
        let target = self.scene.site("branch-b")?.lan_host();
        let ping = Ping::start(&self.scene.site("branch-a")?.lan, target.into(), 20_000, INTERVAL)?;
        ping.wait_for_reply(10, SOON)?;
        Ok(ping)
    }

    /// Nothing was lost, and a few more pings pass.
    fn nothing_lost(&self, ping: Ping, what: &str) -> Result<()> {
        let report = stop(ping)?;
        println!("{what}: {} pings, {} lost", report.replies.len(), report.lost());
        report.ensure_nothing_lost()
    }

    /// Cuts a hub's host off the network, or joins it again.
    fn cable(&self, hub: &str, way: &str) -> Result<()> {
        let (_, site, _, _) = *HUBS.iter().find(|h| h.0 == hub).context("no such hub")?;
        self.scene.isp.ip(&format!("link set {} {way}", self.scene.uplink(self.scene.site(site)?)))
    }

    /// How `branch-a` shows its hubs: name, status, reason.
    fn shown(&self) -> Result<BTreeMap<String, (NhsStatus, String)>> {
        let nhs = self.a.tunnel(NETWORK)?.nhs;
        Ok(nhs.into_iter().map(|n| (n.name, (n.status, n.reason))).collect())
    }

    fn until_shown(&self, name: &str, status: NhsStatus, reason: &str, deadline: Duration) -> Result<()> {
        wait::until(deadline, &format!("{name} to be {status:?} {reason}"), || {
            let shown = self.shown()?;
            ensure!(shown.get(name) == Some(&(status, reason.to_owned())), "{shown:?}");
            Ok(())
        })
    }

    /// Waits until a hub knows no branch.
    fn until_left(&self, hub: &Agent, deadline: Duration) -> Result<()> {
        wait::until(deadline, &format!("{} to know nobody", hub.host().name()), || {
            let peers = hub.tunnel(NETWORK)?.peers;
            ensure!(peers.is_empty(), "{peers:?}");
            let kernel = hub.host().run(&["ip", "neighbour", "show", "dev", TUNNEL, "nud", "permanent"])?;
            ensure!(kernel.trim().is_empty(), "{kernel}");
            Ok(())
        })
    }
}

fn start_hub(scene: &Scene, name: &str, text: &str) -> Result<Agent> {
    let (_, site, _, _) = *HUBS.iter().find(|h| h.0 == name).context("no such hub")?;
    let label = format!("dmvpn.io/hub={name}");
    Agent::start(&scene.site(site)?.host, &[&label], &[("network.yaml".into(), text.to_owned())].into())
}

fn stop(ping: Ping) -> Result<Report> {
    let sent = ping.so_far().replies.iter().map(|reply| reply.sequence).max().unwrap_or(0);
    ping.wait_for_reply(sent + 20, SOON)?;
    ping.stop()
}

fn same(text: String) -> Result<(String, String)> {
    Ok((text.clone(), text))
}

#[test]
fn a_hub_that_dies_is_left_within_three_seconds_and_so_is_the_next() {
    ring3(|lab| {
        let net = Net::start(lab, 3, |scene| same(network(scene, 3, nothing, "  fallbackSeconds: 4\n")?))?;
        for (dead, next) in [("hub1", "hub2"), ("hub2", "hub3")] {
            let ping = net.pings()?;
            net.cable(dead, "down")?;
            net.until_by(next, SOON)?;
            let report = stop(ping)?;
            let gap = report.longest_gap();
            println!("{dead} dead: traffic by {next} after {} ms, {} lost", gap.as_millis(), report.lost());
            ensure!(gap <= LEFT, "no traffic for {gap:?}");
            ensure!(gap > Duration::from_millis(1_000), "{dead} was not on the way: {gap:?}");
        }
        ensure!(net.a.tunnel(NETWORK)?.state == State::Nhrp, "two of three hubs are dead");
        // Both come back: taken again when they have answered for the fallback time, and nothing is lost by it.
        let ping = net.pings()?;
        let start = Instant::now();
        net.cable("hub1", "up")?;
        net.cable("hub2", "up")?;
        net.until_by("hub1", LATE)?;
        println!("back on hub1 after {} ms", start.elapsed().as_millis());
        ensure!(start.elapsed() >= Duration::from_secs(4), "before the fallback time was over");
        for agent in [&net.a, &net.b] {
            agent.wait_until_up(NETWORK, SOON)?;
        }
        net.nothing_lost(ping, "way back")
    });
}

#[test]
fn of_a_cluster_one_is_used_and_the_better_one_comes_back_after_the_fallback_time() {
    ring3(|lab| {
        let in_cluster = |_: &str| ", cluster: dc".to_owned();
        let more = "  clusters: [{name: dc, maxConnections: 1}]\n  fallbackSeconds: 6\n";
        let net = Net::start(lab, 3, |scene| same(network(scene, 3, in_cluster, more)?))?;
        let waits = |name: &str| net.until_shown(name, NhsStatus::Waiting, "Standby", SOON);
        waits("hub2")?;
        waits("hub3")?;
        let shown = net.a.cli("show ip nhrp nhs")?;
        for line in [
            "10.255.0.1  RE  NBMA Address: 192.0.2.2 priority = 0 cluster = 1",
            "10.255.0.2  W   NBMA Address: 198.18.0.2 priority = 1 cluster = 1",
        ] {
            ensure!(shown.contains(line), "no {line:?} in:\n{shown}");
        }
        net.until_left(&net.hubs[1], SOON)?;

        let ping = net.pings()?;
        net.cable("hub1", "down")?;
        net.until_by("hub2", SOON)?;
        let gap = stop(ping)?.longest_gap();
        println!("next of the cluster after {} ms", gap.as_millis());
        ensure!(gap <= LEFT, "no traffic for {gap:?}");
        net.until_shown("hub1", NhsStatus::Expecting, "NoAnswer", SOON)?;
        net.a.wait_until_up(NETWORK, SOON).context("the cluster has enough without hub1")?;
        waits("hub3")?;

        let ping = net.pings()?;
        net.cable("hub1", "up")?;
        net.until_shown("hub1", NhsStatus::Responding, "", SOON)?;
        let answered = Instant::now();
        net.until_by("hub1", LATE)?;
        let waited = answered.elapsed();
        println!("back on hub1 {} ms after its answer", waited.as_millis());
        ensure!(waited >= Duration::from_secs(5), "it has to answer for 6 s first, not {waited:?}");
        waits("hub2")?;
        net.until_left(&net.hubs[1], SOON)?;
        net.nothing_lost(ping, "pre-emption")
    });
}

#[test]
fn an_agent_of_a_hub_that_restarts_loses_nothing() {
    ring3(|lab| {
        let mut net = Net::start(lab, 2, |scene| same(network(scene, 2, nothing, "")?))?;
        let ping = net.pings()?;
        // A moment, then for so long that the branches take the other hub.
        net.hubs[0].kill()?;
        net.hubs[0].restart()?;
        net.until_by("hub1", SOON)?;
        net.hubs[0].kill()?;
        net.until_by("hub2", SOON)?;
        net.hubs[0].restart()?;
        net.until_by("hub1", LATE)?;
        net.nothing_lost(ping, "agent of one of two hubs away")?;

        // The only hub: longer than a branch takes to find it silent.
        let one = network(&net.scene, 1, nothing, "")?
            .replace("holdTimeSeconds: 600", "holdTimeSeconds: 600\n    registrationIntervalSeconds: 1");
        let agents = [&net.hubs[0], &net.a, &net.b];
        for agent in agents {
            agent.write("network.yaml", &one)?;
        }
        wait::until(SOON, "one hub", || {
            let shown = net.shown()?;
            ensure!(shown.len() == 1, "{shown:?}");
            Ok(())
        })?;
        net.until_by("hub1", SOON)?;
        let ping = net.pings()?;
        net.hubs[0].kill()?;
        net.until_shown("hub1", NhsStatus::Expecting, "NoAnswer", SOON)?;
        net.hubs[0].restart()?;
        net.until_shown("hub1", NhsStatus::Responding, "", SOON)?;
        net.nothing_lost(ping, "agent of the only hub away")
    });
}

#[test]
fn a_hub_is_added_with_no_edit_at_any_branch() {
    ring3(|lab| {
        // The branches' YAML names hub1 alone.
        let mut net = Net::start(lab, 1, |scene| same(network(scene, 1, nothing, "")?))?;
        let text = network(
            &net.scene,
            3,
            |name| if name == "hub2" { ", mode: Disabled".into() } else { nothing("") },
            "",
        )?;
        let ping = net.pings()?;
        net.hubs.push(start_hub(&net.scene, "hub3", &text)?);
        let start = Instant::now();
        net.hubs[0].write("network.yaml", &text)?;
        for agent in [&net.a, &net.b] {
            wait::until(SOON, "the new hub to be used", || {
                let tunnel = agent.tunnel(NETWORK)?;
                let new = tunnel.nhs.iter().find(|nhs| nhs.name == "hub3").context("not there yet")?;
                ensure!(new.learned && new.state == State::Up && tunnel.nhs.len() == 2, "{new:?}");
                Ok(())
            })?;
        }
        println!("hub added: registered by both branches after {} ms", start.elapsed().as_millis());
        let peers = net.hubs[1].tunnel(NETWORK)?.peers;
        ensure!([BRANCH_A, BRANCH_B].iter().all(|b| peers.iter().any(|p| p.address == *b)), "{peers:?}");
        net.nothing_lost(ping, "hub added")?;
        // It serves when the only one that the branches were told of by YAML is dead, and an agent starts anew.
        net.cable("hub1", "down")?;
        net.until_by("hub3", SOON)?;
        net.a.kill()?;
        net.a.restart()?;
        net.until_by("hub3", SOON)?;
        stop(net.pings()?)?.ensure_nothing_lost()
    });
}

#[test]
fn a_draining_hub_hands_its_branches_on_and_nothing_is_lost() {
    ring3(|lab| {
        // The branches' YAML knows no mode: the hubs tell it.
        let net = Net::start(lab, 2, |scene| same(network(scene, 2, nothing, "")?))?;
        let drained = |name: &str| if name == "hub1" { ", mode: Draining".into() } else { nothing("") };
        let text = network(&net.scene, 2, drained, "")?;
        let ping = net.pings()?;
        let start = Instant::now();
        for hub in &net.hubs {
            hub.write("network.yaml", &text)?;
        }
        net.until_by("hub2", SOON)?;
        println!("draining: all by hub2 after {} ms", start.elapsed().as_millis());
        net.until_left(&net.hubs[0], LATE)?;
        println!("draining: nothing registered after {} ms", start.elapsed().as_millis());
        net.until_shown("hub1", NhsStatus::Waiting, "Draining", SOON)?;
        net.a.wait_until_up(NETWORK, SOON)?;
        // It can go now.
        net.cable("hub1", "down")?;
        net.nothing_lost(ping, "draining")
    });
}

/// A hub by its name: of several addresses the one that answers is used, and a name that changes is followed.
#[test]
fn a_hub_by_name_is_found_at_any_of_its_addresses_and_followed_when_it_moves() {
    ring3(|lab| {
        let named = |scene: &Scene| -> Result<(String, String)> {
            for name in ["branch-a", "branch-b"] {
                // The first of them is nobody's.
                scene
                    .site(name)?
                    .host
                    .etc("hosts", "192.0.2.1 vpn.example.net\n192.0.2.2 vpn.example.net\n")?;
            }
            let text = network(scene, 1, nothing, "")?;
            let branches = text.replace("{address: 192.0.2.2}", "{hostname: vpn.example.net}");
            ensure!(branches != text, "no hub at 192.0.2.2 in:\n{text}");
            Ok((text, branches))
        };
        let mut net = Net::start(lab, 1, named)?;
        let nbma = |net: &Net| -> Result<Vec<_>> {
            Ok(net.a.tunnel(NETWORK)?.nhs.iter().filter_map(|nhs| nhs.nbma).collect())
        };
        let at = nbma(&net)?;
        ensure!(at == [net.scene.site("hub")?.nbma()], "{at:?}");

        // The hub moves to another site; nothing but the name says so.
        net.cable("hub1", "down")?;
        let site = net.scene.site("router")?.clone();
        let text = network(&net.scene, 1, nothing, "")?.replace("192.0.2.2", &site.nbma().to_string());
        let files = [("network.yaml".to_owned(), text)].into();
        net.hubs.push(Agent::start(&site.host, &["dmvpn.io/hub=hub1"], &files)?);
        for name in ["branch-a", "branch-b"] {
            let hosts = format!("{} vpn.example.net\n", site.nbma());
            net.scene.site(name)?.host.etc("hosts", &hosts)?;
        }
        for agent in [&net.a, &net.b] {
            wait::until(LATE, "the name's new address to be used", || {
                let tunnel = agent.tunnel(NETWORK)?;
                let nhs = tunnel.nhs.first().context("no hub")?;
                ensure!(nhs.nbma == Some(site.nbma().into()) && nhs.state == State::Up, "{nhs:?}");
                Ok(())
            })?;
        }
        stop(net.pings()?)?.ensure_nothing_lost()
    });
}
