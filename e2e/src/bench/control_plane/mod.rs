//! The control plane at scale: a real API server, the operator as a process with the chart's flags and rights, nodes
//! without kubelets, and on each the API side of an agent ([`crowd`]).
//!
//! First a tenth of the nodes with a hundredth of the spokes, to know what one more spoke costs there; then all. Time
//! to converge is from the start of the operator, with all objects and agents there, until the network and each spoke is
//! told Ready. Everything shares the machine's CPUs: operator, API server, etcd and all agents.

mod crowd;
mod population;
mod usage;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crds::{DmvpnEndpoint, DmvpnSpoke};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Client, Config};
use serde_json::json;
use tokio::runtime::{Builder, Handle};

use super::Figure;
use crate::cluster::product::{NAMESPACE, healthy};
use crate::cluster::{ControlPlane, Plan, Program};
use crate::lab::Process;
use crate::{Cluster, wait};
use crowd::Crowd;
use population::Admin;

/// Where the operator's pod would be reached: loopback addresses may not be in EndpointSlices.
const POD_IP: &str = "10.99.0.1";
const HEALTH: u16 = 8081;
const PASSWORDS: [&str; 2] = ["s3cret-a", "s3cret-b"];
/// Spokes that are added to know what one costs.
const MORE: u32 = 20;
/// The longest wait for any one step.
const PATIENCE: Duration = Duration::from_secs(900);
/// A change must be there within this.
const SOON: Duration = Duration::from_secs(60);

/// How much is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Scale {
    /// Nodes, the hub's among them
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(20..=4000))]
    pub nodes: u32,
    /// Spokes, spread over all nodes but the hub's
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=50_000))]
    pub spokes: u32,
    /// Seconds in which nothing may be written
    #[arg(long, default_value_t = 300)]
    pub steady: u64,
    /// How many nodes change, one after the other
    #[arg(long, default_value_t = 100)]
    pub changes: u32,
}

/// Boots a control plane in `out` and measures on it. Only in namespaces of its own.
///
/// # Errors
/// When something cannot be measured.
pub fn alone(out: &Path, scale: &Scale) -> Result<Vec<Figure>> {
    let plan = Plan { many_nodes: true, ..Plan::here("scale", &out.join("cluster")) };
    measure(&Cluster::local(ControlPlane::boot(plan)?), scale)
}

/// Measures on a fresh control plane of this machine.
///
/// # Errors
/// When something cannot be measured, or a step does not come to its end.
pub fn measure(cluster: &Cluster, scale: &Scale) -> Result<Vec<Figure>> {
    ensure!(scale.spokes >= scale.nodes, "each node but the hub's wants a spoke");
    // Agents have a thread of their own: what is asked by kubectl here stops none of them.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    let mut stand = Stand::new(cluster, &handle, scale.clone())?;
    let mut figures = stand.a_few()?;
    figures.extend(stand.all()?);
    figures.extend(stand.steady()?);
    figures.extend(stand.changes()?);
    figures.extend(stand.key()?);
    figures.extend(stand.one_more(scale.spokes)?);
    figures.extend(stand.restart()?);
    let operator = usage::of(stand.operator()?.pid())?;
    figures.push(Figure::new("scale.operator.memory.peak", stand.peak.max(operator.peak), "MiB"));
    ensure!(!stand.log().contains("panicked"), "the operator panicked: {}", stand.operator()?.log_end());
    Ok(figures)
}

struct Stand<'a> {
    cluster: &'a Cluster,
    handle: &'a Handle,
    scale: Scale,
    admin: Admin,
    config: Config,
    crowd: Crowd,
    program: Program,
    operator: Option<Process>,
    /// Objects that there are.
    nodes: u32,
    spokes: u32,
    /// The most memory that an operator that has ended had.
    peak: f64,
}

impl<'a> Stand<'a> {
    fn new(cluster: &'a Cluster, handle: &'a Handle, scale: Scale) -> Result<Self> {
        // The chart's own pods would be made by a controller, twenty a second: agents are ours.
        cluster.install_chart(&["--set-string", "agent.nodeSelector.dmvpn\\.io/nobody=here"])?;
        cluster.succeed("ip", &["address", "add", &format!("{POD_IP}/32"), "dev", "lo"], "")?;
        cluster.apply(
            &json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": "operator", "namespace": NAMESPACE,
                    "labels": {"kubernetes.io/service-name": "dmvpn-operator"}},
                "ports": [{"name": "secrets", "port": 8443, "protocol": "TCP"}],
                "endpoints": [{"addresses": [POD_IP], "conditions": {"ready": true}}],
            })
            .to_string(),
        )?;
        // Two users of rustls in one program: which implementation is used is said once.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = kube::config::Kubeconfig::read_from(cluster.kubeconfig())?;
        let options = kube::config::KubeConfigOptions::default();
        let config = handle.block_on(Config::from_custom_kubeconfig(kubeconfig, &options))?;
        let admin = Admin(handle.block_on(async { Client::try_from(config.clone()) })?);
        let deployment = cluster.kubectl_json(&["get", "deployment", "dmvpn-operator", "-n", NAMESPACE])?;
        let token = cluster.token("dmvpn-operator", NAMESPACE, "", None)?;
        let program = Program::of(cluster, "operator", &deployment, &token)?
            .change("--agent-selector", &format!("{}=yes", population::AGENT))?;
        handle.block_on(admin.network(PASSWORDS[0]))?;
        let (crowd, operator) = (Crowd::default(), None);
        Ok(Self {
            cluster,
            handle,
            scale,
            admin,
            config,
            crowd,
            program,
            operator,
            nodes: 0,
            spokes: 0,
            peak: 0.0,
        })
    }

    fn operator(&self) -> Result<&Process> {
        self.operator.as_ref().context("the operator runs")
    }

    /// Lets time pass, in which the operator lives.
    fn quiet(&self, time: Duration) -> Result<()> {
        let pid = self.operator()?.pid();
        wait::stays(time, "the operator lives", || usage::of(pid).map(drop))
    }

    fn log(&self) -> String {
        self.operator.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Makes nodes and spokes up to these numbers, and their agents.
    fn populate(&mut self, nodes: u32, spokes: u32) -> Result<()> {
        let (admin, config) = (self.admin.clone(), self.config.clone());
        let dir = self.cluster.dir().join("agents");
        let (old, more) = (self.nodes, self.nodes..nodes);
        self.handle.block_on(admin.nodes(more.clone()))?;
        self.handle.block_on(self.crowd.join(&admin.0, &config, &dir, more))?;
        // Where all are new, the hub's has none.
        self.handle.block_on(admin.spokes(self.spokes..spokes, old.max(1)..nodes))?;
        (self.nodes, self.spokes) = (nodes, spokes);
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        self.operator = Some(self.program.start()?);
        Ok(())
    }

    /// Ends the operator as a roll-out does: it gives its Lease back.
    fn stop(&mut self) -> Result<()> {
        self.peak = self.peak.max(usage::of(self.operator()?.pid())?.peak);
        self.operator.take().context("the operator runs")?.stop().map(drop)
    }

    fn converge(&self) -> Result<()> {
        wait::until_max(PATIENCE, Duration::from_millis(250), "everything to be Ready", || {
            self.handle.block_on(self.admin.converged(self.spokes, self.nodes))
        })
    }

    /// A tenth of the nodes, a hundredth of the spokes.
    fn a_few(&mut self) -> Result<Vec<Figure>> {
        let nodes = (self.scale.nodes / 10).max(5);
        let spokes = (self.scale.spokes / 100).max(nodes);
        self.start()?;
        self.populate(nodes, spokes)?;
        self.converge()?;
        self.one_more(spokes)
    }

    /// Everything, with an operator that starts when it is there.
    fn all(&mut self) -> Result<Vec<Figure>> {
        self.stop()?;
        let (nodes, spokes) = (self.scale.nodes, self.scale.spokes);
        self.populate(nodes, spokes)?;
        let before = usage::ApiServer::read(self.cluster)?;
        let start = Instant::now();
        self.start()?;
        self.converge()?;
        let spent = start.elapsed();
        let (operator, api) = (usage::of(self.operator()?.pid())?, usage::ApiServer::read(self.cluster)?);
        let writes = total(&api.writes_since(&before));
        Ok(vec![
            Figure::new("scale.converged.time", spent.as_secs_f64(), "s"),
            Figure::new("scale.converged.writes", writes, ""),
            Figure::new("scale.converged.operator.cpu", operator.cpu, "s"),
            Figure::new("scale.converged.api-server.cpu", api.cpu - before.cpu, "s"),
        ])
    }

    /// Nothing changes: nothing is written.
    fn steady(&mut self) -> Result<Vec<Figure>> {
        // What was gathered, and what tells of it, is written within this.
        self.quiet(Duration::from_secs(10))?;
        let (before, began) = (usage::ApiServer::read(self.cluster)?, usage::of(self.operator()?.pid())?);
        let start = Instant::now();
        self.quiet(Duration::from_secs(self.scale.steady))?;
        let spent = start.elapsed().as_secs_f64();
        let (api, operator) = (usage::ApiServer::read(self.cluster)?, usage::of(self.operator()?.pid())?);
        let writes = api.writes_since(&before);
        if !writes.is_empty() {
            println!("written while nothing changed: {writes:?}");
        }
        Ok(vec![
            Figure::new("scale.steady.writes", total(&writes), ""),
            Figure::new("scale.steady.operator.cpu", 100.0 * (operator.cpu - began.cpu) / spent, "%"),
            Figure::new("scale.steady.api-server.cpu", 100.0 * (api.cpu - before.cpu) / spent, "%"),
            Figure::new("scale.operator.memory", operator.resident, "MiB"),
            Figure::new("scale.api-server.memory", api.resident, "MiB"),
        ])
    }

    /// A node gets another address: how soon its endpoint has it, and its agent has said so.
    fn changes(&mut self) -> Result<Vec<Figure>> {
        let api = Api::<DmvpnEndpoint>::all(self.admin.0.clone());
        let (mut written, mut answered) = (Vec::new(), Vec::new());
        for change in 0..self.scale.changes {
            let turn = u8::try_from(1 + change / self.nodes.max(1)).unwrap_or(3).min(3);
            // Not one after the other in the list.
            let node = 1 + (change * 7919) % (self.nodes - 1);
            let address = population::address(node, turn).to_string();
            let name = population::endpoint(node);
            let start = Instant::now();
            self.handle.block_on(self.admin.readdress(node, turn))?;
            let wanted = address.clone();
            let has = move |endpoint: Option<&DmvpnEndpoint>| {
                endpoint.is_some_and(|it| it.spec.tunnel.source.address.as_ref() == Some(&wanted))
            };
            self.comes(&api, &name, has)?;
            written.push(milliseconds(start.elapsed()));
            let told = move |endpoint: Option<&DmvpnEndpoint>| {
                let status = endpoint.and_then(|it| it.status.as_ref());
                status.is_some_and(|it| it.nbma.as_ref() == Some(&address))
            };
            self.comes(&api, &name, told)?;
            answered.push(milliseconds(start.elapsed()));
        }
        Ok([("scale.node-to-endpoint", written), ("scale.node-to-status", answered)]
            .into_iter()
            .flat_map(|(name, mut values)| {
                values.sort_by(f64::total_cmp);
                [50, 99].map(|share| Figure::new(format!("{name}.p{share}"), quantile(&values, share), "ms"))
            })
            .collect())
    }

    fn comes<K>(&self, api: &Api<K>, name: &str, is: impl Condition<K>) -> Result<()>
    where
        K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
    {
        let comes = async { tokio::time::timeout(SOON, await_condition(api.clone(), name, is)).await };
        match self.handle.block_on(comes) {
            Ok(found) => found.map(drop).with_context(|| name.to_owned()),
            Err(_) => bail!("{name} was not as it should be within {} s: {}", SOON.as_secs(), self.log_end()),
        }
    }

    fn log_end(&self) -> String {
        self.operator.as_ref().map(Process::log_end).unwrap_or_default()
    }

    /// The network's key is another: how long until every agent has it from the operator.
    fn key(&mut self) -> Result<Vec<Figure>> {
        let before = usage::of(self.operator()?.pid())?;
        let start = Instant::now();
        self.handle.block_on(self.admin.network(PASSWORDS[1]))?;
        wait::until_max(PATIENCE, Duration::from_millis(100), "every agent to have the new key", || {
            let (have, all) = (self.crowd.using(PASSWORDS[1]), self.crowd.len());
            wait::ensure(have == all, || format!("{have} of {all}"))
        })?;
        let spent = start.elapsed().as_secs_f64();
        let cpu = usage::of(self.operator()?.pid())?.cpu - before.cpu;
        self.converge()?;
        Ok(vec![Figure::new("scale.key", spent, "s"), Figure::new("scale.key.operator.cpu", cpu, "s")])
    }

    /// What one more spoke costs where there are about `among`.
    fn one_more(&mut self, among: u32) -> Result<Vec<Figure>> {
        // The last ones' echo is over.
        self.quiet(Duration::from_secs(6))?;
        let api = Api::<DmvpnSpoke>::all(self.admin.0.clone());
        let (before, began) = (usage::ApiServer::read(self.cluster)?, usage::of(self.operator()?.pid())?);
        let mut times = Vec::new();
        for i in 0..MORE {
            let number = 900_000 + i + if among == self.scale.spokes { MORE } else { 0 };
            let on = 1 + (i * 7919) % (self.nodes - 1);
            let start = Instant::now();
            self.handle.block_on(population::create(&api, population::spoke(number, on)))?;
            let ready = |spoke: Option<&DmvpnSpoke>| spoke.is_some_and(population::is_ready);
            self.comes(&api, &population::spoke_name(number), ready)?;
            times.push(milliseconds(start.elapsed()));
        }
        let (api, operator) = (usage::ApiServer::read(self.cluster)?, usage::of(self.operator()?.pid())?);
        self.spokes += MORE;
        let each = |value: f64| value / f64::from(MORE);
        let writes = total(&api.writes_since(&before));
        let cpu = (1000.0 * (operator.cpu - began.cpu), 1000.0 * (api.cpu - before.cpu));
        times.sort_by(f64::total_cmp);
        Ok(vec![
            Figure::new(format!("scale.one-more.{among}"), quantile(&times, 50), "ms"),
            Figure::new(format!("scale.one-more.{among}.writes"), each(writes), ""),
            Figure::new(format!("scale.one-more.{among}.operator.cpu"), each(cpu.0), "ms"),
            Figure::new(format!("scale.one-more.{among}.api-server.cpu"), each(cpu.1), "ms"),
        ])
    }

    /// Another operator takes over: how soon it knows everything, and what it writes then (nothing).
    fn restart(&mut self) -> Result<Vec<Figure>> {
        self.stop()?;
        let uids = self.uids()?;
        let before = usage::ApiServer::read(self.cluster)?;
        let start = Instant::now();
        self.start()?;
        wait::until(SOON, "the operator to be ready", || healthy(HEALTH, "/readyz"))?;
        let ready = milliseconds(start.elapsed());
        self.quiet(Duration::from_secs(5))?;
        let writes = usage::ApiServer::read(self.cluster)?.writes_since(&before);
        if !writes.is_empty() {
            println!("written after a restart: {writes:?}");
        }
        ensure!(uids == self.uids()?, "endpoints were made anew");
        Ok(vec![
            Figure::new("scale.restart.ready", ready, "ms"),
            Figure::new("scale.restart.writes", total(&writes), ""),
        ])
    }

    fn uids(&self) -> Result<BTreeMap<Option<String>, Option<String>>> {
        let all = self.handle.block_on(self.admin.endpoints())?;
        Ok(all.into_iter().map(|it| (it.metadata.name, it.metadata.uid)).collect())
    }
}

fn total(writes: &BTreeMap<String, f64>) -> f64 {
    // Not by `sum`, whose nothing is -0.
    writes.values().fold(0.0, |all, more| all + more)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Of sorted values, the one that `percent` of them do not exceed.
fn quantile(values: &[f64], percent: usize) -> f64 {
    let at = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or_default()
}
