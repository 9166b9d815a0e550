//! `DmvpnSpoke`: one site, or one class of sites, of a network.

#![allow(clippy::duplicated_attributes, reason = "printer columns share their type")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds::{self, rules};
use crate::network::SecretRef;

/// A site of a network: where its tunnel is and which prefixes are behind it.
///
/// A spoke that is placed on a hub's node names the prefixes behind the hub.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "dmvpn.io",
    version = "v1alpha1",
    kind = "DmvpnSpoke",
    plural = "dmvpnspokes",
    status = "DmvpnSpokeStatus",
    shortname = "dspoke",
    category = "dmvpn",
    derive = "PartialEq",
    cel,
    printcolumn(name = "Network", type_ = "string", json_path = ".spec.networkRef.name"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    (
        "self.placement.type != 'EveryNode' || !has(self.overlayAddresses) || size(self.overlayAddresses) == 0",
        "overlayAddresses cannot be shared by several nodes: use placement.type Node or OneNode, or addressing.pools",
        ".overlayAddresses",
    ),
    (
        "self.placement.type != 'EveryNode' || !has(self.subnets) || size(self.subnets) == 0",
        "subnets belong to one site: use placement.type Node or OneNode",
        ".subnets",
    ),
    (
        "self.placement.type != 'External' || !has(self.tunnelSource)",
        "tunnelSource is for tunnels of ours: remove it for placement.type External",
        ".tunnelSource",
    ),
    (
        "!has(self.gatewayFor) || self.placement.type in ['Node', 'OneNode']",
        "one node is the gateway of others: use placement.type Node or OneNode",
        ".gatewayFor",
    ),
    (
        "self.placement.type != 'External' || !has(self.podCIDRPolicy) || self.podCIDRPolicy == 'None'",
        "a router that is not ours has no pods: state its subnets, and podCIDRPolicy None",
        ".podCIDRPolicy",
    ),
])))]
pub struct DmvpnSpokeSpec {
    /// Network that it belongs to. Cannot be changed: addresses and identities belong to the network.
    #[schemars(extend("x-kubernetes-validations" = rules(&[(
        "self == oldSelf",
        "networkRef is immutable: delete the DmvpnSpoke and create it in the other network",
        "",
    )])))]
    pub network_ref: NetworkRef,
    /// Where its tunnel is.
    pub placement: Placement,
    /// Where the local underlay address comes from; absent: from the default route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_source: Option<TunnelSource>,
    /// Tunnel addresses, one a family; none: allocated from the network's pools, and kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::overlay_addresses")]
    pub overlay_addresses: Vec<String>,
    /// Prefixes behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 128),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["cidr"])
    )]
    pub subnets: Vec<Subnet>,
    /// Hubs of the network that it registers with (those of its region); none: with all that are Active.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::labels")]
    pub hubs: Vec<String>,
    /// Whether the pod prefixes (`spec.podCIDRs`) of its nodes, and of those that it is the gateway of, are announced.
    #[serde(default, rename = "podCIDRPolicy")]
    pub pod_cidr_policy: PodCidrPolicy,
    /// Nodes of this cluster that reach the network through its node; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_for: Option<GatewayFor>,
    /// IKE identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::identity")]
    pub identity: Option<String>,
    /// Secrets with its own pre-shared key: the first is used, all are accepted.
    #[serde(rename = "pskSecretRefs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub psk_secret_refs: Vec<SecretRef>,
    /// Community it belongs to, one of the network's `groups`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::label")]
    pub group: Option<String>,
    /// Bandwidth class, one of the network's `qos.groups`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::label")]
    pub qos_group: Option<String>,
    /// NHRP settings of its own.
    #[serde(default)]
    pub nhrp: SpokeNhrp,
    /// Shuts its tunnel down (`shutdown`) without removing it.
    #[serde(default)]
    pub suspend: bool,
}

/// Reference to a `DmvpnNetwork`.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkRef {
    /// Its name.
    #[schemars(schema_with = "bounds::subdomain")]
    pub name: String,
}

/// Where a spoke's tunnel is.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    (
        "(self.type == 'Node') == has(self.nodeName)",
        "type Node needs nodeName, and no other type has it",
        ".nodeName",
    ),
    (
        "(self.type in ['EveryNode', 'OneNode']) == has(self.nodeSelector)",
        "types EveryNode and OneNode need nodeSelector, and no other type has it",
        ".nodeSelector",
    ),
])))]
pub struct Placement {
    /// How nodes are chosen.
    #[serde(rename = "type")]
    pub type_: PlacementType,
    /// The node, for type Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::subdomain")]
    pub node_name: Option<String>,
    /// Labels that nodes must have, all of them; for types EveryNode and OneNode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::node_selector")]
    pub node_selector: Option<BTreeMap<String, String>>,
}

/// How nodes are chosen.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlacementType {
    /// One node, by name.
    Node,
    /// Each node that the selector matches is a spoke of its own.
    EveryNode,
    /// One of the nodes that the selector matches.
    OneNode,
    /// A router that is not ours: an allow-list entry, and the owner of its `subnets`.
    External,
}

/// Where the local underlay address comes from.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    (
        "(self.from == 'Interface') == has(self.interface)",
        "from Interface needs interface, and no other has it",
        ".interface",
    ),
    (
        "(self.from == 'Address') ? has(self.address) : (!has(self.address) || self.from == 'NodeInternalIP')",
        "from Address needs address, and no other has it",
        ".address",
    ),
])))]
pub struct TunnelSource {
    /// Where it comes from.
    pub from: TunnelSourceFrom,
    /// Interface whose first address is used, and followed when it changes; for from Interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::interface")]
    pub interface: Option<String>,
    /// The address, for from Address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::address")]
    pub address: Option<String>,
    /// VRF of the underlay (front door); absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::interface")]
    pub vrf: Option<String>,
}

/// Where the local underlay address comes from.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelSourceFrom {
    /// The source address that the default route would use.
    #[default]
    DefaultRoute,
    /// The InternalIP of the Node object (in a rendered endpoint, `address` holds it).
    NodeInternalIP,
    /// An interface.
    Interface,
    /// A fixed address of the node.
    Address,
}

/// A prefix behind a spoke.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subnet {
    /// The prefix as it is on site.
    #[schemars(schema_with = "bounds::prefix")]
    pub cidr: String,
    /// What it is announced as, mapped 1:1; absent: as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::prefix")]
    pub advertise_as: Option<String>,
}

/// Nodes that reach the network through a spoke's node: they have no tunnel of their own, but routes to it.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayFor {
    /// Labels that nodes must have, all of them; none: every node of the cluster. A node with a tunnel of its own is never
    /// meant.
    #[schemars(schema_with = "bounds::node_labels")]
    pub node_selector: BTreeMap<String, String>,
}

/// Whether the pod prefixes of the node are announced.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodCidrPolicy {
    /// They are not.
    #[default]
    None,
    /// They are.
    Announce,
}

/// NHRP settings of a spoke.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpokeNhrp {
    /// Asks hubs for a unique registration: with a hub that follows RFC 2332 the address is then bound to
    /// this underlay address until the holding time is over. Leave it off where the underlay address may
    /// change.
    pub registration_unique: bool,
}

/// Status, written by the operator: conditions and counts; single values only where one node is meant.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DmvpnSpokeStatus {
    /// Generation that the conditions speak of; -1 before the first report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1))]
    pub observed_generation: Option<i64>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::conditions")]
    pub conditions: Vec<Condition>,
    /// Tunnel addresses, comma separated, where one node is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub address: Option<String>,
    /// The node, where one is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::subdomain")]
    pub node_name: Option<String>,
    /// Nodes that it is placed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000000))]
    pub nodes: Option<i32>,
    /// Those of them whose tunnel is Up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000000))]
    pub ready_nodes: Option<i32>,
}
