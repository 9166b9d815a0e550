//! What stands outside the guest: one control plane a cluster, each in its own network namespace, the links that
//! lead into the guest, and the helper. All of it lives in the fresh namespaces that [`crate::apart`] makes.
//!
//! ```text
//!   namespaces of this machine                          guest
//!   cp-east  mgmt0 172.31.1.1 ── br1 ── tap1 ═══════════ vec1 ── mgmt-east (a bridge) ── mgmt0 of east's nodes
//!   cp-west  mgmt0 172.31.2.1 ── br2 ── tap2 ═══════════ vec2 ── mgmt-west            ── mgmt0 of west's nodes
//!   helper   ctl 172.30.0.1 ════════════════════════════ vec0 172.30.0.2 (where the test runs)
//! ```
//!
//! The bridges have no address and nothing routes between them: one management network does not reach the
//! other. Where the "guest" is only namespaces, `vecN` is the end of a veth pair instead.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::control_plane::Plan;
use super::helper::{self, Slot};
use crate::guest::{Engine, Job};
use crate::lab::{Host, Lab, host};

/// Nodes of one cluster have the addresses .11 and on.
pub(super) const NODES: u8 = 8;
/// The guest's end of the control link.
const INSIDE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
const NETNS: &str = "guest";
/// Packets are cut to the wire's size here: the guest's driver cuts off what is longer, and its bridge drops it.
const NO_GSO: &str = "gso_max_segs 1 gso_max_size 1500";

/// The control planes of one run. They end with this process.
#[derive(Debug)]
pub struct Holder {
    engine: Engine,
    count: usize,
}

impl Holder {
    /// Makes the links, opens the helper and starts to boot one control plane a name: what is asked of one that
    /// still boots waits. Logs and certificates go to folders of these names in `out`. `kubelets` says whether there
    /// will be any. Once booted, they keep to `cpus`, which should be those that the guest does not use.
    ///
    /// # Errors
    /// When a link cannot be made.
    pub fn start(out: &Path, names: &[&str], kubelets: bool, cpus: &str) -> Result<Self> {
        ensure!(names.len() < 9, "at most eight clusters");
        let engine = Engine::detect()?;
        if engine == Engine::Native {
            run(&format!("ip netns add {NETNS}"))?;
        }
        link_into_guest(engine, 0, "ctl")?;
        run(&format!("ip address add {}/30 dev ctl", helper::ADDRESS.ip()))?;
        let mut slots: Vec<Arc<Slot>> = Vec::new();
        for (number, name) in (1..).zip(names) {
            management_network(engine, number, name)?;
            let plan = Plan {
                name: (*name).to_owned(),
                dir: folder(out, name),
                netns: Some(format!("cp-{name}")),
                address: server_address(number),
                scheduler: true,
                kubelets,
                many_nodes: false,
            };
            slots.push(Slot::boot(plan, cpus));
        }
        helper::serve(slots)?;
        Ok(Self { engine, count: names.len() })
    }

    /// Joins the guest of a job to the links.
    pub fn join(&self, job: &mut Job) {
        match self.engine {
            Engine::Native => job.netns = Some(NETNS.to_owned()),
            Engine::Guest => {
                // Larger depths lose packets on 6.1.
                let link = |n: usize| format!("vec{n}:transport=tap,ifname={},depth=64", outer_name(n));
                job.kernel_args.extend((0..=self.count).map(link));
            }
        }
    }
}

/// Inside the guest: brings the control link up, so that the helper can be asked.
pub(super) fn open_control_link() -> Result<()> {
    run(&format!("ip address add {INSIDE}/30 dev vec0"))?;
    run("ip link set vec0 up")
}

/// Inside the guest: the host `mgmt-NAME`, a bridge that joins the nodes of a cluster to its control plane.
pub(super) fn management_bridge(lab: &Lab, number: u8, name: &str) -> Result<Host> {
    let bridge = lab.host(&format!("mgmt-{name}"))?;
    run(&format!("ip link set vec{number} netns {}", bridge.name()))?;
    bridge.ip_batch(&[
        "link add br0 type bridge".into(),
        format!("link set vec{number} master br0"),
        format!("link set vec{number} up"),
        "link set br0 up".into(),
    ])?;
    Ok(bridge)
}

/// Where the files of a cluster are, below the results folder.
pub(super) fn folder(out: &Path, name: &str) -> PathBuf {
    out.join(format!("cluster-{name}"))
}

/// Address of the API server of cluster `number` (1, 2, …) in its management network.
pub(super) fn server_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, number, 1)
}

/// Address of node `node` (1, 2, …) of cluster `number`.
pub(super) fn node_address(number: u8, node: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, number, 10 + node)
}

/// The pods' network on node `node`.
pub(crate) fn pod_network(node: u8) -> String {
    format!("10.244.{node}.0/24")
}

fn management_network(engine: Engine, number: u8, name: &str) -> Result<()> {
    let (netns, bridge) = (format!("cp-{name}"), format!("br{number}"));
    run(&format!("ip netns add {netns}"))?;
    run(&format!("ip -n {netns} link set lo up"))?;
    run(&format!("ip link add {bridge} type bridge"))?;
    run(&format!("ip link set {bridge} addrgenmode none up"))?;
    run(&format!("ip link add cp{number} type veth peer name mgmt0 netns {netns}"))?;
    run(&format!("ip link set cp{number} addrgenmode none master {bridge} up"))?;
    run(&format!("ip -n {netns} address add {}/24 dev mgmt0", server_address(number)))?;
    run(&format!("ip -n {netns} link set mgmt0 {NO_GSO} up"))?;
    // So the API server reaches what it proxies to: pods, and the kubelets by their own addresses.
    for node in 1..=NODES {
        let via = node_address(number, node);
        run(&format!("ip -n {netns} route add {} via {via}", pod_network(node)))?;
    }
    let device = outer_name(number.into());
    link_into_guest(engine, number.into(), &device)?;
    run(&format!("ip link set {device} addrgenmode none master {bridge}"))
}

/// The outer end of link `number`.
fn outer_name(number: usize) -> String {
    if number == 0 { "ctl".to_owned() } else { format!("tap{number}") }
}

/// A device here whose other end is `vecN` of the guest.
fn link_into_guest(engine: Engine, number: usize, device: &str) -> Result<()> {
    match engine {
        Engine::Guest => run(&format!("ip tuntap add dev {device} mode tap"))?,
        Engine::Native => {
            run(&format!("ip link add {device} type veth peer name vec{number} netns {NETNS}"))?;
        }
    }
    run(&format!("ip link set {device} {NO_GSO} up"))
}

fn run(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().context("no command")?);
    host::run(command.args(words)).map(drop)
}
