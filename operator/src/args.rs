//! Command line of `dmvpn-operator`.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};

/// The DMVPN operator of one cluster.
#[derive(Debug, Parser)]
#[command(name = "dmvpn-operator", version, about)]
pub struct Cli {
    /// What to do; without a subcommand: run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of the running operator.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take all tunnels of this cluster away: before an uninstall. Takes the Lease, so that the operator stops writing.
    Drain {
        /// Seconds to wait for the agents.
        #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86400))]
        timeout_seconds: u64,
    },
}

/// Options of the running operator.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Namespace of the Lease, of the operator's Secret and ConfigMap, of the agents and of users' Secrets.
    #[arg(long, env = "POD_NAMESPACE", default_value = "dmvpn-system", global = true)]
    pub namespace: String,
    /// Lease whose holder writes.
    #[arg(long, default_value = "dmvpn-operator", global = true)]
    pub lease: String,
    /// Name by which the Lease is held; none: host name and process id.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub identity: String,
    /// Secret with the certificate of the secrets endpoint.
    #[arg(long, default_value = "dmvpn-operator-tls")]
    pub tls_secret: String,
    /// ConfigMap in which agents find the CA of that certificate.
    #[arg(long, default_value = "dmvpn-operator-ca")]
    pub ca_config_map: String,
    /// Service of the secrets endpoint; the certificate is made for SERVICE.NAMESPACE.svc.
    #[arg(long, default_value = "dmvpn-operator")]
    pub service: String,
    /// Where the secrets endpoint listens (HTTPS).
    #[arg(long, default_value = "[::]:8443")]
    pub secrets_listen: SocketAddr,
    /// Where /healthz and /readyz listen (HTTP).
    #[arg(long, default_value = "[::]:8081")]
    pub health_listen: SocketAddr,
    /// Where /metrics listens (HTTP); none: nowhere.
    #[arg(long)]
    pub metrics_listen: Option<SocketAddr>,
    /// ServiceAccount of the agents: only its tokens get Secrets.
    #[arg(long, default_value = "dmvpn-agent")]
    pub agent_service_account: String,
    /// Labels of the agents' pods; empty: pods are not looked at.
    #[arg(long, default_value = "app.kubernetes.io/name=dmvpn,app.kubernetes.io/component=agent")]
    pub agent_selector: String,
    /// Log as JSON lines.
    #[arg(long, global = true)]
    pub log_json: bool,
}

impl RunArgs {
    /// Name by which the Lease is held.
    pub fn identity(&self) -> String {
        if !self.identity.is_empty() {
            return self.identity.clone();
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!("{}-{}", host.trim(), std::process::id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let cli =
            Cli::try_parse_from(["dmvpn-operator", "drain", "--namespace", "n", "--timeout-seconds", "5"]);
        let cli = cli.unwrap();
        assert_eq!(cli.run.namespace, "n");
        assert!(matches!(cli.command, Some(Command::Drain { timeout_seconds: 5 })));
        assert!(Cli::try_parse_from(["dmvpn-operator", "drain", "--timeout-seconds", "0"]).is_err());
    }
}
