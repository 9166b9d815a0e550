//! Wanted against observed: the changes that make the kernel equal to the plan, in an order that loses no packet.
//!
//! A next hop is there before a route uses it and goes after the route is gone. What is not ours (no alias of ours on
//! the link, not our protocol number) never appears in the result.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::model::{GreLink, Link, Neighbour, Observed, Op, Route, Target};

use super::wanted::{ALIAS_PREFIX, Wanted};

/// What to do about the link itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkStep {
    /// It is as wanted; its index.
    Keep(u32),
    /// Create it.
    Create,
    /// Change it in place; its index.
    Change(u32),
    /// Its kind of tunnel cannot be changed in place: delete this index, then create.
    Replace(u32),
    /// Somebody else's link has the name.
    NameTaken(u32),
    /// It is one of which there can be but one, and another one is there; its index.
    OnlyOne(u32),
}

/// Compares the link.
pub fn link_step(wanted: &GreLink, observed: &Observed) -> LinkStep {
    if let Some(own) = observed.links.iter().find(|l| l.alias == wanted.alias) {
        let Some(gre) = &own.gre else { return LinkStep::Replace(own.index) };
        // A renamed link, multipoint against point-to-point, or another underlay is another link.
        let family = gre.local.is_ipv4() == wanted.local.is_ipv4();
        if own.name != wanted.name || gre.remote.is_some() != wanted.remote.is_some() || !family {
            return LinkStep::Replace(own.index);
        }
        let same = *gre == wanted.shown() && !own.noarp;
        return if same { LinkStep::Keep(own.index) } else { LinkStep::Change(own.index) };
    }
    if let Some(foreign) = observed.links.iter().find(|l| l.name == wanted.name) {
        return LinkStep::NameTaken(foreign.index);
    }
    let in_the_way = |link: &&Link| link.gre.as_ref().is_some_and(GreLink::is_metadata);
    match observed.links.iter().find(in_the_way).filter(|_| wanted.is_metadata()) {
        Some(other) => LinkStep::OnlyOne(other.index),
        None => LinkStep::Create,
    }
}

/// The link of a network, if there is one of ours.
pub fn own_link<'a>(network: &str, observed: &'a Observed) -> Option<&'a Link> {
    observed.links.iter().find(|l| l.alias.strip_prefix(ALIAS_PREFIX) == Some(network))
}

/// The changes on a link that exists with index `link`.
pub fn changes(wanted: &Wanted, link: u32, observed: &Observed) -> Vec<Op> {
    let mut ops = Vec::new();
    let have: BTreeSet<_> = observed.addresses.iter().filter(|a| a.link == link).cloned().collect();
    let want: BTreeSet<_> = wanted.addresses(link).collect();
    ops.extend(want.difference(&have).cloned().map(Op::AddAddress));

    // Before a default route that they stand against, and before what they lead to is used.
    let pins = wanted.pins().unwrap_or_default();
    let there = observed.routes.iter().cloned().collect();
    ops.extend(pins.difference(&there).cloned().map(Op::PutRoute));

    let have_neighbours: BTreeMap<_, _> =
        observed.neighbours.iter().filter(|n| n.link == link).map(|n| (n.overlay, n.nbma)).collect();
    for (overlay, nbma) in wanted.neighbours() {
        if have_neighbours.get(&overlay) != Some(&nbma) {
            ops.push(Op::PutNeighbour(Neighbour { link, overlay, nbma }));
        }
    }

    let have_routes: BTreeSet<_> = observed.routes.iter().filter(|r| on_link(r, link)).cloned().collect();
    let want_routes: BTreeSet<_> = wanted.routes(link).collect();
    // Host routes first: next hops of the others must be reachable on the link.
    let mut missing: Vec<_> = want_routes.difference(&have_routes).cloned().collect();
    missing.sort_by_key(|r| std::cmp::Reverse(r.prefix.prefix_len()));
    ops.extend(missing.into_iter().map(Op::PutRoute));

    // A route that differs in target only was replaced by the put: the kernel knows one a (prefix, metric) on IPv4.
    let replaced: BTreeSet<_> = want_routes.iter().map(|r| (r.prefix, r.table, r.metric)).collect();
    let mut stale: Vec<_> = have_routes.difference(&want_routes).cloned().collect();
    stale.retain(|r| r.prefix.addr().is_ipv6() || !replaced.contains(&(r.prefix, r.table, r.metric)));
    // On IPv6 the put replaces what has the same next hop, and a deletion does not look at the outer header.
    let hops: BTreeSet<_> =
        want_routes.iter().map(|r| (r.prefix, r.table, r.metric, r.target.hop())).collect();
    stale.retain(|r| !hops.contains(&(r.prefix, r.table, r.metric, r.target.hop())));
    stale.sort_by_key(|r| r.prefix.prefix_len());
    ops.extend(stale.into_iter().filter(|r| !matches!(r.target, Target::Unreachable)).map(Op::DeleteRoute));

    for &overlay in have_neighbours.keys() {
        if wanted.neighbour(overlay).is_none() {
            ops.push(Op::DeleteNeighbour { link, overlay });
        }
    }
    // Link-local IPv6 addresses are the kernel's own.
    let foreign = have.difference(&want).filter(|a| !is_link_local(a.address.addr()));
    ops.extend(foreign.cloned().map(Op::DeleteAddress));
    ops
}

/// What is ours but belongs to no tunnel in `all`: links by alias, unreachable routes by protocol number.
pub fn stale(all: &[&Wanted], observed: &Observed) -> Vec<Op> {
    let mut ops = Vec::new();
    for link in &observed.links {
        let Some(network) = link.alias.strip_prefix(ALIAS_PREFIX) else { continue };
        if !all.iter().any(|w| w.network == network) {
            ops.push(Op::DeleteLink { index: link.index });
        }
    }
    for route in observed.routes.iter().filter(|r| r.target == Target::Unreachable) {
        if !all.iter().any(|w| w.routes(0).any(|r| r == *route)) {
            ops.push(Op::DeleteRoute(route.clone()));
        }
    }
    ops
}

fn on_link(route: &Route, link: u32) -> bool {
    route.target.hop().is_none_or(|(on, _)| on == link)
}

fn is_link_local(address: std::net::IpAddr) -> bool {
    matches!(address, std::net::IpAddr::V6(a) if a.is_unicast_link_local())
}
