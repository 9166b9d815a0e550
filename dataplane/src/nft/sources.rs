//! What may come out of a protected tunnel, by whom the outer packet is from.
//!
//! The outer packet, its ESP undone, is marked with the number of its sender where it comes in; what comes out of the
//! link is looked up by that mark and its own source, and the mark goes before anybody else sees it. A sender without
//! a number may send nothing, or ([`Strangers`]) what is nobody's here. Link-local addresses are passed on by nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::{Guard, chain, end, keys};

/// Who may send what: senders by underlay address, and what each of them may send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Senders {
    /// Number of each sender; bit 31 is set in all of them.
    pub numbers: BTreeMap<Ipv4Addr, u32>,
    /// Inner sources by number. Those of one sender do not overlap.
    pub sources: BTreeSet<(u32, IpNet)>,
    /// What strangers may not send: sources of those who are here. They do not overlap.
    pub taken: BTreeSet<IpNet>,
}

/// What a sender without a number may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// Nothing.
    Nothing,
    /// What is not taken: members of other hubs send straight to what is behind this one.
    Untaken,
}

pub(super) fn render(out: &mut String, link: &str, guard: &Guard, strangers: Strangers) {
    let _ = writeln!(out, "\tmap senders {{\n\t\ttype ipv4_addr : mark\n\t}}");
    for (name, kind) in [("sources4", "ipv4_addr"), ("sources6", "ipv6_addr")] {
        let _ = writeln!(out, "\tset {name} {{\n\t\ttype mark . {kind}\n\t\tflags interval\n\t}}");
    }
    if strangers == Strangers::Untaken {
        for (name, kind) in [("taken4", "ipv4_addr"), ("taken6", "ipv6_addr")] {
            let _ = writeln!(out, "\tset {name} {{\n\t\ttype {kind}\n\t\tflags interval\n\t}}");
        }
    }
    let locals: Vec<_> = guard.locals.iter().map(Ipv4Addr::to_string).collect();
    let locals = locals.join(", ");
    chain(out, "senders_in", "input priority raw");
    for key in keys(guard) {
        let gre = format!("ip daddr {{ {locals} }} ip protocol 47 meta ipsec exists {key}");
        // What others had marked it with says nothing here.
        let _ = writeln!(out, "\t\t{gre} meta mark set 0");
        let _ = writeln!(out, "\t\t{gre} meta mark set ip saddr map @senders");
    }
    end(out);
    chain(out, "sources_in", "prerouting priority raw");
    let _ = writeln!(out, "\t\tiifname \"{link}\" ip6 saddr {{ ::, fe80::/10 }} meta mark set 0 accept");
    if strangers == Strangers::Untaken {
        for (ip, set) in [("ip", "taken4"), ("ip6", "taken6")] {
            let _ = writeln!(out, "\t\tiifname \"{link}\" meta mark 0 {ip} saddr != @{set} accept");
        }
    }
    for (ip, set) in [("ip", "sources4"), ("ip6", "sources6")] {
        let _ = writeln!(out, "\t\tiifname \"{link}\" meta mark . {ip} saddr != @{set} counter drop");
    }
    let _ = writeln!(out, "\t\tiifname \"{link}\" meta mark set 0");
    end(out);
}

/// What makes of what a table holds (`old`) what it should hold.
pub(super) fn change(table: &str, old: &Senders, new: &Senders) -> String {
    let mut text = String::new();
    let mut elements = |verb: &str, name: &str, list: Vec<String>| {
        for some in list.chunks(1_000) {
            let _ = writeln!(text, "{verb} element inet {table} {name} {{ {} }}", some.join(", "));
        }
    };
    let differs = |a: &Senders, b: &Senders, v4: bool| -> Vec<String> {
        let all = a.sources.difference(&b.sources).filter(|(_, net)| net.addr().is_ipv4() == v4);
        all.map(|(number, net)| format!("{number:#x} . {}", plain(*net))).collect()
    };
    let numbers = |a: &Senders, b: &Senders| -> Vec<(Ipv4Addr, u32)> {
        let all = a.numbers.iter().filter(|(at, number)| b.numbers.get(*at) != Some(number));
        all.map(|(at, number)| (*at, *number)).collect()
    };
    let gone = numbers(old, new).into_iter().map(|(at, _)| at.to_string()).collect();
    elements("delete", "senders", gone);
    for (name, v4) in [("sources4", true), ("sources6", false)] {
        elements("delete", name, differs(old, new, v4));
        elements("add", name, differs(new, old, v4));
    }
    for (name, v4) in [("taken4", true), ("taken6", false)] {
        let differs = |a: &Senders, b: &Senders| -> Vec<String> {
            let all = a.taken.difference(&b.taken).filter(|net| net.addr().is_ipv4() == v4);
            all.map(|net| plain(*net)).collect()
        };
        elements("delete", name, differs(old, new));
        elements("add", name, differs(new, old));
    }
    let come = numbers(new, old).into_iter().map(|(at, number)| format!("{at} : {number:#x}")).collect();
    elements("add", "senders", come);
    text
}

/// A host with its length too: nft 1.0.6 does not find it again in a concatenation otherwise.
fn plain(net: IpNet) -> String {
    match net {
        // The whole family as a range: a prefix of length 0 is no interval to nft 1.0.6.
        IpNet::V4(_) if net.prefix_len() == 0 => "0.0.0.0-255.255.255.255".to_owned(),
        IpNet::V6(_) if net.prefix_len() == 0 => format!("::-{}", IpAddr::from([0xff_u8; 16])),
        _ => net.trunc().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn senders(numbers: &[(&str, u32)], sources: &[(u32, &str)]) -> Senders {
        Senders {
            numbers: numbers.iter().map(|(at, number)| (at.parse().unwrap(), *number)).collect(),
            sources: sources.iter().map(|(number, net)| (*number, net.parse().unwrap())).collect(),
            taken: BTreeSet::new(),
        }
    }

    #[test]
    fn only_what_differs_is_written_and_what_goes_goes_first() {
        let (one, two) = (0x8000_0001, 0x8000_0002);
        let old = senders(
            &[("192.0.2.1", one), ("192.0.2.2", two)],
            &[(one, "10.1.0.0/24"), (one, "10.255.0.1/32"), (two, "0.0.0.0/0")],
        );
        let new = senders(
            &[("192.0.2.1", one), ("192.0.2.3", two)],
            &[(one, "10.1.0.0/16"), (one, "10.255.0.1/32"), (two, "0.0.0.0/0"), (two, "::/0")],
        );
        assert_eq!(change("t", &new, &new), "");
        let text = change("t", &old, &new);
        let want = [
            "delete element inet t senders { 192.0.2.2 }",
            "delete element inet t sources4 { 0x80000001 . 10.1.0.0/24 }",
            "add element inet t sources4 { 0x80000001 . 10.1.0.0/16 }",
            "add element inet t sources6 { 0x80000002 . ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff }",
            "add element inet t senders { 192.0.2.3 : 0x80000002 }",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), want);
    }

    #[test]
    fn the_mark_is_set_under_ipsec_alone_and_goes_before_anybody_sees_it() {
        let guard = Guard { locals: [Ipv4Addr::new(192, 0, 2, 2)].into(), key: Some(100) };
        let mut out = String::new();
        render(&mut out, "dm-x", &guard, Strangers::Nothing);
        let set = "ip protocol 47 meta ipsec exists @th,0,16 & 0xa000 == 0x2000 @th,32,32 100 meta mark set ip saddr map @senders";
        assert!(out.contains(set), "{out}");
        let lines: Vec<_> = out.lines().map(str::trim).filter(|line| line.starts_with("iifname")).collect();
        assert_eq!(lines.last(), Some(&"iifname \"dm-x\" meta mark set 0"));
        assert!(!out.contains("taken"), "{out}");
        assert!(lines[1].ends_with("meta mark . ip saddr != @sources4 counter drop"), "{lines:?}");
        render(&mut out, "dm-x", &guard, Strangers::Untaken);
        assert!(out.contains("iifname \"dm-x\" meta mark 0 ip saddr != @taken4 accept"), "{out}");
    }
}
