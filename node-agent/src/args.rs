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
    /// Where what must outlive a reboot is kept (addresses that were allocated).
    #[arg(long, default_value = "/var/lib/dmvpn")]
    pub state_dir: PathBuf,
    /// Unix socket that answers `show`. The NHRP snapshot lies beside it and lives as long as the kernel's state.
    #[arg(long, env = "DMVPN_SOCKET", default_value = "/run/dmvpn/agent.sock")]
    pub socket: PathBuf,
    /// Log as JSON lines.
    #[arg(long)]
    pub log_json: bool,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}`: a label is KEY=VALUE"))?;
    if key.is_empty() {
        return Err(format!("`{text}`: the label has no key"));
    }
    Ok((key.to_owned(), value.to_owned()))
}
