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
    let pods = cluster.pods_of("agent")?;
    let (pod, _) =
        pods.iter().find(|pod| pod.1 == node).with_context(|| format!("no agent on {node}: {pods:?}"))?;
    cluster.pod_token("dmvpn-agent", pod, audience)
}

/// kubectl as somebody; how it ended.
pub(crate) fn kubectl_as(cluster: &Cluster, who: &Who, words: &[&str], input: &str) -> Result<Reply> {
    let own: Vec<&str> = who.0.iter().map(String::as_str).collect();
    cluster.output("kubectl", &[&own[..], words].concat(), input)
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
