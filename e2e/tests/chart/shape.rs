//! Which objects there are for which values, and that each is what the API knows: no field misspelt, no reference into
//! the void.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, chart, helm, render, render_all};
use crate::objects::{Objects, list, name, text, texts};

/// Values that change which objects there are or what they hold.
pub(crate) const MATRIX: &[&str] = &[
    "",
    "fullnameOverride: vpn",
    "operator: {replicas: 3}",
    "operator: {replicas: 5, topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]}",
    "operator: {listenAddress: 0.0.0.0, priorityClassName: \"\", nodeSelector: null, resources: null}",
    "operator: {tolerations: [{key: a, operator: Equal, value: b, effect: NoExecute, tolerationSeconds: 5}]}",
    "agent: {maxUnavailable: 10%, tolerations: [], nodeSelector: {a: b}, seLinuxOptions: {type: spc_t}}",
    "agent: {podLabels: {a: b}, podAnnotations: {c: d}, priorityClassName: \"\", resources: {limits: {cpu: 0.5}}}",
    "image: {operator: {repository: lab.local/o, tag: \"1\", pullPolicy: Never}, agent: {tag: \"2\"}}",
    "apiServer: {host: \"fd00::1\", port: 443}",
    "imagePullSecrets: [{name: a}, {name: b}]",
    "{logLevel: trace, logFormat: json}",
    "ipsec: {enabled: true}",
    "drain: {enabled: false}",
    "drain: {timeoutSeconds: 600}",
    "networkPolicy: {enabled: true}",
    "{metrics: {enabled: true, podMonitor: {enabled: true, labels: {release: prometheus}}, rules: {enabled: true}}, networkPolicy: {enabled: true}}",
    "networkPolicy: {enabled: true, agentCIDRs: [10.0.0.0/8, \"fd00::/8\"], apiServerCIDRs: [10.1.0.1/32]}",
    "extraObjects: [{apiVersion: v1, kind: ConfigMap, metadata: {name: more, namespace: dmvpn-system, labels: {a: b}}}]",
];

/// What every installation has, by default.
const DEFAULT: &[&str] = &[
    "ClusterRole/dmvpn-agent.dmvpn-system",
    "ClusterRole/dmvpn-operator.dmvpn-system",
    "ClusterRoleBinding/dmvpn-agent.dmvpn-system",
    "ClusterRoleBinding/dmvpn-operator.dmvpn-system",
    "ConfigMap/dmvpn-operator-ca",
    "CustomResourceDefinition/dmvpnaddresses.dmvpn.io",
    "CustomResourceDefinition/dmvpnendpoints.dmvpn.io",
    "CustomResourceDefinition/dmvpnnetworks.dmvpn.io",
    "CustomResourceDefinition/dmvpnspokes.dmvpn.io",
    "DaemonSet/dmvpn-agent",
    "Deployment/dmvpn-operator",
    "Job/dmvpn-drain",
    "Lease/dmvpn-operator",
    "Role/dmvpn-agent",
    "Role/dmvpn-operator",
    "RoleBinding/dmvpn-agent",
    "RoleBinding/dmvpn-operator",
    "Secret/dmvpn-operator-tls",
    "Service/dmvpn-operator",
    "ServiceAccount/dmvpn-agent",
    "ServiceAccount/dmvpn-operator",
    "ValidatingAdmissionPolicy/dmvpn-agent.dmvpn-system",
    "ValidatingAdmissionPolicyBinding/dmvpn-agent.dmvpn-system",
];

#[test]
fn objects_by_default_and_by_choice() {
    let defaults: BTreeSet<String> = DEFAULT.iter().map(|name| (*name).to_owned()).collect();
    for (values, more, fewer) in [
        ("", vec![], vec![]),
        ("operator: {replicas: 2}", vec!["PodDisruptionBudget/dmvpn-operator"], vec![]),
        ("networkPolicy: {enabled: true}", vec!["NetworkPolicy/dmvpn-operator"], vec![]),
        ("metrics: {enabled: true}", vec![], vec![]),
        (
            "metrics: {enabled: true, podMonitor: {enabled: true}, rules: {enabled: true}}",
            vec!["PodMonitor/dmvpn-operator", "PrometheusRule/dmvpn-operator"],
            vec![],
        ),
        (
            "ipsec: {enabled: true}",
            vec!["ConfigMap/dmvpn-charon", "DaemonSet/dmvpn-charon", "ServiceAccount/dmvpn-charon"],
            vec![],
        ),
        ("drain: {enabled: false}", vec![], vec!["Job/dmvpn-drain"]),
        (
            "crds: {install: false}",
            vec![],
            DEFAULT.iter().copied().filter(|name| name.starts_with("CustomResource")).collect(),
        ),
    ] {
        let seen = render_all(values).names();
        let seen_more: Vec<_> = seen.difference(&defaults).map(String::as_str).collect();
        let seen_fewer: Vec<_> = defaults.difference(&seen).map(String::as_str).collect();
        assert_eq!((seen_more, seen_fewer), (more, fewer), "{values:?}");
    }
}

#[test]
fn helm_finds_nothing_to_say_about_the_chart() {
    for values in MATRIX {
        let said = helm(&["lint", "--strict", &chart().display().to_string(), "--values", "-"], values);
        let said = said.unwrap_or_else(|error| panic!("{values:?}: {error}"));
        assert!(said.contains("1 chart(s) linted, 0 chart(s) failed"), "{values:?}: {said}");
    }
}

/// Read as the API's type and written again, an object is what it was: a field that the type does not know would be
/// lost on the way.
#[test]
fn each_object_has_only_fields_that_the_api_knows() {
    let all = MATRIX.iter().map(|values| (values, render(values))).chain([(&"", render_all(""))]);
    for (values, objects) in all {
        for object in objects.0 {
            let again = written_again(&object).unwrap_or_else(|error| panic!("{}: {error}", name(&object)));
            let lost = difference("", &object, &again);
            assert!(lost.is_empty(), "{values:?}: {}: {lost:?}", name(&object));
        }
    }
}

/// What is in `before` and not, or otherwise, in `after`.
fn difference(path: &str, before: &Value, after: &Value) -> Vec<String> {
    match (before, after) {
        (Value::Object(fields), Value::Object(others)) => {
            let below = |(key, value): (&String, &Value)| {
                let path = format!("{path}.{key}");
                others.get(key).map_or_else(|| lost(&path, value), |other| difference(&path, value, other))
            };
            fields.iter().flat_map(below).collect()
        }
        (Value::Array(entries), Value::Array(others)) if entries.len() == others.len() => {
            let pairs = entries.iter().zip(others).enumerate();
            pairs.flat_map(|(n, (a, b))| difference(&format!("{path}[{n}]"), a, b)).collect()
        }
        // A quantity may be written as a number, and is a text then.
        (Value::Number(number), Value::String(text)) if number.to_string() == *text => vec![],
        // Bounds of the definitions are floats to the API.
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => vec![],
        (a, b) if a == b => vec![],
        (a, b) => vec![format!("{path}: {a} became {b}")],
    }
}

fn lost(path: &str, value: &Value) -> Vec<String> {
    let empty = value.is_null() || *value == json!([]) || *value == json!({});
    if empty { vec![] } else { vec![format!("{path} is lost")] }
}

fn written_again(object: &Value) -> serde_json::Result<Value> {
    macro_rules! by_kind {
        ($($type:ident)*) => {
            match text(&object["kind"]) {
                $(stringify!($type) => {
                    let typed: $type = serde_json::from_value(object.clone())?;
                    serde_json::to_value(typed)
                })*
                // Kinds of others, known to their own definitions alone.
                "PodMonitor" | "PrometheusRule" => Ok(object.clone()),
                other => panic!("kind {other} is not in the list"),
            }
        };
    }
    by_kind!(
        ServiceAccount Service Secret ConfigMap Lease Deployment DaemonSet Job PodDisruptionBudget NetworkPolicy
        ClusterRole ClusterRoleBinding Role RoleBinding
        ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding CustomResourceDefinition
    )
}

#[test]
fn a_misspelt_field_is_noticed() {
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
        "spec": {"selektor": {"a": "b"}, "ports": [{"port": 1, "targetPrt": 2}]},
    });
    let lost = difference("", &object, &written_again(&object).unwrap());
    assert_eq!(lost, [".spec.ports[0].targetPrt is lost", ".spec.selektor is lost"]);
}

#[test]
fn references_lead_to_objects_of_the_release() {
    for values in MATRIX {
        let objects = render(values);
        let mut checked = 0;
        for reference in references(&objects) {
            assert!(
                objects.find(&reference.0, &reference.1).is_some(),
                "{values:?}: {reference:?} is not there"
            );
            checked += 1;
        }
        assert!(checked >= 15, "{values:?}: only {checked} references");
    }
}

/// Kind and name of what other objects or programs are told to use.
fn references(objects: &Objects) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut add = |kind: &str, name: &str| all.push((kind.to_owned(), name.to_owned()));
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        for binding in objects.of_kind(kind) {
            add(text(&binding["roleRef"]["kind"]), text(&binding["roleRef"]["name"]));
            for subject in list(&binding["subjects"]) {
                assert_eq!(subject["namespace"], NAMESPACE);
                add(text(&subject["kind"]), text(&subject["name"]));
            }
        }
    }
    for pod in objects.pods() {
        add("ServiceAccount", text(&pod.spec["serviceAccountName"]));
        for arg in pod.args() {
            let Some((flag, value)) = arg.split_once('=') else { continue };
            match flag {
                "--lease" => add("Lease", value),
                "--tls-secret" => add("Secret", value),
                "--ca-config-map" => add("ConfigMap", value),
                "--service" | "--operator-service" => add("Service", value),
                "--agent-service-account" => add("ServiceAccount", value),
                "--daemon-set" => add("DaemonSet", value),
                _ => {}
            }
        }
    }
    for role in objects.of_kind("Role") {
        for rule in list(&role["rules"]) {
            for resource in texts(&rule["resources"]) {
                let kind = match resource {
                    "configmaps" => "ConfigMap",
                    "secrets" => "Secret",
                    "leases" => "Lease",
                    "daemonsets" => "DaemonSet",
                    _ => continue,
                };
                texts(&rule["resourceNames"]).into_iter().for_each(|name| add(kind, name));
            }
        }
    }
    for binding in objects.of_kind("ValidatingAdmissionPolicyBinding") {
        add("ValidatingAdmissionPolicy", text(&binding["spec"]["policyName"]));
    }
    all
}

#[test]
fn selectors_match_their_pods_and_no_others() {
    for values in MATRIX {
        let objects = render(values);
        for (kind, path, wanted) in [
            ("Deployment", "/spec/selector/matchLabels", "Deployment/"),
            ("DaemonSet", "/spec/selector/matchLabels", "DaemonSet/"),
            ("Service", "/spec/selector", "Deployment/"),
            ("PodDisruptionBudget", "/spec/selector/matchLabels", "Deployment/"),
            ("NetworkPolicy", "/spec/podSelector/matchLabels", "Deployment/"),
        ] {
            for object in objects.of_kind(kind) {
                let selector = object.pointer(path).and_then(Value::as_object).unwrap();
                let pods = objects.pods();
                let mut matched = pods.iter().filter(|pod| selector.iter().all(|(k, v)| pod.labels[k] == *v));
                assert!(
                    matched.next().is_some_and(|pod| pod.owner.starts_with(wanted)),
                    "{values:?}: {kind}"
                );
                assert!(matched.next().is_none(), "{values:?}: {kind} selects pods of others");
            }
        }
    }
}

#[test]
fn more_than_one_operator_is_spread_and_guarded() {
    let spread = |objects: &Objects| {
        list(&objects.pod("Deployment/dmvpn-operator").spec["topologySpreadConstraints"]).to_vec()
    };
    assert!(spread(&render("")).is_empty());
    let objects = render("operator: {replicas: 3}");
    let deployment = &objects.get("Deployment", "dmvpn-operator")["spec"];
    assert_eq!(deployment["replicas"], 3);
    let budget = &objects.get("PodDisruptionBudget", "dmvpn-operator")["spec"];
    assert_eq!(budget, &json!({"maxUnavailable": 1, "selector": deployment["selector"]}));
    let constraints = spread(&objects);
    assert_eq!(constraints.len(), 1);
    assert_eq!(constraints[0]["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(constraints[0]["labelSelector"], deployment["selector"]);
    // One's own constraints come instead.
    let own = json!({"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
    let values = format!("operator: {{replicas: 3, topologySpreadConstraints: [{own}]}}");
    assert_eq!(spread(&render(&values)), [own]);
}

#[test]
fn drain_comes_before_everything_and_has_a_deadline() {
    for (values, timeout, deadline) in [("", 120, 180), ("drain: {timeoutSeconds: 600}", 600, 660)] {
        let objects = render(values);
        let job = objects.get("Job", "dmvpn-drain");
        let annotations = json!({
            "helm.sh/hook": "pre-delete",
            "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
        });
        assert_eq!(job["metadata"]["annotations"], annotations);
        assert_eq!(job["spec"]["activeDeadlineSeconds"], deadline, "{values:?}");
        assert_eq!(job["spec"]["backoffLimit"], 0);
        let pod = objects.pod("Job/dmvpn-drain");
        assert!(pod.args().contains(&format!("--timeout-seconds={timeout}").as_str()), "{values:?}");
        assert_eq!(pod.spec["restartPolicy"], "Never");
        assert_eq!(pod.spec["serviceAccountName"], "dmvpn-operator");
    }
    // Nothing else is a hook: hooks are not upgraded and not removed with a release.
    let hooks = |object: &&Value| !object["metadata"]["annotations"]["helm.sh/hook"].is_null();
    assert_eq!(render("").0.iter().filter(hooks).count(), 1);
}

#[test]
fn the_network_policy_lets_agents_in() {
    let spec = |values: &str| render(values).get("NetworkPolicy", "dmvpn-operator")["spec"].clone();
    let ports = json!([{"port": "secrets", "protocol": "TCP"}]);
    let open = spec("networkPolicy: {enabled: true}");
    assert_eq!(open["policyTypes"], json!(["Ingress"]));
    assert_eq!(open["ingress"], json!([{"ports": ports}]));
    let tight = spec(
        "networkPolicy: {enabled: true, agentCIDRs: [10.0.0.0/8], apiServerCIDRs: [10.1.0.1/32, \"fd00::1/128\"]}",
    );
    assert_eq!(tight["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(tight["ingress"], json!([{"ports": ports, "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]));
    let to = json!([{"ipBlock": {"cidr": "10.1.0.1/32"}}, {"ipBlock": {"cidr": "fd00::1/128"}}]);
    assert_eq!(tight["egress"], json!([{"to": to}]));
}

#[test]
fn what_the_operator_fills_comes_empty() {
    let objects = render("");
    for (kind, name) in
        [("Secret", "dmvpn-operator-tls"), ("ConfigMap", "dmvpn-operator-ca"), ("Lease", "dmvpn-operator")]
    {
        let object = objects.get(kind, name);
        // Even an empty `data` or `spec` would be helm's own, and an upgrade would empty it again.
        for field in ["data", "stringData", "binaryData", "spec"] {
            assert!(object[field].is_null(), "{kind} {name}: {field}");
        }
        // A label of a network would make it one of the Secrets that agents are served.
        assert!(object["metadata"]["labels"]["dmvpn.io/network"].is_null());
    }
}

#[test]
fn further_objects_are_rendered_with_the_release() {
    let objects = render(concat!(
        "extraObjects:\n",
        "- {apiVersion: v1, kind: ConfigMap, metadata: {name: \"{{ .Release.Name }}-one\"}, data: {a: \"{{ .Values.logLevel }}\"}}\n",
        "- |\n",
        "  apiVersion: v1\n",
        "  kind: ConfigMap\n",
        "  metadata: {name: {{ include \"dmvpn.agent\" . }}-two}\n",
    ));
    assert_eq!(objects.get("ConfigMap", "dmvpn-one")["data"], json!({"a": "info"}));
    objects.get("ConfigMap", "dmvpn-agent-two");
}
