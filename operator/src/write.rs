//! Carries writes out: what others need first, several at once, each with its own back-off, and only while the Lease is
//! held. What was written just now is not written again while the watch has not shown it yet.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::endpoint::Desired;
use crds::{DmvpnAddress, DmvpnEndpoint, OPERATOR_MANAGER};
use futures::StreamExt;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use crate::events::{self, Note, Teller};
use crate::lease::Leadership;
use crate::pass::{Op, Write};
use crate::progress::Progress;

/// Writes on their way at a time.
const AT_ONCE: usize = 16;
/// Writes of one pass: what happens meanwhile is looked at before the rest.
const OF_ONE_PASS: usize = 512;
/// How long one may take: with [`crate::lease::RENEW_DEADLINE`] less than a Lease lasts.
const WRITE: Duration = Duration::from_secs(4);
/// First wait after a failure; doubled each time up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(250);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// How long the watch may take to show what was written, before it is written again.
const SHOWN: Duration = Duration::from_secs(5);

/// What came of writing one object.
#[derive(Debug)]
struct Memo {
    /// What was written, and over which version.
    what: (u64, Option<String>),
    /// The API server did not take it.
    refused: bool,
    /// How often in a row it failed, or changed nothing.
    tries: u32,
    /// What was told of it over that version.
    told: Vec<Note>,
    /// Not written before.
    not_before: Instant,
}

/// Carries writes out.
pub struct Writer {
    client: Client,
    leadership: Leadership,
    teller: Teller,
    progress: Arc<Progress>,
    memos: BTreeMap<(&'static str, String, u8), Memo>,
}

impl Writer {
    /// A writer that writes while `leadership` lasts.
    pub fn new(client: Client, leadership: Leadership, teller: Teller, progress: Arc<Progress>) -> Self {
        Self { client, leadership, teller, progress, memos: BTreeMap::new() }
    }

    /// Carries out what is due. Returns when to come back for what is not.
    pub async fn carry_out(&mut self, writes: Vec<Write>) -> Option<Instant> {
        let now = Instant::now();
        let keys: BTreeSet<_> = writes.iter().map(key).collect();
        self.memos.retain(|key, _| keys.contains(key));
        let (due, early): (Vec<_>, Vec<_>) = writes.into_iter().partition(|w| self.due(w, now));
        let mut next = early.iter().filter_map(|w| Some(self.memos.get(&key(w))?.not_before)).min();
        if due.len() > OF_ONE_PASS {
            next = Some(now);
        }
        let mut due = due.into_iter().take(OF_ONE_PASS).peekable();
        while let Some(stage) = due.peek().map(|w| w.op.stage()) {
            let mut batch = Vec::new();
            while let Some(write) = due.next_if(|w| w.op.stage() == stage) {
                batch.push(write);
            }
            let (client, leadership, progress) = (&self.client, &self.leadership, &self.progress);
            let done: Vec<_> = futures::stream::iter(batch)
                .map(|write| async move {
                    let result = carry_out(client, leadership, &write).await;
                    progress.pass_gets_on(Instant::now());
                    (write, result)
                })
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            for (write, result) in done {
                let not_before = self.note(write, result);
                next = Some(next.map_or(not_before, |n| n.min(not_before)));
            }
        }
        next
    }

    fn due(&self, write: &Write, now: Instant) -> bool {
        self.memos.get(&key(write)).is_none_or(|memo| {
            let other = fingerprint(&write.op) != memo.what.0;
            // An object that has changed since is looked at anew; what the API server refuses, it refuses again.
            let moved = write.base != memo.what.1 && !memo.refused;
            now >= memo.not_before || other || moved
        })
    }

    /// Remembers the outcome; returns when it may be written again.
    fn note(&mut self, write: Write, result: Result<(), Failure>) -> Instant {
        let what = (fingerprint(&write.op), write.base.clone());
        let refused = matches!(result, Err(Failure::Error(_)));
        let before = self.memos.get(&key(&write));
        let again =
            before.filter(|memo| memo.what == what || (refused && memo.refused)).map_or(0, |memo| memo.tries);
        let failed = result.is_err();
        match &result {
            Ok(()) => self.progress.wrote(write.kind, "ok"),
            Err(Failure::NotLeading) => {}
            Err(Failure::Outdated) => self.progress.wrote(write.kind, "outdated"),
            Err(Failure::Error(_)) => self.progress.wrote(write.kind, "error"),
        }
        let mut told = told_already(before, &write.base).to_vec();
        match &result {
            Ok(()) => {
                debug!(kind = write.kind, name = write.name, op = label(&write.op), "written");
                for note in &write.notes {
                    if !told.contains(note) {
                        let object = events::reference(write.kind, &write.name, write.uid.clone());
                        self.teller.tell(object, note.clone());
                        told.push(note.clone());
                    }
                }
            }
            Err(Failure::NotLeading) => debug!(kind = write.kind, name = write.name, "not leading any more"),
            // Somebody else wrote meanwhile: the watch brings it, and the next pass looks again.
            Err(Failure::Outdated) => debug!(kind = write.kind, name = write.name, "outdated, looking again"),
            Err(Failure::Error(error)) if again == 0 => {
                warn!(kind = write.kind, name = write.name, op = label(&write.op), %error, "write failed, trying again");
            }
            Err(Failure::Error(error)) => {
                info!(kind = write.kind, name = write.name, op = label(&write.op), %error, tries = again + 1, "write failed again");
            }
        }
        let first = if failed { FIRST } else { SHOWN };
        let wait = first.saturating_mul(1 << again.min(12)).min(LONGEST);
        // Those that failed together do not come back together.
        let wait = wait + wait.mul_f64(f64::from(u8::try_from(hash(&write.name) % 100).unwrap_or(0)) / 400.0);
        let not_before = Instant::now() + wait;
        self.memos.insert(key(&write), Memo { what, refused, tries: again + 1, told, not_before });
        not_before
    }
}

/// What was told over the version that is in the snapshot still: the watch has not shown yet what was written then, so
/// that a pass finds the same transition once more.
fn told_already<'a>(before: Option<&'a Memo>, base: &Option<String>) -> &'a [Note] {
    before.filter(|memo| memo.what.1 == *base).map_or(&[], |memo| &memo.told)
}

/// Why something was not written.
enum Failure {
    NotLeading,
    Outdated,
    Error(String),
}

fn key(write: &Write) -> (&'static str, String, u8) {
    (write.kind, write.name.clone(), write.op.stage())
}

fn label(op: &Op) -> &'static str {
    match op {
        Op::CreateAddress(_) => "create",
        Op::ApplyEndpoint(_) => "apply",
        Op::AskAbsent => "ask absent",
        Op::LetGo { .. } => "let go",
        Op::DeleteAddress { .. } => "delete",
        Op::Status(_) => "status",
    }
}

async fn carry_out(client: &Client, leadership: &Leadership, write: &Write) -> Result<(), Failure> {
    if !leadership.may_write() {
        return Err(Failure::NotLeading);
    }
    let error = match tokio::time::timeout(WRITE, execute(client, write)).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(_) => return Err(Failure::Error("no answer in time".to_owned())),
    };
    match (&error, &write.op) {
        // It is gone, which is what was asked for.
        (kube::Error::Api(s), Op::LetGo { .. } | Op::DeleteAddress { .. }) if s.code == 404 => Ok(()),
        (kube::Error::Api(s), _) if [404, 409].contains(&s.code) => Err(Failure::Outdated),
        _ => Err(Failure::Error(error.to_string())),
    }
}

/// Writes one object.
///
/// # Errors
/// What the API server answers.
pub async fn execute(client: &Client, write: &Write) -> Result<(), kube::Error> {
    let endpoints = || Api::<DmvpnEndpoint>::all(client.clone());
    let params = PatchParams::apply(OPERATOR_MANAGER).force();
    let merging = PatchParams { field_manager: Some(OPERATOR_MANAGER.to_owned()), ..PatchParams::default() };
    match &write.op {
        Op::CreateAddress(address) => {
            let params =
                PostParams { field_manager: Some(OPERATOR_MANAGER.to_owned()), ..PostParams::default() };
            Api::<DmvpnAddress>::all(client.clone()).create(&params, address).await.map(drop)
        }
        Op::ApplyEndpoint(endpoint) => {
            endpoints().patch_metadata(&write.name, &params, &Patch::Apply(applied(endpoint))).await.map(drop)
        }
        Op::AskAbsent => {
            let guard = json!({"uid": write.uid, "resourceVersion": write.base});
            let patch = Patch::Merge(json!({"metadata": guard, "spec": {"desired": Desired::Absent}}));
            endpoints().patch_metadata(&write.name, &merging, &patch).await.map(drop)
        }
        Op::LetGo { uid, finalizers, delete } => {
            let guard = json!({"uid": uid, "resourceVersion": write.base, "finalizers": finalizers});
            let patch = Patch::Merge(json!({"metadata": guard}));
            endpoints().patch_metadata(&write.name, &merging, &patch).await?;
            if *delete {
                endpoints().delete(&write.name, &same(uid)).await?;
            }
            Ok(())
        }
        Op::DeleteAddress { uid } => {
            Api::<DmvpnAddress>::all(client.clone()).delete(&write.name, &same(uid)).await.map(drop)
        }
        Op::Status(status) => {
            // As a dynamic object: it need not decode.
            let plural = format!("{}s", write.kind.to_lowercase());
            let resource = ApiResource {
                group: crds::GROUP.into(),
                version: crds::VERSION.into(),
                api_version: crds::API_VERSION.into(),
                kind: write.kind.into(),
                plural,
            };
            let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
            let mut metadata = json!({"name": write.name});
            if let Some(uid) = &write.uid {
                // Never makes a status for another object of that name.
                metadata["uid"] = uid.clone().into();
            }
            let body = json!({
                "apiVersion": crds::API_VERSION, "kind": write.kind, "metadata": metadata, "status": status,
            });
            api.patch_status(&write.name, &params, &Patch::Apply(body)).await.map(drop)
        }
    }
}

/// What is applied of an endpoint: nothing but what is ours.
fn applied(endpoint: &DmvpnEndpoint) -> Value {
    let mut body = json!(endpoint);
    if let Some(map) = body.as_object_mut() {
        map.remove("status");
    }
    body
}

fn same(uid: &str) -> DeleteParams {
    let guard = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    DeleteParams::default().preconditions(guard)
}

/// What is written, apart from the time of it.
fn fingerprint(op: &Op) -> u64 {
    let Op::Status(status) = op else { return hash(&format!("{op:?}")) };
    let mut status = status.clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        condition["lastTransitionTime"] = Value::Null;
    }
    hash(&status.to_string())
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_is_told_once_while_the_watch_lags() {
        let note = Note { warning: false, reason: "Accepted".into(), text: "the object is valid".into() };
        let memo = Memo {
            what: (1, Some("7".into())),
            refused: false,
            tries: 1,
            told: vec![note.clone()],
            not_before: Instant::now(),
        };
        assert_eq!(told_already(Some(&memo), &Some("7".into())), std::slice::from_ref(&note));
        // Once the watch has moved on, the same words tell of something new.
        assert!(told_already(Some(&memo), &Some("8".into())).is_empty());
        assert!(told_already(None, &Some("7".into())).is_empty());
    }
}
