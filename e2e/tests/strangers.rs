//! Floods of strangers, over IPv4 and over IPv6: GRE with other keys, garbage for NHRP, registrations that are refused, from
//! one sender and from hundreds. A branch that starts in the middle of each is registered, traffic is not lost, and what the
//! hub's agent spends on it is measured.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::inject::{self, Nhrp, in_gre};
use e2e::lab::{Agent, Lab, Ping};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::Scene;
use e2e::scene::overlay::{HUB, KEY, NETWORK, Overlay};

const SOON: Duration = Duration::from_secs(20);
/// A branch registers within this time beside a flood: what that takes from it is room in the hub's socket, and a request that
/// was lost goes out again after 1, 2, 4 and 8 s.
const REGISTERED: Duration = Duration::from_secs(20);
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(300) };
const PACKETS: usize = 20_000;
/// Addresses that nobody has; packets from there are from as many senders.
const MANY: (Ipv4Addr, u32) = (Ipv4Addr::new(198, 18, 100, 1), 250);

/// Seconds of CPU that the agent has had.
fn spent(agent: &Agent) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid()))?;
    let fields: Vec<_> = stat.rsplit_once(") ").context("stat")?.1.split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|it| it.parse::<u32>().ok()).context("ticks");
    // USER_HZ is 100 on Linux.
    Ok(f64::from(ticks(11)? + ticks(12)?) / 100.0)
}

/// A claim of somebody else's address: refused.
fn claim(nbma: Ipv4Addr) -> Vec<u8> {
    const REGISTRATION_REQUEST: u8 = 3;
    let outside = Ipv4Addr::new(192, 168, 7, 7);
    Nhrp::new(REGISTRATION_REQUEST, nbma, outside, HUB).entry(32, nbma, None).bytes()
}

/// Floods the hub, by `senders`, with one packet again and again, and starts a branch in the middle of it.
fn flood(
    scene: &Scene,
    overlay: &mut Overlay,
    what: &str,
    senders: (IpAddr, u32),
    packet: Vec<u8>,
) -> Result<()> {
    let (hub, mallory) = (scene.site("hub")?, scene.site("router")?.host.clone());
    let to: IpAddr = if senders.0.is_ipv4() { hub.nbma().into() } else { hub.nbma6().into() };
    overlay.branch_b.kill()?;
    let (a, lan) = (&scene.site("branch-a")?.lan, hub.lan_host());
    let ping = Ping::start(a, lan.into(), 20_000, Duration::from_millis(10))?;
    ping.wait_for_reply(20, SOON)?;
    let before = spent(&overlay.hub)?;
    let start = Instant::now();
    let packets = vec![packet; PACKETS];
    let flood = std::thread::spawn(move || inject::send_as(&mallory, senders, to, &packets));
    overlay.branch_b.restart()?;
    overlay.branch_b.wait_until_up(NETWORK, 2 * REGISTERED)?;
    let registered = start.elapsed();
    let during = !flood.is_finished();
    flood.join().map_err(|_| anyhow::anyhow!("the flood's thread"))??;
    let took = start.elapsed();
    let cpu = spent(&overlay.hub)? - before;
    let report = ping.stop()?;
    println!(
        "{what}: {PACKETS} packets in {took:.1?}, the hub's agent spent {cpu:.2} s on its CPU, a branch was up after \
         {registered:.1?} (flood still running: {during}); {report}"
    );
    ensure!(registered <= REGISTERED, "{what}: registered only after {registered:?}");
    // A packet that costs more than this would cost a flood at line rate the hub.
    let each = cpu / PACKETS as f64;
    ensure!(each < 0.001, "{what}: {:.0} µs a packet", each * 1e6);
    report.ensure_nothing_lost()
}

fn start(lab: &Lab, over6: bool) -> Result<(Scene, Overlay)> {
    let scene = Scene::build(lab)?;
    let nbma6 = scene.site("hub")?.nbma6();
    let overlay = Overlay::start_with(&scene, |network| match over6 {
        true => network
            .replace("192.0.2.2", &format!("'{nbma6}'"))
            .replace("key: 100", "key: 100\n    underlayFamily: IPv6"),
        false => network,
    })?;
    overlay.branch_a.wait_until_up(NETWORK, SOON)?;
    overlay.branch_b.wait_until_up(NETWORK, SOON)?;
    Ok((scene, overlay))
}

#[test]
fn floods_over_ipv4() {
    ring3_with(NEEDS, |lab| {
        let (scene, mut overlay) = start(lab, false)?;
        let nbma = scene.site("router")?.nbma();
        let one = (IpAddr::from(nbma), 1);
        let many = (IpAddr::from(MANY.0), MANY.1);
        let log = |overlay: &Overlay| overlay.hub.log().lines().count();
        let lines = log(&overlay);
        flood(&scene, &mut overlay, "GRE with another key", one, in_gre(Some(KEY + 1), &claim(nbma)))?;
        flood(&scene, &mut overlay, "garbage, one sender", one, in_gre(Some(KEY), b"neither fish nor fowl"))?;
        flood(
            &scene,
            &mut overlay,
            "garbage, 250 senders",
            many,
            in_gre(Some(KEY), b"neither fish nor fowl"),
        )?;
        flood(&scene, &mut overlay, "claims, one sender", one, in_gre(Some(KEY), &claim(nbma)))?;
        flood(&scene, &mut overlay, "claims, 250 senders", many, in_gre(Some(KEY), &claim(nbma)))?;
        let said = log(&overlay) - lines;
        println!("the hub's agent wrote {said} lines about all of it");
        ensure!(said < 5_000, "{said} lines in the log");
        Ok(())
    });
}

#[test]
fn floods_over_ipv6() {
    ring3_with(NEEDS, |lab| {
        let (scene, mut overlay) = start(lab, true)?;
        let router = scene.site("router")?;
        let one = (IpAddr::from(router.nbma6()), 1);
        flood(
            &scene,
            &mut overlay,
            "GRE with another key",
            one,
            in_gre(Some(KEY + 1), &claim(router.nbma())),
        )?;
        flood(&scene, &mut overlay, "garbage", one, in_gre(Some(KEY), b"neither fish nor fowl"))?;
        flood(&scene, &mut overlay, "claims", one, in_gre(Some(KEY), &claim(router.nbma())))?;
        Ok(())
    });
}
