//! The processes of one control plane, in the namespaces that we are in (or in a named network namespace).
//!
//! Traps that the flags below avoid: the advertised address must not be loopback unless the endpoint reconciler
//! is off; with a credential per controller the default rate limit delays the first ServiceAccount by seconds;
//! `/readyz` says nothing of that ServiceAccount, without which no pod can be made.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::door::{self, Reply};
use super::pki::{Pki, Subject};
use crate::lab::{Process, host::run, lock};
use crate::{paths, wait};

const BOOT: Duration = Duration::from_secs(90);
/// The API server's port.
pub const PORT: u16 = 6443;
/// Every write of anyone is noted, so that a test can say that there was none.
const AUDIT: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: None
  verbs: [get, list, watch]
- level: Metadata
";

/// What is to be booted, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the cluster.
    pub name: String,
    /// Folder for logs, certificates and kubeconfig files.
    pub dir: PathBuf,
    /// The network namespace to boot in, if not our own.
    pub netns: Option<String>,
    /// The address that nodes and pods reach the API server at.
    pub address: Ipv4Addr,
    /// Whether a scheduler runs.
    pub scheduler: bool,
    /// Whether kubelets say that nodes live. Without any, a Node made by hand stays as it was made.
    pub kubelets: bool,
    /// Whether there are more nodes than the usual range of pod addresses has room for (256).
    pub many_nodes: bool,
}

impl Plan {
    /// A control plane on this namespace's loopback.
    #[must_use]
    pub fn here(name: &str, dir: &Path) -> Self {
        Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            netns: None,
            address: Ipv4Addr::LOCALHOST,
            scheduler: false,
            kubelets: false,
            many_nodes: false,
        }
    }

    fn server(&self) -> String {
        format!("https://{}:{PORT}", self.address)
    }

    /// `program` in the control plane's network, with no configuration of the user's own.
    pub(super) fn command(&self, program: &str) -> Result<Command> {
        let path = programs()?.join(program);
        let path = if path.is_file() { path } else { PathBuf::from(program) };
        let mut command = match &self.netns {
            None => Command::new(path),
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns]).arg(path);
                command
            }
        };
        let home = self.state();
        command.env("HOME", &home).env("KUBECONFIG", self.dir.join("pki/admin.kubeconfig"));
        command.env("KUBECTL_KUBERC", "false").current_dir(&home);
        // Where kubectl finds its plugin: ours.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", paths::program_dir()?.display()));
        for name in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// Where what nobody wants to read goes: memory, gone with the namespaces.
    fn state(&self) -> PathBuf {
        Path::new("/run/cluster").join(&self.name)
    }
}

/// The folder with the Kubernetes programs.
///
/// # Errors
/// When they are not built; says how.
pub fn programs() -> Result<&'static Path> {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = PROGRAMS.get() {
        return Ok(path);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kubernetes.sh");
    let output = Command::new(&script).arg("path").output();
    let output = output.with_context(|| format!("run {}", script.display()))?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if !output.status.success() {
        bail!("the Kubernetes programs are not in {}: e2e/scripts/bootstrap.sh builds them", path.display());
    }
    Ok(PROGRAMS.get_or_init(|| path))
}

/// A control plane that runs. Dropping it ends it at once.
#[derive(Debug)]
pub struct ControlPlane {
    plan: Plan,
    times: String,
    processes: Mutex<Processes>,
}

#[derive(Debug)]
struct Processes {
    api_server: Option<Process>,
    /// In the order they were started.
    others: Vec<Process>,
}

impl ControlPlane {
    /// Boots it and returns when pods could be made: the default ServiceAccount exists.
    ///
    /// # Errors
    /// When a process ends or the deadline passes; with the end of its log.
    pub fn boot(plan: Plan) -> Result<Self> {
        fs::create_dir_all(&plan.dir).with_context(|| format!("create {}", plan.dir.display()))?;
        fs::create_dir_all(plan.state())?;
        fs::write(plan.dir.join("audit-policy.yaml"), AUDIT)?;
        certificates(&plan)?;
        let processes = Mutex::new(Processes { api_server: None, others: Vec::new() });
        let mut it = Self { plan, times: String::new(), processes };
        let (mut start, boot) = (Instant::now(), Instant::now());
        let mut note = |it: &mut Self, what: &str| {
            let _ = write!(it.times, "{what} {:.1} s, ", start.elapsed().as_secs_f64());
            start = Instant::now();
        };
        it.start_other("etcd", etcd)?;
        it.wait_for_port(2379, "etcd")?;
        note(&mut it, "etcd");
        it.start_api_server()?;
        note(&mut it, "kube-apiserver");
        it.start_other("kube-controller-manager", controller_manager)?;
        if it.plan.scheduler {
            it.start_other("kube-scheduler", scheduler)?;
        }
        it.wait_for("the default ServiceAccount", &["get", "serviceaccount", "default"])?;
        note(&mut it, "default ServiceAccount");
        let _ = write!(it.times, "ready after {:.1} s", boot.elapsed().as_secs_f64());
        Ok(it)
    }

    /// How long each step of the boot took.
    #[must_use]
    pub fn times(&self) -> &str {
        &self.times
    }

    /// What was asked for.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Confines its processes, and what this process starts from now on, to some CPUs (a list as `taskset` takes it).
    ///
    /// # Errors
    /// With what `taskset` printed.
    pub fn confine(&self, cpus: &str) -> Result<()> {
        let mut pids = vec![std::process::id()];
        {
            let processes = lock(&self.processes);
            pids.extend(processes.others.iter().chain(&processes.api_server).map(Process::pid));
        }
        for pid in pids {
            run(Command::new("taskset").args(["-a", "-p", "-c", cpus, &pid.to_string()]))?;
        }
        Ok(())
    }

    /// Starts the API server (again) and returns when it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_api_server(&self) -> Result<()> {
        let mut processes = lock(&self.processes);
        if processes.api_server.is_none() {
            processes.api_server = Some(self.spawn("kube-apiserver", api_server(&self.plan)?)?);
        }
        drop(processes);
        self.wait_for_port(PORT, "kube-apiserver")?;
        self.wait_for("kube-apiserver to be ready", &["get", "--raw", "/readyz"])
    }

    /// Stops the API server at once, as a crash would: on SIGTERM it waits many seconds for its watchers.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn stop_api_server(&self) -> Result<()> {
        match lock(&self.processes).api_server.take() {
            Some(mut process) => process.kill().map(drop),
            None => Ok(()),
        }
    }

    fn start_other(&self, name: &str, command: impl FnOnce(&Plan) -> Result<Command>) -> Result<()> {
        let process = self.spawn(name, command(&self.plan)?)?;
        lock(&self.processes).others.push(process);
        Ok(())
    }

    fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::spawn(name, command, &self.plan.dir.join(format!("{name}.log")))
    }

    /// A plain connection shows when a server listens, for less than a run of kubectl.
    fn wait_for_port(&self, port: u16, what: &str) -> Result<()> {
        let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
        wait::until(BOOT, &format!("{what} to listen"), || {
            self.all_alive()?;
            let Reply { status, stderr, .. } = door::run(&self.plan, "bash", &["-c", &connect], "")?;
            wait::ensure(status == 0, || stderr)
        })
    }

    fn wait_for(&self, what: &str, kubectl: &[&str]) -> Result<()> {
        wait::until(BOOT, what, || {
            self.all_alive()?;
            let Reply { status, stderr, .. } = door::run(&self.plan, "kubectl", kubectl, "")?;
            wait::ensure(status == 0, || stderr)
        })
    }

    /// A process that has ended is not waited for: it is named with the end of its log, at once.
    fn all_alive(&self) -> Result<()> {
        let mut processes = lock(&self.processes);
        let Processes { api_server, others } = &mut *processes;
        for process in others.iter_mut().chain(api_server.as_mut()) {
            if let Some(status) = process.try_wait()? {
                bail!("{} ended ({status}): {}", process.label(), process.log_end());
            }
        }
        Ok(())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // Nothing here is worth the seconds of an orderly end.
        let mut processes = lock(&self.processes);
        let Processes { api_server, others } = &mut *processes;
        for process in others.iter_mut().chain(api_server.as_mut()) {
            let _ = process.kill();
        }
    }
}

fn certificates(plan: &Plan) -> Result<()> {
    let pki = Pki::create(&plan.dir.join("pki"))?;
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let addresses = [plan.address, Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 96, 0, 1)].map(IpAddr::V4);
    pki.server("apiserver", Subject { name: "kube-apiserver", group: "" }, &names, &addresses)?;
    pki.client("front-proxy-client", Subject { name: "front-proxy-client", group: "" })?;
    pki.client("kubelet-client", Subject { name: "kube-apiserver", group: "system:masters" })?;
    let local = format!("https://127.0.0.1:{PORT}");
    pki.kubeconfig("admin", Subject { name: "admin", group: "system:masters" }, &plan.server())?;
    for name in ["kube-controller-manager", "kube-scheduler"] {
        pki.kubeconfig(name, Subject { name: &format!("system:{name}"), group: "" }, &local)?;
    }
    Ok(())
}

fn etcd(plan: &Plan) -> Result<Command> {
    let mut command = plan.command("etcd")?;
    command.arg(format!("--data-dir={}", plan.state().join("etcd").display()));
    command.args(["--name=lab", "--unsafe-no-fsync", "--log-level=warn"]);
    command.args([
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
    ]);
    command.args(["--listen-peer-urls=http://127.0.0.1:2380", "--initial-cluster=lab=http://127.0.0.1:2380"]);
    command.arg("--initial-advertise-peer-urls=http://127.0.0.1:2380");
    Ok(command)
}

fn api_server(plan: &Plan) -> Result<Command> {
    let mut command = plan.command("kube-apiserver")?;
    let pki = |file: &str| plan.dir.join("pki").join(file).display().to_string();
    command.args(["--etcd-servers=http://127.0.0.1:2379", "--profiling=false"]);
    command.arg(format!("--secure-port={PORT}")).arg(format!("--advertise-address={}", plan.address));
    if plan.address.is_loopback() {
        command.args(["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none"]);
    }
    command.args(["--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged=true"]);
    command.args(["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"]);
    command.arg(format!("--client-ca-file={}", pki("ca.crt")));
    command.arg(format!("--tls-cert-file={}", pki("apiserver.crt")));
    command.arg(format!("--tls-private-key-file={}", pki("apiserver.key")));
    command.arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local");
    command.arg(format!("--service-account-key-file={}", pki("sa.pub")));
    command.arg(format!("--service-account-signing-key-file={}", pki("sa.key")));
    command.arg(format!("--requestheader-client-ca-file={}", pki("ca.crt")));
    command.args(["--requestheader-allowed-names=front-proxy-client"]);
    command.args([
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
    ]);
    command.arg("--requestheader-extra-headers-prefix=X-Remote-Extra-");
    command.arg(format!("--proxy-client-cert-file={}", pki("front-proxy-client.crt")));
    command.arg(format!("--proxy-client-key-file={}", pki("front-proxy-client.key")));
    command.arg(format!("--kubelet-certificate-authority={}", pki("ca.crt")));
    command.arg(format!("--kubelet-client-certificate={}", pki("kubelet-client.crt")));
    command.arg(format!("--kubelet-client-key={}", pki("kubelet-client.key")));
    command.arg("--kubelet-preferred-address-types=InternalIP");
    command.arg(format!("--audit-policy-file={}", plan.dir.join("audit-policy.yaml").display()));
    command.arg(format!("--audit-log-path={}", plan.dir.join("audit.log").display()));
    command.arg("--audit-log-mode=blocking");
    Ok(command)
}

fn controller_manager(plan: &Plan) -> Result<Command> {
    let mut command = component(plan, "kube-controller-manager")?;
    let pki = |file: &str| plan.dir.join("pki").join(file).display().to_string();
    command.args(["--use-service-account-credentials=true"]);
    command.arg(format!("--service-account-private-key-file={}", pki("sa.key")));
    command.arg(format!("--root-ca-file={}", pki("ca.crt")));
    command.arg(format!("--cluster-signing-cert-file={}", pki("ca.crt")));
    command.arg(format!("--cluster-signing-key-file={}", pki("ca.key")));
    command.arg(format!("--client-ca-file={}", pki("ca.crt")));
    command.arg(format!("--requestheader-client-ca-file={}", pki("ca.crt")));
    let pods = if plan.many_nodes { "10.240.0.0/12" } else { "10.244.0.0/16" };
    command.args(["--service-cluster-ip-range=10.96.0.0/16", "--allocate-node-cidrs=true"]);
    command.arg(format!("--cluster-cidr={pods}"));
    if !plan.kubelets {
        // Else a Node whose kubelet says nothing is Unknown after 50 s.
        command.args(["--node-monitor-grace-period=24h"]);
    }
    Ok(command)
}

fn scheduler(plan: &Plan) -> Result<Command> {
    component(plan, "kube-scheduler")
}

/// What the two have in common.
fn component(plan: &Plan, name: &str) -> Result<Command> {
    let mut command = plan.command(name)?;
    let kubeconfig = plan.dir.join("pki").join(format!("{name}.kubeconfig"));
    for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        command.arg(format!("--{flag}={}", kubeconfig.display()));
    }
    command.args(["--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false"]);
    command.args(["--kube-api-qps=500", "--kube-api-burst=1000"]);
    command.arg(format!("--cert-dir={}", plan.state().join(name).display()));
    Ok(command)
}
