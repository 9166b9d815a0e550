//! Chapter 5: an agent is killed and started again under traffic; the kernel carries on.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::lab::{Agent, Ping};
use crate::scene::Scene;
use crate::scene::overlay::{NETWORK, Overlay, TUNNEL, link_index};
use crate::story::Chapter;

const SOON: Duration = Duration::from_secs(20);
/// Long enough to span the agent's death and its return.
const COUNT: u32 = 1_000;

pub(super) fn tell(chapter: &mut Chapter, scene: &Scene, overlay: &mut Overlay) -> Result<()> {
    let (a, b) = (scene.site("branch-a")?, scene.site("branch-b")?);
    let hub_lan = IpAddr::from(scene.site("hub")?.lan_host());
    for name in ["branch-a", "hub"] {
        let agent = if name == "hub" { &mut overlay.hub } else { &mut overlay.branch_a };
        chapter.step(
            &format!("kill -9 the agent of {name} and start it again, under pings (branch-a ↔ branch-b, branch-a → hub's LAN)"),
            "0 lost; link index unchanged; Up again with the same peers",
            || {
                let index = link_index(agent.host(), TUNNEL)?;
                let peers = peers(agent)?;
                let interval = Duration::from_millis(10);
                let runs = [
                    Ping::start(&a.lan, b.lan_host().into(), COUNT, interval)?,
                    Ping::start(&b.lan, a.lan_host().into(), COUNT, interval)?,
                    Ping::start(&a.lan, hub_lan, COUNT, interval)?,
                ];
                for run in &runs {
                    run.wait_for_reply(100, SOON)?;
                }
                let started = Instant::now();
                agent.kill()?;
                // It stays dead for a while under traffic.
                for run in &runs {
                    let last = run.so_far().replies.last().map_or(0, |r| r.sequence);
                    run.wait_for_reply(last + 100, SOON)?;
                }
                agent.restart()?;
                agent.wait_until_up(NETWORK, SOON)?;
                let away = started.elapsed();
                let mut seen = vec![format!("killed, started, Up again: {:.1} s", away.as_secs_f64())];
                for run in runs {
                    let report = run.finish()?;
                    report.ensure_nothing_lost()?;
                    seen.push(format!("to {}: {report}", report.target));
                }
                let now = link_index(agent.host(), TUNNEL)?;
                ensure!(now == index, "link index was {index} and is {now}");
                let after = self::peers(agent)?;
                ensure!(after == peers, "peers were {peers:?} and are {after:?}");
                seen.push(format!("link index {index} before and after; {} peers", peers.len()));
                Ok(seen.join("\n"))
            },
        )?;
    }
    Ok(())
}

fn peers(agent: &Agent) -> Result<Vec<(IpAddr, Option<IpAddr>)>> {
    let mut peers: Vec<_> = agent.tunnel(NETWORK)?.peers.iter().map(|p| (p.address, p.nbma)).collect();
    peers.sort_unstable();
    peers.dedup();
    Ok(peers)
}
