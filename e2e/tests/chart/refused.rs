//! Values that are refused before anything is installed, with the key that is wrong.

use crate::helm::{NAMESPACE, RELEASE, chart, helm, refusal};

/// Values, the key as helm names it, and what is wrong with it.
const REFUSED: &[(&str, &str, &str)] = &[
    // What there is not.
    ("replicas: 2", "''", "'replicas' not allowed"),
    ("operator: {replica: 2}", "/operator", "'replica' not allowed"),
    ("operator: {hostNetwork: true}", "/operator", "'hostNetwork' not allowed"),
    ("agent: {securityContext: {privileged: true}}", "/agent", "'securityContext' not allowed"),
    ("image: {agent: {name: x}}", "/image/agent", "'name' not allowed"),
    ("image: {proxy: {tag: x}}", "/image", "'proxy' not allowed"),
    ("crds: {keep: false}", "/crds", "'keep' not allowed"),
    ("drain: {timeout: 5}", "/drain", "'timeout' not allowed"),
    ("networkPolicy: {ports: [1]}", "/networkPolicy", "'ports' not allowed"),
    ("apiServer: {url: x}", "/apiServer", "'url' not allowed"),
    ("agent: {affinity: {nodAffinity: {}}}", "/agent/affinity", "'nodAffinity' not allowed"),
    ("agent: {resources: {limit: {}}}", "/agent/resources", "'limit' not allowed"),
    ("agent: {seLinuxOptions: {kind: x}}", "/agent/seLinuxOptions", "'kind' not allowed"),
    ("agent: {tolerations: [{kez: x}]}", "/agent/tolerations/0", "'kez' not allowed"),
    ("imagePullSecrets: [{name: a, key: b}]", "/imagePullSecrets/0", "'key' not allowed"),
    ("metrics: {port: 1}", "/metrics", "'port' not allowed"),
    ("metrics: {podMonitor: {path: x}}", "/metrics/podMonitor", "'path' not allowed"),
    // What goes together.
    ("metrics: {podMonitor: {enabled: true}}", "/metrics/enabled", "must be true"),
    ("metrics: {rules: {enabled: true}}", "/metrics/enabled", "must be true"),
    // Kinds of values.
    ("operator: {replicas: two}", "/operator/replicas", "want integer"),
    ("operator: {replicas: 1.5}", "/operator/replicas", "want integer"),
    ("crds: {install: \"yes\"}", "/crds/install", "want boolean"),
    ("drain: {enabled: 1}", "/drain/enabled", "want boolean"),
    ("networkPolicy: {enabled: \"true\"}", "/networkPolicy/enabled", "want boolean"),
    ("image: {operator: {tag: 1}}", "/image/operator/tag", "want string"),
    ("logLevel: 3", "/logLevel", "want string"),
    ("imagePullSecrets: registry", "/imagePullSecrets", "want array"),
    ("imagePullSecrets: [registry]", "/imagePullSecrets/0", "want object"),
    ("imagePullSecrets: [{}]", "/imagePullSecrets/0", "missing property 'name'"),
    ("agent: {nodeSelector: {a: true}}", "/agent/nodeSelector/a", "want string"),
    ("operator: {podAnnotations: {a: 1}}", "/operator/podAnnotations/a", "want string"),
    ("agent: {tolerations: {operator: Exists}}", "/agent/tolerations", "want array"),
    ("extraObjects: {}", "/extraObjects", "want array"),
    ("extraObjects: [1]", "/extraObjects/0", "got number"),
    ("operator: 1", "/operator", "want object"),
    ("ipsec: {enabled: \"true\"}", "/ipsec/enabled", "want boolean"),
    ("ipsec: {charon: true}", "/ipsec", "'charon' not allowed"),
    // Bounds.
    ("operator: {replicas: 0}", "/operator/replicas", "minimum: got 0, want 1"),
    ("operator: {replicas: 6}", "/operator/replicas", "maximum: got 6, want 5"),
    ("apiServer: {port: 0}", "/apiServer/port", "minimum: got 0, want 1"),
    ("apiServer: {port: 65536}", "/apiServer/port", "want 65,535"),
    ("drain: {timeoutSeconds: 4}", "/drain/timeoutSeconds", "minimum: got 4, want 5"),
    ("drain: {timeoutSeconds: 3601}", "/drain/timeoutSeconds", "want 3,600"),
    ("agent: {maxUnavailable: 0}", "/agent/maxUnavailable", "minimum: got 0, want 1"),
    ("agent: {maxUnavailable: 0%}", "/agent/maxUnavailable", "'0%'"),
    ("agent: {maxUnavailable: 101%}", "/agent/maxUnavailable", "'101%'"),
    ("agent: {maxUnavailable: all}", "/agent/maxUnavailable", "'all'"),
    ("fullnameOverride: \"-x\"", "/fullnameOverride", "'-x'"),
    ("fullnameOverride: a.b", "/fullnameOverride", "'a.b'"),
    (
        "fullnameOverride: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "/fullnameOverride",
        "maxLength",
    ),
    // Lists of choices.
    ("logFormat: xml", "/logFormat", "'text', 'json'"),
    ("image: {agent: {pullPolicy: never}}", "/image/agent/pullPolicy", "'Always', 'IfNotPresent', 'Never'"),
    ("operator: {listenAddress: 127.0.0.1}", "/operator/listenAddress", "'[::]', '0.0.0.0'"),
    ("agent: {tolerations: [{effect: Never}]}", "/agent/tolerations/0/effect", "'NoSchedule'"),
    ("operator: {tolerations: [{operator: Has}]}", "/operator/tolerations/0/operator", "'Exists'"),
    // Forms.
    ("logLevel: loud", "/logLevel", "'loud'"),
    ("metrics: {podMonitor: {interval: soon}}", "/metrics/podMonitor/interval", "'soon'"),
    ("logLevel: \"info,kube\"", "/logLevel", "'info,kube'"),
    ("image: {operator: {repository: \"\"}}", "/image/operator/repository", "pattern"),
    ("image: {operator: {repository: \"a/b:1\"}}", "/image/operator/repository", "'a/b:1'"),
    ("image: {agent: {repository: \"https://a/b\"}}", "/image/agent/repository", "'https://a/b'"),
    ("image: {agent: {tag: \"a b\"}}", "/image/agent/tag", "'a b'"),
    ("image: {agent: {digest: abc}}", "/image/agent/digest", "'abc'"),
    ("apiServer: {host: \"https://a\"}", "/apiServer/host", "'https://a'"),
    ("apiServer: {host: \"a:6443\"}", "/apiServer/host", "'a:6443'"),
    ("apiServer: {host: \"[fd00::1]\"}", "/apiServer/host", "'[fd00::1]'"),
    ("networkPolicy: {agentCIDRs: [10.0.0.1]}", "/networkPolicy/agentCIDRs/0", "'10.0.0.1'"),
    ("networkPolicy: {apiServerCIDRs: [api]}", "/networkPolicy/apiServerCIDRs/0", "'api'"),
    ("networkPolicy: {agentCIDRs: [10.0.0.0/8, 10.0.0.0/8]}", "/networkPolicy/agentCIDRs", "equal"),
    ("agent: {priorityClassName: A_b}", "/agent/priorityClassName", "'A_b'"),
    ("operator: {topologySpreadConstraints: [{}]}", "/operator/topologySpreadConstraints/0", "'maxSkew'"),
    // Labels by which the parts find each other.
    ("agent: {podLabels: {app.kubernetes.io/name: x}}", "/agent/podLabels/app.kubernetes.io~1name", "false"),
    ("operator: {podLabels: {helm.sh/chart: x}}", "/operator/podLabels/helm.sh~1chart", "false"),
];

#[test]
fn what_is_wrong_is_refused_by_the_name_of_its_key() {
    let mut wrong = Vec::new();
    for (values, key, what) in REFUSED {
        let said = refusal(values);
        let key = if key.starts_with('/') { format!("at '{key}'") } else { format!("at {key}") };
        if !said.lines().any(|line| line.contains(&key) && line.contains(what)) {
            wrong.push(format!("{values}: wanted {key} and {what}, but helm says:\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_older_kubernetes_is_refused_and_a_vendors_is_not() {
    let chart = chart().display().to_string();
    let with = |version: &str| {
        helm(&["template", RELEASE, &chart, "--namespace", NAMESPACE, "--kube-version", version], "")
    };
    let said = with("1.32.9").expect_err("too old");
    assert!(said.contains("chart requires kubeVersion: >=1.33"), "{said}");
    for version in ["1.33.0", "1.33.1-eks-1a2b3c", "v1.34.0-gke.100", "1.37.2"] {
        with(version).unwrap_or_else(|error| panic!("{version}: {error}"));
    }
}
