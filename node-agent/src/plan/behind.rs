//! Routes of a node that reaches a network through another one, its gateway: plain ones, by the link that both share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::endpoint::{DmvpnEndpointSpec, EndpointGateway};
use dataplane::model::{Observed, Op, Route, Target};
use ipnet::IpNet;

use super::pins;
use super::wanted::{ALIAS_PREFIX, MAIN_TABLE};

/// How the gateway is reached: the link, and its address there, by family (`true`: IPv4).
pub type Ways = BTreeMap<bool, (u32, IpAddr)>;

/// Prefixes that are reached through the gateway.
pub fn prefixes<'a>(
    spec: &'a DmvpnEndpointSpec,
    gateway: &'a EndpointGateway,
) -> impl Iterator<Item = IpNet> + 'a {
    spec.overlay.iter().chain(&gateway.prefixes).map(|it| it.0)
}

/// The routes; but none that covers what the node lives by (`kept`).
pub fn routes(
    spec: &DmvpnEndpointSpec,
    gateway: &EndpointGateway,
    ways: &Ways,
    kept: &BTreeSet<IpAddr>,
) -> BTreeSet<Route> {
    let spares = |prefix: &IpNet| {
        let cut = |address: &IpAddr| prefix.contains(address);
        !kept.iter().any(cut) && !gateway.addresses.iter().any(cut)
    };
    let route = |prefix: IpNet| {
        let (link, via) = *ways.get(&prefix.addr().is_ipv4())?;
        let target = Target::Link { link, via: Some(via) };
        Some(Route { prefix, table: MAIN_TABLE, metric: spec.routing.metric, target, source: None })
    };
    prefixes(spec, gateway).filter(spares).filter_map(route).collect()
}

/// Whether a route of our protocol number is one of these: by a next hop on a link that is none of our tunnels, and no pin.
pub fn is_one(route: &Route, observed: &Observed) -> bool {
    let Target::Link { link, via: Some(_) } = route.target else { return false };
    let tunnel = observed.links.iter().any(|l| l.index == link && l.alias.starts_with(ALIAS_PREFIX));
    !tunnel && route.table == MAIN_TABLE && !pins::is_pin(route, observed)
}

/// Changes that make what is `observed` the `wanted` ones; of others, those go that `may_go`.
pub fn changes(wanted: &BTreeSet<Route>, may_go: impl Fn(&Route) -> bool, observed: &Observed) -> Vec<Op> {
    let there: BTreeSet<&Route> = observed.routes.iter().collect();
    let mut ops: Vec<_> = wanted.iter().filter(|it| !there.contains(it)).cloned().map(Op::PutRoute).collect();
    // Another way to the same place was put over it.
    let replaced = |old: &Route| {
        wanted
            .iter()
            .any(|it| it.prefix == old.prefix && it.metric == old.metric && old.prefix.addr().is_ipv4())
    };
    let stale = observed.routes.iter().filter(|it| is_one(it, observed) && !wanted.contains(*it));
    let stale = stale.filter(|it| may_go(it) && !replaced(it));
    ops.extend(stale.cloned().map(Op::DeleteRoute));
    ops
}
