//! Whose GRE a link in metadata mode takes.
//!
//! The outer packet is looked at where it comes in from the underlay, and marked if it is good; what comes out of the
//! link without the mark is dropped and counted. So no GRE but that of the link itself is ever touched.

use std::fmt::Write as _;
use std::net::Ipv6Addr;

use super::{Peers, SET_SIZE, chain, end};

/// Set of those who are let in.
const SET: &str = "peers";
/// The mark of what is good, from the underlay to the link.
const MARK: u32 = 0x4000_0000;
/// NHRP's packet types that say to their receiver that he is one of us (RFC 2332 section 5.2): questions, and…
const QUESTIONS: &str = "{ 1, 3 }";
/// … answers, if their first entry has code 0.
const ANSWERS: &str = "{ 2, 4 }";

pub(super) fn render(out: &mut String, link: &str, peers: &Peers) {
    let _ = writeln!(
        out,
        "\tset {SET} {{\n\t\ttype ipv6_addr\n\t\tflags dynamic,timeout\n\t\ttimeout {}s\n\t\tsize {SET_SIZE}\n\t}}",
        peers.seconds
    );
    let local = peers.local;
    // GRE by its number: an image without /etc/protocols has no name for it.
    let (gre, behind) = match peers.key {
        Some(key) => (format!("meta l4proto 47 @th,0,16 0x2000 @th,32,32 {key}"), 64),
        None => ("meta l4proto 47 @th,0,16 0".to_owned(), 32),
    };
    chain(out, "underlay_in", "input priority raw");
    let good = format!("meta mark set meta mark or {MARK:#x}");
    if !peers.fixed.is_empty() {
        let fixed: Vec<_> = peers.fixed.iter().map(Ipv6Addr::to_string).collect();
        let _ =
            writeln!(out, "\t\tip6 daddr {local} {gre} ip6 saddr {{ {} }} {good} accept", fixed.join(", "));
    }
    let _ = writeln!(out, "\t\tip6 daddr {local} {gre} ip6 saddr @{SET} {good}");
    end(out);
    // Before connection tracking, and before anybody else sees the mark.
    chain(out, "strangers", "prerouting priority raw");
    let _ = writeln!(out, "\t\tiifname \"{link}\" meta mark & {MARK:#x} == 0 counter drop");
    let _ = writeln!(out, "\t\tiifname \"{link}\" meta mark set meta mark and {:#x}", !MARK);
    end(out);
    chain(out, "underlay_out", "output priority filter");
    let sent = format!("ip6 saddr {local} {gre}");
    let noted = format!("update @{SET} {{ ip6 daddr }}");
    let _ = writeln!(out, "\t\t{sent} @th,16,16 {{ 0x0800, 0x86dd }} {noted}");
    // The fixed header of NHRP is 20 bytes: the protocol type (the overlay's) stands at 2, the packet type at 17.
    let at = |byte: u32| behind + byte * 8;
    let nhrp = format!("{sent} @th,16,16 0x2001 @th,{},8", at(17));
    let _ = writeln!(out, "\t\t{nhrp} {QUESTIONS} {noted}");
    // Behind it 8 bytes, an underlay address and two of the overlay; then the first entry, which its code begins.
    for (protocol, address) in [("0x0800", 4), ("0x86dd", 16)] {
        let code = at(20 + 8 + 16 + 2 * address);
        let _ = writeln!(out, "\t\t{nhrp} {ANSWERS} @th,{},16 {protocol} @th,{code},8 0 {noted}", at(2));
    }
    end(out);
}

pub(super) fn admit(table: &str, peers: &[Ipv6Addr]) -> String {
    let mut text = String::new();
    for some in peers.chunks(1_000) {
        let some: Vec<_> = some.iter().map(Ipv6Addr::to_string).collect();
        let _ = writeln!(text, "add element inet {table} {SET} {{ {} }}", some.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(key: Option<u32>, fixed: &[&str]) -> String {
        let mut out = String::new();
        let fixed = fixed.iter().map(|a| a.parse().unwrap()).collect();
        let peers = Peers { local: "2001:db8::a".parse().unwrap(), key, fixed, seconds: 7200 };
        render(&mut out, "dm-x", &peers);
        out
    }

    #[test]
    fn key_and_source_are_looked_at_and_only_the_link_is_barred() {
        let text = rules(Some(100), &["2001:db8::7"]);
        let gre = "ip6 daddr 2001:db8::a meta l4proto 47 @th,0,16 0x2000 @th,32,32 100 ip6 saddr";
        assert!(text.contains(&format!("{gre} @peers meta mark set")), "{text}");
        assert!(text.contains(&format!("{gre} {{ 2001:db8::7 }} meta mark set")), "{text}");
        let drops: Vec<_> = text.lines().filter(|line| line.contains("drop")).collect();
        assert_eq!(drops, ["\t\tiifname \"dm-x\" meta mark & 0x40000000 == 0 counter drop"]);
        assert!(text.contains("iifname \"dm-x\" meta mark set meta mark and 0xbfffffff"), "{text}");
        // Behind 8 bytes of GRE with a key: the packet type, and the code of an answer with IPv4 and IPv6 addresses.
        for part in ["@th,200,8 { 1, 3 }", "@th,80,16 0x0800 @th,480,8 0", "@th,80,16 0x86dd @th,672,8 0"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let keyless = rules(None, &[]);
        assert!(keyless.contains("@th,0,16 0 ip6 saddr @peers") && keyless.contains("@th,168,8 { 1, 3 }"));
    }

    #[test]
    fn those_who_are_let_in_come_in_pieces() {
        let peers: Vec<Ipv6Addr> = (1..=1_001_u128).map(Ipv6Addr::from).collect();
        let text = admit("dmvpn_x", &peers);
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("add element inet dmvpn_x peers { ::1, ::2, "), "{text}");
        assert_eq!(admit("dmvpn_x", &[]), "");
    }
}
