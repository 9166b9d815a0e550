//! Tests on a real network: run outside, such a test boots a guest and runs itself again inside it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::guest::{Engine, Job, Output};
use crate::lab::Lab;
use crate::paths;
use crate::rerun::Rerun;

/// What a test asks of its guest.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// From boot to exit status.
    pub deadline: Duration,
}

impl Default for Needs {
    fn default() -> Self {
        Self { memory_mib: 768, deadline: Duration::from_secs(120) }
    }
}

/// Runs `body` inside a guest with a fresh [`Lab`]. Call it as the only statement of a `#[test]`; the name of
/// the test is taken from the closure's type, so the closure has to stand directly in the test function.
///
/// The test fails as `body` fails; then a folder with evidence is named (captures, logs, kernel tables).
pub fn ring3<F: FnOnce(&Lab) -> Result<()>>(body: F) {
    ring3_with(Needs::default(), body);
}

/// As [`ring3`], with more memory or time.
///
/// # Panics
/// When the test fails: this is how a test does so.
pub fn ring3_with<F: FnOnce(&Lab) -> Result<()>>(needs: Needs, body: F) {
    run(needs, false, body);
}

/// As [`ring3_with`], for a test that mostly waits (for holding times of foreign daemons): its guest shares a CPU. Such a
/// test is named in `.config/nextest.toml` too, in the group `waiting`.
///
/// # Panics
/// When the test fails.
pub fn ring3_waiting<F: FnOnce(&Lab) -> Result<()>>(needs: Needs, body: F) {
    run(needs, true, body);
}

/// As [`ring3`], in a guest whose kernel does not start these parts of itself (names of its initcalls). Where tests run
/// natively the machine's kernel has them: there this one says so, and does nothing.
///
/// # Panics
/// When the test fails.
pub fn ring3_without<F: FnOnce(&Lab) -> Result<()>>(initcalls: &[&str], body: F) {
    if paths::inside() {
        run_inside(body);
        return;
    }
    let outcome = Engine::detect().and_then(|engine| match engine {
        Engine::Native => {
            println!("not tried: this machine's kernel has {}", initcalls.join(", "));
            Ok(())
        }
        Engine::Guest => {
            let without = format!("initcall_blacklist={}", initcalls.join(","));
            run_outside(Needs::default(), false, vec![without], &Rerun::of::<F>()?)
        }
    });
    if let Err(error) = outcome {
        panic!("{error:#}");
    }
}

fn run<F: FnOnce(&Lab) -> Result<()>>(needs: Needs, waits: bool, body: F) {
    if paths::inside() {
        run_inside(body);
        return;
    }
    if let Err(error) = Rerun::of::<F>().and_then(|rerun| run_outside(needs, waits, Vec::new(), &rerun)) {
        panic!("{error:#}");
    }
}

fn run_inside(body: impl FnOnce(&Lab) -> Result<()>) {
    let out = paths::out().expect("results folder");
    // Told apart from "no test of that name": the runner outside looks for this file.
    std::fs::write(out.join(".guest/ran"), "").expect("results folder is writable");
    let lab = Lab::new(out).expect("lab");
    let outcome = catch_unwind(AssertUnwindSafe(|| body(&lab)));
    let why = match &outcome {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "the test panicked".to_owned(),
    };
    match lab.evidence(&why) {
        Ok(dir) => eprintln!("evidence: {}", paths::outside(&dir).display()),
        Err(error) => eprintln!("no evidence could be written: {error:#}"),
    }
    match outcome {
        Err(panic) => resume_unwind(panic),
        Ok(_) => panic!("{why}"),
    }
}

fn run_outside(needs: Needs, waits: bool, kernel_args: Vec<String>, rerun: &Rerun) -> Result<()> {
    let out = rerun.results()?;
    let job = Job {
        memory_mib: needs.memory_mib,
        deadline: needs.deadline,
        waits,
        kernel_args,
        ..Job::new(rerun.script(), out.clone())
    };
    let status = job.run(Output::Inherit)?;
    ensure!(status == 0, "failed inside the guest (status {status}); results: {}", out.display());
    ensure!(
        out.join(".guest/ran").exists(),
        "the guest found no test named {}: the closure must stand directly in the test",
        rerun.test
    );
    Ok(())
}
