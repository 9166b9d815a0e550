//! Names and labels: of one release, and of two that do not meet.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::helm::{RELEASE, render, render_as};
use crate::objects::{Objects, name, text};
use crate::shape::MATRIX;

const CLUSTER_SCOPED: &[&str] = &[
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
];

fn cluster_scoped(object: &Value) -> bool {
    CLUSTER_SCOPED.contains(&text(&object["kind"]))
}

#[test]
fn the_name_of_the_release_is_in_all_names() {
    let long = "a".repeat(53);
    for (release, values, want) in [
        ("dmvpn", "", "dmvpn-operator"),
        ("edge", "", "edge-dmvpn-operator"),
        ("my-dmvpn", "", "my-dmvpn-operator"),
        ("v1.2", "", "v1-2-dmvpn-operator"),
        ("edge", "fullnameOverride: vpn", "vpn-operator"),
        (&long, "", &format!("{}-operator", "a".repeat(50))),
    ] {
        let objects = render_as(release, "net", values);
        objects.get("Deployment", want);
        let prefix = want.strip_suffix("operator").unwrap();
        for object in &objects.0 {
            let name = text(&object["metadata"]["name"]);
            assert!(name.starts_with(prefix), "{release}: {name}");
            // A Service's name, and what names of pods are made of, has to be a label of DNS.
            let label = name.len() <= 63 && !name.contains('.') && !name.ends_with('-');
            assert!(label || cluster_scoped(object), "{release}: {name}");
            assert!(name.len() <= 253, "{release}: {name}");
        }
    }
}

#[test]
fn two_releases_do_not_collide() {
    let values = "{operator: {replicas: 2}, networkPolicy: {enabled: true}, ipsec: {enabled: true}}";
    let names = |release: &str, namespace: &str, keep: fn(&Value) -> bool| -> BTreeSet<String> {
        let objects = render_as(release, namespace, values);
        objects.0.iter().filter(|object| keep(object)).map(name).collect()
    };
    for (a, b) in [
        (("dmvpn", "one"), ("dmvpn", "two")),
        (("dmvpn", "one"), ("edge", "one")),
        // Parts that would be the same when joined by dashes.
        (("dmvpn-a", "b"), ("dmvpn", "a-b")),
        (("a-dmvpn", "b"), ("dmvpn", "a-b")),
    ] {
        let (of_a, of_b) = (names(a.0, a.1, cluster_scoped), names(b.0, b.1, cluster_scoped));
        assert_eq!(of_a.len(), 6, "{of_a:?}");
        assert!(of_a.is_disjoint(&of_b), "{a:?} and {b:?}: {of_a:?} {of_b:?}");
        if a.1 == b.1 {
            let all = names(a.0, a.1, |_| true);
            assert!(all.is_disjoint(&names(b.0, b.1, |_| true)), "{a:?} and {b:?}: {all:?}");
        }
    }
}

#[test]
fn an_agent_is_held_to_its_node_under_the_name_of_its_release() {
    for (release, namespace, account) in [
        ("dmvpn", "dmvpn-system", "system:serviceaccount:dmvpn-system:dmvpn-agent"),
        ("edge", "net", "system:serviceaccount:net:edge-dmvpn-agent"),
    ] {
        let objects = render_as(release, namespace, "");
        let policy = objects.of_kind("ValidatingAdmissionPolicy").next().unwrap();
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
        let condition = format!("request.userInfo.username == '{account}'");
        assert_eq!(policy["spec"]["matchConditions"][0]["expression"], condition);
        assert_eq!(policy["spec"]["matchConditions"].as_array().unwrap().len(), 1);
        let binding = objects.of_kind("ValidatingAdmissionPolicyBinding").next().unwrap();
        assert_eq!(binding["spec"]["validationActions"], serde_json::json!(["Deny"]));
    }
}

#[test]
fn objects_are_in_the_namespace_of_the_release_and_have_its_labels() {
    for values in MATRIX {
        let objects = render(values);
        for object in ours(&objects) {
            let metadata = &object["metadata"];
            let namespace = if cluster_scoped(object) { &Value::Null } else { &"dmvpn-system".into() };
            assert_eq!(&metadata["namespace"], namespace, "{}", name(object));
            let labels = &metadata["labels"];
            assert_eq!(labels["app.kubernetes.io/name"], "dmvpn", "{}", name(object));
            assert_eq!(labels["app.kubernetes.io/instance"], RELEASE, "{}", name(object));
            assert_eq!(labels["app.kubernetes.io/version"], "0.1.0", "{}", name(object));
            assert_eq!(labels["app.kubernetes.io/managed-by"], "Helm", "{}", name(object));
            let component = text(&labels["app.kubernetes.io/component"]);
            assert!(
                ["operator", "agent", "charon", "drain"].contains(&component),
                "{}: {component}",
                name(object)
            );
        }
        for pod in objects.pods() {
            // With the chart's version in it, each upgrade of the chart would replace every agent.
            assert!(pod.labels["helm.sh/chart"].is_null(), "{}", pod.owner);
        }
    }
}

/// All but what the user adds.
fn ours(objects: &Objects) -> impl Iterator<Item = &Value> {
    objects.0.iter().filter(|object| object["metadata"]["name"] != "more")
}
