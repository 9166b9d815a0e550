//! Endpoint → configuration of the NHRP engine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crds::endpoint::{DmvpnEndpointSpec, EndpointNhs, Role};
use crds::network::{HubMode, Nbma, Phase, RegistrationPolicy, UnderlayFamily, UniquenessPolicy};
use ipnet::IpNet;

/// What the endpoint's spec does not say by itself: found out by the agent.
#[derive(Clone, Debug, Default)]
pub struct NhrpFacts {
    /// Index of the tunnel link, 0 while there is none.
    pub link: u32,
    /// Underlay address of the tunnel; `None`: it has none, or the link is down.
    pub nbma: Option<IpAddr>,
    /// The other end of a point-to-point tunnel.
    pub remote: Option<IpAddr>,
    /// Host names of hubs → addresses.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// What the node reaches by its other tunnels of the same networkId.
    pub beside: Vec<IpNet>,
    /// What of that spokes can be reached straight in.
    pub across: Vec<IpNet>,
    /// IP MTU of the link, where the endpoint leaves it to be worked out.
    pub mtu: Option<u16>,
    /// Passwords, in the order of the references.
    pub passwords: Vec<Vec<u8>>,
}

/// The engine's configuration.
pub fn nhrp_config(spec: &DmvpnEndpointSpec, facts: &NhrpFacts) -> nhrp::Config {
    let subnets = spec.subnets.iter().map(|s| s.advertise_as.as_ref().unwrap_or(&s.cidr).0).collect();
    // A hub may have addresses of both families: one of them can be sent to.
    let v6 = spec.tunnel.underlay_family == UnderlayFamily::IPv6;
    let places = |nbma: &[Nbma]| -> Vec<IpAddr> {
        let all = nbma.iter().flat_map(|n| nbma_addresses(n, &facts.names));
        all.filter(|address| address.is_ipv6() == v6).collect()
    };
    let nhs = spec.nhs.iter().map(|hub| nhrp::Nhs {
        name: hub.name.clone(),
        overlay: hub.overlay_addresses.clone(),
        nbma: match facts.remote {
            // The link leads there, whatever other addresses the hub has.
            Some(remote) => vec![remote],
            None => places(&hub.nbma),
        },
        priority: hub.priority,
        cluster: hub.cluster,
        max_connections: hub.max_connections.unwrap_or(0),
        draining: hub.mode == HubMode::Draining,
    });
    let child_hubs = spec.child_hubs.iter().map(|hub| nhrp::ChildHub {
        name: hub.name.clone(),
        overlay: hub.overlay_addresses.clone(),
        nbma: places(&hub.nbma),
    });
    let statics = spec.nhrp.static_mappings.iter().map(|m| nhrp::StaticBinding {
        overlay: m.overlay_address,
        nbma: m.nbma_address,
        prefixes: prefixes(&m.subnets),
    });
    let external = spec.external.iter().map(|e| nhrp::External {
        name: e.name.clone(),
        overlay: e.overlay_addresses.clone(),
        prefixes: prefixes(&e.subnets),
    });
    nhrp::Config {
        link: nhrp::LinkId(facts.link),
        nbma: facts.nbma,
        phase: match spec.phase {
            Phase::Phase1 => nhrp::Phase::One,
            Phase::Phase2 => nhrp::Phase::Two,
            Phase::Phase3 => nhrp::Phase::Three,
        },
        server: spec.role != Role::Spoke,
        local: spec.addresses.iter().map(|a| a.address).collect(),
        overlay: prefixes(&spec.overlay),
        subnets,
        advertise: prefixes(&spec.advertise),
        beside: facts.beside.clone(),
        across: facts.across.clone(),
        nhs: nhs.collect(),
        fixed_hubs: spec.nhrp.fixed_hubs,
        names: facts
            .names
            .iter()
            .map(|(name, all)| {
                let usable = all.iter().copied().filter(|address| address.is_ipv6() == v6);
                (name.clone(), usable.collect())
            })
            .collect(),
        hub_list: spec.nhrp.hub_list.iter().map(hub_entry).collect(),
        fallback_seconds: spec.nhrp.fallback_seconds,
        child_hubs: child_hubs.collect(),
        statics: statics.collect(),
        external: external.collect(),
        holding_time: spec.nhrp.hold_time_seconds,
        registration_interval: spec.nhrp.registration_interval_seconds,
        unique: spec.nhrp.registration_unique,
        uniqueness: match spec.nhrp.uniqueness_policy {
            UniquenessPolicy::Identity => nhrp::Uniqueness::Identity,
            UniquenessPolicy::Nbma => nhrp::Uniqueness::Nbma,
            UniquenessPolicy::None => nhrp::Uniqueness::None,
        },
        authentication: facts.passwords.iter().cloned().map(nhrp::Secret::from).collect(),
        mtu: facts.mtu.unwrap_or(spec.tunnel.mtu),
        request: spec.nhrp.address_request.as_ref().map(|it| nhrp::AddressRequest {
            identity: it.identity.clone(),
            ipv4: it.ipv4,
            ipv6: it.ipv6,
            group: it.qos_group.clone(),
        }),
        pool: spec.nhrp.address_pool.as_ref().map(|it| nhrp::Pool {
            prefixes: prefixes(&it.prefixes),
            reserved: prefixes(&it.reserved),
            share: it.share,
            shares: it.shares,
        }),
        own_groups: spec
            .addresses
            .iter()
            .filter_map(|it| Some((it.address, it.qos_group.clone()?)))
            .collect(),
        groups: spec.qos_groups.iter().map(|group| group.name.clone()).collect(),
        members: spec.ipsec.as_ref().filter(|it| it.tells_apart() && spec.role != Role::Spoke).map(|ipsec| {
            let declared = spec.members.iter().map(|it| nhrp::Member {
                name: it.name.clone(),
                identity: it.identity.clone(),
                overlay: it.overlay_addresses.clone(),
                prefixes: (!it.hub).then(|| prefixes(&it.subnets)),
            });
            nhrp::Members {
                open: spec.registration.policy != RegistrationPolicy::AllowListed,
                declared: declared.collect(),
                denied: ipsec.denied_identities.iter().cloned().collect(),
            }
        }),
    }
}

/// A hub as hubs tell of it.
fn hub_entry(hub: &EndpointNhs) -> nhrp::HubEntry {
    let place = |nbma: &Nbma| match (&nbma.address, &nbma.hostname) {
        (Some(address), _) => address.parse().ok().map(nhrp::HubNbma::Address),
        (None, Some(name)) => Some(nhrp::HubNbma::Name(name.clone())),
        (None, None) => None,
    };
    nhrp::HubEntry {
        name: hub.name.clone(),
        priority: hub.priority,
        cluster: hub.cluster,
        max_connections: hub.max_connections.unwrap_or(0),
        draining: hub.mode == HubMode::Draining,
        overlay: hub.overlay_addresses.clone(),
        nbma: hub.nbma.iter().filter_map(place).collect(),
    }
}

fn prefixes(list: &[crds::net::Cidr]) -> Vec<IpNet> {
    list.iter().map(|c| c.0).collect()
}

/// Addresses of a hub's `nbma` entry.
pub fn nbma_addresses(nbma: &Nbma, names: &BTreeMap<String, Vec<IpAddr>>) -> Vec<IpAddr> {
    let literal = nbma.address.as_deref().and_then(|a| a.parse().ok());
    let named = nbma.hostname.as_ref().and_then(|h| names.get(h));
    literal.into_iter().chain(named.into_iter().flatten().copied()).collect()
}
