//! Runs every part of this crate against a real kernel with GRE: `probe` as root makes three network
//! namespaces (a hub and two spokes, joined by veth links), runs the checks in the hub's, and takes
//! everything down again. It looks from outside too, with `ip`, `nft`, `ss` and /proc. Exit status 0 only if
//! every check held.
//!
//! `probe inside` are the checks themselves, `probe spoke …` is the other end, `probe open` only opens the
//! kernel's sockets; all three are started by `probe`.

#[path = "probe/events.rs"]
mod events;
#[path = "probe/host.rs"]
mod host;
#[path = "probe/links.rs"]
mod links;
#[path = "probe/packets.rs"]
mod packets;
#[path = "probe/spoke.rs"]
mod spoke;
#[path = "probe/tables.rs"]
mod tables;

use std::process::{Command, ExitCode};
use std::time::Instant;

use host::{Outcome, run};

/// Namespace of the hub.
const HUB: &str = "dp-hub";
/// Name, underlay address of the hub towards it, its own, and its overlay address.
const SPOKES: [(&str, &str, &str, &str); 2] = [
    ("dp-a", "192.0.2.1", "192.0.2.2", "10.255.0.11"),
    ("dp-b", "198.51.100.1", "198.51.100.2", "10.255.0.12"),
];
/// Overlay address of the hub.
const HUB_OVERLAY: &str = "10.255.0.1";
/// IPv6 overlay address of the hub.
const HUB_OVERLAY6: &str = "fd00:255::1";
/// Underlay address of the hub, on its loopback interface.
const HUB_NBMA: &str = "203.0.113.1";
/// GRE key.
const KEY: u32 = 100;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        [] => outside(),
        ["inside"] => runtime().and_then(|r| r.block_on(inside())),
        ["open"] => runtime().and_then(|r| r.block_on(links::open())),
        ["spoke", underlay, overlay] => runtime().and_then(|r| r.block_on(spoke::run(underlay, overlay))),
        _ => Err("usage: probe [inside | open | spoke UNDERLAY OVERLAY]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Makes the namespaces, runs the checks in the hub's, removes the namespaces whatever came of it.
fn outside() -> Outcome<()> {
    let outcome = scene().and_then(|()| {
        let me = std::env::current_exe()?;
        let status = Command::new("ip").args(["netns", "exec", HUB]).arg(me).arg("inside").status()?;
        if status.success() { Ok(()) } else { Err("a check did not hold".into()) }
    });
    for name in SPOKES.iter().map(|s| s.0).chain([HUB]) {
        let _ = run("ip", &["netns", "del", name]);
    }
    outcome
}

fn scene() -> Outcome<()> {
    run("ip", &["netns", "add", HUB])?;
    run("ip", &["-n", HUB, "link", "set", "lo", "up"])?;
    run("ip", &["-n", HUB, "address", "add", &format!("{HUB_NBMA}/32"), "dev", "lo"])?;
    run("ip", &["netns", "exec", HUB, "sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
    run("ip", &["netns", "exec", HUB, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])?;
    for (name, near, far, _) in SPOKES {
        run("ip", &["netns", "add", name])?;
        run("ip", &["-n", name, "link", "set", "lo", "up"])?;
        let veth = ["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name];
        run("ip", &[&["-n", HUB], &veth[..]].concat())?;
        for (namespace, link, address) in [(HUB, name, near), (name, "eth0", far)] {
            run("ip", &["-n", namespace, "address", "add", &format!("{address}/24"), "dev", link])?;
            run("ip", &["-n", namespace, "link", "set", link, "up"])?;
        }
        run("ip", &["-n", name, "route", "add", "default", "via", near])?;
    }
    Ok(())
}

async fn inside() -> Outcome<()> {
    let started = Instant::now();
    links::all().await?;
    tables::all().await?;
    events::all().await?;
    packets::all().await?;
    println!("every check held, {:.1} s", started.elapsed().as_secs_f32());
    Ok(())
}
