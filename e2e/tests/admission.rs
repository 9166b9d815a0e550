//! Ring 2: the chart on a real API server. What an agent may write with the token of its pod and what not, what both
//! accounts may do at all, and what install, upgrade and uninstall leave behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::cluster::Reply;
use e2e::ring2::{Needs, ring2_with};
use e2e::{Cluster, paths, wait};
use serde_json::{Value, json};

#[path = "chart/rights.rs"]
mod rights;

const NAMESPACE: &str = "dmvpn-system";
const ENDPOINT: &str = include_str!("../../compile/tests/specimens/endpoint.yaml");
const SOON: Duration = Duration::from_secs(30);

#[test]
fn the_chart_on_a_real_server() {
    ring2_with(Needs { scheduler: true, deadline: Duration::from_secs(240) }, |cluster| {
        for node in ["east-1", "west-1"] {
            make_node(cluster, node)?;
        }
        run(
            cluster,
            &[
                ("install", install),
                ("pods", pods_are_admitted),
                ("pod security", pods_keep_to_their_standard),
                ("own status", an_agent_writes_the_status_of_its_node_only),
                ("beyond rights", the_policy_holds_whatever_rbac_allows),
                ("rights", accounts_may_what_is_listed),
                ("doors", agents_see_no_secrets_and_only_their_own),
                ("upgrade", an_upgrade_keeps_what_others_wrote),
                ("failed drain", a_drain_that_does_not_end_keeps_everything),
                ("uninstall", an_uninstall_keeps_kinds_and_objects),
                ("again", installed_again),
            ],
        )
    });
}

/// Its name, for messages, and what it does.
type Check = (&'static str, fn(&Cluster) -> Result<()>);

fn run(cluster: &Cluster, checks: &[Check]) -> Result<()> {
    for (name, check) in checks {
        let start = Instant::now();
        check(cluster).with_context(|| (*name).to_owned())?;
        println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// A node as a kubelet would register it: there is none here, but pods can be bound to it.
fn make_node(cluster: &Cluster, name: &str) -> Result<()> {
    let labels = json!({"kubernetes.io/os": "linux", "kubernetes.io/hostname": name});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    cluster.apply(&node.to_string())?;
    let room = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
    let ready = json!([{"type": "Ready", "status": "True", "reason": "Here", "message": ""}]);
    let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": ready}});
    cluster.kubectl(&[
        "patch",
        "node",
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ])?;
    Ok(())
}

fn chart() -> String {
    paths::repository().join("charts/dmvpn").display().to_string()
}

fn install(cluster: &Cluster) -> Result<()> {
    cluster.helm(&["install", "dmvpn", &chart(), "-n", NAMESPACE, "--create-namespace"])?;
    // The test's own objects need the kinds in force.
    let definitions = ["dmvpnnetworks", "dmvpnspokes", "dmvpnendpoints", "dmvpnaddresses"];
    let definitions: Vec<String> = definitions.iter().map(|kind| format!("crd/{kind}.dmvpn.io")).collect();
    let definitions: Vec<&str> = definitions.iter().map(String::as_str).collect();
    let words = ["wait", "--for=condition=Established", "--timeout=30s"];
    cluster.kubectl(&[&words[..], &definitions].concat())?;
    for node in ["east-1", "west-1"] {
        wait::until(SOON, "the kinds to be served", || cluster.apply(&endpoint(node).to_string()))?;
    }
    wait::until(SOON, "the admission policy to be in force", || {
        let said = status_as(cluster, &Who::Impersonated, "east-1")?;
        ensure!(said.stderr.contains("names no node"), "{said:?}");
        Ok(())
    })
}

fn endpoint(node: &str) -> Value {
    let specimens: Vec<Value> = serde_saphyr::from_multiple(ENDPOINT).expect("the specimens");
    let mut endpoint = specimens[0].clone();
    endpoint["metadata"] = json!({"name": format!("branches-{node}")});
    endpoint["spec"]["nodeName"] = json!(node);
    if let Some(endpoint) = endpoint.as_object_mut() {
        endpoint.remove("status");
    }
    endpoint
}

/// The controllers have made the pods, and nothing held them back: no quota of the priority classes, no standard.
fn pods_are_admitted(cluster: &Cluster) -> Result<()> {
    wait::until(SOON, "an agent bound to each node and an operator bound to one", || {
        let mut agents: Vec<String> = pods(cluster, "agent")?.into_iter().map(|pod| pod.1).collect();
        agents.sort();
        ensure!(agents == ["east-1", "west-1"], "agents: {agents:?}");
        let operators = pods(cluster, "operator")?;
        ensure!(operators.len() == 1 && !operators[0].1.is_empty(), "operators: {operators:?}");
        Ok(())
    })
}

/// Names of a component's pods, and their nodes.
fn pods(cluster: &Cluster, component: &str) -> Result<Vec<(String, String)>> {
    let label = format!("app.kubernetes.io/name=dmvpn,app.kubernetes.io/component={component}");
    let list = cluster.kubectl_json(&["get", "pods", "-n", NAMESPACE, "-l", &label])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().context("items")?;
    Ok(items.iter().map(|pod| (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]))).collect())
}

/// Operator and drain keep to "restricted". The agent needs "privileged", and for three things only.
fn pods_keep_to_their_standard(cluster: &Cluster) -> Result<()> {
    let namespace = |name: &str, level: &str| {
        let labels = json!({"pod-security.kubernetes.io/enforce": level});
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    };
    for level in ["restricted", "baseline"] {
        cluster.apply(&namespace(level, level).to_string())?;
        wait::until(SOON, "the namespace's account", || {
            cluster.kubectl(&["get", "serviceaccount", "default", "-n", level])
        })?;
    }
    let admitted = |template: &Value, level: &str| -> Result<Reply> {
        let mut pod = template.clone();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"] = json!({"name": "try", "namespace": level});
        pod["spec"]["serviceAccountName"] = json!("default");
        let words = ["create", "--dry-run=server", "-f", "-"];
        cluster.output("kubectl", &words, &pod.to_string())
    };
    let deployment = cluster.kubectl_json(&["get", "deployment", "dmvpn-operator", "-n", NAMESPACE])?;
    let hooks: Value = serde_saphyr::from_str(&cluster.helm(&["get", "hooks", "dmvpn", "-n", NAMESPACE])?)?;
    for workload in [&deployment, &hooks] {
        let reply = admitted(&workload["spec"]["template"], "restricted")?;
        ensure!(reply.status == 0, "{}: {}", workload["kind"], reply.stderr);
    }
    let agent = cluster.kubectl_json(&["get", "daemonset", "dmvpn-agent", "-n", NAMESPACE])?;
    let reply = admitted(&agent["spec"]["template"], "baseline")?;
    ensure!(reply.status != 0, "the agent passes as baseline");
    let violations = reply.stderr.split("\"baseline:latest\": ").nth(1).context(reply.stderr.clone())?;
    for kind in ["host namespaces (hostNetwork=true)", "NET_ADMIN", "hostPath volumes (volume \"run\")"] {
        ensure!(violations.contains(kind), "{kind} is not in {violations}");
    }
    // One part each, and none of them of another kind.
    ensure!(violations.split("), ").count() == 3, "more than three violations: {violations}");
    Ok(())
}

/// Who writes.
enum Who {
    /// The agent on a node, with the token of its pod.
    Agent(&'static str),
    /// The agent's account, with a token that is of a node, but of no pod.
    Bound(&'static str),
    /// The agent's account, with a token that names no node.
    Unbound,
    /// The agent's account, claimed by an administrator.
    Impersonated,
    /// The operator.
    Operator,
}

impl Who {
    /// Words for kubectl by which the server takes it for this one.
    fn words(&self, cluster: &Cluster) -> Result<Vec<String>> {
        let (label, token) = match self {
            Self::Impersonated => {
                return Ok(vec![format!("--as=system:serviceaccount:{NAMESPACE}:dmvpn-agent")]);
            }
            Self::Agent(node) => (format!("agent-{node}"), pod_token(cluster, node)?),
            Self::Bound(node) => {
                (format!("bound-{node}"), cluster.token("dmvpn-agent", NAMESPACE, "", Some(node))?)
            }
            Self::Unbound => ("agent".to_owned(), cluster.token("dmvpn-agent", NAMESPACE, "", None)?),
            Self::Operator => ("operator".to_owned(), cluster.token("dmvpn-operator", NAMESPACE, "", None)?),
        };
        let file = cluster.kubeconfig_with_token(&label, &token)?;
        Ok(vec![format!("--kubeconfig={}", file.display())])
    }
}

/// The token that the kubelet of `node` would give to the agent there.
fn pod_token(cluster: &Cluster, node: &str) -> Result<String> {
    let pods = pods(cluster, "agent")?;
    let (pod, _) =
        pods.iter().find(|pod| pod.1 == node).with_context(|| format!("no agent on {node}: {pods:?}"))?;
    let uid = cluster.kubectl(&["get", "pod", pod, "-n", NAMESPACE, "-o", "jsonpath={.metadata.uid}"])?;
    let words = ["create", "token", "dmvpn-agent", "-n", NAMESPACE, "--bound-object-kind=Pod"];
    let bound = [format!("--bound-object-name={pod}"), format!("--bound-object-uid={uid}")];
    Ok(cluster.kubectl(&[&words[..], &[&bound[0], &bound[1]]].concat())?.trim().to_owned())
}

/// kubectl as somebody; how it ended.
fn kubectl_as(cluster: &Cluster, who: &Who, words: &[&str], input: &str) -> Result<Reply> {
    let own = who.words(cluster)?;
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    cluster.output("kubectl", &[&own[..], words].concat(), input)
}

/// Applies a status to the endpoint of a node, as agents do.
fn status_as(cluster: &Cluster, who: &Who, node: &str) -> Result<Reply> {
    let mut status = json!({"apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnEndpoint"});
    status["metadata"] = json!({"name": format!("branches-{node}")});
    status["status"] = json!({"state": "Up", "observedGeneration": 1, "peers": 3});
    let words = ["apply", "--server-side", "--force-conflicts", "--validate=false", "--subresource=status"];
    kubectl_as(
        cluster,
        who,
        &[&words[..], &["--field-manager=dmvpn-agent/x", "-f", "-"]].concat(),
        &status.to_string(),
    )
}

fn an_agent_writes_the_status_of_its_node_only(cluster: &Cluster) -> Result<()> {
    let refused = |who: &Who, node: &str, why: &str| -> Result<()> {
        let reply = status_as(cluster, who, node)?;
        ensure!(reply.status != 0, "a write for {node} is admitted");
        ensure!(reply.stderr.contains(why) && reply.stderr.contains("dmvpn-agent.dmvpn-system"), "{reply:?}");
        let path = ["get", "dep", &format!("branches-{node}"), "-o", "jsonpath={.status.state}"];
        ensure!(cluster.kubectl(&path)?.is_empty(), "{node} has a state");
        Ok(())
    };
    let foreign = "the agent of node 'east-1' may not write for node 'west-1'";
    refused(&Who::Agent("east-1"), "west-1", foreign)?;
    refused(&Who::Unbound, "east-1", "the agent's token names no node")?;
    refused(&Who::Impersonated, "east-1", "the agent's token names no node")?;
    for node in ["east-1", "west-1"] {
        let reply = status_as(cluster, &Who::Agent(node), node)?;
        ensure!(reply.status == 0, "{node}: {reply:?}");
        let path =
            ["get", "dep", &format!("branches-{node}"), "-o", "jsonpath={.status.state} {.status.peers}"];
        let seen = cluster.kubectl(&path)?;
        ensure!(seen == "Up 3", "{node}: {seen}");
    }
    // A token that names the node directly counts as well.
    let bound = Who::Bound("west-1");
    let (own, other) = (status_as(cluster, &bound, "west-1")?, status_as(cluster, &bound, "east-1")?);
    ensure!(own.status == 0, "{own:?}");
    ensure!(other.stderr.contains("the agent of node 'west-1' may not write for node 'east-1'"), "{other:?}");
    // The operator speaks for those who are silent.
    let reply = status_as(cluster, &Who::Operator, "east-1")?;
    ensure!(reply.status == 0, "{reply:?}");
    Ok(())
}

/// Writes that RBAC refuses an agent: command line, and input.
fn forbidden() -> Vec<(Vec<&'static str>, String)> {
    let spec = r#"{"spec":{"suspend":true}}"#;
    let moved = r#"{"spec":{"nodeName":"east-1"}}"#;
    let network = include_str!("../../examples/quickstart/network.yaml");
    let own_status = r#"{"status":{"observedGeneration":9}}"#;
    vec![
        (vec!["patch", "dep", "branches-east-1", "--type=merge", "-p", spec], String::new()),
        (vec!["patch", "dep", "branches-west-1", "--type=merge", "-p", moved], String::new()),
        (vec!["delete", "dep", "branches-east-1", "--wait=false"], String::new()),
        (vec!["create", "--validate=false", "-f", "-"], {
            let mut more = endpoint("east-1");
            more["metadata"]["name"] = json!("more");
            more.to_string()
        }),
        (vec!["create", "--validate=false", "-f", "-"], network.to_owned()),
        (
            vec![
                "patch",
                "dmvpnnetwork",
                "branches",
                "--subresource=status",
                "--type=merge",
                "-p",
                own_status,
            ],
            String::new(),
        ),
    ]
}

fn the_policy_holds_whatever_rbac_allows(cluster: &Cluster) -> Result<()> {
    cluster.apply(include_str!("../../examples/quickstart/network.yaml"))?;
    let before = generations(cluster)?;
    let agent = Who::Agent("east-1");
    for (words, input) in forbidden() {
        let reply = kubectl_as(cluster, &agent, &words, &input)?;
        ensure!(reply.status != 0 && reply.stderr.contains("is forbidden: User"), "{words:?}: {reply:?}");
    }
    let account = format!("--serviceaccount={NAMESPACE}:dmvpn-agent");
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "too-much",
        "--clusterrole=cluster-admin",
        &account,
    ])?;
    wait::until(SOON, "the right to be in force", || {
        let reply = kubectl_as(cluster, &agent, &["auth", "can-i", "delete", "dmvpnendpoints"], "")?;
        ensure!(reply.status == 0, "{reply:?}");
        Ok(())
    })?;
    for (words, input) in forbidden() {
        let reply = kubectl_as(cluster, &agent, &words, &input)?;
        let why = "an agent may write nothing of dmvpn.io but the status of DmvpnEndpoints";
        ensure!(reply.status != 0 && reply.stderr.contains(why), "{words:?}: {reply:?}");
    }
    let reply = status_as(cluster, &agent, "west-1")?;
    ensure!(reply.status != 0, "an agent with all rights writes for another node");
    cluster.kubectl(&["delete", "clusterrolebinding", "too-much"])?;
    let after = generations(cluster)?;
    ensure!(before == after, "before: {before}\nafter: {after}");
    Ok(())
}

/// Names and generations of all objects of ours.
fn generations(cluster: &Cluster) -> Result<String> {
    let form =
        r#"jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.generation} {.status}{"\n"}{end}"#;
    cluster.kubectl(&["get", "dmvpnnetworks,dmvpnspokes,dmvpnendpoints", "-o", form])
}

/// As the API server itself counts rights together, less what every account has.
fn accounts_may_what_is_listed(cluster: &Cluster) -> Result<()> {
    let rights_in = |who: &str, namespace: &str| -> Result<BTreeSet<String>> {
        let mut review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview"});
        review["spec"] = json!({"namespace": namespace});
        let token = cluster.token(who, NAMESPACE, "", None)?;
        let file = cluster.kubeconfig_with_token("review", &token)?;
        let config = format!("--kubeconfig={}", file.display());
        let words = [&config, "create", "--validate=false", "-f", "-", "-o", "json"];
        let review: Value =
            serde_json::from_str(&cluster.succeed("kubectl", &words, &review.to_string())?)?;
        let rules = review["status"]["resourceRules"].as_array().context("rules")?;
        Ok(rules.iter().flat_map(rights::spell_out).collect())
    };
    for (account, table) in [("dmvpn-operator", rights::OPERATOR), ("dmvpn-agent", rights::AGENT)] {
        for namespace in [NAMESPACE, "default", "kube-system"] {
            let everyones = rights_in("default", namespace)?;
            let seen = rights_in(account, namespace)?;
            let seen: BTreeSet<&str> = seen.difference(&everyones).map(String::as_str).collect();
            let want = table.iter().filter(|right| right.place == "*" || right.place == namespace);
            let want: BTreeSet<String> =
                want.flat_map(|r| r.verbs.iter().map(|verb| format!("{} {verb}", r.what))).collect();
            let want: BTreeSet<&str> = want.iter().map(String::as_str).collect();
            ensure!(seen == want, "{account} in {namespace}:\n{seen:?}\nwanted\n{want:?}");
        }
    }
    Ok(())
}

/// What programs of ours ask for is answered, what is beside it is not.
fn agents_see_no_secrets_and_only_their_own(cluster: &Cluster) -> Result<()> {
    let system = ["-n", NAMESPACE];
    let agent = Who::Agent("east-1");
    for (who, allowed, words) in [
        (&agent, true, &["get", "dmvpnendpoints", "--field-selector=spec.nodeName=east-1"][..]),
        (&agent, true, &["get", "configmap", "dmvpn-operator-ca"]),
        (&agent, false, &["get", "configmap", "kube-root-ca.crt"]),
        (&agent, true, &["get", "endpointslices", "-l", "kubernetes.io/service-name=dmvpn-operator"]),
        (&agent, true, &["get", "daemonset", "dmvpn-agent"]),
        (&agent, false, &["get", "daemonsets"]),
        (&agent, true, &["get", "namespace", NAMESPACE]),
        (&agent, false, &["get", "namespace", "default"]),
        (&agent, false, &["get", "namespaces"]),
        (&agent, false, &["get", "secrets"]),
        (&agent, false, &["get", "secret", "dmvpn-operator-tls"]),
        (&agent, false, &["get", "nodes"]),
        (&agent, false, &["get", "pods"]),
        (&agent, false, &["get", "dmvpnnetworks"]),
        (&Who::Operator, true, &["get", "secrets"]),
        (&Who::Operator, false, &["get", "secrets", "-n", "default"]),
        (&Who::Operator, true, &["get", "lease", "dmvpn-operator"]),
        (&Who::Operator, false, &["get", "leases"]),
        (&Who::Operator, true, &["get", "pods"]),
        (&Who::Operator, false, &["get", "pods", "-A"]),
    ] {
        let place: &[&str] = if words.contains(&"-n") { &[] } else { &system };
        let reply = kubectl_as(cluster, who, &[words, place].concat(), "")?;
        ensure!((reply.status == 0) == allowed, "{words:?}: {reply:?}");
        ensure!(allowed || reply.stderr.contains("is forbidden: User"), "{words:?}: {reply:?}");
    }
    Ok(())
}

fn an_upgrade_keeps_what_others_wrote(cluster: &Cluster) -> Result<()> {
    // As the operator fills them.
    let data = [
        (
            "secret",
            "dmvpn-operator-tls",
            json!({"data": {"tls.key": "a2V5"}}),
            "jsonpath={.data.tls\\.key}",
            "a2V5",
        ),
        (
            "configmap",
            "dmvpn-operator-ca",
            json!({"data": {"ca.crt": "pem"}}),
            "jsonpath={.data.ca\\.crt}",
            "pem",
        ),
        (
            "lease",
            "dmvpn-operator",
            json!({"spec": {"holderIdentity": "one", "leaseDurationSeconds": 15}}),
            "jsonpath={.spec.holderIdentity}",
            "one",
        ),
    ];
    for (kind, name, change, _, _) in &data {
        let change = change.to_string();
        let words = ["patch", kind, name, "-n", NAMESPACE, "--type=merge", "-p", &change];
        let reply = kubectl_as(cluster, &Who::Operator, &words, "")?;
        ensure!(reply.status == 0, "{kind}: {reply:?}");
    }
    let changed = changed_chart(cluster)?;
    let changed = changed.display().to_string();
    // Helm 4's way of applying, and that of Helm 3.
    for (tag, way) in [("2", "--server-side=true"), ("3", "--server-side=false")] {
        let image = format!("image.agent.tag={tag}");
        cluster.helm(&["upgrade", "dmvpn", &changed, "-n", NAMESPACE, way, "--set-string", &image])?;
        for (kind, name, _, path, want) in &data {
            let seen = cluster.kubectl(&["get", kind, name, "-n", NAMESPACE, "-o", path])?;
            ensure!(seen == *want, "{way}: {kind} {name}: {seen}");
        }
        let image = "jsonpath={.spec.template.spec.containers[0].image}";
        let seen = cluster.kubectl(&["get", "daemonset", "dmvpn-agent", "-n", NAMESPACE, "-o", image])?;
        ensure!(seen == format!("localhost/dmvpn-agent:{tag}"), "{seen}");
        let seen = cluster.kubectl(&["explain", "dmvpnendpoints.spec.network"])?;
        ensure!(seen.contains("Another description"), "{way}: the definition was not upgraded: {seen}");
    }
    ensure!(cluster.kubectl(&["get", "dep", "-o", "name"])?.lines().count() == 2, "endpoints are gone");
    Ok(())
}

/// The chart with a definition that says something else.
fn changed_chart(cluster: &Cluster) -> Result<PathBuf> {
    let target = cluster.dir().join("chart");
    copy(Path::new(&chart()), &target)?;
    let file = target.join("files/crds/dmvpn.io_dmvpnendpoints.yaml");
    let text = fs::read_to_string(&file)?;
    let before = "description: Name of the `DmvpnNetwork`.";
    ensure!(text.contains(before), "no {before:?} in {}", file.display());
    fs::write(&file, text.replace(before, "description: Another description."))?;
    Ok(target)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// No kubelet runs the Job here, as if no agent answered.
fn a_drain_that_does_not_end_keeps_everything(cluster: &Cluster) -> Result<()> {
    let before = release_objects(cluster)?;
    let words = ["uninstall", "dmvpn", "-n", NAMESPACE, "--timeout", "3s"];
    let reply = cluster.output("helm", &words, "")?;
    ensure!(reply.status != 0, "helm uninstalls without the drain: {reply:?}");
    let job = cluster.kubectl_json(&["get", "job", "dmvpn-drain", "-n", NAMESPACE])?;
    ensure!(job["spec"]["template"]["spec"]["serviceAccountName"] == "dmvpn-operator", "{job}");
    wait::until(SOON, "the Job's pod", || {
        let pods = pods(cluster, "drain")?;
        wait::ensure(pods.len() == 1, || format!("{pods:?}"))
    })?;
    let mut after = release_objects(cluster)?;
    after.retain(|name| !name.starts_with("job.batch/"));
    ensure!(before == after, "before: {before:?}\nafter: {after:?}");
    Ok(())
}

const KINDS: &str = "deployments,daemonsets,serviceaccounts,secrets,configmaps,services,leases,roles,rolebindings,\
    clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,jobs,crd";

/// Objects that carry the release's label or name.
fn release_objects(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let all = cluster.kubectl(&["get", KINDS, "-n", NAMESPACE, "-o", "name"])?;
    // Helm's own record of the release aside.
    let ours = all.lines().filter(|name| name.contains("dmvpn") && !name.contains("sh.helm.release"));
    Ok(ours.map(String::from).collect())
}

fn an_uninstall_keeps_kinds_and_objects(cluster: &Cluster) -> Result<()> {
    let before = generations(cluster)?;
    ensure!(before.lines().count() == 3, "{before}");
    cluster.helm(&["uninstall", "dmvpn", "-n", NAMESPACE, "--no-hooks"])?;
    let left = release_objects(cluster)?;
    // The Job of the failed drain is a hook's: the next drain replaces it.
    let left: Vec<&str> =
        left.iter().map(String::as_str).filter(|name| *name != "job.batch/dmvpn-drain").collect();
    let kinds = ["dmvpnaddresses", "dmvpnendpoints", "dmvpnnetworks", "dmvpnspokes"];
    let want = kinds.map(|kind| format!("customresourcedefinition.apiextensions.k8s.io/{kind}.dmvpn.io"));
    ensure!(left == want, "left: {left:?}");
    ensure!(generations(cluster)? == before, "objects changed: {before}");
    Ok(())
}

fn installed_again(cluster: &Cluster) -> Result<()> {
    // Another release must say that it takes the definitions over, or leave them alone.
    let other = ["install", "edge", &chart(), "-n", "edge", "--create-namespace"];
    let reply = cluster.output("helm", &other, "")?;
    ensure!(reply.status != 0 && reply.stderr.contains("invalid ownership metadata"), "{reply:?}");
    cluster.helm(&[&other[..], &["--set", "crds.install=false"]].concat())?;
    cluster.helm(&["uninstall", "edge", "-n", "edge", "--no-hooks"])?;
    // The same release finds its definitions, and puts its own wording back.
    cluster.helm(&["install", "dmvpn", &chart(), "-n", NAMESPACE])?;
    wait::until(SOON, "the definition's own wording", || {
        let seen = cluster.kubectl(&["explain", "dmvpnendpoints.spec.network"])?;
        wait::ensure(seen.contains("Name of the `DmvpnNetwork`"), || seen)
    })?;
    cluster.helm(&["uninstall", "dmvpn", "-n", NAMESPACE, "--no-hooks"])?;
    cluster.helm(&[&other[..], &["--take-ownership"]].concat())?;
    let seen = cluster.kubectl_json(&["get", "crd", "dmvpnendpoints.dmvpn.io"])?;
    let annotations = &seen["metadata"]["annotations"];
    ensure!(annotations["meta.helm.sh/release-name"] == "edge", "{annotations}");
    ensure!(annotations["helm.sh/resource-policy"] == "keep", "{annotations}");
    Ok(())
}
