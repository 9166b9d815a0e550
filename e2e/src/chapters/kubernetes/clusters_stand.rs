//! Chapter 7: two clusters join the scene: control planes on this machine, kubelets in the guest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Stage;
use crate::cluster::Cluster;
use crate::lab::Lab;
use crate::node::{Node, Plan};
use crate::scene::Scene;
use crate::scene::clusters::{self, CLUSTERS};
use crate::story::Chapter;
use crate::wait;

const SOON: Duration = Duration::from_secs(90);

/// A pod on every node that is there before ours: its kubelet has then made what it makes for any pod.
const TENANT: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: tenant, namespace: default}
spec:
  selector: {matchLabels: {app: tenant}}
  template:
    metadata: {labels: {app: tenant}}
    spec:
      tolerations: [{operator: Exists}]
      containers: [{name: tenant, image: 'lab.local/pause:1', imagePullPolicy: Never}]
";

pub(super) fn tell(
    chapter: &mut Chapter,
    lab: &Lab,
    scene: &mut Scene,
    east: &Cluster,
    west: &Cluster,
) -> Result<Stage> {
    let nodes = chapter.step_with(
        "sites east-hub, east-1 and west-1 join the isp; kubelet and containerd start on each",
        "three real nodes, Ready in their cluster",
        || {
            for plan in clusters::plans()? {
                scene.add(lab, plan)?;
            }
            let start = Instant::now();
            let mut plans = Vec::new();
            for (cluster, (_, names)) in [east, west].into_iter().zip(CLUSTERS) {
                for (number, name) in (1..).zip(names) {
                    plans.push(Plan { host: &scene.site(name)?.host, cluster, number, labels: &[] });
                }
            }
            let mut nodes = Node::start_all(&plans)?;
            for node in &mut nodes {
                node.wait_until_ready(SOON)?;
            }
            let took = start.elapsed().as_secs_f64();
            Ok((nodes, format!("three nodes Ready after {took:.1} s")))
        },
    )?;
    for cluster in [east, west] {
        chapter.show(
            &format!("$ kubectl get nodes -o wide    ({})", cluster.name()),
            &cluster.kubectl(&["get", "nodes", "-o", "wide"])?,
        );
    }
    chapter.step(
        "each node asks the API server of its own cluster, and of the other",
        "its own answers; the other's address cannot be reached, from any node",
        || isolation(&nodes, east, west),
    )?;
    let before = chapter.step_with(
        "a tenant's pod runs on every node; then all kernel tables are dumped, before anything of ours is there",
        "three dumps",
        || {
            for cluster in [east, west] {
                cluster.apply(TENANT)?;
            }
            for cluster in [east, west] {
                wait::until_max(SOON, Duration::from_millis(200), "the tenant's pods", || {
                    let set = cluster.kubectl_json(&["get", "daemonset", "tenant"])?;
                    let status = &set["status"];
                    let wanted = status["desiredNumberScheduled"].as_u64().filter(|n| *n > 0);
                    ensure!(wanted.is_some() && status["numberReady"].as_u64() == wanted, "{status}");
                    Ok(())
                })?;
            }
            let dump = |node: &Node| Ok((node.name().to_owned(), node.host().dump()?));
            let before: BTreeMap<_, _> = nodes.iter().map(dump).collect::<Result<_>>()?;
            let entries: usize = before.values().map(crate::lab::Dump::len).sum();
            Ok((before, format!("{entries} entries")))
        },
    )?;
    Ok(Stage { east: east.clone(), west: west.clone(), nodes, before })
}

fn isolation(nodes: &[Node], east: &Cluster, west: &Cluster) -> Result<String> {
    let mut seen = Vec::new();
    for (own, names) in [east, west].into_iter().zip(CLUSTERS.map(|(_, names)| names)) {
        for node in nodes.iter().filter(|n| names.contains(&n.name())) {
            for cluster in [east, west] {
                let url = format!("https://{}:6443/livez", cluster.server_address());
                let words =
                    ["curl", "-ks", "--connect-timeout", "2", "-o", "/dev/null", "-w", "%{http_code}", &url];
                let output = node.host().output(&words)?;
                let code = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                let same = cluster.name() == own.name();
                // Whatever the server thinks of a stranger, it answered.
                ensure!(
                    (code != "000") == same,
                    "{} and the server of {}: {code}",
                    node.name(),
                    cluster.name()
                );
                let word = if same { "answers" } else { "no way" };
                seen.push(format!("{} → {}: {word}", node.name(), cluster.name()));
            }
        }
    }
    ensure!(seen.len() == nodes.len() * 2, "{seen:?}");
    Ok(seen.join(", "))
}
