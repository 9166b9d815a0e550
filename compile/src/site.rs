//! What there is of one network on one node: a hub, spokes, or both; it becomes one endpoint.

use std::net::IpAddr;

use crds::Reason;
use crds::spoke::{TunnelSource, TunnelSourceFrom};

use crate::model::{Membership, NodeFacts};
use crate::names;
use crate::network::Network;
use crate::spoke::{Spoke, SubnetView};

/// One network on one node.
pub(crate) struct Site<'a> {
    /// Index of the network, by age.
    pub(crate) network: usize,
    pub(crate) node: &'a NodeFacts,
    /// Name of the hub that runs here.
    pub(crate) hub: Option<String>,
    /// Spokes that are here, oldest first.
    pub(crate) members: Vec<Member>,
    /// Tunnel source that somebody asked for, and who.
    source: Option<(TunnelSource, String)>,
    /// Prefixes behind the node, and whose they are.
    locals: Vec<(SubnetView, String)>,
    /// IKE identity of the spokes that are here.
    identity: Option<String>,
}

/// A spoke on a node.
pub(crate) struct Member {
    /// Index of the spoke, by age.
    pub(crate) spoke: usize,
    /// Its overlay addresses here.
    pub(crate) addresses: Vec<IpAddr>,
}

impl<'a> Site<'a> {
    pub(crate) fn new(network: usize, node: &'a NodeFacts, hub: Option<String>) -> Self {
        Self { network, node, hub, members: Vec::new(), source: None, locals: Vec::new(), identity: None }
    }

    /// Adds a spoke, unless it contradicts those that are here already.
    pub(crate) fn add(&mut self, at: usize, spoke: &mut Spoke<'_>, network: &mut Network<'_>) {
        if let Some(asked) = &spoke.object.spec.tunnel_source {
            let (source, who) = self.asked(network);
            if source.as_ref().is_some_and(|s| s != asked) {
                let message = format!(
                    "{who} on node {} has another tunnel source, and both share one tunnel: give them the same",
                    self.node.name
                );
                spoke.faults.degrade(Reason::TunnelSourceConflict, "spec.tunnelSource", message);
                return;
            }
            self.source = Some((asked.clone(), format!("DmvpnSpoke/{}", spoke.name)));
        }
        if let Some((field, message)) = self.named_twice(spoke) {
            spoke.faults.degrade(Reason::OverlappingSubnets, field, message);
            return;
        }
        if let (Some(group), Some(hub)) = (&spoke.object.spec.qos_group, &self.hub) {
            let message = format!(
                "hubs shape what they send to spokes, and node {} is that of hub {hub}, where group {group} does nothing: \
                 remove it, or move the spoke",
                self.node.name
            );
            spoke.faults.degrade(Reason::SettingConflict, "spec.qosGroup", message);
        }
        if let (Some(own), Some(used)) = (&spoke.object.spec.identity, &self.identity)
            && own != used
        {
            let message = format!(
                "{used} is the identity of another member on node {}, and both share one tunnel: give them the same",
                self.node.name
            );
            spoke.faults.degrade(Reason::SettingConflict, "spec.identity", message);
            return;
        }
        let mut addresses = spoke.addresses.clone();
        if addresses.is_empty() && self.hub.is_none() && !network.addresses.by_hub() {
            let owner = spoke.owner_on(&self.node.name);
            let Some(allocated) = network.addresses.allocate(&network.name, &owner) else {
                let message = format!(
                    "the pools of DmvpnNetwork/{} have no free address left: add one to addressing.pools",
                    network.name
                );
                spoke.faults.degrade(Reason::PoolExhausted, "spec.overlayAddresses", message);
                return;
            };
            addresses = allocated;
        }
        self.locals.extend(spoke.subnets.iter().map(|it| (*it, spoke.name.clone())));
        self.identity = self.identity.take().or_else(|| spoke.object.spec.identity.clone());
        self.members.push(Member { spoke: at, addresses });
    }

    /// A subnet that lies behind this node under another name already: (field, message).
    fn named_twice(&self, spoke: &Spoke<'_>) -> Option<(String, String)> {
        spoke.subnets.iter().enumerate().find_map(|(i, own)| {
            let clash = |(other, _): &&(SubnetView, String)| {
                other.cidr.overlaps(&own.cidr) && (other.advertise_as.is_some() || own.advertise_as.is_some())
            };
            let (other, who) = self.locals.iter().find(clash)?;
            let message = format!(
                "{} overlaps {} of DmvpnSpoke/{who}, which is behind node {} too and announced as {}: leave one of \
                 them out",
                own.cidr,
                other.cidr,
                self.node.name,
                other.announced()
            );
            Some((format!("spec.subnets[{i}].cidr"), message))
        })
    }

    /// Whether anything is here after all.
    pub(crate) fn is_used(&self) -> bool {
        self.hub.is_some() || !self.members.is_empty()
    }

    /// Which spokes are here.
    pub(crate) fn memberships(&self, networks: &[Network<'_>], spokes: &[Spoke<'_>]) -> Vec<Membership> {
        let Some(network) = networks.get(self.network) else { return Vec::new() };
        let endpoint = names::endpoint(&network.name, &self.node.name);
        let membership = |member: &Member| {
            Some(Membership {
                spoke: spokes.get(member.spoke)?.name.clone(),
                node: self.node.name.clone(),
                endpoint: endpoint.clone(),
                addresses: member.addresses.clone(),
            })
        };
        self.members.iter().filter_map(membership).collect()
    }

    /// The tunnel source, with the node's InternalIP filled in; `None`: the node has none.
    pub(crate) fn source(&self, network: &Network<'_>) -> Option<TunnelSource> {
        let mut source = self.asked(network).0.unwrap_or_default();
        if source.from == TunnelSourceFrom::NodeInternalIP {
            let ipv4 = network.object.spec.tunnel.underlay_family == crds::network::UnderlayFamily::IPv4;
            let address = self.node.internal_ips.iter().find(|ip| ip.is_ipv4() == ipv4)?;
            source.address = Some(address.to_string());
        }
        Some(source)
    }

    fn asked(&self, network: &Network<'_>) -> (Option<TunnelSource>, String) {
        if let Some((source, who)) = &self.source {
            return (Some(source.clone()), who.clone());
        }
        let hub = self.hub.as_ref().and_then(|name| network.hubs.get(name));
        let source = hub.and_then(|h| h.hub.tunnel_source.clone());
        (source, format!("hub {} of DmvpnNetwork/{}", self.hub.as_deref().unwrap_or_default(), network.name))
    }
}
