//! `DmvpnEndpoint`: the rendered, secret-free configuration of one tunnel on one node.
//!
//! Spec by the operator (or by the same compile on a box without Kubernetes), status by the node's agent.
//! Everything here has been checked by `compile`: addresses and prefixes are typed.

#![allow(clippy::duplicated_attributes, reason = "printer columns share their type")]

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds;
use crate::net::Cidr;

/// Annotation of endpoints of a network with `rollout`: whether it was Ready when it got the change that it has.
pub const ROLLOUT_ANNOTATION: &str = "dmvpn.io/rollout";

/// One tunnel of one network on one node.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "dmvpn.io",
    version = "v1alpha1",
    kind = "DmvpnEndpoint",
    plural = "dmvpnendpoints",
    status = "DmvpnEndpointStatus",
    shortname = "dep",
    category = "dmvpn",
    selectable = ".spec.nodeName",
    derive = "PartialEq",
    cel,
    printcolumn(name = "Network", type_ = "string", json_path = ".spec.network"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Tunnel-IP", type_ = "string", json_path = ".status.tunnelIp"),
    printcolumn(name = "NBMA", type_ = "string", json_path = ".status.nbma"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Peers", type_ = "integer", json_path = ".status.peers"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DmvpnEndpointSpec {
    /// Name of the `DmvpnNetwork`.
    #[schemars(schema_with = "bounds::subdomain")]
    pub network: String,
    /// Node that this tunnel is on.
    #[schemars(schema_with = "bounds::subdomain")]
    pub node_name: String,
    /// UID of that Node object, so that a re-imaged node of the same name is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub node_uid: Option<String>,
    /// Whether the tunnel should be there.
    pub desired: Desired,
    /// AdminDown: the link is kept, down, and nothing is registered.
    #[serde(default)]
    pub suspend: bool,
    /// NHS, NHC or both.
    pub role: Role,
    /// DMVPN phase.
    pub phase: crate::network::Phase,
    /// Overlay prefixes that are routed.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "set"))]
    pub overlay: Vec<Cidr>,
    /// Overlay addresses of this tunnel, each with the spoke or hub it belongs to.
    #[serde(default)]
    #[schemars(
        length(max = 256),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["address"])
    )]
    pub addresses: Vec<EndpointAddress>,
    /// Prefixes behind this node.
    #[serde(default)]
    #[schemars(
        length(max = 1024),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["cidr"])
    )]
    pub subnets: Vec<EndpointSubnet>,
    /// Summaries and default routes that it tells in place of what lies inside them; on hubs only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub advertise: Vec<Cidr>,
    /// The link.
    pub tunnel: EndpointTunnel,
    /// NHRP parameters.
    pub nhrp: EndpointNhrp,
    /// Hubs to register with (empty on a hub that registers with no other).
    #[serde(default)]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub nhs: Vec<EndpointNhs>,
    /// Hubs that register with this one and speak for those behind them; on hubs only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub child_hubs: Vec<EndpointChildHub>,
    /// External spokes and their prefixes; on hubs only.
    #[serde(default)]
    #[schemars(
        length(max = 4096),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub external: Vec<EndpointExternal>,
    /// What belongs to which IKE identity; on hubs only, where IPsec tells members apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096), extend("x-kubernetes-list-type" = "atomic"))]
    pub members: Vec<EndpointMember>,
    /// Who may register; on hubs only.
    #[serde(default)]
    pub registration: EndpointRegistration,
    /// Bandwidth classes that spokes may be of; on hubs only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub qos_groups: Vec<crate::network::QosGroup>,
    /// How prefixes get into the routing tables.
    pub routing: EndpointRouting,
    /// Protection by IPsec: no clear GRE ever enters or leaves. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipsec: Option<EndpointIpsec>,
    /// Where the network is reached from a node without a tunnel of its own (role Behind).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<EndpointGateway>,
    /// Its status lists the prefixes that it leads to: other nodes reach them through it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tells_prefixes: bool,
}

/// The node that leads to the network.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointGateway {
    /// Its name.
    #[schemars(schema_with = "bounds::subdomain")]
    pub node_name: String,
    /// The `DmvpnSpoke` that makes it one.
    #[schemars(schema_with = "bounds::owner")]
    pub owner: String,
    /// Its InternalIP addresses.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "set"))]
    pub addresses: Vec<IpAddr>,
    /// Prefixes that are reached through it, the overlay aside.
    #[serde(default)]
    #[schemars(length(max = 512), extend("x-kubernetes-list-type" = "set"))]
    pub prefixes: Vec<Cidr>,
    /// Announced prefixes of pods of this node: they keep their addresses on the way there.
    #[serde(default)]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub pods: Vec<Cidr>,
}

/// Whether the tunnel should be there.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Desired {
    /// It should.
    Present,
    /// All that the agent put on the node for it is to be taken away.
    Absent,
}

/// Role of the node in the network.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Next hop server.
    Hub,
    /// Next hop client.
    Spoke,
    /// A hub that registers with another hub.
    HubSpoke,
    /// None: it reaches the network through another node of its cluster.
    Behind,
}

/// An overlay address.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointAddress {
    /// The address; /32 or /128 on the link.
    pub address: IpAddr,
    /// Owner: `DmvpnSpoke` or hub name.
    #[schemars(schema_with = "bounds::owner")]
    pub owner: String,
    /// IKE identity of the owner, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::identity")]
    pub identity: Option<String>,
    /// Bandwidth class of the owner, told to the hubs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::label")]
    pub qos_group: Option<String>,
}

/// A prefix behind the node.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSubnet {
    /// The prefix as it is on site.
    pub cidr: Cidr,
    /// What it is announced as (1:1), if different.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise_as: Option<Cidr>,
    /// Owning `DmvpnSpoke` or hub name.
    #[schemars(schema_with = "bounds::owner")]
    pub owner: String,
}

/// The tunnel link.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointTunnel {
    /// Interface name, at most 15 bytes.
    #[schemars(schema_with = "bounds::interface")]
    pub interface_name: String,
    /// Where the local underlay address comes from.
    pub source: crate::spoke::TunnelSource,
    /// Remote underlay addresses of a point-to-point tunnel; absent: multipoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<crate::network::Nbma>,
    /// Family of the underlay.
    pub underlay_family: crate::network::UnderlayFamily,
    /// GRE key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967295u32))]
    pub key: Option<u32>,
    /// How the MTU is found.
    pub mtu_policy: crate::network::MtuPolicy,
    /// IP MTU in bytes.
    #[schemars(range(min = 576, max = 9216))]
    pub mtu: u16,
    /// Whether TCP MSS is clamped.
    pub tcp_mss_policy: crate::network::TcpMssPolicy,
    /// Outer TTL.
    #[schemars(range(min = 1, max = 255))]
    pub ttl: u8,
    /// Outer DSCP.
    pub dscp_policy: crate::network::DscpPolicy,
    /// Bandwidth in kbit/s, for routing and status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000000))]
    pub bandwidth_kbps: Option<u32>,
    /// GRE keepalive of a point-to-point tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<crate::network::Keepalive>,
    /// Whether line protocol follows the NHSs.
    pub interface_state: crate::network::InterfaceState,
    /// VRF of the overlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::interface")]
    pub vrf: Option<String>,
}

/// NHRP parameters.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointNhrp {
    /// Off: plain GRE.
    pub mode: crate::network::NhrpMode,
    /// Network id, local to the node.
    #[schemars(range(min = 1, max = 4294967295u32))]
    pub network_id: u32,
    /// Holding time in seconds.
    #[schemars(range(min = 3, max = 65535))]
    pub hold_time_seconds: u16,
    /// Registration interval in seconds; absent: a third of the holding time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 21845))]
    pub registration_interval_seconds: Option<u16>,
    /// Secrets with the password; the first is sent, all are accepted.
    #[serde(default)]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub authentication_secret_refs: Vec<crate::network::SecretRef>,
    /// What a hub does when a taken address is claimed.
    pub uniqueness_policy: crate::network::UniquenessPolicy,
    /// Whether this node asks for a unique registration.
    pub registration_unique: bool,
    /// Seconds that a hub which had failed has to answer before it is used in the place of another again.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 3600))]
    pub fallback_seconds: u16,
    /// Registers with the hubs of `nhs` only, whatever hubs tell of others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fixed_hubs: bool,
    /// The hubs of the network, as this hub tells them to its spokes; on hubs only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub hub_list: Vec<EndpointNhs>,
    /// Fixed bindings.
    #[serde(default)]
    #[schemars(
        length(max = 128),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["overlayAddress"])
    )]
    pub static_mappings: Vec<EndpointMapping>,
    /// Multicast into the tunnel; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multicast: Option<crate::network::Multicast>,
    /// The node has no overlay address of its own: it asks its hubs for one in band.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_request: Option<EndpointAddressRequest>,
    /// What this hub assigns addresses from in band; absent: it assigns none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_pool: Option<EndpointAddressPool>,
}

/// Wish for overlay addresses.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointAddressRequest {
    /// Name of the spoke that has no address.
    #[schemars(schema_with = "bounds::subdomain")]
    pub owner: String,
    /// Who asks: the same identity gets the same address.
    #[schemars(length(min = 1, max = 128))]
    pub identity: String,
    /// An IPv4 address is wanted.
    pub ipv4: bool,
    /// An IPv6 address is wanted.
    pub ipv6: bool,
    /// Bandwidth class of the spoke, told to the hubs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::label")]
    pub qos_group: Option<String>,
}

/// What a hub assigns addresses from.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointAddressPool {
    /// Prefixes within the overlay.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub prefixes: Vec<Cidr>,
    /// Never assigned: reserved, or stated by a hub or spoke.
    #[serde(default)]
    #[schemars(length(max = 4096), extend("x-kubernetes-list-type" = "atomic"))]
    pub reserved: Vec<Cidr>,
    /// This hub's share of the prefixes, from 0, …
    #[schemars(range(min = 0, max = 31))]
    pub share: u16,
    /// … and how many shares there are.
    #[schemars(range(min = 1, max = 32))]
    pub shares: u16,
}

/// A fixed binding.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointMapping {
    /// Overlay address.
    pub overlay_address: IpAddr,
    /// Underlay address.
    pub nbma_address: IpAddr,
    /// Prefixes behind it.
    #[serde(default)]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub subnets: Vec<Cidr>,
}

/// A hub to register with.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointNhs {
    /// Hub name.
    #[schemars(schema_with = "bounds::label")]
    pub name: String,
    /// 0 is best.
    #[schemars(range(min = 0, max = 255))]
    pub priority: u8,
    /// Cluster number.
    #[schemars(range(min = 0, max = 10))]
    pub cluster: u8,
    /// How many hubs of its cluster are used at a time; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub max_connections: Option<u8>,
    /// Whether it hands its spokes on to others.
    #[serde(default, skip_serializing_if = "is_active")]
    pub mode: crate::network::HubMode,
    /// Overlay addresses, one a family.
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "atomic"))]
    pub overlay_addresses: Vec<IpAddr>,
    /// Underlay addresses or names.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub nbma: Vec<crate::network::Nbma>,
    /// Prefixes behind it that are routed there as they stand; only without NHRP, which tells them otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub subnets: Vec<Cidr>,
    /// IKE identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::identity")]
    pub identity: Option<String>,
}

/// A hub that registers with this one.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointChildHub {
    /// Hub name.
    #[schemars(schema_with = "bounds::label")]
    pub name: String,
    /// Overlay addresses, one a family.
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "atomic"))]
    pub overlay_addresses: Vec<IpAddr>,
    /// Underlay addresses or names: from elsewhere it counts as a spoke like any other.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub nbma: Vec<crate::network::Nbma>,
}

/// An external router.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointExternal {
    /// Name of the `DmvpnSpoke`.
    #[schemars(schema_with = "bounds::subdomain")]
    pub name: String,
    /// Its overlay addresses.
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "atomic"))]
    pub overlay_addresses: Vec<IpAddr>,
    /// Prefixes behind it.
    #[serde(default)]
    #[schemars(length(max = 128), extend("x-kubernetes-list-type" = "set"))]
    pub subnets: Vec<Cidr>,
    /// Its IKE identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::identity")]
    pub identity: Option<String>,
    /// Its bandwidth class, whatever it says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::label")]
    pub qos_group: Option<String>,
}

/// What belongs to an IKE identity.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointMember {
    /// Name of the `DmvpnSpoke` or hub.
    #[schemars(schema_with = "bounds::owner")]
    pub name: String,
    /// Its IKE identity.
    #[schemars(schema_with = "bounds::identity")]
    pub identity: String,
    /// Its overlay addresses; of a family that has none here, any that nobody else has.
    #[serde(default)]
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "atomic"))]
    pub overlay_addresses: Vec<IpAddr>,
    /// Prefixes that it may announce, or parts of.
    #[serde(default)]
    #[schemars(length(max = 128), extend("x-kubernetes-list-type" = "set"))]
    pub subnets: Vec<Cidr>,
    /// A hub, which speaks for those behind it: it may announce what it has learned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hub: bool,
}

/// Who may register.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRegistration {
    /// Policy of the network.
    #[serde(default)]
    pub policy: crate::network::RegistrationPolicy,
}

/// Protection by IPsec.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointIpsec {
    /// Secrets with the network-wide key: the first is used, all are accepted.
    #[serde(rename = "pskSecretRefs", default)]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub psk_secret_refs: Vec<crate::network::SecretRef>,
    /// Certificates, in the place of keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<EndpointCertificate>,
    /// Our own IKE identity; absent: the subject of the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::identity")]
    pub identity: Option<String>,
    /// IKE identities that lose their SAs and get no new one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::identities")]
    pub denied_identities: Vec<String>,
    /// Proposals in order of preference, in strongSwan's notation; none: the agent's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::proposals")]
    pub proposals: Vec<String>,
    /// Seconds after which an SA is replaced.
    #[schemars(range(min = 60, max = 604800))]
    pub rekey_seconds: u32,
    /// Seconds of silence after which a peer is asked whether it lives.
    #[schemars(range(min = 1, max = 3600))]
    pub dpd_seconds: u16,
    /// When ESP travels in UDP.
    #[serde(default)]
    pub udp_encapsulation: crate::network::UdpEncapsulation,
}

impl EndpointIpsec {
    /// Whether its members prove who they are; with one key for all anybody can say anything.
    pub fn tells_apart(&self) -> bool {
        self.certificate.is_some()
    }
}

/// Where certificates come from.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointCertificate {
    /// Secrets with the roots that are trusted.
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub ca_secret_refs: Vec<crate::network::SecretRef>,
    /// Secret with the node's own certificate and key.
    pub secret_ref: crate::network::CertificateSecretRef,
}

/// How prefixes get into the routing tables.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRouting {
    /// Protocol.
    pub protocol: crate::network::RoutingProtocol,
    /// Metric of prefixes learned by NHRP through a hub; shortcuts get a lower one.
    #[schemars(range(min = 2, max = 4294967295u32))]
    pub metric: u32,
}

/// Status, written by the node's agent on transitions.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DmvpnEndpointStatus {
    /// Generation that the conditions speak of; −1 before the first report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1))]
    pub observed_generation: Option<i64>,
    /// Ladder: `INTF`, `IKE`, `IPsec`, `NHRP`, `Up`, beside `AdminDown` and `Unknown` (open: a newer agent
    /// may know more).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub state: Option<String>,
    /// Overlay addresses, comma separated, for the printer column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub tunnel_ip: Option<String>,
    /// Underlay address in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub nbma: Option<String>,
    /// Number of peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000000))]
    pub peers: Option<i32>,
    /// The longest packet, in bytes, that got through the tunnel to each hub that answers, as it was measured last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub path_mtu: Option<i32>,
    /// Prefixes that it leads to, for nodes behind it (`spec.tellsPrefixes`); without default routes, 1024 at the most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "set"))]
    pub prefixes: Vec<Cidr>,
    /// External spokes of `spec.external` that are registered here; on hubs only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 4096),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub external: Vec<ExternalStatus>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::conditions")]
    pub conditions: Vec<Condition>,
}

/// An external spoke that is registered with this hub.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalStatus {
    /// Name of the `DmvpnSpoke`.
    #[schemars(schema_with = "bounds::subdomain")]
    pub name: String,
    /// Underlay address that it registered from.
    pub nbma: IpAddr,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(seconds: &u16) -> bool {
    *seconds == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_active(mode: &crate::network::HubMode) -> bool {
    *mode == crate::network::HubMode::Active
}
