//! What an agent may write, with the token of its pod and without.

use anyhow::{Result, ensure};
use e2e::{Cluster, wait};
use serde_json::json;

use crate::release::generations;
use crate::who::{Who, endpoint, kubectl_as, status_as};
use crate::{NAMESPACE, SOON};

pub(crate) fn an_agent_writes_the_status_of_its_node_only(cluster: &Cluster) -> Result<()> {
    let refused = |who: &Who, node: &str, why: &str| -> Result<()> {
        let reply = status_as(cluster, who, node)?;
        ensure!(reply.status != 0, "a write for {node} is admitted");
        ensure!(reply.stderr.contains(why) && reply.stderr.contains("dmvpn-agent.dmvpn-system"), "{reply:?}");
        let path = ["get", "dep", &format!("branches-{node}"), "-o", "jsonpath={.status.state}"];
        ensure!(cluster.kubectl(&path)?.is_empty(), "{node} has a state");
        Ok(())
    };
    let foreign = "the agent of node 'east-1' may not write for node 'west-1'";
    refused(&Who::agent(cluster, "east-1")?, "west-1", foreign)?;
    refused(&Who::account(cluster, "dmvpn-agent")?, "east-1", "the agent's token names no node")?;
    refused(&Who::impersonated(), "east-1", "the agent's token names no node")?;
    for node in ["east-1", "west-1"] {
        let reply = status_as(cluster, &Who::agent(cluster, node)?, node)?;
        ensure!(reply.status == 0, "{node}: {reply:?}");
        let path =
            ["get", "dep", &format!("branches-{node}"), "-o", "jsonpath={.status.state} {.status.peers}"];
        let seen = cluster.kubectl(&path)?;
        ensure!(seen == "Up 3", "{node}: {seen}");
    }
    // A token that names the node directly counts as well.
    let bound = Who::bound(cluster, "west-1")?;
    let (own, other) = (status_as(cluster, &bound, "west-1")?, status_as(cluster, &bound, "east-1")?);
    ensure!(own.status == 0, "{own:?}");
    ensure!(other.stderr.contains("the agent of node 'west-1' may not write for node 'east-1'"), "{other:?}");
    // The operator speaks for those who are silent.
    let reply = status_as(cluster, &Who::account(cluster, "dmvpn-operator")?, "east-1")?;
    ensure!(reply.status == 0, "{reply:?}");
    Ok(())
}

/// Writes that RBAC refuses an agent: command line, and input.
fn forbidden() -> Vec<(Vec<&'static str>, String)> {
    let spec = r#"{"spec":{"suspend":true}}"#;
    let moved = r#"{"spec":{"nodeName":"east-1"}}"#;
    let network = include_str!("../../../examples/quickstart/network.yaml");
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

pub(crate) fn the_policy_holds_whatever_rbac_allows(cluster: &Cluster) -> Result<()> {
    cluster.apply(include_str!("../../../examples/quickstart/network.yaml"))?;
    let before = generations(cluster)?;
    let agent = Who::agent(cluster, "east-1")?;
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
    every_other_verb_is_denied(cluster, &agent)?;
    cluster.kubectl(&["delete", "clusterrolebinding", "too-much"])?;
    let after = generations(cluster)?;
    ensure!(before == after, "before: {before}\nafter: {after}");
    Ok(())
}

/// With all rights of RBAC, the token of east-1 changes nothing of west-1's, by whatever verb.
fn every_other_verb_is_denied(cluster: &Cluster, agent: &Who) -> Result<()> {
    const FOREIGN: &str = "branches-west-1";
    let state = r#"{"status":{"state":"Up"}}"#;
    let path = r#"[{"op":"add","path":"/status/state","value":"Up"}]"#;
    let mut whole = cluster.kubectl_json(&["get", "dep", FOREIGN])?;
    whole["status"]["state"] = json!("Up");
    let of_all = "/apis/dmvpn.io/v1alpha1/dmvpnendpoints";
    let one = format!("{of_all}/{FOREIGN}");
    let status = ["patch", "dep", FOREIGN, "--subresource=status"];
    let denied: [(&str, Vec<&str>, String); 6] = [
        ("merge patch", [&status[..], &["--type=merge", "-p", state]].concat(), String::new()),
        ("JSON patch", [&status[..], &["--type=json", "-p", path]].concat(), String::new()),
        ("update", vec!["replace", "--subresource=status", "-f", "-"], whole.to_string()),
        ("update of the spec", vec!["replace", "-f", "-"], whole.to_string()),
        ("delete", vec!["delete", "--raw", &one], String::new()),
        ("deletecollection", vec!["delete", "--raw", of_all], String::new()),
    ];
    for (verb, words, input) in denied {
        let reply = kubectl_as(cluster, agent, &words, &input)?;
        let said = reply.stderr.contains("may not write for node 'west-1'")
            || reply.stderr.contains("may write nothing of dmvpn.io");
        ensure!(reply.status != 0 && said, "{verb}: {reply:?}");
    }
    cluster.kubectl(&["get", "dep", FOREIGN]).map(drop)
}
