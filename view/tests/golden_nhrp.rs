//! `show ip nhrp …` of the sample reports, letter by letter.

mod common;

use view::{CacheKind, Family, Report, Show, Software, render};

#[track_caller]
fn prints(report: &Report, show: Show, text: &str) {
    let printed = render(report, show);
    assert_eq!(printed, text, "\nprinted:\n{printed}\nexpected:\n{text}");
}

#[test]
fn ip_nhrp() {
    let text = "\
10.255.0.1/32 via 10.255.0.1
   dm-branches created 2d07h, never expire
   Type: static, Flags: local
   NBMA address: 192.0.2.2
    (no-socket)
10.2.0.0/24 via 10.255.0.12
   dm-branches created 00:00:32, expire 00:09:27
   Type: dynamic, Flags: router rib
   NBMA address: 203.0.113.2
10.255.0.13/32 via 10.255.0.13
   dm-branches created 00:00:32, expire 00:09:27
   Type: dynamic, Flags: unique registered nat
   NBMA address: 203.0.113.130
    (Claimed NBMA address: 192.168.7.4)
10.255.0.99/32 via 10.255.0.99
   dm-branches created 00:00:32, expire 00:00:05
   Type: incomplete, Flags: negative
";
    prints(&common::hub(), Show::Nhrp(Family::Ipv4), text);
    prints(&common::hub(), Show::Nhrp(Family::Ipv6), "");
    let ipv6 = "\
FD00:2::/64 via FD00:255::12
   dm-dual created 00:00:32, expire 00:09:27
   Type: dynamic, Flags: router rib
   NBMA address: 2001:DB8:1202::222
";
    prints(&common::dual(), Show::Nhrp(Family::Ipv6), ipv6);
}

#[test]
fn ip_nhrp_detail() {
    let text = render(&common::hub(), Show::NhrpDetail(Family::Ipv4));
    let prefix = "\
10.2.0.0/24 via 10.255.0.12
   dm-branches created 00:00:32, expire 00:09:27
   Type: dynamic, Flags: router rib
   NBMA address: 203.0.113.2
   Preference: 255
  Requester: 10.255.0.13 Request ID: 97
";
    assert!(text.contains(prefix), "{text}");
    assert_eq!(text.matches("Preference: 255").count(), 4);
}

/// What a peer of ours runs is shown beside those that say nothing (another make, or older); a number that this version
/// has no name for is one of a newer one.
#[test]
fn ip_nhrp_detail_of_mixed_versions() {
    let mut report = common::hub();
    let mut versions =
        [("0.1.0", vec!["prefixes", "hub-list"]), ("200.1.2", vec!["prefixes", "0x80000000"])].into_iter();
    for entry in report.tunnels[0].cache.iter_mut().filter(|entry| entry.kind == CacheKind::Dynamic) {
        entry.software = versions.next().map(|(version, capabilities)| Software {
            version: version.into(),
            capabilities: capabilities.into_iter().map(String::from).collect(),
        });
    }
    let text = render(&report, Show::NhrpDetail(Family::Ipv4));
    let shown: Vec<&str> = text.lines().filter(|line| line.contains("Version")).collect();
    assert_eq!(
        shown,
        [
            "   Version: 0.1.0, Capabilities: prefixes hub-list",
            "   Version: 200.1.2, Capabilities: prefixes 0x80000000"
        ]
    );
    assert!(!render(&report, Show::Nhrp(Family::Ipv4)).contains("Version"));
}

#[test]
fn ip_nhrp_brief() {
    let text = "   \
   Target             Via             NBMA            Mode       Intfc       Claimed
       10.255.0.1/32 10.255.0.1      192.0.2.2       static     dm-branches <   >
         10.2.0.0/24 10.255.0.12     203.0.113.2     dynamic    dm-branches <   >
      10.255.0.13/32 10.255.0.13     203.0.113.130   dynamic    dm-branches < 192.168.7.4 >
      10.255.0.99/32 10.255.0.99     UNKNOWN         incomplete dm-branches <   >
";
    prints(&common::hub(), Show::NhrpBrief(Family::Ipv4), text);
    let ipv6 = "   \
   Target             Via             NBMA               Mode     Intfc   Claimed
         FD00:2::/64 FD00:255::12    2001:DB8:1202::222 dynamic  dm-dual <   >
";
    prints(&common::dual(), Show::NhrpBrief(Family::Ipv6), ipv6);
}

#[test]
fn ip_nhrp_nhs() {
    let text = "\
Legend: E=Expecting replies, R=Responding, W=Waiting
dm-branches:
10.255.0.1  RE  NBMA Address: 192.0.2.2 priority = 0 cluster = 0
10.255.0.2  E   NBMA Address: 198.51.100.2 priority = 1 cluster = 0
";
    prints(&common::branch(), Show::NhrpNhs(Family::Ipv4), text);
    let detail = "\
Legend: E=Expecting replies, R=Responding, W=Waiting
dm-branches:
10.255.0.1  RE  NBMA Address: 192.0.2.2 priority = 0 cluster = 0  req-sent 9  req-failed 1  repl-recv 8 (00:00:49 ago)
  Current Request ID: 35914
  Protection Socket Requested: FALSE
10.255.0.2  E   NBMA Address: 198.51.100.2 priority = 1 cluster = 0  req-sent 9  req-failed 1  repl-recv 0
  Current Request ID: 35914
  Protection Socket Requested: FALSE
";
    prints(&common::branch(), Show::NhrpNhsDetail(Family::Ipv4), detail);
    let none = "Legend: E=Expecting replies, R=Responding, W=Waiting\n";
    prints(&common::branch(), Show::NhrpNhs(Family::Ipv6), none);
}

#[test]
fn ip_nhrp_traffic() {
    let text = "\
dm-branches: Max-send limit:0Pkts/10Sec, Usage:0%
   Sent: Total 15
         0 Resolution Request  0 Resolution Reply  0 Registration Request
         12 Registration Reply  0 Purge Request  0 Purge Reply
         0 Error Indication  3 Traffic Indication  0 Redirect Suppress
   Rcvd: Total 14
         2 Resolution Request  0 Resolution Reply  12 Registration Request
         0 Registration Reply  0 Purge Request  0 Purge Reply
         0 Error Indication  0 Traffic Indication  0 Redirect Suppress
   Fwd: Total 2
         2 Resolution Request  0 Resolution Reply  0 Registration Request
         0 Registration Reply  0 Purge Request  0 Purge Reply
         0 Error Indication  0 Traffic Indication  0 Redirect Suppress
   Dropped: Total 1
         1 BadChecksum
";
    prints(&common::hub(), Show::NhrpTraffic, text);
}

#[test]
fn ip_nhrp_summary() {
    let mut report = common::hub();
    report.tunnels[0].cache[1].flags.push("temporary".into());
    let text = render(&report, Show::NhrpSummary(Family::Ipv4));
    let (head, rest) = text.split_once('\n').unwrap();
    assert!(head.starts_with("IP NHRP cache 4 entries, ") && head.ends_with(" bytes"), "{head}");
    let expected = "    1 static 2 dynamic 1 incomplete
3 Remote
    0 static 2 dynamic 1 incomplete
    0 nhop 0 bfd
    0 default 1 temporary
    1 route
        1 rib (1 H 0 nho)
        0 bgp
    0 lfib
1 Local
    1 static 0 dynamic 0 incomplete
    0 lfib
";
    assert_eq!(rest, expected, "{text}");
}
