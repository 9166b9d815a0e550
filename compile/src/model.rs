//! What goes into the compile and what comes out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crds::{Cidr, ConditionStatus, ConditionType, DmvpnEndpoint, DmvpnNetwork, DmvpnSpoke, Reason};
use serde::{Deserialize, Serialize};

/// All that is known.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// All networks.
    pub networks: Vec<DmvpnNetwork>,
    /// All spokes.
    pub spokes: Vec<DmvpnSpoke>,
    /// The nodes that are ours: of this cluster, or this one box.
    pub nodes: Vec<NodeFacts>,
    /// Overlay addresses allocated so far.
    pub addresses: Vec<Allocated>,
    /// Those of them that may still be on a tunnel though their owner is gone: nobody else gets them yet.
    pub in_use: Vec<Allocated>,
    /// Prefixes that tunnels here lead to, for the nodes behind them.
    pub reached: Vec<Reached>,
}

/// What matters of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Name.
    pub name: String,
    /// UID of the Node object; absent on a box.
    #[serde(default)]
    pub uid: Option<String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it is Ready; a spoke with placement OneNode goes to a node that is.
    pub ready: bool,
    /// Its InternalIP addresses.
    #[serde(default)]
    pub internal_ips: Vec<IpAddr>,
    /// Prefixes of its pods (`spec.podCIDRs`).
    #[serde(default)]
    pub pod_cidrs: Vec<Cidr>,
}

/// Prefixes that a tunnel leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Name of the network.
    pub network: String,
    /// The node.
    pub node: String,
    /// The prefixes.
    pub prefixes: Vec<Cidr>,
}

/// An overlay address that was allocated from a network's pools.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Allocated {
    /// Name of the network.
    pub network: String,
    /// The address.
    pub address: IpAddr,
    /// Whose it is: the spoke's name, or `spoke/node` for placement EveryNode.
    pub owner: String,
}

/// What follows from the inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compiled {
    /// Endpoints, by name. Owner references are the caller's business.
    pub endpoints: Vec<DmvpnEndpoint>,
    /// All allocations that are to be kept, by network and address; others are released.
    pub allocations: Vec<Allocated>,
    /// Which spoke is part of which endpoint, by spoke and node.
    pub members: Vec<Membership>,
    /// Findings of every network and spoke, by kind and name.
    pub conditions: Vec<ObjectConditions>,
}

/// A spoke's part in an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Membership {
    /// Name of the spoke.
    pub spoke: String,
    /// The node.
    pub node: String,
    /// Name of the endpoint.
    pub endpoint: String,
    /// Its own overlay addresses there; none on a hub's node, where it shares the hub's.
    pub addresses: Vec<IpAddr>,
}

/// Findings of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectConditions {
    /// `DmvpnNetwork` or `DmvpnSpoke`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// The first is always Accepted.
    pub findings: Vec<Finding>,
}

/// Something to be said in an object's conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Type of the condition.
    pub type_: ConditionType,
    /// Its status.
    pub status: ConditionStatus,
    /// Its reason.
    pub reason: Reason,
    /// Path of the field at fault, e.g. `spec.subnets[0].cidr`; empty when the whole object is meant.
    pub field: String,
    /// Cause and cure, in one line.
    pub message: String,
    /// Whether it goes away by itself when what is missing comes (a site that is elsewhere, for one); else
    /// somebody has to change something.
    pub waiting: bool,
}

impl ObjectConditions {
    /// Whether the object was accepted.
    pub fn accepted(&self) -> bool {
        self.findings.iter().any(|f| f.type_ == ConditionType::Accepted && f.status == ConditionStatus::True)
    }

    /// What is wrong with the object, each fault once: those that say Accepted=False or Ready=False of their
    /// own.
    pub fn problems(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().enumerate().filter_map(|(i, f)| {
            let told = matches!(f.type_, ConditionType::Accepted | ConditionType::Ready);
            let before = |other: &Finding| {
                (other.reason, &other.field, &other.message) == (f.reason, &f.field, &f.message)
            };
            let again = self.findings.iter().take(i).any(before);
            (f.status == ConditionStatus::False && told && !again).then_some(f)
        })
    }

    /// What somebody has to mend: [`Self::problems`] without what is only waited for. A directory of files
    /// shows these: the sites that are elsewhere are no fault of it.
    pub fn faults(&self) -> impl Iterator<Item = &Finding> {
        self.problems().filter(|f| !f.waiting)
    }

    /// Whether the only thing wrong is that something is not there yet.
    pub fn waiting(&self) -> bool {
        self.findings
            .iter()
            .any(|f| f.type_ == ConditionType::Reconciling && f.status == ConditionStatus::True)
    }
}
