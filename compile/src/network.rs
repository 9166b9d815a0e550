//! A network with its texts read: what is wrong with it alone, and which of its hubs can be used.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::network::{AssignedBy, Hub, HubMode, Nbma, NhrpMode, StaticMapping, UnderlayFamily};
use crds::{Cidr, DmvpnNetwork, Reason, bounds, net};
use kube::ResourceExt;

use crate::addresses::{Addresses, usable};
use crate::findings::Faults;
use crate::prefixes::PrefixIndex;
use crate::spoke::source_fault;
use crate::support::Support;

/// A network with its texts read.
pub(crate) struct Network<'a> {
    pub(crate) object: &'a DmvpnNetwork,
    pub(crate) name: String,
    pub(crate) overlay: Vec<Cidr>,
    /// Hubs that can be used, of any mode, by name.
    pub(crate) hubs: BTreeMap<String, HubView<'a>>,
    pub(crate) mappings: Vec<MappingView>,
    pub(crate) addresses: Addresses,
    /// Prefixes of spokes and static mappings that are accepted.
    pub(crate) prefixes: PrefixIndex,
    /// All hubs that run are on nodes that are here.
    pub(crate) hubs_are_here: bool,
    pub(crate) faults: Faults,
}

/// A hub that can be used.
pub(crate) struct HubView<'a> {
    pub(crate) hub: &'a Hub,
    /// Its index in `spec.hubs`.
    pub(crate) index: usize,
    pub(crate) addresses: Vec<IpAddr>,
    /// What it announces in place of what lies inside.
    pub(crate) advertise: Vec<Cidr>,
}

/// A static mapping with its texts read.
pub(crate) struct MappingView {
    pub(crate) overlay: IpAddr,
    pub(crate) nbma: IpAddr,
    pub(crate) subnets: Vec<Cidr>,
}

impl<'a> Network<'a> {
    pub(crate) fn new(object: &'a DmvpnNetwork, support: Support) -> Self {
        let mut faults = Faults::default();
        support.check_network(&object.spec, &mut faults);
        let overlay = read_prefixes(&object.spec.overlay, "spec.overlay", &mut faults);
        let mut network = Self {
            object,
            name: object.name_any(),
            overlay,
            hubs: BTreeMap::new(),
            mappings: Vec::new(),
            addresses: Addresses::default(),
            prefixes: PrefixIndex::default(),
            hubs_are_here: false,
            faults,
        };
        network.check_overlay();
        network.check_settings();
        network.read_addressing();
        network.read_hubs();
        network.read_mappings();
        network.check_two_ends();
        network.claim_static_addresses();
        network.check_in_band();
        network
    }

    /// Whether IPsec says which member somebody is.
    pub(crate) fn tells_apart(&self) -> bool {
        crate::support::tells_apart(&self.object.spec)
    }

    pub(crate) fn accepted(&self) -> bool {
        self.faults.accepted()
    }

    /// A bandwidth class, if the network has it.
    pub(crate) fn qos_group(&self, name: Option<&String>) -> Option<String> {
        let groups = self.object.spec.qos.iter().flat_map(|qos| &qos.groups);
        name.filter(|name| groups.into_iter().any(|group| group.name == **name)).cloned()
    }

    /// Hubs that run, best first, those that hand their spokes on last.
    pub(crate) fn running_hubs(&self) -> Vec<&HubView<'a>> {
        let mut hubs: Vec<_> = self.hubs.values().filter(|h| h.hub.mode != HubMode::Disabled).collect();
        hubs.sort_by_key(|h| (h.hub.mode, h.hub.priority, &h.hub.name));
        hubs
    }

    /// How many hubs of a hub's cluster a spoke uses; `None`: all.
    pub(crate) fn max_connections(&self, hub: &Hub) -> Option<u8> {
        let name = hub.cluster.as_deref()?;
        self.object.spec.clusters.iter().find(|c| c.name == name).map(|c| c.max_connections)
    }

    /// Cluster number of a hub: the place of its cluster in `spec.clusters`, from 1; 0 without one.
    pub(crate) fn cluster_number(&self, hub: &Hub) -> u8 {
        let name = hub.cluster.as_deref();
        let place = name.and_then(|name| self.object.spec.clusters.iter().position(|c| c.name == name));
        place.and_then(|place| u8::try_from(place + 1).ok()).unwrap_or(0)
    }

    /// Why an address cannot be used in this network; `None` if it lies in the overlay and is a host's.
    pub(crate) fn misplaced(&self, address: IpAddr) -> Option<(Reason, String)> {
        let Some(overlay) = self.overlay.iter().find(|o| o.contains(&address)) else {
            let message = format!(
                "{address} is outside of the overlay of DmvpnNetwork/{}: use an address in {}",
                self.name,
                join(&self.overlay)
            );
            return Some((Reason::AddressOutsideOverlay, message));
        };
        if usable(overlay, address) && bounds::is_host(address) {
            return None;
        }
        let message =
            format!("{address} is the network or broadcast address of {overlay}: use another address in it");
        Some((Reason::AddressNotUsable, message))
    }

    /// The overlay prefix that a prefix overlaps.
    pub(crate) fn overlay_overlapping(&self, prefix: &Cidr) -> Option<&Cidr> {
        self.overlay.iter().find(|o| o.overlaps(prefix))
    }

    /// A hub whose underlay address lies in a prefix.
    pub(crate) fn hub_inside(&self, prefix: &Cidr) -> Option<(&str, IpAddr)> {
        self.object.spec.hubs.iter().find_map(|hub| {
            let addresses = hub.nbma.iter().filter_map(|n| n.address.as_deref()?.parse::<IpAddr>().ok());
            let inside = addresses.into_iter().find(|a| prefix.contains(a))?;
            Some((hub.name.as_str(), inside))
        })
    }

    fn check_overlay(&mut self) {
        if self.overlay.is_empty() && self.faults.accepted() {
            self.faults.reject(Reason::Invalid, "spec.overlay", "the overlay is empty: add a prefix");
        }
        let mut seen = PrefixIndex::default();
        for (i, prefix) in self.overlay.iter().enumerate() {
            if let Some((other, _)) = seen.overlapping(prefix) {
                let message = format!("{prefix} overlaps {other} of the same overlay: leave one of them out");
                self.faults.reject(Reason::OverlappingOverlay, format!("spec.overlay[{i}]"), message);
            } else {
                seen.insert(*prefix, &self.name);
            }
        }
    }

    fn check_settings(&mut self) {
        let spec = &self.object.spec;
        let hold = spec.nhrp.hold_time_seconds;
        if let Some(interval) = spec.nhrp.registration_interval_seconds
            && u32::from(interval) * 3 > u32::from(hold)
        {
            let message = format!(
                "a holding time of {hold} s is less than three registration intervals of {interval} s: raise it to \
                 {} or shorten the interval to {}",
                u32::from(interval) * 3,
                hold / 3
            );
            self.faults.reject(Reason::SettingConflict, "spec.nhrp.holdTimeSeconds", message);
        }
        if spec.tunnel.mtu < 1280 && self.overlay.iter().any(|o| !o.is_ipv4()) {
            let message =
                format!("an MTU of {} is too small for an IPv6 overlay: use at least 1280", spec.tunnel.mtu);
            self.faults.reject(Reason::SettingConflict, "spec.tunnel.mtu", message);
        }
        if spec.nhrp.mode == NhrpMode::Disabled && spec.phase != crds::network::Phase::Phase1 {
            let message = "NHRP can only be off in Phase1: set spec.phase to Phase1, or nhrp.mode to Enabled";
            self.faults.reject(Reason::SettingConflict, "spec.nhrp.mode", message);
        }
    }

    fn read_addressing(&mut self) {
        let spec = &self.object.spec.addressing;
        let mut pools = Vec::new();
        for (i, pool) in
            read_prefixes(&spec.pools, "spec.addressing.pools", &mut self.faults).into_iter().enumerate()
        {
            if self.overlay.iter().any(|o| o.contains(&pool.0)) {
                pools.push(pool);
                continue;
            }
            let message = format!("{pool} is outside of the overlay: use a part of {}", join(&self.overlay));
            self.faults.degrade(
                Reason::AddressOutsideOverlay,
                format!("spec.addressing.pools[{i}]"),
                message,
            );
        }
        let mut reserved = Vec::new();
        for (i, text) in spec.reserved.iter().enumerate() {
            let read = match text.contains('/') {
                true => text.parse::<Cidr>().map_err(|e| e.to_string()),
                false => net::parse_address(text).map(Cidr::host).map_err(|e| e.to_string()),
            };
            match read {
                Ok(block) => reserved.push(block),
                Err(e) => self.faults.reject(Reason::Invalid, format!("spec.addressing.reserved[{i}]"), e),
            }
        }
        self.addresses = Addresses::new(pools, reserved);
        if spec.assigned_by == AssignedBy::Hub {
            self.addresses = std::mem::take(&mut self.addresses).assigned_by_hub();
        }
    }

    fn read_hubs(&mut self) {
        let names: BTreeSet<&str> = self.object.spec.hubs.iter().map(|h| h.name.as_str()).collect();
        for (index, hub) in self.object.spec.hubs.iter().enumerate() {
            let field = format!("spec.hubs[{index}]");
            let addresses = self.hub_addresses(hub, &field);
            let reachable = self.check_nbma(hub, &field);
            self.check_parents(hub, &names, &field);
            if let Some(key) =
                hub.node_selector.iter().flatten().map(|(k, _)| k).find(|k| !bounds::is_label_key(k))
            {
                let message = format!("{key} must be a label key such as dmvpn.io/site: correct it");
                self.faults.degrade(Reason::Invalid, format!("{field}.nodeSelector"), message);
                continue;
            }
            if let Some((part, message)) = hub.tunnel_source.as_ref().and_then(source_fault) {
                self.faults.degrade(Reason::Invalid, format!("{field}.tunnelSource{part}"), message);
                continue;
            }
            if self.hubs.contains_key(&hub.name) {
                let message = format!("there are two hubs named {}: rename one of them", hub.name);
                self.faults.degrade(Reason::Invalid, format!("{field}.name"), message);
                continue;
            }
            let advertise = self.summaries(hub, &field);
            if let (Some(addresses), true) = (addresses, reachable) {
                self.hubs.insert(hub.name.clone(), HubView { hub, index, addresses, advertise });
            }
        }
        self.check_circles();
        if self.running_hubs().is_empty() {
            let message = match self.object.spec.hubs.as_slice() {
                [] => "the network has no hub: add one to spec.hubs with overlayAddresses and nbma",
                _ => "no hub can be used: give one overlayAddresses, nbma and mode Active",
            };
            self.faults.reject(Reason::NoHub, "spec.hubs", message);
        }
    }

    /// Addresses of a hub; `None` when it cannot be used with them.
    fn hub_addresses(&mut self, hub: &Hub, field: &str) -> Option<Vec<IpAddr>> {
        let field = format!("{field}.overlayAddresses");
        if hub.overlay_addresses.is_empty() {
            let message =
                format!("hub {} has no overlay address: add one in {}", hub.name, join(&self.overlay));
            self.faults.degrade(Reason::HubIncomplete, field, message);
            return None;
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for (i, text) in hub.overlay_addresses.iter().enumerate() {
            let field = format!("{field}[{i}]");
            let address = match net::parse_address(text) {
                Ok(address) => address,
                Err(e) => {
                    self.faults.degrade(Reason::Invalid, field, e.to_string());
                    return None;
                }
            };
            if let Some((reason, message)) = self.misplaced(address) {
                self.faults.degrade(reason, field, message);
                return None;
            }
            if addresses.iter().any(|a| a.is_ipv4() == address.is_ipv4()) {
                let message = format!("{address} is a second address of its family: leave one of them out");
                self.faults.degrade(Reason::Invalid, field, message);
                return None;
            }
            if let Err(other) = self.addresses.take(address, &format!("hub {}", hub.name)) {
                let message = format!("{address} of hub {} belongs to {other}: use a free one", hub.name);
                self.faults.degrade(Reason::AddressTaken, field, message);
                return None;
            }
            addresses.push(address);
        }
        Some(addresses)
    }

    /// Whether spokes can reach a hub by what its `nbma` says.
    fn check_nbma(&mut self, hub: &Hub, field: &str) -> bool {
        if hub.nbma.is_empty() {
            let message =
                format!("hub {} has no underlay address: add nbma with an address or hostname", hub.name);
            self.faults.degrade(Reason::HubIncomplete, format!("{field}.nbma"), message);
            return false;
        }
        let mut sound = true;
        for (i, nbma) in hub.nbma.iter().enumerate() {
            if let Some((part, reason, message)) = self.nbma_fault(nbma) {
                self.faults.degrade(reason, format!("{field}.nbma[{i}]{part}"), message);
                sound = false;
            }
        }
        // A name may have addresses of either family.
        let family = self.object.spec.tunnel.underlay_family;
        let fits = |nbma: &Nbma| match &nbma.address {
            Some(text) => {
                net::parse_address(text).is_ok_and(|a| a.is_ipv6() == (family == UnderlayFamily::IPv6))
            }
            None => true,
        };
        if sound && !hub.nbma.iter().any(fits) {
            let message = format!(
                "hub {} has no {family:?} address: add one to nbma, or change tunnel.underlayFamily",
                hub.name
            );
            self.faults.degrade(Reason::HubIncomplete, format!("{field}.nbma"), message);
            return false;
        }
        sound
    }

    fn nbma_fault(&self, nbma: &Nbma) -> Option<(&'static str, Reason, String)> {
        let text = match (&nbma.address, &nbma.hostname) {
            (Some(text), None) => text,
            (None, Some(_)) => return None,
            _ => return Some(("", Reason::Invalid, "give exactly one of address and hostname".to_owned())),
        };
        let address = match net::parse_address(text) {
            Ok(address) => address,
            Err(e) => return Some((".address", Reason::Invalid, e.to_string())),
        };
        if !bounds::is_host(address) {
            let message = format!("{address} is no address of a host: use the address that spokes send to");
            return Some((".address", Reason::AddressNotUsable, message));
        }
        let inside = self.overlay_overlapping(&Cidr::host(address))?;
        let message = format!("{address} lies in the overlay {inside}: use the hub's underlay address");
        Some((".address", Reason::AddressNotUsable, message))
    }

    fn read_mappings(&mut self) {
        for (i, mapping) in self.object.spec.nhrp.static_mappings.iter().enumerate() {
            let field = format!("spec.nhrp.staticMappings[{i}]");
            if let Some(view) = self.read_mapping(mapping, &field) {
                self.mappings.push(view);
            }
        }
        self.mappings.sort_by_key(|m| m.overlay);
    }

    /// Without NHRP nobody finds anybody: a tunnel has two ends, and both are named.
    fn check_two_ends(&mut self) {
        let spec = &self.object.spec;
        if spec.nhrp.mode == NhrpMode::Enabled {
            return;
        }
        let running = spec.hubs.iter().filter(|hub| hub.mode != HubMode::Disabled).count();
        if running != 1 {
            let message = format!(
                "without NHRP (nhrp.mode: Disabled) a tunnel has two ends: state one hub, not {running}; a hub for many \
                 spokes needs nhrp.mode: Enabled"
            );
            self.faults.reject(Reason::SettingConflict, "spec.hubs", message);
        }
        let mappings = &spec.nhrp.static_mappings;
        let one_end = match mappings.as_slice() {
            [_] => true,
            // One a family.
            [a, b] => {
                a.nbma_address == b.nbma_address
                    && a.overlay_address.contains(':') != b.overlay_address.contains(':')
            }
            _ => false,
        };
        if !one_end {
            let message = format!(
                "without NHRP (nhrp.mode: Disabled) the hub has to be told of the other end of its tunnel: state one \
                 mapping (one a family) with its overlayAddress, nbmaAddress and subnets, not {}",
                mappings.len()
            );
            self.faults.reject(Reason::SettingConflict, "spec.nhrp.staticMappings", message);
        }
        let ends: Vec<IpAddr> = self.mappings.iter().map(|m| m.nbma).collect();
        let hubs =
            self.hubs.values().flat_map(|hub| hub.advertise.iter().map(|it| ("spec.hubs[].advertise", it)));
        let mapped = self.mappings.iter().flat_map(|m| &m.subnets);
        let all: Vec<_> = hubs
            .chain(mapped.map(|it| ("spec.nhrp.staticMappings[].subnets", it)))
            .map(|(f, c)| (f, *c))
            .collect();
        for (field, prefix) in all {
            let end = ends.iter().copied().find(|end| prefix.contains(end));
            if prefix.prefix_len() > 0 && end.is_none() {
                continue;
            }
            let what =
                end.map_or_else(|| "the underlay".to_owned(), |end| format!("{end}, an end of the tunnel"));
            let message = format!(
                "{prefix} contains {what}: without NHRP its route would lead the tunnel into itself; state smaller \
                 prefixes"
            );
            self.faults.reject(Reason::SubnetContainsNbma, field, message);
        }
    }

    /// Why these addresses cannot be a spoke's in a network without NHRP.
    pub(crate) fn not_the_other_end(&self, addresses: &[IpAddr]) -> Option<String> {
        if self.object.spec.nhrp.mode == NhrpMode::Enabled || self.mappings.is_empty() {
            return None;
        }
        // (One on the hub's node needs none.)
        let would_be_allocated = addresses.is_empty() && !self.object.spec.addressing.pools.is_empty();
        let ends: Vec<IpAddr> = self.mappings.iter().map(|m| m.overlay).collect();
        let other = addresses.iter().any(|address| !ends.contains(address));
        (would_be_allocated || other).then(|| {
            format!(
                "without NHRP the hub of DmvpnNetwork/{} has a tunnel to {} alone (nhrp.staticMappings): use that address",
                self.name,
                ends.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            )
        })
    }

    fn read_mapping(&mut self, mapping: &StaticMapping, field: &str) -> Option<MappingView> {
        let overlay = self.read_address(&mapping.overlay_address, &format!("{field}.overlayAddress"))?;
        let nbma = self.read_address(&mapping.nbma_address, &format!("{field}.nbmaAddress"))?;
        if let Some((reason, message)) = self.misplaced(overlay) {
            self.faults.degrade(reason, format!("{field}.overlayAddress"), message);
            return None;
        }
        if !bounds::is_host(nbma) || self.overlay_overlapping(&Cidr::host(nbma)).is_some() {
            let message = format!("{nbma} is no underlay address: use the address that packets are sent to");
            self.faults.degrade(Reason::AddressNotUsable, format!("{field}.nbmaAddress"), message);
            return None;
        }
        if let Some(other) = self.addresses.owner(overlay) {
            let message = format!("{overlay} belongs to {other}: use another address or remove the mapping");
            self.faults.degrade(Reason::AddressTaken, format!("{field}.overlayAddress"), message);
            return None;
        }
        self.addresses.claim(overlay);
        let subnets = read_prefixes(&mapping.subnets, &format!("{field}.subnets"), &mut self.faults);
        let owner = format!("static mapping {overlay}");
        for (i, subnet) in subnets.iter().enumerate() {
            if let Some((reason, message)) = self.subnet_fault(subnet) {
                self.faults.degrade(reason, format!("{field}.subnets[{i}]"), message);
                return None;
            }
            // Without NHRP it is the same site as the spoke at the other end, which may name them too.
            if self.object.spec.nhrp.mode == NhrpMode::Enabled {
                self.prefixes.insert(*subnet, &owner);
            }
        }
        Some(MappingView { overlay, nbma, subnets })
    }

    /// Why a prefix cannot be announced in this network.
    pub(crate) fn subnet_fault(&self, subnet: &Cidr) -> Option<(Reason, String)> {
        if let Some(overlay) = self.overlay_overlapping(subnet) {
            let message = format!(
                "{subnet} overlaps the overlay {overlay} of DmvpnNetwork/{}: use a prefix outside of it",
                self.name
            );
            return Some((Reason::SubnetOverlapsOverlay, message));
        }
        if let Some((hub, nbma)) = self.hub_inside(subnet) {
            let message = format!(
                "{subnet} contains {nbma}, the underlay address of hub {hub} of DmvpnNetwork/{}: leave it out of the \
                 subnets",
                self.name
            );
            return Some((Reason::SubnetContainsNbma, message));
        }
        let (other, owner) = self.prefixes.overlapping(subnet)?;
        let message = format!(
            "{subnet} overlaps {other} of {owner} in DmvpnNetwork/{}: change one of them, or map it 1:1 with \
             advertiseAs",
            self.name
        );
        Some((Reason::OverlappingSubnets, message))
    }

    fn read_address(&mut self, text: &str, field: &str) -> Option<IpAddr> {
        net::parse_address(text).map_err(|e| self.faults.degrade(Reason::Invalid, field, e.to_string())).ok()
    }

    /// What hubs state is theirs even if they cannot be used: it is never allocated.
    fn claim_static_addresses(&mut self) {
        for text in self.object.spec.hubs.iter().flat_map(|h| &h.overlay_addresses) {
            if let Ok(address) = net::parse_address(text) {
                self.addresses.claim(address);
            }
        }
    }
}

/// Reads prefixes; each that is malformed rejects the object.
pub(crate) fn read_prefixes(texts: &[String], field: &str, faults: &mut Faults) -> Vec<Cidr> {
    let read = |(i, text): (usize, &String)| {
        text.parse::<Cidr>()
            .map_err(|e| faults.reject(Reason::Invalid, format!("{field}[{i}]"), e.to_string()))
            .ok()
    };
    texts.iter().enumerate().filter_map(read).collect()
}

fn join(prefixes: &[Cidr]) -> String {
    prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

pub(crate) fn join_others(names: &BTreeSet<&str>, hub: &Hub) -> String {
    let others: Vec<&str> = names.iter().copied().filter(|n| *n != hub.name).collect();
    if others.is_empty() { "the names of other hubs".to_owned() } else { others.join(", ") }
}
