//! The engine: one tunnel's NHRP, as client, server, transit and egress at once.
//!
//! A packet's way: [`Engine::handle_packet`] (here) reads it, checks the password and hands it to the part that the
//! packet type belongs to:
//! - `client`: registration with our NHSs; `learn`: the prefixes that they tell us
//! - `hub_list`: the hubs of the network, as a hub tells them
//! - `server`: registrations with us; `probe`: who really holds an address; `nat`: several behind one address;
//!   `announce`: what we tell clients; `multicast`: who gets it
//! - `members`: who may have which address and prefix
//! - `assign`: overlay addresses that we ask an NHS for; `lease`: those that we assign as NHS
//! - `resolve`: requests and replies that we answer or pass on; `shortcut`: our own requests and their routes;
//!   `answer`: what of the answers is believed; `path`: whether the egress is reached; `glean`: what the kernel asks
//!   for (Phase 2)
//! - `hierarchy`: hubs above and below, next hops; `across`: other tunnels of the same networkId
//! - `redirect`: hairpins → Traffic Indications; `purge`; `fault`: Error Indications
//!
//! What all of them work on: `bindings` (overlay host → NBMA) and `routes` (prefix → overlay host). `configure` works
//! out what a changed configuration changes, `resume` makes and reads snapshots.

mod across;
mod announce;
mod answer;
mod assign;
mod bindings;
mod client;
mod config;
mod configure;
mod counters;
mod event;
mod fault;
mod glean;
mod groups;
mod hierarchy;
mod hub_list;
mod io;
mod learn;
mod lease;
mod limit;
mod members;
mod multicast;
mod nat;
mod passed;
mod path;
mod prefix_map;
mod probe;
mod purge;
mod redirect;
mod requesters;
mod resolve;
mod resume;
mod rng;
mod routes;
mod rules;
mod server;
mod shortcut;
mod snapshot;
mod table;
mod timers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;
use rustc_hash::FxBuildHasher;

pub use client::KnownHub;
pub use config::{
    AddressRequest, ChildHub, Config, External, Nhs, Phase, Pool, Secret, StaticBinding, Uniqueness,
};
pub use counters::{ByType, Counters, DropReason};
pub use event::Event;
pub use io::{Across, Input, LinkId, Onward, Origin, Output, RouteKind, Time};
pub use members::{Member, Members};
pub use multicast::Multicast;
pub use redirect::inner_addresses;
pub use rules::Rule;
pub use snapshot::{
    AnnouncedState, BindingState, ClaimState, HubListState, LeaseState, NhsPhase, NhsState, RequesterState,
    ShortcutPhase, ShortcutState, Snapshot, Source,
};

use crate::wire::{
    Authentication, Builder, Cie, DecodeError, Embedded, ErrorCode, Header, MAX_HOPS, Packet, PacketType,
    Software, ext, same_secret,
};
use limit::{Bucket, Budget, Budgets, Limiter};
use prefix_map::PrefixMap;
use rng::Rng;
use timers::{TimerKey, Timers};

/// A hash map with a fixed seed: the same inputs give the same outputs.
type Map<K, V> = HashMap<K, V, FxBuildHasher>;

/// Bound of the side tables that others can fill: shortcuts, redirect limits, lists that come in chunks.
const TABLE_BOUND: usize = 4096;
/// Buffers that are kept for answers: as many as a burst of requests needs.
const BUFFERS: usize = 256;
/// Longest buffer that is worth keeping, in bytes.
const BUFFER_BYTES: usize = 512;
/// Old entries of side tables are looked for this often.
const SWEEP_MS: u64 = 10_000;
/// Events about drops: one a reason and peer in this time.
const DROP_EVENT_MS: u64 = 10_000;

/// NHRP for one tunnel. See the crate's documentation for how to drive it.
pub struct Engine {
    config: Config,
    rng: Rng,
    next_id: u32,
    next_uid: u32,
    outputs: VecDeque<Output>,
    /// Buffers that the shell gave back, for the next answers.
    buffers: Vec<Vec<u8>>,
    timers: Timers,
    counters: Counters,
    /// Drops since the last event, by reason and peer.
    drop_log: Map<(DropReason, Option<IpAddr>), (Time, u64)>,
    bindings: table::Table<IpAddr, bindings::Binding>,
    /// Underlay addresses that bindings lead to: what no route may lead into the tunnel.
    ends: BTreeMap<IpAddr, bindings::End>,
    /// Requesters at all bindings.
    told: usize,
    /// Prefixes of others that lead to a binding: registered, external, static.
    prefixes: PrefixMap<routes::Owner>,
    /// Who else tells such a prefix, in the order of arrival.
    rivals: PrefixMap<Vec<IpAddr>>,
    hubs: Vec<client::Hub>,
    /// Lists of hubs that NHSs told us, the latest first.
    hub_lists: Vec<HubListState>,
    /// Overlay address of the best NHS, IPv4 and IPv6.
    gateway: (Option<IpAddr>, Option<IpAddr>),
    /// Overlay addresses that we have, or ask for, in band.
    asks_for: Vec<assign::Ask>,
    /// Overlay addresses that we assigned.
    leases: lease::Leases,
    /// Identities that are authenticated at an underlay address.
    identities: Map<IpAddr, BTreeSet<String>>,
    /// Registered addresses, and who has them.
    claims: Map<IpAddr, members::Claim>,
    /// Prefixes that NHSs told us, with the route in force.
    announced: PrefixMap<learn::Announced>,
    shortcuts: PrefixMap<shortcut::Shortcut>,
    /// Resolution requests of ours: id → shortcut.
    asks: Map<u32, IpNet>,
    /// Failures by destination, for the back-off.
    failures: Map<IpAddr, shortcut::Failures>,
    probes: Map<IpAddr, probe::Probe>,
    /// First overlay address registered from behind a NAT address.
    natted: Map<IpAddr, IpAddr>,
    /// Ways to egresses, by overlay address.
    paths: Map<IpAddr, path::Path>,
    purges: Map<u32, purge::Job>,
    /// Requests of others that we passed on.
    forwarded: passed::Passed,
    /// Our own requests that were answered lately.
    answered: VecDeque<u32>,
    announcer: announce::Announcer,
    redirects: Limiter<(IpAddr, IpAddr)>,
    redirect_budget: Bucket,
    budgets: Budgets,
    resolve_budget: Bucket,
    /// Refused claims, by overlay address and claimant: told as rarely as drops.
    refusals_told: Limiter<(IpAddr, IpAddr)>,
    groups_told: Limiter<IpAddr>,
    /// The timer that looks for old entries runs.
    sweeps: bool,
    withdrawing: bool,
    withdrawn: bool,
    /// The rule that does not hold.
    #[cfg(feature = "faults")]
    broken: Option<Rule>,
}

impl Engine {
    /// Starts with empty tables: installs what the configuration says and registers at once.
    ///
    /// `seed` is where request ids and jitter start; take a different one at each start.
    pub fn new(config: Config, seed: u64, now: Time) -> Self {
        let mut engine = Self::empty(config, seed, now);
        engine.config = engine.with_assigned(now, engine.config.clone());
        engine.install_configured(now);
        engine.choose_hubs(now);
        engine
    }

    /// Resumes after a restart: `elapsed_ms` have passed since the snapshot was taken. Puts out an installation for
    /// all that still holds, which the shell compares with the kernel, and registers at once.
    pub fn restore(config: Config, snapshot: &Snapshot, elapsed_ms: u64, seed: u64, now: Time) -> Self {
        let mut engine = Self::empty(config, seed, now);
        engine.resume(now, snapshot, elapsed_ms);
        engine
    }

    /// A packet came in: what stands after the GRE header.
    pub fn handle_packet(&mut self, now: Time, from: Origin, bytes: &[u8]) {
        if from.link != self.config.link {
            return self.drop(now, DropReason::WrongLink, Some(from.nbma));
        }
        if from.nbma == across::BESIDE {
            // That address is ours, and no packet's.
            return self.drop(now, DropReason::WrongSender, Some(from.nbma));
        }
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(error) => return self.drop(now, decode_reason(error), Some(from.nbma)),
        };
        self.counters.received.count(packet.header().packet_type);
        let Some(secret) = self.authenticate(now, from.nbma, &packet) else { return };
        let received = Received { packet: &packet, from: from.nbma, secret };
        if !self.is_affordable(now, &received) {
            return self.drop(now, DropReason::RateLimited, Some(from.nbma));
        }
        match packet.header().packet_type {
            PacketType::ResolutionRequest => self.resolution_request(now, &received),
            PacketType::ResolutionReply => self.resolution_reply(now, &received),
            PacketType::RegistrationRequest => self.registration_request(now, &received),
            PacketType::RegistrationReply => self.registration_reply(now, &received),
            PacketType::PurgeRequest => self.purge_request(now, &received),
            PacketType::PurgeReply => self.purge_reply(now, &received),
            PacketType::ErrorIndication => self.error_indication(now, &received),
            PacketType::TrafficIndication => self.traffic_indication(now, &received),
        }
        self.settle_list(now);
    }

    /// The shell has something to say.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        match input {
            Input::Configure(config) => self.configure(now, *config),
            Input::Nbma { link, nbma } if link == self.config.link => self.nbma_changed(now, nbma),
            Input::Hairpin { link, packet } if link == self.config.link => self.hairpin(now, &packet),
            Input::Crossing { link, packet, onward } if link == self.config.link => {
                self.crossing(now, &packet, onward);
            }
            Input::Stranded(across) => self.stranded(now, &across),
            Input::ResolveNeeded { link, overlay } if link == self.config.link => {
                self.resolve_needed(now, overlay);
            }
            Input::Nbma { .. }
            | Input::Hairpin { .. }
            | Input::Crossing { .. }
            | Input::ResolveNeeded { .. } => {
                self.drop(now, DropReason::WrongLink, None);
            }
            Input::Use { prefix, used } => self.shortcut_use(now, prefix, used),
            Input::Identities { nbma, identities } => self.identities_changed(nbma, identities),
            Input::Confirm => self.register_now(now),
            Input::Withdraw => self.withdraw(now),
        }
        self.settle_list(now);
    }

    /// Time has passed: does all that is due.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some((key, armed)) = self.timers.pop(now) {
            match key {
                TimerKey::Assign(ipv6) => self.assign_due(now, ipv6),
                TimerKey::Registration(uid) => self.registration_due(now, uid),
                TimerKey::Silence(uid) => self.silence_due(now, uid),
                TimerKey::Hubs => self.choose_hubs(now),
                TimerKey::Binding(overlay) => self.binding_due(now, overlay, armed),
                TimerKey::Probe(overlay) => self.probe_due(now, overlay),
                TimerKey::Path(via) => self.path_due(now, via),
                TimerKey::Flush => self.flush_announcements(now),
                TimerKey::Push(overlay) => self.push_due(now, overlay),
                TimerKey::Shortcut(prefix) => self.shortcut_due(now, prefix),
                TimerKey::Purge(id) => self.purge_due(now, id),
                TimerKey::Withdraw => self.withdraw_done(),
                TimerKey::Sweep => self.sweep(now),
            }
        }
        self.settle_list(now);
    }

    /// The next thing to do; call until it gives `None`, after every other call.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Takes back the buffer of a packet that was sent, so that the next answer needs none of its own. A shell may
    /// keep them.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        if self.buffers.len() < BUFFERS && buffer.capacity() <= BUFFER_BYTES {
            self.buffers.push(buffer);
        }
    }

    /// When to call [`Engine::handle_timeout`] next; changes with every other call.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    fn empty(config: Config, seed: u64, now: Time) -> Self {
        let mut rng = Rng::new(seed);
        let next_id = rng.next() as u32;
        let generation = rng.next() as u32;
        Self {
            config,
            rng,
            next_id,
            next_uid: 0,
            outputs: VecDeque::new(),
            buffers: Vec::new(),
            timers: Timers::default(),
            counters: Counters::default(),
            drop_log: Map::default(),
            bindings: table::Table::default(),
            ends: BTreeMap::new(),
            told: 0,
            prefixes: PrefixMap::new(),
            rivals: PrefixMap::new(),
            hubs: Vec::new(),
            hub_lists: Vec::new(),
            gateway: (None, None),
            asks_for: Vec::new(),
            leases: lease::Leases::new(now),
            identities: Map::default(),
            claims: Map::default(),
            announced: PrefixMap::new(),
            shortcuts: PrefixMap::new(),
            asks: Map::default(),
            failures: Map::default(),
            probes: Map::default(),
            natted: Map::default(),
            paths: Map::default(),
            purges: Map::default(),
            forwarded: passed::Passed::default(),
            answered: VecDeque::new(),
            announcer: announce::Announcer::starting_at(generation),
            redirects: Limiter::new(redirect::PAIR_INTERVAL_MS, TABLE_BOUND),
            redirect_budget: Bucket::new(redirect::PER_SECOND, redirect::PER_SECOND, now),
            budgets: Budgets::new(now),
            resolve_budget: Bucket::new(glean::PER_SECOND, glean::BURST, now),
            refusals_told: Limiter::new(DROP_EVENT_MS, TABLE_BOUND),
            groups_told: Limiter::new(DROP_EVENT_MS, TABLE_BOUND),
            sweeps: false,
            withdrawing: false,
            withdrawn: false,
            #[cfg(feature = "faults")]
            broken: None,
        }
    }

    /// Checks the password: `Some` with the one that fitted (if any is asked for), `None` if the packet is dropped.
    fn authenticate(&mut self, now: Time, from: IpAddr, packet: &Packet<'_>) -> Option<Option<usize>> {
        if self.config.authentication.is_empty() {
            return Some(None);
        }
        let mut given = packet.extensions().filter(|extension| extension.kind == ext::AUTHENTICATION);
        let value = match (given.next(), given.next()) {
            (Some(extension), None) => Some(extension.value),
            // RFC 2332 forbids extensions on errors: they are matched with what we sent instead.
            (None, _) if packet.header().packet_type == PacketType::ErrorIndication => return Some(None),
            _ => None,
        };
        let mut fitting = None;
        if let Some(Authentication::ClearText(given)) = value.and_then(Authentication::read) {
            for (index, password) in self.config.authentication.iter().enumerate() {
                if same_secret(given, password.as_bytes()) {
                    fitting = fitting.or(Some(index));
                }
            }
        }
        if fitting.is_some() || !self.enforced(Rule::Password) {
            return Some(fitting);
        }
        self.drop(now, DropReason::Authentication, Some(from));
        if packet.header().packet_type == PacketType::RegistrationReply {
            self.reply_unproven(from, packet.header().request_id);
        }
        let answered = !matches!(
            packet.header().packet_type,
            PacketType::ErrorIndication | PacketType::TrafficIndication
        );
        if answered {
            self.send_error(now, from, packet, ErrorCode::AuthenticationFailure);
        }
        None
    }

    /// Whether the sender has not used up what it may ask of us. Replies and indications cost nothing unless they
    /// are awaited.
    fn is_affordable(&mut self, now: Time, received: &Received<'_>) -> bool {
        let (budget, count) = match received.header().packet_type {
            PacketType::RegistrationRequest => (Budget::Registration, received.packet.entries().max(1)),
            PacketType::ResolutionRequest | PacketType::PurgeRequest => (Budget::Request, 1),
            _ => return true,
        };
        if self.is_hub(received.from) {
            return true;
        }
        self.sweep_soon(now);
        self.budgets.take(now, received.from, budget, count)
    }

    /// Counts a drop, and tells of it unless that was done lately.
    fn drop(&mut self, now: Time, reason: DropReason, from: Option<IpAddr>) {
        *self.counters.drops.entry(reason).or_insert(0) += 1;
        let mut peer = from;
        if self.drop_log.len() >= TABLE_BOUND && !self.drop_log.contains_key(&(reason, peer)) {
            // Too many peers to tell apart: one event for all the others.
            peer = None;
        }
        self.sweep_soon(now);
        let (last, count) = self.drop_log.entry((reason, peer)).or_insert((Time(0), 0));
        *count += 1;
        // A time of 0 is "never": the first drop is always told.
        if *last != Time(0) && now.since(*last) < DROP_EVENT_MS {
            return;
        }
        let told = std::mem::take(count);
        *last = Time(now.0.max(1));
        self.outputs.push_back(Output::Event(Event::Dropped { reason, from: peer, count: told }));
    }

    /// Old entries of the side tables are looked for in a while.
    fn sweep_soon(&mut self, now: Time) {
        if !std::mem::replace(&mut self.sweeps, true) {
            self.timers.arm(TimerKey::Sweep, now.after(SWEEP_MS));
        }
    }

    /// Throws old entries out of the side tables.
    fn sweep(&mut self, now: Time) {
        self.sweeps = false;
        let mut told = Vec::new();
        self.drop_log.retain(|(reason, from), (last, count)| {
            if now.since(*last) < DROP_EVENT_MS {
                return true;
            }
            if *count > 0 {
                told.push(Event::Dropped { reason: *reason, from: *from, count: *count });
            }
            false
        });
        told.into_iter().for_each(|event| self.event(event));
        self.forwarded.sweep(now);
        self.failures.retain(|_, failures| failures.forget > now);
        let busy = self.budgets.sweep(now);
        if busy || !(self.drop_log.is_empty() && self.forwarded.is_empty() && self.failures.is_empty()) {
            self.sweep_soon(now);
        }
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Sends a packet of our own.
    fn send(&mut self, packet_type: PacketType, to: IpAddr, bytes: Vec<u8>) {
        self.counters.sent.count(packet_type);
        self.outputs.push_back(Output::Send { link: self.config.link, to, bytes });
    }

    /// Starts a packet in a buffer that was used before, if there is one.
    fn builder(&mut self, header: &Header) -> Builder {
        match self.buffers.pop() {
            Some(buffer) => Builder::reuse(buffer, header),
            None => Builder::new(header),
        }
    }

    fn new_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        id
    }

    /// Our overlay address of the family of `like`.
    fn local_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.config.local.iter().copied().find(|local| local.is_ipv4() == like.is_ipv4())
    }

    fn is_local(&self, address: IpAddr) -> bool {
        self.config.local.contains(&address)
    }

    /// Whether we are the egress for this address: our own, or one behind us (and not, more closely, behind a spoke:
    /// a hub's subnets may be summaries).
    fn is_ours(&self, address: IpAddr) -> bool {
        if self.is_local(address) {
            return true;
        }
        let longest =
            |nets: &[IpNet]| nets.iter().filter(|net| net.contains(&address)).map(IpNet::prefix_len).max();
        let own = longest(&self.config.subnets);
        let beside = longest(&self.config.beside);
        let host = matches!(self.bindings.get(&address), Some(binding) if binding.source != Source::Local);
        let spoke = self.prefixes.longest(address).map(|(prefix, _)| prefix.prefix_len());
        !host && ((own.is_some() && own >= spoke) || (beside.is_some() && beside > spoke))
    }

    /// Whether an overlay address may be a member's: it lies in the overlay, or is routed by an NHS of ours, which tells
    /// the overlays beside its own.
    fn may_be_member(&self, overlay: IpAddr) -> bool {
        let told = || {
            self.announced
                .longest(overlay)
                .is_some_and(|(prefix, it)| !self.is_gathering(prefix) && it.via.is_some())
        };
        self.config.overlay.iter().any(|net| net.contains(&overlay)) || !self.config.server && told()
    }

    /// Whether `nbma` is where one of our NHSs is.
    fn is_nhs(&self, nbma: IpAddr) -> bool {
        self.hubs.iter().any(|hub| hub.nbma() == Some(nbma))
    }

    /// Entry that describes ourselves.
    fn own_cie(&self, local: IpAddr) -> Cie {
        Cie {
            holding_time: self.config.holding_time,
            mtu: self.config.mtu,
            nbma: self.config.nbma,
            proto: Some(local),
            ..Cie::default()
        }
    }

    /// The same as Cisco writes it into the responder extension: with the host's prefix length.
    fn responder_cie(&self, local: IpAddr) -> Cie {
        Cie { prefix_len: if local.is_ipv4() { 32 } else { 128 }, ..self.own_cie(local) }
    }

    /// A packet of ours: header with our NBMA address, full hop count.
    fn header(&self, packet_type: PacketType, id: u32, src: IpAddr, dst: IpAddr) -> Option<Header> {
        let src_nbma = self.config.nbma?;
        Some(Header {
            packet_type,
            hop_count: MAX_HOPS,
            flags: 0,
            request_id: id,
            src_nbma,
            src_proto: src,
            dst_proto: dst,
        })
    }

    /// Adds the empty extensions that every request of ours carries, and the password: 3, 4, 5, [7].
    fn request_extensions(&self, builder: Builder) -> Builder {
        let builder = builder
            .extension(true, ext::RESPONDER, &[])
            .extension(true, ext::FORWARD_RECORD, &[])
            .extension(true, ext::REVERSE_RECORD, &[]);
        self.authenticated(builder, None)
    }

    /// Adds the password that the peer used (`secret`), or the first.
    fn authenticated(&self, builder: Builder, secret: Option<usize>) -> Builder {
        match self.config.authentication.get(secret.unwrap_or(0)) {
            Some(password) => builder.authentication(password.as_bytes()),
            None => builder,
        }
    }
}

impl fmt::Debug for Engine {
    /// Sizes only: packets that wait bear the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("local", &self.config.local)
            .field("bindings", &self.bindings.len())
            .field("shortcuts", &self.shortcuts.len())
            .finish_non_exhaustive()
    }
}

/// A packet that was read and whose sender knew the password.
pub(crate) struct Received<'a> {
    packet: &'a Packet<'a>,
    /// Outer source address.
    from: IpAddr,
    /// Which of our passwords it carried.
    secret: Option<usize>,
}

impl Received<'_> {
    fn header(&self) -> &Header {
        self.packet.header()
    }

    /// What the sender says of itself; nothing if it is of another make, or says it in a form that we do not know.
    fn software(&self) -> Option<Software> {
        Software::decode(self.packet.extension(ext::SOFTWARE)?.value)
    }
}

fn decode_reason(error: DecodeError) -> DropReason {
    match error {
        DecodeError::Checksum => DropReason::BadChecksum,
        DecodeError::Version(_) => DropReason::BadVersion,
        DecodeError::Type(_) => DropReason::UnknownType,
        _ => DropReason::Malformed,
    }
}
