//! What cannot be together on one node: networks whose tunnels the kernel could not tell apart, or whose
//! interfaces have one name. The younger network is at fault; on other nodes it is not touched.

use std::collections::BTreeMap;

use crds::network::{NhrpMode, Phase, UnderlayFamily};
use crds::spoke::TunnelSource;
use crds::{Cidr, Reason};

use crate::names;
use crate::network::Network;
use crate::site::Site;
use crate::spoke::Spoke;

/// Leaves out sites that cannot be beside older ones, and says so on the network and the spokes.
pub(crate) fn separate(sites: &mut Vec<Site<'_>>, networks: &mut [Network<'_>], spokes: &mut [Spoke<'_>]) {
    // sites come by network, oldest first
    let mut nodes: BTreeMap<String, Vec<Tunnel>> = BTreeMap::new();
    sites.retain(|site| {
        let Some(network) = networks.get_mut(site.network) else { return false };
        let node = &site.node.name;
        let Some(source) = site.source(network) else {
            let message = format!(
                "node {node} has no InternalIP of the underlay's family: use tunnelSource.from DefaultRoute, \
                 Interface or Address"
            );
            blame(site, network, spokes, Reason::NodeAddressUnknown, "tunnelSource.from", &message);
            return false;
        };
        let tunnel = Tunnel {
            network: network.name.clone(),
            interface: names::interface(network.object),
            source,
            key: network.object.spec.tunnel.key,
            vrf: network.object.spec.tunnel.vrf.clone(),
            overlay: network.overlay.clone(),
            only_one: only_one(site, network),
        };
        let beside = nodes.entry(node.clone()).or_default();
        if let Some((reason, field, message)) = beside.iter().find_map(|other| tunnel.conflict(other, node)) {
            blame(site, network, spokes, reason, field, &message);
            return false;
        }
        beside.push(tunnel);
        true
    });
}

/// What must differ between tunnels of one node.
struct Tunnel {
    network: String,
    interface: String,
    source: TunnelSource,
    key: Option<u32>,
    vrf: Option<String>,
    overlay: Vec<Cidr>,
    /// It is multipoint over IPv6.
    only_one: bool,
}

impl Tunnel {
    fn conflict(&self, older: &Self, node: &str) -> Option<(Reason, &'static str, String)> {
        if self.interface == older.interface {
            let message = format!(
                "DmvpnNetwork/{} has the interface name {} on node {node} already: give one of them another \
                 tunnel.interfaceName",
                older.network, self.interface
            );
            return Some((Reason::InterfaceNameTaken, "tunnel.interfaceName", message));
        }
        if self.key == older.key && self.source == older.source {
            let key = self.key.map_or_else(|| "no key".to_owned(), |key| format!("key {key}"));
            let message = format!(
                "DmvpnNetwork/{} has {key} on the same tunnel source of node {node} already: give one of them another \
                 tunnel.key",
                older.network
            );
            return Some((Reason::TunnelConflict, "tunnel.key", message));
        }
        if self.only_one && older.only_one {
            let message = format!(
                "DmvpnNetwork/{} is multipoint over IPv6 on node {node} already, and Linux has one such link a node: use \
                 IPv4 or Phase1 for one of them, or other nodes",
                older.network
            );
            return Some((Reason::TunnelConflict, "tunnel.underlayFamily", message));
        }
        let clash =
            self.overlay.iter().find_map(|own| Some((own, older.overlay.iter().find(|o| o.overlaps(own))?)));
        let (own, other) = clash.filter(|_| self.vrf == older.vrf)?;
        let message = format!(
            "{own} overlaps {other}, the overlay of DmvpnNetwork/{} on node {node}: use another prefix, or another \
             tunnel.vrf",
            older.network
        );
        Some((Reason::OverlappingOverlay, "overlay", message))
    }
}

/// Whether its tunnel is of the kind of which a node can have but one: multipoint over IPv6.
fn only_one(site: &Site<'_>, network: &Network<'_>) -> bool {
    let spec = &network.object.spec;
    let many = spec.phase != Phase::Phase1 || (site.hub.is_some() && spec.nhrp.mode == NhrpMode::Enabled);
    spec.tunnel.underlay_family == UnderlayFamily::IPv6 && many
}

/// Tells the network, and each spoke that it leaves without a tunnel.
fn blame(
    site: &Site<'_>,
    network: &mut Network<'_>,
    spokes: &mut [Spoke<'_>],
    reason: Reason,
    field: &str,
    message: &str,
) {
    let source_of_spoke = reason == Reason::NodeAddressUnknown && site.hub.is_none();
    if !source_of_spoke {
        let hub = site.hub.as_ref().and_then(|name| network.hubs.get(name));
        let path = match (reason, hub) {
            (Reason::NodeAddressUnknown, Some(hub)) => format!("spec.hubs[{}].{field}", hub.index),
            _ => format!("spec.{field}"),
        };
        network.faults.degrade(reason, path, message);
    }
    for member in &site.members {
        let Some(spoke) = spokes.get_mut(member.spoke) else { continue };
        if source_of_spoke {
            spoke.faults.degrade(reason, format!("spec.{field}"), message);
        } else {
            let message = format!("DmvpnNetwork/{} cannot be on this node: {message}", network.name);
            spoke.faults.wait(reason, "spec.networkRef.name", message);
        }
    }
}
