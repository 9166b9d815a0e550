//! What the API says (and does not say) against what follows: only an explicit wish takes a tunnel away.

use std::collections::BTreeSet;

use crds::secrets::{NetworkSecrets, NodeSecrets, REVISION_ANNOTATION};
use k8s_openapi::ByteString;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::store::{Credentials, Store};
use crate::plan::ipsec::Secret;
use crate::source::Desired;

fn endpoint(name: &str, network: &str) -> Value {
    json!({
        "apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnEndpoint",
        "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": 1},
        "spec": {
            "network": network, "nodeName": "west-1", "desired": "Present", "role": "Spoke", "phase": "Phase3",
            "overlay": ["10.255.0.0/16"], "addresses": [{"address": "10.255.0.11", "owner": "west-lan"}],
            "tunnel": {
                "interfaceName": "dm-x", "source": {"from": "DefaultRoute"}, "underlayFamily": "IPv4",
                "mtuPolicy": "Fixed", "mtu": 1400, "tcpMssPolicy": "Clamp", "ttl": 255, "dscpPolicy": "Clear",
                "interfaceState": "Always"
            },
            "nhrp": {
                "mode": "Enabled", "networkId": 100, "holdTimeSeconds": 600, "uniquenessPolicy": "Identity",
                "registrationUnique": true
            },
            "routing": {"protocol": "NHRP", "metric": 100}
        }
    })
}

fn with(mut object: Value, generation: i64, changes: &[(&str, Value)]) -> Value {
    object["metadata"]["generation"] = generation.into();
    for (path, value) in changes {
        let (parent, leaf) = path.rsplit_once('/').expect("a path");
        object.pointer_mut(parent).expect("its parent")[leaf] = value.clone();
    }
    object
}

fn secret(object: Value, generation: i64, revision: &str) -> Value {
    let refs = json!([{"name": "nhrp"}]);
    let annotations = json!({REVISION_ANNOTATION: revision});
    with(
        object,
        generation,
        &[("/spec/nhrp/authenticationSecretRefs", refs), ("/metadata/annotations", annotations)],
    )
}

fn answer(network: &str, revision: &str, password: &str) -> NodeSecrets {
    let secrets = NetworkSecrets {
        revision: revision.to_owned(),
        nhrp_passwords: vec![ByteString(password.as_bytes().to_vec())],
        ipsec_keys: Vec::new(),
    };
    NodeSecrets { networks: [(network.to_owned(), secrets)].into() }
}

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).expect("an object")
}

fn list(store: &mut Store, objects: &[Value]) {
    store.event(Event::Init);
    for value in objects {
        store.event(Event::InitApply(object(value.clone())));
    }
    store.event(Event::InitDone);
}

/// (Network, generation, first password) of the tunnels.
type Tunnels = Vec<(String, i64, String)>;

/// Tunnels, then networks to be removed, then reasons of problems.
fn summary(desired: &Desired) -> (Tunnels, Vec<String>, Vec<String>) {
    let generation = |e: &crate::source::DesiredEndpoint| e.origin.as_ref().map_or(-1, |o| o.generation);
    let password = |e: &crate::source::DesiredEndpoint| {
        e.passwords.first().map(|p| String::from_utf8_lossy(p).into_owned()).unwrap_or_default()
    };
    let endpoints = desired.endpoints.iter();
    (
        endpoints.map(|e| (e.spec.network.clone(), generation(e), password(e))).collect(),
        desired.removals.iter().map(|e| e.spec.network.clone()).collect(),
        desired.problems.iter().map(|p| p.reason.clone()).collect(),
    )
}

fn one(network: &str, generation: i64, password: &str) -> Tunnels {
    vec![(network.to_owned(), generation, password.to_owned())]
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn a_list_of_before_takes_nothing_back() {
    let mut store = Store::new("west-1", None);
    let old = endpoint("a", "branches");
    list(&mut store, &[with(old.clone(), 3, &[("/spec/tunnel/mtu", json!(1300))])]);
    // Another API server that lags behind.
    list(&mut store, std::slice::from_ref(&old));
    assert_eq!(summary(&store.desired()), (one("branches", 3, ""), vec![], vec![]));
    assert_eq!(store.desired().endpoints[0].spec.tunnel.mtu, 1300);
    // Made anew it counts, whatever its generation.
    list(&mut store, &[with(old, 1, &[("/metadata/uid", json!("another"))])]);
    assert_eq!(summary(&store.desired()), (one("branches", 1, ""), vec![], vec![]));
}

#[test]
fn only_absent_takes_a_tunnel_away() {
    let mut store = Store::new("west-1", None);
    assert!(!store.ready() && store.desired().keep_unnamed && store.kept().is_none());
    let good = endpoint("a", "branches");
    list(&mut store, std::slice::from_ref(&good));
    let there = (one("branches", 1, ""), vec![], vec![]);
    assert_eq!(summary(&store.desired()), there);
    assert!(store.ready());

    // A list that broke off, an API that is away, a terminating object: nothing.
    store.event(Event::Init);
    store.unreachable();
    assert_eq!(summary(&store.desired()), there);
    let going = with(good.clone(), 2, &[("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"))]);
    list(&mut store, &[going]);
    assert_eq!(summary(&store.desired()), (one("branches", 2, ""), vec![], vec![]));

    // It vanishes, in a list or as an event: it stays, and that is said; it comes back as another object.
    let gone = (one("branches", 2, ""), vec![], strings(&["EndpointGone"]));
    list(&mut store, &[]);
    assert_eq!((summary(&store.desired()), store.seen().len()), (gone.clone(), 0));
    store.event(Event::Apply(object(with(good.clone(), 2, &[]))));
    assert_eq!(summary(&store.desired()), (one("branches", 2, ""), vec![], vec![]));
    store.event(Event::Delete(object(good.clone())));
    assert_eq!(summary(&store.desired()), gone);

    let absent = with(good, 3, &[("/spec/desired", json!("Absent"))]);
    store.event(Event::Apply(object(absent.clone())));
    let removal = (vec![], strings(&["branches"]), vec![]);
    assert_eq!(summary(&store.desired()), removal);
    // Without object it is removed on, until nothing is left of it.
    store.event(Event::Delete(object(absent)));
    store.gone(&BTreeSet::new());
    assert_eq!(summary(&store.desired()), removal);
    store.gone(&BTreeSet::from(["branches".to_owned()]));
    assert_eq!(summary(&store.desired()), (vec![], vec![], vec![]));
}

#[test]
fn what_cannot_be_decoded_leaves_the_last_good_version_and_stops_nobody() {
    let mut store = Store::new("west-1", None);
    let (good, other) = (endpoint("a", "branches"), endpoint("b", "lab"));
    list(&mut store, std::slice::from_ref(&good));
    let novel = with(good.clone(), 2, &[("/spec/role", json!("Novel"))]);
    list(&mut store, &[novel.clone(), other.clone()]);
    let (endpoints, removals, problems) = summary(&store.desired());
    assert_eq!(endpoints, [one("branches", 1, ""), one("lab", 1, "")].concat());
    assert_eq!((removals, problems), (vec![], strings(&["Invalid"])));
    let seen = store.seen();
    let bad = seen[0].bad.as_ref().expect("a reason");
    assert!(bad.message.contains("Novel") && bad.message.contains("last good"), "{}", bad.message);
    assert_eq!((seen[0].generation, seen[1].bad.is_none()), (2, true));

    // Somebody else's node, a status that cannot be decoded: no harm.
    let foreign = with(endpoint("c", "c"), 1, &[("/spec/nodeName", json!("west-2"))]);
    let odd = with(other, 1, &[("/status", json!({"state": 7}))]);
    list(&mut store, &[novel.clone(), odd, foreign]);
    assert_eq!(store.desired().endpoints.len(), 2);
    // The wish to be rid of it is understood.
    list(&mut store, &[with(novel, 3, &[("/spec/desired", json!("Absent"))])]);
    assert_eq!(summary(&store.desired()).1, strings(&["branches"]));
}

#[test]
fn two_objects_for_one_network() {
    let mut store = Store::new("west-1", None);
    list(&mut store, &[endpoint("a", "branches"), endpoint("b", "branches")]);
    assert_eq!(summary(&store.desired()), (one("branches", 1, ""), vec![], strings(&["Duplicate"])));
    // What one takes away is not taken from the other.
    let absent = with(endpoint("a", "branches"), 2, &[("/spec/desired", json!("Absent"))]);
    store.event(Event::Apply(object(absent)));
    assert_eq!(summary(&store.desired()), (one("branches", 1, ""), vec![], vec![]));
}

#[test]
fn passwords_come_from_the_operator_and_old_ones_stay_meanwhile() {
    let mut store = Store::new("west-1", None);
    let plain = endpoint("a", "branches");
    list(&mut store, &[secret(plain.clone(), 1, "r1")]);
    assert_eq!(summary(&store.desired()), (vec![], vec![], strings(&["SecretsUnavailable"])));
    assert_eq!(store.wanted_secrets(), [("branches".to_owned(), "r1".to_owned())].into());
    store.answer(Err("operator at 10.0.0.1:8443: no connection".into()));
    let problems = store.desired().problems;
    assert!(problems[0].message.contains("no connection"), "{problems:?}");

    store.answer(Ok(answer("branches", "r1", "old")));
    assert_eq!(summary(&store.desired()), (one("branches", 1, "old"), vec![], vec![]));
    assert_eq!((store.seen()[0].credentials.clone(), store.wanted_secrets().len()), (Credentials::Ready, 0));

    // A newer Secret: asked for, the tunnel goes on; only a refusal is a problem.
    store.event(Event::Apply(object(secret(plain.clone(), 2, "r2"))));
    assert_eq!(summary(&store.desired()), (one("branches", 2, "old"), vec![], vec![]));
    assert_eq!(store.wanted_secrets().len(), 1);
    store.answer(Err("answered 403 Forbidden".into()));
    assert_eq!(summary(&store.desired()).2, strings(&["SecretsUnavailable"]));
    assert!(matches!(&store.seen()[0].credentials, Credentials::Lacking(why) if why.contains("403")));
    store.answer(Ok(answer("branches", "r2", "new")));
    assert_eq!(summary(&store.desired()), (one("branches", 2, "new"), vec![], vec![]));
    assert!(!format!("{:?}", store.desired()).contains("new"), "no password in what is logged");

    // The farewell does not wait for passwords.
    let mut fresh = Store::new("west-1", None);
    list(&mut fresh, &[with(secret(plain, 1, "r1"), 1, &[("/spec/desired", json!("Absent"))])]);
    assert_eq!(summary(&fresh.desired()), (vec![], strings(&["branches"]), vec![]));
}

#[test]
fn keys_are_nowhere_but_in_memory_and_are_asked_for_anew() {
    let dir = std::env::temp_dir().join(format!("dmvpn-keys-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("directory");
    let with_key = |key: &str| {
        let mut answer = answer("branches", "r1", "pw");
        let keys = &mut answer.networks.get_mut("branches").expect("it").ipsec_keys;
        keys.push(ByteString(key.as_bytes().to_vec()));
        answer
    };
    let ipsec = json!({
        "pskSecretRefs": [{"name": "key"}], "rekeySeconds": 3600, "dpdSeconds": 10, "udpEncapsulation": "Auto"
    });
    let protected = with(secret(endpoint("a", "branches"), 1, "r1"), 1, &[("/spec/ipsec", ipsec)]);
    let keys = |store: &Store| store.desired().endpoints[0].keys.clone();
    let mut store = Store::new("west-1", None);
    list(&mut store, std::slice::from_ref(&protected));
    // An operator of before tells passwords alone: the tunnel waits.
    store.answer(Ok(answer("branches", "r1", "pw")));
    assert_eq!(store.desired().endpoints, []);
    let bad = store.seen()[0].bad.clone().expect("a reason");
    assert_eq!(bad.reason, crds::Reason::SecretsUnavailable);
    store.answer(Ok(with_key("k3y")));
    assert_eq!(keys(&store), [Secret(b"k3y".to_vec())]);
    let mut file = super::file::File::new(&dir);
    file.save(&store.kept());
    let text = std::fs::read_to_string(dir.join(super::LAST_GOOD)).expect("file");
    assert!(text.contains("cHc=") && !text.contains("azN5"), "{text}");

    // After a restart the tunnel goes on as it is, and nothing is told against it before the operator was asked.
    let mut next = Store::new("west-1", file.load());
    list(&mut next, std::slice::from_ref(&protected));
    assert_eq!((keys(&next), next.seen()[0].bad.clone()), (vec![], None));
    assert_eq!(next.seen()[0].credentials, Credentials::Asked);
    assert_eq!(next.wanted_secrets().len(), 1);
    next.answer(Err("no connection".into()));
    assert!(
        matches!(&next.seen()[0].credentials, Credentials::Lacking(why) if why.contains("in force stays"))
    );
    assert_eq!(
        summary(&next.desired()),
        (one("branches", 1, "pw"), vec![], strings(&["SecretsUnavailable"]))
    );
    next.answer(Ok(with_key("k3y")));
    assert_eq!((keys(&next).len(), next.seen()[0].credentials.clone()), (1, Credentials::Ready));
    assert!(!format!("{:?} {next:?}", next.desired()).contains("k3y"));
    std::fs::remove_dir_all(&dir).expect("directory");
}

#[test]
fn a_version_that_lacks_its_passwords_does_not_replace_one_that_works() {
    let mut store = Store::new("west-1", None);
    list(&mut store, &[endpoint("a", "branches")]);
    store.event(Event::Apply(object(secret(endpoint("a", "branches"), 2, "r1"))));
    assert_eq!(summary(&store.desired()).0, one("branches", 1, ""));
    store.answer(Ok(answer("branches", "r1", "s")));
    assert_eq!(summary(&store.desired()).0, one("branches", 2, "s"));
}

#[test]
fn the_next_run_knows_what_was_in_force() {
    let dir = std::env::temp_dir().join(format!("dmvpn-last-endpoints-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("directory");
    let mut file = super::file::File::new(&dir);
    assert!(file.load().is_none());
    let mut store = Store::new("west-1", None);
    list(&mut store, &[secret(endpoint("a", "branches"), 4, "r1"), endpoint("b", "lab")]);
    store.answer(Ok(answer("branches", "r1", "s3cret")));
    file.save(&store.kept());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.join(super::LAST_GOOD)).expect("file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);

    let mut next = Store::new("west-1", super::file::File::new(&dir).load());
    assert_eq!(next.desired().endpoints, store.desired().endpoints);
    assert!(!next.ready(), "the API may still answer");
    next.unreachable();
    assert!(next.ready());
    // The API answers: its word counts, and what it does not name is gone without anybody's wish.
    list(&mut next, &[secret(endpoint("a", "branches"), 4, "r1")]);
    assert_eq!(next.seen()[0].credentials, Credentials::Ready);
    assert_eq!(summary(&next.desired()).2, strings(&["EndpointGone"]));
    assert_eq!(next.desired().endpoints.len(), 2);

    std::fs::write(dir.join(super::LAST_GOOD), "{").expect("file");
    assert!(file.load().is_none());
    std::fs::remove_dir_all(&dir).expect("directory");
}
