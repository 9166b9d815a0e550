//! Tables of what is there and what is written.

use std::time::{Duration, Instant};

use crds::endpoint::Desired;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{Op, Snapshot};
use crate::decode::{Guarded, Undecodable};
use crate::silence::{PATIENCE, Silence};
use crate::testing::{Cluster, at, read};

const POOL: &str = "10.255.16.0/29";

fn pooled() -> Cluster {
    let mut cluster = Cluster::with_network(json!({"addressing": {"pools": [POOL]}}));
    cluster.spoke("a", "a", json!({"subnets": [{"cidr": "10.20.0.0/24"}]}));
    cluster.settle();
    cluster
}

fn subnets(cluster: &Cluster, endpoint: &str) -> Vec<String> {
    cluster.endpoint(endpoint).spec.subnets.iter().map(|s| s.cidr.to_string()).collect()
}

/// A spoke or network with a value that this version does not know.
fn undecodable<K>(object: Value) -> Undecodable
where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned,
{
    match read::<Guarded<K>>(object).0 {
        Ok(_) => panic!("it decodes"),
        Err(bad) => bad,
    }
}

#[test]
fn what_is_needed_is_written_in_order_and_then_nothing() {
    let mut cluster = Cluster::with_network(json!({"addressing": {"pools": [POOL]}}));
    cluster.spoke("a", "a", json!({}));
    let first: Vec<u8> = cluster.plan().iter().map(|w| w.op.stage()).collect();
    assert!(first.is_sorted() && first.contains(&0), "{first:?}");
    // no endpoint gets an address whose object is not there
    let applied = |c: &Cluster| {
        let names = c.plan().into_iter().filter(|w| matches!(w.op, Op::ApplyEndpoint(_))).map(|w| w.name);
        names.collect::<Vec<_>>()
    };
    assert_eq!(applied(&cluster), ["net-hub"]);
    let done = cluster.settle();
    let create = done.iter().position(|d| d.starts_with("create DmvpnAddress/net-10.255.16."));
    let apply = done.iter().position(|d| d == "apply DmvpnEndpoint/net-a");
    assert!(create.unwrap() < apply.unwrap(), "{done:?}");
    assert_eq!(cluster.plan(), []);

    let endpoint = cluster.endpoint("net-a");
    assert_eq!(endpoint.finalizers(), ["dmvpn.io/endpoint"]);
    assert_eq!(endpoint.labels()["dmvpn.io/network"], "net");
    let owner = &endpoint.owner_references()[0];
    let network = &cluster.snapshot.networks[0];
    assert_eq!((Some(&owner.uid), owner.controller), (network.metadata.uid.as_ref(), Some(true)));
    let address = &cluster.snapshot.addresses[0];
    assert_eq!(address.owner_references()[0].uid, owner.uid);
}

#[test]
fn the_same_snapshot_gives_the_same_writes_whatever_its_order() {
    let mut cluster = Cluster::with_network(json!({"addressing": {"pools": [POOL]}}));
    for (spoke, node) in [("x", "a"), ("y", "b"), ("z", "a")] {
        cluster.spoke(spoke, node, json!({}));
    }
    let first = cluster.plan();
    assert!(!first.is_empty());
    cluster.snapshot.spokes.reverse();
    cluster.snapshot.nodes.reverse();
    assert_eq!(cluster.plan(), first);
}

#[test]
fn a_spoke_that_is_deleted_is_taken_away_and_its_address_released_after_it() {
    let mut cluster = pooled();
    cluster.snapshot.spokes.clear();
    assert_eq!(cluster.settle(), ["apply DmvpnEndpoint/net-a", "status DmvpnNetwork/net"]);
    assert_eq!(cluster.endpoints(), ["net-a Absent", "net-hub Present"]);
    assert_eq!(cluster.snapshot.addresses.len(), 1, "it is still on the tunnel");
    // an answer to an earlier generation is none
    cluster.report("net-a", "Absent", "False", "Removed");
    cluster.snapshot.endpoints.iter_mut().for_each(|e| e.metadata.generation = Some(7));
    assert_eq!(cluster.settle(), Vec::<String>::new());
    cluster.report("net-a", "Absent", "False", "Removed");
    let done = cluster.settle();
    assert_eq!(done[0], "letgo DmvpnEndpoint/net-a");
    assert!(done[1].starts_with("delete DmvpnAddress/net-10.255.16."), "{done:?}");
    assert_eq!(cluster.endpoints(), ["net-hub Present"]);
}

#[test]
fn an_endpoint_whose_node_is_gone_or_another_is_let_go() {
    let mut cluster = pooled();
    cluster.snapshot.nodes.retain(|n| n.name_any() != "a");
    assert!(cluster.settle().contains(&"letgo DmvpnEndpoint/net-a".to_owned()));
    // its address waits for it
    assert_eq!(cluster.snapshot.addresses.len(), 1);

    let mut cluster = pooled();
    cluster.snapshot.spokes.clear();
    cluster.node("a", json!({}));
    assert!(cluster.settle().contains(&"letgo DmvpnEndpoint/net-a".to_owned()), "a node of the same name");

    let mut cluster = pooled();
    let before = cluster.endpoint("net-a").spec.node_uid.clone();
    cluster.node("a", json!({}));
    cluster.settle();
    assert_ne!(cluster.endpoint("net-a").spec.node_uid, before, "still wanted: it is for the new node now");
}

#[test]
fn an_endpoint_that_is_deleted_by_hand_comes_back() {
    let mut cluster = pooled();
    let (uid, addresses) =
        (cluster.endpoint("net-a").metadata.uid.clone(), cluster.endpoint("net-a").spec.clone());
    for endpoint in &mut cluster.snapshot.endpoints {
        endpoint.metadata.deletion_timestamp = Some(at(5));
    }
    let done = cluster.settle();
    assert_eq!(done[..2], ["letgo DmvpnEndpoint/net-a", "letgo DmvpnEndpoint/net-hub"].map(String::from));
    assert_ne!(cluster.endpoint("net-a").metadata.uid, uid);
    assert_eq!(cluster.endpoint("net-a").spec, addresses);
}

#[test]
fn a_network_that_is_deleted_takes_its_tunnels_down_before_it_lets_go() {
    for gone in [true, false] {
        let mut cluster = pooled();
        if gone {
            // in the background: the garbage collector deletes the endpoints
            cluster.snapshot.networks.clear();
            cluster.snapshot.endpoints.iter_mut().for_each(|e| e.metadata.deletion_timestamp = Some(at(5)));
        } else {
            // in the foreground: it waits for them
            cluster.snapshot.networks[0].metadata.deletion_timestamp = Some(at(5));
        }
        cluster.settle();
        assert_eq!(cluster.endpoints(), ["net-a Absent", "net-hub Absent"]);
        assert!(cluster.snapshot.endpoints.iter().all(|e| e.finalizers() == ["dmvpn.io/endpoint"]));
        for endpoint in ["net-a", "net-hub"] {
            cluster.report(endpoint, "Absent", "False", "Removed");
        }
        cluster.settle();
        assert_eq!(cluster.endpoints(), Vec::<String>::new());
    }
}

#[test]
fn what_a_refused_spoke_gave_stays_and_the_rest_goes_on() {
    let mut cluster = pooled();
    cluster.spoke(
        "also",
        "a",
        json!({"overlayAddresses": ["10.255.1.1"], "subnets": [{"cidr": "10.21.0.0/24"}]}),
    );
    cluster.settle();
    assert_eq!(subnets(&cluster, "net-a"), ["10.20.0.0/24", "10.21.0.0/24"]);
    let before = cluster.endpoint("net-a").spec.addresses.clone();
    cluster.spoke("a", "a", json!({"subnets": [{"cidr": "10.255.3.0/24"}]}));
    cluster.spoke(
        "also",
        "a",
        json!({"overlayAddresses": ["10.255.1.1"], "subnets": [{"cidr": "10.22.0.0/24"}]}),
    );
    cluster.settle();
    assert_eq!(subnets(&cluster, "net-a"), ["10.20.0.0/24", "10.22.0.0/24"]);
    let addresses = cluster.endpoint("net-a").spec.addresses.clone();
    assert!(before.iter().all(|a| addresses.contains(a)), "{addresses:?}");
    let told = cluster.condition("DmvpnSpoke/a", "Accepted");
    assert!(told.starts_with("False SubnetOverlapsOverlay spec.subnets[0].cidr: "), "{told}");
    assert!(told.ends_with("what it gave before stays in force"), "{told}");
    assert!(cluster.condition("DmvpnSpoke/a", "Stalled").starts_with("True"), "{told}");
    // alone on its node
    cluster.snapshot.spokes.retain(|s| s.name_any() == "a");
    cluster.settle();
    assert_eq!(subnets(&cluster, "net-a"), ["10.20.0.0/24"]);
    assert_eq!(cluster.endpoint("net-a").spec.desired, Desired::Present);
    // what somebody else has got meanwhile is not kept
    cluster.spoke(
        "new",
        "b",
        json!({"overlayAddresses": ["10.255.1.2"], "subnets": [{"cidr": "10.20.0.0/16"}]}),
    );
    cluster.settle();
    assert_eq!(subnets(&cluster, "net-a"), Vec::<String>::new());
    // deleted at last
    cluster.snapshot.spokes.retain(|s| s.name_any() != "a");
    cluster.settle();
    assert_eq!(cluster.endpoint("net-a").spec.desired, Desired::Absent);
}

/// One whose address the hub assigns has none in its endpoint: the wish for it is what it gave.
#[test]
fn a_refused_spoke_that_asks_its_hub_stays_who_it_is() {
    let mut cluster = Cluster::with_network(json!({"addressing": {"pools": [POOL], "assignedBy": "Hub"}}));
    cluster.spoke("a", "a", json!({}));
    cluster.settle();
    assert_eq!(cluster.snapshot.addresses.len(), 0);
    let before = cluster.endpoint("net-a").spec.clone();
    assert_eq!(before.nhrp.address_request.as_ref().map(|it| it.identity.as_str()), Some("a"));
    let bad = json!({"subnets": [{"cidr": "10.255.3.0/24"}]});
    cluster.spoke("a", "a", bad);
    cluster.settle();
    assert_eq!(cluster.endpoint("net-a").spec, before);
    let told = cluster.condition("DmvpnSpoke/a", "Accepted");
    assert!(told.ends_with("what it gave before stays in force"), "{told}");
    // Another one on its node does not get it another address.
    cluster.spoke("b", "a", json!({"subnets": [{"cidr": "10.20.0.0/24"}]}));
    cluster.settle();
    assert_eq!(cluster.endpoint("net-a").spec.nhrp.address_request, before.nhrp.address_request);
    assert_eq!(subnets(&cluster, "net-a"), ["10.20.0.0/24"]);
    // deleted at last
    cluster.snapshot.spokes.clear();
    cluster.settle();
    assert_eq!(cluster.endpoint("net-a").spec.desired, Desired::Absent);
}

#[test]
fn a_refused_network_holds_its_endpoints_and_addresses() {
    let mut cluster = pooled();
    let before = cluster.endpoint("net-a").spec.clone();
    let pools = json!({"pools": [POOL]});
    cluster.network("net", json!({"overlay": ["10.255.0.0/16", "10.255.0.0/17"], "addressing": pools}));
    cluster.settle();
    assert_eq!(cluster.endpoint("net-a").spec, before);
    let told = cluster.condition("DmvpnNetwork/net", "Ready");
    assert!(told.starts_with("False OverlappingOverlay") && told.ends_with("stays in force"), "{told}");
    assert!(cluster.condition("DmvpnNetwork/net", "Stalled").starts_with("True OverlappingOverlay"));
    assert!(cluster.condition("DmvpnSpoke/a", "Ready").starts_with("False NetworkNotAccepted"));
    assert!(cluster.condition("DmvpnSpoke/a", "Reconciling").starts_with("True"));
    // a node that goes is gone all the same
    cluster.snapshot.nodes.retain(|n| n.name_any() != "a");
    cluster.settle();
    assert_eq!(cluster.endpoints(), ["net-hub Present"]);
    assert_eq!(cluster.snapshot.addresses.len(), 1);
    cluster.node("a", json!({}));
    cluster.network("net", json!({"addressing": pools}));
    cluster.settle();
    assert_eq!(cluster.endpoint("net-a").spec.addresses, before.addresses);
}

#[test]
fn objects_that_do_not_decode_are_told_so_and_stop_nobody() {
    let mut cluster = pooled();
    let before = cluster.endpoint("net-a").spec.clone();
    let old = cluster.snapshot.spokes.remove(0);
    let mut value = json!(old);
    value["spec"]["podCIDRPolicy"] = "Orbit".into();
    cluster.snapshot.bad_spokes.push(undecodable::<crds::DmvpnSpoke>(value));
    cluster.spoke("b", "b", json!({}));
    let done = cluster.settle();
    assert!(done.contains(&"apply DmvpnEndpoint/net-b".to_owned()), "{done:?}");
    assert_eq!(cluster.endpoint("net-a").spec, before);
    let told = &cluster.snapshot.bad_spokes[0].status;
    let find = |type_: &str| {
        let list = told["conditions"].as_array().unwrap();
        list.iter().find(|c| c["type"] == type_).unwrap().clone()
    };
    for (type_, status) in
        [("Accepted", "False"), ("Ready", "False"), ("Stalled", "True"), ("Reconciling", "False")]
    {
        assert_eq!(
            (find(type_)["status"].as_str(), find(type_)["reason"].as_str()),
            (Some(status), Some("Invalid"))
        );
    }
    let message = find("Accepted")["message"].to_string();
    assert!(message.contains("spec.podCIDRPolicy") && message.contains("Orbit"), "{message}");

    // and the network itself
    let mut value = json!(cluster.snapshot.networks.remove(0));
    value["spec"]["phase"] = "Phase9".into();
    cluster.snapshot.bad_networks.push(undecodable::<crds::DmvpnNetwork>(value));
    cluster.settle();
    assert_eq!(cluster.endpoints(), ["net-a Present", "net-b Present", "net-hub Present"]);
    assert_eq!(cluster.snapshot.addresses.len(), 2);
    assert!(cluster.snapshot.bad_networks[0].status["conditions"].to_string().contains("spec.phase"));
}

#[test]
fn an_endpoint_that_does_not_decode_is_written_over_while_wanted_and_taken_away_after() {
    let mut cluster = pooled();
    let mut novel = json!(cluster.endpoint("net-a"));
    novel["spec"]["role"] = "Novel".into();
    cluster.snapshot.endpoints.retain(|e| e.name_any() != "net-a");
    cluster.snapshot.bad_endpoints.push(undecodable::<crds::DmvpnEndpoint>(novel.clone()));
    let ops = |cluster: &Cluster| -> Vec<String> {
        let endpoints = cluster.plan().into_iter().filter(|w| w.kind == "DmvpnEndpoint");
        endpoints.map(|w| format!("{} {:?}", w.name, w.op).chars().take(20).collect()).collect()
    };
    assert_eq!(ops(&cluster), ["net-a ApplyEndpoint("]);

    // what may still want it is refused: it stays as it is, and so does its address
    let spoke = cluster.snapshot.spokes.remove(0);
    let mut value = json!(spoke);
    value["spec"]["podCIDRPolicy"] = "Orbit".into();
    cluster.snapshot.bad_spokes.push(undecodable::<crds::DmvpnSpoke>(value));
    assert_eq!(ops(&cluster), Vec::<String>::new());
    // nobody wants it: asked for once, let go when the agent has answered, and the address after it
    cluster.snapshot.bad_spokes.clear();
    assert_eq!(
        cluster.settle().iter().filter(|d| d.contains("net-a")).collect::<Vec<_>>(),
        ["ask DmvpnEndpoint/net-a"]
    );
    assert_eq!((cluster.plan(), cluster.snapshot.addresses.len()), (vec![], 1));
    let unread = &mut cluster.snapshot.bad_endpoints[0];
    unread.status = json!({"state": "Absent", "observedGeneration": 1});
    assert_eq!(ops(&cluster), Vec::<String>::new(), "an answer to an older version");
    cluster.snapshot.bad_endpoints[0].status["observedGeneration"] = 2.into();
    cluster.settle();
    assert_eq!((cluster.snapshot.bad_endpoints.len(), cluster.snapshot.addresses.len()), (0, 0));

    // its node is another one, or gone
    for (field, value) in [("nodeUid", "other"), ("nodeName", "nowhere")] {
        novel["spec"][field] = value.into();
        cluster.snapshot.bad_endpoints.push(undecodable::<crds::DmvpnEndpoint>(novel.clone()));
        cluster.settle();
        assert_eq!(cluster.snapshot.bad_endpoints.len(), 0);
    }
}

#[test]
fn an_address_of_another_owner_is_waited_for() {
    let mut cluster = pooled();
    let taken = cluster.snapshot.addresses[0].spec.address;
    cluster.snapshot.spokes.clear();
    cluster.spoke("b", "b", json!({}));
    cluster.settle();
    let got = cluster.endpoint("net-b").spec.addresses[0].address;
    assert_ne!(got, taken, "it is still on the tunnel of a");
    // only one address is left for two: the second waits until the first is released
    let mut cluster = Cluster::with_network(json!({"addressing": {"pools": ["10.255.16.0/32"]}}));
    cluster.spoke("a", "a", json!({}));
    cluster.settle();
    cluster.snapshot.spokes.clear();
    cluster.spoke("b", "b", json!({}));
    cluster.settle();
    assert!(cluster.condition("DmvpnSpoke/b", "Ready").starts_with("False PoolExhausted"));
    cluster.report("net-a", "Absent", "False", "Removed");
    cluster.settle();
    assert_eq!(cluster.endpoints(), ["net-b Present", "net-hub Present"]);
}

#[test]
fn the_revision_follows_the_secrets_and_stays_while_one_is_missing() {
    let refs = json!({"nhrp": {"authenticationSecretRefs": [{"name": "pw"}]}});
    let mut cluster = Cluster::with_network(refs);
    let revision =
        |c: &Cluster| c.endpoint("net-hub").annotations().get("dmvpn.io/credentials-revision").cloned();
    cluster.settle();
    assert_eq!(revision(&cluster), None);
    assert!(cluster.condition("DmvpnNetwork/net", "CredentialsReady").starts_with("False SecretMissing"));
    assert!(cluster.condition("DmvpnNetwork/net", "Stalled").starts_with("True SecretMissing"));
    cluster.secret("pw", "net");
    cluster.settle();
    let first = revision(&cluster);
    assert!(first.is_some());
    assert!(cluster.condition("DmvpnNetwork/net", "CredentialsReady").starts_with("True SecretsFound"));
    cluster.snapshot.secrets.clear();
    cluster.settle();
    assert_eq!(revision(&cluster), first);
    cluster.secret("pw", "net");
    cluster.settle();
    assert!(revision(&cluster).is_some_and(|r| Some(r) != first));
    cluster.network("net", json!({}));
    cluster.settle();
    assert_eq!(revision(&cluster), None);
    assert_eq!(cluster.condition("DmvpnNetwork/net", "CredentialsReady"), "");
}

#[test]
fn a_protected_network_says_so_when_all_of_its_endpoints_do() {
    let psk = json!({"type": "PSK", "pskSecretRefs": [{"name": "key", "key": "password"}]});
    let mut cluster = Cluster::with_network(json!({"ipsec": {"mode": "Required", "authentication": psk}}));
    cluster.secret("key", "net");
    cluster.spoke("a", "a", json!({"overlayAddresses": ["10.255.0.11"]}));
    cluster.settle();
    let told = |cluster: &Cluster, type_: &str| cluster.condition("DmvpnNetwork/net", type_);
    assert!(told(&cluster, "CredentialsReady").starts_with("True SecretsFound"));
    assert!(told(&cluster, "Authenticated").starts_with("False SharedSecret One key for all"));
    assert_eq!(told(&cluster, "IPsecReady"), "", "nobody has said anything");
    let say = |cluster: &mut Cluster, endpoint: &str, status: &str, reason: &str| {
        cluster.report(endpoint, "Up", "True", "Up");
        let found = cluster.snapshot.endpoints.iter_mut().find(|e| e.name_any() == endpoint).unwrap();
        let conditions = &mut found.status.as_mut().unwrap().conditions;
        let mut more = conditions[0].clone();
        (more.type_, more.status, more.reason) = ("IPsecReady".into(), status.into(), reason.into());
        conditions.push(more);
        cluster.settle();
    };
    for (of_hub, of_a, want) in [
        (("True", "Protected"), ("True", "Protected"), "True Protected"),
        (("True", "Protected"), ("False", "IkeNoAnswer"), "False IkeNoAnswer a (IkeNoAnswer)"),
        (("Unknown", "IkeDaemonAway"), ("True", "Protected"), "Unknown IkeDaemonAway hub (IkeDaemonAway)"),
        (
            ("Unknown", "IkeDaemonAway"),
            ("False", "WaitingForIke"),
            "False WaitingForIke a (WaitingForIke), hub (IkeDaemonAway)",
        ),
    ] {
        say(&mut cluster, "net-hub", of_hub.0, of_hub.1);
        say(&mut cluster, "net-a", of_a.0, of_a.1);
        assert_eq!(told(&cluster, "IPsecReady"), want);
    }
    cluster.snapshot.silent.insert("a".into());
    cluster.settle();
    let silent = "Unknown AgentSilent a (the agent does not report), hub (IkeDaemonAway)";
    assert_eq!(told(&cluster, "IPsecReady"), silent);
    cluster.network("net", json!({}));
    cluster.settle();
    assert_eq!(told(&cluster, "IPsecReady"), "");
    assert!(told(&cluster, "Authenticated").starts_with("False NotProven Without IPsec"));
}

#[test]
fn a_silent_agent_is_told_once() {
    let mut cluster = pooled();
    cluster.report("net-a", "Up", "True", "Up");
    cluster.settle();
    cluster.snapshot.silent.insert("a".into());
    let done = cluster.settle();
    assert_eq!(done.iter().filter(|d| d.contains("status DmvpnEndpoint/net-a")).count(), 1, "{done:?}");
    let status = cluster.endpoint("net-a").status.clone().unwrap();
    assert_eq!(status.state.as_deref(), Some("Unknown"));
    assert_eq!((&*status.conditions[0].status, &*status.conditions[0].reason), ("Unknown", "AgentSilent"));
    assert!(cluster.condition("DmvpnSpoke/a", "Ready").starts_with("Unknown AgentSilent"));
    // it speaks again, and is not silent any more
    cluster.snapshot.silent.clear();
    cluster.report("net-a", "Up", "True", "Up");
    cluster.settle();
    assert!(cluster.condition("DmvpnSpoke/a", "Ready").starts_with("True Up"));
}

#[test]
fn silence_is_a_node_that_is_not_ready_or_a_while_without_a_ready_pod() {
    let mut cluster = pooled();
    let t0 = Instant::now();
    let observe = |silence: &mut Silence, snapshot: &Snapshot, after: Duration| {
        let (silent, next) = silence.observe(snapshot, t0 + after);
        (silent.into_iter().collect::<Vec<_>>(), next.map(|n| n - t0))
    };
    let pod = |node: &str, ready: &str| -> Pod {
        read(json!({
            "spec": {"nodeName": node, "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}
        }))
    };
    let zero = Duration::ZERO;
    let mut silence = Silence::default();
    assert_eq!(observe(&mut silence, &cluster.snapshot, zero), (vec![], None), "pods are not looked at");
    cluster.snapshot.pods = Some(vec![pod("hub", "True"), pod("a", "False")]);
    assert_eq!(observe(&mut silence, &cluster.snapshot, zero), (vec![], Some(PATIENCE)));
    let second = Duration::from_secs(1);
    assert_eq!(observe(&mut silence, &cluster.snapshot, PATIENCE - second), (vec![], Some(PATIENCE)));
    assert_eq!(observe(&mut silence, &cluster.snapshot, PATIENCE), (vec!["a".to_owned()], None));
    cluster.snapshot.pods = Some(vec![pod("hub", "True"), pod("a", "True")]);
    assert_eq!(observe(&mut silence, &cluster.snapshot, PATIENCE + second), (vec![], None));
    // the count begins anew
    cluster.snapshot.pods = Some(vec![pod("hub", "True")]);
    let (silent, next) = observe(&mut silence, &cluster.snapshot, PATIENCE + second * 2);
    assert_eq!((silent, next), (vec![], Some(PATIENCE * 2 + second * 2)));
    // a node that is not Ready is silent at once; one without an endpoint is nobody's business
    cluster.snapshot.nodes[0].status = None;
    cluster.snapshot.nodes[2].status = None;
    assert_eq!(observe(&mut silence, &cluster.snapshot, PATIENCE + second * 2).0, ["hub"]);
}

#[test]
fn nodes_behind_a_gateway_follow_what_it_leads_to() {
    let mut cluster = Cluster::with_network(json!({"addressing": {"pools": [POOL]}}));
    let gateway = json!({"podCIDRPolicy": "Announce", "gatewayFor": {}});
    cluster.spoke("pods", "a", gateway.clone());
    for (i, node) in cluster.snapshot.nodes.iter_mut().enumerate() {
        node.spec = Some(read(json!({"podCIDR": format!("10.244.{i}.0/24")})));
        let address = json!({"type": "InternalIP", "address": format!("192.168.0.{}", i + 1)});
        node.status.as_mut().unwrap().addresses = Some(vec![read(address)]);
    }
    cluster.settle();
    assert_eq!(cluster.endpoints(), ["net-a Present", "net-b Present", "net-hub Present"]);
    assert_eq!(
        subnets(&cluster, "net-a"),
        ["10.244.1.0/24", "10.244.2.0/24"],
        "not those of the hub, which has a tunnel"
    );
    let prefixes = |cluster: &Cluster| {
        let gateway = cluster.endpoint("net-b").spec.gateway.clone().unwrap();
        assert_eq!(gateway.node_name, "a");
        gateway.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(prefixes(&cluster), Vec::<String>::new());

    cluster.report("net-a", "Up", "True", "Up");
    cluster.report("net-b", "Up", "True", "Up");
    let told = vec!["10.9.0.0/24".parse().unwrap()];
    let own = cluster.snapshot.endpoints.iter_mut().find(|e| e.name_any() == "net-a").unwrap();
    own.status.as_mut().unwrap().prefixes = told;
    cluster.settle();
    assert_eq!(prefixes(&cluster), ["10.9.0.0/24"]);
    assert_eq!(cluster.plan(), []);

    // Refused after an edit: what is in force stays, on the nodes behind too.
    let mut bad = gateway;
    bad["subnets"] = json!([{"cidr": "10.255.0.0/24"}]);
    cluster.spoke("pods", "a", bad);
    cluster.settle();
    assert_eq!(cluster.endpoints(), ["net-a Present", "net-b Present", "net-hub Present"]);
    assert_eq!(prefixes(&cluster), ["10.9.0.0/24"]);

    // A tunnel of its own is better.
    cluster.spoke("pods", "a", json!({"podCIDRPolicy": "Announce", "gatewayFor": {"nodeSelector": {}}}));
    cluster.spoke("own", "b", json!({}));
    cluster.settle();
    assert!(cluster.endpoint("net-b").spec.gateway.is_none());
    assert_eq!(subnets(&cluster, "net-a"), ["10.244.1.0/24"], "its pods are its own");
}
