//! `show dmvpn [detail]` and `show problems` of the sample reports letter by letter; filters and JSON.

mod common;

use view::{Family, Filter, Problem, Report, Role, Show, State, json, render};

const LEGEND: &str = "\
Legend: Attrb --> S - Static, D - Dynamic, I - Incomplete
        N - NATed, L - Local, X - No Socket
        T1 - Route Installed, T2 - Nexthop-override, B - BGP
        C - CTS Capable, I2 - Temporary
        # Ent --> Number of NHRP entries with same NBMA peer
        NHS Status: E --> Expecting Replies, R --> Responding, W --> Waiting
        UpDn Time --> Up or Down Time for a Tunnel
==========================================================================
";

#[track_caller]
fn prints(report: &Report, show: Show, text: &str) {
    let printed = render(report, show);
    assert_eq!(printed, text, "\nprinted:\n{printed}\nexpected:\n{text}");
}

#[test]
fn dmvpn_of_a_hub() {
    let body = "
Interface: dm-branches, IPv4 NHRP Details
Type:Hub, NHRP Peers:3,

 # Ent  Peer NBMA Addr Peer Tunnel Add State  UpDn Tm Attrb
 ----- --------------- --------------- ----- -------- -----
     2 203.0.113.2         10.255.0.12    UP 00:07:52     D
                           10.255.0.12    UP 00:07:20   DT1
     1 203.0.113.130       10.255.0.13    UP    1d06h    DN
     1 UNKNOWN             10.255.0.99  NHRP    never    IX
";
    prints(&common::hub(), Show::Dmvpn, &format!("{LEGEND}{body}"));
}

#[test]
fn dmvpn_of_a_branch_says_why_it_is_not_up() {
    let body = "
Interface: dm-branches, IPv4 NHRP Details
Type:Spoke, NHRP Peers:2,

 # Ent  Peer NBMA Addr Peer Tunnel Add State  UpDn Tm Attrb
 ----- --------------- --------------- ----- -------- -----
     1 192.0.2.2            10.255.0.1    UP 00:07:52     S
     1 198.51.100.2         10.255.0.2  NHRP    never     S
   State NHRP since 00:00:40, NoReply: hub dc2 does not answer
   NHS dc2 10.255.0.2 state NHRP since 00:00:40, NoReply: 198.51.100.2 does not answer; \
is the hub up, and does the underlay pass GRE?
";
    prints(&common::branch(), Show::Dmvpn, &format!("{LEGEND}{body}"));
}

#[test]
fn what_the_only_nhs_says_is_said_once() {
    let mut report = common::branch();
    let tunnel = &mut report.tunnels[0];
    tunnel.nhs.remove(0);
    tunnel.message = tunnel.nhs[0].message.clone();
    assert_eq!(render(&report, Show::Dmvpn).matches("does not answer").count(), 1);
}

#[test]
fn dmvpn_of_two_families_over_ipv6() {
    let body = "
Interface: dm-dual, IPv4 NHRP Details
Type:Hub/Spoke, NHRP Peers:1,

 # Ent  Peer NBMA Addr Peer Tunnel Add State  UpDn Tm Attrb
 ----- --------------- --------------- ----- -------- -----
     1 2001:DB8:1202::222
                           10.255.0.12    UP 00:01:00     D

Interface: dm-dual, IPv6 NHRP Details
Type:Hub/Spoke, Total NBMA Peers (v4/v6): 2
    1.Peer NBMA Address: 2001:DB8:1202::222
        Tunnel IPv6 Address: FD00:255::12
        IPv6 Target Network: FD00:255::12/128
        # Ent: 2, Status: UP, UpDn Time: 00:01:00, Cache Attrib: D
    2.Peer NBMA Address: 2001:DB8:1202::222
        Tunnel IPv6 Address: FD00:255::12
        IPv6 Target Network: FD00:2::/64
        # Ent: 0, Status: UP, UpDn Time: 00:00:59, Cache Attrib: DT1
    3.Peer NBMA Address: 2001:DB8:FFFF:FFFF:FFFF:FFFF:FFFF:FFFE
        Tunnel IPv6 Address: FD00:255::13
        IPv6 Target Network: FD00:255::13/128
        # Ent: 1, Status: NHRP, UpDn Time: never, Cache Attrib: S
";
    prints(&common::dual(), Show::Dmvpn, &format!("{LEGEND}{body}"));
}

#[test]
fn dmvpn_detail_of_a_hub() {
    let body = "
Interface dm-branches is up/up, Addr. is 10.255.0.1, VRF \"\"
   Tunnel Src./Dest. addr: 192.0.2.2/MGRE, Tunnel VRF \"\"
   Protocol/Transport: \"multi-GRE/IP\", Protect \"\"
   Interface State Control: Disabled
   nhrp event-publisher : Disabled
   Network branches, network-id 100, key 100, MTU 1400, holding time 600 s
   Overlay addresses: 10.255.0.1/16

Type:Hub, Total NBMA Peers (v4/v6): 3

# Ent  Peer NBMA Addr Peer Tunnel Add State  UpDn Tm Attrb    Target Network
----- --------------- --------------- ----- -------- ----- -----------------
    2 203.0.113.2         10.255.0.12    UP 00:07:52     D     10.255.0.12/32
      203.0.113.2         10.255.0.12    UP 00:07:20   DT1        10.2.0.0/24
    1 203.0.113.130       10.255.0.13    UP    1d06h    DN     10.255.0.13/32
      Claimed Addr. 192.168.7.4
    1 UNKNOWN             10.255.0.99  NHRP    never    IX     10.255.0.99/32
";
    prints(&common::hub(), Show::DmvpnDetail, &format!("{LEGEND}{body}"));
}

#[test]
fn dmvpn_detail_of_a_point_to_point_branch() {
    let mut report = common::branch();
    let tunnel = &mut report.tunnels[0];
    tunnel.destination = "192.0.2.2".parse().ok();
    tunnel.line_up = false;
    tunnel.interface_state_control = true;
    tunnel.vrf = "red".into();
    tunnel.tunnel_vrf = "inet".into();
    tunnel.protection = "branches".into();
    tunnel.bandwidth_kbps = Some(8000);
    tunnel.key = None;
    tunnel.peers.truncate(1);
    let body = "
Interface dm-branches is up/down, Addr. is 10.255.0.12, VRF \"red\"
   Tunnel Src./Dest. addr: 203.0.113.2/192.0.2.2, Tunnel VRF \"inet\"
   Protocol/Transport: \"GRE/IP\", Protect \"branches\"
   Interface State Control: Enabled
   nhrp event-publisher : Disabled
   Network branches, network-id 100, MTU 1400, holding time 600 s, bandwidth 8000 kbit/s
   Overlay addresses: 10.255.0.12/16

IPv4 NHS:
10.255.0.1  RE NBMA Address: 192.0.2.2 priority = 0 cluster = 0
10.255.0.2  E  NBMA Address: 198.51.100.2 priority = 1 cluster = 0
Type:Spoke, Total NBMA Peers (v4/v6): 1

# Ent  Peer NBMA Addr Peer Tunnel Add State  UpDn Tm Attrb    Target Network
----- --------------- --------------- ----- -------- ----- -----------------
    1 192.0.2.2            10.255.0.1    UP 00:07:52     S      10.255.0.1/32
   State NHRP since 00:00:40, NoReply: hub dc2 does not answer
   NHS dc2 10.255.0.2 state NHRP since 00:00:40, NoReply: 198.51.100.2 does not answer; \
is the hub up, and does the underlay pass GRE?
";
    prints(&report, Show::DmvpnDetail, &format!("{LEGEND}{body}"));
}

#[test]
fn dmvpn_detail_of_two_families() {
    let body = "
Interface dm-dual is up/up, Addr. is 10.255.0.1, VRF \"\"
   Tunnel Src./Dest. addr: 2001:DB8::1/MGRE, Tunnel VRF \"\"
   Protocol/Transport: \"multi-GRE/IPv6\", Protect \"dual\"
   Interface State Control: Disabled
   nhrp event-publisher : Disabled
   Network branches, network-id 100, key 100, MTU 1400, holding time 600 s
   Overlay addresses: FD00:255::1/64, 10.255.0.1/16

Type:Hub/Spoke, Total NBMA Peers (v4/v6): 2

# Ent  Peer NBMA Addr Peer Tunnel Add State  UpDn Tm Attrb    Target Network
----- --------------- --------------- ----- -------- ----- -----------------
    1 2001:DB8:1202::222
                          10.255.0.12    UP 00:01:00     D     10.255.0.12/32

IPv6 NHS:
FD00:255::FF  RE NBMA Address: 2001:DB8::FF priority = 0 cluster = 0
Type:Hub/Spoke, Total NBMA Peers (v4/v6): 2
    1.Peer NBMA Address: 2001:DB8:1202::222
        Tunnel IPv6 Address: FD00:255::12
        IPv6 Target Network: FD00:255::12/128
        # Ent: 2, Status: UP, UpDn Time: 00:01:00, Cache Attrib: D
    2.Peer NBMA Address: 2001:DB8:1202::222
        Tunnel IPv6 Address: FD00:255::12
        IPv6 Target Network: FD00:2::/64
        # Ent: 0, Status: UP, UpDn Time: 00:00:59, Cache Attrib: DT1
    3.Peer NBMA Address: 2001:DB8:FFFF:FFFF:FFFF:FFFF:FFFF:FFFE
        Tunnel IPv6 Address: FD00:255::13
        IPv6 Target Network: FD00:255::13/128
        # Ent: 1, Status: NHRP, UpDn Time: never, Cache Attrib: S
";
    prints(&common::dual(), Show::DmvpnDetail, &format!("{LEGEND}{body}"));
}

#[test]
fn nothing_to_show_is_said() {
    let empty = common::report("bare", Vec::new());
    let body = "\n  No tunnel on node bare: no DmvpnNetwork or DmvpnSpoke that is accepted selects it\n";
    prints(&empty, Show::Dmvpn, &format!("{LEGEND}{body}"));
    prints(&empty, Show::DmvpnDetail, &format!("{LEGEND}{body}"));
    prints(&empty, Show::Nhrp(Family::Ipv4), "");
    prints(&empty, Show::NhrpTraffic, "");
    prints(&empty, Show::Problems, "No problems on node bare\n");
}

#[test]
fn a_tunnel_that_is_not_there_yet() {
    let mut report = common::report("hub", vec![common::tunnel("dm-branches", Role::Spoke)]);
    let tunnel = &mut report.tunnels[0];
    (tunnel.index, tunnel.admin_up, tunnel.line_up) = (0, false, false);
    tunnel.addresses.clear();
    tunnel.source = None;
    (tunnel.state, tunnel.state_seconds) = (State::Intf, 3);
    tunnel.reason = "NoSource".into();
    tunnel.message = "eth9 does not exist; correct spec.tunnelSource.interface".into();
    let text = render(&report, Show::DmvpnDetail);
    assert!(text.contains("Interface dm-branches is down/down, Addr. is UNKNOWN, VRF \"\"\n"), "{text}");
    assert!(text.contains("Tunnel Src./Dest. addr: UNKNOWN/MGRE"), "{text}");
    assert!(text.contains("   Overlay addresses: none\n"), "{text}");
    assert!(
        text.ends_with(
            "   State INTF since 00:00:03, NoSource: eth9 does not exist; correct spec.tunnelSource.interface\n"
        ),
        "{text}"
    );
}

#[test]
fn a_suspended_tunnel_is_admin_down() {
    let mut report = common::hub();
    let tunnel = &mut report.tunnels[0];
    tunnel.state = State::AdminDown;
    tunnel.reason = "Suspended".into();
    tunnel.message = "set spec.suspend to false".into();
    let body =
        "\ndm-branches is admin down\n   State DOWN since 00:07:52, Suspended: set spec.suspend to false\n";
    prints(&report, Show::Dmvpn, &format!("{LEGEND}{body}"));
    prints(&report, Show::DmvpnDetail, &format!("{LEGEND}{body}"));
}

#[test]
fn problems_are_told_and_pointed_to() {
    let mut report = common::hub();
    report.problems = vec![
        Problem {
            object: "DmvpnSpoke/west-lan".into(),
            field: "spec.subnets[0].cidr".into(),
            reason: "SubnetOverlap".into(),
            // A terminal escape and line ends, as a hostile object could carry.
            message: "10.2.0.0/24 is\nalready \u{1b}[31mbranch-a's\u{202e}; choose another".into(),
        },
        Problem {
            object: "broken.yaml".into(),
            field: String::new(),
            reason: "DoesNotParse".into(),
            message: "line 3".into(),
        },
    ];
    let text = "\
DmvpnSpoke/west-lan spec.subnets[0].cidr: SubnetOverlap
   10.2.0.0/24 is already [31mbranch-a's ; choose another
broken.yaml: DoesNotParse
   line 3
";
    prints(&report, Show::Problems, text);
    let dmvpn = render(&report, Show::Dmvpn);
    assert!(dmvpn.ends_with("\n\n  Objects that could not be used: 2, see \"show problems\"\n"), "{dmvpn}");
}

#[test]
fn filters_narrow_and_name_what_is_there() {
    let mut report = common::hub();
    report.tunnels.push(common::tunnel("dm-dual", Role::Spoke));
    report.tunnels[1].network = "dual".into();
    let by = |interface: Option<&str>, network: Option<&str>| Filter {
        interface: interface.map(Into::into),
        network: network.map(Into::into),
    };
    let names = |filter: Filter| {
        let left = filter.apply(&report).unwrap();
        left.tunnels.into_iter().map(|tunnel| tunnel.interface).collect::<Vec<_>>()
    };
    assert_eq!(names(Filter::default()), ["dm-branches", "dm-dual"]);
    assert_eq!(names(by(Some("dm-dual"), None)), ["dm-dual"]);
    assert_eq!(names(by(None, Some("branches"))), ["dm-branches"]);
    assert_eq!(
        by(Some("dm-dual"), Some("branches")).apply(&report).unwrap_err().to_string(),
        "node hub has no tunnel with interface dm-dual and network branches; \
         it has dm-branches (network branches), dm-dual (network dual)"
    );
    let bare = common::report("bare", Vec::new());
    assert_eq!(Filter::default().apply(&bare).unwrap(), bare);
    assert_eq!(
        by(Some("x"), None).apply(&bare).unwrap_err().to_string(),
        "node bare has no tunnel with interface x; it has none at all"
    );
}

#[test]
fn json_is_the_part_that_is_shown() {
    let hub = common::hub();
    let whole: Report = serde_json::from_value(json(&hub, Show::Dmvpn).unwrap()).unwrap();
    assert_eq!(whole, hub);
    let cache = json(&hub, Show::Nhrp(Family::Ipv4)).unwrap();
    assert_eq!(cache[0]["interface"], "dm-branches");
    assert_eq!(cache[0]["cache"].as_array().unwrap().len(), 4);
    assert_eq!(cache[0]["cache"][1]["target"], "10.2.0.0/24");
    assert_eq!(json(&hub, Show::Nhrp(Family::Ipv6)).unwrap()[0]["cache"], serde_json::json!([]));
    assert_eq!(json(&hub, Show::NhrpTraffic).unwrap()[0]["traffic"]["sent"][0][1], 12);
    let nhs = json(&common::branch(), Show::NhrpNhs(Family::Ipv4)).unwrap();
    assert_eq!(nhs[0]["nhs"][1]["state"], "NHRP");
    assert_eq!(json(&hub, Show::Problems).unwrap(), serde_json::json!([]));
}
