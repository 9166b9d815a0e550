//! Which class of the link's queueing discipline a packet belongs to: that of the overlay host which its route leads by.
//!
//! The class goes with the packet as its priority, into the tunnel link and no farther: outside, other queueing
//! disciplines read it in their own way.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::{chain, end, entries, is_missing, run, table};
use crate::Error;
use crate::model::ROOT;

const MAPS: [(&str, &str, &str); 2] =
    [("shape4", "ipv4_addr", "rt ip nexthop"), ("shape6", "ipv6_addr", "rt ip6 nexthop")];

pub(super) fn render(out: &mut String, link: &str) {
    for (map, of, _) in MAPS {
        let _ = writeln!(out, "\tmap {map} {{\n\t\ttype {of} : classid\n\t}}");
    }
    chain(out, "shape", "postrouting priority filter");
    for (map, _, hop) in MAPS {
        let _ = writeln!(out, "\t\toifname \"{link}\" meta priority set {hop} map @{map}");
    }
    // GRE by its number: an image without /etc/protocols has no name for it.
    let _ = writeln!(
        out,
        "\t\toifname != \"{link}\" meta l4proto 47 meta priority {ROOT:x}:0-{ROOT:x}:ffff meta priority set none"
    );
    end(out);
}

pub(super) fn classify(table: &str, afresh: bool, out: &[IpAddr], into: &[(IpAddr, u16)]) -> String {
    let mut text = String::new();
    for (map, v4) in [("shape4", true), ("shape6", false)] {
        if afresh {
            let _ = writeln!(text, "flush map inet {table} {map}");
        }
        let out: Vec<_> = out.iter().filter(|host| host.is_ipv4() == v4).map(IpAddr::to_string).collect();
        for some in out.chunks(1_000).filter(|_| !afresh) {
            let _ = writeln!(text, "delete element inet {table} {map} {{ {} }}", some.join(", "));
        }
        let into = into.iter().filter(|(host, _)| host.is_ipv4() == v4);
        let into: Vec<_> = into.map(|(host, minor)| format!("{host} : {ROOT:x}:{minor:x}")).collect();
        for some in into.chunks(1_000) {
            let _ = writeln!(text, "add element inet {table} {map} {{ {} }}", some.join(", "));
        }
    }
    text
}

/// Overlay hosts of the network's table, and their classes; empty if the table puts none into classes.
///
/// # Errors
/// [`Error::Nft`] if nft cannot be run or its answer is not understood.
pub async fn shaped(network: &str) -> Result<BTreeMap<IpAddr, u16>, Error> {
    let table = table(network);
    let mut found = BTreeMap::new();
    for (map, ..) in MAPS {
        match run(&["-j", "list", "map", "inet", &table, map], "").await {
            Ok(json) => found.extend(elements(&json)?),
            Err(Error::Nft { said }) if is_missing(&said) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Pairs out of `nft -j list map`. A class of another root is read as 0, which no host has.
fn elements(json: &str) -> Result<BTreeMap<IpAddr, u16>, Error> {
    let mut found = BTreeMap::new();
    for entry in entries(json)? {
        let list = entry.get("map").and_then(|map| map.get("elem")).and_then(|list| list.as_array());
        for element in list.into_iter().flatten() {
            let text = |at: usize| element.get(at).and_then(|it| it.as_str());
            let Some(host) = text(0).and_then(|host| host.parse().ok()) else { continue };
            let class = text(1).and_then(|class| class.split_once(':'));
            let ours = class.filter(|(major, _)| u16::from_str_radix(major, 16) == Ok(ROOT));
            let minor = ours.and_then(|(_, minor)| u16::from_str_radix(minor, 16).ok());
            found.insert(host, minor.unwrap_or(0));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_elements() {
        let rules = super::super::Ruleset {
            network: "n".into(),
            interface: "dm-n".into(),
            shape: true,
            ..Default::default()
        };
        let text = super::super::render(&rules);
        for part in [
            "\tmap shape4 {\n\t\ttype ipv4_addr : classid\n\t}\n",
            "type filter hook postrouting priority filter; policy accept;\n\t\toifname \"dm-n\" meta priority set rt ip nexthop map @shape4\n",
            "oifname \"dm-n\" meta priority set rt ip6 nexthop map @shape6\n",
            "oifname != \"dm-n\" meta l4proto 47 meta priority d600:0-d600:ffff meta priority set none\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let hosts = ["10.255.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(
            classify("t", false, &hosts[..1], &[(hosts[0], 0x11), (hosts[1], 0xabc)]),
            "delete element inet t shape4 { 10.255.0.2 }\nadd element inet t shape4 { 10.255.0.2 : d600:11 }\n\
             add element inet t shape6 { fd00::2 : d600:abc }\n"
        );
        assert_eq!(
            classify("t", true, &hosts, &[(hosts[0], 1)]),
            "flush map inet t shape4\nadd element inet t shape4 { 10.255.0.2 : d600:1 }\nflush map inet t shape6\n"
        );
    }

    #[test]
    fn reads_what_nft_lists() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"map": {"family": "inet", "name": "shape4",
            "type": "ipv4_addr", "map": "classid", "elem": [["10.255.0.2", "d600:11"], ["10.255.0.3", "1:11"],
            ["10.255.0.4", "none"]]}}]}"#;
        let want = [(2, 0x11), (3, 0), (4, 0)].map(|(n, minor)| (IpAddr::from([10, 255, 0, n]), minor));
        assert_eq!(elements(json).unwrap(), BTreeMap::from(want));
        assert!(elements(r#"{"nftables": [{"map": {"name": "shape4"}}]}"#).unwrap().is_empty());
        assert!(elements("{").is_err());
    }
}
