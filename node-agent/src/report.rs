//! What the agent shows: from its tunnels to the types of `view`. Pure.

use std::net::IpAddr;

use crds::endpoint::Role;
use ipnet::IpNet;
use nhrp::{BindingState, NhsPhase, ShortcutPhase, ShortcutState, Snapshot, Source, Time};
use view::{Attributes, CacheEntry, CacheKind, Nhs, NhsStatus, Peer, Problem, Report, State};

use crate::ladder::Rung;
use crate::tunnel::Tunnel;

/// The report of all tunnels at `now`.
pub fn report<'a>(
    node: &str,
    tunnels: impl Iterator<Item = &'a Tunnel>,
    problems: &[Problem],
    now: Time,
) -> Report {
    let mut tunnels: Vec<_> = tunnels.map(|t| tunnel(t, now)).collect();
    tunnels.sort_by(|a, b| a.interface.cmp(&b.interface));
    Report {
        node: node.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tunnels,
        problems: problems.to_vec(),
    }
}

fn tunnel(t: &Tunnel, now: Time) -> view::Tunnel {
    let snapshot = t.engine.as_ref().map(|e| e.snapshot(now)).unwrap_or_default();
    let spec = &t.spec;
    let unknown =
        Rung { state: State::Intf, reason: "Starting".into(), message: "the agent is starting".into() };
    let (rung, since) = t.rung().cloned().unwrap_or((unknown, now));
    let link = t.wanted.as_ref().map(|w| &w.link);
    view::Tunnel {
        network: spec.network.clone(),
        interface: spec.tunnel.interface_name.clone(),
        index: t.link,
        role: match spec.role {
            Role::Hub => view::Role::Hub,
            Role::Spoke | Role::Behind => view::Role::Spoke,
            Role::HubSpoke => view::Role::HubSpoke,
        },
        line_up: t.line_is_up(),
        admin_up: !spec.suspend,
        state: rung.state,
        reason: rung.reason,
        message: rung.message,
        state_seconds: now.since(since) / 1000,
        addresses: t.addresses().map(IpNet::from).collect(),
        vrf: spec.tunnel.vrf.clone().unwrap_or_default(),
        tunnel_vrf: spec.tunnel.source.vrf.clone().unwrap_or_default(),
        source: link.map(|l| l.local),
        destination: link.and_then(|l| l.remote),
        key: spec.tunnel.key,
        mtu: link.map_or_else(|| spec.tunnel.mtu.into(), |l| l.mtu),
        path_mtu: t.path_mtus.least(),
        bandwidth_kbps: spec.tunnel.bandwidth_kbps,
        network_id: spec.nhrp.network_id,
        holding_time: spec.nhrp.hold_time_seconds,
        protection: match &spec.ipsec {
            Some(_) => crate::plan::ipsec::name(&spec.network, None),
            None => String::new(),
        },
        hindrance: t
            .hindrance
            .as_ref()
            .map(|it| format!("{}: {}", it.reason, it.message))
            .unwrap_or_default(),
        remark: t.remarks(now),
        keepalive: t.keepalives.as_ref().map(|driver| {
            let settings = spec.tunnel.keepalive.as_ref().filter(|_| driver.line().remote.is_some());
            let tally = driver.tally();
            view::Keepalive {
                period_seconds: settings.map(|it| it.period_seconds),
                retries: settings.map(|it| it.retries),
                sent: tally.sent,
                returned: tally.returned,
                answered: tally.answered,
            }
        }),
        interface_state_control: spec.tunnel.interface_state == crds::network::InterfaceState::FollowNHS,
        nhs: if t.speaks_nhrp() { nhs(t, &snapshot, now) } else { Vec::new() },
        peers: if t.speaks_nhrp() { peers(t, &snapshot) } else { other_end(t, now) },
        cache: cache(t, &snapshot),
        traffic: traffic(&snapshot),
    }
}

fn nhs(t: &Tunnel, snapshot: &Snapshot, now: Time) -> Vec<Nhs> {
    let states = snapshot.nhs.iter().map(|s| {
        let (rung, since) = t.hub_rung(&s.name).cloned().unwrap_or_else(|| (Rung::up(), now));
        Nhs {
            name: s.name.clone(),
            address: s.overlay,
            nbma: s.nbma,
            priority: s.priority,
            cluster: s.cluster,
            learned: s.learned,
            status: match s.phase {
                NhsPhase::Down | NhsPhase::Waiting => NhsStatus::Waiting,
                NhsPhase::Expecting => NhsStatus::Expecting,
                NhsPhase::Responding => NhsStatus::Responding,
            },
            state: rung.state,
            reason: rung.reason,
            message: rung.message,
            state_seconds: now.since(since) / 1000,
            requests_sent: s.requests_sent,
            requests_failed: s.requests_failed,
            replies_received: s.replies_received,
            last_reply_seconds: s.last_reply_ms.map(|ms| ms / 1000),
            request_id: s.request_id,
        }
    });
    let mut all: Vec<_> = states.collect();
    // Hubs that the engine has not met (the tunnel has not started) are shown too: they are why nothing works.
    for hub in t.spec.nhs.iter().filter(|h| !snapshot.nhs.iter().any(|s| s.name == h.name)) {
        let waiting = Rung { state: State::Intf, reason: "Starting".into(), message: String::new() };
        let (rung, since) = t.hub_rung(&hub.name).cloned().unwrap_or((waiting, now));
        all.push(Nhs {
            name: hub.name.clone(),
            address: hub.overlay_addresses.first().copied(),
            nbma: hub.nbma.iter().find_map(|n| n.address.as_deref()?.parse().ok()),
            priority: hub.priority,
            cluster: hub.cluster,
            learned: false,
            status: NhsStatus::Waiting,
            state: rung.state,
            reason: rung.reason,
            message: rung.message,
            state_seconds: now.since(since) / 1000,
            requests_sent: 0,
            requests_failed: 0,
            replies_received: 0,
            last_reply_seconds: None,
            request_id: 0,
        });
    }
    all
}

/// The other end of a tunnel without NHRP, as a static peer with its prefixes.
fn other_end(t: &Tunnel, now: Time) -> Vec<Peer> {
    let spec = &t.spec;
    let nbma = t.wanted.as_ref().and_then(|wanted| wanted.link.remote);
    let (rung, since) = match t.rung() {
        Some((rung, since)) => (rung.state, Some(now.since(*since) / 1000)),
        None => (State::Intf, None),
    };
    let peer = |address: IpAddr, target: IpNet, route: bool| Peer {
        nbma,
        claimed_nbma: None,
        address,
        target,
        state: rung,
        up_down_seconds: since,
        attributes: Attributes { is_static: true, route_installed: route, ..Attributes::default() },
        group: None,
    };
    let hubs =
        spec.nhs.iter().flat_map(|hub| hub.overlay_addresses.iter().map(move |it| (*it, &hub.subnets)));
    let mapped = spec.nhrp.static_mappings.iter().map(|it| (it.overlay_address, &it.subnets));
    let mut peers = Vec::new();
    for (address, subnets) in hubs.chain(mapped) {
        peers.push(peer(address, IpNet::from(address), false));
        peers.extend(subnets.iter().map(|subnet| peer(address, subnet.0, true)));
    }
    peers
}

/// Peers: every binding of another host, and the shortcuts through it.
fn peers(t: &Tunnel, snapshot: &Snapshot) -> Vec<Peer> {
    let mut peers = Vec::new();
    for binding in snapshot.bindings.iter().filter(|b| is_peer(b)) {
        let state = match binding.source {
            Source::Nhs => hub_state(t, snapshot, binding),
            _ => State::Up,
        };
        let up = (state == State::Up).then_some(binding.age_ms / 1000);
        let since = snapshot
            .nhs
            .iter()
            .find(|s| s.overlay == Some(binding.overlay) && binding.source == Source::Nhs)
            .map(|s| s.since_ms / 1000);
        let peer = |target: IpNet, route: bool| Peer {
            nbma: Some(binding.nbma),
            claimed_nbma: binding.claimed_nbma,
            address: binding.overlay,
            target,
            state,
            up_down_seconds: if binding.source == Source::Nhs { since } else { up },
            attributes: Attributes {
                is_static: matches!(binding.source, Source::Nhs | Source::Static),
                dynamic: !matches!(binding.source, Source::Nhs | Source::Static),
                nated: binding.claimed_nbma.is_some(),
                route_installed: route,
                ..Attributes::default()
            },
            group: group(t, binding).filter(|_| target == IpNet::from(binding.overlay)),
        };
        let resolved = binding.source == Source::Resolved;
        peers.push(peer(IpNet::from(binding.overlay), resolved));
        for prefix in &binding.prefixes {
            peers.push(peer(*prefix, true));
        }
        for shortcut in snapshot.shortcuts.iter().filter(|s| s.via == Some(binding.overlay)) {
            if shortcut.prefix != IpNet::from(binding.overlay) {
                let up = Some(shortcut.age_ms / 1000);
                peers.push(Peer { up_down_seconds: up, ..peer(shortcut.prefix, true) });
            }
        }
    }
    for shortcut in snapshot.shortcuts.iter().filter(|s| s.phase == ShortcutPhase::Incomplete) {
        peers.push(Peer {
            nbma: None,
            claimed_nbma: None,
            address: shortcut.prefix.addr(),
            target: shortcut.prefix,
            state: State::Nhrp,
            up_down_seconds: None,
            attributes: Attributes { incomplete: true, no_socket: true, ..Attributes::default() },
            group: None,
        });
    }
    peers
}

fn is_peer(binding: &BindingState) -> bool {
    !matches!(binding.source, Source::Local | Source::Requester)
}

fn hub_state(t: &Tunnel, snapshot: &Snapshot, binding: &BindingState) -> State {
    let name = snapshot.nhs.iter().find(|s| s.overlay == Some(binding.overlay)).map(|s| s.name.as_str());
    name.and_then(|n| t.hub_rung(n)).map_or(State::Nhrp, |(rung, _)| rung.state)
}

fn cache(t: &Tunnel, snapshot: &Snapshot) -> Vec<CacheEntry> {
    let mut entries: Vec<_> = snapshot
        .bindings
        .iter()
        .filter(|b| b.source != Source::Requester)
        .map(|b| (b, binding_entry(b)))
        .map(|(b, entry)| CacheEntry { group: group(t, b), ..entry })
        .collect();
    for entry in &mut entries {
        // What a hub of ours says of itself is known by the registration with it.
        let hub = snapshot.nhs.iter().find(|nhs| nhs.overlay == Some(entry.via));
        entry.software = entry.software.take().or_else(|| hub?.software.map(software));
    }
    for binding in snapshot.bindings.iter().filter(|b| b.source != Source::Local) {
        entries.extend(binding.prefixes.iter().map(|p| CacheEntry {
            target: *p,
            flags: vec!["router".into(), "rib".into()],
            ..binding_entry(binding)
        }));
    }
    let find = |via: Option<IpAddr>| snapshot.bindings.iter().find(|b| Some(b.overlay) == via);
    for shortcut in &snapshot.shortcuts {
        // The egress's own host entry is there as a binding.
        if shortcut.via.is_some_and(|via| IpNet::from(via) == shortcut.prefix) {
            continue;
        }
        entries.push(shortcut_entry(shortcut, find(shortcut.via)));
    }
    entries.sort_by_key(|e| e.target);
    entries
}

/// The bandwidth class of a host: the one that it is shaped by, or that it says.
fn group(t: &Tunnel, binding: &BindingState) -> Option<view::Group> {
    let shaped = t.wanted.as_ref().and_then(|wanted| wanted.shaping.group(binding.overlay));
    let rate = |name: &str| t.spec.qos_groups.iter().find(|it| it.name == name).map(|it| it.rate_kbps);
    let name = shaped.or(binding.group.as_deref())?;
    Some(view::Group { name: name.to_owned(), rate_kbps: shaped.and_then(rate) })
}

fn binding_entry(binding: &BindingState) -> CacheEntry {
    let mut flags = Vec::new();
    if binding.unique {
        flags.push("unique".to_owned());
    }
    match binding.source {
        Source::Registered => flags.extend(["registered".to_owned(), "nhop".to_owned()]),
        Source::Local => flags.push("local".to_owned()),
        Source::Resolved => flags.extend(["router".to_owned(), "nhop".to_owned(), "rib".to_owned()]),
        Source::Nhs => flags.push("used".to_owned()),
        Source::Static | Source::Requester => {}
    }
    CacheEntry {
        target: IpNet::from(binding.overlay),
        via: binding.overlay,
        kind: match binding.source {
            Source::Nhs | Source::Static | Source::Local => CacheKind::Static,
            _ => CacheKind::Dynamic,
        },
        flags,
        nbma: Some(binding.nbma),
        claimed_nbma: binding.claimed_nbma,
        created_seconds: binding.age_ms / 1000,
        expire_seconds: binding.expires_ms.map(|ms| ms / 1000),
        preference: 255,
        requesters: binding.requesters.iter().map(|it| (it.overlay, it.request_id)).collect(),
        reason: String::new(),
        software: binding.software.map(software),
        group: None,
    }
}

fn shortcut_entry(shortcut: &ShortcutState, egress: Option<&BindingState>) -> CacheEntry {
    let kind = match shortcut.phase {
        ShortcutPhase::Incomplete => CacheKind::Incomplete,
        ShortcutPhase::Up => CacheKind::Dynamic,
        ShortcutPhase::Negative => CacheKind::Negative,
    };
    let mut flags = Vec::new();
    if shortcut.phase == ShortcutPhase::Up {
        flags.extend(["router".to_owned(), "rib".to_owned()]);
    }
    if shortcut.used {
        flags.push("used".to_owned());
    }
    CacheEntry {
        target: shortcut.prefix,
        via: shortcut.via.unwrap_or_else(|| shortcut.prefix.addr()),
        kind,
        flags,
        nbma: egress.map(|b| b.nbma),
        claimed_nbma: egress.and_then(|b| b.claimed_nbma),
        created_seconds: shortcut.age_ms / 1000,
        expire_seconds: Some(shortcut.expires_ms / 1000),
        preference: 255,
        requesters: Vec::new(),
        reason: shortcut.reason.clone(),
        software: None,
        group: None,
    }
}

fn software(software: nhrp::Software) -> view::Software {
    view::Software { version: software.to_string(), capabilities: software.names() }
}

fn traffic(snapshot: &Snapshot) -> view::Traffic {
    let counters = &snapshot.counters;
    view::Traffic {
        sent: by_type(&counters.sent),
        received: by_type(&counters.received),
        forwarded: by_type(&counters.forwarded),
        dropped: counters.drops.iter().map(|(reason, n)| (reason.to_string(), *n)).collect(),
    }
}

fn by_type(counters: &nhrp::ByType) -> Vec<(String, u64)> {
    nhrp::PacketType::ALL.iter().map(|t| (t.to_string(), counters.of(*t))).collect()
}
