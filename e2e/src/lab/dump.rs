//! The kernel tables of a host, for "equal to the dump taken before".
//!
//! Taken are links, addresses, routes of all tables, rules, neighbours, xfrm, nft and the sysctls of
//! `net.ipv4` and `net.ipv6`, without what changes by itself: counters, ages, neighbours that the kernel
//! learned and will forget. Indexes of links stay in: a link that was made again is a difference.
//! Excepted are the devices, and sysctl names, that loading a kernel module makes (`gre0`, `sit0`, …).

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::Value;

use super::host::Host;

/// Devices that appear in each namespace when the module of their kind is loaded.
const MODULE_DEVICES: [&str; 9] =
    ["gre0", "gretap0", "erspan0", "tunl0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"];

/// Fields of `ip -j` that change by themselves.
const VOLATILE_FIELDS: [&str; 19] = [
    "stats",
    "stats64",
    "used",
    "confirmed",
    "updated",
    "probes",
    "refcnt",
    "expires",
    "cache",
    "age",
    "valid_life_time",
    "preferred_life_time",
    "forward_delay_timer",
    "gc_timer",
    "hello_timer",
    "hold_timer",
    "message_age_timer",
    "tcn_timer",
    "topology_change_timer",
];

/// Neighbour states of entries that the kernel made for a packet and will drop by itself.
const LEARNED_STATES: [&str; 6] = ["INCOMPLETE", "REACHABLE", "STALE", "DELAY", "PROBE", "FAILED"];

/// Sysctls of the two families that the kernel changes by itself or that are not the namespace's own.
const VOLATILE_SYSCTLS: [&str; 4] = ["/neigh/", "/route/flush", "fib_multipath_hash", "ip_local_port_range"];

/// Tables of one host at one moment. Compare with [`Dump::changes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    sections: BTreeMap<&'static str, Vec<String>>,
}

/// One line that only one of two dumps has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `link`, `address`, `route`, `rule`, `neighbour`, `xfrm`, `nft`, `sysctl`.
    pub section: &'static str,
    /// Whether the later dump has it (else the earlier one).
    pub added: bool,
    /// The entry.
    pub line: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", if self.added { '+' } else { '-' }, self.section, self.line)
    }
}

impl Dump {
    /// Reads all tables of `host`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn take(host: &Host) -> Result<Self> {
        let mut sections = BTreeMap::new();
        sections.insert("link", entries(&host.ip_json("-d link show")?, "ifname"));
        sections.insert("address", addresses(&host.ip_json("-d address show")?));
        let mut routes = entries(&host.ip_json("-d -4 route show table all")?, "dev");
        routes.extend(entries(&host.ip_json("-d -6 route show table all")?, "dev"));
        sections.insert("route", routes);
        let mut rules = entries(&host.ip_json("-4 rule show")?, "none");
        rules.extend(entries(&host.ip_json("-6 rule show")?, "none").into_iter().map(|r| format!("6 {r}")));
        sections.insert("rule", rules);
        let mut neighbours = neighbours(&host.ip_json("-d neighbour show nud all")?);
        neighbours.extend(neighbours_proxy(host)?);
        sections.insert("neighbour", neighbours);
        sections.insert("xfrm", xfrm(host)?);
        let nft = host.run(&["nft", "-s", "list", "ruleset"])?;
        sections.insert("nft", nft_lines(&nft));
        // One process for all files; those that may not be read (write-only) are left out.
        let script = "cd /proc/sys/net && grep -rsH '' ipv4 ipv6 || true";
        sections.insert("sysctl", sysctls(&host.run(&["sh", "-c", script])?));
        for (name, lines) in &mut sections {
            // The order of nft's lines means something, that of all others does not.
            if *name != "nft" {
                lines.sort();
            }
        }
        Ok(Self { sections })
    }

    /// What `later` has more (`+`) and less (`-`) than this one, except what loading a module made.
    #[must_use]
    pub fn changes(&self, later: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (&section, before) in &self.sections {
            let after = later.sections.get(section).map_or(&[][..], Vec::as_slice);
            for line in only_in(before, after) {
                changes.push(Change { section, added: false, line });
            }
            for line in only_in(after, before) {
                changes.push(Change { section, added: true, line });
            }
        }
        changes.retain(|change| !made_by_module(change));
        changes
    }

    /// Fails when `later` differs, with every difference.
    ///
    /// # Errors
    /// With one line a difference.
    pub fn ensure_equal(&self, later: &Self) -> Result<()> {
        let changes = self.changes(later);
        anyhow::ensure!(changes.is_empty(), "{} differences:\n{}", changes.len(), print(&changes));
        Ok(())
    }

    /// The entries of one section.
    #[must_use]
    pub fn section(&self, name: &str) -> &[String] {
        self.sections.get(name).map_or(&[], Vec::as_slice)
    }

    /// How many entries there are in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sections.values().map(Vec::len).sum()
    }

    /// Whether nothing at all was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One change a line.
#[must_use]
pub fn print(changes: &[Change]) -> String {
    changes.iter().map(|c| format!("  {c}")).collect::<Vec<_>>().join("\n")
}

/// The tables as a person reads them, counters included: for the evidence folder.
#[must_use]
pub(super) fn for_reading(host: &Host) -> String {
    let mut text = String::new();
    for words in [
        "ip -d -s link",
        "ip address",
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip rule",
        "ip -6 rule",
        "ip -s neighbour show nud all",
        "ip -s xfrm state",
        "ip -s xfrm policy",
        "nft list ruleset",
        "cat /proc/net/snmp /proc/net/xfrm_stat",
        "ps -ef",
    ] {
        let _ = writeln!(text, "# {words}");
        let words: Vec<&str> = words.split_whitespace().collect();
        match host.output(&words) {
            Ok(output) => {
                text += &String::from_utf8_lossy(&output.stdout);
                text += &String::from_utf8_lossy(&output.stderr);
            }
            Err(error) => {
                let _ = writeln!(text, "{error:#}");
            }
        }
        text.push('\n');
    }
    text
}

/// Each object of a JSON array on one line, the value of `first` in front.
fn entries(array: &Value, first: &str) -> Vec<String> {
    let objects = array.as_array().map_or(&[][..], Vec::as_slice);
    objects.iter().map(|o| format!("{} {}", text_of(o, first), without_volatile(o))).collect()
}

fn addresses(array: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for link in array.as_array().into_iter().flatten() {
        let device = text_of(link, "ifname");
        for address in link["addr_info"].as_array().into_iter().flatten() {
            lines.push(format!("{device} {}", without_volatile(address)));
        }
    }
    lines
}

fn neighbours(array: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in array.as_array().into_iter().flatten() {
        let states: Vec<&str> =
            entry["state"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let learned = states.iter().any(|s| LEARNED_STATES.contains(s));
        let destination = text_of(entry, "dst");
        let multicast = destination.parse().is_ok_and(|a: std::net::IpAddr| a.is_multicast());
        // NOARP entries of multicast groups come with the first packet to them; NONE is an entry just made.
        let by_itself = learned || multicast || states.contains(&"NONE") || text_of(entry, "dev") == "lo";
        let set_by_hand = entry.get("extern_learn").is_some() || entry.get("protocol").is_some();
        if !by_itself || set_by_hand {
            lines.push(format!("{} {}", text_of(entry, "dev"), without_volatile(entry)));
        }
    }
    lines
}

fn neighbours_proxy(host: &Host) -> Result<Vec<String>> {
    let proxies = host.ip_json("neighbour show proxy")?;
    Ok(entries(&proxies, "dev").into_iter().map(|line| format!("proxy {line}")).collect())
}

/// `ip xfrm` has no JSON: each state and policy is a line that is not indented and those below it.
fn xfrm(host: &Host) -> Result<Vec<String>> {
    let mut blocks: Vec<String> = Vec::new();
    for table in ["state", "policy"] {
        let text = host.run(&["ip", "xfrm", table, "show"]).with_context(|| format!("xfrm {table}"))?;
        for line in text.lines() {
            // Sequence numbers are counters.
            if line.contains("anti-replay context") || line.contains("lastused") {
                continue;
            }
            match blocks.last_mut() {
                Some(block) if line.starts_with([' ', '\t']) => {
                    block.push(' ');
                    block.push_str(line.trim());
                }
                _ => blocks.push(format!("{table} {}", line.trim())),
            }
        }
    }
    Ok(blocks)
}

/// nft's lines, each with the table and chain (or set) that it stands in.
fn nft_lines(text: &str) -> Vec<String> {
    let mut path: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if line == "}" {
            path.pop();
            continue;
        }
        lines.push(path.iter().map(String::as_str).chain([line]).collect::<Vec<_>>().join(" / "));
        if let Some(opened) = line.strip_suffix('{') {
            path.push(opened.trim().to_owned());
        }
    }
    lines
}

/// `ipv4/conf/all/forwarding:1` a line.
fn sysctls(text: &str) -> Vec<String> {
    let kept = text.lines().filter(|l| !VOLATILE_SYSCTLS.iter().any(|v| l.contains(v)));
    kept.map(str::to_owned).collect()
}

fn only_in(here: &[String], there: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in there {
        *counts.entry(line).or_default() += 1;
    }
    let mut left = Vec::new();
    for line in here {
        match counts.get_mut(line.as_str()) {
            Some(count) if *count > 0 => *count -= 1,
            _ => left.push(line.clone()),
        }
    }
    left
}

fn made_by_module(change: &Change) -> bool {
    match change.section {
        "sysctl" => MODULE_DEVICES.iter().any(|d| change.line.contains(&format!("/conf/{d}/"))),
        "link" | "address" | "route" => {
            MODULE_DEVICES.iter().any(|d| change.line.starts_with(&format!("{d} ")))
        }
        _ => false,
    }
}

fn text_of<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or("-")
}

fn without_volatile(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(name, _)| !VOLATILE_FIELDS.contains(&name.as_str()));
            kept.map(|(name, value)| (name.clone(), without_volatile(value)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        Value::Array(items) => items.iter().map(without_volatile).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lines_are_counted_and_the_rest_is_told_apart() {
        let lines = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let before = Dump { sections: BTreeMap::from([("route", lines(&["a", "b", "b"]))]) };
        let after = Dump { sections: BTreeMap::from([("route", lines(&["b", "c"]))]) };
        let changes: Vec<String> = before.changes(&after).iter().map(ToString::to_string).collect();
        assert_eq!(changes, ["- route a", "- route b", "+ route c"]);
        assert!(before.ensure_equal(&after).is_err());
        assert!(before.ensure_equal(&before.clone()).is_ok());
    }

    #[test]
    fn what_a_module_made_is_excepted_and_its_look_alike_is_not() {
        let change = |section, line: &str| Change { section, added: true, line: line.to_owned() };
        assert!(made_by_module(&change("link", "gre0 {}")));
        assert!(made_by_module(&change("sysctl", "ipv4/conf/gre0/forwarding:0")));
        assert!(!made_by_module(&change("link", "gre01 {}")));
        assert!(!made_by_module(&change("sysctl", "ipv4/conf/gre01/forwarding:0")));
        assert!(!made_by_module(&change("neighbour", "gre0 {}")));
    }

    #[test]
    fn nft_lines_name_their_place() {
        let text = "table inet a {\n\tchain c {\n\t\tcounter accept\n\t}\n}\ntable inet b {\n}\n";
        assert_eq!(
            nft_lines(text),
            [
                "table inet a {",
                "table inet a / chain c {",
                "table inet a / chain c / counter accept",
                "table inet b {"
            ]
        );
    }
}
