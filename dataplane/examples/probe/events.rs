//! The monitor: what it reports, what it keeps to itself, and that it owns up to losses.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use dataplane::Kernel;
use dataplane::model::{Address, KernelEvent, Neighbour, Op, Route, Target};
use tokio::sync::mpsc::Receiver;

use crate::ensure;
use crate::host::{Outcome, apply, create, event, gre, held, run, until};

/// Foreign routes that fit the monitor's socket but are more than events may wait.
const FULL_CHANNEL: u32 = 6000;
/// Foreign routes that the monitor's socket cannot hold.
const FULL_SOCKET: u32 = 20_000;

pub(crate) async fn all() -> Outcome<()> {
    let (kernel, mut events) = Kernel::open().await?;
    let link = create(&kernel, gre("gre1", super::HUB_NBMA)).await?;
    event(&mut events, "link made", |e| matches!(e, KernelEvent::Link(l) if l.index == link && l.up)).await?;
    for address in ["10.255.0.1/16", "fd00:255::1/64"] {
        let address = address.parse()?;
        apply(&kernel, Op::AddAddress(Address { link, address })).await?;
        let came = KernelEvent::Address { link, address, gone: false };
        event(&mut events, "address made", |e| *e == came).await?;
    }
    held("events: link and address");
    resolve_needed(&kernel, link, "10.255.0.99", &mut events).await?;
    resolve_needed(&kernel, link, "fd00:255::99", &mut events).await?;
    drift(&kernel, link, &mut events).await?;
    overrun(&kernel, &mut events).await?;
    apply(&kernel, Op::DeleteLink { index: link }).await?;
    let gone = KernelEvent::LinkGone { index: link, name: "gre1".into() };
    event(&mut events, "link gone", |e| *e == gone).await?;
    held("events: link gone");
    Ok(())
}

async fn resolve_needed(
    kernel: &Kernel,
    link: u32,
    host: &str,
    events: &mut Receiver<KernelEvent>,
) -> Outcome<()> {
    let overlay = host.parse()?;
    let mut ping = Command::new("ping").args(["-c", "1", "-W", "1", host]).stdout(Stdio::null()).spawn()?;
    let wanted = KernelEvent::ResolveNeeded { link, overlay };
    event(events, "RTM_GETNEIGH", |e| *e == wanted).await?;
    let seen = kernel.observe().await?;
    ensure!(seen.incomplete.contains(&(link, overlay)), "incomplete: {:?}", seen.incomplete);
    ping.wait()?;
    held(&format!("events: a packet to {host}, unresolved, asks for it; a dump shows it too"));
    Ok(())
}

async fn drift(kernel: &Kernel, link: u32, events: &mut Receiver<KernelEvent>) -> Outcome<()> {
    let overlay = "10.255.0.11".parse()?;
    let neighbour = Neighbour { link, overlay, nbma: super::SPOKES[0].2.parse()? };
    let target = Target::Link { link, via: Some(overlay) };
    let route = Route { prefix: "10.20.0.0/24".parse()?, table: 254, metric: 20, target, source: None };
    settle(events).await;
    apply(kernel, Op::PutNeighbour(neighbour.clone())).await?;
    apply(kernel, Op::PutRoute(route.clone())).await?;
    apply(kernel, Op::DeleteRoute(route.clone())).await?;
    apply(kernel, Op::PutRoute(route.clone())).await?;
    let echo = settle(events).await;
    ensure!(echo.is_empty(), "our own changes come back: {echo:?}");
    run(
        "ip",
        &["neigh", "replace", "10.255.0.11", "lladdr", "192.0.2.77", "dev", "gre1", "nud", "permanent"],
    )?;
    let changed = KernelEvent::Neighbour { link, overlay, nbma: Some("192.0.2.77".parse()?), gone: false };
    event(events, "neighbour overwritten", |e| *e == changed).await?;
    apply(kernel, Op::PutNeighbour(neighbour.clone())).await?;
    ensure!(kernel.observe().await?.neighbours == [neighbour.clone()], "not healed");
    run("ip", &["neigh", "del", "10.255.0.11", "dev", "gre1"])?;
    let deleted =
        |e: &KernelEvent| matches!(e, KernelEvent::Neighbour { overlay: o, gone: true, .. } if *o == overlay);
    event(events, "neighbour deleted", deleted).await?;
    run("ip", &["route", "del", "10.20.0.0/24", "proto", "214"])?;
    let gone = KernelEvent::Route { route, ours: true, gone: true };
    event(events, "route deleted", |e| *e == gone).await?;
    run("ip", &["route", "add", "10.88.0.0/24", "dev", "lo"])?;
    let added: ipnet::IpNet = "10.88.0.0/24".parse()?;
    let foreign = |e: &KernelEvent| match e {
        KernelEvent::Route { route, ours: false, gone: false } => route.prefix == added,
        _ => false,
    };
    event(events, "foreign route", foreign).await?;
    held("events: drift by others is reported, our own changes are not");
    Ok(())
}

/// Nobody reads while more happens than may wait: first in the channel, then in the kernel.
async fn overrun(kernel: &Kernel, events: &mut Receiver<KernelEvent>) -> Outcome<()> {
    settle(events).await;
    flood(FULL_CHANNEL)?;
    ensure!(dropped()? == 0, "the kernel dropped events of the small flood");
    // The channel takes no more when its length stands still.
    let mut length = 0;
    until("channel full", || {
        let last = std::mem::replace(&mut length, events.len());
        Ok(last == length && length > 0)
    })
    .await?;
    let mut before = 0;
    event(events, "overrun of the channel", |e| {
        before += 1;
        *e == KernelEvent::Overrun
    })
    .await?;
    ensure!(before < FULL_CHANNEL, "all {before} events came and an overrun was reported");
    recovers(kernel, events).await?;
    flood(FULL_SOCKET)?;
    ensure!(dropped()? > 0, "the kernel dropped nothing: an overrun of the socket is not shown");
    event(events, "overrun of the socket", |e| *e == KernelEvent::Overrun).await?;
    recovers(kernel, events).await?;
    held("events: a full channel and a full socket are owned up to as an overrun, then events flow again");
    Ok(())
}

/// Adds foreign routes and waits for that in a way that lets nothing else in this process run.
fn flood(routes: u32) -> Outcome<()> {
    let mut batch = String::new();
    for n in 0..routes {
        writeln!(batch, "route add 10.{}.{}.0/24 dev lo", 100 + n / 256, n % 256)?;
    }
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    ip.stdin.take().ok_or("no input")?.write_all(batch.as_bytes())?;
    ensure!(ip.wait()?.success(), "ip -batch failed");
    Ok(())
}

/// After the dump that an overrun asks for, events flow again.
async fn recovers(kernel: &Kernel, events: &mut Receiver<KernelEvent>) -> Outcome<()> {
    kernel.observe().await?;
    settle(events).await;
    run("ip", &["route", "add", "10.99.0.0/24", "dev", "lo"])?;
    event(
        events,
        "event after an overrun",
        |e| matches!(e, KernelEvent::Route { route, .. } if route.prefix.to_string() == "10.99.0.0/24"),
    )
    .await?;
    run("ip", &["route", "flush", "dev", "lo", "proto", "boot"])?;
    until("routes flushed", || Ok(!run("ip", &["route"])?.contains("10.99.0.0"))).await?;
    settle(events).await;
    Ok(())
}

/// Notifications that the kernel had to drop for a socket of this process.
fn dropped() -> Outcome<u64> {
    let table = std::fs::read_to_string("/proc/net/netlink")?;
    let drops = table.lines().skip(1).filter_map(|l| l.split_whitespace().nth(8)?.parse::<u64>().ok());
    Ok(drops.sum())
}

/// Reads until nothing comes for 300 ms; what came.
async fn settle(events: &mut Receiver<KernelEvent>) -> Vec<KernelEvent> {
    let mut seen = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(300), events.recv()).await {
        seen.push(event);
    }
    seen
}
