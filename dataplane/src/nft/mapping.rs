//! Prefixes that have another name in the overlay (1:1), and those that keep theirs whatever the host masquerades.
//!
//! By connection tracking, so that errors (ICMP) about what was mapped are mapped too; since the mapping is one of whole
//! prefixes it is the same for every connection, and one that the tracking has forgotten goes on. Both chains come
//! before the host's own NAT: the first mapping of a connection is the only one.

use std::fmt::Write as _;

use ipnet::IpNet;

use super::end;

/// A prefix behind the node, and what the overlay knows it as; the same: it keeps its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    /// As it is on site.
    pub local: IpNet,
    /// In the overlay: of the same family and length.
    pub announced: IpNet,
}

/// The chains of a tunnel's link.
pub(super) fn render(out: &mut String, link: &str, mappings: &[Mapping]) {
    let list = |v4: bool, inward: bool| {
        let fitting = mappings
            .iter()
            .filter(|it| it.local.addr().is_ipv4() == v4 && it.announced.addr().is_ipv4() == v4);
        let fitting = fitting.filter(|it| !inward || it.local != it.announced);
        let pairs: Vec<_> = fitting
            .map(|it| match inward {
                true => format!("{} : {}", it.announced, it.local),
                false => format!("{} : {}", it.local, it.announced),
            })
            .collect();
        (!pairs.is_empty()).then(|| pairs.join(", "))
    };
    let mut rules = |name: &str, hook: &str, way: &str, verb: &str, side: &str, inward: bool| {
        let lists = [("ip", list(true, inward)), ("ip6", list(false, inward))];
        if lists.iter().all(|(_, list)| list.is_none()) {
            return;
        }
        let _ = writeln!(out, "\tchain {name} {{\n\t\ttype nat hook {hook}; policy accept;");
        for (family, list) in lists {
            if let Some(list) = list {
                let _ = writeln!(out, "\t\t{way} {verb} {family} prefix to {family} {side} map {{ {list} }}");
            }
        }
        end(out);
    };
    let (inward, outward) =
        (format!("iifname \"{link}\""), format!("iifname != \"{link}\" oifname \"{link}\""));
    rules("map_in", "prerouting priority dstnat - 10", &inward, "dnat", "daddr", true);
    // What goes from one spoke to another is named already.
    rules("map_out", "postrouting priority srcnat - 10", &outward, "snat", "saddr", false);
}

/// The text that puts in place of the network's table one by which packets from `sources` to `destinations` keep their
/// source address, whatever the host masquerades; for a node that has no tunnel of the network.
pub fn render_kept(network: &str, sources: &[IpNet], destinations: &[IpNet]) -> String {
    let mut text = super::remove(network);
    let mut rules = String::new();
    for (family, v4) in [("ip", true), ("ip6", false)] {
        let of = |list: &[IpNet]| -> Vec<String> {
            list.iter().filter(|it| it.addr().is_ipv4() == v4).map(ToString::to_string).collect()
        };
        let (sources, destinations) = (of(sources), of(destinations));
        if sources.is_empty() || destinations.is_empty() {
            continue;
        }
        let pairs: Vec<_> = sources.iter().map(|it| format!("{it} : {it}")).collect();
        let _ = writeln!(
            rules,
            "\t\t{family} daddr {{ {} }} snat {family} prefix to {family} saddr map {{ {} }}",
            destinations.join(", "),
            pairs.join(", ")
        );
    }
    let table = super::table(network);
    let _ = writeln!(text, "table inet {table} {{");
    if !rules.is_empty() {
        let _ = writeln!(
            text,
            "\tchain keep {{\n\t\ttype nat hook postrouting priority srcnat - 10; policy accept;"
        );
        text.push_str(&rules);
        end(&mut text);
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::super::{Ruleset, render};
    use super::{Mapping, render_kept};

    #[test]
    fn a_node_behind_a_gateway_keeps_the_addresses_of_its_pods() {
        let nets = |list: &[&str]| list.iter().map(|it| it.parse().unwrap()).collect::<Vec<_>>();
        let text = render_kept(
            "n",
            &nets(&["10.244.2.0/24"]),
            &nets(&["10.255.0.0/16", "10.9.0.0/24", "fd00::/64"]),
        );
        let rule = "\t\tip daddr { 10.255.0.0/16, 10.9.0.0/24 } snat ip prefix to ip saddr map { 10.244.2.0/24 : 10.244.2.0/24 }";
        assert!(text.lines().any(|it| it == rule) && !text.contains("ip6"), "{text}");
        assert!(!render_kept("n", &[], &nets(&["10.9.0.0/24"])).contains("chain"));
    }

    fn mapping(local: &str, announced: &str) -> Mapping {
        Mapping { local: local.parse().unwrap(), announced: announced.parse().unwrap() }
    }

    #[test]
    fn prefixes_are_mapped_both_ways_and_some_keep_their_addresses() {
        let mappings = vec![
            mapping("10.1.0.0/24", "10.9.0.0/24"),
            mapping("10.244.1.0/24", "10.244.1.0/24"),
            mapping("fd00:1::/64", "fd00:9::/64"),
        ];
        let rules = Ruleset { network: "n".into(), interface: "dm-n".into(), mappings, ..Ruleset::default() };
        let text = render(&rules);
        for line in [
            "\t\ttype nat hook prerouting priority dstnat - 10; policy accept;",
            "\t\tiifname \"dm-n\" dnat ip prefix to ip daddr map { 10.9.0.0/24 : 10.1.0.0/24 }",
            "\t\tiifname \"dm-n\" dnat ip6 prefix to ip6 daddr map { fd00:9::/64 : fd00:1::/64 }",
            "\t\tiifname != \"dm-n\" oifname \"dm-n\" snat ip prefix to ip saddr map { 10.1.0.0/24 : 10.9.0.0/24, 10.244.1.0/24 : 10.244.1.0/24 }",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        let kept = vec![mapping("10.244.1.0/24", "10.244.1.0/24")];
        let text = render(&Ruleset { mappings: kept, ..rules });
        assert!(!text.contains("map_in") && text.contains("map_out"), "{text}");
    }
}
