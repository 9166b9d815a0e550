//! `show ip nhrp brief`: the NHRP cache, one line an entry.

use crate::Family;
use crate::report::{CacheEntry, Report};
use crate::show_ip_nhrp::kind;
use crate::text::{address, address_or_unknown, net_is_of};

/// Prints `show ip nhrp brief` (`show ipv6 nhrp brief`). Columns have Cisco's widths and grow with what is wider.
pub fn show_ip_nhrp_brief(report: &Report, family: Family) -> String {
    let lines: Vec<Line> = report
        .tunnels
        .iter()
        .flat_map(|tunnel| tunnel.cache.iter().map(|entry| (tunnel.interface.as_str(), entry)))
        .filter(|(_, entry)| net_is_of(family, &entry.target))
        .map(|(interface, entry)| Line::new(interface, entry))
        .collect();
    let widest =
        |least: usize, of: fn(&Line) -> &str| lines.iter().map(|l| of(l).len()).fold(least, usize::max);
    let (target, via) = (widest(20, |l| &l.target), widest(15, |l| &l.via));
    let (nbma, mode, interface) =
        (widest(15, |l| &l.nbma), widest(8, |l| l.mode), widest(7, |l| &l.interface));

    let mut out = format!(
        "   {:<w$} {:<via$} {:<nbma$} {:<mode$} {:<interface$} Claimed\n",
        "Target",
        "Via",
        "NBMA",
        "Mode",
        "Intfc",
        w = target - 2,
    );
    for line in &lines {
        let (t, v, n) = (&line.target, &line.via, &line.nbma);
        let (m, name, claimed) = (line.mode, &line.interface, &line.claimed);
        out += &format!("{t:>target$} {v:<via$} {n:<nbma$} {m:<mode$} {name:<interface$} < {claimed} >\n");
    }
    out
}

struct Line {
    target: String,
    via: String,
    nbma: String,
    mode: &'static str,
    interface: String,
    claimed: String,
}

impl Line {
    fn new(interface: &str, entry: &CacheEntry) -> Self {
        let claimed = entry.claimed_nbma.filter(|claimed| Some(*claimed) != entry.nbma);
        Self {
            target: address(entry.target),
            via: address(entry.via),
            nbma: address_or_unknown(entry.nbma),
            mode: kind(entry),
            interface: interface.into(),
            claimed: claimed.map_or_else(|| " ".into(), address),
        }
    }
}
