//! A spoke with its texts read, and what is wrong with it alone or beside its network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crds::spoke::{PlacementType, TunnelSource, TunnelSourceFrom};
use crds::{Cidr, DmvpnSpoke, Reason, bounds, net};
use kube::ResourceExt;

use crate::findings::Faults;
use crate::model::NodeFacts;
use crate::network::Network;
use crate::prefixes::PrefixIndex;
use crate::support::Support;

/// A spoke with its texts read.
pub(crate) struct Spoke<'a> {
    pub(crate) object: &'a DmvpnSpoke,
    pub(crate) name: String,
    /// Static overlay addresses.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) subnets: Vec<SubnetView>,
    /// Nodes here that it is placed on, by name.
    pub(crate) nodes: Vec<&'a NodeFacts>,
    /// Nodes here that it is to be the gateway of, by name.
    pub(crate) behind: Vec<&'a NodeFacts>,
    /// Pod prefixes that it announces, each with its node, once all have joined their networks.
    pub(crate) pods: Vec<(&'a NodeFacts, Cidr)>,
    pub(crate) faults: Faults,
}

/// A prefix behind a spoke.
#[derive(Clone, Copy)]
pub(crate) struct SubnetView {
    pub(crate) cidr: Cidr,
    pub(crate) advertise_as: Option<Cidr>,
}

impl SubnetView {
    /// What others see.
    pub(crate) fn announced(&self) -> Cidr {
        self.advertise_as.unwrap_or(self.cidr)
    }
}

impl<'a> Spoke<'a> {
    pub(crate) fn new(object: &'a DmvpnSpoke, nodes: &[&'a NodeFacts], support: Support) -> Self {
        let mut spoke = Self {
            object,
            name: object.name_any(),
            addresses: Vec::new(),
            subnets: Vec::new(),
            nodes: Vec::new(),
            behind: Vec::new(),
            pods: Vec::new(),
            faults: Faults::default(),
        };
        support.check_spoke(&object.spec, &mut spoke.faults);
        spoke.read_addresses();
        spoke.read_subnets();
        spoke.place(nodes);
        if let Some(source) = &object.spec.tunnel_source
            && let Some((field, message)) = source_fault(source)
        {
            spoke.faults.reject(Reason::Invalid, format!("spec.tunnelSource{field}"), message);
        }
        spoke
    }

    pub(crate) fn accepted(&self) -> bool {
        self.faults.accepted()
    }

    pub(crate) fn external(&self) -> bool {
        self.object.spec.placement.type_ == PlacementType::External
    }

    /// Whose an allocated address is.
    pub(crate) fn owner_on(&self, node: &str) -> String {
        match self.object.spec.placement.type_ {
            PlacementType::EveryNode => format!("{}/{node}", self.name),
            _ => self.name.clone(),
        }
    }

    /// Whether an allocation of earlier is still its own.
    pub(crate) fn owns(&self, owner: &str) -> bool {
        if self.external() || !self.object.spec.overlay_addresses.is_empty() {
            return false;
        }
        match self.object.spec.placement.type_ {
            PlacementType::EveryNode => self.nodes.iter().any(|n| self.owner_on(&n.name) == owner),
            _ => owner == self.name,
        }
    }

    /// Checks its addresses and prefixes against its network, and takes them if all of them can be had.
    pub(crate) fn join(&mut self, network: &mut Network<'_>) {
        let owner = format!("DmvpnSpoke/{}", self.name);
        for (i, address) in self.addresses.iter().enumerate() {
            let field = format!("spec.overlayAddresses[{i}]");
            if let Some((reason, message)) = network.misplaced(*address) {
                self.faults.reject(reason, field, message);
            } else if let Some(block) = network.addresses.reserved(*address) {
                let message = format!(
                    "{address} lies in addressing.reserved ({block}) of DmvpnNetwork/{}: use another address",
                    network.name
                );
                self.faults.reject(Reason::AddressReserved, field, message);
            } else if let Some(other) = network.addresses.owner(*address).filter(|o| *o != owner) {
                let message = format!(
                    "{address} belongs to {other} in DmvpnNetwork/{}: use a free address",
                    network.name
                );
                self.faults.reject(Reason::AddressTaken, field, message);
            } else if let Some(message) = network.assigned_elsewhere(*address) {
                self.faults.reject(Reason::SettingConflict, field, message);
            }
        }
        for (i, subnet) in self.subnets.iter().enumerate() {
            if let Some((reason, message)) = network.subnet_fault(&subnet.announced()) {
                let part = if subnet.advertise_as.is_some() { "advertiseAs" } else { "cidr" };
                self.faults.reject(reason, format!("spec.subnets[{i}].{part}"), message);
            }
            if let (Some(vrf), Some(to), false) =
                (&network.object.spec.tunnel.vrf, subnet.advertise_as, self.external())
            {
                let message = format!(
                    "{to} is not supported by this version in a VRF ({vrf}): remove it, \
                     or tunnel.vrf of DmvpnNetwork/{}",
                    network.name
                );
                self.faults.reject(Reason::NotSupported, format!("spec.subnets[{i}].advertiseAs"), message);
            }
        }
        for (i, hub) in self.object.spec.hubs.iter().enumerate() {
            if let Some(message) = network.no_such_hub(hub) {
                self.faults.reject(Reason::Invalid, format!("spec.hubs[{i}]"), message);
            }
        }
        if let Some(group) = &self.object.spec.qos_group
            && network.qos_group(Some(group)).is_none()
        {
            let message = format!(
                "DmvpnNetwork/{} has no group {group} in qos.groups, and nothing is shaped: add it there, or correct the name",
                network.name
            );
            self.faults.degrade(Reason::Invalid, "spec.qosGroup", message);
        }
        if self.object.spec.identity.is_some() && !network.tells_apart() {
            let message = format!(
                "nothing proves an identity in DmvpnNetwork/{}: remove it, or use ipsec.mode Required with certificates",
                network.name
            );
            self.faults.reject(Reason::SettingConflict, "spec.identity", message);
        }
        if let Some(message) = network.not_the_other_end(&self.addresses) {
            self.faults.reject(Reason::SettingConflict, "spec.overlayAddresses", message);
        }
        if self.external() && self.addresses.is_empty() {
            let message = format!(
                "an External spoke needs the overlay address of its router: add overlayAddresses from the overlay of \
                 DmvpnNetwork/{}",
                network.name
            );
            self.faults.reject(Reason::AddressMissing, "spec.overlayAddresses", message);
        }
        if !self.accepted() {
            return;
        }
        for address in &self.addresses {
            // it is free: checked above
            let _ = network.addresses.take(*address, &owner);
        }
        for subnet in &self.subnets {
            network.prefixes.insert(subnet.announced(), &owner);
        }
    }

    fn read_addresses(&mut self) {
        for (i, text) in self.object.spec.overlay_addresses.iter().enumerate() {
            let field = format!("spec.overlayAddresses[{i}]");
            match net::parse_address(text) {
                Ok(address) if self.addresses.iter().any(|a| a.is_ipv4() == address.is_ipv4()) => {
                    let message =
                        format!("{address} is a second address of its family: leave one of them out");
                    self.faults.reject(Reason::Invalid, field, message);
                }
                Ok(address) => self.addresses.push(address),
                Err(e) => self.faults.reject(Reason::Invalid, field, e.to_string()),
            }
        }
    }

    fn read_subnets(&mut self) {
        let (mut seen, mut locals) = (PrefixIndex::default(), PrefixIndex::default());
        for (i, subnet) in self.object.spec.subnets.iter().enumerate() {
            let field = format!("spec.subnets[{i}]");
            let cidr = match subnet.cidr.parse::<Cidr>() {
                Ok(cidr) => cidr,
                Err(e) => {
                    self.faults.reject(Reason::Invalid, format!("{field}.cidr"), e.to_string());
                    continue;
                }
            };
            let advertise_as = match subnet.advertise_as.as_deref().map(str::parse::<Cidr>).transpose() {
                Ok(advertise_as) => advertise_as,
                Err(e) => {
                    self.faults.reject(Reason::Invalid, format!("{field}.advertiseAs"), e.to_string());
                    continue;
                }
            };
            if let Some(to) = advertise_as
                && (to.prefix_len() != cidr.prefix_len() || to.is_ipv4() != cidr.is_ipv4())
            {
                let message = format!(
                    "{cidr} cannot be mapped 1:1 to {to}: use a prefix of the same family and length"
                );
                self.faults.reject(Reason::SettingConflict, format!("{field}.advertiseAs"), message);
            }
            let view = SubnetView { cidr, advertise_as };
            if let Some((other, _)) = seen.overlapping(&view.announced()) {
                let message =
                    format!("{} overlaps {other} of the same spoke: leave one of them out", view.announced());
                self.faults.reject(Reason::OverlappingSubnets, format!("{field}.cidr"), message);
                continue;
            }
            // The same addresses cannot have two names.
            if let Some((other, _)) = locals.overlapping(&cidr) {
                let message = format!("{cidr} overlaps {other} of the same spoke: leave one of them out");
                self.faults.reject(Reason::OverlappingSubnets, format!("{field}.cidr"), message);
                continue;
            }
            locals.insert(cidr, &self.name);
            seen.insert(view.announced(), &self.name);
            self.subnets.push(view);
        }
    }

    /// Finds its nodes among those that are here.
    fn place(&mut self, nodes: &[&'a NodeFacts]) {
        let placement = &self.object.spec.placement;
        let keys = placement.node_selector.iter().flatten().map(|(key, _)| key);
        for key in keys.filter(|key| !bounds::is_label_key(key)) {
            let message = format!("{key} must be a label key such as dmvpn.io/site: correct it");
            self.faults.reject(Reason::Invalid, "spec.placement.nodeSelector", message);
        }
        let gateway = self.object.spec.gateway_for.as_ref().map(|it| &it.node_selector);
        for key in gateway.into_iter().flatten().map(|(key, _)| key).filter(|key| !bounds::is_label_key(key))
        {
            let message = format!("{key} must be a label key such as dmvpn.io/site: correct it");
            self.faults.reject(Reason::Invalid, "spec.gatewayFor.nodeSelector", message);
        }
        let fitting = |wanted: Option<&'a BTreeMap<String, String>>| {
            let fits = move |n: &&&'a NodeFacts| {
                wanted.is_some_and(|w| w.iter().all(|(k, v)| n.labels.get(k) == Some(v)))
            };
            nodes.iter().filter(fits).copied()
        };
        let matching = || fitting(placement.node_selector.as_ref());
        self.nodes = match placement.type_ {
            PlacementType::External => return,
            PlacementType::Node => {
                let name = placement.node_name.as_deref().unwrap_or_default();
                // nodes come sorted by name
                let found = nodes.binary_search_by(|n| n.name.as_str().cmp(name)).ok();
                found.and_then(|at| nodes.get(at)).copied().into_iter().collect()
            }
            PlacementType::EveryNode => matching().collect(),
            PlacementType::OneNode => matching().min_by_key(|n| (!n.ready, &n.name)).into_iter().collect(),
        };
        if !self.nodes.is_empty() {
            let own = |it: &&NodeFacts| self.nodes.iter().any(|node| node.name == it.name);
            self.behind = fitting(gateway).filter(|it| !own(it)).collect();
        }
        if self.nodes.is_empty() {
            let (field, message) = match &placement.node_name {
                Some(name) => (
                    "spec.placement.nodeName",
                    format!("node {name} is not here: nothing to do if the site is elsewhere, else correct the name"),
                ),
                None => (
                    "spec.placement.nodeSelector",
                    "no node here has these labels: nothing to do if the site is elsewhere, else label a node"
                        .to_owned(),
                ),
            };
            self.faults.wait(Reason::NodeNotFound, field, message);
        }
    }
}

/// What is wrong with a tunnel source: (field within it, message).
pub(crate) fn source_fault(source: &TunnelSource) -> Option<(&'static str, String)> {
    match (source.from, &source.interface, &source.address) {
        (TunnelSourceFrom::Interface, None, _) => {
            Some((".interface", "from Interface needs interface: add its name".to_owned()))
        }
        (TunnelSourceFrom::Address, _, None) => {
            Some((".address", "from Address needs address: add it".to_owned()))
        }
        (TunnelSourceFrom::NodeInternalIP | TunnelSourceFrom::DefaultRoute, _, Some(_)) => {
            Some((".address", "address is for from Address: remove it, or change from".to_owned()))
        }
        (_, _, Some(text)) => match net::parse_address(text) {
            Ok(address) if !bounds::is_host(address) => {
                Some((".address", format!("{address} is no address of a host: use one of the node's own")))
            }
            Ok(_) => None,
            Err(e) => Some((".address", e.to_string())),
        },
        _ => None,
    }
}
