//! A Kubernetes cluster of the lab: a real control plane on this machine ([`control_plane`]) with certificates
//! of its own ([`pki`]), and what a person with `kubectl` and `helm` does to it ([`Cluster`]).

pub mod audit;
pub mod control_plane;
mod door;
mod helper;
pub(crate) mod holder;
pub mod pki;
pub mod product;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

pub use audit::Write;
pub use control_plane::{ControlPlane, Plan};
pub use door::Reply;
pub use holder::Holder;
pub use product::Program;

use crate::lab::{Host, Lab};
use crate::paths;
use helper::{Request, What};

/// One cluster. Clones are the same cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    name: String,
    dir: PathBuf,
    door: Door,
}

#[derive(Clone, Debug)]
enum Door {
    /// The control plane is ours.
    Here(Arc<ControlPlane>),
    /// It is outside the guest, behind the helper.
    Outside(Management),
}

/// The management network of a cluster, inside the guest.
#[derive(Clone, Debug)]
struct Management {
    /// 1, 2, …: part of its addresses.
    number: u8,
    bridge: Host,
}

impl Cluster {
    /// Inside a guest: the clusters that a [`Holder`] outside was given, in the same order.
    ///
    /// # Errors
    /// When a link is not there.
    pub fn join(lab: &Lab, names: &[&str]) -> Result<Vec<Self>> {
        holder::open_control_link()?;
        let join = |(number, name): (u8, &&str)| {
            let bridge = holder::management_bridge(lab, number, name)?;
            let door = Door::Outside(Management { number, bridge });
            Ok(Self { name: (*name).to_owned(), dir: holder::folder(lab.out(), name), door })
        };
        (1..).zip(names).map(join).collect()
    }

    /// The cluster of a control plane that this process holds.
    #[must_use]
    pub fn local(control_plane: ControlPlane) -> Self {
        let plan = control_plane.plan();
        Self { name: plan.name.clone(), dir: plan.dir.clone(), door: Door::Here(Arc::new(control_plane)) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder with its logs and certificates.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A kubeconfig file of an administrator, for programs of ours.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("pki/admin.kubeconfig")
    }

    /// Runs `kubectl`, `helm` or another program in the control plane's network, whatever its status.
    ///
    /// # Errors
    /// Only when it cannot be started.
    pub fn output(&self, program: &str, arguments: &[&str], input: &str) -> Result<Reply> {
        match &self.door {
            Door::Here(it) => door::run(it.plan(), program, arguments, input),
            Door::Outside(_) => self.ask(What::Run {
                program: program.to_owned(),
                arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
                input: input.to_owned(),
            }),
        }
    }

    /// `kubectl ARGUMENTS`; what it printed.
    ///
    /// # Errors
    /// When it fails; with its standard error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.succeed("kubectl", arguments, "")
    }

    /// As [`Self::kubectl`], with standard input.
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.succeed("kubectl", arguments, input)
    }

    /// `kubectl ARGUMENTS -o json`, parsed.
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub fn kubectl_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {arguments:?}: {text}"))
    }

    /// `kubectl apply -f -` of one or more YAML documents, as a user does.
    ///
    /// # Errors
    /// When one of them is refused; with the server's words.
    pub fn apply(&self, text: &str) -> Result<String> {
        self.succeed("kubectl", &["apply", "-f", "-"], text)
    }

    /// Applies what must be refused; returns the server's words. Nothing is stored.
    ///
    /// # Errors
    /// When it is accepted.
    pub fn refused(&self, text: &str) -> Result<String> {
        let reply = self.output("kubectl", &["create", "--dry-run=server", "-f", "-"], text)?;
        ensure!(reply.status != 0, "the server accepts what it must refuse:\n{text}");
        Ok(reply.stderr)
    }

    /// `helm ARGUMENTS`; what it printed.
    ///
    /// # Errors
    /// When it fails; with its standard error.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.succeed("helm", arguments, "")
    }

    /// Runs a program that must succeed; what it printed.
    ///
    /// # Errors
    /// When the program fails; with its standard error.
    pub fn succeed(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let reply = self.output(program, arguments, input)?;
        if reply.status != 0 {
            let input = if input.is_empty() { String::new() } else { format!("\ninput was:\n{input}") };
            let (errors, text) = (reply.stderr.trim(), reply.stdout.trim());
            bail!("`{program} {}` on {}: {errors} {text}{input}", arguments.join(" "), self.name);
        }
        Ok(reply.stdout)
    }

    /// A token of a ServiceAccount as a pod on `node` would have it: the token names the node.
    ///
    /// # Errors
    /// When there is no such account or node.
    pub fn token(
        &self,
        account: &str,
        namespace: &str,
        audience: &str,
        node: Option<&str>,
    ) -> Result<String> {
        let mut words = vec!["create", "token", account, "-n", namespace];
        if !audience.is_empty() {
            words.extend(["--audience", audience]);
        }
        let uid;
        if let Some(node) = node {
            uid = self.kubectl(&["get", "node", node, "-o", "jsonpath={.metadata.uid}"])?;
            words.extend(["--bound-object-kind", "Node", "--bound-object-name", node]);
            words.extend(["--bound-object-uid", &uid]);
        }
        Ok(self.kubectl(&words)?.trim().to_owned())
    }

    /// A kubeconfig file that names this cluster's server and carries `token` instead of a certificate.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_with_token(&self, label: &str, token: &str) -> Result<PathBuf> {
        let text = fs::read_to_string(self.kubeconfig())?;
        let user =
            text.lines().find(|l| l.trim_start().starts_with("user: {")).context("user of kubeconfig")?;
        let path = self.dir.join(format!("{label}.kubeconfig"));
        fs::write(&path, text.replace(user, &format!("  user: {{token: {token}}}")))?;
        Ok(path)
    }

    /// A Ready Node, as a kubelet would register it; there is none, so only [`Plan::kubelets`] keeps it Ready.
    ///
    /// # Errors
    /// When it is refused.
    pub fn make_node(&self, name: &str, address: Ipv4Addr, labels: &[(&str, &str)]) -> Result<()> {
        let labels: serde_json::Map<_, _> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let metadata = json!({"name": name, "labels": labels});
        self.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}).to_string())?;
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "MadeByHand", "message": ""}],
        }});
        let words = ["patch", "node", name, "--subresource=status", "--type=merge", "-p"];
        self.kubectl(&[&words[..], &[&status.to_string()]].concat()).map(drop)
    }

    /// Stops the API server.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_api_server(&self) -> Result<()> {
        match &self.door {
            Door::Here(it) => it.stop_api_server(),
            Door::Outside(_) => self.ask(What::StopApiServer).map(drop),
        }
    }

    /// Starts the API server again and returns when it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_api_server(&self) -> Result<()> {
        match &self.door {
            Door::Here(it) => it.start_api_server(),
            Door::Outside(_) => self.ask(What::StartApiServer).map(drop),
        }
    }

    /// The address that nodes and pods reach the API server at, on port 6443.
    #[must_use]
    pub fn server_address(&self) -> Ipv4Addr {
        match &self.door {
            Door::Here(it) => it.plan().address,
            Door::Outside(management) => holder::server_address(management.number),
        }
    }

    /// Inside a guest: joins `host` to the management network as node `node` (1, 2, …) by the link `mgmt0`, with
    /// routes to the pods of the other nodes. Returns its address there.
    ///
    /// # Errors
    /// When a node of that number is there, or outside a guest.
    pub fn attach(&self, host: &Host, node: u8) -> Result<Ipv4Addr> {
        let Door::Outside(Management { number, bridge }) = &self.door else {
            bail!("{} has no management network: its control plane is here", self.name);
        };
        let (port, address) = (format!("node{node}"), holder::node_address(*number, node));
        host.ip(&format!("link add mgmt0 type veth peer name {port} netns {}", bridge.name()))?;
        bridge.ip(&format!("link set {port} master br0 up"))?;
        let mut lines = vec![format!("address add {address}/24 dev mgmt0"), "link set mgmt0 up".into()];
        lines.extend((1..=holder::NODES).filter(|other| *other != node).map(|other| {
            format!("route add {} via {}", holder::pod_network(other), holder::node_address(*number, other))
        }));
        host.ip_batch(&lines)?;
        Ok(address)
    }

    fn ask(&self, what: What) -> Result<Reply> {
        helper::ask(&Request { cluster: self.name.clone(), what })
    }

    /// Lays the repository's CustomResourceDefinitions on the server and waits until they are in force.
    ///
    /// # Errors
    /// When one is refused or not established.
    pub fn install_crds(&self) -> Result<()> {
        let dir = paths::repository().join("charts/dmvpn/files/crds");
        let dir = dir.to_string_lossy();
        self.kubectl(&["apply", "--server-side", "-f", &dir])?;
        self.kinds_are_served()
    }

    /// Every write that the API server has answered so far, whoever made it.
    ///
    /// # Errors
    /// When the audit log cannot be read.
    pub fn writes(&self) -> Result<Vec<Write>> {
        audit::read(&self.dir.join("audit.log"))
    }

    /// Writes what the cluster holds to files in `dir`, beside `why`.
    ///
    /// # Errors
    /// When the folder cannot be written. What the server does not answer is noted in the file.
    pub fn evidence(&self, dir: &Path, why: &str) -> Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("why.txt"), format!("{why}\n"))?;
        let ask = |words: &[&str]| {
            let reply = self.output("kubectl", &[words, &["--request-timeout=10s"]].concat(), "");
            reply.map_or_else(|error| format!("{error:#}\n"), |reply| reply.stdout + &reply.stderr)
        };
        let parts: [(&str, &[&str]); 4] = [
            ("nodes-and-pods", &["get", "nodes,all", "-A", "-o", "wide"]),
            ("pods", &["describe", "pods", "-A"]),
            ("events", &["get", "events", "-A"]),
            ("dmvpn", &["get", "dmvpnnetworks,dmvpnspokes,dmvpnendpoints,dmvpnaddresses", "-o", "yaml"]),
        ];
        for (name, words) in parts {
            fs::write(dir.join(format!("{}-{name}.txt", self.name)), ask(words))?;
        }
        let pods = "jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{'\\n'}{end}";
        let mut logs = String::new();
        for pod in ask(&["get", "pods", "-A", "-o", pods]).lines() {
            let Some((namespace, name)) = pod.split_once(' ') else { continue };
            let words = ["logs", "-n", namespace, name, "--all-containers", "--tail=300"];
            logs += &format!("== {pod}\n{}", ask(&words));
        }
        fs::write(dir.join(format!("{}-pod-logs.txt", self.name)), logs)?;
        Ok(())
    }
}
