//! The underlay: which local address a tunnel uses, and whether each hub can be reached without going through the tunnel.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crds::endpoint::DmvpnEndpointSpec;
use crds::network::{MtuPolicy, UnderlayFamily};
use crds::spoke::TunnelSourceFrom;
use crds::{Cidr, Reason};
use dataplane::Kernel;
use dataplane::model::{Address, Link, Observed, Route, Target};

use crate::ladder::{Path, Trouble};
use crate::plan::nhrp::nbma_addresses;
use crate::plan::wanted::{Vrf, Vrfs};
use crate::tunnel::Tunnel;

/// Index of the loopback device in every namespace.
pub(super) const LOOPBACK: u32 = 1;
/// Kind of links that serve as further loopback devices.
const DUMMY: &str = "dummy";
/// Least MTUs (RFC 791, RFC 8200 §5), and the most that the API knows.
const MTU_IPV4: u32 = 576;
const MTU_IPV6: u32 = 1280;
const MTU_MOST: u32 = 9216;
/// Addresses that no ordinary route names (RFC 1112 class E; documentation, RFC 9637), so that a look-up finds the default
/// route.
pub(super) const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1));
pub(super) const NOWHERE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x3fff, 0xfff, 0, 0, 0, 0, 0, 1));

/// What is to be borne in mind of where a tunnel has its source; empty: nothing.
///
/// A loopback is on no transport: which one packets take, and how much that carries, nobody knows here.
pub(super) fn remark(tunnel: &Tunnel, observed: &Observed) -> String {
    let Some(wanted) = tunnel.wanted.as_ref().filter(|wanted| wanted.shaping.is_on()) else {
        return String::new();
    };
    let local = wanted.link.local;
    let on = observed.addresses.iter().filter(|it| it.address.addr() == local).map(|it| it.link);
    let links = on.filter_map(|index| observed.links.iter().find(|link| link.index == index));
    let loopback = links.into_iter().find(|link| link.index == LOOPBACK || link.kind == DUMMY);
    loopback.map_or_else(String::new, |link| {
        format!(
            "the tunnel source {local} is on {}, a loopback, and qos.groups hold whichever transport packets take: give \
             rates that the slowest of them carries, or use the interface of one as tunnelSource",
            link.name
        )
    })
}

/// What a look at the underlay of one tunnel needs.
pub(super) struct Look<'a> {
    /// To ask.
    pub(super) kernel: &'a Kernel,
    /// What was seen.
    pub(super) observed: &'a Observed,
    /// Resolved host names.
    pub(super) names: &'a BTreeMap<String, Vec<IpAddr>>,
    /// Index of its link; 0: none.
    pub(super) own: u32,
    /// The VRF of the underlay.
    pub(super) vrf: Option<Vrf>,
}

impl Look<'_> {
    /// Finds the local underlay address of a tunnel.
    ///
    /// # Errors
    /// The trouble, with the cure.
    pub(super) async fn source_address(&self, tunnel: &Tunnel) -> Result<IpAddr, Trouble> {
        let Self { kernel, observed, names, own, vrf } = *self;
        let by = vrf.map_or(0, |vrf| vrf.link);
        let spec = &tunnel.spec;
        let source = &spec.tunnel.source;
        let family = spec.tunnel.underlay_family;
        match source.from {
            TunnelSourceFrom::Address => {
                let text = source.address.as_deref().unwrap_or_default();
                let address: IpAddr = text.parse().map_err(|_| {
                    Trouble::new(
                        Reason::SourceAddressInvalid,
                        format!("tunnelSource.address: `{text}` is not an IP address"),
                    )
                })?;
                if address.is_ipv6() != is6(family) {
                    let message = format!(
                        "tunnel source address {address} is not of the underlay's family: correct tunnelSource.address or tunnel.underlayFamily"
                    );
                    return Err(Trouble::new(Reason::SourceAddressInvalid, message));
                }
                // In several VRFs there can be one each.
                let mut all = observed.addresses.iter().filter(|a| a.address.addr() == address).peekable();
                let first = all.peek().copied();
                let link = |on: &Address| observed.links.iter().find(|l| l.index == on.link);
                let on = all.find(|on| self.check_vrf(link(on)).is_ok()).or(first);
                let Some(on) = on else {
                    return Err(Trouble::new(
                        Reason::SourceAddressMissing,
                        format!(
                            "tunnel source address {address} is on no interface of this node: add it, or correct tunnelSource.address"
                        ),
                    ));
                };
                let link = observed.links.iter().find(|l| l.index == on.link);
                check_up(link)?;
                self.check_vrf(link)?;
                Ok(address)
            }
            TunnelSourceFrom::Interface => {
                let name = source.interface.as_deref().unwrap_or_default();
                let Some(link) = observed.links.iter().find(|l| l.name == name) else {
                    return Err(Trouble::new(
                        Reason::InterfaceMissing,
                        format!(
                            "tunnel source interface {name} does not exist on this node: correct tunnelSource.interface"
                        ),
                    ));
                };
                check_up(Some(link))?;
                self.check_vrf(Some(link))?;
                address_of(link.index, family, observed).ok_or_else(|| {
                    Trouble::new(
                        Reason::InterfaceHasNoAddress,
                        format!(
                            "tunnel source interface {name} has no {} address: configure one, or wait for DHCP",
                            name_of(family)
                        ),
                    )
                })
            }
            TunnelSourceFrom::NodeInternalIP => Err(Trouble::new(
                Reason::NodeAddressUnknown,
                "tunnelSource.from: NodeInternalIP needs a Kubernetes Node: on a box use DefaultRoute, Interface or Address",
            )),
            TunnelSourceFrom::DefaultRoute => {
                let hubs = spec.nhs.iter().flat_map(|h| &h.nbma).flat_map(|n| nbma_addresses(n, names));
                let nowhere = if is6(family) { NOWHERE6 } else { NOWHERE };
                for to in hubs.filter(|hub| hub.is_ipv6() == is6(family)).chain([nowhere]) {
                    let Ok(found) = kernel.lookup(to, by).await else { continue };
                    let address = match found.link == own {
                        true => pin(tunnel, to).and_then(|pin| via_pin(&pin, family, observed)),
                        false => found.source.filter(|source| source.is_ipv6() == is6(family)),
                    };
                    if let Some(address) = address {
                        return Ok(address);
                    }
                }
                Err(Trouble::new(
                    Reason::NoDefaultRoute,
                    "no route to a hub and no default route, so that no tunnel source is found: bring the underlay \
                     interface up, or set tunnelSource.interface or tunnelSource.address",
                ))
            }
        }
    }

    /// The IP MTU of a tunnel: the one that its endpoint says, or (`mtuPolicy: Auto`) what is left of that of the underlay
    /// links by which its hubs are reached; on a hub, of the link with its own address, or with the default route.
    pub(super) async fn mtu(&self, tunnel: &Tunnel, local: IpAddr) -> u32 {
        let Self { kernel, observed, names, own, vrf } = *self;
        let by = vrf.map_or(0, |vrf| vrf.link);
        let settings = &tunnel.spec.tunnel;
        if settings.mtu_policy == MtuPolicy::Fixed {
            return settings.mtu.into();
        }
        let mut links = Vec::new();
        let hubs = tunnel.spec.nhs.iter().flat_map(|h| &h.nbma).flat_map(|n| nbma_addresses(n, names));
        let hubs = hubs.chain(tunnel.spec.nhrp.static_mappings.iter().map(|m| m.nbma_address));
        for to in hubs.filter(|hub| hub.is_ipv6() == local.is_ipv6()) {
            links
                .extend(kernel.lookup(to, by).await.ok().map(|found| found.link).filter(|link| *link != own));
        }
        if links.is_empty() {
            let with = observed.addresses.iter().filter(|a| a.address.addr() == local).map(|a| a.link);
            links.extend(with.filter(|link| *link != LOOPBACK));
        }
        if links.is_empty() {
            let nowhere = if local.is_ipv6() { NOWHERE6 } else { NOWHERE };
            links.extend(
                kernel.lookup(nowhere, by).await.ok().map(|found| found.link).filter(|link| *link != own),
            );
        }
        let mtus = observed.links.iter().filter(|l| links.contains(&l.index)).map(|l| l.mtu);
        let least = if tunnel.spec.overlay.iter().all(Cidr::is_ipv4) { MTU_IPV4 } else { MTU_IPV6 };
        match mtus.min() {
            Some(mtu) => mtu
                .saturating_sub(overhead(local, settings.key) + protection(&tunnel.spec))
                .clamp(least, MTU_MOST),
            None => settings.mtu.into(),
        }
    }

    /// Whether the tunnel source is in the VRF that is meant, or in none.
    fn check_vrf(&self, link: Option<&Link>) -> Result<(), Trouble> {
        let Some(link) = link else { return Ok(()) };
        // An address on the VRF's own device is in the VRF too.
        let is_vrf = |l: &&Link| l.vrf_table.is_some() && [link.master, link.index].contains(&l.index);
        let master = self.observed.links.iter().find(is_vrf);
        let cure = match (master, self.vrf) {
            (None, None) => return Ok(()),
            (Some(master), Some(vrf)) if master.index == vrf.link => return Ok(()),
            (Some(master), _) => format!("is in VRF {0}: set tunnelSource.vrf to {0}", master.name),
            (None, Some(_)) => {
                "is in no VRF: `ip link set` its master, or remove tunnelSource.vrf".to_owned()
            }
        };
        Err(Trouble::new(Reason::VrfMismatch, format!("tunnel source {} {cure}", link.name)))
    }
}

/// The VRFs that a tunnel is in. They are the host's own: somebody made them.
///
/// # Errors
/// The trouble, with the cure.
pub(super) fn vrfs(spec: &DmvpnEndpointSpec, observed: &Observed) -> Result<Vrfs, Trouble> {
    let find = |field: &str, name: &Option<String>| {
        let Some(name) = name else { return Ok(None) };
        let link = observed.links.iter().find(|l| l.name == *name);
        match link.and_then(|l| Some(Vrf { link: l.index, table: l.vrf_table.filter(|_| l.up)? })) {
            Some(vrf) => Ok(Some(vrf)),
            None => Err(Trouble::new(
                Reason::VrfMissing,
                format!(
                    "{field}: this node has no VRF {name} that is up: `ip link add {name} type vrf table N`, `ip link set \
                     {name} up`, or correct {field}"
                ),
            )),
        }
    };
    let source = &spec.tunnel.source.vrf;
    let refused = |what: &str, instead: &str| {
        let message = format!("tunnelSource.vrf: {what} is not supported by this version: {instead}");
        Err(Trouble::new(Reason::NotSupported, message))
    };
    match source {
        Some(_) if spec.ipsec.is_some() => return refused("a VRF of the underlay under IPsec", "remove it"),
        Some(_) if is6(spec.tunnel.underlay_family) => {
            return refused("a VRF of an IPv6 underlay", "use an IPv4 underlay, or remove it");
        }
        Some(name) if spec.tunnel.vrf.as_ref() == Some(name) => {
            return refused("the VRF of the overlay", "use two, or leave one of them in the main table");
        }
        _ => {}
    }
    Ok(Vrfs { overlay: find("tunnel.vrf", &spec.tunnel.vrf)?, underlay: find("tunnelSource.vrf", source)? })
}

/// What an outer IP header and GRE (RFC 2784, RFC 2890) take of a packet, in bytes.
fn overhead(local: IpAddr, key: Option<u32>) -> u32 {
    let ip = if local.is_ipv4() { 20 } else { 40 };
    ip + 4 + if key.is_some() { 4 } else { 0 }
}

/// What ESP (RFC 4303) in UDP (RFC 3948) takes besides, in bytes: UDP 8, SPI and number 8, trailer 2, then IV, padding
/// and check value of AES-GCM, or the most that named proposals may have.
fn protection(spec: &DmvpnEndpointSpec) -> u32 {
    match &spec.ipsec {
        None => 0,
        Some(settings) if settings.proposals.is_empty() => 8 + 8 + 2 + 8 + 3 + 16,
        Some(_) => 8 + 8 + 2 + 16 + 15 + 32,
    }
}

/// The first address of a link that others can send to.
fn address_of(link: u32, family: UnderlayFamily, observed: &Observed) -> Option<IpAddr> {
    let own = observed.addresses.iter().filter(|a| a.link == link);
    own.map(|a| a.address.addr()).find(|address| match address {
        IpAddr::V4(_) => !is6(family),
        IpAddr::V6(address) => is6(family) && !address.is_unicast_link_local(),
    })
}

/// The pin that keeps packets to `nbma` out of the tunnel, as it is wanted: where the kernel's is gone, it is about to
/// be put back.
fn pin(tunnel: &Tunnel, nbma: IpAddr) -> Option<Route> {
    tunnel.wanted.as_ref()?.pins()?.into_iter().find(|pin| pin.prefix.addr() == nbma)
}

fn via_pin(pin: &Route, family: UnderlayFamily, observed: &Observed) -> Option<IpAddr> {
    let Target::Link { link, .. } = pin.target else { return None };
    pin.source.or_else(|| address_of(link, family, observed))
}

/// Whether an underlay is IPv6.
fn is6(family: UnderlayFamily) -> bool {
    family == UnderlayFamily::IPv6
}

fn name_of(family: UnderlayFamily) -> &'static str {
    if is6(family) { "IPv6" } else { "IPv4" }
}

/// The other end of a point-to-point tunnel: the first address that its destination has. `None`: it is multipoint.
///
/// # Errors
/// The trouble, with the cure.
pub(super) fn remote_address(
    spec: &DmvpnEndpointSpec,
    names: &BTreeMap<String, Vec<IpAddr>>,
) -> Result<Option<IpAddr>, Trouble> {
    let Some(destination) = &spec.tunnel.destination else { return Ok(None) };
    let family = spec.tunnel.underlay_family;
    let found = nbma_addresses(destination, names).into_iter().find(|it| it.is_ipv6() == is6(family));
    let name = || destination.hostname.clone().or_else(|| destination.address.clone()).unwrap_or_default();
    let trouble = || {
        Trouble::new(
            Reason::NameNotResolved,
            format!("the hub's name {} has no {} address: check DNS on this node", name(), name_of(family)),
        )
    };
    found.map(Some).ok_or_else(trouble)
}

fn check_up(link: Option<&Link>) -> Result<(), Trouble> {
    match link {
        Some(link) if !link.up => Err(Trouble::new(
            Reason::InterfaceDown,
            format!("underlay interface {0} is down: `ip link set {0} up`", link.name),
        )),
        Some(link) if !link.carrier => Err(Trouble::new(
            Reason::InterfaceNoCarrier,
            format!("underlay interface {} has no carrier: check the cable or the other end", link.name),
        )),
        _ => Ok(()),
    }
}

/// Looks at the path to each hub, configured or told by others.
pub(super) async fn paths(
    kernel: &Kernel,
    tunnel: &Tunnel,
    names: &BTreeMap<String, Vec<IpAddr>>,
) -> BTreeMap<String, Path> {
    let mut paths = BTreeMap::new();
    for hub in &tunnel.spec.nhs {
        let v6 = is6(tunnel.spec.tunnel.underlay_family);
        let addresses = hub.nbma.iter().flat_map(|n| nbma_addresses(n, names));
        let addresses: Vec<_> = addresses.filter(|address| address.is_ipv6() == v6).collect();
        let path = match hub.nbma.iter().find_map(|n| n.hostname.clone()) {
            Some(name) if addresses.is_empty() => Path::NameUnresolved(name),
            _ => path(kernel, &addresses, tunnel).await,
        };
        paths.insert(hub.name.clone(), path);
    }
    if !tunnel.speaks_nhrp() {
        for end in &tunnel.spec.nhrp.static_mappings {
            let path = path(kernel, &[end.nbma_address], tunnel).await;
            paths.insert(end.overlay_address.to_string(), path);
        }
    }
    for hub in tunnel.engine.iter().flat_map(nhrp::Engine::hubs).filter(|hub| hub.learned) {
        paths.insert(hub.name.to_owned(), path(kernel, hub.nbma, tunnel).await);
    }
    paths
}

/// The first usable address decides; otherwise the last trouble is told.
async fn path(kernel: &Kernel, addresses: &[IpAddr], tunnel: &Tunnel) -> Path {
    let own = tunnel.link;
    let by = tunnel.wanted.as_ref().map_or(0, |wanted| wanted.link.underlay);
    let mut path = Path::Clear;
    for nbma in addresses {
        path = match kernel.lookup(*nbma, by).await {
            Ok(found) if own != 0 && found.link == own && pin(tunnel, *nbma).is_none() => {
                Path::Recursive(*nbma)
            }
            Ok(_) => Path::Clear,
            Err(_) => Path::NoRoute(*nbma),
        };
        if path == Path::Clear {
            break;
        }
    }
    path
}
