//! Command line of `dmvpn-agent`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The DMVPN agent of one node (or of one network namespace).
#[derive(Debug, Parser)]
#[command(name = "dmvpn-agent", version, about)]
pub struct Cli {
    /// What to do; without a subcommand: run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of the running agent.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print what the running agent knows, as JSON.
    Show {
        /// Output form.
        #[arg(short, long, default_value = "json", value_parser = ["json"])]
        output: String,
    },
    /// Exit 0 once the running agent knows what it has to do (for a readiness probe).
    Ready,
    /// Take away all that the agent put into this network namespace (links, routes, neighbours, nft tables).
    Purge,
}

/// Options of the running agent.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Name of this node, as DmvpnSpokes and labels mean it.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub node_name: String,
    /// Label of this node, KEY=VALUE (may be repeated), e.g. `dmvpn.io/hub=hub1`.
    #[arg(long = "node-label", value_parser = parse_label)]
    pub node_labels: Vec<(String, String)>,
    /// Directory of YAML files (DmvpnNetwork, DmvpnSpoke, Secret), read again when it changes.
    #[arg(long, default_value = "/etc/dmvpn")]
    pub manifests: PathBuf,
    /// Take the endpoints from the API server (the pod's service account, or KUBECONFIG) instead of a directory.
    #[arg(long, conflicts_with_all = ["manifests", "node_labels"])]
    pub kubernetes: bool,
    /// With --kubernetes: how the agent knows the operator and itself.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Where what must outlive a reboot is kept (addresses that were allocated).
    #[arg(long, default_value = "/var/lib/dmvpn")]
    pub state_dir: PathBuf,
    /// Unix socket that answers `show`. The NHRP snapshot lies beside it and lives as long as the kernel's state.
    #[arg(long, env = "DMVPN_SOCKET", default_value = "/run/dmvpn/agent.sock", global = true)]
    pub socket: PathBuf,
    /// Unix socket of strongSwan's charon (its vici plugin), for networks with ipsec.mode Required.
    #[arg(long, env = "DMVPN_VICI", default_value = "/run/charon.vici")]
    pub vici: PathBuf,
    /// Log as JSON lines.
    #[arg(long)]
    pub log_json: bool,
}

/// Options that only count with `--kubernetes`.
#[derive(Args, Clone, Debug)]
pub struct ClusterArgs {
    /// Namespace of the operator and of this agent.
    #[arg(long, env = "POD_NAMESPACE", default_value = "dmvpn-system")]
    pub operator_namespace: String,
    /// Service of the operator; its port `secrets` gives the passwords.
    #[arg(long, default_value = "dmvpn-operator")]
    pub operator_service: String,
    /// ConfigMap with the CA of the operator's certificate.
    #[arg(long, default_value = "dmvpn-operator-ca")]
    pub ca_config_map: String,
    /// Token that is shown to the operator (audience dmvpn.io).
    #[arg(long, default_value = "/var/run/secrets/dmvpn.io/token")]
    pub token_file: PathBuf,
    /// DaemonSet of this agent: when it is being deleted, a terminated agent takes its tunnels away. Empty: it never does.
    #[arg(long, env = "DAEMON_SET", default_value = "")]
    pub daemon_set: String,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}`: a label is KEY=VALUE"))?;
    if key.is_empty() {
        return Err(format!("`{text}`: the label has no key"));
    }
    Ok((key.to_owned(), value.to_owned()))
}
