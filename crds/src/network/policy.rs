//! Who may join a network and reach what: registration, groups, access, QoS, IPsec, routing, roll-out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretRef;
use crate::bounds::{self, rules};

/// Who may register with the hubs.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Registration {
    /// The policy.
    pub policy: RegistrationPolicy,
}

/// Who may register.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RegistrationPolicy {
    /// Whoever is named by a `DmvpnSpoke`.
    AllowListed,
    /// Whoever IPsec has authenticated.
    Authenticated,
    /// Whoever reaches the hub and knows the NHRP password, if there is one (zero touch).
    #[default]
    Any,
}

/// A community of spokes.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Name, for `DmvpnSpoke.spec.group` and `access`.
    #[schemars(schema_with = "bounds::label")]
    pub name: String,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub description: Option<String>,
}

/// Which groups and prefixes may reach which.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// What happens to a flow that no rule names.
    pub default_action: AccessAction,
    /// Rules; the first that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 128),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub rules: Vec<AccessRule>,
}

/// A rule of `access`.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "!has(self.ports) || size(self.ports) == 0 || self.protocol in ['TCP', 'UDP']",
    "ports need protocol TCP or UDP",
    ".protocol",
)])))]
pub struct AccessRule {
    /// Name, shown beside its counter.
    #[schemars(schema_with = "bounds::label")]
    pub name: String,
    /// Who opens the flow; absent: anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<AccessPeer>,
    /// Who is reached; absent: anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<AccessPeer>,
    /// Transport protocol.
    #[serde(default)]
    pub protocol: AccessProtocol,
    /// Destination ports; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub ports: Vec<PortRange>,
    /// What happens to the flow.
    pub action: AccessAction,
}

/// One side of a rule: any of the groups or any of the prefixes.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessPeer {
    /// Names of `groups`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::labels")]
    pub groups: Vec<String>,
    /// Prefixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::prefixes")]
    pub subnets: Vec<String>,
}

/// Transport protocol of a rule.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessProtocol {
    /// All.
    #[default]
    Any,
    /// TCP.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// ICMP and ICMPv6.
    #[serde(rename = "ICMP")]
    Icmp,
}

/// Ports of a rule.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "!has(self.endPort) || self.endPort >= self.port",
    "endPort must not be below port",
    ".endPort",
)])))]
pub struct PortRange {
    /// The port, or the first of the range.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Last port of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<u16>,
}

/// What happens to a flow.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessAction {
    /// It passes.
    Allow,
    /// It is dropped and counted.
    Deny,
}

/// Bandwidth classes of spokes.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Qos {
    /// The classes.
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub groups: Vec<QosGroup>,
}

/// A bandwidth class.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QosGroup {
    /// Name, for `DmvpnSpoke.spec.qosGroup`.
    #[schemars(schema_with = "bounds::label")]
    pub name: String,
    /// Rate towards each spoke of the class, in kbit/s.
    #[schemars(range(min = 8, max = 10000000))]
    pub rate_kbps: u32,
    /// Burst in bytes; absent: what the rate carries in 50 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1500, max = 1000000000))]
    pub burst_bytes: Option<u32>,
}

/// Protection of the tunnel by IPsec. With mode Disabled the other fields are without effect.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    (
        "self.mode == 'Disabled' || has(self.authentication)",
        "mode Required needs authentication: add type PSK with pskSecretRefs, or type Certificate",
        ".authentication",
    ),
])))]
pub struct Ipsec {
    /// Required: no clear GRE ever enters or leaves.
    pub mode: IpsecMode,
    /// How peers prove who they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// Proposals in order of preference, in strongSwan's notation; none: AES-GCM with X25519 and what is as
    /// strong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::proposals")]
    pub proposals: Vec<String>,
    /// Seconds after which an SA is replaced.
    #[schemars(range(min = 60, max = 604800))]
    pub rekey_seconds: u32,
    /// Seconds of silence after which a peer is asked whether it lives.
    #[schemars(range(min = 1, max = 3600))]
    pub dpd_seconds: u16,
    /// When ESP travels in UDP.
    pub udp_encapsulation: UdpEncapsulation,
    /// IKE identities that lose their SAs and get no new one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::identities")]
    pub denied_identities: Vec<String>,
}

impl Default for Ipsec {
    fn default() -> Self {
        Self {
            mode: IpsecMode::Disabled,
            authentication: None,
            proposals: Vec::new(),
            rekey_seconds: 3600,
            dpd_seconds: 10,
            udp_encapsulation: UdpEncapsulation::Auto,
            denied_identities: Vec::new(),
        }
    }
}

/// Whether IPsec protects the tunnel.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpsecMode {
    /// It does not.
    #[default]
    Disabled,
    /// It does; no clear GRE ever enters or leaves.
    Required,
}

/// How peers prove who they are.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    (
        "self.type != 'Certificate' || has(self.certificate)",
        "type Certificate needs certificate",
        ".certificate",
    ),
    (
        "self.type != 'PSK' || !has(self.certificate)",
        "certificate is for type Certificate: remove it or change the type",
        ".certificate",
    ),
    (
        "self.type != 'Certificate' || !has(self.pskSecretRefs) || size(self.pskSecretRefs) == 0",
        "pskSecretRefs are for type PSK: remove them or change the type",
        ".pskSecretRefs",
    ),
])))]
pub struct Authentication {
    /// Pre-shared keys or certificates.
    #[serde(rename = "type")]
    pub type_: AuthenticationType,
    /// Secrets with the network-wide key: the first is used, all are accepted. None: each spoke has its own.
    #[serde(rename = "pskSecretRefs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub psk_secret_refs: Vec<SecretRef>,
    /// Certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
}

/// How peers prove who they are.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthenticationType {
    /// Pre-shared keys.
    #[serde(rename = "PSK")]
    Psk,
    /// X.509 certificates.
    Certificate,
}

/// Where certificates come from.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "!has(self.secretRef) || !has(self.issuerRef)",
    "secretRef and issuerRef exclude each other: remove one",
    ".issuerRef",
)])))]
pub struct Certificate {
    /// Secrets with the roots that are trusted (key `ca.crt`); two during a change.
    #[serde(rename = "caSecretRefs", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub ca_secret_refs: Vec<SecretRef>,
    /// Secret with the node's own certificate and key (keys `tls.crt` and `tls.key`), for boxes: each has its own
    /// Secret by this name in its directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<CertificateSecretRef>,
    /// Issuer of the nodes' certificates; absent, and no secretRef: our own signer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
}

/// A Secret with a certificate and its key.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSecretRef {
    /// Name of the Secret.
    #[schemars(schema_with = "bounds::subdomain")]
    pub name: String,
}

/// A cert-manager issuer.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Its name.
    #[schemars(schema_with = "bounds::subdomain")]
    pub name: String,
    /// Its kind; absent: ClusterIssuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::kind")]
    pub kind: Option<String>,
    /// Its group; absent: cert-manager.io.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::subdomain")]
    pub group: Option<String>,
}

/// When ESP travels in UDP.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UdpEncapsulation {
    /// When NAT is on the path.
    #[default]
    Auto,
    /// Always, for clouds that drop ESP.
    Always,
}

/// How prefixes get into routing tables.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Routing {
    /// NHRP: spokes announce their subnets with their registration, no daemon needed. Static: only what
    /// static mappings and External spokes say. None: the tunnel carries no routes of ours.
    pub protocol: RoutingProtocol,
    /// Administrative distance for a routing daemon; absent: its own default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 255))]
    pub distance: Option<u8>,
    /// Metric of prefixes learned through a hub; shortcuts get a lower one.
    #[schemars(range(min = 2, max = 4294967295u32))]
    pub metric: u32,
    /// Prefixes that may be learned; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::prefixes")]
    pub import: Vec<String>,
    /// Prefixes that may be announced; none: all of `subnets`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "bounds::prefixes")]
    pub export: Vec<String>,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            protocol: RoutingProtocol::Nhrp,
            distance: None,
            metric: 100,
            import: Vec::new(),
            export: Vec::new(),
        }
    }
}

/// Protocol that carries prefixes.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoutingProtocol {
    /// BGP by FRR.
    #[serde(rename = "BGP")]
    Bgp,
    /// EIGRP by FRR.
    #[serde(rename = "EIGRP")]
    Eigrp,
    /// NHRP itself.
    #[default]
    #[serde(rename = "NHRP")]
    Nhrp,
    /// No routes of ours.
    None,
    /// OSPF by FRR.
    #[serde(rename = "OSPF")]
    Ospf,
    /// RIP by FRR.
    #[serde(rename = "RIP")]
    Rip,
    /// Static mappings and External spokes only.
    Static,
}

/// How changes of the network are rolled out to the nodes of a cluster: those that have it have to be Ready again first;
/// one that does not become Ready stops it. Spokes first, then hubs, then nodes whose agent does not report.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rollout {
    /// How many endpoints that got the change may be on their way to Ready at a time.
    #[schemars(range(min = 1, max = 10000))]
    pub max_unavailable: u16,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { max_unavailable: 1 }
    }
}
