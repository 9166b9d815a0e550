//! A flood from one sender: over its budget it is counted and no more, and a branch that comes up in the middle of it
//! is registered all the same, and no traffic is lost.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use e2e::lab::inject::{self, Nhrp, in_gre};
use e2e::lab::peek::NhrpKind;
use e2e::lab::{Capture, Ping};
use e2e::scene::Scene;
use e2e::scene::branches::Branches;
use e2e::scene::overlay::{HUB, KEY, NETWORK};
use e2e::{ring3_with, wait};

use super::attacks::registration;
use super::{FREE, NEEDS, PURGE_REQUEST, SOON, drops, unchanged};

pub(crate) const REASON: &str = "over the rate limit";
/// Packets of the flood.
const FLOOD: usize = 40_000;
/// A branch registers within this time beside it. The engine hears it as if nothing were; what the flood takes from it
/// is room in the hub's socket, and a request that was lost goes out again after 1, 2, 4 and 8 s.
const REGISTERED: Duration = Duration::from_secs(20);
/// Not of the overlay: each claim is refused.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 7);

#[test]
fn a_flood_keeps_nobody_from_registering() {
    ring3_with(NEEDS, |lab| {
        let mut branches = Branches::start(Scene::build(lab)?)?;
        let (a, b) = (branches.a()?.clone(), branches.b()?.clone());
        let hub = branches.scene.site("hub")?.clone();
        let mallory = branches.scene.site("router")?.clone();
        let before = [hub.host.dump()?, a.host.dump()?];
        let purge = |n: usize| {
            let id = u32::try_from(n).unwrap_or(0);
            Nhrp { id, ..Nhrp::new(PURGE_REQUEST, mallory.nbma(), FREE, HUB) }.entry(
                32,
                mallory.nbma(),
                Some(FREE),
            )
        };
        let packets: Vec<_> = (0..FLOOD)
            .map(|n| match n % 4 {
                0 => purge(n).bytes(),
                1 => b"neither fish nor fowl".to_vec(),
                _ => registration(mallory.nbma(), OUTSIDE).bytes(),
            })
            .map(|bytes| in_gre(Some(KEY), &bytes))
            .collect();
        let ping = Ping::start(&a.lan, b.lan_host().into(), 1000, Duration::from_millis(5))?;
        let capture = Capture::start(&mallory.host, "wan0", "proto gre")?;
        branches.overlay.branch_b.kill()?;
        let (host, from, to) = (mallory.host.clone(), mallory.nbma(), hub.nbma());
        let flood = std::thread::spawn(move || inject::send(&host, from, to, &packets));
        wait::until(6 * SOON, "the flood to be over its budget", || {
            let limited = drops(&branches.overlay.hub, Some(REASON))?;
            ensure!(limited > 0, "nothing is over the limit");
            Ok(())
        })?;
        let start = Instant::now();
        branches.overlay.branch_b.restart()?;
        branches.overlay.branch_b.wait_until_up(NETWORK, 2 * REGISTERED)?;
        let took = start.elapsed();
        let during = !flood.is_finished();
        flood.join().map_err(|_| anyhow::anyhow!("the flood's thread"))??;
        let limited = drops(&branches.overlay.hub, Some(REASON))?;
        println!(
            "registered after {took:?} (flood still running: {during}); {limited} of {FLOOD} over the limit"
        );
        ensure!(took <= REGISTERED, "registered only after {took:?}");
        ping.finish()?.ensure_nothing_lost()?;
        // What it was answered: purges within its budget, and the refusals of what is not its own.
        let answers =
            capture.count(|p| p.is_nhrp(NhrpKind::PurgeReply) || p.is_nhrp(NhrpKind::RegistrationReply))?;
        ensure!(answers < FLOOD / 2, "{answers} answers");
        for (before, site) in before.iter().zip([&hub, &a]) {
            unchanged(before, &site.host)?;
        }
        branches.make_direct()?;
        branches.ensure_direct_traffic()
    });
}
