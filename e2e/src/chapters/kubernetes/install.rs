//! Chapter 8: images without a registry, helm install, pods that have the privileges which the chart states.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Dumps, Stage};
use crate::cluster::Cluster;
use crate::node::Node;
use crate::paths;
use crate::story::Chapter;

/// Namespace of the release.
pub(super) const NAMESPACE: &str = "dmvpn-system";
/// Selects the agents' pods.
pub(super) const AGENTS: &str = "app.kubernetes.io/name=dmvpn,app.kubernetes.io/component=agent";
const OPERATORS: &str = "app.kubernetes.io/name=dmvpn,app.kubernetes.io/component=operator";
/// CAP_NET_ADMIN (12) and CAP_NET_RAW (13).
const AGENT_CAPABILITIES: u64 = 1 << 12 | 1 << 13;
const RELEASE: &str = "dmvpn";

/// Returns the nodes' kernel tables with operator and agents there, and nothing to do for them yet.
pub(super) fn tell(chapter: &mut Chapter, stage: &Stage) -> Result<Dumps> {
    chapter.step(
        "images made from this build without a registry; helm install --wait, in both clusters",
        "operator and agents are Running and Ready as pods",
        || {
            let mut seen = Vec::new();
            let took = both(stage, install)?;
            for (cluster, took) in [&stage.east, &stage.west].into_iter().zip(took) {
                for (part, labels) in [("operator", OPERATORS), ("agent", AGENTS)] {
                    let pods = running(cluster, labels)?;
                    seen.push(format!("{}: {part} {}", cluster.name(), pods.join(", ")));
                }
                seen.push(format!(
                    "{}: helm install --wait took {:.1} s",
                    cluster.name(),
                    took.as_secs_f64()
                ));
            }
            Ok(seen.join("\n"))
        },
    )?;
    for (cluster, nodes) in [(&stage.east, &stage.nodes[..2]), (&stage.west, &stage.nodes[2..])] {
        let text = cluster.kubectl(&["get", "pods", "-n", NAMESPACE, "-o", "wide"])?;
        chapter.show(&format!("$ kubectl get pods -n {NAMESPACE} -o wide    ({})", cluster.name()), &text);
        for node in nodes {
            chapter.step(
                &format!("the agent's process on {}, as its kernel sees it", node.name()),
                "NET_ADMIN and NET_RAW and nothing else, no new privileges, seccomp, read-only root",
                || privileges(node, "agent", AGENT_CAPABILITIES, 0),
            )?;
        }
    }
    let runs = |node: &&Node| node.containers().is_ok_and(|all| all.iter().any(|c| c.name == "operator"));
    let node = stage.nodes.iter().find(runs).context("no node runs an operator")?;
    chapter.step(
        &format!("the operator's process on {}", node.name()),
        "no capability, not root, no new privileges, seccomp, read-only root",
        || privileges(node, "operator", 0, 65532),
    )?;
    stage.dumps()
}

/// Does the same to both clusters at once; returns how long each took.
pub(super) fn both(stage: &Stage, act: impl Fn(&Cluster) -> Result<()> + Sync) -> Result<[Duration; 2]> {
    let timed = |cluster: &Cluster| -> Result<Duration> {
        let start = Instant::now();
        act(cluster)?;
        Ok(start.elapsed())
    };
    std::thread::scope(|scope| {
        let west = scope.spawn(|| timed(&stage.west));
        let east = timed(&stage.east)?;
        let west = west.join().map_err(|_| anyhow::anyhow!("the thread for west panicked"))?;
        Ok([east, west?])
    })
}

/// `helm install` of the repository's chart, with the lab's images.
pub(super) fn install(cluster: &Cluster) -> Result<()> {
    let chart = paths::repository().join("charts/dmvpn");
    let words = ["install", RELEASE, &chart.to_string_lossy(), "-n", NAMESPACE, "--create-namespace"]
        .map(str::to_owned);
    helm(cluster, words.to_vec(), "1")
}

/// `helm upgrade` to another tag of the agents' image.
pub(super) fn upgrade(cluster: &Cluster, tag: &str) -> Result<()> {
    let chart = paths::repository().join("charts/dmvpn");
    let words = ["upgrade", RELEASE, &chart.to_string_lossy(), "-n", NAMESPACE].map(str::to_owned);
    helm(cluster, words.to_vec(), tag)
}

/// `helm uninstall`, with its drain hook.
pub(super) fn uninstall(cluster: &Cluster) -> Result<String> {
    cluster.helm(&["uninstall", RELEASE, "-n", NAMESPACE, "--wait", "--timeout", "120s"])
}

fn helm(cluster: &Cluster, mut words: Vec<String>, tag: &str) -> Result<()> {
    let host = cluster.server_address();
    for value in [
        "image.operator.repository=lab.local/dmvpn-operator",
        "image.operator.tag=1",
        "image.operator.pullPolicy=Never",
        "image.agent.repository=lab.local/dmvpn-agent",
        &format!("image.agent.tag={tag}"),
        "image.agent.pullPolicy=Never",
        &format!("apiServer.host={host}"),
    ] {
        // A tag is text, also where it looks like a number.
        words.extend(["--set-string".to_owned(), value.to_owned()]);
    }
    words.extend(["--wait", "--timeout", "180s"].map(str::to_owned));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    cluster.helm(&words).map(drop)
}

/// Names of the pods, each with its node; fails if one is not Running and Ready.
fn running(cluster: &Cluster, labels: &str) -> Result<Vec<String>> {
    let pods = cluster.kubectl_json(&["get", "pods", "-n", NAMESPACE, "-l", labels])?;
    let mut names = Vec::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let status = &pod["status"];
        let ready = status["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
        ensure!(status["phase"] == "Running" && ready, "{status}");
        let text =
            |path: &str| pod.pointer(path).and_then(serde_json::Value::as_str).unwrap_or("?").to_owned();
        names.push(format!("{} on {}", text("/metadata/name"), text("/spec/nodeName")));
    }
    ensure!(!names.is_empty(), "no pods with {labels}");
    Ok(names)
}

fn privileges(node: &Node, name: &str, capabilities: u64, uid: u32) -> Result<String> {
    let container = node.container(name, SOON)?;
    let field = |name: &str| node.process_status(&container, name);
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let value = u64::from_str_radix(&field(set)?, 16)?;
        ensure!(value == capabilities, "{set} of {name} is {value:#x}, not {capabilities:#x}");
    }
    ensure!(field("NoNewPrivs")? == "1", "it may gain privileges");
    ensure!(field("Seccomp")? == "2", "no seccomp filter");
    let ids = field("Uid")?;
    ensure!(ids.split_whitespace().all(|id| id == uid.to_string()), "user {ids}, not {uid}");
    let mounts = node.run(&["cat", &format!("/proc/{}/mounts", container.pid)])?;
    let root = mounts.lines().find(|l| l.split(' ').nth(1) == Some("/")).context("root mount")?;
    let options = root.split(' ').nth(3).unwrap_or("");
    ensure!(options.split(',').any(|o| o == "ro"), "the root file system is writable: {root}");
    Ok(format!("{name}: CapEff {capabilities:#x}, uid {uid}, NoNewPrivs 1, Seccomp 2, root read-only"))
}

/// For pods to come.
const SOON: Duration = Duration::from_secs(60);
