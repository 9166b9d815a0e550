//! Which nodes' agents do not report: their Node is not Ready, or no agent's pod on them has been Ready for a while.
//! There are no heartbeats in any status; Node and pod say it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::pass::{Snapshot, name, stays};

/// How long a node may be without a Ready agent: a roll-out of a new version is no silence.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Since when nodes have been without a Ready agent.
#[derive(Debug, Default)]
pub struct Silence {
    since: BTreeMap<String, Instant>,
}

impl Silence {
    /// The nodes that are silent now, and when the next one will be.
    pub fn observe(&mut self, snapshot: &Snapshot, now: Instant) -> (BTreeSet<String>, Option<Instant>) {
        let served: Option<BTreeSet<&str>> =
            snapshot.pods.as_ref().map(|pods| pods.iter().filter_map(ready_on).collect());
        let concerned: BTreeSet<&str> =
            snapshot.endpoints.iter().map(|e| e.spec.node_name.as_str()).collect();
        let (mut silent, mut next) = (BTreeSet::new(), None::<Instant>);
        let mut since = BTreeMap::new();
        for node in snapshot.nodes.iter().filter(|n| concerned.contains(name(*n))) {
            let node_name = name(node);
            if !node_ready(node) {
                silent.insert(node_name.to_owned());
                // A node that comes back gets the time that its pod needs.
            } else if served.as_ref().is_some_and(|s| !s.contains(node_name)) {
                let start = self.since.get(node_name).copied().unwrap_or(now);
                since.insert(node_name.to_owned(), start);
                let end = start + PATIENCE;
                if end <= now {
                    silent.insert(node_name.to_owned());
                } else {
                    next = Some(next.map_or(end, |n| n.min(end)));
                }
            }
        }
        self.since = since;
        (silent, next)
    }
}

/// Whether a Node is Ready.
pub fn node_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The node of a pod that is Ready.
fn ready_on(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = stays(pod) && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    ready.then(|| pod.spec.as_ref()?.node_name.as_deref()).flatten()
}
