//! What the engine knows, for people, for status and for a restart. Ordered by address.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::counters::Counters;
use crate::wire::{HubEntry, Software};

/// All tables at one moment. Ages and remaining times are in milliseconds, so that a snapshot can be carried over a
/// restart ([`super::Engine::restore`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// NHSs of the configuration (client side).
    pub nhs: Vec<NhsState>,
    /// Overlay host → NBMA.
    pub bindings: Vec<BindingState>,
    /// Prefix → overlay next hop.
    pub shortcuts: Vec<ShortcutState>,
    /// Prefixes that an NHS told us.
    pub announced: Vec<AnnouncedState>,
    /// Lists of hubs that NHSs told us.
    #[serde(default)]
    pub hub_lists: Vec<HubListState>,
    /// Overlay addresses that NHSs assigned to us.
    #[serde(default)]
    pub assigned: Vec<IpAddr>,
    /// Overlay addresses that we assigned.
    #[serde(default)]
    pub leases: Vec<LeaseState>,
    /// Who has which address, as IPsec said.
    #[serde(default)]
    pub claims: Vec<ClaimState>,
    /// Packets by type and direction, drops by reason.
    pub counters: Counters,
    /// Next request id (RFC 2332 §5.2.3 wants ids to survive a restart).
    pub next_request_id: u32,
}

/// How far a client got with an NHS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NhsPhase {
    /// No local NBMA address or no NBMA address of the NHS.
    #[default]
    Down,
    /// Not asked, since its cluster has enough (Cisco: DOWN).
    Waiting,
    /// Registration sent, no answer yet or no longer (Cisco: PROBE).
    Expecting,
    /// It answers (Cisco: UP).
    Responding,
}

/// One NHS as the client sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NhsState {
    /// Name from the configuration.
    pub name: String,
    /// Overlay address, when known.
    pub overlay: Option<IpAddr>,
    /// NBMA address in use.
    pub nbma: Option<IpAddr>,
    /// 0 is best.
    pub priority: u8,
    /// Its cluster; 0: none.
    #[serde(default)]
    pub cluster: u8,
    /// Told by other hubs, not configured.
    #[serde(default)]
    pub learned: bool,
    /// How far we got.
    pub phase: NhsPhase,
    /// The client can do without it: its cluster has enough others that answer, or it is draining.
    #[serde(default)]
    pub spare: bool,
    /// Milliseconds until it is used in the place of another again, since it had failed.
    #[serde(default)]
    pub fallback_ms: Option<u64>,
    /// Why it is not `Responding`, for people; empty when it is.
    pub reason: String,
    /// Machine-readable form of `reason` in CamelCase (`NoAnswer`, `AuthenticationFailed`, `AddressTaken`,
    /// `AdministrativelyProhibited`, `NoUnderlayAddress`, `Standby`, `Draining`, …); empty when `Responding`.
    pub reason_code: String,
    /// Milliseconds since the phase last changed.
    pub since_ms: u64,
    /// Our address as the NHS saw it, when it is not the one that we claim (NAT).
    pub public_nbma: Option<IpAddr>,
    /// Registration requests sent.
    pub requests_sent: u64,
    /// Requests that got no answer or a refusal.
    pub requests_failed: u64,
    /// Replies received.
    pub replies_received: u64,
    /// Milliseconds since the last reply.
    pub last_reply_ms: Option<u64>,
    /// Id of the last request.
    pub request_id: u32,
    /// Version and capabilities, if it says them (0x3803).
    #[serde(default)]
    pub software: Option<Software>,
}

/// Where a binding came from; a later variant never outranks an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// Our own address.
    Local,
    /// Configured.
    Static,
    /// A configured NHS.
    Nhs,
    /// Registered with us.
    Registered,
    /// Learned from a resolution reply.
    Resolved,
    /// The source of somebody's resolution request.
    Requester,
}

/// One binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingState {
    /// Overlay host.
    pub overlay: IpAddr,
    /// Where GRE packets go.
    pub nbma: IpAddr,
    /// What the host itself claims, if different (NAT).
    pub claimed_nbma: Option<IpAddr>,
    /// Where the binding came from.
    pub source: Source,
    /// Registered with the unique flag.
    pub unique: bool,
    /// Milliseconds since it was made.
    pub age_ms: u64,
    /// Milliseconds until it ends; `None`: never.
    pub expires_ms: Option<u64>,
    /// Holding time in seconds as it was told to us.
    pub holding_time: u16,
    /// Prefixes announced with (or configured for) this host.
    pub prefixes: Vec<IpNet>,
    /// Who was told of this binding.
    pub requesters: Vec<RequesterState>,
    /// The peer knows our prefix extension (0x3800).
    pub extended: bool,
    /// It reads lists whose entries have next hops of their own.
    #[serde(default)]
    pub next_hops: bool,
    /// MTU from its CIE, 0 if none.
    pub mtu: u16,
    /// Version and capabilities, if it says them (0x3803).
    #[serde(default)]
    pub software: Option<Software>,
    /// Its bandwidth class, if it says one (0x3802).
    #[serde(default)]
    pub group: Option<String>,
}

/// Somebody who was told of a binding, and is to hear when it no longer holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequesterState {
    /// Its overlay address.
    pub overlay: IpAddr,
    /// What it asked for.
    pub asked: IpAddr,
    /// Where its request came from.
    pub nbma: IpAddr,
    /// Id of the request.
    pub request_id: u32,
    /// What it was told about.
    pub prefix: IpNet,
    /// Milliseconds until it has forgotten it by itself.
    pub left_ms: u64,
}

/// State of a shortcut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShortcutPhase {
    /// Asked, no answer yet; traffic goes by the hub.
    Incomplete,
    /// Installed.
    Up,
    /// Refused or unanswered; traffic goes by the hub until it is tried again.
    Negative,
}

/// One shortcut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShortcutState {
    /// What it covers.
    pub prefix: IpNet,
    /// Egress overlay address; `None` while incomplete or negative.
    pub via: Option<IpAddr>,
    /// State.
    pub phase: ShortcutPhase,
    /// Why it is negative; empty otherwise.
    pub reason: String,
    /// Milliseconds since it was made.
    pub age_ms: u64,
    /// Milliseconds until it ends.
    pub expires_ms: u64,
    /// Traffic used it when last asked.
    pub used: bool,
}

/// A prefix that an NHS told us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedState {
    /// The prefix.
    pub prefix: IpNet,
    /// The NHS's overlay address: the next hop, unless it names another.
    pub nhs: IpAddr,
    /// The next hop that it names (Phase 2).
    #[serde(default)]
    pub next_hop: Option<IpAddr>,
    /// Milliseconds since it was told.
    pub age_ms: u64,
}

/// The hubs of the network, as one of them told us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubListState {
    /// Name of the NHS that told it.
    pub teller: String,
    /// Generation of the list.
    pub generation: u32,
    /// The hubs.
    pub entries: Vec<HubEntry>,
}

/// An overlay address that we assigned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseState {
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub identity: String,
    /// Milliseconds for which it is kept, unless its client is heard of.
    pub expires_ms: u64,
}

/// An address that is an identity's, as IPsec authenticated it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimState {
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub identity: String,
    /// Milliseconds for which it is kept, unless it is registered again.
    pub expires_ms: u64,
}
