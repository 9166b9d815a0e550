//! The holding time: a branch that dies without a word is forgotten by the hub, and by the branch that had a
//! direct path to it, when its time is over and not before; one that lives is never forgotten.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::lab::{Host, Ping};
use e2e::ring3;
use e2e::scene::Scene;
use e2e::scene::branches::Branches;
use e2e::scene::overlay::{BRANCH_B, TUNNEL};
use e2e::wait;

/// Holding time 6 s. The hub heard of the branch at most 2 s (a third of it) before it died, the other branch
/// asked for it at most 4 s (two thirds) before; a little less here, for packets are on their way.
const EARLIEST: [Duration; 2] = [Duration::from_millis(3_800), Duration::from_millis(1_800)];
const LATEST: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_branch_that_died_is_forgotten_when_its_holding_time_is_over() {
    ring3(|lab| {
        let short = |text: String| text.replace("holdTimeSeconds: 600", "holdTimeSeconds: 6");
        let mut branches = Branches::start_with(Scene::build(lab)?, short)?;
        let hub_agent = &branches.overlay.hub;
        let held = hub_agent.tunnel(e2e::scene::overlay::NETWORK)?.holding_time;
        ensure!(held == 6, "holding time {held} s: the manifest was not changed");
        let (a, b) = (branches.a()?.clone(), branches.b()?.clone());
        let hub = branches.scene.site("hub")?.host.clone();

        // Alive for longer than the holding time, with traffic: nothing lost, never forgotten.
        let life = Ping::start(&a.lan, b.lan_host().into(), 110, Duration::from_millis(100))?;
        let start = Instant::now();
        let forgetful = wait::until(SOON, "9 s of life", || {
            for host in [&hub, &a.host] {
                if !knows(host, BRANCH_B)? {
                    return Ok(Some(host.name().to_owned()));
                }
            }
            wait::ensure(start.elapsed() > Duration::from_secs(9), || "not yet".to_owned())?;
            Ok(None)
        })?;
        ensure!(
            forgetful.is_none(),
            "forgotten by {forgetful:?} while it lives, after {:?}",
            start.elapsed()
        );
        life.finish()?.ensure_nothing_lost()?;

        // Dead: no process, no link, no word on the wire.
        let death = Instant::now();
        branches.overlay.branch_b.kill()?;
        b.host.ip(&format!("link del {TUNNEL}"))?;
        let mut forgotten = [None, None];
        wait::until(SOON, "hub and branch-a to forget branch-b", || {
            for (host, at) in [&hub, &a.host].into_iter().zip(&mut forgotten) {
                if at.is_none() && !knows(host, BRANCH_B)? {
                    *at = Some(death.elapsed());
                }
            }
            wait::ensure(forgotten.iter().all(Option::is_some), || format!("{forgotten:?}"))
        })?;
        for ((name, at), earliest) in
            ["hub", "branch-a"].iter().zip(forgotten.into_iter().flatten()).zip(EARLIEST)
        {
            println!("{:>6} ms after its death: forgotten by {name}", at.as_millis());
            ensure!(at >= earliest && at <= LATEST, "{name} forgot after {at:?}");
        }
        for host in [&hub, &a.host] {
            let route = host.run(&["ip", "route", "show", &b.plan.lan.to_string()])?;
            ensure!(route.trim().is_empty(), "{} still has {route}", host.name());
        }

        // It comes back.
        branches.overlay.branch_b.restart()?;
        branches.make_direct()
    });
}

/// Whether the kernel of `host` has a neighbour for that overlay address.
fn knows(host: &Host, address: Ipv4Addr) -> Result<bool> {
    let text =
        host.run(&["ip", "neighbour", "show", &address.to_string(), "dev", TUNNEL, "nud", "permanent"])?;
    Ok(!text.trim().is_empty())
}
