//! `show ip nhrp nhs [detail]`: the configured next hop servers.

use crate::report::{Nhs, Report, Tunnel};
use crate::text::{address, address_or_unknown, is_of, nhs_status};
use crate::{Family, Since};

/// Prints `show ip nhrp nhs`.
pub fn show_ip_nhrp_nhs(report: &Report, family: Family) -> String {
    servers(report, family, |_, nhs| head(nhs) + "\n")
}

/// Prints `show ip nhrp nhs detail`: counters and the last request too.
pub fn show_ip_nhrp_nhs_detail(report: &Report, family: Family) -> String {
    servers(report, family, |tunnel, nhs| {
        let ago = match nhs.last_reply_seconds {
            None => String::new(),
            some => format!(" ({} ago)", Since(some)),
        };
        format!(
            "{}  req-sent {}  req-failed {}  repl-recv {}{ago}\n  Current Request ID: {}\n  \
             Protection Socket Requested: {}\n",
            head(nhs),
            nhs.requests_sent,
            nhs.requests_failed,
            nhs.replies_received,
            nhs.request_id,
            if tunnel.protection.is_empty() { "FALSE" } else { "TRUE" },
        )
    })
}

fn servers(report: &Report, family: Family, print: impl Fn(&Tunnel, &Nhs) -> String) -> String {
    let mut out = String::from("Legend: E=Expecting replies, R=Responding, W=Waiting\n");
    // Unknown overlay addresses are listed with IPv4, so that a server is never hidden.
    let of_family = |nhs: &&Nhs| nhs.address.map_or(family == Family::Ipv4, |a| is_of(family, a));
    for tunnel in &report.tunnels {
        let servers = tunnel.nhs.iter().filter(of_family).map(|nhs| print(tunnel, nhs)).collect::<String>();
        if !servers.is_empty() {
            out += &format!("{}:\n{servers}", tunnel.interface);
        }
    }
    out
}

fn head(nhs: &Nhs) -> String {
    let nbma = nhs.nbma.map_or_else(String::new, |nbma| format!("  NBMA Address: {}", address(nbma)));
    format!(
        "{}  {:<2}{nbma} priority = {} cluster = {}",
        address_or_unknown(nhs.address),
        nhs_status(nhs.status),
        nhs.priority,
        nhs.cluster
    )
}
