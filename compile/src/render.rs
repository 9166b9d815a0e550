//! Endpoints are written out.

use std::collections::BTreeMap;

use crds::endpoint::{
    Desired, EndpointAddress, EndpointCertificate, EndpointChildHub, EndpointExternal, EndpointIpsec,
    EndpointMapping, EndpointMember, EndpointNhrp, EndpointNhs, EndpointRegistration, EndpointRouting,
    EndpointSubnet, EndpointTunnel, Role,
};
use crds::network::{HubMode, IpsecMode, MulticastMode, Nbma, NhrpMode, Phase};
use crds::spoke::PlacementType;
use crds::{DmvpnEndpoint, DmvpnEndpointSpec, NETWORK_LABEL};

use crate::network::{HubView, Network};
use crate::site::{Member, Site};
use crate::spoke::Spoke;
use crate::{in_band, names};

/// The endpoint of a site.
pub(crate) fn endpoint(
    site: &Site<'_>,
    networks: &[Network<'_>],
    spokes: &[Spoke<'_>],
) -> Option<DmvpnEndpoint> {
    let network = networks.get(site.network)?;
    let hub = site.hub.as_ref().and_then(|name| network.hubs.get(name));
    let members: Vec<(&Member, &Spoke<'_>)> =
        site.members.iter().filter_map(|m| Some((m, spokes.get(m.spoke)?))).collect();
    let awake: Vec<_> = members.iter().filter(|(_, s)| !s.object.spec.suspend).copied().collect();
    // a tunnel whose spokes are all suspended stays as it is, shut down
    let asleep = hub.is_none() && awake.is_empty();
    let shown = if asleep { &members } else { &awake };
    let settings = &network.object.spec;
    let nhs = servers(network, hub, shown);
    let spec = DmvpnEndpointSpec {
        network: network.name.clone(),
        node_name: site.node.name.clone(),
        node_uid: site.node.uid.clone(),
        desired: Desired::Present,
        suspend: settings.suspend || asleep,
        role: match hub {
            Some(_) if nhs.is_empty() => Role::Hub,
            Some(_) => Role::HubSpoke,
            None => Role::Spoke,
        },
        phase: settings.phase,
        overlay: network.overlay.clone(),
        addresses: addresses(network, hub, shown),
        subnets: subnets(site, shown),
        advertise: hub.map(|h| h.advertise.clone()).unwrap_or_default(),
        tunnel: tunnel(site, network, hub, &nhs)?,
        nhrp: EndpointNhrp {
            address_request: in_band::request(site, network, shown),
            address_pool: hub.and_then(|hub| in_band::pool(network, hub)),
            ..nhrp(network, hub, shown)
        },
        child_hubs: hub.map(|h| children(network, h)).unwrap_or_default(),
        members: if hub.is_some() { declared(network, spokes) } else { Vec::new() },
        external: if hub.is_some() { externals(network, spokes) } else { Vec::new() },
        registration: EndpointRegistration { policy: settings.registration.policy },
        qos_groups: hub.and(settings.qos.as_ref()).map(|qos| qos.groups.clone()).unwrap_or_default(),
        routing: EndpointRouting { protocol: settings.routing.protocol, metric: settings.routing.metric },
        nhs,
        ipsec: ipsec(network, hub, shown),
        gateway: None,
        tells_prefixes: false,
    };
    let mut endpoint = DmvpnEndpoint::new(&names::endpoint(&network.name, &site.node.name), spec);
    if network.name.len() <= 63 {
        endpoint.metadata.labels = Some(BTreeMap::from([(NETWORK_LABEL.to_owned(), network.name.clone())]));
    }
    Some(endpoint)
}

/// The hubs that it registers with: hubs with those that they name, spokes with those that one of them names, or, if
/// one names none, with all that run (in Phase 1 with the best).
fn servers(
    network: &Network<'_>,
    hub: Option<&HubView<'_>>,
    members: &[(&Member, &Spoke<'_>)],
) -> Vec<EndpointNhs> {
    let named = |server: &HubView<'_>| {
        let mut own = members.iter().map(|(_, spoke)| &spoke.object.spec.hubs);
        own.any(|hubs| hubs.is_empty() || hubs.contains(&server.hub.name))
    };
    let wanted = |server: &&HubView<'_>| match hub {
        Some(own) => own.hub.name != server.hub.name && own.hub.registers_to.contains(&server.hub.name),
        None => named(server),
    };
    let point_to_point = hub.is_none() && network.object.spec.phase == Phase::Phase1;
    network
        .running_hubs()
        .into_iter()
        .filter(wanted)
        .take(if point_to_point { 1 } else { usize::MAX })
        .map(|server| nhs(network, server))
        .collect()
}

/// A spoke that names its hubs has those only, one of Phase 1 the other end of its tunnel; all others learn in band
/// of hubs that are added.
fn fixed_hubs(network: &Network<'_>, members: &[(&Member, &Spoke<'_>)]) -> bool {
    let named = members.iter().all(|(_, spoke)| !spoke.object.spec.hubs.is_empty());
    named || network.object.spec.phase == Phase::Phase1
}

fn nhs(network: &Network<'_>, server: &HubView<'_>) -> EndpointNhs {
    EndpointNhs {
        name: server.hub.name.clone(),
        priority: server.hub.priority,
        cluster: network.cluster_number(server.hub),
        max_connections: network.max_connections(server.hub),
        mode: server.hub.mode,
        overlay_addresses: server.addresses.clone(),
        nbma: server.hub.nbma.clone(),
        subnets: match network.object.spec.nhrp.mode {
            NhrpMode::Disabled => server.advertise.clone(),
            NhrpMode::Enabled => Vec::new(),
        },
        identity: server.hub.identity.clone(),
    }
}

/// What a hub tells its spokes: all that run.
fn hub_list(network: &Network<'_>, hub: Option<&HubView<'_>>) -> Vec<EndpointNhs> {
    let told = hub.map(|_| network.running_hubs()).unwrap_or_default();
    told.into_iter().map(|server| EndpointNhs { identity: None, ..nhs(network, server) }).collect()
}

/// The hubs that register with this one.
fn children(network: &Network<'_>, hub: &HubView<'_>) -> Vec<EndpointChildHub> {
    let names_it = |other: &&HubView<'_>| {
        let own = &hub.hub.name;
        other.hub.name != *own && other.hub.mode != HubMode::Disabled && other.hub.registers_to.contains(own)
    };
    let child = |other: &HubView<'_>| EndpointChildHub {
        name: other.hub.name.clone(),
        overlay_addresses: other.addresses.clone(),
        nbma: other.hub.nbma.clone(),
    };
    network.hubs.values().filter(names_it).map(child).collect()
}

fn addresses(
    network: &Network<'_>,
    hub: Option<&HubView<'_>>,
    members: &[(&Member, &Spoke<'_>)],
) -> Vec<EndpointAddress> {
    let own = hub.into_iter().flat_map(|hub| {
        hub.addresses.iter().map(|address| EndpointAddress {
            address: *address,
            owner: hub.hub.name.clone(),
            identity: hub.hub.identity.clone(),
            qos_group: None,
        })
    });
    let spokes = members.iter().flat_map(|(member, spoke)| {
        member.addresses.iter().map(|address| EndpointAddress {
            address: *address,
            owner: spoke.name.clone(),
            identity: spoke.object.spec.identity.clone(),
            qos_group: network.qos_group(spoke.object.spec.qos_group.as_ref()),
        })
    });
    own.chain(spokes).collect()
}

/// Prefixes behind the site. Those of pods are announced as themselves: whatever else the node does with their packets,
/// they keep their addresses.
fn subnets(site: &Site<'_>, members: &[(&Member, &Spoke<'_>)]) -> Vec<EndpointSubnet> {
    let mut subnets: Vec<EndpointSubnet> = members
        .iter()
        .flat_map(|(_, spoke)| {
            spoke.subnets.iter().map(|subnet| EndpointSubnet {
                cidr: subnet.cidr,
                advertise_as: subnet.advertise_as,
                owner: spoke.name.clone(),
            })
        })
        .collect();
    for (_, spoke) in members {
        let every = spoke.object.spec.placement.type_ == PlacementType::EveryNode;
        for (_, cidr) in spoke.pods.iter().filter(|(node, _)| !every || node.name == site.node.name) {
            // What has another name has no second one.
            if !subnets.iter().any(|it| it.cidr.overlaps(cidr)) {
                let (cidr, advertise_as) = (*cidr, Some(*cidr));
                subnets.push(EndpointSubnet { cidr, advertise_as, owner: spoke.name.clone() });
            }
        }
    }
    subnets.sort_by_key(|s| s.cidr);
    subnets
}

fn tunnel(
    site: &Site<'_>,
    network: &Network<'_>,
    hub: Option<&HubView<'_>>,
    nhs: &[EndpointNhs],
) -> Option<EndpointTunnel> {
    let settings = &network.object.spec.tunnel;
    Some(EndpointTunnel {
        interface_name: names::interface(network.object),
        source: site.source(network)?,
        destination: destination(network, hub, nhs),
        underlay_family: settings.underlay_family,
        key: settings.key,
        mtu_policy: settings.mtu_policy,
        mtu: settings.mtu,
        tcp_mss_policy: settings.tcp_mss_policy,
        ttl: settings.ttl,
        dscp_policy: settings.dscp_policy,
        bandwidth_kbps: settings.bandwidth_kbps,
        keepalive: settings.keepalive.clone(),
        interface_state: settings.interface_state,
        vrf: settings.vrf.clone(),
    })
}

/// The other end of a point-to-point tunnel: on a Phase 1 spoke its hub; on a hub without NHRP the only peer
/// that `staticMappings` names.
fn destination(network: &Network<'_>, hub: Option<&HubView<'_>>, nhs: &[EndpointNhs]) -> Option<Nbma> {
    if network.object.spec.phase != Phase::Phase1 {
        return None;
    }
    if hub.is_none() {
        return nhs.first()?.nbma.first().cloned();
    }
    match (network.object.spec.nhrp.mode, network.mappings.as_slice()) {
        (NhrpMode::Disabled, [peer, ..]) => {
            Some(Nbma { address: Some(peer.nbma.to_string()), hostname: None })
        }
        _ => None,
    }
}

fn nhrp(network: &Network<'_>, hub: Option<&HubView<'_>>, members: &[(&Member, &Spoke<'_>)]) -> EndpointNhrp {
    let settings = &network.object.spec.nhrp;
    // a Phase 1 spoke has one peer only; nobody maps his own address
    let own = |address| members.iter().any(|(member, _)| member.addresses.contains(&address));
    let mapped = hub.is_some() || network.object.spec.phase != Phase::Phase1;
    let mappings = network.mappings.iter().filter(|m| mapped && !own(m.overlay));
    EndpointNhrp {
        mode: settings.mode,
        network_id: names::network_id(network.object),
        hold_time_seconds: settings.hold_time_seconds,
        registration_interval_seconds: settings.registration_interval_seconds,
        authentication_secret_refs: settings.authentication_secret_refs.clone(),
        uniqueness_policy: settings.uniqueness_policy,
        registration_unique: members.iter().any(|(_, s)| s.object.spec.nhrp.registration_unique),
        fallback_seconds: network.object.spec.fallback_seconds,
        fixed_hubs: hub.is_none() && fixed_hubs(network, members),
        hub_list: hub_list(network, hub),
        static_mappings: mappings
            .map(|m| EndpointMapping {
                overlay_address: m.overlay,
                nbma_address: m.nbma,
                subnets: m.subnets.clone(),
            })
            .collect(),
        multicast: settings.multicast.clone().filter(|it| it.mode != MulticastMode::None),
        address_request: None,
        address_pool: None,
    }
}

fn ipsec(
    network: &Network<'_>,
    hub: Option<&HubView<'_>>,
    members: &[(&Member, &Spoke<'_>)],
) -> Option<EndpointIpsec> {
    let settings = &network.object.spec.ipsec;
    let authentication = settings.authentication.as_ref().filter(|_| settings.mode == IpsecMode::Required)?;
    Some(EndpointIpsec {
        psk_secret_refs: authentication.psk_secret_refs.clone(),
        certificate: authentication.certificate.as_ref().and_then(|it| {
            Some(EndpointCertificate {
                ca_secret_refs: it.ca_secret_refs.clone(),
                secret_ref: it.secret_ref.clone()?,
            })
        }),
        identity: match hub {
            Some(hub) => hub.hub.identity.clone(),
            None => members.iter().find_map(|(_, spoke)| spoke.object.spec.identity.clone()),
        },
        denied_identities: settings.denied_identities.clone(),
        proposals: settings.proposals.clone(),
        rekey_seconds: settings.rekey_seconds,
        dpd_seconds: settings.dpd_seconds,
        udp_encapsulation: settings.udp_encapsulation,
    })
}

/// External spokes of a network, by name.
fn externals(network: &Network<'_>, spokes: &[Spoke<'_>]) -> Vec<EndpointExternal> {
    let ours = |s: &&Spoke<'_>| {
        s.external()
            && s.accepted()
            && !s.object.spec.suspend
            && s.object.spec.network_ref.name == network.name
    };
    let mut externals: Vec<EndpointExternal> = spokes
        .iter()
        .filter(ours)
        .map(|s| EndpointExternal {
            name: s.name.clone(),
            overlay_addresses: s.addresses.clone(),
            subnets: s.subnets.iter().map(super::spoke::SubnetView::announced).collect(),
            identity: s.object.spec.identity.clone(),
            qos_group: network.qos_group(s.object.spec.qos_group.as_ref()),
        })
        .collect();
    externals.sort_by(|a, b| a.name.cmp(&b.name));
    externals
}

/// What is declared for each identity: of spokes, wherever they are placed, and of hubs that register with others. Sorted
/// by name.
fn declared(network: &Network<'_>, spokes: &[Spoke<'_>]) -> Vec<EndpointMember> {
    if !network.tells_apart() {
        return Vec::new();
    }
    let ours = |s: &&Spoke<'_>| s.accepted() && s.object.spec.network_ref.name == network.name;
    let spokes = spokes.iter().filter(ours).filter_map(|spoke| {
        Some(EndpointMember {
            name: spoke.name.clone(),
            identity: spoke.object.spec.identity.clone()?,
            overlay_addresses: spoke.addresses.clone(),
            subnets: spoke.subnets.iter().map(super::spoke::SubnetView::announced).collect(),
            hub: false,
        })
    });
    let hubs = network.hubs.values().filter_map(|hub| {
        Some(EndpointMember {
            name: hub.hub.name.clone(),
            identity: hub.hub.identity.clone()?,
            overlay_addresses: hub.addresses.clone(),
            subnets: Vec::new(),
            hub: true,
        })
    });
    let mut declared: Vec<_> = spokes.chain(hubs).collect();
    declared.sort_by(|a, b| a.name.cmp(&b.name));
    declared
}
