//! Conditions and counts of networks and spokes. Pure: what is to be said is compared with what is said already, and only
//! a difference is written.
//!
//! Ready, Reconciling, Stalled and Accepted are always there, from the first pass on.

mod standing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use compile::{Finding, Membership, ObjectConditions};
use crds::endpoint::{Desired, Role};
use crds::network::{AuthenticationType, IpsecMode};
use crds::spoke::PlacementType;
use crds::{
    ConditionStatus, ConditionType, DmvpnEndpoint, DmvpnNetwork, DmvpnNetworkStatus, DmvpnSpoke,
    DmvpnSpokeStatus, Reason, conditions,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use serde_json::{Value, json};

use self::standing::{Standing, Summary, few, is_silent, is_up, protection, standing};
use crate::decode::Undecodable;
use crate::events;
use crate::pass::Endpoints;
use crate::pass::{Facts, Op, Rollout, Write, name, stays};

/// Longest message that is written.
const MESSAGE_MAX: usize = 1024;

/// Status of all networks and spokes that is not as it should be.
pub(crate) fn plan(
    facts: &Facts<'_>,
    (wanted, kept, rollouts): (&Endpoints, &BTreeSet<String>, &BTreeMap<String, Rollout>),
    now: &Time,
) -> Vec<Write> {
    let found: BTreeMap<(&str, &str), &ObjectConditions> =
        facts.compiled.conditions.iter().map(|c| ((c.kind.as_str(), c.name.as_str()), c)).collect();
    let mut members: BTreeMap<&str, Vec<&Membership>> = BTreeMap::new();
    for member in &facts.compiled.members {
        members.entry(&member.spoke).or_default().push(member);
    }
    let view = View { facts, wanted, kept, rollouts };
    let mut writes = Vec::new();
    // Networks count the spokes of which they are told Ready here.
    let mut ready: BTreeMap<&str, (i32, i32)> = BTreeMap::new();
    for spoke in facts.snapshot.spokes.iter().filter(|s| stays(*s)) {
        let Some(found) = found.get(&("DmvpnSpoke", name(spoke))) else { continue };
        let members = members.get(name(spoke)).map_or(&[][..], Vec::as_slice);
        let (said, status) = view.spoke(spoke, found, members);
        let count = ready.entry(spoke.spec.network_ref.name.as_str()).or_default();
        count.0 += 1;
        count.1 += i32::from(said.ready.0 == ConditionStatus::True);
        let old = spoke.status.as_ref();
        let list = said.conditions(&spoke.metadata, old.map_or(&[], |s| &s.conditions), now);
        let status =
            DmvpnSpokeStatus { observed_generation: spoke.metadata.generation, conditions: list, ..status };
        if old.map(sorted_spoke) != Some(sorted_spoke(&status)) {
            let notes = events::of_conditions(old.map_or(&[], |s| &s.conditions), &status.conditions);
            writes.push(write("DmvpnSpoke", &spoke.metadata, json!(status), notes));
        }
    }
    for network in facts.networks.values() {
        let Some(found) = found.get(&("DmvpnNetwork", name(*network))) else { continue };
        let (spokes, ready_spokes) = ready.get(name(*network)).copied().unwrap_or_default();
        let (said, endpoints) = view.network(network, found);
        let old = network.status.as_ref();
        let list = said.conditions(&network.metadata, old.map_or(&[], |s| &s.conditions), now);
        let status = DmvpnNetworkStatus {
            observed_generation: network.metadata.generation,
            conditions: list,
            hubs: i32::try_from(network.spec.hubs.len()).ok(),
            spokes: Some(spokes),
            ready_spokes: Some(ready_spokes),
            endpoints: Some(endpoints),
        };
        if old.map(sorted_network) != Some(sorted_network(&status)) {
            let notes = events::of_conditions(old.map_or(&[], |s| &s.conditions), &status.conditions);
            writes.push(write("DmvpnNetwork", &network.metadata, json!(status), notes));
        }
    }
    for bad in &facts.snapshot.bad_networks {
        writes.extend(refuse("DmvpnNetwork", bad, kept, now));
    }
    for bad in &facts.snapshot.bad_spokes {
        writes.extend(refuse("DmvpnSpoke", bad, kept, now));
    }
    writes
}

/// What is to be said in an object's conditions.
struct Said {
    accepted: (ConditionStatus, Reason, String),
    ready: (ConditionStatus, Reason, String),
    stalled: bool,
    reconciling: bool,
    /// Conditions that are only there where they mean something.
    more: Vec<(ConditionType, ConditionStatus, Reason, String)>,
}

impl Said {
    fn new(ready: ConditionStatus, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            accepted: (ConditionStatus::True, Reason::Accepted, String::new()),
            ready: (ready, reason, message.into()),
            stalled: false,
            reconciling: false,
            more: Vec::new(),
        }
    }

    fn reconciling(self) -> Self {
        Self { reconciling: true, ..self }
    }

    fn stalled(self) -> Self {
        Self { stalled: true, ..self }
    }

    /// Conditions; of those that were there, the time moves only when the status does.
    fn conditions(&self, meta: &ObjectMeta, old: &[Condition], now: &Time) -> Vec<Condition> {
        let mut list: Vec<Condition> = Vec::new();
        let mut add = |type_: ConditionType, status, reason, message: &str| {
            list.extend(old.iter().find(|c| c.type_ == type_.as_str()).cloned());
            let message = shorten(message);
            conditions::set(&mut list, type_, status, reason, &message, meta.generation, now.clone());
        };
        let (ready, reason, message) = &self.ready;
        add(ConditionType::Ready, *ready, *reason, message);
        for (type_, holds) in
            [(ConditionType::Reconciling, self.reconciling), (ConditionType::Stalled, self.stalled)]
        {
            let status = if holds { ConditionStatus::True } else { ConditionStatus::False };
            add(type_, status, *reason, if holds { message } else { "" });
        }
        add(ConditionType::Accepted, self.accepted.0, self.accepted.1, &self.accepted.2);
        for (type_, status, reason, message) in &self.more {
            add(*type_, *status, *reason, message);
        }
        list
    }
}

struct View<'a> {
    facts: &'a Facts<'a>,
    wanted: &'a Endpoints,
    kept: &'a BTreeSet<String>,
    rollouts: &'a BTreeMap<String, Rollout>,
}

impl View<'_> {
    /// What the compile found wrong, if anything.
    fn faults(&self, found: &ObjectConditions) -> Option<Said> {
        let object = format!("{}/{}", found.kind, found.name);
        let stays = if self.kept.contains(&object) { "; what it gave before stays in force" } else { "" };
        let told = |type_: ConditionType, status: ConditionStatus| {
            let all: Vec<&Finding> =
                found.findings.iter().filter(|f| f.type_ == type_ && f.status == status).collect();
            let first = all.first()?;
            let texts: Vec<String> = all.iter().map(|f| line(f)).collect();
            Some((status, first.reason, format!("{}{stays}", texts.join("; "))))
        };
        let accepted = told(ConditionType::Accepted, ConditionStatus::False);
        let ready = told(ConditionType::Ready, ConditionStatus::False)?;
        let stalled = told(ConditionType::Stalled, ConditionStatus::True).is_some();
        let mut said = Said::new(ready.0, ready.1, ready.2);
        if let Some(accepted) = accepted {
            said.ready.2.clone_from(&accepted.2);
            said.accepted = accepted;
        }
        Some(if stalled { said.stalled() } else { said.reconciling() })
    }

    fn spoke(
        &self,
        spoke: &DmvpnSpoke,
        found: &ObjectConditions,
        members: &[&Membership],
    ) -> (Said, DmvpnSpokeStatus) {
        let spec = &spoke.spec;
        let external = spec.placement.type_ == PlacementType::External;
        let mut status = DmvpnSpokeStatus::default();
        let mut summary = Summary::default();
        let told = is_told_ready(spoke);
        for member in members {
            let standing = self.standing(&member.endpoint);
            let goes_on =
                told && self.facts.endpoints.get(member.endpoint.as_str()).copied().is_some_and(is_up);
            // A change of what it shares its tunnel with is no news of the spoke, until the agent says otherwise.
            let standing = if goes_on { standing.or_as_before() } else { standing };
            summary.add(&member.node, standing);
        }
        if external {
            status.address = (!spec.overlay_addresses.is_empty()).then(|| spec.overlay_addresses.join(","));
        } else {
            status.nodes = i32::try_from(members.len()).ok();
            status.ready_nodes = i32::try_from(summary.ready).ok();
        }
        let one_node = matches!(spec.placement.type_, PlacementType::Node | PlacementType::OneNode);
        let own: Vec<_> = members.iter().filter(|it| !self.is_behind(&it.endpoint)).collect();
        if let (true, [member]) = (one_node, own.as_slice()) {
            status.node_name = Some(member.node.clone());
            let texts: Vec<String> = member.addresses.iter().map(ToString::to_string).collect();
            status.address = match texts.is_empty() {
                true => self.assigned(&member.endpoint),
                false => Some(texts.join(",")),
            };
        }
        if let Some(said) = self.faults(found) {
            return (said, status);
        }
        let suspended = spec.suspend || self.suspended(&spec.network_ref.name);
        let said = match (suspended, external) {
            (true, _) => suspended_by(spec.suspend, &spec.network_ref.name),
            (false, true) => self.external(spoke),
            (false, false) => summary.said("node"),
        };
        (said, status)
    }

    /// Addresses that a hub assigned to an endpoint in band, as its agent says.
    fn assigned(&self, endpoint: &str) -> Option<String> {
        let endpoint = self.facts.endpoints.get(endpoint)?;
        endpoint.spec.nhrp.address_request.as_ref()?;
        endpoint.status.as_ref()?.tunnel_ip.clone()
    }

    /// Whether an endpoint is that of a node behind the spoke's own.
    fn is_behind(&self, endpoint: &str) -> bool {
        self.wanted.get(endpoint).is_some_and(|it| it.endpoint.spec.gateway.is_some())
    }

    fn suspended(&self, network: &str) -> bool {
        self.facts.networks.get(network).is_some_and(|n| n.spec.suspend)
    }

    fn network(&self, network: &DmvpnNetwork, found: &ObjectConditions) -> (Said, i32) {
        let mut summary = Summary::default();
        let mine = |e: &DmvpnEndpoint| e.spec.network == name(network) && e.spec.desired == Desired::Present;
        for (name, wanted) in self.wanted.iter().filter(|(_, w)| mine(&w.endpoint)) {
            summary.add(&wanted.endpoint.spec.node_name, self.standing(name));
        }
        let endpoints = i32::try_from(summary.all).unwrap_or(i32::MAX);
        let credentials = self.facts.credentials.get(name(network)).filter(|c| c.referred).map(|c| {
            match c.faults.first() {
                None => (ConditionStatus::True, Reason::SecretsFound, String::new()),
                Some((reason, _)) => {
                    let texts: Vec<&str> = c.faults.iter().map(|(_, text)| text.as_str()).collect();
                    (ConditionStatus::False, *reason, texts.join("; "))
                }
            }
        });
        let faults = self.faults(found);
        let lacking = credentials.as_ref().filter(|c| c.0 == ConditionStatus::False);
        let mut said = match (faults, lacking) {
            (Some(said), _) => said,
            (None, Some((status, reason, message))) => {
                Said::new(*status, *reason, format!("{message}; agents go on with what they have")).stalled()
            }
            (None, None) if network.spec.suspend => suspended_by(false, name(network)),
            (None, None) if summary.all == 0 => Said::new(
                ConditionStatus::True,
                Reason::NothingHere,
                "no node of this cluster has a part in it",
            ),
            (None, None) => match self.rollouts.get(name(network)) {
                Some(rollout) => rolling(rollout),
                None => summary.said("endpoint"),
            },
        };
        if let Some((status, reason, message)) = credentials {
            said.more.push((ConditionType::CredentialsReady, status, reason, message));
        }
        said.more.extend(self.protection(network, mine));
        (said, endpoints)
    }

    /// Whether a network is protected, if it should be, and what an identity of a member is worth.
    fn protection(
        &self,
        network: &DmvpnNetwork,
        mine: impl Fn(&DmvpnEndpoint) -> bool,
    ) -> Vec<(ConditionType, ConditionStatus, Reason, String)> {
        let ipsec = &network.spec.ipsec;
        let authenticated = |reason: Reason| {
            let message = format!("{} {}", reason.cause(), reason.cure());
            (ConditionType::Authenticated, ConditionStatus::False, reason, message)
        };
        if ipsec.mode != IpsecMode::Required {
            return vec![authenticated(Reason::NotProven)];
        }
        let endpoints: Vec<&DmvpnEndpoint> = self
            .wanted
            .iter()
            .filter(|(_, wanted)| mine(&wanted.endpoint))
            .filter_map(|(name, _)| self.facts.endpoints.get(name.as_str()).copied())
            .collect();
        let mut said = Vec::new();
        if let Some((status, reason, message)) = protection(&endpoints) {
            said.push((ConditionType::IpsecReady, status, reason, message));
        }
        if ipsec.authentication.as_ref().is_some_and(|it| it.type_ == AuthenticationType::Psk) {
            said.push(authenticated(Reason::SharedSecret));
        }
        said
    }

    /// A router that is not ours is Ready when a hub of this cluster has its registration.
    fn external(&self, spoke: &DmvpnSpoke) -> Said {
        let network = spoke.spec.network_ref.name.as_str();
        let hubs: Vec<&DmvpnEndpoint> = self
            .facts
            .endpoints
            .values()
            .filter(|e| e.spec.network == network && matches!(e.spec.role, Role::Hub | Role::HubSpoke))
            .filter(|e| {
                self.wanted.get(name(**e)).is_some_and(|w| w.endpoint.spec.desired == Desired::Present)
            })
            .copied()
            .collect();
        if hubs.is_empty() {
            let message = "no hub of this cluster could know it";
            return Said::new(ConditionStatus::True, Reason::NothingHere, message);
        }
        let mut known = Vec::new();
        for hub in hubs.iter().filter(|h| !is_silent(h)) {
            let entries = hub.status.iter().flat_map(|s| &s.external);
            known.extend(
                entries.filter(|e| e.name == name(spoke)).map(|e| {
                    format!("registered with the hub on node {} from {}", hub.spec.node_name, e.nbma)
                }),
            );
        }
        if !known.is_empty() {
            return Said::new(ConditionStatus::True, Reason::Up, known.join(", "));
        }
        let nodes: Vec<&str> = hubs.iter().map(|h| h.spec.node_name.as_str()).collect();
        let nodes = nodes.join(", ");
        if hubs.iter().all(|h| is_silent(h)) {
            let message = format!("the agents of the hubs on {nodes} do not report");
            return Said::new(ConditionStatus::Unknown, Reason::AgentSilent, message).reconciling();
        }
        let message = format!("not registered with the hub on {nodes}: {}", Reason::NotRegistered.cure());
        Said::new(ConditionStatus::False, Reason::NotRegistered, message).reconciling()
    }

    fn standing(&self, endpoint: &str) -> Standing {
        let wanted = self.wanted.get(endpoint).map(|w| &w.endpoint);
        standing(self.facts.endpoints.get(endpoint).copied(), wanted)
    }
}

/// A change is on its way to the nodes of a network, or was stopped there.
fn rolling(rollout: &Rollout) -> Said {
    let of = format!("{} of {} endpoints have the change", rollout.have, rollout.have + rollout.waiting);
    let no = ConditionStatus::False;
    if !rollout.failed.is_empty() {
        let why = few(&mut rollout.failed.clone());
        let message = format!("{of}, and no other gets it: {why}; {}", Reason::RolloutStopped.cure());
        return Said::new(no, Reason::RolloutStopped, message).stalled();
    }
    let waits = match rollout.moving.as_slice() {
        [] => String::new(),
        nodes => format!("; waiting for {}", few(&mut nodes.to_vec())),
    };
    Said::new(no, Reason::RollingOut, format!("{of}{waits}")).reconciling()
}

/// Whether a spoke is told Ready in its present version.
fn is_told_ready(spoke: &DmvpnSpoke) -> bool {
    let Some(status) = &spoke.status else { return false };
    status.observed_generation == spoke.metadata.generation
        && conditions::is_true(&status.conditions, ConditionType::Ready)
}

fn suspended_by(spoke: bool, network: &str) -> Said {
    let message = if spoke {
        "suspend is true: its tunnels are shut down".to_owned()
    } else {
        format!("suspend of DmvpnNetwork/{network} is true: its tunnels are shut down")
    };
    Said::new(ConditionStatus::False, Reason::Suspended, message)
}

/// An object that does not decode is told so.
fn refuse(kind: &'static str, bad: &Undecodable, kept: &BTreeSet<String>, now: &Time) -> Option<Write> {
    let stays = if kept.contains(&format!("{kind}/{}", bad.name())) {
        "; what it gave before stays in force"
    } else {
        ""
    };
    let message = format!("{}{stays}", bad.error);
    let mut said = Said::new(ConditionStatus::False, Reason::Invalid, message.clone()).stalled();
    said.accepted = (ConditionStatus::False, Reason::Invalid, message);
    let read = |c: &Value| serde_json::from_value::<Condition>(c.clone()).ok();
    let old: Vec<Condition> =
        bad.status["conditions"].as_array().into_iter().flatten().filter_map(read).collect();
    let list = said.conditions(&bad.metadata, &old, now);
    let same = bad.status["observedGeneration"].as_i64() == bad.metadata.generation
        && sorted(list.clone()) == sorted(old.clone());
    let notes = events::of_conditions(&old, &list);
    let status = json!({"observedGeneration": bad.metadata.generation, "conditions": list});
    (!same).then(|| write(kind, &bad.metadata, status, notes))
}

fn line(finding: &Finding) -> String {
    if finding.field.is_empty() {
        return finding.message.clone();
    }
    format!("{}: {}", finding.field, finding.message)
}

fn shorten(message: &str) -> String {
    if message.chars().count() <= MESSAGE_MAX {
        return message.to_owned();
    }
    message.chars().take(MESSAGE_MAX - 1).chain(['…']).collect()
}

fn sorted(mut list: Vec<Condition>) -> Vec<Condition> {
    list.sort_by(|a, b| a.type_.cmp(&b.type_));
    list
}

fn sorted_spoke(status: &DmvpnSpokeStatus) -> DmvpnSpokeStatus {
    DmvpnSpokeStatus { conditions: sorted(status.conditions.clone()), ..status.clone() }
}

fn sorted_network(status: &DmvpnNetworkStatus) -> DmvpnNetworkStatus {
    DmvpnNetworkStatus { conditions: sorted(status.conditions.clone()), ..status.clone() }
}

fn write(kind: &'static str, meta: &ObjectMeta, status: Value, notes: Vec<events::Note>) -> Write {
    let name = meta.name.clone().unwrap_or_default();
    let (uid, base) = (meta.uid.clone(), meta.resource_version.clone());
    Write { kind, name, uid, base, op: Op::Status(status), notes }
}
