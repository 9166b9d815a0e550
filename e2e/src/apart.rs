//! Fresh namespaces on this machine: a process with its own network, mounts and process ids, so that servers
//! may listen on their usual ports. Everything started in there ends with the process that asked for it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::guest::processes;
use crate::rerun::Rerun;
use crate::wait;

/// Set inside: the results folder.
const OUT: &str = "DMVPN_LAB_APART";

/// The results folder of this run, if this process is inside such namespaces.
#[must_use]
pub fn out() -> Option<PathBuf> {
    env::var_os(OUT).map(PathBuf::from)
}

/// The first process inside. Nothing of the machine's /run is seen: network namespaces are named there.
const INIT: &str = "mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/netns /run/lock
mount -t sysfs sysfs /sys
ip link set lo up
\"$@\"
status=$?
exit $status";

/// A command that starts with this dies with the thread that starts it.
pub const WITH_US: &[&str] = &["setpriv", "--pdeathsig", "KILL"];

/// The command that runs `words` in fresh namespaces; `cpus` is a list as `taskset` takes it, `before` what the command
/// begins with ([`WITH_US`], or `setsid` for one that stays). Whatever it starts dies with it.
///
/// # Errors
/// When this user may not make such namespaces.
pub fn command(words: &[String], out: &Path, cpus: &str, before: &[&str]) -> Result<Command> {
    ensure!(root(), "a control plane of the lab needs root: it stands in network namespaces of its own");
    let mut command = Command::new(before.first().context("no command")?);
    command.args(&before[1..]).args(["taskset", "-c", cpus]);
    command.args(["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-ec", INIT, "apart"]).args(words).env(OUT, out).stdin(Stdio::null());
    Ok(command)
}

/// Runs a test again in fresh namespaces with an empty results folder.
pub(crate) fn rerun(
    rerun: &Rerun,
    out: &Path,
    cpus: &str,
    env: &[(&str, &str)],
    deadline: Duration,
) -> Result<()> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("empty {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let mut command = command(&rerun.words(), out, cpus, WITH_US)?;
    let mut child = command.envs(env.iter().copied()).spawn().context("start unshare")?;
    let ended = wait::until_max(deadline, Duration::from_millis(25), "the test to finish", || {
        child.try_wait()?.context("still running")
    });
    if ended.is_err() {
        processes::kill_tree(child.id());
        // Reaped here; that it is gone already is no failure.
        let _ = child.wait();
    }
    let status = ended.with_context(|| format!("results: {}", out.display()))?;
    ensure!(status.success(), "failed ({status}); results: {}", out.display());
    ensure!(
        out.join(RAN).exists(),
        "no test named {}: the closure must stand directly in the test",
        rerun.test
    );
    Ok(())
}

/// Told apart from "no test of that name": the process outside looks for this file.
const RAN: &str = ".ran";

/// Notes that the test was found and runs.
pub(crate) fn note_that_it_runs(out: &Path) -> Result<()> {
    fs::write(out.join(RAN), "").with_context(|| format!("{} is not writable", out.display()))
}

fn root() -> bool {
    // The owner of what this process makes in /proc is its effective user.
    std::os::unix::fs::MetadataExt::uid(&match fs::metadata("/proc/self") {
        Ok(own) => own,
        Err(_) => return false,
    }) == 0
}
