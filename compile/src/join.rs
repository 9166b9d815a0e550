//! Objects meet: oldest first, so that of two that contradict each other the younger is at fault.

use std::collections::BTreeMap;

use crds::network::HubMode;
use crds::{DmvpnNetwork, DmvpnSpoke, HUB_LABEL, Reason};
use kube::ResourceExt;
use serde::Serialize;

use crate::model::{Allocated, Inputs, NodeFacts};
use crate::network::Network;
use crate::site::Site;
use crate::spoke::Spoke;
use crate::support::Support;

/// All networks, oldest first.
pub(crate) fn read_networks(objects: &[DmvpnNetwork], support: Support) -> Vec<Network<'_>> {
    by_age(objects)
        .into_iter()
        .map(|(object, doubled)| {
            let mut network = Network::new(object, support);
            if doubled {
                network.faults.degrade(
                    Reason::SettingConflict,
                    "metadata.name",
                    doubled_message(&network.name),
                );
            }
            network
        })
        .collect()
}

/// All spokes, oldest first.
pub(crate) fn read_spokes<'a>(
    objects: &'a [DmvpnSpoke],
    nodes: &[&'a NodeFacts],
    support: Support,
) -> Vec<Spoke<'a>> {
    by_age(objects)
        .into_iter()
        .map(|(object, doubled)| {
            let mut spoke = Spoke::new(object, nodes, support);
            if doubled {
                spoke.faults.degrade(Reason::SettingConflict, "metadata.name", doubled_message(&spoke.name));
            }
            spoke
        })
        .collect()
}

/// Claims first, so that nothing that somebody states is allocated; then the allocations of earlier that
/// still have an owner, whether or not that is accepted just now: a slip in an edit must not cost an address.
pub(crate) fn keep_allocations(inputs: &Inputs, networks: &mut [Network<'_>], spokes: &[Spoke<'_>]) {
    for network in networks {
        let own = || spokes.iter().filter(|s| s.object.spec.network_ref.name == network.name);
        let claims: Vec<_> = own().flat_map(|s| s.addresses.iter().copied()).collect();
        claims.into_iter().for_each(|a| network.addresses.claim(a));
        let by_owner: BTreeMap<&str, &Spoke<'_>> = own().map(|s| (s.name.as_str(), s)).collect();
        let mut kept: Vec<&Allocated> = inputs
            .addresses
            .iter()
            .filter(|a| a.network == network.name)
            .filter(|a| {
                let name = a.owner.split('/').next().unwrap_or_default();
                by_owner.get(name).is_some_and(|spoke| spoke.owns(&a.owner))
            })
            .collect();
        kept.sort();
        kept.into_iter().for_each(|a| network.addresses.keep(a.address, &a.owner));
        let in_use = inputs.in_use.iter().filter(|a| a.network == network.name);
        in_use.for_each(|a| network.addresses.claim(a.address));
    }
}

/// Places hubs, lets spokes join, and gathers what is on each node.
pub(crate) fn join<'a>(
    networks: &mut [Network<'_>],
    spokes: &mut [Spoke<'a>],
    nodes: &[&'a NodeFacts],
) -> Vec<Site<'a>> {
    let mut sites: BTreeMap<(usize, &str), Site<'a>> = BTreeMap::new();
    for (index, network) in networks.iter_mut().enumerate() {
        if network.accepted() {
            let placed = place_hubs(network, nodes);
            network.hubs_are_here = placed.len() == network.running_hubs().len();
            for (hub, node) in placed {
                sites.insert((index, &node.name), Site::new(index, node, Some(hub)));
            }
        }
    }
    let by_name: BTreeMap<String, usize> =
        networks.iter().enumerate().map(|(i, n)| (n.name.clone(), i)).collect();
    for (at, spoke) in spokes.iter_mut().enumerate() {
        let wanted = &spoke.object.spec.network_ref.name;
        let found = by_name.get(wanted).and_then(|i| Some((*i, networks.get_mut(*i)?)));
        let Some((index, network)) = found else {
            let message = format!("there is no DmvpnNetwork/{wanted}: create it, or correct the name");
            spoke.faults.reject(Reason::NetworkNotFound, "spec.networkRef.name", message);
            continue;
        };
        if !network.accepted() {
            let message =
                format!("DmvpnNetwork/{wanted} is not accepted: correct it first (see its conditions)");
            spoke.faults.wait(Reason::NetworkNotAccepted, "spec.networkRef.name", message);
            continue;
        }
        if spoke.accepted() {
            check_addressing(spoke, network, |node| {
                sites.get(&(index, node)).is_some_and(|s| s.hub.is_some())
            });
        }
        if spoke.accepted() {
            spoke.join(network);
        }
        if !spoke.accepted() {
            continue;
        }
        for node in spoke.nodes.clone() {
            let site = sites.entry((index, &node.name)).or_insert_with(|| Site::new(index, node, None));
            site.add(at, spoke, network);
        }
    }
    sites.into_values().filter(Site::is_used).collect()
}

/// Whether the spoke has, or can get, an address on each of its nodes; a hub's node has one already.
fn check_addressing(spoke: &mut Spoke<'_>, network: &mut Network<'_>, is_hub: impl Fn(&str) -> bool) {
    if !spoke.object.spec.overlay_addresses.is_empty() || spoke.external() {
        return;
    }
    if spoke.nodes.iter().all(|n| is_hub(&n.name)) || network.addresses.has_pools() {
        return;
    }
    let message = format!(
        "it has no overlay address: add overlayAddresses, or addressing.pools to DmvpnNetwork/{}",
        network.name
    );
    spoke.faults.reject(Reason::AddressMissing, "spec.overlayAddresses", message);
}

/// Which hub runs on which node.
fn place_hubs<'a>(network: &mut Network<'_>, nodes: &[&'a NodeFacts]) -> Vec<(String, &'a NodeFacts)> {
    let mut placed: Vec<(String, &'a NodeFacts)> = Vec::new();
    let hubs: Vec<_> = network.hubs.values().map(|h| (h.hub, h.index)).collect();
    for (hub, index) in hubs {
        if hub.mode == HubMode::Disabled {
            continue;
        }
        let fits = |node: &&&'a NodeFacts| match &hub.node_selector {
            Some(wanted) => wanted.iter().all(|(k, v)| node.labels.get(k) == Some(v)),
            None => node.labels.get(HUB_LABEL) == Some(&hub.name),
        };
        let matching: Vec<&'a NodeFacts> = nodes.iter().filter(fits).copied().collect();
        let [node, rest @ ..] = matching.as_slice() else { continue };
        let field = format!("spec.hubs[{index}].nodeSelector");
        if !rest.is_empty() {
            let names: Vec<&str> = matching.iter().map(|n| n.name.as_str()).collect();
            let message = format!(
                "hub {} is placed on nodes {}: leave its labels on one of them; {} is used",
                hub.name,
                names.join(", "),
                node.name
            );
            network.faults.degrade(Reason::HubOnSeveralNodes, field.clone(), message);
        }
        if let Some((other, _)) = placed.iter().find(|(_, n)| n.name == node.name) {
            let message = format!(
                "hubs {other} and {} are both placed on node {}: move the label of one of them to another node",
                hub.name, node.name
            );
            network.faults.degrade(Reason::HubsShareNode, field, message);
            continue;
        }
        placed.push((hub.name.clone(), node));
    }
    placed
}

/// Objects by age (creation, then name), one of each name, and whether there were different ones of that
/// name.
fn by_age<K: ResourceExt + Serialize>(objects: &[K]) -> Vec<(&K, bool)> {
    let mut named: BTreeMap<String, Vec<(String, &K)>> = BTreeMap::new();
    for object in objects {
        // what tells two objects of one name apart is their content, whatever the order they came in
        let content = serde_json::to_string(object).unwrap_or_default();
        named.entry(object.name_any()).or_default().push((content, object));
    }
    let mut aged: Vec<(&K, bool)> = Vec::new();
    for mut doubles in named.into_values() {
        doubles.sort_by(|a, b| (age(a.1), &a.0).cmp(&(age(b.1), &b.0)));
        doubles.dedup_by(|a, b| a.0 == b.0);
        if let Some((_, first)) = doubles.first() {
            aged.push((first, doubles.len() > 1));
        }
    }
    aged.sort_by_key(|(object, _)| (age(*object), object.name_any()));
    aged
}

fn age<K: ResourceExt>(object: &K) -> Option<k8s_openapi::jiff::Timestamp> {
    object.creation_timestamp().map(|t| t.0)
}

fn doubled_message(name: &str) -> String {
    format!("there are several objects named {name} with different content: remove all but one")
}
