//! Who asks the API server, and with what.

use anyhow::{Context, Result};
use e2e::Cluster;
use e2e::cluster::Reply;
use serde_json::{Value, json};

use crate::NAMESPACE;

const ENDPOINT: &str = include_str!("../../../compile/tests/specimens/endpoint.yaml");

/// Somebody, as words for kubectl by which the server takes it for this one.
pub(crate) struct Who(Vec<String>);

impl Who {
    /// The agent on a node, with the token of its pod.
    pub(crate) fn agent(cluster: &Cluster, node: &str) -> Result<Self> {
        Self::with_token(cluster, &format!("agent-{node}"), &pod_token(cluster, node, "")?)
    }

    /// The agent's account, with a token that is of a node, but of no pod.
    pub(crate) fn bound(cluster: &Cluster, node: &str) -> Result<Self> {
        let token = cluster.token("dmvpn-agent", NAMESPACE, "", Some(node))?;
        Self::with_token(cluster, &format!("bound-{node}"), &token)
    }

    /// An account, with a token that names no node.
    pub(crate) fn account(cluster: &Cluster, account: &str) -> Result<Self> {
        Self::with_token(cluster, account, &cluster.token(account, NAMESPACE, "", None)?)
    }

    /// The agent's account, claimed by an administrator.
    pub(crate) fn impersonated() -> Self {
        Self(vec![format!("--as=system:serviceaccount:{NAMESPACE}:dmvpn-agent")])
    }

    fn with_token(cluster: &Cluster, label: &str, token: &str) -> Result<Self> {
        let file = cluster.kubeconfig_with_token(label, token)?;
        Ok(Self(vec![format!("--kubeconfig={}", file.display())]))
    }
}

/// The token that the kubelet of `node` would give to the agent there.
pub(crate) fn pod_token(cluster: &Cluster, node: &str, audience: &str) -> Result<String> {
    let pods = pods(cluster, "agent")?;
    let (pod, _) =
        pods.iter().find(|pod| pod.1 == node).with_context(|| format!("no agent on {node}: {pods:?}"))?;
    let uid = cluster.kubectl(&["get", "pod", pod, "-n", NAMESPACE, "-o", "jsonpath={.metadata.uid}"])?;
    let words = ["create", "token", "dmvpn-agent", "-n", NAMESPACE, "--bound-object-kind=Pod"];
    let mut bound = vec![format!("--bound-object-name={pod}"), format!("--bound-object-uid={uid}")];
    if !audience.is_empty() {
        bound.push(format!("--audience={audience}"));
    }
    let bound: Vec<&str> = bound.iter().map(String::as_str).collect();
    Ok(cluster.kubectl(&[&words[..], &bound].concat())?.trim().to_owned())
}

/// kubectl as somebody; how it ended.
pub(crate) fn kubectl_as(cluster: &Cluster, who: &Who, words: &[&str], input: &str) -> Result<Reply> {
    let own: Vec<&str> = who.0.iter().map(String::as_str).collect();
    cluster.output("kubectl", &[&own[..], words].concat(), input)
}

/// Names of a component's pods, and their nodes.
pub(crate) fn pods(cluster: &Cluster, component: &str) -> Result<Vec<(String, String)>> {
    let label = format!("app.kubernetes.io/name=dmvpn,app.kubernetes.io/component={component}");
    let list = cluster.kubectl_json(&["get", "pods", "-n", NAMESPACE, "-l", &label])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().context("items")?;
    Ok(items.iter().map(|pod| (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]))).collect())
}

/// Applies a status to the endpoint of a node, as agents do.
pub(crate) fn status_as(cluster: &Cluster, who: &Who, node: &str) -> Result<Reply> {
    let mut status = json!({"apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnEndpoint"});
    status["metadata"] = json!({"name": format!("branches-{node}")});
    status["status"] = json!({"state": "Up", "observedGeneration": 1, "peers": 3});
    let words = ["apply", "--server-side", "--force-conflicts", "--validate=false", "--subresource=status"];
    kubectl_as(
        cluster,
        who,
        &[&words[..], &["--field-manager=dmvpn-agent/x", "-f", "-"]].concat(),
        &status.to_string(),
    )
}

pub(crate) fn endpoint(node: &str) -> Value {
    let specimens: Vec<Value> = serde_saphyr::from_multiple(ENDPOINT).expect("the specimens");
    let mut endpoint = specimens[0].clone();
    endpoint["metadata"] = json!({"name": format!("branches-{node}")});
    endpoint["spec"]["nodeName"] = json!(node);
    if let Some(endpoint) = endpoint.as_object_mut() {
        endpoint.remove("status");
    }
    endpoint
}

/// A node as a kubelet would register it: there is none here, but pods can be bound to it.
pub(crate) fn make_node(cluster: &Cluster, name: &str) -> Result<()> {
    let labels = json!({"kubernetes.io/os": "linux", "kubernetes.io/hostname": name});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    cluster.apply(&node.to_string())?;
    let room = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
    let ready = json!([{"type": "Ready", "status": "True", "reason": "Here", "message": ""}]);
    let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": ready}});
    cluster.kubectl(&[
        "patch",
        "node",
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ])?;
    Ok(())
}
