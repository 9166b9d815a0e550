//! One pass: what is in the stores → what is to be written. Pure: the same snapshot gives the same writes, and one where
//! everything is as it should be gives none.
//!
//! ```text
//!   Snapshot ─► compile ─► hold: what a refused object gave last stays in force
//!                             │ wanted endpoints
//!                          rollout: those whose turn it is not keep what they have
//!                             │
//!              addresses ◄────┼────► endpoints: apply, take away, let go
//!                             └────► status: conditions and counts
//! ```

mod addresses;
mod endpoints;
mod hold;
mod rollout;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use compile::{Allocated, Compiled, Inputs, NodeFacts, Reached};
use crds::{Cidr, DmvpnAddress, DmvpnEndpoint, DmvpnNetwork, DmvpnSpoke};
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::{Resource, ResourceExt};
use serde_json::Value;

use crate::credentials::{self, Credentials};
use crate::decode::Undecodable;
use crate::events::Note;
use crate::status;

pub(crate) use endpoints::{absent, is_absent, let_go, take_away_unread};
pub(crate) use hold::Endpoints;
pub(crate) use rollout::Rollout;

/// What was in the stores at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The operator's namespace.
    pub namespace: String,
    /// Networks that decode.
    pub networks: Vec<DmvpnNetwork>,
    /// Those that do not.
    pub bad_networks: Vec<Undecodable>,
    /// Spokes that decode.
    pub spokes: Vec<DmvpnSpoke>,
    /// Those that do not.
    pub bad_spokes: Vec<Undecodable>,
    /// Endpoints that decode.
    pub endpoints: Vec<DmvpnEndpoint>,
    /// Those that do not.
    pub bad_endpoints: Vec<Undecodable>,
    /// Allocated addresses.
    pub addresses: Vec<DmvpnAddress>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Secrets with the label, of the operator's namespace.
    pub secrets: Vec<Secret>,
    /// Agents' pods; `None`: they are not looked at.
    pub pods: Option<Vec<Pod>>,
    /// Nodes whose agent does not report.
    pub silent: BTreeSet<String>,
    /// Endpoints whose agent may still take their last change back.
    pub unproven: BTreeSet<String>,
}

/// Something to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Kind of the object.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its UID in the snapshot; `None`: it was not there.
    pub uid: Option<String>,
    /// Its version in the snapshot; `None`: it was not there.
    pub base: Option<String>,
    /// What is done to it.
    pub op: Op,
    /// What is told about it once it is written.
    pub notes: Vec<Note>,
}

/// What is done to an object. The order is that of carrying out: what others need comes first.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Created; that it exists already is an answer too.
    CreateAddress(Box<DmvpnAddress>),
    /// Server-side apply of metadata and spec of an endpoint.
    ApplyEndpoint(Box<DmvpnEndpoint>),
    /// An endpoint that does not decode is to be Absent; the rest of it stays as it is.
    AskAbsent,
    /// Our finalizer goes, then the endpoint.
    LetGo {
        /// UID, so that no other object of that name is meant.
        uid: String,
        /// Finalizers of others, which stay.
        finalizers: Vec<String>,
        /// Whether it still has to be deleted.
        delete: bool,
    },
    /// An address is released.
    DeleteAddress {
        /// UID, so that no other object of that name is meant.
        uid: String,
    },
    /// Server-side apply of the status.
    Status(Value),
}

impl Op {
    /// Writes of one stage are independent of each other.
    pub fn stage(&self) -> u8 {
        match self {
            Self::CreateAddress(_) => 0,
            Self::ApplyEndpoint(_) | Self::AskAbsent => 1,
            Self::LetGo { .. } => 2,
            Self::DeleteAddress { .. } => 3,
            Self::Status(_) => 4,
        }
    }
}

/// An endpoint that should be there.
pub(crate) struct Wanted {
    /// As it should be; the annotation with the revision included.
    pub endpoint: DmvpnEndpoint,
    /// It is left as it is, because the network is refused.
    pub held: bool,
}

/// What the parts of a pass look at.
pub(crate) struct Facts<'a> {
    pub snapshot: &'a Snapshot,
    pub compiled: Compiled,
    /// Networks that are there and not on their way out.
    pub networks: BTreeMap<&'a str, &'a DmvpnNetwork>,
    /// Endpoints that are there, by name.
    pub endpoints: BTreeMap<&'a str, &'a DmvpnEndpoint>,
    /// UID of each node.
    pub nodes: BTreeMap<&'a str, &'a str>,
    pub credentials: BTreeMap<&'a str, Credentials>,
    /// Networks and spokes (`Kind/name`) that are not accepted or do not decode.
    pub refused: BTreeSet<String>,
}

/// What is to be written, in the order in which it is carried out.
pub fn plan(snapshot: &Snapshot, now: &Time) -> Vec<Write> {
    let facts = Facts::new(snapshot);
    let (mut wanted, kept) = hold::wanted(&facts);
    let rollouts = rollout::gate(&facts, &mut wanted, now);
    let mut writes = addresses::plan(&facts);
    writes.extend(endpoints::plan(&facts, &wanted, now));
    writes.extend(status::plan(&facts, (&wanted, &kept, &rollouts), now));
    writes.sort_by(|a, b| (a.op.stage(), a.kind, &a.name).cmp(&(b.op.stage(), b.kind, &b.name)));
    writes
}

impl<'a> Facts<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let networks: BTreeMap<&str, &DmvpnNetwork> =
            snapshot.networks.iter().filter(|n| stays(*n)).map(|n| (name(n), n)).collect();
        let allocated: Vec<Allocated> = snapshot.addresses.iter().map(allocated).collect();
        let inputs = Inputs {
            networks: networks.values().map(|n| (*n).clone()).collect(),
            spokes: snapshot.spokes.iter().filter(|s| stays(*s)).map(without_status).collect(),
            nodes: snapshot.nodes.iter().map(node_facts).collect(),
            addresses: allocated.clone(),
            in_use: allocated,
            reached: snapshot.endpoints.iter().filter_map(reached).collect(),
        };
        let compiled = compile::compile(&inputs);
        let secrets: BTreeMap<&str, &Secret> = snapshot.secrets.iter().map(|s| (name(s), s)).collect();
        let credentials = networks
            .iter()
            .map(|(name, network)| {
                (*name, credentials::resolve(name, &network.spec, &snapshot.namespace, &secrets))
            })
            .collect();
        let refused = compiled
            .conditions
            .iter()
            .filter(|c| !c.accepted())
            .map(|c| format!("{}/{}", c.kind, c.name))
            .chain(snapshot.bad_networks.iter().map(|b| format!("DmvpnNetwork/{}", b.name())))
            .chain(snapshot.bad_spokes.iter().map(|b| format!("DmvpnSpoke/{}", b.name())))
            .collect();
        Self {
            endpoints: snapshot.endpoints.iter().map(|e| (name(e), e)).collect(),
            nodes: snapshot
                .nodes
                .iter()
                .map(|n| (name(n), n.metadata.uid.as_deref().unwrap_or("")))
                .collect(),
            snapshot,
            compiled,
            networks,
            credentials,
            refused,
        }
    }

    /// Whether the node of an endpoint is still the one that it was made for.
    pub(crate) fn node_is_there(&self, endpoint: &DmvpnEndpoint) -> bool {
        self.node_has(&endpoint.spec.node_name, endpoint.spec.node_uid.as_deref())
    }

    /// Whether a node is there, and is the one of that UID.
    pub(crate) fn node_has(&self, node: &str, made_for: Option<&str>) -> bool {
        self.nodes.get(node).is_some_and(|uid| made_for.is_none_or(|made_for| made_for == *uid))
    }

    pub(crate) fn network_refused(&self, network: &str) -> bool {
        self.refused.contains(&format!("DmvpnNetwork/{network}"))
    }

    pub(crate) fn spoke_refused(&self, spoke: &str) -> bool {
        self.refused.contains(&format!("DmvpnSpoke/{spoke}"))
    }
}

/// What the compile reads of a spoke: of ten thousand the status is half.
fn without_status(spoke: &DmvpnSpoke) -> DmvpnSpoke {
    let (metadata, spec) = (spoke.metadata.clone(), spoke.spec.clone());
    DmvpnSpoke { metadata, spec, status: None }
}

/// An object's name; the API gives every one of them one.
pub(crate) fn name<K: Resource>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// Whether nobody has asked for its deletion.
pub(crate) fn stays<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_none()
}

fn allocated(object: &DmvpnAddress) -> Allocated {
    let spec = &object.spec;
    Allocated { network: spec.network.clone(), address: spec.address, owner: spec.owner.clone() }
}

fn node_facts(node: &Node) -> NodeFacts {
    let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    NodeFacts {
        name: node.name_any(),
        uid: node.metadata.uid.clone(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        ready: crate::silence::node_ready(node),
        internal_ips: addresses
            .filter(|a| a.type_ == "InternalIP")
            .filter_map(|a| a.address.parse().ok())
            .collect(),
        pod_cidrs: pod_cidrs(node),
    }
}

fn pod_cidrs(node: &Node) -> Vec<Cidr> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all =
        spec.pod_cidrs.iter().flatten().chain(spec.pod_cidr.iter().filter(|_| spec.pod_cidrs.is_none()));
    all.filter_map(|text| text.parse().ok()).collect()
}

/// What the agent of a gateway tells of it.
fn reached(endpoint: &DmvpnEndpoint) -> Option<Reached> {
    let prefixes = endpoint.status.as_ref()?.prefixes.clone();
    let spec = &endpoint.spec;
    spec.tells_prefixes.then(|| Reached {
        network: spec.network.clone(),
        node: spec.node_name.clone(),
        prefixes,
    })
}

/// Reference to the network as the owner of what is made for it.
fn owned_by(network: &DmvpnNetwork) -> Option<Vec<OwnerReference>> {
    network.controller_owner_ref(&()).map(|reference| vec![reference])
}
