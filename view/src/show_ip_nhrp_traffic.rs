//! `show ip nhrp traffic`: NHRP packets by type and direction, and why some were dropped.

use crate::report::Report;
use crate::text::one_line;

/// Prints `show ip nhrp traffic`. Nothing limits what we send on one tunnel, which `Max-send limit:0` stands for.
pub fn show_ip_nhrp_traffic(report: &Report) -> String {
    let mut out = String::new();
    for tunnel in &report.tunnels {
        let traffic = &tunnel.traffic;
        out += &format!("{}: Max-send limit:0Pkts/10Sec, Usage:0%\n", tunnel.interface);
        out += &direction("Sent", &traffic.sent);
        out += &direction("Rcvd", &traffic.received);
        out += &direction("Fwd", &traffic.forwarded);
        out += &drops(&traffic.dropped);
    }
    out
}

fn direction(word: &str, counters: &[(String, u64)]) -> String {
    let count = |name: &str| counters.iter().filter(|(n, _)| n == name).map(|(_, count)| count).sum::<u64>();
    let known = TYPES.iter().map(|name| (*name, count(name)));
    let others = counters.iter().filter(|(name, _)| !TYPES.contains(&name.as_str()));
    let all: Vec<(String, u64)> = known
        .map(|(name, count)| (name.to_owned(), count))
        .chain(others.map(|(name, count)| (one_line(name), *count)))
        .collect();
    let total: u64 = all.iter().map(|(_, count)| count).sum();
    let mut out = format!("   {word}: Total {total}\n");
    for three in all.chunks(3) {
        let words: Vec<String> = three.iter().map(|(name, count)| format!("{count} {name}")).collect();
        out += &format!("         {}\n", words.join("  "));
    }
    out
}

/// Ours: Cisco does not say what it drops.
fn drops(dropped: &[(String, u64)]) -> String {
    let total: u64 = dropped.iter().map(|(_, count)| count).sum();
    let mut out = format!("   Dropped: Total {total}\n");
    for (reason, count) in dropped.iter().filter(|(_, count)| *count > 0) {
        out += &format!("         {count} {}\n", one_line(reason));
    }
    out
}

const TYPES: [&str; 9] = [
    "Resolution Request",
    "Resolution Reply",
    "Registration Request",
    "Registration Reply",
    "Purge Request",
    "Purge Reply",
    "Error Indication",
    "Traffic Indication",
    "Redirect Suppress",
];
