//! Pins: host routes that keep a tunnel's own packets on the underlay while a default route leads into the tunnel.
//!
//! A hub may tell a default route. It competes with the underlay's own by metric, as any two routes do, and where it
//! wins it would take along what carries it: the GRE packets to the underlay addresses of hubs, of other spokes, and of
//! whoever is sent an answer without being a neighbour. Each of these that goes by the underlay's default route is
//! therefore pinned to it. Where the underlay has no way to the hub at all, there is nothing to pin to, and the hub's
//! default route is not put in. What else this node lives by is pinned likewise: see [`super::keep`].

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::model::{Observed, Op, Route, Target};
use ipnet::IpNet;

use super::wanted::{ALIAS_PREFIX, MAIN_TABLE, Wanted};

/// Metric of pins, by which they are known again.
const METRIC: u32 = 214;

/// What pins `nbma` to the way that `underlay` (the routes of the main table that are not ours) has for it: `None`, it
/// has none; an empty `Some`, a route of its own that a default route does not beat.
pub fn pin(underlay: &[Route], nbma: IpAddr) -> Option<Option<Route>> {
    let best = best(underlay, nbma).filter(|best| best.target != Target::Unreachable)?;
    Some((best.prefix.prefix_len() == 0).then(|| of(best, nbma)))
}

/// The route that `underlay` has for an address.
pub(super) fn best(underlay: &[Route], address: IpAddr) -> Option<&Route> {
    let covering = underlay.iter().filter(|route| route.prefix.contains(&address));
    covering.max_by_key(|route| (route.prefix.prefix_len(), std::cmp::Reverse(route.metric)))
}

/// The pin that keeps an address on that route.
pub(super) fn of(route: &Route, address: IpAddr) -> Route {
    Route { prefix: IpNet::from(address), table: MAIN_TABLE, metric: METRIC, ..route.clone() }
}

/// Changes that make the pins of `before` those of `after`: the first list comes before all other changes, the second
/// after them.
pub fn changes(before: &BTreeSet<Route>, after: &BTreeSet<Route>) -> (Vec<Op>, Vec<Op>) {
    let new = after.difference(before).cloned().map(Op::PutRoute);
    // Of another way to the same address the put takes the place.
    let gone = before.difference(after).filter(|old| !after.iter().any(|new| new.prefix == old.prefix));
    (new.collect(), gone.cloned().map(Op::DeleteRoute).collect())
}

/// Pins that no tunnel in `all` wants.
pub fn stale(all: &[&Wanted], observed: &Observed) -> Vec<Op> {
    let wanted: BTreeSet<_> = all.iter().filter_map(|wanted| wanted.pins()).flatten().collect();
    let unwanted = observed.routes.iter().filter(|route| is_pin(route, observed) && !wanted.contains(*route));
    unwanted.cloned().map(Op::DeleteRoute).collect()
}

/// Whether a route of our protocol number is one: a host route of that metric on a link that is none of our tunnels.
pub fn is_pin(route: &Route, observed: &Observed) -> bool {
    let Target::Link { link, .. } = route.target else { return false };
    let tunnel = observed.links.iter().any(|l| l.index == link && l.alias.starts_with(ALIAS_PREFIX));
    !tunnel
        && route.table == MAIN_TABLE
        && route.metric == METRIC
        && route.prefix == IpNet::from(route.prefix.addr())
}
