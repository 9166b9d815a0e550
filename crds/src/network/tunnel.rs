//! The tunnel link and NHRP of a network.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretRef;
use crate::bounds::{self, rules};

/// The tunnel link.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tunnel {
    /// Family of the underlay.
    pub underlay_family: UnderlayFamily,
    /// GRE key, the same on all members; absent: none. Two networks on one tunnel source need different keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4294967295u32), extend("x-kubernetes-validations" = rules(&[(
        "self >= 0 && self <= 4294967295",
        "key must be 0-4294967295",
        "",
    )])))]
    pub key: Option<u32>,
    /// How the MTU is found.
    pub mtu_policy: MtuPolicy,
    /// IP MTU of the tunnel in bytes; an IPv6 overlay needs 1280.
    #[schemars(range(min = 576, max = 9216))]
    pub mtu: u16,
    /// Whether the MSS of TCP connections through the tunnel is clamped to its MTU.
    #[serde(rename = "tcpMSSPolicy")]
    pub tcp_mss_policy: TcpMssPolicy,
    /// TTL of outer packets; never inherited from inner ones (OSPF's TTL of 1 would die).
    #[schemars(range(min = 1, max = 255))]
    pub ttl: u8,
    /// DSCP of outer packets.
    pub dscp_policy: DscpPolicy,
    /// Bandwidth in kbit/s, for routing protocols and status; nothing is shaped to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000000))]
    pub bandwidth_kbps: Option<u32>,
    /// GRE keepalive of point-to-point tunnels (Phase1); absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Keepalive>,
    /// Interface name; absent: `dm-` and the network's name, shortened with a hash if that is too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::interface")]
    pub interface_name: Option<String>,
    /// Whether line protocol follows the hubs.
    pub interface_state: InterfaceState,
    /// VRF of the overlay; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::interface")]
    pub vrf: Option<String>,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            underlay_family: UnderlayFamily::IPv4,
            key: None,
            mtu_policy: MtuPolicy::Fixed,
            mtu: 1400,
            tcp_mss_policy: TcpMssPolicy::Clamp,
            ttl: 255,
            dscp_policy: DscpPolicy::Clear,
            bandwidth_kbps: None,
            keepalive: None,
            interface_name: None,
            interface_state: InterfaceState::Always,
            vrf: None,
        }
    }
}

/// Family of the underlay.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnderlayFamily {
    /// GRE over IPv4.
    #[default]
    IPv4,
    /// GRE over IPv6.
    IPv6,
}

/// How the MTU is found.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MtuPolicy {
    /// `mtu` as it is written.
    #[default]
    Fixed,
    /// Underlay MTU less the encapsulation, at most `mtu`.
    Auto,
}

/// Whether TCP MSS is clamped.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TcpMssPolicy {
    /// To the tunnel's MTU, in both directions.
    #[default]
    Clamp,
    /// Left alone.
    None,
}

/// DSCP of outer packets.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DscpPolicy {
    /// Zero; nothing about the inner packet shows.
    #[default]
    Clear,
    /// Copied from the inner packet.
    Copy,
}

/// GRE keepalive.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Keepalive {
    /// Seconds between keepalives.
    #[schemars(range(min = 1, max = 32767))]
    pub period_seconds: u16,
    /// How many are missed before the tunnel is down.
    #[schemars(range(min = 1, max = 255))]
    pub retries: u8,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { period_seconds: 10, retries: 3 }
    }
}

/// Whether line protocol follows the hubs.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum InterfaceState {
    /// Up while it is not shut down.
    #[default]
    Always,
    /// Down while no hub answers (`if-state nhrp`).
    FollowNHS,
}

/// NHRP (RFC 2332).
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "!has(self.registrationIntervalSeconds) || self.registrationIntervalSeconds * 3 <= self.holdTimeSeconds",
    "holdTimeSeconds must be at least three times registrationIntervalSeconds: raise it or shorten the interval",
    ".holdTimeSeconds",
)])))]
pub struct Nhrp {
    /// Off: plain point-to-point GRE (Phase1).
    pub mode: NhrpMode,
    /// Network id, local to each node; tunnels of one node with the same id are one NHRP network. Absent:
    /// derived from the network's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4294967295u32))]
    pub network_id: Option<u32>,
    /// Seconds that others may use what we tell them (RFC 2332 section 5.2.0.1).
    #[schemars(range(min = 3, max = 65535))]
    pub hold_time_seconds: u16,
    /// Seconds between registrations; absent: a third of the holding time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 21845))]
    pub registration_interval_seconds: Option<u16>,
    /// Secrets with the clear-text password: the first is sent, all are accepted. None: no authentication.
    #[serde(rename = "authenticationSecretRefs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub authentication_secret_refs: Vec<SecretRef>,
    /// What a hub does when an address that is taken is claimed from elsewhere.
    pub uniqueness_policy: UniquenessPolicy,
    /// Bindings of peers that do not register.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 128),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["overlayAddress"])
    )]
    pub static_mappings: Vec<StaticMapping>,
    /// Multicast into the tunnel; absent: as the routing protocol needs it (Dynamic for OSPF, EIGRP and RIP, else
    /// None).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multicast: Option<Multicast>,
}

impl Default for Nhrp {
    fn default() -> Self {
        Self {
            mode: NhrpMode::Enabled,
            network_id: None,
            hold_time_seconds: 600,
            registration_interval_seconds: None,
            authentication_secret_refs: Vec::new(),
            uniqueness_policy: UniquenessPolicy::Identity,
            static_mappings: Vec::new(),
            multicast: None,
        }
    }
}

/// Whether NHRP is spoken.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NhrpMode {
    /// It is.
    #[default]
    Enabled,
    /// Plain GRE.
    Disabled,
}

/// What a hub does when an address that is taken is claimed from elsewhere.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UniquenessPolicy {
    /// The same identity may move; without IPsec the old underlay address is probed and loses only if it is
    /// silent.
    #[default]
    Identity,
    /// Another underlay address is refused with code 14 (RFC 2332, Cisco).
    #[serde(rename = "NBMA")]
    Nbma,
    /// The last one wins.
    None,
}

/// A binding of a peer that does not register.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StaticMapping {
    /// Its overlay address.
    #[schemars(schema_with = "bounds::address")]
    pub overlay_address: String,
    /// Its underlay address.
    #[schemars(schema_with = "bounds::address")]
    pub nbma_address: String,
    /// Prefixes behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::prefixes")]
    pub subnets: Vec<String>,
}

/// Multicast into the tunnel: each packet goes to each peer as a packet of its own.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Multicast {
    /// Who gets it.
    pub mode: MulticastMode,
    /// Groups besides 224.0.0.0/24 and ff02::/16. Hubs also relay these from one spoke to the others; a link-local
    /// group is relayed only if it is named here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::groups")]
    pub groups: Vec<String>,
}

/// Who gets multicast.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MulticastMode {
    /// Whoever is registered: a hub sends to its spokes, a spoke to the hubs that answer it.
    Dynamic,
    /// The hubs that answer; hubs send to nobody.
    #[serde(rename = "NHS")]
    Nhs,
    /// The peers of `staticMappings`, registered or not.
    Static,
    /// Nobody.
    None,
}
