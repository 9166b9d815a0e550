//! Tests beside a real control plane: run outside, such a test runs itself again in fresh namespaces of this
//! machine, where etcd, kube-apiserver, kube-controller-manager and, if asked, kube-scheduler listen on their
//! usual ports. There are no nodes and nothing of GRE: what happens is in the API.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::apart;
use crate::cluster::{Cluster, ControlPlane, Plan};
use crate::guest::slots;
use crate::rerun::Rerun;

/// What a test asks of its control plane.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Whether pods are to be bound to nodes.
    pub scheduler: bool,
    /// From boot to the end of the test.
    pub deadline: Duration,
}

impl Default for Needs {
    fn default() -> Self {
        Self { scheduler: false, deadline: Duration::from_secs(180) }
    }
}

/// Runs `body` beside a fresh control plane. Call it as the only statement of a `#[test]`: the name of the test
/// is taken from the closure's type. A boot takes four to five seconds, so one test checks many things.
///
/// The test fails as `body` fails; then a folder with evidence is named (logs, objects, events).
pub fn ring2<F: FnOnce(&Cluster) -> Result<()>>(body: F) {
    ring2_with(Needs::default(), body);
}

/// As [`ring2`], with more.
///
/// # Panics
/// When the test fails: this is how a test does so.
pub fn ring2_with<F: FnOnce(&Cluster) -> Result<()>>(needs: Needs, body: F) {
    if let Some(out) = apart::out() {
        run_inside(needs, &out, body);
        return;
    }
    if let Err(error) = Rerun::of::<F>().and_then(|rerun| run_outside(needs, &rerun)) {
        panic!("{error:#}");
    }
}

/// A check of many that share a control plane: its name, for messages, and what it does.
pub type Check<T> = (&'static str, fn(&T) -> Result<()>);

/// Carries checks out, one after the other, and prints how long each took.
///
/// # Errors
/// With the name of the one that fails.
pub fn carry_out<T>(on: &T, checks: &[Check<T>]) -> Result<()> {
    for (name, check) in checks {
        let start = Instant::now();
        check(on).with_context(|| (*name).to_owned())?;
        println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

fn run_outside(needs: Needs, rerun: &Rerun) -> Result<()> {
    let slot = slots::acquire(slots::DEADLINE)?;
    apart::rerun(rerun, &rerun.results()?, &slot.cpu().to_string(), &[], needs.deadline)
}

fn run_inside(needs: Needs, out: &Path, body: impl FnOnce(&Cluster) -> Result<()>) {
    apart::note_that_it_runs(out).expect("results folder");
    let start = Instant::now();
    let plan = Plan { scheduler: needs.scheduler, ..Plan::here("cluster", &out.join("cluster")) };
    let control_plane = ControlPlane::boot(plan).expect("control plane");
    println!("control plane: {} ({:.1} s in all)", control_plane.times(), start.elapsed().as_secs_f64());
    let cluster = Cluster::local(control_plane);
    let outcome = catch_unwind(AssertUnwindSafe(|| body(&cluster)));
    let why = match &outcome {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "the test panicked".to_owned(),
    };
    let written = cluster.evidence(&out.join("evidence"), &why).context("no evidence could be written");
    match written {
        Ok(()) => eprintln!("evidence: {}", out.display()),
        Err(error) => eprintln!("{error:#}"),
    }
    match outcome {
        Err(panic) => resume_unwind(panic),
        Ok(_) => panic!("{why}"),
    }
}
