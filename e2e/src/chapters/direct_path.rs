//! Chapter 4: LAN to LAN; the path gets direct while the pings run, and none is lost.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::ping::{Report, both_ways};
use crate::lab::{Capture, Host, Peek};
use crate::scene::overlay::{Overlay, TUNNEL, counters};
use crate::scene::{Scene, Site};
use crate::story::Chapter;

/// Pings each way.
const COUNT: u32 = 1_000;
const INTERVAL: Duration = Duration::from_millis(10);
/// Echo requests and the replies to the other way's: whichever comes first shows the path at the start.
const PINGS: &str = "icmp[icmptype] == icmp-echo or icmp[icmptype] == icmp-echoreply";
/// Routers between two LANs: branch, hub, branch.
const BY_HUB: u8 = 3;
const DIRECT: u8 = 2;

pub(super) fn tell(chapter: &mut Chapter, scene: &Scene, overlay: &Overlay) -> Result<()> {
    let a = scene.site("branch-a")?;
    for name in ["branch-b", "router"] {
        gets_direct(chapter, a, scene.site(name)?, overlay.hub.host())?;
    }
    Ok(())
}

/// Two steps: the path between two LANs gets direct under pings from the first packet on, none lost; then the hub's
/// counters stand still.
pub(super) fn gets_direct(chapter: &mut Chapter, a: &Site, other: &Site, hub: &Host) -> Result<()> {
    let (one, two) = (a.plan.name, other.plan.name);
    chapter.step(
        &format!(
            "LAN of {one} ↔ LAN of {two}: {COUNT} pings each way, one every 10 ms, from the first packet on"
        ),
        "0 lost each way; 3 routers before (by the hub), 2 after (direct)",
        || {
            // The packets as they arrive in the other LAN: each tells by its TTL how many routers it came by.
            let arrivals =
                [Capture::start(&other.lan, "eth0", PINGS)?, Capture::start(&a.lan, "eth0", PINGS)?];
            let (there, back) = pings(a, other, COUNT)?;
            let (mut seen, mut by_hub) = (Vec::new(), 0);
            let ways = [("there", there, a), ("back", back, other)];
            for ((way, report, from), arrived) in ways.into_iter().zip(arrivals) {
                report.ensure_nothing_lost()?;
                let path = Path::of(&arrived.stop()?, from.lan_host().into())?;
                let routers = &path.routers;
                // Who begins a few milliseconds later may find the path made by the other.
                let well = *routers == [BY_HUB, DIRECT] || *routers == [DIRECT];
                ensure!(well, "{way}: routers, one after the other: {routers:?}");
                by_hub += usize::from(routers.first() == Some(&BY_HUB));
                seen.push(format!("{way}: {} sent, {} lost, {path}", report.sent, report.lost()));
            }
            ensure!(by_hub > 0, "no way began by the hub: what got direct?");
            Ok(seen.join("\n"))
        },
    )?;
    chapter.step(
        &format!("200 more pings each way between {one} and {two}"),
        "0 lost, and the hub's tunnel counters stand still",
        || {
            let before = counters(hub, TUNNEL)?;
            let (there, back) = pings(a, other, 200)?;
            there.ensure_nothing_lost()?;
            back.ensure_nothing_lost()?;
            let after = counters(hub, TUNNEL)?;
            ensure!(before == after, "the hub's (received, sent) went from {before:?} to {after:?}");
            Ok(format!("hub (received, sent) {before:?} before and after; {there}"))
        },
    )
}

/// How packets came: numbers of routers, in order, and when that changed last.
struct Path {
    routers: Vec<u8>,
    first: usize,
    switched: Duration,
}

impl Path {
    fn of(packets: &[Peek], from: IpAddr) -> Result<Self> {
        let arrived = packets.iter().filter_map(|p| p.ip.map(|ip| (p.time, ip)));
        let mut packets =
            arrived.filter(|(_, ip)| ip.source == from).map(|(time, ip)| (time, 64 - ip.ttl.min(64)));
        let (start, routers) = packets.next().context("no packet arrived")?;
        let mut path = Self { routers: vec![routers], first: 1, switched: Duration::ZERO };
        for (time, routers) in packets {
            if path.routers.last() != Some(&routers) {
                path.routers.push(routers);
                path.switched = time.saturating_sub(start);
            } else if path.routers.len() == 1 {
                path.first += 1;
            }
        }
        Ok(path)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.routers == [DIRECT] {
            return write!(f, "all by {DIRECT} routers: the other way had made the path");
        }
        let first = self.first;
        let ms = self.switched.as_millis();
        write!(
            f,
            "the first {first} by {BY_HUB} routers (the hub's path), all others by {DIRECT}; direct {ms} ms after the first"
        )
    }
}

pub(super) fn pings(a: &Site, b: &Site, count: u32) -> Result<(Report, Report)> {
    let of = |site: &Site| IpAddr::from(site.lan_host());
    both_ways((&a.lan, of(a)), (&b.lan, of(b)), count, INTERVAL)
}
