//! Several networks on this node: which metrics each uses, and what those of one networkId tell of each other.

use std::collections::BTreeSet;
use std::path::Path;

use crds::endpoint::Role;
use crds::network::{Phase, UnderlayFamily};
use dataplane::Logged;
use ipnet::IpNet;
use nhrp::{Input, LinkId, Time};

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
            let (mut beside, mut across) = (BTreeSet::new(), BTreeSet::new());
            let mut links = BTreeSet::new();
            // A hub tells its spokes; a spoke has nobody to tell.
            for (name, hub) in others.filter(|(_, it)| is_hub(tunnel) && is_hub(it)) {
                let spec = &hub.spec;
                let overlay = spec.overlay.iter().map(|cidr| cidr.0.trunc());
                let mut led: BTreeSet<IpNet> = overlay.collect();
                match &hub.engine {
                    Some(engine) => led.extend(engine.registered_prefixes()),
                    // It is about to take up what it had: spokes of the others shall not hear that all is gone.
                    None => led.extend(before(&self.identity.snapshots, name)),
                }
                if may_cross(tunnel, hub) {
                    across.extend(led.iter().copied());
                    links.insert(spec.tunnel.interface_name.clone());
                }
                beside.extend(led);
                beside.extend(spec.subnets.iter().map(|it| it.cidr.0.trunc()));
            }
            let foreign = |net: &IpNet| !tunnel.spec.overlay.iter().any(|overlay| overlay.0.contains(net));
            let foreign = |nets: BTreeSet<IpNet>| nets.into_iter().filter(foreign).collect::<Vec<_>>();
            all.push((foreign(beside), foreign(across), links));
        }
        for (tunnel, (beside, across, links)) in self.tunnels.values_mut().zip(all) {
            tunnel.beside = beside;
            tunnel.across = across;
            if let Some(wanted) = &mut tunnel.wanted {
                wanted.nft.beside = links;
            }
        }
    }

    /// A captured packet that came in by one tunnel and leaves by another: the engine of the first is told. One that turns
    /// in its tunnel is given back.
    pub(super) fn crosses(&mut self, hairpin: Logged, now: Time) -> Option<Logged> {
        let at = |index: u32| self.tunnels.iter().find(|(_, it)| it.link != 0 && it.link == index);
        let (name, out) = hairpin.link_out.and_then(at)?;
        let Some((source, destination)) = nhrp::inner_addresses(&hairpin.packet) else {
            return Some(hairpin);
        };
        let knows = |it: &Tunnel| it.engine.as_ref().is_some_and(|engine| engine.onward(source).is_some());
        let came = match hairpin.link_in.and_then(at) {
            Some((name, _)) => name,
            // In a VRF the kernel names that: it came by the tunnel that its source is behind.
            None if knows(out) => name,
            None => {
                let mut twins = self.tunnels.iter().filter(|(_, it)| may_cross(it, out));
                twins.find(|(_, it)| knows(it)).map_or(name, |(name, _)| name)
            }
        };
        if came == name {
            return Some(hairpin);
        }
        let onward = out.engine.as_ref()?.onward(destination)?;
        let came = came.clone();
        let tunnel = self.tunnels.get_mut(&came)?;
        let link = LinkId(tunnel.link);
        let input = Input::Crossing { link, packet: hairpin.packet, onward };
        tunnel.engine.as_mut()?.handle_input(now, input);
        None
    }

    /// Hands packets from tunnel to tunnel; whether there were any.
    pub(super) fn hand_over(&mut self) -> bool {
        let now = clock::now();
        let waiting = self.tunnels.iter_mut().filter(|(_, it)| !it.crossing.is_empty());
        let waiting: Vec<_> =
            waiting.map(|(name, it)| (name.clone(), std::mem::take(&mut it.crossing))).collect();
        for (name, packets) in &waiting {
            let Some(from) = self.tunnels.get(name) else { continue };
            let twins = self.tunnels.iter().filter(|(other, it)| *other != name && may_cross(from, it));
            let twins: Vec<_> = twins.map(|(other, _)| other.clone()).collect();
            for packet in packets {
                let taken = twins.iter().any(|twin| {
                    let engine = self.tunnels.get_mut(twin).and_then(|it| it.engine.as_mut());
                    engine.is_some_and(|engine| engine.take_across(now, &packet.bytes))
                });
                let engine = self.tunnels.get_mut(name).and_then(|it| it.engine.as_mut());
                if let Some(engine) = engine.filter(|_| !taken) {
                    engine.handle_input(now, Input::Stranded(packet.clone()));
                }
            }
        }
        !waiting.is_empty()
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

/// Whether spokes of the one can talk straight to spokes of the other: both are multipoint, and what one sends the other
/// takes in.
fn may_cross(one: &Tunnel, other: &Tunnel) -> bool {
    let open = |it: &Tunnel| {
        is_hub(it)
            && it.spec.phase == Phase::Phase3
            && it.speaks_nhrp()
            && it.spec.ipsec.is_none()
            && it.spec.tunnel.underlay_family == UnderlayFamily::IPv4
    };
    is_twin(one, other) && open(one) && open(other) && one.spec.tunnel.key == other.spec.tunnel.key
}

/// What was registered at a hub when its snapshot was taken.
fn before(dir: &Path, network: &str) -> Vec<IpNet> {
    let snapshot = snapshot::load(dir, network, clock::now()).map(|(snapshot, _)| snapshot);
    snapshot.into_iter().flat_map(|it| it.bindings).flat_map(|binding| binding.prefixes).collect()
}
