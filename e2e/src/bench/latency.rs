//! How soon a spoke that starts is registered, and how soon the path between two LANs is direct.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::{Figure, median};
use crate::lab::peek::NhrpKind;
use crate::lab::{Agent, Capture, Frr, Lab, Peek, Ping, frr};
use crate::scene::branches::purge;
use crate::scene::overlay::{BRANCH_A, BRANCH_B, HUB, KEY, NETWORK, manifests};
use crate::scene::{Scene, Site};
use crate::wait;

const SOON: Duration = Duration::from_secs(20);
const ROUNDS: usize = 5;
const PINGS: u32 = 400;
const INTERVAL: Duration = Duration::from_millis(1);
/// A hub redirects a pair of addresses once in this time, spokes that start anew included (`PAIR_INTERVAL_MS`).
const REDIRECT_INTERVAL: Duration = Duration::from_secs(2);
const FRR_LINK: &str = "gre1";

/// Milliseconds of one way to a direct path.
struct Direct {
    /// From the first packet by the hub to the first one straight to the other branch.
    after: f64,
    /// Round trip of the first packet, by the hub.
    rtt: f64,
}

pub(super) fn measure(lab: &Lab, foreign: bool) -> Result<Vec<Figure>> {
    let scene = Scene::build(lab)?;
    let (started, direct) = ours(&scene)?;
    let theirs = if foreign { Some(frrs(&scene)?) } else { None };
    let (frr_started, frr_direct) = theirs.unzip();
    let over = |it: &Direct| it.after - it.rtt;
    Ok(vec![
        Figure::new("start-to-registered", started, "ms").beside("FRR nhrpd", frr_started),
        Figure::new("first-packet-to-direct", direct.after, "ms")
            .beside("FRR nhrpd", frr_direct.as_ref().map(|it| it.after)),
        Figure::new("first-packet-rtt", direct.rtt, "ms")
            .beside("FRR nhrpd", frr_direct.as_ref().map(|it| it.rtt)),
        Figure::new("direct-path-after-rtt", over(&direct), "ms")
            .beside("FRR nhrpd", frr_direct.as_ref().map(over)),
    ])
}

/// Our agents everywhere. Each round starts from nothing: no link, no snapshot.
fn ours(scene: &Scene) -> Result<(f64, Direct)> {
    let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
    let mut hub_agent =
        Agent::start(&hub.host, &["dmvpn.io/hub=hub1"], &manifests(&["network.yaml", "hub-lan.yaml"])?)?;
    hub_agent.wait_until_up(NETWORK, SOON)?;
    let (mut started, mut after, mut rtt) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut agents = Vec::new();
        for (site, own) in [(a, "branch-a.yaml"), (b, "branch-b.yaml")] {
            let manifests = manifests(&["network.yaml", own])?;
            let (agent, took) = until_registered(site, || Agent::launch(&site.host, &[], &manifests))?;
            agent.wait_until_up(NETWORK, SOON)?;
            agents.push(agent);
            started.push(took);
        }
        let direct = until_direct(hub, a, b)?;
        after.push(direct.after);
        rtt.push(direct.rtt);
        for agent in &mut agents {
            agent.stop()?;
            purge(agent)?;
        }
        thread::sleep(REDIRECT_INTERVAL);
    }
    hub_agent.stop()?;
    purge(&hub_agent)?;
    Ok((median(started)?, Direct { after: median(after)?, rtt: median(rtt)? }))
}

/// FRR everywhere; zebra runs already when nhrpd starts.
fn frrs(scene: &Scene) -> Result<(f64, Direct)> {
    let (hub, a, b) = (scene.site("hub")?, scene.site("branch-a")?, scene.site("branch-b")?);
    let routes =
        [(a, BRANCH_A), (b, BRANCH_B)].map(|(site, via)| format!("ip route {} {via}\n", site.plan.lan));
    let interface = format!("interface {FRR_LINK}\n ip nhrp network-id 100\n ip nhrp holdtime 600\n");
    let group = frr::NFLOG_GROUP;
    let redirect = format!("nhrp nflog-group {group}\n{interface} ip nhrp redirect\n ip nhrp shortcut\n");
    frr::make_gre(&hub.host, FRR_LINK, hub.nbma(), Some(KEY), HUB)?;
    let _hub = Frr::start(&hub.host, &(redirect + &routes.concat()))?;
    let spoke = format!(
        "ip route 10.0.0.0/8 {HUB}\n{interface} ip nhrp nhs {HUB} nbma {}\n ip nhrp registration no-unique\n \
         ip nhrp shortcut\n",
        hub.nbma()
    );
    let (mut started, mut spokes) = (Vec::new(), Vec::new());
    for (site, overlay) in [(a, BRANCH_A), (b, BRANCH_B)] {
        frr::make_gre(&site.host, FRR_LINK, site.nbma(), Some(KEY), overlay)?;
        let mut frr = Frr::start_daemons(&site.host, &["zebra", "staticd"], &spoke)?;
        let (frr, took) = until_registered(site, || frr.start_daemon("nhrpd").map(|()| frr))?;
        spokes.push(frr);
        started.push(took);
    }
    for site in [a, b] {
        wait::until(SOON, "FRR's route to a LAN", || {
            let route = hub.host.run(&["ip", "route", "show", &site.plan.lan.to_string()])?;
            wait::ensure(route.contains(FRR_LINK), || route)
        })?;
    }
    Ok((median(started)?, until_direct(hub, a, b)?))
}

/// Starts something on a site and waits for the answer to its registration on the wire: the thing, and milliseconds.
fn until_registered<T>(site: &Site, start: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let capture = Capture::start(&site.host, "wan0", "proto gre")?;
    let before = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let started = start()?;
    let answer = capture.wait_for(SOON, "the answer to a registration", |packet| {
        packet.is_nhrp(NhrpKind::RegistrationReply) && packet.time >= before
    })?;
    Ok((started, millis(answer.time - before)))
}

/// Pings from LAN to LAN, and looks at where the first branch sends them.
fn until_direct(hub: &Site, a: &Site, b: &Site) -> Result<Direct> {
    let capture = Capture::start(&a.host, "wan0", "proto gre")?;
    let report = Ping::start(&a.lan, b.lan_host().into(), PINGS, INTERVAL)?.finish()?;
    let packets = capture.stop()?;
    let first = |nbma: Ipv4Addr| {
        let is_ping = |packet: &&Peek| {
            packet.is_between(a.nbma().into(), nbma.into())
                && packet.inner.is_some_and(|ip| ip.destination == b.lan_host())
        };
        packets.iter().find(is_ping).map(|packet| packet.time).with_context(|| format!("no ping to {nbma}"))
    };
    let rtt = report.replies.first().context("no reply")?.round_trip;
    Ok(Direct { after: millis(first(b.nbma())?.saturating_sub(first(hub.nbma())?)), rtt: millis(rtt) })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
