//! `show dmvpn detail`: interface, NHSs and target networks of every tunnel.

use crate::peers::{attributes, families, group_of, groups, ipv6_stanzas, nbma_peers, why_not_up};
use crate::report::{Nhs, Peer, Report, State, Tunnel};
use crate::text::{
    LEGEND, address, address_or_unknown, family_word, is_of, nhs_status, one_line, remarks, role, state,
};
use crate::{Family, Since};

/// Prints `show dmvpn detail`.
pub fn show_dmvpn_detail(report: &Report) -> String {
    let mut out = String::from(LEGEND);
    for tunnel in &report.tunnels {
        out += "\n";
        out += &section(tunnel);
    }
    let remarks = remarks(report);
    if !remarks.is_empty() {
        out += "\n";
        out += &remarks;
    }
    out
}

fn section(tunnel: &Tunnel) -> String {
    if tunnel.state == State::AdminDown {
        return format!("{} is admin down\n{}", tunnel.interface, why_not_up(tunnel));
    }
    let mut out = interface(tunnel);
    for (i, family) in families(tunnel).into_iter().enumerate() {
        if i > 0 {
            out += "\n";
        }
        out += &servers(tunnel, family);
        out += &format!("Type:{}, Total NBMA Peers (v4/v6): {}\n", role(tunnel.role), nbma_peers(tunnel));
        out += &match family {
            Family::Ipv4 => format!("\n{TABLE_HEAD}{}", rows(tunnel)),
            Family::Ipv6 => ipv6_stanzas(tunnel),
        };
    }
    out + &why_not_up(tunnel)
}

fn interface(tunnel: &Tunnel) -> String {
    let transport = if tunnel.source.is_some_and(|source| source.is_ipv6()) { "IPv6" } else { "IP" };
    let gre = if tunnel.destination.is_some() { "GRE" } else { "multi-GRE" };
    format!(
        "Interface {name} is {admin}/{line}, Addr. is {main}, VRF \"{vrf}\"\n   \
         Tunnel Src./Dest. addr: {source}/{destination}, Tunnel VRF \"{front}\"\n   \
         Protocol/Transport: \"{gre}/{transport}\", Protect \"{protect}\"\n   \
         Interface State Control: {control}\n   \
         nhrp event-publisher : Disabled\n{ours}\n",
        name = tunnel.interface,
        admin = up_down(tunnel.admin_up),
        line = up_down(tunnel.line_up),
        main = main_address(tunnel),
        vrf = tunnel.vrf,
        source = address_or_unknown(tunnel.source),
        destination = tunnel.destination.map_or_else(|| "MGRE".into(), address),
        front = tunnel.tunnel_vrf,
        protect = one_line(&tunnel.protection),
        control = if tunnel.interface_state_control { "Enabled" } else { "Disabled" },
        ours = ours(tunnel),
    )
}

/// What Cisco shows elsewhere or not at all: the network, all addresses, key, MTU and NHRP settings.
fn ours(tunnel: &Tunnel) -> String {
    let mut words = vec![format!("Network {}", tunnel.network), format!("network-id {}", tunnel.network_id)];
    words.extend(tunnel.key.map(|key| format!("key {key}")));
    words.push(format!("MTU {}", tunnel.mtu));
    words.extend(tunnel.path_mtu.map(|mtu| format!("path MTU {mtu}")));
    words.push(format!("holding time {} s", tunnel.holding_time));
    words.extend(tunnel.bandwidth_kbps.map(|rate| format!("bandwidth {rate} kbit/s")));
    let addresses: Vec<String> = tunnel.addresses.iter().map(address).collect();
    let all = if addresses.is_empty() { "none".into() } else { addresses.join(", ") };
    format!("   {}\n   Overlay addresses: {all}\n{}", words.join(", "), keepalive(tunnel))
}

fn keepalive(tunnel: &Tunnel) -> String {
    let Some(it) = &tunnel.keepalive else { return String::new() };
    let set = match (it.period_seconds, it.retries) {
        (Some(period), Some(retries)) => format!("set ({period} sec), retries {retries}"),
        _ => "not set".to_owned(),
    };
    format!("   Keepalive {set}: {} sent, {} returned, {} answered\n", it.sent, it.returned, it.answered)
}

/// The address of the headline: Cisco has room for one, the first of IPv4 comes first.
fn main_address(tunnel: &Tunnel) -> String {
    let ipv4 = tunnel.addresses.iter().find(|net| net.addr().is_ipv4());
    ipv4.or_else(|| tunnel.addresses.first()).map_or_else(|| "UNKNOWN".into(), |net| address(net.addr()))
}

fn servers(tunnel: &Tunnel, family: Family) -> String {
    // An NHS whose overlay address is not known yet is listed with IPv4, so that it is never hidden.
    let of_family = |nhs: &&Nhs| nhs.address.map_or(family == Family::Ipv4, |address| is_of(family, address));
    let lines: Vec<String> = tunnel.nhs.iter().filter(of_family).map(server).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!("{} NHS:\n{}", family_word(family), lines.concat())
}

fn server(nhs: &Nhs) -> String {
    let nbma = nhs.nbma.map_or_else(String::new, |nbma| format!(" NBMA Address: {}", address(nbma)));
    format!(
        "{}  {:<2}{nbma} priority = {} cluster = {}\n",
        address_or_unknown(nhs.address),
        nhs_status(nhs.status),
        nhs.priority,
        nhs.cluster
    )
}

fn rows(tunnel: &Tunnel) -> String {
    let mut out = String::new();
    for group in groups(tunnel, Family::Ipv4) {
        for (i, peer) in group.iter().enumerate() {
            let entries = (i == 0).then_some(group.len());
            out += &row(entries, peer);
            out += &group_of(peer);
        }
    }
    out
}

fn row(entries: Option<usize>, peer: &Peer) -> String {
    let entries = entries.map_or_else(String::new, |n| n.to_string());
    let nbma = address_or_unknown(peer.nbma);
    let left = if nbma.len() > 15 {
        format!("{entries:>5} {nbma}\n{}", " ".repeat(21))
    } else {
        format!("{entries:>5} {nbma:<15}")
    };
    format!(
        "{left} {:>15} {:>5} {:>8} {:>5} {:>18}\n{}",
        address(peer.address),
        state(peer.state),
        Since(peer.up_down_seconds),
        attributes(&peer.attributes),
        address(peer.target),
        claimed(peer)
    )
}

fn claimed(peer: &Peer) -> String {
    let differs = peer.claimed_nbma.filter(|claimed| Some(*claimed) != peer.nbma);
    differs.map_or_else(String::new, |claimed| format!("      Claimed Addr. {}\n", address(claimed)))
}

fn up_down(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

const TABLE_HEAD: &str = concat!(
    "# Ent  Peer NBMA Addr Peer Tunnel Add State  UpDn Tm Attrb    Target Network\n",
    "----- --------------- --------------- ----- -------- ----- -----------------\n",
);
