//! A cluster in memory for tests of passes: writes are put into the snapshot as the API server would.

use std::collections::BTreeMap;

use crds::{DmvpnEndpoint, DmvpnEndpointStatus, DmvpnNetwork, DmvpnSpoke};
use k8s_openapi::api::core::v1::{Node, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::pass::{Op, Snapshot, Write, plan};

/// The cluster.
#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) snapshot: Snapshot,
    version: u64,
}

/// A moment; later ones for higher numbers.
pub(crate) fn at(second: i64) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(1_800_000_000 + second).unwrap())
}

pub(crate) fn read<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

impl Cluster {
    /// Two branches and a hub, nothing of ours.
    pub(crate) fn new() -> Self {
        let mut cluster = Self::default();
        cluster.snapshot.namespace = "dmvpn-system".into();
        cluster.node("hub", json!({"dmvpn.io/hub": "hub1"}));
        cluster.node("a", json!({}));
        cluster.node("b", json!({}));
        cluster
    }

    /// With the network of the quickstart, `extra` put into its spec.
    pub(crate) fn with_network(extra: Value) -> Self {
        let mut cluster = Self::new();
        cluster.network("net", extra);
        cluster
    }

    pub(crate) fn node(&mut self, name: &str, labels: Value) {
        let mut node: Node = read(json!({
            "metadata": {"name": name, "labels": labels},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}
        }));
        self.stamp(&mut node);
        self.snapshot.nodes.retain(|n| n.name_any() != name);
        self.snapshot.nodes.push(node);
    }

    pub(crate) fn network(&mut self, name: &str, extra: Value) {
        let mut spec = json!({
            "phase": "Phase3", "overlay": ["10.255.0.0/16"],
            "hubs": [{"name": "hub1", "overlayAddresses": ["10.255.0.1"], "nbma": [{"address": "192.0.2.2"}]}],
        });
        merge(&mut spec, extra);
        let mut network: DmvpnNetwork = read(json!({
            "apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnNetwork", "metadata": {"name": name}, "spec": spec
        }));
        self.stamp(&mut network);
        if let Some(old) = self.snapshot.networks.iter().find(|n| n.name_any() == name) {
            network.metadata.uid.clone_from(&old.metadata.uid);
            network.metadata.generation = old.metadata.generation.map(|g| g + 1);
            network.status.clone_from(&old.status);
        }
        self.snapshot.networks.retain(|n| n.name_any() != name);
        self.snapshot.networks.push(network);
    }

    /// A spoke on a node; `extra` put into its spec.
    pub(crate) fn spoke(&mut self, name: &str, node: &str, extra: Value) {
        let mut spec =
            json!({"networkRef": {"name": "net"}, "placement": {"type": "Node", "nodeName": node}});
        merge(&mut spec, extra);
        let mut spoke: DmvpnSpoke = read(json!({
            "apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnSpoke", "metadata": {"name": name}, "spec": spec
        }));
        self.stamp(&mut spoke);
        if let Some(old) = self.snapshot.spokes.iter().find(|s| s.name_any() == name) {
            spoke.metadata.generation = old.metadata.generation.map(|g| g + 1);
            spoke.status.clone_from(&old.status);
        }
        self.snapshot.spokes.retain(|s| s.name_any() != name);
        self.snapshot.spokes.push(spoke);
    }

    pub(crate) fn secret(&mut self, name: &str, network: &str) {
        let mut secret: Secret = read(
            json!({"metadata": {"name": name, "labels": {"dmvpn.io/network": network}}, "data": {"password": "cHc="}}),
        );
        self.stamp(&mut secret);
        self.snapshot.secrets.retain(|s| s.name_any() != name);
        self.snapshot.secrets.push(secret);
    }

    pub(crate) fn endpoint(&self, name: &str) -> &DmvpnEndpoint {
        let found = self.snapshot.endpoints.iter().find(|e| e.name_any() == name);
        found.unwrap_or_else(|| panic!("no endpoint {name} among {:?}", self.endpoints()))
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .snapshot
            .endpoints
            .iter()
            .map(|e| format!("{} {:?}", e.name_any(), e.spec.desired))
            .collect();
        names.sort();
        names
    }

    /// What the agent of an endpoint says.
    pub(crate) fn report(&mut self, name: &str, state: &str, ready: &str, reason: &str) {
        let endpoint = self.snapshot.endpoints.iter_mut().find(|e| e.name_any() == name).unwrap();
        let condition = Condition {
            type_: "Ready".into(),
            status: ready.into(),
            reason: reason.into(),
            message: String::new(),
            observed_generation: endpoint.metadata.generation,
            last_transition_time: at(0),
        };
        endpoint.status = Some(DmvpnEndpointStatus {
            observed_generation: endpoint.metadata.generation,
            state: Some(state.into()),
            conditions: vec![condition],
            ..DmvpnEndpointStatus::default()
        });
    }

    /// Passes and carries out until nothing is left to write; what was written, as `op Kind/name`.
    pub(crate) fn settle(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        for round in 0..10 {
            let writes = plan(&self.snapshot, &at(round));
            if writes.is_empty() {
                return done;
            }
            for write in writes {
                done.push(format!("{} {}/{}", label(&write.op), write.kind, write.name));
                self.carry_out(write);
            }
        }
        panic!("it never comes to rest: {done:?}");
    }

    /// Passes once without carrying out.
    pub(crate) fn plan(&self) -> Vec<Write> {
        plan(&self.snapshot, &at(99))
    }

    /// A condition as `Status Reason message`.
    pub(crate) fn condition(&self, object: &str, type_: &str) -> String {
        let (kind, name) = object.split_once('/').unwrap();
        let list = match kind {
            "DmvpnNetwork" => {
                let found = self.snapshot.networks.iter().find(|n| n.name_any() == name);
                found.and_then(|n| n.status.as_ref()).map(|s| s.conditions.clone())
            }
            _ => {
                let found = self.snapshot.spokes.iter().find(|n| n.name_any() == name);
                found.and_then(|n| n.status.as_ref()).map(|s| s.conditions.clone())
            }
        };
        let list = list.unwrap_or_else(|| panic!("{object} has no status"));
        let found = list.iter().find(|c| c.type_ == type_);
        found
            .map(|c| format!("{} {} {}", c.status, c.reason, c.message).trim().to_owned())
            .unwrap_or_default()
    }

    fn carry_out(&mut self, write: Write) {
        match write.op {
            Op::CreateAddress(mut address) => {
                self.stamp(&mut *address);
                self.snapshot.addresses.push(*address);
            }
            Op::DeleteAddress { .. } => self.snapshot.addresses.retain(|a| a.name_any() != write.name),
            Op::ApplyEndpoint(mut new) => {
                self.stamp(&mut *new);
                let old = self.snapshot.endpoints.iter().position(|e| e.name_any() == write.name);
                if let Some(old) = old.map(|at| self.snapshot.endpoints.swap_remove(at)) {
                    let step = i64::from(old.spec != new.spec);
                    new.metadata.generation = old.metadata.generation.map(|g| g + step);
                    new.metadata.uid = old.metadata.uid;
                    new.metadata.deletion_timestamp = old.metadata.deletion_timestamp;
                    new.status = old.status;
                }
                self.snapshot.endpoints.push(*new);
            }
            Op::AskAbsent => {
                for bad in self.snapshot.bad_endpoints.iter_mut().filter(|e| e.name() == write.name) {
                    bad.spec["desired"] = json!("Absent");
                    bad.metadata.generation = bad.metadata.generation.map(|g| g + 1);
                }
            }
            Op::LetGo { finalizers, .. } => {
                assert_eq!(finalizers, Vec::<String>::new());
                self.snapshot.bad_endpoints.retain(|e| e.name() != write.name);
                self.snapshot.endpoints.retain(|e| e.name_any() != write.name);
            }
            Op::Status(status) => self.status(write.kind, &write.name, status),
        }
    }

    fn status(&mut self, kind: &str, name: &str, status: Value) {
        match kind {
            "DmvpnNetwork" => {
                for network in self.snapshot.networks.iter_mut().filter(|n| n.name_any() == name) {
                    network.status = Some(read(status.clone()));
                }
                for bad in self.snapshot.bad_networks.iter_mut().filter(|n| n.name() == name) {
                    bad.status.clone_from(&status);
                }
            }
            "DmvpnSpoke" => {
                for spoke in self.snapshot.spokes.iter_mut().filter(|n| n.name_any() == name) {
                    spoke.status = Some(read(status.clone()));
                }
                for bad in self.snapshot.bad_spokes.iter_mut().filter(|n| n.name() == name) {
                    bad.status.clone_from(&status);
                }
            }
            _ => {
                for endpoint in self.snapshot.endpoints.iter_mut().filter(|n| n.name_any() == name) {
                    let new: DmvpnEndpointStatus = read(status.clone());
                    let old = endpoint.status.get_or_insert_default();
                    old.state = new.state;
                    old.conditions = new.conditions;
                }
            }
        }
    }

    fn stamp<K: Resource>(&mut self, object: &mut K) {
        self.version += 1;
        let meta = object.meta_mut();
        meta.uid.get_or_insert_with(|| format!("uid-{}", self.version));
        meta.resource_version = Some(self.version.to_string());
        meta.generation.get_or_insert(1);
        let stamp = at(i64::try_from(self.version).unwrap());
        meta.creation_timestamp.get_or_insert(stamp);
    }
}

fn label(op: &Op) -> &'static str {
    match op {
        Op::CreateAddress(_) => "create",
        Op::ApplyEndpoint(_) => "apply",
        Op::AskAbsent => "ask",
        Op::LetGo { .. } => "letgo",
        Op::DeleteAddress { .. } => "delete",
        Op::Status(_) => "status",
    }
}

fn merge(spec: &mut Value, extra: Value) {
    let extra: BTreeMap<String, Value> = read(extra);
    for (key, value) in extra {
        spec[key] = value;
    }
}
