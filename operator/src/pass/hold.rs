//! Which endpoints should be there. Mostly those that the compile yields; but an object that is refused after an edit, or
//! does not decode, must not take away what it gave before: only an explicit wish removes a tunnel. What it gave is read
//! from the endpoints themselves, so that a restart of the operator changes nothing.
//!
//! A refused network holds its endpoints as they are. A refused spoke keeps its addresses and prefixes on the endpoints
//! that have them, as far as nobody else has got them meanwhile; everything else on those endpoints goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::endpoint::{Desired, EndpointSubnet, Role};
use crds::secrets::REVISION_ANNOTATION;
use crds::{Cidr, DmvpnEndpoint, ENDPOINT_FINALIZER};

use super::{Facts, Wanted, name, owned_by};

/// Wanted endpoints by name.
pub(crate) type Endpoints = BTreeMap<String, Wanted>;

/// The endpoints that should be there, and the refused objects (`Kind/name`) of which something stays in force.
pub(super) fn wanted(facts: &Facts<'_>) -> (Endpoints, BTreeSet<String>) {
    let mut kept = BTreeSet::new();
    let mut wanted: Endpoints = BTreeMap::new();
    for endpoint in &facts.compiled.endpoints {
        wanted.insert(name(endpoint).to_owned(), Wanted { endpoint: endpoint.clone(), held: false });
    }
    let mut taken = Taken::of(&facts.compiled.endpoints);
    for old in facts.snapshot.endpoints.iter().filter(|e| e.spec.desired == Desired::Present) {
        if !facts.node_is_there(old) {
            continue;
        }
        let network = old.spec.network.as_str();
        if facts.network_refused(network) {
            kept.insert(format!("DmvpnNetwork/{network}"));
            wanted.insert(name(old).to_owned(), Wanted { endpoint: old.clone(), held: true });
        } else if let Some(gateway) = &old.spec.gateway {
            // Its routes stay, unless the node has got a tunnel of its own.
            if facts.spoke_refused(&gateway.owner) && !wanted.contains_key(name(old)) {
                kept.insert(format!("DmvpnSpoke/{}", gateway.owner));
                wanted.insert(name(old).to_owned(), Wanted { endpoint: old.clone(), held: true });
            }
        } else if facts.networks.contains_key(network) {
            keep_spokes(facts, old, &mut wanted, &mut taken, &mut kept);
        }
    }
    for w in wanted.values_mut().filter(|w| !w.held) {
        complete(facts, &mut w.endpoint);
    }
    (wanted, kept)
}

/// Carries over what refused spokes gave to an endpoint.
fn keep_spokes(
    facts: &Facts<'_>,
    old: &DmvpnEndpoint,
    wanted: &mut Endpoints,
    taken: &mut Taken,
    kept: &mut BTreeSet<String>,
) {
    let network = old.spec.network.as_str();
    let refused = |owner: &str| facts.spoke_refused(owner);
    let addresses: Vec<_> = old
        .spec
        .addresses
        .iter()
        .filter(|a| refused(&a.owner) && !taken.addresses.contains(&(network.to_owned(), a.address)))
        .cloned()
        .collect();
    let subnets: Vec<_> = old
        .spec
        .subnets
        .iter()
        .filter(|s| refused(&s.owner) && !taken.overlaps(network, announced(s)))
        .cloned()
        .collect();
    let external: Vec<_> = old
        .spec
        .external
        .iter()
        .filter(|e| refused(&e.name))
        .filter(|e| !e.overlay_addresses.iter().any(|a| taken.addresses.contains(&(network.to_owned(), *a))))
        .cloned()
        .collect();
    // One that asks for its address in band has none here.
    let request = old.spec.nhrp.address_request.clone().filter(|request| refused(&request.owner));
    if addresses.is_empty() && subnets.is_empty() && external.is_empty() && request.is_none() {
        return;
    }
    let spec = match wanted.get_mut(name(old)) {
        Some(now) => &mut now.endpoint.spec,
        // Nothing else is on this node. A hub that was moved is gone; a spoke without an address is no endpoint.
        None if old.spec.role != Role::Spoke || (addresses.is_empty() && request.is_none()) => return,
        None => {
            let mut alone = DmvpnEndpoint::new(name(old), old.spec.clone());
            alone.metadata.labels = old.metadata.labels.clone();
            alone.spec.addresses.clear();
            alone.spec.subnets.clear();
            let entry = wanted.entry(name(old).to_owned());
            &mut entry.or_insert(Wanted { endpoint: alone, held: false }).endpoint.spec
        }
    };
    let owners = addresses.iter().map(|a| &a.owner).chain(subnets.iter().map(|s| &s.owner));
    let owners = owners.chain(request.iter().map(|request| &request.owner));
    kept.extend(owners.chain(external.iter().map(|e| &e.name)).map(|owner| format!("DmvpnSpoke/{owner}")));
    taken.addresses.extend(addresses.iter().map(|a| (network.to_owned(), a.address)));
    let prefixes = taken.subnets.entry(network.to_owned()).or_default();
    prefixes.extend(subnets.iter().map(announced));
    spec.addresses.extend(addresses);
    if spec.role == Role::Spoke && request.is_some() {
        // The same identity keeps the same address.
        spec.nhrp.address_request = request;
    }
    spec.subnets.extend(subnets);
    spec.subnets.sort_by_key(|s| s.cidr);
    for entry in external {
        // Several hubs of one network tell the same.
        if !spec.external.iter().any(|e| e.name == entry.name) {
            spec.external.push(entry);
        }
    }
    spec.external.sort_by(|a, b| a.name.cmp(&b.name));
}

/// Adds what the compile leaves to its caller: finalizer, owner and the revision of the Secrets.
fn complete(facts: &Facts<'_>, endpoint: &mut DmvpnEndpoint) {
    let network = endpoint.spec.network.clone();
    let credentials = facts.credentials.get(network.as_str());
    let revision = match credentials {
        Some(c) if c.referred && c.revision.is_none() => {
            // Not all are there: agents stay with what they have.
            let old = facts.endpoints.get(name(endpoint));
            old.and_then(|e| e.metadata.annotations.as_ref()?.get(REVISION_ANNOTATION).cloned())
        }
        Some(c) => c.revision.clone(),
        None => None,
    };
    endpoint.metadata.annotations = revision.map(|r| BTreeMap::from([(REVISION_ANNOTATION.to_owned(), r)]));
    endpoint.metadata.finalizers = Some(vec![ENDPOINT_FINALIZER.to_owned()]);
    endpoint.metadata.owner_references = facts.networks.get(network.as_str()).and_then(|n| owned_by(n));
}

/// What others have got.
struct Taken {
    addresses: BTreeSet<(String, IpAddr)>,
    subnets: BTreeMap<String, Vec<Cidr>>,
}

impl Taken {
    fn of(endpoints: &[DmvpnEndpoint]) -> Self {
        let mut taken = Self { addresses: BTreeSet::new(), subnets: BTreeMap::new() };
        for spec in endpoints.iter().map(|e| &e.spec) {
            let of = |a: &IpAddr| (spec.network.clone(), *a);
            taken.addresses.extend(spec.addresses.iter().map(|a| of(&a.address)));
            taken.addresses.extend(spec.nhs.iter().flat_map(|n| n.overlay_addresses.iter().map(of)));
            taken.addresses.extend(spec.external.iter().flat_map(|e| e.overlay_addresses.iter().map(of)));
            let prefixes = taken.subnets.entry(spec.network.clone()).or_default();
            prefixes.extend(spec.subnets.iter().map(announced));
            prefixes.extend(spec.external.iter().flat_map(|e| e.subnets.iter().copied()));
        }
        taken
    }

    fn overlaps(&self, network: &str, prefix: Cidr) -> bool {
        self.subnets.get(network).is_some_and(|list| list.iter().any(|p| p.overlaps(&prefix)))
    }
}

fn announced(subnet: &EndpointSubnet) -> Cidr {
    subnet.advertise_as.unwrap_or(subnet.cidr)
}
