//! A hub and a branch as their agents would report them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use view::{Attributes, CacheEntry, CacheKind, Nhs, NhsStatus, Peer, Report, Role, State, Traffic, Tunnel};

pub(crate) fn report(node: &str, tunnels: Vec<Tunnel>) -> Report {
    Report { node: node.into(), version: "0.1.0".into(), tunnels, problems: Vec::new() }
}

pub(crate) fn tunnel(interface: &str, role: Role) -> Tunnel {
    Tunnel {
        network: "branches".into(),
        interface: interface.into(),
        index: 7,
        role,
        state: State::Up,
        reason: String::new(),
        message: String::new(),
        state_seconds: 472,
        admin_up: true,
        line_up: true,
        addresses: vec!["10.255.0.1/16".parse().unwrap()],
        vrf: String::new(),
        tunnel_vrf: String::new(),
        source: Some("192.0.2.2".parse().unwrap()),
        destination: None,
        key: Some(100),
        mtu: 1400,
        path_mtu: None,
        bandwidth_kbps: None,
        network_id: 100,
        holding_time: 600,
        protection: String::new(),
        hindrance: String::new(),
        remark: String::new(),
        keepalive: None,
        interface_state_control: false,
        nhs: Vec::new(),
        peers: Vec::new(),
        cache: Vec::new(),
        traffic: Traffic::default(),
    }
}

/// `nbma` empty: not known yet; `up` `None`: never.
pub(crate) fn peer(nbma: &str, address: &str, target: &str, up: Option<u64>, marks: &str) -> Peer {
    let has = |mark: &str| marks.split(' ').any(|m| m == mark);
    Peer {
        nbma: nbma.parse().ok(),
        claimed_nbma: None,
        address: address.parse().unwrap(),
        target: target.parse().unwrap(),
        state: if up.is_some() { State::Up } else { State::Nhrp },
        up_down_seconds: up,
        attributes: Attributes {
            is_static: has("S"),
            dynamic: has("D"),
            incomplete: has("I"),
            nated: has("N"),
            local: has("L"),
            no_socket: has("X"),
            route_installed: has("T1"),
            nexthop_override: has("T2"),
            temporary: has("I2"),
        },
        group: None,
    }
}

pub(crate) fn entry(target: &str, via: &str, nbma: &str, kind: CacheKind, flags: &str) -> CacheEntry {
    CacheEntry {
        target: target.parse().unwrap(),
        via: via.parse().unwrap(),
        kind,
        flags: flags.split_whitespace().map(String::from).collect(),
        nbma: nbma.parse().ok(),
        claimed_nbma: None,
        created_seconds: 32,
        expire_seconds: Some(567),
        preference: 255,
        requesters: Vec::new(),
        reason: String::new(),
        software: None,
        group: None,
    }
}

pub(crate) fn nhs(name: &str, address: &str, nbma: &str) -> Nhs {
    Nhs {
        name: name.into(),
        address: address.parse().ok(),
        nbma: nbma.parse().ok(),
        priority: 0,
        cluster: 0,
        learned: false,
        status: NhsStatus::Responding,
        state: State::Up,
        reason: String::new(),
        message: String::new(),
        state_seconds: 472,
        requests_sent: 9,
        requests_failed: 1,
        replies_received: 8,
        last_reply_seconds: Some(49),
        request_id: 35914,
    }
}

/// A hub with two boxes and a router that is behind NAT.
pub(crate) fn hub() -> Report {
    let mut hub = tunnel("dm-branches", Role::Hub);
    hub.peers = vec![
        peer("203.0.113.2", "10.255.0.12", "10.255.0.12/32", Some(472), "D"),
        peer("203.0.113.2", "10.255.0.12", "10.2.0.0/24", Some(440), "D T1"),
        peer("203.0.113.130", "10.255.0.13", "10.255.0.13/32", Some(108_000), "D N"),
        peer("", "10.255.0.99", "10.255.0.99/32", None, "I X"),
    ];
    if let Some(natted) = hub.peers.get_mut(2) {
        natted.claimed_nbma = "192.168.7.4".parse().ok();
    }
    let mut claimed =
        entry("10.255.0.13/32", "10.255.0.13", "203.0.113.130", CacheKind::Dynamic, "unique registered nat");
    claimed.claimed_nbma = "192.168.7.4".parse().ok();
    let mut prefix = entry("10.2.0.0/24", "10.255.0.12", "203.0.113.2", CacheKind::Dynamic, "router rib");
    prefix.requesters = vec![("10.255.0.13".parse().unwrap(), 97)];
    let mut local = entry("10.255.0.1/32", "10.255.0.1", "192.0.2.2", CacheKind::Static, "local no-socket");
    local.expire_seconds = None;
    local.created_seconds = 200_000;
    let mut refused = entry("10.255.0.99/32", "10.255.0.99", "", CacheKind::Negative, "");
    refused.expire_seconds = Some(5);
    hub.cache = vec![local, prefix, claimed, refused];
    hub.traffic = Traffic {
        sent: vec![("Registration Reply".into(), 12), ("Traffic Indication".into(), 3)],
        received: vec![("Registration Request".into(), 12), ("Resolution Request".into(), 2)],
        forwarded: vec![("Resolution Request".into(), 2)],
        dropped: vec![("BadChecksum".into(), 1), ("Truncated".into(), 0)],
    };
    report("hub", vec![hub])
}

/// A branch whose second hub does not answer.
pub(crate) fn branch() -> Report {
    let mut branch = tunnel("dm-branches", Role::Spoke);
    branch.addresses = vec!["10.255.0.12/16".parse().unwrap()];
    branch.source = "203.0.113.2".parse().ok();
    branch.nhs = vec![nhs("hub1", "10.255.0.1", "192.0.2.2"), nhs("dc2", "10.255.0.2", "198.51.100.2")];
    if let Some(silent) = branch.nhs.get_mut(1) {
        silent.status = NhsStatus::Expecting;
        silent.state = State::Nhrp;
        silent.reason = "NoReply".into();
        silent.message =
            "198.51.100.2 does not answer; is the hub up, and does the underlay pass GRE?".into();
        silent.state_seconds = 40;
        silent.priority = 1;
        silent.replies_received = 0;
        silent.last_reply_seconds = None;
    }
    branch.state = State::Nhrp;
    branch.state_seconds = 40;
    branch.reason = "NoReply".into();
    branch.message = "hub dc2 does not answer".into();
    branch.peers = vec![
        peer("192.0.2.2", "10.255.0.1", "10.255.0.1/32", Some(472), "S"),
        peer("198.51.100.2", "10.255.0.2", "10.255.0.2/32", None, "S"),
    ];
    report("branch-a", vec![branch])
}

/// A hub with an IPv4 and an IPv6 overlay on an IPv6 underlay.
pub(crate) fn dual() -> Report {
    let mut hub = tunnel("dm-dual", Role::HubSpoke);
    hub.addresses = vec!["fd00:255::1/64".parse().unwrap(), "10.255.0.1/16".parse().unwrap()];
    hub.source = "2001:db8::1".parse().ok();
    hub.protection = "dual".into();
    hub.nhs = vec![nhs("up", "fd00:255::ff", "2001:db8::ff")];
    hub.peers = vec![
        peer("2001:db8:1202::222", "10.255.0.12", "10.255.0.12/32", Some(60), "D"),
        peer("2001:db8:1202::222", "fd00:255::12", "fd00:255::12/128", Some(60), "D"),
        peer("2001:db8:1202::222", "fd00:255::12", "fd00:2::/64", Some(59), "D T1"),
        peer("2001:db8:ffff:ffff:ffff:ffff:ffff:fffe", "fd00:255::13", "fd00:255::13/128", None, "S"),
    ];
    hub.cache = vec![
        entry("fd00:2::/64", "fd00:255::12", "2001:db8:1202::222", CacheKind::Dynamic, "router rib"),
        entry(
            "10.255.0.12/32",
            "10.255.0.12",
            "2001:db8:1202::222",
            CacheKind::Dynamic,
            "unique registered nhop",
        ),
    ];
    report("dual-hub", vec![hub])
}
