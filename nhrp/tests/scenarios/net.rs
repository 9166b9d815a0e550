//! The simulated network: nodes with engine and kernel tables, links with delay and loss from a seed.
//!
//! What an engine wants done is applied in its order to the node's tables; after each single change all watched
//! flows are traced through all tables, so that a wrong order shows as a lost packet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::IpAddr;

use ipnet::IpNet;
use nhrp::wire::Message;
use nhrp::{
    ChildHub, Config, Engine, Event, Input, LinkId, Nhs, Origin, Output, PacketType, Phase, RouteKind,
    Snapshot, Time, Uniqueness,
};

pub const LINK: LinkId = LinkId(7);
pub const OVERLAY: &str = "10.255.0.0/16";

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Overlay address number `n`.
pub fn overlay(n: u32) -> IpAddr {
    IpAddr::from((0x0aff_0000 + n).to_be_bytes())
}

/// Underlay address number `n`.
pub fn nbma(n: u32) -> IpAddr {
    IpAddr::from((0xc612_0000 + n).to_be_bytes())
}

/// For a spoke with nothing behind it.
pub const NO_LAN: &[&str] = &[];

/// A hub, number `n`.
pub fn hub(n: u32) -> Config {
    Config { server: true, nhs: Vec::new(), subnets: Vec::new(), ..spoke(n, NO_LAN) }
}

/// The hub as spokes know it.
pub fn nhs(n: u32) -> Nhs {
    Nhs {
        name: format!("hub{n}"),
        overlay: vec![overlay(n)],
        nbma: vec![nbma(n)],
        priority: n as u8 - 1,
        ..Nhs::default()
    }
}

/// The hub as hubs know it that it registers with.
pub fn child_hub(n: u32) -> ChildHub {
    ChildHub { name: format!("hub{n}"), overlay: vec![overlay(n)], nbma: vec![nbma(n)] }
}

/// A spoke of hub 1, number `n`, with these subnets.
pub fn spoke(n: u32, subnets: &[impl AsRef<str>]) -> Config {
    Config {
        link: LINK,
        nbma: Some(nbma(n)),
        phase: Phase::Three,
        server: false,
        local: vec![overlay(n)],
        overlay: vec![net(OVERLAY)],
        subnets: subnets.iter().map(|subnet| net(subnet.as_ref())).collect(),
        advertise: Vec::new(),
        beside: Vec::new(),
        across: Vec::new(),
        nhs: vec![nhs(1)],
        child_hubs: Vec::new(),
        statics: Vec::new(),
        external: Vec::new(),
        holding_time: 60,
        names: Vec::new(),
        hub_list: Vec::new(),
        fixed_hubs: false,
        fallback_seconds: 0,
        registration_interval: None,
        unique: false,
        uniqueness: Uniqueness::Identity,
        authentication: Vec::new(),
        mtu: 1400,
        request: None,
        pool: None,
        own_groups: Vec::new(),
        groups: BTreeSet::new(),
        members: None,
    }
}

/// A host with its tunnel.
pub struct Node {
    pub engine: Engine,
    pub config: Config,
    /// Overlay addresses that it got in band.
    pub assigned: BTreeSet<IpAddr>,
    pub neighbours: BTreeMap<IpAddr, IpAddr>,
    pub routes: BTreeMap<(IpNet, RouteKind), IpAddr>,
    /// Bandwidth classes of clients.
    pub groups: BTreeMap<IpAddr, String>,
    pub events: Vec<Event>,
    pub withdrawn: bool,
    /// Address that the network sees instead of its own.
    pub nat: Option<IpAddr>,
    /// The NAT is 1:1 and lets everybody in; else it lets in only who was sent something.
    pub one_to_one: bool,
    opened: BTreeSet<IpAddr>,
    /// Destinations of data sent, and when.
    used: BTreeMap<IpAddr, Time>,
    pub alive: bool,
}

/// A packet as it was sent.
pub struct Sent {
    pub at: Time,
    pub from: IpAddr,
    pub to: IpAddr,
    pub message: Message,
    pub bytes: Vec<u8>,
}

impl Sent {
    pub fn is(&self, packet_type: PacketType) -> bool {
        self.message.header.packet_type == packet_type
    }
}

/// Why a packet does not get on.
enum Stuck {
    /// This node's kernel asks for a next hop, and keeps the packet meanwhile.
    Asks(usize, IpAddr),
    Lost(String),
}

pub struct Net {
    pub nodes: Vec<Node>,
    /// Nodes that are tunnels of one hub: each with the other one.
    pub twins: BTreeMap<usize, usize>,
    pub now: Time,
    pub wire: Vec<Sent>,
    /// Keep the packets sent (scenarios with thousands of nodes do not).
    pub record: bool,
    pub sent: u64,
    /// Of a thousand packets so many get lost.
    pub loss: u64,
    /// Registrations and their replies do not get lost.
    pub spare_registrations: bool,
    pub delay_ms: (u64, u64),
    /// Underlay pairs that do not reach each other.
    pub cut: BTreeSet<(IpAddr, IpAddr)>,
    /// Flows that must work after every change: (node, source, destination).
    pub watched: Vec<(usize, IpAddr, IpAddr)>,
    pub trace: Vec<String>,
    pub tracing: bool,
    packets: BinaryHeap<Reverse<(Time, u64, usize)>>,
    bodies: BTreeMap<u64, (IpAddr, Vec<u8>)>,
    by_nbma: BTreeMap<IpAddr, usize>,
    timeouts: BinaryHeap<Reverse<(Time, usize)>>,
    sequence: u64,
    rng: u64,
}

impl Net {
    pub fn new(seed: u64) -> Self {
        Self {
            nodes: Vec::new(),
            twins: BTreeMap::new(),
            now: Time(1_000_000),
            wire: Vec::new(),
            record: true,
            sent: 0,
            loss: 0,
            spare_registrations: false,
            delay_ms: (5, 5),
            cut: BTreeSet::new(),
            watched: Vec::new(),
            trace: Vec::new(),
            tracing: false,
            packets: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            by_nbma: BTreeMap::new(),
            timeouts: BinaryHeap::new(),
            sequence: 0,
            rng: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    pub fn add(&mut self, config: Config) -> usize {
        let engine = Engine::new(config.clone(), self.random(), self.now);
        self.add_engine(config, engine, None)
    }

    /// Behind a NAT that shows as `public`.
    pub fn add_natted(&mut self, config: Config, public: IpAddr) -> usize {
        let engine = Engine::new(config.clone(), self.random(), self.now);
        self.add_engine(config, engine, Some(public))
    }

    fn add_engine(&mut self, config: Config, engine: Engine, nat: Option<IpAddr>) -> usize {
        let index = self.nodes.len();
        if let Some(nbma) = nat.or(config.nbma) {
            self.by_nbma.insert(nbma, index);
        }
        self.nodes.push(Node {
            engine,
            config,
            assigned: BTreeSet::new(),
            neighbours: BTreeMap::new(),
            routes: BTreeMap::new(),
            groups: BTreeMap::new(),
            events: Vec::new(),
            withdrawn: false,
            nat,
            one_to_one: false,
            opened: BTreeSet::new(),
            used: BTreeMap::new(),
            alive: true,
        });
        self.drain(index);
        index
    }

    pub fn input(&mut self, index: usize, input: Input) {
        let now = self.now;
        if let Input::Configure(config) = &input {
            self.nodes[index].config = (**config).clone();
        }
        self.nodes[index].engine.handle_input(now, input);
        self.drain(index);
    }

    /// Another underlay address, as after a new DHCP lease.
    pub fn readdress(&mut self, index: usize, nbma: IpAddr) {
        let old = self.nodes[index].config.nbma.unwrap();
        self.by_nbma.remove(&old);
        self.by_nbma.insert(nbma, index);
        self.nodes[index].config.nbma = Some(nbma);
        self.input(index, Input::Nbma { link: LINK, nbma: Some(nbma) });
    }

    /// The NAT gives out another address, and has forgotten whom it let in.
    pub fn rebind(&mut self, index: usize, public: IpAddr) {
        let old = self.nodes[index].nat.replace(public).unwrap();
        if self.by_nbma.get(&old) == Some(&index) {
            self.by_nbma.remove(&old);
        }
        self.by_nbma.insert(public, index);
        self.nodes[index].opened.clear();
    }

    /// The agent dies and comes back after `ms`; the kernel's tables stay.
    pub fn restart(&mut self, index: usize, ms: u64) -> Snapshot {
        let snapshot = self.nodes[index].engine.snapshot(self.now);
        // As it is written to a file and read back.
        let text = serde_json::to_string(&snapshot).unwrap();
        let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
        self.nodes[index].alive = false;
        self.run(ms);
        let seed = self.random();
        let config = self.nodes[index].config.clone();
        self.nodes[index].engine = Engine::restore(config, &snapshot, ms, seed, self.now);
        self.nodes[index].alive = true;
        self.drain(index);
        snapshot
    }

    /// The host boots: its agent knows nothing, its kernel's tables are empty.
    pub fn reboot(&mut self, index: usize) {
        let seed = self.random();
        let node = &mut self.nodes[index];
        node.engine = Engine::new(node.config.clone(), seed, self.now);
        node.neighbours.clear();
        node.groups.clear();
        node.routes.clear();
        self.drain(index);
    }

    /// The whole host is cut off from everybody (or comes back): neither its agent nor its kernel does anything.
    pub fn cut_off(&mut self, index: usize, off: bool) {
        let own = self.nodes[index].config.nbma.unwrap();
        for other in self.by_nbma.keys() {
            for pair in [(own, *other), (*other, own)] {
                if off {
                    self.cut.insert(pair)
                } else {
                    self.cut.remove(&pair)
                };
            }
        }
    }

    /// A packet that no engine made.
    pub fn inject(&mut self, from: IpAddr, to: usize, bytes: &[u8]) {
        let now = self.now;
        self.nodes[to].engine.handle_packet(now, Origin { link: LINK, nbma: from }, bytes);
        self.drain(to);
    }

    pub fn run(&mut self, ms: u64) {
        let end = self.now.after(ms);
        loop {
            let packet = self.packets.peek().map(|Reverse((at, ..))| *at);
            let timeout = self.timeouts.peek().map(|Reverse((at, _))| *at);
            let next = match (packet, timeout) {
                (None, None) => break,
                (a, b) => a.unwrap_or(Time(u64::MAX)).min(b.unwrap_or(Time(u64::MAX))),
            };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if packet == Some(next) {
                self.deliver();
            } else if let Some(Reverse((_, index))) = self.timeouts.pop() {
                let now = self.now;
                let node = &mut self.nodes[index];
                if node.alive && node.engine.poll_timeout().is_some_and(|at| at <= now) {
                    node.engine.handle_timeout(now);
                    self.drain(index);
                }
            }
        }
        self.now = end;
    }

    /// Runs until `done`, at most `ms`; says how long it took.
    pub fn until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) -> u64 {
        let start = self.now;
        for _ in 0..=ms {
            if done(self) {
                return self.now.since(start);
            }
            self.run(1);
        }
        panic!(
            "not within {ms} ms; events: {:#?}",
            self.nodes.iter().map(|node| &node.events).collect::<Vec<_>>()
        );
    }

    fn deliver(&mut self) {
        let Some(Reverse((_, sequence, to))) = self.packets.pop() else { return };
        let Some((from, bytes)) = self.bodies.remove(&sequence) else { return };
        if self.nodes[to].alive {
            let now = self.now;
            self.nodes[to].engine.handle_packet(now, Origin { link: LINK, nbma: from }, &bytes);
            self.drain(to);
        }
    }

    fn drain(&mut self, index: usize) {
        while let Some(output) = self.nodes[index].engine.poll_output() {
            if self.tracing {
                self.trace.push(format!("{} {index} {output:?}", self.now.0));
            }
            let node = &mut self.nodes[index];
            match output {
                Output::Send { to, bytes, .. } => {
                    self.send(index, to, bytes);
                    continue;
                }
                Output::InstallNeighbour { overlay, nbma, .. } => {
                    node.neighbours.insert(overlay, nbma);
                }
                Output::RemoveNeighbour { overlay, .. } => {
                    node.groups.remove(&overlay);
                    assert!(node.neighbours.remove(&overlay).is_some(), "no such neighbour: {overlay}");
                }
                Output::InstallRoute { prefix, via, kind, .. } => {
                    // In Phase 2 the kernel asks for a next hop that it does not know.
                    let asks = kind == RouteKind::Announced && node.config.phase == Phase::Two;
                    assert!(
                        asks || node.neighbours.contains_key(&via),
                        "{index}: route to {prefix} via unknown {via}"
                    );
                    node.routes.insert((prefix, kind), via);
                }
                Output::RemoveRoute { prefix, kind, .. } => {
                    assert!(
                        node.routes.remove(&(prefix, kind)).is_some(),
                        "no such route: {prefix} {kind:?}"
                    );
                }
                Output::QueryUse { prefix } => {
                    let recent =
                        |(dst, at): (&IpAddr, &Time)| prefix.contains(dst) && self.now.since(*at) < 60_000;
                    let used = node.used.iter().any(recent);
                    let now = self.now;
                    self.nodes[index].engine.handle_input(now, Input::Use { prefix, used });
                    continue;
                }
                Output::AssignAddress { address, .. } => {
                    node.assigned.insert(address);
                }
                Output::ReleaseAddress { address, .. } => {
                    assert!(node.assigned.remove(&address), "no such address: {address}");
                }
                Output::Group { overlay, group, .. } => {
                    assert!(node.neighbours.contains_key(&overlay), "the class of nobody: {overlay}");
                    match group {
                        Some(group) => drop(node.groups.insert(overlay, group)),
                        None => drop(node.groups.remove(&overlay)),
                    }
                }
                Output::Across(across) => {
                    let (now, twin) = (self.now, self.twins[&index]);
                    let taken = self.nodes[twin].engine.take_across(now, &across.bytes);
                    self.drain(twin);
                    if !taken {
                        self.nodes[index].engine.handle_input(now, Input::Stranded(across));
                    }
                    continue;
                }
                Output::Withdrawn => node.withdrawn = true,
                Output::Event(event) => {
                    assert!(!event.to_string().contains('\n'));
                    node.events.push(event);
                    continue;
                }
            }
            self.check_watched();
        }
        if let Some(at) = self.nodes[index].engine.poll_timeout() {
            self.timeouts.push(Reverse((at, index)));
        }
    }

    fn send(&mut self, index: usize, to: IpAddr, bytes: Vec<u8>) {
        self.sent += 1;
        let node = &mut self.nodes[index];
        let from = node.nat.or(node.config.nbma).unwrap();
        if node.nat.is_some() {
            node.opened.insert(to);
        }
        let message = Message::decode(&bytes).expect("an engine sent what cannot be read");
        assert!(message.header.hop_count > 0, "Cisco drops hop count 0");
        assert!(bytes.len() <= usize::from(self.nodes[index].config.mtu), "longer than the tunnel's MTU");
        if self.record {
            self.wire.push(Sent { at: self.now, from, to, message, bytes: bytes.clone() });
        }
        let spared = self.spare_registrations && matches!(bytes[17], 3 | 4);
        if self.random() % 1000 < self.loss && !spared || self.cut.contains(&(from, to)) {
            return;
        }
        let Some(target) = self.reach(from, to) else { return };
        let (least, most) = self.delay_ms;
        let delay = least + self.random() % (most - least + 1);
        self.sequence += 1;
        self.bodies.insert(self.sequence, (from, bytes));
        self.packets.push(Reverse((self.now.after(delay), self.sequence, target)));
    }

    /// The node that gets what `from` sends to `to`.
    fn reach(&self, from: IpAddr, to: IpAddr) -> Option<usize> {
        let target = *self.by_nbma.get(&to)?;
        let node = &self.nodes[target];
        (node.nat.is_none() || node.one_to_one || node.opened.contains(&from)).then_some(target)
    }

    pub fn random(&mut self) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng
    }

    /// The way of a data packet, node by node.
    pub fn path(&self, start: usize, dst: IpAddr) -> Result<Vec<usize>, String> {
        self.walk(start, dst).map_err(|stuck| match stuck {
            Stuck::Asks(at, next_hop) => format!("node {at} waits for {next_hop}"),
            Stuck::Lost(why) => why,
        })
    }

    fn walk(&self, start: usize, dst: IpAddr) -> Result<Vec<usize>, Stuck> {
        let lost = |why: String| Err(Stuck::Lost(why));
        let mut way = vec![start];
        let mut at = start;
        loop {
            let node = &self.nodes[at];
            let ours = node.config.local.contains(&dst)
                || node.assigned.contains(&dst)
                || node.config.subnets.iter().any(|net| net.contains(&dst));
            if ours {
                return Ok(way);
            }
            // What a hub tells as a summary goes nowhere but to what it has of it.
            let length = self.route(at, dst).map_or(0, |(prefix, _)| prefix.prefix_len());
            if node.config.advertise.iter().any(|net| net.prefix_len() > length && net.contains(&dst)) {
                return lost(format!("nothing of the summary has {dst} at node {at}, way {way:?}"));
            }
            let Some(via) = self.next_hop(at, dst) else {
                return lost(format!("no route to {dst} at node {at}, way {way:?}"));
            };
            let Some(nbma) = node.neighbours.get(&via) else {
                let asks = node.config.phase == Phase::Two && !node.config.server && node.alive;
                if asks {
                    return Err(Stuck::Asks(at, via));
                }
                return lost(format!("no neighbour {via} at node {at}, way {way:?}"));
            };
            let own = node.nat.or(node.config.nbma).unwrap();
            if self.cut.contains(&(own, *nbma)) {
                return lost(format!("{own} does not reach {nbma}, way {way:?}"));
            }
            let Some(next) = self.reach(own, *nbma) else {
                return lost(format!("nobody at {nbma}, way {way:?}"));
            };
            way.push(next);
            if way.len() > 8 {
                return lost(format!("loop: {way:?}"));
            }
            at = next;
        }
    }

    /// A node's best route to `dst`: prefix and overlay next hop.
    fn route(&self, at: usize, dst: IpAddr) -> Option<(IpNet, IpAddr)> {
        let all = self.nodes[at].routes.iter().filter(|((prefix, _), _)| prefix.contains(&dst));
        let best = all.max_by_key(|((prefix, kind), _)| (prefix.prefix_len(), Reverse(*kind)));
        best.map(|((prefix, _), via)| (*prefix, *via))
    }

    /// The overlay next hop that it has for `dst`: the overlay as a whole goes by its best hub, if that is not one that
    /// does the same.
    fn next_hop(&self, at: usize, dst: IpAddr) -> Option<IpAddr> {
        if let Some((_, via)) = self.route(at, dst) {
            return Some(via);
        }
        let node = &self.nodes[at];
        let hub = node.engine.gateways().find(|via| via.is_ipv4() == dst.is_ipv4());
        hub.filter(|_| node.config.overlay.iter().any(|net| net.contains(&dst)))
    }

    /// Sends a data packet; kernels ask for next hops that they lack, hubs that it turns round at notice.
    pub fn ping(&mut self, start: usize, src: IpAddr, dst: IpAddr) -> Vec<usize> {
        let way = loop {
            match self.walk(start, dst) {
                Ok(way) => break way,
                Err(Stuck::Lost(error)) => panic!("lost: {error}"),
                Err(Stuck::Asks(at, overlay)) => {
                    self.input(at, Input::ResolveNeeded { link: LINK, overlay });
                    let known = self.nodes[at].neighbours.contains_key(&overlay);
                    assert!(known, "lost: node {at} asked for {overlay} and was told nothing");
                }
            }
        };
        let now = self.now;
        // What the agent sees of use: destinations, in Phase 2 next hops.
        let used = match self.nodes[start].config.phase {
            Phase::Two => self.next_hop(start, dst),
            Phase::One | Phase::Three => Some(dst),
        };
        self.nodes[start].used.extend(used.map(|used| (used, now)));
        for at in &way[1..way.len() - 1] {
            self.input(*at, Input::Hairpin { link: LINK, packet: data(src, dst) });
        }
        way
    }

    pub fn watch(&mut self, start: usize, src: IpAddr, dst: IpAddr) {
        self.watched.push((start, src, dst));
        self.check_watched();
    }

    fn check_watched(&self) {
        for (start, _, dst) in &self.watched {
            // A packet for a next hop that the kernel asks for waits there.
            if let Err(Stuck::Lost(error)) = self.walk(*start, *dst) {
                panic!("at {}: flow to {dst} broken: {error}", self.now.0);
            }
        }
    }

    pub fn has_event(&self, index: usize, test: impl Fn(&Event) -> bool) -> bool {
        self.nodes[index].events.iter().any(test)
    }

    pub fn snapshot(&self, index: usize) -> Snapshot {
        self.nodes[index].engine.snapshot(self.now)
    }

    /// Whether a node is registered with all its hubs.
    pub fn registered(&self, index: usize) -> bool {
        let states = self.nodes[index].engine.nhs_states(self.now);
        !states.is_empty() && states.iter().all(|state| state.phase == nhrp::NhsPhase::Responding)
    }

    pub fn count(&self, packet_type: PacketType) -> usize {
        self.wire.iter().filter(|sent| sent.is(packet_type)).count()
    }
}

/// The start of an IP packet, 128 bytes as the kernel hands them out.
pub fn data(src: IpAddr, dst: IpAddr) -> Vec<u8> {
    let mut packet = vec![0; 128];
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            packet[0] = 0x45;
            packet[12..16].copy_from_slice(&src.octets());
            packet[16..20].copy_from_slice(&dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            packet[0] = 0x60;
            packet[8..24].copy_from_slice(&src.octets());
            packet[24..40].copy_from_slice(&dst.octets());
        }
        _ => panic!("two families"),
    }
    packet
}
