//! Bandwidth classes: what hubs and spokes get of them, and what does nothing.

use super::*;

const QOS: &str =
    "  qos: {groups: [{name: gold, rateKbps: 50000, burstBytes: 64000}, {name: silver, rateKbps: 5000}]}";

#[test]
fn hubs_know_the_rates_and_spokes_their_class() {
    let external = "  overlayAddresses: [10.255.0.9]\n  qosGroup: silver";
    let yaml = network("branches", QOS)
        + &spoke("a", "  overlayAddresses: [10.255.0.11]\n  qosGroup: gold")
        + &spoke("b", "  overlayAddresses: [10.255.0.12]")
        + &spoke_at("c", "{type: External}", external);
    let compiled = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1", "a", "b"]));
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    let of = |name: &str| &compiled.endpoint(name).spec;
    let hub = of("branches-hub");
    let rates: Vec<_> =
        hub.qos_groups.iter().map(|it| (it.name.as_str(), it.rate_kbps, it.burst_bytes)).collect();
    assert_eq!(rates, [("gold", 50_000, Some(64_000)), ("silver", 5_000, None)]);
    assert_eq!(hub.external[0].qos_group.as_deref(), Some("silver"));
    assert_eq!(hub.addresses[0].qos_group, None);
    assert_eq!(of("branches-a").addresses[0].qos_group.as_deref(), Some("gold"));
    assert_eq!(of("branches-b").addresses[0].qos_group, None);
    // Who shapes nothing need not know the rates.
    assert!(of("branches-a").qos_groups.is_empty());
}

#[test]
fn of_an_address_that_a_hub_assigns() {
    let pools = "  addressing: {pools: [10.255.16.0/20], assignedBy: Hub}\n";
    let yaml = network("branches", &format!("{pools}{QOS}")) + &spoke("a", "  qosGroup: gold");
    let compiled = compile(&inputs(&yaml, &["a"]));
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    let request = compiled.endpoint("branches-a").spec.nhrp.address_request.as_ref().unwrap();
    assert_eq!(request.qos_group.as_deref(), Some("gold"));
}

#[test]
fn what_does_nothing_is_told_and_stops_nobody() {
    let yaml = network("branches", QOS)
        + &spoke("a", "  overlayAddresses: [10.255.0.11]\n  qosGroup: platinum")
        + &spoke_at("b", "{type: Node, nodeName: hub}", "  subnets: [{cidr: 10.1.0.0/24}]\n  qosGroup: gold");
    let compiled = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1", "a"]));
    assert_eq!(compiled.names(), ["branches-a", "branches-hub"]);
    assert_eq!(compiled.endpoint("branches-a").spec.addresses[0].qos_group, None);
    for (object, want) in [
        (
            "DmvpnSpoke/a",
            "Invalid spec.qosGroup: DmvpnNetwork/branches has no group platinum in qos.groups, and nothing is shaped",
        ),
        (
            "DmvpnSpoke/b",
            "SettingConflict spec.qosGroup: hubs shape what they send to spokes, and node hub is that of hub hub1",
        ),
    ] {
        let faults = compiled.faults(object);
        assert!(faults.len() == 1 && faults[0].starts_with(want), "{faults:?}");
    }
}
