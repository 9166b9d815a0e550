//! What install, upgrade and uninstall leave behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use e2e::{Cluster, paths, wait};
use serde_json::json;

use crate::who::{Who, endpoint, kubectl_as, status_as};
use crate::{NAMESPACE, SOON};

pub(crate) fn chart() -> String {
    paths::repository().join("charts/dmvpn").display().to_string()
}

pub(crate) fn install(cluster: &Cluster) -> Result<()> {
    cluster.install_chart(&[])?;
    for node in ["east-1", "west-1"] {
        wait::until(SOON, "the kinds to be served", || cluster.apply(&endpoint(node).to_string()))?;
    }
    wait::until(SOON, "the admission policy to be in force", || {
        let said = status_as(cluster, &Who::impersonated(), "east-1")?;
        ensure!(said.stderr.contains("names no node"), "{said:?}");
        Ok(())
    })
}

/// Names and generations of all objects of ours.
pub(crate) fn generations(cluster: &Cluster) -> Result<String> {
    let form =
        r#"jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.generation} {.status}{"\n"}{end}"#;
    cluster.kubectl(&["get", "dmvpnnetworks,dmvpnspokes,dmvpnendpoints", "-o", form])
}

pub(crate) fn an_upgrade_keeps_what_others_wrote(cluster: &Cluster) -> Result<()> {
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
    let operator = Who::account(cluster, "dmvpn-operator")?;
    for (kind, name, change, _, _) in &data {
        let change = change.to_string();
        let words = ["patch", kind, name, "-n", NAMESPACE, "--type=merge", "-p", &change];
        let reply = kubectl_as(cluster, &operator, &words, "")?;
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
        // What is explained follows the definition a moment later.
        wait::until(SOON, &format!("{way}: the definition to be upgraded"), || {
            let seen = cluster.kubectl(&["explain", "dmvpnendpoints.spec.network"])?;
            wait::ensure(seen.contains("Another description"), || seen)
        })?;
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
pub(crate) fn a_drain_that_does_not_end_keeps_everything(cluster: &Cluster) -> Result<()> {
    let before = release_objects(cluster)?;
    let words = ["uninstall", "dmvpn", "-n", NAMESPACE, "--timeout", "3s"];
    let reply = cluster.output("helm", &words, "")?;
    ensure!(reply.status != 0, "helm uninstalls without the drain: {reply:?}");
    let job = cluster.kubectl_json(&["get", "job", "dmvpn-drain", "-n", NAMESPACE])?;
    ensure!(job["spec"]["template"]["spec"]["serviceAccountName"] == "dmvpn-operator", "{job}");
    wait::until(SOON, "the Job's pod", || {
        let pods = cluster.pods_of("drain")?;
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

pub(crate) fn an_uninstall_keeps_kinds_and_objects(cluster: &Cluster) -> Result<()> {
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

pub(crate) fn installed_again(cluster: &Cluster) -> Result<()> {
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
