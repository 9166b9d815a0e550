//! The demo and the open lab: outside they start a guest, inside they build the scene and tell the story. The demo has
//! control planes beside its guest, so there is a place in between, as in [`crate::ring4`].
//!
//! A scene that is to stay (`--keep`, `lab`) runs detached in the folder `target/e2e/kept`: its guest outlives
//! the command that started it, serves [`crate::enter`], and ends when the file `stop` appears there.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::chapters::Stage;
use crate::cluster::Cluster;
use crate::guest::{self, Job, Output, processes, slots};
use crate::lab::Lab;
use crate::ring4::{self, Needs};
use crate::scene::Scene;
use crate::scene::clusters::CLUSTERS;
use crate::story::Story;
use crate::{apart, chapters, paths, wait};

/// The demo needs far less; a busy machine is given time.
const DEMO_DEADLINE: Duration = Duration::from_secs(900);
/// A scene that is left running ends by itself after that.
const KEPT_DEADLINE: Duration = Duration::from_secs(24 * 3600);
const MEMORY_MIB: u32 = 1536;
/// What the demo needs: two clusters, three nodes.
pub const NEEDS: Needs = Needs {
    clusters: &[CLUSTERS[0].0, CLUSTERS[1].0],
    nodes: true,
    memory_mib: 4096,
    deadline: DEMO_DEADLINE,
};
/// Process id of what holds a demo that was left running.
const KEEPER: &str = "keeper.pid";
/// Written inside when the story is told (its status) or the scene stands.
const TOLD: &str = "told";
const STOP: &str = "stop";

/// `make demo`: tells the story in a guest; returns the exit status.
///
/// # Errors
/// When the guest does not run.
pub fn demo(keep: bool) -> Result<i32> {
    if paths::inside() {
        return demo_inside(keep);
    }
    let subcommand = if keep { "demo --keep" } else { "demo" };
    if let Some(out) = apart::out() {
        let deadline = if keep { KEPT_DEADLINE } else { DEMO_DEADLINE };
        let job = Job { enter: keep, ..Job::new(own_command(subcommand)?, out) };
        return ring4::run_guest(Needs { deadline, ..NEEDS }, job);
    }
    if keep {
        let status = start_kept(subcommand, true)?;
        println!("\nThe scene keeps running.");
        print_how_to_enter()?;
        return Ok(status);
    }
    let (slot, _beside) = slots::acquire_two(slots::DEADLINE)?;
    let mut child = demo_command(subcommand, &paths::results()?.join("demo"), slot.cpu(), apart::WITH_US)?
        .spawn()
        .context("start unshare")?;
    let status = child.wait()?;
    Ok(status.code().unwrap_or(1))
}

/// The command that tells the demo in fresh namespaces of this machine, with an empty results folder.
fn demo_command(subcommand: &str, out: &Path, cpu: usize, before: &[&str]) -> Result<Command> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("empty {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    let words: Vec<String> = [own].into_iter().chain(subcommand.split(' ').map(str::to_owned)).collect();
    let mut command = apart::command(&words, out, &slots::list(None)?, before)?;
    command.env(ring4::CPU, cpu.to_string());
    Ok(command)
}

/// `make lab`: the scene without the story, and a shell in it; the scene ends with the shell.
///
/// # Errors
/// When the guest does not run.
pub fn lab() -> Result<i32> {
    if paths::inside() {
        let lab = Lab::new(paths::out()?)?;
        let _scene = Scene::build(&lab)?;
        println!("hosts: {}", lab.hosts().iter().map(|h| h.name().to_owned()).collect::<Vec<_>>().join(", "));
        stay(0)?;
        return Ok(0);
    }
    let status = start_kept("lab", false)?;
    ensure!(status == 0, "the scene could not be built");
    print_how_to_enter()?;
    println!("\nThis shell is in the guest itself: `ip netns exec hub …`. The scene ends with it.");
    let ended = crate::enter::enter("guest", &[]);
    stop()?;
    ended
}

/// Ends a scene that was left running.
///
/// # Errors
/// When there is none.
pub fn stop() -> Result<()> {
    let (dir, pid) = kept()?;
    fs::write(dir.join(STOP), "")?;
    let ended = wait::until(Duration::from_secs(20), "the scene to end", || {
        wait::ensure(!runs(pid, &dir), || "still running".into())
    });
    if ended.is_err() {
        processes::kill_tree(pid);
    }
    Ok(())
}

/// The folder and process id of the scene that was left running.
///
/// # Errors
/// When there is none.
pub fn kept() -> Result<(PathBuf, u32)> {
    let dir = kept_dir()?;
    match recorded_pid(&dir) {
        Some(pid) if runs(pid, &dir) => Ok((dir, pid)),
        _ => bail!("no scene is running: `make demo KEEP=1` or `make lab` starts one"),
    }
}

fn demo_inside(keep: bool) -> Result<i32> {
    let lab = Lab::new(paths::out()?)?;
    let clusters = Cluster::join(&lab, NEEDS.clusters)?;
    // What runs on the hosts lives as long as `stage`.
    let (status, stage) = told(&lab, &clusters);
    if keep {
        print_how_to_ask();
        stay(status)?;
    }
    drop(stage);
    Ok(status)
}

/// Tells the story on a fresh lab, inside a guest; returns the exit status: 0 only if every step held.
#[must_use]
pub fn tell(lab: &Lab, clusters: &[Cluster]) -> i32 {
    told(lab, clusters).0
}

fn told(lab: &Lab, clusters: &[Cluster]) -> (i32, Option<Stage>) {
    let mut story = Story::new("DMVPN on the wire", |why| {
        let dir = lab.evidence(why)?;
        clusters.iter().try_for_each(|c| c.evidence(&dir.join("evidence"), why))?;
        Ok(paths::outside(&dir))
    });
    let stage = chapters::tell(&mut story, lab, clusters);
    (story.finish(), stage)
}

/// Says that all is told, and holds the scene until it is asked to end.
fn stay(status: i32) -> Result<()> {
    io::stdout().flush()?;
    let out = paths::out()?;
    fs::write(out.join("told.new"), status.to_string())?;
    fs::rename(out.join("told.new"), out.join(TOLD))?;
    wait::until_max(KEPT_DEADLINE, Duration::from_secs(1), "the file `stop`", || {
        wait::ensure(out.join(STOP).exists(), || "not there".into())
    })
}

/// Starts a guest that outlives us, shows its output until the story is told, and returns its status.
fn start_kept(subcommand: &str, clusters: bool) -> Result<i32> {
    if let Ok((_, pid)) = kept() {
        bail!("a scene is running already (process {pid}): `dmvpn-lab stop` ends it");
    }
    let dir = kept_dir()?;
    let log = dir.join("output.log");
    let slot = slots::acquire(DEMO_DEADLINE)?;
    let pid = if clusters {
        let mut command = demo_command(subcommand, &dir, slot.cpu(), &["setsid"])?;
        let file = File::create(&log)?;
        let child = command.stdout(file.try_clone()?).stderr(file).spawn().context("start unshare")?;
        fs::write(dir.join(KEEPER), child.id().to_string())?;
        child.id()
    } else {
        let job =
            Job { memory_mib: MEMORY_MIB, enter: true, ..Job::new(own_command(subcommand)?, dir.clone()) };
        job.start(Output::Detached(log.clone()), slot.cpu())?.pid()
    };
    let mut output = File::open(&log)?;
    let mut copy = || -> Result<()> {
        let mut text = Vec::new();
        output.read_to_end(&mut text)?;
        io::stdout().write_all(&text)?;
        Ok(io::stdout().flush()?)
    };
    let status = wait::until(DEMO_DEADLINE, "the story to be told", || {
        copy()?;
        if let Ok(status) = fs::read_to_string(dir.join(TOLD)) {
            return Ok(Some(status.trim().parse().context("status")));
        }
        // A status without `told` is an end that was not planned.
        if dir.join(".guest/rc").exists() || !runs(pid, &dir) { Ok(None) } else { bail!("not yet") }
    })?;
    copy()?;
    status.with_context(|| format!("the scene ended by itself, see {}", dir.display()))?
}

/// The agents go on: how to ask one, in its host.
fn print_how_to_ask() {
    if let Ok(cli) = paths::program("kubectl-dmvpn") {
        println!(
            "\nask the agent of a host, inside: {} --socket /run/dmvpn/HOST/agent.sock show dmvpn",
            cli.display()
        );
    }
}

fn print_how_to_enter() -> Result<()> {
    let (dir, _) = kept()?;
    // A build while the story was told replaced the file: the new one lies at the same path.
    let own = std::env::current_exe()?.display().to_string();
    let own = own.trim_end_matches(" (deleted)");
    println!("enter a host:     {own} enter HOST              (a shell; up to three at once)");
    println!("run one command:  {own} enter HOST -- ip route");
    println!("end the scene:    {own} stop");
    println!("results:          {}", dir.display());
    let mut names: Vec<String> = crate::scene::plans()?.iter().map(|p| p.name.to_owned()).collect();
    names.extend(crate::scene::clusters::plans()?.iter().map(|p| p.name.to_owned()));
    names.extend(names.clone().iter().map(|n| format!("lan-{n}")));
    println!("hosts:            {}, isp", names.join(", "));
    Ok(())
}

fn own_command(subcommand: &str) -> Result<String> {
    let own = std::env::current_exe()?;
    Ok(format!("exec {} {subcommand}", guest::quote(&own.to_string_lossy())))
}

fn kept_dir() -> Result<PathBuf> {
    Ok(paths::results()?.join("kept"))
}

/// Of a demo the process that holds the clusters and the guest, of an open scene the guest.
fn recorded_pid(dir: &Path) -> Option<u32> {
    let read = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok();
    read(KEEPER).or_else(|| read(".guest/pid"))
}

/// Whether that process still is the one of this folder (ids are used again).
fn runs(pid: u32, dir: &Path) -> bool {
    let dir = dir.to_string_lossy();
    ["cmdline", "environ"].iter().any(|file| {
        let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(&*dir)
    })
}
