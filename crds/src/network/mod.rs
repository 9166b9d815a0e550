//! `DmvpnNetwork`: one overlay network, the same YAML in every cluster and on every box. Sections that have
//! many fields are in the modules beside this one.

#![allow(clippy::duplicated_attributes, reason = "printer columns share their type")]

mod policy;
mod tunnel;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use policy::{
    Access, AccessAction, AccessPeer, AccessProtocol, AccessRule, Authentication, AuthenticationType,
    Certificate, CertificateSecretRef, Group, Ipsec, IpsecMode, IssuerRef, PortRange, Qos, QosGroup,
    Registration, RegistrationPolicy, Rollout, Routing, RoutingProtocol, UdpEncapsulation,
};
pub use tunnel::{
    DscpPolicy, InterfaceState, Keepalive, MtuPolicy, Multicast, MulticastMode, Nhrp, NhrpMode,
    StaticMapping, TcpMssPolicy, Tunnel, UnderlayFamily, UniquenessPolicy,
};

use crate::bounds::{self, rules};
use crate::spoke::TunnelSource;

/// A DMVPN overlay network: its hubs, its tunnel, NHRP, IPsec and routing settings.
///
/// The same object is applied in every cluster and laid on every box. What runs where follows from node
/// labels.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "dmvpn.io",
    version = "v1alpha1",
    kind = "DmvpnNetwork",
    plural = "dmvpnnetworks",
    status = "DmvpnNetworkStatus",
    shortname = "dnet",
    category = "dmvpn",
    derive = "PartialEq",
    cel,
    printcolumn(name = "Phase", type_ = "string", json_path = ".spec.phase"),
    printcolumn(name = "Hubs", type_ = "integer", json_path = ".status.hubs"),
    printcolumn(name = "Spokes", type_ = "integer", json_path = ".status.spokes"),
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
        "self.nhrp.mode != 'Disabled' || self.phase == 'Phase1'",
        "nhrp.mode Disabled is plain point-to-point GRE: set phase to Phase1",
        ".phase",
    ),
    (
        "!has(self.tunnel.keepalive) || self.phase == 'Phase1'",
        "tunnel.keepalive is for point-to-point tunnels: set phase to Phase1 or remove it",
        ".tunnel.keepalive",
    ),
    (
        "!has(self.tunnel.keepalive) || self.ipsec.mode == 'Disabled'",
        "tunnel.keepalive cannot be used together with IPsec: use ipsec.dpdSeconds instead",
        ".tunnel.keepalive",
    ),
    (
        "self.registration.policy != 'Authenticated' || self.ipsec.mode == 'Required'",
        "registration.policy Authenticated needs identities: set ipsec.mode to Required, or use AllowListed or Any",
        ".registration.policy",
    ),
    (
        "self.hubs.all(h, !has(h.cluster) || (has(self.clusters) && self.clusters.exists(c, c.name == h.cluster)))",
        "hubs[].cluster must be the name of an entry of clusters",
        ".hubs",
    ),
    (
        "self.hubs.all(h, !has(h.registersTo) || h.registersTo.all(r, r != h.name && self.hubs.exists(o, o.name == r)))",
        "hubs[].registersTo must name other hubs of this network",
        ".hubs",
    ),
])))]
pub struct DmvpnNetworkSpec {
    /// DMVPN phase: Phase1 sends everything through the hub, Phase2 resolves next hops, Phase3 redirects and
    /// installs shortcuts.
    pub phase: Phase,
    /// Prefixes of the overlay that are routed into the tunnel; all tunnel addresses lie in them.
    #[schemars(schema_with = "bounds::overlay")]
    pub overlay: Vec<String>,
    /// What this cluster may allocate addresses from.
    #[serde(default, skip_serializing_if = "Addressing::is_empty")]
    pub addressing: Addressing,
    /// Next hop servers.
    #[serde(default)]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub hubs: Vec<Hub>,
    /// Groups of hubs of which a spoke uses only some at a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 10),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub clusters: Vec<Cluster>,
    /// Seconds that a better hub must have answered before spokes go back to it; 0: at once.
    #[serde(default)]
    #[schemars(range(min = 0, max = 3600))]
    pub fallback_seconds: u16,
    /// The tunnel link.
    #[serde(default)]
    pub tunnel: Tunnel,
    /// NHRP (RFC 2332).
    #[serde(default)]
    pub nhrp: Nhrp,
    /// Who may register with the hubs.
    #[serde(default)]
    pub registration: Registration,
    /// Communities of spokes, for `access`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub groups: Vec<Group>,
    /// Which groups and prefixes may reach which; absent: everything may reach everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Bandwidth classes of spokes, shaped at the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<Qos>,
    /// Protection of the tunnel by IPsec.
    #[serde(default)]
    pub ipsec: Ipsec,
    /// How prefixes get into routing tables.
    #[serde(default)]
    pub routing: Routing,
    /// How changes of the network are rolled out to the nodes of a cluster; absent: to all at once. A box is one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Shuts the tunnels of this network down (`shutdown`) without removing them.
    #[serde(default)]
    pub suspend: bool,
}

/// DMVPN phase: who talks to whom directly.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// All traffic through the hub; point-to-point tunnels on spokes.
    Phase1,
    /// Spokes resolve each other's tunnel addresses.
    Phase2,
    /// The hub redirects, spokes install shortcuts.
    Phase3,
}

/// What this cluster may allocate addresses from.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Addressing {
    /// Prefixes within `overlay`. Spokes without `overlayAddresses` get one address a family from them. None:
    /// addresses are static.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::pools")]
    pub pools: Vec<String>,
    /// Addresses and prefixes that are never allocated, nor accepted as `overlayAddresses` of a spoke.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::reserved")]
    pub reserved: Vec<String>,
    /// Who gives addresses out of the pools: each cluster and box to its own spokes (they need pools of their own), or
    /// the hubs, in band, to every spoke that asks (all may have the same manifest). A hub has a share of the pools by
    /// its position in `hubs`.
    #[serde(default, skip_serializing_if = "AssignedBy::is_cluster")]
    pub assigned_by: AssignedBy,
}

impl Addressing {
    fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.reserved.is_empty() && self.assigned_by.is_cluster()
    }
}

/// Who gives addresses out of the pools.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssignedBy {
    /// Each cluster and box to its own spokes.
    #[default]
    Cluster,
    /// The hubs, in band.
    Hub,
}

impl AssignedBy {
    fn is_cluster(&self) -> bool {
        *self == Self::Cluster
    }
}

/// A next hop server.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hub {
    /// Name, also the value of the node label `dmvpn.io/hub`.
    #[schemars(schema_with = "bounds::label")]
    pub name: String,
    /// Preference: 0 is best.
    #[serde(default)]
    #[schemars(range(min = 0, max = 255))]
    pub priority: u8,
    /// Name of the entry of `clusters` that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::label")]
    pub cluster: Option<String>,
    /// Its tunnel addresses, one a family.
    #[serde(default)]
    #[schemars(schema_with = "bounds::overlay_addresses")]
    pub overlay_addresses: Vec<String>,
    /// Its underlay addresses or names as spokes reach them, tried in order: behind NAT or a load balancer,
    /// the outer ones.
    #[serde(default)]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub nbma: Vec<Nbma>,
    /// Labels of the node it runs on; absent: `dmvpn.io/hub: NAME`. When no node here has them, the hub is
    /// elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::node_selector")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Where its own underlay address comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_source: Option<TunnelSource>,
    /// IKE identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::identity")]
    pub identity: Option<String>,
    /// Whether spokes use it.
    #[serde(default)]
    pub mode: HubMode,
    /// Hubs that it registers with itself, as a regional hub with central ones: it tells them what is behind it, and
    /// its spokes what they tell. Two may name each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::labels")]
    pub registers_to: Vec<String>,
    /// Summaries and default routes that it announces in place of all that lies inside them. A hub that registers with
    /// others announces them there too, but for default routes and what has the whole overlay in it: parts of the
    /// overlay are for that alone. Traffic for what is in a summary and is nowhere ends here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::prefixes")]
    pub advertise: Vec<String>,
}

/// Whether spokes use a hub.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HubMode {
    /// They do.
    #[default]
    Active,
    /// It hands its spokes on, then none is left.
    Draining,
    /// It does not run.
    Disabled,
}

/// An underlay address or name: exactly one of the two.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "has(self.address) != has(self.hostname)",
    "give exactly one of address and hostname",
    ".address",
)])))]
pub struct Nbma {
    /// Underlay address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::address")]
    pub address: Option<String>,
    /// Name that resolves to underlay addresses; resolved again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::hostname")]
    pub hostname: Option<String>,
}

/// A group of hubs of which a spoke uses only some at a time.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Name, for `hubs[].cluster`.
    #[schemars(schema_with = "bounds::label")]
    pub name: String,
    /// How many hubs of it a spoke registers with at a time.
    #[schemars(range(min = 1, max = 32))]
    pub max_connections: u8,
}

/// A Secret in the operator's namespace that carries the label `dmvpn.io/network` with the network's name.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(schema_with = "bounds::subdomain")]
    pub name: String,
    /// Key in its data; absent: `password` for NHRP, `psk` for IPsec, `ca.crt` for roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::secret_key")]
    pub key: Option<String>,
}

/// Status, written by the operator: conditions and counts only.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DmvpnNetworkStatus {
    /// Generation that the conditions speak of; -1 before the first report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1))]
    pub observed_generation: Option<i64>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::conditions")]
    pub conditions: Vec<Condition>,
    /// Hubs of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub hubs: Option<i32>,
    /// Declared spokes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000000))]
    pub spokes: Option<i32>,
    /// Declared spokes that are Ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000000))]
    pub ready_spokes: Option<i32>,
    /// Endpoints in this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000000))]
    pub endpoints: Option<i32>,
}
