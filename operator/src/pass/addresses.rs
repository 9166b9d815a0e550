//! Allocated addresses: an object each, before the endpoint that uses it, and gone after it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crds::address::object_name;
use crds::{DmvpnAddress, DmvpnAddressSpec};

use super::{Facts, Op, Write, name, owned_by, stays};

pub(super) fn plan(facts: &Facts<'_>) -> Vec<Write> {
    let mut writes = Vec::new();
    let there: BTreeSet<&str> = facts.snapshot.addresses.iter().map(name).collect();
    for wanted in &facts.compiled.allocations {
        let object = object_name(&wanted.network, wanted.address);
        if there.contains(object.as_str()) {
            continue;
        }
        let spec = DmvpnAddressSpec {
            network: wanted.network.clone(),
            address: wanted.address,
            owner: wanted.owner.clone(),
        };
        let mut address = DmvpnAddress::new(&object, spec);
        address.metadata.owner_references =
            facts.networks.get(wanted.network.as_str()).and_then(|n| owned_by(n));
        writes.push(write(object, (None, None), Op::CreateAddress(Box::new(address))));
    }
    let kept: BTreeSet<(&str, IpAddr, &str)> = facts
        .compiled
        .allocations
        .iter()
        .map(|a| (a.network.as_str(), a.address, a.owner.as_str()))
        .collect();
    let mut in_use: BTreeSet<(&str, IpAddr)> = facts
        .snapshot
        .endpoints
        .iter()
        .flat_map(|e| e.spec.addresses.iter().map(|a| (e.spec.network.as_str(), a.address)))
        .collect();
    for bad in &facts.snapshot.bad_endpoints {
        let addresses = bad.spec["addresses"].as_array().into_iter().flatten();
        let addresses = addresses.filter_map(|a| a["address"].as_str()?.parse().ok());
        in_use.extend(addresses.map(|address| (bad.text("network"), address)));
    }
    for object in facts.snapshot.addresses.iter().filter(|a| stays(*a)) {
        let spec = &object.spec;
        let spoke = spec.owner.split('/').next().unwrap_or_default();
        let released = !kept.contains(&(spec.network.as_str(), spec.address, spec.owner.as_str()))
            && !in_use.contains(&(spec.network.as_str(), spec.address))
            // A slip in an edit must not cost an address.
            && !facts.network_refused(&spec.network)
            && !facts.spoke_refused(spoke);
        if let (true, Some(uid)) = (released, object.metadata.uid.clone()) {
            let version = object.metadata.resource_version.clone();
            let op = Op::DeleteAddress { uid: uid.clone() };
            writes.push(write(name(object).to_owned(), (Some(uid), version), op));
        }
    }
    writes
}

/// Addresses that an endpoint is to have by allocation and whose object is not there (yet), or is another's.
pub(super) fn missing<'a>(facts: &'a Facts<'_>) -> BTreeSet<(&'a str, IpAddr)> {
    let there: BTreeSet<(&str, IpAddr, &str)> = facts
        .snapshot
        .addresses
        .iter()
        .filter(|a| stays(*a))
        .map(|a| (a.spec.network.as_str(), a.spec.address, a.spec.owner.as_str()))
        .collect();
    facts
        .compiled
        .allocations
        .iter()
        .filter(|a| !there.contains(&(a.network.as_str(), a.address, a.owner.as_str())))
        .map(|a| (a.network.as_str(), a.address))
        .collect()
}

fn write(name: String, (uid, base): (Option<String>, Option<String>), op: Op) -> Write {
    Write { kind: "DmvpnAddress", name, uid, base, op, notes: Vec::new() }
}
