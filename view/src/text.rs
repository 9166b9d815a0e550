//! Small pieces of text that every table shares.

use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::Family;
use crate::report::{NhsStatus, Report, Role, State};

/// An address as Cisco prints it: IPv6 in capitals.
pub(crate) fn address(address: impl Display) -> String {
    address.to_string().to_ascii_uppercase()
}

/// An address that may not be known yet.
pub(crate) fn address_or_unknown(known: Option<IpAddr>) -> String {
    known.map_or_else(|| "UNKNOWN".into(), address)
}

/// One line out of a text that someone else wrote: control characters (terminal escapes, line ends) and characters that
/// turn the direction of writing become blanks.
pub(crate) fn one_line(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let blanked: String = text.chars().map(|c| if hidden(c) { ' ' } else { c }).collect();
    blanked.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `State` column, at most five letters.
pub(crate) fn state(state: State) -> &'static str {
    match state {
        State::AdminDown => "DOWN",
        State::Ike => "IKE",
        State::Intf => "INTF",
        State::Ipsec => "IPsec",
        State::Nhrp => "NHRP",
        State::Unknown => "UNKN",
        State::Up => "UP",
    }
}

/// `Type:` of a tunnel.
pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Hub => "Hub",
        Role::HubSpoke => "Hub/Spoke",
        Role::Spoke => "Spoke",
    }
}

/// Status letters of an NHS: an NHS that responds is still one from which replies are expected.
pub(crate) fn nhs_status(status: NhsStatus) -> &'static str {
    match status {
        NhsStatus::Expecting => "E",
        NhsStatus::Responding => "RE",
        NhsStatus::Waiting => "W",
    }
}

pub(crate) fn is_of(family: Family, address: IpAddr) -> bool {
    address.is_ipv4() == (family == Family::Ipv4)
}

pub(crate) fn net_is_of(family: Family, net: &IpNet) -> bool {
    is_of(family, net.addr())
}

/// `IPv4` or `IPv6`.
pub(crate) fn family_word(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}

/// Closing lines of a report without tunnels or with objects that could not be used; empty when all is well.
pub(crate) fn remarks(report: &Report) -> String {
    let mut out = String::new();
    if report.tunnels.is_empty() {
        out += &format!(
            "  No tunnel on node {}: no DmvpnNetwork or DmvpnSpoke that is accepted selects it\n",
            report.node
        );
    }
    match report.problems.len() {
        0 => {}
        1 => out += "  One object could not be used: see \"show problems\"\n",
        n => out += &format!("  Objects that could not be used: {n}, see \"show problems\"\n"),
    }
    out
}

/// What comes before `show dmvpn [detail]`.
pub(crate) const LEGEND: &str = "\
Legend: Attrb --> S - Static, D - Dynamic, I - Incomplete
        N - NATed, L - Local, X - No Socket
        T1 - Route Installed, T2 - Nexthop-override, B - BGP
        C - CTS Capable, I2 - Temporary
        # Ent --> Number of NHRP entries with same NBMA peer
        NHS Status: E --> Expecting Replies, R --> Responding, W --> Waiting
        UpDn Time --> Up or Down Time for a Tunnel
==========================================================================
";
