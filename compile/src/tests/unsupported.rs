//! What this version does not do is refused by name.

use super::*;

#[test]
fn networks_that_ask_for_more_are_refused() {
    for (line, want) in [
        (
            "  tunnel: {vrf: red}\n  nhrp: {multicast: {mode: Dynamic}}",
            "spec.tunnel.vrf: red is not supported by this version: with IPsec, an IPv6 underlay or multicast",
        ),
        ("  registration: {policy: AllowListed}", "spec.registration.policy: AllowListed"),
        ("  groups: [{name: g}]", "spec.groups: "),
        ("  access: {defaultAction: Deny}", "spec.access: "),
        (
            "  ipsec: {mode: Required, authentication: {type: Certificate, certificate: {caSecretRefs: [{name: s}]}}}",
            "spec.ipsec.authentication.certificate.secretRef: our own signer is not supported by this version: name",
        ),
        (
            "  ipsec: {mode: Required, authentication: {type: Certificate, certificate: {secretRef: {name: s}}}}",
            "spec.ipsec.authentication.certificate.caSecretRefs: no root is not supported by this version: name",
        ),
        (
            "  ipsec: {mode: Required, authentication: {type: Certificate, certificate: {caSecretRefs: [{name: s}], issuerRef: {name: x}}}}",
            "spec.ipsec.authentication.certificate.issuerRef: ",
        ),
        (
            "  ipsec: {mode: Required, authentication: {type: PSK}}",
            "spec.ipsec.authentication.pskSecretRefs: a key for each spoke is not supported by this version",
        ),
        (
            "  ipsec: {mode: Required, authentication: {type: PSK, pskSecretRefs: [{name: s}]}, deniedIdentities: [x]}",
            "spec.ipsec.deniedIdentities: ",
        ),
        (
            "  routing: {protocol: OSPF}",
            "spec.routing.protocol: OSPF is not supported by this version: use NHRP, Static or None",
        ),
        ("  routing: {distance: 20}", "spec.routing.distance: 20"),
        ("  routing: {import: [10.0.0.0/8]}", "spec.routing.import: "),
        ("  routing: {export: [10.0.0.0/8]}", "spec.routing.export: "),
    ] {
        let compiled = compile(&inputs(&network("branches", line), &["hub:dmvpn.io/hub=hub1"]));
        assert_eq!(compiled.names(), Vec::<&str>::new(), "{line}");
        let faults = compiled.faults("DmvpnNetwork/branches");
        assert!(faults.len() == 1 && faults[0].contains(want), "{line}: {faults:?}");
        assert!(faults[0].starts_with("NotSupported "), "{faults:?}");
    }
    for (line, to, want) in [
        ("", "name: hub1, identity: h.example.net,", "spec.hubs[0].identity: h.example.net"),
        (
            "  qos: {groups: [{name: gold, rateKbps: 1000}]}\n  tunnel: {underlayFamily: IPv6}",
            "name: hub1,",
            "spec.qos: {\"groups\":[{\"name\":\"gold\",\"rateKbps\":1000}]} is not supported by this version: over an IPv6 underlay",
        ),
        (
            "  ipsec: {mode: Required, authentication: {type: PSK, pskSecretRefs: [{name: s}]}}",
            "name: hub1, tunnelSource: {vrf: red},",
            "spec.hubs[0].tunnelSource.vrf: red is not supported by this version: under IPsec",
        ),
    ] {
        let compiled = compile(&inputs(&network("branches", line).replace("name: hub1,", to), &[]));
        let faults = compiled.faults("DmvpnNetwork/branches").join("\n");
        assert!(faults.contains(want), "{to}: {faults}");
    }
}

#[test]
fn spokes_that_ask_for_more_are_refused_and_stop_nobody() {
    for (line, want) in [
        ("  identity: a.example.net", "spec.identity: nothing proves an identity in DmvpnNetwork/branches"),
        ("  pskSecretRefs: [{name: s}]", "spec.pskSecretRefs: "),
        ("  group: g", "spec.group: g"),
    ] {
        let yaml = network("branches", "  addressing: {pools: [10.255.16.0/20]}")
            + &spoke("a", line)
            + &spoke("b", "");
        let compiled = compile(&inputs(&yaml, &["a", "b"]));
        assert_eq!(compiled.names(), ["branches-b"], "{line}");
        let faults = compiled.faults("DmvpnSpoke/a");
        assert!(faults.len() == 1 && faults[0].contains(want), "{line}: {faults:?}");
    }
}

#[test]
fn what_this_version_does_is_accepted() {
    for line in [
        "  tunnel: {mtu: 1300, tcpMSSPolicy: None, ttl: 64, bandwidthKbps: 1000, interfaceName: tun5}",
        "  nhrp: {authenticationSecretRefs: [{name: s}], uniquenessPolicy: NBMA, registrationIntervalSeconds: 100}",
        "  nhrp: {multicast: {mode: None}}",
        "  nhrp: {multicast: {mode: Dynamic, groups: [239.1.1.1, 'ff08::1']}}",
        "  routing: {protocol: Static}",
        "  routing: {protocol: None, metric: 50}",
        "  ipsec: {mode: Disabled, dpdSeconds: 20}",
        "  ipsec: {mode: Required, authentication: {type: PSK, pskSecretRefs: [{name: s}]}, proposals: [aes128-sha256-x25519]}",
        "  qos: {groups: [{name: gold, rateKbps: 1000}]}",
        "  suspend: true",
        "  clusters: [{name: c, maxConnections: 1}]\n  fallbackSeconds: 30",
    ] {
        let compiled = compile(&inputs(&network("branches", line), &["hub:dmvpn.io/hub=hub1"]));
        assert_eq!(compiled.all_faults(), Vec::<String>::new(), "{line}");
        assert_eq!(compiled.endpoints.len(), 1);
    }
    for phase in ["Phase1", "Phase2"] {
        let yaml = network("branches", "").replace("Phase3", phase);
        let compiled = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1"]));
        assert_eq!(compiled.all_faults(), Vec::<String>::new(), "{phase}");
    }
}

#[test]
fn protection_is_there_where_nhrp_is_spoken() {
    let protected = "  ipsec: {mode: Required, authentication: {type: PSK, pskSecretRefs: [{name: s}]}, rekeySeconds: 900}";
    let yaml = network("branches", protected);
    let compiled = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1"]));
    let ipsec = compiled.endpoints[0].spec.ipsec.as_ref().unwrap();
    assert_eq!((ipsec.psk_secret_refs[0].name.as_str(), ipsec.rekey_seconds), ("s", 900));

    let certificates = "  ipsec: {mode: Required, authentication: {type: Certificate, certificate: {caSecretRefs: [{name: ca}], \
                        secretRef: {name: own}}}}";
    let compiled = compile(&inputs(&network("branches", certificates), &["hub:dmvpn.io/hub=hub1"]));
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    let certificate = compiled.endpoints[0].spec.ipsec.as_ref().unwrap().certificate.as_ref().unwrap();
    assert_eq!(
        (certificate.ca_secret_refs[0].name.as_str(), certificate.secret_ref.name.as_str()),
        ("ca", "own")
    );

    let plain = yaml.replace("Phase3", "Phase1") + "  nhrp: {mode: Disabled}\n";
    let faults =
        compile(&inputs(&plain, &["hub:dmvpn.io/hub=hub1"])).faults("DmvpnNetwork/branches").join("\n");
    assert!(faults.contains("spec.ipsec.mode: Required without NHRP is not supported"), "{faults}");

    let over6 = yaml.clone() + "  tunnel: {underlayFamily: IPv6}\n";
    let faults =
        compile(&inputs(&over6, &["hub:dmvpn.io/hub=hub1"])).faults("DmvpnNetwork/branches").join("\n");
    assert!(faults.contains("spec.tunnel.underlayFamily: IPv6 is not supported"), "{faults}");

    let in_cluster = |yaml: &str| {
        let mut of_cluster = inputs(yaml, &["hub:dmvpn.io/hub=hub1"]);
        of_cluster.nodes[0].uid = Some("1234".into());
        compile(&of_cluster)
    };
    let compiled = in_cluster(&yaml);
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    assert!(compiled.endpoints[0].spec.ipsec.is_some());
    let compiled = in_cluster(&network("branches", certificates));
    let faults = compiled.faults("DmvpnNetwork/branches").join("\n");
    assert!(faults.contains("Certificate is not supported on nodes of a cluster"), "{faults}");
    assert!(compiled.endpoints.is_empty());
}

#[test]
fn what_an_ipv6_underlay_cannot_is_named() {
    for (phase, line, want) in [
        (
            "Phase2",
            "  tunnel: {underlayFamily: IPv6}",
            "spec.phase: Phase2 is not supported by this version: over",
        ),
        (
            "Phase1",
            "  tunnel: {underlayFamily: IPv6, keepalive: {periodSeconds: 10, retries: 3}}",
            "spec.tunnel.keepalive: ",
        ),
        (
            "Phase3",
            "  tunnel: {underlayFamily: IPv6, vrf: red}",
            "spec.tunnel.vrf: red is not supported by this version: with",
        ),
        (
            "Phase3",
            "  tunnel: {underlayFamily: IPv6, dscpPolicy: Copy}",
            "spec.tunnel.dscpPolicy: Copy is not supported by this version: over an IPv6 underlay use Clear",
        ),
        (
            "Phase3",
            "  tunnel: {underlayFamily: IPv6}\n  nhrp: {multicast: {mode: Dynamic, groups: [239.1.1.1]}}",
            "spec.nhrp.multicast.groups: ",
        ),
    ] {
        let yaml = over_ipv6(line, phase);
        let faults = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1"])).faults("DmvpnNetwork/branches");
        assert!(faults.len() == 1 && faults[0].contains(want), "{line}: {faults:?}");
    }
    for phase in ["Phase1", "Phase3"] {
        let yaml = over_ipv6("  tunnel: {underlayFamily: IPv6}", phase);
        let compiled = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1"]));
        assert_eq!(compiled.all_faults(), Vec::<String>::new(), "{phase}");
    }
    let yaml = network("branches", "  tunnel: {underlayFamily: IPv6}");
    let faults = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1"])).faults("DmvpnNetwork/branches");
    let want = "HubIncomplete spec.hubs[0].nbma: hub hub1 has no IPv6 address: add one to nbma";
    assert!(faults.join("\n").contains(want), "{faults:?}");
}

fn over_ipv6(line: &str, phase: &str) -> String {
    network("branches", line).replace("Phase3", phase).replace("192.0.2.2", "'2001:db8:2::2'")
}

#[test]
fn nobody_waits_in_silence_for_a_network_that_is_refused() {
    let yaml =
        network("branches", "  routing: {distance: 20}") + &spoke("a", "  overlayAddresses: [10.255.0.11]");
    let compiled = compile(&inputs(&yaml, &["a"]));
    assert!(compiled.endpoints.is_empty());
    let faults = compiled.faults("DmvpnSpoke/a");
    assert!(faults[0].starts_with(&Reason::NetworkNotAccepted.to_string()), "{faults:?}");
}
