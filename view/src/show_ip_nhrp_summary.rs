//! `show ip nhrp summary`: how many cache entries there are, of which kind and for what.

use crate::Family;
use crate::report::{CacheEntry, CacheKind, Report};
use crate::text::net_is_of;

/// Prints `show ip nhrp summary`. `bytes` is what the entries take in the report, not in the agent.
pub fn show_ip_nhrp_summary(report: &Report, family: Family) -> String {
    let all: Vec<&CacheEntry> = report
        .tunnels
        .iter()
        .flat_map(|t| &t.cache)
        .filter(|entry| net_is_of(family, &entry.target))
        .collect();
    let (local, remote): (Vec<&CacheEntry>, Vec<&CacheEntry>) =
        all.iter().partition(|entry| entry.flags.iter().any(|flag| flag == "local"));
    let with = |flag: &str| remote.iter().filter(|entry| entry.flags.iter().any(|f| f == flag)).count();
    let default = remote.iter().filter(|entry| entry.target.prefix_len() == 0).count();
    let (rib, override_) = (with("rib"), with("nho"));
    format!(
        "{word} NHRP cache {total} entries, {bytes} bytes\n    {all_kinds}\n\
         {remote_count} Remote\n    {remote_kinds}\n    {nhop} nhop {bfd} bfd\n    {default} default {temporary} temporary\n    \
         {routes} route\n        {routes} rib ({rib} H {override_} nho)\n        {bgp} bgp\n    0 lfib\n\
         {local_count} Local\n    {local_kinds}\n    0 lfib\n",
        word = if family == Family::Ipv4 { "IP" } else { "IPv6" },
        total = all.len(),
        bytes = all.iter().map(|entry| bytes(entry)).sum::<usize>(),
        all_kinds = kinds(&all),
        remote_count = remote.len(),
        remote_kinds = kinds(&remote),
        nhop = with("nhop"),
        bfd = with("bfd"),
        temporary = with("temporary"),
        routes = rib + override_,
        bgp = with("bgp"),
        local_count = local.len(),
        local_kinds = kinds(&local),
    )
}

fn kinds(entries: &[&CacheEntry]) -> String {
    let of = |kind| entries.iter().filter(|entry| entry.kind == kind).count();
    format!(
        "{} static {} dynamic {} incomplete",
        of(CacheKind::Static),
        of(CacheKind::Dynamic),
        of(CacheKind::Incomplete) + of(CacheKind::Negative)
    )
}

fn bytes(entry: &CacheEntry) -> usize {
    let flags: usize = entry.flags.iter().map(|flag| size_of::<String>() + flag.len()).sum();
    size_of::<CacheEntry>() + flags + size_of_val(entry.requesters.as_slice())
}
