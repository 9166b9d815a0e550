//! `show ip nhrp [detail]`: the NHRP cache, one stanza an entry.

use crate::report::{CacheEntry, CacheKind, Report};
use crate::text::{address, net_is_of, one_line};
use crate::{Family, Since};

/// Prints `show ip nhrp` (`show ipv6 nhrp`).
pub fn show_ip_nhrp(report: &Report, family: Family) -> String {
    stanzas(report, family, false)
}

/// Prints `show ip nhrp detail`: preference, version and requesters too.
pub fn show_ip_nhrp_detail(report: &Report, family: Family) -> String {
    stanzas(report, family, true)
}

/// `Type:` of an entry. Cisco has no type of its own for a refused one: it is incomplete with the flag `negative`.
pub(crate) fn kind(entry: &CacheEntry) -> &'static str {
    match entry.kind {
        CacheKind::Dynamic => "dynamic",
        CacheKind::Incomplete | CacheKind::Negative => "incomplete",
        CacheKind::Static => "static",
    }
}

fn stanzas(report: &Report, family: Family, detail: bool) -> String {
    let mut out = String::new();
    for tunnel in &report.tunnels {
        for entry in tunnel.cache.iter().filter(|entry| net_is_of(family, &entry.target)) {
            out += &stanza(&tunnel.interface, entry, detail);
        }
    }
    out
}

fn stanza(interface: &str, entry: &CacheEntry, detail: bool) -> String {
    let expiry = match entry.expire_seconds {
        None => "never expire".into(),
        some => format!("expire {}", Since(some)),
    };
    let mut out = format!(
        "{} via {}\n   {interface} created {}, {expiry}\n   Type: {}, Flags:{}\n",
        address(entry.target),
        address(entry.via),
        Since(Some(entry.created_seconds)),
        kind(entry),
        flags(entry).iter().map(|flag| format!(" {flag}")).collect::<String>(),
    );
    if let Some(nbma) = entry.nbma {
        out += &format!("   NBMA address: {}\n", address(nbma));
    }
    if let Some(claimed) = entry.claimed_nbma.filter(|claimed| Some(*claimed) != entry.nbma) {
        out += &format!("    (Claimed NBMA address: {})\n", address(claimed));
    }
    if let Some(group) = &entry.group {
        out += &format!("   Group: {}\n", one_line(&group.name));
    }
    if entry.flags.iter().any(|flag| flag == NO_SOCKET) {
        out += "    (no-socket)\n";
    }
    if !entry.reason.is_empty() {
        out += &format!("    ({})\n", one_line(&entry.reason));
    }
    if !detail {
        return out;
    }
    out += &format!("   Preference: {}\n", entry.preference);
    if let Some(software) = &entry.software {
        let can: String = software.capabilities.iter().map(|name| format!(" {}", one_line(name))).collect();
        out += &format!("   Version: {}, Capabilities:{can}\n", one_line(&software.version));
    }
    for (requester, id) in &entry.requesters {
        out += &format!("  Requester: {} Request ID: {id}\n", address(requester));
    }
    out
}

/// Flags as printed: `no-socket` has a line of its own, a refusal shows as `negative`.
fn flags(entry: &CacheEntry) -> Vec<String> {
    let mut flags: Vec<String> =
        entry.flags.iter().filter(|flag| *flag != NO_SOCKET).map(|flag| one_line(flag)).collect();
    if entry.kind == CacheKind::Negative && !flags.iter().any(|flag| flag == NEGATIVE) {
        flags.push(NEGATIVE.into());
    }
    flags
}

const NEGATIVE: &str = "negative";
const NO_SOCKET: &str = "no-socket";
