//! Several networks on this node: which metrics each uses, and what those of one networkId tell of each other.

use std::collections::BTreeSet;
use std::path::Path;

use crds::endpoint::Role;
use ipnet::IpNet;

use super::Agent;
use crate::plan::several;
use crate::trial::Trial;
use crate::tunnel::Tunnel;
use crate::{clock, snapshot};

impl Agent {
    /// Gives each network metrics of its own. One that leaves keeps its own until it has left.
    pub(super) fn spread_metrics(&mut self) {
        let desired = &self.desired.endpoints;
        let asked = |network: &str| {
            let tried = self.trials.get(network).map(Trial::in_force);
            let endpoint = tried.or_else(|| desired.iter().find(|e| e.spec.network == network));
            endpoint.map(|e| e.spec.routing.metric)
        };
        let all = self.tunnels.iter().map(|(network, tunnel)| {
            (network.as_str(), asked(network).unwrap_or(tunnel.spec.routing.metric))
        });
        let spread: Vec<_> = several::metrics(all).into_values().collect();
        // Both are in the order of names.
        for (tunnel, metric) in self.tunnels.values_mut().zip(spread) {
            tunnel.spec.routing.metric = metric;
        }
    }

    /// Tells each tunnel what the others of its networkId lead to on which this node is a hub.
    pub(super) fn look_beside(&mut self) {
        self.beside_seen = self.beside_changes();
        self.beside_at = clock::now();
        let mut all = Vec::new();
        for (network, tunnel) in &self.tunnels {
            let others = self.tunnels.iter().filter(|(name, it)| *name != network && is_twin(it, tunnel));
            let mut beside: BTreeSet<IpNet> = BTreeSet::new();
            // A hub tells its spokes; a spoke has nobody to tell.
            for (name, hub) in others.filter(|(_, it)| is_hub(tunnel) && is_hub(it)) {
                let spec = &hub.spec;
                beside.extend(
                    spec.overlay
                        .iter()
                        .chain(spec.subnets.iter().map(|it| &it.cidr))
                        .map(|cidr| cidr.0.trunc()),
                );
                match &hub.engine {
                    Some(engine) => beside.extend(engine.registered_prefixes()),
                    // It is about to take up what it had: spokes of the others shall not hear that all is gone.
                    None => beside.extend(before(&self.identity.snapshots, name)),
                }
            }
            beside.retain(|net| !tunnel.spec.overlay.iter().any(|overlay| overlay.0.contains(net)));
            all.push(beside.into_iter().collect());
        }
        for (tunnel, beside) in self.tunnels.values_mut().zip(all) {
            tunnel.beside = beside;
        }
    }

    /// Whether that has changed since.
    pub(super) fn beside_changed(&self) -> bool {
        self.beside_changes() != self.beside_seen
    }

    /// Grows with each change at a hub that has another link of its networkId.
    fn beside_changes(&self) -> u64 {
        let twin = |tunnel: &Tunnel| self.tunnels.values().filter(|it| is_twin(it, tunnel)).nth(1).is_some();
        let hubs = self.tunnels.values().filter(|tunnel| is_hub(tunnel) && twin(tunnel));
        hubs.filter_map(|hub| hub.engine.as_ref()).map(|engine| engine.registered_changes() + 1).sum()
    }
}

/// Whether it is one, and stays.
fn is_hub(tunnel: &Tunnel) -> bool {
    tunnel.spec.role != Role::Spoke && !tunnel.spec.suspend && tunnel.leaving.is_none() && tunnel.link != 0
}

/// Whether two tunnels are of one networkId, in the same VRF: between VRFs nothing is forwarded.
fn is_twin(one: &Tunnel, other: &Tunnel) -> bool {
    let of = |tunnel: &Tunnel| (tunnel.spec.nhrp.network_id, tunnel.spec.tunnel.vrf.clone());
    of(one) == of(other)
}

/// What was registered at a hub when its snapshot was taken.
fn before(dir: &Path, network: &str) -> Vec<IpNet> {
    let snapshot = snapshot::load(dir, network, clock::now()).map(|(snapshot, _)| snapshot);
    snapshot.into_iter().flat_map(|it| it.bindings).flat_map(|binding| binding.prefixes).collect()
}
