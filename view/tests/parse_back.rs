//! Reads the tables back the way that public parsers of Cisco's output do (by the shape of a line, then by columns that
//! blanks separate) and compares with the report. Whatever the addresses, names and times are, nothing may be lost.

mod common;

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use view::{Attributes, CacheEntry, CacheKind, Family, Peer, Report, Role, Show, State, render};

#[derive(Debug, PartialEq)]
struct Row {
    nbma: Option<IpAddr>,
    address: IpAddr,
    state: String,
    time: String,
    attributes: String,
    target: Option<IpNet>,
}

/// Rows below the rule of dashes: `# Ent` and NBMA address on the first line of a peer, perhaps on a line of their own;
/// ends at the first line that is no row.
fn rows(text: &str, interface: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut lines = text
        .lines()
        .skip_while(|line| !heads(line, interface))
        .skip_while(|l| !l.trim_start().starts_with("-----"));
    lines.next();
    let mut nbma = None;
    for line in lines {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if words.first().is_some_and(|word| word.parse::<usize>().is_ok()) {
            words.remove(0);
            nbma = known(words.remove(0));
            if words.is_empty() {
                continue;
            }
        } else if matches!(words.len(), 1 | 6) {
            // The detailed table repeats the NBMA address.
            nbma = known(words.remove(0));
            if words.is_empty() {
                continue;
            }
        }
        let [address, state, time, attributes, target @ ..] = words.as_slice() else { break };
        let Ok(address) = address.parse() else { break };
        rows.push(Row {
            nbma,
            address,
            state: (*state).into(),
            time: (*time).into(),
            attributes: (*attributes).into(),
            target: target.first().map(|target| target.parse().unwrap()),
        });
    }
    rows
}

fn heads(line: &str, interface: &str) -> bool {
    line.starts_with(&format!("Interface: {interface}, IPv4"))
        || line.starts_with(&format!("Interface {interface} is "))
}

fn known(word: &str) -> Option<IpAddr> {
    (word != "UNKNOWN").then(|| word.parse().unwrap())
}

/// Stanzas of an IPv6 overlay: (NBMA, address, target, entries, state, attributes).
fn stanzas(text: &str) -> Vec<(Option<IpAddr>, IpAddr, IpNet, usize, String, String)> {
    let mut lines = text.lines().map(str::trim);
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some((number, nbma)) = line.split_once(".Peer NBMA Address: ") else { continue };
        assert_eq!(number.parse::<usize>().unwrap(), found.len() + 1);
        let address = lines.next().unwrap().strip_prefix("Tunnel IPv6 Address: ").unwrap().parse().unwrap();
        let target = lines.next().unwrap().strip_prefix("IPv6 Target Network: ").unwrap().parse().unwrap();
        let last: Vec<String> = lines
            .next()
            .unwrap()
            .split(", ")
            .map(|part| part.split_once(": ").unwrap().1.to_owned())
            .collect();
        let [entries, state, _time, attributes] = last.as_slice() else { panic!("{last:?}") };
        found.push((
            known(nbma),
            address,
            target,
            entries.parse().unwrap(),
            state.clone(),
            attributes.clone(),
        ));
    }
    found
}

/// An entry of `show ip nhrp`.
#[derive(Debug, Default, PartialEq)]
struct Entry {
    target: Option<IpNet>,
    via: Option<IpAddr>,
    interface: String,
    kind: String,
    flags: Vec<String>,
    nbma: Option<IpAddr>,
}

fn entries(text: &str) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    for line in text.lines() {
        if let Some((target, via)) = line.split_once(" via ") {
            let (target, via) = (target.parse().unwrap(), via.parse().unwrap());
            found.push(Entry { target: Some(target), via: Some(via), ..Entry::default() });
            continue;
        }
        let entry = found.last_mut().unwrap();
        let line = line.trim();
        if let Some((interface, _)) = line.split_once(" created ") {
            entry.interface = interface.into();
        } else if let Some(rest) = line.strip_prefix("Type: ") {
            let (kind, flags) = rest.split_once(", Flags:").unwrap();
            entry.kind = kind.into();
            entry.flags = flags.split_whitespace().map(String::from).collect();
        } else if let Some(nbma) = line.strip_prefix("NBMA address: ") {
            entry.nbma = Some(nbma.parse().unwrap());
        }
    }
    found
}

fn word(state: State) -> &'static str {
    match state {
        State::Unknown => "UNKN",
        State::AdminDown => "DOWN",
        State::Intf => "INTF",
        State::Ike => "IKE",
        State::Ipsec => "IPsec",
        State::Nhrp => "NHRP",
        State::Up => "UP",
    }
}

fn sorted<T: std::fmt::Debug>(items: impl Iterator<Item = T>) -> Vec<String> {
    let mut items: Vec<String> = items.map(|item| format!("{item:?}")).collect();
    items.sort();
    items
}

fn net(address: IpAddr, length: u8) -> IpNet {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    IpNet::new(address, length.min(longest)).unwrap()
}

fn peers() -> impl Strategy<Value = Vec<Peer>> {
    let state = prop::sample::select(vec![
        State::Unknown,
        State::AdminDown,
        State::Intf,
        State::Ike,
        State::Ipsec,
        State::Nhrp,
        State::Up,
    ]);
    // Few NBMA addresses, so that many entries share one.
    let nbma = prop::option::of(prop_oneof![
        (0_u8..3).prop_map(|n| IpAddr::from([203, 0, 113, n])),
        Just("198.51.100.200".parse().unwrap()),
        Just("2001:db8:1202::222".parse().unwrap()),
        Just("2001:db8:ffff:ffff:ffff:ffff:ffff:fffe".parse().unwrap()),
    ]);
    let marks = (any::<[bool; 8]>(), prop::option::of(any::<u32>()));
    let peer = (nbma, any::<IpAddr>(), 0_u8..=128, state, marks).prop_map(
        |(nbma, address, length, state, ([s, i, n, l, x, t1, t2, i2], up))| Peer {
            nbma,
            claimed_nbma: None,
            address,
            target: net(address, length),
            state,
            up_down_seconds: up.map(u64::from),
            attributes: Attributes {
                is_static: s,
                dynamic: !s,
                incomplete: i,
                nated: n,
                local: l,
                no_socket: x,
                route_installed: t1,
                nexthop_override: t2,
                temporary: i2,
            },
            group: None,
        },
    );
    prop::collection::vec(peer, 0..30)
}

fn cache() -> impl Strategy<Value = Vec<CacheEntry>> {
    let kind = prop::sample::select(vec![
        CacheKind::Static,
        CacheKind::Dynamic,
        CacheKind::Incomplete,
        CacheKind::Negative,
    ]);
    let flags = prop::sample::subsequence(vec!["unique", "registered", "used", "nhop", "rib", "local"], 0..6);
    let entry =
        (any::<IpAddr>(), 0_u8..=128, any::<IpAddr>(), kind, flags, prop::option::of(any::<IpAddr>()));
    let entry = entry.prop_map(|(target, length, via, kind, flags, nbma)| CacheEntry {
        target: net(target, length),
        via,
        kind,
        flags: flags.into_iter().map(String::from).collect(),
        nbma,
        claimed_nbma: None,
        created_seconds: 1,
        expire_seconds: None,
        preference: 0,
        requesters: vec![],
        reason: String::new(),
        software: None,
        group: None,
    });
    prop::collection::vec(entry, 0..30)
}

fn with(interface: &str, peers: Vec<Peer>, cache: Vec<CacheEntry>) -> Report {
    let mut tunnel = common::tunnel(interface, Role::Hub);
    tunnel.addresses = vec!["10.255.0.1/16".parse().unwrap(), "fd00::1/64".parse().unwrap()];
    tunnel.peers = peers;
    tunnel.cache = cache;
    common::report("hub", vec![tunnel])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_ipv4_peer_is_read_back(peers in peers(), interface in "[a-z][a-z0-9.-]{0,14}") {
        let report = with(&interface, peers, vec![]);
        let expected = |target: bool| sorted(report.tunnels[0].peers.iter().filter(|p| p.address.is_ipv4()).map(|p| {
            (p.nbma, p.address, word(p.state), target.then_some(p.target))
        }));
        for (show, target) in [(Show::Dmvpn, false), (Show::DmvpnDetail, true)] {
            let rows = rows(&render(&report, show), &interface);
            prop_assert_eq!(
                sorted(rows.iter().map(|r| (r.nbma, r.address, r.state.as_str(), r.target))),
                expected(target)
            );
            for row in rows {
                // genieparser's shapes of the last two columns.
                prop_assert!(!row.attributes.is_empty() && row.attributes.chars().all(char::is_alphanumeric));
                prop_assert!(row.time == "never" || row.time.starts_with(|c: char| c.is_ascii_digit()));
            }
        }
    }

    #[test]
    fn every_ipv6_peer_is_read_back(peers in peers()) {
        let report = with("dm-six", peers, vec![]);
        let six: Vec<&Peer> = report.tunnels[0].peers.iter().filter(|p| p.address.is_ipv6()).collect();
        for show in [Show::Dmvpn, Show::DmvpnDetail] {
            let found = stanzas(&render(&report, show));
            prop_assert_eq!(
                sorted(found.iter().map(|s| (s.0, s.1, s.2, s.4.as_str()))),
                sorted(six.iter().map(|p| (p.nbma, p.address, p.target, word(p.state))))
            );
            // Entries are counted once a peer, so that they add up to all.
            prop_assert_eq!(found.iter().map(|s| s.3).sum::<usize>(), six.len());
            prop_assert!(found.iter().all(|s| !s.5.is_empty()));
        }
    }

    #[test]
    fn every_cache_entry_is_read_back(cache in cache(), interface in "[a-z][a-z0-9.-]{0,14}") {
        let report = with(&interface, vec![], cache);
        let mut found = entries(&render(&report, Show::Nhrp(Family::Ipv4)));
        found.extend(entries(&render(&report, Show::Nhrp(Family::Ipv6))));
        let expected = report.tunnels[0].cache.iter().map(|e| {
            let kind = match e.kind {
                CacheKind::Static => "static",
                CacheKind::Dynamic => "dynamic",
                CacheKind::Incomplete | CacheKind::Negative => "incomplete",
            };
            let mut flags = e.flags.clone();
            if e.kind == CacheKind::Negative {
                flags.push("negative".into());
            }
            Entry {
                target: Some(e.target),
                via: Some(e.via),
                interface: interface.clone(),
                kind: kind.into(),
                flags,
                nbma: e.nbma,
            }
        });
        prop_assert_eq!(sorted(found.into_iter()), sorted(expected));
    }

    #[test]
    fn every_line_of_the_brief_table_has_its_columns(cache in cache(), interface in "[a-z][a-z0-9.-]{0,14}") {
        let report = with(&interface, vec![], cache);
        for family in [Family::Ipv4, Family::Ipv6] {
            let text = render(&report, Show::NhrpBrief(family));
            let mut lines = text.lines();
            let head = lines.next().unwrap();
            let [via, nbma, mode, name, claimed] =
                ["Via", "NBMA", "Mode", "Intfc", "Claimed"].map(|title| head.find(title).unwrap());
            for line in lines {
                prop_assert!(line[..nbma].trim().parse::<IpNet>().is_err());
                prop_assert!(line[..via - 1].trim().parse::<IpNet>().is_ok(), "{}", text);
                prop_assert!(line[via - 1..nbma - 1].trim().parse::<IpAddr>().is_ok(), "{}", text);
                let nbma = line[nbma - 1..mode - 1].trim();
                prop_assert!(nbma == "UNKNOWN" || nbma.parse::<IpAddr>().is_ok(), "{}", text);
                prop_assert_eq!(line[name - 1..claimed - 1].trim(), interface.as_str());
                prop_assert_eq!(&line[claimed - 1..], "<   >");
            }
        }
    }
}

#[test]
fn peers_of_a_tunnel_are_counted_by_nbma_address() {
    let text = render(&common::hub(), Show::Dmvpn);
    let line = text.lines().find(|line| line.starts_with("Type:")).unwrap();
    let (kind, peers) = line.strip_prefix("Type:").unwrap().split_once(", NHRP Peers:").unwrap();
    assert_eq!((kind, peers.strip_suffix(',').unwrap().parse::<usize>().unwrap()), ("Hub", 3));
    let firsts = text.lines().filter(|l| l.trim_start().starts_with(|c: char| c.is_ascii_digit()));
    let entries: usize =
        firsts.filter_map(|l| l.get(..6).and_then(|column| column.trim().parse::<usize>().ok())).sum();
    assert_eq!(entries, common::hub().tunnels[0].peers.len());
}

/// What we add must not look like a row to a parser made for Cisco's table: not one added line is taken for a peer.
#[test]
fn our_own_lines_are_no_rows() {
    let mut report = common::branch();
    let tunnel = &mut report.tunnels[0];
    tunnel.message = "1 192.0.2.9 10.255.0.9 UP 00:00:01 D".into();
    tunnel.nhs[1].message = "\n     1 192.0.2.9            10.255.0.9    UP 00:00:01     D\n".into();
    let found = rows(&render(&report, Show::Dmvpn), "dm-branches");
    assert_eq!(found.len(), report.tunnels[0].peers.len());
    let text = render(&report, Show::Dmvpn);
    assert!(!text.lines().any(|line| line.trim_start().starts_with("1 192.0.2.9")), "{text}");
}
