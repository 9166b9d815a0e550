//! The world: its clock, its queue of events, the way of a packet between two engines.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::IpAddr;

use nhrp::wire::Message;
use nhrp::{Engine, Event, Input, Origin, Output, PacketType, Phase, Rule, Snapshot, Time};

use crate::address::{data, host};
use crate::check::Ghost;
use crate::node::{Kernel, Node};
use crate::plan::{LINK, Plan, Role, Weather};
use crate::rng::Rng;
use crate::underlay::Underlay;
use crate::{Stats, Violation};

/// When a world begins, milliseconds.
pub(crate) const BEGIN: Time = Time(1_000_000);
/// The first extension type of ours.
const OURS: u16 = 0x3800;
/// Packets that the hostile member remembers.
const CAPTURED: usize = 64;

/// Something that happens at a moment.
#[derive(Debug)]
pub(crate) enum What {
    Packet {
        to: usize,
        from: IpAddr,
        bytes: Vec<u8>,
    },
    Timeout(usize),
    Start(usize),
    /// The agent dies; how long until it is back, and with which snapshot.
    Kill(usize, u64, Option<Box<(Snapshot, Time)>>),
    Revive(usize, Option<Box<(Snapshot, Time)>>),
    Thaw(usize),
    Data(usize),
    Fault,
    Attack,
    Second,
}

#[derive(Debug)]
struct Due {
    at: Time,
    sequence: u64,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// Data packets from one host to another, at a steady pace.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// Since when a direct path loses what the hub's path would carry.
    pub(crate) broken: Option<Time>,
    pub(crate) looping: Option<Time>,
    /// It went straight to the egress since things calmed down.
    pub(crate) direct: bool,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Time,
    pub(crate) rng: Rng,
    pub(crate) nodes: Vec<Node>,
    pub(crate) under: Underlay,
    pub(crate) flows: Vec<Flow>,
    /// The longest holding time that anybody was ever told, seconds.
    pub(crate) longest_hold: u16,
    pub(crate) ghosts: BTreeMap<(usize, IpAddr, IpAddr), Ghost>,
    /// What the hostile member saw on the wire, in one way or another.
    pub(crate) captured: VecDeque<(IpAddr, Vec<u8>)>,
    /// Faults and attacks are over since then.
    pub(crate) quiet: Option<Time>,
    pub(crate) settled: bool,
    pub(crate) violation: Option<Violation>,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) stats: Stats,
    /// An agent puts its tables in place: they count when it is done.
    pub(crate) rebuilding: bool,
    rule: Option<Rule>,
    queue: BinaryHeap<Reverse<Due>>,
    sequence: u64,
}

impl World {
    pub(crate) fn new(seed: u64, rule: Option<Rule>, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::from_seed(&mut rng);
        let mut nodes: Vec<_> = plan.nodes.iter().cloned().map(Node::new).collect();
        for index in 0..nodes.len() {
            let masquerade = nodes[index].nat.filter(|nat| plan.nats[*nat].masquerade);
            let others = |other: &Node| other.nat == masquerade;
            nodes[index].shares_nat =
                masquerade.is_some() && nodes.iter().filter(|other| others(other)).count() > 1;
        }
        let under = Underlay::new(&plan.nats);
        let mut world = Self {
            now: BEGIN,
            nodes,
            under,
            flows: Vec::new(),
            longest_hold: plan.holding,
            ghosts: BTreeMap::new(),
            captured: VecDeque::new(),
            quiet: None,
            settled: false,
            violation: None,
            trace: traced.then(Vec::new),
            stats: Stats::default(),
            rebuilding: false,
            rule,
            queue: BinaryHeap::new(),
            sequence: 0,
            plan,
            rng,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        if self.trace.is_some() {
            let plan = format!("{:#?}", self.plan);
            self.note(|| plan);
        }
        for index in 0..self.nodes.len() {
            let at = self.rng.below(4000);
            self.nodes[index].disturbed = self.now.after(15_000);
            self.schedule(at, What::Start(index));
        }
        let members: Vec<usize> = (self.plan.hubs..self.nodes.len()).collect();
        for _ in 0..self.plan.flows {
            let (Some(from), Some(to)) = (self.rng.pick(&members), self.rng.pick(&members)) else { continue };
            if from != to && self.nodes[from].role == Role::Spoke {
                self.add_flow(from, to);
                if self.nodes[to].role == Role::Spoke && self.rng.percent(70) {
                    self.add_flow(to, from);
                }
            }
        }
        self.schedule(1000, What::Second);
        self.schedule(6000, What::Fault);
        if self.nodes.iter().any(|node| node.role == Role::Hostile) {
            self.schedule(9000, What::Attack);
        }
    }

    fn add_flow(&mut self, from: usize, to: usize) {
        let lans = self.rng.percent(80);
        let n = self.rng.between(2, 20) as u8;
        let end = |node: &Node| match node.config.subnets.first().filter(|_| lans) {
            Some(net) => host(*net, n),
            None => node.overlay(),
        };
        let (src, dst) = (end(&self.nodes[from]), end(&self.nodes[to]));
        self.flows.push(Flow { from, to, src, dst, broken: None, looping: None, direct: false });
        let at = 5000 + self.rng.below(2000);
        self.schedule(at, What::Data(self.flows.len() - 1));
    }

    /// Runs to its end: a breach, or all settled.
    pub(crate) fn run(&mut self) {
        while let Some(Reverse(due)) = self.queue.pop() {
            self.now = self.now.max(due.at);
            self.stats.events += 1;
            self.happen(due.what);
            if self.violation.is_some() || self.settled {
                return;
            }
        }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Packet { to, from, bytes } => self.deliver(to, from, &bytes),
            What::Timeout(index) => self.timeout(index),
            What::Start(index) => {
                let engine = self.fresh(index);
                self.start(index, engine);
            }
            What::Kill(index, down, snapshot) => self.kill(index, down, snapshot),
            What::Revive(index, snapshot) => self.revive(index, snapshot),
            What::Thaw(index) => self.thaw(index),
            What::Data(flow) => self.data(flow),
            What::Fault => self.fault(),
            What::Attack => self.attack(),
            What::Second => self.second(),
        }
    }

    pub(crate) fn schedule(&mut self, after_ms: u64, what: What) {
        self.sequence += 1;
        let at = self.now.after(after_ms);
        self.queue.push(Reverse(Due { at, sequence: self.sequence, what }));
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        let at = self.now.since(BEGIN);
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>4}.{:03} {}", at / 1000, at % 1000, text()));
        }
    }

    /// A rule of the network is broken.
    pub(crate) fn fail(&mut self, what: String) {
        if self.violation.is_none() {
            self.note(|| format!("BREACH {what}"));
            self.violation = Some(Violation { at_ms: self.now.since(BEGIN), what });
        }
    }

    fn fresh(&mut self, index: usize) -> Engine {
        let seed = self.rng.next();
        let node = &self.nodes[index];
        weaken(Engine::new(node.config.clone(), seed, node.clock(self.now)), self.rule)
    }

    /// Puts an engine to work, with what it installs at once in the place of what was there.
    pub(crate) fn start(&mut self, index: usize, engine: Engine) {
        self.note(|| format!("{index} starts"));
        self.begin_anew(index);
        let overlay = self.nodes[index].overlay();
        self.ghosts.retain(|(_, ghost, _), _| *ghost != overlay);
        let node = &mut self.nodes[index];
        node.engine = Some(engine);
        node.kernel = Kernel::default();
        node.absent = false;
        node.hubs_up.clear();
        self.rebuilding = true;
        self.drain(index);
        self.rebuilding = false;
        self.check_flows();
    }

    /// An agent begins anew, with a snapshot and the time when it was taken.
    pub(crate) fn begin_again(&mut self, index: usize, snapshot: Option<Box<(Snapshot, Time)>>) {
        let engine = match snapshot {
            Some(kept) => {
                let (snapshot, taken) = *kept;
                let seed = self.rng.next();
                let node = &self.nodes[index];
                let now = node.clock(self.now);
                weaken(
                    Engine::restore(node.config.clone(), &snapshot, now.since(taken), seed, now),
                    self.rule,
                )
            }
            None => self.fresh(index),
        };
        self.start(index, engine);
    }

    pub(crate) fn input(&mut self, index: usize, input: Input) {
        let node = &mut self.nodes[index];
        let now = node.clock(self.now);
        if node.frozen.is_some() {
            return;
        }
        let Some(engine) = &mut node.engine else { return };
        engine.handle_input(now, input);
        self.drain(index);
    }

    fn timeout(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.armed != Some(now) {
            return;
        }
        node.armed = None;
        if node.frozen.is_none() {
            self.wake(index);
        }
    }

    pub(crate) fn wake(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let clock = node.clock(self.now);
        let Some(engine) = &mut node.engine else { return };
        if engine.poll_timeout().is_some_and(|at| at <= clock) {
            engine.handle_timeout(clock);
            let next = engine.poll_timeout();
            let second = self.now.0 / 1000;
            if node.wakes.0 != second {
                node.wakes = (second, 0);
            }
            node.wakes.1 += 1;
            let often = node.wakes.1;
            if next.is_some_and(|next| next <= clock) {
                self.fail(format!("{index} wants a timeout at {next:?} again, it is {clock:?}"));
            }
            // A timer a client, push, shortcut and purge at most.
            if often > 500 {
                self.fail(format!("{index} spins: {often} timeouts in one second"));
            }
        }
        self.drain(index);
    }

    /// Does what an engine wants done.
    pub(crate) fn drain(&mut self, index: usize) {
        loop {
            let Some(engine) = &mut self.nodes[index].engine else { return };
            let Some(output) = engine.poll_output() else { break };
            if self.trace.is_some() && !matches!(output, Output::Send { .. }) {
                let text = match &output {
                    Output::Event(event) => format!("{index}   {event}"),
                    other => format!("{index}   {other:?}"),
                };
                self.note(|| text);
            }
            match output {
                Output::Send { to, bytes, .. } => self.send(index, to, bytes),
                Output::QueryUse { prefix } => {
                    let now = self.now;
                    let recent =
                        |(dst, at): (&IpAddr, &Time)| prefix.contains(dst) && now.since(*at) < 60_000;
                    let node = &mut self.nodes[index];
                    let used = node.used.iter().any(recent);
                    let clock = node.clock(now);
                    if let Some(engine) = &mut node.engine {
                        engine.handle_input(clock, Input::Use { prefix, used });
                    }
                }
                Output::Withdrawn => {
                    let node = &mut self.nodes[index];
                    node.engine = None;
                    node.kernel = Kernel::default();
                    node.absent = true;
                    return;
                }
                Output::Event(event) => self.event(index, &event),
                change => self.change(index, change),
            }
        }
        let now = self.now;
        let node = &mut self.nodes[index];
        let Some(at) = node.engine.as_ref().and_then(Engine::poll_timeout) else { return };
        let at = Time(at.0.saturating_sub(node.offset)).max(now);
        if node.armed.is_none_or(|armed| at < armed) {
            node.armed = Some(at);
            self.schedule(at.since(now), What::Timeout(index));
        }
    }

    fn event(&mut self, index: usize, event: &Event) {
        let node = &mut self.nodes[index];
        match event {
            Event::NhsChosen { overlay, .. } => node.chosen = Some(*overlay),
            Event::NhsUp { overlay: Some(overlay), .. } => node.hubs_up.push(*overlay),
            Event::NhsDown { overlay: Some(overlay), .. } => node.hubs_up.retain(|hub| hub != overlay),
            _ => {}
        }
        self.check_event(index, event);
    }

    /// A packet of an engine's.
    fn send(&mut self, index: usize, to: IpAddr, bytes: Vec<u8>) {
        self.stats.packets += 1;
        let Some(message) = self.check_packet(index, to, &bytes) else { return };
        if self.trace.is_some() {
            let text = brief(&message);
            self.note(|| format!("{index} → {to} {text}"));
        }
        let header = message.header;
        if header.packet_type == PacketType::ResolutionRequest && self.nodes[index].owns(header.src_proto) {
            self.nodes[index].asked = Some((header.request_id, header.dst_proto));
        }
        let bytes = if self.nodes[index].foreign { without_ours(message) } else { bytes };
        if self.captured.len() == CAPTURED {
            self.captured.pop_front();
        }
        self.captured.push_back((to, bytes.clone()));
        self.transmit(index, to, bytes);
    }

    /// Into the network, with all that may happen there.
    pub(crate) fn transmit(&mut self, index: usize, to: IpAddr, mut bytes: Vec<u8>) {
        let storm = self.plan.weather == Weather::Storm && self.quiet.is_none();
        let nat = self.nodes[index].nat;
        if !self.under.opens(index, nat, to, self.now) {
            return;
        }
        let sender = &self.nodes[index];
        let (Some(from), Some(target)) =
            (self.under.public(sender), self.under.target(&self.nodes, sender, to, self.now))
        else {
            return;
        };
        if self.under.is_cut(index, target, self.now) {
            return;
        }
        let mut copies = 1;
        if storm {
            if self.rng.below(1000) < self.plan.loss {
                copies = 0;
            } else if self.rng.below(1000) < self.plan.duplicates {
                copies = 2;
            }
            if self.rng.below(1000) < self.plan.damage && !bytes.is_empty() {
                let at = self.rng.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.rng.below(8);
            }
        }
        let (low, high) = self.plan.delay_ms;
        for _ in 0..copies {
            let delay = self.rng.between(low, high);
            self.schedule(delay, What::Packet { to: target, from, bytes: bytes.clone() });
        }
    }

    /// From an address that no node of ours need have: what the hostile member and the outsider send.
    pub(crate) fn inject(&mut self, from: IpAddr, to: IpAddr, bytes: Vec<u8>) {
        let mut nodes = self.nodes.iter();
        let Some(target) = nodes.position(|node| node.nat.is_none() && node.config.nbma == Some(to)) else {
            return;
        };
        let (low, high) = self.plan.delay_ms;
        let delay = self.rng.between(low, high);
        self.schedule(delay, What::Packet { to: target, from, bytes });
    }

    fn deliver(&mut self, index: usize, from: IpAddr, bytes: &[u8]) {
        let node = &self.nodes[index];
        if !node.present() || node.frozen.is_some() || node.engine.is_none() {
            return;
        }
        if node.role == Role::Hostile && self.hostile_hears(index, from, bytes) {
            return;
        }
        let node = &mut self.nodes[index];
        let stripped;
        let bytes = match Message::decode(bytes) {
            Ok(message) if node.foreign => {
                if message.header.packet_type == PacketType::PurgeRequest {
                    return;
                }
                stripped = without_ours(message);
                &stripped
            }
            _ => bytes,
        };
        let clock = node.clock(self.now);
        let Some(engine) = &mut node.engine else { return };
        engine.handle_packet(clock, Origin { link: LINK, nbma: from }, bytes);
        self.drain(index);
    }

    /// A data packet of a flow: hubs that it turns round at notice, the kernel may ask for a next hop.
    fn data(&mut self, flow: usize) {
        let gap = if self.quiet.is_some() { 2000 } else { 500 };
        self.schedule(gap, What::Data(flow));
        let Flow { from, src, dst, .. } = self.flows[flow];
        if !self.nodes[from].present() || self.nodes[from].frozen.is_some() {
            return;
        }
        match self.path(from, dst, true) {
            Ok(way) => {
                let now = self.now;
                // What the agent sees of use: destinations, in Phase 2 next hops.
                let used = match self.plan.phase {
                    Phase::Two => self.next_hop(from, dst, true),
                    Phase::One | Phase::Three => Some(dst),
                };
                self.nodes[from].used.extend(used.map(|used| (used, now)));
                if way.len() == 2 && self.quiet.is_some() {
                    self.flows[flow].direct = true;
                }
                for pair in way.windows(2) {
                    if let Some(to) = self.under.public(&self.nodes[pair[1]]) {
                        let nat = self.nodes[pair[0]].nat;
                        self.under.opens(pair[0], nat, to, now);
                    }
                }
                for at in way.iter().skip(1).take(way.len().saturating_sub(2)) {
                    if self.nodes[*at].role == Role::Hub {
                        self.input(*at, Input::Hairpin { link: LINK, packet: data(src, dst) });
                    }
                }
            }
            Err((crate::check::Lost::Unresolved(via), way)) => {
                let at = way.last().copied().unwrap_or(from);
                self.input(at, Input::ResolveNeeded { link: LINK, overlay: via });
            }
            Err(_) => {}
        }
        self.check_flow(flow);
    }
}

#[cfg(feature = "proof")]
fn weaken(engine: Engine, rule: Option<Rule>) -> Engine {
    engine.without(rule)
}

#[cfg(not(feature = "proof"))]
fn weaken(engine: Engine, _rule: Option<Rule>) -> Engine {
    engine
}

/// The packet as one who has no extension of ours sends it (and sees it).
fn without_ours(mut message: Message) -> Vec<u8> {
    if let Some(extensions) = &mut message.extensions {
        extensions.retain(|extension| extension.kind < OURS);
    }
    message.encode()
}

/// One line of a trace.
pub(crate) fn brief(message: &Message) -> String {
    let header = &message.header;
    let mut text = format!(
        "{} id {} {}→{} hops {}",
        header.packet_type, header.request_id, header.src_proto, header.dst_proto, header.hop_count
    );
    for cie in &message.cies {
        text += &format!(
            " [code {} /{} {:?} at {:?} for {} s]",
            cie.code, cie.prefix_len, cie.proto, cie.nbma, cie.holding_time
        );
    }
    text
}
