//! What hostile or broken senders put on the wire is dropped under the right reason, or refused; the tables
//! of hub and branch stay as they are, the agents live, and the traffic of others does not notice.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::dump::{self, Change};
use e2e::lab::inject::{self, Nhrp, in_gre, seal};
use e2e::lab::peek::NhrpKind;
use e2e::lab::{Agent, Capture, Dump, Host, Ping};
use e2e::scene::branches::Branches;
use e2e::scene::overlay::{BRANCH_A, BRANCH_B, HUB, KEY, NETWORK};
use e2e::scene::{Scene, Site};
use e2e::{ring3, wait};

const SOON: Duration = Duration::from_secs(10);
/// Overlay address that nobody has.
const FREE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 66);
const REGISTRATION_REQUEST: u8 = 3;
const REGISTRATION_REPLY: u8 = 4;
const PURGE_REQUEST: u8 = 5;
const TRAFFIC_INDICATION: u8 = 8;
/// Pings that run beside the attack.
const COUNT: u32 = 2_000;
const INTERVAL: Duration = Duration::from_millis(5);

/// What is sent, and what must be counted for it.
struct Attack {
    what: &'static str,
    /// Outer source address: the attacker's own, or somebody else's.
    from: Ipv4Addr,
    to: Ipv4Addr,
    packets: Vec<Vec<u8>>,
    /// Reason as `show ip nhrp traffic` prints it; `None`: any reasons, as many as packets in all.
    reason: Option<&'static str>,
}

#[test]
fn hostile_packets_are_counted_and_change_nothing() {
    ring3(|lab| {
        let branches = Branches::start(Scene::build(lab)?)?;
        let (a, b) = (branches.a()?, branches.b()?);
        let hub = branches.scene.site("hub")?;
        // No agent runs there: it is the attacker's, an address of its own that anybody may have.
        let mallory = branches.scene.site("router")?;
        let before = [hub.host.dump()?, a.host.dump()?];
        let runs = [
            Ping::start(&a.lan, b.lan_host().into(), COUNT, INTERVAL)?,
            Ping::start(&b.lan, hub.lan_host().into(), COUNT, INTERVAL)?,
        ];
        let agents = [&branches.overlay.hub, &branches.overlay.branch_a];
        for attack in attacks(mallory.nbma(), hub.nbma(), a.nbma(), b.nbma()) {
            let agent = if attack.to == hub.nbma() { agents[0] } else { agents[1] };
            counted(&branches, mallory, agent, &attack).with_context(|| attack.what.to_owned())?;
        }
        refused(&branches, mallory)?;
        let wrong_key = in_gre(Some(KEY + 1), &registration(mallory.nbma(), FREE).bytes());
        let no_key = in_gre(None, &registration(mallory.nbma(), FREE).bytes());
        let received = received(agents[0])?;
        inject::send(&mallory.host, mallory.nbma(), hub.nbma(), &[wrong_key, no_key])?;
        for run in runs {
            let report = run.finish()?;
            report.ensure_nothing_lost()?;
            println!("beside it: {report}");
        }
        // The pings took longer than two packets on their way.
        let claimed = self::received(agents[0])?.saturating_sub(received);
        let renewals = 4;
        ensure!(claimed <= renewals, "{claimed} registrations came: one without our key got in?");
        for (before, site) in before.iter().zip([hub, a]) {
            unchanged(before, &site.host)?;
        }
        for agent in agents {
            let tunnel = agent.tunnel(NETWORK)?;
            ensure!(tunnel.state == view::State::Up, "{:?} {}", tunnel.state, tunnel.message);
            ensure!(!agent.log().contains("panicked"), "{}", agent.log());
        }
        branches.ensure_direct_traffic()
    });
}

/// `from` claims an overlay address at itself.
fn registration(from: Ipv4Addr, address: Ipv4Addr) -> Nhrp {
    Nhrp::new(REGISTRATION_REQUEST, from, address, HUB).entry(32, from, None)
}

fn attacks(mallory: Ipv4Addr, hub: Ipv4Addr, a: Ipv4Addr, b: Ipv4Addr) -> Vec<Attack> {
    let good = registration(mallory, FREE).bytes();
    let cut = |length: usize| good.get(..length).unwrap_or(&good).to_vec();
    let of_kind = |kind: u8| Nhrp { kind, ..registration(mallory, FREE) }.bytes();
    let spoilt = |at: usize, value: u8, right_sum: bool| {
        let mut bytes = good.clone();
        bytes.splice(at..=at, [value]);
        if right_sum {
            seal(&mut bytes);
        }
        bytes
    };
    let purge = |address: Ipv4Addr| {
        Nhrp::new(PURGE_REQUEST, mallory, FREE, HUB).entry(32, mallory, Some(address)).bytes()
    };
    let to_purge = |address: Ipv4Addr, to: Ipv4Addr| {
        Nhrp::new(PURGE_REQUEST, mallory, FREE, to).entry(32, mallory, Some(address)).bytes()
    };
    let indication = |source: Ipv4Addr, destination: Ipv4Addr| {
        Nhrp::new(TRAFFIC_INDICATION, hub, HUB, BRANCH_A).about(source, destination).bytes()
    };
    let (lan_a, lan_b) = (Ipv4Addr::new(10, 20, 0, 10), Ipv4Addr::new(10, 30, 0, 10));
    let elsewhere = Ipv4Addr::new(10, 99, 0, 9);
    let reply = Nhrp::new(REGISTRATION_REPLY, a, BRANCH_A, HUB).entry(32, a, None).bytes();
    let attack = |what, from, to, packets, reason| Attack { what, from, to, packets, reason };
    vec![
        attack(
            "a registration cut short at every length",
            mallory,
            hub,
            // The kernel itself drops what is shorter than 4 bytes behind the GRE header.
            (4..good.len()).map(cut).collect(),
            Some("malformed packet"),
        ),
        attack(
            "unknown packet types",
            mallory,
            hub,
            [0, 9, 77, 255].map(of_kind).to_vec(),
            Some("unknown packet type"),
        ),
        attack(
            "wrong checksums",
            mallory,
            hub,
            (20..good.len()).map(|at| spoilt(at, good[at] ^ 0x10, false)).collect(),
            Some("wrong checksum"),
        ),
        attack(
            "other NHRP versions",
            mallory,
            hub,
            [0, 2, 255].map(|v| spoilt(16, v, true)).to_vec(),
            Some("unknown NHRP version"),
        ),
        attack("garbage", mallory, hub, garbage(300), None),
        attack(
            "a purge of branch-b's address, at the hub",
            mallory,
            hub,
            vec![purge(BRANCH_B), purge(BRANCH_A)],
            Some("purge not from the owner"),
        ),
        attack(
            "a purge of branch-b's address, at branch-a, which has a direct path to it",
            mallory,
            a,
            vec![to_purge(BRANCH_B, BRANCH_A)],
            Some("purge not from the owner"),
        ),
        attack(
            "a redirect from one who is no hub",
            mallory,
            a,
            vec![indication(lan_a, elsewhere), indication(lan_a, lan_b)],
            Some("not from the one who may send it"),
        ),
        attack(
            "a redirect to the hub",
            mallory,
            hub,
            vec![indication(lan_b, lan_a)],
            Some("not from the one who may send it"),
        ),
        attack(
            "a redirect with the hub's source address, about traffic of others",
            hub,
            a,
            vec![indication(lan_b, elsewhere), indication(elsewhere, lan_b)],
            Some("redirect for traffic that is not ours"),
        ),
        attack(
            "a registration reply that nobody asked for, as from the hub",
            hub,
            a,
            vec![reply.clone()],
            Some("matches no outstanding request"),
        ),
        attack(
            "a registration reply to the hub, which registers nowhere",
            b,
            hub,
            vec![reply],
            Some("matches no outstanding request"),
        ),
        attack(
            "a registration at a branch",
            mallory,
            a,
            vec![Nhrp { destination: BRANCH_A, ..registration(mallory, FREE) }.bytes()],
            Some("this node is not an NHS"),
        ),
        attack(
            "branch-b's address, which branch-b still holds",
            mallory,
            hub,
            vec![registration(mallory, BRANCH_B).bytes()],
            Some("the old holder of the address is being probed"),
        ),
    ]
}

/// Sends it, and waits until exactly that many more are counted under the reason.
fn counted(branches: &Branches, mallory: &Site, agent: &Agent, attack: &Attack) -> Result<()> {
    let before = drops(agent, attack.reason)?;
    let from = if attack.from == mallory.nbma() { &mallory.host } else { &branches.scene.isp };
    let packets: Vec<Vec<u8>> = attack.packets.iter().map(|p| in_gre(Some(KEY), p)).collect();
    inject::send(from, attack.from, attack.to, &packets)?;
    let wanted = before + attack.packets.len() as u64;
    wait::until(SOON, "the drops to be counted", || {
        let now = drops(agent, attack.reason)?;
        let seen = || format!("{now} after {before}, {wanted} wanted: {:?}", agent.tunnel(NETWORK));
        wait::ensure(now == wanted, seen)
    })?;
    if let Some(reason) = attack.reason {
        let text = agent.cli("show ip nhrp traffic")?;
        ensure!(text.contains(&format!("{wanted} {reason}")), "{text}");
    }
    let reason = attack.reason.unwrap_or("several reasons");
    println!("{:>4} × {} → {reason}", attack.packets.len(), attack.what);
    Ok(())
}

fn drops(agent: &Agent, reason: Option<&str>) -> Result<u64> {
    let dropped = agent.tunnel(NETWORK)?.traffic.dropped;
    Ok(dropped.iter().filter(|(r, _)| reason.is_none_or(|wanted| wanted == r)).map(|(_, n)| n).sum())
}

/// Claims that the hub answers with a refusal: on the wire, in its counters, in its log.
fn refused(branches: &Branches, mallory: &Site) -> Result<()> {
    let (hub, agent) = (branches.scene.site("hub")?, &branches.overlay.hub);
    let capture = Capture::start(&mallory.host, "wan0", "proto gre")?;
    let outside = Ipv4Addr::new(192, 168, 7, 7);
    for (id, address, code, why) in [
        (0x51, outside, 4, "outside of the overlay"),
        (0x52, HUB, 14, "belongs to this hub"),
        (0x53, Ipv4Addr::new(224, 0, 0, 5), 4, "not an overlay host address"),
    ] {
        let before = drops(agent, Some("registration refused"))?;
        let claim = Nhrp { id, ..registration(mallory.nbma(), address) }.bytes();
        inject::send(&mallory.host, mallory.nbma(), hub.nbma(), &[in_gre(Some(KEY), &claim)])?;
        let what = format!("the answer to the claim of {address}");
        capture.wait_for(SOON, &what, |p| {
            p.is_nhrp(NhrpKind::RegistrationReply) && p.nhrp.as_ref().is_some_and(|n| n.request_id == id)
        })?;
        // The code stands behind IP (20), GRE with key (8), fixed header and mandatory part (20 + 20).
        let frames = capture.frames()?;
        let answer = frames.iter().rev().find_map(|f| {
            let nhrp = f.data.get(28..)?;
            (nhrp.get(17) == Some(&REGISTRATION_REPLY)).then(|| nhrp.get(40).copied())?
        });
        ensure!(answer == Some(code), "{address}: code {answer:?}, {code} wanted");
        wait::until(SOON, "the refusal to be counted", || {
            let now = drops(agent, Some("registration refused"))?;
            wait::ensure(now == before + 1, || format!("{now} after {before}"))
        })?;
        ensure!(agent.log().contains(why), "{why:?} is not in the log");
        println!("   1 × claim of {address} → refused with code {code}: {why}");
    }
    Ok(())
}

/// Registration requests that the agent could read so far.
fn received(agent: &Agent) -> Result<u64> {
    let received = agent.tunnel(NETWORK)?.traffic.received;
    received.iter().find(|(kind, _)| kind == "Registration Request").map(|(_, n)| *n).context("no counter")
}

/// All kernel tables are as before, but for the elements that nft's dynamic sets gather from traffic.
fn unchanged(before: &Dump, host: &Host) -> Result<()> {
    let mut changes: Vec<Change> = before.changes(&host.dump()?);
    changes.retain(|c| c.section != "nft");
    ensure!(changes.is_empty(), "{} changed:\n{}", host.name(), dump::print(&changes));
    Ok(())
}

/// Bytes without sense (xorshift), of 4 to 199 in a row.
fn garbage(count: usize) -> Vec<Vec<u8>> {
    let mut state: u32 = 0x2545_f491;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..count)
        .map(|_| {
            let length = next() % 196 + 4;
            (0..length).map(|_| next().to_be_bytes()[1]).collect()
        })
        .collect()
}
