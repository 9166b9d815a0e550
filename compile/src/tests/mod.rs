//! Tables of inputs and what follows from them.

mod addressing;
mod behind;
mod conflicts;
mod endpoints;
mod hierarchy;
mod identities;
mod in_band;
mod order;
mod qos;
mod unsupported;

use std::collections::BTreeMap;

use crds::{ConditionStatus, ConditionType, DmvpnEndpoint, Reason};

use crate::manifest::{self, Object};
use crate::support::Support;
use crate::{Allocated, Compiled, Inputs, NodeFacts, compile, compile_with};

/// The network of the quickstart, with `spec` lines added (two blanks in front of each).
fn network(name: &str, extra: &str) -> String {
    format!(
        "---\napiVersion: dmvpn.io/v1alpha1\nkind: DmvpnNetwork\nmetadata: {{name: {name}}}\nspec:\n  phase: Phase3\n  \
         overlay: [10.255.0.0/16]\n  hubs:\n  - {{name: hub1, overlayAddresses: [10.255.0.1], nbma: [{{address: \
         192.0.2.2}}]}}\n{extra}\n"
    )
}

/// A spoke on the node of its own name, with `spec` lines added.
fn spoke(name: &str, extra: &str) -> String {
    spoke_at(name, &format!("{{type: Node, nodeName: {name}}}"), extra)
}

fn spoke_at(name: &str, placement: &str, extra: &str) -> String {
    format!(
        "---\napiVersion: dmvpn.io/v1alpha1\nkind: DmvpnSpoke\nmetadata: {{name: {name}}}\nspec:\n  networkRef: {{name: \
         branches}}\n  placement: {placement}\n{extra}\n"
    )
}

/// Inputs of a YAML text and nodes such as `hub:dmvpn.io/hub=hub1` or `branch-a`.
fn inputs(yaml: &str, nodes: &[&str]) -> Inputs {
    let mut inputs = Inputs { nodes: nodes.iter().map(|n| node(n)).collect(), ..Inputs::default() };
    for object in manifest::parse(yaml, "test.yaml") {
        match object.unwrap_or_else(|p| panic!("{p}")) {
            Object::Network(network) => inputs.networks.push(*network),
            Object::Spoke(spoke) => inputs.spokes.push(*spoke),
            other => panic!("{other:?}"),
        }
    }
    inputs
}

fn node(text: &str) -> NodeFacts {
    let (name, labels) = text.split_once(':').unwrap_or((text, ""));
    let labels: BTreeMap<String, String> =
        labels.split(',').filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
    NodeFacts { name: name.into(), labels, ready: true, ..NodeFacts::default() }
}

impl Compiled {
    fn endpoint(&self, name: &str) -> &DmvpnEndpoint {
        self.endpoints
            .iter()
            .find(|e| e.metadata.name.as_deref() == Some(name))
            .unwrap_or_else(|| panic!("no endpoint {name} among {:?}", self.names()))
    }

    fn names(&self) -> Vec<&str> {
        self.endpoints.iter().filter_map(|e| e.metadata.name.as_deref()).collect()
    }

    /// Faults of an object as `Reason field: message`.
    fn faults(&self, object: &str) -> Vec<String> {
        let (kind, name) = object.split_once('/').unwrap();
        let found = self.conditions.iter().find(|c| c.kind == kind && c.name == name);
        found
            .unwrap_or_else(|| panic!("no conditions of {object}"))
            .problems()
            .map(|f| format!("{} {}: {}", f.reason, f.field, f.message))
            .collect()
    }

    /// All faults of all objects.
    fn all_faults(&self) -> Vec<String> {
        let objects: Vec<String> = self.conditions.iter().map(|c| format!("{}/{}", c.kind, c.name)).collect();
        objects.iter().flat_map(|o| self.faults(o).into_iter().map(move |f| format!("{o} {f}"))).collect()
    }
}
