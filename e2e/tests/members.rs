//! What a member with a good certificate gets of what is not its own: nothing. It is counted, and named.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::authority::Authority;
use e2e::lab::charon::Charon;
use e2e::lab::inject::{self, Nhrp, data_in_gre, ext, in_gre};
use e2e::lab::{Agent, Capture, Host, Ping};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::branches::Branches;
use e2e::scene::credentials::{NOW, example, own, trust};
use e2e::scene::overlay::{BRANCH_A, BRANCH_B, HUB, KEY, NETWORK, Overlay, TUNNEL, quickstart, until_at};
use e2e::scene::wire::Wire;
use e2e::scene::{Scene, Site};
use e2e::wait;
use nhrp::wire::{PrefixChunk, list_flags};
use view::State;

const SOON: Duration = Duration::from_secs(30);
const TEN_MS: Duration = Duration::from_millis(10);
const NEEDS: Needs = Needs { memory_mib: 896, deadline: Duration::from_secs(300) };
const MALLORY: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 66);
const RESOLUTION_REPLY: u8 = 2;
const REGISTRATION_REQUEST: u8 = 3;
const PURGE_REQUEST: u8 = 5;

/// The network with a policy, and with what may stand behind it.
fn network(policy: &str, denied: &str) -> Result<String> {
    let text = example()?.replace("policy: Any", &format!("policy: {policy}"));
    Ok(text + denied)
}

fn spoke(name: &str, identity: &str) -> Result<String> {
    Ok(quickstart(&format!("{name}.yaml"))? + &format!("  identity: {identity}\n"))
}

/// The attacker's own manifest: all that its certificate entitles it to.
fn mallory_spoke(address: Ipv4Addr) -> String {
    format!(
        "apiVersion: dmvpn.io/v1alpha1\nkind: DmvpnSpoke\nmetadata: {{name: mallory}}\nspec:\n  networkRef: {{name: \
         {NETWORK}}}\n  placement: {{type: Node, nodeName: router}}\n  overlayAddresses: [{address}]\n  identity: \
         mallory.example.net\n"
    )
}

/// What the hub's kernel has of ours that leads somewhere.
fn ways(hub: &Host) -> Result<String> {
    let routes = hub.run(&["ip", "route", "show", "table", "all", "proto", "214"])?;
    Ok(routes + &hub.run(&["ip", "neighbour", "show", "dev", TUNNEL, "nud", "permanent"])?)
}

/// SPIs of the kernel's SAs with an underlay address.
fn spis(host: &Host, peer: Ipv4Addr) -> Result<BTreeSet<String>> {
    let states = host.run(&["ip", "xfrm", "state"])?;
    let states = states.split("src ").filter(|state| state.contains("dst "));
    let of_peer = states.filter(|state| state.contains(&peer.to_string()));
    let spi = |state: &str| {
        let mut words = state.split_whitespace();
        words.find(|word| *word == "spi").and_then(|_| words.next()).map(str::to_owned)
    };
    Ok(of_peer.filter_map(spi).collect())
}

fn drops(agent: &Agent, reason: &str) -> Result<u64> {
    let dropped = agent.tunnel(NETWORK)?.traffic.dropped;
    Ok(dropped.iter().filter(|(it, _)| *it == reason).map(|(_, n)| n).sum())
}

/// How many packets with wrong sources the hub's kernel has dropped.
fn spoofed(hub: &Host) -> Result<u64> {
    let text = hub.run(&["nft", "list", "chain", "inet", &format!("dmvpn_{NETWORK}"), "sources_in"])?;
    let counts =
        text.split("counter packets ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}

fn logged(agent: &Agent, part: &str) -> Result<()> {
    wait::until(SOON, part, || wait::ensure(agent.log().contains(part), || agent.log()))
}

/// Sends NHRP from the attacker by its SA, and waits until the hub or a branch has counted it.
fn counted(mallory: &Site, to: Ipv4Addr, agent: &Agent, packet: &Nhrp, reason: &str) -> Result<()> {
    let before = drops(agent, reason)?;
    inject::send(&mallory.host, mallory.nbma(), to, &[in_gre(Some(KEY), &packet.bytes())])?;
    wait::until(SOON, reason, || {
        let now = drops(agent, reason)?;
        wait::ensure(now > before, || format!("{now} after {before}: {:?}", agent.tunnel(NETWORK)))
    })
}

#[test]
fn a_member_gets_nothing_that_is_not_its_own() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let wire = Wire::tap(&scene)?;
        let root = Authority::new("root")?;
        let daemons = ["hub", "branch-a", "branch-b", "router"];
        let _daemons: Vec<_> =
            daemons.iter().map(|name| Charon::start(&scene.site(name)?.host)).collect::<Result<_>>()?;
        let policy = network("AllowListed", "")?;
        let overlay = Overlay::start_with(&scene, |_| policy.clone())?;
        let declared = spoke("branch-a", "a.example.net")? + "---\n" + &spoke("branch-b", "b.example.net")?;
        overlay.hub.write("spokes.yaml", &declared)?;
        for (agent, name) in [(&overlay.branch_a, "a"), (&overlay.branch_b, "b")] {
            let own_name = format!("branch-{name}");
            agent.write(&format!("{own_name}.yaml"), &spoke(&own_name, &format!("{name}.example.net"))?)?;
        }
        for (agent, name) in [(&overlay.hub, "hub1"), (&overlay.branch_a, "a"), (&overlay.branch_b, "b")] {
            trust(agent, &[&root])?;
            own(agent, &root.issue(&format!("{name}.example.net"), NOW)?)?;
        }
        for agent in [&overlay.branch_a, &overlay.branch_b] {
            agent.wait_until_up(NETWORK, SOON)?;
        }
        let branches = Branches { scene, overlay };
        branches.make_direct()?;
        branches.ensure_direct_traffic()?;
        let (a, b, hub) = (branches.a()?, branches.b()?, branches.scene.site("hub")?);
        let before = ways(&hub.host)?;
        let pings = [
            Ping::start(&a.lan, b.lan_host().into(), 20_000, TEN_MS)?,
            Ping::start(&b.lan, hub.lan_host().into(), 20_000, TEN_MS)?,
        ];

        // A certificate alone is no entry in the list.
        let site = branches.scene.site("router")?;
        let manifests = BTreeMap::from([
            ("network.yaml".to_owned(), policy),
            ("mallory.yaml".to_owned(), mallory_spoke(MALLORY)),
        ]);
        let mallory = Agent::start(&site.host, &[], &manifests)?;
        trust(&mallory, &[&root])?;
        own(&mallory, &root.issue("mallory.example.net", NOW)?)?;
        until_at(&mallory, State::Nhrp, "AdministrativelyProhibited")?;
        let at_hub = &branches.overlay.hub;
        logged(at_hub, "(code 4): no DmvpnSpoke is declared for mallory.example.net")?;
        // Where it is: its neighbour's address still is its neighbour's.
        for agent in [at_hub, &mallory, &branches.overlay.branch_a, &branches.overlay.branch_b] {
            agent.write("network.yaml", &network("Authenticated", "")?)?;
        }
        mallory.write("mallory.yaml", &mallory_spoke(BRANCH_A))?;
        until_at(&mallory, State::Nhrp, "AddressTaken")?;
        logged(at_hub, "(code 14): the address is declared for branch-a, and mallory.example.net claims it")?;
        let shown = at_hub.cli("show dmvpn detail")?;
        ensure!(shown.contains("mallory.example.net claims it"), "{shown}");
        mallory.write("mallory.yaml", &mallory_spoke(MALLORY))?;
        mallory.wait_until_up(NETWORK, SOON)?;
        Ping::start(&site.host, hub.lan_host().into(), 20, TEN_MS)?.finish()?.ensure_nothing_lost()?;

        claims(&branches, site, &before)?;
        forgeries(&branches, site)?;
        spoofs(&branches, site)?;

        // Denied, it loses all within 5 s, and gets it no more.
        let denied = network("Authenticated", "    deniedIdentities: [mallory.example.net]\n")?;
        let hosts = [&hub.host, &a.host, &b.host];
        let had: Vec<_> = hosts.iter().map(|host| spis(host, site.nbma())).collect::<Result<_>>()?;
        ensure!(had.iter().take(2).all(|spis| spis.len() >= 2), "{had:?}");
        let since = Instant::now();
        for agent in [&branches.overlay.branch_a, &branches.overlay.branch_b, at_hub] {
            agent.write("network.yaml", &denied)?;
        }
        for (host, had) in hosts.iter().zip(&had) {
            wait::until(SOON, "the denied to have lost its SAs and routes", || {
                let now = spis(host, site.nbma())?;
                ensure!(now.is_disjoint(had), "{}: {now:?} of {had:?}", host.name());
                let ways = ways(host)?;
                wait::ensure(!ways.contains(&MALLORY.to_string()), || format!("{}: {ways}", host.name()))
            })?;
            println!("{}: nothing of the denied after {} ms", host.name(), since.elapsed().as_millis());
        }
        let took = since.elapsed();
        ensure!(took < Duration::from_secs(5), "{took:?}");
        wait::stays(Duration::from_secs(8), "no way to the denied", || {
            let ways = ways(&hub.host)?;
            wait::ensure(!ways.contains(&MALLORY.to_string()), || ways)
        })?;
        // What it makes anew ends at once, and carries nothing while it is there.
        for to in [hub.lan_host(), a.lan_host()] {
            let lost = Ping::start(&site.host, to.into(), 200, TEN_MS)?.finish()?;
            ensure!(lost.replies.is_empty(), "{lost}");
        }

        for pings in pings {
            let report = pings.stop()?;
            println!("beside it: {report}");
            report.ensure_nothing_lost()?;
        }
        branches.ensure_direct_traffic()?;
        let (clear, protected) = wire.stop()?;
        ensure!(clear == 0 && protected > 1000, "{clear} of clear GRE, {protected} of ESP");
        Ok(())
    });
}

/// Claims of addresses and prefixes of others.
fn claims(branches: &Branches, site: &Site, before: &str) -> Result<()> {
    let (hub, agent) = (branches.scene.site("hub")?, &branches.overlay.hub);
    let registration = |address: Ipv4Addr| {
        Nhrp::new(REGISTRATION_REQUEST, site.nbma(), address, HUB).entry(32, site.nbma(), None)
    };
    for address in [BRANCH_A, BRANCH_B] {
        counted(site, hub.nbma(), agent, &registration(address), "registration refused")?;
    }
    let wish = ["10.20.0.0/24", "10.30.0.128/25", "10.0.0.0/8", "0.0.0.0/0"];
    let prefixes = wish.iter().map(|it| it.parse().context("a prefix")).collect::<Result<_>>()?;
    let list = PrefixChunk { flags: list_flags::FIRST, generation: 77, prefixes, ..PrefixChunk::default() };
    let announcing = registration(MALLORY).extension(ext::PREFIXES, &list.encode());
    inject::send(&site.host, site.nbma(), hub.nbma(), &[in_gre(Some(KEY), &announcing.bytes())])?;
    for prefix in wish {
        logged(agent, &format!("{prefix} announced by {MALLORY} refused: "))?;
    }
    logged(agent, "mallory.example.net announces it, and 10.20.0.0/24 is declared for branch-a")?;
    let ways = ways(&hub.host)?;
    for line in before.lines() {
        ensure!(ways.contains(line), "{line} is gone: {ways}");
    }
    ensure!(!ways.contains(&format!("via {MALLORY}")), "{ways}");
    Ok(())
}

/// An answer that nobody asked for, and purges of what is another's.
fn forgeries(branches: &Branches, site: &Site) -> Result<()> {
    let (hub, a, b) = (branches.scene.site("hub")?, branches.a()?, branches.b()?);
    // Between spokes too there is an SA: whoever has a certificate may ask.
    wait::until(SOON, "a direct way from the attacker to branch-a", || {
        Ping::start(&site.host, a.lan_host().into(), 5, TEN_MS)?.finish()?;
        let way = site.host.run(&["ip", "route", "get", &a.lan_host().to_string()])?;
        wait::ensure(way.contains(&format!("via {BRANCH_A}")), || way)
    })?;
    let reply =
        Nhrp::new(RESOLUTION_REPLY, a.nbma(), BRANCH_A, b.lan_host()).entry(24, site.nbma(), Some(MALLORY));
    counted(site, a.nbma(), &branches.overlay.branch_a, &reply, "matches no outstanding request")?;
    let purge = |of: Ipv4Addr, to: Ipv4Addr| {
        Nhrp::new(PURGE_REQUEST, site.nbma(), MALLORY, to).entry(32, site.nbma(), Some(of))
    };
    counted(site, hub.nbma(), &branches.overlay.hub, &purge(BRANCH_A, HUB), "purge not from the owner")?;
    let agent = &branches.overlay.branch_a;
    counted(site, a.nbma(), agent, &purge(BRANCH_B, BRANCH_A), "purge not from the owner")?;
    branches.ensure_direct_traffic()
}

/// Data with sources of others goes no further than the hub's kernel.
fn spoofs(branches: &Branches, site: &Site) -> Result<()> {
    let (hub, a, b) = (branches.scene.site("hub")?, branches.a()?, branches.b()?);
    let at_hub = Capture::start(&hub.lan, "eth0", "proto 253 or proto 254")?;
    let at_b = Capture::start(&b.lan, "eth0", "proto 253 or proto 254")?;
    let forged = |to: Ipv4Addr| -> Vec<Vec<u8>> {
        [a.lan_host(), BRANCH_A, HUB, Ipv4Addr::new(172, 20, 0, 1)]
            .map(|source| data_in_gre(KEY, source, to))
            .to_vec()
    };
    let before = spoofed(&hub.host)?;
    for to in [hub.lan_host(), b.lan_host()] {
        inject::send(&site.host, site.nbma(), hub.nbma(), &forged(to))?;
    }
    wait::until(SOON, "wrong sources to be dropped", || {
        let now = spoofed(&hub.host)?;
        wait::ensure(now == before + 8, || format!("{now} after {before}"))
    })?;
    // The same with its own source arrives.
    for to in [hub.lan_host(), b.lan_host()] {
        inject::send(&site.host, site.nbma(), hub.nbma(), &[data_in_gre(KEY, MALLORY, to)])?;
    }
    for capture in [at_hub, at_b] {
        capture
            .wait_for(SOON, "data with its own source", |p| p.ip.is_some_and(|ip| ip.source == MALLORY))?;
        let others: Vec<_> = capture
            .stop()?
            .into_iter()
            .filter(|p| p.ip.is_some_and(|ip| ip.source != MALLORY && ip.protocol >= 253))
            .collect();
        ensure!(others.is_empty(), "{others:?}");
    }
    ensure!(spoofed(&hub.host)? == before + 8, "what is its own was dropped");
    Ok(())
}
