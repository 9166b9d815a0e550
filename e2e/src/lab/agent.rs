//! Our agent on a host: what it is told, a process, and the two programs that ask it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::host::Host;
use super::process::Process;
use crate::guest::processes;
use crate::{paths, wait};

/// How long an agent may take until it answers.
const START: Duration = Duration::from_secs(20);
/// How long it may take to answer one question.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it may take to end: it may have to say farewell first.
const END: Duration = Duration::from_secs(15);
/// Name of the file with the token for the operator.
const TOKEN: &str = "operator-token";

/// `dmvpn-agent` on a host. Dropping it stops the process; the kernel's state stays, as it should.
#[derive(Debug)]
pub struct Agent {
    host: Host,
    source: Source,
    dir: PathBuf,
    confined: bool,
    process: Process,
}

/// Where it has its endpoints from.
#[derive(Clone, Debug)]
enum Source {
    /// The directory `manifests`; the labels of its node.
    Directory(Vec<String>),
    /// An API server.
    Cluster(InCluster),
}

/// What an agent of a cluster is given, as its pod would have it.
#[derive(Clone, Debug)]
pub struct InCluster {
    /// The way to the API server.
    pub kubeconfig: PathBuf,
    /// The token that it shows to the operator.
    pub operator_token: String,
    /// Namespace of the operator and of its DaemonSet.
    pub namespace: String,
    /// The DaemonSet that it takes for its own.
    pub daemon_set: String,
}

impl Agent {
    /// Starts the agent of `host` with these files as manifests, and returns when it answers.
    ///
    /// # Errors
    /// When the program is not built, or it does not answer; with the end of its log.
    pub fn start(host: &Host, labels: &[&str], manifests: &BTreeMap<String, String>) -> Result<Self> {
        let agent = Self::launch(host, labels, manifests)?;
        agent.wait_until_it_answers()?;
        Ok(agent)
    }

    /// As [`Self::start`], with what its container has and no more: CAP_NET_ADMIN and CAP_NET_RAW, nothing that it could gain
    /// any other by, root and /proc/sys that cannot be written to.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_confined(
        host: &Host,
        labels: &[&str],
        manifests: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let agent = Self::launch_as(host, labels, manifests, true)?;
        agent.wait_until_it_answers()?;
        Ok(agent)
    }

    /// As [`Self::start`], but returns at once: asking an agent takes time that it may need itself.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn launch(host: &Host, labels: &[&str], manifests: &BTreeMap<String, String>) -> Result<Self> {
        Self::launch_as(host, labels, manifests, false)
    }

    fn launch_as(
        host: &Host,
        labels: &[&str],
        manifests: &BTreeMap<String, String>,
        confined: bool,
    ) -> Result<Self> {
        let dir = Path::new("/run/dmvpn").join(host.name());
        fs::create_dir_all(dir.join("manifests"))?;
        for (name, text) in manifests {
            fs::write(dir.join("manifests").join(name), text)?;
        }
        let source = Source::Directory(labels.iter().map(|l| (*l).to_owned()).collect());
        Self::launch_from(host, source, dir, confined)
    }

    /// Starts the agent of `host` with an API server as its source, and returns when it answers.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_in_cluster(host: &Host, cluster: InCluster) -> Result<Self> {
        let dir = Path::new("/run/dmvpn").join(host.name());
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(TOKEN), &cluster.operator_token)?;
        let agent = Self::launch_from(host, Source::Cluster(cluster), dir, false)?;
        agent.wait_until_it_answers()?;
        Ok(agent)
    }

    fn launch_from(host: &Host, source: Source, dir: PathBuf, confined: bool) -> Result<Self> {
        let process = spawn(host, &source, &dir, confined)?;
        Ok(Self { host: host.clone(), source, dir, confined, process })
    }

    /// The host it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Writes one manifest, as an editor would: the agent sees it by itself.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.dir.join("manifests").join(file);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Removes one manifest.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.dir.join("manifests").join(file);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// What it knows now, from its socket: a program that asks costs the guest a quarter of a second.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn report(&self) -> Result<view::Report> {
        let mut stream = UnixStream::connect(self.socket()).context("the agent's socket")?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"GET /v1/report HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("the agent's answer")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        ensure!(head.split(' ').nth(1) == Some("200"), "{head}: {body}");
        serde_json::from_str(body).context("the agent's report")
    }

    /// Its tunnel of a network.
    ///
    /// # Errors
    /// When there is none.
    pub fn tunnel(&self, network: &str) -> Result<view::Tunnel> {
        let report = self.report()?;
        let problems = report.problems;
        let tunnel = report.tunnels.into_iter().find(|t| t.network == network);
        tunnel.with_context(|| {
            format!("no tunnel of {network} on {}; problems: {problems:?}", self.host.name())
        })
    }

    /// What the command line prints, e.g. `show dmvpn detail`.
    ///
    /// # Errors
    /// When it fails; with what it printed.
    pub fn cli(&self, words: &str) -> Result<String> {
        let program = paths::program("kubectl-dmvpn")?;
        let program = program.to_string_lossy();
        let socket = self.socket();
        let mut line: Vec<&str> = vec![&program, "--socket", &socket];
        line.extend(words.split_whitespace());
        self.host.run(&line)
    }

    /// Waits until its tunnel of `network` is Up; returns it.
    ///
    /// # Errors
    /// When the deadline passes; with state and reason.
    pub fn wait_until_up(&self, network: &str, deadline: Duration) -> Result<view::Tunnel> {
        let what = format!("the tunnel of {} to be Up", self.host.name());
        wait::until(deadline, &what, || {
            let tunnel = self.tunnel(network)?;
            ensure!(
                tunnel.state == view::State::Up,
                "{:?} {}: {}",
                tunnel.state,
                tunnel.reason,
                tunnel.message
            );
            Ok(tunnel)
        })
    }

    /// Waits until its tunnel of `network` is in this state for this reason; returns it.
    ///
    /// # Errors
    /// When the deadline passes; with state and reason.
    pub fn wait_for_state(
        &self,
        network: &str,
        state: view::State,
        reason: &str,
        deadline: Duration,
    ) -> Result<view::Tunnel> {
        let what = format!("the tunnel of {} to be {state:?} {reason}", self.host.name());
        wait::until(deadline, &what, || {
            let tunnel = self.tunnel(network)?;
            let seen = (tunnel.state, tunnel.reason.as_str());
            ensure!(seen == (state, reason), "{seen:?}: {}", tunnel.message);
            Ok(tunnel)
        })
    }

    /// Waits until it tells a problem of this object for this reason; returns it.
    ///
    /// # Errors
    /// When the deadline passes; with the problems that there are.
    pub fn wait_for_problem(&self, object: &str, reason: &str, deadline: Duration) -> Result<view::Problem> {
        let what = format!("{} to tell {reason} of {object}", self.host.name());
        wait::until(deadline, &what, || {
            let problems = self.report()?.problems;
            let found = problems.iter().find(|p| p.object == object && p.reason == reason).cloned();
            found.with_context(|| format!("{problems:?}"))
        })
    }

    /// Waits until it tells no problem.
    ///
    /// # Errors
    /// When the deadline passes; with the problems that there are.
    pub fn wait_for_no_problem(&self, deadline: Duration) -> Result<()> {
        let what = format!("{} to have no problem", self.host.name());
        wait::until(deadline, &what, || {
            let problems = self.report()?.problems;
            ensure!(problems.is_empty(), "{problems:?}");
            Ok(())
        })
    }

    /// The directory of its socket, and of what it keeps beside that.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory that its manifests are in.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// `kill -9`, as a crash would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// SIGTERM, and its end.
    ///
    /// # Errors
    /// When it does not end by itself.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        processes::signal(self.process.pid(), "TERM");
        self.process.wait(END)
    }

    /// Its process id (inside the guest).
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it says of itself that it knows what to do, as a kubelet would ask.
    ///
    /// # Errors
    /// When it does not; with its words.
    pub fn ready(&self) -> Result<()> {
        let program = paths::program("dmvpn-agent")?;
        self.host.run(&[&program.to_string_lossy(), "--socket", &self.socket(), "ready"]).map(drop)
    }

    /// Starts it again (after [`Self::kill`] or [`Self::stop`]), told the same.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.process = spawn(&self.host, &self.source, &self.dir, self.confined)?;
        self.wait_until_it_answers()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn socket(&self) -> String {
        self.dir.join("agent.sock").to_string_lossy().into_owned()
    }

    fn wait_until_it_answers(&self) -> Result<()> {
        let what = format!("the agent of {} to answer", self.host.name());
        wait::until(START, &what, || {
            self.report()
                .map(drop)
                .with_context(|| self.process.log().lines().last().unwrap_or("").to_owned())
        })
    }
}

/// Becomes the program that its arguments name, in the mount namespace that `ip netns exec` made. `DIR` alone can be
/// written to.
const CONFINE: &str = "
set -e
dir=$1; shift
mount --bind $dir $dir
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /
exec setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=-all,+net_admin,+net_raw \"$@\"
";

fn spawn(host: &Host, source: &Source, dir: &Path, confined: bool) -> Result<Process> {
    let program = paths::program("dmvpn-agent")?;
    let mut command = host.command(if confined { Path::new("/bin/sh") } else { &program });
    if confined {
        command.args(["-c", CONFINE, "confine"]).arg(dir).arg(&program);
    }
    command.args(["--node-name", host.name()]);
    command.arg("--socket").arg(dir.join("agent.sock"));
    command.arg("--vici").arg(super::charon::socket(host));
    match source {
        Source::Directory(labels) => {
            command.arg("--manifests").arg(dir.join("manifests"));
            command.arg("--state-dir").arg(dir.join("state"));
            for label in labels {
                command.args(["--node-label", label]);
            }
        }
        Source::Cluster(cluster) => {
            command.args(["--kubernetes", "--operator-namespace", &cluster.namespace]);
            command.args(["--daemon-set", &cluster.daemon_set]);
            command.arg("--token-file").arg(dir.join(TOKEN));
            command.env("KUBECONFIG", &cluster.kubeconfig);
        }
    }
    host.spawn_command("dmvpn-agent", command)
}
