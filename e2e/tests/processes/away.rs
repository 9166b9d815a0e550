//! The operator or the API server is away: packets flow, agents start and work, and nobody writes when they are back.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::lab::ping::both_ways;
use e2e::lab::{Agent, Ping};
use e2e::scene::overlay::{NETWORK, TUNNEL, link_index};
use e2e::wait;

use crate::stage::{SOON, Stage, nothing_written_since, quiet, renewals, under_pings, versions, writes};

/// Longer than programs take to write what they find to be written once they see the API's objects.
const QUIET: Duration = Duration::from_secs(3);
/// Of the operator: four kinds of ours, nodes, Secrets, certificate.
const WATCHES: usize = 7;
const INTERVAL: Duration = Duration::from_millis(10);

pub(crate) fn operator_killed(stage: &mut Stage<'_>) -> Result<()> {
    let east = stage.east;
    let (before, versions_before) = (writes(east)?.len(), versions(east)?);
    under_pings(stage, |stage| {
        stage.operator.process.kill()?;
        let renewed = renewals(east)?;
        // An agent that starts meanwhile finds all it needs.
        stage.a.kill()?;
        stage.a.restart()?;
        stage.a.wait_until_up(NETWORK, SOON)?;
        for agent in [&stage.hub, &stage.a] {
            wait::until(SOON, "the agent to be ready", || agent.ready())?;
            let problems = agent.report()?.problems;
            ensure!(problems.is_empty(), "{problems:?}");
        }
        stage.operator.start_again()?;
        wait::until(SOON, "the operator to hold its Lease again", || {
            let now = renewals(east)?;
            wait::ensure(now > renewed, || "not yet".to_owned())
        })?;
        // Its first pass comes at once; whatever comes late is seen in the next check.
        quiet(east, QUIET).map(drop)
    })?;
    nothing_written_since(east, before)?;
    let after = versions(east)?;
    ensure!(after == versions_before, "before:\n{versions_before}after:\n{after}");
    Ok(())
}

pub(crate) fn api_server_away(stage: &mut Stage<'_>) -> Result<()> {
    let east = stage.east;
    let (a, b) = (stage.site("branch-a")?.clone(), stage.site("branch-b")?.clone());
    let (before, versions_before) = (writes(east)?.len(), versions(east)?);
    let peers_before = peers(&stage.a)?;
    east.stop_api_server()?;
    // Killed and started: it takes up what is in the kernel.
    under_pings(stage, |stage| {
        stage.a.kill()?;
        stage.a.restart()?;
        stage.a.wait_until_up(NETWORK, SOON)?;
        wait::until(SOON, "the agent to be ready", || stage.a.ready())
    })?;
    // And one that finds no tunnel makes it, password included.
    let index = link_index(&a.host, TUNNEL)?;
    ensure!(stage.a.stop()?.success(), "the agent ends badly");
    a.host.ip(&format!("link delete {TUNNEL}"))?;
    stage.a.restart()?;
    stage.a.wait_until_up(NETWORK, SOON)?;
    ensure!(link_index(&a.host, TUNNEL)? != index, "the link was not made anew");
    wait::until(SOON, "packets both ways", || {
        let ends = ((&a.lan, a.lan_host().into()), (&b.lan, b.lan_host().into()));
        let (there, back) = both_ways(ends.0, ends.1, 5, INTERVAL)?;
        there.ensure_nothing_lost()?;
        back.ensure_nothing_lost()?;
        let peers = peers(&stage.a)?;
        wait::ensure(peers == peers_before, || format!("peers: {peers:?}, not {peers_before:?}"))
    })?;
    Ping::start(&a.lan, b.lan_host().into(), 100, INTERVAL)?.finish()?.ensure_nothing_lost()?;

    // What each says when it sees the API's objects again.
    let answered = "the API server answers again";
    let told = |stage: &Stage<'_>| stage.hub.log().matches(answered).count();
    let (heard, renewed) = (told(stage), renewals(east)?);
    let watches = |stage: &Stage<'_>| stage.operator.process.log().matches("watch goes on").count();
    let watched = watches(stage);
    under_pings(stage, |stage| {
        east.start_api_server()?;
        wait::until(SOON, "the agents to hear of it", || {
            let a = stage.a.log();
            ensure!(told(stage) > heard, "the hub has not");
            ensure!(a.lines().rev().any(|l| l.contains(answered)), "branch-a has not");
            ensure!(renewals(east)? > renewed, "the operator has no Lease");
            let watches = watches(stage) - watched;
            ensure!(watches == WATCHES, "the operator has {watches} watches");
            Ok(())
        })?;
        quiet(east, QUIET).map(drop)
    })?;
    nothing_written_since(east, before)?;
    let after = versions(east)?;
    ensure!(after == versions_before, "before:\n{versions_before}after:\n{after}");
    for agent in [&stage.hub, &stage.a] {
        let problems = agent.report()?.problems;
        ensure!(problems.is_empty(), "{problems:?}");
    }
    Ok(())
}

/// Target networks that an agent knows a way to.
fn peers(agent: &Agent) -> Result<BTreeSet<String>> {
    Ok(agent.tunnel(NETWORK)?.peers.iter().map(|p| p.target.to_string()).collect())
}
