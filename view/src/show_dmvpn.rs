//! `show dmvpn`: a table of peers for every tunnel with an IPv4 overlay, stanzas for an IPv6 one.

use crate::peers::{attributes, families, groups, ipv6_stanzas, nbma_peers, why_not_up};
use crate::report::{Peer, Report, State, Tunnel};
use crate::text::{LEGEND, address, address_or_unknown, family_word, remarks, role, state};
use crate::{Family, Since};

/// Prints `show dmvpn`.
pub fn show_dmvpn(report: &Report) -> String {
    let mut out = String::from(LEGEND);
    for tunnel in &report.tunnels {
        out += "\n";
        out += &tunnel_section(tunnel);
    }
    let remarks = remarks(report);
    if !remarks.is_empty() {
        out += "\n";
        out += &remarks;
    }
    out
}

fn tunnel_section(tunnel: &Tunnel) -> String {
    if tunnel.state == State::AdminDown {
        return format!("{} is admin down\n{}", tunnel.interface, why_not_up(tunnel));
    }
    let sections: Vec<String> = families(tunnel).into_iter().map(|family| section(tunnel, family)).collect();
    sections.join("\n") + &why_not_up(tunnel)
}

fn section(tunnel: &Tunnel, family: Family) -> String {
    let head = format!("Interface: {}, {} NHRP Details\n", tunnel.interface, family_word(family));
    let kind = role(tunnel.role);
    match family {
        Family::Ipv4 => {
            let groups = groups(tunnel, family);
            format!("{head}Type:{kind}, NHRP Peers:{},\n\n{TABLE_HEAD}{}", groups.len(), rows(&groups))
        }
        Family::Ipv6 => format!(
            "{head}Type:{kind}, Total NBMA Peers (v4/v6): {}\n{}",
            nbma_peers(tunnel),
            ipv6_stanzas(tunnel)
        ),
    }
}

fn rows(groups: &[Vec<&Peer>]) -> String {
    let mut out = String::new();
    for group in groups {
        for (i, peer) in group.iter().enumerate() {
            // Count and NBMA address stand on the first line of a peer only.
            let first = (i == 0).then(|| (group.len(), address_or_unknown(peer.nbma)));
            out += &row(first, peer);
        }
    }
    out
}

fn row(first: Option<(usize, String)>, peer: &Peer) -> String {
    let left = match first {
        None => " ".repeat(22),
        // What is wider than its column (an IPv6 transport) has a line of its own.
        Some((entries, nbma)) if nbma.len() > 15 => format!("{entries:>6} {nbma}\n{}", " ".repeat(22)),
        Some((entries, nbma)) => format!("{entries:>6} {nbma:<15}"),
    };
    format!(
        "{left} {:>15} {:>5} {:>8} {:>5}\n",
        address(peer.address),
        state(peer.state),
        Since(peer.up_down_seconds),
        attributes(&peer.attributes)
    )
}

const TABLE_HEAD: &str = concat!(
    " # Ent  Peer NBMA Addr Peer Tunnel Add State  UpDn Tm Attrb\n",
    " ----- --------------- --------------- ----- -------- -----\n",
);
