//! Hubs assign overlay addresses in band.

use super::*;

const BY_HUB: &str = "  addressing: {pools: [10.255.16.0/29], reserved: [10.255.16.3], assignedBy: Hub}";
const HUB: &str = "hub:dmvpn.io/hub=hub1";

/// The network with more hubs, `hub2` and so on.
fn hubs(count: usize, extra: &str) -> String {
    let more: String = (2..=count)
        .map(|n| {
            format!(
                "  - {{name: hub{n}, overlayAddresses: [10.255.0.{n}], nbma: [{{address: 192.0.2.{}}}]}}\n",
                n + 1
            )
        })
        .collect();
    network("branches", &format!("{more}{extra}"))
}

#[test]
fn nothing_is_allocated_spokes_ask_and_hubs_leave_out_what_is_stated() {
    let yaml = network("branches", BY_HUB)
        + &spoke("a", "")
        + &spoke("z", "  overlayAddresses: [10.255.16.5]")
        + &spoke_at("r", "{type: External}", "  overlayAddresses: [10.255.16.4]");
    let mut facts = inputs(&yaml, &["a", "z", HUB]);
    // An allocation from before the hubs assigned.
    let owner = "a".to_owned();
    facts.addresses =
        vec![Allocated { network: "branches".into(), address: "10.255.16.2".parse().unwrap(), owner }];
    let compiled = compile(&facts);
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    assert_eq!(compiled.allocations, []);

    let asks = &compiled.endpoint("branches-a").spec;
    assert_eq!(asks.addresses, []);
    let request = asks.nhrp.address_request.as_ref().unwrap();
    assert_eq!((request.owner.as_str(), request.identity.as_str()), ("a", "a"));
    assert_eq!((request.ipv4, request.ipv6), (true, false));
    assert_eq!(asks.nhrp.address_pool, None);

    let stated = &compiled.endpoint("branches-z").spec;
    assert_eq!((stated.addresses.len(), &stated.nhrp.address_request), (1, &None));

    let hub = &compiled.endpoint("branches-hub").spec;
    assert_eq!(hub.nhrp.address_request, None);
    let pool = hub.nhrp.address_pool.as_ref().unwrap();
    assert_eq!((pool.share, pool.shares), (0, 1));
    let reserved: Vec<String> = pool.reserved.iter().map(ToString::to_string).collect();
    assert_eq!(reserved, ["10.255.16.3/32", "10.255.16.4/31"]);
}

#[test]
fn without_it_nobody_asks_and_hubs_assign_nothing() {
    let yaml = network("branches", &BY_HUB.replace("Hub}", "Cluster}")) + &spoke("a", "");
    let compiled = compile(&inputs(&yaml, &["a", HUB]));
    for endpoint in ["branches-a", "branches-hub"] {
        let nhrp = &compiled.endpoint(endpoint).spec.nhrp;
        assert_eq!((&nhrp.address_request, &nhrp.address_pool), (&None, &None), "{endpoint}");
    }
    assert_eq!(compiled.allocations.len(), 1);
}

/// A spoke is known by its name, one that is on every node by its name and the node's.
#[test]
fn an_identity_is_the_spokes_own() {
    let long = format!("edge-{}", "x".repeat(150));
    let yaml = network("branches", BY_HUB)
        + &spoke("a", "")
        + &spoke_at("every", "{type: EveryNode, nodeSelector: {edge: 'true'}}", "")
        + &spoke_at(&long, "{type: Node, nodeName: long}", "");
    let compiled = compile(&inputs(&yaml, &["a", "n1:edge=true", "n2:edge=true", "long"]));
    let identity =
        |endpoint: &str| compiled.endpoint(endpoint).spec.nhrp.address_request.clone().unwrap().identity;
    assert_eq!(identity("branches-a"), "a");
    assert_eq!(identity("branches-n1"), "every/n1");
    assert_eq!(identity("branches-n2"), "every/n2");
    let cut = identity("branches-long");
    assert!(cut.len() == 128 && cut.starts_with("edge-xxx"), "{cut}");
}

#[test]
fn each_hub_has_a_share_of_its_own() {
    let yaml = hubs(3, BY_HUB)
        .replace("nbma: [{address: 192.0.2.3}]", "mode: Disabled, nbma: [{address: 192.0.2.3}]");
    let compiled = compile(&inputs(&yaml, &[HUB, "third:dmvpn.io/hub=hub3"]));
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    let share = |endpoint: &str| {
        let pool = compiled.endpoint(endpoint).spec.nhrp.address_pool.clone().unwrap();
        (pool.share, pool.shares)
    };
    // A hub that is disabled for a while keeps its share.
    assert_eq!((share("branches-hub"), share("branches-third")), ((0, 3), (2, 3)));
}

#[test]
fn what_contradicts_it_is_refused_with_the_cure() {
    let both = |pools: &str| format!("  addressing: {{pools: [{pools}], assignedBy: Hub}}");
    for (yaml, want) in [
        (
            network("branches", "  addressing: {assignedBy: Hub}"),
            "SettingConflict spec.addressing.pools: the hubs have nothing to assign addresses from: add a part of",
        ),
        (
            network("branches", &both("10.255.16.0/24, 10.255.16.128/25")),
            "SettingConflict spec.addressing.pools: 10.255.16.128/25 overlaps 10.255.16.0/24, and hubs would assign the \
             same address twice: leave one of them out",
        ),
        (
            network("branches", &both("10.255.16.0/24, 'fd00:255::1:0/112'"))
                .replace("[10.255.0.0/16]", "[10.255.0.0/16, 'fd00:255::/64']"),
            "SettingConflict spec.hubs[0].overlayAddresses: hub hub1 cannot be asked for an IPv6 address without one of \
             its own: add one, or take the IPv6 prefixes out of addressing.pools",
        ),
        (
            // Two hosts; the network's own address is the share of the first of three hubs.
            hubs(3, &both("10.255.16.0/30")),
            "SettingConflict spec.addressing.pools: each of 3 hubs has a share of the IPv4 pools, and that of hub1 is \
             empty: use larger pools, or reserve less",
        ),
        (
            network(
                "branches",
                "  addressing: {pools: [10.255.0.0/30], reserved: [10.255.0.2], assignedBy: Hub}",
            ),
            "SettingConflict spec.addressing.pools: each of 1 hubs has a share of the IPv4 pools, and that of hub1 is",
        ),
        (
            network("branches", &both("10.254.0.0/24")),
            "AddressOutsideOverlay spec.addressing.pools[0]: 10.254.0.0/24 is outside of the overlay",
        ),
        (
            hubs(2, &both("10.255.16.0/20")).replace(
                "{name: hub2,",
                "{name: hub2, registersTo: [hub1], advertise: [10.2.0.0/16, 10.255.17.0/24],",
            ),
            "SettingConflict spec.hubs[1].advertise: hub hub2 would answer for all of 10.255.17.0/24, and other hubs \
             assign addresses out of 10.255.16.0/20 too: take 10.255.17.0/24 out of advertise or out of addressing.pools",
        ),
    ] {
        let compiled = compile(&inputs(&yaml, &[HUB]));
        let faults = compiled.faults("DmvpnNetwork/branches");
        assert!(faults.iter().any(|fault| fault.starts_with(want)), "{faults:?}\nwant: {want}");
        assert_eq!(compiled.names(), Vec::<&str>::new(), "{want}");
    }
    let off = format!("{BY_HUB}\n  nhrp: {{mode: Disabled}}");
    let compiled =
        compile_with(&inputs(&network("branches", &off).replace("Phase3", "Phase1"), &[HUB]), Support::ALL);
    let faults = compiled.faults("DmvpnNetwork/branches");
    let want = "SettingConflict spec.addressing.assignedBy: hubs assign addresses by NHRP, which is off";
    assert!(faults.iter().any(|fault| fault.starts_with(want)), "{faults:?}");
}

/// A pool is large enough where each hub has one address, however they lie, and large pools are not walked through.
#[test]
fn pools_that_suffice() {
    for (count, pools) in [
        (2, "10.255.16.0/30"),
        (3, "10.255.16.0/29"),
        (3, "10.255.16.0/31, 10.255.16.6/32, 10.255.16.8/30"),
        (32, "10.255.64.0/18"),
    ] {
        let yaml = hubs(count, &format!("  addressing: {{pools: [{pools}], assignedBy: Hub}}"));
        let compiled = compile(&inputs(&yaml, &[HUB]));
        assert_eq!(compiled.faults("DmvpnNetwork/branches"), Vec::<String>::new(), "{count} hubs, {pools}");
    }
    let yaml = network("branches", "  addressing: {pools: ['fd00:255::1:0:0/96'], assignedBy: Hub}")
        .replace("[10.255.0.0/16]", "['fd00:255::/64']")
        .replace("10.255.0.1", "'fd00:255::1'");
    let compiled = compile(&inputs(&(yaml + &spoke("a", "")), &["a"]));
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    let request = compiled.endpoint("branches-a").spec.nhrp.address_request.clone().unwrap();
    assert_eq!((request.ipv4, request.ipv6), (false, true));
}

/// Whoever states an address out of the pools must be known to every hub that could assign it.
#[test]
fn an_address_of_the_pools_is_stated_only_where_all_hubs_are() {
    let stated = spoke("a", "  overlayAddresses: [10.255.16.5]");
    let two = |extra: &str| hubs(2, extra) + &stated;
    for (yaml, nodes, refused) in [
        (network("branches", BY_HUB) + &stated, &["a", HUB][..], false),
        (network("branches", BY_HUB) + &stated, &["a"], true),
        (two(BY_HUB), &["a", HUB], true),
        (two(BY_HUB), &["a", HUB, "other:dmvpn.io/hub=hub2"], false),
        (two(&BY_HUB.replace("Hub}", "Cluster}")), &["a"], false),
        (two(BY_HUB).replace("10.255.16.5", "10.255.1.5"), &["a"], false),
    ] {
        let faults = compile(&inputs(&yaml, nodes)).faults("DmvpnSpoke/a");
        let want = "SettingConflict spec.overlayAddresses[0]: 10.255.16.5 lies in 10.255.16.0/29, out of which hubs that \
                    are elsewhere assign addresses and do not know of it: use one outside of addressing.pools of \
                    DmvpnNetwork/branches";
        assert_eq!(faults, if refused { vec![want.to_owned()] } else { Vec::new() }, "{nodes:?}\n{yaml}");
    }
}

/// More than an endpoint can name is told, and nothing is assigned.
#[test]
fn too_much_that_is_stated() {
    let yaml = network("branches", "  addressing: {pools: [10.255.128.0/17], assignedBy: Hub}");
    let mut facts = inputs(&(yaml + &spoke_at("r", "{type: External}", "")), &[HUB]);
    let first = facts.spokes.remove(0);
    // Every second address, so that no two make a prefix.
    for n in 0..4097_u32 {
        let mut spoke = first.clone();
        spoke.metadata.name = Some(format!("r{n}"));
        spoke.spec.overlay_addresses = vec![std::net::Ipv4Addr::from(0x0aff_8001 + 2 * n).to_string()];
        facts.spokes.push(spoke);
    }
    let compiled = compile(&facts);
    let faults = compiled.faults("DmvpnNetwork/branches");
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("SettingConflict spec.addressing.pools: 4097 blocks"), "{faults:?}");
    assert_eq!(compiled.endpoint("branches-hub").spec.nhrp.address_pool, None);
}
