//! What is declared for an IKE identity, and where that is refused.

use super::*;

const CERTIFICATES: &str = "  ipsec: {mode: Required, deniedIdentities: [lost.example.net], authentication: {type: \
                            Certificate, certificate: {caSecretRefs: [{name: ca}], secretRef: {name: own}}}}";

#[test]
fn a_hub_knows_what_is_declared_for_whom() {
    let yaml = network("branches", &format!("{CERTIFICATES}\n  registration: {{policy: AllowListed}}"))
        .replace("name: hub1,", "name: hub1, identity: hub1.example.net,")
        + &spoke(
            "a",
            "  identity: a.example.net\n  overlayAddresses: [10.255.0.11]\n  subnets: [{cidr: 10.1.0.0/24}]",
        )
        + &spoke("b", "  overlayAddresses: [10.255.0.12]")
        + &spoke("c", "  identity: c.example.net\n  suspend: true\n  overlayAddresses: [10.255.0.13]");
    let compiled = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1", "a"]));
    let hub = &compiled.endpoint("branches-hub").spec;
    let members: Vec<_> =
        hub.members.iter().map(|it| (it.name.as_str(), it.identity.as_str(), it.hub)).collect();
    // Wherever they are, and asleep too; who has no identity owns nothing by it.
    let want =
        [("a", "a.example.net", false), ("c", "c.example.net", false), ("hub1", "hub1.example.net", true)];
    assert_eq!(members, want);
    assert_eq!(hub.members[0].subnets.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.0/24"]);
    assert_eq!(hub.ipsec.as_ref().unwrap().identity.as_deref(), Some("hub1.example.net"));
    let a = &compiled.endpoint("branches-a").spec;
    assert!(a.members.is_empty());
    let ipsec = a.ipsec.as_ref().unwrap();
    assert_eq!(ipsec.identity.as_deref(), Some("a.example.net"));
    assert_eq!(ipsec.denied_identities, ["lost.example.net"]);
}

#[test]
fn one_node_has_one_identity() {
    let placed = |name: &str, identity: &str, last: u8| {
        let extra = format!("  identity: {identity}\n  overlayAddresses: [10.255.0.{last}]");
        spoke_at(name, "{type: Node, nodeName: n1}", &extra)
    };
    let yaml = network("branches", CERTIFICATES)
        + &placed("a", "x.net", 21)
        + &placed("bb", "x.net", 22)
        + &placed("ccc", "z.net", 23);
    let compiled = compile(&inputs(&yaml, &["n1"]));
    assert!(compiled.faults("DmvpnSpoke/bb").is_empty());
    let faults = compiled.faults("DmvpnSpoke/ccc");
    assert!(
        faults.len() == 1 && faults[0].contains("spec.identity: x.net is the identity of another member"),
        "{faults:?}"
    );
}
