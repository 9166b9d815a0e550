//! The product in a cluster without kubelets: the chart with its rights and pods that nobody runs, nodes as a kubelet
//! would register them, and programs of ours as processes that are told what the chart tells their containers.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Cluster;
use crate::lab::Process;
use crate::{paths, wait};

/// The namespace of the release.
pub const NAMESPACE: &str = "dmvpn-system";

impl Cluster {
    /// Installs the repository's chart as release `dmvpn`, with more words for helm, and waits until its kinds are in
    /// force.
    ///
    /// # Errors
    /// When helm fails or a kind is not served.
    pub fn install_chart(&self, more: &[&str]) -> Result<()> {
        let chart = paths::repository().join("charts/dmvpn").display().to_string();
        let words = ["install", "dmvpn", &chart, "-n", NAMESPACE, "--create-namespace"];
        self.helm(&[&words[..], more].concat())?;
        self.kinds_are_served()
    }

    /// Registers a node as a kubelet would: there is none here, but pods can be bound to it, and it is Ready.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn register_node(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let own = [("kubernetes.io/os", "linux"), ("kubernetes.io/hostname", name)];
        let labels: BTreeMap<&str, &str> = own.iter().chain(labels).copied().collect();
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
        self.apply(&node.to_string())?;
        self.node_is_ready(name, true)
    }

    /// What a kubelet says of its node.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn node_is_ready(&self, name: &str, ready: bool) -> Result<()> {
        let room = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let status = if ready { "True" } else { "False" };
        let ready = json!([{"type": "Ready", "status": status, "reason": "Here", "message": ""}]);
        let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": ready}});
        let words = ["patch", "node", name, "--subresource=status", "--type=merge", "-p"];
        self.kubectl(&[&words[..], &[&status.to_string()]].concat()).map(drop)
    }

    /// Names of the pods of a component of the chart (`agent`, `operator`), and their nodes.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn pods_of(&self, component: &str) -> Result<Vec<(String, String)>> {
        let label = format!("app.kubernetes.io/name=dmvpn,app.kubernetes.io/component={component}");
        let list = self.kubectl_json(&["get", "pods", "-n", NAMESPACE, "-l", &label])?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let items = list["items"].as_array().context("items")?;
        Ok(items.iter().map(|pod| (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]))).collect())
    }

    /// The token that a kubelet would give to a pod of the release.
    ///
    /// # Errors
    /// When there is no such pod, or it is not of that account.
    pub fn pod_token(&self, account: &str, pod: &str, audience: &str) -> Result<String> {
        let uid = self.kubectl(&["get", "pod", pod, "-n", NAMESPACE, "-o", "jsonpath={.metadata.uid}"])?;
        let (name, uid) = (format!("--bound-object-name={pod}"), format!("--bound-object-uid={uid}"));
        let mut words =
            vec!["create", "token", account, "-n", NAMESPACE, "--bound-object-kind=Pod", &name, &uid];
        let audience = format!("--audience={audience}");
        if audience != "--audience=" {
            words.push(&audience);
        }
        Ok(self.kubectl(&words)?.trim().to_owned())
    }
}

/// A program of ours as a container of the chart.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    label: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    log: PathBuf,
}

impl Program {
    /// The first container of a Deployment, DaemonSet or Job, with `token` for its account; `label` is what it is called in
    /// messages and logs.
    ///
    /// # Errors
    /// When the workload is not one of the chart's.
    pub fn of(cluster: &Cluster, label: &str, workload: &Value, token: &str) -> Result<Self> {
        let container = &workload["spec"]["template"]["spec"]["containers"][0];
        let command = container["command"].as_array().map(Vec::as_slice).unwrap_or_default();
        let [Value::String(name)] = command else { bail!("a command of one word was expected: {container}") };
        let args = container["args"].as_array().context("args")?;
        let kubeconfig = cluster.kubeconfig_with_token(&format!("program-{label}"), token)?;
        let program = Self {
            name: name.clone(),
            label: label.to_owned(),
            args: args.iter().filter_map(|arg| arg.as_str().map(String::from)).collect(),
            env: Vec::new(),
            log: cluster.dir().join(format!("{label}.log")),
        };
        let kubeconfig = kubeconfig.display().to_string();
        Ok(program
            .env("KUBECONFIG", &kubeconfig)
            .env("POD_NAMESPACE", NAMESPACE)
            .env("POD_NAME", label)
            .env("RUST_LOG", "info"))
    }

    /// Another value for a flag of the container's.
    ///
    /// # Errors
    /// When the chart does not give that flag.
    pub fn change(mut self, flag: &str, value: &str) -> Result<Self> {
        let prefix = format!("{flag}=");
        let arg = self.args.iter_mut().find(|arg| arg.starts_with(&prefix));
        *arg.with_context(|| format!("the chart gives no {flag}"))? = format!("{prefix}{value}");
        Ok(self)
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn start(&self) -> Result<Process> {
        let mut command = Command::new(paths::program(&self.name)?);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        Process::spawn(&self.label, command, &self.log)
    }
}

/// A GET of `/healthz` or `/readyz` of a program on this machine.
///
/// # Errors
/// When the answer is not 200; with the answer.
pub fn healthy(port: u16, path: &str) -> Result<()> {
    get(port, path).map(drop)
}

/// A GET of a program on this machine; the body.
///
/// # Errors
/// When the answer is not 200; with the answer.
pub fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.split(' ').nth(1) == Some("200"), "{answer}");
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

impl Cluster {
    /// Established is said a moment before the paths answer.
    pub(super) fn kinds_are_served(&self) -> Result<()> {
        let kinds = ["dmvpnnetworks", "dmvpnspokes", "dmvpnendpoints", "dmvpnaddresses"];
        let definitions = kinds.map(|kind| format!("crd/{kind}.dmvpn.io"));
        let mut words = vec!["wait", "--for=condition=Established", "--timeout=30s"];
        words.extend(definitions.iter().map(String::as_str));
        self.kubectl(&words)?;
        wait::until(Duration::from_secs(20), "the kinds to be served", || {
            self.kubectl(&["get", &kinds.join(",")])
        })
        .map(drop)
    }
}
