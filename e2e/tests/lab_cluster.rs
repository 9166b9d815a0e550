//! The lab's control plane: it stops and starts, its tokens name nodes, its audit log names who wrote; and a ring-2
//! test fails when its body does, leaving evidence and nothing else.

use std::process::Command;

use anyhow::{bail, ensure};
use e2e::{paths, ring2};
use serde_json::json;

#[test]
fn a_control_plane_does_what_tests_ask_of_it() {
    ring2(|cluster| {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"}});
        cluster.apply(&node.to_string())?;

        // A token as a pod on that node has it.
        let token = cluster.token("default", "default", "", Some("one"))?;
        let kubeconfig = cluster.kubeconfig_with_token("bound", &token)?;
        let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
        let who = cluster.kubectl_json(&[&kubeconfig, "auth", "whoami"])?;
        let user = &who["status"]["userInfo"];
        ensure!(user["username"] == "system:serviceaccount:default:default", "{user}");
        ensure!(user["extra"]["authentication.kubernetes.io/node-name"] == json!(["one"]), "{user}");
        let reply = cluster.output("kubectl", &[&kubeconfig, "delete", "node", "one"], "")?;
        ensure!(reply.status != 0 && reply.stderr.contains("Forbidden"), "{reply:?}");

        let writes = cluster.writes()?;
        let of_node = |verb: &str| {
            let all = writes.iter().filter(|w| w.verb == verb && w.resource == "nodes");
            all.map(|w| (w.user.as_str(), w.code)).collect::<Vec<_>>()
        };
        ensure!(of_node("create") == [("admin", 201)], "{:?}", of_node("create"));
        let refused = [("system:serviceaccount:default:default", 403)];
        ensure!(of_node("delete") == refused, "{:?}", of_node("delete"));
        ensure!(writes.iter().any(|w| w.resource == "serviceaccounts/token" && w.user == "admin"));

        let before = cluster.kubectl(&["get", "node", "one", "-o", "jsonpath={.metadata.uid}"])?;
        cluster.stop_api_server()?;
        let reply = cluster.output("kubectl", &["get", "nodes"], "")?;
        ensure!(reply.status != 0 && reply.stderr.contains("refused"), "{reply:?}");
        cluster.start_api_server()?;
        let after = cluster.kubectl(&["get", "node", "one", "-o", "jsonpath={.metadata.uid}"])?;
        ensure!(before == after, "another node after the restart");
        ensure!(cluster.helm(&["list", "-A"])?.starts_with("NAME"), "helm does not reach the server");
        Ok(())
    });
}

#[test]
#[ignore = "fails on purpose: a_failing_body_fails_the_test runs it"]
fn planted_error() {
    ring2(|cluster| {
        cluster.kubectl(&["create", "configmap", "witness"])?;
        bail!("planted error")
    });
}

#[test]
fn a_failing_body_fails_the_test() {
    let results = paths::results().unwrap().join("lab_cluster/planted_error");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "planted_error", "--include-ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it passed: {text}");
    assert!(text.contains("planted error") && text.contains(&results.display().to_string()), "{text}");
    let why = std::fs::read_to_string(results.join("evidence/why.txt")).unwrap();
    assert_eq!(why, "planted error\n");
    for log in ["etcd", "kube-apiserver", "kube-controller-manager"] {
        assert!(results.join(format!("cluster/{log}.log")).is_file(), "no log of {log}");
    }
    let audit = std::fs::read_to_string(results.join("cluster/audit.log")).unwrap();
    assert!(audit.contains("witness"), "the body did not run to its error");
    // What was started in there has ended with it: every one of its words names the folder.
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        assert!(!words.contains(&*results.to_string_lossy()), "left: {words}");
    }
}
