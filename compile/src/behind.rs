//! Nodes that reach a network through another node of their cluster, the gateway: they have no tunnel, but routes to what
//! the gateway's tunnel leads to. What that is its agent tells in the status of its endpoint.

use std::collections::BTreeMap;

use crds::endpoint::{EndpointGateway, EndpointNhrp, Role};
use crds::spoke::PodCidrPolicy;
use crds::{Cidr, DmvpnEndpoint, DmvpnEndpointSpec, Reason};
use ipnet::IpNet;

use crate::model::{Membership, NodeFacts, Reached};
use crate::names;
use crate::network::Network;
use crate::site::Site;
use crate::spoke::Spoke;

/// Most prefixes that a node behind a gateway has routes to.
const PREFIXES: usize = 512;

/// A node and its gateway.
pub(crate) struct Behind<'a> {
    /// Index of the gateway's site.
    site: usize,
    /// Index of the spoke that makes it one.
    spoke: usize,
    node: &'a NodeFacts,
}

impl Behind<'_> {
    /// Its part in the spoke.
    pub(crate) fn membership(
        &self,
        sites: &[Site<'_>],
        networks: &[Network<'_>],
        spokes: &[Spoke<'_>],
    ) -> Option<Membership> {
        let network = networks.get(sites.get(self.site)?.network)?;
        Some(Membership {
            spoke: spokes.get(self.spoke)?.name.clone(),
            node: self.node.name.clone(),
            endpoint: names::endpoint(&network.name, &self.node.name),
            addresses: Vec::new(),
        })
    }
}

/// Takes the pod prefixes of each spoke's nodes, and of those that it is the gateway of and that have no tunnel of their own;
/// but those that lie in a subnet of its own. What somebody states comes before them, whoever is older.
pub(crate) fn announce_pods<'a>(sites: &[Site<'a>], networks: &mut [Network<'_>], spokes: &mut [Spoke<'a>]) {
    const FIELD: &str = "spec.podCIDRPolicy";
    for (at, spoke) in spokes.iter_mut().enumerate() {
        if spoke.object.spec.pod_cidr_policy != PodCidrPolicy::Announce || !spoke.accepted() {
            continue;
        }
        let own: Vec<&Site<'a>> =
            sites.iter().filter(|site| site.members.iter().any(|member| member.spoke == at)).collect();
        let Some(index) = own.first().map(|site| site.network) else { continue };
        let Some(network) = networks.get_mut(index) else { continue };
        let has_tunnel =
            |node: &NodeFacts| sites.iter().any(|it| it.network == index && it.node.name == node.name);
        let behind = spoke.behind.iter().copied().filter(|node| !has_tunnel(node));
        let nodes: Vec<&'a NodeFacts> = own.iter().map(|site| site.node).chain(behind).collect();
        let owner = format!("DmvpnSpoke/{}", spoke.name);
        for node in nodes {
            if node.pod_cidrs.is_empty() {
                let message =
                    format!("node {} has no podCIDRs: {}", node.name, Reason::PodCidrMissing.cure());
                spoke.faults.wait(Reason::PodCidrMissing, FIELD, message);
            }
            for &cidr in &node.pod_cidrs {
                if spoke.subnets.iter().any(|subnet| subnet.cidr.overlaps(&cidr)) {
                    continue;
                }
                if let Some((reason, message)) = network.subnet_fault(&cidr) {
                    let message = format!("pods of node {}: {message}", node.name);
                    spoke.faults.degrade(reason, FIELD, message);
                    continue;
                }
                network.prefixes.insert(cidr, &owner);
                spoke.pods.push((node, cidr));
            }
        }
    }
}

/// Which nodes are behind which sites. Of two gateways of a node the older spoke's is used.
pub(crate) fn find<'a>(
    sites: &[Site<'a>],
    networks: &[Network<'_>],
    spokes: &mut [Spoke<'a>],
) -> Vec<Behind<'a>> {
    let mut gateways: Vec<(usize, usize)> = sites
        .iter()
        .enumerate()
        .flat_map(|(at, site)| site.members.iter().map(move |member| (member.spoke, at)))
        .collect();
    gateways.sort_unstable();
    let mut taken: BTreeMap<(usize, &str), String> = BTreeMap::new();
    let mut found = Vec::new();
    for (at, site_at) in gateways {
        let (Some(site), Some(spoke)) = (sites.get(site_at), spokes.get_mut(at)) else { continue };
        if spoke.behind.is_empty() || spoke.object.spec.suspend {
            continue;
        }
        const FIELD: &str = "spec.gatewayFor";
        if site.node.internal_ips.is_empty() {
            let message =
                format!("the gateway, node {}, has no InternalIP that others could send to", site.node.name);
            spoke.faults.wait(Reason::NodeAddressUnknown, FIELD, message);
            continue;
        }
        let vrf = networks.get(site.network).and_then(|it| it.object.spec.tunnel.vrf.as_ref());
        if let Some(vrf) = vrf {
            let message = format!(
                "a gateway into a VRF ({vrf}) is not supported by this version: remove it, or tunnel.vrf"
            );
            spoke.faults.degrade(Reason::NotSupported, FIELD, message);
            continue;
        }
        for node in spoke.behind.clone() {
            let has_tunnel = sites.iter().any(|it| it.network == site.network && it.node.name == node.name);
            if has_tunnel {
                continue;
            }
            match taken.get(&(site.network, node.name.as_str())) {
                Some(other) => {
                    let message = format!(
                        "node {} is behind the gateway of DmvpnSpoke/{other} already: let one of them select other nodes",
                        node.name
                    );
                    spoke.faults.degrade(Reason::SettingConflict, FIELD, message);
                }
                None => {
                    taken.insert((site.network, &node.name), spoke.name.clone());
                    found.push(Behind { site: site_at, spoke: at, node });
                }
            }
        }
    }
    found
}

/// Adds the endpoints of nodes behind others, and has those of the gateways tell what they lead to.
pub(crate) fn endpoints(
    behind: &[Behind<'_>],
    sites: &[Site<'_>],
    networks: &[Network<'_>],
    spokes: &mut [Spoke<'_>],
    reached: &[Reached],
    endpoints: &mut Vec<DmvpnEndpoint>,
) {
    let mut more = Vec::new();
    for it in behind {
        let Some((site, spoke)) = sites.get(it.site).zip(spokes.get_mut(it.spoke)) else { continue };
        let Some(network) = networks.get(site.network) else { continue };
        let name = names::endpoint(&network.name, &site.node.name);
        let Some(gateway) = endpoints.iter_mut().find(|e| e.metadata.name.as_ref() == Some(&name)) else {
            continue;
        };
        gateway.spec.tells_prefixes = true;
        let told = reached.iter().filter(|r| r.network == network.name && r.node == site.node.name);
        let told = told.flat_map(|r| &r.prefixes).copied();
        let mut prefixes = prefixes(told, &gateway.spec, site.node, it.node);
        if prefixes.len() > PREFIXES {
            let message = format!(
                "the gateway leads to {} prefixes, of which nodes behind it have routes to {PREFIXES}: let the hub advertise \
                 a summary (hubs[].advertise of DmvpnNetwork/{})",
                prefixes.len(),
                network.name
            );
            spoke.faults.degrade(Reason::SettingConflict, "spec.gatewayFor", message);
            prefixes.truncate(PREFIXES);
        }
        let pods = spoke.pods.iter().filter(|(node, _)| node.name == it.node.name).map(|(_, cidr)| *cidr);
        let pods = pods.chain(mapped_pods(spoke, it.node)).collect();
        let spec = DmvpnEndpointSpec {
            gateway: Some(EndpointGateway {
                node_name: site.node.name.clone(),
                owner: spoke.name.clone(),
                addresses: site.node.internal_ips.iter().copied().take(8).collect(),
                prefixes,
                pods,
            }),
            node_name: it.node.name.clone(),
            node_uid: it.node.uid.clone(),
            role: Role::Behind,
            suspend: network.object.spec.suspend,
            addresses: Vec::new(),
            subnets: Vec::new(),
            advertise: Vec::new(),
            nhs: Vec::new(),
            child_hubs: Vec::new(),
            external: Vec::new(),
            qos_groups: Vec::new(),
            ipsec: None,
            tells_prefixes: false,
            nhrp: EndpointNhrp {
                authentication_secret_refs: Vec::new(),
                hub_list: Vec::new(),
                static_mappings: Vec::new(),
                address_request: None,
                address_pool: None,
                ..gateway.spec.nhrp.clone()
            },
            ..gateway.spec.clone()
        };
        let mut endpoint = DmvpnEndpoint::new(&names::endpoint(&network.name, &it.node.name), spec);
        endpoint.metadata.labels.clone_from(&gateway.metadata.labels);
        more.push(endpoint);
    }
    endpoints.extend(more);
}

/// Pods of a node that are announced as a part of a subnet.
fn mapped_pods<'s>(spoke: &'s Spoke<'_>, node: &'s NodeFacts) -> impl Iterator<Item = Cidr> + 's {
    node.pod_cidrs.iter().copied().filter(|pods| spoke.subnets.iter().any(|own| own.cidr.contains(&pods.0)))
}

/// Where the node has routes to, the overlay aside: neither everywhere, nor to what is behind the gateway itself, nor to
/// what the way to the gateway would be taken by.
fn prefixes(
    told: impl Iterator<Item = Cidr>,
    gateway: &DmvpnEndpointSpec,
    its_node: &NodeFacts,
    node: &NodeFacts,
) -> Vec<Cidr> {
    let covers_a_node = |prefix: &Cidr| {
        its_node.internal_ips.iter().chain(&node.internal_ips).any(|address| prefix.contains(address))
    };
    let told: Vec<IpNet> = told
        .filter(|prefix| prefix.prefix_len() > 0 && !covers_a_node(prefix))
        .filter(|prefix| !gateway.overlay.iter().any(|overlay| overlay.overlaps(prefix)))
        .filter(|prefix| !gateway.subnets.iter().any(|own| own.cidr.overlaps(prefix)))
        .map(|prefix| prefix.0)
        .collect();
    let mut told: Vec<Cidr> = IpNet::aggregate(&told).into_iter().map(Cidr).collect();
    told.sort_unstable();
    told
}
