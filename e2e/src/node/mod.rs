//! A Kubernetes node in the guest: containerd and kubelet on a [`Host`] of the lab, as kind does it with Docker.
//!
//! The host's network namespace is the node's. Beside it the node has mount, host-name, IPC, PID and cgroup
//! namespaces of its own, held by one small process that `guest/node` prepares and becomes. containerd and kubelet
//! are started in there and die with the process that started them; the containers stay, as on any machine.
//! kubelet has a certificate of the cluster's authority, authenticates those who ask it, and asks the API server
//! what they may do.

mod config;
mod containers;

pub use containers::Container;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::cluster::holder::pod_network;
use crate::cluster::pki::{Pki, Subject};
use crate::cluster::{Cluster, control_plane};
use crate::guest::{processes, quote};
use crate::images::Images;
use crate::lab::host::{self, Host};
use crate::lab::process::Process;
use crate::wait;

const SCRIPT: &str = include_str!("../../guest/node");
/// For one step of a start: others may be starting on the same CPU.
const STEP: Duration = Duration::from_secs(60);

/// What a node is to be.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The host that becomes a node; its name is the node's.
    pub host: &'a Host,
    /// The cluster that it joins.
    pub cluster: &'a Cluster,
    /// 1, 2, … in its cluster: part of its addresses.
    pub number: u8,
    /// Labels beside those that kubelet sets.
    pub labels: &'a [(&'a str, &'a str)],
}

/// A node that runs. Dropping it is a power cut: all its processes end, its network stays as it is.
#[derive(Debug)]
pub struct Node {
    host: Host,
    cluster: Cluster,
    address: Ipv4Addr,
    labels: Vec<(String, String)>,
    number: u8,
    dir: PathBuf,
    images: Images,
    running: Option<Running>,
}

/// Held apart, so that a node may be without.
#[derive(Debug)]
struct Running {
    /// Its child is the first process of the node.
    holder: Process,
    init: u32,
    cgroup: PathBuf,
    containerd: Process,
    kubelet: Option<Process>,
}

impl Node {
    /// Joins the host to the cluster's management network and starts containerd and kubelet there. Returns when
    /// both are started; [`Self::wait_until_ready`] waits for the rest.
    ///
    /// # Errors
    /// When a step fails; with the end of its log.
    pub fn start(plan: &Plan<'_>) -> Result<Self> {
        let (host, cluster) = (plan.host.clone(), plan.cluster.clone());
        let address = cluster.attach(&host, plan.number)?;
        // Made now and not by the first pod: so the node's tables are the same before and after it.
        host.ip_batch(&config::bridge(Ipv4Addr::new(10, 244, plan.number, 1)))?;
        host.sysctl(&format!("net/ipv6/conf/{}/accept_ra", config::BRIDGE), "0")?;
        let dir = host.out().join(format!("{}-node", host.name()));
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let labels = plan.labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let images = Images::given()?;
        let number = plan.number;
        let mut node = Self { host, cluster, address, labels, number, dir, images, running: None };
        node.power_on()?;
        Ok(node)
    }

    /// Starts several nodes at once.
    ///
    /// # Errors
    /// With the first that fails.
    pub fn start_all(plans: &[Plan<'_>]) -> Result<Vec<Self>> {
        std::thread::scope(|scope| {
            let start = |plan| scope.spawn(move || Self::start(plan));
            let starting: Vec<_> = plans.iter().map(start).collect();
            let started = starting.into_iter().zip(plans).map(|(thread, plan)| {
                let started = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                started.with_context(|| format!("node {}", plan.host.name()))
            });
            started.collect()
        })
    }

    /// Starts it again after [`Self::power_off`]; what it had in memory is gone.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn power_on(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "{} is running", self.name());
        fs::write(self.dir.join("init"), SCRIPT)?;
        fs::write(self.dir.join("containerd.toml"), config::containerd(&self.cni()))?;
        fs::create_dir_all(self.cni())?;
        fs::write(self.cni().join("10-bridge.conflist"), config::cni(&pod_network(self.number)))?;
        let cgroup =
            PathBuf::from(format!("/sys/fs/cgroup/dmvpn-lab-{}-{}", std::process::id(), self.name()));
        let (holder, init) = self.hold_namespaces(&cgroup)?;
        let config = self.dir.join("containerd.toml");
        let mut command = inside(init, "containerd");
        command.arg("--config").arg(&config);
        let containerd = self.host.spawn_command("containerd", command)?;
        let running = self.running.insert(Running { holder, init, cgroup, containerd, kubelet: None });
        // Waits for the control plane, if that still boots; containerd starts meanwhile.
        let labels: Vec<(&str, &str)> = self.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
        self.cluster.apply(&config::object(self.host.name(), &labels, &pod_network(self.number)))?;
        let socket = format!("/proc/{init}/root/run/containerd/containerd.sock");
        wait::until(STEP, &format!("containerd of {}", self.host.name()), || {
            if let Some(status) = running.containerd.try_wait()? {
                return Ok(Err(anyhow!("ended ({status}): {}", running.containerd.log_end())));
            }
            UnixStream::connect(&socket).map(|_| Ok(())).context("its socket")
        })??;
        self.identify()?;
        self.start_kubelet()
    }

    /// A power cut: every process of the node ends at once, containers too. Its network namespace stays.
    ///
    /// # Errors
    /// When something of it is left after a while.
    pub fn power_off(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        processes::signal(running.init, "KILL");
        running.holder.kill()?;
        // They ended with the first process of their namespace; the ways in are collected here.
        drop(running.kubelet);
        drop(running.containerd);
        let what = format!("the control groups of {} to be empty", self.name());
        wait::until(STEP, &what, || remove_groups(&running.cgroup))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// The host whose network it is.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its address on the management network.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Waits until the cluster calls it Ready.
    ///
    /// # Errors
    /// When kubelet ends or the deadline passes; with the end of kubelet's log.
    pub fn wait_until_ready(&mut self, deadline: Duration) -> Result<()> {
        let condition = "jsonpath={.status.conditions[?(@.type==\"Ready\")]['status','message']}";
        let name = self.host.name();
        let kubelet = self.running.as_mut().and_then(|r| r.kubelet.as_mut());
        let kubelet = kubelet.with_context(|| format!("kubelet of {name} does not run"))?;
        wait::until(deadline, &format!("node {name} to be Ready"), || {
            if let Some(status) = kubelet.try_wait()? {
                return Ok(Err(anyhow!("kubelet of {name} ended ({status}): {}", kubelet.log_end())));
            }
            let seen = self.cluster.kubectl(&["get", "node", name, "-o", condition])?;
            wait::ensure(seen.starts_with("True"), || format!("{seen}; kubelet: {}", kubelet.log_end()))?;
            Ok(Ok(()))
        })?
    }

    /// A command that will run in all namespaces of the node.
    ///
    /// # Errors
    /// When the node is off.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = enter(self.init()?);
        command.arg(program).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command in the node to its end and returns what it printed.
    ///
    /// # Errors
    /// When it fails; with its standard error.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().context("no command")?;
        host::run(self.command(program)?.args(arguments))
    }

    /// `kill -9` of kubelet, as a crash would; it stays away until [`Self::start_kubelet`].
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill_kubelet(&mut self) -> Result<()> {
        match self.running.as_mut().and_then(|r| r.kubelet.take()) {
            Some(mut kubelet) => kubelet.kill().map(drop),
            None => Ok(()),
        }
    }

    /// Starts kubelet, if it does not run.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_kubelet(&mut self) -> Result<()> {
        let running = self.running.as_mut().with_context(|| format!("{} is off", self.host.name()))?;
        if running.kubelet.is_some() {
            return Ok(());
        }
        let program = control_plane::programs()?.join("kubelet");
        let mut command = inside(running.init, &program.to_string_lossy());
        command.arg("--config").arg(self.dir.join("kubelet.yaml"));
        command.arg("--kubeconfig").arg(self.dir.join("kubelet.kubeconfig"));
        command.arg(format!("--hostname-override={}", self.host.name()));
        command.arg(format!("--node-ip={}", self.address)).arg("--root-dir=/run/kubelet");
        running.kubelet = Some(self.host.spawn_command("kubelet", command)?);
        Ok(())
    }

    fn init(&self) -> Result<u32> {
        Ok(self.running.as_ref().with_context(|| format!("{} is off", self.name()))?.init)
    }

    fn cni(&self) -> PathBuf {
        self.dir.join("cni")
    }

    /// Makes the node's namespaces; returns the process that made them and the id of the first one inside.
    fn hold_namespaces(&self, cgroup: &Path) -> Result<(Process, u32)> {
        let leaf = cgroup.join("init");
        fs::create_dir_all(&leaf).with_context(|| format!("create {}", leaf.display()))?;
        let enter = |dir: &Path| format!("echo $$ >{}/cgroup.procs", quote(&dir.to_string_lossy()));
        let mut words = vec!["bash".to_owned(), self.dir.join("init").to_string_lossy().into_owned()];
        words.push(self.name().to_owned());
        words.extend([self.images.store(), self.images.pause()].map(|p| p.to_string_lossy().into_owned()));
        let words: Vec<String> = words.iter().map(|w| quote(w)).collect();
        let unshare = "unshare --mount --uts --ipc --pid --fork --kill-child --propagation private";
        // A cgroup namespace has its root where it was made; no process may stay in a group that has others below.
        let netns = format!("ip netns exec {}", quote(self.name()));
        let below = format!("{}\nexec {netns} {unshare} {}", enter(&leaf), words.join(" "));
        let script = format!("{}\nexec unshare --cgroup sh -ec {}", enter(cgroup), quote(&below));
        // Into the host's network last: `ip netns exec` lays another /sys over the one with the control groups.
        let mut command = Command::new("sh");
        command.args(["-ec", &script]);
        let mut holder = self.host.spawn_command("node", command)?;
        let pause = self.images.pause();
        let init = wait::until(STEP, &format!("the namespaces of {}", self.name()), || {
            if let Some(status) = holder.try_wait()? {
                return Ok(Err(anyhow!("ended ({status}): {}", holder.log_end())));
            }
            let init = *processes::tree(holder.pid()).get(1).context("no process in them")?;
            let program = fs::read_link(format!("/proc/{init}/exe"))?;
            wait::ensure(program.file_name() == pause.file_name(), || program.display().to_string())?;
            Ok(Ok(init))
        })??;
        Ok((holder, init))
    }

    /// Issues kubelet's certificates, as client and as server, and writes what names them.
    fn identify(&self) -> Result<()> {
        let pki = Pki::open(&self.cluster.dir().join("pki"))?;
        let name = format!("system:node:{}", self.name());
        let subject = Subject { name: &name, group: "system:nodes" };
        let file = format!("kubelet-{}", self.name());
        let server = format!("https://{}:6443", self.cluster.server_address());
        let kubeconfig = pki.kubeconfig(&file, subject, &server)?;
        fs::copy(kubeconfig, self.dir.join("kubelet.kubeconfig"))?;
        let file = format!("{file}-server");
        pki.server(&file, subject, &[self.name()], &[self.address.into()])?;
        let (certificate, key) = (pki.path(&format!("{file}.crt")), pki.path(&format!("{file}.key")));
        let text = config::kubelet(&pki.path("ca.crt"), &certificate, &key);
        Ok(fs::write(self.dir.join("kubelet.yaml"), text)?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // At the end of a run; the guest's end takes what is left.
        let _ = self.power_off();
    }
}

/// The way into the namespaces that process `init` holds.
fn enter(init: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &init.to_string()]);
    command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]);
    command
}

/// As [`enter`], for a daemon: it belongs to the node's control groups and ends with the way in.
fn inside(init: u32, program: &str) -> Command {
    let mut command = enter(init);
    command.args(["setpriv", "--pdeathsig", "KILL", "sh", "-ec"]);
    command.args([r#"echo $$ >/sys/fs/cgroup/init/cgroup.procs; exec "$@""#, "sh", program]);
    command
}

/// Removes a tree of control groups, the deepest first. One with a process in it refuses.
fn remove_groups(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(dir).with_context(|| format!("remove {}", dir.display()))
}
