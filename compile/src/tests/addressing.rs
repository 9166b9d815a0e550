//! Allocation of overlay addresses.

use super::*;

const POOL: &str = "  addressing: {pools: [10.255.16.0/29], reserved: [10.255.16.3]}";

fn spokes(names: &[&str]) -> String {
    names.iter().map(|n| spoke(n, "")).collect()
}

fn address(compiled: &Compiled, owner: &str) -> String {
    let found = compiled.allocations.iter().find(|a| a.owner == owner);
    found.map(|a| a.address.to_string()).unwrap_or_default()
}

#[test]
fn an_allocation_stays_whatever_comes_and_goes_beside_it() {
    let all = ["a", "b", "c"];
    let first = compile(&inputs(&(network("branches", POOL) + &spokes(&all)), &all));
    assert_eq!(first.all_faults(), Vec::<String>::new());
    assert_eq!(first.allocations.len(), 3);

    let more = ["a", "aa", "b", "c"];
    let mut facts = inputs(&(network("branches", POOL) + &spokes(&more)), &more);
    facts.addresses = first.allocations.clone();
    let second = compile(&facts);
    for name in all {
        assert_eq!(address(&first, name), address(&second, name));
    }

    // released only when the spoke is gone
    let mut facts = inputs(&(network("branches", POOL) + &spokes(&["a", "c"])), &all);
    facts.addresses = second.allocations.clone();
    let third = compile(&facts);
    assert_eq!(third.allocations.len(), 2);
    assert_eq!(address(&third, "a"), address(&first, "a"));
}

#[test]
fn a_spoke_that_waits_or_is_refused_keeps_its_address() {
    let mut facts = inputs(&(network("branches", POOL) + &spokes(&["a"])), &["a"]);
    facts.addresses = compile(&facts).allocations;
    let before = facts.addresses.clone();
    facts.nodes.clear();
    assert_eq!(compile(&facts).allocations, before, "its node is away");
    let bad = spoke("a", "  subnets: [{cidr: 10.255.3.0/24}]");
    let mut facts = inputs(&(network("branches", POOL) + &bad), &["a"]);
    facts.addresses = before.clone();
    assert_eq!(compile(&facts).allocations, before, "a slip in an edit costs no address");
}

#[test]
fn no_address_is_given_out_twice_and_none_that_is_not_free() {
    // 8 addresses: network, broadcast, one reserved, one stated by a spoke, four to give
    let names = ["a", "b", "c", "d", "e"];
    let yaml = network("branches", POOL) + &spokes(&names) + &spoke("z", "  overlayAddresses: [10.255.16.5]");
    let nodes = ["a", "b", "c", "d", "e", "z"];
    let compiled = compile(&inputs(&yaml, &nodes));
    let mut got: Vec<String> = compiled.allocations.iter().map(|a| a.address.to_string()).collect();
    got.sort();
    assert_eq!(got, ["10.255.16.1", "10.255.16.2", "10.255.16.4", "10.255.16.6"]);
    let faults = compiled.all_faults();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("PoolExhausted spec.overlayAddresses"), "{faults:?}");
    assert_eq!(compiled.endpoints.len(), 5);
}

#[test]
fn an_allocation_that_became_invalid_is_replaced() {
    let mut facts = inputs(&(network("branches", POOL) + &spokes(&["a"])), &["a"]);
    for bad in ["10.255.16.3", "10.255.16.0", "10.255.99.1", "10.255.0.1", "fd00::1"] {
        facts.addresses =
            vec![Allocated { network: "branches".into(), address: bad.parse().unwrap(), owner: "a".into() }];
        let compiled = compile(&facts);
        assert_eq!(compiled.allocations.len(), 1);
        assert_ne!(address(&compiled, "a"), bad);
    }
}

#[test]
fn both_families_are_served() {
    let yaml = network("branches", "  addressing: {pools: [10.255.16.0/29, 'fd00:255::/96']}")
        .replace("[10.255.0.0/16]", "[10.255.0.0/16, 'fd00:255::/64']")
        + &spokes(&["a"]);
    let compiled = compile(&inputs(&yaml, &["a"]));
    let families: Vec<bool> =
        compiled.endpoints[0].spec.addresses.iter().map(|a| a.address.is_ipv4()).collect();
    assert_eq!(families, [true, false]);
}

#[test]
fn what_is_still_on_a_tunnel_is_given_to_nobody_else() {
    let mut facts = inputs(&(network("branches", POOL) + &spokes(&["a"])), &["a"]);
    let of_a = compile(&facts).allocations;
    // a is deleted, b comes; b would get the same address if a were forgotten
    let names = ["b", "c", "d", "e"];
    facts = inputs(&(network("branches", POOL) + &spokes(&names)), &names);
    facts.addresses = of_a.clone();
    facts.in_use = of_a.clone();
    let compiled = compile(&facts);
    assert_eq!(compiled.allocations.len(), 4);
    assert!(compiled.allocations.iter().all(|a| a.address != of_a[0].address), "{:?}", compiled.allocations);
    // an owner that is there keeps it
    let mut facts = inputs(&(network("branches", POOL) + &spokes(&["a"])), &["a"]);
    facts.addresses = of_a.clone();
    facts.in_use = of_a.clone();
    assert_eq!(compile(&facts).allocations, of_a);
}
