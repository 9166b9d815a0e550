//! What is to be said of an endpoint.

use crds::endpoint::ExternalStatus;
use crds::network::NhrpMode;
use crds::{Cidr, ConditionStatus, ConditionType, DmvpnEndpointStatus, Reason, STATE_ABSENT};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use view::State;

use crate::ladder::Rung;
use crate::source::DesiredEndpoint;
use crate::source::kubernetes::{Credentials, Seen};
use crate::summary::{Summary, TunnelSummary};

/// Conditions that the agent writes; others are somebody else's.
pub const OWNED: [ConditionType; 9] = [
    ConditionType::Ready,
    ConditionType::Reconciling,
    ConditionType::Stalled,
    ConditionType::InterfaceReady,
    ConditionType::IpsecReady,
    ConditionType::Authenticated,
    ConditionType::Registered,
    ConditionType::ForwardingReady,
    ConditionType::CredentialsReady,
];

/// The longest message that is written, in characters.
const MESSAGE: usize = 1024;

/// A status without times.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Generation of the object that it speaks of.
    pub generation: i64,
    /// State.
    pub state: String,
    /// Overlay addresses.
    pub tunnel_ip: Option<String>,
    /// Underlay address.
    pub nbma: Option<String>,
    /// Peers.
    pub peers: Option<i32>,
    /// Path MTU; `None`: not measured (yet), what was measured before stands.
    pub path_mtu: Option<i32>,
    /// External spokes that are registered.
    pub external: Vec<ExternalStatus>,
    /// Prefixes that it leads to, where they are asked for.
    pub prefixes: Vec<Cidr>,
    /// Conditions: type, status, reason, message.
    pub conditions: Vec<(ConditionType, ConditionStatus, Reason, String)>,
}

/// What is to be said of an object; `None`: the agent has not come to it yet.
pub fn verdict(seen: &Seen, summary: &Summary) -> Option<Verdict> {
    let from = |e: &&DesiredEndpoint| e.origin.as_ref().is_some_and(|o| o.object == seen.name);
    if let Some(removal) = summary.desired.removals.iter().find(from) {
        let current = removal.origin.as_ref().is_some_and(|o| o.generation == seen.generation);
        if current && seen.bad.is_none() {
            return Some(removed(seen, summary, removal));
        }
    }
    let endpoint = summary.desired.endpoints.iter().find(from);
    let tunnel = endpoint.and_then(|e| summary.tunnels.get(&e.spec.network));
    if let Some(bad) = &seen.bad {
        return Some(refused(seen, bad.reason, &bad.message, tunnel));
    }
    let endpoint = endpoint?;
    let current = endpoint.origin.as_ref().is_some_and(|o| o.generation == seen.generation);
    // What was just asked for is there in a moment, or it is said why not.
    if !current || seen.credentials == Credentials::Asked {
        return None;
    }
    if let Some(why) = summary.rolled_back.get(&endpoint.spec.network) {
        return Some(refused(seen, Reason::RolledBack, why, tunnel));
    }
    let mut verdict = Verdict::new(seen.generation);
    let rung = match tunnel {
        Some(tunnel) if !tunnel.leaving => {
            verdict.describe(tunnel);
            tunnel.rung.clone()
        }
        _ => Rung::starting("its predecessor is still being taken away"),
    };
    verdict.state = state(rung.state);
    let reason = reason(&rung);
    verdict.summarise(rung.state == State::Up, reason, &rung.message);
    verdict.interface(tunnel.filter(|t| !t.leaving));
    verdict.protection(endpoint, tunnel.filter(|t| !t.leaving), &rung);
    verdict.forwarding(tunnel.filter(|t| !t.leaving && t.interface.is_none()));
    if !endpoint.spec.nhs.is_empty() && endpoint.spec.nhrp.mode == NhrpMode::Enabled {
        let registered = status(rung.state == State::Up);
        verdict.add(ConditionType::Registered, registered, reason, &rung.message);
    }
    verdict.credentials(&seen.credentials);
    Some(verdict)
}

/// Its latest version is not in force; what is in force goes on.
fn refused(seen: &Seen, reason: Reason, message: &str, in_force: Option<&TunnelSummary>) -> Verdict {
    let mut verdict = Verdict::new(seen.generation);
    verdict.state = state(in_force.map_or(State::Intf, |tunnel| tunnel.rung.state));
    if let Some(tunnel) = in_force {
        verdict.describe(tunnel);
    }
    verdict.summarise(false, reason, message);
    verdict.interface(in_force);
    verdict.credentials(&seen.credentials);
    verdict
}

/// It is to be taken away.
fn removed(seen: &Seen, summary: &Summary, removal: &DesiredEndpoint) -> Verdict {
    let mut verdict = Verdict::new(seen.generation);
    let tunnel = summary.tunnels.get(&removal.spec.network);
    let gone = summary.gone.contains(&removal.spec.network);
    let reason = if gone { Reason::Removed } else { Reason::Removing };
    verdict.state = match tunnel {
        _ if gone => STATE_ABSENT.to_owned(),
        Some(tunnel) => state(tunnel.rung.state),
        None => state(State::Intf),
    };
    let (no, yes) = (ConditionStatus::False, ConditionStatus::True);
    verdict.add(ConditionType::Ready, no, reason, reason.cause());
    verdict.add(ConditionType::Reconciling, if gone { no } else { yes }, reason, reason.cause());
    verdict.add(ConditionType::Stalled, no, reason, "");
    verdict.add(ConditionType::InterfaceReady, no, reason, reason.cause());
    verdict
}

impl Verdict {
    fn new(generation: i64) -> Self {
        Self {
            generation,
            state: String::new(),
            tunnel_ip: None,
            nbma: None,
            peers: Some(0),
            path_mtu: None,
            external: Vec::new(),
            prefixes: Vec::new(),
            conditions: Vec::new(),
        }
    }

    fn add(&mut self, type_: ConditionType, status: ConditionStatus, reason: Reason, message: &str) {
        let message = message.chars().take(MESSAGE).collect();
        self.conditions.push((type_, status, reason, message));
    }

    fn describe(&mut self, tunnel: &TunnelSummary) {
        let addresses: Vec<_> = tunnel.addresses.iter().map(ToString::to_string).collect();
        self.tunnel_ip = (!addresses.is_empty()).then(|| addresses.join(","));
        self.nbma = tunnel.nbma.map(|a| a.to_string());
        self.peers = Some(i32::try_from(tunnel.peers).unwrap_or(i32::MAX));
        self.path_mtu = tunnel.path_mtu.and_then(|mtu| i32::try_from(mtu).ok());
        self.prefixes.clone_from(&tunnel.prefixes);
        let external = tunnel.external.iter();
        self.external =
            external.map(|(name, nbma)| ExternalStatus { name: name.clone(), nbma: *nbma }).collect();
    }

    /// The three that kstatus reads: a tunnel that climbs is Reconciling, one that waits for somebody is Stalled.
    fn summarise(&mut self, up: bool, reason: Reason, message: &str) {
        let stalled = !up && needs_a_hand(reason);
        self.add(ConditionType::Ready, status(up), reason, message);
        let said = |it: bool| if it { message } else { "" };
        self.add(ConditionType::Reconciling, status(!up && !stalled), reason, said(!up && !stalled));
        self.add(ConditionType::Stalled, status(stalled), reason, said(stalled));
    }

    fn interface(&mut self, tunnel: Option<&TunnelSummary>) {
        match tunnel.map(|t| &t.interface) {
            Some(None) => {
                self.add(ConditionType::InterfaceReady, ConditionStatus::True, Reason::InterfaceUp, "");
            }
            Some(Some(trouble)) => {
                let (reason, message) = (trouble.reason, trouble.message.as_str());
                self.add(ConditionType::InterfaceReady, ConditionStatus::False, reason, message);
            }
            None => {
                let reason = Reason::Waiting;
                self.add(
                    ConditionType::InterfaceReady,
                    ConditionStatus::False,
                    reason,
                    "there is no tunnel yet",
                );
            }
        }
    }

    /// Whether GRE is under IPsec, and what an identity of a member is worth.
    fn protection(&mut self, endpoint: &DesiredEndpoint, tunnel: Option<&TunnelSummary>, rung: &Rung) {
        let Some(ipsec) = &endpoint.spec.ipsec else { return };
        let (type_, unknown) = (ConditionType::IpsecReady, tunnel.and_then(|t| t.unknown.as_ref()));
        match unknown {
            _ if matches!(rung.state, State::AdminDown | State::Intf) => {
                self.add(type_, ConditionStatus::False, reason(rung), &rung.message);
            }
            Some(unknown) => {
                let status = if unknown.met { ConditionStatus::Unknown } else { ConditionStatus::False };
                let reason = Reason::IkeDaemonAway;
                let message = format!("the IKE daemon is away ({}): {}", unknown.why, reason.cure());
                self.add(type_, status, reason, &message);
            }
            None if rung.state < State::Nhrp => {
                self.add(type_, ConditionStatus::False, reason(rung), &rung.message);
            }
            None => self.add(type_, ConditionStatus::True, Reason::Protected, ""),
        }
        if ipsec.certificate.is_none() {
            let shared = Reason::SharedSecret;
            let message = format!("{} {}", shared.cause(), shared.cure());
            self.add(ConditionType::Authenticated, ConditionStatus::False, shared, &message);
        }
    }

    fn forwarding(&mut self, tunnel: Option<&TunnelSummary>) {
        let type_ = ConditionType::ForwardingReady;
        let path = tunnel.and_then(|t| t.path_mtu.filter(|mtu| t.mtu.is_some_and(|own| *mtu < own)));
        let path = path.map(|mtu| format!("path MTU through the tunnel: {mtu} bytes"));
        let remark = tunnel.map(|t| t.remark.clone()).filter(|remark| !remark.is_empty());
        let said = path.into_iter().chain(remark).collect::<Vec<_>>().join("; ");
        match tunnel.map(|t| &t.hindrance) {
            Some(None) => self.add(type_, ConditionStatus::True, Reason::Forwarding, &said),
            Some(Some(it)) => self.add(type_, ConditionStatus::False, it.reason, &it.message),
            None => {}
        }
    }

    fn credentials(&mut self, credentials: &Credentials) {
        let type_ = ConditionType::CredentialsReady;
        match credentials {
            Credentials::None | Credentials::Asked => {}
            Credentials::Ready => self.add(type_, ConditionStatus::True, Reason::Accepted, ""),
            Credentials::Lacking(why) => {
                self.add(type_, ConditionStatus::False, Reason::SecretsUnavailable, why);
            }
        }
    }

    /// Whether a status says the same: times, and conditions that are not the agent's, aside.
    pub fn same(&self, status: &DmvpnEndpointStatus) -> bool {
        let ours: Vec<_> = status.conditions.iter().filter(|c| is_owned(c)).collect();
        let says = |(type_, status, reason, message): &(ConditionType, ConditionStatus, Reason, String)| {
            ours.iter().any(|c| {
                c.type_ == type_.as_str()
                    && c.status == status.as_str()
                    && c.reason == reason.as_str()
                    && c.message == *message
                    && c.observed_generation == Some(self.generation)
            })
        };
        status.observed_generation == Some(self.generation)
            && status.state.as_ref() == Some(&self.state)
            && status.tunnel_ip == self.tunnel_ip
            && status.nbma == self.nbma
            && status.peers == self.peers
            && (self.path_mtu.is_none() || status.path_mtu == self.path_mtu)
            && same_prefixes(&status.prefixes, &self.prefixes)
            && same_external(&status.external, &self.external)
            && ours.len() == self.conditions.len()
            && self.conditions.iter().all(says)
    }

    /// Whether it is what every tunnel goes through for a moment.
    pub fn passing(&self) -> bool {
        let ready = self.conditions.iter().find(|(type_, ..)| *type_ == ConditionType::Ready);
        ready.is_some_and(|(_, _, reason, _)| {
            matches!(
                reason,
                Reason::Starting
                    | Reason::AddressRequested
                    | Reason::Registering
                    | Reason::WaitingForIke
                    | Reason::WaitingForIpsec
            )
        })
    }
}

/// The server keeps a list of maps in the order of whoever wrote an entry first.
fn same_external(a: &[ExternalStatus], b: &[ExternalStatus]) -> bool {
    a.len() == b.len() && {
        let mut sorted = [a.to_vec(), b.to_vec()];
        sorted.iter_mut().for_each(|list| list.sort_by(|a, b| a.name.cmp(&b.name)));
        sorted[0] == sorted[1]
    }
}

/// The server keeps a set in an order of its own.
fn same_prefixes(a: &[Cidr], b: &[Cidr]) -> bool {
    let set = |list: &[Cidr]| list.iter().copied().collect::<std::collections::BTreeSet<_>>();
    a.len() == b.len() && set(a) == set(b)
}

fn is_owned(condition: &Condition) -> bool {
    OWNED.iter().any(|type_| type_.as_str() == condition.type_)
}

fn status(holds: bool) -> ConditionStatus {
    if holds { ConditionStatus::True } else { ConditionStatus::False }
}

fn reason(rung: &Rung) -> Reason {
    if rung.state == State::Up { Reason::Up } else { rung.reason.parse().unwrap_or(Reason::Waiting) }
}

/// As it is written in `status.state`.
fn state(state: State) -> String {
    let text = match state {
        State::Unknown => crds::STATE_UNKNOWN,
        State::AdminDown => "AdminDown",
        State::Intf => "INTF",
        State::Ike => "IKE",
        State::Ipsec => "IPsec",
        State::Nhrp => "NHRP",
        State::Up => "Up",
    };
    text.to_owned()
}

/// Whether nothing will change until somebody changes something: the agent tries on all the same, but waiting is not the
/// cure.
fn needs_a_hand(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Suspended
            | Reason::Invalid
            | Reason::RolledBack
            | Reason::NotSupported
            | Reason::Duplicate
            | Reason::InterfaceNameTaken
            | Reason::InterfaceNotCreated
            | Reason::InterfaceMissing
            | Reason::SourceAddressInvalid
            | Reason::SourceAddressMissing
            | Reason::NodeAddressUnknown
            | Reason::RecursiveRouting
            | Reason::NoNhsAddress
            | Reason::AuthenticationFailed
            | Reason::AdministrativelyProhibited
            | Reason::AddressNotAssigned
            | Reason::PoolExhausted
            | Reason::KeyMismatchSuspected
            | Reason::GatewayElsewhere
    )
}
