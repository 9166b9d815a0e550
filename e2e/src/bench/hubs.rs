//! The same load on FRR's nhrpd and on our hub: registrations and refreshes a second, memory a spoke.
//!
//! ```text
//!   load ── eth0 ─────────── wan0 ── hub        spokes: 198.18.0.0/15 (underlay), 10.255.16.0 and on (overlay)
//!   192.0.2.1             192.0.2.2
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::load::Outcome;
use super::{Figure, Scale};
use crate::lab::{Agent, Frr, Host, Lab, frr};
use crate::scene::overlay::{HUB, KEY, NETWORK, TUNNEL, manifests};
use crate::{paths, wait};

const NBMA: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const LOAD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Nobody's: the load's host does not take what is sent there for its own, but its packet socket sees it.
const NOBODY: &str = "02:00:00:00:00:01";
const FRR_LINK: &str = "gre1";
/// After the last answer all neighbours have to be in the kernel within this time.
const SETTLED: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(20);
/// How often each spoke refreshes.
const REFRESHES: u32 = 3;

/// What one hub did under one load.
#[derive(Clone, Copy, Debug)]
struct Measured {
    new: f64,
    refresh: f64,
    /// Bytes a spoke.
    memory: f64,
}

/// Measures both hubs under loads of these numbers of spokes, one fresh hub each.
///
/// # Errors
/// When a hub does not start, does not answer all, or does not have all neighbours in time.
pub(super) fn measure(lab: &Lab, scale: &Scale) -> Result<Vec<Figure>> {
    // What foreign neighbours (not permanent ones) the kernel holds is limited for the machine: 1024 by default.
    for limit in ["gc_thresh1", "gc_thresh2", "gc_thresh3"] {
        let _ = fs::write(format!("/proc/sys/net/ipv4/neigh/default/{limit}"), "100000");
    }
    // The load's answers wait while the hub has the CPU.
    let _ = fs::write("/proc/sys/net/core/rmem_max", "16777216");
    let mut figures = Vec::new();
    for &spokes in &scale.spokes {
        let frr = if scale.foreign { Some(foreign_hub(lab, spokes)?) } else { None };
        let ours = our_hub(lab, spokes)?;
        let figure = |name: &str, unit: &str, value: f64, frr: Option<f64>| {
            Figure::new(format!("{name}.{spokes}"), value, unit).beside("FRR nhrpd", frr)
        };
        figures.push(figure("registrations.new", "1/s", ours.new, frr.map(|it| it.new)));
        figures.push(figure("registrations.refresh", "1/s", ours.refresh, frr.map(|it| it.refresh)));
        figures.push(figure("memory.per-spoke", "B", ours.memory, frr.map(|it| it.memory)));
    }
    Ok(figures)
}

fn our_hub(lab: &Lab, spokes: u32) -> Result<Measured> {
    let (hub, load) = stage(lab, &format!("ours-{spokes}"))?;
    let agent = Agent::start(&hub, &["dmvpn.io/hub=hub1"], &manifests(&["network.yaml"])?)?;
    agent.wait_until_up(NETWORK, SOON)?;
    under_load(&hub, &load, TUNNEL, agent.pid(), spokes)
}

fn foreign_hub(lab: &Lab, spokes: u32) -> Result<Measured> {
    let (hub, load) = stage(lab, &format!("frr-{spokes}"))?;
    frr::make_gre(&hub, FRR_LINK, NBMA, Some(KEY), HUB)?;
    let configuration = format!("interface {FRR_LINK}\n ip nhrp network-id 100\n ip nhrp holdtime 600\n");
    let frr = Frr::start(&hub, &configuration)?;
    under_load(&hub, &load, FRR_LINK, frr.pid("nhrpd")?, spokes)
}

/// A hub's host and the load's.
fn stage(lab: &Lab, name: &str) -> Result<(Host, Host)> {
    let (hub, load) = (lab.host(name)?, lab.host(&format!("load-{name}"))?);
    lab.link(&hub, "wan0", &load, "eth0")?;
    load.ip(&format!("addr add {LOAD}/24 dev eth0"))?;
    hub.ip_batch(&[
        format!("addr add {NBMA}/24 dev wan0"),
        format!("neigh replace {LOAD} lladdr {NOBODY} nud permanent dev wan0"),
        format!("route add default via {LOAD}"),
    ])?;
    Ok((hub, load))
}

fn under_load(hub: &Host, load: &Host, link: &str, pid: u32, spokes: u32) -> Result<Measured> {
    let idle = resident(pid)?;
    let new = play(load, spokes, 1)?;
    wait::until_max(SETTLED, Duration::from_millis(20), "a neighbour of each spoke", || {
        let table = hub.run(&["ip", "neighbour", "show", "dev", link])?;
        let count = table.lines().filter(|line| line.contains("lladdr")).count();
        wait::ensure(count >= spokes as usize, || format!("{count} of {spokes}"))
    })
    .with_context(|| format!("{} s after the last answer on {}", SETTLED.as_secs(), hub.name()))?;
    let refresh = play(load, spokes, REFRESHES)?;
    let grown = resident(pid)?.saturating_sub(idle);
    println!(
        "{}: {:.0} new/s, {:.0} refreshes/s, resident {} kB idle and {} kB more with all",
        hub.name(),
        new.rate(),
        refresh.rate(),
        idle / 1024,
        grown / 1024
    );
    Ok(Measured { new: new.rate(), refresh: refresh.rate(), memory: grown as f64 / f64::from(spokes) })
}

fn play(load: &Host, spokes: u32, passes: u32) -> Result<Outcome> {
    let program = paths::program("dmvpn-lab")?;
    let line =
        format!("{} load {NBMA} {HUB} --key {KEY} --spokes {spokes} --passes {passes}", program.display());
    let words: Vec<&str> = line.split(' ').collect();
    let outcome: Outcome = serde_json::from_str(&load.run(&words)?).context("what the load says")?;
    ensure!(outcome.accepted == spokes * passes, "{outcome:?} of {}", spokes * passes);
    if outcome.repeated > 0 {
        println!("{}: {} requests were sent again", load.name(), outcome.repeated);
    }
    Ok(outcome)
}

/// Resident memory of a process in bytes.
fn resident(pid: u32) -> Result<u64> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
    Ok(kib * 1024)
}
