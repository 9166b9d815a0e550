//! Two operators: one leads, the other takes over, and never do both write.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use e2e::cluster::product::{NAMESPACE, healthy};
use e2e::lab::Process;
use e2e::wait;
use k8s_openapi::jiff::Timestamp;

use crate::SOON;
use crate::bench::Bench;

/// The Lease's holder, and when it took it.
pub(crate) fn holder(bench: &Bench<'_>) -> Result<(String, SystemTime)> {
    let lease = bench.cluster.kubectl_json(&["get", "lease", "dmvpn-operator", "-n", NAMESPACE])?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
    let taken: Timestamp = lease["spec"]["acquireTime"].as_str().context("acquireTime")?.parse()?;
    Ok((holder, SystemTime::from(taken)))
}

/// Waits until operator 0 or 1 holds the Lease; since when.
pub(crate) fn led_by(bench: &Bench<'_>, number: usize) -> Result<SystemTime> {
    wait::until(SOON, &format!("operator {number} to lead"), || {
        let (holder, taken) = holder(bench)?;
        wait::ensure(holder == bench.pods[number], || holder.clone())?;
        Ok(taken)
    })
}

pub(crate) fn one_of_two_leads(bench: &Bench<'_>) -> Result<()> {
    bench.start(0, "")?;
    led_by(bench, 0)?;
    bench.start(1, "")?;
    healthy(8082, "/healthz")?;
    led_by(bench, 0).map(drop)
}

/// A change that the leader answers with a write.
fn a_change_is_seen(bench: &Bench<'_>, key: &str) -> Result<()> {
    a_change(bench, key)?;
    a_change_is_there(bench, key)
}

fn a_change(bench: &Bench<'_>, key: &str) -> Result<()> {
    let change = serde_json::json!({"spec": {"subnets": [{"cidr": format!("10.20.{key}.0/24")}]}});
    bench.patch("dmvpnspoke/one", &change)
}

fn a_change_is_there(bench: &Bench<'_>, key: &str) -> Result<()> {
    bench.eventually("the change in the endpoint", |seen| {
        let subnets = seen.present("net-branch-b")?["spec"]["subnets"].to_string();
        wait::ensure(subnets.contains(&format!("10.20.{key}.0/24")), || subnets.clone())
    })
}

pub(crate) fn a_farewell_hands_over_at_once(bench: &Bench<'_>) -> Result<()> {
    let farewell = SystemTime::now();
    let status = bench.end(0, Process::stop)?;
    ensure!(status.success(), "{status}");
    let after = led_by(bench, 1)?.duration_since(farewell)?;
    ensure!(after < Duration::from_secs(3), "handed over after {after:?}");
    println!("SIGTERM: handed over after {after:?}");
    a_change_is_seen(bench, "1")?;
    bench.start(0, "")
}

pub(crate) fn a_crash_hands_over_in_time(bench: &Bench<'_>) -> Result<()> {
    let crash = SystemTime::now();
    bench.end(1, Process::kill)?;
    let after = led_by(bench, 0)?.duration_since(crash)?;
    ensure!(after < Duration::from_secs(20), "handed over after {after:?}");
    // Not before the one that is gone would have stopped by itself.
    ensure!(after > Duration::from_secs(12), "handed over after {after:?}, while it might still write");
    println!("kill -9: handed over after {after:?}");
    a_change_is_seen(bench, "2")?;
    bench.start(1, "")
}

/// A leader that stands still (a suspended machine, a page that is not there) and goes on when another leads: it does not
/// write what it was about to.
pub(crate) fn a_frozen_leader_writes_nothing_when_it_goes_on(bench: &Bench<'_>) -> Result<()> {
    led_by(bench, 0)?;
    bench.signal(0, "STOP")?;
    let frozen = SystemTime::now();
    // Something that it would write, were it awake.
    a_change(bench, "3")?;
    let after = led_by(bench, 1)?.duration_since(frozen)?;
    ensure!(after > Duration::from_secs(12), "taken over after {after:?}, while it might still write");
    a_change_is_there(bench, "3")?;
    let mark = bench.mark()?;
    bench.signal(0, "CONT")?;
    wait::until(SOON, "it to answer again", || healthy(8081, "/readyz"))?;
    // It sees what there is to do, and does nothing of it: not even a Lease that is not its own.
    a_change(bench, "4")?;
    a_change_is_there(bench, "4")?;
    wait::stays(Duration::from_secs(5), "the one that was frozen writes nothing", || {
        let writes = bench.writes_since(mark)?;
        let own: Vec<_> = writes.iter().filter(|w| w.pod == bench.pods[0] && w.code < 300).collect();
        wait::ensure(own.is_empty(), || format!("{own:?}"))
    })?;
    println!("frozen: taken over after {after:?}");
    led_by(bench, 1).map(drop)
}

/// Who wrote, in the order of the audit log: 0 until its farewell, 1 until its crash, 0 until it was frozen, 1 until the
/// first drain (whose token is of no pod), whoever led after it, the second drain.
pub(crate) fn never_two_at_a_time(bench: &Bench<'_>) -> Result<()> {
    // Not of the Lease: `drain` takes it by force, and writes nothing else until the operator has noticed.
    let of_operators = |resource: &str| resource.starts_with("dmvpn");
    let writes = bench.writes_since(0)?.into_iter();
    let mut turns: Vec<&str> = Vec::new();
    for write in writes.filter(|w| of_operators(&w.resource) && w.code < 300) {
        let who = match bench.pods.iter().position(|pod| *pod == write.pod) {
            Some(0) => "zero",
            Some(_) => "one",
            None => "drain",
        };
        if turns.last() != Some(&who) {
            turns.push(who);
        }
    }
    // After the failed drain whoever looks first leads.
    let ends: Vec<&[&str]> = vec![&["zero", "drain"], &["one", "drain"]];
    let well = turns.starts_with(&["zero", "one", "zero", "one", "drain"])
        && ends.iter().any(|end| turns[5..] == **end);
    ensure!(well, "{turns:?}");
    Ok(())
}
