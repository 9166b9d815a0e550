//! Which pod to ask on each node. Pure.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Pod;

/// The annotation by which kubectl, too, finds the container that is meant.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// The agent's container in our chart.
const CONTAINER: &str = "agent";

/// The agent of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AgentPod {
    pub(super) node: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) container: Option<String>,
    /// What keeps it from answering; `None`: it is ready.
    pub(super) not_ready: Option<String>,
}

impl fmt::Display for AgentPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One pod a node, by the node's name: while one agent replaces another, the one that is ready.
pub(super) fn choose(pods: Vec<Pod>) -> Vec<AgentPod> {
    let mut chosen: BTreeMap<String, (bool, AgentPod)> = BTreeMap::new();
    for pod in pods {
        let going = pod.metadata.deletion_timestamp.is_some();
        let Some(agent) = agent(pod) else { continue };
        // Ready before not ready, staying before going.
        let rank = |going: bool, agent: &AgentPod| (agent.not_ready.is_some(), going);
        match chosen.get(&agent.node) {
            Some((old_going, old)) if rank(*old_going, old) <= rank(going, &agent) => {}
            _ => drop(chosen.insert(agent.node.clone(), (going, agent))),
        }
    }
    chosen.into_values().map(|(_, agent)| agent).collect()
}

/// `None`: it is on no node yet, so it is nobody's agent.
fn agent(pod: Pod) -> Option<AgentPod> {
    let spec = pod.spec?;
    let annotations = pod.metadata.annotations.unwrap_or_default();
    let named = |name: &str| spec.containers.iter().any(|c| c.name == name).then(|| name.to_owned());
    let container = annotations.get(DEFAULT_CONTAINER).and_then(|n| named(n)).or_else(|| named(CONTAINER));
    let status = pod.status.unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let ready = conditions.iter().find(|c| c.type_ == "Ready");
    let phase = status.phase.unwrap_or_else(|| "no phase".to_owned());
    let waiting = status.container_statuses.iter().flatten().find_map(|c| {
        let waiting = c.state.as_ref()?.waiting.as_ref()?;
        waiting.reason.clone()
    });
    // A pod that runs can be asked, also when its probe fails: that is when one wants to ask.
    let not_ready = match phase.as_str() {
        "Running" if waiting.is_none() => None,
        _ => {
            let reason = waiting.or_else(|| ready.and_then(|c| c.reason.clone()));
            Some(reason.map_or_else(|| phase.clone(), |reason| format!("{phase}, {reason}")))
        }
    };
    Some(AgentPod {
        node: spec.node_name?,
        namespace: pod.metadata.namespace.unwrap_or_default(),
        name: pod.metadata.name.unwrap_or_default(),
        container,
        not_ready,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, phase: &str, more: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "dmvpn-system"},
            "spec": {"nodeName": node, "containers": [{"name": "agent"}]},
            "status": {"phase": phase}
        });
        for (path, value) in more.as_object().into_iter().flatten() {
            let (parent, leaf) = path.rsplit_once('/').expect("a path");
            pod.pointer_mut(parent).expect("its parent")[leaf] = value.clone();
        }
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn one_a_node_by_name_and_the_ready_one_first() {
        let going = json!({"/metadata/deletionTimestamp": "2026-01-01T00:00:00Z"});
        let pods = vec![
            pod("w-old", "west-1", "Running", going.clone()),
            pod("w-new", "west-1", "Pending", json!({})),
            pod("e-old", "east-1", "Running", going),
            pod("e-new", "east-1", "Running", json!({})),
            pod("nowhere", "", "Pending", json!({"/spec/nodeName": null})),
        ];
        let chosen = choose(pods);
        let names: Vec<_> = chosen.iter().map(|a| (a.node.as_str(), a.name.as_str())).collect();
        assert_eq!(names, [("east-1", "e-new"), ("west-1", "w-old")]);
        assert_eq!(chosen[0].to_string(), "dmvpn-system/e-new");
    }

    #[test]
    fn what_keeps_it_from_answering_is_named() {
        let pulling = json!({"/status/containerStatuses": [{
            "name": "agent", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImageNeverPull"}}
        }]});
        let one = |phase, more| choose(vec![pod("p", "n", phase, more)]).remove(0);
        let said = one("Pending", pulling).not_ready;
        assert_eq!(said.as_deref(), Some("Pending, ErrImageNeverPull"));
        assert_eq!(one("Failed", json!({})).not_ready.as_deref(), Some("Failed"));
        let unready = json!({"/status/conditions": [{"type": "Ready", "status": "False"}]});
        assert_eq!(one("Running", unready).not_ready, None, "it can be asked why");
    }

    #[test]
    fn the_container_is_the_annotated_one_else_ours_else_kubernetes_chooses() {
        let container = |more| choose(vec![pod("p", "n", "Running", more)]).remove(0).container;
        assert_eq!(container(json!({})).as_deref(), Some("agent"));
        let two = json!([{"name": "x"}, {"name": "y"}]);
        assert_eq!(container(json!({"/spec/containers": two})), None);
        let annotation = json!({DEFAULT_CONTAINER: "y"});
        assert_eq!(
            container(json!({"/spec/containers": two, "/metadata/annotations": annotation})).as_deref(),
            Some("y")
        );
    }
}
