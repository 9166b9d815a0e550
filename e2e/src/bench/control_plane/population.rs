//! The objects of a large cluster: nodes as kubelets would register them, the pods of their agents, and spokes, the same
//! number on each node.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use crds::{DmvpnEndpoint, DmvpnNetwork, DmvpnSpoke};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster::product::NAMESPACE;

/// Requests on their way at a time.
pub(super) const AT_ONCE: usize = 32;
/// Label of the pods that stand for agents.
pub(super) const AGENT: &str = "dmvpn.bench/agent";
/// The network.
pub(super) const NETWORK: &str = "crowd";
/// The Secret with its password.
pub(super) const SECRET: &str = "crowd-nhrp";

/// Name of a node; number 0 is the hub.
pub(super) fn node(number: u32) -> String {
    format!("node-{number:05}")
}

/// Name of the pod of its agent.
pub(super) fn pod(number: u32) -> String {
    format!("agent-{number:05}")
}

/// Name of its endpoint.
pub(super) fn endpoint(number: u32) -> String {
    format!("{NETWORK}-{}", node(number))
}

/// A node's address; `turn` makes another one.
pub(super) fn address(number: u32, turn: u8) -> Ipv4Addr {
    let [_, a, b, c] = number.to_be_bytes();
    Ipv4Addr::from([100, 64 | (turn << 4) | (a & 0xf), b, c])
}

/// The network: one hub, on node 0, a password, and addresses for everybody.
fn network() -> Value {
    json!({"apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnNetwork", "metadata": {"name": NETWORK}, "spec": {
        "phase": "Phase3", "overlay": ["10.192.0.0/10"], "addressing": {"pools": ["10.200.0.0/16"]},
        "hubs": [{"name": "hub1", "overlayAddresses": ["10.192.0.1"], "nbma": [{"address": "192.0.2.1"}]}],
        "tunnel": {"key": 7}, "nhrp": {"networkId": 7, "authenticationSecretRefs": [{"name": SECRET}]},
    }})
}

/// A spoke; `number` counts all of them.
pub(super) fn spoke(number: u32, on: u32) -> Value {
    let [_, a, b, c] = number.to_be_bytes();
    let subnet = format!("172.{}.{b}.{c}/32", 16 + (a & 0xf));
    json!({"apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnSpoke", "metadata": {"name": spoke_name(number)}, "spec": {
        "networkRef": {"name": NETWORK}, "placement": {"type": "Node", "nodeName": node(on)},
        "tunnelSource": {"from": "NodeInternalIP"}, "subnets": [{"cidr": subnet}],
    }})
}

/// Name of a spoke.
pub(super) fn spoke_name(number: u32) -> String {
    format!("spoke-{number:06}")
}

/// The API as an administrator has it.
#[derive(Clone)]
pub(super) struct Admin(pub(super) Client);

impl Admin {
    /// The network and its Secret.
    pub(super) async fn network(&self, password: &str) -> Result<()> {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"password": password},
            "metadata": {"name": SECRET, "namespace": NAMESPACE, "labels": {"dmvpn.io/network": NETWORK}}});
        let secrets = Api::<k8s_openapi::api::core::v1::Secret>::namespaced(self.0.clone(), NAMESPACE);
        let params = PatchParams::apply("bench").force();
        secrets.patch(SECRET, &params, &Patch::Apply(secret)).await.context("the network's Secret")?;
        let networks = Api::<DmvpnNetwork>::all(self.0.clone());
        networks.patch(NETWORK, &params, &Patch::Apply(network())).await.context("the network")?;
        Ok(())
    }

    /// Nodes with the pods of their agents.
    pub(super) async fn nodes(&self, numbers: std::ops::Range<u32>) -> Result<()> {
        let all = futures::stream::iter(numbers).map(|number| self.node(number)).buffer_unordered(AT_ONCE);
        all.collect::<Vec<_>>().await.into_iter().collect()
    }

    async fn node(&self, number: u32) -> Result<()> {
        let name = node(number);
        let mut labels = json!({"kubernetes.io/os": "linux", "kubernetes.io/hostname": name});
        if number == 0 {
            labels["dmvpn.io/hub"] = "hub1".into();
        }
        let nodes = Api::<Node>::all(self.0.clone());
        create(
            &nodes,
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}),
        )
        .await?;
        self.readdress(number, 0).await?;
        let pods = Api::<Pod>::namespaced(self.0.clone(), NAMESPACE);
        let spec = json!({"nodeName": name, "serviceAccountName": "dmvpn-agent",
            "containers": [{"name": "agent", "image": "agent"}]});
        let metadata = json!({"name": pod(number), "labels": {AGENT: "yes"}});
        create(&pods, json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await?;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let merge = Patch::Merge(ready);
        pods.patch_status(&pod(number), &PatchParams::default(), &merge).await.context("a pod's status")?;
        Ok(())
    }

    /// Gives a node an address, and makes it Ready.
    pub(super) async fn readdress(&self, number: u32, turn: u8) -> Result<()> {
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": address(number, turn)}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "Here", "message": ""}],
        }});
        let nodes = Api::<Node>::all(self.0.clone());
        let (name, merge) = (node(number), Patch::Merge(status));
        nodes.patch_status(&name, &PatchParams::default(), &merge).await.context("a node's status")?;
        Ok(())
    }

    /// Spokes, `each` on a node: on nodes 1 to `nodes`-1, since the hub's node has the hub.
    pub(super) async fn spokes(
        &self,
        numbers: std::ops::Range<u32>,
        nodes: std::ops::Range<u32>,
    ) -> Result<()> {
        let width = nodes.len().max(1);
        let api = Api::<DmvpnSpoke>::all(self.0.clone());
        let all = futures::stream::iter(numbers.enumerate()).map(|(i, number)| {
            let on = nodes.start + u32::try_from(i % width).unwrap_or(0);
            create(&api, spoke(number, on))
        });
        all.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.into_iter().collect()
    }

    /// Whether the operator says that all `spokes` and `endpoints` are Ready.
    pub(super) async fn converged(&self, spokes: u32, endpoints: u32) -> Result<()> {
        let network = Api::<DmvpnNetwork>::all(self.0.clone()).get(NETWORK).await?;
        let status = network.status.unwrap_or_default();
        let ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        let counts = (status.ready_spokes, status.endpoints);
        let wanted = (i32::try_from(spokes).ok(), i32::try_from(endpoints).ok());
        ensure!(ready && counts == wanted, "Ready {ready}, spokes and endpoints {counts:?} of {wanted:?}");
        let spokes = Api::<DmvpnSpoke>::all(self.0.clone()).list(&kube::api::ListParams::default()).await?;
        let open = spokes.items.iter().filter(|spoke| !is_ready(spoke)).count();
        ensure!(open == 0, "{open} spokes are not told Ready yet");
        Ok(())
    }

    /// All endpoints.
    pub(super) async fn endpoints(&self) -> Result<Vec<DmvpnEndpoint>> {
        let all = Api::<DmvpnEndpoint>::all(self.0.clone());
        Ok(all.list(&kube::api::ListParams::default()).await?.items)
    }
}

/// Whether a spoke is told Ready in its present version.
pub(super) fn is_ready(spoke: &DmvpnSpoke) -> bool {
    let Some(status) = &spoke.status else { return false };
    status.observed_generation == spoke.metadata.generation
        && status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Creates one object.
pub(super) async fn create<K>(api: &Api<K>, object: Value) -> Result<()>
where
    K: kube::Resource + Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let what = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let object = serde_json::from_value(object).with_context(|| format!("object {what}"))?;
    api.create(&PostParams::default(), &object).await.with_context(|| format!("create {what}"))?;
    Ok(())
}
