//! What is in the cluster: one reflector a kind, each with its own back-off, so that a watch that fails stops no other.
//! Every change wakes the pass.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crds::{DmvpnAddress, DmvpnEndpoint, DmvpnNetwork, DmvpnSpoke, NETWORK_LABEL};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::DefaultBackoff;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::args::RunArgs;
use crate::decode::Guarded;
use crate::pass::Snapshot;
use crate::progress::Progress;

/// Seconds that a watch lasts: less than load balancers keep an idle connection.
const WATCH_SECONDS: u32 = 200;
/// Longest wait between two attempts at a watch that fails.
const LONGEST: Duration = Duration::from_secs(5);

/// The stores of all kinds.
#[derive(Clone)]
pub struct Stores {
    networks: Store<Guarded<DmvpnNetwork>>,
    spokes: Store<Guarded<DmvpnSpoke>>,
    endpoints: Store<Guarded<DmvpnEndpoint>>,
    addresses: Store<Guarded<DmvpnAddress>>,
    nodes: Store<Node>,
    secrets: Store<Secret>,
    pods: Option<Store<Pod>>,
    tls: Store<Secret>,
    progress: Arc<Progress>,
    /// Rings when something changed.
    pub changed: Arc<Notify>,
    /// Rings when the certificate changed.
    pub tls_changed: Arc<Notify>,
}

impl Stores {
    /// Starts the watches.
    pub fn watch(client: &Client, args: &RunArgs, progress: &Arc<Progress>) -> Self {
        let changed = Arc::new(Notify::new());
        let tls_changed = Arc::new(Notify::new());
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        let start = Start { progress: progress.clone(), changed: changed.clone(), status_matters: true };
        // Their status is ours alone: what comes back of it is no news, and a look at ten thousand spokes costs something.
        let quiet = Start { status_matters: false, ..start.clone() };
        let ns = args.namespace.as_str();
        let selected = (!args.agent_selector.is_empty()).then(|| config.clone().labels(&args.agent_selector));
        let start_tls = Start { changed: tls_changed.clone(), ..start.clone() };
        Self {
            networks: quiet.watch("networks", Api::all(client.clone()), config.clone(), trim),
            spokes: quiet.watch("spokes", Api::all(client.clone()), config.clone(), trim),
            endpoints: start.watch("endpoints", Api::all(client.clone()), config.clone(), |_| {}),
            addresses: start.watch("addresses", Api::all(client.clone()), config.clone(), trim),
            nodes: start.watch("nodes", Api::all(client.clone()), config.clone(), trim_node),
            secrets: start.watch(
                "secrets",
                Api::namespaced(client.clone(), ns),
                config.clone().labels(NETWORK_LABEL),
                |_| {},
            ),
            pods: selected
                .map(|config| start.watch("pods", Api::namespaced(client.clone(), ns), config, trim_pod)),
            tls: start_tls.watch(
                "certificate",
                Api::namespaced(client.clone(), ns),
                config.fields(&format!("metadata.name={}", args.tls_secret)),
                |_| {},
            ),
            progress: progress.clone(),
            changed,
            tls_changed,
        }
    }

    /// What is in them now. Only meaningful once all of them are synced.
    pub fn snapshot(&self, namespace: &str) -> Snapshot {
        let mut snapshot = Snapshot { namespace: namespace.to_owned(), ..Snapshot::default() };
        sort(&self.networks, &mut snapshot.networks, &mut snapshot.bad_networks);
        sort(&self.spokes, &mut snapshot.spokes, &mut snapshot.bad_spokes);
        sort(&self.endpoints, &mut snapshot.endpoints, &mut snapshot.bad_endpoints);
        sort(&self.addresses, &mut snapshot.addresses, &mut Vec::new());
        snapshot.nodes = self.nodes.state().iter().map(|n| (**n).clone()).collect();
        snapshot.secrets = self.secrets.state().iter().map(|s| (**s).clone()).collect();
        snapshot.pods = self.pods.as_ref().map(|pods| pods.state().iter().map(|p| (**p).clone()).collect());
        snapshot
    }

    /// As [`Self::snapshot`], of what a node's agent may have: its endpoints, networks and Secrets. Asked for once an agent,
    /// while all of them ask: it copies nothing else.
    pub fn of_node(&self, namespace: &str, node: &str) -> Snapshot {
        let mut snapshot = Snapshot { namespace: namespace.to_owned(), ..Snapshot::default() };
        sort(&self.networks, &mut snapshot.networks, &mut Vec::new());
        let endpoints = self.endpoints.state().into_iter();
        let own = endpoints.filter_map(|it| it.0.as_ref().ok().filter(|e| e.spec.node_name == node).cloned());
        snapshot.endpoints = own.collect();
        snapshot.secrets = self.secrets.state().iter().map(|s| (**s).clone()).collect();
        snapshot
    }

    /// Networks, as they are stored here.
    pub fn networks(&self) -> Vec<Arc<Guarded<DmvpnNetwork>>> {
        self.networks.state()
    }

    /// Spokes.
    pub fn spokes(&self) -> Vec<Arc<Guarded<DmvpnSpoke>>> {
        self.spokes.state()
    }

    /// Endpoints.
    pub fn endpoints(&self) -> Vec<Arc<Guarded<DmvpnEndpoint>>> {
        self.endpoints.state()
    }

    /// Addresses.
    pub fn addresses(&self) -> Vec<Arc<Guarded<DmvpnAddress>>> {
        self.addresses.state()
    }

    /// Whether the Secret with the certificate has been looked for.
    pub fn certificate_listed(&self) -> bool {
        self.progress.watch_synced("certificate")
    }

    /// The Secret with the certificate.
    pub fn certificate(&self) -> Option<Arc<Secret>> {
        self.tls.state().into_iter().next()
    }
}

/// Sorts what was read from what was not.
fn sort<K: Clone + Resource<DynamicType = ()>>(
    store: &Store<Guarded<K>>,
    good: &mut Vec<K>,
    bad: &mut Vec<crate::decode::Undecodable>,
) {
    for object in store.state() {
        match &object.0 {
            Ok(object) => good.push(object.clone()),
            Err(object) => bad.push(object.clone()),
        }
    }
}

/// As the usual back-off of watches, which however goes on up to a minute: too long after the API server is back.
#[derive(Default)]
struct Patient(DefaultBackoff);

impl Iterator for Patient {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|wait| wait.min(LONGEST))
    }
}

impl Backoff for Patient {
    fn reset(&mut self) {
        self.0.reset();
    }
}

#[derive(Clone)]
struct Start {
    progress: Arc<Progress>,
    changed: Arc<Notify>,
    /// Whether a change of the status alone makes a pass. If not, what somebody else writes there is found by the next
    /// one, which comes within half a minute.
    status_matters: bool,
}

impl Start {
    fn watch<K>(&self, name: &'static str, api: Api<K>, config: watcher::Config, trim: fn(&mut K)) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let (store, writer) = reflector::store();
        let (progress, changed) = (self.progress.clone(), self.changed.clone());
        progress.watch_started(name);
        let (known, status_matters) = (store.clone(), self.status_matters);
        // Whether the last object that came is as it was, but for its status.
        let (echo, heard) = (Arc::new(AtomicBool::new(false)), self.status_matters);
        let (same, was_same) = (echo.clone(), echo);
        let stream = watcher(api, config)
            .backoff(Patient::default())
            .modify(move |object| {
                object.meta_mut().managed_fields = None;
                trim(object);
                if !status_matters {
                    let old = known.get(&ObjectRef::from_obj(&*object));
                    let is = old.is_some_and(|old| same_but_for_status(old.meta(), object.meta()));
                    same.store(is, Ordering::Relaxed);
                }
            })
            .reflect(writer);
        tokio::spawn(async move {
            let mut stream = std::pin::pin!(stream);
            let mut failing = false;
            while let Some(event) = stream.next().await {
                let now = Instant::now();
                match event {
                    Ok(event) => {
                        let listed = matches!(event, watcher::Event::InitDone);
                        progress.watch_event(name, listed, now);
                        progress.api_answered(now);
                        if std::mem::take(&mut failing) {
                            info!(watch = name, "watch goes on");
                        }
                        let silent = match event {
                            watcher::Event::Init | watcher::Event::InitApply(_) => true,
                            watcher::Event::Apply(_) => !heard && was_same.load(Ordering::Relaxed),
                            watcher::Event::Delete(_) | watcher::Event::InitDone => false,
                        };
                        if !silent {
                            changed.notify_one();
                        }
                    }
                    Err(error) => {
                        // Once an outage; `/healthz` has the last one.
                        if !std::mem::replace(&mut failing, true) {
                            warn!(watch = name, %error, "watch failed, trying again");
                        }
                        progress.watch_failed(name, error.to_string(), now);
                    }
                }
            }
            progress.watch_ended(name);
        });
        store
    }
}

/// Whether nothing but the status of an object can have changed: its generation counts what is wished.
fn same_but_for_status(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    let versionless = |meta: &ObjectMeta| ObjectMeta { resource_version: None, ..meta.clone() };
    versionless(old) == versionless(new)
}

/// What users note beside an object, often all of it once more, is none of our business.
fn trim<K: Resource<DynamicType = ()>>(object: &mut K) {
    object.meta_mut().annotations = None;
}

/// A Node's images and the like are most of it, and none of our business.
fn trim_node(node: &mut Node) {
    node.metadata.annotations = None;
    node.spec = node.spec.take().map(|spec| k8s_openapi::api::core::v1::NodeSpec {
        pod_cidr: spec.pod_cidr,
        pod_cidrs: spec.pod_cidrs,
        ..Default::default()
    });
    if let Some(status) = node.status.take() {
        let conditions =
            status.conditions.map(|list| list.into_iter().filter(|c| c.type_ == "Ready").collect());
        node.status = Some(k8s_openapi::api::core::v1::NodeStatus {
            conditions,
            addresses: status.addresses,
            ..Default::default()
        });
    }
}

/// Of an agent's pod it matters where it is and whether it is Ready.
fn trim_pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    if let Some(spec) = pod.spec.take() {
        pod.spec =
            Some(k8s_openapi::api::core::v1::PodSpec { node_name: spec.node_name, ..Default::default() });
    }
    if let Some(status) = pod.status.take() {
        let conditions =
            status.conditions.map(|list| list.into_iter().filter(|c| c.type_ == "Ready").collect());
        pod.status = Some(k8s_openapi::api::core::v1::PodStatus { conditions, ..Default::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_comes_back_is_told_from_a_change() {
        let meta = |version: &str, generation: i64| ObjectMeta {
            uid: Some("u".into()),
            resource_version: Some(version.into()),
            generation: Some(generation),
            ..ObjectMeta::default()
        };
        assert!(same_but_for_status(&meta("1", 1), &meta("2", 1)));
        assert!(!same_but_for_status(&meta("1", 1), &meta("2", 2)));
        let going = ObjectMeta { finalizers: Some(vec!["other".into()]), ..meta("2", 1) };
        assert!(!same_but_for_status(&meta("1", 1), &going));
        assert!(!same_but_for_status(&meta("1", 1), &ObjectMeta { uid: Some("v".into()), ..meta("2", 1) }));
    }

    #[test]
    fn an_outage_makes_no_watch_wait_for_long() {
        let waits: Vec<_> = Patient::default().take(20).collect();
        assert_eq!(waits.len(), 20, "it gives up: {waits:?}");
        assert!(waits.iter().all(|wait| *wait <= LONGEST), "{waits:?}");
        assert!(waits.first() < waits.last(), "{waits:?}");
    }
}
