//! The pods: what they may, what they are told, where they run.

use serde_json::{Value, json};

use crate::helm::render;
use crate::objects::{Objects, Pod, list};

const OPERATOR: &str = "Deployment/dmvpn-operator";
const AGENT: &str = "DaemonSet/dmvpn-agent";
const CHARON: &str = "DaemonSet/dmvpn-charon";
const DRAIN: &str = "Job/dmvpn-drain";

#[test]
fn agent_has_two_capabilities_and_nothing_else() {
    let objects = render("");
    let agent = objects.pod(AGENT);
    assert_eq!(
        agent.container["securityContext"],
        json!({
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
        })
    );
    assert_eq!(agent.spec["securityContext"], json!({"seccompProfile": {"type": "RuntimeDefault"}}));
    assert_eq!(agent.spec["hostNetwork"], true);
    assert!(agent.spec["hostPID"].is_null() && agent.spec["hostIPC"].is_null());
    // One folder of the node, and one token that only the operator takes.
    assert_eq!(
        agent.spec["volumes"],
        json!([
            {"name": "run", "hostPath": {"path": "/run/dmvpn", "type": "DirectoryOrCreate"}},
            {"name": "operator-token", "projected": {"defaultMode": 0o400, "sources": [
                {"serviceAccountToken": {"audience": "dmvpn.io", "expirationSeconds": 3600, "path": "token"}},
            ]}},
        ])
    );
    assert_eq!(
        agent.container["volumeMounts"],
        json!([
            {"name": "run", "mountPath": "/run/dmvpn"},
            {"name": "operator-token", "mountPath": "/var/run/secrets/dmvpn.io", "readOnly": true},
        ])
    );
}

#[test]
fn charon_has_two_capabilities_its_socket_and_no_account_of_use() {
    let objects = render("ipsec: {enabled: true}");
    let charon = objects.pod(CHARON);
    assert_eq!(
        charon.container["securityContext"],
        json!({
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_BIND_SERVICE"]},
        })
    );
    assert_eq!(charon.spec["securityContext"], json!({"seccompProfile": {"type": "RuntimeDefault"}}));
    assert_eq!(charon.spec["automountServiceAccountToken"], false);
    assert_eq!((&charon.spec["hostNetwork"], &charon.spec["hostPID"]), (&json!(true), &Value::Null));
    assert_eq!(
        charon.spec["volumes"],
        json!([
            {"name": "run", "hostPath": {"path": "/run/dmvpn", "type": "DirectoryOrCreate"}},
            {"name": "configuration", "configMap": {"name": "dmvpn-charon"}},
        ])
    );
    // The socket is where the agent looks for it.
    let configuration = &objects.get("ConfigMap", "dmvpn-charon")["data"]["strongswan.conf"];
    assert!(configuration.as_str().unwrap().contains("socket = unix:///run/dmvpn/charon.vici"));
    assert!(objects.pod(AGENT).args().contains(&"--vici=/run/dmvpn/charon.vici"));
    // Neither an upgrade of the chart nor of the image takes SAs away.
    let strategy = &objects.get("DaemonSet", "dmvpn-charon")["spec"]["updateStrategy"];
    assert_eq!(*strategy, json!({"type": "OnDelete"}));
    let given = render(
        "{ipsec: {enabled: true, resources: {limits: {memory: 1Gi}, requests: null}}, image: {charon: {repository: a/b, tag: v9}}}",
    );
    let container = given.pod(CHARON).container;
    assert_eq!(
        (&container["image"], &container["resources"]),
        (&json!("a/b:v9"), &json!({"limits": {"memory": "1Gi"}}))
    );
    // It runs where agents do.
    let given = render(
        "{ipsec: {enabled: true}, agent: {nodeSelector: {a: b}, tolerations: [{key: k}], seLinuxOptions: {type: spc_t}}}",
    );
    let (agent, charon) = (given.pod(AGENT), given.pod(CHARON));
    for field in ["nodeSelector", "tolerations", "priorityClassName", "securityContext"] {
        assert_eq!(agent.spec[field], charon.spec[field], "{field}");
    }
}

#[test]
fn agent_keeps_its_node_through_upgrades() {
    let objects = render("");
    let agent = objects.pod(AGENT);
    assert_eq!(agent.spec["terminationGracePeriodSeconds"], 30);
    assert_eq!(agent.spec["priorityClassName"], "system-node-critical");
    assert_eq!(agent.spec["tolerations"], json!([{"operator": "Exists"}]));
    for probe in ["startupProbe", "readinessProbe"] {
        assert_eq!(agent.container[probe]["exec"], json!({"command": ["dmvpn-agent", "ready"]}), "{probe}");
    }
    // Whether tunnels are up is no reason to kill an agent.
    assert!(agent.container["livenessProbe"].is_null());
    for (values, want) in [
        ("", json!(1)),
        ("agent: {maxUnavailable: 5}", json!(5)),
        ("agent: {maxUnavailable: 10%}", json!("10%")),
    ] {
        let strategy = &render(values).get("DaemonSet", "dmvpn-agent")["spec"]["updateStrategy"].clone();
        let want = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": want}});
        assert_eq!(strategy, &want, "{values}");
    }
}

/// The profile "restricted" of the pod security standards, field by field.
#[test]
fn pods_of_the_operator_are_restricted() {
    let objects = render("");
    for owner in [OPERATOR, DRAIN] {
        let Pod { spec, container, .. } = objects.pod(owner);
        assert_eq!(
            spec["securityContext"],
            json!({
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            }),
            "{owner}"
        );
        assert_eq!(
            container["securityContext"],
            json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            }),
            "{owner}"
        );
        for field in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
            assert!(spec[field].is_null(), "{owner}: {field}");
        }
        assert!(list(&container["ports"]).iter().all(|port| port["hostPort"].is_null()), "{owner}");
    }
}

#[test]
fn operator_is_asked_for_its_health() {
    let objects = render("");
    let operator = objects.pod(OPERATOR);
    let want = json!([
        {"name": "secrets", "containerPort": 8443, "protocol": "TCP"},
        {"name": "health", "containerPort": 8081, "protocol": "TCP"},
    ]);
    assert_eq!(operator.container["ports"], want);
    for (probe, path) in
        [("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")]
    {
        assert_eq!(operator.container[probe]["httpGet"], json!({"path": path, "port": "health"}), "{probe}");
    }
}

#[test]
fn programs_are_told_the_names_of_the_release() {
    let objects = render("");
    assert_eq!(objects.pod(AGENT).container["command"], json!(["dmvpn-agent"]));
    assert_eq!(
        objects.pod(AGENT).args(),
        [
            "--kubernetes",
            "--operator-service=dmvpn-operator",
            "--ca-config-map=dmvpn-operator-ca",
            "--token-file=/var/run/secrets/dmvpn.io/token",
            "--daemon-set=dmvpn-agent",
            "--socket=/run/dmvpn/agent.sock",
            "--state-dir=/run/dmvpn",
            "--vici=/run/dmvpn/charon.vici",
        ]
    );
    assert_eq!(objects.pod(OPERATOR).container["command"], json!(["dmvpn-operator"]));
    let selector = "--agent-selector=app.kubernetes.io/name=dmvpn,app.kubernetes.io/instance=dmvpn,\
                    app.kubernetes.io/component=agent";
    assert_eq!(
        objects.pod(OPERATOR).args(),
        [
            "--lease=dmvpn-operator",
            "--tls-secret=dmvpn-operator-tls",
            "--ca-config-map=dmvpn-operator-ca",
            "--service=dmvpn-operator",
            "--secrets-listen=[::]:8443",
            "--health-listen=[::]:8081",
            "--agent-service-account=dmvpn-agent",
            selector,
        ]
    );
    assert_eq!(objects.pod(DRAIN).container["command"], json!(["dmvpn-operator"]));
    assert_eq!(objects.pod(DRAIN).args(), ["drain", "--timeout-seconds=120", "--lease=dmvpn-operator"]);
    for (owner, variable, field) in [
        (AGENT, "NODE_NAME", "spec.nodeName"),
        (AGENT, "POD_NAMESPACE", "metadata.namespace"),
        (OPERATOR, "POD_NAME", "metadata.name"),
        (OPERATOR, "POD_NAMESPACE", "metadata.namespace"),
        (DRAIN, "POD_NAME", "metadata.name"),
        (DRAIN, "POD_NAMESPACE", "metadata.namespace"),
    ] {
        let want = json!({"name": variable, "valueFrom": {"fieldRef": {"fieldPath": field}}});
        assert!(list(&objects.pod(owner).container["env"]).contains(&want), "{owner}: {variable}");
    }
}

/// What the operator takes for agents are the agents, and not the pods of another release.
#[test]
fn the_operator_looks_for_the_pods_that_the_daemon_set_makes() {
    for release in ["dmvpn", "edge"] {
        let objects = crate::helm::render_as(release, "net", "ipsec: {enabled: true}");
        let pods = objects.pods();
        let operator = pods.iter().find(|pod| pod.owner.starts_with("Deployment/")).unwrap();
        let args = operator.args();
        let selector = args.iter().find_map(|arg| arg.strip_prefix("--agent-selector=")).unwrap();
        let matches = |pod: &Pod<'_>| {
            let mut pairs = selector.split(',').map(|pair| pair.split_once('=').unwrap());
            pairs.all(|(key, value)| pod.labels[key] == value)
        };
        let found: Vec<_> = pods.iter().filter(|pod| matches(pod)).map(|pod| &pod.owner).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("DaemonSet/"), "{found:?}");
    }
}

#[test]
fn images_by_tag_or_by_digest() {
    let digest = format!("sha256:{}", "5d".repeat(32));
    let agent = |part: &str| format!("image: {{agent: {{{part}}}}}");
    for (values, want) in [
        (String::new(), "localhost/dmvpn-agent:0.1.0".to_owned()),
        (agent("tag: v9"), "localhost/dmvpn-agent:v9".to_owned()),
        (agent("repository: lab.local/dmvpn-agent, tag: \"2\""), "lab.local/dmvpn-agent:2".to_owned()),
        (agent(&format!("digest: \"{digest}\"")), format!("localhost/dmvpn-agent@{digest}")),
        (
            agent(&format!("repository: r.example:5000/a/b, tag: v9, digest: \"{digest}\"")),
            format!("r.example:5000/a/b@{digest}"),
        ),
    ] {
        let objects = render(&values);
        assert_eq!(objects.pod(AGENT).container["image"], want, "{values}");
        assert_eq!(objects.pod(OPERATOR).container["image"], "localhost/dmvpn-operator:0.1.0", "{values}");
    }
    let objects = render("image: {operator: {tag: v7, pullPolicy: Never}, agent: {pullPolicy: Always}}");
    for (owner, image, policy) in [
        (OPERATOR, "localhost/dmvpn-operator:v7", "Never"),
        (DRAIN, "localhost/dmvpn-operator:v7", "Never"),
        (AGENT, "localhost/dmvpn-agent:0.1.0", "Always"),
    ] {
        assert_eq!(objects.pod(owner).container["image"], image, "{owner}");
        assert_eq!(objects.pod(owner).container["imagePullPolicy"], policy, "{owner}");
    }
}

/// A value and where it is found: pods, and the path in their container (`env NAME` for a variable) or spec.
#[test]
fn values_reach_the_pods_that_they_are_for() {
    let (all, of_operator) = ([OPERATOR, AGENT, DRAIN], [OPERATOR, DRAIN]);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "edge", "operator": "Exists"}]}]}}});
    let table: &[(&str, &str, Value, &[&str])] = &[
        (
            "apiServer: {host: api.example, port: 443}",
            "env KUBERNETES_SERVICE_HOST",
            json!("api.example"),
            &all,
        ),
        ("apiServer: {host: api.example, port: 443}", "env KUBERNETES_SERVICE_PORT", json!("443"), &all),
        ("apiServer: {host: \"fd00::1\"}", "env KUBERNETES_SERVICE_HOST", json!("fd00::1"), &all),
        ("apiServer: {host: 172.31.1.1}", "env KUBERNETES_SERVICE_PORT", json!("6443"), &all),
        ("apiServer: {port: 443}", "env KUBERNETES_SERVICE_PORT", Value::Null, &all),
        ("logLevel: \"info,kube=debug\"", "env RUST_LOG", json!("info,kube=debug"), &all),
        ("imagePullSecrets: [{name: registry}]", "imagePullSecrets", json!([{"name": "registry"}]), &all),
        ("operator: {priorityClassName: p}", "priorityClassName", json!("p"), &of_operator),
        ("operator: {priorityClassName: \"\"}", "priorityClassName", Value::Null, &of_operator),
        ("agent: {priorityClassName: \"\"}", "priorityClassName", Value::Null, &[AGENT]),
        (
            "operator: {nodeSelector: {a: b}}",
            "nodeSelector",
            json!({"kubernetes.io/os": "linux", "a": "b"}),
            &of_operator,
        ),
        (
            "agent: {nodeSelector: {a: \"1\"}}",
            "nodeSelector",
            json!({"kubernetes.io/os": "linux", "a": "1"}),
            &[AGENT],
        ),
        ("operator: {tolerations: [{key: k}]}", "tolerations", json!([{"key": "k"}]), &of_operator),
        ("agent: {tolerations: []}", "tolerations", Value::Null, &[AGENT]),
        (
            "agent: {seLinuxOptions: {type: spc_t}}",
            "securityContext/seLinuxOptions",
            json!({"type": "spc_t"}),
            &[AGENT],
        ),
        (&format!("operator: {{affinity: {affinity}}}"), "affinity", affinity.clone(), &of_operator),
        (&format!("agent: {{affinity: {affinity}}}"), "affinity", affinity.clone(), &[AGENT]),
        (
            "agent: {resources: {limits: {memory: 1Gi}, requests: null}}",
            "container/resources",
            json!({"limits": {"memory": "1Gi"}}),
            &[AGENT],
        ),
        (
            "operator: {resources: {limits: null, requests: {cpu: 1}}}",
            "container/resources",
            json!({"requests": {"cpu": 1, "memory": "64Mi"}}),
            &of_operator,
        ),
    ];
    let defaults = render("");
    for (values, place, want, owners) in table {
        let objects = render(values);
        for owner in all {
            let seen = seen(&objects, owner, place);
            if owners.contains(&owner) {
                assert_eq!(&seen, want, "{values}: {place} of {owner}");
            } else {
                assert_eq!(seen, self::seen(&defaults, owner, place), "{values} has no business in {owner}");
            }
        }
    }
}

fn seen(objects: &Objects, owner: &str, place: &str) -> Value {
    let pod = objects.pod(owner);
    if let Some(variable) = place.strip_prefix("env ") {
        return pod.env(variable).map_or(Value::Null, Value::from);
    }
    let (root, path) = match place.strip_prefix("container/") {
        Some(path) => (pod.container, path),
        None => (pod.spec, place),
    };
    root.pointer(&format!("/{path}")).cloned().unwrap_or_default()
}

#[test]
fn logs_as_json_when_asked() {
    for (values, want) in [("", false), ("logFormat: text", false), ("logFormat: json", true)] {
        let objects = render(values);
        for pod in objects.pods() {
            assert_eq!(pod.args().contains(&"--log-json"), want, "{values}: {}", pod.owner);
        }
    }
}

#[test]
fn labels_and_annotations_of_pods_are_added_to_ours() {
    for (part, owner) in [("operator", OPERATOR), ("agent", AGENT)] {
        let values = format!("{part}: {{podLabels: {{team: net}}, podAnnotations: {{a.example/b: c}}}}");
        let (objects, defaults) = (render(&values), render(""));
        for pod in objects.pods() {
            let before = defaults.pod(&pod.owner);
            let mut labels = before.labels.clone();
            let mut annotations = before.annotations.clone();
            if pod.owner == owner {
                labels["team"] = json!("net");
                annotations["a.example/b"] = json!("c");
            }
            assert_eq!((pod.labels, pod.annotations), (&labels, &annotations), "{values}: {}", pod.owner);
        }
    }
}
