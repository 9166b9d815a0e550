//! A multipoint tunnel over IPv6: what the plan says of next hops and neighbours becomes routes that carry the outer header.
//!
//! The kernel's `ip6gre` sends nothing without a remote, and so has no use for neighbours. What works is one link in
//! metadata mode, each of whose routes says where its packets go in the underlay. The rest of the plan need not know: it
//! speaks of overlay hosts, of where they are, and of routes by them; here a route whose next hop has no place yet is not
//! put in, and one whose next hop moves is put in anew.

use std::net::{IpAddr, Ipv6Addr};

use dataplane::model::{Op, Outer, Route, Target};
use ipnet::IpNet;
use nhrp::{Output, RouteKind};

use super::wanted::{Wanted, Way};

impl Wanted {
    /// Whether its routes carry the outer header: multipoint over IPv6.
    pub fn routes_encapsulate(&self) -> bool {
        self.link.is_metadata()
    }

    /// Takes an output of the engine into the set; returns the changes of the kernel that it means, for a link with index
    /// `link`: one, or over IPv6 one for each route by a neighbour that came, moved or went.
    pub fn take(&mut self, output: &Output, link: u32) -> Vec<Op> {
        if !self.routes_encapsulate() {
            return self.learn(output, link).into_iter().collect();
        }
        match *output {
            Output::InstallNeighbour { overlay, nbma, .. } => {
                let before = self.neighbour(overlay);
                self.learn(output, link);
                let moved = before != Some(nbma);
                let routes = if moved { self.routes_by(overlay, link) } else { Vec::new() };
                routes.into_iter().map(Op::PutRoute).collect()
            }
            Output::RemoveNeighbour { overlay, .. } => {
                let routes = self.routes_by(overlay, link);
                self.learn(output, link);
                routes.into_iter().map(Op::DeleteRoute).collect()
            }
            _ => self.learn(output, link).into_iter().collect(),
        }
    }

    /// Where a way leads on a link in metadata mode; `None`: nobody knows where its next hop is.
    pub(super) fn encapsulated(&self, prefix: IpNet, way: Way, link: u32) -> Option<Target> {
        let (hop, via) = match way {
            Way::Unreachable => return Some(Target::Unreachable),
            Way::Direct => (prefix.addr(), None),
            Way::Via(hop) => (hop, Some(hop)),
        };
        let (IpAddr::V6(local), IpAddr::V6(remote)) = (self.link.local, self.neighbour(hop)?) else {
            return None;
        };
        let outer = Outer { local, remote, key: self.link.key, ttl: self.link.ttl };
        Some(Target::Encap { link, via, outer })
    }

    /// Underlay addresses of those whom it deals with: what they send is let in when the filter is loaded anew.
    pub fn peers6(&self) -> Vec<Ipv6Addr> {
        if !self.routes_encapsulate() {
            return Vec::new();
        }
        let mut all: Vec<_> = self
            .places()
            .filter_map(|nbma| match nbma {
                IpAddr::V6(nbma) => Some(nbma),
                IpAddr::V4(_) => None,
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The routes by a next hop that can be put in.
    fn routes_by(&self, hop: IpAddr, link: u32) -> Vec<Route> {
        let leads = |prefix: IpNet, way: Way| match way {
            Way::Via(via) => via == hop,
            Way::Direct => prefix == IpNet::from(hop),
            Way::Unreachable => false,
        };
        let fixed = self.fixed.iter().filter(|((prefix, _), way)| leads(*prefix, **way));
        let fixed = fixed.map(|(&(prefix, metric), &way)| (prefix, metric, way));
        let learned =
            self.learned.iter().filter(|((prefix, _), via)| **via == hop && self.may_be_put(*prefix));
        let learned = learned.map(|(&(prefix, kind), &via)| {
            let way = if prefix == IpNet::from(via) { Way::Direct } else { Way::Via(via) };
            (prefix, self.metrics.of(kind), way)
        });
        let host =
            self.is_routed(hop).then(|| (IpNet::from(hop), self.metrics.of(RouteKind::Host), Way::Direct));
        // The host itself first, as everywhere.
        let all = host.into_iter().chain(learned).chain(fixed);
        all.filter_map(|(prefix, metric, way)| self.route(prefix, metric, way, link)).collect()
    }
}
