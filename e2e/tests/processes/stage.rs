//! The scene and what runs in it: a cluster whose operator and agents are processes, and a box beside it.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::{Agent, Dump, Host, InCluster, Ping, Process};
use e2e::scene::overlay::{BRANCH_A, NETWORK, TUNNEL, link_index, quickstart};
use e2e::scene::{Scene, Site};
use e2e::{Cluster, Lab, paths, wait};
use serde_json::{Value, json};

pub(crate) const NAMESPACE: &str = "dmvpn-system";
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// Between two looks by kubectl.
pub(crate) const LOOK: Duration = Duration::from_millis(200);
pub(crate) const PASSWORD: &str = "s3cret-a";
const INTERVAL: Duration = Duration::from_millis(10);
/// Pings at most; they are stopped when it is over.
const MOST: u32 = 12_000;
/// The operator keeps its name over a restart, as a container of one pod does.
const IDENTITY: &str = "operator-0";

pub(crate) struct Stage<'a> {
    pub(crate) east: &'a Cluster,
    pub(crate) scene: Scene,
    pub(crate) operator: Operator,
    pub(crate) hub: Agent,
    pub(crate) a: Agent,
    pub(crate) b: Agent,
    /// Kernel tables of branch-a before its agent first ran.
    pub(crate) before: Dump,
}

impl<'a> Stage<'a> {
    pub(crate) fn build(lab: &Lab, east: &'a Cluster) -> Result<Self> {
        let mut scene = Scene::empty(lab)?;
        for plan in e2e::scene::plans()? {
            if plan.name != "router" {
                scene.add(lab, plan)?;
            }
        }
        let [hub, a, b] =
            ["hub", "branch-a", "branch-b"].map(|name| scene.site(name).map(|s| s.host.clone()));
        let (hub, a, b) = (hub?, a?, b?);
        let nodes = [(&hub, 1, &[("dmvpn.io/hub", "hub1")][..]), (&a, 2, &[])];
        for (host, number, labels) in nodes {
            let address = east.attach(host, number)?;
            east.make_node(host.name(), address, labels)?;
        }
        let pod = lab.host("operator")?;
        let address = east.attach(&pod, 3)?;
        install(east)?;
        // Where its pod would be.
        east.apply(
            &json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": "operator-by-hand", "namespace": NAMESPACE,
                    "labels": {"kubernetes.io/service-name": "dmvpn-operator"}},
                "ports": [{"name": "secrets", "port": 8443, "protocol": "TCP"}],
                "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            })
            .to_string(),
        )?;
        let operator = Operator::start(east, &pod)?;
        let before = a.dump()?;
        let hub = Agent::start_in_cluster(&hub, pod_of(east, "hub")?)?;
        let a = Agent::start_in_cluster(&a, pod_of(east, "branch-a")?)?;
        let files = [
            ("network.yaml", network()?),
            ("branch-b.yaml", quickstart("branch-b.yaml")?),
            ("secret.yaml", secret(PASSWORD).to_string()),
        ];
        let files: BTreeMap<_, _> = files.map(|(name, text)| (name.to_owned(), text)).into();
        let b = Agent::start(&b, &[], &files)?;
        Ok(Self { east, scene, operator, hub, a, b, before })
    }

    pub(crate) fn site(&self, name: &str) -> Result<&Site> {
        self.scene.site(name)
    }

    /// Waits until the endpoint of a node is Up and Ready, in the version that is stored; returns it.
    pub(crate) fn wait_until_up(&self, node: &str) -> Result<Value> {
        wait::until_max(SOON, LOOK, &format!("the endpoint of {node} to be Ready"), || {
            let endpoint = endpoint(self.east, node)?;
            let status = &endpoint["status"];
            let current = status["observedGeneration"] == endpoint["metadata"]["generation"];
            let ready = condition(&endpoint, "Ready")["status"] == "True";
            ensure!(current && ready && status["state"] == "Up", "{status}");
            Ok(endpoint)
        })
    }

    /// The hub's kernel knows nothing of branch-a any more.
    pub(crate) fn hub_has_forgotten_a(&self) -> Result<()> {
        let hub = &self.site("hub")?.host;
        let address = BRANCH_A.to_string();
        let neighbour = hub.run(&["ip", "neighbour", "show", &address, "dev", TUNNEL])?;
        ensure!(neighbour.trim().is_empty(), "{neighbour}");
        let route = hub.run(&["ip", "route", "show", &self.site("branch-a")?.plan.lan.to_string()])?;
        ensure!(route.trim().is_empty(), "{route}");
        Ok(())
    }

    /// The kernel of branch-a is as it was before any agent ran there.
    pub(crate) fn a_is_as_before(&self) -> Result<()> {
        let host = &self.site("branch-a")?.host;
        wait::until(SOON, "the kernel of branch-a to be as before", || {
            self.before.ensure_equal(&host.dump()?)
        })
    }

    pub(crate) fn delete_spoke(&self) -> Result<()> {
        self.east.kubectl(&["delete", "dmvpnspoke", "branch-a", "--wait=false"]).map(drop)
    }

    /// branch-a is a spoke again, after [`Self::delete_spoke`].
    pub(crate) fn apply_spoke(&self) -> Result<()> {
        self.east.apply(&quickstart("branch-a.yaml")?)?;
        self.wait_until_up("branch-a").map(drop)
    }
}

/// The operator's process on its host.
pub(crate) struct Operator {
    kubeconfig: std::path::PathBuf,
    pub(crate) host: Host,
    pub(crate) process: Process,
}

impl Operator {
    fn start(east: &Cluster, host: &Host) -> Result<Self> {
        let token = east.token("dmvpn-operator", NAMESPACE, "", None)?;
        let kubeconfig = east.kubeconfig_with_token("operator", &token)?;
        let process = spawn(host, &kubeconfig)?;
        Ok(Self { kubeconfig, host: host.clone(), process })
    }

    pub(crate) fn start_again(&mut self) -> Result<()> {
        self.process = spawn(&self.host, &self.kubeconfig)?;
        Ok(())
    }
}

fn spawn(host: &Host, kubeconfig: &std::path::Path) -> Result<Process> {
    let mut command = host.command(paths::program("dmvpn-operator")?);
    // No kubelet says of the agents' pods that they are Ready.
    command.args(["--namespace", NAMESPACE, "--identity", IDENTITY, "--agent-selector", ""]);
    command.env("KUBECONFIG", kubeconfig);
    host.spawn_command("dmvpn-operator", command)
}

/// The chart gives kinds, accounts, rights, the admission policy and the Service; its pods wait for a kubelet.
fn install(east: &Cluster) -> Result<()> {
    let chart = paths::repository().join("charts/dmvpn");
    east.helm(&["install", "dmvpn", &chart.to_string_lossy(), "-n", NAMESPACE, "--create-namespace"])?;
    wait::until(SOON, "the kinds to be served", || {
        east.kubectl(&["get", "dmvpnnetworks,dmvpnspokes,dmvpnendpoints,dmvpnaddresses"])
    })
    .map(drop)
}

/// What the pod of the agent on `node` has.
fn pod_of(east: &Cluster, node: &str) -> Result<InCluster> {
    let token = |audience: &str| east.token("dmvpn-agent", NAMESPACE, audience, Some(node));
    Ok(InCluster {
        kubeconfig: east.kubeconfig_with_token(&format!("agent-{node}"), &token("")?)?,
        operator_token: token("dmvpn.io")?,
        namespace: NAMESPACE.to_owned(),
        daemon_set: "dmvpn-agent".to_owned(),
    })
}

/// The quickstart's network with a password; it registers often, so that little time shows much.
pub(crate) fn network() -> Result<String> {
    let text = quickstart("network.yaml")?;
    let line = "    holdTimeSeconds: 600\n";
    ensure!(text.contains(line), "network.yaml has no {line:?}");
    let more = "    registrationIntervalSeconds: 5\n    authenticationSecretRefs: [{name: nhrp}]\n";
    Ok(text.replace(line, &format!("{line}{more}")))
}

pub(crate) fn secret(password: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "stringData": {"password": password},
        "metadata": {"name": "nhrp", "labels": {"dmvpn.io/network": NETWORK}},
    })
}

pub(crate) fn apply_secret(east: &Cluster, password: &str) -> Result<()> {
    let words = ["apply", "-n", NAMESPACE, "-f", "-"];
    east.kubectl_with_input(&words, &secret(password).to_string()).map(drop)
}

/// The endpoint object of a node.
pub(crate) fn endpoint(east: &Cluster, node: &str) -> Result<Value> {
    let selector = format!("spec.nodeName={node}");
    let list = east.kubectl_json(&["get", "dmvpnendpoints", "--field-selector", &selector])?;
    list["items"].get(0).cloned().with_context(|| format!("no DmvpnEndpoint of node {node}"))
}

/// Waits until there is none.
pub(crate) fn wait_until_gone(east: &Cluster, node: &str) -> Result<()> {
    let selector = format!("spec.nodeName={node}");
    wait::until_max(SOON, LOOK, &format!("the endpoint object of {node} to be gone"), || {
        let left = east.kubectl(&["get", "dmvpnendpoints", "--field-selector", &selector, "-o", "name"])?;
        wait::ensure(left.trim().is_empty(), || left)
    })
}

/// A condition of an object, null if it has none.
pub(crate) fn condition(object: &Value, type_: &str) -> Value {
    let all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|c| c["type"] == type_).cloned().unwrap_or_default()
}

/// Every object of ours with its version: whatever is written moves one.
pub(crate) fn versions(east: &Cluster) -> Result<String> {
    let form = r#"jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid} {.metadata.resourceVersion}{"\n"}{end}"#;
    let kinds = "dmvpnnetworks,dmvpnspokes,dmvpnendpoints,dmvpnaddresses";
    east.kubectl(&["get", kinds, "-o", form])
}

/// What operator and agents have written so far; renewals of the Lease aside.
pub(crate) fn writes(east: &Cluster) -> Result<Vec<String>> {
    let ours = format!("system:serviceaccount:{NAMESPACE}:");
    let all = east.writes()?.into_iter();
    let ours = all.filter(|w| w.user.starts_with(&ours) && w.resource != "leases");
    Ok(ours.map(|w| format!("{} {} {} {} {}", w.user, w.verb, w.resource, w.name, w.code)).collect())
}

/// How often the operator has renewed its Lease.
pub(crate) fn renewals(east: &Cluster) -> Result<usize> {
    let ours = |w: &e2e::cluster::Write| w.resource == "leases" && w.user.ends_with(":dmvpn-operator");
    Ok(east.writes()?.iter().filter(|w| ours(w) && w.code < 300).count())
}

/// Waits until nobody of ours has written anything for `how_long`; returns how many writes there are.
pub(crate) fn quiet(east: &Cluster, how_long: Duration) -> Result<usize> {
    let (mut count, mut since) = (usize::MAX, Instant::now());
    wait::until_max(SOON, LOOK, &format!("{} s without a write", how_long.as_secs()), || {
        let writes = writes(east)?;
        if writes.len() != count {
            (count, since) = (writes.len(), Instant::now());
        }
        wait::ensure(since.elapsed() >= how_long, || format!("the last: {:?}", writes.last())).map(|()| count)
    })
}

/// Fails if there are more writes than these.
pub(crate) fn nothing_written_since(east: &Cluster, before: usize) -> Result<()> {
    let writes = writes(east)?;
    let new = writes.get(before..).unwrap_or_default();
    ensure!(new.is_empty(), "written: {new:?}");
    Ok(())
}

/// Pings LAN to LAN (branch-a ↔ branch-b, hub → branch-a) while `act` runs, and for half a second before and after:
/// none is lost, and the tunnel's link on branch-a is the same.
pub(crate) fn under_pings<T>(
    stage: &mut Stage<'_>,
    act: impl FnOnce(&mut Stage<'_>) -> Result<T>,
) -> Result<T> {
    under_some_pings(stage, true, act)
}

/// As [`under_pings`], of the branches only: by their direct path.
pub(crate) fn under_direct_pings<T>(
    stage: &mut Stage<'_>,
    act: impl FnOnce(&mut Stage<'_>) -> Result<T>,
) -> Result<T> {
    under_some_pings(stage, false, act)
}

fn under_some_pings<T>(
    stage: &mut Stage<'_>,
    with_hub: bool,
    act: impl FnOnce(&mut Stage<'_>) -> Result<T>,
) -> Result<T> {
    let [hub, a, b] = ["hub", "branch-a", "branch-b"].map(|name| stage.site(name).cloned());
    let (hub, a, b) = (hub?, a?, b?);
    let index = link_index(&a.host, TUNNEL)?;
    let to_a = IpAddr::from(a.lan_host());
    let mut ways = vec![(&a.lan, b.lan_host().into()), (&b.lan, to_a)];
    if with_hub {
        ways.push((&hub.lan, to_a));
    }
    let runs = Ping::start_together(&ways, MOST, INTERVAL)?;
    for run in &runs {
        run.wait_for_reply(50, SOON)?;
    }
    let done = act(stage)?;
    for run in runs {
        let last = run.so_far().replies.last().map_or(0, |r| r.sequence);
        ensure!(last + 50 <= MOST, "the pings ended before it was over");
        run.wait_for_reply(last + 50, SOON)?;
        let report = run.stop()?;
        report.ensure_nothing_lost()?;
        println!("    to {}: {report}", report.target);
    }
    let now = link_index(&a.host, TUNNEL)?;
    ensure!(now == index, "link index was {index} and is {now}");
    Ok(done)
}

/// The mode of a file, and its text.
pub(crate) fn kept(agent: &Agent) -> Result<(u32, String)> {
    use std::os::unix::fs::PermissionsExt;
    let path = agent.dir().join("last-endpoints.json");
    let mode = fs::metadata(&path).with_context(|| path.display().to_string())?.permissions().mode();
    Ok((mode & 0o777, fs::read_to_string(&path)?))
}
