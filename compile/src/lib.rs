//! From what users wrote to what each node has to do: networks + spokes + nodes + allocations → endpoints,
//! allocations and conditions. Pure: no clock, no I/O; the same inputs in any order give the same output.
//!
//! The way through: read each network ([`network`]) and spoke ([`spoke`]) with what is wrong with it alone;
//! let the spokes join their networks, oldest first, so that of two that contradict each other the younger is
//! at fault ([`join`]); gather what is on each node ([`site`]); leave out what cannot be together on a node
//! ([`conflicts`]); write the endpoints ([`render`]), and those of nodes behind them ([`behind`]). An object at fault says why and stops nobody else. What
//! this version cannot do is refused by name ([`support`]).

#![forbid(unsafe_code)]

mod addresses;
mod behind;
mod conflicts;
mod findings;
mod hierarchy;
mod in_band;
mod join;
pub mod manifest;
mod model;
mod names;
mod network;
mod prefixes;
mod render;
mod site;
mod spoke;
mod support;
#[cfg(test)]
mod tests;

pub use model::{Allocated, Compiled, Finding, Inputs, Membership, NodeFacts, ObjectConditions, Reached};

use crate::network::Network;
use crate::support::Support;

/// Compiles all inputs.
pub fn compile(inputs: &Inputs) -> Compiled {
    compile_with(inputs, Support::THIS_VERSION)
}

fn compile_with(inputs: &Inputs, support: Support) -> Compiled {
    let mut nodes: Vec<&NodeFacts> = inputs.nodes.iter().collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes.dedup_by(|a, b| a.name == b.name);

    let mut networks = join::read_networks(&inputs.networks, support);
    let cluster = nodes.iter().any(|node| node.uid.is_some());
    for network in &mut networks {
        support.check_place(&network.object.spec, cluster, &mut network.faults);
    }
    let mut spokes = join::read_spokes(&inputs.spokes, &nodes, support);
    join::keep_allocations(inputs, &mut networks, &spokes);
    let mut sites = join::join(&mut networks, &mut spokes, &nodes);
    conflicts::separate(&mut sites, &mut networks, &mut spokes);
    behind::announce_pods(&sites, &mut networks, &mut spokes);
    let behind = behind::find(&sites, &networks, &mut spokes);
    networks.iter_mut().for_each(Network::check_stated);

    let mut endpoints: Vec<_> =
        sites.iter().filter_map(|site| render::endpoint(site, &networks, &spokes)).collect();
    behind::endpoints(&behind, &sites, &networks, &mut spokes, &inputs.reached, &mut endpoints);
    endpoints.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));

    let mut members: Vec<Membership> =
        sites.iter().flat_map(|site| site.memberships(&networks, &spokes)).collect();
    members.extend(behind.iter().filter_map(|it| it.membership(&sites, &networks, &spokes)));
    members.sort();

    let mut allocations: Vec<Allocated> = networks
        .iter()
        .flat_map(|network| {
            network.addresses.allocations().map(|(address, owner)| Allocated {
                network: network.name.clone(),
                address,
                owner: owner.to_owned(),
            })
        })
        .collect();
    allocations.sort();

    let mut conditions: Vec<ObjectConditions> = networks
        .into_iter()
        .map(|n| n.faults.conditions("DmvpnNetwork", &n.name))
        .chain(spokes.into_iter().map(|s| s.faults.conditions("DmvpnSpoke", &s.name)))
        .collect();
    conditions.sort_by(|a, b| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)));
    Compiled { endpoints, allocations, members, conditions }
}
