//! The life of endpoints. Present ones are applied when they differ. One that is no longer wanted is asked to be Absent,
//! and let go when its agent has answered or its node is gone. One that somebody deleted though it is wanted is let go at
//! once and made again: its agent keeps the tunnel meanwhile.

use crds::endpoint::Desired;
use crds::secrets::REVISION_ANNOTATION;
use crds::{
    ConditionStatus, ConditionType, DmvpnEndpoint, ENDPOINT_FINALIZER, NETWORK_LABEL, Reason, STATE_ABSENT,
    STATE_UNKNOWN, conditions,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;
use serde_json::json;

use super::hold::Endpoints;
use super::{Facts, Op, Write, addresses, name, stays};
use crate::decode::Undecodable;

pub(super) fn plan(facts: &Facts<'_>, wanted: &Endpoints, now: &Time) -> Vec<Write> {
    let mut writes = Vec::new();
    let missing = addresses::missing(facts);
    for (name, wanted) in wanted.iter().filter(|(_, w)| !w.held) {
        let new = &wanted.endpoint;
        let old = facts.endpoints.get(name.as_str()).copied();
        let waits =
            new.spec.addresses.iter().any(|a| missing.contains(&(new.spec.network.as_str(), a.address)));
        match old {
            Some(old) if !stays(old) => writes.extend(let_go(old)),
            Some(old) if differs(old, new) && !waits => {
                writes.push(write(old, Op::ApplyEndpoint(Box::new(new.clone()))));
            }
            Some(_) => {}
            None if !waits => writes.push(Write {
                kind: "DmvpnEndpoint",
                name: name.clone(),
                uid: None,
                base: undecodable_version(facts, name),
                op: Op::ApplyEndpoint(Box::new(new.clone())),
                notes: Vec::new(),
            }),
            None => {}
        }
    }
    for old in &facts.snapshot.endpoints {
        if !wanted.contains_key(name(old)) {
            writes.extend(take_away(facts, old));
        } else if let Some(status) = unknown(facts, old, now) {
            writes.push(status);
        }
    }
    for bad in facts.snapshot.bad_endpoints.iter().filter(|b| !wanted.contains_key(b.name())) {
        if !may_be_kept(facts, bad) {
            let there = facts.node_has(bad.text("nodeName"), bad.spec["nodeUid"].as_str());
            writes.extend(take_away_unread(bad, there));
        }
    }
    writes
}

/// Whether a refused object may still want an endpoint that does not decode.
fn may_be_kept(facts: &Facts<'_>, bad: &Undecodable) -> bool {
    let label = bad.metadata.labels.as_ref().and_then(|l| l.get(NETWORK_LABEL));
    let owners = bad.spec["addresses"].as_array().into_iter().flatten();
    facts.network_refused(bad.text("network"))
        || label.is_some_and(|network| facts.network_refused(network))
        || owners.filter_map(|a| a["owner"].as_str()).any(|owner| facts.spoke_refused(owner))
}

/// An endpoint that does not decode and is not wanted: the agent understands that wish of it all the same. `None`:
/// nothing is left to be done, but to wait. `there`: its node is the one that it was made for.
pub(crate) fn take_away_unread(bad: &Undecodable, there: bool) -> Option<Write> {
    let absent = bad.text("desired") == "Absent";
    let answered = bad.status["state"] == STATE_ABSENT
        && bad.status["observedGeneration"].as_i64() == bad.metadata.generation;
    if !there || (absent && answered) {
        return let_go_of(&bad.metadata);
    }
    (!absent).then(|| write_of(&bad.metadata, Op::AskAbsent))
}

/// Version of an endpoint that is there and does not decode: it is written over.
fn undecodable_version(facts: &Facts<'_>, name: &str) -> Option<String> {
    let bad = facts.snapshot.bad_endpoints.iter().find(|b| b.name() == name)?;
    bad.metadata.resource_version.clone()
}

/// Whether something of ours is not as it should be. What others added is left alone.
fn differs(old: &DmvpnEndpoint, new: &DmvpnEndpoint) -> bool {
    let (was, is) = (&old.metadata, &new.metadata);
    let label = |m: &ObjectMeta| m.labels.as_ref().and_then(|l| l.get(NETWORK_LABEL).cloned());
    let revision = |m: &ObjectMeta| m.annotations.as_ref().and_then(|a| a.get(REVISION_ANNOTATION).cloned());
    let owner = is.owner_references.iter().flatten().next();
    let owned = owner.is_none_or(|o| was.owner_references.iter().flatten().any(|w| w == o));
    old.spec != new.spec
        || label(was) != label(is)
        || revision(was) != revision(is)
        || !owned
        || !has_finalizer(old)
}

fn has_finalizer(endpoint: &DmvpnEndpoint) -> bool {
    endpoint.metadata.finalizers.iter().flatten().any(|f| f == ENDPOINT_FINALIZER)
}

/// An endpoint that is not wanted any more.
fn take_away(facts: &Facts<'_>, old: &DmvpnEndpoint) -> Option<Write> {
    if !facts.node_is_there(old) || is_absent(old) {
        return let_go(old);
    }
    if old.spec.desired == Desired::Absent {
        return None;
    }
    Some(write(old, Op::ApplyEndpoint(Box::new(absent(old)))))
}

/// The same endpoint, to be taken away.
pub(crate) fn absent(old: &DmvpnEndpoint) -> DmvpnEndpoint {
    let mut new = DmvpnEndpoint::new(name(old), old.spec.clone());
    new.spec.desired = Desired::Absent;
    let label = old.metadata.labels.as_ref().and_then(|l| l.get_key_value(NETWORK_LABEL));
    new.metadata.labels = label.map(|(k, v)| [(k.clone(), v.clone())].into());
    let revision = old.metadata.annotations.as_ref().and_then(|a| a.get_key_value(REVISION_ANNOTATION));
    new.metadata.annotations = revision.map(|(k, v)| [(k.clone(), v.clone())].into());
    // On its way out an object gets no new finalizers.
    if has_finalizer(old) || stays(old) {
        new.metadata.finalizers = Some(vec![ENDPOINT_FINALIZER.to_owned()]);
    }
    new.metadata.owner_references = old.metadata.owner_references.clone();
    new
}

/// Whether the agent says that it has taken away what this generation asks for.
pub(crate) fn is_absent(endpoint: &DmvpnEndpoint) -> bool {
    let status = endpoint.status.as_ref();
    endpoint.spec.desired == Desired::Absent
        && status.is_some_and(|s| {
            s.state.as_deref() == Some(STATE_ABSENT) && s.observed_generation == endpoint.metadata.generation
        })
}

/// Removes our finalizer and deletes the object.
pub(crate) fn let_go(old: &DmvpnEndpoint) -> Option<Write> {
    let_go_of(&old.metadata)
}

fn let_go_of(old: &ObjectMeta) -> Option<Write> {
    let all = || old.finalizers.iter().flatten();
    let others = all().filter(|f| *f != ENDPOINT_FINALIZER).cloned().collect();
    let delete = old.deletion_timestamp.is_none();
    if !delete && !all().any(|f| f == ENDPOINT_FINALIZER) {
        // Others hold it.
        return None;
    }
    let uid = old.uid.clone()?;
    Some(write_of(old, Op::LetGo { uid, finalizers: others, delete }))
}

/// Says that nobody knows, where an agent does not report.
fn unknown(facts: &Facts<'_>, old: &DmvpnEndpoint, now: &Time) -> Option<Write> {
    if !facts.snapshot.silent.contains(&old.spec.node_name) || is_absent(old) {
        return None;
    }
    let status = old.status.as_ref();
    let ready = status.and_then(|s| s.conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str()));
    let told = status.is_some_and(|s| s.state.as_deref() == Some(STATE_UNKNOWN))
        && ready.is_some_and(|c| c.reason == Reason::AgentSilent.as_str());
    if told {
        return None;
    }
    let message = format!(
        "the agent on node {} does not report: its tunnel carries on as it was; check the agent's pod and the node",
        old.spec.node_name
    );
    let mut list = ready.cloned().into_iter().collect();
    let generation = old.metadata.generation;
    let status = ConditionStatus::Unknown;
    conditions::set(
        &mut list,
        ConditionType::Ready,
        status,
        Reason::AgentSilent,
        &message,
        generation,
        now.clone(),
    );
    let status = json!({"state": STATE_UNKNOWN, "conditions": list});
    Some(write(old, Op::Status(status)))
}

fn write(old: &DmvpnEndpoint, op: Op) -> Write {
    write_of(&old.metadata, op)
}

fn write_of(old: &ObjectMeta, op: Op) -> Write {
    Write {
        kind: "DmvpnEndpoint",
        name: old.name.clone().unwrap_or_default(),
        uid: old.uid.clone(),
        base: old.resource_version.clone(),
        op,
        notes: Vec::new(),
    }
}
