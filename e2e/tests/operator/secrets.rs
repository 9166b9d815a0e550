//! Secrets: what is said of them, and who gets them.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::cluster::product::NAMESPACE;
use e2e::wait;
use serde_json::{Value, json};

use crate::SOON;
use crate::addresses::network;
use crate::bench::{Bench, Seen};

const NETWORK: &str = "DmvpnNetwork/net";

fn secret(password: &str, labels: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"password": password},
        "metadata": {"name": "pw", "namespace": NAMESPACE, "labels": labels}})
    .to_string()
}

fn revision(seen: &Seen) -> Result<Option<String>> {
    let text = |name: &str| -> Result<_> {
        let annotation = &seen.present(name)?["metadata"]["annotations"]["dmvpn.io/credentials-revision"];
        Ok(annotation.as_str().map(String::from))
    };
    let revision = text("net-hub")?;
    ensure!(revision == text("net-branch-b")?, "two revisions");
    Ok(revision)
}

pub(crate) fn conditions_and_revision_follow_the_secrets(bench: &Bench<'_>) -> Result<()> {
    let mut network = network();
    network["spec"]["nhrp"] = json!({"authenticationSecretRefs": [{"name": "pw"}]});
    bench.cluster.apply(&network.to_string())?;
    let spoke = json!({"apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnSpoke", "metadata": {"name": "one"}, "spec": {
        "networkRef": {"name": "net"}, "placement": {"type": "Node", "nodeName": "branch-b"},
    }});
    bench.cluster.apply(&spoke.to_string())?;
    let told = bench.told(NETWORK, "CredentialsReady", "False SecretMissing")?;
    ensure!(told.contains("dmvpn-system/pw") && told.contains("dmvpn.io/network: net"), "{told}");
    bench.eventually("endpoints without revision", |seen| {
        let revision = revision(seen)?;
        wait::ensure(revision.is_none(), || format!("{revision:?}"))
    })?;
    bench.cluster.apply(&secret("first", &json!({"dmvpn.io/network": "other"})))?;
    bench.told(NETWORK, "CredentialsReady", "False SecretNotLabelled")?;
    bench.cluster.apply(&secret("first", &json!({"dmvpn.io/network": "net"})))?;
    bench.told(NETWORK, "CredentialsReady", "True SecretsFound")?;
    let old = bench.eventually("a revision", |seen| revision(seen)?.context("none"))?;
    bench.cluster.apply(&secret("s3cret", &json!({"dmvpn.io/network": "net"})))?;
    bench.eventually("another revision", |seen| {
        let revision = revision(seen)?.context("none")?;
        wait::ensure(revision != old, || revision.clone())
    })
}

pub(crate) fn are_handed_to_agents_only(bench: &Bench<'_>) -> Result<()> {
    let cluster = bench.cluster;
    cluster.register_node("idle", &[])?;
    let read = ["get", "configmap", "dmvpn-operator-ca", "-n", NAMESPACE, "-o", "jsonpath={.data.ca\\.crt}"];
    let ca = cluster.dir().join("operator-ca.crt");
    fs::write(&ca, cluster.kubectl(&read)?)?;
    let ca = ca.display().to_string();
    // Status and body of an answer.
    let ask = |port: u16, token: &str| -> Result<(String, String)> {
        let to = format!("dmvpn-operator.dmvpn-system.svc:8443:127.0.0.1:{port}");
        let authorization = format!("Authorization: Bearer {token}");
        let url = "https://dmvpn-operator.dmvpn-system.svc:8443/v1/secrets";
        let mut words = vec!["-sS", "--cacert", &ca, "--connect-to", &to, "-w", "\n%{http_code}", url];
        if !token.is_empty() {
            words.extend(["-H", &authorization]);
        }
        let answer = cluster.succeed("curl", &words, "")?;
        let (body, code) = answer.rsplit_once('\n').context("a status")?;
        Ok((code.to_owned(), body.to_owned()))
    };
    let token =
        |account: &str, audience: &str, node: Option<&str>| cluster.token(account, NAMESPACE, audience, node);
    let agent = token("dmvpn-agent", "dmvpn.io", Some("branch-b"))?;
    let revision = revision(&bench.see()?)?.context("a revision")?;
    // Every replica serves, the follower as well.
    for port in [8443, 8444] {
        wait::until(SOON, "a replica that serves", || ask(port, "").map(drop))?;
        let (code, body) = ask(port, &agent)?;
        ensure!(code == "200", "{code} {body}");
        let body: Value = serde_json::from_str(&body)?;
        let want = json!({"networks": {"net": {"revision": revision, "nhrpPasswords": ["czNjcmV0"]}}});
        ensure!(body == want, "{body} instead of {want}");
    }
    let (code, body) = ask(8443, &token("dmvpn-agent", "dmvpn.io", Some("idle"))?)?;
    ensure!(
        code == "200" && !body.contains("czNjcmV0"),
        "no endpoint, and Secrets all the same: {code} {body}"
    );
    for (want, what, token) in [
        ("401", "no token", String::new()),
        ("401", "nonsense", "nonsense".into()),
        ("401", "of the API server", token("dmvpn-agent", "", Some("branch-b"))?),
        ("401", "of another audience", token("dmvpn-agent", "vault", Some("branch-b"))?),
        ("403", "of no node", token("dmvpn-agent", "dmvpn.io", None)?),
        ("403", "of another account", token("dmvpn-operator", "dmvpn.io", Some("branch-b"))?),
        ("403", "of the default account", token("default", "dmvpn.io", Some("branch-b"))?),
    ] {
        for port in [8443, 8444] {
            let (code, body) = ask(port, &token)?;
            ensure!(code == want, "{what}: {code} instead of {want}: {body}");
            ensure!(!body.contains("czNjcmV0") && !body.contains("s3cret"), "{what}: {body}");
        }
    }
    Ok(())
}
