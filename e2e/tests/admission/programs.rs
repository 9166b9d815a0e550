//! Operator and agent as processes, told what the chart tells them and with the rights that it gives them: they do their
//! work, and nothing that they ask for is refused.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::cluster::Program;
use e2e::cluster::product::{NAMESPACE, healthy};
use e2e::lab::Process;
use e2e::ring2::{Needs, ring2_with};
use e2e::{Cluster, paths, wait};
use serde_json::{Value, json};

use crate::SOON;
use crate::who::pod_token;

const NODE: &str = "east-hub";
/// Where the operator's pod would be reached: loopback addresses may not be in EndpointSlices.
const POD_IP: &str = "10.99.0.1";

#[test]
fn programs_need_no_more_than_the_chart_gives_them() {
    ring2_with(Needs { scheduler: true, deadline: Duration::from_secs(240) }, |cluster| {
        cluster.register_node(NODE, &[])?;
        cluster.kubectl(&["label", "node", NODE, "dmvpn.io/hub=hub1", "dmvpn.io/edge=true"])?;
        cluster.install_chart(&[])?;
        let deployment = cluster.kubectl_json(&["get", "deployment", "dmvpn-operator", "-n", NAMESPACE])?;
        let token = cluster.token("dmvpn-operator", NAMESPACE, "", None)?;
        let mut operator = Program::of(cluster, "operator", &deployment, &token)?.start()?;
        the_operator_fills_what_came_empty(cluster)?;
        let mut agent = agent(cluster)?;
        a_network_with_a_password_reaches_the_agent(cluster, &agent)?;
        the_probe_answers(cluster)?;
        an_address_comes_and_goes_with_its_node(cluster)?;
        drained(cluster)?;
        // Its DaemonSet is there: it goes without a word. Then it is not, and the agent takes everything away.
        agent.stop()?;
        ensure!(!agent.log().contains("the tunnels go too"), "{}", agent.log_end());
        let mut agent = self::agent(cluster)?;
        the_probe_answers(cluster)?;
        cluster.kubectl(&["delete", "daemonset", "dmvpn-agent", "-n", NAMESPACE, "--cascade=orphan"])?;
        agent.stop()?;
        ensure!(agent.log().contains("the tunnels go too"), "{}", agent.log_end());
        operator.stop()?;
        nothing_was_refused(cluster, &[&operator, &agent])
    });
}

fn agent(cluster: &Cluster) -> Result<Process> {
    let set = cluster.kubectl_json(&["get", "daemonset", "dmvpn-agent", "-n", NAMESPACE])?;
    wait::until(SOON, "the agent's pod", || {
        wait::ensure(cluster.pods_of("agent")?.iter().any(|pod| pod.1 == NODE), || "none on the node".into())
    })?;
    // What the kubelet would say of it.
    let (pod, _) = cluster.pods_of("agent")?.remove(0);
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let words = ["patch", "pod", &pod, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p"];
    cluster.kubectl(&[&words[..], &[&ready.to_string()]].concat())?;
    let token = cluster.dir().join("operator-token");
    std::fs::write(&token, pod_token(cluster, NODE, "dmvpn.io")?)?;
    let run = cluster.dir().display().to_string();
    Program::of(cluster, "agent", &set, &pod_token(cluster, NODE, "")?)?
        .env("NODE_NAME", NODE)
        .change("--token-file", &token.display().to_string())?
        .change("--socket", &socket(cluster))?
        .change("--state-dir", &run)?
        .start()
}

fn socket(_: &Cluster) -> String {
    // Short enough for a socket's name, and the network namespace's own: /run/netns is private here.
    "/run/netns/agent.sock".into()
}

fn the_operator_fills_what_came_empty(cluster: &Cluster) -> Result<()> {
    for (kind, name, path) in [
        ("lease", "dmvpn-operator", "{.spec.holderIdentity}"),
        ("secret", "dmvpn-operator-tls", "{.data.tls\\.key}"),
        ("configmap", "dmvpn-operator-ca", "{.data.ca\\.crt}"),
    ] {
        let form = format!("jsonpath={path}");
        wait::until(SOON, &format!("{kind} {name} to be filled"), || {
            let seen = cluster.kubectl(&["get", kind, name, "-n", NAMESPACE, "-o", &form])?;
            wait::ensure(!seen.is_empty(), || "empty".into())
        })?;
    }
    Ok(())
}

/// Down the whole chain: network, address, endpoint, Secret over TLS, status, conditions, Events.
fn a_network_with_a_password_reaches_the_agent(cluster: &Cluster, agent: &Process) -> Result<()> {
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
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Secret", "stringData": {"password": "s3cret"},
        "metadata": {"name": "branches-nhrp", "namespace": NAMESPACE, "labels": {"dmvpn.io/network": "branches"}},
    })
    .to_string())?;
    let network = include_str!("../../../examples/kubernetes/network.yaml");
    let mut network: Value = serde_saphyr::from_str(network)?;
    network["spec"]["nhrp"]["authenticationSecretRefs"] = json!([{"name": "branches-nhrp"}]);
    cluster.apply(&network.to_string())?;
    cluster.apply(include_str!("../../../examples/kubernetes/edge.yaml"))?;
    wait::until(SOON, "the agent's answer in the endpoint's status", || {
        let list = cluster.kubectl_json(&["get", "dmvpnendpoints"])?;
        let endpoint = &list["items"][0];
        let (generation, status) = (&endpoint["metadata"]["generation"], &endpoint["status"]);
        let answered = status["observedGeneration"] == *generation && status["state"].is_string();
        wait::ensure(answered, || format!("{endpoint}; agent: {}", agent.log_end()))?;
        // With the Secret there, it is the kernel or the underlay that is missing here.
        wait::ensure(!status.to_string().contains("SecretsUnavailable"), || status.to_string())
    })?;
    wait::until(SOON, "the network's answer", || {
        let network = cluster.kubectl_json(&["get", "dmvpnnetwork", "branches"])?;
        let conditions = network["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let holds = |kind: &str| conditions.iter().any(|c| c["type"] == kind && c["status"] == "True");
        wait::ensure(holds("Accepted") && holds("CredentialsReady"), || network["status"].to_string())
    })?;
    wait::until(SOON, "an Event of the network", || {
        let words = ["get", "events", "-A", "--field-selector=involvedObject.name=branches", "-o", "name"];
        wait::ensure(!cluster.kubectl(&words)?.is_empty(), || "none".into())
    })
}

/// A node becomes a spoke by its label, and leaves without its agent.
fn an_address_comes_and_goes_with_its_node(cluster: &Cluster) -> Result<()> {
    let seen = |kind: &str, want: usize| {
        wait::until(SOON, &format!("{want} {kind}"), || {
            let names = cluster.kubectl(&["get", kind, "-o", "name"])?;
            wait::ensure(names.lines().count() == want, || names.clone())
        })
    };
    cluster.register_node("east-1", &[])?;
    seen("dmvpnaddresses", 0)?;
    cluster.kubectl(&["label", "node", "east-1", "dmvpn.io/edge=true"])?;
    seen("dmvpnaddresses", 1)?;
    seen("dmvpnendpoints", 2)?;
    cluster.kubectl(&["delete", "node", "east-1"])?;
    seen("dmvpnendpoints", 1)?;
    seen("dmvpnaddresses", 0)
}

fn the_probe_answers(cluster: &Cluster) -> Result<()> {
    let program = paths::program("dmvpn-agent")?;
    let program = program.display().to_string();
    // As the kubelet calls it, but for the place of the socket.
    let set = cluster.kubectl_json(&["get", "daemonset", "dmvpn-agent", "-n", NAMESPACE])?;
    let probe = &set["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["exec"]["command"];
    ensure!(*probe == json!(["dmvpn-agent", "ready"]), "{probe}");
    let socket = socket(cluster);
    wait::until(SOON, "the agent to be ready", || {
        cluster.succeed(&program, &["ready", "--socket", &socket], "").map(drop)
    })?;
    for path in ["/healthz", "/readyz"] {
        wait::until(SOON, path, || healthy(8081, path))?;
    }
    Ok(())
}

/// The hook's container, as helm would start it.
fn drained(cluster: &Cluster) -> Result<()> {
    let hooks: Value = serde_saphyr::from_str(&cluster.helm(&["get", "hooks", "dmvpn", "-n", NAMESPACE])?)?;
    let token = cluster.token("dmvpn-operator", NAMESPACE, "", None)?;
    let mut drain = Program::of(cluster, "drain", &hooks, &token)?.start()?;
    let status = drain.wait(Duration::from_secs(60))?;
    ensure!(status.success(), "drain ends with {status}: {}", drain.log());
    let left = cluster.kubectl(&["get", "dmvpnendpoints", "-o", "name"])?;
    ensure!(left.is_empty(), "endpoints are left: {left}");
    nothing_was_refused(cluster, &[&drain])
}

fn nothing_was_refused(cluster: &Cluster, programs: &[&Process]) -> Result<()> {
    for program in programs {
        let log = program.log();
        ensure!(!log.is_empty(), "{} says nothing", program.label());
        let refused = log.lines().find(|line| line.contains("forbidden") || line.contains("Forbidden"));
        ensure!(refused.is_none(), "{}: {refused:?}", program.label());
    }
    let account =
        |write: &e2e::cluster::Write| write.user.starts_with(&format!("system:serviceaccount:{NAMESPACE}:"));
    let writes: Vec<_> = cluster.writes()?.into_iter().filter(account).collect();
    ensure!(writes.iter().any(|write| write.code < 300), "no write of the programs: {writes:?}");
    let refused: Vec<_> = writes.iter().filter(|write| write.code == 403 || write.code == 401).collect();
    ensure!(refused.is_empty(), "{refused:?}");
    Ok(())
}
