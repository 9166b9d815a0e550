//! A host: one network namespace, and commands that run in it.
//!
//! Commands go through `ip netns exec`, which also lays `/etc/netns/NAME/*` over `/etc`: so each host has its
//! own configuration files, and the process id is the command's own.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::dump::Dump;
use super::process::Process;
use crate::wait;

/// How long a link may take to have its carrier.
const REST: Duration = Duration::from_secs(3);

/// A network namespace with forwarding on. Clones are the same host.
#[derive(Clone, Debug)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    out: PathBuf,
}

impl Host {
    pub(super) fn create(name: &str, out: &Path) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let host = Self { inner: Arc::new(Inner { name: name.to_owned(), out: out.to_owned() }) };
        host.ip("link set lo up")?;
        // A router: forwards, sends no redirects (its LAN hosts are told by nobody to go elsewhere), and has
        // its addresses at once instead of after duplicate detection.
        host.sh("echo 1 >/proc/sys/net/ipv4/ip_forward
             echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
             for c in all default; do
                 echo 0 >/proc/sys/net/ipv4/conf/$c/send_redirects
                 echo 0 >/proc/sys/net/ipv6/conf/$c/accept_dad
             done")?;
        Ok(host)
    }

    /// Its name, which is also the namespace's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The results folder that its logs go to.
    #[must_use]
    pub fn out(&self) -> &Path {
        &self.inner.out
    }

    /// `ip ARGUMENTS` in this host; the arguments are split at blanks.
    ///
    /// # Errors
    /// With what `ip` printed.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", self.name()]).args(arguments.split_whitespace());
        run(&mut command).map(drop)
    }

    /// Several lines of `ip` arguments in one process, in order; stops at the first that fails.
    ///
    /// # Errors
    /// With what `ip` printed.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", self.name(), "-batch", "-"]);
        run_with_input(&mut command, &(lines.join("\n") + "\n")).map(drop)
    }

    /// `ip -j ARGUMENTS`, parsed.
    ///
    /// # Errors
    /// With what `ip` printed, or when that is no JSON.
    pub fn ip_json(&self, arguments: &str) -> Result<Value> {
        let mut command = Command::new("ip");
        command.args(["-n", self.name(), "-j"]).args(arguments.split_whitespace());
        let text = run(&mut command)?;
        if text.trim().is_empty() {
            return Ok(Value::Array(Vec::new()));
        }
        serde_json::from_str(&text).with_context(|| format!("ip -j {arguments}: {text}"))
    }

    /// A command that will run in this host.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name()]).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end and returns what it printed.
    ///
    /// # Errors
    /// When it ends with another status than 0; with its standard error.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        run(&mut self.words(words)?)
    }

    /// Runs a command to its end, whatever its status.
    ///
    /// # Errors
    /// Only when it cannot be started.
    pub fn output(&self, words: &[&str]) -> Result<Output> {
        self.words(words)?.output().with_context(|| format!("{}: {words:?}", self.name()))
    }

    /// Runs a shell script (`set -e`) to its end and returns what it printed.
    ///
    /// # Errors
    /// When a command in it fails.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.run(&["sh", "-ec", script])
    }

    /// Starts a command in the background. Its output goes to `HOST-LABEL.log` in the results folder; it is
    /// stopped when the [`Process`] is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, label: &str, words: &[&str]) -> Result<Process> {
        self.spawn_command(label, self.words(words)?)
    }

    /// As [`Self::spawn`], for a command made by [`Self::command`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_command(&self, label: &str, command: Command) -> Result<Process> {
        let label = format!("{}-{label}", self.name());
        Process::spawn(&label, command, &self.out().join(format!("{label}.log")))
    }

    /// Lays a file over `/etc/PATH` for commands of this host. Returns where it is for everyone else.
    /// Only the first part of `path` is bound: a folder hides the whole folder below `/etc`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn etc(&self, path: &str, text: &str) -> Result<PathBuf> {
        let real = Path::new("/etc/netns").join(self.name()).join(path);
        let dir = real.parent().context("folder")?;
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        fs::write(&real, text).with_context(|| format!("write {}", real.display()))?;
        Ok(real)
    }

    /// Loads nft rules in one transaction.
    ///
    /// # Errors
    /// With what `nft` printed.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let mut command = self.command("nft");
        command.args(["-f", "/dev/stdin"]);
        run_with_input(&mut command, rules).map(drop)
    }

    /// Sets `/proc/sys/KEY` (with slashes) of this host.
    ///
    /// # Errors
    /// When there is no such setting.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.sh(&format!("echo {value} >/proc/sys/{key}")).map(drop)
    }

    /// Delay and loss on what leaves through `device`, e.g. `delay 20ms loss 1%`.
    ///
    /// # Errors
    /// With what `tc` printed.
    pub fn netem(&self, device: &str, what: &str) -> Result<()> {
        let mut command = Command::new("tc");
        command.args(["-n", self.name(), "qdisc", "replace", "dev", device, "root", "netem"]);
        command.args(what.split_whitespace());
        run(&mut command).map(drop)
    }

    /// The kernel tables now, to be compared later.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn dump(&self) -> Result<Dump> {
        // The kernel tells of a carrier up to a second late: what comes with it would be a change. One that stays without is
        // a state like any other.
        let _ = wait::until(REST, "links to be at rest", || {
            let links = self.run(&["ip", "-o", "link", "show", "up"])?;
            wait::ensure(!links.contains("NO-CARRIER"), || links)
        });
        Dump::take(self)
    }

    pub(super) fn remove(&self) {
        // At the end of a run; a namespace that is gone already is fine.
        let _ = Command::new("ip").args(["netns", "delete", self.name()]).stderr(Stdio::null()).status();
        let _ = fs::remove_dir_all(Path::new("/etc/netns").join(self.name()));
    }

    fn words(&self, words: &[&str]) -> Result<Command> {
        let (program, arguments) = words.split_first().context("no command")?;
        let mut command = self.command(program);
        command.args(arguments);
        Ok(command)
    }
}

/// Runs a command to its end; its standard output, or an error with status and standard error.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    finish(command, &output)
}

fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    // Dropped at the end of the statement: the command sees the end of its input. That it closes early shows
    // in its status.
    let _ = child.stdin.take().context("stdin")?.write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    finish(command, &output).with_context(|| format!("input was:\n{input}"))
}

fn finish(command: &Command, output: &Output) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        bail!(
            "`{} {}`: {}: {}{}",
            command.get_program().to_string_lossy(),
            words.join(" "),
            output.status,
            errors.trim(),
            text.trim()
        );
    }
    Ok(text)
}
