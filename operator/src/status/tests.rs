//! What is said of networks and spokes.

use crds::endpoint::ExternalStatus;
use kube::ResourceExt;
use serde_json::json;

use crate::testing::Cluster;

fn three() -> Cluster {
    let mut cluster = Cluster::with_network(json!({}));
    cluster.spoke("a", "a", json!({"overlayAddresses": ["10.255.0.11"]}));
    cluster.spoke("b", "b", json!({"overlayAddresses": ["10.255.0.12"]}));
    cluster.settle();
    cluster
}

#[test]
fn all_conditions_are_there_from_the_first_pass() {
    let cluster = three();
    for object in ["DmvpnNetwork/net", "DmvpnSpoke/a"] {
        for (type_, want) in [
            ("Ready", "False TunnelsNotReady 0 of "),
            ("Reconciling", "True TunnelsNotReady 0 of "),
            ("Stalled", "False TunnelsNotReady"),
            ("Accepted", "True Accepted"),
        ] {
            let got = cluster.condition(object, type_);
            assert!(got.starts_with(want), "{object} {type_}: {got}");
        }
    }
    let network = cluster.snapshot.networks[0].status.clone().unwrap();
    assert_eq!(network.observed_generation, Some(1));
    let counts = (network.hubs, network.spokes, network.ready_spokes, network.endpoints);
    assert_eq!(counts, (Some(1), Some(2), Some(0), Some(3)));
    let spoke = cluster.snapshot.spokes[0].status.clone().unwrap();
    assert_eq!((spoke.address.as_deref(), spoke.node_name.as_deref()), (Some("10.255.0.11"), Some("a")));
    assert_eq!((spoke.nodes, spoke.ready_nodes), (Some(1), Some(0)));
}

#[test]
fn an_address_that_a_hub_assigned_is_the_one_that_the_agent_says() {
    let mut cluster =
        Cluster::with_network(json!({"addressing": {"pools": ["10.255.16.0/24"], "assignedBy": "Hub"}}));
    cluster.spoke("a", "a", json!({}));
    cluster.settle();
    let shown = |cluster: &Cluster| cluster.snapshot.spokes[0].status.clone().unwrap().address;
    assert_eq!(shown(&cluster), None);
    cluster.report("net-a", "NHRP", "False", "AddressRequested");
    cluster.settle();
    assert_eq!(shown(&cluster), None);
    cluster.report("net-a", "Up", "True", "Up");
    let endpoint = cluster.snapshot.endpoints.iter_mut().find(|e| e.name_any() == "net-a").unwrap();
    endpoint.status.as_mut().unwrap().tunnel_ip = Some("10.255.16.7".into());
    cluster.settle();
    assert_eq!(shown(&cluster).as_deref(), Some("10.255.16.7"));
}

#[test]
fn ready_follows_the_agents_and_the_reason_is_named() {
    let mut cluster = three();
    cluster.report("net-hub", "Up", "True", "Up");
    cluster.report("net-a", "Up", "True", "Up");
    cluster.report("net-b", "NHRP", "False", "NoAnswer");
    cluster.settle();
    assert_eq!(cluster.condition("DmvpnSpoke/a", "Ready"), "True Up 1 of 1 node ready");
    let b = "False TunnelsNotReady 0 of 1 node ready; b (NHRP, NoAnswer)";
    assert_eq!(cluster.condition("DmvpnSpoke/b", "Ready"), b);
    let network = "False TunnelsNotReady 2 of 3 endpoints ready; b (NHRP, NoAnswer)";
    assert_eq!(cluster.condition("DmvpnNetwork/net", "Ready"), network);
    cluster.report("net-b", "Up", "True", "Up");
    cluster.settle();
    assert_eq!(cluster.condition("DmvpnNetwork/net", "Ready"), "True Up 3 of 3 endpoints ready");
    assert_eq!(cluster.snapshot.networks[0].status.as_ref().unwrap().ready_spokes, Some(2));
    // a change is not Ready before the agent has said so
    cluster.spoke(
        "b",
        "b",
        json!({"overlayAddresses": ["10.255.0.12"], "subnets": [{"cidr": "10.30.0.0/24"}]}),
    );
    cluster.settle();
    assert!(cluster.condition("DmvpnSpoke/b", "Ready").contains("b (the agent has not reported yet)"));
    assert_eq!(cluster.condition("DmvpnSpoke/a", "Ready"), "True Up 1 of 1 node ready");
}

#[test]
fn what_shares_a_tunnel_with_a_change_is_not_told_down_and_up() {
    let mut cluster = three();
    for endpoint in ["net-hub", "net-a", "net-b"] {
        cluster.report(endpoint, "Up", "True", "Up");
    }
    cluster.settle();
    cluster.spoke("more", "a", json!({"overlayAddresses": ["10.255.0.13"]}));
    let done = cluster.settle();
    assert!(!done.contains(&"status DmvpnSpoke/a".to_owned()), "{done:?}");
    assert!(cluster.condition("DmvpnSpoke/more", "Ready").contains("a (the agent has not reported yet)"));
    assert!(cluster.condition("DmvpnNetwork/net", "Ready").contains("a (the agent has not reported yet)"));
    // What the agent then says counts for both.
    cluster.report("net-a", "NHRP", "False", "NoAnswer");
    cluster.settle();
    for spoke in ["DmvpnSpoke/a", "DmvpnSpoke/more"] {
        assert!(cluster.condition(spoke, "Ready").starts_with("False TunnelsNotReady"), "{spoke}");
    }
}

#[test]
fn where_nothing_is_here_that_is_said() {
    let mut cluster = Cluster::with_network(json!({}));
    cluster.snapshot.nodes.retain(|n| n.name_any() != "hub");
    cluster.spoke("far", "elsewhere", json!({"overlayAddresses": ["10.255.0.11"]}));
    cluster.spoke(
        "router",
        "-",
        json!({"placement": {"type": "External"}, "overlayAddresses": ["10.255.0.13"]}),
    );
    cluster.settle();
    assert!(cluster.condition("DmvpnNetwork/net", "Ready").starts_with("True NothingHere"));
    assert!(cluster.condition("DmvpnSpoke/router", "Ready").starts_with("True NothingHere"));
    assert!(cluster.condition("DmvpnSpoke/far", "Ready").starts_with("False NodeNotFound"));
    assert!(cluster.condition("DmvpnSpoke/far", "Reconciling").starts_with("True NodeNotFound"));
    assert!(cluster.condition("DmvpnSpoke/far", "Stalled").starts_with("False"));
    assert!(cluster.condition("DmvpnSpoke/far", "Accepted").starts_with("True"));
}

#[test]
fn an_external_spoke_is_ready_when_a_hub_has_its_registration() {
    let mut cluster = Cluster::with_network(json!({}));
    cluster.spoke(
        "router",
        "-",
        json!({"placement": {"type": "External"}, "overlayAddresses": ["10.255.0.13"]}),
    );
    cluster.settle();
    cluster.report("net-hub", "Up", "True", "Up");
    cluster.settle();
    assert!(cluster.condition("DmvpnSpoke/router", "Ready").starts_with("False NotRegistered"));
    assert!(cluster.condition("DmvpnSpoke/router", "Reconciling").starts_with("True NotRegistered"));
    let entry = ExternalStatus { name: "router".into(), nbma: "192.0.2.7".parse().unwrap() };
    cluster.snapshot.endpoints[0].status.as_mut().unwrap().external = vec![entry];
    cluster.settle();
    let ready = "True Up registered with the hub on node hub from 192.0.2.7";
    assert_eq!(cluster.condition("DmvpnSpoke/router", "Ready"), ready);
    cluster.snapshot.silent.insert("hub".into());
    cluster.settle();
    assert!(cluster.condition("DmvpnSpoke/router", "Ready").starts_with("Unknown AgentSilent"));
}

#[test]
fn a_suspended_network_is_neither_ready_nor_stalled() {
    let mut cluster = three();
    cluster.network("net", json!({"suspend": true}));
    cluster.settle();
    for object in ["DmvpnNetwork/net", "DmvpnSpoke/a"] {
        assert!(cluster.condition(object, "Ready").starts_with("False Suspended"));
        assert!(cluster.condition(object, "Stalled").starts_with("False"));
        assert!(cluster.condition(object, "Reconciling").starts_with("False"));
    }
}

#[test]
fn transitions_are_told_once_and_with_their_cause() {
    let mut cluster = Cluster::with_network(json!({}));
    cluster.spoke("a", "a", json!({"overlayAddresses": ["10.255.0.11"]}));
    let told = |c: &Cluster, name: &str| -> Vec<(bool, String)> {
        let writes = c.plan().into_iter().filter(|w| w.name == name);
        writes.flat_map(|w| w.notes).map(|n| (n.warning, n.reason)).collect()
    };
    assert_eq!(told(&cluster, "a"), [(false, "Accepted".to_owned())]);
    cluster.settle();
    cluster.report("net-a", "Up", "True", "Up");
    assert_eq!(told(&cluster, "a"), [], "Ready alone is no transition of these");
    cluster.settle();
    cluster.spoke("a", "a", json!({"overlayAddresses": ["10.0.0.1"]}));
    assert_eq!(told(&cluster, "a"), [(true, "AddressOutsideOverlay".to_owned())]);
    cluster.settle();
    cluster.spoke("a", "a", json!({"overlayAddresses": ["10.255.0.11"]}));
    assert_eq!(told(&cluster, "a"), [(false, "Accepted".to_owned())]);
}

#[test]
fn times_move_only_when_the_status_does() {
    let mut cluster = three();
    let stamp = |c: &Cluster, type_: &str| {
        let list = c
            .snapshot
            .spokes
            .iter()
            .find(|s| s.name_any() == "b")
            .unwrap()
            .status
            .clone()
            .unwrap()
            .conditions;
        list.into_iter().find(|c| c.type_ == type_).unwrap().last_transition_time
    };
    let first = stamp(&cluster, "Ready");
    cluster.report("net-b", "NHRP", "False", "NoAnswer");
    for write in cluster.plan() {
        let crate::pass::Op::Status(status) = &write.op else { continue };
        let conditions = status["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|c| c["type"] == "Ready").unwrap();
        assert_eq!(ready["lastTransitionTime"], json!(first), "{}", write.name);
    }
    cluster.settle();
    assert_eq!(stamp(&cluster, "Ready"), first);
}
