//! Hubs under hubs: who registers with whom, what is announced, what is refused.

use crds::endpoint::Role;

use super::*;

/// A network with these hubs, numbered from 1, each with lines of its own.
fn network_of(hubs: &[(&str, &str)]) -> String {
    let hub = |(n, (name, own)): (usize, &(&str, &str))| {
        let n = n + 1;
        format!(
            "  - {{name: {name}, overlayAddresses: [10.255.0.{n}], nbma: [{{address: 192.0.2.{n}}}]{own}}}\n"
        )
    };
    let hubs: String = hubs.iter().enumerate().map(hub).collect();
    format!(
        "---\napiVersion: dmvpn.io/v1alpha1\nkind: DmvpnNetwork\nmetadata: {{name: branches}}\nspec:\n  phase: Phase3\n  \
         overlay: [10.255.0.0/16]\n  hubs:\n{hubs}"
    )
}

const TREE: &[(&str, &str)] = &[
    ("core", ", advertise: [0.0.0.0/0]"),
    ("west", ", registersTo: [core], advertise: [10.1.0.0/16, 10.255.1.0/24]"),
    ("east", ", registersTo: [core]"),
    ("old", ", registersTo: [core], mode: Disabled"),
];

fn nodes(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("{name}:dmvpn.io/hub={name}")).collect()
}

#[test]
fn hubs_know_those_above_and_below_and_spokes_those_of_their_region() {
    let yaml = network_of(TREE)
        + &spoke("a", "  overlayAddresses: [10.255.1.1]\n  hubs: [west]")
        + &spoke("b", "  overlayAddresses: [10.255.2.1]\n  hubs: [east, core]")
        + &spoke("c", "  overlayAddresses: [10.255.2.2]");
    let names = nodes(&["core", "west", "east"]);
    let all: Vec<&str> = names.iter().map(String::as_str).chain(["a", "b", "c"]).collect();
    let compiled = compile(&inputs(&yaml, &all));
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    let nhs = |endpoint: &str| -> Vec<String> {
        compiled.endpoint(endpoint).spec.nhs.iter().map(|nhs| nhs.name.clone()).collect()
    };
    let core = &compiled.endpoint("branches-core").spec;
    assert_eq!((core.role, core.advertise.len()), (Role::Hub, 1));
    let below: Vec<_> =
        core.child_hubs.iter().map(|hub| (hub.name.as_str(), hub.overlay_addresses.len())).collect();
    assert_eq!(below, [("east", 1), ("west", 1)]);
    let west = &compiled.endpoint("branches-west").spec;
    assert_eq!((west.role, west.child_hubs.len()), (Role::HubSpoke, 0));
    assert_eq!(
        west.advertise.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.1.0.0/16", "10.255.1.0/24"]
    );
    assert_eq!(nhs("branches-west"), ["core"]);
    assert_eq!(nhs("branches-a"), ["west"]);
    assert_eq!(nhs("branches-b"), ["core", "east"]);
    assert_eq!(nhs("branches-c"), ["core", "east", "west"]);
    let fixed = |endpoint: &str| compiled.endpoint(endpoint).spec.nhrp.fixed_hubs;
    assert_eq!(
        ["branches-a", "branches-b", "branches-c", "branches-west"].map(fixed),
        [true, true, false, false]
    );
    for endpoint in &compiled.endpoints {
        let value = serde_json::to_value(endpoint).unwrap();
        assert_eq!(crds::schema::check("DmvpnEndpoint", &value), Vec::new());
    }
}

#[test]
fn circles_are_refused_and_equals_are_none() {
    let equals = [
        ("one", ", registersTo: [two, three]"),
        ("two", ", registersTo: [one, three]"),
        ("three", ", registersTo: [one, two]"),
    ];
    let compiled = compile(&inputs(&network_of(&equals), &[]));
    assert_eq!(compiled.faults("DmvpnNetwork/branches"), Vec::<String>::new());
    let circle = [
        ("one", ", registersTo: [two]"),
        ("two", ", registersTo: [three]"),
        ("three", ", registersTo: [one]"),
    ];
    let faults = compile(&inputs(&network_of(&circle), &[])).faults("DmvpnNetwork/branches");
    assert!(faults[0].starts_with("HubCircle spec.hubs[0].registersTo: "), "{faults:?}");
    assert!(faults[0].contains("one → two → three → one"), "{faults:?}");
    // Also where it does not begin with the first, and beside a pair of equals.
    let beside = [
        ("top", ", registersTo: [one]"),
        ("one", ", registersTo: [two]"),
        ("two", ", registersTo: [one, three]"),
        ("three", ", registersTo: [four]"),
        ("four", ", registersTo: [two]"),
    ];
    let faults = compile(&inputs(&network_of(&beside), &[])).faults("DmvpnNetwork/branches");
    assert!(faults[0].contains("two → three → four → two"), "{faults:?}");
}

#[test]
fn what_cannot_be_announced_or_named_is_refused_by_name() {
    let hubs = [("hub1", ", advertise: [10.0.0.0/8, 192.0.2.0/24, 0.0.0.0/0]")];
    let yaml = network_of(&hubs) + &spoke("a", "  overlayAddresses: [10.255.0.11]\n  hubs: [hub1, hub9]");
    let compiled = compile(&inputs(&yaml, &["hub:dmvpn.io/hub=hub1", "a"]));
    let faults = compiled.faults("DmvpnNetwork/branches");
    assert!(
        faults[0]
            .starts_with("SubnetContainsNbma spec.hubs[0].advertise[1]: 192.0.2.0/24 contains 192.0.2.1"),
        "{faults:?}"
    );
    let advertise = &compiled.endpoint("branches-hub").spec.advertise;
    assert_eq!(advertise.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "0.0.0.0/0"]);
    let faults = compiled.faults("DmvpnSpoke/a");
    assert!(
        faults[0].starts_with("Invalid spec.hubs[1]: hub9 is no hub of DmvpnNetwork/branches"),
        "{faults:?}"
    );
}
