//! The types that the agent's socket answers with. Addresses and prefixes, never text made for people.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Everything that one agent shows (`GET /v1/report`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the node.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// One entry a tunnel interface, by name.
    pub tunnels: Vec<Tunnel>,
    /// Objects that could not be used, with the cause and the cure.
    pub problems: Vec<Problem>,
}

/// An object or file that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `DmvpnSpoke/west-lan` or a file's name.
    pub object: String,
    /// Field path, e.g. `spec.subnets[0].cidr`; empty when the whole object is meant.
    pub field: String,
    /// Reason in CamelCase.
    pub reason: String,
    /// Cause and cure.
    pub message: String,
}

/// Role of this node in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Next hop server.
    Hub,
    /// Next hop client.
    Spoke,
    /// Both (a hub that registers with another).
    HubSpoke,
}

/// The tunnel ladder, lowest first: INTF → IKE → IPsec → NHRP → Up, beside AdminDown and Unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// Nobody knows (an agent that does not answer, charon away).
    Unknown,
    /// Suspended by its configuration.
    AdminDown,
    /// The interface is missing, down or without an underlay address.
    #[serde(rename = "INTF")]
    Intf,
    /// Waiting for IKE.
    #[serde(rename = "IKE")]
    Ike,
    /// Waiting for the IPsec SA.
    #[serde(rename = "IPsec")]
    Ipsec,
    /// Waiting for NHRP.
    #[serde(rename = "NHRP")]
    Nhrp,
    /// Up.
    Up,
}

/// One tunnel interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Name of the `DmvpnNetwork`.
    pub network: String,
    /// Interface name.
    pub interface: String,
    /// Interface index, 0 when it does not exist.
    pub index: u32,
    /// Role of this node.
    pub role: Role,
    /// The worst state of the configured NHSs; a hub's own does not depend on its spokes.
    pub state: State,
    /// Reason in CamelCase when the state is not Up; else empty.
    pub reason: String,
    /// Cause and cure, for people; empty when Up.
    pub message: String,
    /// Seconds since the state changed.
    pub state_seconds: u64,
    /// Administratively up.
    pub admin_up: bool,
    /// Line protocol.
    pub line_up: bool,
    /// Overlay addresses.
    pub addresses: Vec<IpNet>,
    /// VRF of the overlay; empty: none.
    pub vrf: String,
    /// Underlay (front door) VRF; empty: none.
    pub tunnel_vrf: String,
    /// Tunnel source address.
    pub source: Option<IpAddr>,
    /// Tunnel destination of a point-to-point tunnel; `None`: multipoint.
    pub destination: Option<IpAddr>,
    /// GRE key.
    pub key: Option<u32>,
    /// IP MTU in bytes.
    pub mtu: u32,
    /// The longest packet that gets through the tunnel to each hub, as measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u32>,
    /// Configured bandwidth in kbit/s.
    pub bandwidth_kbps: Option<u32>,
    /// NHRP network id.
    pub network_id: u32,
    /// NHRP holding time in seconds.
    pub holding_time: u16,
    /// Name of the IPsec profile; empty: no protection.
    pub protection: String,
    /// What keeps packets from passing through the host, with the cure; empty: nothing that is known of.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hindrance: String,
    /// What is to be borne in mind of how it is configured; empty: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remark: String,
    /// Keepalives of a point-to-point tunnel; absent: none are sent or answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Keepalive>,
    /// Interface state control (`if-state nhrp`).
    pub interface_state_control: bool,
    /// Configured NHSs.
    pub nhs: Vec<Nhs>,
    /// NHRP peers: one entry per (NBMA address, overlay next hop, target).
    pub peers: Vec<Peer>,
    /// The NHRP cache.
    pub cache: Vec<CacheEntry>,
    /// NHRP packets.
    pub traffic: Traffic,
}

/// Keepalives of a point-to-point tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keepalive {
    /// Seconds between those that are sent; `None`: none are, only the other end's are answered.
    pub period_seconds: Option<u16>,
    /// How many in a row have to be missed before the line is down.
    pub retries: Option<u8>,
    /// Sent.
    pub sent: u64,
    /// Of those, come back.
    pub returned: u64,
    /// The other end's that went back to it.
    pub answered: u64,
}

/// How an NHS answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NhsStatus {
    /// `E`: expecting replies.
    Expecting,
    /// `R`: responding.
    Responding,
    /// `W`: waiting (not tried: its cluster has enough, or there is nothing to try it with).
    Waiting,
}

/// A configured NHS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nhs {
    /// Name in the `DmvpnNetwork`.
    pub name: String,
    /// Overlay address.
    pub address: Option<IpAddr>,
    /// NBMA address in use.
    pub nbma: Option<IpAddr>,
    /// 0 is best.
    pub priority: u8,
    /// Cluster number.
    pub cluster: u8,
    /// Told by other hubs, not configured.
    #[serde(default)]
    pub learned: bool,
    /// How it answers.
    pub status: NhsStatus,
    /// Its place on the ladder.
    pub state: State,
    /// Reason in CamelCase when not Up.
    pub reason: String,
    /// Cause and cure, for people.
    pub message: String,
    /// Seconds since `state` changed.
    pub state_seconds: u64,
    /// Registration requests sent.
    pub requests_sent: u64,
    /// Requests without an answer, or refused.
    pub requests_failed: u64,
    /// Replies received.
    pub replies_received: u64,
    /// Seconds since the last reply.
    pub last_reply_seconds: Option<u64>,
    /// Id of the last request.
    pub request_id: u32,
}

/// Attributes of a peer (Cisco's `Attrb` column).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// `S`.
    pub is_static: bool,
    /// `D`.
    pub dynamic: bool,
    /// `I`.
    pub incomplete: bool,
    /// `N`: behind NAT.
    pub nated: bool,
    /// `L`.
    pub local: bool,
    /// `X`: no socket.
    pub no_socket: bool,
    /// `T1`: a route was installed.
    pub route_installed: bool,
    /// `T2`: next-hop override.
    pub nexthop_override: bool,
    /// `I2`: temporary.
    pub temporary: bool,
}

/// A peer of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Where GRE goes; `None`: not known yet.
    pub nbma: Option<IpAddr>,
    /// What the peer itself claims, if different (NAT).
    pub claimed_nbma: Option<IpAddr>,
    /// Overlay next hop.
    pub address: IpAddr,
    /// Target network of this entry (the host itself, or a prefix behind it).
    pub target: IpNet,
    /// Its place on the ladder.
    pub state: State,
    /// Seconds in this state; `None`: never was up.
    pub up_down_seconds: Option<u64>,
    /// Attributes.
    pub attributes: Attributes,
    /// Its bandwidth class, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
}

/// Bandwidth class of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Rate that what is sent there is shaped to, in kbit/s; `None`: it is not shaped, since the network has no such
    /// class.
    pub rate_kbps: Option<u32>,
}

/// Type of a cache entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheKind {
    /// Configured.
    Static,
    /// Learned.
    Dynamic,
    /// Asked for, no answer yet.
    Incomplete,
    /// Refused: not asked again until it expires.
    Negative,
}

/// An entry of the NHRP cache (`show ip nhrp`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// Target.
    pub target: IpNet,
    /// Overlay next hop.
    pub via: IpAddr,
    /// Type.
    pub kind: CacheKind,
    /// Flags, in Cisco's words: `unique`, `registered`, `used`, `nhop`, `rib`, `router`, `local`, `implicit`, ….
    pub flags: Vec<String>,
    /// NBMA address.
    pub nbma: Option<IpAddr>,
    /// Claimed NBMA address, if different.
    pub claimed_nbma: Option<IpAddr>,
    /// Seconds since it was made.
    pub created_seconds: u64,
    /// Seconds until it expires; `None`: never.
    pub expire_seconds: Option<u64>,
    /// CIE preference.
    pub preference: u8,
    /// Who was told: (overlay address, request id).
    pub requesters: Vec<(IpAddr, u32)>,
    /// Why it is negative; empty otherwise.
    #[serde(default)]
    pub reason: String,
    /// What runs there, if it says so (an agent of ours does).
    #[serde(default)]
    pub software: Option<Software>,
    /// Its bandwidth class, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
}

/// Version and capabilities of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Software {
    /// Version, e.g. `0.1.0`.
    pub version: String,
    /// Names of what it can do; what this version has no name for as a number.
    pub capabilities: Vec<String>,
}

/// NHRP packets of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Sent, by packet type (name as in `show ip nhrp traffic`, e.g. `Registration Request`).
    pub sent: Vec<(String, u64)>,
    /// Received, by packet type.
    pub received: Vec<(String, u64)>,
    /// Forwarded, by packet type.
    pub forwarded: Vec<(String, u64)>,
    /// Dropped, by reason.
    pub dropped: Vec<(String, u64)>,
}
