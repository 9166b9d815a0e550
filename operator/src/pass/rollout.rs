//! Changes of a network, a few nodes at a time (`spec.rollout`): an endpoint gets the change when at most `maxUnavailable`
//! others that have it are not Ready again yet. One that does not become Ready stops the rollout, and is named.
//!
//! What a spoke, a node or `suspend` change is no rollout. Spokes come before hubs, so that a bad change meets one
//! branch and not all of them. What is not Ready anyhow gets the change at once: it may be the cure. Nodes whose agent
//! does not report come last and are not waited for.
//!
//! Nothing is remembered: an annotation on each endpoint says how it stood when it got what it has.

use std::collections::{BTreeMap, BTreeSet};

use crds::endpoint::{Desired, ROLLOUT_ANNOTATION, Role};
use crds::{ConditionStatus, ConditionType, DmvpnEndpoint, DmvpnEndpointSpec, Reason, conditions};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Endpoints, Facts, stays};

/// How long an endpoint may take to be Ready again, in seconds.
const PATIENCE: i64 = 60;
/// It was Ready when it got what it has.
const WAS_READY: &str = "Ready";
/// It was not.
const WAS_NOT: &str = "NotReady";

/// A rollout that is not at its end.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Rollout {
    /// Endpoints that have the change, or need none.
    pub have: usize,
    /// Endpoints that wait for it.
    pub waiting: usize,
    /// Nodes that have it and are not Ready again yet.
    pub moving: Vec<String>,
    /// Nodes that have it and do not become Ready, and why: while there are any the others keep what they have.
    pub failed: Vec<String>,
}

/// Lets the endpoints whose turn it is not keep what they have. Returns the rollouts that go on, by network.
pub(super) fn gate(facts: &Facts<'_>, wanted: &mut Endpoints, now: &Time) -> BTreeMap<String, Rollout> {
    let mut rollouts = BTreeMap::new();
    for (network, object) in &facts.networks {
        let Some(rollout) = &object.spec.rollout else { continue };
        let most = usize::from(rollout.max_unavailable);
        let turn = Turn::of(facts, wanted, network, now);
        let mut outcome = Rollout { moving: turn.moving, failed: turn.failed, have: turn.have, waiting: 0 };
        let free = if outcome.failed.is_empty() { most.saturating_sub(outcome.moving.len()) } else { 0 };
        // The silent ones get it when all others have it and do well.
        let done = outcome.failed.is_empty() && outcome.moving.is_empty() && turn.well.is_empty();
        let now_on: BTreeSet<String> = turn
            .unwell
            .into_iter()
            .chain(turn.well.iter().take(free).cloned())
            .chain(turn.silent.iter().filter(|_| done).cloned())
            .collect();
        for name in turn.well.iter().chain(&turn.silent).filter(|name| !now_on.contains(*name)) {
            outcome.waiting += 1;
            if let (Some(w), Some(old)) = (wanted.get_mut(name), facts.endpoints.get(name.as_str())) {
                w.endpoint.spec = in_turn(&old.spec, &w.endpoint.spec);
            }
        }
        for (name, w) in wanted.iter_mut().filter(|(_, w)| !w.held && w.endpoint.spec.network == *network) {
            let old = facts.endpoints.get(name.as_str()).copied();
            mark(&mut w.endpoint, old, now_on.contains(name), now);
        }
        if outcome.waiting > 0 {
            rollouts.insert((*network).to_owned(), outcome);
        }
    }
    rollouts
}

/// The endpoints of one network.
#[derive(Default)]
struct Turn {
    have: usize,
    moving: Vec<String>,
    failed: Vec<String>,
    /// Those that the change is still before: spokes first. They are Ready.
    well: Vec<String>,
    /// They are not.
    unwell: Vec<String>,
    /// Nobody knows.
    silent: Vec<String>,
}

impl Turn {
    fn of(facts: &Facts<'_>, wanted: &Endpoints, network: &str, now: &Time) -> Self {
        let mut turn = Self::default();
        let mut well = Vec::new();
        for (name, w) in wanted.iter().filter(|(_, w)| !w.held && w.endpoint.spec.network == network) {
            let Some(old) = facts.endpoints.get(name.as_str()).copied().filter(|old| is_there(old)) else {
                // It is new.
                turn.have += 1;
                continue;
            };
            let silent = facts.snapshot.silent.contains(&old.spec.node_name);
            if concerns(&old.spec, &w.endpoint.spec) {
                match (silent, was_ready(old)) {
                    (true, _) => turn.silent.push(name.clone()),
                    (false, true) => well.push((old.spec.role != Role::Spoke, name.clone())),
                    (false, false) => turn.unwell.push(name.clone()),
                }
                continue;
            }
            turn.have += 1;
            let expected = marked(old) == Some(WAS_READY) && !silent && !old.spec.suspend;
            // Only a change that its agent keeps has come to stay.
            let open = !is_ready(old) || facts.snapshot.unproven.contains(name);
            if expected && open {
                match failure(old, now) {
                    Some(why) => turn.failed.push(format!("{} ({why})", old.spec.node_name)),
                    None => turn.moving.push(old.spec.node_name.clone()),
                }
            }
        }
        well.sort();
        turn.well = well.into_iter().map(|(_, name)| name).collect();
        turn
    }
}

fn is_there(old: &DmvpnEndpoint) -> bool {
    stays(old) && old.spec.desired == Desired::Present
}

/// What an endpoint gets before its turn: what it has, with what is not a matter of the network.
fn in_turn(old: &DmvpnEndpointSpec, new: &DmvpnEndpointSpec) -> DmvpnEndpointSpec {
    // A tunnel that comes in the place of routes by a gateway, or goes for them, is a matter of spokes.
    if old.gateway.is_some() != new.gateway.is_some() {
        return new.clone();
    }
    let mut spec = old.clone();
    spec.gateway.clone_from(&new.gateway);
    spec.tells_prefixes = new.tells_prefixes;
    spec.node_uid.clone_from(&new.node_uid);
    spec.desired = new.desired;
    spec.suspend = new.suspend;
    spec.addresses.clone_from(&new.addresses);
    spec.subnets.clone_from(&new.subnets);
    spec.external.clone_from(&new.external);
    spec.tunnel.source.clone_from(&new.tunnel.source);
    spec.nhrp.address_request.clone_from(&new.nhrp.address_request);
    spec.nhrp.registration_unique = new.nhrp.registration_unique;
    spec
}

/// Whether a change is one of the network. One that makes a hub of a spoke is the node's.
fn concerns(old: &DmvpnEndpointSpec, new: &DmvpnEndpointSpec) -> bool {
    old.role == new.role && in_turn(old, new) != *new
}

fn ready(endpoint: &DmvpnEndpoint) -> Option<&Condition> {
    let all = endpoint.status.iter().flat_map(|status| &status.conditions);
    all.into_iter().find(|c| c.type_ == ConditionType::Ready.as_str())
}

fn observed(endpoint: &DmvpnEndpoint) -> bool {
    endpoint.status.as_ref().is_some_and(|it| it.observed_generation == endpoint.metadata.generation)
}

/// It does what it should, in the version that is stored.
fn is_ready(endpoint: &DmvpnEndpoint) -> bool {
    observed(endpoint) && ready(endpoint).is_some_and(|c| c.status == ConditionStatus::True.as_str())
}

/// It does what it should, or would if it had not been given its last change, which is rolled back.
fn was_ready(endpoint: &DmvpnEndpoint) -> bool {
    let status = endpoint.status.as_ref();
    let up = status.is_some_and(|it| it.state.as_deref() == Some("Up"));
    ready(endpoint).is_some_and(|c| {
        c.status == ConditionStatus::True.as_str() || (up && c.reason == Reason::RolledBack.as_str())
    })
}

/// Why an endpoint does not become Ready by itself.
fn failure(endpoint: &DmvpnEndpoint, now: &Time) -> Option<String> {
    let ready = ready(endpoint).filter(|_| observed(endpoint) && !is_ready(endpoint))?;
    let list = endpoint.status.as_ref().map(|it| it.conditions.as_slice()).unwrap_or_default();
    let late = now.0.as_second() - ready.last_transition_time.0.as_second() > PATIENCE;
    let separator = if ready.message.is_empty() { "" } else { ": " };
    (late || conditions::is_true(list, ConditionType::Stalled))
        .then(|| format!("{}{separator}{}", ready.reason, ready.message))
}

fn marked(endpoint: &DmvpnEndpoint) -> Option<&str> {
    let annotations = endpoint.metadata.annotations.as_ref()?;
    annotations.get(ROLLOUT_ANNOTATION).map(String::as_str)
}

/// Notes how an endpoint stands that gets the change now; others keep their note.
fn mark(new: &mut DmvpnEndpoint, old: Option<&DmvpnEndpoint>, gets_it: bool, now: &Time) {
    let on_its_way = |old| marked(old) == Some(WAS_READY) && failure(old, now).is_none();
    let note = match old {
        None => Some(WAS_NOT),
        Some(old) if gets_it => Some(if was_ready(old) || on_its_way(old) { WAS_READY } else { WAS_NOT }),
        Some(old) => marked(old),
    };
    let annotations = new.metadata.annotations.get_or_insert_default();
    match note {
        Some(note) => annotations.insert(ROLLOUT_ANNOTATION.to_owned(), note.to_owned()),
        None => annotations.remove(ROLLOUT_ANNOTATION),
    };
    if annotations.is_empty() {
        new.metadata.annotations = None;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pass::{Op, name};
    use crate::testing::{Cluster, at};

    const ALL: [&str; 3] = ["net-hub", "net-a", "net-b"];

    /// Two branches and a hub, all Ready.
    fn ready() -> Cluster {
        let mut cluster = Cluster::with_network(json!({"rollout": {"maxUnavailable": 1}}));
        cluster.spoke("a", "a", json!({"overlayAddresses": ["10.255.0.11"]}));
        cluster.spoke("b", "b", json!({"overlayAddresses": ["10.255.0.12"]}));
        cluster.settle();
        ALL.iter().for_each(|endpoint| cluster.report(endpoint, "Up", "True", "Up"));
        cluster.settle();
        cluster
    }

    fn change(cluster: &mut Cluster, mtu: i32) {
        cluster.network("net", json!({"rollout": {"maxUnavailable": 1}, "tunnel": {"mtu": mtu}}));
    }

    /// Endpoints that something was applied to.
    fn applied(cluster: &mut Cluster) -> Vec<String> {
        let done = cluster.settle();
        done.iter().filter_map(|it| it.strip_prefix("apply DmvpnEndpoint/")).map(str::to_owned).collect()
    }

    /// The agent says that nothing will come of it.
    fn fails(cluster: &mut Cluster, endpoint: &str) {
        cluster.report(endpoint, "Up", "False", "RolledBack");
        let found = cluster.snapshot.endpoints.iter_mut().find(|e| name(*e) == endpoint).unwrap();
        let status = found.status.as_mut().unwrap();
        let mut stalled = status.conditions[0].clone();
        (stalled.type_, stalled.status) = ("Stalled".into(), "True".into());
        status.conditions.push(stalled);
    }

    fn told(cluster: &Cluster) -> String {
        cluster.condition("DmvpnNetwork/net", "Ready")
    }

    #[test]
    fn one_after_the_other_spokes_first() {
        let mut cluster = ready();
        change(&mut cluster, 1300);
        for endpoint in ["net-a", "net-b", "net-hub"] {
            assert_eq!(applied(&mut cluster), [endpoint]);
            assert_eq!(applied(&mut cluster), Vec::<String>::new(), "{endpoint} is not Ready again");
            if endpoint == "net-a" {
                let want = "False RollingOut 1 of 3 endpoints have the change; waiting for a";
                assert_eq!(told(&cluster), want);
                assert!(cluster.condition("DmvpnNetwork/net", "Reconciling").starts_with("True RollingOut"));
                // Its tunnel is as it was.
                assert!(cluster.condition("DmvpnSpoke/b", "Ready").starts_with("True Up"));
            }
            // Neither what it said of the version before, nor that it is on its way, is enough.
            cluster.report(endpoint, "NHRP", "False", "Registering");
            assert_eq!(applied(&mut cluster), Vec::<String>::new());
            cluster.report(endpoint, "Up", "True", "Up");
        }
        assert_eq!(applied(&mut cluster), Vec::<String>::new());
        assert!(told(&cluster).starts_with("True Up 3 of 3"), "{}", told(&cluster));
    }

    #[test]
    fn a_node_that_fails_stops_it_and_is_named_until_it_is_cured() {
        let mut cluster = ready();
        change(&mut cluster, 1300);
        assert_eq!(applied(&mut cluster), ["net-a"]);
        fails(&mut cluster, "net-a");
        assert_eq!(applied(&mut cluster), Vec::<String>::new());
        let told = told(&cluster);
        assert!(told.starts_with("False RolloutStopped 1 of 3") && told.contains("a (RolledBack)"), "{told}");
        assert!(cluster.condition("DmvpnNetwork/net", "Stalled").starts_with("True RolloutStopped"));
        // What a spoke wants goes on.
        let more = json!({"overlayAddresses": ["10.255.0.12"], "subnets": [{"cidr": "10.30.0.0/24"}]});
        cluster.spoke("b", "b", more);
        assert_eq!(applied(&mut cluster), ["net-b"]);
        assert_ne!(cluster.endpoint("net-b").spec.tunnel.mtu, 1300);
        cluster.report("net-b", "Up", "True", "Up");
        // A cure is tried there first, and there alone.
        change(&mut cluster, 1350);
        assert_eq!(applied(&mut cluster), ["net-a"]);
        cluster.report("net-a", "Up", "True", "Up");
        assert_eq!(applied(&mut cluster), ["net-b"]);
    }

    #[test]
    fn a_change_that_may_still_be_taken_back_is_waited_for() {
        let mut cluster = ready();
        change(&mut cluster, 1300);
        assert_eq!(applied(&mut cluster), ["net-a"]);
        cluster.report("net-a", "Up", "True", "Up");
        cluster.snapshot.unproven.insert("net-a".into());
        assert_eq!(applied(&mut cluster), Vec::<String>::new());
        assert!(told(&cluster).ends_with("waiting for a"), "{}", told(&cluster));
        cluster.snapshot.unproven.clear();
        assert_eq!(applied(&mut cluster), ["net-b"]);
    }

    #[test]
    fn one_that_is_late_has_failed() {
        let mut cluster = ready();
        change(&mut cluster, 1300);
        applied(&mut cluster);
        cluster.report("net-a", "NHRP", "False", "NoAnswer");
        let stopped = |now| {
            super::super::plan(&cluster.snapshot, &at(now)).iter().any(|write| match &write.op {
                Op::Status(status) => status.to_string().contains("RolloutStopped"),
                _ => false,
            })
        };
        assert!(!stopped(PATIENCE) && stopped(PATIENCE + 1));
    }

    #[test]
    fn neither_a_dead_node_nor_one_that_is_down_anyhow_is_waited_for() {
        let mut cluster = ready();
        cluster.snapshot.silent.insert("a".into());
        cluster.report("net-b", "NHRP", "False", "NoAnswer");
        cluster.settle();
        change(&mut cluster, 1300);
        // At once where nothing is to be lost; the hub beside it, the silent one last.
        assert_eq!(applied(&mut cluster), ["net-b", "net-hub"]);
        cluster.report("net-hub", "Up", "True", "Up");
        assert_eq!(applied(&mut cluster), ["net-a"]);
    }

    #[test]
    fn without_rollout_all_get_it_at_once() {
        let mut cluster = ready();
        cluster.network("net", json!({"tunnel": {"mtu": 1300}}));
        assert_eq!(applied(&mut cluster), ["net-a", "net-b", "net-hub"]);
    }

    #[test]
    fn nothing_is_written_twice_where_a_network_has_rollout() {
        let mut cluster = ready();
        assert_eq!(cluster.plan(), []);
        assert!(cluster.endpoint("net-a").metadata.annotations.is_some());
        // The annotation alone is no reason to write.
        for endpoint in &mut cluster.snapshot.endpoints {
            endpoint.metadata.annotations = None;
        }
        assert_eq!(cluster.plan(), []);
    }
}
