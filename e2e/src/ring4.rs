//! Tests of everything at once: control planes on this machine, their nodes in a guest beside boxes and routers.
//!
//! Such a test runs in three places. Outside, it waits for a CPU and runs itself again in fresh namespaces of this
//! machine; there it boots the control planes and a guest (`cluster/holder.rs`); in the guest, its body runs.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::apart;
use crate::cluster::{Cluster, Holder};
use crate::guest::{Job, Output, slots};
use crate::images::{self, Images};
use crate::lab::Lab;
use crate::paths;
use crate::rerun::Rerun;

/// Set in the fresh namespaces: the CPU that the guest is to be pinned to.
pub(crate) const CPU: &str = "DMVPN_LAB_GUEST_CPU";

/// What a test asks of its clusters and its guest.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Names of the clusters; a control plane each.
    pub clusters: &'static [&'static str],
    /// Whether there will be nodes: their images are made then.
    pub nodes: bool,
    /// Memory of the guest in MiB: three nodes with their pods want 3000.
    pub memory_mib: u32,
    /// From boot to the end of the test.
    pub deadline: Duration,
}

impl Default for Needs {
    fn default() -> Self {
        Self { clusters: &["east"], nodes: true, memory_mib: 2048, deadline: Duration::from_secs(300) }
    }
}

/// Runs `body` inside a guest with a fresh [`Lab`] and the clusters that `needs` names, in that order. Their
/// control planes may still boot: what is asked of them waits. Call it as the only statement of a `#[test]`.
///
/// # Panics
/// When the test fails: this is how a test does so. A folder with evidence is named then.
pub fn ring4<F: FnOnce(&Lab, &[Cluster]) -> Result<()>>(needs: Needs, body: F) {
    if paths::inside() {
        run_inside(needs, body);
        return;
    }
    let outcome = Rerun::of::<F>().and_then(|rerun| match apart::out() {
        Some(out) => run_apart(needs, &rerun, &out),
        None => run_outside(needs, &rerun),
    });
    if let Err(error) = outcome {
        panic!("{error:#}");
    }
}

fn run_outside(needs: Needs, rerun: &Rerun) -> Result<()> {
    let (slot, _beside) = slots::acquire_two(slots::DEADLINE)?;
    let cpu = slot.cpu().to_string();
    // A little more than the guest itself has, so that it is the guest that reports.
    let deadline = needs.deadline + Duration::from_secs(20);
    apart::rerun(rerun, &rerun.results()?, &slots::list(None)?, &[(CPU, &cpu)], deadline)
}

fn run_apart(needs: Needs, rerun: &Rerun, out: &Path) -> Result<()> {
    apart::note_that_it_runs(out)?;
    let status = run_guest(needs, Job::new(rerun.script(), out.to_owned()))?;
    ensure!(status == 0, "failed inside the guest (status {status}); results: {}", out.display());
    Ok(())
}

/// In fresh namespaces, started with [`CPU`] in the environment: boots the control planes and runs `job` in a guest
/// beside them, to its end; returns its status.
pub(crate) fn run_guest(needs: Needs, job: Job) -> Result<i32> {
    let cpu = env::var(CPU).ok().and_then(|c| c.parse().ok()).with_context(|| format!("{CPU} is not set"))?;
    let holder = Holder::start(&job.out, needs.clusters, needs.nodes, &slots::list(Some(cpu))?)?;
    let mut job = Job { memory_mib: needs.memory_mib, deadline: needs.deadline, fresh: false, ..job };
    holder.join(&mut job);
    if needs.nodes {
        let images = Images::build()?;
        job.env.push((images::ENV.to_owned(), images.dir().to_string_lossy().into_owned()));
    }
    job.start(Output::Inherit, cpu)?.wait(needs.deadline)
}

fn run_inside(needs: Needs, body: impl FnOnce(&Lab, &[Cluster]) -> Result<()>) {
    let out = paths::out().expect("results folder");
    let lab = Lab::new(out).expect("lab");
    let clusters = Cluster::join(&lab, needs.clusters).expect("clusters");
    let outcome = catch_unwind(AssertUnwindSafe(|| body(&lab, &clusters)));
    let why = match &outcome {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "the test panicked".to_owned(),
    };
    let written = lab.evidence(&why).and_then(|dir| {
        clusters.iter().try_for_each(|c| c.evidence(&dir.join("evidence"), &why))?;
        Ok(dir)
    });
    match written {
        Ok(dir) => eprintln!("evidence: {}", paths::outside(&dir).display()),
        Err(error) => eprintln!("no evidence could be written: {error:#}"),
    }
    match outcome {
        Err(panic) => resume_unwind(panic),
        Ok(_) => panic!("{why}"),
    }
}
