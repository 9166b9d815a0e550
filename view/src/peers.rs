//! What `show dmvpn` and `show dmvpn detail` share: peers grouped by NBMA address, their attributes, the IPv6 stanzas,
//! and the lines that say why something is not up.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::report::{Attributes, Nhs, Peer, State, Tunnel};
use crate::text::{address, address_or_unknown, is_of, one_line, state};
use crate::{Family, Since};

/// The peers of one family that share an NBMA address, in the order of the report. An entry whose NBMA address is not
/// known yet is a group of its own overlay address.
pub(crate) fn groups(tunnel: &Tunnel, family: Family) -> Vec<Vec<&Peer>> {
    let mut place: HashMap<(bool, IpAddr), usize> = HashMap::new();
    let mut groups: Vec<Vec<&Peer>> = Vec::new();
    for peer in tunnel.peers.iter().filter(|peer| is_of(family, peer.address)) {
        let key = (peer.nbma.is_some(), peer.nbma.unwrap_or(peer.address));
        let at = *place.entry(key).or_insert(groups.len());
        match groups.get_mut(at) {
            Some(group) => group.push(peer),
            None => groups.push(vec![peer]),
        }
    }
    groups
}

/// Number of NBMA peers, both families together.
pub(crate) fn nbma_peers(tunnel: &Tunnel) -> usize {
    let known: std::collections::HashSet<_> = tunnel.peers.iter().filter_map(|peer| peer.nbma).collect();
    let unknown: std::collections::HashSet<_> =
        tunnel.peers.iter().filter(|peer| peer.nbma.is_none()).map(|peer| peer.address).collect();
    known.len() + unknown.len()
}

/// Families that a tunnel has a section for. A tunnel without any address yet gets the IPv4 one.
pub(crate) fn families(tunnel: &Tunnel) -> Vec<Family> {
    let has = |family| {
        tunnel.addresses.iter().any(|net| is_of(family, net.addr()))
            || tunnel.peers.iter().any(|peer| is_of(family, peer.address))
            || tunnel.nhs.iter().filter_map(|nhs| nhs.address).any(|address| is_of(family, address))
    };
    match (has(Family::Ipv4), has(Family::Ipv6)) {
        (_, false) => vec![Family::Ipv4],
        (false, true) => vec![Family::Ipv6],
        (true, true) => vec![Family::Ipv4, Family::Ipv6],
    }
}

/// The `Attrb` column: one letter for how the entry came to be, then its marks.
pub(crate) fn attributes(attributes: &Attributes) -> String {
    let origin = match attributes {
        Attributes { is_static: true, incomplete: true, .. } => "SI",
        Attributes { is_static: true, .. } => "S",
        Attributes { temporary: true, .. } => "I2",
        Attributes { incomplete: true, .. } => "I",
        _ => "D",
    };
    let marks = [
        (attributes.nated, "N"),
        (attributes.local, "L"),
        (attributes.no_socket, "X"),
        (attributes.route_installed, "T1"),
        (attributes.nexthop_override, "T2"),
    ];
    marks.iter().filter(|(set, _)| *set).fold(String::from(origin), |text, (_, mark)| text + mark)
}

/// Numbered stanzas, Cisco's form for an IPv6 overlay.
pub(crate) fn ipv6_stanzas(tunnel: &Tunnel) -> String {
    let mut out = String::new();
    let mut number = 0;
    for group in groups(tunnel, Family::Ipv6) {
        for (i, peer) in group.iter().enumerate() {
            number += 1;
            // The count stands at the first entry of an NBMA peer, the others carry 0.
            let entries = if i == 0 { group.len() } else { 0 };
            out += &format!(
                "    {number}.Peer NBMA Address: {}\n        Tunnel IPv6 Address: {}\n        \
                 IPv6 Target Network: {}\n        # Ent: {entries}, Status: {}, UpDn Time: {}, Cache Attrib: {}\n",
                address_or_unknown(peer.nbma),
                address(peer.address),
                address(peer.target),
                state(peer.state),
                Since(peer.up_down_seconds),
                attributes(&peer.attributes),
            );
            out += &group_of(peer);
        }
    }
    out
}

/// Bandwidth class of a peer, in Cisco's lines (`show dmvpn detail`); ours names the rate too.
pub(crate) fn group_of(peer: &Peer) -> String {
    let Some(group) = &peer.group else { return String::new() };
    let name = one_line(&group.name);
    let applied = match group.rate_kbps {
        Some(rate) => format!("{name} ({rate} kbit/s)"),
        None => "none (the network has no such group)".to_owned(),
    };
    format!("NHRP group: {name}\n Output QoS service-policy applied: {applied}\n")
}

/// A line a tunnel and a line an NHS that is not up: state, since when, reason, cause and cure. Empty when all is up.
pub(crate) fn why_not_up(tunnel: &Tunnel) -> String {
    let mut out = String::new();
    if tunnel.state != State::Up {
        out += &reason_line("State", tunnel.state, tunnel.state_seconds, &tunnel.reason, &tunnel.message);
    }
    // The tunnel takes its state over from its worst NHS; what was said once is not said again.
    let said =
        |nhs: &Nhs| nhs.message == tunnel.message && nhs.state == tunnel.state && tunnel.nhs.len() == 1;
    for nhs in tunnel.nhs.iter().filter(|nhs| nhs.state != State::Up && !said(nhs)) {
        let who = format!("NHS {} {} state", one_line(&nhs.name), address_or_unknown(nhs.address));
        out += &reason_line(&who, nhs.state, nhs.state_seconds, &nhs.reason, &nhs.message);
    }
    if !tunnel.hindrance.is_empty() {
        out += &format!("   Forwarding: {}\n", one_line(&tunnel.hindrance));
    }
    if !tunnel.remark.is_empty() {
        out += &format!("   Remark: {}\n", one_line(&tunnel.remark));
    }
    out
}

fn reason_line(who: &str, at: State, seconds: u64, reason: &str, message: &str) -> String {
    let mut line = format!("   {who} {} since {}", state(at), Since(Some(seconds)));
    if !reason.is_empty() {
        line += &format!(", {}", one_line(reason));
    }
    if !message.is_empty() {
        line += &format!(": {}", one_line(message));
    }
    line + "\n"
}
