//! After a restart: what the kernel knows and the snapshot does not.
//!
//! A snapshot may be a moment old (or lost). A hub that then took a registered spoke's neighbour away would cut it off
//! until its next registration, so such neighbours come back as registered bindings.

use std::net::IpAddr;

use dataplane::model::{Observed, Target};
use nhrp::{BindingState, Snapshot, Source};

use super::wanted::Metrics;

/// Adds to `snapshot` the bindings of link `link` that only the kernel knows. `holding_time` in seconds is given to
/// them from now: the owner registers again within a third of it, or is forgotten.
pub fn fill(
    mut snapshot: Snapshot,
    link: u32,
    observed: &Observed,
    metrics: Metrics,
    holding_time: u16,
) -> Snapshot {
    let registered = metrics.of(nhrp::RouteKind::Registered);
    let neighbours = observed.neighbours.iter().filter(|n| n.link == link).map(|n| (n.overlay, n.nbma));
    // Over IPv6 the route to a host says where it is.
    let host = metrics.of(nhrp::RouteKind::Host);
    let hosts = observed.routes.iter().filter(|r| r.metric == host && r.prefix == r.prefix.addr().into());
    let hosts = hosts.filter_map(|r| match r.target {
        Target::Encap { link: on, via: None, outer } if on == link => {
            Some((r.prefix.addr(), IpAddr::V6(outer.remote)))
        }
        _ => None,
    });
    for (overlay, nbma) in neighbours.chain(hosts) {
        if snapshot.bindings.iter().any(|b| b.overlay == overlay) {
            continue;
        }
        let behind = |hop: IpAddr| {
            observed
                .routes
                .iter()
                .filter(move |r| r.metric == registered && r.target.hop() == Some((link, Some(hop))))
                .map(|r| r.prefix)
        };
        snapshot.bindings.push(BindingState {
            overlay,
            nbma,
            claimed_nbma: None,
            source: Source::Registered,
            unique: false,
            age_ms: 0,
            expires_ms: Some(u64::from(holding_time) * 1000),
            holding_time,
            prefixes: behind(overlay).collect(),
            requesters: Vec::new(),
            extended: false,
            next_hops: false,
            software: None,
            group: None,
            mtu: 0,
        });
    }
    snapshot
}
