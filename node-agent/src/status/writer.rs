//! The task that writes: one object after the other, each as [`super::decide`] says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::{DmvpnEndpoint, DmvpnEndpointStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Step, Written, decide, status, verdict};
use crate::backoff::Backoff;
use crate::source::kubernetes::Seen;
use crate::summary::Summary;

/// One write must not take longer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Writes the status of this node's endpoints as long as the agent and its source live.
pub fn start(
    client: Client,
    node: &str,
    mut seen: watch::Receiver<Arc<Vec<Seen>>>,
    mut summary: watch::Receiver<Arc<Summary>>,
) -> tokio::task::JoinHandle<()> {
    let writer = Writer {
        api: Api::all_with(client, &ApiResource::erase::<DmvpnEndpoint>(&())),
        params: PatchParams::apply(&crds::agent_manager(node)).force(),
        memory: BTreeMap::new(),
        failures: BTreeMap::new(),
        began: Instant::now(),
    };
    tokio::spawn(async move {
        let mut writer = writer;
        loop {
            let objects = seen.borrow_and_update().clone();
            let state = summary.borrow_and_update().clone();
            let wake = writer.turn(&objects, &state).await;
            let alive = tokio::select! {
                changed = seen.changed() => changed.is_ok(),
                changed = summary.changed() => changed.is_ok(),
                () = sleep_until(writer.began, wake) => true,
            };
            if !alive {
                return;
            }
        }
    })
}

async fn sleep_until(began: Instant, wake: Option<Duration>) {
    match wake {
        Some(at) => tokio::time::sleep_until(began + at).await,
        None => std::future::pending().await,
    }
}

struct Writer {
    api: Api<DynamicObject>,
    params: PatchParams,
    memory: BTreeMap<String, Written>,
    failures: BTreeMap<String, Failure>,
    began: Instant,
}

/// Of an object whose status could not be written.
#[derive(Debug)]
struct Failure {
    backoff: Backoff,
    retry: Duration,
}

impl Writer {
    /// Writes what is due; when to look again.
    async fn turn(&mut self, objects: &[Seen], summary: &Summary) -> Option<Duration> {
        let there = |name: &String| objects.iter().any(|o| o.name == *name);
        self.memory.retain(|name, _| there(name));
        self.failures.retain(|name, _| there(name));
        let mut wake: Option<Duration> = None;
        for object in objects {
            let Some(verdict) = verdict(object, summary) else { continue };
            let now = self.began.elapsed();
            let retry = self.failures.get(&object.name).map(|f| f.retry).filter(|at| *at > now);
            let step = decide(&verdict, &object.uid, &object.status, self.memory.get(&object.name), now);
            let later = match (step, retry) {
                (Step::Nothing, _) => {
                    // What an earlier run wrote is remembered as ours.
                    self.memory.entry(object.name.clone()).or_insert_with(|| Written {
                        uid: object.uid.clone(),
                        status: object.status.clone(),
                        at: None,
                    });
                    None
                }
                (Step::Write, None) => {
                    let new = status(&verdict, &object.status, &Time(Timestamp::now()));
                    self.write(object, new).await
                }
                (Step::Write, at) | (Step::NotBefore(_), at @ Some(_)) => at,
                (Step::NotBefore(at), None) => Some(at),
            };
            wake = wake.into_iter().chain(later).min();
        }
        wake
    }

    /// Writes one status; after a failure, when to try again.
    async fn write(&mut self, object: &Seen, status: DmvpnEndpointStatus) -> Option<Duration> {
        let name = &object.name;
        // With the UID: an object of the same name that was made anew is not meant.
        let patch = Patch::Apply(json!({
            "apiVersion": crds::API_VERSION,
            "kind": "DmvpnEndpoint",
            "metadata": {"name": name, "uid": object.uid},
            "status": &status,
        }));
        let sent = self.api.patch_status(name, &self.params, &patch);
        let error = match tokio::time::timeout(DEADLINE, sent).await {
            Ok(Ok(_)) => {
                debug!(name, state = status.state, "status written");
                let at = Some(self.began.elapsed());
                self.memory.insert(name.clone(), Written { uid: object.uid.clone(), status, at });
                self.failures.remove(name);
                return None;
            }
            Ok(Err(error)) => format!("{:#}", anyhow::Error::from(error)),
            Err(_) => format!("no answer within {} s", DEADLINE.as_secs()),
        };
        let first = !self.failures.contains_key(name);
        let failure = self.failures.entry(name.clone()).or_insert_with(|| Failure {
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(30)),
            retry: Duration::ZERO,
        });
        failure.retry = self.began.elapsed() + failure.backoff.step();
        if first {
            warn!(name, error, "status not written, trying on");
        }
        Some(failure.retry)
    }
}
