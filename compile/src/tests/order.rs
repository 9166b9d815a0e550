//! The same inputs in any order give the same output.

use proptest::prelude::*;

use super::*;

fn scene() -> Inputs {
    let mut yaml = network("branches", "  addressing: {pools: [10.255.16.0/28]}")
        + &network("other", "  tunnel: {key: 7}");
    for i in 0..12 {
        // some overlap, some ask for the same address, some get one
        let extra = match i % 4 {
            0 => format!("  subnets: [{{cidr: 10.{i}.0.0/24}}]"),
            1 => "  overlayAddresses: [10.255.0.77]".to_owned(),
            2 => "  subnets: [{cidr: 10.200.0.0/16}]".to_owned(),
            _ => "  networkRef_: x".to_owned(),
        };
        let extra = if extra.contains("networkRef_") { String::new() } else { extra };
        yaml += &spoke(&format!("s{i:02}"), &extra);
    }
    yaml += &spoke_at("each", "{type: EveryNode, nodeSelector: {edge: 'yes'}}", "");
    let mut nodes: Vec<String> = (0..12).map(|i| format!("s{i:02}:edge=yes")).collect();
    nodes.push("hub:dmvpn.io/hub=hub1".to_owned());
    let mut facts = inputs(&yaml, &nodes.iter().map(String::as_str).collect::<Vec<_>>());
    facts.addresses = compile(&facts).allocations.into_iter().step_by(2).collect();
    facts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn order_does_not_matter(seed in any::<u64>()) {
        let facts = scene();
        let want = compile(&facts);
        let mut shuffled = facts.clone();
        let shuffle = |i: usize| crate::names::hash(&[&seed.to_string(), &i.to_string()]);
        let mut keyed: Vec<_> = shuffled.spokes.drain(..).enumerate().collect();
        keyed.sort_by_key(|(i, _)| shuffle(*i));
        shuffled.spokes = keyed.into_iter().map(|(_, s)| s).collect();
        let mut keyed: Vec<_> = shuffled.nodes.drain(..).enumerate().collect();
        keyed.sort_by_key(|(i, _)| shuffle(i + 100));
        shuffled.nodes = keyed.into_iter().map(|(_, s)| s).collect();
        let mut keyed: Vec<_> = shuffled.addresses.drain(..).enumerate().collect();
        keyed.sort_by_key(|(i, _)| shuffle(i + 200));
        shuffled.addresses = keyed.into_iter().map(|(_, s)| s).collect();
        if seed % 2 == 0 {
            shuffled.networks.reverse();
        }
        prop_assert_eq!(compile(&shuffled), want);
    }
}

#[test]
fn what_was_allocated_is_a_fixed_point() {
    let mut facts = scene();
    let first = compile(&facts);
    facts.addresses = first.allocations.clone();
    assert_eq!(compile(&facts), first);
}
