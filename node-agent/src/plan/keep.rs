//! What a node lives by, and must not lose to a route of ours: its default gateways, and the API server.
//!
//! An overlay, a summary or a prefix that some site announces may cover such an address, by mistake or on purpose. The
//! address then keeps the way that the underlay has for it, by a [pin](super::pins), and all else follows the tunnel. Only
//! the main table is meant: what is in a VRF takes nothing away from the host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::model::{Route, Target};
use ipnet::IpNet;
use nhrp::RouteKind;

use super::pins;
use super::wanted::{MAIN_TABLE, Wanted, Way};

/// The addresses, and which learned routes cover one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Keep {
    addresses: BTreeSet<IpAddr>,
    covering: BTreeSet<(IpNet, RouteKind)>,
}

impl Keep {
    pub(super) fn learn(&mut self, prefix: IpNet, kind: RouteKind) {
        if self.covers(prefix) {
            self.covering.insert((prefix, kind));
        }
    }

    pub(super) fn unlearn(&mut self, prefix: IpNet, kind: RouteKind) {
        self.covering.remove(&(prefix, kind));
    }

    pub(super) fn forget(&mut self) {
        self.covering.clear();
    }

    fn covers(&self, prefix: IpNet) -> bool {
        self.addresses.iter().any(|address| prefix.contains(address))
    }
}

impl Wanted {
    /// These addresses keep the way that the underlay has for them.
    pub fn keep(&mut self, addresses: &BTreeSet<IpAddr>) {
        if self.keep.addresses == *addresses {
            return;
        }
        self.keep.addresses.clone_from(addresses);
        let covering = self.learned.keys().filter(|(prefix, _)| self.keep.covers(*prefix));
        self.keep.covering = covering.copied().collect();
    }

    /// Whether the routes of the underlay have to be looked at before ours are put in: a default route, or one that covers
    /// what this node lives by.
    pub fn depends_on_underlay(&self) -> bool {
        self.default_gateway().is_some() || self.covering().next().is_some()
    }

    /// Prefixes of ours that cover such an address, with their metrics.
    pub(super) fn covering(&self) -> impl Iterator<Item = (IpNet, u32)> + '_ {
        let keep = &self.keep;
        let learned = keep.covering.iter().map(|(prefix, kind)| (*prefix, self.metrics.of(*kind)));
        let fixed = self.fixed.iter().filter(|((prefix, _), way)| {
            **way != Way::Unreachable && !keep.addresses.is_empty() && keep.covers(*prefix)
        });
        let all = learned.chain(fixed.map(|(key, _)| *key));
        all.filter(|_| self.table == MAIN_TABLE)
    }

    /// Routes that waited for the underlay to be looked at, on a link with index `link`.
    pub fn waiting_routes(&self, link: u32) -> Vec<Route> {
        let covering: BTreeSet<_> = self.covering().collect();
        let mut routes: Vec<_> = self.default_route(link).into_iter().collect();
        if !covering.is_empty() {
            routes.extend(self.routes(link).filter(|it| covering.contains(&(it.prefix, it.metric))));
        }
        routes
    }

    /// Whether a route may be put in as far as these addresses go: not before the underlay was looked at, and never one to
    /// such an address itself.
    pub(super) fn spares(&self, prefix: IpNet, way: Way) -> bool {
        if way == Way::Unreachable || self.table != MAIN_TABLE || !self.keep.covers(prefix) {
            return true;
        }
        self.underlay.is_some() && prefix != IpNet::from(prefix.addr())
    }

    /// The pins of these addresses: of those to which a route of ours would be the better one.
    pub(super) fn keeping_pins(&self) -> BTreeSet<Route> {
        let Some(underlay) = &self.underlay else { return BTreeSet::new() };
        let covering: Vec<_> = self.covering().filter(|_| !self.dead).collect();
        let pin = |address: &IpAddr| {
            let best = pins::best(underlay, *address).filter(|best| best.target != Target::Unreachable)?;
            let beats = |&(prefix, metric): &(IpNet, u32)| {
                let (ours, theirs) = (prefix.prefix_len(), best.prefix.prefix_len());
                // A default route is as good as any other as soon as its metric changes.
                let equal = ours == theirs && (ours == 0 || metric < best.metric);
                prefix.contains(address) && (ours > theirs || equal)
            };
            covering.iter().any(beats).then(|| pins::of(best, *address))
        };
        self.keep.addresses.iter().filter_map(pin).collect()
    }
}
