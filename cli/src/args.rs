//! The command line: Cisco's words in Cisco's order.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use view::{Family, Filter, Show};

/// Shows what the DMVPN agent on this machine does.
#[derive(Debug, Parser)]
#[command(name = "dmvpn", version, propagate_version = true)]
pub(crate) struct Args {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Output::Text, global = true)]
    pub(crate) output: Output,
    /// Unix socket of the agent
    #[arg(
        long,
        value_name = "PATH",
        env = "DMVPN_SOCKET",
        default_value = "/run/dmvpn/agent.sock",
        global = true
    )]
    pub(crate) socket: PathBuf,
    /// Only tunnels of this DmvpnNetwork
    #[arg(long, value_name = "NAME", global = true)]
    network: Option<String>,
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// The table that is asked for, and of which tunnels.
    pub(crate) fn wish(&self) -> (Show, Filter) {
        let Command::Show(table) = &self.command;
        let (show, interface) = table.wish();
        (show, Filter { interface, network: self.network.clone() })
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

    fn wish(line: &str) -> (Show, Option<String>) {
        let args = Args::try_parse_from(line.split_whitespace()).unwrap();
        let (show, filter) = args.wish();
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
            let args = Args::try_parse_from(line.split_whitespace()).unwrap();
            assert_eq!(args.output, Output::Json, "{line}");
            assert_eq!(args.socket, PathBuf::from("/x"), "{line}");
            assert_eq!(args.wish().1.network.as_deref(), Some("lab"), "{line}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for line in
            ["dmvpn", "dmvpn show", "dmvpn show ip", "dmvpn show dmvpn x", "dmvpn --node n show dmvpn"]
        {
            assert!(Args::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }
}
