//! The command line: Cisco's words in Cisco's order.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use view::{Family, Filter, Show};

use crate::cluster::Cluster;
use crate::join::{Place, Pool, Wish};

/// Where an agent of this machine listens.
const SOCKET: &str = "/run/dmvpn/agent.sock";
/// By this name kubectl finds its plugin; by any other the program asks the agent of this machine.
const PLUGIN: &str = "kubectl-dmvpn";
/// Options that only make sense with a cluster.
const OF_CLUSTERS: [&str; 4] = ["node", "namespace", "kubeconfig", "context"];

/// Shows what DMVPN agents do: the one on this machine, or those of a cluster.
#[derive(Debug, Parser)]
#[command(name = "dmvpn", version, propagate_version = true)]
pub(crate) struct Args {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Output::Text, global = true)]
    pub(crate) output: Output,
    /// Unix socket of an agent on this machine
    #[arg(long, value_name = "PATH", env = "DMVPN_SOCKET", global = true)]
    socket: Option<PathBuf>,
    /// Only the agent on this node (may be repeated)
    #[arg(long, value_name = "NAME", global = true)]
    node: Vec<String>,
    /// Namespace of the agents' pods [default: all]
    #[arg(short, long, value_name = "NAME", global = true)]
    namespace: Option<String>,
    /// Kubeconfig file [default: as kubectl]
    #[arg(long, value_name = "PATH", global = true)]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", global = true)]
    context: Option<String>,
    /// Only tunnels of this DmvpnNetwork
    #[arg(long, value_name = "NAME", global = true)]
    network: Option<String>,
    #[command(subcommand)]
    command: Command,
    /// Called as kubectl's plugin.
    #[arg(skip)]
    plugin: bool,
}

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// The agent behind a socket of this machine.
    Socket(PathBuf),
    /// Agents of a cluster.
    Cluster(Cluster),
}

impl Args {
    /// Reads the command line; the first word is the name that the program was called by.
    ///
    /// # Errors
    /// clap's: also what `--help` and `--version` print.
    pub(crate) fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<_> = words.into_iter().collect();
        let called = words.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
        let plugin = called == PLUGIN;
        let mut command = Self::command();
        if plugin {
            command = command.bin_name("kubectl dmvpn");
        } else {
            for option in OF_CLUSTERS {
                command = command.mut_arg(option, |arg| arg.hide(true));
            }
        }
        let matches = command.clone().try_get_matches_from(words)?;
        let args = Self { plugin, ..Self::from_arg_matches(&matches)? };
        let given = [
            !args.node.is_empty(),
            args.namespace.is_some(),
            args.kubeconfig.is_some(),
            args.context.is_some(),
        ];
        let given = OF_CLUSTERS.iter().zip(given).find(|(_, given)| *given);
        match given {
            _ if !plugin && matches!(args.command, Command::Join(_)) => {
                let cure = "join asks a cluster: call the program as `kubectl dmvpn join`";
                Err(command.error(ErrorKind::InvalidSubcommand, cure))
            }
            Some((option, _)) if !plugin => {
                let cure = format!("--{option} asks a cluster: call the program as `kubectl dmvpn`");
                Err(command.error(ErrorKind::UnknownArgument, cure))
            }
            Some((option, _)) if args.socket.is_some() => {
                let cure = format!(
                    "--{option} asks a cluster, --socket (or DMVPN_SOCKET) the agent of this machine: give one of them"
                );
                Err(command.error(ErrorKind::ArgumentConflict, cure))
            }
            _ => Ok(args),
        }
    }

    /// Whom to ask.
    pub(crate) fn whom(&self) -> Whom {
        match (&self.socket, self.plugin) {
            (Some(socket), _) => Whom::Socket(socket.clone()),
            (None, false) => Whom::Socket(SOCKET.into()),
            (None, true) => {
                let mut nodes = self.node.clone();
                nodes.sort();
                nodes.dedup();
                Whom::Cluster(Cluster {
                    nodes,
                    namespace: self.namespace.clone(),
                    kubeconfig: self.kubeconfig.clone(),
                    context: self.context.clone(),
                })
            }
        }
    }

    /// What is asked for.
    pub(crate) fn wish(&self) -> Asked {
        match &self.command {
            Command::Show(table) => {
                let (show, interface) = table.wish();
                Asked::Table(show, Filter { interface, network: self.network.clone() })
            }
            Command::Join(join) => Asked::Join(join.wish()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables as Cisco prints them
    Text,
    /// JSON
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show tunnels, peers, the NHRP cache or problems
    #[command(subcommand)]
    Show(Table),
    /// Print the file that makes another cluster, or a box, a member of a network of this cluster
    #[command(
        after_help = "The hundredth member is joined like the first: nothing is edited here. A pool or an address that is handed \
                      out is noted in the network's addressing.reserved."
    )]
    Join(Join),
}

#[derive(Debug, clap::Args)]
struct Join {
    /// The DmvpnNetwork
    #[arg(value_name = "NETWORK")]
    joined: String,
    /// The node or box that becomes a spoke
    #[arg(long, value_name = "NODE", required_unless_present = "selector")]
    host: Option<String>,
    /// Labels of the nodes that become spokes, each of them
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label, conflicts_with_all = ["host", "address", "subnet"])]
    selector: Vec<(String, String)>,
    /// Name of the DmvpnSpoke [default: NETWORK-NODE]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A prefix behind the host (may be repeated)
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<crds::Cidr>,
    /// Its tunnel address, one a family
    #[arg(long, value_name = "IP")]
    address: Vec<std::net::IpAddr>,
    /// Part of the overlay that it allocates tunnel addresses from: a prefix, or `/24` for one that is free
    #[arg(long, value_name = "CIDR")]
    pool: Option<Pool>,
    /// The pool or the address was handed out to the same member before
    #[arg(long)]
    again: bool,
    /// Announce the pods' addresses of its nodes too
    #[arg(long)]
    pods: bool,
    /// Namespace of the chart in the other cluster [default: as here]
    #[arg(long, value_name = "NAME")]
    target_namespace: Option<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("a label is KEY=VALUE".into()),
    }
}

impl Join {
    fn wish(&self) -> Wish {
        let place = match &self.host {
            Some(node) => Place::Node(node.clone()),
            None => Place::Every(self.selector.iter().cloned().collect()),
        };
        Wish {
            network: self.joined.clone(),
            name: self.name.clone(),
            place,
            subnets: self.subnet.clone(),
            addresses: self.address.clone(),
            pool: self.pool,
            again: self.again,
            pods: self.pods,
            target_namespace: self.target_namespace.clone(),
        }
    }
}

/// What is asked for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A table, and of which tunnels.
    Table(Show, Filter),
    /// The file for another member.
    Join(Wish),
}

#[derive(Debug, Subcommand)]
enum Table {
    /// Tunnels and their peers: `show dmvpn [detail] [interface NAME]`
    Dmvpn {
        #[command(subcommand)]
        part: Option<Dmvpn>,
    },
    /// IPv4 overlay: `show ip nhrp [brief|detail|nhs [detail]|summary|traffic]`
    #[command(subcommand)]
    Ip(Protocol),
    /// IPv6 overlay: `show ipv6 nhrp …`
    #[command(subcommand)]
    Ipv6(Protocol),
    /// Objects and files that could not be used, with cause and cure
    Problems,
}

impl Table {
    fn wish(&self) -> (Show, Option<String>) {
        match self {
            Self::Dmvpn { part } => Dmvpn::wish(part.as_ref()),
            Self::Ip(Protocol::Nhrp { part }) => Nhrp::wish(part.as_ref(), Family::Ipv4),
            Self::Ipv6(Protocol::Nhrp { part }) => Nhrp::wish(part.as_ref(), Family::Ipv6),
            Self::Problems => (Show::Problems, None),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Dmvpn {
    /// Interface, NHSs and target networks too
    Detail {
        #[command(subcommand)]
        interface: Option<Interface>,
    },
    /// Only this tunnel interface
    Interface {
        name: String,
        /// Interface, NHSs and target networks too
        #[arg(value_enum)]
        detail: Option<Detail>,
    },
}

impl Dmvpn {
    fn wish(part: Option<&Self>) -> (Show, Option<String>) {
        match part {
            None => (Show::Dmvpn, None),
            Some(Self::Detail { interface }) => (Show::DmvpnDetail, interface.as_ref().map(Interface::name)),
            Some(Self::Interface { name, detail: None }) => (Show::Dmvpn, Some(name.clone())),
            Some(Self::Interface { name, detail: Some(_) }) => (Show::DmvpnDetail, Some(name.clone())),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Protocol {
    /// The NHRP cache, servers and packets
    Nhrp {
        #[command(subcommand)]
        part: Option<Nhrp>,
    },
}

#[derive(Debug, Subcommand)]
enum Nhrp {
    /// One line an entry
    Brief,
    /// Preference and requesters too
    Detail,
    /// Only this tunnel interface
    Interface { name: String },
    /// Next hop servers
    Nhs {
        /// Counters too
        #[arg(value_enum)]
        detail: Option<Detail>,
    },
    /// Number of entries by kind
    Summary,
    /// NHRP packets by type, and what was dropped
    Traffic,
}

impl Nhrp {
    fn wish(part: Option<&Self>, family: Family) -> (Show, Option<String>) {
        match part {
            None => (Show::Nhrp(family), None),
            Some(Self::Brief) => (Show::NhrpBrief(family), None),
            Some(Self::Detail) => (Show::NhrpDetail(family), None),
            Some(Self::Interface { name }) => (Show::Nhrp(family), Some(name.clone())),
            Some(Self::Nhs { detail: None }) => (Show::NhrpNhs(family), None),
            Some(Self::Nhs { detail: Some(_) }) => (Show::NhrpNhsDetail(family), None),
            Some(Self::Summary) => (Show::NhrpSummary(family), None),
            Some(Self::Traffic) => (Show::NhrpTraffic, None),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Interface {
    /// Only this tunnel interface
    Interface { name: String },
}

impl Interface {
    fn name(&self) -> String {
        let Self::Interface { name } = self;
        name.clone()
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Detail {
    Detail,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Args, clap::Error> {
        Args::read(line.split_whitespace().map(OsString::from))
    }

    fn wish(line: &str) -> (Show, Option<String>) {
        let Asked::Table(show, filter) = read(line).unwrap().wish() else { panic!("{line}") };
        (show, filter.interface)
    }

    #[test]
    fn ciscos_words_in_ciscos_order() {
        use Family::{Ipv4, Ipv6};
        for (line, show, interface) in [
            ("dmvpn show dmvpn", Show::Dmvpn, None),
            ("dmvpn show dmvpn detail", Show::DmvpnDetail, None),
            ("dmvpn show dmvpn interface dm-a", Show::Dmvpn, Some("dm-a")),
            ("dmvpn show dmvpn interface dm-a detail", Show::DmvpnDetail, Some("dm-a")),
            ("dmvpn show dmvpn detail interface dm-a", Show::DmvpnDetail, Some("dm-a")),
            ("dmvpn show ip nhrp", Show::Nhrp(Ipv4), None),
            ("dmvpn show ipv6 nhrp", Show::Nhrp(Ipv6), None),
            ("dmvpn show ip nhrp interface dm-a", Show::Nhrp(Ipv4), Some("dm-a")),
            ("dmvpn show ip nhrp brief", Show::NhrpBrief(Ipv4), None),
            ("dmvpn show ip nhrp detail", Show::NhrpDetail(Ipv4), None),
            ("dmvpn show ip nhrp nhs", Show::NhrpNhs(Ipv4), None),
            ("dmvpn show ipv6 nhrp nhs detail", Show::NhrpNhsDetail(Ipv6), None),
            ("dmvpn show ip nhrp summary", Show::NhrpSummary(Ipv4), None),
            ("dmvpn show ip nhrp traffic", Show::NhrpTraffic, None),
            ("dmvpn show problems", Show::Problems, None),
        ] {
            assert_eq!(wish(line), (show, interface.map(String::from)), "{line}");
        }
    }

    #[test]
    fn options_stand_anywhere() {
        for line in [
            "dmvpn -o json --socket /x --network lab show ip nhrp brief",
            "dmvpn show ip nhrp brief -o json --socket /x --network lab",
        ] {
            let args = read(line).unwrap();
            assert_eq!(args.output, Output::Json, "{line}");
            assert_eq!(args.whom(), Whom::Socket("/x".into()), "{line}");
            let Asked::Table(_, filter) = args.wish() else { panic!("{line}") };
            assert_eq!(filter.network.as_deref(), Some("lab"), "{line}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for line in
            ["dmvpn", "dmvpn show", "dmvpn show ip", "dmvpn show dmvpn x", "dmvpn --node n show dmvpn"]
        {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_name_says_whom_to_ask() {
        let all = Cluster::default();
        let some = Cluster {
            nodes: vec!["east-1".into(), "west-1".into()],
            namespace: Some("dmvpn-system".into()),
            kubeconfig: Some("/k".into()),
            context: Some("west".into()),
        };
        for (line, whom) in [
            ("dmvpn show dmvpn", Whom::Socket(SOCKET.into())),
            ("/usr/bin/dmvpn show dmvpn", Whom::Socket(SOCKET.into())),
            ("kubectl-dmvpn show dmvpn", Whom::Cluster(all.clone())),
            ("/usr/local/bin/kubectl-dmvpn show dmvpn", Whom::Cluster(all)),
            ("kubectl-dmvpn --socket /x show dmvpn", Whom::Socket("/x".into())),
            (
                "kubectl-dmvpn show dmvpn --node west-1 --node east-1 --node west-1 -n dmvpn-system --kubeconfig /k \
                 --context west",
                Whom::Cluster(some),
            ),
        ] {
            assert_eq!(read(line).unwrap().whom(), whom, "{line}");
        }
    }

    #[test]
    fn a_cluster_and_a_socket_exclude_each_other() {
        for (line, cure) in [
            ("dmvpn --node n show dmvpn", "call the program as `kubectl dmvpn`"),
            ("dmvpn show dmvpn --context c", "call the program as `kubectl dmvpn`"),
            ("kubectl-dmvpn --socket /x show dmvpn --node n", "give one of them"),
            ("kubectl-dmvpn --socket /x -n n show dmvpn", "give one of them"),
            ("dmvpn join branches --host west-1", "call the program as `kubectl dmvpn join`"),
            ("kubectl-dmvpn join branches", "--host"),
            ("kubectl-dmvpn join branches --host a --selector b=c", "cannot be used with"),
            ("kubectl-dmvpn join branches --selector b", "a label is KEY=VALUE"),
            ("kubectl-dmvpn join branches --host a --subnet 10.1.2.3/24", "did you mean 10.1.2.0/24"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(cure), "{line}: {error}");
        }
        assert!(read("kubectl-dmvpn --help").unwrap_err().to_string().contains("kubectl dmvpn"));
        assert!(!read("dmvpn --help").unwrap_err().to_string().contains("--kubeconfig"));
    }
}
