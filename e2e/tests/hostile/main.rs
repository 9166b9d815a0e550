//! What hostile or broken senders put on the wire is dropped under the right reason, or refused; the tables
//! of hub and branch stay as they are, the agents live, and the traffic of others does not notice.
//!
//! Each reason that the engine knows has its packet here ([`attacks`], [`password`], [`flood`]) or stands in
//! [`NOT_BY_PACKETS`]: [`every_reason_has_its_packet`] compares.

mod attacks;
mod flood;
mod identity;
mod password;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::dump::{self, Change};
use e2e::lab::inject::{self, Nhrp, in_gre};
use e2e::lab::peek::NhrpKind;
use e2e::lab::{Agent, Capture, Dump, Host, Ping};
use e2e::ring3::Needs;
use e2e::scene::branches::Branches;
use e2e::scene::overlay::{BRANCH_A, BRANCH_B, HUB, KEY, NETWORK};
use e2e::scene::{Scene, Site};
use e2e::{ring3_with, wait};
use nhrp::DropReason;

use attacks::{Attack, attacks, registration};

const SOON: Duration = Duration::from_secs(10);
/// Overlay address that nobody has.
const FREE: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 66);
/// Packet types.
const RESOLUTION_REQUEST: u8 = 1;
const RESOLUTION_REPLY: u8 = 2;
const REGISTRATION_REQUEST: u8 = 3;
const REGISTRATION_REPLY: u8 = 4;
const PURGE_REQUEST: u8 = 5;
const PURGE_REPLY: u8 = 6;
const ERROR_INDICATION: u8 = 7;
const TRAFFIC_INDICATION: u8 = 8;
/// Pings that run beside the attack.
const COUNT: u32 = 4_000;
const INTERVAL: Duration = Duration::from_millis(5);

/// Many processes one after the other: on a busy machine that takes its time.
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(300) };

/// Reasons, as they are printed, that no packet to a node of this scene can bring about; and where else they are shown.
const NOT_BY_PACKETS: &[(&str, &str)] = &[
    ("malformed list of hubs", "only in an answer that was asked for"),
    ("not in this DMVPN phase", "this network is of Phase 3; nhrp: shortcuts::phases_one_and_two"),
    ("table full", "takes thousands of members; nhrp: budgets, safety::a_flood_of_claims_is_bounded"),
    ("the endpoint is being withdrawn", "for 2 s only; nhrp: server::who_is_leaving_answers_nothing_new"),
    ("unreadable data packet", "the kernel forwards none; nhrp: shortcuts::redirects_are_limited_by_pair"),
    ("wrong tunnel interface", "a socket hears its own link only; nhrp: server::another_link_is_not_ours"),
];

#[test]
fn every_reason_has_its_packet() {
    let any = Ipv4Addr::LOCALHOST;
    let mut shown: BTreeSet<&str> = attacks(any, any, any, any).iter().filter_map(|it| it.reason).collect();
    shown.extend([password::REASON, flood::REASON, REFUSED, BACK_OFF]);
    let texts: Vec<_> = DropReason::ALL.iter().map(ToString::to_string).collect();
    for text in &texts {
        let elsewhere = NOT_BY_PACKETS.iter().any(|(other, _)| other == text);
        assert!(shown.contains(text.as_str()) != elsewhere, "{text}");
    }
    assert!(shown.iter().all(|text| texts.iter().any(|other| other == text)), "{shown:?}");
}

#[test]
fn hostile_packets_are_counted_and_change_nothing() {
    ring3_with(NEEDS, |lab| {
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
        backed_off(&branches, mallory)?;
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

/// Sends it, and waits until exactly that many more are counted under the reason.
fn counted(branches: &Branches, mallory: &Site, agent: &Agent, attack: &Attack) -> Result<()> {
    let before = settled(agent, attack.reason)?;
    let from = if attack.from == mallory.nbma() { &mallory.host } else { &branches.scene.isp };
    inject::send(from, attack.from, attack.to, &attack.in_gre())?;
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

/// The count once it stands still: what an earlier attack set off may be under way.
fn settled(agent: &Agent, reason: Option<&str>) -> Result<u64> {
    let mut last = drops(agent, reason)?;
    wait::until(SOON, "the counters to stand still", || {
        let before = std::mem::replace(&mut last, drops(agent, reason)?);
        wait::ensure(before == last, || format!("{before}, then {last}"))?;
        Ok(last)
    })
}

fn drops(agent: &Agent, reason: Option<&str>) -> Result<u64> {
    let dropped = agent.tunnel(NETWORK)?.traffic.dropped;
    Ok(dropped.iter().filter(|(r, _)| reason.is_none_or(|wanted| wanted == r)).map(|(_, n)| n).sum())
}

const BACK_OFF: &str = "the destination is in its back-off";

/// A redirect to nowhere, as from the hub: the branch asks, the hub says that it is unreachable, traffic stays on the
/// hub's path, and the branch does not let itself be made to ask again.
fn backed_off(branches: &Branches, mallory: &Site) -> Result<()> {
    let (hub, a) = (branches.scene.site("hub")?, branches.a()?);
    let agent = &branches.overlay.branch_a;
    let nowhere = Ipv4Addr::new(10, 98, 0, 9);
    let redirect =
        Nhrp::new(TRAFFIC_INDICATION, hub.nbma(), HUB, BRANCH_A).about(a.lan_host(), nowhere).bytes();
    let capture = Capture::start(&branches.scene.isp, &branches.scene.uplink(a), "proto gre")?;
    let send =
        |packet: &[u8]| inject::send(&branches.scene.isp, hub.nbma(), a.nbma(), &[in_gre(Some(KEY), packet)]);
    send(&redirect)?;
    // Code 6 (protocol address unreachable) in the high half.
    capture.wait_for(SOON, "the hub's error indication", |p| {
        p.is_nhrp(NhrpKind::ErrorIndication) && p.nhrp.as_ref().is_some_and(|n| n.request_id >> 16 == 6)
    })?;
    wait::until(SOON, "the failure to be shown", || {
        let shown = agent.cli("show ip nhrp")?;
        ensure!(shown.contains(&nowhere.to_string()), "{shown}");
        Ok(())
    })?;
    let attack = Attack {
        what: "the same redirect again",
        from: hub.nbma(),
        to: a.nbma(),
        packets: vec![redirect.clone(), redirect],
        reason: Some(BACK_OFF),
    };
    counted(branches, mallory, agent, &attack)
}

const REFUSED: &str = "registration refused";

/// Claims that the hub answers with a refusal: on the wire, in its counters, in its log.
fn refused(branches: &Branches, mallory: &Site) -> Result<()> {
    let (hub, agent) = (branches.scene.site("hub")?, &branches.overlay.hub);
    let capture = Capture::start(&mallory.host, "wan0", "proto gre")?;
    let outside = Ipv4Addr::new(192, 168, 7, 7);
    for (id, address, code, why) in [
        (0x51, outside, 4, "outside of the overlay"),
        (0x52, HUB, 14, "belongs to this hub"),
        (0x53, Ipv4Addr::new(224, 0, 0, 5), 4, "not an overlay host address"),
        // A thief: the hub asks the holder, and it answers.
        (0x54, BRANCH_B, 14, "belongs to a spoke that still answers"),
    ] {
        let before = drops(agent, Some(REFUSED))?;
        let claim = Nhrp { id, ..registration(mallory.nbma(), address) }.bytes();
        inject::send(&mallory.host, mallory.nbma(), hub.nbma(), &[in_gre(Some(KEY), &claim)])?;
        let what = format!("the answer to the claim of {address}");
        let answer = outcome(&capture, id).context(what)?;
        ensure!(answer == code, "{address}: code {answer}, {code} wanted");
        wait::until(SOON, "the refusal to be counted", || {
            let now = drops(agent, Some(REFUSED))?;
            wait::ensure(now == before + 1, || format!("{now} after {before}"))
        })?;
        ensure!(agent.log().contains(why), "{why:?} is not in the log");
        println!("   1 × claim of {address} → refused with code {code}: {why}");
    }
    Ok(())
}

/// The code of the answer to the registration with that id.
fn outcome(capture: &Capture, id: u32) -> Result<u8> {
    capture.wait_for(SOON, "the answer", |p| {
        p.is_nhrp(NhrpKind::RegistrationReply) && p.nhrp.as_ref().is_some_and(|n| n.request_id == id)
    })?;
    let is_it = |nhrp: &[u8]| {
        nhrp.get(17) == Some(&REGISTRATION_REPLY) && nhrp.get(24..28) == Some(&id.to_be_bytes())
    };
    // Behind link header, IP (20) and GRE with key (8): fixed header and mandatory part (20 + 20), then the code.
    let frames = capture.frames()?;
    let code =
        frames.iter().rev().find_map(|f| f.data.get(28..).filter(|nhrp| is_it(nhrp))?.get(40).copied());
    code.context("no answer among the frames")
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
