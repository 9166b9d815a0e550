//! The same tables for programs.

use serde_json::{Value, json};

use crate::report::{Report, Tunnel};
use crate::text::{is_of, net_is_of};
use crate::{Family, Show};

/// The part of the report that a table is made of. `show dmvpn [detail]` is a whole [`Report`]; the NHRP tables are a
/// list with one object a tunnel (`interface`, `network` and `cache`, `nhs` or `traffic`); `show problems` is a list.
///
/// # Errors
/// Fails only if a type of the report cannot be written as JSON.
pub fn json(report: &Report, show: Show) -> Result<Value, serde_json::Error> {
    match show {
        Show::Dmvpn | Show::DmvpnDetail => serde_json::to_value(report),
        Show::Nhrp(family)
        | Show::NhrpBrief(family)
        | Show::NhrpDetail(family)
        | Show::NhrpSummary(family) => tunnels(report, "cache", |tunnel| {
            let entries = tunnel.cache.iter().filter(|entry| net_is_of(family, &entry.target));
            serde_json::to_value(entries.collect::<Vec<_>>())
        }),
        Show::NhrpNhs(family) | Show::NhrpNhsDetail(family) => tunnels(report, "nhs", |tunnel| {
            let shown = |a: Option<std::net::IpAddr>| a.map_or(family == Family::Ipv4, |a| is_of(family, a));
            serde_json::to_value(tunnel.nhs.iter().filter(|nhs| shown(nhs.address)).collect::<Vec<_>>())
        }),
        Show::NhrpTraffic => tunnels(report, "traffic", |tunnel| serde_json::to_value(&tunnel.traffic)),
        Show::Problems => serde_json::to_value(&report.problems),
    }
}

fn tunnels(
    report: &Report,
    part: &str,
    value: impl Fn(&Tunnel) -> Result<Value, serde_json::Error>,
) -> Result<Value, serde_json::Error> {
    let one = |tunnel: &Tunnel| {
        Ok(json!({"interface": tunnel.interface, "network": tunnel.network, part: value(tunnel)?}))
    };
    report.tunnels.iter().map(one).collect::<Result<Vec<_>, _>>().map(Value::Array)
}
