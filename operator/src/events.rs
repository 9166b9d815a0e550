//! Events (`kubectl describe`), on transitions only. What is told follows from what was there before and what is there now;
//! telling it is best effort: an Event that cannot be written stops nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::{ConditionStatus, ConditionType, DmvpnEndpoint, Reason};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::decode::Undecodable;

/// Events that may wait to be written; more are dropped.
const WAITING: usize = 1024;
/// The API takes notes of up to 1024 bytes.
const NOTE_MAX: usize = 1000;

/// What is told about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether somebody should look.
    pub warning: bool,
    /// CamelCase, from the list of reasons.
    pub reason: String,
    /// In words.
    pub text: String,
}

/// What is told when an object's conditions change: Accepted and Stalled.
pub fn of_conditions(old: &[Condition], new: &[Condition]) -> Vec<Note> {
    let find = |list: &[Condition], type_: ConditionType| {
        list.iter()
            .find(|c| c.type_ == type_.as_str())
            .map(|c| (c.status.clone(), c.reason.clone(), c.message.clone()))
    };
    let mut notes = Vec::new();
    let was = find(old, ConditionType::Accepted);
    if let Some((status, reason, message)) = find(new, ConditionType::Accepted) {
        let refused = status == ConditionStatus::False.as_str();
        let changed = was.is_none_or(|(s, r, _)| s != status || (refused && r != reason));
        if changed {
            let text = if message.is_empty() { "the object is valid".to_owned() } else { message };
            notes.push(Note { warning: refused, reason, text });
        }
    }
    let stalled = |list: &[Condition]| {
        find(list, ConditionType::Stalled).filter(|c| c.0 == ConditionStatus::True.as_str())
    };
    match (stalled(old), stalled(new)) {
        // That it is not accepted has been told.
        (was, Some((_, reason, text)))
            if was.as_ref().is_none_or(|w| w.1 != reason) && !notes.iter().any(|n| n.reason == reason) =>
        {
            notes.push(Note { warning: true, reason, text });
        }
        (Some(_), None) if notes.is_empty() => {
            let (reason, text) = find(new, ConditionType::Ready).map(|(_, r, m)| (r, m)).unwrap_or_default();
            notes.push(Note { warning: false, reason, text: format!("no longer stalled: {text}") });
        }
        _ => {}
    }
    notes
}

/// Remembers the states of endpoints, to tell when they change.
#[derive(Debug, Default)]
pub struct States {
    known: BTreeMap<String, String>,
    begun: bool,
    /// What was told of endpoints that do not decode.
    unread: BTreeMap<String, String>,
}

impl States {
    /// What changed since the last time; nothing at the first.
    pub fn observe(&mut self, endpoints: &[DmvpnEndpoint]) -> Vec<(ObjectReference, Note)> {
        let mut told = Vec::new();
        let mut known = BTreeMap::new();
        for endpoint in endpoints {
            let Some(uid) = &endpoint.metadata.uid else { continue };
            let Some(state) = endpoint.status.as_ref().and_then(|s| s.state.as_ref()) else { continue };
            // That a change is not in force is told too, whatever the state is under what is.
            let state = &match is_rolled_back(endpoint) {
                true => format!("{state} ({})", Reason::RolledBack),
                false => state.clone(),
            };
            let old = self.known.get(uid);
            if self.begun && old != Some(state) {
                told.push((endpoint.object_ref(&()), note(endpoint, old, state)));
            }
            known.insert(uid.clone(), state.clone());
        }
        self.known = known;
        self.begun = true;
        told
    }

    /// Endpoints that do not decode: each is told once for each error. They have no condition of ours: the status of
    /// an endpoint is its agent's.
    pub fn unread(&mut self, endpoints: &[Undecodable]) -> Vec<(ObjectReference, Note)> {
        let mut told = Vec::new();
        let mut unread = BTreeMap::new();
        for bad in endpoints {
            let uid = bad.metadata.uid.clone().unwrap_or_default();
            if self.unread.get(&uid) != Some(&bad.error) {
                let node = bad.text("nodeName");
                let text = format!("node {node}: the endpoint cannot be read: {}", bad.error);
                let note = Note { warning: true, reason: Reason::Invalid.as_str().to_owned(), text };
                told.push((reference("DmvpnEndpoint", bad.name(), bad.metadata.uid.clone()), note));
            }
            unread.insert(uid, bad.error.clone());
        }
        self.unread = unread;
        told
    }
}

fn is_rolled_back(endpoint: &DmvpnEndpoint) -> bool {
    let mut conditions = endpoint.status.iter().flat_map(|s| &s.conditions);
    conditions.any(|c| c.type_ == ConditionType::Ready.as_str() && c.reason == Reason::RolledBack.as_str())
}

fn note(endpoint: &DmvpnEndpoint, old: Option<&String>, state: &str) -> Note {
    let mut conditions = endpoint.status.iter().flat_map(|s| &s.conditions);
    let ready = conditions.find(|c| c.type_ == ConditionType::Ready.as_str());
    let why = ready.map(|c| format!(": {}", c.message)).filter(|m| m.len() > 2).unwrap_or_default();
    let from = old.map(|old| format!("{old} → ")).unwrap_or_default();
    let node = &endpoint.spec.node_name;
    let calm = ["Up", crds::STATE_ABSENT, "AdminDown"].contains(&state) || old.is_none();
    let fine = calm && !is_rolled_back(endpoint);
    Note {
        warning: !fine,
        reason: ready.map_or_else(|| Reason::Waiting.as_str().to_owned(), |c| c.reason.clone()),
        text: format!("node {node}: {from}{state}{why}"),
    }
}

/// Where Events are handed in.
#[derive(Clone)]
pub struct Teller(mpsc::Sender<(ObjectReference, Note)>);

impl Teller {
    /// Starts the task that writes them.
    pub fn start(client: Client, identity: String) -> Self {
        let reporter = Reporter { controller: "dmvpn.io/operator".into(), instance: Some(identity) };
        let recorder = Recorder::new(client, reporter);
        let (sender, mut inbox) = mpsc::channel::<(ObjectReference, Note)>(WAITING);
        tokio::spawn(async move {
            let mut failing = false;
            while let Some((object, note)) = inbox.recv().await {
                let event = event(note);
                let sent =
                    tokio::time::timeout(Duration::from_secs(5), recorder.publish(&event, &object)).await;
                let error = match sent {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("no answer in 5 s".to_owned()),
                };
                match error {
                    None => failing = false,
                    Some(error) if !std::mem::replace(&mut failing, true) => {
                        warn!(%error, "cannot write Events");
                    }
                    Some(error) => debug!(%error, "cannot write Events"),
                }
            }
        });
        Self(sender)
    }

    /// Tells something about an object.
    pub fn tell(&self, object: ObjectReference, note: Note) {
        if self.0.try_send((object, note)).is_err() {
            debug!("too many Events at once: one is dropped");
        }
    }
}

/// Reference to an object by kind and name.
pub fn reference(kind: &str, name: &str, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some(crds::API_VERSION.to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        uid,
        ..ObjectReference::default()
    }
}

fn event(note: Note) -> Event {
    let mut text = note.text;
    if text.len() > NOTE_MAX {
        let end = (0..=NOTE_MAX).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
    Event {
        type_: if note.warning { EventType::Warning } else { EventType::Normal },
        reason: note.reason,
        note: Some(text),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}
