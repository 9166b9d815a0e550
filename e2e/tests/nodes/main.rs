//! Kubernetes nodes in the guest: kubelet and containerd of three nodes, pods of our images, what an API server asks
//! of a kubelet; two clusters whose management links do not meet; a network under
//! IPsec between them; and pods behind a gateway.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::node::Plan;
use e2e::ring4::{Needs, ring4};
use e2e::{Cluster, Node, wait};

mod gateway;
mod protected;

const PODS: Duration = Duration::from_secs(120);

/// `watch` looks at the node's nft tables and tells what changes; `idle` is a pod with a network of its own.
const DAEMON_SETS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: watch}
spec:
  selector: {matchLabels: {app: watch}}
  template:
    metadata: {labels: {app: watch}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      containers:
      - name: watch
        image: lab.local/dmvpn-agent:1
        imagePullPolicy: Never
        command: [nft, monitor]
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {drop: [ALL], add: [NET_ADMIN, NET_RAW]}
          seccompProfile: {type: RuntimeDefault}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: idle}
spec:
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: idle, image: 'lab.local/pause:1', imagePullPolicy: Never}
";

#[test]
fn nodes_run_pods_that_the_api_server_reaches() {
    let needs = Needs {
        clusters: &["east", "west"],
        memory_mib: 2560,
        // A third of it on a quiet machine.
        deadline: Duration::from_secs(540),
        ..Needs::default()
    };
    ring4(needs, |lab, clusters| {
        let [east, west] = clusters else { anyhow::bail!("{clusters:?}") };
        let hosts = [lab.host("east-1")?, lab.host("east-2")?];
        let west_host = lab.host("west-1")?;
        let clock = Clock(Instant::now());
        let labels = &[("dmvpn.io/hub", "hub1")];
        let mut nodes = Node::start_all(&[
            Plan { host: &hosts[0], cluster: east, number: 1, labels },
            Plan { host: &hosts[1], cluster: east, number: 2, labels },
            Plan { host: &west_host, cluster: west, number: 1, labels: &[] },
        ])?;
        clock.says("containerd and kubelet run on 3 nodes of 2 clusters");
        for node in &mut nodes {
            node.wait_until_ready(PODS)?;
        }
        clock.says("3 nodes Ready");
        let west_node = nodes.remove(2);
        let before = [hosts[0].dump()?, hosts[1].dump()?];

        east.apply(DAEMON_SETS)?;
        for set in ["ds/watch", "ds/idle"] {
            east.kubectl(&["rollout", "status", set, "--timeout=120s"])?;
        }
        clock.says("4 pods Ready");
        println!("          {}", memory()?);
        labels_and_networks(east)?;
        for node in &nodes {
            privileges(node)?;
            logs_and_exec(east, node)?;
        }
        pods_are_reached(east, &nodes)?;
        links_are_apart((east, &nodes[0]), (west, &west_node))?;
        links_are_apart((west, &west_node), (east, &nodes[0]))?;
        clock.says("looked at");

        kubelet_comes_back(east, &mut nodes[0])?;
        clock.says("a kubelet was killed and came back");
        let old = nodes[1].container("watch", PODS)?;
        nodes[1].power_off()?;
        ensure!(nodes[1].containers().is_err(), "a node that is off has containers");
        nodes[1].power_on()?;
        let new = nodes[1].container("watch", PODS)?;
        ensure!(old.id != new.id && old.pod == new.pod, "{old:?} {new:?}");
        nodes[1].wait_until_ready(PODS)?;
        clock.says("a node was cut off its power and came back, with its pod");

        east.kubectl(&["delete", "ds", "--all", "--cascade=foreground", "--timeout=60s"])?;
        for ((host, before), node) in hosts.iter().zip(&before).zip(&nodes) {
            wait::until(Duration::from_secs(60), "the end of the containers", || {
                let left = node.containers()?;
                wait::ensure(left.is_empty(), || format!("{left:?}"))?;
                // The network of a pod goes a moment after its last container.
                before.ensure_equal(&host.dump()?)
            })?;
        }
        clock.says("pods removed; the nodes' kernel tables are as before");
        protected::across_clusters(lab, (east, &nodes[0]), (west, &west_node), &|what| clock.says(what))?;
        Ok(())
    });
}

struct Clock(Instant);

impl Clock {
    fn says(&self, what: &str) {
        println!("[{:5.1} s] {what}", self.0.elapsed().as_secs_f64());
    }
}

/// Of the whole guest.
fn memory() -> Result<String> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let mib = |field: &str| -> u64 {
        let line = text.lines().find_map(|l| l.strip_prefix(field));
        line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or_default() / 1024
    };
    Ok(format!(
        "memory of the guest: {} of {} MiB are in use",
        mib("MemTotal") - mib("MemAvailable"),
        mib("MemTotal")
    ))
}

fn labels_and_networks(east: &Cluster) -> Result<()> {
    let list = east.kubectl_json(&["get", "nodes", "-l", "dmvpn.io/hub=hub1"])?;
    let seen: Vec<String> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|node| {
            let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
            let internal = addresses.filter(|a| a["type"] == "InternalIP").map(|a| a["address"].to_string());
            format!(
                "{} {} {} {}",
                node["metadata"]["name"],
                node["metadata"]["labels"]["kubernetes.io/hostname"],
                node["spec"]["podCIDR"],
                internal.collect::<String>()
            )
        })
        .map(|line| line.replace('"', ""))
        .collect();
    ensure!(
        seen == ["east-1 east-1 10.244.1.0/24 172.31.1.11", "east-2 east-2 10.244.2.0/24 172.31.1.12"],
        "{seen:?}"
    );
    Ok(())
}

/// What the pod asks for is what its process has, and no more.
fn privileges(node: &Node) -> Result<()> {
    let watch = node.container("watch", PODS)?;
    ensure!(watch.image == "lab.local/dmvpn-agent:1", "{watch:?}");
    // NET_ADMIN is bit 12, NET_RAW bit 13; 2 is a seccomp filter.
    for (field, value) in [("CapEff", "0000000000003000"), ("Seccomp", "2"), ("NoNewPrivs", "1")] {
        let seen = node.process_status(&watch, field)?;
        ensure!(seen == value, "{} of {watch:?}: {seen}", field);
    }
    Ok(())
}

/// The API server reaches the kubelet of a node, and the pod on the host's network acts on that node.
fn logs_and_exec(east: &Cluster, node: &Node) -> Result<()> {
    let pod = node.container("watch", PODS)?.pod;
    let table = format!("of-{}", node.name()).replace('-', "_");
    east.kubectl(&["exec", &pod, "--", "nft", "add", "table", "inet", &table])?;
    let tables = node.host().run(&["nft", "list", "tables"])?;
    ensure!(tables.contains(&table), "on {}: {tables}", node.name());
    wait::until(Duration::from_secs(20), "the pod's log", || {
        let log = east.kubectl(&["logs", &pod])?;
        wait::ensure(log.contains(&format!("add table inet {table}")), || log)
    })?;
    east.kubectl(&["exec", &pod, "--", "nft", "delete", "table", "inet", &table])?;
    let refused =
        east.output("kubectl", &["exec", &pod, "--", "nft", "add", "rule", "no", "such", "one"], "")?;
    ensure!(refused.status == 1, "the status of a command comes back: {refused:?}");
    Ok(())
}

/// From the other node and from the control plane.
fn pods_are_reached(east: &Cluster, nodes: &[Node]) -> Result<()> {
    let list = east.kubectl_json(&["get", "pods", "-l", "app=idle"])?;
    for pod in list["items"].as_array().into_iter().flatten() {
        let (on, address) =
            (pod["spec"]["nodeName"].as_str(), pod["status"]["podIP"].as_str().unwrap_or("-"));
        for node in nodes {
            let ping = node.host().run(&["ping", "-n", "-c", "2", "-i", "0.2", "-W", "5", address]);
            ping.map_err(|e| e.context(format!("{on:?} from {}", node.name())))?;
        }
        east.succeed("ping", &["-n", "-c", "2", "-i", "0.2", "-W", "5", address], "")?;
    }
    Ok(())
}

/// Each reaches its own; neither the node nor the control plane reaches the other cluster's management network.
fn links_are_apart((own, node): (&Cluster, &Node), (other, other_node): (&Cluster, &Node)) -> Result<()> {
    let reaches = |from: Option<&Cluster>, to: std::net::Ipv4Addr| -> Result<bool> {
        let to = to.to_string();
        let words = ["-n", "-c", "1", "-W", "2", &to];
        match from {
            Some(cluster) => Ok(cluster.output("ping", &words, "")?.status == 0),
            None => Ok(node.host().output(&[&["ping"], &words[..]].concat())?.status.success()),
        }
    };
    ensure!(reaches(None, own.server_address())?, "{} does not reach its control plane", node.name());
    ensure!(reaches(Some(own), node.address())?, "{} does not reach its node", own.name());
    ensure!(!reaches(None, other.server_address())?, "{} reaches {}", node.name(), other.name());
    ensure!(!reaches(None, other_node.address())?, "{} reaches {}", node.name(), other_node.name());
    ensure!(!reaches(Some(own), other_node.address())?, "{} reaches {}", own.name(), other_node.name());
    let nodes = own.kubectl(&["get", "nodes", "-o", "name"])?;
    ensure!(!nodes.contains(other_node.name()), "{} has {nodes}", own.name());
    Ok(())
}

fn kubelet_comes_back(east: &Cluster, node: &mut Node) -> Result<()> {
    let before = node.container("watch", PODS)?;
    node.kill_kubelet()?;
    let refused = east.output("kubectl", &["exec", &before.pod, "--", "nft", "list", "tables"], "")?;
    ensure!(refused.status != 0, "a kubelet that was killed answers");
    ensure!(node.container("watch", PODS)? == before, "the container did not outlive its kubelet");
    node.start_kubelet()?;
    wait::until(PODS, "the kubelet to answer", || {
        east.kubectl(&["exec", &before.pod, "--", "nft", "list", "tables"])
    })?;
    ensure!(node.container("watch", PODS)? == before, "kubelet made the container anew");
    Ok(())
}
