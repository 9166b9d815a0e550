//! What the accounts may do, and which standard their pods keep to.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Reply;
use e2e::{Cluster, wait};
use serde_json::{Value, json};

use crate::who::{Who, kubectl_as};
use crate::{NAMESPACE, SOON, rights};

/// The controllers have made the pods, and nothing held them back: no quota of the priority classes, no standard.
pub(crate) fn pods_are_admitted(cluster: &Cluster) -> Result<()> {
    wait::until(SOON, "an agent bound to each node and an operator bound to one", || {
        let mut agents: Vec<String> = cluster.pods_of("agent")?.into_iter().map(|pod| pod.1).collect();
        agents.sort();
        ensure!(agents == ["east-1", "west-1"], "agents: {agents:?}");
        let operators = cluster.pods_of("operator")?;
        ensure!(operators.len() == 1 && !operators[0].1.is_empty(), "operators: {operators:?}");
        Ok(())
    })
}

/// Operator and drain keep to "restricted". The agent needs "privileged", and for three things only.
pub(crate) fn pods_keep_to_their_standard(cluster: &Cluster) -> Result<()> {
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

/// As the API server itself counts rights together, less what every account has.
pub(crate) fn accounts_may_what_is_listed(cluster: &Cluster) -> Result<()> {
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
pub(crate) fn agents_see_no_secrets_and_only_their_own(cluster: &Cluster) -> Result<()> {
    let system = ["-n", NAMESPACE];
    let agent = Who::agent(cluster, "east-1")?;
    let operator = Who::account(cluster, "dmvpn-operator")?;
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
        (&operator, true, &["get", "secrets"]),
        (&operator, false, &["get", "secrets", "-n", "default"]),
        (&operator, true, &["get", "lease", "dmvpn-operator"]),
        (&operator, false, &["get", "leases"]),
        (&operator, true, &["get", "pods"]),
        (&operator, false, &["get", "pods", "-A"]),
    ] {
        let place: &[&str] = if words.contains(&"-n") { &[] } else { &system };
        let reply = kubectl_as(cluster, who, &[words, place].concat(), "")?;
        ensure!((reply.status == 0) == allowed, "{words:?}: {reply:?}");
        ensure!(allowed || reply.stderr.contains("is forbidden: User"), "{words:?}: {reply:?}");
    }
    Ok(())
}
